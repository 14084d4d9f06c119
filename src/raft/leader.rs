//! What a leader does: heartbeats, contact with its quorum, handing over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::{Output, PulseMessage, StreamMessage};
use super::progress::Progress;
use super::{LogPosition, ProposeError, PulseSequence, Raft, RaftRole, Standing};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, LogIndex, NodeId, Term};

/// How many heartbeat numbers a hand-over reserves: more than are ever sent to one peer within the election timeout in
/// which it must have succeeded.
const TRANSFER_SEQUENCES: u64 = 1 << 20;

/// Doublings of the time for which a leader whose stream plane stands still lets others go first: 64 election timeouts at
/// most.
const STALLS_MAX: u32 = 5;

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leading {
    /// When this began, or when the members changed last. Who leads new voters may have no acks of theirs yet and gets
    /// an election timeout's grace.
    pub(super) grace_from: Instant,
    /// The first entry of its own term.
    pub(super) own_entry: LogIndex,
    pub(super) heartbeat_at: Instant,
    /// The highest number of a heartbeat so far, to whomever. Who is let in again in the same term may have heard one as
    /// high, and hears none that isn't higher.
    pub(super) numbered: PulseSequence,
    /// Since when the entries after the commit index wait without the commit index having moved; none while there are
    /// no such entries.
    pub(super) pending_since: Option<Instant>,
    /// The bytes of those entries.
    pub(super) pending_bytes: usize,
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) transfer: Option<Transfer>,
    /// A `TimeoutNow` that may still force an election upon voters who promised not to vote.
    pub(super) forced: Option<Forced>,
}

/// A hand-over under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) deadline: Instant,
}

/// A `TimeoutNow` that was sent. Until its addressee has acked a heartbeat with a number after `valid_through`, it may
/// yet campaign with everybody's promise void; so there is no quorum contact to base leases on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forced {
    pub(super) to: NodeId,
    pub(super) valid_through: PulseSequence,
    pub(super) sent_at: Instant,
}

impl Leading {
    pub(super) const fn new(now: Instant, own_entry: LogIndex, pending_bytes: usize) -> Self {
        Self {
            grace_from: now,
            own_entry,
            heartbeat_at: now,
            numbered: PulseSequence::ZERO,
            pending_since: None,
            pending_bytes,
            progress: BTreeMap::new(),
            transfer: None,
            forced: None,
        }
    }
}

impl Raft {
    /// The latest moment such that a quorum has acked heartbeats sent then or later, this leader itself counting as now.
    pub(super) fn contact(&self) -> Option<Instant> {
        let Standing::Leading(leading) = &self.standing else { return None };
        let of = |node| match node == self.options.me {
            true => Some(self.now),
            false => leading.progress.get(&node).and_then(Progress::contact),
        };
        self.membership().quorum_value(of).flatten()
    }

    /// Until when this leader counts as in contact with its quorum. A new one has an election timeout's
    /// grace.
    pub(super) fn contact_ends_at(&self, leading: &Leading) -> Instant {
        self.contact().map_or(leading.grace_from, |contact| contact.max(leading.grace_from)) + self.timing.election
    }

    /// When a leader whose stream plane stands still steps down; never while no entry waits.
    fn stalls_at(&self, leading: &Leading) -> Instant {
        let Some(pending_since) = leading.pending_since else { return Instant::FAR };
        if is_broken(Mutant::NoStallStepDown) {
            return Instant::FAR;
        }
        let of = |node| match node == self.options.me {
            true => Some(self.now),
            false => leading.progress.get(&node).and_then(Progress::stream_heard_at),
        };
        let heard = self.membership().quorum_value(of).flatten().unwrap_or(Instant::ZERO);
        pending_since.max(heard) + self.timing.election * 2
    }

    pub(super) fn leader_deadline(&self, leading: &Leading) -> Instant {
        let transfer = leading.transfer.map_or(Instant::FAR, |transfer| transfer.deadline);
        let contact_ends = if is_broken(Mutant::NoCheckQuorum) { Instant::FAR } else { self.contact_ends_at(leading) };
        leading.heartbeat_at.min(transfer).min(contact_ends).min(self.stalls_at(leading))
    }

    pub(super) fn on_leader_timeout(&mut self) {
        let Standing::Leading(leading) = &self.standing else { return };
        let (out_of_contact, stalled) = (self.contact_ends_at(leading), self.stalls_at(leading));
        // A forced election that may still come is no danger to anybody but to leases. If its candidate stays silent,
        // a new term makes it void.
        let forced_ends = leading.forced.map_or(Instant::FAR, |forced| forced.sent_at + self.timing.election * 3);
        let is_lost = self.now >= out_of_contact && !is_broken(Mutant::NoCheckQuorum);
        if is_lost || self.now >= forced_ends {
            return self.step_down(Duration::ZERO);
        }
        if self.now >= stalled {
            // The pulse is well, so this node would win again at once, with its stream plane as dead as before: let
            // the others go first.
            let longer = self.timing.election * 2 * (1 << self.stalls);
            // One of the others may be patient, and keep them from electing anybody until this node has won again and
            // renewed its promise. So it waits for longer each time.
            self.stalls = (self.stalls + 1).min(STALLS_MAX);
            return self.step_down(longer);
        }
        if leading.transfer.is_some_and(|transfer| self.now >= transfer.deadline) {
            self.give_up_transfer();
        }
        self.maybe_heartbeat();
        self.send_appends();
    }

    /// Leads no more and lets others go first: this node is in no state to lead, though its pulse be well.
    pub(super) fn resign_now(&mut self) {
        if matches!(self.standing, Standing::Leading(_)) {
            self.step_down(self.timing.election * 2);
        }
    }

    /// Stops leading, in the same term, and waits `longer` than an election timeout before it campaigns.
    fn step_down(&mut self, longer: Duration) {
        let term = self.term;
        self.become_follower(term, None);
        self.election_deadline = self.election_deadline + longer;
    }

    pub(super) fn maybe_heartbeat(&mut self) {
        let (now, timing) = (self.now, self.timing);
        let Standing::Leading(leading) = &mut self.standing else { return };
        if now < leading.heartbeat_at {
            return;
        }
        leading.heartbeat_at = now + timing.heartbeat;
        leading.progress.retain(|_, progress| progress.leaves_at.is_none_or(|leaves_at| now < leaves_at));
        for (to, progress) in &mut leading.progress {
            progress.maybe_resend(now, &timing);
            progress.maybe_ask_over_stream(now, &timing);
            let matched = progress.matched();
            let sequence = progress.next_heartbeat(now);
            leading.numbered = leading.numbered.max(sequence);
            let message = PulseMessage::Heartbeat {
                term: self.term,
                sequence,
                matched,
                commit: match is_broken(Mutant::CommitBeyondMatch) {
                    true => self.commit_index,
                    false => self.commit_index.min(matched.index),
                },
            };
            self.outputs.push_back(Output::Pulse { to: *to, message });
        }
        self.maybe_send_timeout_now();
    }

    /// The peers are those of the membership in force. One that has just left is kept for a while, so that it learns
    /// that it has left and doesn't campaign.
    pub(super) fn adopt_peers(&mut self) {
        let everybody = self.membership().everybody();
        let next = self.log.last().index.next();
        let patience = self.timing.election * 4;
        let Standing::Leading(leading) = &mut self.standing else { return };
        for (node, progress) in &mut leading.progress {
            match everybody.contains(node) {
                true => progress.leaves_at = None,
                false => progress.leaves_at = progress.leaves_at.or(Some(self.now + patience)),
            }
        }
        for node in everybody.into_iter().filter(|node| *node != self.options.me) {
            leading.progress.entry(node).or_insert_with(|| {
                // A new peer doesn't wait for the next round.
                leading.heartbeat_at = self.now;
                let restarts = is_broken(Mutant::NumbersRestart);
                Progress::new(next, if restarts { PulseSequence::ZERO } else { leading.numbered })
            });
        }
    }

    pub(super) fn on_heartbeat_ack(
        &mut self,
        from: NodeId,
        term: Term,
        sequence: PulseSequence,
        last: LogPosition,
        promise: Duration,
    ) {
        let (now, timing) = (self.now, self.timing);
        let Standing::Leading(leading) = &mut self.standing else { return };
        let Some(progress) = leading.progress.get_mut(&from) else { return };
        if term < self.term || !progress.is_new_ack(sequence) {
            return;
        }
        if term > self.term {
            return self.become_follower(term, None);
        }
        progress.on_ack(now, sequence, promise);
        let is_news = progress.on_pulse(now, &timing, &self.log, last);
        if leading.forced.is_some_and(|forced| forced.to == from && progress.acked_sequence() > forced.valid_through) {
            leading.forced = None;
        }
        self.after_answer(from, is_news);
    }

    /// Starts handing over to `to`.
    pub(super) fn begin_transfer(&mut self, to: NodeId) -> Result<(), ProposeError> {
        let is_voter = self.membership().voters.contains(&to);
        let deadline = self.now + self.timing.election;
        let Standing::Leading(leading) = &mut self.standing else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if to == self.options.me || !is_voter {
            return Err(ProposeError::Refused(format!("{to} is not another voter")));
        }
        if leading.transfer.is_some() || leading.forced.is_some() {
            return Err(ProposeError::Busy);
        }
        leading.transfer = Some(Transfer { to, deadline });
        self.maybe_send_timeout_now();
        self.send_appends();
        Ok(())
    }

    /// Tells the heir to campaign once it has everything. Repeated with each heartbeat: connections break.
    pub(super) fn maybe_send_timeout_now(&mut self) {
        let Standing::Leading(leading) = &mut self.standing else { return };
        let Some(Transfer { to, .. }) = leading.transfer else { return };
        let Some(progress) = leading.progress.get(&to) else { return };
        if progress.matched().index < self.log.last().index {
            return;
        }
        let valid_through = progress.sequence().advanced(TRANSFER_SEQUENCES);
        let forced = leading.forced.get_or_insert(Forced { to, valid_through, sent_at: self.now });
        let message = StreamMessage::TimeoutNow { term: self.term, valid_through: forced.valid_through };
        self.outputs.push_back(Output::Stream { to, message });
    }

    /// The heir didn't take over in time. From here on heartbeats to it carry numbers past the hand-over's, so that a
    /// `TimeoutNow` that is still under way is void where one of them arrived first.
    fn give_up_transfer(&mut self) {
        let Standing::Leading(leading) = &mut self.standing else { return };
        leading.transfer = None;
        if let Some(Forced { to, valid_through, .. }) = leading.forced
            && let Some(progress) = leading.progress.get_mut(&to)
        {
            progress.skip_past(valid_through);
            leading.heartbeat_at = self.now;
        }
    }

    /// The voters whose acks make up the present contact, this leader left out.
    pub(super) fn in_contact(&self) -> BTreeSet<NodeId> {
        let (Some(contact), Standing::Leading(leading)) = (self.contact(), &self.standing) else {
            return BTreeSet::new();
        };
        let reached = |node: &NodeId| leading.progress.get(node).is_some_and(|peer| peer.contact() >= Some(contact));
        self.membership().all_voters().into_iter().filter(reached).collect()
    }

    /// Begins to lead: heartbeats to everybody and an entry of the own term, without which nothing commits.
    pub(super) fn become_leader(&mut self) {
        let own_entry = self.log.last().index.next();
        self.leader = Some(self.options.me);
        self.leader_heard_at = None;
        let pending_bytes = self.log.bytes_after(self.commit_index);
        self.standing = Standing::Leading(Leading::new(self.now, own_entry, pending_bytes));
        debug_assert_eq!(self.role(), RaftRole::Leader);
        self.report_role();
        self.adopt_peers();
        // The heartbeats go first: they end the other campaigns.
        self.maybe_heartbeat();
        self.append_first();
    }
}
