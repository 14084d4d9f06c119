//! Who is let in, and where the frames of all connections go.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::reader::End;
use crate::base::limits::NODES_MAX;
use crate::codec::Frame;
use crate::net::Counters;

/// Where the frames of all connections go.
pub trait FrameSink: Send + Sync + 'static {
    /// Takes one frame, sound and of a cluster of this name. Runs in the connection's task: the connection isn't read
    /// meanwhile, which is what slows a sender down, and nothing here may block.
    fn handle_frame(&self, frame: Frame);

    /// Hears why a connection was closed on this side.
    fn handle_rejected(&self, reason: &'static str);
}

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may be open at once; further ones are closed as they come. Where secrets are set, only those count
    /// that have proven one, or who they are.
    pub connections_max: usize,
    /// Connections that may be open at once and have proven nothing yet; a further one displaces the oldest of them.
    pub strangers_max: usize,
    /// How long a new connection may take until the header of its first frame is there, or until it has proven itself.
    pub first_frame: Duration,
    /// How long a frame that has begun may stand still.
    pub half_frame: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            // One from each peer, and as many again that ended without a word and aren't found out yet, twice over.
            connections_max: 4 * NODES_MAX,
            // Each holds a descriptor, of which a process commonly has 1024, and a few kilobytes.
            strangers_max: 256,
            first_frame: Duration::from_secs(5),
            half_frame: Duration::from_secs(10),
        }
    }
}

/// What a connection is let in as.
pub(in crate::net) enum Entry {
    /// It has to prove itself first.
    Stranger(Stranger),
    /// There is nothing to prove.
    Peer(OwnedSemaphorePermit),
}

/// A connection that has proven nothing yet.
pub(in crate::net) struct Stranger {
    /// Another one needs its place.
    pub displaced: Arc<Notify>,
    /// The places that it may take one of.
    pub peers: Arc<Semaphore>,
}

/// Who may come in: so many peers, so many strangers.
///
/// Where all places of strangers are taken, the one that has waited longest makes room. Somebody who holds connections
/// open without a word could otherwise keep a node's peers out for ever; a peer is a stranger for one round trip only.
pub(in crate::net) struct Doormen {
    peers: Arc<Semaphore>,
    /// In the order in which they came; those that have proven themselves or have ended are dead.
    strangers: VecDeque<Weak<Notify>>,
    strangers_max: usize,
}

impl Doormen {
    pub fn new(options: &ListenerOptions) -> Self {
        let peers = Arc::new(Semaphore::new(options.connections_max));
        Self { peers, strangers: VecDeque::new(), strangers_max: options.strangers_max }
    }

    /// What the next connection is; none where there is no place for it.
    pub fn admit(&mut self, must_prove: bool) -> Option<Entry> {
        if must_prove {
            return Some(Entry::Stranger(self.admit_stranger()));
        }
        Arc::clone(&self.peers).try_acquire_owned().ok().map(Entry::Peer)
    }

    /// A place for a connection that has to prove who it is.
    pub fn admit_stranger(&mut self) -> Stranger {
        if self.is_crowded() {
            self.strangers.retain(|stranger| stranger.strong_count() > 0);
        }
        if self.is_crowded()
            && let Some(longest) = self.strangers.pop_front().and_then(|stranger| stranger.upgrade())
        {
            longest.notify_one();
        }
        let displaced = Arc::new(Notify::new());
        self.strangers.push_back(Arc::downgrade(&displaced));
        Stranger { displaced, peers: Arc::clone(&self.peers) }
    }

    /// Whether the next stranger may have to displace one.
    fn is_crowded(&self) -> bool {
        self.strangers.len() >= self.strangers_max
    }

    /// How many strangers there are, at the most.
    pub fn strangers(&mut self) -> usize {
        self.strangers.retain(|stranger| stranger.strong_count() > 0);
        self.strangers.len()
    }
}

/// Counts why a connection ended.
pub(in crate::net) fn count_end<S: FrameSink>(end: &End, sink: &S, counters: &Counters) {
    match end.rejection() {
        Some(reason) => {
            counters.add_rejection(reason);
            sink.handle_rejected(reason);
        }
        None if matches!(end, End::OverCap) => counters.connections_over_cap.add(1),
        None => {}
    }
}
