//! What stands between a client's connections and libunftp, which bounds neither what it reads nor what it writes to.
//!
//! ```text
//! client ── control ──▶ [ credit ] ── loopback ──▶ libunftp
//! client ── data ─────▶ [ address, TLS, pauses ] ── loopback ──▶ libunftp
//! ```
//!
//! libunftp collects a line until its end comes, however far away that is, and asks nobody for leave to; an endless one would be the
//! end of the node. The lines themselves can't be looked at, because they may be TLS. But every command is answered, so
//! who sends much and is answered little sends no commands: a client has [`CREDIT_BYTES`] in advance, and
//! [`CREDIT_OF_A_BYTE`] more for each byte of an answer. Whoever has used that up is cut off.
//!
//! Where TLS is required, libunftp refuses `PASV` to a client that hasn't asked for it and lets `EPSV` pass. So a data connection is
//! carried only once its client has begun to speak TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::passive::DataConnections;

/// What a client may send before anything is answered: many commands of the longest names, and any TLS handshake.
const CREDIT_BYTES: usize = 16 << 10;
/// What it may send for each byte of an answer. The shortest answers have some 20 bytes, the longest commands 1100; whoever sends
/// nothing but the shortest commands gets the credit for a line of a few MiB.
const CREDIT_OF_A_BYTE: usize = 32;
/// How long libunftp, and so everybody else, waits for a data connection.
const DATA_WAIT: Duration = Duration::from_secs(15);
/// A data connection isn't broken off on libunftp's side before it is as old: one that is broken before libunftp has looked at it
/// leaves the command that it is for without a reply.
const ACCEPTED_AFTER: Duration = Duration::from_secs(1);
/// Bytes of a data connection that are read at once.
const DATA_BYTES: usize = 64 << 10;
/// Where libunftp believes its clients to be.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What each TLS connection begins with: a record of the handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// What a client that has no credit left is told, where it can read it.
const REFUSAL: &[u8] = b"500 The line is too long\r\n";

/// Two ends of a connection of this process with itself: ours, and libunftp's.
pub(super) async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((CLIENT, 0)).await?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(CLIENT, 0))?;
    let ours = socket.connect(listener.local_addr()?).await?;
    loop {
        let (theirs, peer) = listener.accept().await?;
        // Anybody on this machine could have been faster.
        if peer == ours.local_addr()? {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
}

/// Carries the control connection of `client` to its end. That comes where it leaves an answer unread for `pause_max`, or where for
/// all of `idle` nothing is said and there is no data connection.
pub(super) async fn carry_control(
    mut client: TcpStream,
    mut server: TcpStream,
    pause_max: Duration,
    (idle, data): (Duration, &DataConnections),
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (mut commands, mut answers) = ([0; 4 << 10], [0; 4 << 10]);
    let mut credit = Credit::default();
    loop {
        tokio::select! {
            () = sleep(idle) => {
                if !data.any() {
                    tracing::debug!("an FTP client says nothing; it is cut off");
                    break;
                }
            }
            read = from_client.read(&mut commands) => {
                let Ok(count @ 1..) = read else { break };
                if !credit.spend(count) {
                    tracing::debug!("an FTP client sends more than commands; it is cut off");
                    let _ = timeout(pause_max, to_client.write_all(REFUSAL)).await;
                    break;
                }
                if to_server.write_all(&commands[..count]).await.is_err() {
                    break;
                }
            }
            read = from_server.read(&mut answers) => {
                let Ok(count @ 1..) = read else { break };
                credit.earn(count);
                let Ok(Ok(())) = timeout(pause_max, to_client.write_all(&answers[..count])).await else { break };
            }
        }
    }
    let _ = to_client.shutdown().await;
}

/// What a client may still send.
struct Credit {
    bytes: usize,
}

impl Default for Credit {
    fn default() -> Self {
        Self { bytes: CREDIT_BYTES }
    }
}

impl Credit {
    fn spend(&mut self, count: usize) -> bool {
        let left = self.bytes.checked_sub(count);
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }

    fn earn(&mut self, answered: usize) {
        self.bytes = answered.saturating_mul(CREDIT_OF_A_BYTE).saturating_add(self.bytes).min(CREDIT_BYTES);
    }
}

/// Waits at `listener` for the data connection of the client at `peer`, and connects to libunftp, which listens at `server`, for
/// it. None where either doesn't come about.
pub(super) async fn meet(listener: TcpListener, peer: IpAddr, server: SocketAddr) -> Option<(TcpStream, TcpStream)> {
    let accept = async {
        loop {
            match listener.accept().await {
                // Strangers neither get the connection nor keep the client from it.
                Ok((client, from)) if from.ip() == peer => return Ok(client),
                Ok((_, from)) => tracing::debug!(%from, %peer, "a data connection is another client's"),
                Err(error) => return Err(error),
            }
        }
    };
    let client = timeout(DATA_WAIT, accept).await.ok()?.ok()?;
    drop(listener);
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(CLIENT, 0))?;
        socket.connect(server).await
    };
    match connect.await {
        Ok(server) => Some((client, server)),
        Err(error) => {
            tracing::debug!(%error, "nobody waits for this data connection any more");
            None
        }
    }
}

/// What holds for data connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Nothing but TLS gets through.
    pub(super) only_tls: bool,
    /// How long a client may not read what it asked for, or take to begin with TLS.
    pub(super) pause_max: Duration,
}

/// Carries the bytes of a data connection both ways until libunftp has said its last.
pub(super) async fn carry_data(mut client: TcpStream, mut server: TcpStream, rules: Rules) {
    let Rules { only_tls, pause_max } = rules;
    let begun = Instant::now();
    let may_pass = !only_tls || begins_with_tls(&client, &server, pause_max).await;
    let carried =
        if may_pass { copy(&mut client, &mut server, pause_max).await } else { Err(io::ErrorKind::InvalidData.into()) };
    if let Err(error) = carried {
        tracing::debug!(%error, "a data connection is broken off");
        // What was cut off must not look as if it had ended: the part of an upload that came would be the file.
        let _ = client.set_zero_linger();
        drop(client);
        sleep_until(begun + ACCEPTED_AFTER).await;
        let _ = server.set_zero_linger();
    }
}

/// Whether the client speaks TLS, and libunftp, which is the server of it, waits for that.
async fn begins_with_tls(client: &TcpStream, server: &TcpStream, pause_max: Duration) -> bool {
    let (mut first, mut early) = ([0; 1], [0; 1]);
    let hello = async {
        tokio::select! {
            biased;
            _ = server.peek(&mut early) => false,
            peeked = client.peek(&mut first) => peeked.is_ok_and(|count| count == 1),
        }
    };
    timeout(pause_max, hello).await == Ok(true) && first == [HANDSHAKE]
}

async fn copy(client: &mut TcpStream, server: &mut TcpStream, pause_max: Duration) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut bytes = vec![0; DATA_BYTES];
        loop {
            match from_client.read(&mut bytes).await? {
                0 => break,
                count => to_server.write_all(&bytes[..count]).await?,
            }
        }
        to_server.shutdown().await?;
        // It is libunftp that ends the connection.
        std::future::pending::<io::Result<()>>().await
    };
    let down = async {
        let mut bytes = vec![0; DATA_BYTES];
        loop {
            match from_server.read(&mut bytes).await? {
                0 => break,
                count => timeout(pause_max, to_client.write_all(&bytes[..count])).await??,
            }
        }
        to_client.shutdown().await
    };
    tokio::select! {
        carried = up => carried,
        carried = down => carried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(only_tls: bool) -> Rules {
        Rules { only_tls, pause_max: Duration::from_secs(60) }
    }

    #[test]
    fn who_sends_commands_always_has_credit_and_who_sends_no_end_has_none() {
        let mut credit = Credit::default();
        for _ in 0..10_000 {
            assert!(credit.spend(1100), "the longest name, and TLS around it");
            credit.earn("250 Ok\r\n".len() + 29);
        }
        let mut credit = Credit::default();
        assert!(credit.spend(CREDIT_BYTES));
        assert!(!credit.spend(1));
        // Answers can't be saved up.
        let mut credit = Credit::default();
        credit.earn(1 << 30);
        assert!(credit.spend(CREDIT_BYTES) && !credit.spend(1));
    }

    #[tokio::test]
    async fn a_client_that_is_cut_off_does_not_look_as_if_it_had_ended() {
        for resets in [false, true] {
            let (mut client, client_end) = pair().await.expect("loopback");
            let (mut server, server_end) = pair().await.expect("loopback");
            let carrying = tokio::spawn(carry_data(client_end, server_end, rules(false)));
            client.write_all(b"part").await.expect("it is open");
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).await.expect("it comes through");
            if resets {
                client.set_zero_linger().expect("a socket");
            }
            drop(client);
            let read = server.read(&mut bytes).await;
            assert_eq!(read.is_err(), resets, "{read:?}");
            drop(server);
            carrying.await.expect("it ends");
        }
    }

    #[tokio::test]
    async fn where_tls_is_required_nothing_else_passes() {
        // What either sends first, and whether that reaches the other.
        let cases = [(&[HANDSHAKE, 3, 1][..], &b""[..], true), (b"file", b"", false), (b"", b"file", false)];
        for (sent, answered, passes) in cases {
            let (mut client, client_end) = pair().await.expect("loopback");
            let (mut server, server_end) = pair().await.expect("loopback");
            let carrying = tokio::spawn(carry_data(client_end, server_end, rules(true)));
            client.write_all(sent).await.expect("it is open");
            server.write_all(answered).await.expect("it is open");
            let (reader, expected) = if sent.is_empty() { (&mut client, answered) } else { (&mut server, sent) };
            let mut bytes = vec![0; expected.len()];
            let read = reader.read_exact(&mut bytes).await;
            assert_eq!(read.is_ok() && bytes == expected, passes, "{sent:?} {answered:?}: {read:?}");
            drop((client, server));
            carrying.await.expect("it ends");
        }
    }
}
