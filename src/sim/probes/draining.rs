//! What a node leads moves to others at the end of its lease, and not before: a node is drained, with its view of the log
//! late and, sometimes, a change of leaders in the middle, or a leader that doesn't hear it for a while.

use std::time::Duration;

use super::Probe;
use crate::api::AdminAction;
use crate::base::{PartitionId, PartitionRecord, Rng, Slot};
use crate::control::ControlState;
use crate::sim::asking::node_name;
use crate::sim::network::Cut;
use crate::sim::world::World;

/// Within which time a drained node holds nothing, where nothing else is wrong. What it holds are a few keys; lost
/// messages of a leadership that was handed over cost some election timeouts.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// Drains `drained`, which doesn't lead the cluster. What somebody would read wrongly is noticed by the checks of every
/// input.
pub(super) fn drain(probe: Probe, world: &mut World, rng: &mut Rng, leader: Slot, drained: Slot) -> bool {
    world.wish(leader, AdminAction::Drain { node: node_name(drained) });
    // All that it leads is in full elsewhere, so that it goes in the next moment.
    let may_resign = |world: &World| decided(world, leader).is_some_and(|state| state.may_resign(drained));
    if world.run_until(DRAINED_WITHIN, may_resign) && probe == Probe::DrainDisturbed {
        if rng.below(2) == 0 {
            hand_over(world, rng, leader, drained);
        } else {
            lose_sight(world, rng, leader, drained);
        }
        world.network.calm();
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

/// Leadership is handed over while `drained` hears late of what is decided: of both leaders it gets pulse messages only.
fn hand_over(world: &mut World, rng: &mut Rng, leader: Slot, drained: Slot) {
    let nodes = world.options.nodes as u8;
    let others = (0..nodes).map(Slot).filter(|slot| *slot != drained);
    world.network.cuts.extend(others.map(|from| Cut { from, to: drained, pulse: false, stream: true }));
    let heirs: Vec<Slot> = (0..nodes).map(Slot).filter(|slot| *slot != drained && *slot != leader).collect();
    let heir = heirs[rng.below(heirs.len() as u64) as usize];
    world.wish(leader, AdminAction::Transfer { to: Some(node_name(heir)) });
    world.run(Duration::from_millis(150));
}

/// `drained` isn't heard until its lease has ended, and is then; the entry by which it resigns comes late everywhere, and
/// to itself last of all. It gives nothing away by itself meanwhile, since its wishes get lost.
fn lose_sight(world: &mut World, rng: &mut Rng, leader: Slot, drained: Slot) {
    let others = (0..world.options.nodes as u8).map(Slot).filter(|slot| *slot != drained);
    let unheard = Cut { from: drained, to: leader, pulse: true, stream: true };
    world.network.cuts.extend(others.map(|to| Cut { from: leader, to, pulse: false, stream: true }));
    world.network.cut_both_ways(leader, drained, false, true);
    world.network.cuts.push(unheard);
    world.run(Duration::from_millis(60) + rng.duration(Duration::from_millis(120)));
    world.network.cuts.retain(|cut| *cut != unheard);
    world.run(Duration::from_millis(20) + rng.duration(Duration::from_millis(40)));
    world.network.cuts.retain(|cut| cut.from == drained || cut.to == drained);
    world.run(Duration::from_millis(60));
}

/// What the leader knows as decided.
fn leading(world: &World) -> Option<&ControlState> {
    decided(world, world.leader()?)
}

fn decided(world: &World, slot: Slot) -> Option<&ControlState> {
    world.node(slot)?.control().state()
}
