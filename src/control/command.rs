//! The commands in the Raft log.

use bincode::{Decode, Encode};

use crate::base::{InSyncChange, NodeId};

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
    /// This identity is silent: it loses its data roles. (Not its vote.)
    NodeDown {
        /// Who.
        node: NodeId,
    },
    /// Primaries ask to change their in-sync sets; each change takes effect only if its partition's record is still the
    /// one that it was made for.
    ChangeInSync(Vec<InSyncChange>),
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
