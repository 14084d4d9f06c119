//! The JSON form of a batch: many operations in one request, each with an outcome of its own.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::base::limits;

/// `{"ops":[…]}`: at most [`limits::BATCH_OPS_MAX`] operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchJson {
    /// What is asked, in order.
    #[serde(deserialize_with = "bounded")]
    pub ops: Vec<BatchOpJson>,
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchOpJson {
    /// What to do.
    pub op: BatchOpKind,
    /// With which key.
    pub key: String,
    /// The value in base64, of a put or create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The content type to keep with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The version that the key must have: a put or delete happens only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<VersionJson>,
    /// Milliseconds until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Under which a write is executed once, however often it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// What an operation of a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchOpKind {
    /// Creates or replaces.
    Put,
    /// Creates; an existing value is a failure.
    Create,
    /// Reads.
    Get,
    /// Removes.
    Delete,
}

impl BatchOpKind {
    /// Whether it changes the store.
    #[must_use]
    pub const fn is_write(self) -> bool {
        !matches!(self, Self::Get)
    }
}

/// A version, as the number that results give or as the ETag that headers give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VersionJson {
    /// As in `"version":7`.
    Number(u64),
    /// As in `ETag: "7"`, with or without its quotes.
    Text(String),
}

impl VersionJson {
    /// The number; none where the text is no ETag that a gateway gives.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => {
                let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
                digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
            }
        }
    }
}

/// `{"results":[…]}`: one for each operation, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResultsJson {
    /// What became of each.
    pub results: Vec<BatchResultJson>,
}

/// What became of one operation, as the same request alone would have been answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResultJson {
    /// The HTTP status.
    pub status: u16,
    /// The version of the value that is stored, or that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The value in base64, of a get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The content type it was stored with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Milliseconds until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// On how many nodes a write is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u8>,
    /// The write had been done before, under the same idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// It was read without a quorum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Of a failure: its kind, as in [`super::json::ProblemJson`].
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Of a failure: what happened, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a write that failed: `definite` (it did not happen) or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// Reads operations up to the limit, and names the one that is wrong. What comes after the limit is not even read.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BatchOpJson>, D::Error> {
    struct Operations;
    impl<'de> Visitor<'de> for Operations {
        type Value = Vec<BatchOpJson>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of at most {} operations", limits::BATCH_OPS_MAX)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut ops = Vec::new();
            loop {
                let next =
                    list.next_element().map_err(|error| A::Error::custom(format!("ops[{}]: {error}", ops.len())))?;
                let Some(op) = next else { return Ok(ops) };
                if ops.len() == limits::BATCH_OPS_MAX {
                    let most = limits::BATCH_OPS_MAX;
                    return Err(A::Error::custom(format!("ops[{most}]: a batch has at most {most} operations")));
                }
                ops.push(op);
            }
        }
    }
    deserializer.deserialize_seq(Operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_that_is_wrong_is_named() {
        let reason = |ops: &str| {
            let parsed: Result<BatchJson, _> = serde_json::from_str(&format!("{{\"ops\":[{ops}]}}"));
            parsed.expect_err(ops).to_string()
        };
        assert!(reason(r#"{"op":"get","key":"a"},{"op":"peek","key":"a"}"#).contains("ops[1]: unknown variant `peek`"));
        assert!(reason(r#"{"op":"get"}"#).contains("ops[0]: missing field `key`"));
        assert!(reason(r#"{"op":"get","key":"a","ifmatch":1}"#).contains("ops[0]: unknown field `ifmatch`"));
        let many = vec![r#"{"op":"get","key":"a"}"#; limits::BATCH_OPS_MAX + 1].join(",");
        assert!(reason(&many).contains("ops[1000]: a batch has at most 1000 operations"), "{}", reason(&many));
    }

    #[test]
    fn a_version_may_be_written_as_it_was_given() {
        let number = |json: &str| serde_json::from_str::<VersionJson>(json).expect("a version").number();
        assert_eq!([number("7"), number("\"7\""), number("\"\\\"7\\\"\"")], [Some(7); 3]);
        assert_eq!([number("\"*\""), number("\"W/7\""), number("\"\"")], [None; 3]);
    }
}
