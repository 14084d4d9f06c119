//! Viewers of the feed that go away and come back, at other nodes too: whatever happens, each of them is shown every change
//! that was acknowledged meanwhile, and none is told of a gap.
//!
//! | what happens | it would be missed where |
//! |---|---|
//! | a backup's answers don't arrive for a while, and come when nobody views | a primary closes what is under way |
//! | connections break with what is in them | a node with viewers doesn't see that something is missing |
//! | a node dies, its partitions go to others, and viewers ask those for what they have missed | backups keep no ring |

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::{Key, Response};
use crate::base::{RequestId, Rng, ShardId, Slot, Version};
use crate::node::Submitted;
use crate::sim::network::Cut;
use crate::sim::scenario::{is_whole, misplaced, put};
use crate::sim::world::World;

const VIEWERS: usize = 3;
/// Keys that are written through each node, of all partitions with luck.
const KEYS: usize = 24;
/// Between two rounds of writes.
const ROUND: Duration = Duration::from_millis(7);
/// Within which time everybody sends, or has sent what was missing.
const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// Less than it takes for a member to be evicted, and more than what is closed is told every so often.
const LATE_ROUNDS: usize = 40;

/// The writes of one probe.
#[derive(Default)]
struct Writes {
    asked: Vec<(Slot, ShardId, RequestId, Key)>,
    acknowledged: BTreeSet<(Key, Version)>,
    rounds: usize,
}

impl Writes {
    /// One through each node that runs; none of them is waited for.
    fn write(&mut self, world: &mut World) {
        self.rounds += 1;
        for slot in world.running() {
            let name = format!("viewed-{slot}-{}", self.rounds % KEYS);
            let Some((shard, submitted)) = world.submit(slot, put(&name, "seen")) else { continue };
            let key: Key = name.parse().expect("a key");
            match submitted {
                Submitted::Later(id) => self.asked.push((slot, shard, id, key)),
                Submitted::Now(Ok(Response::Written { version, .. })) => {
                    self.acknowledged.insert((key, version));
                }
                Submitted::Now(_) => {}
            }
        }
    }

    /// Lets time pass and notes what was acknowledged.
    fn pass(&mut self, world: &mut World, time: Duration) {
        world.run(time);
        for (slot, shard, id, key) in std::mem::take(&mut self.asked) {
            if world.has_answer(slot, shard, id) {
                if let Some(Ok(Response::Written { version, .. })) = world.take_answer(slot, shard, id) {
                    self.acknowledged.insert((key, version));
                }
            } else if world.node(slot).is_some() {
                self.asked.push((slot, shard, id, key));
            }
        }
    }

    fn go_on(&mut self, world: &mut World, rounds: usize) {
        for _ in 0..rounds {
            self.write(world);
            self.pass(world, ROUND);
        }
    }

    /// The same, and whoever lost its node goes to another.
    fn go_on_viewing(&mut self, world: &mut World, rounds: usize) {
        for _ in 0..rounds {
            world.reconnect_viewers();
            self.go_on(world, 1);
        }
    }
}

/// Runs it. False where it could not begin.
pub(super) fn view(world: &mut World, rng: &mut Rng) -> bool {
    let nodes = world.options.nodes;
    // A primary that has just been given a partition gives versions that its predecessor's clock made, and may have a young ring.
    if !world.run_until(Duration::from_secs(3), |world| is_whole(world) && misplaced(world) == 0) {
        return false;
    }
    for viewer in 0..VIEWERS {
        world.add_viewer();
        world.connect(viewer, Slot((viewer % nodes) as u8));
    }
    let are_live = |world: &World| world.viewers().iter().all(|viewer| viewer.is_live());
    if !world.run_until(LIVE_WITHIN, are_live) {
        if !world.is_broken() {
            world.complain(format!("Viewers: in peace not everybody sends changes within {LIVE_WITHIN:?}"));
        }
        return true;
    }
    let mut writes = Writes::default();
    // Where wall clocks are hours apart a cursor reaches what another one's version says only once a higher one was shown, and
    // the sources have heard of that.
    writes.go_on(world, KEYS);
    writes.pass(world, Duration::from_millis(600));
    late_answers(world, rng, &mut writes);
    broken_connections(world, rng, &mut writes);
    a_death(world, rng, &mut writes);
    let end = world.now + LIVE_WITHIN;
    while world.now < end && !world.is_broken() && !(are_live(world) && writes.asked.is_empty()) {
        world.reconnect_viewers();
        writes.pass(world, Duration::from_millis(50));
    }
    // What was committed last is on its way.
    writes.pass(world, Duration::from_millis(600));
    judge(world, &writes);
    world.end_viewing();
    true
}

/// What a backup's answers don't come for is under way when the others say what they have closed, and is committed when
/// nobody views.
fn late_answers(world: &mut World, rng: &mut Rng, writes: &mut Writes) {
    let nodes = world.options.nodes as u64;
    let from = Slot(rng.below(nodes) as u8);
    let to = Slot(((u64::from(from.0) + 1 + rng.below(nodes - 1)) % nodes) as u8);
    world.network.cuts.push(Cut { from, to, pulse: false, stream: true });
    writes.go_on_viewing(world, LATE_ROUNDS);
    (0..VIEWERS).for_each(|viewer| world.disconnect(viewer));
    world.network.calm();
    writes.go_on(world, 30);
}

fn broken_connections(world: &mut World, rng: &mut Rng, writes: &mut Writes) {
    for _ in 0..6 {
        writes.go_on_viewing(world, 5);
        writes.write(world);
        // What has just been committed is on its way.
        writes.pass(world, Duration::from_micros(100) + rng.duration(Duration::from_millis(2)));
        let slot = Slot(rng.below(world.options.nodes as u64) as u8);
        world.network.break_all(slot);
    }
    writes.go_on_viewing(world, 20);
}

/// In peace, so that nothing is lost; whoever dies comes back.
fn a_death(world: &mut World, rng: &mut Rng, writes: &mut Writes) {
    let is_well = |world: &World| world.is_at_rest() && is_whole(world);
    if !world.run_until(Duration::from_secs(2), is_well) || world.is_broken() {
        return;
    }
    let victim = Slot(rng.below(world.options.nodes as u64) as u8);
    writes.write(world);
    writes.pass(world, Duration::from_micros(500));
    world.kill(victim);
    writes.go_on_viewing(world, 50);
    world.start(victim);
    writes.go_on_viewing(world, 20);
}

fn judge(world: &mut World, writes: &Writes) {
    let mut found = Vec::new();
    for (number, viewer) in world.viewers().iter().enumerate() {
        let lacking = writes.acknowledged.difference(&viewer.seen);
        let lacking: Vec<_> = lacking.filter(|(key, _)| !world.clients.is_void(world.partition_of(key))).collect();
        if let Some(first) = lacking.first() {
            let (missed, all) = (lacking.len(), writes.acknowledged.len());
            found.push(format!("Viewers: viewer {number} was not shown {missed} of {all} changes: {first:?}"));
        }
        if viewer.gaps > 0 || !viewer.is_live() {
            let (gaps, live) = (viewer.gaps, viewer.is_live());
            found.push(format!("Viewers: viewer {number} was told of {gaps} gaps; live: {live}"));
        }
    }
    if !world.is_broken() {
        found.into_iter().for_each(|words| world.complain(words));
    }
}
