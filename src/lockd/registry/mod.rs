//! nlmd's entries at this host's rpcbind.
//!
//! A missing rpcbind is a warning: clients that know the ports still get here. A program that
//! another server has is a failure, told with that server's name: clients would talk to that one.
//! Entries at which nobody answers any more (a daemon that was killed) are replaced. What was set
//! is taken back at the end, and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Holder, Machine};
use crate::rpc::client::{CallError, Request, Retransmit, Source, StreamClient, UdpClient};
use crate::rpc::rpcbind::local::{LocalError, LocalRpcbind, Registration};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::types::Transport;
use crate::wire::{nlm, nsm};

/// Patience with the one who has an entry.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer of a NULL call.
const MAX_ANSWER: usize = 1024;

/// Why a program is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The kernel has NLM.
    #[error(
        "{entry} is registered already, by the kernel's lockd: nfsd runs here, or an NFSv3 file system is mounted; stop nfsd, and unmount or mount with `nolock` (or NFSv4), or give --no-rpcbind"
    )]
    Kernel {
        /// Its entry.
        entry: Registration,
    },
    /// Another status monitor.
    #[error(
        "{entry} is registered already, by {holder}: this host has a status monitor; give --nsm statd to work with it, or stop it (`systemctl stop rpc-statd`), or give --no-rpcbind"
    )]
    OtherMonitor {
        /// Its entry.
        entry: Registration,
        /// Who it is.
        holder: Holder,
    },
    /// Another program has that entry.
    #[error("{entry} is registered already, by {holder}; stop it, or give --no-rpcbind")]
    Taken {
        /// Its entry.
        entry: Registration,
        /// Who it is.
        holder: Holder,
    },
    /// rpcbind keeps what nobody serves.
    #[error(
        "rpcbind at {rpcbind} keeps {entry}, at which nobody answers: another user registered it; run as that user or as root, or restart rpcbind, or give --no-rpcbind"
    )]
    Kept {
        /// The dead entry.
        entry: Registration,
        /// Where rpcbind was asked.
        rpcbind: String,
    },
    /// rpcbind said no.
    #[error(
        "rpcbind at {rpcbind} refused to register {what}: it takes that from its Unix socket, or from local ports below 1024; run as root, or give --no-rpcbind"
    )]
    Refused {
        /// What was to be registered.
        what: Registration,
        /// Where rpcbind was asked.
        rpcbind: String,
    },
}

/// Registers all, or nothing where there is no rpcbind, or what one took that then stopped answering.
/// `port` is rpcbind's. Returns what has to be taken back.
pub async fn register(port: u16, wanted: &[Registration]) -> Result<Vec<Registration>, RegisterError> {
    let mut asked = Vec::new();
    match try_register(port, wanted, &mut asked).await {
        Ok(outcome) => outcome.map(|()| asked),
        Err(error) => {
            tracing::warn!("not registered: {error}; start rpcbind, or give --no-rpcbind");
            Ok(asked)
        }
    }
}

/// `asked` gets what rpcbind was asked to set: also without an answer it may have done so.
async fn try_register(
    port: u16,
    wanted: &[Registration],
    asked: &mut Vec<Registration>,
) -> Result<Result<(), RegisterError>, LocalError> {
    let rpcbind = LocalRpcbind::reach(port).await?;
    let stale = match stale_entries(&rpcbind, wanted).await? {
        Ok(stale) => stale,
        Err(taken) => return Ok(Err(taken)),
    };
    for entry in &stale {
        tracing::info!(%entry, "nobody answers at rpcbind's entry any more; it is replaced");
        rpcbind.unset(entry).await?;
    }
    if !stale.is_empty() {
        let left = rpcbind.dump().await?;
        if let Some(entry) = stale.into_iter().find(|entry| left.contains(entry)) {
            return Ok(Err(RegisterError::Kept { entry, rpcbind: rpcbind.name().to_owned() }));
        }
    }
    for registration in wanted {
        asked.push(*registration);
        if !rpcbind.set(registration).await? {
            asked.pop();
            for registered in asked.iter() {
                rpcbind.unset(registered).await?;
            }
            let rpcbind = rpcbind.name().to_owned();
            return Ok(Err(RegisterError::Refused { what: *registration, rpcbind }));
        }
    }
    Ok(Ok(()))
}

/// The entries of our programs that are in the way and dead; or whose they are.
async fn stale_entries(
    rpcbind: &LocalRpcbind,
    wanted: &[Registration],
) -> Result<Result<Vec<Registration>, RegisterError>, LocalError> {
    let ours = |entry: &Registration| wanted.iter().any(|ours| ours.program == entry.program);
    let entries = rpcbind.dump().await?.into_iter().filter(ours);
    let mut stale = Vec::new();
    // One socket serves several versions.
    let mut deserted: Vec<(u32, Transport, SocketAddr)> = Vec::new();
    for entry in entries.filter(|entry| !wanted.contains(entry)) {
        let socket = (entry.program, entry.transport, entry.address);
        if !deserted.contains(&socket) {
            if !wanted.iter().any(|ours| is_one_socket(ours, &entry)) && !is_deserted(&entry).await {
                return Ok(Err(taken(entry).await));
            }
            deserted.push(socket);
        }
        stale.push(entry);
    }
    Ok(Ok(stale))
}

/// Whether both name the same socket, which this process has: then nobody else is behind the entry.
fn is_one_socket(ours: &Registration, entry: &Registration) -> bool {
    let (one, other) = (ours.address, entry.address);
    ours.transport == entry.transport
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

async fn taken(entry: Registration) -> RegisterError {
    let look = move || Machine::default().holder(entry.transport, entry.address);
    let holder = tokio::task::spawn_blocking(look).await.unwrap_or(Holder::Unknown);
    match (entry.program, holder) {
        (nlm::PROGRAM, Holder::Kernel) => RegisterError::Kernel { entry },
        (nsm::PROGRAM, holder) => RegisterError::OtherMonitor { entry, holder },
        (_, holder) => RegisterError::Taken { entry, holder },
    }
}

/// Takes back those that are still ours: rpcbind may have been restarted since, and others be there.
pub async fn unregister(port: u16, registered: &[Registration]) {
    if registered.is_empty() {
        return;
    }
    if let Err(error) = try_unregister(port, registered).await {
        tracing::warn!("not unregistered: {error}");
    }
}

async fn try_unregister(port: u16, registered: &[Registration]) -> Result<(), LocalError> {
    let rpcbind = LocalRpcbind::reach(port).await?;
    let entries = rpcbind.dump().await?;
    for registration in registered {
        // Version 2 tells no addresses.
        let is_it = |entry: &Registration| {
            (entry.program, entry.version) == (registration.program, registration.version)
                && is_one_socket(registration, entry)
        };
        if entries.iter().any(is_it) {
            rpcbind.unset(registration).await?;
        }
    }
    Ok(())
}

/// Whether the host itself says that nobody serves the program there. Silence is no proof.
async fn is_deserted(entry: &Registration) -> bool {
    let to = match entry.address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let to = SocketAddr::new(to, entry.address.port());
    let null = Request {
        program: entry.program,
        version: entry.version,
        procedure: 0,
        credential: &Credential::None,
        args: &[],
    };
    let outcome = match entry.transport {
        Transport::Udp => over_udp(to, null).await,
        Transport::Tcp => over_tcp(to, null).await,
    };
    // Another program may have got the port since.
    matches!(outcome, Err(CallError::Refused | CallError::Rejected(RpcError::ProgUnavail)))
}

async fn over_udp(to: SocketAddr, null: Request<'_>) -> Result<Vec<u8>, CallError> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = UdpEndpoint::bind(SocketAddr::new(any, 0))?;
    UdpClient::new(Arc::new(endpoint), Retransmit::default()).call(to, None, null, PATIENCE).await
}

async fn over_tcp(to: SocketAddr, null: Request<'_>) -> Result<Vec<u8>, CallError> {
    StreamClient::connect_tcp(to, Source::default(), MAX_ANSWER, PATIENCE).await?.call(null, PATIENCE).await
}
