//! What every request leaves behind: numbers, a request id, and a line in the log where it was slow or failed.
//!
//! This is the outermost service of a connection, so that it sees also what the checks in front of the routes refuse. The
//! time that it takes is that until the head of the answer, which for a value is the answer.
//!
//! A request may bring an id of its own in `X-Request-Id` (1 to 128 visible ASCII characters); otherwise it is given one.
//! The answer carries it, and so does the log. Keys, values, queries and headers are in no line: keys too may be secrets. At
//! the level `debug` the path is shown, which has the key in it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{Either, Ready, ready};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tracing::Level;
use warp::http::header::{HeaderName, HeaderValue};
use warp::http::{HeaderMap, Request};
use warp::reply::Response;

use super::cors::Grant;
use super::listen::Connection;
use crate::telemetry::traffic::{Route, Traffic, Verb, next_request_id};

/// The header that carries the id of a request.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A connection that is open; counted as such until this is dropped.
pub(super) struct Open(Arc<Traffic>);

impl Open {
    pub(super) fn new(traffic: &Arc<Traffic>) -> Self {
        traffic.connections.add();
        traffic.connections_accepted.add();
        Self(Arc::clone(traffic))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.remove();
    }
}

/// The service of one connection, watched.
pub(super) struct Observed<S> {
    connection: Arc<Connection>,
    peer: SocketAddr,
    inner: S,
}

impl<S> Observed<S> {
    pub(super) const fn new(connection: Arc<Connection>, peer: SocketAddr, inner: S) -> Self {
        Self { connection, peer, inner }
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for Observed<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Watched<Either<Ready<Result<Response, S::Error>>, S::Future>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let asked = Asked::new(&self.connection, self.peer, &mut request);
        let inner = match self.connection.shared.origins.preflight(&request) {
            Some(response) => Either::Left(ready(Ok(response))),
            None => Either::Right(self.inner.call(request)),
        };
        Watched { inner, asked }
    }
}

pin_project! {
    /// A request on its way.
    pub(super) struct Watched<F> {
        #[pin]
        inner: F,
        asked: Asked,
    }
}

impl<E, F: Future<Output = Result<Response, E>>> Future for Watched<F> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(context));
        if let Ok(response) = &mut result {
            this.asked.on_answer(response);
        }
        Poll::Ready(result)
    }
}

/// What is remembered of a request until it is answered. Dropped before that, its client has gone.
struct Asked {
    connection: Arc<Connection>,
    peer: SocketAddr,
    route: Route,
    verb: Verb,
    id: HeaderValue,
    /// The path, where the log wants to know.
    path: Option<String>,
    grant: Option<Grant>,
    begun: Instant,
    is_answered: bool,
}

impl Asked {
    fn new(connection: &Arc<Connection>, peer: SocketAddr, request: &mut Request<Incoming>) -> Self {
        let shared = &connection.shared;
        shared.options.traffic.on_request();
        let route = Route::of(request.uri().path());
        let id = given_id(request.headers()).unwrap_or_else(made_id);
        if route == Route::Admin {
            // It may be passed on to the leader, under the same id.
            request.headers_mut().insert(REQUEST_ID, id.clone());
        }
        let is_for_nodes = matches!(route, Route::Cluster | Route::Health);
        Self {
            peer,
            route,
            verb: Verb::of(request.method().as_str()),
            id,
            path: tracing::enabled!(Level::DEBUG).then(|| request.uri().path().to_owned()),
            grant: is_for_nodes.then(|| shared.origins.grant(request)).flatten(),
            begun: Instant::now(),
            is_answered: false,
            connection: Arc::clone(connection),
        }
    }

    fn on_answer(&mut self, response: &mut Response) {
        self.is_answered = true;
        let took = self.begun.elapsed();
        let status = response.status().as_u16();
        self.connection.shared.options.traffic.on_answer(self.route, self.verb, Some(status), took);
        if let Some(grant) = self.grant.take() {
            grant.insert_into(response);
        }
        self.maybe_log(status, took);
        response.headers_mut().insert(REQUEST_ID, self.id.clone());
    }

    fn maybe_log(&self, status: u16, took: Duration) {
        let shared = &self.connection.shared;
        // Operations take as long as data moves, and a viewer waits until every node sends. A node that isn't ready says
        // so with 503, which is no failure.
        let is_slow = took >= shared.options.slow_request && !matches!(self.route, Route::Admin | Route::Feed);
        let is_failed = status >= 500 && self.route != Route::Health;
        if is_slow {
            shared.options.traffic.slow_requests.add();
        }
        if !is_slow && !is_failed {
            return;
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Some(withheld) = shared.log_budget.allow(now_s) else { return };
        tracing::warn!(
            request_id = self.id.to_str().unwrap_or_default(),
            route = self.route.label(),
            method = self.verb.label(),
            status,
            duration_ms = took.as_millis() as u64,
            peer = %self.peer,
            path = self.path,
            withheld,
            "{}",
            if is_failed { "a request failed" } else { "a request was slow" }
        );
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.shared.options.traffic.on_answer(self.route, self.verb, None, self.begun.elapsed());
        }
    }
}

/// The id that a client gave, if it can be one.
fn given_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let is_sound = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    is_sound.then(|| id.clone())
}

fn made_id() -> HeaderValue {
    let id = next_request_id();
    let digits: [u8; 16] = std::array::from_fn(|nth| b"0123456789abcdef"[(id >> (60 - 4 * nth)) as usize & 15]);
    HeaderValue::from_bytes(&digits).expect("hexadecimal digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_over_only_where_it_can_stand_in_a_log() {
        let given = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).expect("a header value"));
            given_id(&headers).is_some()
        };
        assert!(given(b"a") && given(b"4bf92f35-77b3@host") && given(&[b'x'; 128]));
        assert!(!given(b"") && !given(b"two words") && !given("\u{fc}".as_bytes()) && !given(&[b'x'; 129]));
        assert_eq!(given_id(&HeaderMap::new()), None);
    }

    #[test]
    fn a_made_id_is_sixteen_digits() {
        let (one, other) = (made_id(), made_id());
        assert!(one.len() == 16 && one != other, "{one:?} {other:?}");
        assert!(one.as_bytes().iter().all(u8::is_ascii_hexdigit));
    }
}
