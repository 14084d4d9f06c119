//! Which pages of other origins may read what: the dashboard of one node looks at the others.
//!
//! A dashboard that loses its node has to learn from another one who leads now. So the pages of the cluster's own nodes,
//! named exactly as they are advertised, may read how each node sees the cluster, and whether it lives. That is all: no
//! keys, no values, no operations, nothing that changes anything. Requests carry no cookies, because there are none, so a
//! page of any other origin gains nothing here (and is told nothing).

use hyper::body::Incoming;
use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use warp::http::{Method, Request, StatusCode, Uri};
use warp::reply::Response;

/// What may be read by them.
const READABLE: [&str; 3] = ["/v1/cluster", "/v1/cluster/map", "/healthz"];

/// The origins of a cluster's nodes, as browsers write them.
#[derive(Debug)]
pub(super) struct Origins(Vec<HeaderValue>);

impl Origins {
    /// The origins of `urls`; one that is none is left out.
    pub(super) fn new<'a>(urls: impl Iterator<Item = &'a str>) -> Self {
        Self(urls.filter_map(origin_of).filter_map(|origin| HeaderValue::try_from(origin).ok()).collect())
    }

    /// They all, with spaces between: what a content security policy lists.
    pub(super) fn list(&self) -> String {
        let texts: Vec<&str> = self.0.iter().filter_map(|origin| origin.to_str().ok()).collect();
        texts.join(" ")
    }

    /// The grant for a request, if it has one.
    pub(super) fn grant<B>(&self, request: &Request<B>) -> Option<Grant> {
        let origin = request.headers().get(ORIGIN)?;
        let known = self.0.iter().find(|known| *known == origin)?;
        READABLE.contains(&request.uri().path()).then(|| Grant(known.clone()))
    }

    /// The answer to a browser that asks before it sends a header of its own, as with a token.
    pub(super) fn preflight(&self, request: &Request<Incoming>) -> Option<Response> {
        let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let grant = asks.then(|| self.grant(request)).flatten()?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        grant.insert_into(&mut response);
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        Some(response)
    }
}

/// The page of one origin may read an answer.
pub(super) struct Grant(HeaderValue);

impl Grant {
    /// Says so in the answer, also where it is a failure: how a node fails is what a dashboard wants to show.
    pub(super) fn insert_into(self, response: &mut Response) {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    }
}

/// `scheme://host[:port]` as browsers write it: in lower case, without the port that the scheme has anyway.
fn origin_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let port = match (scheme.as_str(), uri.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    matches!(scheme.as_str(), "http" | "https").then(|| format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_our_own_nodes_may_read_and_only_what_is_for_them() {
        let urls = ["http://127.0.0.1:7401", "https://Store.example:443/", "http://[::1]:80", "no url"];
        let origins = Origins::new(urls.into_iter());
        assert_eq!(origins.list(), "http://127.0.0.1:7401 https://store.example http://[::1]");
        let granted = |origin: &str, path: &str| {
            let request = Request::builder().uri(path).header(ORIGIN, origin).body(()).expect("a request");
            origins.grant(&request).is_some()
        };
        assert!(granted("http://127.0.0.1:7401", "/v1/cluster"));
        assert!(granted("https://store.example", "/v1/cluster/map"));
        assert!(granted("http://[::1]", "/healthz"));
        for origin in ["http://127.0.0.1:7402", "https://127.0.0.1:7401", "http://store.example", "null", "*"] {
            assert!(!granted(origin, "/v1/cluster"), "{origin}");
        }
        for path in ["/v1/kv", "/v1/kv/a", "/metrics", "/v1/admin/transfer", "/v1/cluster/", "/"] {
            assert!(!granted("http://127.0.0.1:7401", path), "{path}");
        }
    }
}
