//! Nodes, a clock, and deliveries in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use super::checks::{Consensus, Data, Readers};
use super::clients::{Clients, MIN_COPIES};
use super::network::{Network, Parcel};
use super::process::{Clock, Process, all_living};
use super::trace::Trace;
use super::viewers::Viewer;
use crate::api::{AdminAction, AdminReport, Error, FeedEvent, Response};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{
    FollowerMode, Incarnation, Instant, NodeId, Options, PartitionId, RequestId, Rng, ShardId, Slot, Timing,
};
use crate::codec::{Keyring, NameHash, Payload, frame};
use crate::node::{ControlEvent, Node, NodeOutput};

/// The name of every cluster here.
pub const NAME: &str = "simulated";
/// How much a clock may be too fast or too slow, in parts per million: the most that leases allow for.
const DRIFT_MAX: u64 = 1000;
/// Things that may be under way at once. A few thousand are, at the worst of times.
const AGENDA_MAX: usize = 200_000;
/// Things that may happen while the clock stands still. Some dozens do.
const AT_ONCE_MAX: u32 = 20_000;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Nodes.
    pub nodes: usize,
    /// Partitions of the key space.
    pub partitions: u16,
    /// Shards of each node.
    pub shards: u16,
    /// Within which time copies are hashed again and compared.
    pub sync_interval: Duration,
    /// The longest time a client thinks between two operations.
    pub think: Duration,
    /// Keep the last lines of the trace as text.
    pub verbose: bool,
    /// What a secret file says, for every node; nothing: no secret.
    pub secrets: String,
    /// Keep every datagram that is sent; see [`World::recorded`].
    pub recording: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            partitions: 16,
            shards: 2,
            sync_interval: Duration::from_millis(800),
            think: Duration::from_millis(10),
            verbose: false,
            secrets: String::new(),
            recording: false,
        }
    }
}

/// A cluster, its network and its clients.
pub struct World {
    /// What it was made of.
    pub options: WorldOptions,
    /// The virtual time.
    pub now: Instant,
    /// The network.
    pub network: Network,
    /// The clients.
    pub clients: Clients,
    pub(super) nodes: Vec<Process>,
    agenda: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    serial: u64,
    /// So many things have happened since the clock moved.
    at_once: u32,
    /// Answers to what was asked by [`World::submit`].
    pub(super) answers: BTreeMap<(Slot, ShardId, RequestId), Option<Answer>>,
    pub(super) consensus: Consensus,
    pub(super) data: Data,
    pub(super) readers: Readers,
    complaints: Vec<String>,
    /// What each slot's viewers have seen, and whether nothing is missed from there on.
    pub(super) seen: Vec<Vec<FeedEvent>>,
    pub(super) is_live: Vec<bool>,
    pub(super) viewers: Vec<Viewer>,
    /// Operators' wishes: how many were handed in, and what became of those that were answered.
    pub(super) wishes: BTreeMap<u64, AdminAction>,
    /// Nodes that were drained or removed by a wish, and not added again.
    pub(super) set_aside: Vec<Slot>,
    /// Partitions of which a copy was made bad: what is found there is no wonder.
    pub(super) decayed: BTreeSet<PartitionId>,
    /// How often each thing happened, by its name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The answers to wishes that somebody waits for, by ticket.
    pub(super) awaited: BTreeMap<u64, Option<Result<AdminReport, Error>>>,
    pub(super) rng: Rng,
    recorded: Vec<(Slot, Vec<u8>)>,
    pub(super) trace: Trace,
}

pub(super) type Answer = Result<Response, Error>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    Wake { slot: Slot, life: u64 },
    Datagram { to: Slot, bytes: Vec<u8>, is_damaged: bool },
    Frame { from: Slot, to: Slot, connection: u64, bytes: Vec<u8>, is_damaged: bool },
    Client { client: usize },
}

impl World {
    /// A world of blank processes that start within a few milliseconds of each other.
    #[must_use]
    pub fn new(options: WorldOptions, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut world = Self {
            now: Instant::ZERO,
            network: Network::quiet(options.nodes),
            clients: Clients::new(options.partitions, rng.fork()),
            nodes: Vec::new(),
            agenda: BinaryHeap::new(),
            serial: 0,
            at_once: 0,
            answers: BTreeMap::new(),
            consensus: Consensus::default(),
            data: Data::new(options.nodes, options.partitions),
            readers: Readers::new(options.nodes, options.partitions),
            complaints: Vec::new(),
            seen: vec![Vec::new(); options.nodes],
            is_live: vec![false; options.nodes],
            viewers: Vec::new(),
            wishes: BTreeMap::new(),
            set_aside: Vec::new(),
            awaited: BTreeMap::new(),
            recorded: Vec::new(),
            decayed: BTreeSet::new(),
            counts: BTreeMap::new(),
            trace: Trace::new(options.verbose),
            rng,
            options,
        };
        for slot in 0..world.options.nodes {
            let offset = 1_000_000_000 + world.rng.below(1_000_000_000_000);
            let drift = world.rng.below(2 * DRIFT_MAX + 1) as i64 - DRIFT_MAX as i64;
            world.nodes.push(Process::new(Clock::new(offset, drift)));
            world.start(Slot(slot as u8));
        }
        world
    }

    // ---- processes ---------------------------------------------------------------------------------------------

    /// Starts the process of `slot`, with an empty memory.
    pub fn start(&mut self, slot: Slot) {
        assert!(self.node(slot).is_none(), "{slot} runs already");
        let options = self.node_options(slot);
        let process = &mut self.nodes[slot.index()];
        process.lives += 1;
        process.handed.clear();
        process.paused_until = self.now;
        let local = process.clock.show(self.now);
        process.node = Some(Node::new(options, local));
        let secrets = self.options.secrets.clone();
        self.set_secrets(slot, &secrets);
        self.note(|| format!("start {slot}"));
        self.settle(slot);
    }

    /// Gives `slot` other secrets, as its secret file would.
    pub fn set_secrets(&mut self, slot: Slot, text: &str) {
        let keyring = if text.is_empty() { Ok(Keyring::default()) } else { Keyring::parse(text.as_bytes()) };
        let process = &mut self.nodes[slot.index()];
        process.keyring = Arc::new(keyring.expect("a test's secrets are sound"));
        if let Some(node) = &mut process.node {
            node.handle_keyring(Arc::clone(&process.keyring));
        }
    }

    /// Hands `slot` a datagram that nobody sent.
    pub fn inject(&mut self, slot: Slot, bytes: &[u8]) {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        if let Some(node) = &mut process.node {
            node.handle_datagram(local, bytes);
            self.settle(slot);
        }
    }

    /// Every datagram that was sent so far and to whom, where the world records them.
    #[must_use]
    pub fn recorded(&self) -> &[(Slot, Vec<u8>)] {
        &self.recorded
    }

    /// Kills the process of `slot`.
    pub fn kill(&mut self, slot: Slot) {
        let Some(node) = self.nodes[slot.index()].node.take() else { return };
        self.note(|| format!("kill {slot}"));
        self.count("kill");
        self.consensus.bury(node);
        self.network.break_all(slot);
        self.nodes[slot.index()].woken_at = Instant::FAR;
        // The next life counts its requests from the start again.
        self.answers.retain(|(at, _, _), _| *at != slot);
        for client in self.clients.handle_death(self.now, slot) {
            self.client_next(client);
        }
        self.readers.handle_death(slot);
        self.leave_viewers(slot);
    }

    /// Stops the process of `slot` for a while; its clock goes on, and what arrives waits.
    pub fn pause(&mut self, slot: Slot, time: Duration) {
        self.note(|| format!("pause {slot} for {time:?}"));
        let process = &mut self.nodes[slot.index()];
        process.paused_until = process.paused_until.max(self.now + time);
        process.is_suspended = false;
    }

    /// Suspends the machine of `slot` for a while: its clock goes on, what arrives is lost, and its connections break.
    pub fn suspend(&mut self, slot: Slot, time: Duration) {
        self.pause(slot, time);
        self.nodes[slot.index()].is_suspended = true;
        self.network.break_all(slot);
    }

    /// The workers of `slot` make progress now; from the first time on they hang unless it is told again and again.
    pub fn progress(&mut self, slot: Slot) {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        if let Some(node) = &mut process.node {
            node.handle_progress(local, local);
        }
        self.settle(slot);
    }

    /// Whether some process stands still.
    #[must_use]
    pub fn is_anybody_paused(&self) -> bool {
        self.nodes.iter().any(|process| process.paused_until > self.now)
    }

    /// Whether nobody stands still, nothing is late, and no change of an in-sync set is wished for or on its way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let mut living = self.nodes.iter().filter_map(|process| process.node.as_ref());
        !self.is_anybody_paused() && !self.network.is_behind(self.now) && living.all(Node::is_at_rest)
    }

    /// The node in `slot`, if its process runs.
    #[must_use]
    pub fn node(&self, slot: Slot) -> Option<&Node> {
        self.nodes[slot.index()].node.as_ref()
    }

    /// The slots whose processes run.
    #[must_use]
    pub fn running(&self) -> Vec<Slot> {
        (0..self.nodes.len()).map(|slot| Slot(slot as u8)).filter(|&slot| self.node(slot).is_some()).collect()
    }

    /// The slot that leads, as seen by a majority of all nodes.
    #[must_use]
    pub fn leader(&self) -> Option<Slot> {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        all_living(&self.nodes)
            .filter_map(|node| node.view().leader)
            .for_each(|leader| *counts.entry(leader).or_default() += 1);
        counts.into_iter().find(|(_, count)| count * 2 > self.nodes.len()).map(|(leader, _)| leader.slot)
    }

    fn node_options(&mut self, slot: Slot) -> Options {
        let nodes = self.options.nodes;
        let names: Vec<String> = (1..=nodes).map(|node| format!("n{node}")).collect();
        let drawn = self.rng.bits_128();
        // The rule that every life draws a new incarnation is kept by whoever starts a process: here, that is the world.
        let incarnation = if is_broken(Mutant::OldIdentity) { u128::from(slot.0) + 1 } else { drawn };
        Options {
            cluster_name: NAME.to_owned(),
            me: NodeId::new(slot, Incarnation(incarnation)),
            slots: nodes,
            advertised: names.iter().map(|name| format!("http://{name}")).collect(),
            names,
            partitions: self.options.partitions,
            replicas: Options::replicas_auto(nodes),
            min_copies: MIN_COPIES,
            replicas_auto: true,
            replace_after: Duration::from_secs(1),
            demote_after: Duration::from_secs(3),
            sync_interval: self.options.sync_interval,
            timing: Timing::default(),
            timing_adapts: true,
            followers: FollowerMode::Relay,
            shards: self.options.shards,
            value_bytes_max: 1 << 20,
            key_bytes_max: 1024,
            memory_bytes_max: 1 << 30,
            requests_max: 1000,
            tail_effects_max: 256,
            // A chunk or two at a time.
            filling_bytes_max: 5000,
            // Twenty partitions or so in a second.
            moving_bytes_per_second: 400_000,
            feed_effects_max: 1024,
            unix_micros_at_zero: 1_700_000_000_000_000 + self.rng.below(3_600_000_000),
            seed: self.rng.bits(),
        }
    }

    // ---- time --------------------------------------------------------------------------------------------------

    /// Lets `time` pass, or less if something is found to be wrong.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, _, _))) = self.agenda.peek() {
            if *at > end || self.is_broken() {
                break;
            }
            let Some(Reverse((at, _, happening))) = self.agenda.pop() else { break };
            self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
            self.now = self.now.max(at);
            if self.at_once > AT_ONCE_MAX {
                self.complain(format!("{AT_ONCE_MAX} things happened in one moment, the last of them {happening:?}"));
            }
            self.happen(happening);
        }
        self.now = end;
    }

    /// Lets time pass until `condition` holds, at most `most`. False where it never did.
    pub fn run_until(&mut self, most: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while self.now < end && !self.is_broken() {
            if condition(self) {
                return true;
            }
            self.run(Duration::from_millis(5));
        }
        condition(self)
    }

    /// The hash of all that happened: two runs of one seed have the same.
    #[must_use]
    pub const fn trace(&self) -> u64 {
        self.trace.hash()
    }

    /// The last lines of what happened, where the world keeps them.
    #[must_use]
    pub fn story(&self) -> String {
        self.trace.story()
    }

    /// What was found to be wrong so far. Nothing more is looked for afterwards: one breach causes hundreds.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Whether something was found to be wrong.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.complaints.is_empty()
    }

    /// Notes that something is wrong.
    pub(super) fn complain(&mut self, words: String) {
        self.note(|| format!("WRONG: {words}"));
        self.complaints.push(words);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds a client that asks one thing after another.
    pub fn add_client(&mut self) {
        let client = self.clients.add();
        let at = self.now + self.rng.duration(Duration::from_millis(5));
        self.push(at, Happening::Client { client });
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.serial += 1;
        assert!(self.agenda.len() < AGENDA_MAX, "{AGENDA_MAX} things are under way: messages breed messages");
        self.agenda.push(Reverse((at, self.serial, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        let slot = match &happening {
            Happening::Wake { slot, .. } => *slot,
            Happening::Datagram { to, .. } | Happening::Frame { to, .. } => *to,
            Happening::Client { client } => return self.client_step(*client),
        };
        let process = &self.nodes[slot.index()];
        if process.paused_until > self.now {
            // It waits in the socket until the process goes on. Nothing waits for a machine that is suspended.
            let at = process.paused_until;
            if !process.is_suspended || matches!(happening, Happening::Wake { .. }) {
                self.push(at, happening);
            }
            return;
        }
        let local = process.clock.show(self.now);
        match happening {
            Happening::Wake { life, .. } => {
                let process = &mut self.nodes[slot.index()];
                if life != process.lives || process.woken_at > self.now {
                    return;
                }
                process.woken_at = Instant::FAR;
                let Some(node) = &mut process.node else { return };
                node.handle_timeout(local);
                self.settle(slot);
            }
            Happening::Datagram { bytes, is_damaged, .. } => self.deliver_datagram(slot, local, &bytes, is_damaged),
            Happening::Frame { from, connection, bytes, is_damaged, .. } => {
                if self.network.arrives(from, slot, connection) {
                    self.deliver_frame((from, slot), local, &bytes, is_damaged);
                }
            }
            Happening::Client { .. } => {}
        }
    }

    /// Carries away what a node has put out, checks it, and notes when it wants to be woken.
    pub(super) fn settle(&mut self, slot: Slot) {
        let Some(node) = &mut self.nodes[slot.index()].node else { return };
        let mut datagrams = Vec::new();
        // One for each peer and lane.
        let mut payloads: Vec<((NodeId, bool), Payload)> = Vec::new();
        let mut replies = Vec::new();
        let mut events = Vec::new();
        let mut admin = Vec::new();
        let mut feed = Vec::new();
        while let Some(output) = node.poll_output() {
            match output {
                NodeOutput::Datagram { to, bytes } => datagrams.push((to, bytes)),
                NodeOutput::Message { to, message } => {
                    let way = (to, message.is_bulk());
                    let place = payloads.iter().position(|(other, _)| *other == way).unwrap_or_else(|| {
                        payloads.push((way, Payload::default()));
                        payloads.len() - 1
                    });
                    payloads[place].1.append(&message).expect("a message fits a frame");
                }
                NodeOutput::Reply { shard, request, result } => replies.push((shard, request, result)),
                NodeOutput::Event(event) => events.push(event),
                NodeOutput::Admin { ticket, result } => admin.push((ticket, result)),
                output => feed.push(output),
            }
        }
        let view = std::sync::Arc::clone(node.view());
        let wake_at = node.poll_timeout();
        for event in events {
            self.note_event(slot, &event);
        }
        if self.options.recording {
            self.recorded.extend(datagrams.iter().cloned());
        }
        self.check(slot);
        for (to, bytes) in datagrams {
            for parcel in self.network.datagram(self.now, (slot, to), bytes, &mut self.rng) {
                let Parcel { arrives_at, to, bytes, is_damaged } = parcel;
                self.push(arrives_at, Happening::Datagram { to, bytes, is_damaged });
            }
        }
        for ((to, is_bulk), payload) in payloads {
            // As the stream plane does: what is meant for another life of the peer is not sent to this one.
            let Some(envelope) = view.envelope(to.slot).filter(|envelope| envelope.to == to) else { continue };
            let header = frame::seal(&envelope, NameHash::of(NAME), &payload).expect("a payload fits a frame");
            let mut bytes = [&header[..], &payload.to_vec()].concat();
            let sent = self.network.frame(self.now, (slot, to.slot), is_bulk, &mut bytes, &mut self.rng);
            if let Some((at, connection, is_damaged)) = sent {
                self.push(at, Happening::Frame { from: slot, to: to.slot, connection, bytes, is_damaged });
            }
        }
        for (shard, request, result) in replies {
            self.on_reply(slot, shard, request, result);
        }
        for output in feed {
            self.on_feed_output(slot, output);
        }
        for (ticket, is_granted) in admin {
            self.on_wish_answered(slot, ticket, is_granted);
        }
        let found = self.clients.take_complaints();
        found.into_iter().for_each(|words| self.complain(words));
        self.wake(slot, wake_at);
    }

    fn wake(&mut self, slot: Slot, local: Instant) {
        if local == Instant::FAR {
            return;
        }
        let process = &mut self.nodes[slot.index()];
        let at = process.clock.world(local).max(self.now + Duration::from_micros(1));
        if at < process.woken_at {
            process.woken_at = at;
            let life = process.lives;
            self.push(at, Happening::Wake { slot, life });
        }
    }

    fn note_event(&mut self, slot: Slot, event: &ControlEvent) {
        self.note(|| format!("{slot}: {event:?}"));
        if let ControlEvent::Damage { partition, damage } = event
            && !self.decayed.contains(partition)
            && !self.clients.is_void(*partition)
        {
            self.complain(format!("{slot} finds its copy of {partition} bad, and nothing was done to it: {damage:?}"));
        }
        if let ControlEvent::Founded { cluster, .. } = event
            && let Err(words) = self.consensus.handle_founding(&self.nodes, *cluster)
        {
            self.complain(words);
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        self.trace.note(self.now, line);
    }

    pub(super) fn client_next(&mut self, client: usize) {
        let at = self.now + Duration::from_micros(200) + self.rng.duration(self.options.think);
        self.push(at, Happening::Client { client });
    }
}
