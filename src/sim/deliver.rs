//! What arrives at a node: damaged, twice, late, or meant for somebody else. And what must follow from it: nothing.

use bytes::BytesMut;

use super::process::all_living;
use super::world::{NAME, World};
use crate::base::{ClusterId, Incarnation, Instant, LogIndex, NodeId, PartitionId, ShardId, Slot, Term};
use crate::codec::frame::{self, FrameDecoder};
use crate::codec::{NameHash, datagram};
use crate::node::Node;
use crate::node::message::{PeerMessage, PulseMessage};
use crate::raft;
use crate::raft::RaftRole;

/// What a message that must change nothing must not change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    me: NodeId,
    cluster: ClusterId,
    consensus: Option<Standing>,
}

#[derive(Debug, PartialEq, Eq)]
struct Standing {
    role: RaftRole,
    term: Term,
    leader: Option<NodeId>,
    voted_for: Option<NodeId>,
    last: LogIndex,
    commit: LogIndex,
    heard_at: Option<Instant>,
    timeout: Instant,
}

impl Fingerprint {
    fn of(node: &Node) -> Self {
        let consensus = node.control().raft().map(|raft| Standing {
            role: raft.role(),
            term: raft.term(),
            leader: raft.leader(),
            voted_for: raft.voted_for(),
            last: raft.last_index(),
            commit: raft.commit_index(),
            heard_at: raft.leader_heard_at(),
            timeout: raft.poll_timeout(),
        });
        Self { me: node.control().me(), cluster: node.view().cluster, consensus }
    }
}

impl World {
    pub(super) fn deliver_datagram(&mut self, slot: Slot, local: Instant, bytes: &[u8], is_damaged: bool) {
        let digest = self.trace.bytes(bytes);
        let process = &mut self.nodes[slot.index()];
        let Some(node) = &mut process.node else { return };
        let is_known = !process.handed.insert(digest);
        let decoded = datagram::decode::<Vec<PulseMessage>>(bytes, NameHash::of(NAME), &process.keyring);
        let me = node.control().me();
        let why_idle = match &decoded {
            _ if is_damaged => Some("damaged"),
            Err(_) => Some("undecodable"),
            Ok(datagram) => {
                let envelope = datagram.envelope;
                let to_anybody =
                    envelope.cluster == ClusterId::NONE && envelope.to.incarnation == Incarnation::default();
                let is_another_cluster = node.control().raft().is_some()
                    && envelope.cluster != ClusterId::NONE
                    && envelope.cluster != node.view().cluster;
                if envelope.to.slot != slot || envelope.to != me && !to_anybody {
                    Some("meant for somebody else")
                } else if is_another_cluster {
                    Some("from another cluster")
                } else if is_known && datagram.payload.iter().all(is_numbered) {
                    Some("doubled")
                } else {
                    None
                }
            }
        };
        let Some(why_idle) = why_idle else {
            node.handle_datagram(local, bytes);
            return self.settle(slot);
        };
        // What is due is done first, so that it isn't taken for a consequence.
        node.handle_timeout(local);
        self.settle(slot);
        let Some(node) = &mut self.nodes[slot.index()].node else { return };
        let before = Fingerprint::of(node);
        node.handle_datagram(local, bytes);
        let after = Fingerprint::of(node);
        self.count(why_idle);
        if before != after {
            let words = format!("a datagram that was {why_idle} changed {slot} from {before:?} to {after:?}");
            self.complain(words);
        }
        self.settle(slot);
    }

    pub(super) fn deliver_frame(&mut self, (from, slot): (Slot, Slot), local: Instant, bytes: &[u8], is_damaged: bool) {
        self.trace.bytes(bytes);
        let mut buffer = BytesMut::from(bytes);
        let decoded = FrameDecoder::new(NameHash::of(NAME)).decode(&mut buffer);
        if is_damaged {
            self.count("damaged frame");
            if !matches!(decoded, Err(_) | Ok(None)) {
                self.complain(format!("{slot} took a damaged frame of {from}"));
            }
            // The reader closes a connection whose bytes make no sense.
            return self.network.break_connection(from, slot);
        }
        let Some(node) = &mut self.nodes[slot.index()].node else { return };
        let frame = decoded.expect("a frame is sound").expect("a frame is whole");
        for message in frame::messages(&frame.payload) {
            let message: PeerMessage = frame.decode(message.expect("a message is whole")).expect("a message decodes");
            node.handle_message(local, &frame.envelope, message);
        }
        self.settle(slot);
    }

    /// Everything that must hold after an input of `slot`.
    pub(super) fn check(&mut self, slot: Slot) {
        if let Err(words) = self.find_wrong(slot) {
            self.complain(words);
        }
        (0..self.data.take_given_back()).for_each(|_| self.count("given back"));
    }

    fn find_wrong(&mut self, slot: Slot) -> Result<(), String> {
        let Some(node) = self.nodes[slot.index()].node.as_ref() else { return Ok(()) };
        if !cfg!(debug_assertions) {
            // With them the core looks at itself.
            node.control().check_invariants();
        }
        let has_applied = self.consensus.look(&self.nodes, node)?;
        let decided = if has_applied { self.consensus.newest_state(node) } else { None };
        self.data.look(&self.nodes, node, decided)?;
        let clock = self.nodes[slot.index()].clock;
        let shards = node.shards();
        for partition in (0..self.options.partitions).map(PartitionId) {
            let shard = &shards[ShardId::of(partition, shards.len() as u16).index()];
            let until = match shard.serves_until(partition) {
                Instant::ZERO => Instant::ZERO,
                until => clock.world(until),
            };
            self.readers.update(self.now, slot, partition, until)?;
        }
        Ok(())
    }

    /// Whether all who would have to decide without `slots` could: a quorum of every membership that anybody has in its log.
    pub(super) fn has_quorum_without(&self, slots: &[Slot]) -> bool {
        let lives =
            |id: NodeId| !slots.contains(&id.slot) && self.node(id.slot).is_some_and(|node| node.control().me() == id);
        let majority = |set: &std::collections::BTreeSet<NodeId>| {
            set.is_empty() || 2 * set.iter().filter(|id| lives(**id)).count() > set.len()
        };
        all_living(&self.nodes).filter_map(|node| node.control().raft()).all(|raft| {
            let members = raft.membership();
            majority(&members.voters) && majority(&members.outgoing)
        })
    }
}

/// Whether its number tells a second copy from the first, so that it must change nothing.
const fn is_numbered(message: &PulseMessage) -> bool {
    match message {
        PulseMessage::Raft(raft::PulseMessage::Heartbeat { .. } | raft::PulseMessage::HeartbeatAck { .. })
        | PulseMessage::LeaseRequest(_)
        | PulseMessage::LeaseGrant(_)
        | PulseMessage::Report(_) => true,
        PulseMessage::Raft(_) | PulseMessage::Gossip(_) | PulseMessage::Announce(_) | PulseMessage::Removed => false,
    }
}
