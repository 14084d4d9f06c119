//! Accepts the connections of peers.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
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
    /// Connections that may be open at once and have proven no secret yet.
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
            // Each holds a descriptor and a few kilobytes, for as long as `first_frame` says.
            strangers_max: 1024,
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
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let strangers = Arc::new(Semaphore::new(options.strangers_max));
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
        // Without secrets there are no strangers: everybody takes a peer's place from the start.
        let proves = !door.secrets.borrow().is_empty();
        let Ok(permit) = Arc::clone(if proves { &strangers } else { &permits }).try_acquire_owned() else {
            counters.connections_over_cap.add(1);
            debug!(%from, "closed: too many connections are open already");
            continue;
        };
        counters.connections_accepted.add(1);
        let (door, sink, counters) = (Arc::clone(&door), Arc::clone(&sink), Arc::clone(&counters));
        let (permits, shutdown) = (Arc::clone(&permits), shutdown.clone());
        tasks.spawn(async move {
            let reading = async {
                let mut stream = stream;
                let proven = prove(&mut stream, &door, proves, &options).await?;
                // From here on the connection is a peer's.
                let _permit = match proven {
                    Some(_) => {
                        drop(permit);
                        Arc::clone(&permits).try_acquire_owned().map_err(|_| End::OverCap)?
                    }
                    None => permit,
                };
                Err::<(), End>(read_connection(stream, &door, proven, &*sink, &counters, &options).await)
            };
            if let Some(Err(end)) = shutdown.run_until_cancelled(reading).await {
                debug!(%from, "stream connection ended: {end}");
                match end.rejection() {
                    Some(reason) => {
                        counters.add_rejection(reason);
                        sink.handle_rejected(reason);
                    }
                    None if matches!(end, End::OverCap) => counters.connections_over_cap.add(1),
                    None => {}
                }
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Lets the other end prove that it holds a secret, where that is asked for.
async fn prove(
    stream: &mut TcpStream,
    door: &Door,
    proves: bool,
    options: &ListenerOptions,
) -> Result<Option<Session>, End> {
    tune(stream).map_err(End::Broken)?;
    if !proves {
        return Ok(None);
    }
    let keyring = proof::current(&door.secrets);
    let proving = proof::listen(stream, &keyring, door.name, door.slot);
    timeout(options.first_frame, proving).await.unwrap_or(Err(End::NoProof)).map(Some)
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
    tokio::select! {
        end = drive_reader(stream, door.name, session, sink, counters, options) => end,
        () = proof::until(door.secrets.clone(), is_over) => End::SecretRemoved,
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
