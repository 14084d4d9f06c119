//! What sources and followers say to each other.

use bincode::{Decode, Encode};

use crate::api::{FeedCursor, FeedEvent};
use crate::base::{PartitionId, RequestId, Seq, Version};
use crate::node::message::PartitionSet;

/// One message of the stream from a shard to a node with viewers.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct FeedMessage {
    /// Which shard of the sender.
    pub shard: u16,
    /// Which stream: each begins with number 0, the heads.
    pub session: u64,
    /// The message's number in it.
    pub number: u64,
    /// What it says.
    pub body: FeedBody,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum FeedBody {
    /// A stream begins.
    Heads {
        /// How many shards the sender has.
        shards: u16,
        /// The last committed effect of each partition that this shard leads.
        heads: Vec<(PartitionId, Seq)>,
        /// See [`FeedBody::Closed`].
        closed: Version,
    },
    /// Effects of one partition.
    Events(PartitionEvents),
    /// All that this shard has committed, or will, with a version up to this one, is in the stream before this message.
    Closed(Version),
}

/// The committed effects of one partition after `after` and up to `last`.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PartitionEvents {
    /// Which partition.
    pub partition: PartitionId,
    /// The number before the first of them.
    pub after: Seq,
    /// The number of the last of them.
    pub last: Seq,
    /// It was asked for, as opposed to just committed.
    pub is_answer: bool,
    /// Those that changed something, with their numbers.
    pub events: Vec<(Seq, FeedEvent)>,
}

/// Of the wanted partitions, what comes after a cursor.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Since {
    /// The asker's number for it.
    pub id: RequestId,
    /// What the viewer has seen.
    pub cursor: FeedCursor,
    /// The partitions that are still missing.
    pub wanted: PartitionSet,
}

/// One shard's part of it.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct SincePart {
    /// The wanted partitions that this part speaks for.
    pub covered: PartitionSet,
    /// What is new in them.
    pub events: Vec<FeedEvent>,
    /// Some of it isn't kept any more.
    pub gap: bool,
}
