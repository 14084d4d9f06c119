//! What clients are told when it did not go well.

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::base::{PartitionId, Version};

/// Why a request was not answered. Each names what the client can do about it: [`Error::outcome`], [`Error::retry`].
#[derive(Clone, Debug, PartialEq, Eq, Error, Encode, Decode)]
pub enum Error {
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// An operator's wish can't be fulfilled as things are.
    #[error("{0}")]
    Conflict(String),
    /// An idempotency key was used for another request before.
    #[error("this idempotency key stands for another request; a retry repeats method, key, value and conditions")]
    IdempotencyMismatch,
    /// A precondition of a write did not hold.
    #[error("the precondition does not hold: the current version is {}", version_or_none(.current))]
    PreconditionFailed {
        /// The version that stands.
        current: Option<Version>,
    },
    /// A create met an existing value.
    #[error("the key exists already, with version {current}")]
    Exists {
        /// The version that stands.
        current: Version,
    },
    /// The value is larger than the limit.
    #[error("the value has {bytes} bytes; at most {bytes_max} are allowed")]
    ValueTooLarge {
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        bytes_max: u64,
    },
    /// More requests are waiting than this node keeps.
    #[error("this node is busy: {0}")]
    Busy(String),
    /// No node leads, or too few are up to decide anything.
    #[error("no leader with a quorum: {0}")]
    NoQuorum(String),
    /// The key's partition has nobody who may serve it now.
    #[error("{partition} is not served at the moment: {detail}")]
    Unavailable {
        /// Which.
        partition: PartitionId,
        /// Why.
        detail: String,
    },
    /// Every copy of the key's partition is gone.
    #[error("{0} is lost: every node that held a copy is gone")]
    PartitionLost(PartitionId),
    /// Fewer copies than `min_copies` would hold the write.
    #[error("{copies} copies would hold the write, fewer than the {copies_min} that the cluster wants")]
    TooFewCopies {
        /// How many would.
        copies: u8,
        /// How many must.
        copies_min: u8,
    },
    /// The node is out of its memory budget.
    #[error("the memory limit of {bytes_max} bytes is reached")]
    MemoryFull {
        /// The budget.
        bytes_max: u64,
    },
    /// The deadline passed before the operation began.
    #[error("the deadline passed before the operation began: {0}")]
    DeadlineBefore(String),
    /// The deadline passed, or the node that worked on it went away, while it was under way.
    #[error("it is not known whether the operation happened: {0}")]
    OutcomeUnknown(String),
}

/// Whether a failed write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not happen and never will.
    Definite,
    /// It may have happened, or may still happen.
    Unknown,
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// It did not happen: sending it again, after a moment, is safe.
    Safe,
    /// Only if doing it twice is harmless: a read, or a write with an idempotency key.
    IfIdempotent,
}

impl Error {
    /// Whether the write that failed so happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::OutcomeUnknown(_) => Outcome::Unknown,
            _ => Outcome::Definite,
        }
    }

    /// Whether the request that failed so may be sent again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::BadRequest(_)
            | Self::IdempotencyMismatch
            | Self::PreconditionFailed { .. }
            | Self::Exists { .. }
            | Self::ValueTooLarge { .. }
            | Self::PartitionLost(_)
            | Self::Conflict(_) => Retry::Never,
            Self::Busy(_)
            | Self::NoQuorum(_)
            | Self::Unavailable { .. }
            | Self::TooFewCopies { .. }
            | Self::MemoryFull { .. }
            | Self::DeadlineBefore(_) => Retry::Safe,
            Self::OutcomeUnknown(_) => Retry::IfIdempotent,
        }
    }
}

fn version_or_none(version: &Option<Version>) -> String {
    version.map_or_else(|| "none (no such key)".to_owned(), |version| version.to_string())
}
