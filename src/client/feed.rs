//! The live feed over WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, LOCATION};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::address::{port_of, redirected};
use super::error::root_cause;
use super::exchange::root_of;
use super::tls::Socket;
use super::{CONNECT_TIMEOUT, ClientError, Failure, GatewayUrl, Inner};
use crate::api::json::{EventJson, ProblemJson};
use crate::base::limits;

/// Redirects that opening a feed follows.
const REDIRECTS_MAX: usize = 3;
/// How often the client asks a silent gateway whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A feed on which nothing came for so long, pongs included, is dead: three pings went unanswered.
const SILENCE_MAX: Duration = Duration::from_secs(16);
/// The largest message: one value in base64, its key written in escapes, and the rest.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(limits::VALUE_BYTES_MAX / 3 * 4 + limits::KEY_BYTES_MAX * 6 + 4096 < MESSAGE_BYTES_MAX);

/// The changes of a cluster as they happen. It never ends but with an error: [`ClientError::FeedEnded`] says that
/// watching again may help.
#[derive(Debug)]
pub struct Feed {
    socket: WebSocketStream<Socket>,
    url: String,
    pings: Interval,
    last_heard: Instant,
}

impl Feed {
    fn new(socket: WebSocketStream<Socket>, url: String) -> Self {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, url, pings, last_heard: Instant::now() }
    }

    /// The gateway that sends it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next event, waiting for it as long as it takes. Dropping the future before it is ready loses nothing.
    ///
    /// # Errors
    /// Where the feed ended, or its gateway has gone silent; [`ClientError::Unexpected`] where it sent what is no event.
    pub async fn next(&mut self) -> Result<EventJson, ClientError> {
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    self.last_heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => return self.event(text.as_str()),
                        Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                            return Err(self.ended(frame.reason.to_string()));
                        }
                        Some(Ok(Message::Close(_))) | None => return Err(self.ended("it was closed".to_owned())),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(self.ended(root_cause(&error))),
                    }
                }
                _ = self.pings.tick() => {
                    if self.last_heard.elapsed() > SILENCE_MAX {
                        return Err(self.ended("the gateway has gone silent".to_owned()));
                    }
                    if let Err(error) = self.socket.send(Message::Ping(Bytes::new())).await {
                        return Err(self.ended(root_cause(&error)));
                    }
                }
            }
        }
    }

    fn event(&self, text: &str) -> Result<EventJson, ClientError> {
        serde_json::from_str(text).map_err(|error| ClientError::Unexpected {
            url: self.url.clone(),
            reason: format!("a message of the feed is not as agreed: {error}"),
        })
    }

    fn ended(&self, reason: String) -> ClientError {
        ClientError::FeedEnded { url: self.url.clone(), reason }
    }
}

/// Why a feed was not opened.
enum Refusal {
    Redirect(String),
    Failure(Failure),
}

impl Inner {
    /// Opens the feed of `gateway`, following its redirects. Gives back who opened it in the end.
    pub(super) async fn open_feed(
        &self,
        gateway: &GatewayUrl,
        target: &str,
        deadline: Instant,
    ) -> Result<(Feed, Uri), Failure> {
        let mut uri = gateway.uri(target).map_err(Failure::Final)?;
        for _ in 0..=REDIRECTS_MAX {
            let url = root_of(&uri);
            match timeout_at(deadline, self.open_feed_at(&uri)).await {
                Ok(Ok(socket)) => return Ok((Feed::new(socket, url), uri)),
                Ok(Err(Refusal::Redirect(location))) => {
                    uri = redirected(&uri, &location)
                        .map_err(|reason| Failure::Final(ClientError::Unexpected { url, reason }))?;
                }
                Ok(Err(Refusal::Failure(failure))) => return Err(failure),
                Err(_) => {
                    let reason = "silent until the deadline".to_owned();
                    return Err(Failure::Definite(ClientError::NoAnswer { url, reason }));
                }
            }
        }
        let reason = format!("more than {REDIRECTS_MAX} redirects: the leader is changing");
        Err(Failure::Definite(ClientError::NoAnswer { url: root_of(&uri), reason }))
    }

    async fn open_feed_at(&self, uri: &Uri) -> Result<WebSocketStream<Socket>, Refusal> {
        let url = root_of(uri);
        let definite = |error| Refusal::Failure(Failure::Definite(error));
        let stream = self
            .connect(uri)
            .await
            .map_err(|reason| definite(ClientError::Unreachable { urls: url.clone(), reason }))?;
        let mut request = uri
            .to_string()
            .replacen("http", "ws", 1)
            .into_client_request()
            .map_err(|error| definite(ClientError::BadUrl { url: url.clone(), reason: root_cause(&error) }))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        // Frames are as large as messages may be: the library would refuse a large value by default.
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(SocketError::Http(response)) => {
                let status = response.status();
                if let (307 | 308, Some(location)) = (status.as_u16(), response.headers().get(LOCATION)) {
                    return Err(Refusal::Redirect(String::from_utf8_lossy(location.as_bytes()).into_owned()));
                }
                let problem =
                    response.body().as_deref().and_then(|body| serde_json::from_slice::<ProblemJson>(body).ok());
                let error = match problem {
                    Some(problem) => ClientError::Refused { url, problem: Box::new(problem) },
                    None => {
                        ClientError::Unexpected { url, reason: format!("HTTP status {status} to a WebSocket request") }
                    }
                };
                let again = matches!(status.as_u16(), 429 | 502..=504);
                Err(Refusal::Failure(if again { Failure::Definite(error) } else { Failure::Final(error) }))
            }
            Err(error) => Err(definite(ClientError::NoAnswer { url, reason: root_cause(&error) })),
        }
    }

    /// A connection to the URI's host and port.
    async fn connect(&self, uri: &Uri) -> Result<Socket, String> {
        let authority = uri.authority().ok_or("the URL has no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let connecting = async {
            let stream = TcpStream::connect((host, port_of(uri))).await?;
            stream.set_nodelay(true)?;
            self.trust.secure(uri, stream).await
        };
        let connected = timeout(CONNECT_TIMEOUT, connecting).await;
        connected.map_err(|_| format!("no answer within {CONNECT_TIMEOUT:?}"))?.map_err(|error| root_cause(&error))
    }
}
