//! Faults for a while, then peace, then everything must be well.

use std::time::Duration;

use super::network::{Cut, Network};
use super::world::{World, WorldOptions};
use crate::api::{Consistency, Operation, Request, Response};
use crate::base::{Instant, PartitionId, Rng, Slot};
use crate::node::{Node, Submitted};

/// What is done to a cluster.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the world is made of.
    pub world: WorldOptions,
    /// Clients.
    pub clients: usize,
    /// How long faults go on.
    pub faults_for: Duration,
    /// Within which time, once they stop, everything must be well.
    pub heals_within: Duration,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            world: WorldOptions::default(),
            clients: 4,
            faults_for: Duration::from_secs(3),
            heals_within: Duration::from_secs(20),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hash of all that happened.
    pub trace: u64,
    /// Operations that ended well.
    pub done: u64,
    /// Operations that ended in an error.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// What was wrong: nothing, in a run that passed.
    pub complaints: Vec<String>,
    /// The last lines of what happened, where the world kept them.
    pub story: String,
}

impl Scenario {
    /// Runs it with everything drawn from `seed`.
    #[must_use]
    pub fn run(&self, seed: u64) -> Outcome {
        let mut rng = Rng::new(seed ^ 0x5ce0_a410);
        let mut world = World::new(self.world.clone(), seed);
        let mut complaints = Vec::new();
        if !world.run_until(self.heals_within, is_whole) {
            complaints.push("the cluster did not form".to_owned());
        }
        (0..self.clients).for_each(|_| world.add_client());
        world.run(Duration::from_millis(200));
        self.harm(&mut world, &mut rng);
        heal(&mut world);
        world.run(Duration::from_millis(500));
        world.clients.stop();
        if !world.run_until(self.heals_within, |world| is_whole(world) && world.clients.are_idle()) {
            let why = why_not_whole(&world);
            let why = if why.is_empty() { "somebody waits for an answer for ever".to_owned() } else { why };
            complaints.push(format!("not whole again after {:?}: {why}", self.heals_within));
        } else {
            // What is to expire has done so then.
            world.run(Duration::from_millis(500));
            complaints.extend(unequal_copies(&world));
            complaints.extend(lost_keys(&mut world));
        }
        complaints.extend(world.clients.violations().iter().map(|violation| violation.0.clone()));
        Outcome {
            trace: world.trace(),
            done: world.clients.done,
            failed: world.clients.failed,
            acknowledged: world.clients.acknowledged,
            complaints,
            story: world.story(),
        }
    }

    /// One fault after another. A process is killed only while everything else is well, and the next fault waits until it is
    /// back: two at once may take both copies of a value, and then nothing can keep it.
    fn harm(&self, world: &mut World, rng: &mut Rng) {
        let nodes = self.world.nodes;
        let end = world.now + self.faults_for;
        while world.now < end {
            let slot = Slot(rng.below(nodes as u64) as u8);
            match rng.below(9) {
                0 => {
                    world.calm();
                    world.run(Duration::from_millis(300));
                    // A node that stands still may be declared down before the one that dies, though it is healthy.
                    if world.run_until(Duration::from_secs(2), |world| !world.is_anybody_paused() && is_whole(world)) {
                        world.kill(slot);
                        world.run(rng.duration(Duration::from_millis(600)));
                        world.start(slot);
                        world.run_until(Duration::from_secs(2), is_whole);
                    }
                }
                1 => {
                    // Some are longer than every lease, promise and patience.
                    let longest = if rng.below(4) == 0 { 3000 } else { 300 };
                    let time = rng.duration(Duration::from_millis(longest));
                    world.pause(slot, time);
                }
                2 => {
                    let cut = random_cut(nodes, rng);
                    world.network.cuts.push(cut);
                }
                3 => world.network.cuts.clear(),
                7 => world.network.cuts.extend(isolation(nodes, slot)),
                8 => world.network.lateness = rng.duration(Duration::from_secs(2)),
                4 => {
                    world.network.loss = rng.below(300_000) as u32;
                    world.network.duplication = rng.below(300_000) as u32;
                    world.network.breaks = rng.below(20_000) as u32;
                }
                5 => world.network.delay_jitter = rng.duration(Duration::from_millis(30)),
                _ => world.network.break_all(slot),
            }
            world.run(rng.duration(Duration::from_millis(400)));
        }
    }
}

fn random_cut(nodes: usize, rng: &mut Rng) -> Cut {
    let (pulse, stream) = match rng.below(3) {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    Cut { from: Slot(rng.below(nodes as u64) as u8), to: Slot(rng.below(nodes as u64) as u8), pulse, stream }
}

/// Nothing reaches `slot`, or leaves it.
fn isolation(nodes: usize, slot: Slot) -> impl Iterator<Item = Cut> {
    let others = (0..nodes).map(|other| Slot(other as u8)).filter(move |other| *other != slot);
    others.flat_map(move |other| {
        let cut = |from, to| Cut { from, to, pulse: true, stream: true };
        [cut(slot, other), cut(other, slot)]
    })
}

fn heal(world: &mut World) {
    world.calm();
    for slot in 0..world.options.nodes {
        if world.node(Slot(slot as u8)).is_none() {
            world.start(Slot(slot as u8));
        }
    }
}

/// Whether everybody runs, agrees on a leader, and every partition is in full and served.
pub fn is_whole(world: &World) -> bool {
    why_not_whole(world).is_empty()
}

fn why_not_whole(world: &World) -> String {
    let running = world.running();
    if running.len() < world.options.nodes {
        return format!("only {running:?} run");
    }
    let Some(leader) = world.leader() else { return "no leader".to_owned() };
    let nodes: Vec<&Node> = running.iter().filter_map(|&slot| world.node(slot)).collect();
    let view = nodes[leader.index()].view();
    if view.settings.is_none() {
        return "not founded".to_owned();
    }
    for node in &nodes {
        if node.view().applied != view.applied {
            return format!("{} has applied {}, the leader {}", node.view().me, node.view().applied, view.applied);
        }
        if view.registered(node.view().me.slot) != Some(node.view().me) || !view.up.contains(node.view().me.slot) {
            return format!("{} is not up", node.view().me);
        }
    }
    let replicas = view.settings.map_or(0, |settings| usize::from(settings.replicas));
    for (partition, record) in view.table.iter().enumerate() {
        let partition = PartitionId(partition as u16);
        if record.in_sync.len() < replicas || !record.learners.is_empty() {
            return format!("{partition}: {record:?}");
        }
        let serves = record.primary.is_some_and(|primary| {
            nodes[primary.index()].shards().iter().any(|shard| shard.replica(partition).is_some_and(|r| r.is_serving()))
        });
        if !serves {
            return format!("{partition} is not served: {record:?}");
        }
    }
    String::new()
}

/// All in-sync copies of a partition hold the same.
fn unequal_copies(world: &World) -> Vec<String> {
    let mut complaints = Vec::new();
    let Some(view) = world.leader().and_then(|leader| world.node(leader)).map(Node::view) else { return complaints };
    for (partition, record) in view.table.iter().enumerate() {
        let partition = PartitionId(partition as u16);
        let copies: Vec<Vec<(String, u64)>> = record
            .in_sync
            .iter()
            .filter_map(|slot| world.node(slot))
            .map(|node| {
                let replica = node.shards().iter().find_map(|shard| shard.replica(partition)).expect("it has one");
                replica
                    .scan(Instant::ZERO, &[], None)
                    .map(|(key, record)| (key.to_string(), record.version.0))
                    .collect()
            })
            .collect();
        if copies.windows(2).any(|pair| pair[0] != pair[1]) {
            complaints.push(format!("{partition}: copies differ: {copies:?}"));
        }
    }
    complaints
}

/// Every key can be read, through any node.
fn lost_keys(world: &mut World) -> Vec<String> {
    let keys: Vec<_> = world.clients.keys().cloned().collect();
    let mut complaints = Vec::new();
    for key in keys {
        let operation = Operation::Get { key: key.clone(), consistency: Consistency::Linearizable };
        match world.ask(Slot(0), Request { operation, timeout_ms: 1000 }) {
            Some(result @ Ok(Response::Value(_) | Response::NotFound)) => {
                complaints.extend(world.clients.judge_last(world.now, &key, &result));
            }
            other => complaints.push(format!("{key}: {other:?}")),
        }
    }
    complaints
}

impl World {
    /// The network harms nobody from now on.
    fn calm(&mut self) {
        let quiet = Network::quiet(self.options.nodes);
        self.network.loss = quiet.loss;
        self.network.duplication = quiet.duplication;
        self.network.breaks = quiet.breaks;
        self.network.delay_jitter = quiet.delay_jitter;
        self.network.lateness = quiet.lateness;
        self.network.cuts.clear();
    }

    /// Asks a node one thing and lets time pass until it answers, two seconds at most.
    pub fn ask(&mut self, slot: Slot, request: Request) -> Option<Result<Response, crate::api::Error>> {
        match self.submit(slot, request)? {
            (_, Submitted::Now(result)) => Some(result),
            (shard, Submitted::Later(id)) => {
                self.run_until(Duration::from_secs(2), |world| world.has_answer(slot, shard, id));
                self.take_answer(slot, shard, id)
            }
        }
    }
}
