//! A shard's part in the feed: a source for everybody, and, in one shard of a node with viewers, the follower.

use std::time::Duration;

use super::{SWEEP_EVERY, ShardCore, ShardOutput};
use crate::api::{Error, FeedCursor, FeedPart};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId, PartitionId, RequestId, Seq, Version, limits};
use crate::node::feed::{FeedBody, FeedMessage, FollowerOutput, Resume, Since, SincePart, events_after, part_since};
use crate::node::message::{AnswerMessage, NodeMessage, PartitionSet, PeerMessage};

/// How long a viewer that comes back waits for the partitions that nobody spoke for before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The part of a shard's memory that its rings may take.
const MEMORY_PART: u64 = 8;

impl ShardCore {
    // ---- the source --------------------------------------------------------------------------------------------

    pub(super) fn on_feed_wanted(
        &mut self,
        now: Instant,
        from: NodeId,
        id: RequestId,
        (floor, restart): (Version, &[u16]),
    ) {
        let restart = restart.contains(&self.id.0);
        let begins = self.source.handle_wanted(now, from, id, floor, restart);
        let clock = self.clock_micros(now);
        let closed = self.source.close(clock, self.replicas.iter());
        let body = if begins {
            let led = self.replicas.iter().filter(|replica| replica.is_in_office());
            let heads = led.map(|replica| (replica.partition(), replica.ring().last())).collect();
            FeedBody::Heads { shards: self.options.shards, heads, closed }
        } else {
            FeedBody::Closed(closed)
        };
        self.say(Some(from), &body);
    }

    /// A follower has a hole.
    pub(super) fn on_feed_fetch(&mut self, from: NodeId, partition: PartitionId, after: Option<Seq>) {
        if self.owns(partition) && self.replicas[self.index(partition)].is_in_office() {
            let events = events_after(&self.replicas[self.index(partition)], after, true);
            self.say(Some(from), &FeedBody::Events(events));
        }
    }

    /// A replica has applied what comes after `before`. Its primary tells whoever has viewers.
    pub(super) fn on_applied(&mut self, index: usize, pushed: u64, mut before: Seq) {
        for _ in 0..pushed {
            self.ring_order.push_back(index as u16);
        }
        if !self.source.is_empty() && self.replicas[index].is_in_office() {
            // More than one message can hold is committed at once where many large writes waited for one answer.
            while before < self.replicas[index].ring().last() {
                let events = events_after(&self.replicas[index], Some(before), false);
                before = events.last;
                self.say(None, &FeedBody::Events(events));
            }
        }
        self.bound_rings();
    }

    /// Lets the oldest effects of this shard's rings go.
    fn bound_rings(&mut self) {
        let memory = self.options.memory_bytes_max / u64::from(self.options.shards);
        let bytes_max = (limits::FEED_BYTES_MAX as u64).min(memory / MEMORY_PART);
        while self.ring_order.len() > self.options.feed_effects_max || self.ring_bytes > bytes_max {
            let Some(oldest) = self.ring_order.pop_front() else { return };
            let replica = &mut self.replicas[usize::from(oldest)];
            let before = replica.ring().bytes();
            replica.evict_from_ring();
            self.ring_bytes -= (before - replica.ring().bytes()) as u64;
        }
    }

    fn say(&mut self, to: Option<NodeId>, body: &FeedBody) {
        for (to, id, message) in self.source.say(to, self.id.0, body) {
            self.answer(to, id, AnswerMessage::Feed(message));
        }
    }

    /// This shard's part of what a viewer has missed: of partitions that it may answer reads of.
    pub(super) fn since(&self, now: Instant, since: &Since) -> SincePart {
        let mine = self.replicas.iter().filter(|replica| {
            let partition = replica.partition();
            since.wanted.contains(partition) && now < self.serves_until(partition)
        });
        part_since(since, mine)
    }

    // ---- the follower ------------------------------------------------------------------------------------------

    /// This node has viewers, or has none any more. (One shard of a node is told.)
    pub fn handle_feed_wanted(&mut self, now: Instant, wanted: bool) {
        if wanted {
            let id = self.new_id();
            self.follower.begin(now, id, &self.view);
            self.ask_for_feed(now);
        } else {
            self.follower.end();
        }
    }

    /// Where a viewer is that has been shown everything so far.
    #[must_use]
    pub fn feed_cursor(&self) -> std::sync::Arc<str> {
        std::sync::Arc::clone(self.follower.cursor())
    }

    pub(super) fn ask_for_feed(&mut self, now: Instant) {
        let Some(id) = self.follower.id() else { return };
        let mut out = Vec::new();
        self.follower.on_asked(now, &self.view, &mut out);
        self.tell(self.view.up, NodeMessage::FeedWanted { id, floor: self.follower.floor(), restart: Vec::new() });
        self.on_follower_outputs(now, out);
    }

    pub(super) fn on_feed_message(&mut self, now: Instant, from: NodeId, id: RequestId, message: FeedMessage) {
        if self.follower.id() == Some(id) {
            let mut out = Vec::new();
            self.follower.handle_message(from, message, &self.view, &mut out);
            self.on_follower_outputs(now, out);
        }
    }

    pub(super) fn tell_follower(&mut self, now: Instant) {
        let mut out = Vec::new();
        self.follower.handle_view(now, &self.view, &mut out);
        self.on_follower_outputs(now, out);
    }

    /// What the viewers were shown belongs to a cluster that is no more, or can't be gone on with.
    pub(super) fn cut_viewers(&mut self, now: Instant) {
        if self.follower.id().is_some() {
            self.outputs.push_back(ShardOutput::FeedCut);
            self.handle_feed_wanted(now, true);
        }
    }

    fn on_follower_outputs(&mut self, now: Instant, outputs: Vec<FollowerOutput>) {
        for output in outputs {
            match output {
                FollowerOutput::Show(event) => {
                    let cursor = self.feed_cursor();
                    self.outputs.push_back(ShardOutput::Event { event, cursor });
                }
                FollowerOutput::Fetch { from, partition, after } => {
                    self.tell_node(from, NodeMessage::FeedFetch { partition, after });
                }
                FollowerOutput::Restart { node, shard } => {
                    let Some(id) = self.follower.id() else { return };
                    let floor = self.follower.floor();
                    self.tell_node(node, NodeMessage::FeedWanted { id, floor, restart: vec![shard] });
                }
                FollowerOutput::Live => self.outputs.push_back(ShardOutput::FeedLive),
                FollowerOutput::Cut => {
                    self.cut_viewers(now);
                    return;
                }
            }
        }
    }

    fn tell_node(&mut self, to: NodeId, message: NodeMessage) {
        self.outputs.push_back(if to == self.view.me {
            ShardOutput::EveryShard(message)
        } else {
            ShardOutput::Peer { to, message: PeerMessage::EveryShard(message) }
        });
    }

    // ---- viewers that come back --------------------------------------------------------------------------------

    /// Gathers what came after `cursor` in the partitions of `remaining`; in all of them where that is empty. The answer is
    /// a [`ShardOutput::FeedPart`] with this number.
    pub fn handle_feed_since(
        &mut self,
        now: Instant,
        cursor: &FeedCursor,
        remaining: Vec<u64>,
        wait: Duration,
    ) -> RequestId {
        let id = self.new_id();
        if !cursor.is_of(self.view.cluster, self.view.generation) {
            let part = FeedPart { gap: true, ..FeedPart::default() };
            self.outputs.push_back(ShardOutput::FeedPart { request: id, result: Ok(part) });
            return id;
        }
        let mut wanted = PartitionSet::from_words(remaining);
        if wanted.is_empty() {
            wanted = PartitionSet::first(self.partitions());
        }
        // Nothing will ever be heard of these.
        let lost = self.view.table.iter().enumerate().filter(|(_, record)| record.is_lost());
        let mut nobodys = PartitionSet::default();
        lost.for_each(|(index, _)| nobodys.insert(PartitionId(index as u16)));
        wanted.remove_all(&nobodys);
        let since = Since { id, cursor: cursor.clone(), wanted };
        self.resumes.insert(id, Resume::new(since, now + wait, now));
        self.sweep_at = self.sweep_at.min(now + SWEEP_EVERY).max(now);
        self.ask_for_missed(now, id);
        id
    }

    fn ask_for_missed(&mut self, now: Instant, id: RequestId) {
        let Some(resume) = self.resumes.get_mut(&id) else { return };
        resume.ask_again_at = now + ASK_AGAIN_AFTER;
        let message = NodeMessage::FeedSince(resume.since.clone());
        self.tell(self.view.up, message);
    }

    pub(super) fn on_since_part(&mut self, id: RequestId, part: SincePart) {
        if self.resumes.get_mut(&id).is_some_and(|resume| resume.handle_part(part))
            && let Some(resume) = self.resumes.remove(&id)
        {
            self.outputs.push_back(ShardOutput::FeedPart { request: id, result: Ok(resume.finish()) });
        }
    }

    /// Forgets subscribers whose time is over, and asks again for what viewers have missed.
    pub(super) fn sweep_feed(&mut self, now: Instant) {
        self.source.sweep(now);
        let ids: Vec<RequestId> = self.resumes.keys().copied().collect();
        for id in ids {
            let Some(resume) = self.resumes.get(&id) else { continue };
            if now >= resume.deadline {
                self.resumes.remove(&id);
                let error = Error::DeadlineBefore("not every partition answered in time".to_owned());
                self.outputs.push_back(ShardOutput::FeedPart { request: id, result: Err(error) });
            } else if now >= resume.ask_again_at {
                self.ask_for_missed(now, id);
            }
        }
    }

    /// Whether versions must stay above what was closed: always, but for a test's sake.
    pub(super) fn version_floor(&self) -> u64 {
        if is_broken(Mutant::VersionByClock) { 0 } else { self.source.closed().0 }
    }
}
