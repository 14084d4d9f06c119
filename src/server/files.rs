//! Files that decide who is believed: read at the start, and again and again, so that they can be replaced while the
//! node runs.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::path::Path;

use tokio::io::AsyncReadExt as _;

/// What the mode of a file that holds a secret must not allow: anything to everybody, and writing to its group.
const SECRET: u32 = 0o027;
/// What the mode of a file that holds none must not allow: writing to everybody.
const PUBLIC: u32 = 0o002;
/// Far more than any of them needs.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 10;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Its owner, and perhaps its group.
    Secret,
    /// Everybody.
    Public,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{0}")]
    System(#[from] io::Error),
    #[error("it is not a file")]
    NoFile,
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(
        "its mode is {mode:03o}: others on this machine could read or replace it, and speak as a node; make it 600, or 640 \
         where a group has to read it"
    )]
    TooOpen {
        /// The bits of its permissions.
        mode: u32,
    },
    #[error("its mode is {mode:03o}: everybody on this machine could replace it; make it 644")]
    Replaceable {
        /// The bits of its permissions.
        mode: u32,
    },
}

/// What is in the file at `path`. For the start, before there is anything that it could hold up.
pub(super) fn load(path: &Path, privacy: Privacy) -> Result<Vec<u8>, FileError> {
    // Before it is opened: opening a pipe would wait for whoever writes to it.
    check(&std::fs::metadata(path)?, privacy)?;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// The same while the node runs.
pub(super) async fn read(path: &Path, privacy: Privacy) -> Result<Vec<u8>, FileError> {
    check(&tokio::fs::metadata(path).await?, privacy)?;
    let mut text = Vec::new();
    tokio::fs::File::open(path).await?.take(FILE_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(text)
}

fn check(metadata: &Metadata, privacy: Privacy) -> Result<(), FileError> {
    if !metadata.is_file() {
        return Err(FileError::NoFile);
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    let mode = mode(metadata);
    match privacy {
        Privacy::Secret if mode & SECRET != 0 => Err(FileError::TooOpen { mode }),
        Privacy::Public if mode & PUBLIC != 0 => Err(FileError::Replaceable { mode }),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn mode(metadata: &Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o777
}

/// Where files have no such bits, whoever runs the node has to see to it.
#[cfg(not(unix))]
const fn mode(_: &Metadata) -> u32 {
    0
}

/// What is believed once it was read twice the same: a file that is just being written isn't.
#[derive(Debug)]
pub(super) struct Twice<T>(Option<T>);

impl<T: PartialEq> Twice<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// What was `found` now, where it was found the last time too.
    pub(super) fn confirm(&mut self, found: T) -> Option<T> {
        if self.0.as_ref() == Some(&found) {
            self.0 = None;
            return Some(found);
        }
        self.0 = Some(found);
        None
    }

    /// Nothing new, or nothing usable, was found now.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// Says what is wrong once, and again only when something else is wrong.
#[derive(Debug, Default)]
pub(super) struct Complaint(Option<String>);

impl Complaint {
    /// Whether these words are new.
    pub(super) fn is_new(&mut self, words: &str) -> bool {
        let is_new = self.0.as_deref() != Some(words);
        if is_new {
            self.0 = Some(words.to_owned());
        }
        is_new
    }

    /// Nothing is wrong any more.
    pub(super) fn settle(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_twice_the_same_is_believed() {
        let mut twice = Twice::new();
        let found = [1, 2, 1, 1].map(|found| twice.confirm(found));
        assert_eq!(found, [None, None, None, Some(1)]);
        assert_eq!(twice.confirm(2), None);
        twice.forget();
        assert_eq!(twice.confirm(2), None);
    }

    #[test]
    fn the_same_complaint_is_made_once() {
        let mut complaint = Complaint::default();
        assert_eq!(["a", "a", "b", "a"].map(|words| complaint.is_new(words)), [true, false, true, true]);
        complaint.settle();
        assert!(complaint.is_new("a"));
    }
}
