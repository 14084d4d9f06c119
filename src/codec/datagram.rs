//! The pulse plane's format: one payload, whole, in at most 1200 bytes.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `jgpd` |
//! | 4 | 1 | version of the format, 1 |
//! | 5 | 1 | flags; bit 0: a keyed code stands before the checksum |
//! | 6 | 2 | length of the payload |
//! | 8 | 8 | hash of the cluster's name |
//! | 16 | 16 | cluster id; 0 from a BLANK sender |
//! | 32 | 4 | generation |
//! | 36 | 1 | slot of the sender |
//! | 37 | 1 | slot of the addressee |
//! | 38 | 16 | incarnation of the sender |
//! | 54 | 16 | incarnation of the addressee; 0: whoever sits there |
//! | 70 | 2 | reserved, 0 |
//! | 72 | 8 | sequence number, rising for each sender and addressee |
//! | 80 | n | payload: one value in bincode; nodes send lists of messages |
//! | 80 + n | 16 | with bit 0 of the flags: the keyed code of everything before it |
//! | … | 4 | CRC-32 of everything before it |
//!
//! All integers are little-endian. A datagram of another version or with an unknown flag is refused before its checksum
//! is looked for, since another version may have it elsewhere.
//!
//! The keyed code is the first 16 bytes of a keyed BLAKE3 hash, under a key that is derived from a secret for this plane
//! alone. A node with secrets refuses what has no code, and one without refuses what has one; both before anything behind
//! the header is looked at.
//!
//! The sequence number lets a core with secrets take a datagram once, however often it is sent; here it is only carried.
//! Without secrets it is for whoever reads a packet dump: messages that must not count twice carry numbers of their own.

use bincode::{Decode, Encode};

use super::door::encode_capped;
use super::fields::{FieldReader, put};
use super::keyring::CODE_BYTES;
use super::{CodecError, Envelope, Keyring, NameHash, decode as decode_value};
use crate::base::limits::DATAGRAM_BYTES_MAX;

const MAGIC: [u8; 4] = *b"jgpd";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 80;
const CHECKSUM_BYTES: usize = 4;
/// The flag of a datagram with a keyed code.
const KEYED: u8 = 1;

/// The longest payload: the same with and without a keyed code.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - CHECKSUM_BYTES - CODE_BYTES;

const _: () = assert!(HEADER_BYTES == 4 + 1 + 1 + 2 + 8 + Envelope::BYTES + 2 + 8);
const _: () = assert!(PAYLOAD_BYTES_MAX <= u16::MAX as usize);

/// One datagram, checked and decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<T> {
    /// Who says it to whom.
    pub envelope: Envelope,
    /// The sender's count of datagrams to this addressee.
    pub sequence: u64,
    /// What it says.
    pub payload: T,
}

/// Makes a datagram of `payload`, signed where `keyring` holds a secret. `out` holds that datagram and nothing else afterwards; what it held before is gone, so
/// that one buffer serves for all.
///
/// # Errors
/// [`CodecError::TooLarge`] where the payload has more than [`PAYLOAD_BYTES_MAX`] bytes; `out` is empty then.
pub fn encode<T: Encode>(
    envelope: &Envelope,
    name: NameHash,
    sequence: u64,
    payload: &T,
    keyring: &Keyring,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    out.clear();
    put(out, MAGIC);
    put(out, [VERSION, if keyring.is_empty() { 0 } else { KEYED }, 0, 0]);
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
    if let Some(code) = keyring.pulse_code(out) {
        put(out, code);
    }
    let checksum = crc32fast::hash(out);
    put(out, checksum.to_le_bytes());
    Ok(())
}

/// Checks and decodes one datagram of the cluster whose name hashes to `name`, from a node that shares a secret of
/// `keyring` where that holds any.
///
/// # Errors
/// The first thing about it that is wrong; the payload is looked at last.
pub fn decode<T: Decode<()>>(bytes: &[u8], name: NameHash, keyring: &Keyring) -> Result<Datagram<T>, CodecError> {
    let checked = authenticate(bytes, keyring)?;
    // What stands before the name was checked with the rest.
    let mut fields = FieldReader::new(&checked[8..]);
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

/// Header and payload of a datagram that is whole, unharmed, and made with a secret of `keyring`.
fn authenticate<'a>(bytes: &'a [u8], keyring: &Keyring) -> Result<&'a [u8], CodecError> {
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
    if version != VERSION || flags & !KEYED != 0 {
        return Err(CodecError::OtherVersion { version, flags });
    }
    let code_bytes = if flags == KEYED { CODE_BYTES } else { 0 };
    let bytes_expected = bytes_min + code_bytes + usize::from(u16::from_le_bytes(fields.take()?));
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
    let (said, code) = checked.split_at(checked.len() - code_bytes);
    match (code.try_into(), keyring.is_empty()) {
        (Ok(code), false) if keyring.verifies_pulse(said, code) => Ok(said),
        (Ok(_), false) => Err(CodecError::BadCode),
        (Ok(_), true) => Err(CodecError::NoSecret),
        (Err(_), false) => Err(CodecError::Unauthenticated),
        (Err(_), true) => Ok(said),
    }
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

    fn keyring(secrets: &str) -> Keyring {
        Keyring::parse(secrets.as_bytes()).expect("it holds secrets")
    }

    /// No secret, and one.
    fn keyrings() -> [Keyring; 2] {
        [Keyring::default(), keyring("correct horse battery staple")]
    }

    fn sealed_with(keyring: &Keyring) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&envelope(), name(), 9, &payload(), keyring, &mut bytes).expect("it is small");
        bytes
    }

    fn sealed() -> Vec<u8> {
        sealed_with(&Keyring::default())
    }

    fn refused_by(keyring: &Keyring, bytes: &[u8]) -> CodecError {
        decode::<Payload>(bytes, name(), keyring).expect_err("it was to be refused")
    }

    fn refused(bytes: &[u8]) -> CodecError {
        refused_by(&Keyring::default(), bytes)
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
    fn the_keyed_format_never_changes() {
        let [_, keyring] = keyrings();
        let (plain, keyed) = (sealed(), sealed_with(&keyring));
        assert_eq!((keyed.len(), keyed[5]), (plain.len() + CODE_BYTES, 1));
        let said = plain.len() - CHECKSUM_BYTES;
        assert_eq!((&keyed[..5], &keyed[6..said]), (&plain[..5], &plain[6..said]), "the rest is the same");
        let hex: String = keyed[said..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, concat!("aacfdbc45eb858337c5fe58381430066", "3998cd51"), "code, checksum");
    }

    #[test]
    fn what_was_encoded_comes_back() {
        for keyring in keyrings() {
            let datagram = decode(&sealed_with(&keyring), name(), &keyring).expect("it is sound");
            assert_eq!(datagram, Datagram { envelope: envelope(), sequence: 9, payload: payload() });
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for keyring in keyrings() {
            let sound = sealed_with(&keyring);
            for bit in 0..sound.len() * 8 {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                refused_by(&keyring, &bytes);
            }
        }
    }

    #[test]
    fn a_change_with_a_mended_checksum_is_noticed_by_the_code() {
        let [_, keyring] = keyrings();
        let sound = sealed_with(&keyring);
        // But for the bytes that say how long it is and which format it has.
        for at in 8..sound.len() - CHECKSUM_BYTES {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            mend(&mut bytes);
            assert_eq!(refused_by(&keyring, &bytes), CodecError::BadCode, "byte {at}");
        }
    }

    /// Writes the right checksum, as an attacker can.
    fn mend(bytes: &mut [u8]) {
        let (checked, checksum) = bytes.split_at_mut(bytes.len() - CHECKSUM_BYTES);
        checksum.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
    }

    #[test]
    fn what_has_no_code_a_wrong_one_or_one_too_many_is_told_apart() {
        let [none, ours] = keyrings();
        let theirs = keyring("another secret of theirs");
        assert_eq!(refused_by(&ours, &sealed_with(&none)), CodecError::Unauthenticated);
        assert_eq!(refused_by(&ours, &sealed_with(&theirs)), CodecError::BadCode);
        assert_eq!(refused_by(&none, &sealed_with(&theirs)), CodecError::NoSecret);
        let both = keyring("another secret of theirs\ncorrect horse battery staple");
        assert!(decode::<Payload>(&sealed_with(&ours), name(), &both).is_ok(), "every secret verifies");
        assert_eq!(refused_by(&ours, &sealed_with(&both)), CodecError::BadCode, "the first one signs");
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
        assert_eq!(
            decode::<Payload>(&sealed(), NameHash::of("other"), &Keyring::default()),
            Err(CodecError::OtherCluster)
        );
        assert_eq!(refused(&[b'x'; 200]), CodecError::BadMagic);
        let mut newer = sealed();
        newer[4] = 2;
        assert_eq!(refused(&newer), CodecError::OtherVersion { version: 2, flags: 0 });
        let mut flagged = sealed();
        flagged[5] = 2;
        assert_eq!(refused(&flagged), CodecError::OtherVersion { version: 1, flags: 2 });
        assert_eq!(decode::<u8>(&sealed(), name(), &Keyring::default()), Err(CodecError::TrailingBytes));
    }

    #[test]
    fn the_largest_payload_fits_and_a_larger_one_is_refused() {
        let mut bytes = Vec::new();
        // A list of bytes is preceded by its length, three bytes here.
        let (fits, larger) = (vec![1_u8; PAYLOAD_BYTES_MAX - 3], vec![1_u8; PAYLOAD_BYTES_MAX - 2]);
        let [none, ours] = keyrings();
        for (keyring, spare) in [(none, CODE_BYTES), (ours, 0)] {
            encode(&envelope(), name(), 1, &fits, &keyring, &mut bytes).expect("it fits");
            assert_eq!(bytes.len(), DATAGRAM_BYTES_MAX - spare);
            assert_eq!(decode::<Vec<u8>>(&bytes, name(), &keyring).expect("it is sound").payload, fits);
            let refused = encode(&envelope(), name(), 1, &larger, &keyring, &mut bytes);
            assert_eq!((refused, bytes.len()), (Err(CodecError::TooLarge { bytes_max: PAYLOAD_BYTES_MAX }), 0));
        }
    }
}
