//! What a write is told at its deadline: that it isn't known what became of it only where somebody may have begun it.

use std::sync::Arc;
use std::time::Duration;

use jumpgate::api::{Error, Operation, Outcome, Precondition, PutMode, Request, Response};
use jumpgate::base::{
    Epoch, FollowerMode, Incarnation, Instant, NodeId, Options, PartitionRecord, ShardId, Slot, SlotSet, Timing,
};
use jumpgate::control::Settings;
use jumpgate::node::message::{AnswerMessage, PeerMessage};
use jumpgate::node::{ShardCore, ShardOutput, Submitted, View};

const TIMEOUT_MS: u32 = 500;
const HERE: u8 = 0;
const LEADER: u8 = 1;

fn node(slot: u8) -> NodeId {
    NodeId::new(Slot(slot), Incarnation(u128::from(slot) + 1))
}

fn at(ms: u64) -> Instant {
    Instant(1_000_000_000) + Duration::from_millis(ms)
}

fn options(slot: u8) -> Options {
    Options {
        cluster_name: "deadlines".to_owned(),
        me: node(slot),
        slots: 3,
        names: ["n1", "n2", "n3"].map(str::to_owned).to_vec(),
        advertised: vec![String::new(); 3],
        partitions: 1,
        replicas: 1,
        min_copies: 1,
        replicas_auto: false,
        sync_interval: Duration::from_secs(10),
        replace_after: Duration::from_secs(10),
        demote_after: Duration::from_secs(30),
        timing: Timing::default(),
        timing_adapts: true,
        followers: FollowerMode::Relay,
        shards: 1,
        value_bytes_max: 1 << 20,
        key_bytes_max: 1024,
        memory_bytes_max: 1 << 30,
        filling_bytes_max: 1 << 20,
        moving_bytes_per_second: 16 << 20,
        requests_max: 64,
        tail_effects_max: 64,
        feed_effects_max: 1024,
        unix_micros_at_zero: 0,
        seed: u64::from(slot),
    }
}

/// A shard of a node in a cluster that n2 leads, and whose only partition `primary` leads, if anybody.
fn shard(slot: u8, primary: Option<u8>) -> ShardCore {
    let mut shard = ShardCore::new(ShardId(0), Arc::new(options(slot)));
    let all: Vec<Option<NodeId>> = (0..3).map(|slot| Some(node(slot))).collect();
    let record = PartitionRecord {
        epoch: Epoch(1),
        primary: primary.map(Slot),
        in_sync: SlotSet::EMPTY.with(Slot(primary.unwrap_or(2))),
        ..PartitionRecord::default()
    };
    let up = if primary.is_some() { SlotSet::first(3) } else { SlotSet::first(2) };
    let view = View {
        me: node(slot),
        peers: all.clone(),
        registered: all,
        up,
        leader: Some(node(LEADER)),
        settings: Some(Settings { partitions: 1, replicas: 1, min_copies: 1 }),
        table: Arc::from([record]),
        ..View::default()
    };
    shard.handle_view(at(0), &Arc::new(view));
    shard
}

fn write() -> Request {
    let operation = Operation::Put {
        key: "a".parse().expect("a key"),
        value: b"x"[..].into(),
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::NONE,
    };
    Request::new(operation, TIMEOUT_MS)
}

/// What a shard has put out: messages to others, and the answer to its client.
fn drain(shard: &mut ShardCore) -> (Vec<PeerMessage>, Option<Result<Response, Error>>) {
    let (mut messages, mut answer) = (Vec::new(), None);
    while let Some(output) = shard.poll_output() {
        match output {
            ShardOutput::Peer { message, .. } => messages.push(message),
            ShardOutput::Reply { result, .. } => answer = Some(result),
            _ => {}
        }
    }
    (messages, answer)
}

fn outcome(answer: Option<Result<Response, Error>>) -> Option<Outcome> {
    answer.map(|result| result.expect_err("nobody did it").outcome())
}

fn ask(shard: &mut ShardCore) -> Vec<PeerMessage> {
    assert!(matches!(shard.handle_request(at(0), write()), Submitted::Later(_)));
    drain(shard).0
}

#[test]
fn what_waits_for_a_primary_was_never_begun() {
    // This node leads the cluster, and nobody leads the partition.
    let mut shard = shard(LEADER, None);
    assert!(ask(&mut shard).is_empty());
    shard.handle_timeout(at(u64::from(TIMEOUT_MS) + 30));
    assert_eq!(outcome(drain(&mut shard).1), Some(Outcome::Definite));
}

#[test]
fn what_could_not_be_sent_did_not_happen_and_what_was_sent_may_have() {
    let mut here = shard(HERE, Some(2));
    let messages = ask(&mut here);
    assert_eq!(messages.len(), 1, "it goes to the leader");
    here.handle_unsent(&messages[0]);
    assert_eq!(outcome(drain(&mut here).1), Some(Outcome::Definite));
    here.handle_unsent(&messages[0]);
    assert_eq!(drain(&mut here).1, None, "once");

    let mut here = shard(HERE, Some(2));
    assert_eq!(ask(&mut here).len(), 1);
    here.handle_timeout(at(u64::from(TIMEOUT_MS) + 30));
    assert_eq!(outcome(drain(&mut here).1), Some(Outcome::Unknown));
}

/// Whoever was asked to do it never began, and says so before its asker has to give up.
#[test]
fn what_waited_elsewhere_until_the_deadline_did_not_happen() {
    let (mut here, mut there) = (shard(HERE, None), shard(LEADER, None));
    let travel = 2;
    for message in ask(&mut here) {
        let PeerMessage::Shard(partition, message) = message else { panic!("{message:?}") };
        there.handle_message(at(travel), node(HERE), partition, message);
    }
    let mut answer = None;
    for ms in 0..u64::from(TIMEOUT_MS) + 100 {
        there.handle_timeout(at(ms));
        for message in drain(&mut there).0 {
            let PeerMessage::Answer(id, said @ AnswerMessage::Forwarded(_)) = message else { continue };
            here.handle_answer(at(ms + travel), node(LEADER), id, said);
        }
        here.handle_timeout(at(ms));
        answer = answer.or(drain(&mut here).1);
    }
    assert_eq!(outcome(answer), Some(Outcome::Definite));
}
