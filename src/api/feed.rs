//! The live feed: every change, as it is committed.

use bincode::{Decode, Encode};

use super::{ContentType, Key};
use crate::base::{Blob, PartitionId, Version};

/// One committed change of one key. A viewer sees those of one key in the order of their versions. A failover may repeat a
/// change; and one whose primary died in the moment after its commit may be missing.
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
