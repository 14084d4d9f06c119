//! The gateway: how people and programs reach the store, over HTTP, WebSocket and FTP.
//!
//! A gateway turns requests of a protocol that the world speaks into [`crate::api::Request`]s, hands them through the
//! [`crate::port::Core`] door, and turns the answers back. It decides nothing about data: who leads, where a key lives
//! and whether a write happened are the core's affair. What it does decide is what a client may do to this process: how
//! large, how slow and how many its requests may be.
//!
//! # The way of a request
//!
//! ```text
//! TCP ─▶ listen   permits, back-off, shutdown
//!        tls      TLS, or plain HTTP on the same port
//!        wire     header, idle and write time-outs; scan refuses ambiguous framing
//!        (hyper)  HTTP/1.1 and HTTP/2
//!        observe  request ids, numbers, the log; cors
//!        front    Host and Origin, then the token
//!        routes   warp: key-value routes first, then the feed, then what is answered here
//!          kv, list ─▶ api::Request ─▶ port::Core ─▶ api::Response ─▶ HTTP
//!          files    ─▶ files::Upload, files::Download ─▶ many api::Requests, as the bytes come and go
//!          batch    ─▶ many api::Requests ─▶ port::Core::submit_batch
//!          feed, sse ─▶ port::Core::subscribe ─▶ one JSON message an event
//!          admin    ─▶ port::Core::admin, or relay ─▶ the leader's gateway
//!          local    the dashboard, cluster, health, metrics
//!        problem  every failure, as RFC 9457 problem+json
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `options` | [`GatewayOptions`]: limits and time-outs |
//! | `listen` | [`Gateway`]: the accept loop and one connection's life |
//! | `tls` | [`Tls`]: the certificate that clients are shown |
//! | `wire`, `scan` | the byte stream under the HTTP parser, and what is checked on it |
//! | `observe` | what every request leaves behind: numbers, an id, a line in the log |
//! | `cors` | what pages of the cluster's other nodes may read |
//! | `front` | the Host and Origin checks, and whether a token lets the request in |
//! | `guard` | [`Guard`]: the tokens in force, addresses that guess |
//! | `routes` | the warp filters; what all handlers share |
//! | `target` | percent-decoding and query parameters |
//! | `body` | reading a request's body within bounds |
//! | `compress` | gzip for what the gateway makes itself and is long |
//! | `conditional` | entity tags, preconditions, ranges |
//! | `files` | files and folders: streams both ways, and the collector of what is left of them |
//! | `ftp` | FTP, over the same files (feature `ftp`) |
//! | `kv`, `list`, `batch`, `local`, `feed`, `sse`, `admin` | the handlers |
//! | `dashboard` | the page at `/` |
//! | `viewing` | what one viewer of the feed is told |
//! | `relay` | an operator's request on its way to the leader's gateway |
//! | `problem` | failures as HTTP |
//!
//! # Invariants
//!
//! - Nothing that a client sends is buffered beyond a limit in [`GatewayOptions`], and nothing is waited for without a
//!   time-out.
//! - Every failure is a problem with a name that programs may compare, and on writes with the outcome: `definite` where
//!   it is certain that nothing was written, `unknown` otherwise. A write that was handed to the core and not answered is
//!   `unknown`.
//! - No request but those for health reaches a route without a [`crate::access::Grant`], and no handler touches a key
//!   that its grant doesn't reach.
//! - A key is the rest of the raw path, decoded once. No layer normalises it: `a//b`, `..` and an encoded slash are
//!   ordinary parts of keys.
//!
//! # What is left out
//!
//! Range requests for several ranges (they are answered with
//! the whole value, which RFC 9110 allows). WebSockets over HTTP/2. CORS for anybody but the cluster's own pages: those of
//! other origins may neither write nor watch.

mod admin;
mod batch;
mod body;
mod compress;
mod conditional;
mod cors;
mod dashboard;
mod feed;
mod files;
mod front;
#[cfg(feature = "ftp")]
mod ftp;
mod guard;
mod kv;
mod list;
mod listen;
mod local;
mod observe;
mod options;
mod problem;
mod relay;
mod routes;
mod scan;
mod sse;
mod target;
mod tls;
mod viewing;
mod wire;

#[cfg(feature = "ftp")]
pub use ftp::{Ftp, FtpOptions};
pub use guard::{Guard, Refused};
pub use listen::Gateway;
pub use options::{GatewayOptions, PeerGateway};
pub use tls::{Tls, TlsError, TlsFile, TlsIdentity, TlsPems};

/// Doors for the fuzz targets in `fuzz/`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Whether a stream that comes in pieces of `piece_bytes` passes the guard in front of the parser.
    #[must_use]
    pub fn is_unambiguous(stream: &[u8], piece_bytes: usize) -> bool {
        let mut scanner = super::scan::Scanner::new(1024);
        stream.chunks(piece_bytes).all(|piece| scanner.observe(piece).is_ok())
    }
}
