//! Those who were members and are none any more, and know nobody who could tell them.

#[path = "support/simulated.rs"]
#[allow(dead_code, reason = "shared by several tests")]
mod simulated;

use std::time::Duration;

use jumpgate::api::{AdminAction, AdminRequest};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{PartitionRecord, Slot};
use jumpgate::node::Node;
use jumpgate::sim::{World, WorldOptions, is_whole};
use simulated::{PATIENCE, formed};

fn is_voter(node: &Node, slot: Slot) -> bool {
    node.control().raft().is_some_and(|raft| raft.membership().all_voters().iter().any(|voter| voter.slot == slot))
}

fn holds(node: &Node, slot: Slot) -> bool {
    node.view().table.iter().any(|record| record.members().contains(slot))
}

/// Has `leader` remove `removed` from the cluster, which is cut off and hears nothing of that.
fn remove_unheard(world: &mut World, leader: Slot, removed: Slot) {
    let action = AdminAction::RemoveNode { node: format!("n{}", removed.0 + 1) };
    let answer = world.request(leader, &AdminRequest { action, dry_run: false }, PATIENCE);
    answer.expect("an answer in time").expect("it leaves");
    let has_left =
        |world: &World| world.node(leader).is_some_and(|node| !holds(node, removed) && !is_voter(node, removed));
    assert!(world.run_until(PATIENCE, has_left), "it is still there");
}

/// Whoever it knew is gone, so nobody whom it can address by name could tell it.
#[test]
fn a_node_that_was_removed_while_it_was_cut_off_is_told_though_all_others_have_begun_another_life() {
    for (seed, secrets) in [(41, ""), (42, "a secret of sufficient length, as it should be\n")] {
        let options = WorldOptions { nodes: 4, secrets: secrets.to_owned(), ..WorldOptions::default() };
        let mut world = World::new(options, seed);
        assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
        let leader = world.leader().expect("one leads");
        let removed = Slot((leader.0 + 1) % 4);
        let me = |world: &World| world.node(removed).map(|node| node.view().me).expect("it runs");
        let before = me(&world);
        world.network.isolate(removed, true, true);
        remove_unheard(&mut world, leader, removed);
        for other in (0..4).map(Slot).filter(|&slot| slot != removed) {
            world.kill(other);
            world.run(Duration::from_millis(300));
            world.start(other);
            let is_back = |world: &World| {
                let node = world.leader().filter(|&slot| slot != removed).and_then(|slot| world.node(slot));
                node.is_some_and(|node| {
                    let full = |record: &PartitionRecord| record.in_sync.len() >= 2 && record.learners.is_empty();
                    let view = node.view();
                    is_voter(node, other) && view.up.len() == 3 && view.table.iter().all(full)
                })
            };
            assert!(world.run_until(PATIENCE, is_back), "{other} did not come back");
        }
        world.run(Duration::from_secs(5));
        assert_eq!(me(&world), before, "nobody could tell it");
        world.network.cuts.clear();
        assert!(world.run_until(PATIENCE, |world| me(world) != before), "it still takes itself for a member");
        assert_eq!(world.complaints(), &[] as &[String]);
    }
}

/// Whoever stops waits for that answer, and an operator for theirs.
#[test]
fn a_node_that_is_removed_while_it_stops_may_go() {
    let mut world = formed(4, 43);
    let leader = world.leader().expect("one leads");
    let removed = Slot((leader.0 + 1) % 4);
    world.network.isolate(removed, true, true);
    let ticket = world.tell_to_stop(removed).expect("it runs");
    remove_unheard(&mut world, leader, removed);
    assert_ne!(world.stop_answer(ticket), Some(true), "nobody could let it go");
    let ticket = world.tell_to_stop(removed).expect("it runs");
    world.network.cuts.clear();
    assert!(world.run_until(PATIENCE, |world| world.stop_answer(ticket) == Some(true)), "it waits for ever");
    assert_eq!(world.complaints(), &[] as &[String]);
}

/// Whether a node that was silent until it lost its place, and is heard again in the same term, gets it back.
fn comes_back_after_it_was_set_aside(seed: u64) -> bool {
    let mut world = formed(4, seed);
    let leader = world.leader().expect("one leads");
    let aside = Slot((leader.0 + 1) % 4);
    // It has heard many heartbeats, so that a count that begins anew is far behind.
    world.run(Duration::from_secs(30));
    world.network.isolate(aside, true, true);
    let is_out = |world: &World| world.node(leader).is_some_and(|node| !is_voter(node, aside));
    assert!(world.run_until(PATIENCE * 4, is_out), "it keeps its vote");
    world.network.cuts.clear();
    let is_back =
        world.run_until(PATIENCE / 3, |world| is_whole(world) && is_voter(world.node(leader).expect("it runs"), aside));
    assert_eq!(world.leader(), Some(leader), "seed {seed}: somebody else leads, so this says nothing");
    is_back
}

#[test]
fn who_is_set_aside_and_heard_again_hears_the_same_leader_too() {
    assert!(comes_back_after_it_was_set_aside(44));
    let broken = with_broken(Mutant::NumbersRestart, || comes_back_after_it_was_set_aside(44));
    assert!(!broken, "heartbeats that were numbered anew went unnoticed");
}
