//! The call to a program that monitors a host: "it rebooted".

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::lockd::persist::LocalMonitor;
use crate::rpc::client::{CallError, Request, Retransmit, UdpClient};
use crate::rpc::program::{Host, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm::SmNotifyArgs;
use crate::wire::rpc::Credential;
use crate::wire::types::{NsmState, Transport};
use crate::wire::xdr::encode;

/// Calls at once; the others wait.
const AT_ONCE: usize = 64;
/// How often a program is called that does not answer: about a minute in all.
const ATTEMPTS: u32 = 6;
/// Patience with one call: a local program answers at once, or is stuck.
const PATIENCE: Duration = Duration::from_secs(4);
/// Patience with this host's rpcbind.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Between the first two attempts; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Calls back. Cloned freely.
#[derive(Debug, Clone)]
pub struct CallBack {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// From a port below 1024, for programs that asked from one. A program that could not have had
    /// such a port itself gets no call from one: it would be a way to speak as root to any other.
    reserved: UdpClient,
    ordinary: UdpClient,
    rpcbind_port: u16,
    turns: Semaphore,
}

impl CallBack {
    /// Opens its sockets. `rpcbind_port` is that of this host's rpcbind.
    pub fn new(rpcbind_port: u16) -> std::io::Result<Self> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let client = |endpoint| UdpClient::new(Arc::new(endpoint), Retransmit::default());
        let shared = Shared {
            reserved: client(UdpEndpoint::bind_reserved(loopback)?),
            ordinary: client(UdpEndpoint::bind(SocketAddr::new(loopback, 0))?),
            rpcbind_port,
            turns: Semaphore::new(AT_ONCE),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Tells the program, until it answers or for about a minute.
    pub(super) async fn tell(&self, monitor: &LocalMonitor, state: NsmState) -> Result<(), ProgramError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.once(monitor, state).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(host = %monitor.id.mon_name, program = monitor.id.my_id.my_prog, %error, "call back");
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(monitor, state).await
    }

    async fn once(&self, monitor: &LocalMonitor, state: NsmState) -> Result<(), ProgramError> {
        let Shared { reserved, ordinary, rpcbind_port, turns } = &*self.shared;
        let _turn = turns.acquire().await.map_err(|_| ProgramError::NotCalled(CallError::NotThere))?;
        let client = if monitor.privileged { reserved } else { ordinary };
        let asker = &monitor.id.my_id;
        // XNFS chapter 11, "struct status"; NLM's procedure 16 has the same argument.
        let status = SmNotifyArgs { name: monitor.id.mon_name.clone(), state, private: monitor.private };
        let (args, credential) = (encode(&status), &Credential::None);
        let (program, version, procedure) = (asker.my_prog, asker.my_vers, asker.my_proc);
        let request = Request { program, version, procedure, credential, args: &args };
        Host::local(client, *rpcbind_port, ASK_PATIENCE).call(&[Transport::Udp], request, PATIENCE).await.map(drop)
    }
}
