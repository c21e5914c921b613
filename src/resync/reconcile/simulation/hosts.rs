//! The hosts: what they hold and believe, and what happens to them.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;

use super::*;
use crate::locks::{Call, Caller, ClientId, Handled, Listing, Process, Reboot, Verdict, Via, Wanted};
use crate::wire::control::{AgedLock, LocksArgs, Scope};
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, OwnerHandle, Svid, Transport};

pub(super) struct Host {
    pub(super) name: CallerName,
    pub(super) address: IpAddr,
    pub(super) client: Option<ClientId>,
    pub(super) statd: NsmState,
    /// What its LOCKs carry.
    pub(super) kernel: NsmState,
    pub(super) understands: bool,
    pub(super) holds: BTreeSet<Held>,
    /// Cut off until then.
    pub(super) cut_off: Duration,
    /// Another machine has its address until then.
    pub(super) replaced: Duration,
    pub(super) server_state: NsmState,
    pub(super) reclaims: VecDeque<Held>,
    pub(super) has_reclaimed: bool,
    /// What the server holds for it and it knows nothing of.
    pub(super) stale: BTreeSet<Held>,
    /// Rounds in which it was reached since something became stale.
    pub(super) rounds: u32,
    /// A run that kept something of it since then was reported.
    pub(super) named: bool,
    /// What happened to it, for a failure's message.
    pub(super) story: Vec<String>,
}

impl Host {
    pub(super) fn new(n: usize, dice: &mut Dice) -> Self {
        let [_, _, high, low] = u32::try_from(n + 1).unwrap().to_be_bytes();
        let understands = !n.is_multiple_of(10);
        Self {
            name: CallerName::new(&format!("host{n}")).unwrap(),
            address: IpAddr::from([10, 0, high, low]),
            client: None,
            statd: NsmState(3),
            kernel: NsmState(if n % 10 == 1 || n.is_multiple_of(40) { 1 } else { 3 }),
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
    }
}

/// SplitMix64: what comes follows from the seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn file((file, ..): Held) -> FileHandle {
    FileHandle::new(&file.to_be_bytes()).unwrap()
}

impl World {
    pub(super) fn is_reached(&self, host: usize) -> bool {
        self.hosts[host].cut_off <= self.now
    }

    pub(super) fn is_itself(&self, host: usize) -> bool {
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
            for AgedLock { lock: row, .. } in page.locks.as_slice() {
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
    pub(super) fn check(&mut self) -> Result<(), String> {
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
    pub(super) fn pass(&mut self) -> Result<(), String> {
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
        if self.now.as_millis().is_multiple_of(self.rules.pace.as_millis()) {
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
            // Once it was, not before a round has met it again.
            83..86 if self.running != Some(host) && self.hosts[host].rounds > 0 => {
                self.hosts[host].replaced = self.now + span(&mut self.dice, 5, 50);
                self.tell(host, &format!("is replaced until {:?}", self.hosts[host].replaced));
                self.hosts[host].rounds = 0;
            }
            _ => {}
        }
    }

    pub(super) fn tell(&mut self, host: usize, what: &str) {
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
}
