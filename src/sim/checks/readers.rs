//! Who may answer reads of which partition, as somebody outside sees it: never two nodes at once.
//!
//! This is stronger than any history of clients. A second reader is found at the moment when it comes into being, whether
//! or not somebody asks it just then, and with the time of the world instead of anybody's clock.

use crate::base::{Instant, PartitionId, Slot};

/// What each slot's node may answer reads of, and until when in the world's time unless it hears something before.
#[derive(Debug)]
pub(in crate::sim) struct Readers {
    by_slot: Vec<Vec<Instant>>,
}

impl Readers {
    pub(in crate::sim) fn new(slots: usize, partitions: u16) -> Self {
        Self { by_slot: vec![vec![Instant::ZERO; usize::from(partitions)]; slots] }
    }

    /// The process of `slot` is dead.
    pub(in crate::sim) fn handle_death(&mut self, slot: Slot) {
        self.by_slot[slot.index()].fill(Instant::ZERO);
    }

    /// The node in `slot` has handled an input and may answer reads of `partition` until then. In words, where somebody
    /// else may, too.
    pub(in crate::sim) fn update(
        &mut self,
        now: Instant,
        slot: Slot,
        partition: PartitionId,
        until: Instant,
    ) -> Result<(), String> {
        let known = &mut self.by_slot[slot.index()][partition.index()];
        if *known == until {
            return Ok(());
        }
        *known = until;
        if until <= now {
            return Ok(());
        }
        let others = self.by_slot.iter().enumerate().filter(|(other, _)| *other != slot.index());
        let second = others.map(|(other, theirs)| (other, theirs[partition.index()])).find(|(_, theirs)| now < *theirs);
        match second {
            Some((other, theirs)) => {
                let other = Slot(other as u8);
                Err(format!("at {now} {slot} answers reads of {partition} until {until}, and {other} until {theirs}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_reader_is_found_even_if_the_first_stands_still() {
        let mut readers = Readers::new(2, 8);
        let mut update = |now, slot, until| readers.update(Instant(now), Slot(slot), PartitionId(3), Instant(until));
        assert_eq!(update(10, 0, 50), Ok(()));
        assert_eq!(update(50, 1, 90), Ok(()));
        assert_eq!(update(60, 0, 50), Ok(()));
        assert!(update(89, 0, 120).is_err());
    }
}
