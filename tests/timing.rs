//! Whole clusters on a virtual clock whose links or nodes are slow, lossy or hang: who leads should stay, the times should
//! follow, and everybody should be able to say what is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use jumpgate::api::{ClusterStatus, NodeStatus};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{NodeId, Slot, Timing};
use jumpgate::raft::RaftRole;
use jumpgate::sim::{Cut, World, WorldOptions, is_whole};

const PATIENCE: Duration = Duration::from_secs(10);

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn formed(nodes: usize, seed: u64) -> World {
    let mut world = World::new(WorldOptions { nodes, ..WorldOptions::default() }, seed);
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
    world
}

fn slots(world: &World) -> impl Iterator<Item = Slot> + use<> {
    (0..world.options.nodes as u8).map(Slot)
}

/// What `slot` shows people. Its clock is not the world's, so the time is the one at which it is next awake.
fn status(world: &World, slot: Slot) -> ClusterStatus {
    let control = world.node(slot).expect("it runs").control();
    control.status(control.poll_timeout())
}

fn about(status: &ClusterStatus, slot: Slot) -> &NodeStatus {
    &status.nodes[slot.index()]
}

fn timing(world: &World, slot: Slot) -> Timing {
    world.node(slot).and_then(|node| node.control().raft()).expect("it is a member").timing()
}

/// Everybody who leads or led while time passed, with their terms, and how often anybody was declared down.
#[derive(Debug, Default)]
struct Seen {
    leaders: BTreeSet<(u64, NodeId)>,
    times_down: usize,
}

/// Lets time pass and watches.
fn watch(world: &mut World, time: Duration) -> Seen {
    let mut seen = Seen::default();
    let end = world.now + time;
    let mut up_before = None;
    while world.now < end {
        world.run(Duration::from_millis(10));
        for slot in slots(world).collect::<Vec<_>>() {
            let Some(raft) = world.node(slot).and_then(|node| node.control().raft()) else { continue };
            if raft.role() == RaftRole::Leader {
                seen.leaders.insert((raft.term().0, world.node(slot).expect("it runs").view().me));
                let up = world.node(slot).expect("it runs").view().up.len();
                seen.times_down += usize::from(up_before.is_some_and(|before| up < before));
                up_before = Some(up);
            }
        }
    }
    seen
}

fn lossy(world: &mut World) {
    world.network.loss = 300_000;
    world.network.duplication = 500_000;
    // Several times what lies between two heartbeats and their acks, so that they overtake each other.
    world.network.delay_jitter = Duration::from_millis(30);
}

fn delayed(world: &mut World) {
    world.network.delay_min = Duration::from_millis(25);
    world.network.delay_jitter = Duration::from_millis(100);
}

#[test]
fn at_rest_the_times_stay_as_they_are() {
    for nodes in [3, 5] {
        let mut world = formed(nodes, 11);
        let seen = watch(&mut world, seconds(60));
        assert_eq!((seen.leaders.len(), seen.times_down), (1, 0), "{seen:?}");
        assert!(slots(&world).all(|slot| timing(&world, slot) == Timing::default()));
    }
}

#[test]
fn with_a_third_of_the_datagrams_lost_others_doubled_and_reordered_one_leader_leads_on() {
    for (nodes, seed) in [(3, 21), (5, 22)] {
        let mut world = formed(nodes, seed);
        lossy(&mut world);
        watch(&mut world, seconds(8));
        let seen = watch(&mut world, seconds(600));
        assert_eq!((seen.leaders.len(), seen.times_down), (1, 0), "{nodes} nodes, seed {seed}: {seen:?}");
        let leader = world.leader().expect("it has one");
        assert!(timing(&world, leader).election > Timing::default().election);
        assert_eq!(
            timing(&world, leader).heartbeat,
            Timing::default().heartbeat,
            "more of them fit into the wider times"
        );
        assert_eq!(world.complaints(), &[] as &[String]);
    }
}

#[test]
fn on_slow_links_the_leader_stays_once_the_times_are_wide_enough() {
    for (nodes, seed) in [(3, 31), (5, 32)] {
        let mut world = formed(nodes, seed);
        delayed(&mut world);
        watch(&mut world, seconds(15));
        let seen = watch(&mut world, seconds(300));
        assert_eq!((seen.leaders.len(), seen.times_down), (1, 0), "{nodes} nodes, seed {seed}: {seen:?}");
        assert!(slots(&world).all(|slot| timing(&world, slot).election >= Duration::from_millis(500)));
    }
}

#[test]
fn when_all_is_well_again_the_times_narrow_after_a_calm() {
    let mut world = formed(3, 41);
    delayed(&mut world);
    world.run(seconds(15));
    world.network.delay_min = Duration::from_micros(50);
    world.network.delay_jitter = Duration::from_micros(100);
    world.run(seconds(25));
    let leader = world.leader().expect("it has one");
    assert!(timing(&world, leader) != Timing::default(), "it might not be over");
    let seen = watch(&mut world, seconds(75));
    assert!(slots(&world).all(|slot| timing(&world, slot) == Timing::default()));
    assert_eq!((seen.leaders.len(), seen.times_down), (1, 0), "{seen:?}");
}

#[test]
fn a_death_is_no_loss_and_leaves_the_times_alone() {
    let mut world = formed(3, 51);
    for _ in 0..3 {
        let leader = world.leader().expect("it has one");
        world.kill(leader);
        world.run(seconds(2));
        let next = world.leader().expect("two of three have one");
        assert_eq!(timing(&world, next), Timing::default());
        world.start(leader);
        assert!(world.run_until(PATIENCE, is_whole));
    }
    assert!(slots(&world).all(|slot| timing(&world, slot) == Timing::default()));
}

#[test]
fn pauses_that_come_again_and_again_widen_the_times_and_long_stops_do_not() {
    for (pause_ms, widens) in [(70, true), (2000, false)] {
        let mut world = formed(3, 61);
        for _ in 0..8 {
            let leader = world.leader().expect("it has one");
            let paused = Slot((leader.0 + 1) % 3);
            world.pause(paused, Duration::from_millis(pause_ms));
            world.run(seconds(2));
            assert!(world.run_until(PATIENCE, is_whole));
        }
        let leader = world.leader().expect("it has one");
        assert_eq!(timing(&world, leader) != Timing::default(), widens, "pauses of {pause_ms} ms");
    }
}

/// Lets time pass in which the workers of all but `hung` make progress.
fn work(world: &mut World, hung: Option<Slot>, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        for slot in slots(world).filter(|slot| Some(*slot) != hung).collect::<Vec<_>>() {
            world.progress(slot);
        }
        world.run(Duration::from_millis(10));
    }
}

fn is_up(world: &World, slot: Slot) -> bool {
    let leader = world.leader().expect("it has one");
    world.node(leader).expect("it runs").view().up.contains(slot)
}

#[test]
fn a_node_whose_workers_hang_is_down_though_its_pulse_goes_on_and_comes_back_with_them() {
    let mut world = formed(3, 71);
    work(&mut world, None, seconds(1));
    let leader = world.leader().expect("it has one");
    let hung = Slot((leader.0 + 1) % 3);
    work(&mut world, Some(hung), Duration::from_millis(200));
    assert!(is_up(&world, hung), "a moment is nothing");
    work(&mut world, Some(hung), Duration::from_millis(300));
    assert!(!is_up(&world, hung));
    let table = std::sync::Arc::clone(&world.node(leader).expect("it runs").view().table);
    assert!(table.iter().all(|record| record.primary.is_some_and(|primary| primary != hung)), "others serve");
    for asked in slots(&world).filter(|slot| *slot != hung) {
        let status = status(&world, asked);
        let told = about(&status, hung);
        assert!(told.last_heard_ms < Some(500) && told.workers_stalled_ms > Some(100), "{told:?}");
    }
    assert_eq!(world.leader(), Some(leader));
    work(&mut world, None, seconds(5));
    assert!(is_whole(&world));
    assert_eq!(about(&status(&world, leader), hung).workers_stalled_ms, None);
    assert_eq!(world.complaints(), &[] as &[String]);
}

#[test]
fn a_leader_whose_workers_hang_leads_no_more_and_loses_its_partitions() {
    let mut world = formed(3, 72);
    work(&mut world, None, seconds(1));
    let hung = world.leader().expect("it has one");
    work(&mut world, Some(hung), seconds(1));
    assert!(world.leader().is_some_and(|leader| leader != hung), "{:?}", world.leader());
    assert!(!is_up(&world, hung));
    work(&mut world, None, seconds(5));
    assert!(is_whole(&world));
    assert_eq!(world.complaints(), &[] as &[String]);
}

#[test]
fn where_the_workers_of_all_hang_nobody_is_declared_down() {
    let mut world = formed(3, 73);
    work(&mut world, None, seconds(1));
    let leader = world.leader().expect("it has one");
    let seen = watch(&mut world, seconds(3));
    assert_eq!((world.leader(), seen.times_down), (Some(leader), 0), "{seen:?}");
}

#[test]
fn who_is_cut_off_from_the_leader_still_shows_what_the_others_see() {
    let mut world = formed(3, 81);
    let leader = world.leader().expect("it has one");
    let [cut_off, other] = [1, 2].map(|nth| Slot((leader.0 + nth) % 3));
    let cut = |from, to| Cut { from, to, pulse: true, stream: true };
    world.network.cuts = vec![cut(leader, cut_off), cut(cut_off, leader)];
    world.run(seconds(5));
    let status = status(&world, cut_off);
    let name = |slot: Slot| format!("n{}", slot.0 + 1);
    let heard = |by: Slot, of: Slot| {
        let peers = &about(&status, by).peers;
        peers.iter().find(|peer| peer.name == name(of)).cloned().unwrap_or_default()
    };
    assert!(heard(cut_off, leader).last_heard_ms > Some(4000), "it hears nothing itself: {status:#?}");
    assert!(heard(cut_off, other).last_heard_ms < Some(1500));
    let seen = heard(other, leader);
    assert!(seen.last_heard_ms < Some(1500) && seen.round_trip_us.is_some_and(|trip| trip < 1000), "{seen:?}");
    assert_eq!(seen.loss, Some(0.0));
    assert_eq!(about(&status, leader).name, name(leader));
    assert!(status.timing.is_some_and(|timing| timing.adaptive && timing.election_ms == 100.0));
}

#[test]
fn everybody_shows_the_loss_between_everybody() {
    let mut world = formed(5, 82);
    lossy(&mut world);
    world.run(seconds(30));
    let status = status(&world, Slot(0));
    for node in &status.nodes {
        assert_eq!(node.peers.len(), 4, "{node:?}");
        for peer in &node.peers {
            let loss = peer.loss.expect("they talk to each other");
            assert!((0.05..0.6).contains(&loss), "{} hears {peer:?}", node.name);
        }
    }
}

/// What was seen of a node that stands still again and again.
#[derive(Debug, Default)]
struct Slow {
    /// How often it was declared up again.
    returns: usize,
    /// Looks after the first two seconds, and those in which it was in some in-sync set.
    looks: usize,
    looks_in_sync: usize,
    /// Looks in which somebody else showed why it is kept out.
    looks_explained: usize,
}

/// For `time`, `slow` stands still for `pause` and then runs for `run`, again and again.
fn slow_down(world: &mut World, slow: Slot, (pause, run): (Duration, Duration), time: Duration) -> Slow {
    let mut seen = Slow::default();
    let begin = world.now;
    let leader = world.leader().expect("it has one");
    let other = slots(world).find(|slot| *slot != leader && *slot != slow).expect("there are three");
    let mut was_up = true;
    while world.now < begin + time {
        world.pause(slow, pause);
        let end = world.now + pause + run;
        while world.now < end {
            world.run(Duration::from_millis(5));
            let view = world.node(leader).expect("it runs").view();
            let is_up = view.up.contains(slow);
            seen.returns += usize::from(is_up && !was_up);
            was_up = is_up;
            let is_late = world.now > begin + seconds(2);
            seen.looks += usize::from(is_late);
            seen.looks_in_sync += usize::from(is_late && view.table.iter().any(|it| it.in_sync.contains(slow)));
            let held_back = about(&status(world, other), slow).held_back;
            seen.looks_explained += usize::from(is_late && held_back.is_some());
        }
    }
    seen
}

const A_TWENTIETH: (Duration, Duration) = (Duration::from_millis(95), Duration::from_millis(5));

/// What is wrong with how a cluster treats a node that runs for 5 of every 100 ms.
fn beside_a_node_that_starves(nodes: usize, seed: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut world = formed(nodes, seed);
    let leader = world.leader().expect("it has one");
    let slow = Slot((leader.0 + 1) % nodes as u8);
    let seen = slow_down(&mut world, slow, A_TWENTIETH, seconds(12));
    if seen.looks_in_sync > 0 || seen.looks_explained * 10 < seen.looks * 9 {
        found.push(format!("{slow} is in sync, or nobody says why not: {seen:?}"));
    }
    if world.leader() != Some(leader) {
        found.push(format!("{:?} leads after {leader}", world.leader()));
    }
    if !world.run_until(seconds(15), is_whole) {
        found.push(format!("{slow} runs well again and isn't let in: {:?}", world.complaints()));
    }
    // What was measured counts for 16 s, and then the times stay as they are for a calm of 30 s.
    world.run(seconds(75));
    if timing(&world, leader) != Timing::default() {
        found.push("the times stay wide because of one slow node".to_owned());
    }
    found.extend(world.complaints().iter().cloned());
    found
}

#[test]
fn a_node_that_gets_a_twentieth_of_a_processor_is_left_out_until_it_gets_more() {
    for (nodes, seed) in [(3, 91), (5, 92)] {
        assert_eq!(beside_a_node_that_starves(nodes, seed), [] as [String; 0], "{nodes} nodes, seed {seed}");
    }
}

/// Stops of more than a second are no slowness, so they widen no times.
const STOPS: (Duration, Duration) = (Duration::from_millis(1100), Duration::from_millis(300));

fn returns_between_stops(seed: u64) -> usize {
    let mut world = formed(3, seed);
    let slow = Slot((world.leader().expect("it has one").0 + 1) % 3);
    let seen = slow_down(&mut world, slow, STOPS, seconds(40));
    assert!(world.run_until(PATIENCE, is_whole), "it isn't let in again: {:?}", world.complaints());
    seen.returns
}

#[test]
fn a_node_that_falls_out_again_and_again_stays_out_for_longer_each_time() {
    let returns = returns_between_stops(93);
    assert!((5..=16).contains(&returns), "{returns} times in 28 stops");
}

#[test]
fn a_node_that_fell_out_once_or_that_restarts_is_let_in_at_once() {
    let mut world = formed(3, 94);
    let leader = world.leader().expect("it has one");
    let other = Slot((leader.0 + 1) % 3);
    world.pause(other, Duration::from_millis(1100));
    world.run(Duration::from_millis(1000));
    assert!(!is_up(&world, other));
    world.run(Duration::from_millis(300));
    assert!(is_up(&world, other), "it fell out once");
    for _ in 0..6 {
        assert!(world.run_until(PATIENCE, is_whole));
        world.kill(other);
        world.run(Duration::from_millis(200));
        world.start(other);
        assert!(world.run_until(Duration::from_millis(1500), is_whole), "a restart is no fall");
    }
}

#[test]
fn a_node_that_is_kept_out_is_let_in_at_once_where_it_is_needed() {
    let mut world = formed(3, 95);
    let leader = world.leader().expect("it has one");
    let [slow, other] = [1, 2].map(|nth| Slot((leader.0 + nth) % 3));
    slow_down(&mut world, slow, STOPS, seconds(16));
    world.run(Duration::from_millis(300));
    let held = about(&status(&world, leader), slow).held_back.expect("it is kept out");
    assert!(held.falls > 3 && held.left_ms > 1000, "{held:?}");
    world.kill(other);
    world.run(Duration::from_millis(400));
    assert!(is_up(&world, slow), "there are too few copies without it");
    assert_eq!(world.complaints(), &[] as &[String]);
}

#[test]
fn broken_rules_of_slow_nodes_are_noticed() {
    for (mutant, _) in Mutant::OF_TIMING {
        let is_noticed = with_broken(mutant, || {
            !beside_a_node_that_starves(3, 91).is_empty() || !(5..=16).contains(&returns_between_stops(93))
        });
        assert!(is_noticed, "{mutant:?} was not noticed");
    }
}
