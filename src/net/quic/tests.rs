//! Who is let in over QUIC, and who isn't, on real sockets on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::UdpSocket;

use super::handshake;
use super::identity::{Fault, Identity, IdentityFile, Pems};
use super::testing::{Authority, DAY, Listening, NOW, dial, endpoint, identity_of, names, rogue};
use crate::base::{NodeId, Slot};
use crate::codec::Envelope;
use crate::net::stream::testing::{Receiver, Sender, Wire, envelope, in_time, sealed};
use crate::net::stream::{Lane, LinkEvent, ListenerOptions};

const N1: &str = "n1.store.jumpgate";
const N2: &str = "n2.store.jumpgate";

fn parse(pems: Pems) -> Result<Identity, (IdentityFile, String)> {
    Identity::parse(pems, &names(), Slot(0), SystemTime::now()).map_err(|error| (error.file, error.problem))
}

#[test]
fn a_node_refuses_a_certificate_that_its_peers_would_refuse_and_says_what_to_do() {
    let ours = Authority::common();
    assert!(parse(ours.issue(&[N1], NOW)).is_ok());
    let good = ours.issue(&[N1], NOW);
    let other = Authority::new();
    use IdentityFile::{Authority as TheAuthority, Certificate, Key};
    let cases = [
        (ours.issue(&[N1], (-9, -1)), Certificate, "it has expired"),
        (ours.issue(&[N1], (1, 9)), Certificate, "it is not valid yet"),
        (ours.issue(&[N2], NOW), Certificate, "its DNS name has to be \"n1.store.jumpgate\""),
        (ours.issue(&[N1, N2], NOW), Certificate, "or not this node alone"),
        (ours.issue(&["*.store.jumpgate"], NOW), Certificate, "or not this node alone"),
        (Pems { authority: other.pem().into_bytes(), ..good.clone() }, Certificate, "didn't make it"),
        (Pems { key: ours.issue(&[N1], NOW).key, ..good.clone() }, Key, "not the key of the certificate"),
        (Pems { key: b"hunter2".to_vec(), ..good.clone() }, Key, "no private key in PEM"),
        (Pems { certificate: good.key.clone(), ..good.clone() }, Certificate, "no certificate in PEM"),
        (Pems { authority: Vec::new(), ..good.clone() }, TheAuthority, "no certificate in PEM"),
    ];
    for (pems, file, words) in cases {
        let refused = parse(pems).map(|_| ()).expect_err(words);
        assert!(refused.0 == file && refused.1.contains(words), "{refused:?} is not about {words:?}");
    }
}

#[test]
fn a_certificate_is_judged_by_the_time_at_which_it_is_asked_for() {
    let identity = Authority::common().identity(Slot(0));
    let chain = identity.own().cert.clone();
    let judge = |ago: bool, days: u32| {
        let now = SystemTime::now();
        let at = if ago { now - DAY * days } else { now + DAY * days };
        (identity.judge_dialer(&chain, at), identity.judge_listener(&chain, Slot(0), at))
    };
    assert_eq!(judge(false, 29), (Ok(Slot(0)), Ok(())));
    assert_eq!(judge(false, 31), (Err(Fault::Expired), Err(Fault::Expired)));
    assert_eq!(judge(true, 2), (Err(Fault::NotYetValid), Err(Fault::NotYetValid)));
    assert_eq!(identity.judge_listener(&chain, Slot(1), SystemTime::now()), Err(Fault::OtherNode));
    assert_eq!(identity.judge_dialer(&[], SystemTime::now()), Err(Fault::Missing));
    assert!(identity.expires_within(SystemTime::now(), DAY * 31));
    assert!(!identity.expires_within(SystemTime::now(), DAY * 29));
}

/// Identities that no listener may take for slot 0's, each with the reason.
fn rogues() -> Vec<(Arc<Identity>, &'static str)> {
    let ours = Authority::common();
    // It believes the true listener, or it would hang up by itself.
    let foreign = Pems { authority: ours.pem().into_bytes(), ..Authority::new().issue(&[N1], NOW) };
    [
        (foreign, "certificate_foreign"),
        (ours.issue(&[N1], (-9, -1)), "certificate_expired"),
        (ours.issue(&[N1], (1, 9)), "certificate_not_yet_valid"),
        (ours.issue(&["n4.store.jumpgate"], NOW), "certificate_other_node"),
        (ours.issue(&["n1.other.jumpgate"], NOW), "certificate_other_node"),
        (ours.issue(&["*.store.jumpgate"], NOW), "certificate_other_node"),
        (ours.issue(&[N1, N2], NOW), "certificate_other_node"),
    ]
    .map(|(pems, reason)| (rogue(pems, Slot(0)), reason))
    .into()
}

#[tokio::test]
async fn whoever_has_no_good_certificate_is_refused_before_it_has_written_anything() {
    let mut receiver = Receiver::on_free_port(Wire::Quic);
    for (identity, reason) in rogues() {
        let sender = Sender::with_identity(receiver.address, Slot(1), identity);
        sender.push(1, 7);
        assert_eq!(receiver.rejection().await, reason);
        assert_eq!(receiver.rejection().await, reason, "it dials again");
        let counted = (sender.counters.connections_dialed.value(), sender.counters.messages_lost.value());
        assert_eq!(counted, (0, 0), "{reason}: nothing was sent, so nothing is lost");
        sender.stop().await;
        while receiver.rejected.try_recv().is_ok() {}
    }
    assert!(receiver.frames.try_recv().is_err());
    assert_eq!(receiver.counters.stream_bytes_received.value(), 0);
    // The true one is let in all the same.
    let sender = Sender::start(Wire::Quic, receiver.address);
    sender.push(1, 8);
    assert_eq!(receiver.numbers().await.1, [8]);
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn whoever_shows_no_certificate_or_speaks_something_else_is_refused() {
    let mut receiver = Receiver::on_free_port(Wire::Quic);
    for (protocol, reason) in [(super::PROTOCOL, "no_certificate"), (b"h3", "bad_handshake")] {
        let config = without_certificate(protocol);
        let dialing = endpoint(None).connect_with(config, receiver.address, N2).expect("it is an address");
        // Its own side of the handshake may be over before it is refused.
        if let Ok(connection) = in_time(dialing).await {
            in_time(connection.closed()).await;
        }
        assert_eq!(receiver.rejection().await, reason);
    }
    receiver.stop().await;
}

/// A client that believes the common authority and shows nothing itself.
fn without_certificate(protocol: &[u8]) -> quinn::ClientConfig {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(Authority::common().pem().as_bytes()).expect("it is one");
    roots.add(authority).expect("it is one");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("it has the suite");
    quinn::ClientConfig::new(Arc::new(crypto))
}

#[tokio::test]
async fn a_dialer_says_nothing_to_anybody_but_the_node_that_it_dialed() {
    let ours = Authority::common();
    let foreign = Pems { authority: ours.pem().into_bytes(), ..Authority::new().issue(&[N2], NOW) };
    let impostors = [
        (foreign, "certificate_foreign"),
        (ours.issue(&[N1], NOW), "certificate_other_node"),
        (ours.issue(&["*.store.jumpgate"], NOW), "certificate_other_node"),
        (ours.issue(&[N2], (-9, -1)), "certificate_expired"),
        (ours.issue(&[N2], (1, 9)), "certificate_not_yet_valid"),
    ];
    for (pems, reason) in impostors {
        let receiver = Receiver::with_identity(rogue(pems, Slot(1)));
        let sender = Sender::start(Wire::Quic, receiver.address);
        sender.push(1, 7);
        in_time(async {
            while sender.counters.rejections().get(reason).is_none_or(|count| *count < 2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!((sender.counters.connections_dialed.value(), sender.counters.messages_lost.value()), (0, 0));
        assert_eq!(receiver.counters.stream_bytes_received.value(), 0);
        // It is the sender that finds fault; the receiver has nothing against it.
        assert_eq!(receiver.counters.rejections().len(), 0, "{:?}", receiver.counters.rejections());
        sender.stop().await;
        receiver.stop().await;
    }
}

#[tokio::test]
async fn a_frame_of_another_slot_than_the_certificate_names_is_refused() {
    let mut receiver = Receiver::on_free_port(Wire::Quic);
    let (connection, mut stream) = in_time(dial(&Authority::common().identity(Slot(0)), receiver.address)).await;
    stream.write_all(&sealed(&envelope(1))).await.expect("it is read");
    assert_eq!(receiver.numbers().await.1, [7], "as itself it may speak");
    let from = NodeId::new(Slot(2), envelope(1).from.incarnation);
    let spoken_as_another = Envelope { from, ..envelope(1) };
    stream.write_all(&sealed(&spoken_as_another)).await.expect("it is read");
    assert_eq!(receiver.rejection().await, "other_sender");
    in_time(connection.closed()).await;
    assert!(receiver.frames.try_recv().is_err());
    receiver.stop().await;
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_is_no_longer_of_the_authority() {
    let (ours, theirs) = (Authority::common(), Authority::new());
    let both = |slot: u8| {
        let pems = ours.issue(&[&names()[usize::from(slot)]], NOW);
        let authority = [ours.pem(), theirs.pem()].concat().into_bytes();
        identity_of(Pems { authority, ..pems }, Slot(slot))
    };
    // The listener withdraws the authority that the dialer's certificate is of.
    let mut receiver = Receiver::with_identity(both(1));
    let mut sender = Sender::with_identity(receiver.address, Slot(1), both(0));
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    receiver.identities.send_replace(theirs.identity(Slot(1)));
    assert_eq!(receiver.rejection().await, "certificate_foreign");
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!(receiver.rejection().await, "certificate_foreign", "it can't come back");
    sender.stop().await;
    receiver.stop().await;
    // The dialer withdraws the listener's.
    let receiver = Receiver::with_identity(both(1));
    let mut sender = Sender::with_identity(receiver.address, Slot(1), both(0));
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    let mine = ours.issue(&[N1], NOW);
    sender.identities.send_replace(rogue(Pems { authority: theirs.pem().into_bytes(), ..mine }, Slot(0)));
    in_time(async {
        while !sender.counters.rejections().contains_key("certificate_foreign") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(sender.counters.connections_dialed.value(), 1);
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn certificates_are_renewed_and_nothing_is_lost() {
    let ours = Authority::common();
    let mut receiver = Receiver::on_free_port(Wire::Quic);
    let mut sender = Sender::start(Wire::Quic, receiver.address);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    let (mut pushed, mut arrived) = (0, Vec::new());
    for is_senders in [true, false, true, false] {
        for _ in 0..100 {
            sender.push(1, pushed);
            pushed += 1;
        }
        if is_senders {
            sender.identities.send_replace(ours.identity(Slot(0)));
            // Without a word of a disconnect: nobody died.
            assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
        } else {
            receiver.identities.send_replace(ours.identity(Slot(1)));
        }
        while arrived.len() < pushed as usize {
            arrived.extend(receiver.numbers().await.1);
        }
    }
    assert_eq!(arrived, (0..pushed).collect::<Vec<_>>(), "in order even across connections");
    assert_eq!((sender.counters.connections_dialed.value(), sender.counters.messages_lost.value()), (3, 0));
    assert!(receiver.rejected.try_recv().is_err());
    sender.stop().await;
    receiver.stop().await;
}

/// The first packet of a handshake that never goes on, sent to `address`; the socket that it was sent from.
async fn begin_and_fall_silent(address: SocketAddr) -> UdpSocket {
    let trap = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let (config, _) = handshake::dialing(&Authority::common().identity(Slot(0)), Slot(1));
    let at = trap.local_addr().expect("it is bound");
    let _dialing = endpoint(None).connect_with(config, at, N2).expect("it is an address");
    let mut packet = [0; 2048];
    let (bytes, _) = in_time(trap.recv_from(&mut packet)).await.expect("it dials");
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    silent.send_to(&packet[..bytes], address).await.expect("loopback takes it");
    // It was answered, so it has a place, or it was asked whether it is really there.
    in_time(silent.recv(&mut packet)).await.expect("it is answered");
    silent
}

#[tokio::test]
async fn strangers_that_fall_silent_keep_no_peer_out_and_are_cut_off_in_time() {
    let options =
        ListenerOptions { strangers_max: 4, first_frame: Duration::from_secs(2), ..ListenerOptions::default() };
    let mut receiver = Receiver::start(Wire::Quic, "127.0.0.1:0", options);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(begin_and_fall_silent(receiver.address).await);
    }
    // Half of the places are for those whose address may be a lie.
    assert_eq!(receiver.counters.connections_accepted.value(), 2);
    for number in 0..5 {
        let sender = Sender::start(Wire::Quic, receiver.address);
        sender.push(1, number);
        assert_eq!(receiver.numbers().await.1, [number], "a peer finds a place");
        sender.stop().await;
    }
    for _ in 0..2 {
        assert_eq!(receiver.rejection().await, "no_proof");
    }
    assert!(receiver.rejected.try_recv().is_err());
    receiver.stop().await;
}

#[tokio::test]
async fn bulk_that_nobody_reads_holds_up_nothing_that_is_live() {
    let listening = Listening::start();
    let sender = Sender::start(Wire::Quic, listening.address());
    for _ in 0..32 {
        sender.outbox.push(Lane::Bulk, &envelope(1), &vec![0_u8; 1 << 20]).expect("there is room");
    }
    let (_connection, mut live) = in_time(listening.accept()).await;
    // More than any window holds is on its way, and stands still.
    sender.push(1, 7);
    let expected = sealed(&envelope(1));
    let mut frame = vec![0; expected.len()];
    in_time(live.read_exact(&mut frame)).await.expect("it comes");
    assert_eq!(frame, expected, "and nothing else goes that way");
}
