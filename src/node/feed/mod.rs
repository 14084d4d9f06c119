//! The feed between nodes.
//!
//! ```text
//!   every shard of every node: Source                     one shard of a node with viewers: Follower
//!                ◀── FeedWanted {id, floor, restart}, four times a second ──
//!     ── 0: Heads {the last effect of each partition that I lead, closed} ─▶  what am I behind with? fetch it
//!     ── n: Events {partition, after, last, …} ───────────────────────────▶  after > what I have: a hole. Fetch it
//!     ── n: Closed {version} ─────────────────────────────────────────────▶  behind with nothing: the cursor advances
//!                ◀── FeedFetch {partition, after} ──────────────────────────
//! ```
//!
//! What a source sends to one follower is a numbered stream. Where a number stays missing, because a connection broke or a
//! queue was full, the follower asks for a new stream, whose heads say what was missed. A partition's effects are numbered
//! too, across primaries, so a hole between two of them is seen whoever sends the second. Every primary begins its epoch with
//! an effect, so that what its predecessor committed last, and told nobody, is a hole then.
//!
//! Whoever isn't told again for three seconds that its events are wanted stops sending: nothing is cleaned up after a crash.
//!
//! Invariants: a follower shows each partition's effects in order, each once; its cursor covers only what it has shown.
//!
//! | file | what it holds |
//! |---|---|
//! | `message` | what sources and followers say |
//! | `source` | a shard's side |
//! | `follower` | the viewers' side |
//! | `resume` | what a viewer that comes back has missed, put together from all shards |

mod follower;
mod message;
mod resume;
mod source;

pub(super) use follower::{Follower, FollowerOutput};
pub use message::{FeedBody, FeedMessage, Since, SincePart};
pub(super) use resume::Resume;
pub(super) use source::{Source, events_after, part_since};

use std::time::Duration;

/// How often a follower says that it wants events, and is told what is closed.
const RENEW_EVERY: Duration = Duration::from_millis(250);
/// The same while something is missing.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a source keeps sending after the last time it was told.
const WANTED_FOR: Duration = Duration::from_secs(3);
/// Bytes of keys and values in one message, but for its last event or partition.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Versions and numbers of peers that are not below this are nonsense.
const COUNTER_SANE_MAX: u64 = 1 << 62;
/// A version that a peer says it has seen, and that this node is to go beyond. JSON's numbers end here.
const FLOOR_SANE_MAX: u64 = 1 << 53;
