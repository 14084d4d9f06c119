//! Nodes, a clock, and deliveries in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::BytesMut;

use super::clients::Clients;
use super::network::Network;
use super::readers::Readers;
use crate::api::{AdminReport, AdminRequest, Error, FeedEvent, Request, Response};
use crate::base::{
    ClusterId, FollowerMode, Incarnation, Instant, NodeId, Options, PartitionId, RequestId, Rng, ShardId, Slot, Term,
    Timing,
};
use crate::codec::frame::{self, FrameDecoder};
use crate::codec::{self, Keyring, NameHash};
use crate::node::message::PeerMessage;
use crate::node::{ControlEvent, Node, NodeOutput, Submitted};
use crate::raft::RaftRole;

/// The name of every cluster here.
pub const NAME: &str = "simulated";
/// Lines of the trace that are kept: what led to a failure is in the last of them.
const TRACE_LINES_MAX: usize = 20_000;
const MILLION: u128 = 1_000_000;
/// How much a clock may be too fast or too slow, in parts per million: the most that leases allow for.
const DRIFT_MAX: u64 = 1000;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Nodes.
    pub nodes: usize,
    /// Partitions of the key space.
    pub partitions: u16,
    /// Shards of each node.
    pub shards: u16,
    /// Keep the last lines of the trace as text.
    pub verbose: bool,
    /// What a secret file says, for every node; nothing: no secret.
    pub secrets: String,
    /// Keep every datagram that is sent; see [`World::recorded`].
    pub recording: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { nodes: 3, partitions: 16, shards: 2, verbose: false, secrets: String::new(), recording: false }
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
    nodes: Vec<Process>,
    agenda: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    serial: u64,
    leaders: BTreeMap<(ClusterId, Term), NodeId>,
    /// Answers to what was asked by [`World::submit`].
    answers: BTreeMap<(Slot, ShardId, RequestId), Option<Answer>>,
    readers: Readers,
    /// What each slot's viewers have seen, and whether nothing is missed from there on.
    seen: Vec<Vec<FeedEvent>>,
    is_live: Vec<bool>,
    /// What came of operators' wishes, by ticket.
    wished: BTreeMap<u64, Result<AdminReport, Error>>,
    rng: Rng,
    recorded: Vec<(Slot, Vec<u8>)>,
    trace: u64,
    lines: std::collections::VecDeque<String>,
}

type Answer = Result<Response, Error>;

/// One slot's process.
struct Process {
    node: Option<Node>,
    clock: Clock,
    /// It does nothing until then; what arrives waits.
    paused_until: Instant,
    lives: u64,
    woken_at: Instant,
}

/// One process's clock: started some time before the world, and a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// What it shows at the world's zero, in nanoseconds.
    offset: u64,
    /// Nanoseconds that it goes on by while a million pass.
    speed: u64,
}

impl Clock {
    /// What it shows when it is `now` in the world.
    const fn show(self, now: Instant) -> Instant {
        Instant(self.offset + (now.0 as u128 * self.speed as u128 / MILLION) as u64)
    }

    /// When it will show `local` in the world: rounded up, so that what is due then is due indeed.
    const fn world(self, local: Instant) -> Instant {
        let shown = local.0.saturating_sub(self.offset) as u128;
        Instant((shown * MILLION).div_ceil(self.speed as u128) as u64)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Wake { slot: Slot, life: u64 },
    Datagram { to: Slot, bytes: Vec<u8> },
    Frame { from: Slot, to: Slot, connection: u64, bytes: Vec<u8> },
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
            clients: Clients::new(rng.fork()),
            nodes: Vec::new(),
            agenda: BinaryHeap::new(),
            serial: 0,
            leaders: BTreeMap::new(),
            answers: BTreeMap::new(),
            readers: Readers::new(options.nodes),
            seen: vec![Vec::new(); options.nodes],
            is_live: vec![false; options.nodes],
            wished: BTreeMap::new(),
            recorded: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            lines: std::collections::VecDeque::new(),
            rng,
            options,
        };
        for slot in 0..world.options.nodes {
            let clock = Clock {
                offset: 1_000_000_000 + world.rng.below(1_000_000_000_000),
                speed: MILLION as u64 - DRIFT_MAX + world.rng.below(2 * DRIFT_MAX + 1),
            };
            world.nodes.push(Process {
                node: None,
                clock,
                paused_until: Instant::ZERO,
                lives: 0,
                woken_at: Instant::FAR,
            });
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
        if let Some(node) = &mut self.nodes[slot.index()].node {
            node.handle_keyring(std::sync::Arc::new(keyring.expect("a test's secrets are sound")));
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
        if self.nodes[slot.index()].node.take().is_some() {
            self.note(|| format!("kill {slot}"));
            self.network.break_all(slot);
            self.nodes[slot.index()].woken_at = Instant::FAR;
            self.clients.handle_death(self.now, slot);
            self.readers.handle_death(slot);
        }
    }

    /// Stops the process of `slot` for a while; its clock goes on.
    pub fn pause(&mut self, slot: Slot, time: Duration) {
        self.note(|| format!("pause {slot} for {time:?}"));
        self.nodes[slot.index()].paused_until = self.now + time;
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

    /// The slot that leads, as seen by a majority of the running nodes.
    #[must_use]
    pub fn leader(&self) -> Option<Slot> {
        let views = self.running().into_iter().filter_map(|slot| self.node(slot)?.view().leader);
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        views.for_each(|leader| *counts.entry(leader).or_default() += 1);
        counts.into_iter().find(|(_, count)| count * 2 > self.nodes.len()).map(|(leader, _)| leader.slot)
    }

    fn node_options(&mut self, slot: Slot) -> Options {
        let nodes = self.options.nodes;
        let names: Vec<String> = (1..=nodes).map(|node| format!("n{node}")).collect();
        Options {
            cluster_name: NAME.to_owned(),
            me: NodeId::new(slot, Incarnation(self.rng.bits_128())),
            slots: nodes,
            advertised: names.iter().map(|name| format!("http://{name}")).collect(),
            names,
            partitions: self.options.partitions,
            replicas: Options::replicas_auto(nodes),
            min_copies: 2,
            replicas_auto: true,
            replace_after: Duration::from_secs(1),
            demote_after: Duration::from_secs(3),
            timing: Timing::default(),
            timing_adapts: true,
            followers: FollowerMode::Relay,
            shards: self.options.shards,
            value_bytes_max: 1 << 20,
            key_bytes_max: 1024,
            memory_bytes_max: 1 << 30,
            requests_max: 1000,
            tail_effects_max: 256,
            unix_micros_at_zero: 1_700_000_000_000_000 + self.rng.below(3_600_000_000),
            seed: self.rng.bits(),
        }
    }

    // ---- time --------------------------------------------------------------------------------------------------

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, _, _))) = self.agenda.peek() {
            if *at > end {
                break;
            }
            let Some(Reverse((at, _, happening))) = self.agenda.pop() else { break };
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = end;
    }

    /// Lets time pass until `condition` holds, at most `most`. False where it never did.
    pub fn run_until(&mut self, most: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while self.now < end {
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
        self.trace
    }

    /// The last lines of what happened, where the world keeps them.
    #[must_use]
    pub fn story(&self) -> String {
        self.lines.iter().fold(String::new(), |mut story, line| {
            let _ = writeln!(story, "{line}");
            story
        })
    }

    /// Adds a client that asks one thing after another.
    pub fn add_client(&mut self) {
        let client = self.clients.add();
        let at = self.now + self.rng.duration(Duration::from_millis(5));
        self.push(at, Happening::Client { client });
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.serial += 1;
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
            // It waits in the socket until the process goes on.
            let at = process.paused_until;
            return self.push(at, happening);
        }
        let local = process.clock.show(self.now);
        let lives = process.lives;
        match happening {
            Happening::Wake { life, .. } => {
                if life != lives || self.nodes[slot.index()].woken_at > self.now {
                    return;
                }
                self.nodes[slot.index()].woken_at = Instant::FAR;
                let Some(node) = &mut self.nodes[slot.index()].node else { return };
                node.handle_timeout(local);
            }
            Happening::Datagram { bytes, .. } => {
                self.hash(&bytes);
                let Some(node) = &mut self.nodes[slot.index()].node else { return };
                node.handle_datagram(local, &bytes);
            }
            Happening::Frame { from, connection, bytes, .. } => {
                if !self.network.arrives(from, slot, connection) {
                    return;
                }
                self.hash(&bytes);
                self.deliver_frame(slot, local, &bytes);
            }
            Happening::Client { .. } => {}
        }
        self.settle(slot);
    }

    fn deliver_frame(&mut self, slot: Slot, local: Instant, bytes: &[u8]) {
        let Some(node) = &mut self.nodes[slot.index()].node else { return };
        let mut buffer = BytesMut::from(bytes);
        let mut decoder = FrameDecoder::new(NameHash::of(NAME));
        let frame = decoder.decode(&mut buffer).expect("a frame is sound").expect("a frame is whole");
        for message in frame::messages(&frame.payload) {
            let message: PeerMessage = codec::decode(message.expect("a message is whole")).expect("a message decodes");
            node.handle_message(local, &frame.envelope, message);
        }
    }

    /// Carries away what a node has put out, checks it, and notes when it wants to be woken.
    fn settle(&mut self, slot: Slot) {
        let Some(node) = &mut self.nodes[slot.index()].node else { return };
        node.check_invariants();
        let mut datagrams = Vec::new();
        let mut payloads: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
        let mut replies = Vec::new();
        let mut events = Vec::new();
        while let Some(output) = node.poll_output() {
            match output {
                NodeOutput::Datagram { to, bytes } => datagrams.push((to, bytes)),
                NodeOutput::Message { to, message } => {
                    let payload = payloads.entry(to).or_default();
                    frame::append_message(&message, payload).expect("a message fits a frame");
                }
                NodeOutput::Reply { shard, request, result } => replies.push((shard, request, result)),
                NodeOutput::Event(event) => events.push(event),
                NodeOutput::FeedEvent(event) => self.seen[slot.index()].push(event),
                NodeOutput::FeedLive => self.is_live[slot.index()] = true,
                NodeOutput::Admin { ticket, result } => drop(self.wished.insert(ticket, result)),
            }
        }
        let view = std::sync::Arc::clone(node.view());
        let wake_at = node.poll_timeout();
        let leads = node.control().raft().filter(|raft| raft.role() == RaftRole::Leader).map(|raft| raft.term());
        if let Some(term) = leads {
            let leader = *self.leaders.entry((view.cluster, term)).or_insert(view.me);
            assert_eq!(leader, view.me, "two leaders in term {term}");
        }
        self.check_readers(slot);
        for event in events {
            self.note_event(slot, &event);
        }
        if self.options.recording {
            self.recorded.extend(datagrams.iter().cloned());
        }
        for (to, bytes) in datagrams {
            for at in self.network.datagram(self.now, slot, to, &mut self.rng) {
                self.push(at, Happening::Datagram { to, bytes: bytes.clone() });
            }
        }
        for (to, payload) in payloads {
            // As the stream plane does: what is meant for another life of the peer is not sent to this one.
            let Some(envelope) = view.envelope(to.slot).filter(|envelope| envelope.to == to) else { continue };
            let header = frame::seal(&envelope, NameHash::of(NAME), &payload).expect("a payload fits a frame");
            let bytes = [&header[..], &payload].concat();
            if let Some((at, connection)) = self.network.frame(self.now, slot, to.slot, &mut self.rng) {
                self.push(at, Happening::Frame { from: slot, to: to.slot, connection, bytes });
            }
        }
        for (shard, request, result) in replies {
            self.on_reply(slot, shard, request, result);
        }
        self.wake(slot, wake_at);
    }

    /// Notes which partitions `slot` answers reads of, and until when.
    fn check_readers(&mut self, slot: Slot) {
        let process = &self.nodes[slot.index()];
        let Some(node) = &process.node else { return };
        let may_read = (0..self.options.partitions).map(PartitionId).filter_map(|partition| {
            let until = node.shards().iter().map(|shard| shard.serves_until(partition)).max()?;
            (until != Instant::ZERO).then(|| (partition, process.clock.world(until)))
        });
        let may_read = may_read.collect();
        if let Some(words) = self.readers.update(self.now, slot, may_read) {
            self.note(|| format!("VIOLATION {words}"));
            self.clients.complain(words);
        }
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

    // ---- clients -----------------------------------------------------------------------------------------------

    fn client_step(&mut self, client: usize) {
        let running = self.running();
        if !self.clients.is_idle(client) || self.clients.is_stopped() || running.is_empty() {
            return self.client_next(client);
        }
        let slot = running[self.rng.below(running.len() as u64) as usize];
        if self.nodes[slot.index()].paused_until > self.now {
            return self.client_next(client);
        }
        let request: Request = self.clients.next_request(self.now, client);
        self.note(|| format!("client {client} asks {slot}: {:?}", request.operation));
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let Some(node) = &mut process.node else { return };
        let (shard, submitted) = node.handle_request(local, request);
        match submitted {
            Submitted::Now(result) => {
                self.note(|| format!("client {client} is told at once: {result:?}"));
                self.clients.handle_result(self.now, client, &result);
                self.client_next(client);
            }
            Submitted::Later(request) => self.clients.handle_pending(client, slot, shard, request),
        }
        self.settle(slot);
    }

    /// Hands `request` to a node, outside of the clients' history.
    pub fn submit(&mut self, slot: Slot, request: Request) -> Option<(ShardId, Submitted)> {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let (shard, submitted) = process.node.as_mut()?.handle_request(local, request);
        if let Submitted::Later(id) = submitted {
            self.answers.insert((slot, shard, id), None);
        }
        self.settle(slot);
        Some((shard, submitted))
    }

    /// Hands an operator's wish to a node, and waits for what comes of it; none where that takes longer than `most`.
    pub fn wish(&mut self, slot: Slot, request: &AdminRequest, most: Duration) -> Option<Result<AdminReport, Error>> {
        let ticket = self.rng.bits();
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        process.node.as_mut()?.handle_admin(local, ticket, request);
        self.settle(slot);
        self.run_until(most, |world| world.wished.contains_key(&ticket));
        self.wished.remove(&ticket)
    }

    /// Gives `slot` a viewer of the feed.
    pub fn watch(&mut self, slot: Slot) {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        if let Some(node) = &mut process.node {
            node.handle_feed_wanted(local, true);
        }
        self.settle(slot);
    }

    /// What the viewer of `slot` has seen; none before it is told that it misses nothing.
    #[must_use]
    pub fn seen(&self, slot: Slot) -> Option<&[FeedEvent]> {
        self.is_live[slot.index()].then(|| &self.seen[slot.index()][..])
    }

    /// Whether what was handed in has been answered.
    #[must_use]
    pub fn has_answer(&self, slot: Slot, shard: ShardId, request: RequestId) -> bool {
        self.answers.get(&(slot, shard, request)).is_some_and(Option::is_some)
    }

    /// Takes the answer to what was handed in.
    pub fn take_answer(&mut self, slot: Slot, shard: ShardId, request: RequestId) -> Option<Answer> {
        self.answers.remove(&(slot, shard, request)).flatten()
    }

    fn on_reply(&mut self, slot: Slot, shard: ShardId, request: RequestId, result: Answer) {
        if let Some(answer) = self.answers.get_mut(&(slot, shard, request)) {
            *answer = Some(result);
            return;
        }
        if let Some(client) = self.clients.pending(slot, shard, request) {
            self.note(|| format!("client {client} is told by {slot}: {result:?}"));
            self.clients.handle_result(self.now, client, &result);
            self.client_next(client);
        }
    }

    fn client_next(&mut self, client: usize) {
        let at = self.now + Duration::from_micros(200) + self.rng.duration(Duration::from_millis(10));
        self.push(at, Happening::Client { client });
    }

    // ---- the trace ---------------------------------------------------------------------------------------------

    fn note_event(&mut self, slot: Slot, event: &ControlEvent) {
        self.note(|| format!("{slot}: {event:?}"));
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.verbose {
            if self.lines.len() == TRACE_LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{} {}", self.now, line()));
        }
        let now = self.now.0.to_le_bytes();
        self.hash(&now);
    }

    /// FNV-1a (Fowler, Noll, Vo), over 8 bytes at a time where there are so many: a fingerprint, not a defence.
    fn hash(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.trace = (self.trace ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
