//! The way to the owner: what others send it is what it is to do.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::archive::Archive;
use super::incoming::Incoming;
use super::phase::Refusable;
use super::state::Owner;
use crate::locks::{Reboot, Verdict};
use crate::rpc::control::LockManagerControl;
use crate::wire::control::{Refusal, RefusalCode};
use crate::wire::types::{CallerName, NsmState};

/// Orders that may wait for the owner; then senders wait.
pub(super) const ORDERS: usize = 4_096;

/// What the owner is to do. Who asked is answered by it, at once or later.
pub(super) type Order = Box<dyn FnOnce(&mut Owner) + Send>;

fn stopping() -> Refusal {
    Refusal::new(RefusalCode::WrongPhase, "nlmd is stopping")
}

/// The way to the lock table. Cloned freely.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) cursor: watch::Receiver<u64>,
    pub(super) nsm_state: watch::Receiver<NsmState>,
    pub(super) archive: Arc<Archive>,
}

impl Table {
    /// `None`: the request was dropped, or nlmd is stopping.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Owner, oneshot::Sender<T>) + Send + 'static,
    ) -> Option<T> {
        let (asker, answer) = oneshot::channel();
        self.orders.send(Box::new(|owner| what(owner, asker))).await.ok()?;
        answer.await.ok()
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
        self.ask(|owner, asker| owner.call(incoming, asker)).await
    }
    /// An SM_NOTIFY came in. `None`: nlmd is stopping, or too much waits.
    pub async fn reboot(&self, source: IpAddr, name: CallerName, state: NsmState) -> Option<Reboot> {
        self.ask(move |owner, asker| owner.reboot(source, &name, state, asker)).await
    }
    /// A local statd calls back. `None`: nlmd is stopping, or too much waits.
    pub async fn statd_calls(&self, name: CallerName, state: NsmState, cookie: [u8; 16]) -> Option<Reboot> {
        self.ask(move |owner, asker| owner.statd_calls(&name, state, cookie, asker)).await
    }
    /// Takes a new NSM state number, durable when it is answered. No lock is touched, no client is told.
    pub async fn raise_state(&self) -> Result<NsmState, Refusal> {
        self.order(Owner::raise).await
    }
    /// Evidence that a client's locks may be stale.
    pub async fn suspect(&self, address: IpAddr, name: CallerName, why: String) {
        let told = Box::new(move |owner: &mut Owner| {
            if let Some(client) = owner.table.find(address, &name) {
                owner.table.suspect(client, &why);
                let _ = owner.apply_effects();
            }
        });
        let _ = self.orders.send(told).await;
    }
    /// The server's NSM state number now.
    pub fn nsm_state(&self) -> NsmState {
        *self.nsm_state.borrow()
    }
    /// The server's NSM state number and its changes: each begun run has a new one.
    pub fn nsm_states(&self) -> watch::Receiver<NsmState> {
        self.nsm_state.clone()
    }
    /// Waits until a run has begun. (A number that SM_SIMU_CRASH raised is no run.)
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
