//! An HTTP client that sends whatever bytes it is given, and a gateway to send them to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jumpgate::gateway::{Gateway, GatewayOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::mock_core::MockCore;

/// Longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in 20 s")
}

/// A gateway over a mock core.
pub struct Served {
    pub core: Arc<MockCore>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Served {
    pub async fn start(options: GatewayOptions) -> Self {
        let core = MockCore::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(Gateway::serve(listener, core.clone(), options, shutdown.clone()));
        Self { core, address, shutdown, task }
    }

    pub async fn new() -> Self {
        Self::start(GatewayOptions::default()).await
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        Client { stream, buffer: Vec::new() }
    }

    /// One request on a connection of its own. `head` is `METHOD target` and header lines, without Host and length.
    pub async fn ask(&self, head: &str, body: &[u8]) -> Answer {
        self.connect().await.ask(head, body).await
    }

    /// One request without a body.
    pub async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target}"), b"").await
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, `""` where there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The kind of problem that this is, without the part that all have.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{self:?}");
        assert!(json["title"].is_string() && json["detail"].is_string(), "{self:?}");
        let kind = json["type"].as_str().expect("a problem has a type").to_owned();
        kind.strip_prefix("urn:jumpgate:problem:").expect("one of ours").to_owned()
    }
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
    }

    pub async fn ask(&mut self, head: &str, body: &[u8]) -> Answer {
        let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut request = format!("{first} HTTP/1.1\r\nHost: localhost\r\n");
        if !rest.is_empty() {
            request += rest;
            request += "\r\n";
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        self.send(&[request.as_bytes(), body].concat()).await;
        self.answer(first.starts_with("HEAD ")).await.expect("an answer")
    }

    /// The next answer; `None` where the connection ends first.
    pub async fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "the connection ended within an answer");
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("a head is text");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.into(), value.into()));
        let mut answer = Answer { status: status.expect("a status"), headers: headers.collect(), body: Vec::new() };
        let has_body = !is_head && !matches!(answer.status, 100..=199 | 204 | 304);
        let length = answer.header("content-length").parse().unwrap_or(0);
        if has_body {
            while self.buffer.len() < length {
                assert!(self.fill().await, "the connection ended within a body");
            }
            answer.body = self.buffer.drain(..length).collect();
        }
        Some(answer)
    }

    /// Waits for the connection to end without another byte.
    pub async fn ended(&mut self) {
        assert!(!self.fill().await, "there came {:?}", String::from_utf8_lossy(&self.buffer));
    }

    async fn fill(&mut self) -> bool {
        soon(self.stream.read_buf(&mut self.buffer)).await.is_ok_and(|bytes| bytes > 0)
    }
}
