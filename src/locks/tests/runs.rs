//! Scope, counts, deadlines, aborts, reboot notices, late reclaims.

use super::*;

const A: P = P("a", 1);
const B: P = P("b", 1);
const C: P = P("c", 1);
const R: ByteRange = ByteRange { start: 0, end: 9 };

/// `a` and `b` hold two locks each, on `f` and `g`.
fn two_clients() -> World {
    let mut w = World::new();
    for (process, range) in [(A, R), (B, bytes(10, 19))] {
        w.write(process, "f", range);
        w.write(process, "g", range);
    }
    w
}

fn handle(file: &str) -> FileHandle {
    FileHandle::new(file.as_bytes()).unwrap()
}

#[test]
fn scopes_of_different_kinds_intersect_and_of_one_kind_add_up() {
    for (clients, files, in_scope, told) in [
        (vec![], vec![], 4, 3),
        (vec!["a"], vec![], 2, 1),
        (vec!["a", "b"], vec![], 4, 2),
        (vec![], vec!["f"], 2, 2),
        (vec!["a"], vec!["f"], 1, 1),
        (vec!["a"], vec!["f", "g", "none"], 2, 1),
    ] {
        let mut w = two_clients();
        w.client("idle");
        let mode = if clients.is_empty() && files.is_empty() { Mode::Strict } else { Mode::Targeted };
        let mut args = w.begin_args(mode);
        args.scope.clients = List::clipped(clients.iter().map(|c| client_ref(c)).collect());
        args.scope.files = List::clipped(files.iter().map(|f| handle(f)).collect());
        let begun = w.begin_with(&args);
        assert_eq!((begun.in_scope, begun.clients), (in_scope, told), "{clients:?} {files:?}");
        let pending = w.rows().iter().filter(|r| r.state == LockState::Pending).count();
        assert_eq!(pending as u64, in_scope);
    }
}

#[test]
fn begin_is_refused_for_what_makes_no_sense() {
    let mut w = two_clients();
    let args = w.begin_args(Mode::Targeted);
    let with = |change: &dyn Fn(&mut BeginArgs)| {
        let mut args = args.clone();
        change(&mut args);
        args
    };
    for (args, code) in [
        (with(&|a| a.grace_ms = 0), RefusalCode::BadRequest),
        (with(&|a| a.grace_max_ms = 1), RefusalCode::BadRequest),
        (with(&|a| a.grace_max_ms = u64::MAX), RefusalCode::BadRequest),
        (with(&|a| a.scope.clients = List::clipped(vec![client_ref("nobody")])), RefusalCode::BadRequest),
        (
            with(&|a| {
                a.mode = Mode::Strict;
                a.scope.files = List::clipped(vec![handle("f")]);
            }),
            RefusalCode::BadRequest,
        ),
    ] {
        assert_eq!(w.table.check_begin(&args).unwrap_err().code, code);
    }
    w.begin(Mode::Strict);
    assert_eq!(w.table.check_begin(&args).unwrap_err().code, RefusalCode::RunActive);
}

#[test]
fn unmonitored_locks_are_marked_only_when_asked_for() {
    for (include, in_scope, unmonitored) in [(false, 1, 1), (true, 2, 0)] {
        let mut w = World::new();
        w.write(A, "f", R);
        let call = Call::Lock {
            wanted: wanted(A, "g", R, true),
            block: false,
            reclaim: false,
            monitored: false,
            state: NsmState(0),
            cookie: Cookie::new(b"").unwrap(),
        };
        assert_eq!(w.verdict(A, &call), Verdict::Granted);
        let mut args = w.begin_args(Mode::Strict);
        args.policy.include_unmonitored = include;
        let begun = w.begin_with(&args);
        assert_eq!((begun.in_scope, begun.unmonitored), (in_scope, unmonitored));
        assert_eq!(w.reclaim(A, "g", R), Verdict::Granted);
    }
}

#[test]
fn the_deadline_moves_with_reclaims_and_acks_up_to_the_latest_one() {
    let mut w = two_clients();
    w.begin(Mode::Strict);
    let at = |w: &World| w.table.next_timeout(false).unwrap().saturating_sub(Duration::from_secs(1000));
    assert_eq!(at(&w), Duration::from_secs(90));
    w.pass(80);
    w.reclaim(A, "f", R);
    assert_eq!(at(&w), Duration::from_secs(95));
    w.pass(10);
    w.tell("b", Delivery::Acked);
    assert_eq!(at(&w), Duration::from_secs(105));
    assert_eq!(w.table.next_timeout(true), Some(Duration::from_secs(1_107)));
    w.pass(85);
    w.reclaim(A, "g", R);
    assert_eq!(at(&w), Duration::from_mins(3), "the latest deadline");
    w.pass(5);
    assert_eq!(w.table.on_timeout(w.now, true), None, "an attached controller's settle is awaited");
    assert_eq!(w.table.on_timeout(w.now, false), Some(Due::SettleRun));
}

#[test]
fn an_operator_can_extend_but_never_shorten() {
    let mut w = two_clients();
    w.begin(Mode::Strict);
    let run = w.table.run_status(w.now).unwrap().run;
    let remaining = |w: &World| w.table.run_status(w.now).unwrap().remaining_ms;
    w.table.extend(w.now, &ExtendArgs { run, remaining_ms: 5 }).unwrap();
    assert_eq!(remaining(&w), 90_000);
    w.table.extend(w.now, &ExtendArgs { run, remaining_ms: u64::MAX }).unwrap();
    assert_eq!(remaining(&w), 180_000);
}

#[test]
fn a_run_without_a_notice_is_due_for_abort() {
    let mut w = two_clients();
    w.begin(Mode::Strict);
    w.pass(90);
    assert_eq!(w.table.on_timeout(w.now, false), Some(Due::AbortRun));
}

#[test]
fn abort_gives_every_pending_lock_back_and_takes_late_reclaims() {
    let mut w = two_clients();
    w.begin(Mode::Strict);
    w.reclaim(A, "f", R);
    w.unlock(B, "g", bytes(10, 19));
    let result = w.table.abort(0, "by hand").unwrap();
    w.check();
    let counts = result.result.counts;
    assert_eq!((counts.in_scope, counts.reclaimed, counts.released, counts.kept), (4, 1, 1, 2));
    assert_eq!(w.picture("f"), ["a/1 write 0-9 held", "b/1 write 10-19 held"]);
    assert_eq!(w.reclaim(B, "f", bytes(10, 19)), Verdict::Granted, "what it holds");
    assert_eq!(w.reclaim(B, "h", R), Verdict::Granted, "late, unknown");
    assert_eq!(w.write(C, "i", R), Verdict::Granted);
}

#[test]
fn late_reclaims_are_granted_if_nobody_had_the_range_since_begin() {
    let mut w = two_clients();
    w.client("c");
    w.begin(Mode::Targeted);
    w.write(C, "x", R);
    w.unlock(C, "x", R);
    w.tell("a", Delivery::Acked);
    w.tell("b", Delivery::Acked);
    w.pass(60);
    w.reclaim(B, "f", bytes(10, 19));
    let result = w.settle();
    assert_eq!(result.result.counts.dropped, 3);
    assert_eq!(w.reclaim(A, "f", R), Verdict::Granted, "dropped a moment ago, free since");
    assert_eq!(w.reclaim(A, "x", R), Verdict::Denied, "c had it and gave it up");
    assert_eq!(w.reclaim(A, "x", bytes(10, 10)), Verdict::Granted, "beside that range");
    w.write(C, "g", R);
    assert_eq!(w.reclaim(A, "g", R), Verdict::Denied, "c has it now");
    w.unlock(C, "g", R);
    assert_eq!(w.reclaim(A, "g", R), Verdict::Denied, "c had it since the settle");
    assert_eq!(w.reclaim(P("stranger", 1), "y", R), Verdict::Grace, "was not notified");
    let late: Vec<_> = w
        .effects
        .iter()
        .filter_map(|e| match e {
            Effect::Late(_, row) => Some((row.fate, row.range, row.late)),
            _ => None,
        })
        .collect();
    assert_eq!(late[0], (Fate::Resurrected, R, true));
    assert_eq!(late.iter().filter(|l| l.0 == Fate::Conflict).count(), 2, "each once");
    w.pass(120);
    assert_eq!(w.table.on_timeout(w.now, false), None);
    assert_eq!(w.reclaim(A, "z", R), Verdict::Grace, "the window is over");
}

#[test]
fn refused_late_reclaims_are_told_of_clients_of_the_run_and_leave_room_for_granted_ones() {
    let mut w = two_clients();
    w.begin(Mode::Targeted);
    w.settle();
    w.table.late.limit_refused(Bounds { all: 20, host: 10 });
    w.write(C, "x", bytes(0, 99));
    let late = |w: &mut World| {
        let late = |e: &Effect| matches!(e, Effect::Late(..));
        std::mem::take(&mut w.effects).iter().filter(|e| late(e)).count()
    };
    for _ in 0..2 {
        assert_eq!(w.reclaim(P("stranger", 1), "x", bytes(5, 5)), Verdict::Denied);
        assert_eq!(late(&mut w), 0, "it would make a fetched result unfetched");
    }
    for told in [1, 0] {
        assert_eq!(w.reclaim(A, "x", bytes(5, 5)), Verdict::Denied);
        assert_eq!(late(&mut w), told);
    }
    for byte in 6..99 {
        assert_eq!(w.reclaim(A, "x", bytes(byte, byte)), Verdict::Denied);
    }
    assert_eq!(late(&mut w), 9, "its host's share");
    assert_eq!(w.reclaim(B, "x", bytes(5, 5)), Verdict::Denied);
    assert_eq!(w.reclaim(A, "y", R), Verdict::Granted);
    assert_eq!(late(&mut w), 2);
}

#[test]
fn late_reclaims_are_taken_also_under_another_name_of_a_host_of_the_run() {
    let mut w = two_clients();
    w.begin(Mode::Targeted);
    w.settle();
    w.write(C, "x", R);
    w.effects.clear();
    let renamed = Caller { client: w.client_at(World::address("a"), "a.example.org"), ..w.caller("a") };
    for (file, verdict, fate) in [("y", Verdict::Granted, Fate::Resurrected), ("x", Verdict::Denied, Fate::Conflict)] {
        let reclaim = World::lock_call(P("a.example.org", 9), file, R, true, false, true);
        assert_eq!(w.call_as(renamed, &reclaim), Handled::Reply(verdict));
        let told = |e: &Effect| matches!(e, Effect::Late(_, row) if row.fate == fate);
        assert!(w.effects.iter().any(told), "{:?}", w.effects);
    }
}

#[test]
fn a_file_with_too_many_ranges_given_up_counts_as_wholly_granted() {
    let mut w = two_clients();
    w.begin(Mode::Targeted);
    for n in 0..100 {
        w.write(C, "x", bytes(n, n));
        w.unlock(C, "x", bytes(n, n));
    }
    w.table.abort(0, "test").unwrap();
    assert_eq!(w.reclaim(A, "x", bytes(5000, 5000)), Verdict::Denied);
    let told =
        |e: &Effect| matches!(e, Effect::Event("conflict", words) if words.contains("the whole file counts as taken"));
    assert!(w.effects.iter().any(told), "{:?}", w.effects);
    assert_eq!(w.reclaim(A, "y", bytes(5000, 5000)), Verdict::Granted);
}

#[test]
fn one_range_locked_again_and_again_costs_the_file_no_other_late_reclaim() {
    let mut w = two_clients();
    w.begin(Mode::Targeted);
    for _ in 0..100 {
        w.write(C, "x", R);
        w.unlock(C, "x", R);
    }
    w.table.abort(0, "test").unwrap();
    assert_eq!(w.reclaim(A, "x", R), Verdict::Denied);
    let told = |e: &Effect| matches!(e, Effect::Event("conflict", words) if words.contains("c had it since"));
    assert!(w.effects.iter().any(told), "{:?}", w.effects);
    assert_eq!(w.reclaim(A, "x", bytes(5000, 5000)), Verdict::Granted);
}

#[test]
fn a_reboot_notice_counts_only_from_that_client_under_its_name() {
    let mut w = two_clients();
    let (a, b) = (World::address("a"), World::address("b"));
    assert_eq!(w.table.reboot_notice(b, &name("a"), NsmState(9)), Reboot::Unknown);
    assert_eq!(w.table.reboot_notice("10.255.255.255".parse().unwrap(), &name("a"), NsmState(9)), Reboot::Unknown);
    assert_eq!(w.table.totals().locks, 4);
    let rows = w.table.list_clients(0).clients.into_vec();
    assert_eq!(
        rows.iter().map(|r| r.suspicions.as_slice().len()).collect::<Vec<_>>(),
        [2, 1],
        "a may have moved, or b's address changed its name"
    );
    assert_eq!(w.table.reboot_notice(a, &name("A.example.org"), NsmState(9)), Reboot::Released(2));
    assert_eq!(w.table.reboot_notice(a, &name("a"), NsmState(9)), Reboot::Repeated);
    w.check();
    assert_eq!(w.table.totals().locks, 2);
}

#[test]
fn a_short_name_that_two_hosts_of_one_address_answer_to_frees_neither() {
    let mut w = World::new();
    let nat = "10.7.7.7".parse().unwrap();
    for client in ["x.one.org", "x.two.org"] {
        let caller = Caller { client: w.client_at(nat, client), via: via(Transport::Tcp) };
        w.call_as(caller, &World::lock_call(P("any", 1), client, R, true, false, false));
    }
    assert_eq!(w.table.reboot_notice(nat, &name("x"), NsmState(9)), Reboot::Unknown);
    assert_eq!(w.table.totals().locks, 2);
    assert_eq!(w.table.reboot_notice(nat, &name("x.two.org"), NsmState(9)), Reboot::Released(1));
}

#[test]
fn the_seventeenth_server_address_takes_the_place_of_the_first() {
    let mut w = World::new();
    let client = w.client("a");
    for n in 1..=17u8 {
        w.table.called(client, IpAddr::from([10, 1, 1, n]));
    }
    let known = w.table.client(client).unwrap().server_addresses;
    assert_eq!((known.len(), known.last()), (16, Some(&IpAddr::from([10, 1, 1, 17]))));
}

#[test]
fn a_repeated_notice_does_not_take_what_was_locked_after_that_boot() {
    let mut w = World::new();
    w.write(A, "f", R);
    let again = Call::Lock {
        wanted: wanted(A, "g", R, true),
        block: false,
        reclaim: false,
        monitored: true,
        state: NsmState(5),
        cookie: Cookie::new(b"").unwrap(),
    };
    assert_eq!(w.verdict(A, &again), Verdict::Granted, "taken after the boot, before its notice arrives");
    assert_eq!(w.table.reboot_notice(World::address("a"), &name("a"), NsmState(5)), Reboot::Released(1));
    w.check();
    assert_eq!(w.picture("g"), ["a/1 write 0-9 held"]);
    assert!(w.picture("f").is_empty());
}

#[test]
fn hosts_behind_one_address_are_told_apart_by_name() {
    let mut w = World::new();
    let nat = "10.7.7.7".parse().unwrap();
    for (client, file) in [("x", "f"), ("y", "g")] {
        let client = w.client_at(nat, client);
        let call = World::lock_call(P("any", 1), file, R, true, false, false);
        let caller = Caller { client, via: via(Transport::Tcp) };
        assert_eq!(w.call_as(caller, &call), Handled::Reply(Verdict::Granted));
    }
    w.begin(Mode::Strict);
    assert!(w.table.run_clients().iter().all(|c| c.shared_address));
    assert_eq!(w.table.reboot_notice(nat, &name("x"), NsmState(9)), Reboot::Released(1));
    w.check();
    assert_eq!(w.table.totals().locks, 1);
}

#[test]
fn a_lock_with_a_new_state_number_makes_a_suspect_and_releases_nothing() {
    let mut w = World::new();
    w.write(A, "f", R);
    let call = Call::Lock {
        wanted: wanted(A, "g", R, true),
        block: false,
        reclaim: false,
        monitored: true,
        state: NsmState(77),
        cookie: Cookie::new(b"").unwrap(),
    };
    w.verdict(A, &call);
    assert_eq!(w.table.totals().locks, 2);
    w.begin(Mode::Strict);
    assert!(w.table.run_clients()[0].suspect);
}

#[test]
fn a_second_run_marks_what_the_first_one_kept_in_pieces() {
    let mut w = two_clients();
    w.begin(Mode::Strict);
    w.reclaim(A, "f", bytes(0, 3));
    w.settle();
    assert_eq!(w.picture("f"), ["a/1 write 0-3 held", "a/1 write 4-9 held", "b/1 write 10-19 held"]);
    assert_eq!(w.begin(Mode::Strict).in_scope, 5);
    w.reclaim(A, "f", R);
    w.reclaim(A, "g", R);
    assert_eq!((w.counts().reclaimed, w.counts().pending), (3, 2));
}

#[test]
fn locks_and_clients_are_listed_in_pages() {
    let mut w = World::new();
    for n in 0..3000_u64 {
        w.table.handle(
            w.now,
            Caller { client: ClientId(0), via: via(Transport::Tcp) },
            &World::lock_call(A, "f", bytes(2 * n, 2 * n), true, false, false),
        );
        if n == 0 {
            w.client("a");
        }
    }
    for n in 0..3000_u32 {
        w.table.add_client(IpAddr::from(n.to_be_bytes()), &name("many")).unwrap();
    }
    let (mut rows, mut after, mut pages) = (0, 0, 0);
    loop {
        let page = w.table.list_locks(&LocksArgs { scope: Scope::default(), after });
        rows += page.locks.as_slice().len();
        pages += 1;
        after = page.next;
        if after == 0 {
            break;
        }
    }
    assert_eq!((rows, pages), (2999, 3));
    let mut seen = HashSet::new();
    loop {
        let page = w.table.list_clients(after);
        seen.extend(page.clients.as_slice().iter().map(|c| c.addresses.as_slice()[0]));
        after = page.next;
        if after == 0 {
            break;
        }
    }
    assert_eq!(seen.len(), 3001);
}

#[test]
fn a_client_that_locks_a_pending_range_again_and_reclaims_nothing_keeps_the_rest() {
    let mut w = World::new();
    for start in [0, 20, 40] {
        assert_eq!(w.write(P("a", 1), "f", bytes(start, start + 9)), Verdict::Granted);
    }
    let mut args = w.begin_args(Mode::Targeted);
    args.policy.silent = Silent::Keep;
    w.begin_with(&args);
    w.tell("a", Delivery::Acked);
    w.pass(30);
    assert_eq!(w.write(P("a", 1), "f", bytes(0, 9)), Verdict::Granted);
    w.pass(60);
    let counts = w.settle().result.counts;
    assert_eq!((counts.reclaimed, counts.kept, counts.dropped), (1, 2, 0));
}
