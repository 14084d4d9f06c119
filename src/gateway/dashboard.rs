//! The dashboard at `/`: one page that shows the cluster as it is, for people.
//!
//! The page is a part of the program and needs nothing from anywhere else: markup, style and script are put together here
//! once, into one document. It asks what any client may ask (`/v1/cluster`, `/v1/cluster/map`, `/v1/kv`, `/v1/feed`) of the
//! node that it came from, and of the others only what `cors` lets it.
//!
//! # What protects it
//!
//! Users store values of any content type, and the gateway gives them out under the page's own origin. So the policy
//! names the page's script and style by their hashes: nothing else runs, whatever a value says and wherever it ends up.
//! Values themselves go out in a sandbox (`kv`). The page may connect to the cluster's nodes alone, may not be framed, and
//! submits no forms.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use warp::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use warp::reply::Response;

use super::cors::Origins;
use super::problem::Problem;
use super::routes::Reply;

const MARKUP: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
/// One script, in the order in which its parts need each other.
const SCRIPT: &str = concat!(
    include_str!("dashboard/base.js"),
    include_str!("dashboard/cluster.js"),
    include_str!("dashboard/map.js"),
    include_str!("dashboard/charts.js"),
    include_str!("dashboard/nodes.js"),
    include_str!("dashboard/feed.js"),
    include_str!("dashboard/keys.js"),
    include_str!("dashboard/start.js"),
);
/// Where they go.
const STYLE_HERE: &str = "/*style*/";
const SCRIPT_HERE: &str = "/*script*/";

struct Page {
    html: Bytes,
    /// The policy, up to where the nodes are listed.
    policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let hash = |part: &str| format!("'sha256-{}'", BASE64.encode(digest(&SHA256, part.as_bytes())));
    let html = MARKUP.replacen(STYLE_HERE, STYLE, 1).replacen(SCRIPT_HERE, SCRIPT, 1);
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; connect-src 'self'",
        hash(SCRIPT),
        hash(STYLE)
    );
    Page { html: html.into(), policy }
});

/// Answers with the page. `origins` are those of the nodes that it may look at.
pub(super) fn page(origins: &Origins) -> Reply {
    let mut response = Response::new(PAGE.html.clone().into());
    let policy = HeaderValue::try_from(format!("{} {}", PAGE.policy, origins.list()));
    let policy = policy.map_err(|_| Problem::internal())?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_for_nothing_from_elsewhere() {
        let html = std::str::from_utf8(&PAGE.html).expect("it is text");
        assert!(!html.contains(STYLE_HERE) && !html.contains(SCRIPT_HERE), "a part is missing");
        assert!(
            html.contains(&format!("<style>{STYLE}</style>")) && html.contains(&format!("<script>{SCRIPT}</script>"))
        );
        assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
        // What the policy would stop, and what would come from other machines.
        for forbidden in [" style=\"", " onclick=", " onload=", " src=\"http", "//cdn", "@import", "innerHTML", "eval("]
        {
            assert!(!html.contains(forbidden), "the page has {forbidden:?}");
        }
    }

    #[test]
    fn the_policy_lets_the_page_run_and_nothing_else() {
        let origins = Origins::new(["http://127.0.0.1:1", "http://127.0.0.1:2"].into_iter());
        let response = page(&origins).expect("it is made of text");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("it is ASCII");
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(policy.ends_with("connect-src 'self' http://127.0.0.1:1 http://127.0.0.1:2"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
