//! Nodes that are told to stop: they hand over what they lead, and are let go before they end.

use std::time::Duration;

use jumpgate::api::{AdminAction, Consistency, Error, Key, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Blob, Instant, RequestId, ShardId, Slot};
use jumpgate::node::Submitted;
use jumpgate::sim::{World, WorldOptions, is_whole, judge_orders, misplaced};

const PATIENCE: Duration = Duration::from_secs(15);
/// Whoever waits for a node to be found silent waits longer than this: `down` and the rest of a lease.
const UNNOTICED: Duration = Duration::from_millis(85);
/// Of stops under load. In the last three a request is under way at the node when it goes.
const SEEDS: [u64; 9] = [0, 1, 2, 3, 4, 5, 18, 23, 28];

fn formed(nodes: usize, seed: u64) -> World {
    let mut world = World::new(WorldOptions { nodes, ..WorldOptions::default() }, seed);
    assert!(world.run_until(PATIENCE, |world| is_whole(world) && misplaced(world) == 0), "the cluster did not form");
    world
}

fn key(nth: usize) -> Key {
    format!("key {nth}").parse().expect("a key")
}

fn put(nth: usize) -> Request {
    let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
    let value = Blob::from(format!("value {nth}").as_bytes());
    let put = Operation::Put { key: key(nth), value, content_type: None, ttl_ms: None, mode, precondition };
    Request::new(put, 1500)
}

fn read(nth: usize) -> Request {
    Request::new(Operation::Get { key: key(nth), consistency: Consistency::Linearizable }, 1500)
}

/// Requests under way, and what was said to those that are over.
#[derive(Default)]
struct Asked {
    open: Vec<(Slot, ShardId, RequestId, Instant)>,
    errors: Vec<Error>,
    longest: Duration,
}

impl Asked {
    fn ask(&mut self, world: &mut World, slot: Slot, request: Request) {
        match world.submit(slot, request).expect("it runs") {
            (_, Submitted::Now(result)) => self.errors.extend(result.err()),
            (shard, Submitted::Later(id)) => self.open.push((slot, shard, id, world.now)),
        }
    }

    fn look(&mut self, world: &mut World) {
        for (slot, shard, id, since) in std::mem::take(&mut self.open) {
            if !world.has_answer(slot, shard, id) {
                self.open.push((slot, shard, id, since));
            } else if let Some(answer) = world.take_answer(slot, shard, id) {
                self.errors.extend(answer.err());
                self.longest = self.longest.max(world.now.since(since));
            }
        }
    }
}

/// A node of three, the leader or another one, stops and comes back while clients ask all nodes that are there.
fn stop_under_load(seed: u64) -> (Asked, World) {
    let mut world = formed(3, seed);
    (0..4).for_each(|_| world.add_client());
    let leader = world.leader().expect("one leads");
    let victim = Slot((leader.0 + (seed % 3) as u8) % 3);
    let ticket = world.tell_to_stop(victim).expect("it runs");
    let (mut asked, mut nth, mut let_go_at) = (Asked::default(), 0, None);
    // Until half a second after it has ended.
    while let_go_at.is_none_or(|at| world.now.since(at) < Duration::from_millis(500)) {
        let slot = Slot((nth % 3) as u8);
        if world.node(slot).is_some() && (slot != victim || let_go_at.is_none()) {
            asked.ask(&mut world, slot, if nth % 4 > 0 { put(nth % 48) } else { read(nth % 48) });
        }
        world.run(Duration::from_micros(500));
        asked.look(&mut world);
        match world.stop_answer(ticket) {
            Some(true) if let_go_at.is_none() => let_go_at = Some(world.now),
            Some(false) => panic!("seed {seed}: {victim} is not let go"),
            _ => {}
        }
        // It answers what it was asked before, and is there for a moment longer.
        if let_go_at.is_some_and(|at| world.now.since(at) > Duration::from_millis(100)) {
            world.kill(victim);
        }
        nth += 1;
        assert!(nth < 20_000, "seed {seed}: nothing came of it");
    }
    // What was asked last is waited for here, past its deadline: later it isn't looked at so often.
    for _ in 0..4000 {
        if asked.open.is_empty() {
            break;
        }
        world.run(Duration::from_micros(500));
        asked.look(&mut world);
    }
    world.start(victim);
    world.clients.stop();
    let is_well = |world: &World| is_whole(world) && misplaced(world) == 0 && world.clients.are_idle();
    assert!(world.run_until(PATIENCE, is_well), "seed {seed}: {:?}", world.complaints());
    asked.look(&mut world);
    judge_orders(&mut world);
    (asked, world)
}

#[test]
fn clients_notice_nothing_of_a_node_that_stops_in_order() {
    for seed in SEEDS {
        let (asked, world) = stop_under_load(seed);
        assert_eq!(world.complaints(), &[] as &[String], "seed {seed}");
        assert_eq!(asked.errors, [], "seed {seed}");
        assert!(asked.open.is_empty(), "seed {seed}: {} were never answered", asked.open.len());
        assert!(asked.longest < UNNOTICED, "seed {seed}: somebody waited for {:?}", asked.longest);
    }
}

#[test]
fn clients_notice_a_node_that_is_let_go_while_it_leads() {
    let notice = |seed| {
        let (asked, _) = with_broken(Mutant::LetGoWhileLeading, || stop_under_load(seed));
        !asked.errors.is_empty() || asked.longest >= UNNOTICED
    };
    assert!(SEEDS.into_iter().any(notice), "nobody noticed anything");
}

/// While one of three is dead, another one is told to stop; whether it is let go.
fn stop_beside_the_dead(world: &mut World) -> Option<bool> {
    let leader = world.leader().expect("one leads");
    let (dead, told) = (Slot((leader.0 + 1) % 3), Slot((leader.0 + 2) % 3));
    world.kill(dead);
    // What it held is in full elsewhere by then: only its vote is missed.
    world.run(Duration::from_millis(1800));
    let ticket = world.tell_to_stop(told).expect("it runs");
    world.run(Duration::from_millis(1000));
    let before = world.stop_answer(ticket);
    world.start(dead);
    world.run_until(PATIENCE, |world| world.stop_answer(ticket).is_some());
    assert_eq!(world.stop_answer(ticket), Some(true), "once the other one is back it goes");
    before
}

#[test]
fn nobody_is_let_go_whose_vote_the_others_need() {
    let mut world = formed(3, 7);
    assert_eq!(stop_beside_the_dead(&mut world), None);
    assert_eq!(world.complaints(), &[] as &[String]);
    let broken = with_broken(Mutant::LetGoWithoutMajority, || stop_beside_the_dead(&mut formed(3, 7)));
    assert_eq!(broken, Some(true));
}

/// A node was let go and takes its time to end; whether it ever has any roles then.
fn slow_to_end(seed: u64) -> bool {
    let mut world = formed(3, seed);
    let leader = world.leader().expect("one leads");
    let slow = Slot((leader.0 + 1) % 3);
    let ticket = world.tell_to_stop(slow).expect("it runs");
    assert!(world.run_until(PATIENCE, |world| world.stop_answer(ticket) == Some(true)));
    world.run_until(Duration::from_secs(2), |world| {
        let view = world.leader().and_then(|leader| world.node(leader)).map(|node| node.view());
        view.is_some_and(|view| {
            view.up.contains(slow) || view.table.iter().any(|record| record.members().contains(slow))
        })
    })
}

#[test]
fn who_was_let_go_gets_nothing_back_however_long_it_lives() {
    assert!(!slow_to_end(9));
    assert!(with_broken(Mutant::StoppingReturns, || slow_to_end(9)));
}

/// A follower that nobody hears is told to stop, and is heard again once it was declared down. Whether it is decided that it
/// stops when it takes itself for let go.
fn stop_unheard(seed: u64) -> bool {
    let mut world = formed(3, seed);
    let leader = world.leader().expect("one leads");
    let unheard = Slot((leader.0 + 1) % 3);
    world.network.isolate(unheard, true, true);
    let ticket = world.tell_to_stop(unheard).expect("it runs");
    let is_down = |world: &World| !world.node(leader).expect("it runs").view().up.contains(unheard);
    assert!(world.run_until(PATIENCE, is_down), "it isn't declared down");
    world.network.calm();
    assert!(world.run_until(PATIENCE, |world| world.stop_answer(ticket) == Some(true)), "it is not let go");
    let state = world.node(unheard).expect("it runs").control().state().expect("it belongs to a cluster");
    state.node(unheard).stopping
}

#[test]
fn who_was_found_silent_goes_only_when_it_is_let_go() {
    assert!(stop_unheard(40));
    assert!(!with_broken(Mutant::SilentIsLetGo, || stop_unheard(40)));
}

/// Of three nodes one is told to stop and can't be let go, since another one isn't heard; that one is removed meanwhile, and heard
/// again. Whether the first one is let go then, and comes back to a cluster of two.
fn remove_beside_one_that_goes(seed: u64) -> bool {
    let mut world = formed(3, seed);
    let leader = world.leader().expect("one leads");
    let (goes, removed) = (Slot((leader.0 + 1) % 3), Slot((leader.0 + 2) % 3));
    world.network.isolate(removed, true, true);
    let is_down = |world: &World| !world.node(leader).expect("it runs").view().up.contains(removed);
    assert!(world.run_until(PATIENCE, is_down), "it isn't declared down");
    let ticket = world.tell_to_stop(goes).expect("it runs");
    world.run(Duration::from_millis(100));
    world.wish(leader, AdminAction::RemoveNode { node: format!("n{}", removed.0 + 1) });
    world.run(Duration::from_secs(1));
    world.network.calm();
    if !world.run_until(PATIENCE, |world| world.stop_answer(ticket).is_some())
        || world.stop_answer(ticket) != Some(true)
    {
        return false;
    }
    world.kill(goes);
    world.start(goes);
    world.run_until(PATIENCE, |world| {
        let leader = world.leader().and_then(|leader| world.node(leader));
        leader.is_some_and(|leader| leader.view().up.contains(goes) && !leader.view().roster.slots.contains(removed))
    })
}

#[test]
fn no_vote_is_taken_away_that_only_one_who_goes_could_make_up_for() {
    assert!(remove_beside_one_that_goes(41));
    assert!(!with_broken(Mutant::VotesLeftToWhoGoes, || remove_beside_one_that_goes(41)));
}

#[test]
fn where_all_are_told_to_stop_nobody_waits_for_anybody() {
    for seed in 20..24 {
        let mut world = formed(3, seed);
        let tickets: Vec<u64> = (0..3).filter_map(|slot| world.tell_to_stop(Slot(slot))).collect();
        let all_told = |world: &World| tickets.iter().all(|ticket| world.stop_answer(*ticket).is_some());
        assert!(world.run_until(Duration::from_secs(2), all_told), "seed {seed}: somebody waits");
        assert_eq!(world.complaints(), &[] as &[String], "seed {seed}");
    }
}

/// What only the stopping node has in full has to be copied before it goes.
fn stop_beside_a_blank_node(seed: u64) -> Vec<Option<Result<Response, Error>>> {
    let mut world = formed(3, seed);
    (0..48).for_each(|nth| drop(world.ask(Slot(0), put(nth))));
    let leader = world.leader().expect("one leads");
    let (blank, told) = (Slot((leader.0 + 1) % 3), Slot((leader.0 + 2) % 3));
    world.kill(blank);
    world.run(Duration::from_millis(300));
    world.start(blank);
    let is_back = |world: &World| {
        let view = world.node(leader).expect("it runs").view();
        world.node(blank).is_some_and(|node| view.registered(blank) == Some(node.view().me) && view.up.contains(blank))
    };
    while !is_back(&world) {
        world.run(Duration::from_micros(100));
    }
    // It is filled slowly.
    world.network.delay_jitter = Duration::from_millis(20);
    let ticket = world.tell_to_stop(told).expect("it runs");
    assert!(world.run_until(PATIENCE, |world| world.stop_answer(ticket) == Some(true)), "it is not let go");
    world.kill(told);
    world.network.calm();
    world.start(told);
    world.run(Duration::from_secs(3));
    (0..48).map(|nth| world.ask(leader, read(nth))).collect()
}

#[test]
fn who_has_the_last_copy_of_something_stays_until_there_is_another() {
    let is_there = |answer: &Option<Result<Response, Error>>| matches!(answer, Some(Ok(Response::Value(_))));
    for seed in 30..33 {
        let answers = stop_beside_a_blank_node(seed);
        assert!(answers.iter().all(is_there), "seed {seed}: {answers:?}");
    }
}
