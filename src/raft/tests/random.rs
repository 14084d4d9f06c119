//! Seeded runs with every kind of failure, then healed.

use std::collections::BTreeSet;

use crate::base::{Incarnation, LogIndex, NodeId, Rng, Timing};
use crate::raft::testing::{Faults, Network, milliseconds, node};
use crate::raft::{Membership, Payload, Raft, RaftRole};

const SEEDS: u64 = 300;
/// Random events a run; between two of them some milliseconds pass.
const EVENTS: u64 = 120;

/// What a run came across, so that a test can tell that it tested something.
#[derive(Default, Debug)]
struct Seen {
    terms: u64,
    crashes: u64,
    joined: u64,
    changes: u64,
    transfers: u64,
    snapshots: u64,
    leases_checked: u64,
}

struct Run {
    network: Network,
    dice: Rng,
    lives: u128,
    proposed: u64,
    seen: Seen,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Rng::new(seed ^ 0x5eed);
        let voters = [1, 2, 3, 3, 4, 5, 5][dice.below(7) as usize];
        // One entry an append, a few, or many.
        let append_bytes_max = [1, 100, 4096][dice.below(3) as usize];
        let network = Network::founded_with(seed, voters, append_bytes_max);
        Self { network, dice, lives: 1, proposed: 0, seen: Seen::default() }
    }

    fn pick(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.network.processes.keys().copied().collect();
        nodes[self.dice.below(nodes.len() as u64) as usize]
    }

    fn event(&mut self) {
        match self.dice.below(30) {
            0..=5 => self.propose(),
            6 => self.set_faults(),
            7 | 8 => self.cut(),
            9..=11 => self.cut_leader(),
            12..=14 => self.repair_links(),
            15 => self.network.heal(),
            16 => self.maybe_crash(),
            17 => self.maybe_join(),
            18..=20 => self.maybe_promote(),
            21 => self.maybe_shrink(),
            22..=24 => self.maybe_transfer(),
            25 | 26 => self.maybe_compact(),
            27 => self.propose_timing(),
            _ => self.network.run_for(milliseconds(400)),
        }
        // Often so short that what was begun is half done when the next thing happens.
        let longest = [2, 5, 60, 150][self.dice.below(4) as usize];
        let pause = self.dice.below(longest);
        self.network.run_for(milliseconds(pause));
    }

    /// A few commands to everybody who takes them: a deposed leader that doesn't know it yet does.
    fn propose(&mut self) {
        for to in self.network.processes.keys().copied().collect::<Vec<_>>() {
            for _ in 0..self.dice.below(3) {
                self.proposed += 1;
                let text = format!("c{}", self.proposed);
                let _ = self.network.call(to, |raft, now| raft.propose(now, text.into_bytes().into()));
            }
        }
    }

    /// The leader keeps one peer, or none.
    fn cut_leader(&mut self) {
        let Some(leader) = self.network.leader() else { return };
        let spared = self.pick();
        let others: Vec<NodeId> =
            self.network.processes.keys().copied().filter(|other| ![leader, spared].contains(other)).collect();
        self.network.partition(&[leader], &others);
    }

    fn repair_links(&mut self) {
        self.network.pulse_cut.clear();
        self.network.stream_cut.clear();
    }

    fn propose_timing(&mut self) {
        let election = milliseconds([100, 60 + self.dice.below(600)][self.dice.below(2) as usize]);
        let timing = Timing { heartbeat: election / 5, election, lease: election * 4 / 5, ..Timing::default() };
        if let Some(leader) = self.network.leader() {
            let _ = self.network.call(leader, |raft, now| raft.propose_timing(now, timing));
        }
    }

    fn set_faults(&mut self) {
        self.network.faults = Faults {
            pulse_lost_per_million: self.dice.below(400_000) as u32,
            pulse_doubled_per_million: self.dice.below(300_000) as u32,
            delay_jitter: milliseconds([5, 60, 200][self.dice.below(3) as usize]),
            reset_per_million: self.dice.below(200_000) as u32,
        };
    }

    fn cut(&mut self) {
        let (left, right) = (self.pick(), self.pick());
        match self.dice.below(4) {
            0 => self.network.isolate(left),
            1 => {
                let half = self.dice.below(self.network.processes.len() as u64) as usize;
                let nodes: Vec<NodeId> = self.network.processes.keys().copied().collect();
                self.network.partition(&nodes[..half], &nodes[half..]);
            }
            2 => self.network.cut_stream((left, right)),
            _ => {
                self.network.pulse_cut.insert((left, right));
            }
        }
    }

    /// Whether the memberships that anybody goes by keep their quorums without `gone`.
    fn can_lose(&self, gone: NodeId) -> bool {
        let alive = |node: NodeId| node != gone && self.network.processes.contains_key(&node);
        self.network.processes.values().all(|process| {
            let members = process.raft.membership();
            members.is_blank() || members.is_quorum(alive)
        })
    }

    fn maybe_crash(&mut self) {
        let victim = self.pick();
        if self.can_lose(victim) && self.network.processes.len() > 1 {
            self.network.crash(victim);
            self.seen.crashes += 1;
        }
    }

    fn maybe_join(&mut self) {
        let Some(leader) = self.network.leader() else { return };
        self.lives += 1;
        let joiner = NodeId { incarnation: Incarnation(self.lives), ..node(1 + self.dice.below(6) as u8) };
        if self.network.processes.len() < 7
            && self.network.call(leader, |raft, now| raft.propose_learner(now, joiner)).is_ok()
        {
            self.network.start_learner(joiner);
            self.seen.joined += 1;
        }
    }

    fn maybe_promote(&mut self) {
        let Some(leader) = self.network.leader() else { return };
        let members = self.network.raft(leader).membership().clone();
        let Some(learner) = members.learners.first().copied() else { return };
        let mut voters = members.voters.clone();
        // It takes the place of its slot's earlier life, if that has one.
        voters.retain(|voter| voter.slot != learner.slot);
        voters.insert(learner);
        self.change_voters(leader, voters);
    }

    fn maybe_shrink(&mut self) {
        let Some(leader) = self.network.leader() else { return };
        let mut voters = self.network.raft(leader).membership().voters.clone();
        let gone = self.pick();
        voters.remove(&gone);
        if !voters.is_empty() {
            self.change_voters(leader, voters);
        }
    }

    /// Only to voters of whom a majority lives: what an operator or the layer above makes sure of.
    fn change_voters(&mut self, leader: NodeId, voters: BTreeSet<NodeId>) {
        let alive = |node: NodeId| self.network.processes.contains_key(&node);
        if Membership::of_voters(voters.clone()).is_quorum(alive)
            && self.network.call(leader, |raft, now| raft.propose_voters(now, voters)).is_ok()
        {
            self.seen.changes += 1;
        }
    }

    fn maybe_transfer(&mut self) {
        let to = self.pick();
        let Some(leader) = self.network.leader() else { return };
        // As the layer above does it: leases first have to be over. Here nobody uses one for longer than a check.
        if self.network.call(leader, |raft, now| raft.transfer(now, to)).is_ok() {
            self.seen.transfers += 1;
        }
    }

    fn maybe_compact(&mut self) {
        let me = self.pick();
        let commit = self.network.raft(me).commit_index();
        let through = LogIndex(commit.0.saturating_sub(self.dice.below(4)));
        let state = self.network.checker.state_at(through);
        self.network.call(me, |raft, _| raft.compact(through, state));
        self.seen.snapshots += u64::from(through > LogIndex::ZERO);
    }

    /// Everything is repaired: then there must be a leader, and a command must reach every member.
    fn heal_and_require_progress(&mut self, seed: u64) {
        self.network.heal();
        self.network.run_for(milliseconds(2000));
        let leader = self.network.elect();
        let index = self.network.call(leader, |raft, now| raft.propose(now, b"last".as_slice().into()));
        let index = index.unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", self.network.overview()));
        let arrived = |raft: &Raft| raft.commit_index() >= index;
        let done = self.network.run_until(milliseconds(3000), |network| {
            let members = network.raft(leader).membership();
            let alive = network.processes.iter().filter(|(node, _)| members.contains(**node));
            !members.is_joint() && alive.into_iter().all(|(_, process)| arrived(&process.raft))
        });
        assert!(done, "seed {seed}: no progress after everything was repaired: {}", self.network.overview());
        self.check_ends_alike(leader, index);
    }

    fn check_ends_alike(&mut self, leader: NodeId, index: LogIndex) {
        let committed = self.network.checker.committed.get(&index).expect("a committed entry");
        assert_eq!(committed.payload, Payload::Command(b"last".as_slice().into()));
        let leaders = self.network.processes.values().filter(|process| process.raft.role() == RaftRole::Leader);
        assert_eq!(leaders.count(), 1, "{leader} isn't the only leader: {}", self.network.overview());
    }
}

fn run(seed: u64) -> Seen {
    let mut run = Run::new(seed);
    for _ in 0..EVENTS {
        run.event();
    }
    run.heal_and_require_progress(seed);
    let leader = run.network.leader().expect("a leader");
    run.seen.terms = run.network.raft(leader).term().0;
    run.seen.leases_checked = run.network.checker.leases_checked;
    run.seen
}

#[test]
fn whatever_fails_nothing_unsafe_happens_and_once_it_is_repaired_work_goes_on() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let seen = run(seed);
        all.terms += seen.terms;
        all.crashes += seen.crashes;
        all.joined += seen.joined;
        all.changes += seen.changes;
        all.transfers += seen.transfers;
        all.snapshots += seen.snapshots;
        all.leases_checked += seen.leases_checked;
    }
    let least = [all.terms, all.crashes, all.joined, all.changes, all.transfers, all.snapshots, all.leases_checked];
    assert!(least.iter().all(|count| *count > SEEDS / 2), "the runs came across too little: {all:?}");
}
