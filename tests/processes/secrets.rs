//! Secrets of real processes: replaced under load, and asked for by a crowd that has none.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jumpgate::base::{ClusterId, Generation, Incarnation, LogIndex, NodeId, Slot, Term};
use jumpgate::codec::handshake::{ANSWER_BYTES, Dialer};
use jumpgate::codec::{Envelope, Keyring, NameHash, datagram};
use jumpgate::config::TimingConfig;
use jumpgate::node::message::PulseMessage;
use jumpgate::raft::{self, LogPosition};

use super::processes::{Cluster, Scratch, until};
use super::start::write_secret;

const OLD: &str = "the old secret, long enough\n";
const NEW: &str = "the new secret, long enough\n";

/// A cluster to be started whose nodes read their secrets from one file.
fn prepare(nodes: u16, secrets: &Path) -> Cluster {
    Cluster::prepare(nodes, |config| {
        config.security.secret_file = Some(secrets.to_owned());
        // As generous as anything here: an election would be the rotation's fault, not the machine's.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(3000)),
            lease: Some(Duration::from_millis(2000)),
            down: Some(Duration::from_millis(2800)),
        };
    })
}

/// Puts `text` in the place of the secret file, in one step.
fn replace(file: &Path, text: &str) {
    let fresh: PathBuf = file.with_extension("new");
    write_secret(&fresh, text, 0o600);
    std::fs::rename(&fresh, file).expect("it is ours");
}

/// A number of a node's metrics, by all that stands before it in its line.
pub fn metric(cluster: &Cluster, node: usize, start: &str) -> u64 {
    let page = cluster.http(node).ask("GET /metrics", b"").expect("it answers");
    let text = String::from_utf8(page.body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(start)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {start} in {text}")).parse().expect("a number")
}

fn rejected(cluster: &Cluster, node: usize, plane: &str, reason: &str) -> u64 {
    metric(cluster, node, &format!("jumpgate_rejected_total{{plane=\"{plane}\",reason=\"{reason}\"}}"))
}

fn keyring(secret: &str) -> Keyring {
    Keyring::parse(secret.as_bytes()).expect("it is long enough")
}

/// Dials node 0 as n2 with `secret`; the connection, or none where it was closed without a word.
fn dial(cluster: &Cluster, secret: &str) -> Option<TcpStream> {
    let name = NameHash::of(&cluster.config.cluster.name);
    let nonce = [u8::try_from(secret.len()).expect("it is short"); 32];
    let dialer = Dialer::new(&keyring(secret), name, Slot(1), Slot(0), nonce).expect("there is a secret");
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.config.nodes[0].stream.port)).expect("it listens");
    // Longer than anything takes here: a node that neither answers nor closes is a failure, not a wait for ever.
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
    stream.write_all(dialer.hello()).ok()?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).ok()?;
    let (proof, _) = dialer.handle_answer(&answer).expect("it holds the secret");
    stream.write_all(&proof).ok()?;
    Some(stream)
}

#[test]
fn a_secret_is_replaced_under_load_and_the_old_one_is_dead() {
    let folder = Scratch::new();
    let file = folder.file("secret");
    replace(&file, OLD);
    let mut cluster = prepare(3, &file);
    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait_until_whole();
    let before = cluster.status(0);
    let mut open = dial(&cluster, OLD).expect("the secret is valid");

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
        let steps = [format!("{OLD}{NEW}"), format!("{NEW}{OLD}"), NEW.to_owned()];
        let rotation = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (nth, text) in steps.iter().enumerate() {
                replace(&file, text);
                let taken_over = |node| metric(&cluster, node, "jumpgate_secrets_changed_total") == 1 + nth as u64;
                until("all have read the file", || (0..3).all(taken_over).then_some(()));
                let enough = written.load(Ordering::Relaxed) + 100;
                until("writes go on", || (written.load(Ordering::Relaxed) >= enough).then_some(()));
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        rotation.expect("the secret was replaced");
    });
    let after = cluster.status(0);
    assert_eq!((&after.leader, after.term), (&before.leader, before.term), "there was an election");
    for node in 0..3 {
        assert_eq!(
            (rejected(&cluster, node, "pulse", "bad_code"), rejected(&cluster, node, "stream", "bad_code")),
            (0, 0)
        );
    }

    // A connection that the old secret opened was closed, and it opens no other.
    let closed = match open.read(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(closed, "the connection outlives its secret");
    assert_eq!(rejected(&cluster, 0, "stream", "secret_removed"), 1);
    assert!(dial(&cluster, OLD).is_none(), "the old secret was taken");
    assert_eq!(rejected(&cluster, 0, "stream", "bad_code"), 1);
    assert!(dial(&cluster, NEW).is_some(), "the new one is not");
    // Nor does it sign.
    let me = |node: usize| {
        let life = u128::from_str_radix(&after.nodes[node].incarnation, 16).expect("hexadecimal");
        NodeId::new(Slot(node as u8), Incarnation(life))
    };
    let cluster_id = ClusterId(u128::from_str_radix(&after.cluster_id, 16).expect("hexadecimal"));
    let envelope = Envelope { cluster: cluster_id, generation: Generation::ZERO, from: me(1), to: me(0) };
    let (term, last) = (Term(1 << 61), LogPosition::new(LogIndex(1 << 40), Term(1 << 61)));
    let vote = vec![PulseMessage::Raft(raft::PulseMessage::Vote { term, last, transfer: true })];
    let mut bytes = Vec::new();
    let name = NameHash::of(&cluster.config.cluster.name);
    datagram::encode(&envelope, name, 1 << 40, &vote, &keyring(OLD), &mut bytes).expect("it fits");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.send_to(&bytes, ("127.0.0.1", cluster.config.nodes[0].pulse.port)).expect("loopback takes it");
    until("the vote is refused", || (rejected(&cluster, 0, "pulse", "bad_code") == 1).then_some(()));
    assert_eq!(cluster.status(0).term, before.term);
    (0..3).for_each(|node| assert_eq!(cluster.stop(node).code(), Some(0)));
}

/// Memory that a process has resident, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_thousand_strangers_cost_little_and_keep_no_peer_out() {
    let folder = Scratch::new();
    let file = folder.file("secret");
    replace(&file, OLD);
    let mut cluster = prepare(3, &file);
    cluster.spawn(0);
    let alive = |cluster: &Cluster| cluster.http(0).ask("GET /healthz", b"").is_ok_and(|answer| answer.status == 200);
    until("n1 is alive", || alive(&cluster).then_some(()));
    let before = resident_kib(cluster.process(0).id());
    let address = ("127.0.0.1", cluster.config.nodes[0].stream.port);
    // Some begin a handshake and fall silent, some promise a frame of megabytes, some write whatever they can.
    let megabytes = [&b"jgsf\x01\x01\0\0\xff\xff\xff\x01"[..], &[0; 70]].concat();
    let mut open = VecDeque::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_nonblocking(true).expect("it can be set");
        let _ = match number % 4 {
            // More of them at a time than there are places for strangers.
            0 | 2 => stream.write(b"jgsh\x01\x01\0\x01"),
            1 => stream.write(&megabytes),
            _ => stream.write(&vec![b'j'; 1 << 20]),
        };
        open.push_back(stream);
        // This process has a bound of its own.
        if open.len() > 600 {
            open.pop_front();
        }
    }
    until("all were let in", || (metric(&cluster, 0, "jumpgate_connections_accepted_total") >= 1000).then_some(()));
    let grown = resident_kib(cluster.process(0).id()).saturating_sub(before);
    assert!(grown <= 64 << 10, "{grown} KiB for a thousand strangers");
    assert!(rejected(&cluster, 0, "stream", "displaced") > 0);
    assert!(rejected(&cluster, 0, "stream", "unauthenticated") >= 300);
    // Peers find their place among them.
    cluster.spawn(1);
    cluster.spawn(2);
    cluster.wait_until_whole();
    drop(open);
}
