//! A node whose worker threads hang, while the thread of its pulse goes on: the others must see that it is alive and take
//! its data roles away, and give them back when it moves again. Real sockets and threads, one runtime a node.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use jumpgate::api::{ClusterStatus, NodeStatus, Role};
use jumpgate::base::Slot;
use jumpgate::config::{Config, Ports, TimingConfig};
use jumpgate::node::ControlEvent;
use jumpgate::server::{Server, Sockets};
use tokio::runtime::Runtime;

const NODES: usize = 3;
/// Longer than anything here takes on a machine that does ten other things; reaching it is a failure.
/// So many clusters are tried.
const CLUSTERS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(90);

/// A node and the one worker thread that it has.
struct Node {
    server: Option<Server>,
    runtime: Runtime,
    /// What it has said of workers that hang, its own or others'.
    said: Arc<Mutex<Vec<ControlEvent>>>,
}

impl Node {
    /// Its control core answers, even where its workers hang.
    fn status(&self, asker: &Runtime) -> ClusterStatus {
        let core = self.server.as_ref().expect("it runs").core();
        asker.block_on(async { core.status().await })
    }

    fn has_said(&self, what: impl Fn(&ControlEvent) -> bool) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().any(what)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}

fn cluster() -> Vec<Node> {
    let sockets: Vec<Sockets> = (0..NODES).map(|_| Sockets::bind_loopback(0).expect("free ports")).collect();
    let ports: Vec<Ports> = sockets.iter().map(|sockets| sockets.ports().expect("they are bound")).collect();
    let mut config = Config::loopback("hanging", &ports);
    config.cluster.partitions = 16;
    // Generous, so that a machine that is busy with other tests causes no failover of its own.
    config.timing = TimingConfig {
        heartbeat: Some(Duration::from_millis(50)),
        election: Some(Duration::from_millis(600)),
        lease: Some(Duration::from_millis(400)),
        down: Some(Duration::from_millis(500)),
    };
    let start = |(slot, sockets)| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let said = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&said);
        let note = Arc::new(move |event: &ControlEvent, _: &_| {
            if matches!(event, ControlEvent::NodeHangs { .. } | ControlEvent::LeaderHangs { .. }) {
                notes.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
            }
        });
        let server = {
            let _inside = runtime.enter();
            Server::start(&config, Slot(slot as u8), sockets, note).expect("it starts")
        };
        Node { server: Some(server), runtime, said }
    };
    sockets.into_iter().enumerate().map(start).collect()
}

/// Looks again until `attempt` gives something.
fn retry<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: it did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// In every in-sync set that it should be in, and moving.
fn is_well(node: &NodeStatus) -> bool {
    node.in_sync > 0 && node.learning == 0 && node.workers_stalled_ms.is_none()
}

/// Whether the hung node's roles went because its workers hang. Its stream plane stands still as well, which alone would be a
/// reason somewhat later, and on a busy machine sooner.
fn hang_and_recover(choose: impl Fn(&ClusterStatus) -> usize) -> bool {
    let nodes = cluster();
    let asker = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let hung = retry("forming", || {
        let status = nodes[0].status(&asker);
        let is_formed = status.leader.is_some() && status.partitions.full == 16 && status.nodes.iter().all(is_well);
        is_formed.then(|| choose(&status))
    });
    let asked = &nodes[(hung + 1) % NODES];

    let (let_go, holds) = mpsc::channel::<()>();
    nodes[hung].runtime.spawn(async move { holds.recv().is_ok() });
    let told = retry("taking its roles away", || {
        let status = asked.status(&asker);
        let told = &status.nodes[hung];
        let leads = status.leader.as_ref() == Some(&told.name);
        (told.primaries == 0 && told.workers_stalled_ms.is_some() && !leads && status.leader.is_some())
            .then(|| told.clone())
    });
    assert_ne!(told.role, Role::Dead, "its pulse goes on: {told:?}");
    let own = nodes[hung].status(&asker);
    assert!(own.nodes[hung].workers_stalled_ms.is_some(), "it knows: {own:?}");
    let is_it =
        |event: &ControlEvent| matches!(event, ControlEvent::NodeHangs { node, .. } if node.slot.index() == hung);
    let resigned = nodes[hung].has_said(|event| matches!(event, ControlEvent::LeaderHangs { .. }));
    let is_the_reason = resigned || nodes.iter().any(|node| node.has_said(is_it));

    drop(let_go);
    retry("coming back", || {
        let status = asked.status(&asker);
        (status.partitions.full == 16 && status.nodes.iter().all(is_well)).then_some(())
    });
    is_the_reason
}

/// It is the reason in one of some clusters at least.
fn hang_some(choose: impl Fn(&ClusterStatus) -> usize) {
    assert!((0..CLUSTERS).any(|_| hang_and_recover(&choose)), "hanging workers are no reason to take roles away");
}

#[test]
fn a_follower_whose_workers_hang_is_down_while_its_pulse_goes_on() {
    hang_some(|status| {
        let is_follower = |node: &NodeStatus| Some(&node.name) != status.leader.as_ref();
        status.nodes.iter().position(is_follower).expect("two of three follow")
    });
}

#[test]
fn a_leader_whose_workers_hang_hands_everything_over() {
    hang_some(|status| {
        let leads = |node: &NodeStatus| Some(&node.name) == status.leader.as_ref();
        status.nodes.iter().position(leads).expect("one leads")
    });
}
