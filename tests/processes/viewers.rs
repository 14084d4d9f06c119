//! What becomes of a viewer of the feed that reads too slowly, and of everybody else meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jumpgate::api::Key;
use jumpgate::api::batch::BatchOpJson;
use jumpgate::api::json::EventJson;
use jumpgate::client::{BatchOptions, Client};

use super::feed::Viewer;
use super::processes::{Cluster, until};

/// With what two sockets' buffers hold they are more changes than a gateway keeps for its slowest viewer.
const CHANGES: usize = 22_000;
const KEYS: usize = 200;
const VALUE_BYTES: usize = 2048;

type Change = (String, u64);

/// Every key is written again and again; all acknowledged changes. Every write has to be done.
fn flood(cluster: &Cluster) -> BTreeSet<Change> {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let client = Client::new(vec![cluster.config.nodes[0].advertise.clone()]).expect("a URL");
    let patience = BatchOptions { timeout: Some(Duration::from_secs(60)) };
    let keys: Vec<Key> = (0..KEYS).map(|nth| format!("flood/{nth}").parse().expect("a key")).collect();
    let ops: Vec<BatchOpJson> = keys.iter().map(|key| BatchOpJson::put(key, &[b'x'; VALUE_BYTES])).collect();
    let mut changes = BTreeSet::new();
    for _ in 0..CHANGES / KEYS {
        let results = runtime.block_on(client.batch(&ops, &patience)).expect("an answer");
        for (key, result) in keys.iter().zip(results) {
            assert!(result.is_done(), "{key}: {result:?}");
            changes.insert((key.as_str().to_owned(), result.version.expect("a version")));
        }
    }
    changes
}

/// What an event says was changed.
fn change(event: &EventJson) -> Option<Change> {
    Some((event.key.clone()?, event.version?))
}

/// Reads a few events a second until it is told to hurry, and then until the feed ends: all events, and why it ended.
fn read_slowly(mut viewer: Viewer, hurry: &AtomicBool) -> (Vec<EventJson>, String) {
    let mut events = Vec::new();
    loop {
        match viewer.look() {
            Ok(event) => events.extend(event),
            Err(why) => return (events, why),
        }
        if events.len() > CHANGES {
            return (events, "it was shown everything".to_owned());
        }
        if !hurry.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_viewer_that_reads_too_slowly_is_told_so_and_resumes_and_nobody_waits_for_it() {
    let cluster = Cluster::start(3);
    let open = || until("the feed opens", || Viewer::open(cluster.port(1), "?prefix=flood/&values=true"));
    let (slow, mut quick, hurry) = (open(), open(), AtomicBool::new(false));
    let (changes, seen_quickly, (events, why)) = thread::scope(|scope| {
        let slow = scope.spawn(|| read_slowly(slow, &hurry));
        // Its neighbour at the same gateway is shown everything.
        let quick = scope.spawn(move || {
            let mut seen = BTreeSet::new();
            while seen.len() < CHANGES / KEYS * KEYS {
                seen.extend(change(&quick.next()));
            }
            seen
        });
        // The slow one has read next to nothing when the last of these is acknowledged.
        let changes = flood(&cluster);
        let seen_quickly = quick.join().expect("the quick viewer is not cut off");
        hurry.store(true, Ordering::Relaxed);
        (changes, seen_quickly, slow.join().expect("the slow viewer"))
    });
    assert_eq!(seen_quickly, changes);
    assert!(why.contains("too slow"), "{why}");
    let mut seen: BTreeSet<Change> = events.iter().filter_map(change).collect();
    assert!(seen.len() < changes.len() && seen.is_subset(&changes), "{} of {}", seen.len(), changes.len());

    // It goes on where it was.
    let cursor = events.iter().rev().find_map(|event| event.cursor.clone()).expect("a cursor");
    let query = format!("?prefix=flood/&values=true&since={cursor}");
    let mut resumed = until("the feed opens again", || Viewer::resume(cluster.port(1), &query));
    let mut had_gap = false;
    loop {
        let event = resumed.next();
        had_gap |= event.kind == "gap";
        seen.extend(change(&event));
        if event.kind == "live" {
            break;
        }
    }
    let newest = |of: &BTreeSet<Change>| of.iter().cloned().collect::<BTreeMap<String, u64>>();
    assert_eq!(newest(&seen), newest(&changes));
    assert!(had_gap || seen == changes, "no gap was told, and {} of {} were shown", seen.len(), changes.len());
}
