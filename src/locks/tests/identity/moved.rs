//! One machine whose address changed, in a run; and what only looks like one.

use super::*;

const NAME: &str = "roamer.example.org";

fn at(address: &'static str) -> Machine {
    Machine { address, name: NAME, state: 3 }
}

/// The machine before and after.
fn moves() -> Vec<[Machine; 2]> {
    let named = |address, name| Machine { name, ..at(address) };
    vec![
        [at("192.0.2.51"), at("192.0.2.52")],
        [at("192.0.2.51"), at("2001:db8::52")],
        [at("fe80::51%2"), at("fe80::51%3")],
        [named("192.0.2.51", "roamer"), named("192.0.2.52", "ROAMER.example.org.")],
        [named("192.0.2.51", "roamer.example.org"), named("192.0.2.52", "Roamer")],
    ]
}

impl World {
    fn reclaim_with(&mut self, from: Machine, call: &Call, outside: OtherDomain) -> Handled {
        let client = self.client_at(Self::ip(from.address), from.name);
        let caller = Caller { client, via: via(Transport::Tcp) };
        let handled = self.table.handle_after(self.now, caller, call, outside);
        self.check();
        handled
    }

    /// A reclaim of what `lock` takes, answered as a move from that address.
    fn reclaim_moved(&mut self, from: Machine, file: &str, first: Machine) -> Handled {
        let answer = OtherDomain::Moved(self.client_at(Self::ip(first.address), first.name));
        self.reclaim_with(from, &lock(from, file, true), answer)
    }
}

/// Who reclaimed and who has it, by address.
fn conflict(result: &FullResult) -> (IpAddr, IpAddr) {
    let row = result.locks.as_slice().iter().rfind(|row| row.fate == Fate::Conflict).expect("a conflict");
    (row.owner.address.0, row.other.0.as_ref().expect("it is named").address.0)
}

const GRANTED: Handled = Handled::Reply(Verdict::Granted);
const DENIED: Handled = Handled::Reply(Verdict::Denied);

#[test]
fn a_machine_that_changed_its_address_takes_back_each_of_its_locks_once() {
    for [before, after] in moves() {
        for mode in [Mode::Strict, Mode::Targeted] {
            let mut w = World::new();
            assert_eq!(["f", "g"].map(|file| w.take(before, file)), [Verdict::Granted, Verdict::Granted]);
            w.begin(mode);
            let Handled::HasMoved(question) = w.reclaim_with(after, &lock(after, "f", true), OtherDomain::Unasked)
            else {
                panic!("it is not asked")
            };
            assert_eq!((question.from, question.to), (World::ip(before.address), World::ip(after.address)));
            assert_eq!(question.server_address, World::ip(SERVER));
            assert_eq!(question.names[0], name(before.name), "first the name that the lock's client has");
            assert!(question.names.len() == 1 || question.names[1] == name(after.name));
            assert_eq!((w.counts().pending, w.counts().conflicts), (2, 0), "nothing is decided yet");
            for _ in 0..2 {
                assert_eq!(w.reclaim_moved(after, "f", before), GRANTED);
                assert_eq!(w.counts().reclaimed, 1);
            }
            assert_eq!(w.reclaim_moved(after, "g", before), GRANTED);
            assert_eq!(w.send(before, &lock(before, "f", true)), Verdict::Denied, "both cannot have it");
            let counts = w.counts();
            assert_eq!((counts.in_scope, counts.reclaimed, counts.pending), (2, 2, 0));
            assert_eq!((counts.resurrected, counts.conflicts), (0, 1));
            w.pass(200);
            w.settle();
            assert_eq!(w.rows().len(), 2);
            assert!(w.rows().iter().all(|row| row.owner.address.0 == World::ip(after.address)));
        }
    }
}

#[test]
fn what_is_not_equal_in_all_is_a_conflict_and_is_not_asked_about() {
    let [before, after] = [at("192.0.2.51"), at("192.0.2.52")];
    let call = |m, owner, range, exclusive| owner_call(m, owner, "f", range, exclusive, true);
    let mine = (501, "1@roamer");
    for (claimer, call) in [
        (after, call(after, (502, mine.1), R, true)),
        (after, call(after, (501, "2@roamer"), R, true)),
        (after, call(after, mine, bytes(0, 8), true)),
        (after, call(after, mine, bytes(0, 10), true)),
        (after, call(after, mine, R, false)),
        (Machine { state: 5, ..after }, call(Machine { state: 5, ..after }, mine, R, true)),
        (Machine { state: 0, ..after }, call(Machine { state: 0, ..after }, mine, R, true)),
        (Machine { name: "roamer.example.com", ..after }, call(after, mine, R, true)),
        (Machine { name: "other", ..after }, call(after, mine, R, true)),
    ] {
        let mut w = World::new();
        w.send(before, &owner_call(before, mine, "f", R, true, false));
        w.begin(Mode::Strict);
        assert_eq!(w.reclaim_with(claimer, &call, OtherDomain::Unasked), DENIED, "{call:?}");
        let answer = OtherDomain::Moved(w.client_at(World::ip(before.address), before.name));
        assert_eq!(w.reclaim_with(claimer, &call, answer), DENIED, "nor believed");
        assert_eq!((w.counts().pending, w.counts().conflicts), (1, 1));
    }
    // A number that is not known on either side says nothing.
    let nameless = |address| Machine { state: 0, ..at(address) };
    let mut w = World::new();
    w.take(nameless(before.address), "f");
    w.begin(Mode::Strict);
    assert_eq!(w.reclaim_moved(nameless(after.address), "f", nameless(before.address)), DENIED);
}

#[test]
fn a_lock_that_others_are_in_the_way_of_too_is_not_the_movers() {
    let [before, after, other] = [at("192.0.2.51"), at("192.0.2.52"), at("192.0.2.53")];
    let mut w = World::new();
    for machine in [before, other] {
        let read = owner_call(machine, (501, "oh"), "f", R, false, false);
        assert_eq!(w.send(machine, &read), Verdict::Granted);
    }
    w.begin(Mode::Strict);
    let write = owner_call(after, (501, "oh"), "f", R, true, true);
    let answer = OtherDomain::Moved(w.client_at(World::ip(before.address), before.name));
    assert_eq!(w.reclaim_with(after, &write, answer), DENIED);
    assert_eq!(w.counts().pending, 2);
}

#[test]
fn a_first_address_that_acked_a_notice_of_the_run_has_not_moved() {
    let [before, after] = [at("192.0.2.51"), at("192.0.2.52")];
    for (delivery, may_have) in [(Delivery::Acked, false), (Delivery::NoAnswer, true), (Delivery::Elsewhere, true)] {
        let mut w = World::new();
        w.take(before, "f");
        w.begin(Mode::Strict);
        w.tell(NAME, delivery);
        let asked =
            matches!(w.reclaim_with(after, &lock(after, "f", true), OtherDomain::Unasked), Handled::HasMoved(_));
        assert_eq!(asked, may_have, "{delivery:?}");
        assert_eq!(w.reclaim_moved(after, "f", before) == GRANTED, may_have, "{delivery:?}");
    }
}

#[test]
fn an_answer_that_comes_when_all_has_changed_takes_nothing() {
    let [before, after] = [at("192.0.2.51"), at("192.0.2.52")];
    let run = |change: &dyn Fn(&mut World)| {
        let mut w = World::new();
        w.take(before, "f");
        w.begin(Mode::Strict);
        let call = lock(after, "f", true);
        assert!(matches!(w.reclaim_with(after, &call, OtherDomain::Unasked), Handled::HasMoved(_)));
        change(&mut w);
        let handled = w.reclaim_moved(after, "f", before);
        let holder = w.rows().first().map(|row| row.owner.address.0);
        (handled, holder)
    };
    let first = Some(World::ip(before.address));
    let reclaims = |w: &mut World| assert_eq!(w.send(before, &lock(before, "f", true)), Verdict::Granted);
    assert_eq!(run(&reclaims), (DENIED, first), "the first address has reclaimed it");
    let aborts = |w: &mut World| drop(w.table.abort(0, "test").unwrap());
    assert_eq!(run(&aborts), (DENIED, first), "the run was aborted");
    let begins_anew = |w: &mut World| {
        aborts(w);
        w.send(before, &lock(before, "f", true));
        w.begin(Mode::Strict);
        w.send(before, &lock(before, "f", true));
    };
    assert_eq!(run(&begins_anew), (DENIED, first));
    let ends = |w: &mut World| {
        w.pass(200);
        assert_eq!(w.settle().result.counts.kept, 1, "and it kept what may have moved");
    };
    assert_eq!(run(&ends), (DENIED, first));
    let gives_back = |w: &mut World| assert_eq!(w.give_back(before, "f"), Verdict::Granted);
    assert_eq!(run(&gives_back), (GRANTED, Some(World::ip(after.address))), "nobody has it");
}

#[test]
fn an_answer_about_another_address_takes_nothing() {
    let [before, after, other] = [at("192.0.2.51"), at("192.0.2.52"), at("192.0.2.53")];
    let mut w = World::new();
    w.take(before, "f");
    w.begin(Mode::Strict);
    assert_eq!(w.reclaim_moved(after, "f", other), DENIED);
    assert_eq!(w.reclaim_with(after, &lock(after, "f", true), OtherDomain::NotMoved), DENIED);
    w.pass(200);
    let result = w.settle();
    assert_eq!((result.result.counts.kept, result.result.counts.conflicts), (1, 1));
    assert_eq!(conflict(&result), (World::ip(after.address), World::ip(before.address)), "both are named");
}

#[test]
fn of_two_that_claim_to_have_moved_one_gets_the_lock() {
    let [before, one, other] = [at("192.0.2.51"), at("192.0.2.52"), at("192.0.2.53")];
    let mut w = World::new();
    w.take(before, "f");
    w.begin(Mode::Targeted);
    for claimer in [one, other] {
        assert!(matches!(
            w.reclaim_with(claimer, &lock(claimer, "f", true), OtherDomain::Unasked),
            Handled::HasMoved(_)
        ));
    }
    assert_eq!([one, other].map(|claimer| w.reclaim_moved(claimer, "f", before)), [GRANTED, DENIED]);
    assert_eq!((w.counts().reclaimed, w.counts().conflicts), (1, 1));
}
