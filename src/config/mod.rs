//! cluster.toml: text → a valid [`Config`], or a [`ConfigError`] that names file, line, field and what is allowed.
//!
//! All nodes of a cluster read the same file; the order of its `[[node]]` tables gives each node its slot. Whoever holds
//! a [`Config`] needn't check it again:
//! - there are 1 to [`limits::NODES_MAX`] nodes, with ids and addresses that differ;
//! - 1 ≤ `min_copies` ≤ replicas ≤ nodes;
//! - 1 ≤ `partitions` ≤ [`limits::PARTITIONS_MAX`], and keys and values are no larger than the formats carry;
//! - twice the heartbeat is shorter than the election promise, and lease is shorter than both that promise and `down`;
//! - a TLS certificate has its key, gateways speak HTTP, HTTPS or both, and a stream plane over QUIC has certificate, key and authority;
//! - the ports of a node's planes don't collide, as far as that shows.
//!
//! Settings come from three places: `JUMPGATE_<TABLE>_<KEY>` in the environment, before the file, before the default.
//! Nothing here opens a file or asks the process for its environment: both are arguments.
//!
//! | file | what it holds |
//! |---|---|
//! | `read` | text and environment → tables of settings, each with its place |
//! | `check` | settings → [`Config`], and what they must satisfy together |
//! | `certificates` | what a node's certificate calls it, and where its files are |
//! | `values` | durations, sizes, addresses, as people write them |
//! | `write` | [`Config`] → commented text |
//! | `error` | [`ConfigError`], [`Place`], [`Warning`] |
//!
//! Left out: whether files named here exist, whether names resolve, and whether a node off loopback has a secret. The
//! server checks those when it starts.

mod certificates;
mod check;
mod error;
mod read;
mod values;
mod write;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, Place, Warning};
pub use values::Address;

use crate::base::{FollowerMode, Options, Slot, Timing, limits};

/// A valid configuration of a whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[cluster]`
    pub cluster: ClusterConfig,
    /// `[timing]`
    pub timing: TimingConfig,
    /// `[gateway]`
    pub gateway: GatewayConfig,
    /// `[stream]`
    pub stream: StreamConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[security]`
    pub security: SecurityConfig,
    /// `[[node]]`, in the file's order: a node's place here is its slot.
    pub nodes: Vec<NodeConfig>,
}

/// `[cluster]`: what all nodes have to agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Nodes of another name are not talked to.
    pub name: String,
    /// Copies of each value.
    pub replicas: Replicas,
    /// Copies below which a write is refused.
    pub min_copies: u8,
    /// Partitions to found a cluster with.
    pub partitions: u16,
    /// How often copies are compared.
    pub sync_interval: Duration,
    /// How long a node may be gone before its copies are rebuilt elsewhere.
    pub replace_after: Duration,
    /// How long a voter may be silent before it loses its vote.
    pub demote_after: Duration,
}

/// `replicas`: how many copies of each value there are, the primary's included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// floor(N/2) + 1: any floor(N/2) nodes can vanish at once without losing a value.
    #[default]
    Auto,
    /// That many.
    Number(u8),
}

/// `[timing]`: what isn't set has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimingConfig {
    /// How often a leader sends a heartbeat to each peer.
    pub heartbeat: Option<Duration>,
    /// The promise not to vote.
    pub election: Option<Duration>,
    /// The read lease.
    pub lease: Option<Duration>,
    /// When a silent node is declared down.
    pub down: Option<Duration>,
}

/// `[gateway]`: what clients meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// What a node that doesn't lead does with a request.
    pub followers: FollowerMode,
    /// Further Host names to answer to.
    pub hosts: Vec<String>,
    /// Whether HTTP without TLS is answered; where it isn't set, only where there is no TLS.
    pub http: Option<bool>,
    /// Where to serve FTP; nowhere where it isn't set. For the first node of a machine: see [`Config::ftp_address`].
    pub ftp: Option<Address>,
    /// The ports of FTP's data connections; free ones where it isn't set.
    pub ftp_passive_ports: Option<RangeInclusive<u16>>,
    /// A request that takes so long is worth a line in the log.
    pub slow_request: Duration,
}

/// `[stream]`: how data travels between nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamConfig {
    /// TCP, or QUIC with mutual TLS.
    pub transport: Transport,
    /// The node's certificate chain, in PEM. `{node}` in it stands for the node's id, here and in the other two.
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`, in PEM.
    pub key: Option<PathBuf>,
    /// The certificates of the authorities that make certificates of nodes, in PEM.
    pub authority: Option<PathBuf>,
}

/// The files that one node proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Its certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificates of the authorities.
    pub authority: PathBuf,
}

/// The files that one gateway proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFiles {
    /// Its certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificates of the authorities of all gateways.
    pub authority: Option<PathBuf>,
}

/// What the stream plane runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP, framed.
    #[default]
    Tcp,
    /// QUIC with mutual TLS, for untrusted networks.
    Quic,
}

/// `[limits]`: what one node accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// The largest key.
    pub key_bytes: usize,
    /// The largest value.
    pub value_bytes: usize,
    /// Keys, values and their overhead in all.
    pub memory_bytes: u64,
    /// Connections of clients at once.
    pub connections: usize,
}

/// `[security]`: files that hold secrets; none is needed on loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// One secret a line, shared by all nodes: the first signs, all verify.
    pub secret_file: Option<PathBuf>,
    /// The gateway's certificate chain, in PEM. `{node}` in it stands for the node's id, here and in `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// The key of `tls_cert`, in PEM.
    pub tls_key: Option<PathBuf>,
    /// The certificates of the authorities that make certificates of gateways, in PEM: for nodes that pass an operator's
    /// request on.
    pub tls_authority: Option<PathBuf>,
    /// Clients' tokens and their roles.
    pub tokens_file: Option<PathBuf>,
}

/// One `[[node]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// How people call it.
    pub id: String,
    /// Where peers send datagrams to.
    pub pulse: Address,
    /// Where peers open streams to.
    pub stream: Address,
    /// Where other nodes relay clients' requests to.
    pub gateway: Address,
    /// Where clients are told to go (`http://host:port`, or `https://`).
    pub advertise: String,
    /// Where it listens for datagrams itself: `pulse` unless `bind_pulse` is set.
    pub bind_pulse: Address,
    /// Where it listens for streams itself: `stream` unless `bind_stream` is set.
    pub bind_stream: Address,
    /// Where it listens for clients itself: `gateway` unless `bind_gateway` is set.
    pub bind_gateway: Address,
}

/// The ports of one node on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of datagrams.
    pub pulse: u16,
    /// Of streams.
    pub stream: u16,
    /// Of clients.
    pub gateway: u16,
}

impl Config {
    /// Reads a configuration. `file_name` is for messages only; `environment` is every variable of the process, of which
    /// those that begin with `JUMPGATE_` matter.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what is allowed there.
    pub fn parse(
        file_name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        check::parse(file_name, text, environment)
    }

    /// A cluster on loopback, one node for each of `ports`, called n1, n2, …, with every setting at its default.
    ///
    /// # Panics
    /// Where there are no nodes or more than [`limits::NODES_MAX`].
    #[must_use]
    pub fn loopback(name: &str, ports: &[Ports]) -> Self {
        assert!((1..=limits::NODES_MAX).contains(&ports.len()), "a cluster of {} nodes was asked for", ports.len());
        let nodes: Vec<NodeConfig> =
            ports.iter().enumerate().map(|(nth, ports)| NodeConfig::loopback(nth, *ports)).collect();
        let replicas = Options::replicas_auto(nodes.len());
        Self {
            cluster: ClusterConfig {
                name: name.to_owned(),
                min_copies: ClusterConfig::min_copies_default(replicas),
                ..ClusterConfig::default()
            },
            timing: TimingConfig::default(),
            gateway: GatewayConfig::default(),
            stream: StreamConfig::default(),
            limits: LimitsConfig::default(),
            security: SecurityConfig::default(),
            nodes,
        }
    }

    /// The slot of the node called `id`.
    ///
    /// # Errors
    /// Where there is no such node: the message lists those that there are.
    pub fn node(&self, id: &str) -> Result<Slot, ConfigError> {
        let known = || self.nodes.iter().map(|node| node.id.as_str());
        match known().position(|name| name == id) {
            Some(slot) => Ok(Slot(slot as u8)),
            None => Err(ConfigError::new(
                Place::Argument,
                None,
                format!("there is no node {id:?}; the nodes are {}", known().collect::<Vec<_>>().join(", ")),
            )),
        }
    }

    /// Copies of each value, the primary's included.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.cluster.replicas.of(self.nodes.len())
    }

    /// The files that the node in `slot` proves itself with on streams over QUIC; none where one of them isn't set.
    #[must_use]
    pub fn certificate_files(&self, slot: Slot) -> Option<CertificateFiles> {
        let id = &self.nodes.get(slot.index())?.id;
        let StreamConfig { certificate, key, authority, .. } = &self.stream;
        Some(CertificateFiles {
            certificate: certificates::path(certificate.as_ref()?, id),
            key: certificates::path(key.as_ref()?, id),
            authority: certificates::path(authority.as_ref()?, id),
        })
    }

    /// The files that the gateway of the node in `slot` proves itself with; none where it speaks no TLS.
    #[must_use]
    pub fn gateway_files(&self, slot: Slot) -> Option<GatewayFiles> {
        let id = &self.nodes.get(slot.index())?.id;
        let SecurityConfig { tls_cert, tls_key, tls_authority, .. } = &self.security;
        Some(GatewayFiles {
            certificate: certificates::path(tls_cert.as_ref()?, id),
            key: certificates::path(tls_key.as_ref()?, id),
            authority: tls_authority.as_ref().map(|path| certificates::path(path, id)),
        })
    }

    /// Where the node in `slot` serves FTP. All nodes read one setting, and on one machine no two can have one port: a node
    /// whose gateway has the same host as those of earlier nodes takes the port as many above.
    #[must_use]
    pub fn ftp_address(&self, slot: Slot) -> Option<Address> {
        let ftp = self.gateway.ftp.as_ref()?;
        let host = &self.nodes.get(slot.index())?.gateway.host;
        let before = self.nodes[..slot.index()].iter().filter(|node| node.gateway.host == *host).count();
        Some(Address { host: ftp.host.clone(), port: ftp.port.checked_add(u16::try_from(before).ok()?)? })
    }

    /// Whether gateways answer HTTP without TLS.
    #[must_use]
    pub fn speaks_http(&self) -> bool {
        self.gateway.http.unwrap_or(self.security.tls_cert.is_none())
    }

    /// What the certificate of each node calls it, by slot: a DNS name made of its id and the cluster's name, such as
    /// `n1.store.jumpgate`. Different nodes, and nodes of clusters with different names, have different ones.
    #[must_use]
    pub fn certificate_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| certificates::name(&node.id, &self.cluster.name)).collect()
    }

    /// The same configuration as commented text: what [`Config::parse`] would read it from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        write::to_toml(self)
    }
}

impl ClusterConfig {
    /// Two copies, or one where there is only one.
    fn min_copies_default(replicas: u8) -> u8 {
        replicas.min(2)
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "store".to_owned(),
            replicas: Replicas::Auto,
            min_copies: 2,
            partitions: 4096,
            sync_interval: Duration::from_secs(10),
            replace_after: Duration::from_secs(10),
            demote_after: Duration::from_secs(30),
        }
    }
}

impl Replicas {
    /// How many that is for `nodes` nodes.
    #[must_use]
    pub const fn of(self, nodes: usize) -> u8 {
        match self {
            Self::Auto => Options::replicas_auto(nodes),
            Self::Number(number) => number,
        }
    }
}

impl TimingConfig {
    /// The times that hold: what is set, and the defaults.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let default = Timing::default();
        Timing {
            heartbeat: self.heartbeat.unwrap_or(default.heartbeat),
            election: self.election.unwrap_or(default.election),
            election_jitter: default.election_jitter,
            lease: self.lease.unwrap_or(default.lease),
            down: self.down.unwrap_or(default.down),
        }
    }

    /// Whether any of them is set.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        *self != Self::default()
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            followers: FollowerMode::default(),
            hosts: Vec::new(),
            http: None,
            ftp: None,
            ftp_passive_ports: None,
            slow_request: Duration::from_secs(1),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { key_bytes: limits::KEY_BYTES_MAX, value_bytes: 8 << 20, memory_bytes: 2 << 30, connections: 10_000 }
    }
}

impl NodeConfig {
    fn loopback(nth: usize, ports: Ports) -> Self {
        let [pulse, stream, gateway] =
            [ports.pulse, ports.stream, ports.gateway].map(|port| Address { host: "127.0.0.1".to_owned(), port });
        Self {
            id: format!("n{}", nth + 1),
            advertise: format!("http://{gateway}"),
            bind_pulse: pulse.clone(),
            bind_stream: stream.clone(),
            bind_gateway: gateway.clone(),
            pulse,
            stream,
            gateway,
        }
    }

    /// Whether only processes of its own machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        [&self.bind_pulse, &self.bind_stream, &self.bind_gateway].into_iter().all(Address::is_loopback)
    }
}

#[cfg(test)]
mod tests;
