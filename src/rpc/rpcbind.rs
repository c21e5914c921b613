//! Finds and registers ports: rpcbind as a client (RFC 1833).
//!
//! Asking goes over UDP to anybody's rpcbind. Registering is local: through rpcbind's Unix socket,
//! which knows our user (version 4, else 3), or else from a loopback address (version 2 for IPv4,
//! which has ports only, version 4 for IPv6). A port other than 111 is not the system's rpcbind, so
//! its Unix socket is not used then.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::client::{CallError, Request, Retransmit, StreamClient, UdpClient};
use super::udp::UdpEndpoint;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::rpcbind::{
    BindString, Chain, Mapping, PORT, PROGRAM, Procedure, Rpcb, UniversalAddress, V2, V3, V4, netid,
    parse_universal_address, universal_address,
};
use crate::wire::types::Transport;
use crate::wire::xdr::{decode, encode};

/// Where Linux systems have rpcbind's socket.
const SOCKET: &str = "/run/rpcbind.sock";
/// How long this host's rpcbind may take.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer taken: a dump of every registration.
const MAX_RECORD: usize = 1 << 20;

/// Asks the rpcbind at `server` for a port; `None`: nobody is registered. Version 2 over IPv4,
/// versions 4 and 3 over IPv6. All of it takes `timeout` at most.
pub async fn getport(
    client: &UdpClient,
    server: SocketAddr,
    from: Option<IpAddr>,
    program: u32,
    version: u32,
    transport: Transport,
    timeout: Duration,
) -> Result<Option<u16>, CallError> {
    let ask = |rpcbind_version, args: Vec<u8>| async move {
        let request = request(rpcbind_version, Procedure::Get, &Credential::None, &args);
        client.call(server, from, request, timeout).await
    };
    if server.is_ipv4() {
        let mapping = Mapping { program, version, protocol: transport as u32, port: 0 };
        let port = decode::<u32>(&ask(V2, encode(&mapping)).await?)?;
        let port = u16::try_from(port).map_err(|_| CallError::Malformed(format!("port {port}")))?;
        return Ok((port != 0).then_some(port));
    }
    let rpcb = encode(&Rpcb {
        program,
        version,
        netid: BindString::clipped(netid(transport, server.ip())),
        address: universal_address(server),
        owner: BindString::default(),
    });
    let asking = async {
        match ask(V4, rpcb.clone()).await {
            Err(CallError::Rejected(RpcError::ProgMismatch { .. })) => ask(V3, rpcb).await,
            answer => answer,
        }
    };
    let answer = tokio::time::timeout(timeout, asking).await.map_err(|_| CallError::TimedOut)??;
    let address = decode::<UniversalAddress>(&answer)?;
    if address.as_str().is_empty() {
        return Ok(None);
    }
    match parse_universal_address(address.as_str()) {
        Some(found) => Ok((found.port() != 0).then_some(found.port())),
        None => Err(CallError::Malformed(format!("universal address {:?}", address.as_str()))),
    }
}

fn request<'a>(version: u32, procedure: Procedure, credential: &'a Credential, args: &'a [u8]) -> Request<'a> {
    Request { program: PROGRAM, version, procedure: procedure as u32, credential, args }
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

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, version, transport, address } = self;
        write!(f, "program {program} version {version} over {}", netid(*transport, address.ip()))
    }
}

impl Registration {
    fn rpcb(&self) -> Rpcb {
        Rpcb {
            program: self.program,
            version: self.version,
            netid: BindString::clipped(netid(self.transport, self.address.ip())),
            address: universal_address(self.address),
            owner: BindString::clipped(nix::unistd::geteuid().to_string()),
        }
    }
    fn mapping(&self) -> Mapping {
        Mapping {
            program: self.program,
            version: self.version,
            protocol: self.transport as u32,
            port: self.address.port().into(),
        }
    }
    /// Encoded for a version of rpcbind's protocol.
    fn args(&self, rpcbind_version: u32) -> Vec<u8> {
        if rpcbind_version == V2 { encode(&self.mapping()) } else { encode(&self.rpcb()) }
    }
}

/// Why a program is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Another program has that entry.
    #[error("{what} is registered already, at {at}; stop what serves it, or give --no-rpcbind")]
    Taken {
        /// What was to be registered.
        what: Registration,
        /// Where the other one listens: a universal address or a port.
        at: String,
    },
    /// rpcbind said no.
    #[error("rpcbind at {rpcbind} refused to register {what}; run as root, or give --no-rpcbind")]
    Refused {
        /// What was to be registered.
        what: Registration,
        /// Where rpcbind was asked.
        rpcbind: String,
    },
    /// rpcbind does not answer, or not what it should.
    #[error("rpcbind at {rpcbind}: {error}; start rpcbind, or give --no-rpcbind")]
    Failed {
        /// Where it was asked.
        rpcbind: String,
        /// What happened.
        error: CallError,
    },
}

/// Registers with this host's rpcbind at `rpcbind_port`. The same registration once more is fine.
pub async fn register(rpcbind_port: u16, registration: &Registration) -> Result<(), RegisterError> {
    let local = Local::reach(rpcbind_port).await.map_err(|(rpcbind, error)| failed(rpcbind, error))?;
    let fail = |error| failed(local.name.clone(), error);
    if local.set(Procedure::Set, registration).await.map_err(fail)? {
        return Ok(());
    }
    match local.holder(registration).await.map_err(fail)? {
        Some(at) => Err(RegisterError::Taken { what: *registration, at }),
        None => Err(RegisterError::Refused { what: *registration, rpcbind: local.name }),
    }
}

/// Takes a registration back. Version 2 knows no transports there: it takes back the program's
/// version over all of them. One that was not there is fine.
pub async fn unregister(rpcbind_port: u16, registration: &Registration) -> Result<(), RegisterError> {
    let local = Local::reach(rpcbind_port).await.map_err(|(rpcbind, error)| failed(rpcbind, error))?;
    match local.set(Procedure::Unset, registration).await {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(local.name, error)),
    }
}

fn failed(rpcbind: String, error: CallError) -> RegisterError {
    RegisterError::Failed { rpcbind, error }
}

/// This host's rpcbind.
struct Local {
    name: String,
    path: LocalPath,
}

enum LocalPath {
    Socket(StreamClient),
    Loopback { client: UdpClient, address: SocketAddr },
}

impl Local {
    async fn reach(port: u16) -> Result<Self, (String, CallError)> {
        if port == PORT {
            let connected = StreamClient::connect_unix(Path::new(SOCKET), MAX_RECORD, LOCAL_TIMEOUT).await;
            match connected {
                Ok(stream) => return Ok(Self { name: SOCKET.to_owned(), path: LocalPath::Socket(stream) }),
                Err(error) => tracing::debug!(%error, "{SOCKET} cannot be used; asking over loopback"),
            }
        }
        let loopback = Ipv4Addr::LOCALHOST.into();
        let address = SocketAddr::new(loopback, port);
        // rpcbind lets only privileged local ports register.
        let endpoint = UdpEndpoint::bind_reserved(loopback).map_err(|error| (address.to_string(), error.into()))?;
        let client = UdpClient::new(Arc::new(endpoint), Retransmit::default());
        Ok(Self { name: address.to_string(), path: LocalPath::Loopback { client, address } })
    }

    /// rpcbind's versions to try, the best first.
    fn versions(&self, registration: &Registration) -> &'static [u32] {
        match self.path {
            LocalPath::Loopback { .. } if registration.address.is_ipv4() => &[V2],
            _ => &[V4, V3],
        }
    }

    /// SET or UNSET; whether rpcbind did it.
    async fn set(&self, procedure: Procedure, registration: &Registration) -> Result<bool, CallError> {
        let (answer, _) = self.ask(procedure, registration, |version| registration.args(version)).await?;
        Ok(decode(&answer)?)
    }

    /// Who has the registration's entry.
    async fn holder(&self, registration: &Registration) -> Result<Option<String>, CallError> {
        let (answer, version) = self.ask(Procedure::Dump, registration, |_| Vec::new()).await?;
        if version == V2 {
            let wanted = registration.mapping();
            let entries = decode::<Chain<Mapping>>(&answer)?.0;
            let holder = entries.iter().find(|entry| Mapping { port: wanted.port, ..**entry } == wanted);
            return Ok(holder.map(|entry| format!("port {}", entry.port)));
        }
        let wanted = registration.rpcb();
        let entries = decode::<Chain<Rpcb>>(&answer)?.0;
        let holder = entries
            .iter()
            .find(|e| (e.program, e.version, &e.netid) == (wanted.program, wanted.version, &wanted.netid));
        Ok(holder.map(|entry| format!("{} (owner {})", entry.address.as_str(), entry.owner.as_str())))
    }

    /// Asks in the best version that rpcbind has; tells which.
    async fn ask(
        &self,
        procedure: Procedure,
        registration: &Registration,
        args: impl Fn(u32) -> Vec<u8>,
    ) -> Result<(Vec<u8>, u32), CallError> {
        let mut outcome = Err(CallError::TimedOut);
        for &version in self.versions(registration) {
            outcome = self.call(version, procedure, &args(version)).await.map(|answer| (answer, version));
            if !matches!(outcome, Err(CallError::Rejected(RpcError::ProgMismatch { .. }))) {
                break;
            }
        }
        outcome
    }

    async fn call(&self, version: u32, procedure: Procedure, args: &[u8]) -> Result<Vec<u8>, CallError> {
        let credential = Credential::root("localhost");
        let request = request(version, procedure, &credential, args);
        match &self.path {
            LocalPath::Socket(stream) => stream.call(request, LOCAL_TIMEOUT).await,
            LocalPath::Loopback { client, address } => client.call(*address, None, request, LOCAL_TIMEOUT).await,
        }
    }
}

#[cfg(test)]
mod tests;
