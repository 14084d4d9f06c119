//! Makes connections over TCP, and writes frames to them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::proof::{self, Secrets};
use super::tune;
use crate::codec::handshake::Session;
use crate::codec::{CODE_BYTES, CodecError, Keyring, NameHash, StreamKey, frame};
use crate::net::stream::{self, Carrier, Chunk, DialError, Dialed, FrameWriter, LAST_WORDS, Link};

/// Writes to one peer over TCP until `shutdown` is cancelled, then writes what is left and ends. Where `secrets` are set,
/// both ends prove that they hold one.
///
/// What is queued while there is no connection waits, within the bound of its [`stream::Outbox`].
pub async fn run_writer(link: Link, secrets: Secrets, shutdown: CancellationToken) {
    stream::run(link, Dialer { secrets }, shutdown).await;
}

struct Dialer {
    /// What this node proves to its peer, and it to this node; without any secret neither proves anything.
    secrets: Secrets,
}

impl Carrier for Dialer {
    type Writer = Writer;

    async fn dial(&mut self, link: &Link) -> Result<Dialed<Writer>, DialError> {
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"));
        for address in lookup_host(&link.address).await? {
            result = TcpStream::connect(address).await.and_then(not_to_itself);
            if result.is_ok() {
                break;
            }
        }
        let mut stream = result?;
        tune(&stream)?;
        let session = proof::dial(&mut stream, &self.secrets, link.name, link.me, link.slot).await;
        Ok(dialed(stream, session.map_err(DialError::Unproven)?, &self.secrets))
    }
}

/// A connection, and what proves its frames.
fn dialed(stream: TcpStream, session: Option<Session>, secrets: &Secrets) -> Dialed<Writer> {
    let proven_by = session.as_ref().map(Session::proven_by);
    let (mut from_peer, to_peer) = stream.into_split();
    // The peer never writes here. Reading is how an idle writer learns at once that the peer has gone; otherwise the
    // next frame would go into the void without an error.
    let reading = async move {
        match from_peer.read(&mut [0]).await {
            Ok(0) => io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed it"),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer wrote where it only reads"),
            Err(error) => error,
        }
    };
    let removable = secrets.clone();
    let secret_removed = async move {
        proof::until(removable, |keyring| !is_valid(proven_by, keyring)).await;
        sleep(LAST_WORDS).await;
        io::Error::new(io::ErrorKind::PermissionDenied, "the secret that it was proven by is no longer valid")
    };
    let replaceable = secrets.clone();
    let renewal = async move { proof::until(replaceable, |keyring| !is_current(proven_by, keyring)).await };
    let mut asked = secrets.clone();
    // Asking whether there is anything new costs one look at a number.
    let is_outdated =
        move || asked.has_changed().unwrap_or(false) && !is_current(proven_by, &asked.borrow_and_update());
    Dialed {
        writer: Writer { to_peer, session },
        bulk: None,
        ends: vec![Box::pin(reading), Box::pin(secret_removed)],
        renewal: Box::pin(renewal),
        is_outdated: Box::new(is_outdated),
    }
}

/// The writing half of a connection.
struct Writer {
    to_peer: OwnedWriteHalf,
    session: Option<Session>,
}

impl FrameWriter for Writer {
    async fn write_frames(&mut self, name: NameHash, chunks: &VecDeque<Chunk>, count: usize) -> io::Result<u64> {
        let mut seals = Vec::with_capacity(count);
        for chunk in chunks.iter().take(count) {
            seals.push(self.seal(name, chunk).map_err(io::Error::other)?);
        }
        // Most payloads are one piece.
        let mut parts = Vec::with_capacity(3 * count);
        for ((header, code), chunk) in seals.iter().zip(chunks) {
            parts.push(IoSlice::new(header));
            parts.extend(chunk.payload.pieces().map(IoSlice::new));
            parts.extend(code.as_ref().map(|code| IoSlice::new(code)));
        }
        write_all(&mut self.to_peer, &mut parts).await
    }

    /// The system goes on sending what it has, whoever lets go of the socket.
    async fn finish(&mut self) {
        let _ = self.to_peer.shutdown().await;
    }
}

impl Writer {
    /// What goes around a chunk: its header, and its code where the connection has a session.
    fn seal(&mut self, name: NameHash, chunk: &Chunk) -> Result<Seal, CodecError> {
        let Chunk { envelope, payload, .. } = chunk;
        match &mut self.session {
            Some(session) => {
                let (header, code) = frame::seal_with(session, envelope, name, payload)?;
                Ok((header, Some(code)))
            }
            None => Ok((frame::seal(envelope, name, payload)?, None)),
        }
    }
}

type Seal = ([u8; frame::HEADER_BYTES], Option<[u8; CODE_BYTES]>);

/// Whether a connection that was proven by this secret may go on.
fn is_valid(proven_by: Option<StreamKey>, keyring: &Keyring) -> bool {
    proven_by.map_or(keyring.is_empty(), |secret| keyring.holds(&secret))
}

/// Whether a connection that was proven by this secret needn't be replaced: the next one would be proven by the same.
fn is_current(proven_by: Option<StreamKey>, keyring: &Keyring) -> bool {
    proven_by.map_or(keyring.is_empty(), |secret| keyring.signs_with(&secret))
}

/// Writes all of `parts`, in as few calls as the socket's buffer allows; how many bytes that were.
async fn write_all(to_peer: &mut OwnedWriteHalf, mut parts: &mut [IoSlice<'_>]) -> io::Result<u64> {
    let mut total = 0;
    // Skips empty parts, so that a call that writes nothing means that nothing can be written any more.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let written = to_peer.write_vectored(parts).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        total += written as u64;
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(total)
}

/// Refuses a connection whose two ends are one: dialing a port of this machine where nobody listens can by chance take
/// that very port as the local one, and TCP then connects the socket with itself. It would hold the port that the peer
/// wants to listen on.
fn not_to_itself(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? != stream.peer_addr()? {
        return Ok(stream);
    }
    // Closed without the usual wait, which would hold the port for another minute.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"))
}
