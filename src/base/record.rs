//! What the control log says of one partition.

use bincode::{Decode, Encode};

use super::{ChangeNumber, Epoch, NodeId, PartitionId, Slot, SlotSet};

/// One partition's row in the table that every node derives from the control log.
///
/// A slot in `in_sync` or `learners` always means the incarnation that the table has registered for that slot: a slot
/// whose incarnation is replaced is taken out of every record first.
///
/// Invariants ([`PartitionRecord::check_invariants`]):
/// - the primary, if any, is in the in-sync set;
/// - nobody is in-sync and a learner at once;
/// - whoever counts is a learner;
/// - the former primary is in sync, and isn't the primary;
/// - only in-sync members are promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PartitionRecord {
    /// The log index of the last change of primary.
    pub epoch: Epoch,
    /// How often this record changed.
    pub change: ChangeNumber,
    /// Who orders the partition's writes; none while nobody in sync is up.
    pub primary: Option<Slot>,
    /// Who holds every acknowledged write.
    pub in_sync: SlotSet,
    /// Who is being filled.
    pub learners: SlotSet,
    /// Learners that count for `min_copies`: while fewer are in sync, every new write needs their acks, too. They have the
    /// live stream from the moment they were attached, and their scan behind it; so writes go on without waiting for a
    /// scan. Nobody of them is promoted: what is older than their stream they may not have yet.
    pub counting: SlotSet,
    /// Who has given the partition back to its target primary, until that one says that its epoch has begun. Its lease may
    /// still count, and it may not have heard yet: so it stays in sync, for the new primary to wait for its ack.
    pub former: Option<Slot>,
}

impl PartitionRecord {
    /// Everybody who receives the partition's live stream.
    #[must_use]
    pub fn members(&self) -> SlotSet {
        self.in_sync.union(self.learners)
    }

    /// How many hold a write that is acknowledged under this record, at least.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.in_sync.len() + self.counting.len()
    }

    /// Whether no copy is left: the last in-sync incarnation is gone for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.epoch != Epoch::ZERO && self.in_sync.is_empty()
    }

    /// Where the record contradicts itself, if it does: what a peer says is asked this before it is believed.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        if let Some(primary) = self.primary.filter(|primary| !self.in_sync.contains(*primary)) {
            return Some(format!("primary {primary} is not in the in-sync set {:?}", self.in_sync));
        }
        if let Some(former) =
            self.former.filter(|former| !self.in_sync.contains(*former) || self.primary == Some(*former))
        {
            return Some(format!("{former} is no former primary in sync: {self:?}"));
        }
        if !self.counting.is_subset(self.learners) {
            return Some(format!("{:?} count and are no learners: {self:?}", self.counting.difference(self.learners)));
        }
        let both = self.in_sync.intersection(self.learners);
        (!both.is_empty()).then(|| format!("{both:?} are in-sync and learners at once: {self:?}"))
    }

    /// Panics where the record contradicts itself.
    pub fn check_invariants(&self) {
        assert_eq!(self.contradiction(), None);
    }
}

/// A change of one partition's in-sync set, or of its primary, asked for by its primary and judged when the control log
/// applies it: it takes effect only if the record still has this epoch and this change number.
///
/// One that takes nobody out comes of a primary that serves: one that asks for nothing at all says just that, and lets the
/// former primary go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct InSyncChange {
    /// Which partition.
    pub partition: PartitionId,
    /// Who asks: the primary of that epoch.
    pub proposer: NodeId,
    /// The epoch that the asker acts in.
    pub epoch: Epoch,
    /// The change number that the asker has seen.
    pub change: ChangeNumber,
    /// Learners that have caught up.
    pub add: SlotSet,
    /// Members that are too slow or gone. A learner among them begins anew where it should hold a copy, and doesn't count.
    pub remove: SlotSet,
    /// The target primary, to whom the asker gives the partition back; then there is nobody to add or to remove.
    pub give_to: Option<Slot>,
}
