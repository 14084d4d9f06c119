//! Somebody who dials a node's streams with whatever certificate it likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;

/// Longer than anything takes here: a node that neither answers nor closes is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From which day to which a certificate is valid; today is 0.
pub type Days = (i32, i32);

/// What a dialer shows for itself.
#[derive(Debug)]
pub enum Shown {
    /// A certificate that the cluster's own authority has made.
    Made { name: &'static str, days: Days },
    /// One of another authority.
    Foreign { name: &'static str },
    /// None.
    Nothing,
}

/// Dials one node.
pub struct Dialer {
    folder: PathBuf,
    port: u16,
    called: &'static str,
}

impl Dialer {
    /// For the node `called` so that listens on `port`; its authority is in `folder`.
    pub fn new(folder: &Path, port: u16, called: &'static str) -> Self {
        Self { folder: folder.to_owned(), port, called }
    }

    /// A certificate of the authority, and its key.
    pub fn make(&self, name: &str, days: Days) -> (String, String) {
        let key = fs::read_to_string(self.folder.join("authority.key")).expect("it was made");
        made_by(KeyPair::from_pem(&key).expect("it is a key"), name, days)
    }

    pub fn dial(&self, shown: &Shown) -> Dialed {
        let runtime = Runtime::new().expect("a runtime");
        let connection = runtime.block_on(async {
            let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
            endpoint.set_default_client_config(self.config(shown));
            let dialing = endpoint.connect(([127, 0, 0, 1], self.port).into(), self.called).expect("an address");
            let dialed = async {
                let connection = dialing.await.ok()?;
                // Its own side of the handshake may be over before the other end has judged it.
                let mut said = connection.accept_uni().await.ok()?;
                let welcome = said.read_to_end(64).await.ok()?;
                assert_eq!(&welcome[..6], b"jgsw\x01\x00", "what a node says is this");
                let stream = connection.open_uni().await.ok()?;
                Some((endpoint, connection, stream))
            };
            tokio::time::timeout(PATIENCE, dialed).await.expect("it is answered or refused")
        });
        Dialed { runtime, connection }
    }

    /// Begins `count` handshakes with the node, and says nothing more in any of them.
    pub fn begin_and_fall_silent(&self, count: usize) {
        /// Fewer than a socket's buffer holds.
        const AT_A_TIME: usize = 50;
        let runtime = Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        // They are dialed to a trap, and what comes there first goes on to the node. Its answers get lost.
        let trap = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        trap.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let at = trap.local_addr().expect("it is bound");
        let (mut begun, mut packet) = (0, [0; 2048]);
        while begun < count {
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
            let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let config = self.config(&Shown::Nothing);
            let dial = || endpoint.connect_with(config.clone(), at, self.called).expect("it is an address");
            let dialing: Vec<_> = (0..AT_A_TIME).map(|_| dial()).collect();
            for _ in 0..AT_A_TIME {
                let (bytes, _) = trap.recv_from(&mut packet).expect("it dials");
                silent.send_to(&packet[..bytes], ("127.0.0.1", self.port)).expect("loopback takes it");
                begun += 1;
            }
            drop(dialing);
        }
    }

    fn config(&self, shown: &Shown) -> quinn::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.folder.join("authority.pem")).expect("it was made");
        roots.add(authority).expect("it is one");
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_root_certificates(roots);
        let made = match shown {
            Shown::Made { name, days } => Some(self.make(name, *days)),
            Shown::Foreign { name } => Some(made_by(KeyPair::generate().expect("a key"), name, (-1, 9))),
            Shown::Nothing => None,
        };
        let mut tls = match made {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is one")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("it is one");
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"jumpgate-stream/1".to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("it has the suite")))
    }
}

fn made_by(authority: KeyPair, name: &str, (from, to): Days) -> (String, String) {
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, "jumpgate development authority");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
    let today = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    let at = |days: i32| if days < 0 { today - DAY * days.unsigned_abs() } else { today + DAY * days.unsigned_abs() };
    (params.not_before, params.not_after) = (at(from), at(to));
    let key = KeyPair::generate().expect("a key");
    let made = params.signed_by(&key, &Issuer::new(issuer, authority)).expect("it is sound");
    (made.pem(), key.serialize_pem())
}

/// What became of a dial.
pub struct Dialed {
    runtime: Runtime,
    connection: Option<(quinn::Endpoint, quinn::Connection, quinn::SendStream)>,
}

impl Dialed {
    /// Whether it was let in.
    pub fn is_welcome(&self) -> bool {
        self.connection.is_some()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let (_, _, stream) = self.connection.as_mut().expect("it was let in");
        self.runtime.block_on(stream.write_all(bytes)).expect("it is read");
    }

    /// Waits until the node closes the connection.
    pub fn until_closed(self) {
        let (_, connection, _stream) = self.connection.as_ref().expect("it was let in");
        let closed = async { tokio::time::timeout(PATIENCE, connection.closed()).await };
        self.runtime.block_on(closed).expect("it is closed");
    }
}
