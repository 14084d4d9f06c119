//! The log in memory.

use std::collections::VecDeque;

use super::membership::History;
use super::{Entry, LogPosition, Membership, Payload, Snapshot};
use crate::base::{LogIndex, Term, Timing};

/// A snapshot and the entries after it.
///
/// Invariants ([`Log::check_invariants`]):
/// - the entries are contiguous and begin right after the snapshot;
/// - terms never fall along the log;
/// - the membership and the times in force are those of the latest entries that set them, else the snapshot's.
#[derive(Debug)]
pub(super) struct Log {
    snapshot: Snapshot,
    entries: VecDeque<Entry>,
    entries_bytes: usize,
    memberships: History<Membership>,
    timings: History<Timing>,
}

impl Log {
    /// The log that begins after `snapshot`.
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self {
            memberships: History::new(snapshot.membership.clone()),
            timings: History::new(snapshot.timing),
            snapshot,
            entries: VecDeque::new(),
            entries_bytes: 0,
        }
    }

    pub(super) const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) const fn memberships(&self) -> &History<Membership> {
        &self.memberships
    }

    pub(super) const fn timings(&self) -> &History<Timing> {
        &self.timings
    }

    /// How many entries are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About how many bytes they take.
    pub(super) const fn len_bytes(&self) -> usize {
        self.entries_bytes
    }

    /// About how many bytes the entries after `index` take.
    pub(super) fn bytes_after(&self, index: LogIndex) -> usize {
        self.entries.iter().rev().take_while(|entry| entry.index > index).map(|entry| entry.payload.size_bytes()).sum()
    }

    /// The last entry, or what the snapshot stands for.
    pub(super) fn last(&self) -> LogPosition {
        self.entries.back().map_or_else(|| self.snapshot.position(), Entry::position)
    }

    fn offset(&self, index: LogIndex) -> Option<usize> {
        let offset = index.0.checked_sub(self.snapshot.index.0 + 1)?;
        usize::try_from(offset).ok().filter(|offset| *offset < self.entries.len())
    }

    /// The entry at `index`, if it is kept.
    pub(super) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.offset(index).map(|offset| &self.entries[offset])
    }

    /// The term at `index`, if the log still knows it: of the entries that are kept and of the last that the snapshot
    /// stands for.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// Whether the entry at `position` is in this log. Then everything before it is the same too (log matching).
    pub(super) fn contains(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The last place, at `index` or before, whose term is at most `term`; at the latest the snapshot's.
    pub(super) fn last_not_after(&self, index: LogIndex, term: Term) -> LogPosition {
        let index = index.min(self.last().index);
        let below = match index.0.checked_sub(self.snapshot.index.0) {
            // Terms never fall, so the place is found by halving.
            Some(kept) => self.entries.partition_point(|entry| entry.term <= term).min(kept as usize),
            None => 0,
        };
        match below {
            0 => self.snapshot.position(),
            below => self.entries[below - 1].position(),
        }
    }

    /// The first index, among those that the log still knows, of the term at `index`.
    pub(super) fn first_of_term(&self, term: Term) -> LogIndex {
        if self.snapshot.term == term {
            return self.snapshot.index;
        }
        LogIndex(self.snapshot.index.0 + 1 + self.entries.partition_point(|entry| entry.term < term) as u64)
    }

    /// The entries from `first` on that fit into `bytes_max`, at least one where there is one.
    pub(super) fn batch(&self, first: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let Some(offset) = self.offset(first) else { return batch };
        for entry in self.entries.range(offset..) {
            bytes += entry.payload.size_bytes();
            if !batch.is_empty() && bytes > bytes_max {
                break;
            }
            batch.push(entry.clone());
        }
        batch
    }

    /// Appends `entry`, which must be the next one.
    pub(super) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index, last.index.next(), "an entry that isn't the one after {last}: {entry}");
        assert!(entry.term >= last.term, "an entry of an earlier term than {last}: {entry}");
        match &entry.payload {
            Payload::Members(members) => self.memberships.append(entry.index, members.clone()),
            Payload::Timing(timing) => self.timings.append(entry.index, *timing),
            Payload::Noop | Payload::Command(_) => {}
        }
        self.entries_bytes += entry.payload.size_bytes();
        self.entries.push_back(entry);
    }

    /// Drops the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: LogIndex) {
        while self.entries.back().is_some_and(|entry| entry.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.entries_bytes -= entry.payload.size_bytes();
            }
        }
        self.memberships.truncate_from(index);
        self.timings.truncate_from(index);
    }

    /// Replaces the entries through `through`, which must be kept, by `state`.
    pub(super) fn compact(&mut self, through: LogIndex, state: crate::base::Blob) {
        let Some(term) = self.term_at(through) else {
            panic!("compaction through {through}, which isn't in a log from {} to {}", self.snapshot.index, self.last())
        };
        self.memberships.compact(through);
        self.timings.compact(through);
        self.snapshot = Snapshot {
            index: through,
            term,
            membership: self.memberships.at(through).clone(),
            timing: *self.timings.at(through),
            state,
        };
        while self.entries.front().is_some_and(|entry| entry.index <= through) {
            if let Some(entry) = self.entries.pop_front() {
                self.entries_bytes -= entry.payload.size_bytes();
            }
        }
    }

    /// Panics where the log contradicts itself. It looks at the end of the log only: what is further back was at the
    /// end once, and nothing changes an entry.
    pub(super) fn check_invariants(&self) {
        const CHECKED: usize = 64;
        let from = self.entries.len().saturating_sub(CHECKED);
        let mut before = match from {
            0 => self.snapshot.position(),
            from => self.entries[from - 1].position(),
        };
        for entry in self.entries.range(from..) {
            assert_eq!(entry.index, before.index.next(), "the log has a gap: {entry} follows {before}");
            assert!(entry.term >= before.term, "the terms of the log fall: {entry} follows {before}");
            before = entry.position();
        }
        let changed = self.memberships.latest_index();
        if changed != LogIndex::ZERO {
            let stated = self.entry(changed).map(|entry| &entry.payload);
            let in_force = Payload::Members(self.memberships.latest().clone());
            assert_eq!(stated, Some(&in_force), "the membership in force isn't what entry {changed} says");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Blob;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::new(Snapshot {
            index: LogIndex::ZERO,
            term: Term::ZERO,
            membership: Membership::default(),
            timing: Timing::default(),
            state: Blob::default(),
        });
        for term in terms {
            log.append(Entry { index: log.last().index.next(), term: Term(*term), payload: Payload::Noop });
        }
        log
    }

    #[test]
    fn a_place_with_a_term_not_after_another_is_found_through_snapshots_too() {
        let mut log = log(&[1, 1, 2, 4, 4]);
        for (index, term, expected) in [(5, 4, (5, 4)), (5, 3, (3, 2)), (9, 9, (5, 4)), (1, 4, (1, 1)), (5, 0, (0, 0))]
        {
            let expected = LogPosition::new(LogIndex(expected.0), Term(expected.1));
            assert_eq!(log.last_not_after(LogIndex(index), Term(term)), expected, "{index} {term}");
        }
        log.compact(LogIndex(2), Blob::default());
        assert_eq!(log.last_not_after(LogIndex(1), Term(9)), LogPosition::new(LogIndex(2), Term(1)));
        assert_eq!(log.last_not_after(LogIndex(5), Term(2)), LogPosition::new(LogIndex(3), Term(2)));
    }

    #[test]
    fn the_first_index_of_a_term_is_found() {
        let log = log(&[1, 1, 2, 4, 4]);
        assert_eq!([1, 2, 4].map(|term| log.first_of_term(Term(term)).0), [1, 3, 4]);
    }

    #[test]
    fn a_batch_ends_at_the_byte_limit_but_holds_at_least_one_entry() {
        let log = log(&[1, 1, 1]);
        let one = Payload::Noop.size_bytes();
        let counts = [0, one, 2 * one, 100 * one].map(|bytes_max| log.batch(LogIndex(1), bytes_max).len());
        assert_eq!(counts, [1, 1, 2, 3]);
        assert!(log.batch(LogIndex(4), 1000).is_empty() && log.batch(LogIndex(0), 1000).is_empty());
    }

    #[test]
    fn a_compacted_log_knows_the_term_at_its_snapshot_and_counts_its_bytes() {
        let mut log = log(&[1, 2, 2, 3]);
        log.compact(LogIndex(3), Blob::from_static(b"state"));
        assert_eq!([2, 3, 4, 5].map(|index| log.term_at(LogIndex(index))), [None, Some(Term(2)), Some(Term(3)), None]);
        assert_eq!((log.len(), log.len_bytes()), (1, Payload::Noop.size_bytes()));
        log.truncate_from(LogIndex(4));
        assert_eq!((log.last(), log.len_bytes()), (LogPosition::new(LogIndex(3), Term(2)), 0));
        log.check_invariants();
    }
}
