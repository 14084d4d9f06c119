//! The viewers' side of the feed: what this node's viewers have been shown, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::message::{FeedBody, FeedMessage, PartitionEvents};
use super::{ASK_AGAIN_AFTER, COUNTER_SANE_MAX, RENEW_EVERY};
use crate::api::{FeedCursor, FeedEvent};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId, PartitionId, RequestId, Seq, Version};
use crate::node::View;

/// How long a cursor speaks of a process that is gone: its partitions have begun new epochs long before.
const REMEMBER_FOR: Duration = Duration::from_secs(60);
/// Messages of one stream that are remembered to have come before their turn.
const AHEAD_MAX: usize = 1024;

/// What a follower wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum FollowerOutput {
    /// Show this to all viewers.
    Show(FeedEvent),
    /// Ask `from` for the effects of a partition after a number; for all that it has where there is none.
    Fetch { from: NodeId, partition: PartitionId, after: Option<Seq> },
    /// The stream of a shard has a hole: it has to begin anew.
    Restart { node: NodeId, shard: u16 },
    /// Something that viewers wait for is gone. They are cut off, and resume by themselves.
    Cut,
    /// From now on nothing is missed.
    Live,
}

/// What one node's viewers follow.
///
/// Invariants: `places` only rise; `cursor` covers nothing that a partition in `behind` has not been shown.
#[derive(Debug)]
pub struct Follower {
    id: Option<RequestId>,
    pub ask_at: Instant,
    is_live: bool,
    streams: BTreeMap<(NodeId, u16), Stream>,
    shards: BTreeMap<NodeId, u16>,
    /// The last effect that was shown, by partition.
    places: Vec<Option<Seq>>,
    /// Partitions of which more is known to be committed: up to which number at least.
    behind: BTreeMap<PartitionId, Seq>,
    cursor: FeedCursor,
    text: Arc<str>,
    /// The highest version that was shown.
    floor: Version,
    gone: BTreeMap<NodeId, Instant>,
}

/// The stream of one shard of one node.
#[derive(Debug)]
struct Stream {
    session: u64,
    /// The number of its next message: all before it have come.
    next: u64,
    /// Those that came before their turn. Threads of one node may overtake each other.
    ahead: BTreeSet<u64>,
    /// What `next` was when it was last asked for events, with some ahead already.
    stuck_at: Option<u64>,
    /// What it said last to be closed.
    closed: Version,
}

impl Stream {
    /// Notes that a message has come. True where all before it had.
    fn take(&mut self, number: u64) -> bool {
        if number == self.next {
            self.next += 1;
            while self.ahead.remove(&self.next) {
                self.next += 1;
            }
            return true;
        }
        if number > self.next && self.ahead.len() < AHEAD_MAX {
            self.ahead.insert(number);
        }
        false
    }
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            id: None,
            ask_at: Instant::FAR,
            is_live: false,
            streams: BTreeMap::new(),
            shards: BTreeMap::new(),
            places: Vec::new(),
            behind: BTreeMap::new(),
            cursor: FeedCursor::default(),
            text: Arc::from(""),
            floor: Version::ZERO,
            gone: BTreeMap::new(),
        }
    }
}

impl Follower {
    /// There are viewers from now on; the wish has this number.
    pub fn begin(&mut self, now: Instant, id: RequestId, view: &View) {
        let partitions = view.settings.map_or(0, |settings| usize::from(settings.partitions));
        let cursor = FeedCursor::new(view.cluster, view.generation);
        let places = vec![None; partitions];
        *self = Self { id: Some(id), ask_at: now, text: cursor.to_text().into(), cursor, places, ..Self::default() };
    }

    /// The last viewer is gone.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// The wish's number; none while nobody views.
    pub const fn id(&self) -> Option<RequestId> {
        self.id
    }

    /// Where a viewer is that has seen all that was shown so far.
    pub const fn cursor(&self) -> &Arc<str> {
        &self.text
    }

    /// The highest version that was shown.
    pub const fn floor(&self) -> Version {
        self.floor
    }

    /// It has been said to everybody just now that events are wanted; asks again for what is missing.
    pub fn on_asked(&mut self, now: Instant, view: &View, out: &mut Vec<FollowerOutput>) {
        let is_whole = self.is_live && self.behind.is_empty() && self.streams.values().all(|it| it.ahead.is_empty());
        self.ask_at = now + if is_whole { RENEW_EVERY } else { ASK_AGAIN_AFTER };
        for partition in self.behind.keys().copied() {
            if let Some(from) = view.primary(partition) {
                out.push(FollowerOutput::Fetch { from, partition, after: self.places[partition.index()] });
            }
        }
        for ((node, shard), stream) in &mut self.streams {
            let missing = Some(stream.next).filter(|_| !stream.ahead.is_empty());
            if missing.is_some() && missing == stream.stuck_at {
                out.push(FollowerOutput::Restart { node: *node, shard: *shard });
            }
            stream.stuck_at = missing;
        }
        let over: Vec<NodeId> =
            self.gone.iter().filter(|(_, since)| now.since(**since) > REMEMBER_FOR).map(|(node, _)| *node).collect();
        for node in over {
            self.gone.remove(&node);
            self.cursor.forget(node);
        }
    }

    /// The cluster has changed.
    pub fn handle_view(&mut self, now: Instant, view: &View, out: &mut Vec<FollowerOutput>) {
        if self.id.is_none() {
            return;
        }
        if self.places.is_empty() {
            self.places = vec![None; view.table.len()];
        }
        let is_up = |node: NodeId| view.registered(node.slot) == Some(node) && view.up.contains(node.slot);
        let gone: BTreeSet<NodeId> = self.streams.keys().map(|(node, _)| *node).filter(|node| !is_up(*node)).collect();
        self.streams.retain(|(node, _), _| !gone.contains(node));
        self.shards.retain(|node, _| !gone.contains(node));
        self.gone.extend(gone.into_iter().map(|node| (node, now)));
        self.maybe_live(view, out);
    }

    /// A message of a shard's stream. `from` is its proven sender.
    pub fn handle_message(&mut self, from: NodeId, message: FeedMessage, view: &View, out: &mut Vec<FollowerOutput>) {
        let FeedMessage { shard, session, number, body } = message;
        if view.registered(from.slot) != Some(from) || !view.up.contains(from.slot) {
            return;
        }
        if let FeedBody::Heads { shards, heads, closed } = body {
            let is_sane = number == 0 && shard < shards && closed.0 < COUNTER_SANE_MAX;
            if is_sane && self.streams.get(&(from, shard)).is_none_or(|stream| stream.session < session) {
                let stream = Stream { session, next: 1, ahead: BTreeSet::new(), stuck_at: None, closed };
                self.shards.insert(from, shards);
                self.gone.remove(&from);
                self.streams.insert((from, shard), stream);
                heads.into_iter().for_each(|(partition, head)| self.on_head(from, partition, head, out));
                self.advance_cursor();
                self.maybe_live(view, out);
            }
            return;
        }
        let Some(stream) = self.streams.get_mut(&(from, shard)).filter(|stream| stream.session == session) else {
            return;
        };
        let is_next = stream.take(number);
        match body {
            // What it closes is in the messages before it.
            FeedBody::Closed(closed)
                if (is_next || is_broken(Mutant::HolesUnnoticed)) && closed.0 < COUNTER_SANE_MAX =>
            {
                stream.closed = stream.closed.max(closed);
            }
            FeedBody::Events(events) => self.on_events(from, events, out),
            FeedBody::Closed(_) | FeedBody::Heads { .. } => {}
        }
        self.advance_cursor();
        self.maybe_live(view, out);
    }

    /// `from` leads `partition`, and has committed everything up to `head`.
    fn on_head(&mut self, from: NodeId, partition: PartitionId, head: Seq, out: &mut Vec<FollowerOutput>) {
        let Some(place) = self.places.get_mut(partition.index()).filter(|_| head.0 < COUNTER_SANE_MAX) else { return };
        match *place {
            // Nobody has been promised anything yet.
            None if !self.is_live => *place = Some(head),
            Some(have) if have >= head || is_broken(Mutant::HolesUnnoticed) => {}
            after => self.fall_behind(from, partition, head, after, out),
        }
    }

    fn on_events(&mut self, from: NodeId, events: PartitionEvents, out: &mut Vec<FollowerOutput>) {
        let PartitionEvents { partition, after, last, is_answer, events } = events;
        let Some(place) = self.places.get(partition.index()).copied() else { return };
        let fits = |(seq, event): &(Seq, FeedEvent)| after < *seq && *seq <= last && event.partition == partition;
        if after > last || last.0 >= COUNTER_SANE_MAX || !events.iter().all(fits) {
            return;
        }
        let is_hole = match place {
            Some(have) => after > have,
            // Of what was committed before there was a primary that could tell, nothing is known. Its ring is shown whole.
            None => self.is_live && !is_answer,
        };
        if is_hole && !is_broken(Mutant::HolesUnnoticed) {
            if is_answer {
                // The ring doesn't reach back so far.
                out.push(FollowerOutput::Cut);
            } else {
                self.fall_behind(from, partition, last, place, out);
            }
            return;
        }
        let shown = place.unwrap_or(if self.is_live { Seq::ZERO } else { last });
        for (_, event) in events.into_iter().filter(|(seq, _)| *seq > shown) {
            if event.version.0 < COUNTER_SANE_MAX {
                self.floor = self.floor.max(event.version);
            }
            out.push(FollowerOutput::Show(event));
        }
        self.places[partition.index()] = Some(shown.max(last));
        match self.behind.get(&partition) {
            Some(target) if *target <= last => drop(self.behind.remove(&partition)),
            Some(_) if is_answer && after < last => {
                out.push(FollowerOutput::Fetch { from, partition, after: Some(shown.max(last)) });
            }
            _ => {}
        }
    }

    fn fall_behind(
        &mut self,
        from: NodeId,
        partition: PartitionId,
        target: Seq,
        after: Option<Seq>,
        out: &mut Vec<FollowerOutput>,
    ) {
        let known = self.behind.entry(partition).or_insert_with(|| {
            out.push(FollowerOutput::Fetch { from, partition, after });
            target
        });
        *known = target.max(*known);
    }

    /// Whatever the streams have closed has been shown, unless something is missing.
    fn advance_cursor(&mut self) {
        if !self.behind.is_empty() {
            return;
        }
        let mut is_news = false;
        for (node, shards) in &self.shards {
            let streams = (0..*shards).map(|shard| self.streams.get(&(*node, shard)));
            let closed = streams.map(|stream| stream.map(|stream| stream.closed)).min().flatten();
            // `None` is the least: a node counts once each of its shards has spoken.
            is_news |= closed.is_some_and(|closed| self.cursor.advance(*node, closed));
        }
        if is_news {
            self.text = self.cursor.to_text().into();
        }
    }

    /// Says once that nothing is missed any more: every shard of everybody who is up sends, and of each partition that has
    /// a primary it is known where it is.
    fn maybe_live(&mut self, view: &View, out: &mut Vec<FollowerOutput>) {
        if self.is_live || self.id.is_none() || view.up.is_empty() || !self.behind.is_empty() {
            return;
        }
        let sends = |node: NodeId| {
            self.shards
                .get(&node)
                .is_some_and(|shards| (0..*shards).all(|shard| self.streams.contains_key(&(node, shard))))
        };
        let everybody = view.up.iter().all(|slot| view.registered(slot).is_some_and(sends));
        let is_placed = |(index, place): (usize, &Option<Seq>)| {
            let primary = view.table.get(index).and_then(|record| record.primary);
            place.is_some() || !primary.is_some_and(|slot| view.up.contains(slot))
        };
        if everybody && !self.places.is_empty() && self.places.iter().enumerate().all(is_placed) {
            self.is_live = true;
            out.push(FollowerOutput::Live);
        }
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
