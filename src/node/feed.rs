//! The feed between nodes: who wants this node's changes, and whether everybody sends theirs here.
//!
//! A node with viewers says so to every shard of every node, once a second; a shard that isn't told again for three seconds
//! stops sending. So nothing has to be cleaned up after a crash. A node's own wish is *live* once every shard of every node
//! that is up has confirmed it; only then does a gateway tell its viewer that changes come from now on.
//!
//! Nothing is acknowledged between nodes, and nothing kept. A change is lost to viewers elsewhere when its primary dies, or
//! the connection breaks, or its queue is full, right after the commit; and a failover repeats what the new primary has to
//! commit again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::base::{Instant, NodeId, RequestId, SlotSet};

/// How often a wish is said again.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How often it is said again while somebody has not confirmed it.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a shard keeps sending after the last time it was told.
const WANTED_FOR: Duration = Duration::from_secs(3);

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
