//! Records in the order of their keys, in little more memory than a handle each.
//!
//! They lie in sorted *runs* of up to [`RUN_MAX`] handles. A run that is full is split in two; neighbours that have both
//! become small are joined. Two binary searches find a key: the first by the runs' first keys, the second within one
//! run. It is a tree of two levels; with thousands of partitions a table is seldom large enough for a third. Nodes of a
//! B-tree would be two thirds full, and a third of a small record's overhead would be that.
//!
//! Invariants ([`Index::check_invariants`]): no run is empty or longer than [`RUN_MAX`]; keys rise strictly.

use std::ops::Bound;

use super::Stored;

/// So many handles a run holds at most: what a cheap move of memory is.
const RUN_MAX: usize = 64;
/// Neighbours of so few together are joined: with room left, so that they aren't split again at once.
const JOIN_MAX: usize = RUN_MAX / 2;
/// By so many handles a run grows when its memory is full. Doubling would leave a quarter unused.
const GROWTH: usize = 8;

/// A set of records with one for each key.
#[derive(Clone, Debug, Default)]
pub struct Index {
    runs: Vec<Vec<Stored>>,
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
        run.get(place_in(run, key).ok()?)
    }

    /// Puts in a record; what it takes the place of.
    pub fn replace(&mut self, stored: Stored) -> Option<Stored> {
        let at = self.run_of(stored.key_bytes());
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(vec![stored]);
            self.len += 1;
            return None;
        };
        match place_in(run, stored.key_bytes()) {
            Ok(place) => Some(std::mem::replace(&mut run[place], stored)),
            Err(place) => {
                if run.len() == run.capacity() {
                    run.reserve_exact(GROWTH);
                }
                run.insert(place, stored);
                self.len += 1;
                if run.len() == RUN_MAX {
                    let upper = run.split_off(RUN_MAX / 2);
                    run.shrink_to(RUN_MAX / 2 + GROWTH);
                    self.runs.insert(at + 1, upper);
                }
                None
            }
        }
    }

    /// Takes out the record of `key`.
    pub fn take(&mut self, key: &[u8]) -> Option<Stored> {
        let at = self.run_of(key);
        let run = self.runs.get_mut(at)?;
        let taken = run.remove(place_in(run, key).ok()?);
        self.len -= 1;
        if run.is_empty() {
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
                let place = match (self.runs.get(at).map(|run| place_in(run, key)), start) {
                    (Some(Ok(place)), Bound::Excluded(_)) => place + 1,
                    (Some(Ok(place) | Err(place)), _) => place,
                    (None, _) => 0,
                };
                (at, place)
            }
        };
        let first = self.runs.get(at).map_or(&[][..], |run| &run[place..]);
        let others = self.runs.get(at + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flatten())
    }

    /// All records, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.runs.iter().flatten()
    }

    /// Panics where it contradicts itself.
    pub fn check_invariants(&self) {
        assert!(self.runs.iter().all(|run| (1..RUN_MAX).contains(&run.len())), "a run is empty or too long");
        assert!(self.iter().is_sorted_by(|one, next| one.key_bytes() < next.key_bytes()), "keys out of order");
        assert_eq!(self.len, self.iter().count(), "records were miscounted");
    }

    /// Where the run is that has `key`, or would have it.
    fn run_of(&self, key: &[u8]) -> usize {
        self.runs.partition_point(|run| run[0].key_bytes() <= key).saturating_sub(1)
    }

    /// Joins a run with a neighbour, where they are few enough together.
    fn maybe_join(&mut self, at: usize) {
        let length = |nth: usize| self.runs.get(nth).map_or(RUN_MAX, Vec::len);
        let first = if length(at) + length(at + 1) <= JOIN_MAX {
            at
        } else if at > 0 && length(at - 1) + length(at) <= JOIN_MAX {
            at - 1
        } else {
            return;
        };
        let upper = self.runs.remove(first + 1);
        self.runs[first].extend(upper);
    }
}

fn place_in(run: &[Stored], key: &[u8]) -> Result<usize, usize> {
    run.binary_search_by(|stored| stored.key_bytes().cmp(key))
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

    #[test]
    fn runs_are_mostly_full() {
        let mut rng = Rng::new(7);
        let mut index = Index::default();
        for nth in 0..5_000 {
            index.replace(stored(&format!("{:016x}", rng.bits()), nth));
        }
        let room: usize = index.runs.iter().map(Vec::capacity).sum();
        assert!(room * 4 < index.len() * 5, "room for {room} for {} records", index.len());
    }
}
