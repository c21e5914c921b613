//! Offers that their owner answers late, asks for again, or has replaced meanwhile: what is granted is what stands.

use super::*;

/// A LOCK of another life of its client.
fn lock_in(state: i32, process: P, range: ByteRange, exclusive: bool, (block, reclaim): (bool, bool)) -> Call {
    let mut call = World::lock_call(process, "f", range, exclusive, block, reclaim);
    let Call::Lock { state: of_call, .. } = &mut call else { panic!("a LOCK") };
    *of_call = NsmState(state);
    call
}

/// A has it, and B waits; then A gives it up, and B is offered it. Gives the offer.
fn offer_to_b(w: &mut World) -> OfferId {
    w.write(P("a", 1), "f", bytes(0, 9));
    w.wait(P("b", 1), "f", bytes(0, 9));
    w.unlock(P("a", 1), "f", bytes(0, 9));
    w.offers().remove(0).0
}

#[test]
fn a_resend_is_not_granted_by_an_offer_of_which_some_is_over() {
    let mut w = World::new();
    offer_to_b(&mut w);
    assert_eq!(w.read(P("b", 1), "f", bytes(0, 4)), Verdict::Granted, "in place of the offer");
    assert_eq!(w.read(P("c", 1), "f", bytes(0, 4)), Verdict::Granted);
    assert_eq!(w.wait(P("b", 1), "f", bytes(0, 9)), Verdict::Blocked, "c reads there");
    assert_eq!(w.write(P("b", 1), "f", bytes(0, 9)), Verdict::Denied);
}

#[test]
fn an_offer_ends_with_the_life_that_asked_for_it() {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    w.begin(Mode::Strict);
    assert_eq!(w.verdict(P("b", 1), &lock_in(5, P("b", 1), bytes(0, 9), true, (true, false))), Verdict::Blocked);
    w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5));
    w.check();
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    w.settle();
    assert_eq!(w.write(P("c", 1), "f", bytes(0, 9)), Verdict::Granted);
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.picture("f"), ["c/1 write 0-9 held"]);
    let again = lock_in(5, P("b", 1), bytes(0, 9), true, (true, false));
    assert_eq!(w.verdict(P("b", 1), &again), Verdict::Blocked, "it is c's");
}

#[test]
fn a_resend_of_a_new_life_has_its_lock_in_that_life() {
    let mut w = World::new();
    offer_to_b(&mut w);
    assert_eq!(w.verdict(P("b", 1), &lock_in(5, P("b", 1), bytes(0, 9), true, (true, false))), Verdict::Granted);
    w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5));
    w.check();
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"], "it was taken after that reboot");
}

#[test]
fn what_a_client_was_offered_in_the_run_that_drops_it_is_free() {
    let mut w = World::new();
    w.write(P("a", 1), "mine", bytes(0, 9));
    w.write(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    let mut args = w.begin_args(Mode::Targeted);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1);
    w.tell("a", Delivery::NoAnswer);
    w.pass(60);
    assert_eq!(w.settle().result.counts.dropped, 1);
    assert!(w.picture("f").is_empty() && w.picture("mine").is_empty());
}

#[test]
fn what_a_client_took_in_the_run_that_drops_it_outlives_what_it_was_offered() {
    let mut w = World::new();
    w.write(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    let mut args = w.begin_args(Mode::Targeted);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.unlock(P("b", 1), "f", bytes(3, 4));
    assert_eq!(w.read(P("a", 1), "f", bytes(3, 4)), Verdict::Granted);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1);
    w.tell("a", Delivery::NoAnswer);
    w.pass(60);
    w.settle();
    assert_eq!(w.picture("f"), ["a/1 read 3-4 held"]);
}

#[test]
fn an_unlock_does_not_take_an_offer_that_it_made_itself() {
    let mut w = World::new();
    w.write(P("b", 1), "f", bytes(0, 9));
    let read = World::lock_call(P("a", 1), "f", bytes(0, 9), false, true, false);
    assert_eq!(w.verdict(P("a", 1), &read), Verdict::Blocked);
    assert_eq!(w.wait(P("a", 1), "f", bytes(0, 19)), Verdict::Blocked);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1, "the second one waits for the answer");
    w.unlock(P("a", 1), "f", bytes(0, 9));
    let offers = w.offers();
    assert_eq!(offers.iter().map(|(_, wanted)| wanted.range).collect::<Vec<_>>(), [bytes(0, 19)]);
    assert_eq!(w.picture("f"), ["a/1 write 0-19 offered"]);
}

#[test]
fn what_a_client_took_after_its_reboot_outlives_an_offer_to_its_life_before() {
    let mut w = World::new();
    w.read(P("a", 1), "f", bytes(0, 9));
    w.wait(P("b", 1), "f", bytes(0, 9));
    let read = lock_in(5, P("b", 1), bytes(3, 4), false, (false, false));
    assert_eq!(w.verdict(P("b", 1), &read), Verdict::Granted);
    w.unlock(P("a", 1), "f", bytes(0, 9));
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"], "its notice is late");
    w.table.reboot_notice(World::address("b"), &name("b"), NsmState(5));
    w.check();
    assert_eq!(w.picture("f"), ["b/1 read 3-4 held"]);
}

#[test]
fn a_grant_accepted_in_a_run_is_as_good_as_a_reclaim_of_what_took_some_of_its_place() {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    assert_eq!(w.read(P("b", 1), "f", bytes(5, 14)), Verdict::Granted, "in place of half of the offer");
    w.begin(Mode::Strict);
    w.tell("b", Delivery::Acked);
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.picture("f"), ["b/1 write 0-4 held", "b/1 read 5-9 held", "b/1 read 10-14 pending"]);
}

#[test]
fn an_unlock_of_many_does_not_take_what_its_owner_is_offered_meanwhile() {
    let mut w = World::new();
    let (a, b) = (P("a", 1), P("b", 1));
    let caller = w.caller("a");
    for n in 0..2000 {
        let call = World::lock_call(a, "f", bytes(2 * n, 2 * n), true, false, false);
        assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
    }
    w.write(b, "f", bytes(4001, 4009));
    w.wait(a, "f", bytes(3000, 4009));
    let unlock = Call::Unlock(wanted(a, "f", bytes(0, 4000), true));
    let mut handled = w.table.handle(w.now, caller, &unlock);
    assert_eq!(w.unlock(b, "f", bytes(4001, 4009)), Verdict::Granted, "between two steps, if there are any");
    while handled == Handled::More {
        handled = w.table.handle(w.now, caller, &unlock);
    }
    w.check();
    assert!(w.picture("f").is_empty());
    assert_eq!(w.wait(a, "f", bytes(3000, 4009)), Verdict::Granted, "its client repeats the request");
}

#[test]
fn an_owner_with_very_many_locks_there_is_not_offered_the_range_and_gets_it_when_it_asks_again() {
    let mut w = World::new();
    let (a, b) = (P("a", 1), P("b", 1));
    for n in 0..100 {
        w.read(a, "f", bytes(2 * n, 2 * n));
    }
    w.read(b, "f", bytes(0, 300));
    assert_eq!(w.wait(a, "f", bytes(0, 300)), Verdict::Blocked);
    w.unlock(b, "f", bytes(0, 300));
    assert!(w.offers().is_empty());
    assert_eq!(w.picture("f").len(), 100);
    assert_eq!(w.wait(a, "f", bytes(0, 300)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-300 held"]);
}

#[test]
fn a_grant_that_is_accepted_while_the_result_is_written_is_not_dropped() {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    let mut args = w.begin_args(Mode::Strict);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("b")]);
    w.begin_with(&args);
    w.tell("b", Delivery::NoAnswer);
    w.pass(60);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    assert_eq!(w.table.settle_result(0).unwrap().join().result.counts.dropped, 1);
    assert!(!w.table.was_accepted_in_time());
    w.answer(offer, OfferAnswer::Accepted);
    assert!(w.table.was_accepted_in_time());
    w.table.settle_cancel();
    w.check();
    assert_eq!(w.settle().result.counts.dropped, 0);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
}

#[test]
fn what_was_reclaimed_of_an_offer_that_is_refused_stands_once() {
    let mut w = World::new();
    w.read(P("a", 1), "f", bytes(0, 9));
    w.read(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    w.unlock(P("b", 1), "f", bytes(0, 9));
    let (offer, _) = w.offers().remove(0);
    w.begin(Mode::Strict);
    let reclaim = lock_in(5, P("a", 1), bytes(0, 9), false, (false, true));
    assert_eq!(w.verdict(P("a", 1), &reclaim), Verdict::Granted);
    w.answer(offer, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
}

#[test]
fn an_offer_is_not_made_to_a_spelling_that_is_about_to_be_moved() {
    let mut w = World::new();
    let [old, new] = [b"one", b"two"].map(|oh| Process { svid: Svid(7), oh: OwnerHandle::new(oh).unwrap() });
    let wants = |process: &Process, file: &str, range| Wanted {
        process: process.clone(),
        ..wanted(P("mac", 7), file, range, true)
    };
    let lock = |process: &Process, file: &str, range, block| Call::Lock {
        wanted: wants(process, file, range),
        block,
        reclaim: false,
        monitored: true,
        state: NsmState(3),
        cookie: Cookie::new(b"c").unwrap(),
    };
    let mac = P("mac", 7);
    w.write(P("ghost", 1), "g", bytes(0, 9));
    assert_eq!(w.verdict(mac, &lock(&old, "f", bytes(0, 9), false)), Verdict::Granted);
    assert_eq!(w.verdict(mac, &lock(&old, "g", bytes(20, 29), false)), Verdict::Granted);
    assert_eq!(w.verdict(mac, &lock(&old, "g", bytes(0, 9), true)), Verdict::Blocked);
    w.void_all_of("ghost");
    assert_eq!(w.verdict(mac, &Call::Unlock(wants(&new, "f", bytes(0, 9)))), Verdict::Granted);
    while !w.table.settle_sweep(1) {}
    let offers = w.offers();
    assert_eq!(offers.iter().map(|(_, wanted)| &wanted.process).collect::<Vec<_>>(), [&new], "to its new spelling");
    w.answer(offers[0].0, OfferAnswer::Refused);
    assert_eq!(w.picture("g"), ["mac/7 write 20-29 held"]);
}

#[test]
fn nothing_is_offered_where_its_owner_has_something_pending() {
    for ended in ["reclaimed", "asked for again", "settled", "aborted"] {
        let mut w = World::new();
        w.read(P("a", 1), "f", bytes(0, 9));
        w.read(P("b", 1), "f", bytes(0, 9));
        w.wait(P("a", 1), "f", bytes(0, 9));
        w.begin(Mode::Targeted);
        w.unlock(P("b", 1), "f", bytes(0, 9));
        assert!(w.offers().is_empty(), "a has said nothing");
        assert_eq!((w.counts().pending, w.counts().reclaimed), (1, 0));
        match ended {
            "reclaimed" => assert_eq!(w.reclaim_read(P("a", 1), "f", bytes(0, 9)), Verdict::Granted),
            "asked for again" => {
                assert_eq!(w.wait(P("a", 1), "f", bytes(0, 9)), Verdict::Granted);
                assert_eq!(w.picture("f"), ["a/1 write 0-9 held"]);
                continue;
            }
            "settled" => assert_eq!(w.settle().result.counts.kept, 1),
            _ => drop(w.table.abort(0, "test").unwrap()),
        }
        assert_eq!(w.offers().len(), 1, "{ended}");
        assert_eq!(w.picture("f"), ["a/1 write 0-9 offered"], "{ended}");
    }
}

#[test]
fn what_comes_back_of_an_offer_that_is_refused_in_a_run_is_pending() {
    let mut w = World::new();
    w.read(P("a", 1), "f", bytes(0, 3));
    w.read(P("a", 1), "f", bytes(6, 9));
    w.read(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    w.unlock(P("b", 1), "f", bytes(0, 9));
    let (offer, _) = w.offers().remove(0);
    w.begin(Mode::Strict);
    w.answer(offer, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["a/1 read 0-3 pending", "a/1 read 6-9 pending"]);
    assert_eq!((w.counts().in_scope, w.counts().pending), (1, 1), "two pieces of what was one lock");
    w.tell("a", Delivery::Acked);
    w.reclaim_read(P("a", 1), "f", bytes(0, 3));
    w.pass(60);
    let result = w.settle();
    assert_eq!((result.result.counts.dropped, result.result.counts.released), (1, 0));
    assert_eq!(fates(&result), [(Fate::Dropped, bytes(6, 9), true)]);
    assert_eq!(w.picture("f"), ["a/1 read 0-3 held"]);
}

#[test]
fn a_notice_frees_also_what_a_refused_offer_would_bring_back() {
    let mut w = World::new();
    w.read(P("a", 1), "f", bytes(0, 9));
    w.read(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    let again = lock_in(5, P("a", 1), bytes(0, 9), true, (true, false));
    assert_eq!(w.verdict(P("a", 1), &again), Verdict::Blocked);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    let (offer, _) = w.offers().remove(0);
    w.table.reboot_notice(World::address("a"), &name("a"), NsmState(5));
    w.answer(offer, OfferAnswer::Refused);
    assert!(w.picture("f").is_empty(), "the read lock was of the life before");
}

#[test]
fn a_weaker_reclaim_of_another_life_outlives_the_lock_of_the_former_one() {
    let mut w = World::new();
    w.write(P("a", 1), "f", bytes(0, 9));
    let reclaim = lock_in(5, P("a", 1), bytes(0, 9), false, (false, true));
    assert_eq!(w.verdict(P("a", 1), &reclaim), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-9 held", "a/1 read 0-9 held"]);
    w.table.reboot_notice(World::address("a"), &name("a"), NsmState(5));
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
}

/// In a run with consent to drop what `b` has, which does not answer; it was offered a lock, and has another one.
fn unreachable() -> World {
    let mut w = World::new();
    offer_to_b(&mut w);
    w.write(P("b", 1), "mine", bytes(0, 9));
    w.write(P("c", 1), "f", bytes(20, 29));
    w.wait(P("b", 1), "f", bytes(20, 29));
    let mut args = w.begin_args(Mode::Targeted);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("b")]);
    w.begin_with(&args);
    w.tell("b", Delivery::NoAnswer);
    w
}

#[test]
fn a_client_that_acked_nothing_and_came_back_waits_on() {
    let mut w = unreachable();
    w.reclaim(P("c", 1), "f", bytes(20, 29));
    w.write(P("b", 2), "other", bytes(0, 9));
    assert_eq!(w.reclaim(P("b", 2), "other", bytes(0, 9)), Verdict::Granted);
    w.pass(60);
    assert_eq!(w.settle().result.counts.dropped, 1, "what it did not reclaim");
    assert_eq!(w.picture("mine"), Vec::<String>::new());
    let still = ["b/1 write 0-9 offered", "b/1 write 20-29 waiting", "c/1 write 20-29 held"];
    assert_eq!(w.picture("f"), still);
}

#[test]
fn a_client_that_is_taken_for_gone_waits_only_for_what_it_asked_for_in_the_run() {
    for resent in [false, true] {
        let mut w = unreachable();
        w.reclaim(P("c", 1), "f", bytes(20, 29));
        if resent {
            assert_eq!(w.wait(P("b", 1), "f", bytes(20, 29)), Verdict::Blocked);
        }
        w.pass(60);
        assert_eq!(w.settle().result.counts.dropped, 2, "its lock, and what it was offered");
        let waits = ["b/1 write 20-29 waiting"].into_iter().filter(|_| resent);
        let expected: Vec<&str> = waits.chain(["c/1 write 20-29 held"]).collect();
        assert_eq!(w.picture("f"), expected);
    }
}

#[test]
fn an_offer_is_made_anew_when_its_owner_has_got_less_in_place_of_all_of_it() {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    assert_eq!(w.read(P("b", 1), "f", bytes(0, 9)), Verdict::Granted, "another thread of it");
    assert!(w.effects.contains(&Effect::Withdraw(offer)));
    let renewed = w.offers()[0].0;
    assert!(renewed.is_renewed() && !offer.is_renewed());
    w.answer(offer, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"], "an answer to the first says nothing of the second");
    w.answer(renewed, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["b/1 read 0-9 held"]);
}

/// In a strict run in which `b` acks and reclaims what it has on another file, but not what it has beside its offer; its
/// answer comes while the result is written. Gives what `f` looks like in the end.
fn answered_while_the_result_is_written(answer: OfferAnswer) -> Vec<String> {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    w.write(P("b", 1), "f", bytes(10, 19));
    w.write(P("b", 2), "other", bytes(0, 9));
    w.begin(Mode::Strict);
    w.tell("b", Delivery::Acked);
    w.reclaim(P("b", 2), "other", bytes(0, 9));
    w.pass(60);
    let result = w.settle_while(false, |w| w.answer(offer, answer));
    assert_eq!(fates(&result), [(Fate::Kept, bytes(0, 9), false), (Fate::Dropped, bytes(10, 19), false)]);
    w.picture("f")
}

#[test]
fn an_offer_that_a_run_has_spared_stays_whatever_its_client_answers_then() {
    for answer in [OfferAnswer::Accepted, OfferAnswer::Unclear] {
        let held = answered_while_the_result_is_written(answer);
        assert_eq!(held, ["b/1 write 0-9 held"], "and what was dropped beside it is gone: {answer:?}");
    }
    assert!(answered_while_the_result_is_written(OfferAnswer::Refused).is_empty());
}

#[test]
fn what_is_reclaimed_under_an_offer_outlives_its_refusal() {
    let mut w = World::new();
    w.read(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    w.begin(Mode::Targeted);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1);
    assert_eq!(w.reclaim_read(P("a", 1), "f", bytes(0, 9)), Verdict::Granted, "the server had lost it");
    assert_eq!(w.cancel(P("a", 1), "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
}

#[test]
fn what_comes_back_of_an_offer_is_pending_only_if_the_run_covers_it() {
    let mut w = World::new();
    let mut unmonitored = World::lock_call(P("a", 1), "f", bytes(0, 9), false, false, false);
    let Call::Lock { monitored, .. } = &mut unmonitored else { panic!("a LOCK") };
    *monitored = false;
    assert_eq!(w.verdict(P("a", 1), &unmonitored), Verdict::Granted);
    w.read(P("b", 1), "f", bytes(0, 9));
    w.wait(P("a", 1), "f", bytes(0, 9));
    w.unlock(P("b", 1), "f", bytes(0, 9));
    let (offer, _) = w.offers().remove(0);
    assert_eq!(w.begin(Mode::Strict).in_scope, 1);
    w.answer(offer, OfferAnswer::Refused);
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
    assert_eq!((w.counts().pending, w.counts().released), (0, 1));
}

#[test]
fn an_offer_is_made_anew_when_a_notice_frees_what_its_owner_had_instead() {
    let mut w = World::new();
    w.write(P("b", 1), "f", bytes(0, 9));
    let waits = lock_in(5, P("a", 1), bytes(0, 9), true, (true, false));
    assert_eq!(w.verdict(P("a", 1), &waits), Verdict::Blocked);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1);
    let late = lock_in(3, P("a", 1), bytes(0, 19), true, (false, false));
    assert_eq!(w.verdict(P("a", 1), &late), Verdict::Granted, "a copy from the life before");
    w.table.reboot_notice(World::address("a"), &name("a"), NsmState(5));
    assert_eq!(w.offers().len(), 1);
    assert_eq!(w.picture("f"), ["a/1 write 0-9 offered"]);
}

#[test]
fn reclaims_of_another_life_do_not_make_any_number_of_locks_of_one() {
    let mut w = World::with(Limits { locks: Bounds { all: 40, host: 20 }, ..Limits::default() });
    w.write(P("a", 1), "f", bytes(0, 999));
    for n in 0..200 {
        let reclaim = lock_in(5, P("a", 1), bytes(2 * n, 2 * n), false, (false, true));
        assert_eq!(w.verdict(P("a", 1), &reclaim), Verdict::Granted, "it has it");
    }
    assert!(w.rows().len() < 50, "{} locks", w.rows().len());
}

#[test]
fn reclaims_of_pieces_do_not_make_any_number_of_locks_of_one() {
    let mut w = World::with(Limits { locks: Bounds { all: 40, host: 20 }, ..Limits::default() });
    w.write(P("a", 1), "f", bytes(0, 999));
    w.begin(Mode::Strict);
    let verdicts = (0..200).map(|n| w.reclaim(P("a", 1), "f", bytes(2 * n, 2 * n)));
    let refused = verdicts.filter(|verdict| *verdict == Verdict::NoLocks).count();
    assert!((100..200).contains(&refused), "{refused} refused");
    assert!(w.rows().len() < 100, "{} locks", w.rows().len());
    assert_eq!(w.reclaim(P("a", 1), "f", bytes(0, 999)), Verdict::Granted, "all of it is one lock again");
}

#[test]
fn what_comes_back_of_an_offer_that_the_run_does_not_cover_is_held() {
    let mut w = World::new();
    w.read(P("a", 1), "f", bytes(0, 9));
    w.read(P("b", 1), "f", bytes(0, 9));
    let mut waits = World::lock_call(P("a", 1), "f", bytes(0, 9), true, true, false);
    let Call::Lock { monitored, .. } = &mut waits else { panic!("a LOCK") };
    *monitored = false;
    assert_eq!(w.verdict(P("a", 1), &waits), Verdict::Blocked);
    w.unlock(P("b", 1), "f", bytes(0, 9));
    assert_eq!(w.offers().len(), 1);
    assert_eq!(w.begin(Mode::Strict).in_scope, 0);
    assert_eq!(w.cancel(P("a", 1), "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
    w.unlock(P("a", 1), "f", bytes(0, 9));
    assert_eq!(w.counts(), Counts::default());
}

#[test]
fn a_grant_that_is_accepted_when_all_its_owner_had_of_it_was_dropped_is_made_anew() {
    let mut w = World::new();
    let offer = offer_to_b(&mut w);
    w.write(P("b", 1), "f", bytes(0, 19));
    w.write(P("b", 2), "other", bytes(0, 9));
    w.begin(Mode::Strict);
    w.tell("b", Delivery::Acked);
    w.reclaim(P("b", 2), "other", bytes(0, 9));
    w.pass(60);
    let result = w.settle_while(false, |w| w.answer(offer, OfferAnswer::Accepted));
    assert_eq!(result.result.counts.dropped, 1);
    let renewed = w.offers().remove(0).0;
    assert!(renewed.is_renewed(), "b believes that it has it");
    assert_eq!(w.picture("f"), ["b/1 write 0-9 offered"]);
    w.answer(renewed, OfferAnswer::Unclear);
    assert_eq!(w.picture("f"), ["b/1 write 0-9 held"]);
}
