//! What owners and maps promise, for small clusters exhaustively.

use proptest::prelude::*;

use super::*;
use crate::base::Options;
use crate::placement::jump;

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
        (1, 3, 3, &[0, 2, 1]),
        (2, 5, 3, &[0, 1, 3]),
        (4095, 5, 3, &[3, 0, 1]),
        (7, 16, 9, &[14, 11, 9, 1, 7, 15, 2, 4, 13]),
        (16_383, 64, 4, &[28, 10, 37, 33]),
    ];
    let found = table.map(|(partition, nodes, replicas, _)| {
        let owners = owners(PartitionId(partition), SlotSet::first(nodes), replicas);
        owners.iter().map(|slot| slot.0).collect::<Vec<u8>>()
    });
    assert_eq!(found.each_ref().map(Vec::as_slice), table.map(|(_, _, _, expected)| expected));
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

/// However many slots below them are unused.
#[test]
fn members_at_the_far_end_are_found() {
    let lonely = SlotSet::EMPTY.with(Slot(63));
    assert!((0..4096).all(|number| owners(PartitionId(number), lonely, 3).as_slice() == [Slot(63)]));
    let two = lonely.with(Slot(62));
    let first = (0..4096).filter(|number| owners(PartitionId(*number), two, 1).contains(Slot(62))).count();
    assert!((1888..=2208).contains(&first), "{first} of 4096 partitions belong to one of two");
}

#[test]
fn the_first_of_members_without_gaps_is_the_jump_hash() {
    for nodes in 1..=limits::NODES_MAX {
        for number in 0..64 {
            let first = owners(PartitionId(number), SlotSet::first(nodes), 1).primary();
            assert_eq!(first, Some(Slot(jump(hash_partition(PartitionId(number), 0), nodes as u32) as u8)));
        }
    }
}

/// Each of four nodes is as often first, second, third and last.
#[test]
fn every_place_is_as_likely_for_every_slot() {
    let mut counts = [[0_usize; 4]; 4];
    for (_, owners) in PlacementMap::derive(4096, SlotSet::first(4), 4).iter() {
        for (place, slot) in owners.iter().enumerate() {
            counts[place][slot.index()] += 1;
        }
    }
    // Five standard deviations either way.
    assert!(counts.iter().flatten().all(|count| (884..=1164).contains(count)), "{counts:?}");
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

proptest! {
    #[test]
    fn fewer_copies_are_the_beginning_of_more(number: u16, members in some_members(), replicas in 1_u8..20) {
        let (fewer, more) = (owners(PartitionId(number), members, replicas), owners(PartitionId(number), members, replicas + 1));
        prop_assert!(more.as_slice().starts_with(fewer.as_slice()), "{fewer:?} and {more:?}");
    }

    /// A member that goes moves only the partitions that it owned, and of their copies only its own, wherever it sits.
    #[test]
    fn a_member_that_goes_moves_only_what_it_owned(number: u16, members in some_members(), which: prop::sample::Index, replicas in 1_u8..8) {
        let slots: Vec<Slot> = members.iter().collect();
        let gone = slots[which.index(slots.len())];
        let (before, after) = (owners(PartitionId(number), members, replicas), owners(PartitionId(number), members.without(gone), replicas));
        if before.contains(gone) {
            prop_assert!(before.set().without(gone).is_subset(after.set()), "{before:?} became {after:?}");
        } else {
            prop_assert_eq!(before, after);
        }
    }

    /// A member that comes takes one place, and whoever owned the partition stays in the same order; with a copy more,
    /// all of them do.
    #[test]
    fn a_member_that_comes_takes_one_place(number: u16, members in some_members(), newcomer in 0_u8..20, replicas in 1_u8..8) {
        prop_assume!(!members.contains(Slot(newcomer)));
        let before = owners(PartitionId(number), members, replicas);
        let after = owners(PartitionId(number), members.with(Slot(newcomer)), replicas);
        let old: Vec<Slot> = after.iter().filter(|slot| slot.0 != newcomer).collect();
        prop_assert!(before.as_slice().starts_with(&old), "{before:?} became {after:?}");
        let more = owners(PartitionId(number), members.with(Slot(newcomer)), replicas + 1);
        prop_assert!(before.set().is_subset(more.set()), "{before:?} became {more:?} with a copy more");
    }
}
