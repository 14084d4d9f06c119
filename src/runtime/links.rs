//! What the runtime wants of the network; the server connects it to sockets.

use std::future::Future;
use std::io;

use crate::base::Slot;
use crate::codec::Envelope;
use crate::node::message::PeerMessage;

/// The stream plane, as a node's machines see it: a queue to each peer.
pub trait Links: Send + Sync + 'static {
    /// Queues `message` for the peer that `envelope` names. False where its queue is full: the message is dropped.
    fn send(&self, envelope: &Envelope, message: &PeerMessage) -> bool;

    /// Who is known in `slot` from now on: what is queued for anybody else is dropped, and a pause before the next dial
    /// is cut short.
    fn peer_changed(&self, slot: Slot, envelope: Option<&Envelope>);
}

/// The pulse plane: datagrams to and from slots.
pub trait PulseLink: Send + 'static {
    /// Waits for a datagram and writes it into `buffer`; its length.
    fn recv(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// A datagram that is there already.
    fn try_recv(&self, buffer: &mut [u8]) -> Option<usize>;

    /// Sends a datagram, or drops it: pulses are repeated anyway.
    fn send(&self, to: Slot, bytes: &[u8]);
}
