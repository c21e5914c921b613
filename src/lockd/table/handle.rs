//! The way to the owner: each order says what the owner is to do.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use super::archive::Archive;
use super::incoming::Incoming;
use super::phase::Refusable;
use super::state::Owner;
use crate::locks::{Call, Reboot, Verdict, Via};
use crate::rpc::reply_cache::CacheLimits;
use crate::wire::control::{Refusal, RefusalCode};
use crate::wire::types::{CallerName, NsmState};

/// The owner, which does one thing at a time.
#[derive(Debug, Clone)]
pub(super) struct SharedOwner(Arc<Mutex<Owner>>);

impl SharedOwner {
    pub(super) fn new(owner: Owner) -> Self {
        Self(Arc::new(Mutex::new(owner)))
    }

    /// Has the owner do something, which must not wait. `None`: it panicked before. What it has then may be half of
    /// something, so it does nothing any more.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Owner) -> T) -> Option<T> {
        let mut owner = self.0.lock().ok()?;
        owner.beat();
        Some(what(&mut owner))
    }
}

fn stopping() -> Refusal {
    Refusal::new(RefusalCode::WrongPhase, "nlmd is stopping")
}

/// The way to the lock table. Cloned freely.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) owner: SharedOwner,
    /// Wakes the owner's task, which ends with the last sender.
    pub(super) waker: mpsc::Sender<()>,
    pub(super) nsm_state: watch::Receiver<NsmState>,
    pub(super) archive: Arc<Archive>,
}

impl Table {
    /// Executes an order. The owner's task is woken where it may have something to do, or waits for something else now;
    /// and where the owner panicked before, to end.
    pub(super) fn tell(&self, order: impl FnOnce(&mut Owner)) {
        let has_news = self.owner.with(|owner| {
            let was_busy = owner.is_busy();
            order(owner);
            was_busy || owner.is_busy()
        });
        if has_news != Some(false) {
            // A full channel: it is woken already.
            let _ = self.waker.try_send(());
        }
    }

    /// `None`: the request was dropped, or nlmd is stopping.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Owner, oneshot::Sender<T>) + Send + 'static,
    ) -> Option<T> {
        let (asker, answer) = oneshot::channel();
        self.tell(|owner| what(owner, asker));
        answer.await.ok()
    }

    /// Likewise, of what a deadline waits for.
    async fn ask_for_a_client<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Owner, oneshot::Sender<T>) + Send + 'static,
    ) -> Option<T> {
        self.ask(|owner, asker| {
            owner.from_clients += 1;
            what(owner, asker);
        })
        .await
    }

    /// What the owner answers when it is done.
    pub(super) async fn order<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Owner, Refusable<T>) + Send + 'static,
    ) -> Result<T, Refusal> {
        self.ask(what).await.unwrap_or_else(|| Err(stopping()))
    }

    /// Executes an NLM call. `None`: say nothing (too much waits already, or nlmd is stopping).
    pub async fn call(&self, incoming: Incoming) -> Option<Verdict> {
        self.ask_for_a_client(|owner, asker| owner.call(incoming, asker)).await
    }
    /// Whether the caller has what such a call gave it, as far as it may have been taken from it: nothing was released
    /// or dropped for longer than replies are remembered, or the table has it. Does not wait.
    pub fn may_still_have(&self, address: IpAddr, name: &CallerName, via: Via, call: &Call) -> bool {
        let look = |owner: &mut Owner| {
            let long_ago = |at| owner.clock.now() > at + CacheLimits::default().age;
            owner.took_away.is_none_or(long_ago) || owner.table.has_all_of(address, name, via, call)
        };
        self.owner.with(look).unwrap_or(false)
    }
    /// An SM_NOTIFY came in. `None`: nlmd is stopping, or too much waits.
    pub async fn reboot(&self, source: IpAddr, name: CallerName, state: NsmState) -> Option<Reboot> {
        self.ask_for_a_client(move |owner, asker| owner.reboot(source, &name, state, asker)).await
    }
    /// A local statd calls back. `None`: nlmd is stopping, or too much waits.
    pub async fn statd_calls(&self, name: CallerName, state: NsmState, cookie: [u8; 16]) -> Option<Reboot> {
        self.ask_for_a_client(move |owner, asker| owner.statd_calls(&name, state, cookie, asker)).await
    }
    /// Takes a new NSM state number, durable when it is answered. No lock is touched, no client is told.
    pub async fn raise_state(&self) -> Result<NsmState, Refusal> {
        self.order(Owner::raise).await
    }
    /// The server's NSM state number now.
    pub fn nsm_state(&self) -> NsmState {
        *self.nsm_state.borrow()
    }
    /// The server's NSM state number and its changes: each begun run has a new one.
    pub fn nsm_states(&self) -> watch::Receiver<NsmState> {
        self.nsm_state.clone()
    }
}
