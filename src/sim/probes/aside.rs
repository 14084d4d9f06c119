//! A voter that is silent for so long that it loses its vote, and is heard again by the same leader.

use std::time::Duration;

use super::term;
use crate::base::Slot;
use crate::sim::scenario::is_whole;
use crate::sim::world::World;

/// Before that it hears heartbeats for so long: longer than the leader waits for a learner that hears nothing
/// (`LEARNER_LOST_AFTER`, 3 s), so that none could count as heard whose numbers begin anew.
const PEACE: Duration = Duration::from_secs(4);
/// Within which time a silent voter loses its vote: `demote_after`, 3 s here, and what it takes to decide that.
const SET_ASIDE_WITHIN: Duration = Duration::from_secs(6);
/// Within which time it has its vote back.
const BACK_WITHIN: Duration = Duration::from_secs(8);

/// Where `leader` is replaced meanwhile nothing is said.
pub(super) fn set_aside(world: &mut World, leader: Slot, follower: Slot) -> bool {
    let before = term(world, leader);
    let is_voter = |world: &World| {
        let raft = world.node(leader).and_then(|node| node.control().raft());
        raft.is_some_and(|raft| raft.membership().voters.iter().any(|voter| voter.slot == follower))
    };
    let leads_on = |world: &World| world.leader() == Some(leader) && term(world, leader) == before;
    world.run(PEACE);
    world.network.isolate(follower, true, true);
    let is_out = world.run_until(SET_ASIDE_WITHIN, |world| !is_voter(world));
    world.network.calm();
    let is_back = |world: &World| is_voter(world) && is_whole(world) || !leads_on(world);
    if is_out && leads_on(world) && !world.run_until(BACK_WITHIN, is_back) && !world.is_broken() {
        world.complain(format!("SetAside: {follower} is heard again by {leader}, and doesn't get its vote back"));
    }
    true
}
