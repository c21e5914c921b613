//! Random histories against a naive model: for every byte and owner, what it may believe it has.
//!
//! The model knows three things per owner and byte: what a grant promised and no unlock took back
//! (`held`), what was held when the run began and is not decided (`pending`), and it predicts every
//! verdict. The table must agree on each verdict, and at the end of a run must still hold all that
//! was promised.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BYTES: u64 = 6;
const PROCESSES: [P; 4] = [P("a", 1), P("a", 2), P("b", 1), P("c", 1)];

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock(usize, u64, u64, bool),
    Reclaim(usize, u64, u64, bool),
    Unlock(usize, u64, u64),
    Test(usize, u64, u64, bool),
    Reboot(usize),
    Release(usize),
    Begin(Mode),
    Ack(usize),
    Abort,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..PROCESSES.len(), 0..BYTES, 0..BYTES).prop_map(|(p, a, b)| (p, a.min(b), a.max(b)));
    prop_oneof![
        8 => (range.clone(), any::<bool>()).prop_map(|((p, a, b), x)| Step::Lock(p, a, b, x)),
        8 => (range.clone(), any::<bool>()).prop_map(|((p, a, b), x)| Step::Reclaim(p, a, b, x)),
        4 => range.clone().prop_map(|(p, a, b)| Step::Unlock(p, a, b)),
        2 => (range, any::<bool>()).prop_map(|((p, a, b), x)| Step::Test(p, a, b, x)),
        1 => (0..PROCESSES.len()).prop_map(Step::Reboot),
        1 => (0..PROCESSES.len()).prop_map(Step::Release),
        2 => prop_oneof![Just(Mode::Strict), Just(Mode::Targeted)].prop_map(Step::Begin),
        3 => (0..PROCESSES.len()).prop_map(Step::Ack),
        1 => Just(Step::Abort),
        1 => Just(Step::Settle),
    ]
}

/// Exclusive or not, per owner and byte.
type Bytes = BTreeMap<(usize, u64), bool>;

#[derive(Debug, Default)]
struct Model {
    held: Bytes,
    pending: Bytes,
    mode: Option<Mode>,
}

impl Model {
    fn conflict(bytes: &Bytes, process: usize, range: ByteRange, exclusive: bool) -> bool {
        bytes.iter().any(|((p, n), x)| *p != process && (range.start..=range.end).contains(n) && (*x || exclusive))
    }

    fn has(bytes: &Bytes, process: usize, byte: u64, exclusive: bool) -> bool {
        bytes.get(&(process, byte)).is_some_and(|x| *x || !exclusive)
    }

    fn lock(&mut self, process: usize, range: ByteRange, exclusive: bool) -> Verdict {
        if self.mode == Some(Mode::Strict) || Self::conflict(&self.pending, process, range, exclusive) {
            return Verdict::Grace;
        }
        if Self::conflict(&self.held, process, range, exclusive) {
            return Verdict::Denied;
        }
        for byte in range.start..=range.end {
            self.pending.remove(&(process, byte));
            self.held.insert((process, byte), exclusive);
        }
        Verdict::Granted
    }

    fn reclaim(&mut self, process: usize, range: ByteRange, exclusive: bool) -> Verdict {
        let others = |bytes: &Bytes| Self::conflict(bytes, process, range, exclusive);
        if others(&self.held) || others(&self.pending) {
            return Verdict::Denied;
        }
        let all = (range.start..=range.end).all(|byte| Self::has(&self.held, process, byte, exclusive));
        if self.mode.is_none() && !all {
            return Verdict::Grace;
        }
        for byte in range.start..=range.end {
            if self.pending.get(&(process, byte)).is_some_and(|x| exclusive || !*x) {
                self.pending.remove(&(process, byte));
            }
            if !Self::has(&self.held, process, byte, exclusive) {
                self.held.insert((process, byte), exclusive);
            }
        }
        Verdict::Granted
    }

    fn forget(&mut self, accept: impl Fn(usize, u64) -> bool) {
        self.held.retain(|(p, n), _| !accept(*p, *n));
        self.pending.retain(|(p, n), _| !accept(*p, *n));
    }

    /// The run is over; what is kept is held, in the stronger of the two modes.
    fn end(&mut self, keep: impl Fn(usize) -> bool) {
        for ((p, n), x) in std::mem::take(&mut self.pending) {
            if keep(p) {
                *self.held.entry((p, n)).or_insert(x) |= x;
            }
        }
        self.mode = None;
    }
}

/// What the table holds, per owner and byte; the stronger where two of one owner lie on each other.
fn really_held(w: &World) -> Bytes {
    let mut bytes = Bytes::new();
    for row in w.rows() {
        let process = PROCESSES.iter().position(|p| p.0 == row.owner.name.as_str() && p.1 == row.owner.svid.0).unwrap();
        for byte in row.range.start..=row.range.end {
            *bytes.entry((process, byte)).or_insert(false) |= row.kind == crate::wire::control::LockKind::Exclusive;
        }
    }
    bytes
}

#[expect(clippy::many_single_char_names, reason = "p, a, b, x: process, first and last byte, exclusive")]
fn play(steps: &[Step]) {
    let mut w = World::new();
    for process in PROCESSES {
        w.client(process.0);
    }
    let mut model = Model::default();
    let mut acked: HashSet<&str> = HashSet::new();
    let mut boots = 100;
    for step in steps {
        match *step {
            Step::Lock(p, a, b, x) => {
                let call = World::lock_call(PROCESSES[p], "f", bytes(a, b), x, false, false);
                assert_eq!(w.verdict(PROCESSES[p], &call), model.lock(p, bytes(a, b), x), "{step:?}");
            }
            Step::Reclaim(p, a, b, x) => {
                let call = World::lock_call(PROCESSES[p], "f", bytes(a, b), x, false, true);
                assert_eq!(w.verdict(PROCESSES[p], &call), model.reclaim(p, bytes(a, b), x), "{step:?}");
            }
            Step::Unlock(p, a, b) => {
                assert_eq!(w.unlock(PROCESSES[p], "f", bytes(a, b)), Verdict::Granted);
                model.forget(|q, n| q == p && (a..=b).contains(&n));
            }
            Step::Test(p, a, b, x) => {
                let conflict = Model::conflict(&model.held, p, bytes(a, b), x)
                    || Model::conflict(&model.pending, p, bytes(a, b), x);
                let verdict = w.test(PROCESSES[p], "f", bytes(a, b), x);
                assert_eq!(matches!(verdict, Verdict::Holder(_)), conflict, "{step:?}");
            }
            Step::Reboot(p) => {
                boots += 2;
                let client = PROCESSES[p].0;
                w.table.reboot_notice(World::address(client), &name(client), NsmState(boots));
                w.check();
                model.forget(|q, _| PROCESSES[q].0 == client);
            }
            Step::Release(p) => {
                let client = PROCESSES[p].0;
                let released = w.release_all_of(client);
                assert_eq!(released.is_ok(), model.mode.is_none(), "{step:?} {released:?}");
                if released.is_ok() {
                    model.forget(|q, _| PROCESSES[q].0 == client);
                }
            }
            Step::Begin(mode) if model.mode.is_none() => {
                w.begin(mode);
                acked.clear();
                model.mode = Some(mode);
                model.pending = std::mem::take(&mut model.held);
            }
            Step::Ack(p) if model.mode.is_some() => {
                w.tell(PROCESSES[p].0, Delivery::Acked);
                acked.insert(PROCESSES[p].0);
            }
            Step::Abort if model.mode.is_some() => {
                w.table.abort(0, "test").unwrap();
                w.check();
                model.end(|_| true);
                // Its late window is another test's.
                w.pass(1_000);
                w.table.on_timeout(w.now, false);
            }
            Step::Settle if model.mode.is_some() => {
                w.pass(60);
                let result = w.settle();
                let c = result.result.counts;
                assert_eq!(c.in_scope, c.reclaimed + c.released + c.dropped + c.kept, "{c:?}");
                // Who loses something is the policy's word; here only that the table does as it says.
                let lost: HashSet<&str> = result
                    .locks
                    .as_slice()
                    .iter()
                    .filter(|r| r.fate == Fate::Dropped)
                    .map(|r| PROCESSES.iter().find(|p| p.0 == r.owner.name.as_str()).unwrap().0)
                    .collect();
                assert!(lost.is_subset(&acked), "dropped of a client that never acked: {lost:?}");
                model.end(|p| !lost.contains(PROCESSES[p].0));
                w.pass(1_000);
                w.table.on_timeout(w.now, false);
            }
            Step::Begin(_) | Step::Ack(_) | Step::Abort | Step::Settle => {}
        }
        let mut all = model.held.clone();
        for (key, exclusive) in &model.pending {
            *all.entry(*key).or_insert(*exclusive) |= exclusive;
        }
        assert_eq!(really_held(&w), all, "after {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..60)) {
        play(&steps);
    }
}
