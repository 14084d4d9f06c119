//! [`Config`] → commented text that [`Config::parse`] reads back.

use std::fmt::{self, Display, Write};
use std::path::Path;
use std::time::Duration;

use super::check::{FOLLOWERS, SWITCH, TRANSPORTS, show_duration};
use super::values::show_size;
use super::{Config, NodeConfig, Replicas};

/// Column at which comments begin.
const COMMENT_COLUMN: usize = 28;

pub(super) fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    write_to(&mut text, config).expect("writing into a String never fails");
    text
}

fn write_to(out: &mut String, config: &Config) -> fmt::Result {
    writeln!(out, "# A jumpgate cluster. Every node reads the same file:  jumpgate serve --config FILE --node ID")?;
    write_cluster(out, config)?;
    write_timing(out, config)?;

    writeln!(out, "\n[gateway]")?;
    let followers = word(config.gateway.followers, &FOLLOWERS);
    setting(out, "followers", quoted(followers), "relay to the leader | redirect (307) | route to the primary")?;
    let hosts: Vec<String> = config.gateway.hosts.iter().map(quoted).collect();
    setting(out, "hosts", format!("[{}]", hosts.join(", ")), "further Host names to answer to")?;
    if let Some(http) = config.gateway.http {
        setting(out, "http", quoted(word(http, &SWITCH)), "on: without TLS too, on the same port | off")?;
    }
    duration(out, "slow_request", config.gateway.slow_request, "what takes so long is worth a line in the log")?;
    if let Some(address) = &config.gateway.ftp {
        setting(out, "ftp", quoted(address), "serves files over FTP; further nodes of one machine at the next ports")?;
    }
    if let Some(ports) = &config.gateway.ftp_passive_ports {
        let ports = quoted(format_args!("{}-{}", ports.start(), ports.end()));
        setting(out, "ftp_passive_ports", ports, "of FTP's data connections")?;
    }

    write_stream(out, config)?;

    writeln!(out, "\n[limits]")?;
    setting(out, "key", quoted(show_size(config.limits.key_bytes as u64)), "the largest key")?;
    setting(out, "value", quoted(show_size(config.limits.value_bytes as u64)), "the largest value")?;
    setting(out, "memory", quoted(show_size(config.limits.memory_bytes)), "keys and values of one node, in all")?;
    setting(out, "connections", config.limits.connections, "clients at once, on each node")?;

    write_security(out, config)?;
    writeln!(out, "\n# The nodes. Their order gives each its slot: add new ones at the end.")?;
    config.nodes.iter().try_for_each(|node| write_node(out, node))
}

fn write_cluster(out: &mut String, config: &Config) -> fmt::Result {
    let cluster = &config.cluster;
    writeln!(out, "\n[cluster]")?;
    setting(out, "name", quoted(&cluster.name), "nodes of another name are not talked to")?;
    let replicas = match cluster.replicas {
        Replicas::Auto => quoted("auto"),
        Replicas::Number(number) => number.to_string(),
    };
    setting(out, "replicas", replicas, "copies of each value: \"auto\" is half of the nodes plus one")?;
    setting(out, "min_copies", cluster.min_copies, "a write that fewer nodes can hold is refused")?;
    setting(out, "partitions", cluster.partitions, "fixed when the cluster is founded")?;
    let durations = [
        ("sync_interval", cluster.sync_interval, "how often copies are compared"),
        ("replace_after", cluster.replace_after, "a node gone for so long is replaced by copies elsewhere"),
        ("demote_after", cluster.demote_after, "a node silent for so long loses its vote"),
    ];
    durations.into_iter().try_for_each(|(key, value, comment)| duration(out, key, value, comment))
}

fn write_timing(out: &mut String, config: &Config) -> fmt::Result {
    let timing = &config.timing;
    if !timing.is_fixed() {
        return writeln!(
            out,
            "\n# There is no [timing]: the times of a failover are the defaults, and widen where need be."
        );
    }
    writeln!(out, "\n[timing]")?;
    let durations = [
        ("heartbeat", timing.heartbeat, "from the leader to each node"),
        ("election", timing.election, "the promise not to vote; a random part is added to it"),
        ("lease", timing.lease, "how long the leader may serve reads without asking again"),
        ("down", timing.down, "a node silent for so long is declared down"),
    ];
    let set = durations.into_iter().filter_map(|(key, value, comment)| Some((key, value?, comment)));
    set.into_iter().try_for_each(|(key, value, comment)| duration(out, key, value, comment))
}

fn write_stream(out: &mut String, config: &Config) -> fmt::Result {
    writeln!(out, "\n[stream]")?;
    let stream = &config.stream;
    setting(out, "transport", quoted(word(stream.transport, &TRANSPORTS)), "tcp | quic, with mutual TLS")?;
    let files = [
        ("certificate", &stream.certificate, "of each node; {node} stands for its id"),
        ("key", &stream.key, "and its key"),
        ("authority", &stream.authority, "who makes certificates of nodes"),
    ];
    let set = files.into_iter().filter_map(|(key, path, comment)| Some((key, path.as_deref()?, comment)));
    set.into_iter().try_for_each(|(key, path, comment)| setting(out, key, quoted(Path::display(path)), comment))
}

fn write_security(out: &mut String, config: &Config) -> fmt::Result {
    writeln!(out, "\n[security]")?;
    let security = &config.security;
    let files = [
        ("secret_file", &security.secret_file, "one secret a line; the first signs, all verify"),
        ("tls_cert", &security.tls_cert, "the gateway's certificate chain"),
        ("tls_key", &security.tls_key, "and its key"),
        ("tls_authority", &security.tls_authority, "who makes certificates of gateways"),
        ("tokens_file", &security.tokens_file, "clients' tokens and roles"),
    ];
    if files.iter().all(|(_, path, _)| path.is_none()) {
        return writeln!(out, "# Nothing: no secret is needed on loopback.");
    }
    let set = files.into_iter().filter_map(|(key, path, comment)| Some((key, path.as_deref()?, comment)));
    set.into_iter().try_for_each(|(key, path, comment)| setting(out, key, quoted(Path::display(path)), comment))
}

fn write_node(out: &mut String, node: &NodeConfig) -> fmt::Result {
    writeln!(out, "\n[[node]]")?;
    setting(out, "id", quoted(&node.id), "")?;
    setting(out, "pulse", quoted(&node.pulse), "UDP: heartbeats and votes")?;
    setting(out, "stream", quoted(&node.stream), "data: TCP, or UDP with quic")?;
    setting(out, "gateway", quoted(&node.gateway), "clients: HTTP, HTTPS with tls_cert")?;
    setting(out, "advertise", quoted(&node.advertise), "where clients are told to go")?;
    let binds = [
        ("bind_pulse", &node.bind_pulse, &node.pulse),
        ("bind_stream", &node.bind_stream, &node.stream),
        ("bind_gateway", &node.bind_gateway, &node.gateway),
    ];
    let set = binds.into_iter().filter(|(_, bind, address)| bind != address);
    set.into_iter().try_for_each(|(key, bind, _)| setting(out, key, quoted(bind), "listens here itself"))
}

fn duration(out: &mut String, key: &str, value: Duration, comment: &str) -> fmt::Result {
    setting(out, key, quoted(show_duration(value)), comment)
}

fn setting(out: &mut String, key: &str, value: impl Display, comment: &str) -> fmt::Result {
    let line = format!("{key} = {value}");
    // A value that reaches beyond the column still has a space between it and its comment.
    let column = COMMENT_COLUMN - 1;
    if comment.is_empty() { writeln!(out, "{line}") } else { writeln!(out, "{line:<column$} # {comment}") }
}

/// Text as TOML quotes it.
fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn word<T: PartialEq>(meaning: T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, known)| *known == meaning).map(|(word, _)| *word).expect("every choice has its word")
}
