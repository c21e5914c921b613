//! nlmd's entries at this host's rpcbind.
//!
//! A missing rpcbind is a warning: clients that know the ports still get here. A program that
//! another server has is a failure, told with that server's name: clients would talk to that one.
//! Entries at which no program answers any more (a daemon that was killed) are replaced. What was set
//! is taken back at the end, and nothing else.
//!
//! An rpcbind that is restarted has forgotten every entry and says nothing: so it is looked at now
//! and then, and what is missing is registered again ([`keep`]).

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::host::{Holder, Machine};
use crate::rpc::client::{Request, Retransmit, Source, StreamClient, UdpClient};
use crate::rpc::rpcbind::local::LocalRpcbind;
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::types::Transport;
use crate::wire::{nlm, nsm};

pub use crate::rpc::client::CallError;
pub use crate::rpc::rpcbind::local::{LocalError, Registration};

/// Patience with the one who has an entry.
const PATIENCE: Duration = Duration::from_secs(2);
/// Patience with a socket of this process, which answers at once if it serves at all.
const BRIEFLY: Duration = Duration::from_millis(250);
/// Between two looks at whether rpcbind still has the entries.
const LOOK_EVERY: Duration = Duration::from_secs(10);
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
    /// rpcbind keeps an entry that no program serves.
    #[error(
        "rpcbind at {rpcbind} keeps {entry}, at which no program answers: another user registered it; run as that user or as root, or restart rpcbind, or give --no-rpcbind"
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

/// Looks whether rpcbind still has the entries, and registers them again where it has not: for as long as it is
/// awaited. `registered` is what has to be taken back. What stands in the way is told when it changes.
pub async fn keep(port: u16, wanted: &[Registration], registered: &mut Vec<Registration>) -> Infallible {
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let trouble = match renew(port, wanted, registered).await {
            Ok(Ok(renewed)) => {
                if renewed {
                    tracing::info!("registered with rpcbind again: it was restarted, or started late");
                }
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = trouble.as_ref().filter(|_| trouble != told) {
            tracing::warn!("no longer registered: {why}; nlmd tries again every {} s", LOOK_EVERY.as_secs());
        }
        told = trouble;
    }
}

/// Whether something was missing and is registered again.
async fn renew(
    port: u16,
    wanted: &[Registration],
    registered: &mut Vec<Registration>,
) -> Result<Result<bool, RegisterError>, LocalError> {
    let entries = LocalRpcbind::reach(port).await?.dump().await?;
    if wanted.iter().all(|ours| is_listed(ours, &entries)) {
        return Ok(Ok(false));
    }
    // Before it is asked for: this may end in the middle. Only what is still at our sockets is taken back.
    *registered = wanted.to_vec();
    Ok(try_register(port, wanted, &mut Vec::new()).await?.map(|()| true))
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
        tracing::info!(%entry, "no program answers at rpcbind's entry any more; it is replaced");
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

/// The entries of our programs that are in the way and dead; or the program that has them.
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
            if !wanted.iter().any(|ours| is_one_socket(ours, &entry)) {
                let holder = holder(&entry).await;
                let patience = if is_this_process(&holder) { BRIEFLY } else { PATIENCE };
                if !is_deserted(&null_call(&entry, patience).await, &holder) {
                    return Ok(Err(taken(entry, holder)));
                }
            }
            deserted.push(socket);
        }
        stale.push(entry);
    }
    Ok(Ok(stale))
}

/// Whether no program is served any more at the entry where a call had this outcome.
fn is_deserted(outcome: &Result<Vec<u8>, CallError>, holder: &Holder) -> bool {
    match outcome {
        Ok(_) => false,
        // The host itself says that the program is not served there. Another one may have got the port since. A socket that
        // was closed while it was asked is gone, too.
        Err(CallError::Refused | CallError::RefusedNow | CallError::Rejected(RpcError::ProgUnavail)) => true,
        // Silence is no proof, but of a socket of ours.
        Err(_) => is_this_process(holder),
    }
}

/// Whether both name the same socket, which this process has: then no other process is behind the entry.
fn is_one_socket(ours: &Registration, entry: &Registration) -> bool {
    let (one, other) = (ours.address, entry.address);
    ours.transport == entry.transport
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Whether rpcbind has it. Version 2 tells no addresses.
fn is_listed(ours: &Registration, entries: &[Registration]) -> bool {
    entries
        .iter()
        .any(|entry| (entry.program, entry.version) == (ours.program, ours.version) && is_one_socket(ours, entry))
}

async fn holder(entry: &Registration) -> Holder {
    let (transport, address) = (entry.transport, entry.address);
    // Its own thread has the capabilities of this one. The runtime's may have given them up.
    let (told, holder) = oneshot::channel();
    std::thread::spawn(move || told.send(Machine::default().holder(transport, address)));
    holder.await.unwrap_or(Holder::Unknown)
}

/// The system can give a socket of ours, one that answers nobody, the port of a daemon that was killed.
fn is_this_process(holder: &Holder) -> bool {
    matches!(holder, Holder::Process { id, .. } if u32::try_from(*id) == Ok(std::process::id()))
}

fn taken(entry: Registration, holder: Holder) -> RegisterError {
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
        if is_listed(registration, &entries) {
            rpcbind.unset(registration).await?;
        }
    }
    Ok(())
}

async fn null_call(entry: &Registration, patience: Duration) -> Result<Vec<u8>, CallError> {
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
    match entry.transport {
        Transport::Udp => over_udp(to, null, patience).await,
        Transport::Tcp => over_tcp(to, null, patience).await,
    }
}

async fn over_udp(to: SocketAddr, null: Request<'_>, patience: Duration) -> Result<Vec<u8>, CallError> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = UdpEndpoint::bind(SocketAddr::new(any, 0))?;
    // Given the very port: nobody else has it, and the call would come back to this socket.
    if endpoint.local_addr().port() == to.port() {
        return Err(CallError::Refused);
    }
    UdpClient::new(Arc::new(endpoint), Retransmit::default()).call(to, None, null, patience).await
}

async fn over_tcp(to: SocketAddr, null: Request<'_>, patience: Duration) -> Result<Vec<u8>, CallError> {
    StreamClient::connect_tcp(to, Source::default(), MAX_ANSWER, patience).await?.call(null, patience).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_entry_whose_socket_is_closed_between_two_datagrams_is_deserted() {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let entry = Registration { program: nlm::PROGRAM, version: 4, transport: Transport::Udp, address };
        let take_one = async move { socket.recv(&mut [0; MAX_ANSWER]).await.unwrap() };
        let (outcome, _) = tokio::join!(null_call(&entry, Duration::from_secs(10)), take_one);
        assert!(matches!(outcome, Err(CallError::RefusedNow)), "{outcome:?}");
        assert!(is_deserted(&outcome, &Holder::Unknown));
    }
}
