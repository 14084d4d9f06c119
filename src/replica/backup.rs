//! The backup, and what a learner does as backups do: fencing, appending, following the commit point.

use super::catch_up::Scanning;
use super::message::{AttachId, Message};
use super::ring::{RingEntry, Stamp, feed_event};
use super::tail::Entry;
use super::{COUNTER_SANE_MAX, Output, Replica, ReplicaRole};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ChangeNumber, Epoch, Instant, NodeId, Position, Seq};
use crate::store::Effect;

/// What a replica knows of the primary that it follows.
#[derive(Clone, Debug)]
pub struct Following {
    /// Who is primary of this replica's epoch, where known.
    pub primary: Option<NodeId>,
    /// This replica has what the primary has, up to here. Its tail may go on with effects of older epochs that the primary
    /// hasn't confirmed.
    pub matched: Seq,
    /// The last filling that began here: its epoch and number. Older ones that come late are refused.
    pub attach: (Epoch, AttachId),
    /// That filling is what this replica's state rests on, in its present epoch.
    pub attached: bool,
    /// The scan, until it has ended.
    pub filling: Option<Scanning>,
    /// When to remind the primary that effects wait for a commit point. Only lost messages make that necessary.
    pub nudge_at: Instant,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            primary: None,
            matched: Seq::ZERO,
            attach: (Epoch::ZERO, AttachId::default()),
            attached: false,
            filling: None,
            nudge_at: Instant::FAR,
        }
    }
}

impl Following {
    /// A new epoch: nothing of its primary is known yet, but that it has everything that was ever committed.
    pub fn fence(&mut self, applied: Seq) {
        self.primary = None;
        self.detach(applied);
    }

    /// Nothing that the primary has sent counts any more, but what is known to be committed, up to `applied`.
    pub fn detach(&mut self, applied: Seq) {
        self.matched = applied;
        self.attached = false;
        self.nudge_at = Instant::FAR;
    }

    /// The number that this replica's answers carry.
    pub fn answers_under(&self) -> AttachId {
        if self.attached { self.attach.1 } else { AttachId::default() }
    }
}

impl Replica {
    /// The record has this replica in sync.
    pub(super) fn become_backup(&mut self) {
        self.role = ReplicaRole::Backup;
    }

    /// A primary has begun an epoch with this replica in sync. Its record may not have come here yet.
    pub(super) fn on_new_epoch(&mut self, from: NodeId, epoch: Epoch, change: ChangeNumber, out: &mut Vec<Output>) {
        if epoch < self.epoch {
            self.reject(from, out);
            return;
        }
        // In an epoch that is known here, only its primary may speak, and only to who is in sync by the newest record.
        let is_known = self.record.epoch == epoch || (self.epoch == epoch && self.following.primary.is_some());
        let is_member = self.role == ReplicaRole::Backup || change > self.heard;
        let is_complete = self.following.filling.is_none();
        if (is_known && self.following.primary != Some(from)) || !is_member || !is_complete {
            return;
        }
        if epoch > self.epoch {
            self.fence(epoch, out);
        }
        self.heard = self.heard.max(change);
        self.following.primary = Some(from);
        self.role = ReplicaRole::Backup;
        let message = Message::NewEpochAck { epoch, applied: self.applied, runs: self.tail.runs() };
        out.push(Output::Send { to: from, message });
    }

    /// Appends what the primary has ordered, if what is before it matches.
    pub(super) fn on_prepare(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, previous, commit): (Epoch, Position, Seq),
        effects: Vec<(Epoch, Effect)>,
        out: &mut Vec<Output>,
    ) {
        if !self.follows(from, epoch, out) || !is_sane(epoch, previous, &effects) {
            return;
        }
        let matches = previous.seq < self.applied.seq
            || self.tail.epoch_at(previous.seq) == Some(previous.epoch)
            || is_broken(Mutant::PrepareWithoutMatch);
        if !matches {
            self.reject(from, out);
            return;
        }
        let end = Seq(previous.seq.0 + effects.len() as u64);
        // What this primary has confirmed, or any primary has committed, is never replaced.
        let settled = self.following.matched;
        for (offset, (ordered_in, effect)) in effects.into_iter().enumerate() {
            let seq = Seq(previous.seq.0 + 1 + offset as u64);
            if seq < self.applied.seq || self.tail.epoch_at(seq) == Some(ordered_in) {
                continue;
            }
            if seq <= settled || self.tail.len() >= self.tail_entries_max() {
                return;
            }
            if seq <= self.tail.last().seq {
                self.tail.truncate_after(Seq(seq.0 - 1));
            }
            self.version_max = self.version_max.max(effect.version());
            self.tail.push(Entry { epoch: ordered_in, received: now, effect });
        }
        self.following.matched = settled.max(end);
        self.follow_commit(now, commit, out);
        self.acknowledge(from, out);
    }

    /// Learns the commit point while nothing else comes.
    pub(super) fn on_commit(&mut self, now: Instant, from: NodeId, epoch: Epoch, seq: Seq, out: &mut Vec<Output>) {
        if !self.follows(from, epoch, out) {
            return;
        }
        self.follow_commit(now, seq, out);
        if seq > self.following.matched {
            self.reject(from, out);
        }
    }

    /// Reminds the primary, where the news of a commit or an effect before it must have been lost.
    pub(super) fn maybe_nudge(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.following.nudge_at > now {
            return;
        }
        self.rest_nudge(now);
        if let Some(primary) = self.following.primary {
            self.acknowledge(primary, out);
        }
    }

    /// Whether `from` is the primary that this replica follows in `epoch`. A stale primary is told so.
    pub(super) fn follows(&mut self, from: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> bool {
        if epoch < self.epoch && !is_broken(Mutant::FollowOldEpoch) {
            self.reject(from, out);
        } else if epoch > self.epoch {
            // Its greeting was lost or is late. Older epochs are fenced by this; the primary sends again.
            self.fence(epoch, out);
        } else {
            let has_begun = match self.role {
                ReplicaRole::Backup => true,
                ReplicaRole::Learner => self.following.attached,
                ReplicaRole::None | ReplicaRole::Primary => false,
            };
            if self.following.primary == Some(from) && !has_begun {
                self.maybe_tell_detached(from, out);
            }
            return has_begun && (self.following.primary == Some(from) || is_broken(Mutant::FollowOldEpoch));
        }
        false
    }

    /// Tells the primary what is here.
    pub(super) fn acknowledge(&self, to: NodeId, out: &mut Vec<Output>) {
        let message = Message::Ack {
            epoch: self.epoch,
            attach: self.following.answers_under(),
            seq: self.following.matched,
            commit: self.applied.seq,
        };
        out.push(Output::Send { to, message });
    }

    /// Tells a sender that it can't be followed: it is stale, or something before what it sent is missing.
    pub(super) fn reject(&self, to: NodeId, out: &mut Vec<Output>) {
        let message =
            Message::Reject { epoch: self.epoch, attach: self.following.answers_under(), seq: self.following.matched };
        out.push(Output::Send { to, message });
    }

    /// Applies what is committed, as far as it is known to be what the primary has.
    fn follow_commit(&mut self, now: Instant, commit: Seq, out: &mut Vec<Output>) {
        let point = commit.min(self.following.matched);
        // What the primary wants compared is compared where it says, on the way.
        while let Some(seq) = self.verifying.waits_for().filter(|seq| *seq <= point) {
            self.apply_through(seq);
            self.look_here(now, out);
        }
        self.apply_through(point);
        self.rest_nudge(now);
    }

    /// What is applied is kept no longer: the ring takes it over as it is.
    fn apply_through(&mut self, point: Seq) {
        while self.applied.seq < point {
            let entry = self.tail.take_first();
            self.applied = self.tail.base();
            self.table.apply(entry.received, &entry.effect);
            if is_broken(Mutant::RingAtPrimaryOnly) {
                self.ring.reset(self.applied.seq, None);
                continue;
            }
            // What an earlier primary ordered may never have been shown by it: its own stamp would say too much.
            let is_own = entry.epoch == self.epoch;
            let by = self.following.primary.filter(|_| is_own);
            let stamp = by.map(|by| Stamp { by, version: entry.effect.version() });
            let event = feed_event(self.partition, entry.effect);
            self.ring.push(RingEntry { seq: self.applied.seq, stamp, event });
        }
    }

    fn rest_nudge(&mut self, now: Instant) {
        let waits = self.tail.last().seq > self.applied.seq && self.following.primary.is_some();
        // Four times the primary's own patience: it is the one who resends.
        self.following.nudge_at = if waits { now + self.options.resend_after * 4 } else { Instant::FAR };
    }

    /// No primary has more uncommitted than its bound and one start for each epoch; what goes beyond is a peer's error.
    fn tail_entries_max(&self) -> usize {
        self.options.tail_effects_max.saturating_mul(2).saturating_add(1024)
    }
}

/// Whether a Prepare can be what a primary sent: epochs rise, and nothing is so high that counting on would overflow.
fn is_sane(epoch: Epoch, previous: Position, effects: &[(Epoch, Effect)]) -> bool {
    let mut newest = previous.epoch;
    previous.seq.0 < COUNTER_SANE_MAX
        && effects.iter().all(|(ordered_in, effect)| {
            let rises = *ordered_in >= newest && *ordered_in <= epoch;
            newest = *ordered_in;
            rises && effect.version().0 < COUNTER_SANE_MAX
        })
}
