//! One test for each rule.

mod give_back;
mod learners;
#[cfg(feature = "sim")]
mod mute;
mod reads;
#[cfg(feature = "sim")]
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::api::{EventKind, FeedEvent, Key, Match, Precondition, PutMode};
use crate::base::{Blob, Incarnation, Rng, Slot, SlotSet};
use crate::store::{Effect, Stored};

/// Replicas of one partition, and messages that are delivered when a test says so.
struct Net {
    replicas: Vec<Replica>,
    nodes: Vec<Option<NodeId>>,
    now: Instant,
    record: PartitionRecord,
    wire: VecDeque<(NodeId, NodeId, Message)>,
    replies: Vec<(u64, Result<Response, Error>)>,
    events: Vec<FeedEvent>,
    proposals: Vec<InSyncChange>,
    verified: usize,
    damage: Vec<(usize, Damage)>,
}

/// Unix time in microseconds of all tests.
const CLOCK: u64 = 1_000_000;

fn node(slot: u8) -> NodeId {
    NodeId::new(Slot(slot), Incarnation(u128::from(slot) + 100))
}

/// What a primary has committed since so many effects had been put into its ring; nothing of anybody else.
pub(super) fn committed_since(replica: &Replica, pushed: u64) -> Vec<FeedEvent> {
    let count = replica.ring().pushed() - pushed;
    let news = replica.ring().after(Seq(replica.ring().last().0 - count)).into_iter().flatten();
    news.filter(|_| replica.is_in_office()).filter_map(|entry| entry.event.clone()).collect()
}

fn set(slots: &[u8]) -> SlotSet {
    slots.iter().map(|slot| Slot(*slot)).collect()
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn put_with(key: &str, value: &'static str, mode: PutMode, precondition: Precondition) -> Operation {
    let value = Blob::from_static(value.as_bytes());
    Operation::Put { key: self::key(key), value, content_type: None, ttl_ms: None, mode, precondition }
}

fn put(key: &str, value: &'static str) -> Operation {
    put_with(key, value, PutMode::Upsert, Precondition::NONE)
}

fn create(key: &str) -> Operation {
    put_with(key, "created", PutMode::Create, Precondition::NONE)
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: self::key(key), precondition: Precondition::NONE }
}

fn written(version: u64, created: bool, copies: u8) -> Result<Response, Error> {
    Ok(Response::Written { version: Version(version), created, copies })
}

impl Net {
    /// `count` replicas; those in `in_sync` found the partition with slot 0 as primary, and it has settled.
    fn new(count: u8, in_sync: &[u8], min_copies: u8) -> Self {
        let mut net = Self::unfounded(count, in_sync, min_copies);
        net.tell_all();
        net.settle();
        net
    }

    fn unfounded(count: u8, in_sync: &[u8], min_copies: u8) -> Self {
        let build = |slot| {
            let options = ReplicaOptions { min_copies, tail_effects_max: 8, ..ReplicaOptions::new(node(slot)) };
            Replica::new(PartitionId(3), &Arc::new(options))
        };
        Self {
            replicas: (0..count).map(build).collect(),
            nodes: (0..count).map(|slot| Some(node(slot))).collect(),
            now: Instant(5_000_000_000),
            record: PartitionRecord {
                epoch: Epoch(10),
                change: ChangeNumber(1),
                primary: Some(Slot(0)),
                in_sync: set(in_sync),
                learners: SlotSet::EMPTY,
                counting: SlotSet::EMPTY,
                former: None,
            },
            wire: VecDeque::new(),
            replies: Vec::new(),
            events: Vec::new(),
            proposals: Vec::new(),
            verified: 0,
            damage: Vec::new(),
        }
    }

    fn run(&mut self, slot: usize, input: impl FnOnce(&mut Replica, Instant, &mut Vec<Output>)) {
        let mut out = Vec::new();
        let replica = &mut self.replicas[slot];
        let before = replica.ring().pushed();
        input(replica, self.now, &mut out);
        replica.check_invariants();
        self.events.extend(committed_since(replica, before));
        for output in out {
            match output {
                Output::Send { to, message } => self.wire.push_back((node(slot as u8), to, message)),
                Output::Reply { request, result } => self.replies.push((request.0, result)),
                Output::Propose(change) => self.proposals.push(change),
                Output::Verified => self.verified += 1,
                Output::Damage(damage) => self.damage.push((slot, damage)),
            }
        }
    }

    fn write(&mut self, slot: usize, request: u64, operation: Operation) {
        self.run(slot, |replica, now, out| replica.handle_write(now, CLOCK, RequestId(request), operation, out));
    }

    fn tell(&mut self, slot: usize) {
        let (record, nodes) = (self.record, self.nodes.clone());
        self.run(slot, |replica, now, out| replica.handle_record(now, &record, &nodes, out));
    }

    fn tell_all(&mut self) {
        for slot in 0..self.replicas.len() {
            self.tell(slot);
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut PartitionRecord)) {
        change(&mut self.record);
        self.record.change = self.record.change.next();
        self.record.check_invariants();
    }

    fn promote(&mut self, primary: u8, in_sync: &[u8]) {
        self.change(|record| {
            record.epoch = Epoch(record.epoch.0 + 10);
            record.primary = Some(Slot(primary));
            record.in_sync = set(in_sync);
        });
    }

    fn message(&mut self, from: u8, to: usize, message: Message) {
        self.run(to, |replica, now, out| replica.handle_message(now, node(from), message, out));
    }

    /// Delivers what is under way and what it causes.
    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            self.message(from.slot.0, to.slot.index(), message);
        }
    }

    /// Lets time pass until nobody waits for anything.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.deliver();
            let next = self.replicas.iter().map(Replica::next_deadline).min().expect("there are replicas");
            if next == Instant::FAR {
                return;
            }
            self.pass(next.since(self.now));
        }
        panic!("it never settles");
    }

    /// Lets time pass, and every replica that is due act once.
    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for slot in 0..self.replicas.len() {
            if self.replicas[slot].next_deadline() <= self.now {
                self.run(slot, |replica, now, out| replica.handle_timeout(now, CLOCK, out));
                let next = self.replicas[slot].next_deadline();
                assert!(next > self.now, "replica {slot} would be woken at {next:?} again, without an end");
            }
        }
    }

    fn replies(&mut self) -> Vec<(u64, Result<Response, Error>)> {
        std::mem::take(&mut self.replies)
    }

    fn read(&self, slot: usize, key: &str) -> Option<Vec<u8>> {
        let value = self.replicas[slot].read(self.now, &self::key(key)).expect("it serves");
        value.map(|value| value.bytes.to_vec())
    }
}

#[test]
fn a_write_is_answered_once_every_in_sync_copy_has_it_and_is_invisible_before() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    net.write(0, 1, put("k", "v"));
    assert_eq!(net.wire.len(), 2, "one Prepare for each backup and nothing else");
    let last = net.wire.pop_back().expect("the second Prepare");
    net.deliver();
    assert_eq!((net.replies(), net.read(0, "k"), net.events.len()), (vec![], None, 0));
    net.wire.push_back(last);
    net.deliver();
    assert_eq!(net.replies(), [(1, written(CLOCK, true, 3))]);
    assert_eq!((net.read(0, "k"), net.events.len()), (Some(b"v".to_vec()), 1));
}

#[test]
fn backups_learn_the_commit_point_soon_after_and_then_nobody_waits_for_anything() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.deliver();
    assert!(net.replicas[1].read_stale(net.now, &key("k")).expect("in sync").is_none());
    net.pass(Duration::from_millis(5));
    net.deliver();
    assert!(net.replicas[1].read_stale(net.now, &key("k")).expect("in sync").expect("there").stale);
    assert!(net.replicas.iter().all(|replica| replica.next_deadline() == Instant::FAR));
}

#[test]
fn a_commit_notice_that_was_lost_is_asked_for() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.deliver();
    net.pass(Duration::from_millis(5));
    assert!(matches!(net.wire.pop_front(), Some((_, _, Message::Commit { .. }))));
    net.settle();
    assert!(net.replicas[1].read_stale(net.now, &key("k")).expect("in sync").is_some());
}

#[test]
fn preconditions_are_judged_against_effects_that_are_not_committed() {
    let only = |precondition| put_with("k", "second", PutMode::Upsert, precondition);
    let version = |version| Some(Match::Versions(vec![Version(version)]));
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "first"));
    net.write(0, 2, only(Precondition { if_match: version(CLOCK), if_none_match: None }));
    net.write(0, 3, only(Precondition { if_match: version(CLOCK), if_none_match: None }));
    net.write(0, 4, only(Precondition { if_match: None, if_none_match: Some(Match::Any) }));
    net.write(0, 5, create("k"));
    net.write(0, 6, delete("k"));
    net.write(0, 7, delete("k"));
    net.write(0, 8, create("k"));
    assert_eq!(net.replies(), [], "every answer rests on effects that aren't committed, the refusals too");
    net.deliver();
    let failed = || Err(Error::PreconditionFailed { current: Some(Version(CLOCK + 1)) });
    let expected = [
        (1, written(CLOCK, true, 2)),
        (2, written(CLOCK + 1, false, 2)),
        (3, failed()),
        (4, failed()),
        (5, Err(Error::Exists { current: Version(CLOCK + 1) })),
        (6, Ok(Response::Deleted { version: Version(CLOCK + 2), copies: 2 })),
        (7, Ok(Response::NotFound)),
        (8, written(CLOCK + 3, true, 2)),
    ];
    assert_eq!(net.replies(), expected);
    net.write(0, 9, create("k"));
    assert_eq!(net.replies().len(), 1, "what rests on committed effects is refused at once");
}

#[test]
fn a_write_is_refused_with_too_few_copies_and_with_too_many_in_flight() {
    let mut net = Net::new(2, &[0, 1], 2);
    for request in 0..8 {
        net.write(0, request, put("k", "v"));
    }
    net.write(0, 8, put("k", "v"));
    assert!(matches!(net.replies()[..], [(8, Err(Error::Busy(_)))]));
    net.settle();
    assert_eq!(net.replies().len(), 8);
    net.change(|record| record.in_sync = set(&[0]));
    net.tell_all();
    net.write(0, 9, put("k", "v"));
    assert_eq!(net.replies(), [(9, Err(Error::TooFewCopies { copies: 1, copies_min: 2 }))]);
    assert!(net.replicas[0].is_serving(), "reads go on");
}

#[test]
fn writes_in_flight_when_the_set_shrinks_commit_if_enough_copies_are_left_and_wait_otherwise() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    net.write(0, 1, put("k", "v"));
    net.wire.retain(|(_, to, _)| to.slot == Slot(1));
    net.deliver();
    assert_eq!(net.replies(), []);
    net.change(|record| record.in_sync = set(&[0, 1]));
    net.tell(0);
    assert_eq!(net.replies(), [(1, written(CLOCK, true, 2))]);
    net.write(0, 2, put("k", "w"));
    net.change(|record| record.in_sync = set(&[0]));
    net.tell(0);
    assert_eq!((net.replies(), net.read(0, "k")), (vec![], Some(b"v".to_vec())));
}

#[test]
fn a_lost_effect_is_rejected_behind_and_sent_again() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("a", "1"));
    let lost = net.wire.pop_front();
    assert!(matches!(lost, Some((_, _, Message::Prepare { .. }))));
    net.write(0, 2, put("b", "2"));
    net.write(0, 3, put("c", "3"));
    net.deliver();
    assert_eq!(net.replies().len(), 3, "without waiting for any timer");
    // The last one before a pause has nothing behind it that could be rejected: the timer finds it.
    net.write(0, 4, put("d", "4"));
    net.wire.clear();
    net.pass(Duration::from_millis(150));
    net.deliver();
    assert_eq!(net.replies().len(), 1);
}

#[test]
fn effects_that_come_twice_or_overlap_are_taken_once() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("a", "1"));
    net.write(0, 2, put("a", "2"));
    let both: Vec<_> = net.wire.iter().cloned().collect();
    net.deliver();
    net.settle();
    net.wire.extend(both);
    net.settle();
    let last = net.replicas[0].status().last;
    assert_eq!((net.replicas[1].status().last, net.replies().len()), (last, 2));
    assert_eq!(net.replicas[1].table.read(&key("a")).map(Stored::version), Some(Version(CLOCK + 1)));
}

#[test]
fn a_primary_of_a_fenced_epoch_is_rejected_and_leaves_office() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    net.promote(1, &[1, 2]);
    net.tell(2);
    net.write(0, 1, put("k", "v"));
    net.write(0, 2, create("k"));
    net.deliver();
    assert!(matches!(net.replies()[..], [(1, Err(Error::OutcomeUnknown(_))), (2, Err(Error::Unavailable { .. }))]));
    assert!(!net.replicas[0].is_serving());
    net.write(0, 3, put("k", "v"));
    assert!(matches!(net.replies()[..], [(3, Err(Error::Unavailable { .. }))]));
    // Its old record, told again, doesn't bring it back.
    let old = PartitionRecord { epoch: Epoch(10), change: ChangeNumber(1), ..net.record };
    let nodes = net.nodes.clone();
    net.run(0, |replica, now, out| replica.handle_record(now, &old, &nodes, out));
    assert_eq!(net.replicas[0].status().epoch, Epoch(20));
}

#[test]
fn a_new_primary_serves_only_once_its_epoch_start_is_on_every_in_sync_copy() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    net.write(0, 1, put("k", "v"));
    net.deliver();
    // Slot 1 holds the write, but doesn't know that it is committed: an early read would miss what was acknowledged.
    net.promote(1, &[1, 2]);
    net.tell(1);
    assert!(!net.replicas[1].is_serving());
    assert_eq!(net.replicas[1].read(net.now, &key("k")), Err(NotServing));
    net.deliver();
    assert_eq!(net.read(1, "k"), Some(b"v".to_vec()));
    net.tell_all();
    net.settle();
    assert_eq!(net.replicas[0].status().records, 0, "who is no member any more keeps nothing");
}

#[test]
fn a_lone_survivor_settles_what_it_has_so_that_reads_go_on() {
    let mut net = Net::new(2, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.deliver();
    net.promote(1, &[1]);
    net.tell(1);
    assert_eq!(net.read(1, "k"), Some(b"v".to_vec()));
    net.write(1, 2, put("k", "w"));
    assert!(matches!(net.replies()[..], [_, (2, Err(Error::TooFewCopies { .. }))]));
}

#[test]
fn histories_that_differ_are_cut_at_the_last_shared_position_not_at_a_watermark() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    // The old primary's effects reach slot 1 only.
    for request in 0..3 {
        net.write(0, request, put("old", "lost"));
    }
    net.wire.retain(|(_, to, _)| to.slot == Slot(1));
    net.deliver();
    // Slot 2 leads for a while, alone with effects of its own at the same sequence numbers.
    net.promote(2, &[1, 2]);
    net.tell(2);
    net.wire.clear();
    assert_eq!(net.replicas[1].status().last.seq, Seq(4));
    net.tell(1);
    net.message(2, 1, Message::Commit { epoch: Epoch(20), seq: Seq(4) });
    assert_eq!(net.replicas[1].status().applied.seq, Seq(1), "what the new primary hasn't confirmed isn't applied");
    net.wire.clear();
    net.pass(Duration::from_millis(150));
    net.deliver();
    let status = net.replicas[1].status();
    assert_eq!(status.last, Position::new(Epoch(20), Seq(2)), "the three are gone, the new start is there");
    assert!(net.replicas[2].is_serving());
    net.write(2, 9, put("new", "kept"));
    net.settle();
    assert!(net.replicas[1].table.read(&key("old")).is_none() && net.replicas[1].table.read(&key("new")).is_some());
}

#[test]
fn the_last_match_is_found_by_epoch_and_sequence_number() {
    let position = |epoch, seq| Position::new(Epoch(epoch), Seq(seq));
    let mut tail = Tail::default();
    tail.reset(position(1, 10));
    for epoch in [1, 1, 3, 3, 5] {
        tail.push(tail::Entry {
            epoch: Epoch(epoch),
            received: Instant::ZERO,
            effect: Effect::EpochStart { version: Version::ZERO },
        });
    }
    assert_eq!(tail.runs(), [position(1, 12), position(3, 14), position(5, 15)]);
    // What the other side has applied, its runs, and where the two part.
    let cases = [
        (position(1, 10), vec![position(1, 12), position(3, 14)], Some(position(3, 14))),
        (position(1, 10), vec![position(1, 13), position(2, 15)], Some(position(1, 12))),
        (position(1, 10), vec![position(2, 14)], Some(position(1, 10))),
        (position(1, 9), vec![position(1, 11)], Some(position(1, 11))),
        (position(3, 13), vec![], Some(position(3, 13))),
        (position(3, 13), vec![position(4, 15)], Some(position(3, 13))),
        (position(1, 10), vec![position(3, 14), position(5, 99)], Some(position(5, 15))),
        (position(1, 9), vec![], None),
        (position(2, 13), vec![], None),
        (position(1, 10), vec![position(9, u64::MAX), position(9, 0)], Some(position(1, 10))),
    ];
    for (applied, runs, expected) in cases {
        assert_eq!(tail.last_match(applied, &runs), expected, "applied {applied}, runs {runs:?}");
    }
}

#[test]
fn a_greeting_may_come_before_its_record() {
    let mut net = Net::new(3, &[0, 1, 2], 2);
    net.promote(1, &[1, 2]);
    net.tell(1);
    net.deliver();
    assert!(net.replicas[1].is_serving(), "slot 2 has heard of the epoch by its greeting only");
    // A record from in between, in which slot 2 is no member, is history.
    let between = PartitionRecord { change: ChangeNumber(1), in_sync: set(&[0]), epoch: Epoch(10), ..net.record };
    let between = PartitionRecord { primary: Some(Slot(0)), ..between };
    let nodes = net.nodes.clone();
    net.run(2, |replica, now, out| replica.handle_record(now, &between, &nodes, out));
    assert_eq!(net.replicas[2].status().role, ReplicaRole::Backup);
}

#[test]
fn messages_of_whoever_is_not_the_registered_node_are_dropped() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    let (_, _, prepare) = net.wire.pop_front().expect("a Prepare");
    net.message(2, 1, prepare);
    assert_eq!(net.wire.len(), 0);
    let imposter = NodeId::new(Slot(1), Incarnation(9));
    let seq = net.replicas[0].status().last.seq;
    let ack = Message::Ack { epoch: Epoch(10), attach: AttachId(0), seq, commit: Seq(0) };
    net.run(0, |replica, now, out| replica.handle_message(now, imposter, ack.clone(), out));
    assert_eq!(net.replies(), []);
    net.message(1, 0, ack);
    assert_eq!(net.replies().len(), 1);
}

#[test]
fn versions_rise_across_epochs_though_the_new_primary_has_a_slow_clock() {
    let mut net = Net::new(2, &[0, 1], 1);
    let fast = |replica: &mut Replica, now, out: &mut Vec<Output>| {
        replica.handle_write(now, CLOCK * 9, RequestId(1), put("k", "v"), out);
    };
    net.run(0, fast);
    net.deliver();
    net.promote(1, &[1]);
    net.tell(1);
    net.write(1, 2, put("k", "w"));
    // The start of the epoch has a version, too.
    assert_eq!(net.replies(), [(1, written(CLOCK * 9, true, 2)), (2, written(CLOCK * 9 + 2, false, 1))]);
}

#[test]
fn an_expired_record_is_absent_at_once_and_its_delete_is_replicated() {
    let mut net = Net::new(2, &[0, 1], 2);
    let Operation::Put { key, value, content_type, mode, precondition, .. } = put("k", "v") else { unreachable!() };
    net.write(0, 1, Operation::Put { key, value, content_type, mode, precondition, ttl_ms: Some(40) });
    net.deliver();
    net.pass(Duration::from_millis(5));
    net.deliver();
    assert_eq!(net.read(0, "k"), Some(b"v".to_vec()));
    assert_eq!(net.replicas[0].next_deadline(), net.now + Duration::from_millis(35));
    net.now = net.now + Duration::from_millis(35);
    assert_eq!((net.read(0, "k"), net.replicas[0].status().records), (None, 1));
    assert_eq!(net.replicas[1].next_deadline(), Instant::FAR, "a backup decides nothing");
    net.write(0, 2, delete("k"));
    assert_eq!(net.replies().pop(), Some((2, Ok(Response::NotFound))), "it is absent for writes, too");
    net.settle();
    assert_eq!((net.replicas[0].status().records, net.replicas[1].status().records), (0, 0));
    assert_eq!(net.events.last().map(|event| event.kind), Some(EventKind::Expire));
}

#[test]
fn a_delete_that_came_to_nothing_is_ordered_again() {
    let mut net = Net::new(2, &[0, 1], 1);
    let Operation::Put { key, value, content_type, mode, precondition, .. } = put("k", "v") else { unreachable!() };
    net.write(0, 1, Operation::Put { key, value, content_type, mode, precondition, ttl_ms: Some(40) });
    net.deliver();
    net.pass(Duration::from_millis(5));
    net.deliver();
    net.pass(Duration::from_millis(40));
    assert!(matches!(net.wire.pop_front(), Some((_, _, Message::Prepare { .. }))), "slot 0 has ordered the delete");
    // Slot 1 leads for a moment and cuts it off; then slot 0 is back.
    net.promote(1, &[0, 1]);
    net.tell_all();
    net.deliver();
    net.promote(0, &[0, 1]);
    net.tell_all();
    assert_eq!(net.replicas.iter().map(|replica| replica.status().records).collect::<Vec<_>>(), [1, 1]);
    net.settle();
    assert_eq!(net.replicas.iter().map(|replica| replica.status().records).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn without_a_quorum_the_newest_that_a_survivor_knows_is_read_and_marked() {
    let mut net = Net::new(3, &[0, 1], 2);
    net.write(0, 1, put("k", "v"));
    net.settle();
    net.write(0, 2, put("k", "newer"));
    net.write(0, 3, put("l", "v"));
    net.write(0, 4, delete("l"));
    net.deliver();
    let read = |net: &Net, slot: usize, name| net.replicas[slot].read_degraded(net.now, &key(name));
    let value = read(&net, 1, "k").expect("in sync").expect("it is there");
    assert!(value.degraded && value.stale && *value.bytes == *b"newer");
    assert_eq!((read(&net, 1, "l"), read(&net, 2, "k")), (Ok(None), Err(NotServing)));
    let uncommitted = net.replicas[1].uncommitted_records(net.now);
    let uncommitted = uncommitted.into_iter().map(|(key, record)| (key, record.map(|stored| stored.to_blob())));
    let newer = crate::base::Blob::from_static(b"newer");
    assert!(uncommitted.eq([(key("k"), Some(newer)), (key("l"), None)]), "a deleted key is known to be gone");
}

#[test]
fn an_idle_replica_is_small() {
    assert!(size_of::<Replica>() <= 640, "{} bytes, some thousand times", size_of::<Replica>());
}
