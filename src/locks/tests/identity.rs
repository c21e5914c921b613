//! Who is who: machines that share a name, names that share an address, and what one frees of another.

mod machines;
mod moved;
mod respelled;

use super::*;

const R: ByteRange = ByteRange { start: 0, end: 9 };

/// A machine that calls itself by a name, at an address.
#[derive(Debug, Clone, Copy)]
struct Machine {
    address: &'static str,
    name: &'static str,
    state: i32,
}

impl World {
    fn send(&mut self, from: Machine, call: &Call) -> Verdict {
        let client = self.client_at(Self::ip(from.address), from.name);
        let caller = Caller { client, via: via(Transport::Tcp) };
        match self.call_as(caller, call) {
            Handled::Reply(verdict) => verdict,
            // Unless a test says otherwise, no machine has moved.
            Handled::HasMoved(_) => match self.table.handle_after(self.now, caller, call, OtherDomain::NotMoved) {
                Handled::Reply(verdict) => verdict,
                waits => panic!("{waits:?}"),
            },
            waits => panic!("{waits:?}"),
        }
    }

    /// All machines count their processes alike: this is the first of each.
    fn take(&mut self, from: Machine, file: &str) -> Verdict {
        self.send(from, &lock(from, file, false))
    }

    fn give_back(&mut self, from: Machine, file: &str) -> Verdict {
        self.send(from, &Call::Unlock(wanted(P("any", 1), file, R, true)))
    }

    fn notice(&mut self, source: &str, text: &str, state: i32) -> Reboot {
        let outcome = self.table.reboot_notice(Self::ip(source), &name(text), NsmState(state));
        self.check();
        outcome
    }

    /// `fe80::1%2` is the machine at `fe80::1` on interface 2.
    fn ip(text: &str) -> IpAddr {
        crate::wire::scope::parse(text).unwrap()
    }

    /// The names of the suspects, and their addresses.
    fn suspects(&self) -> Vec<String> {
        let rows = self.table.list_clients(0).clients.into_vec();
        let suspects = rows.into_iter().filter(|row| !row.suspicions.as_slice().is_empty());
        suspects.map(|row| format!("{} {}", row.name, row.addresses.as_slice()[0])).collect()
    }

    fn is_held(&self, file: &str) -> bool {
        !self.picture(file).is_empty()
    }
}

/// An owner of `from` with this svid and owner handle.
fn owner_call(
    from: Machine,
    (svid, oh): (i32, &str),
    file: &str,
    range: ByteRange,
    exclusive: bool,
    reclaim: bool,
) -> Call {
    let process = Process { svid: Svid(svid), oh: OwnerHandle::new(oh.as_bytes()).unwrap() };
    let wanted = Wanted { process, ..wanted(P("any", 1), file, range, exclusive) };
    let Call::Lock { block, monitored, state, cookie, .. } = lock(from, file, reclaim) else { panic!("a LOCK") };
    Call::Lock { wanted, block, reclaim, monitored, state, cookie }
}

fn lock(from: Machine, file: &str, reclaim: bool) -> Call {
    Call::Lock {
        wanted: wanted(P("any", 1), file, R, true),
        block: false,
        reclaim,
        monitored: true,
        state: NsmState(from.state),
        cookie: Cookie::new(b"c").unwrap(),
    }
}

/// Pairs of machines that nothing but their address tells apart, or hardly more.
fn namesakes() -> Vec<[Machine; 2]> {
    let machine = |address, name, state| Machine { address, name, state };
    vec![
        [machine("192.0.2.11", "app", 3), machine("192.0.2.12", "app", 3)],
        [machine("192.0.2.11", "app", 1001), machine("192.0.2.12", "app", 2003)],
        [machine("2001:db8::11", "pod-0.svc", 3), machine("2001:db8::12", "pod-0.svc", 3)],
        [machine("192.0.2.11", "app", 3), machine("2001:db8::11", "app", 3)],
        [machine("fe80::11%2", "app", 3), machine("fe80::11%3", "app", 3)],
        [machine("fe80::11%2", "app", 3), machine("2001:db8::11", "app", 3)],
        [machine("192.0.2.11", "LIBNFS", 5), machine("192.0.2.12", "libnfs", 5)],
        [machine("192.0.2.11", "clone", 3), machine("192.0.2.12", "clone.example.org", 3)],
    ]
}

#[test]
fn free_all_frees_what_a_reboot_notice_of_that_name_from_there_would_mean() {
    let at = |address, name| Machine { address, name, state: 0 };
    let (source, other) = ("192.0.2.11", "192.0.2.12");
    for (taken, said, frees) in [
        ("PC", "pc", true),
        ("pc.example.org", "PC.example.org.", true),
        ("pc.example.org", "pc", true),
        ("pc", "192.0.2.11", true),
        ("pc", "pc2", false),
        ("pc", "192.0.2.12", false),
    ] {
        let mut w = World::new();
        w.take(at(source, taken), "f");
        w.take(at(other, taken), "g");
        assert_eq!(w.table.free_all(World::ip(source), &name(said)), Handled::Reply(Verdict::Granted));
        w.check();
        assert_eq!((w.is_held("f"), w.is_held("g")), (!frees, true), "{taken} {said}");
    }
}

#[test]
fn two_machines_of_one_name_never_both_hold_an_exclusive_lock() {
    for [a, b] in namesakes() {
        let mut w = World::new();
        assert_eq!((w.take(a, "f"), w.take(b, "f")), (Verdict::Granted, Verdict::Denied));
        assert_eq!(w.give_back(b, "f"), Verdict::Granted, "it frees nothing");
        assert_eq!(w.take(b, "f"), Verdict::Denied);
        w.begin(Mode::Strict);
        assert_eq!(w.send(b, &lock(b, "f", true)), Verdict::Denied, "nor in a run");
        assert_eq!(w.send(a, &lock(a, "f", true)), Verdict::Granted);
        assert_eq!((w.counts().reclaimed, w.counts().conflicts), (1, 1));
    }
}

#[test]
fn what_one_machine_sends_frees_nothing_of_its_namesakes() {
    for [a, b] in namesakes() {
        let mut w = World::new();
        w.take(a, "a");
        w.take(b, "b");
        assert_eq!(w.send(b, &Call::FreeAll), Verdict::Granted);
        assert_eq!((w.is_held("a"), w.is_held("b")), (true, false));
        w.take(b, "b");
        assert_eq!(w.notice(b.address, b.name, b.state + 2), Reboot::Released(1));
        assert_eq!((w.is_held("a"), w.is_held("b")), (true, false));
        assert_eq!(w.suspects(), [format!("{} {}", a.name, a.address)], "it may be the same machine");
    }
}

/// One machine before and after: its lock manager restarted, or its name changed.
fn spellings() -> Vec<[(Machine, &'static str); 2]> {
    let at = |name| Machine { address: "192.0.2.21", name, state: 3 };
    let six = |name| Machine { address: "2001:db8::21", name, state: 3 };
    vec![
        [(at("mac"), "311-1790000001"), (at("mac"), "9127-1790009999")],
        [(six("mac"), "a"), (six("mac"), "b")],
        [(at("BOX"), "1@BOX"), (at("box"), "1@box")],
        [(at("h7"), "1@h7"), (at("h7.example.org"), "1@h7.example.org")],
        [(six("h7.example.org"), "oh"), (six("h7"), "oh")],
        [(at("h8.example.org."), "oh"), (at("h8.example.org"), "oh")],
        [(at("h8"), "oh"), (at("h8.example.org."), "oh")],
        [(at("mac.local"), "x"), (at("mac.corp.example.org"), "y")],
    ]
}

#[test]
fn in_a_run_a_reclaim_under_another_spelling_takes_back_the_lock_once() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        for mode in [Mode::Strict, Mode::Targeted] {
            let mut w = World::new();
            let call = |m, oh, reclaim| owner_call(m, (501, oh), "f", bytes(5, 20), true, reclaim);
            assert_eq!(w.send(old, &call(old, old_oh, false)), Verdict::Granted);
            w.begin(mode);
            assert_eq!(w.send(new, &call(new, new_oh, true)), Verdict::Granted, "{old_oh} {new_oh}");
            assert_eq!(w.send(new, &call(new, new_oh, true)), Verdict::Granted, "a repetition");
            assert_eq!(w.send(old, &call(old, old_oh, true)), Verdict::Denied, "both cannot have it");
            let counts = w.counts();
            assert_eq!((counts.in_scope, counts.reclaimed, counts.pending), (1, 1, 0));
            assert_eq!((counts.resurrected, counts.conflicts), (0, 1));
            w.pass(200);
            let result = w.settle();
            assert_eq!((result.result.counts.reclaimed, result.result.counts.dropped), (1, 0));
            assert_eq!(w.picture("f"), [format!("{}/501 write 5-20 held", new.name)]);
        }
    }
}

#[test]
fn a_read_lock_under_another_spelling_of_one_name_is_reclaimed_and_not_dropped_beside_it() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        let mut w = World::new();
        let call = |m, oh, reclaim| owner_call(m, (7, oh), "f", bytes(0, 0), false, reclaim);
        w.send(old, &call(old, old_oh, false));
        w.begin(Mode::Strict);
        assert_eq!(w.send(new, &call(new, new_oh, true)), Verdict::Granted);
        let alike = name(old.name).matches(&name(new.name));
        assert_eq!((w.counts().reclaimed, w.counts().resurrected), if alike { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_reclaim_of_another_svid_range_or_mode_under_another_spelling_is_a_conflict() {
    for [(old, old_oh), (new, new_oh)] in spellings() {
        for (svid, range, exclusive) in [
            (502, bytes(5, 20), true),
            (501, bytes(5, 19), true),
            (501, bytes(4, 20), true),
            (501, bytes(5, 20), false),
        ] {
            let mut w = World::new();
            w.send(old, &owner_call(old, (501, old_oh), "f", bytes(5, 20), true, false));
            w.begin(Mode::Strict);
            let reclaim = owner_call(new, (svid, new_oh), "f", range, exclusive, true);
            assert_eq!(w.send(new, &reclaim), Verdict::Denied);
            assert_eq!((w.counts().pending, w.counts().conflicts), (1, 1));
        }
    }
}

#[test]
fn a_share_is_reclaimed_under_another_name_with_an_equal_owner_handle() {
    let share = |oh: &str, reclaim| Call::Share {
        file: FileHandle::new(b"s").unwrap(),
        oh: OwnerHandle::new(oh.as_bytes()).unwrap(),
        access: 1,
        mode: 2,
        reclaim,
    };
    let at = |name| Machine { address: "192.0.2.21", name, state: 3 };
    for (oh, expected) in [("same", (1, 0)), ("other", (0, 1))] {
        let mut w = World::new();
        assert_eq!(w.send(at("PC7"), &share("same", false)), Verdict::Granted);
        w.begin(Mode::Strict);
        w.send(at("pc7.example.org"), &share(oh, true));
        assert_eq!((w.counts().reclaimed, w.counts().resurrected + w.counts().conflicts), expected);
    }
}

#[test]
fn each_of_two_shares_of_one_open_file_is_reclaimed_by_another_path_or_under_another_name() {
    let share = |(access, mode), reclaim| Call::Share {
        file: FileHandle::new(b"s").unwrap(),
        oh: OwnerHandle::new(b"same").unwrap(),
        access,
        mode,
        reclaim,
    };
    for shares in [[(1, 0), (2, 2)], [(2, 2), (1, 0)], [(1, 0), (2, 0)], [(1, 0), (1, 2)]] {
        for (name, transport) in [("PC7", Transport::Udp), ("pc7.example.org", Transport::Tcp)] {
            let mut w = World::new();
            let address = World::ip("192.0.2.21");
            let send = |w: &mut World, name: &str, transport, share| {
                let caller = Caller { client: w.client_at(address, name), via: via(transport) };
                w.call_as(caller, &share)
            };
            let granted = Handled::Reply(Verdict::Granted);
            for one in shares {
                assert_eq!(send(&mut w, "PC7", Transport::Tcp, share(one, false)), granted);
            }
            w.begin(Mode::Strict);
            for one in shares.into_iter().rev() {
                assert_eq!(send(&mut w, name, transport, share(one, true)), granted, "{one:?} of {shares:?} as {name}");
            }
            let Counts { reclaimed, pending, resurrected, conflicts, .. } = w.counts();
            assert_eq!((reclaimed, pending, resurrected, conflicts), (2, 0, 0, 0), "{shares:?} as {name}");
        }
    }
}

#[test]
fn a_reclaim_from_another_address_is_a_conflict_and_the_lock_it_may_mean_is_kept() {
    let at = |address| Machine { address, name: "roamer.example.org", state: 3 };
    let (before, after) = (at("192.0.2.21"), at("2001:db8::99"));
    let mut w = World::new();
    w.take(before, "moved");
    w.take(before, "stale");
    w.take(before, "live");
    w.begin(Mode::Strict);
    assert_eq!(w.send(after, &lock(after, "moved", true)), Verdict::Denied);
    assert_eq!(w.send(before, &lock(before, "live", true)), Verdict::Granted);
    w.tell("roamer.example.org", Delivery::Acked);
    w.pass(120);
    let result = w.settle();
    assert_eq!((result.result.counts.kept, result.result.counts.dropped), (1, 1));
    assert_eq!((w.is_held("moved"), w.is_held("stale"), w.is_held("live")), (true, false, true));
    let rows = result.locks.as_slice();
    let conflict = rows.iter().find(|row| row.fate == Fate::Conflict).unwrap();
    assert_eq!(conflict.other.0.as_ref().unwrap().address.0, World::ip(before.address), "both are named");
}

/// What a machine that rebooted may say, and what its calls had said.
const GENUINE: [(&str, &str, &str); 11] = [
    ("192.0.2.31", "host.example.org", "host.example.org"),
    ("192.0.2.31", "host.example.org", "HOST.Example.org"),
    ("192.0.2.31", "host.example.org", "host.example.org."),
    ("192.0.2.31", "host.example.org.", "host"),
    ("2001:db8::31", "HOST", "host.example.org."),
    ("192.0.2.31", "host.example.org", "192.0.2.31"),
    ("2001:db8::31", "host", "2001:db8::31"),
    ("192.0.2.31", "192.0.2.31", "192.0.2.31"),
    ("fe80::31%2", "host", "host.example.org"),
    ("fe80::31%2", "host", "fe80::31"),
    ("fe80::31%2", "host", "fe80::31%its-own0"),
];

#[test]
fn a_genuine_notice_frees_its_machines_locks_however_it_spells_the_name() {
    for (address, called, said) in GENUINE {
        let mut w = World::new();
        w.take(Machine { address, name: called, state: 11 }, "f");
        assert_eq!(w.notice(address, said, 13), Reboot::Released(1), "{called} {said}");
        assert!(!w.is_held("f") && w.suspects().is_empty());
    }
}

#[test]
fn a_notice_means_every_spelling_of_its_machine_and_a_spelling_without_locks_hides_none() {
    for (idle, holder, said) in [
        ("srv9.example.org", "srv9", "srv9.example.org"),
        ("srv9", "srv9.example.org", "srv9"),
        ("SRV9", "srv9", "SRV9"),
        ("srv9.", "srv9", "192.0.2.32"),
        ("srv9.example.org.", "srv9.example.org", "srv9.example.org."),
    ] {
        let at = |name, state| Machine { address: "192.0.2.32", name, state };
        let mut w = World::new();
        w.take(at(idle, 11), "gone");
        w.give_back(at(idle, 11), "gone");
        w.take(at(holder, 11), "f");
        assert_eq!(w.notice("192.0.2.32", said, 13), Reboot::Released(1), "{idle} {holder} {said}");
        w.take(at(idle, 13), "one");
        w.take(at(holder, 13), "two");
        assert_eq!(w.notice("192.0.2.32", said, 15), Reboot::Released(2));
    }
}

#[test]
fn behind_one_address_a_notice_frees_only_what_cannot_be_anothers() {
    let at = |name| Machine { address: "192.0.2.33", name, state: 3 };
    let world = || {
        let mut w = World::new();
        for host in ["x", "x.one.org", "x.two.org", "y"] {
            w.take(at(host), host);
        }
        w
    };
    let left = |said: &str| {
        let mut w = world();
        w.notice("192.0.2.33", said, 5);
        let left: Vec<_> = ["x", "x.one.org", "x.two.org", "y"].into_iter().filter(|file| w.is_held(file)).collect();
        (left, w.suspects().len())
    };
    assert_eq!(left("x"), (vec!["x.one.org", "x.two.org", "y"], 2));
    assert_eq!(left("X.two.org."), (vec!["x", "x.one.org", "y"], 1));
    assert_eq!(left("y.example.org"), (vec!["x", "x.one.org", "x.two.org"], 0));
    assert_eq!(left("192.0.2.33"), (vec!["x", "x.one.org", "x.two.org", "y"], 4));
}

#[test]
fn a_notice_frees_nothing_that_was_taken_under_its_number_or_a_later_one() {
    // The number that the locks carry, and those of notices after it.
    for (taken, notices) in [
        (13, vec![13, 13]),
        (13, vec![11]),
        (3, vec![3]),
        (-2_147_483_647, vec![2_147_483_647]),
        (-5, vec![-7, -5]),
        (1_000_001, vec![3]),
        (7, vec![0]),
    ] {
        let host = Machine { address: "192.0.2.34", name: "host", state: taken };
        let mut w = World::new();
        w.take(host, "f");
        for number in notices {
            assert_eq!(w.notice(host.address, "host", number), Reboot::Repeated, "{taken} {number}");
            assert!(w.is_held("f"));
            assert_eq!(w.suspects(), ["host 192.0.2.34"]);
        }
    }
    for (taken, number) in [(13, 15), (2_147_483_647, -2_147_483_647), (-5, -3), (0, 3), (13, 14)] {
        let host = Machine { address: "192.0.2.34", name: "host", state: taken };
        let mut w = World::new();
        w.take(host, "f");
        assert_eq!(w.notice(host.address, "host", number), Reboot::Released(1), "{taken} {number}");
        assert!(w.suspects().is_empty());
    }
}

#[test]
fn late_and_repeated_copies_of_a_notice_free_nothing_newer() {
    for number_known in [true, false] {
        let host = |state| Machine { address: "192.0.2.35", name: "host", state: if number_known { state } else { 0 } };
        let mut w = World::new();
        w.take(host(11), "f");
        assert_eq!(w.notice("192.0.2.35", "host.example.org", 13), Reboot::Released(1));
        w.take(host(13), "g");
        for copy in [13, 11, 13] {
            assert_eq!(w.notice("192.0.2.35", "host", copy), Reboot::Repeated);
        }
        assert!(w.is_held("g"));
        assert_eq!(w.suspects().len(), 1);
        assert_eq!(w.notice("192.0.2.35", "host", 15), Reboot::Released(1));
        assert!(w.suspects().is_empty());
    }
}

#[test]
fn what_a_notice_may_mean_and_does_not_is_suspect() {
    let at = |address, name| Machine { address, name, state: 3 };
    let mut w = World::new();
    w.take(at("192.0.2.36", "host"), "f");
    w.take(at("192.0.2.37", "neighbour"), "g");
    w.take(at("192.0.2.38", "stranger"), "h");
    assert_eq!(w.notice("192.0.2.99", "host.example.org", 5), Reboot::Unknown, "its second address");
    assert_eq!(w.suspects(), ["host 192.0.2.36"]);
    assert_eq!(w.notice("192.0.2.37", "renamed", 5), Reboot::Unknown);
    assert_eq!(w.suspects(), ["host 192.0.2.36", "neighbour 192.0.2.37"]);
    assert!(["f", "g", "h"].into_iter().all(|file| w.is_held(file)));

    let mut w = World::new();
    for n in 0..200_u8 {
        let address = format!("192.0.2.{n}");
        w.take(Machine { address: address.leak(), name: "libnfs", state: 3 }, format!("{n}").leak());
    }
    w.notice("192.0.2.1", "libnfs", 5);
    assert_eq!((w.suspects().len(), w.table.totals().locks), (64, 199), "a bounded number of them");
}
