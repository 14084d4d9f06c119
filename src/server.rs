//! The composition root: makes a node out of its configuration, and is the only place that names the adapters.
//!
//! ```text
//! Config ─▶ Options ─▶ ControlCore on its thread ◀──▶ PulseSocket
//!                  └─▶ Engine (shards)           ◀──▶ one Outbox and writer a peer, one listener
//!                          ▲
//!                          └── Gateway (HTTP, HTTPS, WebSocket) ◀── Guard (tokens), Tls (certificate)
//! ```
//!
//! Sockets are bound first and the node is made of them afterwards, so that a busy port ends the start with its name
//! before anything else happens, and so that a cluster on free ports can be written down before it starts.

mod certificates;
mod files;
mod ftp;
mod gateway_tls;
mod hand_over;
mod metrics;
mod openness;
mod secrets;
mod sockets;
mod streams;
mod tokens;
mod waiting;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Level, info, warn};

use crate::base::{Incarnation, NodeId, Options, ShardId, Slot, Term, limits};
use crate::codec::frame::Frame;
use crate::codec::{Keyring, NameHash};
use crate::config::{Address, Config, NodeConfig, Ports, Replicas, Transport};
use crate::gateway::{Gateway, GatewayOptions, Guard, PeerGateway};
use crate::net::listen::BindError;
use crate::net::stream::FrameSink;
use crate::net::udp::PulseSocket;
use crate::net::{Addresses, Counters};
use crate::node::{ControlCore, ControlEvent};
use crate::port::Core;
use crate::runtime::{Clock, Engine, EventSink, PulseLink, PulseThread};
pub use crate::telemetry::LogFormat;
use crate::telemetry::{self, Lines};

use certificates::Source;
use metrics::Numbers;
pub use sockets::Sockets;
use streams::{Plane, StreamLinks, StreamSocket, Trust};

/// Requests that one shard keeps waiting.
const REQUESTS_MAX: usize = 16 << 10;
/// Effects that one partition may have in flight.
const TAIL_EFFECTS_MAX: usize = 4096;
/// Bytes under way from one shard to those whom it fills: a connection of a gigabyte a second is busy with them for a
/// millisecond, which is what a live write may have to wait for.
const FILLING_BYTES_MAX: u64 = 1 << 20;
/// Bytes a second from one shard to those who get a copy while none is missing. A shard has a core, mostly, which can send
/// several times that.
const MOVING_BYTES_PER_SECOND: u64 = 64 << 20;
/// The name of a cluster that `dev` runs.
const DEV_NAME: &str = "dev";

/// Why a node could not start, or had to stop.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The configuration asks for something that this node can't or won't do.
    #[error("{0}")]
    Refused(String),
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl ServerError {
    /// Whether the configuration is to blame.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// A node that runs.
pub struct Server {
    engine: Arc<Engine>,
    pulse: PulseThread,
    counters: Arc<Counters>,
    /// Whether clients are asked to go elsewhere.
    leaving: Arc<AtomicBool>,
    gateway_shutdown: CancellationToken,
    gateway: TaskTracker,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Starts the node in `slot` on its sockets. Must be called inside a runtime. `events` hears what the node has to say
    /// to people.
    ///
    /// # Errors
    /// Where the configuration asks for what isn't there yet, or the system refuses.
    pub fn start(config: &Config, slot: Slot, sockets: Sockets, events: EventSink) -> Result<Self, ServerError> {
        let options = options(config, slot);
        let counters = Arc::new(Counters::default());
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());

        let secret_file = config.security.secret_file.as_deref();
        let keyring = Arc::new(secrets::load(secret_file)?);
        let (streams, secrets) = watch::channel(Arc::clone(&keyring));
        let guard = Arc::new(Guard::new(tokens::load(config.security.tokens_file.as_deref())?));
        let tls = gateway_tls::start(config, slot, &counters, &shutdown, &tasks)?;
        let trust = trust(config, slot, &sockets.stream, secrets, &counters, &shutdown, &tasks)?;
        let plane = Plane {
            name: NameHash::of(&options.cluster_name),
            me: slot,
            trust,
            counters: Arc::clone(&counters),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        let links = Arc::new(plane.start_links(config));
        let clock = Clock::start();
        let inbox = PulseThread::inbox();
        let tally = Arc::new(metrics::Tally::default());
        let events = tally.counting(events);
        let engine = Engine::new(options.clone(), clock, Arc::<StreamLinks>::clone(&links), inbox.0.clone(), events);
        for shard in 0..options.shards {
            tasks.spawn(Arc::clone(&engine).drive_shard(ShardId(shard), shutdown.clone()));
        }
        tasks.spawn(Arc::clone(&engine).drive_progress(shutdown.clone()));
        let sink = Arc::new(Sink { engine: Arc::clone(&engine) });
        if let Some(path) = secret_file {
            let (path, pulse, counters) = (path.to_owned(), inbox.0.clone(), Arc::clone(&counters));
            tasks.spawn(secrets::Watcher { path, streams, pulse, counters }.run(shutdown.clone()));
        }
        if let Some(path) = config.security.tokens_file.clone() {
            tasks.spawn(tokens::Watcher { path, guard: Arc::clone(&guard) }.run(shutdown.clone()));
        }
        plane.start_listener(sockets.stream, sink);

        let pulses = config.nodes.iter().map(|node| node.pulse.to_string()).collect();
        let addresses = Arc::new(Addresses::new(pulses));
        tasks.spawn(Arc::clone(&addresses).resolve(shutdown.clone()));
        let (socket, pulse_counters) = (sockets.pulse, Arc::clone(&counters));
        let names = options.names.clone();
        let mut core = ControlCore::new(options, engine.now());
        core.handle_keyring(keyring);
        let link = move || Ok(UdpLink { socket: PulseSocket::new(socket, pulse_counters)?, addresses });
        let pulse = PulseThread::start(core, Arc::clone(&engine), inbox, link)
            .map_err(ServerError::system("starting the pulse thread"))?;

        let gateway_shutdown = CancellationToken::new();
        let gateway = TaskTracker::new();
        let listener = tokio::net::TcpListener::from_std(sockets.gateway)
            .map_err(ServerError::system("watching the gateway's listener"))?;
        let core: Arc<dyn Core> = Arc::<Engine>::clone(&engine);
        let mut gateway_options = GatewayOptions { guard: Arc::clone(&guard), tls, ..gateway_options(config) };
        let (traffic, counted) = (Arc::clone(&gateway_options.traffic), Arc::clone(&counters));
        let numbers = Numbers { engine: Arc::clone(&engine), counters: counted, traffic, guard, tally, links, names };
        gateway_options.metrics = numbers.source();
        if let Some(listener) = sockets.ftp {
            let (core, options) = (Arc::clone(&core), gateway_options.clone());
            ftp::start(listener, (config, slot), core, options, gateway_shutdown.clone(), &gateway)?;
        }
        let leaving = Arc::clone(&gateway_options.leaving);
        gateway.spawn(Gateway::serve(listener, core, gateway_options, gateway_shutdown.clone()));
        Ok(Self { engine, pulse, counters, leaving, gateway_shutdown, gateway, shutdown, tasks })
    }

    /// The node, as gateways see it.
    #[must_use]
    pub fn core(&self) -> Arc<dyn Core> {
        Arc::<Engine>::clone(&self.engine)
    }

    /// What the node's sockets have counted.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Hands over what the node leads, and waits until the others do without it, for a few seconds at the most. Clients are
    /// served meanwhile, and asked to go elsewhere.
    pub async fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        hand_over::hand_over(&*self.engine).await;
    }

    /// Stops in order: clients are answered first, then the node falls silent.
    pub async fn stop(self) {
        self.gateway_shutdown.cancel();
        self.gateway.close();
        self.gateway.wait().await;
        self.pulse.stop().await;
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Whether the node in `slot` would start with the certificate that the configuration names for it.
///
/// # Errors
/// Where it wouldn't, saying why; where no files are named too.
pub fn check_certificates(config: &Config, slot: Slot) -> Result<(), ServerError> {
    let source = Source::of(config, slot);
    source.ok_or_else(|| ServerError::Refused("[stream] names no certificate".to_owned()))?.load().map(|_| ())
}

/// Whether the gateway of the node in `slot` would start with the certificate that the configuration names for it.
///
/// # Errors
/// Where it wouldn't, saying why; where no files are named too.
pub fn check_gateway(config: &Config, slot: Slot) -> Result<(), ServerError> {
    let source = gateway_tls::Source::of(config, slot);
    source.ok_or_else(|| ServerError::Refused("[security] names no certificate".to_owned()))?.load().map(|_| ())
}

/// Runs one node until SIGINT or SIGTERM.
///
/// # Errors
/// Where it can't start.
pub fn serve(config: Config, slot: Slot, insecure: bool, format: LogFormat) -> Result<(), ServerError> {
    refuse_open_network(&config, slot, insecure)?;
    let _log = telemetry::start_logging(format, Level::INFO);
    let (out, _printed) = Lines::to_stdout();
    let sockets = Sockets::bind(&config, slot)?;
    runtime()?.block_on(async move {
        let leaders = LeaderLines::to(out);
        let events: EventSink = Arc::new(move |event, options| leaders.tell(event, options));
        let server = Server::start(&config, slot, sockets, events)?;
        let node = &config.nodes[slot.index()];
        info!("{} answers at {}; {}", node.id, node.advertise, guarantee(&config));
        openness::tell_who_may_come(&config, node);
        let stopped = until_told_to_stop_beside(waiting::complain_until_ready(&server, node)).await;
        stopped.map_err(ServerError::system("waiting for signals"))?;
        info!("{} stops", node.id);
        server.leave().await;
        server.stop().await;
        Ok(())
    })
}

/// How far FTP is above the gateways of a cluster that `dev` runs: the first node's is at 7421, as everybody's is by example.
const DEV_FTP_ABOVE: u16 = 20;

/// Lets a loopback cluster whose gateways are above `port` serve FTP.
pub fn add_ftp(config: &mut Config, port: u16) {
    config.gateway.ftp = Some(Address { host: "127.0.0.1".to_owned(), port: port + DEV_FTP_ABOVE + 1 });
}

/// Runs a whole cluster on loopback until SIGINT or SIGTERM. Node i's gateway is at `port` + i, its FTP, where it is asked
/// for, 20 above that.
///
/// # Errors
/// Where it can't start.
pub fn dev(nodes: u16, port: u16, ftp: bool, format: LogFormat) -> Result<(), ServerError> {
    // All nodes are here and nobody can lose one: what they say of each other would only bury what `introduce` says.
    let _log = telemetry::start_logging(format, Level::WARN);
    let (out, _printed) = Lines::to_stdout();
    let bind = |node| {
        let sockets = Sockets::bind_loopback(port + node)?;
        if ftp { sockets.with_ftp(port + DEV_FTP_ABOVE + node) } else { Ok(sockets) }
    };
    let sockets = (1..=nodes).map(bind).collect::<Result<Vec<Sockets>, BindError>>()?;
    let ports = sockets.iter().map(Sockets::ports).collect::<Result<Vec<Ports>, ServerError>>()?;
    let mut config = Config::loopback(DEV_NAME, &ports);
    if ftp {
        add_ftp(&mut config, port);
    }
    runtime()?.block_on(async move {
        let leaders = Arc::new(LeaderLines::to(out.clone()));
        let mut servers = Vec::new();
        for (slot, sockets) in sockets.into_iter().enumerate() {
            let leaders = Arc::clone(&leaders);
            let events: EventSink = Arc::new(move |event, options| leaders.tell(event, options));
            servers.push(Server::start(&config, Slot(slot as u8), sockets, events)?);
        }
        let told = async {
            until_ready(&servers).await;
            introduce(&config, &out);
        };
        until_told_to_stop_beside(told).await.map_err(ServerError::system("waiting for signals"))?;
        futures_util::future::join_all(servers.into_iter().map(Server::stop)).await;
        Ok(())
    })
}

/// What nodes prove to each other on streams; starts what keeps it up to date.
fn trust(
    config: &Config,
    slot: Slot,
    socket: &StreamSocket,
    secrets: watch::Receiver<Arc<Keyring>>,
    counters: &Arc<Counters>,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Trust, ServerError> {
    let refuse = |what: &str| Err(ServerError::Refused(format!("[stream] transport: {what}")));
    match (config.stream.transport, socket) {
        (Transport::Tcp, StreamSocket::Tcp(_)) => Ok(Trust::Secrets(secrets)),
        (Transport::Quic, StreamSocket::Quic(_)) => {
            let Some(source) = Source::of(config, slot) else {
                return refuse("quic needs certificate, key and authority beside it");
            };
            let (streams, identities) = watch::channel(Arc::new(source.load()?));
            let watcher = certificates::Watcher { source, streams, counters: Arc::clone(counters) };
            tasks.spawn(watcher.run(shutdown.clone()));
            Ok(Trust::Certificates(identities))
        }
        _ => refuse("the socket for streams was bound for another transport"),
    }
}

/// What a node of this configuration is built with.
fn options(config: &Config, slot: Slot) -> Options {
    let shards = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(64) as u16;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Options {
        cluster_name: config.cluster.name.clone(),
        me: NodeId::new(slot, Incarnation(rand::random())),
        slots: config.nodes.len(),
        names: config.nodes.iter().map(|node| node.id.clone()).collect(),
        advertised: config.nodes.iter().map(|node| node.advertise.clone()).collect(),
        partitions: config.cluster.partitions,
        replicas: config.replicas(),
        min_copies: config.cluster.min_copies,
        replicas_auto: config.cluster.replicas == Replicas::Auto,
        sync_interval: config.cluster.sync_interval,
        replace_after: config.cluster.replace_after,
        demote_after: config.cluster.demote_after,
        timing: config.timing.timing(),
        timing_adapts: !config.timing.is_fixed(),
        followers: config.gateway.followers,
        shards: shards.min(config.cluster.partitions),
        value_bytes_max: config.limits.value_bytes.min(limits::VALUE_BYTES_MAX),
        key_bytes_max: config.limits.key_bytes.min(limits::KEY_BYTES_MAX),
        memory_bytes_max: config.limits.memory_bytes,
        requests_max: REQUESTS_MAX,
        tail_effects_max: TAIL_EFFECTS_MAX,
        filling_bytes_max: FILLING_BYTES_MAX,
        moving_bytes_per_second: MOVING_BYTES_PER_SECOND,
        feed_effects_max: limits::FEED_EFFECTS_MAX,
        unix_micros_at_zero: since_epoch.as_micros() as u64,
        seed: rand::random(),
    }
}

fn gateway_options(config: &Config) -> GatewayOptions {
    let advertised = config.nodes.iter().map(|node| node.advertise.clone());
    let peer =
        |node: &NodeConfig| PeerGateway { advertised: node.advertise.clone(), address: node.gateway.to_string() };
    GatewayOptions {
        peers: config.nodes.iter().map(peer).collect(),
        value_bytes_max: config.limits.value_bytes,
        key_bytes_max: config.limits.key_bytes,
        connections_max: config.limits.connections,
        http: config.speaks_http(),
        slow_request: config.gateway.slow_request,
        hosts: advertised.chain(config.gateway.hosts.iter().cloned()).collect(),
        ..GatewayOptions::default()
    }
}

/// Off loopback anybody who reaches the ports could speak as a node.
fn refuse_open_network(config: &Config, slot: Slot, insecure: bool) -> Result<(), ServerError> {
    let node = &config.nodes[slot.index()];
    let open = [("pulse", &node.bind_pulse), ("stream", &node.bind_stream)].into_iter().find(|(_, a)| !a.is_loopback());
    match open {
        Some((plane, address)) if !insecure && config.security.secret_file.is_none() => {
            Err(ServerError::Refused(format!(
                "node {} would listen on {address} ({plane}) without a secret: anybody who reaches it could speak as a \
                 node; set [security] secret_file, or start with --insecure where the network is trusted, and nowhere \
                 else",
                node.id
            )))
        }
        _ => Ok(()),
    }
}

/// What the number of copies promises, in words.
fn guarantee(config: &Config) -> String {
    let (copies, nodes) = (usize::from(config.replicas()), config.nodes.len());
    match copies - 1 {
        0 => format!("1 copy of each value on {nodes} node(s): no node may be lost"),
        survived => format!("{copies} copies of each value on {nodes} nodes: any {survived} may vanish at once"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ServerError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServerError::system("starting the runtime"))
}

async fn until_told_to_stop() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// The same, doing `beside` meanwhile.
async fn until_told_to_stop_beside(beside: impl Future<Output = ()>) -> io::Result<()> {
    let mut told = std::pin::pin!(until_told_to_stop());
    tokio::select! {
        stopped = &mut told => return stopped,
        () = beside => {}
    }
    told.await
}

async fn until_ready(servers: &[Server]) {
    while !servers.iter().all(|server| server.engine.health().ready) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tells a newcomer where the cluster is and what to try.
fn introduce(config: &Config, out: &Lines) {
    let mut text = String::new();
    for (slot, node) in config.nodes.iter().enumerate() {
        let ftp = config.ftp_address(Slot(slot as u8)).map_or_else(String::new, |address| format!("  ftp://{address}"));
        text += &format!("  {}  {}{ftp}  (pulse {}, stream {})\n", node.id, node.advertise, node.pulse, node.stream);
    }
    let last = config.nodes.last().map_or("", |node| node.advertise.as_str());
    text += &format!("{}\n", guarantee(config));
    text += "everybody on this machine may read, write and operate it; nobody else reaches it\n";
    text += &format!("try  curl -X PUT --data-binary 'hello' {}/v1/kv/greeting\n", config.nodes[0].advertise);
    text += &format!("     curl {last}/v1/kv/greeting\n");
    text += "Ctrl-C ends the cluster and everything in it\n";
    out.print(&text);
}

/// Prints each leader once, however many nodes of this process say so, and logs everything else.
struct LeaderLines {
    told: Mutex<BTreeSet<(Slot, Term)>>,
    out: Lines,
}

impl LeaderLines {
    fn to(out: Lines) -> Self {
        Self { told: Mutex::default(), out }
    }

    fn tell(&self, event: &ControlEvent, options: &Options) {
        let node = options.name(options.me.slot);
        if let ControlEvent::Leader { leader, term, .. } = event {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert((leader.slot, *term)) {
                self.out.print(&format!("{}\n", event.describe(options)));
            }
        } else if event.is_warning() {
            warn!(node, "{}", event.describe(options));
        } else {
            info!(node, "{}", event.describe(options));
        }
    }
}

/// The pulse plane over UDP.
struct UdpLink {
    socket: PulseSocket,
    addresses: Arc<Addresses>,
}

impl PulseLink for UdpLink {
    async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer).await.map(|(length, _)| length)
    }

    fn try_recv(&self, buffer: &mut [u8]) -> Option<usize> {
        self.socket.try_recv(buffer).map(|(length, _)| length)
    }

    fn send(&self, to: Slot, bytes: &[u8]) {
        if let Some(address) = self.addresses.at(to.index()) {
            self.socket.send_to(bytes, address);
        }
    }
}

/// Frames of all peers, on their way to the engine.
struct Sink {
    engine: Arc<Engine>,
}

impl FrameSink for Sink {
    fn handle_frame(&self, frame: Frame) {
        self.engine.handle_frame(&frame);
    }

    /// The listener has counted it already.
    fn handle_rejected(&self, _reason: &'static str) {}
}
