//! What nodes say to each other: the payloads of datagrams and of frames.

use bincode::{Decode, Encode};

use super::Report;
use super::feed::{FeedMessage, Since, SincePart};
use crate::api::{Error, Item, Request, Response};
use crate::base::{Blob, Epoch, InSyncChange, PartitionId, RequestId, Seq, Version};
use crate::control::{Announcement, GossipEntry, LeaseGrant, LeaseRequest};
use crate::store::Digest;
use crate::{api, raft, replica};

/// One message of the pulse plane. A datagram carries a list of them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum PulseMessage {
    /// A process without a cluster, or an answer to one.
    Announce(Announcement),
    /// Heartbeats, votes and their answers.
    Raft(raft::PulseMessage),
    /// Beside each heartbeat ack.
    LeaseRequest(LeaseRequest),
    /// Beside each heartbeat.
    LeaseGrant(LeaseGrant),
    /// What the sender knows of the nodes.
    Gossip(Vec<GossipEntry>),
    /// The leader says to one who campaigns: you belong to this cluster no more. It may start anew as somebody else.
    Removed,
    /// Beside every other message between members: what both measure each other by.
    Report(Report),
}

/// One message of the stream plane. A frame carries many of them, back to back.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum PeerMessage {
    /// For the control core.
    Control(ControlMessage),
    /// For the shard that owns the partition.
    Shard(PartitionId, ShardMessage),
    /// For every shard of the node: each answers for the partitions that it owns.
    EveryShard(NodeMessage),
    /// For the shard that gave out this request id.
    Answer(RequestId, AnswerMessage),
}

impl PeerMessage {
    /// Whether it is long and nobody is in a hurry for it: part of a table or of a listing. Such messages go in a lane of their
    /// own, in order among themselves. So they may come later than what was said after them, and sooner than what was said before.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        matches!(
            self,
            Self::Shard(_, ShardMessage::Replica(replica::Message::ScanChunk { .. }))
                | Self::Answer(_, AnswerMessage::Scanned(_))
        )
    }
}

/// What control cores say over the stream plane.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ControlMessage {
    /// Log entries, snapshots and their answers.
    Raft(raft::StreamMessage),
    /// Primaries' wishes, passed on to the leader.
    Proposals(Vec<InSyncChange>),
    /// An operator has asked a survivor to go on without the lost majority; the receiver has the longest log.
    Recover,
    /// The sender is told to stop: the leader is to have that decided.
    Stopping,
}

/// What shards say about one partition.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ShardMessage {
    /// Replication.
    Replica(replica::Message),
    /// A client's operation that belongs elsewhere.
    Forward(Forward),
}

/// A client's operation on its way to the partition's primary.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Forward {
    /// The sender's number for it.
    pub id: RequestId,
    /// Hops that it has taken, this one included.
    pub hops: u8,
    /// The epoch that the sender saw. A receiver with an older table waits for the newer one instead of sending it back.
    pub epoch: Epoch,
    /// The operation itself, with what is left of its deadline.
    pub request: Request,
}

/// What concerns every shard of a node.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum NodeMessage {
    /// Part of a listing: the keys in the wanted partitions whose primary the receiver is.
    Scan(Scan),
    /// The sender has viewers: send it every change from now on. Said again all the time; forgotten after three seconds.
    FeedWanted {
        /// The sender's number for it, answered by every shard.
        id: RequestId,
        /// The highest version that it has seen: the receiver goes on above it.
        floor: Version,
        /// The shards whose streams had a hole, and have to begin anew.
        restart: Vec<u16>,
    },
    /// The sender has viewers, and lacks committed effects of a partition that the receiver leads.
    FeedFetch {
        /// Which partition.
        partition: PartitionId,
        /// The last effect that the sender has; none where it has none.
        after: Option<Seq>,
    },
    /// A viewer has come back: what came after its cursor in the wanted partitions whose primary the receiver is.
    FeedSince(Since),
    /// What copies of partitions that the sender leads should come to, at backups in sync.
    Digests(Vec<PartitionDigest>),
}

/// What a backup's copy of one partition should come to.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PartitionDigest {
    /// Which partition.
    pub partition: PartitionId,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// Once exactly this is applied.
    pub seq: Seq,
    /// What.
    pub digest: Digest,
}

/// Part of a listing.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Scan {
    /// The asker's number for it.
    pub id: RequestId,
    /// Keys that begin so.
    pub prefix: Blob,
    /// Keys after this one.
    pub after: Option<api::Key>,
    /// At most so many.
    pub limit: u32,
    /// With their values.
    pub values: bool,
    /// The partitions that are still missing, one bit each.
    pub wanted: PartitionSet,
    /// Without a quorum: those of which the receiver holds a copy in sync, whoever was their primary, and with what isn't
    /// committed.
    pub degraded: bool,
}

/// Answers that go back to the shard that asked.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum AnswerMessage {
    /// To a forwarded operation.
    Forwarded(Result<Response, Error>),
    /// To a scan.
    Scanned(Scanned),
    /// To a wish for the feed: the next message of a shard's stream.
    Feed(FeedMessage),
    /// To a viewer that has come back.
    Since(SincePart),
}

/// One shard's part of a page.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Scanned {
    /// The wanted partitions that this part speaks for.
    pub covered: PartitionSet,
    /// Their first keys, in order.
    pub items: Vec<Item>,
    /// Whether there are more keys after the last of `items`.
    pub more: bool,
}

/// A set of partitions, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PartitionSet {
    words: Vec<u64>,
}

impl PartitionSet {
    /// The partitions 0 to `count`, without `count`.
    #[must_use]
    pub fn first(count: u16) -> Self {
        let mut set = Self::default();
        (0..count).for_each(|partition| set.insert(PartitionId(partition)));
        set
    }

    /// The set with these words.
    #[must_use]
    pub const fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }

    /// Its words, or none where it is empty.
    #[must_use]
    pub fn into_words(self) -> Vec<u64> {
        if self.is_empty() { Vec::new() } else { self.words }
    }

    /// Whether `partition` is in it.
    #[must_use]
    pub fn contains(&self, partition: PartitionId) -> bool {
        self.words.get(partition.index() / 64).is_some_and(|word| word >> (partition.index() % 64) & 1 == 1)
    }

    /// Puts `partition` in.
    pub fn insert(&mut self, partition: PartitionId) {
        let word = partition.index() / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (partition.index() % 64);
    }

    /// Takes everything out that is in `other`; true when that changed anything.
    pub fn remove_all(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (word, taken) in self.words.iter_mut().zip(&other.words) {
            changed |= *word & taken != 0;
            *word &= !taken;
        }
        changed
    }

    /// The first one in it.
    #[must_use]
    pub fn lowest(&self) -> Option<PartitionId> {
        let (word, bits) = self.words.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        Some(PartitionId((word * 64) as u16 + bits.trailing_zeros() as u16))
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}
