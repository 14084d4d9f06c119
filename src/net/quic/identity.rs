//! Who a node is, and who a peer's certificate says that it is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use thiserror::Error;

use crate::base::Slot;
use crate::net::stream::End;

/// What the key of stateless resets is derived for.
const RESET_CONTEXT: &str = "jumpgate 2026 stream plane over QUIC: tokens of stateless resets";

/// The three files that an identity is made of, as they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Pems {
    /// The node's certificate, and those between it and the authority.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The certificates of the authorities whose nodes are believed.
    pub authority: Vec<u8>,
}

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityFile {
    /// The node's certificate.
    Certificate,
    /// Its private key.
    Key,
    /// The authority's certificate.
    Authority,
}

/// Why three files make no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct IdentityError {
    /// Which of them is to blame.
    pub file: IdentityFile,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl IdentityError {
    fn new(file: IdentityFile, problem: impl Into<String>) -> Self {
        Self { file, problem: problem.into() }
    }
}

/// What is wrong with a certificate that somebody shows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Fault {
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Another authority made it, or nobody.
    #[error("the certificate was not made by an authority of this cluster")]
    Foreign,
    /// It is sound, and names another node than the one that was dialed, or no single node of this cluster.
    #[error("the certificate names another node")]
    OtherNode,
    /// There is none.
    #[error("no certificate was shown")]
    Missing,
    /// It is no certificate that a node can have.
    #[error("the certificate can't be used: {0}")]
    Unusable(String),
    /// It isn't about certificates.
    #[error("TLS failed: {0}")]
    Handshake(String),
}

impl Fault {
    pub(super) fn of(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Foreign,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherNode,
                other => Self::Unusable(other.to_string()),
            },
            rustls::Error::NoCertificatesPresented => Self::Missing,
            other => Self::Unusable(other.to_string()),
        }
    }

    /// The cause in one word: a label of metrics.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Foreign => "certificate_foreign",
            Self::OtherNode => "certificate_other_node",
            Self::Missing => "no_certificate",
            Self::Unusable(_) => "bad_certificate",
            Self::Handshake(_) => "bad_handshake",
        }
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Untrusted { reason: fault.reason(), words: fault.to_string() }
    }
}

/// A node's certificate with its key, and what it judges the certificates of others by.
///
/// Invariant: the certificate was valid when it was taken over, of an authority, and names this node.
pub struct Identity {
    pems: Pems,
    me: Slot,
    /// What a certificate calls each node, by slot.
    names: Vec<ServerName<'static>>,
    own: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.names.get(self.me.index()))
    }
}

impl Identity {
    /// The identity of the node in slot `me`, which certificates call `names[me]`, at the time `now`.
    ///
    /// # Errors
    /// Where a file is not what it should be, the certificate isn't valid `now`, isn't of the authority, names another
    /// node or has another key.
    ///
    /// # Panics
    /// Where there is no name for `me`, or a name is none that a certificate can have: who gives them sees to that.
    pub fn parse(pems: Pems, names: &[String], me: Slot, now: SystemTime) -> Result<Self, IdentityError> {
        let identity = Self::unjudged(pems, names, me)?;
        let judged = identity.judge_itself(now);
        judged.map_err(|problem| IdentityError::new(IdentityFile::Certificate, problem))?;
        Ok(identity)
    }

    /// The same, whatever peers may think of it.
    pub(super) fn unjudged(pems: Pems, names: &[String], me: Slot) -> Result<Self, IdentityError> {
        use IdentityFile::{Authority, Certificate, Key};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&pems.certificate, Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&pems.key)
            .map_err(|error| IdentityError::new(Key, format!("it holds no private key in PEM: {error}")))?;
        let own = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::new(Key, "it is not the key of the certificate; put both there together")
            }
            error => IdentityError::new(Key, format!("it can't be used with the certificate: {error}")),
        })?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&pems.authority, Authority)? {
            roots.add(authority).map_err(|error| IdentityError::new(Authority, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let unusable = |error: &dyn fmt::Display| IdentityError::new(Authority, format!("it can't be used: {error}"));
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let to_name = |name: &String| ServerName::try_from(name.clone()).expect("names of nodes are DNS names");
        let names = names.iter().map(to_name).collect();
        Ok(Self { pems, me, names, own: Arc::new(own), provider, clients, servers })
    }

    /// Whether its own certificate would be believed by a peer that has the same authority; what to do about it where it
    /// wouldn't.
    fn judge_itself(&self, now: SystemTime) -> Result<(), String> {
        let name = self.names[self.me.index()].to_str();
        let slot = self.judge_dialer(&self.own.cert, now).and_then(|slot| {
            self.judge_listener(&self.own.cert, slot, now)?;
            Ok(slot)
        });
        let again = "make a new one, with `jumpgate cert` for example";
        match slot {
            Ok(slot) if slot == self.me => Ok(()),
            Ok(_) | Err(Fault::OtherNode) => {
                Err(format!("it doesn't name this node, or not this node alone: its DNS name has to be {name:?}"))
            }
            Err(Fault::Expired) => Err(format!("it has expired; {again}")),
            Err(Fault::NotYetValid) => {
                Err(format!("it is not valid yet; is this machine's clock right? If so, {again}"))
            }
            Err(Fault::Foreign) => Err("the authority of [stream] authority didn't make it".to_owned()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Whether it is made of the same files.
    #[must_use]
    pub fn is_of(&self, pems: &Pems) -> bool {
        self.pems == *pems
    }

    /// Whether its own certificate will have expired once `ahead` has passed.
    #[must_use]
    pub fn expires_within(&self, now: SystemTime, ahead: Duration) -> bool {
        self.judge_dialer(&self.own.cert, now + ahead) == Err(Fault::Expired)
    }

    /// What certificates call the node in `slot`.
    pub(super) fn name(&self, slot: Slot) -> Option<&ServerName<'static>> {
        self.names.get(slot.index())
    }

    /// Whether both show the same certificate.
    pub(super) fn shows_the_same(&self, other: &Self) -> bool {
        self.own.cert == other.own.cert
    }

    pub(super) fn own(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.own)
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    pub(super) fn clients(&self) -> &dyn ClientCertVerifier {
        &*self.clients
    }

    pub(super) fn servers(&self) -> &WebPkiServerVerifier {
        &self.servers
    }

    /// The slot of the node that the certificate of a dialer names, where it is of the authority and valid `now`.
    pub(super) fn judge_dialer(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Slot, Fault> {
        let (leaf, between) = chain.split_first().ok_or(Fault::Missing)?;
        self.clients.verify_client_cert(leaf, between, unix(now)).map_err(|error| Fault::of(&error))?;
        self.named_by(leaf)
    }

    /// Whether the certificate of a listener names the node in `slot`, is of the authority and valid `now`.
    pub(super) fn judge_listener(
        &self,
        chain: &[CertificateDer<'_>],
        slot: Slot,
        now: SystemTime,
    ) -> Result<(), Fault> {
        let (leaf, between) = chain.split_first().ok_or(Fault::Missing)?;
        let name = self.name(slot).ok_or(Fault::OtherNode)?;
        let judged = self.servers.verify_server_cert(leaf, between, name, &[], unix(now));
        judged.map(|_| ()).map_err(|error| Fault::of(&error))
    }

    /// The one node that a certificate names. One that names several, by a wildcard say, proves of none that it speaks.
    pub(super) fn named_by(&self, leaf: &CertificateDer<'_>) -> Result<Slot, Fault> {
        let leaf = ParsedCertificate::try_from(leaf).map_err(|error| Fault::of(&error))?;
        let named = |name: &ServerName<'_>| rustls::client::verify_server_name(&leaf, name).is_ok();
        let mut slots = self.names.iter().enumerate().filter(|(_, name)| named(name)).map(|(slot, _)| slot);
        match (slots.next(), slots.next()) {
            (Some(slot), None) => Ok(Slot(slot as u8)),
            _ => Err(Fault::OtherNode),
        }
    }

    /// A key for the tokens of stateless resets: the same in every life of a node that has the same private key.
    pub(super) fn reset_key(&self) -> [u8; 32] {
        blake3::derive_key(RESET_CONTEXT, &self.pems.key)
    }
}

fn certificates(pem: &[u8], file: IdentityFile) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(IdentityError::new(file, "it holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(IdentityError::new(file, format!("it holds no certificate in PEM: {error}"))),
    }
}

/// The system's clock as rustls wants it. A clock before 1970 makes every certificate not valid yet.
fn unix(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}
