//! Turns input of sockets into calls.
//!
//! # Theory
//! One task reads each UDP socket and one each connection. It begins every call itself, in the order
//! of arrival (`service::begin`); a call that is not done at its first wait continues in a task of its own. So
//! a LOCK cannot reach the lock table behind the UNLOCK that was sent after it, and calls still do not
//! wait for each other. Most calls end in that first step: all calls that one read brought are executed in one turn of
//! the reader, and their replies leave in one write.
//!
//! A call runs under a permit of [`Limits::calls`]. A datagram that finds no permit is dropped before it is remembered
//! anywhere, so its repetition is a new call. A connection waits for its permits and is not read
//! from meanwhile; TCP slows its peer down.
//!
//! A connection's task reads, executes and writes in turns: while its replies are written nothing is read, so a peer
//! that does not read its replies stops its own calls, and no other's. The permit of the whole is given back when
//! the call is done.
//!
//! At shutdown (the watch turns true, or its sender is gone) nothing more is read. Calls that have
//! begun get [`Limits::drain`] to end and to be answered; calls that are left then are aborted.
//!
//! Start reading at [`serve_udp`]; `connection` does the same for streams. What both need is in `service`.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::service::{answer, begin, canonical, drain, stopped};
use super::udp::{Datagram, UdpEndpoint};
use crate::wire::types::Transport;

pub use super::connection::{Guests, serve_tcp, serve_unix};
pub use super::service::{ConnectionId, Limits, Origin, Peer, Service, SharedCache, shared_cache};

/// Datagrams after which a socket's reader lets other tasks run.
const AT_ONCE: usize = 64;

/// Serves datagrams until `shutdown` is true (or its sender is gone). An error is the socket's.
pub async fn serve_udp(
    endpoint: Arc<UdpEndpoint>,
    service: Arc<dyn Service>,
    cache: SharedCache,
    arrivals: Arrivals,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    arrivals.watch(&*endpoint)?;
    let mut reader = arrivals.reader();
    let permits = Arc::new(Semaphore::new(limits.calls));
    let mut calls = JoinSet::new();
    let mut datagrams = Vec::new();
    let mut stop = pin!(stopped(&mut shutdown));
    let ended = loop {
        tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            Some(_) = calls.join_next(), if !calls.is_empty() => continue,
            ready = endpoint.readable() => if let Err(error) = ready { break Err(error) },
        }
        reader.begins();
        if let Err(error) = endpoint.try_recv(&mut datagrams, AT_ONCE) {
            break Err(error);
        }
        let has_more = datagrams.len() == AT_ONCE;
        for datagram in datagrams.drain(..) {
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::debug!(peer = %datagram.peer, "call dropped: {} are being executed", limits.calls);
                continue;
            };
            let (endpoint, service, cache) = (Arc::clone(&endpoint), Arc::clone(&service), Arc::clone(&cache));
            let call = async move {
                answer_datagram(&endpoint, &datagram, &*service, &cache).await;
                drop(permit);
            };
            let _ = begin(call, &mut calls).await;
        }
        if has_more {
            tokio::task::yield_now().await;
        } else {
            reader.rests();
        }
    };
    drain(calls, limits.drain).await;
    ended
}

async fn answer_datagram(endpoint: &UdpEndpoint, datagram: &Datagram, service: &dyn Service, cache: &SharedCache) {
    let Datagram { peer, local_ip, ref bytes } = *datagram;
    let origin = Origin {
        peer: Peer::Inet(canonical(peer)),
        connection: None,
        local_ip: local_ip.to_canonical(),
        transport: Transport::Udp,
    };
    let Some(reply) = answer(bytes, &origin, service, Some(cache)).await else { return };
    // A lost reply is asked for again.
    if let Err(error) = endpoint.send(&reply, peer, Some(local_ip)).await {
        tracing::debug!(%peer, %error, "reply not sent");
    }
}
