//! The repository's own cluster.toml: it is valid, and it is what docker-compose.yml and the documentation say.

use jumpgate::base::Slot;
use jumpgate::config::Config;

fn own_configuration() -> Config {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/cluster.toml")).expect("cluster.toml");
    let (config, warnings) = Config::parse("cluster.toml", &text, std::iter::empty()).expect("cluster.toml is valid");
    assert_eq!(warnings, []);
    config
}

#[test]
fn it_is_five_nodes_for_containers() {
    let config = own_configuration();
    assert_eq!(config.nodes.len(), 5);
    assert_eq!(config.replicas(), 3, "any two of five can vanish at once");
    for (nth, node) in config.nodes.iter().enumerate() {
        let id = format!("n{}", nth + 1);
        assert_eq!(config.node(&id), Ok(Slot(nth as u8)));
        let peers = [&node.pulse, &node.stream, &node.gateway].map(ToString::to_string);
        assert_eq!(peers, [format!("{id}:8501"), format!("{id}:9501"), format!("{id}:7501")]);
        let binds = [&node.bind_pulse, &node.bind_stream, &node.bind_gateway].map(ToString::to_string);
        assert_eq!(binds, ["0.0.0.0:8501", "0.0.0.0:9501", "0.0.0.0:7501"]);
        assert_eq!(node.advertise, format!("http://127.0.0.1:740{}", nth + 1));
        assert!(!node.is_loopback());
    }
    assert!(config.security.secret_file.is_some(), "off loopback a node without a secret refuses to start");
}

/// The comments call the values below them defaults; they are.
#[test]
fn what_it_sets_beside_nodes_and_secret_are_the_defaults() {
    let config = own_configuration();
    let mut bare = config.clone();
    bare.security.secret_file = None;
    let nodes = bare.to_toml();
    let nodes = &nodes[nodes.find("[[node]]").expect("nodes are written")..];
    let (defaults, _) = Config::parse("nodes", nodes, std::iter::empty()).expect("nodes alone");
    assert_eq!(defaults, bare);
}

/// What it has commented out is valid too: a reader may take the mark away.
#[test]
fn its_examples_are_valid() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/cluster.toml")).expect("cluster.toml");
    let is_example = |line: &&str| line.starts_with("# [") || line.starts_with("# ") && line.contains(" = \"");
    let examples = text.lines().filter(is_example).count();
    assert_eq!(examples, 15, "one table and fourteen settings are commented out");
    let uncommented: Vec<&str> =
        text.lines().map(|line| if is_example(&line) { line.trim_start_matches("# ") } else { line }).collect();
    let (config, _) = Config::parse("cluster.toml", &uncommented.join("\n"), std::iter::empty()).expect("its examples");
    assert!(config.timing.is_fixed() && config.gateway.ftp.is_some() && config.security.tokens_file.is_some());
    assert!(config.certificate_files(jumpgate::base::Slot(0)).is_some());
    assert_eq!(config.timing.timing(), jumpgate::base::Timing::default());
}
