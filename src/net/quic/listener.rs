//! Accepts the connections of peers over QUIC.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, TokioRuntime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::dialer::until_faulty;
use super::handshake::{self, ConnectionIds, ResetKey, end_of};
use super::identity::Fault;
use super::{CODE_DONE, CODE_REFUSED, Identities};
use crate::base::Slot;
use crate::codec::{FrameDecoder, NameHash};
use crate::net::Counters;
use crate::net::stream::{Doormen, End, FrameSink, ListenerOptions, Stranger, count_end, drive_reader};

/// How often open connections are judged again: what has expired, or was withdrawn, is dead within this time.
pub(super) const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// How long a listener that ends waits until its peers have been told.
const FAREWELL: Duration = Duration::from_millis(200);

/// The length of what a listener says once it has let a peer in.
pub(super) const WELCOME_BYTES: usize = 8;

/// What a listener in slot `me` says to a peer in slot `from`, once it has let it in.
pub(super) const fn welcome(me: Slot, from: Slot) -> [u8; WELCOME_BYTES] {
    [b'j', b'g', b's', b'w', 1, me.0, from.0, 0]
}

/// Who listens, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Door {
    /// The hash of the cluster's name.
    pub name: NameHash,
    /// The slot that this node sits in.
    pub slot: Slot,
    /// What a peer's certificate is judged by.
    pub identities: Identities,
}

/// Accepts connections on a socket of [`crate::net::listen::udp`] and reads each in a task of its own, until `shutdown`
/// is cancelled; returns once all of these tasks have ended.
///
/// # Errors
/// Where the runtime can't watch the socket.
pub async fn run_listener<S: FrameSink>(
    socket: UdpSocket,
    door: Door,
    sink: Arc<S>,
    counters: Arc<Counters>,
    options: ListenerOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let identity = Arc::clone(&door.identities.borrow());
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.reset_key())));
    config.cid_generator(|| Box::new(ConnectionIds));
    let accepting = handshake::listening(&identity, options.strangers_max);
    let endpoint = Endpoint::new(config, Some(accepting.clone()), socket, Arc::new(TokioRuntime))?;
    let door = Arc::new(door);
    let mut doormen = Doormen::new(&options);
    let tasks = TaskTracker::new();
    while let Some(Some(incoming)) = shutdown.run_until_cancelled(endpoint.accept()).await {
        // When places run short, whoever comes has to be reachable at the address that its packets show: nobody takes all
        // places with packets from addresses that it doesn't have.
        if incoming.may_retry() && 2 * doormen.strangers() >= options.strangers_max {
            let _ = incoming.retry();
            continue;
        }
        let stranger = doormen.admit_stranger();
        counters.connections_accepted.add(1);
        let (door, sink, counters, shutdown) =
            (Arc::clone(&door), Arc::clone(&sink), Arc::clone(&counters), shutdown.clone());
        let accepting = accepting.clone();
        tasks.spawn(async move {
            let from = incoming.remote_address();
            let reading = drive_connection(incoming, accepting, stranger, &door, &*sink, &counters, &options);
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
    tasks.close();
    tasks.wait().await;
    endpoint.close(CODE_DONE, b"");
    let _ = timeout(FAREWELL, endpoint.wait_idle()).await;
    Ok(())
}

/// Reads one connection until its end.
async fn drive_connection<S: FrameSink>(
    incoming: Incoming,
    accepting: quinn::ServerConfig,
    stranger: Stranger,
    door: &Door,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let proving = timeout(options.first_frame, prove(incoming, accepting, door));
    let proven = tokio::select! {
        proven = proving => proven.unwrap_or(Err(End::NoProof)),
        () = stranger.displaced.notified() => Err(End::Displaced),
    };
    let (connection, sender) = match proven {
        Ok(proven) => proven,
        Err(end) => return end,
    };
    let end = match stranger.peers.try_acquire_owned() {
        Ok(permit) => read_connection(&connection, sender, permit, door, sink, counters, options).await,
        Err(_) => End::OverCap,
    };
    // A peer that is proven may know why.
    let (code, reason) = end.rejection().map_or((CODE_DONE, ""), |reason| (CODE_REFUSED, reason));
    connection.close(code, reason.as_bytes());
    end
}

/// Lets both ends prove who they are; who dialed.
async fn prove(incoming: Incoming, mut accepting: quinn::ServerConfig, door: &Door) -> Result<(Connection, Slot), End> {
    let identity = Arc::clone(&door.identities.borrow());
    let (crypto, verdict) = handshake::accepting(&identity);
    accepting.crypto = crypto;
    let connecting = incoming.accept_with(Arc::new(accepting)).map_err(|error| end_of(error, &verdict))?;
    let connection = connecting.await.map_err(|error| end_of(error, &verdict))?;
    match verdict.get() {
        Some(Ok(slot)) => Ok((connection, *slot)),
        Some(Err(fault)) => Err(fault.clone().into()),
        None => Err(Fault::Missing.into()),
    }
}

/// Reads until the connection ends, or until what the peer has shown is no longer good enough.
async fn read_connection<S: FrameSink>(
    connection: &Connection,
    sender: Slot,
    _permit: OwnedSemaphorePermit,
    door: &Door,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let (chain, mut identities) = (handshake::shown(connection), door.identities.clone());
    let judging = until_faulty(&mut identities, |identity| match identity.judge_dialer(&chain, handshake::now()) {
        Ok(slot) if slot == sender => Ok(()),
        Ok(_) => Err(Fault::OtherNode),
        Err(fault) => Err(fault),
    });
    // Asked only when time or other certificates have woken it, not at every read.
    let mut over: FuturesUnordered<_> = std::iter::once(judging).collect();
    let reading = async {
        match greet(connection, door.slot, sender).await {
            Ok(live) => read_lanes(connection, live, sender, door, sink, counters, options).await,
            Err(error) => End::Broken(error),
        }
    };
    tokio::select! {
        end = reading => end,
        Some(fault) = over.next() => fault.into(),
    }
}

/// Reads both lanes until what is live ends, and then what there is of the other; or until either breaks off.
async fn read_lanes<S: FrameSink>(
    connection: &Connection,
    live: RecvStream,
    sender: Slot,
    door: &Door,
    sink: &S,
    counters: &Counters,
    options: &ListenerOptions,
) -> End {
    let read = |stream| drive_reader(stream, FrameDecoder::of_sender(door.name, sender), true, sink, counters, options);
    let is_open = AtomicBool::new(false);
    let mut bulk = std::pin::pin!(async {
        match connection.accept_uni().await {
            Ok(stream) => {
                is_open.store(true, Ordering::Relaxed);
                read(stream).await
            }
            Err(error) => End::Broken(error.into()),
        }
    });
    let mut live = std::pin::pin!(read(live));
    tokio::select! {
        end = &mut live => match (end, futures_util::poll!(&mut bulk)) {
            // A peer that ends has had all of the bulk acknowledged before: it is here, if there is any.
            (End::Closed, Poll::Ready(end)) => end,
            (End::Closed, Poll::Pending) if is_open.load(Ordering::Relaxed) => bulk.await,
            (end, _) => end,
        },
        end = &mut bulk => match end {
            End::Closed => live.await,
            end => end,
        },
    }
}

/// Says that the peer is let in, and waits for its frames.
async fn greet(connection: &Connection, me: Slot, sender: Slot) -> io::Result<RecvStream> {
    let mut to_peer = connection.open_uni().await?;
    to_peer.write_all(&welcome(me, sender)).await?;
    let _ = to_peer.finish();
    Ok(connection.accept_uni().await?)
}
