//! Primaries that give partitions back to their target primaries.

use super::ControlState;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Epoch, InSyncChange, LogIndex, PartitionId, PartitionRecord, Slot};

impl ControlState {
    /// Who should lead `partition`, whoever is up: the first of its owners. None before the cluster is founded.
    #[must_use]
    pub fn target_primary(&self, partition: PartitionId) -> Option<Slot> {
        self.owners(partition).primary()
    }

    /// How many partitions are led by others than their target primaries.
    #[must_use]
    pub fn misplaced(&self) -> usize {
        let is_misplaced = |(partition, record): &(usize, &PartitionRecord)| {
            record.primary.is_some() && record.primary != self.target_primary(PartitionId(*partition as u16))
        };
        self.table.iter().enumerate().filter(is_misplaced).count()
    }

    /// The primary gives the partition to the first of its owners, which is up and has all of it; one that stops, to anybody
    /// of whom that is true. Nobody enters or leaves the in-sync set: the new primary has to wait for the ack of the former one, which has fenced itself then.
    pub(super) fn on_given_back(&mut self, epoch: Epoch, change: &InSyncChange) -> bool {
        let Some(to) = change.give_to else { return false };
        let (up, from) = (self.up(), change.proposer.slot);
        let stopping = self.stopping();
        // Who stops gives what it leads to anybody who has it in full.
        let is_meant = self.target_primary(change.partition) == Some(to) || stopping.contains(from);
        let is_target = is_meant && to != from && up.difference(stopping).contains(to);
        let record = &mut self.table[change.partition.index()];
        let is_alone = change.add.is_empty() && change.remove.is_empty();
        if is_broken(Mutant::GiveToLaggard) && is_target {
            record.learners.remove(to);
            record.counting.remove(to);
            record.in_sync.insert(to);
        }
        if !(is_target && is_alone && record.in_sync.contains(to)) {
            return false;
        }
        record.primary = Some(to);
        record.former = Some(from);
        record.epoch = epoch;
        record.change = record.change.next();
        // A lease that it is granted from now on counts once it has applied this entry: until then it would read as primary.
        if !is_broken(Mutant::FormerPrimaryLeased) {
            self.nodes[from.index()].up_since = LogIndex(epoch.0);
        }
        true
    }
}

/// Whoever is in sync no more, or leads again, is no former primary.
pub(super) fn forget_former(record: &mut PartitionRecord) {
    record.former = record.former.filter(|former| record.in_sync.contains(*former) && record.primary != Some(*former));
}
