//! The stream plane of one node, over what its configuration says.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::base::Slot;
use crate::codec::{Envelope, NameHash};
use crate::config::{Config, NodeConfig, Transport};
use crate::net::Counters;
use crate::net::listen::{self, BindError};
use crate::net::quic::{self, Identities};
use crate::net::stream::{FrameSink, Lane, Link, LinkOptions, ListenerOptions, Outbox};
use crate::net::tcp::{self, Secrets};
use crate::node::message::PeerMessage;
use crate::runtime::Links;

/// Bytes that may wait for one peer. Replication holds as much in its tails anyway; beyond it a peer is too slow to be
/// helped by a longer queue.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// What a node accepts streams on.
#[derive(Debug)]
pub(super) enum StreamSocket {
    Tcp(TcpListener),
    Quic(UdpSocket),
}

impl StreamSocket {
    pub(super) fn bind(transport: Transport, what: &str, address: &str) -> Result<Self, BindError> {
        match transport {
            Transport::Tcp => listen::tcp(what, address).map(Self::Tcp),
            Transport::Quic => listen::udp(what, address).map(Self::Quic),
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Quic(socket) => socket.local_addr(),
        }
    }
}

/// What nodes prove to each other on a stream.
#[derive(Clone)]
pub(super) enum Trust {
    /// Over TCP: that they hold a secret, where there is one.
    Secrets(Secrets),
    /// Over QUIC: which node they are.
    Certificates(Identities),
}

/// What all streams of a node have in common.
#[derive(Clone)]
pub(super) struct Plane {
    pub name: NameHash,
    pub me: Slot,
    pub trust: Trust,
    pub counters: Arc<Counters>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
}

impl Plane {
    /// Starts a writer to each peer.
    pub(super) fn start_links(&self, config: &Config) -> StreamLinks {
        let outbox = |(slot, node): (usize, &NodeConfig)| {
            let slot = Slot(slot as u8);
            (slot != self.me).then(|| self.start_link(slot, node))
        };
        StreamLinks { outboxes: config.nodes.iter().enumerate().map(outbox).collect() }
    }

    fn start_link(&self, slot: Slot, node: &NodeConfig) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(OUTBOX_BYTES_MAX, Arc::clone(&self.counters)));
        let link = Link {
            me: self.me,
            slot,
            address: node.stream.to_string(),
            name: self.name,
            outbox: Arc::clone(&outbox),
            counters: Arc::clone(&self.counters),
            on_event: Arc::new(|_| {}),
            options: LinkOptions { seed: rand::random(), ..LinkOptions::default() },
        };
        let shutdown = self.shutdown.clone();
        match &self.trust {
            Trust::Secrets(secrets) => self.tasks.spawn(tcp::run_writer(link, secrets.clone(), shutdown)),
            Trust::Certificates(identities) => self.tasks.spawn(quic::run_writer(link, identities.clone(), shutdown)),
        };
        outbox
    }

    /// Starts the listener. A socket of another transport than `trust` is of is a mistake of whoever made them.
    pub(super) fn start_listener<S: FrameSink>(self, socket: StreamSocket, sink: Arc<S>) {
        let Self { name, me: slot, trust, counters, shutdown, tasks } = self;
        tasks.spawn(async move {
            let limits = ListenerOptions::default();
            let ended = match (socket, trust) {
                (StreamSocket::Tcp(listener), Trust::Secrets(secrets)) => {
                    let door = tcp::Door { name, slot, secrets };
                    tcp::run_listener(listener, door, sink, counters, limits, shutdown).await
                }
                (StreamSocket::Quic(socket), Trust::Certificates(identities)) => {
                    let door = quic::Door { name, slot, identities };
                    quic::run_listener(socket, door, sink, counters, limits, shutdown).await
                }
                (socket, _) => unreachable!("{socket:?} was bound for another transport"),
            };
            if let Err(error) = ended {
                warn!("the stream listener ended: {error}");
            }
        });
    }
}

/// The stream plane to all peers.
pub(super) struct StreamLinks {
    outboxes: Vec<Option<Arc<Outbox>>>,
}

impl StreamLinks {
    fn outbox(&self, slot: Slot) -> Option<&Arc<Outbox>> {
        self.outboxes.get(slot.index())?.as_ref()
    }

    /// Bytes that wait for each peer.
    pub(super) fn queued(&self) -> impl Iterator<Item = (Slot, usize)> {
        let outboxes = self.outboxes.iter().enumerate();
        outboxes.filter_map(|(slot, outbox)| Some((Slot(slot as u8), outbox.as_ref()?.bytes())))
    }
}

impl Links for StreamLinks {
    fn send(&self, envelope: &Envelope, message: &PeerMessage) -> bool {
        let lane = if message.is_bulk() { Lane::Bulk } else { Lane::Live };
        self.outbox(envelope.to.slot).is_some_and(|outbox| outbox.push(lane, envelope, message).is_ok())
    }

    fn peer_changed(&self, slot: Slot, envelope: Option<&Envelope>) {
        if let Some(outbox) = self.outbox(slot) {
            outbox.discard(|queued| Some(queued) == envelope);
            if envelope.is_some() {
                outbox.hint_reachable();
            }
        }
    }
}
