//! Accepts the connections of peers.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::proof::{self, Secrets};
use super::reader::{End, drive_reader};
use super::tune;
use crate::base::Slot;
use crate::base::limits::NODES_MAX;
use crate::codec::handshake::Session;
use crate::codec::{Frame, Keyring, NameHash};
use crate::net::Counters;

/// Pauses of the accept loop while the system has no descriptors or memory left.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where the frames of all connections go.
pub trait FrameSink: Send + Sync + 'static {
    /// Takes one frame, sound and of a cluster of this name. Runs in the connection's task: the connection isn't read
    /// meanwhile, which is what slows a sender down, and nothing here may block.
    fn handle_frame(&self, frame: Frame);

    /// Hears why a connection was closed on this side.
    fn handle_rejected(&self, reason: &'static str);
}

/// Who listens, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Door {
    /// The hash of the cluster's name.
    pub name: NameHash,
    /// The slot that this node sits in.
    pub slot: Slot,
    /// What a peer has to know; without any secret everybody is let in.
    pub secrets: Secrets,
}

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may be open at once; further ones are closed as they come. Where secrets are set, only those count
    /// that have proven one.
    pub connections_max: usize,
    /// Connections that may be open at once and have proven no secret yet; a further one displaces the oldest of them.
    pub strangers_max: usize,
    /// How long a new connection may take until the header of its first frame is there, or until it has proven a secret.
    pub first_frame: Duration,
    /// How long a frame that has begun may stand still.
    pub half_frame: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            // One from each peer, and as many again that ended without a word and aren't found out yet, twice over.
            connections_max: 4 * NODES_MAX,
            // Each holds a descriptor, of which a process commonly has 1024, and a few kilobytes.
            strangers_max: 256,
            first_frame: Duration::from_secs(5),
            half_frame: Duration::from_secs(10),
        }
    }
}

/// Accepts connections on a listener of [`crate::net::listen::tcp`] and reads each in a task of its own, until `shutdown`
/// is cancelled; returns once all of these tasks have ended.
///
/// # Errors
/// Where the runtime can't watch the listener.
pub async fn run_listener<S: FrameSink>(
    listener: TcpListener,
    door: Door,
    sink: Arc<S>,
    counters: Arc<Counters>,
    options: ListenerOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let door = Arc::new(door);
    let mut doormen = Doormen::new(&options);
    let tasks = TaskTracker::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                warn!("can't accept connections of peers: {error}");
                // Until descriptors are free again, every accept fails at once: trying without a pause would only burn
                // the processor.
                let _ = shutdown.run_until_cancelled(sleep(pause)).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE_MIN;
        let Some(entry) = doormen.admit(!door.secrets.borrow().is_empty()) else {
            counters.connections_over_cap.add(1);
            debug!(%from, "closed: too many connections are open already");
            continue;
        };
        counters.connections_accepted.add(1);
        let (door, sink, counters, shutdown) =
            (Arc::clone(&door), Arc::clone(&sink), Arc::clone(&counters), shutdown.clone());
        tasks.spawn(async move {
            let reading = drive_connection(stream, entry, &door, &*sink, &counters, &options);
            // The token is asked when it calls, not at every read.
            let mut stopping: FuturesUnordered<_> = std::iter::once(shutdown.cancelled()).collect();
            tokio::select! {
                end = reading => {
                    debug!(%from, "stream connection ended: {end}");
                    count_end(&end, &*sink, &counters);
                }
                Some(()) = stopping.next() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn count_end<S: FrameSink>(end: &End, sink: &S, counters: &Counters) {
    match end.rejection() {
        Some(reason) => {
            counters.add_rejection(reason);
            sink.handle_rejected(reason);
        }
        None if matches!(end, End::OverCap) => counters.connections_over_cap.add(1),
        None => {}
    }
}

/// Reads one connection until its end.
async fn drive_connection<S: FrameSink>(
    mut stream: TcpStream,
    entry: Entry,
    door: &Door,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let (session, _permit) = match entry {
        Entry::Stranger(stranger) => match prove(&mut stream, door, stranger, options).await {
            Ok((session, permit)) => (Some(session), permit),
            Err(end) => return end,
        },
        Entry::Peer(permit) => match tune(&stream) {
            Ok(()) => (None, permit),
            Err(error) => return End::Broken(error),
        },
    };
    read_connection(stream, door, session, sink, counters, options).await
}

/// Lets the other end prove that it holds a secret; a peer's place for it where it does.
async fn prove(
    stream: &mut TcpStream,
    door: &Door,
    stranger: Stranger,
    options: &ListenerOptions,
) -> Result<(Session, OwnedSemaphorePermit), End> {
    tune(stream).map_err(End::Broken)?;
    let keyring = proof::current(&door.secrets);
    let proving = timeout(options.first_frame, proof::listen(stream, &keyring, door.name, door.slot));
    let session = tokio::select! {
        proven = proving => proven.unwrap_or(Err(End::NoProof))?,
        () = stranger.displaced.notified() => return Err(End::Displaced),
    };
    let permit = stranger.peers.try_acquire_owned().map_err(|_| End::OverCap)?;
    Ok((session, permit))
}

/// Reads until the connection ends, or until the secret that it was proven by is no longer valid.
async fn read_connection<S: FrameSink>(
    stream: TcpStream,
    door: &Door,
    session: Option<Session>,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let proven_by = session.as_ref().map(Session::proven_by);
    let is_over = |keyring: &Keyring| match proven_by {
        Some(secret) => !keyring.holds(&secret),
        None => !keyring.is_empty(),
    };
    // Asked only when other secrets have woken it, not at every read.
    let mut over: FuturesUnordered<_> = std::iter::once(proof::until(door.secrets.clone(), is_over)).collect();
    tokio::select! {
        end = drive_reader(stream, door.name, session, sink, counters, options) => end,
        Some(()) = over.next() => End::SecretRemoved,
    }
}

/// What a connection is let in as.
enum Entry {
    /// It has to prove a secret first.
    Stranger(Stranger),
    /// There is nothing to prove.
    Peer(OwnedSemaphorePermit),
}

/// A connection that has proven nothing yet.
struct Stranger {
    /// Another one needs its place.
    displaced: Arc<Notify>,
    /// The places that it may take one of.
    peers: Arc<Semaphore>,
}

/// Who may come in: so many peers, so many strangers.
///
/// Where all places of strangers are taken, the one that has waited longest makes room. Somebody who holds connections
/// open without a word could otherwise keep a node's peers out for ever; a peer is a stranger for one round trip only.
struct Doormen {
    peers: Arc<Semaphore>,
    /// In the order in which they came; those that have proven a secret or have ended are dead.
    strangers: VecDeque<Weak<Notify>>,
    strangers_max: usize,
}

impl Doormen {
    fn new(options: &ListenerOptions) -> Self {
        let peers = Arc::new(Semaphore::new(options.connections_max));
        Self { peers, strangers: VecDeque::new(), strangers_max: options.strangers_max }
    }

    /// What the next connection is; none where there is no place for it.
    fn admit(&mut self, must_prove: bool) -> Option<Entry> {
        if !must_prove {
            return Arc::clone(&self.peers).try_acquire_owned().ok().map(Entry::Peer);
        }
        if self.strangers.len() >= self.strangers_max {
            self.strangers.retain(|stranger| stranger.strong_count() > 0);
        }
        if self.strangers.len() >= self.strangers_max
            && let Some(longest) = self.strangers.pop_front()?.upgrade()
        {
            longest.notify_one();
        }
        let displaced = Arc::new(Notify::new());
        self.strangers.push_back(Arc::downgrade(&displaced));
        Some(Entry::Stranger(Stranger { displaced, peers: Arc::clone(&self.peers) }))
    }
}

/// Whether an accept failed because of the connection that was to be accepted: the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted
    )
}
