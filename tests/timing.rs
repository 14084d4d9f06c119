//! Whole clusters on a virtual clock whose links or nodes are slow, lossy or hang: who leads should stay, the times should
//! follow, and everybody should be able to say what is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use jumpgate::api::{ClusterStatus, NodeStatus};
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
