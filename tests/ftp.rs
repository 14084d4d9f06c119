//! FTP over real sockets, command by command, on clusters in one process: that it shows the tree that HTTP shows, whichever
//! node is asked, and that nothing that a client sends gets it more than a reply.

#![cfg(feature = "ftp")]

#[path = "support/feed.rs"]
#[allow(dead_code, reason = "other tests ask for more")]
mod feed;
#[path = "support/http.rs"]
#[allow(dead_code, reason = "other tests ask for more")]
mod http;
#[path = "ftp/idle.rs"]
mod idle;
#[path = "ftp/limits.rs"]
mod limits;
#[path = "support/mock_core.rs"]
#[allow(dead_code, reason = "other tests ask for more")]
mod mock_core;
#[path = "support/scratch.rs"]
mod scratch;
#[path = "ftp/secured.rs"]
mod secured;

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use feed::Viewer;
use http::{Answer, Http};
use jumpgate::base::Slot;
use jumpgate::config::{Config, Ports, TimingConfig};
use jumpgate::files::CHUNK_BYTES;
use jumpgate::server::{Server, Sockets};
use scratch::Scratch;
use tokio::runtime::Runtime;

/// Longer than anything here takes on a machine that does ten other things; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster that lives as long as this value.
struct Cluster {
    servers: Vec<Server>,
    ports: Vec<Ports>,
    ftp: Vec<u16>,
    runtime: Runtime,
}

impl Cluster {
    fn start(nodes: usize, change: impl FnOnce(&mut Config)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let bind = |_| Sockets::bind_loopback(0).and_then(|sockets| sockets.with_ftp(0)).expect("free ports");
        let sockets: Vec<Sockets> = (0..nodes).map(bind).collect();
        let ports: Vec<Ports> = sockets.iter().map(|sockets| sockets.ports().expect("they are bound")).collect();
        let ftp = sockets.iter().map(|sockets| sockets.ftp_port().expect("it is bound")).collect();
        let mut config = Config::loopback("ftp", &ports);
        config.cluster.partitions = 64;
        // Generous, so that a machine that is busy with other tests causes no failover of its own.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(800)),
            lease: Some(Duration::from_millis(600)),
            down: Some(Duration::from_millis(700)),
        };
        change(&mut config);
        let servers = {
            let _inside = runtime.enter();
            let start = |(slot, sockets)| Server::start(&config, Slot(slot as u8), sockets, Arc::new(|_, _| {}));
            let started: Result<Vec<Server>, _> = sockets.into_iter().enumerate().map(start).collect();
            started.expect("they start")
        };
        let cluster = Self { servers, ports, ftp, runtime };
        for node in 0..if config.speaks_http() { nodes } else { 0 } {
            let mut client = Http::new(cluster.ports[node].gateway);
            let end = Instant::now() + PATIENCE;
            while !client.ask("GET /readyz", b"").is_ok_and(|answer| answer.status == 200) {
                assert!(Instant::now() < end, "node {node} isn't ready in {PATIENCE:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        cluster
    }

    fn http(&self, node: usize, head: &str, body: &[u8]) -> Answer {
        Http::new(self.ports[node].gateway).ask(head, body).expect("a node of this process answers")
    }

    /// Somebody who has logged in.
    fn ftp(&self, node: usize) -> Ftp {
        Ftp::log_in(self.ftp[node])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let servers = std::mem::take(&mut self.servers);
        self.runtime.block_on(async {
            futures_util::future::join_all(servers.into_iter().map(Server::stop)).await;
        });
    }
}

fn stream(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// A client that sends what it is told.
struct Ftp<S = TcpStream> {
    control: BufReader<S>,
}

impl Ftp {
    fn connect(port: u16) -> Self {
        let mut ftp = Self::new(stream(port));
        assert_eq!(ftp.reply().expect("a greeting").0, 220);
        ftp
    }

    /// Where everybody is let in.
    fn log_in(port: u16) -> Self {
        let mut ftp = Self::connect(port);
        assert_eq!(ftp.ask("USER anybody").0, 331);
        assert_eq!(ftp.ask("PASS anything").0, 230);
        ftp
    }
}

impl<S: Read + Write> Ftp<S> {
    fn new(stream: S) -> Self {
        Self { control: BufReader::new(stream) }
    }

    fn into_stream(self) -> S {
        self.control.into_inner()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.control.get_mut().write_all(bytes).expect("the connection is open");
    }

    /// The next reply: its code and all of its text.
    fn reply(&mut self) -> io::Result<(u16, String)> {
        let mut text = String::new();
        loop {
            let start = text.len();
            if self.control.read_line(&mut text)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = &text[start..];
            if line.len() >= 4 && line.as_bytes()[..3].iter().all(u8::is_ascii_digit) && line.as_bytes()[3] == b' ' {
                let code = line[..3].parse().map_err(io::Error::other)?;
                return Ok((code, text));
            }
        }
    }

    fn ask(&mut self, command: &str) -> (u16, String) {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply().unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Where a data connection is waited for.
    fn passive_port(&mut self) -> u16 {
        let (code, text) = self.ask("EPSV");
        assert_eq!(code, 229, "{text}");
        text.split('|').nth(3).and_then(|port| port.parse().ok()).expect("a port")
    }

    /// A data connection.
    fn passive(&mut self) -> TcpStream {
        stream(self.passive_port())
    }

    /// Sends `bytes` for a command; gives the code of what became of it.
    fn give(&mut self, command: &str, bytes: &[u8]) -> u16 {
        let data = self.passive();
        self.give_by(data, command, bytes)
    }

    fn give_by(&mut self, mut data: TcpStream, command: &str, bytes: &[u8]) -> u16 {
        let (code, text) = self.ask(command);
        if code != 150 {
            return code;
        }
        // Whoever is refused in the middle of it is told so on the other connection.
        let _ = data.write_all(bytes).and_then(|()| data.shutdown(Shutdown::Write));
        let (code, _) = self.reply().unwrap_or_else(|error| panic!("{command}: {error} after {text}"));
        code
    }

    /// What comes for a command, and the code of what became of it.
    fn take(&mut self, command: &str) -> (u16, Vec<u8>) {
        let data = self.passive();
        self.take_by(data, command)
    }

    fn take_by(&mut self, mut data: TcpStream, command: &str) -> (u16, Vec<u8>) {
        let (code, text) = self.ask(command);
        if code != 150 {
            return (code, Vec::new());
        }
        let mut bytes = Vec::new();
        let _ = data.read_to_end(&mut bytes);
        let (code, _) = self.reply().unwrap_or_else(|error| panic!("{command}: {error} after {text}"));
        (code, bytes)
    }

    fn lines(&mut self, command: &str) -> Vec<String> {
        let (code, bytes) = self.take(command);
        assert_eq!(code, 226, "{command}");
        String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(count).collect()
}

#[test]
fn ftp_and_http_show_one_tree_at_every_node() {
    let cluster = Cluster::start(3, |_| {});
    let (mut one, mut two) = (cluster.ftp(0), cluster.ftp(1));
    let whole = bytes(3 * CHUNK_BYTES + 5);
    assert_eq!(one.give("STOR docs/a.bin", &whole), 226);
    let answer = cluster.http(2, "GET /v1/files/docs/a.bin", b"");
    assert!(answer.status == 200 && answer.body == whole, "{} bytes", answer.body.len());
    assert_eq!(answer.header("etag"), format!("\"{}\"", blake3::hash(&whole).to_hex()));
    let put = cluster.http(1, "PUT /v1/files/docs/b.txt\r\nContent-Type: text/plain", b"by HTTP");
    assert_eq!(put.status, 201);
    assert_eq!(two.take("RETR docs/b.txt"), (226, b"by HTTP".to_vec()));

    assert_eq!(two.ask("CWD docs").0, 250);
    assert!(two.ask("PWD").1.contains("\"/docs\""));
    assert_eq!(two.lines("NLST"), ["a.bin", "b.txt"]);
    let list = two.lines("LIST");
    assert!(list.len() == 2 && list.iter().all(|line| line.starts_with("-rw")), "{list:?}");
    let facts = two.lines("MLSD");
    assert!(
        facts.iter().any(|line| line.starts_with("type=file;size=7;modify=") && line.ends_with(" b.txt")),
        "{facts:?}"
    );
    assert_eq!(two.lines("MLSD /"), ["type=dir;size=0;modify=19700101000000; docs"]);
    assert_eq!(two.ask("SIZE a.bin"), (213, format!("213 {}\r\n", whole.len())));
    let (code, time) = two.ask("MDTM a.bin");
    assert!(code == 213 && time.trim_end().len() == 18, "{time}");

    let at = CHUNK_BYTES - 3;
    assert_eq!(two.ask(&format!("REST {at}")).0, 350);
    let (code, rest) = two.take("RETR a.bin");
    assert!(code == 226 && rest == whole[at..], "{} bytes", rest.len());
    assert_eq!(two.give("APPE b.txt", b" and FTP"), 226);
    assert_eq!(two.give("APPE new.txt", b"made by it"), 226);
    assert_eq!(two.ask("REST 15").0, 350);
    assert_eq!(two.give("STOR b.txt", b", resumed"), 226);
    assert_eq!(two.take("RETR b.txt"), (226, b"by HTTP and FTP, resumed".to_vec()));
    assert_eq!(two.ask("REST 3").0, 350);
    assert_eq!(two.give("STOR b.txt", b"in the middle"), 550, "bytes in the middle are refused, not lost");
    assert_eq!(two.ask("REST 0").0, 350);

    assert_eq!(two.ask("RNFR b.txt").0, 350);
    assert_eq!(two.ask("RNTO /c.txt").0, 250);
    assert_eq!(cluster.http(0, "GET /v1/files/c.txt", b"").body, b"by HTTP and FTP, resumed");
    assert_eq!(cluster.http(0, "GET /v1/files/docs/b.txt", b"").status, 404);
    assert_eq!(two.ask("MKD made").0, 257);
    assert_eq!(two.ask("MKD made").0, 550);
    assert_eq!(cluster.http(0, "GET /v1/files/docs/made/", b"").status, 200);
    assert_eq!(two.ask("RMD /docs").0, 550, "it isn't empty");
    assert_eq!(two.ask("RMD made").0, 250);
    assert_eq!(two.ask("DELE a.bin").0, 250);
    assert_eq!(two.ask("DELE a.bin").0, 550);
    assert_eq!(two.ask("SIZE a.bin").0, 550);
    assert_eq!(two.take("RETR a.bin").0, 550);
    assert_eq!(two.ask("CDUP").0, 250);
    assert_eq!(two.ask("CWD nowhere").0, 550);
    assert_eq!(two.ask("QUIT").0, 221);
}

#[test]
fn commands_out_of_order_and_odd_names_get_a_reply_and_nothing_else() {
    let cluster = Cluster::start(1, |_| {});
    let mut stranger = Ftp::connect(cluster.ftp[0]);
    for command in ["STOR a", "DELE a", "LIST", "PASV", "MKD a", "RNTO a", "CWD /"] {
        assert_eq!(stranger.ask(command).0, 530, "{command} before a login");
    }
    assert_eq!(stranger.ask("PASS x").0, 503);
    let is_refusal = |code: u16| (400..600).contains(&code);
    let long = "k".repeat(2000);
    for command in [
        "RNTO a",
        "RETR a",
        "STOR a",
        "LIST",
        "REST -1",
        "REST x",
        "EPRT |1|127.0.0.1|9|",
        "PORT 127,0,0,1,0,9",
        "NONSENSE",
        "MKD",
        "DELE a\u{1}b",
        "MKD a\u{7f}",
        "SIZE a\tb",
        "MKD ..",
        "RMD /",
        "DELE /",
        &format!("MKD {long}"),
        "RNFR nothing",
    ] {
        // Each in a session of its own: one whose parameter can't be read is the last that is read.
        let (code, text) = cluster.ftp(0).ask(command);
        assert!(is_refusal(code), "{command:?}: {text}");
    }
    let mut ftp = cluster.ftp(0);
    for name in ["a\u{1}b", "a\tb", &long, "/"] {
        let code = ftp.give(&format!("STOR {name}"), b"x");
        assert!(is_refusal(code), "{name:?}: {code}");
    }
    // Bytes that are no text would be stored under another name.
    let mut data = ftp.passive();
    ftp.send(b"STOR a\xffb\r\n");
    let (mut code, _) = ftp.reply().expect("a reply");
    if code == 150 {
        let _ = data.shutdown(Shutdown::Write);
        code = ftp.reply().expect("a reply").0;
    }
    let _ = data.read(&mut [0; 1]);
    assert!(is_refusal(code), "{code}");
    assert_eq!(ftp.give("STOR ../../../up", b"x"), 226, "nothing is above the root");
    assert_eq!(ftp.lines("NLST /"), ["up"]);
    assert_eq!(ftp.ask("NOOP").0, 200, "the session goes on");
}

#[test]
fn the_feed_tells_of_what_is_done_over_ftp() {
    let cluster = Cluster::start(3, |_| {});
    let mut viewer = Viewer::open(cluster.ports[2].gateway, "?prefix=files/&values=true").expect("the feed is there");
    let mut ftp = cluster.ftp(0);
    assert_eq!(ftp.give("STOR docs/a.txt", b"hello"), 226);
    let event = viewer.next();
    assert_eq!((event.kind.as_str(), event.key.as_deref()), ("put", Some("files/docs/a.txt")), "{event:?}");
    assert_eq!(ftp.ask("RNFR docs/a.txt").0, 350);
    assert_eq!(ftp.ask("RNTO b.txt").0, 250);
    // Of two keys, either may come first.
    let mut events = [viewer.next(), viewer.next()].map(|event| (event.kind, event.key.unwrap_or_default()));
    events.sort();
    let expected = [("delete", "files/docs/a.txt"), ("put", "files/b.txt")];
    assert_eq!(events, expected.map(|(kind, key)| (kind.to_owned(), key.to_owned())));
}

#[test]
fn whoever_speaks_before_the_greeting_is_cut_off() {
    let cluster = Cluster::start(1, |_| {});
    assert_eq!(cluster.http(0, "PUT /v1/files/a", b"stays").status, 201);
    // What a page makes a browser send.
    let mut browser = TcpStream::connect(("127.0.0.1", cluster.ftp[0])).expect("it listens");
    browser.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let lines = b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nUSER a\r\nPASS a\r\nDELE a\r\n";
    browser.write_all(lines).expect("it is connected");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = browser.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert_eq!(cluster.http(0, "GET /v1/files/a", b"").body, b"stays");
}

#[test]
fn a_token_is_the_password() {
    let folder = Scratch::new();
    let tokens = folder.file("tokens");
    let line = |name: &str, role: &str, prefix: &str| {
        format!("{name} {role} blake3:{} {prefix}\n", blake3::hash(name.as_bytes()).to_hex())
    };
    std::fs::write(&tokens, line("reader", "read", "") + &line("app", "write", "app/")).expect("a file");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let cluster = Cluster::start(1, |config| config.security.tokens_file = Some(tokens));
    let login = |password: &str| {
        let mut ftp = Ftp::connect(cluster.ftp[0]);
        assert_eq!(ftp.ask("USER anybody").0, 331);
        let code = ftp.ask(&format!("PASS {password}")).0;
        (ftp, code)
    };
    assert_eq!(login("").1, 530);
    assert_eq!(login("wrong").1, 530);
    let (mut app, code) = login("app");
    assert_eq!(code, 230);
    assert_eq!(app.give("STOR app/a", b"x"), 226);
    assert_eq!(app.give("STOR b", b"x"), 550);
    assert_eq!(app.ask("MKD other").0, 550);
    assert_eq!(app.lines("NLST app"), ["a"]);
    assert_eq!(app.ask("CWD /app").0, 250);
    assert_eq!(app.lines("NLST"), ["a"]);
    assert_eq!(app.ask("SIZE a").0, 213);
    assert_eq!(app.ask("DELE /b").0, 550);
    assert_eq!(app.take("LIST /").0, 550, "there is more than it may see");
    let (mut reader, code) = login("reader");
    assert_eq!(code, 230);
    assert_eq!(reader.take("RETR app/a"), (226, b"x".to_vec()));
    assert_eq!(reader.give("STOR app/a", b"y"), 550);
    assert_eq!(reader.ask("DELE app/a").0, 550);
}

#[test]
fn without_a_leader_a_client_is_told_to_try_again() {
    let mut cluster = Cluster::start(3, |_| {});
    let mut ftp = cluster.ftp(0);
    assert_eq!(ftp.give("STOR a", b"before"), 226);
    let others = cluster.servers.drain(1..).collect::<Vec<_>>();
    cluster.runtime.block_on(async {
        futures_util::future::join_all(others.into_iter().map(Server::stop)).await;
    });
    // Each waits for a while before it gives up; they do so at once.
    let acts: [fn(&mut Ftp) -> u16; 6] = [
        |ftp| ftp.ask("MKD b").0,
        |ftp| ftp.give("STOR a", b"after"),
        |ftp| ftp.give("APPE unknown", b"after"),
        |ftp| ftp.ask("DELE a").0,
        |ftp| {
            let code = ftp.ask("RNFR a").0;
            if code == 350 { ftp.ask("RNTO c").0 } else { code }
        },
        |ftp| ftp.ask("RMD docs").0,
    ];
    let clients: Vec<Ftp> = acts.iter().map(|_| cluster.ftp(0)).collect();
    let run = |(act, mut client): (fn(&mut Ftp) -> u16, Ftp)| {
        std::thread::spawn(move || {
            let code = act(&mut client);
            (code, client.ask("NOOP").0)
        })
    };
    let running: Vec<_> = acts.into_iter().zip(clients).map(run).collect();
    for (nth, running) in running.into_iter().enumerate() {
        let (code, after) = running.join().expect("a reply");
        assert!(matches!(code, 450 | 451), "{nth}: {code}");
        assert_eq!(after, 200, "the session goes on");
    }
    assert_eq!(ftp.ask("NOOP").0, 200, "the session goes on");
}
