//! Identities and counters, one type each.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The value before the first one that is ever given out.
            pub const ZERO: Self = Self(0);

            /// The value after this one. Counters here never wrap in practice (2⁶⁴ steps); if one did, that is broken
            /// internal state, and the addition panics.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// A Raft term: the number of a leader's reign (Ongaro and Ousterhout, "In Search of an Understandable Consensus
    /// Algorithm", 2014). At most one leader a term.
    Term(u64)
}
counter! {
    /// A place in the Raft log. The first entry is at 1; 0 is before it.
    LogIndex(u64)
}
counter! {
    /// The reign of a partition's primary: the log index of the control entry that made it primary. 0: never had one.
    Epoch(u64)
}
counter! {
    /// How often a partition's record changed. Every proposal about a partition names the change number that it was
    /// made under, and is refused once another change has come first.
    ChangeNumber(u64)
}
counter! {
    /// A place in one partition's sequence of effects. The first is at 1.
    Seq(u64)
}
counter! {
    /// The version of a value: a hybrid logical clock in microseconds since the Unix epoch, strictly rising within a
    /// partition (Kulkarni et al., "Logical Physical Clocks", 2014). It stays below 2⁵³ until the year 2255, so that it
    /// is exact in JSON.
    Version(u64)
}
counter! {
    /// One request in flight within one core; means nothing outside the process that gave it out.
    RequestId(u64)
}
counter! {
    /// How often the cluster was recovered by force after a majority was lost. Messages of another generation are dropped.
    Generation(u32)
}

impl Epoch {
    /// Epochs, and log indices, by which a recovery by force is ahead of all that the survivors know: more than a majority that
    /// is lost can have committed without them.
    pub const RECOVERY_GAP: u64 = 1 << 32;

    /// Whether a recovery by force lies between `before` and this epoch.
    #[must_use]
    pub const fn is_forced_after(self, before: Self) -> bool {
        self.0.saturating_sub(before.0) >= Self::RECOVERY_GAP
    }
}

/// A partition of the key space: 0 to the configured number of partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// Its place in a table of partitions.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One of a node's shards: a machine that owns the partitions whose number modulo the count of shards is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard, of `shards` in this process, that owns `partition`.
    #[must_use]
    pub const fn of(partition: PartitionId, shards: u16) -> Self {
        Self(partition.0 % shards)
    }

    /// Its place in a list of shards.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A place in the configuration, counted from 0 in the order of the file's `[[node]]` tables. Who sits there is a
/// [`NodeId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u8);

impl Slot {
    /// Its place in a list of slots.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Slot {
    /// Slots are shown as people count them: slot 0 is `s1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", u16::from(self.0) + 1)
    }
}

/// One life of a node's process: 128 random bits drawn at its start. It is crash-stop; a process that restarts draws
/// another one, so nothing that the earlier life promised can be broken by a memory that forgot it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Incarnation(pub u128);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Incarnation {
    /// The first 32 bits in hexadecimal: enough to tell lives apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// Who sits in a slot: the slot and one life of its process. This is the identity that votes, acks, leases and in-sync
/// membership name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeId {
    /// The place in the configuration.
    pub slot: Slot,
    /// The life of the process that sits there.
    pub incarnation: Incarnation,
}

impl NodeId {
    /// The identity of `incarnation` in `slot`.
    #[must_use]
    pub const fn new(slot: Slot, incarnation: Incarnation) -> Self {
        Self { slot, incarnation }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.incarnation)
    }
}

/// One founding of a cluster, derived from the incarnations that founded it. 0 is no cluster: a BLANK process.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// What a process that knows no cluster puts into its messages.
    pub const NONE: Self = Self(0);
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A place in a partition's history: the epoch that wrote it and its sequence number. Two replicas that agree on a
/// position agree on everything before it (the log matching property, per partition).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Position {
    /// The epoch of the primary that ordered this effect.
    pub epoch: Epoch,
    /// Its number within the partition.
    pub seq: Seq,
}

impl Position {
    /// Before the first effect.
    pub const ZERO: Self = Self { epoch: Epoch::ZERO, seq: Seq::ZERO };

    /// The position of sequence number `seq` in `epoch`.
    #[must_use]
    pub const fn new(epoch: Epoch, seq: Seq) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}
