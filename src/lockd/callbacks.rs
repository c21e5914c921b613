//! Calls that nlmd makes to a client's lockd: GRANTED for a waiter, and the `_RES` answers of the
//! asynchronous procedures.
//!
//! A client believes GRANTED only from the server address it called, for the file, offset and length
//! that it asked for; so a call leaves from that address, over the transport that the client used
//! (UDP also where TCP cannot be had). The client's port is asked of its rpcbind each time: a client
//! that rebooted has another one. At most [`AT_ONCE`] calls are under way; the others wait their
//! turn. A GRANTED is repeated with back-off until it is answered or withdrawn (its task aborted).
//! Nothing is repeated with the same xid: a client may take the lock, its answer be lost, and deny
//! the repetition, so each sending must be known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::locks::{OfferAnswer, Via, Wanted};
use crate::rpc::client::{CallError, Request, Retransmit, Source, UdpClient};
use crate::rpc::program::{Host, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm::{self, Lock, Message, Procedure, Res, Stat, TestArgs, Version};
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, Cookie, Transport};
use crate::wire::xdr::decode;

/// Calls under way at once.
const AT_ONCE: usize = 256;
/// Patience with one call.
const PATIENCE: Duration = Duration::from_secs(2);
/// Patience with one question to an rpcbind.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// A datagram is sent once: no repetition within [`PATIENCE`].
const ONCE: Retransmit = Retransmit { first: PATIENCE, max: PATIENCE };
/// Between two attempts: doubles up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A grant to tell of.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The client.
    pub name: CallerName,
    /// Where it may be called, the first one first.
    pub addresses: Vec<IpAddr>,
    /// How it called.
    pub via: Via,
    /// What it asked for.
    pub wanted: Wanted,
    /// The cookie of its request.
    pub cookie: Cookie,
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
    turns: Semaphore,
}

impl Callbacks {
    /// Opens a socket for each family that this host has.
    pub fn new(rpcbind_port: u16, machine: &str) -> Result<Self, NoSocket> {
        let open = |ip| UdpEndpoint::bind_reserved(ip).map(|endpoint| UdpClient::new(Arc::new(endpoint), ONCE));
        let v4 = open(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let v6 = open(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let (v4, v6) = match (v4, v6) {
            (Err(error), Err(_)) => return Err(error.into()),
            (v4, v6) => (v4.ok(), v6.ok()),
        };
        let credential = Credential::root(machine);
        Ok(Self { shared: Arc::new(Shared { v4, v6, rpcbind_port, credential, turns: Semaphore::new(AT_ONCE) }) })
    }

    /// Calls GRANTED until the client says yes or no.
    pub async fn granted(&self, granted: Granted) -> OfferAnswer {
        let mut pause = FIRST_PAUSE;
        let mut maybe_accepted = false;
        let addresses = granted.addresses.clone();
        for address in addresses.into_iter().cycle() {
            let attempt = {
                let Ok(_turn) = self.shared.turns.acquire().await else { return OfferAnswer::Refused };
                self.granted_once(address, &granted).await
            };
            match attempt {
                Ok(Stat::Granted) => return OfferAnswer::Accepted,
                Ok(Stat::DeniedGracePeriod) => {
                    tracing::debug!(client = %granted.name, %address, "GRANTED: its lockd is in grace");
                }
                Ok(stat) => {
                    tracing::debug!(client = %granted.name, %address, ?stat, maybe_accepted, "GRANTED was refused");
                    return if maybe_accepted { OfferAnswer::Unclear } else { OfferAnswer::Refused };
                }
                Err(error) => {
                    maybe_accepted |= error.maybe_executed();
                    tracing::info!(client = %granted.name, %address, %error, "GRANTED was not answered");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        OfferAnswer::Refused
    }

    async fn granted_once(&self, address: IpAddr, granted: &Granted) -> Result<Stat, ProgramError> {
        let Granted { name, via, wanted, cookie, .. } = granted;
        let process = wanted.process.clone();
        let args = TestArgs {
            cookie: cookie.clone(),
            exclusive: wanted.exclusive,
            alock: Lock::new(name.clone(), wanted.file.clone(), process.oh, process.svid, wanted.range),
        };
        let version = Version::from_number(via.version).unwrap_or(Version::V4);
        let unsent = |error: nlm::TooWide| ProgramError::NotCalled(CallError::Malformed(error.to_string()));
        let args = args.encode(version).map_err(unsent)?;
        let results = self.call(address, *via, Procedure::Granted, &args).await?;
        let res: Res = decode(&results).map_err(|error| ProgramError::Called(error.into()))?;
        Ok(res.stat)
    }

    /// Sends the answer of an asynchronous procedure, once: the client repeats its question if it is lost.
    pub async fn answer(&self, address: IpAddr, via: Via, procedure: Procedure, args: &[u8]) {
        let Ok(_turn) = self.shared.turns.try_acquire() else {
            tracing::warn!(%address, ?procedure, "too many calls to clients are under way; an answer is dropped");
            return;
        };
        if let Err(error) = self.call(address, via, procedure, args).await {
            tracing::debug!(%address, ?procedure, %error, "an answer was not taken");
        }
    }

    async fn call(
        &self,
        address: IpAddr,
        via: Via,
        procedure: Procedure,
        args: &[u8],
    ) -> Result<Vec<u8>, ProgramError> {
        let shared = &*self.shared;
        let client = if address.is_ipv4() { &shared.v4 } else { &shared.v6 };
        let client = client.as_ref().ok_or(ProgramError::NotCalled(CallError::NotThere))?;
        let same_family = via.server_address.is_ipv4() == address.is_ipv4();
        let from = same_family.then_some(via.server_address);
        let host = Host {
            client,
            rpcbind: SocketAddr::new(address, shared.rpcbind_port),
            source: Source { ip: from, reserved: true },
            ask_patience: ASK_PATIENCE,
        };
        let request = Request {
            program: nlm::PROGRAM,
            version: via.version,
            procedure: procedure.number(),
            credential: &shared.credential,
            args,
        };
        let transports: &[Transport] = match via.transport {
            Transport::Tcp => &[Transport::Tcp, Transport::Udp],
            Transport::Udp => &[Transport::Udp],
        };
        host.call(transports, request, PATIENCE).await
    }
}
