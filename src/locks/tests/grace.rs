//! The table of what strict and targeted grace do to each request, and recovery.

use super::*;
use crate::locks::segment::{Kind, OwnerId};
use crate::locks::spellings::MAX_LOOKED_AT;

const A: P = P("a", 1);
const A2: P = P("a", 2);
const B: P = P("b", 1);

/// `a` holds write 0-9 of `f` (pending), a run of this mode is on.
fn in_run(mode: Mode) -> World {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.client("b");
    w.begin(mode);
    w
}

#[test]
fn an_ordinary_lock_is_refused_in_strict_and_only_at_a_pending_range_in_targeted() {
    let mut w = in_run(Mode::Strict);
    assert_eq!(w.write(B, "g", bytes(0, 9)), Verdict::Grace);
    assert_eq!(w.write(A, "f", bytes(0, 9)), Verdict::Grace, "also the owner's");
    assert_eq!(w.share(B, "g", 1, 0, false), Verdict::Grace);
    let mut w = in_run(Mode::Targeted);
    assert_eq!(w.write(B, "g", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(10, 19)), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(9, 9)), Verdict::Grace);
    assert_eq!(w.write(A2, "f", bytes(9, 9)), Verdict::Grace, "another process of the same client");
    assert_eq!(w.share(B, "f", 3, 3, false), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(8, 12)), Verdict::Grace, "partly pending, partly free");
}

#[test]
fn in_targeted_grace_the_owner_locks_its_pending_range_again() {
    let mut w = in_run(Mode::Targeted);
    assert_eq!(w.write(A, "f", bytes(0, 4)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-4 held", "a/1 write 5-9 pending"]);
    assert_eq!(w.read(A, "f", bytes(5, 9)), Verdict::Granted, "a downgrade, as POSIX");
    assert_eq!(w.counts().reclaimed, 1);
    assert_eq!(w.read(B, "f", bytes(5, 9)), Verdict::Granted);
}

#[test]
fn a_reclaim_saves_exactly_what_it_names() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut w = in_run(mode);
        assert_eq!(w.reclaim(A, "f", bytes(2, 4)), Verdict::Granted);
        assert_eq!(w.picture("f"), ["a/1 write 0-1 pending", "a/1 write 2-4 held", "a/1 write 5-9 pending"]);
        assert_eq!(w.counts().reclaimed, 0, "not yet the lock that was marked");
        assert_eq!(w.reclaim(A, "f", bytes(0, 1)), Verdict::Granted);
        assert_eq!(w.reclaim(A, "f", bytes(5, 9)), Verdict::Granted);
        let counts = w.counts();
        assert_eq!((counts.in_scope, counts.reclaimed, counts.resurrected), (1, 1, 0));
        assert_eq!(w.picture("f"), ["a/1 write 0-9 held"]);
    }
}

#[test]
fn a_reclaim_wider_or_unknown_resurrects_the_excess() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut w = in_run(mode);
        assert_eq!(w.reclaim(A, "f", bytes(0, 19)), Verdict::Granted);
        assert_eq!(w.reclaim(B, "g", bytes(0, 9)), Verdict::Granted);
        assert_eq!(w.reclaim(B, "g", bytes(0, 9)), Verdict::Granted, "again");
        let counts = w.counts();
        assert_eq!((counts.reclaimed, counts.resurrected), (1, 2));
        let result = w.settle();
        assert_eq!(fates(&result), [(Fate::Resurrected, bytes(0, 9), false), (Fate::Resurrected, bytes(0, 19), true)]);
    }
}

#[test]
fn a_reclaim_stronger_than_known_is_granted_if_nobody_is_in_the_way() {
    let mut w = World::new();
    w.read(A, "f", bytes(0, 9));
    w.read(A2, "g", bytes(0, 9));
    w.read(B, "g", bytes(0, 9));
    w.begin(Mode::Strict);
    assert_eq!(w.reclaim(A, "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.reclaim(A2, "g", bytes(0, 9)), Verdict::Denied, "b pends a read lock there");
    assert_eq!(w.picture("g"), ["a/2 read 0-9 pending", "b/1 read 0-9 pending"], "what was known is not lost");
    assert_eq!(w.reclaim_read(A2, "g", bytes(0, 9)), Verdict::Granted);
    assert_eq!((w.counts().resurrected, w.counts().conflicts), (1, 1));
}

#[test]
fn a_client_that_fills_the_rows_of_a_run_leaves_room_for_others() {
    let mut w = in_run(Mode::Strict);
    w.table.run.as_mut().unwrap().listed.bounds = Bounds { all: 20, host: 10 };
    for n in 0..30_u32 {
        let greedy = P("greedy", n.cast_signed());
        assert_eq!(w.reclaim(greedy, "f", bytes(5, 5)), Verdict::Denied);
        assert_eq!(w.reclaim(greedy, "new", bytes(n.into(), n.into())), Verdict::Granted);
    }
    assert_eq!(w.reclaim(B, "f", bytes(5, 19)), Verdict::Denied);
    let result = w.settle();
    assert_eq!((result.result.counts.conflicts, result.result.counts.resurrected), (6, 30));
    let caused = |name: &str| {
        let by =
            |row: &&LockFate| row.owner.name.as_str() == name && row.fate != Fate::Kept && row.fate != Fate::Dropped;
        result.locks.as_slice().iter().filter(by).count()
    };
    assert_eq!((caused("greedy"), caused("b")), (10, 1));
}

#[test]
fn a_reclaim_against_anothers_lock_is_a_conflict_told_once_with_both_owners() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut w = in_run(mode);
        for _ in 0..3 {
            assert_eq!(w.reclaim(B, "f", bytes(5, 19)), Verdict::Denied);
        }
        assert_eq!(w.counts().conflicts, 1);
        assert_eq!(
            w.test(B, "f", bytes(10, 19), true),
            if mode == Mode::Strict { Verdict::Grace } else { Verdict::Granted }
        );
        let result = w.settle();
        let row = result.locks.as_slice().iter().find(|r| r.fate == Fate::Conflict).unwrap();
        assert_eq!((row.owner.name.as_str(), row.range), ("b", bytes(5, 19)));
        assert_eq!(row.other.0.as_ref().unwrap().name.as_str(), "a");
        assert_eq!(row.other_range.0, Some(bytes(0, 9)));
    }
}

#[test]
fn a_weaker_reclaim_holds_just_that_and_the_rest_stays_pending() {
    let mut w = in_run(Mode::Targeted);
    assert_eq!(w.reclaim_read(A, "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.read(B, "f", bytes(0, 9)), Verdict::Grace, "the write lock is still pending");
    w.tell("a", Delivery::Acked);
    w.pass(60);
    let result = w.settle();
    assert_eq!(fates(&result), [(Fate::Dropped, bytes(0, 9), true)]);
    assert_eq!(w.picture("f"), ["a/1 read 0-9 held"]);
    assert_eq!(w.read(B, "f", bytes(0, 9)), Verdict::Granted);
}

#[test]
fn a_weaker_reclaim_never_weakens_what_is_held() {
    let mut w = in_run(Mode::Targeted);
    w.reclaim(A, "f", bytes(0, 9));
    assert_eq!(w.reclaim_read(A, "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-9 held"]);
}

#[test]
fn a_reclaim_over_another_path_is_the_owners_if_the_range_is_exact() {
    let mut w = in_run(Mode::Strict);
    let client = w.client("a");
    let udp = Caller { client, via: via(Transport::Udp) };
    let part = World::lock_call(A, "f", bytes(0, 4), true, false, true);
    assert_eq!(w.call_as(udp, &part), Handled::Reply(Verdict::Denied));
    let exact = World::lock_call(A, "f", bytes(0, 9), true, false, true);
    assert_eq!(w.call_as(udp, &exact), Handled::Reply(Verdict::Granted));
    assert_eq!((w.counts().reclaimed, w.counts().resurrected), (1, 0));
    let unlock = Call::Unlock(wanted(A, "f", bytes(0, 9), true));
    assert_eq!(w.call_as(udp, &unlock), Handled::Reply(Verdict::Granted));
    assert!(w.picture("f").is_empty());
}

#[test]
fn a_weaker_reclaim_over_another_path_leaves_one_owner() {
    let mut w = in_run(Mode::Targeted);
    let client = w.client("a");
    let udp = Caller { client, via: via(Transport::Udp) };
    let read = World::lock_call(A, "f", bytes(0, 9), false, false, true);
    assert_eq!(w.call_as(udp, &read), Handled::Reply(Verdict::Granted));
    w.table.abort(0, "test").unwrap();
    let unlock = Call::Unlock(wanted(A, "f", bytes(0, 9), true));
    assert_eq!(w.call_as(udp, &unlock), Handled::Reply(Verdict::Granted));
    assert!(w.picture("f").is_empty(), "nothing of the old path is stuck");
}

#[test]
fn a_reclaim_over_another_path_by_an_owner_that_had_a_part_of_it_leaves_nothing_behind() {
    for others in [0, 40_u64] {
        let mut w = World::new();
        for n in 0..others {
            w.read(P("b", 1), "f", bytes(100 + n * 2, 100 + n * 2));
        }
        let client = w.client("a");
        let udp = Caller { client, via: via(Transport::Udp) };
        let read = |range, reclaim| World::lock_call(A, "f", range, false, false, reclaim);
        w.read(A, "f", bytes(0, 9));
        assert_eq!(w.call_as(udp, &read(bytes(0, 4), false)), Handled::Reply(Verdict::Granted));
        w.begin(Mode::Strict);
        assert_eq!(w.call_as(udp, &read(bytes(0, 9), true)), Handled::Reply(Verdict::Granted));
        w.table.abort(0, "test").unwrap();
        let unlock = Call::Unlock(wanted(A, "f", ByteRange::ALL, true));
        assert_eq!(w.call_as(udp, &unlock), Handled::Reply(Verdict::Granted));
        assert_eq!(w.table.totals().locks, others);
        assert_eq!(w.write(P("c", 1), "f", bytes(0, 9)), Verdict::Granted);
    }
}

#[test]
fn unlock_cancel_unshare_free_all_and_reboot_notices_always_act() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut w = World::new();
        w.write(A, "f", bytes(0, 9));
        w.write(A, "g", bytes(0, 9));
        w.write(A2, "g", bytes(20, 29));
        w.share(A, "s", 1, 1, false);
        w.write(B, "h", bytes(0, 9));
        w.write(B, "i", bytes(0, 9));
        w.write(P("c", 1), "j", bytes(0, 9));
        w.wait(P("c", 1), "i", bytes(0, 9));
        w.begin(mode);
        assert_eq!(w.unlock(A, "f", bytes(0, 9)), Verdict::Granted);
        assert_eq!(w.unlock(A, "g", bytes(3, 3)), Verdict::Granted, "a part: the lock is not decided");
        assert_eq!(w.unshare(A, "s"), Verdict::Granted);
        assert_eq!(w.cancel(P("c", 1), "i", bytes(0, 9)), Verdict::Granted);
        assert_eq!(w.counts().released, 2);
        assert_eq!(w.verdict(B, &Call::FreeAll), Verdict::Granted);
        assert_eq!(w.counts().released, 4);
        let source = World::address("a");
        assert_eq!(w.table.reboot_notice(source, &name("a"), NsmState(5)), Reboot::Released(3));
        w.check();
        let counts = w.counts();
        assert_eq!((counts.in_scope, counts.pending, counts.released), (7, 1, 6));
    }
}

#[test]
fn test_counts_pending_as_held_and_in_strict_says_grace_where_it_would_say_free() {
    let mut w = in_run(Mode::Strict);
    assert!(matches!(w.test(B, "f", bytes(0, 0), true), Verdict::Holder(_)));
    assert_eq!(w.test(B, "f", bytes(10, 10), true), Verdict::Grace);
    let mut w = in_run(Mode::Targeted);
    assert!(matches!(w.test(B, "f", bytes(0, 0), true), Verdict::Holder(_)));
    assert_eq!(w.test(B, "f", bytes(10, 10), true), Verdict::Granted);
}

/// `a` has a lock pending, and one more of others before it than are looked at.
fn crowded() -> World {
    let mut w = World::new();
    w.write(A, "f", bytes(1_000_000, 1_000_009));
    w.begin(Mode::Targeted);
    let (caller, many) = (w.caller("b"), i32::try_from(MAX_LOOKED_AT).unwrap());
    for n in 0..=many {
        let byte = u64::from(n.unsigned_abs()) * 2;
        let call = World::lock_call(P("b", n), "f", bytes(byte, byte + 1), false, false, false);
        assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
    }
    w
}

#[test]
fn in_a_run_a_lock_that_meets_very_many_is_answered_before_all_are_looked_at() {
    let mut w = crowded();
    let caller = w.caller("c");
    let lock = |w: &mut World, end| {
        let call = World::lock_call(P("c", 1), "f", bytes(0, end), true, false, false);
        w.table.handle(w.now, caller, &call)
    };
    assert_eq!(lock(&mut w, 999), Handled::Reply(Verdict::Denied));
    assert_eq!(lock(&mut w, 999_999), Handled::Reply(Verdict::Grace));
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    assert_eq!(lock(&mut w, 999), Handled::Reply(Verdict::Denied));
    assert_eq!(lock(&mut w, 999_999), Handled::Wait);
}

#[test]
fn what_a_host_has_is_known_as_its_own_under_any_name_among_very_many_of_others() {
    let w = crowded();
    let lock = |svid| World::lock_call(P("respelled", svid), "f", bytes(1_000_000, 1_000_009), true, false, true);
    let whole = World::lock_call(A, "f", ByteRange::ALL, true, false, true);
    let known = |address, call: &Call| w.table.knows_all_of(World::address(address), call);
    assert_eq!([known("a", &lock(A.1)), known("a", &lock(A.1 + 1)), known("b", &lock(A.1))], [true, false, false]);
    assert!(!known("a", &whole), "it has not all of that");
}

#[test]
fn a_pending_lock_of_another_spelling_is_looked_for_only_where_it_begins() {
    let w = crowded();
    let file = w.table.segments().find(&wanted(A, "f", ByteRange::ALL, true).file).unwrap();
    for (start, found) in [(0, 2), (1_000_000, 2), (2_000_000, 0)] {
        let there =
            w.table.at_its_start((file, OwnerId(u32::MAX)), bytes(start, u64::MAX), Kind::Range { exclusive: true });
        assert_eq!(there.count(), found, "{start}: as one in the way, and as one of all");
    }
}

#[test]
fn each_share_of_an_owner_is_reclaimed_for_itself() {
    for (first, second) in [((3, 1), (1, 1)), ((1, 1), (3, 1)), ((1, 0), (2, 0))] {
        let mut w = World::new();
        w.share(A, "f", first.0, first.1, false);
        w.share(A, "f", second.0, second.1, false);
        w.begin(Mode::Strict);
        assert_eq!(w.share(A, "f", first.0, first.1, true), Verdict::Granted);
        assert_eq!((w.counts().in_scope, w.counts().reclaimed, w.counts().pending), (2, 1, 1));
        assert_eq!(w.share(A, "f", second.0, second.1, true), Verdict::Granted);
        let counts = w.counts();
        assert_eq!((counts.reclaimed, counts.pending, counts.resurrected), (2, 0, 0), "{first:?} {second:?}");
        w.settle();
        assert_eq!(w.unshare_of(A, "f", first.0, first.1), Verdict::Granted);
        assert_eq!(w.table.totals().locks, 1, "the other one is there");
    }
}

#[test]
fn shares_are_marked_and_reclaimed_like_locks() {
    for mode in [Mode::Strict, Mode::Targeted] {
        let mut w = World::new();
        w.share(A, "f", 3, 1, false);
        w.share(A2, "g", 1, 1, false);
        assert_eq!(w.begin(mode).in_scope, 2);
        assert_eq!(w.share(B, "g", 1, 0, true), Verdict::Denied, "a conflict with a pending share");
        assert_eq!(w.share(A, "f", 3, 1, true), Verdict::Granted);
        let counts = w.counts();
        assert_eq!((counts.reclaimed, counts.pending, counts.conflicts), (1, 1, 1));
        w.tell("a", Delivery::Acked);
        w.pass(60);
        assert_eq!(fates(&w.settle()).iter().filter(|f| f.0 == Fate::Dropped).count(), 1);
        assert_eq!(w.share(B, "g", 1, 1, false), Verdict::Granted);
    }
}

#[test]
fn what_its_owner_holds_is_reclaimed_in_and_out_of_grace_and_scope() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.write(B, "g", bytes(0, 9));
    assert_eq!(w.reclaim(A, "f", bytes(0, 9)), Verdict::Granted, "no run");
    assert_eq!(w.reclaim(A, "f", bytes(0, 19)), Verdict::Grace, "more than it holds, no run");
    let mut args = w.begin_args(Mode::Targeted);
    args.scope.clients = List::clipped(vec![client_ref("a")]);
    assert_eq!(w.begin_with(&args).in_scope, 1);
    assert_eq!(w.reclaim(B, "g", bytes(0, 9)), Verdict::Granted, "out of scope");
    assert_eq!(w.counts().reclaimed, 0);
}

#[test]
fn recovery_takes_reclaims_only_and_then_opens() {
    let mut w = World::new();
    w.table.start_recovery(w.now + Duration::from_secs(90));
    assert_eq!(w.reclaim(A, "f", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.reclaim(B, "f", bytes(0, 9)), Verdict::Denied);
    assert_eq!(w.write(B, "g", bytes(0, 9)), Verdict::Grace);
    assert_eq!(w.unlock(A, "f", bytes(0, 0)), Verdict::Granted);
    let args = w.begin_args(Mode::Strict);
    assert_eq!(w.table.check_begin(&args).unwrap_err().code, RefusalCode::GraceActive);
    assert_eq!(w.table.next_timeout(false), Some(w.now + Duration::from_secs(90)));
    w.pass(90);
    assert_eq!(w.table.on_timeout(w.now, false), Some(Due::RecoveryOver));
    assert_eq!(w.write(B, "g", bytes(0, 9)), Verdict::Granted);
    assert_eq!(w.reclaim(B, "h", bytes(0, 9)), Verdict::Grace, "a reclaim outside of grace");
}
