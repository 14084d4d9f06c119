//! Where data connections are opened.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use async_trait::async_trait;
use libunftp::options::Binder;
use tokio::net::TcpSocket;

/// Binds a port for each data connection: one of a range, or a free one.
#[derive(Debug)]
pub(super) struct Passive {
    local: IpAddr,
    ports: Option<RangeInclusive<u16>>,
}

impl Passive {
    /// For a session whose control connection came in at `local`.
    pub(super) fn new(local: Option<IpAddr>, ports: Option<RangeInclusive<u16>>) -> Self {
        Self { local: local.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), ports }
    }

    fn bind_to(&self, port: u16) -> io::Result<TcpSocket> {
        let socket = if self.local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(self.local, port))?;
        Ok(socket)
    }
}

#[async_trait]
impl Binder for Passive {
    /// The range that libunftp has is not asked for: it is its own default.
    async fn bind(&mut self, _: IpAddr, _: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        let Some(ports) = self.ports.clone() else { return self.bind_to(0) };
        let count = u32::from(*ports.end() - *ports.start()) + 1;
        // From a random one on, each once: what is free is found, and two sessions seldom try the same.
        let first = rand::random_range(0..count);
        let mut error = io::Error::from(io::ErrorKind::AddrInUse);
        for nth in 0..count {
            match self.bind_to(*ports.start() + ((first + nth) % count) as u16) {
                Ok(socket) => return Ok(socket),
                Err(refused) => error = refused,
            }
        }
        tracing::warn!(%error, "no port of ftp_passive_ports is free");
        Err(error)
    }
}
