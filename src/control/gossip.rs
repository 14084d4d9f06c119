//! What nodes tell each other of the others, so that a node cut off from its leader still shows what the rest sees.
//!
//! Every so often a node sends its view to one random peer over the pulse plane. Gossip hints; nothing is decided by it.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::base::{Incarnation, Instant, LogIndex, NodeId, Slot, Term};

/// How often a node tells one peer what it knows.
pub const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// Entries in one datagram: each takes at most 72 bytes.
const ENTRIES_MAX: usize = 12;

/// A node's role, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum NodeKind {
    /// It knows no cluster.
    #[default]
    Starting,
    /// It receives the log.
    Learner,
    /// It follows.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GossipEntry {
    /// Which slot.
    pub slot: Slot,
    /// Which life.
    pub incarnation: Incarnation,
    /// Its role when it last spoke.
    pub kind: NodeKind,
    /// Its term then.
    pub term: Term,
    /// The end of its log then.
    pub last_index: LogIndex,
    /// Its commit index then.
    pub commit_index: LogIndex,
    /// Keys that it held then, copies included.
    pub keys: u64,
    /// Bytes that its tables took then.
    pub memory_bytes: u64,
    /// How long ago that was, when this was sent.
    pub age: Duration,
}

/// One node's picture of all of them.
#[derive(Clone, Debug, Default)]
pub struct GossipView {
    entries: Vec<Option<(GossipEntry, Instant)>>,
}

impl GossipView {
    /// An empty picture of `slots` slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { entries: vec![None; slots] }
    }

    /// Takes what a peer tells. The younger word wins; a word about `me` is ignored.
    pub fn handle_entries(&mut self, now: Instant, me: NodeId, entries: &[GossipEntry]) {
        for entry in entries.iter().filter(|entry| entry.slot != me.slot) {
            let said_at = now - entry.age;
            let Some(known) = self.entries.get_mut(entry.slot.index()) else { continue };
            if known.as_ref().is_none_or(|(_, known_at)| said_at > *known_at) {
                *known = Some((*entry, said_at));
            }
        }
    }

    /// What is known of the node in `slot`, and since when.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Option<(&GossipEntry, Instant)> {
        self.entries.get(slot.index())?.as_ref().map(|(entry, at)| (entry, *at))
    }

    /// What to tell a peer: oneself, then the others, the youngest words first.
    #[must_use]
    pub fn entries_to_tell(&self, now: Instant, myself: GossipEntry) -> Vec<GossipEntry> {
        let mut known: Vec<(GossipEntry, Instant)> = self.entries.iter().flatten().copied().collect();
        known.sort_by_key(|(entry, at)| (std::cmp::Reverse(*at), entry.slot));
        let others = known.into_iter().map(|(entry, at)| GossipEntry { age: now.since(at), ..entry });
        std::iter::once(myself).chain(others.filter(|entry| entry.slot != myself.slot)).take(ENTRIES_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u8, term: u64, age_ms: u64) -> GossipEntry {
        GossipEntry {
            slot: Slot(slot),
            incarnation: Incarnation(1),
            kind: NodeKind::Follower,
            term: Term(term),
            last_index: LogIndex(1),
            commit_index: LogIndex(1),
            keys: 0,
            memory_bytes: 0,
            age: Duration::from_millis(age_ms),
        }
    }

    #[test]
    fn the_younger_word_wins_and_nobody_is_told_about_himself() {
        let now = Instant(10_000_000_000);
        let me = NodeId::new(Slot(0), Incarnation(1));
        let mut view = GossipView::new(3);
        view.handle_entries(now, me, &[entry(1, 5, 10), entry(0, 99, 0), entry(9, 1, 0)]);
        view.handle_entries(now, me, &[entry(1, 4, 500)]);
        assert_eq!(view.entry(Slot(1)).map(|(entry, _)| entry.term), Some(Term(5)));
        assert!(view.entry(Slot(0)).is_none() && view.entry(Slot(9)).is_none());
        let told = view.entries_to_tell(now + Duration::from_millis(5), entry(0, 5, 0));
        assert_eq!(
            told.iter().map(|entry| (entry.slot.0, entry.age.as_millis())).collect::<Vec<_>>(),
            [(0, 0), (1, 15)]
        );
    }
}
