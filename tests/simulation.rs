//! Whole clusters on a virtual clock: chosen situations first, then faults drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use jumpgate::api::{Consistency, Error, EventKind, Key, Operation, Outcome, Precondition, PutMode, Request, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Blob, Slot};
use jumpgate::sim::{Cut, Scenario, World, WorldOptions, is_whole};

const PATIENCE: Duration = Duration::from_secs(10);

fn formed(nodes: usize, seed: u64) -> World {
    let mut world = World::new(WorldOptions { nodes, ..WorldOptions::default() }, seed);
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
    world
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn request(operation: Operation) -> Request {
    Request::new(operation, 1500)
}

fn put(world: &mut World, slot: Slot, name: &str, value: &str) -> Result<Response, Error> {
    let operation = Operation::Put {
        key: key(name),
        value: Blob::from(value.as_bytes()),
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::NONE,
    };
    world.ask(slot, request(operation)).expect("an answer within the deadline")
}

fn get(world: &mut World, slot: Slot, name: &str) -> Result<Response, Error> {
    let operation = Operation::Get { key: key(name), consistency: Consistency::Linearizable };
    world.ask(slot, request(operation)).expect("an answer within the deadline")
}

fn value(result: &Result<Response, Error>) -> Option<&[u8]> {
    match result {
        Ok(Response::Value(value)) => Some(&value.bytes),
        _ => None,
    }
}

#[test]
fn every_node_takes_every_key_and_gives_it_back() {
    let mut world = formed(3, 1);
    for nth in 0..30 {
        let name = format!("key {nth}");
        let written = put(&mut world, Slot(nth % 3), &name, &name);
        assert!(matches!(written, Ok(Response::Written { created: true, copies: 2, .. })), "{written:?}");
        for slot in 0..3 {
            assert_eq!(value(&get(&mut world, Slot(slot), &name)), Some(name.as_bytes()));
        }
    }
}

#[test]
fn every_node_may_die_in_its_turn_and_nothing_is_lost() {
    let mut world = formed(3, 2);
    for nth in 0..60 {
        put(&mut world, Slot(0), &format!("key {nth}"), &format!("value {nth}")).expect("it is stored");
    }
    for dead in (0..3).map(Slot) {
        world.kill(dead);
        let asked = Slot((dead.0 + 1) % 3);
        for nth in 0..60 {
            let found = get(&mut world, asked, &format!("key {nth}"));
            assert_eq!(value(&found), Some(format!("value {nth}").as_bytes()), "{dead} is dead: {found:?}");
        }
        put(&mut world, asked, &format!("while {dead} is dead"), "written").expect("two of three go on");
        world.start(dead);
        assert!(world.run_until(PATIENCE, is_whole), "{dead} did not come back in full");
    }
    for dead in (0..3).map(Slot) {
        assert_eq!(value(&get(&mut world, Slot(0), &format!("while {dead} is dead"))), Some(&b"written"[..]));
    }
}

#[test]
fn without_a_quorum_writes_are_refused_for_certain() {
    let mut world = formed(3, 3);
    world.kill(Slot(1));
    world.kill(Slot(2));
    world.run(Duration::from_secs(1));
    let refused = put(&mut world, Slot(0), "key", "value").expect_err("one of three can't decide anything");
    assert_eq!(refused.outcome(), Outcome::Definite, "{refused}");
}

#[test]
fn a_node_whose_death_is_under_way_gets_no_lease() {
    let mut world = formed(3, 9);
    let leader = world.leader().expect("it has one");
    let [dying, other] = [1, 2].map(|nth| Slot((leader.0 + nth) % 3));
    let cut = |to| Cut { from: leader, to, pulse: false, stream: true };
    world.network.cuts = vec![cut(dying), cut(other)];
    world.pause(dying, Duration::from_millis(100));
    // Its death is proposed and can't be committed; it is back, and asks for leases.
    world.run(Duration::from_millis(140));
    world.network.cuts = vec![cut(dying)];
    world.run(Duration::from_millis(60));
    assert_eq!(world.complaints(), &[] as &[String]);
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole));
}

#[test]
fn a_restart_of_all_is_another_cluster_and_says_so() {
    let mut world = formed(3, 4);
    put(&mut world, Slot(0), "key", "value").expect("it is stored");
    let before = world.node(Slot(0)).expect("it runs").view().cluster;
    (0..3).for_each(|slot| world.kill(Slot(slot)));
    (0..3).for_each(|slot| world.start(Slot(slot)));
    assert!(world.run_until(PATIENCE, is_whole));
    assert_ne!(world.node(Slot(0)).expect("it runs").view().cluster, before);
    assert_eq!(get(&mut world, Slot(1), "key"), Ok(Response::NotFound));
}

#[test]
fn a_restarted_majority_founds_no_second_cluster() {
    let mut world = formed(3, 5);
    world.kill(Slot(1));
    world.kill(Slot(2));
    world.start(Slot(1));
    world.start(Slot(2));
    world.run(Duration::from_secs(30));
    for slot in [Slot(1), Slot(2)] {
        let view = world.node(slot).expect("it runs").view();
        assert_eq!(view.settings, None, "{slot} forgot what the survivor still knows");
    }
}

#[test]
fn a_listing_has_every_key_once_and_in_order_whatever_the_page() {
    let mut world = formed(5, 6);
    let mut expected = BTreeMap::new();
    for nth in 0..80 {
        let name = format!("{}/{nth:03}", if nth % 4 == 0 { "other" } else { "some" });
        put(&mut world, Slot(nth % 5), &name, "x").expect("it is stored");
        expected.insert(name, ());
    }
    for (slot, limit) in [(0, 1000), (1, 7), (2, 1), (3, 60)] {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let operation = Operation::List { prefix: Blob::from(&b"some/"[..]), after, limit, values: false };
            let answer = world.ask(Slot(slot), request(operation)).expect("an answer");
            let Ok(Response::Page(page)) = answer else { panic!("{answer:?}") };
            assert!(page.items.len() <= limit as usize);
            names.extend(page.items.iter().map(|item| item.key.to_string()));
            after = page.next_after;
            if after.is_none() {
                break;
            }
        }
        let some: Vec<&String> = expected.keys().filter(|name| name.starts_with("some/")).collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), some, "in pages of {limit}");
    }
}

#[test]
fn every_viewer_sees_every_change_in_the_order_of_its_key() {
    let mut world = formed(3, 7);
    (0..3).for_each(|slot| world.watch(Slot(slot)));
    assert!(world.run_until(PATIENCE, |world| (0..3).all(|slot| world.seen(Slot(slot)).is_some())));
    for nth in 0..40 {
        put(&mut world, Slot(nth % 3), &format!("key {}", nth % 8), "x").expect("it is stored");
    }
    let operation = Operation::Delete { key: key("key 3"), precondition: Precondition::NONE };
    world.ask(Slot(1), request(operation)).expect("an answer").expect("it was there");
    world.run(Duration::from_millis(100));
    for slot in (0..3).map(Slot) {
        let seen = world.seen(slot).expect("it is live");
        assert_eq!(seen.len(), 41, "{slot}");
        assert_eq!(seen.iter().filter(|event| event.kind == EventKind::Delete).count(), 1);
        let mut versions = BTreeMap::new();
        for event in seen {
            let before = versions.insert(event.key.clone(), event.version);
            assert!(before.is_none_or(|before| before < event.version), "{slot}: {event:?} after {before:?}");
        }
    }
}

#[test]
fn a_value_expires_everywhere_and_its_viewers_are_told() {
    let mut world = formed(3, 8);
    world.watch(Slot(2));
    assert!(world.run_until(PATIENCE, |world| world.seen(Slot(2)).is_some()));
    let operation = Operation::Put {
        key: key("short"),
        value: Blob::from(&b"lived"[..]),
        content_type: None,
        ttl_ms: Some(300),
        mode: PutMode::Create,
        precondition: Precondition::NONE,
    };
    world.ask(Slot(0), request(operation)).expect("an answer").expect("it is stored");
    assert_eq!(value(&get(&mut world, Slot(1), "short")), Some(&b"lived"[..]));
    world.run(Duration::from_millis(400));
    for slot in 0..3 {
        assert_eq!(get(&mut world, Slot(slot), "short"), Ok(Response::NotFound));
    }
    let kinds: Vec<EventKind> = world.seen(Slot(2)).expect("it is live").iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Put, EventKind::Expire]);
}

/// Runs seeds on all cores' behalf of the test harness; a seed that fails is told with its story's end and how to repeat it.
fn run(seeds: std::ops::Range<u64>, nodes: usize) {
    run_in(seeds, WorldOptions { nodes, ..WorldOptions::default() });
}

fn run_in(seeds: std::ops::Range<u64>, world: WorldOptions) {
    let nodes = world.nodes;
    let scenario = Scenario { world, ..Scenario::of(nodes) };
    for seed in seeds {
        let outcome = scenario.run(seed);
        if !outcome.complaints.is_empty() {
            let story = scenario.verbose().run(seed).story;
            let lines: Vec<&str> = story.lines().collect();
            let end = lines[lines.len().saturating_sub(200)..].join("\n");
            panic!(
                "{end}\nseed {seed} with {nodes} nodes: {:#?}\nagain: cargo run --release --features sim --example simulate \
                 -- {seed} 1 {nodes}",
                outcome.complaints
            );
        }
    }
}

#[test]
fn three_nodes_survive_faults() {
    run(0..200, 3);
}

#[test]
fn four_nodes_survive_faults() {
    run(0..150, 4);
}

#[test]
fn nodes_with_a_secret_survive_faults() {
    let secrets = "correct horse battery staple".to_owned();
    run_in(0..50, WorldOptions { nodes: 3, secrets, ..WorldOptions::default() });
}

#[test]
fn five_nodes_survive_faults() {
    run(0..150, 5);
}

#[test]
fn seven_nodes_survive_faults() {
    run(0..100, 7);
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for nodes in [3, 5] {
        let scenario = Scenario::of(nodes);
        let first = scenario.run(7);
        assert_eq!(first.trace, scenario.run(7).trace);
        assert_eq!(first.trace, scenario.verbose().run(7).trace, "to tell it changes nothing");
        assert_ne!(first.trace, scenario.run(8).trace);
    }
}

/// A few rules are broken, of which each is noticed soon; `examples/mutants.rs` breaks them all.
#[test]
fn broken_rules_are_noticed() {
    for mutant in [
        Mutant::TwoVotes,
        Mutant::QuorumOfHalf,
        Mutant::NoCheckQuorum,
        Mutant::OldHeartbeatCounts,
        Mutant::AckBeforeCopies,
        Mutant::ReadWithoutLease,
        Mutant::LeaderReadsPending,
        Mutant::LeaderReadsLearner,
        Mutant::ProposedDontCount,
        Mutant::ForgetOnce,
    ] {
        let noticed = (0..400).any(|seed| {
            let scenario = Scenario::of([3, 4, 5][seed as usize % 3]);
            !with_broken(mutant, || scenario.run(seed)).complaints.is_empty()
        });
        assert!(noticed, "{mutant:?} was not noticed in 400 seeds");
    }
}
