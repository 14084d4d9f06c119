//! Reading a request's body within bounds.
//!
//! Three bounds hold: the bytes of one body, the bytes of all bodies that are in memory at once, and time. The time a
//! body may take grows with what has arrived, so that a large value on a slow line gets through and one byte every nine
//! seconds doesn't.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use warp::http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use warp::http::{HeaderMap, Request};

use super::GatewayOptions;
use super::problem::Problem;
use super::routes::Shared;
use crate::api::Error;
use crate::base::Blob;

/// A client that sends slower than this is not sending a value but holding a connection.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;
/// Allocated before more than the first chunk has arrived, whatever Content-Length claims.
const PREALLOCATED_BYTES_MAX: usize = 1 << 20;
/// A single chunk of at least this size is kept as it is; a smaller one is copied out. A chunk is a slice of the HTTP
/// parser's read buffer, which has up to 64 KiB and is kept alive by it: stored uncopied, a value of ten bytes would
/// take the memory of thousands.
const SHARED_CHUNK_BYTES_MIN: usize = 32 << 10;
/// What is read and thrown away of a body whose request was answered without it.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(5);

/// The body of one request, not read yet.
pub(super) struct Body<S> {
    stream: S,
    /// Whether there is anything left to read, as far as is known.
    unread: bool,
    /// The length that the headers announce.
    announced: Option<u64>,
    /// The client waits to be told to go on before it sends the body.
    expects_continue: bool,
}

/// How much all bodies of a gateway take at the moment.
#[derive(Debug, Default)]
pub(super) struct BodyBytes(AtomicUsize);

/// A body's part of that; given back when it is dropped.
pub(super) struct Charge<'a> {
    total: &'a BodyBytes,
    bytes: usize,
}

impl<S, B, E> Body<S>
where
    S: Stream<Item = Result<B, E>> + Send + Unpin + 'static,
    B: Buf,
{
    /// The body that comes in `stream` after `headers`.
    pub(super) fn new(stream: S, headers: &HeaderMap) -> Self {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse::<u64>().ok());
        let unread = announced.is_some_and(|length| length > 0) || headers.contains_key(TRANSFER_ENCODING);
        Self { stream, unread, announced, expects_continue: unread && headers.contains_key(EXPECT) }
    }

    /// Reads all of it, which is a value. The charge must be held for as long as the bytes are.
    pub(super) async fn read<'a>(
        &mut self,
        options: &GatewayOptions,
        total: &'a BodyBytes,
    ) -> Result<(Blob, Charge<'a>), Problem> {
        self.read_within(Most::Value(options.value_bytes_max), options, total).await
    }

    /// Reads all of it.
    pub(super) async fn read_within<'a>(
        &mut self,
        most: Most,
        options: &GatewayOptions,
        total: &'a BodyBytes,
    ) -> Result<(Blob, Charge<'a>), Problem> {
        if let Some(announced) = self.announced.filter(|&announced| announced > most.bytes() as u64) {
            return Err(most.exceeded_by(announced));
        }
        let mut charge = Charge { total, bytes: 0 };
        let mut clock = Clock::new(options.body_timeout);
        let Some(first) = self.chunk(most, options, &mut clock, &mut charge).await? else {
            return Ok((Blob::default(), charge));
        };
        let Some(second) = self.chunk(most, options, &mut clock, &mut charge).await? else {
            let shared = first.len() >= SHARED_CHUNK_BYTES_MIN;
            return Ok((Blob(if shared { first } else { Bytes::copy_from_slice(&first) }), charge));
        };
        let expected = self.announced.map_or(0, |announced| announced as usize);
        let mut collected = Vec::with_capacity(expected.clamp(charge.bytes, charge.bytes.max(PREALLOCATED_BYTES_MAX)));
        collected.extend_from_slice(&first);
        collected.extend_from_slice(&second);
        while let Some(chunk) = self.chunk(most, options, &mut clock, &mut charge).await? {
            if collected.capacity() - collected.len() < chunk.len() && expected > collected.len() {
                // A mebibyte has really come: the announced rest is believed now, so that nothing is copied twice.
                collected.reserve_exact(expected - collected.len());
            }
            collected.extend_from_slice(&chunk);
        }
        // The value may stay for ever; spare capacity would stay with it.
        collected.shrink_to_fit();
        Ok((Blob::from(collected), charge))
    }

    /// The next chunk, counted and charged.
    async fn chunk(
        &mut self,
        most: Most,
        options: &GatewayOptions,
        clock: &mut Clock,
        charge: &mut Charge<'_>,
    ) -> Result<Option<Bytes>, Problem> {
        loop {
            let Ok(next) = timeout_at(clock.deadline(), self.stream.next()).await else {
                return Err(Problem::body_too_slow());
            };
            match next {
                None => {
                    self.unread = false;
                    return Ok(None);
                }
                Some(Err(_)) => {
                    self.unread = false;
                    return Err(Problem::bad_request("the body broke off or is framed wrongly"));
                }
                Some(Ok(mut chunk)) => {
                    let chunk = chunk.copy_to_bytes(chunk.remaining());
                    let arrived = charge.bytes + chunk.len();
                    if arrived > most.bytes() {
                        return Err(most.exceeded_by(arrived as u64));
                    }
                    charge.add(chunk.len(), options.bodies_bytes_max)?;
                    clock.on_arrival(arrived as u64);
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    /// The next bytes of a body that is passed on while it comes; none after the last ones. Only the time that the client takes
    /// counts, not what is done with the bytes meanwhile.
    pub(super) async fn next(&mut self, pace: &mut Pace) -> Result<Option<Bytes>, Problem> {
        loop {
            let begun = Instant::now();
            let Ok(next) = timeout_at(begun + pace.left(), self.stream.next()).await else {
                return Err(Problem::body_too_slow());
            };
            pace.waited += begun.elapsed();
            match next {
                None => {
                    self.unread = false;
                    return Ok(None);
                }
                Some(Err(_)) => {
                    self.unread = false;
                    return Err(Problem::bad_request("the body broke off or is framed wrongly"));
                }
                Some(Ok(mut chunk)) if chunk.has_remaining() => {
                    let chunk = chunk.copy_to_bytes(chunk.remaining());
                    pace.bytes += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// The length that the headers announce.
    pub(super) const fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Refuses where there is a body.
    pub(super) fn refuse_content(&self, why: &'static str) -> Result<(), Problem> {
        if self.unread { Err(Problem::bad_request(why)) } else { Ok(()) }
    }

    /// Lets go of the body. Where the answer came before the end of the body, the rest is read and thrown away for a
    /// while: closing a connection with unread bytes resets it, and the client, busy sending, would never see the answer
    /// that says why. A client that waits for "100 Continue" has sent nothing and will not.
    pub(super) fn let_go(self) {
        if !self.unread || self.expects_continue {
            return;
        }
        let mut stream = self.stream;
        tokio::spawn(async move {
            let deadline = Instant::now() + LINGER;
            let mut thrown_away = 0;
            while let Ok(Some(Ok(chunk))) = timeout_at(deadline, stream.next()).await {
                thrown_away += chunk.remaining();
                if thrown_away > LINGER_BYTES_MAX {
                    break;
                }
            }
        });
    }
}

/// Lets go of a request that no route has seen, and of its body as [`Body::let_go`] does.
pub(super) fn let_go(request: Request<Incoming>) {
    let (head, body) = request.into_parts();
    Body::new(body.into_data_stream(), &head.headers).let_go();
}

/// What a body is, and how many bytes it may have at most.
#[derive(Clone, Copy)]
pub(super) enum Most {
    Value(usize),
    Batch(usize),
}

impl Most {
    const fn bytes(self) -> usize {
        match self {
            Self::Value(bytes) | Self::Batch(bytes) => bytes,
        }
    }

    fn exceeded_by(self, bytes: u64) -> Problem {
        match self {
            Self::Value(most) => Problem::from(Error::ValueTooLarge { bytes, bytes_max: most as u64 }),
            Self::Batch(most) => {
                Problem::batch_too_large(format!("the batch has {bytes} bytes of JSON; at most {most} are allowed"))
            }
        }
    }
}

/// Until when the next chunk must have come.
struct Clock {
    begin: Instant,
    pause_max: Duration,
    deadline: Instant,
}

impl Clock {
    fn new(pause_max: Duration) -> Self {
        let begin = Instant::now();
        Self { begin, pause_max, deadline: begin + pause_max }
    }

    const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Both the pause after this chunk and the pace of all chunks are bounded.
    fn on_arrival(&mut self, bytes: u64) {
        let at_this_pace = self.begin + self.pause_max + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        self.deadline = at_this_pace.min(Instant::now() + self.pause_max);
    }
}

/// How long a client that sends a long body may take.
pub(super) struct Pace {
    pause_max: Duration,
    /// How long it was waited for so far.
    waited: Duration,
    /// What came.
    bytes: u64,
}

impl Pace {
    pub(super) const fn new(pause_max: Duration) -> Self {
        Self { pause_max, waited: Duration::ZERO, bytes: 0 }
    }

    /// By when the next bytes must have come: both each pause and the pace of all are bounded.
    fn left(&self) -> Duration {
        let at_this_pace = self.pause_max + Duration::from_secs(self.bytes / BYTES_PER_SECOND_MIN);
        at_this_pace.saturating_sub(self.waited).min(self.pause_max)
    }
}

/// The part that one stream has of what all bodies may take, however long the stream is; given back when it is dropped.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Reservation {
    pub(super) fn new(shared: &Arc<Shared>, bytes: usize) -> Result<Self, Problem> {
        let mut charge = Charge { total: &shared.body_bytes, bytes: 0 };
        charge.add(bytes, shared.options.bodies_bytes_max)?;
        charge.bytes = 0;
        Ok(Self { shared: Arc::clone(shared), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.body_bytes.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Charge<'_> {
    fn add(&mut self, bytes: usize, bytes_max: usize) -> Result<(), Problem> {
        let before = self.total.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > bytes_max {
            return Err(Error::Busy("too many bytes of uploads are under way".to_owned()).into());
        }
        Ok(())
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use warp::http::HeaderValue;
    use warp::http::Method;

    use super::*;

    /// Reads a body of these chunks; gives the value, or the status of the problem.
    async fn read(chunks: Vec<Vec<u8>>, announced: Option<u64>, options: &GatewayOptions) -> Result<Blob, u16> {
        let mut headers = HeaderMap::new();
        if let Some(announced) = announced {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(announced));
        }
        let stream = stream::iter(chunks.into_iter().map(|chunk| Ok::<_, warp::Error>(Bytes::from(chunk))));
        let total = BodyBytes::default();
        let result = match Body::new(stream, &headers).read(options, &total).await {
            Ok((blob, _charge)) => Ok(blob),
            Err(problem) => Err(problem.into_response(&Method::PUT).status().as_u16()),
        };
        assert_eq!(total.0.load(Ordering::Relaxed), 0, "a charge was not given back");
        result
    }

    #[tokio::test]
    async fn bodies_are_collected_whole_and_refused_over_the_limits() {
        let options = GatewayOptions { value_bytes_max: 100_000, bodies_bytes_max: 90_000, ..Default::default() };
        let piece = |bytes: usize| (0..bytes).map(|at| at as u8).collect::<Vec<u8>>();
        for chunks in [vec![], vec![10], vec![40_000], vec![10, 0, 20], vec![30_000, 30_000, 20_000]] {
            let chunks: Vec<Vec<u8>> = chunks.into_iter().map(piece).collect();
            let whole = chunks.concat();
            let announced = [None, Some(whole.len() as u64)];
            for announced in announced {
                let read = read(chunks.clone(), announced, &options).await;
                assert_eq!(read.as_deref(), Ok(whole.as_slice()), "{} chunks", chunks.len());
            }
        }
        assert_eq!(read(vec![], Some(100_001), &options).await, Err(413), "the announced length is not believed");
        let large = GatewayOptions { bodies_bytes_max: usize::MAX, ..options.clone() };
        assert_eq!(read(vec![piece(60_000), piece(40_001)], None, &large).await, Err(413));
        assert_eq!(read(vec![piece(60_000), piece(30_001)], None, &options).await, Err(429));
    }

    #[test]
    fn a_trickle_has_no_more_time_than_its_bytes_give_it() {
        let mut clock = Clock::new(Duration::from_secs(10));
        clock.begin = clock.begin.checked_sub(Duration::from_secs(60)).expect("the machine runs for a minute");
        clock.on_arrival(1000);
        assert!(clock.deadline() < Instant::now(), "a kilobyte in a minute was enough");
        clock.on_arrival(60 * BYTES_PER_SECOND_MIN);
        assert!(clock.deadline() > Instant::now(), "a steady pace was not");
    }

    #[tokio::test]
    async fn a_stored_value_keeps_no_spare_memory() {
        let chunks = vec![vec![1; 50_000], vec![2; 50_000], vec![3; 1]];
        let blob = read(chunks, None, &GatewayOptions::default()).await.expect("within the limits");
        let bytes: Vec<u8> = blob.0.into();
        assert_eq!(bytes.capacity(), bytes.len());
    }
}
