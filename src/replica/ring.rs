//! The ring: a partition's last committed effects, for viewers that come back.
//!
//! Every copy keeps one, from what it applies, so that a new primary has what its predecessor had. Effects are in it by
//! their sequence numbers, without holes. How many there may be is decided for all partitions of a shard together, by who
//! owns them: the oldest effect of the shard goes first.
//!
//! Each effect has a *stamp*, where one is known: the process under which it was committed, and its version. Stamps are
//! what a cursor is compared with (`docs/protocol.md`, section E). An effect that was ordered in one epoch and applied here
//! in a later one has none; the `EpochStart` behind it has.

use std::collections::VecDeque;

use crate::api::{EventKind, FeedCursor, FeedEvent};
use crate::base::{NodeId, PartitionId, Seq, Version};
use crate::store::Effect;

/// What an entry takes beside its key and its value, in bytes.
const ENTRY_BYTES: usize = size_of::<RingEntry>();

/// Who committed an effect, and under which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The primary that committed it.
    pub by: NodeId,
    /// The version that it gave.
    pub version: Version,
}

/// One committed effect.
#[derive(Clone, Debug)]
pub struct RingEntry {
    /// Its number.
    pub seq: Seq,
    /// By which a cursor is compared with it.
    pub stamp: Option<Stamp>,
    /// What viewers are shown; none where nothing changed.
    pub event: Option<FeedEvent>,
}

impl RingEntry {
    fn bytes(&self) -> usize {
        let content =
            |event: &FeedEvent| event.key.as_bytes().len() + event.value.as_ref().map_or(0, |value| value.len());
        ENTRY_BYTES + self.event.as_ref().map_or(0, content)
    }
}

/// The last committed effects of one copy.
///
/// Invariant: the entries have the numbers after `base`, one by one.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    base: Seq,
    base_stamp: Option<Stamp>,
    entries: VecDeque<RingEntry>,
    bytes: usize,
    pushed: u64,
}

impl Ring {
    /// Forgets everything. What comes next comes after `base`; whoever is covered up to `stamp` has seen what is before.
    pub(super) fn reset(&mut self, base: Seq, stamp: Option<Stamp>) {
        *self = Self { base, base_stamp: stamp, pushed: self.pushed, ..Self::default() };
    }

    /// Takes the next effect.
    pub(super) fn push(&mut self, entry: RingEntry) {
        if entry.seq != self.last().next() {
            self.reset(Seq(entry.seq.0.saturating_sub(1)), None);
        }
        self.bytes += entry.bytes();
        self.pushed += 1;
        self.entries.push_back(entry);
    }

    /// Lets the oldest effect go, if there is one.
    pub(super) fn evict(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= entry.bytes();
        (self.base, self.base_stamp) = (entry.seq, entry.stamp);
        if self.entries.is_empty() {
            // An idle partition, one of thousands, holds no large buffer.
            self.entries = VecDeque::new();
        }
    }

    /// The number before the first entry.
    #[must_use]
    pub const fn base(&self) -> Seq {
        self.base
    }

    /// The number of the last entry; the base where there is none.
    #[must_use]
    pub fn last(&self) -> Seq {
        Seq(self.base.0 + self.entries.len() as u64)
    }

    /// Bytes held, values that tables hold too included.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Effects that were ever put in.
    #[must_use]
    pub const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The effects after `seq`; `None` where some of them are gone.
    #[must_use]
    pub fn after(&self, seq: Seq) -> Option<impl Iterator<Item = &RingEntry>> {
        let skipped = usize::try_from(seq.0.checked_sub(self.base.0)?).unwrap_or(usize::MAX);
        Some(self.entries.range(skipped.min(self.entries.len())..))
    }

    /// The last effect that a viewer with this cursor has been sent; `None` where that can't be told any more.
    ///
    /// A viewer is sent a partition's effects in their order, so one that is covered covers all before it.
    #[must_use]
    pub fn resume(&self, cursor: &FeedCursor) -> Option<Seq> {
        let covers = |stamp: Option<Stamp>| stamp.is_some_and(|stamp| cursor.covers(stamp.by, stamp.version));
        let seen = self.entries.iter().rev().find(|entry| covers(entry.stamp)).map(|entry| entry.seq);
        // Before the first effect of all there is nothing that could be missed.
        seen.or_else(|| (self.base == Seq::ZERO || covers(self.base_stamp)).then_some(self.base))
    }

    /// Panics where the ring contradicts itself.
    pub(super) fn check_invariants(&self) {
        let numbers = self.entries.iter().map(|entry| entry.seq.0);
        assert!(numbers.eq(self.base.0 + 1..=self.last().0), "the ring's numbers have a hole");
        let bytes: usize = self.entries.iter().map(RingEntry::bytes).sum();
        assert_eq!(self.bytes, bytes, "the ring's bytes differ from the sum over its entries");
    }
}

/// What the feed shows of a committed effect.
pub fn feed_event(partition: PartitionId, effect: Effect) -> Option<FeedEvent> {
    match effect {
        Effect::Put { key, value, content_type, version, .. } => {
            Some(FeedEvent { kind: EventKind::Put, key, partition, version, value: Some(value), content_type })
        }
        Effect::Delete { key, version, expired, .. } => Some(FeedEvent {
            kind: if expired { EventKind::Expire } else { EventKind::Delete },
            key,
            partition,
            version,
            value: None,
            content_type: None,
        }),
        Effect::EpochStart { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, Generation, Incarnation, Slot};

    fn node(slot: u8) -> NodeId {
        NodeId::new(Slot(slot), Incarnation(u128::from(slot) + 1))
    }

    fn entry(seq: u64, by: Option<u8>, version: u64) -> RingEntry {
        let stamp = by.map(|slot| Stamp { by: node(slot), version: Version(version) });
        RingEntry { seq: Seq(seq), stamp, event: None }
    }

    fn cursor(places: &[(u8, u64)]) -> FeedCursor {
        let mut cursor = FeedCursor::new(ClusterId(1), Generation(0));
        for &(slot, version) in places {
            cursor.advance(node(slot), Version(version));
        }
        cursor
    }

    fn numbers(ring: &Ring, after: u64) -> Option<Vec<u64>> {
        Some(ring.after(Seq(after))?.map(|entry| entry.seq.0).collect())
    }

    /// Ordered by n1 up to 3, of which the last was committed by n2 only.
    fn ring() -> Ring {
        let mut ring = Ring::default();
        ring.push(entry(1, Some(0), 10));
        ring.push(entry(2, Some(0), 20));
        ring.push(entry(3, None, 30));
        ring.push(entry(4, Some(1), 5));
        ring.push(entry(5, Some(1), 6));
        ring.check_invariants();
        ring
    }

    #[test]
    fn a_cursor_names_the_last_effect_that_was_sent() {
        let ring = ring();
        assert_eq!(ring.resume(&cursor(&[])), Some(Seq(0)), "the whole history is here");
        assert_eq!(ring.resume(&cursor(&[(0, 10)])), Some(Seq(1)));
        // n1 gave 30 and did not live to commit it: what n1 closed says nothing of it.
        assert_eq!(ring.resume(&cursor(&[(0, 99)])), Some(Seq(2)));
        assert_eq!(ring.resume(&cursor(&[(0, 99), (1, 5)])), Some(Seq(4)));
        assert_eq!(ring.resume(&cursor(&[(1, 6)])), Some(Seq(5)));
    }

    #[test]
    fn what_has_gone_is_a_gap_for_whom_it_was_news_and_for_nobody_else() {
        let mut ring = ring();
        (0..2).for_each(|_| ring.evict());
        assert_eq!((ring.base(), ring.last(), numbers(&ring, 2)), (Seq(2), Seq(5), Some(vec![3, 4, 5])));
        assert_eq!(numbers(&ring, 1), None);
        assert_eq!(numbers(&ring, 9), Some(vec![]));
        assert_eq!(ring.resume(&cursor(&[(0, 19)])), None, "2 is gone");
        assert_eq!(ring.resume(&cursor(&[(0, 20)])), Some(Seq(2)));
        (0..9).for_each(|_| ring.evict());
        ring.check_invariants();
        assert_eq!((ring.base(), ring.bytes(), ring.pushed()), (Seq(5), 0, 5));
        assert_eq!(ring.resume(&cursor(&[(1, 6)])), Some(Seq(5)));
        ring.push(entry(6, Some(1), 7));
        assert_eq!(ring.resume(&cursor(&[(1, 5)])), None);
    }

    #[test]
    fn a_copy_that_was_filled_covers_whom_its_filler_covers() {
        let mut ring = ring();
        ring.reset(Seq(40), Some(Stamp { by: node(2), version: Version(70) }));
        assert_eq!(ring.resume(&cursor(&[(2, 69), (1, 99)])), None);
        assert_eq!(ring.resume(&cursor(&[(2, 70)])), Some(Seq(40)));
        // A hole in what it is given is no history.
        ring.push(entry(50, Some(2), 80));
        assert_eq!((ring.base(), ring.resume(&cursor(&[(2, 79)]))), (Seq(49), None));
    }
}
