//! What a client's caller is told when it did not go well.

use thiserror::Error;

use crate::api::Outcome;
use crate::api::json::ProblemJson;

/// Why a call failed. [`ClientError::outcome`] says, of a write, whether it happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// This is no gateway's URL, or one that this client can't speak to.
    #[error("{url:?} is not a gateway's URL: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This can't be sent as an idempotency key.
    #[error("the idempotency key must be 1 to 255 visible ASCII characters")]
    BadIdempotencyKey,
    /// This can't be sent as a token.
    #[error("the token must be visible ASCII characters without spaces")]
    BadToken,
    /// This is no authority's certificate.
    #[error("the authority's certificate can't be used: {reason}")]
    BadAuthority {
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing could be sent: nobody listens there, or the name is unknown.
    #[error("cannot connect to {urls}: {reason}")]
    Unreachable {
        /// Every gateway that was tried.
        urls: String,
        /// Why the last one could not be reached.
        reason: String,
    },
    /// A read was sent and not answered.
    #[error("no answer from {url}: {reason}")]
    NoAnswer {
        /// Whom it was sent to.
        url: String,
        /// What happened to the connection.
        reason: String,
    },
    /// A write was sent, and it may have happened.
    #[error("it is not known whether the write happened: {reason} ({url})")]
    OutcomeUnknown {
        /// Whom it was sent to.
        url: String,
        /// Why the answer is missing or undecided.
        reason: String,
    },
    /// There is no such key.
    #[error("no such key: {key}")]
    NotFound {
        /// Which.
        key: String,
    },
    /// The gateway refused, saying why.
    #[error("{} (HTTP {} from {url})", .problem.detail, .problem.status)]
    Refused {
        /// Who refused.
        url: String,
        /// What it said.
        problem: Box<ProblemJson>,
    },
    /// The answer is not one of a gateway.
    #[error("{url} does not answer as a jumpgate gateway would: {reason}")]
    Unexpected {
        /// Who answered.
        url: String,
        /// What is odd about it.
        reason: String,
    },
    /// The feed ended; watching again may go on with another gateway.
    #[error("the feed from {url} ended: {reason}")]
    FeedEnded {
        /// Who sent it.
        url: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// Whether the key does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a precondition of a write did not hold, or a create met an existing value.
    #[must_use]
    pub fn is_precondition_failed(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if matches!(problem.status, 409 | 412))
    }

    /// Whether no gateway could be reached at all.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the caller's own input is at fault: a URL, an idempotency key, a token or a certificate that can't be used.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::BadUrl { .. } | Self::BadIdempotencyKey | Self::BadToken | Self::BadAuthority { .. })
    }

    /// Whether a write that failed so happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::OutcomeUnknown { .. } | Self::Unexpected { .. } => Outcome::Unknown,
            _ => Outcome::Definite,
        }
    }
}

/// The innermost cause of an error: "connection refused" instead of "client error (Connect)".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
