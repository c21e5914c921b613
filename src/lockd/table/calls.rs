//! An NLM call's way through the owner: identity, record, lock table, effects, answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;

use super::lines::{Place, Standing};
use super::owner::{Done, Owner};
use super::records::{Forgotten, NotRecorded};
use super::{Incoming, PARKED_MAX};
use crate::lockd::callbacks;
use crate::lockd::embed::Admission;
use crate::lockd::persist::{self, Change, Durable, MonitorRecord, Watch};
use crate::locks::{Call, Caller, ClientId, Effect, Full, Handled, OfferId, Outside, Reboot, Verdict};
use crate::wire::types::{CallerName, NsmState};

/// How long the look-up of a caller's name may take.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);
/// Look-ups at once; a client that finds them all busy is taken for one of its own.
const LOOKUPS_MAX: usize = 32;
/// How often one call may be parked: more means that clients push each other out of a full table.
const PARKINGS_MAX: u8 = 16;

/// A call that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) incoming: Incoming,
    pub(super) answer: oneshot::Sender<Verdict>,
    /// How often it was parked.
    pub(super) parkings: u8,
    /// Its place in the order of arrival.
    pub(super) number: u64,
    /// What an embedding server said about it, once it was asked.
    pub(super) admission: Option<Admission>,
    /// What the mirror said to the step that it asked for.
    pub(super) outside: Outside,
}

impl OpenCall {
    /// Whose line it stands in.
    pub(super) fn place(&self) -> Place {
        (self.incoming.address, self.incoming.name.clone())
    }
    fn answer(self, verdict: Verdict) {
        let _ = self.answer.send(verdict);
    }
}

/// A reboot notice that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenNotice {
    pub(super) source: IpAddr,
    pub(super) name: CallerName,
    pub(super) state: NsmState,
    pub(super) answer: oneshot::Sender<Reboot>,
    /// Its place in the order of arrival.
    pub(super) number: u64,
}

/// What waits for something.
#[derive(Debug)]
pub(super) enum Parked {
    Call(OpenCall),
    Reboot(OpenNotice),
}

impl Parked {
    pub(super) fn deny(self) {
        match self {
            Self::Call(call) => call.answer(Verdict::NoLocks),
            // Its caller repeats it.
            Self::Reboot(_) => {}
        }
    }

    /// Whether a reboot notice from `source` about `name` may mean this one's client.
    pub(super) fn concerns(&self, source: IpAddr, name: &CallerName) -> bool {
        match self {
            Self::Call(OpenCall { incoming, .. }) => incoming.address == source && incoming.name.matches(name),
            Self::Reboot(notice) => notice.source == source && notice.name.matches(name),
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
pub(super) fn is_reclaim(call: &Call) -> bool {
    matches!(call, Call::Lock { reclaim: true, .. } | Call::Share { reclaim: true, .. })
}

/// Whether a client is known from this call on; not if it may not lock.
fn makes_known(call: &OpenCall) -> bool {
    matches!(call.incoming.call, Call::Lock { .. } | Call::Share { .. }) && call.admission != Some(Admission::Denied)
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
        let (number, admission, outside) = (self.next_number(), None, Outside::Unasked);
        self.again.push_back(Parked::Call(OpenCall { incoming, answer, parkings: 0, number, admission, outside }));
        self.drain_again();
    }

    fn next_number(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Gives calls that need not wait any longer (and new ones) to the table, in order.
    pub(super) fn drain_again(&mut self) {
        while let Some(parked) = self.again.pop_front() {
            match parked {
                Parked::Call(call) if call.parkings > PARKINGS_MAX => Parked::Call(call).deny(),
                Parked::Call(call) => self.one_call(call),
                Parked::Reboot(notice) => self.one_notice(notice),
            }
        }
    }

    /// Whether one more call can be parked.
    pub(super) fn has_room(&self, name: &CallerName) -> bool {
        let room = self.parked < PARKED_MAX;
        if !room {
            tracing::warn!(client = %name, "too many calls wait; one is dropped unanswered");
        }
        room
    }

    /// Counts a call that is going to be parked; drops it, unanswered, where too many are.
    fn park(&mut self, call: OpenCall) -> Option<Parked> {
        self.park_behind(OpenCall { parkings: call.parkings + 1, ..call })
    }

    /// Parks a call behind others of its client: those count how often.
    fn park_behind(&mut self, call: OpenCall) -> Option<Parked> {
        if !self.has_room(&call.incoming.name) {
            return None;
        }
        self.parked += 1;
        Some(Parked::Call(call))
    }

    pub(super) fn unpark(&mut self, parked: Vec<Parked>) {
        self.parked = self.parked.saturating_sub(parked.len());
        self.again.extend(parked);
    }

    fn one_call(&mut self, call: OpenCall) {
        // What changes locks keeps its order; TEST changes nothing.
        let keeps_order = !matches!(call.incoming.call, Call::Test(_));
        if let Some(question) = self.embedded.question(&call) {
            self.ask(call, question);
            return;
        }
        let (address, server_address) = (call.incoming.address, call.incoming.via.server_address);
        if keeps_order && self.lines.holds_up(address, &call.incoming.name, call.number) {
            self.stand(Standing::Ready(Parked::Call(call)));
            return;
        }
        if let Some(verdict) = self.refused_by_server(&call) {
            call.answer(verdict);
            return;
        }
        let Some(client) = self.table.find(address, &call.incoming.name) else {
            self.identify(call);
            return;
        };
        if keeps_order {
            if self.until_commit.holds_up_call(client, address) {
                if let Some(parked) = self.park_behind(call) {
                    self.until_commit.call(Some(client), address, parked);
                }
                return;
            }
            if self.records.is_waited_for(client) {
                if let Some(parked) = self.park_behind(call) {
                    self.records.wait_behind(client, parked);
                }
                return;
            }
        }
        let (durable, heard) = (self.records.is_durable(client, address, server_address), self.hears_of(address));
        if !durable {
            self.table.called(client, server_address);
        }
        if promises(&call.incoming.call) && !(durable && heard) {
            if !durable || !is_reclaim(&call.incoming.call) {
                self.record(client, call);
                return;
            }
            self.watch_beside(address);
        }
        let caller = Caller { client, via: call.incoming.via };
        match self.table.handle_after(self.clock.now(), caller, &call.incoming.call, call.outside) {
            Handled::Wait => {
                let client = keeps_order.then_some(client);
                if let Some(parked) = self.park(OpenCall { outside: Outside::Unasked, ..call }) {
                    self.until_commit.call(client, address, parked);
                }
            }
            Handled::Outside { asked } => {
                self.await_step(call, asked);
                let _ = self.apply_effects();
            }
            Handled::Reply(verdict) => {
                let state = carried_state(&call.incoming.call);
                if let Some(record) = self.records.state_changed(client, state, self.clock.now()) {
                    self.keep_evidence(record);
                }
                let late = self.apply_effects();
                if late.is_empty() {
                    self.reply(call, verdict);
                } else {
                    self.work.spawn(async move {
                        for durable in late {
                            if let Err(error) = persist::durable(durable).await {
                                tracing::error!(%error, "a late reclaim is granted but missing in its run's result");
                            }
                        }
                        call.answer(verdict);
                        Done::Nothing
                    });
                }
            }
        }
    }

    /// The table's verdict is the answer, unless it is a TEST that has still to ask elsewhere.
    fn reply(&mut self, call: OpenCall, verdict: Verdict) {
        match &call.incoming.call {
            Call::Test(wanted) if verdict == Verdict::Granted => self.test_outside(wanted, call.answer),
            _ => call.answer(verdict),
        }
    }

    /// A call of an unknown address and name. A namesake elsewhere may be the same host. Only a call
    /// that takes a lock makes its caller a client; others must not push a client out of a full table.
    fn identify(&mut self, call: OpenCall) {
        let key = call.place();
        let pending = self.identifying.waiting.contains_key(&key);
        let look_up =
            !self.table.namesakes(&key.1).is_empty() && (pending || self.identifying.waiting.len() < LOOKUPS_MAX);
        if !look_up && !pending {
            if !makes_known(&call) {
                self.stranger(call);
                return;
            }
            match self.add(&key) {
                Ok(_) => self.again.push_front(Parked::Call(OpenCall { parkings: call.parkings + 1, ..call })),
                Err(Full) => call.answer(Verdict::NoLocks),
            }
            return;
        }
        let Some(parked) = self.park(call) else { return };
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
                Parked::Call(call) if !known && !makes_known(&call) => self.stranger(call),
                Parked::Call(_) if !known && self.add(&key).is_err() => parked.deny(),
                Parked::Call(_) => {
                    known = true;
                    self.again.push_back(parked);
                }
                Parked::Reboot(_) => self.again.push_back(parked),
            }
        }
        self.drain_again();
    }

    /// Answers a caller that has nothing here and takes nothing.
    fn stranger(&mut self, call: OpenCall) {
        let handled = match &call.incoming.call {
            Call::Test(wanted) => self.table.test_by_stranger(&wanted.file, wanted.range, wanted.exclusive),
            Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => Handled::Reply(Verdict::Granted),
            Call::Cancel(_) | Call::Lock { .. } | Call::Share { .. } => Handled::Reply(Verdict::Denied),
        };
        match handled {
            // No lock is granted here, so nothing has to be mirrored.
            Handled::Wait | Handled::Outside { .. } => {
                let address = call.incoming.address;
                if let Some(parked) = self.park(call) {
                    self.until_commit.call(None, address, parked);
                }
            }
            Handled::Reply(verdict) => self.reply(call, verdict),
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
    fn record(&mut self, client: ClientId, call: OpenCall) {
        let Some(mut view) = self.table.client(client) else { return };
        let reclaims = is_reclaim(&call.incoming.call);
        // The table learns it only when it gets the call; one write is enough.
        let state = carried_state(&call.incoming.call);
        if state.is_known() {
            view.nsm_state = state;
        }
        // Before statd is to watch it: for a call that is dropped nobody would.
        if !self.has_room(&call.incoming.name) {
            return;
        }
        let asked = match &mut self.watches {
            None => Vec::new(),
            Some(watches) => match watches.take_up(&view.addresses) {
                Some(asked) => asked,
                // statd is just told to watch it no longer. Unanswered: the client calls again.
                None => return,
            },
        };
        let Some(parked) = self.park(call) else { return };
        let Some(record) = self.records.wait(client, &view, parked) else { return };
        // A reclaim waits for the disk alone: it is granted without a status monitor, which is asked beside.
        let asked = if reclaims { Vec::new() } else { asked };
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
                        Parked::Call(call)
                            if promises(&call.incoming.call) && !(on_disk && is_reclaim(&call.incoming.call)) =>
                        {
                            parked.deny();
                        }
                        Parked::Call(_) | Parked::Reboot(_) => self.again.push_back(parked),
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
        let number = self.next_number();
        self.one_notice(OpenNotice { source, name, state, answer, number });
    }

    fn one_notice(&mut self, notice: OpenNotice) {
        let (source, name, state) = (notice.source, notice.name.clone(), notice.state);
        if let Some(place) = self.lines.held_up_notice(source, &name, notice.number) {
            if self.has_room(&name) {
                self.parked += 1;
                self.lines.stand(place, notice.number, Standing::Ready(Parked::Reboot(notice)));
            }
            return;
        }
        let held_up = self.until_commit.holds_up_reboot(source);
        let identifying = self.identifying.waiting.iter_mut().find(|((at, n), _)| *at == source && n.matches(&name));
        let line = match identifying {
            Some((_, line)) => Some(line),
            None if self.parked > 0 => self.records.line_of(self.table.clients_at(source), source, &name),
            None => None,
        };
        let outcome =
            if held_up || line.is_some() { Reboot::Wait } else { self.table.reboot_notice(source, &name, state) };
        if outcome == Reboot::Wait {
            if self.parked < PARKED_MAX {
                self.parked += 1;
                let notice = Parked::Reboot(notice);
                match line {
                    Some(line) => line.push(notice),
                    None => self.until_commit.reboot(source, notice),
                }
            }
            return;
        }
        // Nothing of a reboot notice is a late reclaim.
        let _ = self.apply_effects();
        let _ = notice.answer.send(outcome);
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
                Effect::Mirror(file, step) => self.mirror(file, step),
                Effect::AskAgain(file, refusals) => self.ask_again_later(file, refusals),
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
