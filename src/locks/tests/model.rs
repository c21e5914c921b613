//! Random histories against the [naive](super::naive) table: they must agree on each verdict and each offer, and after
//! each step hold the same.

use proptest::prelude::*;

use super::naive::{Ask, BYTES, Locks, Naive};
use super::*;

const PROCESSES: [P; 4] = [P("a", 1), P("a", 2), P("b", 1), P("c", 1)];
/// Its locks are not monitored.
const UNMONITORED: usize = 1;
const FILES: [&str; 2] = ["f", "g"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock(Ask),
    Wait(Ask),
    Reclaim(Ask),
    Unlock(Ask),
    Cancel(Ask),
    Test(Ask),
    /// To one of those that are offered something.
    Answer(usize, OfferAnswer),
    /// Of the client of that process: it begins another life.
    Reboot(usize),
    /// Of the client's present life.
    Notice(usize),
    FreeAll(usize),
    Release(usize),
    Begin(Begin),
    Ack(usize),
    NoAnswer(usize),
    Abort,
    /// All of it.
    Settle,
    /// The result is being written from now on.
    Freeze,
    /// It is not written.
    Thaw,
    Commit,
    /// Some of what was dropped is swept.
    Sweep,
}

#[derive(Debug, Clone, Copy)]
struct Begin {
    mode: Mode,
    /// To drop what clients have that cannot be reached.
    consent: bool,
    include_unmonitored: bool,
    scope: Covered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covered {
    Everything,
    Client(&'static str),
    File(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let process = || 0..PROCESSES.len();
    let ask = || {
        let file = prop_oneof![4 => Just(0_u64), 1 => Just(1)];
        (process(), file, 0..BYTES, 0..BYTES, any::<bool>()).prop_map(|(process, file, a, b, exclusive)| {
            let range = bytes(file * BYTES + a.min(b), file * BYTES + a.max(b));
            Ask { process, range, exclusive }
        })
    };
    let scope = prop_oneof![
        4 => Just(Covered::Everything),
        1 => process().prop_map(|p| Covered::Client(PROCESSES[p].0)),
        1 => (0..2_u64).prop_map(Covered::File),
    ];
    let begin = (any::<bool>(), any::<bool>(), any::<bool>(), scope).prop_map(|(strict, consent, all, scope)| {
        let mode = if strict && scope == Covered::Everything { Mode::Strict } else { Mode::Targeted };
        Begin { mode, consent, include_unmonitored: all, scope }
    });
    let answer = prop_oneof![Just(OfferAnswer::Accepted), Just(OfferAnswer::Refused), Just(OfferAnswer::Unclear)];
    prop_oneof![
        6 => ask().prop_map(Step::Lock),
        8 => ask().prop_map(Step::Wait),
        6 => ask().prop_map(Step::Reclaim),
        4 => ask().prop_map(Step::Unlock),
        1 => ask().prop_map(Step::Cancel),
        2 => ask().prop_map(Step::Test),
        4 => (0..4_usize, answer).prop_map(|(n, answer)| Step::Answer(n, answer)),
        1 => process().prop_map(Step::Reboot),
        2 => process().prop_map(Step::Notice),
        1 => process().prop_map(Step::FreeAll),
        1 => process().prop_map(Step::Release),
        3 => begin.prop_map(Step::Begin),
        3 => process().prop_map(Step::Ack),
        1 => process().prop_map(Step::NoAnswer),
        1 => Just(Step::Abort),
        1 => Just(Step::Settle),
        2 => Just(Step::Freeze),
        1 => Just(Step::Thaw),
        2 => Just(Step::Commit),
        2 => Just(Step::Sweep),
    ]
}

/// Steps, of which some take up an ask of before: as a resend, a CANCEL, an UNLOCK or a reclaim of exactly that.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let again = prop::option::weighted(0.3, (0..6_usize, 0..4_u8));
    prop::collection::vec((step(), again), 1..60).prop_map(|drawn| {
        let mut asks = Vec::new();
        let mut steps = Vec::new();
        for (step, again) in drawn {
            let old = again.and_then(|(ago, what)| Some((*asks.iter().rev().nth(ago)?, what)));
            let step = match old {
                Some((ask, 0)) => Step::Wait(ask),
                Some((ask, 1)) => Step::Cancel(ask),
                Some((ask, 2)) => Step::Unlock(ask),
                Some((ask, _)) => Step::Reclaim(ask),
                None => step,
            };
            if let Step::Lock(ask) | Step::Wait(ask) = step {
                asks.push(ask);
            }
            steps.push(step);
        }
        steps
    })
}

fn place_of(name: &str, svid: i32) -> usize {
    PROCESSES.iter().position(|p| p.0 == name && p.1 == svid).unwrap()
}

fn file_handle(file: u64) -> FileHandle {
    FileHandle::new(FILES[usize::try_from(file).unwrap()].as_bytes()).unwrap()
}

/// Where the file begins among all bytes.
fn first_byte_of(handle: &FileHandle) -> u64 {
    (0..2).find(|file| file_handle(*file) == *handle).unwrap() * BYTES
}

/// The table beside the naive one.
struct Pair {
    w: World,
    naive: Naive,
    /// What the table offers, and neither is answered nor taken back.
    offers: BTreeMap<OfferId, Ask>,
    /// Those of them that were answered while the result was being written.
    answered: HashSet<OfferId>,
    told: HashMap<&'static str, Delivery>,
    consent: bool,
    /// Who loses something by the result that is being written.
    lost: HashSet<&'static str>,
    /// Who accepted an offer while it was.
    claimed: HashSet<&'static str>,
    /// The NSM state number of each client.
    lives: HashMap<&'static str, i32>,
}

impl Pair {
    fn new() -> Self {
        let mut w = World::new();
        for process in PROCESSES {
            w.client(process.0);
        }
        Self {
            w,
            naive: Naive::default(),
            offers: BTreeMap::new(),
            answered: HashSet::new(),
            told: HashMap::new(),
            consent: false,
            lost: HashSet::new(),
            claimed: HashSet::new(),
            lives: PROCESSES.into_iter().map(|process| (process.0, 3)).collect(),
        }
    }

    fn life(&self, process: usize) -> i32 {
        self.lives[PROCESSES[process].0]
    }

    /// What the table answers; `None` if the call has to wait for the end of the settle.
    fn call(&mut self, process: usize, call: &Call) -> Option<Verdict> {
        match self.w.call(PROCESSES[process], call) {
            Handled::Reply(verdict) => Some(verdict),
            Handled::Wait => None,
            other => panic!("{other:?}"),
        }
    }

    fn lock(&mut self, ask: Ask, block: bool, reclaim: bool) -> Option<Verdict> {
        let call = Call::Lock {
            wanted: Self::wanted(ask),
            block,
            reclaim,
            monitored: ask.process != UNMONITORED,
            state: NsmState(self.life(ask.process)),
            cookie: Cookie::new(b"c").unwrap(),
        };
        self.call(ask.process, &call)
    }

    fn wanted(Ask { process, range: ByteRange { start, end }, exclusive }: Ask) -> Wanted {
        let file = start / BYTES;
        let range = bytes(start - file * BYTES, end - file * BYTES);
        wanted(PROCESSES[process], FILES[usize::try_from(file).unwrap()], range, exclusive)
    }

    fn play(&mut self, step: Step) {
        let (running, frozen) = (self.naive.mode.is_some(), self.naive.frozen);
        match step {
            Step::Lock(ask) => {
                assert_eq!(self.lock(ask, false, false), self.naive.lock(ask, self.life(ask.process), false));
            }
            Step::Wait(ask) => {
                assert_eq!(self.lock(ask, true, false), self.naive.lock(ask, self.life(ask.process), true));
            }
            Step::Reclaim(ask) => {
                assert_eq!(self.lock(ask, false, true), self.naive.reclaim(ask, self.life(ask.process)));
            }
            Step::Unlock(ask) => {
                assert_eq!(self.call(ask.process, &Call::Unlock(Self::wanted(ask))), self.naive.unlock(ask));
            }
            Step::Cancel(ask) => {
                assert_eq!(self.call(ask.process, &Call::Cancel(Self::wanted(ask))), self.naive.cancel(ask));
            }
            Step::Test(ask) => {
                let verdict = self.call(ask.process, &Call::Test(Self::wanted(ask)));
                let finds = verdict.map(|verdict| matches!(verdict, Verdict::Holder(_)));
                assert_eq!(finds, (!self.naive.is_frozen(ask)).then(|| self.naive.is_in_conflict(ask)));
            }
            Step::Answer(n, answer) => {
                let mut offers = self.offers.iter().filter(|(offer, _)| !self.answered.contains(offer));
                let Some((offer, ask)) = offers.nth(n).map(|(offer, ask)| (*offer, *ask)) else { return };
                self.answered.insert(offer);
                self.w.answer(offer, answer);
                self.naive.answer_to(ask, answer);
            }
            Step::Reboot(p) => *self.lives.get_mut(PROCESSES[p].0).unwrap() += 2,
            Step::Notice(p) => {
                let (client, life) = (PROCESSES[p].0, self.life(p));
                let its = |q: usize| PROCESSES[q].0 == client;
                let outcome = self.w.table.reboot_notice(World::address(client), &name(client), NsmState(life));
                self.w.check();
                assert_eq!(outcome == Reboot::Wait, frozen && self.naive.has_undecided(its));
                if outcome != Reboot::Wait {
                    self.naive.forget(its, life);
                }
            }
            Step::FreeAll(p) => {
                let its = |q: usize| PROCESSES[q].0 == PROCESSES[p].0;
                let waits = frozen && self.naive.has_undecided(its);
                assert_eq!(self.call(p, &Call::FreeAll), (!waits).then_some(Verdict::Granted));
                if !waits {
                    self.naive.forget(its, i32::MAX);
                }
            }
            Step::Release(p) => {
                self.sweep();
                let client = PROCESSES[p].0;
                let released = self.w.release_all_of(client);
                assert_eq!(released.is_ok(), !running, "{released:?}");
                if released.is_ok() {
                    self.naive.forget(|q| PROCESSES[q].0 == client, i32::MAX);
                }
            }
            Step::Begin(begin) if !running => self.begin(begin),
            Step::Ack(p) if running && !frozen => self.tell(PROCESSES[p].0, Delivery::Acked),
            Step::NoAnswer(p) if running && !frozen => self.tell(PROCESSES[p].0, Delivery::NoAnswer),
            Step::Abort if running && !frozen => {
                self.w.table.abort(0, "test").unwrap();
                self.w.check();
                self.naive.end(|_| false, |_| false);
                self.close_late_window();
            }
            Step::Settle if running && !frozen => {
                self.freeze();
                self.commit();
                self.sweep();
            }
            Step::Freeze if running && !frozen => self.freeze(),
            Step::Thaw if frozen => self.cancel(),
            Step::Commit if frozen => {
                let gone: Vec<&str> =
                    self.naive.accepting().filter(|p| self.is_gone(*p)).map(|p| PROCESSES[p].0).collect();
                assert_eq!(self.w.table.was_accepted_in_time(), !gone.is_empty());
                if gone.is_empty() {
                    self.commit();
                } else {
                    self.claimed.extend(gone);
                    self.cancel();
                }
            }
            Step::Sweep => {
                self.w.table.settle_sweep(1);
                self.w.check();
            }
            Step::Begin(_)
            | Step::Ack(_)
            | Step::NoAnswer(_)
            | Step::Abort
            | Step::Settle
            | Step::Freeze
            | Step::Thaw
            | Step::Commit => {}
        }
    }

    fn begin(&mut self, Begin { mode, consent, include_unmonitored, scope }: Begin) {
        let mut args = self.w.begin_args(mode);
        args.policy.include_unmonitored = include_unmonitored;
        match scope {
            Covered::Everything => {}
            Covered::Client(client) => args.scope.clients = List::clipped(vec![client_ref(client)]),
            Covered::File(file) => args.scope.files = List::clipped(vec![file_handle(file)]),
        }
        if consent {
            args.policy.unreachable = Unreachable::Drop;
            args.may_drop = List::clipped(["a", "b", "c"].map(client_ref).to_vec());
        }
        self.w.begin_with(&args);
        self.told.clear();
        self.claimed.clear();
        self.consent = consent;
        let covers = |(process, byte, _): (usize, u64, bool)| {
            let is_its = match scope {
                Covered::Everything => true,
                Covered::Client(client) => PROCESSES[process].0 == client,
                Covered::File(file) => byte / BYTES == file,
            };
            is_its && (include_unmonitored || process != UNMONITORED)
        };
        self.naive.begin(mode, covers);
    }

    /// Unless the run is about others.
    fn tell(&mut self, client: &'static str, delivery: Delivery) {
        if self.w.table.run_clients().iter().any(|c| c.name == name(client)) {
            self.w.tell(client, delivery);
            // It has acked if it did once.
            let told = self.told.entry(client).or_insert(delivery);
            *told = if delivery == Delivery::Acked { delivery } else { *told };
        }
    }

    /// Whether it counts as gone: it could not be reached, and nothing of it came back.
    fn is_gone(&self, process: usize) -> bool {
        let client = PROCESSES[process].0;
        let came_back = || self.naive.came_back.iter().any(|p| PROCESSES[*p].0 == client);
        let told = self.told.get(client);
        self.consent && told == Some(&Delivery::NoAnswer) && !came_back() && !self.claimed.contains(client)
    }

    fn freeze(&mut self) {
        self.w.pass(60);
        self.w.table.settle_start(self.w.now, SettleWhen::Always, false, "test").unwrap();
        while !self.w.table.settle_scan(1) {}
        let result = self.w.table.settle_result(0).unwrap().join();
        let c = result.result.counts;
        assert_eq!(c.in_scope, c.reclaimed + c.released + c.dropped + c.kept, "{c:?}");
        // Who loses something is the policy's word; here only that the table does as it says.
        let dropped = result.locks.as_slice().iter().filter(|r| r.fate == Fate::Dropped);
        self.lost = dropped.map(|r| PROCESSES.iter().find(|p| p.0 == r.owner.name.as_str()).unwrap().0).collect();
        let no_answer = |client: &str| self.consent && self.told.get(client) == Some(&Delivery::NoAnswer);
        let may_lose = |client: &str| self.told.get(client) == Some(&Delivery::Acked) || no_answer(client);
        assert!(self.lost.iter().all(|client| may_lose(client)), "dropped of one that never acked: {:?}", self.lost);
        self.naive.frozen = true;
    }

    fn cancel(&mut self) {
        self.w.table.settle_cancel();
        self.w.check();
        self.naive.thaw();
    }

    fn commit(&mut self) {
        self.w.table.settle_commit();
        self.w.check();
        let gone: Vec<bool> = (0..PROCESSES.len()).map(|p| self.is_gone(p)).collect();
        self.naive.end(|p| self.lost.contains(PROCESSES[p].0), |p| gone[p]);
        self.close_late_window();
    }

    /// That window is another test's.
    fn close_late_window(&mut self) {
        self.w.pass(1_000);
        self.w.table.on_timeout(self.w.now, false);
    }

    fn sweep(&mut self) {
        while !self.w.table.settle_sweep(1) {
            self.w.check();
        }
        self.w.check();
    }

    /// The offers that were made and taken back in the last step.
    fn take_effects(&mut self) {
        for effect in std::mem::take(&mut self.w.effects) {
            match effect {
                Effect::Offer { offer, caller, wanted, .. } => {
                    let client = self.w.table.client(caller.client).unwrap();
                    let process = place_of(client.name.as_str(), wanted.process.svid.0);
                    let before = first_byte_of(&wanted.file);
                    let range = bytes(before + wanted.range.start, before + wanted.range.end);
                    self.offers.insert(offer, Ask { process, range, exclusive: wanted.exclusive });
                }
                Effect::Withdraw(offer) => {
                    self.offers.remove(&offer);
                    self.answered.remove(&offer);
                }
                _ => {}
            }
        }
    }

    fn compare(&mut self) {
        self.take_effects();
        // Until all is swept, who waited for what was dropped is not served but where a call comes.
        if self.w.table.has_more_to_sweep() {
            return;
        }
        assert_eq!(self.offers.values().copied().collect::<Vec<_>>(), self.naive.offers(), "what is offered");
        let (mut held, mut pending, mut offered) = (Locks::new(), Locks::new(), BTreeMap::new());
        let table = &self.w.table;
        for file in table.segments().files() {
            let handle = table.segments().handle(file).unwrap();
            let before = first_byte_of(handle);
            for segment in table.segments().of(file) {
                let key = table.owners.key(segment.owner).unwrap();
                let client = table.client(key.client).unwrap();
                let process = place_of(client.name.as_str(), key.process.svid.0);
                let exclusive = segment.kind == Kind::Range { exclusive: true };
                let is_pending = table.is_pending(file, segment);
                for byte in segment.range.start..=segment.range.end {
                    let (place, life) = ((process, before + byte, exclusive), segment.state.0);
                    let two = if segment.offered {
                        offered.insert(place, (life, is_pending)).is_some()
                    } else {
                        (if is_pending { &mut pending } else { &mut held }).insert(place, life).is_some()
                    };
                    assert!(!two, "two of one owner that are alike at {place:?}");
                }
            }
        }
        let naive = self.naive.offered.iter().map(|(place, o)| (*place, (o.life, o.pending)));
        assert_eq!(offered, naive.collect(), "offered");
        assert_eq!(held, self.naive.held, "held");
        assert_eq!(pending, self.naive.pending, "pending");
    }
}

fn play(steps: &[Step]) {
    let mut pair = Pair::new();
    for step in steps {
        pair.play(*step);
        pair.compare();
    }
    pair.sweep();
    pair.compare();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_the_naive_model(steps in steps()) {
        play(&steps);
    }
}

#[test]
fn a_client_that_is_taken_for_gone_waits_for_nothing_also_before_that_is_swept() {
    let ask = |process, exclusive| Ask { process, range: bytes(0, 0), exclusive };
    let (gone, other) = (ask(0, true), ask(3, true));
    let begin = Begin { mode: Mode::Targeted, consent: true, include_unmonitored: false, scope: Covered::Everything };
    let run = [Step::Begin(begin), Step::NoAnswer(gone.process), Step::Freeze, Step::Commit];
    for then in [
        vec![],
        vec![Step::Cancel(gone)],
        vec![Step::Unlock(gone)],
        // Asked for again: its place is behind who waited all the time.
        vec![Step::Wait(gone)],
        vec![Step::Lock(gone), Step::Wait(gone), Step::Sweep],
        vec![Step::Test(gone), Step::Wait(gone)],
    ] {
        let free = Step::Unlock(ask(2, false));
        let steps = [Step::Lock(ask(2, false)), Step::Wait(gone), Step::Wait(other)].into_iter().chain(run);
        play(&steps.chain(then).chain([free]).collect::<Vec<_>>());
    }
}
