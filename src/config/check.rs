//! Settings → [`Config`]: what each has to be, and what they have to satisfy together.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeTable;

use super::read::{Raw, Settings, Source, Table};
use super::{
    ClusterConfig, Config, ConfigError, GatewayConfig, LimitsConfig, NodeConfig, Replicas, SecurityConfig,
    StreamConfig, TimingConfig, Transport, Warning, values,
};
use crate::base::{FollowerMode, limits};

/// The words for [`FollowerMode`].
pub(super) const FOLLOWERS: [(&str, FollowerMode); 3] =
    [("relay", FollowerMode::Relay), ("redirect", FollowerMode::Redirect), ("route", FollowerMode::Route)];

/// The words for what is done or not.
pub(super) const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// The words for [`Transport`].
pub(super) const TRANSPORTS: [(&str, Transport); 2] = [("tcp", Transport::Tcp), ("quic", Transport::Quic)];

const WITHOUT_CERTIFICATES: &str = "is missing; with transport = \"quic\" nodes prove who they are by certificates: \
                                    `jumpgate cert` makes them and says what to write here";

/// Less would not hold one large value and its neighbours.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// More than any process may have descriptors for.
const CONNECTIONS_MAX: u64 = 1_000_000;

pub(super) fn parse(
    file_name: &str,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Vec<Warning>), ConfigError> {
    let source = Source { file_name, text };
    let file = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        ConfigError::new(source.place(at), None, format!("this is not TOML: {}", error.message()))
    })?;
    // Sorted, so that the same environment gives the same warnings in the same order.
    let mut environment: Vec<_> = environment.filter(|(name, _)| name.starts_with("JUMPGATE_")).collect();
    environment.sort();
    let (settings, mut warnings) = Settings::read(file_name, text, file.get_ref(), &environment)?;
    let stream = stream(settings.table("stream"))?;
    let security = security(settings.table("security"))?;
    let scheme = if security.tls_cert.is_some() { "https" } else { "http" };
    let nodes = nodes(&settings, stream.transport, scheme)?;
    let config = Config {
        cluster: cluster(settings.table("cluster"), nodes.len())?,
        timing: timing(settings.table("timing"))?,
        gateway: gateway(settings.table("gateway"), &security)?,
        stream,
        limits: limits(settings.table("limits"))?,
        security,
        nodes,
    };
    warnings.extend(doubts(&config));
    Ok((config, warnings))
}

fn cluster(table: &Table<'_>, nodes: usize) -> Result<ClusterConfig, ConfigError> {
    let default = ClusterConfig::default();
    let replicas = table.optional("replicas", |raw| replicas(raw, nodes))?.unwrap_or_default();
    let copies = replicas.of(nodes);
    let min_copies = table.optional("min_copies", |raw| values::number(raw, 1..=u64::from(u8::MAX)))?;
    if let Some(min_copies) = min_copies.filter(|min_copies| *min_copies > u64::from(copies)) {
        return Err(table.error(
            "min_copies",
            format!("{min_copies} is more than there are copies of each value ({copies}); write 1 to {copies}"),
        ));
    }
    let partitions = table.optional("partitions", |raw| values::number(raw, 1..=limits::PARTITIONS_MAX as u64))?;
    Ok(ClusterConfig {
        name: table.optional("name", values::name)?.unwrap_or(default.name),
        replicas,
        // Both were checked against their upper ends, which fit.
        min_copies: min_copies.map_or_else(|| ClusterConfig::min_copies_default(copies), |number| number as u8),
        partitions: partitions.map_or(default.partitions, |number| number as u16),
        sync_interval: table.optional("sync_interval", values::duration)?.unwrap_or(default.sync_interval),
        replace_after: table.optional("replace_after", values::duration)?.unwrap_or(default.replace_after),
        demote_after: table.optional("demote_after", values::duration)?.unwrap_or(default.demote_after),
    })
}

fn replicas(raw: &Raw<'_>, nodes: usize) -> Result<Replicas, String> {
    if raw.as_text() == Some("auto") {
        return Ok(Replicas::Auto);
    }
    let number = raw.as_number().filter(|number| (1..=nodes as u64).contains(number));
    number.map(|number| Replicas::Number(number as u8)).ok_or_else(|| {
        format!(r#"{raw} is not allowed; write "auto" or a number from 1 to {nodes}, the number of nodes"#)
    })
}

fn timing(table: &Table<'_>) -> Result<TimingConfig, ConfigError> {
    let config = TimingConfig {
        heartbeat: table.optional("heartbeat", values::duration)?,
        election: table.optional("election", values::duration)?,
        lease: table.optional("lease", values::duration)?,
        down: table.optional("down", values::duration)?,
    };
    let timing = config.timing();
    // A lease that outlived the promise not to vote would let an old leader serve reads beside a new one.
    let shorter = [
        ("heartbeat", timing.heartbeat * 2, "twice the heartbeat", "election", timing.election, config.heartbeat),
        ("lease", timing.lease, "the lease", "election", timing.election, config.lease),
        ("lease", timing.lease, "the lease", "down", timing.down, config.lease),
    ];
    for (key, short, words, other, long, set) in shorter {
        if short >= long {
            // Names the setting that is in the file; the other may be a default.
            let key = if set.is_some() { key } else { other };
            let (short, long) = (show_duration(short), show_duration(long));
            return Err(table.error(key, format!("{words} ({short}) has to be shorter than {other} ({long})")));
        }
    }
    Ok(config)
}

fn gateway(table: &Table<'_>, security: &SecurityConfig) -> Result<GatewayConfig, ConfigError> {
    let http = table.optional("http", |raw| values::choice(raw, &SWITCH))?;
    if http == Some(false) && security.tls_cert.is_none() {
        return Err(table.error("http", "\"off\" leaves nothing to speak; set [security] tls_cert and tls_key too"));
    }
    let default = GatewayConfig::default();
    Ok(GatewayConfig {
        http,
        followers: table.optional("followers", |raw| values::choice(raw, &FOLLOWERS))?.unwrap_or_default(),
        hosts: table.optional("hosts", values::hosts)?.unwrap_or_default(),
        ftp: table.optional("ftp", values::ftp_address)?,
        ftp_passive_ports: table.optional("ftp_passive_ports", values::ports)?,
        slow_request: table.optional("slow_request", values::duration)?.unwrap_or(default.slow_request),
    })
}

fn stream(table: &Table<'_>) -> Result<StreamConfig, ConfigError> {
    let transport = table.optional("transport", |raw| values::choice(raw, &TRANSPORTS))?.unwrap_or_default();
    let config = StreamConfig {
        transport,
        certificate: table.optional("certificate", values::path)?,
        key: table.optional("key", values::path)?,
        authority: table.optional("authority", values::path)?,
    };
    let files = [("certificate", &config.certificate), ("key", &config.key), ("authority", &config.authority)];
    let missing = files.into_iter().find(|(_, path)| path.is_none()).map(|(name, _)| name);
    match missing.filter(|_| transport == Transport::Quic) {
        Some(missing) => Err(table.error(missing, WITHOUT_CERTIFICATES)),
        None => Ok(config),
    }
}

fn limits(table: &Table<'_>) -> Result<LimitsConfig, ConfigError> {
    let default = LimitsConfig::default();
    let key = table.optional("key", |raw| values::size(raw, 1..=limits::KEY_BYTES_MAX as u64))?;
    let value = table.optional("value", |raw| values::size(raw, 1..=limits::VALUE_BYTES_MAX as u64))?;
    let memory = table.optional("memory", |raw| values::size(raw, MEMORY_BYTES_MIN..=1 << 50))?;
    let connections = table.optional("connections", |raw| values::number(raw, 1..=CONNECTIONS_MAX))?;
    Ok(LimitsConfig {
        // Checked against upper ends that are of type usize.
        key_bytes: key.map_or(default.key_bytes, |bytes| bytes as usize),
        value_bytes: value.map_or(default.value_bytes, |bytes| bytes as usize),
        memory_bytes: memory.unwrap_or(default.memory_bytes),
        connections: connections.map_or(default.connections, |number| number as usize),
    })
}

fn security(table: &Table<'_>) -> Result<SecurityConfig, ConfigError> {
    let config = SecurityConfig {
        secret_file: table.optional("secret_file", values::path)?,
        tls_cert: table.optional("tls_cert", values::path)?,
        tls_key: table.optional("tls_key", values::path)?,
        tls_authority: table.optional("tls_authority", values::path)?,
        tokens_file: table.optional("tokens_file", values::path)?,
    };
    if config.tls_authority.is_some() && config.tls_cert.is_none() {
        return Err(table.error("tls_authority", "needs tls_cert and tls_key beside it"));
    }
    match (&config.tls_cert, &config.tls_key) {
        (Some(_), None) => Err(table.error("tls_cert", "needs tls_key beside it")),
        (None, Some(_)) => Err(table.error("tls_key", "needs tls_cert beside it")),
        _ => Ok(config),
    }
}

fn nodes(settings: &Settings<'_>, transport: Transport, scheme: &str) -> Result<Vec<NodeConfig>, ConfigError> {
    let tables = settings.nodes();
    if tables.is_empty() {
        return Err(settings.error("there is no [[node]]; write one for each node, with id, pulse, stream and gateway"));
    }
    if tables.len() > limits::NODES_MAX {
        let (nodes, most) = (tables.len(), limits::NODES_MAX);
        return Err(settings.error(format!("there are {nodes} [[node]] tables; at most {most} are allowed")));
    }
    let mut taken = Taken::default();
    tables.iter().map(|table| node(table, transport, scheme, &mut taken)).collect()
}

/// What earlier nodes have that no later one may have too: (key, value) → whose it is.
type Taken = BTreeMap<(&'static str, String), String>;

fn node(table: &Table<'_>, transport: Transport, scheme: &str, taken: &mut Taken) -> Result<NodeConfig, ConfigError> {
    let id = table.required("id", values::name)?;
    let [pulse, stream, gateway] = [
        table.required("pulse", values::address)?,
        table.required("stream", values::address)?,
        table.required("gateway", values::address)?,
    ];
    // Two planes that listen on the same protocol can't share an address, on whatever node.
    let protocol = match transport {
        Transport::Tcp => "TCP",
        Transport::Quic => "UDP",
    };
    let claims = [
        ("id", "id", id.clone()),
        ("pulse", "UDP", pulse.to_string()),
        ("stream", protocol, stream.to_string()),
        ("gateway", "TCP", gateway.to_string()),
    ];
    for (key, kind, value) in claims {
        if let Some(owner) = taken.insert((kind, value.clone()), id.clone()) {
            return Err(table.error(key, format!("{value:?} is taken by node {owner:?}; each has to be different")));
        }
    }
    let node = NodeConfig {
        advertise: table.optional("advertise", values::base_url)?.unwrap_or_else(|| format!("{scheme}://{gateway}")),
        bind_pulse: table.optional("bind_pulse", values::address)?.unwrap_or_else(|| pulse.clone()),
        bind_stream: table.optional("bind_stream", values::address)?.unwrap_or_else(|| stream.clone()),
        bind_gateway: table.optional("bind_gateway", values::address)?.unwrap_or_else(|| gateway.clone()),
        id,
        pulse,
        stream,
        gateway,
    };
    match transport {
        Transport::Quic if node.bind_stream.overlaps(&node.bind_pulse) => Err(table.error(
            if node.bind_stream == node.stream { "stream" } else { "bind_stream" },
            format!(
                r#"port {} is that of the pulse too, and with transport = "quic" both are UDP; write another one"#,
                node.bind_stream.port
            ),
        )),
        _ => Ok(node),
    }
}

/// What is allowed but probably not meant.
fn doubts(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    match config.nodes.len() {
        1 => warnings.push("a cluster of 1 node loses everything when that node stops; 3 survive the loss of one"),
        2 => warnings.push("a cluster of 2 nodes refuses writes when either stops; 3 survive the loss of one"),
        _ if config.replicas() == 1 => {
            warnings.push("replicas = 1 keeps one copy of each value: the loss of any node loses what it held");
        }
        _ => {}
    }
    let stream = &config.stream;
    if stream.transport == Transport::Tcp
        && [&stream.certificate, &stream.key, &stream.authority].iter().any(|file| file.is_some())
    {
        warnings.push(r#"[stream] certificate, key and authority change nothing while transport is "tcp""#);
    }
    if config.gateway.ftp.is_none() && config.gateway.ftp_passive_ports.is_some() {
        warnings.push("[gateway] ftp_passive_ports changes nothing without ftp");
    }
    let mut warnings: Vec<Warning> = warnings.into_iter().map(|text| Warning(text.to_owned())).collect();
    let unspoken = |node: &&NodeConfig| match node.advertise.split_once("://") {
        Some(("http", _)) => !config.speaks_http(),
        // Somebody else may speak TLS in front of the gateways.
        _ => false,
    };
    if let Some(node) = config.nodes.iter().find(unspoken) {
        let (id, advertised) = (&node.id, &node.advertise);
        warnings.push(Warning(format!(
            "node {id} advertises {advertised}, and gateways speak HTTPS only: write https://, or [gateway] http = \"on\""
        )));
    }
    if config.security.tokens_file.is_some()
        && config.speaks_http()
        && config.nodes.iter().any(|node| !node.bind_gateway.is_loopback())
    {
        warnings.push(Warning(
            "clients' tokens travel unencrypted to gateways without TLS: whoever listens on the way has them; set [security] tls_cert and tls_key, or see to TLS in front of the gateways".to_owned(),
        ));
    }
    warnings
}

pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
