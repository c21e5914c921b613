//! This host's rpcbind, with which programs are registered.
//!
//! It is reached by its Unix socket, which knows our user, or else from a loopback address and a
//! port below 1024. A port other than 111 is not the system's rpcbind: its Unix socket is not used
//! then. Versions 4 and 3 tell transports, families and addresses apart. Over loopback an IPv4
//! program is registered in version 2, which old portmappers have too; that version's UNSET takes
//! back a program's version over UDP and TCP at once.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::request;
use crate::rpc::client::{CallError, Retransmit, StreamClient, UdpClient};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::rpcbind::{
    BindString, Chain, Mapping, PORT, Procedure, Rpcb, V2, V3, V4, netid, parse_universal_address, universal_address,
};
use crate::wire::types::Transport;
use crate::wire::xdr::{decode, encode};

/// Where Linux systems have rpcbind's socket.
const SOCKET: &str = "/run/rpcbind.sock";
/// How long this host's rpcbind may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer taken: a dump of every registration.
const MAX_RECORD: usize = 1 << 20;

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
        write!(f, "program {program} version {version} at {} {address}", netid(*transport, address.ip()))
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
    /// `None`: over something that is not UDP or TCP.
    fn from_rpcb(rpcb: &Rpcb) -> Option<Self> {
        let transport = match rpcb.netid.as_str() {
            "udp" | "udp6" => Transport::Udp,
            "tcp" | "tcp6" => Transport::Tcp,
            _ => return None,
        };
        let address = parse_universal_address(rpcb.address.as_str())?;
        Some(Self { program: rpcb.program, version: rpcb.version, transport, address })
    }
    fn from_mapping(mapping: Mapping) -> Option<Self> {
        let transport = [Transport::Udp, Transport::Tcp].into_iter().find(|t| *t as u32 == mapping.protocol)?;
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), u16::try_from(mapping.port).ok()?);
        Some(Self { program: mapping.program, version: mapping.version, transport, address })
    }
}

/// rpcbind cannot be asked, or does not answer as it should.
#[derive(Debug, thiserror::Error)]
#[error("rpcbind at {rpcbind}: {error}")]
pub struct LocalError {
    /// Where it was asked.
    pub rpcbind: String,
    /// What happened.
    pub error: CallError,
}

/// This host's rpcbind.
pub struct LocalRpcbind {
    name: String,
    path: LocalPath,
}

enum LocalPath {
    Socket(StreamClient),
    Loopback { client: UdpClient, address: SocketAddr },
}

impl LocalRpcbind {
    /// Finds the way to it. Over UDP no answer has come yet.
    pub async fn reach(port: u16) -> Result<Self, LocalError> {
        if port == PORT {
            match StreamClient::connect_unix(Path::new(SOCKET), MAX_RECORD, PATIENCE).await {
                Ok(stream) => return Ok(Self { name: SOCKET.to_owned(), path: LocalPath::Socket(stream) }),
                Err(error) => tracing::debug!(%error, "{SOCKET} cannot be used; asking over loopback"),
            }
        }
        let loopback = Ipv4Addr::LOCALHOST.into();
        let address = SocketAddr::new(loopback, port);
        // rpcbind lets only privileged local ports register.
        let endpoint = UdpEndpoint::bind_reserved(loopback)
            .map_err(|error| LocalError { rpcbind: address.to_string(), error: error.into() })?;
        let client = UdpClient::new(Arc::new(endpoint), Retransmit::default());
        Ok(Self { name: address.to_string(), path: LocalPath::Loopback { client, address } })
    }

    /// Where it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every registration over UDP and TCP.
    pub async fn dump(&self) -> Result<Vec<Registration>, LocalError> {
        for version in [V4, V3] {
            match self.dump_in(version).await {
                // An old portmapper; or one whose answer does not fit into a datagram.
                Err(LocalError { error: CallError::Rejected(_), .. }) => {}
                answer => return answer,
            }
        }
        self.dump_in(V2).await
    }

    /// Likewise, in one version of rpcbind's protocol. Version 2 knows IPv4 only, and no addresses.
    pub async fn dump_in(&self, version: u32) -> Result<Vec<Registration>, LocalError> {
        let answer = self.call(version, Procedure::Dump, &[]).await?;
        let fail = |error: crate::wire::xdr::DecodeError| self.fail(error.into());
        Ok(if version == V2 {
            let entries = decode::<Chain<Mapping>>(&answer).map_err(fail)?.0;
            entries.into_iter().filter_map(Registration::from_mapping).collect()
        } else {
            let entries = decode::<Chain<Rpcb>>(&answer).map_err(fail)?.0;
            entries.iter().filter_map(Registration::from_rpcb).collect()
        })
    }

    /// Registers; whether rpcbind did it. It does not where another entry has the place, or where
    /// it does not take ours. The same once more is fine.
    pub async fn set(&self, registration: &Registration) -> Result<bool, LocalError> {
        self.change(Procedure::Set, registration).await
    }

    /// Takes an entry back; whether rpcbind did it. It does not where there is none, or where it is
    /// another user's.
    pub async fn unset(&self, registration: &Registration) -> Result<bool, LocalError> {
        self.change(Procedure::Unset, registration).await
    }

    async fn change(&self, procedure: Procedure, registration: &Registration) -> Result<bool, LocalError> {
        let versions: &[u32] = match self.path {
            LocalPath::Loopback { .. } if registration.address.is_ipv4() => &[V2],
            _ => &[V4, V3],
        };
        for &version in versions {
            let args = if version == V2 { encode(&registration.mapping()) } else { encode(&registration.rpcb()) };
            match self.call(version, procedure, &args).await {
                Err(LocalError { error: CallError::Rejected(RpcError::ProgMismatch { .. }), .. }) => {}
                // So rpcbind says that a caller is not local, or not privileged.
                Err(LocalError { error: CallError::Rejected(RpcError::Auth(_)), .. }) => return Ok(false),
                answer => return decode(&answer?).map_err(|error| self.fail(error.into())),
            }
        }
        // A portmapper that knows no IPv6.
        Ok(false)
    }

    async fn call(&self, version: u32, procedure: Procedure, args: &[u8]) -> Result<Vec<u8>, LocalError> {
        let credential = Credential::root("localhost");
        let request = request(version, procedure, &credential, args);
        let outcome = match &self.path {
            LocalPath::Socket(stream) => stream.call(request, PATIENCE).await,
            LocalPath::Loopback { client, address } => client.call(*address, None, request, PATIENCE).await,
        };
        outcome.map_err(|error| self.fail(error))
    }

    fn fail(&self, error: CallError) -> LocalError {
        LocalError { rpcbind: self.name.clone(), error }
    }
}
