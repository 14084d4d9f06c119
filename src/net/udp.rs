//! The pulse plane's socket.
//!
//! Pulses repeat every few milliseconds, so a lost one costs nothing and a late one is worthless. Sending therefore never
//! waits: what the kernel doesn't take at once is dropped and counted. Receiving survives everything that a network can
//! answer to a datagram: on some systems a "port unreachable" for something sent earlier is reported by the next
//! receive, which must not end the loop of a node that lost a peer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::UdpSocket;

use super::Counters;
use super::listen::{self, BindError};
use crate::base::limits::DATAGRAM_BYTES_MAX;

/// What a receive buffer should hold: one byte more than the largest datagram, so that a larger one is seen to be larger
/// instead of being cut to fit.
pub const RECEIVE_BYTES: usize = DATAGRAM_BYTES_MAX + 1;

/// A socket for datagrams to and from all peers.
#[derive(Debug)]
pub struct PulseSocket {
    socket: UdpSocket,
    counters: Arc<Counters>,
}

impl PulseSocket {
    /// Takes `address` (`host:port`) and serves it on the current runtime, of any flavour. `what` says for whom and by
    /// which setting, for the error.
    ///
    /// # Errors
    /// Where the address can't be had.
    pub fn bind(what: &str, address: &str, counters: Arc<Counters>) -> Result<Self, BindError> {
        let socket = listen::udp(what, address)?;
        Self::new(socket, counters).map_err(|source| BindError {
            what: what.to_owned(),
            address: address.to_owned(),
            source,
        })
    }

    /// Serves a socket of [`listen::udp`] on the current runtime: the pulse has a thread and a runtime of its own, while
    /// its port is taken before.
    ///
    /// # Errors
    /// Where the runtime can't watch it.
    pub fn new(socket: std::net::UdpSocket, counters: Arc<Counters>) -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::from_std(socket)?, counters })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for a datagram; its length and where it came from. `buffer` should have [`RECEIVE_BYTES`].
    ///
    /// # Errors
    /// Only where the socket itself is broken.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(buffer).await {
                Ok(received) => {
                    self.counters.datagrams_received.add(1);
                    return Ok(received);
                }
                Err(error) if is_about_a_peer(&error) => self.counters.datagrams_unreachable.add(1),
                Err(error) => return Err(error),
            }
        }
    }

    /// A datagram that is there already, if any: what else to take before going back to other work.
    pub fn try_recv(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let received = self.socket.try_recv_from(buffer).ok()?;
        self.counters.datagrams_received.add(1);
        Some(received)
    }

    /// Sends a datagram if that is possible at once; whether the kernel took it. What it doesn't take is dropped and
    /// counted.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> bool {
        // Not through the runtime: that refuses until it has polled the socket once, which would lose the first pulses.
        match SockRef::from(&self.socket).send_to(bytes, &to.into()) {
            Ok(_) => {
                self.counters.datagrams_sent.add(1);
                true
            }
            Err(error) => {
                let full = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
                    || error.raw_os_error() == Some(NO_BUFFERS);
                let counter =
                    if full { &self.counters.datagrams_dropped } else { &self.counters.datagrams_unreachable };
                counter.add(1);
                false
            }
        }
    }
}

/// ENOBUFS of Linux: the interface's queue is full.
const NO_BUFFERS: i32 = 105;

/// Whether an error of a receive speaks of something sent earlier, or of a signal, rather than of the socket.
fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(counters: &Arc<Counters>) -> PulseSocket {
        PulseSocket::bind("pulse", "127.0.0.1:0", Arc::clone(counters)).expect("a free port")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_datagram_arrives_even_if_it_is_the_first_thing_the_runtime_does() {
        let counters = Arc::new(Counters::default());
        let (here, there) = (socket(&counters), socket(&counters));
        let to = there.local_addr().expect("it is bound");
        assert!(here.send_to(b"pulse", to));
        let mut buffer = [0; RECEIVE_BYTES];
        let (length, from) = there.recv(&mut buffer).await.expect("it is there");
        assert_eq!((&buffer[..length], from), (&b"pulse"[..], here.local_addr().expect("it is bound")));
        assert_eq!(there.try_recv(&mut buffer), None);
        assert_eq!((counters.datagrams_sent.value(), counters.datagrams_received.value()), (1, 1));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_dead_peer_does_not_end_the_receive_loop() {
        let counters = Arc::new(Counters::default());
        // An address where nothing else takes the port while it is free.
        let host = if cfg!(target_os = "linux") { "127.0.0.2:0" } else { "127.0.0.1:0" };
        let peer = listen::udp("peer", host).expect("a free port");
        let to = peer.local_addr().expect("it is bound");
        drop(peer);
        let socket = socket(&counters);
        // Only a connected socket is told on Linux that nobody listens; elsewhere any is.
        socket.socket.connect(to).await.expect("a datagram socket connects to anything");
        assert!(socket.send_to(b"anybody there?", to));

        let peer = listen::udp("peer", &to.to_string()).expect("it was free a moment ago");
        peer.send_to(b"back again", socket.local_addr().expect("it is bound")).expect("loopback takes it");
        let mut buffer = [0; RECEIVE_BYTES];
        let (length, from) = socket.recv(&mut buffer).await.expect("the loop goes on");
        assert_eq!((&buffer[..length], from), (&b"back again"[..], to));
        assert_eq!(counters.datagrams_unreachable.value(), 1);
    }
}
