//! Random histories against the [naive](super::naive) table: they must agree on each verdict and each offer, and after
//! each step hold the same.

use proptest::prelude::*;

use super::naive::{Ask, Locks, Naive};
use super::*;

const BYTES: u64 = 6;
const PROCESSES: [P; 4] = [P("a", 1), P("a", 2), P("b", 1), P("c", 1)];

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
    /// With consent to drop what clients have that cannot be reached, or without.
    Begin(Mode, bool),
    Ack(usize),
    NoAnswer(usize),
    Abort,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let process = || 0..PROCESSES.len();
    let ask = || {
        (process(), 0..BYTES, 0..BYTES, any::<bool>()).prop_map(|(process, a, b, exclusive)| {
            let range = bytes(a.min(b), a.max(b));
            Ask { process, range, exclusive }
        })
    };
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
        2 => (prop_oneof![Just(Mode::Strict), Just(Mode::Targeted)], any::<bool>())
            .prop_map(|(mode, consent)| Step::Begin(mode, consent)),
        3 => process().prop_map(Step::Ack),
        1 => process().prop_map(Step::NoAnswer),
        1 => Just(Step::Abort),
        1 => Just(Step::Settle),
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

/// The table beside the naive one.
struct Pair {
    w: World,
    naive: Naive,
    /// What the table offers, and neither is answered nor taken back.
    offers: BTreeMap<OfferId, Ask>,
    told: HashMap<&'static str, Delivery>,
    consent: bool,
    /// The NSM state number of each client.
    lives: HashMap<&'static str, i32>,
}

impl Pair {
    fn new() -> Self {
        let mut w = World::new();
        for process in PROCESSES {
            w.client(process.0);
        }
        let lives = PROCESSES.into_iter().map(|process| (process.0, 3)).collect();
        Self { w, naive: Naive::default(), offers: BTreeMap::new(), told: HashMap::new(), consent: false, lives }
    }

    fn life(&self, process: usize) -> i32 {
        self.lives[PROCESSES[process].0]
    }

    fn lock(&mut self, ask: Ask, block: bool, reclaim: bool) -> Verdict {
        let process = PROCESSES[ask.process];
        let mut call = World::lock_call(process, "f", ask.range, ask.exclusive, block, reclaim);
        let Call::Lock { state, .. } = &mut call else { panic!("a LOCK") };
        *state = NsmState(self.life(ask.process));
        self.w.verdict(process, &call)
    }

    fn wanted(Ask { process, range, exclusive }: Ask) -> Wanted {
        wanted(PROCESSES[process], "f", range, exclusive)
    }

    fn play(&mut self, step: Step) {
        let running = self.naive.mode.is_some();
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
                let call = Call::Unlock(Self::wanted(ask));
                assert_eq!(self.w.verdict(PROCESSES[ask.process], &call), Verdict::Granted);
                self.naive.unlock(ask);
            }
            Step::Cancel(ask) => {
                let call = Call::Cancel(Self::wanted(ask));
                assert_eq!(self.w.verdict(PROCESSES[ask.process], &call), self.naive.cancel(ask));
            }
            Step::Test(ask) => {
                let verdict = self.w.verdict(PROCESSES[ask.process], &Call::Test(Self::wanted(ask)));
                assert_eq!(matches!(verdict, Verdict::Holder(_)), self.naive.is_in_conflict(ask));
            }
            Step::Answer(n, answer) => {
                let Some((offer, ask)) = self.offers.iter().nth(n).map(|(offer, ask)| (*offer, *ask)) else { return };
                let place = self.naive.offers().iter().position(|other| *other == ask).unwrap();
                self.offers.remove(&offer);
                self.w.answer(offer, answer);
                self.naive.answer_nth(place, answer);
            }
            Step::Reboot(p) => *self.lives.get_mut(PROCESSES[p].0).unwrap() += 2,
            Step::Notice(p) => {
                let (client, life) = (PROCESSES[p].0, self.life(p));
                self.w.table.reboot_notice(World::address(client), &name(client), NsmState(life));
                self.w.check();
                self.naive.forget(|q| PROCESSES[q].0 == client, life);
            }
            Step::FreeAll(p) => {
                assert_eq!(self.w.verdict(PROCESSES[p], &Call::FreeAll), Verdict::Granted);
                self.naive.forget(|q| PROCESSES[q].0 == PROCESSES[p].0, i32::MAX);
            }
            Step::Release(p) => {
                let client = PROCESSES[p].0;
                let released = self.w.release_all_of(client);
                assert_eq!(released.is_ok(), !running, "{released:?}");
                if released.is_ok() {
                    self.naive.forget(|q| PROCESSES[q].0 == client, i32::MAX);
                }
            }
            Step::Begin(mode, consent) if !running => {
                let mut args = self.w.begin_args(mode);
                if consent {
                    args.policy.unreachable = Unreachable::Drop;
                    args.may_drop = List::clipped(["a", "b", "c"].map(client_ref).to_vec());
                }
                self.w.begin_with(&args);
                self.told.clear();
                self.consent = consent;
                self.naive.begin(mode);
            }
            Step::Ack(p) if running => {
                self.w.tell(PROCESSES[p].0, Delivery::Acked);
                self.told.insert(PROCESSES[p].0, Delivery::Acked);
            }
            Step::NoAnswer(p) if running => {
                self.w.tell(PROCESSES[p].0, Delivery::NoAnswer);
                self.told.entry(PROCESSES[p].0).or_insert(Delivery::NoAnswer);
            }
            Step::Abort if running => {
                self.w.table.abort(0, "test").unwrap();
                self.w.check();
                self.naive.end(|_| false, |_| false);
                self.close_late_window();
            }
            Step::Settle if running => {
                self.settle();
                self.close_late_window();
            }
            Step::Begin(..) | Step::Ack(_) | Step::NoAnswer(_) | Step::Abort | Step::Settle => {}
        }
    }

    /// That window is another test's.
    fn close_late_window(&mut self) {
        self.w.pass(1_000);
        self.w.table.on_timeout(self.w.now, false);
    }

    fn settle(&mut self) {
        self.w.pass(60);
        let result = self.w.settle();
        let c = result.result.counts;
        assert_eq!(c.in_scope, c.reclaimed + c.released + c.dropped + c.kept, "{c:?}");
        // Who loses something is the policy's word; here only that the table does as it says.
        let dropped = result.locks.as_slice().iter().filter(|r| r.fate == Fate::Dropped);
        let lost: HashSet<&str> =
            dropped.map(|r| PROCESSES.iter().find(|p| p.0 == r.owner.name.as_str()).unwrap().0).collect();
        let no_answer = |client: &str| self.consent && self.told.get(client) == Some(&Delivery::NoAnswer);
        let may_lose = |client: &str| self.told.get(client) == Some(&Delivery::Acked) || no_answer(client);
        assert!(lost.iter().all(|client| may_lose(client)), "dropped of a client that never acked: {lost:?}");
        let came_back: HashSet<&str> = self.naive.came_back.iter().map(|p| PROCESSES[*p].0).collect();
        let gone = |p: usize| no_answer(PROCESSES[p].0) && !came_back.contains(PROCESSES[p].0);
        self.naive.end(|p| lost.contains(PROCESSES[p].0), gone);
    }

    /// The offers that were made and taken back in the last step.
    fn take_effects(&mut self) {
        for effect in std::mem::take(&mut self.w.effects) {
            match effect {
                Effect::Offer { offer, caller, wanted, .. } => {
                    let client = self.w.table.client(caller.client).unwrap();
                    let process = place_of(client.name.as_str(), wanted.process.svid.0);
                    self.offers.insert(offer, Ask { process, range: wanted.range, exclusive: wanted.exclusive });
                }
                Effect::Withdraw(offer) => drop(self.offers.remove(&offer)),
                _ => {}
            }
        }
    }

    fn compare(&mut self) {
        self.take_effects();
        assert_eq!(self.offers.values().copied().collect::<Vec<_>>(), self.naive.offers(), "what is offered");
        let (mut held, mut pending, mut offered) = (Locks::new(), Locks::new(), BTreeMap::new());
        let table = &self.w.table;
        for file in table.segments().files() {
            for segment in table.segments().of(file) {
                let key = table.owners.key(segment.owner).unwrap();
                let client = table.client(key.client).unwrap();
                let process = place_of(client.name.as_str(), key.process.svid.0);
                let exclusive = segment.kind == Kind::Range { exclusive: true };
                let is_pending = table.is_pending(file, segment);
                for byte in segment.range.start..=segment.range.end {
                    let (place, life) = ((process, byte, exclusive), segment.state.0);
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
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_the_naive_model(steps in steps()) {
        play(&steps);
    }
}
