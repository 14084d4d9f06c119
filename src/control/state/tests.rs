//! The state of the cluster after given commands.

mod give_back;

use super::*;
use crate::base::Incarnation;

fn node(slot: u8, life: u128) -> NodeId {
    NodeId::new(Slot(slot), Incarnation(life))
}

/// The death of a node that everybody else outlives.
fn down(slot: u8, life: u128) -> Command {
    Command::NodeDown { node: node(slot, life), witnesses: SlotSet::first(7).without(Slot(slot)) }
}

fn founded(nodes: u8, replicas: u8) -> ControlState {
    let mut state = ControlState::default();
    let settings = Settings { partitions: 64, replicas, min_copies: 2 };
    let founders = (0..nodes).map(|slot| node(slot, 1)).collect();
    assert!(
        state.apply(LogIndex(1), &Command::Found { settings, slots: SlotSet::first(usize::from(nodes)), founders })
    );
    state
}

#[test]
fn a_founded_cluster_has_every_partition_in_full() {
    let state = founded(3, 2);
    for record in state.table() {
        assert_eq!((record.in_sync.len(), record.learners.len(), record.epoch), (2, 0, Epoch(1)));
        assert!(record.primary.is_some());
    }
}

#[test]
fn a_state_that_no_log_produces_is_not_sound() {
    let good = founded(3, 2);
    assert!(good.is_sound(LogIndex(1)) && ControlState::default().is_sound(LogIndex(0)));
    assert!(!good.is_sound(LogIndex(2)), "it stands for another entry");
    let breaks: [fn(&mut ControlState); 9] = [
        |state| state.nodes = vec![NodeEntry::default(); limits::NODES_MAX + 1],
        |state| state.nodes.swap(0, 1),
        |state| state.nodes[0].node = None,
        |state| state.nodes[0].up_since = LogIndex(2),
        |state| state.table.truncate(63),
        |state| state.settings = None,
        |state| state.table[0].epoch = Epoch(u64::MAX),
        |state| state.table[0].change = ChangeNumber(u64::MAX),
        |state| state.table[0].in_sync = SlotSet::EMPTY,
    ];
    for (nth, break_it) in breaks.into_iter().enumerate() {
        let mut state = good.clone();
        break_it(&mut state);
        assert!(!state.is_sound(LogIndex(1)), "break {nth}");
    }
}

#[test]
fn one_entry_promotes_a_backup_of_every_partition_that_the_dead_node_led() {
    let mut state = founded(3, 2);
    let led = state.table().iter().filter(|record| record.primary == Some(Slot(0))).count();
    assert!(led > 0 && state.apply(LogIndex(2), &down(0, 1)));
    let promoted = state.table().iter().filter(|record| record.epoch == Epoch(2)).count();
    assert_eq!(promoted, led, "only its partitions changed their primary");
    assert!(state.table().iter().all(|record| record.primary.is_some_and(|primary| primary != Slot(0))));
}

#[test]
fn a_partition_short_of_copies_is_filled_elsewhere_at_once_and_the_stand_in_leaves_when_the_owner_is_back() {
    let mut state = founded(3, 2);
    state.apply(LogIndex(2), &down(0, 1));
    let partition = state.table().iter().position(|record| record.in_sync.len() == 1).expect("some lost a copy");
    let record = state.table()[partition];
    assert_eq!(record.members(), SlotSet::EMPTY.with(Slot(1)).with(Slot(2)), "the third node stands in");
    let add = |state: &mut ControlState, index: u64, slot: u8| {
        let record = state.table()[partition];
        let change = InSyncChange {
            partition: PartitionId(partition as u16),
            proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
            epoch: record.epoch,
            change: record.change,
            add: SlotSet::EMPTY.with(Slot(slot)),
            remove: SlotSet::EMPTY,
            give_to: None,
        };
        assert!(state.apply(LogIndex(index), &Command::ChangeInSync(vec![change])));
    };
    let stand_in = record.learners.lowest().expect("one");
    add(&mut state, 3, stand_in.0);
    assert_eq!(state.table()[partition].in_sync.len(), 2);
    state.apply(LogIndex(4), &Command::NodeUp { node: node(0, 2) });
    add(&mut state, 5, 0);
    let record = state.table()[partition];
    assert!(record.in_sync.contains(Slot(0)) && !record.in_sync.contains(stand_in), "{record:?}");
}

#[test]
fn a_death_of_a_former_life_changes_nothing() {
    let mut state = founded(3, 2);
    assert!(!state.apply(LogIndex(2), &down(0, 7)));
    assert_eq!(state.up().len(), 3);
}

#[test]
fn a_new_life_learns_what_its_slot_should_hold_and_serves_nothing_before() {
    let mut state = founded(3, 2);
    let held: Vec<bool> = state.table().iter().map(|record| record.in_sync.contains(Slot(0))).collect();
    state.apply(LogIndex(2), &down(0, 1));
    state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
    for (record, held) in state.table().iter().zip(held) {
        assert!(!record.in_sync.contains(Slot(0)));
        assert_eq!(record.learners.contains(Slot(0)), held);
    }
}

#[test]
fn the_last_in_sync_life_is_waited_for_and_a_new_life_is_no_substitute() {
    let mut state = founded(2, 2);
    state.apply(LogIndex(2), &down(0, 1));
    state.apply(LogIndex(3), &down(1, 1));
    assert!(state.table().iter().all(|record| record.primary.is_none() && record.in_sync.contains(Slot(1))));

    let mut same = state.clone();
    same.apply(LogIndex(4), &Command::NodeUp { node: node(1, 1) });
    assert!(same.table().iter().all(|record| record.primary == Some(Slot(1)) && record.epoch == Epoch(4)));

    state.apply(LogIndex(4), &Command::NodeUp { node: node(1, 2) });
    assert!(state.table().iter().all(PartitionRecord::is_lost));
}

#[test]
fn who_is_silent_together_with_all_others_in_sync_keeps_its_place_and_its_copy_counts() {
    let mut state = founded(3, 2);
    let pair = SlotSet::EMPTY.with(Slot(0)).with(Slot(1));
    let partition = state.table().iter().position(|record| record.in_sync == pair).expect("some are theirs");
    // Both are silent. The second one is dead; the first one, declared down before it, only stood still.
    let only_third = SlotSet::EMPTY.with(Slot(2));
    state.apply(LogIndex(2), &Command::NodeDown { node: node(0, 1), witnesses: only_third });
    assert_eq!(state.table()[partition].in_sync, pair);
    state.apply(LogIndex(3), &Command::NodeDown { node: node(1, 1), witnesses: only_third });
    assert_eq!((state.table()[partition].in_sync, state.table()[partition].primary), (pair, None));
    state.apply(LogIndex(4), &Command::NodeUp { node: node(0, 1) });
    assert_eq!(state.table()[partition].primary, Some(Slot(0)));
    // Now that somebody in sync lives, the dead one can go.
    let witnesses = only_third.with(Slot(0));
    assert!(state.lingers(node(1, 1), witnesses) && !state.lingers(node(0, 1), witnesses));
    state.apply(LogIndex(5), &Command::NodeDown { node: node(1, 1), witnesses });
    assert_eq!(state.table()[partition].in_sync, SlotSet::EMPTY.with(Slot(0)));
    assert!(!state.lingers(node(1, 1), witnesses));
}

/// A partition that slot 0 learns, and the wish of its primary that it be in sync.
fn expansion(state: &ControlState) -> (usize, InSyncChange) {
    let partition = state.table().iter().position(|record| record.learners.contains(Slot(0))).expect("it learns some");
    let record = state.table()[partition];
    let primary = record.primary.expect("it has one");
    let change = InSyncChange {
        partition: PartitionId(partition as u16),
        proposer: state.node(primary).node.expect("registered"),
        epoch: record.epoch,
        change: record.change,
        add: SlotSet::EMPTY.with(Slot(0)),
        remove: SlotSet::EMPTY,
        give_to: None,
    };
    (partition, change)
}

#[test]
fn a_change_of_the_in_sync_set_is_judged_when_it_is_applied() {
    let mut state = founded(3, 2);
    state.apply(LogIndex(2), &down(0, 1));
    state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
    let (partition, change) = expansion(&state);
    let record = state.table()[partition];
    let stale = InSyncChange { change: ChangeNumber(record.change.0 - 1), ..change };
    let foreign = InSyncChange { proposer: node(record.primary.expect("it has one").0, 9), ..change };
    assert!(!state.apply(LogIndex(4), &Command::ChangeInSync(vec![stale, foreign])));
    assert!(state.apply(LogIndex(5), &Command::ChangeInSync(vec![change, change])), "the first of two equal ones");
    assert_eq!(state.table()[partition].change, record.change.next(), "the second came too late");
    assert!(state.table()[partition].in_sync.contains(Slot(0)));
}

/// It learns what the life before it learned: the record looks the same.
#[cfg(feature = "sim")]
#[test]
fn a_wish_for_a_learner_is_no_wish_for_its_slots_next_life() {
    use crate::base::mutant::with_broken;

    let next_life = |state: &mut ControlState| {
        state.apply(LogIndex(2), &down(0, 1));
        state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
        let (partition, change) = expansion(state);
        state.apply(LogIndex(4), &Command::NodeUp { node: node(0, 3) });
        let record = state.table()[partition];
        assert!(record.learners.contains(Slot(0)) && !record.in_sync.contains(Slot(0)));
        state.apply(LogIndex(5), &Command::ChangeInSync(vec![change]));
        state.table()[partition].in_sync.contains(Slot(0))
    };
    assert!(!next_life(&mut founded(3, 2)), "a node that has nothing is in sync");
    assert!(with_broken(Mutant::NextLifeUnnoticed, || next_life(&mut founded(3, 2))));
}

fn set_roster(state: &ControlState, after: Roster) -> Command {
    Command::SetRoster { before: state.roster(), after }
}

/// Lets every learner of every partition into its in-sync set.
fn fill(state: &mut ControlState, index: u64) {
    let changes = state.table().iter().enumerate().filter(|(_, record)| !record.learners.is_empty());
    let changes = changes.map(|(partition, record)| InSyncChange {
        partition: PartitionId(partition as u16),
        proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
        epoch: record.epoch,
        change: record.change,
        add: record.learners,
        remove: SlotSet::EMPTY,
        give_to: None,
    });
    let changes = changes.collect();
    state.apply(LogIndex(index), &Command::ChangeInSync(changes));
}

/// Gives all that `from` leads to whoever should lead it, and lets them begin.
fn give_away(state: &mut ControlState, from: Slot) {
    for partition in 0..state.table().len() {
        for is_giving in [true, false] {
            let (record, id) = (state.table()[partition], PartitionId(partition as u16));
            if record.primary != Some(from) && record.former != Some(from) {
                continue;
            }
            let give_to = state.target_primary(id).filter(|_| is_giving);
            let proposer = record.primary.and_then(|primary| state.node(primary).node).expect("a primary");
            let (epoch, change) = (record.epoch, record.change);
            let change = InSyncChange { partition: id, proposer, epoch, change, give_to, ..InSyncChange::default() };
            let index = LogIndex(state.applied().0 + 1);
            assert!(state.apply(index, &Command::ChangeInSync(vec![change])), "{record:?}");
        }
    }
}

#[test]
fn a_drained_node_holds_nothing_once_the_owners_have_everything_and_were_given_what_it_led() {
    let mut state = founded(4, 2);
    let drained = Slot(1);
    let roster = Roster { draining: SlotSet::EMPTY.with(drained), ..state.roster() };
    assert!({
        let command = set_roster(&state, roster);
        state.apply(LogIndex(2), &command)
    });
    fill(&mut state, 3);
    let is_led = |record: &&PartitionRecord| record.primary == Some(drained);
    assert!(state.table().iter().any(|record| is_led(&record)), "it leads what it led");
    assert!(state.table().iter().all(|record| record.in_sync.len() == 2 + usize::from(is_led(&record))));
    give_away(&mut state, drained);
    assert!(!state.holds_anything(drained));
    assert!(state.table().iter().all(|record| (record.in_sync.len(), record.learners.len()) == (2, 0)));
}

#[test]
fn a_restart_ends_the_draining_and_a_slot_that_left_is_forgotten() {
    let mut state = founded(4, 2);
    let slot = Slot(1);
    let drain = Roster { draining: SlotSet::EMPTY.with(slot), ..state.roster() };
    {
        let command = set_roster(&state, drain);
        state.apply(LogIndex(2), &command)
    };
    fill(&mut state, 3);
    give_away(&mut state, slot);
    let next = LogIndex(state.applied().0 + 1);
    let mut restarted = state.clone();
    restarted.apply(next, &Command::NodeUp { node: node(1, 2) });
    assert!(restarted.roster().stays(slot) && restarted.holds_anything(slot), "it learns what it should hold");

    let gone = Roster { slots: state.roster().slots.without(slot), replicas: 2, ..Roster::default() };
    {
        let command = set_roster(&state, gone);
        state.apply(next, &command)
    };
    assert_eq!((state.node(slot), state.roster().slots.len()), (NodeEntry::default(), 3));
    assert!(state.table().iter().all(|record| record.in_sync.len() == 2 && !record.in_sync.contains(slot)));
}

#[test]
fn a_slot_that_is_added_learns_its_share_and_hardly_anything_else_moves() {
    let mut state = founded(3, 2);
    let roster = Roster { slots: SlotSet::first(4), ..state.roster() };
    {
        let command = set_roster(&state, roster);
        state.apply(LogIndex(2), &command)
    };
    state.apply(LogIndex(3), &Command::NodeUp { node: node(3, 1) });
    let newcomer = SlotSet::EMPTY.with(Slot(3));
    let learning =
        |is_it: &dyn Fn(&PartitionRecord) -> bool| state.table().iter().filter(|record| is_it(record)).count();
    let its = learning(&|record| record.learners.contains(Slot(3)));
    // Where it would own a partition twice, another one comes in.
    let others = learning(&|record| !record.learners.is_subset(newcomer));
    assert!((20..=44).contains(&its) && others <= 6, "{its} and {others} of 64 partitions, two copies on four nodes");
}

#[test]
fn a_cluster_founded_without_a_node_has_every_partition_in_sync_on_those_who_are_there() {
    let mut state = ControlState::default();
    let settings = Settings { partitions: 64, replicas: 2, min_copies: 2 };
    let founders = vec![node(0, 1), node(2, 1)];
    assert!(state.apply(LogIndex(1), &Command::Found { settings, slots: SlotSet::first(3), founders }));
    let both = SlotSet::EMPTY.with(Slot(0)).with(Slot(2));
    assert!(state.table().iter().all(|record| record.in_sync == both && record.primary.is_some()));
    state.apply(LogIndex(2), &Command::NodeUp { node: node(1, 1) });
    assert!(state.table().iter().any(|record| record.learners.contains(Slot(1))));
}

#[test]
fn a_recovery_keeps_what_survivors_hold_and_says_what_is_missing() {
    let mut state = founded(5, 2);
    state.apply(LogIndex(2), &down(0, 1));
    // Of some partitions only a stand-in is left, of some nobody.
    let survivors = vec![node(3, 1), node(4, 1)];
    let held = |record: &PartitionRecord| record.in_sync.contains(Slot(3)) || record.in_sync.contains(Slot(4));
    let learnt = |record: &PartitionRecord| record.learners.contains(Slot(3)) || record.learners.contains(Slot(4));
    let clean = state.table().iter().filter(|record| held(record)).count();
    let lossy = state.table().iter().filter(|record| !held(record) && learnt(record)).count();
    state.apply(LogIndex(1000), &Command::Recover { survivors });
    let recovery = state.recovery().expect("it was recovered");
    assert_eq!((recovery.clean as usize, recovery.lossy.len()), (clean, lossy));
    assert_eq!(clean + lossy + recovery.lost.len(), 64);
    assert!(clean > 0 && lossy > 0 && !recovery.lost.is_empty());
    for (partition, record) in state.table().iter().enumerate() {
        let is_lost = recovery.lost.contains(&PartitionId(partition as u16));
        assert_eq!((record.epoch, record.primary.is_none(), record.is_lost()), (Epoch(1000), is_lost, is_lost));
    }
}

#[test]
fn who_was_evicted_is_filled_anew_and_another_one_helps_out_until_it_is() {
    let mut state = founded(3, 2);
    let record = state.table()[0];
    let primary = record.primary.expect("one");
    let slow = record.in_sync.without(primary);
    let change = InSyncChange {
        partition: PartitionId(0),
        proposer: state.node(primary).node.expect("registered"),
        epoch: record.epoch,
        change: record.change,
        add: SlotSet::EMPTY,
        remove: slow,
        give_to: None,
    };
    assert!(state.apply(LogIndex(2), &Command::ChangeInSync(vec![change])));
    let after = state.table()[0];
    assert_eq!(after.in_sync, SlotSet::EMPTY.with(primary));
    assert_eq!(after.learners, SlotSet::first(3).without(primary), "the slow one, and a stand-in for it");
    assert_eq!(after.counting, after.learners.difference(slow), "whose acks come");
}

#[test]
fn learners_count_while_too_few_are_in_sync_and_no_longer() {
    let mut state = founded(3, 2);
    state.apply(LogIndex(2), &down(0, 1));
    for record in state.table() {
        assert_eq!(record.copies(), 2, "{record:?}");
        assert_eq!(record.counting, record.learners, "{record:?}");
    }
    let partition = state.table().iter().position(|record| !record.counting.is_empty()).expect("one");
    let record = state.table()[partition];
    let change = InSyncChange {
        partition: PartitionId(partition as u16),
        proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
        epoch: record.epoch,
        change: record.change,
        add: record.counting,
        remove: SlotSet::EMPTY,
        give_to: None,
    };
    assert!(state.apply(LogIndex(3), &Command::ChangeInSync(vec![change])));
    let after = state.table()[partition];
    assert_eq!((after.in_sync.len(), after.counting), (2, SlotSet::EMPTY));
}

#[test]
fn a_learner_that_counts_and_answers_nothing_gives_its_place_to_another() {
    let mut state = founded(4, 2);
    let partition = state.table().iter().position(|record| record.in_sync.contains(Slot(0))).expect("one");
    state.apply(LogIndex(2), &down(0, 1));
    let record = state.table()[partition];
    let mute = record.counting;
    assert_eq!(mute.len(), 1, "{record:?}");
    let change = InSyncChange {
        partition: PartitionId(partition as u16),
        proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
        epoch: record.epoch,
        change: record.change,
        add: SlotSet::EMPTY,
        remove: mute,
        give_to: None,
    };
    assert!(state.apply(LogIndex(3), &Command::ChangeInSync(vec![change])));
    let after = state.table()[partition];
    assert_eq!((after.counting.len(), after.counting.intersection(mute)), (1, SlotSet::EMPTY), "{after:?}");
}

#[test]
fn a_roster_that_was_made_for_another_one_changes_nothing_and_nobody_who_is_up_is_absent() {
    let mut state = founded(4, 2);
    let drain = set_roster(&state, Roster { draining: SlotSet::EMPTY.with(Slot(1)), ..state.roster() });
    let absent = set_roster(&state, Roster { absent: SlotSet::EMPTY.with(Slot(2)), ..state.roster() });
    let before = state.clone();
    assert!(!state.apply(LogIndex(2), &absent), "it is up");
    assert_eq!(state.roster(), before.roster());
    assert!(state.apply(LogIndex(3), &drain));
    assert!(!state.apply(LogIndex(4), &absent), "it doesn't know of the draining");
    assert!(state.roster().draining.contains(Slot(1)));
}

/// Both copies of some partitions die, and their slots come back blank, one after the other.
fn with_lost_partitions() -> ControlState {
    let mut state = founded(3, 2);
    // The third one stands in for both in turn, and is filled with nothing.
    state.apply(LogIndex(2), &down(0, 1));
    state.apply(LogIndex(3), &Command::NodeUp { node: node(0, 2) });
    let alone = Command::NodeDown { node: node(1, 1), witnesses: SlotSet::EMPTY };
    state.apply(LogIndex(4), &alone);
    state.apply(LogIndex(5), &Command::NodeUp { node: node(1, 2) });
    assert!(state.table().iter().any(PartitionRecord::is_lost));
    state
}

#[test]
fn who_is_drained_or_removed_holds_nothing_of_what_is_lost() {
    for leaves in [false, true] {
        let mut state = with_lost_partitions();
        let slot = Slot(0);
        let learns_lost = |record: &PartitionRecord| record.is_lost() && record.learners.contains(slot);
        assert!(state.table().iter().any(learns_lost), "nothing would wait");
        let before = state.roster();
        let roster = match leaves {
            true => Roster { leaving: SlotSet::EMPTY.with(slot), ..before },
            false => Roster { draining: SlotSet::EMPTY.with(slot), ..before },
        };
        assert!(state.apply(LogIndex(6), &Command::SetRoster { before, after: roster }));
        assert!(!state.table().iter().any(learns_lost), "it waits for a copy that nobody has");
        // What is left of what it holds moves.
        let mut index = 7;
        while let Some(partition) =
            (0..64).find(|&number| state.table()[number].in_sync.len() < 2 && !state.table()[number].is_lost())
        {
            let record = state.table()[partition];
            let change = InSyncChange {
                partition: PartitionId(partition as u16),
                proposer: state.node(record.primary.expect("a primary")).node.expect("registered"),
                epoch: record.epoch,
                change: record.change,
                add: record.learners,
                ..InSyncChange::default()
            };
            assert!(state.apply(LogIndex(index), &Command::ChangeInSync(vec![change])), "{record:?}");
            index += 1;
        }
        give_away(&mut state, slot);
        assert!(!state.holds_anything(slot), "{:?}", state.table());
    }
}
