//! How the machines of a node run: threads, locks, clocks and queues.
//!
//! ```text
//! thread "pulse"   one runtime of its own, nothing but the control core: datagrams, timers, control messages
//! worker threads   everything else: gateways, streams, shards
//!
//!   gateway ─submit─▶ lock shard ─▶ answered in the call, or a waiter is left ─▶ unlock
//!   stream  ─frame──▶ decode, group by shard, lock each shard once ─▶ outputs into the peers' queues ─▶ unlock
//! ```
//!
//! Shards are behind locks, not tasks: a read of a partition that this node leads is answered in the gateway's own task,
//! without a hop to another thread. A lock is held for one input (or for the messages of one frame) and its outputs,
//! never across an await. Outputs for a peer are queued under the shard's lock, so that they leave in the order in which
//! the shard produced them; the peer's queue has a lock of its own, taken last.
//!
//! The pulse has its own thread so that a vote or a heartbeat never waits for a megabyte of data, or for a client.
//!
//! A thread of its own also lets it seem alive while all others hang. So a task on the worker threads shows every 20 ms
//! that they run and that each shard's lock comes free; the pulse tells the others how long ago that was, and they treat
//! a node whose workers hang as down.
//!
//! What is full, and what happens then: the control core's inbox (messages are dropped and counted; consensus sends them
//! again), a peer's queue (likewise; replication sends again), the feed (the slowest viewer is cut off, with a reason).
//!
//! | file | what it holds |
//! |---|---|
//! | `clock` | [`Clock`]: the monotonic clock that runs through suspend |
//! | `engine` | [`Engine`]: the shards behind their locks; implements [`crate::port::Core`] |
//! | `pulse` | the control core's thread |
//! | `links` | [`Links`], [`PulseLink`]: what the runtime wants of the network |

mod clock;
mod engine;
mod links;
mod pulse;

pub use clock::Clock;
pub use engine::{Engine, EventSink};
pub use links::{Links, PulseLink};
pub use pulse::{ControlCounts, ControlInput, PulseThread};
