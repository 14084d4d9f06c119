//! HTTPS: what is spoken on a gateway's port, for how long a handshake is waited for, and certificates that are replaced.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jumpgate::access::{self, Access, Role};
use jumpgate::api::Consistency;
use jumpgate::base::FollowerMode;
use jumpgate::client::{Client, ClientError, Credentials, PutOptions};
use jumpgate::gateway::{GatewayOptions, Guard, PeerGateway, Tls, TlsIdentity, TlsPems};
use jumpgate::port::Leadership;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw_http::{Served, soon};

/// An authority, and what it made for `localhost` and 127.0.0.1.
pub struct Made {
    pub authority: String,
    certificate: String,
    key: String,
}

impl Made {
    pub fn new() -> Self {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&pair).expect("an authority").pem();
        let issuer = Issuer::new(params, pair);
        let pair = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).and_then(|params| params.signed_by(&pair, &issuer));
        Self { authority, certificate: certificate.expect("a certificate").pem(), key: pair.serialize_pem() }
    }

    fn identity(&self) -> TlsIdentity {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let pems = TlsPems {
            certificate: bytes(&self.certificate),
            key: bytes(&self.key),
            authority: Some(bytes(&self.authority)),
        };
        TlsIdentity::parse(pems, SystemTime::now()).expect("it fits")
    }

    fn tls(&self) -> Arc<Tls> {
        Arc::new(Tls::new(self.identity()))
    }

    fn credentials(&self, token: Option<&str>) -> Credentials {
        Credentials { token: token.map(str::to_owned), authority: Some(self.authority.clone().into_bytes()) }
    }
}

/// A gateway that speaks TLS.
async fn secured(made: &Made, options: GatewayOptions) -> Served {
    Served::start(GatewayOptions { tls: Some(made.tls()), http: false, ..options }).await
}

type Version = &'static rustls::SupportedProtocolVersion;

/// A TLS connection to `served`, by the authority of `made`.
async fn connect(
    served: &Served,
    made: &Made,
    versions: &[Version],
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(made.authority.as_bytes()).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(served.address).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// Sends a request, and gives the first line of the answer.
async fn ask(stream: &mut TlsStream<TcpStream>, head: &str) -> String {
    stream.write_all(format!("{head} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("it is open");
    let mut answer = vec![0; 4096];
    let read = soon(stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken() {
    let made = Made::new();
    let served = secured(&made, GatewayOptions::default()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = connect(&served, &made, &[version], &["http/1.1"]).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        for _ in 0..2 {
            assert_eq!(ask(&mut stream, "GET /v1/kv/a").await, "HTTP/1.1 404 Not Found", "{version:?}");
        }
        let stream = connect(&served, &made, &[version], &["h2", "http/1.1"]).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = soon(hyper::client::conn::http2::handshake(executor, io)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request =
            hyper::Request::get("https://localhost/v1/kv/a").body(http_body_util::Empty::<bytes::Bytes>::new());
        let answer = soon(sender.send_request(request.expect("a request"))).await.expect("an answer");
        assert_eq!(answer.status(), 404, "{version:?}");
    }
    let other = Made::new();
    let error = connect(&served, &other, &[&rustls::version::TLS13], &[]).await.expect_err("another authority");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls_unless_it_is_wanted() {
    let made = Made::new();
    let served = secured(&made, GatewayOptions::default()).await;
    let mut client = served.connect().await;
    let answer = client.ask("PUT /v1/kv/a", b"x").await;
    assert_eq!((answer.status, answer.problem()), (400, "https-required".into()));
    client.ended().await;
    assert!(served.core.state().requests.is_empty());
    let both = GatewayOptions { tls: Some(made.tls()), http: true, ..Default::default() };
    let served = Served::start(both).await;
    assert_eq!(served.ask("PUT /v1/kv/a", b"x").await.status, 201);
    let mut stream = connect(&served, &made, &[&rustls::version::TLS13], &[]).await.expect("a handshake");
    assert_eq!(ask(&mut stream, "GET /v1/kv/a").await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_handshake_that_stalls_gives_its_permit_back() {
    let made = Made::new();
    let options =
        GatewayOptions { header_timeout: Duration::from_millis(50), connections_max: 1, ..Default::default() };
    let served = secured(&made, options).await;
    // Nothing at all; half a record; a record that is none; a length beyond what a record may have.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x02hi", b"\x16\x03\x01\xff\xff"] {
        let mut client = served.connect().await;
        client.send(start).await;
        let mut thrown_away = [0; 256];
        while soon(client.stream.read(&mut thrown_away)).await.is_ok_and(|read| read > 0) {}
    }
    // A gateway that is full says so to whoever speaks plain HTTP: it comes before TLS.
    let answer = soon(async {
        loop {
            if let Ok(mut stream) = connect(&served, &made, &[&rustls::version::TLS13], &[]).await {
                return ask(&mut stream, "GET /v1/kv/a").await;
            }
        }
    });
    assert_eq!(answer.await, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_go_on() {
    let (old, new) = (Made::new(), Made::new());
    let tls = old.tls();
    let served = Served::start(GatewayOptions { tls: Some(Arc::clone(&tls)), http: false, ..Default::default() }).await;
    let versions: [Version; 1] = [&rustls::version::TLS13];
    let mut open = connect(&served, &old, &versions, &[]).await.expect("a handshake");
    assert_eq!(ask(&mut open, "GET /v1/kv/a").await, "HTTP/1.1 404 Not Found");
    tls.replace(new.identity());
    assert!(connect(&served, &old, &versions, &[]).await.is_err(), "the old certificate is still shown");
    let mut fresh = connect(&served, &new, &versions, &[]).await.expect("the new certificate");
    assert_eq!(ask(&mut fresh, "GET /v1/kv/a").await, "HTTP/1.1 404 Not Found");
    assert_eq!(ask(&mut open, "GET /v1/kv/a").await, "HTTP/1.1 404 Not Found", "an open connection was cut off");
}

#[tokio::test]
async fn the_client_speaks_tls_and_shows_its_token() {
    let made = Made::new();
    let token = access::token_of([5; 32]);
    let line = access::line("app", Role::Write, &[], &token).expect("it can be written");
    let guard = Arc::new(Guard::new(Access::parse(line.as_bytes()).expect("a good file")));
    let served = secured(&made, GatewayOptions { guard: Arc::clone(&guard), ..Default::default() }).await;
    let url = |scheme: &str| vec![format!("{scheme}://{}", served.address)];
    let client = Client::with_credentials(url("https"), &made.credentials(Some(&token))).expect("good credentials");
    let key = "a".parse().expect("a key");
    client.put(&key, "x".into(), &PutOptions::default()).await.expect("it may write");
    let value = client.get(&key, Consistency::Linearizable).await.expect("it may read").expect("it was written");
    assert_eq!(&value.bytes[..], b"x");
    let mut feed = soon(client.watch("", true, None)).await.expect("a feed");
    assert_eq!(soon(feed.next()).await.expect("an event").kind, "live");
    let stranger = Client::with_credentials(url("https"), &made.credentials(None)).expect("good credentials");
    let refused = stranger.get(&key, Consistency::Linearizable).await.expect_err("no token");
    assert!(matches!(&refused, ClientError::Refused { problem, .. } if problem.status == 401), "{refused}");
    let misled = Client::with_credentials(url("https"), &Made::new().credentials(Some(&token))).expect("credentials");
    let misled = misled.with_timeout(Duration::from_millis(300));
    let error = misled.get(&key, Consistency::Linearizable).await.expect_err("another authority");
    assert!(error.is_unreachable() && error.to_string().contains("certificate"), "{error}");
    assert!(Client::new(url("https")).is_err_and(|error| error.is_usage()), "nobody could be told from anybody");
    guard.replace(Access::parse(b"").expect("an empty file"));
    let ended = loop {
        match soon(feed.next()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(ended.to_string().contains("not valid any more"), "{ended}");
}

#[tokio::test]
async fn an_operator_is_passed_on_over_tls_with_the_token_or_sent_to_the_leader() {
    let made = Made::new();
    let token = access::token_of([6; 32]);
    let line = access::line("operator", Role::Admin, &[], &token).expect("it can be written");
    let guard = || Arc::new(Guard::new(Access::parse(line.as_bytes()).expect("a good file")));
    let advertised = "https://localhost:7401".to_owned();
    let leader = secured(&made, GatewayOptions { guard: guard(), ..Default::default() }).await;
    let address = leader.address.to_string();
    let peers = vec![PeerGateway { advertised: advertised.clone(), address }];
    let leadership =
        Leadership { followers: FollowerMode::Relay, is_leader: false, leader_url: Some(Arc::from(&*advertised)) };
    let follower = secured(&made, GatewayOptions { guard: guard(), peers: peers.clone(), ..Default::default() }).await;
    follower.core.state().leadership = leadership.clone();
    let mut stream = connect(&follower, &made, &[&rustls::version::TLS13], &[]).await.expect("a handshake");
    let head = format!("POST /v1/admin/transfer HTTP/1.1\r\nAuthorization: Bearer {token}");
    let ask_admin = async |stream: &mut TlsStream<TcpStream>| {
        stream.write_all(format!("{head}\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("it is open");
        let mut answer = vec![0; 4096];
        let read = soon(stream.read(&mut answer)).await.expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let answer = ask_admin(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((leader.core.state().admins.len(), follower.core.state().admins.len()), (1, 0));
    // Without an authority this node can't tell who answers at the leader's address.
    let pems = TlsPems {
        certificate: made.certificate.clone().into_bytes(),
        key: made.key.clone().into_bytes(),
        authority: None,
    };
    let tls = Arc::new(Tls::new(TlsIdentity::parse(pems, SystemTime::now()).expect("it fits")));
    let options = GatewayOptions { guard: guard(), peers, tls: Some(tls), http: false, ..Default::default() };
    let trusting = Served::start(options).await;
    trusting.core.state().leadership = leadership;
    let mut stream = connect(&trusting, &made, &[&rustls::version::TLS13], &[]).await.expect("a handshake");
    let answer = ask_admin(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 307") && answer.contains("location: https://localhost:7401/v1/admin/transfer"),
        "{answer}"
    );
    assert_eq!(leader.core.state().admins.len(), 1);
}
