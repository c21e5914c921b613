//! What caps refuse, to whom, and what they never refuse.

use super::*;

const A: P = P("a", 1);
const B: P = P("b", 1);

/// A process of one of several names of a host.
fn lock_at(w: &mut World, address: &str, name: &str, file: &str, range: ByteRange) -> Verdict {
    let client = w.client_at(address.parse().unwrap(), name);
    let caller = Caller { client, via: via(Transport::Tcp) };
    let call = World::lock_call(P("n", 1), file, range, true, false, false);
    match w.call_as(caller, &call) {
        Handled::Reply(verdict) => verdict,
        other => panic!("{other:?}"),
    }
}

fn locks(all: usize, host: usize) -> Limits {
    Limits { locks: Bounds { all, host }, ..Limits::default() }
}

#[test]
fn the_names_of_one_host_have_one_share_of_the_locks() {
    let mut w = World::with(locks(100, 6));
    let names = ["n1", "n2", "n3", "n4"];
    let mut granted = 0;
    for n in 0..12 {
        let verdict = lock_at(&mut w, "10.1.1.1", names[n % 4], &format!("f{n}"), ByteRange::ALL);
        granted += usize::from(verdict == Verdict::Granted);
    }
    assert_eq!(granted, 6);
    assert!(w.effects.iter().any(|effect| matches!(effect, Effect::Full(Cap::LocksOfHost, ..))));
    assert_eq!(lock_at(&mut w, "10.1.1.2", "n1", "g", ByteRange::ALL), Verdict::Granted);
}

#[test]
fn the_addresses_of_an_ipv6_network_have_half_and_hosts_that_have_little_find_room_in_a_full_table() {
    let mut w = World::with(locks(100, 30));
    let greedy = |w: &mut World, network: u32, n: u32| {
        let address = format!("2001:db8:0:{network:x}::{:x}", n % 7);
        lock_at(w, &address, "n", &format!("{network}/{n}"), ByteRange::ALL) == Verdict::Granted
    };
    assert_eq!((0..70).filter(|n| greedy(&mut w, 1, *n)).count(), 50);
    assert_eq!((0..70).filter(|n| greedy(&mut w, 2, *n)).count(), 40);
    for n in 0..10 {
        assert_eq!(lock_at(&mut w, &format!("10.2.2.{n}"), "n", &format!("own/{n}"), ByteRange::ALL), Verdict::Granted);
    }
    assert_eq!(lock_at(&mut w, "10.2.2.77", "n", "none", ByteRange::ALL), Verdict::NoLocks);
}

#[test]
fn a_lock_whose_handles_have_many_bytes_counts_as_several() {
    let mut w = World::with(locks(100, 8));
    let long = |n: u8| String::from_utf8(vec![b'a' + n; 1024]).unwrap();
    assert_eq!(w.write(A, &long(0), ByteRange::ALL), Verdict::Granted);
    assert_eq!(w.write(A, &long(1), ByteRange::ALL), Verdict::NoLocks, "each counts as five");
    for n in 0..3 {
        assert_eq!(w.write(A, &format!("short{n}"), ByteRange::ALL), Verdict::Granted);
    }
    assert_eq!(w.write(A, "another", ByteRange::ALL), Verdict::NoLocks);
    w.unlock(A, &long(0), ByteRange::ALL);
    assert_eq!(w.write(A, &long(1), ByteRange::ALL), Verdict::Granted);
}

#[test]
fn an_unlock_in_the_middle_of_a_lock_is_taken_beyond_the_share_of_its_host() {
    let mut w = World::with(locks(1000, 20));
    for n in 0..20 {
        w.write(A, "f", bytes(n * 100, n * 100 + 50));
    }
    assert_eq!(w.write(A, "g", ByteRange::ALL), Verdict::NoLocks);
    assert_eq!(w.unlock(A, "f", bytes(10, 20)), Verdict::Granted);
    assert_eq!(w.unlock(A, "f", bytes(110, 120)), Verdict::Granted);
    assert_eq!(w.unlock(A, "f", bytes(210, 220)), Verdict::NoLocks, "one lock could be made into any number");
    assert_eq!(w.unlock(A, "f", bytes(200, 220)), Verdict::Granted, "no more locks than before");
}

#[test]
fn no_cap_refuses_a_reclaim_that_has_something_pending_in_it() {
    let mut w = World::with(locks(100, 2));
    w.write(A, "f", bytes(10, 19));
    w.write(A, "f", bytes(30, 39));
    w.write(B, "g", bytes(0, 9));
    w.begin(Mode::Strict);
    assert_eq!(w.reclaim(A, "h", bytes(0, 9)), Verdict::NoLocks, "nothing of it is known");
    assert_eq!(w.reclaim(A, "f", bytes(0, 25)), Verdict::Granted, "with what the server had lost");
    assert_eq!(w.reclaim_read(A, "f", bytes(32, 34)), Verdict::Granted, "a part, in a weaker mode");
    assert_eq!(w.reclaim(B, "g", bytes(0, 9)), Verdict::Granted);
}

#[test]
fn no_cap_refuses_a_lock_in_place_of_what_its_owner_has() {
    let mut w = World::with(locks(100, 2));
    for file in ["f", "g"] {
        assert_eq!(w.write(A, file, bytes(0, 9)), Verdict::Granted);
    }
    assert_eq!(w.write(A, "h", bytes(0, 9)), Verdict::NoLocks);
    assert_eq!(w.write(A, "f", bytes(0, 9)), Verdict::Granted, "its answer was lost");
    assert_eq!(w.read(A, "g", bytes(0, 19)), Verdict::Granted);
    assert_eq!(w.write(A, "g", bytes(5, 6)), Verdict::NoLocks, "it makes three of one");
}

#[test]
fn cancel_and_free_all_have_no_cap() {
    let mut w = World::with(Limits { waiters: Bounds { all: 100, host: 1 }, ..locks(100, 1) });
    w.write(A, "f", ByteRange::ALL);
    assert_eq!(w.wait(B, "f", bytes(0, 0)), Verdict::Blocked);
    assert_eq!(w.wait(B, "f", bytes(2, 2)), Verdict::NoLocks);
    assert_eq!(w.cancel(B, "f", bytes(0, 0)), Verdict::Granted);
    assert_eq!(w.wait(B, "f", bytes(2, 2)), Verdict::Blocked);
    assert_eq!(w.verdict(A, &Call::FreeAll), Verdict::Granted);
    assert_eq!(w.offers().len(), 1);
}

#[test]
fn a_client_table_full_of_one_networks_clients_has_room_for_other_hosts() {
    let mut w = World::with(Limits { clients: Bounds { all: 20, host: 3 }, ..Limits::default() });
    let mut known = 0;
    for n in 0..12 {
        let address = format!("2001:db8:0:1::{n:x}").parse().unwrap();
        if w.table.has_room_at(address) {
            let id = w.client_at(address, "n");
            let caller = Caller { client: id, via: via(Transport::Tcp) };
            w.call_as(caller, &World::lock_call(P("n", 1), &format!("f{n}"), ByteRange::ALL, true, false, false));
            known += 1;
        } else {
            assert_eq!(w.table.add_client(address, &name("n")), Err(Full), "none of the address makes room");
        }
    }
    assert_eq!(known, 10);
    w.client("another");
    w.check();
    let address = "2001:db8:0:1::ff".parse().unwrap();
    w.table.add_beyond_caps(address, &name("reclaims")).unwrap();
    w.check();
}
