//! Writes with an idempotency key are executed once, whoever leads when they are sent again, and whoever had to learn of them.

#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use jumpgate::api::{Consistency, Done, Error, Match, Once, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Blob, Slot, Version};
use jumpgate::sim::{World, is_whole};
use simulated::{PATIENCE, formed, key};

const KEYS: usize = 24;

fn put(nth: usize, value: &str, mode: PutMode) -> Operation {
    let value = Blob::from(value.as_bytes());
    let (content_type, precondition) = (None, Precondition::NONE);
    Operation::Put { key: key(nth), value, content_type, ttl_ms: None, mode, precondition }
}

fn delete(nth: usize, version: Version) -> Operation {
    let if_match = Some(Match::Versions(vec![version]));
    Operation::Delete { key: key(nth), precondition: Precondition { if_match, if_none_match: None } }
}

fn ask(world: &mut World, slot: Slot, text: &str, operation: Operation) -> Result<Response, Error> {
    let once = Once::new(text, &operation);
    world.ask(slot, Request { operation, once, timeout_ms: 1900 }).expect("an answer within the deadline")
}

fn read(world: &mut World, slot: Slot, nth: usize) -> Option<Version> {
    let operation = Operation::Get { key: key(nth), consistency: Consistency::Linearizable };
    match world.ask(slot, Request::new(operation, 1900)).expect("an answer") {
        Ok(Response::Value(value)) => Some(value.version),
        Ok(Response::NotFound) => None,
        other => panic!("{other:?}"),
    }
}

/// Creates all keys, each under an idempotency key; the versions that they got.
fn create_all(world: &mut World) -> Vec<Version> {
    let created = (0..KEYS).map(|nth| {
        let slot = Slot((nth % 3) as u8);
        match ask(world, slot, &format!("create-{nth}"), put(nth, "first", PutMode::Create)) {
            Ok(Response::Written { version, created: true, .. }) => version,
            other => panic!("{other:?}"),
        }
    });
    created.collect()
}

/// Sends all creates again through `slot`; whether each is answered as it was the first time.
fn are_known(world: &mut World, slot: Slot, versions: &[Version]) -> bool {
    versions.iter().enumerate().all(|(nth, first)| {
        // What was handed to a node that is just found dead is sent again, as clients do.
        let mut attempts =
            (0..5).map(|_| ask(world, slot, &format!("create-{nth}"), put(nth, "first", PutMode::Create)));
        let is_decided = |answer: &Result<Response, Error>| !matches!(answer, Err(Error::OutcomeUnknown(_)));
        let again = attempts.find(is_decided).expect("it is decided some time");
        matches!(again, Ok(Response::Replayed { version, done: Done::Created, .. }) if version == *first)
    })
}

#[test]
fn a_retry_is_answered_as_the_first_attempt_was() {
    let mut world = formed(3, 1);
    let versions = create_all(&mut world);
    for slot in (0..3).map(Slot) {
        assert!(are_known(&mut world, slot, &versions));
    }
    let replaced = ask(&mut world, Slot(0), "put", put(0, "second", PutMode::Upsert));
    let Ok(Response::Written { version, created: false, .. }) = replaced else { panic!("{replaced:?}") };
    let later = ask(&mut world, Slot(1), "put-2", put(0, "third", PutMode::Upsert));
    let Ok(Response::Written { version: newest, .. }) = later else { panic!("{later:?}") };
    let again = ask(&mut world, Slot(1), "put", put(0, "second", PutMode::Upsert));
    assert!(matches!(again, Ok(Response::Replayed { version: told, done: Done::Replaced, .. }) if told == version));
    assert_eq!(read(&mut world, Slot(2), 0), Some(newest), "the retry has undone a later write");
    let gone = ask(&mut world, Slot(2), "delete", delete(0, newest));
    let Ok(Response::Deleted { version, .. }) = gone else { panic!("{gone:?}") };
    let again = ask(&mut world, Slot(0), "delete", delete(0, newest));
    assert!(matches!(again, Ok(Response::Replayed { version: told, done: Done::Deleted, .. }) if told == version));
}

#[test]
fn a_key_that_stands_for_another_request_is_refused_and_a_refusal_is_not_remembered() {
    let mut world = formed(3, 2);
    create_all(&mut world);
    for other in [put(0, "another value", PutMode::Create), put(0, "first", PutMode::Upsert), delete(0, Version(1))] {
        let refused = ask(&mut world, Slot(1), "create-0", other);
        assert_eq!(refused, Err(Error::IdempotencyMismatch));
    }
    let exists = ask(&mut world, Slot(0), "refused", put(1, "x", PutMode::Create));
    let Err(Error::Exists { current }) = exists else { panic!("{exists:?}") };
    ask(&mut world, Slot(0), "away", delete(1, current)).expect("it is deleted");
    let created = ask(&mut world, Slot(0), "refused", put(1, "x", PutMode::Create));
    assert!(matches!(created, Ok(Response::Written { created: true, .. })), "{created:?}");
}

/// Whether every write is still known after each node has died in its turn and come back empty.
fn survives_everybodys_death(seed: u64) -> bool {
    let mut world = formed(3, seed);
    let versions = create_all(&mut world);
    for dead in (0..3).map(Slot) {
        world.kill(dead);
        if !are_known(&mut world, Slot((dead.0 + 1) % 3), &versions) {
            return false;
        }
        world.start(dead);
        assert!(world.run_until(PATIENCE, is_whole), "{dead} did not come back");
    }
    are_known(&mut world, Slot(0), &versions)
}

#[test]
fn who_takes_over_and_who_is_filled_know_what_was_done() {
    assert!(survives_everybodys_death(3));
    for mutant in [Mutant::ForgetOnce, Mutant::LearnerForgetsOnce] {
        let is_noticed = with_broken(mutant, || !survives_everybodys_death(3));
        assert!(is_noticed, "{mutant:?} was not noticed");
    }
}

#[test]
fn two_attempts_at_the_same_time_are_one_write() {
    let mut world = formed(3, 4);
    let operation = || put(0, "first", PutMode::Upsert);
    let request = || Request { once: Once::new("twice", &operation()), ..Request::new(operation(), 1900) };
    let asked: Vec<_> =
        (0..3).map(|slot| (Slot(slot), world.submit(Slot(slot), request()).expect("it runs"))).collect();
    world.run(Duration::from_millis(50));
    let mut written = 0;
    let mut versions = Vec::new();
    for (slot, (shard, submitted)) in asked {
        let answer = match submitted {
            jumpgate::node::Submitted::Now(answer) => Some(answer),
            jumpgate::node::Submitted::Later(id) => world.take_answer(slot, shard, id),
        };
        match answer {
            Some(Ok(Response::Written { version, .. })) => {
                written += 1;
                versions.push(version);
            }
            Some(Ok(Response::Replayed { version, .. })) => versions.push(version),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((written, versions.len()), (1, 3));
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
}
