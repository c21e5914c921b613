//! Calls over UDP.
//!
//! A [`UdpClient`] owns the table of its open calls; its one reading task only looks replies up in
//! it. A reply counts only if its xid and the address and port it came from are those of the call,
//! so a third host has to forge the server's address to be believed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::call::{results, xid_of};
use super::udp::{Report, UdpEndpoint};
use super::xids::Xids;

pub use super::call::{CallError, Request};
pub use super::stream::{Source, StreamClient};

/// Datagrams that the reading task takes before it looks at anything else.
const BATCH: usize = 256;
/// How long the reading task rests when the socket itself fails.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a datagram is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retransmit {
    /// After the first sending.
    pub first: Duration,
    /// The interval doubles up to this.
    pub max: Duration,
}

impl Default for Retransmit {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(8) }
    }
}

/// Open calls by xid and the address called. Zone and flow of IPv6 addresses do not come back.
type OpenCalls = Mutex<HashMap<(u32, IpAddr, u16), oneshot::Sender<Result<Vec<u8>, CallError>>>>;

/// Calls over one UDP socket, any number at a time, to any number of servers.
#[derive(Debug)]
pub struct UdpClient {
    endpoint: Arc<UdpEndpoint>,
    retransmit: Retransmit,
    open: Arc<OpenCalls>,
    xids: Xids,
    reader: AbortHandle,
}

impl Drop for UdpClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A call in the table; out of it when its caller is done or gone.
struct Open<'a> {
    calls: &'a OpenCalls,
    key: (u32, IpAddr, u16),
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl UdpClient {
    /// Takes the endpoint over: no other task may receive from it. Wants a tokio runtime; a task reads
    /// until the client is dropped.
    pub fn new(endpoint: Arc<UdpEndpoint>, retransmit: Retransmit) -> Self {
        // Without it a call to a closed port just times out.
        if let Err(error) = endpoint.watch_refused() {
            tracing::debug!(%error, "no reports of closed ports");
        }
        let open = Arc::default();
        let reader = tokio::spawn(read_replies(Arc::clone(&endpoint), Arc::clone(&open))).abort_handle();
        Self { endpoint, retransmit, open, xids: Xids::new(rand::random()), reader }
    }

    #[cfg(test)]
    pub(super) fn endpoint(&self) -> &UdpEndpoint {
        &self.endpoint
    }

    /// Calls, and repeats the call with the same xid until `timeout`. `from`: the local address to
    /// call from, of a wildcard socket.
    pub async fn call(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let deadline = Instant::now() + timeout;
        let xid = self.xids.draw();
        let key = (xid, to.ip().to_canonical(), to.port());
        let message = request.message(xid);
        let (sender, mut reply) = oneshot::channel();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sender);
        let _open = Open { calls: &self.open, key };
        let mut interval = self.retransmit.first;
        let mut sent = 0;
        loop {
            let again = (Instant::now() + interval).min(deadline);
            match timeout_at(again, self.endpoint.send(&message, to, from)).await {
                Ok(Err(error)) if sent == 0 => return Err(error.into()),
                // One that has left may still be answered.
                Ok(left) => sent += u32::from(left.is_ok()),
                // The socket has had no room.
                Err(_) => {}
            }
            match timeout_at(again, &mut reply).await {
                // Of several, another one may have been taken.
                Ok(Ok(Err(CallError::Refused))) if sent > 1 => return Err(CallError::RefusedNow),
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(CallError::Io(io::Error::other("the client's reading task has ended"))),
                Err(_) if Instant::now() >= deadline => return Err(CallError::TimedOut),
                Err(_) => interval = (interval * 2).min(self.retransmit.max),
            }
        }
    }
}

/// Sends calls from a socket that another task reads, once each, and waits for nothing (one-way procedures).
#[derive(Debug)]
pub struct UdpSender {
    endpoint: Arc<UdpEndpoint>,
    xids: Xids,
}

impl UdpSender {
    /// What comes back is for the endpoint's reader.
    pub fn new(endpoint: Arc<UdpEndpoint>) -> Self {
        Self { endpoint, xids: Xids::new(rand::random()) }
    }

    pub fn endpoint(&self) -> &UdpEndpoint {
        &self.endpoint
    }

    /// Sends from a local address.
    pub async fn cast(&self, to: SocketAddr, from: IpAddr, request: Request<'_>) -> Result<(), CallError> {
        Ok(self.endpoint.send(&request.message(self.xids.draw()), to, Some(from)).await?)
    }
}

async fn read_replies(endpoint: Arc<UdpEndpoint>, open: Arc<OpenCalls>) {
    let mut datagrams = Vec::new();
    loop {
        let read = match endpoint.readable().await {
            Ok(()) => endpoint.try_recv(&mut datagrams, BATCH),
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            tracing::warn!(%error, "cannot receive; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        let mut refused: Vec<Report> = endpoint.take_reports().into_iter().filter(|report| report.refused).collect();
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        for datagram in datagrams.drain(..) {
            let Some(xid) = xid_of(&datagram.bytes) else { continue };
            let key = (xid, datagram.peer.ip().to_canonical(), datagram.peer.port());
            if let Some(caller) = open.remove(&key) {
                // An error is a caller that has just given up.
                let _ = caller.send(results(&datagram.bytes));
            }
        }
        // Who knows our port can forge a report, but does not know the xid.
        for Report { to, xid, .. } in &refused {
            if let Some(caller) = xid.and_then(|xid| open.remove(&(xid, to.ip().to_canonical(), to.port()))) {
                let _ = caller.send(Err(CallError::Refused));
            }
        }
        // The network does not report on each datagram.
        refused.dedup_by_key(|report| report.to);
        for Report { to, .. } in refused {
            let at = (to.ip().to_canonical(), to.port());
            for (_, caller) in open.extract_if(|(_, ip, port), _| (*ip, *port) == at) {
                let _ = caller.send(Err(CallError::RefusedNow));
            }
        }
    }
}
