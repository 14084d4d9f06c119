//! Accepts the connections of peers.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::reader::{self, drive_reader};
use super::tune;
use crate::base::limits::NODES_MAX;
use crate::codec::{Frame, NameHash};
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

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may be open at once; further ones are closed as they come.
    pub connections_max: usize,
    /// How long a new connection may take until the header of its first frame is there.
    pub first_frame: Duration,
    /// How long a frame that has begun may stand still.
    pub half_frame: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            // One from each peer, and as many again that ended without a word and aren't found out yet, twice over.
            connections_max: 4 * NODES_MAX,
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
    name: NameHash,
    sink: Arc<S>,
    counters: Arc<Counters>,
    options: ListenerOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(options.connections_max));
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
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            counters.connections_over_cap.add(1);
            debug!(%from, "closed: {} connections are open already", options.connections_max);
            continue;
        };
        counters.connections_accepted.add(1);
        let (sink, counters, shutdown) = (Arc::clone(&sink), Arc::clone(&counters), shutdown.clone());
        tasks.spawn(async move {
            let reading = read_connection(stream, name, &*sink, &counters, &options);
            // The token is asked when it calls, not at every read.
            let mut stopping: FuturesUnordered<_> = std::iter::once(shutdown.cancelled()).collect();
            tokio::select! {
                end = reading => debug!(%from, "stream connection ended: {end}"),
                Some(()) = stopping.next() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn read_connection<S: FrameSink>(
    stream: TcpStream,
    name: NameHash,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> reader::End {
    if let Err(error) = tune(&stream) {
        return reader::End::Broken(error);
    }
    let end = drive_reader(stream, name, sink, counters, options).await;
    if let Some(reason) = end.rejection() {
        counters.add_rejection(reason);
        sink.handle_rejected(reason);
    }
    end
}

/// Whether an accept failed because of the connection that was to be accepted: the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted
    )
}
