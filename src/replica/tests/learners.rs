//! The rules of filling a learner, and nonsense of all kinds.

use super::*;
use crate::store::{BucketSet, Digest, RecordHash};

/// A learner in slot 2 that has come as far as its first chunk, which is still on the wire, alone.
fn net_with_learner() -> Net {
    let mut net = Net::new(3, &[0, 1], 2);
    for (request, name) in ["a", "b", "c"].into_iter().enumerate() {
        net.write(0, request as u64, put(name, "old"));
    }
    net.settle();
    net.change(|record| record.learners = set(&[2]));
    net.tell_all();
    net.replies();
    while !matches!(net.wire.front(), Some((_, _, Message::ScanChunk { .. }))) {
        let (from, to, message) = net.wire.pop_front().expect("a chunk comes");
        net.message(from.slot.0, to.slot.index(), message);
    }
    assert_eq!(net.wire.len(), 1);
    net
}

#[test]
fn a_delete_during_a_scan_never_comes_back() {
    let mut net = net_with_learner();
    let chunk = net.wire.pop_front().expect("a chunk");
    net.write(0, 10, delete("b"));
    net.deliver();
    net.pass(Duration::from_millis(5));
    net.deliver();
    assert_eq!(net.replicas[2].status().applied, net.replicas[0].status().applied);
    net.wire.push_back(chunk);
    net.deliver();
    let keys: Vec<_> = net.replicas[2].table.scan(&[], None).map(|stored| stored.key().to_string()).collect();
    assert_eq!(keys, ["a", "c"]);
}

#[test]
fn a_learner_that_has_caught_up_is_proposed_and_its_acks_are_required_until_the_record_decides() {
    let mut net = net_with_learner();
    let chunk = net.wire.pop_front().expect("a chunk");
    net.write(0, 10, put("d", "live"));
    net.wire.retain(|(_, to, _)| to.slot == Slot(1));
    net.deliver();
    net.wire.push_back(chunk);
    net.deliver();
    assert_eq!((net.replies().len(), net.proposals.len()), (1, 0), "commit doesn't wait for it, it lacks an effect");
    net.pass(Duration::from_millis(150));
    net.deliver();
    let add = set(&[2]);
    assert!(
        matches!(net.proposals[..], [InSyncChange { add: proposed, change: ChangeNumber(2), .. }] if proposed == add)
    );
    net.write(0, 11, put("e", "v"));
    net.wire.retain(|(_, to, _)| to.slot != Slot(2));
    net.deliver();
    for _ in 0..10 {
        net.pass(Duration::from_secs(1));
        net.wire.clear();
    }
    assert!(net.proposals.len() > 5, "it is proposed again");
    assert_eq!(net.replies(), [], "and no time-out makes the primary forget it");
    // Another change came first: now it is forgotten, and made anew under the new number.
    net.change(|record| record.learners = set(&[]));
    net.tell(0);
    assert_eq!(net.replies(), [(11, written(CLOCK + 4, true, 2))]);
}

#[test]
fn an_admitted_learner_is_a_member_like_others() {
    let mut net = net_with_learner();
    net.deliver();
    assert_eq!(net.proposals.len(), 1);
    net.change(|record| (record.in_sync, record.learners) = (set(&[0, 1, 2]), set(&[])));
    net.tell_all();
    net.write(0, 10, put("d", "v"));
    net.settle();
    assert_eq!(net.replies(), [(10, written(CLOCK + 3, true, 3))]);
    net.promote(2, &[2]);
    net.tell(2);
    assert_eq!(net.read(2, "a"), Some(b"old".to_vec()));
    net.replicas[2].check_invariants();
}

#[test]
fn a_learner_that_left_and_came_back_unseen_is_filled_anew_not_proposed() {
    let mut net = net_with_learner();
    let chunk = net.wire.pop_front().expect("a chunk");
    net.message(0, 2, chunk.2);
    // The last answer of the filling is under way while the learner drops out and comes back.
    let answer = net.wire.pop_front().expect("the end of the scan");
    net.change(|record| record.learners = set(&[]));
    net.tell(2);
    net.change(|record| record.learners = set(&[2]));
    net.tell(2);
    assert_eq!(net.replicas[2].status().records, 0);
    // The primary goes to the newest record at once.
    net.tell(0);
    net.message(2, 0, answer.2);
    assert_eq!(net.proposals, [], "its filling may not stand any more");
    net.deliver();
    assert_eq!((net.replicas[2].status().records, net.proposals.len()), (3, 1));
}

#[test]
fn answers_to_an_earlier_filling_say_nothing_of_the_present_one() {
    let mut net = net_with_learner();
    let attach = AttachId(1);
    net.message(2, 0, Message::Detached { epoch: Epoch(10), attach });
    net.wire.clear();
    let (seq, heard) = (net.replicas[0].status().last.seq, net.record.change);
    for _ in 0..2 {
        net.message(2, 0, Message::ScanAck { epoch: Epoch(10), attach, heard, after: None, done: true });
        net.message(2, 0, Message::Ack { epoch: Epoch(10), attach, seq, commit: seq });
    }
    assert_eq!((net.proposals.len(), net.wire.len()), (0, 0));
    net.settle_until_proposed();
    assert_eq!(net.replicas[2].status().records, 3);
}

#[test]
fn a_learner_that_knew_of_a_change_before_its_primary_is_not_asked_about_it_for_ever() {
    let mut net = net_with_learner();
    net.deliver();
    let after = Some(key("c"));
    net.change(|record| record.in_sync = set(&[0]));
    let (heard, attach) = (net.record.change, AttachId(1));
    net.message(2, 0, Message::ScanAck { epoch: Epoch(10), attach, heard, after, done: true });
    net.tell(0);
    assert!(
        matches!(net.wire.pop_front(), Some((_, _, Message::AttachLearner { .. }))),
        "the primary asks all the same"
    );
    // The question is lost.
    net.wire.clear();
    net.pass(Duration::from_millis(150));
    net.wire.clear();
    net.pass(Duration::from_millis(150));
}

#[test]
fn a_stray_attachment_does_not_empty_a_member() {
    let mut net = net_with_learner();
    let attach = |attach, change| Message::AttachLearner {
        epoch: Epoch(10),
        change: ChangeNumber(change),
        attach: AttachId(attach),
        previous: Position::ZERO,
        version_max: Version::ZERO,
    };
    net.deliver();
    net.change(|record| (record.in_sync, record.learners) = (set(&[0, 1, 2]), set(&[])));
    net.tell_all();
    for (number, change) in [(1, 2), (1, 1), (2, 2), (2, 3)] {
        net.message(0, 2, attach(number, change));
        assert_eq!(net.replicas[2].status().records, 3, "filling {number} under change {change}");
    }
}

#[test]
fn a_learner_that_answers_nothing_is_begun_anew_instead_of_filling_the_memory() {
    let mut net = net_with_learner();
    net.wire.clear();
    for request in 0..40 {
        net.write(0, 100 + request, put("k", "v"));
        net.wire.retain(|(_, to, _)| to.slot != Slot(2));
        net.deliver();
        assert!(net.replicas[0].tail.len() <= 9, "{} effects are kept", net.replicas[0].tail.len());
    }
    net.settle_until_proposed();
    assert_eq!(net.replicas[2].status().records, 4);
}

/// 1. The learner in slot 2 counts, and has acked a write.
/// 2. A record lets it go: it forgets everything.
/// 3. Another record has it count again, and the primary hears of that one alone. What was acked before must not count.
#[test]
fn a_learner_that_was_let_go_and_counts_again_counts_once_its_filling_is_known_to_stand() {
    let mut net = Net::new(3, &[0], 2);
    let counts = |record: &mut PartitionRecord| (record.learners, record.counting) = (set(&[2]), set(&[2]));
    net.change(counts);
    net.tell_all();
    net.settle_until_proposed();
    net.write(0, 1, put("k", "v"));
    let (_, _, prepare) = net.wire.pop_front().expect("the write is sent");
    net.message(0, 2, prepare);
    let (_, _, ack) = net.wire.pop_front().expect("it is acked");
    net.change(|record| (record.learners, record.counting) = (set(&[]), set(&[])));
    net.tell(2);
    net.change(counts);
    net.tell(0);
    net.message(2, 0, ack);
    assert_eq!((net.replies(), net.replicas[2].status().bytes), (vec![], 0), "one copy is not two");
    net.tell(2);
    net.proposals.clear();
    net.settle_until_proposed();
    assert_eq!(net.replies(), [(1, written(CLOCK, true, 2))]);
    let newest = net.replicas[2].status();
    assert_eq!(newest.last, net.replicas[0].status().last);
}

impl Net {
    pub(super) fn settle_until_proposed(&mut self) {
        for _ in 0..50 {
            self.deliver();
            if !self.proposals.is_empty() {
                return;
            }
            self.pass(Duration::from_millis(50));
        }
        panic!("nobody is proposed");
    }
}

#[test]
fn nonsense_from_a_member_breaks_nothing() {
    let mut rng = Rng::new(11);
    let mut net = Net::new(3, &[0, 1], 1);
    net.change(|record| record.learners = set(&[2]));
    net.tell_all();
    net.settle_until_proposed();
    for _ in 0..30_000 {
        let message = nonsense(&mut rng);
        let (from, to) = (rng.below(3) as u8, rng.below(3) as usize);
        net.message(from, to, message);
        net.wire.clear();
        net.write(0, 1, put("k", "v"));
        net.run(to, |replica, now, out| replica.handle_timeout(now + Duration::from_secs(1), CLOCK, out));
    }
}

fn nonsense(rng: &mut Rng) -> Message {
    let number = |rng: &mut Rng| match rng.below(8) {
        0 => u64::MAX,
        1 => u64::MAX / 2,
        _ => rng.below(6),
    };
    // Higher epochs are true news, after which nothing is nonsense any more.
    let epoch = Epoch(10 - rng.below(3) / 2);
    let position = |rng: &mut Rng| Position::new(Epoch(9 + number(rng).min(2)), Seq(number(rng)));
    let (seq, attach) = (Seq(number(rng)), AttachId(number(rng)));
    let change = ChangeNumber(number(rng).min(2));
    let version = Version(number(rng));
    let key: Key = if rng.below(2) == 0 { key("a") } else { key("b") };
    match rng.below(13) {
        0 => Message::NewEpoch { epoch, change },
        1 => Message::NewEpochAck { epoch, applied: position(rng), runs: vec![position(rng), position(rng)] },
        2 | 3 => {
            let delete = Effect::Delete { key, version, expired: false, marked: None };
            let effects = vec![(position(rng).epoch, delete); rng.below(4) as usize];
            Message::Prepare { epoch, previous: position(rng), commit: seq, effects }
        }
        // A member that claims to hold what it doesn't is believed, as far as it can be true.
        4 => Message::Ack { epoch, attach, seq: Seq(number(rng).max(1 << 40)), commit: seq },
        5 => Message::Reject { epoch, attach, seq: Seq(number(rng).max(1 << 40)) },
        6 => Message::Commit { epoch, seq },
        7 => Message::AttachLearner { epoch, change, attach, previous: position(rng), version_max: version },
        8 => {
            let value = Blob::from_static(b"v");
            let record = ScannedRecord {
                key: key.clone(),
                value,
                content_type: None,
                version,
                ttl_ms: Some(version.0),
                hash: RecordHash(0),
            };
            let records = vec![record; rng.below(3) as usize];
            Message::ScanChunk { epoch, attach, after: Some(key), records, last: rng.below(2) == 0, recent: Vec::new() }
        }
        9 => Message::Check { epoch, seq, check: Box::new(nonsensical_check(rng, key, version)) },
        10 => {
            let reached = (rng.below(2) == 0).then(|| key.clone());
            let (buckets, keys) = (BucketSet(u64::MAX), vec![key; rng.below(3) as usize]);
            let finding = match rng.below(3) {
                0 => Finding::Differs,
                1 => Finding::Buckets(buckets),
                _ => Finding::Keys { buckets, keys, reached },
            };
            Message::Finding { epoch, finding: Box::new(finding) }
        }
        11 => Message::Fetch { epoch, key, version },
        _ => match rng.below(2) {
            0 => Message::ScanAck { epoch, attach, heard: change, after: Some(key), done: rng.below(2) == 0 },
            _ => Message::Detached { epoch, attach },
        },
    }
}

fn nonsensical_check(rng: &mut Rng, key: Key, version: Version) -> Check {
    let (buckets, hash) = (BucketSet(u64::MAX), RecordHash(rng.bits()));
    match rng.below(4) {
        0 => Check::Digest(Digest { sum: rng.bits(), records: version.0 }),
        1 => Check::Buckets(Box::new([rng.bits(); 64])),
        2 => {
            let entries = vec![Fingerprint { key: key.clone(), version, hash }; rng.below(3) as usize];
            Check::Keys { buckets, after: Some(key.clone()), through: Some(key), entries }
        }
        _ => {
            let record = ScannedRecord {
                key: key.clone(),
                value: Blob::default(),
                content_type: None,
                version,
                ttl_ms: None,
                hash,
            };
            Check::Records { buckets, reached: None, records: vec![(key, Some(record))] }
        }
    }
}

#[test]
fn a_learner_that_is_greeted_before_its_record_comes_answers_at_once() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.change(|record| (record.in_sync, record.learners, record.counting) = (set(&[0]), set(&[2]), set(&[2])));
    net.tell(0);
    net.write(0, 1, put("a", "v"));
    net.deliver();
    assert_eq!(net.replies(), [(1, written(CLOCK, true, 2))], "its record has still to come");
}

#[test]
fn a_learner_that_a_recovery_by_force_makes_primary_serves_what_it_has() {
    let mut net = net_with_learner();
    net.wire.clear();
    net.write(0, 10, put("d", "live"));
    net.wire.retain(|(_, to, _)| to.slot == Slot(2));
    net.deliver();
    net.wire.clear();
    net.change(|record| {
        record.epoch = Epoch(record.epoch.0 + Epoch::RECOVERY_GAP);
        (record.primary, record.in_sync, record.learners) = (Some(Slot(2)), set(&[2]), set(&[]));
    });
    net.tell(2);
    assert!(net.replicas[2].is_serving());
    assert_eq!(net.read(2, "a"), None, "nobody sent it that");
    net.pass(Duration::from_secs(1));
    assert_eq!(net.read(2, "d"), Some(b"live".to_vec()));
}

/// Nobody is in a hurry, and whether there is room for a scan.
fn set_room(net: &mut Net, has_room: bool) {
    net.replicas[0].set_scan_room(ScanRoom { has_room, is_hurried: false });
}

#[test]
fn a_learner_that_nobody_is_in_a_hurry_for_is_greeted_when_there_is_room() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.write(0, 1, put("a", "old"));
    net.settle();
    set_room(&mut net, false);
    net.change(|record| record.learners = set(&[2]));
    net.tell_all();
    assert_eq!((net.wire.len(), net.replicas[0].waits_to_scan()), (0, Some(ScanWaits::ToBegin)));
    // Meanwhile nothing is sent to it, nothing is kept for it, and no timer rings.
    for nth in 0..5 {
        net.write(0, 10 + nth, put("b", "live"));
        net.settle();
    }
    let primary = &net.replicas[0];
    assert_eq!((primary.tail.len(), primary.next_deadline(), net.replicas[2].status().records), (0, Instant::FAR, 0));
    set_room(&mut net, true);
    net.run(0, |replica, now, out| replica.go_on_scanning(now, out));
    assert!(matches!(net.wire.front(), Some((_, _, Message::AttachLearner { .. }))));
    assert!(net.replicas[0].scans_under_way() > 0, "what it has room for it has room for at once");
    net.deliver();
    assert_eq!((net.replicas[2].status().records, net.proposals.len()), (2, 1));
}

#[test]
fn a_learner_that_counts_is_greeted_though_there_is_no_room() {
    let mut net = Net::new(3, &[0], 1);
    set_room(&mut net, false);
    net.change(|record| record.learners = set(&[1, 2]));
    net.tell(0);
    assert_eq!(net.wire.len(), 0);
    net.change(|record| record.counting = set(&[2]));
    net.tell(0);
    let greeted: Vec<u8> = net.wire.iter().map(|(_, to, _)| to.slot.0).collect();
    assert_eq!(greeted, [2]);
}
