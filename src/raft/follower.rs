//! What everybody does with a leader's messages.

use super::message::{AppendOutcome, INDEX_MAX, Output, Payload, PulseMessage, StreamMessage};
use super::{Entry, LogPosition, PulseSequence, Raft, Snapshot, Standing, is_sane_timing};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{LogIndex, NodeId, Term};

impl Raft {
    /// A message of a leader of `term` arrived. False where it isn't one of the present leader or a new one.
    ///
    /// Any authenticated sender is believed: whoever sends such a message has won the election of its term. That the
    /// membership known here doesn't name it, or names it as a learner, proves nothing: it may be a voter by entries
    /// that this node hasn't got yet, and it is the one who will send them.
    fn accept_leader(&mut self, from: NodeId, term: Term) -> bool {
        let is_of_this_term = term == self.term;
        if term < self.term || (is_of_this_term && matches!(self.standing, Standing::Leading(_))) {
            return false;
        }
        if is_of_this_term && self.leader.is_some_and(|leader| leader != from) {
            return false;
        }
        if !is_of_this_term || self.leader != Some(from) || !matches!(self.standing, Standing::Following) {
            self.become_follower(term, Some(from));
        }
        self.leader_heard_at = Some(self.now);
        self.promised_until = self.promised_until.max(self.now + self.timing.election);
        self.redraw_election_deadline();
        true
    }

    pub(super) fn on_heartbeat(
        &mut self,
        from: NodeId,
        term: Term,
        sequence: PulseSequence,
        matched: LogPosition,
        commit: LogIndex,
    ) {
        if term < self.term {
            // Whoever led this term doesn't know that it is over.
            return self.ack(from, sequence);
        }
        // Before anything else: an old one must not even end a campaign.
        if term == self.term && sequence <= self.heard_sequence && !is_broken(Mutant::OldHeartbeatCounts) {
            return;
        }
        if !self.accept_leader(from, term) {
            return;
        }
        self.heard_sequence = sequence;
        if is_broken(Mutant::CommitBeyondMatch) {
            self.commit_through(commit);
        } else if self.log.contains(matched) {
            self.commit_through(commit.min(matched.index));
        }
        self.ack(from, sequence);
    }

    fn ack(&mut self, to: NodeId, sequence: PulseSequence) {
        let last = self.log.last();
        let promise = self.timing.election;
        let message = PulseMessage::HeartbeatAck { term: self.term, sequence, last, promise };
        self.outputs.push_back(Output::Pulse { to, message });
    }

    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        term: Term,
        previous: LogPosition,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        if term < self.term {
            return self.answer_append(from, previous.index, self.conflict(previous.index));
        }
        if !are_well_formed(term, previous, &entries) || !self.accept_leader(from, term) {
            return;
        }
        if self.contradicts_commit(previous, &entries) {
            return;
        }
        // What is committed is the same everywhere, so an append that builds on something before the commit index
        // matches even where the log doesn't know that place any more.
        let is_known = self.log.contains(previous)
            || is_broken(Mutant::AppendWithoutMatch) && previous.index <= self.log.last().index;
        if previous.index > self.commit_index && !is_known {
            return self.answer_append(from, previous.index, self.conflict(previous.index));
        }
        let through = entries.last().map_or(previous.index, |entry| entry.index);
        self.take_entries(entries);
        self.commit_through(commit.min(through));
        let through = through.max(self.commit_index);
        self.answer_append(from, previous.index, AppendOutcome::Matched { through });
    }

    /// Whether the append would change an entry that is committed here. No correct leader sends such a one.
    fn contradicts_commit(&self, previous: LogPosition, entries: &[Entry]) -> bool {
        let places = std::iter::once(previous).chain(entries.iter().map(Entry::position));
        places
            .take_while(|place| place.index <= self.commit_index)
            .any(|place| self.log.term_at(place.index).is_some_and(|term| term != place.term))
    }

    /// Adds what is new, and first drops what it replaces. An entry that is there already is left alone: the append may
    /// be an old one, and what follows in the log newer.
    fn take_entries(&mut self, entries: Vec<Entry>) {
        let mut changed = false;
        for entry in entries {
            if entry.index <= self.commit_index || self.log.contains(entry.position()) {
                continue;
            }
            if entry.index <= self.log.last().index {
                if is_broken(Mutant::KeepConflicting) {
                    continue;
                }
                assert!(entry.index > self.commit_index, "{entry} would replace what is committed");
                self.log.truncate_from(entry.index);
            }
            self.log.append(entry);
            changed = true;
        }
        if changed {
            self.after_log_changed();
        }
    }

    /// What this log has instead of an entry at `index`.
    fn conflict(&self, index: LogIndex) -> AppendOutcome {
        let last = self.log.last();
        let found = match self.log.term_at(index) {
            Some(term) => LogPosition::new(index, term),
            None => last,
        };
        AppendOutcome::Conflict { found, first_of_term: self.log.first_of_term(found.term).min(found.index) }
    }

    fn answer_append(&mut self, to: NodeId, previous: LogIndex, outcome: AppendOutcome) {
        let message = StreamMessage::AppendAnswer { term: self.term, previous, outcome };
        self.outputs.push_back(Output::Stream { to, message });
    }

    pub(super) fn on_install_snapshot(&mut self, from: NodeId, term: Term, snapshot: Snapshot) {
        let position = snapshot.position();
        let sane = snapshot.membership.is_sane()
            && is_sane_timing(&snapshot.timing)
            && snapshot.term <= term
            && snapshot.index <= INDEX_MAX;
        if !sane || (term >= self.term && !self.accept_leader(from, term)) {
            return;
        }
        if term == self.term {
            if self.log.contains(position) {
                // Everything that it stands for is here already, and known to be committed now.
                self.commit_through(position.index);
            } else if position.index > self.commit_index {
                self.restore(snapshot);
            }
        }
        let message = StreamMessage::SnapshotAnswer { term: self.term, through: self.commit_index };
        self.outputs.push_back(Output::Stream { to: from, message });
    }
}

/// Whether an append could come from a correct leader of `term`.
fn are_well_formed(term: Term, previous: LogPosition, entries: &[Entry]) -> bool {
    if previous.index > INDEX_MAX {
        return false;
    }
    let mut before = previous;
    entries.iter().all(|entry| {
        let follows = entry.index == before.index.next() && entry.term >= before.term && entry.term <= term;
        before = entry.position();
        follows
            && match &entry.payload {
                Payload::Members(members) => members.is_sane(),
                Payload::Timing(timing) => is_sane_timing(timing),
                Payload::Noop | Payload::Command(_) => true,
            }
    })
}
