//! Bytes on the wire: what a datagram and a frame look like, and the one door to bincode.
//!
//! Three layers, each of which refuses what it doesn't understand and names the reason ([`CodecError`]):
//!
//! | file | what it holds |
//! |---|---|
//! | `door` | [`encode_into`], [`decode`]: values as bincode, with a bound on what a decoder may allocate |
//! | [`datagram`] | the pulse plane: one header, one payload, one checksum in at most 1200 bytes |
//! | [`frame`] | the stream plane: a header of fixed size, then a payload of many messages |
//! | `payload` | [`Payload`]: what a frame carries, while it is put together; large values aren't copied into it |
//! | [`handshake`] | how a connection of the stream plane begins where secrets are set |
//! | `keyring` | [`Keyring`]: the secrets that nodes share, and the keys that are made of them |
//! | `envelope` | [`Envelope`], [`NameHash`]: who says it to whom, in which cluster |
//! | `fields` | integers of fixed width, for the headers |
//! | `error` | [`CodecError`] |
//!
//! Headers have fixed widths and are little-endian, so that a header can be judged before anything else is read and a
//! packet dump can be read by eye. Payloads are bincode's standard configuration: little-endian variable-length
//! integers, an enum's variant as its number.
//!
//! Invariants:
//! - nothing is decoded before the checksum over it was verified, and, where secrets are set, its keyed code;
//! - a length is compared with its cap before anything is allocated for it, and what a payload may make a decoder
//!   allocate grows with the bytes that really came ([`decode`]);
//! - all bytes of an input are accounted for: left-over bytes are an error, so two different byte strings never mean the
//!   same header;
//! - no input panics.
//!
//! The checksum is CRC-32, which finds every single flipped bit and every burst of up to 32 bits. It is against accidents,
//! not against an attacker: against those, nodes that share a secret put a keyed code into every datagram and, after a
//! [`handshake`], into every frame. Without a secret the bytes are the same but for that code.
//!
//! Left out: what an envelope means. Whether a message is meant for this incarnation and this cluster is judged by the
//! cores, which know who they are.

pub mod datagram;
mod door;
mod envelope;
mod error;
mod fields;
pub mod frame;
pub mod handshake;
mod keyring;
mod payload;

pub use door::{decode, encode_into};
pub use envelope::{Envelope, NameHash};
pub use error::CodecError;
pub use frame::{Frame, FrameDecoder};
pub use keyring::{CODE_BYTES, Keyring, KeyringError, SECRET_BYTES_MIN, SECRETS_MAX, StreamKey};
pub use payload::Payload;
