//! What a write comes to once its primary has judged it.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::api::{ContentType, Done, Key, Once};
use crate::base::{Blob, Version};

/// What is to be remembered of a write with an idempotency key: replicated with what it did, so that there is never one
/// without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Marked {
    /// Which request it was.
    pub once: Once,
    /// What it did.
    pub done: Done,
}

/// One decided change of a partition. Effects are replicated, not commands: preconditions are judged, versions are given,
/// so applying the same effects in the same order gives the same table everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Effect {
    /// The key has this value from now on.
    Put {
        /// Which key.
        key: Key,
        /// Its bytes.
        value: Blob,
        /// Its content type, kept for readers.
        content_type: Option<ContentType>,
        /// The version that the primary gave.
        version: Version,
        /// Milliseconds that it had left when this was sent; for ever without. A time left travels rather than a
        /// deadline because clocks of two processes can't be compared.
        ttl_ms: Option<u64>,
        /// The write had an idempotency key.
        marked: Option<Marked>,
    },
    /// The key has no value from now on.
    Delete {
        /// Which key.
        key: Key,
        /// The version of the removal itself.
        version: Version,
        /// Its time ran out, as opposed to a client's wish.
        expired: bool,
        /// The write had an idempotency key.
        marked: Option<Marked>,
    },
    /// Changes nothing: the first effect of every epoch. Once it is committed, so is everything before it.
    EpochStart {
        /// The version that it takes, so that a viewer can be known to have seen an epoch begin.
        version: Version,
    },
}

impl Effect {
    /// The key that it changes.
    #[must_use]
    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::EpochStart { .. } => None,
        }
    }

    /// The version that it gives.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self {
            Self::Put { version, .. } | Self::Delete { version, .. } | Self::EpochStart { version } => *version,
        }
    }

    /// What is to be remembered of it.
    #[must_use]
    pub const fn marked(&self) -> Option<Marked> {
        match self {
            Self::Put { marked, .. } | Self::Delete { marked, .. } => *marked,
            Self::EpochStart { .. } => None,
        }
    }

    /// Bytes that it holds in memory and, roughly, on the wire.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let content = match self {
            Self::Put { key, value, content_type, .. } => {
                key.as_bytes().len() + value.len() + content_type.as_ref().map_or(0, |kind| kind.as_str().len())
            }
            Self::Delete { key, .. } => key.as_bytes().len(),
            Self::EpochStart { .. } => 0,
        };
        content + size_of::<Self>()
    }

    /// The same effect `age` later: less time is left.
    #[must_use]
    pub fn aged(&self, age: Duration) -> Self {
        let mut aged = self.clone();
        if let Self::Put { ttl_ms: Some(left), .. } = &mut aged {
            *left = left.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        }
        aged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_that_is_sent_later_has_less_time_left() {
        let key: Key = "k".parse().expect("a key");
        let put = |ttl_ms| Effect::Put {
            key: key.clone(),
            value: Blob::from_static(b"v"),
            content_type: None,
            version: Version(7),
            ttl_ms,
            marked: None,
        };
        assert_eq!(put(Some(1000)).aged(Duration::from_micros(250_900)), put(Some(750)));
        assert_eq!(put(Some(1000)).aged(Duration::from_secs(9)), put(Some(0)));
        assert_eq!(put(None).aged(Duration::from_secs(9)), put(None));
    }
}
