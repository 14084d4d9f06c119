//! What is stored under a name: a file's manifest, or a folder's marker.
//!
//! Both are JSON, because the feed shows them to people and programs: whoever watches `files/` learns of each upload its
//! name, size, tag and type. Whoever reads one trusts nothing in it: any client may write under `files/`.

use serde::{Deserialize, Serialize};

use super::path::FilePath;
use super::record::UploadId;
use super::{CHUNK_BYTES, FILE_BYTES_MAX, FileError, SEGMENTS_MAX};
use crate::api::{ContentType, Value};
use crate::base::{Blob, Version, limits};

/// The content type of a manifest.
const FILE_TYPE: &str = "application/vnd.jumpgate.file+json";
/// The content type of a folder's marker.
const FOLDER_TYPE: &str = "application/vnd.jumpgate.folder+json";

/// A file: its chunks are those of its segments, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bytes in all.
    pub size: u64,
    /// What tells this content from any other: the BLAKE3 hash of a file of one segment; of an appended one, the hash of
    /// its segments' hashes.
    pub etag: String,
    /// The type that the writer gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// When it was written, by the clock of the node that wrote it, in milliseconds since 1970.
    pub modified_ms: u64,
    /// The uploads that it is made of. Empty where the file is.
    pub segments: Vec<Segment>,
}

/// What one upload added to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Which upload.
    pub upload: UploadId,
    /// Bytes; never zero.
    pub size: u64,
    /// Bytes of each of its chunks but the last.
    pub chunk: u64,
    /// The BLAKE3 hash of its bytes, in hexadecimal digits.
    pub hash: String,
}

/// What a folder's marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// When it was made.
    pub(super) modified_ms: u64,
}

/// A file as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is made of.
    pub manifest: Manifest,
    /// The version of the manifest.
    pub version: Version,
    /// It was read without a quorum: the newest that the survivors know.
    pub degraded: bool,
}

impl Manifest {
    /// A file of these segments.
    pub(super) fn new(segments: Vec<Segment>, content_type: Option<&ContentType>, modified_ms: u64) -> Self {
        let size = segments.iter().map(|segment| segment.size).sum();
        let etag = match segments.as_slice() {
            [] => hex(&blake3::hash(b"")),
            [segment] => segment.hash.clone(),
            segments => {
                let mut hasher = blake3::Hasher::new_derive_key("jumpgate 2026 hash of an appended file");
                for segment in segments {
                    hasher.update(segment.hash.as_bytes());
                    hasher.update(&segment.size.to_le_bytes());
                }
                hex(&hasher.finalize())
            }
        };
        Self { size, etag, content_type: content_type.map(|kind| kind.as_str().to_owned()), modified_ms, segments }
    }

    /// Its content type, where the writer gave one.
    #[must_use]
    pub fn content_type(&self) -> Option<ContentType> {
        self.content_type.as_deref().and_then(ContentType::new)
    }

    /// Whether one of its segments is of `upload`.
    pub(super) fn names(&self, upload: UploadId) -> bool {
        self.segments.iter().any(|segment| segment.upload == upload)
    }

    /// As it is stored.
    pub(super) fn to_value(&self) -> (Blob, ContentType) {
        (json(self), content_type(FILE_TYPE))
    }

    /// The manifest in a stored value; none where that is something else, or says something that can't be.
    pub(super) fn read(bytes: &[u8], kind: Option<&ContentType>) -> Option<Self> {
        if kind.map(ContentType::as_str) != Some(FILE_TYPE) {
            return None;
        }
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        manifest.is_sound().then_some(manifest)
    }

    /// Whether it can be: whoever wrote it may have been anybody.
    fn is_sound(&self) -> bool {
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_segment = |it: &Segment| {
            is_hash(&it.hash)
                && (1..=FILE_BYTES_MAX).contains(&it.size)
                && (1..=limits::VALUE_BYTES_MAX as u64).contains(&it.chunk)
                && it.size.div_ceil(it.chunk) <= u64::from(u32::MAX)
        };
        let size = self.segments.iter().map(|segment| segment.size).fold(0, u64::saturating_add);
        self.segments.len() <= SEGMENTS_MAX
            && is_hash(&self.etag)
            && self.segments.iter().all(is_segment)
            && size == self.size
            && size <= FILE_BYTES_MAX
    }
}

impl Marker {
    pub(super) fn to_value(&self) -> (Blob, ContentType) {
        (json(self), content_type(FOLDER_TYPE))
    }
}

impl Entry {
    /// The file in what was read under the key of `path`.
    pub(super) fn read(path: &FilePath, value: &Value) -> Result<Self, FileError> {
        let manifest = Manifest::read(&value.bytes, value.content_type.as_ref());
        let manifest = manifest.ok_or_else(|| FileError::Foreign(path.key().to_string()))?;
        Ok(Self { manifest, version: value.version, degraded: value.degraded })
    }
}

/// Conditions on the file that stands, as HTTP has them: they compare tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Only if it matches.
    pub if_match: Option<Tags>,
    /// Only if it doesn't.
    pub if_none_match: Option<Tags>,
}

/// What a condition compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Any file at all.
    Any,
    /// One of these.
    These(Vec<String>),
}

impl Tags {
    /// Whether a file with this tag matches; where there is none, nothing does.
    #[must_use]
    pub fn matches(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(etag)) => tags.iter().any(|tag| tag == etag),
        }
    }
}

impl Conditions {
    /// Refuses where they don't hold for the file with this tag.
    pub(super) fn check(&self, entry: Option<&Entry>) -> Result<(), FileError> {
        let etag = entry.map(|entry| entry.manifest.etag.as_str());
        let matched = self.if_match.as_ref().is_none_or(|tags| tags.matches(etag));
        let unmatched = self.if_none_match.as_ref().is_none_or(|tags| !tags.matches(etag));
        if matched && unmatched {
            return Ok(());
        }
        Err(FileError::PreconditionFailed { etag: etag.map(str::to_owned) })
    }
}

pub(super) fn hex(hash: &blake3::Hash) -> String {
    hash.to_hex().to_string()
}

pub(super) fn json(value: &impl Serialize) -> Blob {
    Blob::from(serde_json::to_vec(value).expect("strings, numbers and lists of them are always JSON"))
}

fn content_type(text: &str) -> ContentType {
    ContentType::new(text).expect("it is visible ASCII")
}

const _: () = assert!(CHUNK_BYTES <= limits::VALUE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(size: u64, chunk: u64) -> Segment {
        Segment { upload: UploadId(7), size, chunk, hash: "0".repeat(64) }
    }

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_is_not() {
        let kind = ContentType::new("text/plain");
        let manifest = Manifest::new(vec![segment(10, 4), segment(1, 4)], kind.as_ref(), 5);
        let (bytes, stored) = manifest.to_value();
        assert_eq!(Manifest::read(&bytes, Some(&stored)), Some(manifest.clone()));
        assert_eq!(Manifest::read(&bytes, kind.as_ref()), None, "of another type");
        assert_eq!(Manifest::read(b"{}", Some(&stored)), None);
        type Break = (&'static str, fn(&mut Manifest));
        let broken: [Break; 7] = [
            ("size", |it| it.size += 1),
            ("chunk of no bytes", |it| it.segments[0].chunk = 0),
            ("empty segment", |it| it.segments[1].size = 0),
            ("chunk too large", |it| it.segments[0].chunk = u64::MAX),
            ("too many chunks", |it| {
                it.segments = vec![segment(FILE_BYTES_MAX, 1)];
                it.size = FILE_BYTES_MAX;
            }),
            ("sum past the end", |it| it.segments[0].size = u64::MAX),
            ("tag", |it| it.etag = "\"\r\n".to_owned()),
        ];
        for (what, damage) in broken {
            let mut damaged = manifest.clone();
            damage(&mut damaged);
            assert_eq!(Manifest::read(&damaged.to_value().0, Some(&stored)), None, "{what}");
        }
    }

    #[test]
    fn another_cut_or_order_is_another_tag() {
        let of = |segments: &[Segment]| Manifest::new(segments.to_vec(), None, 0).etag;
        let (one, two) = (segment(1, 4), Segment { hash: "1".repeat(64), ..segment(2, 4) });
        assert_ne!(of(&[one.clone(), two.clone()]), of(&[two.clone(), one.clone()]));
        assert_eq!(of(std::slice::from_ref(&one)), one.hash);
        assert_eq!(of(&[]), blake3::hash(b"").to_hex().as_str());
    }
}
