//! The commands in the Raft log.

use bincode::{Decode, Encode};

use crate::base::{InSyncChange, NodeId, PartitionId, Slot, SlotSet, limits};

/// One decision. Commands are judged when they are *applied*, on every node alike, never when they are appended: what was
/// true at append time may not be when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// The first command of a cluster: its settings and who founds it. Later ones change nothing.
    Found {
        /// The settings.
        settings: Settings,
        /// The slots that the cluster consists of. One without a founder is empty until somebody joins.
        slots: SlotSet,
        /// Who founds it.
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
    /// Which slots the cluster consists of, and which are to hold nothing any more. It takes effect only if the roster is
    /// still the one that it was made for: a restart may have changed it.
    SetRoster {
        /// The one that it was made for.
        before: Roster,
        /// The one from then on.
        after: Roster,
    },
    /// The first command of a new generation: who is no survivor is gone for good, and every partition begins a new
    /// epoch with what the survivors hold of it.
    Recover {
        /// Who goes on.
        survivors: Vec<NodeId>,
    },
    /// Primaries ask to change their in-sync sets; each change takes effect only if its partition's record is still the
    /// one that it was made for.
    ChangeInSync(Vec<InSyncChange>),
    /// This identity is told to stop: it gives what it leads to others, who have it in full, and is to get nothing new.
    Stopping {
        /// Who.
        node: NodeId,
    },
}

/// Which slots the cluster consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Roster {
    /// Those that belong to it: their processes are let in.
    pub slots: SlotSet,
    /// Those of them whose copies move to others, until they restart or are added again. They keep their votes.
    pub draining: SlotSet,
    /// Those of them that leave the cluster once they hold nothing.
    pub leaving: SlotSet,
    /// Those of them whose process has been away for long: until it returns, their copies are kept by others.
    pub absent: SlotSet,
    /// Copies of each value, the primary's included.
    pub replicas: u8,
}

impl Roster {
    /// The slots among which the data is placed.
    #[must_use]
    pub const fn staying(&self) -> SlotSet {
        self.slots.difference(self.draining).difference(self.leaving).difference(self.absent)
    }

    /// Whether `slot` is one of them.
    #[must_use]
    pub const fn stays(&self, slot: Slot) -> bool {
        self.staying().contains(slot)
    }
}

/// What a recovery by force found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Recovery {
    /// Partitions of which a survivor was in sync.
    pub clean: u32,
    /// Those of which only an incomplete copy survived: it goes on, and acknowledged writes may be missing.
    pub lossy: Vec<PartitionId>,
    /// Those of which nothing survived.
    pub lost: Vec<PartitionId>,
}

impl Command {
    /// Whether a command that a peer has sent can be one of this program: its numbers are within the bounds that every
    /// state keeps. Whether it still makes sense is judged when it is applied.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_sound = |node: &NodeId| node.slot.index() < limits::NODES_MAX;
        // In the order of their slots, each once.
        let are_sound = |nodes: &[NodeId]| nodes.is_sorted_by(|a, b| a.slot < b.slot) && nodes.iter().all(is_sound);
        match self {
            Self::Found { settings, founders, .. } => settings.is_sound() && are_sound(founders),
            Self::NodeUp { node } | Self::NodeDown { node, .. } | Self::Stopping { node } => is_sound(node),
            Self::Recover { survivors } => are_sound(survivors),
            // Any set of slots will do.
            Self::SetRoster { .. } => true,
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
