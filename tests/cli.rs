//! The program itself, against a mock of a gateway: what it prints, what it asks, and its exit codes.

#[path = "cli/admin.rs"]
mod admin;
#[path = "cli/import.rs"]
mod import;
#[path = "cli/mock_gateway.rs"]
mod mock_gateway;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "cli/terminal.rs"]
mod terminal;

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};

use futures_util::SinkExt as _;
use mock_gateway::{Canned, Entry, MockGateway};
use scratch::Scratch;
use tokio_tungstenite::tungstenite::Message;

/// Keys that a careless client would lose on the way.
const ODD_KEYS: [&str; 14] =
    ["plain", "a/b", "a//b/", "/", ".", "..", "../up", "a/../b", "ключ", "with space", "100%", "%2F", "?q=1&r#f", "+"];

/// What a run of the program left.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Run {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text on stdout")
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jumpgate"));
    command.args(arguments).env_remove("JUMPGATE_URL").env_remove("JUMPGATE_NODE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_command(mut command: Command, stdin: &[u8]) -> Run {
    let mut child = command.spawn().expect("the program starts");
    // A program that doesn't read its stdin closes it, which is no concern of the test.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8(output.stderr).expect("text on stderr");
    Run { code: output.status.code().expect("no signal ended it"), stdout: output.stdout, stderr }
}

/// Runs the program against `gateway`.
fn run(gateway: &MockGateway, arguments: &[&str], stdin: &[u8]) -> Run {
    let mut command = program(arguments);
    command.env("JUMPGATE_URL", &gateway.url);
    run_command(command, stdin)
}

/// The same, and it must have gone well.
fn succeed(gateway: &MockGateway, arguments: &[&str], stdin: &[u8]) -> Run {
    let run = run(gateway, arguments, stdin);
    assert_eq!(run.code, 0, "{arguments:?} said {:?}", run.stderr);
    run
}

/// A URL where nobody listens.
fn dead_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn binary(seed: u8) -> Vec<u8> {
    (0..=255).map(|byte: u8| byte.wrapping_add(seed)).collect()
}

#[test]
fn shells_learn_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = run_command(program(&["completions", shell]), b"");
        assert_eq!(run.code, 0, "{}", run.stderr);
        for word in ["unsafe-recover", "completions", "stale"] {
            assert!(run.text().contains(word), "{shell} doesn't learn {word}");
        }
    }
    assert_eq!(run_command(program(&["completions", "dos"]), b"").code, 2);
}

#[test]
fn odd_keys_and_binary_values_survive_put_get_and_delete() {
    let gateway = MockGateway::start();
    for (nth, key) in ODD_KEYS.iter().enumerate() {
        let value = binary(nth as u8);
        let put = succeed(&gateway, &["put", key], &value);
        assert!(put.text().starts_with("created ") && put.text().ends_with(", 2 copies\n"), "{put:?}");
        assert_eq!(gateway.entry(key).map(|entry| entry.value), Some(value.clone()), "stored under {key:?}");
        assert_eq!(succeed(&gateway, &["get", key], b"").stdout, value, "read back from {key:?}");
    }
    assert_eq!(gateway.contents().len(), ODD_KEYS.len(), "no two keys were mistaken for one");
    for key in ODD_KEYS {
        succeed(&gateway, &["delete", key], b"");
        let get = run(&gateway, &["get", key], b"");
        assert_eq!((get.code, get.stderr), (3, format!("jumpgate: no such key: {key}\n")));
    }
    assert_eq!(run(&gateway, &["delete", "plain"], b"").code, 3);
}

#[test]
fn a_value_comes_from_an_argument_a_file_or_stdin() {
    let gateway = MockGateway::start();
    let scratch = Scratch::new();
    std::fs::write(scratch.file_name("value"), b"from a file\n").expect("a file");
    succeed(&gateway, &["put", "argument", "as it is"], b"not this");
    succeed(&gateway, &["put", "negative", "-5"], b"");
    succeed(&gateway, &["put", "file", "--file", &scratch.file_name("value")], b"not this");
    succeed(&gateway, &["put", "dash", "-"], b"from stdin");
    succeed(&gateway, &["put", "file-dash", "--file", "-"], b"from stdin too");
    succeed(&gateway, &["put", "--", "-key", "--value"], b"");
    let value = |key| gateway.entry(key).map(|entry| String::from_utf8(entry.value).expect("text"));
    assert_eq!(value("argument").as_deref(), Some("as it is"));
    assert_eq!(value("negative").as_deref(), Some("-5"));
    assert_eq!(value("file").as_deref(), Some("from a file\n"));
    assert_eq!(value("dash").as_deref(), Some("from stdin"));
    assert_eq!(value("file-dash").as_deref(), Some("from stdin too"));
    assert_eq!(value("-key").as_deref(), Some("--value"));

    let output = scratch.file_name("output");
    succeed(&gateway, &["get", "file", "--output", &output], b"");
    assert_eq!(std::fs::read(&output).expect("the file was written"), b"from a file\n");
    assert_eq!(run(&gateway, &["put", "x", "--file", &scratch.file_name("missing")], b"").code, 1);
}

#[test]
fn the_options_of_put_reach_the_gateway() {
    let gateway = MockGateway::start();
    succeed(&gateway, &["put", "k", "v", "--ttl", "30s", "--content-type", "text/plain"], b"");
    let entry = gateway.entry("k").expect("it was stored");
    assert_eq!((entry.ttl_ms, entry.content_type.as_deref()), (Some(30_000), Some("text/plain")));
    let described: serde_json::Value =
        serde_json::from_slice(&succeed(&gateway, &["get", "k", "--json"], b"").stdout).expect("JSON");
    assert_eq!(
        described,
        serde_json::json!({ "key": "k", "version": 1, "size": 1, "content_type": "text/plain",
            "expires_in_ms": 30_000, "value": "dg==" })
    );

    let exists = run(&gateway, &["put", "k", "w", "--create"], b"");
    assert_eq!(exists.code, 1);
    assert!(exists.stderr.starts_with("jumpgate: ") && exists.stderr.contains("409"), "{}", exists.stderr);
    assert_eq!(run(&gateway, &["put", "k", "w", "--if-match", "99"], b"").code, 1);
    assert_eq!(run(&gateway, &["delete", "k", "--if-match", "99"], b"").code, 1);
    assert_eq!(gateway.entry("k").map(|entry| entry.value), Some(b"v".to_vec()), "a refused write changes nothing");
    succeed(&gateway, &["put", "k", "w", "--if-match", "1"], b"");
    assert_eq!(gateway.entry("k").map(|entry| entry.value), Some(b"w".to_vec()));
}

#[test]
fn a_listing_walks_all_pages_in_order() {
    let gateway = MockGateway::start();
    let keys: Vec<String> = (0..10).map(|nth| format!("user/{nth}")).collect();
    keys.iter().for_each(|key| gateway.store(key, b"v\t1"));
    gateway.store("other", b"v");
    let listed = |arguments: &[&str]| succeed(&gateway, arguments, b"").text().to_owned();
    assert_eq!(listed(&["list", "user/"]), keys.join("\n") + "\n");
    assert_eq!(listed(&["list"]).lines().count(), 11);
    assert_eq!(listed(&["list", "user/", "--limit", "7"]), keys[..7].join("\n") + "\n");
    assert_eq!(listed(&["list", "user/", "--limit", "1", "--values"]), "user/0\tv\\t1\n");
    assert_eq!(listed(&["list", "nothing"]), "");
    let json: serde_json::Value =
        serde_json::from_str(&listed(&["list", "other", "--json", "--values"])).expect("JSON");
    assert_eq!((json["key"].as_str(), json["value"].as_str()), (Some("other"), Some("dg==")));
}

#[test]
fn a_dead_gateway_is_passed_over() {
    let gateway = MockGateway::start();
    let urls = format!("{},{}", dead_url(), gateway.url);
    let both = run_command(program(&["put", "k", "v", "--url", &urls]), b"");
    assert_eq!(both.code, 0, "{both:?}");
    let repeated = program(&["get", "k", "--url", &dead_url(), "--url", &gateway.url]);
    assert_eq!(run_command(repeated, b"").stdout, b"v");

    let dead = dead_url();
    let nobody = run_command(program(&["get", "k", "--url", &dead, "--timeout", "100ms"]), b"");
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.starts_with(&format!("jumpgate: cannot connect to {dead}: ")), "{}", nobody.stderr);
    assert_eq!(nobody.stderr.lines().count(), 1, "{}", nobody.stderr);
}

#[test]
fn what_certainly_did_not_happen_is_tried_again() {
    let gateway = MockGateway::start();
    gateway.answer_next(Canned::problem(503, Some("definite")));
    gateway.answer_next(Canned::problem(429, Some("definite")));
    succeed(&gateway, &["put", "k", "v"], b"");
    assert_eq!(gateway.asked().len(), 3, "{:?}", gateway.asked());
    gateway.answer_next(Canned::problem(503, None));
    gateway.answer_next(Canned::problem(504, None));
    assert_eq!(succeed(&gateway, &["get", "k"], b"").stdout, b"v");
}

#[test]
fn a_write_whose_outcome_is_unknown_is_tried_again_and_a_later_refusal_does_not_decide_it() {
    for status in [503, 504] {
        let gateway = MockGateway::start();
        gateway.answer_next(Canned::problem(status, Some("unknown")));
        succeed(&gateway, &["put", "k", "v"], b"");
        assert_eq!(gateway.asked().len(), 2, "{:?}", gateway.asked());
        gateway.answer_next(Canned::problem(status, Some("unknown")));
        gateway.answer_next(Canned::problem(409, Some("definite")));
        let create = run(&gateway, &["put", "k", "v", "--create"], b"");
        assert_eq!(create.code, 1);
        assert!(create.stderr.contains("not known whether the write happened"), "{}", create.stderr);
        assert_eq!(gateway.asked().len(), 4, "{:?}", gateway.asked());
        gateway.answer_next(Canned::problem(status, None));
        gateway.answer_next(Canned::problem(404, Some("definite")));
        assert_eq!(run(&gateway, &["delete", "k"], b"").code, 1, "the first attempt may have removed it");
    }
}

#[test]
fn a_write_is_sent_again_under_the_same_idempotency_key_after_its_connection_broke() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        // Each request's head arrives, so the write may have happened.
        let keys = (0..2).map(|_| {
            let (stream, _) = listener.accept().expect("a connection");
            let mut lines = std::io::BufReader::new(stream).lines().map(|line| line.expect("text"));
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            head.into_iter().find(|line| line.to_ascii_lowercase().starts_with("idempotency-key: "))
        });
        keys.collect::<Vec<_>>()
    });
    let put = run_command(program(&["put", "k", "v", "--url", &url, "--timeout", "2s"]), b"");
    assert_eq!(put.code, 1);
    assert!(put.stderr.contains("not known whether the write happened"), "{}", put.stderr);
    let keys = server.join().expect("the server saw both requests");
    assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn a_gateway_that_hangs_leaves_time_for_another() {
    // Connections to it are made by the system; nobody ever reads them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hanging = format!("http://{}", listener.local_addr().expect("an address"));
    let gateway = MockGateway::start();
    gateway.store("k", b"v");
    let urls = format!("{hanging},{}", gateway.url);
    let get = run_command(program(&["get", "k", "--url", &urls, "--timeout", "3s"]), b"");
    assert_eq!((get.code, get.stdout), (0, b"v".to_vec()), "{}", get.stderr);
    let put = run_command(program(&["put", "k", "w", "--url", &urls, "--timeout", "3s"]), b"");
    assert_eq!((put.code, gateway.entry("k").map(|entry| entry.value)), (0, Some(b"w".to_vec())), "{}", put.stderr);
    let put = run_command(program(&["put", "k", "w", "--url", &hanging, "--timeout", "100ms"]), b"");
    assert!(put.code == 1 && put.stderr.contains("not known whether"), "{put:?}");
}

#[test]
fn an_answer_without_a_quorum_counts_only_where_there_is_no_better_one() {
    let old = || Canned {
        status: 200,
        headers: vec![("etag", "\"1\"".to_owned()), ("jumpgate-degraded", "true".to_owned())],
        body: "old".to_owned(),
    };
    let (cut_off, gateway) = (MockGateway::start(), MockGateway::start());
    gateway.store("k", b"new");
    let urls = format!("{},{}", cut_off.url, gateway.url);
    cut_off.answer_next(old());
    let get = run_command(program(&["get", "k", "--url", &urls]), b"");
    assert_eq!((get.code, get.stdout), (0, b"new".to_vec()), "{}", get.stderr);
    cut_off.answer_next(old());
    gateway.answer_next(Canned::problem(503, None));
    let get = run_command(program(&["get", "k", "--url", &urls]), b"");
    assert_eq!((get.code, get.stdout), (0, b"old".to_vec()), "{}", get.stderr);
}

#[test]
fn a_redirect_is_followed_to_the_leader() {
    let (follower, leader) = (MockGateway::start(), MockGateway::start());
    follower.answer_next(Canned::redirect(format!("{}/v1/kv/a%2Fb?ttl=5000ms", leader.url)));
    succeed(&follower, &["put", "a/b", "v", "--ttl", "5s"], b"");
    let expected = Entry { value: b"v".to_vec(), ttl_ms: Some(5000), content_type: None, version: 1 };
    assert_eq!(leader.entry("a/b"), Some(expected));
    assert_eq!(follower.contents().len(), 0);
}

#[test]
fn the_status_is_a_table_or_json() {
    let gateway = MockGateway::start();
    let status = serde_json::json!({
        "name": "store", "cluster_id": "ab", "generation": 1, "node": "n1", "leader": "n1",
        "leader_url": "http://127.0.0.1:7401", "term": 4, "quorum": true, "replicas": 2, "min_copies": 2,
        "partitions": { "total": 8, "full": 8, "reduced": 0, "unavailable": 0, "lost": 0, "misplaced": 0 },
        "nodes": [{ "name": "n1", "role": "leader", "voter": true, "incarnation": "1", "url": "http://127.0.0.1:7401",
            "term": 4, "last_index": 9, "commit_index": 9, "last_heard_ms": null, "round_trip_us": null,
            "primaries": 8, "in_sync": 8, "learning": 0, "keys": 3, "memory_bytes": 1024 }],
    });
    gateway.set_cluster(&status.to_string());
    let table = succeed(&gateway, &["status"], b"");
    let lines: Vec<&str> = table.text().lines().collect();
    assert_eq!(lines.len(), 3, "{}", table.text());
    assert!(lines[0].contains("n1 leads (term 4)") && lines[0].contains("8 partitions, all full"), "{}", lines[0]);
    assert!(lines[2].contains("leader") && lines[2].contains("8/8/0"), "{}", lines[2]);
    let json: serde_json::Value =
        serde_json::from_slice(&succeed(&gateway, &["status", "--json"], b"").stdout).expect("JSON");
    // What an older node doesn't say has its default.
    for (field, value) in status.as_object().expect("an object") {
        if field != "nodes" {
            assert_eq!(json[field], *value, "{field}");
        }
    }
    for (field, value) in status["nodes"][0].as_object().expect("an object") {
        assert_eq!(json["nodes"][0][field], *value, "{field}");
    }
    gateway.set_cluster("<html>");
    let foreign = run(&gateway, &["status"], b"");
    assert_eq!(foreign.code, 1);
    assert!(foreign.stderr.contains("does not answer as a jumpgate gateway"), "{}", foreign.stderr);
}

#[test]
fn health_is_that_of_the_first_gateway() {
    let (this, other) = (MockGateway::start(), MockGateway::start());
    let urls = format!("{},{}", this.url, other.url);
    let health = || run_command(program(&["health", "--url", &urls]), b"");
    assert_eq!(health().code, 0);
    this.set_ready(false);
    let unready = health();
    assert_eq!(unready.code, 1);
    assert!(unready.stderr.contains("503"), "{}", unready.stderr);
    assert_eq!(other.asked().len(), 0);
    assert_eq!(run_command(program(&["health", "--url", &dead_url()]), b"").code, 1);
}

/// Serves two feeds, one after the other: the first breaks off after its event, the second has another event.
async fn serve_two_feeds(listener: tokio::net::TcpListener) {
    for event in [
        "{\"type\":\"put\",\"key\":\"a\\nb\",\"version\":7,\"value\":\"dg==\"}",
        "{\"type\":\"delete\",\"key\":\"c\",\"version\":8}",
    ] {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
        for message in ["{\"type\":\"live\"}", event] {
            socket.send(Message::text(message)).await.expect("a viewer");
        }
    }
}

#[test]
fn watch_goes_on_after_its_connection_was_lost() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = runtime.spawn(serve_two_feeds(listener));
    let watch = run_command(program(&["watch", "--values", "--limit", "2", "--url", &url]), b"");
    assert_eq!(watch.code, 0, "{watch:?}");
    assert_eq!(watch.text(), "put\ta\\nb\t7\tv\ndelete\tc\t8\n");
    assert!(watch.stderr.contains("opening it again"), "{}", watch.stderr);
    runtime.block_on(server).expect("both feeds were asked for");
}

#[test]
fn a_reader_who_has_enough_is_no_failure() {
    let gateway = MockGateway::start();
    // More than a pipe holds, so that the program certainly writes after the reader is gone.
    gateway.store("large", &vec![b'x'; 1 << 20]);
    let mut command = program(&["get", "large"]);
    command.env("JUMPGATE_URL", &gateway.url);
    let mut child = command.spawn().expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for arguments in [
        &["frobnicate"][..],
        &["get"],
        &["get", ""],
        &["get", "k", "--url", "https://127.0.0.1:1"],
        &["get", "k", "--url", "ftp://127.0.0.1"],
        &["get", "k", "--timeout", "0s"],
        &["put", "k", "v", "--ttl", "soon"],
        &["put", "k", "v", "--if-match", "new"],
        &["put", "k", "v", "--file", "f"],
        &["list", "--limit", "0"],
        &["dev", "--nodes", "0"],
        &["dev", "--port", "65000"],
        &["serve"],
        &["node"],
        &["node", "drain"],
        &["node", "kill", "n1"],
        &["node", "drain", "n1", "--yes", "--dry-run"],
        &["transfer", "n1"],
        &["plan"],
        &["plan", "--add", "n1", "--remove", "n2"],
        &["plan", "--add", "n1", "--replicas", "0"],
    ] {
        let run = run_command(program(arguments), b"");
        assert_eq!(run.code, 2, "{arguments:?} said {:?}", run.stderr);
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn serve_refuses_a_wrong_configuration_and_names_the_place() {
    let scratch = Scratch::new();
    let file = scratch.file_name("cluster.toml");
    let printed = run_command(program(&["dev", "--print-config", "--nodes", "2"]), b"");
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let said = |text: &str, node: &str| {
        std::fs::write(&file, text).expect("a file");
        let serve = run_command(program(&["serve", "--config", &file, "--node", node]), b"");
        assert_eq!(serve.code, 2, "{}", serve.stderr);
        serve.stderr
    };
    let stranger = said(printed.text(), "n9");
    assert!(stranger.contains("n9") && stranger.contains("n1, n2"), "{stranger}");
    let nobody = run_command(program(&["serve", "--config", &file]), b"");
    assert!(nobody.code == 2 && nobody.stderr.contains("JUMPGATE_NODE must say"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("n1, n2"), "{}", nobody.stderr);
    let misspelt = said(&format!("colour = 1\n{}", printed.text()), "n1");
    assert!(misspelt.contains("cluster.toml:1: "), "{misspelt}");
    let missing = run_command(program(&["serve", "--config", &scratch.file_name("none"), "--node", "n1"]), b"");
    assert_eq!(missing.code, 2, "{}", missing.stderr);
}

#[test]
fn help_teaches_with_examples() {
    let overview = run_command(program(&["--help"]), b"");
    assert_eq!(overview.code, 0);
    let commands = "serve dev get put delete list watch status import export health plan node transfer init \
                    unsafe-recover bench";
    for command in commands.split_whitespace() {
        assert!(overview.text().contains(&format!("  {command} ")), "{command} is not in the overview");
        let help = run_command(program(&[command, "--help"]), b"");
        let (_, examples) = help.text().split_once("Examples:\n").expect("examples");
        assert!(examples.contains(&format!("jumpgate {command}")), "{command}: {examples}");
    }
}
