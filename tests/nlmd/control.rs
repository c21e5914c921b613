//! Runs through the control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nfs3_types::xdr_codec::Void;
use nlmctl::wire::control::{
    BeginArgs, Begun, ClientProgress, ClientResultPage, ClientSeen, Delivery, ExtendArgs, Fate, Grace, LockFatePage,
    LockPage, LockRow, LockState, LocksArgs, Mode, Outcome, Policy, Procedure, ProgressArgs, Refusal, RefusalCode,
    ReleaseArgs, Released, RunArgs, RunClientPage, RunId, RunList, RunPageAfter, RunResult, Scope, SettleArgs,
    SettleWhen, Silent, Status, Unreachable, WatchArgs, Watched,
};
use nlmctl::wire::nlm::{self, Stat};
use nlmctl::wire::rpc::{self, Credential};
use nlmctl::wire::xdr::List;

use super::harness::*;

pub(crate) fn begin_args(control: &mut Control, id: u8, grace_ms: u64) -> BeginArgs {
    let info = control.info();
    BeginArgs {
        run: RunId([id; 16]),
        instance: info.instance,
        nsm_state: info.nsm_state,
        scope: Scope::default(),
        mode: Mode::Strict,
        policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Drop, include_unmonitored: false },
        may_drop: List::default(),
        grace_ms,
        grace_max_ms: grace_ms,
    }
}

pub(crate) fn begin(control: &mut Control, id: u8) -> Result<Begun, Refusal> {
    let args = begin_args(control, id, 60_000);
    control.call(Procedure::Begin, &args)
}

pub(crate) fn result(control: &mut Control, run: RunId) -> Result<RunResult, Refusal> {
    control.call(Procedure::Result, &RunArgs { run })
}

pub(crate) fn unfetched(control: &mut Control) -> Vec<RunId> {
    control.call::<RunList>(Procedure::Unfetched, &Void).unwrap().runs.into_vec()
}

/// All clients acked, a minute ago.
pub(crate) fn acked(control: &mut Control, begun: &Begun) -> Result<Status, Refusal> {
    let clients = (0..begun.clients)
        .map(|client| ClientProgress { client, delivery: Delivery::Acked, ago_ms: 60_000, suspect: false })
        .collect();
    let args = ProgressArgs { run: begun.run, notices_begun: true, clients: List::clipped(clients) };
    control.call(Procedure::Progress, &args)
}

fn settle(control: &mut Control, run: RunId, only_if_nothing_pending: bool) -> Result<RunResult, Refusal> {
    let when = if only_if_nothing_pending { SettleWhen::NothingPending } else { SettleWhen::Always };
    control.call(Procedure::Settle, &SettleArgs { run, when })
}

#[test]
fn a_run_keeps_what_is_reclaimed_and_drops_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let (mut alpha, mut beta) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    let xids = ["live", "stale"].map(|file| {
        let xid = next_xid();
        assert_eq!(alpha.stat_as(xid, nlm::Procedure::Lock, &want(file)), Stat::Granted);
        xid
    });
    let mut control = Control::open(&daemon);
    let before = control.status();
    assert_eq!((before.clients, before.monitored, before.locks, before.grace), (1, 1, 2, Grace::Open));
    // A short grace, so that an ack is soon old enough; then a long deadline.
    let args = BeginArgs { grace_max_ms: 60_000, ..begin_args(&mut control, 1, 500) };
    let begun: Begun = control.call(Procedure::Begin, &args).unwrap();
    let extended: Status =
        control.call(Procedure::Extend, &ExtendArgs { run: begun.run, remaining_ms: 90_000 }).unwrap();
    let remaining = extended.run.0.unwrap().remaining_ms;
    assert!((50_000..=60_000).contains(&remaining), "cut at the latest deadline: {remaining}");
    assert_eq!((begun.in_scope, begun.clients, begun.old_state), (2, 1, before.nsm_state));
    assert_eq!(begun.names.as_slice().len(), 2);
    assert!(begun.new_state.is_up() && begun.new_state != begun.old_state);
    assert_eq!(nsm_state(&daemon), begun.new_state);
    let page: RunClientPage = control.call(Procedure::RunClients, &RunPageAfter { run: begun.run, after: 0 }).unwrap();
    assert_eq!((page.clients.as_slice().len(), page.next), (1, 0));
    assert_eq!(page.clients.as_slice()[0].server_addresses.as_slice()[0].to_string(), "127.0.0.1");

    assert_eq!(begin(&mut control, 2).unwrap_err().code, RefusalCode::RunActive);
    assert_eq!(beta.lock(&want("free")), Stat::DeniedGracePeriod);
    let page: LockPage = control.call(Procedure::Locks, &LocksArgs { scope: Scope::default(), after: 0 }).unwrap();
    assert!(page.locks.as_slice().iter().all(|row| row.lock.state == LockState::Pending));

    acked(&mut control, &begun).unwrap();
    assert_eq!(alpha.lock(&Want { reclaim: true, ..want("live") }), Stat::Granted);
    assert_eq!(settle(&mut control, begun.run, true).unwrap_err().code, RefusalCode::StillPending);
    await_some("an ack that is old enough", || {
        control.status().run.0.is_some_and(|run| run.elapsed_ms > 1_000).then_some(())
    });
    let ended = settle(&mut control, begun.run, false).unwrap();
    assert_eq!(ended.outcome, Outcome::Settled);
    assert_eq!((ended.counts.reclaimed, ended.counts.dropped, ended.counts.kept), (1, 1, 0));
    assert_eq!(beta.lock(&want("live")), Stat::Denied);
    assert_eq!(beta.lock(&want("stale")), Stat::Granted);
    assert_eq!(again(&mut alpha, xids[0], "live"), Some(Stat::Granted));
    assert_eq!(again(&mut alpha, xids[1], "stale"), None, "a grant is not repeated of what is another's by now");

    assert_eq!(settle(&mut control, begun.run, false).unwrap(), ended, "a repeated settle is answered as the first");
    assert_eq!(result(&mut control, begun.run).unwrap(), ended);
    let args = RunPageAfter { run: begun.run, after: 0 };
    let clients: ClientResultPage = control.call(Procedure::ResultClients, &args).unwrap();
    assert_eq!(clients.clients.as_slice()[0].name.as_str(), "alpha");
    let locks: LockFatePage = control.call(Procedure::ResultLocks, &args).unwrap();
    assert_eq!(locks.locks.as_slice().iter().map(|lock| lock.fate).collect::<Vec<_>>(), [Fate::Dropped]);
    assert_eq!(unfetched(&mut control), [begun.run]);
    let Void = control.call(Procedure::Acknowledge, &RunArgs { run: begun.run }).unwrap();
    assert!(unfetched(&mut control).is_empty());
    assert_eq!(begin(&mut control, 2).unwrap().in_scope, 2);
}

#[test]
fn an_aborted_run_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let (mut alpha, mut beta) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    assert_eq!(alpha.lock(&want("file")), Stat::Granted);
    let mut control = Control::open(&daemon);
    let begun = begin(&mut control, 1).unwrap();
    let ended: RunResult = control.call(Procedure::Abort, &RunArgs { run: begun.run }).unwrap();
    assert_eq!((ended.outcome, ended.counts.kept), (Outcome::Aborted, 1));
    assert_eq!(beta.lock(&want("file")), Stat::Denied);
    assert_eq!(beta.lock(&want("another")), Stat::Granted, "grace is over");
    let again = control.call::<RunResult>(Procedure::Abort, &RunArgs { run: begun.run }).unwrap_err();
    assert_eq!(again.code, RefusalCode::WrongPhase);
    let unknown = settle(&mut control, RunId([9; 16]), false).unwrap_err();
    assert_eq!(unknown.code, RefusalCode::UnknownRun);
}

#[test]
fn a_stale_plan_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let mut control = Control::open(&daemon);
    let good = begin_args(&mut control, 1, 60_000);
    let other = BeginArgs { nsm_state: good.nsm_state.next_up(), ..good.clone() };
    assert_eq!(control.call::<Begun>(Procedure::Begin, &other).unwrap_err().code, RefusalCode::StalePlan);
    assert_eq!(control.status().nsm_state, good.nsm_state, "nothing was bumped");
    let begun: Begun = control.call(Procedure::Begin, &good).unwrap();
    let again: Begun = control.call(Procedure::Begin, &good).unwrap();
    assert_eq!(again, begun, "begin is idempotent by run id");
}

#[test]
fn a_run_whose_controller_left_is_settled_or_aborted_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    assert_eq!(alpha.lock(&want("file")), Stat::Granted);
    for (id, told, outcome) in [(1, false, Outcome::Aborted), (2, true, Outcome::Settled)] {
        let mut controller = Control::open(&daemon);
        let args = begin_args(&mut controller, id, 300);
        let begun: Begun = controller.call(Procedure::Begin, &args).unwrap();
        if told {
            acked(&mut controller, &begun).unwrap();
        }
        drop(controller);
        let mut control = Control::open(&daemon);
        let ended = await_some("the result", || result(&mut control, begun.run).ok());
        assert_eq!(ended.outcome, outcome, "{}", ended.reason.as_str());
        assert_eq!(ended.alone, told);
        // The result is durable, and so to be had, a moment before the run ends by it.
        await_some("the end of the run", || (control.status().grace == Grace::Open).then_some(()));
    }
}

#[test]
fn a_watcher_hears_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let (mut control, mut watcher) = (Control::open(&daemon), Control::open(&daemon));
    let cursor = watcher.status().cursor;
    let watching = std::thread::spawn(move || {
        watcher.call::<Watched>(Procedure::Watch, &WatchArgs { cursor, timeout_ms: 10_000 }).unwrap()
    });
    begin(&mut control, 1).unwrap();
    let watched = watching.join().unwrap();
    assert!(watched.events.as_slice().iter().any(|event| event.kind.as_str() == "begin"), "{watched:?}");
    assert!(watched.status.run.0.is_some());
}

#[test]
fn the_read_only_socket_shows_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ro.sock");
    let daemon = Nlmd::start(&folder, &["--control-ro", path.to_str().unwrap()]);
    let mut control = Control::at(&path);
    assert_eq!(control.status().grace, Grace::Open);
    assert_eq!(begin(&mut control, 1).unwrap_err().code, RefusalCode::NotAllowed);
    assert_eq!(Control::open(&daemon).status().grace, Grace::Open);
}

#[test]
fn one_user_of_the_read_only_socket_takes_up_little() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ro.sock");
    let daemon = Nlmd::start(&folder, &["--control-ro", path.to_str().unwrap()]);
    let closes = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
    };
    // A record that is announced longer than any question is.
    let mut long = UnixStream::connect(&path).unwrap();
    long.write_all(&(0x8000_0000_u32 | (1 << 20)).to_be_bytes()).unwrap();
    assert!(closes(&mut long));
    let idle: Vec<Control> = (0..8)
        .map(|_| {
            let mut control = Control::at(&path);
            control.status();
            control
        })
        .collect();
    assert!(closes(&mut UnixStream::connect(&path).unwrap()), "a ninth connection");
    Control::open(&daemon).status();
    drop(idle);
    await_some("a place that was given back", || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // One that may stay is silent.
        stream.read(&mut [0; 1]).is_err().then_some(())
    });
}

#[test]
fn what_waits_behind_a_dropped_lock_is_granted_and_a_late_reclaim_is_taken_if_nobody_was() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (mut alpha, mut beta) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    for file in ["waited for", "free"] {
        assert_eq!(alpha.lock(&want(file)), Stat::Granted);
    }
    let wait = Want { block: true, ..want("waited for") };
    assert_eq!(beta.lock(&wait), Stat::Blocked);
    let mut control = Control::open(&daemon);
    let args = BeginArgs { grace_max_ms: 60_000, ..begin_args(&mut control, 1, 200) };
    let begun: Begun = control.call(Procedure::Begin, &args).unwrap();
    let extend = ExtendArgs { run: begun.run, remaining_ms: 60_000 };
    let _: Status = control.call(Procedure::Extend, &extend).unwrap();
    acked(&mut control, &begun).unwrap();
    assert_eq!(beta.lock(&wait), Stat::Blocked, "a waiter's resend is not refused for grace");
    assert!(host.heard.try_recv().is_err(), "nothing is granted in grace");
    await_some("an ack that is old enough", || {
        control.status().run.0.is_some_and(|run| run.elapsed_ms > 300).then_some(())
    });
    let ended = settle(&mut control, begun.run, false).unwrap();
    assert_eq!((ended.counts.dropped, ended.late), (2, 0));
    assert!(matches!(host.hear(), Heard::Granted { .. }));
    let Void = control.call(Procedure::Acknowledge, &RunArgs { run: begun.run }).unwrap();
    assert_eq!(alpha.lock(&Want { reclaim: true, ..want("free") }), Stat::Granted);
    assert_eq!(alpha.lock(&Want { reclaim: true, ..want("waited for") }), Stat::Denied, "somebody was granted it");
    assert_eq!(result(&mut control, begun.run).unwrap().late, 1, "only the granted one counts");
    assert_eq!(unfetched(&mut control), [begun.run], "what came late is to be fetched too");
}

fn rows(control: &mut Control) -> Vec<LockRow> {
    let page: LockPage = control.call(Procedure::Locks, &LocksArgs { scope: Scope::default(), after: 0 }).unwrap();
    page.locks.into_vec().into_iter().map(|row| row.lock).collect()
}

/// What the rows say of a client.
fn seen(rows: &[LockRow], name: &str) -> ClientSeen {
    let its: Vec<LockRow> = rows.iter().filter(|row| row.owner.name.as_str() == name).cloned().collect();
    ClientSeen::new(its[0].owner.name.clone(), its[0].owner.address, &its)
}

fn release(control: &mut Control, clients: Vec<ClientSeen>, locks: Vec<LockRow>) -> Result<Released, Refusal> {
    let instance = control.info().instance;
    let args = ReleaseArgs { instance, clients: List::clipped(clients), locks: List::clipped(locks) };
    control.call(Procedure::Release, &args)
}

#[test]
fn a_ghost_of_a_client_is_freed_and_who_waited_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (mut ghost, mut beta) = (Client::v4(&daemon, "127.0.0.2", "ghost"), Client::v4(&daemon, "127.0.0.3", "beta"));
    assert_eq!(ghost.lock(&want("waited for")), Stat::Granted);
    assert_eq!(ghost.lock(&want("other")), Stat::Granted);
    assert_eq!(beta.lock(&want("its own")), Stat::Granted);
    assert_eq!(beta.lock(&Want { block: true, ..want("waited for") }), Stat::Blocked);
    let mut control = Control::open(&daemon);
    assert!(control.info().capabilities.release);
    let ghosts = seen(&rows(&mut control), "ghost");
    let cursor = control.status().cursor;
    let released = release(&mut control, vec![ghosts.clone()], vec![]).unwrap();
    assert_eq!((released.locks, released.waiters, released.offered, released.left), (2, 0, 1, 0));
    let Heard::Granted { lock, .. } = host.hear() else { panic!("no GRANTED") };
    assert_eq!(lock.fh.as_slice(), b"waited for");
    await_some("the waiter holds it", || {
        let held = |row: &LockRow| row.file.as_slice() == b"waited for" && row.state == LockState::Held;
        rows(&mut control).iter().any(held).then_some(())
    });
    assert_eq!(control.status().locks, 2, "beta has what it had, and what it waited for");
    assert_eq!(control.status().clients, 2, "the ghost stays known");
    let watched: Watched = control.call(Procedure::Watch, &WatchArgs { cursor, timeout_ms: 0 }).unwrap();
    assert!(watched.events.as_slice().iter().any(|event| event.kind.as_str() == "release"), "{watched:?}");
    assert_eq!(ghost.unlock(&want("waited for")), Stat::Granted);
    assert_eq!(ghost.test(&want("waited for")), Stat::Denied, "its late UNLOCK touches nobody else's");
    assert_eq!(ghost.lock(&Want { reclaim: true, ..want("other") }), Stat::DeniedGracePeriod);
    assert_eq!(release(&mut control, vec![ghosts], vec![]).unwrap_err().code, RefusalCode::StalePlan);
}

/// A LOCK whose reply was lost and that comes again, as it was.
fn again(client: &mut Client, xid: u32, file: &'static str) -> Option<Stat> {
    let args = client.args(nlm::Procedure::Lock, &want(file));
    let message = rpc::call(xid, nlm::PROGRAM, 4, nlm::Procedure::Lock.number(), &Credential::None, &args);
    let answer = client.wire.exchange(&message, Duration::from_millis(300))?;
    Some(client.stat_in(nlm::Procedure::Lock, rpc::parse_reply(&answer).unwrap().outcome.unwrap()))
}

#[test]
fn a_grant_is_not_repeated_after_a_release_has_taken_the_lock_away() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let mut control = Control::open(&daemon);
    let (mut ghost, mut beta) = (Client::v4(&daemon, "127.0.0.2", "ghost"), Client::v4(&daemon, "127.0.0.3", "beta"));
    let xids = ["released", "kept"].map(|file| {
        let xid = next_xid();
        assert_eq!(ghost.stat_as(xid, nlm::Procedure::Lock, &want(file)), Stat::Granted);
        (xid, file)
    });
    assert_eq!(again(&mut ghost, xids[0].0, "released"), Some(Stat::Granted));
    let one: Vec<LockRow> = rows(&mut control).into_iter().filter(|row| row.file.as_slice() == b"released").collect();
    assert_eq!(release(&mut control, vec![], one).unwrap().locks, 1);
    assert_eq!(beta.lock(&want("released")), Stat::Granted);
    assert_eq!(again(&mut ghost, xids[0].0, "released"), None, "it is beta's");
    assert_eq!(again(&mut ghost, xids[1].0, "kept"), Some(Stat::Granted));
    assert_eq!(ghost.lock(&want("released")), Stat::Denied, "a call of its own is answered");
}

#[test]
fn a_release_is_refused_when_the_set_has_changed_in_a_run_for_another_life_and_by_the_read_only_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ro.sock");
    let daemon = Nlmd::start(&folder, &["--control-ro", path.to_str().unwrap()]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    assert_eq!(alpha.lock(&want("first")), Stat::Granted);
    let mut control = Control::open(&daemon);
    let before = rows(&mut control);
    let all = seen(&before, "alpha");
    assert_eq!(alpha.lock(&want("second")), Stat::Granted);
    let refused = release(&mut control, vec![all], vec![]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::StalePlan);
    assert!(refused.message.as_str().contains("alpha at 127.0.0.2"), "{refused}");
    let other_life = ReleaseArgs {
        instance: nlmctl::wire::control::InstanceId([0; 16]),
        clients: List::default(),
        locks: List::clipped(before.clone()),
    };
    assert_eq!(control.call::<Released>(Procedure::Release, &other_life).unwrap_err().code, RefusalCode::StalePlan);
    let mut watcher = Control::at(&path);
    assert_eq!(release(&mut watcher, vec![], before.clone()).unwrap_err().code, RefusalCode::NotAllowed);
    let begun = begin(&mut control, 1).unwrap();
    assert_eq!(release(&mut control, vec![], before.clone()).unwrap_err().code, RefusalCode::RunActive);
    let _: RunResult = control.call(Procedure::Abort, &RunArgs { run: begun.run }).unwrap();
    assert_eq!(control.status().locks, 2);
    assert_eq!(release(&mut control, vec![], before).unwrap().locks, 1, "one lock by itself");
    assert_eq!(control.status().locks, 1);
}
