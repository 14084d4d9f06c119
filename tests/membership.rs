//! Who belongs to the cluster, and who leads it: what operators wish, and what a leader does about the long silent.

#[path = "support/simulated.rs"]
mod simulated;

use std::time::Duration;

use jumpgate::api::{
    AdminAction, AdminReport, AdminRequest, Consistency, Error, Operation, Precondition, PutMode, Request, Response,
};
use jumpgate::base::{Blob, PartitionRecord, Slot, SlotSet, Term};
use jumpgate::node::Node;
use jumpgate::sim::{Cut, World, WorldOptions, is_whole};
use simulated::{PATIENCE, formed, key};

const KEYS: usize = 60;

fn ask(world: &mut World, slot: Slot, operation: Operation) -> Result<Response, Error> {
    world.ask(slot, Request::new(operation, 1500)).expect("an answer within the deadline")
}

fn writing(nth: usize) -> Operation {
    let value = Blob::from(format!("value {nth}").into_bytes());
    let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
    Operation::Put { key: key(nth), value, content_type: None, ttl_ms: None, mode, precondition }
}

fn put(world: &mut World, slot: Slot, nth: usize) -> Result<Response, Error> {
    ask(world, slot, writing(nth))
}

fn has(world: &mut World, slot: Slot, nth: usize) -> bool {
    let read = Operation::Get { key: key(nth), consistency: Consistency::Linearizable };
    matches!(ask(world, slot, read), Ok(Response::Value(value)) if value.bytes[..] == *format!("value {nth}").as_bytes())
}

fn fill(world: &mut World, slot: Slot) {
    (0..KEYS).for_each(|nth| drop(put(world, slot, nth).expect("it is stored")));
}

fn assert_all_there(world: &mut World, slot: Slot) {
    let missing: Vec<usize> = (0..KEYS).filter(|&nth| !has(world, slot, nth)).collect();
    assert!(missing.is_empty(), "{slot} doesn't find the keys {missing:?}");
}

fn wish(world: &mut World, slot: Slot, action: AdminAction) -> Result<AdminReport, Error> {
    let request = AdminRequest { action, dry_run: false };
    world.request(slot, &request, PATIENCE).expect("an answer in time")
}

fn name(slot: Slot) -> String {
    format!("n{}", slot.0 + 1)
}

fn other_than(slot: Slot, nodes: u8) -> Slot {
    Slot((slot.0 + 1) % nodes)
}

fn term(world: &World, slot: Slot) -> Term {
    world.node(slot).and_then(|node| node.control().raft()).map_or(Term::ZERO, |raft| raft.term())
}

fn is_voter(node: &Node, slot: Slot) -> bool {
    node.control().raft().is_some_and(|raft| raft.membership().voters.iter().any(|voter| voter.slot == slot))
}

fn holds(node: &Node, slot: Slot) -> bool {
    node.view().table.iter().any(|record| record.members().contains(slot))
}

fn cut_off(world: &mut World, slot: Slot, nodes: u8) {
    for other in (0..nodes).map(Slot).filter(|&other| other != slot) {
        for (from, to) in [(slot, other), (other, slot)] {
            world.network.cuts.push(Cut { from, to, pulse: true, stream: true });
        }
    }
}

#[test]
fn a_leader_hands_over_to_the_named_node_in_one_term() {
    let mut world = formed(3, 1);
    fill(&mut world, Slot(0));
    let leader = world.leader().expect("one leads");
    let heir = other_than(leader, 3);
    let before = term(&world, leader);
    let report = wish(&mut world, leader, AdminAction::Transfer { to: Some(name(heir)) }).expect("it hands over");
    assert!(report.steps.last().is_some_and(|step| step.starts_with(&name(heir))), "{report:?}");
    assert_eq!(term(&world, heir), before.next(), "one election, and no other campaign");
    assert!(world.run_until(PATIENCE, is_whole));
    assert_eq!(world.leader(), Some(heir));
    assert_all_there(&mut world, leader);
    let refused = wish(&mut world, leader, AdminAction::Transfer { to: None });
    assert!(matches!(&refused, Err(Error::Conflict(why)) if why.contains(&name(heir))), "{refused:?}");
}

#[test]
fn a_plan_changes_nothing() {
    let mut world = formed(3, 2);
    let leader = world.leader().expect("one leads");
    let node = name(other_than(leader, 3));
    for action in [AdminAction::Transfer { to: Some(node.clone()) }, AdminAction::Drain { node }] {
        let planned = world.request(leader, &AdminRequest { action, dry_run: true }, PATIENCE).expect("an answer");
        assert!(!planned.expect("it could be done").steps.is_empty());
    }
    world.run(Duration::from_secs(2));
    assert!(is_whole(&world) && world.leader() == Some(leader));
    let unknown = wish(&mut world, leader, AdminAction::Drain { node: "n9".to_owned() });
    assert!(matches!(&unknown, Err(Error::BadRequest(why)) if why.contains("n1, n2, n3")), "{unknown:?}");
}

#[test]
fn a_drained_leader_hands_over_holds_nothing_and_gets_its_share_back_by_a_restart() {
    let mut world = formed(4, 3);
    fill(&mut world, Slot(0));
    let drained = world.leader().expect("one leads");
    wish(&mut world, drained, AdminAction::Drain { node: name(drained) }).expect("it is drained");
    let watcher = other_than(drained, 4);
    let is_empty = |world: &World| {
        world.leader() != Some(drained) && world.node(watcher).is_some_and(|node| !holds(node, drained))
    };
    assert!(world.run_until(PATIENCE, is_empty), "it still holds something or leads");
    assert!(world.node(watcher).is_some_and(|node| is_voter(node, drained)), "it keeps its vote");
    world.kill(drained);
    assert_all_there(&mut world, watcher);
    world.start(drained);
    let is_back = |world: &World| world.node(watcher).is_some_and(|node| holds(node, drained)) && is_whole(world);
    assert!(world.run_until(PATIENCE, is_back), "it did not come back");
    assert_all_there(&mut world, drained);
}

#[test]
fn a_removed_node_leaves_starts_anew_and_stays_outside_until_it_is_added() {
    let mut world = formed(4, 4);
    fill(&mut world, Slot(0));
    let leader = world.leader().expect("one leads");
    let removed = other_than(leader, 4);
    let before = world.node(removed).map(|node| node.view().me).expect("it runs");
    wish(&mut world, leader, AdminAction::RemoveNode { node: name(removed) }).expect("it leaves");
    let has_left =
        |world: &World| world.node(leader).is_some_and(|node| !holds(node, removed) && !is_voter(node, removed));
    assert!(world.run_until(PATIENCE, has_left), "it is still there");
    world.run(PATIENCE);
    let now = world.node(removed).map(|node| node.view().me).expect("it runs");
    assert_ne!(now, before, "it waits to be called as somebody new");
    assert!(has_left(&world), "nobody has let it in");
    assert_all_there(&mut world, leader);

    let leader = world.leader().expect("one leads");
    wish(&mut world, leader, AdminAction::AddNode { node: name(removed) }).expect("it is added");
    assert!(world.run_until(PATIENCE, is_whole), "it did not come in");
    assert_all_there(&mut world, removed);
}

/// The leader of these days is nobody that the removed node has ever known.
#[test]
fn a_node_that_was_removed_while_it_was_cut_off_is_told_whoever_leads_by_then() {
    let mut world = formed(4, 6);
    let leader = world.leader().expect("one leads");
    let (removed, heir) = (other_than(leader, 4), Slot((other_than(leader, 4).0 + 1) % 4));
    assert_ne!(heir, leader);
    let before = world.node(removed).map(|node| node.view().me).expect("it runs");
    cut_off(&mut world, removed, 4);
    wish(&mut world, leader, AdminAction::RemoveNode { node: name(removed) }).expect("it leaves");
    // As long as both memberships hold, its vote would be missed.
    let is_joint = |node: &Node| node.control().raft().is_some_and(|raft| raft.membership().is_joint());
    let has_left = |world: &World| {
        world.node(leader).is_some_and(|node| !holds(node, removed) && !is_voter(node, removed) && !is_joint(node))
    };
    assert!(world.run_until(PATIENCE, has_left), "it is still there");
    world.kill(heir);
    world.run(Duration::from_millis(300));
    world.start(heir);
    let is_back = |world: &World| world.node(leader).is_some_and(|node| is_voter(node, heir) && holds(node, heir));
    assert!(world.run_until(PATIENCE, is_back), "{heir} did not come back");
    wish(&mut world, leader, AdminAction::Transfer { to: Some(name(heir)) }).expect("it hands over");
    world.network.cuts.clear();
    let starts_anew = |world: &World| world.node(removed).is_some_and(|node| node.view().me != before);
    assert!(world.run_until(PATIENCE, starts_anew), "it still takes itself for a member");
}

#[test]
fn losses_one_after_another_may_exceed_half() {
    let mut world = formed(5, 5);
    fill(&mut world, Slot(0));
    for dead in (0..3).map(Slot) {
        world.kill(dead);
        let has_lost_its_vote = |world: &World| world.node(Slot(4)).is_some_and(|node| !is_voter(node, dead));
        assert!(world.run_until(PATIENCE, has_lost_its_vote), "{dead} still has a vote");
        assert_all_there(&mut world, Slot(4));
        put(&mut world, Slot(3), usize::from(dead.0)).expect("writes go on");
    }
}

#[test]
fn what_an_absent_node_held_is_copied_elsewhere_until_it_returns() {
    let mut world = formed(5, 12);
    fill(&mut world, Slot(0));
    let is_full_without = |world: &World, absent: &[Slot]| {
        let Some(node) = world.node(Slot(4)) else { return false };
        node.view()
            .table
            .iter()
            .all(|record| record.in_sync.len() == 3 && !absent.iter().any(|&slot| record.members().contains(slot)))
    };
    world.kill(Slot(0));
    assert!(world.run_until(PATIENCE, |world| is_full_without(world, &[Slot(0)])), "a copy is missing");
    world.kill(Slot(1));
    assert!(world.run_until(PATIENCE, |world| is_full_without(world, &[Slot(0), Slot(1)])), "a copy is missing");
    assert_all_there(&mut world, Slot(4));
    world.start(Slot(0));
    world.start(Slot(1));
    assert!(world.run_until(PATIENCE, is_whole), "they did not get their places back");
    assert!(world.node(Slot(4)).is_some_and(|node| holds(node, Slot(0)) && holds(node, Slot(1))));
    assert_all_there(&mut world, Slot(0));
}

#[test]
fn a_demoted_node_comes_back_as_a_learner_in_the_same_life() {
    let mut world = formed(5, 6);
    fill(&mut world, Slot(0));
    let leader = world.leader().expect("one leads");
    let silent = other_than(leader, 5);
    let me = world.node(silent).map(|node| node.view().me).expect("it runs");
    cut_off(&mut world, silent, 5);
    assert!(world.run_until(PATIENCE, |world| world.node(leader).is_some_and(|node| !is_voter(node, silent))));
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole), "it did not come back");
    assert_eq!(world.node(silent).map(|node| node.view().me), Some(me), "it needn't start anew");
    assert!(world.node(leader).is_some_and(|node| is_voter(node, silent)));
}

/// Whoever it knew is gone: it can address nobody until it is spoken to.
#[test]
fn a_demoted_node_comes_back_though_all_others_have_begun_another_life() {
    let mut world = formed(5, 12);
    let leader = world.leader().expect("one leads");
    let silent = other_than(leader, 5);
    let me = world.node(silent).map(|node| node.view().me).expect("it runs");
    cut_off(&mut world, silent, 5);
    assert!(world.run_until(PATIENCE, |world| world.node(leader).is_some_and(|node| !is_voter(node, silent))));
    for other in (0..5).map(Slot).filter(|&slot| slot != silent) {
        world.kill(other);
        world.run(Duration::from_millis(300));
        world.start(other);
        let leads_whole = |world: &World| {
            let leader = world.leader().filter(|&slot| slot != silent);
            let node = leader.and_then(|slot| world.node(slot));
            node.is_some_and(|node| {
                let view = node.view();
                let full = |record: &PartitionRecord| record.in_sync.len() >= 3 && record.learners.is_empty();
                is_voter(node, other) && view.up.len() == 4 && view.table.iter().all(full)
            })
        };
        assert!(world.run_until(PATIENCE, leads_whole), "{other} did not come back");
    }
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole), "it did not come back: {:?}", world.complaints());
    assert_eq!(world.node(silent).map(|node| node.view().me), Some(me), "it needn't start anew");
}

#[test]
fn a_demoted_node_that_could_hear_and_not_speak_comes_back_in_the_same_life() {
    let mut world = formed(5, 11);
    let leader = world.leader().expect("one leads");
    let mute = other_than(leader, 5);
    let me = world.node(mute).map(|node| node.view().me).expect("it runs");
    for to in (0..5).map(Slot).filter(|&to| to != mute) {
        world.network.cuts.push(Cut { from: mute, to, pulse: true, stream: false });
    }
    assert!(world.run_until(PATIENCE, |world| world.node(leader).is_some_and(|node| !is_voter(node, mute))));
    world.run(Duration::from_secs(2));
    assert!(world.node(mute).is_some_and(|node| !is_voter(node, mute)), "it has heard of it");
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole), "it did not come back");
    assert_eq!(world.node(mute).map(|node| node.view().me), Some(me), "it needn't start anew");
}

#[test]
fn a_process_whose_slot_was_taken_over_while_it_was_cut_off_is_told_and_starts_anew() {
    let mut world = formed(3, 7);
    let leader = world.leader().expect("one leads");
    let removed = other_than(leader, 3);
    let before = world.node(removed).map(|node| node.view().me).expect("it runs");
    cut_off(&mut world, removed, 3);
    wish(&mut world, leader, AdminAction::RemoveNode { node: name(removed) }).expect("it leaves");
    let has_left = |world: &World| world.node(leader).is_some_and(|node| !is_voter(node, removed));
    assert!(world.run_until(PATIENCE, has_left), "it is still a voter");
    world.run(Duration::from_secs(2));
    assert_eq!(world.node(removed).map(|node| node.view().me), Some(before), "nobody could tell it");
    world.network.cuts.clear();
    let is_new = |world: &World| world.node(removed).is_some_and(|node| node.view().me != before);
    assert!(world.run_until(PATIENCE, is_new), "it campaigns for ever");
}

#[test]
fn survivors_of_a_lost_majority_go_on_when_an_operator_says_so() {
    let mut world = formed(5, 8);
    fill(&mut world, Slot(0));
    let leader = world.leader().expect("one leads");
    let refused = wish(&mut world, leader, AdminAction::UnsafeRecover);
    assert!(matches!(refused, Err(Error::Conflict(_))), "a majority is alive: {refused:?}");

    // Three of five die at once; each partition has three copies.
    (0..3).map(Slot).for_each(|dead| world.kill(dead));
    world.run(Duration::from_secs(3));
    assert!(put(&mut world, Slot(3), 0).is_err(), "there is no quorum");
    let plan = AdminRequest { action: AdminAction::UnsafeRecover, dry_run: true };
    let plan = world.request(Slot(4), &plan, PATIENCE).expect("an answer").expect("it could be done");
    let report = wish(&mut world, Slot(4), AdminAction::UnsafeRecover).expect("it recovers");
    let recovered = report.recovered.expect("it says what is left");
    assert_eq!(plan.recovered.as_ref(), Some(&recovered), "as it said it would");
    let partitions = u32::from(world.options.partitions);
    assert_eq!(recovered.clean + recovered.lossy.len() as u32 + recovered.lost.len() as u32, partitions);
    assert!(recovered.clean > 0, "{recovered:?}");

    let serves = |world: &World| {
        let Some(node) = world.node(Slot(3)) else { return false };
        let table = &node.view().table;
        let lost = table.iter().filter(|record| record.primary.is_none()).count();
        world.node(Slot(4)).is_some_and(|other| other.view().generation == node.view().generation)
            && node.view().up.len() == 2
            && lost == recovered.lost.len()
    };
    assert!(world.run_until(PATIENCE, serves), "the survivors don't serve");
    let found = (0..KEYS).filter(|&nth| has(&mut world, Slot(3), nth)).count();
    assert!(found > 0, "nothing is left of {KEYS} keys with {recovered:?}");
    let written = (0..KEYS).filter(|&nth| put(&mut world, Slot(4), nth).is_ok()).count();
    assert!(written >= found, "{written} of {KEYS} can be written, {found} could be read");

    // The dead come back empty, and the cluster has five nodes again.
    (0..3).map(Slot).for_each(|dead| world.start(dead));
    let are_back = |world: &World| world.node(Slot(3)).is_some_and(|node| node.view().up.len() == 5);
    assert!(world.run_until(PATIENCE, are_back), "they did not come back");
}

#[test]
fn survivors_that_campaign_seldom_because_links_were_slow_are_not_forgotten() {
    let mut world = formed(5, 22);
    (world.network.delay_min, world.network.delay_jitter) = (Duration::from_millis(200), Duration::from_millis(100));
    world.run(Duration::from_secs(8));
    let election =
        |world: &World| world.node(Slot(4)).and_then(|node| node.control().raft()).map(|raft| raft.timing().election);
    let seldom = election(&world).filter(|election| *election > Duration::from_millis(800));
    assert!(seldom.is_some(), "the times are {:?}", election(&world));
    world.network.calm();
    (0..3).map(Slot).for_each(|dead| world.kill(dead));
    world.run(Duration::from_secs(8));
    // Whenever it is asked: the word of the other one is up to a campaign old.
    for _ in 0..40 {
        let plan = AdminRequest { action: AdminAction::UnsafeRecover, dry_run: true };
        let plan = world.request(Slot(4), &plan, PATIENCE).expect("an answer").expect("it could be done");
        assert!(plan.steps[0].starts_with("survivors: n4, n5;"), "{:?}", plan.steps);
        world.run(Duration::from_millis(70));
    }
}

#[test]
fn a_node_that_only_stood_still_while_others_recovered_by_force_starts_anew() {
    let mut world = formed(3, 9);
    let paused = Slot(0);
    let before = world.node(paused).map(|node| node.view().me).expect("it runs");
    world.kill(Slot(1));
    world.pause(paused, Duration::from_secs(8));
    world.run(Duration::from_secs(3));
    wish(&mut world, Slot(2), AdminAction::UnsafeRecover).expect("it recovers alone");
    world.run(Duration::from_secs(6));
    let is_new = |world: &World| world.node(paused).is_some_and(|node| node.view().me != before);
    assert!(world.run_until(PATIENCE, is_new), "it goes on in a generation that is over");
    let is_in = |world: &World| world.node(Slot(2)).is_some_and(|node| node.view().up.len() == 2);
    assert!(world.run_until(PATIENCE, is_in), "it did not come back");
}

#[test]
fn an_operator_founds_a_cluster_without_a_node_that_never_came() {
    let mut world = World::new(WorldOptions { nodes: 3, ..WorldOptions::default() }, 10);
    world.kill(Slot(2));
    world.run(Duration::from_secs(3));
    assert!(world.node(Slot(0)).is_some_and(|node| node.control().raft().is_none()), "all must answer");
    let wrong = wish(&mut world, Slot(0), AdminAction::InitForce { without: vec!["n2".to_owned()] });
    assert!(matches!(&wrong, Err(Error::Conflict(why)) if why.contains("n2")), "{wrong:?}");
    wish(&mut world, Slot(0), AdminAction::InitForce { without: vec!["n3".to_owned()] }).expect("it founds");
    let serves = |world: &World| {
        world.leader().is_some() && world.node(Slot(1)).is_some_and(|node| node.view().settings.is_some())
    };
    assert!(world.run_until(PATIENCE, serves), "it was not founded");
    world.run(Duration::from_secs(1));
    fill(&mut world, Slot(1));
    world.start(Slot(2));
    assert!(world.run_until(PATIENCE, is_whole), "the late one did not join");
    assert_all_there(&mut world, Slot(2));
}

fn cut(world: &mut World, from: Slot, to: Slot, pulse: bool, stream: bool) {
    world.network.cuts.push(Cut { from, to, pulse, stream });
}

#[test]
fn a_leader_whose_datagrams_are_cut_off_takes_nothing_along() {
    for (seed, both_ways) in [(13, true), (14, false)] {
        let mut world = formed(3, seed);
        fill(&mut world, Slot(0));
        let leader = world.leader().expect("one leads");
        for other in (0..3).map(Slot).filter(|&other| other != leader) {
            cut(&mut world, other, leader, true, false);
            if both_ways {
                cut(&mut world, leader, other, true, false);
            }
        }
        let other = other_than(leader, 3);
        let goes_on = |world: &World| {
            world.leader().is_some_and(|now| now != leader)
                && world.node(other).is_some_and(|node| node.view().table.iter().all(|record| record.primary.is_some()))
        };
        assert!(world.run_until(Duration::from_secs(1), goes_on), "the healthy majority can't go on");
        assert!(world.node(other).is_some_and(|node| !node.view().up.contains(leader)));
        assert_all_there(&mut world, other);
    }
}

#[test]
fn who_takes_nothing_on_the_stream_plane_loses_its_partitions_and_gets_them_back() {
    for (seed, nth) in [(15, 0), (16, 1)] {
        let mut world = formed(3, seed);
        fill(&mut world, Slot(0));
        let leader = world.leader().expect("one leads");
        let stalled = Slot((leader.0 + nth) % 3);
        for other in (0..3).map(Slot).filter(|&other| other != stalled) {
            cut(&mut world, other, stalled, false, true);
            cut(&mut world, stalled, other, false, true);
        }
        let other = other_than(stalled, 3);
        let is_without = |world: &World| {
            world.leader().is_some_and(|now| now != stalled)
                && world.node(other).is_some_and(|node| {
                    let primaries = node.view().table.iter().map(|record| record.primary);
                    !node.view().up.contains(stalled)
                        && primaries.into_iter().all(|primary| primary.is_some_and(|p| p != stalled))
                })
        };
        let went = world.run_until(Duration::from_millis(1800), is_without);
        assert!(went, "{stalled} of leader {leader} keeps partitions");
        assert_all_there(&mut world, other);
        world.network.cuts.clear();
        assert!(world.run_until(PATIENCE, is_whole), "it did not come back");
    }
}

#[test]
fn two_nodes_that_a_third_one_sees_and_that_do_not_see_each_other_keep_no_key_from_being_written() {
    for (seed, with_leader, pulse) in [(17, false, true), (18, false, false), (19, true, true), (20, true, false)] {
        let mut world = formed(3, seed);
        fill(&mut world, Slot(0));
        let leader = world.leader().expect("one leads");
        let (left, right) = match with_leader {
            true => (leader, other_than(leader, 3)),
            false => (Slot((leader.0 + 1) % 3), Slot((leader.0 + 2) % 3)),
        };
        cut(&mut world, left, right, pulse, true);
        cut(&mut world, right, left, pulse, true);
        world.run(Duration::from_secs(2));
        let middle = Slot(3 - left.0 - right.0);
        fill(&mut world, middle);
        assert_all_there(&mut world, middle);
        world.network.cuts.clear();
        assert!(world.run_until(PATIENCE, is_whole), "it is not whole again");
        assert_eq!(world.complaints(), &[] as &[String]);
    }
}

#[test]
fn a_primary_that_hears_no_acks_evicts_nobody_who_is_well() {
    let mut world = formed(3, 21);
    fill(&mut world, Slot(0));
    let leader = world.leader().expect("one leads");
    let deaf = other_than(leader, 3);
    let backups = |world: &World| -> usize {
        let node = world.node(leader).expect("it runs");
        node.view().table.iter().filter(|record| record.primary == Some(deaf)).map(|record| record.in_sync.len()).sum()
    };
    assert!(backups(&world) > 0);
    // What it sends arrives, also its wishes; nothing reaches it on the stream plane.
    for other in (0..3).map(Slot).filter(|&other| other != deaf) {
        cut(&mut world, other, deaf, false, true);
    }
    for nth in 0..KEYS {
        let node = other_than(deaf, 3);
        let _ = put(&mut world, node, nth);
    }
    let others = SlotSet::first(3).without(deaf);
    let node = world.node(leader).expect("it runs");
    assert!(!node.view().up.contains(deaf), "it takes nothing, so it is down");
    let table = node.view().table.iter();
    assert!(table.clone().all(|record| record.primary.is_some_and(|primary| primary != deaf)));
    assert!(table.clone().all(|record| record.in_sync.is_subset(others)), "it has evicted who was well");
    assert_all_there(&mut world, leader);
    assert_eq!(world.complaints(), &[] as &[String]);
}

/// Both nodes write on to what the other one backs up while they don't see each other's streams. None of it waits for long.
#[test]
fn writes_under_way_when_two_streams_are_cut_end_soon_and_so_do_those_after_them() {
    for seed in 23..27 {
        let mut world = formed(3, seed);
        fill(&mut world, Slot(0));
        let leader = world.leader().expect("one leads");
        let apart: Vec<Slot> = (0..3).map(Slot).filter(|&slot| slot != leader).collect();
        let write = |world: &mut World, nth: usize| {
            let request = Operation::Put {
                key: key(nth % KEYS),
                value: Blob::from(format!("value-{nth}").into_bytes()),
                content_type: None,
                ttl_ms: None,
                mode: PutMode::Upsert,
                precondition: Precondition::NONE,
            };
            let slot = Slot((nth % 3) as u8);
            let _ = world.submit(slot, Request::new(request, 5000));
        };
        for nth in 0..3000 {
            if nth == 300 {
                cut(&mut world, apart[0], apart[1], false, true);
                cut(&mut world, apart[1], apart[0], false, true);
            }
            write(&mut world, nth);
            world.run(Duration::from_micros(500));
        }
        let node = world.node(leader).expect("it runs");
        for (partition, record) in node.view().table.iter().enumerate() {
            let primary = world.node(record.primary.expect("one leads")).expect("it runs");
            let shard = &primary.shards()[partition % primary.shards().len()];
            let replica = shard.replica(jumpgate::base::PartitionId(partition as u16)).expect("it has one");
            let status = replica.status();
            assert!(
                status.last.seq.0 - status.applied.seq.0 < 5,
                "seed {seed}: p{partition}: {record:?} {status:?} {replica:?}"
            );
        }
        assert_eq!(world.complaints(), &[] as &[String]);
    }
}

/// A primary that two of its partition's owners can't answer, one of them a learner: none of them is of use, whichever is
/// waited for.
#[test]
fn owners_that_are_mute_one_after_the_other_dont_fill_the_log() {
    let mut world = formed(5, 31);
    let leader = world.leader().expect("one leads");
    let [primary, first, second] = [1, 2, 3].map(|step| Slot((leader.0 + step) % 5));
    for (mute, restarts) in [(first, false), (second, true)] {
        if restarts {
            world.kill(mute);
            world.start(mute);
        }
        cut(&mut world, mute, primary, false, true);
        cut(&mut world, primary, mute, false, true);
    }
    // The partitions that the dead one led have others by then.
    world.run(Duration::from_millis(400));
    let last =
        |world: &World| world.node(leader).and_then(|node| node.control().raft()).map(|raft| raft.last_index().0);
    let before = last(&world).expect("it leads");
    for nth in 0..KEYS {
        let _ = world.submit(leader, Request::new(writing(nth), 5000));
    }
    world.run(Duration::from_secs(3));
    let after = last(&world).expect("it leads");
    assert!(after < before + 200, "{} entries in 3 s", after - before);
    assert_all_there(&mut world, leader);
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, is_whole), "it did not heal");
}

/// A new life of a node that died is a voter before it is registered. Where it leads by then, it isn't the one that has what
/// its slot is in sync for: who is silent beside it must not be left out because of that.
#[test]
fn a_leader_that_is_not_registered_yet_is_no_witness_for_its_earlier_life() {
    let mut led_by_newcomer = 0;
    for seed in 0..40 {
        let mut world = formed(5, 100 + seed);
        fill(&mut world, Slot(0));
        // The leader dies, too, so that its successor has not yet declared anybody else dead.
        let gone = world.leader().expect("one leads");
        let [reborn, other] = [1, 2].map(|step| Slot((gone.0 + step) % 5));
        [gone, reborn].into_iter().for_each(|slot| world.kill(slot));
        world.start(reborn);
        let is_voter_only = |world: &World| {
            let newcomer = world.node(reborn).map(|node| node.view().me);
            let node = world.node(other).expect("it runs");
            let is_voter = node.control().raft().is_some_and(|raft| {
                newcomer.is_some_and(|me| raft.membership().voters.contains(&me) && !raft.membership().is_joint())
            });
            is_voter && node.view().registered(reborn) != newcomer
        };
        if !world.run_until(Duration::from_secs(2), is_voter_only) {
            continue;
        }
        let Some(leader) = world.leader().filter(|leader| *leader != reborn && *leader != other) else { continue };
        world.pause(leader, Duration::from_millis(700));
        world.run(Duration::from_millis(300));
        led_by_newcomer += usize::from(world.leader() == Some(reborn));
        world.run(Duration::from_millis(600));
        world.start(gone);
        assert!(world.run_until(PATIENCE, is_whole), "seed {seed}: it did not heal");
        assert_all_there(&mut world, other);
    }
    assert!(led_by_newcomer > 1, "the situation came about {led_by_newcomer} times");
}

/// A life announces itself, and ends; the next one is taken in. While that one stands still, what the earlier one said comes,
/// seconds late, and the leader takes the slot for free.
#[test]
fn a_late_word_of_a_life_that_has_ended_does_not_keep_the_present_one_out() {
    for seed in 0..6 {
        let mut world = formed(3, 100 + seed);
        let leader = world.leader().expect("one leads");
        let slot = Slot((leader.0 + 1) % 3);
        world.kill(slot);
        world.run(Duration::from_millis(300));
        world.network.lateness = 1_000_000;
        world.start(slot);
        world.run(Duration::from_millis(60));
        world.kill(slot);
        world.network.lateness = 0;
        world.start(slot);
        assert!(world.run_until(PATIENCE, is_whole), "seed {seed}");
        world.pause(slot, Duration::from_millis(2500));
        world.run(Duration::from_millis(2500));
        assert!(world.run_until(PATIENCE, is_whole), "seed {seed}: the slot is somebody's who isn't there");
        assert_eq!(world.complaints(), &[] as &[String], "seed {seed}");
    }
}

/// A node is to leave, and holds nothing any more; the leader dies before it takes that one's vote away. Its successor has heard
/// nobody yet, and must not think that everybody is there: with that vote gone, too, the one that is left couldn't decide
/// anything.
#[test]
fn a_new_leader_takes_no_vote_away_before_it_has_heard_who_is_left() {
    let mut met = 0;
    for seed in 0..8 {
        let mut world = formed(3, 300 + seed);
        let dies = world.leader().expect("one leads");
        let leaves = Slot((dies.0 + 1) % 3);
        fill(&mut world, dies);
        world.wish(dies, AdminAction::RemoveNode { node: format!("n{}", leaves.0 + 1) });
        let is_empty = |world: &World| {
            let view = world.node(dies).expect("it runs").view();
            view.roster.leaving.contains(leaves) && view.table.iter().all(|record| !record.members().contains(leaves))
        };
        for _ in 0..100_000 {
            if is_empty(&world) {
                break;
            }
            world.run(Duration::from_micros(50));
        }
        assert!(is_empty(&world), "seed {seed}: it still holds something");
        world.kill(dies);
        let leader = |world: &World| world.leader();
        assert!(world.run_until(PATIENCE, |world| leader(world).is_some()), "seed {seed}");
        met += usize::from(leader(&world) != Some(leaves));
        world.run(Duration::from_secs(1));
        world.start(dies);
        world.run(Duration::from_secs(8));
        assert!(world.run_until(PATIENCE, |world| leader(world).is_some()), "seed {seed}: nobody can lead any more");
        assert_eq!(world.complaints(), &[] as &[String], "seed {seed}");
    }
    assert!(met > 0, "it was always the leaving one that led");
}
