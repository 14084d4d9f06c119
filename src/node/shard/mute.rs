//! Members that don't answer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Instant, NodeId, Slot, SlotSet};

/// Nodes that have left something of a partition led here unanswered for too long, until they answer: other partitions
/// needn't wait for them in turn.
///
/// It is what a primary knows of those it *led*. Who was cut off takes everybody else for mute, and may hear from nobody
/// who would prove it wrong until it leads again. So a partition believes only what came up after its primary took office,
/// and only of that very incarnation.
///
/// And it is what is known of the *present*. Whoever isn't asked anything can't answer, and so can't prove that it is well
/// again:
///
/// 1. A primary is cut off from n3, which is evicted where it was waited for; the link heals, and nothing needs n3 for a while.
/// 2. The primary goes deaf and can only send. It writes where n3 is in sync.
/// 3. If n3 still counted as mute it would be evicted at once, while the leader's proof that the primary hears is still
///    fresh; and the last copy in sync would be the one that nobody can be fed from.
#[derive(Debug, Default)]
pub(super) struct Mute(BTreeMap<Slot, Silence>);

/// For so long what is known counts while nothing is asked: three times as long as it takes to ask again.
const LAPSES_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Silence {
    node: NodeId,
    since: Instant,
    /// When it was last sent something that it has to answer.
    asked_at: Instant,
}

impl Mute {
    /// Partitions wish these to leave: they are mute since now, unless they were before.
    pub(super) fn note(&mut self, now: Instant, slots: SlotSet, registered: impl Fn(Slot) -> Option<NodeId>) {
        for (slot, node) in slots.iter().filter_map(|slot| Some((slot, registered(slot)?))) {
            if self.0.get(&slot).is_none_or(|known| known.node != node || known.has_lapsed(now)) {
                self.0.insert(slot, Silence { node, since: now, asked_at: now });
            }
        }
    }

    /// One of them, perhaps, is sent something that it has to answer.
    pub(super) fn asked(&mut self, now: Instant, slot: Slot) {
        let Some(silence) = self.0.get_mut(&slot) else { return };
        if silence.has_lapsed(now) {
            self.0.remove(&slot);
        } else {
            silence.asked_at = now;
        }
    }

    /// One of them has answered something.
    pub(super) fn answered(&mut self, slot: Slot) {
        self.0.remove(&slot);
    }

    /// Those that a primary has to take for mute now, which is in office since `since`.
    pub(super) fn known(&self, now: Instant, since: Instant, registered: impl Fn(Slot) -> Option<NodeId>) -> SlotSet {
        let counts = |slot: Slot, silence: &Silence| {
            silence.since >= since && registered(slot) == Some(silence.node) && !silence.has_lapsed(now)
        };
        self.0.iter().filter(|(slot, silence)| counts(**slot, silence)).map(|(slot, _)| *slot).collect()
    }
}

impl Silence {
    fn has_lapsed(&self, now: Instant) -> bool {
        now.since(self.asked_at) > LAPSES_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    const SLOT: Slot = Slot(2);

    fn node(life: u128) -> NodeId {
        NodeId::new(SLOT, Incarnation(life))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn noted_at(ms: u64) -> Mute {
        let mut mute = Mute::default();
        mute.note(at(ms), SlotSet::from_iter([SLOT]), |_| Some(node(1)));
        mute
    }

    fn knows(mute: &Mute, now_ms: u64, since_ms: u64, life: u128) -> bool {
        mute.known(at(now_ms), at(since_ms), |_| Some(node(life))).contains(SLOT)
    }

    #[test]
    fn who_is_asked_again_and_again_stays_mute_until_it_answers() {
        let mut mute = noted_at(1000);
        for ms in (1150..4000).step_by(150) {
            mute.asked(at(ms), SLOT);
            assert!(knows(&mute, ms, 0, 1), "at {ms} ms");
        }
        mute.answered(SLOT);
        assert!(!knows(&mute, 4000, 0, 1));
    }

    #[test]
    fn who_was_asked_nothing_for_a_while_is_not_mute_and_no_later_question_makes_it_so() {
        let mut mute = noted_at(1000);
        assert!(knows(&mute, 1500, 0, 1));
        assert!(!knows(&mute, 1501, 0, 1));
        mute.asked(at(3000), SLOT);
        assert!(!knows(&mute, 3000, 0, 1));
    }

    #[test]
    fn it_counts_for_that_life_and_for_offices_from_before() {
        let mute = noted_at(1000);
        assert!(knows(&mute, 1000, 1000, 1));
        assert!(!knows(&mute, 1000, 1001, 1) && !knows(&mute, 1000, 0, 2));
    }

    #[test]
    fn a_later_life_that_is_mute_too_is_mute_from_then_on() {
        let mut mute = noted_at(1000);
        mute.note(at(1200), SlotSet::from_iter([SLOT]), |_| Some(node(2)));
        assert!(knows(&mute, 1200, 1200, 2) && !knows(&mute, 1200, 1201, 2));
    }
}
