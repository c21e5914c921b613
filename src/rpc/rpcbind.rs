//! Finds and registers ports: rpcbind as a client (RFC 1833).
//!
//! Asking goes over UDP to anybody's rpcbind, here. Registering is local, in [`local`].

pub mod local;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::client::{CallError, Request, UdpClient};
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::rpcbind::{
    BindString, Mapping, PROGRAM, Procedure, Rpcb, UniversalAddress, V2, V3, V4, netid, parse_universal_address,
    port_in, universal_address,
};
use crate::wire::types::Transport;
use crate::wire::xdr::{DecodeError, decode, encode};

/// Asks the rpcbind at `server` for a port; `None`: nobody is registered. Version 2 over IPv4,
/// versions 4 and 3 over IPv6; a TCP port over IPv6 can be asked in version 4 only. All of it takes
/// `timeout` at most.
pub async fn getport(
    client: &UdpClient,
    server: SocketAddr,
    from: Option<IpAddr>,
    program: u32,
    version: u32,
    transport: Transport,
    timeout: Duration,
) -> Result<Option<u16>, CallError> {
    let (mut rpcbind, procedure, args) =
        port_question(server.ip(), universal_address(server), program, version, transport);
    let asking = async {
        loop {
            match client.call(server, from, request(rpcbind, procedure, &Credential::None, &args), timeout).await {
                Err(CallError::Rejected(RpcError::ProgMismatch { .. })) if rpcbind == V4 => match transport {
                    Transport::Udp => rpcbind = V3,
                    Transport::Tcp => return Ok(None),
                },
                results => return port_told(server.ip(), transport, &results?).map_err(CallError::Malformed),
            }
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(CallError::TimedOut))
}

/// What to ask the rpcbind of a server where a program listens: its version, procedure and arguments.
/// GETPORT of version 2 over IPv4, GETADDR of version 4 over IPv6. That answers for UDP whatever it is
/// asked for over UDP, so a TCP port is looked for in GETADDRLIST's answer. `address`: the server's.
pub(super) fn port_question(
    server: IpAddr,
    address: UniversalAddress,
    program: u32,
    version: u32,
    transport: Transport,
) -> (u32, Procedure, Vec<u8>) {
    if server.is_ipv4() {
        let mapping = Mapping { program, version, protocol: transport as u32, port: 0 };
        return (V2, Procedure::Get, encode(&mapping));
    }
    let netid = BindString::clipped(netid(transport, server));
    let rpcb = Rpcb { program, version, netid, address, owner: BindString::default() };
    match transport {
        Transport::Udp => (V4, Procedure::Get, encode(&rpcb)),
        Transport::Tcp => (V4, Procedure::AddressList, encode(&rpcb)),
    }
}

/// What a server answered to [`port_question`]; `None`: nobody is there. The error is for people.
pub(super) fn port_told(server: IpAddr, transport: Transport, results: &[u8]) -> Result<Option<u16>, String> {
    let odd = |what| move |error: DecodeError| format!("answer to {what} is odd: {error}");
    let port = match (server, transport) {
        (IpAddr::V4(_), _) => u16::try_from(decode::<u32>(results).map_err(odd("GETPORT"))?).ok(),
        (IpAddr::V6(_), Transport::Tcp) => {
            port_in(&decode(results).map_err(odd("GETADDRLIST"))?, netid(transport, server))
        }
        (IpAddr::V6(_), Transport::Udp) => {
            let text = decode::<UniversalAddress>(results).map_err(odd("GETADDR"))?;
            // Only the port counts: the address may be the wildcard.
            match parse_universal_address(text.as_str()) {
                Some(address) => Some(address.port()),
                None if text.as_str().is_empty() => None,
                None => return Err(format!("answer to GETADDR is odd: {:?}", text.as_str())),
            }
        }
    };
    Ok(port.filter(|&port| port != 0))
}

fn request<'a>(version: u32, procedure: Procedure, credential: &'a Credential, args: &'a [u8]) -> Request<'a> {
    Request { program: PROGRAM, version, procedure: procedure as u32, credential, args }
}

#[cfg(test)]
mod tests;
