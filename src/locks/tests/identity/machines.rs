//! Random machines, against an oracle that knows which machine each message is of.
//!
//! Machines have an address (some share one, behind a NAT), a name (some share one, some have the other's short
//! form), a number of their life, and processes that all of them number alike. They lock, unlock, reboot, tell of
//! it (late, repeated, or not at all), change the spelling of their name and their owner handles, and reclaim in
//! runs what they believe they have, some of them from another address than before; first of all their namesakes
//! claim it. The table knows only what they say, and of an address, when it asks, whether a machine is there. A machine that is alone at its address, and
//! whose reboots were told of, is never denied by its own locks and leaves none behind; behind a NAT that may be so,
//! since there nothing under another spelling is taken for the same machine's.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const FILES: [&str; 4] = ["f0", "f1", "f2", "f3"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock(usize, usize, i32),
    Unlock(usize, usize, i32),
    FreeAll(usize),
    /// It reboots, and says so or not.
    Reboot(usize, bool),
    /// It says its present number again.
    Repeat(usize),
    /// A copy of an older notice.
    Late(usize),
    /// Its lock manager restarts, and its name is spelled in another way from now on.
    Respell(usize, usize),
    /// A run in which all reclaim what they have. Of the clients these acked, and these machines have moved.
    Run(Mode, u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let machine = 0..MACHINES.len();
    let place = (machine.clone(), 0..FILES.len(), 1..3);
    prop_oneof![
        10 => place.clone().prop_map(|(m, f, svid)| Step::Lock(m, f, svid)),
        4 => place.prop_map(|(m, f, svid)| Step::Unlock(m, f, svid)),
        1 => machine.clone().prop_map(Step::FreeAll),
        2 => (machine.clone(), any::<bool>()).prop_map(|(m, told)| Step::Reboot(m, told)),
        1 => machine.clone().prop_map(Step::Repeat),
        1 => machine.clone().prop_map(Step::Late),
        3 => (machine, 0_usize..4).prop_map(|(m, n)| Step::Respell(m, n)),
        3 => (prop_oneof![Just(Mode::Strict), Just(Mode::Targeted)], any::<u8>(), any::<u16>(), any::<u16>())
            .prop_map(|(mode, who, some, of)| Step::Run(mode, who, some & of)),
    ]
}

/// Address, and the spellings of the name. Two machines behind one address have unlike names: such that are
/// alike cannot be told apart by anything.
const MACHINES: [(&str, [&str; 4]); 9] = [
    ("192.0.2.1", ["app", "APP", "app.example.org", "app."]),
    ("192.0.2.2", ["app", "app.example.org", "App", "app"]),
    ("2001:db8::1", ["app.example.org", "app", "app.example.org.", "APP"]),
    ("192.0.2.9", ["one", "One", "one.", "one.example.org"]),
    ("192.0.2.9", ["two", "TWO", "two.example.org", "two."]),
    ("192.0.2.9", ["three.example.org", "three.example.org.", "three", "THREE"]),
    ("fe80::1%2", ["app", "App", "app.example.org", "APP"]),
    ("fe80::1%3", ["app", "app.example.org", "app.", "app"]),
    ("192.0.2.4", ["mac.local", "mac", "MAC.local", "mac.local."]),
];

/// Where each is when it is not at its first address.
const AWAY: [&str; 9] = [
    "192.0.2.101",
    "192.0.2.102",
    "192.0.2.103",
    "192.0.2.104",
    "192.0.2.105",
    "192.0.2.106",
    "2001:db8::107",
    "fe80::108%3",
    "192.0.2.109",
];

/// A machine as it really is.
#[derive(Debug)]
struct Truth {
    is_away: bool,
    spelling: usize,
    /// Lives of its lock manager: each has owner handles of its own.
    restarts: usize,
    number: i32,
    /// It may have left locks behind that nobody was told of.
    left_some: bool,
    /// What its processes believe they hold, and under which owner handle.
    has: BTreeSet<(usize, i32)>,
}

struct Reality {
    w: World,
    machines: Vec<Truth>,
}

impl Reality {
    fn new() -> Self {
        // Many hosts start at the same number.
        let truth =
            |_| Truth { is_away: false, spelling: 0, restarts: 0, number: 3, left_some: false, has: BTreeSet::new() };
        Self { w: World::new(), machines: (0..MACHINES.len()).map(truth).collect() }
    }

    fn address(&self, m: usize) -> &'static str {
        if self.machines[m].is_away { AWAY[m] } else { MACHINES[m].0 }
    }

    /// How many machines are there.
    fn count_at(&self, address: IpAddr) -> usize {
        (0..MACHINES.len()).filter(|m| World::ip(self.address(*m)) == address).count()
    }

    fn is(&self, m: usize) -> Machine {
        let (truth, (_, names), address) = (&self.machines[m], MACHINES[m], self.address(m));
        Machine { address, name: names[truth.spelling], state: truth.number }
    }

    fn call(&self, m: usize, file: usize, svid: i32, reclaim: bool) -> Call {
        let oh = format!("{svid}@{}", self.machines[m].restarts);
        owner_call(self.is(m), (svid, &oh), FILES[file], bytes(0, 9), true, reclaim)
    }

    fn send(&mut self, m: usize, call: &Call) -> Verdict {
        let verdict = self.w.send(self.is(m), call);
        self.check();
        verdict
    }

    fn notice(&mut self, m: usize, number: i32) {
        let is = self.is(m);
        self.w.notice(is.address, is.name, number);
        self.check();
    }

    /// Nobody else's lock is gone: all that is believed to be held is held, from an address of that machine, and by
    /// one machine alone.
    fn check(&self) {
        let held = self.w.rows();
        for (m, truth) in self.machines.iter().enumerate() {
            for (file, svid) in &truth.has {
                let handle = FileHandle::new(FILES[*file].as_bytes()).unwrap();
                let of_it = held.iter().filter(|row| row.file == handle && row.owner.svid == Svid(*svid));
                let its_own = [MACHINES[m].0, AWAY[m]].map(World::ip);
                let here = of_it.filter(|row| its_own.contains(&row.owner.address.0)).count();
                assert_eq!(here, 1, "{:?} lost {file} of {svid}: {held:?}", self.is(m));
            }
        }
        let all: Vec<usize> = self.machines.iter().flat_map(|truth| truth.has.iter().map(|(file, _)| *file)).collect();
        assert_eq!(all.len(), all.iter().collect::<HashSet<_>>().len(), "an exclusive lock was granted twice");
    }

    /// Whether nothing stands between it and what it has under other spellings.
    fn is_plain(&self, m: usize) -> bool {
        let alone = MACHINES.iter().filter(|(address, _)| *address == MACHINES[m].0).count() == 1;
        alone && !self.machines[m].left_some
    }

    /// Whether the table has a lock on the file that is this process', or one that is not.
    fn has_lock(&self, file: usize, m: usize, svid: i32, its_own: bool) -> bool {
        let (handle, address) = (FileHandle::new(FILES[file].as_bytes()).unwrap(), World::ip(self.address(m)));
        let here = self.w.rows().into_iter().filter(|row| row.file == handle);
        here.map(|row| (row.owner.address.0, row.owner.svid)).any(|owner| (owner == (address, Svid(svid))) == its_own)
    }

    /// All that answer take back what they have.
    fn run(&mut self, mode: Mode, who: u8, moved: u16) {
        self.w.begin(mode);
        let moved: Vec<usize> = (0..MACHINES.len()).filter(|m| moved >> m & 1 == 1).collect();
        let was_at: Vec<IpAddr> = (0..MACHINES.len()).map(|m| World::ip(self.address(m))).collect();
        for m in &moved {
            let truth = &mut self.machines[*m];
            truth.is_away ^= true;
            // A spelling that was there before it moved away comes back with it, and may be kept apart.
            truth.left_some |= !truth.is_away && truth.restarts > 0;
        }
        let mine: Vec<(usize, usize, i32)> = self
            .machines
            .iter()
            .enumerate()
            .flat_map(|(m, truth)| truth.has.iter().map(move |(file, svid)| (m, *file, *svid)))
            .collect();
        let mut refused = Vec::new();
        for (m, file, svid) in &mine {
            self.namesakes_claim(*m, *file, *svid);
        }
        for (m, file, svid) in mine {
            let call = self.call(m, file, svid, true);
            if !moved.contains(&m) {
                assert_eq!(self.send(m, &call), Verdict::Granted, "{:?} takes back {file} of {svid}", self.is(m));
            } else if !self.reclaims_after_a_move(m, &call) {
                // What it had is kept, under its former address.
                assert!(
                    self.count_at(was_at[m]) > 0 || !self.is_plain(m) || self.machines[m].restarts > 0,
                    "{:?} lost it",
                    self.is(m)
                );
                self.machines[m].has.remove(&(file, svid));
                self.machines[m].left_some = true;
                refused.push((file, svid));
            }
        }
        for n in 0..self.w.table.run_clients().len() {
            let delivery = if who >> (n % 8) & 1 == 0 { Delivery::Acked } else { Delivery::NoAnswer };
            let client = u32::try_from(n).unwrap();
            let seen = ClientProgress { client, delivery, ago_ms: 0, suspect: false };
            let run = self.w.table.run_status(self.w.now).unwrap().run;
            let args = ProgressArgs { run, notices_begun: true, clients: List::clipped(vec![seen]) };
            self.w.table.progress(self.w.now, &args).unwrap();
        }
        self.w.pass(170);
        self.w.settle();
        self.check();
        for (file, svid) in refused {
            let handle = FileHandle::new(FILES[file].as_bytes()).unwrap();
            let kept = self.w.rows().into_iter().any(|row| row.file == handle && row.owner.svid == Svid(svid));
            assert!(kept, "what was refused to a machine that moved was dropped");
        }
        // The late window is another test's.
        self.w.pass(1_000);
        self.w.table.on_timeout(self.w.now, false);
    }

    /// Machines of this one's name claim a lock of it that they have not. They are not believed: either it answers at
    /// its address, or it has moved, and then the name's record has not theirs.
    fn namesakes_claim(&mut self, m: usize, file: usize, svid: i32) {
        let Machine { name: its_name, .. } = self.is(m);
        for other in 0..MACHINES.len() {
            let liar = self.is(other);
            if other == m || liar.address == self.address(m) || !name(liar.name).matches(&name(its_name)) {
                continue;
            }
            let call =
                owner_call(liar, (svid, &format!("{svid}@{}", self.machines[m].restarts)), FILES[file], R, true, true);
            let client = self.w.client_at(World::ip(liar.address), liar.name);
            let caller = Caller { client, via: via(Transport::Tcp) };
            let verdict = match self.w.call_as(caller, &call) {
                Handled::HasMoved(_) => self.w.table.handle_after(self.w.now, caller, &call, OtherDomain::NotMoved),
                handled => handled,
            };
            assert_eq!(verdict, Handled::Reply(Verdict::Denied), "{liar:?} gets {file} of {:?}", self.is(m));
            self.w.check();
            self.check();
        }
    }

    fn said_of(&self, question: &Move) -> OtherDomain {
        if self.count_at(question.from) == 0 { OtherDomain::Moved(question.client) } else { OtherDomain::NotMoved }
    }

    fn reclaims_after_a_move(&mut self, m: usize, call: &Call) -> bool {
        let is = self.is(m);
        let client = self.w.client_at(World::ip(is.address), is.name);
        let caller = Caller { client, via: via(Transport::Tcp) };
        let handled = match self.w.call_as(caller, call) {
            Handled::HasMoved(question) => self.w.table.handle_after(self.w.now, caller, call, self.said_of(&question)),
            handled => handled,
        };
        self.w.check();
        handled == Handled::Reply(Verdict::Granted)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lock(m, file, svid) => {
                let call = self.call(m, file, svid, false);
                if self.w.send(self.is(m), &call) == Verdict::Granted {
                    self.machines[m].has.insert((file, svid));
                } else if self.is_plain(m) {
                    assert!(self.has_lock(file, m, svid, false), "{:?} is denied by its own lock", self.is(m));
                }
            }
            Step::Unlock(m, file, svid) => {
                let Call::Lock { wanted, .. } = self.call(m, file, svid, false) else { panic!("a LOCK") };
                self.machines[m].has.remove(&(file, svid));
                self.send(m, &Call::Unlock(wanted));
                assert!(!self.is_plain(m) || !self.has_lock(file, m, svid, true), "{:?} left a lock", self.is(m));
            }
            Step::FreeAll(m) => {
                self.machines[m].has.clear();
                self.machines[m].left_some |= self.machines[m].restarts > 0;
                self.send(m, &Call::FreeAll);
            }
            Step::Reboot(m, told) => {
                self.machines[m].has.clear();
                self.machines[m].number += 2;
                self.machines[m].left_some |= !told;
                if told {
                    self.notice(m, self.machines[m].number);
                }
            }
            Step::Repeat(m) => self.notice(m, self.machines[m].number),
            Step::Late(m) => self.notice(m, self.machines[m].number - 2),
            Step::Respell(m, spelling) => {
                let truth = &mut self.machines[m];
                truth.spelling = spelling;
                // A former spelling that comes back may be kept apart.
                let comes_back = spelling == 3 && truth.restarts > 0;
                truth.left_some |= comes_back;
                truth.restarts = if comes_back { truth.restarts - 1 } else { truth.restarts + 1 };
            }
            Step::Run(mode, who, moved) => self.run(mode, who, moved),
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn nobody_gets_or_frees_what_another_machine_has_and_who_reclaims_keeps_its_locks(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut reality = Reality::new();
        for step in steps {
            reality.step(step);
        }
    }
}

/// As any former spelling that comes back it is kept apart: a lock may stay, and then its client is a suspect.
#[test]
fn what_a_machine_leaves_after_it_moved_away_and_back_under_new_handles_makes_it_a_suspect() {
    let mut reality = Reality::new();
    let locks = [Step::Lock(2, 0, 2), Step::Respell(2, 0), Step::Lock(2, 0, 2), Step::Lock(6, 1, 2)];
    let moves = [0, 1 << 2, 1 << 2].map(|moved| Step::Run(Mode::Strict, 0, moved));
    for step in locks.into_iter().chain(moves).chain([Step::Respell(2, 0), Step::Unlock(2, 0, 2)]) {
        reality.step(step);
    }
    assert!(
        !reality.has_lock(0, 2, 2, true) || reality.w.suspects().contains(&"app.example.org 2001:db8::1".to_owned())
    );
}
