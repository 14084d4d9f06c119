//! Nodes that are told to stop: what they hold, and whether the others can do without it.

use super::ControlState;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{NodeId, PartitionRecord, Slot, SlotSet};

impl ControlState {
    /// The slots whose registered identity is up, and told to stop.
    #[must_use]
    pub fn stopping(&self) -> SlotSet {
        self.slots_where(|entry| entry.up && entry.stopping)
    }

    /// The slots whose registered identity was let go: it answers what it has begun, and ends.
    #[must_use]
    pub fn let_go(&self) -> SlotSet {
        self.slots_where(|entry| !entry.up && entry.stopping)
    }

    /// Whether `slot` leads nothing, and nobody has still to hear that it leads something no more.
    #[must_use]
    pub fn leads_nothing(&self, slot: Slot) -> bool {
        self.table.iter().all(|record| record.primary != Some(slot) && record.former != Some(slot))
    }

    /// Whether `slot`, which is told to stop, can be declared down: it leads nothing, and of all that it holds there is a
    /// copy with one of `witnesses`.
    #[must_use]
    pub fn may_go(&self, slot: Slot, witnesses: SlotSet) -> bool {
        let alive = self.up().intersection(witnesses).without(slot);
        let is_elsewhere = |record: &PartitionRecord| {
            !record.in_sync.contains(slot)
                || !record.in_sync.intersection(alive).is_empty()
                || is_broken(Mutant::LetGoWhileLeading)
        };
        self.stopping().contains(slot)
            && (self.leads_nothing(slot) || is_broken(Mutant::LetGoWhileLeading))
            && self.table.iter().all(is_elsewhere)
    }

    /// Whether `node` has been let go: it is no part of any in-sync set, and leads nothing. So has one that never was. One that was
    /// found silent has not, though it holds nothing either: it may be heard again, and its vote be counted on.
    #[must_use]
    pub fn is_gone(&self, node: NodeId) -> bool {
        let entry = self.node(node.slot);
        let counts = |record: &PartitionRecord| record.in_sync.contains(node.slot);
        entry.node != Some(node)
            || !entry.up
                && (entry.stopping || is_broken(Mutant::SilentIsLetGo))
                && (is_broken(Mutant::LetGoWhileLeading) || !self.table.iter().any(counts))
    }

    /// Whether `node` is about to end, or was let go and may have ended.
    #[must_use]
    pub fn is_going(&self, node: NodeId) -> bool {
        let entry = self.node(node.slot);
        entry.node == Some(node) && entry.stopping
    }

    pub(super) fn on_stopping(&mut self, node: NodeId) -> bool {
        let Some(entry) = self.nodes.get_mut(node.slot.index()) else { return false };
        let changes = entry.node == Some(node) && entry.up && !entry.stopping;
        entry.stopping |= changes;
        changes
    }
}
