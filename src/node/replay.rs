//! Which datagrams were here before.
//!
//! A datagram with a valid code was made by a node of this cluster, but not necessarily just now: whoever listens in can
//! send it again. So a node with a secret takes each datagram of a peer once. A peer numbers what it sends to one addressee;
//! of each of its lives, the highest number is kept, and which of the [`WINDOW`] numbers up to it have come. The network may
//! reorder datagrams within that window; what is older is refused, seen or not.
//!
//! Only what is addressed to this very life of this process is judged here, so everything that is judged was made since
//! this process started, and there is no need to know what came before.
//!
//! The first number of a life that is accepted begins its window: nothing below it is accepted any more.
//!
//! Invariants: a number of a life is accepted at most once; memory is bounded by the slots. A life that was pushed out by
//! [`LIVES_MAX`] later ones of its slot is over and is accepted never again, unless [`ENDED_MAX`] more have ended since.

use std::collections::VecDeque;

use crate::base::{Incarnation, NodeId};

/// Numbers below the highest that may still come: some seconds' worth of a busy leader's datagrams to one peer.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / u64::BITS as u64) as usize;
/// Lives of one slot that are listened to at once. One is enough but for a process that restarts while its last words are
/// still under way, and for two that were started in one slot by mistake: neither may silence the other.
const LIVES_MAX: usize = 8;
/// Lives of one slot that are remembered to be over.
const ENDED_MAX: usize = 1024;

/// What has come from all peers.
#[derive(Debug)]
pub(super) struct ReplayGuard {
    slots: Vec<Peer>,
}

/// What has come from one slot.
#[derive(Debug, Default)]
struct Peer {
    /// The life that was heard last is at the end.
    lives: Vec<Window>,
    ended: VecDeque<Incarnation>,
}

/// What has come from one life.
#[derive(Debug)]
struct Window {
    incarnation: Incarnation,
    highest: u64,
    /// A bit for each number: whether it has come, where the number is in the window.
    seen: [u64; WORDS],
}

impl ReplayGuard {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Peer::default()).collect() }
    }

    /// Whether something was accepted from this life of a peer, and still could be.
    pub(super) fn knows(&self, from: NodeId) -> bool {
        self.slots
            .get(from.slot.index())
            .is_some_and(|peer| peer.lives.iter().any(|life| life.incarnation == from.incarnation))
    }

    /// Whether the datagram with this number is new; from now on it isn't.
    pub(super) fn accept(&mut self, from: NodeId, sequence: u64) -> bool {
        self.slots.get_mut(from.slot.index()).is_some_and(|peer| peer.accept(from.incarnation, sequence))
    }
}

impl Peer {
    fn accept(&mut self, incarnation: Incarnation, sequence: u64) -> bool {
        if let Some(at) = self.lives.iter().position(|life| life.incarnation == incarnation) {
            let is_new = self.lives[at].accept(sequence);
            if is_new {
                self.lives[at..].rotate_left(1);
            }
            return is_new;
        }
        if self.ended.contains(&incarnation) {
            return false;
        }
        if self.lives.len() == LIVES_MAX {
            self.ended.push_back(self.lives.remove(0).incarnation);
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
        // What was said before is too late: some of it may have been heard as a hello.
        self.lives.push(Window { incarnation, highest: sequence, seen: [u64::MAX; WORDS] });
        true
    }
}

impl Window {
    fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            // What enters the window was not seen, whatever the bits say of numbers that leave it.
            let entering = (sequence - self.highest).min(WINDOW);
            (0..entering).for_each(|back| self.set(sequence - back, false));
            self.highest = sequence;
        }
        let is_new = self.highest - sequence < WINDOW && !self.is_set(sequence);
        if is_new {
            self.set(sequence, true);
        }
        is_new
    }

    fn is_set(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, sequence: u64, seen: bool) {
        let (word, bit) = place(sequence);
        if seen {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }
}

/// The word and the bit of a number.
const fn place(sequence: u64) -> (usize, u64) {
    ((sequence % WINDOW / u64::BITS as u64) as usize, 1 << (sequence % u64::BITS as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::{Rng, Slot};

    fn life(incarnation: u128) -> NodeId {
        NodeId::new(Slot(1), Incarnation(incarnation))
    }

    #[test]
    fn each_number_is_accepted_once_in_any_order_within_the_window() {
        let mut guard = ReplayGuard::new(2);
        assert!(!guard.knows(life(1)));
        for sequence in [3, 5, 4, 2000, 1999, 977] {
            assert!(guard.accept(life(1), sequence), "{sequence} is new");
            assert!(!guard.accept(life(1), sequence), "{sequence} has come");
        }
        assert!(!guard.accept(life(1), 2000 - WINDOW), "too old to tell");
        assert!(!guard.accept(life(1), 5), "too old, and seen");
        assert!(guard.accept(life(2), 900) && !guard.accept(life(2), 899), "from before its window began");
        assert!(guard.accept(life(1), u64::MAX) && !guard.accept(life(1), u64::MAX));
        assert!(guard.knows(life(1)) && !guard.accept(NodeId::new(Slot(2), Incarnation(1)), 1));
    }

    #[test]
    fn a_window_agrees_with_a_list_of_all_that_has_come() {
        let mut rng = Rng::new(7);
        for _ in 0..200 {
            let (mut guard, mut seen, mut around) = (ReplayGuard::new(2), BTreeSet::new(), 5000);
            let mut first = None;
            for _ in 0..300 {
                if rng.chance(100_000) {
                    around += rng.below(3 * WINDOW);
                }
                let sequence = around + rng.below(2 * WINDOW) - rng.below(2 * WINDOW);
                let first = *first.get_or_insert(sequence);
                let highest = seen.last().copied().unwrap_or(0).max(sequence);
                let expected = sequence >= first && highest - sequence < WINDOW && seen.insert(sequence);
                assert_eq!(guard.accept(life(1), sequence), expected, "{sequence} below {highest}");
            }
        }
    }

    #[test]
    fn another_life_starts_anew_and_the_earlier_one_is_not_forgotten() {
        let mut guard = ReplayGuard::new(2);
        assert!(guard.accept(life(1), 10) && guard.accept(life(2), 1));
        assert!(!guard.accept(life(1), 10) && !guard.accept(life(2), 1));
        assert!(guard.accept(life(1), 11), "two processes in one slot don't silence each other");
    }

    #[test]
    fn lives_that_are_over_stay_over_and_memory_is_bounded() {
        let mut guard = ReplayGuard::new(2);
        for incarnation in 0..500 {
            assert!(guard.accept(life(incarnation), 1));
            assert!(incarnation == 0 || guard.accept(life(0), 1 + incarnation as u64), "who is heard isn't pushed out");
        }
        for incarnation in 0..500 {
            assert!(!guard.accept(life(incarnation), 1), "{incarnation}");
        }
        for incarnation in 500..5000 {
            assert!(guard.accept(life(incarnation), 1));
        }
        assert_eq!((guard.slots[1].lives.len(), guard.slots[1].ended.len()), (LIVES_MAX, ENDED_MAX));
    }
}
