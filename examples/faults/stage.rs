//! What every scenario stands on: a cluster of three processes at default settings, the relays between them where they
//! are wanted, clients, and the bookkeeping of what was seen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::Options;
use jumpgate::config::{Address, TimingConfig};

use super::history::{History, Tally};
use super::load::{self, Grouping, Load, LoadOptions, Longest};
use super::namespaces::Namespaces;
use super::processes::{Cluster, Start, program, until};
use super::relay::Relays;
use super::report::{Row, Times, Verdict};

/// Nodes of every cluster here.
pub const NODES: usize = 3;
/// Partitions of a cluster at default settings.
pub const PARTITIONS: u16 = 4096;
/// A write's or read's deadline: how long a client waits before it tries elsewhere.
const DEADLINE: Duration = Duration::from_millis(500);
/// A final read is tried again and again within the cluster's patience.
const FINAL_DEADLINE: Duration = Duration::from_secs(5);
/// However a request ends, it ends within so many of its deadlines.
const DEADLINES_MAX: f64 = 2.0;

/// How a scenario's cluster and clients are.
pub struct Setting {
    pub seed: u64,
    pub nodes: usize,
    /// Nodes that may join later.
    pub later: usize,
    pub grouping: Grouping,
    /// Whether the nodes' traffic goes through relays.
    pub relayed: bool,
    pub timing: TimingConfig,
    /// Of `[limits] memory`, where it isn't the default.
    pub memory_bytes: Option<u64>,
    /// How each node's process is started, where it isn't started directly.
    pub starts: Vec<(usize, Start)>,
    pub writers_per_class: usize,
    pub readers: usize,
    pub pinned: bool,
    /// A node whose gateway no client uses.
    pub avoided: Option<usize>,
    pub pause: Duration,
    pub deadline: Duration,
}

impl Setting {
    /// A light load: what is measured is the cluster, not the machine.
    pub fn light(seed: u64) -> Self {
        Self {
            seed,
            nodes: NODES,
            later: 0,
            grouping: Grouping::Owners,
            relayed: false,
            timing: TimingConfig::default(),
            memory_bytes: None,
            starts: Vec::new(),
            writers_per_class: 1,
            readers: 2 * NODES,
            pinned: false,
            avoided: None,
            pause: Duration::from_millis(10),
            deadline: DEADLINE,
        }
    }

    /// A writer of every class at every node, so that a client that one node keeps waiting doesn't hide that another one
    /// would have served it.
    pub fn everywhere(seed: u64) -> Self {
        Self {
            writers_per_class: NODES,
            pause: Duration::from_millis(15),
            deadline: Duration::from_millis(250),
            ..Self::light(seed)
        }
    }

    /// The same between relays.
    pub fn relayed(seed: u64) -> Self {
        Self { relayed: true, ..Self::everywhere(seed) }
    }

    /// Every client asks again at once.
    pub fn full(seed: u64) -> Self {
        Self { writers_per_class: 2, readers: 4, pause: Duration::ZERO, ..Self::light(seed) }
    }
}

/// A running scenario.
pub struct Stage {
    pub cluster: Cluster,
    pub relays: Option<Relays>,
    hosts: Option<Arc<Namespaces>>,
    pub history: Arc<History>,
    pub load: Load,
    checked: usize,
    told: usize,
    downs: usize,
}

impl Stage {
    /// Founds a cluster and sends the clients.
    pub fn set(setting: &Setting) -> Self {
        let mut cluster = Cluster::prepare((setting.nodes + setting.later) as u16, |config| {
            config.timing = setting.timing;
            config.cluster.partitions = PARTITIONS;
            config.limits.memory_bytes = setting.memory_bytes.unwrap_or(config.limits.memory_bytes);
        });
        if setting.later > 0 {
            cluster.set_views(|_, config| config.nodes.truncate(setting.nodes));
        }
        let relays = setting.relayed.then(|| Relays::start(&cluster.node_ports(), setting.seed));
        if let Some(relays) = &relays {
            cluster.set_views(|node, config| relays.view(node, config));
        }
        for (node, start) in &setting.starts {
            cluster.start_by(*node, start.clone());
        }
        Self::begin(setting, cluster, relays, None)
    }

    /// The same with a network namespace for each node, and a secret that they share.
    ///
    /// # Errors
    /// Where none can be made here.
    pub fn set_on_hosts(setting: &Setting) -> Result<Self, String> {
        let mut cluster = Cluster::prepare(NODES as u16, |config| {
            config.timing = setting.timing;
            config.cluster.partitions = PARTITIONS;
        });
        let ports: Vec<u16> = (0..NODES).map(|node| cluster.port(node)).collect();
        let hosts = Namespaces::make(&ports)?;
        let secret = cluster.scratch().file("secret");
        let made = program(&["secret", secret.to_str().ok_or("a path that is no text")?]).status();
        made.ok().filter(std::process::ExitStatus::success).ok_or("no secret could be made")?;
        cluster.set_views(|_, config| {
            config.security.secret_file = Some(secret.clone());
            for (node, named) in config.nodes.iter_mut().enumerate() {
                let at = |address: &mut Address| address.host = hosts.host(node).to_string();
                [&mut named.pulse, &mut named.stream, &mut named.gateway].into_iter().for_each(at);
                [&mut named.bind_pulse, &mut named.bind_stream, &mut named.bind_gateway].into_iter().for_each(at);
            }
        });
        for node in 0..NODES {
            cluster.start_by(node, Start { prefix: hosts.prefix(node), ..Start::default() });
        }
        Ok(Self::begin(setting, cluster, None, Some(Arc::new(hosts))))
    }

    fn begin(setting: &Setting, mut cluster: Cluster, relays: Option<Relays>, hosts: Option<Arc<Namespaces>>) -> Self {
        let nodes = setting.nodes;
        (0..nodes).for_each(|node| cluster.spawn(node));
        cluster.wait_until_whole();
        let history = Arc::new(History::default());
        let options = LoadOptions {
            ports: (0..nodes).map(|node| cluster.port(node)).collect(),
            avoided: setting.avoided,
            partitions: PARTITIONS,
            replicas: Options::replicas_auto(nodes),
            grouping: setting.grouping,
            writers_per_class: setting.writers_per_class,
            readers: setting.readers,
            pinned: setting.pinned,
            pause: setting.pause,
            deadline: setting.deadline,
            name: "load".to_owned(),
        };
        let load = Load::start(options, &history);
        let mut stage = Self { cluster, relays, hosts, history, load, checked: 0, told: 0, downs: 0 };
        stage.wait_until_writable();
        (stage.told, stage.downs) = (stage.leaders_told().len(), stage.count_downs());
        stage
    }

    pub fn relays(&self) -> &Relays {
        self.relays.as_ref().expect("this scenario was set with relays")
    }

    pub fn hosts(&self) -> &Arc<Namespaces> {
        self.hosts.as_ref().expect("this scenario was set on hosts of its own")
    }

    /// Waits until keys of all owners were written after this moment; how long that took.
    pub fn wait_until_writable(&self) -> Duration {
        let now = Instant::now();
        until("keys of all owners are written", || self.load.all_written_since(now).then_some(()));
        now.elapsed()
    }

    /// Stops a node's process for `time`, and lets it go on.
    pub fn stand_still(&self, node: usize, time: Duration) {
        self.stand_still_while(node, || thread::sleep(time));
    }

    /// Stops a node's process until `meanwhile` is over.
    pub fn stand_still_while<T>(&self, node: usize, meanwhile: impl FnOnce() -> T) -> T {
        self.load.note_standstill(node, true);
        self.cluster.process(node).signal("STOP");
        let result = meanwhile();
        self.cluster.process(node).signal("CONT");
        self.load.note_standstill(node, false);
        result
    }

    /// Judges the keys that were opened since the last call, or all.
    pub fn check_keys(&mut self, all: bool) {
        let first = if all { 0 } else { self.checked };
        let running = self.cluster.running();
        let mut clients: Vec<_> = running.iter().map(|node| self.cluster.http(*node)).collect();
        for nth in first.. {
            let Some(entry) = self.history.entry(nth) else { break };
            self.checked = nth + 1;
            let client = nth % clients.len();
            let floor = self.history.begin_read(&entry);
            let found = until("a key is read", || load::read(&mut clients[client], &entry.key, FINAL_DEADLINE));
            self.history.end_read(&entry, floor, Some(found));
            self.history.end_all(&entry, floor, found);
        }
    }

    /// Every (term, leader) that was told of.
    pub fn leaders_told(&self) -> BTreeSet<(u64, String)> {
        self.cluster.leaders_told()
    }

    /// How many leaders there were since the clients came.
    pub fn leader_changes(&self) -> usize {
        self.leaders_told().len() - self.told
    }

    /// How often a node was declared down since the clients came.
    pub fn downs(&self) -> usize {
        self.count_downs() - self.downs
    }

    fn count_downs(&self) -> usize {
        let logs = self.cluster.texts("err");
        logs.iter().map(|log| log.matches("proposing that it is down").count()).sum()
    }

    pub fn tally(&self) -> Tally {
        self.history.tally()
    }

    /// The same, and how long writes took.
    pub fn end_with_latencies(mut self, row: &mut Row) {
        self.load.stop();
        row.times.extend(Times::of_distribution("writes", &self.load.latencies()));
        self.end(row);
    }

    /// Ends the clients, judges everything that is left, and adds it to the row.
    pub fn end(mut self, row: &mut Row) {
        self.load.stop();
        self.cluster.wait_until_whole();
        self.check_keys(true);
        row.leader_changes += self.leader_changes();
        row.declared_down += self.downs();
        let told = self.leaders_told();
        let terms: BTreeSet<u64> = told.iter().map(|(term, _)| *term).collect();
        row.require(terms.len() == told.len(), Verdict::Broken, || format!("a term had two leaders: {told:?}"));
        require_ends(row, &self.load.longest());
        row.enter(&self.tally(), self.history.complaints());
    }
}

/// Row 17: every request ends, in whatever way, within twice its deadline.
pub fn require_ends(row: &mut Row, longest: &Longest) {
    let Longest { took, deadlines, what } = longest;
    let text = format!("the longest request, {what}, took {} ms: {deadlines:.2} of its deadline", took.as_millis());
    if *deadlines > DEADLINES_MAX {
        row.require(false, Verdict::Broken, || text);
    } else {
        row.notes.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_outlives_twice_its_deadline_breaks_a_promise_and_a_shorter_one_is_told() {
        let judge = |deadlines| {
            let mut row = Row::new("a", String::new(), "");
            require_ends(&mut row, &Longest { took: Duration::from_millis(10), deadlines, what: "a read".to_owned() });
            (row.verdict, row.notes.len())
        };
        assert_eq!((judge(2.0), judge(2.01)), ((Verdict::Met, 1), (Verdict::Broken, 1)));
    }
}
