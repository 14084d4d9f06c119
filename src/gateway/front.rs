//! Who may talk here at all: the checks that come before any route.
//!
//! A browser can be made to send requests to a gateway that only it can reach. Two headers that a page can't forge stop
//! that: `Host`, which after a DNS rebinding still names the attacker's domain (421), and `Origin`, which names the page
//! that writes or watches (403). Programs send no Origin and are not affected. Requests that no route could make sense of
//! end here too (400).
//!
//! Then the client's token is judged, for every path but those that tell whether the node is well (401, 403, 429). What it
//! may do goes on with the request; which keys it may do that to is asked by the handlers, who know them.

use std::future::{Ready, ready};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use futures_util::future::Either;
use hyper::body::Incoming;
use warp::http::header::{HOST, ORIGIN, UPGRADE};
use warp::http::{Method, Request, Version};
use warp::reply::Response;

use super::body;
use super::guard;
use super::listen::Connection;
use super::problem::Problem;
use super::sse;
use crate::access::Grant;

/// The names that a gateway answers to, besides IP literals and `localhost`; in lower case.
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// The names in `entries`, each a name, a name with a port, or a URL.
    pub(super) fn new(entries: &[String]) -> Self {
        let name = |entry: &String| {
            let authority = entry.split_once("://").map_or(entry.as_str(), |(_, rest)| rest);
            let authority = authority.split('/').next().unwrap_or_default();
            host_of(authority).map(str::to_ascii_lowercase)
        };
        Self(entries.iter().filter_map(name).collect())
    }

    fn is_named(&self, host: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    fn is_ours(&self, host: &str) -> bool {
        host.parse::<Ipv4Addr>().is_ok()
            || host.strip_prefix('[').is_some_and(|rest| rest.ends_with(']'))
            || host.eq_ignore_ascii_case("localhost")
            || self.is_named(host)
    }

    /// Whether a request may pass.
    fn check<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        // `CONNECT host:port` and whatever else has a target without a path: nothing here is for it, and warp's path
        // filter panics on it.
        if request.uri().path_and_query().is_none() {
            return Err(Problem::bad_request("the request's target is not a path"));
        }
        let mut lines = request.headers().get_all(HOST).iter();
        let line = lines.next();
        if lines.next().is_some() {
            return Err(Problem::bad_request("the request has more than one Host header"));
        }
        // HTTP/2 and the absolute form of HTTP/1.1 name the host in the target; where both are given, both must be ours.
        let mut host = None;
        if let Some(authority) = request.uri().authority() {
            host = Some(self.check_authority(authority.as_str())?);
        }
        if let Some(line) = line {
            let authority = line.to_str().map_err(|_| Problem::bad_request("the Host header is not text"))?;
            host = Some(self.check_authority(authority)?);
        } else if request.version() == Version::HTTP_11 || (host.is_none() && request.version() > Version::HTTP_11) {
            return Err(Problem::bad_request("the request has no Host header"));
        }
        let Some(origin) = request.headers().get(ORIGIN) else {
            return Ok(());
        };
        let may_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let watches = request.headers().contains_key(UPGRADE) || request.uri().path() == sse::PATH;
        if !may_change && !watches {
            return Ok(());
        }
        let origin =
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).and_then(|(_, rest)| host_of(rest));
        let is_same =
            |origin: &str| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)) || self.is_named(origin);
        if origin.is_some_and(is_same) { Ok(()) } else { Err(Problem::foreign_origin()) }
    }

    /// The host in `authority`, if it is one of ours.
    fn check_authority<'a>(&self, authority: &'a str) -> Result<&'a str, Problem> {
        match host_of(authority) {
            None => Err(Problem::bad_request("the Host header is not a host with an optional port")),
            Some(host) if self.is_ours(host) => Ok(host),
            Some(host) => Err(Problem::foreign_host(host)),
        }
    }
}

/// The host of `host[:port]`, an IPv6 literal with its brackets; `None` where it is something else.
fn host_of(authority: &str) -> Option<&str> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        authority[1..end].parse::<Ipv6Addr>().ok()?;
        let rest = &authority[end + 1..];
        let is_clean = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return is_clean.then(|| &authority[..=end]);
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    // A trailing dot says that the name is complete, which it is anyway.
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!host.is_empty() && host.bytes().all(is_name) && is_port(port)).then_some(host)
}

/// The service of one connection: the checks, then the routes.
pub(super) struct Front<S> {
    connection: Arc<Connection>,
    routes: S,
}

impl<S> Front<S> {
    pub(super) const fn new(connection: Arc<Connection>, routes: S) -> Self {
        Self { connection, routes }
    }

    /// What the client may do, if it may come in with this request at all.
    fn admit<B>(&self, request: &Request<B>) -> Result<Grant, Problem> {
        let path = request.uri().path();
        let guard = &self.connection.shared.options.guard;
        if guard::is_open(path) {
            return Ok(Grant::nobody());
        }
        let token = guard::token_of(request.headers(), path)?;
        let grant = self.connection.judge(token).map_err(Problem::refused)?;
        guard.require(grant.may(guard::role_of(request.method(), path)))?;
        Ok(grant)
    }
}

impl<S> hyper::service::Service<Request<Incoming>> for Front<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // Only HTTP/1.1 can become a WebSocket; for the others the headers of a handshake mean nothing, and warp, which
        // doesn't look at the version, must not see them.
        if request.version() != Version::HTTP_11 {
            request.headers_mut().remove(UPGRADE);
        }
        let admitted = self.connection.shared.hosts.check(&request).and_then(|()| self.admit(&request));
        match admitted {
            Ok(grant) => {
                request.extensions_mut().insert(grant);
                Either::Right(self.routes.call(request))
            }
            Err(problem) => {
                let response = problem.into_response(request.method());
                body::let_go(request);
                Either::Left(ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderName;

    use super::*;

    fn status(method: &Method, version: Version, uri: &str, headers: &[(HeaderName, &str)]) -> u16 {
        let hosts = Hosts::new(&["http://Store.example:7501".to_owned(), "other".to_owned()]);
        let mut request = Request::builder().method(method).version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        match hosts.check(&request.body(()).expect("a request")) {
            Ok(()) => 200,
            Err(problem) => problem.into_response(method).status().as_u16(),
        }
    }

    #[test]
    fn only_our_own_names_are_answered_to() {
        let cases = [
            ("127.0.0.1:7401", 200),
            ("10.1.2.3", 200),
            ("[::1]:7401", 200),
            ("[::1]", 200),
            ("localhost", 200),
            ("LocalHost:1", 200),
            ("store.example", 200),
            ("STORE.example.:99", 200),
            ("other:5", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("another", 421),
            ("user@localhost", 400),
            ("localhost:80:80", 400),
            ("localhost:x", 400),
            ("[::1", 400),
            ("[evil]", 400),
            ("", 400),
        ];
        for (host, expected) in cases {
            assert_eq!(status(&Method::GET, Version::HTTP_11, "/", &[(HOST, host)]), expected, "{host:?}");
        }
        assert_eq!(status(&Method::GET, Version::HTTP_11, "/", &[]), 400);
        assert_eq!(status(&Method::GET, Version::HTTP_10, "/", &[]), 200);
        assert_eq!(status(&Method::GET, Version::HTTP_11, "/", &[(HOST, "other"), (HOST, "other")]), 400);
        assert_eq!(status(&Method::GET, Version::HTTP_2, "http://other/", &[]), 200);
        assert_eq!(status(&Method::GET, Version::HTTP_2, "http://evil/", &[]), 421);
        assert_eq!(status(&Method::GET, Version::HTTP_11, "http://evil/", &[(HOST, "other")]), 421);
    }

    #[test]
    fn foreign_pages_neither_write_nor_watch() {
        let check = |method: &Method, host, origin, upgrade: bool| {
            let mut headers = vec![(HOST, host), (ORIGIN, origin)];
            if upgrade {
                headers.push((UPGRADE, "websocket"));
            }
            status(method, Version::HTTP_11, "/", &headers)
        };
        for (origin, expected) in [
            ("http://127.0.0.1:7401", 200),
            ("https://127.0.0.1", 200),
            ("http://store.example", 200),
            ("http://127.0.0.2", 403),
            ("http://evil.example", 403),
            ("null", 403),
        ] {
            assert_eq!(check(&Method::POST, "127.0.0.1:7401", origin, false), expected, "POST from {origin}");
            assert_eq!(check(&Method::GET, "127.0.0.1:7401", origin, true), expected, "watched from {origin}");
            assert_eq!(check(&Method::GET, "127.0.0.1:7401", origin, false), 200, "read from {origin}");
        }
    }
}
