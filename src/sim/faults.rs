//! What goes wrong, drawn from the seed.
//!
//! Each seed enables some kinds of faults only (Groce et al., "Swarm Testing", 2012): what is drowned out when everything
//! goes wrong at once is found where little does.

use std::time::Duration;

use super::asking::node_name;
use super::checks::may_hold;
use super::network::Cut;
use super::probes::Probe;
use super::process::all_living;
use super::scenario::is_whole;
use super::world::World;
use crate::api::AdminAction;
use crate::base::{Instant, PartitionId, Rng, Slot, SlotSet};
use crate::control::ControlState;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// As many as may die at once, from a whole cluster; they come back soon.
    Deaths,
    /// One dies whatever else goes on. What it may have held alone is forgiven.
    RoughDeath,
    Pause,
    Suspension,
    OneWayCut,
    OneWayIsolation,
    Partition,
    Isolation,
    Bridge,
    PulseCut,
    StreamCut,
    Heal,
    Noise,
    Delay,
    Lateness,
    Corruption,
    Replays,
    Reset,
    Wish,
    Probe,
    /// A node is told to stop. It ends when it is let go, and is missed by nobody.
    Stop,
}

/// Every kind, and how often it is drawn where it is enabled.
const KINDS: [(Fault, &str, u32); 21] = [
    (Fault::Deaths, "deaths at once", 2),
    (Fault::RoughDeath, "death under fire", 2),
    (Fault::Pause, "pause", 3),
    (Fault::Suspension, "suspension", 1),
    (Fault::OneWayCut, "one-way cut", 2),
    (Fault::OneWayIsolation, "one-way isolation", 1),
    (Fault::Partition, "two-way partition", 2),
    (Fault::Isolation, "isolation", 1),
    (Fault::Bridge, "bridge", 1),
    (Fault::PulseCut, "UDP-only cut", 1),
    (Fault::StreamCut, "TCP-only cut", 1),
    (Fault::Heal, "heal", 3),
    (Fault::Noise, "loss and duplication", 2),
    (Fault::Delay, "delay", 1),
    (Fault::Lateness, "late datagrams", 1),
    (Fault::Corruption, "corruption", 1),
    (Fault::Replays, "replays", 1),
    (Fault::Reset, "reset of connections", 1),
    (Fault::Wish, "operator's wish", 1),
    (Fault::Probe, "probe", 2),
    (Fault::Stop, "orderly stop", 2),
];

/// How long a fault waits for the cluster to be whole, where it needs that.
const WHOLE_WITHIN: Duration = Duration::from_millis(1500);
/// How often it is looked whether somebody was let go.
const STOP_LOOK: Duration = Duration::from_millis(10);

/// Draws faults and carries them out.
pub(super) struct Nemesis {
    rng: Rng,
    enabled: Vec<(Fault, &'static str, u32)>,
    /// Who comes back, and when.
    returns: Vec<(Instant, Slot)>,
    /// Who was told to stop, in which of its lives, and the number of that.
    stopping: Vec<(Slot, u64, u64)>,
}

impl Nemesis {
    pub(super) fn new(mut rng: Rng) -> Self {
        let is_rough = rng.below(8) == 0;
        let share = 250_000 + rng.below(500_000) as u32;
        let mut enabled: Vec<_> = KINDS.into_iter().filter(|_| rng.chance(share)).collect();
        enabled.retain(|(fault, _, _)| *fault != Fault::RoughDeath || is_rough);
        if !enabled.iter().any(|(fault, _, _)| *fault == Fault::Heal) {
            enabled.push((Fault::Heal, "heal", 3));
        }
        Self { rng, enabled, returns: Vec::new(), stopping: Vec::new() }
    }

    /// Faults before there is a cluster: nobody has promised anything yet, so anybody may die. As soon as somebody takes
    /// the cluster for founded, the dead of before count, and one more would be too many.
    pub(super) fn disturb_start(&mut self, world: &mut World) {
        if self.rng.below(4) != 0 {
            return;
        }
        world.count("disturbed start");
        for _ in 0..1 + self.rng.below(4) {
            let time = self.rng.duration(Duration::from_millis(150));
            world.run(time);
            let slot = self.anybody(world);
            match self.rng.below(3) {
                0 => self.make_noise(world),
                1 => world.network.isolate(slot, self.rng.below(2) == 0, true),
                _ if all_living(&world.nodes).all(|node| node.control().raft().is_none()) => {
                    world.kill(slot);
                    let time = self.rng.duration(Duration::from_millis(100));
                    world.run(time);
                    world.start(slot);
                }
                _ => {}
            }
        }
        world.network.calm();
    }

    /// One fault after another for `time`.
    pub(super) fn harm(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        let total: u32 = self.enabled.iter().map(|(_, _, weight)| weight).sum();
        while world.now < end && !world.is_broken() {
            let mut drawn = self.rng.below(u64::from(total)) as u32;
            let kind = self.enabled.iter().find(|(_, _, weight)| {
                let is_it = drawn < *weight;
                drawn = drawn.wrapping_sub(*weight);
                is_it
            });
            let Some((fault, name, _)) = kind.copied() else { return };
            world.note(|| format!("-- {name}"));
            if self.strike(world, fault) {
                world.count(name);
            }
            let most = if self.rng.below(3) == 0 { 600 } else { 150 };
            let time = self.rng.duration(Duration::from_millis(most));
            self.run(world, time);
        }
    }

    /// No more faults: the network is well, and everybody who is dead comes back.
    pub(super) fn relent(&mut self, world: &mut World) {
        world.note(|| "-- peace".to_owned());
        world.network.calm();
        self.returns.clear();
        // Whoever is about to stop does so in peace.
        for slot in (0..world.options.nodes).map(|slot| Slot(slot as u8)) {
            if world.node(slot).is_none() {
                world.start(slot);
            }
        }
    }

    /// Asks for those who were set aside to be taken back, where there are any.
    pub(super) fn ask_back(&self, world: &mut World) {
        let Some(leader) = world.leader() else { return };
        let state = world.node(leader).and_then(|node| node.control().state());
        let Some(roster) = state.filter(|state| state.settings().is_some()).map(ControlState::roster) else { return };
        let stays =
            |slot: &Slot| roster.slots.contains(*slot) && !roster.draining.union(roster.leaving).contains(*slot);
        for slot in SlotSet::first(world.options.nodes).iter().filter(|slot| !stays(slot)) {
            world.wish(leader, AdminAction::AddNode { node: node_name(slot) });
        }
    }

    /// Whether nobody is about to stop.
    pub(super) fn is_done(&self) -> bool {
        self.stopping.is_empty() && self.returns.is_empty()
    }

    /// Lets time pass; whoever is to come back meanwhile does, and whoever was let go ends.
    pub(super) fn run(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        while !self.stopping.is_empty() && world.now < end && !world.is_broken() {
            self.see_off(world);
            self.bring_back(world, STOP_LOOK.min(end.since(world.now)));
        }
        self.bring_back(world, end.since(world.now));
    }

    /// Ends those who were let go. Nothing that they held is forgiven: the others have it.
    fn see_off(&mut self, world: &mut World) {
        for (slot, life, ticket) in std::mem::take(&mut self.stopping) {
            if world.node(slot).is_none() || world.nodes[slot.index()].lives != life {
                continue;
            }
            let is_awake = world.nodes[slot.index()].paused_until <= world.now;
            match world.stop_answer(ticket) {
                // Somebody else may have died while this one was let go, before anybody could know: that is one failure more
                // than a cluster bears. It lives on until there is a majority without it.
                Some(true) if world.has_quorum_without(&[slot]) => {
                    world.kill(slot);
                    world.count("let go");
                    let after = self.rng.duration(Duration::from_millis(300));
                    self.returns.push((world.now + after, slot));
                }
                // Not now, since nobody led, or all others had just gone.
                Some(false) if is_awake => {
                    let again = world.tell_to_stop(slot);
                    self.stopping.extend(again.map(|ticket| (slot, life, ticket)));
                }
                _ => self.stopping.push((slot, life, ticket)),
            }
        }
    }

    /// Tells a node to stop, where everybody is there and known to be: of two who go within a moment nobody could promise
    /// that what only they had is kept.
    fn tell_to_stop(&mut self, world: &mut World, slot: Slot) -> bool {
        let everybody = world.running().len() == world.options.nodes;
        let is_known = |slot: &Slot| {
            let me = world.node(*slot).map(|node| node.view().me);
            let view = world.leader().and_then(|leader| world.node(leader)).map(|node| node.view());
            view.is_some_and(|view| view.registered(*slot) == me && view.up.contains(*slot))
        };
        let all_known = SlotSet::first(world.options.nodes).iter().all(|slot| is_known(&slot));
        let is_told = self.stopping.iter().any(|(told, ..)| *told == slot);
        let most = (world.options.nodes - 1) / 2;
        let is_awake = world.nodes[slot.index()].paused_until <= world.now;
        if !everybody || !all_known || is_told || !is_awake || self.stopping.len() >= most {
            return false;
        }
        let life = world.nodes[slot.index()].lives;
        let told = world.tell_to_stop(slot);
        self.stopping.extend(told.map(|ticket| (slot, life, ticket)));
        true
    }

    fn bring_back(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        self.returns.sort_unstable();
        while let Some((at, slot)) = self.returns.first().copied().filter(|(at, _)| *at <= end) {
            self.returns.remove(0);
            world.run(at.since(world.now));
            if world.node(slot).is_none() && !world.is_broken() {
                world.start(slot);
            }
        }
        world.run(end.since(world.now));
    }

    /// Calms everything and waits until the cluster is whole. False where that takes too long.
    fn calm_down(&mut self, world: &mut World) -> bool {
        world.network.calm();
        self.run(world, Duration::from_millis(200));
        if !self.is_done() {
            return false;
        }
        // A node that stands still may be declared down before the one that dies, though it is healthy.
        world.run_until(WHOLE_WITHIN, |world| world.is_at_rest() && is_whole(world)) && !world.is_broken()
    }

    fn anybody(&mut self, world: &World) -> Slot {
        Slot(self.rng.below(world.options.nodes as u64) as u8)
    }

    /// Anybody, the leader twice as often as it would be by chance.
    fn somebody(&mut self, world: &World) -> Slot {
        let anybody = self.anybody(world);
        if self.rng.below(3) == 0 { world.leader().unwrap_or(anybody) } else { anybody }
    }

    /// Two groups, neither empty.
    fn halves(&mut self, world: &World) -> (Vec<Slot>, Vec<Slot>) {
        let first = self.anybody(world);
        let slots = (0..world.options.nodes).map(|slot| Slot(slot as u8));
        let (left, right): (Vec<_>, Vec<_>) = slots.partition(|slot| *slot == first || self.rng.below(2) == 0);
        if right.is_empty() {
            (vec![first], left.into_iter().filter(|slot| *slot != first).collect())
        } else {
            (left, right)
        }
    }

    /// Does it. False where it could not be done now.
    fn strike(&mut self, world: &mut World, fault: Fault) -> bool {
        let slot = self.somebody(world);
        match fault {
            Fault::Deaths => return self.deaths(world),
            Fault::RoughDeath => return self.rough_death(world, slot),
            Fault::Pause => {
                let longest = [100, 100, 300, 300, 800, 3000][self.rng.below(6) as usize];
                world.pause(slot, self.rng.duration(Duration::from_millis(longest)));
            }
            Fault::Suspension => world.suspend(slot, self.rng.duration(Duration::from_millis(2500))),
            Fault::Heal => world.network.cuts.clear(),
            Fault::Noise => self.make_noise(world),
            Fault::Delay => {
                let longest = [5, 15, 30, 80, 1000][self.rng.below(5) as usize];
                world.network.delay_jitter = self.rng.duration(Duration::from_millis(longest));
            }
            Fault::Lateness => world.network.lateness = self.rng.below(50_000) as u32,
            Fault::Corruption => world.network.corruption = self.rng.below(50_000) as u32,
            Fault::Replays => world.network.replays = self.rng.below(100_000) as u32,
            Fault::Reset => world.network.break_all(slot),
            Fault::Wish => return self.wish(world),
            Fault::Stop => return self.tell_to_stop(world, slot),
            Fault::Probe => {
                let probe = Probe::draw(&mut self.rng, world.options.nodes);
                // An operator who waits still may get another leader in the middle of it.
                return self.calm_down(world) && world.wishes.is_empty() && probe.run(world, &mut self.rng);
            }
            _ => self.cut(world, fault, slot),
        }
        true
    }

    fn make_noise(&mut self, world: &mut World) {
        world.network.loss = self.rng.below(300_000) as u32;
        world.network.duplication = self.rng.below(500_000) as u32;
        world.network.breaks = self.rng.below(20_000) as u32;
    }

    fn cut(&mut self, world: &mut World, fault: Fault, slot: Slot) {
        let other =
            Slot((slot.0 + 1 + self.rng.below(world.options.nodes as u64 - 1) as u8) % world.options.nodes as u8);
        let others = (0..world.options.nodes).map(|slot| Slot(slot as u8)).filter(|other| *other != slot);
        match fault {
            Fault::OneWayCut => world.network.cuts.push(Cut { from: slot, to: other, pulse: true, stream: true }),
            Fault::OneWayIsolation => {
                let is_deaf = self.rng.below(2) == 0;
                for other in others {
                    let (from, to) = if is_deaf { (other, slot) } else { (slot, other) };
                    world.network.cuts.push(Cut { from, to, pulse: true, stream: true });
                }
            }
            Fault::Isolation => world.network.isolate(slot, true, true),
            Fault::PulseCut if self.rng.below(2) == 0 => world.network.isolate(slot, true, false),
            Fault::PulseCut => world.network.cut_both_ways(slot, other, true, false),
            Fault::StreamCut if self.rng.below(2) == 0 => world.network.isolate(slot, false, true),
            Fault::StreamCut => world.network.cut_both_ways(slot, other, false, true),
            Fault::Partition | Fault::Bridge => {
                let (left, right) = self.halves(world);
                for one in left.iter().filter(|one| fault != Fault::Bridge || **one != slot) {
                    for other in right.iter().filter(|other| fault != Fault::Bridge || **other != slot) {
                        world.network.cut_both_ways(*one, *other, true, true);
                    }
                }
            }
            other => unreachable!("{other:?} cuts nothing"),
        }
    }

    /// From a whole cluster in peace, as many die at once as the others can do without: with two failures one after the
    /// other there is nothing that could keep what only those two had.
    fn deaths(&mut self, world: &mut World) -> bool {
        if !self.calm_down(world) {
            return false;
        }
        let most = (world.options.nodes - 1) / 2;
        let mut victims = vec![self.somebody(world)];
        for _ in 0..self.rng.below(most as u64) {
            let another = self.anybody(world);
            if !victims.contains(&another) {
                victims.push(another);
            }
        }
        if !world.has_quorum_without(&victims) {
            return false;
        }
        for victim in victims {
            world.kill(victim);
            let longest = [5, 100, 800][self.rng.below(3) as usize];
            let after = self.rng.duration(Duration::from_millis(longest));
            self.returns.push((world.now + after, victim));
        }
        // Until the dead count as witnesses for nobody.
        self.run(world, Duration::from_millis(150));
        true
    }

    fn rough_death(&mut self, world: &mut World, slot: Slot) -> bool {
        if world.node(slot).is_none() || !world.has_quorum_without(&[slot]) {
            return false;
        }
        for partition in (0..world.options.partitions).map(PartitionId) {
            if may_hold(&world.nodes, slot, partition) {
                world.forgive(partition);
            }
        }
        world.kill(slot);
        let after = self.rng.duration(Duration::from_millis(600));
        self.returns.push((world.now + after, slot));
        true
    }

    fn wish(&mut self, world: &mut World) -> bool {
        let (asked, about) = (self.somebody(world), self.anybody(world));
        let node = node_name(about);
        let action = match self.rng.below(6) {
            0 => AdminAction::Transfer { to: None },
            1 | 2 => AdminAction::Transfer { to: Some(node) },
            3 if world.set_aside.is_empty() => AdminAction::RemoveNode { node },
            4 if world.set_aside.is_empty() => AdminAction::Drain { node },
            _ => AdminAction::AddNode { node },
        };
        let is_awake = world.node(asked).is_some() && world.nodes[asked.index()].paused_until <= world.now;
        if is_awake {
            world.wish(asked, action);
        }
        is_awake
    }
}
