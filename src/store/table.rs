//! The table of one partition.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::digest::{BucketSet, Buckets, Digest, RecordHash, Sums, buckets_of};
use super::expiry::Expiry;
use super::index::Index;
use super::recent::{Recent, Remembered};
use super::{Effect, Stored};
use crate::api::{ContentType, Key};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Blob, Instant, Version};

/// What is stored under a key.
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

/// How many records are fetched from memory before they are hashed.
const SCRUBBED_AT_ONCE: usize = 16;

/// One partition's committed records in the order of their keys.
///
/// Invariants ([`Table::check_invariants`]):
/// - `bytes` is the sum over all records, and so are the sums of the digest over their stored hashes;
/// - exactly the records with a deadline are in the index of deadlines;
/// - a key has a record or a tombstone, not both; tombstones exist only while scanning.
#[derive(Clone, Debug, Default)]
pub struct Table {
    records: Index,
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
    pub fn read(&self, key: &Key) -> Option<&Stored> {
        self.records.find(key.as_bytes())
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

    /// Accounted memory: what [`Stored::bytes`] says of each record; and what is remembered of writes.
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
        self.insert(key, Stored::new(key, record))
    }

    /// The same for a record that another table held under `hash`: where it was rotten there, it is known to be here.
    pub fn insert_hashed(&mut self, key: &Key, record: Record, hash: RecordHash) -> bool {
        if is_broken(Mutant::ScannedReplacesNewer) {
            if let Some(tombstones) = &mut self.tombstones {
                tombstones.remove(key);
            }
            self.repair(key, Some(record));
            return true;
        }
        self.insert(key, Stored::with_hash(key, record, hash))
    }

    fn insert(&mut self, key: &Key, stored: Stored) -> bool {
        let version = stored.version();
        if let Some(tombstones) = &mut self.tombstones {
            if tombstones.get(key).is_some_and(|gone| *gone >= version) {
                return false;
            }
            tombstones.remove(key);
        }
        let share = Share::of(&stored);
        // Mostly a record replaces an older one, and mostly what that costs is to find it: once is enough.
        if let Some(before) = self.records.replace(stored) {
            if before.version() >= version {
                self.records.replace(before);
                return false;
            }
            self.forget(key, Share::of(&before));
        }
        self.account(key, share);
        true
    }

    /// Makes `key` what another copy has, whatever is here: a repair.
    pub fn repair(&mut self, key: &Key, record: Option<Record>) {
        self.remove(key);
        if let Some(record) = record {
            let stored = Stored::new(key, record);
            let share = Share::of(&stored);
            self.records.replace(stored);
            self.account(key, share);
        }
    }

    /// Records in the order of their keys: those after `after` that begin with `prefix`. Expired ones are included.
    pub fn scan<'a>(&'a self, prefix: &'a [u8], after: Option<&'a Key>) -> impl Iterator<Item = &'a Stored> + 'a {
        let start = match after {
            Some(after) if after.as_bytes() >= prefix => Bound::Excluded(after.as_bytes()),
            // Whoever wants all of it needs no search.
            _ if prefix.is_empty() => Bound::Unbounded,
            _ => Bound::Included(prefix),
        };
        let records = self.records.range(start);
        records.take_while(move |stored| stored.key_bytes().starts_with(prefix))
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
            let stored = self.read(&key).expect("the index of deadlines names records that exist");
            let version = stored.version();
            expired.push((key, version));
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
        if !is_broken(Mutant::ScanWithoutTombstones) {
            self.tombstones.get_or_insert_default();
        }
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
        self.sums.buckets().copied().unwrap_or_else(|| buckets_of(self.records.iter()))
    }

    /// Sums the stored hashes up anew. True where the sums that were kept are wrong: then they are put right. Costs a pass
    /// over the table.
    pub fn recount(&mut self) -> bool {
        let counted = Sums::of(self.records.len(), self.records.iter());
        let is_wrong = !counted.agrees(&self.sums);
        if is_wrong {
            self.sums = counted;
        }
        is_wrong
    }

    /// The records whose keys fall into `buckets`, in order, after `after`.
    pub fn in_buckets<'a>(
        &'a self,
        buckets: BucketSet,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = &'a Stored> + 'a {
        self.scan(&[], after).filter(move |stored| buckets.contains(stored.key_bytes()))
    }

    /// Whether the record of `key` is what it was when it was put in; so is nothing.
    #[must_use]
    pub fn is_sound(&self, key: &Key) -> bool {
        self.read(key).is_none_or(Stored::is_sound)
    }

    /// Hashes the records after `after` again, until they are `bytes_max` bytes or the table ends.
    #[must_use]
    pub fn scrub(&self, after: Option<&Key>, bytes_max: u64) -> Scrubbed {
        let mut scrubbed = Scrubbed::default();
        let bytes_max = bytes_max.max(1);
        let mut records = self.scan(&[], after);
        let mut group: Vec<&Stored> = Vec::with_capacity(SCRUBBED_AT_ONCE);
        loop {
            // They lie in no order. So the processor is made to wait for the memory of many at once, and not for each in turn.
            group.clear();
            while group.len() < SCRUBBED_AT_ONCE && scrubbed.bytes < bytes_max {
                let Some(stored) = records.next() else { break };
                stored.touch();
                scrubbed.bytes += stored.bytes() as u64;
                group.push(stored);
            }
            let Some(last) = group.last() else { return scrubbed };
            scrubbed.records += group.len() as u64;
            let rotten = group.iter().filter(|stored| !stored.is_sound());
            scrubbed.rotten.extend(rotten.map(|stored| (stored.key(), stored.version())));
            if scrubbed.bytes >= bytes_max {
                scrubbed.reached = Some(last.key());
                return scrubbed;
            }
        }
    }

    /// Panics where the table contradicts itself. Costs a pass over it.
    pub fn check_invariants(&self) {
        self.records.check_invariants();
        let bytes: usize = self.records.iter().map(Stored::bytes).sum();
        assert_eq!(self.bytes, bytes, "accounted bytes differ from the sum over the records");
        assert!(
            Sums::of(self.records.len(), self.records.iter()).agrees(&self.sums),
            "the digest differs from the sum over the records"
        );
        let expiring = self.records.iter().filter(|stored| stored.expires_at().is_some()).count();
        assert_eq!(self.expiry.len(), expiring, "the index of deadlines differs from the records");
        self.recent().into_iter().for_each(Recent::check_invariants);
        for (key, version) in self.tombstones.iter().flatten() {
            assert!(self.read(key).is_none(), "{key:?} has a record and a tombstone of version {version}");
        }
    }

    /// The version of the last known change of `key`.
    fn newest(&self, key: &Key) -> Option<Version> {
        let stored = self.read(key).map(Stored::version);
        stored.or_else(|| self.tombstones.as_ref()?.get(key).copied())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(share) = self.records.take(key.as_bytes()).as_ref().map(Share::of) {
            if is_broken(Mutant::DigestKeepsDeleted) {
                self.sums.add(key.as_bytes(), share.hash);
            }
            self.forget(key, share);
        }
    }

    /// Takes a record that was just put in into the accounts.
    fn account(&mut self, key: &Key, share: Share) {
        self.bytes += share.bytes;
        self.sums.add(key.as_bytes(), share.hash);
        if self.sums.lacks_buckets(self.records.len()) {
            self.sums = Sums::of(self.records.len(), self.records.iter());
        }
        if let Some(deadline) = share.deadline {
            self.expiry.insert(deadline, key.clone());
        }
    }

    /// Takes a removed record out of the accounts.
    fn forget(&mut self, key: &Key, share: Share) {
        self.bytes -= share.bytes;
        self.sums.remove(key.as_bytes(), share.hash);
        if let Some(deadline) = share.deadline {
            self.expiry.remove(deadline, key);
        }
    }
}

/// What one record adds to a table's accounts.
struct Share {
    bytes: usize,
    /// The hash that it came with: what its bits may have become since then is none of the sums' business.
    hash: RecordHash,
    deadline: Option<Instant>,
}

impl Share {
    fn of(stored: &Stored) -> Self {
        Self { bytes: stored.bytes(), hash: stored.hash(), deadline: stored.expires_at() }
    }
}

/// Faults, for tests.
#[cfg(feature = "sim")]
impl Table {
    /// Flips a bit of the value of `key`, and of this copy alone. False where there is no bit.
    pub fn rot(&mut self, key: &Key) -> bool {
        let Some(stored) = self.records.take(key.as_bytes()) else { return false };
        let (stored, has_bits) = match stored.rotten() {
            Ok(stored) => (stored, true),
            Err(stored) => (stored, false),
        };
        self.records.replace(stored);
        has_bits
    }

    /// Flips a bit of the stored hash of `key`. False where there is none.
    pub fn rot_hash(&mut self, key: &Key) -> bool {
        // The sums are of what was put in.
        let stored = self.records.take(key.as_bytes()).map(Stored::with_rotten_hash);
        stored.is_some_and(|stored| self.records.replace(stored).is_none())
    }
}
