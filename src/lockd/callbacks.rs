//! GRANTED: the call that nlmd makes to a client's lockd when a waiter has got its lock.
//!
//! A client believes GRANTED only from the server address it called, for the file, offset and length
//! that it asked for; so a call leaves from that address, over the transport that the client used
//! (or the other one where its lockd has only that). The client's port is asked of its rpcbind each time: a client
//! that rebooted has another one. Each call waits for its client's turn ([`turns`](super::turns)), so that dead
//! clients, and one with many grants, do not keep another's from leaving. A GRANTED is repeated with back-off until it is answered or withdrawn (its task aborted), whatever stands
//! in its way; after [`UNCONFIRMED`] the lock table is told once what that is.
//! Nothing is repeated with the same xid: a client may take the lock, its answer be lost, and deny
//! the repetition, so each sending must be known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::turns::{Turn, Turns};
use crate::locks::{OfferAnswer, Via, Wanted};
use crate::rpc::client::{CallError, Request, Retransmit, Source, UdpClient};
use crate::rpc::program::{Host, Listener, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm::{self, Lock, Message, Procedure, Res, Stat, TestArgs, Version};
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, Cookie, Transport};
use crate::wire::xdr::decode;

/// Patience with one call. It is short, since a call that waits has one of the turns that all clients share, and a grant is
/// called again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Patience with one question to an rpcbind.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// Room for the replies to all turns, and to the look-ups of `answers`, at once.
const BUFFER: usize = 1 << 20;
/// A datagram is sent once: no repetition within [`PATIENCE`].
const ONCE: Retransmit = Retransmit { first: PATIENCE, max: PATIENCE };
/// Between two attempts: doubles up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A client that has not confirmed a grant for so long becomes a suspect.
const UNCONFIRMED: Duration = Duration::from_secs(10);

/// A grant to tell of.
#[derive(Debug, Clone)]
pub struct Granted {
    pub name: CallerName,
    /// Where it may be called, the first one first.
    pub addresses: Vec<IpAddr>,
    pub via: Via,
    pub wanted: Wanted,
    /// The cookie of its request.
    pub cookie: Cookie,
}

/// A grant that is being told of, and how far that is.
#[derive(Debug)]
pub(super) struct Granting {
    granted: Granted,
    attempts: usize,
    pause: Duration,
    /// A call that had no answer may have reached the client.
    maybe_accepted: bool,
    since: Instant,
    /// Its silence was told of.
    told: bool,
}

impl Granting {
    /// `maybe_accepted`: the client may have accepted the same before.
    pub(super) fn new(granted: Granted, maybe_accepted: bool) -> Self {
        let since = Instant::now();
        Self { granted, attempts: 0, pause: FIRST_PAUSE, maybe_accepted, since, told: false }
    }
}

/// A grant that its client has neither confirmed nor refused for long.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// To go on with.
    pub(super) granting: Granting,
    /// For people.
    pub(super) why: String,
}

impl Unconfirmed {
    fn new(granting: Granting, error: impl std::fmt::Display) -> Self {
        Self { granting, why: format!("GRANTED was not confirmed for {} s: {error}", UNCONFIRMED.as_secs()) }
    }
}

/// No socket to call from.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a UDP socket to call clients from: {0}; check the limit of open files")]
pub struct NoSocket(#[from] std::io::Error);

/// Makes the calls. Cloned freely.
#[derive(Debug, Clone)]
pub struct Callbacks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    v4: Option<UdpClient>,
    v6: Option<UdpClient>,
    rpcbind_port: u16,
    credential: Credential,
    turns: Turns,
}

impl Callbacks {
    /// Opens a socket for each family that this host has.
    pub fn new(rpcbind_port: u16, machine: &str) -> Result<Self, NoSocket> {
        let open = |ip| {
            let endpoint = UdpEndpoint::bind_reserved(ip)?;
            endpoint.raise_buffers(BUFFER);
            Ok::<_, std::io::Error>(UdpClient::new(Arc::new(endpoint), ONCE))
        };
        let v4 = open(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let v6 = open(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let (v4, v6) = match (v4, v6) {
            (Err(error), Err(_)) => return Err(error.into()),
            (v4, v6) => (v4.ok(), v6.ok()),
        };
        let credential = Credential::root(machine);
        Ok(Self { shared: Arc::new(Shared { v4, v6, rpcbind_port, credential, turns: Turns::default() }) })
    }

    /// Calls GRANTED until the client says yes or no. `Err`: it has said neither for [`UNCONFIRMED`]. That
    /// comes once; the call goes on when this is called again with what came back.
    pub(super) async fn granted(&self, mut granting: Granting) -> Result<OfferAnswer, Unconfirmed> {
        let Granting { granted, attempts, pause, maybe_accepted, since, told } = &mut granting;
        let name = granted.name.clone();
        loop {
            let place = *attempts % granted.addresses.len().max(1);
            let Some(&address) = granted.addresses.get(place) else { return Ok(OfferAnswer::Refused) };
            if *attempts > 0 {
                let until_told = if *told { LONGEST_PAUSE } else { UNCONFIRMED.saturating_sub(since.elapsed()) };
                tokio::time::sleep((*pause).min(until_told.max(FIRST_PAUSE))).await;
                *pause = (*pause * 2).min(LONGEST_PAUSE);
            }
            *attempts += 1;
            let Some(turn) = self.turn(address, *since, *told).await else {
                *told = true;
                return Err(Unconfirmed::new(granting, "it has not answered other calls either"));
            };
            let attempt = self.granted_once(address, granted).await;
            turn.over(attempt.is_ok());
            match attempt {
                Ok(Stat::Granted) => return Ok(OfferAnswer::Accepted),
                Ok(Stat::DeniedGracePeriod) => {
                    tracing::debug!(client = %name, %address, "GRANTED: its lockd is in grace");
                }
                Ok(stat) => {
                    tracing::debug!(client = %name, %address, ?stat, maybe_accepted, "GRANTED was refused");
                    return Ok(if *maybe_accepted { OfferAnswer::Unclear } else { OfferAnswer::Refused });
                }
                Err(error) => {
                    *maybe_accepted |= error.maybe_executed();
                    tracing::info!(client = %name, %address, %error, "GRANTED was not answered");
                    if !*told && since.elapsed() >= UNCONFIRMED {
                        *told = true;
                        return Err(Unconfirmed::new(granting, error));
                    }
                }
            }
        }
    }

    /// `None`: the grant has waited for [`UNCONFIRMED`] behind others of a silent client, and that is not told yet.
    async fn turn(&self, address: IpAddr, since: Instant, told: bool) -> Option<Turn> {
        let turns = &self.shared.turns;
        let mut turn = pin!(turns.wait(address));
        if !told {
            match timeout(UNCONFIRMED.saturating_sub(since.elapsed()), &mut turn).await {
                Ok(turn) => return Some(turn),
                Err(_) if turns.is_silent(address) => return None,
                Err(_) => {}
            }
        }
        Some(turn.await)
    }

    async fn granted_once(&self, address: IpAddr, granted: &Granted) -> Result<Stat, ProgramError> {
        let Granted { name, via, wanted, cookie, .. } = granted;
        let process = wanted.process.clone();
        let lock = Lock::new(name.clone(), wanted.file.clone(), process.oh, process.svid, wanted.range);
        let args =
            TestArgs { cookie: cookie.clone(), exclusive: wanted.exclusive, alock: Lock { len: wanted.len, ..lock } };
        let version = Version::from_number(via.version).unwrap_or(Version::V4);
        let unsent = |error: nlm::TooWide| ProgramError::NotCalled(CallError::Malformed(error.to_string()));
        let args = args.encode(version).map_err(unsent)?;
        let request = Request {
            program: nlm::PROGRAM,
            version: via.version,
            procedure: Procedure::Granted.number(),
            credential: self.credential(),
            args: &args,
        };
        let results = self.host(address, *via)?.call(transports(*via), request, PATIENCE).await?;
        let res: Res = decode(&results).map_err(|error| ProgramError::Called(error.into()))?;
        Ok(res.stat)
    }

    /// Where the client's lockd listens, for the transport that the client used.
    pub(super) async fn find_lockd(&self, address: IpAddr, via: Via) -> Result<Listener, ProgramError> {
        self.host(address, via)?.find(nlm::PROGRAM, via.version, transports(via)).await
    }

    /// Who nlmd says it is.
    pub(super) fn credential(&self) -> &Credential {
        &self.shared.credential
    }

    /// The way to a client's programs, from the address that it called.
    fn host(&self, address: IpAddr, via: Via) -> Result<Host<'_>, ProgramError> {
        let shared = &*self.shared;
        let client = if address.is_ipv4() { &shared.v4 } else { &shared.v6 };
        let client = client.as_ref().ok_or(ProgramError::NotCalled(CallError::NotThere))?;
        let same_family = via.server_address.is_ipv4() == address.is_ipv4();
        Ok(Host {
            client,
            rpcbind: SocketAddr::new(address, shared.rpcbind_port),
            source: Source { ip: same_family.then_some(via.server_address), reserved: true },
            ask_patience: ASK_PATIENCE,
        })
    }
}

/// The one that the client used first.
fn transports(via: Via) -> &'static [Transport] {
    match via.transport {
        Transport::Tcp => &[Transport::Tcp, Transport::Udp],
        Transport::Udp => &[Transport::Udp, Transport::Tcp],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::Process;
    use crate::rpc::udp::Datagram;
    use crate::wire::rpc::{self, Answer};
    use crate::wire::types::{ByteRange, FileHandle, OwnerHandle, Svid};
    use crate::wire::xdr::encode;

    const SOON: Duration = Duration::from_secs(10);

    /// The next datagram, its xid and its program.
    async fn next(socket: &UdpEndpoint) -> (Datagram, u32, u32) {
        let mut came = Vec::new();
        while came.is_empty() {
            timeout(SOON, socket.readable()).await.unwrap().unwrap();
            socket.try_recv(&mut came, 1).unwrap();
        }
        let datagram = came.remove(0);
        let call = rpc::parse_call(&datagram.bytes).unwrap();
        let (xid, program) = (call.xid, call.program);
        (datagram, xid, program)
    }

    /// Answers as rpcbind that all listen on this port, until GRANTED comes.
    async fn next_granted(socket: &UdpEndpoint) -> (Datagram, u32) {
        let port = encode(&u32::from(socket.local_addr().port()));
        loop {
            let (datagram, xid, program) = next(socket).await;
            if program == nlm::PROGRAM {
                return (datagram, xid);
            }
            socket.send(&rpc::reply(xid, &Answer::Success(port.clone())), datagram.peer, None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_grant_that_came_before_the_port_was_closed_may_be_accepted_though_its_repetition_is_denied() {
        let host = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = host.local_addr();
        let callbacks = Callbacks::new(at.port(), "server").unwrap();
        let via = Via { server_address: at.ip(), transport: Transport::Udp, version: 4 };
        let range = ByteRange { start: 0, end: 9 };
        let process = Process { svid: Svid(1), oh: OwnerHandle::new(b"owner").unwrap() };
        let file = FileHandle::new(b"file").unwrap();
        let wanted = Wanted { file, range, len: range.nlm_len(), exclusive: true, process };
        let (name, cookie) = (CallerName::new("client").unwrap(), Cookie::new(b"cookie").unwrap());
        let granted = Granted { name, addresses: vec![at.ip()], via, wanted, cookie };
        let client = async {
            next_granted(&host).await;
            // It has accepted, and its host goes down before it answers: another's question finds the port closed.
            drop(host);
            assert!(callbacks.find_lockd(at.ip(), via).await.is_err());
            let host = UdpEndpoint::bind(at).unwrap();
            let (again, xid) = next_granted(&host).await;
            let results =
                Res { cookie: Cookie::new(b"cookie").unwrap(), stat: Stat::Denied }.encode(Version::V4).unwrap();
            host.send(&rpc::reply(xid, &Answer::Success(results)), again.peer, None).await.unwrap();
        };
        let (answer, ()) = tokio::join!(callbacks.granted(Granting::new(granted, false)), client);
        assert_eq!(answer.unwrap(), OfferAnswer::Unclear);
    }
}
