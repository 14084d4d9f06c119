//! How entries reach the peers and become committed: the leader's side.

use std::collections::BTreeSet;

use super::leader::Leading;
use super::message::{AppendOutcome, Output, Payload};
use super::progress::{Progress, Sending};
use super::{Entry, LogPosition, Membership, ProposeError, Raft, Standing};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{LogIndex, NodeId, Term};

/// Entries that a leader keeps uncommitted; one more proposal is answered with [`ProposeError::Busy`].
pub const UNCOMMITTED_ENTRIES_MAX: usize = 4096;
/// Their bytes. More than any healthy cluster has in flight, less than would hurt.
pub const UNCOMMITTED_BYTES_MAX: usize = 8 << 20;
/// One command. It travels in one append, which travels in one stream frame.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

impl Raft {
    /// A leader's first entry. Where the log is empty it states the membership that the founders began with, so that
    /// whoever receives the log from its first entry on learns of it; else it says nothing.
    pub(super) fn append_first(&mut self) {
        let payload = match self.log.last() == LogPosition::ZERO {
            true => Payload::Members(self.membership().clone()),
            false => Payload::Noop,
        };
        self.append_own(payload);
    }

    /// Appends an entry of the own term and sends it to everybody.
    fn append_own(&mut self, payload: Payload) -> LogIndex {
        let index = self.log.last().index.next();
        let changes_members = matches!(payload, Payload::Members(_));
        if let Standing::Leading(leading) = &mut self.standing {
            leading.pending_since = leading.pending_since.or(Some(self.now));
            leading.pending_bytes += payload.size_bytes();
            if changes_members {
                leading.grace_from = self.now;
            }
        }
        self.log.append(Entry { index, term: self.term, payload });
        if changes_members {
            self.adopt_peers();
        }
        self.after_log_changed();
        self.maybe_heartbeat();
        self.send_appends();
        // Alone, it is a majority at once.
        self.maybe_commit();
        index
    }

    /// Whether `payload` may be proposed now.
    pub(super) fn propose_payload(&mut self, payload: Payload) -> Result<LogIndex, ProposeError> {
        let leading = self.check_proposable()?;
        let uncommitted = (self.log.last().index.0 - self.commit_index.0) as usize;
        let bytes = leading.pending_bytes + payload.size_bytes();
        if uncommitted >= UNCOMMITTED_ENTRIES_MAX || bytes > UNCOMMITTED_BYTES_MAX {
            return Err(ProposeError::Busy);
        }
        Ok(self.append_own(payload))
    }

    fn check_proposable(&self) -> Result<&Leading, ProposeError> {
        let Standing::Leading(leading) = &self.standing else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if leading.transfer.is_some() { Err(ProposeError::Busy) } else { Ok(leading) }
    }

    /// Proposes the membership that `change` makes of the present one.
    ///
    /// One change at a time, and only after an entry of the own term is committed: else two leaders could each change
    /// from a membership that the other doesn't know (Ongaro's message "bug in single-server membership changes" to the
    /// raft-dev list, 2015; the rule holds for joint changes just as well).
    pub(super) fn propose_members(
        &mut self,
        change: impl FnOnce(&Membership) -> Result<Membership, String>,
    ) -> Result<LogIndex, ProposeError> {
        self.check_proposable()?;
        if !self.is_ready_leader() && !is_broken(Mutant::ChangeTooEarly) {
            return Err(ProposeError::NotReady);
        }
        let is_changing = self.membership().is_joint() || self.log.memberships().latest_index() > self.commit_index;
        if is_changing && !is_broken(Mutant::TwoChanges) {
            return Err(ProposeError::Busy);
        }
        let changed = change(self.membership()).map_err(ProposeError::Refused)?;
        if !changed.is_sane() {
            return Err(ProposeError::Refused(format!("{changed} is no membership")));
        }
        self.propose_payload(Payload::Members(changed))
    }

    /// Whether every learner among `voters` has received the first entry of this leader's term. One that has nothing
    /// can't vote, so with too many of those the cluster could be left without a possible leader.
    pub(super) fn have_caught_up(&self, voters: &BTreeSet<NodeId>) -> bool {
        let Standing::Leading(leading) = &self.standing else { return true };
        let lags = |node| leading.progress.get(node).is_some_and(|peer| peer.matched().index < leading.own_entry);
        !self.membership().learners.intersection(voters).any(lags)
    }

    /// Sends what is due on the stream plane to every peer.
    pub(super) fn send_appends(&mut self) {
        let sending = self.sending();
        let Standing::Leading(leading) = &mut self.standing else { return };
        for (to, progress) in &mut leading.progress {
            while let Some(message) = progress.next_message(&self.log, sending) {
                self.outputs.push_back(Output::Stream { to: *to, message });
            }
        }
    }

    const fn sending(&self) -> Sending {
        Sending {
            now: self.now,
            term: self.term,
            commit: self.commit_index,
            append_bytes_max: self.options.append_bytes_max,
        }
    }

    pub(super) fn on_append_answer(&mut self, from: NodeId, term: Term, previous: LogIndex, outcome: AppendOutcome) {
        let Standing::Leading(leading) = &mut self.standing else { return };
        let Some(progress) = leading.progress.get_mut(&from) else { return };
        if term > self.term {
            return self.become_follower(term, None);
        }
        if term < self.term {
            return;
        }
        let is_news = match outcome {
            AppendOutcome::Matched { through } => match self.log.term_at(through) {
                Some(term) => progress.on_stream_matched(self.now, LogPosition::new(through, term)),
                // Compacted in between, so no news; or past the end of the log, which can't be true.
                None => false,
            },
            AppendOutcome::Conflict { found, first_of_term } => {
                progress.on_conflict(self.now, &self.log, previous, found, first_of_term);
                false
            }
        };
        self.after_answer(from, is_news);
    }

    pub(super) fn on_snapshot_answer(&mut self, from: NodeId, term: Term, through: LogIndex) {
        let outcome = AppendOutcome::Matched { through };
        self.on_append_answer(from, term, through, outcome);
    }

    /// A peer may have moved on: commit what a quorum has, and send it what it waits for.
    pub(super) fn after_answer(&mut self, from: NodeId, is_news: bool) {
        if is_news {
            self.maybe_commit();
            if let Standing::Leading(leading) = &self.standing
                && leading.forced.is_none()
                && leading.transfer.is_some_and(|transfer| transfer.to == from)
            {
                self.maybe_send_timeout_now();
            }
        }
        self.send_appends();
    }

    /// Commits what a quorum has, if that is an entry of the own term.
    ///
    /// An entry of an earlier term is never committed by counting (section 5.4.2, figure 8 of the paper): a majority may
    /// have it and a later leader may still overwrite it. It commits along with the first entry of the own term.
    pub(super) fn maybe_commit(&mut self) {
        let me = self.options.me;
        let last = self.log.last().index;
        let Standing::Leading(leading) = &self.standing else { return };
        let of = |node| match node == me {
            true => last,
            false => leading.progress.get(&node).map_or(LogIndex::ZERO, |progress| progress.matched().index),
        };
        let Some(reached) = self.membership().quorum_value(of) else { return };
        let is_own = self.log.term_at(reached) == Some(self.term) || is_broken(Mutant::CommitOldTerm);
        if reached <= self.commit_index || !is_own {
            return;
        }
        self.commit_through(reached);
        if let Standing::Leading(leading) = &mut self.standing {
            leading.pending_since = (reached < last).then_some(self.now);
        }
        // Tell the followers before a step down that the commit may bring.
        self.send_appends();
        self.maybe_finish_change();
    }

    /// A joint membership that is committed is followed by the one that it leads to. When that is committed, a leader
    /// that isn't in it has done its work.
    fn maybe_finish_change(&mut self) {
        if self.log.memberships().latest_index() > self.commit_index {
            return;
        }
        if self.membership().is_joint() {
            let settled = self.membership().settled();
            self.append_own(Payload::Members(settled));
        } else if !self.membership().is_voter(self.options.me) {
            let term = self.term;
            self.become_follower(term, None);
        }
    }

    /// The peer's place in the leader's books.
    pub(super) fn progress_of(&self, node: NodeId) -> Option<&Progress> {
        match &self.standing {
            Standing::Leading(leading) => leading.progress.get(&node),
            Standing::Following | Standing::Campaigning(_) => None,
        }
    }
}
