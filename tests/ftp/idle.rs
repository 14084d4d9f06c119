//! Sessions and transfers that rest: each is cut off after its time, and gives back what it held.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use jumpgate::gateway::{Ftp as Server, FtpOptions, GatewayOptions};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::mock_core::MockCore;
use super::secured::{Made, is_late};
use super::{Ftp, bytes};

/// An FTP server alone, over a core that is a map.
struct Served {
    port: u16,
    _runtime: Runtime,
}

fn serve(change: impl FnOnce(&mut FtpOptions)) -> Served {
    let runtime = Runtime::new().expect("a runtime");
    let mut options = FtpOptions {
        passive_ports: None,
        tls: None,
        plain: true,
        idle_timeout: FtpOptions::IDLE_TIMEOUT,
        pause_max: FtpOptions::PAUSE_MAX,
        gateway: GatewayOptions::default(),
    };
    change(&mut options);
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    runtime.spawn(Server::serve(listener, MockCore::new(), options, CancellationToken::new()));
    Served { port, _runtime: runtime }
}

#[test]
fn a_session_that_rests_is_told_so_and_ends() {
    let server = serve(|options| options.idle_timeout = Duration::from_secs(1));
    for mut session in [Ftp::connect(server.port), Ftp::log_in(server.port)] {
        assert_eq!(session.reply().expect("a word at parting").0, 221);
        let end = session.reply().expect_err("that was the last");
        assert!(!is_late(&end), "it is still there: {end}");
    }
}

#[test]
fn a_client_that_asks_for_tls_and_says_nothing_more_is_cut_off() {
    let made = Made::new();
    let server = serve(|options| {
        options.tls = Some((made.folder.file("cert.pem"), made.folder.file("key.pem")));
        options.idle_timeout = Duration::from_secs(1);
    });
    let mut session = Ftp::connect(server.port);
    assert_eq!(session.ask("AUTH TLS").0, 234);
    let end = session.reply().expect_err("there is nothing to say");
    assert!(!is_late(&end), "libunftp would wait for ever: {end}");
}

#[test]
fn an_upload_that_pauses_is_cut_off_and_changes_nothing() {
    let server = serve(|options| options.pause_max = Duration::from_millis(300));
    let mut session = Ftp::log_in(server.port);
    assert_eq!(session.give("STOR file", b"before"), 226);
    let mut data = session.passive();
    assert_eq!(session.ask("STOR file").0, 150);
    data.write_all(b"a part of it").expect("it is open");
    let (code, text) = session.reply().expect("what became of it");
    assert!((400..500).contains(&code), "{code} {text}");
    assert_eq!(session.take("RETR file"), (226, b"before".to_vec()));
}

#[test]
fn a_download_that_nobody_reads_is_cut_off() {
    let server = serve(|options| options.pause_max = Duration::from_millis(300));
    let mut session = Ftp::log_in(server.port);
    let file = bytes(48 << 20);
    assert_eq!(session.give("STOR file", &file), 226);
    let mut data = session.passive();
    assert_eq!(session.ask("RETR file").0, 150);
    let (code, text) = session.reply().expect("what became of it");
    assert!((400..500).contains(&code), "{code} {text}");
    let mut got = Vec::new();
    let end = data.read_to_end(&mut got).expect_err("it must not look whole");
    assert!(!is_late(&end) && got.len() < file.len(), "{end}: {} bytes came", got.len());
}
