//! The Rust client that the command line uses.
//!
//! A [`Client`] is given the URLs of a few gateways and asks the one that answered last, then the others. Any gateway
//! serves any request: a follower relays to the leader or redirects to it (307), which the client follows.
//!
//! What may be retried is retried until the call's deadline ([`Client::with_timeout`]):
//!
//! | what happened to the attempt | a read | a write |
//! |---|---|---|
//! | the connection was refused: nothing was sent | again | again |
//! | 503 or 429 whose problem document says `definite` | again | again |
//! | the connection broke, no answer in time, 502, 504, an outcome that is not `definite` | again | again |
//! | anything else | fails | fails |
//!
//! An answer that was read without a quorum counts only once no other gateway has a better one.
//!
//! Each write has an idempotency key, a random one where the caller gives none, so the cluster executes it once however
//! often it is sent. A failed write says of itself whether it happened ([`ClientError::outcome`]): after an attempt that may
//! have happened, no later refusal says that it did not.
//!
//! | file | what it holds |
//! |---|---|
//! | `address` | URLs of gateways; keys as paths |
//! | `rounds` | which gateway is asked next, back-off, deadlines |
//! | `exchange` | one request and its answer over HTTP |
//! | `batch` | [`Client::batch`], many operations in one request |
//! | `feed` | [`Feed`], the changes as they happen, over WebSocket |
//! | `admin` | [`Client::admin`], what operators ask |
//! | `tls` | connections, with TLS or without |
//! | `error` | [`ClientError`] |
//!
//! A client may have a token, and the certificate of the authority that made the gateways' ([`Credentials`]). It follows no
//! redirect from `https://` to `http://`, which would tell its token to whoever listens.

mod address;
mod admin;
mod batch;
mod error;
mod exchange;
mod feed;
mod rounds;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, StatusCode};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

use crate::api::json::{ItemJson, PageJson};
use crate::api::{ClusterStatus, Consistency, ContentType, Key, Location, Match, Precondition, PutMode, Value};
use crate::base::{Blob, Version};

use address::{GatewayUrl, encode_query, key_path};
pub use batch::BatchOptions;
pub use error::ClientError;
use exchange::{Call, Reply, Safety};
pub use feed::Feed;
use rounds::{Failure, Rounds};
use tls::{Connector, Trust};

/// How long a call may take, retries included, where nothing else is said: longer than a gateway waits for a leader (5 s).
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to be made before the next gateway is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an unused connection is kept: shorter than servers keep theirs, so that a write rarely meets one that the
/// server is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one cluster. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    http: legacy::Client<Connector, Full<Bytes>>,
    trust: Trust,
    /// What each request says who sends it.
    authorization: Option<HeaderValue>,
    /// Never empty.
    gateways: Vec<GatewayUrl>,
    /// The index of the gateway that answered last.
    preferred: AtomicUsize,
}

impl Inner {
    fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }
}

/// What a client shows, and whom it believes. It prints without the token.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The token that each request shows, where gateways ask for one.
    pub token: Option<String>,
    /// The certificates of the authorities of gateways, in PEM; needed for `https://`.
    pub authority: Option<Vec<u8>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials(token: {}, authority: {})", self.token.is_some(), self.authority.is_some())
    }
}

/// How a value is put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// The content type that reads give back.
    pub content_type: Option<ContentType>,
    /// For how long it is kept; for ever without.
    pub ttl: Option<Duration>,
    /// Whether the key may exist already.
    pub mode: PutMode,
    /// Conditions on the value that is replaced.
    pub precondition: Precondition,
    /// How long the call may take; the client's own time-out without.
    pub timeout: Option<Duration>,
    /// Under which the cluster executes it once, however often it is sent: 1 to 255 visible ASCII characters. A random one
    /// without, which makes the attempts of this call one write; one of the caller's own does so for several calls.
    pub idempotency_key: Option<String>,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version of the stored value.
    pub version: Version,
    /// Whether there was no value before.
    pub created: bool,
    /// On how many nodes it is; 0 where the gateway didn't say.
    pub copies: u8,
}

impl Client {
    /// A client of the gateways at `urls` (`http://host:port`), which are tried in that order.
    ///
    /// # Errors
    /// Where there is none, or one is not an HTTP URL.
    pub fn new(urls: Vec<String>) -> Result<Self, ClientError> {
        Self::with_credentials(urls, &Credentials::default())
    }

    /// The same, with a token or of gateways that speak TLS (`https://host:port`).
    ///
    /// # Errors
    /// As [`Client::new`]; where there is no authority for a gateway over TLS, or no certificate in it; where the token can't
    /// be sent.
    pub fn with_credentials(urls: Vec<String>, credentials: &Credentials) -> Result<Self, ClientError> {
        let trust = Trust::of(credentials.authority.as_deref())?;
        let gateways = urls.iter().map(|url| GatewayUrl::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if gateways.is_empty() {
            return Err(ClientError::BadUrl { url: String::new(), reason: "no gateway is given".to_owned() });
        }
        if let Some(gateway) = gateways.iter().find(|gateway| gateway.is_secure() && !trust.is_some()) {
            let reason =
                "https:// needs the certificate of the authority that made the gateway's (--cacert)".to_owned();
            return Err(ClientError::BadUrl { url: gateway.to_string(), reason });
        }
        let authorization = credentials.token.as_deref().map(authorization).transpose()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(Connector::new(connector, trust.clone(), CONNECT_TIMEOUT));
        let inner = Inner { http, trust, authorization, gateways, preferred: AtomicUsize::new(0) };
        Ok(Self { inner: Arc::new(inner), timeout: TIMEOUT })
    }

    /// The same client with another limit for each call, retries included ([`TIMEOUT`] otherwise).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The value of `key`, if there is one.
    ///
    /// # Errors
    /// Where no gateway answered in time, or one refused.
    pub async fn get(&self, key: &Key, consistency: Consistency) -> Result<Option<Value>, ClientError> {
        let mut target = key_path(key);
        if consistency == Consistency::Stale {
            target.push_str("?consistency=stale");
        }
        let reply = self.call(&Call::read(target), self.timeout).await?;
        match reply.status {
            StatusCode::OK => value_of(reply).map(Some),
            StatusCode::NOT_FOUND if reply.problem().is_some() => Ok(None),
            _ => Err(reply.refusal()),
        }
    }

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// Where it was refused, did not happen in time, or may or may not have happened.
    pub async fn put(&self, key: &Key, value: Bytes, options: &PutOptions) -> Result<Written, ClientError> {
        let mut target = key_path(key);
        if let Some(ttl) = options.ttl {
            // An expiry of less than a millisecond is one of a millisecond: zero would mean no value at all.
            target.push_str(&format!("?ttl={}ms", ttl.as_millis().max(1)));
        }
        let method = if options.mode == PutMode::Create { Method::POST } else { Method::PUT };
        let mut headers = precondition_headers(&options.precondition);
        if let Some(content_type) = &options.content_type {
            headers.push((CONTENT_TYPE, header_value(content_type.as_str())));
        }
        headers.push(idempotency_header(options.idempotency_key.as_deref())?);
        let call = Call { method, target, headers, body: value, safety: Safety::OnceWrite };
        let reply = self.call(&call, options.timeout.unwrap_or(self.timeout)).await?;
        match reply.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {
                let version = reply.version().ok_or_else(|| reply.unexpected("a stored value without an ETag"))?;
                let copies = reply.header("jumpgate-copies").and_then(|copies| copies.parse().ok()).unwrap_or(0);
                Ok(Written { version, created: reply.status == StatusCode::CREATED, copies })
            }
            _ => Err(reply.refusal()),
        }
    }

    /// Removes the value of `key`, if `precondition` holds of it.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] where there is none; else as [`Client::put`].
    pub async fn delete(&self, key: &Key, precondition: &Precondition) -> Result<(), ClientError> {
        let mut headers = precondition_headers(precondition);
        headers.push(idempotency_header(None)?);
        let safety = Safety::OnceWrite;
        let call = Call { method: Method::DELETE, target: key_path(key), headers, body: Bytes::new(), safety };
        let reply = self.call(&call, self.timeout).await?;
        match reply.status {
            StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND if reply.problem().is_some() => {
                Err(ClientError::NotFound { key: key.as_str().to_owned() })
            }
            _ => Err(reply.refusal()),
        }
    }

    /// One page of the keys that begin with `prefix`, from `cursor` on (an earlier page's), at most `limit` keys; with
    /// their values where `values`. A page may hold fewer keys than that and not be the last: only one without a cursor
    /// is. [`Client::pages`] walks them all.
    ///
    /// # Errors
    /// Where no gateway answered in time, or one refused.
    pub async fn list(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        limit: u32,
        values: bool,
    ) -> Result<PageJson, ClientError> {
        let mut target = format!("/v1/kv?prefix={}&limit={limit}", encode_query(prefix));
        if let Some(cursor) = cursor {
            target.push_str(&format!("&cursor={}", encode_query(cursor)));
        }
        if values {
            target.push_str("&values=true");
        }
        self.read_json(target).await
    }

    /// All keys that begin with `prefix`, in pages of at most `limit` keys.
    #[must_use]
    pub fn pages(&self, prefix: &str, limit: u32, values: bool) -> Pages {
        Pages { client: self.clone(), prefix: prefix.to_owned(), limit, values, cursor: None, ended: false }
    }

    /// The cluster as the node that answers sees it.
    ///
    /// # Errors
    /// Where no gateway answered in time, or one refused.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        self.read_json("/v1/cluster".to_owned()).await
    }

    /// Where `key` lives, whether or not there is a value.
    ///
    /// # Errors
    /// Where no gateway knew it in time.
    pub async fn locate(&self, key: &Key) -> Result<Location, ClientError> {
        self.read_json(address::locate_path(key)).await
    }

    /// Whether the first gateway's node is ready to serve; asks it once and nobody else.
    ///
    /// # Errors
    /// Where it can't be reached, doesn't answer, or says that it is not ready, and why.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let gateway = &self.inner.gateways[0];
        let deadline = tokio::time::Instant::now() + self.timeout;
        match self.inner.exchange(gateway, &Call::read("/readyz".to_owned()), deadline).await {
            Ok(reply) if reply.status == StatusCode::OK => Ok(()),
            Ok(reply) => Err(reply.refusal()),
            Err(Failure::Definite(error) | Failure::Unknown(error) | Failure::Final(error)) => Err(error),
        }
    }

    /// The root of the gateway that answered last; the first one's before any has.
    #[must_use]
    pub fn last_url(&self) -> String {
        self.inner.gateways[self.inner.preferred.load(Ordering::Relaxed)].to_string()
    }

    /// A client of the gateway that answered last and of no other: for what concerns that very node.
    #[must_use]
    pub fn of_last(&self) -> Self {
        let last = self.inner.gateways[self.inner.preferred.load(Ordering::Relaxed)].clone();
        let inner = Inner {
            http: self.inner.http.clone(),
            trust: self.inner.trust.clone(),
            authorization: self.inner.authorization.clone(),
            gateways: vec![last],
            preferred: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner), timeout: self.timeout }
    }

    /// The changes of keys that begin with `prefix`, from now on, or from the cursor `since` on that an event told; with the
    /// new values where `values`.
    ///
    /// # Errors
    /// Where no gateway opened its feed in time, or `since` is no cursor.
    pub async fn watch(&self, prefix: &str, values: bool, since: Option<&str>) -> Result<Feed, ClientError> {
        let mut target = format!("/v1/feed?prefix={}", encode_query(prefix));
        if values {
            target.push_str("&values=true");
        }
        if let Some(since) = since {
            target.push_str(&format!("&since={}", encode_query(since)));
        }
        let mut rounds = Rounds::new(&self.inner, self.timeout);
        loop {
            let gateway = rounds.next().await?;
            match self.inner.open_feed(gateway, &target, rounds.attempt_ends(Safety::Read)).await {
                Ok((feed, uri)) => {
                    self.inner.remember(gateway, &uri);
                    return Ok(feed);
                }
                Err(failure) => rounds.failed(failure)?,
            }
        }
    }

    /// Sends a call to one gateway after the other until one has answered it.
    async fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, ClientError> {
        let mut rounds = Rounds::new(&self.inner, timeout);
        let mut degraded = None;
        loop {
            let next = if degraded.is_some() && rounds.is_round_over() { None } else { Some(rounds.next().await) };
            let gateway = match (next, degraded.take()) {
                (None | Some(Err(_)), Some(reply)) => return Ok(reply),
                (Some(next), kept) => {
                    degraded = kept;
                    next?
                }
                (None, None) => continue,
            };
            match self.inner.exchange(gateway, call, rounds.attempt_ends(call.safety)).await {
                // The node may only be cut off: another one may know more, or else this is the best that there is.
                Ok(reply) if reply.header("jumpgate-degraded") == Some("true") && !rounds.is_round_over() => {
                    degraded = Some(reply);
                }
                Ok(reply) => {
                    self.inner.remember(gateway, &reply.uri);
                    let is_refused = !reply.status.is_success();
                    return rounds.judged(is_refused).map(|()| reply);
                }
                Err(failure) => rounds.failed(failure)?,
            }
        }
    }

    async fn read_json<T: DeserializeOwned>(&self, target: String) -> Result<T, ClientError> {
        let reply = self.call(&Call::read(target), self.timeout).await?;
        if reply.status != StatusCode::OK {
            return Err(reply.refusal());
        }
        serde_json::from_slice(&reply.body)
            .map_err(|error| reply.unexpected(&format!("the JSON is not as agreed: {error}")))
    }
}

impl Inner {
    /// Asks first next time who answered this time: `gateway`, or the one it redirected to.
    fn remember(&self, gateway: &GatewayUrl, answered_at: &hyper::Uri) {
        let position = |wanted: &dyn Fn(&GatewayUrl) -> bool| self.gateways.iter().position(wanted);
        let index = position(&|known| known.serves(answered_at)).or_else(|| position(&|known| known == gateway));
        self.prefer(index.unwrap_or(0));
    }
}

/// The pages of a listing, one after the other.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    prefix: String,
    limit: u32,
    values: bool,
    cursor: Option<String>,
    ended: bool,
}

impl Pages {
    /// The keys of the next page; `None` after the last.
    ///
    /// # Errors
    /// As [`Client::list`]; also where the gateway hands out the same cursor twice, which would never end.
    pub async fn next(&mut self) -> Result<Option<Vec<ItemJson>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let page = self.client.list(&self.prefix, self.cursor.as_deref(), self.limit, self.values).await?;
        if page.cursor.is_some() && page.cursor == self.cursor {
            return Err(ClientError::Unexpected {
                url: self.client.last_url(),
                reason: "the listing repeats a page".to_owned(),
            });
        }
        self.ended = page.cursor.is_none();
        self.cursor = page.cursor;
        Ok(Some(page.items))
    }
}

/// The header that shows a token. It never appears in what is printed of a request.
fn authorization(token: &str) -> Result<HeaderValue, ClientError> {
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| is_token);
    let mut value = value.ok_or(ClientError::BadToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// An idempotency key that nobody has used before.
fn random_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn idempotency_header(key: Option<&str>) -> Result<(HeaderName, HeaderValue), ClientError> {
    let key = key.map_or_else(random_key, str::to_owned);
    let value = HeaderValue::from_str(&key).map_err(|_| ClientError::BadIdempotencyKey)?;
    Ok((HeaderName::from_static("idempotency-key"), value))
}

/// A value as its bytes and headers say.
fn value_of(reply: Reply) -> Result<Value, ClientError> {
    let version = reply.version().ok_or_else(|| reply.unexpected("a value without an ETag"))?;
    Ok(Value {
        version,
        content_type: reply.header(CONTENT_TYPE).and_then(ContentType::new),
        expires_in_ms: reply.header("jumpgate-expires-in").and_then(|milliseconds| milliseconds.parse().ok()),
        stale: reply.header("jumpgate-stale") == Some("true"),
        degraded: reply.header("jumpgate-degraded") == Some("true"),
        bytes: Blob(reply.body),
    })
}

fn precondition_headers(precondition: &Precondition) -> Vec<(HeaderName, HeaderValue)> {
    let conditions = [(IF_MATCH, &precondition.if_match), (IF_NONE_MATCH, &precondition.if_none_match)];
    conditions.into_iter().filter_map(|(name, condition)| Some((name, match_value(condition.as_ref()?)))).collect()
}

/// `*`, or the versions as a list of ETags.
fn match_value(condition: &Match) -> HeaderValue {
    match condition {
        Match::Any => HeaderValue::from_static("*"),
        Match::Versions(versions) => {
            let tags: Vec<String> = versions.iter().map(|version| format!("\"{version}\"")).collect();
            header_value(&tags.join(", "))
        }
    }
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ETags and content types are visible ASCII")
}
