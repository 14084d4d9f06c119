//! Partitions that others lead for a while, and that go back to their target primaries.

use std::time::Duration;

use jumpgate::api::{AdminAction, Consistency, Error, Key, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Blob, Options, PartitionId, RequestId, ShardId, Slot, SlotSet};
use jumpgate::node::Submitted;
use jumpgate::placement::{PlacementMap, owners, partition_of};
use jumpgate::replica::Replica;
use jumpgate::sim::{Cut, World, WorldOptions, is_whole, judge_orders, misplaced};

const PATIENCE: Duration = Duration::from_secs(15);
const PARTITIONS: u16 = 16;
/// `demote_after`, and time to decide.
const SET_ASIDE_WITHIN: Duration = Duration::from_secs(4);

fn formed(nodes: usize, seed: u64) -> World {
    formed_with(nodes, PARTITIONS, seed)
}

fn formed_with(nodes: usize, partitions: u16, seed: u64) -> World {
    let options = WorldOptions { nodes, partitions, ..WorldOptions::default() };
    let mut world = World::new(options, seed);
    assert!(world.run_until(PATIENCE, |world| is_whole(world) && misplaced(world) == 0), "the cluster did not form");
    world
}

fn key(nth: usize) -> Key {
    format!("key {nth}").parse().expect("a key")
}

fn put(nth: usize, value: &str) -> Request {
    let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
    let value = Blob::from(value.as_bytes());
    let put = Operation::Put { key: key(nth), value, content_type: None, ttl_ms: None, mode, precondition };
    Request::new(put, 1500)
}

fn read(nth: usize) -> Request {
    Request::new(Operation::Get { key: key(nth), consistency: Consistency::Linearizable }, 1500)
}

/// Kills a node and starts it again: others lead its partitions then, until they give them back.
fn misplace(world: &mut World, slot: Slot) {
    world.kill(slot);
    let nodes = world.options.nodes as u8;
    let lacks = move |world: &World| {
        let other = Slot((slot.0 + 1) % nodes);
        world.node(other).is_some_and(|node| !node.view().up.contains(slot))
    };
    assert!(world.run_until(PATIENCE, lacks), "{slot} is not missed");
    world.start(slot);
    assert!(world.run_until(PATIENCE, is_whole), "{slot} did not come back");
    assert!(misplaced(world) > 0, "{slot} leads already: there is nothing to be seen");
}

fn replicas(world: &World, slot: Slot) -> impl Iterator<Item = &Replica> {
    let shards = world.node(slot).expect("it runs").shards();
    (0..world.options.partitions)
        .map(PartitionId)
        .filter_map(move |partition| shards[ShardId::of(partition, shards.len() as u16).index()].replica(partition))
}

/// Lets time pass until some node that doesn't lead the cluster is about to give a partition back to `to`, one that `is_meant`,
/// and tells which node and partition.
fn wait_for_giver(world: &mut World, to: Slot, is_meant: impl Fn(Slot, PartitionId) -> bool) -> (Slot, PartitionId) {
    let nodes = world.options.nodes as u8;
    for _ in 0..400_000 {
        for slot in (0..nodes).map(Slot).filter(|slot| *slot != to && Some(*slot) != world.leader()) {
            let mut given = replicas(world, slot).filter(|replica| replica.is_giving_back()).map(Replica::partition);
            if let Some(partition) = given.find(|partition| is_meant(slot, *partition)) {
                return (slot, partition);
            }
        }
        world.run(Duration::from_micros(20));
    }
    panic!("nobody but the leader gives anything back to {to}");
}

/// Whom a primary couldn't reach it takes for mute, so that not each of its partitions has to wait for them in turn. That it
/// was cut off itself it can't know; and what it thought then is nothing to go by when it leads again.
#[test]
fn who_was_cut_off_evicts_nobody_when_it_gets_its_partitions_back() {
    for seed in 24..40 {
        let mut world = formed(3, seed);
        let Some(leader) = world.leader() else { panic!("nobody leads") };
        let lost = Slot((leader.0 + 1) % 3);
        for other in (0..3).map(Slot).filter(|other| *other != lost) {
            for (from, to) in [(lost, other), (other, lost)] {
                world.network.cuts.push(Cut { from, to, pulse: true, stream: true });
            }
        }
        (0..48).for_each(|nth| drop(ask(&mut world, lost, put(nth, "for somebody who can't be reached"))));
        world.run(Duration::from_millis(620 + 5 * seed));
        world.network.cuts.clear();
        assert!(world.run_until(PATIENCE, is_whole) && misplaced(&world) > 0, "seed {seed}: {:?}", world.complaints());
        let mut fewest = usize::MAX;
        while misplaced(&world) > 0 || !is_whole(&world) {
            let view = world.node(leader).expect("it runs").view();
            fewest = fewest.min(view.table.iter().map(|record| record.in_sync.len()).min().unwrap_or_default());
            world.run(Duration::from_micros(200));
        }
        assert_eq!(fewest, 2, "seed {seed}: somebody was evicted in peace");
    }
}

type Asked = (Slot, Result<Result<Response, Error>, (ShardId, RequestId)>);

fn ask(world: &mut World, slot: Slot, request: Request) -> Asked {
    match world.submit(slot, request).expect("it runs") {
        (_, Submitted::Now(result)) => (slot, Ok(result)),
        (shard, Submitted::Later(id)) => (slot, Err((shard, id))),
    }
}

fn answer(world: &mut World, (slot, asked): Asked) -> Result<Response, Error> {
    match asked {
        Ok(result) => result,
        Err((shard, id)) => world.take_answer(slot, shard, id).expect("an answer in time"),
    }
}

/// Reads and writes through all nodes while partitions are given back; the errors that clients are told meanwhile.
fn errors_while_given_back(seed: u64) -> Vec<Error> {
    let mut world = formed(3, seed);
    (0..6).for_each(|_| world.add_client());
    misplace(&mut world, Slot((seed % 3) as u8));
    let before = world.counts.get("given back").copied().unwrap_or_default();
    let mut asked = Vec::new();
    let mut nth = 0;
    while misplaced(&world) > 0 && nth < 40_000 {
        let slot = Slot((nth % 3) as u8);
        let request = if nth % 4 > 0 { put(nth % 48, "while they go") } else { read(nth % 48) };
        asked.push(ask(&mut world, slot, request));
        let is_giving = (0..3).map(Slot).any(|slot| replicas(&world, slot).any(Replica::is_giving_back));
        world.run(Duration::from_micros(if is_giving { 5 } else { 300 }));
        nth += 1;
    }
    assert!(misplaced(&world) == 0, "{} partitions are not given back", misplaced(&world));
    assert!(world.counts["given back"] > before, "nothing was given back");
    world.clients.stop();
    assert!(world.run_until(PATIENCE, |world| world.clients.are_idle()));
    world.run(Duration::from_secs(2));
    judge_orders(&mut world);
    assert_eq!(world.complaints(), &[] as &[String]);
    asked.into_iter().filter_map(|asked| answer(&mut world, asked).err()).collect()
}

#[test]
fn partitions_go_back_after_a_restart_and_clients_notice_nothing() {
    for seed in 1..4 {
        assert_eq!(errors_while_given_back(seed), &[], "seed {seed}");
    }
}

#[test]
fn a_primary_that_orders_writes_while_it_gives_a_partition_back_is_noticed() {
    let errors = with_broken(Mutant::GivingKeepsWrites, || errors_while_given_back(0));
    assert!(errors.iter().any(|error| matches!(error, Error::OutcomeUnknown(_))), "{errors:?}");
}

#[test]
fn every_node_leads_what_it_should_when_all_have_restarted() {
    let mut world = formed(4, 5);
    for slot in (0..4).map(Slot) {
        misplace(&mut world, slot);
        assert!(world.run_until(PATIENCE, |world| misplaced(world) == 0 && is_whole(world)));
    }
    let view = world.node(Slot(0)).expect("it runs").view().clone();
    let targets = PlacementMap::derive(PARTITIONS, SlotSet::first(4), view.roster.replicas);
    for slot in (0..4).map(Slot) {
        let led = view.table.iter().filter(|record| record.primary == Some(slot)).count();
        assert_eq!(led, targets.primaries_of(slot), "{slot}");
    }
    assert!(view.table.iter().all(|record| record.former.is_none()), "{:?}", view.table);
    assert_eq!(world.complaints(), &[] as &[String]);
}

/// The times are wide, so that a member is evicted long before it could be declared down for its silence, and while its
/// leases last.
fn widen_times(world: &mut World) {
    world.network.delay_jitter = Duration::from_millis(300);
    world.run(Duration::from_millis(1500));
    world.network.calm();
    assert!(world.run_until(PATIENCE, is_whole));
}

/// Nothing reaches `slot` on the stream plane.
fn deafen(world: &mut World, slot: Slot) {
    let others = (0..world.options.nodes as u8).map(Slot).filter(|other| *other != slot);
    world.network.cuts.extend(others.map(|from| Cut { from, to: slot, pulse: false, stream: true }));
}

/// The former primary doesn't hear that what it has proposed is decided, and its lease goes on.
fn deaf_former_primary(seed: u64) -> World {
    let mut world = formed(3, seed);
    (0..48).for_each(|nth| drop(world.ask(Slot(0), put(nth, "before"))));
    let leader = world.leader().expect("one leads");
    let back = Slot((leader.0 + 1) % 3);
    widen_times(&mut world);
    misplace(&mut world, back);
    let (former, partition) = wait_for_giver(&mut world, back, |_, _| true);
    deafen(&mut world, former);
    let nth = (0..48).find(|nth| partition_of(key(*nth).as_bytes(), PARTITIONS) == partition).expect("some key");
    for _ in 0..200 {
        let _ = ask(&mut world, back, put(nth, "after"));
        let _ = ask(&mut world, former, read(nth));
        world.run(Duration::from_millis(10));
    }
    world
}

#[test]
fn a_former_primary_that_does_not_know_yet_reads_no_longer_than_its_lease() {
    for seed in [12, 16, 17, 22] {
        let mut world = deaf_former_primary(seed);
        assert_eq!(world.complaints(), &[] as &[String], "seed {seed}");
        world.network.calm();
        assert!(world.run_until(PATIENCE, |world| is_whole(world) && misplaced(world) == 0));
        for mutant in [Mutant::FormerPrimaryEvictedAtOnce, Mutant::FormerPrimaryLeased] {
            let broken = with_broken(mutant, || deaf_former_primary(seed));
            let complaints = broken.complaints();
            assert!(complaints.iter().any(|words| words.contains("answers reads of")), "{mutant:?}: {complaints:?}");
        }
    }
}

/// A partition is led by one who isn't its owner any more; while it gives that back, the roster changes.
fn stand_in_gives_back(seed: u64) -> World {
    let mut world = formed_with(7, 64, seed);
    let leader = world.leader().expect("one leads");
    // Those who own a partition are lost one after the other, so that only such are left who stood in for them.
    let lost: Vec<Slot> = (1..=4).map(|nth| Slot((leader.0 + nth) % 7)).collect();
    for slot in &lost {
        world.kill(*slot);
        world.run(SET_ASIDE_WITHIN);
    }
    lost.iter().for_each(|slot| world.start(*slot));
    assert!(world.run_until(PATIENCE, is_whole), "not all came back");
    let owners = |partition| owners(partition, SlotSet::first(7), Options::replicas_auto(7));
    let is_fit = |slot, partition| owners(partition).iter().all(|owner| lost.contains(&owner)) && !lost.contains(&slot);
    let (former, partition) = wait_for_giver(&mut world, lost[0], is_fit);
    deafen(&mut world, former);
    let is_other = |slot: &Slot| ![leader, former].contains(slot) && !lost.contains(slot);
    let other = (0..7).map(Slot).find(is_other).unwrap_or_else(|| panic!("{former} gives {partition} back"));
    let is_given = |world: &World| {
        let record = world.node(leader).and_then(|node| node.view().record(partition).copied());
        record.is_some_and(|record| record.former == Some(former))
    };
    assert!(world.run_until(Duration::from_millis(50), is_given));
    world.wish(leader, AdminAction::Drain { node: format!("n{}", other.0 + 1) });
    world.run(Duration::from_secs(1));
    world
}

#[test]
fn a_former_primary_that_owns_nothing_stays_until_it_is_known_to_have_stopped() {
    let world = stand_in_gives_back(21);
    assert_eq!(world.complaints(), &[] as &[String]);
    let broken = with_broken(Mutant::FormerPrimaryDismissed, || stand_in_gives_back(21));
    assert!(broken.complaints().iter().any(|words| words.contains("answers reads of")), "{:?}", broken.complaints());
}
