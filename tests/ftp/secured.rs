//! Explicit TLS: on the control connection and on those of data.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Cluster, Ftp, Scratch, bytes};

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A certificate for `localhost`, in files, and who believes it.
pub(super) struct Made {
    pub(super) folder: Scratch,
    client: Arc<ClientConfig>,
}

impl Made {
    pub(super) fn new() -> Self {
        let folder = Scratch::new();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(folder.file("cert.pem"), made.cert.pem()).expect("a file");
        std::fs::write(folder.file("key.pem"), made.signing_key.serialize_pem()).expect("a file");
        std::fs::set_permissions(folder.file("key.pem"), std::fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Self { folder, client: Arc::new(client) }
    }

    fn cluster(&self, speaks_http: bool) -> Cluster {
        Cluster::start(1, |config| {
            config.security.tls_cert = Some(self.folder.file("cert.pem"));
            config.security.tls_key = Some(self.folder.file("key.pem"));
            config.gateway.http = Some(speaks_http);
        })
    }

    fn secure(&self, stream: TcpStream) -> Secured {
        let name = ServerName::try_from("localhost").expect("a name");
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.client), name).expect("a client"), stream)
    }

    /// A session over TLS, before its login.
    fn connect(&self, cluster: &Cluster) -> Ftp<Secured> {
        let mut plain = Ftp::connect(cluster.ftp[0]);
        assert_eq!(plain.ask("AUTH TLS").0, 234);
        Ftp::new(self.secure(plain.into_stream()))
    }
}

#[test]
fn commands_and_files_go_through_tls() {
    let made = Made::new();
    let cluster = made.cluster(true);
    let mut ftp = made.connect(&cluster);
    assert_eq!(ftp.ask("USER anybody").0, 331);
    assert_eq!(ftp.ask("PASS anything").0, 230);
    assert_eq!(ftp.ask("PBSZ 0").0, 200);
    assert_eq!(ftp.ask("PROT P").0, 200);
    let whole = bytes(200_000);
    let mut data = made.secure(ftp.passive());
    ftp.send(b"STOR a\r\n");
    data.write_all(&whole).expect("it is taken");
    data.conn.send_close_notify();
    data.flush().expect("it is taken");
    assert_eq!(ftp.reply().expect("a reply").0, 150);
    drop(data);
    assert_eq!(ftp.reply().expect("a reply").0, 226);
    assert_eq!(cluster.http(0, "GET /v1/files/a", b"").body, whole);

    let mut data = made.secure(ftp.passive());
    ftp.send(b"RETR a\r\n");
    let mut back = Vec::new();
    data.read_to_end(&mut back).expect("it ends as TLS does, and isn't cut off");
    assert_eq!(back, whole);
    assert_eq!(ftp.reply().expect("a reply").0, 150);
    assert_eq!(ftp.reply().expect("a reply").0, 226);
}

#[test]
fn nobody_shows_a_token_without_tls_where_plain_http_is_off() {
    let made = Made::new();
    let cluster = made.cluster(false);
    let mut plain = Ftp::connect(cluster.ftp[0]);
    for command in ["USER anybody", "PASS anything", "LIST"] {
        let (code, text) = plain.ask(command);
        assert!(code == 534 || code == 530, "{command}: {text}");
    }
    let mut ftp = made.connect(&cluster);
    assert_eq!(ftp.ask("USER anybody").0, 331);
    assert_eq!(ftp.ask("PASS anything").0, 230);
    assert_eq!(ftp.ask("MKD made").0, 257);
    // Without PROT P there is a data connection, and nothing on it.
    let (code, text) = ftp.ask("PASV");
    assert!((500..600).contains(&code), "{text}");
    let mut data = ftp.passive();
    ftp.send(b"LIST /\r\n");
    let mut bytes = Vec::new();
    let _ = data.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");
    let mut ftp = made.connect(&cluster);
    assert_eq!(ftp.ask("USER anybody").0, 331);
    assert_eq!(ftp.ask("PASS anything").0, 230);
    let mut data = ftp.passive();
    ftp.send(b"STOR a\r\n");
    let _ = data.write_all(b"plain");
    let ended = data.read(&mut [0; 1]);
    assert!(!matches!(ended, Ok(1)) && !ended.as_ref().is_err_and(is_late), "it is broken off: {ended:?}");
}

pub(super) fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

#[test]
fn without_a_certificate_tls_is_refused() {
    let cluster = Cluster::start(1, |_| {});
    let (code, text) = Ftp::connect(cluster.ftp[0]).ask("AUTH TLS");
    assert!((500..600).contains(&code), "{text}");
}
