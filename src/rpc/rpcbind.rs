//! Finds and registers ports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::client::{CallError, UdpClient};
use crate::wire::types::Transport;

/// Asks the rpcbind at `server` for a port; `None`: nobody is registered. Version 2 over IPv4,
/// versions 4 and 3 over IPv6.
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn getport(
    client: &UdpClient,
    server: SocketAddr,
    from: Option<IpAddr>,
    program: u32,
    version: u32,
    transport: Transport,
    timeout: Duration,
) -> Result<Option<u16>, CallError> {
    todo!()
}

/// A program that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Over what.
    pub transport: Transport,
    /// Where: the wildcard address of its family, or the one it listens on.
    pub address: SocketAddr,
}

/// Why a program is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Another program has that entry.
    #[error(
        "program {program} version {version} is already registered at {at}; stop what serves it, or give --no-rpcbind"
    )]
    Taken {
        /// The program.
        program: u32,
        /// Its version.
        version: u32,
        /// Where the other one listens.
        at: String,
    },
    /// rpcbind said no.
    #[error("rpcbind refused to register program {program} version {version}; run as root, or give --no-rpcbind")]
    Refused {
        /// The program.
        program: u32,
        /// Its version.
        version: u32,
    },
    /// rpcbind does not answer.
    #[error("rpcbind at {at} cannot be asked: {error}; start it, or give --no-rpcbind")]
    Unreachable {
        /// Where it was looked for.
        at: String,
        /// What happened.
        error: CallError,
    },
}

/// Registers with this host's rpcbind at `rpcbind_port`.
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn register(rpcbind_port: u16, registration: &Registration) -> Result<(), RegisterError> {
    todo!()
}

/// Takes a registration back (every address of its program, version and transport).
#[allow(clippy::todo, unused_variables, clippy::unused_async)]
pub async fn unregister(rpcbind_port: u16, registration: &Registration) -> Result<(), RegisterError> {
    todo!()
}
