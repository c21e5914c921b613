//! The table as the account of a run over another lock manager, which decides.

use super::*;
use crate::locks::followed::InTheWay;
use crate::wire::control::SettleWhen;

const A: P = P("a", 1);
const B: P = P("b", 1);
const R: ByteRange = ByteRange { start: 0, end: 9 };

/// Two locks that `a` has forgotten, and one that it takes back; `b` takes back its own.
fn two_forgotten() -> World {
    let mut w = World::new();
    for (process, file) in [(A, "one"), (A, "two"), (A, "live"), (B, "b")] {
        assert_eq!(w.write(process, file, R), Verdict::Granted);
    }
    w.begin(Mode::Strict);
    for (process, file) in [(A, "live"), (B, "b")] {
        w.reclaim(process, file, R);
        w.tell(process.0, Delivery::Acked);
    }
    w.pass(60);
    w
}

fn files_of(rows: &[LockFate], fate: Fate) -> Vec<String> {
    let rows = rows.iter().filter(|row| row.fate == fate);
    let mut files: Vec<String> = rows.map(|row| String::from_utf8_lossy(row.file.as_slice()).into_owned()).collect();
    files.sort();
    files
}

#[test]
fn a_lock_that_the_other_lock_manager_did_not_give_up_is_kept_though_policy_would_drop_it() {
    let mut w = two_forgotten();
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    let wanted = w.table.settle_result(0).unwrap().join();
    assert_eq!(files_of(wanted.locks.as_slice(), Fate::Dropped), ["one", "two"]);
    let left: Vec<LockFate> =
        wanted.locks.as_slice().iter().filter(|row| row.file.as_slice() == b"two").cloned().collect();
    w.table.settle_spare(&left);
    while !w.table.settle_scan(1) {}
    let result = w.table.settle_result(0).unwrap().join();
    w.table.settle_commit();
    while !w.table.settle_sweep(1) {}
    w.check();
    let counts = result.result.counts;
    assert_eq!((counts.in_scope, counts.reclaimed, counts.dropped, counts.kept), (4, 2, 1, 1));
    assert_eq!(files_of(result.locks.as_slice(), Fate::Dropped), ["one"]);
    assert_eq!(files_of(result.locks.as_slice(), Fate::Kept), ["two"]);
    assert!(w.picture("one").is_empty());
    assert_eq!(w.picture("two").len(), 1);
}

#[test]
fn a_reclaim_that_was_refused_is_a_conflict_with_both_owners_named_and_changes_nothing() {
    let mut w = World::new();
    w.write(A, "f", R);
    w.begin(Mode::Strict);
    let (caller, a) = (w.caller("b"), w.client("a"));
    let call = World::lock_call(B, "f", R, true, false, true);
    let in_the_way = InTheWay { client: a, may_have_moved: false };
    assert_eq!(w.table.reclaim_was_refused(w.now, caller, &call), Some(in_the_way));
    let call = World::lock_call(B, "local", R, true, false, true);
    assert_eq!(w.table.reclaim_was_refused(w.now, caller, &call), None);
    w.check();
    let result = w.settle();
    let conflicts: Vec<&LockFate> = result.locks.as_slice().iter().filter(|row| row.fate == Fate::Conflict).collect();
    let [with_a, with_another] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!(with_a.owner.name, name("b"));
    assert_eq!(with_a.other.0.as_ref().map(|other| other.name.clone()), Some(name("a")));
    assert_eq!(with_another.other.0, None);
    assert_eq!((result.result.counts.kept, result.result.counts.conflicts), (1, 2));
}

#[test]
fn what_is_pending_of_an_owner_is_known_until_the_last_of_it_is_decided() {
    let mut w = World::new();
    w.write(A, "f", R);
    let (caller, all) = (w.caller("a"), wanted(A, "f", R, true));
    assert!(!w.table.has_pending(caller, &all));
    w.begin(Mode::Targeted);
    assert!(w.table.has_pending(caller, &all));
    w.reclaim(A, "f", bytes(0, 4));
    assert!(w.table.has_pending(caller, &all));
    assert!(!w.table.has_pending(caller, &wanted(A, "f", bytes(0, 4), true)));
    w.reclaim(A, "f", bytes(5, 9));
    assert!(!w.table.has_pending(caller, &all));
}

#[test]
fn a_pending_lock_is_kept_and_named_if_its_owner_may_have_reclaimed_it_from_another_address() {
    let mut w = two_forgotten();
    let client = w.client_at(IpAddr::from([192, 0, 2, 99]), "a");
    let caller = Caller { client, ..w.caller("a") };
    for (range, may_have_moved) in [(bytes(0, 4), false), (R, true)] {
        let call = World::lock_call(A, "two", range, true, false, true);
        let in_the_way = InTheWay { client: w.client("a"), may_have_moved };
        assert_eq!(w.table.reclaim_was_refused(w.now, caller, &call), Some(in_the_way));
    }
    let call = World::lock_call(A, "live", R, true, false, true);
    let in_the_way = InTheWay { client: w.client("a"), may_have_moved: false };
    assert_eq!(w.table.reclaim_was_refused(w.now, caller, &call), Some(in_the_way), "that was reclaimed");
    let result = w.settle();
    assert_eq!(files_of(result.locks.as_slice(), Fate::Dropped), ["one"]);
    assert_eq!(files_of(result.locks.as_slice(), Fate::Kept), ["two"]);
    assert_eq!(files_of(result.locks.as_slice(), Fate::Conflict), ["live", "two", "two"]);
}
