//! The reading end: takes frames off one connection that came in.

use std::io;

use bytes::{BufMut as _, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::door::{FrameSink, ListenerOptions};
use crate::codec::frame::SHORT_PAYLOAD_BYTES_MAX;
use crate::codec::{CodecError, FrameDecoder};
use crate::net::Counters;

/// What is read at once, but of a long frame: a small read costs as much. No long frame is whole by the read that its header came
/// with, so each gets a buffer of its own.
const READ_BYTES: usize = SHORT_PAYLOAD_BYTES_MAX;
/// The room that a read gets at most while the beginning of a long frame comes: two full chunks of a writer.
const READ_BYTES_MAX: usize = 256 << 10;
/// A long frame gets its buffer once one part in so many of it has come. That memory isn't touched before its bytes come.
const OWN_BUFFER_PART: usize = 16;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(in crate::net) enum End {
    /// The peer closed it between two frames.
    #[error("the peer closed it")]
    Closed,
    /// The peer closed it within a frame: it died, or gave up what it was writing.
    #[error("the peer closed it within a frame")]
    CutOff,
    /// The connection broke.
    #[error("it broke: {0}")]
    Broken(io::Error),
    /// The peer sent what is no frame.
    #[error("refused: {0}")]
    Refused(CodecError),
    /// The connection's first header didn't come in time.
    #[error("no frame came in time")]
    NoFirstFrame,
    /// The peer didn't prove in time who it is, or that it holds a secret.
    #[error("nothing was proven in time")]
    NoProof,
    /// It had proven nothing yet, and another connection needed its place.
    #[error("it had proven nothing, and another connection needed its place")]
    Displaced,
    /// What the peer shows for itself doesn't prove that it is a node of this cluster, or no longer does.
    #[error("{words}")]
    Untrusted {
        /// The cause in one word.
        reason: &'static str,
        /// The cause in a sentence.
        words: String,
    },
    /// The peer ended it because it doesn't trust this node.
    #[error("the peer refused it: {0}")]
    RefusedByPeer(String),
    /// The secret that the connection was proven by is no longer valid.
    #[error("the secret that it was proven by is no longer valid")]
    SecretRemoved,
    /// As many peers are connected as may be.
    #[error("too many connections are open already")]
    OverCap,
    /// A frame was begun and then not a byte of it came.
    #[error("a frame stood still for too long")]
    HalfFrame,
}

impl End {
    /// The cause in one word where the peer is to blame: a label of metrics.
    pub(in crate::net) const fn rejection(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::CutOff | Self::Broken(_) | Self::RefusedByPeer(_) | Self::OverCap => None,
            Self::Refused(error) => Some(error.reason()),
            Self::Untrusted { reason, .. } => Some(reason),
            Self::NoFirstFrame => Some("no_first_frame"),
            Self::NoProof => Some("no_proof"),
            Self::Displaced => Some("displaced"),
            Self::SecretRemoved => Some("secret_removed"),
            Self::HalfFrame => Some("half_frame"),
        }
    }
}

/// Takes frames off `stream` with `decoder` and hands them to `sink` until the connection ends. A peer that `is_proven`
/// may keep its first frame to itself for as long as it likes.
pub(in crate::net) async fn drive_reader<S: FrameSink>(
    mut stream: impl AsyncRead + Unpin,
    mut decoder: FrameDecoder,
    is_proven: bool,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let mut is_known = is_proven;
    let mut buffer = BytesMut::new();
    let first_deadline = Instant::now() + options.first_frame;
    loop {
        let room = make_room(&mut buffer, &decoder);
        let deadline = match (is_known, decoder.is_within_frame(buffer.len())) {
            (false, _) => Some((first_deadline, End::NoFirstFrame)),
            (true, true) => Some((Instant::now() + options.half_frame, End::HalfFrame)),
            (true, false) => None,
        };
        let mut place = (&mut buffer).limit(room);
        let reading = stream.read_buf(&mut place);
        let read = match deadline {
            None => reading.await,
            Some((at, end)) => match timeout_at(at, reading).await {
                Ok(read) => read,
                Err(_) => return end,
            },
        };
        match read {
            Ok(0) if decoder.is_within_frame(buffer.len()) => return End::CutOff,
            Ok(0) => return End::Closed,
            Ok(bytes) => counters.stream_bytes_received.add(bytes as u64),
            Err(error) => return End::Broken(error),
        }
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    counters.frames_received.add(1);
                    sink.handle_frame(frame);
                    is_known = true;
                }
                Ok(None) => break,
                Err(error) => return End::Refused(error),
            }
        }
        // A sound header of this cluster is proof enough: a large first frame may take its time.
        is_known |= decoder.has_header();
    }
}

/// Makes room for the next read, and says how much of it is to be used.
///
/// A buffer grows with what has come, not with what a header promises: at most to twice the bytes that are really there, until
/// there are enough of a long frame to give it its own.
fn make_room(buffer: &mut BytesMut, decoder: &FrameDecoder) -> usize {
    if !decoder.is_long() {
        buffer.reserve(READ_BYTES);
        return READ_BYTES;
    }
    let wanted = decoder.bytes_wanted(buffer.len());
    let whole = buffer.len() + wanted;
    if buffer.len() < whole / OWN_BUFFER_PART {
        let room = wanted.clamp(READ_BYTES, READ_BYTES_MAX.max(buffer.len()));
        buffer.reserve(room);
        return room;
    }
    if buffer.capacity() != whole {
        let mut own = BytesMut::with_capacity(whole);
        own.extend_from_slice(buffer);
        *buffer = own;
    }
    wanted
}
