//! The stream plane over TCP: frames of messages, in order, between every two nodes.
//!
//! ```text
//!  cores ──push──▶ Outbox ──take──▶ writer ═══ one connection ═══▶ reader ──handle_frame──▶ cores of the peer
//!                  (one a peer)     (one a peer)                   (one a connection)
//! ```
//!
//! A connection carries frames one way: the node that dials writes, the node that accepts reads. Two nodes that talk have
//! two connections, so there is no question of who dials and no tie to break when both do.
//!
//! | file | what it holds |
//! |---|---|
//! | `proof` | what is said before the first frame, where secrets are set |
//! | `outbox` | [`Outbox`]: messages to one peer that wait for its writer, bounded in bytes |
//! | `writer` | [`run_writer`]: dials, writes, dials again |
//! | `reader` | what is done with one connection that came in |
//! | `listener` | [`run_listener`]: accepts connections |
//!
//! Where secrets are set, a connection begins with a handshake ([`crate::codec::handshake`]) in which both ends prove that
//! they hold one, and every frame carries a keyed code. Until a connection is proven it costs its socket and a task of a
//! few kilobytes, it is answered nothing unless it knows a secret, and it takes no proven connection's place. When secrets
//! change, connections follow: a writer whose secret no longer signs finishes its frames and dials again; one that was
//! proven by a secret that is no longer valid is closed by whichever end notices first.
//!
//! What the protocols above may rely on: messages of one connection arrive in the order in which they were pushed, whole
//! and unchanged, or the connection breaks. What they may not: when it breaks, messages that were being written are
//! lost, and what an old connection still had in its buffers may arrive after the first messages of the new one.
//!
//! A message is stamped with its [`crate::codec::Envelope`] when it is queued, not when it is written. So what was said
//! to one life of a peer never reaches another one under its name, however long it waited.

mod listener;
mod outbox;
mod proof;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

pub use listener::{Door, FrameSink, ListenerOptions, run_listener};
pub use outbox::{Chunk, Outbox, PushError};
pub use proof::Secrets;
pub use writer::{Link, LinkEvent, LinkOptions, run_writer};

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
