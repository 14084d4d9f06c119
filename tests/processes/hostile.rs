//! What doesn't disturb a cluster: strangers on its ports, and a second process that claims to be one of its nodes.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream, UdpSocket};

use jumpgate::base::{ClusterId, Generation, Incarnation, NodeId, Rng, Slot, SlotSet};
use jumpgate::codec::{Envelope, Keyring, NameHash, Payload, datagram, frame};
use jumpgate::config::Ports;
use jumpgate::control::Announcement;
use jumpgate::node::message::PulseMessage;

use super::processes::{Cluster, PortBlock, Process, Scratch, contents, program, put, read, until};

/// What a stranger says: to nobody in particular, as somebody who knows no cluster.
fn announcement(name: &str, from: Slot, to: Slot) -> Vec<u8> {
    let envelope = Envelope {
        cluster: ClusterId::NONE,
        generation: Generation::ZERO,
        from: NodeId::new(from, Incarnation(0xbad)),
        to: NodeId::new(to, Incarnation::default()),
    };
    let mut bytes = Vec::new();
    let said = vec![PulseMessage::Announce(Announcement::Blank { without: SlotSet::EMPTY })];
    datagram::encode(&envelope, NameHash::of(name), 1, &said, &Keyring::default(), &mut bytes).expect("it is small");
    bytes
}

fn noise(rng: &mut Rng, bytes_max: u64) -> Vec<u8> {
    (0..rng.below(bytes_max)).map(|_| rng.below(256) as u8).collect()
}

/// Throws everything but a sound datagram of this cluster at the port of the pulse plane.
fn pester_pulse(rng: &mut Rng, port: u16, name: &str) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let throw = |bytes: &[u8]| {
        // One that the system doesn't take is one less.
        let _ = socket.send_to(bytes, ("127.0.0.1", port));
    };
    for _ in 0..200 {
        throw(&noise(rng, 1500));
    }
    throw(&vec![0; 60_000]);
    let sound = announcement(name, Slot(0), Slot(1));
    (0..sound.len()).for_each(|length| throw(&sound[..length]));
    for at in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << rng.below(8);
        throw(&flipped);
    }
    throw(&[&sound[..], b"and more"].concat());
    throw(&announcement("another cluster", Slot(0), Slot(1)));
    throw(&announcement(name, Slot(200), Slot(1)));
    throw(&announcement(name, Slot(0), Slot(200)));
}

/// The same for the stream plane. Connections that say nothing are left open: they are given back.
fn pester_stream(rng: &mut Rng, port: u16, name: &str) -> Vec<TcpStream> {
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // A write to a connection that was closed already is what the other end wants.
    let throw = |bytes: &[u8]| {
        let mut stream = connect();
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        stream
    };
    for _ in 0..20 {
        throw(&noise(rng, 5000));
    }
    throw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let from = NodeId::new(Slot(0), Incarnation(0xbad));
    let to = NodeId::new(Slot(1), Incarnation(0xbad));
    let envelope = Envelope { cluster: ClusterId(7), generation: Generation::ZERO, from, to };
    let payload = noise(rng, 500);
    for name in [name, "another cluster"] {
        let header = frame::seal(&envelope, NameHash::of(name), &Payload::from(payload.clone())).expect("it is small");
        throw(&[&header[..], &payload].concat());
        throw(&header[..40]);
        throw(&[&header[..], &payload[..payload.len() / 2]].concat());
        let mut flipped = [&header[..], &payload].concat();
        let at = rng.below(flipped.len() as u64) as usize;
        flipped[at] ^= 0x10;
        throw(&flipped);
    }
    (0..20).map(|_| connect()).collect()
}

#[test]
fn garbage_on_its_ports_changes_nothing() {
    let mut cluster = Cluster::start(3);
    let stored = contents("calm/", 60);
    cluster.put_all(&[0, 1, 2], &stored);
    let incarnations = |cluster: &Cluster| {
        let status = cluster.status(0);
        status.nodes.into_iter().map(|node| node.incarnation).collect::<Vec<_>>()
    };
    let before = incarnations(&cluster);
    let mut rng = Rng::new(17);
    let mut open = Vec::new();
    let mut client = cluster.http(0);
    for round in 0..5 {
        for node in &cluster.config.nodes {
            pester_pulse(&mut rng, node.pulse.port, &cluster.config.cluster.name);
            open.extend(pester_stream(&mut rng, node.stream.port, &cluster.config.cluster.name));
        }
        put(&mut client, &format!("stormy/{round}"), b"written amid the noise");
    }
    cluster.expect(&[0, 1, 2], &stored);
    for round in 0..5 {
        assert!(read(&mut cluster.http(1), &format!("stormy/{round}")).is_some());
    }
    cluster.wait_until_whole();
    assert_eq!(incarnations(&cluster), before, "a node was replaced");
    for node in 0..3 {
        let log = cluster.process(node).log();
        assert!(!log.contains("panicked"), "{log}");
    }
    drop(open);
    (0..3).for_each(|node| assert_eq!(cluster.stop(node).code(), Some(0)));
}

#[test]
fn a_second_process_for_a_living_node_is_refused() {
    let cluster = Cluster::start(3);
    let stored = contents("mine/", 60);
    cluster.put_all(&[0, 1, 2], &stored);
    let claimed = (cluster.leader() + 1) % 3;
    let before = cluster.incarnation(0, claimed);

    // On the same machine the ports alone refuse it.
    let mut twin = Process::start(cluster.command(claimed), cluster.scratch(), "twin");
    until("the twin gives up", || (!twin.is_running()).then_some(()));
    assert!(twin.log().contains("is taken"), "{}", twin.log());

    // With ports of its own, as on another machine, the leader does.
    let mut config = cluster.config.clone();
    let (elsewhere, ports) = (Scratch::new(), PortBlock::claim());
    let node = &mut config.nodes[claimed];
    let Ports { pulse, stream, gateway } = ports.of_nodes(1)[0];
    (node.bind_pulse.port, node.bind_stream.port, node.bind_gateway.port) = (pulse, stream, gateway);
    std::fs::write(elsewhere.file("twin.toml"), config.to_toml()).expect("a file");
    let file = elsewhere.file("twin.toml");
    let name = &cluster.config.nodes[claimed].id;
    let serve = program(&["serve", "--config", file.to_str().expect("a path of text"), "--node", name]);
    let mut twin = Process::start(serve, cluster.scratch(), "twin-elsewhere");
    let refusal = format!("says that it is {name}, which is alive");
    until("the leader says that there are two", || {
        let lines: Vec<String> = (0..3).map(|node| cluster.process(node).log()).collect();
        lines.iter().any(|log| log.contains(&refusal)).then_some(())
    });
    cluster.expect(&[0, 1, 2], &stored);
    cluster.put(claimed, "still", b"here");
    assert_eq!(cluster.incarnation(0, claimed), before, "the twin took the place of a living node");
    assert!(twin.is_running(), "{}", twin.log());
    assert_eq!(twin.stop("TERM").code(), Some(0));
    cluster.wait_until_whole();
}
