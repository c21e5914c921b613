//! Calls to datagrams or records, and back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::udp::UdpEndpoint;
use crate::wire::rpc::{Credential, RpcError};

/// Why a call has no results.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time. The call may have been executed or not.
    #[error("no answer in time")]
    TimedOut,
    /// Nobody listens there (ICMP port unreachable, TCP reset, a socket file that nobody serves).
    #[error("nobody listens there")]
    Refused,
    /// There is no such socket file.
    #[error("there is no such socket")]
    NotThere,
    /// This process may not use the socket file.
    #[error("permission denied")]
    PermissionDenied,
    /// The other side did not execute it.
    #[error("call rejected: {0}")]
    Rejected(#[from] RpcError),
    /// What came back is no reply, or too long.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// The connection ended, or the socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: u32,
    /// Who we say we are.
    pub credential: &'a Credential,
    /// The arguments, encoded.
    pub args: &'a [u8],
}

/// How often a datagram is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retransmit {
    /// After the first sending.
    pub first: Duration,
    /// The interval doubles up to this.
    pub max: Duration,
}

impl Default for Retransmit {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(8) }
    }
}

/// Calls over one UDP socket, any number at a time, to any number of servers.
#[derive(Debug)]
pub struct UdpClient {}

#[allow(clippy::todo, unused_variables, clippy::unused_self, clippy::unused_async)]
impl UdpClient {
    /// Takes the endpoint over. Wants a tokio runtime: a task reads until the client is dropped.
    pub fn new(endpoint: Arc<UdpEndpoint>, retransmit: Retransmit) -> Self {
        todo!()
    }
    /// The endpoint.
    pub fn endpoint(&self) -> &UdpEndpoint {
        todo!()
    }
    /// Calls; repeated until `timeout`. `from`: the local address to call from, of a wildcard socket.
    pub async fn call(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        todo!()
    }
    /// Sends once and waits for nothing (one-way procedures).
    pub async fn cast(&self, to: SocketAddr, from: Option<IpAddr>, request: Request<'_>) -> Result<(), CallError> {
        todo!()
    }
}

/// From where a TCP connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Source {
    /// This local address; any, if `None`.
    pub ip: Option<IpAddr>,
    /// A port below 1024, if this process may.
    pub reserved: bool,
}

/// Calls over a stream (TCP, Unix socket, anything), any number at a time.
#[derive(Debug)]
pub struct StreamClient {}

#[allow(clippy::todo, unused_variables, clippy::unused_self, clippy::unused_async)]
impl StreamClient {
    /// Takes a stream over. Wants a tokio runtime.
    pub fn over<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, max_record: usize) -> Self {
        todo!()
    }
    /// Connects over TCP.
    pub async fn connect_tcp(
        to: SocketAddr,
        source: Source,
        max_record: usize,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        todo!()
    }
    /// Connects to a Unix socket.
    pub async fn connect_unix(path: &Path, max_record: usize, timeout: Duration) -> Result<Self, CallError> {
        todo!()
    }
    /// Calls, once.
    pub async fn call(&self, request: Request<'_>, timeout: Duration) -> Result<Vec<u8>, CallError> {
        todo!()
    }
    /// Whether the stream has ended: every call will err.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
}
