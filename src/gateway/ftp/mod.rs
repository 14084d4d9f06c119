//! FTP, on every node: the tree of [`crate::files`] for those who have an FTP client and nothing else.
//!
//! The protocol is libunftp's. What is ours: who may connect and how many (this file), who they are (`login`), what their
//! commands do (`backend`), where data connections are opened (`passive`), and how much a client may send (`relay`).
//!
//! ```text
//! accept ─▶ a permit is free ─▶ silent until the greeting ─▶ relay ─▶ libunftp, a server for this connection alone
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
mod relay;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libunftp::options::{FtpsRequired, PassiveHost, SiteMd5};
use libunftp::{Server, ServerBuilder, ServerError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unftp_core::auth::UserDetailProvider;

use self::backend::Backend;
use self::login::{Login, Visitor};
use self::passive::{DataConnections, Passive};
use self::relay::Rules;
use super::GatewayOptions;
use crate::port::Core;

/// Sessions at once.
const SESSIONS_MAX: usize = 500;
/// Transfers at once: each holds up to five chunks.
const TRANSFERS_MAX: usize = 64;
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
    /// How long a session may rest between two commands, or a line take; in whole seconds.
    pub idle_timeout: Duration,
    /// How long a client may pause in the middle of a transfer, or not read what it asked for.
    pub pause_max: Duration,
    /// What holds for all gateways of the node.
    pub gateway: GatewayOptions,
}

impl FtpOptions {
    /// How long a session may rest, unless a test says otherwise.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
    /// The longest pause of a transfer, unless a test says otherwise.
    pub const PAUSE_MAX: Duration = Duration::from_secs(60);
}

/// The FTP server.
#[derive(Debug)]
pub struct Ftp;

/// What all sessions share.
pub(super) struct Shared {
    core: Arc<dyn Core>,
    options: FtpOptions,
    transfers: Arc<Semaphore>,
    /// Data connections.
    relays: TaskTracker,
    /// Stop whatever you are doing.
    abort: CancellationToken,
}

impl Ftp {
    /// Serves `core` on `listener` until `shutdown` is cancelled, then until transfers are done or the drain time-out has
    /// passed.
    pub async fn serve(listener: TcpListener, core: Arc<dyn Core>, options: FtpOptions, shutdown: CancellationToken) {
        let sessions = Arc::new(Semaphore::new(SESSIONS_MAX.min(options.gateway.connections_max)));
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        let (relays, abort) = (TaskTracker::new(), CancellationToken::new());
        let shared = Arc::new(Shared { core, options, transfers, relays, abort });
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
        shared.relays.close();
        let transfers_end = async {
            let _all = shared.transfers.acquire_many(all).await;
            // What was read from the store may still be on its way to the client.
            shared.relays.wait().await;
        };
        if timeout(shared.options.gateway.drain_timeout, transfers_end).await.is_err() {
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
    let taken = async { Ok::<_, io::Error>((stream.local_addr()?.ip(), relay::pair().await?)) };
    let (local, (ours, theirs)) = match taken.await {
        Ok(taken) => taken,
        Err(error) => return tracing::debug!(%peer, %error, "a connection could not be taken over"),
    };
    let data = DataConnections::default();
    let server = match session(&shared, local, peer.ip(), &data) {
        Ok(server) => server,
        Err(error) => return tracing::warn!(%error, "an FTP session can't be served"),
    };
    // libunftp ends a session that rests, and says so. It doesn't watch a client that asks for TLS and then says nothing.
    let (idle, pause_max) = (shared.options.idle_timeout * 2, shared.options.pause_max);
    let carrying = async {
        tokio::select! {
            () = relay::carry_control(stream, ours, pause_max, (idle, &data)) => {}
            () = closing.cancelled() => {}
        }
    };
    // libunftp ends a session when its connection ends, and offers no other way.
    let _ = tokio::join!(server.service(theirs), carrying);
}

/// A server for one session, of the client at `peer` that has connected to `local`.
fn session(
    shared: &Arc<Shared>,
    local: IpAddr,
    peer: IpAddr,
    data: &DataConnections,
) -> Result<Server<Backend, Visitor>, ServerError> {
    let login = Arc::new(Login::new(Arc::clone(&shared.options.gateway.guard), peer));
    let provider: Arc<dyn UserDetailProvider<User = Visitor> + Send + Sync> = Arc::<Login>::clone(&login);
    let for_backend = Arc::clone(shared);
    let generator = Box::new(move || Backend::new(Arc::clone(&for_backend)));
    let ports = shared.options.passive_ports.clone();
    let only_tls = shared.options.tls.is_some() && !shared.options.plain;
    let rules = Rules { only_tls, pause_max: shared.options.pause_max };
    // PASV has no way to name an address of IPv6; clients take this one for that of the control connection.
    let host = match local.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let mut builder = ServerBuilder::with_user_detail_provider(generator, provider)
        .authenticator(login)
        .greeting(GREETING)
        .idle_session_timeout(shared.options.idle_timeout.as_secs())
        .sitemd5(SiteMd5::None)
        .passive_host(PassiveHost::Ip(host))
        .binder(Passive::new((local, peer), ports, rules, data.clone(), shared.relays.clone()));
    if let Some((certificate, key)) = &shared.options.tls {
        let required = if only_tls { FtpsRequired::All } else { FtpsRequired::None };
        builder = builder.ftps(certificate, key).ftps_required(required, required);
    }
    builder.build()
}
