//! Why something about a file was not done.

use thiserror::Error;

use super::path::PathError;
use crate::api::{Error, KeyError};

/// Why an operation on files failed. On writes: unless it is [`FileError::Store`] with an unknown outcome, nothing that anybody
/// can see has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// The name is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// There is no such file, or no such folder.
    #[error("there is no such file or folder")]
    NotFound,
    /// What is there, or isn't, forbids it.
    #[error("{0}")]
    Conflict(String),
    /// A folder that isn't empty is not removed.
    #[error("the folder isn't empty")]
    NotEmpty,
    /// A condition of the request does not hold.
    #[error("the precondition does not hold: {}", etag.as_ref().map_or_else(|| "there is no such file".to_owned(), |etag| format!("the file's tag is {etag}")))]
    PreconditionFailed {
        /// The tag of the file that stands.
        etag: Option<String>,
    },
    /// A value that is no manifest is stored where the manifest would be.
    #[error("the key {0} holds a value that is no file; it was stored by other means than this tree")]
    Foreign(String),
    /// The file was replaced, deleted or damaged while it was read.
    #[error("the file was replaced or removed while it was read; read it again")]
    Changed,
    /// Another change of the same file, or a collector, is in the way: the same again, in a moment, may go well.
    #[error("something else is being done with this file; try again")]
    Busy,
    /// A bound of this tree.
    #[error("{0}")]
    TooLarge(String),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] Error),
    /// The store gave an answer that doesn't fit the question: a bug.
    #[error("the store gave an answer that doesn't fit the question")]
    Unexpected,
}

impl From<KeyError> for FileError {
    fn from(error: KeyError) -> Self {
        Self::Path(PathError::Key(error))
    }
}
