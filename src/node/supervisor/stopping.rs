//! Nodes that are told to stop.
//!
//! ```text
//! told ─▶ hands leadership over ─▶ Stopping ─▶ its primaries give what they lead away ─▶ NodeDown ─▶ its process ends
//!           (if it leads)                        (one by one: no write is cut off)       │
//!                                                                 it leads nothing, the others have all that it holds,
//!                                                                 and are a majority without it
//! ```
//!
//! So nobody has to find out that it is gone: it was out of every in-sync set before. Until then it acks like any backup.
//! Where the others can't do without it nothing is decided, and its process ends when its patience does.

use super::{Supervisor, propose};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId};
use crate::control::{Command, ControlState};
use crate::raft::Raft;

impl Supervisor {
    /// `node` says that it is told to stop. Who doesn't lead keeps nothing: it says so again.
    pub(in crate::node) fn handle_stopping(&mut self, node: NodeId) {
        if self.reign.is_some() {
            self.stopping.insert(node);
        }
    }

    /// Whether `node` has said so.
    pub(in crate::node) fn is_stopping(&self, node: NodeId) -> bool {
        self.stopping.contains(&node)
    }

    /// Has it decided of those who have said so.
    pub(super) fn propose_stops(&mut self, now: Instant, raft: &mut Raft, state: &ControlState) {
        let Some(reign) = &mut self.reign else { return };
        reign.stopping.retain(|_, index| state.applied() < *index);
        self.stopping.retain(|node| {
            let entry = state.node(node.slot);
            entry.node == Some(*node) && !entry.stopping
        });
        for &node in self.stopping.iter().filter(|node| state.node(node.slot).up) {
            if !reign.stopping.contains_key(&node)
                && let Some(index) = propose(now, raft, &Command::Stopping { node })
            {
                reign.stopping.insert(node, index);
            }
        }
    }
}

/// Whether the others are a majority without `node`, and without those who were let go before and may be gone by now.
pub(super) fn can_spare(raft: &Raft, state: &ControlState, node: NodeId, is_heard: impl Fn(NodeId) -> bool) -> bool {
    let has_gone = |other: NodeId| state.is_going(other) && !state.node(other.slot).up;
    let leader = raft.leader();
    let stays = |other: NodeId| other != node && !has_gone(other) && (Some(other) == leader || is_heard(other));
    raft.membership().is_quorum(stays) || is_broken(Mutant::LetGoWithoutMajority)
}
