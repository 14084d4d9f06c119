//! The JSON forms of the vocabulary, the same for every gateway and for the client. Values are base64 in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{EventKind, FeedEvent, Item, Page};

/// A page of a listing: `{"items":[…],"cursor":…|null}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageJson {
    /// The keys, in order.
    pub items: Vec<ItemJson>,
    /// Opaque to clients: give it back as `cursor=` to get the next page.
    pub cursor: Option<String>,
}

/// One key of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemJson {
    /// The key.
    pub key: String,
    /// The version of its value.
    pub version: u64,
    /// The size of its value in bytes.
    pub size: u64,
    /// The content type it was stored with.
    pub content_type: Option<String>,
    /// Milliseconds until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// The value in base64, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// One message of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventJson {
    /// `put`, `delete`, `expire`; `snapshot`; or, of the feed itself, `live`, `gap` and `end`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The key; none for messages of the feed itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The version of the new value or of the removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The content type of the new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The new value in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where to resume; opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Why, where the feed itself has something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A failure (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemJson {
    /// The kind of failure, which programs may compare: `urn:jumpgate:problem:NAME`. A name never changes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This failure in words.
    pub detail: String,
    /// On writes: `definite` (it did not happen) or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// One line of an export: `{"key","value" in base64,"content_type"?,"ttl_ms"?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordJson {
    /// The key.
    pub key: String,
    /// The value in base64.
    pub value: String,
    /// The content type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Milliseconds until it expires, counted from the import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// Bytes as base64.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Base64 as bytes.
///
/// # Errors
/// Where the text is not base64; the error says at which place.
pub fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

impl From<&Item> for ItemJson {
    fn from(item: &Item) -> Self {
        Self {
            key: item.key.as_str().to_owned(),
            version: item.version.0,
            size: item.value_bytes,
            content_type: item.content_type.as_ref().map(|content_type| content_type.as_str().to_owned()),
            expires_in_ms: item.expires_in_ms,
            value: item.value.as_deref().map(to_base64),
        }
    }
}

impl From<&Page> for PageJson {
    fn from(page: &Page) -> Self {
        Self {
            items: page.items.iter().map(ItemJson::from).collect(),
            cursor: page.next_after.as_ref().map(|key| to_base64(key.as_bytes())),
        }
    }
}

impl EventJson {
    /// The JSON form of a change; with its value where `values`.
    #[must_use]
    pub fn of(event: &FeedEvent, values: bool) -> Self {
        let kind = match event.kind {
            EventKind::Put => "put",
            EventKind::Delete => "delete",
            EventKind::Expire => "expire",
        };
        Self {
            kind: kind.to_owned(),
            key: Some(event.key.as_str().to_owned()),
            version: Some(event.version.0),
            content_type: event.content_type.as_ref().map(|content_type| content_type.as_str().to_owned()),
            value: event.value.as_deref().filter(|_| values).map(to_base64),
            cursor: None,
            detail: None,
        }
    }

    /// A key as it is now, for a viewer that has missed how it came to be so.
    #[must_use]
    pub fn snapshot(item: &Item) -> Self {
        Self {
            kind: "snapshot".to_owned(),
            key: Some(item.key.as_str().to_owned()),
            version: Some(item.version.0),
            content_type: item.content_type.as_ref().map(|content_type| content_type.as_str().to_owned()),
            value: item.value.as_deref().map(to_base64),
            cursor: None,
            detail: None,
        }
    }

    /// The same with the cursor that resumes after it.
    #[must_use]
    pub fn with_cursor(self, cursor: String) -> Self {
        Self { cursor: Some(cursor), ..self }
    }

    /// A message of the feed itself: `live` or `gap`.
    #[must_use]
    pub fn notice(kind: &str, detail: Option<String>) -> Self {
        Self { kind: kind.to_owned(), key: None, version: None, content_type: None, value: None, cursor: None, detail }
    }
}
