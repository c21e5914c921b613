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
    for part in [bytes(0, 9), bytes(0, 4)] {
        let mut w = World::new();
        offer_to_b(&mut w);
        assert_eq!(w.read(P("b", 1), "f", part), Verdict::Granted, "in place of the offer");
        assert_eq!(w.read(P("c", 1), "f", part), Verdict::Granted);
        assert_eq!(w.wait(P("b", 1), "f", bytes(0, 9)), Verdict::Blocked, "c reads there");
        assert_eq!(w.write(P("b", 1), "f", bytes(0, 9)), Verdict::Denied);
    }
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
