//! Binding sockets, with errors that a person can act on.
//!
//! Binding is done with plain sockets, before a runtime exists, so that a node that can't have its ports says so at once
//! and starts nothing.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes while nobody accepts them: more than all nodes of a cluster at once.
const BACKLOG: i32 = 1024;
/// What a socket of the pulse plane may buffer: a thousand datagrams, should its thread be late.
const DATAGRAM_BUFFER_BYTES: usize = 1 << 20;

/// A socket that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// What was to listen there and which setting says so: `stream of node n1, setting [[node]] stream`.
    pub what: String,
    /// The address as it was given: `host:port`.
    pub address: String,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, address, source } = self;
        let port = address.rsplit_once(':').map_or(address.as_str(), |(_, port)| port);
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(f, "port {port} is taken ({what}, {address})"),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{address} is not an address of this machine ({what})")
            }
            io::ErrorKind::PermissionDenied => write!(f, "this user may not listen on port {port} ({what}, {address})"),
            _ => write!(f, "can't listen on {address} ({what}): {source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Listens for connections on `address` (`host:port`; port 0 takes a free one). `what` says for whom and by which
/// setting, for the error. The listener doesn't block, as runtimes want it.
///
/// # Errors
/// Where the address can't be resolved or had.
pub fn tcp(what: &str, address: &str) -> Result<TcpListener, BindError> {
    bind(what, address, |at| {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an earlier life of this process may still be winding down on this port. This doesn't share the
        // port with a living listener.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

/// Takes `address` (`host:port`; port 0 takes a free one) for datagrams. As [`tcp`] otherwise.
///
/// # Errors
/// Where the address can't be resolved or had.
pub fn udp(what: &str, address: &str) -> Result<UdpSocket, BindError> {
    bind(what, address, |at| {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // The system caps what it gives; less than asked for only means a smaller tolerance for delays.
        let _ = socket.set_recv_buffer_size(DATAGRAM_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(DATAGRAM_BUFFER_BYTES);
        socket.bind(&at.into())?;
        Ok(socket.into())
    })
}

/// Where `address` (`host:port`) leads, if it leads to other machines only: whoever goes by it doesn't come here, unless
/// addresses are translated on the way. It waits for a look-up of the name.
#[must_use]
pub fn elsewhere(address: &str) -> Option<SocketAddr> {
    let mut foreign = None;
    for at in address.to_socket_addrs().ok()? {
        match UdpSocket::bind((at.ip(), 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => foreign = Some(at),
            // It is one of this machine's, or there is no knowing.
            _ => return None,
        }
    }
    foreign
}

/// Tries each address that `address` resolves to; the last failure counts.
fn bind<S>(what: &str, address: &str, try_bind: impl Fn(SocketAddr) -> io::Result<S>) -> Result<S, BindError> {
    let attempt = || {
        let nothing = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
        let mut result = Err(nothing);
        for at in address.to_socket_addrs()? {
            result = try_bind(at);
            if result.is_ok() {
                break;
            }
        }
        result
    };
    attempt().map_err(|source| BindError { what: what.to_owned(), address: address.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_machine_is_elsewhere() {
        // 203.0.113.0/24 is for documentation: no machine has it, and nothing is sent there.
        assert_eq!(elsewhere("203.0.113.7:8501"), "203.0.113.7:8501".parse().ok());
        assert_eq!(elsewhere("127.0.0.1:8501"), None);
        assert_eq!(elsewhere("no port"), None, "what leads nowhere isn't elsewhere");
    }

    #[test]
    fn a_busy_port_is_named_with_its_setting() {
        let what = "stream of node n1, setting [[node]] stream";
        let holder = tcp(what, "127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("it is bound");
        let error = tcp(what, &address.to_string()).expect_err("it is taken");
        assert_eq!(error.to_string(), format!("port {} is taken ({what}, {address})", address.port()));

        let holder = udp(what, "127.0.0.1:0").expect("a free port");
        let address = holder.local_addr().expect("it is bound");
        let error = udp(what, &address.to_string()).expect_err("it is taken");
        assert_eq!(error.to_string(), format!("port {} is taken ({what}, {address})", address.port()));
    }

    #[test]
    fn an_address_of_another_machine_and_nonsense_are_told_apart() {
        // 192.0.2.0/24 is kept for documentation (RFC 5737): no machine has it.
        let error = tcp("stream", "192.0.2.1:9501").expect_err("nobody has it");
        assert_eq!(error.to_string(), "192.0.2.1:9501 is not an address of this machine (stream)");
        let error = udp("pulse", "no port").expect_err("it is no address");
        assert!(error.to_string().starts_with("can't listen on no port (pulse): "), "{error}");
    }
}
