//! Blocked requests: offers, refusals, resends, deadlock, and what a run does to them.

use super::*;

const A: P = P("a", 1);
const B: P = P("b", 1);
const C: P = P("c", 1);
const R: ByteRange = ByteRange { start: 0, end: 9 };

/// `a` holds the range and `b` waits for it.
fn waiting() -> World {
    let mut w = World::new();
    assert_eq!(w.write(A, "f", R), Verdict::Granted);
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked);
    w
}

#[test]
fn a_waiter_is_offered_the_range_it_asked_for_once_when_it_is_free() {
    let mut w = waiting();
    assert_eq!(w.wait(C, "f", bytes(0, 99)), Verdict::Blocked);
    assert!(w.offers().is_empty());
    w.unlock(A, "f", bytes(0, 4));
    assert!(w.offers().is_empty(), "only a part is free");
    w.unlock(A, "f", R);
    let offers = w.offers();
    assert_eq!(offers.len(), 1, "first come, first served");
    assert_eq!((offers[0].1.range, offers[0].1.process.svid), (R, Svid(1)));
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered", "c/1 write 0-99 waiting"]);
    w.answer(offers[0].0, OfferAnswer::Accepted);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held", "c/1 write 0-99 waiting"]);
    w.answer(offers[0].0, OfferAnswer::Refused);
    assert_eq!(w.picture("f")[0], "b/1 write 0-9 held", "a late answer changes nothing");
}

#[test]
fn a_waiter_that_asks_again_with_the_other_length_of_its_range_is_offered_that_one() {
    let mut w = World::new();
    w.write(A, "f", ByteRange::ALL);
    let range = bytes(100, u64::MAX);
    for len in [u64::MAX - 99, 0] {
        let mut call = World::lock_call(B, "f", range, true, true, false);
        if let Call::Lock { wanted, .. } = &mut call {
            wanted.len = len;
        }
        assert_eq!(w.verdict(B, &call), Verdict::Blocked);
    }
    w.unlock(A, "f", ByteRange::ALL);
    let offers = w.offers();
    assert_eq!((offers[0].1.range, offers[0].1.len), (range, 0));
}

#[test]
fn a_refused_grant_gives_back_what_the_owner_had_and_wakes_the_next() {
    let mut w = World::new();
    w.read(A, "f", R);
    w.read(B, "f", R);
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked, "an upgrade");
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    w.answer(offer, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["b/1 read 0-9 held"]);
    assert_eq!(w.wait(C, "f", R), Verdict::Blocked);
    w.unlock(B, "f", R);
    assert_eq!(w.offers().len(), 1);
}

#[test]
fn an_unclear_answer_leaves_the_lock_and_makes_a_suspect_whose_lock_a_run_can_drop() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    w.answer(offer, OfferAnswer::Unclear);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
    w.begin(Mode::Strict);
    assert!(w.table.run_clients().iter().any(|c| c.suspect && c.name == name("b")));
    w.tell("b", Delivery::Acked);
    w.pass(60);
    w.settle();
    assert!(w.picture("f").is_empty());
}

#[test]
fn a_resend_of_an_offered_request_confirms_it() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    assert_eq!(w.wait(B, "f", R), Verdict::Granted);
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
}

#[test]
fn cancel_takes_a_waiter_or_an_offer_back_and_is_denied_when_there_is_none() {
    let mut w = waiting();
    assert_eq!(w.cancel(B, "f", bytes(0, 8)), Verdict::Denied, "not that range");
    assert_eq!(w.cancel(B, "f", R), Verdict::Granted);
    assert_eq!(w.cancel(B, "f", R), Verdict::Denied);
    w.wait(B, "f", R);
    w.unlock(A, "f", R);
    assert_eq!(w.offers().len(), 1);
    assert_eq!(w.cancel(B, "f", R), Verdict::Granted, "it crossed the offer");
    assert!(w.picture("f").is_empty());
}

#[test]
fn an_unlock_ends_the_offer_it_shows_knowledge_of() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    w.unlock(B, "f", bytes(0, 4));
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    assert_eq!(w.picture("f"), ["b/1 write 5-9 held"]);
}

#[test]
fn a_cycle_of_waiters_is_answered_deadlock() {
    let mut w = World::new();
    for (process, file) in [(A, "f"), (B, "g"), (C, "h")] {
        w.write(process, file, R);
    }
    assert_eq!(w.wait(A, "g", R), Verdict::Blocked);
    assert_eq!(w.wait(B, "h", R), Verdict::Blocked);
    assert_eq!(w.wait(C, "f", R), Verdict::Deadlock);
    assert_eq!(w.wait(C, "i", R), Verdict::Granted);
    w.cancel(A, "g", R);
    assert_eq!(w.wait(C, "f", R), Verdict::Blocked, "the cycle is broken");
}

#[test]
fn waiters_are_capped_in_all_and_per_client() {
    let mut w = World::with(Limits { waiters: Bounds { all: 3, host: 2 }, ..Limits::default() });
    w.write(A, "f", ByteRange::ALL);
    assert_eq!(w.wait(B, "f", bytes(0, 0)), Verdict::Blocked);
    assert_eq!(w.wait(B, "f", bytes(0, 0)), Verdict::Blocked, "a resend is the same waiter");
    assert_eq!(w.wait(B, "f", bytes(1, 1)), Verdict::Blocked);
    assert_eq!(w.wait(B, "f", bytes(2, 2)), Verdict::NoLocks);
    assert_eq!(w.wait(C, "f", bytes(3, 3)), Verdict::Blocked);
    assert_eq!(w.wait(C, "f", bytes(4, 4)), Verdict::NoLocks);
}

#[test]
fn in_strict_grace_nobody_is_granted_and_a_resend_keeps_its_place() {
    let mut w = waiting();
    w.wait(C, "f", R);
    w.begin(Mode::Strict);
    w.unlock(A, "f", R);
    assert!(w.offers().is_empty());
    assert_eq!(w.wait(C, "f", R), Verdict::Blocked);
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked, "not refused for grace");
    assert_eq!(w.wait(B, "f", bytes(0, 8)), Verdict::Grace, "another request");
    w.settle();
    let offers = w.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered", "c/1 write 0-9 waiting"]);
}

#[test]
fn in_targeted_grace_a_waiter_gets_what_is_neither_held_nor_pending() {
    let mut w = waiting();
    w.write(P("d", 1), "g", R);
    w.wait(C, "g", R);
    let mut args = w.begin_args(Mode::Targeted);
    args.scope.clients = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.unlock(P("d", 1), "g", R);
    assert_eq!(w.offers().len(), 1, "g is not in scope");
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked, "f is pending");
    w.reclaim(A, "f", R);
    w.unlock(A, "f", R);
    assert_eq!(w.offers().len(), 1);
}

#[test]
fn a_dropped_lock_goes_to_its_waiter_when_the_run_settles() {
    let mut w = waiting();
    w.write(A, "g", R);
    w.begin(Mode::Strict);
    w.reclaim(A, "g", R);
    w.tell("a", Delivery::Acked);
    w.pass(60);
    w.settle();
    assert_eq!(w.offers().len(), 1);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"]);
}

#[test]
fn an_offer_confirmed_during_a_run_is_as_good_as_a_reclaim() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    assert_eq!(w.begin(Mode::Strict).in_scope, 1);
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked);
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.counts().reclaimed, 1);
    w.tell("b", Delivery::Acked);
    w.pass(60);
    w.settle();
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
}

#[test]
fn an_unconfirmed_offer_is_spared_where_the_client_acked_and_its_answer_waits_for_the_instant() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    w.write(B, "g", R);
    w.begin(Mode::Strict);
    w.reclaim(B, "g", R);
    w.tell("b", Delivery::Acked);
    w.pass(60);
    w.table.settle_start(w.now, false, false, "test").unwrap();
    w.answer(offer, OfferAnswer::Accepted);
    while !w.table.settle_scan(1) {}
    let result = w.table.settle_result(0).unwrap();
    assert_eq!((result.result.counts.kept, result.result.counts.dropped), (1, 0));
    w.table.settle_commit();
    while !w.table.settle_sweep(1) {}
    w.check();
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
}

#[test]
fn a_clients_reboot_takes_its_waiters_and_offers_along() {
    let mut w = waiting();
    w.wait(C, "f", R);
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    assert_eq!(w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5)), Reboot::Released(2));
    w.check();
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    assert_eq!(w.picture("f"), ["c/1 write 0-9 offered"]);
}

#[test]
fn an_offer_of_a_weaker_lock_weakens_nothing_until_it_is_confirmed() {
    for answer in [OfferAnswer::Refused, OfferAnswer::Accepted] {
        let mut w = World::new();
        let (a, b, c) = (P("a", 1), P("b", 1), P("c", 1));
        w.write(a, "f", bytes(0, 4));
        w.write(b, "f", bytes(9, 9));
        let wider = World::lock_call(a, "f", bytes(0, 9), false, true, false);
        assert_eq!(w.verdict(a, &wider), Verdict::Blocked);
        w.unlock(b, "f", bytes(9, 9));
        let (offer, _) = w.offers()[0];
        assert_eq!(w.read(c, "f", bytes(0, 4)), Verdict::Denied, "a may come back to its write lock");
        let waits = World::lock_call(c, "f", bytes(0, 4), false, true, false);
        assert_eq!(w.verdict(c, &waits), Verdict::Blocked);
        w.answer(offer, answer);
        if answer == OfferAnswer::Refused {
            assert_eq!(w.picture("f"), ["a/1 write 0-4 held", "c/1 read 0-4 waiting"]);
        } else {
            assert_eq!(w.offers().len(), 1, "what a gave up is c's at once");
            assert_eq!(w.picture("f"), ["c/1 read 0-4 offered", "a/1 read 0-9 held"]);
        }
    }
}
