//! The cluster as one node sees it, for people: what `/v1/cluster` and `jumpgate status` show.

use std::time::Duration;

use super::ControlCore;
use super::member::node_kind;
use crate::api::{
    ClusterStatus, HealingStatus, HeldBackStatus, NodeStatus, PartitionCounts, PeerStatus, Role, TimingStatus,
    VerificationStatus,
};
use crate::base::{ClusterId, Instant, NodeId, Slot, Term};
use crate::control::{NodeKind, PeerWord};
use crate::raft::{Raft, RaftRole};

/// A node that nobody has heard of for this long is shown as dead.
const DEAD_AFTER: Duration = Duration::from_secs(1);
/// What the leader said longer ago tells nothing of the present.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// Workers show that they move every few heartbeats; what is shorter than this is no standstill.
const STALLED_AFTER: Duration = Duration::from_millis(100);

/// Partitions that one node holds, by what it is to them.
#[derive(Clone, Copy, Default)]
struct Held {
    primaries: u32,
    in_sync: u32,
    learning: u32,
}

impl ControlCore {
    /// The term in which this node asks for votes, or has got them; none otherwise.
    #[must_use]
    pub fn candidacy(&self) -> Option<Term> {
        let raft = self.raft()?;
        matches!(raft.role(), RaftRole::Candidate | RaftRole::Leader).then(|| raft.term())
    }

    /// What this node knows of the cluster.
    #[must_use]
    pub fn status(&self, now: Instant) -> ClusterStatus {
        let options = self.options();
        let view = self.view();
        let settings = view.settings;
        let leader = view.leader.map(|leader| leader.slot);
        let held = self.holdings();
        let nodes: Vec<NodeStatus> =
            held.into_iter().enumerate().map(|(slot, held)| self.node_status(now, Slot(slot as u8), held)).collect();
        ClusterStatus {
            name: options.cluster_name.clone(),
            cluster_id: if view.cluster == ClusterId::NONE { String::new() } else { view.cluster.to_string() },
            generation: view.generation.0,
            node: options.name(options.me.slot).to_owned(),
            leader: leader.map(|slot| options.name(slot).to_owned()),
            leader_url: leader.and_then(|slot| options.advertised.get(slot.index()).cloned()),
            term: view.term.0,
            quorum: self.has_quorum(now),
            table_index: view.applied.0,
            partitions: self.partition_counts(),
            lost: (0..)
                .zip(view.table.iter())
                .filter(|(_, record)| record.is_lost())
                .map(|(number, _)| number)
                .collect(),
            healing: self.healing(now),
            replicas: settings.map_or(options.replicas, |settings| settings.replicas),
            min_copies: settings.map_or(options.min_copies, |settings| settings.min_copies),
            verification: of_all(&nodes),
            nodes,
            timing: Some(self.timing_status(now)),
        }
    }

    /// Whether this node believes that a majority is in contact: a leader by its acks, a follower by its leader.
    #[must_use]
    pub fn has_quorum(&self, now: Instant) -> bool {
        let Some(raft) = self.raft() else { return false };
        let contact = if raft.role() == RaftRole::Leader { raft.quorum_contact() } else { raft.leader_heard_at() };
        contact.is_some_and(|contact| now.since(contact) <= raft.timing().campaigns_within())
    }

    fn partition_counts(&self) -> PartitionCounts {
        let view = self.view();
        let replicas = view.settings.map_or(0, |settings| usize::from(settings.replicas));
        let misplaced = self.state().map_or(0, |state| state.misplaced() as u32);
        let mut counts = PartitionCounts { total: view.table.len() as u32, misplaced, ..PartitionCounts::default() };
        for record in view.table.iter() {
            if record.is_lost() {
                counts.lost += 1;
            } else if record.primary.is_none() {
                counts.unavailable += 1;
            } else if record.in_sync.len() >= replicas {
                counts.full += 1;
            } else {
                counts.reduced += 1;
            }
        }
        counts
    }

    /// What all nodes say of whom they fill, as far as this node was told lately.
    fn healing(&self, now: Instant) -> Option<HealingStatus> {
        let view = self.view();
        let partitions = view.table.iter().filter(|record| !record.learners.is_empty()).count() as u32;
        let others = (0..self.options().slots).map(|slot| Slot(slot as u8)).filter(|slot| *slot != self.me().slot);
        let told = others.filter_map(|slot| self.gossip()?.entry(slot));
        let told = told.filter(|(_, at)| now.since(*at) <= DEAD_AFTER).filter_map(|(entry, _)| entry.filling);
        let bytes = |kib: u32| u64::from(kib) << 10;
        let mut healing = HealingStatus { partitions, ..HealingStatus::default() };
        for word in told.chain(self.filling()) {
            healing.done_bytes += bytes(word.done_kib);
            healing.left_bytes += bytes(word.left_kib);
            healing.bytes_per_second += bytes(word.kib_per_second);
        }
        let rate = healing.bytes_per_second;
        healing.seconds_left = (rate > 0).then(|| healing.left_bytes.div_ceil(rate));
        (partitions > 0).then_some(healing)
    }

    /// What the nodes hold, by slot, counted in one pass: the table is long, and the pulse waits meanwhile.
    fn holdings(&self) -> Vec<Held> {
        let mut held = vec![Held::default(); self.options().slots];
        let mut count = |slot: Slot, what: fn(&mut Held) -> &mut u32| {
            if let Some(held) = held.get_mut(slot.index()) {
                *what(held) += 1;
            }
        };
        for record in self.view().table.iter() {
            record.primary.into_iter().for_each(|slot| count(slot, |held| &mut held.primaries));
            record.in_sync.iter().for_each(|slot| count(slot, |held| &mut held.in_sync));
            record.learners.iter().for_each(|slot| count(slot, |held| &mut held.learning));
        }
        held
    }

    fn node_status(&self, now: Instant, slot: Slot, held: Held) -> NodeStatus {
        let options = self.options();
        let mut status = NodeStatus {
            name: options.name(slot).to_owned(),
            url: options.advertised.get(slot.index()).cloned().unwrap_or_default(),
            primaries: held.primaries,
            in_sync: held.in_sync,
            learning: held.learning,
            draining: self.state().is_some_and(|state| {
                let roster = state.roster();
                roster.draining.contains(slot) || roster.leaving.contains(slot)
            }),
            ..NodeStatus::default()
        };
        status.held_back = self.held_back(now, slot);
        if let Some(node) = self.node_in(slot) {
            status.incarnation = format!("{:032x}", node.incarnation.0);
            status.voter = self.raft().is_some_and(|raft| raft.membership().voters.contains(&node));
        }
        if slot == options.me.slot {
            self.describe_myself(now, &mut status);
        } else {
            self.describe_other(now, slot, &mut status);
        }
        status
    }

    /// Why the leader keeps the node in `slot` out though it answers, as far as this node was told lately.
    fn held_back(&self, now: Instant, slot: Slot) -> Option<HeldBackStatus> {
        let (held, said_at) = self.held()?;
        let age = now.since(said_at);
        let word = held.iter().find(|word| word.slot == slot).filter(|_| age <= TOLD_WITHIN)?;
        let left_ms = u64::from(word.for_ms).saturating_sub(age.as_millis() as u64);
        let is_over = left_ms == 0 && word.late_percent.is_none();
        let (falls, late_percent) = (u32::from(word.falls), word.late_percent.map(u32::from));
        (!is_over && !self.view().up.contains(slot)).then_some(HeldBackStatus { falls, left_ms, late_percent })
    }

    /// Who sits in `slot`, as far as this node knows.
    fn node_in(&self, slot: Slot) -> Option<NodeId> {
        if slot == self.me().slot { Some(self.me()) } else { self.view().peer(slot).or(self.view().registered(slot)) }
    }

    fn describe_myself(&self, now: Instant, status: &mut NodeStatus) {
        status.keys = Some(self.load().keys);
        status.memory_bytes = Some(self.load().memory_bytes);
        status.memory_limit_bytes = Some(self.options().memory_bytes_max);
        status.verification = Some(VerificationStatus {
            verified_ms: self.load().verified_at.map(|at| now.since(at).as_millis() as u64),
            differences: self.load().differences,
            repairs: self.load().repairs,
        });
        if let Some(pace) = self.pace() {
            status.peers = self.peers(&pace.words(now), Duration::ZERO);
            status.workers_stalled_ms = worth_telling(pace.stalled(now));
        }
        let Some(raft) = self.raft() else { return };
        status.role = role(node_kind(raft.role()));
        status.term = Some(raft.term().0);
        status.last_index = Some(raft.last_index().0);
        status.commit_index = Some(raft.commit_index().0);
    }

    /// The younger of what this node has heard itself and what others told it.
    fn describe_other(&self, now: Instant, slot: Slot, status: &mut NodeStatus) {
        let direct = self.pace().and_then(|pace| pace.heard_at(slot));
        let told = self.gossip().and_then(|gossip| gossip.entry(slot));
        if let Some((entry, said_at)) = told {
            status.role = role(entry.kind);
            status.term = Some(entry.term.0);
            status.last_index = Some(entry.last_index.0);
            status.commit_index = Some(entry.commit_index.0);
            status.keys = Some(entry.keys);
            status.memory_bytes = Some(entry.memory_bytes);
            let age_ms = now.since(said_at).as_millis() as u64;
            status.verification = Some(VerificationStatus {
                verified_ms: (entry.verified_s < u16::MAX).then(|| u64::from(entry.verified_s) * 1000 + age_ms),
                differences: entry.damage.map_or(0, |(differences, _)| u64::from(differences)),
                repairs: entry.damage.map_or(0, |(_, repairs)| u64::from(repairs)),
            });
            status.peers = self.peers(&entry.peers, now.since(said_at));
            status.workers_stalled_ms = worth_telling(Duration::from_millis(u64::from(entry.stalled_ms)));
        }
        let heard_at = direct.into_iter().chain(told.map(|(_, at)| at)).max();
        status.last_heard_ms = heard_at.map(|at| now.since(at).as_millis() as u64);
        status.round_trip_us = self.pace().and_then(|pace| pace.round_trip(slot)).map(|trip| trip.as_micros() as u64);
        let is_leader = self.view().leader.is_some_and(|leader| leader.slot == slot);
        match heard_at {
            Some(at) if now.since(at) > DEAD_AFTER => status.role = Role::Dead,
            Some(_) if is_leader => status.role = Role::Leader,
            // What it said of itself may be older than what this node knows: there is one leader.
            Some(_) if status.role == Role::Leader => status.role = Role::Follower,
            Some(_) if told.is_none() => status.role = if status.voter { Role::Follower } else { Role::Learner },
            Some(_) => {}
            None => status.role = if self.view().registered(slot).is_some() { Role::Dead } else { Role::Starting },
        }
    }

    /// How `words` says that the node hears the others, `age` later.
    fn peers(&self, words: &[PeerWord], age: Duration) -> Vec<PeerStatus> {
        let known = words.iter().filter(|word| word.slot.index() < self.options().slots);
        let peer = |word: &PeerWord| PeerStatus {
            name: self.options().name(word.slot).to_owned(),
            last_heard_ms: Some(u64::from(word.heard_ms) + age.as_millis() as u64),
            round_trip_us: word.round_trip_us.map(u64::from),
            loss: word.lost_percent.map(|percent| f64::from(percent.min(100)) / 100.0),
        };
        known.map(peer).collect()
    }

    fn timing_status(&self, now: Instant) -> TimingStatus {
        let timing = self.raft().map_or(self.options().timing, Raft::timing);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        TimingStatus {
            adaptive: self.options().timing_adapts,
            heartbeat_ms: ms(timing.heartbeat),
            election_ms: ms(timing.election),
            lease_ms: ms(timing.lease),
            down_ms: ms(timing.down),
            lateness_us: self.pace().map(|pace| pace.lateness(now).as_micros() as u64),
        }
    }
}

/// Of all who hold copies: the oldest look, and the sums.
fn of_all(nodes: &[NodeStatus]) -> VerificationStatus {
    let known = nodes.iter().filter_map(|node| node.verification);
    let holders = nodes.iter().filter(|node| node.in_sync > 0);
    let looks = holders.map(|node| node.verification.and_then(|verification| verification.verified_ms));
    let oldest = looks.reduce(|one, other| one.zip(other).map(|(one, other)| one.max(other)));
    known.fold(VerificationStatus { verified_ms: oldest.flatten(), ..VerificationStatus::default() }, |sum, node| {
        VerificationStatus {
            differences: sum.differences + node.differences,
            repairs: sum.repairs + node.repairs,
            ..sum
        }
    })
}

fn worth_telling(stalled: Duration) -> Option<u64> {
    (stalled >= STALLED_AFTER).then_some(stalled.as_millis() as u64)
}

const fn role(kind: NodeKind) -> Role {
    match kind {
        NodeKind::Starting => Role::Starting,
        NodeKind::Learner => Role::Learner,
        NodeKind::Follower => Role::Follower,
        NodeKind::Candidate => Role::Candidate,
        NodeKind::Leader => Role::Leader,
    }
}
