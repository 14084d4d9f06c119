//! A primary is cut off together with clients that stay at its gateway: row 3 of the reliability table.
//!
//! Clients of that node write and read keys that it leads. Once it is cut off they must soon be told nothing any more that
//! sounds like an acknowledgement, or like a read that isn't marked, for behind the cut others go on with the same keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::failover::{Primaries, settle};
use super::history::{Entry, History, Outcome};
use super::http::Http;
use super::load;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};
use super::weather::{Cut, around};

const WRITERS: usize = 3;
const READERS: usize = 3;
/// Before the cut, so that everybody is at work.
const CALM: Duration = Duration::from_millis(400);
/// Long enough for the others to go on, and for degraded reads to begin.
const LASTS: Duration = Duration::from_millis(1500);
const DEADLINE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(2);
const BOUND_MS: [(&str, u128); 1] = [("worst", 300)];

/// Clients that know only one gateway.
struct Attached {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Option<Instant>>>,
    readers: Vec<JoinHandle<Option<Instant>>>,
}

impl Attached {
    fn start(stage: &Stage, primaries: &Primaries, victim: usize, round: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let names = |client: usize| {
            let all = (0..).map(move |nth| format!("isolated/{round}/{client}/{nth}"));
            all.filter(|key| primaries.of(key) == victim).take(64).collect::<Vec<_>>()
        };
        let (mut writers, mut readers, mut first_keys) = (Vec::new(), Vec::new(), Vec::new());
        for client in 0..WRITERS {
            let entries: Vec<_> = names(client).into_iter().map(|key| stage.history.open(key)).collect();
            first_keys.push(Arc::clone(&entries[0]));
            let (history, http, stop) = (Arc::clone(&stage.history), stage.cluster.http(victim), Arc::clone(&stop));
            writers.push(thread::spawn(move || keep_writing(&history, http, &entries, &stop)));
        }
        for client in 0..READERS {
            let entry = Arc::clone(&first_keys[client % WRITERS]);
            let (history, http, stop) = (Arc::clone(&stage.history), stage.cluster.http(victim), Arc::clone(&stop));
            readers.push(thread::spawn(move || keep_reading(&history, http, &entry, &stop)));
        }
        Self { stop, writers, readers }
    }

    /// When the last write was acknowledged, and when the last read was answered without a mark.
    fn stop(self) -> [Option<Instant>; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let last = |clients: Vec<JoinHandle<Option<Instant>>>| {
            clients.into_iter().filter_map(|client| client.join().expect("a client works")).max()
        };
        [last(self.writers), last(self.readers)]
    }
}

/// Counts up the first key, and the next one where nobody knows what became of a write.
fn keep_writing(history: &History, mut http: Http, entries: &[Arc<Entry>], stop: &AtomicBool) -> Option<Instant> {
    let (mut last, mut open) = (None, entries.iter());
    let mut entry = open.next()?;
    while !stop.load(Ordering::Relaxed) {
        let Some(number) = history.begin_write(entry) else {
            entry = open.next()?;
            continue;
        };
        let outcome = load::write(&mut http, &entry.key, number, DEADLINE);
        if let Outcome::Acknowledged { .. } = outcome {
            last = Some(Instant::now());
        }
        history.end_write(entry, outcome);
        thread::sleep(PAUSE);
    }
    last
}

fn keep_reading(history: &History, mut http: Http, entry: &Entry, stop: &AtomicBool) -> Option<Instant> {
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let floor = history.begin_read(entry);
        let found = load::read(&mut http, &entry.key, DEADLINE);
        if found.is_some() {
            last = Some(Instant::now());
        }
        history.end_read(entry, floor, found);
        thread::sleep(PAUSE);
    }
    last
}

/// How long after the cut something was last heard. Nothing at all, or nothing in the last of the calm before it, says
/// that nobody was attached, and so nothing was tried.
fn after_the_cut(cut: Instant, last: Option<Instant>) -> Option<Duration> {
    last.filter(|last| *last + CALM / 2 >= cut).map(|last| last.saturating_duration_since(cut))
}

pub fn run(rounds: usize, seed: u64) -> Row {
    let done = format!(
        "{rounds} times a primary is cut off for {LASTS:?} with {WRITERS} writers and {READERS} readers at its gateway"
    );
    let bar = "its last acknowledgement, and last read without a mark, ≤ 300 after the cut; 0 lost";
    let mut row = Row::new("isolate", done, bar);
    let (mut stage, primaries) = (Stage::set(&Setting::relayed(seed)), Primaries::targets());
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        settle(&stage, &primaries);
        let leader = stage.cluster.leader();
        // Every second time it is the leader; else the others in turn.
        let victim = if round % 2 == 0 { leader } else { (leader + 1 + round / 2 % 2) % NODES };
        let attached = Attached::start(&stage, &primaries, victim, round);
        thread::sleep(CALM);
        let cut = Instant::now();
        stage.relays().cut(&around(victim, NODES, Cut::BOTH));
        thread::sleep(LASTS);
        let seen = attached.stop().map(|last| after_the_cut(cut, last));
        stage.relays().heal();
        stage.cluster.wait_until_whole();
        stage.check_keys(false);
        let [write, read] = seen.map(|time| time.map_or("none".to_owned(), |time| format!("{} ms", time.as_millis())));
        say(&format!(
            "isolate, round {} of {rounds}: n{}{}: last acknowledgement {write}, last read {read} after the cut",
            round + 1,
            victim + 1,
            if victim == leader { ", the leader" } else { "" },
        ));
        row.require(seen.iter().all(Option::is_some), Verdict::Missed, || {
            format!("round {}: nothing was written or read at n{} before the cut", round + 1, victim + 1)
        });
        writes.extend(seen[0]);
        reads.extend(seen[1]);
    }
    row.require_times(Times::of("last acknowledgement after the cut", writes), &BOUND_MS);
    row.require_times(Times::of("last read without a mark after the cut", reads), &BOUND_MS);
    stage.end(&mut row);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_long_before_the_cut_proves_nothing() {
        let start = Instant::now();
        let cut = start + CALM;
        assert_eq!(after_the_cut(cut, None), None);
        assert_eq!(after_the_cut(cut, Some(start)), None);
        assert_eq!(after_the_cut(cut, Some(cut - Duration::from_millis(1))), Some(Duration::ZERO));
        assert_eq!(after_the_cut(cut, Some(cut + Duration::from_millis(70))), Some(Duration::from_millis(70)));
    }
}
