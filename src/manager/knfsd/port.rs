//! The ports on which lockd listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::rpc::client::{CallError, Retransmit, UdpClient};
use crate::rpc::rpcbind::getport;
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nftables::Port;
use crate::wire::nlm;
use crate::wire::rpcbind;
use crate::wire::types::Transport;

/// How long rpcbind may take.
const RPCBIND: Duration = Duration::from_secs(2);

/// lockd's port, as this host's rpcbind tells it; none where it has none there. All versions of NLM have one port.
///
/// # Errors
/// rpcbind cannot be asked; for people.
pub(crate) async fn lockd_port(ipv6: bool, transport: Transport) -> Result<Option<u16>, String> {
    ask(ipv6, transport).await.map_err(words)
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
fn words(error: CallError) -> String {
    format!("cannot ask rpcbind for lockd's port: {error}")
}

async fn ask(ipv6: bool, transport: Transport) -> Result<Option<u16>, CallError> {
    let loopback = if ipv6 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
    let endpoint = UdpEndpoint::bind(SocketAddr::new(loopback, 0))?;
    let client = UdpClient::new(Arc::new(endpoint), Retransmit { first: RPCBIND / 8, ..Retransmit::default() });
    let rpcbind = SocketAddr::new(loopback, rpcbind::PORT);
    let version = nlm::Version::V3.number();
    getport(&client, rpcbind, None, nlm::PROGRAM, version, transport, RPCBIND).await
}

/// All its ports.
///
/// # Errors
/// rpcbind cannot be asked, or lockd is not registered there; for people.
pub(crate) async fn lockd_ports() -> Result<Vec<Port>, String> {
    let mut ports = Vec::new();
    for ipv6 in [false, true] {
        for transport in [Transport::Udp, Transport::Tcp] {
            match ask(ipv6, transport).await {
                Ok(number) => ports.extend(number.map(|number| Port { ipv6, transport, number })),
                // A client of IPv6 asks rpcbind over IPv6: where it is not there that finds no lockd either. One that is only
                // slow may have told clients of a port, and their packets would pass the rules by.
                Err(error) if ipv6 && !matches!(error, CallError::TimedOut) => {}
                Err(error) => return Err(words(error)),
            }
        }
    }
    if ports.is_empty() { Err("lockd is not registered with rpcbind".to_owned()) } else { Ok(ports) }
}
