//! The live feed: every change, as it is committed.

use bincode::{Decode, Encode};

use super::{ContentType, Key};
use crate::base::{Blob, PartitionId, Version};

/// One committed change of one key. A viewer sees those of one key in the order of their versions. One who resumes may
/// see a change again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FeedEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which key.
    pub key: Key,
    /// The partition that ordered it.
    pub partition: PartitionId,
    /// The version of the new value, or of the removal.
    pub version: Version,
    /// The new value; none for a removal.
    pub value: Option<Blob>,
    /// The content type of the new value.
    pub content_type: Option<ContentType>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EventKind {
    /// It was given a value.
    Put,
    /// A client removed it.
    Delete,
    /// Its time ran out.
    Expire,
}

/// A part of what a viewer has missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedPart {
    /// The changes; those of one partition in their order.
    pub events: Vec<FeedEvent>,
    /// Some of what was missed isn't kept any more: only a snapshot helps.
    pub gap: bool,
    /// The partitions that are still to be asked for, one bit each; empty at the end.
    pub remaining: Vec<u64>,
}
