//! What two copies of a table compare: hashes of records, and sums of these.
//!
//! Each record is stored with a hash of all that replicas must agree on. A table's digest is the sum of the hashes of its
//! records: an insert adds one, a removal takes one away, whatever the order. Beside it are the sums of 64 *buckets*, into
//! which keys fall by a hash of their own, so that two copies that differ need not tell each other all their keys.
//!
//! A removal takes away the hash that was *stored*. So bits that flip in a record leave the sums as they should be, and
//! are found where the record is hashed again ([`Table::scrub`](super::Table::scrub)); and a record that isn't what it
//! should be, though its hash fits, is found where sums are compared.

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Record, Stored};
use crate::api::{ContentType, Key};
use crate::base::Version;

/// Sums of parts of a table, by bucket.
pub const BUCKETS: usize = 64;
/// A table of no more records has no sums of buckets: they are made when they are asked for.
const RECORDS_WITHOUT_BUCKETS: usize = 256;
/// The seed of records' hashes: "entropy!" in ASCII.
const SEED: u64 = 0x656e_7472_6f70_7921;

/// The sums of a table's buckets.
pub type Buckets = [u64; BUCKETS];

/// The hash that a record is stored with: the upper 56 bits of XXH3 of its key, version, value, content type and whether it runs out.
///
/// Left out is when it runs out: every replica counts that on its own clock. It isn't meant to resist somebody who
/// chooses values; it finds bits that flipped and effects that went missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RecordHash(pub u64);

impl RecordHash {
    /// The hash of `record` under `key`.
    #[must_use]
    pub fn of(key: &Key, record: &Record) -> Self {
        let content_type = record.content_type.as_ref().map(ContentType::as_str);
        Self::of_parts(key.as_bytes(), &record.value, content_type, record.version, record.expires_at.is_some())
    }

    /// The same, of what a record consists of.
    pub(super) fn of_parts(
        key: &[u8],
        value: &[u8],
        content_type: Option<&str>,
        version: Version,
        expires: bool,
    ) -> Self {
        let flags = u64::from(content_type.is_some()) | u64::from(expires) << 1;
        // Each part has a place of its own, so no two records give the same bytes.
        let parts = [
            xxh3_64(key),
            xxh3_64(value),
            value.len() as u64,
            xxh3_64(content_type.unwrap_or_default().as_bytes()),
            version.0,
            flags,
        ];
        let mut bytes = [0; 48];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        // A record's flags have the place of the other eight bits.
        Self(xxh3_64_with_seed(&bytes, SEED) >> 8)
    }
}

/// What a whole table comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Digest {
    /// The sum of the hashes of its records.
    pub sum: u64,
    /// How many there are.
    pub records: u64,
}

/// Some of the buckets, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct BucketSet(pub u64);

impl BucketSet {
    /// Those whose sums differ.
    #[must_use]
    pub fn differing(one: &Buckets, other: &Buckets) -> Self {
        let pairs = one.iter().zip(other).enumerate();
        Self(pairs.fold(0, |set, (bucket, (one, other))| set | u64::from(one != other) << bucket))
    }

    /// Whether `key` falls into one of them.
    #[must_use]
    pub fn contains(self, key: &[u8]) -> bool {
        self.0 >> bucket_of(key) & 1 == 1
    }
}

fn bucket_of(key: &[u8]) -> usize {
    (xxh3_64(key) >> 58) as usize
}

/// A table's sums, kept with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) sum: u64,
    buckets: Option<Box<Buckets>>,
}

impl Sums {
    /// The sums of so many records.
    pub(super) fn of<'a>(count: usize, records: impl Iterator<Item = &'a Stored>) -> Self {
        let mut sums = Self::default();
        if count > RECORDS_WITHOUT_BUCKETS {
            sums.buckets = Some(Box::new([0; BUCKETS]));
        }
        records.for_each(|stored| sums.add(stored.key_bytes(), stored.hash()));
        sums
    }

    pub(super) fn add(&mut self, key: &[u8], hash: RecordHash) {
        self.sum = self.sum.wrapping_add(hash.0);
        if let Some(buckets) = &mut self.buckets {
            let bucket = &mut buckets[bucket_of(key)];
            *bucket = bucket.wrapping_add(hash.0);
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], hash: RecordHash) {
        self.sum = self.sum.wrapping_sub(hash.0);
        if let Some(buckets) = &mut self.buckets {
            let bucket = &mut buckets[bucket_of(key)];
            *bucket = bucket.wrapping_sub(hash.0);
        }
    }

    /// Whether a table of so many records should have sums of buckets, and hasn't.
    pub(super) fn lacks_buckets(&self, records: usize) -> bool {
        self.buckets.is_none() && records > RECORDS_WITHOUT_BUCKETS
    }

    /// The sums of the buckets, where they are kept.
    pub(super) fn buckets(&self) -> Option<&Buckets> {
        self.buckets.as_deref()
    }

    /// Whether both say the same, as far as both say it.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        let buckets = self.buckets.as_ref().zip(other.buckets.as_ref());
        self.sum == other.sum && buckets.is_none_or(|(one, other)| one == other)
    }
}

/// The sums of the buckets of these records.
pub(super) fn buckets_of<'a>(records: impl Iterator<Item = &'a Stored>) -> Buckets {
    let mut sums = Sums { sum: 0, buckets: Some(Box::new([0; BUCKETS])) };
    records.for_each(|stored| sums.add(stored.key_bytes(), stored.hash()));
    sums.buckets.map_or([0; BUCKETS], |buckets| *buckets)
}
