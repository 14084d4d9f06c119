//! Filling a learner: the live stream from a point on, and a scan of the table behind it.

use std::time::Duration;

use super::members::Stream;
use super::message::{AttachId, Message, ScannedRecord};
use super::primary::Office;
use super::{COUNTER_SANE_MAX, Output, Replica, ReplicaRole};
use crate::api::Key;
use crate::base::{ChangeNumber, Epoch, Instant, NodeId, Position, Seq, Version};
use crate::store::Record;

/// How far a learner's scan is, at the learner. It asks for what comes after the key that it has reached; so a chunk that
/// comes twice, or is read again with other contents, does no harm.
#[derive(Debug, Default)]
pub struct Scanning {
    reached: Option<Key>,
}

impl Replica {
    /// The record has this replica as a learner.
    pub(super) fn become_learner(&mut self) {
        self.role = ReplicaRole::Learner;
        if !self.following.attached {
            // What is here can't be built on: a filling starts from an empty table.
            self.begin_filling(Position::ZERO);
        }
    }

    /// The primary fills this replica, from an empty table.
    pub(super) fn on_attach_learner(
        &mut self,
        from: NodeId,
        (epoch, change, attach): (Epoch, ChangeNumber, AttachId),
        previous: Position,
        version_max: Version,
        out: &mut Vec<Output>,
    ) {
        if epoch < self.epoch {
            self.reject(from, out);
            return;
        }
        if epoch == self.epoch && self.following.attached && self.following.attach == (epoch, attach) {
            if self.following.primary == Some(from) {
                self.acknowledge(from, out);
            }
            return;
        }
        // Who is in sync by a record as new as this message must not throw away what it was counted for.
        let is_known = self.record.epoch == epoch || (self.epoch == epoch && self.following.primary.is_some());
        let is_learner = self.role == ReplicaRole::Learner || change > self.heard;
        let is_new = (epoch, attach) > self.following.attach;
        let is_sane = previous.epoch <= epoch
            && previous.seq.0 < COUNTER_SANE_MAX
            && version_max.0 < COUNTER_SANE_MAX
            && attach != AttachId::default();
        if (is_known && self.following.primary != Some(from)) || !is_learner || !is_new || !is_sane {
            return;
        }
        if epoch > self.epoch {
            self.fence(epoch, out);
        }
        self.heard = self.heard.max(change);
        self.role = ReplicaRole::Learner;
        self.begin_filling(previous);
        self.version_max = version_max;
        self.following.primary = Some(from);
        self.following.attach = (epoch, attach);
        self.following.attached = true;
        self.acknowledge(from, out);
    }

    /// A part of the primary's table.
    pub(super) fn on_scan_chunk(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        (after, records, last): (Option<Key>, Vec<ScannedRecord>, bool),
        out: &mut Vec<Output>,
    ) {
        if !self.follows(from, epoch, out) || self.following.answers_under() != attach {
            return;
        }
        if let Some(scanning) = self.following.filling.as_mut().filter(|scanning| scanning.reached == after) {
            for scanned in records {
                let ScannedRecord { key, value, content_type, version, ttl_ms } = scanned;
                if Some(&key) <= scanning.reached.as_ref() || version.0 >= COUNTER_SANE_MAX {
                    return;
                }
                let expires_at = ttl_ms.map(|left| now + Duration::from_millis(left));
                self.table.insert_newer(&key, Record { value, content_type, version, expires_at });
                self.version_max = self.version_max.max(version);
                scanning.reached = Some(key);
            }
            if last {
                self.following.filling = None;
                self.table.end_scan();
            }
        }
        let (done, after) = match &self.following.filling {
            Some(scanning) => (false, scanning.reached.clone()),
            None => (true, None),
        };
        out.push(Output::Send { to: from, message: Message::ScanAck { epoch, attach, after, done } });
    }

    /// A learner has taken in a part of the scan.
    pub(super) fn on_scan_ack(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        after: Option<Key>,
        done: bool,
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch {
            return;
        }
        let Some(Office { primary, context, table, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, attach).filter(|member| member.stream != Stream::Greeting) else {
            return;
        };
        let Some(filling) = member.filling.as_mut().filter(|filling| !filling.done) else { return };
        if done {
            member.on_scan_done();
        } else if after > filling.acked {
            // An answer that says nothing new is one to a duplicate: another chunk for it would double the stream.
            filling.acked = after;
            member.send_chunk(context, table, out);
        }
        self.maybe_propose(now, out);
    }

    fn begin_filling(&mut self, previous: Position) {
        self.table.clear();
        self.table.begin_scan();
        self.applied = previous;
        self.version_max = Version::ZERO;
        self.tail.reset(previous);
        self.following.matched = previous.seq;
        self.following.nudge_at = Instant::FAR;
        self.following.filling = Some(Scanning::default());
    }
}

/// What the primary makes of a member's answers.
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
        let Some(Office { primary, context, table, .. }) = self.office(now) else { return };
        let Some(member) = primary.member_mut(from, attach) else { return };
        if member.stream == Stream::Greeting {
            let attached = member.filling.as_ref().filter(|filling| !filling.lapsed && filling.previous.seq == seq);
            if attached.is_some() {
                member.begin_streaming(context, seq, out);
                member.send_chunk(context, table, out);
            }
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
}
