//! The table of one partition.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::Effect;
use super::digest::{BucketSet, Buckets, Digest, RecordHash, Sums, buckets_of};
use super::expiry::Expiry;
use super::recent::{Recent, Remembered};
use crate::api::{ContentType, Key, Value};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Blob, Instant, Version};

/// What a record is accounted with beyond its key, value and content type: its entry in the map, the map's slack (nodes
/// are two thirds full on average), its hash, the headers of the shared buffers.
pub const RECORD_OVERHEAD_BYTES: usize = 256;

/// One stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its bytes.
    pub value: Blob,
    /// The content type it was stored with.
    pub content_type: Option<ContentType>,
    /// Its version.
    pub version: Version,
    /// When it runs out, on this replica's own clock.
    pub expires_at: Option<Instant>,
}

impl Record {
    /// What `effect`, which came at `received`, leaves behind: its time to live counts from then. Nothing, unless it is a
    /// put.
    #[must_use]
    pub fn of(received: Instant, effect: &Effect) -> Option<Self> {
        let Effect::Put { value, content_type, version, ttl_ms, .. } = effect else { return None };
        Some(Self {
            value: value.clone(),
            content_type: content_type.clone(),
            version: *version,
            expires_at: ttl_ms.map(|left| received + Duration::from_millis(left)),
        })
    }

    /// Whether its time has run out. An expired record reads as absent at once; its delete is replicated behind.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|deadline| deadline <= now)
    }

    /// Milliseconds that it has left, rounded up so that no copy lets go of it early.
    #[must_use]
    pub fn ttl_ms(&self, now: Instant) -> Option<u64> {
        let left = self.expires_at?.since(now).as_nanos().div_ceil(1_000_000);
        Some(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// It, as clients are shown it.
    #[must_use]
    pub fn to_value(&self, now: Instant, stale: bool) -> Value {
        Value {
            bytes: self.value.clone(),
            version: self.version,
            content_type: self.content_type.clone(),
            expires_in_ms: self.ttl_ms(now),
            stale,
            degraded: false,
        }
    }
}

/// A record and the hash that it had when it was put in.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) record: Record,
    pub(super) hash: RecordHash,
}

/// What hashing a part of a table again has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The last key of the part; none where the table ends with it.
    pub reached: Option<Key>,
    /// Records that were hashed.
    pub records: u64,
    /// The bytes that these are accounted with.
    pub bytes: u64,
    /// Those that aren't what they were when they were put in.
    pub rotten: Vec<(Key, Version)>,
}

/// One partition's committed records in the order of their keys.
///
/// Invariants ([`Table::check_invariants`]):
/// - `bytes` is the sum over all records, and so are the sums of the digest over their stored hashes;
/// - exactly the records with a deadline are in the index of deadlines;
/// - a key has a record or a tombstone, not both; tombstones exist only while scanning.
#[derive(Debug, Default)]
pub struct Table {
    records: BTreeMap<Key, Stored>,
    sums: Sums,
    expiry: Expiry,
    /// While scanning: keys that were deleted, and by which version.
    tombstones: Option<BTreeMap<Key, Version>>,
    bytes: usize,
    /// There is none while nobody uses idempotency keys.
    recent: Option<Box<Recent>>,
}

impl Table {
    /// The record of `key`, expired or not.
    #[must_use]
    pub fn read(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(|stored| &stored.record)
    }

    /// How many records there are, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Accounted memory: keys, values, content types and [`RECORD_OVERHEAD_BYTES`] each; and what is remembered of writes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.recent().map_or(0, Recent::bytes)
    }

    /// Which writes with an idempotency key were done lately; none where nobody uses them.
    #[must_use]
    pub fn recent(&self) -> Option<&Recent> {
        self.recent.as_deref()
    }

    /// Remembers that a write was done, whose effect came at `at`.
    pub fn remember(&mut self, at: Instant, done: Remembered) {
        self.recent.get_or_insert_default().remember(at, done);
    }

    /// Forgets which writes were done. Nobody may ever do that.
    #[cfg(feature = "sim")]
    pub fn forget_recent(&mut self) {
        self.recent = None;
    }

    /// Applies a committed effect that reached this replica at `received`: its time to live counts from then.
    ///
    /// What is older than what is there changes nothing. In a settled table that never happens, as versions rise with
    /// every effect; behind a scan it does, because the scan may have brought the later state first.
    pub fn apply(&mut self, received: Instant, effect: &Effect) {
        if let Some(marked) = effect.marked() {
            self.remember(received, Remembered { marked, version: effect.version() });
        }
        match effect {
            Effect::Put { key, .. } => {
                if let Some(record) = Record::of(received, effect) {
                    self.insert_newer(key, record);
                }
            }
            Effect::Delete { key, version, .. } => {
                if self.newest(key).is_some_and(|known| known >= *version) {
                    return;
                }
                self.remove(key);
                if let Some(tombstones) = &mut self.tombstones {
                    tombstones.insert(key.clone(), *version);
                }
            }
            Effect::EpochStart { .. } => {}
        }
    }

    /// Puts in a record, unless what is there, value or tombstone, is as new. True when it went in.
    pub fn insert_newer(&mut self, key: &Key, record: Record) -> bool {
        let hash = RecordHash::of(key, &record);
        self.insert_hashed(key, record, hash)
    }

    /// The same for a record that another table held under `hash`: where it was rotten there, it is known to be here.
    pub fn insert_hashed(&mut self, key: &Key, record: Record, hash: RecordHash) -> bool {
        let is_as_new = |known: Version| known >= record.version;
        // Mostly a record replaces another, and mostly what that costs is to find it: once is enough.
        if let Some(stored) = self.records.get_mut(key) {
            if is_as_new(stored.record.version) {
                return false;
            }
            let (deadline, bytes) = (record.expires_at, Self::record_bytes(key, &record));
            let replaced = std::mem::replace(stored, Stored { record, hash });
            self.forget(key, &replaced);
            self.account(key, deadline, bytes, hash);
        } else {
            if let Some(tombstones) = &mut self.tombstones {
                if tombstones.get(key).copied().is_some_and(is_as_new) {
                    return false;
                }
                tombstones.remove(key);
            }
            self.insert(key, record, hash);
        }
        true
    }

    /// Makes `key` what another copy has, whatever is here: a repair.
    pub fn repair(&mut self, key: &Key, record: Option<Record>) {
        self.remove(key);
        if let Some(record) = record {
            let hash = RecordHash::of(key, &record);
            self.insert(key, record, hash);
        }
    }

    /// Records in the order of their keys: those after `after` that begin with `prefix`. Expired ones are included.
    pub fn scan<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> + 'a {
        let start = match after {
            Some(after) if after.as_bytes() >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix),
        };
        self.records
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.as_bytes().starts_with(prefix))
            .map(|(key, stored)| (key, &stored.record))
    }

    /// The same of all records after `after`, each with the hash that it was put in with.
    pub fn scan_stored<'a>(
        &'a self,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record, RecordHash)> + 'a {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
        let records = self.records.range::<[u8], _>((start, Bound::Unbounded));
        records.map(|(key, stored)| (key, &stored.record, stored.hash))
    }

    /// When the next record runs out that was not polled; [`Instant::FAR`] where none does.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.expiry.next_deadline()
    }

    /// At most `count_max` records whose time has run out, each once: candidates for a replicated delete, which only a
    /// primary may order.
    pub fn poll_expired(&mut self, now: Instant, count_max: usize) -> Vec<(Key, Version)> {
        let mut expired = Vec::new();
        while expired.len() < count_max
            && let Some(key) = self.expiry.poll(now)
        {
            let stored = self.records.get(&key).expect("the index of deadlines names records that exist");
            expired.push((key, stored.record.version));
        }
        expired
    }

    /// Lets [`Table::poll_expired`] hand out again what it has handed out before: whoever polled is no longer the one who
    /// deletes.
    pub fn rearm_expiry(&mut self) {
        self.expiry.rearm();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// From now on deletes leave tombstones, because a scan is bringing records that may be older.
    pub fn begin_scan(&mut self) {
        self.tombstones.get_or_insert_default();
    }

    /// The scan has ended: nothing older comes any more.
    pub fn end_scan(&mut self) {
        self.tombstones = None;
    }

    /// What it comes to, records that have run out included.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest { sum: self.sums.sum, records: self.records.len() as u64 }
    }

    /// The sums of its buckets.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        self.sums.buckets().copied().unwrap_or_else(|| buckets_of(self.hashes()))
    }

    /// Sums the stored hashes up anew. True where the sums that were kept are wrong: then they are put right. Costs a pass
    /// over the table.
    pub fn recount(&mut self) -> bool {
        let counted = Sums::of(self.hashes());
        let is_wrong = !counted.agrees(&self.sums);
        if is_wrong {
            self.sums = counted;
        }
        is_wrong
    }

    /// Keys that fall into `buckets`, in order, after `after`, each with the version and the stored hash of its record.
    pub fn fingerprints<'a>(
        &'a self,
        buckets: BucketSet,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, Version, RecordHash)> + 'a {
        let of_bucket = self.scan_stored(after).filter(move |(key, _, _)| buckets.contains(key));
        of_bucket.map(|(key, record, hash)| (key, record.version, hash))
    }

    /// The hash that the record of `key` was put in with.
    #[must_use]
    pub fn stored_hash(&self, key: &Key) -> Option<RecordHash> {
        self.records.get(key).map(|stored| stored.hash)
    }

    /// Whether the record of `key` is what it was when it was put in; so is nothing.
    #[must_use]
    pub fn is_sound(&self, key: &Key) -> bool {
        self.records.get(key).is_none_or(|stored| RecordHash::of(key, &stored.record) == stored.hash)
    }

    /// Hashes the records after `after` again, until they are `bytes_max` bytes or the table ends.
    #[must_use]
    pub fn scrub(&self, after: Option<&Key>, bytes_max: u64) -> Scrubbed {
        let mut scrubbed = Scrubbed::default();
        for (key, record, hash) in self.scan_stored(after) {
            scrubbed.records += 1;
            scrubbed.bytes += Self::record_bytes(key, record) as u64;
            if RecordHash::of(key, record) != hash {
                scrubbed.rotten.push((key.clone(), record.version));
            }
            if scrubbed.bytes >= bytes_max {
                scrubbed.reached = Some(key.clone());
                break;
            }
        }
        scrubbed
    }

    /// Panics where the table contradicts itself. Costs a pass over it.
    pub fn check_invariants(&self) {
        let bytes: usize = self.records.iter().map(|(key, stored)| Self::record_bytes(key, &stored.record)).sum();
        assert_eq!(self.bytes, bytes, "accounted bytes differ from the sum over the records");
        assert!(Sums::of(self.hashes()).agrees(&self.sums), "the digest differs from the sum over the records");
        let expiring = self.records.values().filter(|stored| stored.record.expires_at.is_some()).count();
        assert_eq!(self.expiry.len(), expiring, "the index of deadlines differs from the records");
        self.recent().into_iter().for_each(Recent::check_invariants);
        for (key, version) in self.tombstones.iter().flatten() {
            assert!(!self.records.contains_key(key), "{key:?} has a record and a tombstone of version {version}");
        }
    }

    /// The version of the last known change of `key`.
    fn newest(&self, key: &Key) -> Option<Version> {
        let stored = self.records.get(key).map(|stored| stored.record.version);
        stored.or_else(|| self.tombstones.as_ref()?.get(key).copied())
    }

    pub(super) fn hashes(&self) -> impl ExactSizeIterator<Item = (&Key, RecordHash)> {
        self.records.iter().map(|(key, stored)| (key, stored.hash))
    }

    /// Puts in a record where there is none.
    fn insert(&mut self, key: &Key, record: Record, hash: RecordHash) {
        let (deadline, bytes) = (record.expires_at, Self::record_bytes(key, &record));
        let replaced = self.records.insert(key.clone(), Stored { record, hash });
        debug_assert!(replaced.is_none(), "{key:?} had a record");
        self.account(key, deadline, bytes, hash);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(stored) = self.records.remove(key) {
            if is_broken(Mutant::DigestKeepsDeleted) {
                self.sums.add(key, stored.hash);
            }
            self.forget(key, &stored);
        }
    }

    /// Takes a record that is there into the accounts.
    fn account(&mut self, key: &Key, deadline: Option<Instant>, bytes: usize, hash: RecordHash) {
        self.bytes += bytes;
        self.sums.add(key, hash);
        if self.sums.lacks_buckets(self.records.len()) {
            self.sums = Sums::of(self.hashes());
        }
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, key.clone());
        }
    }

    /// Takes a removed record out of the accounts.
    fn forget(&mut self, key: &Key, stored: &Stored) {
        self.bytes -= Self::record_bytes(key, &stored.record);
        // The hash that it came with: what its bits may have become since then is none of the sums' business.
        self.sums.remove(key, stored.hash);
        if let Some(deadline) = stored.record.expires_at {
            self.expiry.remove(deadline, key);
        }
    }

    fn record_bytes(key: &Key, record: &Record) -> usize {
        let content_type = record.content_type.as_ref().map_or(0, |kind| kind.as_str().len());
        key.as_bytes().len() + record.value.len() + content_type + RECORD_OVERHEAD_BYTES
    }
}

/// Faults, for tests.
#[cfg(feature = "sim")]
impl Table {
    /// Flips a bit of the value of `key`, and of this copy alone. False where there is no bit.
    pub fn rot(&mut self, key: &Key) -> bool {
        let Some(stored) = self.records.get_mut(key).filter(|stored| !stored.record.value.is_empty()) else {
            return false;
        };
        let mut bytes = stored.record.value.to_vec();
        bytes[0] ^= 1;
        stored.record.value = Blob::from(bytes);
        true
    }

    /// Flips a bit of the stored hash of `key`. False where there is none.
    pub fn rot_hash(&mut self, key: &Key) -> bool {
        let Some(stored) = self.records.get_mut(key) else { return false };
        stored.hash.0 ^= 1;
        // The sums are of what was put in.
        true
    }
}
