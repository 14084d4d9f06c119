//! What the two ends of a connection say before its first frame, where secrets are set: [`crate::codec::handshake`] over
//! a socket.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::base::Slot;
use crate::codec::handshake::{self, Dialer, HELLO_BYTES, Listener, Session};
use crate::codec::{CodecError, Keyring, NameHash};
use crate::net::stream::End;

/// The secrets that are valid now, for everything that has to follow when they change.
pub type Secrets = watch::Receiver<Arc<Keyring>>;

/// Proves to the listener in slot `dialed` that this node, in slot `me`, holds a secret, and lets it prove the same. None
/// without a secret: nothing is said then.
pub(super) async fn dial(
    stream: &mut TcpStream,
    secrets: &Secrets,
    name: NameHash,
    me: Slot,
    dialed: Slot,
) -> Result<Option<Session>, End> {
    let Some(dialer) = Dialer::new(&current(secrets), name, me, dialed, rand::random()) else { return Ok(None) };
    stream.write_all(dialer.hello()).await.map_err(End::Broken)?;
    let mut answer = [0; handshake::ANSWER_BYTES];
    stream.read_exact(&mut answer).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => End::Closed,
        _ => End::Broken(error),
    })?;
    let (proof, session) = dialer.handle_answer(&answer).map_err(End::Refused)?;
    stream.write_all(&proof).await.map_err(End::Broken)?;
    Ok(Some(session))
}

/// The same on the listening side, in slot `me`. It allocates nothing and answers nobody who has no secret.
pub(super) async fn listen(
    stream: &mut TcpStream,
    keyring: &Keyring,
    name: NameHash,
    me: Slot,
) -> Result<Session, End> {
    let hello = read_hello(stream).await?;
    let heard = Listener::handle_hello(keyring, name, me, rand::random(), &hello);
    let (listener, answer) = heard.map_err(End::Refused)?;
    stream.write_all(&answer).await.map_err(End::Broken)?;
    let mut proof = [0; handshake::PROOF_BYTES];
    stream.read_exact(&mut proof).await.map_err(End::Broken)?;
    listener.handle_proof(&proof).map_err(End::Refused)
}

/// Reads a hello; something else is noticed by its first bytes, however few more it has.
async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; HELLO_BYTES], End> {
    let mut hello = [0; HELLO_BYTES];
    let mut filled = 0;
    while filled < HELLO_BYTES {
        match stream.read(&mut hello[filled..]).await {
            Ok(0) => return Err(if filled == 0 { End::Closed } else { End::CutOff }),
            Ok(bytes) => filled += bytes,
            Err(error) => return Err(End::Broken(error)),
        }
        if handshake::is_handshake(&hello[..filled]) == Some(false) {
            return Err(End::Refused(CodecError::Unauthenticated));
        }
    }
    Ok(hello)
}

/// The secrets that are valid at this moment.
pub(super) fn current(secrets: &Secrets) -> Arc<Keyring> {
    Arc::clone(&secrets.borrow())
}

/// Waits until `is_over` says of the secrets that are valid then that a connection is to end.
pub(super) async fn until(mut secrets: Secrets, mut is_over: impl FnMut(&Keyring) -> bool) {
    if secrets.wait_for(|keyring| is_over(keyring)).await.is_err() {
        // Nobody is left who could change them.
        std::future::pending::<()>().await;
    }
}
