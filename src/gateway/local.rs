//! What every node answers itself, whoever leads: the cluster as it sees it, and health checks. Also the answer to paths
//! that lead nowhere.

use std::time::Duration;

use warp::http::Method;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use super::problem::Problem;
use super::routes::{Call, Reply, Shared, json, options};

const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// How long the core may take to describe itself; it has everything at hand.
pub(super) const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What `/` says: enough for somebody who met the port and wonders.
const WELCOME: &str = "jumpgate, a distributed in-memory key-value store\n\n\
    PUT, POST, GET, HEAD, DELETE  /v1/kv/{key}\n\
    POST  /v1/batch\n\
    PUT, GET, HEAD, DELETE  /v1/files/{path}  (GET /v1/files/{folder}/: its entries)\n\
    GET  /v1/kv?prefix=&limit=&cursor=&values=true\n\
    GET  /v1/feed?prefix=&since=&values=true  (WebSocket; /v1/feed/sse: server-sent events)\n\
    GET  /v1/cluster  /metrics  /healthz  /readyz  /leaderz\n\
    POST  /v1/admin/...  (what `jumpgate node`, `transfer`, `init` and `unsafe-recover` ask)\n";

/// Answers one request.
pub(super) async fn handle(shared: &Shared, call: &Call) -> Reply {
    let path = call.path();
    if !matches!(path, "/" | "/v1/cluster" | "/metrics" | "/healthz" | "/readyz" | "/leaderz") {
        return Err(Problem::no_such_path());
    }
    match call.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    match path {
        "/" => Ok(text(WELCOME)),
        "/v1/cluster" => match tokio::time::timeout(STATUS_TIMEOUT, shared.core.status()).await {
            Ok(status) => json(&status),
            Err(_) => Err(Problem::not_ready("this node did not say in time how it is")),
        },
        "/metrics" => match tokio::time::timeout(STATUS_TIMEOUT, shared.options.metrics.text()).await {
            Ok(text) => Ok(metrics(text)),
            Err(_) => Err(Problem::not_ready("this node did not say in time what it has counted")),
        },
        "/healthz" => verdict(shared.core.health().alive, "this node makes no progress"),
        "/readyz" => verdict(shared.core.health().ready, "this node can't serve yet"),
        _ => verdict(shared.core.health().leader, "this node doesn't lead, or has no quorum, or is still taking over"),
    }
}

/// The answer to a health check.
fn verdict(is_so: bool, otherwise: &'static str) -> Reply {
    if is_so { Ok(text("ok\n")) } else { Err(Problem::not_ready(otherwise)) }
}

fn metrics(text: String) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn text(text: &'static str) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
