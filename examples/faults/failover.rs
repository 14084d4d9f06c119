//! How long writes stop when a node dies or stands still: rows 1 and 2 of the reliability table.
//!
//! One cluster lives through many trials. Each takes the leader away, or another node, while clients write and read at
//! all nodes. From that moment on a write is sent every 10 ms to each survivor for keys whose primary went, and one for
//! others; each is a request of its own on a connection of its own. T is the time from the fault to the first
//! acknowledgement. Then the node comes back, and the trial ends when everything is in sync and every key was read again.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::{Options, PartitionId, Slot, SlotSet};
use jumpgate::placement;

use super::history::{History, Outcome};
use super::http::Http;
use super::load;
use super::processes::until;
use super::report::{Row, Times};
use super::stage::{NODES, PARTITIONS, Setting, Stage};
use super::{Fault, say};

const PROBE_EVERY: Duration = Duration::from_millis(10);
/// A failover that takes longer counts as long as this.
const PROBE_FOR: Duration = Duration::from_secs(10);
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// What a paused node gets for its belated answers, before all is judged.
const AFTERMATH: Duration = Duration::from_millis(300);
/// The bar: T at default settings.
const BOUNDS_MS: [(&str, u128); 2] = [("median", 130), ("p99", 250)];

/// How long partitions may take to go back to their targets once everything is whole.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Which node is every partition's primary, where nothing has gone wrong for a while: the first of its owners.
pub struct Primaries {
    nodes: usize,
    of: Vec<usize>,
}

impl Primaries {
    pub fn targets() -> Self {
        Self::targets_of(NODES)
    }

    /// Those of a cluster of so many nodes.
    pub fn targets_of(nodes: usize) -> Self {
        let copies = Options::replicas_auto(nodes);
        let first = |partition| placement::owners(PartitionId(partition), SlotSet::first(nodes), copies).primary();
        let of = (0..PARTITIONS).map(|partition| first(partition).map_or(0, Slot::index)).collect();
        Self { nodes, of }
    }

    /// Whether each node leads as many partitions as it says.
    fn agree(&self, counts: &[u32]) -> bool {
        (0..self.nodes).all(|node| count(self, node) == counts[node] as usize)
    }

    pub fn of(&self, key: &str) -> usize {
        self.of[placement::partition_of(key.as_bytes(), PARTITIONS).index()]
    }
}

pub fn owners(partition: u16) -> Vec<usize> {
    placement::owners(PartitionId(partition), SlotSet::first(NODES), 2).iter().map(Slot::index).collect()
}

/// What was measured in all trials.
#[derive(Default)]
struct Seen {
    affected: Vec<Duration>,
    others: Vec<Duration>,
    settled: Vec<Duration>,
}

pub fn run(trials: usize, fault: Fault, pause: Duration, seed: u64) -> Row {
    let (name, what) = match fault {
        Fault::Kill => ("kill the leader", "SIGKILL".to_owned()),
        Fault::Primary => ("kill a primary", "SIGKILL, not of the leader".to_owned()),
        Fault::Pause => ("pause the leader", format!("SIGSTOP for {pause:?}, readers attached")),
    };
    let bar = "T: median ≤ 130, p99 ≤ 250; 0 lost, 0 stale";
    let mut row = Row::new(name, format!("{what}; {trials} trials"), bar);
    let setting = Setting { pinned: fault == Fault::Pause, ..Setting::light(seed) };
    let (mut stage, primaries, mut seen) = (Stage::set(&setting), Primaries::targets(), Seen::default());
    for trial in 0..trials {
        seen.settled.push(settle(&stage, &primaries));
        let [affected, others] = one_trial(&mut stage, &primaries, fault, pause, trial);
        let millis = |time: Option<Duration>| time.map_or("?".to_owned(), |time| format!("{} ms", time.as_millis()));
        say(&format!(
            "{name}, trial {} of {trials}: keys of the victim {}, other keys {}",
            trial + 1,
            millis(affected),
            millis(others)
        ));
        seen.affected.extend(affected);
        seen.others.extend(others);
    }
    row.require_times(Times::of("keys of the victim", seen.affected), &BOUNDS_MS);
    row.times.extend(Times::of("other keys", seen.others));
    row.times.extend(Times::of("from whole to every partition led by its target", seen.settled));
    stage.end(&mut row);
    row
}

/// Waits until everything is whole and every partition is led by its target; how long that took.
pub fn settle(stage: &Stage, primaries: &Primaries) -> Duration {
    let begin = Instant::now();
    stage.cluster.wait_until_whole();
    let is_back = || {
        let counts: Vec<u32> = stage.cluster.try_status(0)?.nodes.iter().map(|node| node.primaries).collect();
        primaries.agree(&counts).then_some(())
    };
    until("all partitions are led by their targets", || {
        assert!(begin.elapsed() < BACK_WITHIN, "after {BACK_WITHIN:?} some partitions aren't led by their targets");
        is_back()
    });
    begin.elapsed()
}

fn one_trial(
    stage: &mut Stage,
    primaries: &Primaries,
    fault: Fault,
    pause: Duration,
    trial: usize,
) -> [Option<Duration>; 2] {
    let leader = stage.cluster.leader();
    // The one of the others that leads more, so that its keys are found fast.
    let busiest = (0..NODES).filter(|node| *node != leader).max_by_key(|node| count(primaries, *node));
    let victim = if fault == Fault::Primary { busiest.unwrap_or(leader) } else { leader };
    let survivors: Vec<u16> = (0..NODES).filter(|node| *node != victim).map(|node| stage.cluster.port(node)).collect();
    let at = Instant::now();
    let measure = |stage: &Stage| probe(&stage.history, &survivors, trial, at, |key| primaries.of(key) == victim);
    let times = if fault == Fault::Pause {
        let times = stage.stand_still_while(victim, || {
            let times = measure(stage);
            thread::sleep((at + pause).saturating_duration_since(Instant::now()));
            times
        });
        thread::sleep(AFTERMATH);
        times
    } else {
        stage.cluster.kill(&[victim]);
        let times = measure(stage);
        stage.cluster.spawn(victim);
        times
    };
    stage.cluster.wait_until_whole();
    stage.check_keys(false);
    times
}

fn count(primaries: &Primaries, node: usize) -> usize {
    primaries.of.iter().filter(|primary| **primary == node).count()
}

/// Probes until a write of either kind was acknowledged; the times since the fault.
pub fn probe(
    history: &Arc<History>,
    survivors: &[u16],
    trial: usize,
    at: Instant,
    is_affected: impl Fn(&str) -> bool,
) -> [Option<Duration>; 2] {
    let (tell, told) = mpsc::channel();
    let is_affected = &is_affected;
    let keys = |affected: bool| {
        let names = (0..).map(move |nth| format!("probe/{trial}/{nth}"));
        names.filter(move |key| is_affected(key) == affected)
    };
    let (mut affected_keys, mut other_keys) = (keys(true), keys(false));
    let mut first: [Option<Duration>; 2] = [None, None];
    for sent in 1.. {
        for &port in survivors {
            let affected_key = affected_keys.next();
            for (kind, key) in [(0, affected_key), (1, other_keys.next())] {
                let Some(key) = key.filter(|_| first[kind].is_none()) else { continue };
                let (entry, history, tell) = (history.open(key), Arc::clone(history), tell.clone());
                thread::spawn(move || {
                    let Some(number) = history.begin_write(&entry) else { return };
                    let outcome = load::write(&mut Http::new(port), &entry.key, number, PROBE_DEADLINE);
                    let ended = at.elapsed();
                    history.end_write(&entry, outcome);
                    if matches!(outcome, Outcome::Acknowledged { .. }) {
                        let _ = tell.send((kind, ended));
                    }
                });
            }
        }
        let next = at + PROBE_EVERY * sent;
        while let Ok((kind, ended)) = told.recv_timeout(next.saturating_duration_since(Instant::now())) {
            first[kind] = Some(first[kind].map_or(ended, |first| first.min(ended)));
        }
        let is_over = first.iter().all(Option::is_some);
        if is_over || at.elapsed() > PROBE_FOR {
            break;
        }
    }
    // Those that are still under way are judged with the rest, so they have to end first.
    drop(tell);
    until("all probes have ended", || {
        told.try_recv().is_err_and(|end| end == mpsc::TryRecvError::Disconnected).then_some(())
    });
    first.map(|first| Some(first.unwrap_or(PROBE_FOR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(primaries: &Primaries) -> Vec<u32> {
        (0..NODES).map(|node| count(primaries, node) as u32).collect()
    }

    #[test]
    fn every_node_leads_and_whoever_leads_owns() {
        let primaries = Primaries::targets();
        let mut said = counts(&primaries);
        assert!(said.iter().all(|count| *count > 0) && primaries.agree(&said));
        said[1] -= 1;
        assert!(!primaries.agree(&said), "one is led by somebody else");
        for (partition, primary) in primaries.of.iter().enumerate() {
            assert!(owners(partition as u16).contains(primary));
        }
    }
}
