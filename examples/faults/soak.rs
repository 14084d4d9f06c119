//! A long time of load with faults, in which neither memory nor descriptors may rise: row 22 of the reliability table.
//!
//! The data set is bounded, so a process that holds more and more of anything holds what nobody needs. One node is never
//! killed, one only in the first quarter of the time, and the third again and again; all are paused and cut off. So there
//! is a life as long as the run, with hundreds of lives of its peer in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::Rng;

use super::churn::Churn;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};
use super::vitals::{Life, Vitals, descriptors};
use super::weather;

const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Marks of idempotency keys are kept for ten minutes; the feed's rings fill up in less, with `MEMORY_BYTES`.
const WARM_UP: Duration = Duration::from_secs(12 * 60);
/// A life that was watched for less, after the warm-up, isn't judged: what a moment's load holds is more than the bar.
const WATCHED_MIN: Duration = Duration::from_secs(20 * 60);
/// Of `[limits] memory`: rings take an eighth of it at most.
const MEMORY_BYTES: u64 = 128 << 20;
const PERCENT_AN_HOUR_MAX: f64 = 1.0;
/// Once the clients are gone, the oldest process has as many descriptors as the youngest one. A connection to a peer may
/// just be replaced by another one, each way.
const DESCRIPTORS_MORE_MAX: u64 = 2 * (NODES as u64 - 1);
/// Longer than any connection is kept that nobody uses.
const QUIET: Duration = Duration::from_secs(15);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const AWAY_MAX: Duration = Duration::from_millis(1500);
const REST_MIN: Duration = Duration::from_secs(2);
const REST_SPREAD: Duration = Duration::from_secs(8);

/// The nodes by what may happen to them.
const NEVER_KILLED: usize = 0;
const KILLED_AT_FIRST: usize = 1;
const KILLED_ALWAYS: usize = 2;

#[derive(Default)]
struct Harms {
    kills: usize,
    pauses: usize,
    cuts: usize,
}

/// Load with faults for `time`.
pub fn run(time: Duration, seed: u64) -> Row {
    let warm_up = WARM_UP.min(time / 3);
    let bar = format!("memory of a process: at most {PERCENT_AN_HOUR_MAX} %/h more; descriptors flat; nothing lost");
    let mut row = Row::new("soak", String::new(), &bar);
    let setting = Setting {
        memory_bytes: Some(MEMORY_BYTES),
        pause: Duration::from_millis(20),
        ..Setting { relayed: true, ..Setting::light(seed) }
    };
    let mut stage = Stage::set(&setting);
    let keys_at_first = stage.history.len();
    let ports: Vec<u16> = (0..NODES).map(|node| stage.cluster.port(node)).collect();
    let (churn, vitals) = (Churn::start(&ports, seed), Vitals::watch(NODES, SAMPLE_EVERY));
    (0..NODES).for_each(|node| vitals.set_process(node, Some(stage.cluster.process(node).id())));
    let (mut rng, begin, mut harms, mut times) = (Rng::new(seed), Instant::now(), Harms::default(), Vec::new());
    while begin.elapsed() < time {
        thread::sleep(REST_MIN + rng.duration(REST_SPREAD));
        let what = one_harm(&mut stage, &vitals, &mut harms, begin.elapsed() < time / 4, &mut rng);
        times.push(stage.wait_until_writable());
        stage.cluster.wait_until_whole();
        stage.check_keys(false);
        say(&format!("soak: {what}; {}; {} s left", newest(&vitals), time.saturating_sub(begin.elapsed()).as_secs()));
    }
    let lives = vitals.end();
    row.done = format!(
        "{} kills, {} pauses, {} cuts in {time:?}, beside clients, viewers and connections that come and go; the first \
         {warm_up:?} of each process don't count",
        harms.kills, harms.pauses, harms.cuts
    );
    let keys_left = stage.history.len() - keys_at_first;
    row.notes.push(format!("the load left {keys_left} keys behind whose value nobody knows, and went on with others"));
    end_clients(&mut row, &mut stage, churn);
    judge(&mut row, &lives, warm_up);
    row.times.extend(Times::of("from the end of a fault to writes of all keys", times));
    stage.end(&mut row);
    row
}

fn newest(vitals: &Vitals) -> String {
    let newest = vitals.newest();
    let texts = newest.iter().map(|(node, sample)| {
        let mebibytes = sample.resident_bytes as f64 / f64::from(1 << 20);
        format!("n{} {mebibytes:.1} MiB, {} descriptors", node + 1, sample.descriptors)
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// Does one thing, and puts an end to it.
fn one_harm(stage: &mut Stage, vitals: &Vitals, harms: &mut Harms, is_early: bool, rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => {
            let victim = if is_early && rng.chance(500_000) { KILLED_AT_FIRST } else { KILLED_ALWAYS };
            harms.kills += 1;
            vitals.set_process(victim, None);
            stage.cluster.kill(&[victim]);
            thread::sleep(rng.duration(AWAY_MAX));
            stage.cluster.spawn(victim);
            vitals.set_process(victim, Some(stage.cluster.process(victim).id()));
            format!("n{} killed", victim + 1)
        }
        1 => {
            let (victim, time) = (rng.below(NODES as u64) as usize, rng.duration(PAUSE_MAX));
            harms.pauses += 1;
            stage.stand_still(victim, time);
            format!("n{} stopped for {} ms", victim + 1, time.as_millis())
        }
        _ => {
            let round = weather::round(rng, NODES);
            harms.cuts += 1;
            stage.relays().cut(&round.cuts);
            thread::sleep(round.lasts);
            stage.relays().heal();
            round.what
        }
    }
}

/// Sends all clients away, and sees whether what was opened for them is closed.
fn end_clients(row: &mut Row, stage: &mut Stage, churn: Churn) {
    let counts = churn.counts();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    row.notes.push(format!(
        "beside the load {} clients did {} operations, of which {} weren't done at the time, and {} viewers were shown {} \
         events",
        count(&counts.clients),
        count(&counts.operations) + count(&counts.refused),
        count(&counts.refused),
        count(&counts.viewers),
        count(&counts.events)
    ));
    row.require(count(&counts.operations) > 0 && count(&counts.events) > 0, Verdict::Skipped, || {
        "the clients beside the load did nothing".to_owned()
    });
    churn.stop();
    stage.load.stop();
    stage.cluster.wait_until_whole();
    thread::sleep(QUIET);
    let open =
        [NEVER_KILLED, KILLED_ALWAYS].map(|node| descriptors(stage.cluster.process(node).id()).unwrap_or_default());
    let [old, young] = open;
    row.notes
        .push(format!("with the clients gone the oldest process has {old} descriptors open, the youngest {young}"));
    row.require(old <= young + DESCRIPTORS_MORE_MAX, Verdict::Missed, || "the oldest one keeps descriptors".to_owned());
}

fn judge(row: &mut Row, lives: &[Life], warm_up: Duration) {
    let mut judged = 0;
    for life in lives {
        let (Some(memory), Some(open)) = (life.memory(warm_up), life.descriptors(warm_up)) else { continue };
        let (watched, name) = (life.watched(warm_up), life.node + 1);
        let (percent, open_percent) = (memory.percent_per_hour(), open.percent_per_hour());
        row.notes.push(format!(
            "n{name}, watched for {} min after its warm-up: {:.1} MiB resident, {percent:+.2} ± {:.2} %/h; {:.0} \
             descriptors, {open_percent:+.1} ± {:.1} %/h",
            watched.as_secs() / 60,
            memory.mean / f64::from(1 << 20),
            100.0 * memory.error_per_hour / memory.mean.max(1.0),
            open.mean,
            100.0 * open.error_per_hour / open.mean.max(1.0),
        ));
        if watched < WATCHED_MIN {
            continue;
        }
        judged += 1;
        row.require(percent <= PERCENT_AN_HOUR_MAX, Verdict::Missed, || format!("n{name}: memory rises"));
        // How many clients are connected goes up and down by chance; twice the error is within it.
        let is_flat = open.per_hour <= 1.0_f64.max(2.0 * open.error_per_hour);
        row.require(is_flat, Verdict::Missed, || format!("n{name}: descriptors rise"));
    }
    row.notes.push(format!("{} processes in all, {judged} of them judged", lives.len()));
    row.require(judged > 0, Verdict::Skipped, || {
        let minutes = (WARM_UP + WATCHED_MIN).as_secs() / 60;
        format!("a first look only: it takes more than {minutes} minutes to judge")
    });
}
