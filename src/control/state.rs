//! The state that the commands of the Raft log produce.

use bincode::{Decode, Encode};

use super::{Command, Settings};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ChangeNumber, Epoch, InSyncChange, LogIndex, NodeId, PartitionId, PartitionRecord, Slot, SlotSet};
use crate::placement;

/// The cluster's own state, the same on every node that has applied the same entries.
///
/// Invariants ([`ControlState::check_invariants`]): those of every record; primaries are up; whoever is in sync or learns
/// is registered, and learners are up; a partition has no primary only if nobody in its in-sync set is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ControlState {
    settings: Option<Settings>,
    nodes: Vec<NodeEntry>,
    table: Vec<PartitionRecord>,
    applied: LogIndex,
}

/// Who is registered in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeEntry {
    /// The identity whose copies count; none where nobody ever was.
    pub node: Option<NodeId>,
    /// Whether it may hold data roles.
    pub up: bool,
    /// The entry that last made it up: a lease counts for it only once it has applied this entry itself, or it could
    /// serve by a table from before its own death.
    pub up_since: LogIndex,
}

impl ControlState {
    /// The settings; none before the cluster's first command is applied.
    #[must_use]
    pub const fn settings(&self) -> Option<Settings> {
        self.settings
    }

    /// Who is registered, by slot.
    #[must_use]
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// The entry of `slot`.
    #[must_use]
    pub fn node(&self, slot: Slot) -> NodeEntry {
        self.nodes.get(slot.index()).copied().unwrap_or_default()
    }

    /// The partition table, by partition.
    #[must_use]
    pub fn table(&self) -> &[PartitionRecord] {
        &self.table
    }

    /// The last entry that was applied.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The slots whose registered identity is up.
    #[must_use]
    pub fn up(&self) -> SlotSet {
        self.slots_where(|entry| entry.up)
    }

    /// Applies the entry at `index`, which must come after all that were applied before. True when the table or the
    /// registry changed.
    pub fn apply(&mut self, index: LogIndex, command: &Command) -> bool {
        assert!(index > self.applied, "entry {index} is applied after entry {}", self.applied);
        self.applied = index;
        let epoch = Epoch(index.0);
        let changed = match command {
            Command::Found { settings, founders } => self.on_found(epoch, *settings, founders),
            Command::NodeUp { node } => self.on_node_up(epoch, *node),
            Command::NodeDown { node, witnesses } => self.on_node_down(epoch, *node, *witnesses),
            Command::ChangeInSync(changes) => {
                changes.iter().filter(|change| self.on_change_in_sync(epoch, change)).count() > 0
            }
        };
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        changed
    }

    /// Notes that the log went on to `index` without a command for this state.
    pub fn skip_to(&mut self, index: LogIndex) {
        assert!(index > self.applied, "entry {index} is applied after entry {}", self.applied);
        self.applied = index;
    }

    fn on_found(&mut self, epoch: Epoch, settings: Settings, founders: &[NodeId]) -> bool {
        if self.settings.is_some() {
            return false;
        }
        self.settings = Some(settings);
        self.nodes = founders
            .iter()
            .map(|&node| NodeEntry { node: Some(node), up: true, up_since: LogIndex(epoch.0) })
            .collect();
        self.table = (0..settings.partitions)
            .map(|partition| {
                let owners = self.owners(PartitionId(partition));
                PartitionRecord {
                    epoch,
                    change: ChangeNumber::ZERO.next(),
                    primary: owners.primary(),
                    // All copies of a new cluster are equal, because all are empty.
                    in_sync: owners.set(),
                    learners: SlotSet::EMPTY,
                }
            })
            .collect();
        true
    }

    fn on_node_down(&mut self, epoch: Epoch, node: NodeId, witnesses: SlotSet) -> bool {
        let Some(entry) = self.nodes.get_mut(node.slot.index()) else { return false };
        if entry.node != Some(node) {
            return false;
        }
        entry.up = false;
        let alive = self.up().intersection(witnesses);
        self.for_each_record(epoch, |record| {
            record.learners.remove(node.slot);
            // Where nobody else in sync is known to live it stays in the set: nothing is committed without it from here
            // on, so its copy is whole if the same life of the process comes back. Taken out as soon as it was found
            // silent, a node that had only stood still for a moment left sets of dead nodes behind.
            if !record.in_sync.intersection(alive).is_empty() {
                record.in_sync.remove(node.slot);
            }
        });
        true
    }

    /// Whether `node`, which is down, could be taken out of some in-sync set because a witness is in it.
    #[must_use]
    pub fn lingers(&self, node: NodeId, witnesses: SlotSet) -> bool {
        let alive = self.up().intersection(witnesses);
        let lingers_in = |record: &PartitionRecord| {
            record.in_sync.contains(node.slot) && !record.in_sync.intersection(alive).is_empty()
        };
        let entry = self.node(node.slot);
        entry.node == Some(node) && !entry.up && self.table.iter().any(lingers_in)
    }

    fn on_node_up(&mut self, epoch: Epoch, node: NodeId) -> bool {
        if self.settings.is_none() {
            return false;
        }
        if self.nodes.len() <= node.slot.index() {
            self.nodes.resize(node.slot.index() + 1, NodeEntry::default());
        }
        let entry = &mut self.nodes[node.slot.index()];
        if entry.node == Some(node) && entry.up {
            return false;
        }
        let replaced = entry.node.is_some_and(|before| before != node) && !is_broken(Mutant::NewLifeKeepsPlace);
        *entry = NodeEntry { node: Some(node), up: true, up_since: LogIndex(epoch.0) };
        let targets: Vec<SlotSet> =
            (0..self.table.len()).map(|partition| self.owners(PartitionId(partition as u16)).set()).collect();
        let mut targets = targets.into_iter();
        self.for_each_record(epoch, |record| {
            if replaced {
                // What the slot's earlier life held is gone with its memory.
                record.learners.remove(node.slot);
                record.in_sync.remove(node.slot);
            }
            let is_target = targets.next().is_some_and(|owners| owners.contains(node.slot));
            if is_target && !record.in_sync.contains(node.slot) && !record.in_sync.is_empty() {
                record.learners.insert(node.slot);
            }
        });
        true
    }

    fn on_change_in_sync(&mut self, epoch: Epoch, change: &InSyncChange) -> bool {
        let Some(record) = self.table.get(change.partition.index()).copied() else { return false };
        let is_current =
            record.epoch == change.epoch && record.change == change.change || is_broken(Mutant::ApplyStaleChange);
        let is_primary = record.primary.is_some_and(|slot| self.node(slot).node == Some(change.proposer));
        let added_learn = change.add.is_subset(record.learners);
        let removed_may_go =
            change.remove.is_subset(record.in_sync) && !record.primary.is_some_and(|p| change.remove.contains(p));
        if !(is_current && is_primary && added_learn && removed_may_go) {
            return false;
        }
        let up = self.up();
        let targets = self.owners(change.partition).set();
        let record = &mut self.table[change.partition.index()];
        record.in_sync = record.in_sync.union(change.add).difference(change.remove);
        record.learners = record.learners.difference(change.add);
        // Once every target holds a copy, those who stood in for one are no longer needed.
        if targets.is_subset(record.in_sync) {
            record.in_sync = record.primary.into_iter().collect::<SlotSet>().union(targets);
            record.learners = record.learners.intersection(targets);
        }
        record.change = record.change.next();
        debug_assert!(record.primary.is_some_and(|primary| up.contains(primary)), "{epoch}: {record:?} by {change:?}");
        true
    }

    /// Edits every record, then promotes wherever that left a partition without a live primary. The promotion runs for
    /// every record at every entry that may have changed who is up: run at deaths only, a partition whose last in-sync
    /// node came back stayed without a primary.
    fn for_each_record(&mut self, epoch: Epoch, mut edit: impl FnMut(&mut PartitionRecord)) {
        let up = self.up();
        for partition in 0..self.table.len() {
            let before = self.table[partition];
            let mut record = before;
            edit(&mut record);
            if !record.primary.is_some_and(|primary| up.contains(primary) && record.in_sync.contains(primary)) {
                let promotable = if is_broken(Mutant::PromoteLearner) {
                    record.learners.union(record.in_sync)
                } else {
                    record.in_sync
                };
                record.primary = self.promote(PartitionId(partition as u16), promotable.intersection(up));
            }
            if record.primary != before.primary {
                record.epoch = epoch;
            }
            record.learners = record.learners.union(self.substitutes(PartitionId(partition as u16), &record, up));
            if record != before {
                record.change = before.change.next();
                self.table[partition] = record;
            }
        }
    }

    /// Who has to be filled at once, because fewer than `min_copies` would hold a write: the next slots of the partition's
    /// ranking that are up. Without a copy to fill them from there is nothing to do.
    fn substitutes(&self, partition: PartitionId, record: &PartitionRecord, up: SlotSet) -> SlotSet {
        let min_copies = self.settings.map_or(0, |settings| usize::from(settings.min_copies));
        let missing = min_copies.saturating_sub(record.members().len());
        if missing == 0 || record.primary.is_none() {
            return SlotSet::EMPTY;
        }
        let ranking = placement::owners(partition, SlotSet::first(self.nodes.len()), self.nodes.len() as u8);
        ranking.iter().filter(|&slot| up.contains(slot) && !record.members().contains(slot)).take(missing).collect()
    }

    /// The first target owner among `candidates`, else the lowest slot of them: the same choice on every node, and one
    /// that spreads a dead node's partitions over the others.
    fn promote(&self, partition: PartitionId, candidates: SlotSet) -> Option<Slot> {
        self.owners(partition).iter().find(|&slot| candidates.contains(slot)).or_else(|| candidates.lowest())
    }

    /// The target owners of a partition: by the configured slots, whoever sits there, so that a death moves no target.
    fn owners(&self, partition: PartitionId) -> placement::Owners {
        let replicas = self.settings.map_or(0, |settings| settings.replicas);
        placement::owners(partition, SlotSet::first(self.nodes.len()), replicas)
    }

    fn slots_where(&self, is_in: impl Fn(&NodeEntry) -> bool) -> SlotSet {
        self.nodes.iter().enumerate().filter(|(_, entry)| is_in(entry)).map(|(slot, _)| Slot(slot as u8)).collect()
    }

    /// Panics where the state contradicts itself.
    pub fn check_invariants(&self) {
        let up = self.up();
        let registered = self.slots_where(|entry| entry.node.is_some());
        for (partition, record) in self.table.iter().enumerate() {
            record.check_invariants();
            assert!(record.members().is_subset(registered), "p{partition}: {record:?} names an unregistered slot");
            assert!(record.learners.is_subset(up), "p{partition}: {record:?} has a learner that is down; up: {up:?}");
            match record.primary {
                Some(primary) => {
                    assert!(up.contains(primary), "p{partition}: {record:?} has a dead primary; up: {up:?}")
                }
                None => assert!(
                    record.in_sync.intersection(up).is_empty(),
                    "p{partition}: {record:?} has nobody promoted; up: {up:?}"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    fn node(slot: u8, life: u128) -> NodeId {
        NodeId::new(Slot(slot), Incarnation(life))
    }

    /// The death of a node that everybody else outlives.
    fn down(slot: u8, life: u128) -> Command {
        Command::NodeDown { node: node(slot, life), witnesses: SlotSet::first(7).without(Slot(slot)) }
    }

    fn founded(nodes: u8, replicas: u8) -> ControlState {
        let mut state = ControlState::default();
        let settings = Settings { partitions: 64, replicas, min_copies: 2 };
        let founders = (0..nodes).map(|slot| node(slot, 1)).collect();
        assert!(state.apply(LogIndex(1), &Command::Found { settings, founders }));
        state
    }

    #[test]
    fn a_founded_cluster_has_every_partition_in_full() {
        let state = founded(3, 2);
        for record in state.table() {
            assert_eq!((record.in_sync.len(), record.learners.len(), record.epoch), (2, 0, Epoch(1)));
            assert!(record.primary.is_some());
        }
    }

    #[test]
    fn one_entry_promotes_a_backup_of_every_partition_that_the_dead_node_led() {
        let mut state = founded(3, 2);
        let led = state.table().iter().filter(|record| record.primary == Some(Slot(0))).count();
        assert!(led > 0 && state.apply(LogIndex(2), &down(0, 1)));
        let promoted = state.table().iter().filter(|record| record.epoch == Epoch(2)).count();
        assert_eq!(promoted, led, "only its partitions changed their primary");
        assert!(state.table().iter().all(|record| record.primary.is_some_and(|primary| primary != Slot(0))));
    }

    #[test]
    fn a_partition_short_of_copies_is_filled_elsewhere_at_once_and_the_stand_in_leaves_when_the_owner_is_back() {
        let mut state = founded(3, 2);
        state.apply(LogIndex(2), &down(0, 1));
        let partition = state.table().iter().position(|record| record.in_sync.len() == 1).expect("some lost a copy");
        let record = state.table()[partition];
        assert_eq!(record.members(), SlotSet::EMPTY.with(Slot(1)).with(Slot(2)), "the third node stands in");
        let add = |state: &mut ControlState, index: u64, slot: u8| {
            let record = state.table()[partition];
            let change = InSyncChange {
                partition: PartitionId(partition as u16),
                proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
                epoch: record.epoch,
                change: record.change,
                add: SlotSet::EMPTY.with(Slot(slot)),
                remove: SlotSet::EMPTY,
            };
            assert!(state.apply(LogIndex(index), &Command::ChangeInSync(vec![change])));
        };
        let stand_in = record.learners.lowest().expect("one");
        add(&mut state, 3, stand_in.0);
        assert_eq!(state.table()[partition].in_sync.len(), 2);
        state.apply(LogIndex(4), &Command::NodeUp { node: node(0, 2) });
        add(&mut state, 5, 0);
        let record = state.table()[partition];
        assert!(record.in_sync.contains(Slot(0)) && !record.in_sync.contains(stand_in), "{record:?}");
    }

    #[test]
    fn a_death_of_a_former_life_changes_nothing() {
        let mut state = founded(3, 2);
        assert!(!state.apply(LogIndex(2), &down(0, 7)));
        assert_eq!(state.up().len(), 3);
    }

    #[test]
    fn a_new_life_learns_what_its_slot_should_hold_and_serves_nothing_before() {
        let mut state = founded(3, 2);
        let held: Vec<bool> = state.table().iter().map(|record| record.in_sync.contains(Slot(0))).collect();
        state.apply(LogIndex(2), &down(0, 1));
        state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
        for (record, held) in state.table().iter().zip(held) {
            assert!(!record.in_sync.contains(Slot(0)));
            assert_eq!(record.learners.contains(Slot(0)), held);
        }
    }

    #[test]
    fn the_last_in_sync_life_is_waited_for_and_a_new_life_is_no_substitute() {
        let mut state = founded(2, 2);
        state.apply(LogIndex(2), &down(0, 1));
        state.apply(LogIndex(3), &down(1, 1));
        assert!(state.table().iter().all(|record| record.primary.is_none() && record.in_sync.contains(Slot(1))));

        let mut same = state.clone();
        same.apply(LogIndex(4), &Command::NodeUp { node: node(1, 1) });
        assert!(same.table().iter().all(|record| record.primary == Some(Slot(1)) && record.epoch == Epoch(4)));

        state.apply(LogIndex(4), &Command::NodeUp { node: node(1, 2) });
        assert!(state.table().iter().all(PartitionRecord::is_lost));
    }

    #[test]
    fn who_is_silent_together_with_all_others_in_sync_keeps_its_place_and_its_copy_counts() {
        let mut state = founded(3, 2);
        let pair = SlotSet::EMPTY.with(Slot(0)).with(Slot(1));
        let partition = state.table().iter().position(|record| record.in_sync == pair).expect("some are theirs");
        // Both are silent. The second one is dead; the first one, declared down before it, only stood still.
        let only_third = SlotSet::EMPTY.with(Slot(2));
        state.apply(LogIndex(2), &Command::NodeDown { node: node(0, 1), witnesses: only_third });
        assert_eq!(state.table()[partition].in_sync, pair);
        state.apply(LogIndex(3), &Command::NodeDown { node: node(1, 1), witnesses: only_third });
        assert_eq!((state.table()[partition].in_sync, state.table()[partition].primary), (pair, None));
        state.apply(LogIndex(4), &Command::NodeUp { node: node(0, 1) });
        assert_eq!(state.table()[partition].primary, Some(Slot(0)));
        // Now that somebody in sync lives, the dead one can go.
        let witnesses = only_third.with(Slot(0));
        assert!(state.lingers(node(1, 1), witnesses) && !state.lingers(node(0, 1), witnesses));
        state.apply(LogIndex(5), &Command::NodeDown { node: node(1, 1), witnesses });
        assert_eq!(state.table()[partition].in_sync, SlotSet::EMPTY.with(Slot(0)));
        assert!(!state.lingers(node(1, 1), witnesses));
    }

    #[test]
    fn a_change_of_the_in_sync_set_is_judged_when_it_is_applied() {
        let mut state = founded(3, 2);
        state.apply(LogIndex(2), &down(0, 1));
        state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
        let partition =
            state.table().iter().position(|record| record.learners.contains(Slot(0))).expect("it learns some");
        let record = state.table()[partition];
        let primary = record.primary.expect("it has one");
        let change = InSyncChange {
            partition: PartitionId(partition as u16),
            proposer: state.node(primary).node.expect("registered"),
            epoch: record.epoch,
            change: record.change,
            add: SlotSet::EMPTY.with(Slot(0)),
            remove: SlotSet::EMPTY,
        };
        let stale = InSyncChange { change: ChangeNumber(record.change.0 - 1), ..change };
        let foreign = InSyncChange { proposer: node(primary.0, 9), ..change };
        assert!(!state.apply(LogIndex(4), &Command::ChangeInSync(vec![stale, foreign])));
        assert!(state.apply(LogIndex(5), &Command::ChangeInSync(vec![change, change])), "the first of two equal ones");
        assert_eq!(state.table()[partition].change, record.change.next(), "the second came too late");
        assert!(state.table()[partition].in_sync.contains(Slot(0)));
    }
}
