//! The stream plane, whatever carries it: frames of messages, in order, between every two nodes.
//!
//! ```text
//!  cores ──push──▶ Outbox ──take──▶ writer ═══ one connection ═══▶ reader ──handle_frame──▶ cores of the peer
//!                  (one a peer)     (one a peer)                   (one a connection)
//! ```
//!
//! A connection carries frames one way: the node that dials writes, the node that accepts reads. Two nodes that talk have
//! two connections, so there is no question of who dials and no tie to break when both do.
//!
//! Two things can carry it: [`crate::net::tcp`] and [`crate::net::quic`]. What they share is here, and what they differ in
//! is how two ends find each other and prove who they are.
//!
//! | file | what it holds |
//! |---|---|
//! | `outbox` | [`Outbox`]: messages to one peer that wait for its writer, bounded in bytes |
//! | `writer` | [`Link`]: dials, writes, dials again, over whatever it is given to dial with |
//! | `reader` | takes frames off one connection; why a connection ends |
//! | `door` | [`ListenerOptions`], [`FrameSink`]: who is let in, and where frames go |
//!
//! There are two lanes ([`Lane`]), for what somebody waits for and for parts of tables. Over TCP they take turns on one
//! connection; over QUIC each is a stream of its own, so that neither waits for the other's lost packets or full window.
//!
//! What the protocols above may rely on: messages of one connection and lane arrive in the order in which they were pushed, whole
//! and unchanged, or the connection breaks. What they may not: when it breaks, messages that were being written are
//! lost, and what an old connection still had in its buffers may arrive after the first messages of the new one.
//!
//! A message is stamped with its [`crate::codec::Envelope`] when it is queued, not when it is written. So what was said
//! to one life of a peer never reaches another one under its name, however long it waited.
//!
//! Invariant: an unproven connection costs a few kilobytes and its socket over TCP, some tens of kilobytes over QUIC; it is
//! never given a proven connection's place.

mod door;
mod outbox;
mod reader;
mod writer;

#[cfg(test)]
pub(in crate::net) mod testing;
#[cfg(test)]
mod tests;

pub(in crate::net) use door::{Doormen, Entry, Stranger, count_end};
pub use door::{FrameSink, ListenerOptions};
pub use outbox::{Chunk, Lane, Outbox, PushError};
pub(in crate::net) use reader::{End, drive_reader};
pub(in crate::net) use writer::{Carrier, DialError, Dialed, FrameWriter, LAST_WORDS, run};
pub use writer::{Link, LinkEvent, LinkOptions};
