//! The owner with a scripted disk: what is promised waits for it, and what it refuses is not done.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::endings::PAGES_AT_ONCE;
use super::phase::Refusable;
use super::*;
use crate::host::{Machine, StatdDir};
use crate::lockd::callbacks::Callbacks;
use crate::lockd::callers::Called;
use crate::lockd::embed::Embedding;
use crate::lockd::persist::{Change, DurableSender, Found, MonitorRecord, Persist, PersistError, Watch};
use crate::lockd::statd::Statd;
use crate::locks::{Call, Caller, Limits, LockTable, Process, Reboot, Verdict, Via, Wanted};
use crate::rpc::arrivals::Arrivals;
use crate::rpc::control::LockManagerControl;
use crate::rpc::server::ConnectionId;
use crate::shares::Bounds;
use crate::wire::control::{
    BeginArgs, Begun, ClientProgress, ClientRef, Counts, Delivery, Grace, InstanceId, Mode, Outcome, PAGE, PageAfter,
    Policy, ProgressArgs, Refusal, RefusalCode, RunArgs, RunId, RunPageAfter, RunResult, Scope, SettleArgs, SettleWhen,
    Silent, Unreachable,
};
use crate::wire::rpc::Credential;
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use crate::wire::xdr::List;

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer that does not wait for anything.
const A_MOMENT: Duration = Duration::from_millis(50);

mod embedded;
mod order;
mod runs;

struct World {
    table: Table,
    disk: UnboundedReceiver<(Change, DurableSender)>,
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }
    fn with(limits: Limits) -> Self {
        Self::embedded(limits, Embedding::default())
    }
    fn embedded(limits: Limits, embedding: Embedding) -> Self {
        Self::spawn(|persist| Setup { embedding, ..setup(persist, limits) })
    }
    fn spawn(setup: impl FnOnce(Persist) -> Setup) -> Self {
        let (persist, disk) = Persist::scripted();
        let (table, _owner) = spawn(setup(persist));
        Self { table, disk }
    }

    async fn change(&mut self) -> (Change, DurableSender) {
        timeout(PATIENCE, self.disk.recv()).await.expect("a change for the disk").unwrap()
    }
    async fn accept(&mut self) -> Change {
        let (change, done) = self.change().await;
        done.send(Ok(())).unwrap();
        change
    }
    async fn refuse(&mut self) {
        self.change().await.1.send(Err(PersistError::Write("disk full".into()))).unwrap();
    }
    /// A call that runs on its own.
    fn send(&self, incoming: Incoming) -> tokio::task::JoinHandle<Option<Verdict>> {
        let table = self.table.clone();
        tokio::spawn(async move { table.call(incoming).await })
    }
    async fn hold(&mut self, incoming: Incoming) {
        let call = self.send(incoming);
        self.accept().await;
        assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    }
    async fn begin(&mut self) -> Begun {
        self.begin_with(begin_args(1)).await
    }
    async fn begin_with(&mut self, args: BeginArgs) -> Begun {
        let table = self.table.clone();
        let run = tokio::spawn(async move { table.begin(args, ConnectionId(1)).await });
        assert!(matches!(self.accept().await, Change::Begin(_)));
        assert!(matches!(self.accept().await, Change::Marked { .. }));
        run.await.unwrap().unwrap()
    }
    /// A run in which an ack is soon no late one.
    async fn begin_in_haste(&mut self) {
        self.begin_with(BeginArgs { grace_ms: 1, ..begin_args(1) }).await;
        while self.table.status().await.unwrap().run.0.is_none_or(|run| run.elapsed_ms < 2) {
            tokio::task::yield_now().await;
        }
    }
    async fn settle(&self) -> tokio::task::JoinHandle<Result<RunResult, Refusal>> {
        let acked = ClientProgress { client: 0, delivery: Delivery::Acked, ago_ms: 1_000, suspect: false };
        let args = ProgressArgs { run: RunId([1; 16]), notices_begun: true, clients: List::new(vec![acked]).unwrap() };
        self.table.progress(args, ConnectionId(1)).await.unwrap();
        let table = self.table.clone();
        let args = SettleArgs { run: RunId([1; 16]), when: SettleWhen::Always };
        tokio::spawn(async move { table.settle(args, ConnectionId(1)).await })
    }
}

fn setup(persist: Persist, limits: Limits) -> Setup {
    Setup {
        clock: Clock { start: Instant::now() },
        table: LockTable::new(limits, [1, 2, 3, 4]),
        persist,
        callbacks: Callbacks::new(1, "test").unwrap(),
        instance: InstanceId([1; 16]),
        names: watch::channel(vec![CallerName::new("server").unwrap()]).1,
        called: Called::default(),
        arrivals: Arrivals::default(),
        rpcbind_port: 1,
        nsm_state: NsmState(3),
        found: Found::default(),
        statd: None,
        recovery_until: None,
        embedding: Embedding::default(),
    }
}

fn incoming(host: u8, file: &str) -> Incoming {
    let wanted = Wanted {
        file: FileHandle::new(file.as_bytes()).unwrap(),
        range: ByteRange::ALL,
        len: 0,
        exclusive: true,
        process: Process { svid: Svid(1), oh: OwnerHandle::new(b"o").unwrap() },
    };
    let cookie = Cookie::new(b"c").unwrap();
    Incoming {
        address: std::net::Ipv4Addr::new(127, 0, 0, host).into(),
        name: CallerName::new(&format!("host{host}")).unwrap(),
        credential: Credential::None,
        via: Via { server_address: "127.0.0.1".parse().unwrap(), transport: Transport::Udp, version: 4 },
        call: Call::Lock { wanted, block: false, reclaim: false, monitored: true, state: NsmState(3), cookie },
    }
}

fn test_of(incoming: Incoming) -> Incoming {
    let Call::Lock { wanted, .. } = incoming.call else { panic!("a LOCK") };
    Incoming { call: Call::Test(wanted), ..incoming }
}

fn begin_args(id: u8) -> BeginArgs {
    BeginArgs {
        run: RunId([id; 16]),
        instance: InstanceId([1; 16]),
        nsm_state: NsmState(3),
        scope: Scope::default(),
        mode: Mode::Strict,
        policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Drop, include_unmonitored: false },
        may_drop: List::default(),
        grace_ms: 60_000,
        grace_max_ms: 60_000,
    }
}

#[tokio::test]
async fn a_lock_is_granted_only_when_its_clients_record_is_durable() {
    let mut world = World::new();
    let mut call = world.send(incoming(2, "file"));
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Monitor(_)));
    assert!(timeout(A_MOMENT, &mut call).await.is_err(), "answered before the record was durable");
    assert_eq!(world.table.call(test_of(incoming(3, "file"))).await, Some(Verdict::Granted), "others are served");
    done.send(Ok(())).unwrap();
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(world.table.call(incoming(2, "another")).await, Some(Verdict::Granted), "one record is enough");
}

#[tokio::test]
async fn a_record_that_the_disk_refuses_denies_the_lock() {
    let mut world = World::new();
    let call = world.send(incoming(2, "file"));
    world.refuse().await;
    assert_eq!(call.await.unwrap(), Some(Verdict::NoLocks));
    assert_eq!(world.table.status().await.unwrap().locks, 0);
    world.hold(incoming(2, "file")).await;
}

#[tokio::test]
async fn a_callback_of_statd_about_a_link_local_address_frees_its_locks() {
    let (name, cookie) = (CallerName::new("fe80::7%1").unwrap(), [7; 16]);
    let address = crate::wire::scope::on("fe80::7".parse().unwrap(), 1).unwrap();
    let record = MonitorRecord {
        name: CallerName::new("host2").unwrap(),
        address,
        server_addresses: Vec::new(),
        nsm_state: NsmState(3),
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sm")).unwrap();
    let state_file = StatdDir::find(&Machine::default(), Some(folder.path())).unwrap();
    let world = World::spawn(|persist| Setup {
        statd: Some(StatdSetup { statd: Statd::new(1, CallerName::new("server").unwrap()).unwrap(), state_file }),
        found: Found { watches: vec![Watch { address, cookie }], monitors: vec![record], ..Found::default() },
        ..setup(persist, Limits::default())
    });
    // One that is not monitored needs no statd.
    let mut lock = Incoming { address, ..incoming(2, "file") };
    let Call::Lock { monitored, .. } = &mut lock.call else { panic!("a LOCK") };
    *monitored = false;
    assert_eq!(world.table.call(lock).await, Some(Verdict::Granted));
    assert_eq!(world.table.statd_calls(name, NsmState(5), cookie).await, Some(Reboot::Released(1)));
}

#[tokio::test]
async fn a_call_to_another_server_address_makes_the_record_wider_first() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    let mut elsewhere = incoming(2, "another");
    elsewhere.via.server_address = "127.0.0.99".parse().unwrap();
    let call = world.send(elsewhere);
    let Change::Monitor(record) = world.accept().await else { panic!("not a record") };
    assert_eq!(record.server_addresses.len(), 2);
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn nothing_is_marked_when_the_new_state_is_not_durable() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    let table = world.table.clone();
    let run = tokio::spawn(async move { table.begin(begin_args(1), ConnectionId(1)).await });
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Begin(_)));
    assert_eq!(world.table.status().await.unwrap().grace, Grace::Open, "marked before the state was durable");
    let second = world.table.begin(begin_args(2), ConnectionId(2)).await;
    assert_eq!(second.unwrap_err().code, RefusalCode::RunActive);
    done.send(Err(PersistError::Write("disk full".into()))).unwrap();
    assert!(matches!(world.accept().await, Change::NotBegun(_)));
    assert_eq!(run.await.unwrap().unwrap_err().code, RefusalCode::NotDurable);
    let status = world.table.status().await.unwrap();
    assert_eq!((status.grace, status.nsm_state), (Grace::Open, NsmState(3)));
}

#[tokio::test]
async fn while_the_result_is_written_only_calls_that_meet_a_pending_lock_wait() {
    let mut world = World::new();
    world.hold(incoming(2, "stale")).await;
    world.begin().await;
    let settling = world.settle().await;
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Ended(_)));
    let mut meets = world.send(test_of(incoming(3, "stale")));
    assert!(timeout(A_MOMENT, &mut meets).await.is_err(), "it must wait");
    let free = timeout(PATIENCE, world.table.call(test_of(incoming(3, "free")))).await.unwrap();
    assert!(free.is_some(), "it is answered at once");
    done.send(Ok(())).unwrap();
    let result = settling.await.unwrap().unwrap();
    assert_eq!(result.outcome, Outcome::Settled);
    assert!(meets.await.unwrap().is_some(), "and is answered after the commit");
}

#[tokio::test]
async fn a_result_that_the_disk_refuses_drops_nothing_and_the_run_goes_on() {
    let mut world = World::new();
    world.hold(incoming(2, "stale")).await;
    world.begin().await;
    for attempt in 1..=4 {
        let settling = world.settle().await;
        world.refuse().await;
        assert_eq!(settling.await.unwrap().unwrap_err().code, RefusalCode::NotDurable, "attempt {attempt}");
        let status = world.table.status().await.unwrap();
        assert_eq!((status.grace, status.locks), (Grace::Strict, 1));
    }
    let settling = world.settle().await;
    world.refuse().await;
    assert!(settling.await.unwrap().is_err());
    let Change::Ended(full) = world.accept().await else { panic!("the fifth failure aborts") };
    assert_eq!(full.result.outcome, Outcome::Aborted);
    let status = world.table.status().await.unwrap();
    assert_eq!((status.grace, status.locks), (Grace::Open, 1), "nothing is lost");
}

/// A run over so many full pages of locks, and one lock more, whose end is asked for.
async fn settling(world: &mut World, pages: usize) -> tokio::task::JoinHandle<Result<RunResult, Refusal>> {
    world.hold(incoming(2, "first")).await;
    for n in 0..pages * PAGE {
        assert_eq!(world.table.call(incoming(2, &format!("file {n}"))).await, Some(Verdict::Granted));
    }
    world.begin().await;
    world.settle().await
}

#[tokio::test]
async fn the_scan_waits_for_the_disk_and_the_result_comes_when_all_its_locks_are_there() {
    let (mut world, pages) = (World::new(), PAGES_AT_ONCE + 3);
    let settling = settling(&mut world, pages).await;
    for (from, count) in [(0, PAGES_AT_ONCE), (PAGES_AT_ONCE, 3)] {
        let (Change::Locks { first, pages, .. }, done) = world.change().await else { panic!("not locks") };
        assert_eq!((first, pages.len()), (from * PAGE, count));
        assert!(pages.iter().all(|page| page.as_slice().len() == PAGE));
        assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "these are not on disk");
        done.send(Ok(())).unwrap();
    }
    let Change::Ended(rest) = world.accept().await else { panic!("the rest") };
    assert_eq!((rest.first_lock(), rest.count_locks()), (pages * PAGE, pages * PAGE + 1));
    let Counts { dropped, kept, .. } = settling.await.unwrap().unwrap().counts;
    assert_eq!(dropped + kept, pages as u64 * PAGE as u64 + 1);
}

#[tokio::test]
async fn locks_of_a_result_that_the_disk_refuses_are_not_dropped_and_all_are_written_anew() {
    let (mut world, pages) = (World::new(), PAGES_AT_ONCE + 1);
    let first = settling(&mut world, pages).await;
    assert!(matches!(world.accept().await, Change::Locks { first: 0, .. }));
    world.refuse().await;
    assert_eq!(first.await.unwrap().unwrap_err().code, RefusalCode::NotDurable);
    let status = world.table.status().await.unwrap();
    assert_eq!((status.grace, status.locks), (Grace::Strict, (pages * PAGE) as u64 + 1));
    let second = world.settle().await;
    for page in [0, PAGES_AT_ONCE] {
        assert!(matches!(world.accept().await, Change::Locks { first, .. } if first == page * PAGE));
    }
    let Change::Ended(rest) = world.accept().await else { panic!("the rest") };
    assert_eq!((rest.first_lock(), rest.count_locks()), (pages * PAGE, pages * PAGE + 1));
    assert_eq!(second.await.unwrap().unwrap().outcome, Outcome::Settled);
}

#[tokio::test]
async fn a_run_that_a_failing_disk_aborted_is_told_as_that_while_the_disk_goes_on_failing() {
    let mut world = World::new();
    world.hold(incoming(2, "stale")).await;
    world.begin().await;
    for _ in 1..=5 {
        let settling = world.settle().await;
        world.refuse().await;
        assert_eq!(settling.await.unwrap().unwrap_err().code, RefusalCode::NotDurable);
    }
    world.refuse().await;
    let run = RunId([1; 16]);
    let result = world.table.result(RunArgs { run }).await.unwrap();
    assert_eq!(result.outcome, Outcome::Aborted);
    assert!(result.reason.as_str().contains("could not be written") && result.reason.as_str().contains("disk full"));
    let again = world.table.settle(SettleArgs { run, when: SettleWhen::Always }, ConnectionId(1)).await;
    assert_eq!(again, Ok(result), "a repeated SETTLE is answered with the same");
}

#[test]
fn a_run_ends_as_long_after_its_begin_as_it_lasted_whatever_the_wall_clock_says() {
    let mut runs = super::phase::Runs::new(Vec::new());
    runs.began = (Duration::from_secs(40), 1_000_000);
    assert_eq!(runs.unix_ms(Duration::from_millis(42_500)), 1_002_500);
}

#[tokio::test]
async fn clients_that_push_each_other_out_of_a_full_table_are_denied_in_the_end() {
    let mut world = World::with(Limits { clients: Bounds { all: 1, host: 1 }, ..Limits::default() });
    world.hold(incoming(2, "file")).await;
    assert_eq!(world.table.call(incoming(3, "another")).await, Some(Verdict::NoLocks), "the only place is taken");
}

#[tokio::test]
async fn after_an_order_that_panicked_nothing_is_done_any_more_and_the_owner_ends() {
    let (persist, _disk) = Persist::scripted();
    let (table, owner) = spawn(setup(persist, Limits::default()));
    let order = std::panic::AssertUnwindSafe(|| table.tell(|_| panic!("asked to")));
    assert!(std::panic::catch_unwind(order).is_err());
    assert_eq!(table.call(incoming(2, "file")).await, None);
    assert!(table.status().await.is_err());
    timeout(PATIENCE, owner).await.expect("the owner's task ends").unwrap();
}

#[tokio::test]
async fn the_owner_ends_when_nothing_can_be_written_any_more() {
    let (persist, disk) = Persist::scripted();
    let (table, owner) = spawn(setup(persist, Limits::default()));
    drop(disk);
    let _not_answered = tokio::spawn(async move { table.call(incoming(2, "file")).await });
    timeout(PATIENCE, owner).await.expect("the owner's task ends").unwrap();
}

fn unlock_of(incoming: Incoming) -> Incoming {
    let Call::Lock { wanted, .. } = incoming.call else { panic!("a LOCK") };
    Incoming { call: Call::Unlock(wanted), ..incoming }
}

#[tokio::test]
async fn what_follows_a_lock_that_waits_for_its_record_does_not_overtake_it() {
    for call in [unlock_of(incoming(2, "file")), Incoming { call: Call::FreeAll, ..incoming(2, "file") }] {
        let mut world = World::new();
        let lock = world.send(incoming(2, "file"));
        let (_, done) = world.change().await;
        let mut later = world.send(call);
        assert!(timeout(A_MOMENT, &mut later).await.is_err(), "it has overtaken the LOCK");
        done.send(Ok(())).unwrap();
        assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
        assert_eq!(later.await.unwrap(), Some(Verdict::Granted));
        assert_eq!(world.table.status().await.unwrap().locks, 0, "a ghost");
    }
}

#[tokio::test]
async fn a_reboot_notice_does_not_overtake_a_lock_of_the_life_before() {
    let mut world = World::new();
    let lock = world.send(incoming(2, "file"));
    let (_, done) = world.change().await;
    let table = world.table.clone();
    let (source, name) = (incoming(2, "file").address, CallerName::new("host2").unwrap());
    let mut notice = tokio::spawn(async move { table.reboot(source, name, NsmState(5)).await });
    assert!(timeout(A_MOMENT, &mut notice).await.is_err(), "it has overtaken the LOCK");
    done.send(Ok(())).unwrap();
    assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(notice.await.unwrap(), Some(Reboot::Released(1)));
}

#[tokio::test]
async fn what_follows_a_lock_that_waits_for_the_commit_does_not_overtake_it() {
    let mut world = World::new();
    world.hold(incoming(2, "stale")).await;
    world.hold(incoming(3, "own")).await;
    world.begin().await;
    let settling = world.settle().await;
    let (_, done) = world.change().await;
    let mut reclaim = incoming(2, "stale");
    let Call::Lock { reclaim: again, .. } = &mut reclaim.call else { panic!("a LOCK") };
    *again = true;
    let lock = world.send(reclaim);
    tokio::task::yield_now().await;
    let mut later = world.send(unlock_of(incoming(2, "free")));
    assert!(timeout(A_MOMENT, &mut later).await.is_err(), "it has overtaken the LOCK");
    done.send(Ok(())).unwrap();
    settling.await.unwrap().unwrap();
    while !lock.is_finished() {
        // A late reclaim is written before its answer.
        tokio::select! {
            change = world.disk.recv() => change.unwrap().1.send(Ok(())).unwrap(),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    assert_eq!(later.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn a_reclaim_that_waits_for_its_record_while_the_result_is_written_came_in_time() {
    let mut world = World::new();
    world.hold(incoming(2, "claimed")).await;
    world.begin_in_haste().await;
    let settling = world.settle().await;
    let (ended, written) = world.change().await;
    assert!(matches!(ended, Change::Ended(_)));
    let mut elsewhere = reclaim_of(incoming(2, "claimed"));
    elsewhere.via.server_address = "127.0.0.99".parse().unwrap();
    let call = world.send(elsewhere);
    let (record, recorded) = world.change().await;
    assert!(matches!(record, Change::Monitor(_)));
    written.send(Ok(())).unwrap();
    assert!(matches!(world.accept().await, Change::TakenBack(_)));
    assert_eq!(settling.await.unwrap().unwrap_err().code, RefusalCode::StillPending);
    recorded.send(Ok(())).unwrap();
    assert_eq!(timeout(PATIENCE, call).await.expect("an answer").unwrap(), Some(Verdict::Granted));
    let settling = world.settle().await;
    assert!(matches!(world.accept().await, Change::Ended(_)));
    let Counts { reclaimed, dropped, .. } = settling.await.unwrap().unwrap().counts;
    assert_eq!((reclaimed, dropped), (1, 0));
}

#[tokio::test]
async fn the_recovery_grace_waits_for_a_reclaim_that_came_in_time_and_is_not_on_record_yet() {
    let until = Duration::from_millis(100);
    let mut world = World::spawn(|persist| Setup { recovery_until: Some(until), ..setup(persist, Limits::default()) });
    let mut call = world.send(reclaim_of(incoming(2, "file")));
    let (_, recorded) = world.change().await;
    while world.table.status().await.unwrap().grace_remaining_ms > 0 {
        tokio::task::yield_now().await;
    }
    assert!(timeout(A_MOMENT, &mut call).await.is_err(), "its record is not on disk");
    assert_eq!(world.table.status().await.unwrap().grace, Grace::Recovery);
    recorded.send(Ok(())).unwrap();
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    while world.table.status().await.unwrap().grace != Grace::Open {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reclaim_that_comes_while_the_result_is_written_is_decided_before_the_run_ends() {
    let mut world = World::new();
    world.hold(incoming(2, "claimed")).await;
    assert_eq!(world.table.call(incoming(2, "claimed next")).await, Some(Verdict::Granted));
    world.hold(incoming(3, "own")).await;
    let mut blocking = incoming(3, "claimed");
    let Call::Lock { block, .. } = &mut blocking.call else { panic!("a LOCK") };
    *block = true;
    assert_eq!(world.table.call(blocking).await, Some(Verdict::Blocked));
    world.begin_in_haste().await;
    let settling = world.settle().await;
    let (Change::Ended(first), done) = world.change().await else { panic!("the result") };
    assert_eq!(first.result.counts.dropped, 2);
    let mut call = world.send(reclaim_of(incoming(2, "claimed")));
    tokio::task::yield_now().await;
    done.send(Ok(())).unwrap();
    world.refuse().await;
    let (Change::TakenBack(record), done) = world.change().await else { panic!("the run goes on") };
    assert_eq!((record.run, record.in_scope, record.clients.len()), (first.result.run, 3, 2));
    assert!(timeout(A_MOMENT, &mut call).await.is_err(), "the disk still says that it was dropped");
    done.send(Ok(())).unwrap();
    let Change::Ended(second) = world.accept().await else { panic!("the result, anew") };
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted), "before the waiter");
    let result = settling.await.unwrap().unwrap();
    assert_eq!(result, second.result);
    let Counts { reclaimed, dropped, kept, conflicts, .. } = result.counts;
    assert_eq!((reclaimed, dropped, kept, conflicts), (1, 0, 2, 0), "it was still claiming; the third was not told");
}

#[tokio::test]
async fn what_is_on_its_way_to_the_owner_when_the_result_is_written_comes_before_the_end() {
    let mut world = World::new();
    world.hold(incoming(2, "claimed")).await;
    world.begin_in_haste().await;
    let settling = world.settle().await;
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Ended(_)));
    let table = world.table.clone();
    let call = tokio::spawn(async move {
        // As a datagram that was just read, or a new connection.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        table.call(reclaim_of(incoming(2, "claimed"))).await
    });
    done.send(Ok(())).unwrap();
    assert!(matches!(world.accept().await, Change::TakenBack(_)));
    world.accept().await;
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(settling.await.unwrap().unwrap().counts.reclaimed, 1);
}

#[tokio::test]
async fn what_another_thread_has_read_comes_before_the_end_of_a_run() {
    let arrivals = Arrivals::new().unwrap();
    let mut world = World::spawn(|persist| Setup { arrivals: arrivals.clone(), ..setup(persist, Limits::default()) });
    world.hold(incoming(2, "claimed")).await;
    world.begin_in_haste().await;
    let settling = world.settle().await;
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Ended(_)));
    let mut reader = arrivals.reader();
    reader.begins();
    done.send(Ok(())).unwrap();
    // Far more turns than those after which a single thread would have executed all that it has read.
    tokio::time::sleep(A_MOMENT).await;
    let call = world.send(reclaim_of(incoming(2, "claimed")));
    tokio::task::yield_now().await;
    reader.rests();
    assert!(matches!(world.accept().await, Change::TakenBack(_)));
    world.accept().await;
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(settling.await.unwrap().unwrap().counts.reclaimed, 1);
}

#[tokio::test]
async fn a_run_is_not_settled_while_clients_are_owed_the_time_in_which_nlmd_did_not_run() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    world.begin().await;
    let lag = |owner: &mut super::state::Owner, asker: Refusable<()>| {
        owner.table.lagged(owner.clock.now(), Duration::from_secs(5), true);
        asker.send(Ok(())).unwrap();
    };
    world.table.order(lag).await.unwrap();
    let refusal = world.settle().await.await.unwrap().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::StillPending);
    assert_eq!(world.table.status().await.unwrap().grace, Grace::Strict, "it goes on");
}

fn reclaim_of(mut incoming: Incoming) -> Incoming {
    let Call::Lock { reclaim, .. } = &mut incoming.call else { panic!("a LOCK") };
    *reclaim = true;
    incoming
}

#[tokio::test]
async fn only_a_call_that_takes_a_lock_makes_its_caller_a_client() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    let wanted = || match incoming(3, "file").call {
        Call::Lock { wanted, .. } => wanted,
        _ => panic!("a LOCK"),
    };
    for (call, granted) in [
        (Call::Test(wanted()), false),
        (Call::Cancel(wanted()), false),
        (Call::Unlock(wanted()), true),
        (Call::FreeAll, true),
    ] {
        let verdict = world.table.call(Incoming { call, ..incoming(3, "file") }).await;
        assert_eq!(verdict == Some(Verdict::Granted), granted, "{verdict:?}");
    }
    let status = world.table.status().await.unwrap();
    assert_eq!((status.clients, status.locks), (1, 1));
}

#[tokio::test]
async fn a_renamed_host_has_a_record_before_what_it_has_becomes_that_of_its_new_name() {
    for renamed in ["HOST2", "host2.example.org", "host2."] {
        let mut world = World::new();
        world.hold(incoming(2, "file")).await;
        assert_eq!(world.table.call(incoming(2, "other")).await, Some(Verdict::Granted));
        let named = |incoming: Incoming| Incoming { name: CallerName::new(renamed).unwrap(), ..incoming };
        assert_eq!(world.table.call(named(test_of(incoming(2, "file")))).await, Some(Verdict::Granted));
        assert_eq!(world.table.status().await.unwrap().clients, 1, "TEST makes no client");
        let mut unlock = world.send(named(unlock_of(incoming(2, "file"))));
        let (change, done) = world.change().await;
        assert!(matches!(change, Change::Monitor(record) if record.name.as_str() == renamed));
        assert!(timeout(A_MOMENT, &mut unlock).await.is_err(), "its answer does not wait for the record");
        done.send(Ok(())).unwrap();
        assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted));
        assert_eq!(world.table.status().await.unwrap().locks, 1);
    }
}

#[tokio::test]
async fn clients_of_the_last_life_that_there_is_no_room_for_push_nobodys_record_out() {
    let (persist, mut disk) = Persist::scripted();
    let record = |host: u8| crate::lockd::persist::MonitorRecord {
        name: CallerName::new(&format!("host{host}")).unwrap(),
        address: std::net::Ipv4Addr::new(127, 0, 0, host).into(),
        server_addresses: Vec::new(),
        nsm_state: NsmState(3),
    };
    let found = Found { monitors: (2..7).map(record).collect(), ..Found::default() };
    let limits = Limits { clients: Bounds { all: 2, host: 2 }, ..Limits::default() };
    let (table, _owner) = spawn(Setup { found, ..setup(persist, limits) });
    let page = table.clients(PageAfter { after: 0 }).await.unwrap();
    assert_eq!(page.clients.as_slice().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["host2", "host3"]);
    assert!(disk.try_recv().is_err(), "no record is removed");
}

#[tokio::test]
async fn a_run_has_a_controller_until_the_connection_that_began_it_is_closed() {
    let mut world = World::new();
    world.begin().await;
    let attached = async || {
        let at = |owner: &mut super::state::Owner, asker: Refusable<bool>| {
            asker.send(Ok(owner.runs.controller_attached())).unwrap();
        };
        world.table.order(at).await.unwrap()
    };
    world.table.connection_closed(ConnectionId(2));
    // What was sent in a task of its own has its turn.
    tokio::task::yield_now().await;
    assert!(attached().await, "that was another connection");
    world.table.connection_closed(ConnectionId(1));
    let gone = async {
        while attached().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("nobody drives it");
}

#[tokio::test]
async fn free_all_of_much_is_answered_when_all_of_it_is_free() {
    let mut world = World::new();
    world.hold(incoming(2, "first")).await;
    for n in 0..1_500 {
        assert_eq!(world.table.call(incoming(2, &format!("file {n}"))).await, Some(Verdict::Granted));
    }
    let free_all = Incoming { call: Call::FreeAll, ..incoming(2, "none") };
    assert_eq!(world.table.call(free_all).await, Some(Verdict::Granted));
    assert_eq!(world.table.status().await.unwrap().locks, 0);
}
