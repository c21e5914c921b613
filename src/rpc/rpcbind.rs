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
use crate::wire::xdr::{decode, encode};

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
    if server.is_ipv4() {
        let mapping = encode(&Mapping { program, version, protocol: transport as u32, port: 0 });
        let request = request(V2, Procedure::Get, &Credential::None, &mapping);
        let port = decode::<u32>(&client.call(server, from, request, timeout).await?)?;
        let port = u16::try_from(port).map_err(|_| CallError::Malformed(format!("port {port}")))?;
        return Ok((port != 0).then_some(port));
    }
    if transport == Transport::Tcp {
        let rpcb = rpcb(server, program, version, transport);
        let request = request(V4, Procedure::AddressList, &Credential::None, &rpcb);
        return match client.call(server, from, request, timeout).await {
            Ok(entries) => Ok(port_in(&decode(&entries)?, netid(transport, server.ip()))),
            Err(CallError::Rejected(RpcError::ProgMismatch { .. })) => Ok(None),
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
    let rpcb = rpcb(server, program, version, Transport::Udp);
    let request = request(rpcbind_version, Procedure::Get, &Credential::None, &rpcb);
    let answer = client.call(server, from, request, timeout).await?;
    let address = decode::<UniversalAddress>(&answer)?;
    if address.as_str().is_empty() {
        return Ok(None);
    }
    let found = parse_universal_address(address.as_str());
    Ok(Some(found.ok_or_else(|| CallError::Malformed(format!("universal address {:?}", address.as_str())))?))
}

fn rpcb(server: SocketAddr, program: u32, version: u32, transport: Transport) -> Vec<u8> {
    encode(&Rpcb {
        program,
        version,
        netid: BindString::clipped(netid(transport, server.ip())),
        address: universal_address(server),
        owner: BindString::default(),
    })
}

fn request<'a>(version: u32, procedure: Procedure, credential: &'a Credential, args: &'a [u8]) -> Request<'a> {
    Request { program: PROGRAM, version, procedure: procedure as u32, credential, args }
}

#[cfg(test)]
mod tests;
