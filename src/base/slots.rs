//! A set of slots in one word.

use std::fmt;

use bincode::{Decode, Encode};

use super::{Slot, limits};

/// A set of slots, one bit each; iteration is in rising order, so it is the same on every node.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SlotSet(u64);

impl SlotSet {
    /// No slot.
    pub const EMPTY: Self = Self(0);

    /// The slots 0 to `count`, without `count`.
    #[must_use]
    pub fn first(count: usize) -> Self {
        (0..count).map(|slot| Slot(slot as u8)).collect()
    }

    /// Whether `slot` is in it.
    #[must_use]
    pub const fn contains(self, slot: Slot) -> bool {
        (slot.0 as usize) < limits::NODES_MAX && self.0 >> slot.0 & 1 == 1
    }

    /// Puts `slot` in; true when it was not in before.
    pub fn insert(&mut self, slot: Slot) -> bool {
        assert!(slot.index() < limits::NODES_MAX, "{slot} is beyond the {} slots of a set", limits::NODES_MAX);
        let before = self.0;
        self.0 |= 1 << slot.0;
        self.0 != before
    }

    /// Takes `slot` out; true when it was in.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let was_in = self.contains(slot);
        if was_in {
            self.0 &= !(1 << slot.0);
        }
        was_in
    }

    /// This set with `slot`.
    #[must_use]
    pub fn with(mut self, slot: Slot) -> Self {
        self.insert(slot);
        self
    }

    /// This set without `slot`.
    #[must_use]
    pub fn without(mut self, slot: Slot) -> Self {
        self.remove(slot);
        self
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether everything in this one is in `other`.
    #[must_use]
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// How many are in it.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest slot in it.
    #[must_use]
    pub fn lowest(self) -> Option<Slot> {
        self.iter().next()
    }

    /// Its slots in rising order.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let slot = bits.trailing_zeros();
            bits &= bits - 1;
            Some(Slot(slot as u8))
        })
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::EMPTY;
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (nth, slot) in self.iter().enumerate() {
            write!(f, "{}{slot}", if nth == 0 { "" } else { " " })?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_gives_it_back_in_order() {
        let mut set: SlotSet = [Slot(63), Slot(0), Slot(5)].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Slot(0), Slot(5), Slot(63)]);
        assert!(!set.insert(Slot(5)) && set.remove(Slot(5)) && !set.remove(Slot(5)));
        assert_eq!((set.len(), set.lowest()), (2, Some(Slot(0))));
        assert!(!set.contains(Slot(200)), "a slot beyond the set is in no set");
        assert_eq!(format!("{set:?}"), "{s1 s64}");
    }
}
