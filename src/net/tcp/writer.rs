//! The writing end: dials a peer, writes what waits for it, dials again when the connection breaks.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::outbox::{Chunk, Outbox};
use super::tune;
use crate::base::{Rng, Slot};
use crate::codec::{NameHash, frame};
use crate::net::Counters;

/// Frames handed to the kernel in one call: 2 MiB of full ones, which is what a socket buffers anyway.
const FRAMES_PER_WRITE: usize = 16;

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
    /// How long resolving the peer's name and connecting to it may take.
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
    /// Where the peer sits in the configuration; only named in events.
    pub slot: Slot,
    /// Where it listens, `host:port`; resolved anew for every dial.
    pub address: String,
    /// The hash of the cluster's name.
    pub name: NameHash,
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
    while !shutdown.is_cancelled() {
        let Some(dialed) = shutdown.run_until_cancelled(link.dial()).await else {
            return;
        };
        match dialed {
            Ok(stream) => {
                let connected_at = Instant::now();
                info!(peer = %link.slot, address = link.address, "stream connected");
                link.counters.connections_dialed.add(1);
                (link.on_event)(LinkEvent::Connected(link.slot));
                let why = link.drive_connection(stream, &shutdown).await;
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
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = link.outbox.reachable() => {}
            () = sleep(pause.next()) => {}
        }
    }
}

impl Link {
    async fn dial(&self) -> io::Result<TcpStream> {
        timeout(self.options.dial_timeout, async {
            let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"));
            for address in lookup_host(&self.address).await? {
                result = TcpStream::connect(address).await.and_then(not_to_itself);
                if result.is_ok() {
                    break;
                }
            }
            let stream = result?;
            tune(&stream)?;
            Ok(stream)
        })
        .await?
    }

    /// Writes until the connection breaks or a shutdown has nothing left to write; says which.
    async fn drive_connection(&self, mut stream: TcpStream, shutdown: &CancellationToken) -> io::Error {
        let (mut from_peer, mut to_peer) = stream.split();
        let mut writing = std::pin::pin!(self.write_until_idle(&mut to_peer, shutdown));
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
        // Both happen once, and writing goes on all the time: they are asked only when something has woken them.
        let mut ends: FuturesUnordered<BoxFuture<'_, io::Error>> = FuturesUnordered::new();
        ends.push(Box::pin(reading));
        ends.push(Box::pin(stopping));
        tokio::select! {
            error = &mut writing => error,
            Some(error) = ends.next() => error,
        }
    }

    async fn write_until_idle(&self, to_peer: &mut WriteHalf<'_>, shutdown: &CancellationToken) -> io::Error {
        let mut batch = Batch { outbox: &self.outbox, counters: &self.counters, chunks: VecDeque::new() };
        let mut shutdown = std::pin::pin!(shutdown.cancelled());
        loop {
            self.outbox.take(&mut batch.chunks);
            if !batch.chunks.is_empty() {
                match self.write_batch(to_peer, &mut batch).await {
                    Ok(()) => continue,
                    Err(error) => return error,
                }
            }
            tokio::select! {
                // First, so that what was pushed before the shutdown is still written.
                biased;
                // Whoever pushed has woken this task next in line, before the tasks that were woken together with it and
                // will push too. Letting them go first makes one frame, and one wake-up of the peer, of all of theirs.
                () = self.outbox.filled() => yield_now().await,
                () = &mut shutdown => {
                    let _ = to_peer.shutdown().await;
                    return io::Error::other("this node is shutting down");
                }
            }
        }
    }

    /// Writes every chunk as one frame, many frames in one call.
    async fn write_batch(&self, to_peer: &mut WriteHalf<'_>, batch: &mut Batch<'_>) -> io::Result<()> {
        while !batch.chunks.is_empty() {
            let frames = batch.chunks.len().min(FRAMES_PER_WRITE);
            let mut headers = Vec::with_capacity(frames);
            for chunk in batch.chunks.iter().take(frames) {
                headers.push(frame::seal(&chunk.envelope, self.name, &chunk.payload).map_err(io::Error::other)?);
            }
            let mut parts = Vec::with_capacity(2 * frames);
            for (header, chunk) in headers.iter().zip(&batch.chunks) {
                parts.push(IoSlice::new(header));
                parts.push(IoSlice::new(&chunk.payload));
            }
            let written = write_all(to_peer, &mut parts).await?;
            self.counters.stream_bytes_sent.add(written);
            self.counters.frames_sent.add(frames as u64);
            batch.chunks.drain(..frames).for_each(|chunk| self.outbox.release(chunk));
        }
        Ok(())
    }
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
