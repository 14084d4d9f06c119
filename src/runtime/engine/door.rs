//! The door: what gateways ask of a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Engine, FEED_SHARD, Occupant};
use crate::api::{
    AdminReport, AdminRequest, ClusterStatus, Error, FeedCursor, FeedPart, Key, Location, PartitionMap, Request,
};
use crate::base::{Instant, ShardId};
use crate::node::{Destination, Submitted};
use crate::port::{Answer, BoxFuture, Core, FeedSubscription, Health, Leadership};
use crate::runtime::pulse::ControlInput;

/// How long a viewer waits until every node sends its changes here.
const FEED_LIVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a viewer that came back waits for one part of what it missed.
const FEED_PART_WITHIN: Duration = Duration::from_secs(10);
/// A control core that has not turned for this long hangs.
const PULSE_ALIVE_FOR: Duration = Duration::from_secs(2);

impl Core for Engine {
    fn submit(&self, request: Request) -> Answer {
        let shard = self.shard_of(&request);
        self.with_shard(shard, |occupant, now| occupant.take(now, request))
    }

    /// Each shard is locked once, and what it has to say to one peer leaves together.
    fn submit_batch(&self, requests: Vec<Request>) -> Vec<Answer> {
        let count = requests.len();
        let mut by_shard: Vec<Vec<(usize, Request)>> = vec![Vec::new(); self.shards.len()];
        for (index, request) in requests.into_iter().enumerate() {
            by_shard[self.shard_of(&request).index()].push((index, request));
        }
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        for (shard, requests) in (0..).map(ShardId).zip(by_shard).filter(|(_, requests)| !requests.is_empty()) {
            self.with_shard(shard, |occupant, now| {
                for (index, request) in requests {
                    answers[index] = Some(occupant.take(now, request));
                }
            });
        }
        answers.into_iter().map(|answer| answer.expect("each request was handed to its shard")).collect()
    }

    fn answer_overdue(&self) {
        for (shard, seat) in (0..).map(ShardId).zip(&self.shards) {
            // Whoever has the lock looks for what is due itself, or hangs.
            if seat.try_lock().is_some() {
                self.with_shard(shard, |occupant, now| occupant.shard.handle_timeout(now));
            }
        }
    }

    fn status(&self) -> BoxFuture<'_, ClusterStatus> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            if self.control.send(ControlInput::Status(sender)).await.is_err() {
                return ClusterStatus::default();
            }
            receiver.await.unwrap_or_default()
        })
    }

    fn partition_map(&self) -> PartitionMap {
        self.view.load().partition_map(&self.options.names)
    }

    fn locate(&self, key: &Key) -> Option<Location> {
        self.view.load().locate(key, &self.options.names)
    }

    fn admin(&self, request: AdminRequest) -> BoxFuture<'_, Result<AdminReport, Error>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            let stopped = || Error::OutcomeUnknown("this node is shutting down".to_owned());
            self.control.send(ControlInput::Admin(request, sender)).await.map_err(|_| stopped())?;
            receiver.await.unwrap_or_else(|_| Err(stopped()))
        })
    }

    fn prepare_stop(&self) -> BoxFuture<'_, Result<AdminReport, Error>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            let stopped = || Error::OutcomeUnknown("this node is shutting down".to_owned());
            self.control.send(ControlInput::PrepareStop(sender)).await.map_err(|_| stopped())?;
            receiver.await.unwrap_or_else(|_| Err(stopped()))
        })
    }

    fn health(&self) -> Health {
        let now = self.now();
        let alive = now.since(Instant(self.pulse_at.load(Ordering::Acquire))) < PULSE_ALIVE_FOR;
        let ready = alive && self.is_ready();
        let leads = ready && self.view.load().is_leader() && self.has_quorum.load(Ordering::Acquire);
        // Through the door that tells a shard the present lease: one that rests was told one that has run out since.
        let mut shards = (0..self.options.shards).map(ShardId);
        let leader =
            leads && shards.all(|shard| self.with_shard(shard, |occupant, now| occupant.shard.is_serving_all(now)));
        Health { alive, ready, leader }
    }

    fn leadership(&self) -> Leadership {
        let view = self.view.load();
        let url = view.leader.and_then(|leader| self.advertised.get(leader.slot.index()));
        Leadership { followers: self.options.followers, is_leader: view.is_leader(), leader_url: url.map(Arc::clone) }
    }

    fn subscribe(&self) -> BoxFuture<'_, Result<FeedSubscription, Error>> {
        Box::pin(async move {
            let viewer = Viewer(Arc::clone(&self.viewers));
            let mut live = self.feed_live.subscribe();
            if self.viewers.fetch_add(1, Ordering::AcqRel) == 0 {
                self.feed_live.send_replace(false);
                self.with_shard(FEED_SHARD, |occupant, now| occupant.shard.handle_feed_wanted(now, true));
            }
            let waited = tokio::time::timeout(FEED_LIVE_WITHIN, live.wait_for(|live| *live)).await;
            match waited {
                // Events are handed out under the same lock: all before the cursor are out, none after it.
                Ok(Ok(_)) => Ok(self
                    .with_shard(FEED_SHARD, |occupant, _| self.feed.subscribe(occupant.shard.feed_cursor(), viewer))),
                _ => Err(Error::NoQuorum("not every node sends its changes here yet".to_owned())),
            }
        })
    }

    fn feed_since(&self, cursor: &FeedCursor, remaining: Vec<u64>) -> BoxFuture<'_, Result<FeedPart, Error>> {
        let (sender, receiver) = oneshot::channel();
        self.with_shard(FEED_SHARD, |occupant, now| {
            let id = occupant.shard.handle_feed_since(now, cursor, remaining, FEED_PART_WITHIN);
            occupant.resuming.insert(id, sender);
        });
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(Error::DeadlineBefore("this node is shutting down".to_owned())))
        })
    }
}

impl Engine {
    /// The shard that takes `request`.
    fn shard_of(&self, request: &Request) -> ShardId {
        let partitions = self.view.load().settings.map_or(self.options.partitions, |settings| settings.partitions);
        Destination::of_request(request, partitions, self.options.shards)
    }
}

impl Occupant {
    /// Hands in a request. The waiter is left under the same lock under which the request is taken, or its answer could
    /// come before.
    fn take(&mut self, now: Instant, request: Request) -> Answer {
        match self.shard.handle_request(now, request) {
            Submitted::Now(result) => Answer::Now(result),
            Submitted::Later(id) => {
                let (sender, receiver) = oneshot::channel();
                self.waiters.insert(id, sender);
                Answer::Later(receiver)
            }
        }
    }
}

/// One viewer; dropped with its subscription.
struct Viewer(Arc<AtomicUsize>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
