//! Starting, and refusing to start.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;

use super::http::Http;
use super::processes::{Cluster, PortBlock, Process, Scratch, program, put, read, until};

/// The leader lines among `output`: (term, name of the leader).
pub fn leader_lines(output: &str) -> Vec<(u64, String)> {
    let lines = output.lines().filter_map(|line| {
        let (leader, rest) = line.split_once(" is the leader (term ")?;
        let (term, rest) = rest.split_once(", ")?;
        let (up, all) = rest.strip_suffix(" nodes)")?.split_once(" of ")?;
        let is_count = |count: &str| count.parse::<u8>().is_ok_and(|count| count >= 1);
        assert!(is_count(up) && is_count(all), "{line}");
        Some((term.parse().expect("a term"), leader.to_owned()))
    });
    lines.collect()
}

/// Runs a program that is to end by itself: exit code and error stream.
fn run(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("the program starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("text on stderr"))
}

#[test]
fn dev_is_a_cluster_that_says_where_it_is_and_ends_when_it_is_told() {
    for signal in ["INT", "TERM"] {
        let (ports, scratch) = (PortBlock::claim(), Scratch::new());
        let first = ports.first();
        let mut dev = Process::start(program(&["dev", "--port", &first.to_string()]), &scratch, "dev");
        until("dev says what to try", || dev.output().contains("     curl ").then_some(()));
        let output = dev.output();
        let mut terms: Vec<u64> = leader_lines(&output).into_iter().map(|(term, _)| term).collect();
        assert!(output.contains(" of 3 nodes)"), "{output}");
        assert!(!terms.is_empty(), "no leader was named: {output}");
        terms.dedup();
        assert_eq!(terms.len(), leader_lines(&output).len(), "a leader was named twice: {output}");
        for node in 1..=3 {
            let line = format!("\n  n{node}  http://127.0.0.1:{}  (pulse 127.0.0.1:", first + node);
            assert!(output.contains(&line), "{line:?} is not in {output}");
        }
        let url = format!("http://127.0.0.1:{}", first + 1);
        assert!(output.contains(&format!("try  curl -X PUT --data-binary 'hello' {url}/v1/kv/greeting\n")), "{output}");
        put(&mut Http::new(first + 1), "greeting", b"hello");
        assert_eq!(read(&mut Http::new(first + 3), "greeting").as_deref(), Some(&b"hello"[..]));
        assert_eq!(dev.stop(signal).code(), Some(0), "{signal}: {}", dev.log());
    }
}

#[test]
fn a_printed_configuration_makes_one_cluster_of_three_processes() {
    let (ports, scratch) = (PortBlock::claim_for_print(), Scratch::new());
    let first = ports.first();
    let printed = program(&["dev", "--print-config", "--port", &first.to_string()]).output().expect("it starts");
    assert!(printed.status.success());
    let file = scratch.file("cluster.toml");
    std::fs::write(&file, &printed.stdout).expect("a file");
    let mut nodes: Vec<Process> = (1..=3)
        .map(|node| {
            let name = format!("n{node}");
            let mut serve = program(&["serve", "--config", file.to_str().expect("a path of text"), "--node", &name]);
            // Times that a busy machine keeps: they come from the environment here, as containers would set them.
            serve.env("JUMPGATE_TIMING_HEARTBEAT", "50ms").env("JUMPGATE_TIMING_ELECTION", "500ms");
            serve.env("JUMPGATE_TIMING_LEASE", "400ms").env("JUMPGATE_TIMING_DOWN", "450ms");
            Process::start(serve, &scratch, &name)
        })
        .collect();
    for node in 1..=3 {
        let mut client = Http::new(first + node);
        until(&format!("n{node} is ready"), || {
            client.ask("GET /readyz", b"").ok().filter(|answer| answer.status == 200)
        });
    }
    let mut cluster_ids: Vec<String> = (1..=3)
        .map(|node| {
            let status = Http::new(first + node).ask("GET /v1/cluster", b"").expect("an answer").json();
            assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
            status["cluster_id"].as_str().expect("text").to_owned()
        })
        .collect();
    cluster_ids.dedup();
    assert!(cluster_ids.len() == 1 && !cluster_ids[0].is_empty(), "{cluster_ids:?}");
    put(&mut Http::new(first + 1), "a", b"one");
    assert_eq!(read(&mut Http::new(first + 2), "a").as_deref(), Some(&b"one"[..]));

    // Each process names each leader once, and all name the same leader of a term.
    let mut leaders = BTreeMap::new();
    for node in &nodes {
        let lines =
            until("the node names its leader", || Some(leader_lines(&node.output())).filter(|lines| !lines.is_empty()));
        let mut terms = Vec::new();
        for (term, leader) in lines {
            assert!(!terms.contains(&term), "term {term} was told twice: {}", node.output());
            terms.push(term);
            assert_eq!(leaders.entry(term).or_insert_with(|| leader.clone()), &leader, "two leaders in term {term}");
        }
    }
    for node in &mut nodes {
        assert_eq!(node.stop("TERM").code(), Some(0), "{}", node.log());
    }
}

#[test]
fn one_node_is_a_cluster_too() {
    let mut cluster = Cluster::start(1);
    cluster.put(0, "a", b"alone");
    assert_eq!(read(&mut cluster.http(0), "a").as_deref(), Some(&b"alone"[..]));
    assert_eq!(leader_lines(&cluster.process(0).output()), [(1, "n1".to_owned())]);
    assert_eq!(cluster.stop(0).code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_setting() {
    let cluster = Cluster::prepare(3, |_| {});
    for (plane, port) in [("gateway", cluster.port(0)), ("stream", cluster.config.nodes[0].stream.port)] {
        let _taken = TcpListener::bind(("127.0.0.1", port)).expect("the test owns it");
        let (code, said) = run(cluster.command(0));
        assert_eq!(code, Some(1), "{said}");
        let expected = format!("port {port} is taken ({plane} of node n1, setting [[node]] {plane}, 127.0.0.1:{port})");
        assert!(said.lines().any(|line| line.starts_with("jumpgate: ") && line.contains(&expected)), "{said}");
    }
    let port = cluster.config.nodes[0].pulse.port;
    let _taken = std::net::UdpSocket::bind(("127.0.0.1", port)).expect("the test owns it");
    let (code, said) = run(cluster.command(0));
    assert!(code == Some(1) && said.contains(&format!("port {port} is taken (pulse of node n1")), "{said}");
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_by_file_line_and_field() {
    let cluster = Cluster::prepare(3, |_| {});
    let text = cluster.config.to_toml();
    let scratch = Scratch::new();
    let refused = |name: &str, text: &str, node: &str| {
        let file = scratch.file(name);
        std::fs::write(&file, text).expect("a file");
        let file = file.to_str().expect("a path of text");
        let (code, said) = run(program(&["serve", "--config", file, "--node", node]));
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.starts_with("jumpgate: ") && said.lines().count() == 1, "{name}: {said}");
        said
    };
    let said = refused("unknown-node.toml", &text, "n9");
    assert!(said.contains("\"n9\"") && said.contains("n1, n2, n3"), "{said}");
    let with_typo = text.replace("\n[cluster]\n", "\n[cluster]\nreplica = 2\n");
    let line = with_typo.lines().position(|line| line == "replica = 2").expect("it is there") + 1;
    let said = refused("typo.toml", &with_typo, "n1");
    assert!(said.contains(&format!("typo.toml:{line}")) && said.contains("replica"), "{said}");
    assert!(said.contains("replicas"), "what is allowed is not named: {said}");
    refused("no-toml.toml", "this is = = no TOML", "n1");

    let (code, said) = run(program(&["serve", "--config", "/nowhere/cluster.toml", "--node", "n1"]));
    assert!(code == Some(2) && said.contains("/nowhere/cluster.toml"), "{said}");
}

#[test]
fn off_loopback_a_node_needs_a_secret_or_the_word_that_it_needs_none() {
    let mut cluster = Cluster::prepare(1, |config| config.nodes[0].bind_pulse.host = "0.0.0.0".to_owned());
    let (code, said) = run(cluster.command(0));
    assert_eq!(code, Some(2), "{said}");
    for word in ["n1", "0.0.0.0", "pulse", "secret", "--insecure"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let mut trusted = cluster.command(0);
    trusted.arg("--insecure");
    let mut trusted = Process::start(trusted, cluster.scratch(), "insecure");
    until("it serves", || (read(&mut cluster.http(0), "a").is_none() && trusted.is_running()).then_some(()));
    assert_eq!(trusted.stop("TERM").code(), Some(0), "{}", trusted.log());
    cluster.config.nodes.clear();
}

#[test]
fn off_loopback_a_node_with_a_secret_starts_and_one_with_a_bad_secret_file_says_what_is_wrong() {
    let mut cluster = Cluster::prepare(1, |config| {
        config.nodes[0].bind_pulse.host = "0.0.0.0".to_owned();
        config.nodes[0].bind_stream.host = "0.0.0.0".to_owned();
    });
    let secret = cluster.scratch().file("secret");
    let with_secret = |cluster: &Cluster| {
        let mut command = cluster.command(0);
        command.env("JUMPGATE_SECURITY_SECRET_FILE", &secret);
        command
    };
    let said_of = |text: Option<&str>| {
        if let Some(text) = text {
            write_secret(&secret, text, 0o600);
        }
        let (code, said) = run(with_secret(&cluster));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("secret_file") && said.contains(&secret.display().to_string()), "{said}");
        said
    };
    assert!(said_of(None).contains("No such file"));
    assert!(said_of(Some("# later\n")).contains("no secret"));
    let said = said_of(Some("# ours\nhunter2\n"));
    assert!(said.contains("line 2") && said.contains("16") && !said.contains("hunter2"), "{said}");

    write_secret(&secret, "correct horse battery staple\n", 0o644);
    let (code, said) = run(with_secret(&cluster));
    assert!(code == Some(2) && said.contains("its mode is 644") && said.contains("make it 600"), "{said}");

    write_secret(&secret, "correct horse battery staple\n", 0o600);
    let mut trusted = Process::start(with_secret(&cluster), cluster.scratch(), "secret");
    until("it serves", || (read(&mut cluster.http(0), "a").is_none() && trusted.is_running()).then_some(()));
    assert_eq!(trusted.stop("TERM").code(), Some(0), "{}", trusted.log());
    assert!(!trusted.log().contains("battery"), "the secret is in the log");
    cluster.config.nodes.clear();
}

/// Writes a file of this mode.
pub fn write_secret(path: &std::path::Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("it is writable");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}
