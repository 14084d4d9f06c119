//! Faults for a while, then peace, then everything must be well.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::asking::node_name;
use super::checks::replica;
use super::faults::Nemesis;
use super::world::{World, WorldOptions};
use crate::api::{AdminAction, AdminRequest, Consistency, Key, Operation, Precondition, PutMode, Request, Response};
use crate::base::{Blob, Instant, PartitionId, Rng, Slot};
use crate::control::ControlState;
use crate::node::{Node, Submitted};
use crate::placement;

/// What is done to a cluster.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the world is made of.
    pub world: WorldOptions,
    /// How long faults go on.
    pub faults_for: Duration,
    /// Within which time, once they stop, everything must be well.
    pub heals_within: Duration,
}

impl Default for Scenario {
    fn default() -> Self {
        let world = WorldOptions { think: Duration::from_millis(30), ..WorldOptions::default() };
        Self { world, faults_for: Duration::from_secs(3), heals_within: Duration::from_secs(20) }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The hash of all that happened.
    pub trace: u64,
    /// How long it took, in virtual time.
    pub virtual_time: Duration,
    /// Operations that ended well.
    pub done: u64,
    /// Operations that ended in an error.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Keys whose history was too long to judge.
    pub undecided: u64,
    /// How often each fault struck, and what else was counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// What was wrong: nothing, in a run that passed.
    pub complaints: Vec<String>,
    /// The last lines of what happened, where the world kept them.
    pub story: String,
}

impl Scenario {
    /// The scenario for clusters of so many nodes.
    #[must_use]
    pub fn of(nodes: usize) -> Self {
        let scenario = Self::default();
        Self { world: WorldOptions { nodes, ..scenario.world }, ..scenario }
    }

    /// The same, with the story of what happens kept.
    #[must_use]
    pub fn verbose(&self) -> Self {
        Self { world: WorldOptions { verbose: true, ..self.world.clone() }, ..self.clone() }
    }

    /// Runs it with everything drawn from `seed`. A panic of a machine is what is wrong, too.
    #[must_use]
    pub fn run(&self, seed: u64) -> Outcome {
        let mut world = World::new(self.world.clone(), seed);
        let mut undecided = 0;
        let played = catch_unwind(AssertUnwindSafe(|| undecided = self.play(&mut world, seed)));
        let mut complaints = world.complaints().to_vec();
        if let Err(panic) = played {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            complaints.push(format!("panic: {}", words.unwrap_or_default()));
        }
        Outcome {
            trace: world.trace(),
            virtual_time: world.now.since(Instant::ZERO),
            done: world.clients.done,
            failed: world.clients.failed,
            acknowledged: world.clients.acknowledged,
            undecided,
            counts: world.counts.clone(),
            complaints,
            story: world.story(),
        }
    }

    fn play(&self, world: &mut World, seed: u64) -> u64 {
        let mut rng = Rng::new(seed ^ 0x5ce0_a410);
        let mut nemesis = Nemesis::new(rng.fork());
        // Drawn apart, so that all else is as it would be without.
        let mut forced = Rng::new(seed ^ 0xf0_4ced);
        if forced.below(40) == 0 {
            self.found_by_force(world, &mut forced);
        } else {
            nemesis.disturb_start(world);
        }
        if !world.run_until(self.heals_within, is_whole) {
            let why = why_not_whole(world);
            world.complain(format!("the cluster did not form within {:?}: {why}", self.heals_within));
            return 0;
        }
        if rng.below(40) == 0 {
            self.forget(world);
            return 0;
        }
        (0..2 + rng.below(7)).for_each(|_| world.add_client());
        world.run(Duration::from_millis(100));
        nemesis.harm(world, self.faults_for);
        if !world.is_broken() {
            nemesis.relent(world);
        }
        nemesis.run(world, Duration::from_millis(300));
        world.clients.stop();
        let end = world.now + self.heals_within;
        loop {
            // Who stands still looks well until it goes on: a cluster that lost it may not have noticed yet.
            let is_well = |world: &World| {
                world.is_at_rest() && is_whole(world) && misplaced(world) == 0 && world.clients.are_idle()
            };
            if !nemesis.is_done() {
                nemesis.run(world, Duration::from_millis(500));
            } else if world.run_until(Duration::from_millis(500), is_well) || world.is_broken() {
                break;
            }
            if world.is_broken() {
                break;
            }
            if world.now >= end {
                let why = why_not_whole(world);
                let why = match (why.is_empty(), misplaced(world)) {
                    (false, _) => why,
                    (true, 0) => "somebody waits for an answer for ever".to_owned(),
                    (true, count) => format!("{count} partitions are not led by their target primaries"),
                };
                world.complain(format!("not whole again after {:?}: {why}", self.heals_within));
            }
            nemesis.ask_back(world);
        }
        if !world.is_broken() {
            // What is to expire has done so then, and whoever missed the news of a commit has asked for it.
            world.run(Duration::from_millis(700));
            unequal_copies(world);
            lost_keys(world);
            use_every_partition(world);
        }
        if world.is_broken() { 0 } else { judge_orders(world) }
    }

    /// Some nodes never come, and an operator has the others found the cluster without them. When they come after all they
    /// join it.
    fn found_by_force(&self, world: &mut World, rng: &mut Rng) {
        world.count("founded by force");
        let nodes = world.options.nodes;
        let mut there: Vec<Slot> = (0..nodes).map(|slot| Slot(slot as u8)).collect();
        let missing: Vec<Slot> = (0..1 + rng.below(nodes as u64 - 2))
            .map(|_| there.remove(rng.below(there.len() as u64) as usize))
            .collect();
        missing.iter().for_each(|slot| world.kill(*slot));
        world.run(Duration::from_secs(2));
        if world.node(there[0]).is_some_and(|node| node.control().raft().is_some()) {
            world.complain(format!("a cluster is founded without {missing:?}, and nobody has said that they are gone"));
        }
        let force = |without: &[Slot]| AdminRequest {
            action: AdminAction::InitForce { without: without.iter().map(|slot| node_name(*slot)).collect() },
            dry_run: false,
        };
        let asked = there[rng.below(there.len() as u64) as usize];
        for wrong in [&there[..1], &missing[1..]] {
            if let Some(Ok(report)) = world.request(asked, &force(wrong), Duration::from_secs(1)) {
                world.complain(format!(
                    "{asked} founds a cluster without {wrong:?}, where {missing:?} don't answer: {report:?}"
                ));
            }
        }
        let answer = world.request(asked, &force(&missing), Duration::from_secs(1));
        if !matches!(answer, Some(Ok(_))) && !world.is_broken() {
            world.complain(format!("{asked} doesn't found a cluster without {missing:?}: {answer:?}"));
        }
        let is_founded = |world: &World| {
            let views = there.iter().filter_map(|slot| world.node(*slot)).map(|node| node.view());
            views.map(|view| (view.cluster, view.leader.is_some(), view.settings.is_some())).all(|it| it.1 && it.2)
        };
        if !world.run_until(self.heals_within, is_founded) && !world.is_broken() {
            world.complain(format!("no cluster is founded without {missing:?} within {:?}", self.heals_within));
        }
        let cluster = world.node(asked).map(|node| node.view().cluster);
        if there.iter().any(|slot| world.node(*slot).map(|node| node.view().cluster) != cluster) {
            world.complain("the founders by force are in different clusters".to_owned());
        }
        missing.iter().for_each(|slot| world.start(*slot));
    }

    /// Most of the nodes restart at once and have forgotten everything: the rest must neither go on alone nor be replaced by
    /// an empty cluster. When they are gone too, a new cluster is founded.
    fn forget(&self, world: &mut World) {
        world.count("forgotten majority");
        let nodes = world.options.nodes;
        let mut forgetful: Vec<Slot> = (0..nodes).map(|slot| Slot(slot as u8)).collect();
        let survivors = forgetful.split_off(nodes / 2 + 1);
        forgetful.iter().for_each(|slot| world.kill(*slot));
        forgetful.iter().for_each(|slot| world.start(*slot));
        world.run(Duration::from_secs(5));
        for slot in &forgetful {
            if world.node(*slot).is_some_and(|node| node.view().settings.is_some()) {
                world.complain(format!("{slot} belongs to a cluster, and nobody could have let it in"));
            }
        }
        let asked = survivors.first().map(|slot| world.ask(*slot, put("key", "value")));
        if let Some(Some(Ok(response))) = asked {
            world.complain(format!("without a quorum a write was answered by {response:?}"));
        }
        let before = world.node(survivors[0]).map(|node| node.view().cluster);
        survivors.iter().for_each(|slot| world.kill(*slot));
        survivors.iter().for_each(|slot| world.start(*slot));
        if !world.run_until(self.heals_within, is_whole) {
            let why = why_not_whole(world);
            world.complain(format!("no new cluster within {:?}: {why}", self.heals_within));
        } else if world.node(survivors[0]).map(|node| node.view().cluster) == before {
            world.complain("a restart of all is the same cluster as before".to_owned());
        }
    }
}

/// Whether everybody runs, agrees on a leader, and every partition is in full and served.
pub fn is_whole(world: &World) -> bool {
    why_not_whole(world).is_empty()
}

/// How many partitions are led by others than their target primaries, as the leader knows.
pub fn misplaced(world: &World) -> usize {
    let leader = world.leader().and_then(|leader| world.node(leader));
    leader.and_then(|node| node.control().state()).map_or(0, ControlState::misplaced)
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
    // The others may take it for the leader a little longer than it does itself.
    if nodes[leader.index()].control().raft().is_none_or(|raft| !raft.is_ready_leader() || raft.membership().is_joint())
    {
        return "the leader isn't ready, or the members are changing".to_owned();
    }
    let roster = nodes[leader.index()].control().state().map(ControlState::roster).unwrap_or_default();
    if roster.staying().len() < world.options.nodes {
        return format!("somebody is set aside: {roster:?}");
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
        if world.clients.is_void(partition) {
            continue;
        }
        if record.in_sync.len() < replicas || !record.learners.is_empty() {
            return format!("{partition}: {record:?}");
        }
        let serving = record.primary.and_then(|primary| replica(nodes[primary.index()], partition));
        if !serving.is_some_and(|replica| replica.is_serving()) {
            return format!("{partition} is not served: {record:?}");
        }
    }
    String::new()
}

/// All in-sync copies of a partition hold the same.
fn unequal_copies(world: &mut World) {
    let Some(view) = world.leader().and_then(|leader| world.node(leader)).map(|node| node.view().clone()) else {
        return;
    };
    for (partition, record) in view.table.iter().enumerate() {
        let partition = PartitionId(partition as u16);
        if world.clients.is_void(partition) {
            continue;
        }
        let members = record.in_sync.iter().filter_map(|slot| world.node(slot));
        let copies: Vec<Vec<(String, u64, Blob)>> = members
            .filter_map(|node| replica(node, partition))
            .map(|copy| {
                let all = copy.scan(Instant::ZERO, &[], None);
                all.map(|stored| (stored.key().to_string(), stored.version().0, stored.to_blob())).collect()
            })
            .collect();
        if copies.windows(2).any(|pair| pair[0] != pair[1]) {
            world.complain(format!("{partition}: copies differ: {copies:?}"));
        }
    }
}

/// Every key can be read, through any node.
fn lost_keys(world: &mut World) {
    for (nth, key) in world.clients.keys().into_iter().enumerate() {
        let operation = Operation::Get { key: key.clone(), consistency: Consistency::Linearizable };
        let slot = Slot((nth % world.options.nodes) as u8);
        match world.ask(slot, Request::new(operation, 1000)) {
            Some(result @ Ok(Response::Value(_) | Response::NotFound)) => {
                world.clients.judge_last(world.now, &key, &result);
            }
            other => world.complain(format!("{key} can't be read through {slot}: {other:?}")),
        }
    }
}

/// A write and a read of every partition are acknowledged.
fn use_every_partition(world: &mut World) {
    let partitions = world.options.partitions;
    let mut names = vec![None; usize::from(partitions)];
    for nth in 0u32.. {
        let name = format!("probe-{nth}");
        names[placement::partition_of(name.as_bytes(), partitions).index()].get_or_insert(name);
        if names.iter().all(Option::is_some) {
            break;
        }
    }
    let nodes = world.options.nodes;
    for requests in [put as fn(&str, &str) -> Request, |name: &str, _: &str| get(name)] {
        let mut asked = Vec::new();
        for (number, name) in names.iter().flatten().enumerate() {
            if world.clients.is_void(PartitionId(number as u16)) {
                continue;
            }
            let slot = Slot(((number + nodes / 2) % nodes) as u8);
            match world.submit(slot, requests(name, "value")) {
                Some((shard, Submitted::Later(id))) => asked.push((number, slot, shard, id)),
                Some((_, Submitted::Now(Ok(_)))) => {}
                other => world.complain(format!("p{number}: asked through {slot}: {other:?}")),
            }
        }
        let all = asked.clone();
        world.run_until(Duration::from_secs(2), move |world| {
            all.iter().all(|(_, slot, shard, id)| world.has_answer(*slot, *shard, *id))
        });
        for (number, slot, shard, id) in asked {
            let answer = world.take_answer(slot, shard, id);
            if !matches!(answer, Some(Ok(Response::Written { .. } | Response::Value(_)))) && !world.is_broken() {
                world.complain(format!("p{number}: in peace, {slot} answers {answer:?}"));
            }
        }
    }
}

/// Complains where no order of the operations on a key explains every answer. How many keys had too long a history to tell.
pub fn judge_orders(world: &mut World) -> u64 {
    let undecided = world.clients.judge_orders();
    for words in world.clients.take_complaints() {
        world.complain(words);
    }
    undecided
}

pub(super) fn put(name: &str, value: &str) -> Request {
    let operation = Operation::Put {
        key: name.parse::<Key>().expect("a key"),
        value: Blob::from(value.as_bytes()),
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::NONE,
    };
    Request::new(operation, 1500)
}

fn get(name: &str) -> Request {
    let key = name.parse::<Key>().expect("a key");
    Request::new(Operation::Get { key, consistency: Consistency::Linearizable }, 1500)
}
