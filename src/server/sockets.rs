//! What one node listens on.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::streams::StreamSocket;
use super::{ServerError, ftp};
use crate::base::Slot;
use crate::config::{Config, Ports, Transport};
use crate::net::listen::{self, BindError};

/// The bound sockets of one node.
#[derive(Debug)]
pub struct Sockets {
    pub(super) pulse: UdpSocket,
    pub(super) stream: StreamSocket,
    pub(super) gateway: TcpListener,
    pub(super) ftp: Option<TcpListener>,
}

impl Sockets {
    /// Binds what the node in `slot` listens on.
    ///
    /// # Errors
    /// Where an address is taken or can't be had: the error names it and its setting.
    pub fn bind(config: &Config, slot: Slot) -> Result<Self, BindError> {
        let node = &config.nodes[slot.index()];
        let what = |plane: &str| format!("{plane} of node {}, setting [[node]] {plane}", node.id);
        Ok(Self {
            pulse: listen::udp(&what("pulse"), &node.bind_pulse.to_string())?,
            stream: StreamSocket::bind(config.stream.transport, &what("stream"), &node.bind_stream.to_string())?,
            gateway: listen::tcp(&what("gateway"), &node.bind_gateway.to_string())?,
            ftp: ftp::bind(config, slot)?,
        })
    }

    /// Binds a node on loopback with streams over TCP: free ports for its planes, `gateway` for clients (0: a free one too).
    ///
    /// # Errors
    /// Where `gateway` is taken.
    pub fn bind_loopback(gateway: u16) -> Result<Self, BindError> {
        Ok(Self {
            pulse: listen::udp("pulse", "127.0.0.1:0")?,
            stream: StreamSocket::bind(Transport::Tcp, "stream", "127.0.0.1:0")?,
            gateway: listen::tcp("gateway, --port", &format!("127.0.0.1:{gateway}"))?,
            ftp: None,
        })
    }

    /// The same with FTP on loopback, at this port (0: a free one).
    ///
    /// # Errors
    /// Where it is taken.
    pub fn with_ftp(self, port: u16) -> Result<Self, BindError> {
        Ok(Self { ftp: Some(listen::tcp("ftp, --ftp", &format!("127.0.0.1:{port}"))?), ..self })
    }

    /// The port of FTP, where it is served.
    #[must_use]
    pub fn ftp_port(&self) -> Option<u16> {
        self.ftp.as_ref()?.local_addr().ok().map(|address| address.port())
    }

    /// The ports that they have.
    ///
    /// # Errors
    /// Where the system can't tell.
    pub fn ports(&self) -> Result<Ports, ServerError> {
        let port = |address: io::Result<SocketAddr>| address.map(|address| address.port());
        let read = || {
            Ok(Ports {
                pulse: port(self.pulse.local_addr())?,
                stream: port(self.stream.local_addr())?,
                gateway: port(self.gateway.local_addr())?,
            })
        };
        read().map_err(ServerError::system("reading a socket's address"))
    }
}
