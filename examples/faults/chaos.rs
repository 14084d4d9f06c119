//! Everything by chance, for as long as one likes, on hosts of their own: processes are killed, paused and restarted, ways
//! between hosts are cut, and both at once, under load.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::Rng;

use super::processes::until;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};
use super::weather;

const PAUSE_MAX: Duration = Duration::from_secs(3);
const AWAY_MAX: Duration = Duration::from_millis(1500);

/// What one round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Kill,
    KillAndCut,
    Pause,
    PauseAndCut,
    Restart,
    Cut,
}

const HARMS: [(Harm, &str); 8] = [
    (Harm::Kill, "kill"),
    (Harm::KillAndCut, "kill and cut at once"),
    (Harm::Pause, "pause"),
    (Harm::PauseAndCut, "pause and cut at once"),
    (Harm::Restart, "restart in order"),
    (Harm::Cut, "cut"),
    (Harm::Cut, "cut"),
    (Harm::Cut, "cut"),
];

/// Rounds for `time`. A process is killed only while everything is in full: with two copies one of them may go.
pub fn run(time: Duration, seed: u64) -> Row {
    let done =
        format!("kills, pauses, restarts and cuts by chance between hosts of their own for {time:?}, seed {seed}");
    let mut row = Row::new("chaos", done, "every history in order, nothing lost");
    let mut stage = match Stage::set_on_hosts(&Setting::everywhere(seed)) {
        Ok(stage) => stage,
        Err(why) => {
            row.require(false, Verdict::Skipped, || format!("no network namespaces here: {why}"));
            return row;
        }
    };
    let (mut rng, end) = (Rng::new(seed), Instant::now() + time);
    let (mut counts, mut times) = (BTreeMap::<&str, usize>::new(), Vec::new());
    while Instant::now() < end {
        let (harm, name) = HARMS[rng.below(HARMS.len() as u64) as usize];
        *counts.entry(name).or_default() += 1;
        let what = one_round(&mut stage, harm, &mut rng);
        let healed = Instant::now();
        until("keys of all owners are written", || stage.load.all_written_since(healed).then_some(()));
        let writable = healed.elapsed();
        times.push(writable);
        stage.cluster.wait_until_whole();
        stage.check_keys(false);
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let acknowledged = stage.tally().acknowledged;
        say(&format!(
            "{name}: {what}; writable {} ms after; {acknowledged} writes; {left} s left",
            writable.as_millis()
        ));
        thread::sleep(rng.duration(Duration::from_secs(1)));
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    row.notes.push(counts.join(", "));
    row.times.extend(Times::of("from the heal to writes of all keys", times));
    stage.end(&mut row);
    row
}

fn one_round(stage: &mut Stage, harm: Harm, rng: &mut Rng) -> String {
    // Every second time it is the leader.
    let victim = if rng.below(2) == 0 { stage.cluster.leader() } else { rng.below(NODES as u64) as usize };
    let round = weather::round(rng, NODES);
    let hosts = stage.hosts().clone();
    let cut = |cuts: &[_]| hosts.cut(cuts).expect("the packet filter worked a moment ago");
    match harm {
        Harm::Kill => {
            stage.cluster.kill(&[victim]);
            thread::sleep(rng.duration(AWAY_MAX));
            stage.cluster.spawn(victim);
            format!("n{}", victim + 1)
        }
        Harm::KillAndCut => {
            // The death comes first: a node that was cut off and left out before would be a second loss, of two copies.
            stage.cluster.kill(&[victim]);
            cut(&round.cuts);
            thread::sleep(round.lasts);
            cut(&[]);
            stage.cluster.spawn(victim);
            format!("n{}; {}", victim + 1, round.what)
        }
        Harm::Pause | Harm::PauseAndCut => {
            if harm == Harm::PauseAndCut {
                cut(&round.cuts);
            }
            let time = rng.duration(PAUSE_MAX);
            stage.stand_still(victim, time);
            cut(&[]);
            format!("n{} for {} ms", victim + 1, time.as_millis())
        }
        Harm::Restart => {
            stage.cluster.stop(victim);
            thread::sleep(rng.duration(AWAY_MAX));
            stage.cluster.spawn(victim);
            format!("n{}", victim + 1)
        }
        Harm::Cut => {
            cut(&round.cuts);
            thread::sleep(round.lasts);
            cut(&[]);
            round.what
        }
    }
}
