//! The one owner of the lock table.
//!
//! # Theory
//! One task ([`owner::Owner`]) owns the [`LockTable`](crate::locks::LockTable), the monitor records'
//! bookkeeping, the active run and the timeline. Everybody else has a [`Table`]: an [`Order`] says what
//! the owner is to do and goes in through a bounded channel (a full one makes senders wait); answers come
//! back through oneshots. `control` has the orders of controllers.
//! The task never waits for anything slow. What is slow (the disk, a look-up of a name, a GRANTED
//! call to a client) runs as a task of its own in one `JoinSet` and comes back as a [`Done`]; what
//! depends on it is parked meanwhile, and parked calls are bounded by [`PARKED_MAX`]: one more is
//! dropped without an answer, which a client takes for a lost datagram and sends again.
//!
//! The path of an NLM call (`calls.rs`):
//! ```text
//! may the caller lock it? (an embedding server's say) --not known yet--> asked, in its client's line
//!     |  <------------------------------------------------- answered'
//! find client --unknown, namesake elsewhere--> look the name up, parked --.
//!     |  <---------------------------------------------------------------'
//! record durable? --no (LOCK, SHARE)--> write it, parked --.   (--nsm statd: and have it watched)
//!     |  <--------------------------------- failed: NOLOCKS'
//! handle --Wait (a result is being written)--> parked until the commit
//!     |  '---Outside (a mirror's consent)--> taken there, in its client's line
//!     |
//! effects; a late reclaim is on disk before its answer
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
//! - Calls and reboot notices of one client keep their order: behind a parked one, the next are parked.
//!   A call that asks nothing about the order (TEST) is answered when it can be.
//! - Scanning and sweeping take turns with requests, slice by slice.
//!
//! Start reading at `owner::Owner::run`.

mod archive;
mod calls;
mod control;
mod lines;
mod outside;
mod owner;
mod records;
mod runs;
#[cfg(test)]
mod tests;
mod watches;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

use self::archive::Archive;
use self::owner::Owner;
use crate::locks::{Call, Reboot, Verdict, Via};
use crate::rpc::control::LockManagerControl;
use crate::wire::control::Refusal;
use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, NsmState};

pub(in crate::lockd) use calls::look_up_name;
pub use owner::{Setup, spawn};
pub use watches::StatdSetup;

/// Requests that may wait for the table; then senders wait.
const REQUESTS: usize = 4_096;
/// Calls that may be parked in all; one more is dropped without an answer.
const PARKED_MAX: usize = 16_384;

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

/// Where an answer goes.
type Asker<T> = oneshot::Sender<T>;
type Refusable<T> = Asker<Result<T, Refusal>>;

/// What the owner is to do; an answer goes to an [`Asker`] in it, at once or later.
type Order = Box<dyn FnOnce(&mut Owner) + Send>;

/// The way to the lock table. Cloned freely.
#[derive(Debug, Clone)]
pub struct Table {
    requests: mpsc::Sender<Order>,
    cursor: watch::Receiver<u64>,
    nsm_state: watch::Receiver<NsmState>,
    archive: Arc<Archive>,
}

impl Table {
    /// `None`: the request was dropped, or nlmd is stopping.
    async fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut Owner, Asker<T>) + Send + 'static) -> Option<T> {
        let (asker, answer) = oneshot::channel();
        self.requests.send(Box::new(|owner| what(owner, asker))).await.ok()?;
        answer.await.ok()
    }

    /// Executes an NLM call. `None`: say nothing (too much waits already, or nlmd is stopping).
    pub async fn call(&self, incoming: Incoming) -> Option<Verdict> {
        self.ask(|owner, asker| owner.call(incoming, asker)).await
    }
    /// An SM_NOTIFY came in. `None`: nlmd is stopping, or too much waits.
    pub async fn reboot(&self, source: IpAddr, name: CallerName, state: NsmState) -> Option<Reboot> {
        self.ask(move |owner, asker| {
            owner.reboot(source, name, state, asker);
            owner.drain_again();
        })
        .await
    }
    /// A local statd calls back. `None`: nlmd is stopping, or too much waits.
    pub async fn statd_calls(&self, name: CallerName, state: NsmState, cookie: [u8; 16]) -> Option<Reboot> {
        self.ask(move |owner, asker| {
            owner.statd_calls(&name, state, cookie, asker);
            owner.drain_again();
        })
        .await
    }
    /// Takes a new NSM state number, durable when it is answered. No lock is touched, nobody is told.
    pub async fn raise_state(&self) -> Result<NsmState, Refusal> {
        self.order(Owner::raise).await
    }
    /// Evidence that a client's locks may be stale.
    pub async fn suspect(&self, address: IpAddr, name: CallerName, why: String) {
        let told = Box::new(move |owner: &mut Owner| {
            if let Some(client) = owner.table.find(address, &name) {
                owner.table.suspect(client, &why);
            }
        });
        let _ = self.requests.send(told).await;
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
}
