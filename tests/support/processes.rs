//! Clusters of real processes: started, killed and started again, each test's on ports of its own.

#[path = "scratch.rs"]
mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use jumpgate::api::{ClusterStatus, Role};
use jumpgate::config::{Config, Ports, TimingConfig};

pub use scratch::Scratch;

use super::http::Http;

/// Longer than anything here takes on a machine that does ten other things; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Partitions of a test's cluster: enough that every node leads many, few enough that ten clusters share two cores.
const PARTITIONS: u16 = 256;

/// Looks again and again until `attempt` gives something.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "after {PATIENCE:?} it had not happened: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Ports that nobody else takes while this value lives.
///
/// They are below those that the system gives to outgoing connections, so that none of those takes the port of a node
/// that is dead at the moment. The first port of each block is held open: that is how test programs that run at the same
/// time keep out of each other's way.
pub struct PortBlock {
    first: u16,
    _claims: Vec<TcpListener>,
}

/// Ports of a block, the first included.
const BLOCK_PORTS: u16 = 40;
/// `dev --print-config` puts the pulse plane and the stream plane 1000 and 2000 above the gateways.
const PRINTED_BLOCKS: [u16; 3] = [0, 1000 / BLOCK_PORTS, 2000 / BLOCK_PORTS];
const FIRST_PORT: u16 = 10_000;
const BLOCKS: u16 = 500;

impl PortBlock {
    /// A block for the nodes of one cluster.
    pub fn claim() -> Self {
        Self::claim_all(&[0])
    }

    /// A block whose `first` port is good for `dev --print-config --port`.
    pub fn claim_for_print() -> Self {
        Self::claim_all(&PRINTED_BLOCKS)
    }

    fn claim_all(offsets: &[u16]) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Programs that start together look at different places first.
        let start = std::process::id() as u16;
        for _ in 0..2 * BLOCKS {
            let block = start.wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let claims: Option<Vec<TcpListener>> = offsets.iter().map(|offset| claim_block(block + offset)).collect();
            if let Some(_claims) = claims {
                return Self { first: FIRST_PORT + block * BLOCK_PORTS, _claims };
            }
        }
        panic!("no block of {BLOCK_PORTS} ports is free");
    }

    /// The port below those of the nodes.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The ports of `nodes` nodes.
    pub fn of_nodes(&self, nodes: u16) -> Vec<Ports> {
        assert!(3 * nodes < BLOCK_PORTS, "{nodes} nodes don't fit a block");
        let ports = |node: u16| Ports {
            gateway: self.first + node,
            pulse: self.first + nodes + node,
            stream: self.first + 2 * nodes + node,
        };
        (1..=nodes).map(ports).collect()
    }
}

fn claim_block(block: u16) -> Option<TcpListener> {
    let first = FIRST_PORT + block * BLOCK_PORTS;
    let claim = TcpListener::bind(("127.0.0.1", first)).ok()?;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
    (first + 1..first + BLOCK_PORTS).all(is_free).then_some(claim)
}

/// The program under test, where it isn't the one that cargo built for this one.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Says which program is under test. Only the first call counts.
pub fn use_binary(path: &Path) {
    let _ = BINARY.set(path.to_owned());
}

/// Tests are told by cargo where the program is. An example lies in a folder beside it.
fn binary() -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("jumpgate"));
    let built = option_env!("CARGO_BIN_EXE_jumpgate").map(PathBuf::from);
    BINARY.get().cloned().or(built).or_else(beside).expect("the program is somewhere")
}

/// The program, with nothing of this process's environment.
pub fn program(arguments: &[&str]) -> Command {
    clean(Command::new(binary()), arguments)
}

/// The same, started by another program: `prefix` is that one and its arguments.
fn program_below(prefix: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(binary());
    clean(command, arguments)
}

fn clean(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).env_clear().env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// A running program whose output goes to files. It is killed when this value goes.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; `name` is that of its files.
    pub fn start(mut command: Command, scratch: &Scratch, name: &str) -> Self {
        let (stdout, stderr) = (scratch.file(&format!("{name}.out")), scratch.file(&format!("{name}.err")));
        command.stdout(File::create(&stdout).expect("a file")).stderr(File::create(&stderr).expect("a file"));
        Self { child: command.spawn().expect("the program starts"), stdout, stderr }
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.stdout).expect("text on stdout")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).expect("text on stderr")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of this process").is_none()
    }

    /// Ends it as a crash does: it has no time for anything.
    pub fn kill(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it is a child of this process");
    }

    /// Sends it a signal, by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -s {name} {}", self.child.id())).status();
        assert!(sent.expect("a shell").success(), "no {name} was sent");
    }

    /// Sends it a signal that asks it to end, and waits until it has.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        until(&format!("the process ends after {signal}"), || self.child.try_wait().expect("it is a child"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keys and their values.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// `count` keys that begin with `prefix`.
pub fn contents(prefix: &str, count: usize) -> Contents {
    let value = |nth: usize| format!("value {nth} of {prefix}").repeat(1 + nth % 7).into_bytes();
    (0..count).map(|nth| (format!("{prefix}{nth:05}"), value(nth))).collect()
}

/// How a node's process is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The program that starts it, with its arguments; nothing: it is started directly.
    pub prefix: Vec<String>,
    /// Variables of its environment, which has no others.
    pub environment: Vec<(String, String)>,
}

/// A cluster of `jumpgate serve`, a process for each node. Nodes are numbered from 0 here: node 0 is n1.
pub struct Cluster {
    pub config: Config,
    nodes: Vec<Option<Process>>,
    ways_to_start: Vec<Start>,
    lives: usize,
    scratch: Scratch,
    _ports: PortBlock,
}

impl Cluster {
    /// Starts all nodes and waits until the cluster is whole.
    pub fn start(nodes: u16) -> Self {
        Self::start_with(nodes, |_| {})
    }

    /// The same with a configuration of its own.
    pub fn start_with(nodes: u16, change: impl FnOnce(&mut Config)) -> Self {
        let mut cluster = Self::prepare(nodes, change);
        (0..usize::from(nodes)).for_each(|node| cluster.spawn(node));
        cluster.wait_until_whole();
        cluster
    }

    /// Writes the configuration and starts nothing.
    pub fn prepare(nodes: u16, change: impl FnOnce(&mut Config)) -> Self {
        let ports = PortBlock::claim();
        let mut config = Config::loopback("processes", &ports.of_nodes(nodes));
        config.cluster.partitions = PARTITIONS;
        // Generous, so that a machine that is busy with other tests causes no failover of its own.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(500)),
            lease: Some(Duration::from_millis(400)),
            down: Some(Duration::from_millis(450)),
        };
        change(&mut config);
        let scratch = Scratch::new();
        fs::write(scratch.file("cluster.toml"), config.to_toml()).expect("a file");
        let processes = (0..nodes).map(|_| None).collect();
        let ways_to_start = (0..nodes).map(|_| Start::default()).collect();
        Self { config, nodes: processes, ways_to_start, lives: 0, scratch, _ports: ports }
    }

    /// Gives each node a configuration file of its own, which `change` makes of the common one.
    pub fn set_views(&self, change: impl Fn(usize, &mut Config)) {
        for node in 0..self.nodes.len() {
            let mut config = self.config.clone();
            change(node, &mut config);
            fs::write(self.own_file(node), config.to_toml()).expect("a file");
        }
    }

    fn own_file(&self, node: usize) -> PathBuf {
        self.scratch.file(&format!("{}.toml", self.config.nodes[node].id))
    }

    /// Says how a node's process is started from now on.
    pub fn start_by(&mut self, node: usize, start: Start) {
        self.ways_to_start[node] = start;
    }

    /// The command that runs a node.
    pub fn command(&self, node: usize) -> Command {
        let own = self.own_file(node);
        let file = if own.exists() { own } else { self.scratch.file("cluster.toml") };
        let file = file.to_str().expect("a path of text");
        let arguments = ["serve", "--config", file, "--node", &self.config.nodes[node].id];
        let Start { prefix, environment } = &self.ways_to_start[node];
        let mut command = if prefix.is_empty() { program(&arguments) } else { program_below(prefix, &arguments) };
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a node that isn't running.
    pub fn spawn(&mut self, node: usize) {
        assert!(self.nodes[node].is_none(), "n{} runs already", node + 1);
        self.lives += 1;
        let name = format!("n{}-{}", node + 1, self.lives);
        self.nodes[node] = Some(Process::start(self.command(node), &self.scratch, &name));
    }

    /// Kills nodes, all at once. Their files stay.
    pub fn kill(&mut self, nodes: &[usize]) {
        let mut killed: Vec<Process> =
            nodes.iter().map(|&node| self.nodes[node].take().expect("it was running")).collect();
        killed.iter_mut().for_each(|process| process.child.kill().expect("it was running"));
        killed.iter_mut().for_each(Process::kill);
    }

    /// Lets a node end by itself.
    pub fn stop(&mut self, node: usize) -> ExitStatus {
        self.nodes[node].take().expect("it was running").stop("TERM")
    }

    /// A node that runs.
    pub fn process(&self, node: usize) -> &Process {
        self.nodes[node].as_ref().expect("it runs")
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].is_some()).collect()
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The port of a node's gateway.
    pub fn port(&self, node: usize) -> u16 {
        self.config.nodes[node].gateway.port
    }

    /// The ports that the nodes themselves listen on.
    pub fn node_ports(&self) -> Vec<Ports> {
        let ports = self.config.nodes.iter().map(|node| Ports {
            pulse: node.bind_pulse.port,
            stream: node.bind_stream.port,
            gateway: node.bind_gateway.port,
        });
        ports.collect()
    }

    pub fn http(&self, node: usize) -> Http {
        Http::new(self.port(node))
    }

    /// All gateways, as the command line takes them.
    pub fn urls(&self) -> String {
        self.config.nodes.iter().map(|node| node.advertise.as_str()).collect::<Vec<_>>().join(",")
    }

    // ---- what it says of itself --------------------------------------------------------------------------------

    /// The cluster as `node` sees it; none where it doesn't answer.
    pub fn try_status(&self, node: usize) -> Option<ClusterStatus> {
        let answer = self.http(node).ask("GET /v1/cluster", b"").ok().filter(|answer| answer.status == 200)?;
        Some(serde_json::from_slice(&answer.body).expect("a status"))
    }

    pub fn status(&self, node: usize) -> ClusterStatus {
        until(&format!("n{} says how it is", node + 1), || self.try_status(node))
    }

    /// Waits until `condition` holds in the eyes of every node that runs.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&ClusterStatus) -> bool) {
        for node in self.running() {
            until(&format!("{what}, as n{} sees it", node + 1), || self.try_status(node).filter(&condition));
        }
    }

    /// Waits until there is a leader, every process that runs votes and holds its share, and every partition has all its
    /// copies. What a node is still being filled with doesn't count.
    pub fn wait_until_whole(&self) {
        let running = self.running();
        self.wait_until("the cluster is whole", |status| {
            let is_there = |node: &usize| {
                let node = &status.nodes[*node];
                let holds_its_share = node.in_sync > 0 && node.learning == 0;
                node.voter && holds_its_share && !matches!(node.role, Role::Dead | Role::Starting | Role::Learner)
            };
            let partitions = status.partitions;
            status.quorum
                && status.leader.is_some()
                && running.iter().all(is_there)
                && partitions.total > 0
                && partitions.full == partitions.total
        });
    }

    /// The leader that the nodes that run agree on.
    pub fn leader(&self) -> usize {
        until("all agree on a living leader", || {
            let running = self.running();
            let mut leaders = running.iter().map(|&node| {
                let status = self.try_status(node).filter(|status| status.quorum)?;
                let place = |id: &str| self.config.nodes.iter().position(|node| node.id == id);
                status.leader.as_deref().and_then(place)
            });
            let first = leaders.next().flatten()?;
            (running.contains(&first) && leaders.all(|leader| leader == Some(first))).then_some(first)
        })
    }

    /// Every (term, leader) that any life of any node has told of, those of dead processes included.
    pub fn leaders_told(&self) -> BTreeSet<(u64, String)> {
        // "n2 is the leader (term 1, 3 of 3 nodes)"
        let parse = |line: &str| {
            let (leader, rest) = line.split_once(" is the leader (term ")?;
            Some((rest.split(',').next()?.parse().ok()?, leader.to_owned()))
        };
        self.texts("out").iter().flat_map(|text| text.lines().filter_map(parse).collect::<Vec<_>>()).collect()
    }

    /// What all lives of all nodes have logged, or (`out`) printed.
    pub fn texts(&self, extension: &str) -> Vec<String> {
        let files = fs::read_dir(self.scratch.folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = files.filter(|file| file.extension().is_some_and(|found| found == extension));
        files.map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }

    /// The life of `node`'s process, in the eyes of `observer`.
    pub fn incarnation(&self, observer: usize, node: usize) -> String {
        self.status(observer).nodes[node].incarnation.clone()
    }

    // ---- what it holds -----------------------------------------------------------------------------------------

    /// Stores a value through `node`, as a client does that tries again; gives its version.
    pub fn put(&self, node: usize, key: &str, value: &[u8]) -> u64 {
        put(&mut self.http(node), key, value)
    }

    /// Stores all of `contents`, each next key through the next of `nodes`.
    pub fn put_all(&self, nodes: &[usize], contents: &Contents) {
        let mut clients: Vec<Http> = nodes.iter().map(|&node| self.http(node)).collect();
        for (nth, (key, value)) in contents.iter().enumerate() {
            put(&mut clients[nth % nodes.len()], key, value);
        }
    }

    /// Reads all of `contents` through each of `nodes`.
    pub fn expect(&self, nodes: &[usize], contents: &Contents) {
        for &node in nodes {
            let mut client = self.http(node);
            for (key, value) in contents {
                let found = read(&mut client, key);
                assert!(found.as_deref() == Some(value), "n{} has {found:?} under {key}", node + 1);
            }
        }
    }
}

/// What a failed test was about is in the nodes' logs.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in 0..self.nodes.len() {
            let status = self.try_status(node).map(|status| serde_json::to_string(&status).unwrap_or_default());
            eprintln!("---- n{}: {status:?}", node + 1);
        }
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.scratch.folder()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "err" || end == "out")) {
            let text = fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- the end of {}", file.display());
            lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Stores a value as a client does that tries again: the same value twice does no harm. Gives its version.
pub fn put(client: &mut Http, key: &str, value: &[u8]) -> u64 {
    until(&format!("{key} is stored"), || {
        let answer = client.ask(&format!("PUT /v1/kv/{key}"), value).ok()?;
        assert!(matches!(answer.status, 201 | 204) || answer.is_for_a_moment(), "PUT {key}: {answer:?}");
        (!answer.is_for_a_moment()).then(|| answer.version())
    })
}

/// Reads a value as a client does that tries again; none where there is no such key.
pub fn read(client: &mut Http, key: &str) -> Option<Vec<u8>> {
    until(&format!("{key} is read"), || {
        let answer = client.ask(&format!("GET /v1/kv/{key}"), b"").ok()?;
        match answer.status {
            200 => Some(Some(answer.body)),
            404 => Some(None),
            _ if answer.is_for_a_moment() => None,
            _ => panic!("GET {key}: {answer:?}"),
        }
    })
}
