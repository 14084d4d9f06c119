//! Many keys run out in the same second, under load: what other writes see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::api::Key;
use jumpgate::api::batch::BatchOpJson;
use jumpgate::client::{BatchOptions, Client};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::processes::until;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};

const BATCH: usize = 500;
/// Requests on their way at once.
const WRITERS: usize = 4;
/// Until the keys run out, for each thousand of them, and beside: longer than storing them takes on any machine.
const STORED_WITHIN: Duration = Duration::from_millis(400);
const BESIDE: Duration = Duration::from_secs(5);
/// Gaps are looked for over so long before the keys run out, and again from then on.
const WINDOW: Duration = Duration::from_secs(3);

/// Stores `keys` keys that all run out at the same moment.
pub fn run(keys: usize, seed: u64) -> Row {
    let done = format!("{keys} keys run out at the same moment, under load");
    let mut row = Row::new("expiry", done, "no failover; other keys' writes at most 250 apart; all are gone");
    let stage = Stage::set(&Setting::everywhere(seed));
    let runs_out = Instant::now() + STORED_WITHIN * keys.div_ceil(1000) as u32 + BESIDE;
    let stored = store(&stage, keys, runs_out);
    say(&format!("{stored} keys are stored, {} ms before they run out", left(runs_out).as_millis()));
    row.require(stored == keys && left(runs_out) > WINDOW, Verdict::Skipped, || {
        format!("{stored} of {keys} keys were stored in time")
    });
    let (changes, downs) = (stage.leader_changes(), stage.downs());
    // The nodes tell each other now and then how much they hold, so not as soon as all is stored.
    thread::sleep(left(runs_out).saturating_sub(Duration::from_secs(1)));
    let copies = keys_held(&stage);
    thread::sleep(left(runs_out));
    let (before, _) = stage.load.worst_gap(runs_out - WINDOW, runs_out);
    // Each node tells how many keys it holds: two copies of each are gone in the end.
    until("the keys are gone", || {
        let gone = copies.saturating_sub(keys_held(&stage));
        (gone + (keys / 100) as u64 >= 2 * stored as u64).then_some(())
    });
    let gone_after = runs_out.elapsed();
    thread::sleep(left(runs_out + WINDOW));
    let (gap, class) = stage.load.worst_gap(runs_out, Instant::now());
    say(&format!("gone after {} ms; {} ms without writes of keys of {class}", gone_after.as_millis(), gap.as_millis()));
    row.notes.push(format!("all but a hundredth of the copies were gone after {} ms", gone_after.as_millis()));
    row.times.extend(Times::of("longest time without a write of some keys, before", vec![before]));
    row.require_times(Times::of("and from then on", vec![gap]), &[("worst", 250)]);
    let (changes, downs) = (stage.leader_changes() - changes, stage.downs() - downs);
    row.require(changes + downs == 0, Verdict::Missed, || format!("{changes} leader changes, {downs} declared down"));
    stage.end_with_latencies(&mut row);
    row
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn keys_held(stage: &Stage) -> u64 {
    stage.cluster.status(0).nodes.iter().filter_map(|node| node.keys).sum()
}

/// How many were stored.
fn store(stage: &Stage, keys: usize, runs_out: Instant) -> usize {
    let runtime = Runtime::new().expect("threads");
    let urls: Vec<String> = (0..NODES).map(|node| format!("http://127.0.0.1:{}", stage.cluster.port(node))).collect();
    let stored = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (mut urls, stored) = (urls.clone(), Arc::clone(&stored));
            urls.rotate_left(writer % NODES);
            tasks.spawn(async move {
                let client = Client::new(urls).expect("URLs of loopback");
                let numbers: Vec<usize> = (writer..keys).step_by(WRITERS).collect();
                for numbers in numbers.chunks(BATCH) {
                    let put = |number: &usize| {
                        let key: Key = format!("short/{number}").parse().expect("a key");
                        BatchOpJson::put(&key, b"until then").ttl(left(runs_out))
                    };
                    let ops: Vec<BatchOpJson> = numbers.iter().map(put).collect();
                    let Ok(results) = client.batch(&ops, &BatchOptions::default()).await else { continue };
                    stored.fetch_add(results.iter().filter(|result| result.is_done()).count(), Ordering::Relaxed);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
    stored.load(Ordering::Relaxed)
}
