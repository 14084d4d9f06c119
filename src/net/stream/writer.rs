//! The writing end: dials a peer, writes what waits for it, dials again when the connection breaks.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use thiserror::Error;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::outbox::{Chunk, Lane, Lanes, Outbox};
use super::reader::End;
use crate::base::{Rng, Slot};
use crate::codec::NameHash;
use crate::net::Counters;

/// Frames handed on in one call: 2 MiB of full ones, which is what a socket buffers anyway.
const FRAMES_PER_WRITE: usize = 16;

/// How long a connection that was proven by what is no longer valid may still take to finish what it writes.
pub(in crate::net) const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// What waits for it.
    pub outbox: Arc<Outbox>,
    /// Where to count.
    pub counters: Arc<Counters>,
    /// Who is told of connects and disconnects, in the writer's task: it must not block.
    pub on_event: Arc<dyn Fn(LinkEvent) + Send + Sync>,
    /// Its times.
    pub options: LinkOptions,
}

/// What makes connections to a peer.
pub(in crate::net) trait Carrier: Send {
    /// What takes frames to it.
    type Writer: FrameWriter;

    /// Makes a connection to the peer of `link`, on which both ends have proven what they have to. Is given up when it
    /// takes too long.
    fn dial(&mut self, link: &Link) -> impl Future<Output = Result<Dialed<Self::Writer>, DialError>> + Send;
}

/// What takes frames to a peer.
pub(in crate::net) trait FrameWriter: Send {
    /// Writes the first `count` of `chunks` as a frame each; how many bytes that were.
    fn write_frames(
        &mut self,
        name: NameHash,
        chunks: &VecDeque<Chunk>,
        count: usize,
    ) -> impl Future<Output = io::Result<u64>> + Send;

    /// Says that nothing follows, and comes back once what was written will arrive although the connection is let go. Where
    /// the lanes have writers of their own, that of the bulk finishes first.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
}

/// A connection to a peer.
pub(in crate::net) struct Dialed<W> {
    /// Takes frames.
    pub writer: W,
    /// Takes those that nobody waits for, where they go a way of their own.
    pub bulk: Option<W>,
    /// What may end it while it is being written to, each with the reason: the peer has gone, say.
    pub ends: Vec<BoxFuture<'static, io::Error>>,
    /// Comes when another connection is to go on in its place.
    pub renewal: BoxFuture<'static, ()>,
    /// The same as a question, for a writer that is never idle. It is asked before each batch, so it must cost little.
    pub is_outdated: Box<dyn FnMut() -> bool + Send>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(in crate::net) enum DialError {
    #[error(transparent)]
    System(#[from] io::Error),
    /// The two ends did not prove to each other what they have to.
    #[error("nothing was proven: {0}")]
    Unproven(End),
}

/// Why a connection is given up.
#[derive(Debug, Error)]
enum Disconnect {
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// All that was taken was written; another connection, proven by something else, is to go on.
    #[error("what nodes prove themselves by has changed")]
    Renewed,
}

/// Writes to one peer, over connections that `carrier` makes, until `shutdown` is cancelled; then writes what is left and
/// ends.
///
/// What is queued while there is no connection waits, within the bound of its [`Outbox`].
pub(in crate::net) async fn run<C: Carrier>(link: Link, mut carrier: C, shutdown: CancellationToken) {
    let mut pause = Pause::new(&link.options);
    let mut unproven = 0;
    while !shutdown.is_cancelled() {
        let Some(dialed) = shutdown.run_until_cancelled(link.dial(&mut carrier)).await else {
            return;
        };
        match dialed {
            Ok(connection) => {
                unproven = 0;
                let connected_at = Instant::now();
                info!(peer = %link.slot, address = link.address, "stream connected");
                link.counters.connections_dialed.add(1);
                (link.on_event)(LinkEvent::Connected(link.slot));
                let why = link.drive_connection(connection, &shutdown).await;
                if matches!(why, Disconnect::Renewed) {
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
                        warn!(peer = %link.slot, address = link.address, "this node and its peer don't trust each other: {end}");
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

impl Link {
    async fn dial<C: Carrier>(&self, carrier: &mut C) -> Result<Dialed<C::Writer>, DialError> {
        timeout(self.options.dial_timeout, carrier.dial(self))
            .await
            .unwrap_or_else(|elapsed| Err(DialError::System(elapsed.into())))
    }

    /// Writes until the connection breaks or a shutdown has nothing left to write; says which.
    async fn drive_connection<W: FrameWriter>(&self, dialed: Dialed<W>, shutdown: &CancellationToken) -> Disconnect {
        let Dialed { mut writer, mut bulk, ends, renewal, mut is_outdated } = dialed;
        // Who writes one lane may never be idle, and asks whether the other one has found that another connection is to go on.
        let outdated = AtomicBool::new(false);
        let renewal = renewal.map(|()| outdated.store(true, Ordering::Relaxed)).shared();
        let asked = || outdated.load(Ordering::Relaxed);
        let ask = || {
            if is_outdated() {
                outdated.store(true, Ordering::Relaxed);
            }
            asked()
        };
        let writing = async {
            let why = match &mut bulk {
                None => self.write_until_idle(&mut writer, Lanes::Both, renewal, ask, shutdown).await?,
                Some(bulk) => {
                    let (live, long) = (Lanes::Only(Lane::Live), Lanes::Only(Lane::Bulk));
                    let live = self.write_until_idle(&mut writer, live, renewal.clone(), ask, shutdown);
                    let (why, _) = tokio::try_join!(live, self.write_until_idle(bulk, long, renewal, asked, shutdown))?;
                    bulk.finish().await;
                    why
                }
            };
            writer.finish().await;
            Ok::<_, io::Error>(why)
        };
        let mut writing = std::pin::pin!(writing);
        let stopping = async {
            shutdown.cancelled().await;
            sleep(self.options.flush).await;
            io::Error::new(io::ErrorKind::TimedOut, "this node shut down before all was written")
        };
        // Each happens once, and writing goes on all the time: they are asked only when something has woken them.
        let mut ends: FuturesUnordered<BoxFuture<'_, io::Error>> = ends.into_iter().collect();
        ends.push(Box::pin(stopping));
        tokio::select! {
            // First: a connection that was finished is closed by the peer, which is no end of another kind.
            biased;
            end = &mut writing => end.unwrap_or_else(Disconnect::Broken),
            Some(error) = ends.next() => Disconnect::Broken(error),
        }
    }

    /// Writes what is in `lanes` until there is nothing left to write and a reason to end, or until another connection is to
    /// go on; says which.
    async fn write_until_idle<W: FrameWriter>(
        &self,
        writer: &mut W,
        lanes: Lanes,
        renewal: impl Future<Output = ()> + Send,
        mut is_outdated: impl FnMut() -> bool + Send,
        shutdown: &CancellationToken,
    ) -> io::Result<Disconnect> {
        let mut batch = Batch { outbox: &self.outbox, counters: &self.counters, chunks: VecDeque::new() };
        let stopping = async {
            shutdown.cancelled().await;
            Disconnect::Broken(io::Error::other("this node is shutting down"))
        };
        let renewed = async {
            renewal.await;
            Disconnect::Renewed
        };
        // Asked only when something has woken them, as above.
        let mut reasons: FuturesUnordered<BoxFuture<'_, Disconnect>> = FuturesUnordered::new();
        reasons.push(Box::pin(stopping));
        reasons.push(Box::pin(renewed));
        loop {
            // For a writer that is never idle.
            if is_outdated() {
                // What waits goes by the next connection.
                return Ok(Disconnect::Renewed);
            }
            self.outbox.take(lanes, &mut batch.chunks);
            if !batch.chunks.is_empty() {
                self.write_batch(writer, &mut batch).await?;
                continue;
            }
            tokio::select! {
                // First, so that what was pushed before the shutdown is still written.
                biased;
                // Whoever pushed has woken this task next in line, before the tasks that were woken together with it and
                // will push too. Letting them go first makes one frame, and one wake-up of the peer, of all of theirs. It
                // also wakes another thread of the runtime, which finds nothing to do. So where several messages wait already,
                // as after a frame that brought as many, they leave at once.
                () = self.outbox.filled(lanes) => if self.outbox.is_single() { yield_now().await },
                Some(reason) = reasons.next() => return Ok(reason),
            }
        }
    }

    /// Writes every chunk as one frame, many frames in one call.
    async fn write_batch<W: FrameWriter>(&self, writer: &mut W, batch: &mut Batch<'_>) -> io::Result<()> {
        while !batch.chunks.is_empty() {
            let frames = batch.chunks.len().min(FRAMES_PER_WRITE);
            let written = writer.write_frames(self.name, &batch.chunks, frames).await?;
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
