//! What a gateway needs to know of the configuration.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Guard, Tls};
use crate::access::Access;
use crate::base::limits;
use crate::telemetry::metrics::MetricsSource;
use crate::telemetry::traffic::Traffic;

/// The limits of one gateway. Every one of them is there so that no client can take more than its share.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The largest value that is accepted; never more than [`limits::VALUE_BYTES_MAX`].
    pub value_bytes_max: usize,
    /// The largest key that is accepted; never more than [`limits::KEY_BYTES_MAX`].
    pub key_bytes_max: usize,
    /// Bytes of request bodies that may be in memory at once, over all connections; a body that needs more is refused
    /// with 429.
    pub bodies_bytes_max: usize,
    /// The largest request line and headers together; at least 8 KiB, because the parser wants as much.
    pub head_bytes_max: usize,
    /// Connections at once, WebSockets among them; one more is told 503 and closed.
    pub connections_max: usize,
    /// Names that this gateway answers to besides IP literals and `localhost`: the advertised names of the nodes and
    /// whatever the configuration adds. `name`, `name:port` and `http://name:port` all mean the name.
    pub hosts: Vec<String>,
    /// The nodes' gateways, for operators' requests that a node passes on to the leader.
    pub peers: Vec<PeerGateway>,
    /// How long a client may take from its first byte (or, on a new connection, from the connection) to the end of the
    /// headers.
    pub header_timeout: Duration,
    /// How long a connection may rest between two requests. Longer than the longest request.
    pub idle_timeout: Duration,
    /// How long a body may pause; and the start of its allowance, which grows with what has arrived.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
    /// How long a request waits for its answer unless it says otherwise.
    pub timeout_default: Duration,
    /// The same for operators' requests, which move data.
    pub admin_timeout_default: Duration,
    /// The longest `?timeout=`; a longer one is shortened to it.
    pub timeout_max: Duration,
    /// How often a WebSocket is pinged. A viewer that has shown no sign of life for two intervals is cut off.
    pub ping_interval: Duration,
    /// How long a shutdown waits for requests and viewers before it cuts them off.
    pub drain_timeout: Duration,
    /// What clients are shown over TLS; plain HTTP alone without.
    pub tls: Option<Arc<Tls>>,
    /// Whether plain HTTP is spoken beside TLS.
    pub http: bool,
    /// Who may do what.
    pub guard: Arc<Guard>,
    /// A request that takes so long is worth a line in the log.
    pub slow_request: Duration,
    /// The node is about to stop: every answer ends its connection, so that no client asks on one just when it is closed.
    pub leaving: Arc<AtomicBool>,
    /// What `/metrics` answers.
    pub metrics: MetricsSource,
    /// Where requests are counted.
    pub traffic: Arc<Traffic>,
}

/// Where a node's gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerGateway {
    /// The URL that clients are told; it tells the nodes apart.
    pub advertised: String,
    /// Where other nodes reach it (`host:port`).
    pub address: String,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            value_bytes_max: 8 << 20,
            key_bytes_max: limits::KEY_BYTES_MAX,
            bodies_bytes_max: 256 << 20,
            head_bytes_max: 64 << 10,
            connections_max: 10_000,
            hosts: Vec::new(),
            peers: Vec::new(),
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            timeout_default: Duration::from_secs(5),
            admin_timeout_default: Duration::from_secs(60),
            timeout_max: Duration::from_secs(60),
            ping_interval: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
            tls: None,
            http: true,
            guard: Arc::new(Guard::new(Access::open())),
            slow_request: Duration::from_secs(1),
            leaving: Arc::default(),
            metrics: MetricsSource::default(),
            traffic: Arc::default(),
        }
    }
}
