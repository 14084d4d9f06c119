//! Everything that decodes bytes from outside, fed with bytes that nobody would send: random ones, and sound ones with
//! changes. Whatever they are, nothing panics, and what is allocated is bounded by what came in.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bincode::{Decode, Encode};
use bytes::{Bytes, BytesMut};
use jumpgate::api::{
    Consistency, ContentType, Error, FeedEvent, Item, Key, Match, Operation, Page, Precondition, PutMode, Request,
    Response, Value,
};
use jumpgate::base::{Blob, ClusterId, Generation, Incarnation, NodeId, PartitionRecord, Slot, Version, limits};
use jumpgate::codec::{self, CodecError, Envelope, Frame, FrameDecoder, Keyring, NameHash, Payload, datagram, frame};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Cases of each test; about 150,000 in all. `JUMPGATE_DECODER_CASES` asks for another number.
const CASES: u32 = 25_000;

/// What any decoding may allocate whatever it is given: handles, error texts, a few elements of a list.
const ALLOWANCE_BYTES: usize = (16 << 10) + 1024;
/// What a decoded value may take for each byte it was encoded in; see `codec::decode`.
const DECODED_BYTES_PER_BYTE: usize = 64;

/// The system's allocator, which also keeps the most that a thread has held at once since it was last asked.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(allocated: usize, freed: usize) {
    let held = HELD.get().wrapping_add(allocated).wrapping_sub(freed);
    HELD.set(held);
    // A thread may free what another one allocated and so hold less than nothing, which is no peak.
    if held <= isize::MAX as usize {
        PEAK.set(PEAK.get().max(held));
    }
}

// A global allocator can't be written without `unsafe`. Each call is passed on to the system's allocator with the very
// arguments that came, so what the caller promises holds there too; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, 0);
        let moved = unsafe { System.realloc(block, layout, size) };
        count(0, layout.size());
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` answers, and the most bytes that it held at once.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let answer = work();
    (answer, PEAK.get().saturating_sub(before))
}

fn name() -> NameHash {
    NameHash::of("store")
}

fn envelope() -> Envelope {
    Envelope {
        cluster: ClusterId(1),
        generation: Generation(2),
        from: NodeId::new(Slot(0), Incarnation(3)),
        to: NodeId::new(Slot(1), Incarnation(4)),
    }
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

/// Requests of each kind, encoded.
fn requests() -> Vec<Vec<u8>> {
    let operations = [
        Operation::Get { key: key("a"), consistency: Consistency::Stale },
        Operation::Put {
            key: key("some/key"),
            value: Blob::from_static(b"some value"),
            content_type: ContentType::new("text/plain"),
            ttl_ms: Some(70_000),
            mode: PutMode::Create,
            precondition: Precondition {
                if_match: Some(Match::Versions((1..20).map(Version).collect())),
                if_none_match: Some(Match::Any),
            },
        },
        Operation::Delete { key: key("b"), precondition: Precondition::NONE },
        Operation::List { prefix: Blob::from_static(b"so"), after: Some(key("c")), limit: 100, values: true },
    ];
    operations.into_iter().map(|operation| encoded(&Request::new(operation, 5000))).collect()
}

/// Answers of the kinds with something in them, encoded.
fn responses() -> Vec<Vec<u8>> {
    let item = Item {
        key: key("k"),
        version: Version(1),
        value_bytes: 3,
        content_type: ContentType::new("text/plain"),
        expires_in_ms: None,
        value: Some(Blob::from_static(b"abc")),
    };
    let value = Value {
        bytes: Blob::from_static(b"some value"),
        version: Version(300),
        content_type: None,
        expires_in_ms: Some(1),
        stale: true,
        degraded: false,
    };
    let page = Page { items: vec![item; 5], next_after: Some(key("k")), degraded: false };
    [Response::Value(value), Response::NotFound, Response::Page(page)].iter().map(encoded).collect()
}

fn encoded<T: Encode>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_into(value, &mut bytes).expect("it is small");
    bytes
}

fn random_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

/// One of `samples`, changed: bytes replaced, then cut or lengthened.
fn changed(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // What lengths and variants look like at the edges of bincode's integers.
    let byte = prop_oneof![any::<u8>(), Just(0), Just(250), Just(251), Just(252), Just(253), Just(255)];
    let edits = vec((any::<Index>(), byte), 0..4);
    let tail = prop_oneof![4 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..9)];
    let cut = prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (proptest::sample::select(samples), edits, cut, tail).prop_map(|(mut bytes, edits, cut, tail)| {
        for (at, byte) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(tail);
        bytes
    })
}

fn check<S: Strategy>(cases: u32, inputs: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    // Without a file of failures: a failure prints its shrunken input, which then becomes a test of its own.
    let asked = std::env::var("JUMPGATE_DECODER_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(inputs, test).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Decoding `bytes` stays within its memory; a value that comes out survives another journey.
fn decode_is_sound<T>(bytes: &[u8]) -> Result<(), TestCaseError>
where
    T: Decode<()> + Encode + PartialEq + std::fmt::Debug,
{
    let (decoded, peak) = peak_bytes(|| codec::decode::<T>(bytes));
    prop_assert!(peak <= ALLOWANCE_BYTES + DECODED_BYTES_PER_BYTE * bytes.len(), "{peak} for {} bytes", bytes.len());
    if let Ok(value) = decoded {
        prop_assert_eq!(codec::decode::<T>(&encoded(&value)), Ok(value));
    }
    Ok(())
}

#[test]
fn requests_decode_or_are_refused() {
    let inputs = prop_oneof![2 => changed(requests()), 1 => random_bytes()];
    check(CASES, &inputs, |bytes| decode_is_sound::<Request>(&bytes));
}

#[test]
fn responses_decode_or_are_refused() {
    let inputs = prop_oneof![2 => changed(responses()), 1 => random_bytes()];
    check(CASES, &inputs, |bytes| decode_is_sound::<Response>(&bytes));
}

#[test]
fn other_types_decode_or_are_refused() {
    check(CASES, &random_bytes(), |bytes| {
        decode_is_sound::<Error>(&bytes)?;
        decode_is_sound::<FeedEvent>(&bytes)?;
        decode_is_sound::<Vec<PartitionRecord>>(&bytes)?;
        decode_is_sound::<Vec<Vec<String>>>(&bytes)
    });
}

#[test]
fn a_length_that_lies_allocates_for_the_input_and_no_more() {
    // The longest length that bincode can write, and lengths around every limit, as the only thing that came.
    for length in [u64::MAX, 1 << 40, 1 << 31, 256 << 20, 32 << 20, 1 << 20, 1 << 15] {
        let bomb = encoded(&length);
        for refused in [
            peak_bytes(|| codec::decode::<Vec<u8>>(&bomb).is_err()),
            peak_bytes(|| codec::decode::<String>(&bomb).is_err()),
            peak_bytes(|| codec::decode::<Vec<PartitionRecord>>(&bomb).is_err()),
            peak_bytes(|| codec::decode::<std::collections::BTreeMap<u64, u64>>(&bomb).is_err()),
        ] {
            assert!(refused.0 && refused.1 <= ALLOWANCE_BYTES + DECODED_BYTES_PER_BYTE * bomb.len(), "{refused:?}");
        }
        // Values, the largest of all things, allocate nothing for bytes that aren't there.
        assert_eq!(peak_bytes(|| codec::decode::<Blob>(&bomb).is_err()), (true, 0));
    }
}

#[test]
fn a_changed_datagram_is_refused_and_allocates_nothing() {
    for keyring in [Keyring::default(), keyring()] {
        a_changed_datagram_is_refused_by(&keyring);
    }
}

fn keyring() -> Keyring {
    Keyring::parse(b"correct horse battery staple").expect("it holds a secret")
}

fn a_changed_datagram_is_refused_by(keyring: &Keyring) {
    let sealed = |payload: &Vec<u8>| {
        let mut bytes = Vec::new();
        datagram::encode(&envelope(), name(), 7, payload, keyring, &mut bytes).expect("it is small");
        bytes
    };
    let sound: Vec<_> = [vec![], vec![7; 30], vec![9; 1000]].iter().map(sealed).collect();
    let inputs = prop_oneof![2 => changed(sound.clone()), 1 => vec(any::<u8>(), 0..limits::DATAGRAM_BYTES_MAX + 10)];
    check(CASES, &inputs, |bytes| {
        let (decoded, peak) = peak_bytes(|| datagram::decode::<Vec<u8>>(&bytes, name(), keyring));
        prop_assert_eq!(decoded.is_ok(), sound.contains(&bytes));
        prop_assert!(peak <= bytes.len(), "{} for {} bytes", peak, bytes.len());
        Ok(())
    });
}

#[test]
fn a_sound_datagram_with_a_senseless_payload_is_refused() {
    // A peer with a bug: header and checksum are right, the payload is whatever it is.
    #[derive(Debug)]
    struct Raw(Vec<u8>);
    impl Encode for Raw {
        fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
            use bincode::enc::write::Writer;
            encoder.writer().write(&self.0)
        }
    }
    let keyring = keyring();
    let inputs = prop_oneof![2 => changed(requests()), 1 => random_bytes()];
    check(CASES, &inputs, |payload| {
        let mut bytes = Vec::new();
        datagram::encode(&envelope(), name(), 7, &Raw(payload.clone()), &keyring, &mut bytes).expect("it is small");
        let decoded = datagram::decode::<Request>(&bytes, name(), &keyring).map(|datagram| datagram.payload);
        prop_assert_eq!(decoded, codec::decode::<Request>(&payload));
        Ok(())
    });
}

/// Everything that comes out of a connection that brings `stream` in `parts` and then ends.
fn read_all(stream: &[u8], parts: &[Index]) -> (Vec<Frame>, Option<CodecError>) {
    let mut cuts: Vec<_> = parts.iter().map(|part| part.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    let (mut decoder, mut buffer, mut frames) = (FrameDecoder::new(name()), BytesMut::new(), Vec::new());
    for cut in cuts.windows(2) {
        buffer.extend_from_slice(&stream[cut[0]..cut[1]]);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// A stream of frames with requests in them, and the payloads that are in it.
fn stream() -> (Vec<u8>, Vec<Bytes>) {
    let (mut stream, mut payloads) = (Vec::new(), Vec::new());
    for requests in [&requests()[..], &[], &requests()[..1]] {
        let mut payload = Payload::default();
        for request in requests {
            payload.append(request).expect("it is small");
        }
        stream.extend(frame::seal(&envelope(), name(), &payload).expect("it is small"));
        payload.pieces().for_each(|piece| stream.extend_from_slice(piece));
        payloads.push(Bytes::from(payload.to_vec()));
    }
    (stream, payloads)
}

#[test]
fn a_changed_stream_yields_sound_frames_until_it_is_refused() {
    let (sound, payloads) = stream();
    let streams = prop_oneof![3 => changed(vec![sound]), 1 => random_bytes()];
    check(CASES, &(streams, vec(any::<Index>(), 0..6)), |(stream, parts)| {
        let ((frames, _), peak) = peak_bytes(|| read_all(&stream, &parts));
        prop_assert!(frames.len() <= payloads.len());
        for (frame, payload) in frames.iter().zip(&payloads) {
            prop_assert_eq!(&frame.payload, payload);
            prop_assert_eq!(frame.envelope, envelope());
        }
        prop_assert!(peak <= 2 * stream.len() + 2048, "{} for {} bytes", peak, stream.len());
        Ok(())
    });
}

#[test]
fn a_senseless_payload_has_messages_up_to_the_first_error() {
    let (stream, _) = stream();
    let samples = vec![stream[frame::HEADER_BYTES..].to_vec()];
    let inputs = prop_oneof![3 => changed(samples), 1 => random_bytes()];
    check(CASES, &inputs, |payload| {
        let (counted, peak) = peak_bytes(|| {
            frame::messages(&payload).fold((0, 0), |(bytes, errors), message| match message {
                Ok(message) => (bytes + 4 + message.len(), errors),
                Err(_) => (bytes, errors + 1),
            })
        });
        let (bytes, errors) = counted;
        prop_assert_eq!(peak, 0);
        prop_assert!(errors <= 1 && bytes <= payload.len());
        prop_assert_eq!(bytes == payload.len(), errors == 0);
        Ok(())
    });
}
