//! Makes connections over QUIC, and writes frames to them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, SendStream, TokioRuntime};
use rustls::pki_types::CertificateDer;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handshake::{self, Verdict, end_of};
use super::identity::{Fault, Identity};
use super::listener::{JUDGE_EVERY, WELCOME_BYTES, welcome};
use super::{CODE_DONE, Identities};
use crate::base::Slot;
use crate::codec::{CodecError, NameHash, frame};
use crate::net::listen;
use crate::net::stream::{self, Carrier, Chunk, DialError, Dialed, End, FrameWriter, LAST_WORDS, Link};

/// Bytes that are handed to QUIC at once. It cuts packets from them, so larger ones only make larger copies.
const PIECE_BYTES: usize = 256 << 10;

/// Writes to one peer over QUIC until `shutdown` is cancelled, then writes what is left and ends. Both ends prove which
/// node they are.
///
/// What is queued while there is no connection waits, within the bound of its [`stream::Outbox`].
pub async fn run_writer(link: Link, identities: Identities, shutdown: CancellationToken) {
    stream::run(link, Dialer { identities, v4: None, v6: None, last: None }, shutdown).await;
}

struct Dialer {
    identities: Identities,
    /// Sockets to dial from, one for each kind of address. A socket for each peer, so that a flood at the listener's
    /// leaves these alone.
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    /// Where the peer was found last.
    last: Option<SocketAddr>,
}

impl Carrier for Dialer {
    type Writer = Writer;

    async fn dial(&mut self, link: &Link) -> Result<Dialed<Writer>, DialError> {
        let mut addresses: Vec<SocketAddr> = lookup_host(&link.address).await?.collect();
        // Where nobody listens nobody says so, unlike with TCP. So each address has its share of the time, and the one
        // where the peer was found last is the first.
        addresses.sort_by_key(|address| Some(*address) != self.last);
        let share = link.options.dial_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let nowhere = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
        let mut result = Err(DialError::System(nowhere));
        for address in addresses {
            let identity = Arc::clone(&self.identities.borrow_and_update());
            let endpoint = self.endpoint(address)?;
            result = match timeout(share, open(&endpoint, &identity, address, (link.me, link.slot))).await {
                Ok(opened) => opened.map(|(connection, streams)| self.dialed(identity, connection, streams, link.slot)),
                Err(elapsed) => Err(DialError::System(elapsed.into())),
            };
            if result.is_ok() {
                self.last = Some(address);
                break;
            }
        }
        result
    }
}

impl Dialer {
    /// The socket to dial `address` from.
    fn endpoint(&mut self, address: SocketAddr) -> io::Result<Endpoint> {
        let (place, any) = if address.is_ipv4() { (&mut self.v4, "0.0.0.0:0") } else { (&mut self.v6, "[::]:0") };
        if let Some(endpoint) = place {
            return Ok(endpoint.clone());
        }
        let socket = listen::udp("stream, dialing", any).map_err(|error| error.source)?;
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
        Ok(place.insert(endpoint).clone())
    }

    fn dialed(
        &self,
        identity: Arc<Identity>,
        connection: Connection,
        [live, bulk]: [SendStream; 2],
        slot: Slot,
    ) -> Dialed<Writer> {
        let closing = connection.clone();
        let closed = async move { broken(closing.closed().await) };
        let peer = Peer { chain: handshake::shown(&connection), slot };
        let (judging, judged) = (self.identities.clone(), peer.clone());
        let revoked = async move {
            judged.until_refused(judging).await;
            sleep(LAST_WORDS).await;
            io::Error::new(io::ErrorKind::PermissionDenied, "the certificate that it was proven by is no longer valid")
        };
        let (judging, changing, shown) = (self.identities.clone(), self.identities.clone(), Arc::clone(&identity));
        let renewal = async move {
            tokio::select! {
                () = until_renewed(changing, &shown) => {}
                // It may have another one by now.
                () = peer.until_refused(judging) => {}
            }
        };
        let mut asked = self.identities.clone();
        let is_outdated =
            move || asked.has_changed().unwrap_or(false) && !asked.borrow_and_update().shows_the_same(&identity);
        Dialed {
            writer: Writer { stream: live, pieces: BytesMut::new(), closes: Some(connection) },
            bulk: Some(Writer { stream: bulk, pieces: BytesMut::new(), closes: None }),
            ends: vec![Box::pin(closed), Box::pin(revoked)],
            renewal: Box::pin(renewal),
            is_outdated: Box::new(is_outdated),
        }
    }
}

/// Connects, and waits until the listener has said that it takes this node for the one that it is.
pub(super) async fn open(
    endpoint: &Endpoint,
    identity: &Arc<Identity>,
    address: SocketAddr,
    (me, slot): (Slot, Slot),
) -> Result<(Connection, [SendStream; 2]), DialError> {
    let name = identity.name(slot).ok_or_else(|| io::Error::other("the peer has no name"))?;
    let (config, verdict) = handshake::dialing(identity, slot);
    let connecting = endpoint.connect_with(config, address, &name.to_str()).map_err(io::Error::other)?;
    let unproven = |error| of_handshake(error, &verdict);
    let connection = connecting.await.map_err(unproven)?;
    let mut from_peer = connection.accept_uni().await.map_err(unproven)?;
    let mut heard = [0; WELCOME_BYTES];
    if let Err(error) = from_peer.read_exact(&mut heard).await {
        return Err(connection.close_reason().map_or_else(|| DialError::System(io::Error::other(error)), unproven));
    }
    if heard != welcome(slot, me) {
        // Its certificate is the right one, so it counts slots differently: another configuration.
        return Err(DialError::Unproven(End::Refused(CodecError::OtherSlot)));
    }
    let live = connection.open_uni().await.map_err(unproven)?;
    let bulk = connection.open_uni().await.map_err(unproven)?;
    // What is live is sent first whenever there is something of both. (A connection that is gone is noticed in writing.)
    let _ = bulk.set_priority(-1);
    Ok((connection, [live, bulk]))
}

/// A connection that breaks before anything was proven is no question of trust.
fn of_handshake(error: ConnectionError, verdict: &Verdict) -> DialError {
    match end_of(error, verdict) {
        End::Broken(error) => DialError::System(error),
        end => DialError::Unproven(end),
    }
}

fn broken(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_DONE => {
            io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed it")
        }
        error => error.into(),
    }
}

/// Waits until this node shows another certificate than `shown`.
async fn until_renewed(mut identities: Identities, shown: &Identity) {
    if identities.wait_for(|identity| !identity.shows_the_same(shown)).await.is_err() {
        // Nobody is left who could change them.
        std::future::pending::<()>().await;
    }
}

/// What the peer has shown.
#[derive(Clone)]
struct Peer {
    chain: Vec<CertificateDer<'static>>,
    slot: Slot,
}

impl Peer {
    /// Waits until that is no longer good enough.
    async fn until_refused(&self, mut identities: Identities) {
        until_faulty(&mut identities, |identity| identity.judge_listener(&self.chain, self.slot, handshake::now()))
            .await;
    }
}

/// Judges again and again, and whenever this node has taken over other certificates; the fault that is found.
pub(super) async fn until_faulty<T>(
    identities: &mut Identities,
    mut judge: impl FnMut(&Identity) -> Result<T, Fault>,
) -> Fault {
    loop {
        let identity = Arc::clone(&identities.borrow_and_update());
        if let Err(fault) = judge(&identity) {
            return fault;
        }
        // Who could change them may be gone; time passes nevertheless.
        let _ = timeout(JUDGE_EVERY, wait_for_change(identities)).await;
    }
}

async fn wait_for_change(identities: &mut Identities) {
    if identities.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The stream of one lane's frames.
struct Writer {
    stream: SendStream,
    /// What is collected for the next call.
    pieces: BytesMut,
    /// The connection, which ends with this stream; none for the other one.
    closes: Option<Connection>,
}

impl FrameWriter for Writer {
    async fn write_frames(&mut self, name: NameHash, chunks: &VecDeque<Chunk>, count: usize) -> io::Result<u64> {
        let mut written = 0;
        for Chunk { envelope, payload, .. } in chunks.iter().take(count) {
            let header = frame::seal(envelope, name, payload).map_err(io::Error::other)?;
            self.write(&header).await?;
            for piece in payload.pieces().flat_map(|piece| piece.chunks(PIECE_BYTES)) {
                self.write(piece).await?;
            }
            written += (header.len() + payload.len()) as u64;
        }
        self.flush().await?;
        Ok(written)
    }

    /// The listener closes the connection once it has read the end of what is live: then it has all. Letting go of it before
    /// would throw away what the listener has not acknowledged; so the bulk is acknowledged before that end is sent.
    async fn finish(&mut self) {
        if self.stream.finish().is_ok() {
            match &self.closes {
                Some(connection) => drop(connection.closed().await),
                None => drop(self.stream.stopped().await),
            }
        }
    }
}

impl Writer {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.pieces.len() + bytes.len() > PIECE_BYTES {
            self.flush().await?;
        }
        self.pieces.extend_from_slice(bytes);
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let pieces: Bytes = self.pieces.split().freeze();
        if pieces.is_empty() {
            return Ok(());
        }
        self.stream.write_chunk(pieces).await.map_err(io::Error::from)
    }
}

impl Drop for Writer {
    /// Half a frame must not look like the end of a stream to a peer that could then wait for more.
    fn drop(&mut self) {
        if let Some(connection) = &self.closes {
            connection.close(CODE_DONE, b"");
        }
    }
}
