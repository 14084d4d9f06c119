//! Those who speak like members and are none (any more), and processes that announce themselves.
//!
//! ```text
//! n1, removed while it was cut off; nobody whom it knew lives      n2, of later days
//!   │ for 3 s nobody has led: announcement, to whoever is there ──▶  │
//!   │ ◀───────────── announcement, by name: of the same cluster      │
//!   │ gossip, by name ─────────────────────────────────────────────▶ │ leads, and knows that n1 is out
//!   │ ◀────────────────────────────────────────────────────── Removed│
//! ```

use std::time::Duration;

use super::Member;
use crate::base::{ClusterId, Incarnation, Instant, NodeId, Slot};
use crate::control::Announcement;
use crate::node::load::LoadWatch;
use crate::node::message::PulseMessage;
use crate::node::outbox::PulseOutbox;
use crate::raft::PulseMessage::{PreVote, Vote};

/// How long a member hears of no leader before it calls whoever sits at the configured addresses: elections take a fraction
/// of that.
pub(super) const CALLS_AFTER: Duration = Duration::from_secs(3);
/// How often it calls then.
const CALL_EVERY: Duration = Duration::from_secs(1);

impl Member {
    /// Somebody announces itself. A process without a cluster is told of this one, and a leader will let it in. A member that
    /// calls `anybody` hears of no leader, and is told who is here; where this one is in need itself, it speaks to the fellow
    /// that has answered: whoever leads will hear of it.
    pub(in crate::node) fn handle_announcement(
        &mut self,
        now: Instant,
        (from, anybody): (NodeId, bool),
        announcement: Announcement,
        load: &LoadWatch,
        out: &mut PulseOutbox,
    ) {
        match announcement {
            Announcement::Member { cluster, .. } if !anybody => {
                if cluster == self.cluster && self.raft.leader().is_none() {
                    let entries = self.gossip.entries_to_tell(now, self.entry(now, load));
                    out.push(self.cluster, from, PulseMessage::Gossip(entries));
                }
            }
            Announcement::Member { .. } => {
                out.push(ClusterId::NONE, from, PulseMessage::Announce(self.announcement()));
            }
            Announcement::Blank { .. } | Announcement::Accepted { .. } => {
                out.push(ClusterId::NONE, from, PulseMessage::Announce(self.announcement()));
                self.supervisor.handle_joiner(now, from);
            }
        }
    }

    /// Where nobody has led for long, all whom this node knew may be gone: it calls whoever sits at the configured addresses.
    pub(super) fn maybe_call(&mut self, now: Instant, slots: usize, out: &mut PulseOutbox) {
        if self.raft.leader().is_some() {
            self.call_at = now + CALLS_AFTER;
        } else if now >= self.call_at {
            self.call_at = now + CALL_EVERY;
            for slot in (0..slots).map(|slot| Slot(slot as u8)).filter(|slot| *slot != self.me.slot) {
                let anybody = NodeId::new(slot, Incarnation::default());
                out.push(ClusterId::NONE, anybody, PulseMessage::Announce(self.announcement()));
            }
        }
    }

    /// Whether `message` is said by one that is no member and takes itself for one, or would be one again: it campaigns,
    /// or it knows that it has no vote any more and gossips.
    pub(in crate::node) fn is_strangers(&self, from: NodeId, message: &PulseMessage) -> bool {
        (campaigns(message) || matches!(message, PulseMessage::Gossip(_))) && !self.raft.membership().contains(from)
    }

    /// One speaks who is no member, or whose generation is over. Whoever is registered here comes back as a learner;
    /// anybody else is told that it is out. Only the leader knows that. Others tell a candidate of whom they know, the leader
    /// among them, since it may know nobody else who lives. Of one whose generation is over the message is none.
    pub(in crate::node) fn handle_stranger(
        &mut self,
        now: Instant,
        from: NodeId,
        message: Option<&PulseMessage>,
        load: &LoadWatch,
        out: &mut PulseOutbox,
    ) {
        if self.raft.membership().contains(from) {
            return;
        }
        let is_led = self.raft.leader().is_some_and(|leader| leader != self.me);
        if self.raft.is_ready_leader() && self.raft.quorum_contact().is_some() {
            if self.state.node(from.slot).node == Some(from) {
                self.supervisor.handle_joiner(now, from);
            } else {
                out.push(self.cluster, from, PulseMessage::Removed);
            }
        } else if is_led && message.is_some_and(campaigns) {
            let entries = self.gossip.entries_to_tell(now, self.entry(now, load));
            out.push(self.cluster, from, PulseMessage::Gossip(entries));
        }
    }
}

fn campaigns(message: &PulseMessage) -> bool {
    matches!(message, PulseMessage::Raft(PreVote { .. } | Vote { .. }))
}
