//! The mirror: what is held or pending here is taken in another lock domain first, and given up there
//! last.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FILE: &str = "f";

/// The other lock domain: what the table has there, and what somebody else has.
#[derive(Debug, Default)]
struct Domain {
    table: BTreeMap<u64, Coverage>,
    others: BTreeMap<u64, Coverage>,
    steps: Vec<MirrorStep>,
}

impl Domain {
    fn excludes(bytes: &BTreeMap<u64, Coverage>, n: u64, mode: Coverage) -> bool {
        let has = bytes.get(&n).copied().unwrap_or(Coverage::Nothing);
        has == Coverage::Exclusive && mode > Coverage::Nothing || mode == Coverage::Exclusive && has > Coverage::Nothing
    }

    /// As `fcntl` does it: part by part, and what was taken before a conflict stays.
    fn step(&mut self, step: &MirrorStep) -> MirrorAnswer {
        self.steps.push(step.clone());
        let (MirrorStep::Take(parts) | MirrorStep::GiveUp { parts, .. }) = step;
        for part in parts {
            let all = part.range.start..=part.range.end.min(99);
            if all.clone().any(|n| Self::excludes(&self.others, n, part.coverage)) {
                assert!(matches!(step, MirrorStep::Take(_)), "giving up meets nobody");
                return MirrorAnswer::Conflict;
            }
            self.table.extend(all.map(|n| (n, part.coverage)));
        }
        self.table.retain(|_, mode| *mode > Coverage::Nothing);
        if let MirrorStep::GiveUp { nothing_left, .. } = step {
            assert_eq!(*nothing_left, self.table.is_empty());
        }
        MirrorAnswer::Done
    }

    /// Whether somebody else got the byte.
    fn other(&mut self, n: u64, mode: Coverage) -> bool {
        let free = !Self::excludes(&self.table, n, mode);
        if free {
            self.others.insert(n, mode);
        }
        free
    }
}

/// A mirrored table with its domain.
struct Mirrored {
    w: World,
    domain: Domain,
}

impl Mirrored {
    fn new() -> Self {
        let mut w = World::new();
        w.table = LockTable::new(Limits::default(), SEED).mirrored();
        Self { w, domain: Domain::default() }
    }

    fn take(&mut self, mut accept: impl FnMut(&Effect) -> bool) -> Option<Effect> {
        self.w.check();
        let at = self.w.effects.iter().position(&mut accept)?;
        Some(self.w.effects.remove(at))
    }

    /// Carries out the step that is asked for, if there is one. Does not let the table give anything
    /// up: a call that waits for the answer is to be given again first.
    fn one_step(&mut self) -> Option<MirrorAnswer> {
        let Some(Effect::Mirror(file, step)) = self.take(|e| matches!(e, Effect::Mirror(..))) else { return None };
        let answer = self.domain.step(&step);
        self.w.table.mirror_answered(&file, answer);
        Some(answer)
    }

    fn all_steps(&mut self) {
        while self.one_step().is_some() {}
        self.w.check();
    }

    fn call(&mut self, process: P, call: &Call) -> Verdict {
        let caller = self.w.caller(process.0);
        let mut outside = OtherDomain::Unasked;
        loop {
            match self.w.table.handle_after(self.w.now, caller, call, outside) {
                Handled::Reply(verdict) => {
                    self.all_steps();
                    return verdict;
                }
                Handled::OtherDomain { asked } => {
                    let answer = self.one_step().unwrap();
                    outside = match answer {
                        MirrorAnswer::Conflict if asked => OtherDomain::Conflict,
                        MirrorAnswer::Failed if asked => OtherDomain::Failed,
                        _ => OtherDomain::Unasked,
                    };
                }
                Handled::More => {}
                Handled::Wait | Handled::HasMoved(_) => {
                    panic!("nothing is settling, and every host has a name of its own")
                }
            }
        }
    }

    fn lock(&mut self, process: P, range: ByteRange, exclusive: bool) -> Verdict {
        self.call(process, &World::lock_call(process, FILE, range, exclusive, false, false))
    }
    fn wait(&mut self, process: P, range: ByteRange) -> Verdict {
        self.call(process, &World::lock_call(process, FILE, range, true, true, false))
    }
    fn reclaim(&mut self, process: P, range: ByteRange, exclusive: bool) -> Verdict {
        self.call(process, &World::lock_call(process, FILE, range, exclusive, false, true))
    }
    fn unlock(&mut self, process: P, range: ByteRange) {
        assert_eq!(self.call(process, &Call::Unlock(wanted(process, FILE, range, true))), Verdict::Granted);
    }
    /// The pause after a refusal is over.
    fn ask_again(&mut self) -> bool {
        let Some(Effect::AskAgain(file, _)) = self.take(|e| matches!(e, Effect::AskAgain(..))) else { return false };
        self.w.table.ask_again(&file);
        self.all_steps();
        true
    }
    fn settle(&mut self) -> FullResult {
        let result = self.w.settle();
        self.all_steps();
        result
    }
    /// What the table has in the other domain: `r`, `w` or `.` for each of the first ten bytes.
    fn there(&self) -> String {
        let letter = |n| match self.domain.table.get(&n) {
            Some(Coverage::Shared) => 'r',
            Some(Coverage::Exclusive) => 'w',
            Some(Coverage::Nothing) | None => '.',
        };
        (0..10).map(letter).collect()
    }
}

const A: P = P("a", 1);
const B: P = P("b", 1);

#[test]
fn the_union_of_all_owners_is_taken_and_given_up_with_the_last() {
    let mut m = Mirrored::new();
    assert_eq!(m.lock(A, bytes(0, 5), false), Verdict::Granted);
    assert_eq!(m.lock(B, bytes(3, 8), false), Verdict::Granted);
    assert_eq!(m.there(), "rrrrrrrrr.");
    m.unlock(A, bytes(0, 5));
    assert_eq!(m.there(), "...rrrrrr.");
    m.unlock(B, bytes(0, 100));
    assert_eq!(m.there(), "..........");
    let last = m.domain.steps.last();
    assert!(matches!(last, Some(MirrorStep::GiveUp { nothing_left: true, .. })), "{last:?}");
}

#[test]
fn only_what_is_lacking_is_asked_for() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(2, 4), true);
    m.domain.steps.clear();
    assert_eq!(m.lock(A, bytes(0, 6), true), Verdict::Granted);
    let part = |start, end| Part { range: bytes(start, end), coverage: Coverage::Exclusive };
    assert_eq!(m.domain.steps, [MirrorStep::Take(vec![part(0, 1), part(5, 6)])]);
    m.domain.steps.clear();
    assert_eq!(m.lock(B, bytes(0, 6), true), Verdict::Denied);
    assert_eq!(m.lock(A, bytes(1, 2), true), Verdict::Granted);
    assert_eq!(m.domain.steps, [], "what is refused or had already asks nobody");
}

#[test]
fn upgrade_downgrade_and_split_are_followed() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(0, 9), false);
    assert_eq!(m.lock(A, bytes(2, 6), true), Verdict::Granted);
    assert_eq!(m.there(), "rrwwwwwrrr");
    assert_eq!(m.lock(A, bytes(4, 4), false), Verdict::Granted);
    m.unlock(A, bytes(6, 7));
    assert_eq!(m.there(), "rrwwrw..rr");
}

#[test]
fn who_meets_somebody_else_is_denied_and_nothing_is_left_there() {
    let mut m = Mirrored::new();
    assert!(m.domain.other(5, Coverage::Exclusive));
    m.lock(A, bytes(2, 2), true);
    assert_eq!(m.lock(A, bytes(0, 9), true), Verdict::Denied, "it got 0 to 1 before it met somebody");
    assert_eq!(m.there(), "..w.......");
    assert_eq!(m.w.picture(FILE), ["a/1 write 2-2 held"]);
}

#[test]
fn a_waiter_that_meets_somebody_else_is_asked_for_again_until_it_is_granted_once() {
    let mut m = Mirrored::new();
    m.domain.other(5, Coverage::Shared);
    assert_eq!(m.wait(A, bytes(0, 9)), Verdict::Blocked);
    assert!(m.ask_again());
    assert_eq!(m.w.offers(), []);
    m.domain.others.clear();
    assert!(m.ask_again());
    assert_eq!(m.w.offers().len(), 1);
    assert_eq!(m.there(), "wwwwwwwwww");
    assert!(!m.ask_again(), "there is nobody to ask for any more");
}

#[test]
fn a_waiter_gets_what_another_client_gave_up_and_an_outsider_does_not_slip_in_between() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(0, 9), true);
    assert_eq!(m.wait(B, bytes(0, 9)), Verdict::Blocked);
    m.unlock(A, bytes(0, 9));
    assert_eq!(m.w.offers().len(), 1);
    assert!(m.domain.steps.iter().all(|step| matches!(step, MirrorStep::Take(_))), "it was never given up");
}

#[test]
fn however_many_wait_the_first_gets_what_was_taken_for_it() {
    for waiters in [1, 63, 64, 65, 200] {
        let mut m = Mirrored::new();
        m.lock(A, bytes(0, 9), true);
        for n in 0..waiters {
            assert_eq!(m.wait(P("b", 10 + n), bytes(0, 9)), Verdict::Blocked);
        }
        // As the table's owner does it: what it asks for outside comes before it serves any more.
        let caller = m.w.caller(A.0);
        m.w.table.handle(m.w.now, caller, &Call::Unlock(wanted(A, FILE, bytes(0, 9), true)));
        for _ in 0..10 {
            m.w.effects.extend(std::iter::from_fn(|| m.w.table.next_effect()));
            match m.w.effects.iter().position(|effect| matches!(effect, Effect::Mirror(..))) {
                Some(at) => {
                    let Effect::Mirror(file, step) = m.w.effects.remove(at) else { panic!("a step") };
                    let answer = m.domain.step(&step);
                    m.w.table.mirror_answered(&file, answer);
                }
                None if m.w.table.has_more_to_wake() => m.w.table.wake_more(),
                None => break,
            }
        }
        let offered = m.w.effects.iter().filter_map(|effect| match effect {
            Effect::Offer { wanted, .. } => Some(wanted.process.svid),
            _ => None,
        });
        let svids: Vec<Svid> = offered.collect();
        assert_eq!(svids, [Svid(10)], "{waiters} wait");
        assert_eq!(m.there(), "wwwwwwwwww");
    }
}

#[test]
fn a_cancelled_waiter_leaves_nothing_behind() {
    let mut m = Mirrored::new();
    m.domain.other(5, Coverage::Exclusive);
    assert_eq!(m.wait(A, bytes(0, 9)), Verdict::Blocked);
    assert_eq!(m.call(A, &Call::Cancel(wanted(A, FILE, bytes(0, 9), true))), Verdict::Granted);
    m.domain.others.clear();
    assert!(m.ask_again());
    assert_eq!((m.there().as_str(), m.w.offers().len()), ("..........", 0));
}

#[test]
fn pending_ranges_stay_until_settle_and_the_dropped_ones_go_with_it() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(0, 2), true);
    m.lock(B, bytes(4, 5), true);
    m.lock(B, bytes(7, 8), false);
    m.w.begin(Mode::Strict);
    assert!(!m.domain.other(4, Coverage::Shared), "pending excludes others too");
    assert_eq!(m.reclaim(B, bytes(7, 8), false), Verdict::Granted);
    assert_eq!(m.reclaim(B, bytes(4, 4), false), Verdict::Granted, "narrower and weaker");
    assert_eq!(m.there(), "www.ww.rr.", "all of it protects until the end");
    m.w.tell("a", Delivery::Acked);
    m.w.tell("b", Delivery::Acked);
    m.w.pass(60);
    m.settle();
    assert_eq!(m.there(), "....r..rr.", "a was silent, b claimed less than it had");
}

#[test]
fn what_is_kept_or_aborted_stays() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(0, 2), true);
    m.w.begin(Mode::Targeted);
    m.w.table.abort(0, "test").unwrap();
    m.all_steps();
    assert_eq!(m.there(), "www.......");
    m.w.begin(Mode::Strict);
    m.w.pass(60);
    m.settle();
    assert_eq!(m.there(), "www.......", "a never acked");
}

#[test]
fn a_reclaim_that_meets_somebody_else_is_a_conflict_and_one_of_what_is_held_asks_nobody() {
    let mut m = Mirrored::new();
    m.lock(A, bytes(0, 2), true);
    m.w.begin(Mode::Strict);
    m.domain.other(5, Coverage::Exclusive);
    m.domain.steps.clear();
    assert_eq!(m.reclaim(A, bytes(0, 2), true), Verdict::Granted);
    assert_eq!(m.domain.steps, []);
    assert_eq!(m.reclaim(A, bytes(0, 6), true), Verdict::Denied);
    assert_eq!(m.w.counts().conflicts, 1);
    assert_eq!(m.there(), "www.......");
    let told = m.take(|e| matches!(e, Effect::Event("conflict", words) if words.contains("does not use NLM")));
    assert!(told.is_some());
}

#[test]
fn a_domain_that_cannot_be_asked_grants_nothing() {
    let mut m = Mirrored::new();
    let call = World::lock_call(A, FILE, bytes(0, 9), true, true, false);
    let caller = m.w.caller("a");
    assert_eq!(m.w.table.handle(m.w.now, caller, &call), Handled::OtherDomain { asked: true });
    let Some(Effect::Mirror(file, _)) = m.take(|e| matches!(e, Effect::Mirror(..))) else { panic!("no step") };
    let again = m.w.table.handle(m.w.now, caller, &call);
    assert_eq!(again, Handled::OtherDomain { asked: false }, "one step of a file at a time");
    m.w.table.mirror_answered(&file, MirrorAnswer::Failed);
    let handled = m.w.table.handle_after(m.w.now, caller, &call, OtherDomain::Failed);
    assert_eq!(handled, Handled::Reply(Verdict::NoLocks));
    let Some(Effect::Mirror(_, step)) = m.take(|e| matches!(e, Effect::Mirror(..))) else { panic!("no step") };
    assert!(matches!(step, MirrorStep::GiveUp { nothing_left: true, .. }), "it may have been done: {step:?}");
}

#[test]
fn what_nobody_wants_any_more_when_it_is_taken_is_given_up() {
    let mut m = Mirrored::new();
    let caller = m.w.caller("a");
    let call = World::lock_call(A, FILE, bytes(0, 9), true, false, false);
    assert_eq!(m.w.table.handle(m.w.now, caller, &call), Handled::OtherDomain { asked: true });
    assert_eq!(m.one_step(), Some(MirrorAnswer::Done));
    m.all_steps();
    assert_eq!(m.there(), "..........", "the call was not given again");
}

#[test]
fn a_lock_over_many_holes_has_only_a_few_ranges_looked_at_again() {
    let mut m = Mirrored::new();
    let caller = m.w.caller("a");
    for n in 0..200 {
        assert_eq!(m.lock(A, bytes(2 * n, 2 * n), true), Verdict::Granted);
    }
    let call = World::lock_call(A, FILE, ByteRange::ALL, true, false, false);
    assert_eq!(m.w.table.handle(m.w.now, caller, &call), Handled::OtherDomain { asked: true });
    let Some(Effect::Mirror(file, MirrorStep::Take(parts))) = m.take(|e| matches!(e, Effect::Mirror(..))) else {
        panic!("no step")
    };
    assert_eq!(parts.len(), 200, "one for each hole");
    m.w.table.mirror_answered(&file, MirrorAnswer::Done);
    assert!(m.w.table.mirror.ranges_to_look_at(&file) <= 64);
    assert_eq!(m.w.table.handle(m.w.now, caller, &call), Handled::Reply(Verdict::Granted));
    m.w.check();
}

#[test]
fn shares_are_not_mirrored() {
    let mut m = Mirrored::new();
    assert_eq!(m.w.share(A, FILE, 3, 3, false), Verdict::Granted);
    assert_eq!(m.w.unshare(A, FILE), Verdict::Granted);
    m.all_steps();
    assert_eq!(m.domain.steps, []);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Lock(usize, u64, u64, bool, bool),
    Reclaim(usize, u64, u64, bool),
    Unlock(usize, u64, u64),
    Cancel(usize, u64, u64),
    Reboot(usize),
    Other(u64, bool),
    OtherGone(u64),
    AskAgain,
    Answer(bool),
    Begin(bool),
    Ack(usize),
    End(bool),
}

const PROCESSES: [P; 3] = [P("a", 1), P("a", 2), P("b", 1)];

fn step() -> impl Strategy<Value = Step> {
    let range = (0..PROCESSES.len(), 0_u64..6, 0_u64..6).prop_map(|(p, a, b)| (p, a.min(b), a.max(b)));
    prop_oneof![
        8 => (range.clone(), any::<bool>(), any::<bool>()).prop_map(|((p, a, b), x, w)| Step::Lock(p, a, b, x, w)),
        4 => (range.clone(), any::<bool>()).prop_map(|((p, a, b), x)| Step::Reclaim(p, a, b, x)),
        4 => range.clone().prop_map(|(p, a, b)| Step::Unlock(p, a, b)),
        1 => range.prop_map(|(p, a, b)| Step::Cancel(p, a, b)),
        1 => (0..PROCESSES.len()).prop_map(Step::Reboot),
        3 => (0_u64..6, any::<bool>()).prop_map(|(n, x)| Step::Other(n, x)),
        3 => (0_u64..6).prop_map(Step::OtherGone),
        2 => Just(Step::AskAgain),
        1 => any::<bool>().prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::Begin),
        2 => (0..PROCESSES.len()).prop_map(Step::Ack),
        1 => any::<bool>().prop_map(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Statement 1 over both domains: whatever happens, no byte is held here against somebody there;
    /// and what nobody here holds or pends is free there.
    #[test]
    fn nobody_of_either_domain_gets_what_the_other_has(steps in prop::collection::vec(step(), 1..60)) {
        let mut m = Mirrored::new();
        let mut boots = 100;
        for step in steps {
            let running = m.w.table.run_status(m.w.now).is_some();
            match step {
                Step::Lock(p, a, b, x, w) => {
                    m.call(PROCESSES[p], &World::lock_call(PROCESSES[p], FILE, bytes(a, b), x, w, false));
                }
                Step::Reclaim(p, a, b, x) => { m.reclaim(PROCESSES[p], bytes(a, b), x); }
                Step::Unlock(p, a, b) => m.unlock(PROCESSES[p], bytes(a, b)),
                Step::Cancel(p, a, b) => {
                    m.call(PROCESSES[p], &Call::Cancel(wanted(PROCESSES[p], FILE, bytes(a, b), true)));
                }
                Step::Reboot(p) => {
                    boots += 2;
                    let client = PROCESSES[p].0;
                    m.w.table.reboot_notice(World::address(client), &name(client), NsmState(boots));
                }
                Step::Other(n, x) => { m.domain.other(n, Coverage::of(x)); }
                Step::OtherGone(n) => { m.domain.others.remove(&n); }
                Step::AskAgain => { m.ask_again(); }
                Step::Answer(yes) => {
                    let answer = if yes { OfferAnswer::Accepted } else { OfferAnswer::Refused };
                    for (offer, _) in m.w.offers() {
                        m.w.answer(offer, answer);
                    }
                }
                Step::Begin(strict) if !running => {
                    m.w.begin(if strict { Mode::Strict } else { Mode::Targeted });
                }
                Step::Ack(p) if running => {
                    let known = m.w.table.run_clients().iter().any(|c| c.name == name(PROCESSES[p].0));
                    if known {
                        m.w.tell(PROCESSES[p].0, Delivery::Acked);
                    }
                }
                Step::End(settle) if running => {
                    m.w.pass(60);
                    if settle { drop(m.w.settle()) } else { drop(m.w.table.abort(0, "test").unwrap()) }
                    m.w.pass(1_000);
                    m.w.table.on_timeout(m.w.now, false);
                }
                Step::Begin(_) | Step::Ack(_) | Step::End(_) => {}
            }
            m.all_steps();
            let mut needed: BTreeMap<u64, Coverage> = BTreeMap::new();
            for row in m.w.rows().into_iter().filter(|row| row.state != LockState::Waiting) {
                let mode = Coverage::of(row.kind == crate::wire::control::LockKind::Exclusive);
                for n in row.range.start..=row.range.end {
                    let byte = needed.entry(n).or_insert(mode);
                    *byte = mode.max(*byte);
                    prop_assert!(!Domain::excludes(&m.domain.others, n, mode), "{step:?}: two have byte {n}");
                }
            }
            prop_assert_eq!(&m.domain.table, &needed, "after {:?}", step);
        }
    }
}
