//! What an upload's chunks are good for: one small value for each upload, changed by compare-and-set only.
//!
//! Everybody who makes an upload's chunks reachable, or stops doing so, says so here *first*. So whoever wants to
//! delete them knows where to look.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::manifest::json;
use super::path::FilePath;
use super::store::{Asker, Set, Store};
use super::{FileError, PathError};
use crate::api::{ContentType, Key, RESERVED};
use crate::base::{Blob, Version};

/// Names 128 random bits: no two uploads have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u128);

/// Paths that one record names. A file has one, and two while it is being renamed.
const PATHS_MAX: usize = 64;

/// Compare-and-set goes wrong only where somebody else's went well; more often than this is a bug, or a storm.
pub(super) const ATTEMPTS_MAX: usize = 16;

/// What is known of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    /// Where manifests may name it.
    pub(super) paths: Vec<String>,
    /// Changes that leave the rest as it was have to be seen, too.
    #[serde(default)]
    pub(super) beat: u64,
}

/// See the page of [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Uploading,
    Settled,
    Retired,
    Deleting,
}

impl UploadId {
    /// The key of its record.
    pub(super) fn key(self) -> Key {
        format!("{RESERVED}uploads/{self}").parse().expect("a short text")
    }

    /// The key of one of its chunks.
    pub(super) fn chunk_key(self, index: u64) -> Key {
        format!("{}{index:08x}", self.chunks()).parse().expect("a short text")
    }

    /// What the keys of all its chunks begin with.
    pub(super) fn chunks(self) -> String {
        format!("{RESERVED}files/{self}/")
    }

    /// What the keys of all records begin with.
    pub(super) fn records() -> String {
        format!("{RESERVED}uploads/")
    }

    /// The upload whose record has this key.
    pub(super) fn of_record(key: &Key) -> Option<Self> {
        key.as_str().strip_prefix(RESERVED)?.strip_prefix("uploads/")?.parse().ok()
    }
}

impl Record {
    pub(super) fn new(state: State, path: &FilePath) -> Self {
        Self { state, paths: vec![path.as_str().to_owned()], beat: 0 }
    }

    pub(super) fn to_value(&self) -> (Blob, ContentType) {
        (json(self), ContentType::new("application/vnd.jumpgate.upload+json").expect("it is visible ASCII"))
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The same in another state.
    pub(super) fn become_state(&self, state: State) -> Self {
        Self { state, beat: self.beat + 1, ..self.clone() }
    }

    /// The same with one more path.
    pub(super) fn with_path(&self, path: &FilePath) -> Result<Self, FileError> {
        let mut next = self.become_state(self.state);
        if !next.paths.iter().any(|known| known == path.as_str()) {
            if next.paths.len() >= PATHS_MAX {
                return Err(FileError::Busy);
            }
            next.paths.push(path.as_str().to_owned());
        }
        Ok(next)
    }
}

/// The record of `upload` and its version.
pub(super) async fn read<S: Store>(
    asker: &mut Asker<S>,
    upload: UploadId,
) -> Result<Option<(Record, Version)>, FileError> {
    let Some(value) = asker.value(upload.key()).await? else { return Ok(None) };
    // What isn't a record was written by somebody who knew what they did; it is treated as if it weren't there.
    Ok(Record::read(&value.bytes).map(|record| (record, value.version)))
}

/// Changes the record of `upload`: `change` says what becomes of it, nothing where it is well as it is. Repeated where
/// another change came first.
pub(super) async fn change<S: Store>(
    asker: &mut Asker<S>,
    upload: UploadId,
    change: impl Fn(Option<&Record>) -> Result<Option<Record>, FileError> + Send + Sync,
) -> Result<(), FileError> {
    for _ in 0..ATTEMPTS_MAX {
        let current = read(asker, upload).await?;
        let Some(next) = change(current.as_ref().map(|(record, _)| record))? else { return Ok(()) };
        let (bytes, kind) = next.to_value();
        let version = current.map(|(_, version)| version);
        match asker.set(upload.key(), bytes, kind, version).await? {
            Set::Done { .. } => return Ok(()),
            Set::Lost => {}
        }
    }
    Err(FileError::Busy)
}

/// The file at `path` may not name `upload` any more after this.
pub(super) async fn retire<S: Store>(asker: &mut Asker<S>, upload: UploadId, path: &FilePath) -> Result<(), FileError> {
    change(asker, upload, |record| match record {
        // Also where it is being deleted: whoever does that has looked before this, and must look again.
        Some(record) => record.with_path(path).map(|record| Some(record.become_state(State::Retired))),
        None => Ok(Some(Record::new(State::Retired, path))),
    })
    .await
}

/// The file at `path` names `upload` since a moment. [`FileError::Changed`] where its chunks are gone, or will be.
pub(super) async fn settle<S: Store>(asker: &mut Asker<S>, upload: UploadId, path: &FilePath) -> Result<(), FileError> {
    change(asker, upload, |record| match record {
        None => Err(FileError::Changed),
        Some(record) if record.state == State::Deleting => Err(FileError::Changed),
        // Somebody has changed or moved the file meanwhile, and knows more than this.
        Some(record) if record.state != State::Uploading || record.paths != [path.as_str()] => Ok(None),
        Some(record) => Ok(Some(record.become_state(State::Settled))),
    })
    .await
}

/// The paths that a record names; those that are none, because somebody else wrote them, are left out.
pub(super) fn paths(record: &Record, key_bytes_max: usize) -> Vec<FilePath> {
    let path = |text: &String| super::TreePath::new(text.as_bytes(), key_bytes_max).and_then(super::TreePath::file);
    record.paths.iter().map(path).filter_map(Result::<FilePath, PathError>::ok).collect()
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = ();

    /// 32 hexadecimal digits, as they are written.
    fn from_str(text: &str) -> Result<Self, ()> {
        let id = u128::from_str_radix(text, 16).map(Self).map_err(|_| ())?;
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

impl Serialize for UploadId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UploadId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("not the id of an upload: 32 hexadecimal digits"))
    }
}
