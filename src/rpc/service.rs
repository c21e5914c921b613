//! Callers, services, and how a call runs. `server` has the theory.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::{JoinSet, unconstrained};
use tokio::time::timeout;

use super::reply_cache::{CacheLimits, Key, Lookup, ReplyCache};
use crate::shares::Bounds;
use crate::wire::rpc::{self, Answer, BadCall, IncomingCall};
use crate::wire::types::Transport;

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
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where a call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who calls.
    pub peer: Peer,
    /// The connection it came by; `None` for a datagram.
    pub connection: Option<ConnectionId>,
    /// The local address that was called (a loopback one for a Unix socket).
    pub local_ip: IpAddr,
    /// How (`Tcp` for a Unix socket: records on a stream).
    pub transport: Transport,
}

/// What answers calls.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a call. `None`: say nothing, and forget that it came (a repetition is executed).
    ///
    /// Calls of one connection reach the service's first await in their order (the calls of one UDP
    /// socket too): each is polled until it first waits before the next one begins. An await that is
    /// ready at once, such as sending to a channel that has room, is no wait. From its first wait on a
    /// call runs beside the others, and may be overtaken by them. Reading stops until a call first
    /// waits, so it must not block before.
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer>;

    /// Whether a call of this procedure that comes twice may be executed twice. The replies of the
    /// others are remembered, if they succeeded: what was refused has done nothing.
    fn is_idempotent(&self, call: &IncomingCall<'_>) -> bool {
        call.procedure == 0
    }

    /// Whether the reply that a call got is still true when the call is repeated. One that is not stays unsent, and the
    /// call is not executed anew either before the reply is forgotten: nobody knows whether it came through. Must not
    /// block.
    fn is_still_true(&self, origin: &Origin, call: &IncomingCall<'_>, reply: &[u8]) -> bool {
        let _ = (origin, call, reply);
        true
    }

    /// Whether the peer is heard: one that is not gets no connection, and no answer to any message, not even that it makes
    /// no sense. Must not block.
    fn admits(&self, peer: &Peer) -> bool {
        let _ = peer;
        true
    }

    /// A connection has ended; its calls may still be running.
    fn connection_closed(&self, connection: ConnectionId) {
        let _ = connection;
    }
}

/// What one served socket may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections; more are closed at once.
    pub connections: Bounds,
    /// Calls being executed in all: UDP calls beyond them are dropped, connections wait. More than any service keeps
    /// waiting, where a host has a share: a few hosts whose calls all wait must not take what all others need.
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
            connections: Bounds { all: 8192, host: 256 },
            calls: 20_480,
            calls_per_connection: 64,
            max_record: 64 << 10,
            // Linux clients close theirs after five minutes.
            idle: Duration::from_mins(6),
            transfer: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// A reply cache that several sockets share.
pub type SharedCache = Arc<Mutex<ReplyCache>>;

/// A cache to share.
pub fn shared_cache() -> SharedCache {
    Arc::new(Mutex::new(ReplyCache::new(CacheLimits::default())))
}

/// The time that the caches go by.
fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Returns when nothing more is to be taken.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: no task is left to say "stop".
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Polls a call once, in the task that read it. The rest of it, if there is any, runs in `tasks`, and its outcome
/// comes from there. Never waits itself.
pub(super) async fn begin<T: Send + 'static>(
    call: impl Future<Output = T> + Send + 'static,
    tasks: &mut JoinSet<T>,
) -> Option<T> {
    let mut call = Box::pin(call);
    // A panic is the call's own, as it is in a task; the others go on. A future that panicked is
    // dropped, and nothing of it is seen again.
    let first = poll_fn(|cx| Poll::Ready(catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)))));
    // Constrained, a channel with room may say "not yet" to a task that has had many turns, and the
    // call's place in the order would be lost. The reading itself stays constrained.
    match unconstrained(first).await {
        Ok(Poll::Pending) => drop(tasks.spawn(call)),
        Ok(Poll::Ready(outcome)) => return Some(outcome),
        Err(_) => tracing::error!("a call panicked and is not answered"),
    }
    None
}

/// Waits for what was begun; aborts what is left then.
pub(super) async fn drain(mut tasks: JoinSet<()>, limit: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(limit, all).await.is_err() {
        tracing::warn!("{} calls or connections did not end within {limit:?} and were aborted", tasks.len());
        tasks.shutdown().await;
    }
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A call that the cache has as in progress; forgotten there unless it succeeds, also when its
/// task is aborted or the service panics.
struct Remembered<'a> {
    cache: &'a SharedCache,
    key: Key,
    is_answered: bool,
}

impl Remembered<'_> {
    fn answered(mut self, reply: &[u8]) {
        self.is_answered = true;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.answered(now(), &self.key, reply);
    }
}

impl Drop for Remembered<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).forget(&self.key);
        }
    }
}

/// The reply to a message, if there is to be one.
pub(super) async fn answer(
    message: &[u8],
    origin: &Origin,
    service: &dyn Service,
    cache: Option<&SharedCache>,
) -> Option<Vec<u8>> {
    if !service.admits(&origin.peer) {
        return None;
    }
    let call = match rpc::parse_call(message) {
        Ok(call) => call,
        Err(BadCall::Answer(reply)) => return Some(reply),
        Err(BadCall::Ignore) => return None,
    };
    let mut remembered = None;
    if let (Some(cache), Peer::Inet(source)) = (cache, origin.peer)
        && !service.is_idempotent(&call)
    {
        let key = Key::new(source, origin.local_ip, &call);
        let known = cache.lock().unwrap_or_else(PoisonError::into_inner).begin(now(), key);
        match known {
            Lookup::New => remembered = Some(Remembered { cache, key, is_answered: false }),
            Lookup::InProgress => return None,
            Lookup::Answered(reply) => {
                let is_true = service.is_still_true(origin, &call, &reply);
                return is_true.then(|| reply.to_vec());
            }
        }
    }
    let answer = service.call(origin, &call).await?;
    let reply = rpc::reply(call.xid, &answer);
    if let (Some(remembered), Answer::Success(_)) = (remembered, &answer) {
        remembered.answered(&reply);
    }
    Some(reply)
}
