//! The warp filters, and what all handlers share.
//!
//! The order is the order of traffic: key-value routes first, then batches, the feed, what operators ask, and what this node
//! answers itself. Each route takes a [`Call`] apart and dispatches on path and method in plain code: a filter a method would cost more and
//! say less. A new family of paths is one more route before `local`, which answers 404 to whatever is left.
//!
//! The future of a request has room for the largest of all that its route may make, and is moved a few times before it rests.
//! So all routes but the first put theirs into a box: what they need is no burden to reading and writing values.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HeaderValue};
use warp::http::{HeaderMap, Method, StatusCode};
use warp::path::FullPath;
use warp::reply::Response;

use super::body::{Body, BodyBytes};
use super::cors::Origins;
use super::front::Hosts;
use super::listen::Connection;
use super::problem::Problem;
use super::target::Query;
use super::{GatewayOptions, admin, batch, compress, feed, files, kv, list, local, sse};
use crate::access::{Grant, Role};
use crate::api::{self, Error, Once, Operation};
use crate::base::FollowerMode;
use crate::port::{self, Answer, Core};
use crate::telemetry::traffic::LogBudget;

/// What all connections of a gateway share.
pub(super) struct Shared {
    pub(super) core: Arc<dyn Core>,
    pub(super) options: GatewayOptions,
    pub(super) hosts: Hosts,
    pub(super) origins: Origins,
    pub(super) log_budget: LogBudget,
    pub(super) body_bytes: BodyBytes,
    /// Finish what you are doing.
    pub(super) shutdown: CancellationToken,
    /// Stop whatever you are doing.
    pub(super) abort: CancellationToken,
}

/// One request without its body.
pub(super) struct Call {
    pub(super) method: Method,
    path: FullPath,
    query: String,
    /// Whether there is a query at all: `/x` and `/x?` are two targets, and a redirect repeats its target exactly.
    has_query: bool,
    pub(super) headers: HeaderMap,
    grant: Grant,
}

/// The answer of a handler.
pub(super) type Reply = Result<Response, Problem>;

/// The grace that an answer has beyond the request's deadline before the gateway stops waiting: the core answers on its
/// own at the deadline, and its answer says more than the gateway's.
pub(super) const GRACE: Duration = Duration::from_millis(250);

/// All routes, for one connection.
pub(super) fn routes(
    connection: &Arc<Connection>,
) -> impl Filter<Extract = (impl warp::Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let with_connection = {
        let connection = Arc::clone(connection);
        move || Arc::clone(&connection)
    };
    let (for_store, for_feed, for_sse) = (with_connection.clone(), with_connection.clone(), with_connection.clone());
    let (for_batch, for_local) = (with_connection.clone(), with_connection);

    let store = warp::path("v1").and(warp::path("kv")).and(call()).then(move |call: Call, mut body: Body<_>| {
        let connection = for_store();
        async move {
            let reply = store(&connection.shared, &call, &mut body).await;
            finish(&call, body, reply).await
        }
    });
    let batch = warp::path!("v1" / "batch").and(call()).then(move |call: Call, mut body: Body<_>| {
        let connection = for_batch();
        Box::pin(async move {
            let reply = batch::handle(&connection.shared, &call, &mut body).await;
            finish(&call, body, reply).await
        })
    });
    let feed = warp::path!("v1" / "feed").and(call()).and(handshake()).then(move |call: Call, body, handshake| {
        let connection = for_feed();
        Box::pin(async move {
            let reply = feed::handle(&connection, &call, handshake).await;
            finish(&call, body, reply).await
        })
    });
    let sse = warp::path!("v1" / "feed" / "sse").and(call()).then(move |call: Call, body| {
        let connection = for_sse();
        Box::pin(async move {
            let reply = sse::handle(&connection, &call).await;
            finish(&call, body, reply).await
        })
    });
    let files = files_route(Arc::clone(connection));
    let admin = admin_route(Arc::clone(connection));
    let local = call().then(move |call: Call, body| {
        let connection = for_local();
        Box::pin(async move {
            let reply = local::handle(&connection.shared, &call).await;
            finish(&call, body, reply).await
        })
    });
    let leaving = Arc::clone(&connection.shared.options.leaving);
    // Nothing above rejects but by mistake; a rejection's own words are for programmers, so they go to the log.
    let all =
        store.or(batch).unify().or(files).unify().or(feed).unify().or(sse).unify().or(admin).unify().or(local).unify();
    let answered = all.recover(async |rejection: warp::Rejection| {
        tracing::error!(?rejection, "a route rejected a request that it should have answered");
        Ok::<_, Infallible>(Problem::internal().into_response(&Method::GET))
    });
    answered.unify().map(move |response| closing_when(&leaving, response))
}

/// `/v1/files/{path}` and `/v1/files`.
fn files_route(
    connection: Arc<Connection>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    warp::path("v1").and(warp::path("files")).and(call()).then(move |call: Call, mut body: Body<_>| {
        let connection = Arc::clone(&connection);
        Box::pin(async move {
            let reply = files::handle(&connection.shared, &call, &mut body).await;
            finish(&call, body, reply).await
        })
    })
}

/// `/v1/admin/…`.
fn admin_route(
    connection: Arc<Connection>,
) -> impl Filter<Extract = (Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    warp::path("v1").and(warp::path("admin")).and(call()).then(move |call: Call, mut body: Body<_>| {
        let connection = Arc::clone(&connection);
        Box::pin(async move {
            let reply = admin::handle(&connection.shared, &call, &mut body).await;
            finish(&call, body, reply).await
        })
    })
}

/// The answer, and the end of its connection where the node is about to stop. (A handshake has said already what becomes
/// of its connection.)
fn closing_when(leaving: &AtomicBool, mut response: Response) -> Response {
    if leaving.load(Ordering::Relaxed) {
        response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    response
}

/// `/v1/kv/{key}` and `/v1/kv`.
async fn store<S, B>(shared: &Shared, call: &Call, body: &mut Body<S>) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    match call.path.as_str().strip_prefix("/v1/kv") {
        Some("") => list::handle(shared, call).await,
        _ => kv::handle(shared, call, body).await,
    }
}

/// Takes a request apart.
fn call() -> impl Filter<
    Extract = (Call, Body<impl Stream<Item = Result<impl Buf, warp::Error>> + Send + Unpin + 'static>),
    Error = warp::Rejection,
> + Clone {
    let query = warp::query::raw().map(Some).or(warp::any().map(|| None)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        // The front puts it there; a request that came another way is refused.
        .and(warp::ext::get::<Grant>())
        .and(warp::body::stream())
        .map(|method, path, query: Option<String>, headers, grant, stream| {
            let body = Body::new(stream, &headers);
            let has_query = query.is_some();
            (Call { method, path, query: query.unwrap_or_default(), has_query, headers, grant }, body)
        })
        .untuple_one()
}

/// The WebSocket handshake, if the request is one.
fn handshake() -> impl Filter<Extract = (Option<warp::ws::Ws>,), Error = Infallible> + Clone {
    warp::ws().map(Some).or(warp::any().map(|| None)).unify()
}

impl Call {
    /// The raw path.
    pub(super) fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The path and the query, exactly as they came.
    pub(super) fn target(&self) -> String {
        let mark = if self.has_query { "?" } else { "" };
        format!("{}{mark}{}", self.path(), self.query)
    }

    /// The parameters.
    pub(super) fn query(&self) -> Query<'_> {
        Query(&self.query)
    }

    /// Refuses where the client may not do to `key` what takes `needed`.
    pub(super) fn may_key(&self, shared: &Shared, needed: Role, key: &[u8]) -> Result<(), Problem> {
        shared.options.guard.require(self.grant.may_key(needed, key))
    }

    /// Refuses where the client may not do that to every key below `prefix`.
    pub(super) fn may_below(&self, shared: &Shared, needed: Role, prefix: &[u8]) -> Result<(), Problem> {
        shared.options.guard.require(self.grant.may_below(needed, prefix))
    }

    /// Refuses where the client's token isn't good any more, after something that took long.
    pub(super) fn confirm(&self, shared: &Shared) -> Result<(), Problem> {
        shared.options.guard.confirm(&self.grant)
    }

    /// What the client may do, for whoever serves it for longer than a request.
    pub(super) const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// How long the client waits: `?timeout=`, or the default.
    pub(super) fn timeout(&self, options: &GatewayOptions) -> Result<Duration, Problem> {
        self.timeout_or(options.timeout_default, options)
    }

    /// The same with another default.
    pub(super) fn timeout_or(&self, default: Duration, options: &GatewayOptions) -> Result<Duration, Problem> {
        Ok(self.query().duration("timeout")?.unwrap_or(default).min(options.timeout_max))
    }

    /// Refuses where the leader should be asked instead of this node, which then is a follower that redirects.
    ///
    /// Reads that find no leader are not refused: without a quorum every node answers them itself.
    pub(super) fn redirect(&self, shared: &Shared) -> Result<(), Problem> {
        let leadership = shared.core.leadership();
        if leadership.followers != FollowerMode::Redirect || leadership.is_leader {
            return Ok(());
        }
        let Some(leader_url) = leadership.leader_url else {
            let is_read = matches!(self.method, Method::GET | Method::HEAD) && !self.path().starts_with(feed::PATH);
            let no_leader = || Error::NoQuorum("this node sends clients to the leader and knows none".to_owned());
            return if is_read { Ok(()) } else { Err(no_leader().into()) };
        };
        Err(self.elsewhere(&leader_url))
    }

    /// Refuses where a leader is known: the client should ask it.
    pub(super) fn send_to_leader(&self, shared: &Shared) -> Result<(), Problem> {
        let leader_url = shared.core.leadership().leader_url;
        leader_url.map_or(Ok(()), |leader_url| Err(self.elsewhere(&leader_url)))
    }

    fn elsewhere(&self, leader_url: &str) -> Problem {
        let location = format!("{}{}", leader_url.trim_end_matches('/'), self.target());
        HeaderValue::try_from(location).map_or_else(|_| Problem::internal(), Problem::elsewhere)
    }
}

/// The answer as it is sent.
async fn finish<S, B>(call: &Call, body: Body<S>, reply: Reply) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    let response = reply.unwrap_or_else(|problem| problem.into_response(&call.method));
    let mut response = compress::for_client(&call.headers, response).await;
    if call.method == Method::HEAD {
        strip_body(&mut response);
    }
    body.let_go();
    response
}

/// The answer to HEAD: what GET would say, without the body. HTTP/1.1 would drop the body anyway; HTTP/2 would not.
fn strip_body(response: &mut Response) {
    use hyper::body::Body as _;
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|&length| length > 0) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        *response.body_mut() = Default::default();
    }
}

impl Shared {
    /// Hands an operation to the core and waits for the answer, at most for `timeout` and a grace.
    pub(super) async fn submit(&self, operation: Operation, timeout: Duration) -> Result<api::Response, Error> {
        self.submit_once(operation, None, timeout).await
    }

    /// The same with an idempotency key, where there is one.
    pub(super) async fn submit_once(
        &self,
        operation: Operation,
        once: Option<Once>,
        timeout: Duration,
    ) -> Result<api::Response, Error> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let ends = Instant::now() + timeout + GRACE.min(timeout);
        wait(&*self.core, self.core.submit(api::Request { operation, once, timeout_ms }), ends, timeout).await
    }
}

/// Waits for an answer of `core` until `ends`, which is a grace after what the asker said, `timeout`. Then it is asked once
/// more what it knows: what it never began is no unknown.
pub(super) async fn wait(
    core: &dyn Core,
    answer: Answer,
    ends: Instant,
    timeout: Duration,
) -> Result<api::Response, Error> {
    let mut later = match answer {
        Answer::Now(result) => return result,
        Answer::Later(receiver) => receiver,
    };
    if let Ok(result) = tokio::time::timeout_at(ends, &mut later).await {
        return result.unwrap_or_else(|_| Err(port::stopped()));
    }
    core.answer_overdue();
    later.try_recv().unwrap_or_else(|_| {
        let waited = humantime::format_duration(timeout);
        Err(Error::OutcomeUnknown(format!("no answer came within {waited}")))
    })
}

/// The answer to OPTIONS.
pub(super) fn options(allowed: &'static str) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An answer of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer can't be written as JSON");
        Problem::internal()
    })?;
    Ok(compress::answer("application/json", body))
}
