//! Who may answer reads of which partition, as somebody outside sees it: never two nodes at once.
//!
//! This is stronger than any history of clients. A second reader is found at the moment when it comes into being, whether
//! or not somebody asks it just then, and with the time of the world instead of anybody's clock.

use std::collections::BTreeMap;

use crate::base::{Instant, PartitionId, Slot};

/// What each slot's node may answer reads of, and until when in the world's time unless it hears something before.
#[derive(Debug)]
pub(super) struct Readers {
    by_slot: Vec<BTreeMap<PartitionId, Instant>>,
}

impl Readers {
    pub(super) fn new(slots: usize) -> Self {
        Self { by_slot: vec![BTreeMap::new(); slots] }
    }

    /// The process of `slot` is dead.
    pub(super) fn handle_death(&mut self, slot: Slot) {
        self.by_slot[slot.index()].clear();
    }

    /// The node in `slot` has handled an input and may answer these reads now. In words, where somebody else may, too.
    pub(super) fn update(
        &mut self,
        now: Instant,
        slot: Slot,
        may_read: BTreeMap<PartitionId, Instant>,
    ) -> Option<String> {
        let second = |partition: &PartitionId| {
            let others = self.by_slot.iter().enumerate().filter(|(other, _)| *other != slot.index());
            let mut until = others.filter_map(|(other, theirs)| Some((Slot(other as u8), *theirs.get(partition)?)));
            until.find(|(_, until)| now < *until)
        };
        let mut lasting = may_read.iter().filter(|(_, until)| now < **until);
        let both = lasting.find_map(|(partition, until)| Some((partition, until, second(partition)?)));
        let words = both.map(|(partition, until, (other, theirs))| {
            format!("at {now} {slot} answers reads of {partition} until {until}, and {other} until {theirs}")
        });
        self.by_slot[slot.index()] = may_read;
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_reader_is_found_even_if_the_first_stands_still() {
        let mut readers = Readers::new(2);
        let may_read = |until| BTreeMap::from([(PartitionId(3), Instant(until))]);
        assert_eq!(readers.update(Instant(10), Slot(0), may_read(50)), None);
        assert_eq!(readers.update(Instant(50), Slot(1), may_read(90)), None);
        assert_eq!(readers.update(Instant(60), Slot(0), may_read(50)), None);
        assert!(readers.update(Instant(89), Slot(0), may_read(120)).is_some());
    }
}
