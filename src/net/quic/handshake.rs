//! What both ends configure TLS and QUIC with, and how a judgement of the other end's certificate gets out of TLS.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionError, ConnectionId, ConnectionIdGenerator, TransportConfig, VarInt};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version,
};

use super::identity::{Fault, Identity};
use super::{CODE_REFUSED, PROTOCOL};
use crate::base::Slot;
use crate::net::stream::End;

/// How long a connection may be silent before it is dead; as long as written bytes may stay unacknowledged over TCP.
const IDLE_MAX_MS: u32 = 8_000;
/// How often the dialer asks whether the other end still lives, while it has nothing to say: several times before that.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// What the round trip is taken for until it is known: on the networks of a cluster it is shorter. From it follows how
/// soon the first packet to a peer that has just come is repeated.
const ROUND_TRIP: Duration = Duration::from_millis(30);
/// Bytes that may be under way on a stream and not yet read: 2.5 Gbit/s times 3 ms, or 4 ms of what two cores encrypt and decrypt,
/// which is what a live message waits behind bulk at most. A connection may have as many for each of its streams, so that a lane
/// whose bytes nobody reads leaves room for the other.
const WINDOW_BYTES: u32 = 1 << 20;
/// Streams that a dialer may open: one for the frames of each lane.
const STREAMS_OF_DIALER: u32 = 2;
/// Streams that a listener may open: the one for its welcome.
const STREAMS_OF_LISTENER: u32 = 1;

/// Bytes of a connection's name in its packets.
const CONNECTION_ID_BYTES: usize = 8;

/// What TLS was told about the other end's certificate: it gives its own words for why a handshake failed, and only to
/// people.
pub(super) type Verdict = Arc<OnceLock<Result<Slot, Fault>>>;

/// Judges the other end of one connection.
#[derive(Debug)]
struct Judge {
    identity: Arc<Identity>,
    /// The slot that was dialed, on the dialer's side.
    dialed: Option<Slot>,
    verdict: Verdict,
}

impl Judge {
    fn new(identity: &Arc<Identity>, dialed: Option<Slot>) -> (Arc<Self>, Verdict) {
        let verdict = Verdict::default();
        (Arc::new(Self { identity: Arc::clone(identity), dialed, verdict: Arc::clone(&verdict) }), verdict)
    }

    /// Notes what `verify` says, and that the certificate names one node.
    fn note(&self, leaf: &CertificateDer<'_>, verified: Result<(), rustls::Error>) -> Result<(), rustls::Error> {
        let (verdict, told) = match verified {
            Err(error) => (Err(Fault::of(&error)), Err(error)),
            Ok(()) => match self.identity.named_by(leaf) {
                Ok(slot) if self.dialed.is_none_or(|dialed| dialed == slot) => (Ok(slot), Ok(())),
                _ => (Err(Fault::OtherNode), Err(CertificateError::NotValidForName.into())),
            },
        };
        // Each end shows one certificate in a handshake.
        let _ = self.verdict.set(verdict);
        told
    }
}

impl ClientCertVerifier for Judge {
    /// No hints: a dialer has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.identity.clients().verify_client_cert(leaf, between, now);
        self.note(leaf, verified.map(|_| ()))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.clients().verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.clients().verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.clients().supported_verify_schemes()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.identity.servers().verify_server_cert(leaf, between, name, ocsp, now);
        self.note(leaf, verified.map(|_| ()))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.servers().verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.identity.servers().verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.identity.servers().supported_verify_schemes()
    }
}

/// What one connection to the node in `dialed` is made with.
pub(super) fn dialing(identity: &Arc<Identity>, dialed: Slot) -> (quinn::ClientConfig, Verdict) {
    let (judge, verdict) = Judge::new(identity, Some(dialed));
    let mut tls = ClientConfig::builder_with_provider(identity.provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.own())));
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A resumed connection would show no certificate, and 0-RTT can be replayed.
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has the suite of initial packets");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport(STREAMS_OF_LISTENER);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    (config, verdict)
}

/// What one connection is accepted with.
pub(super) fn accepting(identity: &Arc<Identity>) -> (Arc<QuicServerConfig>, Verdict) {
    let (judge, verdict) = Judge::new(identity, None);
    let mut tls = ServerConfig::builder_with_provider(identity.provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(judge)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.own())));
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has the suite of initial packets");
    (Arc::new(crypto), verdict)
}

/// What a listener accepts connections with: all but what TLS judges by, which is each connection's own.
pub(super) fn listening(identity: &Arc<Identity>, strangers_max: usize) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(accepting(identity).0);
    config.transport_config(Arc::new(transport(STREAMS_OF_DIALER)));
    config.migration(false);
    // Each is taken up at once, so these bound what comes in within one turn of the listener.
    config.max_incoming(strangers_max);
    config.incoming_buffer_size(16 << 10);
    config.incoming_buffer_size_total(1 << 20);
    config
}

/// What both ends have in common; `streams` is how many the other one may open.
fn transport(streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_concurrent_uni_streams(VarInt::from_u32(streams));
    config.max_concurrent_bidi_streams(VarInt::from_u32(0));
    config.max_idle_timeout(Some(VarInt::from_u32(IDLE_MAX_MS).into()));
    config.initial_rtt(ROUND_TRIP);
    config.stream_receive_window(VarInt::from_u32(WINDOW_BYTES));
    config.receive_window(VarInt::from_u32(STREAMS_OF_DIALER * WINDOW_BYTES));
    config.send_window(u64::from(STREAMS_OF_DIALER * WINDOW_BYTES));
    config.datagram_receive_buffer_size(None);
    config.allow_spin(false);
    config
}

/// Why a handshake, or what follows it at once, came to nothing.
pub(super) fn end_of(error: ConnectionError, verdict: &Verdict) -> End {
    if let Some(Err(fault)) = verdict.get() {
        return fault.clone().into();
    }
    match error {
        ConnectionError::TransportError(error) => match u64::from(error.code) {
            // TLS's alert certificate_required, which QUIC carries as 0x100 and the alert's number (RFC 9001, 4.8).
            0x174 => Fault::Missing.into(),
            0x100..0x200 => Fault::Handshake(error.reason).into(),
            _ => End::Broken(std::io::Error::other(error.to_string())),
        },
        ConnectionError::ConnectionClosed(close) if (0x100..0x200).contains(&u64::from(close.error_code)) => {
            End::RefusedByPeer(close.to_string())
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_REFUSED => {
            End::RefusedByPeer(String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::VersionMismatch => Fault::Handshake(error.to_string()).into(),
        error => End::Broken(error.into()),
    }
}

/// Now, as certificates count time.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// The certificates that the other end of an open connection has shown.
pub(super) fn shown(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    shown.map(|shown| *shown).unwrap_or_default()
}

/// Names connections by random numbers. Any name may have been given by an earlier life of this node; quinn's own generator
/// recognises those of one life only, and would pass over packets to another one without a word.
pub(super) struct ConnectionIds;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; CONNECTION_ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes the tokens of stateless resets.
pub(super) struct ResetKey(pub [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = blake3::Hash::from_slice(signature).map_err(|_| CryptoError)?;
        // Comparing hashes, unlike comparing slices, takes constant time.
        if blake3::keyed_hash(&self.0, data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}
