//! Where a value belongs: key → partition → owners.
//!
//! Everything here is a function of its arguments: every node, of every release, computes the same answer for the same
//! partitions, members and number of copies, so that nothing has to be agreed on or sent. The answer is the *target*.
//! What *is* (who is primary now, who is in sync) is the Raft table's affair; rebalancing moves what is to the target.
//!
//! ```text
//! key ──hash──▶ partition ──jump hash, and an order behind it──▶ owners: [primary, backup, backup …]
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `hash` | [`hash_key`] and [`partition_of`] |
//! | `jump` | [`jump()`], jump consistent hash |
//! | `map` | [`owners`] of one partition, [`PlacementMap`] of all |
//! | `plan` | [`Plan`]: what a change of members moves |
//!
//! Members are slots, and a node that is down keeps its slot: its partitions stay its own, backups serve them meanwhile,
//! and whoever sits down in the slot is filled with them again. Only adding or draining a node for good changes the members.
//!
//! Left out: racks and weights. Every member is as good as another.

mod hash;
mod jump;
mod map;
mod plan;

pub use hash::{hash_key, partition_of};
pub use jump::jump;
pub use map::{Owners, PlacementMap, owners};
pub use plan::{Move, Plan};
