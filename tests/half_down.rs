//! With `replicas = "auto"` any half of the nodes may vanish at once: every value is still there, and every node that is left
//! gives it out. Of an odd number a majority is left, which goes on; of an even number none is, so reads are marked and
//! writes are refused. And one death more is said by name, never shown as an empty store.

#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use jumpgate::api::{Consistency, Error, Key, Operation, Outcome, Precondition, PutMode, Request, Response};
use jumpgate::base::{Blob, Slot};
use jumpgate::node::Submitted;
use jumpgate::sim::{Cut, World, is_whole};
use simulated::{PATIENCE, formed, key};

/// Two or three in each partition.
const KEYS: usize = 40;

fn value(nth: usize) -> Blob {
    Blob::from(format!("value {nth}").into_bytes())
}

fn put(nth: usize) -> Operation {
    let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
    Operation::Put { key: key(nth), value: value(nth), content_type: None, ttl_ms: None, mode, precondition }
}

fn get(nth: usize) -> Operation {
    Operation::Get { key: key(nth), consistency: Consistency::Linearizable }
}

fn list() -> Operation {
    Operation::List { prefix: Blob::default(), after: None, limit: 1000, values: true }
}

fn ask(world: &mut World, slot: Slot, operation: Operation) -> Result<Response, Error> {
    world.ask(slot, Request::new(operation, 1900)).expect("an answer within the deadline")
}

/// A cluster at rest that holds all keys.
fn settled(nodes: usize, seed: u64) -> World {
    let mut world = formed(nodes, seed);
    for nth in 0..KEYS {
        ask(&mut world, Slot((nth % nodes) as u8), put(nth)).expect("it is stored");
    }
    assert!(world.run_until(PATIENCE, is_whole));
    world
}

/// Every set of `count` of so many nodes.
fn sets(nodes: usize, count: u32) -> Vec<Vec<Slot>> {
    let chosen = (0_u32..1 << nodes).filter(|bits| bits.count_ones() == count);
    chosen.map(|bits| (0..nodes as u8).filter(|slot| bits >> slot & 1 == 1).map(Slot).collect()).collect()
}

/// Kills them all at the same moment, and asks for a key at once. Until its last lease ends, a primary among the survivors
/// may still answer fresh reads.
fn kill(world: &mut World, dead: &[Slot]) {
    dead.iter().for_each(|&slot| world.kill(slot));
    for survivor in world.running() {
        match ask(world, survivor, get(0)) {
            Ok(Response::Value(found)) => assert_eq!(found.bytes, value(0)),
            Err(Error::Unavailable { .. }) => {}
            other => panic!("{survivor} answers {other:?}"),
        }
    }
    world.run(Duration::from_millis(100));
}

/// All keys, at every survivor, one by one and as a page; marked exactly where there is no quorum.
fn expect_everything(world: &mut World, degraded: bool) {
    for survivor in world.running() {
        for nth in 0..KEYS {
            match ask(world, survivor, get(nth)) {
                Ok(Response::Value(found)) => {
                    assert_eq!((&found.bytes, found.degraded), (&value(nth), degraded), "{survivor}: key {nth}");
                }
                other => panic!("{survivor} answers {other:?} for key {nth}"),
            }
        }
        match ask(world, survivor, list()) {
            Ok(Response::Page(page)) => {
                let found: Vec<(Key, Option<Blob>)> =
                    page.items.into_iter().map(|item| (item.key, item.value)).collect();
                let expected: Vec<(Key, Option<Blob>)> = (0..KEYS).map(|nth| (key(nth), Some(value(nth)))).collect();
                assert_eq!((found, page.degraded, page.next_after), (expected, degraded, None), "{survivor}");
            }
            other => panic!("{survivor} answers {other:?} for a page"),
        }
        let nothing = ask(world, survivor, get(KEYS));
        let expected = if degraded { Response::NotFoundDegraded } else { Response::NotFound };
        assert_eq!(nothing, Ok(expected), "{survivor}: what was never written");
    }
}

fn lose_half(nodes: usize, dead: &[Slot], seed: u64) {
    let mut world = settled(nodes, seed);
    kill(&mut world, dead);
    let has_quorum = nodes % 2 == 1;
    expect_everything(&mut world, !has_quorum);
    for survivor in world.running() {
        let written = ask(&mut world, survivor, put(0));
        match written {
            Ok(Response::Written { .. }) if has_quorum => {}
            Err(error @ Error::NoQuorum(_)) if !has_quorum => assert_eq!(error.outcome(), Outcome::Definite),
            other => panic!("of {nodes} nodes {dead:?} are dead, and {survivor} answers a write {other:?}"),
        }
    }
    assert_eq!(world.complaints(), &[] as &[String]);
}

#[test]
fn every_half_of_up_to_five_nodes_may_vanish_at_once() {
    for nodes in 2..=5 {
        for (nth, dead) in sets(nodes, nodes as u32 / 2).iter().enumerate() {
            lose_half(nodes, dead, (nodes * 100 + nth) as u64);
        }
    }
}

#[test]
fn halves_of_six_and_seven_nodes_may_vanish_at_once() {
    for nodes in [6, 7] {
        for (nth, dead) in sets(nodes, nodes as u32 / 2).iter().enumerate().step_by(7) {
            lose_half(nodes, dead, (nodes * 100 + nth) as u64);
        }
    }
}

#[test]
fn one_death_more_is_said_by_name_and_never_shown_as_nothing() {
    let mut named_in_all = 0;
    for (nodes, dead) in [(3, 2), (4, 3), (5, 3)] {
        for (nth, dead) in sets(nodes, dead).iter().enumerate().step_by(2) {
            let mut world = settled(nodes, (nodes * 1000 + nth) as u64);
            let is_left = |slot: Slot| !dead.contains(&slot);
            let table = &world.node(Slot(0)).expect("it runs").view().table;
            let is_missing = table.iter().any(|record| !record.in_sync.iter().any(is_left));
            kill(&mut world, dead);
            let mut named = 0;
            for survivor in world.running() {
                for nth in 0..KEYS {
                    match ask(&mut world, survivor, get(nth)) {
                        Ok(Response::Value(found)) => assert_eq!((found.bytes, found.degraded), (value(nth), true)),
                        Err(Error::Unavailable { .. } | Error::PartitionLost(_)) => named += 1,
                        other => panic!("{survivor} answers {other:?} for key {nth}"),
                    }
                }
                match ask(&mut world, survivor, list()) {
                    Err(Error::Unavailable { .. } | Error::PartitionLost(_)) if is_missing => {}
                    Ok(Response::Page(page)) if !is_missing => assert_eq!(page.items.len(), KEYS),
                    other => panic!("{survivor} answers a page though keys are missing: {other:?}"),
                }
            }
            assert!(is_missing || named == 0, "of {nodes} nodes {dead:?} are dead, and {named} keys are refused");
            named_in_all += named;
        }
    }
    assert!(named_in_all > 0, "nothing was ever missing");
}

#[test]
fn what_a_dead_primary_had_acknowledged_a_moment_ago_is_read_and_so_may_be_what_it_had_not() {
    let mut world = settled(4, 7);
    let change = |nth: usize| {
        let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
        let value = Blob::from_static(b"new");
        Operation::Put { key: key(nth), value, content_type: None, ttl_ms: None, mode, precondition }
    };
    let asked: Vec<_> = (0..KEYS)
        .map(|nth| {
            let request = Request::new(change(nth), 1000);
            world.submit(Slot(0), request).expect("it runs")
        })
        .collect();
    // Some are acknowledged by now, others are on their way.
    world.run(Duration::from_micros(600));
    let is_done = |world: &World, nth: usize| match &asked[nth] {
        (_, Submitted::Now(result)) => result.is_ok(),
        (shard, Submitted::Later(id)) => world.has_answer(Slot(0), *shard, *id),
    };
    let done: Vec<bool> = (0..KEYS).map(|nth| is_done(&world, nth)).collect();
    world.kill(Slot(1));
    world.kill(Slot(2));
    for survivor in [Slot(0), Slot(3)] {
        for (nth, is_done) in done.iter().enumerate() {
            let found = ask(&mut world, survivor, get(nth));
            let Ok(Response::Value(found)) = found else { panic!("{survivor}: {found:?} for key {nth}") };
            let is_new = found.bytes == Blob::from_static(b"new");
            assert!(found.degraded && (is_new || found.bytes == value(nth) && !is_done), "key {nth}: {found:?}");
        }
    }
}

#[test]
fn a_node_that_is_cut_off_answers_reads_and_one_that_is_back_answers_fresh_ones() {
    let mut world = settled(3, 8);
    let leader = world.leader().expect("one leads");
    for other in (0..3).map(Slot).filter(|&other| other != leader) {
        for (from, to) in [(leader, other), (other, leader)] {
            world.network.cuts.push(Cut { from, to, pulse: true, stream: true });
        }
    }
    world.run(Duration::from_secs(1));
    let found = |world: &mut World, nth| match ask(world, leader, get(nth)) {
        Ok(Response::Value(found)) => Ok((found.bytes == value(nth), found.degraded)),
        Err(Error::Unavailable { .. }) => Err(()),
        other => panic!("{other:?}"),
    };
    let answers: Vec<_> = (0..KEYS).map(|nth| found(&mut world, nth)).collect();
    assert!(answers.iter().all(|answer| matches!(answer, Ok((true, true)) | Err(()))), "{answers:?}");
    assert!(answers.contains(&Err(())) && answers.contains(&Ok((true, true))), "it holds two thirds of them");
    let refused = ask(&mut world, leader, put(0));
    assert!(matches!(refused, Err(Error::NoQuorum(_))), "{refused:?}");
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole));
    assert!((0..KEYS).all(|nth| found(&mut world, nth) == Ok((true, false))));
}
