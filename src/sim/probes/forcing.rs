//! A majority is lost at once, and an operator has a survivor go on without it.
//!
//! What must hold: the generation rises, at every survivor; what a survivor was in sync for is all there (which the checks of
//! every read and the end of the run say) and every such partition is reported as clean; whoever belongs to the generation
//! before serves nothing, and starts anew when it can be heard again.

use std::time::Duration;

use super::keep_writing;
use crate::api::{AdminAction, AdminRequest, Response};
use crate::base::{Generation, NodeId, PartitionId, Rng, Slot};
use crate::node::Submitted;
use crate::sim::scenario::put;
use crate::sim::world::World;

/// For so long the dead are silent before they count as gone: longer than the latest datagram is late, and than a word counts
/// where links are fast.
const LOST_FOR: Duration = Duration::from_secs(4);
/// A word counts for two campaigns where links are slow.
const CAMPAIGNS: u32 = 2;
/// Within which time a survivor does it, and the others follow.
const RECOVERED_WITHIN: Duration = Duration::from_secs(5);

/// Runs it. False where the cluster can't be judged.
pub(super) fn recover(world: &mut World, rng: &mut Rng) -> bool {
    let nodes = world.options.nodes;
    let Some(leader) = world.leader() else { return false };
    let mut survivors: Vec<Slot> = (0..nodes).map(|slot| Slot(slot as u8)).collect();
    let mut lost = Vec::new();
    while lost.len() <= nodes / 2 {
        lost.push(survivors.remove(rng.below(survivors.len() as u64) as usize));
    }
    // One of them is cut off and doesn't know that the others are dead.
    let strays = (rng.below(2) == 0).then(|| lost[0]);
    let Some(expected) = give_up(world, leader, &survivors) else { return false };
    let before = generation(world, survivors[0]);
    for &slot in &lost {
        if Some(slot) == strays {
            world.network.isolate(slot, true, true);
        } else {
            world.kill(slot);
        }
    }
    let silent_since = world.now;
    // Without a leader they may become more patient meanwhile.
    while world.now < silent_since + counts_as_lost_after(world, &survivors) {
        let silent_for = world.now.since(silent_since);
        world.run(counts_as_lost_after(world, &survivors) - silent_for);
    }
    let asked = survivors[rng.below(survivors.len() as u64) as usize];
    let request = AdminRequest { action: AdminAction::UnsafeRecover, dry_run: false };
    let report = world.request(asked, &request, RECOVERED_WITHIN);
    match report {
        Some(Ok(report)) => {
            let clean = report.recovered.map(|recovered| recovered.clean as usize);
            if clean != Some(expected) {
                world.complain(format!("Recover: {clean:?} partitions are clean, and {expected} should be"));
            }
        }
        other if !world.is_broken() => world.complain(format!("Recover: {asked} answers {other:?}")),
        _ => {}
    }
    if rng.below(2) == 0 {
        mute(world, rng, asked);
    }
    let have_followed = |world: &World| {
        survivors.iter().all(|slot| generation(world, *slot) == Some(before.unwrap_or_default().next()))
            && survivors.iter().all(|slot| world.node(*slot).is_some_and(|node| node.view().leader.is_some()))
    };
    if !world.run_until(RECOVERED_WITHIN, have_followed) && !world.is_broken() {
        let generations: Vec<_> = survivors.iter().map(|slot| generation(world, *slot)).collect();
        world.complain(format!("Recover: the survivors are in the generations {generations:?} after {before:?}"));
    }
    if let Some(stray) = strays {
        expect_outcast(world, stray);
    }
    for slot in lost {
        if world.node(slot).is_none() {
            world.start(slot);
        }
    }
    world.run(Duration::from_millis(300));
    true
}

/// For how long the dead have to be silent by the times that the survivors go by.
fn counts_as_lost_after(world: &World, survivors: &[Slot]) -> Duration {
    let rafts = survivors.iter().filter_map(|slot| world.node(*slot)?.control().raft());
    let campaigns_within = rafts.map(|raft| raft.timing().campaigns_within()).max().unwrap_or_default();
    LOST_FOR + campaigns_within * CAMPAIGNS
}

/// The other survivors are heard, and take nothing: one may decide alone, and has nobody else to turn to.
fn mute(world: &mut World, rng: &mut Rng, asked: Slot) {
    world.run(rng.duration(Duration::from_millis(20)));
    let before = world.network.cuts.clone();
    world.network.isolate(asked, false, true);
    keep_writing(world, asked, "written while nobody takes it", 150, Duration::from_millis(3));
    world.network.cuts = before;
}

/// Nothing is promised any more about the partitions of which no survivor has a copy; how many the others are. None where that
/// can't be told.
fn give_up(world: &mut World, leader: Slot, survivors: &[Slot]) -> Option<usize> {
    let table = std::sync::Arc::clone(&world.node(leader)?.view().table);
    let is_clean = |slots: crate::base::SlotSet| survivors.iter().any(|slot| slots.contains(*slot));
    let (clean, gone): (Vec<_>, Vec<_>) = table.iter().enumerate().partition(|(_, record)| is_clean(record.in_sync));
    gone.into_iter().for_each(|(number, _)| world.forgive(PartitionId(number as u16)));
    Some(clean.len())
}

/// `stray` belongs to the generation before. It serves nothing, and starts anew once it hears of the present one.
fn expect_outcast(world: &mut World, stray: Slot) {
    let me = |world: &World| world.node(stray).map(|node| node.view().me);
    let before: Option<NodeId> = me(world);
    let asked: Vec<_> = (0..20)
        .filter_map(|nth| match world.submit(stray, put(&format!("probe-{nth}"), "written by an outcast"))? {
            (_, Submitted::Now(Ok(response))) => Some(Err(response)),
            (shard, Submitted::Later(id)) => Some(Ok((shard, id))),
            (_, Submitted::Now(Err(_))) => None,
        })
        .collect();
    world.run(Duration::from_secs(2));
    for asked in asked {
        let answer: Option<Response> = match asked {
            Err(response) => Some(response),
            Ok((shard, id)) => world.take_answer(stray, shard, id).and_then(Result::ok),
        };
        if let Some(answer) = answer
            && !world.is_broken()
        {
            world.complain(format!("Recover: {stray}, of the generation before, answers a write with {answer:?}"));
        }
    }
    world.network.calm();
    if !world.run_until(RECOVERED_WITHIN * 2, |world| me(world) != before) && !world.is_broken() {
        world.complain(format!("Recover: {stray} still takes itself for a member of the generation before"));
    }
}

fn generation(world: &World, slot: Slot) -> Option<Generation> {
    Some(world.node(slot)?.view().generation)
}
