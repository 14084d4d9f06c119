//! Operations: planned, asked about, done and told.

use super::mock_gateway::{Asked, Canned, MockGateway};
use super::terminal::{Sitting, sit_at};
use super::{dead_url, program, run, run_command, succeed};

fn asked(path: &str, body: &str, dry_run: bool) -> Asked {
    Asked { path: path.to_owned(), body: body.to_owned(), dry_run }
}

/// Every operation, and what it asks the gateway.
const OPERATIONS: [(&[&str], &str, &str); 7] = [
    (&["node", "add", "n2"], "nodes/n2/add", ""),
    (&["node", "remove", "a/ ?"], "nodes/a%2F%20%3F/remove", ""),
    (&["node", "drain", ".."], "nodes/%2E%2E/drain", ""),
    (&["transfer"], "transfer", ""),
    (&["transfer", "--to", "n3"], "transfer", "{\"to\":\"n3\"}"),
    (&["init", "--force", "--without", "n2,n3"], "init", "{\"without\":[\"n2\",\"n3\"]}"),
    (&["unsafe-recover"], "unsafe-recover", ""),
];

#[test]
fn each_operation_says_what_it_will_do_and_then_what_it_did() {
    for (arguments, path, body) in OPERATIONS {
        let gateway = MockGateway::start();
        let done = succeed(&gateway, &[arguments, &["--yes"]].concat(), b"");
        assert_eq!(gateway.admin(), [asked(path, body, true), asked(path, body, false)], "{arguments:?}");
        assert_eq!(done.text(), "done:\n  1. did this\n  2. did that\n", "{arguments:?}");
        let (heading, plan) = done.stderr.split_once('\n').expect("a heading");
        assert!(heading.starts_with("jumpgate: this will be done") && heading.ends_with(':'), "{heading}");
        assert_eq!(plan, "  1. first this\n  2. then that\n", "{arguments:?}");
    }
}

#[test]
fn without_a_terminal_nothing_is_done_unless_yes_is_given() {
    for (arguments, path, body) in OPERATIONS {
        let gateway = MockGateway::start();
        // What comes from a pipe is no answer of a person.
        let refused = run(&gateway, arguments, b"y\n");
        assert_eq!((refused.code, refused.text()), (2, ""), "{arguments:?}");
        assert!(refused.stderr.contains("  1. first this\n"), "{}", refused.stderr);
        assert!(refused.stderr.contains("nothing was done") && refused.stderr.contains("--yes"), "{}", refused.stderr);
        assert_eq!(gateway.admin(), [asked(path, body, true)], "{arguments:?}");
    }
}

fn sit(gateway: &MockGateway, arguments: &[&str], typed: &str) -> Sitting {
    let mut command = program(arguments);
    command.env("JUMPGATE_URL", &gateway.url);
    sit_at(command, typed)
}

#[test]
fn at_a_terminal_only_a_yes_is_a_yes() {
    for typed in ["y\n", "YES\n"] {
        let gateway = MockGateway::start();
        let Sitting { code, stdout, screen } = sit(&gateway, &["node", "drain", "n2"], typed);
        assert_eq!((code, &*stdout), (0, "done:\n  1. did this\n  2. did that\n"), "{screen}");
        assert!(screen.contains("2. then that") && screen.contains("Go on? [y/N]"), "{screen}");
        assert_eq!(gateway.admin().len(), 2);
    }
    for typed in ["n\n", "\n", "yess\n", "\u{4}"] {
        let gateway = MockGateway::start();
        let Sitting { code, stdout, screen } = sit(&gateway, &["node", "drain", "n2"], typed);
        assert_eq!((code, &*stdout), (1, ""), "{typed:?}");
        assert!(screen.contains("Go on? [y/N]") && screen.contains("nothing was done"), "{screen}");
        assert_eq!(gateway.admin(), [asked("nodes/n2/drain", "", true)], "{typed:?}");
    }
    let gateway = MockGateway::start();
    let Sitting { code, screen, .. } = sit(&gateway, &["node", "drain", "n2", "--yes"], "");
    assert!(code == 0 && !screen.contains("Go on?"), "{screen}");
}

#[test]
fn a_dry_run_only_tells_the_plan() {
    let gateway = MockGateway::start();
    let plan = succeed(&gateway, &["node", "remove", "n2", "--dry-run"], b"");
    assert_eq!((plan.text(), &*plan.stderr), ("would be done:\n  1. first this\n  2. then that\n", ""));
    let plan = succeed(&gateway, &["node", "remove", "n2", "--dry-run", "--json"], b"");
    let json: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("JSON");
    assert_eq!(json, serde_json::json!({ "steps": ["first this", "then that"], "recovered": null }));
    assert!(gateway.admin().iter().all(|asked| asked.dry_run), "{:?}", gateway.admin());
}

#[test]
fn a_recovery_tells_what_became_of_the_partitions() {
    let gateway = MockGateway::start();
    let recovered = serde_json::json!({ "clean": 4090, "lossy": [3, 7, 8, 9], "lost": [11, 12] });
    gateway.set_recovered(recovered.clone());
    let done = succeed(&gateway, &["unsafe-recover", "--yes"], b"");
    for text in [done.text(), &done.stderr] {
        assert!(text.contains("CLEAN  4090"), "{text}");
        assert!(text.contains("LOSSY     4") && text.contains(": p3, p7-p9\n"), "{text}");
        assert!(text.contains("LOST      2") && text.contains(": p11-p12\n"), "{text}");
    }
    let done = succeed(&gateway, &["unsafe-recover", "--yes", "--json"], b"");
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).expect("nothing but JSON on stdout");
    assert_eq!(json, serde_json::json!({ "steps": ["did this", "did that"], "recovered": recovered }));
}

#[test]
fn a_forced_founding_has_to_be_meant() {
    let gateway = MockGateway::start();
    for (arguments, says) in [
        (&["init"][..], "two clusters"),
        (&["init", "--without", "n3", "--yes"], "--force --without NODE"),
        (&["init", "--force", "--yes"], "which nodes are gone"),
        (&["init", "--force", "--without", "", "--yes"], "which nodes are gone"),
    ] {
        let refused = run(&gateway, arguments, b"");
        assert_eq!((refused.code, refused.text()), (2, ""), "{arguments:?}");
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    assert!(gateway.asked().is_empty(), "{:?}", gateway.asked());
}

#[test]
fn what_concerns_one_node_is_done_by_the_node_that_planned_it() {
    let (first, second) = (MockGateway::start(), MockGateway::start());
    first.answer_next(Canned::problem(503, Some("definite")));
    let urls = format!("{},{},{}", dead_url(), first.url, second.url);
    let done = run_command(program(&["unsafe-recover", "--yes", "--url", &urls]), b"");
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains(&format!("this will be done by the node at {}:", second.url)), "{}", done.stderr);
    assert_eq!((first.admin().len(), second.admin().len()), (0, 2));

    // The planner can't do it at once: it is asked again, and nobody else is.
    second.answer_next(Canned { status: 200, headers: Vec::new(), body: "{\"steps\":[]}".to_owned() });
    second.answer_next(Canned::problem(503, Some("definite")));
    let urls = format!("{},{}", second.url, first.url);
    let done = run_command(program(&["unsafe-recover", "--yes", "--url", &urls]), b"");
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!((first.admin().len(), second.admin().len()), (0, 3));
}

#[test]
fn a_refusal_is_told_and_an_unknown_outcome_is_called_one() {
    let gateway = MockGateway::start();
    let drain = ["node", "drain", "n2", "--yes"];
    gateway.answer_next(Canned::problem(409, Some("definite")));
    let refused = run(&gateway, &drain, b"");
    assert_eq!((refused.code, refused.text()), (1, ""));
    assert!(refused.stderr.contains("the mock was told to say 409 (HTTP 409 from"), "{}", refused.stderr);
    gateway.answer_next(Canned::problem(400, Some("definite")));
    assert_eq!(run(&gateway, &drain, b"").code, 2, "a name that isn't configured is wrong usage");
    assert!(gateway.admin().is_empty(), "{:?}", gateway.admin());

    let plan = || Canned { status: 200, headers: Vec::new(), body: "{\"steps\":[\"it\"]}".to_owned() };
    gateway.answer_next(plan());
    gateway.answer_next(Canned::problem(504, Some("unknown")));
    let unknown = run(&gateway, &drain, b"");
    assert_eq!((unknown.code, unknown.text()), (1, ""));
    assert!(
        unknown.stderr.contains("not known whether it was done") && !unknown.stderr.contains("the write"),
        "{unknown:?}"
    );
    assert!(gateway.admin().is_empty(), "it was sent again: {:?}", gateway.admin());

    gateway.answer_next(plan());
    gateway.answer_next(Canned::problem(503, Some("definite")));
    assert_eq!(run(&gateway, &drain, b"").code, 0, "what certainly did not happen is tried again");
    assert_eq!(gateway.admin(), [asked("nodes/n2/drain", "", false)]);
}

#[test]
fn operations_are_patient_for_a_minute() {
    let gateway = MockGateway::start();
    succeed(&gateway, &["transfer", "--yes"], b"");
    succeed(&gateway, &["transfer", "--yes", "--timeout", "2s"], b"");
    let waits: Vec<u64> = gateway
        .asked()
        .iter()
        .filter_map(|asked| asked.split_once("timeout=")?.1.strip_suffix("ms")?.parse().ok())
        .collect();
    assert_eq!(waits.len(), 4, "{:?}", gateway.asked());
    let ranges = [5_000..=10_000, 50_000..=60_000, 1_000..=2_000, 1_000..=2_000];
    assert!(waits.iter().zip(&ranges).all(|(wait, range)| range.contains(wait)), "{waits:?}");
}

#[test]
fn a_plan_is_reckoned_from_the_status() {
    let gateway = MockGateway::start();
    let node = |name: &str, in_sync: u32| {
        serde_json::json!({ "name": name, "role": "follower", "voter": in_sync > 0, "incarnation": "", "url": "",
            "term": null, "last_index": null, "commit_index": null, "last_heard_ms": null, "round_trip_us": null,
            "primaries": 0, "in_sync": in_sync, "learning": 0, "keys": 1, "memory_bytes": u64::from(in_sync) << 20 })
    };
    let status = serde_json::json!({
        "name": "store", "cluster_id": "ab", "generation": 1, "node": "n1", "leader": "n1", "leader_url": null,
        "term": 4, "quorum": true, "replicas": 2, "min_copies": 2,
        "partitions": { "total": 256, "full": 256, "reduced": 0, "unavailable": 0, "lost": 0, "misplaced": 0 },
        "nodes": [node("n1", 170), node("n2", 171), node("n3", 171), node("n4", 0)],
    });
    gateway.set_cluster(&status.to_string());
    let plan = succeed(&gateway, &["plan", "--add", "n4"], b"");
    assert!(
        plan.text().starts_with("adding n4: 2 copies on n1, n2, n3, then 2 copies on n1, n2, n3, n4\n"),
        "{plan:?}"
    );
    assert!(plan.text().contains(" of 256 partitions move: ") && plan.text().contains("to n4: "), "{}", plan.text());
    assert!(plan.text().contains("sizes are estimated") && plan.text().contains("1.00 MiB"), "{}", plan.text());
    let json = succeed(&gateway, &["plan", "--remove", "n2", "--json"], b"");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json["action"], &json["node"]), (&"remove".into(), &"n2".into()));
    assert_eq!(json["bytes"].as_u64(), json["copies_moved"].as_u64().map(|copies| copies << 20));
    let stranger = run(&gateway, &["plan", "--remove", "n9"], b"");
    assert!(stranger.code == 2 && stranger.stderr.contains("n1, n2, n3, n4"), "{stranger:?}");
    assert!(gateway.asked().iter().all(|asked| asked == "GET /v1/cluster"), "{:?}", gateway.asked());
}

#[test]
fn the_status_shows_who_hears_whom() {
    let gateway = MockGateway::start();
    let node = |name: &str, peers: serde_json::Value| {
        serde_json::json!({ "name": name, "role": "follower", "voter": true, "incarnation": "", "url": "",
            "term": 1, "last_index": 9, "commit_index": 8, "last_heard_ms": 3, "round_trip_us": 150, "primaries": 0,
            "in_sync": 0, "learning": 0, "keys": null, "memory_bytes": null, "peers": peers, "draining": name == "n2",
            "workers_stalled_ms": null, "held_back": null,
            "verification": (name == "n1").then(|| serde_json::json!({ "verified_ms": 9000, "differences": 2, "repairs": 1 })) })
    };
    let hears =
        |name: &str| serde_json::json!([{ "name": name, "last_heard_ms": 12, "round_trip_us": 1234, "loss": 0.003 }]);
    let status = serde_json::json!({
        "name": "store", "cluster_id": "ab", "generation": 1, "node": "n1", "leader": "n1", "leader_url": null,
        "term": 1, "quorum": true, "replicas": 2, "min_copies": 2, "healing": null, "lost": [], "table_index": 0,
        "partitions": { "total": 8, "full": 8, "reduced": 0, "unavailable": 0, "lost": 0, "misplaced": 0 },
        "nodes": [node("n1", hears("n2")), node("n2", serde_json::json!([]))],
        "timing": { "adaptive": true, "heartbeat_ms": 20.0, "election_ms": 100.0, "lease_ms": 80.0, "down_ms": 90.0,
            "lateness_us": 90 },
        "verification": { "verified_ms": null, "differences": 2, "repairs": 1 },
    });
    gateway.set_cluster(&status.to_string());
    let shown = succeed(&gateway, &["status"], b"");
    let lines: Vec<&str> = shown.text().lines().collect();
    assert_eq!(lines.len(), 9, "{}", shown.text());
    assert!(lines[1].starts_with("timing (adaptive): heartbeat 20 ms"), "{}", lines[1]);
    assert!(lines[3].contains("9.0 s, 2 bad, 1 repaired"), "{}", lines[3]);
    assert!(lines[4].contains("follower, draining"), "{}", lines[4]);
    assert!(lines[5].is_empty() && lines[6].trim_start().starts_with("HEARS"), "{}", shown.text());
    assert!(lines[7].contains("1.2 ms, 0.3 %, 12 ms ago"), "{}", lines[7]);
    let json: serde_json::Value =
        serde_json::from_slice(&succeed(&gateway, &["status", "--json"], b"").stdout).expect("JSON");
    assert_eq!(json, status);
}
