//! A shard: the partitions of this node whose number modulo the count of shards is its own.
//!
//! It takes clients' requests, messages of other nodes, views of the cluster and the passing of time. A request ends in one
//! of six ways:
//!
//! ```text
//! request ──▶ route ──▶ my partition, I serve ──▶ read: answered in the call          (lease valid)
//!                  │                        └──▶ write: to the replica, answered when committed
//!                  ├──▶ somebody else's, I lead the cluster and my copy is in sync ─▶ read: answered in the call, or forwarded
//!                  ├──▶ somebody else's      ──▶ forwarded (leader or primary), a bounded number of hops
//!                  ├──▶ nobody's at the moment ─▶ waits for a newer view, a lease, a finished takeover, or its deadline
//!                  └──▶ no leader for long     ─▶ read: from a surviving copy, marked; write: refused (`degraded`)
//! ```
//!
//! Invariants: a read is answered from a partition only while the lease holds, by its primary once its epoch has begun, or by
//! the cluster's leader from a copy in sync (`docs/protocol.md`, section D, "Reads at the leader"); every request is
//! answered once, at its deadline at the latest; what waits is bounded by `requests_max`.

mod degraded;
mod feed;
mod listings;
mod mute;
mod partitions;
mod requests;
mod scans;
mod targets;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::feed::{Follower, Resume, Source};
use super::gather::Gather;
use super::message::{AnswerMessage, NodeMessage, PeerMessage, ShardMessage};
use super::{ControlEvent, Load, View};
use crate::api::{Error, FeedEvent, FeedPart, Operation, Request, Response};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Epoch, InSyncChange, Instant, NodeId, Options, PartitionId, RequestId, ShardId, SlotSet};
use crate::replica::{self, Replica};
use mute::Mute;
use scans::Scans;
use targets::Targets;
use verify::Verifier;

/// Records that have run out are deleted by as many at a time, about: less than a millisecond of work. Whoever waits for the
/// shard is served before it goes on.
const EXPIRED_AT_ONCE: u64 = 256;
/// How often deadlines are looked at: a request is answered at most this much after its deadline.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// What a shard gives out.
#[derive(Clone, Debug)]
pub enum ShardOutput {
    /// Send this over the stream plane.
    Peer {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Hand this to every shard of this node, this one included.
    EveryShard(NodeMessage),
    /// Hand this to the shard of this node that gave out the number.
    Answer(RequestId, AnswerMessage),
    /// The answer to a client's request.
    Reply {
        /// Which.
        request: RequestId,
        /// What.
        result: Result<Response, Error>,
    },
    /// A committed change, for this node's viewers.
    Event {
        /// The change.
        event: FeedEvent,
        /// Where a viewer is that has seen this and everything before.
        cursor: Arc<str>,
    },
    /// Everybody sends changes here from now on.
    FeedLive,
    /// Changes can't be told without a hole: the viewers of this node are to be cut off. They may come back at once.
    FeedCut,
    /// A part of what a viewer that came back has missed.
    FeedPart {
        /// Which request.
        request: RequestId,
        /// The part.
        result: Result<FeedPart, Error>,
    },
    /// A wish of a primary, for the control core.
    Propose(InSyncChange),
    /// Something that people want to know.
    Notice(ControlEvent),
}

/// What became of a request in the call that handed it in.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// It is answered.
    Now(Result<Response, Error>),
    /// A [`ShardOutput::Reply`] with this number will answer it.
    Later(RequestId),
}

/// One shard of one node.
#[derive(Debug)]
pub struct ShardCore {
    id: ShardId,
    options: Arc<Options>,
    view: Arc<View>,
    lease_until: Instant,
    /// By partition divided by the count of shards.
    replicas: Vec<Replica>,
    /// When each replica's timer is armed; and the same in the order of time. A timer is only ever armed for earlier, so
    /// that a busy partition doesn't move it at every write; it looks again when it fires.
    armed: Vec<Instant>,
    timers: BTreeSet<(Instant, u16)>,
    /// Those, by index, that have learners.
    with_learners: BTreeSet<usize>,
    table_bytes: u64,
    table_keys: u64,
    /// Bytes of tables that were sent to learners.
    filled_bytes: u64,
    scans: Scans,
    in_flight: BTreeMap<RequestId, InFlight>,
    waiting: VecDeque<Work>,
    gathers: BTreeMap<RequestId, Gather>,
    source: Source,
    follower: Follower,
    resumes: BTreeMap<RequestId, Resume>,
    /// The partitions of the effects in all rings, oldest first, by index.
    ring_order: VecDeque<u16>,
    ring_bytes: u64,
    sweep_at: Instant,
    next_id: u64,
    retry: bool,
    targets: Targets,
    mute: Mute,
    outputs: VecDeque<ShardOutput>,
    scratch: Vec<replica::Output>,
    verifier: Verifier,
    rejected: BTreeMap<&'static str, u64>,
}

/// A request and who waits for its answer.
#[derive(Debug)]
struct Work {
    origin: Origin,
    request: Request,
    deadline: Instant,
    hops: u8,
    epoch_min: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client(RequestId),
    Peer { node: NodeId, id: RequestId },
}

/// A request that somebody works on.
#[derive(Debug)]
enum InFlight {
    /// A replica of this shard: the write is on its way to the copies.
    Writing { origin: Origin, deadline: Instant },
    /// Another node.
    Forwarded { to: NodeId, work: Box<Work> },
    /// Without a quorum: all who may hold a copy, of whom these haven't said that they don't.
    Survivors { work: Box<Work>, partition: PartitionId, asked: SlotSet, ask_again_at: Instant, gives_up_at: Instant },
}

impl InFlight {
    const fn deadline(&self) -> Instant {
        match self {
            Self::Writing { deadline, .. } => *deadline,
            Self::Forwarded { work, .. } | Self::Survivors { work, .. } => work.deadline,
        }
    }

    const fn origin(&self) -> Origin {
        match self {
            Self::Writing { origin, .. } => *origin,
            Self::Forwarded { work, .. } | Self::Survivors { work, .. } => work.origin,
        }
    }

    fn is_write(&self) -> bool {
        match self {
            Self::Writing { .. } => true,
            Self::Forwarded { work, .. } | Self::Survivors { work, .. } => work.request.operation.is_write(),
        }
    }
}

impl ShardCore {
    /// A shard that knows no cluster yet.
    #[must_use]
    pub fn new(id: ShardId, options: Arc<Options>) -> Self {
        Self {
            id,
            verifier: Verifier::new(options.seed ^ u64::from(id.0)),
            scans: Scans::new(options.filling_bytes_max, options.moving_bytes_per_second),
            view: Arc::new(View { me: options.me, ..View::default() }),
            options,
            lease_until: Instant::ZERO,
            replicas: Vec::new(),
            armed: Vec::new(),
            timers: BTreeSet::new(),
            with_learners: BTreeSet::new(),
            table_bytes: 0,
            table_keys: 0,
            filled_bytes: 0,
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            gathers: BTreeMap::new(),
            source: Source::default(),
            follower: Follower::default(),
            resumes: BTreeMap::new(),
            ring_order: VecDeque::new(),
            ring_bytes: 0,
            sweep_at: Instant::ZERO,
            next_id: u64::from(id.0),
            retry: false,
            targets: Targets::default(),
            mute: Mute::default(),
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// The shard, of `shards`, that gave out `request`.
    #[must_use]
    pub const fn of_request(request: RequestId, shards: u16) -> ShardId {
        ShardId((request.0 % shards as u64) as u16)
    }

    // ---- what comes in -----------------------------------------------------------------------------------------

    /// Takes a client's request. It must be about a key of this shard, or be a listing.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> Submitted {
        if let Err(error) = self.check(&request) {
            return Submitted::Now(Err(error));
        }
        let id = self.new_id();
        let deadline = now + Duration::from_millis(u64::from(request.timeout_ms));
        if let Operation::List { .. } = request.operation {
            self.begin_gather(now, id, request, deadline);
            return Submitted::Later(id);
        }
        let work = Work { origin: Origin::Client(id), request, deadline, hops: 0, epoch_min: Epoch::ZERO };
        match self.route(now, work) {
            Some(result) => Submitted::Now(result),
            None => Submitted::Later(id),
        }
    }

    /// Takes a message about one partition of this shard.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, partition: PartitionId, message: ShardMessage) {
        match message {
            ShardMessage::Replica(message) => {
                if self.view.registered(from.slot) != Some(from) {
                    self.reject("unregistered_sender");
                } else if self.owns(partition) {
                    if message.is_answer() {
                        self.mute.answered(from.slot);
                    }
                    self.with_replica(now, partition, |replica, out| replica.handle_message(now, from, message, out));
                } else {
                    self.reject("other_shard");
                }
            }
            ShardMessage::Forward(forward) => self.on_forward(now, from, partition, forward),
        }
        self.go_on_scanning(now);
        self.maybe_retry(now);
    }

    /// Takes a message that concerns every shard.
    pub fn handle_node_message(&mut self, now: Instant, from: NodeId, message: NodeMessage) {
        match message {
            NodeMessage::Scan(scan) => {
                let part = self.scan(now, &scan);
                self.answer(from, scan.id, AnswerMessage::Scanned(part));
            }
            NodeMessage::FeedWanted { id, floor, restart } => self.on_feed_wanted(now, from, id, (floor, &restart)),
            NodeMessage::FeedFetch { partition, after } => self.on_feed_fetch(from, partition, after),
            NodeMessage::FeedSince(since) => {
                let part = self.since(now, &since);
                self.answer(from, since.id, AnswerMessage::Since(part));
            }
            NodeMessage::Digests(digests) => self.on_digests(now, from, digests),
        }
    }

    /// Takes the answer to something that this shard asked.
    pub fn handle_answer(&mut self, now: Instant, from: NodeId, id: RequestId, answer: AnswerMessage) {
        match answer {
            AnswerMessage::Forwarded(result) => {
                // Only whom it was sent to may answer; a late answer finds nothing.
                if matches!(self.in_flight.get(&id), Some(InFlight::Forwarded { to, .. }) if *to == from)
                    && let Some(in_flight) = self.in_flight.remove(&id)
                {
                    self.reply(in_flight.origin(), result);
                } else {
                    self.on_survivor_answered(id, from, result);
                }
            }
            AnswerMessage::Scanned(part) => {
                if self.gathers.get_mut(&id).is_some_and(|gather| gather.handle_part(part)) {
                    self.finish_gather(id);
                }
            }
            AnswerMessage::Feed(message) => self.on_feed_message(now, from, id, message),
            AnswerMessage::Since(part) => self.on_since_part(id, part),
        }
        self.maybe_retry(now);
    }

    /// Takes a new state of the cluster.
    pub fn handle_view(&mut self, now: Instant, view: &Arc<View>) {
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        if before.me != view.me || before.cluster != view.cluster {
            self.forget_cluster();
        }
        if before.me != view.me || before.cluster != view.cluster || before.generation != view.generation {
            self.cut_viewers(now);
        }
        self.open_partitions();
        self.begin_verifying(now);
        if !Arc::ptr_eq(&before.table, &view.table) || before.registered != view.registered {
            self.tell_replicas(now, &before);
        }
        self.go_on_scanning(now);
        self.targets.handle_table(now);
        self.reroute_from_dead(now);
        if before.up != view.up {
            self.ask_for_feed(now);
        }
        self.tell_follower(now);
        self.retry = true;
        self.maybe_retry(now);
    }

    /// Reads may be served until then.
    pub fn handle_lease(&mut self, now: Instant, until: Instant) {
        self.retry |= now >= self.lease_until && now < until;
        self.lease_until = if is_broken(Mutant::ReadWithoutLease) { Instant::FAR } else { until };
        self.maybe_retry(now);
    }

    /// Does what is due. It may be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Of what a replica does by the clock, only the deletes of what has run out can be many.
        let mut room = EXPIRED_AT_ONCE;
        while let Some(&(_, index)) = self.timers.first().filter(|(at, _)| *at <= now && room > 0) {
            self.timers.pop_first();
            let index = usize::from(index);
            self.armed[index] = Instant::FAR;
            let (unix_micros, partition) = (self.unix_micros(now), self.partition(index));
            let before = self.replicas[index].status().last.seq;
            self.with_replica(now, partition, |replica, out| replica.handle_timeout(now, unix_micros, out));
            room = room.saturating_sub(self.replicas[index].status().last.seq.0 - before.0);
        }
        self.go_on_scanning(now);
        if now >= self.sweep_at {
            self.sweep(now);
        }
        if now >= self.verifier.step_at {
            self.verify(now);
        }
        if now >= self.follower.ask_at {
            self.ask_for_feed(now);
        }
        if now >= self.targets.look_at() {
            self.give_back(now);
        }
        self.maybe_retry(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let timer = self.timers.first().map_or(Instant::FAR, |(at, _)| *at);
        let is_busy = !(self.in_flight.is_empty()
            && self.waiting.is_empty()
            && self.gathers.is_empty()
            && self.resumes.is_empty()
            && self.source.is_empty());
        let sweep_at = if is_busy { self.sweep_at } else { Instant::FAR };
        let rounds = self.targets.look_at().min(self.verifier.step_at);
        timer.min(sweep_at).min(self.follower.ask_at).min(rounds).min(self.scans.go_on_at())
    }

    /// What the inputs caused.
    pub fn poll_output(&mut self) -> Option<ShardOutput> {
        self.outputs.pop_front()
    }

    // ---- what others may look at -------------------------------------------------------------------------------

    /// What its tables hold.
    #[must_use]
    pub fn load(&self) -> Load {
        let filling = super::FillingLoad { sent_bytes: self.filled_bytes, ..super::FillingLoad::default() };
        let fillings = self.with_learners.iter().flat_map(|index| self.replicas[*index].fillings());
        let filling = fillings.fold(filling, |sum, (done, left)| {
            let learners = sum.learners + 1;
            let (done_bytes, left_bytes) = (sum.done_bytes + done, sum.left_bytes + left);
            super::FillingLoad { learners, done_bytes, left_bytes, ..sum }
        });
        let memory_bytes = self.table_bytes + self.ring_bytes;
        Load { keys: self.table_keys, memory_bytes, filling, ..self.verifier.load }
    }

    /// The replica of `partition`, which must be one of this shard's.
    #[must_use]
    pub fn replica(&self, partition: PartitionId) -> Option<&Replica> {
        self.owns(partition).then(|| &self.replicas[self.index(partition)])
    }

    /// Until when this shard answers reads of `partition`, unless it learns something before; [`Instant::ZERO`] where it
    /// doesn't.
    #[must_use]
    pub fn serves_until(&self, partition: PartitionId) -> Instant {
        let serves = self.view.primary(partition) == Some(self.view.me)
            && self.replica(partition).is_some_and(Replica::is_serving);
        if serves { self.lease_until } else { Instant::ZERO }
    }

    /// Whether every partition that this node leads is served, and it may serve reads.
    #[must_use]
    pub fn is_serving_all(&self, now: Instant) -> bool {
        let mine = |replica: &&Replica| self.view.primary(replica.partition()) == Some(self.view.me);
        now < self.lease_until && self.replicas.iter().filter(mine).all(Replica::is_serving)
    }

    /// Whether none of its replicas wishes for a change of its in-sync set.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.replicas.iter().all(Replica::is_at_rest)
    }

    /// How many inputs were refused, by reason.
    #[must_use]
    pub const fn rejected(&self) -> &BTreeMap<&'static str, u64> {
        &self.rejected
    }

    /// Panics where the shard contradicts itself.
    pub fn check_invariants(&self) {
        for replica in &self.replicas {
            replica.check_invariants();
        }
        self.scans.check_invariants(&self.replicas);
        assert!(self.waiting.len() <= self.options.requests_max, "{} requests wait", self.waiting.len());
    }

    // ---- small things ------------------------------------------------------------------------------------------

    fn new_id(&mut self) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += u64::from(self.options.shards);
        id
    }

    /// Partitions of the cluster; before one is known, those that this node would found one with.
    fn partitions(&self) -> u16 {
        self.view.settings.map_or(self.options.partitions, |settings| settings.partitions)
    }

    fn owns(&self, partition: PartitionId) -> bool {
        ShardId::of(partition, self.options.shards) == self.id && self.index(partition) < self.replicas.len()
    }

    fn index(&self, partition: PartitionId) -> usize {
        partition.index() / usize::from(self.options.shards)
    }

    fn partition(&self, index: usize) -> PartitionId {
        PartitionId((index * usize::from(self.options.shards)) as u16 + self.id.0)
    }

    fn unix_micros(&self, now: Instant) -> u64 {
        self.clock_micros(now).max(self.version_floor() + 1)
    }

    fn clock_micros(&self, now: Instant) -> u64 {
        self.options.unix_micros_at_zero + now.0 / 1000
    }

    fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }
}
