//! An operator's request on its way to the leader's gateway.
//!
//! Clients' requests travel between nodes over the stream plane. Operators' requests are few and answered in sentences, so
//! they go the way they came: over HTTP, a connection each, to the address that the configuration gives for other nodes.
//! The request says that it was passed on, and such a one is not passed on again: two nodes that each take the other for
//! the leader would send it to and fro.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use warp::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{Method, Request, Response as HttpResponse};
use warp::reply::Response;

use super::observe::REQUEST_ID;
use super::problem::Problem;
use super::routes::{Call, GRACE, Reply, Shared};
use super::tls::Socket;
use crate::api::Error;

/// The mark of a request that another node passed on.
const RELAYED: HeaderName = HeaderName::from_static("jumpgate-relayed");

/// How long the leader's gateway may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest answer: a report that names every partition of the largest cluster twice is far smaller.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where the leader's gateway is, and how it is spoken to.
struct Leader {
    /// What it is called: its Host, and the name on its certificate.
    authority: String,
    address: String,
    tls: Option<Arc<ClientConfig>>,
}

/// Whether the leader has to be asked by the client itself: gateways speak TLS, and this node knows no authority to judge the
/// leader's by. A token isn't handed to somebody who may be somebody else.
pub(super) fn must_redirect(shared: &Shared) -> bool {
    shared.options.tls.as_ref().is_some_and(|tls| tls.client().is_none())
}

/// Asks the leader's gateway what this node was asked, and gives its answer.
pub(super) async fn relay(shared: &Shared, call: &Call, body: Bytes, wait: Duration, dry_run: bool) -> Reply {
    if call.headers.contains_key(RELAYED) {
        return Err(no_leader("another node takes this one for the leader; they will soon agree".to_owned()));
    }
    let leader = Leader::of(shared)?;
    let address = &leader.address;
    let stream = match timeout(CONNECT_TIMEOUT, leader.connect()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(no_leader(format!("its gateway at {address} can't be reached: {error}"))),
        Err(_) => return Err(no_leader(format!("its gateway at {address} can't be reached in time"))),
    };
    let request = request(call, &leader.authority, body).map_err(|_| Problem::internal())?;
    // The leader answers at the deadline itself, and its answer says more than this node's.
    let reason = match timeout(wait + 2 * GRACE, exchange(stream, request)).await {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(error)) => format!("the way to the leader's gateway at {address} broke: {error}"),
        Err(_) => format!("the leader's gateway at {address} did not answer in time"),
    };
    Err(if dry_run { no_leader(reason) } else { Error::OutcomeUnknown(reason).into() })
}

impl Leader {
    fn of(shared: &Shared) -> Result<Self, Problem> {
        let Some(url) = shared.core.leadership().leader_url else {
            return Err(no_leader("this node knows of none".to_owned()));
        };
        let known = shared.options.peers.iter().find(|peer| peer.advertised == *url);
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let authority = rest.split('/').next().unwrap_or_default();
        // Nodes of one configuration speak TLS all or none, whatever somebody in front of them does.
        let tls = shared.options.tls.as_ref().filter(|_| known.is_some() || scheme == "https");
        let tls = tls.and_then(|tls| tls.client());
        let address = match known {
            Some(peer) => peer.address.clone(),
            None if scheme == "http" || tls.is_some() => authority.to_owned(),
            None => return Err(no_leader(format!("it is at {url}, which this node can't speak to"))),
        };
        Ok(Self { authority: authority.to_owned(), address, tls })
    }

    async fn connect(&self) -> io::Result<Socket> {
        let stream = TcpStream::connect(&self.address).await?;
        let Some(config) = &self.tls else { return Ok(Socket::Left(stream)) };
        let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Socket::Right(Box::new(TlsStream::Client(stream))))
    }
}

fn no_leader(detail: String) -> Problem {
    Error::NoQuorum(detail).into()
}

/// The request as the leader gets it: the target exactly as it came, and a Host that every node answers to.
fn request(call: &Call, authority: &str, body: Bytes) -> Result<Request<Full<Bytes>>, warp::http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(call.target())
        .header(HOST, authority)
        .header(RELAYED, HeaderValue::from_static("true"));
    // The leader judges the same token, with its own file.
    if let Some(authorization) = call.headers.get(AUTHORIZATION) {
        request = request.header(AUTHORIZATION, authorization);
    }
    if let Some(id) = call.headers.get(REQUEST_ID) {
        request = request.header(REQUEST_ID, id);
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    request.body(Full::new(body))
}

/// One request on a connection of its own.
async fn exchange(
    stream: Socket,
    request: Request<Full<Bytes>>,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        // With the sender the connection ends.
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head, body))
    };
    let (answer, _) = join(asked, connection).await;
    let (head, body) = answer?;
    let mut response = HttpResponse::new(body.into());
    *response.status_mut() = head.status;
    for name in [CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}
