//! Bytes to chunks, and a range of a file to parts of its chunks.

use std::ops::Range;

use super::manifest::{Manifest, hex};
use super::record::UploadId;
use crate::base::Blob;

/// Cuts a stream of bytes into chunks of one size, the last one aside, and hashes it.
///
/// ```text
/// handle_bytes ─▶ (a part of them is taken) ─▶ poll_chunk ─▶ a whole chunk
///                                              finish ─────▶ the rest
/// ```
#[derive(Debug)]
pub struct Chunker {
    chunk_bytes: usize,
    filling: Vec<u8>,
    hasher: blake3::Hasher,
    size: u64,
}

impl Chunker {
    /// One that makes chunks of so many bytes, at least one.
    #[must_use]
    pub fn new(chunk_bytes: usize) -> Self {
        Self { chunk_bytes: chunk_bytes.max(1), filling: Vec::new(), hasher: blake3::Hasher::new(), size: 0 }
    }

    /// Takes as many of these bytes as the current chunk has room for, and tells how many that were. Where it took none, a
    /// chunk waits in [`Chunker::poll_chunk`].
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.chunk_bytes - self.filling.len());
        if self.filling.capacity() < self.filling.len() + taken {
            // A small file must not take a whole chunk's memory, and a large one not be copied at every doubling.
            let wanted = if self.filling.is_empty() { taken } else { self.chunk_bytes };
            self.filling.reserve_exact(wanted - self.filling.len());
        }
        self.filling.extend_from_slice(&bytes[..taken]);
        self.hasher.update(&bytes[..taken]);
        self.size += taken as u64;
        taken
    }

    /// The current chunk, where it is full.
    pub fn poll_chunk(&mut self) -> Option<Blob> {
        (self.filling.len() == self.chunk_bytes).then(|| self.take())
    }

    /// What is left, after the last byte.
    pub fn poll_rest(&mut self) -> Option<Blob> {
        (!self.filling.is_empty()).then(|| self.take())
    }

    /// Bytes that it has taken so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The hash of the bytes that it has taken so far, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hex(&self.hasher.finalize())
    }

    fn take(&mut self) -> Blob {
        let mut chunk = std::mem::take(&mut self.filling);
        // It stays for as long as the file; spare capacity would stay with it.
        chunk.shrink_to_fit();
        Blob::from(chunk)
    }
}

/// A part of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of which upload.
    pub upload: UploadId,
    /// Which chunk of it, from 0.
    pub index: u64,
    /// How many bytes that chunk must have.
    pub chunk_bytes: u64,
    /// Which of them are meant.
    pub part: Range<usize>,
}

/// The parts of chunks that the bytes `range` of a file are, in order. What of the range lies behind the end is left out.
pub fn pieces(manifest: &Manifest, range: Range<u64>) -> impl Iterator<Item = Piece> + Send + 'static {
    let mut start_of_segment = 0;
    let segments: Vec<_> = manifest
        .segments
        .iter()
        .map(|segment| {
            let start = start_of_segment;
            start_of_segment += segment.size;
            (segment.upload, segment.size, segment.chunk, start)
        })
        .collect();
    segments.into_iter().flat_map(move |(upload, size, chunk, start)| {
        // Bytes of this segment, counted from its own start.
        let first = range.start.saturating_sub(start).min(size);
        let end = range.end.saturating_sub(start).min(size);
        let indices = if first < end { first / chunk..end.div_ceil(chunk) } else { 0..0 };
        indices.map(move |index| {
            let at = index * chunk;
            let chunk_bytes = chunk.min(size - at);
            let part = first.saturating_sub(at) as usize..(end - at).min(chunk_bytes) as usize;
            Piece { upload, index, chunk_bytes, part }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::files::Segment;

    proptest! {
        #[test]
        fn any_bytes_in_any_split_are_cut_and_any_range_of_them_is_that_slice(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..12),
            cuts in prop::collection::vec(0_usize..12, 0..4),
            chunk_bytes in 1_usize..40,
            from in 0_u64..700,
            length in 0_u64..700,
        ) {
            let whole = parts.concat();
            let (mut stored, mut segments) = (BTreeMap::new(), Vec::new());
            // Each run of parts between two cuts is an upload of its own, as if the second appended to the first.
            let mut groups = vec![Vec::new()];
            for (nth, part) in parts.iter().enumerate() {
                if cuts.contains(&nth) {
                    groups.push(Vec::new());
                }
                groups.last_mut().expect("there is one").push(part.clone());
            }
            for (upload, group) in groups.iter().enumerate() {
                let (mut chunker, mut index) = (Chunker::new(chunk_bytes), 0);
                let upload = UploadId(upload as u128);
                let mut keep = |chunk: Option<Blob>| if let Some(chunk) = chunk {
                    assert!(chunk.len() <= chunk_bytes);
                    stored.insert((upload, index), chunk);
                    index += 1;
                };
                for part in group {
                    let mut rest = part.as_slice();
                    while !rest.is_empty() {
                        let taken = chunker.handle_bytes(rest);
                        rest = &rest[taken..];
                        keep(chunker.poll_chunk());
                    }
                }
                keep(chunker.poll_rest());
                prop_assert_eq!(chunker.hash(), hex(&blake3::hash(&group.concat())));
                if chunker.size() > 0 {
                    let (size, chunk) = (chunker.size(), chunk_bytes as u64);
                    segments.push(Segment { upload, size, chunk, hash: chunker.hash() });
                }
            }
            let manifest = Manifest::new(segments, None, 0);
            prop_assert_eq!(manifest.size, whole.len() as u64);
            let mut read = Vec::new();
            for piece in pieces(&manifest, from..from.saturating_add(length)) {
                let chunk = &stored[&(piece.upload, piece.index)];
                prop_assert_eq!(chunk.len() as u64, piece.chunk_bytes);
                prop_assert!(!piece.part.is_empty());
                read.extend_from_slice(&chunk[piece.part]);
            }
            let from = (from as usize).min(whole.len());
            let end = (from + length as usize).min(whole.len());
            prop_assert_eq!(read, &whole[from..end]);
        }
    }

    #[test]
    fn a_small_file_takes_no_more_memory_than_it_has_bytes() {
        let mut chunker = Chunker::new(1 << 20);
        assert_eq!(chunker.handle_bytes(b"hello"), 5);
        let bytes: Vec<u8> = chunker.poll_rest().expect("five bytes").0.into();
        assert_eq!(bytes.capacity(), 5);
    }
}
