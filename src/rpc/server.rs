//! Sockets to calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::reply_cache::ReplyCache;
use super::udp::UdpEndpoint;
use crate::wire::rpc::{Answer, Credential};
use crate::wire::types::Transport;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over IP.
    Inet(SocketAddr),
    /// Over a Unix socket, as the kernel vouches for it.
    Unix {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The process; 0 if the kernel does not say.
        pid: i32,
    },
}

/// What is known of a call besides its program, version, procedure and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallContext {
    /// Who calls.
    pub peer: Peer,
    /// The local address that was called (a loopback one for a Unix socket).
    pub local_ip: IpAddr,
    /// How (`Tcp` for a Unix socket: records on a stream).
    pub transport: Transport,
    /// The call's xid.
    pub xid: u32,
    /// Who the caller says it is.
    pub credential: Credential,
}

/// What answers calls.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a call. `None`: say nothing, and forget that it came (a repetition is executed).
    async fn call(&self, cx: &CallContext, program: u32, version: u32, procedure: u32, args: Vec<u8>)
    -> Option<Answer>;
}

/// What one served socket may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; more are closed at once.
    pub connections: usize,
    /// Connections of one address; more are closed at once. Not asked of Unix sockets.
    pub connections_per_address: usize,
    /// Calls being executed in all: UDP calls beyond them are dropped, TCP connections wait.
    pub calls: usize,
    /// Calls of one connection being executed: beyond them it is not read from.
    pub calls_per_connection: usize,
    /// Longest record, in bytes; a longer one closes the connection.
    pub max_record: usize,
    /// A connection without a call for this long is closed.
    pub idle: Duration,
    /// A record must be complete, and a reply be taken, within this time.
    pub transfer: Duration,
    /// What was begun at shutdown gets this long to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_address: 256,
            calls: 4096,
            calls_per_connection: 64,
            max_record: 1 << 20,
            idle: Duration::from_secs(6 * 60),
            transfer: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// A reply cache that several sockets share.
pub type SharedCache = Arc<Mutex<ReplyCache>>;

/// Serves datagrams until `shutdown` is true (or its sender is gone).
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn serve_udp(
    endpoint: Arc<UdpEndpoint>,
    service: Arc<dyn Service>,
    cache: SharedCache,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    todo!()
}

/// Serves TCP connections until `shutdown` is true (or its sender is gone).
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn serve_tcp(
    listener: TcpListener,
    service: Arc<dyn Service>,
    cache: SharedCache,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    todo!()
}

/// Serves connections of a Unix socket until `shutdown` is true (or its sender is gone). Without a
/// reply cache: nothing is lost between two processes of one host.
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn serve_unix(
    listener: UnixListener,
    service: Arc<dyn Service>,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    todo!()
}
