//! Leases: those that a leader grants, and those that it minds because their holders have given partitions back.

use super::Member;
use crate::base::{InSyncChange, Instant, LogIndex, NodeId};
use crate::control::LeaseGrant;

impl Member {
    /// A lease for `to`, where it is registered as up, stays so, and this leader's own standing allows it.
    pub(super) fn grant(&mut self, now: Instant, to: NodeId) -> Option<LeaseGrant> {
        let entry = self.state.node(to.slot);
        let is_up = entry.node == Some(to) && entry.up && !self.supervisor.is_being_replaced(to, &self.state);
        // Who starves and can't be done without serves slowly, which is better than not at all.
        let is_to_go = self.pace.lags(now, to, &self.raft.timing())
            || self.pace.starves(to) && self.state.spares(to.slot, self.state.up());
        let is_withheld = self.withholds_leases() || is_to_go;
        if !self.raft.is_ready_leader() || !is_up || is_withheld {
            return None;
        }
        self.granter.grant(to, self.raft.quorum_contact()?, &self.raft.lease_timing(), entry.up_since)
    }

    /// The entry at `index` is applied. The leases of whoever has given partitions back by it may go on for as long as they
    /// were granted so far; those granted later count from this entry.
    pub(super) fn note_given_back(&mut self, index: LogIndex, changes: &[InSyncChange]) {
        for change in changes.iter().filter(|change| change.give_to.is_some()) {
            let record = self.state.table().get(change.partition.index());
            if record.is_some_and(|record| record.epoch.0 == index.0) {
                let from = change.proposer;
                let own = if from == self.me { self.leases.ends_at() } else { Instant::ZERO };
                self.supervisor.handle_given_back(from.slot, self.granter.ends_at(from.slot).max(own));
            }
        }
    }
}
