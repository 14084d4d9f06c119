//! What becomes of a request: executed, handed on, kept waiting, or refused; and answered at its deadline at the latest.

use std::sync::Arc;
use std::time::Duration;

use super::{InFlight, Origin, SWEEP_EVERY, ShardCore, ShardOutput, Work};
use crate::api::{Consistency, Error, Operation, Request, Response, Value};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Epoch, FollowerMode, Instant, NodeId, PartitionId, RequestId, limits};
use crate::node::message::{AnswerMessage, Forward, PeerMessage, ShardMessage};
use crate::{placement, replica};

/// So much earlier than its asker does the node give up to which a request was forwarded, or a quarter of the time that is
/// left: else its word, that it never began the write, came when the asker has had to say that it doesn't know.
const ANSWER_TRAVELS_FOR: Duration = SWEEP_EVERY.saturating_mul(3);

impl ShardCore {
    pub(super) fn check(&self, request: &Request) -> Result<(), Error> {
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
    pub(super) fn route(&mut self, now: Instant, work: Work) -> Option<Result<Response, Error>> {
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
        if primary == Some(self.view.me) && !self.view.is_degraded(now) {
            return self.execute(now, partition, work);
        }
        if let Some(value) = self.read_as_leader(now, partition, &work.request.operation) {
            return self.answered(work.origin, Ok(found(value)));
        }
        if let Operation::Get { key, consistency: Consistency::Stale } = &work.request.operation
            && let Ok(value) = self.replicas[self.index(partition)].read_stale(now, key)
        {
            return self.answered(work.origin, Ok(found(value)));
        }
        if self.view.is_degraded(now) {
            return self.route_degraded(now, partition, work);
        }
        match self.next_hop(&work, primary) {
            Some(to) => {
                self.forward(now, partition, record.epoch, to, work);
                None
            }
            None => self.wait(work),
        }
    }

    /// What a read of a partition that another node leads comes to, where this node may tell: it leads the cluster, its lease
    /// holds, and its own copy is in sync. Nobody can have been let into an in-sync set, or out of one, without it.
    fn read_as_leader(&self, now: Instant, partition: PartitionId, operation: &Operation) -> Option<Option<Value>> {
        let Operation::Get { key, consistency: Consistency::Linearizable } = operation else { return None };
        let leads = self.view.is_leader() || is_broken(Mutant::FollowerReads);
        let may_read = leads && self.holds_in_sync(partition) && now < self.lease_until;
        if may_read { self.replicas[self.index(partition)].read_backup(now, key).ok() } else { None }
    }

    /// Whether this node's copy is in sync by the newest record that it knows.
    fn holds_in_sync(&self, partition: PartitionId) -> bool {
        let record = &self.view.table[partition.index()];
        record.in_sync.contains(self.view.me.slot) || is_broken(Mutant::LeaderReadsLearner)
    }

    /// Whom to hand `work` to: a client's node to the leader, which routes it, or straight to the primary, as configured.
    pub(super) fn next_hop(&self, work: &Work, primary: Option<NodeId>) -> Option<NodeId> {
        if work.hops >= limits::HOPS_MAX {
            return None;
        }
        let relays = self.options.followers != FollowerMode::Route && work.hops == 0 && !self.view.is_leader();
        let to = if relays { self.view.leader } else { primary };
        to.filter(|&to| to != self.view.me && self.view.peer(to.slot) == Some(to))
    }

    /// Executes `work` on a partition that this node leads.
    pub(super) fn execute(
        &mut self,
        now: Instant,
        partition: PartitionId,
        work: Work,
    ) -> Option<Result<Response, Error>> {
        self.scans.note_request(now);
        let index = self.index(partition);
        let is_withheld = work.request.operation.is_write() && self.replicas[index].withholds_writes();
        if !self.replicas[index].is_serving() || is_withheld {
            return self.wait(work);
        }
        // A refusal is a read too: it may rest on committed state alone, which only a lease keeps fresh. Any other write
        // needs no lease to be safe, but one that begins while nobody leads could only hang between done and not done.
        let may_begin = match work.request.operation.depends_on_state() {
            true => {
                now < self.lease_until || is_broken(Mutant::RefuseWithoutLease) && work.request.operation.is_write()
            }
            false => self.view.leader.is_some(),
        };
        if !may_begin {
            return self.wait(work);
        }
        match work.request.operation {
            Operation::Get { ref key, .. } => {
                let result = match self.replicas[index].read(now, key) {
                    Ok(value) => Ok(found(value)),
                    Err(replica::NotServing) => return self.wait(work),
                };
                self.answered(work.origin, result)
            }
            operation => {
                let once = work.request.once;
                // What was done already takes no more memory.
                let is_done = once.is_some_and(|once| self.replicas[index].remembers(&once));
                if let Operation::Put { key, value, .. } = &operation
                    && !is_done
                {
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
                    replica.handle_write_once(now, unix_micros, (id, once), operation, out);
                });
                None
            }
        }
    }

    pub(super) fn forward(&mut self, now: Instant, partition: PartitionId, epoch: Epoch, to: NodeId, work: Work) {
        let id = match work.origin {
            Origin::Client(id) => id,
            Origin::Peer { .. } => self.new_id(),
        };
        let mut request = work.request.clone();
        let left = work.deadline.since(now);
        let theirs = left - ANSWER_TRAVELS_FOR.min(left / 4);
        request.timeout_ms = u32::try_from(theirs.as_millis()).unwrap_or(u32::MAX).max(1);
        let forward = Forward { id, hops: work.hops + 1, epoch, request };
        let message = PeerMessage::Shard(partition, ShardMessage::Forward(forward));
        self.note_in_flight(now, id, InFlight::Forwarded { to, work: Box::new(work) });
        self.outputs.push_back(ShardOutput::Peer { to, message });
    }

    /// What this shard wanted to tell a peer can't be sent, because too much waits for that peer already. A request in it
    /// never left this node; anything else is said again by itself.
    pub fn handle_unsent(&mut self, message: &PeerMessage) {
        let PeerMessage::Shard(_, ShardMessage::Forward(forward)) = message else { return };
        match self.in_flight.remove(&forward.id) {
            Some(InFlight::Forwarded { to, work }) => {
                let name = self.options.name(to.slot);
                let error = Error::Busy(format!("too much waits to be sent to {name}"));
                self.reply(work.origin, Err(error));
            }
            // Others were asked, too.
            Some(in_flight) => drop(self.in_flight.insert(forward.id, in_flight)),
            None => {}
        }
    }

    pub(super) fn on_forward(&mut self, now: Instant, from: NodeId, partition: PartitionId, forward: Forward) {
        let origin = Origin::Peer { node: from, id: forward.id };
        let is_sound = forward.hops >= 1
            && forward.hops <= limits::HOPS_MAX
            && forward.request.operation.key().is_some_and(|key| {
                self.view.settings.is_none() || placement::partition_of(key.as_bytes(), self.partitions()) == partition
            });
        if !is_sound {
            self.reject("unsound_forward");
            return self.reply(origin, Err(Error::BadRequest("a node forwarded what can't be forwarded".to_owned())));
        }
        if let Err(error) = self.check(&forward.request) {
            return self.reply(origin, Err(error));
        }
        if matches!(forward.request.operation, Operation::Get { consistency: Consistency::Degraded, .. }) {
            return self.answer_survivor(now, origin, partition, &forward);
        }
        let deadline = now + Duration::from_millis(u64::from(forward.request.timeout_ms));
        let work = Work { origin, request: forward.request, deadline, hops: forward.hops, epoch_min: forward.epoch };
        let answer = self.route(now, work);
        debug_assert!(answer.is_none(), "a peer is answered by message");
    }

    pub(super) fn wait(&mut self, work: Work) -> Option<Result<Response, Error>> {
        if self.waiting.len() >= self.options.requests_max {
            let error = Error::Busy(format!("{} requests are waiting", self.options.requests_max));
            return self.answered(work.origin, Err(error));
        }
        self.waiting.push_back(work);
        None
    }

    /// Tries again what waits, if something happened that may have changed its fate.
    pub(super) fn maybe_retry(&mut self, now: Instant) {
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
    pub(super) fn answered(
        &mut self,
        origin: Origin,
        result: Result<Response, Error>,
    ) -> Option<Result<Response, Error>> {
        match origin {
            Origin::Client(_) => Some(result),
            Origin::Peer { .. } => {
                self.reply(origin, result);
                None
            }
        }
    }

    pub(super) fn reply(&mut self, origin: Origin, result: Result<Response, Error>) {
        match origin {
            Origin::Client(request) => self.outputs.push_back(ShardOutput::Reply { request, result }),
            Origin::Peer { node, id } => self.answer(node, id, AnswerMessage::Forwarded(result)),
        }
    }

    pub(super) fn answer(&mut self, to: NodeId, id: RequestId, answer: AnswerMessage) {
        self.outputs.push_back(if to == self.view.me {
            ShardOutput::Answer(id, answer)
        } else {
            ShardOutput::Peer { to, message: PeerMessage::Answer(id, answer) }
        });
    }

    pub(super) fn note_in_flight(&mut self, now: Instant, id: RequestId, in_flight: InFlight) {
        if self.in_flight.is_empty() && self.sweep_at < now {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.in_flight.insert(id, in_flight);
    }

    pub(super) fn why_not_served(&self, work: &Work) -> String {
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

    /// What was handed to a node that is dead now is handed to another, if it was a read; what became of a write is not
    /// known. Who was let go still answers what it has begun: writes wait for that, until its slot's next life is registered.
    pub(super) fn reroute_from_dead(&mut self, now: Instant) {
        let view = Arc::clone(&self.view);
        let is_gone = |to: NodeId, work: &Work| {
            let is_known = view.registered(to.slot) == Some(to);
            let answers = view.let_go.contains(to.slot) && work.request.operation.is_write();
            !is_known || !view.up.contains(to.slot) && !answers
        };
        let gone: Vec<RequestId> = self
            .in_flight
            .iter()
            .filter(|(_, in_flight)| matches!(in_flight, InFlight::Forwarded { to, work } if is_gone(*to, work)))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(InFlight::Forwarded { to, work }) = self.in_flight.remove(&id) else { continue };
            // Nor is one with an idempotency key handed on: it would be executed once, but a refusal of the second attempt
            // would say nothing of the first. Clients send it again, and know that.
            if work.request.operation.is_write() && !is_broken(Mutant::WriteTwice) {
                let name = self.options.name(to.slot);
                self.reply(work.origin, Err(Error::OutcomeUnknown(format!("{name} went down while it worked on it"))));
            } else {
                let origin = work.origin;
                if let Some(result) = self.route(now, *work) {
                    self.reply(origin, result);
                }
            }
        }
    }

    /// Answers whoever's deadline has passed, and asks again for what is missing.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP_EVERY;
        self.sweep_feed(now);
        self.sweep_degraded(now);
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
            } else if now >= gather.gives_up_at {
                let error = self.no_survivor(gather.scan.wanted.lowest().unwrap_or_default());
                self.gathers.remove(&id);
                self.reply(Origin::Client(id), Err(error));
            } else if now >= gather.ask_again_at {
                self.ask_for_parts(now, id);
            }
        }
    }
}

/// What a read answers.
fn found(value: Option<Value>) -> Response {
    value.map_or(Response::NotFound, Response::Value)
}
