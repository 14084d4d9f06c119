//! What it costs to hold data: memory a key, processor time at rest, and the time to fill a node again. Rows 13 and 15 of
//! the reliability table, and figures beside it.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::config::Config;

use super::failover::{Primaries, settle};
use super::http::Http;
use super::processes::{Cluster, until};
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, PARTITIONS, Setting, Stage};

const CLIENTS: usize = 8;
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 128;
/// At rest, before anything is measured.
const CALM: Duration = Duration::from_secs(5);

/// Memory a key, and what a quiet cluster does, with comparisons and without.
pub fn footprint(keys: usize, time: Duration) -> Row {
    let done = format!(
        "{keys} keys of {KEY_BYTES} bytes with {VALUE_BYTES}-byte values, then as many again, two copies on {NODES} nodes"
    );
    let bar = "each further copy of a key under 1.6 times key and value; comparisons under 1 % of a core";
    let mut row = Row::new("footprint", done, bar);
    let mut shares = Vec::new();
    for (what, interval) in [("every 10 s", Duration::from_secs(10)), ("never", Duration::from_secs(3600))] {
        let cluster = begin(|config| config.cluster.sync_interval = interval);
        // The first ones fill the rings of the feed, too, whose size is bounded; the others don't.
        let mut resident = vec![resident_bytes(&cluster)];
        for numbers in [0..keys, keys..2 * keys] {
            row.acknowledged += fill(&cluster, numbers, KEY_BYTES, VALUE_BYTES) as u64;
            thread::sleep(CALM);
            resident.push(resident_bytes(&cluster));
        }
        let grown = |nth: usize| resident[nth].saturating_sub(resident[nth - 1]) / (2 * keys as u64);
        let ratio = grown(2) as f64 / (KEY_BYTES + VALUE_BYTES) as f64;
        let share = processor_share(&cluster, time) / NODES as f64;
        row.notes.push(format!(
            "compared {what}: {} bytes a copy of a key with the rings, {} bytes of each further one, {ratio:.2} times key \
             and value; at rest {:.2} % of a core a node",
            grown(1),
            grown(2),
            share * 100.0
        ));
        row.require(ratio < 1.6, Verdict::Missed, || format!("{ratio:.2} times keys and values"));
        shares.push(share);
    }
    let cost = shares[0] - shares[1];
    row.require(cost < 0.01, Verdict::Missed, || format!("comparisons take {:.2} % of a core a node", cost * 100.0));
    row
}

/// Row 13: a blank node takes a dead one's place; or (`elsewhere`) nobody does, and the others copy what it held.
pub fn refill(mebibytes: usize, rounds: usize, elsewhere: bool) -> Row {
    let what =
        if elsewhere { "is killed, and comes back when the others hold all" } else { "is killed and comes back blank" };
    let done = format!("{mebibytes} MiB of values of 64 KiB; each node in its turn {what}, {rounds} times");
    let mut row = Row::new("refill", done, "full copies within 10 s a GiB");
    let mut cluster = begin(|config| config.limits.memory_bytes = (mebibytes as u64) << 21);
    let stored = fill(&cluster, 0..mebibytes * 16, KEY_BYTES, 64 << 10);
    row.acknowledged += stored as u64;
    say(&format!("{stored} values are stored"));
    let mut times = Vec::new();
    for round in 0..rounds {
        let victim = round % NODES;
        let begin = Instant::now();
        cluster.kill(&[victim]);
        if elsewhere {
            // What was seen before the death must not pass for the state after it.
            cluster.wait_until("a node is missed", |status| status.partitions.full < status.partitions.total);
        } else {
            cluster.spawn(victim);
        }
        cluster.wait_until_whole();
        let took = begin.elapsed();
        let rate = (mebibytes * 2 / 3) as f64 / took.as_secs_f64();
        say(&format!("without n{}: all in full after {} ms, {rate:.0} MiB/s", victim + 1, took.as_millis()));
        row.notes.push(format!("round {}: {} ms, {rate:.0} MiB/s", round + 1, took.as_millis()));
        times.push(took);
        if elsewhere {
            cluster.spawn(victim);
            cluster.wait_until_whole();
        }
    }
    // A node holds two thirds of all values.
    let bound = Duration::from_secs(10) * mebibytes as u32 * 2 / 3 / 1024;
    let worst = times.iter().max().copied().unwrap_or_default();
    row.require(worst <= bound, Verdict::Missed, || {
        format!("{} ms, and the bar is {} ms", worst.as_millis(), bound.as_millis())
    });
    row.times.extend(Times::of("from the kill to full copies", times));
    row
}

/// How long partitions take to go back to their targets after a restart, and what clients see of it.
pub fn give_back(rounds: usize, seed: u64) -> Row {
    let done = format!("{rounds} restarts under light load; the node's partitions are given back to it");
    let mut row = Row::new("give back", done, "no failed write while they go back");
    let (mut stage, primaries) = (Stage::set(&Setting::everywhere(seed)), Primaries::targets());
    let (mut times, mut gaps) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        settle(&stage, &primaries);
        stage.cluster.kill(&[round % NODES]);
        stage.cluster.spawn(round % NODES);
        stage.cluster.wait_until_whole();
        let begin = Instant::now();
        times.push(settle(&stage, &primaries));
        gaps.push(stage.load.worst_gap(begin, Instant::now()).0);
    }
    row.times.extend(Times::of("from whole to every partition led by its target", times));
    row.times.extend(Times::of("longest time without a write of some keys meanwhile", gaps));
    stage.end(&mut row);
    row
}

fn begin(change: impl FnOnce(&mut Config)) -> Cluster {
    let mut cluster = Cluster::prepare(NODES as u16, |config| {
        config.timing = jumpgate::config::TimingConfig::default();
        config.cluster.partitions = PARTITIONS;
        change(config);
    });
    (0..NODES).for_each(|node| cluster.spawn(node));
    cluster.wait_until_whole();
    cluster
}

/// Stores keys of these numbers; how many were acknowledged.
pub fn fill(cluster: &Cluster, keys: Range<usize>, key_bytes: usize, value_bytes: usize) -> usize {
    let value = vec![b'v'; value_bytes];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (mut http, value, keys) = (Http::new(cluster.port(client % NODES)), &value, keys.clone());
                scope.spawn(move || {
                    let numbers = keys.skip(client).step_by(CLIENTS);
                    numbers
                        .filter(|number| {
                            let head = format!("PUT /v1/kv/{}", name_of(*number, key_bytes));
                            http.ask(&head, value).is_ok_and(|answer| matches!(answer.status, 201 | 204))
                        })
                        .count()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap_or_default()).sum()
    })
}

/// The key of that number; in no order, as most keys come.
pub fn name_of(number: usize, key_bytes: usize) -> String {
    format!("{:0key_bytes$x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What all nodes have in memory.
fn resident_bytes(cluster: &Cluster) -> u64 {
    let of = |node: usize| {
        let status = fs::read_to_string(format!("/proc/{}/status", cluster.process(node).id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (0..NODES).filter_map(of).sum::<u64>() * 1024
}

/// Processor time of all nodes within `time`, in cores.
fn processor_share(cluster: &Cluster, time: Duration) -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let ticks = || -> u64 {
        let of = |node: usize| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", cluster.process(node).id())).ok()?;
            let (_, numbers) = stat.rsplit_once(')')?;
            let mut numbers = numbers.split_whitespace().skip(11).map_while(|number| number.parse::<u64>().ok());
            Some(numbers.next()? + numbers.next()?)
        };
        (0..NODES).filter_map(of).sum()
    };
    let (before, begin) = (until("a figure of /proc", || Some(ticks())), Instant::now());
    thread::sleep(time);
    (ticks() - before) as f64 / TICKS_A_SECOND / begin.elapsed().as_secs_f64()
}
