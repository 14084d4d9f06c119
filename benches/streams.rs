//! What the stream plane costs over TCP and over QUIC, side by side: the same frames between two nodes on loopback.
//!
//! `cargo bench --bench streams`
//!
//! | group | what is moved |
//! |---|---|
//! | `live, N in flight` | replicated writes of 128 bytes there and their acks back, N of them at a time |
//! | `bulk` | 64 MiB in values of 1 MiB, and one ack when all have come |
//! | `live, 1 in flight, beside bulk` | a write and its ack while values of 1 MiB never end: in the lane that is theirs, and among the live ones |
//!
//! `tcp` proves nothing, `tcp with a secret` proves every frame, `quic` proves both nodes and encrypts. Both ends share
//! this process and its processors, so what is compared is the cost of both together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jumpgate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};
use jumpgate::codec::{Envelope, Frame, Keyring, NameHash, frame};
use jumpgate::net::quic::{self, Identity, Pems};
use jumpgate::net::stream::{FrameSink, Lane, Link, LinkOptions, ListenerOptions, Outbox};
use jumpgate::net::{Counters, listen, tcp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// A replicated write as it lies in a frame, about: epoch, number, key, value.
const WRITE_BYTES: usize = 200;
/// An ack, about.
const ACK_BYTES: usize = 24;
/// What is said when all of the bulk has come.
const BULK_ACK_BYTES: usize = 32;
/// Bytes of bulk that wait all the time, where it never ends.
const BULK_WAITING_BYTES: usize = 4 << 20;
const BULK_VALUE_BYTES: usize = 1 << 20;
const BULK_VALUES: u64 = 64;
/// Messages that are larger than this are bulk.
const BULK_BYTES_MIN: usize = 64 << 10;
const OUTBOX_BYTES_MAX: usize = 128 << 20;
const NAMES: [&str; 2] = ["n1.bench.jumpgate", "n2.bench.jumpgate"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Tcp,
    TcpWithSecret,
    Quic,
}

const WIRES: [(&str, Wire); 3] = [("tcp", Wire::Tcp), ("tcp with a secret", Wire::TcpWithSecret), ("quic", Wire::Quic)];

fn envelope(from: u8) -> Envelope {
    let node = |slot: u8| NodeId::new(Slot(slot), Incarnation(1));
    Envelope { cluster: ClusterId(1), generation: Generation(0), from: node(from), to: node(1 - from) }
}

/// What a node does with what comes.
struct Sink {
    me: u8,
    /// Where answers go.
    outbox: Arc<OnceLock<Arc<Outbox>>>,
    acks: AtomicU64,
    bulk: AtomicU64,
    bulk_acks: AtomicU64,
    acked: Notify,
}

impl FrameSink for Sink {
    fn handle_frame(&self, frame: Frame) {
        let say = |bytes: &[u8]| {
            let outbox = self.outbox.get().expect("it was made before anything was sent");
            outbox.push(Lane::Live, &envelope(self.me), &bytes).expect("there is room");
        };
        for message in frame::messages(&frame.payload) {
            match message.expect("it is whole").len() {
                BULK_BYTES_MIN.. => {
                    if self.bulk.fetch_add(1, Ordering::Relaxed) % BULK_VALUES == BULK_VALUES - 1 {
                        say(&[7; BULK_ACK_BYTES - 1]);
                    }
                }
                BULK_ACK_BYTES => {
                    self.bulk_acks.fetch_add(1, Ordering::Relaxed);
                    self.acked.notify_one();
                }
                ACK_BYTES => {
                    self.acks.fetch_add(1, Ordering::Relaxed);
                    self.acked.notify_one();
                }
                _ => say(&[7; ACK_BYTES - 1]),
            }
        }
    }

    fn handle_rejected(&self, reason: &'static str) {
        panic!("a connection was refused: {reason}");
    }
}

/// Two nodes that talk.
struct Pair {
    runtime: Runtime,
    outbox: Arc<Outbox>,
    asking: Arc<Sink>,
    shutdown: CancellationToken,
}

impl Pair {
    fn start(wire: Wire) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let inside = runtime.enter();
        let (shutdown, counters) = (CancellationToken::new(), Arc::new(Counters::default()));
        let identities = identities();
        let secret = if wire == Wire::TcpWithSecret { "correct horse battery staple" } else { "" };
        let keyring = Arc::new(Keyring::parse(secret.as_bytes()).unwrap_or_default());
        let name = NameHash::of("bench");
        let mut nodes = Vec::new();
        for me in [0_u8, 1] {
            let sink = Arc::new(Sink {
                me,
                outbox: Arc::default(),
                acks: AtomicU64::new(0),
                bulk: AtomicU64::new(0),
                bulk_acks: AtomicU64::new(0),
                acked: Notify::new(),
            });
            let (limits, stopping) = (ListenerOptions::default(), shutdown.clone());
            let (counting, sinking, slot) = (Arc::clone(&counters), Arc::clone(&sink), Slot(me));
            let port = if wire == Wire::Quic {
                let socket = listen::udp("bench", "127.0.0.1:0").expect("a free port");
                let address = socket.local_addr();
                let door = quic::Door { name, slot, identities: kept(Arc::clone(&identities[usize::from(me)])) };
                tokio::spawn(quic::run_listener(socket, door, sinking, counting, limits, stopping));
                address
            } else {
                let listener = listen::tcp("bench", "127.0.0.1:0").expect("a free port");
                let address = listener.local_addr();
                let door = tcp::Door { name, slot, secrets: kept(Arc::clone(&keyring)) };
                tokio::spawn(tcp::run_listener(listener, door, sinking, counting, limits, stopping));
                address
            };
            nodes.push((sink, port.expect("it is bound")));
        }
        for me in [0_u8, 1] {
            let outbox = Arc::new(Outbox::new(OUTBOX_BYTES_MAX, Arc::clone(&counters)));
            let link = Link {
                me: Slot(me),
                slot: Slot(1 - me),
                address: nodes[usize::from(1 - me)].1.to_string(),
                name,
                outbox: Arc::clone(&outbox),
                counters: Arc::clone(&counters),
                on_event: Arc::new(|_| {}),
                options: LinkOptions::default(),
            };
            if wire == Wire::Quic {
                let identity = Arc::clone(&identities[usize::from(me)]);
                tokio::spawn(quic::run_writer(link, kept(identity), shutdown.clone()));
            } else {
                tokio::spawn(tcp::run_writer(link, kept(Arc::clone(&keyring)), shutdown.clone()));
            }
            assert!(nodes[usize::from(me)].0.outbox.set(outbox).is_ok(), "it is set once");
        }
        let asking = Arc::clone(&nodes[0].0);
        let outbox = Arc::clone(asking.outbox.get().expect("it was just set"));
        drop(inside);
        Self { runtime, outbox, asking, shutdown }
    }

    /// How long `count` writes take, `in_flight` of them at a time; where `beside` is set, while bulk in that lane never ends.
    fn live(&self, count: u64, in_flight: u64, beside: Option<Lane>) -> Duration {
        let (write, value) = ([7_u8; WRITE_BYTES], vec![7_u8; BULK_VALUE_BYTES]);
        let start = Instant::now();
        let before = self.asking.acks.load(Ordering::Relaxed);
        self.runtime.block_on(async {
            let mut sent = 0;
            loop {
                let acked = self.asking.acks.load(Ordering::Relaxed) - before;
                if acked == count {
                    break;
                }
                while let Some(lane) = beside.filter(|_| self.outbox.bytes() < BULK_WAITING_BYTES) {
                    self.outbox.push(lane, &envelope(0), &value).expect("there is room");
                }
                while sent < count && sent - acked < in_flight {
                    self.outbox.push(Lane::Live, &envelope(0), &write).expect("there is room");
                    sent += 1;
                }
                self.asking.acked.notified().await;
            }
        });
        start.elapsed()
    }

    /// How long `rounds` times 64 MiB take.
    fn bulk(&self, rounds: u64) -> Duration {
        let value = vec![7_u8; BULK_VALUE_BYTES];
        let start = Instant::now();
        for _ in 0..rounds {
            let before = self.asking.bulk_acks.load(Ordering::Relaxed);
            for _ in 0..BULK_VALUES {
                self.outbox.push(Lane::Bulk, &envelope(0), &value).expect("there is room");
            }
            self.runtime.block_on(async {
                while self.asking.bulk_acks.load(Ordering::Relaxed) == before {
                    self.asking.acked.notified().await;
                }
            });
        }
        start.elapsed()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A value that is never replaced.
fn kept<T: Send + Sync + 'static>(value: T) -> watch::Receiver<T> {
    let (sender, receiver) = watch::channel(value);
    // Receivers take the end of their sender for "nobody is left who could change it".
    drop(sender);
    receiver
}

/// Certificates of both nodes, of an authority of this run.
fn identities() -> [Arc<Identity>; 2] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("ring makes keys");
    let authority = CertifiedIssuer::self_signed(params, key).expect("it is sound");
    [0, 1].map(|slot: u8| {
        let key = KeyPair::generate().expect("ring makes keys");
        let names = vec![NAMES[usize::from(slot)].to_owned()];
        let made = CertificateParams::new(names).expect("a name").signed_by(&key, &authority).expect("it is sound");
        let pems = Pems {
            certificate: made.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authority: authority.pem().into_bytes(),
        };
        let identity = Identity::parse(pems, &NAMES.map(str::to_owned), Slot(slot), SystemTime::now());
        Arc::new(identity.expect("it is sound"))
    })
}

fn streams(criterion: &mut Criterion) {
    for in_flight in [1, 32, 1024] {
        let mut group = criterion.benchmark_group(format!("live, {in_flight} in flight"));
        group.throughput(Throughput::Elements(1));
        for (name, wire) in WIRES {
            let pair = Pair::start(wire);
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|count| pair.live(count, in_flight, None));
            });
        }
    }
    let mut group = criterion.benchmark_group("live, 1 in flight, beside bulk");
    group.throughput(Throughput::Elements(1));
    for (name, wire) in WIRES {
        for (way, lane) in [("in its lane", Lane::Bulk), ("in one lane", Lane::Live)] {
            let pair = Pair::start(wire);
            group.bench_function(BenchmarkId::new(name, way), |bencher| {
                bencher.iter_custom(|count| pair.live(count, 1, Some(lane)));
            });
        }
    }
    drop(group);
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(BULK_VALUES * BULK_VALUE_BYTES as u64));
    for (name, wire) in WIRES {
        let pair = Pair::start(wire);
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|rounds| pair.bulk(rounds));
        });
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = streams);
criterion_main!(benches);
