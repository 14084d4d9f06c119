//! The effects that are not done with yet.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Epoch, Instant, Position, Seq};
use crate::store::Effect;

/// The room that an empty tail keeps: what a partition with a write now and then needs, so that it doesn't allocate for
/// each of them.
const ENTRIES_KEPT_MAX: usize = 4;

/// One effect in a tail.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The epoch of the primary that ordered it. It keeps it when a later primary replicates it again.
    pub epoch: Epoch,
    /// When it reached this replica: its time to live counts from here.
    pub received: Instant,
    /// What it does.
    pub effect: Effect,
}

/// The end of a partition's sequence of effects: without gaps, from the one after `base` to the last one that this
/// replica knows.
///
/// A backup's tail holds what is not committed. A primary's may reach further back, to what a learner has not acked.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    base: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    /// Forgets everything and begins anew after `base`.
    pub fn reset(&mut self, base: Position) {
        *self = Self { base, ..Self::default() };
    }

    /// The position before the first entry.
    pub const fn base(&self) -> Position {
        self.base
    }

    /// The position of the last entry; the base where there is none.
    pub fn last(&self) -> Position {
        let seq = Seq(self.base.seq.0 + self.entries.len() as u64);
        Position::new(self.entries.back().map_or(self.base.epoch, |entry| entry.epoch), seq)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes held.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry of `seq`.
    pub fn entry(&self, seq: Seq) -> Option<&Entry> {
        let index = seq.0.checked_sub(self.base.seq.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Which epoch ordered `seq`; `None` outside of base to last.
    pub fn epoch_at(&self, seq: Seq) -> Option<Epoch> {
        if seq == self.base.seq { Some(self.base.epoch) } else { self.entry(seq).map(|entry| entry.epoch) }
    }

    /// The position of `seq`, which must be between base and last.
    pub fn position(&self, seq: Seq) -> Position {
        let epoch = self.epoch_at(seq);
        let epoch = epoch.unwrap_or_else(|| panic!("{seq} is not between {} and {}", self.base, self.last()));
        Position::new(epoch, seq)
    }

    /// Appends the next entry; its position.
    pub fn push(&mut self, entry: Entry) -> Position {
        let last = self.last();
        assert!(entry.epoch >= last.epoch, "an effect of epoch {} after {last}", entry.epoch);
        self.bytes += entry.effect.bytes();
        self.entries.push_back(entry);
        self.last()
    }

    /// Drops everything after `seq`.
    pub fn truncate_after(&mut self, seq: Seq) {
        assert!(seq >= self.base.seq, "a truncation to {seq} would cut below the base {}", self.base);
        let keep = usize::try_from(seq.0 - self.base.seq.0).unwrap_or(usize::MAX);
        while self.entries.len() > keep {
            let entry = self.entries.pop_back().expect("it is longer than what is kept");
            self.bytes -= entry.effect.bytes();
        }
    }

    /// Drops everything up to and with `seq`, which becomes the base.
    pub fn drop_through(&mut self, seq: Seq) {
        while self.base.seq < seq {
            self.take_first();
        }
    }

    /// Takes out the first entry, whose position becomes the base.
    pub fn take_first(&mut self) -> Entry {
        let entry = self.entries.pop_front().unwrap_or_else(|| panic!("there is nothing after {}", self.base));
        self.bytes -= entry.effect.bytes();
        self.base = Position::new(entry.epoch, self.base.seq.next());
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT_MAX {
            // An idle partition, one of thousands, holds no large buffer.
            self.entries = VecDeque::new();
        }
        entry
    }

    /// The entries of these sequence numbers, as far as they are held.
    pub fn range(&self, seqs: RangeInclusive<Seq>) -> impl Iterator<Item = (Seq, &Entry)> {
        let (first, last) = (seqs.start().0.max(self.base.seq.0 + 1), seqs.end().0);
        (first..=last).map_while(|seq| Some((Seq(seq), self.entry(Seq(seq))?)))
    }

    /// The epochs of the entries: each with the last sequence number that it ordered.
    pub fn runs(&self) -> Vec<Position> {
        let mut runs: Vec<Position> = Vec::new();
        for (offset, entry) in self.entries.iter().enumerate() {
            let position = Position::new(entry.epoch, Seq(self.base.seq.0 + 1 + offset as u64));
            match runs.last_mut() {
                Some(run) if run.epoch == position.epoch => *run = position,
                _ => runs.push(position),
            }
        }
        runs
    }

    /// The last position that a history shares with this tail, where that history was settled up to `applied` and goes on
    /// in `runs`. `None` where they share nothing from this tail's base on.
    ///
    /// Two histories that agree on a position agree on all before it, so the highest agreement is the answer; comparing
    /// lengths or commit points instead would keep effects that another primary has replaced.
    pub fn last_match(&self, applied: Position, runs: &[Position]) -> Option<Position> {
        let lowest = applied.seq.max(self.base.seq);
        let mut upper = self.last().seq;
        for index in (0..runs.len()).rev() {
            let (run, before) = (runs[index], index.checked_sub(1).map_or(applied, |before| runs[before]));
            let from = Seq(before.seq.0.saturating_add(1)).max(lowest);
            let mut seq = run.seq.min(upper);
            while seq >= from {
                if self.epoch_at(seq) == Some(run.epoch) || is_broken(Mutant::MatchByNumber) {
                    return Some(Position::new(run.epoch, seq));
                }
                seq = Seq(seq.0 - 1);
            }
            upper = upper.min(before.seq);
        }
        (self.epoch_at(applied.seq) == Some(applied.epoch)).then_some(applied)
    }

    /// Panics where the tail contradicts itself.
    pub fn check_invariants(&self) {
        let mut epoch = self.base.epoch;
        for entry in &self.entries {
            assert!(entry.epoch >= epoch, "epoch {} after epoch {epoch}", entry.epoch);
            epoch = entry.epoch;
        }
        let bytes: usize = self.entries.iter().map(|entry| entry.effect.bytes()).sum();
        assert_eq!(self.bytes, bytes, "accounted bytes differ from the sum over the entries");
    }
}
