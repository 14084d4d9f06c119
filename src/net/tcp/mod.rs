//! The stream plane over TCP ([`crate::net::stream`] says what it is): one connection of the system for each way between
//! two nodes.
//!
//! | file | what it holds |
//! |---|---|
//! | `proof` | what is said before the first frame, where secrets are set |
//! | `dialer` | [`run_writer`]: makes connections, writes frames |
//! | `listener` | [`run_listener`]: accepts connections |
//!
//! Where secrets are set, a connection begins with a handshake ([`crate::codec::handshake`]) in which both ends prove that
//! they hold one, and every frame carries a keyed code. Until a connection is proven it costs its socket and a task of a
//! few kilobytes, it is answered nothing unless it knows a secret, and it takes no proven connection's place. When secrets
//! change, connections follow: a writer whose secret no longer signs finishes its frames and dials again; one that was
//! proven by a secret that is no longer valid is closed by whichever end notices first.

mod dialer;
mod listener;
mod proof;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub use dialer::run_writer;
pub use listener::{Door, run_listener};
pub use proof::Secrets;

/// How long a connection may be idle before the system asks whether the other end still lives, how often it asks, and
/// after how many unanswered questions the connection is dead. This is for ends that vanished without a word; failures
/// that matter are noticed by the pulse plane long before.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long written bytes may stay unacknowledged before the connection is dead (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(8);

/// Sets what every connection of the stream plane wants, on both of its ends.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // A frame is written whole: waiting for more to go with it would only delay it.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
