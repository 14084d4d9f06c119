//! What owners and maps promise, for small clusters exhaustively.

use proptest::prelude::*;

use super::*;
use crate::base::Options;

/// How far apart the counts of `nodes` members are, as a share of their average.
fn spread(counts: &[usize]) -> f64 {
    let average = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    let (most, least) = (counts.iter().max().expect("a node"), counts.iter().min().expect("a node"));
    (most - least) as f64 / average
}

fn members_of(map: &PlacementMap, nodes: usize, count: impl Fn(&PlacementMap, Slot) -> usize) -> Vec<usize> {
    (0..nodes).map(|slot| count(map, Slot(slot as u8))).collect()
}

/// Values written down once. A change of any of them would move data in every running cluster at its next upgrade.
#[test]
fn the_owners_of_a_partition_never_change() {
    let table: [(u16, usize, u8, &[u8]); 6] = [
        (0, 3, 2, &[1, 2]),
        (1, 3, 3, &[0, 1, 2]),
        (2, 5, 3, &[0, 4, 2]),
        (4095, 5, 3, &[3, 2, 4]),
        (7, 16, 9, &[14, 8, 13, 7, 12, 9, 2, 15, 4]),
        (16_383, 64, 4, &[28, 34, 50, 63]),
    ];
    for (partition, nodes, replicas, expected) in table {
        let owners = owners(PartitionId(partition), SlotSet::first(nodes), replicas);
        let slots: Vec<u8> = owners.iter().map(|slot| slot.0).collect();
        assert_eq!(slots, expected, "partition {partition} of {nodes} nodes");
    }
}

/// Every number of nodes and of copies, more copies than nodes included: it ends, and nobody owns a partition twice.
#[test]
fn owners_are_distinct_members_for_every_number_of_nodes_and_copies() {
    for nodes in 0..=limits::NODES_MAX {
        let members = SlotSet::first(nodes);
        for replicas in [0, 1, 2, 3, nodes.saturating_sub(1), nodes, nodes + 1, 255] {
            for partition in 0..64 {
                let owners = owners(PartitionId(partition), members, replicas as u8);
                assert_eq!(owners.len(), replicas.min(nodes), "{nodes} nodes, {replicas} copies: {owners:?}");
                assert_eq!(owners.set().len(), owners.len(), "{owners:?} names a slot twice");
                assert!(owners.set().is_subset(members), "{owners:?} names a slot beyond {nodes}");
            }
        }
    }
}

/// With one member at the far end of the row and 63 unused slots, salting alone finds it once in 64 times: most
/// partitions go through the fallback, for the first owner already.
#[test]
fn members_that_salts_hardly_ever_meet_are_found_in_order() {
    let lonely = SlotSet::EMPTY.with(Slot(63));
    assert!((0..4096).all(|number| owners(PartitionId(number), lonely, 3).as_slice() == [Slot(63)]));
    let two = lonely.with(Slot(62));
    assert!((0..4096).all(|number| owners(PartitionId(number), two, 3).set() == two));
}

#[test]
fn the_fallback_takes_the_next_free_slot_and_wraps_around() {
    let free: SlotSet = [Slot(1), Slot(4)].into_iter().collect();
    let table = [(0, 1), (1, 4), (3, 4), (4, 1), (63, 1)];
    for (slot, expected) in table {
        assert_eq!(next_after(Slot(slot), free), Slot(expected), "after {slot}");
    }
}

#[test]
fn primaries_spread_within_10_percent() {
    for nodes in 2..=17 {
        let map = PlacementMap::derive(4096, SlotSet::first(nodes), 1);
        let primaries = members_of(&map, nodes, PlacementMap::primaries_of);
        assert!(spread(&primaries) <= 0.10, "{nodes} nodes: {primaries:?}");
    }
}

#[test]
fn copies_spread_evenly() {
    for nodes in 2..=17 {
        for replicas in [2, 3, Options::replicas_auto(nodes)] {
            let map = PlacementMap::derive(4096, SlotSet::first(nodes), replicas);
            let copies = members_of(&map, nodes, PlacementMap::copies_of);
            assert!(spread(&copies) <= 0.13, "{nodes} nodes, {replicas} copies: {copies:?}");
        }
    }
}

/// Without a chosen seed to help, the spread is that of a random choice; five standard deviations either way.
#[test]
fn other_numbers_of_partitions_spread_like_a_random_choice() {
    for partitions in [64, 256, 1000, 16_384] {
        for nodes in [3, 5, 16] {
            let map = PlacementMap::derive(partitions, SlotSet::first(nodes), 1);
            let average = f64::from(partitions) / nodes as f64;
            for count in members_of(&map, nodes, PlacementMap::primaries_of) {
                let off = (count as f64 - average).abs();
                assert!(off <= 5.0 * average.sqrt(), "{count} of {partitions} partitions on one of {nodes} nodes");
            }
        }
    }
}

/// Whoever loses a node next must not find its load on one neighbour: the backups of one node's primaries are spread
/// over all the others.
#[test]
fn the_backups_of_a_node_are_all_the_others() {
    let nodes = 5;
    let map = PlacementMap::derive(4096, SlotSet::first(nodes), 3);
    let mut next = vec![0; nodes];
    for (_, owners) in map.iter().filter(|(_, owners)| owners.primary() == Some(Slot(0))) {
        next[owners.as_slice()[1].index()] += 1;
    }
    assert_eq!(next[0], 0);
    assert!(spread(&next[1..]) < 0.35, "{next:?}");
}

#[test]
fn a_map_tells_what_owners_tells() {
    let members = SlotSet::first(7);
    let map = PlacementMap::derive(300, members, 4);
    assert_eq!(map.partitions(), 300);
    for (partition, found) in map.iter() {
        assert_eq!(*found, owners(partition, members, 4));
        assert_eq!(map.owners(partition), found);
    }
    assert_eq!((0..7).map(|slot| map.primaries_of(Slot(slot))).sum::<usize>(), 300);
    assert_eq!((0..7).map(|slot| map.copies_of(Slot(slot))).sum::<usize>(), 1200);
}

fn some_members() -> impl Strategy<Value = SlotSet> {
    proptest::collection::vec(0_u8..16, 1..16).prop_map(|slots| slots.into_iter().map(Slot).collect())
}

/// At most two slots unused, so that the fallback (once in twelve million owners here) doesn't blur what is claimed.
fn members_with_few_gaps() -> impl Strategy<Value = SlotSet> {
    let gaps = proptest::collection::vec(0_u8..16, 0..=2);
    (5_usize..=16, gaps)
        .prop_map(|(slots, gaps)| gaps.into_iter().map(Slot).fold(SlotSet::first(slots), SlotSet::without))
}

proptest! {
    #[test]
    fn fewer_copies_are_the_beginning_of_more(number: u16, members in some_members(), replicas in 1_u8..20) {
        let (fewer, more) = (owners(PartitionId(number), members, replicas), owners(PartitionId(number), members, replicas + 1));
        prop_assert!(more.as_slice().starts_with(fewer.as_slice()), "{fewer:?} and {more:?}");
    }

    /// A member that goes moves only the partitions that it owned, and of their copies only its own, wherever it sits
    /// below the highest.
    #[test]
    fn a_member_that_goes_moves_only_what_it_owned(number: u16, members in members_with_few_gaps(), which: prop::sample::Index, replicas in 1_u8..3) {
        let slots: Vec<Slot> = members.iter().collect();
        let gone = slots[which.index(slots.len())];
        prop_assume!(slots.last() != Some(&gone));
        let (before, after) = (owners(PartitionId(number), members, replicas), owners(PartitionId(number), members.without(gone), replicas));
        if before.contains(gone) {
            prop_assert!(before.set().without(gone).is_subset(after.set()), "{before:?} became {after:?}");
        } else {
            prop_assert_eq!(before, after);
        }
    }

    /// With one more node, whoever owned a partition still does unless the new node came in.
    #[test]
    fn a_partition_that_the_new_node_does_not_get_stays(number: u16, nodes in 1_usize..16, replicas in 1_u8..6) {
        let newcomer = Slot(nodes as u8);
        let before = owners(PartitionId(number), SlotSet::first(nodes), replicas);
        let after = owners(PartitionId(number), SlotSet::first(nodes + 1), replicas);
        if before.len() == usize::from(replicas) && !after.contains(newcomer) {
            prop_assert_eq!(before, after);
        }
    }
}
