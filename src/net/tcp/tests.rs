//! Real sockets on loopback.

use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Door, FrameSink, Link, LinkEvent, LinkOptions, ListenerOptions, Outbox, run_listener, run_writer};
use crate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};
use crate::codec::{self, Envelope, Frame, Keyring, NameHash, frame, handshake};
use crate::net::{Counters, listen};

fn name() -> NameHash {
    NameHash::of("store")
}

fn keyring(secrets: &str) -> Keyring {
    Keyring::parse(secrets.as_bytes()).expect("it holds secrets")
}

fn envelope(incarnation: u128) -> Envelope {
    Envelope {
        cluster: ClusterId(1),
        generation: Generation(0),
        from: NodeId::new(Slot(0), Incarnation(10)),
        to: NodeId::new(Slot(1), Incarnation(incarnation)),
    }
}

/// An address for tests that free a port and want it back: one that nothing else on the machine takes ports of.
const QUIET_HOST: &str = if cfg!(target_os = "linux") { "127.0.0.2" } else { "127.0.0.1" };

/// Fails a test that waits for something that never comes, long after it would have come.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never came")
}

/// A sink that passes on what it gets.
struct Collector {
    frames: UnboundedSender<Frame>,
    rejected: UnboundedSender<&'static str>,
}

impl FrameSink for Collector {
    fn handle_frame(&self, frame: Frame) {
        let _ = self.frames.send(frame);
    }

    fn handle_rejected(&self, reason: &'static str) {
        let _ = self.rejected.send(reason);
    }
}

/// A listener and what came out of it.
struct Receiver {
    secrets: watch::Sender<Arc<Keyring>>,
    address: SocketAddr,
    counters: Arc<Counters>,
    frames: UnboundedReceiver<Frame>,
    rejected: UnboundedReceiver<&'static str>,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Receiver {
    fn start(address: &str, options: ListenerOptions) -> Self {
        Self::start_with(address, options, Keyring::default())
    }

    fn with_secrets(secrets: &str) -> Self {
        Self::start_with("127.0.0.1:0", ListenerOptions::default(), keyring(secrets))
    }

    fn start_with(address: &str, options: ListenerOptions, keyring: Keyring) -> Self {
        let listener = listen::tcp("stream", address).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (frames_in, frames) = unbounded_channel();
        let (rejected_in, rejected) = unbounded_channel();
        let sink = Arc::new(Collector { frames: frames_in, rejected: rejected_in });
        let (counters, shutdown) = (Arc::new(Counters::default()), CancellationToken::new());
        let (secrets, door_secrets) = watch::channel(Arc::new(keyring));
        let door = Door { name: name(), slot: Slot(1), secrets: door_secrets };
        let running = run_listener(listener, door, sink, Arc::clone(&counters), options, shutdown.clone());
        Self { secrets, address, counters, frames, rejected, shutdown, task: tokio::spawn(running) }
    }

    fn on_free_port() -> Self {
        Self::start("127.0.0.1:0", ListenerOptions::default())
    }

    /// The numbers in the next frame.
    async fn numbers(&mut self) -> (Envelope, Vec<u64>) {
        let frame = in_time(self.frames.recv()).await.expect("the listener runs");
        let decode = |message: Result<&[u8], _>| codec::decode(message.expect("it is whole")).expect("it is a number");
        (frame.envelope, frame::messages(&frame.payload).map(decode).collect())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.task).await.expect("no panic").expect("the listener was sound");
    }
}

/// A writer and what it says of its connection.
struct Sender {
    secrets: watch::Sender<Arc<Keyring>>,
    outbox: Arc<Outbox>,
    counters: Arc<Counters>,
    events: UnboundedReceiver<LinkEvent>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Sender {
    fn start(address: SocketAddr) -> Self {
        Self::start_by_name(address.to_string())
    }

    fn start_by_name(address: String) -> Self {
        Self::start_with(address, Slot(1), Keyring::default())
    }

    fn with_secrets(address: SocketAddr, secrets: &str) -> Self {
        Self::start_with(address.to_string(), Slot(1), keyring(secrets))
    }

    fn start_with(address: String, slot: Slot, keyring: Keyring) -> Self {
        let (secrets, link_secrets) = watch::channel(Arc::new(keyring));
        let counters = Arc::new(Counters::default());
        let outbox = Arc::new(Outbox::new(64 << 20, Arc::clone(&counters)));
        let (events_in, events) = unbounded_channel();
        let link = Link {
            me: envelope(0).from.slot,
            slot,
            address,
            name: name(),
            secrets: link_secrets,
            outbox: Arc::clone(&outbox),
            counters: Arc::clone(&counters),
            on_event: Arc::new(move |event| {
                let _ = events_in.send(event);
            }),
            options: LinkOptions { pause_max: Duration::from_millis(20), ..LinkOptions::default() },
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run_writer(link, shutdown.clone()));
        Self { secrets, outbox, counters, events, shutdown, task }
    }

    fn push(&self, incarnation: u128, number: u64) {
        self.outbox.push(&envelope(incarnation), &number).expect("there is room");
    }

    async fn event(&mut self) -> LinkEvent {
        in_time(self.events.recv()).await.expect("the writer runs")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.task).await.expect("no panic");
    }
}

#[tokio::test]
async fn messages_arrive_in_order_under_the_envelope_they_were_pushed_with() {
    let mut receiver = Receiver::on_free_port();
    let sender = Sender::start_by_name(format!("localhost:{}", receiver.address.port()));
    for number in 0..1000 {
        sender.push(1 + u128::from(number >= 500), number);
    }
    let mut arrived = Vec::new();
    while arrived.len() < 1000 {
        let (stamp, numbers) = receiver.numbers().await;
        let expected = envelope(1 + u128::from(arrived.len() >= 500));
        assert_eq!(stamp, expected, "after {} messages", arrived.len());
        arrived.extend(numbers);
    }
    assert_eq!(arrived, (0..1000).collect::<Vec<_>>());
    assert!(sender.counters.frames_sent.value() < 100, "messages that wait together travel together");
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn what_is_larger_than_every_buffer_on_the_way_arrives_unchanged() {
    let mut receiver = Receiver::on_free_port();
    let sender = Sender::start(receiver.address);
    let sizes = [20_usize << 20, 3, 1 << 20, 7 << 20];
    for (nth, size) in sizes.into_iter().enumerate() {
        let value = vec![nth as u8; size];
        sender.outbox.push(&envelope(1), &value).expect("there is room");
    }
    let mut arrived = Vec::new();
    while arrived.len() < sizes.len() {
        let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
        for message in frame::messages(&frame.payload) {
            let value: Vec<u8> = codec::decode(message.expect("it is whole")).expect("it is a list of bytes");
            assert!(value.iter().all(|byte| usize::from(*byte) == arrived.len()));
            arrived.push(value.len());
        }
    }
    assert_eq!(arrived, sizes);
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_writer_finds_its_peer_again() {
    let mut receiver = Receiver::start(&format!("{QUIET_HOST}:0"), ListenerOptions::default());
    let address = receiver.address;
    let mut sender = Sender::start(address);
    sender.push(1, 1);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    assert_eq!(receiver.numbers().await, (envelope(1), vec![1]));

    receiver.stop().await;
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    sender.push(1, 2);
    sender.push(2, 3);
    assert_eq!(sender.outbox.discard(|envelope| envelope.to.incarnation == Incarnation(2)), 1);

    let mut receiver = Receiver::start(&address.to_string(), ListenerOptions::default());
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    assert_eq!(receiver.numbers().await, (envelope(2), vec![3]));
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn a_writer_writes_what_is_left_before_it_ends() {
    let mut receiver = Receiver::on_free_port();
    let mut sender = Sender::start(receiver.address);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.push(1, 7);
    sender.stop().await;
    assert_eq!(receiver.numbers().await, (envelope(1), vec![7]));
    receiver.stop().await;
}

#[tokio::test]
async fn what_a_broken_connection_had_taken_no_longer_fills_the_queue() {
    // A peer that accepts and never reads.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut sender = Sender::start(listener.local_addr().expect("it is bound"));
    let accepted = tokio::task::spawn_blocking(move || (listener.accept().expect("the writer dials"), listener));
    let ((stream, _), listener) = in_time(accepted).await.expect("no panic");
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.outbox.push(&envelope(1), &vec![0_u8; 30 << 20]).expect("there is room");
    // Some of it has come, so all of it was taken from the queue.
    let mut stream = stream;
    let read = tokio::task::spawn_blocking(move || stream.read(&mut [0; 1]).map(|bytes| (bytes, stream)));
    let (bytes, stream) = in_time(read).await.expect("no panic").expect("something came");
    assert_eq!((bytes, sender.outbox.bytes() > 0), (1, true));
    drop((stream, listener));
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!((sender.outbox.bytes(), sender.counters.messages_lost.value()), (0, 1));
    sender.stop().await;
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let mut receiver = Receiver::on_free_port();
    let sender = Sender::start(receiver.address);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);

    let address = receiver.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stranger = std::net::TcpStream::connect(address).expect("it listens");
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is read");
        // Ends when the other side closes, politely or not.
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        answer
    });
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_magic"));
    assert!(in_time(answer).await.expect("no panic").is_empty());
    assert_eq!(receiver.counters.rejections().into_iter().collect::<Vec<_>>(), [("bad_magic", 1)]);

    sender.push(1, 2);
    assert_eq!(receiver.numbers().await.1, [2]);
    sender.stop().await;
    receiver.stop().await;
}

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
async fn half_a_frame_and_then_silence_is_cut_off() {
    let short = Duration::from_millis(20);
    let options = ListenerOptions { half_frame: short, ..ListenerOptions::default() };
    let mut receiver = Receiver::start("127.0.0.1:0", options);
    let payload = [1, 0, 0, 0, 7];
    let mut bytes = frame::seal(&envelope(1), name(), &payload).expect("it is small").to_vec();
    bytes.extend(payload);
    let whole = bytes.clone();
    bytes.extend_from_slice(&whole[..40]);
    let silent = send_and_fall_silent(receiver.address, bytes).await;
    assert_eq!(receiver.numbers().await.1, [7], "the frame before it counts");
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("half_frame"));

    let within_the_first = send_and_fall_silent(receiver.address, whole[..frame::HEADER_BYTES + 1].to_vec()).await;
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("half_frame"));
    drop((silent, within_the_first));
    receiver.stop().await;
}

#[tokio::test]
async fn a_connection_that_never_says_anything_is_cut_off() {
    let short = Duration::from_millis(20);
    let options = ListenerOptions { first_frame: short, ..ListenerOptions::default() };
    let mut receiver = Receiver::start("127.0.0.1:0", options);
    let silent = send_and_fall_silent(receiver.address, Vec::new()).await;
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("no_first_frame"));
    drop(silent);
    receiver.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed() {
    let options = ListenerOptions { connections_max: 1, ..ListenerOptions::default() };
    let mut receiver = Receiver::start("127.0.0.1:0", options);
    let sender = Sender::start(receiver.address);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);
    let address = receiver.address;
    let refused = tokio::task::spawn_blocking(move || {
        let mut further = std::net::TcpStream::connect(address).expect("it listens");
        further.read(&mut [0; 1]).unwrap_or(0)
    });
    assert_eq!(in_time(refused).await.expect("no panic"), 0, "it is closed without a word");
    assert_eq!(receiver.counters.connections_over_cap.value(), 1);
    sender.push(1, 2);
    assert_eq!(receiver.numbers().await.1, [2]);
    sender.stop().await;
    receiver.stop().await;
}

const OLD: &str = "the old secret, long enough";
const NEW: &str = "the new secret, long enough";

#[tokio::test]
async fn nodes_that_share_a_secret_talk() {
    let mut receiver = Receiver::with_secrets(OLD);
    let sender = Sender::with_secrets(receiver.address, OLD);
    for number in 0..100 {
        sender.push(1, number);
    }
    let mut arrived = Vec::new();
    while arrived.len() < 100 {
        arrived.extend(receiver.numbers().await.1);
    }
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
    let large = vec![7_u8; 20 << 20];
    sender.outbox.push(&envelope(1), &large).expect("there is room");
    let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
    let message = frame::messages(&frame.payload).next().expect("there is one").expect("it is whole");
    assert_eq!(codec::decode::<Vec<u8>>(message), Ok(large));
    sender.stop().await;
    receiver.stop().await;
}

#[tokio::test]
async fn without_the_secret_nothing_arrives_and_nothing_is_lost() {
    let mut receiver = Receiver::with_secrets(OLD);
    let sender = Sender::with_secrets(receiver.address, NEW);
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
    let plain = Sender::start(keyed.address);
    plain.push(1, 7);
    assert_eq!(in_time(keyed.rejected.recv()).await, Some("unauthenticated"));
    let mut open = Receiver::on_free_port();
    let sender = Sender::with_secrets(open.address, OLD);
    assert_eq!(in_time(open.rejected.recv()).await, Some("no_secret"));
    let lost = Sender::start_with(keyed.address.to_string(), Slot(2), keyring(OLD));
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
    let mut sender = Sender::with_secrets(receiver.address, OLD);
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
    let mut sender = Sender::with_secrets(receiver.address, OLD);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    receiver.secrets.send_replace(Arc::new(keyring(NEW)));
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("secret_removed"));
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!(in_time(receiver.rejected.recv()).await, Some("bad_code"), "it can't come back");
    sender.stop().await;
    receiver.stop().await;

    let receiver = Receiver::with_secrets(OLD);
    let mut sender = Sender::with_secrets(receiver.address, OLD);
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
    let mut sender = Sender::with_secrets(listener.local_addr().expect("it is bound"), OLD);
    let (mut stream, _) = in_time(listener.accept()).await.expect("the writer dials");
    in_time(super::proof::listen(&mut stream, &keyring(OLD), name(), Slot(1))).await.expect("it has the secret");
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.outbox.push(&envelope(1), &vec![0_u8; 30 << 20]).expect("there is room");
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
    let (header, code) = frame::seal_with(&mut session, &envelope(1), name(), &payload).expect("it is small");
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
    let mut receiver = Receiver::start_with("127.0.0.1:0", options, keyring(OLD));
    let mut strangers = Vec::new();
    for _ in 0..19 {
        strangers.push(send_and_fall_silent(receiver.address, b"jgs".to_vec()).await);
    }
    let sender = Sender::with_secrets(receiver.address, OLD);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);
    for _ in 0..19 {
        assert_eq!(in_time(receiver.rejected.recv()).await, Some("no_proof"));
    }
    // A second peer is one too many; it is told so by being closed, and the first one goes on.
    let mut second = Sender::with_secrets(receiver.address, OLD);
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
    let mut receiver = Receiver::start_with("127.0.0.1:0", options, keyring(OLD));
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(send_and_fall_silent(receiver.address, b"jgs".to_vec()).await);
    }
    for number in 0..5 {
        let sender = Sender::with_secrets(receiver.address, OLD);
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
