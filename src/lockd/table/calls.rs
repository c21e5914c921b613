//! An NLM call's way through the owner: identity, record, lock table, effects, answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;

use super::owner::{Done, Owner};
use super::records::{Forgotten, NotRecorded};
use super::{Incoming, PARKED_MAX};
use crate::lockd::callbacks;
use crate::lockd::persist::{self, Change, Durable, MonitorRecord, Watch};
use crate::locks::{Call, Caller, ClientId, Effect, Full, Handled, OfferId, Reboot, Verdict};
use crate::wire::types::{CallerName, NsmState};

/// How long the look-up of a caller's name may take.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);
/// Look-ups at once; a client that finds them all busy is taken for one of its own.
const LOOKUPS_MAX: usize = 32;
/// How often one call may be parked: more means that clients push each other out of a full table.
const PARKINGS_MAX: u8 = 16;

/// A call that waits for something.
#[derive(Debug)]
pub(super) enum Parked {
    Call { incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8 },
    Reboot { source: IpAddr, name: CallerName, state: NsmState, answer: oneshot::Sender<Reboot> },
}

impl Parked {
    pub(super) fn deny(self) {
        match self {
            Self::Call { answer, .. } => {
                let _ = answer.send(Verdict::NoLocks);
            }
            // Its caller repeats it.
            Self::Reboot { .. } => {}
        }
    }

    /// Whether a reboot notice from `source` about `name` may mean this one's client.
    pub(super) fn concerns(&self, source: IpAddr, name: &CallerName) -> bool {
        match self {
            Self::Call { incoming, .. } => incoming.address == source && incoming.name.matches(name),
            Self::Reboot { source: other, name: named, .. } => *other == source && named.matches(name),
        }
    }
}

/// What waits until a result is written, in order.
#[derive(Debug, Default)]
pub(super) struct UntilCommit {
    parked: Vec<Parked>,
    /// Whose calls are among them, and from where.
    clients: HashSet<ClientId>,
    callers: HashSet<IpAddr>,
    /// Where the reboot notices among them came from.
    rebooted: HashSet<IpAddr>,
}

impl UntilCommit {
    fn call(&mut self, client: Option<ClientId>, address: IpAddr, call: Parked) {
        self.clients.extend(client);
        self.callers.insert(address);
        self.parked.push(call);
    }
    fn reboot(&mut self, source: IpAddr, notice: Parked) {
        self.rebooted.insert(source);
        self.parked.push(notice);
    }
    fn holds_up_call(&self, client: ClientId, address: IpAddr) -> bool {
        self.clients.contains(&client) || self.rebooted.contains(&address)
    }
    fn holds_up_reboot(&self, source: IpAddr) -> bool {
        self.callers.contains(&source) || self.rebooted.contains(&source)
    }
    pub(super) fn take(&mut self) -> Vec<Parked> {
        std::mem::take(self).parked
    }
}

/// Clients whose name is being looked up, with the calls that wait.
#[derive(Debug, Default)]
pub(super) struct Identifying {
    waiting: HashMap<(IpAddr, CallerName), Vec<Parked>>,
}

/// Whether the answer promises something that a restart of this server must be able to tell the
/// client about.
fn promises(call: &Call) -> bool {
    match call {
        Call::Lock { monitored, .. } => *monitored,
        Call::Share { .. } => true,
        Call::Test(_) | Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => false,
    }
}

/// Whether it takes back what its owner had: refused only for a conflict, and not because a status
/// monitor is missing. (A client that is refused forgets the lock, and its process is not told.)
fn is_reclaim(call: &Call) -> bool {
    matches!(call, Call::Lock { reclaim: true, .. } | Call::Share { reclaim: true, .. })
}

/// Whether a client is known from this call on.
fn makes_known(call: &Call) -> bool {
    matches!(call, Call::Lock { .. } | Call::Share { .. })
}

fn carried_state(call: &Call) -> NsmState {
    match call {
        Call::Lock { state, monitored: true, .. } => *state,
        Call::Lock { .. }
        | Call::Share { .. }
        | Call::Test(_)
        | Call::Cancel(_)
        | Call::Unlock(_)
        | Call::Unshare { .. }
        | Call::FreeAll => NsmState::default(),
    }
}

impl Owner {
    pub(super) fn call(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>) {
        self.again.push_back(Parked::Call { incoming, answer, parkings: 0 });
        self.drain_again();
    }

    /// Gives calls that need not wait any longer (and new ones) to the table, in order.
    pub(super) fn drain_again(&mut self) {
        while let Some(parked) = self.again.pop_front() {
            match parked {
                Parked::Call { parkings, .. } if parkings > PARKINGS_MAX => parked.deny(),
                Parked::Call { incoming, answer, parkings } => self.one_call(incoming, answer, parkings),
                Parked::Reboot { source, name, state, answer } => self.reboot(source, name, state, answer),
            }
        }
    }

    /// Counts a call that is going to be parked; drops it, unanswered, where too many are.
    fn park(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) -> Option<Parked> {
        self.park_behind(incoming, answer, parkings + 1)
    }

    /// Parks a call behind others of its client: those count how often.
    fn park_behind(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) -> Option<Parked> {
        if self.parked >= PARKED_MAX {
            tracing::warn!(client = %incoming.name, "too many calls wait; one is dropped unanswered");
            return None;
        }
        self.parked += 1;
        Some(Parked::Call { incoming, answer, parkings })
    }

    pub(super) fn unpark(&mut self, parked: Vec<Parked>) {
        self.parked = self.parked.saturating_sub(parked.len());
        self.again.extend(parked);
    }

    fn one_call(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) {
        let (address, server_address) = (incoming.address, incoming.via.server_address);
        let Some(client) = self.table.find(address, &incoming.name) else {
            self.identify(incoming, answer, parkings);
            return;
        };
        // What changes locks keeps its order; TEST changes nothing.
        if !matches!(incoming.call, Call::Test(_)) {
            if self.until_commit.holds_up_call(client, address) {
                if let Some(parked) = self.park_behind(incoming, answer, parkings) {
                    self.until_commit.call(Some(client), address, parked);
                }
                return;
            }
            if self.records.is_waited_for(client) {
                if let Some(parked) = self.park_behind(incoming, answer, parkings) {
                    self.records.wait_behind(client, parked);
                }
                return;
            }
        }
        let (durable, heard) = (self.records.is_durable(client, address, server_address), self.hears_of(address));
        if !durable {
            self.table.called(client, server_address);
        }
        if promises(&incoming.call) && !(durable && heard) {
            if !durable || !is_reclaim(&incoming.call) {
                self.record(client, incoming, answer, parkings);
                return;
            }
            self.watch_beside(address);
        }
        let caller = Caller { client, via: incoming.via };
        match self.table.handle(self.clock.now(), caller, &incoming.call) {
            Handled::Wait => {
                let client = (!matches!(incoming.call, Call::Test(_))).then_some(client);
                if let Some(parked) = self.park(incoming, answer, parkings) {
                    self.until_commit.call(client, address, parked);
                }
            }
            Handled::Reply(verdict) => {
                let state = carried_state(&incoming.call);
                if let Some(record) = self.records.state_changed(client, state, self.clock.now()) {
                    self.keep_evidence(record);
                }
                let late = self.apply_effects();
                if late.is_empty() {
                    let _ = answer.send(verdict);
                } else {
                    self.work.spawn(async move {
                        for durable in late {
                            if let Err(error) = persist::durable(durable).await {
                                tracing::error!(%error, "a late reclaim is granted but missing in its run's result");
                            }
                        }
                        let _ = answer.send(verdict);
                        Done::Nothing
                    });
                }
            }
        }
    }

    /// A call of an unknown address and name. A namesake elsewhere may be the same host. Only a call
    /// that takes a lock makes its caller a client; others must not push a client out of a full table.
    fn identify(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) {
        let key = (incoming.address, incoming.name.clone());
        let pending = self.identifying.waiting.contains_key(&key);
        let look_up = !self.table.namesakes(&incoming.name).is_empty()
            && (pending || self.identifying.waiting.len() < LOOKUPS_MAX);
        if !look_up && !pending {
            if !makes_known(&incoming.call) {
                self.stranger(incoming, answer, parkings);
                return;
            }
            match self.add(&key) {
                Ok(_) => {
                    self.again.push_front(Parked::Call { incoming, answer, parkings: parkings + 1 });
                }
                Err(Full) => {
                    let _ = answer.send(Verdict::NoLocks);
                }
            }
            return;
        }
        let Some(parked) = self.park(incoming, answer, parkings) else { return };
        self.identifying.waiting.entry(key.clone()).or_default().push(parked);
        if !pending {
            self.work.spawn(async move {
                let (address, name) = key;
                let found = look_up_name(&name, LOOKUP_PATIENCE).await;
                Done::LookedUp { address, name, found }
            });
        }
    }

    pub(super) fn looked_up(&mut self, address: IpAddr, name: CallerName, found: &[IpAddr]) {
        let key = (address, name);
        let waiting = self.identifying.waiting.remove(&key).unwrap_or_default();
        self.parked = self.parked.saturating_sub(waiting.len());
        let mut known = self.table.find(key.0, &key.1).is_some() || self.join(&key, found);
        for parked in waiting {
            match parked {
                Parked::Call { incoming, answer, parkings } if !known && !makes_known(&incoming.call) => {
                    self.stranger(incoming, answer, parkings);
                }
                Parked::Call { .. } if !known && self.add(&key).is_err() => parked.deny(),
                Parked::Call { .. } => {
                    known = true;
                    self.again.push_back(parked);
                }
                Parked::Reboot { .. } => self.again.push_back(parked),
            }
        }
        self.drain_again();
    }

    /// Answers a caller that has nothing here and takes nothing.
    fn stranger(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) {
        let handled = match &incoming.call {
            Call::Test(wanted) => self.table.test_by_stranger(&wanted.file, wanted.range, wanted.exclusive),
            Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => Handled::Reply(Verdict::Granted),
            Call::Cancel(_) | Call::Lock { .. } | Call::Share { .. } => Handled::Reply(Verdict::Denied),
        };
        match handled {
            Handled::Wait => {
                let address = incoming.address;
                if let Some(parked) = self.park(incoming, answer, parkings) {
                    self.until_commit.call(None, address, parked);
                }
            }
            Handled::Reply(verdict) => {
                let _ = answer.send(verdict);
            }
        }
    }

    /// Joins the client of that name at an address that the name also resolves to, if there is one.
    fn join(&mut self, key: &(IpAddr, CallerName), found: &[IpAddr]) -> bool {
        let (address, name) = key;
        if found.contains(address) {
            for namesake in self.table.namesakes(name) {
                let Some(view) = self.table.client(namesake) else { continue };
                if view.addresses.iter().any(|known| found.contains(known)) {
                    tracing::info!(client = %name, %address, known = ?view.addresses, "one client at several addresses");
                    self.table.join(namesake, *address);
                    return true;
                }
            }
        }
        false
    }

    fn add(&mut self, key: &(IpAddr, CallerName)) -> Result<ClientId, Full> {
        let (address, name) = key;
        let added = self.table.add_client(*address, name);
        let _ = self.apply_effects();
        match added {
            Ok(client) => Ok(client),
            Err(full) => {
                tracing::warn!(client = %name, %address, "{full}; raise --max-clients");
                Err(full)
            }
        }
    }

    /// Evidence, no promise: nobody waits for it.
    pub(super) fn keep_evidence(&mut self, record: MonitorRecord) {
        let name = record.name.clone();
        if let Err(error) = self.persist.submit(Change::Monitor(record)) {
            tracing::warn!(client = %name, %error, "its NSM state number was not recorded");
        }
    }

    /// Persist before promising.
    fn record(&mut self, client: ClientId, incoming: Incoming, answer: oneshot::Sender<Verdict>, parkings: u8) {
        let Some(mut view) = self.table.client(client) else { return };
        // The table learns it only when it gets the call; one write is enough.
        let state = carried_state(&incoming.call);
        if state.is_known() {
            view.nsm_state = state;
        }
        let asked = match &mut self.watches {
            None => Vec::new(),
            Some(watches) => match watches.take_up(&view.addresses) {
                Some(asked) => asked,
                // statd is just told to watch it no longer. Unanswered: the client calls again.
                None => return,
            },
        };
        let Some(parked) = self.park(incoming, answer, parkings) else { return };
        let Some(record) = self.records.wait(client, &view, parked) else { return };
        let submitted = self.persist.submit(Change::Monitor(record.clone()));
        let watching = self.watching(asked.clone());
        self.work.spawn(async move {
            let recorded = async {
                persist::durable(submitted?).await?;
                watching.await
            };
            let outcome = recorded.await;
            Done::Recorded { client, record, asked, outcome }
        });
    }

    pub(super) fn recorded(
        &mut self,
        client: ClientId,
        record: &MonitorRecord,
        asked: &[Watch],
        outcome: Result<(), NotRecorded>,
    ) {
        let name = record.name.clone();
        let on_disk = !matches!(outcome, Err(NotRecorded::Disk(_)));
        let waiting = self.records.written(client, record, on_disk);
        if on_disk {
            self.table.set_monitored(client, true);
        }
        match outcome {
            Ok(()) => {
                if let Some(watches) = &mut self.watches {
                    watches.watched(asked);
                }
                self.unpark(waiting);
                self.drain_again();
            }
            Err(error) => {
                tracing::error!(client = %name, %error, "it cannot be monitored; new locks are refused (DENIED_NOLOCKS)");
                self.parked = self.parked.saturating_sub(waiting.len());
                for parked in waiting {
                    match &parked {
                        Parked::Call { incoming, .. }
                            if promises(&incoming.call) && !(on_disk && is_reclaim(&incoming.call)) =>
                        {
                            parked.deny();
                        }
                        Parked::Call { .. } | Parked::Reboot { .. } => self.again.push_back(parked),
                    }
                }
                self.drain_again();
            }
        }
    }

    pub(super) fn reboot(
        &mut self,
        source: IpAddr,
        name: CallerName,
        state: NsmState,
        answer: oneshot::Sender<Reboot>,
    ) {
        let held_up = self.until_commit.holds_up_reboot(source);
        let identifying = self.identifying.waiting.iter_mut().find(|((at, n), _)| *at == source && n.matches(&name));
        let line = match identifying {
            Some((_, line)) => Some(line),
            None if self.parked > 0 => self.records.line_of(source, &name),
            None => None,
        };
        let outcome =
            if held_up || line.is_some() { Reboot::Wait } else { self.table.reboot_notice(source, &name, state) };
        if outcome == Reboot::Wait {
            if self.parked < PARKED_MAX {
                self.parked += 1;
                let notice = Parked::Reboot { source, name, state, answer };
                match line {
                    Some(line) => line.push(notice),
                    None => self.until_commit.reboot(source, notice),
                }
            }
            return;
        }
        // Nothing of a reboot notice is a late reclaim.
        let _ = self.apply_effects();
        let _ = answer.send(outcome);
    }

    /// Does what the table wants done outside. Returns what must be durable before the answer.
    pub(super) fn apply_effects(&mut self) -> Vec<Durable> {
        let mut late = Vec::new();
        for effect in self.table.take_effects() {
            match effect {
                Effect::Offer { offer, caller, wanted, cookie } => {
                    let Some(view) = self.table.client(caller.client) else { continue };
                    let callbacks = self.callbacks.clone();
                    let granted = callbacks::Granted {
                        name: view.name,
                        addresses: view.addresses,
                        via: caller.via,
                        wanted,
                        cookie,
                    };
                    let call = self.work.spawn(async move {
                        let answer = callbacks.granted(granted).await;
                        Done::Offered { offer, answer }
                    });
                    self.offers.insert(offer, call);
                }
                Effect::Withdraw(offer) => self.withdraw(offer),
                Effect::Forget(client) => self.forget(client),
                Effect::Late(run, fate) => match self.persist.submit(Change::Late(run, fate)) {
                    Ok(durable) => late.push(durable),
                    Err(error) => tracing::error!(%run, %error, "a late reclaim is missing in its run's result"),
                },
                Effect::Event(kind, detail) => {
                    tracing::info!(kind, "{detail}");
                    self.timeline.push(self.clock.unix_ms(), kind, &detail);
                }
                Effect::Changed => self.timeline.changed(),
            }
        }
        late
    }

    fn withdraw(&mut self, offer: OfferId) {
        if let Some(call) = self.offers.remove(&offer) {
            call.abort();
        }
    }

    fn forget(&mut self, client: ClientId) {
        let Some(Forgotten { name, key, addresses, waiting }) = self.records.forget(client) else { return };
        if let Err(error) = self.persist.submit(Change::Forget { name: name.clone(), address: key }) {
            // At worst it is told of a restart that does not concern it.
            tracing::warn!(client = %name, %error, "its monitor record was not removed");
        }
        self.leave_unused(addresses);
        self.unpark(waiting);
    }
}

/// Forward: name to addresses. Nothing, where that takes too long.
pub(in crate::lockd) async fn look_up_name(name: &CallerName, patience: Duration) -> Vec<IpAddr> {
    match tokio::time::timeout(patience, tokio::net::lookup_host((name.as_str(), 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
