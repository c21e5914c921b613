//! The clients of a run are entered after its mark, one by one: each as it was at the mark.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const PROCESSES: [P; 4] = [P("a", 1), P("a", 2), P("b", 1), P("c", 1)];
const FILES: [&str; 2] = ["f", "g"];
const IDLE: [&str; 4] = ["w", "x", "y", "z"];

#[derive(Debug, Clone, Copy)]
enum Event {
    Lock {
        process: usize,
        file: usize,
        range: (u64, u64),
        exclusive: bool,
        reclaim: bool,
        monitored: bool,
    },
    Unlock {
        process: usize,
        file: usize,
        range: (u64, u64),
    },
    Reboot(usize),
    /// A client that has nothing calls. It may take the place of another one.
    Come(usize),
    Mark {
        mode: Mode,
        clients: bool,
        files: bool,
        include_unmonitored: bool,
    },
    Enter,
    Ack(usize),
    Abort,
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let place = (0..PROCESSES.len(), 0..FILES.len(), (0..6_u64, 0..6_u64));
    let place = place.prop_map(|(process, file, (a, b))| (process, file, (a.min(b), a.max(b))));
    let mode = prop_oneof![Just(Mode::Strict), Just(Mode::Targeted)];
    prop_oneof![
        12 => (place.clone(), any::<[bool; 3]>()).prop_map(|((process, file, range), [exclusive, reclaim, monitored])| {
            Event::Lock { process, file, range, exclusive, reclaim, monitored }
        }),
        5 => place.prop_map(|(process, file, range)| Event::Unlock { process, file, range }),
        1 => (0..PROCESSES.len()).prop_map(Event::Reboot),
        2 => (0..IDLE.len()).prop_map(Event::Come),
        3 => (mode, any::<[bool; 3]>()).prop_map(|(mode, [clients, files, include_unmonitored])| {
            let named = mode == Mode::Targeted;
            Event::Mark { mode, clients: clients && named, files: files && named, include_unmonitored }
        }),
        4 => Just(Event::Enter),
        1 => (0..PROCESSES.len()).prop_map(Event::Ack),
        1 => Just(Event::Abort),
        1 => Just(Event::Settle),
    ]
}

/// What a run's result says, whatever the order of its clients.
fn told(result: &FullResult) -> (Counts, Vec<(String, Counts)>, Vec<String>) {
    let clients = result.clients.as_slice().iter().map(|c| (format!("{} {:?}", c.name, c.paths), c.counts));
    let mut clients: Vec<_> = clients.collect();
    clients.sort_by(|a, b| a.0.cmp(&b.0));
    let mut rows: Vec<String> = result.locks.as_slice().iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    (result.result.counts, clients, rows)
}

/// The history in two tables: one enters its clients at the mark, the other one when it comes to it. Everything
/// that is seen of them must be alike.
fn play(events: &[Event]) {
    let limits = Limits { clients: Bounds { all: 6, host: 6 }, ..Limits::default() };
    let mut worlds = [World::with(limits), World::with(limits)];
    let both = |worlds: &mut [World; 2], call: &dyn Fn(&mut World) -> Option<Verdict>| {
        let [at_once, slowly] = worlds;
        assert_eq!(call(at_once), call(slowly));
    };
    for event in events {
        let is_active = worlds[0].table.run_status(worlds[0].now).is_some();
        match *event {
            Event::Lock { process, file, range: (a, b), exclusive, reclaim, monitored } => {
                let (process, file) = (PROCESSES[process], FILES[file]);
                let mut call = World::lock_call(process, file, bytes(a, b), exclusive, false, reclaim);
                if let Call::Lock { monitored: as_called, .. } = &mut call {
                    *as_called = monitored;
                }
                both(&mut worlds, &|w| Some(w.verdict(process, &call)));
            }
            Event::Unlock { process, file, range: (a, b) } => {
                both(&mut worlds, &|w| Some(w.unlock(PROCESSES[process], FILES[file], bytes(a, b))));
            }
            Event::Reboot(process) => {
                let client = PROCESSES[process].0;
                both(&mut worlds, &|w| {
                    w.table.reboot_notice(World::address(client), &name(client), NsmState(7));
                    w.check();
                    None
                });
            }
            Event::Come(client) => both(&mut worlds, &|w| {
                w.client(IDLE[client]);
                None
            }),
            Event::Mark { mode, clients, files, include_unmonitored } if !is_active => {
                let [at_once, slowly] = &mut worlds;
                let mut args = at_once.begin_args(mode);
                args.policy = Policy { unreachable: Unreachable::Drop, silent: Silent::Drop, include_unmonitored };
                args.may_drop = List::clipped(vec![client_ref("b")]);
                if clients {
                    at_once.client("a");
                    slowly.client("a");
                    args.scope.clients = List::clipped(vec![client_ref("a")]);
                }
                if files {
                    args.scope.files = List::clipped(vec![FileHandle::new(b"f").unwrap()]);
                }
                at_once.begin_with(&args);
                slowly.table.mark(slowly.now, 0, &mut args, NsmState(1), NsmState(3)).unwrap();
                slowly.check();
            }
            Event::Enter => {
                worlds[1].table.enter_clients(1);
                worlds[1].check();
            }
            Event::Ack(process) if is_active => {
                let client = PROCESSES[process].0;
                worlds[1].table.enter_clients(usize::MAX);
                both(&mut worlds, &|w| {
                    if w.table.run_clients().iter().any(|c| c.name == name(client)) {
                        w.tell(client, Delivery::Acked);
                    }
                    None
                });
            }
            Event::Abort if is_active => {
                let [at_once, slowly] = worlds.each_mut().map(|w| told(&w.table.abort(0, "test").unwrap().join()));
                assert_eq!(at_once, slowly);
            }
            Event::Settle if is_active => {
                for w in &mut worlds {
                    w.pass(60);
                }
                let [at_once, slowly] = worlds.each_mut().map(|w| told(&w.settle()));
                assert_eq!(at_once, slowly);
            }
            Event::Mark { .. } | Event::Ack(_) | Event::Abort | Event::Settle => {}
        }
        let [at_once, slowly] = worlds.each_ref().map(|w| {
            // Of locks that begin with one byte the owner's number decides, and that is not said.
            let rows: BTreeSet<String> = w.rows().iter().map(|row| format!("{row:?}")).collect();
            (rows, w.table.run_status(w.now).map(|run| run.counts))
        });
        assert_eq!(at_once, slowly, "after {event:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_run_is_the_same_whenever_its_clients_are_entered(events in prop::collection::vec(event(), 1..60)) {
        play(&events);
    }
}

fn marked(mode: Mode) -> World {
    let mut w = World::new();
    for client in ["a", "b"] {
        w.write(P(client, 1), client, bytes(0, 9));
    }
    let mut args = w.begin_args(mode);
    w.table.mark(w.now, 0, &mut args, NsmState(1), NsmState(3)).unwrap();
    w
}

#[test]
fn all_is_pending_from_the_mark_on_though_no_client_is_entered() {
    let mut w = marked(Mode::Strict);
    assert_eq!((w.table.run_clients().len(), w.counts().pending), (0, 2));
    assert_eq!(w.picture("a"), ["a/1 write 0-9 pending"]);
    assert_eq!(w.write(P("c", 1), "a", bytes(0, 9)), Verdict::Grace);
    assert_eq!(w.reclaim(P("a", 1), "a", bytes(0, 9)), Verdict::Granted);
    assert_eq!((w.counts().pending, w.counts().reclaimed), (1, 1));
}

#[test]
fn a_client_is_told_of_its_locks_at_the_mark_whatever_it_did_before_it_was_entered() {
    let mut w = marked(Mode::Targeted);
    w.unlock(P("a", 1), "a", bytes(0, 9));
    w.write(P("a", 1), "new", bytes(0, 9));
    w.write(P("a", 1), "newer", bytes(0, 9));
    w.write(P("late", 1), "newest", bytes(0, 9));
    let begun = w.table.enter_clients(usize::MAX).unwrap();
    assert_eq!((begun.in_scope, begun.clients), (2, 2), "one came after the mark");
    assert!(w.table.run_clients().iter().all(|client| client.locks == 1), "{:?}", w.table.run_clients());
}

#[test]
fn a_client_that_makes_room_before_it_is_entered_is_told_all_the_same() {
    let mut w = World::with(Limits { clients: Bounds { all: 2, host: 2 }, ..Limits::default() });
    w.client("a");
    w.client("b");
    let mut args = w.begin_args(Mode::Strict);
    w.table.mark(w.now, 0, &mut args, NsmState(1), NsmState(3)).unwrap();
    w.client("c");
    assert!(w.table.find(World::address("a"), &name("a")).is_none(), "it has made room");
    w.table.enter_clients(usize::MAX).unwrap();
    let names: Vec<String> = w.table.run_clients().iter().map(|client| client.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
}
