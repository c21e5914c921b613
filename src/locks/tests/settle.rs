//! The end of a run: who loses what, the instant, and what waits for it.

use super::*;
use crate::wire::control::PAGE;

const A: P = P("a", 1);
const B: P = P("b", 1);
const C: P = P("c", 1);
const D: P = P("d", 1);
const R: ByteRange = ByteRange { start: 0, end: 9 };

/// Four clients with a lock each on a file of the client's name.
fn four() -> World {
    let mut w = World::new();
    for process in [A, B, C, D] {
        assert_eq!(w.write(process, process.0, R), Verdict::Granted);
    }
    w
}

fn sums(result: &FullResult) -> (u64, u64, u64, u64) {
    let c = result.result.counts;
    assert_eq!(c.pending, 0);
    assert_eq!(c.in_scope, c.reclaimed + c.released + c.dropped + c.kept + c.unverified);
    (c.reclaimed, c.released, c.dropped, c.kept)
}

#[test]
fn what_a_client_that_acked_did_not_claim_is_dropped_and_the_others_kept() {
    let mut w = four();
    w.write(A, "stale", R);
    w.begin(Mode::Strict);
    w.reclaim(A, "a", R);
    w.tell("a", Delivery::Acked);
    w.tell("b", Delivery::NoAnswer);
    w.tell("c", Delivery::Partial);
    w.pass(60);
    let result = w.settle();
    assert_eq!(sums(&result), (1, 0, 1, 3));
    assert!(w.picture("stale").is_empty());
    for file in ["a", "b", "c", "d"] {
        assert_eq!(w.picture(file).len(), 1, "{file}");
    }
}

#[test]
fn unreachable_drop_covers_exactly_those_the_plan_named_and_that_were_told() {
    let mut w = four();
    let mut args = w.begin_args(Mode::Strict);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a"), client_ref("c"), client_ref("d")]);
    w.begin_with(&args);
    w.tell("a", Delivery::NoAnswer);
    w.tell("b", Delivery::NoAnswer);
    w.tell("c", Delivery::Partial);
    w.pass(60);
    let result = w.settle();
    assert_eq!(sums(&result), (0, 0, 1, 3), "b is not on the list, c acked something, d was not told");
    assert!(w.picture("a").is_empty());
}

#[test]
fn of_a_client_that_acked_some_notices_nothing_is_dropped_though_it_answers_no_more() {
    for word in [Delivery::NoAnswer, Delivery::NoStatd, Delivery::NameUnknown, Delivery::Refused] {
        for first in [Delivery::Partial, Delivery::Elsewhere, word] {
            let mut w = four();
            let mut args = w.begin_args(Mode::Strict);
            args.policy.unreachable = Unreachable::Drop;
            args.may_drop = List::clipped(vec![client_ref("a")]);
            w.begin_with(&args);
            // A controller that resumes the run gives up what it sends anew.
            w.tell("a", first);
            w.tell("a", word);
            let result = w.settle();
            assert_eq!(result.result.counts.dropped, u64::from(first == word), "{first:?}, then {word:?}");
        }
    }
}

#[test]
fn settling_alone_drops_only_of_clients_reported_as_acked() {
    let mut w = four();
    w.write(B, "b2", R);
    let mut args = w.begin_args(Mode::Strict);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.tell("a", Delivery::NoAnswer);
    w.tell("b", Delivery::Acked);
    w.reclaim(B, "b2", R);
    w.pass(60);
    let result = w.settle_alone(true);
    assert!(result.result.alone);
    assert_eq!(sums(&result), (1, 0, 1, 3));
    assert!(w.picture("b").is_empty());
}

#[test]
fn too_many_silent_clients_mean_the_notices_were_not_understood() {
    let mut w = four();
    w.begin(Mode::Strict);
    for client in ["a", "b", "c", "d"] {
        w.tell(client, Delivery::Acked);
    }
    w.reclaim(A, "a", R);
    w.pass(60);
    let result = w.settle();
    assert!(result.result.not_understood);
    assert_eq!(sums(&result), (1, 0, 0, 3));
}

#[test]
fn a_late_ack_protects_its_client() {
    let mut w = four();
    w.begin(Mode::Strict);
    w.pass(60);
    for client in ["a", "b", "c"] {
        w.reclaim(P(client, 1), client, R);
        w.tell(client, Delivery::Acked);
    }
    w.tell("d", Delivery::Acked);
    w.pass(14);
    assert_eq!(sums(&w.settle()), (3, 0, 0, 1));
}

#[test]
fn a_shared_address_acks_for_nobody_but_a_reclaim_speaks_for_its_client() {
    let mut w = World::new();
    let nat = "10.7.7.7".parse().unwrap();
    let mut callers = Vec::new();
    for client in ["x", "y"] {
        let caller = Caller { client: w.client_at(nat, client), via: via(Transport::Tcp) };
        for file in ["1", "2"] {
            let call = World::lock_call(P("any", 1), &format!("{client}{file}"), R, true, false, false);
            assert_eq!(w.call_as(caller, &call), Handled::Reply(Verdict::Granted));
        }
        callers.push(caller);
    }
    w.begin(Mode::Strict);
    w.tell("x", Delivery::Acked);
    w.tell("y", Delivery::Acked);
    let reclaim = World::lock_call(P("any", 1), "x1", R, true, false, true);
    assert_eq!(w.call_as(callers[0], &reclaim), Handled::Reply(Verdict::Granted));
    w.pass(60);
    assert_eq!(sums(&w.settle()), (1, 0, 1, 2), "x's other lock is stale; of y nothing is known");
}

#[test]
fn a_client_that_reclaimed_behind_a_shared_address_keeps_its_place_in_the_queue() {
    let mut w = World::new();
    let nat = "10.7.7.7".parse().unwrap();
    w.client_at(nat, "y");
    let x = Caller { client: w.client_at(nat, "x"), via: via(Transport::Tcp) };
    for file in ["1", "2"] {
        w.call_as(x, &World::lock_call(P("any", 1), file, R, true, false, false));
    }
    w.write(B, "b", R);
    w.call_as(x, &World::lock_call(P("any", 1), "b", R, true, true, false));
    w.begin(Mode::Strict);
    w.tell("x", Delivery::NoAnswer);
    w.call_as(x, &World::lock_call(P("any", 1), "1", R, true, false, true));
    w.pass(60);
    w.settle();
    assert_eq!(w.table.totals().waiters, 1);
    w.unlock(B, "b", R);
    assert_eq!(w.offers().len(), 1);
}

#[test]
fn waiters_of_what_was_freed_while_a_settle_failed_are_woken() {
    let mut w = four();
    w.wait(A, "b", R);
    let mut args = w.begin_args(Mode::Targeted);
    args.scope.clients = List::clipped(vec![client_ref("c")]);
    w.begin_with(&args);
    w.tell("c", Delivery::Acked);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    w.unlock(B, "b", R);
    assert!(w.offers().is_empty());
    w.table.settle_cancel();
    assert_eq!(w.offers().len(), 1);
}

#[test]
fn a_lock_reclaimed_in_part_is_counted_as_dropped_once() {
    let mut w = four();
    w.write(A, "more", R);
    w.begin(Mode::Strict);
    w.reclaim(A, "more", R);
    w.reclaim(A, "a", bytes(4, 5));
    w.tell("a", Delivery::Acked);
    w.pass(60);
    let result = w.settle();
    assert_eq!(sums(&result), (1, 0, 1, 3));
    let dropped: Vec<_> = fates(&result).into_iter().filter(|f| f.0 == Fate::Dropped).collect();
    assert_eq!(dropped, [(Fate::Dropped, bytes(0, 3), true), (Fate::Dropped, bytes(6, 9), true)]);
    assert_eq!(w.picture("a"), ["a/1 write 4-5 held"], "what was granted is never dropped");
}

#[test]
fn only_what_meets_a_pending_lock_waits_while_the_result_is_written() {
    let mut w = four();
    w.write(A, "more", R);
    w.begin(Mode::Targeted);
    w.reclaim(A, "more", R);
    w.tell("a", Delivery::Acked);
    w.pass(60);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    let waits = [
        World::lock_call(B, "a", R, true, false, false),
        Call::Test(wanted(B, "a", R, true)),
        World::lock_call(A, "a", R, true, false, true),
    ];
    for call in &waits {
        assert_eq!(w.call(if call == &waits[2] { A } else { B }, call), Handled::Wait);
    }
    assert_eq!(w.call(A, &Call::Unlock(wanted(A, "a", bytes(0, 0), true))), Handled::Wait);
    assert_eq!(w.call(A, &Call::FreeAll), Handled::Wait);
    assert_eq!(w.table.reboot_notice(World::address("a"), &name("a"), NsmState(9)), Reboot::Wait);
    assert_eq!(w.table.abort(0, "now").unwrap_err().code, RefusalCode::WrongPhase);
    assert_eq!(w.write(B, "new", R), Verdict::Granted);
    assert_eq!(w.unlock(A, "more", R), Verdict::Granted);
    while !w.table.settle_scan(1) {}
    w.table.settle_result(0).unwrap();
    w.table.settle_commit();
    assert_eq!(w.write(B, "a", R), Verdict::Granted, "at once, before any sweep");
    while !w.table.settle_sweep(1) {}
    w.check();
    assert_eq!(w.picture("a"), ["b/1 write 0-9 held"]);
}

#[test]
fn a_result_that_cannot_be_written_leaves_the_run_as_it_was() {
    let mut w = four();
    w.begin(Mode::Strict);
    w.tell("a", Delivery::Acked);
    w.pass(60);
    let before = w.counts();
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(100) {}
    w.table.settle_cancel();
    w.check();
    assert_eq!(w.counts(), before);
    assert_eq!(w.reclaim(A, "a", R), Verdict::Granted);
    let aborted = w.table.abort(0, "test").unwrap().join();
    assert_eq!(sums(&aborted), (1, 0, 0, 3));
    for client in aborted.clients.as_slice() {
        let Counts { reclaimed, dropped, kept, .. } = client.counts;
        let expected = if client.name == name("a") { (1, 0, 0) } else { (0, 0, 1) };
        assert_eq!((reclaimed, dropped, kept), expected, "{client:?}");
        assert!(
            client.reaction != Reaction::Silent && client.paths.as_slice().is_empty(),
            "nothing was decided in the end: {client:?}"
        );
    }
}

#[test]
fn a_file_with_very_many_locks_is_written_down_and_purged_in_steps_whatever_comes_and_goes_on_it_meanwhile() {
    let mut w = World::new();
    // To check all of it after each of so many steps would take minutes.
    let write = |w: &mut World, process: P, file: &str, range| {
        let (caller, call) = (w.caller(process.0), World::lock_call(process, file, range, true, false, false));
        w.table.handle(w.now, caller, &call)
    };
    let granted = Handled::Reply(Verdict::Granted);
    let range = |n: u64| bytes(10 * n, 10 * n + 4);
    for n in 0..5_000 {
        assert_eq!(write(&mut w, if n % 2 == 0 { A } else { B }, "f", range(n)), granted);
    }
    let mut args = w.begin_args(Mode::Targeted);
    args.policy.silent = Silent::Drop;
    w.begin_with(&args);
    for client in ["a", "b"] {
        w.tell(client, Delivery::Acked);
    }
    w.pass(60);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    let mut steps = 0;
    while !w.table.settle_scan(700) {
        steps += 1;
        assert_eq!(write(&mut w, C, "f", bytes(1_000 * steps + 6, 1_000 * steps + 7)), granted);
    }
    assert!(steps > 5, "{steps}");
    let result = w.table.settle_result(0).unwrap().join();
    w.table.settle_commit();
    assert_eq!(sums(&result), (0, 0, 5_000, 0));
    let mut rows: Vec<ByteRange> = result.locks.as_slice().iter().map(|row| row.range).collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..5_000).map(range).collect::<Vec<_>>(), "each once");

    let mut turns = 0;
    while write(&mut w, D, "f", bytes(0, 19)) == Handled::More {
        turns += 1;
        assert_eq!(write(&mut w, D, "g", bytes(turns, turns)), granted, "others have their turn");
    }
    assert!(turns > 5, "{turns}");
    w.check();
    assert_eq!(w.picture("f").len() as u64, steps + 1, "C's and D's");
}

#[test]
fn an_early_settle_is_refused_while_something_is_pending() {
    let mut w = four();
    w.begin(Mode::Strict);
    let refusal = w.table.settle_start(w.now, SettleWhen::NothingPending, false, "test").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::StillPending);
    for process in [A, B, C, D] {
        w.reclaim(process, process.0, R);
    }
    w.table.settle_start(w.now, SettleWhen::NothingPending, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    assert_eq!(sums(&w.table.settle_result(0).unwrap().join()), (4, 0, 0, 0));
}

#[test]
fn a_run_settles_early_over_kept_locks_only_if_nothing_is_awaited_of_anybody() {
    let refused = |w: &mut World| {
        let refusal = w.table.settle_start(w.now, SettleWhen::NothingAwaited, false, "test").unwrap_err();
        assert_eq!(refusal.code, RefusalCode::StillPending);
    };
    let mut w = four();
    w.begin(Mode::Strict);
    w.pass(31);
    w.tell("a", Delivery::NoAnswer);
    w.tell("b", Delivery::Acked);
    refused(&mut w);
    w.reclaim(B, "b", R);
    refused(&mut w);
    w.tell("c", Delivery::NotTold);
    w.tell("d", Delivery::Partial);
    refused(&mut w);
    w.reclaim(D, "d", R);
    w.table.settle_start(w.now, SettleWhen::NothingAwaited, false, "test").unwrap();
    while !w.table.settle_scan(10) {}
    assert_eq!(sums(&w.table.settle_result(0).unwrap().join()), (2, 0, 0, 2));
}

#[test]
fn each_client_that_is_given_up_is_not_waited_for_and_keeps_its_locks_and_one_of_which_nothing_is_known_is_awaited() {
    use Delivery::{Acked, Elsewhere, NameUnknown, NoAnswer, NoStatd, NotTold, Partial, Refused};
    let awaited = |told: &[Delivery]| {
        let mut w = World::new();
        w.write(A, "f", R);
        w.begin(Mode::Strict);
        for delivery in told {
            w.tell("a", *delivery);
        }
        let settles = w.table.settle_start(w.now, SettleWhen::NothingAwaited, false, "test").is_ok();
        if settles {
            while !w.table.settle_scan(10) {}
            assert_eq!(sums(&w.table.settle_result(0).unwrap().join()), (0, 0, 0, 1));
        }
        !settles
    };
    for given_up in [NotTold, NoAnswer, NoStatd, NameUnknown, Refused] {
        assert!(!awaited(&[given_up]), "{given_up:?}");
    }
    for [first, last] in
        [[Acked, Acked], [Partial, Partial], [Elsewhere, NotTold], [NotTold, Partial], [NotTold, Acked]]
    {
        assert!(awaited(&[first, last]), "{first:?}, {last:?}");
    }
    assert!(awaited(&[]));
}

#[test]
fn locks_that_policy_drops_are_awaited_to_the_deadline() {
    let mut w = four();
    let mut args = w.begin_args(Mode::Strict);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.pass(31);
    w.tell("a", Delivery::NoAnswer);
    for process in [B, C, D] {
        w.reclaim(process, process.0, R);
    }
    assert!(w.table.settle_start(w.now, SettleWhen::NothingAwaited, false, "test").is_err());
}

#[test]
fn a_dropped_unreachable_client_waits_for_nothing_any_more() {
    let mut w = four();
    w.wait(A, "b", R);
    let mut args = w.begin_args(Mode::Strict);
    args.policy.unreachable = Unreachable::Drop;
    args.may_drop = List::clipped(vec![client_ref("a")]);
    w.begin_with(&args);
    w.tell("a", Delivery::NoAnswer);
    w.pass(60);
    w.settle();
    w.unlock(B, "b", R);
    assert!(w.offers().is_empty(), "a grant to it would be stuck");
    assert_eq!(w.table.totals().waiters, 0);
}

#[test]
fn what_was_dropped_is_not_given_back_by_an_offer_to_its_owner() {
    for answer in [OfferAnswer::Refused, OfferAnswer::Accepted] {
        let mut w = World::new();
        let whole = bytes(50, 59);
        let waits_to_read = |process| World::lock_call(process, "f", whole, false, true, false);
        w.write(A, "g", R);
        w.write(D, "f", bytes(55, 59));
        assert_eq!(w.verdict(B, &waits_to_read(B)), Verdict::Blocked);
        w.write(A, "f", bytes(50, 54));
        assert_eq!(w.verdict(A, &waits_to_read(A)), Verdict::Blocked);
        w.begin(Mode::Strict);
        w.reclaim(A, "g", R);
        w.reclaim(D, "f", bytes(55, 59));
        w.tell("a", Delivery::Acked);
        w.tell("d", Delivery::Acked);
        w.unlock(D, "f", bytes(55, 59));
        w.pass(60);
        assert_eq!(sums(&w.settle()), (2, 0, 1, 0));
        assert_eq!(w.picture("f"), ["a/1 read 50-59 offered", "b/1 read 50-59 offered"]);
        for (offer, _) in w.offers() {
            w.answer(offer, answer);
        }
        let held =
            if answer == OfferAnswer::Refused { vec![] } else { vec!["a/1 read 50-59 held", "b/1 read 50-59 held"] };
        assert_eq!(w.picture("f"), held);
    }
}

#[test]
fn an_unlock_that_would_confirm_a_pending_offer_waits_while_the_result_is_written() {
    let mut w = World::new();
    w.write(B, "f", bytes(0, 99));
    w.wait(A, "f", bytes(0, 99));
    w.unlock(B, "f", bytes(0, 99));
    w.begin(Mode::Strict);
    assert_eq!(w.reclaim(A, "f", bytes(50, 59)), Verdict::Granted);
    w.pass(60);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    let unlock = Call::Unlock(wanted(A, "f", bytes(50, 59), true));
    assert_eq!(w.call(A, &unlock), Handled::Wait);
    w.table.settle_cancel();
    assert_eq!(w.call(A, &unlock), Handled::Reply(Verdict::Granted));
}

#[test]
fn what_is_taken_out_while_it_is_scanned_and_what_is_left_give_each_lock_once() {
    let mut w = four();
    let locks = 2 * PAGE as u64 + 5;
    let caller = w.caller("a");
    for n in 0..locks {
        let call = World::lock_call(A, "many", bytes(n * 10, n * 10), true, false, false);
        assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
    }
    w.begin(Mode::Targeted);
    w.reclaim(A, "not held before", R);
    w.tell("a", Delivery::Acked);
    w.pass(60);
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    let mut taken = Vec::new();
    let mut is_done = false;
    while !is_done {
        is_done = w.table.settle_scan(100);
        while let Some((first, pages)) = w.table.take_pages(1) {
            assert_eq!(first, taken.len());
            assert!(pages.iter().all(|rows| rows.len() == PAGE), "full pages, one behind the other");
            taken.extend(pages.into_iter().flatten());
        }
    }
    let result = w.table.settle_result(0).unwrap();
    assert_eq!((taken.len(), result.first_lock()), (2 * PAGE, 2 * PAGE));
    while !result.locks(taken.len()).is_empty() {
        taken.extend_from_slice(result.locks(taken.len()));
    }
    assert_eq!(result.count_locks(), taken.len());
    let count = |fate| taken.iter().filter(|row| row.fate == fate).count() as u64;
    assert_eq!((count(Fate::Dropped) + count(Fate::Kept), count(Fate::Resurrected)), (locks + 4, 1));
    let Counts { dropped, kept, .. } = result.result.counts;
    assert_eq!((dropped, kept), (count(Fate::Dropped), count(Fate::Kept)));
    let on_many = taken.iter().filter(|row| row.file.as_slice() == b"many").map(|row| row.range.start);
    assert_eq!(on_many.collect::<std::collections::BTreeSet<_>>().len() as u64, locks);
}
