//! One machine whose lock manager restarted or whose name changed, outside of a run; and what only looks like one.

use super::*;

fn unlock_of(m: Machine, oh: &str, range: ByteRange) -> Call {
    let Call::Lock { wanted, .. } = owner_call(m, (501, oh), "f", range, true, false) else { panic!("a LOCK") };
    Call::Unlock(wanted)
}

fn blocking(call: Call) -> Call {
    let Call::Lock { wanted, reclaim, monitored, state, cookie, .. } = call else { panic!("a LOCK") };
    Call::Lock { wanted, block: true, reclaim, monitored, state, cookie }
}

const BLOCKER: Machine = Machine { address: "192.0.2.99", name: "blocker", state: 3 };

#[test]
fn what_is_given_up_under_another_spelling_is_freed() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        for range in [R, bytes(0, u64::MAX), bytes(4, 7)] {
            let mut w = World::new();
            w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
            w.send(old, &owner_call(old, (501, old_oh), "g", R, true, false));
            assert_eq!(w.send(new, &unlock_of(new, new_oh, range)), Verdict::Granted);
            let free = if range == bytes(4, 7) { bytes(4, 7) } else { R };
            assert_eq!(w.write(P("other", 1), "f", free), Verdict::Granted, "{old_oh} {new_oh} {range}");
            assert_eq!(w.picture("g"), [format!("{}/501 write 0-9 held", new.name)], "all of it is moved");
            assert!(w.suspects().is_empty());
        }
        let mut w = World::new();
        w.take(BLOCKER, "f");
        assert_eq!(w.send(old, &blocking(owner_call(old, (501, old_oh), "f", R, true, false))), Verdict::Blocked);
        let Call::Unlock(wanted) = unlock_of(new, new_oh, R) else { panic!() };
        assert_eq!(w.send(new, &Call::Cancel(wanted)), Verdict::Granted);
        w.give_back(BLOCKER, "f");
        assert!(!w.is_held("f") && w.suspects().is_empty());
    }
}

#[test]
fn no_process_is_denied_by_its_own_lock_under_another_spelling() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        for (had, wanted, left) in [
            ((R, true), (R, true), vec!["write 0-9"]),
            ((R, false), (bytes(0, 19), true), vec!["write 0-19"]),
            ((R, true), (bytes(5, 6), false), vec!["write 0-4", "read 5-6", "write 7-9"]),
        ] {
            let mut w = World::new();
            let call = |m, oh, (range, exclusive)| owner_call(m, (501, oh), "f", range, exclusive, false);
            w.send(old, &call(old, old_oh, had));
            let Call::Lock { wanted: test, .. } = call(new, new_oh, wanted) else { panic!() };
            assert_eq!(w.send(new, &Call::Test(test)), Verdict::Granted);
            assert_eq!(w.picture("f")[0].split('/').next(), Some(old.name), "TEST moves nothing");
            assert_eq!(w.send(new, &blocking(call(new, new_oh, wanted))), Verdict::Granted);
            let left: Vec<String> = left.iter().map(|lock| format!("{}/501 {lock} held", new.name)).collect();
            assert_eq!(w.picture("f"), left);
            assert_eq!(w.send(BLOCKER, &lock(BLOCKER, "f", false)), Verdict::Denied, "others are");
        }
    }
}

#[test]
fn a_lock_that_another_owner_is_in_the_way_of_too_joins_nobody() {
    let [(old, old_oh), (new, new_oh)] = spellings()[0];
    let mut w = World::new();
    w.send(old, &owner_call(old, (501, old_oh), "f", R, false, false));
    w.send(BLOCKER, &owner_call(BLOCKER, (501, old_oh), "f", R, false, false));
    let before = w.picture("f");
    assert_eq!(w.send(new, &owner_call(new, (501, new_oh), "f", R, true, false)), Verdict::Denied);
    for other in [502, 1] {
        assert_eq!(w.send(new, &owner_call(new, (other, old_oh), "f", R, true, false)), Verdict::Denied);
    }
    assert_eq!(w.picture("f"), before);
}

#[test]
fn a_share_is_given_back_under_another_name_with_an_equal_owner_handle() {
    let at = |name| Machine { address: "192.0.2.21", name, state: 3 };
    let (file, oh) = (FileHandle::new(b"s").unwrap(), OwnerHandle::new(b"same").unwrap());
    let share = Call::Share { file: file.clone(), oh: oh.clone(), access: 3, mode: 3, reclaim: false };
    let mut w = World::new();
    w.take(BLOCKER, "f");
    let process_0 = owner_call(at("PC7"), (0, "same"), "f", R, true, false);
    assert_eq!(w.send(at("PC7"), &blocking(process_0)), Verdict::Blocked);
    w.send(at("PC7"), &share);
    assert_eq!(w.send(at("pc7.example.org"), &share), Verdict::Granted);
    assert_eq!(w.picture("s").len(), 1);
    w.send(at("pc7"), &Call::Unshare { file, oh, access: 3, mode: 3 });
    assert!(w.picture("s").is_empty());
    assert_eq!(w.picture("f")[0], "PC7/0 write 0-9 waiting", "locks go by svid, and are not moved with shares");
}

#[test]
fn a_former_spelling_that_comes_back_shows_two_owners_that_are_kept_apart() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        let mut w = World::new();
        let call = |m: Machine, oh: &str, file: &str| owner_call(m, (501, oh), file, R, true, false);
        w.send(old, &call(old, old_oh, "f"));
        assert_eq!(w.send(new, &call(new, new_oh, "f")), Verdict::Granted, "the window");
        w.send(old, &unlock_of(old, old_oh, R));
        assert!(w.is_held("f"), "it is not freed for the other one");
        assert_eq!(w.suspects(), [format!("{} {}", new.name, new.address)]);
        assert_eq!(w.send(old, &call(old, old_oh, "g")), Verdict::Granted);
        for _ in 0..3 {
            assert_eq!(w.send(new, &call(new, new_oh, "g")), Verdict::Denied);
            assert_eq!(w.send(old, &call(old, old_oh, "f")), Verdict::Denied);
        }
        w.send(new, &unlock_of(new, new_oh, R));
        w.send(old, &call(old, old_oh, "f"));
        assert_eq!(w.send(new, &call(new, new_oh, "f")), Verdict::Denied, "also when one of them had nothing");
        let third = Machine { name: new.name, ..new };
        assert_eq!(w.send(third, &call(third, "third", "f")), Verdict::Denied);
        assert_eq!(w.send(new, &owner_call(new, (502, new_oh), "h", R, true, false)), Verdict::Granted);
        assert_eq!(w.send(old, &owner_call(old, (502, old_oh), "h", R, true, false)), Verdict::Granted, "another svid");
    }
}

#[test]
fn where_several_machines_share_an_address_nothing_is_freed_and_the_holder_is_suspect() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        let suspect = format!("{} {}", old.name, old.address);
        for n in 0..2 {
            let mut w = World::new();
            if n == 0 {
                w.take(Machine { name: "neighbour", ..old }, "of a neighbour");
            } else {
                // Two clones of one name: either number is used again after the other.
                for state in [77, 3, 77, 3] {
                    w.take(Machine { state, ..new }, "of a clone");
                }
            }
            w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
            let lock = owner_call(new, (501, new_oh), "f", R, true, false);
            assert_eq!(w.send(new, &lock), Verdict::Denied);
            w.send(new, &unlock_of(new, new_oh, R));
            assert!(w.is_held("f") && w.suspects().contains(&suspect), "{:?}", w.suspects());
            w.send(new, &unlock_of(new, new_oh, R));
            let told = |w: &World| {
                w.effects
                    .iter()
                    .filter(|e| matches!(e, Effect::Event("suspect", why) if why.contains("gives up")))
                    .count()
            };
            assert_eq!(told(&w), 1, "once");
        }
    }
}

#[test]
fn who_is_no_client_frees_nothing_of_another_host_at_its_address() {
    let [(old, old_oh), (new, new_oh)] = spellings()[0];
    let (address, stranger, path) = (World::ip(new.address), name("stranger"), via(Transport::Tcp));
    let mut w = World::new();
    w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
    w.table.given_up_by_stranger(World::ip("192.0.2.98"), &stranger, path, &unlock_of(new, new_oh, R));
    assert!(w.suspects().is_empty());
    assert!(!w.table.meets_its_own(address, &stranger, path, &unlock_of(new, new_oh, R)));
    assert!(w.table.meets_its_own(address, &name("MAC."), path, &unlock_of(new, new_oh, R)));
    w.table.given_up_by_stranger(address, &stranger, path, &unlock_of(new, new_oh, R));
    w.check();
    assert_eq!((w.is_held("f"), w.suspects().len()), (true, 1));
}

#[test]
fn a_late_copy_of_a_notice_frees_nothing_that_came_under_another_spelling_since() {
    let at = |name| Machine { address: "192.0.2.21", name, state: 0 };
    let mut w = World::new();
    w.take(at("mac"), "f");
    assert_eq!(w.notice("192.0.2.21", "mac", 13), Reboot::Released(1));
    w.take(at("mac"), "f");
    assert_eq!(w.take(at("MAC"), "f"), Verdict::Granted);
    w.notice("192.0.2.21", "mac", 13);
    assert!(w.is_held("f"));
}

#[test]
fn while_a_grant_is_unanswered_its_owner_keeps_its_spelling() {
    let [(old, old_oh), (new, new_oh)] = spellings()[0];
    let mut w = World::new();
    w.take(BLOCKER, "f");
    w.send(old, &blocking(owner_call(old, (501, old_oh), "f", R, true, false)));
    w.give_back(BLOCKER, "f");
    let (offer, _) = w.offers()[0].clone();
    assert_eq!(w.send(new, &owner_call(new, (501, new_oh), "f", R, true, false)), Verdict::Denied);
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.send(new, &owner_call(new, (501, new_oh), "f", R, true, false)), Verdict::Granted);
}

#[test]
fn requests_that_wait_go_along_to_the_new_spelling_and_are_served_there() {
    let [(old, old_oh), (new, new_oh)] = spellings()[3];
    let mut w = World::new();
    w.take(BLOCKER, "g");
    w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
    for (m, oh) in [(old, old_oh), (new, new_oh)] {
        assert_eq!(w.send(m, &blocking(owner_call(m, (501, oh), "g", R, true, false))), Verdict::Blocked);
    }
    assert_eq!(w.send(new, &blocking(owner_call(new, (501, new_oh), "f", R, true, false))), Verdict::Granted);
    assert_eq!(w.table.totals().waiters, 1, "two requests for one lock of one owner are one");
    w.give_back(BLOCKER, "g");
    let (offer, _) = w.offers()[0].clone();
    w.answer(offer, OfferAnswer::Accepted);
    assert_eq!(w.picture("g"), [format!("{}/501 write 0-9 held", new.name)]);
}

#[test]
fn a_request_that_goes_along_keeps_its_place_among_those_of_others() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        let mut w = World::new();
        w.take(BLOCKER, "g");
        w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
        assert_eq!(w.send(old, &blocking(owner_call(old, (501, old_oh), "g", R, true, false))), Verdict::Blocked);
        assert_eq!(w.wait(P("later", 1), "g", R), Verdict::Blocked);
        assert_eq!(w.send(new, &owner_call(new, (501, new_oh), "f", R, true, false)), Verdict::Granted);
        w.give_back(BLOCKER, "g");
        assert_eq!(w.offers().into_iter().map(|(_, wanted)| wanted.process.svid.0).collect::<Vec<_>>(), [501]);
        assert!(w.picture("g").contains(&"later/1 write 0-9 waiting".to_owned()));
    }
}

#[test]
fn a_request_that_only_the_other_spelling_is_in_the_way_of_is_served_when_both_are_one() {
    let [(old, old_oh), (new, new_oh)] = spellings()[0];
    for [(reader, reader_oh), (writer, writer_oh)] in [[(old, old_oh), (new, new_oh)], [(new, new_oh), (old, old_oh)]] {
        let mut w = World::new();
        w.send(BLOCKER, &owner_call(BLOCKER, (501, "oh"), "g", R, false, false));
        w.send(reader, &owner_call(reader, (501, reader_oh), "g", R, false, false));
        w.send(old, &owner_call(old, (501, old_oh), "f", R, true, false));
        let write = blocking(owner_call(writer, (501, writer_oh), "g", R, true, false));
        assert_eq!(w.send(writer, &write), Verdict::Blocked);
        w.send(BLOCKER, &unlock_of_file(BLOCKER, "oh", "g"));
        assert!(w.offers().is_empty(), "the other one reads");
        assert_eq!(w.send(new, &owner_call(new, (501, new_oh), "f", R, true, false)), Verdict::Granted);
        assert_eq!(w.offers().len(), 1, "{reader:?} read");
    }
}

fn unlock_of_file(m: Machine, oh: &str, file: &str) -> Call {
    let Call::Lock { wanted, .. } = owner_call(m, (501, oh), file, R, true, false) else { panic!("a LOCK") };
    Call::Unlock(wanted)
}

#[test]
fn among_thousands_of_readers_the_one_that_may_be_meant_is_still_found() {
    let [(old, old_oh), (new, new_oh)] = spellings()[0];
    let read = |m, svid, oh: &str| owner_call(m, (svid, oh), "f", R, false, false);
    let mut w = World::new();
    w.take(Machine { name: "neighbour", ..old }, "of a neighbour");
    for svid in 1_000..3_000 {
        // The invariants of so many are not to be checked after each.
        for (m, call) in [(BLOCKER, read(BLOCKER, 501, &svid.to_string())), (old, read(old, svid, old_oh))] {
            let caller = Caller { client: w.client_at(World::ip(m.address), m.name), via: via(Transport::Tcp) };
            assert_eq!(w.table.handle(w.now, caller, &call), Handled::Reply(Verdict::Granted));
        }
    }
    assert_eq!(w.send(new, &read(new, 1_500, new_oh)), Verdict::Granted);
    w.send(old, &unlock_of_reader(old, 2_600, old_oh));
    assert!(w.suspects().is_empty(), "it has given up its own");
    w.send(new, &unlock_of_reader(new, 2_500, new_oh));
    assert_eq!(w.suspects(), [format!("{} {}", old.name, old.address)], "it holds what is given up");
    assert_eq!(w.table.totals().locks, 4_001);
}

fn unlock_of_reader(m: Machine, svid: i32, oh: &str) -> Call {
    let Call::Lock { wanted, .. } = owner_call(m, (svid, oh), "f", R, false, false) else { panic!("a LOCK") };
    Call::Unlock(wanted)
}

#[test]
fn what_a_release_dropped_is_not_moved_to_another_spelling_nor_in_the_way_of_what_waits_there() {
    let part = |r: ByteRange| Call::Unlock(wanted(P("any", 1), "f", r, true));
    let wait = |from| match lock(from, "f", false) {
        Call::Lock { wanted, monitored, state, cookie, .. } => {
            Call::Lock { wanted, block: true, reclaim: false, monitored, state, cookie }
        }
        other => panic!("{other:?}"),
    };
    let address = World::address("h").to_string().leak();
    let at = |name| Machine { address, name, state: 11 };
    let (before, now) = (at("h"), at("h.example.org"));
    let holder = Machine { address: "192.0.2.99", name: "holder", state: 3 };
    let blocked = || {
        let mut w = World::new();
        w.take(holder, "f");
        assert_eq!(w.send(before, &wait(before)), Verdict::Blocked);
        w.void_all_of("h");
        w
    };
    let rest = |mut w: World| {
        while !w.table.settle_sweep(1) {}
        w.check();
        w.give_back(holder, "f");
        w.offers().len()
    };
    let waiting = |w: &World| w.rows().iter().filter(|row| row.state == LockState::Waiting).count();

    let mut w = blocked();
    assert_eq!(waiting(&w), 0, "it is not listed either");
    w.send(now, &part(ByteRange { start: 0, end: u64::MAX }));
    assert_eq!(rest(w), 0, "nobody waits any more");

    let mut w = blocked();
    assert_eq!(w.send(now, &wait(now)), Verdict::Blocked);
    assert_eq!(rest(w), 1, "it has asked again, under its new name");
}
