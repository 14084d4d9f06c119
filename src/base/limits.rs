//! Bounds that are part of the formats: nothing outside them is ever sent or accepted.

/// Slots in a cluster: one bit each in a word. Beyond that a Raft group of all nodes is the wrong shape anyway.
pub const NODES_MAX: usize = 64;
/// Partitions in a cluster; a partition's number is 16 bits wide.
pub const PARTITIONS_MAX: usize = 1 << 14;
/// A datagram of the pulse plane, with all its headers: below the 1280 bytes that every IPv6 path carries unfragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// A frame of the stream plane, with its header. A value of the largest size, its key and its headers fit.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// A key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;
/// A value, whatever the configuration says: a value travels in one frame.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// A content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Operations of one batch.
pub const BATCH_OPS_MAX: usize = 1000;
/// What the body of a batch may have in bytes at every gateway, however small its values are configured to be.
pub const BATCH_BYTES_MIN: usize = 1 << 20;
/// Keys on a page of a listing.
pub const PAGE_ITEMS_MAX: usize = 10_000;
/// Keys and values on one page, in bytes: the page ends early rather than grow past this.
pub const PAGE_BYTES_MAX: usize = 8 << 20;
/// Committed effects that a shard's rings keep for viewers that come back.
pub const FEED_EFFECTS_MAX: usize = 1 << 16;
/// The same in bytes.
pub const FEED_BYTES_MAX: usize = 32 << 20;
/// Hops that a forwarded operation may take: to the leader, to the primary, and to whom that one has just given the
/// partition back.
pub const HOPS_MAX: u8 = 3;

const _: () = assert!(PARTITIONS_MAX <= 1 << 16);
const _: () = assert!(NODES_MAX <= u64::BITS as usize);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + 4096 <= FRAME_BYTES_MAX);
const _: () = assert!(PAGE_BYTES_MAX + VALUE_BYTES_MAX + 4096 <= FRAME_BYTES_MAX);
