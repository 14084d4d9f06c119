//! What every node answers itself, whoever leads: the dashboard, the cluster as it sees it, metrics, and health checks. Also
//! the answer to paths that lead nowhere.

use std::sync::LazyLock;
use std::time::Duration;

use warp::http::Method;
use warp::reply::Response;

use super::compress;
use super::dashboard;
use super::kv::key_below;
use super::problem::Problem;
use super::routes::{Call, Reply, Shared, json, options};
use crate::access::Role;
use crate::api::{ClusterStatus, TrafficStatus};
use crate::telemetry::traffic::LATENCY_BOUNDS_US;

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// Where this interface is described for programs.
const OPENAPI: &str = "/openapi.json";

/// Where it is shown who holds which partition.
const MAP: &str = "/v1/cluster/map";

/// Below it is told where keys live.
const LOCATE: &str = "/v1/locate/";

/// How long the core may take to describe itself; it has everything at hand.
pub(super) const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers one request.
pub(super) async fn handle(shared: &Shared, call: &Call) -> Reply {
    let path = call.path();
    if path.starts_with(LOCATE) {
        return locate(shared, call);
    }
    if !matches!(path, "/" | "/v1/cluster" | MAP | "/metrics" | "/healthz" | "/readyz" | "/leaderz" | OPENAPI) {
        return Err(Problem::no_such_path());
    }
    match call.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    match path {
        "/" => dashboard::page(&shared.origins),
        "/v1/cluster" => match tokio::time::timeout(STATUS_TIMEOUT, shared.core.status()).await {
            Ok(status) => json(&with_traffic(shared, status)),
            Err(_) => Err(Problem::not_ready("this node did not say in time how it is")),
        },
        MAP => json(&shared.core.partition_map()),
        "/metrics" => match tokio::time::timeout(STATUS_TIMEOUT, shared.options.metrics.text()).await {
            Ok(text) => Ok(compress::answer(PROMETHEUS_TEXT, text)),
            Err(_) => Err(Problem::not_ready("this node did not say in time what it has counted")),
        },
        OPENAPI => Ok(openapi()),
        "/healthz" => verdict(shared.core.health().alive, "this node makes no progress"),
        "/readyz" => verdict(shared.core.health().ready, "this node can't serve yet"),
        _ => verdict(shared.core.health().leader, "this node doesn't lead, or has no quorum, or is still taking over"),
    }
}

/// The status, with what clients ask of this node's gateway. Of the other nodes only they know that themselves.
fn with_traffic(shared: &Shared, mut status: ClusterStatus) -> ClusterStatus {
    let traffic = &shared.options.traffic;
    let myself = status.nodes.iter_mut().find(|node| node.name == status.node);
    if let Some(myself) = myself {
        let [reads, writes] = [false, true].map(|writes| traffic.data_latencies(writes));
        myself.traffic = Some(TrafficStatus {
            bounds_us: LATENCY_BOUNDS_US.to_vec(),
            reads: reads.counts.to_vec(),
            writes: writes.counts.to_vec(),
            failed: traffic.failed(),
            in_flight: traffic.in_flight(),
            connections: traffic.connections.value(),
            viewers: traffic.viewers.value(),
        });
    }
    status
}

/// Where a key lives, whether or not there is one.
fn locate(shared: &Shared, call: &Call) -> Reply {
    match call.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    let key = key_below(LOCATE, call.path(), shared.options.key_bytes_max)?;
    call.may_key(shared, Role::Read, key.as_bytes())?;
    let located = shared.core.locate(&key);
    located.map_or_else(|| Err(Problem::not_ready("this node knows no cluster yet")), |location| json(&location))
}

/// The answer to a health check.
fn verdict(is_so: bool, otherwise: &'static str) -> Reply {
    if is_so { Ok(compress::answer(TEXT, "ok\n")) } else { Err(Problem::not_ready(otherwise)) }
}

/// The interface as OpenAPI 3.1 describes it.
fn openapi() -> Response {
    static DESCRIPTION: LazyLock<String> =
        LazyLock::new(|| include_str!("openapi.json").replacen("VERSION", env!("CARGO_PKG_VERSION"), 1));
    compress::answer("application/json", DESCRIPTION.as_str())
}
