//! What a copy that orders nothing answers to the leader of the cluster.

use super::*;

fn at_backup(net: &Net, slot: usize, key: &str) -> Result<Option<Vec<u8>>, NotServing> {
    let read = net.replicas[slot].read_backup(net.now, &self::key(key));
    read.map(|value| value.map(|value| value.bytes.to_vec()))
}

#[test]
fn a_backup_answers_what_is_committed_and_hands_on_what_may_not_be() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "old"));
    net.settle();
    assert_eq!(at_backup(&net, 1, "k"), Ok(Some(b"old".to_vec())));
    assert_eq!(at_backup(&net, 1, "other"), Ok(None));
    assert_eq!(at_backup(&net, 0, "k"), Err(NotServing), "a primary is no backup");
    // From its ack on the write may be acknowledged, and the backup hasn't heard whether it was.
    net.write(0, 2, put("k", "new"));
    net.deliver();
    assert_eq!(net.replies().last(), Some(&(2, written(CLOCK + 1, false, 2))));
    assert_eq!(at_backup(&net, 1, "k"), Err(NotServing));
    assert_eq!(at_backup(&net, 1, "other"), Ok(None), "another key's value is in no doubt");
    net.settle();
    assert_eq!(at_backup(&net, 1, "k"), Ok(Some(b"new".to_vec())));
    net.write(0, 3, delete("k"));
    net.deliver();
    assert_eq!(at_backup(&net, 1, "k"), Err(NotServing));
    net.settle();
    assert_eq!(at_backup(&net, 1, "k"), Ok(None));
}

#[test]
fn a_backup_with_much_that_is_uncommitted_hands_on_everything() {
    let mut net = Net::new(2, &[0, 1], 2);
    let effects = |count: u64| {
        let effect = |nth| {
            (Epoch(10), Effect::Delete { key: key("k"), version: Version(CLOCK + nth), expired: false, marked: None })
        };
        (0..count).map(effect).collect::<Vec<_>>()
    };
    let last = net.replicas[1].status().last;
    let prepare = |effects| Message::Prepare { epoch: Epoch(10), previous: last, commit: last.seq, effects };
    net.message(0, 1, prepare(effects(16)));
    assert_eq!(at_backup(&net, 1, "other"), Ok(None));
    net.message(0, 1, prepare(effects(17)));
    assert_eq!(at_backup(&net, 1, "other"), Err(NotServing));
}

#[test]
fn a_copy_that_is_filled_or_has_left_answers_nothing() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.settle();
    assert_eq!(at_backup(&net, 2, "k"), Err(NotServing), "no member");
    net.change(|record| record.learners = set(&[2]));
    net.tell_all();
    assert_eq!(at_backup(&net, 2, "k"), Err(NotServing), "a learner");
    net.deliver();
    assert_eq!(net.proposals.len(), 1, "it has everything");
    assert_eq!(at_backup(&net, 2, "k"), Err(NotServing), "and is in sync by no record");
    net.change(|record| {
        record.learners = SlotSet::EMPTY;
        record.in_sync = set(&[0]);
    });
    net.tell(1);
    assert_eq!(at_backup(&net, 1, "k"), Err(NotServing), "it has left");
}

#[test]
fn a_backup_that_has_heard_of_something_newer_than_its_record_answers_nothing() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.settle();
    net.promote(0, &[0, 1]);
    net.tell(0);
    net.deliver();
    assert_eq!(at_backup(&net, 1, "k"), Err(NotServing));
    net.tell(1);
    net.settle();
    assert_eq!(at_backup(&net, 1, "k"), Ok(Some(b"v".to_vec())));
}

/// The value came to the backup later than to the primary, so by the backup's clock it lasts longer: read there, it would be
/// seen after the primary has said that it isn't there.
#[cfg(feature = "sim")]
#[test]
fn whether_a_value_has_run_out_is_left_to_the_primary() {
    use crate::base::mutant::with_broken;

    let mut net = Net::new(2, &[0, 1], 2);
    let Operation::Put { key, value, content_type, mode, precondition, .. } = put("k", "brief") else { unreachable!() };
    net.write(0, 1, Operation::Put { key, value, content_type, ttl_ms: Some(100), mode, precondition });
    let prepare = net.wire.pop_front().expect("a Prepare");
    net.now = net.now + Duration::from_millis(20);
    net.wire.push_back(prepare);
    net.deliver();
    net.pass(Duration::from_millis(10));
    net.deliver();
    net.now = net.now + Duration::from_millis(75);
    assert_eq!(net.read(0, "k"), None, "it has run out");
    assert_eq!(at_backup(&net, 1, "k"), Err(NotServing));
    with_broken(Mutant::LeaderReadsExpiring, || {
        assert_eq!(at_backup(&net, 1, "k"), Ok(Some(b"brief".to_vec())), "seen though it was gone");
    });
}
