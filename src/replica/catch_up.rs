//! The learner's side of its filling: the live stream from a point on, and a scan of the table behind it.

use std::time::Duration;

use super::message::{AttachId, Message, ScannedRecord};
use super::ring::Stamp;
use super::{COUNTER_SANE_MAX, Output, Replica, ReplicaRole};
use crate::api::Key;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ChangeNumber, Epoch, Instant, NodeId, Position, Version};
use crate::store::{Aged, RecordHash};

/// How far a learner's scan is, at the learner. It asks for what comes after the key that it has reached; so a chunk that
/// comes twice, or is read again with other contents, does no harm.
#[derive(Clone, Debug, Default)]
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
                self.heard = self.heard.max(change);
                self.tell_scan(from, out);
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
        if (is_known && self.following.primary != Some(from)) || !is_learner || !is_sane {
            return;
        }
        if !is_new {
            self.maybe_tell_detached(from, out);
            return;
        }
        if epoch > self.epoch {
            self.fence(epoch, out);
        }
        self.heard = self.heard.max(change);
        self.role = ReplicaRole::Learner;
        self.begin_filling(previous);
        self.version_max = version_max;
        // Whoever was sent everything of the filler up to here has been sent what the table holds.
        self.ring.reset(previous.seq, Some(Stamp { by: from, version: version_max }));
        self.following.primary = Some(from);
        self.following.attach = (epoch, attach);
        self.following.attached = true;
        self.tell_scan(from, out);
    }

    /// A part of the primary's table.
    pub(super) fn on_scan_chunk(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, attach): (Epoch, AttachId),
        (after, records, last): (Option<Key>, Vec<ScannedRecord>, bool),
        recent: Vec<Aged>,
        out: &mut Vec<Output>,
    ) {
        if !self.follows(from, epoch, out) || self.following.answers_under() != attach {
            return;
        }
        let mut rotten = Vec::new();
        if let Some(scanning) = self.following.filling.as_mut().filter(|scanning| scanning.reached == after) {
            for scanned in records {
                if Some(&scanned.key) <= scanning.reached.as_ref() || scanned.version.0 >= COUNTER_SANE_MAX {
                    return;
                }
                let (version, record) = (scanned.version, scanned.to_record(now));
                let hash = RecordHash::of(&scanned.key, &record);
                let is_sound = hash == scanned.hash || is_broken(Mutant::ScanUnverified);
                let kept = if is_sound { hash } else { scanned.hash };
                if self.table.insert_hashed(&scanned.key, record, kept) && !is_sound {
                    // Nobody had it sound when it was sent. It is asked for like any other that is rotten.
                    rotten.push((scanned.key.clone(), version));
                }
                self.version_max = self.version_max.max(version);
                scanning.reached = Some(scanned.key);
            }
            if last {
                let sane = recent.into_iter().filter(|aged| aged.done.version.0 < COUNTER_SANE_MAX);
                if !is_broken(Mutant::LearnerForgetsOnce) {
                    sane.for_each(|aged| self.table.remember(now - Duration::from_millis(aged.age_ms), aged.done));
                }
                self.following.filling = None;
                self.table.end_scan();
            }
        }
        self.handle_rotten(rotten, out);
        self.tell_scan(from, out);
    }

    /// Tells the primary that what it builds on is gone. Between the record that it acts on and the one that is known
    /// here, this replica left and came back:
    ///
    /// 1. record 5: n4 is a learner, and is filled under number 3;
    /// 2. record 6: n4 is no member. It drops everything;
    /// 3. record 7: n4 is a learner again. The primary goes from 5 to 7 at once, by a snapshot, and takes filling 3 for
    ///    good.
    ///
    /// Without this answer n4 would never be filled. And if the primary didn't ask, after each change, whether a filling
    /// still stands, it would propose an empty replica for the in-sync set.
    pub(super) fn maybe_tell_detached(&self, to: NodeId, out: &mut Vec<Output>) {
        let (epoch, attach) = self.following.attach;
        if self.role == ReplicaRole::Learner && !self.following.attached && epoch == self.epoch {
            out.push(Output::Send { to, message: Message::Detached { epoch, attach } });
        }
    }

    /// Tells the primary how far the scan is, and that its filling stands.
    fn tell_scan(&self, to: NodeId, out: &mut Vec<Output>) {
        let (epoch, attach) = self.following.attach;
        let (done, after) = match &self.following.filling {
            Some(scanning) => (false, scanning.reached.clone()),
            None => (true, None),
        };
        let message = Message::ScanAck { epoch, attach, heard: self.heard, after, done };
        out.push(Output::Send { to, message });
    }

    fn begin_filling(&mut self, previous: Position) {
        self.table.clear();
        self.verifying.clear();
        self.table.begin_scan();
        self.applied = previous;
        self.version_max = Version::ZERO;
        self.tail.reset(previous);
        self.ring.reset(previous.seq, None);
        self.following.matched = previous.seq;
        self.following.nudge_at = Instant::FAR;
        self.following.filling = Some(Scanning::default());
    }
}
