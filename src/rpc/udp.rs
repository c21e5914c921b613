//! A UDP socket that knows which address was called.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub peer: SocketAddr,
    /// The local address it was sent to: answer from it.
    pub local_ip: IpAddr,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// A socket. Share it in an `Arc`; every method takes `&self`.
#[derive(Debug)]
pub struct UdpEndpoint {}

#[allow(clippy::todo, unused_variables, clippy::unused_self, clippy::unused_async, missing_docs)]
impl UdpEndpoint {
    /// Binds; port 0 is any free one. An IPv6 socket takes IPv6 only. Wants a tokio runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        todo!()
    }
    /// Binds a free port below 1024 if this process may, else any ([`Self::is_reserved`] says which).
    pub fn bind_reserved(ip: IpAddr) -> io::Result<Self> {
        todo!()
    }
    /// Whether the port is below 1024.
    pub fn is_reserved(&self) -> bool {
        todo!()
    }
    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// Wants a receive buffer of `bytes`; returns what the kernel says it is now.
    pub fn raise_receive_buffer(&self, bytes: usize) -> usize {
        todo!()
    }
    /// The next datagram. Cancel safe.
    pub async fn recv(&self) -> io::Result<Datagram> {
        todo!()
    }
    /// Waits until there may be something to read. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        todo!()
    }
    /// Appends what is there now, `max` datagrams at most; returns how many (0: nothing there).
    pub fn try_recv(&self, into: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        todo!()
    }
    /// Sends, waiting for room. `from`: the local address to send from, of a wildcard socket.
    /// What the network has against this one peer is no error: the datagram counts as lost.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        todo!()
    }
    /// Sends or says `WouldBlock`; otherwise as [`Self::send`].
    pub fn try_send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        todo!()
    }
    /// Destinations whose host said "nobody listens there" since the last call (ICMP port unreachable), 64 at most.
    pub fn take_refused(&self) -> Vec<SocketAddr> {
        todo!()
    }
}
