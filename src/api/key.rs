//! Keys and content types, checked when they are made.

use std::fmt;
use std::sync::Arc;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use thiserror::Error;

use crate::base::{Blob, borrow_decode_bytes, decode_bytes, encode_bytes, limits};

/// A key: UTF-8, 1 to 1024 bytes. A clone shares the bytes, which lie beside the count of those who share them: every write
/// shares its key a few times. Keys order by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

/// What keys begin with that the gateway makes for itself, the chunks of files among them: a character that is none
/// (Unicode keeps U+10FFFF for the inner use of programs), and that sorts behind all others. Listings and the feed leave such
/// keys out, unless they are asked for by a prefix that begins with it.
pub const RESERVED: &str = "\u{10FFFF}";

/// Why bytes are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Zero bytes.
    #[error("the key is empty; a key has 1 to 1024 bytes")]
    Empty,
    /// More than the limit.
    #[error("the key has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
    /// Not text.
    #[error("the key is not UTF-8 (first bad byte at {at})")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
}

impl Key {
    /// A key of these bytes.
    ///
    /// # Errors
    /// Where they are none, too many, or not UTF-8.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let bytes = bytes.as_ref();
        match bytes.len() {
            0 => return Err(KeyError::Empty),
            count if count > limits::KEY_BYTES_MAX => {
                return Err(KeyError::TooLong { bytes: count, bytes_max: limits::KEY_BYTES_MAX });
            }
            _ => {}
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(Self(Arc::from(bytes))),
            Err(error) => Err(KeyError::NotUtf8 { at: error.valid_up_to() }),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is one that the gateway makes for itself.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED.as_bytes())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a key was checked to be UTF-8 when it was made")
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl Encode for Key {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encode_bytes(&self.0, encoder)
    }
}

impl<Context> Decode<Context> for Key {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        decode_bytes(decoder, |bytes| Self::new(bytes))?.map_err(|_| DecodeError::Other("not a key"))
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for Key {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        borrow_decode_bytes(decoder, |bytes| Self::new(bytes))?.map_err(|_| DecodeError::Other("not a key"))
    }
}

/// The types of most values, which need no memory for each value.
const WELL_KNOWN: [&str; 5] = [
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/json",
    "text/plain",
    "text/plain; charset=utf-8",
];

/// A content type, kept as it came: visible ASCII and spaces, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Encode)]
pub struct ContentType(Blob);

impl ContentType {
    /// How many types [`ContentType::well_known_index`] knows.
    pub const WELL_KNOWN: usize = WELL_KNOWN.len();

    /// The content type that `text` names; `None` where it is no header value or too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= limits::CONTENT_TYPE_BYTES_MAX;
        let visible = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        (fits && visible).then(|| Self(Self::well_known(text).unwrap_or_else(|| Blob::from(text.as_bytes()))))
    }

    fn well_known(text: &str) -> Option<Blob> {
        WELL_KNOWN.iter().find(|known| **known == text).map(|known| Blob::from_static(known.as_bytes()))
    }

    /// Which of the types of most values it is, for [`ContentType::of_well_known`]: good within one process only.
    #[must_use]
    pub fn well_known_index(&self) -> Option<u8> {
        WELL_KNOWN.iter().position(|known| *known == self.as_str()).and_then(|index| u8::try_from(index).ok())
    }

    /// The content type of this index.
    #[must_use]
    pub fn of_well_known(index: u8) -> Option<Self> {
        WELL_KNOWN.get(usize::from(index)).map(|known| Self(Blob::from_static(known.as_bytes())))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a content type was checked to be ASCII when it was made")
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<Context> Decode<Context> for ContentType {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let blob = Blob::decode(decoder)?;
        std::str::from_utf8(&blob).ok().and_then(Self::new).ok_or(DecodeError::Other("not a content type"))
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for ContentType {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let blob = Blob::borrow_decode(decoder)?;
        std::str::from_utf8(&blob).ok().and_then(Self::new).ok_or(DecodeError::Other("not a content type"))
    }
}
