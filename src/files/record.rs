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

    /// Whether a manifest at `path` may name its upload.
    pub(super) fn names(&self, path: &FilePath) -> bool {
        self.paths.iter().any(|known| known == path.as_str())
    }

    /// The same with one more path.
    pub(super) fn with_path(&self, path: &FilePath) -> Result<Self, FileError> {
        let mut next = self.become_state(self.state);
        if !next.names(path) {
            if next.paths.len() >= PATHS_MAX {
                return Err(FileError::Busy);
            }
            next.paths.push(path.as_str().to_owned());
        }
        Ok(next)
    }
}

/// A rename, as the record of one upload knows it.
#[derive(Debug)]
pub(super) struct Move {
    upload: UploadId,
    /// Of the record that [`begin_move`] has written.
    version: Version,
    /// Before that it was settled and named the old path alone.
    is_alone: bool,
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

/// The file at `from` will be at `to`: the record of `upload` names both from now on.
pub(super) async fn begin_move<S: Store>(
    asker: &mut Asker<S>,
    upload: UploadId,
    from: &FilePath,
    to: &FilePath,
) -> Result<Move, FileError> {
    for _ in 0..ATTEMPTS_MAX {
        let current = read(asker, upload).await?;
        let (next, is_alone) = match &current {
            Some((record, _)) if record.state == State::Deleting => return Err(FileError::Busy),
            Some((record, _)) => {
                let is_alone = record.state == State::Settled && record.paths == [from.as_str()];
                (record.with_path(from)?.with_path(to)?, is_alone)
            }
            None => (Record::new(State::Settled, from).with_path(to)?, false),
        };
        let (bytes, kind) = next.to_value();
        let version = current.map(|(_, version)| version);
        if let Set::Done { version, .. } = asker.set(upload.key(), bytes, kind, version).await? {
            return Ok(Move { upload, version, is_alone });
        }
    }
    Err(FileError::Busy)
}

/// The file is at `to` and, where `is_moved`, this rename has removed it from its old path.
///
/// The old path is forgotten only where nobody else can be about to name the upload there, or anywhere: where the record named
/// that path alone before, and has not changed since [`begin_move`] wrote it. With another rename of the same file this went wrong:
///
/// 1. two begin, from `b` to `c` and from `b` to `a`: the record names all three;
/// 2. both write their manifests, at `c` and `a`, and one of them removes that at `b`;
/// 3. that one makes the record name `a` alone: nobody knows any more that `c` names the upload;
/// 4. the file `a` is replaced, a collector looks there, finds the upload named nowhere, and deletes the chunks of `c`.
///
/// In all other cases the record is marked for a collector, which looks at every path once nobody touches it any more.
pub(super) async fn end_move<S: Store>(
    asker: &mut Asker<S>,
    moving: Move,
    to: &FilePath,
    is_moved: bool,
) -> Result<(), FileError> {
    let Move { upload, version, is_alone } = moving;
    if is_alone && is_moved {
        let (bytes, kind) = Record { beat: 2, ..Record::new(State::Settled, to) }.to_value();
        if asker.set(upload.key(), bytes, kind, Some(version)).await? != Set::Lost {
            return Ok(());
        }
    }
    change(asker, upload, |record| match record {
        Some(record) if matches!(record.state, State::Settled | State::Uploading) => {
            Ok(Some(record.become_state(State::Retired)))
        }
        _ => Ok(None),
    })
    .await
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
