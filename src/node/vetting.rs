//! What a peer's log entries and snapshots are asked before they reach the log.
//!
//! Consensus carries commands as opaque bytes, and decides on them long before anybody decodes them. So bytes that are no
//! command must not get that far: once such an entry is committed, every node has to apply it, and none can. They are
//! looked at when they come in from the stream plane; a message with a single unsound entry is refused whole, as if it had
//! been lost, and counted. What is in the log is a command of this program, by this node or by a peer.
//!
//! A follower that refuses stays behind, visibly. That is the worst that a peer with corrupt memory, a wrong version or bad
//! intentions can do by such bytes: nobody panics, and no two nodes apply the same entry differently.

use crate::codec;
use crate::control::{Command, ControlState};
use crate::raft::{Entry, Payload, Snapshot, StreamMessage};

/// Whether `message` may be handed to consensus.
///
/// # Errors
/// The reason for which it may not, as metrics name it.
pub(super) fn vet(message: &StreamMessage) -> Result<(), &'static str> {
    match message {
        StreamMessage::Append { entries, .. } if !entries.iter().all(is_sound_entry) => Err("unsound_entry"),
        StreamMessage::InstallSnapshot { snapshot, .. } if !is_sound_snapshot(snapshot) => Err("unsound_snapshot"),
        _ => Ok(()),
    }
}

fn is_sound_entry(entry: &Entry) -> bool {
    match &entry.payload {
        Payload::Command(bytes) => codec::decode::<Command>(bytes).is_ok_and(|command| command.is_sound()),
        // Consensus judges its own.
        Payload::Noop | Payload::Members(_) | Payload::Timing(_) => true,
    }
}

fn is_sound_snapshot(snapshot: &Snapshot) -> bool {
    codec::decode::<ControlState>(&snapshot.state).is_ok_and(|state| state.is_sound(snapshot.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Blob, Incarnation, LogIndex, NodeId, Slot, SlotSet, Term, Timing};
    use crate::control::Settings;
    use crate::raft::{LogPosition, Membership};

    fn bytes<T: bincode::Encode>(value: &T) -> Blob {
        let mut bytes = Vec::new();
        codec::encode_into(value, &mut bytes).expect("it is small");
        Blob::from(bytes)
    }

    fn append(command: Blob) -> StreamMessage {
        let noop = Entry { index: LogIndex(1), term: Term(1), payload: Payload::Noop };
        let entry = Entry { index: LogIndex(2), term: Term(1), payload: Payload::Command(command) };
        let previous = LogPosition::ZERO;
        StreamMessage::Append { term: Term(1), previous, entries: vec![noop, entry], commit: LogIndex(2) }
    }

    fn snapshot(state: Blob) -> StreamMessage {
        let (membership, timing) = (Membership::default(), Timing::default());
        let snapshot = Snapshot { index: LogIndex(2), term: Term(1), membership, timing, state };
        StreamMessage::InstallSnapshot { term: Term(1), snapshot }
    }

    #[test]
    fn bytes_that_are_no_command_are_refused_and_commands_are_not() {
        let up = |slot| Command::NodeUp { node: NodeId::new(Slot(slot), Incarnation(1)) };
        let found = |partitions, slots: &[u8]| Command::Found {
            settings: Settings { partitions, replicas: 2, min_copies: 2 },
            slots: SlotSet::first(3),
            founders: slots.iter().map(|slot| NodeId::new(Slot(*slot), Incarnation(1))).collect(),
        };
        for good in [up(0), up(63), found(16, &[0, 1, 2]), Command::ChangeInSync(Vec::new())] {
            assert_eq!(vet(&append(bytes(&good))), Ok(()), "{good:?}");
        }
        for bad in [up(64), found(0, &[0]), found(u16::MAX, &[0]), found(16, &[1, 0])] {
            assert_eq!(vet(&append(bytes(&bad))), Err("unsound_entry"), "{bad:?}");
        }
        let mut longer = bytes(&up(0)).to_vec();
        longer.push(0);
        for bad in [Blob::default(), Blob::from_static(b"\xff"), Blob::from(longer)] {
            assert_eq!(vet(&append(bad.clone())), Err("unsound_entry"), "{bad:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_state_are_refused_and_states_are_not() {
        let mut state = ControlState::default();
        state.skip_to(LogIndex(1));
        assert_eq!(vet(&snapshot(bytes(&state))), Err("unsound_snapshot"), "it stands for another entry");
        state.skip_to(LogIndex(2));
        assert_eq!(vet(&snapshot(bytes(&state))), Ok(()));
        assert_eq!(vet(&snapshot(Blob::from_static(b"no state"))), Err("unsound_snapshot"));
    }
}
