//! Finds out whether anything at all is heard from a host.
//!
//! "Anything" means an answer, a refusal, an accepted connection, or a firewall's refusal. Only "there is no such
//! host" is nothing, whether a router says it, or this machine itself for a host on its own network. A host that
//! cannot be asked (no socket, no route) is not silent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::{CallError, Source, StreamClient};
use super::udp::{UdpEndpoint, wildcard};
use super::xids::Xids;
use crate::wire::rpc::{self, Credential};
use crate::wire::{rpcbind, scope};

/// Datagrams sent in that time.
const TRIES: u32 = 4;
/// Datagrams taken at once, and how often, before a look at the clock.
const BATCH: usize = 16;
const BATCHES: usize = 64;
/// Longest answer over TCP, in bytes. None is read.
const MAX_ANSWER: usize = 1024;

/// Whether nothing is heard of the rpcbind there, nor of its host, by UDP and TCP in so much time. `from`: the address
/// of this host to ask from; a firewall may know no other.
pub async fn is_silent(rpcbind: SocketAddr, from: IpAddr, patience: Duration) -> bool {
    let from = Some(from).filter(|from| scope::reaches(*from, rpcbind.ip()));
    let (by_udp, by_tcp) =
        tokio::join!(nothing_by_udp(rpcbind, from, patience), nothing_by_tcp(rpcbind, from, patience));
    by_udp.unwrap_or(false) && by_tcp
}

async fn nothing_by_udp(to: SocketAddr, from: Option<IpAddr>, patience: Duration) -> io::Result<bool> {
    let endpoint = UdpEndpoint::bind_reserved(wildcard(to.ip()))?;
    endpoint.watch_refused()?;
    let xids = Xids::new(rand::random());
    for _ in 0..TRIES {
        let null = rpc::call(xids.draw(), rpcbind::PROGRAM, rpcbind::V2, 0, &Credential::None, &[]);
        endpoint.send(&null, to, from).await?;
        let until = Instant::now() + patience / TRIES;
        loop {
            if is_heard(&endpoint, to.ip())? {
                return Ok(false);
            }
            let Ok(ready) = timeout_at(until, endpoint.readable()).await else { break };
            ready?;
            // It may be ready for good: others can flood this port.
            if Instant::now() >= until {
                break;
            }
        }
    }
    Ok(!is_heard(&endpoint, to.ip())?)
}

fn is_heard(endpoint: &UdpEndpoint, host: IpAddr) -> io::Result<bool> {
    let mut came = Vec::new();
    for _ in 0..BATCHES {
        if endpoint.try_recv(&mut came, BATCH)? == 0 {
            break;
        }
        if came.drain(..).any(|datagram| datagram.peer.ip() == host) {
            return Ok(true);
        }
    }
    Ok(endpoint.take_reports().into_iter().any(|report| report.to.ip() == host && !report.nobody_is_there))
}

async fn nothing_by_tcp(to: SocketAddr, from: Option<IpAddr>, patience: Duration) -> bool {
    let source = Source { ip: from, reserved: false };
    match StreamClient::connect_tcp(to, source, MAX_ANSWER, patience).await {
        Err(CallError::TimedOut) => true,
        Err(CallError::Io(error)) => error.kind() == io::ErrorKind::HostUnreachable,
        Ok(_) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

    const SOON: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn a_host_that_answers_or_refuses_or_only_accepts_is_not_silent() {
        for local in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let refuses_all = UdpSocket::bind((local, 0)).unwrap().local_addr().unwrap();
            assert!(!nothing_by_udp(refuses_all, Some(local), SOON).await.unwrap(), "ICMP port unreachable");
            assert!(!nothing_by_tcp(refuses_all, Some(local), SOON).await, "a reset");
            let listens = TcpListener::bind((local, 0)).unwrap();
            assert!(
                !nothing_by_tcp(listens.local_addr().unwrap(), None, SOON).await,
                "it is accepted, if only by its kernel"
            );
            let answers = UdpSocket::bind((local, 0)).unwrap();
            let to = answers.local_addr().unwrap();
            let answering = std::thread::spawn(move || {
                let (_, from) = answers.recv_from(&mut [0; 512]).unwrap();
                answers.send_to(b"whatever it is", from).unwrap();
            });
            assert!(!nothing_by_udp(to, None, SOON).await.unwrap(), "any datagram of it will do");
            answering.join().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_not_answered_is_silent_and_what_cannot_be_asked_is_not() {
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.2:0").unwrap();
        let to = deaf.local_addr().unwrap();
        assert!(nothing_by_udp(to, None, SOON).await.unwrap());
        let asked = nothing_by_udp(to, Some("127.0.0.3".parse().unwrap()), SOON);
        let forged = async {
            let mut message = [0; 512];
            deaf.set_nonblocking(true).unwrap();
            let from = loop {
                match deaf.recv_from(&mut message) {
                    // Of the question before.
                    Ok((_, from)) if from.ip() == IpAddr::from([127, 0, 0, 3]) => break from,
                    Ok(_) | Err(_) => tokio::task::yield_now().await,
                }
            };
            other.send_to(b"another host's", from).unwrap();
        };
        assert!(tokio::join!(asked, forged).0.unwrap(), "another host is not it");
        let not_ours = "192.0.2.77".parse().unwrap();
        assert!(!is_silent(to, not_ours, SOON).await, "this host has no such address to ask from");
    }
}
