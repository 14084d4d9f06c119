//! The feed between nodes: who wants this node's changes, and whether everybody sends theirs here.
//!
//! A node with viewers says so to every shard of every node, once a second; a shard that isn't told again for three seconds
//! stops sending. So nothing has to be cleaned up after a crash. A node's own wish is *live* once every shard of every node
//! that is up has confirmed it; only then does a gateway tell its viewer that changes come from now on.
//!
//! Nothing is acknowledged between nodes, and nothing kept. A change is lost to viewers elsewhere when its primary dies, or
//! the connection breaks, or its queue is full, right after the commit.
//!
//! A new primary tells its predecessor's last changes again: it can't know which of them were told. What this node's viewers
//! were shown already isn't shown again, so that the versions of a key rise for them across a failover too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::api::FeedEvent;
use crate::base::{Instant, NodeId, PartitionId, RequestId, SlotSet, Version};

/// How often a wish is said again.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How often it is said again while somebody has not confirmed it.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a shard keeps sending after the last time it was told.
const WANTED_FOR: Duration = Duration::from_secs(3);
/// Versions remembered of each partition. A new primary repeats what was in flight at the death of its predecessor: as many
/// changes as were written to one partition within a round trip, which are few.
const SHOWN_MAX: usize = 256;

/// Who wants a shard's changes.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    until: BTreeMap<NodeId, Instant>,
}

impl Subscribers {
    pub(super) fn handle_wanted(&mut self, now: Instant, node: NodeId) {
        self.until.insert(node, now + WANTED_FOR);
    }

    /// Those who want changes now.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.until.iter().filter(move |(_, until)| now < **until).map(|(node, _)| *node)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Forgets those whose time is over.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.until.retain(|_, until| now < *until);
    }
}

/// What this node's viewers were shown lately.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The last versions of each partition, in the order of their coming.
    versions: BTreeMap<PartitionId, VecDeque<Version>>,
}

impl Shown {
    /// Whether a change is new to this node's viewers. From now on it isn't.
    pub(super) fn is_first(&mut self, event: &FeedEvent) -> bool {
        let versions = self.versions.entry(event.partition).or_default();
        // A version is given out once in a partition, so it names the change. The newest is the likeliest.
        if versions.iter().rev().any(|version| *version == event.version) {
            return false;
        }
        if versions.len() >= SHOWN_MAX {
            versions.pop_front();
        }
        versions.push_back(event.version);
        true
    }

    /// Nobody views any more, or it is another cluster.
    pub(super) fn clear(&mut self) {
        self.versions.clear();
    }
}

/// This node's own wish for everybody's changes.
#[derive(Debug, Default)]
pub(super) struct FeedWish {
    id: Option<RequestId>,
    granted: BTreeMap<NodeId, BTreeSet<u16>>,
    whole: BTreeSet<NodeId>,
    pub(super) ask_at: Instant,
    was_live: bool,
}

impl FeedWish {
    /// No wish: nobody views.
    pub(super) fn none() -> Self {
        Self { ask_at: Instant::FAR, ..Self::default() }
    }

    /// There are viewers from now on: the wish has this number.
    pub(super) fn begin(&mut self, now: Instant, id: RequestId) {
        *self = Self { id: Some(id), ask_at: now, ..Self::default() };
    }

    /// The last viewer is gone.
    pub(super) fn end(&mut self) {
        *self = Self::none();
    }

    /// The wish's number; none while nobody views.
    pub(super) const fn id(&self) -> Option<RequestId> {
        self.id
    }

    /// It has been said to everybody just now.
    pub(super) fn on_asked(&mut self, now: Instant) {
        self.ask_at = now + if self.was_live { RENEW_EVERY } else { ASK_AGAIN_AFTER };
    }

    /// One of a node's `shards` shards has confirmed.
    pub(super) fn handle_granted(&mut self, from: NodeId, shard: u16, shards: u16) {
        let granted = self.granted.entry(from).or_default();
        granted.insert(shard);
        if granted.len() >= usize::from(shards) {
            self.whole.insert(from);
        }
    }

    /// True once, when everybody who is up has confirmed.
    pub(super) fn maybe_live(&mut self, up: SlotSet, registered: &[Option<NodeId>]) -> bool {
        let everybody = up
            .iter()
            .all(|slot| registered.get(slot.index()).copied().flatten().is_some_and(|node| self.whole.contains(&node)));
        let is_live = self.id.is_some() && !up.is_empty() && everybody;
        is_live && !std::mem::replace(&mut self.was_live, is_live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventKind;

    fn is_first(shown: &mut Shown, partition: u16, version: u64) -> bool {
        shown.is_first(&FeedEvent {
            kind: EventKind::Delete,
            key: "k".parse().expect("a key"),
            partition: PartitionId(partition),
            version: Version(version),
            value: None,
            content_type: None,
        })
    }

    #[test]
    fn what_a_new_primary_repeats_is_not_shown_again() {
        let mut shown = Shown::default();
        assert!((5..=8).all(|version| is_first(&mut shown, 1, version)));
        assert!((6..=8).all(|version| !is_first(&mut shown, 1, version)), "repeated by the new primary");
        assert!(is_first(&mut shown, 1, 9) && is_first(&mut shown, 2, 8), "new, and another partition's");
        assert!(is_first(&mut shown, 1, 4), "late, but never shown: lost would be worse");
        shown.clear();
        assert!(is_first(&mut shown, 1, 9));
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_latest() {
        let mut shown = Shown::default();
        let all = 3 * SHOWN_MAX as u64;
        assert!((0..all).all(|version| is_first(&mut shown, 1, version)));
        assert_eq!(shown.versions[&PartitionId(1)].len(), SHOWN_MAX);
        assert!((all - SHOWN_MAX as u64..all).all(|version| !is_first(&mut shown, 1, version)));
    }
}
