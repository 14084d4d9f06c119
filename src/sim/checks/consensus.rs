//! The safety of consensus: figure 3 of the Raft paper, and who had the right to decide.
//!
//! | rule | how it is checked |
//! |---|---|
//! | one leader a term, one vote a voter | every leader and every vote is remembered for ever |
//! | an election takes a quorum | the votes that were seen given to a new leader are a quorum of its membership |
//! | a commit takes a quorum | when a leader commits an entry, a quorum of the membership in force has it |
//! | of its own term | what a leader commits last is of its own term |
//! | only a leader commits | nobody commits what no leader has committed before |
//! | leader completeness | a new leader has everything that leaders of earlier terms have committed |
//! | state machine safety | one entry an index, one state an index |
//! | log matching | an index and a term mean one entry and one predecessor, in every log |
//! | leader append-only | a leader's log still has what it had |
//! | one change of members at a time | a leader appends one only over committed ones, and after an entry of its own term |
//! | nobody comes back | what a process says of its own identity never goes back |
//! | one cluster | none is founded while a member of another one lives |

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::{ClusterId, Generation, LogIndex, NodeId, Term};
use crate::control::ControlState;
use crate::node::Node;
use crate::raft::{Entry, LogPosition, Membership, Payload, Raft, RaftRole};
use crate::sim::process::{Process, all_living, living};

/// All clusters that ever were in one world.
#[derive(Debug, Default)]
pub(in crate::sim) struct Consensus {
    clusters: BTreeMap<(ClusterId, Generation), Cluster>,
    seen: BTreeMap<NodeId, Seen>,
    /// Machines whose process died, as they were then: what they had counted.
    graves: BTreeMap<NodeId, Node>,
}

/// What is known of one cluster, for ever.
#[derive(Debug, Default)]
struct Cluster {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(Term, NodeId), NodeId>,
    /// Where its log begins: 0, but for a generation that a survivor began.
    begins_at: LogIndex,
    /// By index, from the one after that on.
    committed: Vec<Committed>,
    entries: BTreeMap<(LogIndex, Term), Known>,
    states: BTreeMap<LogIndex, ControlState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Committed {
    term: Term,
    digest: u64,
    /// The term of the leader that committed it.
    in_term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    digest: u64,
    previous: Option<Term>,
}

/// What a node showed when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    cluster: (ClusterId, Generation),
    term: Term,
    role: RaftRole,
    voted_for: Option<NodeId>,
    last: LogPosition,
    commit: LogIndex,
    applied: LogIndex,
}

/// What came of looking at a node: whether it has applied anything new.
pub(in crate::sim) type Looked = Result<bool, String>;

impl Consensus {
    /// The process of this node died.
    pub(in crate::sim) fn bury(&mut self, node: Node) {
        self.graves.insert(node.control().me(), node);
    }

    /// A node says that a cluster is founded.
    pub(in crate::sim) fn handle_founding(&self, processes: &[Process], cluster: ClusterId) -> Result<(), String> {
        let other = all_living(processes).find(|node| {
            let theirs = node.view().cluster;
            theirs != ClusterId::NONE && theirs != cluster && node.view().settings.is_some()
        });
        match other {
            Some(node) => Err(format!(
                "a second cluster, {cluster}, is founded while {} still knows {}",
                node.view().me,
                node.view().cluster
            )),
            None => Ok(()),
        }
    }

    /// The newest state that anybody has derived in the cluster of `node`.
    pub(in crate::sim) fn newest_state(&self, node: &Node) -> Option<&ControlState> {
        let view = node.view();
        self.clusters.get(&(view.cluster, view.generation))?.states.last_key_value().map(|(_, state)| state)
    }

    /// Looks at a node that has handled an input.
    pub(in crate::sim) fn look(&mut self, processes: &[Process], node: &Node) -> Looked {
        let (Some(raft), Some(state)) = (node.control().raft(), node.control().state()) else { return Ok(false) };
        let me = node.control().me();
        let key = (node.view().cluster, node.view().generation);
        let now = Seen {
            cluster: key,
            term: raft.term(),
            role: raft.role(),
            voted_for: raft.voted_for(),
            last: LogPosition::new(raft.last_index(), raft.last_term()),
            commit: raft.commit_index(),
            applied: state.applied(),
        };
        let before = self.seen.insert(me, now);
        if before == Some(now) {
            return Ok(false);
        }
        let before = before.filter(|before| before.cluster == key);
        let graves = &self.graves;
        let is_survivor = key.1 > Generation::ZERO && raft.role() != RaftRole::Learner;
        let begins_at = if is_survivor { raft.snapshot_index() } else { LogIndex::ZERO };
        let cluster = self.clusters.entry(key).or_insert_with(|| Cluster { begins_at, ..Cluster::default() });
        if let Some(before) = before {
            cluster.check_steps(me, raft, before, now)?;
        }
        cluster.check_vote(me, now)?;
        cluster.check_entries(me, raft, before)?;
        if now.role == RaftRole::Leader && before.is_none_or(|seen| (seen.role, seen.term) != (now.role, now.term)) {
            cluster.check_leader(me, raft)?;
        }
        let has = |id: NodeId, position: LogPosition| {
            let node = living(processes, id).or_else(|| graves.get(&id));
            // Whoever gave up its identity before it promised anything can't be asked any more.
            node.and_then(|node| node.control().raft()).is_none_or(|raft| holds(raft, position))
        };
        let leaders = all_living(processes).filter(|node| (node.view().cluster, node.view().generation) == key);
        let leaders = leaders.filter_map(|node| Some((node.control().me(), node.control().raft()?)));
        let leaders: Vec<_> = leaders.filter(|(_, raft)| raft.role() == RaftRole::Leader).collect();
        cluster.check_commits(me, raft, before, &has, &leaders)?;
        cluster.check_state(me, state, before)
    }
}

impl Cluster {
    /// Terms never fall, commits neither, and a leader only appends.
    fn check_steps(&self, me: NodeId, raft: &Raft, before: Seen, now: Seen) -> Result<(), String> {
        if now.term < before.term || now.commit < before.commit {
            return Err(format!("{me} went back from {before:?} to {now:?}"));
        }
        let led_on = before.role == RaftRole::Leader && now.role == RaftRole::Leader && before.term == now.term;
        if led_on && !holds(raft, before.last) {
            return Err(format!("{me} leads term {} and changed its log, which ended with {}", now.term, before.last));
        }
        Ok(())
    }

    fn check_vote(&mut self, me: NodeId, now: Seen) -> Result<(), String> {
        let Some(candidate) = now.voted_for else { return Ok(()) };
        let first = *self.votes.entry((now.term, me)).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        Err(format!("{me} voted for {first} and for {candidate} in term {}", now.term))
    }

    /// The entries that are new since `before` are what others know them to be, and were appended by right.
    fn check_entries(&mut self, me: NodeId, raft: &Raft, before: Option<Seen>) -> Result<(), String> {
        let known_through = before.map_or(LogIndex::ZERO, |before| before.commit);
        let last_before = before.map_or(LogPosition::ZERO, |before| before.last);
        let mut index = raft.last_index();
        while let Some(entry) = raft.entry(index).filter(|entry| entry.index > known_through) {
            index = LogIndex(index.0 - 1);
            let previous = raft.entry(index).map(|entry| entry.term);
            let known = Known { digest: digest(&entry.payload), previous };
            let first = *self.entries.entry((entry.index, entry.term)).or_insert(known);
            let same_previous = first.previous.is_none() || previous.is_none() || first.previous == previous;
            if first.digest != known.digest || !same_previous {
                return Err(format!(
                    "{me} has another entry at {}, or another one before it, than others",
                    entry.position()
                ));
            }
            let is_own =
                raft.role() == RaftRole::Leader && entry.term == raft.term() && entry.index > last_before.index;
            if is_own && entry.index > LogIndex(1) && matches!(entry.payload, Payload::Members(_)) {
                self.check_change(me, raft, entry)?;
            }
        }
        Ok(())
    }

    /// A leader has appended a change of members.
    fn check_change(&self, me: NodeId, raft: &Raft, entry: &Entry) -> Result<(), String> {
        let commit = raft.commit_index();
        let between = (commit.0 + 1..entry.index.0).filter_map(|index| raft.entry(LogIndex(index)));
        let other = between.into_iter().find(|other| matches!(other.payload, Payload::Members(_)));
        if let Some(other) = other {
            return Err(format!("{me} changes the members by {entry} while {other} is not committed"));
        }
        let is_early = raft.entry(commit).map_or(commit == LogIndex::ZERO, |committed| committed.term < raft.term());
        if is_early {
            return Err(format!("{me} changes the members by {entry} before it has committed anything in its term"));
        }
        Ok(())
    }

    /// Somebody leads from now on.
    fn check_leader(&mut self, me: NodeId, raft: &Raft) -> Result<(), String> {
        let term = raft.term();
        let first = *self.leaders.entry(term).or_insert(me);
        if first != me {
            return Err(format!("{first} and {me} both lead in term {term}"));
        }
        let voted = |voter: NodeId| self.votes.get(&(term, voter)) == Some(&me);
        if !is_quorum(raft.membership(), voted) {
            return Err(format!("{me} leads term {term} without the votes of a quorum of {}", raft.membership()));
        }
        for (offset, committed) in self.committed.iter().enumerate() {
            let index = LogIndex(self.begins_at.0 + offset as u64 + 1);
            let concerns = committed.in_term < term && index > raft.snapshot_index();
            if concerns && !raft.entry(index).is_some_and(|entry| is_same(entry, *committed)) {
                return Err(format!(
                    "{me} leads term {term} and lacks entry {index}, committed in term {}",
                    committed.in_term
                ));
            }
        }
        Ok(())
    }

    fn check_commits(
        &mut self,
        me: NodeId,
        raft: &Raft,
        before: Option<Seen>,
        has: &dyn Fn(NodeId, LogPosition) -> bool,
        leaders: &[(NodeId, &Raft)],
    ) -> Result<(), String> {
        let from = before.map_or(LogIndex::ZERO, |before| before.commit).max(self.begins_at);
        let may_commit =
            raft.role() == RaftRole::Leader || before.is_some_and(|before| before.role == RaftRole::Leader);
        for index in (from.0 + 1..=raft.commit_index().0).map(LogIndex) {
            let Some(entry) = raft.entry(index) else { continue };
            let offset = (index.0 - self.begins_at.0) as usize;
            if let Some(committed) = self.committed.get(offset - 1) {
                if !is_same(entry, *committed) {
                    return Err(format!("{me} commits {entry}, and term {} was committed there", committed.term));
                }
                continue;
            }
            if offset != self.committed.len() + 1 || !may_commit {
                return Err(format!("{me} commits {entry}, which no leader has committed"));
            }
            let in_force = self.membership_before(raft, before);
            // What ends a joint membership is in force as soon as it is appended, and that may have been in this input, too.
            let now = raft.membership();
            let has_settled = in_force.is_joint() && !now.is_joint() && now.voters == in_force.voters;
            let has_it = |id| has(id, entry.position());
            if !(is_quorum(&in_force, has_it) || has_settled && is_quorum(now, has_it)) {
                return Err(format!("{me} commits {entry}, which no quorum of {in_force} has"));
            }
            let in_term = raft.term();
            self.committed.push(Committed { term: entry.term, digest: digest(&entry.payload), in_term });
            let lacks = |(_, leader): &&(NodeId, &Raft)| leader.term() > in_term && !holds(leader, entry.position());
            if let Some((other, _)) = leaders.iter().find(lacks) {
                return Err(format!("{other} leads a later term than {in_term} and lacks {entry}, which {me} commits"));
            }
        }
        let leads = raft.role() == RaftRole::Leader && before.is_some_and(|before| before.role == RaftRole::Leader);
        let newest = raft.entry(raft.commit_index()).filter(|entry| entry.index > from);
        match newest.filter(|entry| leads && entry.term < raft.term()) {
            Some(entry) => Err(format!("{me} leads term {} and commits {entry} by counting its copies", raft.term())),
            None => Ok(()),
        }
    }

    /// The membership that was in force at `raft` before its last input: what it has appended since needed the earlier one.
    fn membership_before(&self, raft: &Raft, before: Option<Seen>) -> Membership {
        let last = before.map_or(raft.last_index(), |before| before.last.index);
        let mut index = last;
        while let Some(entry) = raft.entry(index) {
            if let Payload::Members(members) = &entry.payload {
                return members.clone();
            }
            index = LogIndex(index.0 - 1);
        }
        raft.membership().clone()
    }

    fn check_state(&mut self, me: NodeId, state: &ControlState, before: Option<Seen>) -> Looked {
        let applied = state.applied();
        if before.is_some_and(|before| before.applied == applied) || applied == LogIndex::ZERO {
            return Ok(false);
        }
        match self.states.get(&applied) {
            Some(known) if known != state => Err(format!("{me} has another state at {applied} than others had there")),
            Some(_) => Ok(true),
            None => {
                self.states.insert(applied, state.clone());
                Ok(true)
            }
        }
    }
}

/// Whether the log of `raft` has the entry at `position`, or a snapshot that stands for it.
fn holds(raft: &Raft, position: LogPosition) -> bool {
    position.index <= raft.snapshot_index()
        || raft.entry(position.index).is_some_and(|entry| entry.term == position.term)
}

fn is_same(entry: &Entry, committed: Committed) -> bool {
    entry.term == committed.term && digest(&entry.payload) == committed.digest
}

fn digest(payload: &Payload) -> u64 {
    match payload {
        Payload::Noop => 0,
        Payload::Command(bytes) => xxh3_64(bytes),
        other => xxh3_64(other.to_string().as_bytes()),
    }
}

/// A majority of the voters and, while joint, of the outgoing ones. Written anew here: a check must not rest on what it
/// checks.
fn is_quorum(members: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    let majority =
        |set: &std::collections::BTreeSet<NodeId>| 2 * set.iter().filter(|id| agrees(**id)).count() > set.len();
    majority(&members.voters) && (members.outgoing.is_empty() || majority(&members.outgoing))
}
