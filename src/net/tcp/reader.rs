//! The reading end: takes frames off one connection that came in.

use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::listener::{FrameSink, ListenerOptions};
use crate::codec::handshake::Session;
use crate::codec::{CodecError, FrameDecoder, NameHash};
use crate::net::Counters;

/// The least room that a read gets: a small read costs as much as one of this size.
const READ_BYTES_MIN: usize = 64 << 10;
/// The room that a read gets at most while a frame is under way: two full chunks of a writer.
const READ_BYTES_MAX: usize = 256 << 10;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum End {
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
    /// The peer didn't prove in time that it holds a secret.
    #[error("no secret was proven in time")]
    NoProof,
    /// It had proven nothing yet, and another connection needed its place.
    #[error("it proved no secret, and another connection needed its place")]
    Displaced,
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
    pub(super) const fn rejection(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::CutOff | Self::Broken(_) | Self::OverCap => None,
            Self::Refused(error) => Some(error.reason()),
            Self::NoFirstFrame => Some("no_first_frame"),
            Self::NoProof => Some("no_proof"),
            Self::Displaced => Some("displaced"),
            Self::SecretRemoved => Some("secret_removed"),
            Self::HalfFrame => Some("half_frame"),
        }
    }
}

/// Reads frames, with the codes of `session` where the connection has one, and hands them to `sink` until the connection ends.
pub(super) async fn drive_reader<S: FrameSink>(
    mut stream: TcpStream,
    name: NameHash,
    session: Option<Session>,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let mut is_known = session.is_some();
    let mut decoder =
        session.map_or_else(|| FrameDecoder::new(name), |session| FrameDecoder::with_session(name, session));
    let mut buffer = BytesMut::new();
    let first_deadline = Instant::now() + options.first_frame;
    loop {
        // Grows with what has come, not with what a header promises: at most to twice the bytes that are really there.
        let wanted = decoder.bytes_wanted(buffer.len());
        buffer.reserve(wanted.clamp(READ_BYTES_MIN, READ_BYTES_MAX.max(buffer.len())));
        let deadline = match (is_known, decoder.is_within_frame(buffer.len())) {
            (false, _) => Some((first_deadline, End::NoFirstFrame)),
            (true, true) => Some((Instant::now() + options.half_frame, End::HalfFrame)),
            (true, false) => None,
        };
        let read = match deadline {
            None => stream.read_buf(&mut buffer).await,
            Some((at, end)) => match timeout_at(at, stream.read_buf(&mut buffer)).await {
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
