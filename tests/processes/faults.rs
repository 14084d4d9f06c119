//! What clients see while the network between the nodes is bad, and while the leader stands still.
//!
//! These are short runs of what `examples/faults` measures. They assert what was seen, never how long it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::{History, Tally};
use super::load::{Grouping, Load, LoadOptions, read};
use super::processes::{Cluster, until};
use super::relay::Relays;
use super::weather::{self, Cut, Weather};

/// Writes of a run: enough that every class of keys had its turn many times.
const WRITES: u64 = 1000;
const DEADLINE: Duration = Duration::from_secs(3);

/// A cluster behind relays, with clients.
struct Stage {
    cluster: Cluster,
    relays: Relays,
    history: Arc<History>,
    load: Load,
}

impl Stage {
    fn set(pinned: bool) -> Self {
        let mut cluster = Cluster::prepare(3, |_| {});
        let relays = Relays::start(&cluster.node_ports(), 1);
        cluster.set_views(|node, config| relays.view(node, config));
        (0..3).for_each(|node| cluster.spawn(node));
        cluster.wait_until_whole();
        let history = Arc::new(History::default());
        let options = LoadOptions {
            ports: (0..3).map(|node| cluster.port(node)).collect(),
            avoided: None,
            partitions: cluster.config.cluster.partitions,
            replicas: cluster.config.replicas(),
            grouping: Grouping::default(),
            writers_per_class: 1,
            readers: 3,
            pinned,
            pause: Duration::from_millis(2),
            deadline: DEADLINE,
            name: "faults".to_owned(),
        };
        let load = Load::start(options, &history);
        Self { cluster, relays, history, load }
    }

    /// Waits until `count` more writes were acknowledged.
    fn wait_for_writes(&self, count: u64) {
        let target = self.history.tally().acknowledged + count;
        until("writes go on", || (self.history.tally().acknowledged >= target).then_some(()));
    }

    /// Waits until keys of all owners were written again.
    fn wait_until_all_is_writable(&self) {
        let now = Instant::now();
        until("keys of all owners are written", || self.load.all_written_since(now).then_some(()));
    }

    /// Ends the clients, and expects that every promise was kept.
    fn expect_sound(mut self) -> Tally {
        self.load.stop();
        self.cluster.wait_until_whole();
        for node in 0..3 {
            let mut client = self.cluster.http(node);
            for entry in (0..).map_while(|nth| self.history.entry(nth)) {
                let floor = self.history.begin_read(&entry);
                let found = until("it is read", || read(&mut client, &entry.key, DEADLINE));
                self.history.end_read(&entry, floor, Some(found));
                self.history.end_all(&entry, floor, found);
            }
        }
        let tally = self.history.tally();
        assert!(tally.is_sound(), "{tally:?}: {:#?}", self.history.complaints());
        let told = self.cluster.leaders_told();
        let terms = told.iter().map(|(term, _)| term).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(terms.len(), told.len(), "a term had two leaders: {told:?}");
        tally
    }
}

#[test]
fn lost_doubled_and_disordered_datagrams_change_nothing_that_was_acknowledged() {
    let stage = Stage::set(false);
    let weather = Weather { loss_percent: 30, duplicate_percent: 50, reorder_percent: 20, ..Weather::default() };
    stage.relays.set_weather(weather);
    stage.wait_for_writes(3 * WRITES);
    assert!(stage.expect_sound().acknowledged >= 3 * WRITES);
}

/// A bridge: two nodes reach each other through the third one only. First that one leads, then it doesn't.
fn bridge(is_writable_meanwhile: bool) {
    let stage = Stage::set(false);
    let leader = stage.cluster.leader();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for (left, right) in [(one, other), (leader, one)] {
        stage.wait_for_writes(WRITES / 4);
        stage.relays.cut(&weather::between(left, right, Cut::BOTH));
        if is_writable_meanwhile {
            stage.wait_until_all_is_writable();
            stage.wait_for_writes(WRITES);
        } else {
            stage.wait_for_writes(WRITES / 4);
        }
        stage.relays.heal();
        stage.wait_until_all_is_writable();
    }
    stage.expect_sound();
}

#[test]
fn a_bridge_keeps_writes_going_and_loses_none() {
    bridge(false);
}

#[test]
fn a_bridge_keeps_the_keys_of_all_owners_writable() {
    bridge(true);
}

#[test]
fn a_leader_whose_datagrams_are_cut_off_takes_nothing_along() {
    let stage = Stage::set(false);
    let leader = stage.cluster.leader();
    stage.wait_for_writes(WRITES / 4);
    stage.relays.cut(&weather::around(leader, 3, Cut::PULSE));
    stage.wait_until_all_is_writable();
    let other = (leader + 1) % 3;
    let id = &stage.cluster.config.nodes[leader].id;
    until("the others have another leader", || {
        let status = stage.cluster.try_status(other)?;
        (status.quorum && status.leader.as_ref() != Some(id)).then_some(())
    });
    stage.wait_until_all_is_writable();
    stage.relays.heal();
    stage.wait_until_all_is_writable();
    stage.expect_sound();
}

#[test]
fn whatever_was_cut_once_it_heals_everything_is_writable_and_nothing_is_lost() {
    let stage = Stage::set(false);
    let mut rng = jumpgate::base::Rng::new(6);
    for _ in 0..6 {
        let round = weather::round(&mut rng, 3);
        stage.relays.cut(&round.cuts);
        std::thread::sleep(round.lasts);
        stage.relays.heal();
        stage.wait_until_all_is_writable();
    }
    stage.expect_sound();
}

#[test]
fn a_leader_that_stood_still_shows_its_readers_nothing_stale() {
    let stage = Stage::set(true);
    for _ in 0..2 {
        let leader = stage.cluster.leader();
        stage.wait_for_writes(WRITES / 4);
        stage.cluster.process(leader).signal("STOP");
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        until("the others have another leader", || {
            let status = stage.cluster.try_status(others[0])?;
            (status.quorum && status.leader.as_ref() != Some(&stage.cluster.config.nodes[leader].id)).then_some(())
        });
        stage.wait_for_writes(WRITES / 4);
        stage.cluster.process(leader).signal("CONT");
        stage.cluster.wait_until_whole();
    }
    stage.expect_sound();
}

/// Whoever is told to stop hands over what it leads: nothing is lost, and nobody has to find out that it has gone.
#[test]
fn nodes_that_are_told_to_stop_under_traffic_hand_over_and_nobody_has_to_miss_them() {
    let mut stage = Stage::set(false);
    for node in 0..3 {
        stage.wait_for_writes(WRITES / 4);
        assert!(stage.cluster.stop(node).success());
        stage.wait_until_all_is_writable();
        stage.cluster.spawn(node);
        stage.cluster.wait_until_whole();
    }
    let logs = stage.cluster.texts("err");
    let count = |words: &str| logs.iter().map(|log| log.matches(words).count()).sum::<usize>();
    assert_eq!(count("before the stop: it led nothing any more"), 3, "some were not let go");
    assert_eq!(count("proposing that it is down"), 0, "somebody had to find out that a node was gone");
    stage.expect_sound();
}
