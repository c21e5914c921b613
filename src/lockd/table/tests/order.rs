//! The queue of what waits: who keeps order with whom, and that nobody else waits.

use proptest::prelude::*;

use super::*;
use crate::lockd::table::queue::{Entry, OpenCall, OpenNotice, PARKED, Place, Queue, Wait};
use crate::locks::OtherDomain;

/// A queue of calls whose answers nobody reads.
#[derive(Default)]
struct Waiting(Queue);

impl Waiting {
    fn entry(&mut self, incoming: Incoming) -> Entry {
        let (number, (answer, _)) = (self.0.next_number(), oneshot::channel());
        let (admission, client, outside) = (None, None, OtherDomain::Unasked);
        Entry::Call(OpenCall { incoming, answer, number, admission, client, outside })
    }
    fn put(&mut self, wait: Wait, incoming: Incoming) -> Option<Place> {
        let entry = self.entry(incoming);
        self.0.put(wait, entry)
    }
    fn holds_up(&mut self, incoming: Incoming) -> bool {
        let entry = self.entry(incoming);
        self.0.holds_up(&entry)
    }
    /// The files of the calls that go on now.
    fn go_on(&mut self, place: &Place) -> Vec<String> {
        let mut files = Vec::new();
        while let Some(entry) = self.0.next(place) {
            let Entry::Call(OpenCall { incoming: Incoming { call: Call::Lock { wanted, .. }, .. }, .. }) = entry else {
                panic!("not a LOCK")
            };
            files.push(String::from_utf8(wanted.file.as_slice().to_vec()).unwrap());
        }
        files
    }
}

fn named(name: &str, incoming: Incoming) -> Incoming {
    Incoming { name: CallerName::new(name).unwrap(), ..incoming }
}

#[test]
fn what_an_address_says_of_a_host_goes_on_in_the_order_of_arrival() {
    let mut w = Waiting::default();
    let first = w.put(Wait::Record, incoming(2, "a")).unwrap();
    let asked = w.put(Wait::Answer, incoming(2, "b")).unwrap();
    assert!(w.holds_up(incoming(2, "c")));
    w.put(Wait::Turn, incoming(2, "c"));
    w.0.ready(&asked, Some);
    assert!(w.go_on(&asked).is_empty(), "its answer is there, but not its turn");
    w.0.ready(&first, Some);
    assert_eq!(w.go_on(&first), ["a", "b", "c"]);
    assert!(!w.holds_up(incoming(2, "d")));
}

#[test]
fn one_that_waits_again_keeps_its_place() {
    let mut w = Waiting::default();
    let first = w.put(Wait::Record, incoming(2, "a")).unwrap();
    w.put(Wait::Turn, incoming(2, "b"));
    w.0.ready(&first, Some);
    let entry = w.0.next(&first).unwrap();
    assert_eq!(w.0.put(Wait::Commit, entry), Some(first.clone()));
    assert!(w.go_on(&first).is_empty());
    w.0.ready(&first, |_| None);
    assert_eq!(w.go_on(&first), ["b"], "the first was dropped");
}

#[test]
fn the_number_of_entries_is_the_count_and_one_too_many_is_dropped() {
    let mut w = Waiting::default();
    let (most, little) = (PARKED.all - PARKED.all / 10, PARKED.all / 1000);
    let host = |n: usize| u8::try_from(n % 100).unwrap();
    let mut places: Vec<_> = (0..most).map(|n| w.put(Wait::Commit, incoming(host(n), "file")).unwrap()).collect();
    assert_eq!(w.put(Wait::Commit, incoming(2, "file")), None, "the rest is for hosts that have little");
    let modest = |n: usize| u8::try_from(100 + n / little).unwrap();
    places.extend((most..PARKED.all).map(|n| w.put(Wait::Commit, incoming(modest(n - most), "file")).unwrap()));
    assert_eq!(w.0.len(), PARKED.all);
    assert_eq!(w.put(Wait::Commit, incoming(250, "file")), None);
    assert_eq!(w.0.until_commit(), places, "in the order of arrival");
    w.0.ready(places.last().unwrap(), |_| None);
    assert_eq!(w.0.len(), PARKED.all - 1);
    assert!(w.put(Wait::Turn, incoming(250, "file")).is_some());
}

#[test]
fn one_host_has_its_share_of_the_queue_whatever_its_names_and_what_goes_on_gives_its_place_back() {
    let mut w = Waiting::default();
    let names = ["a", "b", "c", "d"];
    let put = |w: &mut Waiting, n: usize| w.put(Wait::Record, named(names[n % 4], incoming(2, "file")));
    let places: Vec<_> = (0..PARKED.host).map(|n| put(&mut w, n).unwrap()).collect();
    assert_eq!(put(&mut w, 0), None);
    assert!(w.put(Wait::Record, incoming(3, "file")).is_some(), "another host");
    w.0.ready(&places[0], Some);
    assert_eq!(put(&mut w, 0), None, "it still waits for its turn");
    assert_eq!(w.go_on(&places[0]), ["file"]);
    assert!(put(&mut w, 0).is_some());
}

#[test]
fn a_test_neither_waits_for_its_turn_nor_holds_anything_up() {
    let mut w = Waiting::default();
    let test = w.put(Wait::Answer, test_of(incoming(2, "file"))).unwrap();
    assert!(!w.holds_up(incoming(2, "file")));
    w.put(Wait::Record, incoming(2, "file"));
    assert!(!w.holds_up(test_of(incoming(2, "file"))));
    w.0.ready(&test, Some);
    assert!(w.0.next(&test).is_some(), "it goes on before the LOCK");
}

#[test]
fn order_is_kept_among_the_names_of_one_host_at_one_address() {
    let mut w = Waiting::default();
    w.put(Wait::Record, named("Host.example.org", incoming(2, "file")));
    assert!(w.holds_up(named("host", incoming(2, "file"))));
    assert!(!w.holds_up(named("other", incoming(2, "file"))), "another host behind the address");
    assert!(!w.holds_up(named("host", incoming(3, "file"))), "another address");
    let (answer, _) = oneshot::channel();
    let (source, name) = (incoming(2, "file").address, CallerName::new("host").unwrap());
    assert!(w.0.holds_up(&Entry::Notice(OpenNotice { source, name, state: NsmState(5), answer, number: 9 })));
}

proptest! {
    /// Calls of three hosts behind one address, some of them TESTs, whose waits end in any order.
    #[test]
    fn in_whatever_order_waits_end_each_line_goes_on_in_its_order_and_nothing_is_left(
        calls in prop::collection::vec((0_u8..3, any::<bool>(), any::<bool>()), 1..20),
        order in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let (mut w, mut waiting) = (Waiting::default(), Vec::new());
        for (host, test, asks) in calls {
            let call = named(&format!("host{host}"), incoming(2, "file"));
            let entry = w.entry(if test { test_of(call) } else { call });
            let wait = if asks { Wait::Answer } else if w.0.holds_up(&entry) { Wait::Turn } else { Wait::Record };
            waiting.extend(w.0.put(wait, entry).map(|place| (place, wait)));
        }
        waiting.retain(|(_, wait)| *wait != Wait::Turn);
        let mut gone = std::collections::HashMap::<CallerName, u64>::new();
        for pick in order.into_iter().take(waiting.len()) {
            let (place, _) = waiting.swap_remove(pick.index(waiting.len()));
            w.0.ready(&place, Some);
            while let Some(Entry::Call(call)) = w.0.next(&place) {
                if let Call::Lock { .. } = call.incoming.call {
                    let before = gone.insert(call.incoming.name, call.number);
                    prop_assert!(before.is_none_or(|before| before < call.number));
                }
            }
        }
        prop_assert_eq!(w.0.len(), 0);
    }
}

#[test]
fn calls_that_wait_leave_room_on_a_socket_for_those_that_do_not() {
    assert!(crate::rpc::server::Limits::default().calls > PARKED.all + PARKED.host);
}

#[tokio::test]
async fn a_call_that_waits_does_not_stall_another_name_behind_its_address() {
    let mut world = World::new();
    let mut first = world.send(named("slow", incoming(2, "file")));
    let (_, kept) = world.change().await;
    world.hold(named("quick", incoming(2, "another"))).await;
    let unlock = world.table.call(named("quick", unlock_of(incoming(2, "another")))).await;
    assert_eq!(unlock, Some(Verdict::Granted));
    assert!(timeout(A_MOMENT, &mut first).await.is_err());
    kept.send(Ok(())).unwrap();
    assert_eq!(first.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn calls_behind_a_clients_first_lock_need_no_record_of_their_own() {
    let mut world = World::new();
    let locks: Vec<_> = ["a", "b", "c"].map(|file| world.send(incoming(2, file))).into();
    world.accept().await;
    for lock in locks {
        assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    }
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "one record is enough");
}

#[tokio::test]
async fn where_the_record_cannot_be_written_the_locks_behind_are_refused_too_and_the_rest_goes_on() {
    let mut world = World::new();
    let locks: Vec<_> = ["a", "b"].map(|file| world.send(incoming(2, file))).into();
    let unlock = world.send(unlock_of(incoming(2, "a")));
    tokio::task::yield_now().await;
    world.refuse().await;
    for lock in locks {
        assert_eq!(lock.await.unwrap(), Some(Verdict::NoLocks));
    }
    assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted));
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "the disk was asked once");
}

#[tokio::test]
async fn where_the_record_cannot_be_written_a_reclaim_is_unanswered_and_those_that_need_none_are_granted() {
    let mut world = World::spawn(|persist| Setup {
        recovery_until: Some(Duration::from_hours(1)),
        ..setup(persist, Limits::default())
    });
    let reclaim = |server: &str, file: &str| {
        let mut incoming = incoming(2, file);
        let Call::Lock { reclaim, .. } = &mut incoming.call else { panic!("a LOCK") };
        *reclaim = true;
        incoming.via.server_address = server.parse().unwrap();
        incoming
    };
    world.hold(reclaim("127.0.0.1", "known")).await;
    let by_a_new_address = world.send(reclaim("127.0.0.9", "a"));
    let behind = world.send(reclaim("127.0.0.1", "b"));
    tokio::task::yield_now().await;
    world.refuse().await;
    assert_eq!(by_a_new_address.await.unwrap(), None, "refused it would be forgotten; its client repeats it");
    assert_eq!(behind.await.unwrap(), Some(Verdict::Granted));
    world.hold(reclaim("127.0.0.9", "a")).await;
}

#[tokio::test]
async fn in_recovery_no_new_name_costs_a_client_that_may_still_reclaim_its_record() {
    let named = |name: &str| Incoming { name: CallerName::new(name).unwrap(), ..incoming(2, name) };
    let found = |name: &str| MonitorRecord {
        name: CallerName::new(name).unwrap(),
        address: incoming(2, name).address,
        server_addresses: vec!["127.0.0.1".parse().unwrap()],
        nsm_state: NsmState(3),
    };
    let mut world = World::spawn(|persist| Setup {
        found: Found { monitors: vec![found("a"), found("b")], ..Found::default() },
        recovery_until: Some(Duration::from_secs(90)),
        ..setup(persist, Limits { clients: Bounds { all: 10, host: 2 }, ..Limits::default() })
    });
    let refused = timeout(PATIENCE, world.table.call(named("c"))).await;
    assert_eq!(refused.expect("it needs no record"), Some(Verdict::Grace));
    assert_eq!(world.table.status().await.unwrap().clients, 2);
    let call = world.send(reclaim_of(named("d")));
    let Change::Monitor(record) = world.accept().await else { panic!("a record is removed") };
    assert_eq!((record.name.as_str(), call.await.unwrap()), ("d", Some(Verdict::Granted)));
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "the record of the one that made room stays");
    // It comes back, is refused what another one has by now, and makes room again.
    let call = world.send(reclaim_of(Incoming { name: CallerName::new("a").unwrap(), ..incoming(2, "d") }));
    let Change::Monitor(record) = world.accept().await else { panic!("a record is removed") };
    assert_eq!((record.name.as_str(), call.await.unwrap()), ("a", Some(Verdict::Denied)));
    let call = world.send(reclaim_of(named("e")));
    let Change::Monitor(record) = world.accept().await else { panic!("a record is removed") };
    assert_eq!((record.name.as_str(), call.await.unwrap()), ("e", Some(Verdict::Granted)));
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "its record still stays");
}

#[tokio::test]
async fn while_a_strict_run_settles_no_new_name_pushes_out_a_client_that_may_still_reclaim() {
    let named = |name: &str| Incoming { name: CallerName::new(name).unwrap(), ..incoming(2, name) };
    let mut world = World::with(Limits { clients: Bounds { all: 10, host: 2 }, ..Limits::default() });
    world.hold(named("a")).await;
    world.hold(named("b")).await;
    assert_eq!(world.table.call(unlock_of(named("b"))).await, Some(Verdict::Granted));
    world.begin().await;
    let settling = world.settle().await;
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Ended(_)));
    assert_eq!(world.table.status().await.unwrap().grace, Grace::Settling);
    let refused = timeout(PATIENCE, world.table.call(named("c"))).await;
    assert_eq!(refused.expect("it needs no record"), Some(Verdict::Grace));
    assert_eq!(world.table.status().await.unwrap().clients, 2);
    done.send(Ok(())).unwrap();
    settling.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_makes_room_while_its_lock_waits_is_refused_and_does_not_push_back() {
    for (reclaims, expected) in [(false, Some(Verdict::NoLocks)), (true, None)] {
        let mut world = World::with(Limits { clients: Bounds { all: 1, host: 1 }, ..Limits::default() });
        let mut first = incoming(2, "file");
        let Call::Lock { reclaim, .. } = &mut first.call else { panic!("a LOCK") };
        *reclaim = reclaims;
        let first = world.send(first);
        let (_, first_durable) = world.change().await;
        let second = world.send(incoming(3, "file"));
        assert!(matches!(world.change().await.0, Change::Forget { .. }), "the second takes the only place");
        world.accept().await;
        first_durable.send(Ok(())).unwrap();
        assert_eq!(first.await.unwrap(), expected, "a reclaim is repeated, refused it would be forgotten");
        assert_eq!(second.await.unwrap(), Some(Verdict::Granted));
    }
}
