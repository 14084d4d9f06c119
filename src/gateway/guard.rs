//! Who a client is: the tokens in force, shared by all gateways of a node, and the addresses that guess.
//!
//! ```text
//! Authorization: Bearer …                     ─┐
//! Sec-WebSocket-Protocol: …, bearer.…          ├─▶ Guard::judge ─▶ Grant, with the request
//! (whatever another protocol has)             ─┘         │
//!                                                        └─▶ 401; 429 for an address that guesses
//! ```
//!
//! A connection that has shown a good token is judged on whatever its neighbours at the same address do: behind a proxy or
//! a translator of addresses, one program with an old token must not lock out those that are at work.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant as Moment;
use warp::http::header::{AUTHORIZATION, HeaderMap, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

use super::feed;
use super::problem::Problem;
use crate::access::{Access, Denied, Grant, Peer, Refusal, Role, Throttle};
use crate::base::Instant;

/// What a browser offers beside its token, and is answered with: a page can set no other header of a WebSocket.
pub(super) const SUBPROTOCOL: &str = "jumpgate.feed";
const SUBPROTOCOL_TOKEN: &str = "bearer.";
const SCHEME: &str = "bearer ";

/// The place of `forbidden` among the reasons.
const FORBIDDEN: usize = 3;

/// What is told without a token: whether the node is well, and what this is.
const OPEN: [&str; 5] = ["/", "/healthz", "/readyz", "/leaderz", "/openapi.json"];

/// The tokens in force. One for all gateways of a node, so that nobody guesses at each of them in turn.
#[derive(Debug)]
pub struct Guard {
    access: ArcSwap<Access>,
    /// Counts how often they were replaced.
    changes: watch::Sender<u64>,
    throttle: Mutex<Throttle>,
    /// Whether anybody is in `throttle`: asked for each request, so without its lock.
    is_guessed_at: AtomicBool,
    begun: Moment,
    refused: [AtomicU64; Refused::REASONS.len()],
}

/// Why a client isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It shows no token, or none that is known.
    Token(Refusal),
    /// Too many unknown tokens have come from its address; it may come back after so long.
    Throttled(Duration),
}

impl Refused {
    /// The reasons, as labels of metrics.
    pub const REASONS: [&'static str; 4] = ["no_token", "unknown_token", "throttled", "forbidden"];

    const fn index(self) -> usize {
        match self {
            Self::Token(Refusal::Missing) => 0,
            Self::Token(Refusal::Unknown) => 1,
            Self::Throttled(_) => 2,
        }
    }
}

impl Guard {
    /// A guard that goes by `access`.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            access: ArcSwap::from_pointee(access),
            changes: watch::Sender::new(0),
            throttle: Mutex::default(),
            is_guessed_at: AtomicBool::new(false),
            begun: Moment::now(),
            refused: Default::default(),
        }
    }

    /// The tokens in force.
    #[must_use]
    pub fn access(&self) -> Arc<Access> {
        self.access.load_full()
    }

    /// Other tokens are in force from here on, for requests and for whoever is being served.
    pub fn replace(&self, access: Access) {
        self.access.store(Arc::new(access));
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// What somebody at `peer` who shows `token` may do. `is_proven` says that a good one came over the same connection
    /// before.
    ///
    /// # Errors
    /// Where that is nothing, with the reason. A token that nobody has counts against its address.
    pub fn judge(&self, peer: IpAddr, token: Option<&[u8]>, is_proven: bool) -> Result<Grant, Refused> {
        let judged = self.try_judge(peer, token, is_proven);
        if let Err(refused) = judged {
            self.refused[refused.index()].fetch_add(1, Ordering::Relaxed);
        }
        judged
    }

    fn try_judge(&self, peer: IpAddr, token: Option<&[u8]>, is_proven: bool) -> Result<Grant, Refused> {
        let access = self.access.load();
        if access.is_open() || token.is_none() {
            return access.judge(token).map_err(Refused::Token);
        }
        if !is_proven
            && self.is_guessed_at.load(Ordering::Acquire)
            && let Some(left) = self.throttle().refuses(number(peer), self.now())
        {
            return Err(Refused::Throttled(left));
        }
        let judged = access.judge(token);
        if judged.is_err() {
            let mut throttle = self.throttle();
            let is_now_refused = throttle.on_failure(number(peer), self.now());
            self.is_guessed_at.store(!throttle.is_empty(), Ordering::Release);
            drop(throttle);
            if is_now_refused {
                tracing::warn!(%peer, "an address has shown too many tokens that nobody has; it isn't listened to for a while");
            }
        }
        judged.map_err(Refused::Token)
    }

    /// Waits until `grant` isn't good any more.
    pub async fn revoked(&self, grant: &Grant) {
        let mut changes = self.changes.subscribe();
        while self.access.load().confirms(grant) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How many requests were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refused::REASONS.into_iter().zip(&self.refused).map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }

    /// Refuses, and counts it, what was denied.
    pub(super) fn require(&self, asked: Result<(), Denied>) -> Result<(), Problem> {
        asked.map_err(|denied| {
            self.refused[FORBIDDEN].fetch_add(1, Ordering::Relaxed);
            Problem::forbidden(denied)
        })
    }

    /// Refuses where `grant` isn't good any more: what takes long may have outlived it.
    pub(super) fn confirm(&self, grant: &Grant) -> Result<(), Problem> {
        if self.access.load().confirms(grant) {
            return Ok(());
        }
        Err(Problem::refused(Refused::Token(Refusal::Unknown)))
    }

    fn throttle(&self) -> std::sync::MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.begun.elapsed()
    }
}

/// An address as a number: all of an IPv4 address, the network of an IPv6 one.
fn number(peer: IpAddr) -> Peer {
    match peer.to_canonical() {
        IpAddr::V4(address) => Peer(1 << 64 | u128::from(address.to_bits())),
        IpAddr::V6(address) => Peer(address.to_bits() >> 64),
    }
}

/// Whether anybody may ask for that.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// The least role for a request. Which keys it concerns is asked where they are known; so is what the operations of a batch
/// take, which is why a batch by itself takes no more than reading.
pub(super) fn role_of(method: &warp::http::Method, path: &str) -> Role {
    use warp::http::Method;
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || path == "/v1/batch";
    match path.strip_prefix("/v1/admin") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Role::Admin,
        _ if reads => Role::Read,
        _ => Role::Write,
    }
}

/// The token that a request shows, if it shows one.
pub(super) fn token_of<'a>(headers: &'a HeaderMap, path: &str) -> Result<Option<&'a [u8]>, Problem> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Problem::bad_request("the request has more than one Authorization header"));
    }
    if let Some(line) = line {
        let (scheme, token) = line.as_bytes().split_at(line.len().min(SCHEME.len()));
        return Ok(scheme.eq_ignore_ascii_case(SCHEME.as_bytes()).then(|| token.trim_ascii()));
    }
    if path != feed::PATH || !headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    Ok(subprotocols(headers).find_map(|offered| offered.strip_prefix(SUBPROTOCOL_TOKEN)).map(str::as_bytes))
}

/// The subprotocols that a WebSocket handshake offers.
pub(super) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use warp::http::Method;
    use warp::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_network_of_addresses_counts_as_one_and_v4_stays_itself() {
        let of = |text: &str| number(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("0.0.0.1"), of("0:0:0:1::"));
    }

    #[test]
    fn the_role_of_a_route_is_the_least_that_it_takes() {
        for (method, path, role) in [
            (Method::GET, "/v1/kv/a", Role::Read),
            (Method::HEAD, "/v1/kv", Role::Read),
            (Method::PUT, "/v1/kv/a", Role::Write),
            (Method::POST, "/v1/kv/a", Role::Write),
            (Method::DELETE, "/v1/kv/v1/admin", Role::Write),
            (Method::POST, "/v1/batch", Role::Read),
            (Method::POST, "/v1/batch/", Role::Write),
            (Method::GET, "/v1/cluster", Role::Read),
            (Method::GET, "/v1/admin/transfer", Role::Admin),
            (Method::POST, "/v1/admin", Role::Admin),
            (Method::PATCH, "/whatever", Role::Write),
        ] {
            assert_eq!(role_of(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn tokens_are_found_where_they_belong_and_nowhere_else() {
        let shown = |name: &'static str, value: &'static str, path: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(name, HeaderValue::from_static(value));
            token_of(&headers, path).expect("one header").map(|token| String::from_utf8_lossy(token).into_owned())
        };
        let some = |token: &str| Some(token.to_owned());
        assert_eq!(shown("authorization", "Bearer abc", "/"), some("abc"));
        assert_eq!(shown("authorization", "bEARER   abc ", "/"), some("abc"));
        assert_eq!(shown("authorization", "Bearer ", "/"), some(""));
        for none in ["Bearer", "Basic abc", "abc", "", "Bearerabc"] {
            assert_eq!(shown("authorization", none, "/"), None, "{none:?}");
        }
        let offered = "jumpgate.feed, bearer.abc";
        assert_eq!(shown("sec-websocket-protocol", offered, "/v1/feed"), some("abc"));
        assert_eq!(shown("sec-websocket-protocol", offered, "/v1/feed/sse"), None);
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(token_of(&twice, "/").is_err());
    }
}
