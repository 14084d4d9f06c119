//! A stream of frames, in pieces: as it is, and with the checksums that an attacker would have written.

#![no_main]

use bytes::BytesMut;
use jumpgate::codec::{self, CodecError, FrameDecoder, NameHash, frame};
use jumpgate::node::message::PeerMessage;
use libfuzzer_sys::fuzz_target;

/// Reads `stream` in pieces of `piece` bytes; the frames' lengths.
fn read(stream: &[u8], piece: usize) -> Result<Vec<usize>, CodecError> {
    let (mut decoder, mut buffer, mut lengths) =
        (FrameDecoder::new(NameHash::of("store")), BytesMut::new(), Vec::new());
    for part in stream.chunks(piece) {
        buffer.extend_from_slice(part);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            lengths.push(frame.payload.len());
            for message in frame::messages(&frame.payload).flatten() {
                let _ = codec::decode::<PeerMessage>(message);
            }
        }
    }
    Ok(lengths)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let mut mended = stream.to_vec();
    if mended.len() >= frame::HEADER_BYTES {
        let (header, payload) = mended.split_at_mut(frame::HEADER_BYTES);
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        let checksum = crc32fast::hash(&header[..frame::HEADER_BYTES - 4]);
        header[frame::HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    }
    for stream in [stream, &mended] {
        let whole = read(stream, stream.len().max(1));
        assert_eq!(whole.is_ok(), read(stream, usize::from(piece).max(1)).is_ok(), "however the stream is cut");
    }
});
