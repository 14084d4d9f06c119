//! The stream plane over QUIC with mutual TLS 1.3 ([`crate::net::stream`] says what it is), for networks that aren't
//! trusted: what is said is secret, and each node proves which node it is.
//!
//! | file | what it holds |
//! |---|---|
//! | `identity` | [`Identity`]: a node's certificate, its key and its authority; who a peer's certificate says that it is |
//! | `handshake` | what both ends configure TLS and QUIC with |
//! | `dialer` | [`run_writer`]: makes connections, writes frames |
//! | `listener` | [`run_listener`]: accepts connections |
//!
//! A connection carries frames one way, as over TCP, on two streams that the dialer opens: first that of what is live, then
//! that of the bulk ([`crate::net::stream::Lane`]), which opens when there is any. TLS proves more than the secrets do over TCP, so
//! a frame carries no code:
//!
//! ```text
//! dialer                                                          listener
//!   │ TLS: its certificate is of the authority, valid now, and names the node that was dialed
//!   │ TLS: the dialer's certificate likewise, and the node that it names is in the configuration
//!   │ ◀── welcome, on a stream of its own: the certificate was accepted; which slot dialed which
//!   │ frames, each from the slot that the certificate names ──────▶ │
//! ```
//!
//! The dialer's side of the TLS handshake ends before the listener has seen its certificate. That is what the welcome is
//! for: until it comes nothing is written, so that what waits is not lost to a connection that is refused.
//!
//! | offset | bytes | field of the welcome |
//! |---|---|---|
//! | 0 | 4 | magic, `jgsw` |
//! | 4 | 1 | version of the format, 1 |
//! | 5 | 1 | slot that was dialed |
//! | 6 | 1 | slot that dialed |
//! | 7 | 1 | reserved, 0 |
//!
//! A connection is judged again every few seconds and whenever other certificates are taken over: one whose peer's
//! certificate has expired, or is no longer of the authority, is closed. A writer whose own certificate was renewed
//! finishes its frames and dials again.
//!
//! Off are: 0-RTT and resumption (a resumed connection would show no certificate), datagrams, migration (a node whose
//! address changes dials again), and streams that nobody needs.
//!
//! A node that is killed says nothing, and no system says it in its place as with TCP. So a listener that has just been
//! started answers the packets of its former life with resets that the dialer believes, because both lives derive the
//! tokens of these resets from the node's key.

mod dialer;
mod handshake;
mod identity;
mod listener;

#[cfg(test)]
pub(in crate::net) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::watch;

pub use dialer::run_writer;
pub use identity::{Identity, IdentityError, IdentityFile, Pems};
pub use listener::{Door, run_listener};

/// What this node proves itself with now, and what it judges others by.
pub type Identities = watch::Receiver<Arc<Identity>>;

/// What both ends say that they speak (ALPN).
const PROTOCOL: &[u8] = b"jumpgate-stream/1";

/// The code of a connection that ends without anything being wrong.
const CODE_DONE: quinn::VarInt = quinn::VarInt::from_u32(0);
/// The code of a connection that the listener refuses; the reason goes with it.
const CODE_REFUSED: quinn::VarInt = quinn::VarInt::from_u32(1);
