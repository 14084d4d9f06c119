//! The accept loop, and the life of one connection.
//!
//! ```text
//!             a permit is free ──▶ (TLS) ──▶ served ──▶ (upgraded to a WebSocket) ──▶ closed, permit given back
//! accepted ──┤
//!             none is ──▶ 503, closed
//! ```
//!
//! Beyond the limit a connection is told so at once: a client that is refused can go to another node, one that waits
//! in a queue can't know why. Shutdown stops accepting, lets requests that are under way finish, tells viewers to go, and
//! after the drain time-out cuts off whoever is left.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::GatewayOptions;
use super::body::BodyBytes;
use super::cors::Origins;
use super::files;
use super::front::{Front, Hosts};
use super::guard::Refused;
use super::observe::{Observed, Open};
use super::routes::{Shared, routes};
use super::tls;
use super::wire::Wire;
use crate::access::Grant;
use crate::base::limits;
use crate::port::Core;
use crate::telemetry::traffic::LogBudget;

/// The pause after a first failed accept, and after many: out of file descriptors, the loop must not spin.
const BACK_OFF_MIN: Duration = Duration::from_millis(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// The parser takes no smaller buffer than this.
const HEAD_BYTES_MIN: usize = 8 << 10;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// A node that has asked its clients to go elsewhere answers for so long after the last one was accepted.
const LAST_REQUESTS: Duration = Duration::from_millis(100);
/// What the system may hold of an answer beyond what it has sent. As much as it likes was 2 MiB for each client that doesn't read: a
/// few hundred of them took all memory that a machine has for TCP, and nodes could not hear each other.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// Connections that are being told 503 at once; one more is closed without a word.
const REFUSALS_MAX: usize = 64;
/// How long a refused client may take to hang up.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 142\r\n\r\n{\"type\":\"urn:jumpgate:problem:busy\",\"title\":\"Busy\",\
    \"status\":503,\"detail\":\"this node has as many connections as it takes\",\"outcome\":\"definite\"}";

/// The HTTP and WebSocket gateway.
#[derive(Debug)]
pub struct Gateway;

/// One connection: what is given back when nobody holds it any more.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: IpAddr,
    /// Whether a good token came over it.
    is_proven: AtomicBool,
    is_upgraded: AtomicBool,
    /// Streams of events that are under way on it.
    streams: AtomicUsize,
    _permit: OwnedSemaphorePermit,
    _open: Open,
    _token: TaskTrackerToken,
}

impl Connection {
    /// What whoever shows `token` on it may do.
    pub(super) fn judge(&self, token: Option<&[u8]>) -> Result<Grant, Refused> {
        let judged = self.shared.options.guard.judge(self.peer, token, self.is_proven.load(Ordering::Relaxed));
        if token.is_some() {
            self.is_proven.store(judged.is_ok(), Ordering::Relaxed);
        }
        judged
    }

    /// It becomes a WebSocket: from here on it isn't HTTP any more.
    pub(super) fn on_upgrade(&self) {
        self.is_upgraded.store(true, Ordering::Release);
    }

    /// It carries a stream of events from here on, until what this gives is dropped.
    pub(super) fn on_stream(self: &Arc<Self>) -> Streaming {
        self.streams.fetch_add(1, Ordering::AcqRel);
        Streaming(Arc::clone(self))
    }

    /// Whether it carries a stream of events.
    pub(super) fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Acquire) > 0
    }

    /// Whether it became a WebSocket.
    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Acquire)
    }
}

/// A stream of events on a connection.
pub(super) struct Streaming(pub(super) Arc<Connection>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gateway {
    /// Serves `core` on `listener` until `shutdown` is cancelled, then until everybody has gone or the drain time-out
    /// has passed.
    pub async fn serve(
        listener: TcpListener,
        core: Arc<dyn Core>,
        options: GatewayOptions,
        shutdown: CancellationToken,
    ) {
        let collecting = files::collecting::run(Arc::clone(&core), options.clone(), shutdown.clone());
        let server = Server::new(core, options, shutdown);
        server.tracker.spawn(collecting);
        server.accept(listener).await;
        server.drain().await;
    }
}

struct Server {
    shared: Arc<Shared>,
    /// Accept nobody from now on.
    closing: CancellationToken,
    builder: Arc<auto::Builder<TokioExecutor>>,
    permits: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    tracker: TaskTracker,
}

impl Server {
    fn new(core: Arc<dyn Core>, mut options: GatewayOptions, closing: CancellationToken) -> Self {
        options.value_bytes_max = options.value_bytes_max.min(limits::VALUE_BYTES_MAX);
        options.key_bytes_max = options.key_bytes_max.min(limits::KEY_BYTES_MAX);
        options.head_bytes_max = options.head_bytes_max.max(HEAD_BYTES_MIN);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // The wire keeps this time itself: the parser's timer would also end connections that merely rest.
            .header_read_timeout(None)
            .max_buf_size(options.head_bytes_max)
            // A client that has said everything may close its half and wait for the answer.
            .half_close(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(options.head_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(options.ping_interval)
            .keep_alive_timeout(options.ping_interval);
        let permits = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
        let hosts = Hosts::new(&options.hosts);
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        let origins = Origins::new(options.peers.iter().map(|peer| peer.advertised.as_str()));
        let (body_bytes, log_budget) = (BodyBytes::default(), LogBudget::default());
        let shared = Shared { core, options, hosts, origins, log_budget, body_bytes, shutdown, abort };
        Self {
            shared: Arc::new(shared),
            closing,
            builder: Arc::new(builder),
            permits,
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            tracker: TaskTracker::new(),
        }
    }

    async fn accept(&self, listener: TcpListener) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    back_off = BACK_OFF_MIN;
                    self.on_stream(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections can't be accepted at the moment");
                    tokio::select! {
                        () = sleep(back_off) => {}
                        () = self.closing.cancelled() => break,
                    }
                    back_off = (2 * back_off).min(BACK_OFF_MAX);
                }
            }
        }
        // Whoever was connected by the system already would be told nothing but that the connection is broken.
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            self.on_stream(stream, peer);
        }
    }

    fn on_stream(&self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "a connection's socket can't be tuned");
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.shared.options.traffic.connections_refused.add();
            if let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned() {
                self.tracker.spawn(async move {
                    let _ = timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                    drop(refusal);
                });
            }
            return;
        };
        let connection = Arc::new(Connection {
            shared: Arc::clone(&self.shared),
            peer: peer.ip(),
            is_proven: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            _permit: permit,
            _open: Open::new(&self.shared.options.traffic),
            _token: self.tracker.token(),
        });
        tokio::spawn(serve(Arc::clone(&self.builder), stream, peer, connection));
    }

    async fn drain(self) {
        if self.shared.options.leaving.load(Ordering::Relaxed) {
            // Every answer ends its connection by now: so what is just being asked is answered, and hardly any connection is
            // left to be closed under a client that asks again.
            sleep(LAST_REQUESTS).await;
        }
        self.shared.shutdown.cancel();
        self.tracker.close();
        if timeout(self.shared.options.drain_timeout, self.tracker.wait()).await.is_err() {
            tracing::warn!(connections = self.tracker.len(), "the drain time-out has passed; connections are cut off");
            self.shared.abort.cancel();
            self.tracker.wait().await;
        }
    }
}

/// What a connection is told from outside.
enum Told {
    /// Answer what was asked, then close.
    Finish,
    /// Close.
    Stop,
}

/// Serves one connection to its end.
async fn serve(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: TcpStream,
    peer: SocketAddr,
    connection: Arc<Connection>,
) {
    let shared = Arc::clone(&connection.shared);
    let socket = tokio::select! {
        accepted = tls::accept(stream, &connection) => accepted,
        () = shared.shutdown.cancelled() => None,
    };
    let Some(socket) = socket else { return };
    let service = TowerToHyperService::new(warp::service(routes(&connection)));
    let service = Observed::new(Arc::clone(&connection), peer, Front::new(Arc::clone(&connection), service));
    let wire = TokioIo::new(Wire::new(socket, connection));
    let served = builder.serve_connection_with_upgrades(wire, service);
    tokio::pin!(served);
    let tokens = [(&shared.shutdown, Told::Finish), (&shared.abort, Told::Stop)];
    // A token takes locks that all connections share whenever it is asked. This set asks only one that has called.
    let mut told: FuturesUnordered<_> = tokens
        .map(|(token, told)| async move {
            token.cancelled().await;
            told
        })
        .into_iter()
        .collect();
    let result = loop {
        tokio::select! {
            result = served.as_mut() => break result,
            Some(told) = told.next() => match told {
                Told::Finish => served.as_mut().graceful_shutdown(),
                Told::Stop => return,
            },
        }
    };
    if let Err(error) = result {
        // Clients hang up, stall and send rubbish all day long; none of that is this node's trouble.
        tracing::debug!(%peer, error, "a connection ended in an error");
    }
}

/// Sets what holds for every client's socket.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // An answer is one write; it must not wait for the peer to acknowledge an earlier one.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

/// Tells a client that there is no room, and waits for it to hang up: closing with unread bytes would reset the
/// connection before it has read the answer.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    let mut thrown_away = [0; 1024];
    while stream.read(&mut thrown_away).await? > 0 {}
    Ok(())
}

/// Whether a failed accept concerns only the connection that would have been accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::ProblemJson;

    #[test]
    fn the_refusal_says_its_own_length() {
        let text = std::str::from_utf8(REFUSAL).expect("it is ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "the body has {} bytes", body.len());
        let problem: ProblemJson = serde_json::from_str(body).expect("it is a problem");
        assert_eq!(problem.status, 503);
    }
}
