//! Where a gateway is, and how keys are written into its paths.

use std::fmt;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ClientError;
use crate::api::Key;

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What stays as it is: the unreserved characters of RFC 3986, section 2.3. All others are encoded, `/` included, so that
/// a key is one segment of the path and nothing on the way can mistake a part of it for a step up or an empty segment.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same without the dot, for keys that would be a dot segment (RFC 3986, section 5.2.4).
const RESERVED_AND_DOT: &AsciiSet = &RESERVED.add(b'.');

/// Any text as a value of a query.
pub(super) fn encode_query(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}

/// Any text as one segment of a path.
pub(super) fn encode_segment(text: &str) -> impl fmt::Display + '_ {
    let dots_only = text.bytes().all(|byte| byte == b'.');
    utf8_percent_encode(text, if dots_only { RESERVED_AND_DOT } else { RESERVED })
}

/// The path of a key, `/v1/kv/{key}`.
pub(super) fn key_path(key: &Key) -> String {
    format!("/v1/kv/{}", encode_segment(key.as_str()))
}

/// Where it is told where a key lives.
pub(super) fn locate_path(key: &Key) -> String {
    format!("/v1/locate/{}", encode_segment(key.as_str()))
}

/// The root of one gateway: `http://host:port` or `https://host:port`, perhaps with a path that a proxy in front of it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatewayUrl {
    /// Whether it is `https://`.
    is_secure: bool,
    authority: Authority,
    /// Empty, or begins with a slash and doesn't end with one.
    base_path: String,
}

impl GatewayUrl {
    /// Reads `http[s]://host[:port][/path]`; a bare `host:port` is taken for one too.
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: text.to_owned(), reason: reason.to_owned() };
        if text.trim().is_empty() {
            return Err(bad("it is empty"));
        }
        let with_scheme = if text.contains("://") { text.trim().to_owned() } else { format!("http://{}", text.trim()) };
        let uri: Uri = with_scheme.parse().map_err(|error| bad(&format!("{error}")))?;
        Self::of_uri(&uri).map_err(|reason| bad(&reason))
    }

    /// The root that an absolute URI names; its path is the base path.
    fn of_uri(uri: &Uri) -> Result<Self, String> {
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => return Err(format!("the scheme is {other}://; use http:// or https://")),
            None => return Err("it has no scheme; use http:// or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        if authority.host().is_empty() {
            return Err("it has no host".to_owned());
        }
        if authority.as_str().contains('@') {
            return Err("user names in URLs are not supported".to_owned());
        }
        if uri.query().is_some() {
            return Err("it has a query; give the gateway's root, such as http://127.0.0.1:7401".to_owned());
        }
        Ok(Self { is_secure, authority: authority.clone(), base_path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The URI of `target` (a path that begins with a slash, perhaps with a query) below this root.
    pub(super) fn uri(&self, target: &str) -> Result<Uri, ClientError> {
        let whole = format!("{}{target}", self.base_path);
        let path_and_query = PathAndQuery::try_from(whole)
            .map_err(|error| ClientError::BadUrl { url: self.to_string(), reason: error.to_string() })?;
        Uri::builder()
            .scheme(self.scheme())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|error| ClientError::BadUrl { url: self.to_string(), reason: error.to_string() })
    }

    /// Whether it is spoken to over TLS.
    pub(super) const fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn scheme(&self) -> Scheme {
        if self.is_secure { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Whether a request to `uri` goes to this gateway's host and port.
    pub(super) fn serves(&self, uri: &Uri) -> bool {
        let own = self.authority.port_u16().unwrap_or(if self.is_secure { HTTPS_PORT } else { HTTP_PORT });
        uri.authority().is_some_and(|authority| {
            authority.host().eq_ignore_ascii_case(self.authority.host()) && port_of(uri) == own
        })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.base_path)
    }
}

/// The port, or that of the scheme.
pub(super) fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { HTTPS_PORT } else { HTTP_PORT })
}

/// Where a redirect from `from` leads: `location` may be absolute, or a path on the same gateway.
pub(super) fn redirected(from: &Uri, location: &str) -> Result<Uri, String> {
    let location: Uri = location.parse().map_err(|error| format!("the redirect's Location is not a URL: {error}"))?;
    match (location.scheme_str(), location.authority()) {
        (Some("https"), Some(_)) => Ok(location),
        (Some("http"), Some(_)) if from.scheme_str() != Some("https") => Ok(location),
        (Some("http"), Some(_)) => Err("it redirects from https:// to http://, which isn't followed".to_owned()),
        (Some(scheme), _) => Err(format!("it redirects to {scheme}://, which is not spoken here")),
        (None, _) => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = location.into_parts().path_and_query;
            Uri::from_parts(parts).map_err(|error| format!("the redirect's Location is not a URL: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &str) -> String {
        key_path(&key.parse().expect("a key"))
    }

    #[test]
    fn a_key_is_one_segment_whatever_it_contains() {
        for (key, expected) in [
            ("plain-key_1.txt~", "/v1/kv/plain-key_1.txt~"),
            ("a/b", "/v1/kv/a%2Fb"),
            ("a//b/", "/v1/kv/a%2F%2Fb%2F"),
            (".", "/v1/kv/%2E"),
            ("..", "/v1/kv/%2E%2E"),
            ("../x", "/v1/kv/..%2Fx"),
            ("100%", "/v1/kv/100%25"),
            ("%2F", "/v1/kv/%252F"),
            ("a b?c#d", "/v1/kv/a%20b%3Fc%23d"),
            ("ключ", "/v1/kv/%D0%BA%D0%BB%D1%8E%D1%87"),
        ] {
            assert_eq!(path(key), expected, "key {key:?}");
        }
    }

    #[test]
    fn urls_are_read_or_refused_with_a_reason() {
        for (text, shown) in [
            ("http://127.0.0.1:7401", "http://127.0.0.1:7401"),
            (" http://localhost:7401/ ", "http://localhost:7401"),
            ("n1:7401", "http://n1:7401"),
            ("https://n1:7401/", "https://n1:7401"),
            ("http://[::1]:7401/store/", "http://[::1]:7401/store"),
        ] {
            assert_eq!(GatewayUrl::parse(text).expect(text).to_string(), shown);
        }
        for (text, reason) in
            [("ftp://n1", "ftp://"), ("", "empty"), ("http://n1/?a=b", "query"), ("http://me@n1/", "user names")]
        {
            let error = GatewayUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn a_target_is_put_below_the_root_byte_for_byte() {
        let root = GatewayUrl::parse("http://n1:7401/store").expect("a URL");
        let uri = root.uri("/v1/kv/%2E%2E?ttl=30s").expect("a URI");
        assert_eq!(uri.to_string(), "http://n1:7401/store/v1/kv/%2E%2E?ttl=30s");
        assert!(root.serves(&uri));
        assert!(!root.serves(&"http://n1:7402/".parse().expect("a URI")));
    }

    #[test]
    fn redirects_are_absolute_or_on_the_same_gateway() {
        let from: Uri = "http://n1:7401/v1/kv/a%2Fb".parse().expect("a URI");
        let to = |location| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("http://n2:7402/v1/kv/a%2Fb"), Ok("http://n2:7402/v1/kv/a%2Fb".to_owned()));
        assert_eq!(to("/v1/kv/c"), Ok("http://n1:7401/v1/kv/c".to_owned()));
        assert_eq!(to("https://n2/v1/kv/a"), Ok("https://n2/v1/kv/a".to_owned()));
        assert!(to("ftp://n2/v1/kv/a").is_err());
        let secure: Uri = "https://n1/v1/kv/a".parse().expect("a URI");
        assert!(redirected(&secure, "http://n2/v1/kv/a").is_err(), "a token would be told to whoever listens");
        assert_eq!(redirected(&secure, "/v1/kv/b").map(|uri| uri.to_string()), Ok("https://n1/v1/kv/b".to_owned()));
    }

    #[test]
    fn a_gateway_without_a_port_has_that_of_its_scheme() {
        let serves =
            |root: &str, uri: &str| GatewayUrl::parse(root).expect("a URL").serves(&uri.parse().expect("a URI"));
        assert!(serves("https://n1", "https://n1:443/") && serves("http://n1:80", "http://n1/"));
        assert!(!serves("https://n1", "http://n1/"));
    }
}
