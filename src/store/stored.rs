//! A record as it lies in memory.
//!
//! Most values are small, and then what surrounds them is what memory goes to: a handle for the key, one for the value,
//! one for the content type, and for each a piece of memory of its own. So a small record is *packed*: one piece of
//! memory that holds all of it.
//!
//! ```text
//!   0  version, key's length    8 bytes, little-endian like the others: 53 bits and 11
//!   8  hash, type, whether it   8 bytes: 56 bits, 7 and 1. The type is that of the content: 0 none, 1 a text that
//!      runs out                   follows, 2 and more a well-known one
//!  16  when it runs out         8 bytes, where it does
//!      type's length            1 byte, where a text follows
//!      key, content type, value
//! ```
//!
//! A large value stays in the buffer that it came in, which tail, ring and socket share: copying it would cost more than
//! the handles do. So does a record whose numbers are too large for these bits, which no honest node makes.

use std::cmp::Ordering;
use std::fmt;
use std::hint::black_box;

use super::Record;
use super::digest::RecordHash;
use crate::api::{ContentType, Key, Value};
use crate::base::{Blob, Instant, Version, limits};

/// A value of at most so many bytes is packed. To copy as many takes about as long as to share them.
const PACKED_VALUE_BYTES_MAX: usize = 1024;
const HEADER_BYTES: usize = 16;
const KEY_LENGTH_BITS: u32 = 11;
const FLAG_BITS: u32 = 8;
const EXPIRES: u8 = 1;
/// The content type, beside [`EXPIRES`] in the flags: a text that follows, or the first of the well-known ones.
const TYPE_FOLLOWS: u8 = 1 << 1;
const TYPE_WELL_KNOWN: u8 = 2 << 1;

const _: () = assert!(limits::KEY_BYTES_MAX < 1 << KEY_LENGTH_BITS);
const _: () = assert!(ContentType::WELL_KNOWN < 126);

/// What the allocator keeps of each piece of memory, and rounds it up by, about.
const PIECE_BYTES: usize = 16;
/// A place in the table's index: 16 bytes and a mark in runs that are nine tenths full, and what a run has beside them.
const PLACE_BYTES: usize = 24;
/// A place in the index of deadlines: the deadline and a handle, in nodes that are two thirds full, and the key's own piece.
const DEADLINE_BYTES: usize = 80 + PIECE_BYTES;

/// What a small record without a deadline is accounted with, beyond its key, its value and its content type if that isn't a
/// common one.
pub const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + PIECE_BYTES + PLACE_BYTES;

/// A key, its record, and the hash that this had when it was put in. Stored records order by their keys.
#[derive(Clone)]
pub struct Stored(Form);

#[derive(Clone)]
enum Form {
    Packed(Box<[u8]>),
    Shared(Box<Shared>),
}

#[derive(Clone)]
struct Shared {
    key: Key,
    record: Record,
    hash: RecordHash,
}

impl Stored {
    /// The record of `key`, with its hash.
    #[must_use]
    pub fn new(key: &Key, record: Record) -> Self {
        let hash = RecordHash::of(key, &record);
        Self::with_hash(key, record, hash)
    }

    /// The same under a hash that another copy gave it.
    #[must_use]
    pub fn with_hash(key: &Key, record: Record, hash: RecordHash) -> Self {
        let fits = record.value.len() <= PACKED_VALUE_BYTES_MAX
            && record.version.0 >> (u64::BITS - KEY_LENGTH_BITS) == 0
            && hash.0 >> (u64::BITS - FLAG_BITS) == 0;
        if !fits {
            return Self(Form::Shared(Box::new(Shared { key: key.clone(), record, hash })));
        }
        let Record { value, content_type, version, expires_at } = record;
        let deadline = expires_at.map(|at| at.0.to_le_bytes());
        let (kind, kind_text) = match &content_type {
            None => (0, ""),
            Some(kind) => match kind.well_known_index() {
                Some(index) => (TYPE_WELL_KNOWN + (index << 1), ""),
                None => (TYPE_FOLLOWS, kind.as_str()),
            },
        };
        let kind_length = (kind == TYPE_FOLLOWS).then(|| [byte_length(kind_text)]);
        let flags = kind | if deadline.is_some() { EXPIRES } else { 0 };
        let parts: [&[u8]; 7] = [
            &(version.0 << KEY_LENGTH_BITS | key.as_bytes().len() as u64).to_le_bytes(),
            &(hash.0 << FLAG_BITS | u64::from(flags)).to_le_bytes(),
            deadline.as_ref().map_or(&[], |bytes| bytes),
            kind_length.as_ref().map_or(&[], |bytes| bytes),
            key.as_bytes(),
            kind_text.as_bytes(),
            &value,
        ];
        // `concat` allocates once, and no more than is needed.
        Self(Form::Packed(parts.concat().into_boxed_slice()))
    }

    /// Its key's bytes.
    #[must_use]
    #[inline]
    pub fn key_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Packed(bytes) => &bytes[key_start(bytes)..key_end(bytes)],
            Form::Shared(shared) => shared.key.as_bytes(),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Key {
        match &self.0 {
            Form::Packed(_) => Key::new(self.key_bytes()).expect("what was packed was a key"),
            Form::Shared(shared) => shared.key.clone(),
        }
    }

    /// Its value's bytes.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &[u8] {
        match &self.0 {
            Form::Packed(bytes) => &bytes[key_end(bytes) + kind_length(bytes)..],
            Form::Shared(shared) => &shared.record.value,
        }
    }

    /// The same to keep.
    #[must_use]
    #[inline]
    pub fn to_blob(&self) -> Blob {
        match &self.0 {
            Form::Packed(_) => Blob::from(self.value()),
            Form::Shared(shared) => shared.record.value.clone(),
        }
    }

    /// Its version.
    #[must_use]
    #[inline]
    pub fn version(&self) -> Version {
        match &self.0 {
            Form::Packed(bytes) => Version(number(bytes) >> KEY_LENGTH_BITS),
            Form::Shared(shared) => shared.record.version,
        }
    }

    /// The hash that it was put in with.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        match &self.0 {
            Form::Packed(bytes) => RecordHash(number(&bytes[8..]) >> FLAG_BITS),
            Form::Shared(shared) => shared.hash,
        }
    }

    /// When it runs out, on this replica's own clock.
    #[must_use]
    #[inline]
    pub fn expires_at(&self) -> Option<Instant> {
        match &self.0 {
            Form::Packed(bytes) => (flags(bytes) & EXPIRES != 0).then(|| Instant(number(&bytes[HEADER_BYTES..]))),
            Form::Shared(shared) => shared.record.expires_at,
        }
    }

    /// The content type that it was stored with.
    #[must_use]
    #[inline]
    pub fn content_type(&self) -> Option<ContentType> {
        match &self.0 {
            Form::Packed(bytes) => match kind(bytes) {
                0 => None,
                TYPE_FOLLOWS => {
                    let text = &bytes[key_end(bytes)..key_end(bytes) + kind_length(bytes)];
                    ContentType::new(std::str::from_utf8(text).ok()?)
                }
                well_known => ContentType::of_well_known((well_known - TYPE_WELL_KNOWN) >> 1),
            },
            Form::Shared(shared) => shared.record.content_type.clone(),
        }
    }

    /// Whether its time has run out. An expired record reads as absent at once; its delete is replicated behind.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|deadline| deadline <= now)
    }

    /// Milliseconds that it has left, rounded up so that no copy lets go of it early.
    #[must_use]
    #[inline]
    pub fn ttl_ms(&self, now: Instant) -> Option<u64> {
        let left = self.expires_at()?.since(now).as_nanos().div_ceil(1_000_000);
        Some(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// Reads a byte at its beginning and one at its end, which brings a small record into the processor's cache.
    pub(super) fn touch(&self) {
        if let Form::Packed(bytes) = &self.0 {
            black_box((bytes.first().copied(), bytes.last().copied()));
        }
    }

    /// Its hash as it is now, which is another one than [`Stored::hash`] where bits have flipped.
    #[must_use]
    pub fn rehash(&self) -> RecordHash {
        let content_type = self.content_type();
        let content_type = content_type.as_ref().map(ContentType::as_str);
        let expires = self.expires_at().is_some();
        RecordHash::of_parts(self.key_bytes(), self.value(), content_type, self.version(), expires)
    }

    /// Whether it is what it was when it was put in.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.rehash() == self.hash()
    }

    /// It, as clients are shown it.
    #[must_use]
    #[inline]
    pub fn to_value(&self, now: Instant, stale: bool) -> Value {
        Value {
            bytes: self.to_blob(),
            version: self.version(),
            content_type: self.content_type(),
            expires_in_ms: self.ttl_ms(now),
            stale,
            degraded: false,
        }
    }

    /// It, without its key and its hash.
    #[must_use]
    pub fn to_record(&self) -> Record {
        Record {
            value: self.to_blob(),
            content_type: self.content_type(),
            version: self.version(),
            expires_at: self.expires_at(),
        }
    }

    /// What it is accounted with: about what it takes of memory, its places in the indices included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let deadline = if self.expires_at().is_some() { self.key_bytes().len() + DEADLINE_BYTES } else { 0 };
        let pieces = match &self.0 {
            Form::Packed(bytes) => bytes.len() + PIECE_BYTES,
            Form::Shared(shared) => {
                let kind = shared.record.content_type.as_ref().map_or(0, |kind| kind.as_str().len() + PIECE_BYTES);
                size_of::<Shared>() + shared.key.as_bytes().len() + shared.record.value.len() + kind + 3 * PIECE_BYTES
            }
        };
        PLACE_BYTES + pieces + deadline
    }

    /// The same record with a bit of its value flipped, for tests; none where it has no bit.
    #[cfg(feature = "sim")]
    pub(super) fn rotten(mut self) -> Result<Self, Self> {
        if self.value().is_empty() {
            return Err(self);
        }
        let length = self.value().len();
        match &mut self.0 {
            Form::Packed(bytes) => {
                let first = bytes.len() - length;
                bytes[first] ^= 1;
            }
            Form::Shared(shared) => {
                let mut bytes = shared.record.value.to_vec();
                bytes[0] ^= 1;
                shared.record.value = Blob::from(bytes);
            }
        }
        Ok(self)
    }

    /// The same record with a bit of its hash flipped, for tests.
    #[cfg(feature = "sim")]
    pub(super) fn with_rotten_hash(mut self) -> Self {
        match &mut self.0 {
            Form::Packed(bytes) => bytes[9] ^= 1,
            Form::Shared(shared) => shared.hash.0 ^= 1,
        }
        self
    }
}

fn byte_length(text: &str) -> u8 {
    u8::try_from(text.len()).expect("a content type has at most 255 bytes")
}

/// Where the key of a packed record begins: behind the header, the deadline and its type's length.
#[inline]
fn key_start(bytes: &[u8]) -> usize {
    HEADER_BYTES + 8 * usize::from(flags(bytes) & EXPIRES) + usize::from(kind(bytes) == TYPE_FOLLOWS)
}

#[inline]
fn key_length(bytes: &[u8]) -> usize {
    number(bytes) as usize & ((1 << KEY_LENGTH_BITS) - 1)
}

/// Where its content type begins, if that is a text, and else its value.
#[inline]
fn key_end(bytes: &[u8]) -> usize {
    key_start(bytes) + key_length(bytes)
}

#[inline]
fn kind_length(bytes: &[u8]) -> usize {
    if kind(bytes) == TYPE_FOLLOWS { usize::from(bytes[key_start(bytes) - 1]) } else { 0 }
}

#[inline]
fn flags(bytes: &[u8]) -> u8 {
    bytes[8]
}

/// Which content type it has: 0, [`TYPE_FOLLOWS`], or [`TYPE_WELL_KNOWN`] and more.
#[inline]
fn kind(bytes: &[u8]) -> u8 {
    flags(bytes) & !EXPIRES
}

/// The first eight bytes as a number.
#[inline]
fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

impl Ord for Stored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key_bytes().cmp(other.key_bytes())
    }
}

impl PartialOrd for Stored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Stored {
    /// Of the same key, as in [`Ord`].
    fn eq(&self, other: &Self) -> bool {
        self.key_bytes() == other.key_bytes()
    }
}

impl Eq for Stored {}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stored").field(&self.key()).field(&self.to_record()).field(&self.hash()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<(Key, Record)> {
        let kinds = ["application/json", "image/x-of-our-own"].map(ContentType::new);
        assert!(kinds.iter().all(Option::is_some));
        let values = [0, 1, 128, PACKED_VALUE_BYTES_MAX, PACKED_VALUE_BYTES_MAX + 1, 100_000];
        let mut records = Vec::new();
        for name in ["k", "Grüße/1", &"n".repeat(1024)] {
            for content_type in [None].into_iter().chain(kinds.clone()) {
                for expires_at in [None, Some(Instant(77)), Some(Instant::FAR)] {
                    for length in values {
                        let value = Blob::from((0..length).map(|nth| nth as u8).collect::<Vec<_>>());
                        let version = Version(records.len() as u64 + 1);
                        let content_type = content_type.clone();
                        let key = name.parse().expect("a key");
                        records.push((key, Record { value, content_type, version, expires_at }));
                    }
                }
            }
        }
        records
    }

    #[test]
    fn what_is_put_in_comes_out() {
        for (key, record) in records() {
            let stored = Stored::new(&key, record.clone());
            assert_eq!((stored.key(), stored.to_record()), (key.clone(), record.clone()));
            assert_eq!((stored.key_bytes(), stored.value()), (key.as_bytes(), &record.value[..]));
            assert_eq!((stored.hash(), stored.is_sound()), (RecordHash::of(&key, &record), true));
            let other = Stored::with_hash(&key, record, RecordHash(7));
            assert_eq!((other.hash(), other.rehash(), other.is_sound()), (RecordHash(7), stored.hash(), false));
        }
    }

    #[test]
    fn a_small_record_is_one_piece_of_memory_and_a_handle_of_two_words() {
        assert_eq!(size_of::<Stored>(), 16);
        let key: Key = "0123456789abcdef".parse().expect("a key");
        let of = |expires_at, content_type: Option<&str>| {
            let (value, content_type) = (Blob::from(vec![7; 128]), content_type.and_then(ContentType::new));
            Stored::new(&key, Record { value, content_type, version: Version(1), expires_at })
        };
        let plain = of(None, None).bytes();
        assert_eq!(plain, 16 + 128 + RECORD_OVERHEAD_BYTES);
        assert!(plain * 10 <= (16 + 128) * 16, "{plain} bytes are more than 1.6 times what is stored");
        assert_eq!(of(None, Some("application/json")).bytes(), plain, "a common type takes no room");
        assert_eq!(of(None, Some("x/y")).bytes(), plain + 4);
        assert_eq!(of(Some(Instant(1)), None).bytes(), plain + 8 + 16 + DEADLINE_BYTES);
    }

    /// Another node's word, which may be wrong.
    #[test]
    fn numbers_that_are_too_large_to_be_packed_are_kept_all_the_same() {
        let key: Key = "k".parse().expect("a key");
        for number in [1 << 53, 1 << 56, u64::MAX] {
            let record =
                Record { value: Blob::from(vec![7]), content_type: None, version: Version(number), expires_at: None };
            let stored = Stored::with_hash(&key, record, RecordHash(number));
            assert_eq!((stored.version(), stored.hash()), (Version(number), RecordHash(number)));
        }
        assert_eq!(RecordHash::of_parts(b"k", b"v", None, Version(1), false).0 >> 56, 0);
    }

    #[test]
    fn a_large_value_is_shared() {
        let key: Key = "k".parse().expect("a key");
        let value = Blob::from(vec![7; PACKED_VALUE_BYTES_MAX + 1]);
        let record = Record { value: value.clone(), content_type: None, version: Version(1), expires_at: None };
        let stored = Stored::new(&key, record);
        assert_eq!(stored.to_blob().as_ptr(), value.as_ptr());
        assert_eq!(stored.to_value(Instant::ZERO, false).bytes.as_ptr(), value.as_ptr());
    }
}
