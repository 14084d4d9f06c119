//! The writing end: dials a peer, writes what waits for it, dials again when the connection breaks.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::outbox::{Chunk, Outbox};
use super::proof::{self, Secrets};
use super::reader::End;
use super::tune;
use crate::base::{Rng, Slot};
use crate::codec::handshake::Session;
use crate::codec::{CODE_BYTES, CodecError, Keyring, NameHash, StreamKey, frame};
use crate::net::Counters;

/// Frames handed to the kernel in one call: 2 MiB of full ones, which is what a socket buffers anyway.
const FRAMES_PER_WRITE: usize = 16;

/// How long a connection that was proven by a secret that is no longer valid may still take to finish what it writes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Dials in a row that end before anything was proven, until that is said aloud.
const UNPROVEN_DIALS: u32 = 3;

/// What happened to the connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It stands. What was pushed meanwhile is sent now.
    Connected(Slot),
    /// It is gone; what was being written may not have arrived. A hint that the peer may have died.
    Disconnected(Slot),
}

/// Times of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// How long resolving the peer's name, connecting to it and proving a secret may take.
    pub dial_timeout: Duration,
    /// The pause after the first failure; it doubles with each further one. Half of each pause is random.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// How long writing may go on after a shutdown was asked for.
    pub flush: Duration,
    /// The seed of the random part of the pauses.
    pub seed: u64,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(2),
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_secs(1),
            flush: Duration::from_millis(500),
            seed: 0,
        }
    }
}

/// The way to one peer.
pub struct Link {
    /// Where this node sits in the configuration.
    pub me: Slot,
    /// Where the peer sits.
    pub slot: Slot,
    /// Where it listens, `host:port`; resolved anew for every dial.
    pub address: String,
    /// The hash of the cluster's name.
    pub name: NameHash,
    /// What this node proves to it, and it to this node; without any secret neither proves anything.
    pub secrets: Secrets,
    /// What waits for it.
    pub outbox: Arc<Outbox>,
    /// Where to count.
    pub counters: Arc<Counters>,
    /// Who is told of connects and disconnects, in the writer's task: it must not block.
    pub on_event: Arc<dyn Fn(LinkEvent) + Send + Sync>,
    /// Its times.
    pub options: LinkOptions,
}

/// Writes to one peer until `shutdown` is cancelled, then writes what is left and ends.
///
/// What is queued while there is no connection waits, within the bound of its [`Outbox`].
pub async fn run_writer(link: Link, shutdown: CancellationToken) {
    let mut pause = Pause::new(&link.options);
    let mut unproven = 0;
    while !shutdown.is_cancelled() {
        let Some(dialed) = shutdown.run_until_cancelled(link.dial()).await else {
            return;
        };
        match dialed {
            Ok((stream, session)) => {
                unproven = 0;
                let connected_at = Instant::now();
                info!(peer = %link.slot, address = link.address, "stream connected");
                link.counters.connections_dialed.add(1);
                (link.on_event)(LinkEvent::Connected(link.slot));
                let why = link.drive_connection(stream, session, &shutdown).await;
                if matches!(why, Disconnect::Rekey) {
                    // All was written, and the peer is there: the next connection follows at once.
                    debug!(peer = %link.slot, address = link.address, "stream is dialed again: {why}");
                    continue;
                }
                info!(peer = %link.slot, address = link.address, "stream disconnected: {why}");
                (link.on_event)(LinkEvent::Disconnected(link.slot));
                // One that broke at once (too many connections there, another cluster) counts as another failure.
                if connected_at.elapsed() > link.options.pause_max {
                    pause.reset();
                }
            }
            Err(error) => {
                link.counters.dials_failed.add(1);
                debug!(peer = %link.slot, address = link.address, "can't connect: {error}");
                if let DialError::Unproven(end) = error {
                    if let Some(reason) = end.rejection() {
                        link.counters.add_rejection(reason);
                    }
                    unproven += 1;
                    // Once, and not for a peer that died in the middle of it.
                    if unproven == UNPROVEN_DIALS {
                        warn!(peer = %link.slot, address = link.address, "this node and its peer share no secret: {end}");
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = link.outbox.reachable() => {}
            () = sleep(pause.next()) => {}
        }
    }
}

/// A connection, and what proves its frames.
type Dialed = (TcpStream, Option<Session>);

/// Why there is no connection.
#[derive(Debug, Error)]
enum DialError {
    #[error(transparent)]
    System(#[from] io::Error),
    /// The two ends did not prove to each other that they hold a secret.
    #[error("nothing was proven: {0}")]
    Unproven(End),
}

/// Why a connection is given up.
#[derive(Debug, Error)]
enum Disconnect {
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// All that was taken was written; another connection, proven by other secrets, is to go on.
    #[error("the secrets have changed")]
    Rekey,
}

impl Link {
    async fn dial(&self) -> Result<Dialed, DialError> {
        let dialing = async {
            let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"));
            for address in lookup_host(&self.address).await? {
                result = TcpStream::connect(address).await.and_then(not_to_itself);
                if result.is_ok() {
                    break;
                }
            }
            let mut stream = result?;
            tune(&stream)?;
            let session = proof::dial(&mut stream, &self.secrets, self.name, self.me, self.slot).await;
            Ok((stream, session.map_err(DialError::Unproven)?))
        };
        timeout(self.options.dial_timeout, dialing)
            .await
            .unwrap_or_else(|elapsed| Err(DialError::System(elapsed.into())))
    }

    /// Writes until the connection breaks or a shutdown has nothing left to write; says which.
    async fn drive_connection(
        &self,
        mut stream: TcpStream,
        session: Option<Session>,
        shutdown: &CancellationToken,
    ) -> Disconnect {
        let (mut from_peer, mut to_peer) = stream.split();
        let proven_by = session.as_ref().map(Session::proven_by);
        let mut writing = std::pin::pin!(self.write_until_idle(&mut to_peer, session, shutdown));
        let mut unexpected = [0];
        // The peer never writes here. Reading is how an idle writer learns at once that the peer has gone; otherwise the
        // next frame would go into the void without an error.
        let reading = async {
            match from_peer.read(&mut unexpected).await {
                Ok(0) => io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed it"),
                Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer wrote where it only reads"),
                Err(error) => error,
            }
        };
        let stopping = async {
            shutdown.cancelled().await;
            sleep(self.options.flush).await;
            io::Error::new(io::ErrorKind::TimedOut, "this node shut down before all was written")
        };
        let secret_removed = async {
            proof::until(self.secrets.clone(), |keyring| !is_valid(proven_by, keyring)).await;
            sleep(LAST_WORDS).await;
            io::Error::new(io::ErrorKind::PermissionDenied, "the secret that it was proven by is no longer valid")
        };
        // Each happens once, and writing goes on all the time: they are asked only when something has woken them.
        let mut ends: FuturesUnordered<BoxFuture<'_, io::Error>> = FuturesUnordered::new();
        ends.push(Box::pin(reading));
        ends.push(Box::pin(stopping));
        ends.push(Box::pin(secret_removed));
        tokio::select! {
            end = &mut writing => end,
            Some(error) = ends.next() => Disconnect::Broken(error),
        }
    }

    /// Writes until there is nothing left to write and a reason to end, or until other secrets ask for another connection.
    async fn write_until_idle(
        &self,
        to_peer: &mut WriteHalf<'_>,
        mut session: Option<Session>,
        shutdown: &CancellationToken,
    ) -> Disconnect {
        let proven_by = session.as_ref().map(Session::proven_by);
        let mut batch = Batch { outbox: &self.outbox, counters: &self.counters, chunks: VecDeque::new() };
        let mut secrets = self.secrets.clone();
        let stopping = async {
            shutdown.cancelled().await;
            Disconnect::Broken(io::Error::other("this node is shutting down"))
        };
        let secrets_changed = async {
            proof::until(self.secrets.clone(), |keyring| !is_current(proven_by, keyring)).await;
            Disconnect::Rekey
        };
        // Asked only when something has woken them, as above.
        let mut reasons: FuturesUnordered<BoxFuture<'_, Disconnect>> = FuturesUnordered::new();
        reasons.push(Box::pin(stopping));
        reasons.push(Box::pin(secrets_changed));
        loop {
            // For a writer that is never idle; asking whether there is anything new costs one look at a number.
            if secrets.has_changed().unwrap_or(false) && !is_current(proven_by, &secrets.borrow_and_update()) {
                // What waits goes by the next connection.
                let _ = to_peer.shutdown().await;
                return Disconnect::Rekey;
            }
            self.outbox.take(&mut batch.chunks);
            if !batch.chunks.is_empty() {
                match self.write_batch(to_peer, session.as_mut(), &mut batch).await {
                    Ok(()) => continue,
                    Err(error) => return Disconnect::Broken(error),
                }
            }
            tokio::select! {
                // First, so that what was pushed before the shutdown is still written.
                biased;
                // Whoever pushed has woken this task next in line, before the tasks that were woken together with it and
                // will push too. Letting them go first makes one frame, and one wake-up of the peer, of all of theirs.
                () = self.outbox.filled() => yield_now().await,
                Some(reason) = reasons.next() => {
                    let _ = to_peer.shutdown().await;
                    return reason;
                }
            }
        }
    }

    /// Writes every chunk as one frame, many frames in one call.
    async fn write_batch(
        &self,
        to_peer: &mut WriteHalf<'_>,
        mut session: Option<&mut Session>,
        batch: &mut Batch<'_>,
    ) -> io::Result<()> {
        while !batch.chunks.is_empty() {
            let frames = batch.chunks.len().min(FRAMES_PER_WRITE);
            let mut seals = Vec::with_capacity(frames);
            for chunk in batch.chunks.iter().take(frames) {
                seals.push(self.seal(session.as_deref_mut(), chunk).map_err(io::Error::other)?);
            }
            let mut parts = Vec::with_capacity(3 * frames);
            for ((header, code), chunk) in seals.iter().zip(&batch.chunks) {
                parts.push(IoSlice::new(header));
                parts.push(IoSlice::new(&chunk.payload));
                parts.extend(code.as_ref().map(|code| IoSlice::new(code)));
            }
            let written = write_all(to_peer, &mut parts).await?;
            self.counters.stream_bytes_sent.add(written);
            self.counters.frames_sent.add(frames as u64);
            batch.chunks.drain(..frames).for_each(|chunk| self.outbox.release(chunk));
        }
        Ok(())
    }

    /// What goes around a chunk: its header, and its code where the connection has a session.
    fn seal(&self, session: Option<&mut Session>, chunk: &Chunk) -> Result<Seal, CodecError> {
        let Chunk { envelope, payload, .. } = chunk;
        match session {
            Some(session) => {
                let (header, code) = frame::seal_with(session, envelope, self.name, payload)?;
                Ok((header, Some(code)))
            }
            None => Ok((frame::seal(envelope, self.name, payload)?, None)),
        }
    }
}

type Seal = ([u8; frame::HEADER_BYTES], Option<[u8; CODE_BYTES]>);

/// Whether a connection that was proven by this secret may go on.
fn is_valid(proven_by: Option<StreamKey>, keyring: &Keyring) -> bool {
    proven_by.map_or(keyring.is_empty(), |secret| keyring.holds(&secret))
}

/// Whether a connection that was proven by this secret needn't be replaced: the next one would be proven by the same.
fn is_current(proven_by: Option<StreamKey>, keyring: &Keyring) -> bool {
    proven_by.map_or(keyring.is_empty(), |secret| keyring.signs_with(&secret))
}

/// What a connection has taken from the queue and not yet written. Where the connection breaks it is lost, counted, and
/// its bytes no longer count against the queue, in whatever way the writing ended.
struct Batch<'a> {
    outbox: &'a Outbox,
    counters: &'a Counters,
    chunks: VecDeque<Chunk>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            self.counters.messages_lost.add(chunk.messages);
            self.outbox.release(chunk);
        }
    }
}

/// Writes all of `parts`, in as few calls as the socket's buffer allows; how many bytes that were.
async fn write_all(to_peer: &mut WriteHalf<'_>, mut parts: &mut [IoSlice<'_>]) -> io::Result<u64> {
    let mut total = 0;
    // Skips empty parts, so that a call that writes nothing means that nothing can be written any more.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let written = to_peer.write_vectored(parts).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        total += written as u64;
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(total)
}

/// Refuses a connection whose two ends are one: dialing a port of this machine where nobody listens can by chance take
/// that very port as the local one, and TCP then connects the socket with itself. It would hold the port that the peer
/// wants to listen on.
fn not_to_itself(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? != stream.peer_addr()? {
        return Ok(stream);
    }
    // Closed without the usual wait, which would hold the port for another minute.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"))
}

/// Pauses between dials: each up to twice as long as the one before, half of it random, so that nodes that lost the same
/// peer don't return in step.
struct Pause {
    rng: Rng,
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Pause {
    fn new(options: &LinkOptions) -> Self {
        let LinkOptions { pause_min, pause_max, seed, .. } = *options;
        Self { rng: Rng::new(seed), next: pause_min, min: pause_min, max: pause_max }
    }

    fn next(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(self.max);
        half + self.rng.duration(half)
    }

    fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let mut pause = Pause::new(&LinkOptions::default());
        let bounds = [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(Duration::from_millis);
        for bound in bounds {
            let drawn = pause.next();
            assert!(drawn >= bound / 2 && drawn < bound, "{drawn:?} for a bound of {bound:?}");
        }
        pause.reset();
        assert!(pause.next() < Duration::from_millis(10));
    }
}
