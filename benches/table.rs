//! The lock table, measured: `cargo bench --bench table [-- [pairs|onefile|mark|settle|list|growth|clients|late|release]...
//! [LOCKS]]`.
//!
//! One thread, no sockets, no disk. Beside each figure stands that of a *floor*: what plain maps of the same keys
//! need for the same work, in the same run. The ratio is what counts: absolute figures differ from machine to
//! machine, and from hour to hour. What is measured is this thread's processor time, so that what else runs on the
//! machine matters little. BENCHMARKS.md says what each line means.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench may")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "figures for people")]

use std::alloc::System;
use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nlmctl::internals::locks::{
    Call, Caller, ClientId, Handled, Limits, Listing, LockTable, Process, Release, Verdict, Via, Wanted,
};
use nlmctl::wire::control::{
    BeginArgs, ClientProgress, ClientRef, ClientSeen, Delivery, InstanceId, LocksArgs, Mode, Policy, ProgressArgs,
    ReleaseArgs, RunId, Scope, SettleWhen, Silent, Unreachable,
};
use nlmctl::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use nlmctl::wire::xdr::List;
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 5;
const PAIRS: usize = 200_000;
const NOW: Duration = Duration::from_secs(1);
const VIA: Via = Via { server_address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), transport: Transport::Tcp, version: 4 };

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let locks = words.iter().find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
    let parts: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| *word == part);
    if wanted("pairs") {
        pairs(locks);
    }
    if wanted("onefile") {
        [1_000, 10_000, 65_000].into_iter().for_each(one_file);
    }
    if wanted("growth") {
        growth(locks);
    }
    if wanted("clients") {
        [10_000, 100_000].into_iter().for_each(clients);
    }
    if wanted("mark") {
        [10, 1_000, 10_000, 100_000].into_iter().for_each(mark);
    }
    if wanted("list") {
        list(locks);
    }
    if wanted("settle") {
        for clients in [locks / 1_000, 100_000] {
            settle(locks, clients);
        }
    }
    if wanted("late") {
        late(100_000);
    }
    if wanted("release") {
        [1_000, 10_000, 100_000].into_iter().for_each(release);
    }
}

// --- figures

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How long this thread has computed.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn micros(began: Duration) -> f64 {
    processor_time().saturating_sub(began).as_nanos() as f64 / 1e3
}

fn per_second(count: usize, began: Duration) -> f64 {
    count as f64 / processor_time().saturating_sub(began).as_secs_f64()
}

fn line(name: &str, figure: f64, floor: f64, unit: &str, rest: &str) {
    println!("{name:<34} {figure:>12.1} {unit:<8} floor {floor:>12.1}  ratio {:>7.3}  {rest}", figure / floor);
}

// --- the world

/// Lock `n` of `locks`: ten on each file, a hundred of each owner, ten owners of each client.
struct World {
    table: LockTable,
    clients: Vec<ClientId>,
    names: Vec<CallerName>,
    owners: Vec<Process>,
    files: Vec<FileHandle>,
    locks: usize,
}

impl World {
    fn new(clients: usize, owners: usize, locks: usize) -> Self {
        let mut table = LockTable::new(Limits::default(), [1, 2, 3, 4]);
        let name = |n: usize| CallerName::new(&format!("client{n:05}.example.org")).unwrap();
        let names: Vec<CallerName> = (0..clients).map(name).collect();
        let clients = (0..clients).map(|n| {
            let address = IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + u32::try_from(n).unwrap()));
            let client = table.add_client(address, &names[n]).unwrap();
            table.called(client, VIA.server_address);
            table.set_monitored(client, true);
            client
        });
        let clients: Vec<ClientId> = clients.collect();
        let process = |n: usize| {
            let oh = OwnerHandle::new(format!("{}@{}", n + 1, names[n % names.len()]).as_bytes()).unwrap();
            Process { svid: Svid(i32::try_from(n).unwrap() + 1), oh }
        };
        let owners = (0..owners).map(process).collect();
        let files = (0..locks.div_ceil(10)).map(|n| FileHandle::new(format!("{n:032}").as_bytes()).unwrap()).collect();
        Self { table, clients, names, owners, files, locks }
    }

    fn filled(locks: usize) -> Self {
        let owners = (locks / 100).max(1);
        Self::filled_by(owners.div_ceil(10), owners, locks)
    }

    fn filled_by(clients: usize, owners: usize, locks: usize) -> Self {
        let mut world = Self::new(clients, owners, locks);
        for n in 0..locks {
            let (owner, call) = world.lock(n, 0);
            world.granted(owner, &call);
        }
        world
    }

    fn owner_of(&self, lock: usize) -> usize {
        lock * 7919 % self.owners.len()
    }

    fn wanted(&self, lock: usize, beside: u64) -> (usize, Wanted) {
        let (owner, start) = (self.owner_of(lock), (lock % 10) as u64 * 100 + beside);
        // A handle of its own, as a decoder makes it.
        let file = FileHandle::new(self.files[lock / 10].as_slice()).unwrap();
        let process = self.owners[owner].clone();
        (owner, Wanted { file, range: ByteRange { start, end: start + 9 }, len: 10, exclusive: true, process })
    }

    fn lock(&self, lock: usize, beside: u64) -> (usize, Call) {
        let (owner, wanted) = self.wanted(lock, beside);
        (owner, lock_of(wanted))
    }

    fn granted(&mut self, owner: usize, call: &Call) {
        let caller = Caller { client: self.clients[owner % self.clients.len()], via: VIA };
        let handled = self.table.handle(NOW, caller, call);
        assert_eq!(handled, Handled::Reply(Verdict::Granted));
        self.take_effects();
    }
}

impl World {
    fn take_effects(&mut self) {
        while let Some(effect) = self.table.next_effect() {
            black_box(effect);
        }
    }
}

fn lock_of(wanted: Wanted) -> Call {
    let cookie = Cookie::new(b"12345678").unwrap();
    Call::Lock { wanted, block: false, reclaim: false, monitored: true, state: NsmState(3), cookie }
}

fn blocking(call: Call) -> Call {
    let Call::Lock { wanted, reclaim, monitored, state, cookie, .. } = call else { return call };
    Call::Lock { wanted, block: true, reclaim, monitored, state, cookie }
}

/// The floor: a map of files, each with a sorted list, and a map of owners.
#[derive(Default)]
struct Maps {
    files: HashMap<FileHandle, Vec<(u64, u64, u32)>>,
    owners: HashMap<(ClientId, Via, Process), u32>,
}

impl Maps {
    fn of(world: &World) -> Self {
        let mut maps = Self::default();
        for (n, process) in (0..).zip(&world.owners) {
            maps.owners.insert((ClientId(n % world.clients.len() as u32), VIA, process.clone()), n);
        }
        for n in 0..world.locks {
            let (owner, Wanted { file, range, .. }) = world.wanted(n, 0);
            maps.files.entry(file).or_default().push((range.start, range.end, owner as u32));
        }
        maps
    }

    fn lock(&mut self, owner: &(ClientId, Via, Process), wanted: &Wanted) {
        let (id, range) = (self.owners[owner], wanted.range);
        let locks = self.files.get_mut(&wanted.file).unwrap();
        let at = locks.partition_point(|lock| lock.0 < range.start);
        let in_the_way = |lock: &(u64, u64, u32)| lock.0 <= range.end && range.start <= lock.1 && lock.2 != id;
        assert!(!locks[at.saturating_sub(1)..].iter().take(2).any(in_the_way));
        locks.insert(at, (range.start, range.end, id));
    }

    fn unlock(&mut self, owner: &(ClientId, Via, Process), wanted: &Wanted) {
        let id = self.owners[owner];
        let locks = self.files.get_mut(&wanted.file).unwrap();
        let at = locks.partition_point(|lock| lock.0 < wanted.range.start);
        assert_eq!(locks.remove(at).2, id);
    }
}

// --- LOCK and UNLOCK

fn pairs(locks: usize) {
    let region = Region::new(COUNTED);
    let mut world = World::filled(locks);
    let memory = bytes(&region);
    let region = Region::new(COUNTED);
    let mut maps = Maps::of(&world);
    let memory_floor = bytes(&region);
    let (mut rates, mut floors, mut allocations) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let calls: Vec<(usize, Call, Call, Wanted)> = (0..PAIRS)
            .map(|k| {
                // Between the file's locks: none of them becomes one with it.
                let (owner, wanted) = world.wanted((k * 104_729 + round * 31) % locks, 50);
                (owner, lock_of(wanted.clone()), Call::Unlock(wanted.clone()), wanted)
            })
            .collect();
        let region = Region::new(COUNTED);
        let began = processor_time();
        for (owner, lock, unlock, _) in &calls {
            world.granted(*owner, lock);
            world.granted(*owner, unlock);
        }
        rates.push(per_second(PAIRS, began));
        let change = region.change();
        allocations = change.allocations + change.reallocations;
        let owners: Vec<_> = calls.iter().map(|(o, .., wanted)| (world.key(*o), wanted)).collect();
        let began = processor_time();
        for (owner, wanted) in &owners {
            maps.lock(owner, wanted);
            maps.unlock(owner, wanted);
        }
        floors.push(per_second(PAIRS, began));
    }
    let name = format!("pairs, {locks} locks");
    let rest = format!("{:.4} allocations a pair", allocations as f64 / PAIRS as f64);
    line(&name, median(rates), median(floors), "pairs/s", &rest);
    line("  memory", memory / locks as f64, memory_floor / locks as f64, "B/lock", "handles included, each once");
}

impl World {
    fn key(&self, owner: usize) -> (ClientId, Via, Process) {
        (ClientId((owner % self.clients.len()) as u32), VIA, self.owners[owner].clone())
    }
}

fn bytes(region: &Region<'_, System>) -> f64 {
    let change = region.change();
    change.bytes_allocated as f64 - change.bytes_deallocated as f64
}

/// So many locks on one file that do not meet, of a hundred owners. One is given up and taken again.
fn one_file(locks: usize) {
    let mut world = World::new(100, 100, 10);
    let wanted = |world: &World, n: usize| {
        let (owner, start) = (n % 100, n as u64 * 100);
        let (file, process) = (world.files[0].clone(), world.owners[owner].clone());
        (owner, Wanted { file, range: ByteRange { start, end: start + 9 }, len: 10, exclusive: true, process })
    };
    let mut maps = Maps::of(&world);
    maps.files.get_mut(&world.files[0]).unwrap().clear();
    for n in 0..locks {
        let (owner, wanted) = wanted(&world, n);
        world.granted(owner, &lock_of(wanted.clone()));
        maps.lock(&world.key(owner), &wanted);
    }
    let (mut rates, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let calls: Vec<_> = (0..20_000)
            .map(|k| {
                let (owner, wanted) = wanted(&world, (k * 7919 + round) % locks);
                (owner, world.key(owner), Call::Unlock(wanted.clone()), lock_of(wanted.clone()), wanted)
            })
            .collect();
        let began = processor_time();
        for (owner, _, unlock, lock, _) in &calls {
            world.granted(*owner, unlock);
            world.granted(*owner, lock);
        }
        rates.push(per_second(calls.len(), began));
        let began = processor_time();
        for (_, key, .., wanted) in &calls {
            maps.unlock(key, wanted);
            maps.lock(key, wanted);
        }
        floors.push(per_second(calls.len(), began));
    }
    line(&format!("one file of {locks} locks"), median(rates), median(floors), "pairs/s", "floor: one sorted list");
}

/// The longest single LOCK while the table grows, each with an owner and by tens a file of its own.
fn growth(locks: usize) {
    let mut world = World::new(1_000, locks, locks);
    let mut worst = (0.0_f64, 0);
    let mut maps = Maps::default();
    let mut worst_of_maps = 0.0_f64;
    for n in 0..locks {
        let (owner, wanted) = world.wanted(n, 0);
        let call = lock_of(wanted.clone());
        let began = processor_time();
        world.granted(owner, &call);
        let took = micros(began);
        if took > worst.0 {
            worst = (took, n);
        }
        let key = world.key(owner);
        let began = processor_time();
        maps.owners.insert(key, owner as u32);
        maps.files.entry(wanted.file).or_default().push((wanted.range.start, wanted.range.end, owner as u32));
        worst_of_maps = worst_of_maps.max(micros(began));
    }
    let rest = format!("at lock {}, while {locks} owners come", worst.1);
    line("longest LOCK while it grows", worst.0, worst_of_maps, "us", &rest);
}

// --- runs

fn begin_args(run: u8) -> BeginArgs {
    BeginArgs {
        run: RunId([run; 16]),
        instance: InstanceId([2; 16]),
        nsm_state: NsmState(3),
        scope: Scope::default(),
        mode: Mode::Strict,
        policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Drop, include_unmonitored: false },
        may_drop: List::default(),
        grace_ms: 90_000,
        grace_max_ms: 180_000,
    }
}

/// 10,000 locks of so many clients. The floor looks at each client once: the mark need not, and enters them after it.
fn mark(clients: usize) {
    let locks = 10_000;
    let mut world = World::new(clients, clients, locks);
    for n in 0..locks {
        let (owner, call) = world.lock(n, 0);
        world.granted(owner, &call);
    }
    let counts: HashMap<ClientId, u64> = world.clients.iter().map(|client| (*client, 10)).collect();
    let (mut times, mut floors, mut aborts, mut entered) = (Vec::new(), Vec::new(), Vec::new(), Steps::default());
    for run in 0..9 {
        let mut args = begin_args(run);
        let began = processor_time();
        world.table.mark(NOW, 1, &mut args, NsmState(3), NsmState(5)).unwrap();
        times.push(micros(began));
        let mut begun = None;
        entered = Steps::until_done(|| {
            begun = world.table.enter_clients(64);
            begun.is_some()
        });
        assert_eq!(begun.unwrap().in_scope, locks as u64);
        let began = processor_time();
        let aborted = world.table.abort(1, "bench").unwrap();
        aborts.push(micros(began));
        drop(aborted);
        world.take_effects();
        let began = processor_time();
        black_box(counts.values().sum::<u64>());
        floors.push(micros(began));
    }
    let floor = median(floors);
    line(&format!("mark, {clients} clients"), median(times), floor, "us", "floor: a map summed up");
    entered.print("  entered by 64", floor);
    line("  abort", median(aborts), floor, "us", "");
}

/// What the longest of several steps took, and all of them.
#[derive(Default)]
struct Steps {
    longest: f64,
    all: f64,
}

impl Steps {
    fn until_done(mut step: impl FnMut() -> bool) -> Self {
        let mut steps = Self::default();
        loop {
            let began = processor_time();
            let done = step();
            let took = micros(began);
            steps.longest = steps.longest.max(took);
            steps.all += took;
            if done {
                return steps;
            }
        }
    }

    fn print(&self, name: &str, floor: f64) {
        line(name, self.longest, floor, "us", &format!("longest step; all of them {:.1} ms", self.all / 1e3));
    }
}

/// All is dropped. The floor of a step copies as many rows of two numbers as a step looks at locks.
fn settle(locks: usize, clients: usize) {
    let mut world = World::filled_by(clients, clients.max(locks / 100), locks);
    println!("settle, {clients} clients");
    let args = begin_args(1);
    let begun = world.table.begin(NOW, 1, &args, NsmState(3), NsmState(5)).unwrap();
    let seen = |client| ClientProgress { client, delivery: Delivery::Acked, ago_ms: 0, suspect: false };
    for page in (0..begun.clients).map(seen).collect::<Vec<_>>().chunks(4096) {
        let args = ProgressArgs { run: args.run, notices_begun: true, clients: List::clipped(page.to_vec()) };
        world.table.progress(NOW * 2, &args).unwrap();
    }
    world.take_effects();
    let rows = vec![(1_u64, 2_u64); 128];
    let began = processor_time();
    (0..1_000).for_each(|_| drop(black_box(rows.clone())));
    let floor = micros(began) / 1e3;
    let began = processor_time();
    world.table.settle_start(NOW * 100, SettleWhen::Always, false, "deadline").unwrap();
    line("settle: start", micros(began), floor, "us", "");
    let region = Region::new(COUNTED);
    Steps::until_done(|| world.table.settle_scan(128)).print("settle: scan by 128", floor);
    let began = processor_time();
    let result = world.table.settle_result(1).unwrap();
    line("settle: result", micros(began), floor, "us", "");
    let began = processor_time();
    let result = result.join();
    let rest = format!("{} rows, {:.0} MB more memory", result.locks.as_slice().len(), bytes(&region) / 1e6);
    line("settle: result joined (beside)", micros(began), floor, "us", &rest);
    let began = processor_time();
    let spent = world.table.settle_commit();
    line("settle: the instant", micros(began), floor, "us", "");
    let began = processor_time();
    drop(spent);
    line("settle: what is left freed (beside)", micros(began), floor, "us", "");
    let sweep = Steps::until_done(|| {
        let done = world.table.settle_sweep(1);
        world.take_effects();
        done
    });
    sweep.print("settle: sweep file by file", floor);
    assert_eq!(world.table.totals().locks, 0);
}

/// The longest single step while clients come, and while they make room for others.
fn clients(clients: usize) {
    let mut limits = Limits::default();
    (limits.clients.all, limits.clients.host) = (clients, clients);
    let mut table = LockTable::new(limits, [1, 2, 3, 4]);
    let mut floor = 0.0_f64;
    let mut map = HashMap::new();
    let mut numbers = 0..u32::try_from(2 * clients).unwrap();
    let mut came = |count: usize| {
        let mut count = 0..count;
        Steps::until_done(|| {
            let n = numbers.next().unwrap();
            let name = CallerName::new(&format!("client{n:06}.example.org")).unwrap();
            let client = table.add_client(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + n)), &name).unwrap();
            table.called(client, VIA.server_address);
            table.next_effect();
            count.next();
            count.is_empty()
        })
    };
    let (coming, replacing) = (came(clients), came(clients));
    for n in 0..clients {
        let began = processor_time();
        map.insert(n, n);
        floor = floor.max(micros(began));
    }
    coming.print(&format!("{clients} clients come"), floor);
    replacing.print("  others push them out", floor);
}

/// So many ranges are remembered when the late window closes. The floor frees as many strings of a map.
fn late(ranges: usize) {
    let mut world = World::new(1_000, 1_000, ranges * 10);
    let args = begin_args(1);
    world.table.begin(NOW, 1, &args, NsmState(3), NsmState(5)).unwrap();
    world.table.abort(1, "bench").unwrap();
    for n in 0..ranges {
        let (owner, wanted) = world.wanted(n * 10, 0);
        world.granted(owner, &lock_of(wanted.clone()));
        world.granted(owner, &Call::Unlock(wanted));
    }
    let map: HashMap<usize, String> = (0..ranges).map(|n| (n, n.to_string())).collect();
    let began = processor_time();
    drop(black_box(map));
    let floor = micros(began);
    let after = Duration::from_secs(1_000);
    let steps = Steps::until_done(|| {
        world.table.on_timeout(after, false);
        world.table.next_timeout(false).is_none_or(|at| at > after)
    });
    steps.print(&format!("late window of {ranges} ranges closed"), floor);
}

/// One client's locks are released, each on a file of its own, and its requests, which all wait for one lock. The floor
/// copies the rows that are seen.
fn release(all: usize) {
    let waiting = all / 10;
    let locks = all - waiting;
    let mut world = World::new(1, 1, locks * 10);
    for n in 0..locks {
        let (owner, call) = world.lock(n * 10, 0);
        world.granted(owner, &call);
    }
    let name = CallerName::new("holder.example.org").unwrap();
    let holder = world.table.add_client(IpAddr::V4(Ipv4Addr::LOCALHOST), &name).unwrap();
    let wanted = |range| Wanted { range, file: FileHandle::new(b"waited for").unwrap(), ..world.wanted(0, 0).1 };
    let (all, waits) = (wanted(ByteRange::ALL), (0..waiting as u64).map(|n| wanted(ByteRange { start: n, end: n })));
    let waits: Vec<Call> = waits.map(|wanted| blocking(lock_of(wanted))).collect();
    world.table.handle(NOW, Caller { client: holder, via: VIA }, &lock_of(all));
    for call in &waits {
        let caller = Caller { client: world.clients[0], via: VIA };
        assert_eq!(world.table.handle(NOW, caller, call), Handled::Reply(Verdict::Blocked));
    }
    world.take_effects();
    let mut rows = Vec::new();
    let mut after = 0;
    loop {
        let mut listing = Listing::new(LocksArgs { scope: Scope::default(), after });
        while !world.table.list_locks_on(&mut listing) {}
        let page = listing.into_page();
        let listed = page.locks.into_vec().into_iter().map(|aged| aged.lock);
        rows.extend(listed.filter(|row| row.owner.name != name));
        after = page.next;
        if after == 0 {
            break;
        }
    }
    let began = processor_time();
    black_box(rows.clone());
    let floor = micros(began);
    let address = world.table.client(world.clients[0]).unwrap().address;
    let seen = ClientSeen::new(world.names[0].clone(), Address(address), &rows);
    let args =
        ReleaseArgs { instance: InstanceId([2; 16]), clients: List::clipped(vec![seen]), locks: List::default() };
    let mut release = Release::new(args);
    let looked = Steps::until_done(|| world.table.release_look(&mut release).unwrap());
    looked.print(&format!("release {locks} and {waiting} waiting: look"), floor);
    let began = processor_time();
    let compared = release.compare().unwrap();
    line("release: compared (beside)", micros(began), floor, "us", "");
    let began = processor_time();
    let (released, number) = world.table.release_now(compared).unwrap().break_value().unwrap();
    line("release: the instant", micros(began), floor, "us", "");
    assert_eq!((released.locks, released.waiters), (locks as u64, waiting as u64));
    let swept = Steps::until_done(|| {
        world.table.settle_sweep(1);
        world.take_effects();
        world.table.released(number).is_some()
    });
    swept.print("release: swept", floor);
    assert_eq!((world.table.totals().locks, world.table.totals().waiters), (1, 0));
}

// --- listings

/// Pages of all, of one client and of one file. The floor copies as many rows of a list.
fn list(locks: usize) {
    let world = World::filled(locks);
    let name = world.names[world.names.len() / 2].clone();
    let client = ClientRef::named(name);
    let of_client = Scope { clients: List::clipped(vec![client]), files: List::default() };
    let of_file = Scope { clients: List::default(), files: List::clipped(vec![world.files[0].clone()]) };
    let middle = (locks as u64 / 20) << 32;
    for (name, scope, after) in [
        ("list: first page", Scope::default(), 0),
        ("list: page in the middle", Scope::default(), middle),
        ("list: page of one client", of_client, 0),
        ("list: page of one file", of_file, 0),
    ] {
        let (mut times, mut floors, mut count) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let began = processor_time();
            let mut listing = Listing::new(LocksArgs { scope: scope.clone(), after });
            while !world.table.list_locks_on(&mut listing) {}
            let page = listing.into_page();
            times.push(micros(began));
            let began = processor_time();
            black_box(page.locks.as_slice().to_vec());
            floors.push(micros(began));
            count = page.locks.as_slice().len();
        }
        line(name, median(times), median(floors), "us", &format!("{count} rows; floor: the rows copied"));
    }
}
