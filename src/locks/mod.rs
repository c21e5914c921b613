//! The lock table: who holds what, who waits, what a run has marked. Pure: calls, notices and `now`
//! go in; verdicts come out, and [`Effect`]s say what is to be done outside.
//!
//! What exists: clients (`clients`), owners (`owners`), files with their segments (`files`), blocked
//! requests (`waiters`), at most one run (`run`, `settle`), and what its end leaves open for a while
//! (`late`), and what another lock domain has of it all (`outside`). One task owns the table; nothing
//! in it waits.
//!
//! What must hold (a property test checks it after every step):
//! - no two owners have segments that exclude each other, held or pending;
//! - a client's and the table's counts are those of the segments;
//! - a waiter is offered a range only when nobody else holds or pends it;
//! - in_scope = pending + reclaimed + released + dropped + kept.
//!
//! ```text
//!            start_recovery                begin                settle_start
//!   (start) ----------------> recovery   open ------> grace ------------------> settling
//!                                |         ^            |  ^                       |  |
//!                                +-------->+<-----------+  +--- settle_cancel -----+  |
//!                                  timeout |   abort                                  |
//!                                          +<---- settle_commit, then sweeps ---------+
//! ```
//!
//! Pending is not written into a lock: a lock granted in an earlier epoch and in the run's scope is
//! pending ([`run`]). Nor does the settle walk the locks it drops before its one instant: it leaves a
//! description of them ([`settle::Void`]) by which a file is purged when it is next looked at.
//!
//! Where to start reading: [`LockTable::handle`], then `requests`.

mod api;
mod clients;
mod cover;
mod files;
mod late;
mod listing;
mod outside;
mod owners;
mod release;
mod requests;
mod run;
mod segments;
mod settle;
mod waiters;

#[cfg(test)]
mod tests;

pub use api::*;
pub use cover::{Coverage, Part};
pub use outside::{MirrorAnswer, MirrorStep, Outside};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use clients::Clients;
use files::{FileId, Files, Kind};
use owners::{OwnerId, OwnerKey, Owners};
use run::{CONTROLLER_PATIENCE, Covers, Run, Tally};

use crate::wire::control::{
    BeginArgs, Begun, ClientRef, Counts, Delivery, ExtendArgs, FullResult, Grace, Mode, Outcome, ProgressArgs, Refusal,
    RefusalCode, RunClient, RunId, RunStatus,
};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, Svid};
use crate::wire::xdr::List;

/// Longest grace a run may ask for.
const MAX_GRACE_MS: u64 = 24 * 60 * 60 * 1000;

/// Everybody who could make room has locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another client: all of them hold locks")]
pub struct Full;

/// The lock table.
#[derive(Debug)]
pub struct LockTable {
    limits: Limits,
    clients: Clients,
    owners: Owners,
    files: Files,
    waiters: BTreeMap<u64, waiters::Waiter>,
    next_waiter: u64,
    /// Queued requests of each owner: who waits for whom.
    waits: HashMap<OwnerId, Vec<u64>>,
    /// Counts over all clients.
    locks: usize,
    unmonitored: usize,
    /// Raised by each mark. A segment granted since carries it.
    epoch: u32,
    recovery_until: Option<Duration>,
    run: Option<Run>,
    void: Option<settle::Void>,
    late: Option<late::Late>,
    given_up: late::GivenUp,
    next_mark: u32,
    /// What another lock domain has of what is locked here, if there is one.
    mirrors: Option<outside::Mirrors>,
    effects: Vec<Effect>,
}

impl LockTable {
    /// An empty table, open for everybody.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            clients: Clients::default(),
            owners: Owners::default(),
            files: Files::default(),
            waiters: BTreeMap::new(),
            next_waiter: 1,
            waits: HashMap::new(),
            locks: 0,
            unmonitored: 0,
            epoch: 1,
            recovery_until: None,
            run: None,
            void: None,
            late: None,
            given_up: late::GivenUp::default(),
            next_mark: 1,
            mirrors: None,
            effects: Vec::new(),
        }
    }

    // --- clients

    /// The client of this address and name, if known.
    pub fn find(&self, address: IpAddr, name: &CallerName) -> Option<ClientId> {
        self.clients.find(address, name)
    }

    /// Clients of the same name at other addresses: candidates for [`join`](Self::join).
    pub fn namesakes(&self, name: &CallerName) -> Vec<ClientId> {
        self.clients.named(name)
    }

    /// The clients that call from that address.
    pub fn clients_at(&self, address: IpAddr) -> &[ClientId] {
        self.clients.at(address)
    }

    /// The names that call from that address.
    pub fn names_at(&self, address: IpAddr) -> Vec<CallerName> {
        let here = self.clients.at(address).iter();
        here.filter_map(|id| Some(self.clients.get(*id)?.name.clone())).collect()
    }

    /// Whether a client there can be made without another one making room.
    pub fn has_room_at(&self, address: IpAddr) -> bool {
        self.clients.len() < self.limits.clients && self.clients.at(address).len() < self.limits.clients_per_address
    }

    /// Makes the client. When the table (or the address) is full, the client that has been without
    /// locks and waiters the longest makes room ([`Effect::Forget`]).
    pub fn add_client(&mut self, address: IpAddr, name: &CallerName) -> Result<ClientId, Full> {
        let (id, gone) =
            self.clients.add(address, name, self.limits.clients, self.limits.clients_per_address).ok_or(Full)?;
        self.effects.extend(gone.into_iter().map(Effect::Forget));
        Ok(id)
    }

    /// Its name resolves forward to this address too: one client. False: it has as many addresses as
    /// a client can have, so who calls from there is another one.
    pub fn join(&mut self, client: ClientId, address: IpAddr) -> bool {
        self.clients.join(client, address)
    }

    /// Whether its monitor record is on disk. Must be so before a LOCK or SHARE of it is handled.
    pub fn set_monitored(&mut self, client: ClientId, monitored: bool) {
        self.clients.set_monitored(client, monitored);
    }

    /// It called this server address. The last 16 are remembered.
    pub fn called(&mut self, client: ClientId, server_address: IpAddr) {
        self.clients.touch(client);
        if let Some(client) = self.clients.get_mut(client)
            && !client.server_addresses.contains(&server_address)
        {
            if client.server_addresses.len() >= clients::MAX_ADDRESSES {
                client.server_addresses.remove(0);
            }
            client.server_addresses.push(server_address);
        }
    }

    /// The client, for its monitor record and for callbacks.
    pub fn client(&self, client: ClientId) -> Option<ClientView> {
        self.clients.get(client).map(clients::Client::view)
    }

    /// Evidence that the client's locks may be stale: shown, never acted upon.
    pub fn suspect(&mut self, client: ClientId, why: &str) {
        if let Some(client) = self.clients.get_mut(client) {
            client.suspect(why);
        }
    }

    // --- calls

    /// Handles a call. Its effects are then in [`take_effects`](Self::take_effects).
    pub fn handle(&mut self, now: Duration, caller: Caller, call: &Call) -> Handled {
        self.handle_after(now, caller, call, Outside::Unasked)
    }

    /// The same for a call that had asked the other lock domain for what it needs
    /// ([`Handled::Outside`]), with the answer.
    pub fn handle_after(&mut self, now: Duration, caller: Caller, call: &Call, outside: Outside) -> Handled {
        let (process, file) = match call {
            Call::FreeAll => return self.free_all(caller.client),
            Call::Test(wanted) | Call::Lock { wanted, .. } | Call::Cancel(wanted) | Call::Unlock(wanted) => {
                (wanted.process.clone(), &wanted.file)
            }
            Call::Share { file, oh, .. } | Call::Unshare { file, oh } => {
                (Process { svid: Svid(0), oh: oh.clone() }, file)
            }
        };
        if self.clients.get(caller.client).is_none() {
            return Handled::Reply(Verdict::NoLocks);
        }
        let Some(file) = self.files.open(file) else { return Handled::Reply(Verdict::NoLocks) };
        let owner = self.owners.intern(&OwnerKey { client: caller.client, via: caller.via, process });
        self.purge(file);
        let handled = self.handle_in(now, caller, owner, file, call, outside);
        self.owners.release(owner);
        self.files.close(file);
        handled
    }

    fn handle_in(
        &mut self,
        now: Duration,
        caller: Caller,
        owner: OwnerId,
        file: FileId,
        call: &Call,
        outside: Outside,
    ) -> Handled {
        let range_kind = |exclusive| Kind::Range { exclusive };
        match call {
            Call::Test(wanted) => self.test(Some(owner), file, wanted.range, range_kind(wanted.exclusive)),
            Call::Lock { wanted, block, reclaim, monitored, state, cookie } => {
                self.learn_state(caller.client, *state);
                let want = requests::Want {
                    caller,
                    owner,
                    file,
                    range: wanted.range,
                    kind: range_kind(wanted.exclusive),
                    state: *state,
                    monitored: *monitored,
                    outside,
                };
                if *reclaim { self.reclaim(now, &want) } else { self.lock(&want, block.then_some(cookie)) }
            }
            Call::Cancel(wanted) => self.cancel(owner, file, wanted.range, wanted.exclusive),
            Call::Unlock(wanted) => self.unlock(owner, file, wanted.range),
            Call::Share { access, mode, reclaim, .. } => {
                // The edge lets only 0 to 3 through; anything else can exclude no more than "both".
                let bits = |n: &u32| u8::try_from(*n & 3).unwrap_or(3);
                let want = requests::Want {
                    caller,
                    owner,
                    file,
                    range: ByteRange::ALL,
                    kind: Kind::Share { access: bits(access), mode: bits(mode) },
                    state: self.clients.get(caller.client).map_or(NsmState(0), |c| c.nsm_state),
                    monitored: true,
                    outside,
                };
                if *reclaim { self.reclaim(now, &want) } else { self.lock(&want, None) }
            }
            Call::Unshare { .. } => self.unshare(owner, file),
            Call::FreeAll => self.free_all(caller.client),
        }
    }

    /// TEST by a host that has no lock here. It is not made a client for asking.
    pub fn test_by_stranger(&mut self, file: &FileHandle, range: ByteRange, exclusive: bool) -> Handled {
        let Some(file) = self.files.find(file) else { return self.test_free() };
        self.purge(file);
        self.test(None, file, range, Kind::Range { exclusive })
    }

    /// A LOCK carries the client's state number. Another one than before is evidence of a reboot
    /// whose notice was lost; it is not proof.
    fn learn_state(&mut self, client: ClientId, state: NsmState) {
        let Some(client) = self.clients.get_mut(client) else { return };
        if !state.is_known() || client.nsm_state == state {
            return;
        }
        if client.nsm_state.is_known() && client.locks > 0 && client.last_notice != Some(state) {
            let why = format!("its LOCK carries NSM state {state}, earlier ones carried {}", client.nsm_state);
            client.suspect(&why);
        }
        client.nsm_state = state;
    }

    /// SM_NOTIFY came from `source` and names `name`: that host has rebooted. Releases what the
    /// client took in earlier lives. Only a client that calls from `source` under that name (full or
    /// short) is meant; others at that address become suspects.
    pub fn reboot_notice(&mut self, source: IpAddr, name: &CallerName, state: NsmState) -> Reboot {
        let here = self.clients.at(source).to_vec();
        let named = |test: &dyn Fn(&CallerName) -> bool| -> Vec<ClientId> {
            here.iter().copied().filter(|id| self.clients.get(*id).is_some_and(|c| test(&c.name))).collect()
        };
        let mut meant = named(&|n| n == name);
        if meant.is_empty() {
            meant = named(&|n| n.matches(name));
        }
        if meant.is_empty() {
            for id in here {
                self.suspect(id, &format!("a reboot notice from its address named {name}"));
            }
            return Reboot::Unknown;
        }
        if meant.len() > 1 {
            // Two hosts have this short name here. Neither can be taken for the one that rebooted.
            for id in meant {
                self.suspect(
                    id,
                    &format!("a reboot notice from its address named {name}, which others there answer to"),
                );
            }
            return Reboot::Unknown;
        }
        meant.retain(|id| self.clients.get(*id).is_some_and(|c| c.last_notice != Some(state)));
        if meant.is_empty() {
            return Reboot::Repeated;
        }
        if meant.iter().any(|id| self.frozen_for(*id)) {
            return Reboot::Wait;
        }
        let mut released = 0;
        for id in meant {
            // What it took after that boot carries the new number and stays: the notice may be a
            // repetition whose first copy was lost.
            released += self.release_client(id, |taken_in| taken_in != state || !state.is_known());
            if let Some(client) = self.clients.get_mut(id) {
                client.last_notice = Some(state);
                client.suspicions.clear();
            }
        }
        self.effects.push(Effect::Event(
            "reboot",
            format!("{name} at {source} has rebooted (state {state}): {released} locks released"),
        ));
        self.effects.push(Effect::Changed);
        Reboot::Released(released)
    }

    fn free_all(&mut self, client: ClientId) -> Handled {
        if self.frozen_for(client) {
            return Handled::Wait;
        }
        let released = self.release_client(client, |_| true);
        self.effects.push(Effect::Event("free_all", format!("FREE_ALL released {released} locks")));
        Handled::Reply(Verdict::Granted)
    }

    /// What is to be done outside, in order; empties the list.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.give_up_outside();
        std::mem::take(&mut self.effects)
    }

    // --- grace and runs

    /// Ordinary server recovery: reclaims only, until `until`.
    pub fn start_recovery(&mut self, until: Duration) {
        self.recovery_until = Some(until);
    }

    /// What ordinary requests meet.
    pub fn grace(&self) -> Grace {
        match &self.run {
            Some(run) if run.settling.is_some() => Grace::Settling,
            Some(run) if run.mode == Mode::Strict => Grace::Strict,
            Some(_) => Grace::Targeted,
            None if self.recovery_until.is_some() => Grace::Recovery,
            None => Grace::Open,
        }
    }

    /// Milliseconds until the grace ends by itself; 0 when open.
    pub fn grace_remaining(&self, now: Duration) -> Duration {
        let end = self.run.as_ref().map(Run::deadline).or(self.recovery_until);
        end.map_or(Duration::ZERO, |end| end.saturating_sub(now))
    }

    /// Whether [`begin`](Self::begin) would be refused. Ask before the new state is made durable.
    pub fn check_begin(&self, args: &BeginArgs) -> Result<(), Refusal> {
        if let Some(run) = &self.run {
            return Err(Refusal::new(RefusalCode::RunActive, format!("run {} is active", run.id)));
        }
        if self.recovery_until.is_some() {
            return Err(Refusal::new(
                RefusalCode::GraceActive,
                "the lock manager has restarted a moment ago and its recovery grace is not over",
            ));
        }
        let bad = |why: String| Err(Refusal::new(RefusalCode::BadRequest, why));
        if args.grace_ms == 0 || args.grace_max_ms < args.grace_ms || args.grace_max_ms > MAX_GRACE_MS {
            return bad(format!(
                "grace of {} ms up to {} ms: it must be 1 ms to 24 h, and the second not below the first",
                args.grace_ms, args.grace_max_ms
            ));
        }
        if args.mode == Mode::Strict && !args.scope.is_everything() {
            return bad("strict grace refuses everybody's locks, so its scope must be everything".to_owned());
        }
        for client in args.scope.clients.as_slice() {
            if self.clients.meant(client).is_empty() {
                return bad(format!("no client matches {}", describe(client)));
            }
        }
        Ok(())
    }

    /// Mark and grace in one step: from here on every lock in scope is pending. Call it only after
    /// [`check_begin`](Self::check_begin) accepted the same arguments, with nothing between.
    /// `names` of the answer are left for the caller to fill.
    pub fn begin(
        &mut self,
        now: Duration,
        unix_ms: u64,
        args: &BeginArgs,
        old_state: NsmState,
        new_state: NsmState,
    ) -> Result<Begun, Refusal> {
        self.check_begin(args)?;
        // What the last run left to sweep would look pending to this one.
        while !self.settle_sweep(usize::MAX) {}
        self.end_late_window();
        self.epoch += 1;
        let refs = args.scope.clients.as_slice();
        let named = (!refs.is_empty()).then(|| self.meant(refs));
        let handles = args.scope.files.as_slice();
        let files = (!handles.is_empty()).then(|| handles.iter().filter_map(|h| self.files.find(h)).collect());
        let covers =
            Covers { epoch: self.epoch, include_unmonitored: args.policy.include_unmonitored, clients: named, files };
        let (clients, tallies, unmonitored) = self.count_scope(&covers, args);
        let mut run = Run::new(now, unix_ms, args, covers, (old_state, new_state), clients, tallies);
        run.next_mark = self.next_mark;
        run.unmonitored = unmonitored;
        let begun = Begun {
            run: run.id,
            old_state,
            new_state,
            in_scope: run.counts.in_scope,
            unmonitored,
            clients: u32::try_from(run.clients.len()).unwrap_or(u32::MAX),
            names: List::default(),
        };
        self.effects.push(Effect::Event(
            "begin",
            format!(
                "run {} has begun: {} locks of {} clients are pending, state {new_state}",
                run.id, begun.in_scope, begun.clients
            ),
        ));
        self.effects.push(Effect::Changed);
        self.run = Some(run);
        Ok(begun)
    }

    /// The clients of the run and their locks in scope; the unmonitored locks left alone. Costs a
    /// step per client (and, where files limit the scope, per lock on those).
    fn count_scope(&self, covers: &Covers, args: &BeginArgs) -> (Vec<RunClient>, Vec<Tally>, u64) {
        let by_file = covers.files.as_ref().map(|files| self.count_in_files(files));
        let may_drop = self.meant(args.may_drop.as_slice());
        let (mut clients, mut tallies, mut left_alone) = (Vec::new(), Vec::new(), 0);
        for (id, client) in self.clients.iter() {
            if covers.clients.as_ref().is_some_and(|named| !named.contains(&id)) {
                continue;
            }
            let (locks, unmonitored) = match &by_file {
                Some(counts) => counts.get(&id).copied().unwrap_or_default(),
                None => (client.locks, client.unmonitored),
            };
            let in_scope = if covers.include_unmonitored { locks } else { locks - unmonitored };
            left_alone += (locks - in_scope) as u64;
            // In a run over everything also clients with no lock known: the server may have lost it.
            let told = in_scope > 0 || (client.monitored && covers.files.is_none());
            if !told {
                continue;
            }
            let counts = Counts { in_scope: in_scope as u64, pending: in_scope as u64, ..Counts::default() };
            let addresses = |list: &[IpAddr]| List::clipped(list.iter().copied().map(Address).collect());
            clients.push(RunClient {
                index: u32::try_from(clients.len()).unwrap_or(u32::MAX),
                name: client.name.clone(),
                addresses: addresses(&client.addresses),
                server_addresses: addresses(&client.server_addresses),
                nsm_state: client.nsm_state,
                locks: in_scope as u64,
                shared_address: self.clients.shares_address(client),
                suspect: !client.suspicions.is_empty(),
            });
            tallies.push(Tally {
                client: id,
                counts,
                delivery: Delivery::NotTold,
                acked_at: None,
                suspect: !client.suspicions.is_empty(),
                reclaimed_any: false,
                reclaimed_anything: false,
                named: covers.clients.is_some(),
                may_drop: may_drop.contains(&id),
                silent: false,
            });
        }
        (clients, tallies, left_alone)
    }

    fn meant(&self, references: &[ClientRef]) -> HashSet<ClientId> {
        references.iter().flat_map(|reference| self.clients.meant(reference)).collect()
    }

    /// The clients to notify, as [`begin`](Self::begin) fixed them; empty without a run.
    pub fn run_clients(&self) -> &[RunClient] {
        self.run.as_ref().map_or(&[], |run| &run.clients)
    }

    fn active(&mut self, id: RunId) -> Result<&mut Run, Refusal> {
        match self.run.as_mut().filter(|run| run.id == id) {
            Some(run) if run.settling.is_none() => Ok(run),
            Some(_) => Err(Refusal::new(RefusalCode::WrongPhase, "the run is settling: its result is being written")),
            None => Err(Refusal::new(RefusalCode::UnknownRun, format!("run {id} is not active"))),
        }
    }

    /// What the controller has seen of the clients.
    pub fn progress(&mut self, now: Duration, args: &ProgressArgs) -> Result<(), Refusal> {
        let run = self.active(args.run)?;
        run.notices_begun |= args.notices_begun;
        let unknown = args.clients.as_slice().iter().filter(|seen| !run.progress(now, seen)).count();
        self.effects.push(Effect::Changed);
        if unknown > 0 {
            return Err(Refusal::new(RefusalCode::BadRequest, format!("{unknown} clients are not the run's")));
        }
        Ok(())
    }

    /// Moves the deadline: never earlier, never past the latest one.
    pub fn extend(&mut self, now: Duration, args: &ExtendArgs) -> Result<(), Refusal> {
        let run = self.active(args.run)?;
        let wanted = now.saturating_add(Duration::from_millis(args.remaining_ms));
        run.deadline = run.deadline.max(wanted.min(run.latest));
        self.effects.push(Effect::Changed);
        Ok(())
    }

    /// The active run; none without one.
    pub fn run_status(&self, now: Duration) -> Option<RunStatus> {
        self.run.as_ref().map(|run| run.status(now))
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called. An attached controller's settle is
    /// awaited a moment past the deadline.
    pub fn next_timeout(&self, controller_attached: bool) -> Option<Duration> {
        let run = self.run.as_ref().filter(|run| run.settling.is_none());
        let run =
            run.map(|run| run.deadline() + if controller_attached { CONTROLLER_PATIENCE } else { Duration::ZERO });
        [run, self.recovery_until, self.late.as_ref().map(late::Late::until)].into_iter().flatten().min()
    }

    /// What is due. Call it again until it gives none.
    pub fn on_timeout(&mut self, now: Duration, controller_attached: bool) -> Option<Due> {
        if self.late.as_ref().is_some_and(|late| late.until() <= now) {
            self.end_late_window();
        }
        if self.recovery_until.is_some_and(|until| until <= now) {
            self.recovery_until = None;
            self.wake_all();
            self.effects.push(Effect::Event("recovery", "the recovery grace is over".to_owned()));
            self.effects.push(Effect::Changed);
            return Some(Due::RecoveryOver);
        }
        let run = self.run.as_ref().filter(|run| run.settling.is_none())?;
        let wait = if controller_attached { CONTROLLER_PATIENCE } else { Duration::ZERO };
        if run.deadline() + wait > now {
            return None;
        }
        Some(if run.notices_begun { Due::SettleRun } else { Due::AbortRun })
    }

    /// Every pending lock is held again and grace ends. Refused while settling.
    pub fn abort(&mut self, unix_ms: u64, reason: &str) -> Result<FullResult, Refusal> {
        let Some(id) = self.run.as_ref().map(|run| run.id) else {
            return Err(Refusal::new(RefusalCode::UnknownRun, "no run is active"));
        };
        self.active(id)?.keep_all();
        let Some(run) = self.end_run() else {
            return Err(Refusal::new(RefusalCode::UnknownRun, "no run is active"));
        };
        let result = run.result(unix_ms, Outcome::Aborted, reason);
        self.open_late_window(&run);
        self.wake_all();
        self.effects.push(Effect::Event("abort", format!("run {id} was aborted: {reason}")));
        self.effects.push(Effect::Changed);
        Ok(result)
    }

    /// Takes the run away; what it had marked is held again, unless it is void.
    fn end_run(&mut self) -> Option<Run> {
        let run = self.run.take()?;
        self.next_mark = run.next_mark;
        Some(run)
    }

    /// Sums over the table.
    pub fn totals(&self) -> Totals {
        Totals {
            clients: self.clients.len() as u64,
            monitored: self.clients.monitored() as u64,
            locks: self.locks as u64,
            unmonitored: self.unmonitored as u64,
            waiters: self.waiters.len() as u64,
        }
    }
}

fn describe(reference: &ClientRef) -> String {
    match (&reference.name.0, &reference.address.0) {
        (Some(name), Some(address)) => format!("{name} at {address}"),
        (Some(name), None) => name.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "a reference without name and address".to_owned(),
    }
}
