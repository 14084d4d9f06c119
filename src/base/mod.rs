//! The words that every other module is written in.
//!
//! Identities and counters are newtypes ([`Slot`], [`Term`], [`Seq`], …), so that a term can't be passed where an epoch
//! is meant. Time is [`Instant`], nanoseconds handed in by the caller; randomness is [`Rng`], seeded by the caller.
//! Nothing here knows a socket, a clock or a thread, and nothing here names another module of the crate.
//!
//! | file | what it holds |
//! |---|---|
//! | `ids` | newtypes of identities and counters |
//! | `slots` | [`SlotSet`], a set of slots in one word |
//! | `record` | [`PartitionRecord`], what the control log says of one partition; [`InSyncChange`] |
//! | `blob` | [`Blob`], bytes that are cheap to share |
//! | [`lending`] | how handles of large values get past the encoding |
//! | `time` | [`Instant`] |
//! | `rng` | [`Rng`] |
//! | `options` | [`Options`]: what a core needs to know of the configuration |
//! | `mutant` | rules that a simulation breaks on purpose |
//! | `limits` | bounds that are part of the formats, checked at compile time |

mod blob;
mod ids;
pub mod lending;
pub mod limits;
pub mod mutant;
mod options;
mod record;
mod rng;
mod slots;
mod time;

pub use blob::{Blob, borrow_decode_bytes, decode_bytes, encode_bytes};
pub use ids::{
    ChangeNumber, ClusterId, Epoch, Generation, Incarnation, LogIndex, NodeId, PartitionId, Position, RequestId, Seq,
    ShardId, Slot, Term, Version,
};
pub use options::{FollowerMode, Options, Timing};
pub use record::{InSyncChange, PartitionRecord};
pub use rng::Rng;
pub use slots::SlotSet;
pub use time::Instant;
