//! Partitions that this shard leads and others should: they are given back.
//!
//! A partition's target primary is the first of its owners. After a death another owner leads it; after the restart, when
//! the node has been filled again, it goes back, so that reads and writes are spread over all nodes as they should be. That
//! costs the partition's clients some milliseconds, so a bounded number of partitions goes at a time.
//!
//! A node that is told to stop gives all that it leads away in the same manner, to whomever has it in full.

use std::sync::Arc;
use std::time::Duration;

use super::ShardCore;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, PartitionId, Slot, SlotSet};
use crate::node::View;
use crate::placement::{self, Owners};

/// How often a shard looks for partitions to give back, while there are some.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Partitions of a node that are being given back at a time. With twenty looks a second all that a node leads for another
/// one, a third of 4096 partitions, goes within a few seconds.
const AT_ONCE: usize = 64;

/// Who should lead the partitions of a shard.
#[derive(Debug)]
pub(super) struct Targets {
    /// The members and the count of copies that `owners` was derived for.
    placed: (SlotSet, u8),
    /// By partition divided by the count of shards.
    owners: Vec<(Option<Slot>, SlotSet)>,
    look_at: Instant,
}

impl Default for Targets {
    fn default() -> Self {
        Self { placed: (SlotSet::EMPTY, 0), owners: Vec::new(), look_at: Instant::FAR }
    }
}

impl Targets {
    /// When partitions are looked for that are to be given back.
    pub(super) const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// The table has changed: there may be some.
    pub(super) fn handle_table(&mut self, now: Instant) {
        self.look_at = self.look_at.min(now + LOOK_EVERY);
    }
}

impl ShardCore {
    /// Gives partitions back to their target primaries, as many as may go at a time.
    pub(super) fn give_back(&mut self, now: Instant) {
        self.targets.look_at = Instant::FAR;
        let view = Arc::clone(&self.view);
        if view.leader.is_none() || view.settings.is_none() {
            // A view with a leader comes, and then it is looked again.
            return;
        }
        self.place(&view);
        let under_way = self.replicas.iter().filter(|replica| replica.is_giving_back()).count();
        let mut room = (AT_ONCE / usize::from(self.options.shards)).max(1).saturating_sub(under_way);
        let hurried = view.stopping.contains(view.me.slot);
        let mut look_at = Instant::FAR;
        for index in 0..self.replicas.len() {
            let partition = self.partition(index);
            let to = match hurried {
                true => self.leaving_to(&view, partition),
                false => self.giving_to(&view, partition, self.targets.owners[index]),
            };
            let Some(to) = to else { continue };
            let may_at = self.replicas[index].may_give_back_at(hurried);
            if room > 0 && may_at.is_some_and(|at| at <= now) {
                self.with_replica(now, partition, |replica, out| {
                    room -= usize::from(replica.give_back(now, to, hurried, out));
                });
            }
            look_at = look_at.min(may_at.unwrap_or(now).max(now + LOOK_EVERY));
        }
        self.targets.look_at = look_at;
    }

    /// To whom `partition` is to be given, if this node leads it, everybody who should hold it does, and nothing about it
    /// is about to change.
    fn giving_to(
        &self,
        view: &View,
        partition: PartitionId,
        (target, owners): (Option<Slot>, SlotSet),
    ) -> Option<Slot> {
        let record = view.record(partition)?;
        let to = target.filter(|to| view.up.difference(view.stopping).contains(*to) && *to != view.me.slot)?;
        let is_settled = owners.is_subset(record.in_sync) && record.learners.is_empty() && record.former.is_none()
            || is_broken(Mutant::GiveToLaggard);
        (view.primary(partition) == Some(view.me) && is_settled).then_some(to)
    }

    /// To whom `partition` is to be given, if this node leads it and is told to stop: the one who would lead it if this node
    /// died.
    fn leaving_to(&self, view: &View, partition: PartitionId) -> Option<Slot> {
        let record = view.record(partition).filter(|record| record.former.is_none())?;
        let others = record.in_sync.intersection(view.up).difference(view.stopping);
        if view.primary(partition) != Some(view.me) || is_broken(Mutant::LetGoWhileLeading) {
            return None;
        }
        let (members, copies) = self.targets.placed;
        let owners = placement::owners(partition, members, copies);
        owners.iter().find(|slot| others.contains(*slot)).or_else(|| others.lowest())
    }

    fn place(&mut self, view: &View) {
        let placed = (view.roster.staying(), view.roster.replicas);
        if self.targets.placed != placed || self.targets.owners.len() != self.replicas.len() {
            let of = |index| placement::owners(self.partition(index), placed.0, placed.1);
            let owners = (0..self.replicas.len()).map(of).map(|owners: Owners| (owners.primary(), owners.set()));
            self.targets = Targets { placed, owners: owners.collect(), look_at: self.targets.look_at };
        }
    }
}
