//! Viewers of the feed that come back: after a death, after a hole, or because a test wants it.
//!
//! A viewer does what a gateway and its client do together: it waits until its node is live, asks for what it has missed
//! since its cursor, then takes what comes, and keeps the cursor of the last thing that it took.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::world::World;
use crate::api::{FeedCursor, FeedEvent, FeedPart, Key};
use crate::base::{RequestId, Slot, Version};
use crate::node::NodeOutput;

/// How long one part of what was missed may take.
const PART_WITHIN: Duration = Duration::from_secs(10);

/// One viewer.
#[derive(Debug, Default)]
pub struct Viewer {
    /// The node that it views through.
    pub slot: Option<Slot>,
    /// What it gives back when it comes again.
    pub cursor: Option<Arc<str>>,
    /// What it was shown.
    pub seen: BTreeSet<(Key, Version)>,
    /// How often it was shown something that it had seen.
    pub repeats: usize,
    /// How often it was told that something is missing.
    pub gaps: usize,
    subscribed_at: Option<Arc<str>>,
    missing: Option<RequestId>,
    is_live: bool,
    waiting: Vec<(FeedEvent, Arc<str>)>,
}

impl Viewer {
    /// Whether it is told everything as it happens.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.is_live
    }

    /// Its connection is gone.
    fn leave(&mut self) {
        self.slot = None;
        self.subscribed_at = None;
        self.missing = None;
        self.is_live = false;
        self.waiting.clear();
    }

    fn take(&mut self, event: FeedEvent) {
        if !self.seen.insert((event.key, event.version)) {
            self.repeats += 1;
        }
    }

    fn go_live(&mut self) {
        self.is_live = true;
        self.cursor = self.subscribed_at.clone();
        for (event, cursor) in std::mem::take(&mut self.waiting) {
            self.take(event);
            self.cursor = Some(cursor);
        }
    }
}

impl World {
    /// Adds a viewer without a connection; its number.
    pub fn add_viewer(&mut self) -> usize {
        self.viewers.push(Viewer::default());
        self.viewers.len() - 1
    }

    /// The viewers.
    #[must_use]
    pub fn viewers(&self) -> &[Viewer] {
        &self.viewers
    }

    /// The viewer goes to `slot`, and goes on where it was.
    pub fn connect(&mut self, viewer: usize, slot: Slot) {
        self.viewers[viewer].leave();
        let has_others = self.viewers.iter().any(|other| other.slot == Some(slot));
        self.viewers[viewer].slot = Some(slot);
        if !has_others {
            self.watch(slot);
        }
        self.subscribe_viewers(slot);
    }

    /// Its connection breaks.
    pub fn disconnect(&mut self, viewer: usize) {
        self.viewers[viewer].leave();
    }

    /// Every viewer without a connection goes to one of the running nodes.
    pub fn reconnect_viewers(&mut self) {
        for viewer in 0..self.viewers.len() {
            let running = self.running();
            if self.viewers[viewer].slot.is_none() && !running.is_empty() {
                let slot = running[self.rng.below(running.len() as u64) as usize];
                self.connect(viewer, slot);
            }
        }
    }

    /// Nobody views any more.
    pub(super) fn end_viewing(&mut self) {
        self.viewers.clear();
        for slot in self.running() {
            let process = &mut self.nodes[slot.index()];
            let local = process.clock.show(self.now);
            if let Some(node) = &mut process.node {
                node.handle_feed_wanted(local, false);
            }
            self.is_live[slot.index()] = false;
            self.settle(slot);
        }
    }

    /// The process of `slot` is gone.
    pub(super) fn leave_viewers(&mut self, slot: Slot) {
        self.is_live[slot.index()] = false;
        self.viewers.iter_mut().filter(|viewer| viewer.slot == Some(slot)).for_each(Viewer::leave);
    }

    /// Where `slot` is live, whoever waits for that begins.
    fn subscribe_viewers(&mut self, slot: Slot) {
        if !self.is_live[slot.index()] {
            return;
        }
        let Some(node) = &self.nodes[slot.index()].node else { return };
        let cursor = node.feed_cursor();
        let waiting: Vec<usize> = (0..self.viewers.len())
            .filter(|viewer| self.viewers[*viewer].slot == Some(slot) && self.viewers[*viewer].subscribed_at.is_none())
            .collect();
        for viewer in waiting {
            self.viewers[viewer].subscribed_at = Some(Arc::clone(&cursor));
            if self.viewers[viewer].cursor.is_some() {
                self.ask_for_missed(viewer, Vec::new());
            } else {
                self.viewers[viewer].go_live();
            }
        }
    }

    fn ask_for_missed(&mut self, viewer: usize, remaining: Vec<u64>) {
        let Viewer { slot: Some(slot), cursor: Some(cursor), .. } = &self.viewers[viewer] else { return };
        let (slot, cursor) = (*slot, FeedCursor::from_text(cursor).expect("a node wrote it"));
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let Some(node) = &mut process.node else { return };
        let request = node.handle_feed_since(local, &cursor, remaining, PART_WITHIN);
        self.viewers[viewer].missing = Some(request);
        self.settle(slot);
    }

    pub(super) fn on_feed_output(&mut self, slot: Slot, output: NodeOutput) {
        let here = |viewer: &&mut Viewer| viewer.slot == Some(slot) && viewer.subscribed_at.is_some();
        match output {
            NodeOutput::FeedEvent { event, cursor } => {
                for viewer in self.viewers.iter_mut().filter(here) {
                    if viewer.is_live {
                        viewer.take(event.clone());
                        viewer.cursor = Some(Arc::clone(&cursor));
                    } else {
                        viewer.waiting.push((event.clone(), Arc::clone(&cursor)));
                    }
                }
                self.seen[slot.index()].push(event);
            }
            NodeOutput::FeedLive => {
                self.is_live[slot.index()] = true;
                self.subscribe_viewers(slot);
            }
            NodeOutput::FeedCut => {
                self.count("viewers cut off");
                self.leave_viewers(slot);
            }
            NodeOutput::FeedPart { request, result } => {
                let asks = |viewer: &Viewer| viewer.slot == Some(slot) && viewer.missing == Some(request);
                if let Some(viewer) = self.viewers.iter().position(asks) {
                    self.viewers[viewer].missing = None;
                    match result {
                        Ok(part) => self.on_feed_part(viewer, part),
                        Err(_) => self.viewers[viewer].leave(),
                    }
                }
            }
            _ => {}
        }
    }

    fn on_feed_part(&mut self, viewer: usize, part: FeedPart) {
        let it = &mut self.viewers[viewer];
        if part.gap {
            it.gaps += 1;
            it.go_live();
            return;
        }
        part.events.into_iter().for_each(|event| it.take(event));
        if part.remaining.is_empty() {
            it.go_live();
        } else {
            self.ask_for_missed(viewer, part.remaining);
        }
    }
}
