//! Clusters of real processes whose streams go over QUIC: who is let in by its certificate, and who isn't.
//!
//! Nothing here asserts how long something takes: it waits until it has happened.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jumpgate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};
use jumpgate::codec::{Envelope, NameHash, Payload, frame};
use jumpgate::config::{TimingConfig, Transport};

use dialer::{Dialer, Shown};
use processes::{Cluster, Scratch, contents, program, until};

#[path = "quic/dialer.rs"]
mod dialer;
#[path = "support/http.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod http;
#[path = "support/processes.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod processes;

/// A cluster to be started, with certificates in `folder` that `jumpgate cert` has made.
fn prepare(nodes: u16, folder: &Path) -> Cluster {
    let cluster = Cluster::prepare(nodes, |config| {
        config.stream.transport = Transport::Quic;
        config.stream.certificate = Some(folder.join("node-{node}.pem"));
        config.stream.key = Some(folder.join("node-{node}.key"));
        config.stream.authority = Some(folder.join("authority.pem"));
        // As generous as anything here: an election would be the certificates' fault, not the machine's.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(3000)),
            lease: Some(Duration::from_millis(2000)),
            down: Some(Duration::from_millis(2800)),
        };
    });
    make_certificates(&cluster, folder, &[]);
    cluster
}

fn make_certificates(cluster: &Cluster, folder: &Path, further: &[&str]) -> String {
    let (file, out) = (cluster.scratch().file("cluster.toml"), folder.to_str().expect("a path of text"));
    let arguments = ["cert", "--config", file.to_str().expect("a path of text"), "--out", out];
    let made = program(&[&arguments[..], further].concat()).output().expect("the program starts");
    let said = String::from_utf8(made.stderr).expect("text");
    assert!(made.status.success(), "{said}");
    String::from_utf8(made.stdout).expect("text")
}

fn start(nodes: u16, folder: &Path) -> Cluster {
    let mut cluster = prepare(nodes, folder);
    (0..usize::from(nodes)).for_each(|node| cluster.spawn(node));
    cluster.wait_until_whole();
    cluster
}

/// A number of a node's metrics, by all that stands before it in its line.
fn metric(cluster: &Cluster, node: usize, start: &str) -> u64 {
    let page = cluster.http(node).ask("GET /metrics", b"").expect("it answers");
    let text = String::from_utf8(page.body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(start)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {start} in {text}")).parse().expect("a number")
}

fn rejected(cluster: &Cluster, node: usize, reason: &str) -> u64 {
    metric(cluster, node, &format!("jumpgate_rejected_total{{plane=\"stream\",reason=\"{reason}\"}}"))
}

/// The ports of this machine's sockets of a kind, their own and those that they are connected with.
fn ports_in_use(kind: &str) -> BTreeSet<u16> {
    let tables = ["", "6"].map(|version| fs::read_to_string(format!("/proc/net/{kind}{version}")).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let addresses = rows.flat_map(|row| row.split_whitespace().skip(1).take(2));
    addresses.filter_map(|address| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()).collect()
}

fn stream_ports(cluster: &Cluster) -> BTreeSet<u16> {
    cluster.node_ports().iter().map(|ports| ports.stream).collect()
}

#[test]
fn five_nodes_serve_over_quic_alone_and_lose_nothing_with_half_of_them() {
    let folder = Scratch::new();
    let mut cluster = start(5, &folder.file("certificates"));
    let stored = contents("key-", 300);
    cluster.put_all(&[0, 1, 2, 3, 4], &stored);
    let large = vec![b'v'; 4 << 20];
    cluster.put(1, "large", &large);
    let ports = stream_ports(&cluster);
    assert_eq!(ports_in_use("tcp").intersection(&ports).count(), 0, "streams go over TCP");
    assert!(ports_in_use("udp").is_superset(&ports), "nobody listens for streams");

    cluster.kill(&[3, 4]);
    cluster.expect(&[0, 1, 2], &stored);
    let written_later = contents("later-", 100);
    cluster.put_all(&[0, 1, 2], &written_later);
    cluster.spawn(3);
    cluster.spawn(4);
    cluster.wait_until_whole();
    cluster.expect(&[3, 4], &stored);
    cluster.expect(&[3, 4], &written_later);
    assert!(processes::read(&mut cluster.http(4), "large").as_deref() == Some(&large[..]));
    assert_eq!(ports_in_use("tcp").intersection(&ports).count(), 0, "streams go over TCP");
    (0..5).for_each(|node| assert_eq!(cluster.stop(node).code(), Some(0)));
}

#[test]
fn a_node_that_comes_back_resets_what_its_former_life_had_open() {
    let folder = Scratch::new();
    let mut cluster = start(3, &folder.file("certificates"));
    // One that takes longer to come back than connections outlast silence is found out by that; so it may try again.
    for _ in 0..5 {
        cluster.kill(&[1]);
        cluster.spawn(1);
        cluster.wait_until_whole();
        if cluster.process(0).log().contains("stream disconnected: reset by peer") {
            return;
        }
    }
    panic!("no reset was believed: {}", cluster.process(0).log());
}

/// A frame that n1 would read if it came from who it says it comes from.
fn frame_of(cluster: &Cluster, from: usize) -> Vec<u8> {
    let status = cluster.status(0);
    let node = |slot: usize| {
        let life = u128::from_str_radix(&status.nodes[slot].incarnation, 16).expect("hexadecimal");
        NodeId::new(Slot(slot as u8), Incarnation(life))
    };
    let cluster_id = ClusterId(u128::from_str_radix(&status.cluster_id, 16).expect("hexadecimal"));
    let envelope = Envelope { cluster: cluster_id, generation: Generation::ZERO, from: node(from), to: node(0) };
    let name = NameHash::of(&cluster.config.cluster.name);
    frame::seal(&envelope, name, &Payload::default()).expect("it is small").to_vec()
}

#[test]
fn who_has_no_good_certificate_changes_nothing_and_is_counted_by_reason() {
    let folder = Scratch::new();
    let certificates = folder.file("certificates");
    let mut cluster = start(3, &certificates);
    let before = cluster.status(0);
    let stored = contents("key-", 100);
    cluster.put_all(&[0, 1, 2], &stored);
    let dialer = Dialer::new(&certificates, cluster.config.nodes[0].stream.port, "n1.processes.jumpgate");
    let name = "n2.processes.jumpgate";
    let cases = [
        (Shown::Foreign { name }, "certificate_foreign"),
        (Shown::Made { name, days: (-9, -1) }, "certificate_expired"),
        (Shown::Made { name, days: (1, 9) }, "certificate_not_yet_valid"),
        (Shown::Made { name: "n4.processes.jumpgate", days: (-1, 9) }, "certificate_other_node"),
        (Shown::Made { name: "n2.store.jumpgate", days: (-1, 9) }, "certificate_other_node"),
        (Shown::Nothing, "no_certificate"),
    ];
    for (shown, reason) in &cases {
        let count = rejected(&cluster, 0, reason);
        assert!(!dialer.dial(shown).is_welcome(), "{shown:?} was let in");
        until(reason, || (rejected(&cluster, 0, reason) > count).then_some(()));
    }

    // n2, with its own good certificate, speaks as itself and then as n3.
    let mut as_itself = dialer.dial(&Shown::Made { name, days: (-1, 9) });
    assert!(as_itself.is_welcome());
    as_itself.write(&frame_of(&cluster, 1));
    as_itself.write(&frame_of(&cluster, 2));
    as_itself.until_closed();
    assert_eq!(rejected(&cluster, 0, "other_sender"), 1);

    // A node of another authority in the place of one that has gone: nobody listens to it, nor it to anybody.
    // Not in the leader's place: its going alone would be an election.
    let (impostor, other) = if before.leader.as_deref() == Some("n3") { (1, 2) } else { (2, 1) };
    let status = cluster.status(0);
    assert_eq!((&status.leader, status.term), (&before.leader, before.term), "there was an election");
    assert_eq!(cluster.stop(impostor).code(), Some(0));
    let others = folder.file("others");
    make_certificates(&cluster, &others, &[]);
    cluster.set_views(|_, config| {
        config.stream.certificate = Some(others.join("node-{node}.pem"));
        config.stream.key = Some(others.join("node-{node}.key"));
        config.stream.authority = Some(others.join("authority.pem"));
    });
    let remaining = [0, other];
    let counts = remaining.map(|node| rejected(&cluster, node, "certificate_foreign"));
    cluster.spawn(impostor);
    until("it is refused", || {
        let is_refused = |(&node, count): (&usize, &u64)| rejected(&cluster, node, "certificate_foreign") > *count;
        remaining.iter().zip(&counts).all(is_refused).then_some(())
    });
    cluster.put_all(&remaining, &stored);
    cluster.expect(&remaining, &stored);
    let status = cluster.status(0);
    assert_eq!(status.nodes[impostor].in_sync, 0, "the impostor holds copies");
    assert_eq!((&status.leader, status.term), (&before.leader, before.term), "there was an election");
    until("it is told", || {
        let told = "don't trust each other: the certificate was not made by an authority";
        cluster.process(0).log().contains(told).then_some(())
    });
}

/// Memory that a process has resident, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_thousand_strangers_cost_little_and_keep_no_peer_out() {
    let folder = Scratch::new();
    let certificates = folder.file("certificates");
    let mut cluster = prepare(3, &certificates);
    cluster.spawn(0);
    let alive = |cluster: &Cluster| cluster.http(0).ask("GET /healthz", b"").is_ok_and(|answer| answer.status == 200);
    until("n1 is alive", || alive(&cluster).then_some(()));
    let before = resident_kib(cluster.process(0).id());
    let dialer = Dialer::new(&certificates, cluster.config.nodes[0].stream.port, "n1.processes.jumpgate");
    dialer.begin_and_fall_silent(1000);
    until("some were let in", || (metric(&cluster, 0, "jumpgate_connections_accepted_total") > 0).then_some(()));
    let grown = resident_kib(cluster.process(0).id()).saturating_sub(before);
    assert!(grown <= 64 << 10, "{grown} KiB for a thousand strangers");
    // Peers find their place among them.
    cluster.spawn(1);
    cluster.spawn(2);
    dialer.begin_and_fall_silent(200);
    cluster.wait_until_whole();
    until("they are cut off", || (rejected(&cluster, 0, "no_proof") > 0).then_some(()));
    assert_eq!(rejected(&cluster, 0, "displaced"), 0, "addresses that nobody answers at displaced somebody");
}

#[test]
fn certificates_are_renewed_under_load_without_a_failed_write() {
    let folder = Scratch::new();
    let certificates = folder.file("certificates");
    let mut cluster = start(3, &certificates);
    let before = cluster.status(0);
    let dialed = [0, 1, 2].map(|node| metric(&cluster, node, "jumpgate_connections_dialed_total"));
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for node in 0..3 {
            let (mut client, is_over, written) = (cluster.http(node), &is_over, &written);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer = client.ask(&format!("PUT /v1/kv/{node}/{number}"), b"value").expect("it answers");
                    assert!(matches!(answer.status, 201 | 204), "write {number} through n{}: {answer:?}", node + 1);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let renewal = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=2 {
                make_certificates(&cluster, &certificates, &["--force"]);
                let taken_over = |node| metric(&cluster, node, "jumpgate_certificates_changed_total") >= round;
                until("all have read the files", || (0..3).all(taken_over).then_some(()));
                let enough = written.load(Ordering::Relaxed) + 100;
                until("writes go on", || (written.load(Ordering::Relaxed) >= enough).then_some(()));
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        renewal.expect("the certificates were renewed");
    });
    for (node, before) in dialed.into_iter().enumerate() {
        // To both peers, with both new certificates.
        let now = metric(&cluster, node, "jumpgate_connections_dialed_total");
        assert!(now >= before + 4, "n{} shows its old certificate: {now} after {before}", node + 1);
        assert_eq!(metric(&cluster, node, "jumpgate_messages_lost_total"), 0);
    }
    let after = cluster.status(0);
    assert_eq!((&after.leader, after.term), (&before.leader, before.term), "there was an election");

    // Files that can't be used leave those in force that were read before.
    fs::write(certificates.join("node-n1.pem"), "nothing").expect("it is ours");
    until("it complains", || cluster.process(0).log().contains("stays in force").then_some(()));
    cluster.put(0, "after", b"all");
    (0..3).for_each(|node| assert_eq!(cluster.stop(node).code(), Some(0)));
}

#[test]
fn a_node_that_can_not_prove_who_it_is_refuses_to_start_and_says_why() {
    let folder = Scratch::new();
    let certificates = folder.file("certificates");
    let cluster = prepare(3, &certificates);
    let refused = |what: &str, setting: &str, words: &str| {
        let output = cluster.command(0).output().expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        let line = said.lines().find(|line| line.starts_with("jumpgate: ")).expect(&said);
        assert!(line.contains(&format!("[stream] {setting}: {}", certificates.display())), "{what}: {line}");
        assert!(line.contains(words), "{what}: {line}");
    };
    let (certificate, key) = (certificates.join("node-n1.pem"), certificates.join("node-n1.key"));
    let keep = |path: &PathBuf| fs::read(path).expect("it was made");
    let (good_certificate, good_key) = (keep(&certificate), keep(&key));

    fs::remove_file(&certificate).expect("it was made");
    refused("none", "certificate", "No such file");
    fs::copy(certificates.join("node-n2.pem"), &certificate).expect("both are ours");
    refused("of n2", "key", "not the key of the certificate");
    fs::copy(certificates.join("node-n2.key"), &key).expect("both are ours");
    refused("of n2 with its key", "certificate", "n1.processes.jumpgate");
    fs::write(&certificate, &good_certificate).expect("it is ours");
    fs::write(&key, &good_key).expect("it is ours");
    set_mode(&key, 0o644);
    refused("a key for all to read", "key", "make it 600");
    set_mode(&key, 0o600);
    let authority = keep(&certificates.join("authority.pem"));
    make_certificates(&cluster, &folder.file("others"), &[]);
    fs::copy(folder.file("others").join("authority.pem"), certificates.join("authority.pem")).expect("both are ours");
    refused("another authority", "certificate", "didn't make it");
    fs::write(certificates.join("authority.pem"), authority).expect("it is ours");
    let dialer = Dialer::new(&certificates, 1, "n1.processes.jumpgate");
    for (days, words) in [((-9, -1), "it has expired"), ((1, 9), "is this machine's clock right?")] {
        let (pem, own_key) = dialer.make("n1.processes.jumpgate", days);
        fs::write(&certificate, pem).expect("it is ours");
        fs::write(&key, own_key).expect("it is ours");
        refused("at another time", "certificate", words);
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn the_settings_that_cert_prints_start_a_node() {
    let folder = Scratch::new();
    let cluster = Cluster::prepare(1, |_| {});
    let printed = make_certificates(&cluster, &folder.file("certificates"), &[]);
    // What is for gateways over HTTPS comes after it, and is tried in `processes`.
    let (printed, _) = printed.split_once("[security]").expect("both tables are printed");
    let file = cluster.scratch().file("cluster.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    let (start, rest) = text.split_once("[stream]").expect("it has the table");
    let (_, end) = rest.split_once("[limits]").expect("it has the table");
    fs::write(&file, format!("{start}{printed}[limits]{end}")).expect("it is ours");
    let mut cluster = cluster;
    cluster.spawn(0);
    cluster.wait_until_whole();
    assert!(ports_in_use("udp").is_superset(&stream_ports(&cluster)));
}
