//! Nodes are told to stop, and started again, one after the other: row 9 of the reliability table.
//!
//! Each of some partitions has a writer of its own, so that the time without an acknowledged write is known of each alone.
//! It counts from the signal until the node is in sync again and leads what it should: both the way out and the way back
//! move partitions. A write that ends in "nobody knows" is an error that a retry can't mend; a refusal is none.

use std::thread;
use std::time::{Duration, Instant};

use super::failover::{Primaries, settle};
use super::load::Grouping;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{Setting, Stage};

/// The bar, for each partition.
const GAP_MAX_MS: u128 = 100;
/// What the others get to notice that a node has gone, if they do.
const AFTERMATH: Duration = Duration::from_millis(300);

pub fn run(nodes: usize, rounds: usize, partitions: u16, seed: u64) -> Row {
    let restarts = rounds * nodes;
    let done = format!(
        "each of {nodes} nodes told to stop (SIGTERM) and started again in turn, {restarts} in all; {partitions} partitions \
         watched"
    );
    let mut row =
        Row::new("orderly restart", done, "no error after a retry; ≤ 100 ms without a write of any partition");
    let grouping = Grouping::Partitions(partitions);
    let setting = Setting { nodes, grouping, readers: nodes, ..Setting::light(seed) };
    let (mut stage, primaries) = (Stage::set(&setting), Primaries::targets_of(nodes));
    let (mut gaps, mut ways_out, mut stops, mut ways_back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for nth in 0..restarts {
        let victim = nth % nodes;
        settle(&stage, &primaries);
        let leads = stage.cluster.leader() == victim;
        let from = Instant::now();
        let status = stage.cluster.stop(victim);
        stops.push(from.elapsed());
        row.require(status.success(), Verdict::Broken, || format!("n{} ended with {status}", victim + 1));
        thread::sleep(AFTERMATH);
        ways_out.extend(stage.load.gaps(from, Instant::now()));
        let back = Instant::now();
        stage.cluster.spawn(victim);
        stage.cluster.wait_until_whole();
        settle(&stage, &primaries);
        ways_back.push(back.elapsed());
        let of_all = stage.load.gaps(from, Instant::now());
        let worst = of_all.iter().max().copied().unwrap_or_default();
        say(&format!(
            "n{}{} stopped within {} ms and was back after {} ms; the worst of its partitions had no write for {} ms",
            victim + 1,
            if leads { ", the leader," } else { "" },
            stops.last().map_or(0, Duration::as_millis),
            ways_back.last().map_or(0, Duration::as_millis),
            worst.as_millis()
        ));
        gaps.extend(of_all);
        let late = stage.load.late(from, Instant::now(), Duration::from_millis(GAP_MAX_MS as u64));
        if !late.is_empty() {
            row.notes.push(format!("restart {}, of n{}: {}", nth + 1, victim + 1, late.join(", ")));
        }
        stage.check_keys(false);
    }
    row.require_times(
        Times::of("longest time without a write, of each partition and restart", gaps),
        &[("worst", GAP_MAX_MS)],
    );
    row.times.extend(Times::of("of that until the node had gone", ways_out));
    row.times.extend(Times::of("from the signal to the end of the process", stops));
    row.times.extend(Times::of("from its start to all in sync and led by its target", ways_back));
    let (refused, unknown) = stage.load.failures();
    row.notes.push(format!("{refused} writes were refused and sent again"));
    row.require(unknown == 0, Verdict::Missed, || format!("of {unknown} writes nobody knew whether they had happened"));
    stage.end(&mut row);
    let downs = row.declared_down;
    row.require(downs == 0, Verdict::Missed, || format!("{downs} times somebody had to find out that a node was gone"));
    row
}
