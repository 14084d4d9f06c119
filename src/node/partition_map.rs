//! Who holds which partition, for people: what `/v1/cluster/map` and `/v1/locate/{key}` show.
//!
//! It is made of a [`View`], which whoever asks holds anyway, so the control core has nothing to do with it. Thousands of
//! partitions share a few states: each state is written once, and each partition names the place of its own.

use std::collections::BTreeMap;

use super::View;
use crate::api::{Key, Location, PartitionMap, PartitionState};
use crate::base::{PartitionRecord, Slot, SlotSet};
use crate::placement;

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

    /// Where `key` lives; the nodes are called `names`, by slot. None while no cluster is known.
    #[must_use]
    pub fn locate(&self, key: &Key, names: &[String]) -> Option<Location> {
        let partitions = u16::try_from(self.table.len()).ok().filter(|partitions| *partitions > 0)?;
        let partition = placement::partition_of(key.as_bytes(), partitions);
        let record = self.record(partition)?;
        let owners = placement::owners(partition, self.roster.staying(), self.roster.replicas);
        let name = |slot: Slot| names.get(slot.index()).cloned().unwrap_or_else(|| slot.to_string());
        let all = |slots: SlotSet| slots.iter().map(name).collect();
        Some(Location {
            key: key.as_str().to_owned(),
            partition: partition.0,
            primary: record.primary.map(name),
            in_sync: all(record.in_sync),
            learners: all(record.learners),
            owners: owners.iter().map(name).collect(),
            lost: record.is_lost(),
        })
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
    use crate::control::Roster;

    #[test]
    fn a_key_is_where_its_partition_is() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let key = Key::new(b"greeting").expect("a key");
        assert_eq!(View::default().locate(&key, &names), None, "no cluster is known");
        let record = |primary: u8| PartitionRecord {
            primary: Some(Slot(primary)),
            in_sync: SlotSet::from_iter([Slot(primary), Slot(2)]),
            ..PartitionRecord::default()
        };
        let partition = placement::partition_of(b"greeting", 4);
        let table: Vec<_> = (0..4).map(|number| record(u8::from(number == partition.0))).collect();
        let roster = Roster { slots: SlotSet::first(3), replicas: 2, ..Roster::default() };
        let view = View { table: table.into(), roster, ..View::default() };
        let found = view.locate(&key, &names).expect("there is a cluster");
        assert_eq!((found.key.as_str(), found.partition, found.lost), ("greeting", partition.0, false));
        assert_eq!((found.primary.as_deref(), &found.in_sync[..]), (Some("b"), &["b".to_owned(), "c".to_owned()][..]));
        let owners = placement::owners(partition, SlotSet::first(3), 2);
        assert_eq!(found.owners, owners.iter().map(|slot| names[slot.index()].clone()).collect::<Vec<_>>());
    }

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
