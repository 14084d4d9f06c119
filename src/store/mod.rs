//! One partition's records, as one replica holds them.
//!
//! A [`Table`] is what the committed [`Effect`]s of a partition add up to: an ordered map of keys to [`Record`]s with a
//! second index by expiry. There are thousands of partitions, so a table is small, an empty one costs nothing, and a page
//! of a listing costs the page. Replicas that applied the same effects hold equal tables, but for the instants of
//! expiry, which each counts on its own clock.
//!
//! While a learner is being filled its table is *scanning*: scanned records and live effects come in any order, so deletes
//! leave tombstones until the scan has ended, and whatever is older than what is there is skipped.
//!
//! | file | what it holds |
//! |---|---|
//! | `effect` | [`Effect`]: one decided change, as it is replicated |
//! | `table` | [`Table`] and [`Record`] |
//! | `index` | where a table finds them by their keys |
//! | `stored` | [`Stored`]: a record as it lies in memory |
//! | `expiry` | which records run out when |
//! | `digest` | [`Digest`]: what copies compare |
//! | `recent` | [`Recent`]: which writes with an idempotency key were done |
//!
//! Left out: who may read (the replica's affair), memory limits (the node's), and what comes of copies that differ.

mod digest;
mod effect;
mod expiry;
mod index;
mod recent;
mod stored;
mod table;

#[cfg(test)]
mod tests;

pub use digest::{BUCKETS, BucketSet, Buckets, Digest, RecordHash};
pub use effect::{Effect, Marked};
pub use recent::{Aged, Recent, Remembered};
pub use stored::{RECORD_OVERHEAD_BYTES, Stored};
pub use table::{Record, Scrubbed, Table};
