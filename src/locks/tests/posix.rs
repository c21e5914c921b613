//! Ranges as POSIX has them, without any run.

use super::*;

const A: P = P("a", 1);
const B: P = P("b", 1);

#[test]
fn an_unlock_in_the_middle_splits_a_lock() {
    let mut w = World::new();
    assert_eq!(w.write(A, "f", bytes(0, 99)), Verdict::Granted);
    assert_eq!(w.unlock(A, "f", bytes(40, 59)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-39 held", "a/1 write 60-99 held"]);
    assert_eq!(w.write(B, "f", bytes(40, 59)), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(39, 40)), Verdict::Denied);
}

#[test]
fn neighbours_and_overlaps_of_one_owner_become_one_lock() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.write(A, "f", bytes(20, 29));
    w.write(A, "f", bytes(10, 19));
    assert_eq!(w.picture("f"), ["a/1 write 0-29 held"]);
    w.write(A, "f", bytes(5, 40));
    assert_eq!(w.picture("f"), ["a/1 write 0-40 held"]);
}

#[test]
fn another_mode_in_the_middle_makes_three_locks() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 99));
    assert_eq!(w.read(A, "f", bytes(40, 59)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-39 held", "a/1 read 40-59 held", "a/1 write 60-99 held"]);
    assert_eq!(w.read(B, "f", bytes(40, 59)), Verdict::Granted);
    assert_eq!(w.write(A, "f", bytes(40, 59)), Verdict::Denied, "an upgrade against a reader");
}

#[test]
fn length_zero_is_to_the_end_of_the_file_and_the_last_byte_is_64_bits_wide() {
    let mut w = World::new();
    let to_end = ByteRange::from_offset_len(100, 0).unwrap();
    assert_eq!(w.write(A, "f", to_end), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(u64::MAX, u64::MAX)), Verdict::Denied);
    assert_eq!(w.write(B, "f", bytes(0, 99)), Verdict::Granted);
    assert_eq!(w.unlock(A, "f", bytes(200, u64::MAX)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["b/1 write 0-99 held", "a/1 write 100-199 held"]);
    assert_eq!(ByteRange::from_offset_len(u64::MAX, 2), None);
}

#[test]
fn readers_share_and_writers_do_not() {
    let mut w = World::new();
    for (held_exclusive, wanted_exclusive, verdict) in [
        (false, false, Verdict::Granted),
        (false, true, Verdict::Denied),
        (true, false, Verdict::Denied),
        (true, true, Verdict::Denied),
    ] {
        let file = format!("f{held_exclusive}{wanted_exclusive}");
        if held_exclusive {
            w.write(A, &file, bytes(0, 9))
        } else {
            w.read(A, &file, bytes(0, 9))
        };
        let got = if wanted_exclusive { w.write(B, &file, bytes(9, 10)) } else { w.read(B, &file, bytes(9, 10)) };
        assert_eq!(got, verdict, "held {held_exclusive}, wanted {wanted_exclusive}");
    }
}

#[test]
fn an_unlock_of_what_is_not_held_is_granted_and_changes_nothing_of_others() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    assert_eq!(w.unlock(B, "f", ByteRange::ALL), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 0-9 held"]);
}

#[test]
fn test_names_who_is_in_the_way_also_an_exclusive_test_of_a_read_lock() {
    let mut w = World::new();
    w.read(A, "f", bytes(0, 9));
    let Verdict::Holder(holder) = w.test(B, "f", bytes(5, 6), true) else { panic!("nobody in the way") };
    assert_eq!((holder.exclusive, holder.range, holder.process.svid), (false, bytes(0, 9), Svid(1)));
    assert_eq!(w.test(B, "f", bytes(5, 6), false), Verdict::Granted);
    assert_eq!(w.test(A, "f", bytes(5, 6), true), Verdict::Granted, "one's own lock is not in the way");
}

#[test]
fn equal_svids_over_other_paths_and_of_other_clients_are_other_owners() {
    let mut w = World::new();
    let call = World::lock_call(A, "f", bytes(0, 9), true, false, false);
    let client = w.client("a");
    let mut other_paths = vec![via(Transport::Udp), Via { version: 3, ..via(Transport::Tcp) }];
    other_paths.push(Via { server_address: "192.0.2.2".parse().unwrap(), ..via(Transport::Tcp) });
    assert_eq!(w.call_as(Caller { client, via: via(Transport::Tcp) }, &call), Handled::Reply(Verdict::Granted));
    for via in other_paths {
        assert_eq!(w.call_as(Caller { client, via }, &call), Handled::Reply(Verdict::Denied), "{via:?}");
    }
    assert_eq!(w.write(B, "f", bytes(0, 9)), Verdict::Denied);
}

#[test]
fn shares_deny_what_they_say_and_never_meet_ranges() {
    let mut w = World::new();
    assert_eq!(w.write(A, "f", ByteRange::ALL), Verdict::Granted);
    assert_eq!(w.share(A, "f", 1, 2, false), Verdict::Granted, "reads, denies writing");
    assert_eq!(w.share(B, "f", 2, 0, false), Verdict::Denied, "wants to write");
    assert_eq!(w.share(B, "f", 1, 1, false), Verdict::Denied, "denies reading to a reader");
    assert_eq!(w.share(B, "f", 1, 0, false), Verdict::Granted);
    assert_eq!(w.unshare(A, "f"), Verdict::Granted);
    assert_eq!(w.share(P("b", 2), "f", 2, 0, false), Verdict::Granted);
    assert_eq!(w.table.totals().locks, 3);
    assert_eq!(w.unlock(A, "f", ByteRange::ALL), Verdict::Granted);
    assert_eq!(w.table.totals().locks, 2, "an unlock takes no share");
}

#[test]
fn an_owner_has_a_share_for_each_access_and_mode_and_gives_each_back_for_itself() {
    let mut w = World::new();
    assert_eq!(w.share(A, "f", 1, 2, false), Verdict::Granted, "reads, denies writing");
    assert_eq!(w.share(A, "f", 2, 0, false), Verdict::Granted, "a second open, which writes");
    assert_eq!(w.share(A, "f", 1, 2, false), Verdict::Granted, "a repetition");
    assert_eq!(w.table.totals().locks, 2);
    assert_eq!(w.share(B, "f", 2, 0, false), Verdict::Denied, "the first still denies it");
    assert_eq!(w.unshare_of(A, "f", 1, 2), Verdict::Granted);
    assert_eq!(w.share(B, "f", 1, 2, false), Verdict::Denied, "the second still writes");
    assert_eq!(w.unshare_of(A, "f", 1, 2), Verdict::Granted, "a repetition takes nothing else");
    assert_eq!(w.share(B, "f", 1, 2, false), Verdict::Denied);
    let suspect = w.table.list_clients(0).clients.into_vec().into_iter().find(|row| row.name == name("a")).unwrap();
    assert!(suspect.suspicions.as_slice()[0].as_str().contains("UNSHARE"), "and what may be stuck is said");
    assert_eq!(w.unshare_of(A, "f", 2, 0), Verdict::Granted);
    assert_eq!(w.share(B, "f", 1, 2, false), Verdict::Granted);
}

#[test]
fn an_owners_shares_are_told_apart_however_many_others_have() {
    for others in [0, 40, 500] {
        let mut w = World::new();
        for n in 0..others {
            assert_eq!(w.share(P("b", n), "f", 0, 0, false), Verdict::Granted);
        }
        let others = u64::from(others.unsigned_abs());
        let all: Vec<(u32, u32)> = (0..4).flat_map(|access| (0..4).map(move |mode| (access, mode))).collect();
        for ((access, mode), count) in all.iter().zip(1..) {
            for _ in 0..2 {
                assert_eq!(w.share(A, "f", *access, *mode, false), Verdict::Granted);
                assert_eq!(w.table.totals().locks, others + count, "{access} {mode} beside {others}");
            }
        }
        for ((access, mode), count) in all.iter().zip(1..) {
            assert_eq!(w.unshare_of(A, "f", *access, *mode), Verdict::Granted);
            assert_eq!(w.table.totals().locks, others + 16 - count, "{access} {mode} beside {others}");
        }
        for (access, mode) in all.iter().skip(1) {
            w.share(A, "f", *access, *mode, false);
        }
        assert_eq!(w.unshare(A, "f"), Verdict::Granted);
        assert_eq!(w.table.totals().locks, others);
    }
}

#[test]
fn an_unshare_that_was_not_filled_in_gives_back_all_of_its_owner() {
    let mut w = World::new();
    for (access, mode) in [(1, 2), (3, 0), (2, 0)] {
        assert_eq!(w.share(A, "f", access, mode, false), Verdict::Granted);
    }
    assert_eq!(w.share(P("a", 2), "f", 2, 0, false), Verdict::Denied);
    assert_eq!(w.unshare(A, "f"), Verdict::Granted);
    assert_eq!(w.table.totals().locks, 0);
    w.share(A, "f", 0, 0, false);
    w.share(A, "f", 3, 3, false);
    assert_eq!(w.unshare(A, "f"), Verdict::Granted, "one that was made so is meant");
    assert_eq!(w.share(B, "f", 1, 0, false), Verdict::Denied);
}

#[test]
fn caps_answer_no_locks_and_leave_the_held_ones_alone() {
    let mut w = World::with(Limits { locks: Bounds { all: 3, host: 2 }, ..Limits::default() });
    assert_eq!(w.write(A, "f", bytes(0, 0)), Verdict::Granted);
    assert_eq!(w.write(A, "f", bytes(2, 2)), Verdict::Granted);
    assert_eq!(w.write(A, "f", bytes(4, 4)), Verdict::NoLocks, "two of one client");
    assert_eq!(w.write(B, "f", bytes(6, 6)), Verdict::Granted);
    assert_eq!(w.write(B, "f", bytes(8, 8)), Verdict::NoLocks, "three in all");
    w.unlock(A, "f", bytes(0, 0));
    assert_eq!(w.write(B, "f", bytes(8, 8)), Verdict::Granted);
}

#[test]
fn an_unlock_that_would_make_two_locks_of_one_is_refused_at_the_cap_and_any_other_is_taken() {
    let mut w = World::with(Limits { locks: Bounds { all: 100, host: 1 }, ..Limits::default() });
    w.write(A, "f", bytes(0, 9));
    assert_eq!(w.unlock(A, "f", bytes(4, 5)), Verdict::NoLocks);
    assert_eq!(w.unlock(A, "f", bytes(0, 5)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/1 write 6-9 held"]);
}

#[test]
fn a_stranger_who_tests_sees_who_is_in_the_way_and_is_not_made_a_client() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    let mut test =
        |file: &str| w.table.test_by_stranger(&FileHandle::new(file.as_bytes()).unwrap(), bytes(0, 0), false);
    assert!(matches!(test("f"), Handled::Reply(Verdict::Holder(_))));
    assert_eq!(test("g"), Handled::Reply(Verdict::Granted));
    assert_eq!(w.table.totals().clients, 1);
}

#[test]
fn when_full_the_client_longest_without_locks_makes_room() {
    let mut w = World::with(Limits { clients: Bounds { all: 2, host: 2 }, ..Limits::default() });
    w.write(A, "f", bytes(0, 0));
    let idle = w.client("idle");
    let newcomer = w.client("new");
    w.check();
    assert!(w.effects.contains(&Effect::Forget(idle)));
    w.write(P("new", 1), "f", bytes(1, 1));
    assert_eq!(w.table.add_client(World::address("more"), &name("more")), Err(Full));
    assert_ne!(newcomer, idle, "a number is never used again");
}

#[test]
fn one_address_with_many_names_makes_room_only_for_itself() {
    let mut w = World::with(Limits { clients: Bounds { all: 100, host: 2 }, ..Limits::default() });
    let quiet = w.client("quiet");
    let here = "10.9.9.9".parse().unwrap();
    let first = w.client_at(here, "n1");
    w.client_at(here, "n2");
    w.client_at(here, "n3");
    w.check();
    assert!(w.effects.contains(&Effect::Forget(first)) && !w.effects.contains(&Effect::Forget(quiet)));
}

#[test]
fn everything_is_forgotten_with_the_last_lock() {
    let mut w = World::new();
    w.write(A, "f", bytes(0, 9));
    w.wait(B, "f", bytes(0, 9));
    w.test(P("c", 1), "g", bytes(0, 9), true);
    w.cancel(B, "f", bytes(0, 9));
    w.unlock(A, "f", ByteRange::ALL);
    let files = w.table.segments().files().count();
    assert_eq!((files, w.table.owners.references().count(), w.table.waiters.are_queued()), (0, 0, false));
}

#[test]
fn a_file_may_have_as_many_locks_as_its_clients_may() {
    let mut w = World::with(Limits { locks: Bounds { all: 1_000_000, host: 70_000 }, ..Limits::default() });
    let caller = w.caller("a");
    let mut lock = |n: u64| {
        w.table.handle(w.now, caller, &World::lock_call(P("a", 1), "f", bytes(n * 2, n * 2), true, false, false))
    };
    for n in 0..70_000 {
        assert_eq!(lock(n), Handled::Reply(Verdict::Granted), "lock {n}");
    }
    assert_eq!(lock(70_000), Handled::Reply(Verdict::NoLocks), "its host's cap is the file's");
    let all = Call::Unlock(wanted(P("a", 1), "f", ByteRange::ALL, true));
    let mut before = w.table.totals().locks;
    while w.table.handle(w.now, caller, &all) == Handled::More {
        let left = w.table.totals().locks;
        assert!((1..=1_024).contains(&(before - left)), "one step frees {} locks", before - left);
        before = left;
    }
    assert_eq!(w.table.totals().locks, 0);
}

#[test]
fn read_locks_that_all_overlap_are_each_their_owners() {
    let mut w = World::new();
    for n in 1..200_i32 {
        assert_eq!(w.read(P("a", n), "f", bytes(0, 1_000)), Verdict::Granted);
    }
    assert_eq!(w.unlock(P("a", 7), "f", bytes(400, 600)), Verdict::Granted);
    assert_eq!(w.write(P("a", 7), "f", bytes(500, 500)), Verdict::Denied, "others read there");
    let of_seven = || w.picture("f").into_iter().filter(|row| row.starts_with("a/7 ")).collect::<Vec<_>>();
    assert_eq!(of_seven(), ["a/7 read 0-399 held", "a/7 read 601-1000 held"]);
    for n in (1..200_i32).filter(|n| *n != 7) {
        w.unlock(P("a", n), "f", ByteRange::ALL);
    }
    assert_eq!(w.write(P("a", 7), "f", bytes(500, 500)), Verdict::Granted);
    assert_eq!(w.picture("f"), ["a/7 read 0-399 held", "a/7 write 500-500 held", "a/7 read 601-1000 held"]);
}
