//! Which locks are chosen, which cannot be freed, and what is said of the rest.

use std::net::IpAddr;

use super::*;
use crate::manager::knfsd::owners::{ClientHost, TO_THE_END, Way};
use crate::wire::types::{Address, CallerName, Cookie, FileHandle, OwnerHandle, Svid};

fn held(client: u8, svid: i32, start: u64, end: u64) -> HeldLock {
    HeldLock { start, end, ..HeldLock::sample(client, svid) }
}

fn row(lock: &HeldLock) -> LockRow {
    let (file, range) = (lock.handle.clone(), lock.range());
    let mut row = LockRow { file, range, ..LockRow::sample(lock.owner.svid.0, 0, 0) };
    (row.owner.name, row.owner.address) = (lock.caller.clone(), lock.owner.way.client);
    row
}

fn view(locks: &[HeldLock]) -> View {
    View { locks: locks.to_vec(), ..View::default() }
}

fn waiter(wanted: HeldLock) -> Waiter {
    Waiter { wanted, oh: OwnerHandle::default(), cookie: Cookie::default() }
}

#[test]
fn a_lock_is_chosen_only_while_it_is_there_as_it_was_seen_and_only_once() {
    let (lock, to_the_end) = (held(11, 7, 0, 9), held(11, -1, 50, TO_THE_END));
    let there = view(&[lock.clone(), to_the_end.clone(), held(12, 7, 20, 29)]);
    let both = [row(&lock), row(&to_the_end)];
    assert_eq!(both[1].range.end, u64::MAX);
    assert_eq!(find(&there, &both).unwrap(), [lock.clone(), to_the_end.clone()]);
    let with = |change: fn(&mut LockRow)| {
        let mut changed = row(&lock);
        change(&mut changed);
        changed
    };
    let others = [
        with(|row| row.range.end = 10),
        with(|row| row.kind = LockKind::Shared),
        with(|row| row.owner.svid = Svid(8)),
        with(|row| row.owner.transport = Transport::Udp),
        with(|row| row.owner.version = 3),
        with(|row| row.owner.address = Address(IpAddr::from([192, 0, 2, 12]))),
        with(|row| row.owner.server_address = Address(IpAddr::from([192, 0, 2, 2]))),
        with(|row| row.owner.name = CallerName::new("c12").unwrap()),
        with(|row| row.file = FileHandle::new(b"other").unwrap()),
    ];
    for other in others {
        assert_eq!(find(&there, &[both[1].clone(), other]).unwrap_err().code, RefusalCode::StalePlan);
    }
    assert_eq!(find(&there, &[row(&lock), row(&lock)]).unwrap_err().code, RefusalCode::StalePlan);
}

#[test]
fn a_blocked_request_is_not_freed_as_if_it_were_a_lock() {
    let lock = held(11, 7, 0, 9);
    let waits = LockRow { state: LockState::Waiting, ..row(&lock) };
    assert_eq!(find(&view(&[lock]), &[waits]).unwrap_err().code, RefusalCode::BadRequest);
}

#[test]
fn nothing_is_freed_of_an_address_from_which_two_names_call() {
    let lock = held(11, 7, 0, 9);
    let host = |client, name: &str| ClientHost {
        way: Way::sample(client),
        caller: CallerName::new(name).unwrap(),
        mon_name: None,
        monitored: true,
        nsm_state: None,
    };
    let with = |hosts: &[ClientHost]| View { hosts: hosts.to_vec(), ..view(&[]) };
    assert_eq!(obstacle(&with(&[host(11, "c11"), host(12, "other")]), &lock), None);
    // The short name is the same machine's.
    assert_eq!(obstacle(&with(&[host(11, "c11.lab")]), &lock), None);
    let why = obstacle(&with(&[host(11, "c11"), host(11, "other")]), &lock).unwrap();
    assert!(why.contains("c11 and other both call from 192.0.2.11"), "{why}");
}

#[test]
fn what_is_gone_is_free_whatever_was_answered_and_what_is_there_is_left_with_its_reason() {
    let locks = [held(11, 7, 0, 9), held(11, 7, 20, 29), held(11, 8, 40, 49), held(12, 7, 60, 69)];
    let rows: Vec<LockRow> = locks.iter().map(row).collect();
    let answers = [
        UnlockReply::Said(Stat::Granted),
        UnlockReply::Said(Stat::Granted),
        UnlockReply::Said(Stat::StaleFh),
        UnlockReply::Silent("lockd did not answer within 5 s".to_owned()),
    ];
    // Of the second lock a part is there again; the last one was unlocked by its client.
    let after = view(&[held(11, 7, 25, 25), locks[2].clone(), held(11, 7, 100, 109)]);
    let done = judge(&view(&locks), &after, &rows, &locks, answers.into_iter());
    assert_eq!(done.freed, [rows[0].clone(), rows[3].clone()]);
    let left: Vec<_> = done.left.iter().map(|(row, why)| (row.range.start, why.as_str())).collect();
    assert_eq!(left.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [20, 40]);
    assert!(left[0].1.contains("GRANTED") && left[1].1.contains("does not find its file"), "{left:?}");
}

#[test]
fn only_an_unlock_that_left_and_was_not_answered_may_free_its_lock_yet() {
    let of = |answer| WhyThere::of(&answer, &held(11, 7, 0, 9)).may_go_yet;
    let said = "lockd did not answer within 5 s".to_owned();
    let answers = [UnlockReply::Silent(said.clone()), UnlockReply::NotSent(said), UnlockReply::Said(Stat::Granted)];
    assert_eq!(answers.map(of), [true, false, false]);
}

#[test]
fn a_request_that_is_held_now_got_what_became_free_and_its_owners_own_one_went_with_the_lock() {
    let lock = held(11, 7, 0, 9);
    let upgrade = HeldLock { exclusive: false, ..lock.clone() };
    let (got, waits) = (held(12, 1, 0, 4), held(13, 1, 0, 4));
    let before = View {
        waiters: [&got, &waits, &upgrade].map(|lock| waiter(lock.clone())).to_vec(),
        ..view(std::slice::from_ref(&lock))
    };
    let after = View { waiters: vec![waiter(waits)], ..view(&[got]) };
    let answers = [UnlockReply::Said(Stat::Granted)].into_iter();
    let done = judge(&before, &after, &[row(&lock)], &[lock], answers);
    assert_eq!((done.offered, done.waiters, done.freed.len()), (1, 1, 1));
}
