//! What holds over TCP alone: what nodes prove there, on real sockets on loopback.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Slot;
use crate::codec::{self, Payload, frame, handshake};
use crate::net::stream::testing::{Receiver, Sender, Wire, envelope, in_time, keyring, name};
use crate::net::stream::{Lane, LinkEvent, ListenerOptions};

/// Sends `bytes` and then nothing, without closing; the connection.
async fn send_and_fall_silent(address: SocketAddr, bytes: Vec<u8>) -> std::net::TcpStream {
    let sending = tokio::task::spawn_blocking(move || {
        let mut stranger = std::net::TcpStream::connect(address).expect("it listens");
        stranger.write_all(&bytes).expect("it is read");
        stranger
    });
    in_time(sending).await.expect("no panic")
}

#[tokio::test]
async fn a_connection_that_never_says_anything_is_cut_off() {
    let short = Duration::from_millis(20);
    let options = ListenerOptions { first_frame: short, ..ListenerOptions::default() };
    let mut receiver = Receiver::start(Wire::Tcp, "127.0.0.1:0", options);
    let silent = send_and_fall_silent(receiver.address, Vec::new()).await;
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("no_first_frame"));
    drop(silent);
    receiver.stop().await;
}

const OLD: &str = "the old secret, long enough";
const NEW: &str = "the new secret, long enough";

#[tokio::test]
async fn nodes_that_share_a_secret_talk() {
    let mut receiver = Receiver::with_secrets(OLD);
    let sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
    for number in 0..100 {
        sender.push(1, number);
    }
    let mut arrived = Vec::new();
    while arrived.len() < 100 {
        arrived.extend(receiver.numbers().await.1);
    }
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
    let large = vec![7_u8; 20 << 20];
    sender.outbox.push(Lane::Live, &envelope(1), &large).expect("there is room");
    let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
    let message = frame::messages(&frame.payload).next().expect("there is one").expect("it is whole");
    assert_eq!(codec::decode::<Vec<u8>>(message), Ok(large));
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn without_the_secret_nothing_arrives_and_nothing_is_lost() {
    let mut receiver = Receiver::with_secrets(OLD);
    let sender = Sender::with_secrets(receiver.address, Slot(1), NEW);
    sender.push(1, 7);
    for _ in 0..3 {
        assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"));
    }
    assert!(receiver.frames.try_recv().is_err());
    assert_eq!(sender.counters.connections_dialed.value(), 0);
    // It is told the secret: what waited goes out.
    sender.secrets.send_replace(Arc::new(keyring(OLD)));
    assert_eq!(receiver.numbers().await, (envelope(1), vec![7]));
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn one_side_with_a_secret_and_one_without_are_told_apart() {
    let mut keyed = Receiver::with_secrets(OLD);
    let plain = Sender::start(Wire::Tcp, keyed.address);
    plain.push(1, 7);
    assert_eq!(in_time(keyed.rejected.recv()).await, Some("unauthenticated"));
    let mut open = Receiver::on_free_port(Wire::Tcp);
    let sender = Sender::with_secrets(open.address, Slot(1), OLD);
    assert_eq!(in_time(open.rejected.recv()).await, Some("no_secret"));
    let lost = Sender::with_secrets(keyed.address, Slot(2), OLD);
    while in_time(keyed.rejected.recv()).await != Some("other_slot") {}
    assert!(keyed.frames.try_recv().is_err() && open.frames.try_recv().is_err());
    for sender in [plain, sender, lost] {
        sender.stop().await;
    }
    keyed.stop().await;
    open.stop().await;
}

#[tokio::test]
async fn connections_follow_when_a_secret_is_replaced_and_nothing_is_lost() {
    let mut receiver = Receiver::with_secrets(OLD);
    let mut sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
    let (added, swapped) = (format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"));
    let mut pushed = 0;
    let mut arrived = Vec::new();
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    // (who changes, to what, whether the connection is replaced)
    let steps = [
        (0, &*added, false),
        (1, &added, false),
        (0, &swapped, true),
        (1, &swapped, false),
        (1, NEW, false),
        (0, NEW, false),
    ];
    for (side, secrets, is_replaced) in steps {
        for _ in 0..100 {
            sender.push(1, pushed);
            pushed += 1;
        }
        [&sender.secrets, &receiver.secrets][side].send_replace(Arc::new(keyring(secrets)));
        if is_replaced {
            // Without a word of a disconnect: nobody died.
            assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
        }
        while arrived.len() < pushed as usize {
            arrived.extend(receiver.numbers().await.1);
        }
    }
    arrived.sort_unstable();
    assert_eq!(arrived, (0..pushed).collect::<Vec<_>>());
    assert_eq!((sender.counters.connections_dialed.value(), sender.counters.messages_lost.value()), (2, 0));
    assert!(receiver.rejected.try_recv().is_err());
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_secret_on_either_side() {
    let mut receiver = Receiver::with_secrets(OLD);
    let mut sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    receiver.secrets.send_replace(Arc::new(keyring(NEW)));
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("secret_removed"));
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"), "it can't come back");
    sender.stop().await;
    receiver.stop().await;

    let receiver = Receiver::with_secrets(OLD);
    let mut sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.secrets.send_replace(Arc::new(keyring(NEW)));
    // It ends its connection and is not let in with the other secret.
    let mut receiver = receiver;
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"));
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_stuck_connection_is_cut_when_its_secret_is_removed() {
    // A peer that proves the secret and then never reads.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut sender = Sender::with_secrets(listener.local_addr().expect("it is bound"), Slot(1), OLD);
    let (mut stream, _) = in_time(listener.accept()).await.expect("the writer dials");
    in_time(super::proof::listen(&mut stream, &keyring(OLD), name(), Slot(1))).await.expect("it has the secret");
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.outbox.push(Lane::Live, &envelope(1), &vec![0_u8; 30 << 20]).expect("there is room");
    // Some of it has come, so the writer is in the middle of it.
    in_time(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0])).await.expect("something came");
    sender.secrets.send_replace(Arc::new(keyring(NEW)));
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!(sender.counters.messages_lost.value(), 1);
    sender.stop().await;
}

#[tokio::test]
async fn a_recorded_connection_is_worth_nothing() {
    let mut receiver = Receiver::with_secrets(OLD);
    let address = receiver.address;
    let dialer = handshake::Dialer::new(&keyring(OLD), name(), Slot(0), Slot(1), [1; 32]).expect("there is a secret");
    let hello = *dialer.hello();
    let say = |bytes: Vec<u8>| {
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            stream.write_all(&bytes).expect("it is read");
            let mut answer = [0; handshake::ANSWER_BYTES];
            stream.read_exact(&mut answer).expect("it answers whoever knows the secret");
            (stream, answer)
        })
    };
    let (mut stream, answer) = in_time(say(hello.to_vec())).await.expect("no panic");
    let (proof, mut session) = dialer.handle_answer(&answer).expect("it has the secret");
    let payload = [1, 0, 0, 0, 7];
    let (header, code) =
        frame::seal_with(&mut session, &envelope(1), name(), &Payload::from(payload.to_vec())).expect("it is small");
    let rest = [&proof[..], &header, &payload, &code].concat();
    stream.write_all(&rest).expect("it is read");
    assert_eq!(receiver.numbers().await.1, [7]);
    // The same frame again, on the same connection and on another one.
    stream.write_all(&rest[proof.len()..]).expect("it is read");
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"));
    let (mut stream, another) = in_time(say(hello.to_vec())).await.expect("no panic");
    assert_ne!(another, answer);
    stream.write_all(&rest).expect("it is read");
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"));
    assert!(receiver.frames.try_recv().is_err());
    receiver.stop().await;
}

#[tokio::test]
async fn strangers_take_no_place_from_peers_and_are_cut_off_in_time() {
    let options = ListenerOptions {
        connections_max: 1,
        strangers_max: 20,
        first_frame: Duration::from_secs(2),
        ..ListenerOptions::default()
    };
    let mut receiver = Receiver::with_secrets_and(OLD, options);
    let mut strangers = Vec::new();
    for _ in 0..19 {
        strangers.push(send_and_fall_silent(receiver.address, b"jgs".to_vec()).await);
    }
    let sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);
    for _ in 0..19 {
        assert_eq!(in_time(receiver.rejected.recv()).await, Some("no_proof"));
    }
    // A second peer is one too many; it is told so by being closed, and the first one goes on.
    let mut second = Sender::with_secrets(receiver.address, Slot(1), OLD);
    assert_eq!(second.event().await, LinkEvent::Connected(Slot(1)));
    assert_eq!(second.event().await, LinkEvent::Disconnected(Slot(1)));
    assert!(receiver.counters.connections_over_cap.value() > 0);
    sender.push(1, 2);
    assert_eq!(receiver.numbers().await.1, [2]);
    drop(strangers);
    sender.stop().await;
    second.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn where_strangers_have_taken_all_places_the_oldest_gives_its_own_to_the_next() {
    let options = ListenerOptions { strangers_max: 3, ..ListenerOptions::default() };
    let mut receiver = Receiver::with_secrets_and(OLD, options);
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(send_and_fall_silent(receiver.address, b"jgs".to_vec()).await);
    }
    for number in 0..5 {
        let sender = Sender::with_secrets(receiver.address, Slot(1), OLD);
        sender.push(1, number);
        assert_eq!(receiver.numbers().await.1, [number], "a peer finds a place");
        sender.stop().await;
    }
    // The first peer displaced one of them; once it had proven its secret its place was free for those after it.
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("displaced"));
    assert!(receiver.rejected.try_recv().is_err());
    drop(strangers);
    receiver.stop().await;
}
