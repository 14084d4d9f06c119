//! `/v1/batch`: many operations in one request.
//!
//! The whole request is judged first: one operation that is malformed, or too large, refuses all of them, with its index,
//! and nothing is done. After that each has an outcome of its own, as if it had been asked alone; one that the client's token
//! doesn't allow is refused by itself.
//!
//! Operations on different keys go to the core together, up to [`OPS_AT_ONCE`] of them, and are executed side by side.
//! Those on one key are executed in their order, each once the one before it is answered:
//!
//! ```text
//! put a, get b, put a, delete c ─▶ first wave: put a, get b, delete c ─▶ second wave: put a
//! ```
//!
//! Where it isn't known whether a write happened it may still happen later, so nothing that comes after it on the same key
//! is begun.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use tokio::time::Instant;
use warp::http::Method;
use warp::http::header::CONTENT_TYPE;

use super::admin::refuse_forms;
use super::body::{Body, Most};
use super::kv::{TTL_MS_MAX, unexpected};
use super::problem::Problem;
use super::routes::{Call, GRACE, Reply, Shared, json, options, wait};
use crate::access::Role;
use crate::api::batch::{BatchJson, BatchOpJson, BatchOpKind, BatchResultJson, BatchResultsJson};
use crate::api::json::{from_base64, to_base64};
use crate::api::{
    Consistency, ContentType, Done, Error, Key, Match, Once, Operation, Outcome, Precondition, PutMode, Request,
    Response,
};
use crate::base::{Blob, Version, limits};

const ALLOWED: &str = "POST, OPTIONS";

/// Operations that are under way at once. What they read is in memory together.
const OPS_AT_ONCE: usize = 250;
/// A body may have so many times the bytes of the largest value: base64 takes a third more, and the rest is for keys. Where
/// values are small it may have [`limits::BATCH_BYTES_MIN`] all the same.
const BODY_VALUES: usize = 2;

/// One operation, judged.
struct Op {
    key: Key,
    /// Until it is begun.
    operation: Option<Operation>,
    once: Option<Once>,
    is_write: bool,
}

/// Answers one request.
pub(super) async fn handle<S, B>(shared: &Shared, call: &Call, body: &mut Body<S>) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    match call.method {
        Method::POST => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    let timeout = call.timeout(&shared.options)?;
    refuse_forms(call)?;
    if !call.headers.contains_key(CONTENT_TYPE) {
        return Err(Problem::not_json());
    }
    call.redirect(shared)?;
    let bytes_max = body_bytes_max(shared);
    let (bytes, _charge) = body.read_within(Most::Batch(bytes_max), &shared.options, &shared.body_bytes).await?;
    let batch: BatchJson =
        serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request(format!("the body: {error}")))?;
    drop(bytes);
    let ops = batch.ops.into_iter().enumerate();
    let ops = ops.map(|(index, op)| judge(shared, op).map_err(|problem| problem.at(index)));
    let ops: Vec<Op> = ops.collect::<Result<_, _>>()?;
    call.confirm(shared)?;
    let results = execute(shared, call, ops, timeout).await;
    json(&BatchResultsJson { results })
}

fn body_bytes_max(shared: &Shared) -> usize {
    shared.options.value_bytes_max.saturating_mul(BODY_VALUES).max(limits::BATCH_BYTES_MIN)
}

/// The operation that is asked for, if it can be one.
fn judge(shared: &Shared, op: BatchOpJson) -> Result<Op, Problem> {
    let BatchOpJson { op: kind, key, value, content_type, if_match, ttl_ms, idempotency_key } = op;
    let key_bytes_max = shared.options.key_bytes_max;
    if key.len() > key_bytes_max {
        return Err(crate::api::KeyError::TooLong { bytes: key.len(), bytes_max: key_bytes_max }.into());
    }
    let key = Key::new(key)?;
    let is_put = matches!(kind, BatchOpKind::Put | BatchOpKind::Create);
    let names = [("value", value.is_some()), ("content_type", content_type.is_some()), ("ttl_ms", ttl_ms.is_some())];
    if let Some((name, _)) = names.iter().find(|(_, is_there)| *is_there && !is_put) {
        return Err(Problem::bad_request(format!("{name} is for put and create")));
    }
    if if_match.is_some() && !matches!(kind, BatchOpKind::Put | BatchOpKind::Delete) {
        return Err(Problem::bad_request("if_match is for put and delete"));
    }
    let if_match = match if_match.map(|version| version.number()) {
        None => None,
        Some(Some(version)) => Some(Match::Versions(vec![Version(version)])),
        Some(None) => return Err(Problem::bad_request("if_match is neither a version nor an ETag")),
    };
    let precondition = Precondition { if_match, if_none_match: None };
    let for_waves = key.clone();
    let operation = match kind {
        BatchOpKind::Get => Operation::Get { key, consistency: Consistency::Linearizable },
        BatchOpKind::Delete => Operation::Delete { key, precondition },
        BatchOpKind::Put | BatchOpKind::Create => {
            let value = value.ok_or_else(|| Problem::bad_request("a put or create has a value, in base64"))?;
            let value = from_base64(&value).map_err(|reason| Problem::bad_request(format!("value is {reason}")))?;
            let bytes_max = shared.options.value_bytes_max;
            if value.len() > bytes_max {
                return Err(Error::ValueTooLarge { bytes: value.len() as u64, bytes_max: bytes_max as u64 }.into());
            }
            if ttl_ms.is_some_and(|ttl_ms| !(1..=TTL_MS_MAX).contains(&ttl_ms)) {
                return Err(Problem::bad_request(
                    "ttl_ms is from 1 to 100 years; leave it out to keep a value for ever",
                ));
            }
            let content_type = content_type.filter(|text| !text.is_empty());
            let content_type = content_type.map(|text| {
                ContentType::new(&text)
                    .ok_or_else(|| Problem::bad_request("content_type must be 1 to 255 visible ASCII characters"))
            });
            let mode = if kind == BatchOpKind::Create { PutMode::Create } else { PutMode::Upsert };
            let (value, content_type) = (Blob::from(value), content_type.transpose()?);
            Operation::Put { key, value, content_type, ttl_ms, mode, precondition }
        }
    };
    let is_write = kind.is_write();
    let once = match idempotency_key {
        Some(_) if !is_write => return Err(Problem::bad_request("idempotency_key is for writes")),
        Some(text) => {
            Some(Once::new(&text, &operation).ok_or_else(|| Problem::bad_idempotency_key("idempotency_key"))?)
        }
        None => None,
    };
    Ok(Op { key: for_waves, operation: Some(operation), once, is_write })
}

/// Does them all.
async fn execute(shared: &Shared, call: &Call, mut ops: Vec<Op>, timeout: Duration) -> Vec<BatchResultJson> {
    let begun = Instant::now();
    let ends = begun + timeout + GRACE.min(timeout);
    let mut results = vec![BatchResultJson::default(); ops.len()];
    let mut stopped: HashSet<Key> = HashSet::new();
    let mut room = body_bytes_max(shared);
    for wave in waves(&ops) {
        for part in wave.chunks(OPS_AT_ONCE) {
            let left = timeout.saturating_sub(begun.elapsed());
            let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            let mut begun_now = Vec::with_capacity(part.len());
            let mut requests = Vec::with_capacity(part.len());
            for &index in part {
                let op = &mut ops[index];
                if let Err(problem) = may(shared, call, op) {
                    results[index] = problem.into_result(op.is_write);
                } else if stopped.contains(&op.key) {
                    results[index] = Problem::from(after_unknown()).into_result(op.is_write);
                } else if !op.is_write && room == 0 {
                    results[index] = answer_full().into_result(false);
                } else {
                    let operation = op.operation.take().expect("each operation is in one wave");
                    begun_now.push(index);
                    requests.push(Request { operation, once: op.once, timeout_ms });
                }
            }
            for (index, answer) in begun_now.into_iter().zip(shared.core.submit_batch(requests)) {
                let op = &ops[index];
                let answer = wait(&*shared.core, answer, ends, timeout).await;
                if op.is_write && answer.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown) {
                    stopped.insert(op.key.clone());
                }
                results[index] = result(answer, op.is_write, &mut room);
            }
        }
    }
    results
}

/// Whether the client may do that: each operation is judged on its own, when its turn comes.
fn may(shared: &Shared, call: &Call, op: &Op) -> Result<(), Problem> {
    let needed = if op.is_write { Role::Write } else { Role::Read };
    call.may_key(shared, needed, op.key.as_bytes())?;
    call.confirm(shared)
}

/// The indices of operations that may go side by side: the first on each key, then the second, and so on.
fn waves(ops: &[Op]) -> Vec<Vec<usize>> {
    let mut seen: HashMap<&Key, usize> = HashMap::with_capacity(ops.len());
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let nth = seen.entry(&op.key).or_default();
        if waves.len() == *nth {
            waves.push(Vec::new());
        }
        waves[*nth].push(index);
        *nth += 1;
    }
    waves
}

fn after_unknown() -> Error {
    Error::DeadlineBefore("an operation before it, on the same key, may still happen".to_owned())
}

fn answer_full() -> Problem {
    Problem::batch_too_large("what was read before fills the answer; ask for this one in another batch")
}

/// What became of one operation. Values are shown as long as there is `room` for them.
fn result(answer: Result<Response, Error>, is_write: bool, room: &mut usize) -> BatchResultJson {
    let version = |version: Version| Some(version.0);
    match answer {
        Ok(Response::Written { version: stored, created, copies }) => BatchResultJson {
            status: if created { 201 } else { 204 },
            version: version(stored),
            copies: Some(copies),
            ..BatchResultJson::default()
        },
        Ok(Response::Deleted { copies, .. }) => {
            BatchResultJson { status: 204, copies: Some(copies), ..BatchResultJson::default() }
        }
        Ok(Response::Replayed { version: given, done, copies }) => BatchResultJson {
            status: if done == Done::Created { 201 } else { 204 },
            version: version(given).filter(|_| done != Done::Deleted),
            copies: Some(copies),
            replayed: true,
            ..BatchResultJson::default()
        },
        Ok(Response::Value(value)) if value.bytes.len() > *room => {
            *room = 0;
            answer_full().into_result(is_write)
        }
        Ok(Response::Value(value)) => {
            *room -= value.bytes.len();
            BatchResultJson {
                status: 200,
                version: version(value.version),
                value: Some(to_base64(&value.bytes)),
                content_type: value.content_type.map(|kept| kept.as_str().to_owned()),
                expires_in_ms: value.expires_in_ms,
                degraded: value.degraded,
                ..BatchResultJson::default()
            }
        }
        Ok(Response::NotFound) => Problem::no_such_key().into_result(is_write),
        Ok(Response::NotFoundDegraded) => Problem::no_such_key_degraded().into_result(is_write),
        Ok(other @ Response::Page(_)) => unexpected(&other).into_result(is_write),
        Err(error) => Problem::from(error).into_result(is_write),
    }
}
