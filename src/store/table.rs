//! The table of one partition.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::Effect;
use super::expiry::Expiry;
use super::recent::{Recent, Remembered};
use crate::api::{ContentType, Key, Value};
use crate::base::{Blob, Instant, Version};

/// What a record is accounted with beyond its key, value and content type: its entry in the map, the map's slack (nodes
/// are two thirds full on average), the headers of the shared buffers.
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

/// One partition's committed records in the order of their keys.
///
/// Invariants ([`Table::check_invariants`]):
/// - `bytes` is the sum over all records;
/// - exactly the records with a deadline are in the index of deadlines;
/// - a key has a record or a tombstone, not both; tombstones exist only while scanning.
#[derive(Debug, Default)]
pub struct Table {
    records: BTreeMap<Key, Record>,
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
        self.records.get(key)
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
                if let Some(record) = self.records.remove(key) {
                    self.forget(key, &record);
                }
                if let Some(tombstones) = &mut self.tombstones {
                    tombstones.insert(key.clone(), *version);
                }
            }
            Effect::EpochStart { .. } => {}
        }
    }

    /// Puts in a record that a scan brought, unless what is there, value or tombstone, is as new. True when it went in.
    pub fn insert_newer(&mut self, key: &Key, record: Record) -> bool {
        let is_as_new = |known: Version| known >= record.version;
        let (deadline, bytes) = (record.expires_at, Self::record_bytes(key, &record));
        // Mostly a record replaces another, and mostly what that costs is to find it: once is enough.
        if let Some(stored) = self.records.get_mut(key) {
            if is_as_new(stored.version) {
                return false;
            }
            let replaced = std::mem::replace(stored, record);
            self.forget(key, &replaced);
        } else {
            if let Some(tombstones) = &mut self.tombstones {
                if tombstones.get(key).copied().is_some_and(is_as_new) {
                    return false;
                }
                tombstones.remove(key);
            }
            self.records.insert(key.clone(), record);
        }
        self.bytes += bytes;
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, key.clone());
        }
        true
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
            let record = self.records.get(&key).expect("the index of deadlines names records that exist");
            expired.push((key, record.version));
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

    /// Panics where the table contradicts itself. Costs a pass over it.
    pub fn check_invariants(&self) {
        let bytes: usize = self.records.iter().map(|(key, record)| Self::record_bytes(key, record)).sum();
        assert_eq!(self.bytes, bytes, "accounted bytes differ from the sum over the records");
        let expiring = self.records.values().filter(|record| record.expires_at.is_some()).count();
        assert_eq!(self.expiry.len(), expiring, "the index of deadlines differs from the records");
        self.recent().into_iter().for_each(Recent::check_invariants);
        for (key, version) in self.tombstones.iter().flatten() {
            assert!(!self.records.contains_key(key), "{key:?} has a record and a tombstone of version {version}");
        }
    }

    /// The version of the last known change of `key`.
    fn newest(&self, key: &Key) -> Option<Version> {
        let stored = self.records.get(key).map(|record| record.version);
        stored.or_else(|| self.tombstones.as_ref()?.get(key).copied())
    }

    /// Takes a removed record out of the accounts.
    fn forget(&mut self, key: &Key, record: &Record) {
        self.bytes -= Self::record_bytes(key, record);
        if let Some(deadline) = record.expires_at {
            self.expiry.remove(deadline, key);
        }
    }

    fn record_bytes(key: &Key, record: &Record) -> usize {
        let content_type = record.content_type.as_ref().map_or(0, |kind| kind.as_str().len());
        key.as_bytes().len() + record.value.len() + content_type + RECORD_OVERHEAD_BYTES
    }
}
