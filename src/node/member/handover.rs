//! Leadership handed over on purpose.
//!
//! ```text
//! wished ──▶ no lease is granted or extended ──▶ all leases have ended ──▶ Raft transfers: TimeoutNow, forced election
//!                                                                           │ the heir leads: this one follows
//!                                                                           └ it didn't in time: leases go on
//! ```
//!
//! The order matters: a forced election makes the voters' promises void, and leases rest on those promises. An heir that
//! was elected while a lease runs could move the partitions of the lease's holder, which would read on.

use super::Member;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId};
use crate::raft::ProposeError;

/// A hand-over under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    to: NodeId,
    /// When the last lease ends that was granted before.
    leases_end_at: Instant,
    has_begun: bool,
}

impl Member {
    /// Whether leases are to run out because leadership is being handed over.
    pub(super) fn withholds_leases(&self) -> bool {
        self.handover.is_some() && !is_broken(Mutant::TransferKeepsLeases)
    }

    /// When the hand-over has to go on.
    pub(super) fn handover_deadline(&self) -> Instant {
        self.handover.filter(|handover| !handover.has_begun).map_or(Instant::FAR, |handover| handover.leases_end_at)
    }

    /// The voter that would lead best: of those heard of late the one with the longest log; who stays goes first.
    pub(super) fn heir(&self, now: Instant) -> Option<NodeId> {
        let stays = |node: NodeId| self.state.settings().is_none() || self.state.roster().stays(node.slot);
        let is_heard = |node: &NodeId| {
            self.raft.peer_acked_at(*node).is_some_and(|acked| now.since(acked) < self.raft.timing().election)
        };
        let others = self.raft.membership().voters.iter().copied().filter(|&node| node != self.me && !self.goes(node));
        let others = others.filter(|&node| !self.pace.starves(node));
        others.filter(is_heard).max_by_key(|&node| (stays(node), self.raft.match_index(node), std::cmp::Reverse(node)))
    }

    /// Whether `node` is told to stop: it would have to hand over at once, or has ended by now. A hand-over that nobody
    /// answers costs the leader its leadership in the end, since only a new term makes the forced election void.
    fn goes(&self, node: NodeId) -> bool {
        let stops = self.state.stopping().union(self.state.let_go());
        stops.contains(node.slot) && self.state.node(node.slot).node == Some(node) || self.supervisor.is_stopping(node)
    }

    /// Begins to hand over to the voter `to`.
    ///
    /// # Errors
    /// Why that can't be.
    pub(super) fn begin_handover(&mut self, now: Instant, to: NodeId) -> Result<(), String> {
        if self.handover.is_some() || self.raft.transferring().is_some() {
            return Err("leadership is being handed over already".to_owned());
        }
        if !self.raft.is_ready_leader() {
            return Err("this node doesn't lead, or has only just begun to".to_owned());
        }
        if self.goes(to) {
            return Err("the other node is told to stop".to_owned());
        }
        let leases_end_at = self.granter.all_end_at().max(self.leases.ends_at()).max(now);
        self.handover = Some(Handover { to, leases_end_at, has_begun: false });
        Ok(())
    }

    /// Goes on with a hand-over.
    pub(super) fn advance_handover(&mut self, now: Instant) {
        let leads = self.is_leader();
        let Some(handover) = &mut self.handover else { return };
        if !leads {
            self.handover = None;
        } else if !handover.has_begun {
            let leases_have_ended = now > handover.leases_end_at || is_broken(Mutant::TransferKeepsLeases);
            if leases_have_ended {
                handover.has_begun = true;
                let to = handover.to;
                match self.raft.transfer(now, to) {
                    Ok(()) | Err(ProposeError::Busy) => {}
                    Err(_) => self.handover = None,
                }
            }
        } else if self.raft.transferring().is_none() {
            self.handover = None;
        }
    }

    /// A leader that is to hold nothing any more, to leave or to stop, gives leadership to one that stays.
    pub(super) fn maybe_abdicate(&mut self, now: Instant) {
        if self.handover.is_some() || !self.raft.is_ready_leader() || self.state.settings().is_none() {
            return;
        }
        if (!self.state.roster().stays(self.me.slot) || self.stops())
            && now >= self.abdicate_at
            && let Some(heir) = self.heir(now)
        {
            // One that doesn't take over is asked again after a while.
            self.abdicate_at = now + self.raft.timing().election * 5;
            let _ = self.begin_handover(now, heir);
        }
    }
}
