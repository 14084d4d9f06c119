//! `/v1/feed`: every change, as it is committed, over a WebSocket.
//!
//! ```text
//! client: GET /v1/feed?prefix=&since=&values=   ─▶ subscribe, and wait until every node sends its changes here
//! client ◀─ 101                             from here on every change is sent here
//! client ◀─ what came after `since`, or {"type":"gap"} and a snapshot (`viewing`)
//! client ◀─ {"type":"live","cursor":…}
//! client ◀─ {"type":"put","key":…,"version":…,"cursor":…}   one message an event, of keys that begin with the prefix
//! client ◀─ close 1013 (too slow), 1001 (going away) or 1008 (its token isn't valid any more)
//! ```
//!
//! Each viewer has a place of its own in the feed; two viewers both get every event. What a viewer sends is ignored, but
//! it must answer pings. A viewer that reads too slowly is cut off, with a reason, and never slows a writer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use warp::http::Method;
use warp::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use warp::reply::Reply as _;
use warp::ws::{Message, WebSocket, Ws};

use super::guard;
use super::listen::Connection;
use super::problem::Problem;
use super::routes::{Call, Reply, options};
use super::viewing::{End, Viewing, Wish};
use crate::access::{Grant, Role};
use crate::api::Error;
use crate::api::json::EventJson;
use crate::port::FeedEnd;

/// Where it is served.
pub(super) const PATH: &str = "/v1/feed";

const ALLOWED: &str = "GET, OPTIONS";

/// Viewers have nothing to say but pongs and closes.
const INCOMING_BYTES_MAX: usize = 4 << 10;
/// Events that are written before they are flushed together.
const BATCH_EVENTS_MAX: usize = 64;
/// Bytes that are written before they are flushed together.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// How long a viewer may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Close codes (RFC 6455, section 7.4.1, and the IANA registry for the last one).
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;
const TRY_AGAIN_LATER: u16 = 1013;
/// What fits a control frame beside the code.
const REASON_BYTES_MAX: usize = 123;

/// Answers one request; where it is a WebSocket handshake, the viewer is served after the answer.
pub(super) async fn handle(connection: &Arc<Connection>, call: &Call, handshake: Option<Ws>) -> Reply {
    match call.method {
        Method::GET => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    let shared = &connection.shared;
    let wish = Wish::read(call.query(), None)?;
    call.may_below(shared, Role::Read, &wish.prefix)?;
    let wait = call.timeout(&shared.options)?;
    call.redirect(shared)?;
    let handshake = handshake.ok_or_else(Problem::upgrade_required)?;
    let subscription = timeout(wait, shared.core.subscribe())
        .await
        .map_err(|_| Error::DeadlineBefore("not every node has confirmed that it sends its changes".to_owned()))??;
    connection.on_upgrade();
    let connection = Arc::clone(connection);
    let grant = call.grant().clone();
    let answer = handshake.max_message_size(INCOMING_BYTES_MAX).max_frame_size(INCOMING_BYTES_MAX).on_upgrade(
        move |socket| async move {
            let viewing = Viewing::new(&connection.shared, subscription, wish);
            let viewer = Viewer { socket, viewing, grant };
            // The connection is held until here: its permit, and its place among those that a shutdown waits for.
            tokio::select! {
                () = viewer.serve(&connection) => {}
                () = connection.shared.abort.cancelled() => {}
            }
        },
    );
    let mut response = answer.into_response();
    // A page that offered subprotocols, to show its token, takes no answer that chooses none.
    if guard::subprotocols(&call.headers).any(|offered| offered == guard::SUBPROTOCOL) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(guard::SUBPROTOCOL));
    }
    Ok(response)
}

/// One viewer.
struct Viewer {
    socket: WebSocket,
    viewing: Viewing,
    grant: Grant,
}

/// A viewer whose socket is gone: there is nobody left to tell.
struct Gone;

impl From<warp::Error> for Gone {
    fn from(_: warp::Error) -> Self {
        Self
    }
}

impl Viewer {
    async fn serve(mut self, connection: &Connection) {
        if let Ok((code, reason)) = self.watch(connection).await {
            self.close(code, reason).await;
        }
    }

    /// Passes events on until the feed ends; gives the close code and the reason.
    async fn watch(&mut self, connection: &Connection) -> Result<(u16, String), Gone> {
        let interval = connection.shared.options.ping_interval;
        let mut pings = interval_at(Instant::now() + interval, interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (guard, grant) = (&connection.shared.options.guard, self.grant.clone());
        let mut revoked = std::pin::pin!(guard.revoked(&grant));
        loop {
            tokio::select! {
                event = self.viewing.next() => match event {
                    Ok(event) => {
                        if let Some(end) = self.on_event(event).await? {
                            return Ok(closing(&end));
                        }
                    }
                    Err(end) => return Ok(closing(&end)),
                },
                incoming = self.socket.next() => match incoming {
                    Some(Ok(message)) if !message.is_close() => heard = Instant::now(),
                    // The close's answer is written already and only has to leave.
                    Some(Ok(_)) => return Err(self.socket.flush().await.map_or_else(Gone::from, |()| Gone)),
                    _ => return Err(Gone),
                },
                now = pings.tick() => {
                    if now.saturating_duration_since(heard) > 2 * interval {
                        return Err(Gone);
                    }
                    self.socket.send(Message::ping("")).await?;
                }
                () = &mut revoked => return Ok(closing(&End::Revoked)),
                () = connection.shared.shutdown.cancelled() => return Ok(closing(&End::Feed(FeedEnd::Closed))),
            }
        }
    }

    /// Passes on one event and whatever else is there already, in one write.
    async fn on_event(&mut self, event: EventJson) -> Result<Option<End>, Gone> {
        let mut next = Some(Ok(event));
        let (mut events, mut bytes) = (0, 0);
        let mut end = None;
        while let Some(event) = next.take() {
            match event {
                Ok(event) => bytes += self.feed_json(&event).await?,
                Err(reason) => {
                    end = Some(reason);
                    break;
                }
            }
            events += 1;
            if events < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.viewing.next().now_or_never();
            }
        }
        if bytes > 0 {
            self.socket.flush().await?;
        }
        Ok(end)
    }

    /// Writes an event; gives the size of the message.
    async fn feed_json(&mut self, event: &EventJson) -> Result<usize, Gone> {
        let text = serde_json::to_string(event).expect("an event of strings and numbers is always JSON");
        let bytes = text.len();
        self.socket.feed(Message::text(text)).await?;
        Ok(bytes)
    }

    /// Says why, and waits a moment for the viewer to have read it.
    async fn close(mut self, code: u16, reason: String) {
        let farewell = async {
            if self.socket.send(Message::close_with(code, reason)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

fn closing(end: &End) -> (u16, String) {
    let code = match end {
        End::Feed(FeedEnd::TooSlow { .. } | FeedEnd::Interrupted) | End::Later(_) => TRY_AGAIN_LATER,
        End::Feed(FeedEnd::Closed) => GOING_AWAY,
        End::Revoked => POLICY_VIOLATION,
    };
    let mut reason = end.to_string();
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason.truncate(end.unwrap_or(0));
    (code, reason)
}
