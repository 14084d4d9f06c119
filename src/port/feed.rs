//! One node's feed on its way to its viewers: a channel in which whoever reads slowly holds up nobody, and holds no more
//! memory than there is for all viewers together.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwapOption;
use tokio::sync::broadcast;

use crate::api::FeedEvent;

/// Changes that are kept for the slowest viewer, before it is cut off.
const WAITING_MAX: usize = 1 << 14;
/// Bytes that they may have together: with large values a viewer is cut off earlier.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// What a change takes beside its key, its value and its cursor, about.
const OVERHEAD_BYTES: usize = 256;
const POISONED: &str = "a thread panicked while it counted what waits for viewers";

/// One change, as viewers are told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedItem {
    /// The change.
    pub event: FeedEvent,
    /// What a viewer gives back to go on after this change.
    pub cursor: Arc<str>,
}

impl FeedItem {
    fn bytes(&self) -> usize {
        let value = self.event.value.as_ref().map_or(0, |value| value.len());
        OVERHEAD_BYTES + self.event.key.as_bytes().len() + value + self.cursor.len()
    }
}

/// A change that waits for viewers; empty once there is no room for it.
type Waiting = ArcSwapOption<FeedItem>;

/// Where a core tells its viewers what happens.
pub struct FeedSender {
    /// A change; nothing where the core can't go on without a hole.
    news: broadcast::Sender<Option<Arc<Waiting>>>,
    backlog: Mutex<Backlog>,
}

/// What some viewer has not taken yet, the oldest first. Viewers take everything in order, so what all have taken, and the
/// channel has let go of, is at the front.
#[derive(Default)]
struct Backlog {
    waiting: VecDeque<(Weak<Waiting>, usize)>,
    bytes: usize,
}

impl Default for FeedSender {
    fn default() -> Self {
        Self::new(WAITING_MAX)
    }
}

impl FeedSender {
    /// A feed that keeps up to `waiting_max` changes, which isn't 0, for its slowest viewer; rounded up to a power of two.
    #[must_use]
    pub fn new(waiting_max: usize) -> Self {
        Self { news: broadcast::channel(waiting_max).0, backlog: Mutex::default() }
    }

    /// Tells all viewers of a change. What the slowest of them haven't taken makes room for it.
    ///
    /// # Panics
    /// Where an earlier call did.
    pub fn send(&self, item: FeedItem) {
        let bytes = item.bytes();
        let waiting = Arc::new(Waiting::from_pointee(item));
        let mut backlog = self.backlog.lock().expect(POISONED);
        backlog.make_room_for(bytes);
        backlog.waiting.push_back((Arc::downgrade(&waiting), bytes));
        backlog.bytes += bytes;
        // Nobody listening is no error.
        let _ = self.news.send(Some(waiting));
    }

    /// Tells all viewers that changes are missing here.
    pub fn interrupt(&self) {
        let _ = self.news.send(None);
    }

    /// A viewer of all that comes from now on. It goes on from `cursor`; `viewer` is dropped with it.
    #[must_use]
    pub fn subscribe(&self, cursor: Arc<str>, viewer: impl Send + Sync + 'static) -> FeedSubscription {
        FeedSubscription { news: self.news.subscribe(), cursor, _viewer: Box::new(viewer) }
    }
}

impl Backlog {
    fn make_room_for(&mut self, bytes: usize) {
        while let Some((oldest, its_bytes)) = self.waiting.front() {
            let oldest = oldest.upgrade();
            if oldest.is_some() && self.bytes + bytes <= WAITING_BYTES_MAX {
                break;
            }
            if let Some(oldest) = oldest {
                oldest.store(None);
            }
            self.bytes -= its_bytes;
            self.waiting.pop_front();
        }
    }
}

impl fmt::Debug for FeedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedSender").field("viewers", &self.news.receiver_count()).finish_non_exhaustive()
    }
}

/// One viewer's place in the feed.
pub struct FeedSubscription {
    news: broadcast::Receiver<Option<Arc<Waiting>>>,
    cursor: Arc<str>,
    /// Dropped with the subscription: how the core counts its viewers.
    _viewer: Box<dyn std::any::Any + Send + Sync>,
}

/// Why a feed ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedEnd {
    /// The viewer fell behind by more than the node keeps.
    #[error("the viewer is too slow: {missed} changes were not delivered; resume with the last cursor")]
    TooSlow {
        /// How many there are that it didn't take.
        missed: u64,
    },
    /// The node has missed changes itself, and can't get them any more.
    #[error("this node has missed changes itself: resume with the last cursor")]
    Interrupted,
    /// The node is shutting down.
    #[error("the node is shutting down: resume at another one with the last cursor")]
    Closed,
}

impl FeedSubscription {
    /// Where the subscription begins: what a viewer gives back that has seen everything before it.
    #[must_use]
    pub const fn cursor(&self) -> &Arc<str> {
        &self.cursor
    }

    /// The next change. Every subscription gets every change.
    ///
    /// # Errors
    /// Where the feed ended for this viewer.
    pub async fn next(&mut self) -> Result<Arc<FeedItem>, FeedEnd> {
        match self.news.recv().await {
            Ok(Some(waiting)) => {
                waiting.load_full().ok_or_else(|| FeedEnd::TooSlow { missed: self.news.len() as u64 + 1 })
            }
            Ok(None) => Err(FeedEnd::Interrupted),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(FeedEnd::TooSlow { missed }),
            Err(broadcast::error::RecvError::Closed) => Err(FeedEnd::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventKind;
    use crate::base::{Blob, PartitionId, Version};

    const VALUE_BYTES: usize = 1 << 20;

    fn change(version: u64, value_bytes: usize) -> FeedItem {
        let event = FeedEvent {
            kind: EventKind::Put,
            key: "k".parse().expect("a key"),
            partition: PartitionId(0),
            version: Version(version),
            value: Some(Blob::from(vec![7; value_bytes])),
            content_type: None,
        };
        FeedItem { event, cursor: "c".into() }
    }

    fn waiting_bytes(sender: &FeedSender) -> usize {
        let backlog = sender.backlog.lock().expect(POISONED);
        let items = backlog.waiting.iter().filter_map(|(waiting, _)| waiting.upgrade()?.load_full());
        items.map(|item| item.bytes()).sum()
    }

    #[tokio::test]
    async fn a_slow_viewer_of_large_values_is_cut_off_and_holds_no_more_than_there_is_room_for() {
        let sender = FeedSender::default();
        let (mut slow, mut fast) = (sender.subscribe("c".into(), ()), sender.subscribe("c".into(), ()));
        for version in 1..=100 {
            sender.send(change(version, VALUE_BYTES));
            assert_eq!(fast.next().await.expect("a change").event.version, Version(version));
            assert!(waiting_bytes(&sender) <= WAITING_BYTES_MAX);
        }
        assert!(waiting_bytes(&sender) > WAITING_BYTES_MAX / 2, "a viewer that is a little late is not cut off");
        assert_eq!(slow.next().await, Err(FeedEnd::TooSlow { missed: 100 }));
        drop(slow);
        assert_eq!(waiting_bytes(&sender), 0, "what nobody waits for is let go");
    }

    #[tokio::test]
    async fn many_small_changes_wait_for_a_viewer_until_they_are_too_many() {
        let sender = FeedSender::default();
        let (mut late, mut later) = (sender.subscribe("c".into(), ()), sender.subscribe("c".into(), ()));
        (1..=WAITING_MAX as u64).for_each(|version| sender.send(change(version, 1)));
        assert_eq!(late.next().await.expect("a change").event.version, Version(1));
        sender.send(change(0, 1));
        assert_eq!(late.next().await.expect("a change").event.version, Version(2));
        assert_eq!(later.next().await, Err(FeedEnd::TooSlow { missed: 1 }));
    }

    #[tokio::test]
    async fn what_is_sent_while_nobody_watches_is_not_kept() {
        let sender = FeedSender::default();
        (1..=100).for_each(|version| sender.send(change(version, VALUE_BYTES)));
        assert_eq!(waiting_bytes(&sender), 0);
        assert!(sender.backlog.lock().expect(POISONED).waiting.len() <= 1);
        sender.interrupt();
        let mut viewer = sender.subscribe("c".into(), ());
        sender.interrupt();
        drop(sender);
        assert_eq!(viewer.next().await, Err(FeedEnd::Interrupted));
        assert_eq!(viewer.next().await, Err(FeedEnd::Closed));
    }
}
