//! Consensus: one small log, the same on every node.
//!
//! Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014; Ongaro's dissertation,
//! "Consensus: Bridging Theory and Practice", 2014) with pre-vote, check-quorum, joint changes of members, learners,
//! transfer of leadership and snapshots. What the log says is opaque here; it holds no user data.
//!
//! [`Raft`] is one member's machine. It is pure: `handle_pulse`, `handle_stream`, `handle_timeout`, the proposals and
//! `compact` take one input each, `poll_output` drains what it caused, `poll_timeout` says when time itself is the next
//! input. Nothing is written to disk: an identity is one life of a process ([`NodeId`]), so a vote or an answer can't be
//! forgotten by the one who gave it. Who restarts is somebody else, begins as a learner that knows nothing, and takes
//! its predecessor's place by a change of members.
//!
//! # Roles
//!
//! | [`RaftRole`] | does |
//! |---|---|
//! | Learner | takes the log; never campaigns; votes for nobody while it knows no members (`election` tells why it may later) |
//! | Follower | a voter that takes the log, acks heartbeats, and promises with each ack to vote for nobody else for a while |
//! | PreCandidate | has heard from no leader for the election timeout E and a random part; asks who would vote for it |
//! | Candidate | would win, so it raises the term and asks for votes |
//! | Leader | sends heartbeats, replicates its log, commits what a quorum has; steps down where it loses touch |
//!
//! # Two planes
//!
//! | message | plane | why there |
//! |---|---|---|
//! | Heartbeat, HeartbeatAck | pulse | small, and worthless when late: silence is noticed in a fraction of a second, whatever bulk is under way |
//! | PreVote, Vote, their answers | pulse | the same; repeated until it is decided |
//! | Append, AppendAnswer | stream | order and flow control |
//! | InstallSnapshot, SnapshotAnswer | stream | size |
//! | TimeoutNow | stream | rare, and not to be lost lightly |
//!
//! The pulse plane may lose, double, reorder and delay. So heartbeats are numbered, an old number changes nothing, and
//! an ack counts from the moment when its heartbeat was *sent*. The stream plane keeps order while a connection lives,
//! and loses what is under way when it breaks. So the two watch each other:
//!
//! - An ack names the follower's last entry. Where the leader doesn't have that entry, or has sent more, and nothing
//!   under way explains it, a probe goes over the stream at once (`progress`).
//! - A leader whose stream plane stands still for twice E while entries wait steps down, and lets others go first, though
//!   its pulse be well: nobody else would ever campaign.
//! - A leader that has no quorum contact on the pulse plane for E steps down, though its stream be well.
//!
//! # Who has a say
//!
//! The membership in force is the latest one in the log, committed or not. A change of voters is joint
//! ([`Membership`]). One change is in flight at a time, and none before the leader has committed an entry of its own
//! term. The very first entry of a log states the membership that the founders began with, so the log alone tells
//! everything to whoever gets it from the start.
//!
//! # Promises and leases
//!
//! Who hears from a leader votes for nobody for E from then on, whatever term is asked for, and doesn't take that term
//! over. A leader in contact doesn't either, nor for E after its last contact when it leads no more. So from
//! [`Raft::quorum_contact`] on there is no other leader for E, and a lease of [`Raft::lease`] < E from that moment is
//! safe (within what the clocks drift). A hand-over breaks promises on purpose: see [`Raft::transfer`]. All who promise
//! by a longer E than the log's latest, because they have entries that aren't committed, because they gave their word
//! before or because they are patient ([`Raft::be_patient`]), keep the longer one ([`Raft::timing`]). An ack says for how
//! long its sender promises, and leases go by that ([`Raft::promised`]). Nobody campaigns before its own promise is over.
//!
//! # Invariants
//!
//! Checked on one machine by [`Raft::check_invariants`], and over all machines after every input by the tests (`testing`):
//! one leader a term; a leader only appends; two entries with the same index and term are the same, and so is all
//! before them; whoever leads has everything that is committed; what is committed never changes; and nobody else leads
//! while a lease may be valid. `handle_` asserts a few of these on the way and panics where they fail, but no message
//! makes it fail: what can't be true is dropped.
//!
//! # Bounds
//!
//! A leader takes no proposal beyond [`UNCOMMITTED_ENTRIES_MAX`] or [`UNCOMMITTED_BYTES_MAX`]; appends are cut to
//! [`RaftOptions::append_bytes_max`] with so many in flight to each peer. The log grows until the caller calls
//! [`Raft::compact`], and a snapshot is sent in one frame, so its state must be well below
//! [`FRAME_BYTES_MAX`](crate::base::limits::FRAME_BYTES_MAX).
//!
//! # Left out
//!
//! Reads: who needs one uses a lease, or proposes a command. Flexible quorums: a commit by half would forget who was in
//! sync. Disks. Witnesses. Forwarding of proposals: [`ProposeError::NotLeader`] names the leader. Automatic promotion of
//! learners and demotion of silent voters: those are policies of the layer above, which sees [`Raft::match_index`] and
//! [`Raft::peer_acked_at`].

mod election;
mod follower;
mod leader;
mod log;
mod membership;
mod message;
mod options;
mod progress;
mod quorum;
mod replication;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub use membership::Membership;
pub use message::{
    AppendOutcome, Entry, LogPosition, Output, Payload, PulseMessage, PulseSequence, RaftRole, Snapshot, StreamMessage,
    Verdict,
};
pub use options::{ProposeError, RaftOptions};
pub use replication::{COMMAND_BYTES_MAX, UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ENTRIES_MAX};

use crate::base::{Blob, Instant, LogIndex, NodeId, Rng, Term, Timing};
use election::Campaign;
use leader::Leading;
use log::Log;
use message::TERM_MAX;
use options::is_sane_timing;
use progress::Progress;

/// What a node is occupied with.
#[derive(Debug)]
enum Standing {
    Following,
    Campaigning(Campaign),
    Leading(Leading),
}

/// One member's consensus machine.
#[derive(Debug)]
pub struct Raft {
    options: RaftOptions,
    rng: Rng,
    /// The latest moment that the caller told of.
    now: Instant,
    term: Term,
    voted_for: Option<NodeId>,
    leader: Option<NodeId>,
    leader_heard_at: Option<Instant>,
    /// The latest heartbeat of this term's leader.
    heard_sequence: PulseSequence,
    /// Until then it votes for nobody.
    promised_until: Instant,
    election_deadline: Instant,
    standing: Standing,
    /// How often it stepped down because its stream plane stood still, since it last committed anything as leader.
    stalls: u32,
    log: Log,
    commit_index: LogIndex,
    /// The times kept now: of all that are in force somewhere, the safest of each.
    timing: Timing,
    /// Longer waits that this node keeps by itself.
    patience: Option<Timing>,
    /// What the caller was told last.
    reported: (RaftRole, Term, Option<NodeId>),
    outputs: VecDeque<Output>,
}

impl Raft {
    /// A voter of a newly founded cluster: an empty log, term 0. All founders must be given the same `membership`.
    #[must_use]
    pub fn founder(options: RaftOptions, membership: Membership, now: Instant, rng: Rng) -> Self {
        assert!(membership.is_sane(), "a cluster can't be founded with {membership}");
        let timing = options.timing;
        let nothing = Snapshot { index: LogIndex::ZERO, term: Term::ZERO, membership, timing, state: Blob::default() };
        Self::new(options, nothing, now, rng)
    }

    /// The only voter of a log that begins with `snapshot`: what an operator makes of a survivor when a majority is lost.
    /// It elects itself.
    #[must_use]
    pub fn survivor(options: RaftOptions, snapshot: Snapshot, now: Instant, rng: Rng) -> Self {
        let alone = Membership::of_voters(BTreeSet::from([options.me]));
        Self::new(options, Snapshot { membership: alone, ..snapshot }, now, rng)
    }

    /// A process that knows nothing. It takes the log from whoever leads, and has no say until that log says so.
    #[must_use]
    pub fn learner(options: RaftOptions, now: Instant, rng: Rng) -> Self {
        let timing = options.timing;
        let nothing = Snapshot {
            index: LogIndex::ZERO,
            term: Term::ZERO,
            membership: Membership::default(),
            timing,
            state: Blob::default(),
        };
        Self::new(options, nothing, now, rng)
    }

    fn new(options: RaftOptions, before: Snapshot, now: Instant, rng: Rng) -> Self {
        let timing = before.timing;
        assert!(is_sane_timing(&timing), "times that can't work: {timing:?}");
        let mut raft = Self {
            options,
            rng,
            now,
            term: before.term,
            voted_for: None,
            leader: None,
            leader_heard_at: None,
            heard_sequence: PulseSequence::ZERO,
            promised_until: now,
            election_deadline: Instant::FAR,
            standing: Standing::Following,
            stalls: 0,
            commit_index: before.index,
            log: Log::new(before),
            timing,
            patience: None,
            reported: (RaftRole::Learner, Term::ZERO, None),
            outputs: VecDeque::new(),
        };
        if raft.is_eligible() {
            raft.redraw_election_deadline();
        }
        raft.report_role();
        raft
    }

    /// Takes a datagram of `from`, whose identity the caller has verified.
    pub fn handle_pulse(&mut self, now: Instant, from: NodeId, message: PulseMessage) {
        self.advance(now);
        if message.term() > TERM_MAX || from == self.options.me {
            return;
        }
        match message {
            PulseMessage::Heartbeat { term, sequence, matched, commit } => {
                self.on_heartbeat(from, term, sequence, matched, commit);
            }
            PulseMessage::HeartbeatAck { term, sequence, last, promise } => {
                self.on_heartbeat_ack(from, term, sequence, last, promise);
            }
            PulseMessage::PreVote { proposed, last } => self.on_pre_vote(from, proposed, last),
            PulseMessage::PreVoteAnswer { term, proposed, verdict } => {
                self.on_pre_vote_answer(from, term, proposed, verdict);
            }
            PulseMessage::Vote { term, last, transfer } => self.on_vote(from, term, last, transfer),
            PulseMessage::VoteAnswer { term, asked, verdict } => self.on_vote_answer(from, term, asked, verdict),
        }
        self.finish();
    }

    /// Takes a message of the stream plane of `from`, whose identity the caller has verified.
    pub fn handle_stream(&mut self, now: Instant, from: NodeId, message: StreamMessage) {
        self.advance(now);
        if message.term() > TERM_MAX || from == self.options.me {
            return;
        }
        match message {
            StreamMessage::Append { term, previous, entries, commit } => {
                self.on_append(from, term, previous, entries, commit);
            }
            StreamMessage::AppendAnswer { term, previous, outcome } => {
                self.on_append_answer(from, term, previous, outcome);
            }
            StreamMessage::InstallSnapshot { term, snapshot } => self.on_install_snapshot(from, term, snapshot),
            StreamMessage::SnapshotAnswer { term, through } => self.on_snapshot_answer(from, term, through),
            StreamMessage::TimeoutNow { term, valid_through } => self.on_timeout_now(from, term, valid_through),
        }
        self.finish();
    }

    /// Lets time pass. It may be called at any time; [`Raft::poll_timeout`] says when it must be.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        match &self.standing {
            Standing::Following => self.on_follower_timeout(),
            Standing::Campaigning(_) => self.on_campaign_timeout(),
            Standing::Leading(_) => self.on_leader_timeout(),
        }
        self.finish();
    }

    /// When [`Raft::handle_timeout`] is due next; [`Instant::FAR`] where only a message can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        match &self.standing {
            Standing::Following => self.election_deadline,
            Standing::Campaigning(campaign) => campaign.resend_at.min(campaign.deadline),
            Standing::Leading(leading) => self.leader_deadline(leading),
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn finish(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Proposes a command. It is appended and sent at once; [`Output::Committed`] tells that it is decided, and its
    /// index and term that it is this one: after a change of leaders another command may take its index.
    ///
    /// A new leader may propose before it is ready: the command commits along with the leader's first entry.
    pub fn propose(&mut self, now: Instant, command: Blob) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        if command.len() > COMMAND_BYTES_MAX {
            let length = command.len();
            return Err(ProposeError::Refused(format!("{length} bytes, where {COMMAND_BYTES_MAX} are allowed")));
        }
        let proposed = self.propose_payload(Payload::Command(command));
        self.finish();
        proposed
    }

    /// Proposes an entry that says nothing: whoever takes it has a stream plane that works.
    pub fn propose_noop(&mut self, now: Instant) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        let proposed = self.propose_payload(Payload::Noop);
        self.finish();
        proposed
    }

    /// Proposes other times for everybody.
    pub fn propose_timing(&mut self, now: Instant, timing: Timing) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        if !is_sane_timing(&timing) {
            return Err(ProposeError::Refused(format!("times that can't work: {timing:?}")));
        }
        let proposed = self.propose_payload(Payload::Timing(timing));
        self.finish();
        proposed
    }

    /// Proposes `node` as a learner. It replaces a learner of another incarnation in the same slot; a voter there stays.
    pub fn propose_learner(&mut self, now: Instant, node: NodeId) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        let proposed = self.propose_members(|members| match members.contains(node) {
            true => Err(format!("{node} is a member already")),
            false => Ok(members.with_learner(node)),
        });
        self.finish();
        proposed
    }

    /// Proposes that the learner `node` be a member no more.
    pub fn propose_drop_learner(&mut self, now: Instant, node: NodeId) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        let proposed = self.propose_members(|members| match members.learners.contains(&node) {
            true => Ok(members.without_learner(node)),
            false => Err(format!("{node} is no learner")),
        });
        self.finish();
        proposed
    }

    /// Proposes that exactly `voters` vote, each of whom must be a voter or a learner now. The change is joint; the
    /// leader itself ends it when the joint membership is committed. Voters that are left out are members no more.
    ///
    /// A learner must have received the first entry of this leader's term. How far behind it may still be is the
    /// caller's to judge ([`Raft::match_index`]): until it has caught up, it can't help to commit anything.
    pub fn propose_voters(&mut self, now: Instant, voters: BTreeSet<NodeId>) -> Result<LogIndex, ProposeError> {
        self.advance(now);
        if !self.have_caught_up(&voters) {
            return Err(ProposeError::NotReady);
        }
        let proposed = self.propose_members(|members| {
            if voters == members.voters {
                return Err("these are the voters already".to_owned());
            }
            match voters.iter().find(|voter| !members.contains(**voter)) {
                Some(stranger) => Err(format!("{stranger} is neither a voter nor a learner")),
                None => Ok(members.joint(&voters)),
            }
        });
        self.finish();
        proposed
    }

    /// Hands over to the voter `to`: no proposals are taken, `to` is caught up and then told to campaign at once. Given
    /// up after an election timeout.
    ///
    /// The votes of that campaign break promises, so leases that are based on them must be over before: stop granting
    /// them and wait until then. [`Raft::quorum_contact`] is none from the moment when the election may begin.
    pub fn transfer(&mut self, now: Instant, to: NodeId) -> Result<(), ProposeError> {
        self.advance(now);
        let begun = self.begin_transfer(to);
        self.finish();
        begun
    }

    /// Leads no more, and lets the others go first. Unlike a transfer it breaks no promise: somebody else is elected when
    /// those have run out.
    pub fn resign(&mut self, now: Instant) {
        self.advance(now);
        self.resign_now();
        self.finish();
    }

    /// Replaces the entries through `through`, which must be committed, by `state`: the state of the machine above with
    /// all of them applied. It does nothing where a later snapshot exists.
    pub fn compact(&mut self, through: LogIndex, state: Blob) {
        let commit = self.commit_index;
        assert!(through <= commit, "compaction through {through}, but only {commit} is committed");
        if through > self.log.snapshot().index {
            self.log.compact(through, state);
        }
        self.finish();
    }

    /// The latest term that this node knows.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Who got this node's vote in that term, if anybody did.
    #[must_use]
    pub const fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The leader of that term, if known. It may be this node.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The membership in force: the latest in the log, committed or not.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.log.memberships().latest()
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last().index
    }

    /// The term there.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.log.last().term
    }

    /// The last index that this node knows to be committed.
    #[must_use]
    pub const fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last index that the snapshot stands for; 0 where there is none.
    #[must_use]
    pub const fn snapshot_index(&self) -> LogIndex {
        self.log.snapshot().index
    }

    /// How many entries are kept.
    #[must_use]
    pub fn log_length(&self) -> usize {
        self.log.len()
    }

    /// About how many bytes the entries take that are kept: with [`Raft::log_length`] the sign that it is time to
    /// [`Raft::compact`].
    #[must_use]
    pub const fn log_bytes(&self) -> usize {
        self.log.len_bytes()
    }

    /// The entry at `index`, if it is kept.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// Leader: through where the log of `of` is known to equal its own.
    #[must_use]
    pub fn match_index(&self, of: NodeId) -> Option<LogIndex> {
        match self.role() == RaftRole::Leader && of == self.options.me {
            true => Some(self.last_index()),
            false => self.progress_of(of).map(|progress| progress.matched().index),
        }
    }

    /// Whether it leads and an entry of its own term is committed: only then does it know everything that is committed.
    #[must_use]
    pub fn is_ready_leader(&self) -> bool {
        matches!(&self.standing, Standing::Leading(leading) if leading.own_entry <= self.commit_index)
    }

    /// Leader: to whom it is handing over.
    #[must_use]
    pub fn transferring(&self) -> Option<NodeId> {
        match &self.standing {
            Standing::Leading(leading) => leading.transfer.map(|transfer| transfer.to),
            Standing::Following | Standing::Campaigning(_) => None,
        }
    }

    /// Follower: when the last valid heartbeat or append of the present leader arrived.
    #[must_use]
    pub const fn leader_heard_at(&self) -> Option<Instant> {
        self.leader_heard_at
    }

    /// Leader: the latest moment such that a quorum has acked heartbeats that were *sent* then or later; the leader
    /// itself counts as of the last call. For the election timeout from then on nobody else can be elected: the base of
    /// leases. None also while a hand-over may force an election.
    #[must_use]
    pub fn quorum_contact(&self) -> Option<Instant> {
        match &self.standing {
            Standing::Leading(leading) if leading.forced.is_none() => self.contact(),
            Standing::Leading(_) | Standing::Following | Standing::Campaigning(_) => None,
        }
    }

    /// Leader: when the latest heartbeat ack of `node` arrived.
    #[must_use]
    pub fn peer_acked_at(&self, node: NodeId) -> Option<Instant> {
        self.progress_of(node).and_then(Progress::acked_at)
    }

    /// Leader: when `node` was last heard on the stream plane. While its pulse is silent it is asked there, too.
    #[must_use]
    pub fn peer_stream_heard_at(&self, node: NodeId) -> Option<Instant> {
        self.progress_of(node).and_then(Progress::stream_heard_at)
    }

    /// Leader: the time from sending `node` a heartbeat to its ack, smoothed.
    #[must_use]
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.progress_of(node).and_then(Progress::round_trip)
    }

    /// Appends and truncations change the membership and the times in force.
    fn after_log_changed(&mut self) {
        self.keep_times();
        if self.election_deadline == Instant::FAR && self.is_eligible() {
            self.redraw_election_deadline();
        }
        self.report_role();
    }

    /// Commits through `index`, at most through the end of the log.
    fn commit_through(&mut self, index: LogIndex) {
        let index = index.min(self.log.last().index);
        while self.commit_index < index {
            let next = self.commit_index.next();
            let Some(entry) = self.log.entry(next) else {
                panic!("{next} is to be committed and isn't in a log through {}", self.log.last())
            };
            if let Standing::Leading(leading) = &mut self.standing {
                self.stalls = 0;
                leading.pending_bytes = leading.pending_bytes.saturating_sub(entry.payload.size_bytes());
            }
            self.outputs.push_back(Output::Committed(entry.clone()));
            self.commit_index = next;
            if matches!(entry.payload, Payload::Members(_) | Payload::Timing(_)) {
                self.after_log_changed();
            }
        }
    }

    /// Begins anew from a leader's snapshot.
    fn restore(&mut self, snapshot: Snapshot) {
        assert!(snapshot.index > self.commit_index, "{} is before {}", snapshot.index, self.commit_index);
        self.commit_index = snapshot.index;
        self.log = Log::new(snapshot.clone());
        self.outputs.push_back(Output::Restore(snapshot));
        self.after_log_changed();
    }

    /// Panics where the machine contradicts itself.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        let (first, last) = (self.log.snapshot().index, self.log.last());
        let commit = self.commit_index;
        assert!(first <= commit && commit <= last.index, "commit {commit} is outside of the log {first} to {last}");
        assert!(last.term <= self.term, "the log ends with {last}, past the term {}", self.term);
        assert!(self.leader_heard_at.is_none() || self.leader.is_some(), "heard from a leader that isn't known");
        match &self.standing {
            Standing::Following => {
                assert_ne!(self.leader, Some(self.options.me), "follows itself in term {}", self.term);
            }
            Standing::Campaigning(campaign) => {
                let own = if campaign.is_pre { self.term.next() } else { self.term };
                assert_eq!(campaign.term, own, "campaigns in another term than its own, {}", self.term);
                assert!(!self.membership().is_blank(), "campaigns without a membership");
                assert_eq!(self.leader, None, "campaigns although it knows a leader");
            }
            Standing::Leading(leading) => {
                assert_eq!(self.leader, Some(self.options.me), "leads and takes another one for the leader");
                assert_eq!(self.voted_for, Some(self.options.me), "leads without its own vote");
                for node in self.membership().everybody() {
                    let known = node == self.options.me || leading.progress.contains_key(&node);
                    assert!(known, "{node} is a member that the leader doesn't send to: {}", self.membership());
                }
                leading.progress.values().for_each(|progress| progress.check_invariants(last.index));
            }
        }
    }
}
