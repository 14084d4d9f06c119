//! `/v1/kv/{key}`: one value.

use bytes::Buf;
use futures_util::Stream;
use warp::http::header::{
    ACCEPT_RANGES, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use warp::http::{HeaderMap, Method, StatusCode};
use warp::reply::Response;

use super::body::Body;
use super::conditional::{Selection, entity_tag, preconditions, selection};
use super::problem::Problem;
use super::routes::{Call, Reply, Shared, options};
use super::target::{Plus, percent_decode};
use crate::access::Role;
use crate::api::{self, Consistency, ContentType, Done, Key, KeyError, Once, Operation, Precondition, PutMode, Value};
use crate::base::Version;

const ALLOWED: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// Under which a write is executed once, however often it is sent.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The write had been done before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// On how many nodes a write is.
pub(super) const COPIES: HeaderName = HeaderName::from_static("jumpgate-copies");
/// Milliseconds until a value expires.
const EXPIRES_IN: HeaderName = HeaderName::from_static("jumpgate-expires-in");
/// The value was read from a copy that may be behind, as the request allowed.
const STALE: HeaderName = HeaderName::from_static("jumpgate-stale");
/// The value was read without a quorum.
pub(super) const DEGRADED: HeaderName = HeaderName::from_static("jumpgate-degraded");

/// What keeps a value from running as a page.
const SANDBOX: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");
/// Types that browsers only show.
const INERT: [&[u8]; 3] = [b"application/octet-stream", b"application/json", b"text/plain"];

pub(super) const TRUE: HeaderValue = HeaderValue::from_static("true");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A value's headers at most, so that they are allocated once.
const VALUE_HEADERS: usize = 8;

/// The longest time to live: a century, so that no sum of a clock and a time to live overflows.
pub(super) const TTL_MS_MAX: u64 = 100 * 366 * 24 * 60 * 60 * 1000;

/// Answers one request.
pub(super) async fn handle<S, B>(shared: &Shared, call: &Call, body: &mut Body<S>) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    match call.method {
        Method::GET | Method::HEAD => read(shared, call).await,
        Method::PUT => put(shared, call, body, PutMode::Upsert).await,
        Method::POST => put(shared, call, body, PutMode::Create).await,
        Method::DELETE => delete(shared, call).await,
        Method::OPTIONS => Ok(options(ALLOWED)),
        _ => Err(Problem::method_not_allowed(ALLOWED)),
    }
}

/// The key that a raw path names: everything after `/v1/kv/`, decoded once and otherwise untouched.
fn key_of(path: &str, key_bytes_max: usize) -> Result<Key, Problem> {
    key_below("/v1/kv/", path, key_bytes_max)
}

/// The key that a raw path names below `root`.
pub(super) fn key_below(root: &str, path: &str, key_bytes_max: usize) -> Result<Key, Problem> {
    let raw = path.strip_prefix(root).ok_or_else(Problem::no_such_path)?;
    let decoded = percent_decode(raw, Plus::Itself).map_err(|at| {
        Problem::bad_key(format!("the % at {at} of the key is not followed by two hexadecimal digits"))
    })?;
    if decoded.len() > key_bytes_max {
        return Err(KeyError::TooLong { bytes: decoded.len(), bytes_max: key_bytes_max }.into());
    }
    Ok(Key::new(&decoded)?)
}

async fn read(shared: &Shared, call: &Call) -> Reply {
    let key = key_of(call.path(), shared.options.key_bytes_max)?;
    call.may_key(shared, Role::Read, key.as_bytes())?;
    let consistency = match call.query().text("consistency")?.as_deref() {
        None | Some("linearizable") => Consistency::Linearizable,
        Some("stale") => Consistency::Stale,
        Some(other) => {
            return Err(Problem::bad_request(format!("consistency={other} is neither stale nor linearizable")));
        }
    };
    let timeout = call.timeout(&shared.options)?;
    let condition = preconditions(&call.headers)?;
    call.redirect(shared)?;
    let answer = shared.submit(Operation::Get { key, consistency }, timeout).await?;
    call.confirm(shared)?;
    match answer {
        api::Response::Value(value) => value_response(value, &call.method, &call.headers, &condition),
        api::Response::NotFound => Err(Problem::no_such_key()),
        api::Response::NotFoundDegraded => Err(Problem::no_such_key_degraded()),
        other => Err(unexpected(&other)),
    }
}

/// Whether a browser may take a value of this type for something that runs. A page among the values, opened by somebody,
/// would have the dashboard's origin, and so its token: it is given out in a sandbox.
fn may_run(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| matches!(byte, b';' | b' ')).next().unwrap_or_default();
    !INERT.iter().any(|inert| essence.eq_ignore_ascii_case(inert))
}

/// The headers of something that was stored by somebody as of type `kept`.
pub(super) fn insert_content_type(headers: &mut HeaderMap, kept: Option<&str>) {
    let content_type = kept.and_then(|kept| HeaderValue::from_str(kept).ok());
    if content_type.as_ref().is_some_and(may_run) {
        headers.insert(CONTENT_SECURITY_POLICY, SANDBOX);
    }
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(OCTETS));
    // The content type is what the writer said; a browser must not guess another one and run it.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A value as HTTP: whole, in part, or just the news that the client has it already.
fn value_response(value: Value, method: &Method, headers: &HeaderMap, condition: &Precondition) -> Reply {
    let current = Some(value.version);
    if condition.if_match.as_ref().is_some_and(|condition| !condition.matches(current)) {
        return Err(Problem::precondition_failed(value.version));
    }
    let is_known = condition.if_none_match.as_ref().is_some_and(|condition| condition.matches(current));
    // Ranges are defined for GET alone.
    let selection = if is_known || *method != Method::GET {
        Selection::Whole
    } else {
        selection(headers, value.version, value.bytes.len())
    };
    let bytes_total = value.bytes.len();
    let mut answer = HeaderMap::with_capacity(VALUE_HEADERS);
    let (status, body) = match selection {
        _ if is_known => (StatusCode::NOT_MODIFIED, None),
        Selection::Whole => (StatusCode::OK, Some(value.bytes.0)),
        Selection::Part(part) => {
            let range = format!("bytes {}-{}/{bytes_total}", part.start, part.end - 1);
            answer.insert(CONTENT_RANGE, HeaderValue::try_from(range).map_err(|_| Problem::internal())?);
            (StatusCode::PARTIAL_CONTENT, Some(value.bytes.0.slice(part)))
        }
        Selection::Outside => return Err(Problem::range_not_satisfiable(bytes_total as u64)),
    };
    answer.insert(ETAG, entity_tag(value.version));
    if body.is_some() {
        insert_content_type(&mut answer, value.content_type.as_ref().map(ContentType::as_str));
        answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Some(expires_in_ms) = value.expires_in_ms {
        answer.insert(EXPIRES_IN, HeaderValue::from(expires_in_ms));
    }
    if value.stale {
        answer.insert(STALE, TRUE);
    }
    if value.degraded {
        answer.insert(DEGRADED, TRUE);
    }
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    *response.headers_mut() = answer;
    Ok(response)
}

async fn put<S, B>(shared: &Shared, call: &Call, body: &mut Body<S>, mode: PutMode) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    let key = key_of(call.path(), shared.options.key_bytes_max)?;
    call.may_key(shared, Role::Write, key.as_bytes())?;
    let ttl_ms = match call.query().duration("ttl")? {
        None => None,
        Some(ttl) => match u64::try_from(ttl.as_millis()) {
            Ok(ttl_ms) if ttl_ms <= TTL_MS_MAX => Some(ttl_ms),
            _ => {
                return Err(Problem::bad_request(
                    "ttl is longer than 100 years; leave it out to keep a value for ever",
                ));
            }
        },
    };
    let timeout = call.timeout(&shared.options)?;
    let precondition = preconditions(&call.headers)?;
    let content_type = content_type_of(&call.headers)?;
    call.redirect(shared)?;
    let (value, _charge) = body.read(&shared.options, &shared.body_bytes).await?;
    call.confirm(shared)?;
    let operation = Operation::Put { key, value, content_type, ttl_ms, mode, precondition };
    let once = once_of(&call.headers, &operation)?;
    match shared.submit_once(operation, once, timeout).await? {
        api::Response::Written { version, created, copies } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
            Ok(written(status, Some(version), copies))
        }
        api::Response::Replayed { version, done, copies } => Ok(replayed(version, done, copies)),
        other => Err(unexpected(&other)),
    }
}

/// The content type to keep with the value; none where the request has none.
pub(super) fn content_type_of(headers: &HeaderMap) -> Result<Option<ContentType>, Problem> {
    match headers.get(CONTENT_TYPE) {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match text.to_str().ok().and_then(ContentType::new) {
            Some(content_type) => Ok(Some(content_type)),
            None => {
                Err(Problem::bad_request("Content-Type can't be kept: it must be 1 to 255 visible ASCII characters"))
            }
        },
    }
}

async fn delete(shared: &Shared, call: &Call) -> Reply {
    let key = key_of(call.path(), shared.options.key_bytes_max)?;
    call.may_key(shared, Role::Write, key.as_bytes())?;
    let timeout = call.timeout(&shared.options)?;
    let precondition = preconditions(&call.headers)?;
    call.redirect(shared)?;
    let operation = Operation::Delete { key, precondition };
    let once = once_of(&call.headers, &operation)?;
    match shared.submit_once(operation, once, timeout).await? {
        api::Response::Deleted { copies, .. } => Ok(written(StatusCode::NO_CONTENT, None, copies)),
        api::Response::Replayed { version, done, copies } => Ok(replayed(version, done, copies)),
        api::Response::NotFound => Err(Problem::no_such_key()),
        other => Err(unexpected(&other)),
    }
}

/// The answer to a write that is done. What is stored now has the entity tag, if anything is.
fn written(status: StatusCode, version: Option<Version>, copies: u8) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(2);
    if let Some(version) = version {
        headers.insert(ETAG, entity_tag(version));
    }
    headers.insert(COPIES, HeaderValue::from(u16::from(copies)));
    response
}

/// The answer to a write that had been done before: the same as then.
fn replayed(version: Version, done: Done, copies: u8) -> Response {
    let mut response = match done {
        Done::Created => written(StatusCode::CREATED, Some(version), copies),
        Done::Replaced => written(StatusCode::NO_CONTENT, Some(version), copies),
        Done::Deleted => written(StatusCode::NO_CONTENT, None, copies),
    };
    response.headers_mut().insert(REPLAYED, TRUE);
    response
}

/// The idempotency key of a request, for this operation.
fn once_of(headers: &HeaderMap, operation: &Operation) -> Result<Option<Once>, Problem> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let once = line.to_str().ok().filter(|_| lines.next().is_none()).and_then(|text| Once::new(text, operation));
    once.map(Some).ok_or_else(|| Problem::bad_idempotency_key("Idempotency-Key"))
}

/// An answer that doesn't fit the question: a bug, in the log and not in the client's hands.
pub(super) fn unexpected(response: &api::Response) -> Problem {
    tracing::error!(?response, "the core gave an answer that doesn't fit the request");
    Problem::internal()
}
