//! What nodes tell each other of the others, so that a node cut off from its leader still shows what the rest sees.
//!
//! Every so often a node sends its view to one random peer over the pulse plane. Gossip hints; nothing is decided by it.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::base::{Incarnation, Instant, LogIndex, NodeId, Slot, Term};
use crate::codec;

/// How often a node tells one peer what it knows.
pub const GOSSIP_EVERY: Duration = Duration::from_millis(200);
/// The entries of one datagram in bytes: what a payload may have, less what travels beside them.
pub const GOSSIP_BYTES_MAX: usize = 1010;
/// Entries in one datagram: without pairs each takes at most 80 bytes.
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

/// How one node hears another on the pulse plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerWord {
    /// Which slot the other one has.
    pub slot: Slot,
    /// How many milliseconds ago it was heard; a minute and more are the same.
    pub heard_ms: u16,
    /// The round trip in microseconds, smoothed.
    pub round_trip_us: Option<u32>,
    /// How many percent of what it sent did not come lately.
    pub lost_percent: Option<u8>,
}

/// How far the learners are that one node fills, in KiB: what they have, what they lack, and how fast that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct FillingWord {
    /// What they have.
    pub done_kib: u32,
    /// What they lack.
    pub left_kib: u32,
    /// What the node sends in a second.
    pub kib_per_second: u32,
}

/// A node that answers and is kept out of the in-sync sets, in the words of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeldWord {
    /// Which slot.
    pub slot: Slot,
    /// How often it fell out of late.
    pub falls: u8,
    /// For how many more milliseconds it is kept out because of that, at least.
    pub for_ms: u32,
    /// By how much it wakes up late, in percent of the time after which it wanted to be woken, where that alone keeps it out.
    pub late_percent: Option<u8>,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
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
    /// How far those were whom it filled then; none where it filled nobody.
    pub filling: Option<FillingWord>,
    /// For how many milliseconds its slowest worker had made no progress then.
    pub stalled_ms: u32,
    /// How many seconds before that, rounded up, all that it holds had been looked at last; the highest number where that
    /// never was.
    pub verified_s: u16,
    /// Records of it that were found to be bad, and those of them that were repaired; mostly none.
    pub damage: Option<(u32, u32)>,
    /// Whom it kept out then, as the leader; mostly nobody.
    pub held: Vec<HeldWord>,
    /// How it heard the others then; empty where there was no room to tell.
    pub peers: Vec<PeerWord>,
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
                let mut entry = entry.clone();
                if let Some((before, known_at)) = known {
                    keep_peers(&mut entry, said_at, before, *known_at);
                }
                *known = Some((entry, said_at));
            }
        }
    }

    /// What is known of the node in `slot`, and since when.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Option<(&GossipEntry, Instant)> {
        self.entries.get(slot.index())?.as_ref().map(|(entry, at)| (entry, *at))
    }

    /// Each slot's last life that is known.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.entries.iter().flatten().map(|(entry, _)| NodeId::new(entry.slot, entry.incarnation))
    }

    /// What to tell a peer: oneself, then the others, the youngest words first, as many as there is room for; and of how
    /// each hears the others, in the same order, what then still fits.
    #[must_use]
    pub fn entries_to_tell(&self, now: Instant, myself: GossipEntry) -> Vec<GossipEntry> {
        let mut known: Vec<&(GossipEntry, Instant)> = self.entries.iter().flatten().collect();
        known.sort_by_key(|(entry, at)| (std::cmp::Reverse(*at), entry.slot));
        let my_slot = myself.slot;
        let others = known
            .into_iter()
            .filter(|(entry, _)| entry.slot != my_slot)
            .map(|(entry, at)| GossipEntry { age: now.since(*at), ..entry.clone() });
        let mut room = GOSSIP_BYTES_MAX;
        let mut told: Vec<(GossipEntry, Vec<PeerWord>)> = Vec::new();
        for mut entry in std::iter::once(myself).chain(others).take(ENTRIES_MAX) {
            let peers = std::mem::take(&mut entry.peers);
            let Some(left) = room.checked_sub(size_bytes(&entry)) else { break };
            room = left;
            told.push((entry, peers));
        }
        let with_peers = |(entry, peers): (GossipEntry, Vec<PeerWord>)| {
            let fits = |word: &PeerWord| {
                let left = room.checked_sub(size_bytes(word));
                room = left.unwrap_or(0);
                left.is_some()
            };
            GossipEntry { peers: peers.into_iter().take_while(fits).collect(), ..entry }
        };
        told.into_iter().map(with_peers).collect()
    }
}

/// A node said something of itself at `at` and had no room for how it hears the others; before, at `known_at`, it had.
fn keep_peers(entry: &mut GossipEntry, at: Instant, known: &GossipEntry, known_at: Instant) {
    if entry.peers.is_empty() && entry.incarnation == known.incarnation {
        let older = u16::try_from(at.since(known_at).as_millis()).unwrap_or(u16::MAX);
        entry.peers.clone_from(&known.peers);
        entry.peers.iter_mut().for_each(|word| word.heard_ms = word.heard_ms.saturating_add(older));
    }
}

/// How many bytes it takes in a datagram.
fn size_bytes(part: &impl Encode) -> usize {
    let mut bytes = Vec::new();
    codec::encode_into(part, &mut bytes).map_or(usize::MAX, |()| bytes.len())
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
            filling: None,
            stalled_ms: 0,
            verified_s: 20,
            damage: None,
            held: Vec::new(),
            peers: Vec::new(),
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

    /// As large as it can be.
    fn large(slot: u8, pairs: u8) -> GossipEntry {
        let word = |slot| PeerWord {
            slot: Slot(slot),
            heard_ms: u16::MAX,
            round_trip_us: Some(250_000),
            lost_percent: Some(100),
        };
        GossipEntry {
            incarnation: Incarnation(u128::MAX),
            last_index: LogIndex(1 << 40),
            commit_index: LogIndex(1 << 40),
            keys: 1 << 40,
            memory_bytes: 1 << 40,
            peers: (0..pairs).map(word).collect(),
            ..entry(slot, 1 << 20, 0)
        }
    }

    #[test]
    fn seven_nodes_with_all_their_pairs_fit_and_of_more_the_youngest_are_told() {
        let now = Instant(10_000_000_000);
        let me = NodeId::new(Slot(0), Incarnation(1));
        // While all of them fill others, less is told of the pairs for a while; what was known of them is kept.
        let filling = FillingWord { done_kib: 1 << 30, left_kib: 1 << 30, kib_per_second: 1 << 20 };
        for (nodes, filling, told, with_pairs) in [(7, None, 7, 7), (7, Some(filling), 7, 5), (64, None, 12, 1)] {
            let mut view = GossipView::new(nodes);
            let pairs = nodes as u8 - 1;
            for slot in 1..nodes as u8 {
                let age = Duration::from_millis(u64::from(slot));
                view.handle_entries(now, me, &[GossipEntry { age, filling, ..large(slot, pairs) }]);
            }
            let entries = view.entries_to_tell(now, GossipEntry { filling, ..large(0, pairs) });
            assert!(size_bytes(&entries) <= GOSSIP_BYTES_MAX + 1, "{}", size_bytes(&entries));
            assert!(entries.iter().zip(0..).all(|(entry, slot)| entry.slot == Slot(slot)), "the youngest first");
            let full = entries.iter().filter(|entry| entry.peers.len() >= 6).count();
            assert_eq!((entries.len(), full), (told, with_pairs), "of {nodes} nodes");
        }
    }

    #[test]
    fn a_word_without_pairs_leaves_those_that_are_known_and_they_grow_older() {
        let me = NodeId::new(Slot(0), Incarnation(1));
        let word = PeerWord { slot: Slot(2), heard_ms: 10, round_trip_us: None, lost_percent: None };
        let mut view = GossipView::new(3);
        let (early, late) = (Instant(10_000_000_000), Instant(10_500_000_000));
        view.handle_entries(early, me, &[GossipEntry { peers: vec![word], ..entry(1, 1, 0) }]);
        view.handle_entries(late, me, &[entry(1, 1, 0)]);
        let peers = |view: &GossipView| view.entry(Slot(1)).map(|(entry, _)| entry.peers.clone());
        assert_eq!(peers(&view), Some(vec![PeerWord { heard_ms: 510, ..word }]));
        view.handle_entries(
            late + Duration::from_secs(1),
            me,
            &[GossipEntry { incarnation: Incarnation(2), ..entry(1, 1, 0) }],
        );
        assert_eq!(peers(&view), Some(Vec::new()), "another life knows nothing yet");
    }
}
