//! NLM v4 calls of all hosts over one socket: each leaves from its host's address.
//!
//! At most [`WINDOW`] calls are out at a time, so that neither side's receive buffer overflows; the
//! rest wait for a place. A repeated LOCK or UNLOCK must keep its xid, or the server executes it twice;
//! `rpc::fanout` gives each transmission another one, so it is not what sends these.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::rpc::client::{CallError as RpcCallError, Request, Retransmit, UdpClient};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm;
use crate::wire::rpc::Credential;
use crate::wire::types::Cookie;
use crate::wire::xdr::{DecodeError, TooLong, Unpack, decode};

/// Calls that are out at a time.
const WINDOW: usize = 96;
/// The server is on this machine: what it does not answer at once is lost.
const RETRANSMIT: Retransmit = Retransmit { first: Duration::from_millis(250), max: Duration::from_secs(2) };
/// Patience with a call as a whole.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Why a simulated client's call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// [`use_server`](super::Farm::use_server) was not called.
    #[error("the simulated clients do not know their server yet")]
    NoServer,
    /// The farm has no such host.
    #[error("no such simulated client")]
    NoClient,
    /// A host name too long for an owner handle.
    #[error("the client's name is too long for an owner handle: {0}")]
    Name(#[from] TooLong),
    #[error("NLM call to {server}: {source}")]
    Call {
        /// Who was asked.
        server: SocketAddr,
        source: RpcCallError,
    },
    /// The answer is not what it should be.
    #[error("the server's answer makes no sense: {0}")]
    Malformed(#[from] DecodeError),
}

#[derive(Debug)]
pub(super) struct Calls {
    client: UdpClient,
    server: Mutex<Option<SocketAddr>>,
    window: Semaphore,
    cookies: AtomicU64,
}

impl Calls {
    pub(super) fn open() -> io::Result<Self> {
        let endpoint = UdpEndpoint::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        Ok(Self {
            client: UdpClient::new(Arc::new(endpoint), RETRANSMIT),
            server: Mutex::new(None),
            window: Semaphore::new(WINDOW),
            cookies: AtomicU64::new(1),
        })
    }

    pub(super) fn use_server(&self, nlm: SocketAddr) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(nlm);
    }

    /// A cookie that no other call of this farm has.
    pub(super) fn cookie(&self) -> Result<Cookie, TooLong> {
        Cookie::new(&self.cookies.fetch_add(1, Ordering::Relaxed).to_be_bytes())
    }

    /// Asks the server and waits for its answer.
    pub(super) async fn call<T: Unpack>(
        &self,
        from: Ipv4Addr,
        host: &str,
        procedure: nlm::Procedure,
        args: &[u8],
    ) -> Result<T, CallError> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).ok_or(CallError::NoServer)?;
        let credential = Credential::root(host);
        let request = Request {
            program: nlm::PROGRAM,
            version: nlm::Version::V4.number(),
            procedure: procedure.number(),
            credential: &credential,
            args,
        };
        // The semaphore is never closed.
        let _place = self.window.acquire().await;
        let answer = self
            .client
            .call(server, Some(IpAddr::V4(from)), request, CALL_LIMIT)
            .await
            .map_err(|source| CallError::Call { server, source })?;
        Ok(decode(&answer)?)
    }
}
