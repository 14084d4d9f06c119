//! The rules of giving a partition back, and of taking it.

use super::*;

/// Calm for so long, a partition may be given back.
const CALM: Duration = Duration::from_secs(1);

impl Net {
    fn give(&mut self, slot: usize, to: u8) -> bool {
        let mut began = false;
        self.run(slot, |replica, now, out| began = replica.give_back(now, Slot(to), false, out));
        began
    }
}

fn calm_net() -> Net {
    let mut net = Net::new(2, &[0, 1], 2);
    net.now = net.now + CALM;
    net
}

#[test]
fn a_partition_goes_when_it_has_been_calm_and_nobody_is_cut_off() {
    let mut net = Net::new(2, &[0, 1], 2);
    assert!(!net.give(0, 1), "its record has just changed");
    net.now = net.now + CALM;
    assert!(!net.give(1, 0), "it isn't the primary");
    net.write(0, 1, put("k", "before"));
    assert!(net.give(0, 1) && !net.give(0, 1), "once");
    assert_eq!(net.proposals, [], "something isn't committed yet");
    net.write(0, 2, put("k", "meanwhile"));
    net.deliver();
    let change = net.proposals.pop().expect("all is committed");
    assert_eq!((change.give_to, change.epoch, change.change), (Some(Slot(1)), Epoch(10), ChangeNumber(1)));
    assert_eq!((change.add, change.remove), (SlotSet::EMPTY, SlotSet::EMPTY));
    let [refused, answered] = &net.replies()[..] else { panic!("two answers") };
    assert!(matches!(refused, (2, Err(error)) if error.outcome() == crate::api::Outcome::Definite), "{refused:?}");
    assert_eq!(*answered, (1, written(CLOCK, true, 2)));
    assert_eq!(net.replicas[1].status().applied, net.replicas[0].status().applied, "the next primary is told");
    assert_eq!(net.read(0, "k"), Some(b"before".to_vec()), "reads go on");

    net.promote(1, &[0, 1]);
    net.record.former = Some(Slot(0));
    net.tell(1);
    assert!(!net.replicas[1].is_serving() && net.replicas[0].is_serving());
    net.deliver();
    assert!(net.replicas[1].is_serving() && !net.replicas[0].is_serving());
    net.write(1, 3, put("k", "after"));
    net.deliver();
    assert!(matches!(net.replies()[..], [(3, Ok(Response::Written { created: false, copies: 2, .. }))]));
}

#[test]
fn who_takes_a_partition_lets_the_former_primary_go_once_it_serves() {
    let mut net = calm_net();
    net.promote(1, &[0, 1]);
    net.record.former = Some(Slot(0));
    net.tell(1);
    assert_eq!(net.proposals, [], "the former primary hasn't answered");
    net.deliver();
    let is_plain = |change: &InSyncChange| {
        (change.add, change.remove, change.give_to) == (SlotSet::EMPTY, SlotSet::EMPTY, None)
            && change.epoch == Epoch(20)
    };
    assert!(net.proposals.len() == 1 && net.proposals.iter().all(is_plain), "{:?}", net.proposals);
    assert!(!net.replicas[1].is_at_rest());
    net.pass(Duration::from_millis(301));
    assert!(net.proposals.len() == 2 && net.proposals.iter().all(is_plain), "it says so until it is heard");
    net.change(|record| record.former = None);
    net.tell_all();
    net.settle();
    assert!(net.replicas[1].is_at_rest() && net.proposals.len() == 2);
}

#[test]
fn when_nothing_comes_of_it_writes_go_on() {
    let mut net = calm_net();
    assert!(net.give(0, 1) && net.replicas[0].withholds_writes());
    net.pass(Duration::from_millis(499));
    assert!(net.replicas[0].withholds_writes());
    net.pass(Duration::from_millis(1));
    assert!(!net.replicas[0].withholds_writes());
    net.write(0, 1, put("k", "v"));
    net.deliver();
    assert_eq!(net.replies(), [(1, written(CLOCK, true, 2))]);
    assert!(!net.give(0, 1), "not at once again");
    net.now = net.now + Duration::from_secs(2);
    assert!(net.give(0, 1));
    // Another change was decided first.
    net.change(|record| record.learners = set(&[]));
    net.tell_all();
    assert!(!net.replicas[0].withholds_writes());
}

#[test]
fn a_member_that_does_not_answer_ends_it() {
    let mut net = calm_net();
    net.write(0, 1, put("k", "v"));
    net.wire.clear();
    net.pass(Duration::from_millis(100));
    assert!(net.give(0, 1));
    net.pass(Duration::from_millis(401));
    net.wire.clear();
    let [change] = net.proposals[..] else { panic!("{:?}", net.proposals) };
    assert_eq!((change.remove, change.give_to), (set(&[1]), None), "it is to be evicted");
    assert!(!net.replicas[0].is_giving_back());
}

#[test]
fn who_does_not_have_all_of_it_is_given_nothing() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.change(|record| record.learners = set(&[2]));
    net.tell(0);
    net.now = net.now + CALM;
    assert!(!net.give(0, 2), "a learner");
    net.promote(0, &[0, 1]);
    net.tell(0);
    net.wire.clear();
    net.now = net.now + CALM;
    assert!(!net.give(0, 1), "it hasn't answered in this epoch");
}
