//! The follower, message by message.

use std::sync::Arc;

use super::*;
use crate::api::EventKind;
use crate::base::{ClusterId, Incarnation, PartitionRecord, Slot, SlotSet};

fn node(slot: u8) -> NodeId {
    NodeId::new(Slot(slot), Incarnation(u128::from(slot) + 1))
}

/// Two nodes of one shard, of which n1 leads both partitions.
fn view() -> View {
    let record = PartitionRecord { primary: Some(Slot(0)), in_sync: SlotSet::first(2), ..PartitionRecord::default() };
    View {
        cluster: ClusterId(7),
        registered: vec![Some(node(0)), Some(node(1))],
        up: SlotSet::first(2),
        table: Arc::from([record, record]),
        ..View::default()
    }
}

fn message(session: u64, number: u64, body: FeedBody) -> FeedMessage {
    FeedMessage { shard: 0, session, number, body }
}

fn heads(session: u64, heads: &[(u16, u64)], closed: u64) -> FeedMessage {
    let heads = heads.iter().map(|(partition, seq)| (PartitionId(*partition), Seq(*seq))).collect();
    message(session, 0, FeedBody::Heads { shards: 1, heads, closed: Version(closed) })
}

fn events(partition: u16, after: u64, last: u64, is_answer: bool) -> FeedBody {
    let event = |seq| {
        let event = FeedEvent {
            kind: EventKind::Delete,
            key: "k".parse().expect("a key"),
            partition: PartitionId(partition),
            version: Version(seq * 10),
            value: None,
            content_type: None,
        };
        (Seq(seq), event)
    };
    let events = (after + 1..=last).map(event).collect();
    FeedBody::Events(PartitionEvents {
        partition: PartitionId(partition),
        after: Seq(after),
        last: Seq(last),
        is_answer,
        events,
    })
}

struct Bench {
    follower: Follower,
    view: View,
}

impl Bench {
    fn live() -> Self {
        let mut bench = Self { follower: Follower::default(), view: view() };
        bench.follower.begin(Instant::ZERO, RequestId(1), &bench.view);
        let mut out = Vec::new();
        bench.follower.handle_view(Instant::ZERO, &bench.view, &mut out);
        assert_eq!(bench.take(0, heads(1, &[(0, 5), (1, 9)], 100)), []);
        assert_eq!(bench.take(1, heads(1, &[], 90)), [FollowerOutput::Live]);
        bench
    }

    fn take(&mut self, from: u8, message: FeedMessage) -> Vec<FollowerOutput> {
        let mut out = Vec::new();
        self.follower.handle_message(node(from), message, &self.view, &mut out);
        out
    }

    /// The versions that a message makes it show.
    fn shown(&mut self, from: u8, message: FeedMessage) -> Vec<u64> {
        let shown = |output| match output {
            FollowerOutput::Show(event) => Some(event.version.0),
            _ => None,
        };
        self.take(from, message).into_iter().filter_map(shown).collect()
    }

    fn covers(&self, slot: u8, version: u64) -> bool {
        FeedCursor::from_text(self.follower.cursor()).expect("it wrote it").covers(node(slot), Version(version))
    }
}

#[test]
fn each_effect_is_shown_once_and_in_order() {
    let mut bench = Bench::live();
    assert_eq!(bench.shown(0, message(1, 1, events(0, 5, 7, false))), [60, 70]);
    // A new primary tells its predecessor's last effects again.
    assert_eq!(bench.shown(1, message(1, 1, events(0, 5, 8, false))), [80]);
    assert_eq!(bench.shown(0, message(1, 2, events(1, 3, 9, false))), [0; 0]);
}

#[test]
fn a_hole_is_fetched_and_the_cursor_waits_for_it() {
    let mut bench = Bench::live();
    let fetch = |after| FollowerOutput::Fetch { from: node(0), partition: PartitionId(0), after: Some(Seq(after)) };
    assert_eq!(bench.take(0, message(1, 1, events(0, 6, 8, false))), [fetch(5)]);
    assert_eq!(bench.take(0, message(1, 2, FeedBody::Closed(Version(300)))), []);
    assert!(bench.covers(0, 100) && !bench.covers(0, 101), "6 was not shown");
    // The answer has half of it, then the rest.
    let out = bench.take(0, message(1, 3, events(0, 5, 7, true)));
    assert_eq!((out.len(), out.last()), (3, Some(&fetch(7))));
    assert_eq!(bench.shown(0, message(1, 4, events(0, 7, 8, true))), [80]);
    assert!(bench.covers(0, 300));
    // Where the ring doesn't reach back so far, nothing can be gone on with.
    assert_eq!(bench.take(0, message(1, 5, events(1, 12, 13, false))).len(), 1);
    assert_eq!(bench.take(0, message(1, 6, events(1, 11, 13, true))), [FollowerOutput::Cut]);
}

#[test]
fn a_message_that_is_missing_keeps_the_cursor_and_ends_the_stream() {
    let mut bench = Bench::live();
    assert_eq!(bench.shown(0, message(1, 2, events(1, 9, 10, false))), [100], "out of turn, and shown all the same");
    bench.take(0, message(1, 3, FeedBody::Closed(Version(300))));
    assert!(!bench.covers(0, 300), "number 1 may have told of something below");
    let asked = |bench: &mut Bench| {
        let mut out = Vec::new();
        bench.follower.on_asked(Instant::ZERO, &bench.view, &mut out);
        out
    };
    assert_eq!(asked(&mut bench), []);
    assert_eq!(asked(&mut bench), [FollowerOutput::Restart { node: node(0), shard: 0 }]);
    // The new stream's heads tell what was missed.
    let out = bench.take(0, heads(2, &[(0, 6), (1, 10)], 400));
    assert_eq!(out, [FollowerOutput::Fetch { from: node(0), partition: PartitionId(0), after: Some(Seq(5)) }]);
    assert!(!bench.covers(0, 101));
    assert_eq!(bench.shown(0, message(2, 1, events(0, 5, 6, true))), [60]);
    assert!(bench.covers(0, 400));
    assert_eq!(bench.take(0, message(1, 4, events(0, 6, 7, false))), [], "of the stream before");
}

#[test]
fn strangers_and_nonsense_change_nothing() {
    let mut bench = Bench::live();
    let stranger = NodeId::new(Slot(0), Incarnation(99));
    let mut out = Vec::new();
    bench.follower.handle_message(stranger, message(1, 1, events(0, 5, 6, false)), &bench.view, &mut out);
    assert_eq!(out, []);
    assert_eq!(bench.take(0, message(1, 1, events(9, 5, 6, false))), []);
    assert_eq!(bench.take(0, heads(2, &[(0, u64::MAX)], u64::MAX)), []);
}
