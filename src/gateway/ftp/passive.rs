//! Where data connections are opened.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use libunftp::options::Binder;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::relay::{self, Rules};

/// Data connections that one session waits for at once. Clients wait for one; libunftp forgets none of them before its time.
const WAITING_MAX: usize = 4;
/// Ports that are tried where any will do.
const TRIES: u32 = 16;

/// Binds a port for each data connection: one of a range, or a free one. The client connects to that; libunftp listens at the same
/// port of an address that only this machine can reach, because it tells clients the port where it listens.
#[derive(Debug)]
pub(super) struct Passive {
    local: IpAddr,
    peer: IpAddr,
    ports: Option<RangeInclusive<u16>>,
    rules: Rules,
    data: DataConnections,
    relays: TaskTracker,
}

/// The data connections of one session: those that are waited for, and those that are carried.
#[derive(Clone, Debug)]
pub(super) struct DataConnections(Arc<Semaphore>);

impl Default for DataConnections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_MAX)))
    }
}

impl DataConnections {
    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.0.available_permits() < WAITING_MAX
    }
}

impl Passive {
    /// For a session whose control connection came in at the first address from the second. Its data connections go by `rules`.
    pub(super) fn new(
        (local, peer): (IpAddr, IpAddr),
        ports: Option<RangeInclusive<u16>>,
        rules: Rules,
        data: DataConnections,
        relays: TaskTracker,
    ) -> Self {
        Self { local, peer, ports, rules, data, relays }
    }

    /// Both at `port`, or at a free one where that is 0.
    fn bind_to(&self, port: u16) -> io::Result<(TcpListener, TcpSocket)> {
        let outer = bind(self.local, port)?.listen(8)?;
        let port = outer.local_addr()?.port();
        Ok((outer, bind(inner(self.local), port)?))
    }
}

#[async_trait]
impl Binder for Passive {
    /// The range that libunftp has is not asked for: it is its own default.
    async fn bind(&mut self, _: IpAddr, _: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        let permit = Arc::clone(&self.data.0).try_acquire_owned();
        let permit = permit.map_err(|_| io::Error::other("the client doesn't come to the ports that it asks for"))?;
        let (first, count) = match &self.ports {
            Some(ports) => (*ports.start(), u32::from(ports.end() - ports.start()) + 1),
            None => (0, TRIES),
        };
        // From a random one on, each once: what is free is found, and two sessions seldom try the same.
        let skipped = rand::random_range(0..count);
        let mut error = io::Error::from(io::ErrorKind::AddrInUse);
        for nth in 0..count {
            let port = if first == 0 { 0 } else { first + ((skipped + nth) % count) as u16 };
            match self.bind_to(port) {
                Ok((outer, socket)) => {
                    let rules = self.rules;
                    let (meeting, relays) = (relay::meet(outer, self.peer, socket.local_addr()?), self.relays.clone());
                    tokio::spawn(async move {
                        // Who only waits is nothing that a shutdown waits for.
                        if let Some((client, server)) = meeting.await {
                            relays.track_future(relay::carry_data(client, server, rules)).await;
                        }
                        drop(permit);
                    });
                    return Ok(socket);
                }
                Err(refused) => error = refused,
            }
        }
        tracing::warn!(%error, "no port for a data connection is free; see [gateway] ftp_passive_ports");
        Err(error)
    }
}

fn bind(address: IpAddr, port: u16) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    Ok(socket)
}

/// An address of the loopback that isn't `local`: all of 127.0.0.0/8 are this machine's.
fn inner(local: IpAddr) -> IpAddr {
    let usual = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    if local.to_canonical() == usual { Ipv4Addr::new(127, 0, 0, 3).into() } else { usual }
}
