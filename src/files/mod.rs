//! Files of any size, as values of the store: the one tree that HTTP and FTP show.
//!
//! A value is bounded and travels in one frame; a file is not and doesn't. So a file is *chunks*, values under keys that
//! nobody else has, and a *manifest*, one value that says which chunks there are. The manifest is written last and by a
//! compare-and-set, so a reader finds the old file or the new one and never something between.
//!
//! | key | holds |
//! |---|---|
//! | `files/docs/a.txt` | a file's [`Manifest`], as JSON: an ordinary key, which listings and the feed show |
//! | `files/docs/` | a folder that somebody made; one with files in it needs none |
//! | reserved `files/{upload}/{index}` | one chunk of one upload |
//! | reserved `uploads/{upload}` | an upload's record: what its chunks are good for |
//!
//! Reserved keys begin with [`crate::api::RESERVED`] and sort behind all others; listings and the feed leave them out unless they are
//! asked for by that prefix.
//!
//! # The life of an upload
//!
//! ```text
//!          begin                       manifest names it              manifest doesn't any more
//! (none) ───────▶ Uploading ─ chunks ─▶ ──────────▶ Settled ─ replaced, deleted ─▶ Retired
//!                     │                              ▲  ▲                             │
//!                     │ unchanged for 10 min         │  └── still named ──┐           │ unchanged for 1 min
//!                     └──────────────────────────────┼──────────────▶ Deleting ◀──────┘
//!                                                    │                   │ named nowhere
//!                                                    │                   ▼
//!                                                    │             chunks and record go
//! ```
//!
//! 1. `begin` writes the record, which names the path. Chunks are written, a few at a time. A long upload changes the record
//!    now and then, which shows that it lives.
//! 2. `finish` marks the uploads of the file that stands as retired, compares-and-sets the manifest, and settles its own
//!    record. A crash between any two of these leaves a record that isn't settled.
//! 3. The [`Collector`], on the node that leads, looks at records that are not settled and *have not changed while it
//!    watched*, for as long as their state deserves. It needs no clock but its own, so no clock of a machine that is wrong
//!    can make it take a living upload for a dead one. It claims a record (`Deleting`, by a compare-and-set), looks at every path
//!    that the record names, and deletes the chunks only if no manifest there names the upload; otherwise it settles the
//!    record.
//! 4. A rename writes the second path into the records *before* the second manifest, and gives up where a record is being
//!    deleted. No chunk is copied. The first path is taken out of a record only where nobody else has touched that since;
//!    otherwise the record becomes `Retired`, and a collector finds out where the upload is named.
//!
//! So chunks of a file that was replaced stay for a minute at least, and a reader who has begun has that long to go on; one that
//! takes longer is told that the file has changed ([`FileError::Changed`]).
//!
//! # How it runs
//!
//! What decides is pure: no socket, no clock, no thread; time and random numbers are arguments. The steps of one operation are
//! written in their order as an `async fn` over a [`Store`], whose answers are the only thing that is ever awaited: the
//! state machine that the compiler makes of it runs under a gateway, which asks the core, and in tests, which answer from
//! a map, fail where they please, and drop an operation after any of its steps.
//!
//! | file | what it holds |
//! |---|---|
//! | `path` | [`FilePath`] and [`FolderPath`]: what is a name, and which key that is |
//! | `manifest` | [`Manifest`], [`Entry`]: what is stored under a name |
//! | `chunks` | [`Chunker`] (bytes in, chunks out) and [`pieces`] (a range in, parts of chunks out) |
//! | `record` | an upload's record, and its changes |
//! | `store` | [`Store`], and how it is asked |
//! | `upload`, `download` | writing and reading one file |
//! | `tree` | deleting, renaming, folders |
//! | `list` | the entries of a folder |
//! | `collect` | [`Collector`] |
//! | `error` | [`FileError`] |
//!
//! # Invariants
//!
//! - The chunks of an upload that a manifest names are all there, unless somebody removed them by their keys.
//! - Memory is bounded: an upload holds [`IN_FLIGHT_MAX`] + 1 chunks, a download as many.
//! - Whatever is stored under `files/` by other means is no manifest, and is refused with words.
//!
//! # What is left out
//!
//! Locks, links, owners and permissions. Expiry of files. Checking a file's hash when it is read: the store hashes every
//! chunk again within `sync_interval`. A folder is renamed entry by entry, which is no single step.

mod chunks;
mod collect;
mod download;
mod error;
mod list;
mod manifest;
mod path;
mod record;
mod store;
mod tree;
mod upload;

pub use chunks::{Chunker, Piece, pieces};
pub use collect::Collector;
pub use download::{Download, open};
pub use error::FileError;
pub use list::{Found, Listing, list};
pub use manifest::{Conditions, Entry, Manifest, Segment, Tags};
pub use path::{FilePath, FolderPath, PathError, TreePath};
pub use record::UploadId;
pub use store::{Asker, Store};
pub use tree::{Stat, create_folder, delete, remove_folder, rename, stat};
pub use upload::{Placement, Upload, Written};

/// Chunks of one upload, or of one download, that are asked for at once: enough to keep the way to the primaries busy,
/// few enough that a hundred clients take no more than some hundred MiB.
pub const IN_FLIGHT_MAX: usize = 4;

/// Bytes of a chunk, where `[limits] value` allows as many. A quarter would cost four times the requests; four times as much
/// would make a slow line wait and the memory of each client larger.
pub const CHUNK_BYTES: usize = 512 << 10;

/// Bytes of a file at most: far more than a cluster holds, and few enough that no sum of sizes overflows.
pub const FILE_BYTES_MAX: u64 = 1 << 44;

/// Uploads that one file is made of: the first, and those that appended to it. A manifest stays below 128 KiB.
pub const SEGMENTS_MAX: usize = 1000;

#[cfg(test)]
mod map_store_tests;
#[cfg(test)]
mod tests;
