//! Blocked requests: offers, refusals, resends, deadlock, and what a run does to them.

use proptest::prelude::*;

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
fn an_answer_is_not_about_what_the_owner_got_there_since() {
    for answer in [OfferAnswer::Accepted, OfferAnswer::Refused, OfferAnswer::Unclear] {
        let mut w = waiting();
        w.unlock(A, "f", R);
        let offer = w.offers()[0].0;
        assert_eq!(w.read(B, "f", bytes(0, 4)), Verdict::Granted, "it asks for less of what it was offered");
        assert_eq!(w.write(C, "f", bytes(10, 19)), Verdict::Granted);
        assert_eq!(w.read(A, "f", bytes(0, 4)), Verdict::Granted);
        let wait = World::lock_call(B, "f", bytes(0, 19), false, true, false);
        assert_eq!(w.verdict(B, &wait), Verdict::Blocked);
        w.unlock(C, "f", bytes(10, 19));
        assert!(w.offers().is_empty(), "the first offer is not answered, and stands on bytes of the second");
        w.answer(offer, answer);
        let next = w.offers();
        assert_eq!(next[0].1.range, bytes(0, 19));
        w.answer(next[0].0, OfferAnswer::Accepted);
        assert_eq!(w.picture("f"), ["a/1 read 0-4 held", "b/1 read 0-19 held"], "{answer:?}");
    }
}

#[test]
fn a_refused_offer_takes_nothing_of_a_lock_that_its_owner_got_in_its_place() {
    let mut w = waiting();
    w.unlock(A, "f", R);
    let offer = w.offers()[0].0;
    assert_eq!(w.read(B, "f", R), Verdict::Granted);
    let (before, offer) = (offer, w.offers()[0].0);
    w.answer(before, OfferAnswer::Accepted);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"], "an answer to the first says nothing of the second");
    assert_eq!(w.write(C, "f", bytes(10, 19)), Verdict::Granted);
    let wait = World::lock_call(B, "f", bytes(0, 19), false, true, false);
    assert_eq!(w.verdict(B, &wait), Verdict::Blocked);
    w.unlock(C, "f", bytes(10, 19));
    w.answer(offer, OfferAnswer::Refused);
    let next = w.offers()[0].0;
    assert_eq!(w.picture("f"), ["b/1 read 0-19 offered"], "no lock of b is lost");
    w.answer(next, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["b/1 read 0-9 held"]);
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
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    w.answer(offer, OfferAnswer::Accepted);
    while !w.table.settle_scan(1) {}
    let result = w.table.settle_result(0).unwrap().join();
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
    assert_eq!(w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5)), Reboot::Released(1));
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

/// So many processes wait for the range, and none of them is looked at before it is asked for.
fn crowd(range: ByteRange, exclusive: bool, count: i32) -> (World, Caller) {
    let mut w = World::new();
    let caller = w.caller("b");
    w.write(A, "f", R);
    for n in 1..=count {
        let call = World::lock_call(P("b", n), "f", range, exclusive, true, false);
        assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Blocked));
    }
    (w, caller)
}

/// The svids of those who are offered something now, without anybody else being served.
fn offered(w: &mut World) -> Vec<i32> {
    let offers = std::iter::from_fn(|| w.table.next_effect()).filter_map(|effect| match effect {
        Effect::Offer { wanted, .. } => Some(wanted.process.svid.0),
        _ => None,
    });
    offers.collect()
}

#[test]
fn who_is_many_is_served_some_at_a_time_in_the_order_they_came() {
    let (mut w, _) = crowd(R, false, 500);
    let caller = w.caller("a");
    w.table.handle(w.now, caller, &Call::Unlock(wanted(A, "f", R, true)));
    let mut served = offered(&mut w);
    assert!(served.len() < 100, "one UNLOCK serves {}", served.len());
    while w.table.has_more_to_wake() {
        w.table.wake_more();
        let some = offered(&mut w);
        assert!(some.len() < 100, "one turn serves {}", some.len());
        served.extend(some);
        w.table.check_invariants();
    }
    assert_eq!(served, (1..=500).collect::<Vec<_>>());
}

#[test]
fn an_unlock_elsewhere_in_the_file_wakes_nobody() {
    let (mut w, caller) = crowd(bytes(5, 5), true, 3);
    let mine = bytes(100, 109);
    w.write(P("b", 9), "f", mine);
    w.table.handle(w.now, caller, &Call::Unlock(wanted(P("b", 9), "f", mine, true)));
    assert!(!w.table.has_more_to_wake());
    assert_eq!(w.offers(), []);
}

#[test]
fn a_waiter_for_a_range_of_many_locks_waits_until_the_last_of_them_is_gone_whatever_their_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut w = World::new();
        for n in 0..4 {
            w.read(P("a", n), "f", bytes(u64::from(n.unsigned_abs()) * 10, 100));
        }
        assert_eq!(w.wait(B, "f", R), Verdict::Blocked);
        assert_eq!(w.wait(C, "f", bytes(0, 200)), Verdict::Blocked);
        for (gone, n) in order.into_iter().enumerate() {
            let left = order.iter().skip(gone).any(|n| *n == 0);
            assert_eq!(w.picture("f").iter().any(|row| row == "b/1 write 0-9 waiting"), left, "{order:?} {gone}");
            w.unlock(P("a", n), "f", ByteRange::ALL);
        }
        assert_eq!(w.picture("f"), ["b/1 write 0-9 offered", "c/1 write 0-200 waiting"], "{order:?}");
        w.unlock(B, "f", R);
        assert_eq!(w.picture("f"), ["c/1 write 0-200 offered"], "{order:?}");
    }
}

#[test]
fn who_waits_in_another_file_is_not_held_up_by_a_crowd() {
    let (mut w, _) = crowd(R, false, 1_000);
    w.write(A, "g", R);
    w.wait(B, "g", R);
    let caller = w.caller("a");
    w.table.handle(w.now, caller, &Call::Unlock(wanted(A, "f", R, true)));
    w.table.handle(w.now, caller, &Call::Unlock(wanted(A, "g", R, true)));
    assert!(w.table.has_more_to_wake(), "the crowd is not served yet");
    assert!(w.picture("g").contains(&"b/1 write 0-9 offered".to_owned()), "{:?}", w.picture("g"));
}

#[test]
fn a_deadlock_is_found_though_many_others_wait_and_read_there() {
    let mut w = World::new();
    for n in 10..300 {
        w.read(P("c", n), "f", ByteRange::ALL);
    }
    w.read(A, "f", R);
    w.write(B, "g", R);
    for n in 300..600 {
        let call = World::lock_call(P("c", n), "f", R, true, true, false);
        assert_eq!(w.verdict(P("c", n), &call), Verdict::Blocked);
    }
    assert_eq!(w.wait(B, "f", R), Verdict::Blocked);
    assert_eq!(w.wait(A, "g", R), Verdict::Deadlock);
}

#[test]
fn a_search_for_a_deadlock_ends() {
    let mut w = World::new();
    let caller = w.caller("a");
    let mut lock = |n: i32, file: &str, exclusive: bool| {
        w.table.handle(w.now, caller, &World::lock_call(P("a", n), file, R, exclusive, true, false))
    };
    // Each of those who read f waits for all who read g, and the other way round.
    for n in 1..=400 {
        assert_eq!(lock(n, if n % 2 == 0 { "f" } else { "g" }, false), Handled::Reply(Verdict::Granted));
    }
    assert_eq!(lock(1, "f", true), Handled::Reply(Verdict::Blocked));
    assert_eq!(lock(2, "g", true), Handled::Reply(Verdict::Deadlock));
    for n in (3..=400).step_by(2) {
        assert_eq!(lock(n, "f", true), Handled::Reply(Verdict::Blocked), "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Locks, blocking ones, and unlocks of a few processes; every offer is accepted at once.
    #[test]
    fn whoever_waits_has_somebody_in_its_way_and_who_came_first_of_two_that_conflict_is_served_first(
        steps in prop::collection::vec((1..6_i32, 0..8_u64, 0..8_u64, any::<bool>(), any::<bool>()), 1..80),
    ) {
        let mut w = World::new();
        for (n, a, b, exclusive, unlocks) in steps {
            let (process, range) = (P("a", n), bytes(a.min(b), a.max(b)));
            if unlocks {
                w.unlock(process, "f", range);
            } else {
                w.verdict(process, &World::lock_call(process, "f", range, exclusive, true, false));
            }
            let mut open = w.offers();
            prop_assert!(open.is_sorted_by_key(|(offer, _)| *offer), "who came later is served first: {open:?}");
            while let Some((offer, _)) = open.pop() {
                w.answer(offer, OfferAnswer::Accepted);
                // Who accepts less than it had frees the rest.
                let more = w.offers();
                prop_assert!(more.is_sorted_by_key(|(offer, _)| *offer), "who came later is served first: {more:?}");
                open.extend(more);
            }
        }
    }
}

#[test]
fn free_all_and_a_reboot_free_much_in_steps_and_nothing_that_is_not_theirs() {
    for reboots in [false, true] {
        let mut w = World::new();
        let (a, b) = (w.caller("a"), w.caller("b"));
        for n in 0..3_000 {
            let range = bytes(n * 2, n * 2);
            let owner = if n % 100 == 0 { P("b", 1) } else { P("a", i32::try_from(n % 5).unwrap()) };
            let caller = if n % 100 == 0 { b } else { a };
            w.table.handle(w.now, caller, &World::lock_call(owner, "f", range, true, false, false));
        }
        for n in 10..1_200 {
            let call = World::lock_call(P("a", n), "f", bytes(0, 0), true, true, false);
            assert_eq!(w.table.handle(w.now, a, &call), Handled::Reply(Verdict::Blocked));
        }
        let left = |w: &World| w.table.totals().locks + w.table.totals().waiters;
        let (mut before, mut steps) = (left(&w), 0);
        loop {
            let more = if reboots {
                w.table.reboot_notice(World::address("a"), &name("a"), NsmState(9)) == Reboot::More
            } else {
                w.table.handle(w.now, a, &Call::FreeAll) == Handled::More
            };
            assert!((1..=2_048).contains(&(before - left(&w))), "one step frees {}", before - left(&w));
            (before, steps) = (left(&w), steps + 1);
            w.table.check_invariants();
            if !more {
                break;
            }
        }
        assert_eq!((before, w.table.totals().waiters), (30, 0), "what is another's stays");
        assert!(steps > 3, "{steps} steps");
        let suspicions: usize =
            w.table.list_clients(0).clients.as_slice().iter().map(|c| c.suspicions.as_slice().len()).sum();
        assert_eq!(suspicions, 0);
    }
}

#[test]
fn a_notice_that_frees_little_goes_through_many_files_in_steps() {
    let mut w = World::new();
    let a = w.caller("a");
    for n in 0..1_500 {
        let mut call = World::lock_call(P("a", 1), &format!("f{n}"), bytes(0, 9), true, false, false);
        let Call::Lock { state, .. } = &mut call else { panic!("a LOCK") };
        *state = NsmState(if n == 1_400 { 3 } else { 7 });
        w.table.handle(w.now, a, &call);
    }
    let mut notice = |state| {
        let outcomes =
            std::iter::repeat_with(|| w.table.reboot_notice(World::address("a"), &name("a"), NsmState(state)));
        let mut steps = 0;
        let last = outcomes.inspect(|_| steps += 1).find(|outcome| *outcome != Reboot::More).unwrap();
        (last, steps)
    };
    // Each file and each lock is a look, and a step has 512.
    assert_eq!(notice(1), (Reboot::Repeated, 6));
    assert_eq!(notice(5), (Reboot::Released(1), 6));
    assert_eq!(notice(5), (Reboot::Repeated, 1));
    assert_eq!(notice(9), (Reboot::Released(1_499), 6));
    assert_eq!(w.table.totals().locks, 0);
}

/// A file with 2,000 locks of one client, and of another one the first and the last.
fn few_among_many() -> World {
    let mut w = World::new();
    let callers = [w.caller("many"), w.caller("few")];
    for n in 0..2_002_u64 {
        let few = n % 2_001 == 0;
        let call = World::lock_call(P("", 1), "f", bytes(n * 10, n * 10 + 4), true, false, false);
        assert_eq!(w.table.handle(w.now, callers[usize::from(few)], &call), Handled::Reply(Verdict::Granted));
    }
    w
}

#[test]
fn a_notice_and_free_all_go_through_a_file_with_many_locks_of_others_in_steps() {
    let few = (World::address("few"), name("few"));
    let mut w = few_among_many();
    let steps = std::iter::repeat_with(|| w.table.reboot_notice(few.0, &few.1, NsmState(9)));
    let outcomes: Vec<Reboot> = steps.take(4).collect();
    assert_eq!(outcomes, [Reboot::More, Reboot::More, Reboot::More, Reboot::Released(2)]);
    assert_eq!(w.table.totals().locks, 2_000);

    let mut w = few_among_many();
    let steps = std::iter::repeat_with(|| w.table.free_all(few.0, &few.1));
    let outcomes: Vec<Handled> = steps.take(4).collect();
    let more = || Handled::More;
    assert_eq!(outcomes, [more(), more(), more(), Handled::Reply(Verdict::Granted)]);
    assert_eq!(w.table.totals().locks, 2_000);
}

#[test]
fn notices_that_come_by_turns_with_each_other_and_with_free_all_all_end() {
    let few = (World::address("few"), name("few"));
    let mut w = few_among_many();
    let (mut older, mut newer, mut all) = (Reboot::More, Reboot::More, Handled::More);
    for _ in 0..20 {
        older = w.table.reboot_notice(few.0, &few.1, NsmState(9));
        newer = w.table.reboot_notice(few.0, &few.1, NsmState(11));
    }
    assert!(older != Reboot::More && newer != Reboot::More, "{older:?} {newer:?}");
    assert_eq!(w.table.totals().locks, 2_000);
    let mut w = few_among_many();
    for _ in 0..20 {
        newer = w.table.reboot_notice(few.0, &few.1, NsmState(11));
        all = w.table.free_all(few.0, &few.1);
    }
    assert!(newer != Reboot::More && all == Handled::Reply(Verdict::Granted), "{newer:?} {all:?}");
    assert_eq!(w.table.totals().locks, 2_000);
}

#[test]
fn what_free_all_or_a_notice_left_in_the_middle_frees_nothing_that_was_locked_since() {
    let few = (World::address("few"), name("few"));
    let lock_again = |w: &mut World, range| {
        let mut call = World::lock_call(P("", 1), "f", range, true, false, false);
        let Call::Lock { state, .. } = &mut call else { panic!("a LOCK") };
        *state = NsmState(9);
        let caller = w.caller("few");
        assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
    };
    for first in [None, Some(NsmState(11)), Some(NsmState(5))] {
        let mut w = few_among_many();
        match first {
            None => assert_eq!(w.table.free_all(few.0, &few.1), Handled::More),
            Some(number) => assert_eq!(w.table.reboot_notice(few.0, &few.1, number), Reboot::More),
        }
        // Its caller gave it up, and the client goes on.
        lock_again(&mut w, bytes(30_000, 30_009));
        lock_again(&mut w, bytes(6, 8));
        let mut notice = || {
            let steps = std::iter::repeat_with(|| w.table.reboot_notice(few.0, &few.1, NsmState(7)));
            steps.take(20).find(|outcome| *outcome != Reboot::More).unwrap()
        };
        assert_ne!(notice(), Reboot::More);
        assert_eq!(w.table.totals().locks, 2_002, "{first:?}");
    }
    // All it had is freed in the first step: nothing is left to go on with.
    let mut w = few_among_many();
    let caller = w.caller("few");
    let last = Call::Unlock(wanted(P("", 1), "f", bytes(20_010, 20_014), true));
    assert_eq!(w.table.handle(w.now, caller, &last), Handled::Reply(Verdict::Granted));
    assert_eq!(w.table.free_all(few.0, &few.1), Handled::Reply(Verdict::Granted));
}

#[test]
fn what_a_run_dropped_among_many_locks_of_others_is_purged_in_steps_before_others_get_it() {
    let mut w = few_among_many();
    let mut args = w.begin_args(Mode::Strict);
    args.policy.silent = Silent::Drop;
    w.begin_with(&args);
    w.tell("few", Delivery::Acked);
    w.tell("many", Delivery::NoAnswer);
    w.pass(100);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(700) {}
    w.table.settle_result(0).unwrap();
    w.table.settle_commit();
    let call = World::lock_call(P("", 1), "f", bytes(20_010, 20_014), true, false, false);
    let caller = w.caller("other");
    let steps = std::iter::repeat_with(|| w.table.handle(w.now, caller, &call));
    let outcomes: Vec<Handled> = steps.take(4).collect();
    assert_eq!(outcomes, [Handled::More, Handled::More, Handled::More, Handled::Reply(Verdict::Granted)]);
    while !w.table.settle_sweep(1) {}
    assert_eq!(w.table.totals().locks, 2_001);
}

/// Lets time go by, as the owner of the table does.
fn minutes(w: &mut World, minutes: u64) {
    for _ in 0..minutes {
        w.pass(60);
        while w.table.next_timeout(false).is_some_and(|at| at <= w.now) {
            w.table.on_timeout(w.now, false);
        }
        w.check();
    }
}

fn suspects(w: &World) -> Vec<String> {
    let rows = w.table.list_clients(0).clients.into_vec();
    let reasons = rows.iter().flat_map(|row| row.suspicions.as_slice().iter().map(move |why| (row, why)));
    reasons.map(|(row, why)| format!("{} {}", row.name, why.as_str())).collect()
}

#[test]
fn a_client_that_is_silent_while_another_waits_for_its_lock_for_long_is_a_suspect_until_it_calls() {
    let mut w = waiting();
    let suspect = ["a silent while b waits for its lock, for 5 minutes or more"];
    minutes(&mut w, 4);
    assert!(suspects(&w).is_empty());
    minutes(&mut w, 1);
    assert_eq!(suspects(&w), suspect);
    minutes(&mut w, 60);
    assert_eq!(suspects(&w), suspect);
    assert_eq!(w.picture("f")[0], "a/1 write 0-9 held", "nothing is taken from it");
    let told = |w: &World| w.effects.iter().filter(|e| matches!(e, Effect::Event("suspect", _))).count();
    w.test(P("a", 7), "g", R, false);
    assert!(suspects(&w).is_empty());
    minutes(&mut w, 5);
    assert_eq!(suspects(&w), suspect, "silent again");
    assert_eq!(told(&w), 2);
}

#[test]
fn a_client_that_calls_now_and_then_is_no_suspect_however_long_others_wait() {
    let mut w = waiting();
    for _ in 0..20 {
        minutes(&mut w, 4);
        w.unlock(A, "another", R);
        assert!(suspects(&w).is_empty());
    }
}

#[test]
fn a_request_that_a_release_dropped_makes_nobody_a_suspect_before_it_is_swept() {
    for dropped in [false, true] {
        let mut w = World::new();
        w.write(A, "f", R);
        assert_eq!(w.wait(B, "f", R), Verdict::Blocked);
        minutes(&mut w, 4);
        if dropped {
            w.void_all_of("b");
        }
        minutes(&mut w, 2);
        assert_eq!(suspects(&w).is_empty(), dropped);
    }
}

#[test]
fn who_kept_a_request_waiting_is_no_suspect_when_the_request_is_gone() {
    for gone in ["cancelled", "granted", "its client rebooted"] {
        let mut w = waiting();
        w.write(P("d", 1), "g", R);
        minutes(&mut w, 9);
        assert_eq!(suspects(&w).len(), 1);
        match gone {
            "cancelled" => _ = w.cancel(B, "f", R),
            "granted" => {
                w.table.reboot_notice(World::address("a"), &name("a"), NsmState(5));
                assert_eq!(w.offers().len(), 1);
            }
            _ => _ = w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5)),
        }
        assert!(suspects(&w).is_empty(), "{gone}");
        minutes(&mut w, 30);
        assert_eq!(w.table.next_timeout(false), None, "nothing is left to look at");
    }
}

#[test]
fn of_several_in_the_way_only_the_silent_ones_are_suspects() {
    let mut w = World::new();
    for client in ["one", "two", "three"] {
        w.read(P(client, 1), "f", R);
    }
    w.wait(B, "f", R);
    minutes(&mut w, 3);
    w.read(P("two", 1), "g", R);
    minutes(&mut w, 3);
    assert_eq!(suspects(&w).len(), 2);
    assert!(suspects(&w).iter().all(|why| !why.starts_with("two")));
    minutes(&mut w, 2);
    assert_eq!(suspects(&w).len(), 3, "looked at again when that one is silent for as long");
}

#[test]
fn free_all_frees_what_a_machine_has_under_several_names_in_steps() {
    let mut w = World::new();
    let address = World::address("a");
    for spelling in ["a", "A", "a."] {
        let caller = Caller { client: w.client_at(address, spelling), via: via(Transport::Tcp) };
        for n in 0..900 {
            let call = World::lock_call(A, &format!("{spelling} {n}"), R, true, false, false);
            assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
        }
    }
    w.write(B, "f", R);
    let (mut before, mut steps) = (w.table.totals().locks, 0);
    while w.table.free_all(address, &name("a")) == Handled::More {
        let left = w.table.totals().locks;
        assert!((1..=1_024).contains(&(before - left)), "one step frees {}", before - left);
        (before, steps) = (left, steps + 1);
        w.table.check_invariants();
    }
    assert!(steps > 1, "{steps} steps");
    assert_eq!(w.table.totals().locks, 1, "what is another's stays");
}
