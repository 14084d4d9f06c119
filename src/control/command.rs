//! The commands in the Raft log.

use bincode::{Decode, Encode};

use crate::base::{InSyncChange, NodeId, SlotSet, limits};

/// One decision. Commands are judged when they are *applied*, on every node alike, never when they are appended: what was
/// true at append time may not be when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// The first command of a cluster: its settings and who founds it. Later ones change nothing.
    Found {
        /// What can't change while the cluster lives.
        settings: Settings,
        /// Who sits in each slot, by slot.
        founders: Vec<NodeId>,
    },
    /// This identity serves: it is registered in its slot, and learns the partitions that it should hold a copy of.
    NodeUp {
        /// Who.
        node: NodeId,
    },
    /// This identity is silent: it loses its data roles. (Not its vote.) It stays in the in-sync sets in which no witness is
    /// with it: those that seem to survive it there may be as silent, and it may be the one that comes back. Said again of
    /// a node that is down already, it takes that node out of the sets in which there is a witness by now.
    NodeDown {
        /// Who.
        node: NodeId,
        /// Who had been heard from shortly before this was proposed.
        witnesses: SlotSet,
    },
    /// Primaries ask to change their in-sync sets; each change takes effect only if its partition's record is still the
    /// one that it was made for.
    ChangeInSync(Vec<InSyncChange>),
}

impl Command {
    /// Whether a command that a peer has sent can be one of this program: its numbers are within the bounds that every
    /// state keeps. Whether it still makes sense is judged when it is applied.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Found { settings, founders } => {
                let sits_there = |(slot, node): (usize, &NodeId)| node.slot.index() == slot;
                settings.is_sound()
                    && founders.len() <= limits::NODES_MAX
                    && founders.iter().enumerate().all(sits_there)
            }
            Self::NodeUp { node } | Self::NodeDown { node, .. } => node.slot.index() < limits::NODES_MAX,
            // Judged against the table, change by change.
            Self::ChangeInSync(_) => true,
        }
    }
}

/// What a cluster is founded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Partitions of the key space.
    pub partitions: u16,
    /// Copies of each value, the primary's included.
    pub replicas: u8,
    /// Copies below which a write is refused.
    pub min_copies: u8,
}

impl Settings {
    /// Whether a cluster can be founded with them.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (1..=limits::PARTITIONS_MAX).contains(&usize::from(self.partitions))
    }
}
