//! Clients that call several addresses of the server: each is judged by itself.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::wire::control::{ClientResult, Spared};

const ONE: &str = "192.0.2.1";
const TWO: &str = "192.0.2.2";
const R: ByteRange = ByteRange { start: 0, end: 9 };

impl World {
    /// A LOCK by way of this server address.
    fn lock_by(&mut self, process: P, server_address: &str, file: &str, range: ByteRange, reclaim: bool) -> Verdict {
        let client = self.client(process.0);
        let server_address = server_address.parse().unwrap();
        self.table.called(client, server_address);
        let caller = Caller { client, via: Via { server_address, ..via(Transport::Tcp) } };
        match self.call_as(caller, &Self::lock_call(process, file, range, true, false, reclaim)) {
            Handled::Reply(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }

    fn write_by(&mut self, process: P, server_address: &str, file: &str) {
        assert_eq!(self.lock_by(process, server_address, file, R, false), Verdict::Granted);
    }

    fn reclaim_by(&mut self, process: P, server_address: &str, file: &str) {
        assert_eq!(self.lock_by(process, server_address, file, R, true), Verdict::Granted);
    }

    fn is_taken(&mut self, file: &str, range: ByteRange) -> bool {
        self.test(P("witness", 99), file, range, true) != Verdict::Granted
    }
}

/// What became of a client's pending locks, by server address.
fn spared(client: &ClientResult) -> Vec<(String, bool, Option<Spared>)> {
    let paths = client.paths.as_slice().iter();
    paths.map(|path| (path.server_address.to_string(), path.silent, path.spared.0)).collect()
}

/// A client with a live and a stale lock through each of two server addresses, whose statd swallowed the
/// second notice and acked it.
fn swallowed(policy: impl Fn(&mut BeginArgs)) -> World {
    let mut w = World::new();
    for (file, by) in [("live1", ONE), ("stale1", ONE), ("live2", TWO), ("stale2", TWO)] {
        w.write_by(P("a", 1), by, file);
    }
    let mut args = w.begin_args(Mode::Strict);
    policy(&mut args);
    w.begin_with(&args);
    w.tell("a", Delivery::Acked);
    w.reclaim_by(P("a", 1), ONE, "live1");
    w.pass(60);
    w
}

#[test]
fn locks_through_an_address_of_which_nothing_came_back_are_kept_with_the_reason() {
    for alone in [false, true] {
        let mut w = swallowed(|_| {});
        let result = w.settle_alone(alone);
        let client = &result.clients.as_slice()[0];
        assert!(client.reaction != Reaction::Silent && !result.result.not_understood);
        assert_eq!((client.counts.reclaimed, client.counts.dropped, client.counts.kept), (1, 1, 2));
        let expected = [(ONE.to_owned(), false, None), (TWO.to_owned(), true, Some(Spared::OtherAddress))];
        assert_eq!(spared(client), expected);
        for (file, held) in [("live1", true), ("stale1", false), ("live2", true), ("stale2", true)] {
            assert_eq!(w.is_taken(file, R), held, "{file}");
        }
    }
}

#[test]
fn only_a_client_that_reclaimed_has_understood_not_one_that_locked_again() {
    let mut w = World::new();
    let all = ["again", "each", "back", "idle", "lost"];
    for client in all {
        w.write_by(P(client, 1), ONE, client);
        w.write_by(P(client, 2), TWO, &format!("{client}2"));
    }
    w.begin(Mode::Targeted);
    for client in all {
        w.tell(client, Delivery::Acked);
    }
    for client in ["again", "each", "back"] {
        w.write_by(P(client, 1), ONE, client);
    }
    w.write_by(P("each", 2), TWO, "each2");
    w.reclaim_by(P("back", 2), TWO, "back2");
    // A lock that the server did not know says nothing of those in scope.
    w.reclaim_by(P("lost", 3), ONE, "unknown");
    w.pass(60);
    let result = w.settle();
    let reactions: Vec<_> = result.clients.as_slice().iter().map(|c| (c.name.to_string(), c.reaction)).collect();
    let expected = [
        ("again", Reaction::Silent),
        ("each", Reaction::Unclear),
        ("back", Reaction::Understood),
        ("idle", Reaction::Silent),
        ("lost", Reaction::Silent),
    ];
    assert_eq!(reactions, expected.map(|(name, reaction)| (name.to_owned(), reaction)));
    let reclaimed = result.clients.as_slice().iter().map(|client| client.counts.reclaimed);
    assert_eq!(reclaimed.collect::<Vec<_>>(), [1, 2, 2, 0, 0], "locked again counts as reclaimed");
}

#[test]
fn silent_drop_and_a_scope_that_names_the_client_drop_them() {
    let by_flag: fn(&mut BeginArgs) = |args| args.policy.silent = Silent::Drop;
    let by_name: fn(&mut BeginArgs) = |args| {
        args.mode = Mode::Targeted;
        args.scope.clients = List::clipped(vec![client_ref("a")]);
    };
    for policy in [by_flag, by_name] {
        let mut w = swallowed(policy);
        let result = w.settle();
        assert_eq!((result.result.counts.dropped, result.result.counts.kept), (3, 0));
        assert!(!w.is_taken("live2", R));
    }
}

#[test]
fn a_settle_that_is_taken_back_and_an_abort_leave_no_verdict() {
    let mut w = swallowed(|_| {});
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    w.table.settle_cancel();
    w.check();
    w.reclaim_by(P("a", 1), TWO, "live2");
    let aborted = w.table.abort(0, "test").unwrap().join();
    assert_eq!(spared(&aborted.clients.as_slice()[0]), []);

    let mut w = swallowed(|_| {});
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    w.table.settle_cancel();
    w.reclaim_by(P("a", 1), TWO, "live2");
    let result = w.settle();
    assert_eq!(result.result.counts.dropped, 2, "something came back through each address by now");
}

#[test]
fn what_is_locked_again_before_the_sweep_is_not_swept() {
    let mut w = swallowed(|_| {});
    w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    w.table.settle_commit();
    w.check();
    // The kept lock is given back in part, the dropped one is somebody else's.
    let unlock = Call::Unlock(wanted(P("a", 1), "live2", bytes(0, 4), true));
    let caller =
        Caller { client: w.client("a"), via: Via { server_address: TWO.parse().unwrap(), ..via(Transport::Tcp) } };
    assert!(matches!(w.call_as(caller, &unlock), Handled::Reply(Verdict::Granted)));
    w.write_by(P("b", 1), ONE, "stale1");
    while !w.table.settle_sweep(1) {
        w.check();
    }
    assert!(!w.is_taken("live2", bytes(0, 4)) && w.is_taken("live2", bytes(5, 9)), "{:?}", w.picture("live2"));
    assert_eq!(w.picture("stale1").len(), 1);
}

#[test]
fn a_lock_that_comes_back_by_another_path_counts_where_it_came_in() {
    let mut w = World::new();
    w.write_by(P("a", 1), TWO, "moved");
    w.write_by(P("a", 1), TWO, "other");
    w.begin(Mode::Strict);
    w.tell("a", Delivery::Acked);
    w.reclaim_by(P("a", 1), ONE, "moved");
    w.pass(60);
    let result = w.settle();
    assert_eq!(spared(&result.clients.as_slice()[0]), [(TWO.to_owned(), true, Some(Spared::OtherAddress))]);
    assert!(w.is_taken("moved", R) && w.is_taken("other", R));
}

#[test]
fn a_scope_of_files_counts_only_what_is_locked_there_by_each_path() {
    let mut w = World::new();
    for client in ["a", "b", "c"] {
        w.write_by(P(client, 1), ONE, &format!("{client}1"));
    }
    w.write_by(P("a", 1), TWO, "a2");
    let mut args = w.begin_args(Mode::Targeted);
    let files = ["a1", "a2", "b1"].map(|file| FileHandle::new(file.as_bytes()).unwrap());
    args.scope.files = List::clipped(files.to_vec());
    assert_eq!(w.begin_with(&args).in_scope, 3);
    for client in ["a", "b"] {
        w.tell(client, Delivery::Acked);
    }
    w.reclaim_by(P("b", 1), ONE, "b1");
    w.pass(60);
    let result = w.settle();
    // At TWO it is the only one, and nothing of it came back anywhere: not understood.
    assert!(result.result.not_understood);
    assert_eq!((result.result.counts.reclaimed, result.result.counts.kept), (1, 2));
}

#[test]
fn an_address_with_locks_is_not_forgotten_for_sixteen_that_were_only_called() {
    let mut w = World::new();
    w.write_by(P("a", 1), TWO, "f");
    let client = w.client("a");
    for n in 10..40 {
        w.table.called(client, IpAddr::from([192, 0, 2, n]));
    }
    let known = w.table.client(client).unwrap().server_addresses;
    assert!(known.len() == 16 && known.contains(&TWO.parse().unwrap()), "{known:?}");
}

const ADDRESSES: [&str; 3] = [ONE, TWO, "2001:db8::3"];
const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A client: for each server address, whether its statd passes on the notice for it, and its live and stale
/// locks through it.
type Machine = [(bool, u8, u8); 3];

fn machine() -> impl Strategy<Value = Machine> {
    let path = || (any::<bool>(), 0..3_u8, 0..3_u8);
    [path(), path(), path()].prop_map(|mut paths| {
        // One notice at least is passed on, and there is something to reclaim then: nothing tells a client that
        // heard nothing from one whose locks are all stale.
        if !paths.iter().any(|(heard, live, _)| *heard && *live > 0) {
            paths[0] = (true, 1, paths[0].2);
        }
        paths
    })
}

/// The locks of the machines, each with its file, range, process, path, and whether it is live.
fn locks(machines: &[Machine]) -> Vec<(P, &'static str, String, ByteRange, bool, bool)> {
    let mut locks = Vec::new();
    for (client, paths) in CLIENTS.iter().zip(machines) {
        let mut place = 0;
        for (by, (heard, live, stale)) in ADDRESSES.iter().zip(paths) {
            for n in 0..live + stale {
                // All in two files of the client: what is dropped and what is kept stand side by side.
                let range = bytes(place * 10, place * 10 + 9);
                locks.push((P(client, 1), *by, format!("{client}{}", place % 2), range, n < *live, *heard));
                place += 1;
            }
        }
    }
    locks
}

fn run(machines: &[Machine], silent: Silent, alone: bool) -> (World, FullResult) {
    let mut w = World::new();
    for (process, by, file, range, _, _) in locks(machines) {
        assert_eq!(w.lock_by(process, by, &file, range, false), Verdict::Granted);
    }
    let mut args = w.begin_args(Mode::Strict);
    args.policy.silent = silent;
    w.begin_with(&args);
    for client in &CLIENTS[..machines.len()] {
        w.tell(client, Delivery::Acked);
    }
    for (process, by, file, range, _, _) in locks(machines).iter().filter(|(.., live, heard)| *live && *heard) {
        assert_eq!(w.lock_by(*process, by, file, *range, true), Verdict::Granted);
    }
    w.pass(60);
    let result = w.settle_alone(alone);
    (w, result)
}

proptest! {
    #[test]
    fn no_live_lock_is_dropped_for_a_notice_that_a_statd_swallowed(
        machines in prop::collection::vec(machine(), 1..=5),
        alone in any::<bool>(),
    ) {
        let (mut w, result) = run(&machines, Silent::Auto, alone);
        let mut stale_kept = 0;
        for (process, by, file, range, live, heard) in locks(&machines) {
            let is_held = w.is_taken(&file, range);
            prop_assert!(!live || is_held, "{:?} by {} lost {} {:?}", process, by, file, range);
            stale_kept += u64::from(!heard || (!live && is_held));
        }
        prop_assert!(result.result.counts.kept <= stale_kept, "what is kept was not told, or stands in for that");
        // Why each was kept is said, and only what was silent was.
        for path in result.clients.as_slice().iter().flat_map(|client| client.paths.as_slice()) {
            prop_assert_eq!(path.silent, path.spared.0.is_some(), "{:?}", path);
        }
    }

    #[test]
    fn where_something_came_back_what_did_not_is_dropped(machines in prop::collection::vec(machine(), 1..=5)) {
        let (mut w, _) = run(&machines, Silent::Auto, false);
        let all = locks(&machines);
        let answered: BTreeSet<(&str, &str)> = all.iter().filter(|l| l.4 && l.5).map(|l| (l.0.0, l.1)).collect();
        for (process, by, file, range, live, _) in &all {
            if !live && answered.contains(&(process.0, *by)) {
                prop_assert!(!w.is_taken(file, *range), "{:?} by {} keeps {} {:?}", process, by, file, range);
            }
        }
    }

    #[test]
    fn silent_drop_drops_all_that_did_not_come_back(machines in prop::collection::vec(machine(), 1..=5)) {
        let (mut w, result) = run(&machines, Silent::Drop, false);
        prop_assert_eq!(result.result.counts.kept, 0);
        for (process, by, file, range, live, heard) in locks(&machines) {
            prop_assert_eq!(w.is_taken(&file, range), live && heard, "{:?} by {}: {} {:?}", process, by, file, range);
        }
    }
}
