//! Writing one file: chunks as they come, the manifest in the end.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};

use super::chunks::Chunker;
use super::manifest::{Conditions, Entry, Manifest, Segment};
use super::path::FilePath;
use super::record::{self, ATTEMPTS_MAX, Record, State, UploadId};
use super::store::{Asker, Set, Store, delete_chunk, put_chunk};
use super::{CHUNK_BYTES, FILE_BYTES_MAX, FileError, IN_FLIGHT_MAX, SEGMENTS_MAX};
use crate::api::ContentType;
use crate::base::{Blob, Instant};

/// After so long without a change, an upload's record is changed: well before a collector takes it for abandoned.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(120);

/// Where the bytes of an upload go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// They are the file, whatever stands there.
    Replace,
    /// They come behind the file, which must have so many bytes then.
    AppendAt(u64),
}

/// What an upload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file as it is now.
    pub manifest: Manifest,
    /// Whether there was none before.
    pub created: bool,
    /// On how many nodes it is.
    pub copies: u8,
}

type Putting = Pin<Box<dyn Future<Output = Result<(), FileError>> + Send>>;

/// One upload that is under way.
///
/// It ends with [`Upload::finish`], or with [`Upload::abandon`]; one that is dropped is found by a collector.
pub struct Upload<S: Store> {
    asker: Asker<S>,
    id: UploadId,
    path: FilePath,
    placement: Placement,
    conditions: Conditions,
    chunk_bytes: usize,
    chunker: Chunker,
    in_flight: FuturesUnordered<Putting>,
    chunks: u64,
    renewed: Instant,
    /// The manifest may name this upload: nobody but a collector may delete its chunks.
    may_be_named: bool,
}

impl<S: Store> Upload<S> {
    /// Begins one. `id` is random. Conditions are looked at now, so that nothing is sent in vain, and judged in the end.
    ///
    /// # Errors
    /// Where there can be no such file, the conditions don't hold, or the store refuses.
    pub async fn begin(
        mut asker: Asker<S>,
        id: UploadId,
        path: FilePath,
        placement: Placement,
        conditions: Conditions,
        value_bytes_max: usize,
        now: Instant,
    ) -> Result<Self, FileError> {
        let entry = asker.entry(&path).await?;
        conditions.check(entry.as_ref())?;
        base(placement, entry.as_ref())?;
        if entry.is_none() {
            super::tree::check_room(&mut asker, &path).await?;
        }
        let (bytes, kind) = Record::new(State::Uploading, &path).to_value();
        if asker.set(id.key(), bytes, kind, None).await? == Set::Lost {
            return Err(FileError::Busy);
        }
        let chunk_bytes = CHUNK_BYTES.min(value_bytes_max);
        let (chunker, in_flight) = (Chunker::new(chunk_bytes), FuturesUnordered::new());
        let (chunks, renewed, may_be_named) = (0, now, false);
        Ok(Self {
            asker,
            id,
            path,
            placement,
            conditions,
            chunk_bytes,
            chunker,
            in_flight,
            chunks,
            renewed,
            may_be_named,
        })
    }

    /// Bytes that it has been given.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.chunker.size()
    }

    /// Takes the next bytes. Ready when there is room for more.
    ///
    /// # Errors
    /// Where the store refuses a chunk, or the file becomes too large.
    pub async fn write(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), FileError> {
        if self.chunker.size() + bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(FileError::TooLarge(format!("a file has {FILE_BYTES_MAX} bytes at most")));
        }
        while !bytes.is_empty() {
            let taken = self.chunker.handle_bytes(bytes);
            bytes = &bytes[taken..];
            if let Some(chunk) = self.chunker.poll_chunk() {
                self.put(chunk).await?;
            }
        }
        self.maybe_renew(now).await
    }

    /// Makes what it was given the file at its path, or a part of it. On failure [`Upload::abandon`] it.
    ///
    /// # Errors
    /// Where the conditions don't hold any more, or the store refuses.
    pub async fn finish(
        &mut self,
        content_type: Option<&ContentType>,
        modified_ms: u64,
        now: Instant,
    ) -> Result<Written, FileError> {
        if let Some(rest) = self.chunker.poll_rest() {
            self.put(rest).await?;
        }
        while let Some(put) = self.in_flight.next().await {
            put?;
        }
        self.maybe_renew(now).await?;
        let written = self.name(content_type, modified_ms).await?;
        // It is done. What is left is to say so, and a collector would do it where this fails.
        if self.chunker.size() == 0 {
            let _ = self.forget().await;
        } else if record::settle(&mut self.asker, self.id, &self.path).await == Err(FileError::Changed) {
            // This process stood still for minutes, and its upload was taken for abandoned: that must not look well.
            return Err(FileError::Changed);
        }
        Ok(written)
    }

    /// Removes what it has written, unless the file may be made of it. What this can't do a collector will.
    pub async fn abandon(mut self) {
        if self.may_be_named {
            return;
        }
        // What is on its way must have arrived before it is deleted.
        while self.in_flight.next().await.is_some() {}
        if delete_chunks(self.asker.store(), self.id, self.chunks).await.is_ok() {
            let _ = self.forget().await;
        }
    }

    async fn put(&mut self, chunk: Blob) -> Result<(), FileError> {
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            if let Some(put) = self.in_flight.next().await {
                put?;
            }
        }
        let key = self.id.chunk_key(self.chunks);
        self.chunks += 1;
        if self.chunks > u64::from(u32::MAX) {
            return Err(FileError::TooLarge("the file would have more chunks than can be counted".to_owned()));
        }
        self.in_flight.push(Box::pin(put_chunk(self.asker.store().clone(), key, chunk)));
        // It begins now, and not when somebody waits for it; what is done already makes room.
        while let Some(Some(put)) = self.in_flight.next().now_or_never() {
            put?;
        }
        Ok(())
    }

    /// Shows collectors that this upload lives.
    async fn maybe_renew(&mut self, now: Instant) -> Result<(), FileError> {
        if now.since(self.renewed) < RENEW_AFTER {
            return Ok(());
        }
        record::change(&mut self.asker, self.id, |record| match record {
            Some(record) if record.state == State::Uploading => Ok(Some(record.become_state(State::Uploading))),
            // It was taken for abandoned: its chunks may be gone.
            _ => Err(FileError::Busy),
        })
        .await?;
        self.renewed = now;
        Ok(())
    }

    /// Writes the manifest.
    async fn name(&mut self, content_type: Option<&ContentType>, modified_ms: u64) -> Result<Written, FileError> {
        for _ in 0..ATTEMPTS_MAX {
            let entry = self.asker.entry(&self.path).await?;
            self.conditions.check(entry.as_ref())?;
            let mut segments = base(self.placement, entry.as_ref())?;
            let kept = segments.len();
            segments.extend(self.segment());
            let kind = content_type.cloned().or_else(|| match (&entry, self.placement) {
                (Some(entry), Placement::AppendAt(_)) => entry.manifest.content_type(),
                _ => None,
            });
            let manifest = Manifest::new(segments, kind.as_ref(), modified_ms);
            if manifest.size > FILE_BYTES_MAX {
                return Err(FileError::TooLarge(format!("a file has {FILE_BYTES_MAX} bytes at most")));
            }
            if let Some(entry) = entry.as_ref().filter(|_| kept == 0) {
                for segment in &entry.manifest.segments {
                    record::retire(&mut self.asker, segment.upload, &self.path).await?;
                }
            }
            let (bytes, kind) = manifest.to_value();
            self.may_be_named = true;
            let version = entry.map(|entry| entry.version);
            match self.asker.set(self.path.key(), bytes, kind, version).await {
                Ok(Set::Done { created, copies, .. }) => return Ok(Written { manifest, created, copies }),
                Ok(Set::Lost) => self.may_be_named = false,
                Err(error) => {
                    self.may_be_named = is_unknown(&error);
                    return Err(error);
                }
            }
        }
        Err(FileError::Busy)
    }

    fn segment(&self) -> Option<Segment> {
        let (upload, size, chunk) = (self.id, self.chunker.size(), self.chunk_bytes as u64);
        (size > 0).then(|| Segment { upload, size, chunk, hash: self.chunker.hash() })
    }

    /// Removes the record of an upload without chunks.
    async fn forget(&mut self) -> Result<(), FileError> {
        match record::read(&mut self.asker, self.id).await? {
            Some((record, version)) if record.state == State::Uploading => {
                self.asker.unset(self.id.key(), version).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

/// The segments that stay in front of what is uploaded.
fn base(placement: Placement, entry: Option<&Entry>) -> Result<Vec<Segment>, FileError> {
    let (at, segments) = match (placement, entry) {
        (Placement::Replace, _) => return Ok(Vec::new()),
        (Placement::AppendAt(at), None) => (at, Vec::new()),
        (Placement::AppendAt(at), Some(entry)) => (at, entry.manifest.segments.clone()),
    };
    let size: u64 = segments.iter().map(|segment| segment.size).sum();
    if at != size {
        return Err(FileError::Conflict(format!(
            "the file has {size} bytes; bytes can be added behind them, not at {at}"
        )));
    }
    if segments.len() >= SEGMENTS_MAX {
        return Err(FileError::TooLarge(format!(
            "the file was appended to {SEGMENTS_MAX} times; write it anew to go on"
        )));
    }
    Ok(segments)
}

fn is_unknown(error: &FileError) -> bool {
    matches!(error, FileError::Store(error) if error.outcome() == crate::api::Outcome::Unknown)
        || *error == FileError::Unexpected
}

/// Deletes the first `chunks` chunks of an upload.
pub(super) async fn delete_chunks<S: Store>(store: &S, upload: UploadId, chunks: u64) -> Result<(), FileError> {
    let deletes = (0..chunks).map(|index| delete_chunk(store.clone(), upload.chunk_key(index)));
    let mut deletes = futures_util::stream::iter(deletes).buffer_unordered(IN_FLIGHT_MAX);
    while let Some(deleted) = deletes.next().await {
        deleted?;
    }
    Ok(())
}
