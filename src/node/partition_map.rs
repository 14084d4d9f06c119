//! Who holds which partition, for people: what `/v1/cluster/map` shows.
//!
//! It is made of a [`View`], which whoever asks holds anyway, so the control core has nothing to do with it. Thousands of
//! partitions share a few states: each state is written once, and each partition names the place of its own.

use std::collections::BTreeMap;

use super::View;
use crate::api::{PartitionMap, PartitionState};
use crate::base::{PartitionRecord, Slot, SlotSet};

impl View {
    /// The partition table; the nodes are called `names`, by slot.
    #[must_use]
    pub fn partition_map(&self, names: &[String]) -> PartitionMap {
        let mut places: BTreeMap<(Option<Slot>, SlotSet, SlotSet, bool), u16> = BTreeMap::new();
        let mut states = Vec::new();
        let place = |record: &PartitionRecord| {
            let state = (record.primary, record.in_sync, record.learners, record.is_lost());
            *places.entry(state).or_insert_with(|| {
                states.push(state_of(record));
                // There are no more states than partitions, whose numbers have as many bits.
                (states.len() - 1) as u16
            })
        };
        let partitions = self.table.iter().map(place).collect();
        PartitionMap { generation: self.generation.0, index: self.applied.0, nodes: names.to_vec(), states, partitions }
    }
}

fn state_of(record: &PartitionRecord) -> PartitionState {
    let numbers = |slots: SlotSet| slots.iter().map(|slot| slot.0).collect();
    PartitionState {
        primary: record.primary.map(|slot| slot.0),
        in_sync: numbers(record.in_sync),
        learners: numbers(record.learners),
        lost: record.is_lost(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, LogIndex};

    #[test]
    fn partitions_that_are_alike_share_a_state() {
        let held = |primary: Option<u8>, in_sync: &[u8], learners: &[u8]| PartitionRecord {
            epoch: Epoch(1),
            primary: primary.map(Slot),
            in_sync: in_sync.iter().copied().map(Slot).collect(),
            learners: learners.iter().copied().map(Slot).collect(),
            ..PartitionRecord::default()
        };
        let table = [
            held(Some(0), &[0, 1], &[]),
            held(Some(1), &[0, 1], &[2]),
            held(Some(0), &[0, 1], &[]),
            held(None, &[], &[]),
        ];
        let view = View { table: table.into(), applied: LogIndex(7), ..View::default() };
        let map = view.partition_map(&["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        assert_eq!((map.index, map.partitions), (7, vec![0, 1, 0, 2]));
        let state = |primary, in_sync: &[u8], learners: &[u8], lost| PartitionState {
            primary,
            in_sync: in_sync.to_vec(),
            learners: learners.to_vec(),
            lost,
        };
        let expected =
            [state(Some(0), &[0, 1], &[], false), state(Some(1), &[0, 1], &[2], false), state(None, &[], &[], true)];
        assert_eq!(map.states, expected);
    }
}
