//! The account of a run: a [`LockTable`] that follows lockd.
//!
//! Theory. It is filled from a walk of lockd's memory, and then given each call that lockd has answered, as the filter told
//! it. So the same code as in nlmd decides what is pending, reclaimed or a conflict, and lockd's own decisions are
//! not made again. An owner is what lockd takes for one: client address, server address, transport, version and svid.
//! Owner handles are left out (an svid stands for them), and a client is named as lockd names it, by the first caller
//! of its way.
//!
//! Any uncertainty makes the client *unsure*, and no lock of an unsure client is dropped: a call without a reply,
//! calls that the filter may have missed, an answer that does not fit the table, an address with several names or lives
//! (lockd cannot tell two machines there apart). Waiters are not in the table: lockd alone serves them, and what it has granted
//! them unseen shows when it is reclaimed ([`queued`](super::queued)).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::callers::{Callers, Identity, MOST};
use super::filter_link::LinkEvent;
use super::open_calls::OpenCalls;
use super::queued::Queued;
use super::requests::{News, as_call, claim, file_of, lock_call, news, range_of, share_call, via, wanted_of};
use crate::interposer::messages::{
    Blind, Call, Claim, FilterEvent, LockRequest, Reply, Request, ShareRequest, Treated, Way,
};
use crate::locks::{self, Caller, ClientId, Handled, Limits, Listing, LockTable, Verdict};
use crate::manager::knfsd::owners::{HeldLocks, OwnerKey, View};
use crate::shares::Bounds;
use crate::wire::control::{ClientRef, ClientRow, LockKind, LockPage, LockRow, LockState, LocksArgs, Scope};
use crate::wire::nlm::Stat;
use crate::wire::types::{Address, CallerName, FileHandle};
use crate::wire::xdr::{List, Maybe};

/// lockd's own bounds count, so the account's never do.
const ROOM: Bounds = Bounds { all: 64_000_000, host: 64_000_000 };
#[derive(Debug)]
pub(super) struct Account {
    pub(super) table: LockTable,
    ways: HashMap<Way, ClientId>,
    callers: Callers,
    calls: OpenCalls,
    queued: Queued,
    /// Clients may reclaim from the beginning on: the run before this one has told them.
    pub(super) follows_drain: bool,
    /// What a run has pending, as the filter was told.
    claims: HashMap<FileHandle, Vec<Claim>>,
    decided: Vec<Claim>,
    /// Answered calls that meet a settle under way.
    after_settle: VecDeque<(Call, Stat)>,
    news: Vec<News>,
    /// When keeper or filter went on after they had not run for long.
    pub(super) stood_still: Option<Duration>,
}

fn is_client(table: &LockTable, address: IpAddr) -> bool {
    !table.clients_at(address).is_empty()
}

impl Account {
    /// With what lockd has, and the clients that rpc.statd monitors, also those without a lock.
    ///
    /// # Errors
    /// The locks do not fit together, which cannot be in one moment of lockd.
    pub(super) fn new(now: Duration, view: &View, monitored: &[ClientRow]) -> Result<Self, String> {
        let limits = Limits { locks: ROOM, waiters: ROOM, clients: ROOM };
        let mut account = Self {
            table: LockTable::new(limits, rand::random()),
            ways: HashMap::new(),
            callers: Callers::new(),
            calls: OpenCalls::default(),
            queued: Queued::of(view),
            follows_drain: false,
            claims: HashMap::new(),
            decided: Vec::new(),
            after_settle: VecDeque::new(),
            news: Vec::new(),
            stood_still: None,
        };
        for host in &view.hosts {
            let Some(client) = account.client(&host.way, &host.caller) else {
                return Err(format!("no room for the client {}", host.caller));
            };
            if host.monitored {
                account.table.set_monitored(client, true);
            }
        }
        for row in monitored {
            account.add_monitored(row);
        }
        // One that a waiter was offered is between lockd and that client.
        for lock in view.locks.iter().filter(|lock| !lock.offered) {
            account.fill(now, &lock.owner.way, &lock.caller, &lock_call(lock))?;
        }
        for share in &view.shares {
            account.fill(now, &share.way, &share.caller, &share_call(share))?;
        }
        while account.table.next_effect().is_some() {}
        Ok(account)
    }

    fn fill(&mut self, now: Duration, way: &Way, name: &CallerName, call: &locks::Call) -> Result<(), String> {
        let misfit = |what: String| format!("lockd's locks do not fit together: {name} at {}: {what}", way.client);
        let client = self.client(way, name).ok_or_else(|| misfit("no room".to_owned()))?;
        match self.table.handle(now, Caller { client, via: via(way) }, call) {
            Handled::Reply(Verdict::Granted) => Ok(()),
            other => Err(misfit(format!("{other:?}"))),
        }
    }

    /// A client of statd's that lockd does not know now: the server may have lost its locks.
    fn add_monitored(&mut self, row: &ClientRow) {
        let Some(address) = row.addresses.as_slice().first().map(|address| address.0) else { return };
        let known = self.table.clients_at(address).to_vec();
        let clients = if known.is_empty() { Vec::from_iter(self.table.add_client(address, &row.name)) } else { known };
        for client in clients {
            self.table.set_monitored(client, true);
            // Those that it called for what it has are known better.
            if self.table.client(client).is_some_and(|client| client.server_addresses.is_empty()) {
                row.server_addresses.as_slice().iter().for_each(|called| self.table.called(client, called.0));
            }
        }
    }

    /// The client that calls this way: lockd names it by the way's first caller.
    fn client(&mut self, way: &Way, name: &CallerName) -> Option<ClientId> {
        let client = self.ways.get(way).copied().or_else(|| self.new_way(way, name))?;
        if let Some(seen) = self.seen(way.client.0) {
            seen.is_called(name);
        }
        Some(client)
    }

    fn new_way(&mut self, way: &Way, name: &CallerName) -> Option<ClientId> {
        let address = way.client.0;
        let same = |id: &&ClientId| self.table.client(**id).is_some_and(|client| client.name.matches(name));
        let known = self.table.clients_at(address).iter().find(same).copied();
        let client = known.or_else(|| self.table.add_client(address, name).ok())?;
        self.table.called(client, way.server.0);
        self.ways.insert(*way, client);
        Some(client)
    }

    fn seen(&mut self, address: IpAddr) -> Option<&mut Identity> {
        self.callers.seen(address, is_client(&self.table, address))
    }

    // --- what the filter tells

    /// Takes in what the link to the filter heard.
    pub(super) fn heard(&mut self, now: Duration, heard: LinkEvent) {
        match heard {
            LinkEvent::FilterEvent(told) => self.told(now, told),
            LinkEvent::NewFilter => {
                self.filter_is_new();
                self.lagged(now, Duration::ZERO, true);
            }
            LinkEvent::StoodStill => self.lagged(now, Duration::ZERO, true),
        }
    }

    /// Keeper or filter did not run until now, for so long on the clock of `now`. After a `long` lag, in which calls were lost
    /// or heard late, clients get the time to repeat one.
    pub(super) fn lagged(&mut self, now: Duration, counted: Duration, long: bool) {
        if long {
            self.stood_still = Some(now);
        }
        self.table.lagged(now, counted, long);
    }

    /// Takes in what the filter told of a client. What it tells of itself is the link's to know.
    pub(super) fn told(&mut self, now: Duration, told: FilterEvent) {
        match told {
            FilterEvent::Call(call) => self.called(now, call),
            FilterEvent::Reply(reply) => self.replied(now, reply),
            FilterEvent::Blind(Blind { client, why }) => self.doubt(client.0, why.as_str()),
            FilterEvent::Reclaims(client) => self.reclaims(now, client.0),
            FilterEvent::StrayReply(client) if self.may_miss() => {
                self.doubt(client.0, "a reply to a call that was not seen");
            }
            // Until then the call of such a reply came before the rules, and was no reclaim. What lockd did for it before the walk
            // the walk shows. After that an UNLOCK is found by release_missing, and a lock is not in the table: nothing of it is
            // dropped, and a reclaim of it counts as resurrected.
            FilterEvent::StrayReply(_) | FilterEvent::Superseded(_) | FilterEvent::Obeyed(_) | FilterEvent::Lost => {}
        }
    }

    fn reclaims(&mut self, now: Duration, address: IpAddr) {
        if let Some(seen) = self.seen(address) {
            seen.reclaimed = Some(now);
        }
    }

    fn called(&mut self, now: Duration, call: Call) {
        let client = call.way.client.0;
        if call.request.is_reclaim() {
            self.reclaims(now, client);
        }
        if let Some(seen) = self.seen(client) {
            if !call.caller.as_str().is_empty() {
                seen.is_called(&call.caller);
            }
            if let Request::Lock(lock) = &call.request
                && lock.state.is_known()
            {
                seen.is_in(lock.state);
            }
        }
        let reclaims = call.request.is_reclaim();
        if !self.calls.add(call, self.table.has_something_at(client)) {
            let missed = reclaims || self.may_miss();
            self.note(client, "more calls were open than are remembered", missed);
        }
    }

    fn replied(&mut self, now: Duration, reply: Reply) {
        let Some(call) = self.calls.answered(reply.call) else { return };
        self.queued.answered(&call, reply.stat);
        self.apply(now, call, reply.stat);
    }

    /// Another filter was started: of these calls no reply will be told.
    fn filter_is_new(&mut self) {
        for client in self.calls.clients().collect::<Vec<_>>() {
            let missed = self.may_miss() || self.calls.of(client).any(|call| call.request.is_reclaim());
            self.note(client, "the filter died while a call of it was open", missed);
        }
        self.calls.clear();
    }

    /// Nothing of what calls from there is dropped. A reclaim of it may have been missed, if clients were told by then.
    pub(super) fn doubt(&mut self, address: IpAddr, why: &str) {
        self.note(address, why, self.may_miss());
    }

    /// Whether a call that is not known may be a reclaim.
    fn may_miss(&self) -> bool {
        self.follows_drain || self.table.may_have_told()
    }

    fn note(&mut self, address: IpAddr, why: &str, missed: bool) {
        self.callers.note(address, is_client(&self.table, address), why, missed);
    }

    /// The same of all that call this address of the server.
    pub(super) fn doubt_callers_of(&mut self, server: IpAddr, why: &str) {
        let callers: Vec<IpAddr> =
            self.ways.keys().filter(|way| way.server.0 == server).map(|way| way.client.0).collect();
        for address in callers {
            self.doubt(address, why);
        }
    }

    /// Calls without a reply yet.
    pub(super) fn open_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.all()
    }

    /// Whether a call of this address has no reply yet.
    pub(super) fn awaits_reply(&self, address: IpAddr) -> bool {
        self.calls.of(address).next().is_some()
    }

    /// Why a reclaim from one of these addresses may have been refused, or answered unseen.
    pub(super) fn why_missed(&self, addresses: &[Address]) -> Option<String> {
        let mut open = addresses.iter().flat_map(|address| self.calls.of(address.0));
        self.callers.why_missed(addresses).or_else(|| {
            open.any(|call| call.request.is_reclaim()).then(|| "lockd has not answered a reclaim of it".to_owned())
        })
    }

    /// When a reclaim from one of these addresses was last heard.
    pub(super) fn last_reclaim<'a>(&self, addresses: impl IntoIterator<Item = &'a Address>) -> Option<Duration> {
        self.callers.last_reclaim(addresses)
    }

    /// Nothing of a client is dropped that is heard to reclaim after that.
    pub(super) fn spare_who_reclaims(&mut self, since: Duration) {
        self.callers.spare_who_reclaims(since);
    }

    /// Why nothing of that address is dropped.
    pub(super) fn why_unsure(&self, address: IpAddr) -> Option<String> {
        let open = || self.awaits_reply(address).then(|| "lockd has not answered a call of it".to_owned());
        self.callers.why_noted(address).or_else(open).or_else(|| self.callers.why_seen(address))
    }

    fn apply(&mut self, now: Duration, call: Call, stat: Stat) {
        self.learn(&call, stat);
        if !self.ways.contains_key(&call.way) && !self.may_come(&call, stat) {
            return;
        }
        let Some(client) = self.client(&call.way, &call.caller) else { return };
        let caller = Caller { client, via: via(&call.way) };
        let address = call.way.client.0;
        if matches!(call.request, Request::FreeAll(_)) {
            if stat != Stat::Granted {
                return;
            }
            let from = ClientRef { name: Maybe(None), address: Maybe(Some(call.way.client)) };
            let mine = self.rows(&Scope { clients: List::clipped(vec![from]), ..Scope::default() });
            let mine = mine.iter().filter(|row| Way::from(&row.owner) == call.way);
            return mine.for_each(|row| self.gave_up(now, row));
        }
        let Some(said) = as_call(&call.request) else { return };
        let granted = stat == Stat::Granted;
        match (&call.request, granted) {
            (_, true) => self.give(now, caller, call, &said),
            (request, false) if request.is_reclaim() && stat == Stat::Denied => {
                let other = self.table.reclaim_was_refused(now, caller, &said);
                let Some((other, moved)) =
                    other.and_then(|other| Some((self.table.client(other.client)?.address, other.may_have_moved)))
                else {
                    return;
                };
                if other == address {
                    let why = "lockd refused a reclaim because of the client's own lock, taken by another transport, NLM \
                               version or server address";
                    self.note(address, why, true);
                } else if moved {
                    let why = format!(
                        "lockd refused a reclaim from {address} for a lock that may belong to the same process"
                    );
                    self.note(other, &why, true);
                }
            }
            (request, false) if request.is_reclaim() => {
                self.note(address, &format!("lockd answered a reclaim of it with {stat:?}"), true);
            }
            (_, false) => {}
        }
    }

    /// Whether a client is made for this call of one that is not known. One that has no lock can give none up, and any host can
    /// send what lockd refuses.
    fn may_come(&self, Call { way, request, .. }: &Call, stat: Stat) -> bool {
        let asks = matches!(request, Request::Lock(_) | Request::Share(_));
        let has_room = || self.ways.len() < MOST || !self.table.clients_at(way.client.0).is_empty();
        // A conflict may be with another address of its host.
        asks && (stat == Stat::Granted || (request.is_reclaim() && (stat == Stat::Denied || has_room())))
    }

    /// lockd has done it.
    fn give(&mut self, now: Duration, caller: Caller, call: Call, said: &locks::Call) {
        let address = call.way.client.0;
        if let Request::Lock(lock) = &call.request
            && lock.reclaim
            && self.table.lacks(caller, &wanted_of(&lock.claim))
        {
            for part in self.queued.parts_of(lock).iter().filter_map(as_call) {
                self.table.was_granted(now, caller, &part);
            }
        }
        let mut handled = self.table.handle(now, caller, said);
        while handled == Handled::More {
            handled = self.table.handle(now, caller, said);
        }
        match handled {
            Handled::Reply(Verdict::Granted) => {
                if let Request::Lock(LockRequest { claim, reclaim: true, .. }) = &call.request {
                    self.queued.reclaimed(claim);
                }
                self.strike(&call, caller);
            }
            Handled::Wait if self.after_settle.len() < MOST => self.after_settle.push_back((call, Stat::Granted)),
            // Its client knows what it was granted.
            _ => self.note(address, "lockd granted what the account of the run does not", false),
        }
    }

    /// The settle is over, or was given up: what came meanwhile counts now.
    pub(super) fn catch_up(&mut self, now: Duration) {
        for (call, stat) in std::mem::take(&mut self.after_settle) {
            self.apply(now, call, stat);
        }
    }

    /// What an answered call says of what its client knows.
    pub(super) fn learn(&mut self, call: &Call, stat: Stat) {
        if stat == Stat::Granted {
            self.news.extend(news(call));
        }
    }

    /// What was learned since this was asked last.
    pub(super) fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    // --- what is pending

    /// What the run has pending. For the filter it stays so until [`decided`](Self::decided) tells otherwise.
    pub(super) fn claims(&mut self) -> Vec<Claim> {
        let claims: Vec<Claim> = self.pending().iter().filter(|row| row.kind != LockKind::Share).map(claim).collect();
        self.claims.clear();
        for claim in &claims {
            self.claims.entry(claim.file.clone()).or_default().push(claim.clone());
        }
        claims
    }

    /// What is not pending any more since this was asked last.
    pub(super) fn decided(&mut self) -> Vec<Claim> {
        std::mem::take(&mut self.decided)
    }

    fn strike(&mut self, call: &Call, caller: Caller) {
        let Self { table, claims, decided, .. } = self;
        let range = range_of(&call.request);
        let Some(file) = file_of(&call.request) else { return };
        let Some(left) = claims.get_mut(file) else { return };
        left.retain(|claim| {
            let is_met = claim.way.client == call.way.client && claim.range.overlaps(range);
            let caller = Caller { client: caller.client, via: via(&claim.way) };
            let pending = !is_met || table.has_pending(caller, &wanted_of(claim));
            if !pending {
                decided.push(claim.clone());
            }
            pending
        });
        if left.is_empty() {
            claims.remove(file);
        }
    }

    /// All that is pending.
    pub(super) fn pending(&self) -> Vec<LockRow> {
        self.rows(&Scope::default()).into_iter().filter(|row| row.state == LockState::Pending).collect()
    }

    fn rows(&self, scope: &Scope) -> Vec<LockRow> {
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let page = self.page(LocksArgs { scope: scope.clone(), after });
            rows.extend(page.locks.into_vec().into_iter().map(|row| row.lock));
            after = page.next;
            if after == 0 {
                return rows;
            }
        }
    }

    /// A page of what is listed.
    pub(super) fn page(&self, args: LocksArgs) -> LockPage {
        let mut page = Listing::new(args);
        while !self.table.list_locks_on(&mut page) {}
        let LockPage { locks, next } = page.into_page();
        // This table knows since when it follows lockd, which is not since when a lock is held.
        let locks = locks.into_vec().into_iter().map(|row| row.lock.into()).collect();
        LockPage { locks: List::clipped(locks), next }
    }

    /// What is pending and not there any more was given up by its client: an UNLOCK, or its reboot, that the filter was not
    /// asked about.
    pub(super) fn release_missing(&mut self, now: Duration, view: &View) {
        let there = HeldLocks::of(view);
        for row in self.pending().into_iter().filter(|row| row.kind != LockKind::Share) {
            if there.meeting(&OwnerKey::from(&row.owner), &row.file, row.range).is_none() {
                self.gave_up(now, &row);
            }
        }
    }

    /// lockd does not have it any more, and no call said so of this lock alone.
    fn gave_up(&mut self, now: Duration, row: &LockRow) {
        let way = Way::from(&row.owner);
        let Some(client) = self.ways.get(&way).copied() else { return };
        let request = match row.kind {
            LockKind::Share => Request::Unshare(ShareRequest {
                file: row.file.clone(),
                oh: row.owner.oh.clone(),
                access: 0,
                mode: 0,
                reclaim: false,
            }),
            LockKind::Shared | LockKind::Exclusive => Request::Unlock(claim(row)),
        };
        let Some(said) = as_call(&request) else { return };
        let call = Call { number: 0, way, caller: row.owner.name.clone(), request, treated: Treated::Passed };
        self.give(now, Caller { client, via: via(&way) }, call, &said);
    }
}
