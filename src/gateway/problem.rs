//! Failures as HTTP: RFC 9457 `application/problem+json`.
//!
//! A [`Problem`] is what every handler fails with. Its kind is a short name that never changes once published
//! (`urn:jumpgate:problem:NAME`); its detail is for people and may change. Whether it is shown with an `outcome` depends
//! on the request alone: writes have one, reads don't.

use std::borrow::Cow;

use warp::http::header::{
    ALLOW, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use warp::http::{HeaderMap, Method, StatusCode};
use warp::reply::Response;

use super::conditional::{entity_tag, tag_value};
use super::guard::Refused;
use super::kv::{DEGRADED, TRUE};
use crate::access::{Denied, Refusal};
use crate::api::batch::BatchResultJson;
use crate::api::json::ProblemJson;
use crate::api::{Error, KeyError, Outcome};
use crate::base::Version;
use crate::files::FileError;

/// One failure, ready to be shown to a client.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    outcome: Outcome,
    extra: Extra,
}

/// The one header that some failures carry besides the body.
#[derive(Debug)]
enum Extra {
    Nothing,
    /// What may be done here.
    Allow(&'static str),
    /// The version that stands, so that a client can decide whether to try again on top of it.
    Standing(Version),
    /// The tag of the file that stands.
    Tag(String),
    /// Where the leader answers: the redirect's only content that matters.
    Location(HeaderValue),
    /// The size of the value that a range was asked of.
    Size(u64),
    /// It may be tried again after so many seconds.
    RetryAfterSeconds(u32),
    /// How to say who one is.
    Challenge(&'static str),
    /// It was answered without a quorum.
    Degraded,
}

/// Long enough for a failover to end, short enough that a client with patience hardly notices.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The answer to a read of a key that doesn't exist. It is the one failure that is part of normal work (a cache miss), so
/// it is written once, here, and not serialised each time; a test compares it with what would be serialised.
const NO_SUCH_KEY: &str =
    r#"{"type":"urn:jumpgate:problem:not-found","title":"Not found","status":404,"detail":"there is no such key"}"#;

impl Problem {
    const fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: Cow<'static, str>,
        extra: Extra,
    ) -> Self {
        Self { status, name, title, detail, outcome: Outcome::Definite, extra }
    }

    /// The request is malformed; `detail` says where and what would be right.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "Bad request", detail.into(), Extra::Nothing)
    }

    /// The key of the path is no key.
    pub(super) fn bad_key(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-key", "Not a key", detail.into(), Extra::Nothing)
    }

    /// The path of a file or folder is none.
    pub(super) fn bad_path(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-path", "Not a path", detail.into(), Extra::Nothing)
    }

    /// The page that sends this request may not.
    pub(super) fn foreign_origin() -> Self {
        let detail = "a page of another origin may neither write nor watch here";
        Self::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail.into(), Extra::Nothing)
    }

    /// Nobody comes in so.
    pub(super) fn refused(refused: Refused) -> Self {
        let refusal = match refused {
            Refused::Token(refusal) => refusal,
            Refused::Throttled(left) => {
                let seconds = u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
                let detail =
                    "too many tokens that nobody has came from this address; they are not looked at for a while";
                let extra = Extra::RetryAfterSeconds(seconds);
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", "Throttled", detail.into(), extra);
            }
        };
        let challenge = match refusal {
            Refusal::Missing => r#"Bearer realm="jumpgate""#,
            Refusal::Unknown => r#"Bearer realm="jumpgate", error="invalid_token""#,
        };
        let (status, extra) = (StatusCode::UNAUTHORIZED, Extra::Challenge(challenge));
        Self::new(status, "unauthorized", "Unauthorized", refusal.to_string().into(), extra)
    }

    /// The token isn't enough for that.
    pub(super) fn forbidden(denied: Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", denied.to_string().into(), Extra::Nothing)
    }

    /// Nothing is stored under this key.
    pub(super) const fn no_such_key() -> Self {
        let detail = Cow::Borrowed("there is no such key");
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail, Extra::Nothing)
    }

    /// The survivors of a quorum know of nothing under this key.
    pub(super) fn no_such_key_degraded() -> Self {
        Self { extra: Extra::Degraded, ..Self::no_such_key() }
    }

    /// The path leads nowhere.
    pub(super) fn no_such_path() -> Self {
        let detail = "nothing is served under this path; values are under /v1/kv/";
        Self::new(StatusCode::NOT_FOUND, "no-such-path", "No such path", detail.into(), Extra::Nothing)
    }

    /// The path is right, the method is not.
    pub(super) fn method_not_allowed(allowed: &'static str) -> Self {
        let detail = Cow::Owned(format!("allowed here: {allowed}"));
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", "Method not allowed", detail, Extra::Allow(allowed))
    }

    /// An idempotency key, given as `what`, that is none.
    pub(super) fn bad_idempotency_key(what: &str) -> Self {
        Self::bad_request(format!("{what} is not one key of 1 to 255 visible ASCII characters without spaces"))
    }

    /// A batch that is too large, or its answer.
    pub(super) fn batch_too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "batch-too-large", "Batch too large", detail.into(), Extra::Nothing)
    }

    /// The same failure, of one operation of a batch.
    pub(super) fn at(self, index: usize) -> Self {
        Self { detail: format!("ops[{index}]: {}", self.detail).into(), ..self }
    }

    /// As the result of one operation of a batch.
    pub(super) fn into_result(self, is_write: bool) -> BatchResultJson {
        BatchResultJson {
            status: self.status.as_u16(),
            version: if let Extra::Standing(version) = self.extra { Some(version.0) } else { None },
            degraded: matches!(self.extra, Extra::Degraded),
            kind: Some(format!("urn:jumpgate:problem:{}", self.name)),
            detail: Some(self.detail.into_owned()),
            outcome: is_write.then(|| outcome_name(self.outcome).to_owned()),
            ..BatchResultJson::default()
        }
    }

    /// The body did not come in time.
    pub(super) fn body_too_slow() -> Self {
        let detail = "the body did not arrive in time".into();
        Self::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "Body too slow", detail, Extra::Nothing)
    }

    /// A precondition of a read does not hold.
    pub(super) fn precondition_failed(current: Version) -> Self {
        Self::from(Error::PreconditionFailed { current: Some(current) })
    }

    /// The range lies outside of the value.
    pub(super) fn range_not_satisfiable(bytes: u64) -> Self {
        let detail = Cow::Owned(format!("the value has {bytes} bytes; the range lies outside of it"));
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Self::new(status, "range-not-satisfiable", "Range not satisfiable", detail, Extra::Size(bytes))
    }

    /// The Host header names somebody else.
    pub(super) fn foreign_host(host: &str) -> Self {
        let detail = format!("this gateway does not answer to the name {host:?}; add it to `hosts` if it should");
        let status = StatusCode::MISDIRECTED_REQUEST;
        Self::new(status, "foreign-host", "Foreign host", detail.into(), Extra::Nothing)
    }

    /// The feed was asked for without a WebSocket handshake.
    pub(super) fn upgrade_required() -> Self {
        let detail = "the feed is a WebSocket: connect with ws:// and the headers of a version 13 handshake";
        let status = StatusCode::UPGRADE_REQUIRED;
        Self::new(status, "upgrade-required", "WebSocket required", detail.into(), Extra::Nothing)
    }

    /// The body isn't of a kind that is understood here.
    pub(super) fn not_json() -> Self {
        let detail = "this takes no body, or one with the header Content-Type: application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported-media-type", "Not JSON", detail.into(), Extra::Nothing)
    }

    /// The leader answers elsewhere (307: same method, same body).
    pub(super) fn elsewhere(location: HeaderValue) -> Self {
        let detail = "the leader answers at the address in Location".into();
        let status = StatusCode::TEMPORARY_REDIRECT;
        Self::new(status, "elsewhere", "The leader is elsewhere", detail, Extra::Location(location))
    }

    /// This node is not ready for what was asked of it.
    pub(super) fn not_ready(detail: &'static str) -> Self {
        let extra = Extra::RetryAfterSeconds(RETRY_AFTER_SECONDS);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", detail.into(), extra)
    }

    /// Broken internal state; what exactly is in the log and not for clients.
    pub(super) fn internal() -> Self {
        let detail = "the gateway failed; its log says why".into();
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "Internal error", detail, Extra::Nothing)
    }

    /// The answer to a request with `method` that failed so.
    pub(super) fn into_response(self, method: &Method) -> Response {
        let is_write = matches!(*method, Method::PUT | Method::POST | Method::DELETE | Method::PATCH);
        let body = if self.name == "not-found" && !is_write {
            NO_SUCH_KEY.into()
        } else {
            let outcome = is_write.then(|| outcome_name(self.outcome).to_owned());
            let problem = ProblemJson {
                kind: format!("urn:jumpgate:problem:{}", self.name),
                title: self.title.to_owned(),
                status: self.status.as_u16(),
                detail: self.detail.into_owned(),
                outcome,
            };
            serde_json::to_vec(&problem).expect("a problem of strings and numbers is always JSON").into()
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.extra.insert_into(headers);
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert("upgrade", HeaderValue::from_static("websocket"));
            headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        }
        response
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Definite => "definite",
        Outcome::Unknown => "unknown",
    }
}

impl Extra {
    fn insert_into(self, headers: &mut HeaderMap) {
        match self {
            Self::Nothing => {}
            Self::Allow(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Self::Standing(version) => {
                headers.insert(ETAG, entity_tag(version));
            }
            Self::Tag(etag) => {
                headers.insert(ETAG, tag_value(&etag));
            }
            Self::Location(location) => {
                headers.insert(LOCATION, location);
            }
            Self::Size(bytes) => {
                let range = HeaderValue::try_from(format!("bytes */{bytes}"));
                headers.insert(CONTENT_RANGE, range.expect("digits are a header value"));
            }
            Self::Degraded => {
                headers.insert(DEGRADED, TRUE);
            }
            Self::Challenge(challenge) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::RetryAfterSeconds(seconds) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let again = || Extra::RetryAfterSeconds(RETRY_AFTER_SECONDS);
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let (status, name, title, extra) = match &error {
            Error::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request", "Bad request", Extra::Nothing),
            Error::PreconditionFailed { current } => {
                let extra = current.map_or(Extra::Nothing, Extra::Standing);
                (StatusCode::PRECONDITION_FAILED, "precondition-failed", "Precondition failed", extra)
            }
            Error::Exists { current } => (StatusCode::CONFLICT, "exists", "The key exists", Extra::Standing(*current)),
            Error::ValueTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "value-too-large", "Value too large", Extra::Nothing)
            }
            Error::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "busy", "Busy", again()),
            Error::NoQuorum(_) => (unavailable, "no-quorum", "No quorum", again()),
            Error::Unavailable { .. } => (unavailable, "unavailable", "Partition unavailable", again()),
            Error::PartitionLost(_) => (unavailable, "partition-lost", "Partition lost", again()),
            Error::TooFewCopies { .. } => (unavailable, "too-few-copies", "Too few copies", again()),
            Error::MemoryFull { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "memory-full", "Memory full", Extra::Nothing)
            }
            Error::DeadlineBefore(_) => (unavailable, "deadline", "Not begun in time", again()),
            Error::OutcomeUnknown(_) => {
                (StatusCode::GATEWAY_TIMEOUT, "no-answer-in-time", "No answer in time", Extra::Nothing)
            }
            Error::IdempotencyMismatch => {
                let title = "Another request has this idempotency key";
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-mismatch", title, Extra::Nothing)
            }
            Error::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Not possible now", Extra::Nothing),
        };
        let outcome = error.outcome();
        let detail = match error {
            Error::BadRequest(detail) => detail,
            other => other.to_string(),
        };
        Self { outcome, ..Self::new(status, name, title, detail.into(), extra) }
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let detail = Cow::Owned(error.to_string());
        let conflict = StatusCode::CONFLICT;
        match error {
            FileError::Store(error) => error.into(),
            FileError::Path(_) => Self::bad_path(detail),
            FileError::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "no-such-file", "No such file", detail, Extra::Nothing)
            }
            FileError::Conflict(_) => Self::new(conflict, "conflict", "Not possible now", detail, Extra::Nothing),
            FileError::NotEmpty => Self::new(conflict, "not-empty", "Not empty", detail, Extra::Nothing),
            FileError::Foreign(_) => Self::new(conflict, "not-a-file", "Not a file", detail, Extra::Nothing),
            FileError::PreconditionFailed { etag } => {
                let extra = etag.map_or(Extra::Nothing, Extra::Tag);
                let status = StatusCode::PRECONDITION_FAILED;
                Self::new(status, "precondition-failed", "Precondition failed", detail, extra)
            }
            FileError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "file-too-large", "File too large", detail, Extra::Nothing)
            }
            FileError::Busy | FileError::Changed => {
                let extra = Extra::RetryAfterSeconds(RETRY_AFTER_SECONDS);
                let outcome = if error == FileError::Busy { Outcome::Definite } else { Outcome::Unknown };
                let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "file-busy", "File busy", detail, extra);
                Self { outcome, ..busy }
            }
            FileError::Unexpected => {
                tracing::error!("the core gave an answer that doesn't fit the request");
                Self { outcome: Outcome::Unknown, ..Self::internal() }
            }
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::bad_key(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PartitionId;

    #[test]
    fn the_answer_that_is_written_by_hand_is_what_would_be_serialised() {
        let problem = ProblemJson {
            kind: "urn:jumpgate:problem:not-found".to_owned(),
            title: "Not found".to_owned(),
            status: 404,
            detail: "there is no such key".to_owned(),
            outcome: None,
        };
        assert_eq!(serde_json::to_string(&problem).expect("strings are JSON"), NO_SUCH_KEY);
        let made = Problem::no_such_key();
        assert_eq!((made.title, &*made.detail), ("Not found", "there is no such key"));
    }

    #[test]
    fn every_error_of_the_core_has_its_status() {
        let cases = [
            (Error::BadRequest("x".into()), 400, false),
            (Error::PreconditionFailed { current: None }, 412, false),
            (Error::Exists { current: Version(3) }, 409, false),
            (Error::ValueTooLarge { bytes: 2, bytes_max: 1 }, 413, false),
            (Error::Busy("x".into()), 429, true),
            (Error::NoQuorum("x".into()), 503, true),
            (Error::Unavailable { partition: PartitionId(1), detail: "x".into() }, 503, true),
            (Error::PartitionLost(PartitionId(1)), 503, true),
            (Error::TooFewCopies { copies: 1, copies_min: 2 }, 503, true),
            (Error::MemoryFull { bytes_max: 1 }, 507, false),
            (Error::DeadlineBefore("x".into()), 503, true),
            (Error::OutcomeUnknown("x".into()), 504, false),
            (Error::Conflict("x".into()), 409, false),
            (Error::IdempotencyMismatch, 422, false),
        ];
        for (error, status, retry) in cases {
            let response = Problem::from(error.clone()).into_response(&Method::PUT);
            assert_eq!(response.status().as_u16(), status, "{error:?}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retry, "{error:?}");
        }
    }
}
