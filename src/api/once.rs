//! Writes that are executed once however often they are sent: the idempotency key, as cores know it.

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_128;

use super::{Match, Operation, PutMode};

/// A client's idempotency key: 128 bits of the BLAKE3 hash of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct IdempotencyKey(pub [u8; 16]);

/// What was asked under an idempotency key: 64 bits of the BLAKE3 hash of the operation, in which XXH3 stands for the value.
///
/// It tells a client that it has used its key for something else. Somebody who looks for two values with one XXH3 can hide that
/// from himself only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Fingerprint(pub u64);

/// A write that is to be executed once: under which key, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Once {
    /// The client's key.
    pub key: IdempotencyKey,
    /// The request that it stands for.
    pub request: Fingerprint,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Done {
    /// There was no value before.
    Created,
    /// There was one.
    Replaced,
    /// It removed one.
    Deleted,
}

/// The longest text of an idempotency key, in bytes.
const TEXT_BYTES_MAX: usize = 255;

impl Once {
    /// `operation` under the idempotency key `text`; none where that isn't 1 to 255 visible ASCII characters.
    #[must_use]
    pub fn new(text: &str, operation: &Operation) -> Option<Self> {
        let is_key = (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| {
            let mut key = [0; 16];
            key.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
            Self { key: IdempotencyKey(key), request: Fingerprint::of(operation) }
        })
    }
}

impl Fingerprint {
    /// The fingerprint of a write.
    #[must_use]
    pub fn of(operation: &Operation) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let precondition = match operation {
            Operation::Put { key, value, content_type, ttl_ms, mode, precondition } => {
                field(if *mode == PutMode::Create { b"create" } else { b"put" });
                field(key.as_bytes());
                field(&xxh3_128(value).to_le_bytes());
                field(content_type.as_ref().map_or(&[][..], |kind| kind.as_str().as_bytes()));
                field(&ttl_ms.unwrap_or(0).to_le_bytes());
                Some(precondition)
            }
            Operation::Delete { key, precondition } => {
                field(b"delete");
                field(key.as_bytes());
                Some(precondition)
            }
            Operation::Get { key, .. } => {
                field(b"get");
                field(key.as_bytes());
                None
            }
            Operation::List { prefix, .. } => {
                field(b"list");
                field(prefix);
                None
            }
        };
        let conditions = precondition.map(|precondition| [&precondition.if_match, &precondition.if_none_match]);
        for condition in conditions.into_iter().flatten() {
            match condition {
                None => field(b"none"),
                Some(Match::Any) => field(b"any"),
                Some(Match::Versions(versions)) => {
                    field(&versions.iter().flat_map(|version| version.0.to_le_bytes()).collect::<Vec<u8>>());
                }
            }
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Key, Precondition};
    use crate::base::{Blob, Version};

    fn key(text: &str) -> Key {
        text.parse().expect("a key")
    }

    fn put(name: &str, value: &'static str) -> Operation {
        let (value, mode) = (Blob::from_static(value.as_bytes()), PutMode::Upsert);
        let (content_type, precondition) = (None, Precondition::NONE);
        Operation::Put { key: key(name), value, content_type, ttl_ms: None, mode, precondition }
    }

    #[test]
    fn a_key_is_visible_ascii() {
        let long = "k".repeat(255);
        for text in ["a", "!~", "4f9e-11", &long] {
            assert!(Once::new(text, &put("a", "")).is_some(), "{text}");
        }
        let too_long = "k".repeat(256);
        for text in ["", "a b", "\t", "ä", &too_long] {
            assert!(Once::new(text, &put("a", "")).is_none(), "{text}");
        }
    }

    #[test]
    fn whatever_differs_is_another_request() {
        let delete = |precondition| Operation::Delete { key: key("a"), precondition };
        let if_match =
            |version| Precondition { if_match: Some(Match::Versions(vec![Version(version)])), if_none_match: None };
        let Operation::Put { key: name, value, content_type, .. } = put("a", "v") else { unreachable!() };
        let (mode, precondition) = (PutMode::Create, Precondition::NONE);
        let create = Operation::Put { key: name, value, content_type, ttl_ms: Some(1), mode, precondition };
        let requests = [
            put("a", "v"),
            put("a", "w"),
            put("av", ""),
            put("b", "v"),
            create,
            delete(Precondition::NONE),
            delete(if_match(1)),
            delete(if_match(2)),
        ];
        let seen: std::collections::BTreeSet<_> = requests.iter().map(Fingerprint::of).collect();
        assert_eq!(seen.len(), requests.len());
        assert_eq!(Fingerprint::of(&put("a", "v")), Fingerprint::of(&put("a", "v")));
    }
}
