//! Faults after which something particular must come about, or must not, within a bound.
//!
//! Each begins with a whole cluster in peace, so that nothing else can be the cause.

mod aside;
mod draining;
mod forcing;
mod viewing;

use std::time::Duration;

use super::network::Cut;
use super::scenario::put;
use super::world::World;
use crate::base::{Rng, Slot, Term};
use crate::raft::RaftRole;

/// Within which time somebody else leads where the leader can't. Elections take a fifth of a second; the rest is for
/// times that the nodes have widened by themselves.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// A leader that nobody hears and that hears nobody steps down, and another one leads.
    LostLeader,
    /// The same where only its datagrams are lost.
    LeaderWithoutPulse,
    /// A leader whose datagrams are lost, and whose entries arrive without an answer. What it orders before it steps down
    /// is in its heir's log.
    LeaderWithoutAnswers,
    /// A leader that hears nobody, but is heard, steps down: nobody else would ever campaign.
    DeafLeader,
    /// A leader that isn't heard is replaced.
    MuteLeader,
    /// A leader whose entries reach nobody steps down, though its heartbeats do.
    LeaderWithoutStream,
    /// A leader stands still and is replaced; a follower that hears nobody but it answers a heartbeat from before just when
    /// it wakes. Nothing in particular is expected but that nobody is deceived.
    SleepingLeader,
    /// One leader after the other is lost, the first one back as soon as the second is: its log has entries that the third
    /// leader has others for.
    LeadersInTurn,
    /// The leader and one follower don't hear each other, and all others hear both. Nobody else leads because of that.
    Bridge,
    /// A follower that was cut off for a while disturbs nobody when it is back.
    LostFollower,
    /// A follower whose stream plane is dead, though its pulse is well, is declared down.
    FollowerWithoutStream,
    /// A primary that can send on the stream plane and not hear takes the healthy for dead. Its partitions go to them all
    /// the same.
    DeafPrimary,
    /// One copy of a record goes bad. It is good again within two sync intervals.
    Decay,
    /// A follower that hears the leader, but isn't heard, disturbs nobody either, nor does one that hears nobody.
    HalfLostFollower,
    /// A follower that is silent until it has lost its vote, and is heard again in the same term, gets it back.
    SetAside,
    /// A node is drained. Soon it holds nothing.
    Drain,
    /// The same with wide times, and while the node gives away what it leads it hears late of what is decided, and leadership
    /// may be handed over.
    DrainDisturbed,
    /// Viewers of the feed go away and come back: they are shown everything, whatever happens meanwhile.
    Viewers,
    /// A majority is lost at once, and the survivors go on by force.
    Recover,
}

const ALL: [Probe; 19] = [
    Probe::LostLeader,
    Probe::LeaderWithoutPulse,
    Probe::LeaderWithoutAnswers,
    Probe::DeafLeader,
    Probe::MuteLeader,
    Probe::LeaderWithoutStream,
    Probe::SleepingLeader,
    Probe::LeadersInTurn,
    Probe::Bridge,
    Probe::LostFollower,
    Probe::HalfLostFollower,
    Probe::FollowerWithoutStream,
    Probe::DeafPrimary,
    Probe::SetAside,
    Probe::Drain,
    Probe::DrainDisturbed,
    Probe::Viewers,
    Probe::Recover,
    Probe::Decay,
];

impl Probe {
    pub(super) fn draw(rng: &mut Rng, nodes: usize) -> Self {
        let probe = ALL[rng.below(ALL.len() as u64) as usize];
        match probe {
            // A leader and one other who can't vote leave too few to elect anybody.
            Self::LeaderWithoutStream if nodes < 4 => Self::DeafLeader,
            Self::SleepingLeader if nodes < 5 => Self::DeafLeader,
            probe => probe,
        }
    }

    /// Runs it on a whole cluster in peace. False where there is no leader to run it on.
    pub(super) fn run(self, world: &mut World, rng: &mut Rng) -> bool {
        let Some(leader) = world.leader() else { return false };
        world.note(|| format!("probe {self:?}, {leader} leads"));
        let nodes = world.options.nodes as u8;
        let other = Slot((leader.0 + 1 + rng.below(u64::from(nodes) - 1) as u8) % nodes);
        let others: Vec<Slot> = (0..nodes).map(Slot).filter(|slot| *slot != leader).collect();
        let one_way = |from, to| Cut { from, to, pulse: true, stream: true };
        match self {
            Self::LostLeader => world.network.isolate(leader, true, true),
            Self::LeaderWithoutPulse => world.network.isolate(leader, true, false),
            Self::LeaderWithoutAnswers => {
                world.network.isolate(leader, true, false);
                let answers = others.iter().map(|other| Cut { from: *other, to: leader, pulse: false, stream: true });
                world.network.cuts.extend(answers);
            }
            Self::DeafLeader => world.network.cuts.extend(others.iter().map(|other| one_way(*other, leader))),
            Self::MuteLeader => world.network.cuts.extend(others.iter().map(|other| one_way(leader, *other))),
            Self::LeaderWithoutStream => {
                world.network.isolate(leader, false, true);
                // Its death, which the leader wants decided, is the entry that waits.
                world.pause(other, Duration::from_millis(400));
            }
            Self::SleepingLeader => return sleep(world, rng, leader, other),
            Self::LeadersInTurn => return self.lose_leaders(world, rng, leader),
            Self::FollowerWithoutStream => return self.lose_stream(world, leader, other),
            Self::DeafPrimary => return self.deafen(world, rng),
            Self::Drain | Self::DrainDisturbed => return draining::drain(self, world, rng, leader, other),
            Self::SetAside => return aside::set_aside(world, leader, other),
            Self::Viewers => return viewing::view(world, rng),
            Self::Recover => return forcing::recover(world, rng),
            Self::Decay => return world.probe_decay(rng),
            Self::LostFollower | Self::HalfLostFollower | Self::Bridge => {
                return self.lose_follower(world, rng, leader, other);
            }
        }
        if matches!(self, Self::LostLeader | Self::DeafLeader | Self::LeaderWithoutPulse | Self::LeaderWithoutAnswers) {
            self.expect_step_down(world, leader);
        }
        let has_another = |world: &World| world.leader().is_some_and(|slot| slot != leader);
        // A node that stood still is patient, and votes late; the leader lets others go first for longer and longer.
        let within = if self == Self::LeaderWithoutStream { ELECTED_WITHIN * 3 } else { ELECTED_WITHIN };
        if !world.run_until(within, has_another) && !world.is_broken() {
            world.complain(format!("{self:?}: nobody else leads within {within:?}"));
        }
        if matches!(self, Self::LeaderWithoutPulse | Self::LeaderWithoutAnswers) {
            self.expect_up(world, &others);
        }
        // Whoever doesn't hear of its successor finds out by itself that it has lost its quorum.
        let leads_on = |world: &World| {
            let raft = world.node(leader).and_then(|node| node.control().raft());
            raft.is_some_and(|raft| raft.role() == RaftRole::Leader)
        };
        if !world.run_until(Duration::from_secs(1), |world| !leads_on(world)) && !world.is_broken() {
            world.complain(format!("{self:?}: {leader} still takes itself for the leader"));
        }
        world.network.calm();
        true
    }

    /// A leader that hears nobody must not take the others along before it steps down: they are well.
    fn expect_up(self, world: &mut World, others: &[Slot]) {
        let is_down = |world: &World| {
            let view = world.leader().and_then(|slot| world.node(slot)).map(|node| node.view())?;
            others.iter().copied().find(|slot| !view.up.contains(*slot))
        };
        // Long enough for its successor to commit what it has left behind.
        if world.run_until(Duration::from_millis(100), |world| is_down(world).is_some())
            && !world.is_broken()
            && let Some(down) = is_down(world)
        {
            world.complain(format!("{self:?}: {down} was declared down, and nothing was wrong with it"));
        }
    }

    fn lose_stream(self, world: &mut World, leader: Slot, follower: Slot) -> bool {
        world.network.isolate(follower, false, true);
        let is_down = |world: &World| {
            let led = world.leader().and_then(|slot| world.node(slot)).map(|node| node.view());
            led.is_some_and(|view| !view.up.contains(follower))
        };
        if !run_patiently(world, leader, is_down) {
            world.complain(format!("{self:?}: {leader} leads and {follower} is not declared down"));
        }
        world.network.calm();
        true
    }

    /// On slow links the times are wide, so that a primary evicts others before it is declared down itself.
    fn deafen(self, world: &mut World, rng: &mut Rng) -> bool {
        widen(world);
        let Some(leader) = world.leader() else { return false };
        let nodes = world.options.nodes as u8;
        let deaf = Slot((leader.0 + 1 + rng.below(u64::from(nodes) - 1) as u8) % nodes);
        let others = (0..nodes).map(Slot).filter(|slot| *slot != deaf);
        world.network.cuts.extend(others.map(|from| Cut { from, to: deaf, pulse: false, stream: true }));
        // It orders writes that nobody's ack reaches it for.
        for nth in 0..40 {
            let _ = world.submit(deaf, put(&format!("probe-{nth}"), "written by the deaf one"));
        }
        let has_moved = |world: &World| {
            let view = world.leader().and_then(|slot| world.node(slot)).map(|node| node.view());
            view.is_some_and(|view| {
                view.table.iter().all(|record| record.is_lost() || record.primary.is_some_and(|slot| slot != deaf))
            })
        };
        if !run_patiently(world, leader, has_moved) {
            world.complain(format!("{self:?}: {deaf} hears nobody, and its partitions are not served by others"));
        }
        world.network.calm();
        true
    }

    fn lose_leaders(self, world: &mut World, rng: &mut Rng, first: Slot) -> bool {
        let mut lost = first;
        for _ in 0..2 {
            world.network.calm();
            world.network.isolate(lost, true, true);
            let has_another = |world: &World| world.leader().is_some_and(|slot| slot != lost);
            if !world.run_until(ELECTED_WITHIN, has_another) && !world.is_broken() {
                world.complain(format!("{self:?}: nobody else leads within {ELECTED_WITHIN:?}"));
            }
            let time = rng.duration(Duration::from_millis(150));
            world.run(time);
            lost = world.leader().unwrap_or(lost);
        }
        world.network.calm();
        true
    }

    /// A leader that no quorum answers finds out by that alone, before anything else could tell it.
    fn expect_step_down(self, world: &mut World, leader: Slot) {
        let Some(raft) = world.node(leader).and_then(|node| node.control().raft()) else { return };
        let (mut promise, term) = (raft.timing().election, raft.term());
        let leads_on = |world: &World| {
            let raft = world.node(leader).and_then(|node| node.control().raft())?;
            (raft.role() == RaftRole::Leader && raft.term() == term).then(|| raft.timing().election)
        };
        world.run(promise * 3 / 2);
        // What went wrong before may have made it more patient meanwhile.
        while let Some(now) = leads_on(world).filter(|now| *now > promise) {
            promise = now;
            world.run(promise * 3 / 2);
        }
        if leads_on(world).is_some() && !world.is_broken() {
            world.complain(format!("{self:?}: nobody answers {leader}, and it still takes itself for the leader"));
        }
    }

    fn lose_follower(self, world: &mut World, rng: &mut Rng, leader: Slot, follower: Slot) -> bool {
        let before = term(world, leader);
        match self {
            Self::HalfLostFollower => {
                let is_deaf = rng.below(2) == 0;
                let cut = |other| {
                    let (from, to) = if is_deaf { (other, follower) } else { (follower, other) };
                    Cut { from, to, pulse: true, stream: true }
                };
                let others = (0..world.options.nodes).map(|slot| Slot(slot as u8)).filter(|slot| *slot != follower);
                world.network.cuts.extend(others.map(cut));
            }
            Self::Bridge => world.network.cut_both_ways(leader, follower, true, true),
            _ => world.network.isolate(follower, true, true),
        }
        let time = Duration::from_millis(200) + rng.duration(Duration::from_millis(600));
        // What it leads it goes on writing to, as far as it may.
        let end = world.now + time;
        keep_writing(world, follower, "written by the lost one", 40, Duration::from_millis(5));
        world.run(end.since(world.now));
        world.network.calm();
        world.run(Duration::from_millis(400));
        let after = term(world, leader);
        if (before, Some(leader)) != (after, world.leader()) && !world.is_broken() {
            let now = world.leader();
            world.complain(format!(
                "{self:?}: {follower} was cut off for {time:?} and unseated {leader} of term {before:?}: now {now:?} leads, term {after:?}"
            ));
        }
        true
    }
}

/// The links are slow for a while, so that the times become wide, and stay so.
fn widen(world: &mut World) {
    world.network.delay_jitter = Duration::from_millis(90);
    world.run(Duration::from_millis(1500));
    world.network.calm();
    world.run(Duration::from_millis(500));
}

/// Runs until `is_there`, for as long as that may take by the times that `leader` goes by: what went wrong before, and the
/// fault itself, may make it more patient meanwhile. Whether it came about, or something else went wrong.
fn run_patiently(world: &mut World, leader: Slot, is_there: impl Fn(&World) -> bool) -> bool {
    let begin = world.now;
    loop {
        let raft = world.node(leader).and_then(|node| node.control().raft());
        let end = begin + ELECTED_WITHIN + raft.map_or(Duration::ZERO, |raft| raft.timing().election * 8);
        if world.run_until(end.since(world.now), &is_there) || world.is_broken() {
            return true;
        }
        let raft = world.node(leader).and_then(|node| node.control().raft());
        if raft.is_none_or(|raft| begin + ELECTED_WITHIN + raft.timing().election * 8 <= world.now) {
            return false;
        }
    }
}

/// Writes `text` at `slot`, so many times, one write every so often; what comes of that is for the checks to judge.
fn keep_writing(world: &mut World, slot: Slot, text: &str, times: usize, every: Duration) {
    for nth in 0..times {
        let _ = world.submit(slot, put(&format!("probe-{nth}"), text));
        world.run(every);
    }
}

fn sleep(world: &mut World, rng: &mut Rng, leader: Slot, follower: Slot) -> bool {
    for other in (0..world.options.nodes).map(|slot| Slot(slot as u8)) {
        if other != leader && other != follower {
            world.network.cut_both_ways(follower, other, true, true);
        }
    }
    world.network.lateness = 1_000_000;
    world.run(Duration::from_millis(70));
    world.network.lateness = 0;
    let time = Duration::from_millis(400) + rng.duration(Duration::from_millis(800));
    world.pause(leader, time);
    world.run(time + Duration::from_millis(200));
    world.network.calm();
    true
}

fn term(world: &World, slot: Slot) -> Option<Term> {
    Some(world.node(slot)?.control().raft()?.term())
}
