//! How this module reaches the store.

use super::FileError;
use super::manifest::Entry;
use super::path::{FilePath, FolderPath};
use crate::api::{
    Consistency, ContentType, Done, Error, Key, Match, Once, Operation, Page, Precondition, PutMode, Response, Value,
};
use crate::base::{Blob, Version};

/// Whoever answers requests: a gateway's core, or a test's map. A clone is another handle of the same.
pub trait Store: Clone + Send + Sync + 'static {
    /// Asks one thing. It may be asked again where the first answer was lost: reads, deletes and puts without a condition
    /// come to the same, and all others have an idempotency key.
    fn ask(&self, operation: Operation, once: Option<Once>) -> impl Future<Output = Result<Response, Error>> + Send;
}

/// One operation's way to the store: it names each of its conditional writes, so that one that is sent twice is done once.
#[derive(Debug)]
pub struct Asker<S> {
    store: S,
    /// Keys longer than this are refused.
    key_bytes_max: usize,
    nonce: u128,
    asked: u64,
}

/// What became of a compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Done {
        /// The version of what was written, or of the delete.
        version: Version,
        created: bool,
        copies: u8,
    },
    /// Something else stands than was compared with.
    Lost,
}

impl<S: Store> Asker<S> {
    /// A way for one operation; `nonce` is random and used for nothing else.
    #[must_use]
    pub const fn new(store: S, key_bytes_max: usize, nonce: u128) -> Self {
        Self { store, key_bytes_max, nonce, asked: 0 }
    }

    pub(super) const fn store(&self) -> &S {
        &self.store
    }

    pub(super) const fn key_bytes_max(&self) -> usize {
        self.key_bytes_max
    }

    /// The value under `key`. Where only survivors of a quorum could be asked, "nothing" is no answer.
    pub(super) async fn value(&mut self, key: Key) -> Result<Option<Value>, FileError> {
        let operation = Operation::Get { key, consistency: Consistency::Linearizable };
        match self.store.ask(operation, None).await? {
            Response::Value(value) => Ok(Some(value)),
            Response::NotFound => Ok(None),
            Response::NotFoundDegraded => Err(unknown()),
            _ => Err(FileError::Unexpected),
        }
    }

    /// The file at `path`, if there is one.
    pub(super) async fn entry(&mut self, path: &FilePath) -> Result<Option<Entry>, FileError> {
        let value = self.value(path.key()).await?;
        value.map(|value| Entry::read(path, &value)).transpose()
    }

    /// One page of keys.
    pub(super) async fn page(
        &mut self,
        prefix: &[u8],
        after: Option<Key>,
        limit: u32,
        values: bool,
    ) -> Result<Page, FileError> {
        match self.store.ask(Operation::List { prefix: Blob::from(prefix), after, limit, values }, None).await? {
            Response::Page(page) => Ok(page),
            _ => Err(FileError::Unexpected),
        }
    }

    /// Whether there are keys below a folder's. Where only survivors of a quorum could be asked, "none" is no answer.
    pub(super) async fn is_there(&mut self, folder: &FolderPath) -> Result<bool, FileError> {
        let page = self.page(folder.key().as_bytes(), None, 1, false).await?;
        if page.items.is_empty() && page.degraded { Err(unknown()) } else { Ok(!page.items.is_empty()) }
    }

    /// Puts a value where one of this version stands, or none.
    pub(super) async fn set(
        &mut self,
        key: Key,
        value: Blob,
        content_type: ContentType,
        current: Option<Version>,
    ) -> Result<Set, FileError> {
        let precondition = precondition(current);
        let (content_type, ttl_ms, mode) = (Some(content_type), None, PutMode::Upsert);
        let operation = Operation::Put { key, value, content_type, ttl_ms, mode, precondition };
        let once = self.once(&operation);
        match self.store.ask(operation, once).await {
            Ok(Response::Written { version, created, copies }) => Ok(Set::Done { version, created, copies }),
            Ok(Response::Replayed { version, done, copies }) => {
                Ok(Set::Done { version, created: done == Done::Created, copies })
            }
            Err(Error::PreconditionFailed { .. }) => Ok(Set::Lost),
            Ok(_) => Err(FileError::Unexpected),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the value of this version.
    pub(super) async fn unset(&mut self, key: Key, current: Version) -> Result<Set, FileError> {
        let operation = Operation::Delete { key, precondition: precondition(Some(current)) };
        let once = self.once(&operation);
        match self.store.ask(operation, once).await {
            Ok(Response::Deleted { version, copies } | Response::Replayed { version, copies, .. }) => {
                Ok(Set::Done { version, created: false, copies })
            }
            Ok(Response::NotFound) | Err(Error::PreconditionFailed { .. }) => Ok(Set::Lost),
            Ok(_) => Err(FileError::Unexpected),
            Err(error) => Err(error.into()),
        }
    }

    fn once(&mut self, operation: &Operation) -> Option<Once> {
        self.asked += 1;
        Once::new(&format!("{:032x}-{}", self.nonce, self.asked), operation)
    }
}

/// Puts one chunk. It may be done twice: nobody else writes there.
pub(super) async fn put_chunk<S: Store>(store: S, key: Key, value: Blob) -> Result<(), FileError> {
    let (content_type, ttl_ms, mode, precondition) = (None, None, PutMode::Upsert, Precondition::NONE);
    match store.ask(Operation::Put { key, value, content_type, ttl_ms, mode, precondition }, None).await? {
        Response::Written { .. } => Ok(()),
        _ => Err(FileError::Unexpected),
    }
}

/// Deletes one chunk, if it is there.
pub(super) async fn delete_chunk<S: Store>(store: S, key: Key) -> Result<(), FileError> {
    match store.ask(Operation::Delete { key, precondition: Precondition::NONE }, None).await? {
        Response::Deleted { .. } | Response::NotFound => Ok(()),
        _ => Err(FileError::Unexpected),
    }
}

/// What is said instead of "there is none" where that isn't known.
pub(super) fn unknown() -> FileError {
    Error::NoQuorum("the nodes that are left know of no such file or folder".to_owned()).into()
}

fn precondition(current: Option<Version>) -> Precondition {
    match current {
        Some(version) => Precondition { if_match: Some(Match::Versions(vec![version])), if_none_match: None },
        None => Precondition { if_match: None, if_none_match: Some(Match::Any) },
    }
}
