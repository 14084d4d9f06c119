//! What a primary makes of its members' answers.

use super::members::Stream;
use super::message::AttachId;
use super::primary::Office;
use super::{Output, Replica};
use crate::api::Key;
use crate::base::{ChangeNumber, Epoch, Instant, NodeId, Position, Seq};

impl Replica {
    /// A member of the new epoch tells what it has.
    pub(super) fn on_new_epoch_ack(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        applied: Position,
        runs: &[Position],
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch {
            return;
        }
        let Some(Office { primary, context, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, AttachId::default()) else { return };
        if member.stream != Stream::Greeting || member.is_learner() {
            return;
        }
        // Without a match the member lacks what was committed while it was in sync. It can't be helped from here, and it
        // stays unacked.
        if let Some(position) = context.tail.last_match(applied, runs) {
            member.begin_streaming(context, position.seq, out);
            self.advance_commit(now, out);
        }
    }

    /// A member holds everything up to `seq`.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        seq: Seq,
        commit: Seq,
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch {
            return;
        }
        let Some(Office { primary, context, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, attach) else { return };
        if member.stream == Stream::Greeting {
            return;
        }
        member.on_matched(context, seq, out);
        if commit < member.told {
            // The news was lost, or crosses this answer; to say it again does no harm.
            member.told = commit;
            primary.notice_soon(context);
        }
        self.advance_commit(now, out);
        self.release_retained();
        self.maybe_propose(now, out);
    }

    /// A member can't append what it was sent.
    pub(super) fn on_reject(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        seq: Seq,
        out: &mut Vec<Output>,
    ) {
        if epoch > self.epoch {
            // Somebody else is primary, or will be: serve no more, and wait for the table.
            if self.primary.is_some() {
                self.fence(epoch, out);
            }
            return;
        }
        if epoch < self.epoch {
            return;
        }
        let Some(Office { primary, context, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, attach) else { return };
        if member.stream != Stream::Greeting {
            member.on_gap(context, seq, out);
        }
        self.advance_commit(now, out);
        self.maybe_propose(now, out);
    }

    /// A learner tells how far its scan is.
    pub(super) fn on_scan_ack(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        heard: ChangeNumber,
        reached: (Option<Key>, bool),
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch {
            return;
        }
        let Some(Office { primary, context, table, record, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, attach) else { return };
        member.on_scanned(context, table, (record, heard), reached, out);
        self.note_rotten_scans(out);
        self.advance_commit(now, out);
        self.maybe_propose(now, out);
    }

    /// A learner has lost what it was filled with: it begins anew.
    pub(super) fn on_detached(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch {
            return;
        }
        let Some(Office { primary, context, record, applied, version_max, .. }) = self.office(now) else { return };
        if primary.has_proposed(from.slot) {
            // Proposed means that the filling stood under this record: there is a newer one, which settles the matter.
            return;
        }
        let attach_next = primary.next_attach();
        let Some(member) = primary.member_mut(from, attach).filter(|member| member.is_learner()) else { return };
        member.attach_anew(attach_next, applied);
        member.greet(context, record.change, version_max, out);
    }
}
