//! The one door to bincode.
//!
//! bincode allocates for a length before it has seen that many bytes: without a limit, a message of 12 bytes makes it ask
//! for a terabyte, and the process aborts. Its limit is a constant of the type, though, and one that fits a frame of
//! megabytes is no protection against a message of 12 bytes. So [`decode`] sets one large constant limit and charges the
//! decoder in advance with all but what this input may use, which grows with its length.

use bincode::config::{Configuration, Limit, standard};
use bincode::de::DecoderImpl;
use bincode::de::read::{Reader as _, SliceReader};
use bincode::de::{Decode, Decoder as _};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Encode, config};

use super::CodecError;
use crate::base::limits;

/// What one encoded byte may become in memory. Variable-length integers take up to 8 times their encoding and an enum or
/// an `Option` takes the room of its largest variant even where it is encoded as one byte, so a list of small things may
/// well take 20 times its encoding. Types that go through this door stay below 64 bytes of memory for each byte of the
/// *shortest* encoding of a list's element, or have so few elements that [`DECODED_BYTES_MIN`] covers them.
const DECODED_BYTES_PER_BYTE: usize = 64;

/// What any input may allocate, however short it is: a few elements of a large type.
const DECODED_BYTES_MIN: usize = 16 << 10;

/// What any input may allocate, however long it is.
const DECODED_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(DECODED_BYTES_MAX >= 4 * limits::FRAME_BYTES_MAX, "a value of the largest size must fit");

type DecodeConfig = Configuration<config::LittleEndian, config::Varint, Limit<DECODED_BYTES_MAX>>;

/// Appends the encoding of `value`.
///
/// # Errors
/// [`CodecError::TooLarge`] where it is longer than a frame may be; `out` is as before then.
pub fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    encode_capped(value, out, limits::FRAME_BYTES_MAX)
}

/// Appends the encoding of `value` if it has at most `bytes_max` bytes; leaves `out` as it was otherwise.
pub(super) fn encode_capped<T: Encode>(value: &T, out: &mut Vec<u8>, bytes_max: usize) -> Result<(), CodecError> {
    let start = out.len();
    let result = encode_with(value, CappedWriter { out, room: bytes_max }, bytes_max);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Has `writer`, which has room for `bytes_max` bytes, write the encoding of `value`.
pub(super) fn encode_with<T: Encode>(value: &T, writer: impl Writer, bytes_max: usize) -> Result<(), CodecError> {
    bincode::encode_into_writer(value, writer, standard()).map_err(|error| match error {
        EncodeError::UnexpectedEnd => CodecError::TooLarge { bytes_max },
        _ => CodecError::Unencodable,
    })
}

/// Appends to a vector until its room is used up.
struct CappedWriter<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
}

impl Writer for CappedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(EncodeError::UnexpectedEnd)?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Decodes one value, which must take all of `bytes`.
///
/// What the decoder may allocate is bounded by the length of the input: 64 times as much and 16 KiB.
/// A list whose elements have an *empty* encoding must not be decoded here: its length would be bounded by nothing.
///
/// # Errors
/// [`CodecError::Malformed`] where `bytes` is not a `T`, [`CodecError::TrailingBytes`] where it is more than one,
/// [`CodecError::TooLarge`] where it is longer than a frame may be.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > limits::FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes_max: limits::FRAME_BYTES_MAX });
    }
    let config: DecodeConfig = standard().with_limit();
    let mut decoder = DecoderImpl::new(SliceReader::new(bytes), config, ());
    let allowed = (DECODED_BYTES_MIN + DECODED_BYTES_PER_BYTE * bytes.len()).min(DECODED_BYTES_MAX);
    decoder.claim_bytes_read(DECODED_BYTES_MAX - allowed).map_err(|error| malformed(&error))?;
    let value = T::decode(&mut decoder).map_err(|error| malformed(&error))?;
    if decoder.reader().peek_read(1).is_some() {
        return Err(CodecError::TrailingBytes);
    }
    Ok(value)
}

/// The causes of a failed decoding that are worth telling apart.
fn malformed(error: &DecodeError) -> CodecError {
    CodecError::Malformed(match error {
        DecodeError::UnexpectedEnd { .. } => "it ends too early",
        DecodeError::LimitExceeded | DecodeError::OutsideUsizeRange(_) => "a length is beyond what it may be",
        DecodeError::UnexpectedVariant { .. } => "it names a variant that does not exist",
        DecodeError::Utf8 { .. } => "a text is not UTF-8",
        DecodeError::Other(what) => what,
        _ => "a value is out of its range",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<T: Encode>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_into(value, &mut bytes).expect("it is small");
        bytes
    }

    #[test]
    fn a_value_comes_back_and_left_over_bytes_are_refused() {
        let value = (70_000_u64, vec![1_u32, 2, 3], Some("text".to_owned()));
        let mut bytes = encoded(&value);
        assert_eq!(decode(&bytes), Ok(value));
        for length in 0..bytes.len() {
            let decoded = decode::<(u64, Vec<u32>, Option<String>)>(&bytes[..length]);
            assert_eq!(decoded, Err(CodecError::Malformed("it ends too early")), "{length} bytes");
        }
        bytes.push(0);
        assert_eq!(decode::<(u64, Vec<u32>, Option<String>)>(&bytes), Err(CodecError::TrailingBytes));
    }

    #[test]
    fn the_encoding_never_changes() {
        assert_eq!(
            encoded(&(250_u64, 251_u64, 70_000_u64, Some(7_u8), "ab")),
            [250, 251, 251, 0, 252, 0x70, 0x11, 1, 0, 1, 7, 2, b'a', b'b']
        );
    }

    #[test]
    fn a_long_list_of_small_things_fits_the_bound() {
        // Two encoded bytes an element, 48 in memory.
        let list: Vec<(Option<[u64; 4]>, u64)> = vec![(None, 1); 10_000];
        assert_eq!(decode(&encoded(&list)), Ok(list));
    }

    #[test]
    fn a_length_that_the_input_cannot_hold_is_refused_before_anything_is_allocated() {
        let bomb = encoded(&u64::MAX);
        let refused = Err(CodecError::Malformed("a length is beyond what it may be"));
        assert_eq!(decode::<Vec<u64>>(&bomb), refused);
        // Within bincode's constant limit, but more than an input of five bytes may ask for.
        let bomb = encoded(&(DECODED_BYTES_MAX as u64 / 2));
        assert_eq!(decode::<Vec<u8>>(&bomb).map(|bytes| bytes.len()), refused.map(|_: Vec<u64>| 0));
    }

    #[test]
    fn a_value_beyond_its_cap_leaves_the_output_as_it_was() {
        let mut out = vec![1, 2, 3];
        assert_eq!(encode_capped(&[0_u8; 9], &mut out, 8), Err(CodecError::TooLarge { bytes_max: 8 }));
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(encode_capped(&[0_u8; 8], &mut out, 8), Ok(()));
        assert_eq!(out.len(), 11);
    }
}
