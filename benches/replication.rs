//! What a write and a read cost: the replicas of one partition alone, and three nodes over loopback.
//!
//! `cargo bench --bench replication`
//!
//! | group | what is driven |
//! |---|---|
//! | `one partition, two backups` | three replicas in one thread, their messages handed over as values or as frames |
//! | `three nodes, in the call` | three nodes in this process; 32 tasks call the leader's core |
//! | `three nodes, over HTTP` | the same nodes; 32 connections to the leader's gateway, one request in flight on each |
//!
//! The three nodes and their clients share this process and its processors, so these figures are for comparing one version
//! with another. `benches/http_load.sh` tells what requests cost the servers alone.

#[path = "support/trio.rs"]
mod trio;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant as WallInstant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jumpgate::api::{Consistency, Key, Operation, Request};
use jumpgate::base::Slot;
use jumpgate::config::{Config, Ports};
use jumpgate::port::Core;
use jumpgate::server::{Server, Sockets};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use trio::{COPIES, Carrier, Trio, VALUE, put};

const KEYS: usize = 10_000;
const CLIENTS: usize = 32;

fn key_text(number: usize) -> String {
    format!("key-{:07}", number % KEYS)
}

// ---- one partition ---------------------------------------------------------------------------------------------

fn one_partition(criterion: &mut Criterion) {
    let keys: Vec<Key> = (0..KEYS).map(|nth| key_text(nth).parse().expect("it is a key")).collect();
    let mut group = criterion.benchmark_group("one partition, two backups");
    for (name, carrier) in [("values", Carrier::Values), ("frames", Carrier::Frames)] {
        for at_once in [1, 32] {
            let mut trio = Trio::new(carrier);
            let mut next = 0;
            group.throughput(Throughput::Elements(at_once as u64));
            group.bench_function(BenchmarkId::new(name, format!("{at_once} at once")), |bencher| {
                bencher.iter(|| {
                    next = (next + at_once) % (KEYS - at_once);
                    trio.put_all(&keys[next..next + at_once]);
                });
            });
            if trio.frames > 0 {
                let writes = trio.answered as f64;
                let (frames, bytes) = (trio.frames as f64 / writes, trio.frame_bytes as f64 / writes);
                println!("{name}, {at_once} at once: {frames:.2} frames and {bytes:.0} bytes of frames a write");
            }
        }
    }
}

// ---- three nodes -----------------------------------------------------------------------------------------------

/// A cluster in this process.
struct Cluster {
    servers: Vec<Server>,
    leader: Arc<dyn Core>,
    leader_port: u16,
}

impl Cluster {
    /// Three nodes, once one of them leads and serves.
    async fn start() -> Self {
        let sockets: Vec<Sockets> =
            (0..COPIES).map(|_| Sockets::bind_loopback(0).expect("free ports are to be had")).collect();
        let ports: Vec<Ports> = sockets.iter().map(|bound| bound.ports().expect("they are bound")).collect();
        let config = Config::loopback("bench", &ports);
        let mut servers = Vec::new();
        for (slot, sockets) in sockets.into_iter().enumerate() {
            let server = Server::start(&config, Slot(slot as u8), sockets, Arc::new(|_, _| {}));
            servers.push(server.expect("nothing is in the way of a loopback node"));
        }
        loop {
            if let Some(at) = servers.iter().position(|server| server.core().health().leader) {
                let leader = servers[at].core();
                return Self { servers, leader, leader_port: ports[at].gateway };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        for server in self.servers {
            server.stop().await;
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
}

/// The part of `iterations` that falls to each client: its numbers.
fn parts(iterations: u64) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (count, clients) = (iterations as usize, CLIENTS);
    (0..clients).map(move |client| count * client / clients..count * (client + 1) / clients)
}

/// How long 32 tasks take for `iterations` calls of `core`.
async fn time_calls(core: &Arc<dyn Core>, kind: Kind, iterations: u64) -> Duration {
    let start = WallInstant::now();
    let mut tasks = JoinSet::new();
    for part in parts(iterations) {
        let core = Arc::clone(core);
        tasks.spawn(async move {
            for number in part {
                let key: Key = key_text(number * 7919).parse().expect("it is a key");
                let operation = match kind {
                    Kind::Put => put(key),
                    Kind::Get => Operation::Get { key, consistency: Consistency::Linearizable },
                };
                core.submit(Request::new(operation, 5000)).wait().await.expect("it is answered");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task panicked");
    }
    start.elapsed()
}

/// How long `iterations` requests over all of `connections` take.
async fn time_requests(connections: &mut Vec<Connection>, kind: Kind, iterations: u64) -> Duration {
    let start = WallInstant::now();
    let mut tasks = JoinSet::new();
    for (part, mut connection) in parts(iterations).zip(connections.drain(..)) {
        tasks.spawn(async move {
            for number in part {
                connection.ask(kind, &key_text(number * 7919)).await.expect("it is answered");
            }
            connection
        });
    }
    while let Some(ended) = tasks.join_next().await {
        connections.push(ended.expect("no task panicked"));
    }
    start.elapsed()
}

/// A client's connection: just enough of HTTP to wait for the end of an answer.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), answer: Vec::new() })
    }

    async fn ask(&mut self, kind: Kind, key: &str) -> io::Result<()> {
        use std::io::Write as _;
        self.request.clear();
        match kind {
            Kind::Get => write!(self.request, "GET /v1/kv/{key} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?,
            Kind::Put => {
                let length = VALUE.len();
                write!(
                    self.request,
                    "PUT /v1/kv/{key} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n"
                )?;
                self.request.extend_from_slice(&VALUE);
            }
        }
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        while !is_complete(&self.answer)? {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Whether `answer` is a whole answer; an error where it is not a good one.
fn is_complete(answer: &[u8]) -> io::Result<bool> {
    let Some(head_bytes) = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(false);
    };
    let head = std::str::from_utf8(&answer[..head_bytes]).map_err(io::Error::other)?;
    if !head.starts_with("HTTP/1.1 2") {
        return Err(io::Error::other(head.to_owned()));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let body_bytes: usize = length.map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    Ok(answer.len() >= head_bytes + body_bytes)
}

fn three_nodes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime is to be had");
    let cluster = runtime.block_on(Cluster::start());
    let mut connections: Vec<Connection> = runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..CLIENTS {
            connections.push(Connection::open(cluster.leader_port).await.expect("the gateway listens"));
        }
        connections
    });
    // Reads find every key.
    runtime.block_on(time_calls(&cluster.leader, Kind::Put, KEYS as u64));
    let mut group = criterion.benchmark_group("three nodes, in the call");
    group.throughput(Throughput::Elements(1));
    for (name, kind) in [("put", Kind::Put), ("get", Kind::Get)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| runtime.block_on(time_calls(&cluster.leader, kind, iterations)));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("three nodes, over HTTP");
    group.throughput(Throughput::Elements(1));
    for (name, kind) in [("put", Kind::Put), ("get", Kind::Get)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| runtime.block_on(time_requests(&mut connections, kind, iterations)));
        });
    }
    group.finish();
    drop(connections);
    runtime.block_on(cluster.stop());
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = one_partition, three_nodes);
criterion_main!(benches);
