//! Tests of the lock table: a small world to speak to it in sentences, and the invariants that
//! every step must keep.

mod ages;
mod caps;
mod followed;
mod grace;
mod identity;
mod lags;
mod listing;
mod mirror;
mod model;
mod naive;
mod offers;
mod paths;
mod posix;
mod release;
mod roster;
mod runs;
mod settle;
mod waiters;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::held::Held;
use super::segment::{FileId, Kind, OwnerId, Segment};
use super::*;
use crate::shares::{Bounds, Holder};
use crate::wire::control::{
    AgedLock, BeginArgs, Begun, ClientProgress, ClientRef, Counts, Delivery, ExtendArgs, Fate, FullResult, InstanceId,
    LockFate, LockPage, LockRow, LockState, LocksArgs, Mode, Policy, ProgressArgs, Reaction, Refusal, RefusalCode,
    RunId, Scope, SettleWhen, Silent, Unreachable,
};
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use crate::wire::xdr::{List, Maybe};

const SERVER: &str = "192.0.2.1";
const SEED: [u64; 4] = [1, 2, 3, 4];

/// A table with clients that have names and processes that have numbers.
struct World {
    table: LockTable,
    now: Duration,
    effects: Vec<Effect>,
    runs: u8,
}

/// A process of a client: the client's name and the svid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct P(&'static str, i32);

fn bytes(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

fn wanted(process: P, file: &str, range: ByteRange, exclusive: bool) -> Wanted {
    Wanted {
        file: FileHandle::new(file.as_bytes()).unwrap(),
        range,
        len: range.nlm_len(),
        exclusive,
        process: Process { svid: Svid(process.1), oh: OwnerHandle::new(b"oh").unwrap() },
    }
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { table: LockTable::new(limits, SEED), now: Duration::from_secs(1000), effects: Vec::new(), runs: 0 }
    }

    /// Every client has an address of its own, made from its name's letters.
    fn address(client: &str) -> IpAddr {
        let sum: u16 = client.bytes().fold(7, |sum, b| sum.wrapping_mul(31).wrapping_add(u16::from(b)));
        let [high, low] = sum.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    fn client(&mut self, client: &str) -> ClientId {
        self.client_at(Self::address(client), client)
    }

    fn client_at(&mut self, address: IpAddr, client: &str) -> ClientId {
        let id = match self.table.find(address, &name(client)) {
            Some(id) => id,
            None => self.table.add_client(address, &name(client)).unwrap(),
        };
        self.table.set_monitored(id, true);
        self.table.called(id, SERVER.parse().unwrap());
        id
    }

    fn caller(&mut self, client: &str) -> Caller {
        let client = self.client(client);
        Caller { client, via: via(Transport::Tcp) }
    }

    /// Hands the call over, checks the invariants, keeps the effects.
    fn call(&mut self, process: P, call: &Call) -> Handled {
        let caller = self.caller(process.0);
        self.call_as(caller, call)
    }

    fn call_as(&mut self, caller: Caller, call: &Call) -> Handled {
        let mut handled = self.table.handle(self.now, caller, call);
        while handled == Handled::More {
            handled = self.table.handle(self.now, caller, call);
        }
        self.check();
        handled
    }

    /// With all served that were woken, as the owner of the table does when it has time.
    fn check(&mut self) {
        while self.table.has_more_to_wake() {
            self.table.wake_more();
        }
        self.effects.extend(std::iter::from_fn(|| self.table.next_effect()));
        self.table.check_invariants();
        self.table.check_mirror();
    }

    fn verdict(&mut self, process: P, call: &Call) -> Verdict {
        match self.call(process, call) {
            Handled::Reply(verdict) => verdict,
            Handled::Wait => panic!("the call has to wait for a settle"),
            Handled::More => panic!("the call is not done"),
            Handled::OtherDomain { .. } | Handled::HasMoved(_) => panic!("the call has to wait for what is outside"),
        }
    }

    fn lock_call(process: P, file: &str, range: ByteRange, exclusive: bool, block: bool, reclaim: bool) -> Call {
        Call::Lock {
            wanted: wanted(process, file, range, exclusive),
            block,
            reclaim,
            monitored: true,
            state: NsmState(3),
            cookie: Cookie::new(b"c").unwrap(),
        }
    }

    fn write(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Self::lock_call(process, file, range, true, false, false))
    }

    fn read(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Self::lock_call(process, file, range, false, false, false))
    }

    fn wait(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Self::lock_call(process, file, range, true, true, false))
    }

    fn reclaim(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Self::lock_call(process, file, range, true, false, true))
    }

    fn reclaim_read(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Self::lock_call(process, file, range, false, false, true))
    }

    fn unlock(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Call::Unlock(wanted(process, file, range, true)))
    }

    fn cancel(&mut self, process: P, file: &str, range: ByteRange) -> Verdict {
        self.verdict(process, &Call::Cancel(wanted(process, file, range, true)))
    }

    fn test(&mut self, process: P, file: &str, range: ByteRange, exclusive: bool) -> Verdict {
        self.verdict(process, &Call::Test(wanted(process, file, range, exclusive)))
    }

    fn share(&mut self, process: P, file: &str, access: u32, mode: u32, reclaim: bool) -> Verdict {
        let call = Call::Share {
            file: FileHandle::new(file.as_bytes()).unwrap(),
            oh: OwnerHandle::new(&process.1.to_be_bytes()).unwrap(),
            access,
            mode,
            reclaim,
        };
        self.verdict(process, &call)
    }

    fn unshare(&mut self, process: P, file: &str) -> Verdict {
        self.unshare_of(process, file, 0, 0)
    }

    fn unshare_of(&mut self, process: P, file: &str, access: u32, mode: u32) -> Verdict {
        let call = Call::Unshare {
            file: FileHandle::new(file.as_bytes()).unwrap(),
            oh: OwnerHandle::new(&process.1.to_be_bytes()).unwrap(),
            access,
            mode,
        };
        self.verdict(process, &call)
    }

    fn begin_args(&mut self, mode: Mode) -> BeginArgs {
        self.runs += 1;
        BeginArgs {
            run: RunId([self.runs; 16]),
            instance: InstanceId([0; 16]),
            nsm_state: NsmState(1),
            scope: Scope::default(),
            mode,
            policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false },
            may_drop: List::default(),
            grace_ms: 90_000,
            grace_max_ms: 180_000,
        }
    }

    fn begin(&mut self, mode: Mode) -> Begun {
        let args = self.begin_args(mode);
        self.begin_with(&args)
    }

    fn begin_with(&mut self, args: &BeginArgs) -> Begun {
        let begun = self.table.begin(self.now, 0, args, NsmState(1), NsmState(3)).unwrap();
        self.check();
        begun
    }

    fn tell(&mut self, client: &str, delivery: Delivery) {
        let index = self.table.run_clients().iter().position(|c| c.name == name(client)).unwrap();
        let seen = ClientProgress { client: u32::try_from(index).unwrap(), delivery, ago_ms: 0, suspect: false };
        let run = self.table.run_status(self.now).unwrap().run;
        let args = ProgressArgs { run, notices_begun: true, clients: List::clipped(vec![seen]) };
        self.table.progress(self.now, &args).unwrap();
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.table.tell_time(self.now);
    }

    /// The whole settle, as a controller asks for it.
    fn settle(&mut self) -> FullResult {
        self.settle_alone(false)
    }

    fn settle_alone(&mut self, alone: bool) -> FullResult {
        self.settle_while(alone, |_| ())
    }

    /// The same, and what happens while its result is written.
    fn settle_while(&mut self, alone: bool, happens: impl FnOnce(&mut Self)) -> FullResult {
        self.table.settle_start(self.now, SettleWhen::Always, alone, "test").unwrap();
        while !self.table.settle_scan(1) {}
        let result = self.table.settle_result(0).unwrap().join();
        happens(self);
        self.table.settle_commit();
        self.check();
        while !self.table.settle_sweep(1) {
            self.check();
        }
        self.check();
        result
    }

    fn counts(&self) -> Counts {
        self.table.run_status(self.now).unwrap().counts
    }

    fn rows(&self) -> Vec<LockRow> {
        self.aged_rows().into_iter().map(|row| row.lock).collect()
    }

    fn aged_rows(&self) -> Vec<AgedLock> {
        self.table.list_locks(&LocksArgs { scope: Scope::default(), after: 0 }).locks.into_vec()
    }

    /// What a file looks like: `a/1 write 0-9 held`, by range.
    fn picture(&self, file: &str) -> Vec<String> {
        let handle = FileHandle::new(file.as_bytes()).unwrap();
        let mut rows: Vec<LockRow> = self.rows().into_iter().filter(|r| r.file == handle).collect();
        rows.sort_by_key(|r| (r.range, r.owner.name.clone(), r.owner.svid));
        rows.iter().map(|r| format!("{}/{} {} {} {}", r.owner.name, r.owner.svid, r.kind, r.range, r.state)).collect()
    }

    fn offers(&mut self) -> Vec<(OfferId, Wanted)> {
        self.check();
        let offers = self.effects.iter().filter_map(|e| match e {
            Effect::Offer { offer, wanted, .. } => Some((*offer, wanted.clone())),
            _ => None,
        });
        let offers: Vec<_> = offers.collect();
        self.effects.retain(|e| !matches!(e, Effect::Offer { .. }));
        offers
    }

    fn answer(&mut self, offer: OfferId, answer: OfferAnswer) {
        self.table.offer_answered(offer, answer);
        self.check();
    }
}

fn via(transport: Transport) -> Via {
    Via { server_address: SERVER.parse().unwrap(), transport, version: 4 }
}

fn client_ref(client: &str) -> ClientRef {
    ClientRef::named(name(client))
}

fn fates(result: &FullResult) -> Vec<(Fate, ByteRange, bool)> {
    let mut fates: Vec<_> = result.locks.as_slice().iter().map(|r: &LockFate| (r.fate, r.range, r.partial)).collect();
    fates.sort_by_key(|(_, range, _)| *range);
    fates
}

impl LockTable {
    fn list_locks(&self, args: &LocksArgs) -> LockPage {
        let mut page = Listing::new(args.clone());
        while !self.list_locks_on(&mut page) {}
        page.into_page()
    }

    /// What must hold after every step (theory at the top of the module).
    fn check_invariants(&self) {
        for file in self.segments().files() {
            let segments: Vec<&Segment> = self.segments().of(file).collect();
            for (n, a) in segments.iter().enumerate() {
                assert!(a.range.start <= a.range.end, "a range is not empty");
                if self.is_void(file, a) {
                    continue;
                }
                for b in segments.iter().skip(n + 1).filter(|b| !self.is_void(file, b)) {
                    if !a.range.overlaps(b.range) {
                        continue;
                    }
                    assert!(a.owner == b.owner || !a.kind.excludes(b.kind), "two owners conflict: {a:?} {b:?}");
                    if a.owner == b.owner && a.kind.same_sort(b.kind) {
                        assert_ne!(a.kind, b.kind, "an owner has equal segments on the same bytes: {a:?} {b:?}");
                    }
                }
            }
        }
        for (_, waiter) in self.waiters.iter().filter(|(_, w)| !w.offered) {
            assert!(matches!(waiter.want.lock.kind, Kind::Range { .. }), "only ranges are waited for");
        }
        self.waiters.check(|want, byte| {
            let mut there = self.segments().excluding(want.file, bytes(byte, byte), want.lock.kind);
            there.any(|s| s.owner != want.lock.owner)
                || self.unanswered_at(want).is_some()
                || self.own_pending_at(want).is_some()
                || self.mirror.is_on()
        });
        let stands = |file: FileId, s: &Segment, byte: u64| {
            let waiters = self.waiters.of_owner(s.owner).filter(|(_, waiter)| waiter.want.file == file);
            let mut parts = 0;
            for (id, _) in waiters {
                parts += self.waiters.stands(id).filter(|part| part.start <= byte && byte <= part.end).count();
            }
            parts
        };
        for file in self.segments().files() {
            for offered in self.segments().of(file).filter(|s| s.offered && !self.is_void(file, s)) {
                for byte in [offered.range.start, offered.range.end] {
                    assert_eq!(stands(file, offered, byte), 1, "an offer that is over, or two: {offered:?}");
                }
            }
        }
        self.check_counts();
    }

    /// Every count, against what is counted, one by one.
    fn check_counts(&self) {
        let (mut locks, mut unmonitored) = (0, 0);
        let mut per_client: HashMap<ClientId, (usize, usize, HashSet<FileId>)> = HashMap::new();
        let mut per_owner: HashMap<OwnerId, usize> = HashMap::new();
        let mut per_path: HashMap<ClientId, BTreeMap<IpAddr, Held>> = HashMap::new();
        for file in self.segments().files() {
            for s in self.segments().of(file) {
                locks += 1;
                unmonitored += usize::from(!s.monitored);
                let client = per_client.entry(s.client).or_default();
                client.0 += 1;
                client.1 += usize::from(!s.monitored);
                client.2.insert(file);
                let path = self.server_address(s.owner).expect("a lock has an owner");
                let held = per_path.entry(s.client).or_default().entry(path).or_default();
                held.locks += 1;
                held.unmonitored += usize::from(!s.monitored);
                *per_owner.entry(s.owner).or_default() += 1;
            }
        }
        let mut waiters: HashMap<ClientId, usize> = HashMap::new();
        self.check_shares();
        let mut waited: HashMap<ClientId, HashMap<FileId, u32>> = HashMap::new();
        for (_, waiter) in self.waiters.iter() {
            *waiters.entry(waiter.want.caller.client).or_default() += 1;
            *waited.entry(waiter.want.caller.client).or_default().entry(waiter.want.file).or_default() += 1;
            *per_owner.entry(waiter.want.lock.owner).or_default() += 1;
        }
        for owner in self.late.owners() {
            *per_owner.entry(owner).or_default() += 1;
        }
        assert_eq!(locks, self.clients.held().locks, "locks in all");
        assert_eq!(unmonitored, self.clients.held().unmonitored, "unmonitored locks in all");
        assert_eq!(waiters.values().sum::<usize>(), self.clients.held().waiters, "waiters in all");
        for (id, client) in self.clients.iter() {
            let (locks, unmonitored, files) = per_client.remove(&id).unwrap_or_default();
            assert_eq!(client.held().locks, locks, "locks of {}", client.name);
            assert_eq!(client.held().unmonitored, unmonitored, "unmonitored locks of {}", client.name);
            assert_eq!(client.held().waiters, waiters.remove(&id).unwrap_or(0), "waiters of {}", client.name);
            let waited = waited.remove(&id).unwrap_or_default();
            assert_eq!(client.waited_with_counts().collect::<HashMap<_, _>>(), waited, "waited by {}", client.name);
            let paths: BTreeMap<IpAddr, Held> = client.paths().iter().copied().collect();
            assert_eq!(paths, per_path.remove(&id).unwrap_or_default(), "paths of {}", client.name);
            assert_eq!(client.files().collect::<HashSet<_>>(), files, "files of {}", client.name);
        }
        assert!(
            per_client.is_empty() && waiters.is_empty(),
            "of clients that are not known: {per_client:?} {waiters:?}"
        );
        assert_eq!(self.owners.references().collect::<HashMap<_, _>>(), per_owner, "references to owners");
        if let Some(run) = &self.run {
            let c = &run.counts;
            assert_eq!(c.in_scope, c.pending + c.reclaimed + c.released, "{c:?}");
            let mut marks = HashSet::new();
            let files = self.segments().files();
            let pending = files.flat_map(|id| self.segments().of(id).map(move |s| (id, s)));
            let pending = pending.filter(|(id, s)| self.is_pending(*id, s));
            let pending: Vec<ClientId> =
                pending.filter(|(_, s)| !run.is_marked(s) || marks.insert(s.mark)).map(|(_, s)| s.client).collect();
            assert_eq!(c.pending, pending.len() as u64, "the pending count is that of the segments");
            for tally in &run.tallies {
                let by_path: u64 = tally.pending_by_path().map(|(_, pending)| pending).sum();
                assert_eq!(tally.counts.pending, by_path, "pending of {:?}, by server address", tally.client);
                let of_client = pending.iter().filter(|client| **client == tally.client).count();
                assert_eq!(tally.counts.pending, of_client as u64, "pending of {:?}", tally.client);
            }
        }
    }

    /// What each host has, against what is counted, one by one.
    fn check_shares(&self) {
        let host = |id: ClientId| Holder::Host(self.clients.get(id).unwrap().address);
        let mut taken: HashMap<Holder, [usize; 3]> = HashMap::new();
        for (id, _) in self.clients.iter() {
            taken.entry(host(id)).or_default()[0] += 1;
        }
        for file in self.segments().files() {
            for s in self.segments().of(file) {
                taken.get_mut(&host(s.client)).unwrap()[1] += self.weight(file, s.owner);
            }
        }
        for (_, waiter) in self.waiters.iter() {
            let weight = self.weight(waiter.want.file, waiter.want.lock.owner);
            taken.get_mut(&host(waiter.want.caller.client)).unwrap()[2] += weight;
        }
        let tables = [self.clients.hosts(), self.clients.locks(), self.clients.waiters()];
        for (n, table) in tables.into_iter().enumerate() {
            assert_eq!(table.all(), taken.values().map(|of| of[n]).sum::<usize>(), "what is taken in all");
            assert!(taken.iter().all(|(holder, of)| table.of(*holder) == of[n]), "what each host has");
        }
    }

    /// What must hold of the mirror, after every step and with all effects taken.
    fn check_mirror(&self) {
        let handles = self.segments().files().filter_map(|file| self.segments().handle(file).cloned());
        let handles: Vec<FileHandle> = handles.collect();
        self.mirror.check(&handles, self.void.is_some(), |handle| self.needed(handle, ByteRange::ALL));
    }
}
