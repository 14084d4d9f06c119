//! Bytes that are cheap to share.

use std::fmt;

use bincode::de::read::Reader;
use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use bytes::Bytes;

use super::lending::{self, LENT_BYTES_MIN};

/// An immutable run of bytes; a clone shares it. On the wire: its length, then the bytes, which are copied once each way unless
/// they are many ([`lending`]).
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(pub Bytes);

impl Blob {
    /// A blob of bytes that live as long as the program.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// A blob of bytes that are being read: shared with what they lie in, or else copied.
    fn read(bytes: &[u8]) -> Self {
        let shared = if bytes.len() < LENT_BYTES_MIN { None } else { lending::shared(bytes) };
        shared.map_or_else(|| Self::from(bytes), Self)
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::from(bytes))
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        if self.len() < LENT_BYTES_MIN {
            return encode_bytes(self, encoder);
        }
        encode_length(self, encoder)?;
        lending::lend(&self.0, || encoder.writer().write(self))
    }
}

impl<Context> Decode<Context> for Blob {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        decode_bytes(decoder, Self::read)
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for Blob {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        borrow_decode_bytes(decoder, Self::read)
    }
}

/// Writes the length of `bytes`, and them.
///
/// # Errors
/// Where the encoder has no room.
pub fn encode_bytes<E: Encoder>(bytes: &[u8], encoder: &mut E) -> Result<(), EncodeError> {
    encode_length(bytes, encoder)?;
    encoder.writer().write(bytes)
}

fn encode_length<E: Encoder>(bytes: &[u8], encoder: &mut E) -> Result<(), EncodeError> {
    (bytes.len() as u64).encode(encoder)
}

/// Reads what [`encode_bytes`] has written, and has `make` make something of it.
///
/// # Errors
/// Where there are fewer bytes, or more than the decoder may allocate.
pub fn decode_bytes<D: Decoder, T>(decoder: &mut D, make: impl Fn(&[u8]) -> T) -> Result<T, DecodeError> {
    let length = claimed_length(decoder)?;
    // A reader over a slice shows the bytes in place: a length that isn't there allocates nothing.
    if let Some(made) = decoder.reader().peek_read(length).map(&make) {
        decoder.reader().consume(length);
        return Ok(made);
    }
    // The limit has been charged with `length` before anything of that size is allocated.
    let mut bytes = vec![0; length];
    decoder.reader().read(&mut bytes)?;
    Ok(make(&bytes))
}

/// The same, of a decoder whose bytes outlive it.
///
/// # Errors
/// As for [`decode_bytes`].
pub fn borrow_decode_bytes<'de, D: BorrowDecoder<'de>, T>(
    decoder: &mut D,
    make: impl FnOnce(&[u8]) -> T,
) -> Result<T, DecodeError> {
    use bincode::de::read::BorrowReader;
    let length = claimed_length(decoder)?;
    Ok(make(decoder.borrow_reader().take_bytes(length)?))
}

/// Reads a length and charges it to the decoder's byte limit.
fn claimed_length<D: Decoder>(decoder: &mut D) -> Result<usize, DecodeError> {
    let length = u64::decode(decoder)?;
    let length = usize::try_from(length).map_err(|_| DecodeError::LimitExceeded)?;
    decoder.claim_bytes_read(length)?;
    Ok(length)
}

impl fmt::Debug for Blob {
    /// Text as text, anything else as its length: values may be large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if text.len() <= 64 => write!(f, "{text:?}"),
            _ => write!(f, "<{} bytes>", self.0.len()),
        }
    }
}
