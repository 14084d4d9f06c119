//! Without a quorum: reads are answered from surviving copies, marked, and writes are refused.
//!
//! [`View::is_degraded`](crate::node::View::is_degraded) says when: there has been no leader for longer than elections take. A
//! request that comes before waits until then.
//!
//! ```text
//! read ──▶ my record says that I am in sync ──▶ answered from here, what isn't committed included
//!     └──▶ otherwise                        ──▶ all others that are in sync by the record are asked; the first answer counts
//!                                               nobody answers: the partition is unavailable, never empty
//! write ─▶ refused: it did not happen
//! ```
//!
//! Who may answer: a replica whose record, the last one that its node knows, has it in sync, and whose table is complete
//! ([`Replica::holds_all`](crate::replica::Replica::holds_all)). Whatever was acknowledged under that record is in its table or
//! in its tail. The tail may hold more: writes that nobody was told of, and that the next leader may drop. And a record may
//! be old, where its node was cut off before. So every such answer is marked.
//!
//! Whoever is asked answers from itself or says that it can't, so a read takes one hop at most.

use std::time::Duration;

use super::{InFlight, Origin, ShardCore, ShardOutput, Work};
use crate::api::{Consistency, Error, Key, Operation, Request, Response};
use crate::base::{Instant, NodeId, PartitionId, RequestId, SlotSet, limits};
use crate::node::message::{Forward, PeerMessage, ShardMessage};

/// How long survivors may take to answer. The dead never do.
pub(super) const SURVIVORS_AWAITED_FOR: Duration = Duration::from_secs(1);
/// After how long they are asked again: a connection may have broken under the question.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

impl ShardCore {
    /// Answers `work` on a partition of this shard though there is no quorum, or sees to it that it will be.
    pub(super) fn route_degraded(
        &mut self,
        now: Instant,
        partition: PartitionId,
        work: Work,
    ) -> Option<Result<Response, Error>> {
        if work.request.operation.is_write() {
            let error = Error::NoQuorum("nothing can be written until one is there again".to_owned());
            return self.answered(work.origin, Err(error));
        }
        if let Some(response) = self.read_survivor(now, partition, &work.request.operation) {
            return self.answered(work.origin, Ok(response));
        }
        let others = self.view.record(partition).map_or(SlotSet::EMPTY, |record| record.in_sync);
        let others = others.without(self.view.me.slot);
        if others.is_empty() || work.hops >= limits::HOPS_MAX {
            let error = self.no_survivor(partition);
            return self.answered(work.origin, Err(error));
        }
        let id = match work.origin {
            Origin::Client(id) => id,
            Origin::Peer { .. } => self.new_id(),
        };
        let gives_up_at = work.deadline.min(now + SURVIVORS_AWAITED_FOR);
        let work = Box::new(work);
        self.note_in_flight(
            now,
            id,
            InFlight::Survivors { work, partition, asked: others, ask_again_at: now, gives_up_at },
        );
        self.ask_survivors(now, id);
        None
    }

    /// A peer without a quorum asks what the copy here holds.
    pub(super) fn answer_survivor(&mut self, now: Instant, origin: Origin, partition: PartitionId, forward: &Forward) {
        // Who knows a newer primary of the partition knows more of who is in sync, too.
        let is_current =
            self.owns(partition) && self.view.record(partition).is_some_and(|record| record.epoch >= forward.epoch);
        let response = if is_current { self.read_survivor(now, partition, &forward.request.operation) } else { None };
        let result = response.ok_or_else(|| self.no_survivor(partition));
        self.reply(origin, result);
    }

    /// Somebody who was asked has answered. What it holds is the answer; that it holds nothing is none.
    pub(super) fn on_survivor_answered(&mut self, id: RequestId, from: NodeId, result: Result<Response, Error>) {
        let is_registered = self.view.registered(from.slot) == Some(from);
        let Some(InFlight::Survivors { asked, partition, .. }) = self.in_flight.get_mut(&id) else { return };
        if !is_registered || !asked.contains(from.slot) {
            return;
        }
        let partition = *partition;
        if result.is_err() {
            asked.remove(from.slot);
            if !asked.is_empty() {
                return;
            }
        }
        if let Some(in_flight) = self.in_flight.remove(&id) {
            let result = result.map_err(|_| self.no_survivor(partition));
            self.reply(in_flight.origin(), result);
        }
    }

    /// Looks after what was handed to a leader before it was gone, and after whom nobody has answered.
    pub(super) fn sweep_degraded(&mut self, now: Instant) {
        let is_degraded = self.view.is_degraded(now);
        self.retry |= is_degraded && !self.waiting.is_empty();
        let mut again = Vec::new();
        let mut late = Vec::new();
        for (id, in_flight) in &self.in_flight {
            match in_flight {
                InFlight::Forwarded { work, .. } if is_degraded && !work.request.operation.is_write() => late.push(*id),
                InFlight::Survivors { gives_up_at, .. } if now >= *gives_up_at => late.push(*id),
                InFlight::Survivors { ask_again_at, .. } if now >= *ask_again_at => again.push(*id),
                _ => {}
            }
        }
        for id in late {
            match self.in_flight.remove(&id) {
                Some(InFlight::Survivors { work, partition, .. }) if is_degraded || now >= work.deadline => {
                    let error = self.no_survivor(partition);
                    self.reply(work.origin, Err(error));
                }
                // There is a leader again, or none any more.
                Some(InFlight::Survivors { work, .. } | InFlight::Forwarded { work, .. }) => {
                    let origin = work.origin;
                    if let Some(result) = self.route(now, *work) {
                        self.reply(origin, result);
                    }
                }
                _ => {}
            }
        }
        again.into_iter().for_each(|id| self.ask_survivors(now, id));
    }

    /// Nobody who answers holds a copy: said by name, so that nobody takes it for an empty answer.
    pub(super) fn no_survivor(&self, partition: PartitionId) -> Error {
        let holders = self.view.record(partition).map_or(SlotSet::EMPTY, |record| record.in_sync);
        let names: Vec<&str> = holders.iter().map(|slot| self.options.name(slot)).collect();
        let detail = format!("there is no quorum, and none of its copies answers ({})", names.join(", "));
        Error::Unavailable { partition, detail }
    }

    /// What the copy here holds, if it may say so.
    fn read_survivor(&self, now: Instant, partition: PartitionId, operation: &Operation) -> Option<Response> {
        let key: &Key = operation.key()?;
        let found = self.replicas[self.index(partition)].read_degraded(now, key).ok()?;
        Some(found.map_or(Response::NotFoundDegraded, Response::Value))
    }

    fn ask_survivors(&mut self, now: Instant, id: RequestId) {
        let view = std::sync::Arc::clone(&self.view);
        let Some(InFlight::Survivors { work, partition, asked, ask_again_at, .. }) = self.in_flight.get_mut(&id) else {
            return;
        };
        *ask_again_at = now + ASK_AGAIN_AFTER;
        let Some(key) = work.request.operation.key() else { return };
        let operation = Operation::Get { key: key.clone(), consistency: Consistency::Degraded };
        let timeout_ms = u32::try_from(work.deadline.since(now).as_millis()).unwrap_or(u32::MAX).max(1);
        let epoch = view.record(*partition).map(|record| record.epoch).unwrap_or_default();
        let forward = Forward { id, hops: work.hops + 1, epoch, request: Request::new(operation, timeout_ms) };
        for to in asked.iter().filter_map(|slot| view.registered(slot)) {
            let message = PeerMessage::Shard(*partition, ShardMessage::Forward(forward.clone()));
            self.outputs.push_back(ShardOutput::Peer { to, message });
        }
    }
}
