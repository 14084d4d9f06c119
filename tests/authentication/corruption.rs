//! A wire that flips bits, between servers that serve.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use jumpgate::base::Rng;
use jumpgate::config::Ports;

use super::servers::{Cluster, NODES, OLD, Secrets, until};

/// Reasons for which flipped bits are noticed. Which one it is says where they were.
const REASONS: [&str; 9] = [
    "bad_checksum",
    "bad_code",
    "bad_magic",
    "no_secret",
    "other_version",
    "too_large",
    "too_short",
    "trailing_bytes",
    "unauthenticated",
];

/// What the wire does, and what it has done.
#[derive(Default)]
struct Wire {
    /// Of a million datagrams, and of a million pieces of a stream, so many are damaged.
    chance: AtomicU32,
    /// Damaged datagrams that were passed on.
    datagrams: AtomicU64,
    /// Damaged pieces of streams that were passed on.
    pieces: AtomicU64,
    is_over: AtomicBool,
}

impl Wire {
    /// Flips up to three bits of `bytes`, sometimes; whether it did.
    fn damage(&self, bytes: &mut [u8], rng: &mut Rng) -> bool {
        if bytes.is_empty() || !rng.chance(self.chance.load(Ordering::Relaxed)) {
            return false;
        }
        // Different places: two flips of one bit would be none.
        let at = rng.below(bytes.len() as u64) as usize;
        for place in 0..bytes.len().min(1 + rng.below(3) as usize) {
            let bytes_len = bytes.len();
            bytes[(at + place) % bytes_len] ^= 1 << rng.below(8);
        }
        true
    }

    /// Passes datagrams on to `port`.
    fn pass_datagrams(&self, socket: &UdpSocket, port: u16, mut rng: Rng) {
        let mut buffer = [0; 2048];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let is_damaged = self.damage(&mut buffer[..length], &mut rng);
            if socket.send_to(&buffer[..length], ("127.0.0.1", port)).is_ok() && is_damaged {
                self.datagrams.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Passes connections on to `port`.
    fn pass_streams(self: &Arc<Self>, listener: &TcpListener, port: u16, mut rng: Rng) {
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((from, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let Ok(to) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                let (wire, rng) = (Arc::clone(self), rng.fork());
                std::thread::spawn(move || wire.pass_bytes(from, to, rng));
            }
        }
    }

    fn pass_bytes(&self, mut from: TcpStream, mut to: TcpStream, mut rng: Rng) {
        from.set_nonblocking(false).expect("it can be set");
        from.set_read_timeout(Some(Duration::from_millis(100))).expect("it can be set");
        let mut buffer = vec![0; 64 << 10];
        while !self.is_over.load(Ordering::Relaxed) {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if self.damage(&mut buffer[..length], &mut rng) {
                        self.pieces.fetch_add(1, Ordering::Relaxed);
                    }
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Puts itself in front of a node; the ports where its peers find it from now on.
    fn attach(self: &Arc<Self>, ports: &Ports, rng: &mut Rng) -> Ports {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("it can be set");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it can be set");
        let pulse = socket.local_addr().expect("it is bound").port();
        let stream = listener.local_addr().expect("it is bound").port();
        let (wire, port, dice) = (Arc::clone(self), ports.pulse, rng.fork());
        std::thread::spawn(move || wire.pass_datagrams(&socket, port, dice));
        let (wire, port, dice) = (Arc::clone(self), ports.stream, rng.fork());
        std::thread::spawn(move || wire.pass_streams(&listener, port, dice));
        Ports { pulse, stream, gateway: ports.gateway }
    }
}

/// Writes until `enough` writes were acknowledged; the last acknowledged value of each key.
fn write(cluster: &Cluster, round: usize, enough: usize, known: &mut [usize]) {
    let mut clients: Vec<_> = (0..NODES).map(|node| cluster.client(node)).collect();
    let mut acknowledged = 0;
    until(|| {
        let key = acknowledged % known.len();
        let value = format!("{}", round * 1_000_000 + acknowledged);
        let target = format!("PUT /v1/kv/k{key}?timeout=2s");
        // Writes may fail for a while, with streams that break all the time: what is acknowledged counts.
        if clients[key % NODES].ask(&target, value.as_bytes()).is_ok_and(|answer| matches!(answer.status, 201 | 204)) {
            known[key] = round * 1_000_000 + acknowledged;
            acknowledged += 1;
        }
        acknowledged >= enough
    });
}

fn a_wire_that_flips_bits(test: &str, secrets: Option<&Secrets>) {
    let (wire, mut rng) = (Arc::new(Wire::default()), Rng::new(18));
    let mut cluster = Cluster::prepare_behind(test, |ports| wire.attach(ports, &mut rng));
    (0..NODES).for_each(|node| cluster.start_with(node, secrets.map(|secrets| secrets.of(node))));
    (0..NODES).for_each(|node| cluster.until_ready(node));
    let mut known = vec![0; 10];
    for (round, (percent, writes)) in [(1, 60), (10, 10)].into_iter().enumerate() {
        wire.chance.store(percent * 10_000, Ordering::Relaxed);
        write(&cluster, 1 + round, writes, &mut known);
        let enough = || wire.datagrams.load(Ordering::Relaxed) >= 20 && wire.pieces.load(Ordering::Relaxed) >= 2;
        until(enough);
    }
    wire.chance.store(0, Ordering::Relaxed);
    write(&cluster, 9, 20, &mut known);
    // Nobody has taken a flipped bit for data: every value is the one that was acknowledged, or a later attempt's.
    for (key, acknowledged) in known.iter().enumerate() {
        let read = cluster.client(key % NODES).ask(&format!("GET /v1/kv/k{key}"), b"").expect("it answers");
        let value: usize = std::str::from_utf8(&read.body).expect("digits").parse().expect("digits");
        assert!(value >= *acknowledged, "k{key} is {value} after {acknowledged} was acknowledged");
    }
    let counted = |plane: &str| -> u64 {
        let of = |node| REASONS.map(|reason| cluster.rejected(node, plane, reason)).iter().sum::<u64>();
        (0..NODES).map(of).sum()
    };
    // What was damaged last may still be in a socket's buffer.
    until(|| counted("pulse") >= wire.datagrams.load(Ordering::Relaxed));
    assert_eq!(counted("pulse"), wire.datagrams.load(Ordering::Relaxed), "sound datagrams were refused too");
    assert!(counted("stream") > 0);
    wire.is_over.store(true, Ordering::Relaxed);
}

#[test]
fn flipped_bits_are_noticed_by_nodes_with_a_secret() {
    let secrets = Secrets::new("corruption", OLD);
    a_wire_that_flips_bits("corruption", Some(&secrets));
}

#[test]
fn flipped_bits_are_noticed_by_nodes_without_one() {
    a_wire_that_flips_bits("corruption-plain", None);
}
