//! Authorities and certificates for tests, and ends of connections that are driven by hand.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::identity::{Identity, Pems};
use super::listener::welcome;
use super::{dialer, handshake};
use crate::base::Slot;
use crate::net::listen;

pub(in crate::net) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What certificates call the nodes of a test.
pub(in crate::net) fn names() -> Vec<String> {
    (1..=3).map(|node| format!("n{node}.store.jumpgate")).collect()
}

/// Who makes certificates.
pub(in crate::net) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// How many days from now a certificate begins to be valid, and ends.
pub(in crate::net) type Days = (i64, i64);
pub(in crate::net) const NOW: Days = (-1, 30);

impl Authority {
    pub(in crate::net) fn new() -> Self {
        let mut params = params(&[], (-100, 100));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate().expect("ring makes keys");
        Self(CertifiedIssuer::self_signed(params, key).expect("it is sound"))
    }

    /// The one that the nodes of a test have, unless the test is about authorities.
    pub(in crate::net) fn common() -> &'static Self {
        static COMMON: OnceLock<Authority> = OnceLock::new();
        COMMON.get_or_init(Self::new)
    }

    pub(in crate::net) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The files of a node whose certificate has these names; it believes this authority.
    pub(in crate::net) fn issue(&self, names: &[&str], days: Days) -> Pems {
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = params(names, days).signed_by(&key, &self.0).expect("it is sound");
        Pems {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authority: self.pem().into_bytes(),
        }
    }

    /// The identity of the node in `slot`.
    pub(in crate::net) fn identity(&self, slot: Slot) -> Arc<Identity> {
        identity_of(self.issue(&[&names()[slot.index()]], NOW), slot)
    }
}

fn params(names: &[&str], (from, to): Days) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("they are names");
    let today = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    let at = |days: i64| match days {
        0.. => today + DAY * days.unsigned_abs() as u32,
        _ => today - DAY * days.unsigned_abs() as u32,
    };
    (params.not_before, params.not_after) = (at(from), at(to));
    params
}

/// An identity that this node takes for its own.
pub(in crate::net) fn identity_of(pems: Pems, slot: Slot) -> Arc<Identity> {
    Arc::new(Identity::parse(pems, &names(), slot, SystemTime::now()).expect("it is sound"))
}

/// An identity that no sound node would take for its own.
pub(in crate::net) fn rogue(pems: Pems, slot: Slot) -> Arc<Identity> {
    Arc::new(Identity::unjudged(pems, &names(), slot).expect("it is made of certificates"))
}

pub(in crate::net) fn endpoint(server: Option<quinn::ServerConfig>) -> Endpoint {
    let socket = listen::udp("test", "127.0.0.1:0").expect("a free port");
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).expect("a runtime")
}

/// Dials as slot 0 by hand, up to the moment when frames are expected.
pub(in crate::net) async fn dial(identity: &Arc<Identity>, address: SocketAddr) -> (Connection, SendStream) {
    let opened = dialer::open(&endpoint(None), identity, address, (Slot(0), Slot(1))).await;
    let (connection, [live, _]) = opened.expect("it is let in");
    (connection, live)
}

/// A listener in slot 1 that is driven by hand.
pub(in crate::net) struct Listening(Endpoint);

impl Listening {
    pub(in crate::net) fn start() -> Self {
        Self(endpoint(Some(handshake::listening(&Authority::common().identity(Slot(1)), 16))))
    }

    pub(in crate::net) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Lets a dialer in, which is in slot 0, and gives its frames.
    pub(in crate::net) async fn accept(&self) -> (Connection, RecvStream) {
        let connection = self.0.accept().await.expect("it is open").await.expect("it is let in");
        let mut to_peer = connection.open_uni().await.expect("it is open");
        to_peer.write_all(&welcome(Slot(1), Slot(0))).await.expect("it is read");
        to_peer.finish().expect("it is open");
        let frames = connection.accept_uni().await.expect("frames come");
        (connection, frames)
    }
}
