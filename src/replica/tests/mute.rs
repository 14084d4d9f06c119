//! Members that are known to be mute from other partitions.

use super::*;
use crate::base::mutant::with_broken;

impl Net {
    fn learner_counts(&mut self, slot: u8) {
        self.change(|record| (record.learners, record.counting) = (set(&[slot]), set(&[slot])));
        self.tell(0);
    }

    /// The primary hears that both others are mute; whom it wishes to leave now.
    fn mute(&mut self) -> Vec<SlotSet> {
        self.run(0, |replica, now, out| replica.handle_mute(now, set(&[1, 2]), out));
        self.proposals.drain(..).map(|change| change.remove).collect()
    }
}

/// The only one in sync has a write that needs a learner; whether the next learner is evicted as soon as it takes the place of
/// the one before.
fn is_evicted_at_once() -> bool {
    let mut net = Net::new(3, &[0], 2);
    net.learner_counts(1);
    net.write(0, 1, put("a", "v"));
    assert_eq!(net.mute(), [set(&[1])]);
    net.learner_counts(2);
    let is_evicted = net.mute() == [set(&[2])];
    net.now = net.now + Duration::from_millis(150);
    assert!(is_evicted || net.mute() == [set(&[2])], "it is never evicted");
    is_evicted
}

#[test]
fn who_takes_the_place_of_a_mute_member_has_time_to_answer() {
    assert!(!is_evicted_at_once());
    assert!(with_broken(Mutant::MuteTakeTurns, is_evicted_at_once));
}
