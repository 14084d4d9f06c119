//! What a client may take of a node: sessions, bytes of a line, ports, others' data connections.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use super::{Cluster, Ftp, PATIENCE};

#[test]
fn a_line_without_an_end_ends_the_session() {
    let cluster = Cluster::start(1, |_| {});
    for has_login in [false, true] {
        let mut ftp = if has_login { cluster.ftp(0) } else { Ftp::connect(cluster.ftp[0]) };
        // As much as it likes, as long as it is commands.
        for _ in 0..100 {
            ftp.send("NOOP\r\n".repeat(20).as_bytes());
            for _ in 0..20 {
                ftp.reply().expect("a reply");
            }
        }
        let mut stream = ftp.into_stream();
        let mut sent = 0;
        // The node takes what is on its way, and no more.
        while sent < 1 << 30 && stream.write_all(&[b'a'; 64 << 10]).is_ok() {
            sent += 64 << 10;
        }
        assert!(sent < 1 << 30, "{sent} bytes of one line were taken");
    }
    // One that is short enough to be read is answered.
    let mut ftp = cluster.ftp(0);
    let (code, text) = ftp.ask(&format!("CWD {}", "k".repeat(8 << 10)));
    assert!((500..600).contains(&code), "{text}");
    ftp.send(&[b'a'; (16 << 10) + 1]);
    assert_eq!(ftp.reply().expect("a reply").0, 500);
    assert!(ftp.reply().is_err(), "and that was the last");
}

#[test]
fn there_are_as_many_sessions_as_the_configuration_allows() {
    let cluster = Cluster::start(1, |config| config.limits.connections = 3);
    let mut sessions: Vec<Ftp> = (0..3).map(|_| cluster.ftp(0)).collect();
    let mut refused = Ftp::new(super::stream(cluster.ftp[0]));
    assert_eq!(refused.reply().expect("a reply").0, 421);
    assert!(refused.reply().is_err(), "and that was the last");
    for session in &mut sessions {
        assert_eq!(session.ask("NOOP").0, 200);
    }
    // One that ends makes room; its node learns of that a moment later.
    assert_eq!(sessions.pop().expect("three").ask("QUIT").0, 221);
    let end = std::time::Instant::now() + PATIENCE;
    while Ftp::new(super::stream(cluster.ftp[0])).reply().expect("a reply").0 != 220 {
        assert!(std::time::Instant::now() < end, "nobody is let in");
    }
}

#[test]
fn data_connections_are_opened_at_the_ports_of_the_range() {
    // Somewhere where one port at least is free.
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = probe.local_addr().expect("it is bound").port().min(u16::MAX - 63);
    let ports = port..=port + 63;
    drop(probe);
    let cluster = Cluster::start(1, |config| config.gateway.ftp_passive_ports = Some(ports.clone()));
    let mut ftp = cluster.ftp(0);
    for nth in 0..8 {
        let data = ftp.passive();
        assert!(ports.contains(&data.peer_addr().expect("it is connected").port()), "{data:?}");
        assert_eq!(ftp.give_by(data, &format!("STOR {nth}"), b"x"), 226);
    }
    // The older way says the same, with an address.
    let (code, text) = ftp.ask("PASV");
    assert_eq!(code, 227, "{text}");
    let inside = text.split(['(', ')']).nth(1).expect("an address");
    let numbers: Vec<u16> = inside.split(',').map(|number| number.parse().expect("a number")).collect();
    assert_eq!(numbers[..4], [127, 0, 0, 1], "{text}");
    let port = numbers[4] * 256 + numbers[5];
    assert!(ports.contains(&port), "{text}");
    let data = super::stream(port);
    assert_eq!(ftp.take_by(data, "NLST"), (226, b"0\r\n1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n".to_vec()));
}

#[test]
fn a_data_connection_is_its_own_clients_alone() {
    let cluster = Cluster::start(1, |_| {});
    let mut ftp = cluster.ftp(0);
    assert_eq!(ftp.give("STOR secret", b"for one"), 226);
    let port = ftp.passive_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    stranger.bind(&SocketAddr::from(([127, 0, 0, 77], 0)).into()).expect("all of 127.0.0.0/8 are here");
    stranger.connect(&address.into()).expect("it listens");
    let mut stranger = TcpStream::from(stranger);
    stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let data = super::stream(port);
    assert_eq!(ftp.take_by(data, "RETR secret"), (226, b"for one".to_vec()), "nor is it kept from it");
    let mut bytes = Vec::new();
    let _ = stranger.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");
}

#[test]
fn an_upload_that_is_broken_off_changes_nothing() {
    let cluster = Cluster::start(1, |_| {});
    let mut ftp = cluster.ftp(0);
    assert_eq!(ftp.give("STOR a", b"whole"), 226);
    let mut data = ftp.passive();
    assert_eq!(ftp.ask("STOR a").0, 150);
    // More than all buffers on the way hold: the node is in the middle of it.
    for _ in 0..48 {
        data.write_all(&vec![1; 1 << 20]).expect("it is taken");
    }
    // As when a machine fails: no proper end.
    Socket::from(data).set_linger(Some(std::time::Duration::ZERO)).expect("a socket");
    let (code, text) = ftp.reply().expect("a reply");
    assert!((400..500).contains(&code), "{text}");
    assert_eq!(ftp.take("RETR a"), (226, b"whole".to_vec()));
}
