//! Reading one file.

use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;

use super::chunks::{Piece, pieces};
use super::manifest::{Entry, Manifest};
use super::path::FilePath;
use super::store::{Asker, Store};
use super::{FileError, IN_FLIGHT_MAX};
use crate::api::{Consistency, Operation, Response};

/// The file at `path`.
///
/// # Errors
/// Where there is none, or the store refuses.
pub async fn open<S: Store>(asker: &mut Asker<S>, path: &FilePath) -> Result<Entry, FileError> {
    asker.entry(path).await?.ok_or(FileError::NotFound)
}

type Getting = Pin<Box<dyn Future<Output = Result<Bytes, FileError>> + Send>>;

/// A part of one file on its way out.
pub struct Download<S> {
    store: S,
    left: Box<dyn Iterator<Item = Piece> + Send>,
    in_flight: FuturesOrdered<Getting>,
}

impl<S: Store> Download<S> {
    /// The bytes `range` of a file. Nothing is asked before [`Download::next`].
    #[must_use]
    pub fn new(store: S, manifest: &Manifest, range: Range<u64>) -> Self {
        Self { store, left: Box::new(pieces(manifest, range)), in_flight: FuturesOrdered::new() }
    }

    /// The next bytes; none after the last ones. Whoever asks late keeps a few chunks in memory and no more.
    pub async fn next(&mut self) -> Option<Result<Bytes, FileError>> {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(piece) = self.left.next() else { break };
            self.in_flight.push_back(Box::pin(read(self.store.clone(), piece)));
        }
        self.in_flight.next().await
    }
}

async fn read<S: Store>(store: S, piece: Piece) -> Result<Bytes, FileError> {
    let (key, consistency) = (piece.upload.chunk_key(piece.index), Consistency::Linearizable);
    match store.ask(Operation::Get { key, consistency }, None).await? {
        // A chunk of another size belongs to no file that this manifest describes.
        Response::Value(value) if value.bytes.len() as u64 == piece.chunk_bytes => Ok(value.bytes.0.slice(piece.part)),
        Response::Value(_) | Response::NotFound | Response::NotFoundDegraded => Err(FileError::Changed),
        _ => Err(FileError::Unexpected),
    }
}
