//! Why bytes were refused.

use thiserror::Error;

/// Why bytes were refused, or could not be made. Receivers drop (datagrams) or close the connection (frames), and count
/// by [`CodecError::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// It ends before its header, or before the length that its header says.
    #[error("{bytes} bytes are too few: {bytes_min} were expected")]
    TooShort {
        /// How many came.
        bytes: usize,
        /// How many there should have been, at least.
        bytes_min: usize,
    },
    /// It doesn't begin with the four bytes that every datagram or frame begins with: somebody else's protocol.
    #[error("this is not jumpgate's protocol")]
    BadMagic,
    /// Another version of the format, or a flag that this version doesn't know.
    #[error("format version {version} with flags {flags:#04x} is not understood here")]
    OtherVersion {
        /// The version it says.
        version: u8,
        /// The flags it says.
        flags: u8,
    },
    /// A bit was flipped on the way.
    #[error("the checksum does not match")]
    BadChecksum,
    /// It carries no keyed code, and this node has a secret.
    #[error("it proves no secret, and this node asks for one")]
    Unauthenticated,
    /// It carries a keyed code that none of this node's secrets explains.
    #[error("it was made without any secret of this node")]
    BadCode,
    /// It carries a keyed code, and this node has no secret.
    #[error("it was made with a secret, and this node has none")]
    NoSecret,
    /// It begins a connection to another slot than this node's.
    #[error("it is meant for another node")]
    OtherSlot,
    /// It comes from another slot than the one that began the connection, or a node seems to have dialed itself.
    #[error("it doesn't come from who dialed")]
    OtherSender,
    /// It comes from a cluster of another name.
    #[error("it comes from a cluster of another name")]
    OtherCluster,
    /// It is longer than its kind may be.
    #[error("it is larger than {bytes_max} bytes")]
    TooLarge {
        /// How many bytes its kind may have.
        bytes_max: usize,
    },
    /// Bytes are left over after its end.
    #[error("bytes are left over after its end")]
    TrailingBytes,
    /// The header is sound, the payload is not what its type says.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A value that has no encoding.
    #[error("the value can't be encoded")]
    Unencodable,
}

impl CodecError {
    /// The cause in one word, the same for all errors of a kind: a label of metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too_short",
            Self::BadMagic => "bad_magic",
            Self::OtherVersion { .. } => "other_version",
            Self::BadChecksum => "bad_checksum",
            Self::Unauthenticated => "unauthenticated",
            Self::BadCode => "bad_code",
            Self::NoSecret => "no_secret",
            Self::OtherSlot => "other_slot",
            Self::OtherSender => "other_sender",
            Self::OtherCluster => "other_cluster",
            Self::TooLarge { .. } => "too_large",
            Self::TrailingBytes => "trailing_bytes",
            Self::Malformed(_) => "malformed",
            Self::Unencodable => "unencodable",
        }
    }
}
