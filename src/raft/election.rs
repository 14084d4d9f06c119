//! How a leader is chosen.
//!
//! ```text
//!             nothing heard for E + random          a majority would vote        a majority voted
//!   Follower ───────────────────────────▶ PreCandidate ──────────────▶ Candidate ───────────────▶ Leader
//!      ▲                                       │     ▲                   │    │                      │
//!      │              a leader is heard        │     └──── time is up ───┘    │                      │
//!      └───────────────────────────────────────┴──────────────────────────────┴── a later term, or ──┘
//!                                                                                 no quorum contact
//! ```
//!
//! The pre-vote (Ongaro's dissertation, section 9.6) raises no term, so a node that was cut off, and campaigned in vain
//! all the while, disturbs nobody when it comes back. The *promise* does the rest: who has heard from a leader within the
//! election timeout E votes for nobody, whatever the term in the request, and doesn't take over that term either. A
//! leader may therefore rely, for E after it sent the heartbeats that a quorum has acked, on being the only one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::message::{Output, PulseMessage, Verdict};
use super::{LogPosition, PulseSequence, Raft, RaftRole, Standing};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId, Term};

/// A campaign under way.
#[derive(Debug)]
pub(super) struct Campaign {
    /// Only asking.
    pub(super) is_pre: bool,
    /// The term that is campaigned in; one above the node's own while only asking.
    pub(super) term: Term,
    /// Asked for by the old leader.
    transfer: bool,
    pub(super) granted: BTreeSet<NodeId>,
    /// Who said no for good.
    pub(super) refused: BTreeSet<NodeId>,
    pub(super) resend_at: Instant,
    pub(super) deadline: Instant,
}

impl Raft {
    /// Whether this node may campaign: a voter by the membership in force or by the latest one that it knows to be
    /// committed.
    ///
    /// Why the committed one counts too: B of the voters {A B C} has appended, and nobody else but the leader A has, the
    /// entry that ends the change to {A D E}. 1. A dies. 2. D and E need a majority of {A B C}, so B's vote, and B's log
    /// is ahead: it refuses. 3. So only B can be elected, though by its own log it isn't a voter any more. It leads
    /// until that entry is committed, without counting itself.
    pub(super) fn is_eligible(&self) -> bool {
        let me = self.options.me;
        self.membership().is_voter(me) || self.log.memberships().at(self.commit_index).is_voter(me)
    }

    /// Whether a promise not to vote binds this node now.
    fn keeps_promise(&self) -> bool {
        !is_broken(Mutant::VoteDespitePromise) && self.now < self.promised_until
            || match &self.standing {
                Standing::Leading(leading) => self.now < self.contact_ends_at(leading),
                Standing::Following | Standing::Campaigning(_) => false,
            }
    }

    /// Whether `candidate` may be a voter: the membership known here says so, or its log is ahead of this one, so that
    /// it may be one by entries that this node hasn't got.
    fn may_be_voter(&self, candidate: NodeId, last: LogPosition) -> bool {
        self.membership().is_voter(candidate) || last > self.log.last()
    }

    /// The promise counts too: times that have become shorter don't shorten it, and whoever campaigns votes for itself.
    pub(super) fn redraw_election_deadline(&mut self) {
        let silence_ends = (self.now + self.timing.election).max(self.promised_until);
        self.election_deadline = silence_ends + self.rng.duration(self.timing.election_jitter);
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, proposed: Term, last: LogPosition) {
        if self.membership().is_blank() || !self.may_be_voter(from, last) {
            return;
        }
        let verdict = if self.keeps_promise() {
            Verdict::Promised
        } else if proposed > self.term && (last >= self.log.last() || is_broken(Mutant::VoteForShorterLog)) {
            Verdict::Granted
        } else {
            Verdict::Refused
        };
        let message = PulseMessage::PreVoteAnswer { term: self.term, proposed, verdict };
        self.outputs.push_back(Output::Pulse { to: from, message });
    }

    /// A request to vote.
    ///
    /// A learner that was told a membership answers too, although by its own log it isn't a voter: the request, which
    /// goes to voters only, is the proof that it is one by the candidate's log. If it stayed silent: 1. A, leader of
    /// {A B C}, appends the change to {A B D}; only B has it. 2. A dies. 3. B needs D's vote for the new majority, and
    /// C, whose log is behind, can't win B's. Nobody could ever lead. A process that was told nothing never votes.
    pub(super) fn on_vote(&mut self, from: NodeId, term: Term, last: LogPosition, transfer: bool) {
        if self.membership().is_blank() {
            return;
        }
        let verdict = if term < self.term {
            Verdict::Refused
        } else if term == self.term && self.voted_for == Some(from) {
            // Its request or our answer was doubled or lost. The answer stays what it was.
            Verdict::Granted
        } else if !transfer && self.keeps_promise() {
            Verdict::Promised
        } else if !self.may_be_voter(from, last) {
            return;
        } else {
            self.judge_vote(from, term, last)
        };
        let message = PulseMessage::VoteAnswer { term: self.term, asked: term, verdict };
        self.outputs.push_back(Output::Pulse { to: from, message });
    }

    fn judge_vote(&mut self, from: NodeId, term: Term, last: LogPosition) -> Verdict {
        if term > self.term {
            self.become_follower(term, None);
        }
        if (self.voted_for.is_some() && !is_broken(Mutant::TwoVotes))
            || self.leader.is_some()
            || (last < self.log.last() && !is_broken(Mutant::VoteForShorterLog))
        {
            return Verdict::Refused;
        }
        self.voted_for = Some(from);
        self.redraw_election_deadline();
        Verdict::Granted
    }

    pub(super) fn on_pre_vote_answer(&mut self, from: NodeId, term: Term, proposed: Term, verdict: Verdict) {
        let Standing::Campaigning(campaign) = &self.standing else { return };
        if campaign.is_pre && campaign.term == proposed {
            self.on_verdict(from, term, verdict);
        }
    }

    pub(super) fn on_vote_answer(&mut self, from: NodeId, term: Term, asked: Term, verdict: Verdict) {
        let Standing::Campaigning(campaign) = &self.standing else { return };
        if !campaign.is_pre && campaign.term == asked {
            self.on_verdict(from, term, verdict);
        }
    }

    fn on_verdict(&mut self, from: NodeId, term: Term, verdict: Verdict) {
        if !self.membership().is_voter(from) {
            return;
        }
        if term > self.term && verdict != Verdict::Granted {
            return self.become_follower(term, None);
        }
        let Standing::Campaigning(campaign) = &mut self.standing else { return };
        match verdict {
            Verdict::Granted => {
                campaign.refused.remove(&from);
                campaign.granted.insert(from);
                self.maybe_win();
            }
            Verdict::Refused if !campaign.granted.contains(&from) => {
                campaign.refused.insert(from);
                self.maybe_lose();
            }
            Verdict::Refused | Verdict::Promised => {}
        }
    }

    fn maybe_win(&mut self) {
        let Standing::Campaigning(campaign) = &self.standing else { return };
        if !self.membership().is_quorum(|node| campaign.granted.contains(&node)) {
            return;
        }
        match campaign.is_pre {
            true => self.become_candidate(false),
            false => self.become_leader(),
        }
    }

    /// Ends a campaign that can't be won any more.
    fn maybe_lose(&mut self) {
        let Standing::Campaigning(campaign) = &self.standing else { return };
        if self.membership().is_quorum(|node| !campaign.refused.contains(&node)) {
            return;
        }
        let was_split = !campaign.is_pre;
        let term = self.term;
        self.become_follower(term, None);
        if was_split {
            // Whoever votes has found the leader dead, so there is no need to wait for E again: the random part alone
            // keeps the candidates apart. If another one won, its heartbeat comes before this ends.
            self.election_deadline =
                self.now + self.timing.heartbeat * 2 + self.rng.duration(self.timing.election_jitter);
        }
    }

    /// Follows `leader`, or nobody yet, in `term`.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "back from term {} to {term}", self.term);
        if let Standing::Leading(leading) = &self.standing {
            // It counted itself among those who promised, so the promise goes on.
            self.promised_until = self.promised_until.max(self.contact_ends_at(leading));
        }
        if !matches!(self.standing, Standing::Following) {
            self.redraw_election_deadline();
        }
        if term > self.term {
            self.term = term;
            self.voted_for = None;
            self.heard_sequence = PulseSequence::ZERO;
        }
        self.standing = Standing::Following;
        self.leader = leader;
        self.leader_heard_at = None;
        self.report_role();
    }

    pub(super) fn become_pre_candidate(&mut self) {
        self.leader = None;
        self.leader_heard_at = None;
        if is_broken(Mutant::NoPreVote) {
            return self.become_candidate(false);
        }
        self.campaign(true, self.term.next(), false);
    }

    pub(super) fn become_candidate(&mut self, transfer: bool) {
        self.term = self.term.next();
        self.voted_for = Some(self.options.me);
        self.heard_sequence = PulseSequence::ZERO;
        self.leader = None;
        self.leader_heard_at = None;
        self.campaign(false, self.term, transfer);
    }

    fn campaign(&mut self, is_pre: bool, term: Term, transfer: bool) {
        self.redraw_election_deadline();
        self.standing = Standing::Campaigning(Campaign {
            is_pre,
            term,
            transfer,
            granted: BTreeSet::from([self.options.me]),
            refused: BTreeSet::new(),
            resend_at: self.now,
            deadline: self.election_deadline,
        });
        self.report_role();
        self.maybe_ask();
        // Alone, it has a majority at once.
        self.maybe_win();
    }

    /// Asks those who haven't granted: at the start, and again every so often, for requests and answers get lost and
    /// promises run out.
    fn maybe_ask(&mut self) {
        let last = self.log.last();
        let voters = self.membership().all_voters();
        let Standing::Campaigning(campaign) = &mut self.standing else { return };
        if self.now < campaign.resend_at {
            return;
        }
        campaign.resend_at = self.now + self.options.vote_resend.max(Duration::from_millis(1));
        let term = campaign.term;
        for to in voters.into_iter().filter(|voter| !campaign.granted.contains(voter)) {
            let message = match campaign.is_pre {
                true => PulseMessage::PreVote { proposed: term, last },
                false => PulseMessage::Vote { term, last, transfer: campaign.transfer },
            };
            self.outputs.push_back(Output::Pulse { to, message });
        }
    }

    pub(super) fn on_campaign_timeout(&mut self) {
        let Standing::Campaigning(campaign) = &self.standing else { return };
        if self.now >= campaign.deadline { self.become_pre_candidate() } else { self.maybe_ask() }
    }

    pub(super) fn on_follower_timeout(&mut self) {
        if self.now < self.election_deadline {
            return;
        }
        if self.is_eligible() {
            return self.become_pre_candidate();
        }
        // A learner only notes that nobody leads it.
        self.leader = None;
        self.leader_heard_at = None;
        self.election_deadline = Instant::FAR;
        self.report_role();
    }

    /// The leader hands over to this node.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, term: Term, valid_through: PulseSequence) {
        let follows = matches!(self.standing, Standing::Following) && self.leader == Some(from) && term == self.term;
        if follows && self.heard_sequence <= valid_through && self.is_eligible() {
            self.become_candidate(true);
        }
    }

    /// Tells the caller where role, term or leader are others than it knows.
    pub(super) fn report_role(&mut self) {
        let now = (self.role(), self.term, self.leader);
        if self.reported != now {
            self.reported = now;
            let (role, term, leader) = now;
            self.outputs.push_back(Output::RoleChanged { role, term, leader });
        }
    }

    /// What this node is at the moment.
    #[must_use]
    pub fn role(&self) -> RaftRole {
        match &self.standing {
            Standing::Leading(_) => RaftRole::Leader,
            Standing::Campaigning(campaign) if campaign.is_pre => RaftRole::PreCandidate,
            Standing::Campaigning(_) => RaftRole::Candidate,
            Standing::Following if self.is_eligible() => RaftRole::Follower,
            Standing::Following => RaftRole::Learner,
        }
    }
}
