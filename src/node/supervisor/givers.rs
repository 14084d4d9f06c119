//! Primaries that give partitions back: to whom they may, and how long their leases go on.
//!
//! The new primary waits for the ack of the former one, which has fenced itself then and reads no more. It doesn't wait for
//! one that it has had evicted:
//!
//! 1. n1 gives a partition to n2. The leader applies that, n1 hasn't heard of it yet, and its lease goes on;
//! 2. n1 is slow, so n2 has it evicted, and a write is acknowledged that n1 hasn't heard of;
//! 3. n1 answers a read from before.
//!
//! So it isn't evicted before the leases have ended that it was granted until (1). A lease that is granted later counts once
//! it has applied (1) itself. A leader that was elected later needs no wait: all leases had ended then.

use std::collections::BTreeMap;

use super::Supervisor;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{InSyncChange, Instant, NodeId, Slot};
use crate::control::ControlState;
use crate::raft::Raft;

impl Supervisor {
    /// `from` has given a partition back; leases that it was granted before last until then.
    pub(in crate::node) fn handle_given_back(&mut self, from: Slot, reads_until: Instant) {
        let known = self.former_read_until.entry(from).or_insert(reads_until);
        *known = reads_until.max(*known);
    }

    /// Nothing is given to a node that may be dead. Its primary goes on by itself, and tries again later.
    pub(super) fn drop_unfit_givings(&mut self, now: Instant, raft: &Raft) {
        let Some(reign) = &self.reign else { return };
        let heard_within = raft.timing().down * super::WITNESS_THIRDS / 3;
        let is_well = |node: NodeId| {
            raft.peer_acked_at(node).is_some_and(|at| now.since(at) <= heard_within) && !reign.streams.falters(node)
        };
        let leader = raft.leader();
        let is_fit = |slot: Slot| {
            let mut nodes = raft.membership().voters.iter().copied().filter(|node| node.slot == slot);
            nodes.any(|node| Some(node) == leader || is_well(node))
        };
        self.proposals.retain(|change| change.give_to.is_none_or(is_fit));
    }
}

/// Whether `change` is to evict a former primary whose lease may still count.
pub(super) fn may_read(
    now: Instant,
    state: &ControlState,
    change: &InSyncChange,
    former_read_until: &BTreeMap<Slot, Instant>,
) -> bool {
    let Some(record) = state.table().get(change.partition.index()) else { return false };
    let former = record.former.filter(|former| change.remove.contains(*former));
    former.and_then(|former| former_read_until.get(&former)).is_some_and(|until| now <= *until)
        && !is_broken(Mutant::FormerPrimaryEvictedAtOnce)
}
