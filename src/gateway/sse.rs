//! `/v1/feed/sse`: the feed as server-sent events, for browsers and whatever else speaks plain HTTP.
//!
//! ```text
//! data: {"type":"put","key":…,"version":…,"cursor":…}
//! id: the cursor                     a browser that connects again sends it back as Last-Event-ID
//!
//! :                                  a comment, every 15 s while nothing else is said
//!
//! event: end                         the last event: why. The client resumes
//! data: {"type":"end","detail":…}
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use warp::http::Method;
use warp::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use warp::reply::Reply as _;
use warp::sse::Event;

use super::listen::{Connection, Streaming};
use super::problem::Problem;
use super::routes::{Call, Reply, options};
use super::viewing::{End, Viewing, Wish};
use crate::access::{Grant, Role};
use crate::api::Error;
use crate::api::json::EventJson;
use crate::port::FeedEnd;

/// Where it is served.
pub(super) const PATH: &str = "/v1/feed/sse";

const ALLOWED: &str = "GET, OPTIONS";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Events on their way to the socket.
const WAITING_MAX: usize = 16;
/// Proxies close what is silent for half a minute.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Answers one request.
pub(super) async fn handle(connection: &Arc<Connection>, call: &Call) -> Reply {
    match call.method {
        Method::GET => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    let shared = &connection.shared;
    let last = call.headers.get(LAST_EVENT_ID).map(|last| last.to_str().unwrap_or("not ASCII"));
    let wish = Wish::read(call.query(), last)?;
    call.may_below(shared, Role::Read, &wish.prefix)?;
    let wait = call.timeout(&shared.options)?;
    call.redirect(shared)?;
    let subscription = timeout(wait, shared.core.subscribe())
        .await
        .map_err(|_| Error::DeadlineBefore("not every node has confirmed that it sends its changes".to_owned()))??;
    // It lasts longer than any request: the time between two of them is no measure for it.
    let streaming = connection.on_stream();
    let viewing = Viewing::new(shared, subscription, wish);
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(serve(viewing, streaming, call.grant().clone(), sender));
    let events = stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    let keep_alive = warp::sse::keep_alive().interval(KEEP_ALIVE_EVERY);
    let mut response = warp::sse::reply(keep_alive.stream(events)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Passes events on until the feed ends or the viewer is gone. One that reads slowly holds this up, and nothing else.
async fn serve(mut viewing: Viewing, streaming: Streaming, grant: Grant, sender: mpsc::Sender<Event>) {
    let shared = &streaming.0.shared;
    let mut revoked = std::pin::pin!(shared.options.guard.revoked(&grant));
    loop {
        let next = tokio::select! {
            next = viewing.next() => next,
            () = &mut revoked => Err(End::Revoked),
            () = shared.shutdown.cancelled() => Err(End::Feed(FeedEnd::Closed)),
            () = sender.closed() => return,
        };
        let (event, is_last) = match next {
            Ok(event) => (event_of(&event), false),
            Err(end) => (event_of(&EventJson::notice("end", Some(end.to_string()))).event("end"), true),
        };
        let sent = tokio::select! {
            sent = sender.send(event) => sent,
            () = &mut revoked, if !is_last => return,
            () = shared.abort.cancelled() => return,
        };
        if sent.is_err() || is_last {
            return;
        }
    }
}

fn event_of(event: &EventJson) -> Event {
    let text = serde_json::to_string(event).expect("an event of strings and numbers is always JSON");
    let data = Event::default().data(text);
    match &event.cursor {
        Some(cursor) => data.id(cursor.as_str()),
        None => data,
    }
}
