//! What goes over the wire, and what goes into the log.

use std::fmt;
use std::time::Duration;

use bincode::{Decode, Encode};

use super::Membership;
use crate::base::{Blob, LogIndex, NodeId, Term, Timing};

/// A term that no real cluster reaches (at one election a nanosecond it would take a century). A message that names a
/// later one is dropped, so that nobody can push a node's term to where counting on would overflow.
pub(super) const TERM_MAX: Term = Term(1 << 61);
/// The same for places in the log.
pub(super) const INDEX_MAX: LogIndex = LogIndex(1 << 61);

/// A place in a log together with the term of the entry there. Its order is the order of "more recent" in the paper
/// (section 5.4.1): the later last term wins, then the longer log. So the field order matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LogPosition {
    /// The term of the entry.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

impl LogPosition {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };

    /// The entry at `index`, which has `term`.
    #[must_use]
    pub const fn new(index: LogIndex, term: Term) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The number of one heartbeat from one leader to one peer within one term. It rises, with gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct PulseSequence(pub u64);

impl PulseSequence {
    /// Before the first heartbeat of a term.
    pub const ZERO: Self = Self(0);

    /// The number `steps` further on.
    #[must_use]
    pub const fn advanced(self, steps: u64) -> Self {
        Self(self.0.saturating_add(steps))
    }
}

impl fmt::Display for PulseSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Payload {
    /// Nothing: by a new leader's first entry it learns what is committed, by later ones whether streams work.
    Noop,
    /// Who the members are from here on.
    Members(Membership),
    /// The times that everybody keeps from here on.
    Timing(Timing),
    /// A command of the state machine above; opaque here.
    Command(Blob),
}

impl Payload {
    /// About how many bytes it takes on the wire and in memory.
    pub(super) fn size_bytes(&self) -> usize {
        // An index, a term, a tag and a length; a member is a slot and 16 bytes of incarnation.
        const OVERHEAD: usize = 32;
        const MEMBER: usize = 18;
        OVERHEAD
            + match self {
                Self::Noop => 0,
                Self::Timing(_) => 60,
                Self::Command(command) => command.len(),
                Self::Members(members) => {
                    MEMBER * (members.voters.len() + members.outgoing.len() + members.learners.len())
                }
            }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noop => f.write_str("noop"),
            Self::Members(members) => write!(f, "members {members}"),
            Self::Timing(timing) => write!(f, "timing {:?}/{:?}", timing.heartbeat, timing.election),
            Self::Command(command) => write!(f, "{command:?}"),
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Its place.
    pub index: LogIndex,
    /// The term of the leader that appended it first.
    pub term: Term,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// Its place and term.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        LogPosition::new(self.index, self.term)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.position(), self.payload)
    }
}

/// What replaces the entries through `index`. It travels in one stream frame: the control state is small.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// The last entry that it stands for.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The membership in force there.
    pub membership: Membership,
    /// The times in force there.
    pub timing: Timing,
    /// The state of the machine above, with every entry through `index` applied.
    pub state: Blob,
}

impl Snapshot {
    /// The place of the last entry that it stands for.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        LogPosition::new(self.index, self.term)
    }
}

/// What a node says to a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// Yes.
    Granted,
    /// Not now: it has heard from a leader a short while ago. Asking again later may help.
    Promised,
    /// No, and it stays no for this term: it voted for another one, or its own log or term is ahead.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "granted",
            Self::Promised => "promised",
            Self::Refused => "refused",
        })
    }
}

/// A message of the pulse plane: it may be lost, doubled, reordered or late. Each fits a datagram many times over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PulseMessage {
    /// "I lead." The leader to everybody in the membership.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// Rising: a doubled or late heartbeat is recognised by it.
        sequence: PulseSequence,
        /// The last entry that the addressee is known to share with the leader.
        matched: LogPosition,
        /// The leader's commit index, at most `matched`.
        commit: LogIndex,
    },
    /// The answer.
    HeartbeatAck {
        /// The answerer's term.
        term: Term,
        /// The heartbeat's.
        sequence: PulseSequence,
        /// The answerer's last entry.
        last: LogPosition,
        /// How long, from this heartbeat's arrival, the answerer votes for nobody else.
        promise: Duration,
    },
    /// "Would you vote for me?" Changes nothing at the addressee.
    PreVote {
        /// The term that the asker would campaign in: one above its own.
        proposed: Term,
        /// Its last entry.
        last: LogPosition,
    },
    /// The answer.
    PreVoteAnswer {
        /// The answerer's own term.
        term: Term,
        /// The term asked about.
        proposed: Term,
        /// What it would do.
        verdict: Verdict,
    },
    /// "Vote for me."
    Vote {
        /// The candidate's term.
        term: Term,
        /// Its last entry.
        last: LogPosition,
        /// The old leader asked for this election: a promise to it is no reason to refuse.
        transfer: bool,
    },
    /// The answer.
    VoteAnswer {
        /// The answerer's own term.
        term: Term,
        /// The term that was asked about.
        asked: Term,
        /// What it did.
        verdict: Verdict,
    },
}

impl PulseMessage {
    /// The latest term that it names.
    pub(super) const fn term(&self) -> Term {
        match self {
            Self::Heartbeat { term, .. }
            | Self::HeartbeatAck { term, .. }
            | Self::PreVoteAnswer { term, .. }
            | Self::Vote { term, .. }
            | Self::VoteAnswer { term, .. } => *term,
            Self::PreVote { proposed, .. } => *proposed,
        }
    }
}

impl fmt::Display for PulseMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat { term, sequence, matched, commit } => {
                write!(f, "heartbeat #{sequence} term={term} matched={matched} commit={commit}")
            }
            Self::HeartbeatAck { term, sequence, last, .. } => {
                write!(f, "heartbeat-ack #{sequence} term={term} last={last}")
            }
            Self::PreVote { proposed, last } => write!(f, "pre-vote proposed={proposed} last={last}"),
            Self::PreVoteAnswer { term, proposed, verdict } => {
                write!(f, "pre-vote-answer {verdict} term={term} proposed={proposed}")
            }
            Self::Vote { term, last, transfer } => {
                write!(f, "vote term={term} last={last}{}", if *transfer { " transfer" } else { "" })
            }
            Self::VoteAnswer { term, asked, verdict } => write!(f, "vote-answer {verdict} term={term} asked={asked}"),
        }
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AppendOutcome {
    /// The answerer's log equals the leader's through `through`.
    Matched {
        /// The last entry known to be shared.
        through: LogIndex,
    },
    /// The answerer doesn't have the entry that the append builds on.
    Conflict {
        /// What it has instead: its entry at that index, or its last entry where its log ends before.
        found: LogPosition,
        /// The first index of that term in its log, so that the leader can skip the whole term.
        first_of_term: LogIndex,
    },
}

/// A message of the stream plane: in order within a connection, and lost with it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StreamMessage {
    /// Entries to append; none where it only probes, or only tells the commit index.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry before the first of `entries`.
        previous: LogPosition,
        /// The entries, contiguous.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The answer.
    AppendAnswer {
        /// The answerer's term.
        term: Term,
        /// The index of the append's `previous`, so that an old answer is recognised.
        previous: LogIndex,
        /// What became of it.
        outcome: AppendOutcome,
    },
    /// Instead of entries that the leader doesn't have any more.
    InstallSnapshot {
        /// The leader's term.
        term: Term,
        /// All of it.
        snapshot: Snapshot,
    },
    /// The answer.
    SnapshotAnswer {
        /// The answerer's term.
        term: Term,
        /// The answerer's log equals the leader's through here.
        through: LogIndex,
    },
    /// "Campaign at once": the leader hands over.
    TimeoutNow {
        /// The leader's term.
        term: Term,
        /// Void once the addressee has seen a heartbeat with a later number: the leader gave up in between.
        valid_through: PulseSequence,
    },
}

impl StreamMessage {
    /// The sender's term.
    pub(super) const fn term(&self) -> Term {
        match self {
            Self::Append { term, .. }
            | Self::AppendAnswer { term, .. }
            | Self::InstallSnapshot { term, .. }
            | Self::SnapshotAnswer { term, .. }
            | Self::TimeoutNow { term, .. } => *term,
        }
    }
}

impl fmt::Display for StreamMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { term, previous, entries, commit } => {
                write!(f, "append term={term} previous={previous} commit={commit} [")?;
                for (nth, entry) in entries.iter().enumerate() {
                    write!(f, "{}{entry}", if nth == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::AppendAnswer { term, outcome: AppendOutcome::Matched { through }, .. } => {
                write!(f, "append-answer term={term} matched through {through}")
            }
            Self::AppendAnswer { term, outcome: AppendOutcome::Conflict { found, first_of_term }, .. } => {
                write!(f, "append-answer term={term} conflict: has {found}, that term from {first_of_term}")
            }
            Self::InstallSnapshot { term, snapshot } => {
                write!(f, "install-snapshot term={term} through {}", snapshot.position())
            }
            Self::SnapshotAnswer { term, through } => write!(f, "snapshot-answer term={term} through {through}"),
            Self::TimeoutNow { term, .. } => write!(f, "timeout-now term={term}"),
        }
    }
}

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RaftRole {
    /// Receives the log and has no say: it never was a voter, or isn't one any more.
    Learner,
    /// A voter that follows, or waits for, a leader.
    Follower,
    /// Asks whether a campaign would succeed.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this as a datagram.
    Pulse {
        /// To whom.
        to: NodeId,
        /// What.
        message: PulseMessage,
    },
    /// Send this over the connection to `to`; drop it where there is none.
    Stream {
        /// To whom.
        to: NodeId,
        /// What.
        message: StreamMessage,
    },
    /// Apply this entry. In log order, each exactly once.
    Committed(Entry),
    /// Replace the applied state. The next committed entry is the one after it.
    Restore(Snapshot),
    /// The role, the term or the known leader is another one now.
    RoleChanged {
        /// What this node is now.
        role: RaftRole,
        /// Its term.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
}
