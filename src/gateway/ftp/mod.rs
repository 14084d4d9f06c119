//! FTP, on every node: the tree of [`crate::files`] for those who have an FTP client and nothing else.
//!
//! The protocol is libunftp's. What is ours: who may connect and how many (this file), who they are (`login`), what their
//! commands do (`backend`), and where data connections are opened (`passive`).
//!
//! ```text
//! accept ─▶ a permit is free ─▶ silent until the greeting ─▶ libunftp, a server for this connection alone
//!                 └─ none is ─▶ 421, closed      └─ it isn't ─▶ closed
//! ```
//!
//! A server speaks first in FTP. Whoever doesn't wait for that is no client of FTP but, most likely, a browser that a page has told to
//! send lines of commands to this port; it is cut off before any of them is read.
//!
//! # What is left out
//!
//! Active mode (PORT, EPRT): a server that connects to addresses that clients name can be made to connect to others'. Moving
//! bytes of a file: REST works for downloads anywhere, and for uploads at the end of the file.

mod backend;
mod login;
mod passive;

use std::net::{Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libunftp::ServerBuilder;
use libunftp::options::{FtpsRequired, SiteMd5};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backend::Backend;
use self::login::Login;
use self::passive::Passive;
use super::GatewayOptions;
use crate::port::Core;

/// Sessions at once.
const SESSIONS_MAX: usize = 500;
/// Transfers at once: each holds up to five chunks.
const TRANSFERS_MAX: usize = 64;
/// How long a session may rest between two commands, or a line take.
const IDLE_SECONDS: u64 = 300;
/// How long a client must have said nothing before it is greeted.
const SILENCE: Duration = Duration::from_millis(50);
/// How long the file's request to the store may take each.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept.
const BACK_OFF: Duration = Duration::from_millis(100);
const GREETING: &str = "jumpgate: the files of this cluster";
const REFUSAL: &[u8] = b"421 This node has as many FTP sessions as it takes\r\n";

/// What the FTP server of a node needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct FtpOptions {
    /// Ports for data connections; free ones where it isn't set.
    pub passive_ports: Option<RangeInclusive<u16>>,
    /// The certificate and its key, in PEM: read again for each session.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether plain FTP is spoken beside TLS.
    pub plain: bool,
    /// What holds for all gateways of the node.
    pub gateway: GatewayOptions,
}

/// The FTP server.
#[derive(Debug)]
pub struct Ftp;

/// What all sessions share.
pub(super) struct Shared {
    core: Arc<dyn Core>,
    options: FtpOptions,
    transfers: Arc<Semaphore>,
    /// Stop whatever you are doing.
    abort: CancellationToken,
}

impl Ftp {
    /// Serves `core` on `listener` until `shutdown` is cancelled, then until transfers are done or the drain time-out has
    /// passed.
    pub async fn serve(listener: TcpListener, core: Arc<dyn Core>, options: FtpOptions, shutdown: CancellationToken) {
        let sessions = Arc::new(Semaphore::new(SESSIONS_MAX.min(options.gateway.connections_max)));
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        let shared = Arc::new(Shared { core, options, transfers, abort: CancellationToken::new() });
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match (accepted, Arc::clone(&sessions).try_acquire_owned()) {
                (Ok((stream, peer)), Ok(permit)) => {
                    let (shared, closing) = (Arc::clone(&shared), shared.abort.clone());
                    tracker.spawn(async move {
                        serve(shared, stream, peer, closing).await;
                        drop(permit);
                    });
                }
                (Ok((mut stream, _)), Err(_)) => drop(stream.write_all(REFUSAL).await),
                (Err(error), _) => {
                    tracing::warn!(%error, "FTP connections can't be accepted at the moment");
                    sleep(BACK_OFF).await;
                }
            }
        }
        let all = u32::try_from(TRANSFERS_MAX).unwrap_or(u32::MAX);
        let done = timeout(shared.options.gateway.drain_timeout, shared.transfers.acquire_many(all)).await;
        if done.is_err() {
            tracing::warn!("the drain time-out has passed; FTP transfers are cut off");
        }
        shared.abort.cancel();
        tracker.close();
        tracker.wait().await;
    }
}

/// Serves one control connection to its end.
async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, closing: CancellationToken) {
    let mut first = [0; 1];
    if timeout(SILENCE, stream.peek(&mut first)).await.is_ok() {
        tracing::debug!(%peer, "somebody who doesn't wait for the greeting is no FTP client");
        return;
    }
    // libunftp ends a session when its connection ends, and offers no other way.
    let control = match stream.into_std().and_then(|stream| Ok((stream.try_clone()?, TcpStream::from_std(stream)?))) {
        Ok((control, stream)) => (control, stream),
        Err(error) => return tracing::debug!(%peer, %error, "a connection could not be taken over"),
    };
    let (control, stream) = control;
    let local = stream.local_addr().map(|address| address.ip());
    let login = Arc::new(Login::new(Arc::clone(&shared.options.gateway.guard)));
    let provider: Arc<dyn unftp_core::auth::UserDetailProvider<User = login::Visitor> + Send + Sync> =
        Arc::<Login>::clone(&login);
    let for_backend = Arc::clone(&shared);
    let generator = Box::new(move || Backend::new(Arc::clone(&for_backend)));
    let mut builder = ServerBuilder::with_user_detail_provider(generator, provider)
        .authenticator(login)
        .greeting(GREETING)
        .idle_session_timeout(IDLE_SECONDS)
        .sitemd5(SiteMd5::None)
        .binder(Passive::new(local.ok(), shared.options.passive_ports.clone()));
    if let Some((certificate, key)) = &shared.options.tls {
        let required = if shared.options.plain { FtpsRequired::None } else { FtpsRequired::All };
        builder = builder.ftps(certificate, key).ftps_required(required, required);
    }
    let server = match builder.build() {
        Ok(server) => server,
        Err(error) => return tracing::warn!(%error, "an FTP session can't be served"),
    };
    let session = server.service(stream);
    tokio::pin!(session);
    tokio::select! {
        _ = &mut session => {}
        () = closing.cancelled() => {
            let _ = control.shutdown(Shutdown::Both);
            let _ = session.await;
        }
    }
}
