//! A viewer of the live feed: a blocking WebSocket.

use std::net::TcpStream;
use std::time::Duration;

use jumpgate::api::json::EventJson;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// Longer than any event takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// One viewer on the node whose gateway has a port of loopback.
pub struct Viewer {
    socket: WebSocket<TcpStream>,
}

impl Viewer {
    /// Opens the feed and waits until it is live. `None` where the node can't open it at the moment.
    pub fn open(port: u16, query: &str) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let (socket, _) = client(format!("ws://localhost:{port}/v1/feed{query}"), stream).ok()?;
        let mut viewer = Self { socket };
        let first = viewer.next();
        assert_eq!(first.kind, "live", "{first:?}");
        Some(viewer)
    }

    /// The next event.
    pub fn next(&mut self) -> EventJson {
        loop {
            match self.socket.read().expect("the feed goes on") {
                Message::Text(text) => return serde_json::from_str(&text).expect("an event"),
                Message::Ping(_) => self.socket.flush().expect("the pong leaves"),
                other => panic!("the feed said {other:?}"),
            }
        }
    }
}
