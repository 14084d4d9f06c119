//! Partitions that are given back to their target primaries.

use super::*;

/// A cluster of four whose slot 0 has restarted and been filled again; and a partition that is its own and led by another.
fn refilled() -> (ControlState, PartitionId) {
    let mut state = founded(4, 3);
    state.apply(LogIndex(2), &down(0, 1));
    state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
    let filled = (0..64).map(PartitionId).filter(|partition| state.table[partition.index()].learners.contains(Slot(0)));
    let changes = filled.map(|partition| InSyncChange { add: set(&[0]), ..of_primary(&state, partition) }).collect();
    state.apply(LogIndex(4), &Command::ChangeInSync(changes));
    let partition = (0..64).map(PartitionId).find(|partition| state.target_primary(*partition) == Some(Slot(0)));
    (state, partition.expect("some partition is its own"))
}

fn set(slots: &[u8]) -> SlotSet {
    slots.iter().map(|slot| Slot(*slot)).collect()
}

/// A change that asks for nothing, by the present primary of `partition`.
fn of_primary(state: &ControlState, partition: PartitionId) -> InSyncChange {
    let record = state.table[partition.index()];
    let proposer = record.primary.and_then(|primary| state.node(primary).node).expect("a primary");
    InSyncChange { partition, proposer, epoch: record.epoch, change: record.change, ..InSyncChange::default() }
}

fn change(state: &mut ControlState, change: InSyncChange) -> bool {
    state.apply(LogIndex(state.applied().0 + 1), &Command::ChangeInSync(vec![change]))
}

#[test]
fn the_target_primary_leads_and_the_former_one_stays_in_sync() {
    let (mut state, partition) = refilled();
    let before = state.table[partition.index()];
    let (from, misplaced) = (before.primary.expect("one leads"), state.misplaced());
    let give = InSyncChange { give_to: Some(Slot(0)), ..of_primary(&state, partition) };
    assert!(change(&mut state, give));
    let after = state.table[partition.index()];
    assert_eq!((after.primary, after.former, after.epoch), (Some(Slot(0)), Some(from), Epoch(5)));
    assert_eq!((after.in_sync, after.change), (before.in_sync, before.change.next()));
    assert_eq!(state.node(from).up_since, LogIndex(5), "its leases count once it knows");
    assert_eq!(state.misplaced(), misplaced - 1);
    assert!(!change(&mut state, give), "once");
}

#[test]
fn nobody_but_the_target_primary_is_given_anything_and_only_what_it_has() {
    let (state, partition) = refilled();
    let give = InSyncChange { give_to: Some(Slot(0)), ..of_primary(&state, partition) };
    let record = state.table[partition.index()];
    let other = record.in_sync.iter().find(|slot| *slot != Slot(0) && Some(*slot) != record.primary).expect("three");
    let refused = |mut state: ControlState, changed: InSyncChange| assert!(!change(&mut state, changed), "{changed:?}");
    refused(state.clone(), InSyncChange { give_to: Some(other), ..give });
    refused(state.clone(), InSyncChange { give_to: record.primary, ..give });
    refused(state.clone(), InSyncChange { give_to: Some(Slot(63)), ..give });
    refused(state.clone(), InSyncChange { proposer: node(other.0, 1), ..give });
    refused(state.clone(), InSyncChange { change: ChangeNumber(record.change.0 - 1), ..give });
    refused(state.clone(), InSyncChange { remove: set(&[other.0]), ..give });
    let mut lacking = state.clone();
    lacking.table[partition.index()].in_sync.remove(Slot(0));
    refused(lacking, give);
    let mut down = state;
    down.nodes[0].up = false;
    assert!(!down.on_given_back(Epoch(5), &give), "it is down");
}

#[test]
fn a_former_primary_that_is_no_owner_stays_until_the_new_epoch_has_begun() {
    let (mut state, partition) = refilled();
    let owners = state.owners(partition).set();
    let stand_in = (0..4).map(Slot).find(|slot| !owners.contains(*slot)).expect("three of four own it");
    let record = &mut state.table[partition.index()];
    (record.primary, record.in_sync) = (Some(stand_in), record.in_sync.with(stand_in));
    let give = InSyncChange { give_to: Some(Slot(0)), ..of_primary(&state, partition) };
    assert!(change(&mut state, give));
    let former = |state: &ControlState| {
        let record = state.table[partition.index()];
        (record.former, record.in_sync.contains(stand_in))
    };
    let (before, after) = (state.roster(), Roster { replicas: 3, draining: set(&[stand_in.0]), ..state.roster() });
    assert!(state.apply(LogIndex(6), &Command::SetRoster { before, after }));
    assert_eq!(former(&state), (Some(stand_in), true), "another change doesn't dismiss it");
    let begun = of_primary(&state, partition);
    let mut evicted = state.clone();
    assert!(change(&mut evicted, InSyncChange { remove: set(&[stand_in.0]), ..begun }));
    assert_eq!(former(&evicted), (None, false), "the leader sees to it that this doesn't come too early");
    assert!(change(&mut state, begun));
    assert_eq!(former(&state), (None, false));
}

#[test]
fn a_former_primary_outlives_its_successor_and_may_lead_again() {
    let (mut state, partition) = refilled();
    let from = state.table[partition.index()].primary.expect("one leads");
    let give = InSyncChange { give_to: Some(Slot(0)), ..of_primary(&state, partition) };
    assert!(change(&mut state, give));
    state.apply(LogIndex(6), &down(0, 2));
    let record = state.table[partition.index()];
    assert_eq!(record.former, Some(from).filter(|_| record.primary != Some(from)));
    assert!(record.in_sync.contains(from) && !record.in_sync.contains(Slot(0)));
    state.apply(LogIndex(7), &down(from.0, 1));
    assert_eq!(state.table[partition.index()].former, None, "it is in sync no more");
}

/// Slot `slot`, in its first life, is told to stop.
fn told_to_stop(mut state: ControlState, slot: u8) -> ControlState {
    let next = LogIndex(state.applied().0 + 1);
    assert!(state.apply(next, &Command::Stopping { node: node(slot, 1) }));
    state
}

#[test]
fn one_that_stops_gives_what_it_leads_to_whoever_has_it_and_is_given_nothing() {
    let mut state = told_to_stop(founded(4, 3), 1);
    assert_eq!(state.stopping(), set(&[1]));
    let led = (0..64).map(PartitionId).find(|partition| state.table[partition.index()].primary == Some(Slot(1)));
    let led = led.expect("it leads something");
    let record = state.table[led.index()];
    let other = record.in_sync.without(Slot(1)).lowest().expect("a backup");
    let outside = (0..4).map(Slot).find(|slot| !record.in_sync.contains(*slot)).expect("three of four have it");
    let give = InSyncChange { give_to: Some(other), ..of_primary(&state, led) };
    assert!(!change(&mut state.clone(), InSyncChange { give_to: Some(outside), ..give }), "who lacks it");
    assert!(change(&mut state, give));
    assert_eq!((state.table[led.index()].primary, state.table[led.index()].former), (Some(other), Some(Slot(1))));
    assert!(!state.leads_nothing(Slot(1)), "it may not know yet that it leads that no more");
    let back = InSyncChange { give_to: Some(Slot(1)), ..of_primary(&state, led) };
    assert!(!change(&mut state, back), "it stops, though it is the target");
}

#[test]
fn one_that_stops_may_go_once_it_leads_nothing_and_a_witness_has_what_it_holds() {
    let mut state = told_to_stop(founded(3, 2), 1);
    let all = SlotSet::first(3);
    assert!(!state.may_go(Slot(1), all), "it leads");
    for partition in (0..64).map(PartitionId) {
        let record = state.table[partition.index()];
        if record.primary == Some(Slot(1)) {
            let give_to = record.in_sync.without(Slot(1)).lowest();
            let give = InSyncChange { give_to, ..of_primary(&state, partition) };
            assert!(change(&mut state, give));
            assert!(!state.may_go(Slot(1), all), "it was the primary of {partition} until now");
            let begun = of_primary(&state, partition);
            assert!(change(&mut state, begun), "the new one serves");
        }
    }
    assert!(state.may_go(Slot(1), all) && !state.may_go(Slot(0), all), "nobody else was told to stop");
    assert!(!state.may_go(Slot(1), set(&[1, 2])), "what it has with n1 alone, n1 may have lost");
    assert!(!state.is_gone(node(1, 1)));
    let next = LogIndex(state.applied().0 + 1);
    state.apply(next, &down(1, 1));
    assert!(state.is_gone(node(1, 1)) && state.stopping().is_empty());
    state.apply(LogIndex(next.0 + 1), &Command::NodeUp { node: node(1, 2) });
    assert!(!state.node(Slot(1)).stopping, "its next life isn't told to stop");
}
