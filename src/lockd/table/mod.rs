//! The one owner of the lock table.
//!
//! # Theory
//! One task ([`state::Owner`]) owns the [`LockTable`](crate::locks::LockTable), the queue of waiting
//! calls, the monitor records' bookkeeping, the active run and the timeline. Everybody else has a
//! [`Table`]: requests go in through a bounded channel (a full one makes senders wait), answers come back
//! through oneshots. The task never waits for anything slow. What is slow (the disk, a look-up of a name, a
//! GRANTED call to a client) runs as a task of its own in one `JoinSet` and comes back as a
//! [`state::Done`]; the calls that depend on it stand in the one queue (`queue.rs`) meanwhile.
//!
//! The path of an NLM call (`calls.rs`), and where it waits:
//! ```text
//! call      may the caller lock it? (an embedding server's say)     Answer
//! in turn   something that came earlier from there waits            Turn
//! identify  a namesake elsewhere may be the same host               Name
//! record    LOCK and SHARE: its record must be durable              Record  --failed: NOLOCKS
//!           (and with --nsm statd, statd must watch its address)
//! handle    the lock table: a result is being written               Commit  --then again
//!           a mirror must consent                                   Step    --then again
//! reply     a late reclaim is on disk before its answer
//! ```
//! The path of a run (`runs.rs`):
//! ```text
//! Idle -> Beginning (state durable?) -> Active -> Scanning -> Writing (result durable?) -> Sweeping -> Idle
//!                                         '---- abort ----------------------------------------------> Idle
//! ```
//!
//! What must hold:
//! - The new NSM state is durable before `begin` marks; a result before `settle_commit`.
//! - A reply that promises a lock goes out only when the client's monitor record is durable, and
//!   where rpc.statd is the status monitor, when it watches the client (`watches.rs`).
//! - Calls and reboot notices that one address sends of one host keep their order. A call that changes
//!   nothing (TEST) is answered when it can be.
//! - Scanning and sweeping take turns with requests, slice by slice.
//!
//! Files, from the bottom up: `queue`, `records`, `watches`, `outside`, `phase`, `timeline` are what the owner
//! has, and know nothing of it; `state` is the owner; `effects`, `calls`, `runs` are its verbs;
//! `owner` is its loop.
//!
//! Start reading at `Owner::run` in `owner.rs`.

mod calls;
mod effects;
mod outside;
mod owner;
mod phase;
mod queue;
mod records;
mod runs;
mod state;
#[cfg(test)]
mod tests;
mod timeline;
mod watches;

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

use crate::locks::{Call, Reboot, Verdict, Via};
use crate::wire::control::{
    BeginArgs, Begun, ClientPage, ExtendArgs, LockPage, LocksArgs, ProgressArgs, Refusal, RefusalCode, ReleaseArgs,
    Released, RunArgs, RunClientPage, RunPageAfter, RunResult, SettleArgs, Status, Watched,
};
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, NsmState};

pub(in crate::lockd) use calls::look_up_name;
pub use owner::{Setup, spawn};
pub use watches::StatdSetup;

/// Requests that may wait for the table; then senders wait.
const REQUESTS: usize = 4_096;

/// The process' clock: `now` for the pure core, and Unix time for records.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The process' start.
    pub start: Instant,
}

impl Clock {
    /// Since the process' start.
    pub fn now(self) -> Duration {
        self.start.elapsed()
    }
    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// An NLM call as it came in.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The caller's address.
    pub address: IpAddr,
    /// Its `caller_name`.
    pub name: CallerName,
    /// How it called.
    pub via: Via,
    /// For which user.
    pub credential: Credential,
    /// What.
    pub call: Call,
}

/// One connection to the control socket; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

type Answer<T> = oneshot::Sender<T>;
type Refusable<T> = oneshot::Sender<Result<T, Refusal>>;

#[derive(Debug)]
enum Request {
    Call(Incoming, Answer<Verdict>),
    Reboot { source: IpAddr, name: CallerName, state: NsmState, done: Answer<Reboot> },
    StatdCalls { name: CallerName, state: NsmState, cookie: [u8; 16], done: Answer<Reboot> },
    Raise(Refusable<NsmState>),
    Suspect { address: IpAddr, name: CallerName, why: String },
    Status(Answer<Status>),
    Clients(u64, Answer<ClientPage>),
    Locks(Box<LocksArgs>, Answer<LockPage>),
    Begin(Box<BeginArgs>, ConnectionId, Refusable<Begun>),
    RunClients(RunPageAfter, Refusable<RunClientPage>),
    Progress(Box<ProgressArgs>, ConnectionId, Refusable<Status>),
    Extend(ExtendArgs, Refusable<Status>),
    Settle(SettleArgs, ConnectionId, Refusable<RunResult>),
    Abort(RunArgs, Refusable<RunResult>),
    Release(Box<ReleaseArgs>, Refusable<Released>),
    Detached(ConnectionId),
    Watched(u64, Answer<Watched>),
}

/// The way to the lock table. Cloned freely.
#[derive(Debug, Clone)]
pub struct Table {
    requests: mpsc::Sender<Request>,
    cursor: watch::Receiver<u64>,
    nsm_state: watch::Receiver<NsmState>,
}

fn stopping() -> Refusal {
    Refusal::new(RefusalCode::WrongPhase, "nlmd is stopping")
}

impl Table {
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.ok()?;
        answer.await.ok()
    }

    async fn command<T>(&self, request: impl FnOnce(Refusable<T>) -> Request) -> Result<T, Refusal> {
        self.ask(request).await.unwrap_or_else(|| Err(stopping()))
    }

    /// Executes an NLM call. `None`: say nothing (too much waits already, or nlmd is stopping).
    pub async fn call(&self, incoming: Incoming) -> Option<Verdict> {
        self.ask(|done| Request::Call(incoming, done)).await
    }
    /// An SM_NOTIFY came in. `None`: nlmd is stopping, or too much waits.
    pub async fn reboot(&self, source: IpAddr, name: CallerName, state: NsmState) -> Option<Reboot> {
        self.ask(|done| Request::Reboot { source, name, state, done }).await
    }
    /// A local statd calls back. `None`: nlmd is stopping, or too much waits.
    pub async fn statd_calls(&self, name: CallerName, state: NsmState, cookie: [u8; 16]) -> Option<Reboot> {
        self.ask(|done| Request::StatdCalls { name, state, cookie, done }).await
    }
    /// Takes a new NSM state number, durable when it is answered. No lock is touched, nobody is told.
    pub async fn raise_state(&self) -> Result<NsmState, Refusal> {
        self.command(Request::Raise).await
    }
    /// Evidence that a client's locks may be stale.
    pub async fn suspect(&self, address: IpAddr, name: CallerName, why: String) {
        let _ = self.requests.send(Request::Suspect { address, name, why }).await;
    }
    /// The server's NSM state number now.
    pub fn nsm_state(&self) -> NsmState {
        *self.nsm_state.borrow()
    }
    /// The server's NSM state number and its changes: each begun run has a new one.
    pub fn nsm_states(&self) -> watch::Receiver<NsmState> {
        self.nsm_state.clone()
    }
    /// Waits until a run has begun. (A number that SM_SIMU_CRASH raised is nobody's run.)
    pub async fn run_begun(&self) {
        let mut states = self.nsm_states();
        while states.changed().await.is_ok() {
            if self.status().await.is_ok_and(|status| status.run.0.is_some()) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
    /// The manager as a whole.
    pub async fn status(&self) -> Result<Status, Refusal> {
        self.ask(Request::Status).await.ok_or_else(stopping)
    }
    /// A page of clients.
    pub async fn clients(&self, after: u64) -> Result<ClientPage, Refusal> {
        self.ask(|done| Request::Clients(after, done)).await.ok_or_else(stopping)
    }
    /// A page of locks.
    pub async fn locks(&self, args: LocksArgs) -> Result<LockPage, Refusal> {
        self.ask(|done| Request::Locks(Box::new(args), done)).await.ok_or_else(stopping)
    }
    /// Starts a run.
    pub async fn begin(&self, args: BeginArgs, connection: ConnectionId) -> Result<Begun, Refusal> {
        self.command(|done| Request::Begin(Box::new(args), connection, done)).await
    }
    /// Whom to notify.
    pub async fn run_clients(&self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        self.command(|done| Request::RunClients(args, done)).await
    }
    /// What the controller has seen.
    pub async fn progress(&self, args: ProgressArgs, connection: ConnectionId) -> Result<Status, Refusal> {
        self.command(|done| Request::Progress(Box::new(args), connection, done)).await
    }
    /// Moves the deadline.
    pub async fn extend(&self, args: ExtendArgs) -> Result<Status, Refusal> {
        self.command(|done| Request::Extend(args, done)).await
    }
    /// Ends the run; answers when its result is durable.
    pub async fn settle(&self, args: SettleArgs, connection: ConnectionId) -> Result<RunResult, Refusal> {
        self.command(|done| Request::Settle(args, connection, done)).await
    }
    /// Aborts the run.
    pub async fn abort(&self, args: RunArgs) -> Result<RunResult, Refusal> {
        self.command(|done| Request::Abort(args, done)).await
    }
    /// Frees chosen locks.
    pub async fn release(&self, args: ReleaseArgs) -> Result<Released, Refusal> {
        self.command(|done| Request::Release(Box::new(args), done)).await
    }
    /// A control connection is closed.
    pub async fn detached(&self, connection: ConnectionId) {
        let _ = self.requests.send(Request::Detached(connection)).await;
    }
    /// Waits until the timeline is past `cursor`, or for `patience`.
    pub async fn watch(&self, cursor: u64, patience: Duration) -> Result<Watched, Refusal> {
        let mut seen = self.cursor.clone();
        // A cursor of a former life is larger than any here: answer at once.
        let changed = seen.wait_for(|now| *now != cursor);
        let _ = tokio::time::timeout(patience, changed).await;
        self.ask(|done| Request::Watched(cursor, done)).await.ok_or_else(stopping)
    }
}
