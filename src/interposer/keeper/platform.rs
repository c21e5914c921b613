//! The keeper's platform: lockd with its records and clients, and the gate in front of it. Tests have their own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use async_trait::async_trait;

use crate::interposer::messages::{FilterEvent, Mode, Order};
use crate::manager::knfsd::owners::{HeldLock, View};
use crate::manager::knfsd::single::WhyThere;
use crate::wire::control::{ClientRow, InstanceId};
use crate::wire::types::{CallerName, NsmState};

/// lockd, as the keeper sees and changes it. What goes wrong is told in words for the operator.
#[async_trait]
pub(super) trait Platform: Send + Sync + 'static {
    /// This life of lockd: its locks go with it.
    async fn instance(&self) -> Result<InstanceId, String>;
    /// The names under which clients know this host.
    async fn names(&self) -> Result<Vec<CallerName>, String>;
    /// The addresses of this host; link-local ones without their interface.
    fn addresses(&self) -> Result<BTreeSet<IpAddr>, String>;
    /// The state number that the next notices go on from.
    async fn state(&self) -> Result<NsmState, String>;
    /// A higher one, durable, for rpc.statd and the kernel.
    async fn raise_state(&self, last: NsmState) -> Result<NsmState, String>;
    /// The clients that rpc.statd monitors.
    async fn monitored(&self) -> Result<Vec<ClientRow>, String>;
    /// What lockd has.
    async fn view(&self) -> Result<View, String>;
    /// An UNLOCK in the name of each lock's owner. Whether the lock is gone is to be looked at; here is, for each, why it
    /// may be there still.
    async fn unlock(&self, view: &View, locks: Vec<HeldLock>) -> Vec<WhyThere>;
    /// What stands in the way of a run is an error; else the gate, which lets everything pass unchanged. `seen` is what lockd
    /// had a moment ago.
    async fn gate(&self, seen: &View) -> Result<Box<dyn Gate>, String>;
    /// Shows that the gate works in this mode, with a request for a lock that was seen.
    async fn prove(&self, mode: Mode, seen: &View) -> Result<(), String>;
    /// A line in the system's log.
    fn log(&self, line: &str);
}

/// Filter and rules: calls to lockd and its replies go through it. When it is dropped, they do not any more.
#[async_trait]
pub(super) trait Gate: Send + Sync {
    /// Gives the filter an order.
    async fn order(&mut self, order: Order) -> Result<(), String>;
    /// What the filter tells next; none once it has died, and all that it told was read. Nothing is lost where the caller
    /// stops waiting.
    async fn told(&mut self) -> Option<FilterEvent>;
    /// Starts another filter in place of one that has died: it lets nothing pass until it is ordered a mode.
    async fn restart(&mut self) -> Result<(), String>;
    /// Lets the rules last for a while longer. An error: they are gone, and what passed since was not seen.
    fn keep_rules(&mut self) -> Result<(), String>;
}
