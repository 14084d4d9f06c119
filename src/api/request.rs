//! What clients may ask.

use bincode::{Decode, Encode};

use super::{ContentType, Key, Once};
use crate::base::{Blob, Version};

/// One thing asked of the store, and how long the asker waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// A write with an idempotency key: it is executed once, however often it is sent.
    pub once: Option<Once>,
    /// Milliseconds that are left until the asker gives up. An operation that can't be started before is refused.
    pub timeout_ms: u32,
}

impl Request {
    /// A request that is executed each time it is sent.
    #[must_use]
    pub const fn new(operation: Operation, timeout_ms: u32) -> Self {
        Self { operation, once: None, timeout_ms }
    }
}

/// The operations of the store.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Operation {
    /// Reads one value. Answered by [`super::Response::Value`] or [`super::Response::NotFound`].
    Get {
        /// Whose.
        key: Key,
        /// How fresh.
        consistency: Consistency,
    },
    /// Stores one value. Answered by [`super::Response::Written`].
    Put {
        /// Under this key.
        key: Key,
        /// These bytes.
        value: Blob,
        /// Of this type, given back on reads.
        content_type: Option<ContentType>,
        /// For so many milliseconds; for ever without.
        ttl_ms: Option<u64>,
        /// Whether the key may exist already.
        mode: PutMode,
        /// Only if.
        precondition: Precondition,
    },
    /// Removes one value. Answered by [`super::Response::Deleted`] or [`super::Response::NotFound`].
    Delete {
        /// Whose.
        key: Key,
        /// Only if.
        precondition: Precondition,
    },
    /// One page of keys in the order of their bytes. Answered by [`super::Response::Page`].
    List {
        /// Keys that begin with these bytes; all keys where it is empty.
        prefix: Blob,
        /// Keys after this one.
        after: Option<Key>,
        /// At most so many: 1 to [`crate::base::limits::PAGE_ITEMS_MAX`].
        limit: u32,
        /// With the values.
        values: bool,
    },
}

impl Operation {
    /// The one key that it is about; none for a listing.
    #[must_use]
    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Get { key, .. } | Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::List { .. } => None,
        }
    }

    /// Whether its answer depends on what is stored: it reads, or a condition of it may not hold.
    #[must_use]
    pub fn depends_on_state(&self) -> bool {
        match self {
            Self::Put { mode, precondition, .. } => *mode == PutMode::Create || *precondition != Precondition::NONE,
            Self::Get { .. } | Self::Delete { .. } | Self::List { .. } => true,
        }
    }

    /// Whether it changes the store.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// Any in-sync copy will do.
    Stale,
    /// The newest that an in-sync copy knows, committed or not. Between nodes only: how one asks for what it doesn't hold
    /// while there is no quorum.
    Degraded,
}

/// Whether a put may meet an existing value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum PutMode {
    /// Creates or replaces.
    #[default]
    Upsert,
    /// Creates; an existing value is [`super::Error::Exists`] (HTTP POST).
    Create,
}

/// Conditions on the value that a write replaces (RFC 9110, section 13), judged by the primary against all writes that
/// it ordered before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Precondition {
    /// The write happens only if the current value matches.
    pub if_match: Option<Match>,
    /// The write happens only if the current value doesn't match.
    pub if_none_match: Option<Match>,
}

impl Precondition {
    /// No condition.
    pub const NONE: Self = Self { if_match: None, if_none_match: None };

    /// Whether a write may replace a value of version `current` (`None`: there is none).
    #[must_use]
    pub fn holds(&self, current: Option<Version>) -> bool {
        let matched = self.if_match.as_ref().is_none_or(|condition| condition.matches(current));
        let unmatched = self.if_none_match.as_ref().is_none_or(|condition| !condition.matches(current));
        matched && unmatched
    }
}

/// What a precondition compares with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Match {
    /// `*`: any value at all.
    Any,
    /// A value of one of these versions.
    Versions(Vec<Version>),
}

impl Match {
    /// Whether a value of version `current` matches (`None`: there is none, which matches nothing).
    #[must_use]
    pub fn matches(&self, current: Option<Version>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Versions(versions), Some(current)) => versions.contains(&current),
        }
    }
}
