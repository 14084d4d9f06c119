//! What a drained node leads it gives to others: sometimes with its view of the log late, and a change of leaders in the middle.

use std::time::Duration;

use super::{Probe, widen};
use crate::api::AdminAction;
use crate::base::{PartitionId, PartitionRecord, Rng, Slot};
use crate::control::ControlState;
use crate::sim::asking::node_name;
use crate::sim::network::Cut;
use crate::sim::world::World;

/// Within which time a drained node holds nothing, where nothing else is wrong. What it holds are a few keys; lost
/// messages of a leadership that was handed over cost some election timeouts.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// A primary gives a partition away once its record has stayed the same for a second; a little earlier, so that what is decided
/// then comes late.
const GIVES_AFTER: Duration = Duration::from_millis(950);

/// Drains `drained`, which doesn't lead the cluster. What somebody would read wrongly is noticed by the checks of every
/// input. False where it leads after all.
pub(super) fn drain(probe: Probe, world: &mut World, rng: &mut Rng, leader: Slot, drained: Slot) -> bool {
    let mut leader = leader;
    if probe == Probe::DrainDisturbed {
        // With wide times leases last for longer than it takes to evict somebody.
        widen(world);
        match world.leader().filter(|leader| *leader != drained) {
            Some(now) => leader = now,
            None => return false,
        }
    }
    world.wish(leader, AdminAction::Drain { node: node_name(drained) });
    let may_give = |world: &World| decided(world, leader).is_some_and(|state| may_give(state, drained));
    if probe == Probe::DrainDisturbed && world.run_until(DRAINED_WITHIN, may_give) {
        world.run(GIVES_AFTER + rng.duration(Duration::from_millis(150)));
        let is_handed_over = rng.below(2) == 0;
        leave_behind(world, rng, leader, drained, is_handed_over);
    }
    let holds_nothing = |world: &World| {
        // Of a partition that a fault took the last copy of nothing moves any more.
        let is_elsewhere = |(number, record): (usize, &PartitionRecord)| {
            world.clients.is_void(PartitionId(number as u16)) || !record.members().contains(drained)
        };
        leading(world)
            .is_some_and(|state| !state.table().is_empty() && state.table().iter().enumerate().all(is_elsewhere))
    };
    if !world.run_until(DRAINED_WITHIN, holds_nothing) && !world.is_broken() {
        world.complain(format!("{probe:?}: {drained} still holds copies {DRAINED_WITHIN:?} after it was drained"));
    }
    if let Some(leader) = world.leader() {
        world.wish(leader, AdminAction::AddNode { node: node_name(drained) });
    }
    world.run(Duration::from_millis(300));
    true
}

/// `drained` hears late of what is decided: of the others it gets pulse messages only, for longer than a lease lasts and for less
/// than it takes to count as dead. Meanwhile leadership may be handed over.
fn leave_behind(world: &mut World, rng: &mut Rng, leader: Slot, drained: Slot, is_handed_over: bool) {
    let nodes = world.options.nodes as u8;
    let Some(raft) = world.node(leader).and_then(|node| node.control().raft()) else { return };
    let time = raft.timing().election * 7 / 4;
    let others = (0..nodes).map(Slot).filter(|slot| *slot != drained);
    world.network.cuts.extend(others.map(|from| Cut { from, to: drained, pulse: false, stream: true }));
    if is_handed_over {
        let heirs: Vec<Slot> = (0..nodes).map(Slot).filter(|slot| *slot != drained && *slot != leader).collect();
        let heir = heirs[rng.below(heirs.len() as u64) as usize];
        world.run(rng.duration(Duration::from_millis(150)));
        world.wish(leader, AdminAction::Transfer { to: Some(node_name(heir)) });
    }
    world.run(time);
    world.network.calm();
}

/// Whether everything that `drained` leads has come to whoever is to lead it.
fn may_give(state: &ControlState, drained: Slot) -> bool {
    let is_led = |(_, record): &(usize, &PartitionRecord)| record.primary == Some(drained);
    let mut led = state.table().iter().enumerate().filter(is_led).peekable();
    led.peek().is_some()
        && led.all(|(number, record)| {
            let to = state.target_primary(PartitionId(number as u16));
            to.is_some_and(|to| to != drained && record.in_sync.contains(to)) && record.learners.is_empty()
        })
}

/// What the leader knows as decided.
fn leading(world: &World) -> Option<&ControlState> {
    decided(world, world.leader()?)
}

fn decided(world: &World, slot: Slot) -> Option<&ControlState> {
    world.node(slot)?.control().state()
}
