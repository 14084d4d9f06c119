//! What is read from a replica. Who may read is decided by the shard, and by the replica's role.

use std::collections::BTreeMap;

use super::{NotServing, Replica, ReplicaRole, tail};
use crate::api::{Key, Value};
use crate::base::Instant;
use crate::base::mutant::{Mutant, is_broken};
use crate::store::{Record, Stored, Table};

/// A backup that has more uncommitted than this hands reads on rather than look through all of it.
const PENDING_LOOKED_AT_MAX: usize = 16;

impl Replica {
    /// The committed value of `key`. Linearizable where the caller holds the partition's lease.
    ///
    /// # Errors
    /// Where this replica doesn't serve, or not this key, because its record is rotten.
    pub fn read(&self, now: Instant, key: &Key) -> Result<Option<Value>, NotServing> {
        if self.is_serving() && !self.is_rotten(key) { Ok(self.read_applied(now, key, false)) } else { Err(NotServing) }
    }

    /// The committed value of `key` in a copy that orders nothing. Linearizable where the caller leads the cluster, its lease
    /// holds, and by its newest record this copy is in sync (`docs/protocol.md`, section D, "Reads at the leader").
    ///
    /// # Errors
    /// Where this isn't a whole backup; where an effect on the key may or may not be committed; and for what only the
    /// primary decides: whether a record has run out, and what a rotten one should be.
    pub fn read_backup(&self, now: Instant, key: &Key) -> Result<Option<Value>, NotServing> {
        let is_whole = self.role == ReplicaRole::Backup && self.following.filling.is_none();
        let is_newest = self.record.change == self.heard && self.record.epoch == self.epoch;
        if !is_whole && !is_broken(Mutant::LeaderReadsLearner) || !is_newest {
            return Err(NotServing);
        }
        let pending = self.tail.range(self.applied.seq.next()..=self.tail.last().seq);
        let is_pending = self.uncommitted() > PENDING_LOOKED_AT_MAX
            || pending.into_iter().any(|(_, entry)| entry.effect.key() == Some(key));
        if is_pending && !is_broken(Mutant::LeaderReadsPending) || self.is_rotten(key) {
            return Err(NotServing);
        }
        match self.table.read(key) {
            // Counted from when it came here, which was after it came to the primary, and by another clock.
            Some(record) if record.expires_at().is_some() && !is_broken(Mutant::LeaderReadsExpiring) => Err(NotServing),
            Some(_) => Ok(self.read_applied(now, key, false)),
            None => Ok(None),
        }
    }

    /// A value of `key` that was committed, perhaps replaced since; marked as stale.
    ///
    /// # Errors
    /// Where this replica isn't in sync.
    pub fn read_stale(&self, now: Instant, key: &Key) -> Result<Option<Value>, NotServing> {
        if is_broken(Mutant::ReadUncommitted) {
            // Without the mark, which says that it may not be committed.
            let read = self.read_degraded(now, key)?;
            return Ok(read.map(|value| Value { degraded: false, ..value }));
        }
        if self.holds_all() && !self.is_rotten(key) { Ok(self.read_applied(now, key, true)) } else { Err(NotServing) }
    }

    /// The newest value of `key` that this replica knows, committed or not; marked as stale and degraded. For survivors of
    /// a majority: whatever may have been acknowledged is in every in-sync member's tail.
    ///
    /// # Errors
    /// Where this replica isn't in sync.
    pub fn read_degraded(&self, now: Instant, key: &Key) -> Result<Option<Value>, NotServing> {
        if !self.holds_all() {
            return Err(NotServing);
        }
        let mut newest = Table::default();
        let uncommitted = self.tail.range(self.applied.seq.next()..=self.tail.last().seq);
        let of_key = uncommitted.filter(|(_, entry)| entry.effect.key() == Some(key)).last();
        let table = match of_key {
            Some((_, entry)) => {
                newest.apply(entry.received, &entry.effect);
                &newest
            }
            None if self.is_rotten(key) => return Err(NotServing),
            None => &self.table,
        };
        let record = table.read(key).filter(|record| !record.is_expired(now));
        Ok(record.map(|record| Value { degraded: true, ..record.to_value(now, true) }))
    }

    /// What isn't committed here, by key: the last effect's value, or that there is none. For survivors of a majority, as
    /// for [`Replica::read_degraded`].
    #[must_use]
    pub fn uncommitted_records(&self, now: Instant) -> BTreeMap<Key, Option<Stored>> {
        let entries = self.tail.range(self.applied.seq.next()..=self.tail.last().seq);
        let of_key = |entry: &tail::Entry| {
            let key = entry.effect.key()?;
            let stored = Record::of(entry.received, &entry.effect).map(|record| Stored::new(key, record));
            Some((key.clone(), stored.filter(|stored| !stored.is_expired(now))))
        };
        entries.filter_map(|(_, entry)| of_key(entry)).collect()
    }

    /// Committed records in the order of their keys, without expired ones: those after `after` that begin with `prefix`.
    /// Who may show them is decided as for reads: [`Replica::is_serving`], [`Replica::holds_all`].
    pub fn scan<'a>(
        &'a self,
        now: Instant,
        prefix: &'a [u8],
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = &'a Stored> + 'a {
        self.table.scan(prefix, after).filter(move |stored| !stored.is_expired(now))
    }

    fn read_applied(&self, now: Instant, key: &Key, stale: bool) -> Option<Value> {
        let record = self.table.read(key)?;
        (!record.is_expired(now)).then(|| record.to_value(now, stale))
    }
}
