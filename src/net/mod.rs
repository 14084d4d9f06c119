//! Sockets. What comes in is handed on as bytes or frames; what goes out is taken from queues. Nothing here knows what a
//! message means.
//!
//! | file | what it holds |
//! |---|---|
//! | [`udp`] | [`udp::PulseSocket`]: the pulse plane. Never blocks; what doesn't fit is dropped, since pulses repeat |
//! | [`stream`] | the stream plane: a bounded queue and a writer for each peer, a reader for each connection that comes in |
//! | [`tcp`] | carries it over TCP, where nodes prove that they share a secret |
//! | [`quic`] | carries it over QUIC with mutual TLS, where nodes prove who they are |
//! | [`listen`] | binding, with errors that name the address and the setting |
//! | `counters` | [`Counters`]: what went in and out, and what was refused why |
//!
//! Addresses of peers are texts, `host:port`. They are resolved anew whenever a connection is dialed, because in many
//! deployments a node that comes back has another address under the same name.
//!
//! Invariants:
//! - nothing from outside panics, and nothing is allocated without a cap;
//! - every queue is bounded, and what happens when it is full is said where it is filled;
//! - no lock is held across an await; the one lock here (of an [`stream::Outbox`]) takes no other.

mod addresses;
mod counters;
pub mod listen;
pub mod quic;
pub mod stream;
pub mod tcp;
pub mod udp;

pub use addresses::Addresses;
pub use counters::{Counter, Counters};
