//! Copies that go bad are found and put right, in whole clusters: whichever copy it is, with traffic and without.

use std::time::Duration;

use jumpgate::api::{Consistency, Key, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::{Blob, Slot, Version};
use jumpgate::sim::{Decay, World, WorldOptions, is_whole};
use jumpgate::store::Record;

const PATIENCE: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(1);
const KEYS: usize = 40;

fn formed(nodes: usize, seed: u64) -> World {
    let options = WorldOptions { nodes, sync_interval: INTERVAL, ..WorldOptions::default() };
    let mut world = World::new(options, seed);
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
    for nth in 0..KEYS {
        let written = ask(&mut world, Slot(0), put(&key(nth), "as it should be"));
        assert!(matches!(written, Response::Written { .. }), "{written:?}");
    }
    // Until backups know that it is committed.
    world.run(Duration::from_millis(50));
    world
}

fn key(nth: usize) -> Key {
    format!("key {nth}").parse().expect("a key")
}

fn put(key: &Key, value: &'static str) -> Operation {
    let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
    let value = Blob::from_static(value.as_bytes());
    Operation::Put { key: key.clone(), value, content_type: None, ttl_ms: None, mode, precondition }
}

fn ask(world: &mut World, slot: Slot, operation: Operation) -> Response {
    world.ask(slot, Request::new(operation, 1500)).expect("an answer in time").expect("a good one")
}

fn read(world: &mut World, slot: Slot, key: &Key) -> Option<Blob> {
    match ask(world, slot, Operation::Get { key: key.clone(), consistency: Consistency::Linearizable }) {
        Response::Value(value) => Some(value.bytes),
        _ => None,
    }
}

fn assert_well(world: &World) {
    assert_eq!(world.complaints(), &[] as &[String]);
}

/// All that can happen to a copy, at both kinds of copies where it can be told what is right.
fn harms(world: &World, key: &Key) -> Vec<(Slot, Decay)> {
    let (primary, backups) = world.copies_of(key).expect("somebody leads");
    let forged =
        Record { value: Blob::from_static(b"forged"), ..world.held(primary, key).expect("it is there").to_record() };
    let older = Record { version: Version(1), ..forged.clone() };
    let backup = backups[0];
    vec![
        (primary, Decay::Rot),
        (backup, Decay::Rot),
        (backup, Decay::Lost),
        (backup, Decay::Forged(forged)),
        (backup, Decay::Forged(older)),
    ]
}

#[test]
fn a_copy_that_goes_bad_is_good_again_within_two_intervals_without_any_write() {
    let mut world = formed(3, 1);
    for nth in 0..KEYS {
        let key = key(nth);
        let mut harms = harms(&world, &key);
        let (slot, decay) = harms.swap_remove(nth % 5);
        world.decay(slot, &key, decay);
        assert!(!world.all_hold(&key, b"as it should be"));
    }
    assert!(world.run_until(INTERVAL * 2, |world| (0..KEYS).all(|nth| world.all_hold(&key(nth), b"as it should be"))));
    assert_eq!(world.damage(), (KEYS as u64, KEYS as u64), "each is found once and repaired once");
    for nth in 0..KEYS {
        assert_eq!(read(&mut world, Slot(nth as u8 % 3), &key(nth)).as_deref(), Some(&b"as it should be"[..]));
    }
    world.run(INTERVAL * 3);
    assert_eq!(world.damage(), (KEYS as u64, KEYS as u64), "nothing is found again");
    assert_well(&world);
}

#[test]
fn a_record_that_an_effect_should_have_deleted_goes_away() {
    let mut world = formed(3, 2);
    let ghost: Key = "ghost".parse().expect("a key");
    let (_, backups) = world.copies_of(&ghost).expect("somebody leads");
    let record =
        Record { value: Blob::from_static(b"gone"), content_type: None, version: Version(5), expires_at: None };
    world.decay(backups[0], &ghost, Decay::Forged(record));
    assert!(world.held(backups[0], &ghost).is_some());
    assert!(world.run_until(INTERVAL * 2, |world| world.held(backups[0], &ghost).is_none()));
    assert_eq!(world.damage(), (1, 1));
    assert_well(&world);
}

#[test]
fn it_is_good_again_within_two_intervals_though_everything_else_is_written() {
    let mut world = formed(5, 3);
    (0..6).for_each(|_| world.add_client());
    world.run(INTERVAL);
    assert_eq!(world.damage(), (0, 0), "what is under way is no difference");
    for nth in 0..20 {
        let key = key(nth);
        let mut harms = harms(&world, &key);
        let (slot, decay) = harms.swap_remove(nth % 5);
        world.decay(slot, &key, decay);
    }
    assert!(world.run_until(INTERVAL * 2, |world| (0..20).all(|nth| world.all_hold(&key(nth), b"as it should be"))));
    world.run(INTERVAL * 2);
    assert_eq!(world.damage(), (20, 20));
    assert_well(&world);
}

#[test]
fn what_is_rotten_at_a_primary_is_not_copied_to_a_node_that_comes_back() {
    let mut world = formed(5, 4);
    let wanted =
        |world: &World| (0..KEYS).find(|nth| world.copies_of(&key(*nth)).is_some_and(|(_, all)| all.len() > 1));
    let key = key(wanted(&world).expect("three copies"));
    let (primary, backups) = world.copies_of(&key).expect("somebody leads");
    world.kill(backups[0]);
    world.decay(primary, &key, Decay::Rot);
    world.start(backups[0]);
    assert!(world.run_until(PATIENCE, is_whole));
    world.run(INTERVAL * 2);
    assert!(world.all_hold(&key, b"as it should be"));
    assert_eq!(read(&mut world, backups[0], &key).as_deref(), Some(&b"as it should be"[..]));
    assert_well(&world);
}

#[test]
fn a_rotten_record_without_a_sound_copy_is_not_shown_and_can_be_written_anew() {
    let mut world = formed(3, 5);
    let key = key(7);
    let (primary, backups) = world.copies_of(&key).expect("somebody leads");
    for slot in backups.into_iter().chain([primary]) {
        world.decay(slot, &key, Decay::Rot);
    }
    world.run(INTERVAL * 2);
    let get = Operation::Get { key: key.clone(), consistency: Consistency::Linearizable };
    let answer = world.ask(Slot(0), Request::new(get, 500));
    assert!(matches!(answer, Some(Err(_))), "wrong bytes were shown: {answer:?}");
    assert!(matches!(ask(&mut world, Slot(1), put(&key, "anew")), Response::Written { .. }));
    assert_eq!(read(&mut world, Slot(2), &key).as_deref(), Some(&b"anew"[..]));
    world.run(INTERVAL * 2);
    assert!(world.all_hold(&key, b"anew"));
    assert_well(&world);
}

#[test]
fn every_node_knows_when_all_that_it_holds_was_looked_at_last() {
    let mut world = formed(3, 6);
    let looks = |world: &World| -> Vec<_> {
        let nodes = world.running().into_iter().filter_map(|slot| world.node(slot));
        nodes.flat_map(|node| node.shards()).map(|shard| shard.load().verified_at).collect()
    };
    world.run(INTERVAL * 3);
    let before = looks(&world);
    world.run(INTERVAL * 3);
    for (before, after) in before.into_iter().zip(looks(&world)) {
        let (before, after) = (before.expect("it was looked at"), after.expect("it was looked at"));
        assert!(after.since(before) >= INTERVAL, "looked at {before}, and then at {after} only");
    }
    assert_well(&world);
}
