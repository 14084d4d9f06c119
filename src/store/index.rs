//! Records in the order of their keys, in little more memory than a handle each.
//!
//! They lie in sorted *runs* of up to [`RUN_MAX`] handles. A run that is full is split in two; neighbours that have both
//! become small are joined. The run of a key is found by a binary search over the runs' first keys. It is a tree of two
//! levels; with thousands of partitions a table is seldom large enough for a third. Nodes of a B-tree would be two thirds
//! full, and a third of a small record's overhead would be that.
//!
//! A handle is 16 bytes, and the key is where it points to, which is seldom in any cache. So beside the handles of a run lie
//! *marks*, 16 bits of a hash of each key, all of them in a cache line or two: whoever looks for a key that is there looks
//! through these, and follows hardly any handle but the right one. A binary search, which follows five, is made only where
//! a new key's place is wanted.
//!
//! Invariants ([`Index::check_invariants`]): no run is empty or longer than [`RUN_MAX`]; keys rise strictly; each record has
//! its key's mark beside it.

use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64;

use super::Stored;

/// So many handles a run holds at most: what a cheap move of memory is.
const RUN_MAX: usize = 64;
/// Neighbours of so few together are joined: with room left, so that they aren't split again at once.
const JOIN_MAX: usize = RUN_MAX / 2;
/// By so many handles a run grows when its memory is full. Doubling would leave a quarter unused.
const GROWTH: usize = 8;

/// A hash of a key, short enough to have many of them in a cache line. Two keys of a run have the same one once in a
/// thousand runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark(u16);

impl Mark {
    /// All keys of a table have the upper bits of this hash in common, or nearly so: they are of one partition.
    #[inline]
    fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key) as u16)
    }
}

/// Records in the order of their keys, and their marks at the same places.
#[derive(Clone, Debug, Default)]
struct Run {
    marks: Vec<Mark>,
    records: Vec<Stored>,
}

impl Run {
    fn of(mark: Mark, stored: Stored) -> Self {
        Self { marks: vec![mark], records: vec![stored] }
    }

    fn len(&self) -> usize {
        self.records.len()
    }

    /// Where the record of `key` is.
    #[inline]
    fn find(&self, mark: Mark, key: &[u8]) -> Option<usize> {
        let marked = self.marks.iter().enumerate().filter(|(_, known)| **known == mark);
        marked.map(|(place, _)| place).find(|&place| self.records[place].key_bytes() == key)
    }

    /// Where the first record is whose key is not below `key`.
    fn place_of(&self, key: &[u8]) -> usize {
        self.records.partition_point(|stored| stored.key_bytes() < key)
    }

    fn insert(&mut self, place: usize, mark: Mark, stored: Stored) {
        if self.records.len() == self.records.capacity() {
            self.records.reserve_exact(GROWTH);
            self.marks.reserve_exact(GROWTH);
        }
        self.records.insert(place, stored);
        self.marks.insert(place, mark);
    }

    fn remove(&mut self, place: usize) -> Stored {
        self.marks.remove(place);
        self.records.remove(place)
    }

    /// Keeps the lower half; gives the upper one.
    fn split(&mut self) -> Self {
        let upper = Self { marks: self.marks.split_off(RUN_MAX / 2), records: self.records.split_off(RUN_MAX / 2) };
        self.marks.shrink_to(RUN_MAX / 2 + GROWTH);
        self.records.shrink_to(RUN_MAX / 2 + GROWTH);
        upper
    }

    fn append(&mut self, upper: Self) {
        self.marks.extend(upper.marks);
        self.records.extend(upper.records);
    }
}

/// A set of records with one for each key.
#[derive(Clone, Debug, Default)]
pub struct Index {
    runs: Vec<Run>,
    len: usize,
}

impl Index {
    /// How many records there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The record of `key`.
    pub fn find(&self, key: &[u8]) -> Option<&Stored> {
        let run = self.runs.get(self.run_of(key))?;
        run.find(Mark::of(key), key).map(|place| &run.records[place])
    }

    /// Puts in a record; what it takes the place of.
    pub fn replace(&mut self, stored: Stored) -> Option<Stored> {
        let key = stored.key_bytes();
        let (at, mark) = (self.run_of(key), Mark::of(key));
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(Run::of(mark, stored));
            self.len += 1;
            return None;
        };
        if let Some(place) = run.find(mark, key) {
            return Some(std::mem::replace(&mut run.records[place], stored));
        }
        run.insert(run.place_of(key), mark, stored);
        self.len += 1;
        if run.len() == RUN_MAX {
            let upper = run.split();
            self.runs.insert(at + 1, upper);
        }
        None
    }

    /// Takes out the record of `key`.
    pub fn take(&mut self, key: &[u8]) -> Option<Stored> {
        let at = self.run_of(key);
        let run = self.runs.get_mut(at)?;
        let taken = run.remove(run.find(Mark::of(key), key)?);
        self.len -= 1;
        if run.len() == 0 {
            self.runs.remove(at);
        } else {
            self.maybe_join(at);
        }
        Some(taken)
    }

    /// All records from `start` on, in order.
    pub fn range(&self, start: Bound<&[u8]>) -> impl Iterator<Item = &Stored> {
        let (at, place) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) | Bound::Excluded(key) => {
                let at = self.run_of(key);
                let place = self.runs.get(at).map_or(0, |run| {
                    let place = run.place_of(key);
                    let is_there = run.records.get(place).is_some_and(|stored| stored.key_bytes() == key);
                    place + usize::from(is_there && matches!(start, Bound::Excluded(_)))
                });
                (at, place)
            }
        };
        let first = self.runs.get(at).map_or(&[][..], |run| &run.records[place..]);
        let others = self.runs.get(at + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flat_map(|run| &run.records))
    }

    /// All records, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.runs.iter().flat_map(|run| &run.records)
    }

    /// Panics where it contradicts itself.
    pub fn check_invariants(&self) {
        assert!(self.runs.iter().all(|run| (1..RUN_MAX).contains(&run.len())), "a run is empty or too long");
        assert!(self.iter().is_sorted_by(|one, next| one.key_bytes() < next.key_bytes()), "keys out of order");
        assert_eq!(self.len, self.iter().count(), "records were miscounted");
        for run in &self.runs {
            let marks = run.records.iter().map(|stored| Mark::of(stored.key_bytes()));
            assert!(marks.eq(run.marks.iter().copied()), "a record has another key's mark");
        }
    }

    /// Where the run is that has `key`, or would have it.
    #[inline]
    fn run_of(&self, key: &[u8]) -> usize {
        // The first run's first key decides nothing: what is below it goes there too.
        let others = self.runs.get(1..).unwrap_or_default();
        others.partition_point(|run| run.records[0].key_bytes() <= key)
    }

    /// Joins a run with a neighbour, where they are few enough together.
    fn maybe_join(&mut self, at: usize) {
        let length = |nth: usize| self.runs.get(nth).map_or(RUN_MAX, Run::len);
        let first = if length(at) + length(at + 1) <= JOIN_MAX {
            at
        } else if at > 0 && length(at - 1) + length(at) <= JOIN_MAX {
            at - 1
        } else {
            return;
        };
        let upper = self.runs.remove(first + 1);
        self.runs[first].append(upper);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::Key;
    use crate::base::{Blob, Rng, Version};
    use crate::store::Record;

    fn stored(key: &str, version: u64) -> Stored {
        let key: Key = key.parse().expect("a key");
        let value = Blob::from_static(b"v");
        Stored::new(&key, Record { value, content_type: None, version: Version(version), expires_at: None })
    }

    fn keys<'a>(records: impl Iterator<Item = &'a Stored>) -> Vec<(String, u64)> {
        records.map(|stored| (stored.key().to_string(), stored.version().0)).collect()
    }

    /// Grows, shrinks and grows again, and is at each step what a map of the standard library is.
    #[test]
    fn it_is_an_ordered_map() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for step in 0..3_000 {
                let key = format!("key {}", rng.below(600));
                let shrinks = (step / 700) % 2 == 1;
                if rng.below(10) < if shrinks { 8 } else { 2 } {
                    assert_eq!(index.take(key.as_bytes()).map(|stored| stored.version().0), model.remove(&key));
                } else {
                    let before = index.replace(stored(&key, step));
                    assert_eq!(before.map(|stored| stored.version().0), model.insert(key.clone(), step));
                }
                assert_eq!(index.find(key.as_bytes()).map(|stored| stored.version().0), model.get(&key).copied());
                assert_eq!((index.len(), index.is_empty()), (model.len(), model.is_empty()));
                if step % 50 == 0 {
                    index.check_invariants();
                    let all: Vec<(String, u64)> = model.iter().map(|(key, version)| (key.clone(), *version)).collect();
                    assert_eq!(keys(index.iter()), all);
                    let bounds = [Bound::Included(&*key), Bound::Excluded(&*key), Bound::Unbounded];
                    for bound in bounds {
                        let expected = model.range::<str, _>((bound, Bound::Unbounded));
                        let expected: Vec<(String, u64)> =
                            expected.map(|(key, version)| (key.clone(), *version)).collect();
                        assert_eq!(keys(index.range(bound.map(str::as_bytes))), expected);
                    }
                }
            }
            for key in model.keys() {
                assert!(index.take(key.as_bytes()).is_some());
                index.check_invariants();
            }
            assert!(index.is_empty() && index.runs.is_empty(), "an empty table keeps no runs");
        }
    }

    /// With 16 bits each, a few hundred of 20,000 keys in one table share a mark with another key of their run.
    #[test]
    fn keys_with_one_mark_are_told_apart() {
        let name = |nth: u64| format!("key {nth}");
        let mut index = Index::default();
        for nth in 0..20_000 {
            assert!(index.replace(stored(&name(nth), nth)).is_none(), "{nth} was taken for another");
        }
        index.check_invariants();
        let shares_mark = |run: &Run| (1..run.len()).any(|place| run.marks[..place].contains(&run.marks[place]));
        assert!(index.runs.iter().filter(|run| shares_mark(run)).count() > 2, "no two keys shared a mark");
        for nth in 0..20_000 {
            assert_eq!(index.find(name(nth).as_bytes()).map(|stored| stored.version().0), Some(nth));
        }
    }

    #[test]
    fn runs_are_mostly_full() {
        let mut rng = Rng::new(7);
        let mut index = Index::default();
        for nth in 0..5_000 {
            index.replace(stored(&format!("{:016x}", rng.bits()), nth));
        }
        let room: usize = index.runs.iter().map(|run| run.records.capacity()).sum();
        assert!(room * 4 < index.len() * 5, "room for {room} for {} records", index.len());
    }
}
