//! The feed in simulated clusters: whatever dies, each viewer is shown every committed change at least once.

#[path = "support/simulated.rs"]
#[allow(dead_code, reason = "shared by several tests")]
mod simulated;

use std::collections::BTreeSet;
use std::time::Duration;

use jumpgate::api::{Consistency, Key, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Slot, Version};
use jumpgate::node::Submitted;
use jumpgate::sim::{Cut, World, is_whole};
use simulated::formed;

const PATIENCE: Duration = Duration::from_secs(30);
const VIEWERS: usize = 6;

type Change = (Key, Version);

fn put(name: &str) -> Request {
    let operation = Operation::Put {
        key: name.parse().expect("a key"),
        value: name.as_bytes().into(),
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::default(),
    };
    Request::new(operation, 3000)
}

/// A world whose writes and viewers are followed.
struct Story {
    world: World,
    /// Acknowledged changes.
    acked: BTreeSet<Change>,
    asked: Vec<(Slot, jumpgate::base::ShardId, jumpgate::base::RequestId, Key)>,
    round: usize,
}

impl Story {
    fn begin(nodes: usize, seed: u64) -> Self {
        let mut world = formed(nodes, seed);
        for viewer in 0..VIEWERS {
            world.add_viewer();
            world.connect(viewer, Slot((viewer % nodes) as u8));
        }
        assert!(world.run_until(PATIENCE, |world| world.viewers().iter().all(|viewer| viewer.is_live())));
        Self { world, acked: BTreeSet::new(), asked: Vec::new(), round: 0 }
    }

    /// Some writes through every running node, none of which is waited for.
    fn write(&mut self) {
        self.round += 1;
        for slot in self.world.running() {
            for key in 0..3 {
                let name = format!("{slot}-{}", (self.round + key) % 40);
                let Some((shard, submitted)) = self.world.submit(slot, put(&name)) else { continue };
                let key: Key = name.parse().expect("a key");
                match submitted {
                    Submitted::Later(id) => self.asked.push((slot, shard, id, key)),
                    Submitted::Now(result) => self.note(key, result.ok()),
                }
            }
        }
    }

    fn note(&mut self, key: Key, response: Option<Response>) {
        if let Some(Response::Written { version, .. }) = response {
            self.acked.insert((key, version));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.run(time);
        for (slot, shard, id, key) in std::mem::take(&mut self.asked) {
            if self.world.has_answer(slot, shard, id) {
                let result = self.world.take_answer(slot, shard, id);
                self.note(key, result.and_then(Result::ok));
            } else if self.world.node(slot).is_some() {
                self.asked.push((slot, shard, id, key));
            }
        }
    }

    /// Writes for a while; viewers whose node is gone go to another.
    fn go_on(&mut self, rounds: usize) {
        for round in 0..rounds {
            self.write();
            if round % 8 == 7 {
                self.world.reconnect_viewers();
            }
            self.pass(Duration::from_millis(7));
        }
    }

    /// Lets everything come to rest; what some viewer was not shown, or who was told of a gap.
    fn verdict(&mut self) -> Vec<String> {
        for _ in 0..200 {
            self.world.reconnect_viewers();
            self.pass(Duration::from_millis(50));
        }
        let mut found: Vec<String> = self.world.complaints().to_vec();
        // What one viewer saw was committed, acknowledged or not: all must have seen it.
        let mut committed = self.acked.clone();
        self.world.viewers().iter().for_each(|viewer| committed.extend(viewer.seen.iter().cloned()));
        for (number, viewer) in self.world.viewers().iter().enumerate() {
            let lacking: Vec<&Change> = committed.difference(&viewer.seen).collect();
            if !lacking.is_empty() {
                found.push(format!(
                    "viewer {number} was not shown {} of {}: {:?}",
                    lacking.len(),
                    committed.len(),
                    lacking[0]
                ));
            }
            if viewer.gaps > 0 || !viewer.is_live() {
                let (gaps, live) = (viewer.gaps, viewer.is_live());
                found.push(format!("viewer {number} has {gaps} gaps, live: {live}"));
            }
        }
        found
    }
}

/// Every node dies in its turn, the leader first, while viewers are spread over all of them.
fn deaths(nodes: usize, seed: u64) -> Vec<String> {
    let mut story = Story::begin(nodes, seed);
    story.go_on(20);
    for turn in 0..nodes {
        let leader = story.world.leader().unwrap_or(Slot(turn as u8));
        let victim = if turn == 0 { leader } else { Slot(((leader.index() + turn) % nodes) as u8) };
        story.write();
        story.pass(Duration::from_micros(500));
        story.world.kill(victim);
        story.go_on(60);
        story.world.start(victim);
        story.go_on(60);
        if !story.world.run_until(PATIENCE, is_whole) {
            return vec![format!("the cluster did not heal: {:?}", story.world.complaints())];
        }
        story.go_on(10);
    }
    assert!(story.acked.len() > 200, "only {} writes were acknowledged", story.acked.len());
    story.verdict()
}

/// Connections between nodes break, one after the other, with what is in them.
fn breaks(nodes: usize, seed: u64) -> Vec<String> {
    let mut story = Story::begin(nodes, seed);
    for round in 0..40_u64 {
        story.go_on(6);
        // What has just been committed is on its way.
        story.write();
        story.pass(Duration::from_micros(100 + 150 * round));
        story.world.network.break_all(Slot((round % nodes as u64) as u8));
    }
    story.verdict()
}

/// Viewers go from node to node all the time.
fn wanderings(nodes: usize, seed: u64) -> Vec<String> {
    let mut story = Story::begin(nodes, seed);
    for round in 0..40 {
        story.go_on(5);
        story.world.connect(round % VIEWERS, Slot((round / 2 % nodes) as u8));
    }
    story.verdict()
}

/// Answers of a backup don't arrive for a while. What waits for them is committed when nobody views.
fn absences(nodes: usize, seed: u64) -> Vec<String> {
    let mut story = Story::begin(nodes, seed);
    for round in 0..10 {
        let (from, to) = (Slot((round % nodes) as u8), Slot(((round + 1 + round / nodes) % nodes) as u8));
        if from == to {
            continue;
        }
        story.world.network.cuts.push(Cut { from, to, pulse: false, stream: true });
        // Less than it takes for a member to be evicted, and more than what is closed is told every so often.
        story.go_on(40);
        (0..VIEWERS).for_each(|viewer| story.world.disconnect(viewer));
        story.world.network.calm();
        for _ in 0..30 {
            story.write();
            story.pass(Duration::from_millis(7));
        }
        story.world.reconnect_viewers();
        story.go_on(20);
    }
    story.verdict()
}

#[test]
fn what_was_under_way_when_a_viewer_went_is_shown_when_it_is_back() {
    for seed in 0..4 {
        assert_eq!(absences(3 + seed as usize % 3, seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn whoever_dies_each_viewer_is_shown_everything() {
    for seed in 0..4 {
        assert_eq!(deaths(3 + seed as usize % 3, seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn connections_that_break_take_no_change_along() {
    for seed in 0..4 {
        assert_eq!(breaks(3, seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_viewer_may_go_on_at_any_node() {
    for seed in 0..4 {
        assert_eq!(wanderings(3, seed), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn whoever_comes_back_too_late_is_told_of_the_gap_and_nobody_else() {
    let mut story = Story::begin(3, 7);
    story.go_on(10);
    story.world.disconnect(0);
    // Far more than the rings of a shard hold.
    for _ in 0..1200 {
        story.write();
        story.pass(Duration::from_millis(2));
    }
    story.world.connect(0, Slot(2));
    assert!(story.world.run_until(PATIENCE, |world| world.viewers()[0].is_live()));
    let gaps: Vec<usize> = story.world.viewers().iter().map(|viewer| viewer.gaps).collect();
    assert_eq!(gaps, [1, 0, 0, 0, 0, 0]);
    // From the gap on it misses nothing.
    let before = story.acked.len();
    story.go_on(20);
    let found = story.verdict();
    assert!(found.iter().all(|words| words.starts_with("viewer 0")), "{found:?}");
    assert!(story.acked.len() > before);
    let get = Operation::Get { key: "n1-1".parse().expect("a key"), consistency: Consistency::Linearizable };
    assert!(matches!(story.world.ask(Slot(0), Request::new(get, 1000)), Some(Ok(_))));
}

#[test]
fn a_cursor_of_another_cluster_is_a_gap() {
    let mut story = Story::begin(3, 8);
    story.go_on(10);
    (0..3).for_each(|slot| story.world.kill(Slot(slot)));
    (0..3).for_each(|slot| story.world.start(Slot(slot)));
    assert!(story.world.run_until(PATIENCE, is_whole));
    story.world.reconnect_viewers();
    assert!(story.world.run_until(PATIENCE, |world| world.viewers().iter().all(|viewer| viewer.is_live())));
    assert!(story.world.viewers().iter().all(|viewer| viewer.gaps == 1));
}

#[test]
fn broken_rules_of_the_feed_are_noticed() {
    for mutant in Mutant::OF_FEED {
        let is_noticed = |seed| {
            let outcome = std::panic::catch_unwind(|| {
                with_broken(mutant, || {
                    [deaths(3, seed), breaks(3, seed), wanderings(3, seed), absences(3, seed)].concat()
                })
            });
            outcome.map_or(true, |found| !found.is_empty())
        };
        assert!((0..20).any(is_noticed), "{mutant:?} was not noticed");
    }
}
