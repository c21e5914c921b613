//! nlmd's entries at this host's rpcbind.
//!
//! A missing rpcbind is a warning: clients that know the ports still get here. A program that
//! another server has is a failure: clients would talk to that one. An entry at which nobody answers
//! any more (a daemon that was killed) is replaced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::rpc::client::{CallError, Request, Retransmit, Source, StreamClient, UdpClient};
use crate::rpc::rpcbind::{self, RegisterError, Registration};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::Credential;
use crate::wire::types::Transport;

/// Patience with the one who has an entry.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer of a NULL call.
const MAX_ANSWER: usize = 1024;

/// Registers all, or what there is an rpcbind for.
pub async fn register(port: u16, wanted: &[Registration]) -> Result<Vec<Registration>, RegisterError> {
    let mut registered = Vec::new();
    for registration in wanted {
        let mut outcome = rpcbind::register(port, registration).await;
        if let Err(RegisterError::Taken { at, .. }) = &outcome
            && is_deserted(port, registration).await
        {
            tracing::info!(%registration, at, "nobody answers at rpcbind's entry any more; it is replaced");
            unregister(port, std::slice::from_ref(registration)).await;
            outcome = rpcbind::register(port, registration).await;
        }
        match outcome {
            Ok(()) => registered.push(*registration),
            Err(error @ RegisterError::Failed { .. }) => {
                tracing::warn!("{error}");
                break;
            }
            Err(error) => {
                unregister(port, &registered).await;
                return Err(error);
            }
        }
    }
    Ok(registered)
}

/// Takes them back.
pub async fn unregister(port: u16, registered: &[Registration]) {
    for registration in registered {
        if let Err(error) = rpcbind::unregister(port, registration).await {
            tracing::warn!("not unregistered: {error}");
        }
    }
}

/// Whether the host itself says that nobody listens at the entry. Silence is no proof.
async fn is_deserted(rpcbind_port: u16, entry: &Registration) -> bool {
    let loopback: IpAddr =
        if entry.address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let Ok(endpoint) = UdpEndpoint::bind(SocketAddr::new(loopback, 0)) else { return false };
    let client = UdpClient::new(Arc::new(endpoint), Retransmit::default());
    let rpcbind = SocketAddr::new(loopback, rpcbind_port);
    let found = rpcbind::getport(&client, rpcbind, None, entry.program, entry.version, entry.transport, PATIENCE).await;
    let Ok(Some(port)) = found else { return false };
    let to = SocketAddr::new(loopback, port);
    let request = Request {
        program: entry.program,
        version: entry.version,
        procedure: 0,
        credential: &Credential::None,
        args: &[],
    };
    let asked = match entry.transport {
        Transport::Udp => client.call(to, None, request, PATIENCE).await.map(drop),
        Transport::Tcp => StreamClient::connect_tcp(to, Source::default(), MAX_ANSWER, PATIENCE).await.map(drop),
    };
    matches!(asked, Err(CallError::Refused))
}
