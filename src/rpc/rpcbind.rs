//! Finds and registers ports: rpcbind as a client (RFC 1833).
//!
//! The rpcbind of any host is asked here: over UDP, and where that is silent or closed (port 111 is often shut to datagrams,
//! against amplification) over TCP. Registering is local, in [`local`].

pub mod local;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use super::client::{CallError, Request, Source, StreamClient, UdpClient};
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::rpcbind::{
    BindString, Mapping, PROGRAM, Procedure, Rpcb, UniversalAddress, V2, V3, V4, netid, parse_universal_address,
    port_in, universal_address,
};
use crate::wire::types::Transport;
use crate::wire::xdr::{DecodeError, decode, encode};

/// Longest answer over TCP: every address of a program.
const MAX_ANSWER: usize = 16 << 10;
/// UDP is asked alone for this part of the patience; then TCP too.
const HEAD_START: u32 = 4;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
struct Sought {
    program: u32,
    version: u32,
    transport: Transport,
}

/// How an rpcbind is asked.
enum Way<'a> {
    Udp(&'a UdpClient, Option<IpAddr>),
    Tcp(StreamClient),
}

/// Asks the rpcbind at `server` for a port; `None`: the program is not registered. Version 2 over IPv4,
/// versions 4 and 3 over IPv6. UDP is asked first, then TCP as well; the first answer counts. All of it takes
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
    let sought = Sought { program, version, transport };
    let mut by_udp = pin!(ask(Way::Udp(client, from), server, sought, timeout));
    let mut by_tcp = Box::pin(async {
        // A port above 1023 will do for a question.
        let source = Source { ip: from, reserved: false };
        let stream = StreamClient::connect_tcp(server, source, MAX_ANSWER, timeout).await?;
        ask(Way::Tcp(stream), server, sought, timeout).await
    });
    let asking = async {
        match tokio::time::timeout(timeout / HEAD_START, &mut by_udp).await {
            Ok(Err(error)) if is_of_udp(&error) => return by_tcp.await.or(Err(error)),
            Ok(answer) => return answer,
            Err(_) => {}
        }
        tokio::select! {
            answer = &mut by_udp => match answer {
                Err(error) if is_of_udp(&error) => by_tcp.await.or(Err(error)),
                answer => answer,
            },
            answer = &mut by_tcp => match answer {
                Ok(port) => Ok(port),
                Err(_) => by_udp.await,
            },
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(CallError::TimedOut))
}

/// Whether it says nothing of TCP: nobody listens on UDP, or this host cannot send there.
fn is_of_udp(error: &CallError) -> bool {
    matches!(error, CallError::Refused | CallError::RefusedNow | CallError::PermissionDenied | CallError::Io(_))
}

async fn ask(way: Way<'_>, server: SocketAddr, sought: Sought, timeout: Duration) -> Result<Option<u16>, CallError> {
    let Sought { program, version, transport } = sought;
    let by = if matches!(way, Way::Udp(..)) { Transport::Udp } else { Transport::Tcp };
    let (mut rpcbind, procedure, args) =
        port_question(server.ip(), universal_address(server), program, version, transport, by);
    loop {
        let request = request(rpcbind, procedure, &Credential::None, &args);
        let answer = match &way {
            Way::Udp(client, from) => client.call(server, *from, request, timeout).await,
            Way::Tcp(stream) => stream.call(request, timeout).await,
        };
        match answer {
            // Version 3 has no GETADDRLIST.
            Err(CallError::Rejected(RpcError::ProgMismatch { .. })) if rpcbind == V4 => match procedure {
                Procedure::Get => rpcbind = V3,
                _ => return Ok(None),
            },
            results => return port_told(server.ip(), transport, by, &results?).map_err(CallError::Malformed),
        }
    }
}

/// What to ask the rpcbind of a server where a program listens: its version, procedure and arguments.
/// GETPORT of version 2 over IPv4, GETADDR of version 4 over IPv6. That answers for the transport by which it is
/// asked, not for the one it is asked for, so anything but a UDP port asked for by UDP is looked for in GETADDRLIST's answer.
/// `address`: the server's.
pub(super) fn port_question(
    server: IpAddr,
    address: UniversalAddress,
    program: u32,
    version: u32,
    transport: Transport,
    by: Transport,
) -> (u32, Procedure, Vec<u8>) {
    if server.is_ipv4() {
        let mapping = Mapping { program, version, protocol: transport as u32, port: 0 };
        return (V2, Procedure::Get, encode(&mapping));
    }
    let netid = BindString::clipped(netid(transport, server));
    let rpcb = Rpcb { program, version, netid, address, owner: BindString::default() };
    match (transport, by) {
        (Transport::Udp, Transport::Udp) => (V4, Procedure::Get, encode(&rpcb)),
        _ => (V4, Procedure::AddressList, encode(&rpcb)),
    }
}

/// What a server answered to [`port_question`]; `None`: the program is not registered. The error is for people.
pub(super) fn port_told(
    server: IpAddr,
    transport: Transport,
    by: Transport,
    results: &[u8],
) -> Result<Option<u16>, String> {
    let odd = |what| move |error: DecodeError| format!("answer to {what} is odd: {error}");
    let port = match (server, transport, by) {
        (IpAddr::V4(_), ..) => u16::try_from(decode::<u32>(results).map_err(odd("GETPORT"))?).ok(),
        (IpAddr::V6(_), Transport::Udp, Transport::Udp) => {
            let text = decode::<UniversalAddress>(results).map_err(odd("GETADDR"))?;
            // Only the port counts: the address may be the wildcard.
            match parse_universal_address(text.as_str()) {
                Some(address) => Some(address.port()),
                None if text.as_str().is_empty() => None,
                None => return Err(format!("answer to GETADDR is odd: {:?}", text.as_str())),
            }
        }
        (IpAddr::V6(_), ..) => port_in(&decode(results).map_err(odd("GETADDRLIST"))?, netid(transport, server)),
    };
    Ok(port.filter(|&port| port != 0))
}

fn request<'a>(version: u32, procedure: Procedure, credential: &'a Credential, args: &'a [u8]) -> Request<'a> {
    Request { program: PROGRAM, version, procedure: procedure as u32, credential, args }
}

#[cfg(test)]
mod tests;
