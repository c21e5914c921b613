//! Serving connections: TCP and Unix sockets. `server` has the theory.

use std::future::{poll_fn, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::arrivals::{Arrivals, Reader};
use super::service::{
    ConnectionId, Limits, Origin, Peer, Service, SharedCache, answer, begin, canonical, drain, stopped,
};
use crate::shares::{Bounds, Full, Holder, Shares};
use crate::wire::record::{RecordReader, RecordTooLong, append_framed};
use crate::wire::scope;
use crate::wire::types::Transport;

/// How long accepting rests when this process or the system has no room for another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that has had no room for a reply for so long takes none: a healthy one on a slow path has room again sooner.
const DEAF: Duration = Duration::from_millis(200);
/// Bytes read from a stream at a time, at least: as many calls as a connection may have open.
const READ_SIZE: usize = 16 << 10;
/// Replies that one write takes at most, and bytes after which it takes no more.
const REPLIES_JOINED: usize = 64;
const WRITE_SIZE: usize = 64 << 10;

/// Serves TCP connections until `shutdown` is true (or its sender is gone). Listeners with the same `guests`
/// share the bound of connections.
pub async fn serve_tcp(
    listener: TcpListener,
    service: Arc<dyn Service>,
    cache: SharedCache,
    guests: Guests,
    arrivals: Arrivals,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    arrivals.watch(&listener)?;
    let shared = Shared::new(service, Some(cache), arrivals, limits, shutdown);
    let let_in = |stream: &TcpStream, peer| {
        let peer = canonical(scope::joined(peer)?);
        if !shared.service.admits(&Peer::Inet(peer)) {
            return None;
        }
        let full = |full: &Full| tracing::debug!(%peer, ?full, "connection closed: too many are open");
        let guest = guests.enter(Holder::Host(peer.ip()), limits.connections).inspect_err(full).ok()?;
        Some((inet_origin(stream, peer)?, guest))
    };
    accept_all(&shared, |cx| listener.poll_accept(cx), let_in).await;
    Ok(())
}

fn inet_origin(stream: &TcpStream, peer: SocketAddr) -> Option<Origin> {
    // Replies are whole records: waiting for more to send with them gains nothing. Either call fails
    // only on a connection that is gone already.
    stream.set_nodelay(true).ok()?;
    let local_ip = scope::joined(stream.local_addr().ok()?)?.ip().to_canonical();
    let connection = Some(ConnectionId::next());
    Some(Origin { peer: Peer::Inet(peer), connection, local_ip, transport: Transport::Tcp })
}

/// Serves connections of a Unix socket until `shutdown` is true (or its sender is gone). Without a
/// reply cache: nothing is lost between two processes of one host.
pub async fn serve_unix(
    listener: UnixListener,
    service: Arc<dyn Service>,
    arrivals: Arrivals,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    arrivals.watch(&listener)?;
    let shared = Shared::new(service, None, arrivals, limits, shutdown);
    let guests = Guests::default();
    let let_in = |stream: &UnixStream, _| {
        let (uid, origin) = unix_origin(stream).filter(|(_, origin)| shared.service.admits(&origin.peer))?;
        let full = |full: &Full| tracing::debug!(uid, ?full, "control connection closed: too many are open");
        let guest = guests.enter(Holder::User(uid), limits.connections).inspect_err(full).ok()?;
        Some((origin, guest))
    };
    accept_all(&shared, |cx| listener.poll_accept(cx), let_in).await;
    Ok(())
}

/// Accepts connections, and serves those that are let in, until `shutdown` is true. Then waits for their end.
async fn accept_all<S, A>(
    shared: &Shared,
    mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, A)>>,
    let_in: impl Fn(&S, A) -> Option<(Origin, Guest)>,
) where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + Sync + 'static,
{
    let (mut reader, mut shutdown) = (shared.arrivals.reader(), shared.shutdown.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = at_work(&mut reader, &mut poll_accept) => accepted,
        };
        let Some((stream, peer)) = accepted_or_pause(accepted).await else { continue };
        let guest = let_in(&stream, peer).filter(|_| shared.watches(&stream));
        let Some((origin, guest)) = guest else { continue };
        let shared = shared.clone();
        connections.spawn(async move {
            serve_connection(stream, origin, shared).await;
            drop(guest);
        });
    }
    drain(connections, shared.limits.drain).await;
}

/// Waits for what `poll` takes from a socket. The reader is at work until there is nothing to take.
async fn at_work<T>(reader: &mut Reader, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    poll_fn(|cx| {
        reader.begins();
        let polled = poll(cx);
        if polled.is_pending() {
            reader.rests();
        }
        polled
    })
    .await
}

fn unix_origin(stream: &UnixStream) -> Option<(u32, Origin)> {
    let peer = stream.peer_cred().ok()?;
    let origin = Origin {
        peer: Peer::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or_default() },
        connection: Some(ConnectionId::next()),
        local_ip: Ipv4Addr::LOCALHOST.into(),
        transport: Transport::Tcp,
    };
    Some((peer.uid(), origin))
}

/// Errors of accept are about one connection, or about room that others may give back.
async fn accepted_or_pause<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
        Err(error) => {
            // Out of descriptors the connection stays in the queue, and accept would err again at once.
            tracing::warn!(%error, "cannot accept a connection; trying again");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// The open connections, by peer. Several listeners may share them.
#[derive(Debug, Default, Clone)]
pub struct Guests(Arc<Mutex<Shares>>);

impl Guests {
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, if there is room.
    fn enter(&self, holder: Holder, bounds: Bounds) -> Result<Guest, Full> {
        let mut shares = self.shares();
        shares.room(bounds, holder, 1)?;
        shares.take(holder, 1);
        Ok(Guest { guests: self.clone(), holder })
    }
}

/// One connection, counted while this lives.
#[derive(Debug)]
struct Guest {
    guests: Guests,
    holder: Holder,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.shares().give_back(self.holder, 1);
    }
}

/// What the connections of a listener have in common.
#[derive(Clone)]
struct Shared {
    service: Arc<dyn Service>,
    cache: Option<SharedCache>,
    arrivals: Arrivals,
    limits: Limits,
    permits: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Shared {
    fn new(
        service: Arc<dyn Service>,
        cache: Option<SharedCache>,
        arrivals: Arrivals,
        limits: Limits,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { service, cache, arrivals, limits, permits: Arc::new(Semaphore::new(limits.calls)), shutdown }
    }

    /// Whether the connection is looked at with the others. One that cannot be is not served: a deadline could pass
    /// before its calls are seen.
    fn watches(&self, stream: impl AsFd) -> bool {
        self.arrivals.watch(stream).inspect_err(|error| tracing::warn!(%error, "connection closed")).is_ok()
    }
}

/// Tells the service of a connection's end however it comes.
struct Connection {
    id: Option<ConnectionId>,
    service: Arc<dyn Service>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.service.connection_closed(id);
        }
    }
}

/// Reads, and lets calls run, until the peer is done, does wrong, or `shutdown` is true. Then ends
/// what was begun.
async fn serve_connection<S>(mut stream: S, origin: Origin, shared: Shared)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let Shared { service, cache, arrivals, limits, permits, mut shutdown } = shared;
    let connection = Connection { id: origin.connection, service: Arc::clone(&service) };
    let (mut input, mut output) = (Input::new(&limits, arrivals.reader()), Output::default());
    // One for all turns: to enter it into the list of those who wait costs more than to look whether it is over.
    let mut stop = pin!(stopped(&mut shutdown));
    // Those that did not end in their first step. Each gives its reply.
    let mut calls = JoinSet::new();
    let mut written = loop {
        let takes_more = calls.len() < limits.calls_per_connection && !output.is_full();
        tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            Some(ended) = calls.join_next(), if !calls.is_empty() => output.add(ended.ok().flatten()),
            next = input.next_call(&mut stream, &permits, &limits), if takes_more => match next {
                Ok(Some((record, permit))) => {
                    let (service, cache) = (Arc::clone(&service), cache.clone());
                    let call = async move {
                        let reply = answer(&record, &origin, &*service, cache.as_ref()).await;
                        drop(permit);
                        reply
                    };
                    output.add(begin(call, &mut calls).await.flatten());
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    tracing::debug!(peer = ?origin.peer, %error, "connection closed");
                    break Ok(());
                }
            },
            // Nothing else is there at once.
            () = ready(()), if !output.is_empty() => {
                let mut is_left = false;
                let leave = |stream: &S| if !is_left {
                    is_left = true;
                    arrivals.leave(stream);
                    input.reader.rests();
                };
                let written = output.write(&mut stream, limits.transfer, leave).await;
                if written.is_err() {
                    break written;
                }
                if is_left {
                    input.reader.begins();
                    if arrivals.watch(&stream).is_err() {
                        break Err(NotWritten);
                    }
                }
            }
        }
    };
    drop(connection);
    // What else comes is not read.
    arrivals.leave(&stream);
    drop(input);
    // The bound is the listener's at shutdown; before that, a service that never answers is its own.
    loop {
        if written.is_ok() {
            written = output.write(&mut stream, limits.transfer, |_| {}).await;
        }
        let Some(ended) = calls.join_next().await else { break };
        output.add(ended.ok().flatten());
    }
    let _ = timeout(limits.transfer, stream.shutdown()).await;
}

/// Replies that leave in one write.
#[derive(Default)]
struct Output {
    records: Vec<u8>,
    replies: usize,
}

/// The peer is gone, or does not read.
struct NotWritten;

impl Output {
    fn add(&mut self, reply: Option<Vec<u8>>) {
        if let Some(reply) = reply {
            append_framed(&mut self.records, &reply);
            self.replies += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn is_full(&self) -> bool {
        self.replies >= REPLIES_JOINED || self.records.len() >= WRITE_SIZE
    }

    /// `waits`: whenever the peer has no room for more, and has had none for a while. A slow path is no reason to leave calls
    /// out of account that have come.
    async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        transfer: Duration,
        mut waits: impl FnMut(&S),
    ) -> Result<(), NotWritten> {
        if !self.is_empty() {
            let mut rest = self.records.as_slice();
            let is_deaf = AtomicBool::new(false);
            let mut write = pin!(poll_fn(|cx| {
                while !rest.is_empty() {
                    match Pin::new(&mut *stream).poll_write(cx, rest) {
                        Poll::Ready(Ok(taken @ 1..)) => rest = rest.get(taken..).unwrap_or_default(),
                        Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NotWritten)),
                        Poll::Pending => {
                            if is_deaf.load(Ordering::Relaxed) {
                                waits(stream);
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Poll::Ready(Ok(()))
            }));
            if let Ok(written) = timeout(DEAF.min(transfer), &mut write).await {
                written?;
            } else {
                is_deaf.store(true, Ordering::Relaxed);
                timeout(transfer.saturating_sub(DEAF), write).await.map_err(|_| NotWritten)??;
            }
            self.records.clear();
            self.records.shrink_to(READ_SIZE);
            self.replies = 0;
        }
        Ok(())
    }
}

/// Why a connection is not read from any more.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    TooLong(#[from] RecordTooLong),
    #[error("a record was not complete in time")]
    TooSlow,
    #[error("it ended inside a record")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a stream brings, and until when it must.
struct Input {
    records: RecordReader,
    reader: Reader,
    /// The next call, while it waits for its permit.
    record: Option<Vec<u8>>,
    /// For the next record, once it is waited for.
    deadline: Option<Instant>,
    /// The next record has begun.
    begun: bool,
    /// Goes off at the deadline or before: to set a timer with each read would cost more than to look at the clock
    /// when it does.
    alarm: Pin<Box<Sleep>>,
}

impl Input {
    fn new(limits: &Limits, reader: Reader) -> Self {
        let (records, alarm) = (RecordReader::new(limits.max_record), Box::pin(sleep(limits.idle)));
        Self { records, reader, record: None, deadline: None, begun: false, alarm }
    }

    /// The next call, and the permit to execute it; `None`: the peer is done, or idle for too long. Cancel safe.
    async fn next_call(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        permits: &Arc<Semaphore>,
        limits: &Limits,
    ) -> Result<Option<(Vec<u8>, OwnedSemaphorePermit)>, ReadError> {
        if self.record.is_none() {
            self.record = self.next_record(stream, limits).await?;
            (self.deadline, self.begun) = (None, false);
        }
        let permit = Arc::clone(permits).acquire_owned().await;
        Ok(self.record.take().zip(permit.ok()))
    }

    async fn next_record(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        limits: &Limits,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            // What has come already takes no look at the clock.
            if let Some(record) = self.records.next()? {
                return Ok(Some(record));
            }
            let mut deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limits.idle);
            if !self.begun && self.records.is_mid_record() {
                self.begun = true;
                deadline = Instant::now() + limits.transfer;
                self.deadline = Some(deadline);
            }
            if self.alarm.deadline() > deadline {
                self.alarm.as_mut().reset(deadline);
            }
            let room = self.records.room(READ_SIZE);
            tokio::select! {
                biased;
                read = at_work(&mut self.reader, |cx| pin!(stream.read_buf(&mut *room)).poll(cx)) => match read? {
                    0 if self.begun => return Err(ReadError::Cut),
                    0 => return Ok(None),
                    _ => {}
                },
                () = &mut self.alarm => match self.alarm.as_mut() {
                    alarm if Instant::now() < deadline => alarm.reset(deadline),
                    _ if self.begun => return Err(ReadError::TooSlow),
                    _ => return Ok(None),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pause_after(error: io::Error) -> Duration {
        let begun = Instant::now();
        assert!(accepted_or_pause::<()>(Err(error)).await.is_none());
        begun.elapsed()
    }

    #[tokio::test]
    async fn accepting_rests_when_descriptors_are_out_and_not_for_a_peer_that_hung_up() {
        let out_of_descriptors = io::Error::from(nix::errno::Errno::EMFILE);
        assert!(pause_after(out_of_descriptors).await >= ACCEPT_PAUSE);
        assert!(pause_after(io::ErrorKind::ConnectionAborted.into()).await < ACCEPT_PAUSE);
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        let guests = Guests::default();
        let (host, bounds) = (Holder::Host(Ipv4Addr::LOCALHOST.into()), Bounds { all: 9, host: 2 });
        let both = [guests.enter(host, bounds), guests.enter(host, bounds)];
        assert!(both.iter().all(Result::is_ok));
        assert_eq!(guests.enter(host, bounds).unwrap_err(), Full::Share);
        assert!(guests.enter(Holder::User(0), bounds).is_ok(), "another's place");
        drop(both);
        assert!(guests.shares().is_empty());
    }
}
