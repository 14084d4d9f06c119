//! A bad network between the nodes of a cluster on one machine, without privileges.
//!
//! ```text
//!   n1 ──pulse──▶ relay n1→n2 ──▶ n2        each node's own cluster.toml has, in place of the others'
//!   n1 ──stream─▶ relay n1→n2 ══▶ n2        addresses, those of relays that only it is told of
//! ```
//!
//! Every ordered pair of nodes has a relay of its own for datagrams and one for connections, so each way can be cut or
//! slowed down alone. Clients talk to the gateways directly. All relays run in one thread of this process.
//!
//! What a cut is: datagrams vanish. A stream whose bytes can't get through stands still, and so does, after what a sender
//! may have in flight, one whose acknowledgements can't come back; both without a word to either end. When the way is open
//! again, the stream goes on at the moment when TCP would send again ([`weather::resumes_after`]), and one that was held
//! up for as long as the nodes let TCP wait is broken.
//!
//! What it leaves out: a dial through a cut way seems to succeed, as the relay accepts it, and then nothing passes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jumpgate::base::Rng;
use jumpgate::config::{Config, Ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::weather::{self, Cut, Weather};

/// Larger than any datagram of the pulse plane.
const DATAGRAM_BYTES: usize = 2048;
/// Delayed datagrams of one way at once; more are lost.
const DATAGRAMS_DELAYED_MAX: usize = 10_000;
/// Bytes that are taken off a stream at once.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of one stream that are under way at once; then its sender waits, as behind a full window.
const PIECES_MAX: usize = 64;
/// What TCP sends before the first acknowledgement: ten segments (RFC 6928).
const UNACKNOWLEDGED_BYTES: usize = 10 * 1460;
/// How long the nodes let TCP wait for an acknowledgement before the connection is dead.
const GIVES_UP_AFTER: Duration = Duration::from_secs(8);

/// What the way from one node to another is like at the moment.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    weather: Weather,
    cut: Cut,
}

/// What has become of the datagrams of all ways.
#[derive(Debug, Default)]
pub struct Datagrams {
    dealt_with: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
}

impl Datagrams {
    fn note(&self, copies: usize) {
        self.lost.fetch_add(u64::from(copies == 0), Ordering::Relaxed);
        self.doubled.fetch_add(u64::from(copies > 1), Ordering::Relaxed);
        self.dealt_with.fetch_add(1, Ordering::Release);
    }

    /// How many came to the relays; how many of them were lost or cut off, and how many doubled.
    pub fn counts(&self) -> (u64, u64, u64) {
        let dealt_with = self.dealt_with.load(Ordering::Acquire);
        (dealt_with, self.lost.load(Ordering::Relaxed), self.doubled.load(Ordering::Relaxed))
    }
}

/// All ways between the nodes of a cluster.
pub struct Relays {
    pub datagrams: Arc<Datagrams>,
    /// By sender, then by addressee; none from a node to itself.
    ways: Vec<Vec<Option<Way>>>,
    thread: Option<JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
}

struct Way {
    pulse_port: u16,
    stream_port: u16,
    state: watch::Sender<State>,
}

/// What one way's relays work with.
#[derive(Clone)]
struct Ends {
    to: Ports,
    state: watch::Receiver<State>,
    back: watch::Receiver<State>,
    datagrams: Arc<Datagrams>,
    rng: Rng,
}

impl Relays {
    /// Starts the relays between nodes at `ports`; all is well at first.
    ///
    /// # Panics
    /// Where the system has no sockets or threads left.
    pub fn start(ports: &[Ports], seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let nodes = ports.len();
        let mut rng = Rng::new(seed);
        let states: Vec<Vec<watch::Sender<State>>> =
            (0..nodes).map(|_| (0..nodes).map(|_| watch::Sender::new(State::default())).collect()).collect();
        let datagrams = Arc::new(Datagrams::default());
        let mut way = |from: usize, to: usize| {
            let (state, back) = (states[from][to].subscribe(), states[to][from].subscribe());
            let ends = Ends { to: ports[to], state, back, datagrams: Arc::clone(&datagrams), rng: rng.fork() };
            (from != to).then(|| runtime.block_on(Way::start(ends, states[from][to].clone())).expect("free ports"))
        };
        let ways = (0..nodes).map(|from| (0..nodes).map(|to| way(from, to)).collect()).collect();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("relays".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        Self { datagrams, ways, thread: Some(thread.expect("a thread")), stop: Some(stop) }
    }

    /// Puts the relays in the place of the others in what `node` reads.
    pub fn view(&self, node: usize, config: &mut Config) {
        for (other, entry) in config.nodes.iter_mut().enumerate() {
            if let Some(way) = &self.ways[node][other] {
                entry.pulse.port = way.pulse_port;
                entry.stream.port = way.stream_port;
            }
        }
    }

    fn each(&self, change: impl Fn(usize, usize, &mut State)) {
        for (from, row) in self.ways.iter().enumerate() {
            for (to, way) in row.iter().enumerate() {
                if let Some(way) = way {
                    way.state.send_modify(|state| change(from, to, state));
                }
            }
        }
    }

    /// Gives all ways this weather.
    pub fn set_weather(&self, weather: Weather) {
        self.each(|_, _, state| state.weather = weather);
    }

    /// Cuts these ways and no others.
    pub fn cut(&self, cuts: &[(usize, usize, Cut)]) {
        self.each(|from, to, state| {
            let found = cuts.iter().find(|(cut_from, cut_to, _)| (*cut_from, *cut_to) == (from, to));
            state.cut = found.map_or_else(Cut::default, |(_, _, cut)| *cut);
        });
    }

    /// Cuts nothing any more.
    pub fn heal(&self) {
        self.cut(&[]);
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Way {
    async fn start(ends: Ends, state: watch::Sender<State>) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (pulse, stream) = (UdpSocket::bind(any).await?, TcpListener::bind(any).await?);
        let (pulse_port, stream_port) = (pulse.local_addr()?.port(), stream.local_addr()?.port());
        tokio::spawn(relay_datagrams(Arc::new(pulse), ends.clone()));
        tokio::spawn(relay_connections(stream, ends));
        Ok(Self { pulse_port, stream_port, state })
    }
}

async fn relay_datagrams(socket: Arc<UdpSocket>, mut ends: Ends) {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, ends.to.pulse));
    let delayed = Arc::new(Semaphore::new(DATAGRAMS_DELAYED_MAX));
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        // An error is about a datagram that was sent earlier, to a node that isn't there.
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        let State { weather, cut } = *ends.state.borrow();
        let copies = if cut.pulse { Vec::new() } else { weather.datagram(&mut ends.rng) };
        ends.datagrams.note(copies.len());
        for late in copies {
            if late.is_zero() {
                let _ = socket.try_send_to(&buffer[..length], to);
            } else if let Ok(permit) = Arc::clone(&delayed).try_acquire_owned() {
                let (socket, bytes) = (Arc::clone(&socket), buffer[..length].to_vec());
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = socket.try_send_to(&bytes, to);
                    drop(permit);
                });
            }
        }
    }
}

async fn relay_connections(listener: TcpListener, mut ends: Ends) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ends = Ends { rng: ends.rng.fork(), ..ends.clone() };
                tokio::spawn(async move { relay_connection(stream, ends).await });
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A piece of a stream, and when it may arrive.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

/// Carries one connection until either end closes it.
async fn relay_connection(from: TcpStream, ends: Ends) -> Option<()> {
    // A handshake takes both ways.
    ends.clone().until_open(|state, back| !state.cut.stream && !back.cut.stream).await?;
    let to = TcpStream::connect((Ipv4Addr::LOCALHOST, ends.to.stream)).await.ok()?;
    from.set_nodelay(true).ok()?;
    to.set_nodelay(true).ok()?;
    let ((from_read, from_write), (mut to_read, to_write)) = (from.into_split(), to.into_split());
    let (pieces, taken) = mpsc::channel(PIECES_MAX);
    let closed_there = async {
        // Nothing comes this way but the end, and the end takes the way too.
        let mut byte = [0];
        let _ = to_read.read(&mut byte).await;
        ends.clone().until_open(|state, back| !state.cut.stream && !back.cut.stream).await
    };
    let giving = give_pieces(to_write, taken, ends.clone());
    let taking = async {
        take_pieces(from_read, pieces, ends.clone()).await;
        // What was taken is still on its way.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = closed_there => {}
        _ = giving => {}
        () = taking => {}
    }
    drop(from_write);
    Some(())
}

/// Takes bytes from the sender, and decides when each piece arrives: never before the one before it.
async fn take_pieces(mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>, mut ends: Ends) {
    let mut due = Instant::now();
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let weather = ends.state.borrow().weather;
        due = due.max(Instant::now() + weather.bytes(&mut ends.rng));
        if pieces.send(Piece { due, bytes: buffer[..length].to_vec() }).await.is_err() {
            return;
        }
    }
}

/// Gives the pieces to the addressee when they are due and the way is open; none where the connection is given up.
async fn give_pieces(mut to: OwnedWriteHalf, mut pieces: mpsc::Receiver<Piece>, mut ends: Ends) -> Option<()> {
    let mut unacknowledged = 0;
    while let Some(Piece { due, bytes }) = pieces.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let can_come_back = !ends.back.borrow().cut.stream;
        unacknowledged = if can_come_back { 0 } else { unacknowledged + bytes.len() };
        let may_pass = |state: &State, back: &State| {
            !state.cut.stream && (!back.cut.stream || unacknowledged <= UNACKNOWLEDGED_BYTES)
        };
        ends.until_passable(may_pass).await?;
        to.write_all(&bytes).await.ok()?;
    }
    // The end of a stream takes the way as its bytes do.
    ends.until_passable(|state, back| !state.cut.stream && !back.cut.stream).await
}

impl Ends {
    /// Waits until both ways are as `is_open` wants them; none where the relays end.
    async fn until_open(&mut self, is_open: impl Fn(&State, &State) -> bool) -> Option<()> {
        loop {
            if is_open(&self.state.borrow_and_update(), &self.back.borrow_and_update()) {
                return Some(());
            }
            tokio::select! {
                changed = self.state.changed() => changed.ok()?,
                changed = self.back.changed() => changed.ok()?,
            }
        }
    }

    /// The same for bytes of a stream, which go on only when TCP sends them again; none where it gives up before.
    async fn until_passable(&mut self, may_pass: impl Fn(&State, &State) -> bool) -> Option<()> {
        let held_at = Instant::now();
        while !may_pass(&self.state.borrow(), &self.back.borrow()) {
            tokio::time::timeout_at(held_at + GIVES_UP_AFTER, self.until_open(&may_pass)).await.ok()??;
            sleep_until(held_at + weather::resumes_after(held_at.elapsed())).await;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener as StdTcpListener, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};

    use super::*;

    /// Two nodes of which only the sockets are there, and the relays between them.
    struct Pair {
        pulse: StdUdpSocket,
        stream: StdTcpListener,
        relays: Relays,
    }

    impl Pair {
        fn new() -> Self {
            let pulse = StdUdpSocket::bind("127.0.0.1:0").expect("a port");
            let stream = StdTcpListener::bind("127.0.0.1:0").expect("a port");
            let port = |address: io::Result<SocketAddr>| address.expect("an address").port();
            let second = Ports { pulse: port(pulse.local_addr()), stream: port(stream.local_addr()), gateway: 0 };
            let first = Ports { pulse: 1, stream: 1, gateway: 1 };
            Self { pulse, stream, relays: Relays::start(&[first, second], 1) }
        }

        fn way(&self) -> &Way {
            self.relays.ways[0][1].as_ref().expect("it is a way to another node")
        }

        fn send(&self, datagram: &[u8]) {
            let to = (Ipv4Addr::LOCALHOST, self.way().pulse_port);
            let sender = StdUdpSocket::bind("127.0.0.1:0").expect("a port");
            sender.send_to(datagram, to).expect("it is sent");
        }

        /// Sends a datagram that is to vanish, and waits until it has.
        fn send_to_the_void(&self, datagram: &[u8]) {
            let (before, lost, _) = self.relays.datagrams.counts();
            self.send(datagram);
            while self.relays.datagrams.counts().0 == before {
                std::thread::yield_now();
            }
            assert_eq!(self.relays.datagrams.counts().1, lost + 1, "it was carried on");
        }

        fn receive(&self) -> Vec<u8> {
            let mut buffer = [0; 64];
            let length = self.pulse.recv(&mut buffer).expect("one came");
            buffer[..length].to_vec()
        }

        /// Both ends of a connection from the first to the second.
        fn connect(&self) -> (StdTcpStream, StdTcpStream) {
            let from = StdTcpStream::connect((Ipv4Addr::LOCALHOST, self.way().stream_port)).expect("it connects");
            (from, self.stream.accept().expect("it was carried on").0)
        }
    }

    fn read(stream: &mut StdTcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("so many come");
        bytes
    }

    #[test]
    fn what_is_sent_while_the_way_is_cut_never_comes() {
        let pair = Pair::new();
        pair.send(b"before");
        assert_eq!(pair.receive(), b"before");
        for cut in [Cut::PULSE, Cut::BOTH] {
            pair.relays.cut(&[(0, 1, cut)]);
            pair.send_to_the_void(b"meanwhile");
            pair.relays.heal();
            pair.send(b"after");
            assert_eq!(pair.receive(), b"after");
        }
        for other in [(0, 1, Cut::STREAM), (1, 0, Cut::BOTH)] {
            pair.relays.cut(&[other]);
            pair.send(b"another way");
            assert_eq!(pair.receive(), b"another way");
        }
    }

    #[test]
    fn a_doubled_datagram_comes_twice_and_a_lost_one_never() {
        let pair = Pair::new();
        pair.relays.set_weather(Weather { duplicate_percent: 100, ..Weather::default() });
        pair.send(b"twice");
        assert_eq!([pair.receive(), pair.receive()], [b"twice", b"twice"]);
        pair.relays.set_weather(Weather { loss_percent: 100, ..Weather::default() });
        pair.send_to_the_void(b"lost");
        pair.relays.set_weather(Weather::default());
        pair.send(b"after");
        assert_eq!(pair.receive(), b"after");
        assert_eq!(pair.relays.datagrams.counts(), (3, 1, 1));
    }

    #[test]
    fn a_stream_stands_still_while_its_way_is_cut_and_loses_nothing() {
        let pair = Pair::new();
        let (mut from, mut to) = pair.connect();
        from.write_all(b"one ").expect("it is open");
        assert_eq!(read(&mut to, 4), b"one ");
        pair.relays.cut(&[(0, 1, Cut::STREAM)]);
        from.write_all(b"two ").expect("nobody tells it");
        to.set_nonblocking(true).expect("a socket");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(to.read(&mut [0; 1]).expect_err("nothing comes").kind(), io::ErrorKind::WouldBlock);
        pair.relays.heal();
        to.set_nonblocking(false).expect("a socket");
        from.write_all(b"three").expect("it is open");
        assert_eq!(read(&mut to, 9), b"two three");
    }

    #[test]
    fn without_acknowledgements_a_stream_goes_on_for_one_window() {
        let pair = Pair::new();
        let (mut from, mut to) = pair.connect();
        pair.relays.cut(&[(1, 0, Cut::STREAM)]);
        from.write_all(&[7; 1000]).expect("it is open");
        assert_eq!(read(&mut to, 1000), [7; 1000]);
        from.write_all(&[8; 2 * UNACKNOWLEDGED_BYTES]).expect("nobody tells it");
        to.set_nonblocking(true).expect("a socket");
        std::thread::sleep(Duration::from_millis(100));
        let mut come = Vec::new();
        let end = to.read_to_end(&mut come).expect_err("it isn't closed");
        assert!(end.kind() == io::ErrorKind::WouldBlock && come.len() <= UNACKNOWLEDGED_BYTES, "{end}: {}", come.len());
        pair.relays.heal();
        to.set_nonblocking(false).expect("a socket");
        assert_eq!(read(&mut to, 2 * UNACKNOWLEDGED_BYTES - come.len()).len() + come.len(), 2 * UNACKNOWLEDGED_BYTES);
    }

    #[test]
    fn the_end_of_a_connection_is_carried_to_its_other_end() {
        let pair = Pair::new();
        let (mut from, mut to) = pair.connect();
        from.write_all(b"last").expect("it is open");
        drop(from);
        let mut all = Vec::new();
        to.read_to_end(&mut all).expect("it ends in order");
        assert_eq!(all, b"last");
        let (mut from, to) = pair.connect();
        drop(to);
        assert_eq!(from.read(&mut [0; 1]).expect("it ends in order"), 0);
    }
}
