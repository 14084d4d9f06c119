//! A small deterministic network of consensus machines, with virtual time, faults and checks.
//!
//! After every input to a machine the safety properties of the paper (figure 3) are checked over all machines; see
//! [`Checker`]. A network without faults delivers everything after one millisecond.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::{
    Entry, LogPosition, Membership, Output, Payload, PulseMessage, Raft, RaftOptions, RaftRole, StreamMessage,
};
use crate::base::{Blob, Incarnation, Instant, LogIndex, NodeId, Rng, Slot, Term, Timing};

/// The first incarnation in the slot that people call `number`.
pub(super) fn node(number: u8) -> NodeId {
    reborn(number, 1)
}

/// A later incarnation there.
pub(super) fn reborn(number: u8, life: u128) -> NodeId {
    NodeId::new(Slot(number - 1), Incarnation(life))
}

pub(super) fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

pub(super) const fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) fn command(text: &str) -> Blob {
    Blob::from(text.as_bytes())
}

/// One process.
pub(super) struct Process {
    pub(super) raft: Raft,
    /// Everything it was told to apply, in order.
    pub(super) applied: Vec<Entry>,
    /// The index through which its state goes, by snapshots and applied entries.
    pub(super) applied_through: LogIndex,
}

enum Message {
    Pulse(PulseMessage),
    Stream { message: StreamMessage, connection: u64 },
}

struct Delivery {
    from: NodeId,
    to: NodeId,
    message: Message,
}

/// How badly the network behaves.
#[derive(Clone, Copy)]
pub(super) struct Faults {
    pub(super) pulse_lost_per_million: u32,
    pub(super) pulse_doubled_per_million: u32,
    /// A random part of the delay; on the pulse plane it reorders.
    pub(super) delay_jitter: Duration,
    /// Connections that break, for each message sent.
    pub(super) reset_per_million: u32,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        pulse_lost_per_million: 0,
        pulse_doubled_per_million: 0,
        delay_jitter: Duration::ZERO,
        reset_per_million: 0,
    };
}

/// A network and the processes on it.
pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) processes: BTreeMap<NodeId, Process>,
    pub(super) faults: Faults,
    pub(super) timing: Timing,
    append_bytes_max: usize,
    /// Directed links over which nothing of the plane gets through.
    pub(super) pulse_cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) stream_cut: BTreeSet<(NodeId, NodeId)>,
    queue: BTreeMap<(Instant, u64), Delivery>,
    queued: u64,
    connections: BTreeMap<(NodeId, NodeId), (u64, Instant)>,
    pub(super) checker: Checker,
    /// What happened, for a reader.
    pub(super) transcript: Option<String>,
}

impl Network {
    /// A newly founded cluster of the nodes 1 to `voters`.
    pub(super) fn founded(seed: u64, voters: u8) -> Self {
        Self::founded_with(seed, voters, 4096)
    }

    /// The same, with appends of about so many bytes.
    pub(super) fn founded_with(seed: u64, voters: u8, append_bytes_max: usize) -> Self {
        let members = Membership::of_voters((1..=voters).map(node).collect());
        let mut network = Self {
            now: Instant(1_000_000_000),
            rng: Rng::new(seed),
            processes: BTreeMap::new(),
            faults: Faults::NONE,
            timing: Timing::default(),
            append_bytes_max,
            pulse_cut: BTreeSet::new(),
            stream_cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            queued: 0,
            connections: BTreeMap::new(),
            checker: Checker { membership: members.clone(), ..Checker::default() },
            transcript: None,
        };
        for founder in members.voters.clone() {
            let (options, rng) = (network.options(founder), network.rng.fork());
            network.add(founder, Raft::founder(options, members.clone(), network.now, rng));
        }
        network
    }

    fn options(&self, me: NodeId) -> RaftOptions {
        RaftOptions { append_bytes_max: self.append_bytes_max, ..RaftOptions::new(me, self.timing) }
    }

    fn add(&mut self, me: NodeId, raft: Raft) {
        self.processes.insert(me, Process { raft, applied: Vec::new(), applied_through: LogIndex::ZERO });
        self.drain(me);
    }

    /// A process that knows nothing.
    pub(super) fn start_learner(&mut self, me: NodeId) {
        let (options, rng) = (self.options(me), self.rng.fork());
        self.add(me, Raft::learner(options, self.now, rng));
    }

    /// Ends a process for good.
    pub(super) fn crash(&mut self, me: NodeId) {
        self.processes.remove(&me).expect("a process that runs");
        self.queue.retain(|_, delivery| delivery.to != me);
        self.note(format_args!("{} crashes", name(me)));
    }

    pub(super) fn raft(&self, me: NodeId) -> &Raft {
        &self.processes.get(&me).expect("a process that runs").raft
    }

    /// The texts of the commands that `me` has applied.
    pub(super) fn commands(&self, me: NodeId) -> Vec<String> {
        let applied = &self.processes.get(&me).expect("a process that runs").applied;
        let text = |entry: &Entry| match &entry.payload {
            Payload::Command(command) => Some(String::from_utf8_lossy(command).into_owned()),
            _ => None,
        };
        applied.iter().filter_map(text).collect()
    }

    /// Calls the machine of `me` and carries out what it asks for.
    pub(super) fn call<T>(&mut self, me: NodeId, act: impl FnOnce(&mut Raft, Instant) -> T) -> T {
        let now = self.now;
        let result = act(&mut self.processes.get_mut(&me).expect("a process that runs").raft, now);
        self.drain(me);
        result
    }

    /// The leader of the latest term.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leaders = self.processes.iter().filter(|(_, process)| process.raft.role() == RaftRole::Leader);
        leaders.max_by_key(|(_, process)| process.raft.term()).map(|(node, _)| *node)
    }

    /// Runs until there is a leader that is ready.
    pub(super) fn elect(&mut self) -> NodeId {
        let ready = |network: &Self| network.leader().is_some_and(|leader| network.raft(leader).is_ready_leader());
        assert!(self.run_until(milliseconds(5000), ready), "no ready leader within 5 s: {}", self.overview());
        self.leader().expect("a leader")
    }

    pub(super) fn propose(&mut self, to: NodeId, text: &str) -> LogIndex {
        self.call(to, |raft, now| raft.propose(now, command(text))).expect("a leader takes a proposal")
    }

    /// Cuts everything between `me` and the others.
    pub(super) fn isolate(&mut self, me: NodeId) {
        let others: Vec<NodeId> = self.processes.keys().copied().filter(|other| *other != me).collect();
        self.partition(&[me], &others);
    }

    /// Cuts everything between the two groups.
    pub(super) fn partition(&mut self, left: &[NodeId], right: &[NodeId]) {
        for left in left {
            for right in right {
                for link in [(*left, *right), (*right, *left)] {
                    self.pulse_cut.insert(link);
                    self.cut_stream(link);
                }
            }
        }
    }

    /// Breaks the connection of a directed link and lets no new one come about.
    pub(super) fn cut_stream(&mut self, link: (NodeId, NodeId)) {
        self.stream_cut.insert(link);
        self.reset(link);
    }

    /// Breaks a connection: what is under way on it is lost.
    pub(super) fn reset(&mut self, link: (NodeId, NodeId)) {
        self.connections.entry(link).or_default().0 += 1;
    }

    /// Repairs every link.
    pub(super) fn heal(&mut self) {
        self.pulse_cut.clear();
        self.stream_cut.clear();
        self.faults = Faults::NONE;
    }

    /// Runs for `duration`.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
    }

    /// Runs until `done`, at most for `limit`. Whether it came about.
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            if !self.step(end) {
                return false;
            }
        }
        true
    }

    /// Does the next thing that happens before `end`; false, at `end`, where nothing does.
    fn step(&mut self, end: Instant) -> bool {
        let timer = self.processes.iter().map(|(node, process)| (process.raft.poll_timeout(), *node)).min();
        let (due, timer) = timer.expect("a process that runs");
        let delivery = self.queue.first_key_value().map_or(Instant::FAR, |((at, _), _)| *at);
        let next = due.min(delivery);
        if next > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(next);
        if delivery <= due {
            let (_, Delivery { from, to, message }) = self.queue.pop_first().expect("a delivery");
            self.deliver(from, to, message);
        } else {
            self.call(timer, |raft, now| raft.handle_timeout(now));
            let again = self.raft(timer).poll_timeout();
            assert!(again > self.now, "{timer} wants to be called at {again}, which was just done");
        }
        true
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        if !self.processes.contains_key(&to) {
            return;
        }
        match message {
            Message::Pulse(message) => {
                self.note(format_args!("{} -> {}: {message}", name(from), name(to)));
                self.call(to, |raft, now| raft.handle_pulse(now, from, message));
            }
            Message::Stream { message, connection } => {
                if self.connections.get(&(from, to)).is_some_and(|(current, _)| *current == connection) {
                    self.note(format_args!("{} => {}: {message}", name(from), name(to)));
                    self.call(to, |raft, now| raft.handle_stream(now, from, message));
                }
            }
        }
    }

    fn drain(&mut self, me: NodeId) {
        while let Some(output) = self.processes.get_mut(&me).expect("a process that runs").raft.poll_output() {
            self.carry_out(me, output);
        }
        self.checker.check(me, &self.processes, self.now);
    }

    fn carry_out(&mut self, me: NodeId, output: Output) {
        match output {
            Output::Pulse { to, message } => self.send_pulse(me, to, message),
            Output::Stream { to, message } => self.send_stream(me, to, message),
            Output::Committed(entry) => {
                self.note(format_args!("{} commits {}", name(me), entry));
                let process = self.processes.get_mut(&me).expect("a process that runs");
                assert_eq!(entry.index, process.applied_through.next(), "{me} is told to apply {entry} out of order");
                process.applied_through = entry.index;
                process.applied.push(entry.clone());
                self.checker.on_committed(me, &entry, &self.processes);
            }
            Output::Restore(snapshot) => {
                self.note(format_args!("{} restores {}", name(me), snapshot.position()));
                let process = self.processes.get_mut(&me).expect("a process that runs");
                assert!(snapshot.index > process.applied_through, "{me} is set back to {}", snapshot.index);
                process.applied_through = snapshot.index;
                let expected = self.checker.state_at(snapshot.index);
                assert_eq!(snapshot.state, expected, "{me} gets a snapshot of another state at {}", snapshot.index);
            }
            Output::RoleChanged { role, term, leader } => {
                let leader = leader.map_or_else(|| "nobody".to_owned(), name);
                self.note(format_args!("{} is {role:?} in term {term}, led by {leader}", name(me)));
                if role == RaftRole::Leader {
                    self.checker.on_leader(me, &self.processes);
                }
            }
        }
    }

    fn send_pulse(&mut self, from: NodeId, to: NodeId, message: PulseMessage) {
        if self.pulse_cut.contains(&(from, to)) || self.rng.chance(self.faults.pulse_lost_per_million) {
            return;
        }
        let copies = 1 + u32::from(self.rng.chance(self.faults.pulse_doubled_per_million));
        for _ in 0..copies {
            let at = self.now + milliseconds(1) + self.rng.duration(self.faults.delay_jitter);
            self.enqueue(at, Delivery { from, to, message: Message::Pulse(message.clone()) });
        }
    }

    fn send_stream(&mut self, from: NodeId, to: NodeId, message: StreamMessage) {
        if self.rng.chance(self.faults.reset_per_million) {
            self.reset((from, to));
        }
        let at = self.now + milliseconds(1) + self.rng.duration(self.faults.delay_jitter);
        let (connection, latest) = self.connections.entry((from, to)).or_default();
        // In order within a connection, and across a reset too: the next one starts after the one before.
        *latest = at.max(*latest);
        let (connection, at) = (*connection, *latest);
        if !self.stream_cut.contains(&(from, to)) {
            self.enqueue(at, Delivery { from, to, message: Message::Stream { message, connection } });
        }
    }

    fn enqueue(&mut self, at: Instant, delivery: Delivery) {
        self.queued += 1;
        self.queue.insert((at, self.queued), delivery);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let milliseconds = self.now.0 / 1_000_000 - 1000;
        if let Some(transcript) = &mut self.transcript {
            // First lives only: their incarnations tell a reader nothing.
            let what = what.to_string().replace("/00000000", "");
            writeln!(transcript, "{milliseconds:>3} {what}").expect("writing to a string");
        }
    }

    /// Everybody's state in a line each, for messages.
    pub(super) fn overview(&self) -> String {
        let line = |(node, process): (&NodeId, &Process)| {
            let raft = &process.raft;
            let (last, commit) = (LogPosition::new(raft.last_index(), raft.last_term()), raft.commit_index());
            let (role, term, members) = (raft.role(), raft.term(), raft.membership());
            format!("\n  {node}: {role:?} term {term}, log through {last}, commit {commit}, {members}")
        };
        self.processes.iter().map(line).collect()
    }
}

/// How the transcript calls a node: `n1`.
pub(super) fn name(node: NodeId) -> String {
    match node.incarnation.0 {
        1 => format!("n{}", node.slot.0 + 1),
        life => format!("n{}.{life}", node.slot.0 + 1),
    }
}

/// The safety properties, checked over all processes after every input.
///
/// | property | how |
/// |---|---|
/// | election safety | one leader a term, remembered for ever |
/// | leader append-only | a leader's log never ends before it did, and what was last is still there |
/// | log matching | a (index, term) means one payload and one predecessor, in every log that ever had it |
/// | leader completeness | whoever becomes leader has every entry committed so far, and leaders of later terms have what is committed later |
/// | state machine safety | one entry an index is committed, remembered for ever |
/// | one change at a time | in the committed log each membership follows from the one before |
/// | leases | while a leader may count on its lease, nobody leads a later term |
#[derive(Default)]
pub(super) struct Checker {
    leaders: BTreeMap<Term, NodeId>,
    pub(super) committed: BTreeMap<LogIndex, Entry>,
    known: BTreeMap<LogPosition, (Payload, LogPosition)>,
    last_seen: BTreeMap<NodeId, (Term, RaftRole, LogPosition)>,
    pub(super) membership: Membership,
    /// Until when each leader may count on a lease that it had at some moment, and in which term. A lease that was
    /// granted stays granted, though the times become shorter. Only a hand-over ends it before its time: whoever asks
    /// for one waits until it is over.
    leases: BTreeMap<NodeId, (Term, Instant)>,
    /// How often leases were looked at while one was valid, so that a test can tell that they were.
    pub(super) leases_checked: u64,
}

impl Checker {
    /// The state of a machine that just strings together what it applies.
    pub(super) fn state_at(&self, index: LogIndex) -> Blob {
        let mut state = String::new();
        for entry in self.committed.range(..=index).map(|(_, entry)| entry) {
            writeln!(state, "{entry}").expect("writing to a string");
        }
        command(&state)
    }

    fn on_committed(&mut self, me: NodeId, entry: &Entry, processes: &BTreeMap<NodeId, Process>) {
        if let Some(before) = self.committed.get(&entry.index) {
            assert_eq!(before, entry, "{me} commits another entry than one that is committed");
            return;
        }
        self.committed.insert(entry.index, entry.clone());
        let committer = processes[&me].raft.term();
        for (node, process) in processes {
            if process.raft.role() == RaftRole::Leader && process.raft.term() > committer {
                assert!(has(&process.raft, entry), "{node} leads a later term and lacks {entry}, committed by {me}");
            }
        }
        if let Payload::Members(members) = &entry.payload {
            let before = &self.membership;
            let founding = entry.index == LogIndex(1) && members == before;
            let begins = !before.is_joint() && members.outgoing == before.voters;
            let ends = before.is_joint() && *members == before.settled();
            let learners = !before.is_joint() && !members.is_joint() && members.voters == before.voters;
            assert!(founding || begins || ends || learners, "{members} doesn't follow from {before}");
            self.membership = members.clone();
        }
    }

    fn on_leader(&mut self, me: NodeId, processes: &BTreeMap<NodeId, Process>) {
        let raft = &processes[&me].raft;
        let leader = *self.leaders.entry(raft.term()).or_insert(me);
        assert_eq!(leader, me, "two leaders in term {}", raft.term());
        for entry in self.committed.values().filter(|entry| entry.term < raft.term()) {
            assert!(has(raft, entry), "{me} leads term {} and lacks the committed {entry}", raft.term());
        }
    }

    fn check(&mut self, me: NodeId, processes: &BTreeMap<NodeId, Process>, now: Instant) {
        let raft = &processes[&me].raft;
        raft.check_invariants();
        let last = LogPosition::new(raft.last_index(), raft.last_term());
        let seen = (raft.term(), raft.role(), last);
        let before = self.last_seen.insert(me, seen);
        self.check_leases(processes, now);
        if before == Some(seen) {
            return;
        }
        if let Some((term, role, before)) = before {
            assert!(raft.term() >= term, "{me} goes back from term {term} to {}", raft.term());
            if role == RaftRole::Leader && seen.1 == RaftRole::Leader && raft.term() == term {
                let kept = before.index <= raft.snapshot_index()
                    || raft.entry(before.index).is_some_and(|entry| entry.term == before.term);
                assert!(kept, "{me} leads and changed its log, which ended with {before}");
            }
        }
        let mut index = raft.last_index();
        while let Some(entry) = raft.entry(index) {
            index = LogIndex(index.0 - 1);
            // Right after the snapshot the predecessor isn't kept; some other log has told of it.
            let Some(previous) = raft.entry(index).map(Entry::position) else { break };
            let stated = (entry.payload.clone(), previous);
            let known = self.known.entry(entry.position()).or_insert_with(|| stated.clone());
            assert_eq!(*known, stated, "{me} has another entry at {} than others had", entry.position());
        }
    }

    fn check_leases(&mut self, processes: &BTreeMap<NodeId, Process>, now: Instant) {
        let leads = |process: &&Process| process.raft.role() == RaftRole::Leader;
        let latest = processes.values().filter(leads).map(|process| process.raft.term()).max();
        for (node, process) in processes {
            let raft = &process.raft;
            if let Some(contact) = raft.quorum_contact() {
                let until = contact + raft.lease();
                let lease = self.leases.entry(*node).or_insert((raft.term(), until));
                *lease = if lease.0 == raft.term() { (lease.0, lease.1.max(until)) } else { (raft.term(), until) };
            } else if raft.role() == RaftRole::Leader {
                self.leases.remove(node);
            }
        }
        for (node, (term, until)) in &self.leases {
            if *until > now {
                assert!(
                    latest.is_none_or(|latest| latest <= *term),
                    "{node} has a lease of term {term} until {until}, while {latest:?} has a leader at {now}"
                );
                self.leases_checked += 1;
            }
        }
    }
}

fn has(raft: &Raft, entry: &Entry) -> bool {
    entry.index <= raft.snapshot_index() || raft.entry(entry.index) == Some(entry)
}
