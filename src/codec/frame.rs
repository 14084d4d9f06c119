//! The stream plane's format: frames of many messages.
//!
//! A frame is a header of [`HEADER_BYTES`] bytes and a payload:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `jgsf` |
//! | 4 | 1 | version of the format, 1 |
//! | 5 | 1 | flags; bit 0: a keyed code follows the payload |
//! | 6 | 2 | reserved, 0 |
//! | 8 | 4 | length of the payload |
//! | 12 | 4 | CRC-32 of the payload |
//! | 16 | 8 | hash of the cluster's name |
//! | 24 | 16 | cluster id; 0 from a BLANK sender |
//! | 40 | 4 | generation |
//! | 44 | 1 | slot of the sender |
//! | 45 | 1 | slot of the addressee |
//! | 46 | 16 | incarnation of the sender |
//! | 62 | 16 | incarnation of the addressee; 0: whoever sits there |
//! | 78 | 4 | CRC-32 of the header up to here |
//! | 82 | n | payload |
//! | 82 + n | 16 | with bit 0 of the flags: the keyed code of the frame's number, header and payload ([`handshake`]) |
//!
//! All integers are little-endian. The header has a checksum of its own so that a flipped bit in the length is noticed at
//! once, not after megabytes that never come.
//!
//! The payload is a run of messages, each preceded by its length in 4 bytes ([`Payload::append`], [`messages`]). Messages
//! are collected while the connection is busy and travel together, with one header, one checksum and one write.
//!
//! ```text
//! ┌────────┬─────────────────────────────────────────────────────────┐
//! │ header │ length │ message │ length │ message │ length │ message │
//! └────────┴─────────────────────────────────────────────────────────┘
//! ```
//!
//! [`FrameDecoder`] takes frames off a buffer that grows as bytes come in. A partial frame is normal and says
//! "not yet"; anything wrong is an error after which the stream has no place to go on from, so the connection is closed.
//!
//! A connection that began with a [`handshake`] carries frames with codes only, any other one frames without.

use bincode::Decode;
use bytes::{Buf, Bytes, BytesMut};

use super::door::decode;
use super::fields::{FieldReader, put};
use super::handshake::{self, Session};
use super::keyring::CODE_BYTES;
use super::payload::Payload;
use super::{CodecError, Envelope, NameHash};
use crate::base::limits::FRAME_BYTES_MAX;
use crate::base::{Slot, lending};

const MAGIC: [u8; 4] = *b"jgsf";
const VERSION: u8 = 1;
pub(super) const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
/// The flag of a frame with a keyed code.
const KEYED: u8 = 1;
/// Magic, version, flags, reserved: the same in every frame of a connection.
const PREAMBLE: [u8; 8] = preamble(0);
const KEYED_PREAMBLE: [u8; 8] = preamble(KEYED);

/// The length of a frame's header.
pub const HEADER_BYTES: usize = 82;
/// The longest payload of a frame.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;
/// The longest message: one that fills a frame alone.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - LENGTH_BYTES;
/// A payload of more bytes is *long*: whoever reads it gives it a buffer of its own, as long as its frame, so that a value that is
/// nearly all of it can stay there ([`Frame::decode`]).
pub const SHORT_PAYLOAD_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(HEADER_BYTES == PREAMBLE.len() + 4 + 4 + 8 + Envelope::BYTES + CHECKSUM_BYTES);
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);

const fn preamble(flags: u8) -> [u8; 8] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, flags, 0, 0]
}

/// The messages of a frame's payload, in order; [`super::decode`] makes values of them. Ends after the first error.
pub fn messages(payload: &[u8]) -> impl Iterator<Item = Result<&[u8], CodecError>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = split_message(rest);
        rest = message.map_or(&[], |(_, after)| after);
        Some(message.map(|(message, _)| message))
    })
}

fn split_message(payload: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let cut_off = |bytes_min| CodecError::TooShort { bytes: payload.len(), bytes_min };
    let (length, rest) = payload.split_first_chunk().ok_or_else(|| cut_off(LENGTH_BYTES))?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length).ok_or_else(|| cut_off(LENGTH_BYTES.saturating_add(length)))
}

/// The header of the frame that carries `payload`. The payload follows it on the wire as it is, so it is never copied.
///
/// # Errors
/// [`CodecError::TooLarge`] where the payload has more than [`PAYLOAD_BYTES_MAX`] bytes.
pub fn seal(envelope: &Envelope, name: NameHash, payload: &Payload) -> Result<[u8; HEADER_BYTES], CodecError> {
    header(PREAMBLE, envelope, name, payload)
}

/// The header of the frame that carries `payload`, and the code that follows it. The frames of a session must be sent in
/// the order in which they were sealed.
///
/// # Errors
/// [`CodecError::TooLarge`] where the payload has more than [`PAYLOAD_BYTES_MAX`] bytes.
pub fn seal_with(
    session: &mut Session,
    envelope: &Envelope,
    name: NameHash,
    payload: &Payload,
) -> Result<([u8; HEADER_BYTES], [u8; CODE_BYTES]), CodecError> {
    let header = header(KEYED_PREAMBLE, envelope, name, payload)?;
    Ok((header, session.code(&header, payload.pieces())))
}

fn header(
    preamble: [u8; 8],
    envelope: &Envelope,
    name: NameHash,
    payload: &Payload,
) -> Result<[u8; HEADER_BYTES], CodecError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes_max: PAYLOAD_BYTES_MAX });
    }
    let mut checksum = crc32fast::Hasher::new();
    payload.pieces().for_each(|piece| checksum.update(piece));
    let mut fields = Vec::with_capacity(HEADER_BYTES);
    put(&mut fields, preamble);
    put(&mut fields, (payload.len() as u32).to_le_bytes());
    put(&mut fields, checksum.finalize().to_le_bytes());
    name.write(&mut fields);
    envelope.write(&mut fields);
    let checksum = crc32fast::hash(&fields);
    put(&mut fields, checksum.to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&fields);
    Ok(header)
}

/// One frame, its checksums verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Who says it to whom.
    pub envelope: Envelope,
    /// The messages; see [`messages`].
    pub payload: Bytes,
}

impl Frame {
    /// Decodes one of its messages. A value that is nearly all of a long frame shares its buffer.
    ///
    /// # Errors
    /// As for [`codec::decode`](decode).
    pub fn decode<T: Decode<()>>(&self, message: &[u8]) -> Result<T, CodecError> {
        if self.payload.len() <= SHORT_PAYLOAD_BYTES_MAX {
            return decode(message);
        }
        lending::share(&self.payload, || decode(message))
    }
}

/// A header that was found sound while its payload is still on the way.
#[derive(Clone, Copy, Debug)]
struct Header {
    envelope: Envelope,
    payload_bytes: usize,
    payload_checksum: u32,
    bytes: [u8; HEADER_BYTES],
}

/// Takes frames off one connection's buffer. It allocates nothing itself; [`FrameDecoder::bytes_wanted`] tells whoever
/// owns the buffer how much is still to come, within the cap on a frame.
///
/// After an error the buffer's rest means nothing: the connection is to be closed.
#[derive(Debug)]
pub struct FrameDecoder {
    name: NameHash,
    header: Option<Header>,
    session: Option<Session>,
    sender: Option<Slot>,
}

impl FrameDecoder {
    /// A decoder for the frames of the cluster whose name hashes to `name`.
    #[must_use]
    pub const fn new(name: NameHash) -> Self {
        Self { name, header: None, session: None, sender: None }
    }

    /// A decoder for the frames of a connection of which something else, TLS say, has proven that `sender` writes it.
    #[must_use]
    pub const fn of_sender(name: NameHash, sender: Slot) -> Self {
        Self { name, header: None, session: None, sender: Some(sender) }
    }

    /// A decoder for the frames of a connection that began with a handshake: each must have the code that `session` gives
    /// it.
    #[must_use]
    pub const fn with_session(name: NameHash, session: Session) -> Self {
        let sender = Some(session.dialer());
        Self { name, header: None, session: Some(session), sender }
    }

    /// Takes the next frame off the front of `buffer`; `None` where it isn't complete yet.
    ///
    /// # Errors
    /// The first thing about it that is wrong; a foreign protocol is noticed by its first byte.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        let header = match self.header {
            Some(header) => header,
            None => match parse_header(buffer, self.name, self.session.is_some())? {
                Some(header) => {
                    buffer.advance(HEADER_BYTES);
                    *self.header.insert(header)
                }
                None => return Ok(None),
            },
        };
        if self.bytes_wanted(buffer.len()) > 0 {
            return Ok(None);
        }
        let (payload, rest) = buffer.split_at(header.payload_bytes);
        if crc32fast::hash(payload) != header.payload_checksum {
            return Err(CodecError::BadChecksum);
        }
        if let Some(session) = &mut self.session {
            let code = FieldReader::new(rest).take()?;
            if !session.verifies(&header.bytes, [payload], code) {
                return Err(CodecError::BadCode);
            }
        }
        if self.sender.is_some_and(|sender| sender != header.envelope.from.slot) {
            return Err(CodecError::OtherSender);
        }
        self.header = None;
        let payload = buffer.split_to(header.payload_bytes).freeze();
        buffer.advance(self.code_bytes());
        Ok(Some(Frame { envelope: header.envelope, payload }))
    }

    const fn code_bytes(&self) -> usize {
        if self.session.is_some() { CODE_BYTES } else { 0 }
    }

    /// How many more bytes the frame under way needs at least, where `buffered` bytes wait in the buffer. It comes from
    /// the sender, capped: a buffer should grow with what really came rather than by all of this at once.
    #[must_use]
    pub fn bytes_wanted(&self, buffered: usize) -> usize {
        let frame_bytes = self.header.map_or(HEADER_BYTES, |header| header.payload_bytes + self.code_bytes());
        frame_bytes.saturating_sub(buffered)
    }

    /// Whether the frame under way has a long payload ([`SHORT_PAYLOAD_BYTES_MAX`]), as far as is known.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.header.is_some_and(|header| header.payload_bytes > SHORT_PAYLOAD_BYTES_MAX)
    }

    /// Whether the header of the frame under way is there and sound.
    #[must_use]
    pub const fn has_header(&self) -> bool {
        self.header.is_some()
    }

    /// Whether a frame has begun and isn't complete, where `buffered` bytes wait in the buffer.
    #[must_use]
    pub const fn is_within_frame(&self, buffered: usize) -> bool {
        self.header.is_some() || buffered > 0
    }
}

fn parse_header(bytes: &[u8], name: NameHash, is_keyed: bool) -> Result<Option<Header>, CodecError> {
    let preamble = if is_keyed { KEYED_PREAMBLE } else { PREAMBLE };
    let start = &bytes[..bytes.len().min(preamble.len())];
    if !preamble.starts_with(start) {
        return Err(match start {
            [magic @ .., version, flags, _, _] if magic == MAGIC => match (*version, *flags) {
                (VERSION, 0) => CodecError::Unauthenticated,
                (VERSION, KEYED) => CodecError::NoSecret,
                (version, flags) => CodecError::OtherVersion { version, flags },
            },
            _ if handshake::is_handshake(start) == Some(true) => CodecError::NoSecret,
            _ if start.starts_with(&MAGIC) => return Ok(None),
            _ => CodecError::BadMagic,
        });
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (checked, checksum) = header.split_at(HEADER_BYTES - CHECKSUM_BYTES);
    if crc32fast::hash(checked).to_le_bytes() != checksum {
        return Err(CodecError::BadChecksum);
    }
    let mut fields = FieldReader::new(&checked[preamble.len()..]);
    let payload_bytes = u32::from_le_bytes(fields.take()?) as usize;
    let payload_checksum = u32::from_le_bytes(fields.take()?);
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes_max: PAYLOAD_BYTES_MAX });
    }
    if NameHash::read(&mut fields)? != name {
        return Err(CodecError::OtherCluster);
    }
    let envelope = Envelope::read(&mut fields)?;
    Ok(Some(Header { envelope, payload_bytes, payload_checksum, bytes: *header }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Blob, ClusterId, Generation, Incarnation, NodeId, Slot};

    fn envelope() -> Envelope {
        Envelope {
            cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            generation: Generation(7),
            from: NodeId::new(Slot(1), Incarnation(0xaaaa_0000_0000_0000_0000_0000_0000_0001)),
            to: NodeId::new(Slot(2), Incarnation(0xbbbb_0000_0000_0000_0000_0000_0000_0002)),
        }
    }

    fn name() -> NameHash {
        NameHash::of("store")
    }

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let header = seal(&envelope(), name(), &Payload::from(payload.to_vec())).expect("it is small");
        [&header[..], payload].concat()
    }

    /// A frame of two messages.
    fn sample() -> Vec<u8> {
        let mut payload = Payload::default();
        payload.append(&(1000_u64, Some(5_u8))).expect("it is small");
        payload.append(&"ab").expect("it is small");
        sealed(&payload.to_vec())
    }

    /// What a fresh decoder makes of `bytes` that come all at once.
    fn decode(bytes: &[u8]) -> Result<Option<Frame>, CodecError> {
        FrameDecoder::new(name()).decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn the_format_never_changes() {
        let hex: String = sample().iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "6a677366",
            "01",
            "00",
            "0000", // magic, version, flags, reserved
            "10000000",
            "feab9167",         // length and checksum of the payload
            "1e070e74df6337a1", // xxh3 of "store"
            "100f0e0d0c0b0a090807060504030201",
            "07000000", // cluster, generation
            "01",
            "02",                               // slots
            "0100000000000000000000000000aaaa", // incarnation of the sender
            "0200000000000000000000000000bbbb", // incarnation of the addressee
            "6f941632",                         // checksum of the header
            "05000000",
            "fbe8030105", // a message of five bytes
            "03000000",
            "026162", // a message of three bytes
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn what_was_sealed_comes_back() {
        let frame = decode(&sample()).expect("it is sound").expect("it is complete");
        assert_eq!(frame.envelope, envelope());
        let messages: Result<Vec<_>, _> = messages(&frame.payload).collect();
        assert_eq!(messages.expect("both are whole"), [&[0xfb, 0xe8, 3, 1, 5][..], &[2, b'a', b'b']]);
    }

    #[test]
    fn a_value_that_is_nearly_all_of_a_long_frame_stays_there() {
        let placed = |sizes: &[usize]| -> Vec<bool> {
            let mut payload = Payload::default();
            sizes.iter().for_each(|size| payload.append(&Blob::from(vec![7; *size])).expect("it is small"));
            let frame = decode(&sealed(&payload.to_vec())).expect("it is sound").expect("it is complete");
            let is_shared = |message: Result<&[u8], CodecError>| {
                let value: Blob = frame.decode(message.expect("it is whole")).expect("it is a blob");
                frame.payload.as_ptr_range().contains(&value.as_ptr())
            };
            messages(&frame.payload).map(is_shared).collect()
        };
        let short = SHORT_PAYLOAD_BYTES_MAX - 7;
        assert_eq!(placed(&[short]), [false], "short frames share a buffer");
        assert_eq!(placed(&[short + 1]), [true]);
        assert_eq!(placed(&[100, 1 << 20, 100]), [false, true, false]);
        assert_eq!(placed(&[100_000, 100_000]), [false, false]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sound = sample();
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            decode(&bytes).expect_err("a flipped bit went unnoticed");
        }
    }

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let mut stream = sample();
        stream.extend(sealed(&[]));
        stream.extend(sealed(&[9; 300]));
        let lengths = |frames: &[Frame]| frames.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>();
        for cut in 0..=stream.len() {
            let (mut decoder, mut buffer) = (FrameDecoder::new(name()), BytesMut::new());
            let mut frames = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder.decode(&mut buffer).expect("the stream is sound") {
                    frames.push(frame);
                }
            }
            assert_eq!(lengths(&frames), [16, 0, 300], "cut at {cut}");
        }
        let (mut decoder, mut buffer) = (FrameDecoder::new(name()), BytesMut::new());
        let mut frames = Vec::new();
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            frames.extend(decoder.decode(&mut buffer).expect("the stream is sound"));
        }
        assert_eq!(lengths(&frames), [16, 0, 300]);
    }

    #[test]
    fn an_incomplete_frame_says_how_much_is_missing() {
        let sample = sample();
        for length in 0..sample.len() {
            let (mut decoder, mut buffer) = (FrameDecoder::new(name()), BytesMut::from(&sample[..length]));
            assert_eq!(decoder.decode(&mut buffer), Ok(None), "{length} bytes");
            let end = if length < HEADER_BYTES { HEADER_BYTES } else { sample.len() };
            assert_eq!(decoder.bytes_wanted(buffer.len()), end - length);
            assert_eq!(decoder.is_within_frame(buffer.len()), length > 0);
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(decode(b"GET / HTTP/1.1\r\n\r\n"), Err(CodecError::BadMagic));
        assert_eq!(decode(b"G"), Err(CodecError::BadMagic));
        let mut newer = sample();
        newer[4] = 2;
        assert_eq!(decode(&newer), Err(CodecError::OtherVersion { version: 2, flags: 0 }));
        assert_eq!(
            FrameDecoder::new(NameHash::of("other")).decode(&mut BytesMut::from(&sample()[..])),
            Err(CodecError::OtherCluster)
        );
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused_by_its_header() {
        let mut header = sealed(&[]);
        header[8..12].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
        let checksum = crc32fast::hash(&header[..HEADER_BYTES - CHECKSUM_BYTES]);
        header[HEADER_BYTES - CHECKSUM_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        let mut buffer = BytesMut::from(&header[..]);
        let capacity = buffer.capacity();
        let refused = FrameDecoder::new(name()).decode(&mut buffer);
        assert_eq!(refused, Err(CodecError::TooLarge { bytes_max: PAYLOAD_BYTES_MAX }));
        assert_eq!(buffer.capacity(), capacity, "nothing was allocated for it");
    }

    #[test]
    fn a_message_that_is_cut_off_ends_the_messages() {
        let payload = [1, 0, 0, 0, 1, 5, 0, 0, 0, 1, 2];
        let all: Vec<_> = messages(&payload).collect();
        assert_eq!(all, [Ok(&[1][..]), Err(CodecError::TooShort { bytes: 6, bytes_min: 9 })]);
        let all: Vec<_> = messages(&[1, 0]).collect();
        assert_eq!(all, [Err(CodecError::TooShort { bytes: 2, bytes_min: 4 })]);
    }

    /// Both ends of a connection that began with a handshake.
    fn sessions() -> (Session, Session) {
        use super::super::Keyring;
        let keyring = Keyring::parse(b"correct horse battery staple").expect("it holds a secret");
        let dialer = handshake::Dialer::new(&keyring, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret");
        let (listener, answer) =
            handshake::Listener::handle_hello(&keyring, name(), Slot(2), [2; 32], dialer.hello()).expect("it is sound");
        let (proof, ours) = dialer.handle_answer(&answer).expect("it is sound");
        (ours, listener.handle_proof(&proof).expect("it is sound"))
    }

    /// Frames of one session with these payloads.
    fn keyed(session: &mut Session, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut frame = |payload: &&[u8]| {
            let sealed = seal_with(session, &envelope(), name(), &Payload::from(payload.to_vec()));
            let (header, code) = sealed.expect("it is small");
            [&header[..], payload, &code].concat()
        };
        payloads.iter().map(&mut frame).collect()
    }

    /// What a connection that began with a handshake makes of `bytes`: payloads, then the error.
    fn read_keyed(bytes: &[u8]) -> (Vec<Bytes>, Option<CodecError>) {
        let (mut decoder, mut buffer) = (FrameDecoder::with_session(name(), sessions().1), BytesMut::from(bytes));
        let mut payloads = Vec::new();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => payloads.push(frame.payload),
                Ok(None) => return (payloads, None),
                Err(error) => return (payloads, Some(error)),
            }
        }
    }

    #[test]
    fn frames_of_a_session_come_in_their_order_or_not_at_all() {
        let frames = keyed(&mut sessions().0, &[b"one", b"", b"three"]);
        assert_eq!(read_keyed(&frames.concat()).0, [&b"one"[..], b"", b"three"]);
        let refused = |frames: &[&Vec<u8>], sound: usize| {
            let (payloads, error) = read_keyed(&frames.iter().copied().flatten().copied().collect::<Vec<_>>());
            assert_eq!((payloads.len(), error), (sound, Some(CodecError::BadCode)));
        };
        refused(&[&frames[0], &frames[0]], 1);
        refused(&[&frames[0], &frames[2]], 1);
        refused(&[&frames[1], &frames[0]], 0);
        // Spliced in from a connection with other nonces.
        let keyring = super::super::Keyring::parse(b"correct horse battery staple").expect("it holds a secret");
        let dialer = handshake::Dialer::new(&keyring, name(), Slot(1), Slot(2), [7; 32]).expect("there is a secret");
        let (_, answer) =
            handshake::Listener::handle_hello(&keyring, name(), Slot(2), [8; 32], dialer.hello()).expect("it is sound");
        let mut other = dialer.handle_answer(&answer).expect("it is sound").1;
        refused(&[&keyed(&mut other, &[b"one"])[0]], 0);
    }

    #[test]
    fn a_frame_of_another_slot_than_the_one_that_dialed_is_refused() {
        let (mut writer, reader) = sessions();
        let from = NodeId::new(Slot(3), envelope().from.incarnation);
        let payload = Payload::from(b"one".to_vec());
        let (header, code) =
            seal_with(&mut writer, &Envelope { from, ..envelope() }, name(), &payload).expect("it is small");
        let mut buffer = BytesMut::from(&[&header[..], b"one", &code].concat()[..]);
        let refused = FrameDecoder::with_session(name(), reader).decode(&mut buffer);
        assert_eq!(refused, Err(CodecError::OtherSender));
    }

    #[test]
    fn where_something_else_proves_the_sender_a_frame_of_another_slot_is_refused() {
        let decode = |sender| FrameDecoder::of_sender(name(), sender).decode(&mut BytesMut::from(&sample()[..]));
        assert_eq!(decode(envelope().from.slot).expect("it is sound").expect("it is whole").envelope, envelope());
        assert_eq!(decode(Slot(0)), Err(CodecError::OtherSender));
    }

    #[test]
    fn every_flipped_bit_of_a_keyed_frame_is_noticed_even_with_mended_checksums() {
        let sound = keyed(&mut sessions().0, &[b"payload"]).concat();
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (payloads, error) = read_keyed(&bytes);
            assert!(payloads.is_empty() && error.is_some(), "bit {bit}");
        }
        for at in (24..HEADER_BYTES - CHECKSUM_BYTES).chain(HEADER_BYTES..sound.len()) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            let payload = crc32fast::hash(&bytes[HEADER_BYTES..HEADER_BYTES + 7]);
            bytes[12..16].copy_from_slice(&payload.to_le_bytes());
            let header = crc32fast::hash(&bytes[..HEADER_BYTES - CHECKSUM_BYTES]);
            bytes[HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES].copy_from_slice(&header.to_le_bytes());
            assert_eq!(read_keyed(&bytes), (Vec::new(), Some(CodecError::BadCode)), "byte {at}");
        }
    }

    #[test]
    fn frames_with_a_code_and_without_are_not_taken_for_each_other() {
        assert_eq!(read_keyed(&sample()), (Vec::new(), Some(CodecError::Unauthenticated)));
        let frames = keyed(&mut sessions().0, &[b"one"]);
        assert_eq!(decode(&frames[0]), Err(CodecError::NoSecret));
        assert_eq!(decode(b"jgsh"), Err(CodecError::NoSecret));
    }

    #[test]
    fn an_incomplete_keyed_frame_says_how_much_is_missing() {
        let sound = keyed(&mut sessions().0, &[b"payload"]).concat();
        for length in 0..sound.len() {
            let mut decoder = FrameDecoder::with_session(name(), sessions().1);
            let mut buffer = BytesMut::from(&sound[..length]);
            assert_eq!(decoder.decode(&mut buffer), Ok(None), "{length} bytes");
            let end = if length < HEADER_BYTES { HEADER_BYTES } else { sound.len() };
            assert_eq!(decoder.bytes_wanted(buffer.len()), end - length);
        }
    }
}
