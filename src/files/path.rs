//! Names in the tree, checked on entry, and the keys that they are.
//!
//! A path is what people type: parts between slashes. It is checked and never repaired: two spellings of one file would
//! be two answers to the question who may read it. What a protocol has rules for (`CWD ..` of FTP) its adapter resolves
//! before it comes here.

use std::fmt;

use thiserror::Error;

use crate::api::{Key, KeyError, RESERVED};

/// Where manifests are.
pub(super) const PREFIX: &str = "files/";

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing, or a folder where a file is meant.
    #[error("the path names a folder; a file's name doesn't end with a slash and isn't empty")]
    NoFile,
    /// Two slashes in a row, or one at the beginning.
    #[error("the path has an empty part; write one slash between two parts and none at the beginning")]
    EmptyPart,
    /// `.` or `..`.
    #[error("the path has the part {0:?}, which is no name here")]
    Dots(String),
    /// A control character, or one that is reserved.
    #[error("the path has the character {0:?}, which no name may have")]
    Character(char),
    /// Not UTF-8.
    #[error("the path is not UTF-8 (first bad byte at {0})")]
    NotUtf8(usize),
    /// Too long: a path and its prefix are a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The path of a file: parts without slashes, `/` between them. No part is empty, `.` or `..`, or has a control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

/// The path of a folder: that of the root is empty, all others are checked like files' and end with a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderPath(String);

/// A path of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreePath {
    /// Without a slash at its end.
    File(FilePath),
    /// With one, or empty.
    Folder(FolderPath),
}

impl TreePath {
    /// The path that `bytes` are. `key_bytes_max` bounds it, with its prefix.
    ///
    /// # Errors
    /// Where they are none.
    pub fn new(bytes: &[u8], key_bytes_max: usize) -> Result<Self, PathError> {
        let text = std::str::from_utf8(bytes).map_err(|error| PathError::NotUtf8(error.valid_up_to()))?;
        let name = text.strip_suffix('/').unwrap_or(text);
        if name.is_empty() {
            return if text.is_empty() { Ok(Self::Folder(FolderPath::root())) } else { Err(PathError::EmptyPart) };
        }
        // Room is left for the slash that makes a folder of a file's name, and for what sorts behind all that is in it.
        let bytes = PREFIX.len() + name.len() + 1 + RESERVED.len();
        if bytes > key_bytes_max {
            return Err(KeyError::TooLong { bytes, bytes_max: key_bytes_max }.into());
        }
        for part in name.split('/') {
            match part {
                "" => return Err(PathError::EmptyPart),
                "." | ".." => return Err(PathError::Dots(part.to_owned())),
                _ => {}
            }
        }
        // A line break in a name would be two lines of a listing. What is reserved sorts behind every name: see `list`.
        if let Some(bad) = name.chars().find(|&it| it.is_control() || RESERVED.starts_with(it)) {
            return Err(PathError::Character(bad));
        }
        Ok(if name.len() < text.len() {
            Self::Folder(FolderPath(text.to_owned()))
        } else {
            Self::File(FilePath(text.to_owned()))
        })
    }

    /// The same for whoever means a file.
    ///
    /// # Errors
    /// Where the path is none, or a folder's.
    pub fn file(self) -> Result<FilePath, PathError> {
        match self {
            Self::File(path) => Ok(path),
            Self::Folder(_) => Err(PathError::NoFile),
        }
    }

    /// The same as a folder, with or without the slash.
    #[must_use]
    pub fn folder(self) -> FolderPath {
        match self {
            Self::File(path) => path.as_folder(),
            Self::Folder(path) => path,
        }
    }
}

impl FilePath {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of the same name.
    #[must_use]
    pub fn as_folder(&self) -> FolderPath {
        FolderPath(format!("{}/", self.0))
    }

    /// The key of its manifest.
    pub(super) fn key(&self) -> Key {
        key(&self.0)
    }

    /// The paths above it that must not be files: of `a/b/c`, `a/b` and `a`.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.rmatch_indices('/').map(|(at, _)| Self(self.0[..at].to_owned()))
    }
}

impl FolderPath {
    /// The folder that everything is in.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its text, with the slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file of the same name; the root has none.
    #[must_use]
    pub fn as_file(&self) -> Option<FilePath> {
        self.0.strip_suffix('/').map(|name| FilePath(name.to_owned()))
    }

    /// The key of its marker, or the root's prefix, which is no marker's.
    pub(super) fn key(&self) -> Key {
        key(&self.0)
    }
}

/// The key of a path that was checked.
fn key(path: &str) -> Key {
    format!("{PREFIX}{path}").parse().expect("a path was checked to fit when it was made, and its prefix isn't empty")
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::KEY_BYTES_MAX;

    fn path(text: &str) -> Result<TreePath, PathError> {
        TreePath::new(text.as_bytes(), KEY_BYTES_MAX)
    }

    #[test]
    fn names_are_taken_as_they_are_or_refused() {
        for good in ["a", "a.b", "...", "a/..b/c", "über/ß", "a b", "-", "a\\b", "a%2Fb", "~"] {
            assert!(matches!(path(good), Ok(TreePath::File(file)) if file.as_str() == good), "{good:?}");
            let folder = format!("{good}/");
            assert!(matches!(path(&folder), Ok(TreePath::Folder(it)) if it.as_str() == folder), "{folder:?}");
        }
        assert!(matches!(path(""), Ok(TreePath::Folder(root)) if root.is_root()));
        for (bad, error) in [
            ("/", PathError::EmptyPart),
            ("/a", PathError::EmptyPart),
            ("a//b", PathError::EmptyPart),
            ("a//", PathError::EmptyPart),
            ("//", PathError::EmptyPart),
            (".", PathError::Dots(".".into())),
            ("a/./b", PathError::Dots(".".into())),
            ("../a", PathError::Dots("..".into())),
            ("a/..", PathError::Dots("..".into())),
            ("a/../", PathError::Dots("..".into())),
            ("a\nb", PathError::Character('\n')),
            ("a\0", PathError::Character('\0')),
            ("\u{7f}", PathError::Character('\u{7f}')),
            ("a/\u{85}/b", PathError::Character('\u{85}')),
            ("a\u{10FFFF}", PathError::Character('\u{10FFFF}')),
        ] {
            assert_eq!(path(bad), Err(error), "{bad:?}");
        }
        assert_eq!(TreePath::new(b"a\xff", KEY_BYTES_MAX), Err(PathError::NotUtf8(1)));
    }

    #[test]
    fn the_longest_path_is_a_key_as_a_file_and_as_a_folder() {
        let longest = "k".repeat(KEY_BYTES_MAX - PREFIX.len() - 1 - RESERVED.len());
        let file = path(&longest).expect("it fits").file().expect("a file");
        assert_eq!(file.as_folder().key().as_bytes().len() + RESERVED.len(), KEY_BYTES_MAX);
        assert!(matches!(path(&format!("{longest}k")), Err(PathError::Key(KeyError::TooLong { .. }))));
        let short = TreePath::new(b"abc", 13);
        assert!(matches!(short, Err(PathError::Key(KeyError::TooLong { bytes: 14, bytes_max: 13 }))), "{short:?}");
    }

    #[test]
    fn what_is_above_a_file_is_known() {
        let file = path("a/b/c").expect("a path").file().expect("a file");
        let above: Vec<String> = file.ancestors().map(|it| it.as_str().to_owned()).collect();
        assert_eq!(above, ["a/b", "a"]);
    }
}
