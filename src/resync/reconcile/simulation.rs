//! An hour of simulated time: a round every minute over 200 hosts that lock, unlock, reboot and are cut off, with the
//! real lock table and the real machine of a run. What each host believes is the witness.
//!
//! What a host can be like here: its kernel's number differs from its statd's for ever; its statd's number goes up
//! without a reboot; it acks notices and reclaims nothing, always or while another machine has its address for less
//! than a round. Reboot notices get lost, and so do SM_NOTIFYs. What no rule can survive is left out: that a host is cut
//! off for the rest of its own run just after its ack (here it comes back within 40 s), and that another machine takes
//! its address just then.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use super::*;
use crate::locks::{
    Call, Caller, ClientId, Handled, Limits, Listing, LockTable, Process, Reboot, Verdict, Via, Wanted,
};
use crate::report::Probe;
use crate::resync::plan::{Draft, Observation, Plan, Request};
use crate::resync::run::{Action, Event, News, Run, Standing, Starting, Terms};
use crate::wire::control::{
    BeginArgs, ClientRef, Delivery, Info, InstanceId, LocksArgs, Mode, ProgressArgs, RunId, Scope, Status,
};
use crate::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, OwnerHandle, Svid, Transport};
use crate::wire::xdr::{List, Maybe, Text};

const HOSTS: usize = 200;
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const SERVER: &str = "192.0.2.1";
/// What another machine's statd says.
const OTHER: NsmState = NsmState(99);

/// A lock: a file, ten bytes of it (apart from others, which would become one with them), a process.
type Held = (u32, u64, i32);

struct Host {
    name: CallerName,
    address: IpAddr,
    client: Option<ClientId>,
    statd: NsmState,
    /// What its LOCKs carry.
    kernel: NsmState,
    understands: bool,
    holds: BTreeSet<Held>,
    /// Cut off until then.
    cut_off: Duration,
    /// Another machine has its address until then.
    replaced: Duration,
    server_state: NsmState,
    reclaims: VecDeque<Held>,
    /// It once reclaimed.
    has_reclaimed: bool,
    /// What the server holds for it and it knows nothing of.
    stale: BTreeSet<Held>,
    /// Rounds in which it was reached since something became stale.
    rounds: u32,
    /// A run that kept something of it since then was reported.
    named: bool,
    /// What happened to it, for a failure's message.
    story: Vec<String>,
}

/// SplitMix64: what comes follows from the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    quiet: u32,
    runs: u32,
    dropped: u64,
    kept: u64,
    reclaimed: u64,
    became_stale: usize,
}

struct World {
    table: LockTable,
    now: Duration,
    dice: Dice,
    hosts: Vec<Host>,
    state: NsmState,
    memories: HashMap<usize, Memory>,
    /// Whose run is active.
    running: Option<usize>,
    rules: Rules,
    tally: Tally,
    /// What the run that settled last came to.
    last: Option<LockTally>,
}

/// What is decided by rules that a fault may break.
#[derive(Clone, Copy)]
struct Rules {
    silence: fn(&Look, bool) -> Silent,
    /// Whether a suspect gets its run in the first round that finds it so.
    at_once: bool,
}

const RULES: Rules = Rules { silence: Look::silent, at_once: false };

/// What a run's notice has come to.
struct Notice {
    since: Duration,
    acked: bool,
    given_up: bool,
}

fn file((file, ..): Held) -> FileHandle {
    FileHandle::new(&file.to_be_bytes()).unwrap()
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut dice = Dice(seed);
        let host = |n: usize| {
            let [_, _, high, low] = u32::try_from(n + 1).unwrap().to_be_bytes();
            let understands = !n.is_multiple_of(10);
            Host {
                name: CallerName::new(&format!("host{n}")).unwrap(),
                address: IpAddr::from([10, 0, high, low]),
                client: None,
                statd: NsmState(3),
                kernel: NsmState(if n % 10 == 1 { 1 } else { 3 }),
                understands,
                holds: BTreeSet::new(),
                cut_off: Duration::ZERO,
                replaced: Duration::ZERO,
                server_state: NsmState(0),
                reclaims: VecDeque::new(),
                has_reclaimed: understands && dice.chance(70),
                stale: BTreeSet::new(),
                rounds: 0,
                named: false,
                story: Vec::new(),
            }
        };
        let hosts = (0..HOSTS).map(host).collect();
        Self {
            table: LockTable::new(Limits::default(), [1, 2, 3, 4]),
            now: Duration::from_secs(1_000),
            dice,
            hosts,
            state: NsmState(1),
            memories: HashMap::new(),
            running: None,
            rules,
            tally: Tally::default(),
            last: None,
        }
    }

    fn ms(&self) -> u64 {
        millis(self.now)
    }

    fn is_reached(&self, host: usize) -> bool {
        self.hosts[host].cut_off <= self.now
    }

    fn is_itself(&self, host: usize) -> bool {
        self.is_reached(host) && self.hosts[host].replaced <= self.now
    }

    fn call(&mut self, host: usize, call: &Call) -> Verdict {
        let known = &mut self.hosts[host];
        let client = *known.client.get_or_insert_with(|| {
            let client = self.table.add_client(known.address, &known.name).unwrap();
            self.table.set_monitored(client, true);
            client
        });
        let server_address: IpAddr = SERVER.parse().unwrap();
        self.table.called(client, server_address);
        let caller = Caller { client, via: Via { server_address, transport: Transport::Tcp, version: 4 } };
        loop {
            match self.table.handle(self.now, caller, call) {
                Handled::More => {}
                Handled::Reply(verdict) => return verdict,
                other => panic!("{other:?}"),
            }
        }
    }

    fn wanted(held: Held) -> Wanted {
        let range = ByteRange { start: held.1 * 20, end: held.1 * 20 + 9 };
        let process = Process { svid: Svid(held.2), oh: OwnerHandle::new(&held.2.to_be_bytes()).unwrap() };
        Wanted { file: file(held), range, len: range.nlm_len(), exclusive: true, process }
    }

    fn lock(&mut self, host: usize, held: Held, reclaim: bool) -> Verdict {
        let (wanted, state) = (Self::wanted(held), self.hosts[host].kernel);
        let cookie = Cookie::new(b"c").unwrap();
        self.call(host, &Call::Lock { wanted, block: false, reclaim, monitored: true, state, cookie })
    }

    /// What the server holds, by host.
    fn held(&self) -> HashSet<(IpAddr, Held)> {
        let mut held = HashSet::new();
        let mut after = 0;
        loop {
            let mut page = Listing::new(LocksArgs { scope: Scope::default(), after });
            while !self.table.list_locks_on(&mut page) {}
            let page = page.into_page();
            for row in page.locks.as_slice() {
                let file = u32::from_be_bytes(row.file.as_slice().try_into().unwrap());
                held.insert((row.owner.address.0, (file, row.range.start / 20, row.owner.svid.0)));
            }
            match page.next {
                0 => return held,
                next => after = next,
            }
        }
    }

    /// No host believes in a lock that the server does not hold for it.
    fn check(&mut self) -> Result<(), String> {
        let held = self.held();
        for host in &mut self.hosts {
            if let Some(lost) = host.holds.iter().find(|lock| !held.contains(&(host.address, **lock))) {
                return Err(format!("{} lost {lost:?} at {:?}: {:#?}", host.name, self.now, host.story));
            }
            let (address, holds) = (host.address, &host.holds);
            host.stale.retain(|lock| held.contains(&(address, *lock)) && !holds.contains(lock));
        }
        Ok(())
    }

    /// Time passes, and hosts do what they do.
    fn pass(&mut self) -> Result<(), String> {
        self.now += STEP;
        for host in 0..HOSTS {
            if self.hosts[host].reclaims.is_empty() || !self.is_itself(host) {
                continue;
            }
            let Some(lock) = self.hosts[host].reclaims.pop_front() else { continue };
            if self.hosts[host].holds.contains(&lock) && self.lock(host, lock, true) != Verdict::Granted {
                return Err(format!("host{host} is refused its own {lock:?} at {:?}", self.now));
            }
        }
        if self.now.as_millis().is_multiple_of(500) {
            self.happens();
        }
        while self.table.next_effect().is_some() {}
        Ok(())
    }

    fn happens(&mut self) {
        let host = usize::try_from(self.dice.below(HOSTS as u64)).unwrap();
        let span = |dice: &mut Dice, from: u64, to: u64| Duration::from_secs(from + dice.below(to - from));
        match self.dice.below(100) {
            0..45 if self.is_itself(host) => {
                let common = self.dice.chance(20);
                let file = if common { 0 } else { u32::try_from(host + 1).unwrap() };
                let svid = i32::try_from(1 + self.dice.below(3)).unwrap();
                let lock = (file, self.dice.below(6), svid);
                if self.lock(host, lock, false) == Verdict::Granted {
                    self.tell(host, &format!("locks {lock:?}"));
                    self.hosts[host].holds.insert(lock);
                    self.hosts[host].stale.remove(&lock);
                }
            }
            45..70 if self.is_itself(host) => {
                let Some(lock) = self.hosts[host].holds.pop_first() else { return };
                self.tell(host, &format!("unlocks {lock:?}"));
                self.call(host, &Call::Unlock(Self::wanted(lock)));
            }
            70..74 => self.reboots(host),
            74..80 => {
                let longest = if self.running == Some(host) { 40 } else { 300 };
                self.hosts[host].cut_off = self.now + span(&mut self.dice, 5, longest);
                self.tell(host, &format!("is cut off until {:?}", self.hosts[host].cut_off));
                self.hosts[host].rounds = 0;
            }
            80..83 if self.hosts[host].understands => {
                self.hosts[host].statd = self.hosts[host].statd.next_up();
                self.tell(host, &format!("statd says {} without a reboot", self.hosts[host].statd));
                self.hosts[host].rounds = 0;
            }
            83..86 if self.running != Some(host) => {
                self.hosts[host].replaced = self.now + span(&mut self.dice, 5, 50);
                self.tell(host, &format!("is replaced until {:?}", self.hosts[host].replaced));
                self.hosts[host].rounds = 0;
            }
            _ => {}
        }
    }

    fn tell(&mut self, host: usize, what: &str) {
        let line = format!("{:?} {what}", self.now);
        self.hosts[host].story.push(line);
    }

    fn reboots(&mut self, number: usize) {
        self.tell(number, "reboots");
        let held = self.held();
        let host = &mut self.hosts[number];
        host.holds.clear();
        host.reclaims.clear();
        host.statd = host.statd.next_up();
        host.kernel = host.statd;
        host.server_state = NsmState(0);
        host.stale = held.into_iter().filter(|(address, _)| *address == host.address).map(|(_, lock)| lock).collect();
        (host.rounds, host.named) = (0, false);
        self.tally.became_stale += host.stale.len();
        let (address, name, state) = (host.address, host.name.clone(), host.statd);
        host.cut_off = self.now + Duration::from_secs(20);
        if self.dice.chance(40) {
            self.hosts[number].story.push(format!("its notice {state} arrives"));
            while self.table.reboot_notice(address, &name, state) == Reboot::More {}
        }
    }

    fn info(&self) -> Info {
        Info {
            software: Text::clipped("nlmd"),
            instance: InstanceId([1; 16]),
            nsm_state: self.state,
            names: List::clipped(vec![CallerName::new("nas").unwrap()]),
            capabilities: Capabilities {
                mark: true,
                list_locks: true,
                knows_owners: true,
                targeted: true,
                settle_early: true,
                late_reclaims: true,
                release: true,
                knows_reclaims: true,
                knows_paths: false,
                begin_releases: false,
            },
            domains: List::default(),
        }
    }

    fn status(&self) -> Status {
        let totals = self.table.totals();
        Status {
            instance: InstanceId([1; 16]),
            nsm_state: self.state,
            grace: self.table.grace(),
            grace_remaining_ms: 0,
            clients: totals.clients,
            monitored: totals.monitored,
            locks: totals.locks,
            unmonitored: totals.unmonitored,
            waiters: totals.waiters,
            run: Maybe(self.table.run_status(self.now)),
            cursor: 1,
        }
    }

    fn rows(&self) -> Vec<ClientRow> {
        self.table.list_clients(0).clients.into_vec()
    }

    fn probe(&self, host: usize) -> Probed {
        if !self.is_reached(host) {
            return Probed::Silent(Probe::NoAnswer);
        }
        Probed::Answers(Some(if self.is_itself(host) { self.hosts[host].statd } else { OTHER }))
    }

    fn number(&self, row: &ClientRow) -> usize {
        self.hosts.iter().position(|host| host.name == row.name).unwrap()
    }

    fn round(&mut self) -> Result<(), String> {
        let (state, now) = (self.state, self.ms());
        let mut due = Vec::new();
        for row in self.rows().into_iter().filter(|row| at_stake(row) > 0) {
            let host = self.number(&row);
            let seen = look(&row, self.probe(host), self.memories.get(&host).unwrap_or(&Memory::default()), now);
            self.memories.insert(host, seen.memory.clone());
            self.hosts[host].rounds += u32::from(self.is_itself(host));
            if seen.step == Step::Run || (self.rules.at_once && seen.step == Step::LookAgain) {
                due.push((host, row, seen));
            }
        }
        let is_quiet = due.is_empty();
        for (host, row, seen) in due {
            self.run(host, &row, seen)?;
        }
        self.tally.rounds += 1;
        self.tally.quiet += u32::from(is_quiet);
        if is_quiet && self.state != state {
            return Err("a state number was raised without a suspect".into());
        }
        self.check()?;
        let forgotten = |host: &&Host| !host.stale.is_empty() && host.rounds >= 2 && !host.named;
        match self.hosts.iter().find(forgotten) {
            Some(host) => Err(format!(
                "{} has stale locks after {} rounds, at {:?}: {:?}, {:#?}",
                host.name, host.rounds, self.now, host.stale, host.story
            )),
            None => Ok(()),
        }
    }

    fn plan(&self, host: usize, row: &ClientRow, silent: Silent) -> Option<Plan> {
        let grace = Duration::from_secs(90);
        let request = Request { clients: vec![row.name.to_string()], grace, silent, ..Request::default() };
        let client =
            ClientRef { name: Maybe(Some(row.name.clone())), address: Maybe(Some(Address(self.hosts[host].address))) };
        let scope = Scope { clients: List::clipped(vec![client]), files: List::default() };
        let (info, status, clients) = (self.info(), self.status(), self.rows());
        let seen = Observation { info: &info, status: &status, clients: &clients, locks: None, mounts: &[] };
        let plan = Draft::new(&request, scope, seen).ok()?.finish(&[self.probe(host)]);
        assert_eq!((plan.mode, plan.consent.len()), (Mode::Targeted, 0));
        Some(plan)
    }

    /// A run of that host, by the real machine against the real table.
    fn run(&mut self, host: usize, row: &ClientRow, mut seen: Look) -> Result<(), String> {
        if !seen.is_still(self.probe(host)) {
            return Ok(());
        }
        let silent = (self.rules.silence)(&seen, self.hosts[host].has_reclaimed);
        self.tell(host, &format!("gets a run, {silent:?}: {:?}", seen.reasons));
        let Some(plan) = self.plan(host, row, silent) else { return Ok(()) };
        seen.begun(self.ms());
        self.running = Some(host);
        self.tally.runs += 1;
        let id = RunId(u128::from(self.tally.runs).to_be_bytes());
        let terms = Terms {
            quiet_time: Duration::from_millis(500),
            grace: plan.grace,
            settle_early: true,
            begin_releases: false,
        };
        let args = BeginArgs {
            run: id,
            instance: plan.instance,
            nsm_state: plan.nsm_state,
            scope: plan.scope,
            mode: plan.mode,
            policy: plan.policy,
            may_drop: List::default(),
            grace_ms: millis(plan.grace),
            grace_max_ms: millis(plan.grace_max),
        };
        let (mut machine, first) = Run::begin(terms);
        let mut actions = VecDeque::from(first);
        let mut notice = None;
        let result = loop {
            if let Some(action) = actions.pop_front() {
                let event = match action {
                    Action::Persist(_) | Action::StopNotices => continue,
                    Action::Finish(ending) => return Err(format!("no result: {ending:?}")),
                    Action::FetchResult => break self.table_result(),
                    Action::StartNotices => {
                        notice = Some(Notice { since: self.now, acked: false, given_up: false });
                        continue;
                    }
                    other => self.act(&args, other),
                };
                actions.extend(machine.handle(self.now, event));
                continue;
            }
            self.pass()?;
            if let Some(notice) = &mut notice {
                let news = self.deliver(host, notice);
                actions.extend(
                    news.into_iter()
                        .flat_map(|news| machine.handle(self.now, Event::Heard { client: 0, at: self.now, news })),
                );
            }
            if self.now.as_millis().is_multiple_of(500) {
                actions.extend(machine.handle(self.now, Event::Seen(Standing::of(id, &self.status()))));
            }
            if machine.wake_at().is_some_and(|at| at <= self.now) {
                actions.extend(machine.handle(self.now, Event::Tick));
            }
        };
        self.running = None;
        self.learn(host, seen, &result);
        self.check()
    }

    /// What the lock manager does when it is asked.
    fn act(&mut self, args: &BeginArgs, action: Action) -> Event {
        match action {
            Action::Begin => {
                let new = self.state.next_up();
                self.table.begin(self.now, 0, args, self.state, new).unwrap();
                self.state = new;
                assert_eq!(self.table.run_clients().len(), 1, "that client and no other one");
                let client = Starting { delivery: Delivery::NotTold, ago: Duration::ZERO, suspect: true };
                Event::Begun { clients: vec![client], elapsed: Duration::ZERO }
            }
            Action::Tell(clients) => {
                let args = ProgressArgs { run: args.run, notices_begun: true, clients: List::clipped(clients) };
                self.table.progress(self.now, &args).unwrap();
                Event::Told(Standing::of(args.run, &self.status()))
            }
            Action::Settle(when) => {
                if self.table.settle_start(self.now, when, false, "test").is_err() {
                    return Event::StillPending;
                }
                while !self.table.settle_scan(64) {}
                let result = self.table.settle_result(0).unwrap().join();
                self.table.settle_commit();
                while !self.table.settle_sweep(64) {}
                self.tally.dropped += result.result.counts.dropped;
                self.tally.kept += result.result.counts.kept;
                self.tally.reclaimed += result.result.counts.reclaimed;
                self.last = Some(LockTally::from(result.result.counts));
                Event::Ended
            }
            other => panic!("{other:?}"),
        }
    }

    fn table_result(&mut self) -> LockTally {
        self.last.take().expect("it has settled")
    }

    /// The notice, once a second until it is acked.
    fn deliver(&mut self, number: usize, notice: &mut Notice) -> Option<News> {
        let age = self.now.saturating_sub(notice.since);
        if notice.acked || !age.as_millis().is_multiple_of(SECOND.as_millis()) {
            return None;
        }
        if !self.is_reached(number) || self.dice.chance(30) {
            let gives_up = age >= SECOND * 10 && !notice.given_up;
            notice.given_up |= gives_up;
            return Some(if gives_up { News::GivenUp(Delivery::NoAnswer) } else { News::SentAgain });
        }
        notice.acked = true;
        let (is_itself, state) = (self.is_itself(number), self.state);
        let host = &mut self.hosts[number];
        if is_itself && host.understands && host.server_state != state {
            host.server_state = state;
            host.reclaims = host.holds.iter().copied().collect();
        }
        Some(News::Acked { all: true })
    }

    fn learn(&mut self, host: usize, mut seen: Look, locks: &LockTally) {
        let after = self.rows().into_iter().find(|row| row.name == self.hosts[host].name);
        self.tell(host, &format!("its run: {locks:?}"));
        seen.ended(Some(Outcome::Settled), locks, after.as_ref(), self.ms());
        self.memories.insert(host, seen.memory);
        self.hosts[host].has_reclaimed |= locks.reclaimed > 0;
        self.hosts[host].named |= locks.kept > 0;
    }
}

/// An hour, a round every minute unless the last one still goes on.
fn hour(seed: u64, rules: Rules) -> Result<Tally, String> {
    let mut world = World::new(seed, rules);
    let end = world.now + HOUR;
    let mut next = world.now;
    while world.now < end {
        world.pass()?;
        if world.now >= next {
            next = world.now + MINUTE;
            world.round()?;
        }
    }
    Ok(world.tally)
}

#[test]
fn in_an_hour_of_rounds_no_live_client_loses_a_lock_and_every_stale_one_is_gone_or_named() {
    let seeds = std::env::var("NLMCTL_SEED").map_or_else(|_| vec![1, 2, 15], |seed| vec![seed.parse().unwrap()]);
    for seed in seeds {
        let tally = hour(seed, RULES).unwrap_or_else(|lost| panic!("seed {seed} (NLMCTL_SEED={seed}): {lost}"));
        assert!(tally.dropped > 10 && tally.kept > 10 && tally.reclaimed > 10 && tally.quiet > 0, "{tally:?}");
    }
}

#[test]
fn the_simulation_notices_what_is_dropped_on_an_ack_alone() {
    let lost = (1..4).find_map(|seed| hour(seed, Rules { silence: |_, _| Silent::Auto, ..RULES }).err());
    assert!(lost.as_ref().is_some_and(|what| what.contains("lost")), "{lost:?}");
}

#[test]
fn the_simulation_notices_what_is_dropped_on_the_number_of_one_round() {
    let one_round =
        |look: &Look, has_reclaimed| if has_reclaimed && look.has_one_path { Silent::Auto } else { Silent::Keep };
    let lost = (1..4).find_map(|seed| hour(seed, Rules { silence: one_round, at_once: true }).err());
    assert!(lost.as_ref().is_some_and(|what| what.contains("lost")), "{lost:?}");
}
