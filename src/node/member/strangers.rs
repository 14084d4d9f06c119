//! Those who speak like members and are none (any more).

use super::Member;
use crate::base::{Instant, NodeId};
use crate::node::load::LoadWatch;
use crate::node::message::PulseMessage;
use crate::node::outbox::PulseOutbox;
use crate::raft::PulseMessage::{PreVote, Vote};

impl Member {
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
