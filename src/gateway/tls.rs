//! HTTPS: what a gateway shows clients, and how TLS and plain HTTP share a port.
//!
//! ```text
//! first byte ─┬─ 0x16, a TLS handshake ─▶ TLS 1.2 or 1.3 (ALPN h2, http/1.1) ─▶ HTTP
//!             └─ anything else ─┬─ plain HTTP is spoken too ────────────────────▶ HTTP
//!                               └─ it isn't ─▶ 400, closed
//! ```
//!
//! No redirect to `https://` is sent: whoever sends a token unencrypted should notice, not be helped to do it again each time.
//!
//! The same certificates serve as a client where a node passes an operator's request on to the leader's gateway (`relay`): it
//! believes gateways of `tls_authority`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::either::Either;

use super::listen::Connection;

/// A client's connection, with TLS or without.
pub(super) type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What a TLS record of a handshake begins with (RFC 8446, section 5.1). No method of HTTP does.
const HANDSHAKE: u8 = 0x16;

/// How long a handshake may take, whatever a head may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long whoever spoke plain HTTP may take to hang up after it was told.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const REFUSAL: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: 156\r\n\r\n\
    {\"type\":\"urn:jumpgate:problem:https-required\",\"title\":\"HTTPS required\",\"status\":400,\"detail\":\"this port speaks \
    HTTPS only: use https://\",\"outcome\":\"definite\"}";

/// The files that TLS is made of, as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsPems {
    /// The certificate, and those between it and its authority.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The certificates of the authorities of all gateways.
    pub authority: Option<Vec<u8>>,
}

/// One of these files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate.
    Certificate,
    /// Its private key.
    Key,
    /// The authorities' certificates.
    Authority,
}

/// Why files are no use for TLS.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct TlsError {
    /// Which of them is to blame.
    pub file: TlsFile,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

/// What a gateway shows clients.
///
/// Invariant: the key is that of the certificate, which was valid when it was taken over, and of the authority where there is
/// one.
pub struct TlsIdentity {
    pems: TlsPems,
    chain: Vec<CertificateDer<'static>>,
    server: Arc<ServerConfig>,
    /// How this node's own requests to other gateways are made; none without an authority.
    client: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsIdentity({} certificates)", self.chain.len())
    }
}

impl TlsIdentity {
    /// Makes it of its files, at the time `now`.
    ///
    /// # Errors
    /// Where a file isn't what it should be, or they don't fit together.
    pub fn parse(pems: TlsPems, now: SystemTime) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&pems.certificate, TlsFile::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&pems.key)
            .map_err(|error| wrong(TlsFile::Key, format!("it holds no private key in PEM: {error}")))?;
        let own = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(TlsFile::Key, "it is not the key of the certificate; put both there together")
            }
            error => wrong(TlsFile::Key, format!("it can't be used with the certificate: {error}")),
        })?;
        let mut roots = RootCertStore::empty();
        if let Some(authority) = &pems.authority {
            for certificate in certificates(authority, TlsFile::Authority)? {
                roots.add(certificate).map_err(|error| wrong(TlsFile::Authority, error.to_string()))?;
            }
        }
        let judged = judge(&chain, &roots, &provider, now).map_err(|problem| wrong(TlsFile::Certificate, problem));
        judged?;
        let unusable = |error: rustls::Error| wrong(TlsFile::Certificate, format!("TLS can't be set up: {error}"));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = pems.authority.is_some().then(|| Arc::new(client));
        Ok(Self { pems, chain, server: Arc::new(server), client })
    }

    /// Whether it is made of the same files.
    #[must_use]
    pub fn is_of(&self, pems: &TlsPems) -> bool {
        self.pems == *pems
    }

    /// Whether its certificate will have expired once `ahead` has passed.
    #[must_use]
    pub fn expires_within(&self, now: SystemTime, ahead: Duration) -> bool {
        let provider = rustls::crypto::ring::default_provider();
        validity(&self.chain, &RootCertStore::empty(), &provider, now + ahead) == Some(Time::Over)
    }
}

/// The certificates in force.
#[derive(Debug)]
pub struct Tls(ArcSwap<TlsIdentity>);

impl Tls {
    /// Those of `identity`.
    #[must_use]
    pub fn new(identity: TlsIdentity) -> Self {
        Self(ArcSwap::from_pointee(identity))
    }

    /// What is in force.
    #[must_use]
    pub fn identity(&self) -> Arc<TlsIdentity> {
        self.0.load_full()
    }

    /// New connections are shown another certificate from here on.
    pub fn replace(&self, identity: TlsIdentity) {
        self.0.store(Arc::new(identity));
    }

    /// How this node speaks to other gateways; not at all where it knows no authority to judge them by.
    pub(super) fn client(&self) -> Option<Arc<ClientConfig>> {
        self.0.load().client.clone()
    }
}

/// The connection as it is read from here on, once it is known what it speaks; none where it is over.
pub(super) async fn accept(mut stream: TcpStream, connection: &Connection) -> Option<Socket> {
    let options = &connection.shared.options;
    let Some(tls) = &options.tls else { return Some(Socket::Left(stream)) };
    let deadline = Instant::now() + options.header_timeout.min(HANDSHAKE_TIMEOUT);
    let mut first = [0];
    match timeout_at(deadline, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return None,
    }
    if first == [HANDSHAKE] {
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.identity().server));
        return match timeout_at(deadline, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(Socket::Right(Box::new(TlsStream::Server(stream)))),
            Ok(Err(error)) => {
                tracing::debug!(peer = %connection.peer, %error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        };
    }
    if options.http {
        return Some(Socket::Left(stream));
    }
    let _ = timeout(REFUSAL_TIMEOUT, refuse(&mut stream)).await;
    None
}

/// Says that TLS is spoken here, and waits for the client to hang up, so that it hears that.
async fn refuse(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    let mut thrown_away = [0; 1024];
    while stream.read(&mut thrown_away).await? > 0 {}
    Ok(())
}

fn wrong(file: TlsFile, problem: impl Into<String>) -> TlsError {
    TlsError { file, problem: problem.into() }
}

fn certificates(pem: &[u8], file: TlsFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(file, "it holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(file, format!("it holds no certificate in PEM: {error}"))),
    }
}

/// Whether clients would believe a certificate; what to do about it where they wouldn't. Without an authority only its time
/// is judged.
fn judge(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<(), String> {
    let again = "make a new one, with `jumpgate cert` for example";
    match validity(chain, roots, provider, now) {
        None => Ok(()),
        Some(Time::Over) => Err(format!("it has expired; {again}")),
        Some(Time::NotYet) => Err(format!("it is not valid yet; is this machine's clock right? If so, {again}")),
        Some(Time::Fits(_)) if roots.is_empty() => Ok(()),
        Some(Time::Fits(error)) => Err(format!("clients wouldn't believe it by [security] tls_authority: {error}")),
    }
}

#[derive(PartialEq)]
enum Time {
    Over,
    NotYet,
    /// Its time is right, and something else isn't.
    Fits(String),
}

/// What is wrong with a certificate. Its time is looked at before its authority.
fn validity(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Option<Time> {
    let (leaf, between) = chain.split_first()?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let judged = ParsedCertificate::try_from(leaf).and_then(|leaf| {
        let algorithms = provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, roots, between, now, algorithms)
    });
    match judged {
        Ok(()) => None,
        Err(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Some(Time::Over)
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Some(Time::NotYet),
        Err(error) => Some(Time::Fits(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::api::json::ProblemJson;

    #[test]
    fn the_refusal_says_its_own_length() {
        let text = std::str::from_utf8(REFUSAL).expect("it is ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "the body has {} bytes", body.len());
        let problem: ProblemJson = serde_json::from_str(body).expect("it is a problem");
        assert_eq!(problem.status, 400);
    }

    /// An authority in PEM, and what it makes for `localhost` (certificate, key), valid in the given years.
    fn made(from: i32, to: i32) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&pair).expect("an authority");
        let issuer = Issuer::new(params, pair);
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&pair, &issuer).expect("a certificate");
        (authority.pem().into_bytes(), certificate.pem().into_bytes(), pair.serialize_pem().into_bytes())
    }

    fn parse(certificate: &[u8], key: &[u8], authority: Option<&[u8]>) -> Result<TlsIdentity, TlsError> {
        let pems =
            TlsPems { certificate: certificate.to_vec(), key: key.to_vec(), authority: authority.map(<[u8]>::to_vec) };
        // The middle of 2026: certificates of tests don't go by the machine's clock.
        TlsIdentity::parse(pems, UNIX_EPOCH + Duration::from_secs(1_782_864_000))
    }

    #[test]
    fn files_that_fit_are_taken_and_others_are_named() {
        let (authority, certificate, key) = made(2020, 2030);
        let (other_authority, _, other_key) = made(2020, 2030);
        let identity = parse(&certificate, &key, Some(&authority)).expect("they fit");
        assert!(identity.client.is_some());
        let now = UNIX_EPOCH + Duration::from_secs(1_782_864_000);
        let year = Duration::from_secs(366 * 24 * 60 * 60);
        assert!(!identity.expires_within(now, year) && identity.expires_within(now, 4 * year));
        assert!(parse(&certificate, &key, None).expect("they fit").client.is_none());
        let (old_authority, old, old_key) = made(2020, 2021);
        let (_, new, new_key) = made(2029, 2030);
        for (certificate, key, authority, file, problem) in [
            (&certificate, &other_key, None, TlsFile::Key, "not the key of the certificate"),
            (&certificate, &b"rubbish".to_vec(), None, TlsFile::Key, "no private key"),
            (&key, &key, None, TlsFile::Certificate, "no certificate"),
            (&certificate, &key, Some(&key), TlsFile::Authority, "no certificate"),
            (&certificate, &key, Some(&other_authority), TlsFile::Certificate, "tls_authority"),
            (&old, &old_key, None, TlsFile::Certificate, "expired"),
            (&old, &old_key, Some(&old_authority), TlsFile::Certificate, "expired"),
            (&new, &new_key, None, TlsFile::Certificate, "not valid yet"),
        ] {
            let error = parse(certificate, key, authority.map(Vec::as_slice)).expect_err(problem);
            assert!(error.file == file && error.problem.contains(problem), "{error:?} instead of {problem}");
        }
    }
}
