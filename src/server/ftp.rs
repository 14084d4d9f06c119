//! The FTP server of a node, where the configuration asks for one and this program has one.

use std::net::TcpListener;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerError;
use crate::base::Slot;
use crate::config::Config;
use crate::gateway::GatewayOptions;
use crate::net::listen::{self, BindError};
use crate::port::Core;

/// What a program without FTP says to whoever asks for it.
#[cfg(not(feature = "ftp"))]
const WITHOUT: &str =
    "[gateway] ftp: this program was built without its feature `ftp`; remove the setting, or build it with";

/// Binds what the configuration says for the node in `slot`.
pub(super) fn bind(config: &Config, slot: Slot) -> Result<Option<TcpListener>, BindError> {
    let Some(address) = config.ftp_address(slot) else { return Ok(None) };
    let what = format!("ftp of node {}, setting [gateway] ftp", config.nodes[slot.index()].id);
    listen::tcp(&what, &address.to_string()).map(Some)
}

/// Starts it.
#[cfg(feature = "ftp")]
pub(super) fn start(
    listener: TcpListener,
    (config, slot): (&Config, Slot),
    core: Arc<dyn Core>,
    gateway: GatewayOptions,
    shutdown: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), ServerError> {
    use crate::gateway::{Ftp, FtpOptions};
    let listener =
        tokio::net::TcpListener::from_std(listener).map_err(ServerError::system("watching the FTP listener"))?;
    let tls = config.gateway_files(slot).map(|files| (files.certificate, files.key));
    let passive_ports = config.gateway.ftp_passive_ports.clone();
    let options = FtpOptions {
        passive_ports,
        tls,
        plain: config.speaks_http(),
        idle_timeout: FtpOptions::IDLE_TIMEOUT,
        pause_max: FtpOptions::PAUSE_MAX,
        gateway,
    };
    tasks.spawn(Ftp::serve(listener, core, options, shutdown));
    Ok(())
}

/// Refuses.
#[cfg(not(feature = "ftp"))]
pub(super) fn start(
    _: TcpListener,
    _: (&Config, Slot),
    _: Arc<dyn Core>,
    _: GatewayOptions,
    _: CancellationToken,
    _: &TaskTracker,
) -> Result<(), ServerError> {
    Err(ServerError::Refused(WITHOUT.to_owned()))
}
