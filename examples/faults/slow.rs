//! A backup that gets hardly any processor time: row 16 of the reliability table.
//!
//! Its process is stopped for 95 of every 100 ms, so it gets bursts of 5 ms: harder than a share of 5 % that a scheduler
//! deals out evenly, and nothing that needs a kernel's help. No client uses its gateway. What is measured are writes of
//! keys whose first backup it is, at the gateways of their primaries.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jumpgate::placement;

use super::failover::{Primaries, owners, settle};
use super::history::{History, Outcome};
use super::http::Http;
use super::load;
use super::processes::until;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, PARTITIONS, Setting, Stage};
use super::statistics::Distribution;

const VICTIM: usize = NODES - 1;
const WRITERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const OUT_WITHIN: Duration = Duration::from_secs(2);

/// A process that runs for 5 of every 100 ms while this value lives.
struct Throttle {
    shell: Child,
    victim: u32,
}

impl Throttle {
    fn start(victim: u32) -> Self {
        let turn = format!("while kill -s STOP {victim}; do sleep 0.095; kill -s CONT {victim}; sleep 0.005; done");
        let mut shell = Command::new("sh");
        shell.args(["-c", &turn]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { shell: shell.spawn().expect("a shell"), victim }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let _ = Command::new("sh").arg("-c").arg(format!("kill -s CONT {}", self.victim)).status();
    }
}

/// Writers of keys whose first backup is the victim.
struct Writers {
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(stage: &Stage) -> Self {
        let (stop, times) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let threads: Vec<_> = (0..WRITERS)
            .map(|nth| {
                let primary = nth % (NODES - 1);
                let (http, history) = (stage.cluster.http(primary), Arc::clone(&stage.history));
                let (stop, times) = (Arc::clone(&stop), Arc::clone(&times));
                thread::spawn(move || keep_writing(http, &history, primary, nth, &stop, &times))
            })
            .collect();
        Self { stop, times, threads }
    }

    /// How long the writes took that ended since the last call, in whatever way.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client works"));
    }
}

fn keep_writing(
    mut http: Http,
    history: &History,
    primary: usize,
    nth: usize,
    stop: &AtomicBool,
    times: &Mutex<Vec<Duration>>,
) {
    let names = (0..).map(|number| format!("slow/{nth}/{number}"));
    let mut names = names.filter(|key| {
        let owners = owners(placement::partition_of(key.as_bytes(), PARTITIONS).0);
        owners[..2] == [primary, VICTIM]
    });
    let mut entries: Vec<_> = names.by_ref().take(16).map(|name| history.open(name)).collect();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        turn = (turn + 1) % entries.len();
        let Some(number) = history.begin_write(&entries[turn]) else {
            entries[turn] = history.open(names.next().expect("names without an end"));
            continue;
        };
        let began = Instant::now();
        let outcome = load::write(&mut http, &entries[turn].key, number, DEADLINE);
        history.end_write(&entries[turn], outcome);
        // A refusal isn't fast because it came soon.
        let took = if matches!(outcome, Outcome::Acknowledged { .. }) { began.elapsed() } else { DEADLINE };
        times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        thread::sleep(PAUSE);
    }
}

/// When a backup was in no in-sync set, of samples since the beginning.
#[derive(Debug, Default)]
struct Membership {
    out_after: Option<Duration>,
    late: usize,
    late_and_out: usize,
}

impl Membership {
    fn note(&mut self, since: Duration, in_sync: u32) {
        let is_out = in_sync == 0;
        if is_out && self.out_after.is_none() {
            self.out_after = Some(since);
        }
        self.late += usize::from(since > OUT_WITHIN);
        self.late_and_out += usize::from(is_out && since > OUT_WITHIN);
    }

    /// Whether it was out in time, and stayed out.
    fn is_out_for_good(&self) -> bool {
        self.out_after.is_some_and(|after| after <= OUT_WITHIN) && self.late > 0 && self.late == self.late_and_out
    }
}

/// Row 16.
pub fn backup(time: Duration, seed: u64) -> Row {
    let done = format!(
        "a backup that doesn't lead is stopped for 95 of every 100 ms, for {time:?}; writes of keys whose backup it is"
    );
    let mut row = Row::new("slow backup", done, "p99 ≤ 3 × quiet, or out of all in-sync sets within 2 s");
    let (stage, primaries) =
        (Stage::set(&Setting { avoided: Some(VICTIM), ..Setting::light(seed) }), Primaries::targets());
    settle(&stage, &primaries);
    if stage.cluster.leader() == VICTIM {
        let head = "POST /v1/admin/transfer\r\nContent-Type: application/json";
        let _ = stage.cluster.http(0).ask(head, br#"{"to":"n1"}"#);
        row.notes.push(format!("n{} led, so leadership was handed over first: a leader change", VICTIM + 1));
        until("another one leads", || (stage.cluster.leader() != VICTIM).then_some(()));
    }
    let writers = Writers::start(&stage);
    thread::sleep(Duration::from_secs(1));
    let _ = writers.take();
    thread::sleep(time);
    let quiet = writers.take();
    say(&format!("slow backup: {} writes in peace; n{} slows down", quiet.len(), VICTIM + 1));
    let throttle = Throttle::start(stage.cluster.process(VICTIM).id());
    let (begin, mut membership) = (Instant::now(), Membership::default());
    while begin.elapsed() < time {
        // The leader isn't asked by name, for it may change.
        if let Some(status) = stage.cluster.try_status(0).filter(|status| status.quorum) {
            membership.note(begin.elapsed(), status.nodes[VICTIM].in_sync);
        }
        thread::sleep(LOOK_EVERY);
    }
    drop(throttle);
    let slow = writers.take();
    writers.stop();
    judge(&mut row, quiet, slow, &membership);
    stage.end(&mut row);
    row
}

fn judge(row: &mut Row, quiet: Vec<Duration>, slow: Vec<Duration>, membership: &Membership) {
    let (quiet, slow) = (Distribution::of(quiet), Distribution::of(slow));
    let [before, after] = [&quiet, &slow].map(|times| times.percentile(99).unwrap_or(DEADLINE));
    let Membership { out_after, late, late_and_out } = membership;
    let after_millis = out_after.map_or("never".to_owned(), |after| format!("after {} ms", after.as_millis()));
    let text = format!(
        "p99 {:.2} ms in peace, {:.2} ms beside the slow backup; in no in-sync set first {after_millis}, and later in \
         {late_and_out} of {late} looks",
        before.as_secs_f64() * 1000.0,
        after.as_secs_f64() * 1000.0
    );
    row.notes.push(text);
    let is_fast = after <= 3 * before;
    row.require(is_fast || membership.is_out_for_good(), Verdict::Missed, || {
        "writes were slowed down by a backup that wasn't left out".to_owned()
    });
    row.times.extend(Times::of_distribution("writes in peace", &quiet));
    row.times.extend(Times::of_distribution("writes beside the slow backup", &slow));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(slow_ms: u64, looks: &[(u64, u32)]) -> Verdict {
        let (mut row, mut membership) = (Row::new("a", String::new(), ""), Membership::default());
        looks.iter().for_each(|(at, in_sync)| membership.note(Duration::from_millis(*at), *in_sync));
        judge(&mut row, vec![Duration::from_millis(2)], vec![Duration::from_millis(slow_ms)], &membership);
        row.verdict
    }

    #[test]
    fn a_slow_backup_must_cost_little_or_be_left_out_in_time_and_stay_out() {
        assert_eq!(verdict(6, &[(100, 9), (3000, 9)]), Verdict::Met);
        assert_eq!(verdict(7, &[(100, 9), (3000, 9)]), Verdict::Missed);
        assert_eq!(verdict(7, &[(100, 9), (1900, 0), (3000, 0)]), Verdict::Met);
        assert_eq!(verdict(7, &[(2100, 0), (3000, 0)]), Verdict::Missed, "too late");
        assert_eq!(verdict(7, &[(1900, 0), (3000, 1)]), Verdict::Missed, "it is back");
    }
}
