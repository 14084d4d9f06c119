//! One machine without a network.

use std::time::Duration;

use crate::base::{Blob, Instant, LogIndex, Rng, Term, Timing};
use crate::raft::testing::{command, name, node, nodes};
use crate::raft::{
    AppendOutcome, Entry, LogPosition, Membership, Output, Payload, PulseMessage, PulseSequence, Raft, RaftOptions,
    RaftRole, Snapshot, StreamMessage, Verdict,
};

/// One machine without a network: what goes in is written by the test, what comes out is text.
pub(super) struct Lone {
    pub(super) raft: Raft,
    pub(super) now: Instant,
}

impl Lone {
    /// Node 1 of the founders `voters`.
    pub(super) fn founder(voters: &[u8]) -> Self {
        let now = Instant(1_000_000_000);
        let options = RaftOptions::new(node(1), Timing::default());
        let members = Membership::of_voters(nodes(voters));
        let mut lone = Self { raft: Raft::founder(options, members, now, Rng::new(1)), now };
        lone.drain();
        lone
    }

    /// Node 1, which knows nothing.
    pub(super) fn learner() -> Self {
        let now = Instant(1_000_000_000);
        let options = RaftOptions::new(node(1), Timing::default());
        Self { raft: Raft::learner(options, now, Rng::new(1)), now }
    }

    /// Node 1 of `voters`, which follows node 2 in the last of `terms`; its log has one entry of each of them, the first
    /// `committed` of which it knows to be committed.
    pub(super) fn follower(voters: &[u8], terms: &[u64], committed: u64) -> Self {
        let mut lone = Self::founder(voters);
        let entries = (1..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
        lone.append(2, *terms.last().expect("a term"), (0, 0), entries, committed);
        lone
    }

    /// Node 1 of `voters` as the leader of the term after the last of `terms`, with a log as [`Lone::follower`] has it,
    /// elected by all others. Its first own entry is appended and not committed.
    pub(super) fn leader(voters: &[u8], terms: &[u64], committed: u64) -> Self {
        let mut lone = match terms {
            [] => Self::founder(voters),
            terms => Self::follower(voters, terms, committed),
        };
        lone.campaign();
        let term = lone.raft.term().0 + 1;
        lone.grant_from(voters, term, true);
        lone.grant_from(voters, term, false);
        assert_eq!(lone.raft.role(), RaftRole::Leader);
        lone
    }

    /// A leader whose first entry is committed: at index 1, with acks and answers from all others.
    pub(super) fn ready_leader(voters: &[u8]) -> Self {
        let mut lone = Self::leader(voters, &[], 0);
        for other in voters.iter().filter(|other| **other != 1) {
            lone.ack(*other, 1, (0, 0));
            lone.matched(*other, 0, 1);
        }
        assert!(lone.raft.is_ready_leader());
        lone
    }

    /// Lets the wait for a leader end.
    pub(super) fn campaign(&mut self) -> Vec<String> {
        self.now = self.now.max(self.raft.poll_timeout());
        self.raft.handle_timeout(self.now);
        self.drain()
    }

    /// The nodes `from` would vote, or do vote, for node 1 in `term`.
    pub(super) fn grant_from(&mut self, from: &[u8], term: u64, is_pre: bool) -> Vec<String> {
        let (own, asked, verdict) = (self.raft.term(), Term(term), Verdict::Granted);
        let message = match is_pre {
            true => PulseMessage::PreVoteAnswer { term: own, proposed: asked, verdict },
            false => PulseMessage::VoteAnswer { term: asked, asked, verdict },
        };
        from.iter().filter(|from| **from != 1).flat_map(|from| self.pulse(*from, message.clone())).collect()
    }

    pub(super) fn pulse(&mut self, from: u8, message: PulseMessage) -> Vec<String> {
        self.raft.handle_pulse(self.now, node(from), message);
        self.drain()
    }

    pub(super) fn stream(&mut self, from: u8, message: StreamMessage) -> Vec<String> {
        self.raft.handle_stream(self.now, node(from), message);
        self.drain()
    }

    pub(super) fn append(
        &mut self,
        from: u8,
        term: u64,
        previous: (u64, u64),
        entries: Vec<Entry>,
        commit: u64,
    ) -> Vec<String> {
        let (term, previous, commit) = (Term(term), position(previous), LogIndex(commit));
        self.stream(from, StreamMessage::Append { term, previous, entries, commit })
    }

    pub(super) fn heartbeat(&mut self, from: u8, term: u64, sequence: u64) -> Vec<String> {
        let (term, sequence) = (Term(term), PulseSequence(sequence));
        let (matched, commit) = (LogPosition::ZERO, LogIndex::ZERO);
        self.pulse(from, PulseMessage::Heartbeat { term, sequence, matched, commit })
    }

    pub(super) fn vote(&mut self, from: u8, term: u64, last: (u64, u64), transfer: bool) -> Vec<String> {
        self.pulse(from, PulseMessage::Vote { term: Term(term), last: position(last), transfer })
    }

    pub(super) fn pre_vote(&mut self, from: u8, proposed: u64, last: (u64, u64)) -> Vec<String> {
        self.pulse(from, PulseMessage::PreVote { proposed: Term(proposed), last: position(last) })
    }

    /// An ack of heartbeat `sequence` in the leader's own term.
    pub(super) fn ack(&mut self, from: u8, sequence: u64, last: (u64, u64)) -> Vec<String> {
        let (term, sequence, last) = (self.raft.term(), PulseSequence(sequence), position(last));
        self.pulse(from, PulseMessage::HeartbeatAck { term, sequence, last, promise: self.raft.timing().election })
    }

    /// The answer to an append of the leader's own term that matched.
    pub(super) fn matched(&mut self, from: u8, previous: u64, through: u64) -> Vec<String> {
        let outcome = AppendOutcome::Matched { through: LogIndex(through) };
        let (term, previous) = (self.raft.term(), LogIndex(previous));
        self.stream(from, StreamMessage::AppendAnswer { term, previous, outcome })
    }

    /// Lets time pass, with the timer served on the way.
    pub(super) fn wait(&mut self, duration: Duration) -> Vec<String> {
        let end = self.now + duration;
        let mut texts = Vec::new();
        while self.raft.poll_timeout() <= end {
            self.now = self.now.max(self.raft.poll_timeout());
            self.raft.handle_timeout(self.now);
            texts.extend(self.drain());
        }
        self.now = end;
        texts
    }

    pub(super) fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.raft.poll_output()).map(|output| describe(&output)).collect()
    }
}

/// An output as tests write it: `n2 <- message`.
pub(super) fn describe(output: &Output) -> String {
    match output {
        Output::Pulse { to, message } => format!("{} <- {message}", name(*to)),
        Output::Stream { to, message } => format!("{} <- {message}", name(*to)),
        Output::Committed(entry) => format!("commits {entry}"),
        Output::Restore(snapshot) => format!("restores {}", snapshot.position()),
        Output::RoleChanged { role, term, leader } => {
            format!("{role:?} in term {term}, led by {}", leader.map_or_else(|| "nobody".to_owned(), name))
        }
    }
}

pub(super) const fn position((index, term): (u64, u64)) -> LogPosition {
    LogPosition::new(LogIndex(index), Term(term))
}

/// An entry with a command that names its place.
pub(super) fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(command(&format!("{index}@{term}")));
    Entry { index: LogIndex(index), term: Term(term), payload }
}

/// A snapshot of what ends there, with the members that the log had there.
pub(super) fn snapshot(index: u64, term: u64, voters: &[u8]) -> Snapshot {
    let (position, membership) = (position((index, term)), Membership::of_voters(nodes(voters)));
    let state = Blob::from_static(b"state");
    Snapshot { index: position.index, term: position.term, membership, timing: Timing::default(), state }
}
