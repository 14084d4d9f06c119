//! Thousands of keys that run out at once: they are deleted a few at a time, and what else there is to do is done between.

use std::time::Duration;

use jumpgate::api::{Operation, Precondition, PutMode, Request};
use jumpgate::base::{FollowerMode, Incarnation, Instant, NodeId, Options, Slot, Timing};
use jumpgate::node::{Node, NodeOutput, Submitted};

const KEYS: usize = 20_000;
/// What one look at the clock deletes at most: what a lock is held for, while every other request of the shard waits.
const DELETED_AT_ONCE_MAX: u64 = 512;

/// A node that is its whole cluster, so that whatever it orders is committed at once.
struct Lone {
    node: Node,
    now: Instant,
}

impl Lone {
    fn founded() -> Self {
        let now = Instant(1_000_000_000);
        let mut lone = Self { node: Node::new(options(), now), now };
        for _ in 0..2_000 {
            lone.pass(Duration::from_millis(5));
            if lone.node.shards().iter().all(|shard| shard.is_serving_all(lone.now)) {
                return lone;
            }
        }
        panic!("it did not found its cluster within ten seconds");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.look_at_the_clock();
    }

    fn look_at_the_clock(&mut self) {
        self.node.handle_timeout(self.now);
        while self.node.poll_output().is_some() {}
    }

    fn keys(&self) -> u64 {
        self.node.shards().iter().map(|shard| shard.load().keys).sum()
    }

    /// Whether a write was answered in the call, and well.
    fn put(&mut self, name: &str, ttl_ms: Option<u64>) -> bool {
        let operation = Operation::Put {
            key: name.parse().expect("a key"),
            value: name.as_bytes().into(),
            content_type: None,
            ttl_ms,
            mode: PutMode::Upsert,
            precondition: Precondition::NONE,
        };
        let (_, submitted) = self.node.handle_request(self.now, Request::new(operation, 1000));
        let mut is_done = matches!(&submitted, Submitted::Now(Ok(_)));
        while let Some(output) = self.node.poll_output() {
            is_done |= matches!(&output, NodeOutput::Reply { result: Ok(_), .. });
        }
        is_done
    }
}

fn options() -> Options {
    Options {
        cluster_name: "expiry".to_owned(),
        me: NodeId::new(Slot(0), Incarnation(1)),
        slots: 1,
        names: vec!["n1".to_owned()],
        advertised: vec![String::new()],
        partitions: 64,
        replicas: 1,
        min_copies: 1,
        replicas_auto: true,
        sync_interval: Duration::from_secs(3600),
        replace_after: Duration::from_secs(10),
        demote_after: Duration::from_secs(30),
        timing: Timing::default(),
        timing_adapts: true,
        followers: FollowerMode::default(),
        shards: 1,
        value_bytes_max: 1 << 20,
        key_bytes_max: 1024,
        memory_bytes_max: 1 << 30,
        filling_bytes_max: 1 << 20,
        moving_bytes_per_second: 16 << 20,
        requests_max: 64,
        tail_effects_max: 4096,
        feed_effects_max: 100,
        unix_micros_at_zero: 0,
        seed: 1,
    }
}

#[test]
fn keys_that_run_out_at_once_are_deleted_a_few_at_a_time_and_writes_go_on_between() {
    let mut lone = Lone::founded();
    for number in 0..KEYS {
        assert!(lone.put(&format!("short {number}"), Some(60_000)), "{number}");
    }
    assert_eq!(lone.keys(), KEYS as u64);
    lone.pass(Duration::from_secs(59));
    assert_eq!(lone.keys(), KEYS as u64, "none has run out");
    lone.now = lone.now + Duration::from_secs(1);
    let mut looks = 0;
    while lone.keys() > looks {
        let before = lone.keys();
        lone.look_at_the_clock();
        let deleted = before - lone.keys();
        assert!(deleted > 0 && deleted <= DELETED_AT_ONCE_MAX, "{deleted} of {before} were deleted at once");
        assert!(lone.keys() == looks || lone.node.poll_timeout() <= lone.now, "it would not go on at once");
        // Another key's write doesn't wait for the rest.
        assert!(lone.put(&format!("long {looks}"), None));
        looks += 1;
    }
    assert!(looks > KEYS as u64 / DELETED_AT_ONCE_MAX / 2, "{looks}");
    lone.look_at_the_clock();
    assert!(lone.node.poll_timeout() > lone.now, "nothing is left to do");
}
