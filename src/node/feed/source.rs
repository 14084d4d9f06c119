//! A shard's side of the feed: who wants its events, and what they are told.

use std::collections::BTreeMap;

use super::message::{FeedBody, FeedMessage, PartitionEvents, Since, SincePart};
use super::{FLOOR_SANE_MAX, MESSAGE_BYTES_MAX, WANTED_FOR};
use crate::api::FeedEvent;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId, RequestId, Seq, Version};
use crate::replica::Replica;

/// Who wants a shard's events, and how far it is closed.
///
/// Invariant: `closed` never falls, and every version that this shard gives is above what it was before.
#[derive(Debug, Default)]
pub struct Source {
    subscribers: BTreeMap<NodeId, Subscriber>,
    sessions: u64,
    closed: Version,
    floor: Version,
}

#[derive(Debug)]
struct Subscriber {
    id: RequestId,
    until: Instant,
    session: u64,
    next: u64,
}

impl Source {
    /// `node` wants events. True where a stream begins: its heads are to be told, otherwise what is closed.
    pub fn handle_wanted(&mut self, now: Instant, node: NodeId, id: RequestId, floor: Version, restart: bool) -> bool {
        if floor.0 < FLOOR_SANE_MAX {
            self.floor = self.floor.max(floor);
        }
        let until = now + WANTED_FOR;
        if let Some(known) = self.subscribers.get_mut(&node).filter(|known| known.id == id && !restart) {
            known.until = until;
            return false;
        }
        self.sessions += 1;
        self.subscribers.insert(node, Subscriber { id, until, session: self.sessions, next: 0 });
        true
    }

    /// The next message of each stream, or of one: who it is for, the number that it answers, and the message.
    pub fn say(&mut self, to: Option<NodeId>, shard: u16, body: &FeedBody) -> Vec<(NodeId, RequestId, FeedMessage)> {
        let chosen = self.subscribers.iter_mut().filter(|(node, _)| to.is_none_or(|to| to == **node));
        let message = |(node, subscriber): (&NodeId, &mut Subscriber)| {
            let number = subscriber.next;
            subscriber.next += 1;
            let message = FeedMessage { shard, session: subscriber.session, number, body: body.clone() };
            (*node, subscriber.id, message)
        };
        chosen.map(message).collect()
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// Forgets those whose time is over.
    pub fn sweep(&mut self, now: Instant) {
        self.subscribers.retain(|_, subscriber| now < subscriber.until);
    }

    /// Nobody is known any more.
    pub fn clear(&mut self) {
        self.subscribers.clear();
    }

    /// Every version that is given from now on must be above this.
    pub const fn closed(&self) -> Version {
        self.closed
    }

    /// Closes as much as can be: all that the clock or any follower has seen, but nothing that is under way.
    pub fn close<'a>(&mut self, clock: u64, replicas: impl Iterator<Item = &'a Replica>) -> Version {
        let most = self.floor.max(Version(clock));
        let under_way = replicas.filter_map(Replica::first_uncommitted).min();
        let under_way = under_way.filter(|_| !is_broken(Mutant::ClosedByClock));
        let closed = under_way.map_or(most, |first| most.min(Version(first.0.saturating_sub(1))));
        self.closed = self.closed.max(closed);
        self.closed
    }
}

/// The effects of `replica` after `after`, as many as fit one message. Where the ring doesn't reach back so far, it begins
/// later, and says so by its own `after`.
pub fn events_after(replica: &Replica, after: Option<Seq>, is_answer: bool) -> PartitionEvents {
    let ring = replica.ring();
    let from = after.unwrap_or_default().max(ring.base());
    let (mut last, mut bytes, mut events) = (from, 0, Vec::new());
    for entry in ring.after(from).into_iter().flatten() {
        if bytes >= MESSAGE_BYTES_MAX {
            break;
        }
        last = entry.seq;
        bytes += entry.event.as_ref().map_or(0, bytes_of);
        events.extend(entry.event.clone().map(|event| (entry.seq, event)));
    }
    PartitionEvents { partition: replica.partition(), after: from, last, is_answer, events }
}

/// What comes after a cursor in the partitions of `replicas`: whole partitions, until a message is full.
pub fn part_since<'a>(since: &Since, replicas: impl Iterator<Item = &'a Replica>) -> SincePart {
    let mut part = SincePart::default();
    let mut bytes = 0;
    for replica in replicas {
        if bytes >= MESSAGE_BYTES_MAX {
            break;
        }
        part.covered.insert(replica.partition());
        let ring = replica.ring();
        let Some(entries) = ring.resume(&since.cursor).and_then(|seen| ring.after(seen)) else {
            part.gap = true;
            return part;
        };
        let events = entries.filter_map(|entry| entry.event.clone());
        part.events.extend(events.inspect(|event| bytes += bytes_of(event)));
    }
    part
}

fn bytes_of(event: &FeedEvent) -> usize {
    event.key.as_bytes().len() + event.value.as_ref().map_or(0, |value| value.len()) + size_of::<FeedEvent>()
}
