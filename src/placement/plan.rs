//! What a change of members moves.

use super::PlacementMap;
use crate::base::{PartitionId, Slot};

/// One copy of a partition that has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// Whose place the new copy takes; none where the partition gets a further copy. It needn't be the node that the
    /// bytes come from: the partition's primary sends them.
    pub from: Option<Slot>,
    /// Who gets the copy.
    pub to: Slot,
}

/// The difference between two maps.
///
/// For each partition the slots that come in are paired with those that go, both in rising order; what is left over is a
/// further copy or a dropped one.
///
/// From N to N + 1 nodes it is the least possible: primaries move only to the new node; with as many copies as before
/// copies do, too; and with one copy more of each partition no other copy is made than those. What the new node gets is
/// within 5 % of its share, at 4096 partitions and up to 16 nodes. (`replicas = "auto"` makes a copy more at each even number.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Copies to make, in rising order of partitions.
    pub moves: Vec<Move>,
    /// Copies to drop that nobody takes the place of: there are fewer copies than before.
    pub drops: Vec<(PartitionId, Slot)>,
    /// Partitions whose target primary changes, whether or not the new one has a copy already.
    pub primaries_moved: usize,
    /// Copies that the new map has in all.
    copies: usize,
    /// Partitions in either map.
    partitions: usize,
}

impl Plan {
    /// What has to be done to come from `old` to `new`.
    ///
    /// # Panics
    /// Where the maps have different numbers of partitions: a cluster's number is fixed when it is founded.
    #[must_use]
    pub fn between(old: &PlacementMap, new: &PlacementMap) -> Self {
        assert_eq!(
            old.partitions(),
            new.partitions(),
            "maps of different numbers of partitions have no plan between them"
        );
        let mut plan = Self { partitions: usize::from(new.partitions()), ..Self::default() };
        for ((partition, before), (_, after)) in old.iter().zip(new.iter()) {
            plan.copies += after.len();
            plan.primaries_moved += usize::from(before.primary() != after.primary());
            let (before, after) = (before.set(), after.set());
            let mut leaving = before.difference(after).iter();
            for to in after.difference(before).iter() {
                plan.moves.push(Move { partition, from: leaving.next(), to });
            }
            plan.drops.extend(leaving.map(|slot| (partition, slot)));
        }
        plan
    }

    /// Bytes that are sent, where `partition_bytes` tells how large one copy of each partition is. A partition beyond its
    /// end counts as empty.
    #[must_use]
    pub fn bytes(&self, partition_bytes: &[u64]) -> u64 {
        self.moves.iter().filter_map(|a_move| partition_bytes.get(a_move.partition.index())).sum()
    }

    /// Bytes that `slot` receives, counted like [`Plan::bytes`].
    #[must_use]
    pub fn bytes_to(&self, slot: Slot, partition_bytes: &[u64]) -> u64 {
        let to_slot = self.moves.iter().filter(|a_move| a_move.to == slot);
        to_slot.filter_map(|a_move| partition_bytes.get(a_move.partition.index())).sum()
    }

    /// The share of all copies that are made anew, 0 to 1. The ideal for one node more is 1/(N + 1).
    #[must_use]
    pub fn moved_share(&self) -> f64 {
        share(self.moves.len(), self.copies)
    }

    /// The share of partitions whose target primary changes, 0 to 1. The ideal for one node more is 1/(N + 1).
    #[must_use]
    pub fn primaries_moved_share(&self) -> f64 {
        share(self.primaries_moved, self.partitions)
    }

    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.drops.is_empty() && self.primaries_moved == 0
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Options, SlotSet};

    const PARTITIONS: u16 = 4096;

    fn map(members: SlotSet, replicas: u8) -> PlacementMap {
        PlacementMap::derive(PARTITIONS, members, replicas)
    }

    #[test]
    fn a_plan_pairs_those_who_come_with_those_who_go() {
        // Four nodes, of which the first is drained, with two copies.
        let (old, new) = (map(SlotSet::first(4), 2), map(SlotSet::first(4).without(Slot(0)), 2));
        let plan = Plan::between(&old, &new);
        assert_eq!(plan.moves.len(), old.copies_of(Slot(0)), "only what the drained node owned is made anew");
        assert_eq!(plan.primaries_moved, old.primaries_of(Slot(0)));
        assert!(plan.drops.is_empty());
        for a_move in &plan.moves {
            assert_eq!(a_move.from, Some(Slot(0)));
            assert!(
                new.owners(a_move.partition).contains(a_move.to) && !old.owners(a_move.partition).contains(a_move.to)
            );
        }
    }

    #[test]
    fn more_copies_are_further_ones_and_fewer_are_dropped() {
        let (two, three) = (map(SlotSet::first(5), 2), map(SlotSet::first(5), 3));
        let more = Plan::between(&two, &three);
        assert_eq!((more.moves.len(), more.drops.len(), more.primaries_moved), (4096, 0, 0));
        assert!(more.moves.iter().all(|a_move| a_move.from.is_none()));
        let fewer = Plan::between(&three, &two);
        assert_eq!((fewer.moves.len(), fewer.drops.len(), fewer.primaries_moved), (0, 4096, 0));
        assert!(!fewer.is_empty() && Plan::between(&two, &two).is_empty());
    }

    #[test]
    fn bytes_are_those_of_the_partitions_that_move() {
        let plan = Plan {
            moves: vec![
                Move { partition: PartitionId(0), from: None, to: Slot(1) },
                Move { partition: PartitionId(2), from: Some(Slot(0)), to: Slot(1) },
                Move { partition: PartitionId(2), from: Some(Slot(2)), to: Slot(3) },
                Move { partition: PartitionId(9), from: None, to: Slot(1) },
            ],
            ..Plan::default()
        };
        assert_eq!(plan.bytes(&[5, 70, 1000]), 2005);
        assert_eq!(plan.bytes_to(Slot(1), &[5, 70, 1000]), 1005);
    }

    #[test]
    fn primaries_move_within_5_percent_of_the_ideal() {
        for nodes in 1..=16 {
            let plan = Plan::between(&map(SlotSet::first(nodes), 1), &map(SlotSet::first(nodes + 1), 1));
            let ideal = 1.0 / (nodes + 1) as f64;
            let ratio = plan.primaries_moved_share() / ideal;
            assert!((0.95..=1.05).contains(&ratio), "{nodes} nodes and one more move {ratio} times the ideal");
            let newcomer = Slot(nodes as u8);
            assert!(plan.moves.iter().all(|a_move| a_move.to == newcomer), "a primary moved between old nodes");
        }
    }

    #[test]
    fn copies_move_no_more_than_they_must() {
        for nodes in 2..=16 {
            for (before, after) in [(2, 2), (2, 3), (Options::replicas_auto(nodes), Options::replicas_auto(nodes + 1))]
            {
                let plan = Plan::between(&map(SlotSet::first(nodes), before), &map(SlotSet::first(nodes + 1), after));
                let newcomer = Slot(nodes as u8);
                let to_newcomer = plan.moves.iter().filter(|a_move| a_move.to == newcomer).count();
                let share = to_newcomer as f64 / plan.copies as f64 * (nodes + 1) as f64;
                let case = format!("{nodes} nodes and one more, {before} copies and then {after}");
                assert!((0.95..=1.05).contains(&share), "{case}: the new one gets {share} of the ideal");
                let must = if before == after { to_newcomer } else { usize::from(PARTITIONS) };
                assert_eq!(plan.moves.len(), must, "{case}");
            }
        }
    }
}
