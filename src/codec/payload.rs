//! What a frame carries, in pieces: bytes that were written here, and large values that stay where they are.

use bincode::Encode;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bytes::Bytes;

use super::CodecError;
use super::door::encode_with;
use super::fields::put;
use super::frame::{LENGTH_BYTES, MESSAGE_BYTES_MAX};
use crate::base::lending::{LENT_BYTES_MIN, lent};

/// The payload of a frame while messages are put into it.
///
/// Invariant: what is kept lies at rising places of what is written.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    written: Vec<u8>,
    kept: Vec<Kept>,
    kept_bytes: usize,
}

/// Bytes that aren't copied.
#[derive(Clone, Debug)]
struct Kept {
    /// How many of the written bytes come before them.
    at: usize,
    bytes: Bytes,
}

/// Where a payload ended at a time.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    written: usize,
    kept: usize,
}

impl Payload {
    /// How long it is.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.written.len() + self.kept_bytes
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how many bytes it has memory of its own.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.written.capacity()
    }

    /// Its bytes, in order; no piece is empty.
    #[inline]
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        Pieces { written: &self.written, at: 0, kept: self.kept.iter(), due: None }
    }

    /// Its bytes, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().collect::<Vec<_>>().concat()
    }

    /// Takes everything out of it, and keeps the memory that it has.
    pub fn clear(&mut self) {
        self.truncate(Mark { written: 0, kept: 0 });
    }

    /// Appends one message, with its length before it.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] where it has more than [`MESSAGE_BYTES_MAX`] bytes; the payload is as before then.
    pub fn append<T: Encode>(&mut self, message: &T) -> Result<(), CodecError> {
        let mark = self.mark();
        put(&mut self.written, [0; LENGTH_BYTES]);
        let start = self.len();
        let appender = Appender { payload: self, room: MESSAGE_BYTES_MAX };
        if let Err(error) = encode_with(message, appender, MESSAGE_BYTES_MAX) {
            self.truncate(mark);
            return Err(error);
        }
        let length = (self.len() - start) as u32;
        self.written[mark.written..mark.written + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// Appends these bytes without copying them, where their handle is lent.
    #[cold]
    fn keep(&mut self, bytes: &[u8]) -> bool {
        let Some(bytes) = lent(bytes) else { return false };
        self.kept_bytes += bytes.len();
        self.kept.push(Kept { at: self.written.len(), bytes });
        true
    }

    /// Where it ends now.
    #[inline]
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { written: self.written.len(), kept: self.kept.len() }
    }

    /// Takes off what was appended since.
    pub fn truncate(&mut self, mark: Mark) {
        self.written.truncate(mark.written);
        self.kept_bytes -= self.kept.drain(mark.kept..).map(|kept| kept.bytes.len()).sum::<usize>();
    }

    /// Takes off what was appended since, and gives it.
    #[must_use]
    pub fn split_off(&mut self, mark: Mark) -> Self {
        let mut kept = self.kept.split_off(mark.kept);
        kept.iter_mut().for_each(|kept| kept.at -= mark.written);
        let kept_bytes = kept.iter().map(|kept| kept.bytes.len()).sum();
        self.kept_bytes -= kept_bytes;
        Self { written: self.written.split_off(mark.written), kept, kept_bytes }
    }
}

/// What is left of a payload's pieces. Most payloads have one.
struct Pieces<'a> {
    written: &'a [u8],
    /// How many of the written bytes have been given.
    at: usize,
    kept: std::slice::Iter<'a, Kept>,
    /// Kept bytes whose turn is next.
    due: Option<&'a [u8]>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(kept) = self.due.take() {
            return Some(kept);
        }
        let kept = self.kept.next();
        let end = kept.map_or(self.written.len(), |kept| kept.at);
        let written = &self.written[self.at..end];
        self.at = end;
        let kept = kept.map(|kept| &kept.bytes[..]);
        if written.is_empty() {
            return kept;
        }
        self.due = kept;
        Some(written)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self { written: bytes, kept: Vec::new(), kept_bytes: 0 }
    }
}

/// Appends to a payload until its room is used up. Keeps the handles of large values that are lent to it.
struct Appender<'a> {
    payload: &'a mut Payload,
    room: usize,
}

impl Writer for Appender<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(EncodeError::UnexpectedEnd)?;
        if bytes.len() >= LENT_BYTES_MIN && self.payload.keep(bytes) {
            return Ok(());
        }
        self.payload.written.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Blob;
    use crate::codec::{encode_into, frame};

    fn value(bytes: usize) -> Blob {
        Blob::from((0..bytes).map(|at| at as u8).collect::<Vec<_>>())
    }

    /// What the payload of these values is, byte by byte.
    fn copied(values: &[&Blob]) -> Vec<u8> {
        let mut all = Vec::new();
        for value in values {
            let mut bytes = Vec::new();
            encode_into(*value, &mut bytes).expect("it is small");
            all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn large_values_stay_where_they_are_and_the_bytes_are_the_same() {
        let values = [value(LENT_BYTES_MIN), value(7), value(100_000), value(LENT_BYTES_MIN - 1)];
        let mut payload = Payload::default();
        values.iter().for_each(|value| payload.append(value).expect("it is small"));
        let expected = copied(&values.iter().collect::<Vec<_>>());
        assert_eq!((payload.to_vec(), payload.len()), (expected.clone(), expected.len()));
        let places: Vec<_> = payload.pieces().map(<[u8]>::as_ptr).collect();
        assert_eq!(places.len(), 5);
        assert_eq!((places[1], places[3]), (values[0].as_ptr(), values[2].as_ptr()));
        let messages: Vec<_> = frame::messages(&expected).map(|message| message.expect("it is whole").len()).collect();
        assert_eq!(messages, [LENT_BYTES_MIN + 3, 8, 100_005, LENT_BYTES_MIN + 2]);
    }

    #[test]
    fn what_was_appended_last_is_taken_off_again() {
        let values = [value(20_000), value(9), value(30_000), value(40_000)];
        let mut payload = Payload::default();
        payload.append(&values[0]).expect("it is small");
        payload.append(&values[1]).expect("it is small");
        let mark = payload.mark();
        payload.append(&values[2]).expect("it is small");
        payload.append(&values[3]).expect("it is small");
        let rest = payload.split_off(mark);
        assert_eq!(payload.to_vec(), copied(&[&values[0], &values[1]]));
        assert_eq!(rest.to_vec(), copied(&[&values[2], &values[3]]));
        assert_eq!((payload.len(), rest.len()), (payload.to_vec().len(), rest.to_vec().len()));
        let mark = payload.mark();
        payload.append(&values[3]).expect("it is small");
        payload.truncate(mark);
        assert_eq!(payload.to_vec(), copied(&[&values[0], &values[1]]));
        payload.clear();
        assert_eq!((payload.len(), payload.pieces().count()), (0, 0));
    }

    #[test]
    fn a_message_that_is_too_large_leaves_it_as_it_was() {
        let mut payload = Payload::default();
        payload.append(&value(20_000)).expect("it is small");
        let before = payload.to_vec();
        let large = vec![value(MESSAGE_BYTES_MAX / 2); 2];
        assert_eq!(payload.append(&large), Err(CodecError::TooLarge { bytes_max: MESSAGE_BYTES_MAX }));
        assert_eq!(payload.to_vec(), before);
    }
}
