//! The state that the commands of the Raft log produce.

mod give_back;
mod stopping;

use bincode::{Decode, Encode};

use super::{Command, Recovery, Roster, Settings};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{
    ChangeNumber, Epoch, InSyncChange, LogIndex, NodeId, PartitionId, PartitionRecord, Slot, SlotSet, limits,
};
use crate::placement;

/// Epochs, change numbers and indices that no real cluster reaches: counting on from them can't overflow.
const NUMBER_MAX: u64 = 1 << 61;

/// The cluster's own state, the same on every node that has applied the same entries.
///
/// Invariants ([`ControlState::check_invariants`]): those of every record; primaries are up; whoever is in sync or learns
/// is registered, and learners are up; a partition has no primary only if nobody in its in-sync set is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ControlState {
    settings: Option<Settings>,
    roster: Roster,
    nodes: Vec<NodeEntry>,
    table: Vec<PartitionRecord>,
    applied: LogIndex,
    recovery: Option<Recovery>,
}

/// Who is registered in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeEntry {
    /// The identity whose copies count; none where nobody ever was.
    pub node: Option<NodeId>,
    /// Whether it may hold data roles.
    pub up: bool,
    /// The entry that last made it up: a lease counts for it only once it has applied this entry itself, or it could
    /// serve by a table from before its own death. Likewise the last one by which it gave partitions back.
    pub up_since: LogIndex,
    /// It is told to stop. It stays so for the rest of its life.
    pub stopping: bool,
}

impl ControlState {
    /// The settings; none before the cluster's first command is applied.
    #[must_use]
    pub const fn settings(&self) -> Option<Settings> {
        self.settings
    }

    /// Which slots the cluster consists of.
    #[must_use]
    pub const fn roster(&self) -> Roster {
        self.roster
    }

    /// What the last recovery by force found; none where there never was one.
    #[must_use]
    pub const fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
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
            Command::Found { settings, slots, founders } => self.on_found(epoch, *settings, *slots, founders),
            Command::NodeUp { node } => self.on_node_up(epoch, *node),
            Command::NodeDown { node, witnesses } => self.on_node_down(epoch, *node, *witnesses),
            Command::SetRoster { before, after } => self.roster == *before && self.on_set_roster(epoch, *after),
            Command::Recover { survivors } => self.on_recover(epoch, survivors),
            Command::Stopping { node } => self.on_stopping(*node),
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

    fn on_found(&mut self, epoch: Epoch, settings: Settings, slots: SlotSet, founders: &[NodeId]) -> bool {
        if self.settings.is_some() {
            return false;
        }
        self.settings = Some(settings);
        self.roster = Roster { slots, replicas: settings.replicas, ..Roster::default() };
        self.nodes = vec![NodeEntry::default(); slots.iter().map(|slot| slot.index() + 1).max().unwrap_or(0)];
        for &node in founders.iter().filter(|node| slots.contains(node.slot)) {
            let entry = &mut self.nodes[node.slot.index()];
            *entry = NodeEntry { node: Some(node), up: true, up_since: LogIndex(epoch.0), stopping: false };
        }
        let up = self.up();
        self.table = (0..settings.partitions)
            .map(|partition| {
                let partition = PartitionId(partition);
                // All copies of a new cluster are equal, because all are empty: who stands in for a founder that is
                // missing is in sync, too.
                let mut record = PartitionRecord { epoch, change: ChangeNumber::ZERO.next(), ..Default::default() };
                record.in_sync = self.owners(partition).set().intersection(up);
                record.in_sync = record.in_sync.union(self.stand_ins(partition, record.in_sync, up));
                record.primary = self.promote(partition, record.in_sync);
                record
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
        self.for_each_record(epoch, |_, record| {
            record.learners.remove(node.slot);
            record.counting.remove(node.slot);
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

    /// Whether the data can do without `slot`, which is up: somebody of `witnesses` is in sync wherever it is, and enough
    /// others are up to hold what it holds.
    #[must_use]
    pub fn spares(&self, slot: Slot, witnesses: SlotSet) -> bool {
        let others = self.up().without(slot);
        let min_copies = self.settings.map_or(0, |settings| usize::from(settings.min_copies));
        let is_held =
            |record: &PartitionRecord| !record.in_sync.intersection(others).intersection(witnesses).is_empty();
        others.len() >= min_copies.max(1)
            && self.table.iter().filter(|record| record.in_sync.contains(slot)).all(is_held)
    }

    /// Whether `slot`, which is down, is wanted at once: a partition has fewer copies than a write takes, or nobody leads one
    /// that it has.
    #[must_use]
    pub fn needs(&self, slot: Slot) -> bool {
        let min_copies = self.settings.map_or(0, |settings| usize::from(settings.min_copies));
        self.table.iter().any(|record| match record.primary {
            Some(_) => record.copies() < min_copies,
            None => record.in_sync.contains(slot),
        })
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
        let stopping = entry.stopping && entry.node == Some(node);
        *entry = NodeEntry { node: Some(node), up: true, up_since: LogIndex(epoch.0), stopping };
        self.roster.absent.remove(node.slot);
        if replaced {
            // Whoever drained the slot has restarted it.
            self.roster.draining.remove(node.slot);
        }
        self.for_each_record(epoch, |_, record| {
            if replaced {
                if record.members().contains(node.slot) && !is_broken(Mutant::NextLifeUnnoticed) {
                    // A learner whose next life learns the same leaves a record that looks the same, and isn't: a wish to count it,
                    // which is on its way, is of the life before.
                    record.change = record.change.next();
                }
                // What the slot's earlier life held is gone with its memory.
                record.learners.remove(node.slot);
                record.counting.remove(node.slot);
                record.in_sync.remove(node.slot);
            }
        });
        true
    }

    fn on_set_roster(&mut self, epoch: Epoch, mut roster: Roster) -> bool {
        // Whoever has returned meanwhile isn't absent.
        roster.absent = roster.absent.difference(self.up());
        let Some(settings) = self.settings.as_mut().filter(|_| self.roster != roster) else { return false };
        settings.replicas = roster.replicas;
        self.roster = roster;
        let count = roster.slots.iter().map(|slot| slot.index() + 1).max().unwrap_or(0).max(self.nodes.len());
        self.nodes.resize(count, NodeEntry::default());
        let outside = |slot: usize| !roster.slots.contains(Slot(slot as u8));
        for (slot, entry) in self.nodes.iter_mut().enumerate().filter(|(slot, _)| outside(*slot)) {
            // Only who holds nothing leaves; else the entry comes too early and changes nothing here.
            let slot = Slot(slot as u8);
            if !self.table.iter().any(|record| record.members().contains(slot)) {
                *entry = NodeEntry::default();
            }
        }
        self.for_each_record(epoch, |_, _| {});
        true
    }

    /// Whether `slot` holds a copy, or part of one, of any partition.
    #[must_use]
    pub fn holds_anything(&self, slot: Slot) -> bool {
        self.table.iter().any(|record| record.members().contains(slot))
    }

    fn on_recover(&mut self, epoch: Epoch, survivors: &[NodeId]) -> bool {
        for entry in &mut self.nodes {
            let survives = entry.node.is_some_and(|node| survivors.contains(&node));
            *entry = if survives {
                NodeEntry { node: entry.node, up: true, up_since: LogIndex(epoch.0), stopping: false }
            } else {
                NodeEntry::default()
            };
        }
        let alive = self.up();
        let mut recovery = Recovery::default();
        self.for_each_record(epoch, |partition, record| {
            record.in_sync = record.in_sync.intersection(alive);
            record.learners = record.learners.intersection(alive);
            record.counting = record.counting.intersection(alive);
            record.primary = None;
            // Who counted has the newest writes.
            match (record.in_sync.is_empty(), record.counting.lowest().or(record.learners.lowest())) {
                (false, _) => recovery.clean += 1,
                (true, Some(learner)) => {
                    recovery.lossy.push(partition);
                    record.learners.remove(learner);
                    record.counting.remove(learner);
                    record.in_sync.insert(learner);
                }
                (true, None) => recovery.lost.push(partition),
            }
        });
        self.recovery = Some(recovery);
        true
    }

    fn on_change_in_sync(&mut self, epoch: Epoch, change: &InSyncChange) -> bool {
        let Some(record) = self.table.get(change.partition.index()).copied() else { return false };
        let is_current =
            record.epoch == change.epoch && record.change == change.change || is_broken(Mutant::ApplyStaleChange);
        let is_primary = record.primary.is_some_and(|slot| self.node(slot).node == Some(change.proposer));
        let added_learn = change.add.is_subset(record.learners);
        let removed_may_go = change.remove.is_subset(record.members())
            && !record.primary.is_some_and(|primary| change.remove.contains(primary));
        if !(is_current && is_primary && added_learn && removed_may_go) {
            return false;
        }
        if change.give_to.is_some() {
            return self.on_given_back(epoch, change);
        }
        let up = self.up();
        let targets = self.owners(change.partition).set();
        let mut changed = record;
        changed.in_sync = record.in_sync.union(change.add).difference(change.remove);
        changed.learners = record.learners.difference(change.add).difference(change.remove);
        changed.counting = changed.counting.intersection(changed.learners);
        if change.remove.is_empty() {
            // Only who serves proposes such a change, so everybody in sync has fenced the epochs before.
            changed.former = None;
        } else {
            // Somebody else helps out where too few are left; whoever was too slow, and should hold a copy, begins anew.
            let others = up.difference(change.remove);
            changed.learners = changed.learners.union(self.stand_ins(change.partition, changed.members(), others));
            changed.learners = changed.learners.union(targets.intersection(up).difference(changed.in_sync));
        }
        give_back::forget_former(&mut changed);
        dismiss_stand_ins(&mut changed, targets);
        self.count_learners(change.partition, &mut changed, change.remove);
        let record = &mut self.table[change.partition.index()];
        *record = changed;
        record.change = record.change.next();
        debug_assert!(record.primary.is_some_and(|primary| up.contains(primary)), "{epoch}: {record:?} by {change:?}");
        true
    }

    /// Edits every record, then promotes wherever that left a partition without a live primary. The promotion runs for
    /// every record at every entry that may have changed who is up: run at deaths only, a partition whose last in-sync
    /// node came back stayed without a primary.
    fn for_each_record(&mut self, epoch: Epoch, mut edit: impl FnMut(PartitionId, &mut PartitionRecord)) {
        let up = self.up();
        for index in 0..self.table.len() {
            let partition = PartitionId(index as u16);
            let owners = self.owners(partition).set();
            let before = self.table[index];
            let mut record = before;
            edit(partition, &mut record);
            give_back::forget_former(&mut record);
            if !record.primary.is_some_and(|primary| up.contains(primary) && record.in_sync.contains(primary)) {
                let promotable = if is_broken(Mutant::PromoteLearner) {
                    record.learners.union(record.in_sync)
                } else {
                    record.in_sync
                };
                record.primary = self.promote(partition, promotable.intersection(up));
                give_back::forget_former(&mut record);
                if record.primary.is_some() || before.primary.is_some() {
                    record.epoch = epoch;
                }
            }
            if !record.in_sync.is_empty() {
                // Who should hold a copy and holds none is filled; and so is who has to help out.
                record.learners = record.learners.union(owners.intersection(up).difference(record.in_sync));
                if record.primary.is_some() {
                    record.learners = record.learners.union(self.stand_ins(partition, record.members(), up));
                }
            }
            dismiss_stand_ins(&mut record, owners);
            if record.primary.is_none() {
                // Nobody fills them. Who is to hold nothing any more would wait for that for ever where the partition is
                // lost, and for somebody who may never return where it isn't.
                record.learners = record.learners.intersection(self.roster.staying());
            }
            self.count_learners(partition, &mut record, SlotSet::EMPTY);
            if record != before {
                record.change = before.change.next();
                self.table[index] = record;
            }
        }
    }

    /// Who has to help out, because fewer than `min_copies` of `members` would hold a write: the next slots of the
    /// partition's ranking that are up.
    fn stand_ins(&self, partition: PartitionId, members: SlotSet, up: SlotSet) -> SlotSet {
        let min_copies = self.settings.map_or(0, |settings| usize::from(settings.min_copies));
        let missing = min_copies.saturating_sub(members.len());
        if missing == 0 {
            return SlotSet::EMPTY;
        }
        let ranking = placement::owners(partition, self.roster.staying(), self.roster.slots.len() as u8);
        ranking.iter().filter(|&slot| up.contains(slot) && !members.contains(slot)).take(missing).collect()
    }

    /// Chooses which learners count: as few as `min_copies` needs, those that count already first, then by the
    /// partition's ranking; nobody of `late`, whose acks would be waited for in vain. Where nobody leads, nobody is asked
    /// for an ack, and who counted is remembered: it has the newest writes.
    fn count_learners(&self, partition: PartitionId, record: &mut PartitionRecord, late: SlotSet) {
        record.counting = record.counting.intersection(record.learners);
        if record.primary.is_none() {
            return;
        }
        let min_copies = self.settings.map_or(0, |settings| usize::from(settings.min_copies));
        let missing = min_copies.saturating_sub(record.in_sync.len());
        let candidates = record.learners.difference(late);
        let ranking = placement::owners(partition, self.roster.staying(), self.roster.slots.len() as u8);
        let ranked = ranking.iter().chain(candidates.iter()).filter(|slot| candidates.contains(*slot));
        let mut chosen = SlotSet::EMPTY;
        for slot in record.counting.iter().chain(ranked) {
            if chosen.len() < missing {
                chosen.insert(slot);
            }
        }
        record.counting = chosen;
    }

    /// The first target owner among `candidates`, else the lowest slot of them: the same choice on every node, and one
    /// that spreads a dead node's partitions over the others.
    fn promote(&self, partition: PartitionId, candidates: SlotSet) -> Option<Slot> {
        // One that stops is the last choice: it would have to give it away at once.
        let staying = candidates.difference(self.stopping());
        let candidates = if staying.is_empty() { candidates } else { staying };
        self.owners(partition).iter().find(|&slot| candidates.contains(slot)).or_else(|| candidates.lowest())
    }

    /// The target owners of a partition: by the configured slots, whoever sits there, so that a death moves no target.
    fn owners(&self, partition: PartitionId) -> placement::Owners {
        placement::owners(partition, self.roster.staying(), self.roster.replicas)
    }

    fn slots_where(&self, is_in: impl Fn(&NodeEntry) -> bool) -> SlotSet {
        self.nodes.iter().enumerate().filter(|(_, entry)| is_in(entry)).map(|(slot, _)| Slot(slot as u8)).collect()
    }

    /// Whether a state that a peer has sent can be the state after the entry at `index`: it stands for that entry, its
    /// numbers are within the bounds that every state of this program keeps, and it doesn't contradict itself.
    #[must_use]
    pub fn is_sound(&self, index: LogIndex) -> bool {
        let sits_there = |(slot, entry): (usize, &NodeEntry)| {
            entry.node.map_or(!entry.up, |node| node.slot.index() == slot) && entry.up_since <= index
        };
        let partitions = self.settings.map_or(0, |settings| usize::from(settings.partitions));
        let is_counted = |record: &PartitionRecord| record.epoch.0 <= NUMBER_MAX && record.change.0 <= NUMBER_MAX;
        self.applied == index
            && index.0 <= NUMBER_MAX
            && self.settings.is_none_or(|settings| settings.is_sound())
            && self.nodes.len() <= limits::NODES_MAX
            && self.nodes.iter().enumerate().all(sits_there)
            && self.table.len() == partitions
            && self.table.iter().all(is_counted)
            && self.contradiction().is_none()
    }

    /// Where the state contradicts itself, if it does.
    fn contradiction(&self) -> Option<String> {
        let up = self.up();
        let registered = self.slots_where(|entry| entry.node.is_some());
        let of = |record: &PartitionRecord| {
            if let Some(contradiction) = record.contradiction() {
                return Some(contradiction);
            }
            if !record.members().is_subset(registered) {
                return Some(format!("{record:?} names an unregistered slot"));
            }
            if !record.learners.is_subset(up) {
                return Some(format!("{record:?} has a learner that is down; up: {up:?}"));
            }
            match record.primary {
                Some(primary) if !up.contains(primary) => Some(format!("{record:?} has a dead primary; up: {up:?}")),
                None if !record.in_sync.intersection(up).is_empty() => {
                    Some(format!("{record:?} has nobody promoted; up: {up:?}"))
                }
                _ => None,
            }
        };
        let found = self.table.iter().enumerate().find_map(|(partition, record)| Some((partition, of(record)?)));
        found.map(|(partition, contradiction)| format!("p{partition}: {contradiction}"))
    }

    /// Panics where the state contradicts itself.
    pub fn check_invariants(&self) {
        assert_eq!(self.contradiction(), None);
    }
}

/// Once every owner holds a copy, those who stood in for one are no longer needed, but for the primary, and the former one
/// while it may not know yet that it is that.
fn dismiss_stand_ins(record: &mut PartitionRecord, owners: SlotSet) {
    if !owners.is_empty() && owners.is_subset(record.in_sync) {
        let former = record.former.filter(|_| !is_broken(Mutant::FormerPrimaryDismissed));
        record.in_sync = record.primary.into_iter().chain(former).collect::<SlotSet>().union(owners);
        record.former = former;
        record.learners = record.learners.intersection(owners);
        record.counting = record.counting.intersection(record.learners);
    }
}

#[cfg(test)]
mod tests;
