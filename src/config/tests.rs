//! Good and bad files, each bad one with its message.

use super::*;

/// Three good nodes and nothing else; five lines each, with an empty line between.
const NODES: &str = r#"[[node]]
id = "n1"
pulse = "127.0.0.1:8501"
stream = "127.0.0.1:9501"
gateway = "127.0.0.1:7501"

[[node]]
id = "n2"
pulse = "127.0.0.1:8502"
stream = "127.0.0.1:9502"
gateway = "127.0.0.1:7502"

[[node]]
id = "n3"
pulse = "127.0.0.1:8503"
stream = "127.0.0.1:9503"
gateway = "127.0.0.1:7503"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::parse("cluster.toml", text, std::iter::empty())
}

fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<(Config, Vec<Warning>), ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse("cluster.toml", text, environment)
}

fn ports(nodes: u16) -> Vec<Ports> {
    (1..=nodes).map(|nth| Ports { pulse: 8500 + nth, stream: 9500 + nth, gateway: 7400 + nth }).collect()
}

#[test]
fn nodes_alone_make_a_configuration_with_the_documented_defaults() {
    let (config, warnings) = parse(NODES).expect("three nodes");
    assert_eq!(warnings, []);
    assert_eq!(config.cluster.name, "store");
    assert_eq!((config.cluster.replicas, config.replicas(), config.cluster.min_copies), (Replicas::Auto, 2, 2));
    assert_eq!(config.cluster.partitions, 4096);
    let cluster = &config.cluster;
    let seconds = [cluster.sync_interval, cluster.replace_after, cluster.demote_after].map(|time| time.as_secs());
    assert_eq!(seconds, [10, 10, 30]);
    assert!(!config.timing.is_fixed());
    assert_eq!(config.timing.timing(), Timing::default());
    assert_eq!(config.gateway, GatewayConfig::default());
    assert_eq!(config.gateway.slow_request, Duration::from_secs(1));
    assert_eq!(config.stream.transport, Transport::Tcp);
    let limits = LimitsConfig { key_bytes: 1024, value_bytes: 8 << 20, memory_bytes: 2 << 30, connections: 10_000 };
    assert_eq!(config.limits, limits);
    assert_eq!(config.security, SecurityConfig::default());
    let node = &config.nodes[1];
    assert_eq!((node.id.as_str(), node.advertise.as_str()), ("n2", "http://127.0.0.1:7502"));
    assert_eq!((&node.bind_pulse, &node.bind_stream, &node.bind_gateway), (&node.pulse, &node.stream, &node.gateway));
    assert!(node.is_loopback());
}

#[test]
fn every_setting_is_read() {
    let text = r#"
        [cluster]
        name = "other"
        replicas = 3
        min_copies = 1
        partitions = 64
        sync_interval = "1s"
        replace_after = "2s"
        demote_after = "1m 30s"
        [timing]
        heartbeat = "5ms"
        election = "50ms"
        lease = "40ms"
        down = "45ms"
        [gateway]
        followers = "redirect"
        hosts = ["store.example.org", "store"]
        http = "off"
        ftp = "127.0.0.1:7421"
        ftp_passive_ports = "30000-30099"
        [stream]
        transport = "quic"
        certificate = "/run/{node}.pem"
        key = "/run/{node}.key"
        authority = "/run/authority.pem"
        [limits]
        key = "512"
        value = 4096
        memory = "1GiB"
        connections = 7
        [security]
        secret_file = "/run/secret"
        tls_cert = "{node}/cert.pem"
        tls_key = "key.pem"
        tls_authority = "authority.pem"
        tokens_file = "tokens"
        [[node]]
        id = "a"
        pulse = "a:1"
        stream = "a:2"
        gateway = "a:3"
        advertise = "https://store.example.org/"
        bind_pulse = "0.0.0.0:11"
        bind_stream = "0.0.0.0:12"
        bind_gateway = "[::]:13"
    "#;
    let (config, warnings) = parse(&format!("{text}\n{NODES}")).expect("every setting");
    assert_eq!(warnings, []);
    assert_eq!((config.cluster.name.as_str(), config.cluster.partitions), ("other", 64));
    assert_eq!((config.cluster.replicas, config.cluster.min_copies), (Replicas::Number(3), 1));
    assert_eq!((config.cluster.sync_interval.as_secs(), config.cluster.replace_after.as_secs()), (1, 2));
    assert_eq!(config.cluster.demote_after.as_secs(), 90);
    let timing = config.timing.timing();
    let milliseconds = [timing.heartbeat, timing.election, timing.lease, timing.down].map(|time| time.as_millis());
    assert_eq!((milliseconds, config.timing.is_fixed()), ([5, 50, 40, 45], true));
    assert_eq!(config.gateway.followers, FollowerMode::Redirect);
    assert_eq!(config.gateway.hosts, ["store.example.org", "store"]);
    assert_eq!(config.gateway.ftp.as_ref().map(ToString::to_string).as_deref(), Some("127.0.0.1:7421"));
    assert_eq!(config.gateway.ftp_passive_ports, Some(30000..=30099));
    assert_eq!(config.stream.transport, Transport::Quic);
    let files = config.certificate_files(Slot(0)).expect("all three are named");
    assert_eq!((files.certificate, files.key), ("/run/a.pem".into(), "/run/a.key".into()));
    assert_eq!(files.authority, PathBuf::from("/run/authority.pem"));
    assert_eq!(config.certificate_names()[..2], ["a.other.jumpgate", "n1.other.jumpgate"]);
    let limits = LimitsConfig { key_bytes: 512, value_bytes: 4096, memory_bytes: 1 << 30, connections: 7 };
    assert_eq!(config.limits, limits);
    let security = &config.security;
    let files = [&security.secret_file, &security.tls_cert, &security.tls_key, &security.tokens_file];
    let files = files.map(|file| file.as_deref().and_then(|file| file.to_str()).unwrap_or("-"));
    assert_eq!(files, ["/run/secret", "{node}/cert.pem", "key.pem", "tokens"]);
    let files = config.gateway_files(Slot(0)).expect("both are named");
    assert_eq!((files.certificate, files.authority), ("a/cert.pem".into(), Some("authority.pem".into())));
    assert_eq!((config.gateway.http, config.speaks_http()), (Some(false), false));
    let node = &config.nodes[0];
    let shown = [&node.pulse, &node.stream, &node.gateway, &node.bind_pulse, &node.bind_stream, &node.bind_gateway];
    let shown: Vec<String> = shown.into_iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["a:1", "a:2", "a:3", "0.0.0.0:11", "0.0.0.0:12", "[::]:13"]);
    assert_eq!(node.advertise, "https://store.example.org");
    assert!(!node.is_loopback());

    // And it comes back from the text that it is written as.
    assert_eq!(parse(&config.to_toml()).expect("what was written"), (config, vec![]));
}

/// Each line of input stands before three good nodes, so line 1 is its first.
#[test]
fn each_mistake_has_its_message() {
    let table = [
        (
            "[clutser]",
            "1: [clutser]: there is no such table; did you mean cluster? allowed are cluster, timing, gateway, stream, limits, security, node",
        ),
        (
            "x = 1",
            "1: [x]: there is no such table; allowed are cluster, timing, gateway, stream, limits, security, node",
        ),
        ("cluster = 1", "1: [cluster]: has to be a table"),
        (
            "[cluster]\nreplica = 2",
            "2: [cluster] replica: there is no such setting; did you mean replicas? allowed are name, replicas, min_copies, partitions, sync_interval, replace_after, demote_after",
        ),
        (
            "[cluster]\nname = ''",
            r#"2: [cluster] name: "" is not a name; write 1 to 64 letters, digits, dots, hyphens or underscores"#,
        ),
        (
            "[cluster]\nname = 'a b'",
            r#"2: [cluster] name: "a b" is not a name; write 1 to 64 letters, digits, dots, hyphens or underscores"#,
        ),
        (
            "[cluster]\nreplicas = 0",
            r#"2: [cluster] replicas: 0 is not allowed; write "auto" or a number from 1 to 3, the number of nodes"#,
        ),
        (
            "[cluster]\nreplicas = 4",
            r#"2: [cluster] replicas: 4 is not allowed; write "auto" or a number from 1 to 3, the number of nodes"#,
        ),
        (
            "[cluster]\nreplicas = 'most'",
            r#"2: [cluster] replicas: "most" is not allowed; write "auto" or a number from 1 to 3, the number of nodes"#,
        ),
        (
            "[cluster]\nmin_copies = 3",
            "2: [cluster] min_copies: 3 is more than there are copies of each value (2); write 1 to 2",
        ),
        ("[cluster]\nmin_copies = 0", "2: [cluster] min_copies: 0 is not allowed; write a whole number from 1 to 255"),
        (
            "[cluster]\npartitions = 0",
            "2: [cluster] partitions: 0 is not allowed; write a whole number from 1 to 16384",
        ),
        (
            "[cluster]\npartitions = 16385",
            "2: [cluster] partitions: 16385 is not allowed; write a whole number from 1 to 16384",
        ),
        (
            "[cluster]\npartitions = -1",
            "2: [cluster] partitions: a number below zero or too large is not allowed; write a whole number from 1 to 16384",
        ),
        (
            "[cluster]\npartitions = 1.5",
            "2: [cluster] partitions: a number with a fraction is not allowed; write a whole number from 1 to 16384",
        ),
        (
            "[cluster]\n\nsync_interval = '10'",
            r#"3: [cluster] sync_interval: "10" is not a duration; write a number with ms, s, m or h, such as "250ms" or "10s""#,
        ),
        (
            "[cluster]\nsync_interval = 10",
            r#"2: [cluster] sync_interval: 10 is not a duration; write a number with ms, s, m or h, such as "250ms" or "10s""#,
        ),
        (
            "[cluster]\nsync_interval = '0s'",
            r#"2: [cluster] sync_interval: "0s" is out of range; write a duration from 1ms to 24h"#,
        ),
        (
            "[cluster]\ndemote_after = '2days'",
            r#"2: [cluster] demote_after: "2days" is out of range; write a duration from 1ms to 24h"#,
        ),
        ("[timing]\nlease = '100ms'", "2: [timing] lease: the lease (100ms) has to be shorter than election (100ms)"),
        (
            "[timing]\nelection = '70ms'",
            "2: [timing] election: the lease (80ms) has to be shorter than election (70ms)",
        ),
        (
            "[timing]\nheartbeat = '50ms'",
            "2: [timing] heartbeat: twice the heartbeat (100ms) has to be shorter than election (100ms)",
        ),
        ("[timing]\ndown = '80ms'", "2: [timing] down: the lease (80ms) has to be shorter than down (80ms)"),
        (
            "[gateway]\nfollowers = 'proxy'",
            r#"2: [gateway] followers: "proxy" is not allowed; write "relay" or "redirect" or "route""#,
        ),
        (
            "[gateway]\nhosts = ['a:80']",
            r#"2: [gateway] hosts: ["a:80"] is not a list of host names; write them without ports, such as ["store.example.org"]"#,
        ),
        (
            "[gateway]\nhosts = [1]",
            r#"2: [gateway] hosts: a list of other things than text is not a list of host names; write them without ports, such as ["store.example.org"]"#,
        ),
        (
            "[gateway]\nftp = 7421",
            r#"2: [gateway] ftp: 7421 is not an address; write host:port, such as "127.0.0.1:8501" or "n1:8501""#,
        ),
        (
            "[gateway]\nftp = '127.0.0.1:65500'",
            r#"2: [gateway] ftp: "127.0.0.1:65500" leaves no ports for further nodes of one machine; write one of at most 65471"#,
        ),
        (
            "[gateway]\nftp_passive_ports = '9-8'",
            r#"2: [gateway] ftp_passive_ports: "9-8" is not a range of ports; write the first and the last one, such as "30000-30099""#,
        ),
        ("[stream]\ntransport = true", r#"2: [stream] transport: true or false is not allowed; write "tcp" or "quic""#),
        (
            "[stream]\ntransport = 'quic'\nkey = 'k'\nauthority = 'a'",
            "1: [stream] certificate: is missing; with transport = \"quic\" nodes prove who they are by certificates: \
             `jumpgate cert` makes them and says what to write here",
        ),
        ("[stream]\nkey = ''", r#"2: [stream] key: "" is not a file name; write a path in quotes"#),
        (
            "[limits]\nvalue = '8MiX'",
            r#"2: [limits] value: "8MiX" is not a size; write a number of bytes or one with KiB, MiB or GiB, such as "8MiB""#,
        ),
        ("[limits]\nvalue = '17MiB'", r#"2: [limits] value: "17MiB" is out of range; write a size from 1 to 16MiB"#),
        ("[limits]\nkey = 0", "2: [limits] key: 0 is out of range; write a size from 1 to 1KiB"),
        (
            "[limits]\nmemory = '1KiB'",
            r#"2: [limits] memory: "1KiB" is out of range; write a size from 1MiB to 1048576GiB"#,
        ),
        (
            "[limits]\nconnections = 0",
            "2: [limits] connections: 0 is not allowed; write a whole number from 1 to 1000000",
        ),
        ("[security]\nsecret_file = ''", r#"2: [security] secret_file: "" is not a file name; write a path in quotes"#),
        ("[security]\ntls_cert = 'c'", "2: [security] tls_cert: needs tls_key beside it"),
        ("[security]\ntls_key = 'k'", "2: [security] tls_key: needs tls_cert beside it"),
        ("[security]\ntls_authority = 'a'", "2: [security] tls_authority: needs tls_cert and tls_key beside it"),
        (
            "[gateway]\nhttp = 'off'",
            r#"2: [gateway] http: "off" leaves nothing to speak; set [security] tls_cert and tls_key too"#,
        ),
        ("[gateway]\nhttp = 'no'", r#"2: [gateway] http: "no" is not allowed; write "on" or "off""#),
        ("[[node]]\npulse = 'a:1'", "1: [[node]] 1 id: is missing"),
        ("[[node]]\nid = 'a'\npulse = 'a:1'\nstream = 'a:2'", "1: [[node]] 1 gateway: is missing"),
        (
            "[[node]]\nid = 'a'\npulse = 'a'",
            r#"3: [[node]] 1 pulse: "a" is not an address; write host:port, such as "127.0.0.1:8501" or "n1:8501""#,
        ),
        (
            "[[node]]\nid = 'a'\nport = 1",
            "3: [[node]] 1 port: there is no such setting; allowed are id, pulse, stream, gateway, advertise, bind_pulse, bind_stream, bind_gateway",
        ),
        (
            "[[node]]\nid = 'a'\npulse = 'a:1'\nstream = 'a:2'\ngateway = 'a:2'",
            r#"5: [[node]] 1 gateway: "a:2" is taken by node "a"; each has to be different"#,
        ),
        (
            "[[node]]\nid = 'a'\npulse = 'a:1'\nstream = 'a:2'\ngateway = 'a:3'\nadvertise = 'a:3'",
            r#"6: [[node]] 1 advertise: "a:3" is not a base URL; write http://host:port or https://host:port, without a path"#,
        ),
    ];
    for (text, message) in table {
        let error = parse(&format!("{text}\n{NODES}")).expect_err(text);
        assert_eq!(error.to_string(), format!("cluster.toml:{message}"), "for {text}");
    }
}

#[test]
fn what_gateways_speak_decides_what_is_advertised() {
    let tls = "[security]\ntls_cert = 'c'\ntls_key = 'k'\n";
    let (config, warnings) = parse(&format!("{tls}{NODES}")).expect("HTTPS alone");
    assert!(!config.speaks_http() && config.nodes[0].advertise.starts_with("https://"), "{:?}", config.nodes[0]);
    assert_eq!(warnings, []);
    let (config, _) = parse(&format!("[gateway]\nhttp = 'on'\n{tls}{NODES}")).expect("both");
    assert!(config.speaks_http() && config.nodes[0].advertise.starts_with("https://"));
    let (config, _) = parse(NODES).expect("HTTP alone");
    assert!(config.speaks_http() && config.nodes[0].advertise.starts_with("http://"));
    let plain = "[[node]]\nid = 'x'\npulse = 'x:1'\nstream = 'x:2'\ngateway = 'x:3'\nadvertise = 'http://x:3'\n";
    let (_, warnings) = parse(&format!("{tls}{plain}{NODES}")).expect("it may be meant");
    assert!(
        warnings.iter().any(|warning| warning.to_string().contains("node x advertises http://x:3")),
        "{warnings:?}"
    );
    let open = "[security]\ntokens_file = 't'\n";
    let (_, warnings) = parse(&format!("{open}{plain}{NODES}")).expect("it may be meant");
    assert!(warnings.iter().any(|warning| warning.to_string().contains("travel unencrypted")), "{warnings:?}");
}

const QUIC: &str = "[stream]\ntransport = 'quic'\ncertificate = 'c'\nkey = 'k'\nauthority = 'a'\n";

#[test]
fn over_quic_streams_and_pulses_share_no_port_and_over_tcp_they_may() {
    let cases = [
        ("pulse = 'a:1'\nstream = 'a:1'", "taken by node \"a\"; each has to be different"),
        (
            "pulse = 'a:1'\nstream = 'b:1'\nbind_pulse = '0.0.0.0:1'\nbind_stream = '127.0.0.1:1'",
            "bind_stream: port 1 is that of the pulse too, and with transport = \"quic\" both are UDP; write another one",
        ),
        (
            "pulse = 'a:1'\nstream = '0.0.0.0:1'",
            "stream: port 1 is that of the pulse too, and with transport = \"quic\" both are UDP; write another one",
        ),
    ];
    for (addresses, words) in cases {
        let node = format!("[[node]]\nid = 'a'\ngateway = 'a:2'\n{addresses}\n");
        parse(&node).unwrap_or_else(|error| panic!("{addresses} over TCP: {error}"));
        let error = parse(&format!("{QUIC}{node}")).expect_err(addresses).to_string();
        assert!(error.contains(words), "{error:?} doesn't say {words:?}");
    }
    // And with the gateway, which stays on TCP, a stream may share its number.
    let node = "[[node]]\nid = 'a'\npulse = 'a:1'\nstream = 'a:2'\ngateway = 'a:2'\n";
    assert!(parse(node).is_err());
    parse(&format!("{QUIC}{node}")).expect("TCP and UDP have ports of their own");
}

#[test]
fn certificates_that_nobody_would_look_at_are_doubted() {
    let (_, warnings) = parse(&format!("[stream]\nkey = 'k'\n{NODES}")).expect("it is allowed");
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [r#"[stream] certificate, key and authority change nothing while transport is "tcp""#]
    );
    assert_eq!(parse(&format!("{QUIC}{NODES}")).expect("it is allowed").1, []);
}

#[test]
fn a_mistake_in_the_whole_file_names_the_file() {
    let table = [
        (
            "",
            "cluster.toml: there is no [[node]]; write one for each node, with id, pulse, stream and gateway"
                .to_owned(),
        ),
        ("[node]\nid = 'a'", "cluster.toml:1: [node]: write [[node]], once for each node".to_owned()),
        ("node = [1]", "cluster.toml:1: [[node]] 1: has to be a table".to_owned()),
        ("[limits]\nvalue = 8MiB", "cluster.toml:2: this is not TOML: ".to_owned()),
        ("[limits]\nkey = 1\nkey = 2", "cluster.toml:3: this is not TOML: duplicate key".to_owned()),
    ];
    for (text, message) in table {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(&message), "{text:?} gave {error:?}");
    }
}

#[test]
fn no_two_nodes_share_a_name_or_an_address() {
    let table = [
        (
            "id",
            "\"n2\"",
            "\"n1\"",
            r#"cluster.toml:8: [[node]] 2 id: "n1" is taken by node "n1"; each has to be different"#,
        ),
        (
            "pulse",
            ":8503",
            ":8501",
            r#"cluster.toml:15: [[node]] 3 pulse: "127.0.0.1:8501" is taken by node "n1"; each has to be different"#,
        ),
        (
            "stream",
            ":9502",
            ":7501",
            r#"cluster.toml:10: [[node]] 2 stream: "127.0.0.1:7501" is taken by node "n1"; each has to be different"#,
        ),
    ];
    for (key, from, to, message) in table {
        let error = parse(&NODES.replace(from, to)).expect_err(key);
        assert_eq!(error.to_string(), message);
    }
    // UDP and TCP ports are different things.
    assert!(parse(&NODES.replace(":9502", ":8502")).is_ok());
}

#[test]
fn the_number_of_nodes_is_bounded_and_small_clusters_are_warned_about() {
    let of = |nodes: u16| parse(&Config::loopback("store", &ports(nodes)).to_toml());
    let table = [
        (1, "a cluster of 1 node loses everything when that node stops; 3 survive the loss of one"),
        (2, "a cluster of 2 nodes refuses writes when either stops; 3 survive the loss of one"),
    ];
    for (nodes, warning) in table {
        let (config, warnings) = of(nodes).expect("a small cluster");
        assert_eq!(warnings, [Warning(warning.to_owned())]);
        assert_eq!(config.cluster.min_copies, u8::min(2, nodes as u8), "never more than there are copies");
    }
    assert_eq!(of(64).expect("64 nodes").1, []);
    let (_, warnings) = parse(&format!("[cluster]\nreplicas = 1\n{NODES}")).expect("one copy");
    let warning = "replicas = 1 keeps one copy of each value: the loss of any node loses what it held";
    assert_eq!(warnings, [Warning(warning.to_owned())]);

    let mut text = Config::loopback("store", &ports(64)).to_toml();
    text.push_str("[[node]]\nid = 'more'\npulse = 'm:1'\nstream = 'm:2'\ngateway = 'm:3'\n");
    let error = parse(&text).expect_err("65 nodes");
    assert_eq!(error.to_string(), "cluster.toml: there are 65 [[node]] tables; at most 64 are allowed");
}

#[test]
fn the_environment_comes_before_the_file() {
    let text = format!("[limits]\nmemory = '1GiB'\nconnections = 5\n{NODES}");
    let environment = [
        ("JUMPGATE_LIMITS_MEMORY", "3GiB"),
        ("JUMPGATE_LIMITS_CONNECTIONS", ""),
        ("JUMPGATE_CLUSTER_PARTITIONS", "128"),
        ("JUMPGATE_CLUSTER_REPLICAS", "3"),
        ("JUMPGATE_TIMING_HEARTBEAT", "10ms"),
        ("JUMPGATE_GATEWAY_HOSTS", "a.example.org, b.example.org"),
        ("JUMPGATE_SECURITY_SECRET_FILE", "/run/secret"),
        ("JUMPGATE_NODE", "n1"),
        ("JUMPGATE_URL", "http://127.0.0.1:7501"),
        ("JUMPGATE_CONFIG", "cluster.toml"),
        ("JUMPGATE_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let (config, warnings) = parse_with(&text, &environment).expect("good variables");
    assert_eq!(warnings, []);
    assert_eq!((config.limits.memory_bytes, config.limits.connections), (3 << 30, 5));
    assert_eq!((config.cluster.partitions, config.replicas()), (128, 3));
    assert_eq!(config.timing.timing().heartbeat.as_millis(), 10);
    assert_eq!(config.gateway.hosts, ["a.example.org", "b.example.org"]);
    assert!(config.security.secret_file.is_some());
}

#[test]
fn a_bad_variable_is_named_and_an_unknown_one_only_warns() {
    let error = parse_with(NODES, &[("JUMPGATE_LIMITS_VALUE", "8MiX")]).expect_err("a bad size");
    let message = r#"environment variable JUMPGATE_LIMITS_VALUE: [limits] value: "8MiX" is not a size; write a number of bytes or one with KiB, MiB or GiB, such as "8MiB""#;
    assert_eq!(error.to_string(), message);

    let table = [
        ("JUMPGATE_LIMIT_VALUE", "did you mean JUMPGATE_LIMITS_VALUE?"),
        ("JUMPGATE_COLOUR", "settings are named JUMPGATE_<TABLE>_<KEY>, such as JUMPGATE_LIMITS_MEMORY"),
        ("JUMPGATE_NODE_ID", "settings are named JUMPGATE_<TABLE>_<KEY>, such as JUMPGATE_LIMITS_MEMORY"),
    ];
    for (variable, hint) in table {
        let (_, warnings) = parse_with(NODES, &[(variable, "1")]).expect("only a warning");
        let text = format!("environment variable {variable} is not known and changes nothing; {hint}");
        assert_eq!(warnings, [Warning(text)]);
    }
}

#[test]
fn a_node_is_found_by_its_name() {
    let (config, _) = parse(NODES).expect("three nodes");
    assert_eq!(config.node("n3"), Ok(Slot(2)));
    let error = config.node("n4").expect_err("no such node");
    assert_eq!(error.to_string(), r#"there is no node "n4"; the nodes are n1, n2, n3"#);
}

#[test]
fn a_loopback_cluster_is_what_its_text_says() {
    for nodes in [3, 5] {
        let config = Config::loopback("dev", &ports(nodes));
        assert_eq!(config.nodes[2].gateway.to_string(), "127.0.0.1:7403");
        assert_eq!(config.nodes[2].advertise, "http://127.0.0.1:7403");
        assert!(config.nodes.iter().all(NodeConfig::is_loopback));
        let text = config.to_toml();
        assert_eq!(parse(&text).expect("what was written"), (config, vec![]), "{text}");
    }
}

/// A path may hold what TOML has to escape.
#[test]
fn what_is_written_is_escaped() {
    for path in ["C:\\secret", "a\"b", "it's", "new\nline", "schlüssel"] {
        let mut config = Config::loopback("dev", &ports(3));
        config.security.secret_file = Some(PathBuf::from(path));
        let (read, _) = parse(&config.to_toml()).expect(path);
        assert_eq!(read.security, config.security);
    }
}

/// Nesting costs a parser stack; this one has a bound.
#[test]
fn a_deeply_nested_file_is_refused() {
    for nested in ["[".repeat(100_000), "{a=".repeat(100_000)] {
        assert!(parse(&format!("x = {nested}")).is_err());
    }
}

proptest::proptest! {
    /// Whatever is in the file: an answer, never a panic, and a place inside of the file.
    #[test]
    fn no_text_makes_it_panic(text in "(\\[\\[?[a-z]{0,8}\\]?\\]?|[a-z_]{1,8} ?= ?['\"0-9a-z.:-]{0,9}|\\PC{0,6}|\n){0,40}") {
        if let Err(ConfigError { place: Place::Line { line, .. }, .. }) = parse(&text) {
            proptest::prop_assert!(line <= text.matches('\n').count() + 1);
        }
    }
}

#[test]
fn a_comment_keeps_its_distance_from_a_long_value() {
    let ports = Ports { pulse: 10_001, stream: 10_002, gateway: 10_003 };
    let text = Config::loopback("a-name-that-is-longer-than-any-column", &[ports]).to_toml();
    let beside: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && line.contains('#')).collect();
    assert!(beside.len() > 10 && beside.iter().all(|line| line.contains(" # ")), "{text}");
}
