//! What a primary wishes of its in-sync set: who is to enter it, and who is to leave. The control log decides.
//!
//! Whoever was proposed counts from then on, and whoever is to leave counts until that is decided: between a wish and the
//! record that answers it, both sets may be the one in force.

use super::members::StreamContext;
use super::primary::{Office, Primary};
use super::{Output, Replica};
use crate::base::{InSyncChange, Instant, PartitionRecord, SlotSet};

impl Primary {
    /// Whether no change of the in-sync set is proposed.
    pub const fn wishes_nothing(&self) -> bool {
        self.proposed.is_empty() && self.evicted.is_empty()
    }

    /// Wishes those of `mute` to leave whose ack is needed and missing; whether that is news.
    pub fn evict(&mut self, context: StreamContext<'_>, record: &PartitionRecord, mute: SlotSet) -> bool {
        let last = context.tail.last().seq;
        let needed = record.in_sync.union(record.counting).intersection(mute);
        let late = needed.iter().filter(|slot| self.member(*slot).is_some_and(|member| member.matched < last));
        let late: SlotSet = late.collect();
        let is_news = !late.is_subset(self.evicted);
        if is_news {
            self.evicted = self.evicted.union(late);
            self.propose_at = context.now + context.options.propose_after;
        }
        is_news
    }
}

impl Replica {
    /// Proposes learners that have caught up. From here on their acks are required.
    pub(super) fn maybe_propose(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_serving() {
            return;
        }
        let Some(Office { primary, context, record, applied, .. }) = self.office(now) else { return };
        let ready = primary.members.iter().filter(|(_, member)| member.is_caught_up(record, applied.seq));
        let ready: SlotSet = ready.map(|(slot, _)| *slot).collect();
        if ready.is_subset(primary.proposed) {
            return;
        }
        primary.proposed = primary.proposed.union(ready);
        primary.propose_at = context.now + context.options.propose_after;
        self.propose(out);
    }

    /// The members in `mute` have left something of another partition unanswered for too long. What waits for them here
    /// waits in vain, too: they are evicted without another wait, so that a node whose stream is dead doesn't hold up the
    /// first write to each partition in turn.
    pub(super) fn evict_mute(&mut self, now: Instant, mute: SlotSet, out: &mut Vec<Output>) {
        if self.uncommitted() == 0 {
            return;
        }
        let Some(Office { primary, context, record, .. }) = self.office(now) else { return };
        if primary.evict(context, record, mute) {
            self.propose(out);
        }
    }

    /// Makes the outstanding proposal, again perhaps.
    pub(super) fn propose(&self, out: &mut Vec<Output>) {
        let Some(primary) = &self.primary else { return };
        if !primary.proposed.union(primary.evicted).is_empty() {
            out.push(Output::Propose(InSyncChange {
                partition: self.partition,
                proposer: self.options.me,
                epoch: self.epoch,
                change: primary.proposed_under,
                add: primary.proposed,
                remove: primary.evicted,
            }));
        }
    }
}
