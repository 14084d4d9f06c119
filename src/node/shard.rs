//! A shard: the partitions of this node whose number modulo the count of shards is its own.
//!
//! It takes clients' requests, messages of other nodes, views of the cluster and the passing of time. A request ends in one
//! of four ways:
//!
//! ```text
//! request ──▶ route ──▶ my partition, I serve ──▶ read: answered in the call          (lease valid)
//!                  │                        └──▶ write: to the replica, answered when committed
//!                  ├──▶ somebody else's      ──▶ forwarded (leader or primary), at most two hops
//!                  └──▶ nobody's at the moment ─▶ waits for a newer view, a lease, a finished takeover, or its deadline
//! ```
//!
//! Invariants: a read is answered from a partition only while the lease holds and its epoch has begun; every request is
//! answered once, at its deadline at the latest; what waits is bounded by `requests_max`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::View;
use super::feed::{FeedWish, Subscribers};
use super::gather::Gather;
use super::message::{AnswerMessage, Forward, NodeMessage, PartitionSet, PeerMessage, Scan, Scanned, ShardMessage};
use super::scan;
use crate::api::{Consistency, Error, FeedEvent, Operation, Request, Response};
use crate::base::{
    Epoch, FollowerMode, InSyncChange, Instant, NodeId, Options, PartitionId, RequestId, ShardId, Slot, limits,
};
use crate::placement;
use crate::replica::{self, Replica, ReplicaOptions};

/// How often deadlines are looked at: a request is answered at most this much after its deadline.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// How long a listing waits for the partitions that nobody spoke for before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

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
    Event(FeedEvent),
    /// Everybody sends changes here from now on.
    FeedLive,
    /// A wish of a primary, for the control core.
    Propose(InSyncChange),
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
    table_bytes: u64,
    table_keys: u64,
    in_flight: BTreeMap<RequestId, InFlight>,
    waiting: VecDeque<Work>,
    gathers: BTreeMap<RequestId, Gather>,
    subscribers: Subscribers,
    wish: FeedWish,
    sweep_at: Instant,
    next_id: u64,
    retry: bool,
    outputs: VecDeque<ShardOutput>,
    scratch: Vec<replica::Output>,
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
    Forwarded { to: NodeId, work: Work },
}

impl InFlight {
    const fn deadline(&self) -> Instant {
        match self {
            Self::Writing { deadline, .. } => *deadline,
            Self::Forwarded { work, .. } => work.deadline,
        }
    }

    const fn origin(&self) -> Origin {
        match self {
            Self::Writing { origin, .. } => *origin,
            Self::Forwarded { work, .. } => work.origin,
        }
    }

    fn is_write(&self) -> bool {
        match self {
            Self::Writing { .. } => true,
            Self::Forwarded { work, .. } => work.request.operation.is_write(),
        }
    }
}

impl ShardCore {
    /// A shard that knows no cluster yet.
    #[must_use]
    pub fn new(id: ShardId, options: Arc<Options>) -> Self {
        Self {
            id,
            view: Arc::new(View { me: options.me, ..View::default() }),
            options,
            lease_until: Instant::ZERO,
            replicas: Vec::new(),
            armed: Vec::new(),
            timers: BTreeSet::new(),
            table_bytes: 0,
            table_keys: 0,
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            gathers: BTreeMap::new(),
            subscribers: Subscribers::default(),
            wish: FeedWish::none(),
            sweep_at: Instant::ZERO,
            next_id: u64::from(id.0),
            retry: false,
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
                    self.reject("replica message from somebody unregistered");
                } else if self.owns(partition) {
                    self.with_replica(now, partition, |replica, out| replica.handle_message(now, from, message, out));
                } else {
                    self.reject("partition of another shard");
                }
            }
            ShardMessage::Forward(forward) => self.on_forward(now, from, partition, forward),
            ShardMessage::Events(events) => self.outputs.extend(events.into_iter().map(ShardOutput::Event)),
        }
        self.maybe_retry(now);
    }

    /// Takes a message that concerns every shard.
    pub fn handle_node_message(&mut self, now: Instant, from: NodeId, message: NodeMessage) {
        match message {
            NodeMessage::Scan(scan) => {
                let part = self.scan(now, &scan);
                self.answer(from, scan.id, AnswerMessage::Scanned(part));
            }
            NodeMessage::FeedWanted { id } => {
                self.subscribers.handle_wanted(now, from);
                let granted = AnswerMessage::FeedGranted { shard: self.id.0, shards: self.options.shards };
                self.answer(from, id, granted);
            }
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
                }
            }
            AnswerMessage::Scanned(part) => {
                if self.gathers.get_mut(&id).is_some_and(|gather| gather.handle_part(part)) {
                    self.finish_gather(id);
                }
            }
            AnswerMessage::FeedGranted { shard, shards } => {
                if self.wish.id() == Some(id) {
                    self.wish.handle_granted(from, shard, shards);
                    self.maybe_feed_live();
                }
            }
        }
        self.maybe_retry(now);
    }

    /// Takes a new state of the cluster.
    pub fn handle_view(&mut self, now: Instant, view: &Arc<View>) {
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        if before.me != view.me || before.cluster != view.cluster {
            self.forget_cluster();
        }
        self.open_partitions();
        if !Arc::ptr_eq(&before.table, &view.table) || before.registered != view.registered {
            self.tell_replicas(now, &before);
        }
        self.reroute_from_dead(now);
        self.maybe_feed_live();
        self.retry = true;
        self.maybe_retry(now);
    }

    /// Reads may be served until then.
    pub fn handle_lease(&mut self, now: Instant, until: Instant) {
        self.retry |= now >= self.lease_until && now < until;
        self.lease_until = until;
        self.maybe_retry(now);
    }

    /// This node has viewers, or has none any more. (One shard of a node is told.)
    pub fn handle_feed_wanted(&mut self, now: Instant, wanted: bool) {
        if wanted {
            let id = self.new_id();
            self.wish.begin(now, id);
            self.ask_for_feed(now);
        } else {
            self.wish.end();
        }
    }

    /// Does what is due. It may be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, index)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.armed[usize::from(index)] = Instant::FAR;
            let unix_micros = self.unix_micros(now);
            let partition = self.partition(usize::from(index));
            self.with_replica(now, partition, |replica, out| replica.handle_timeout(now, unix_micros, out));
        }
        if now >= self.sweep_at {
            self.sweep(now);
        }
        if now >= self.wish.ask_at {
            self.ask_for_feed(now);
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
            && self.subscribers.is_empty());
        let sweep_at = if is_busy { self.sweep_at } else { Instant::FAR };
        timer.min(sweep_at).min(self.wish.ask_at)
    }

    /// What the inputs caused.
    pub fn poll_output(&mut self) -> Option<ShardOutput> {
        self.outputs.pop_front()
    }

    // ---- what others may look at -------------------------------------------------------------------------------

    /// What its tables hold.
    #[must_use]
    pub const fn load(&self) -> super::Load {
        super::Load { keys: self.table_keys, memory_bytes: self.table_bytes }
    }

    /// The replica of `partition`, which must be one of this shard's.
    #[must_use]
    pub fn replica(&self, partition: PartitionId) -> Option<&Replica> {
        self.owns(partition).then(|| &self.replicas[self.index(partition)])
    }

    /// Whether every partition that this node leads is served, and it may serve reads.
    #[must_use]
    pub fn is_serving_all(&self, now: Instant) -> bool {
        let mine = |replica: &&Replica| self.view.primary(replica.partition()) == Some(self.view.me);
        now < self.lease_until && self.replicas.iter().filter(mine).all(Replica::is_serving)
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
        assert!(self.waiting.len() <= self.options.requests_max, "{} requests wait", self.waiting.len());
    }

    // ---- requests ----------------------------------------------------------------------------------------------

    fn check(&self, request: &Request) -> Result<(), Error> {
        let options = &self.options;
        if let Some(key) = request.operation.key() {
            let bytes = key.as_bytes().len();
            if bytes > options.key_bytes_max {
                let most = options.key_bytes_max;
                return Err(Error::BadRequest(format!("the key has {bytes} bytes; at most {most} are allowed")));
            }
        }
        match &request.operation {
            Operation::Put { value, .. } if value.len() > options.value_bytes_max => {
                Err(Error::ValueTooLarge { bytes: value.len() as u64, bytes_max: options.value_bytes_max as u64 })
            }
            Operation::List { limit, .. } if *limit == 0 || *limit as usize > limits::PAGE_ITEMS_MAX => {
                let most = limits::PAGE_ITEMS_MAX;
                Err(Error::BadRequest(format!("limit is {limit}; a page has 1 to {most} keys")))
            }
            _ if self.in_flight.len() + self.waiting.len() + self.gathers.len() >= options.requests_max => {
                Err(Error::Busy(format!("{} requests are waiting", options.requests_max)))
            }
            _ => Ok(()),
        }
    }

    /// Answers `work`, or sees to it that it will be. `Some` is for a client of this node and answers it in the call;
    /// anybody else has been answered by message.
    fn route(&mut self, now: Instant, work: Work) -> Option<Result<Response, Error>> {
        if now >= work.deadline {
            let error = Error::DeadlineBefore(self.why_not_served(&work));
            return self.answered(work.origin, Err(error));
        }
        let key = work.request.operation.key().expect("a listing is gathered, not routed");
        let partition = placement::partition_of(key.as_bytes(), self.partitions());
        if self.view.settings.is_none() || !self.owns(partition) {
            return self.wait(work);
        }
        let record = self.view.table[partition.index()];
        if record.is_lost() {
            return self.answered(work.origin, Err(Error::PartitionLost(partition)));
        }
        if record.epoch < work.epoch_min {
            return self.wait(work);
        }
        let primary = self.view.primary(partition);
        if primary == Some(self.view.me) {
            return self.execute(now, partition, work);
        }
        if let Operation::Get { key, consistency: Consistency::Stale } = &work.request.operation
            && let Ok(value) = self.replicas[self.index(partition)].read_stale(now, key)
        {
            return self.answered(work.origin, Ok(value.map_or(Response::NotFound, Response::Value)));
        }
        match self.next_hop(&work, primary) {
            Some(to) => {
                self.forward(now, partition, record.epoch, to, work);
                None
            }
            None => self.wait(work),
        }
    }

    /// Whom to hand `work` to: a client's node to the leader, which routes it, or straight to the primary, as configured.
    fn next_hop(&self, work: &Work, primary: Option<NodeId>) -> Option<NodeId> {
        if work.hops >= limits::HOPS_MAX {
            return None;
        }
        let relays = self.options.followers != FollowerMode::Route && work.hops == 0 && !self.view.is_leader();
        let to = if relays { self.view.leader } else { primary };
        to.filter(|&to| to != self.view.me && self.view.peer(to.slot) == Some(to))
    }

    /// Executes `work` on a partition that this node leads.
    fn execute(&mut self, now: Instant, partition: PartitionId, work: Work) -> Option<Result<Response, Error>> {
        let index = self.index(partition);
        if !self.replicas[index].is_serving() {
            return self.wait(work);
        }
        match work.request.operation {
            Operation::Get { ref key, .. } => {
                if now >= self.lease_until {
                    return self.wait(work);
                }
                let result = match self.replicas[index].read(now, key) {
                    Ok(value) => Ok(value.map_or(Response::NotFound, Response::Value)),
                    Err(replica::NotServing) => return self.wait(work),
                };
                self.answered(work.origin, result)
            }
            operation => {
                if let Operation::Put { key, value, .. } = &operation {
                    let bytes_max = self.options.memory_bytes_max / u64::from(self.options.shards);
                    if self.table_bytes + (key.as_bytes().len() + value.len()) as u64 > bytes_max {
                        return self.answered(
                            work.origin,
                            Err(Error::MemoryFull { bytes_max: self.options.memory_bytes_max }),
                        );
                    }
                }
                // A client's number serves for the replica too; a peer's request needs one of this shard's.
                let id = match work.origin {
                    Origin::Client(id) => id,
                    Origin::Peer { .. } => self.new_id(),
                };
                self.note_in_flight(now, id, InFlight::Writing { origin: work.origin, deadline: work.deadline });
                let unix_micros = self.unix_micros(now);
                self.with_replica(now, partition, |replica, out| {
                    replica.handle_write(now, unix_micros, id, operation, out);
                });
                None
            }
        }
    }

    fn forward(&mut self, now: Instant, partition: PartitionId, epoch: Epoch, to: NodeId, work: Work) {
        let id = match work.origin {
            Origin::Client(id) => id,
            Origin::Peer { .. } => self.new_id(),
        };
        let mut request = work.request.clone();
        request.timeout_ms = u32::try_from(work.deadline.since(now).as_millis()).unwrap_or(u32::MAX).max(1);
        let forward = Forward { id, hops: work.hops + 1, epoch, request };
        let message = PeerMessage::Shard(partition, ShardMessage::Forward(forward));
        self.note_in_flight(now, id, InFlight::Forwarded { to, work });
        self.outputs.push_back(ShardOutput::Peer { to, message });
    }

    fn on_forward(&mut self, now: Instant, from: NodeId, partition: PartitionId, forward: Forward) {
        let origin = Origin::Peer { node: from, id: forward.id };
        let is_sound = forward.hops >= 1
            && forward.hops <= limits::HOPS_MAX
            && forward.request.operation.key().is_some_and(|key| {
                self.view.settings.is_none() || placement::partition_of(key.as_bytes(), self.partitions()) == partition
            });
        if !is_sound {
            self.reject("unsound forward");
            return self.reply(origin, Err(Error::BadRequest("a node forwarded what can't be forwarded".to_owned())));
        }
        if let Err(error) = self.check(&forward.request) {
            return self.reply(origin, Err(error));
        }
        let deadline = now + Duration::from_millis(u64::from(forward.request.timeout_ms));
        let work = Work { origin, request: forward.request, deadline, hops: forward.hops, epoch_min: forward.epoch };
        let answer = self.route(now, work);
        debug_assert!(answer.is_none(), "a peer is answered by message");
    }

    fn wait(&mut self, work: Work) -> Option<Result<Response, Error>> {
        if self.waiting.len() >= self.options.requests_max {
            let error = Error::Busy(format!("{} requests are waiting", self.options.requests_max));
            return self.answered(work.origin, Err(error));
        }
        self.waiting.push_back(work);
        None
    }

    /// Tries again what waits, if something happened that may have changed its fate.
    fn maybe_retry(&mut self, now: Instant) {
        if !std::mem::take(&mut self.retry) || self.waiting.is_empty() {
            return;
        }
        for work in std::mem::take(&mut self.waiting) {
            let origin = work.origin;
            if let Some(result) = self.route(now, work) {
                self.reply(origin, result);
            }
        }
    }

    /// Hands back an answer to a client of this node, for the caller to give; anybody else is answered by message.
    fn answered(&mut self, origin: Origin, result: Result<Response, Error>) -> Option<Result<Response, Error>> {
        match origin {
            Origin::Client(_) => Some(result),
            Origin::Peer { .. } => {
                self.reply(origin, result);
                None
            }
        }
    }

    fn reply(&mut self, origin: Origin, result: Result<Response, Error>) {
        match origin {
            Origin::Client(request) => self.outputs.push_back(ShardOutput::Reply { request, result }),
            Origin::Peer { node, id } => self.answer(node, id, AnswerMessage::Forwarded(result)),
        }
    }

    fn answer(&mut self, to: NodeId, id: RequestId, answer: AnswerMessage) {
        self.outputs.push_back(if to == self.view.me {
            ShardOutput::Answer(id, answer)
        } else {
            ShardOutput::Peer { to, message: PeerMessage::Answer(id, answer) }
        });
    }

    fn note_in_flight(&mut self, now: Instant, id: RequestId, in_flight: InFlight) {
        if self.in_flight.is_empty() && self.sweep_at < now {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.in_flight.insert(id, in_flight);
    }

    fn why_not_served(&self, work: &Work) -> String {
        let Some(leader) = self.view.leader else { return "no leader is known".to_owned() };
        let key = work.request.operation.key().map_or(&[][..], |key| key.as_bytes());
        let partition = placement::partition_of(key, self.partitions());
        match self.view.primary(partition) {
            Some(primary) => format!(
                "{} leads {partition} and did not serve it in time (leader: {})",
                self.options.name(primary.slot),
                self.options.name(leader.slot)
            ),
            None => format!("nobody leads {partition} at the moment"),
        }
    }

    // ---- listings ----------------------------------------------------------------------------------------------

    fn begin_gather(&mut self, now: Instant, id: RequestId, request: Request, deadline: Instant) {
        let Operation::List { prefix, after, limit, values } = request.operation else { return };
        let wanted = PartitionSet::first(self.partitions());
        let scan = Scan { id, prefix, after, limit, values, wanted };
        self.gathers.insert(id, Gather::new(scan, deadline, now));
        self.sweep_at = self.sweep_at.min(now + SWEEP_EVERY).max(now);
        self.ask_for_parts(now, id);
    }

    /// Asks every node for what is still missing.
    fn ask_for_parts(&mut self, now: Instant, id: RequestId) {
        let Some(gather) = self.gathers.get_mut(&id) else { return };
        gather.ask_again_at = now + ASK_AGAIN_AFTER;
        if self.view.settings.is_none() {
            return;
        }
        if gather.scan.wanted.is_empty() {
            gather.scan.wanted = PartitionSet::first(self.view.settings.map_or(0, |settings| settings.partitions));
        }
        let lost = self.view.table.iter().position(|record| record.is_lost());
        if let Some(lost) = lost {
            self.gathers.remove(&id);
            let error = Error::PartitionLost(PartitionId(lost as u16));
            return self.reply(Origin::Client(id), Err(error));
        }
        let message = NodeMessage::Scan(gather.scan.clone());
        self.tell_everybody(message);
    }

    fn finish_gather(&mut self, id: RequestId) {
        if let Some(gather) = self.gathers.remove(&id) {
            debug_assert_eq!(gather.id(), id);
            self.reply(Origin::Client(id), Ok(Response::Page(gather.finish())));
        }
    }

    /// This shard's part of a listing.
    fn scan(&self, now: Instant, scan: &Scan) -> Scanned {
        let may_serve = now < self.lease_until;
        let mine = self.replicas.iter().filter(|replica| {
            let partition = replica.partition();
            may_serve
                && scan.wanted.contains(partition)
                && self.view.primary(partition) == Some(self.view.me)
                && replica.is_serving()
        });
        scan::first_keys(now, scan, mine)
    }

    // ---- the feed ----------------------------------------------------------------------------------------------

    fn ask_for_feed(&mut self, now: Instant) {
        let Some(id) = self.wish.id() else { return };
        self.wish.on_asked(now);
        self.tell_everybody(NodeMessage::FeedWanted { id });
    }

    fn maybe_feed_live(&mut self) {
        if self.wish.maybe_live(self.view.up, &self.view.registered) {
            self.outputs.push_back(ShardOutput::FeedLive);
        }
    }

    fn tell_everybody(&mut self, message: NodeMessage) {
        let me = self.view.me;
        let others = self.view.up.iter().filter_map(|slot| self.view.registered(slot)).filter(|&node| node != me);
        for to in others {
            let message = PeerMessage::EveryShard(message.clone());
            self.outputs.push_back(ShardOutput::Peer { to, message });
        }
        self.outputs.push_back(ShardOutput::EveryShard(message));
    }

    // ---- replicas ----------------------------------------------------------------------------------------------

    /// Lets `act` act on a replica, and draws the consequences.
    fn with_replica(
        &mut self,
        now: Instant,
        partition: PartitionId,
        act: impl FnOnce(&mut Replica, &mut Vec<replica::Output>),
    ) {
        let index = self.index(partition);
        let mut out = std::mem::take(&mut self.scratch);
        let replica = &mut self.replicas[index];
        let before = replica.status();
        act(replica, &mut out);
        let after = replica.status();
        self.table_keys = self.table_keys + after.records as u64 - before.records as u64;
        self.table_bytes = self.table_bytes + after.bytes as u64 - before.bytes as u64;
        self.retry |= !before.serving && after.serving;
        let due = replica.next_deadline();
        if due < self.armed[index] {
            self.timers.remove(&(self.armed[index], index as u16));
            self.timers.insert((due, index as u16));
            self.armed[index] = due;
        }
        for output in out.drain(..) {
            self.on_replica_output(now, partition, output);
        }
        self.scratch = out;
    }

    fn on_replica_output(&mut self, now: Instant, partition: PartitionId, output: replica::Output) {
        match output {
            replica::Output::Send { to, message } => {
                let message = PeerMessage::Shard(partition, ShardMessage::Replica(message));
                self.outputs.push_back(ShardOutput::Peer { to, message });
            }
            replica::Output::Reply { request, result } => {
                // Nobody waits any more where the deadline has passed.
                if let Some(in_flight) = self.in_flight.remove(&request) {
                    self.reply(in_flight.origin(), result);
                }
            }
            replica::Output::Event(event) => {
                let me = self.view.me;
                let subscribers: Vec<NodeId> = self.subscribers.iter(now).collect();
                for to in subscribers {
                    self.outputs.push_back(if to == me {
                        ShardOutput::Event(event.clone())
                    } else {
                        let message = PeerMessage::Shard(partition, ShardMessage::Events(vec![event.clone()]));
                        ShardOutput::Peer { to, message }
                    });
                }
            }
            replica::Output::Propose(change) => self.outputs.push_back(ShardOutput::Propose(change)),
        }
    }

    /// Makes the replicas of this shard once the count of partitions is known.
    fn open_partitions(&mut self) {
        let Some(settings) = self.view.settings.filter(|_| self.replicas.is_empty()) else { return };
        let options = Arc::new(ReplicaOptions {
            tail_effects_max: self.options.tail_effects_max,
            min_copies: settings.min_copies,
            ..ReplicaOptions::new(self.view.me)
        });
        let mine = (self.id.0..settings.partitions).step_by(usize::from(self.options.shards));
        self.replicas = mine.map(|partition| Replica::new(PartitionId(partition), &options)).collect();
        self.armed = vec![Instant::FAR; self.replicas.len()];
    }

    /// Tells every replica its record, where that or who its members are has changed.
    fn tell_replicas(&mut self, now: Instant, before: &View) {
        let view = Arc::clone(&self.view);
        for index in 0..self.replicas.len() {
            let partition = self.partition(index);
            let Some(record) = view.record(partition).copied() else { continue };
            let same_people =
                record.members().iter().all(|slot: Slot| before.registered(slot) == view.registered(slot));
            if before.record(partition) == Some(&record) && same_people {
                continue;
            }
            self.with_replica(now, partition, |replica, out| {
                replica.handle_record(now, &record, &view.registered, out)
            });
        }
    }

    /// What was handed to a node that is dead now is handed to another, if it was a read; what became of a write is not
    /// known.
    fn reroute_from_dead(&mut self, now: Instant) {
        let view = Arc::clone(&self.view);
        let is_gone = |to: NodeId| view.registered(to.slot) != Some(to) || !view.up.contains(to.slot);
        let gone: Vec<RequestId> = self
            .in_flight
            .iter()
            .filter(|(_, in_flight)| matches!(in_flight, InFlight::Forwarded { to, .. } if is_gone(*to)))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(InFlight::Forwarded { to, work }) = self.in_flight.remove(&id) else { continue };
            if work.request.operation.is_write() {
                let name = self.options.name(to.slot);
                self.reply(work.origin, Err(Error::OutcomeUnknown(format!("{name} went down while it worked on it"))));
            } else {
                let origin = work.origin;
                if let Some(result) = self.route(now, work) {
                    self.reply(origin, result);
                }
            }
        }
    }

    /// Another cluster, or another life: nothing that was held counts any more.
    fn forget_cluster(&mut self) {
        self.replicas.clear();
        self.armed.clear();
        self.timers.clear();
        (self.table_bytes, self.table_keys) = (0, 0);
        self.lease_until = Instant::ZERO;
        for (_, in_flight) in std::mem::take(&mut self.in_flight) {
            let error = Error::OutcomeUnknown("this node left its cluster".to_owned());
            self.reply(in_flight.origin(), Err(error));
        }
    }

    /// Answers whoever's deadline has passed, and asks again for what is missing.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP_EVERY;
        self.subscribers.sweep(now);
        let late: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, in_flight)| now >= in_flight.deadline()).map(|(id, _)| *id).collect();
        for id in late {
            let Some(in_flight) = self.in_flight.remove(&id) else { continue };
            let detail = "the deadline passed while it was under way".to_owned();
            let error =
                if in_flight.is_write() { Error::OutcomeUnknown(detail) } else { Error::DeadlineBefore(detail) };
            self.reply(in_flight.origin(), Err(error));
        }
        self.retry |= self.waiting.iter().any(|work| now >= work.deadline);
        self.maybe_retry(now);
        let gathers: Vec<RequestId> = self.gathers.keys().copied().collect();
        for id in gathers {
            let Some(gather) = self.gathers.get(&id) else { continue };
            if now >= gather.deadline {
                self.gathers.remove(&id);
                let error = Error::DeadlineBefore("not every partition answered in time".to_owned());
                self.reply(Origin::Client(id), Err(error));
            } else if now >= gather.ask_again_at {
                self.ask_for_parts(now, id);
            }
        }
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
        self.options.unix_micros_at_zero + now.0 / 1000
    }

    fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }
}
