//! One request to one gateway, and what its answer means for the call.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, AsHeaderName, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::time::{Instant, timeout_at};

use super::address::redirected;
use super::error::root_cause;
use super::{ClientError, Failure, GatewayUrl, Inner};
use crate::api::{self, json::ProblemJson};
use crate::base::{Version, limits};

/// Redirects that one attempt follows: a leader may move on once or twice meanwhile, more is a loop.
const REDIRECTS_MAX: usize = 3;

/// The largest body of an answer that is accepted: a page of values in base64 whose every key is written in escapes.
const BODY_BYTES_MAX: usize = 64 << 20;

const _: () = assert!((limits::PAGE_BYTES_MAX + limits::VALUE_BYTES_MAX) / 3 * 4 < BODY_BYTES_MAX);
const _: () = assert!(limits::PAGE_BYTES_MAX * 6 < BODY_BYTES_MAX);

/// The kind of problem of a value that no node has any more: a 503, but not one that waiting would mend.
pub(super) const PROBLEM_LOST: &str = "urn:jumpgate:problem:partition-lost";

/// Whether a call may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// It changes nothing.
    Read,
    /// It may be made again only where it certainly did not happen.
    Write,
    /// It has an idempotency key, so it may be made again in any case; its failure still says whether it may have happened.
    OnceWrite,
}

/// A request to any gateway.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The path and the query, encoded.
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) safety: Safety,
}

impl Call {
    pub(super) const fn read(target: String) -> Self {
        Self { method: Method::GET, target, headers: Vec::new(), body: Bytes::new(), safety: Safety::Read }
    }

    /// The target, telling the gateway how long it may wait for a leader where it may have to: a little less than the
    /// client does, so that its own word, which says what happened, comes before the client hangs up.
    fn target_within(&self, limit: Duration) -> String {
        if !["/v1/kv", "/v1/batch", "/v1/admin"].iter().any(|waits| self.target.starts_with(waits)) {
            return self.target.clone();
        }
        let wait = limit - (limit / 10).min(Duration::from_millis(500));
        let separator = if self.target.contains('?') { '&' } else { '?' };
        format!("{}{separator}timeout={}ms", self.target, wait.as_millis().max(1))
    }

    /// What it means that a request was sent and nothing decisive came back.
    fn unanswered(&self, url: String, reason: String) -> Failure {
        match self.safety {
            Safety::Read => Failure::Definite(ClientError::NoAnswer { url, reason }),
            Safety::Write => Failure::Final(ClientError::OutcomeUnknown { url, reason }),
            Safety::OnceWrite => Failure::Unknown(ClientError::OutcomeUnknown { url, reason }),
        }
    }
}

/// The answer to a call.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Who answered, after redirects.
    pub(super) uri: Uri,
}

impl Reply {
    /// A header that is plain text.
    pub(super) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The version that the ETag names.
    pub(super) fn version(&self) -> Option<Version> {
        let tag = self.header(ETAG)?;
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').parse().ok().map(Version)
    }

    /// The problem document of a failure, where there is one.
    pub(super) fn problem(&self) -> Option<ProblemJson> {
        self.header(CONTENT_TYPE)?.starts_with("application/problem+json").then_some(())?;
        serde_json::from_slice(&self.body).ok()
    }

    /// The error of a status that says no.
    pub(super) fn refusal(&self) -> ClientError {
        match self.problem() {
            Some(problem) => ClientError::Refused { url: self.url(), problem: Box::new(problem) },
            None => self.unexpected(&format!("HTTP status {} without a problem document", self.status)),
        }
    }

    /// The error of an answer that makes no sense.
    pub(super) fn unexpected(&self, reason: &str) -> ClientError {
        ClientError::Unexpected { url: self.url(), reason: reason.to_owned() }
    }

    fn url(&self) -> String {
        root_of(&self.uri)
    }

    /// Whether this is the answer to `call`, or only to this attempt.
    fn judge(self, call: &Call) -> Result<Self, Failure> {
        let status = self.status;
        let temporary = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        if !temporary && !status.is_server_error() {
            return Ok(self);
        }
        let problem = self.problem();
        if problem.as_ref().is_some_and(|problem| problem.kind == PROBLEM_LOST) {
            return Ok(self);
        }
        let outcome = problem.as_ref().and_then(|problem| problem.outcome.as_deref());
        let gateway_gave_up = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
        match (call.safety, outcome) {
            (Safety::Read, _) if temporary || gateway_gave_up => Err(Failure::Definite(self.refusal())),
            (Safety::Read, _) => Ok(self),
            (_, Some("definite")) if temporary => Err(Failure::Definite(self.refusal())),
            (_, Some("definite")) => Ok(self),
            // Whoever limits the rate of requests has not begun this one.
            (_, None) if status == StatusCode::TOO_MANY_REQUESTS => Err(Failure::Definite(self.refusal())),
            _ => {
                let reason = problem.map_or_else(|| format!("HTTP status {status}"), reason_of);
                Err(call.unanswered(self.url(), reason))
            }
        }
    }
}

impl Inner {
    /// Sends `call` to `gateway`, follows its redirects and judges the answer; gives up at `until`.
    pub(super) async fn exchange(&self, gateway: &GatewayUrl, call: &Call, until: Instant) -> Result<Reply, Failure> {
        let limit = until.saturating_duration_since(Instant::now());
        let mut uri = gateway.uri(&call.target_within(limit)).map_err(Failure::Final)?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(call, &uri, until).await?;
            let redirects =
                matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if !redirects {
                return receive(call, uri, response, until).await?.judge(call);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            uri = redirected(&uri, location)
                .map_err(|reason| Failure::Final(ClientError::Unexpected { url: root_of(&uri), reason }))?;
        }
        let reason = format!("more than {REDIRECTS_MAX} redirects: the leader is changing");
        Err(Failure::Definite(ClientError::NoAnswer { url: root_of(&uri), reason }))
    }

    async fn send(&self, call: &Call, uri: &Uri, until: Instant) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.clone();
        for (name, value) in &call.headers {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let started = Instant::now();
        match timeout_at(until, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                Err(Failure::Definite(ClientError::Unreachable { urls: root_of(uri), reason: root_cause(&error) }))
            }
            Ok(Err(error)) => Err(call.unanswered(root_of(uri), root_cause(&error))),
            Err(_) => Err(call.unanswered(root_of(uri), silence(started))),
        }
    }
}

/// Reads the body of a response.
async fn receive(call: &Call, uri: Uri, response: Response<Incoming>, until: Instant) -> Result<Reply, Failure> {
    let started = Instant::now();
    let (head, body) = response.into_parts();
    match timeout_at(until, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes(), uri }),
        Ok(Err(error)) => Err(call.unanswered(root_of(&uri), root_cause(error.as_ref()))),
        Err(_) => Err(call.unanswered(root_of(&uri), silence(started))),
    }
}

/// Why an outcome is unknown, without the words for "unknown" that the client's own error begins with.
fn reason_of(problem: ProblemJson) -> String {
    let said_anyway = api::Error::OutcomeUnknown(String::new()).to_string();
    problem.detail.strip_prefix(&said_anyway).map_or_else(|| problem.detail.clone(), str::to_owned)
}

fn silence(since: Instant) -> String {
    format!("silent for {:.1} s", since.elapsed().as_secs_f64())
}

/// `http://host:port` of a URI, for messages.
pub(super) fn root_of(uri: &Uri) -> String {
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
        _ => uri.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_an_outcome_is_unknown_is_said_once() {
        let detail = api::Error::OutcomeUnknown("n2 went down while it worked on it".to_owned()).to_string();
        let problem = ProblemJson {
            kind: String::new(),
            title: String::new(),
            status: 504,
            detail,
            outcome: Some("unknown".into()),
        };
        let error = ClientError::OutcomeUnknown { url: "http://n1".to_owned(), reason: reason_of(problem) };
        let words = "it is not known whether the write happened: n2 went down while it worked on it (http://n1)";
        assert_eq!(error.to_string(), words);
    }
}
