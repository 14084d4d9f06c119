//! Members that don't answer.

use std::collections::BTreeMap;

use crate::base::{Instant, NodeId, Slot, SlotSet};

/// Nodes that have left something of a partition led here unanswered for too long, until they answer: other partitions
/// needn't wait for them in turn.
///
/// It is what a primary knows of those it *led*. Who was cut off takes everybody else for mute, and may hear from nobody
/// who would prove it wrong until it leads again. So a partition believes only what came up after its primary took office,
/// and only of that very incarnation.
#[derive(Debug, Default)]
pub(super) struct Mute(BTreeMap<Slot, (NodeId, Instant)>);

impl Mute {
    /// Partitions wish these to leave: they are mute since now, unless they were before.
    pub(super) fn note(&mut self, now: Instant, slots: SlotSet, registered: impl Fn(Slot) -> Option<NodeId>) {
        for (slot, node) in slots.iter().filter_map(|slot| Some((slot, registered(slot)?))) {
            let known = self.0.entry(slot).or_insert((node, now));
            if known.0 != node {
                *known = (node, now);
            }
        }
    }

    /// One of them has answered something.
    pub(super) fn answered(&mut self, slot: Slot) {
        self.0.remove(&slot);
    }

    /// Those that a primary has to take for mute, which is in office since then.
    pub(super) fn known_since(&self, since: Instant, registered: impl Fn(Slot) -> Option<NodeId>) -> SlotSet {
        let counts = |slot: Slot, node: NodeId, at: Instant| at >= since && registered(slot) == Some(node);
        self.0.iter().filter(|(slot, (node, at))| counts(**slot, *node, *at)).map(|(slot, _)| *slot).collect()
    }
}
