//! The pulse plane's format: one payload, whole, in at most 1200 bytes.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `jgpd` |
//! | 4 | 1 | version of the format, 1 |
//! | 5 | 1 | flags; none is in use. Bit 0 will say that a keyed code of 16 bytes stands before the checksum |
//! | 6 | 2 | length of the payload |
//! | 8 | 8 | hash of the cluster's name |
//! | 16 | 16 | cluster id; 0 from a BLANK sender |
//! | 32 | 4 | generation |
//! | 36 | 1 | slot of the sender |
//! | 37 | 1 | slot of the addressee |
//! | 38 | 16 | incarnation of the sender |
//! | 54 | 16 | incarnation of the addressee; 0: whoever sits there |
//! | 70 | 2 | reserved, 0 |
//! | 72 | 8 | sequence number, rising for each sender |
//! | 80 | n | payload: one value in bincode; nodes send lists of messages |
//! | 80 + n | 4 | CRC-32 of everything before it |
//!
//! All integers are little-endian. A datagram of another version or with an unknown flag is refused before its checksum
//! is looked for, since another version may have it elsewhere.
//!
//! The sequence number is for whoever reads a packet dump. Messages that must not count twice carry numbers of their own.

use bincode::{Decode, Encode};

use super::door::encode_capped;
use super::fields::{FieldReader, put};
use super::{CodecError, Envelope, NameHash, decode as decode_value};
use crate::base::limits::DATAGRAM_BYTES_MAX;

const MAGIC: [u8; 4] = *b"jgpd";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 80;
const CHECKSUM_BYTES: usize = 4;
/// Kept free in every datagram, so that payloads sized for today still fit when a keyed code is added.
const KEYED_CODE_BYTES: usize = 16;

/// The longest payload.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - CHECKSUM_BYTES - KEYED_CODE_BYTES;

const _: () = assert!(HEADER_BYTES == 4 + 1 + 1 + 2 + 8 + Envelope::BYTES + 2 + 8);
const _: () = assert!(PAYLOAD_BYTES_MAX <= u16::MAX as usize);

/// One datagram, checked and decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<T> {
    /// Who says it to whom.
    pub envelope: Envelope,
    /// The sender's count of datagrams.
    pub sequence: u64,
    /// What it says.
    pub payload: T,
}

/// Makes a datagram of `payload`. `out` holds that datagram and nothing else afterwards; what it held before is gone, so
/// that one buffer serves for all.
///
/// # Errors
/// [`CodecError::TooLarge`] where the payload has more than [`PAYLOAD_BYTES_MAX`] bytes; `out` is empty then.
pub fn encode<T: Encode>(
    envelope: &Envelope,
    name: NameHash,
    sequence: u64,
    payload: &T,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    out.clear();
    put(out, MAGIC);
    put(out, [VERSION, 0, 0, 0]);
    name.write(out);
    envelope.write(out);
    put(out, [0, 0]);
    put(out, sequence.to_le_bytes());
    if let Err(error) = encode_capped(payload, out, PAYLOAD_BYTES_MAX) {
        out.clear();
        return Err(error);
    }
    let length = (out.len() - HEADER_BYTES) as u16;
    out[6..8].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32fast::hash(out);
    put(out, checksum.to_le_bytes());
    Ok(())
}

/// Checks and decodes one datagram of the cluster whose name hashes to `name`.
///
/// # Errors
/// The first thing about it that is wrong, in the order of the fields; the payload is looked at last.
pub fn decode<T: Decode<()>>(bytes: &[u8], name: NameHash) -> Result<Datagram<T>, CodecError> {
    let bytes_min = HEADER_BYTES + CHECKSUM_BYTES;
    if bytes.len() > DATAGRAM_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes_max: DATAGRAM_BYTES_MAX });
    }
    if bytes.len() < bytes_min {
        return Err(CodecError::TooShort { bytes: bytes.len(), bytes_min });
    }
    let mut fields = FieldReader::new(bytes);
    if fields.take()? != MAGIC {
        return Err(CodecError::BadMagic);
    }
    let [version, flags] = fields.take()?;
    if (version, flags) != (VERSION, 0) {
        return Err(CodecError::OtherVersion { version, flags });
    }
    let bytes_expected = bytes_min + usize::from(u16::from_le_bytes(fields.take()?));
    match bytes.len() {
        length if length < bytes_expected => {
            return Err(CodecError::TooShort { bytes: length, bytes_min: bytes_expected });
        }
        length if length > bytes_expected => return Err(CodecError::TrailingBytes),
        _ => {}
    }
    let (checked, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if crc32fast::hash(checked).to_le_bytes() != checksum {
        return Err(CodecError::BadChecksum);
    }
    if NameHash::read(&mut fields)? != name {
        return Err(CodecError::OtherCluster);
    }
    let envelope = Envelope::read(&mut fields)?;
    if fields.take()? != [0, 0] {
        return Err(CodecError::Malformed("reserved bytes are in use"));
    }
    let sequence = u64::from_le_bytes(fields.take()?);
    let payload = decode_value(&checked[HEADER_BYTES..])?;
    Ok(Datagram { envelope, sequence, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};

    type Payload = (u64, Vec<u8>, Option<u32>);

    fn envelope() -> Envelope {
        Envelope {
            cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            generation: Generation(7),
            from: NodeId::new(Slot(1), Incarnation(0xaaaa_0000_0000_0000_0000_0000_0000_0001)),
            to: NodeId::new(Slot(2), Incarnation(0xbbbb_0000_0000_0000_0000_0000_0000_0002)),
        }
    }

    fn payload() -> Payload {
        (1000, vec![1, 2, 3], Some(5))
    }

    fn name() -> NameHash {
        NameHash::of("store")
    }

    fn sealed() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&envelope(), name(), 9, &payload(), &mut bytes).expect("it is small");
        bytes
    }

    fn refused(bytes: &[u8]) -> CodecError {
        decode::<Payload>(bytes, name()).expect_err("it was to be refused")
    }

    #[test]
    fn the_format_never_changes() {
        let hex: String = sealed().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "6a677064",
            "01",
            "00",
            "0900",             // magic, version, flags, length of the payload
            "1e070e74df6337a1", // xxh3 of "store"
            "100f0e0d0c0b0a090807060504030201",
            "07000000", // cluster, generation
            "01",
            "02",                               // slots
            "0100000000000000000000000000aaaa", // incarnation of the sender
            "0200000000000000000000000000bbbb", // incarnation of the addressee
            "0000",
            "0900000000000000", // reserved, sequence
            "fbe803",
            "03010203",
            "0105", // payload
            "42bcb0c8",
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn what_was_encoded_comes_back() {
        let datagram = decode(&sealed(), name()).expect("it is sound");
        assert_eq!(datagram, Datagram { envelope: envelope(), sequence: 9, payload: payload() });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sound = sealed();
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            refused(&bytes);
        }
    }

    #[test]
    fn every_shorter_or_longer_datagram_is_refused() {
        let mut bytes = sealed();
        for length in 0..bytes.len() {
            assert!(matches!(refused(&bytes[..length]), CodecError::TooShort { .. }), "{length} bytes");
        }
        bytes.push(0);
        assert_eq!(refused(&bytes), CodecError::TrailingBytes);
        bytes.resize(DATAGRAM_BYTES_MAX + 1, 0);
        assert_eq!(refused(&bytes), CodecError::TooLarge { bytes_max: DATAGRAM_BYTES_MAX });
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(decode::<Payload>(&sealed(), NameHash::of("other")), Err(CodecError::OtherCluster));
        assert_eq!(refused(&[b'x'; 200]), CodecError::BadMagic);
        let mut newer = sealed();
        newer[4] = 2;
        assert_eq!(refused(&newer), CodecError::OtherVersion { version: 2, flags: 0 });
        let mut keyed = sealed();
        keyed[5] = 1;
        assert_eq!(refused(&keyed), CodecError::OtherVersion { version: 1, flags: 1 });
        assert_eq!(decode::<u8>(&sealed(), name()), Err(CodecError::TrailingBytes));
    }

    #[test]
    fn the_largest_payload_fits_and_a_larger_one_is_refused() {
        let mut bytes = Vec::new();
        // A list of bytes is preceded by its length, three bytes here.
        let fits = vec![1_u8; PAYLOAD_BYTES_MAX - 3];
        encode(&envelope(), name(), 1, &fits, &mut bytes).expect("it fits");
        assert_eq!(bytes.len(), DATAGRAM_BYTES_MAX - KEYED_CODE_BYTES);
        assert_eq!(decode::<Vec<u8>>(&bytes, name()).expect("it is sound").payload, fits);
        let larger = vec![1_u8; PAYLOAD_BYTES_MAX - 2];
        let refused = encode(&envelope(), name(), 1, &larger, &mut bytes);
        assert_eq!((refused, bytes.len()), (Err(CodecError::TooLarge { bytes_max: PAYLOAD_BYTES_MAX }), 0));
    }
}
