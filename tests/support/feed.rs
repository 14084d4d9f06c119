//! A viewer of the live feed: a blocking WebSocket.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use jumpgate::api::json::EventJson;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

/// Longer than any event takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look at the socket takes where nothing comes.
const LOOK: Duration = Duration::from_millis(50);

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
        socket.get_ref().set_read_timeout(Some(LOOK)).expect("a socket takes a timeout");
        let mut viewer = Self { socket };
        let first = viewer.next();
        assert_eq!(first.kind, "live", "{first:?}");
        Some(viewer)
    }

    /// Opens the feed without waiting for anything; `None` where the node can't open it at the moment.
    pub fn resume(port: u16, query: &str) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let (socket, _) = client(format!("ws://localhost:{port}/v1/feed{query}"), stream).ok()?;
        socket.get_ref().set_read_timeout(Some(LOOK)).expect("a socket takes a timeout");
        Some(Self { socket })
    }

    /// The next event, if it comes at once; `Err` where the feed has ended.
    pub fn look(&mut self) -> Result<Option<EventJson>, String> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Some(serde_json::from_str(&text).expect("an event"))),
            Ok(Message::Close(frame)) => Err(format!("{frame:?}")),
            Ok(_) => Ok(None),
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The next event.
    pub fn next(&mut self) -> EventJson {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.poll() {
                return event;
            }
            assert!(Instant::now() < end, "no event came in {PATIENCE:?}");
        }
    }

    /// The next event, if it comes at once.
    pub fn poll(&mut self) -> Option<EventJson> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).expect("an event")),
            Ok(Message::Ping(_)) => {
                self.socket.flush().expect("the pong leaves");
                None
            }
            Ok(other) => panic!("the feed said {other:?}"),
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("the feed ended: {error}"),
        }
    }
}
