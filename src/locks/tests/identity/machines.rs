//! Random machines, against an oracle that knows which machine each message is of.
//!
//! Machines have an address (some share one, behind a NAT), a name (some share one, some have the other's short
//! form), a number of their life, and processes that all of them number alike. They lock, unlock, reboot, tell of
//! it (late, repeated, or not at all), change the spelling of their name and their owner handles, and reclaim in
//! runs what they believe they have. The table knows only what they say. A machine that is alone at its address, and
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
    /// A run in which all of these reclaim what they have.
    Run(Mode, u8),
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
        3 => (prop_oneof![Just(Mode::Strict), Just(Mode::Targeted)], any::<u8>()).prop_map(|(mode, who)| Step::Run(mode, who)),
    ]
}

/// Address, and the spellings of the name. Two machines behind one address have unlike names: such that are
/// alike cannot be told apart by anything.
const MACHINES: [(&str, [&str; 4]); 7] = [
    ("192.0.2.1", ["app", "APP", "app.example.org", "app."]),
    ("192.0.2.2", ["app", "app.example.org", "App", "app"]),
    ("2001:db8::1", ["app.example.org", "app", "app.example.org.", "APP"]),
    ("192.0.2.9", ["one", "One", "one.", "one.example.org"]),
    ("192.0.2.9", ["two", "TWO", "two.example.org", "two."]),
    ("192.0.2.9", ["three.example.org", "three.example.org.", "three", "THREE"]),
    ("192.0.2.4", ["mac.local", "mac", "MAC.local", "mac.local."]),
];

/// A machine as it really is.
#[derive(Debug)]
struct Truth {
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
        let truth = |_| Truth { spelling: 0, restarts: 0, number: 3, left_some: false, has: BTreeSet::new() };
        Self { w: World::new(), machines: (0..MACHINES.len()).map(truth).collect() }
    }

    fn is(&self, m: usize) -> Machine {
        let (truth, (address, names)) = (&self.machines[m], MACHINES[m]);
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

    /// Nobody else's lock is gone: all that is believed to be held is held, from that machine's address, and by
    /// one machine alone.
    fn check(&self) {
        let held = self.w.rows();
        for (m, truth) in self.machines.iter().enumerate() {
            for (file, svid) in &truth.has {
                let handle = FileHandle::new(FILES[*file].as_bytes()).unwrap();
                let of_it = held.iter().filter(|row| row.file == handle && row.owner.svid == Svid(*svid));
                let here = of_it.filter(|row| row.owner.address.0 == World::ip(MACHINES[m].0)).count();
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
        let (handle, address) = (FileHandle::new(FILES[file].as_bytes()).unwrap(), World::ip(MACHINES[m].0));
        let here = self.w.rows().into_iter().filter(|row| row.file == handle);
        here.map(|row| (row.owner.address.0, row.owner.svid)).any(|owner| (owner == (address, Svid(svid))) == its_own)
    }

    /// All that answer take back what they have.
    fn run(&mut self, mode: Mode, who: u8) {
        self.w.begin(mode);
        let mine: Vec<(usize, usize, i32)> = self
            .machines
            .iter()
            .enumerate()
            .flat_map(|(m, truth)| truth.has.iter().map(move |(file, svid)| (m, *file, *svid)))
            .collect();
        for (m, file, svid) in mine {
            let call = self.call(m, file, svid, true);
            assert_eq!(self.send(m, &call), Verdict::Granted, "{:?} takes back {file} of {svid}", self.is(m));
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
        // The late window is another test's.
        self.w.pass(1_000);
        self.w.table.on_timeout(self.w.now, false);
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
            Step::Run(mode, who) => self.run(mode, who),
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
