//! How processes that know no cluster found one, or find one.
//!
//! Nothing is on disk, so a process can't prove that there is no cluster that it has merely forgotten; only *all* of them
//! together can. So founding is unanimous, in two steps:
//!
//! ```text
//! BLANK ──heard BLANK or ACCEPTED from every slot──▶ ACCEPTED(id) ──heard ACCEPTED(id) from every slot──▶ member(id)
//!   ▲                                                    │                 (or "member of id" from anyone)
//!   └──────────── gives up, as a new incarnation ◀───────┘ too long, or somebody started anew
//!
//! BLANK ──hears "member of id": waits for that cluster's leader to address it by name──▶ learner(id)
//! ```
//!
//! The cluster's id is derived from the vector of all incarnations, so two processes that see the same vector propose the
//! same cluster. Whoever accepted and has not begun has promised nothing to anybody; giving up means to die and start as
//! somebody else, which is always safe. A majority is never enough: the rest might be the survivors of a cluster with data.
//!
//! Where a configured node is gone for good, an operator says so ([`Bootstrap::force`]): the named slots are left out, on
//! every process that hears of it and doesn't hear one of them. Nobody but the operator can know that they are no
//! survivors.
//!
//! Announcements go to every peer each [`ANNOUNCE_EVERY`], and at once when the phase changes. They are the only messages
//! that are accepted from outside the cluster.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ClusterId, Generation, Incarnation, Instant, NodeId, Rng, Slot, SlotSet};

/// How often a process without a cluster announces itself. It bounds the time that founding takes (a few of these) and
/// what it costs (one small datagram a peer).
pub const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);
/// An announcement older than this says nothing any more: its sender may have died.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// How long an acceptance waits for the others, before it gives up. Plus as much again at random, so that not all give up
/// together for ever.
const ACCEPT_FOR: Duration = Duration::from_secs(2);

/// What a process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Announcement {
    /// It knows no cluster.
    Blank {
        /// The slots that an operator has declared missing.
        without: SlotSet,
    },
    /// It has agreed to found this cluster and waits for the others.
    Accepted {
        /// The id that follows from the incarnations that it sees.
        cluster: ClusterId,
        /// The slots that an operator has declared missing.
        without: SlotSet,
    },
    /// It belongs to a cluster. Members say so when somebody announces itself, and when they have heard of no leader for long.
    Member {
        /// Which.
        cluster: ClusterId,
        /// Its generation.
        generation: Generation,
    },
}

/// What comes of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapOutput {
    /// Tell this slot.
    Announce {
        /// Which.
        to: Slot,
        /// What.
        announcement: Announcement,
    },
    /// The cluster is founded, by these identities in the order of their slots.
    Founded {
        /// Its id.
        cluster: ClusterId,
        /// Who founded it.
        founders: Vec<NodeId>,
    },
    /// This process is somebody else from now on, and BLANK again.
    Reborn {
        /// Who it is now.
        me: NodeId,
    },
}

/// A process that knows no cluster.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    me: NodeId,
    cluster_name: String,
    heard: Vec<Option<Heard>>,
    accepted: Option<Accepted>,
    /// Slots that needn't answer.
    without: SlotSet,
    has_founded: bool,
    announce_at: Instant,
    /// After a rebirth nothing is accepted before then: until everybody has heard who is who by now. Accepted at once, one
    /// rebirth leads to the next, as fast as datagrams travel.
    rests_until: Instant,
    outputs: Vec<BootstrapOutput>,
    rng: Rng,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    incarnation: Incarnation,
    announcement: Announcement,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Accepted {
    cluster: ClusterId,
    gives_up_at: Instant,
}

impl Bootstrap {
    /// A BLANK process in a configuration of `slots` slots.
    #[must_use]
    pub fn new(me: NodeId, slots: usize, cluster_name: &str, now: Instant, rng: Rng) -> Self {
        Self {
            me,
            cluster_name: cluster_name.to_owned(),
            heard: vec![None; slots],
            accepted: None,
            without: SlotSet::EMPTY,
            has_founded: false,
            announce_at: now,
            rests_until: now,
            outputs: Vec::new(),
            rng,
        }
    }

    /// Takes a peer's announcement.
    pub fn handle_announcement(&mut self, now: Instant, from: NodeId, announcement: Announcement) {
        if self.has_founded || from.slot == self.me.slot || from.slot.index() >= self.heard.len() {
            return;
        }
        let before =
            self.heard[from.slot.index()].replace(Heard { incarnation: from.incarnation, announcement, at: now });
        let is_other_life = before.is_some_and(|before| before.incarnation != from.incarnation);
        if let Some(accepted) = self.accepted {
            // Whoever this process agreed with has died, or already belongs elsewhere: that cluster can't be founded.
            let is_elsewhere =
                matches!(announcement, Announcement::Member { cluster, .. } if cluster != accepted.cluster);
            if is_other_life || is_elsewhere {
                self.give_up(now);
                return;
            }
        }
        self.heed_operator(now, from.slot, announcement);
        self.maybe_accept(now);
        self.maybe_begin(now);
    }

    /// The slots that have not been heard of late, this process's own and those declared missing left out.
    #[must_use]
    pub fn silent(&self, now: Instant) -> SlotSet {
        let everybody = SlotSet::first(self.heard.len());
        everybody.iter().filter(|&slot| slot != self.me.slot && !self.is_heard(now, slot)).collect()
    }

    /// Leaves the slots in `without` out of the founding: an operator knows that they are gone for good.
    pub fn force(&mut self, now: Instant, without: SlotSet) {
        self.without = without.without(self.me.slot);
        self.announce(now);
        self.maybe_accept(now);
        self.maybe_begin(now);
    }

    fn is_heard(&self, now: Instant, slot: Slot) -> bool {
        self.heard[slot.index()].is_some_and(|heard| now.since(heard.at) < HEARD_FOR)
    }

    /// Takes over what an operator has told another process, unless this one knows better: who is heard isn't missing.
    fn heed_operator(&mut self, now: Instant, from: Slot, announcement: Announcement) {
        if self.accepted.is_some() {
            return;
        }
        self.without.remove(from);
        if let Announcement::Blank { without } | Announcement::Accepted { without, .. } = announcement
            && !without.contains(self.me.slot)
            && without.iter().all(|slot| slot.index() < self.heard.len() && !self.is_heard(now, slot))
        {
            self.without = self.without.union(without);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.accepted.is_some_and(|accepted| now >= accepted.gives_up_at) {
            self.give_up(now);
        }
        self.maybe_accept(now);
        self.maybe_begin(now);
        if now >= self.announce_at {
            self.announce(now);
        }
    }

    /// Who was heard in `slot` lately.
    #[must_use]
    pub fn heard(&self, now: Instant, slot: Slot) -> Option<NodeId> {
        let heard = self.heard.get(slot.index())?.as_ref()?;
        (now.since(heard.at) < HEARD_FOR).then(|| NodeId::new(slot, heard.incarnation))
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.accepted.map_or(self.announce_at, |accepted| self.announce_at.min(accepted.gives_up_at))
    }

    /// What the inputs caused.
    pub fn poll_output(&mut self) -> Option<BootstrapOutput> {
        (!self.outputs.is_empty()).then(|| self.outputs.remove(0))
    }

    /// What this process says of itself.
    #[must_use]
    pub fn announcement(&self) -> Announcement {
        let without = self.without;
        self.accepted.map_or(Announcement::Blank { without }, |Accepted { cluster, .. }| Announcement::Accepted {
            cluster,
            without,
        })
    }

    fn announce(&mut self, now: Instant) {
        let announcement = self.announcement();
        let peers = (0..self.heard.len()).map(|slot| Slot(slot as u8)).filter(|&slot| slot != self.me.slot);
        self.outputs.extend(peers.map(|to| BootstrapOutput::Announce { to, announcement }));
        self.announce_at = now + ANNOUNCE_EVERY;
    }

    /// BLANK → ACCEPTED once every slot is heard, and none of them belongs to a cluster.
    fn maybe_accept(&mut self, now: Instant) {
        if self.accepted.is_some()
            || now < self.rests_until
            || !self.every_peer(now, |heard| !matches!(heard.announcement, Announcement::Member { .. }))
        {
            return;
        }
        let cluster = cluster_id(&self.cluster_name, &self.founders());
        let gives_up_at = now + ACCEPT_FOR + self.rng.duration(ACCEPT_FOR);
        self.accepted = Some(Accepted { cluster, gives_up_at });
        self.announce(now);
    }

    /// ACCEPTED → member once everybody has accepted the same, or somebody has already begun because of that.
    fn maybe_begin(&mut self, now: Instant) {
        let Some(Accepted { cluster, .. }) = self.accepted.filter(|_| !self.has_founded) else { return };
        let has_begun = |heard: &Heard| matches!(heard.announcement, Announcement::Member { cluster: theirs, .. } if theirs == cluster);
        let has_accepted = |heard: &Heard| {
            matches!(heard.announcement, Announcement::Accepted { cluster: theirs, .. } if theirs == cluster)
                || has_begun(heard)
        };
        let somebody_began = self.heard.iter().flatten().any(has_begun);
        if somebody_began || self.every_peer(now, has_accepted) {
            // A last word, so that the others needn't wait for the next announcement.
            self.announce(now);
            self.has_founded = true;
            self.outputs.push(BootstrapOutput::Founded { cluster, founders: self.founders() });
        }
    }

    /// Dies and starts as somebody else: nobody can hold it to what it accepted.
    fn give_up(&mut self, now: Instant) {
        self.me.incarnation = Incarnation(self.rng.bits_128());
        self.accepted = None;
        self.rests_until = now + ANNOUNCE_EVERY + self.rng.duration(ANNOUNCE_EVERY);
        self.outputs.push(BootstrapOutput::Reborn { me: self.me });
        self.announce(now);
    }

    fn every_peer(&self, now: Instant, condition: impl Fn(&Heard) -> bool) -> bool {
        if is_broken(Mutant::FoundByMajority) {
            let fresh = self.heard.iter().flatten().filter(|heard| now.since(heard.at) < HEARD_FOR && condition(heard));
            return (fresh.count() + 1) * 2 > self.heard.len();
        }
        self.heard.iter().enumerate().all(|(slot, heard)| {
            slot == self.me.slot.index()
                || self.without.contains(Slot(slot as u8))
                || heard.as_ref().is_some_and(|heard| now.since(heard.at) < HEARD_FOR && condition(heard))
        })
    }

    fn founders(&self) -> Vec<NodeId> {
        let there = SlotSet::first(self.heard.len()).difference(self.without);
        let founders = there.iter().map(|slot| {
            let incarnation = self.heard[slot.index()].map_or(Incarnation::default(), |heard| heard.incarnation);
            if slot == self.me.slot { self.me } else { NodeId::new(slot, incarnation) }
        });
        founders.collect()
    }
}

/// The id of the cluster of this name that these identities found: never [`ClusterId::NONE`].
fn cluster_id(name: &str, founders: &[NodeId]) -> ClusterId {
    let mut hasher = blake3::Hasher::new_derive_key("jumpgate cluster id, from the founders' incarnations");
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    for founder in founders {
        hasher.update(&[founder.slot.0]);
        hasher.update(&founder.incarnation.0.to_le_bytes());
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    ClusterId(u128::from_le_bytes(bytes).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_just_reborn_accepts_nothing_before_everybody_has_heard_of_it() {
        let me = NodeId::new(Slot(0), Incarnation(1));
        let mut process = Bootstrap::new(me, 2, "test", Instant::ZERO, Rng::new(1));
        let blank = Announcement::Blank { without: SlotSet::EMPTY };
        let peer = |life| NodeId::new(Slot(1), Incarnation(life));
        let has_accepted = |process: &Bootstrap| matches!(process.announcement(), Announcement::Accepted { .. });
        process.handle_announcement(Instant(1), peer(7), blank);
        assert!(has_accepted(&process));
        process.handle_announcement(Instant(2), peer(8), blank);
        assert!(!has_accepted(&process), "its peer has died, so it starts anew");
        process.handle_announcement(Instant(3), peer(8), blank);
        assert!(!has_accepted(&process), "it would be reborn for each rebirth of another");
        let later = Instant(3) + ANNOUNCE_EVERY * 2;
        process.handle_announcement(later, peer(8), blank);
        assert!(has_accepted(&process));
    }

    /// Some processes, and a network that delivers at once what `delivers` lets through.
    struct World {
        nodes: Vec<Bootstrap>,
        founded: Vec<Option<(ClusterId, Vec<NodeId>)>>,
        now: Instant,
    }

    impl World {
        fn new(count: usize) -> Self {
            let blank = |slot: usize| {
                let me = NodeId::new(Slot(slot as u8), Incarnation(100 + slot as u128));
                Bootstrap::new(me, count, "test", Instant::ZERO, Rng::new(slot as u64))
            };
            Self { nodes: (0..count).map(blank).collect(), founded: vec![None; count], now: Instant::ZERO }
        }

        fn run(&mut self, time: Duration, mut delivers: impl FnMut(usize, usize) -> bool) {
            let end = self.now + time;
            while self.now < end {
                for from in 0..self.nodes.len() {
                    if self.founded[from].is_none() {
                        self.nodes[from].handle_timeout(self.now);
                    }
                    while let Some(output) = self.nodes[from].poll_output() {
                        match output {
                            BootstrapOutput::Announce { to, announcement } if delivers(from, to.index()) => {
                                let me = self.nodes[from].me;
                                let reply = self.founded[to.index()].clone();
                                if let Some((cluster, _)) = reply {
                                    let member = Announcement::Member { cluster, generation: Generation(0) };
                                    let peer = self.nodes[to.index()].me;
                                    if delivers(to.index(), from) {
                                        self.nodes[from].handle_announcement(self.now, peer, member);
                                    }
                                } else {
                                    self.nodes[to.index()].handle_announcement(self.now, me, announcement);
                                }
                            }
                            BootstrapOutput::Founded { cluster, founders } => {
                                self.founded[from] = Some((cluster, founders))
                            }
                            BootstrapOutput::Announce { .. } | BootstrapOutput::Reborn { .. } => {}
                        }
                    }
                }
                self.now = self.now + Duration::from_millis(10);
            }
        }
    }

    #[test]
    fn all_blank_processes_found_one_cluster() {
        let mut world = World::new(5);
        world.run(Duration::from_millis(300), |_, _| true);
        assert!(world.founded[0].is_some());
        assert!(world.founded.iter().all(|founded| *founded == world.founded[0]));
    }

    #[test]
    fn one_silent_slot_keeps_all_from_founding() {
        let mut world = World::new(5);
        world.run(Duration::from_secs(20), |from, _| from != 3);
        assert!(world.founded.iter().enumerate().all(|(slot, founded)| founded.is_none() || slot == 3));
        assert!(world.founded[3].is_none(), "it heard nobody's acceptance of what it sees");
    }

    #[test]
    fn a_process_that_began_alone_draws_the_others_in() {
        let mut world = World::new(3);
        // Slot 0 hears everything; its own words get lost from the moment it has accepted.
        world.run(Duration::from_millis(100), |from, to| to == 0 || from != 0);
        world.run(Duration::from_secs(1), |_, _| true);
        assert!(world.founded[0].is_some());
        assert!(world.founded.iter().all(|founded| *founded == world.founded[0]));
    }

    #[test]
    fn losses_only_delay_and_never_split() {
        for seed in 0..200 {
            let mut world = World::new(4);
            let mut rng = Rng::new(seed);
            world.run(Duration::from_secs(3), |_, _| rng.chance(500_000));
            world.run(Duration::from_secs(30), |_, _| true);
            assert!(world.founded[0].is_some(), "seed {seed}");
            assert!(
                world.founded.iter().all(|founded| *founded == world.founded[0]),
                "seed {seed}: {:?}",
                world.founded
            );
        }
    }

    #[test]
    fn a_restart_in_the_middle_starts_the_founding_anew() {
        let mut bootstrap = Bootstrap::new(NodeId::new(Slot(0), Incarnation(1)), 2, "test", Instant::ZERO, Rng::new(1));
        bootstrap.handle_announcement(
            Instant(1),
            NodeId::new(Slot(1), Incarnation(2)),
            Announcement::Blank { without: SlotSet::EMPTY },
        );
        assert!(bootstrap.accepted.is_some());
        bootstrap.handle_announcement(
            Instant(2),
            NodeId::new(Slot(1), Incarnation(3)),
            Announcement::Blank { without: SlotSet::EMPTY },
        );
        let reborn = std::iter::from_fn(|| bootstrap.poll_output())
            .any(|output| matches!(output, BootstrapOutput::Reborn { me } if me.incarnation != Incarnation(1)));
        assert!(reborn && bootstrap.accepted.is_none(), "it agreed with somebody who is gone");
    }

    #[test]
    fn an_operator_founds_without_a_node_that_is_gone_and_never_without_one_that_answers() {
        let mut world = World::new(3);
        world.run(Duration::from_secs(1), |from, to| from != 2 && to != 2);
        assert!(world.founded.iter().all(Option::is_none));
        assert_eq!(world.nodes[0].silent(world.now), SlotSet::EMPTY.with(Slot(2)));
        world.nodes[0].force(world.now, SlotSet::EMPTY.with(Slot(2)));
        world.run(Duration::from_millis(300), |from, to| from != 2 && to != 2);
        let founders: Vec<u8> =
            world.founded[0].iter().flat_map(|(_, founders)| founders).map(|node| node.slot.0).collect();
        assert_eq!(founders, [0, 1]);
        assert!(world.founded[0] == world.founded[1] && world.founded[2].is_none());

        // The operator is wrong about n3: it answers n2, which goes on waiting for all.
        let mut world = World::new(3);
        world.run(Duration::from_millis(60), |from, to| from + to != 2);
        world.nodes[0].force(world.now, SlotSet::EMPTY.with(Slot(2)));
        world.run(Duration::from_secs(1), |from, to| from + to != 2);
        assert!(world.founded.iter().all(Option::is_none), "{:?}", world.founded);
    }
}
