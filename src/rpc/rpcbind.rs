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
    if server.is_ipv4() || transport == Transport::Tcp {
        let (rpcbind, procedure, args) =
            port_question(server.ip(), universal_address(server), program, version, transport);
        return match client.call(server, from, request(rpcbind, procedure, &Credential::None, &args), timeout).await {
            Ok(results) => port_told(server.ip(), transport, &results).map_err(CallError::Malformed),
            Err(CallError::Rejected(RpcError::ProgMismatch { .. })) if server.is_ipv6() => Ok(None),
            Err(error) => Err(error),
        };
    }
    let asking = async {
        match getaddr(client, server, from, V4, program, version, timeout).await {
            Err(CallError::Rejected(RpcError::ProgMismatch { .. })) => {
                getaddr(client, server, from, V3, program, version, timeout).await
            }
            answer => answer,
        }
    };
    let found = tokio::time::timeout(timeout, asking).await.map_err(|_| CallError::TimedOut)??;
    Ok(found.map(|address| address.port()).filter(|&port| port != 0))
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
    match (server, transport) {
        (IpAddr::V4(_), _) => {
            let mapping = Mapping { program, version, protocol: transport as u32, port: 0 };
            (V2, Procedure::Get, encode(&mapping))
        }
        (IpAddr::V6(_), Transport::Udp) => (V4, Procedure::Get, rpcb(server, address, program, version, transport)),
        (IpAddr::V6(_), Transport::Tcp) => {
            (V4, Procedure::AddressList, rpcb(server, address, program, version, transport))
        }
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

/// Asks in version 3 or 4 where a program listens on UDP, in the server's address family.
pub async fn getaddr(
    client: &UdpClient,
    server: SocketAddr,
    from: Option<IpAddr>,
    rpcbind_version: u32,
    program: u32,
    version: u32,
    timeout: Duration,
) -> Result<Option<SocketAddr>, CallError> {
    let rpcb = rpcb(server.ip(), universal_address(server), program, version, Transport::Udp);
    let request = request(rpcbind_version, Procedure::Get, &Credential::None, &rpcb);
    let answer = client.call(server, from, request, timeout).await?;
    let address = decode::<UniversalAddress>(&answer)?;
    if address.as_str().is_empty() {
        return Ok(None);
    }
    let found = parse_universal_address(address.as_str());
    Ok(Some(found.ok_or_else(|| CallError::Malformed(format!("universal address {:?}", address.as_str())))?))
}

fn rpcb(server: IpAddr, address: UniversalAddress, program: u32, version: u32, transport: Transport) -> Vec<u8> {
    encode(&Rpcb {
        program,
        version,
        netid: BindString::clipped(netid(transport, server)),
        address,
        owner: BindString::default(),
    })
}

fn request<'a>(version: u32, procedure: Procedure, credential: &'a Credential, args: &'a [u8]) -> Request<'a> {
    Request { program: PROGRAM, version, procedure: procedure as u32, credential, args }
}

#[cfg(test)]
mod tests;
