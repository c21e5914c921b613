//! Sockets to calls.
//!
//! # Theory
//! One task reads each UDP socket and one each connection; a call runs in a task of its own, under a
//! permit of [`Limits::calls`]. A datagram that finds no permit is dropped before it is remembered
//! anywhere, so its repetition is a new call. A connection waits for its permits and is not read
//! from meanwhile; TCP slows its peer down.
//!
//! A connection's replies go through a queue to its writing task. A call's place on its connection is
//! given back only when its reply is written, so a peer that does not read stops its own calls, and
//! nobody else's: the permit of the whole is given back when the call is done.
//!
//! At shutdown (the watch turns true, or its sender is gone) nothing more is read. Calls that have
//! begun get [`Limits::drain`] to end and to be answered; what is left then is aborted.
//!
//! Start reading at [`serve_udp`]; `serve_connection` is the same for streams.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use super::reply_cache::{CacheLimits, Key, ReplyCache, Seen};
use super::udp::{Datagram, UdpEndpoint};
use crate::wire::record::{RecordReader, frame};
use crate::wire::rpc::{self, Answer, BadCall, Credential, IncomingCall};
use crate::wire::types::Transport;

/// How long accepting rests when this process or the system has no room for another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes read from a stream at a time.
const READ_SIZE: usize = 8 << 10;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over IP. Never an IPv4 address in IPv6 clothes.
    Inet(SocketAddr),
    /// Over a Unix socket, as the kernel vouches for it.
    Unix {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The process; 0 if the kernel does not say.
        pid: i32,
    },
}

/// Names a connection while this process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is known of a call besides its program, version, procedure and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallContext {
    /// Who calls.
    pub peer: Peer,
    /// The connection it came by; `None` for a datagram.
    pub connection: Option<ConnectionId>,
    /// The local address that was called (a loopback one for a Unix socket).
    pub local_ip: IpAddr,
    /// How (`Tcp` for a Unix socket: records on a stream).
    pub transport: Transport,
    /// The call's xid.
    pub xid: u32,
    /// Who the caller says it is.
    pub credential: Credential,
}

/// What answers calls.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a call. `None`: say nothing, and forget that it came (a repetition is executed).
    ///
    /// Calls of one connection run side by side, and may overtake each other.
    async fn call(&self, cx: &CallContext, program: u32, version: u32, procedure: u32, args: Vec<u8>)
    -> Option<Answer>;

    /// A connection has ended; its calls may still be running.
    fn connection_closed(&self, connection: ConnectionId) {
        let _ = connection;
    }
}

/// What one served socket may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; more are closed at once.
    pub connections: usize,
    /// Connections of one address; more are closed at once. Not asked of Unix sockets.
    pub connections_per_address: usize,
    /// Calls being executed in all: UDP calls beyond them are dropped, connections wait.
    pub calls: usize,
    /// Calls of one connection that are being executed or whose reply is not written yet; beyond
    /// them it is not read from.
    pub calls_per_connection: usize,
    /// Longest record, in bytes; a longer one closes the connection.
    pub max_record: usize,
    /// A connection on which no record begins for this long is closed.
    pub idle: Duration,
    /// A record must be complete, and a reply be taken, within this time.
    pub transfer: Duration,
    /// What was begun at shutdown gets this long to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_address: 256,
            calls: 4096,
            calls_per_connection: 64,
            max_record: 64 << 10,
            // Linux clients close theirs after five minutes.
            idle: Duration::from_secs(6 * 60),
            transfer: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// A reply cache that several sockets share.
pub type SharedCache = Arc<Mutex<ReplyCache>>;

/// A cache to share.
pub fn shared_cache(limits: CacheLimits) -> SharedCache {
    Arc::new(Mutex::new(ReplyCache::new(limits)))
}

/// The time that the caches go by.
fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Returns when nothing more is to be taken.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: nobody is left to say "stop".
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Serves datagrams until `shutdown` is true (or its sender is gone). An error is the socket's.
pub async fn serve_udp(
    endpoint: Arc<UdpEndpoint>,
    service: Arc<dyn Service>,
    cache: SharedCache,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(limits.calls));
    let mut calls = JoinSet::new();
    let ended = loop {
        let datagram = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break Ok(()),
            Some(_) = calls.join_next(), if !calls.is_empty() => continue,
            datagram = endpoint.recv() => match datagram {
                Ok(datagram) => datagram,
                Err(error) => break Err(error),
            },
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::debug!(peer = %datagram.peer, "call dropped: {} are being executed", limits.calls);
            continue;
        };
        let (endpoint, service, cache) = (Arc::clone(&endpoint), Arc::clone(&service), Arc::clone(&cache));
        calls.spawn(async move {
            let Datagram { peer, local_ip, bytes } = datagram;
            let origin = Origin {
                peer: Peer::Inet(canonical(peer)),
                connection: None,
                local_ip: local_ip.to_canonical(),
                transport: Transport::Udp,
            };
            if let Some(reply) = answer(&bytes, &origin, &*service, Some(&cache)).await {
                // A lost reply is asked for again.
                if let Err(error) = endpoint.send(&reply, peer, Some(local_ip)).await {
                    tracing::debug!(%peer, %error, "reply not sent");
                }
            }
            drop(permit);
        });
    };
    drain(calls, limits.drain).await;
    ended
}

/// Waits for what was begun; aborts what is left then.
async fn drain(mut tasks: JoinSet<()>, limit: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(limit, all).await.is_err() {
        tracing::warn!("{} calls or connections did not end within {limit:?} and were aborted", tasks.len());
        tasks.shutdown().await;
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where calls come from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    peer: Peer,
    connection: Option<ConnectionId>,
    local_ip: IpAddr,
    transport: Transport,
}

/// A call that the cache has as in progress; forgotten there unless it is answered, also when its
/// task is aborted or the service panics.
struct Remembered<'a> {
    cache: &'a SharedCache,
    key: Key,
}

impl Remembered<'_> {
    fn answered(&self, reply: &[u8]) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.answered(now(), &self.key, reply.into());
    }
}

impl Drop for Remembered<'_> {
    fn drop(&mut self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).forget(&self.key);
    }
}

/// The reply to a message, if there is to be one.
async fn answer(
    message: &[u8],
    origin: &Origin,
    service: &dyn Service,
    cache: Option<&SharedCache>,
) -> Option<Vec<u8>> {
    let call = match rpc::parse_call(message) {
        Ok(call) => call,
        Err(BadCall::Answer(reply)) => return Some(reply),
        Err(BadCall::Ignore) => return None,
    };
    let remembered = match (cache, origin.peer) {
        // NULL does nothing, so it may be done twice.
        (Some(cache), Peer::Inet(source)) if call.procedure != 0 => {
            let key = Key::new(source, &call);
            match cache.lock().unwrap_or_else(PoisonError::into_inner).begin(now(), key) {
                Seen::New => Some(Remembered { cache, key }),
                Seen::InProgress => return None,
                Seen::Answered(reply) => return Some(reply.to_vec()),
            }
        }
        _ => None,
    };
    let IncomingCall { xid, program, version, procedure, credential, args } = call;
    let Origin { peer, connection, local_ip, transport } = *origin;
    let cx = CallContext { peer, connection, local_ip, transport, xid, credential };
    let answer = service.call(&cx, program, version, procedure, args.to_vec()).await?;
    let reply = rpc::reply(xid, &answer);
    if let Some(remembered) = remembered {
        remembered.answered(&reply);
    }
    Some(reply)
}

/// Serves TCP connections until `shutdown` is true (or its sender is gone).
pub async fn serve_tcp(
    listener: TcpListener,
    service: Arc<dyn Service>,
    cache: SharedCache,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let shared = Shared::new(service, Some(cache), limits, shutdown.clone());
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Some((stream, peer)) = accepted_or_pause(accepted).await else { continue };
        let peer = canonical(peer);
        let guest = Guest::of(&guests, peer.ip(), limits.connections_per_address);
        let (Some(guest), true) = (guest, connections.len() < limits.connections) else {
            tracing::debug!(%peer, "connection closed: too many are open");
            continue;
        };
        if let Some(origin) = inet_origin(&stream, peer) {
            let shared = shared.clone();
            connections.spawn(async move {
                serve_connection(stream, origin, shared).await;
                drop(guest);
            });
        }
    }
    drain(connections, limits.drain).await;
    Ok(())
}

fn inet_origin(stream: &TcpStream, peer: SocketAddr) -> Option<Origin> {
    // Replies are whole records: waiting for more to send with them gains nothing. Either call fails
    // only on a connection that is gone already.
    stream.set_nodelay(true).ok()?;
    let local_ip = stream.local_addr().ok()?.ip().to_canonical();
    let connection = Some(ConnectionId::next());
    Some(Origin { peer: Peer::Inet(peer), connection, local_ip, transport: Transport::Tcp })
}

/// Serves connections of a Unix socket until `shutdown` is true (or its sender is gone). Without a
/// reply cache: nothing is lost between two processes of one host.
pub async fn serve_unix(
    listener: UnixListener,
    service: Arc<dyn Service>,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let shared = Shared::new(service, None, limits, shutdown.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Some((stream, _)) = accepted_or_pause(accepted).await else { continue };
        if connections.len() >= limits.connections {
            tracing::debug!("control connection closed: too many are open");
            continue;
        }
        if let Some(origin) = unix_origin(&stream) {
            connections.spawn(serve_connection(stream, origin, shared.clone()));
        }
    }
    drain(connections, limits.drain).await;
    Ok(())
}

fn unix_origin(stream: &UnixStream) -> Option<Origin> {
    let peer = stream.peer_cred().ok()?;
    Some(Origin {
        peer: Peer::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or_default() },
        connection: Some(ConnectionId::next()),
        local_ip: Ipv4Addr::LOCALHOST.into(),
        transport: Transport::Tcp,
    })
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

/// Open connections by address.
type Guests = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of an address, counted while this lives.
struct Guest {
    guests: Guests,
    ip: IpAddr,
}

impl Guest {
    fn of(guests: &Guests, ip: IpAddr, max: usize) -> Option<Self> {
        let mut counts = guests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Self { guests: Arc::clone(guests), ip })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

/// What the connections of a listener have in common.
#[derive(Clone)]
struct Shared {
    service: Arc<dyn Service>,
    cache: Option<SharedCache>,
    limits: Limits,
    permits: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Shared {
    fn new(
        service: Arc<dyn Service>,
        cache: Option<SharedCache>,
        limits: Limits,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { service, cache, limits, permits: Arc::new(Semaphore::new(limits.calls)), shutdown }
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
async fn serve_connection<S>(stream: S, origin: Origin, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Shared { service, cache, limits, permits, mut shutdown } = shared;
    let connection = Connection { id: origin.connection, service: Arc::clone(&service) };
    let (mut input, output) = tokio::io::split(stream);
    let slots = Arc::new(Semaphore::new(limits.calls_per_connection));
    // Every reply in it holds a slot, so it never fills.
    let (replies, queue) = mpsc::channel(limits.calls_per_connection.max(1));
    // It owns nothing but the queue, and ends with the last sender or a peer that does not read.
    let mut tasks = JoinSet::new();
    tasks.spawn(write_replies(output, queue, limits.transfer));
    let mut records = RecordReader::new(limits.max_record);
    let read = async {
        loop {
            let record = match next_record(&mut input, &mut records, &limits).await {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer = ?origin.peer, %error, "connection closed");
                    break;
                }
            };
            let (Ok(slot), Ok(permit)) =
                (Arc::clone(&slots).acquire_owned().await, Arc::clone(&permits).acquire_owned().await)
            else {
                break;
            };
            while tasks.try_join_next().is_some() {}
            let (service, cache, replies) = (Arc::clone(&service), cache.clone(), replies.clone());
            tasks.spawn(async move {
                let reply = answer(&record, &origin, &*service, cache.as_ref()).await;
                drop(permit);
                if let Some(reply) = reply {
                    // An error is a peer that is gone.
                    let _ = replies.send(Reply { record: frame(&reply), _slot: slot }).await;
                }
            });
        }
    };
    tokio::select! {
        biased;
        () = stopped(&mut shutdown) => {}
        () = replies.closed() => {}
        () = read => {}
    }
    drop((connection, replies));
    // The bound is the listener's at shutdown; before that, a service that never answers is its own.
    while tasks.join_next().await.is_some() {}
}

/// A framed reply, with the place on its connection that it gives back when written.
struct Reply {
    record: Vec<u8>,
    _slot: OwnedSemaphorePermit,
}

async fn write_replies(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Reply>, transfer: Duration) {
    while let Some(reply) = queue.recv().await {
        match timeout(transfer, output.write_all(&reply.record)).await {
            Ok(Ok(())) => {}
            // Gone, or not reading.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = timeout(transfer, output.shutdown()).await;
}

/// Why a connection is not read from any more.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    TooLong(#[from] crate::wire::record::RecordTooLong),
    #[error("a record was not complete in time")]
    TooSlow,
    #[error("it ended inside a record")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The next record; `None`: the peer is done, or idle for too long.
async fn next_record(
    input: &mut (impl AsyncRead + Unpin),
    records: &mut RecordReader,
    limits: &Limits,
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut chunk = [0; READ_SIZE];
    let mut deadline = tokio::time::Instant::now() + limits.idle;
    let mut begun = false;
    loop {
        if let Some(record) = records.next()? {
            return Ok(Some(record));
        }
        if !begun && records.is_mid_record() {
            begun = true;
            deadline = tokio::time::Instant::now() + limits.transfer;
        }
        match timeout_at(deadline, input.read(&mut chunk)).await {
            Err(_) if begun => return Err(ReadError::TooSlow),
            Err(_) => return Ok(None),
            Ok(Ok(0)) if begun => return Err(ReadError::Cut),
            Ok(Ok(0)) => return Ok(None),
            Ok(read) => records.push(chunk.get(..read?).unwrap_or_default()),
        }
    }
}
