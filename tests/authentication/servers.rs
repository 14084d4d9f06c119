//! Servers of this process, on real sockets.

use std::fs;
use std::io::Read as _;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jumpgate::base::Slot;
use jumpgate::config::{Config, Ports, TimingConfig};
use jumpgate::server::{Server, Sockets};
use tokio::runtime::Runtime;

use self::http::Http;

// Other tests use more of it.
#[allow(dead_code)]
#[path = "../support/http.rs"]
mod http;

pub const NODES: usize = 3;
/// Longer than a start takes on a machine that does ten other things; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);
pub const OLD: &str = "the old secret, long enough\n";
const NEW: &str = "the new secret, long enough\n";

/// A folder of one test, with a secret file for each node.
pub struct Secrets(PathBuf);

impl Secrets {
    pub fn new(test: &str, text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("jumpgate-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder takes folders");
        let secrets = Self(folder);
        (0..NODES).for_each(|node| secrets.write(node, text));
        secrets
    }

    pub fn of(&self, node: usize) -> PathBuf {
        self.0.join(format!("n{node}"))
    }

    fn write(&self, node: usize, text: &str) {
        // Replaced in one step, as an operator would: nobody reads half of it.
        let (path, fresh) = (self.of(node), self.0.join(format!("n{node}.new")));
        fs::write(&fresh, text).expect("it is writable");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(&fresh, &path).expect("it is ours");
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Three servers, or less where some are started by hand.
pub struct Cluster {
    servers: Vec<Option<Server>>,
    sockets: Vec<Option<Sockets>>,
    config: Config,
    ports: Vec<Ports>,
    runtime: Runtime,
}

impl Cluster {
    fn prepare() -> Self {
        Self::prepare_behind("authentication", |ports| *ports)
    }

    /// The same with nodes that their peers find at other ports than those that they listen on.
    pub fn prepare_behind(name: &str, place: impl FnMut(&Ports) -> Ports) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let sockets: Vec<Sockets> = (0..NODES).map(|_| Sockets::bind_loopback(0).expect("free ports")).collect();
        let ports: Vec<Ports> = sockets.iter().map(|sockets| sockets.ports().expect("they are bound")).collect();
        let mut config = Config::loopback(name, &ports.iter().map(place).collect::<Vec<_>>());
        config.cluster.partitions = 64;
        // Generous, so that a machine that is busy with other tests causes no failover of its own.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(2000)),
            lease: Some(Duration::from_millis(1500)),
            down: Some(Duration::from_millis(1800)),
        };
        let sockets = sockets.into_iter().map(Some).collect();
        Self { servers: (0..NODES).map(|_| None).collect(), sockets, config, ports, runtime }
    }

    fn start(&mut self, node: usize, secrets: &Path) {
        self.start_with(node, Some(secrets.to_owned()));
    }

    pub fn start_with(&mut self, node: usize, secret_file: Option<PathBuf>) {
        let _inside = self.runtime.enter();
        let sockets = self.sockets[node].take().expect("it runs already");
        self.config.security.secret_file = secret_file;
        let started = Server::start(&self.config, Slot(node as u8), sockets, Arc::new(|_, _| {}));
        self.servers[node] = Some(started.expect("it starts"));
    }

    fn started(secrets: &Secrets) -> Self {
        let mut cluster = Self::prepare();
        (0..NODES).for_each(|node| cluster.start(node, &secrets.of(node)));
        (0..NODES).for_each(|node| cluster.until_ready(node));
        cluster
    }

    pub fn until_ready(&self, node: usize) {
        let mut client = self.client(node);
        until(|| client.ask("GET /readyz", b"").is_ok_and(|answer| answer.status == 200));
    }

    fn server(&self, node: usize) -> &Server {
        self.servers[node].as_ref().expect("it runs")
    }

    pub fn client(&self, node: usize) -> Http {
        Http::new(self.ports[node].gateway)
    }

    fn term(&self, node: usize) -> u64 {
        self.client(node).ask("GET /v1/cluster", b"").expect("it answers").json()["term"].as_u64().expect("a number")
    }

    fn rejections(&self, node: usize, reason: &str) -> u64 {
        self.server(node).counters().rejections().get(reason).copied().unwrap_or(0)
    }

    /// What the node's metrics say was refused.
    pub fn rejected(&self, node: usize, plane: &str, reason: &str) -> u64 {
        let page = self.client(node).ask("GET /metrics", b"").expect("it answers");
        assert_eq!(page.status, 200);
        let text = String::from_utf8(page.body).expect("text");
        let start = format!("jumpgate_rejected_total{{plane=\"{plane}\",reason=\"{reason}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start)).expect("a reason that is always shown");
        line.parse().expect("a number")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let servers = std::mem::take(&mut self.servers);
        self.runtime.block_on(async {
            futures_util::future::join_all(servers.into_iter().flatten().map(Server::stop)).await;
        });
    }
}

/// Looks again until `condition` holds.
pub fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_secret_is_replaced_under_load_without_a_failed_write_or_an_election() {
    let secrets = Secrets::new("rotation", OLD);
    let cluster = Cluster::started(&secrets);
    let term = cluster.term(0);
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for node in 0..NODES {
            let (mut client, is_over, written) = (cluster.client(node), &is_over, &written);
            scope.spawn(move || {
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = client.ask(&format!("PUT /v1/kv/{node}/{number}"), b"value").expect("it answers");
                    assert!(matches!(answer.status, 201 | 204), "write {number} through {node}: {}", answer.status);
                    written.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
            });
        }
        let steps = [format!("{OLD}{NEW}"), format!("{NEW}{OLD}"), NEW.to_owned()];
        for (nth, text) in steps.iter().enumerate() {
            (0..NODES).for_each(|node| secrets.write(node, text));
            // A panic of a writer must not leave the others running for ever.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let taken_over = |node| cluster.server(node).counters().secrets_changed.value() as usize > nth;
                until(|| (0..NODES).all(taken_over));
                let before = written.load(Ordering::Relaxed);
                until(|| written.load(Ordering::Relaxed) > before + 100);
            }));
            if done.is_err() {
                is_over.store(true, Ordering::Relaxed);
            }
            done.expect("the secrets were taken over, and writes went on");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(cluster.term(0), term, "there was an election");
    for node in 0..NODES {
        assert_eq!(cluster.rejections(node, "bad_code"), 0);
        let count = |reason: &str| cluster.server(node).counters().rows().find(|row| row.0 == reason).expect("a row").1;
        // Each connection was dialed again when the order changed.
        assert!(count("connections_dialed") >= 4, "{}", count("connections_dialed"));
    }
}

#[test]
fn a_node_with_another_secret_cannot_join_and_disturbs_nobody() {
    let (secrets, others) = (Secrets::new("strangers", OLD), Secrets::new("strangers-others", NEW));
    let mut cluster = Cluster::prepare();
    cluster.start(0, &secrets.of(0));
    cluster.start(1, &secrets.of(1));
    cluster.start(2, &others.of(2));
    // Streams are refused by both sides. All slots are needed to found a cluster, so there is none.
    until(|| cluster.rejections(0, "bad_code") >= 3 && cluster.rejections(1, "bad_code") >= 3);
    until(|| cluster.rejections(2, "bad_code") >= 3);
    for node in 0..NODES {
        assert_eq!(cluster.client(node).ask("GET /readyz", b"").expect("it answers").status, 503);
    }
    // The stranger is told the secret: now there is one.
    others.write(2, OLD);
    (0..NODES).for_each(|node| cluster.until_ready(node));

    // The secret of one node alone is changed: it is cut off within seconds, and the others go on without it.
    others.write(2, NEW);
    let refused = cluster.rejections(0, "bad_code");
    until(|| cluster.rejections(0, "bad_code") >= refused + 3);
    let mut client = cluster.client(0);
    until(|| client.ask("PUT /v1/kv/key", b"value").is_ok_and(|answer| matches!(answer.status, 201 | 204)));
    until(|| {
        let status = cluster.client(0).ask("GET /v1/cluster", b"").expect("it answers").json();
        status["nodes"][2]["role"] == "dead"
    });
}

#[test]
fn strangers_are_told_nothing_on_either_plane() {
    let secrets = Secrets::new("silence", OLD);
    let cluster = Cluster::started(&secrets);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("it can be set");
    for length in [0, 3, 84, 100, 1200, 1400] {
        let mut bytes = vec![0; length];
        bytes.iter_mut().zip(b"jgpd\x01\x01").for_each(|(byte, magic)| *byte = *magic);
        socket.send_to(&bytes, ("127.0.0.1", cluster.ports[0].pulse)).expect("loopback takes it");
    }
    socket.recv(&mut [0; 2000]).expect_err("a stranger was answered");

    use std::io::Write as _;
    let mut hello = vec![0; 80];
    hello[..8].copy_from_slice(b"jgsh\x01\x01\x00\x00");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"jgsf\x01\x00\x00\x00", &hello] {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.ports[0].stream)).expect("it listens");
        stream.write_all(bytes).expect("it is read");
        let mut answer = Vec::new();
        // Ends when the other side closes, politely or not.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert_eq!(cluster.rejected(0, "stream", "unauthenticated"), 2);
    assert_eq!(cluster.rejected(0, "stream", "bad_code"), 1);
    let pulse = |reason| cluster.rejected(0, "pulse", reason);
    assert_eq!((pulse("too_short"), pulse("too_large")), (3, 1));
    assert_eq!((pulse("trailing_bytes"), pulse("bad_checksum")), (1, 1));
}
