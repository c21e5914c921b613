//! Whether clients' lockds answer: where it listens is asked of rpcbind, then NULL of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::report::LockdProbe;
use crate::rpc::client::{CallError, Request, Retransmit, Source, StreamClient, UdpClient};
use crate::rpc::rpcbind::getport;
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm::{PROGRAM, Version};
use crate::wire::rpc::Credential;
use crate::wire::types::Transport;

/// Hosts that are asked at a time.
const AT_ONCE: usize = 512;
/// Longest answer to NULL.
const MAX_ANSWER: usize = 4096;
/// A host in a local network answers at once; a lost datagram is repeated soon.
const RETRANSMIT: Retransmit = Retransmit { first: Duration::from_millis(250), max: Duration::from_secs(1) };

struct Sockets {
    v4: Option<UdpClient>,
    v6: Option<UdpClient>,
    turns: Semaphore,
}

/// What the lockd of each host says; in their order. A host is given by its addresses, or where none
/// is known by its name. Each is waited for `patience` at most, from when its turn came.
pub(super) async fn probe_lockds(
    hosts: Vec<(String, Vec<IpAddr>)>,
    rpcbind_port: u16,
    patience: Duration,
) -> Vec<LockdProbe> {
    let open = |ip: IpAddr| {
        let endpoint = UdpEndpoint::bind_reserved(ip).map_err(|error| tracing::debug!(%error, "no socket")).ok()?;
        Some(UdpClient::new(Arc::new(endpoint), RETRANSMIT))
    };
    let sockets = Arc::new(Sockets {
        v4: open(Ipv4Addr::UNSPECIFIED.into()),
        v6: open(Ipv6Addr::UNSPECIFIED.into()),
        turns: Semaphore::new(AT_ONCE),
    });
    let mut seen = vec![LockdProbe::NotAsked; hosts.len()];
    let mut tasks = JoinSet::new();
    for (number, (name, addresses)) in hosts.into_iter().enumerate() {
        let sockets = Arc::clone(&sockets);
        tasks.spawn(async move { (number, probe_host(&sockets, &name, addresses, rpcbind_port, patience).await) });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((number, probe)) = done
            && let Some(place) = seen.get_mut(number)
        {
            *place = probe;
        }
    }
    seen
}

/// The best of what its addresses say.
async fn probe_host(
    sockets: &Sockets,
    name: &str,
    addresses: Vec<IpAddr>,
    rpcbind_port: u16,
    patience: Duration,
) -> LockdProbe {
    let Ok(_turn) = sockets.turns.acquire().await else { return LockdProbe::NotAsked };
    let deadline = Instant::now() + patience;
    let addresses = if addresses.is_empty() { look_up(name, deadline).await } else { addresses };
    let mut best = LockdProbe::NotAsked;
    for (asked, ip) in addresses.iter().enumerate() {
        // The time is shared, so that a dead first address does not hide a live second one.
        let left = u32::try_from(addresses.len() - asked).unwrap_or(1);
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
        let seen = probe_address(sockets, SocketAddr::new(*ip, rpcbind_port), until).await;
        if worth(seen) > worth(best) {
            best = seen;
        }
        if best == LockdProbe::Answers {
            break;
        }
    }
    best
}

/// None where the resolver knows none, or says nothing in time.
async fn look_up(name: &str, deadline: Instant) -> Vec<IpAddr> {
    match timeout_at(deadline, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = found.map(|socket| socket.ip()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        }
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// How much it says that something answered.
fn worth(probe: LockdProbe) -> u8 {
    match probe {
        LockdProbe::Answers => 5,
        LockdProbe::RpcbindOnly => 4,
        LockdProbe::Refused => 3,
        LockdProbe::NotRegistered => 2,
        LockdProbe::NoAnswer => 1,
        LockdProbe::NotAsked => 0,
    }
}

async fn probe_address(sockets: &Sockets, rpcbind: SocketAddr, until: Instant) -> LockdProbe {
    let Some(client) = (if rpcbind.is_ipv4() { &sockets.v4 } else { &sockets.v6 }) else {
        return LockdProbe::NotAsked;
    };
    let heard = AtomicBool::new(false);
    match timeout_at(until, ask(client, rpcbind, until, &heard)).await {
        Ok(Ok(probe)) => probe,
        Ok(Err(CallError::Rejected(_) | CallError::Refused | CallError::Malformed(_))) => LockdProbe::Refused,
        _ if heard.load(Ordering::Relaxed) => LockdProbe::RpcbindOnly,
        Ok(Err(CallError::TimedOut)) | Err(_) => LockdProbe::NoAnswer,
        Ok(Err(error @ (CallError::Io(_) | CallError::NotThere | CallError::PermissionDenied))) => {
            tracing::debug!(%rpcbind, %error, "its lockd could not be asked");
            LockdProbe::NotAsked
        }
    }
}

/// `heard`: its rpcbind has answered, whatever comes of the rest.
async fn ask(
    client: &UdpClient,
    rpcbind: SocketAddr,
    until: Instant,
    heard: &AtomicBool,
) -> Result<LockdProbe, CallError> {
    let left = || until.saturating_duration_since(Instant::now());
    for version in [Version::V4, Version::V3, Version::V1] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let port = getport(client, rpcbind, None, PROGRAM, version.number(), transport, left()).await?;
            heard.store(true, Ordering::Relaxed);
            let Some(port) = port else { continue };
            let to = SocketAddr::new(rpcbind.ip(), port);
            let request = Request {
                program: PROGRAM,
                version: version.number(),
                procedure: 0,
                credential: &Credential::None,
                args: &[],
            };
            match transport {
                Transport::Udp => client.call(to, None, request, left()).await?,
                Transport::Tcp => {
                    let stream = StreamClient::connect_tcp(to, Source::default(), MAX_ANSWER, left()).await?;
                    stream.call(request, left()).await?
                }
            };
            return Ok(LockdProbe::Answers);
        }
    }
    Ok(LockdProbe::NotRegistered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::clients::{Behaviour, Farm};
    use crate::wire::types::CallerName;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_answers_is_told_from_one_that_does_not_and_from_one_that_was_not_asked() {
        let farm = Farm::open(&[CallerName::new("server").unwrap()]).unwrap();
        let ip = |n: u8| Ipv4Addr::new(127, 9, 7, n);
        let hosts: Vec<_> = (1..=3).map(|n| farm.add(ip(n), CallerName::new(&format!("host{n}")).unwrap())).collect();
        farm.behave(hosts[1], Behaviour::dead());
        let wanted = [
            ("host1".to_owned(), vec![ip(1).into()]),
            ("host2".to_owned(), vec![ip(2).into()]),
            ("nobody.invalid".to_owned(), vec![]),
            ("host3".to_owned(), vec![ip(2).into(), ip(3).into()]),
            (ip(1).to_string(), vec![]),
        ];
        let seen = probe_lockds(wanted.to_vec(), farm.rpcbind_port(), Duration::from_millis(800)).await;
        let expected = [
            LockdProbe::Answers,
            LockdProbe::NoAnswer,
            LockdProbe::NotAsked,
            // Its second address answers.
            LockdProbe::Answers,
            // It is found by its name.
            LockdProbe::Answers,
        ];
        assert_eq!(seen, expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_on_which_nobody_listens_has_refused() {
        let port = std::net::UdpSocket::bind((Ipv4Addr::new(127, 9, 7, 9), 0)).unwrap().local_addr().unwrap().port();
        let host = ("host".to_owned(), vec![IpAddr::from(Ipv4Addr::new(127, 9, 7, 9))]);
        let seen = probe_lockds(vec![host], port, Duration::from_secs(5)).await;
        assert_eq!(seen, [LockdProbe::Refused]);
    }
}
