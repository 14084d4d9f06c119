//! What clients are told when it went well.

use bincode::{Decode, Encode};

use super::{ContentType, Done, Key};
use crate::base::{Blob, Version};

/// The answer to one [`super::Request`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// A read found this.
    Value(Value),
    /// A read or a delete found nothing.
    NotFound,
    /// A read without a quorum found nothing: the newest that the survivors know is that there is no such value.
    NotFoundDegraded,
    /// A put is stored on every in-sync copy.
    Written {
        /// The version of the stored value: its ETag.
        version: Version,
        /// Whether there was no value before.
        created: bool,
        /// On how many nodes it is.
        copies: u8,
    },
    /// A delete is done on every in-sync copy.
    Deleted {
        /// The version of the delete itself.
        version: Version,
        /// On how many nodes it is.
        copies: u8,
    },
    /// A page of a listing.
    Page(Page),
    /// A write with an idempotency key had been done before: this is what it did then.
    Replayed {
        /// The version that it gave.
        version: Version,
        /// What it did.
        done: Done,
        /// On how many nodes it is.
        copies: u8,
    },
}

/// One stored value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Value {
    /// Its bytes.
    pub bytes: Blob,
    /// Its version: the ETag.
    pub version: Version,
    /// The content type it was stored with.
    pub content_type: Option<ContentType>,
    /// Milliseconds until it expires.
    pub expires_in_ms: Option<u64>,
    /// Read from a copy that may be behind, as the request allowed.
    pub stale: bool,
    /// Read without a quorum: the newest that the survivors know.
    pub degraded: bool,
}

/// One page of a listing, in the order of the keys' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The keys.
    pub items: Vec<Item>,
    /// Where the next page begins: after this key. `None`: this was the last page.
    pub next_after: Option<Key>,
    /// Read without a quorum: the newest that the survivors know.
    pub degraded: bool,
}

/// One key of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Item {
    /// The key.
    pub key: Key,
    /// The version of its value.
    pub version: Version,
    /// The size of its value in bytes.
    pub value_bytes: u64,
    /// The content type it was stored with.
    pub content_type: Option<ContentType>,
    /// Milliseconds until it expires.
    pub expires_in_ms: Option<u64>,
    /// The value, where it was asked for.
    pub value: Option<Blob>,
}
