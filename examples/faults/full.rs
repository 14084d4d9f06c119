//! Writers fill the memory that a cluster may take, and go on: row 15 of the reliability table.
//!
//! Keys are written once each. What was acknowledged has to be there while the nodes are full, and in the end; what is
//! refused has to be refused by name; and once deletes have made room, every writer gets on within a second.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jumpgate::config::TimingConfig;

use super::failover::Primaries;
use super::http::{Answer, Http};
use super::processes::{Cluster, until};
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, PARTITIONS};

const WRITERS: usize = 2 * NODES;
const VALUE_BYTES: usize = 16 << 10;
/// A writer is full after so many refusals in a row.
const FULL_AFTER: usize = 20;
const PAUSE_WHEN_REFUSED: Duration = Duration::from_millis(5);
/// What a node may have resident beyond what it had when it was empty, in units of its limit: its tables, what writers
/// have under way, the feed's rings, and what the allocator keeps.
const RESIDENT_MAX: u64 = 2;

/// How a write was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Stored,
    Full,
    /// Anything else, by its name.
    Other(String),
}

fn judge(status: u16, body: &[u8]) -> Said {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let (name, outcome) = (problem["type"].as_str().unwrap_or("no problem"), &problem["outcome"]);
    match status {
        201 | 204 => Said::Stored,
        507 if name == "urn:jumpgate:problem:memory-full" && outcome == "definite" => Said::Full,
        _ => Said::Other(format!("{status} {name} {outcome}")),
    }
}

#[derive(Default)]
struct WriterState {
    /// Acknowledged and not deleted.
    stored: Vec<String>,
    refused_in_a_row: usize,
    last_stored: Option<Instant>,
    said: BTreeMap<Said, u64>,
}

/// One writer of keys that one node leads.
struct Writer {
    state: Arc<Mutex<WriterState>>,
    thread: JoinHandle<()>,
}

fn lock(state: &Mutex<WriterState>) -> MutexGuard<'_, WriterState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn value(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(VALUE_BYTES).collect()
}

fn keep_writing(mut http: Http, keys: impl Iterator<Item = String>, state: &Mutex<WriterState>, stop: &AtomicBool) {
    for key in keys {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let said = match http.ask(&format!("PUT /v1/kv/{key}?timeout=2s"), &value(&key)) {
            Ok(answer) => judge(answer.status, &answer.body),
            Err(error) => Said::Other(format!("no answer: {}", error.kind())),
        };
        let mut state = lock(state);
        *state.said.entry(said.clone()).or_default() += 1;
        if said == Said::Stored {
            state.stored.push(key);
            (state.refused_in_a_row, state.last_stored) = (0, Some(Instant::now()));
        } else {
            state.refused_in_a_row += 1;
            drop(state);
            thread::sleep(PAUSE_WHEN_REFUSED);
        }
    }
}

fn resident_bytes(cluster: &Cluster, node: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.process(node).id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kibibytes| kibibytes << 10)
}

/// The most that any node has in memory.
fn most_resident(cluster: &Cluster) -> u64 {
    (0..NODES).map(|node| resident_bytes(cluster, node)).max().unwrap_or_default()
}

pub fn run(mebibytes: u64, rounds: usize) -> Row {
    let done = format!(
        "{WRITERS} writers of 16 KiB values against `memory` of {mebibytes} MiB, {rounds} times; then a quarter of the keys \
         is deleted while they go on"
    );
    let bar = format!(
        "507 memory-full only; alive, at most {RESIDENT_MAX} × the limit above an empty node; reads and deletes work; \
         writes within 1000 of the deletes"
    );
    let mut row = Row::new("full", done, &bar);
    let mut cluster = Cluster::prepare(NODES as u16, |config| {
        config.timing = TimingConfig::default();
        config.cluster.partitions = PARTITIONS;
        config.limits.memory_bytes = mebibytes << 20;
    });
    (0..NODES).for_each(|node| cluster.spawn(node));
    cluster.wait_until_whole();
    let empty = most_resident(&cluster);
    let (stop, primaries) = (Arc::new(AtomicBool::new(false)), Arc::new(Primaries::targets()));
    let writers: Vec<Writer> = (0..WRITERS)
        .map(|nth| {
            let (http, state) = (cluster.http(nth % NODES), Arc::<Mutex<WriterState>>::default());
            let (stop, primaries, own) = (Arc::clone(&stop), Arc::clone(&primaries), Arc::clone(&state));
            let thread = thread::spawn(move || {
                let keys = (0..).map(|number| format!("full/{nth}/{number}"));
                keep_writing(http, keys.filter(|key| primaries.of(key) == nth / 2), &own, &stop);
            });
            Writer { state, thread }
        })
        .collect();
    let (mut most, mut times, mut deleted) = (empty, Vec::new(), Vec::new());
    for round in 0..rounds {
        until("every writer is refused", || {
            most = most.max(most_resident(&cluster));
            writers.iter().all(|writer| lock(&writer.state).refused_in_a_row >= FULL_AFTER).then_some(())
        });
        read_all(&cluster, &writers, &mut row, 16);
        let begin = Instant::now();
        deleted.extend(delete_some(&cluster, &writers, &mut row));
        let freed = Instant::now();
        until("every writer gets on", || {
            most = most.max(most_resident(&cluster));
            writers.iter().all(|writer| lock(&writer.state).last_stored > Some(begin)).then_some(())
        });
        times.push(freed.elapsed());
        let stored: usize = writers.iter().map(|writer| lock(&writer.state).stored.len()).sum();
        say(&format!(
            "full, round {} of {rounds}: {stored} keys after the deletes, which took {} ms; every writer got on {} ms \
             after them; {} MiB resident at most",
            round + 1,
            (freed - begin).as_millis(),
            freed.elapsed().as_millis(),
            most >> 20
        ));
    }
    stop.store(true, Ordering::Relaxed);
    let states = writers.into_iter().map(|writer| {
        writer.thread.join().expect("a writer works");
        writer.state
    });
    let states: Vec<_> = states.collect();
    end(&mut row, &mut cluster, &states, &deleted);
    let above = most.saturating_sub(empty);
    row.notes.push(format!(
        "an empty node has {} MiB resident, a full one {} MiB at most: {:.2} × the limit more",
        empty >> 20,
        most >> 20,
        above as f64 / (mebibytes << 20) as f64
    ));
    row.require(above <= RESIDENT_MAX * (mebibytes << 20), Verdict::Missed, || "too much is resident".to_owned());
    row.require_times(Times::of("from the deletes to writes by all", times), &[("worst", 1000)]);
    row
}

/// Reads every `step`th key that is stored, while its writer goes on.
fn read_all(cluster: &Cluster, writers: &[Writer], row: &mut Row, step: usize) {
    for (nth, writer) in writers.iter().enumerate() {
        let keys: Vec<String> = lock(&writer.state).stored.iter().step_by(step).cloned().collect();
        let mut http = cluster.http((nth + 1) % NODES);
        keys.iter().for_each(|key| read(&mut http, key, row));
    }
}

fn read(http: &mut Http, key: &str, row: &mut Row) {
    let said = ask(http, &format!("GET /v1/kv/{key}?timeout=2s"));
    row.reads += 1;
    let is_there = said.as_ref().is_some_and(|said| said.status == 200 && said.body == value(key));
    if !is_there {
        row.lost += u64::from(said.as_ref().is_some_and(|said| said.status == 404));
        row.require(false, Verdict::Broken, || format!("GET {key}: {:?}", said.map(|said| said.status)));
    }
}

/// What is answered within a few tries: a machine that is busy may refuse for a moment.
fn ask(http: &mut Http, head: &str) -> Option<Answer> {
    (0..5).find_map(|_| http.ask(head, b"").ok().filter(|answer| !answer.is_for_a_moment()))
}

/// Deletes every fourth key of every writer.
fn delete_some(cluster: &Cluster, writers: &[Writer], row: &mut Row) -> Vec<String> {
    let mut deleted = Vec::new();
    for (nth, writer) in writers.iter().enumerate() {
        let mut http = cluster.http((nth + 1) % NODES);
        let mut place = 0;
        let keys = {
            let mut state = lock(&writer.state);
            let (keys, kept) = std::mem::take(&mut state.stored).into_iter().partition(|_| {
                place += 1;
                place % 4 == 0
            });
            state.stored = kept;
            Vec::<String>::from_iter(keys)
        };
        for key in keys {
            let said = ask(&mut http, &format!("DELETE /v1/kv/{key}?timeout=2s")).map(|said| said.status);
            row.require(said == Some(204), Verdict::Broken, || format!("DELETE {key}: {said:?}"));
            deleted.push(key);
        }
    }
    deleted
}

/// Judges what is there in the end, and how writes were answered.
fn end(row: &mut Row, cluster: &mut Cluster, states: &[Arc<Mutex<WriterState>>], deleted: &[String]) {
    let mut http = cluster.http(0);
    let mut said = BTreeMap::<Said, u64>::new();
    for state in states {
        let state = lock(state);
        state.stored.iter().for_each(|key| read(&mut http, key, row));
        state.said.iter().for_each(|(what, count)| *said.entry(what.clone()).or_default() += count);
    }
    for key in deleted {
        let found = ask(&mut http, &format!("GET /v1/kv/{key}?timeout=2s")).map(|said| said.status);
        row.require(found == Some(404), Verdict::Broken, || format!("{key} was deleted, and then: {found:?}"));
    }
    row.acknowledged = said.get(&Said::Stored).copied().unwrap_or_default();
    row.notes.push(format!("{} refusals by name", said.get(&Said::Full).copied().unwrap_or_default()));
    for (what, count) in &said {
        if let Said::Other(what) = what {
            row.require(false, Verdict::Missed, || format!("{count} writes were answered {what}"));
        }
    }
    let logs = cluster.texts("err");
    row.require(logs.iter().all(|log| !log.contains("panicked")), Verdict::Broken, || "a node panicked".to_owned());
    let lives = logs.len();
    row.require(lives == NODES && (0..NODES).all(|node| cluster.try_status(node).is_some()), Verdict::Broken, || {
        "a node died".to_owned()
    });
    cluster.wait_until_whole();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_as_one_only_by_its_name_and_if_it_is_definite() {
        let body = |name: &str, outcome: &str| {
            format!(r#"{{"type":"urn:jumpgate:problem:{name}","outcome":"{outcome}"}}"#).into_bytes()
        };
        assert_eq!((judge(201, b""), judge(204, b"")), (Said::Stored, Said::Stored));
        assert_eq!(judge(507, &body("memory-full", "definite")), Said::Full);
        assert!(matches!(judge(507, &body("memory-full", "unknown")), Said::Other(_)));
        assert!(matches!(judge(507, b"no json"), Said::Other(_)));
        assert!(matches!(judge(503, &body("memory-full", "definite")), Said::Other(_)));
    }
}
