//! `/v1/admin/…`: what operators ask.
//!
//! | request | body | who answers |
//! |---|---|---|
//! | `POST /v1/admin/transfer` | `{"to":"n2"}`, or none | the leader |
//! | `POST /v1/admin/nodes/{node}/add`, `…/remove`, `…/drain` | none | the leader |
//! | `POST /v1/admin/init` | `{"without":["n3"]}` | whoever is asked |
//! | `POST /v1/admin/unsafe-recover` | none | whoever is asked |
//!
//! Each changes the cluster, so nothing is guessed: an unknown parameter or field is an error, because a misspelt
//! `dry_run` would otherwise be the real thing. A body must say that it is JSON; what an HTML form can send is refused, so
//! that a page of another origin can't operate a cluster through somebody's browser even where that sends no Origin.
//!
//! A node that doesn't lead sends the client to the leader (`redirect`, or where it couldn't tell the leader's gateway from
//! another by its certificate), or asks the leader's gateway itself. Where no
//! leader is known it says so at once: an operator wants to know that, not to wait for it.

use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use warp::http::Method;
use warp::http::header::CONTENT_TYPE;

use super::body::Body;
use super::local::STATUS_TIMEOUT;
use super::problem::Problem;
use super::relay::{must_redirect, relay};
use super::routes::{Call, GRACE, Reply, Shared, json, options};
use super::target::{Plus, percent_decode};
use crate::api::{AdminAction, AdminRequest, Error};

const ALLOWED: &str = "POST, OPTIONS";
const PARAMETERS: [&str; 2] = ["dry_run", "timeout"];

/// The largest body: the names of all nodes of the largest cluster take less.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Answers one request.
pub(super) async fn handle<S, B>(shared: &Shared, call: &Call, body: &mut Body<S>) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    let path = Path::of(call.path()).ok_or_else(Problem::no_such_path)?;
    match call.method {
        Method::POST => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    call.query().only(&PARAMETERS)?;
    let dry_run = call.query().switch("dry_run")?;
    let wait = call.timeout_or(shared.options.admin_timeout_default, &shared.options)?;
    refuse_forms(call)?;
    let (bytes, _charge) = body.read(&shared.options, &shared.body_bytes).await?;
    call.confirm(shared)?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(Problem::from(Error::ValueTooLarge {
            bytes: bytes.len() as u64,
            bytes_max: BODY_BYTES_MAX as u64,
        }));
    }
    if !bytes.is_empty() && !call.headers.contains_key(CONTENT_TYPE) {
        return Err(Problem::not_json());
    }
    let action = path.action(&bytes)?;
    refuse_strangers(shared, &action).await?;
    if is_for_the_leader(&action) && !shared.core.leadership().is_leader {
        if must_redirect(shared) {
            call.send_to_leader(shared)?;
        }
        call.redirect(shared)?;
        return relay(shared, call, bytes.0, wait, dry_run).await;
    }
    submit(shared, AdminRequest { action, dry_run }, wait).await
}

/// Hands it to the core and waits for what came of it.
async fn submit(shared: &Shared, request: AdminRequest, wait: Duration) -> Reply {
    let dry_run = request.dry_run;
    match timeout(wait + GRACE.min(wait), shared.core.admin(request)).await {
        Ok(Ok(report)) => json(&report),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let waited = humantime::format_duration(wait);
            Err(Problem::from(if dry_run {
                Error::DeadlineBefore(format!("this node did not say within {waited} what it would do"))
            } else {
                Error::OutcomeUnknown(format!("it was not done within {waited} and may still go on"))
            }))
        }
    }
}

/// What the path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Path {
    Transfer,
    Init,
    UnsafeRecover,
    Node { raw: String, verb: Verb },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
    Drain,
}

impl Path {
    fn of(path: &str) -> Option<Self> {
        let mut segments = path.strip_prefix("/v1/admin/")?.split('/');
        let found = match segments.next()? {
            "transfer" => Self::Transfer,
            "init" => Self::Init,
            "unsafe-recover" => Self::UnsafeRecover,
            "nodes" => {
                let raw = segments.next().filter(|raw| !raw.is_empty())?.to_owned();
                let verb = match segments.next()? {
                    "add" => Verb::Add,
                    "remove" => Verb::Remove,
                    "drain" => Verb::Drain,
                    _ => return None,
                };
                Self::Node { raw, verb }
            }
            _ => return None,
        };
        segments.next().is_none().then_some(found)
    }

    fn action(self, body: &[u8]) -> Result<AdminAction, Problem> {
        Ok(match self {
            Self::Transfer => AdminAction::Transfer { to: parse::<TransferBody>(body)?.to },
            Self::Init => {
                let without = parse::<InitBody>(body)?.without;
                if without.is_empty() {
                    let detail = "say which nodes will never come, as in {\"without\":[\"n3\"]}; where all of them \
                                  come, the cluster founds itself";
                    return Err(Problem::bad_request(detail));
                }
                AdminAction::InitForce { without }
            }
            Self::UnsafeRecover => {
                parse::<NoBody>(body)?;
                AdminAction::UnsafeRecover
            }
            Self::Node { raw, verb } => {
                parse::<NoBody>(body)?;
                let node = node_name(&raw)?;
                match verb {
                    Verb::Add => AdminAction::AddNode { node },
                    Verb::Remove => AdminAction::RemoveNode { node },
                    Verb::Drain => AdminAction::Drain { node },
                }
            }
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TransferBody {
    to: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InitBody {
    without: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoBody {}

/// A body as JSON; one that isn't there says nothing.
fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

fn node_name(raw: &str) -> Result<String, Problem> {
    let decoded = percent_decode(raw, Plus::Itself).map_err(|at| {
        Problem::bad_request(format!("the % at {at} of the node is not followed by two hexadecimal digits"))
    })?;
    String::from_utf8(decoded.into_owned()).map_err(|_| Problem::bad_request("the node's name is not UTF-8"))
}

/// A form of a page can set no header of its own, and its content types are three others. One without fields has no body
/// and names one of them all the same.
pub(super) fn refuse_forms(call: &Call) -> Result<(), Problem> {
    let mut lines = call.headers.get_all(CONTENT_TYPE).iter();
    let is_json = |value: &warp::http::HeaderValue| {
        let essence = value.to_str().ok().and_then(|text| text.split(';').next()).map(str::trim);
        essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
    };
    if lines.all(is_json) { Ok(()) } else { Err(Problem::not_json()) }
}

/// A name that is in no configuration is refused here, with those that are, whoever would have to act on it.
async fn refuse_strangers(shared: &Shared, action: &AdminAction) -> Result<(), Problem> {
    let named: Vec<&str> = match action {
        AdminAction::Transfer { to } => to.iter().map(String::as_str).collect(),
        AdminAction::AddNode { node } | AdminAction::RemoveNode { node } | AdminAction::Drain { node } => vec![node],
        AdminAction::InitForce { without } => without.iter().map(String::as_str).collect(),
        AdminAction::UnsafeRecover => Vec::new(),
    };
    if named.is_empty() {
        return Ok(());
    }
    let Ok(status) = timeout(STATUS_TIMEOUT, shared.core.status()).await else {
        return Err(Problem::not_ready("this node did not say in time which nodes there are"));
    };
    let configured: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    match named.into_iter().find(|name| !configured.contains(name)) {
        Some(stranger) => Err(Problem::bad_request(format!(
            "no node is called {stranger:?}; configured are {}",
            configured.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Whether the leader has to do it. The others are for times without a leader, and concern the process that is asked.
const fn is_for_the_leader(action: &AdminAction) -> bool {
    match action {
        AdminAction::Transfer { .. }
        | AdminAction::AddNode { .. }
        | AdminAction::RemoveNode { .. }
        | AdminAction::Drain { .. } => true,
        AdminAction::InitForce { .. } | AdminAction::UnsafeRecover => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_are_or_not_at_all() {
        let drain = Path::Node { raw: "n%31".to_owned(), verb: Verb::Drain };
        assert_eq!(Path::of("/v1/admin/nodes/n%31/drain"), Some(drain));
        assert_eq!(Path::of("/v1/admin/unsafe-recover"), Some(Path::UnsafeRecover));
        for stranger in [
            "/v1/admin",
            "/v1/admin/",
            "/v1/admin/nodes",
            "/v1/admin/nodes/n1",
            "/v1/admin/nodes//add",
            "/v1/admin/nodes/n1/add/",
            "/v1/admin/nodes/n1/kill",
            "/v1/admin/transfer/n1",
            "/v1/admin/Transfer",
        ] {
            assert_eq!(Path::of(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_field_that_means_nothing_is_refused() {
        let action = |path, body: &str| Path::of(path).and_then(|path| path.action(body.as_bytes()).ok());
        let transfer = |to: Option<&str>| Some(AdminAction::Transfer { to: to.map(str::to_owned) });
        assert_eq!(action("/v1/admin/transfer", ""), transfer(None));
        assert_eq!(action("/v1/admin/transfer", "{}"), transfer(None));
        assert_eq!(action("/v1/admin/transfer", "{\"to\":null}"), transfer(None));
        assert_eq!(action("/v1/admin/transfer", "{\"to\":\"n2\"}"), transfer(Some("n2")));
        let add = AdminAction::AddNode { node: "n1".to_owned() };
        assert_eq!(action("/v1/admin/nodes/n%31/add", "{}"), Some(add));
        for (path, body) in [
            ("/v1/admin/transfer", "{\"too\":\"n2\"}"),
            ("/v1/admin/transfer", "{\"to\":\"n2\",\"dry_run\":true}"),
            ("/v1/admin/transfer", "\"n2\""),
            ("/v1/admin/transfer", "{"),
            ("/v1/admin/nodes/n1/add", "{\"dry_run\":true}"),
            ("/v1/admin/nodes/n%zz/add", ""),
            ("/v1/admin/nodes/%ff/add", ""),
            ("/v1/admin/unsafe-recover", "{\"force\":true}"),
            ("/v1/admin/init", ""),
            ("/v1/admin/init", "{\"without\":[]}"),
            ("/v1/admin/init", "{\"without\":\"n3\"}"),
        ] {
            assert_eq!(action(path, body), None, "{path} {body}");
        }
    }
}
