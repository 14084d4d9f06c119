//! One node's machines, and how they fit together.
//!
//! ```text
//!  datagrams ─────────▶ ControlCore ── View, Lease ──▶ ShardCore 0 … S−1 ◀──── requests of clients
//!  control messages ──▶  (1 a node)  ◀── proposals ──  (partition mod S)  ◀──── messages about partitions
//! ```
//!
//! The [`ControlCore`] decides who is who: consensus, membership, failure detection, leases. A [`ShardCore`] answers
//! requests: routing, replication, listings, the feed. Both are pure: they take inputs with the time, and give outputs to
//! whoever drives them. They share nothing but messages, so a runtime may put threads or locks between them as it likes;
//! [`Node`] runs all of them in one thread.
//!
//! | file | what it holds |
//! |---|---|
//! | `message` | what nodes say to each other |
//! | `view` | [`View`]: what shards know of the cluster |
//! | `control_core`, `member`, `supervisor` | the control core; its life in a cluster; a leader's duties |
//! | `member/…` | `handover`: leadership handed over; `operators`: what operators wish; `recovery`: going on by force |
//! | `supervisor/…` | `departures`: who drains, leaves, stays away or loses its vote; `returns`: who comes back, and when; `streams`: whose stream stands still |
//! | `founding` | what a process without a cluster does for an operator |
//! | `replay` | which datagrams were here before |
//! | `vetting` | what a peer's log entries and snapshots are asked before they reach the log |
//! | `outbox` | pulse messages of one input, one datagram a receiver |
//! | `shard`, `gather`, `scan`, `feed` | the shard; pages of a listing; the feed between nodes |
//! | `assembly` | [`Node`], [`Destination`] |
//! | `pace`, `timing`, `starving` | what a node measures of itself and of its peers, how wide the times must be for that, and who is left out instead |
//! | `status`, `event` | what people are shown |
//!
//! Left out: sockets, threads, clocks (`runtime`, `net`), and what JSON or HTTP look like (`gateway`).

mod assembly;
mod control_core;
mod event;
mod feed;
mod founding;
mod gather;
mod load;
mod member;
pub mod message;
mod outbox;
mod pace;
mod partition_map;
mod replay;
mod scan;
mod shard;
mod starving;
mod status;
mod supervisor;
mod timing;
mod vetting;
mod view;

pub use assembly::{Destination, Node, NodeOutput};
pub use control_core::{ControlCore, ControlOutput};
pub use event::ControlEvent;
pub use load::{FillingLoad, Load};
pub use pace::Report;
pub use shard::{ShardCore, ShardOutput, Submitted};
pub use timing::{Cause, Need};
pub use view::View;
