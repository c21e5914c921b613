//! The lock table (stub: signatures are fixed, bodies follow).

mod api;

pub use api::*;

use std::net::IpAddr;
use std::time::Duration;

use crate::wire::control::{
    BeginArgs, Begun, ClientPage, ExtendArgs, FullResult, Grace, LockPage, LocksArgs, ProgressArgs, Refusal, RunClient,
    RunStatus,
};
use crate::wire::types::{CallerName, NsmState};

/// The lock table.
#[derive(Debug)]
pub struct LockTable {}

#[allow(clippy::todo, unused_variables, clippy::unused_self, missing_docs)]
impl LockTable {
    pub fn new(limits: Limits) -> Self {
        todo!()
    }

    // --- clients (identity is (address, caller_name); addresses are joined only after a forward look-up by the daemon)
    /// The client of this address and name, if known.
    pub fn find(&self, address: IpAddr, name: &CallerName) -> Option<ClientId> {
        todo!()
    }
    /// Clients of the same name at other addresses (candidates for joining).
    pub fn namesakes(&self, name: &CallerName) -> Vec<ClientId> {
        todo!()
    }
    /// Makes the client; when full the oldest one without locks and waiters makes room (Effect::Forget). Err: no room.
    pub fn add_client(&mut self, now: Duration, address: IpAddr, name: &CallerName) -> Result<ClientId, ()> {
        todo!()
    }
    /// caller_name resolves forward to both: one client.
    pub fn join(&mut self, client: ClientId, address: IpAddr) {
        todo!()
    }
    /// Whether its monitor record is on disk (must be true before a LOCK or SHARE of it is given to `handle`).
    pub fn set_monitored(&mut self, client: ClientId, monitored: bool) {
        todo!()
    }
    /// It called this server address.
    pub fn called(&mut self, client: ClientId, server_address: IpAddr) {
        todo!()
    }
    pub fn client(&self, client: ClientId) -> Option<ClientView> {
        todo!()
    }
    /// Evidence that the client's locks may be stale (shown, never acted upon).
    pub fn suspect(&mut self, client: ClientId, why: &str) {
        todo!()
    }

    // --- calls
    /// Every call but NULL. Effects are then in `take_effects`.
    pub fn handle(&mut self, now: Duration, caller: Caller, call: &Call) -> Handled {
        todo!()
    }
    /// SM_NOTIFY came in from `source`, naming `name`.
    pub fn reboot_notice(&mut self, now: Duration, source: IpAddr, name: &CallerName, state: NsmState) -> Reboot {
        todo!()
    }
    /// The client answered GRANTED.
    pub fn offer_answered(&mut self, now: Duration, offer: OfferId, answer: OfferAnswer) {
        todo!()
    }
    /// What is to be done outside, in order; empties the list.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        todo!()
    }

    // --- grace and runs
    /// Ordinary server recovery: reclaims only, until `until`.
    pub fn start_recovery(&mut self, until: Duration) {
        todo!()
    }
    pub fn grace(&self, now: Duration) -> Grace {
        todo!()
    }
    /// Whether `begin` would be refused; ask before the new state is made durable.
    pub fn check_begin(&self, now: Duration, args: &BeginArgs) -> Result<(), Refusal> {
        todo!()
    }
    /// Mark and grace in one step (call only after check_begin is Ok and new_state is durable, with nothing between).
    /// `Begun.names` is left empty: the daemon fills it.
    pub fn begin(
        &mut self,
        now: Duration,
        unix_ms: u64,
        args: &BeginArgs,
        old_state: NsmState,
        new_state: NsmState,
    ) -> Result<Begun, Refusal> {
        todo!()
    }
    /// The clients to notify, as begin fixed them.
    pub fn run_clients(&self) -> &[RunClient] {
        todo!()
    }
    pub fn progress(&mut self, now: Duration, args: &ProgressArgs) -> Result<(), Refusal> {
        todo!()
    }
    pub fn extend(&mut self, now: Duration, args: &ExtendArgs) -> Result<(), Refusal> {
        todo!()
    }
    pub fn run_status(&self, now: Duration) -> Option<RunStatus> {
        todo!()
    }
    /// When `on_timeout` wants to be called next. `controller_attached`: a connection that drives the run is open, so
    /// its settle is awaited a moment past the deadline.
    pub fn next_timeout(&self, controller_attached: bool) -> Option<Duration> {
        todo!()
    }
    pub fn on_timeout(&mut self, now: Duration, controller_attached: bool) -> Option<Due> {
        todo!()
    }

    // --- settle: start -> scan until done -> result (make it durable) -> commit (the instant) -> sweep until done
    /// Freezes pending locks (calls that meet one get Handled::Wait) and decides each client's verdict.
    pub fn settle_start(
        &mut self,
        now: Duration,
        only_if_nothing_pending: bool,
        alone: bool,
        reason: &str,
    ) -> Result<(), Refusal> {
        todo!()
    }
    /// Looks at `budget` more locks; true when all are looked at.
    pub fn settle_scan(&mut self, budget: usize) -> bool {
        todo!()
    }
    /// What to make durable before the commit.
    pub fn settle_result(&mut self, unix_ms: u64) -> FullResult {
        todo!()
    }
    /// The instant: dropped locks protect nothing, kept ones are held, grace is over.
    pub fn settle_commit(&mut self, now: Duration) {
        todo!()
    }
    /// The result could not be written: back to grace as before settle_start.
    pub fn settle_cancel(&mut self) {
        todo!()
    }
    /// Frees dropped locks and wakes waiters, `budget` at a time; true when done. Call until true before anything else begins.
    pub fn settle_sweep(&mut self, now: Duration, budget: usize) -> bool {
        todo!()
    }
    /// Every pending lock is held again, grace ends. Refused while settling.
    pub fn abort(&mut self, now: Duration, unix_ms: u64, reason: &str) -> Result<FullResult, Refusal> {
        todo!()
    }

    // --- listings
    pub fn list_clients(&self, after: u64) -> ClientPage {
        todo!()
    }
    pub fn list_locks(&self, args: &LocksArgs) -> LockPage {
        todo!()
    }
    /// (clients, monitored, locks, unmonitored, waiters)
    pub fn totals(&self) -> (u64, u64, u64, u64, u64) {
        todo!()
    }
}
