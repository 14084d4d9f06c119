//! The safety of data: what is committed of each partition, and who must have it.
//!
//! | rule | how it is checked |
//! |---|---|
//! | every acknowledged write is in every live in-sync member | whoever is in sync by the newest decided record has the very effect that was the last that any primary has committed |
//! | an acknowledged write is in every learner that counts for it | when a primary commits something of its epoch, the learners that count by its record have it |
//! | one history a partition | a sequence number is committed in one epoch, whoever applies it |
//! | no service before the epoch has begun | whoever serves finds every live in-sync member of its record in its epoch |
//! | a replica doesn't contradict itself | [`Replica::check_invariants`], of every replica that changed |

use std::collections::BTreeMap;

use crate::base::{
    ChangeNumber, ClusterId, Epoch, Generation, NodeId, PartitionId, PartitionRecord, Position, Seq, ShardId, Slot,
};
use crate::control::ControlState;
use crate::node::Node;
use crate::replica::{Replica, ReplicaRole, ReplicaStatus};
use crate::sim::process::{Process, living};

/// What is known of all partitions of the present cluster.
#[derive(Debug)]
pub(in crate::sim) struct Data {
    cluster: ClusterId,
    generation: Generation,
    partitions: Vec<Partition>,
    /// By slot: who was looked at, and each replica's state and record then.
    seen: Vec<(NodeId, Vec<Option<Seen>>)>,
    /// By slot: who is registered by the newest decided state.
    registered: Vec<Option<NodeId>>,
    applied: crate::base::LogIndex,
    /// How often a partition was given back to its target primary, since that was last asked.
    given_back: u64,
}

/// A replica's state, and which record it knew.
type Seen = (ReplicaStatus, ChangeNumber);

#[derive(Clone, Debug, Default)]
struct Partition {
    /// As far as any primary has applied.
    committed: Position,
    /// The epoch of each committed effect that was seen as somebody's last.
    epochs: BTreeMap<Seq, Epoch>,
    /// By the newest decided state.
    record: PartitionRecord,
    /// A fault took its last copy: nothing is promised any more.
    is_void: bool,
}

impl Data {
    pub(in crate::sim) fn new(slots: usize, partitions: u16) -> Self {
        Self {
            cluster: ClusterId::NONE,
            generation: Generation::ZERO,
            partitions: vec![Partition::default(); usize::from(partitions)],
            seen: vec![(NodeId::default(), vec![None; usize::from(partitions)]); slots],
            registered: Vec::new(),
            applied: crate::base::LogIndex::ZERO,
            given_back: 0,
        }
    }

    /// How often a partition was given back to its target primary, since that was last asked.
    pub(in crate::sim) fn take_given_back(&mut self) -> u64 {
        std::mem::take(&mut self.given_back)
    }

    /// Nothing is promised about `partition` any more.
    pub(in crate::sim) fn forgive(&mut self, partition: PartitionId) {
        self.partitions[partition.index()].is_void = true;
    }

    /// Looks at the replicas of a node that has handled an input. `decided` is the newest state, where it may be new.
    pub(in crate::sim) fn look(
        &mut self,
        processes: &[Process],
        node: &Node,
        decided: Option<&ControlState>,
    ) -> Result<(), String> {
        let view = node.view();
        if view.settings.is_none() {
            return Ok(());
        }
        if view.cluster == self.cluster && view.generation < self.generation {
            // It doesn't know yet that its generation is over. What that one had committed may be gone.
            return Ok(());
        }
        if (view.cluster, view.generation) != (self.cluster, self.generation) {
            let mut anew = Self::new(self.seen.len(), self.partitions.len() as u16);
            if view.cluster == self.cluster {
                let partitions = anew.partitions.iter_mut().zip(&self.partitions);
                partitions.for_each(|(now, before)| now.is_void = before.is_void);
            }
            *self = anew;
            (self.cluster, self.generation) = (view.cluster, view.generation);
        }
        if let Some(state) = decided.filter(|state| state.applied() > self.applied) {
            self.adopt(processes, state)?;
        }
        let slot = view.me.slot.index();
        if self.seen[slot].0 != view.me {
            self.seen[slot] = (view.me, vec![None; self.partitions.len()]);
        }
        for number in 0..self.partitions.len() {
            let partition = PartitionId(number as u16);
            let Some(replica) = replica(node, partition) else { continue };
            let now = (replica.status(), replica.record().change);
            let before = self.seen[slot].1[number].replace(now);
            if before == Some(now) {
                continue;
            }
            replica.check_invariants();
            self.check_replica(processes, node, replica, now.0, before)?;
        }
        Ok(())
    }

    /// A newer state is decided: whoever is in sync by it must have everything.
    fn adopt(&mut self, processes: &[Process], state: &ControlState) -> Result<(), String> {
        self.applied = state.applied();
        self.registered = state.nodes().iter().map(|entry| entry.node).collect();
        for (number, record) in state.table().iter().enumerate() {
            let Some(partition) = self.partitions.get_mut(number) else { continue };
            if partition.record != *record {
                let is_given_back = record.epoch > partition.record.epoch && record.former.is_some();
                self.given_back += u64::from(is_given_back && record.former == partition.record.primary);
                partition.record = *record;
                self.check_members(processes, PartitionId(number as u16))?;
            }
        }
        Ok(())
    }

    /// Every live member of the in-sync set has what is committed.
    fn check_members(&self, processes: &[Process], number: PartitionId) -> Result<(), String> {
        let partition = &self.partitions[number.index()];
        if partition.is_void {
            return Ok(());
        }
        for slot in partition.record.in_sync.iter() {
            let Some(member) = self.registered.get(slot.index()).copied().flatten() else { continue };
            let Some(replica) = living(processes, member).and_then(|node| replica(node, number)) else { continue };
            if !replica.holds(partition.committed) {
                return Err(format!(
                    "{number} is committed through {}, and {member}, in sync by {:?}, hasn't that, but has it through {}",
                    partition.committed,
                    partition.record,
                    replica.status().last
                ));
            }
        }
        Ok(())
    }

    fn check_replica(
        &mut self,
        processes: &[Process],
        node: &Node,
        replica: &Replica,
        now: ReplicaStatus,
        before: Option<Seen>,
    ) -> Result<(), String> {
        let (me, number) = (node.view().me, replica.partition());
        let partition = &mut self.partitions[number.index()];
        if partition.is_void {
            return Ok(());
        }
        if now.applied.seq > Seq::ZERO && now.role != ReplicaRole::None {
            let first = *partition.epochs.entry(now.applied.seq).or_insert(now.applied.epoch);
            if first != now.applied.epoch {
                return Err(format!(
                    "{me} applied {} of {number}, and {first}.{} was applied",
                    now.applied, now.applied.seq
                ));
            }
        }
        if now.role == ReplicaRole::Primary && now.applied.seq > partition.committed.seq {
            partition.committed = now.applied;
            self.check_members(processes, number)?;
            // What was committed under the record before had other copies.
            if before.is_some_and(|(_, change)| change == replica.record().change) {
                check_counting(processes, node, replica, now)?;
            }
        }
        if now.serving && !before.is_some_and(|(before, _)| before.serving) {
            check_epoch(processes, node, replica, now.epoch)?;
        }
        Ok(())
    }
}

/// What a primary commits after the start of its epoch is at every learner that counts, as far as that knows no newer
/// record: one that has left meanwhile may have dropped everything.
fn check_counting(
    processes: &[Process],
    node: &Node,
    replica_here: &Replica,
    now: ReplicaStatus,
) -> Result<(), String> {
    let (number, record) = (replica_here.partition(), replica_here.record());
    if replica_here.epoch_start().is_none_or(|start| now.applied.seq <= start) {
        return Ok(());
    }
    for slot in record.counting.iter() {
        let member = node.view().registered(slot).and_then(|id| living(processes, id));
        let Some(member) = member.and_then(|member| replica(member, number)) else { continue };
        let last = member.status().last;
        if member.record().change <= record.change && last.seq < now.applied.seq {
            return Err(format!(
                "{} commits {number} through {}, and {slot}, which counts, has it through {last}",
                node.view().me,
                now.applied
            ));
        }
    }
    Ok(())
}

/// Whoever begins to serve has told every live in-sync member of its epoch.
fn check_epoch(processes: &[Process], node: &Node, replica_here: &Replica, epoch: Epoch) -> Result<(), String> {
    let number = replica_here.partition();
    for slot in replica_here.record().in_sync.iter() {
        let member = node.view().registered(slot).and_then(|id| living(processes, id));
        let Some(member) = member.and_then(|member| replica(member, number)) else { continue };
        let theirs = member.status().epoch;
        if theirs < epoch {
            return Err(format!(
                "{} serves {number} in epoch {epoch}, and {slot}, which is in sync, is in epoch {theirs}",
                node.view().me
            ));
        }
    }
    Ok(())
}

/// The node's copy of `partition`.
pub(in crate::sim) fn replica(node: &Node, partition: PartitionId) -> Option<&Replica> {
    let shards = node.shards();
    shards[ShardId::of(partition, shards.len() as u16).index()].replica(partition)
}

/// Whether `slot` is somewhere among those who hold or learn `partition`, by what anybody has in its table or its log.
pub(in crate::sim) fn may_hold(processes: &[Process], slot: Slot, partition: PartitionId) -> bool {
    crate::sim::process::all_living(processes)
        .filter_map(|node| node.view().record(partition))
        .any(|record| record.members().contains(slot))
}
