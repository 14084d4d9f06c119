//! Both ends of the stream plane for tests, over either of its carriers.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{FrameSink, Lane, Link, LinkEvent, LinkOptions, ListenerOptions, Outbox};
use crate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};
use crate::codec::{self, Envelope, Frame, Keyring, NameHash, Payload, frame};
use crate::net::quic::Identity;
use crate::net::quic::testing::{self as certified, Authority};
use crate::net::{Counters, listen, quic, tcp};

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Wire {
    /// TCP, where nothing is proven unless secrets are set.
    Tcp,
    /// QUIC, with certificates of the common authority.
    Quic,
}

pub(in crate::net) fn name() -> NameHash {
    NameHash::of("store")
}

pub(in crate::net) fn keyring(secrets: &str) -> Keyring {
    Keyring::parse(secrets.as_bytes()).expect("it holds secrets")
}

pub(in crate::net) fn envelope(incarnation: u128) -> Envelope {
    Envelope {
        cluster: ClusterId(1),
        generation: Generation(0),
        from: NodeId::new(Slot(0), Incarnation(10)),
        to: NodeId::new(Slot(1), Incarnation(incarnation)),
    }
}

/// A frame with one message.
pub(in crate::net) fn sealed(envelope: &Envelope) -> Vec<u8> {
    let payload = [1, 0, 0, 0, 7];
    let header = frame::seal(envelope, name(), &Payload::from(payload.to_vec())).expect("it is small");
    [&header[..], &payload].concat()
}

/// Fails a test that waits for something that never comes, long after it would have come.
pub(in crate::net) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never came")
}

/// A sink that passes on what it gets.
struct Collector {
    frames: UnboundedSender<Frame>,
    rejected: UnboundedSender<&'static str>,
}

impl FrameSink for Collector {
    fn handle_frame(&self, frame: Frame) {
        let _ = self.frames.send(frame);
    }

    fn handle_rejected(&self, reason: &'static str) {
        let _ = self.rejected.send(reason);
    }
}

/// A listener in slot 1 and what came out of it.
pub(in crate::net) struct Receiver {
    pub secrets: watch::Sender<Arc<Keyring>>,
    pub identities: watch::Sender<Arc<Identity>>,
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    pub frames: UnboundedReceiver<Frame>,
    pub rejected: UnboundedReceiver<&'static str>,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Receiver {
    pub fn start(wire: Wire, address: &str, options: ListenerOptions) -> Self {
        let identity = Authority::common().identity(Slot(1));
        Self::start_with(wire, address, options, Keyring::default(), identity)
    }

    pub fn on_free_port(wire: Wire) -> Self {
        Self::start(wire, "127.0.0.1:0", ListenerOptions::default())
    }

    /// One over TCP where secrets are set.
    pub fn with_secrets(secrets: &str) -> Self {
        Self::with_secrets_and(secrets, ListenerOptions::default())
    }

    pub fn with_secrets_and(secrets: &str, options: ListenerOptions) -> Self {
        let identity = Authority::common().identity(Slot(1));
        Self::start_with(Wire::Tcp, "127.0.0.1:0", options, keyring(secrets), identity)
    }

    /// One over QUIC with a certificate of its own.
    pub fn with_identity(identity: Arc<Identity>) -> Self {
        Self::start_with(Wire::Quic, "127.0.0.1:0", ListenerOptions::default(), Keyring::default(), identity)
    }

    fn start_with(
        wire: Wire,
        address: &str,
        options: ListenerOptions,
        keyring: Keyring,
        identity: Arc<Identity>,
    ) -> Self {
        let (frames_in, frames) = unbounded_channel();
        let (rejected_in, rejected) = unbounded_channel();
        let sink = Arc::new(Collector { frames: frames_in, rejected: rejected_in });
        let (counters, shutdown) = (Arc::new(Counters::default()), CancellationToken::new());
        let (secrets, door_secrets) = watch::channel(Arc::new(keyring));
        let (identities, door_identities) = watch::channel(identity);
        let (counting, stopping) = (Arc::clone(&counters), shutdown.clone());
        let (address, task) = match wire {
            Wire::Tcp => {
                let listener = listen::tcp("stream", address).expect("the port is free");
                let door = tcp::Door { name: name(), slot: Slot(1), secrets: door_secrets };
                let address = listener.local_addr();
                (address, tokio::spawn(tcp::run_listener(listener, door, sink, counting, options, stopping)))
            }
            Wire::Quic => {
                let socket = listen::udp("stream", address).expect("the port is free");
                let door = quic::Door { name: name(), slot: Slot(1), identities: door_identities };
                let address = socket.local_addr();
                (address, tokio::spawn(quic::run_listener(socket, door, sink, counting, options, stopping)))
            }
        };
        let address = address.expect("it is bound");
        Self { secrets, identities, address, counters, frames, rejected, shutdown, task }
    }

    /// The numbers in the next frame.
    pub async fn numbers(&mut self) -> (Envelope, Vec<u64>) {
        let frame = in_time(self.frames.recv()).await.expect("the listener runs");
        let decode = |message: Result<&[u8], _>| codec::decode(message.expect("it is whole")).expect("it is a number");
        (frame.envelope, frame::messages(&frame.payload).map(decode).collect())
    }

    /// Why the next connection was closed.
    pub async fn rejection(&mut self) -> &'static str {
        in_time(self.rejected.recv()).await.expect("the listener runs")
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.task).await.expect("no panic").expect("the listener was sound");
    }
}

/// A writer in slot 0 and what it says of its connection.
pub(in crate::net) struct Sender {
    pub secrets: watch::Sender<Arc<Keyring>>,
    pub identities: watch::Sender<Arc<Identity>>,
    pub outbox: Arc<Outbox>,
    pub counters: Arc<Counters>,
    events: UnboundedReceiver<LinkEvent>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Sender {
    pub fn start(wire: Wire, address: SocketAddr) -> Self {
        Self::start_by_name(wire, address.to_string())
    }

    pub fn start_by_name(wire: Wire, address: String) -> Self {
        let identity = Authority::common().identity(Slot(0));
        Self::start_with(wire, address, Slot(1), Keyring::default(), identity)
    }

    /// One over TCP with secrets, to the node in `slot`.
    pub fn with_secrets(address: SocketAddr, slot: Slot, secrets: &str) -> Self {
        let identity = Authority::common().identity(Slot(0));
        Self::start_with(Wire::Tcp, address.to_string(), slot, keyring(secrets), identity)
    }

    /// One over QUIC with a certificate of its own, to the node in `slot`.
    pub fn with_identity(address: SocketAddr, slot: Slot, identity: Arc<Identity>) -> Self {
        Self::start_with(Wire::Quic, address.to_string(), slot, Keyring::default(), identity)
    }

    fn start_with(wire: Wire, address: String, slot: Slot, keyring: Keyring, identity: Arc<Identity>) -> Self {
        let (secrets, link_secrets) = watch::channel(Arc::new(keyring));
        let (identities, link_identities) = watch::channel(identity);
        let counters = Arc::new(Counters::default());
        let outbox = Arc::new(Outbox::new(64 << 20, Arc::clone(&counters)));
        let (events_in, events) = unbounded_channel();
        let link = Link {
            me: envelope(0).from.slot,
            slot,
            address,
            name: name(),
            outbox: Arc::clone(&outbox),
            counters: Arc::clone(&counters),
            on_event: Arc::new(move |event| {
                let _ = events_in.send(event);
            }),
            options: LinkOptions { pause_max: Duration::from_millis(20), ..LinkOptions::default() },
        };
        let shutdown = CancellationToken::new();
        let task = match wire {
            Wire::Tcp => tokio::spawn(tcp::run_writer(link, link_secrets, shutdown.clone())),
            Wire::Quic => tokio::spawn(quic::run_writer(link, link_identities, shutdown.clone())),
        };
        Self { secrets, identities, outbox, counters, events, shutdown, task }
    }

    pub fn push(&self, incarnation: u128, number: u64) {
        self.outbox.push(Lane::Live, &envelope(incarnation), &number).expect("there is room");
    }

    pub async fn event(&mut self) -> LinkEvent {
        in_time(self.events.recv()).await.expect("the writer runs")
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.task).await.expect("no panic");
    }
}

/// A connection of slot 0 that is written to by hand.
pub(in crate::net) enum Raw {
    Tcp(tokio::net::TcpStream),
    Quic(quinn::Connection, quinn::SendStream),
}

impl Raw {
    pub async fn dial(wire: Wire, address: SocketAddr) -> Self {
        match wire {
            Wire::Tcp => Self::Tcp(in_time(tokio::net::TcpStream::connect(address)).await.expect("it listens")),
            Wire::Quic => {
                let identity = Authority::common().identity(Slot(0));
                let (connection, stream) = in_time(certified::dial(&identity, address)).await;
                Self::Quic(connection, stream)
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Tcp(stream) => in_time(stream.write_all(bytes)).await.expect("it is read"),
            Self::Quic(_, stream) => in_time(stream.write_all(bytes)).await.expect("it is read"),
        }
    }

    /// Waits until the other end closes; the bytes that it has said.
    pub async fn until_closed(self) -> Vec<u8> {
        let mut said = Vec::new();
        match self {
            Self::Tcp(mut stream) => {
                // Politely or not.
                let _ = in_time(stream.read_to_end(&mut said)).await;
            }
            Self::Quic(connection, _stream) => {
                in_time(connection.closed()).await;
            }
        }
        said
    }
}

/// A peer in slot 1 that accepts and then reads no more than one byte.
pub(in crate::net) enum Mute {
    Tcp(tokio::net::TcpListener),
    Quic(certified::Listening),
}

impl Mute {
    pub async fn listen(wire: Wire) -> Self {
        match wire {
            Wire::Tcp => Self::Tcp(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port")),
            Wire::Quic => Self::Quic(certified::Listening::start()),
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(listener) => listener.local_addr().expect("it is bound"),
            Self::Quic(listening) => listening.address(),
        }
    }

    /// Waits for a connection and a byte of it, and lets go of both when something comes from `until`.
    pub async fn accept_until(self, until: tokio::sync::oneshot::Receiver<()>, came: tokio::sync::oneshot::Sender<()>) {
        match self {
            Self::Tcp(listener) => {
                let (mut stream, _) = listener.accept().await.expect("the writer dials");
                stream.read_exact(&mut [0]).await.expect("something comes");
                let _ = came.send(());
                let _ = until.await;
            }
            Self::Quic(listening) => {
                let (_connection, mut frames) = listening.accept().await;
                frames.read_exact(&mut [0]).await.expect("something comes");
                let _ = came.send(());
                let _ = until.await;
            }
        }
    }
}
