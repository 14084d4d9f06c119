//! What a primary wishes of its in-sync set: who is to enter it, and who is to leave. The control log decides. And how far
//! those are that are to enter it.
//!
//! Whoever was proposed counts from then on, and whoever is to leave counts until that is decided: between a wish and the
//! record that answers it, both sets may be the one in force.

use super::members::{ScanRoom, ScanWaits, StreamContext};
use super::primary::{Office, Primary};
use super::{Output, Replica};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{InSyncChange, Instant, PartitionRecord, SlotSet};

impl Primary {
    /// Whether no change of the in-sync set is proposed.
    pub const fn wishes_nothing(&self) -> bool {
        self.proposed.is_empty() && self.evicted.is_empty() && !self.dismisses && !self.giving.is_under_way()
    }

    /// Wishes those of `mute` to leave whose ack is needed and missing; whether that is news. The other mute learners go with
    /// them, so that none of them is the one who counts next: two that took turns filled the log with thousands of changes
    /// a second.
    pub fn evict(&mut self, context: StreamContext<'_>, record: &PartitionRecord, mute: SlotSet) -> bool {
        let last = context.tail.last().seq;
        let needed = record.in_sync.union(record.counting).intersection(mute);
        let late = needed.iter().filter(|slot| self.member(*slot).is_some_and(|member| member.matched < last));
        let late: SlotSet = late.collect();
        let is_news = !late.is_subset(self.evicted);
        if is_news {
            // Whoever is to get the partition may be among them; and nothing is committed without them now.
            self.giving.give_up(context.now);
            let useless = record.learners.intersection(mute).difference(self.proposed);
            self.evicted = self.evicted.union(late).union(useless);
            self.propose_at = context.now + context.options.propose_after;
        }
        is_news
    }
}

impl Replica {
    /// Proposes learners that have caught up. From here on their acks are required. And says that this epoch has begun, if a
    /// former primary is kept until then.
    pub(super) fn maybe_propose(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_serving() {
            return;
        }
        let Some(Office { primary, context, record, applied, .. }) = self.office(now) else { return };
        let ready = primary.members.iter().filter(|(_, member)| member.is_caught_up(record, applied.seq));
        let ready: SlotSet = ready.map(|(slot, _)| *slot).collect();
        let dismisses = record.former.is_some();
        if ready.is_subset(primary.proposed) && dismisses == primary.dismisses {
            return;
        }
        primary.dismisses = dismisses;
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
        // Where nobody else is there, those who are mute take each other's places: each has as long to answer as anybody has
        // to be asked again, so that this doesn't go round without end in one moment.
        let is_too_soon = now < primary.may_evict_mute_at && !is_broken(Mutant::MuteTakeTurns);
        if !is_too_soon && primary.evict(context, record, mute) {
            primary.may_evict_mute_at = now + context.options.resend_after;
            self.propose(out);
        }
    }

    /// Of each learner whose scan is under way: how many bytes of the table it has, and about how many it lacks.
    pub fn fillings(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let table_bytes = self.table.bytes() as u64;
        let members = self.primary.iter().flat_map(|primary| primary.members.iter());
        let fillings = members.filter_map(|(_, member)| member.filling.as_ref()).filter(|filling| !filling.done);
        fillings.map(move |filling| (filling.acked_bytes, table_bytes.saturating_sub(filling.acked_bytes)))
    }

    /// Bytes of scans that are under way to those who are filled, with something for each chunk.
    #[must_use]
    pub fn scans_under_way(&self) -> u64 {
        self.primary.iter().flat_map(|primary| &primary.members).map(|(_, member)| member.scan_under_way()).sum()
    }

    /// What waits for room: a scan that has begun, or only ones that haven't, or nothing.
    #[must_use]
    pub fn waits_to_scan(&self) -> Option<ScanWaits> {
        let waiting = self.primary.iter().flat_map(|primary| &primary.members).map(|(_, member)| member);
        let mut waiting = waiting.filter(|member| member.waits_to_scan()).peekable();
        waiting.peek()?;
        let has_begun = waiting.any(|member| !member.waits_to_be_greeted());
        Some(if has_begun { ScanWaits::ToGoOn } else { ScanWaits::ToBegin })
    }

    /// Says whether there is room for another chunk, until it is said again.
    pub const fn set_scan_room(&mut self, room: ScanRoom) {
        self.scan_room = room;
    }

    /// There is room for a scan that waits for it.
    pub fn go_on_scanning(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(Office { primary, context, table, record, applied, version_max }) = self.office(now) else { return };
        let attach = primary.next_attach();
        let waiting = primary.members.iter_mut().map(|(_, member)| member).filter(|member| member.waits_to_scan());
        let Some(member) = waiting.min_by_key(|member| member.waits_to_be_greeted()) else { return };
        if !member.waits_to_be_greeted() {
            member.send_chunk(context, table, out);
            return;
        }
        if member.begin_filling(context, false, (attach, applied)) {
            member.greet(context, record.change, version_max, out);
        }
    }

    /// Makes the outstanding proposal, again perhaps.
    pub(super) fn propose(&self, out: &mut Vec<Output>) {
        let Some(primary) = &self.primary else { return };
        if primary.dismisses || !primary.proposed.union(primary.evicted).is_empty() {
            out.push(Output::Propose(InSyncChange {
                partition: self.partition,
                proposer: self.options.me,
                epoch: self.epoch,
                change: primary.proposed_under,
                add: primary.proposed,
                remove: primary.evicted,
                give_to: None,
            }));
        }
    }
}
