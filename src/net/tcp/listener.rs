//! Accepts the connections of peers.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::proof::{self, Secrets};
use super::tune;
use crate::base::Slot;
use crate::codec::handshake::Session;
use crate::codec::{FrameDecoder, Keyring, NameHash};
use crate::net::Counters;
use crate::net::stream::{Doormen, End, Entry, FrameSink, ListenerOptions, Stranger, count_end, drive_reader};

/// Pauses of the accept loop while the system has no descriptors or memory left.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

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
    let is_proven = session.is_some();
    let decoder =
        session.map_or_else(|| FrameDecoder::new(door.name), |session| FrameDecoder::with_session(door.name, session));
    tokio::select! {
        end = drive_reader(stream, decoder, is_proven, sink, counters, options) => end,
        Some(()) = over.next() => End::SecretRemoved,
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
