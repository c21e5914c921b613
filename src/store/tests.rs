mod files;
mod versions;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::report::{
    ClientFate, KeptBecause, LockReport, Outcome, PendingReport, Phase, Probe, Release, ReleaseOutcome, ReleaseReport,
    ReleasedCounts, ScopeReport,
};
use crate::resync::reconcile::Memory;
use crate::wire::control::*;
use crate::wire::types::*;
use crate::wire::xdr::{List, Maybe};

/// A life of a lock manager that has none of the runs here.
const ELSEWHERE: InstanceId = InstanceId([0xee; 16]);

fn address(text: &str) -> Address {
    Address(text.parse().unwrap())
}

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

fn run_id(n: u8) -> RunId {
    RunId([n; 16])
}

fn new_run(id: RunId) -> NewRun {
    NewRun {
        manager: "nlmd".into(),
        knows_owners: true,
        locks_listed: true,
        endpoint: "here".into(),
        fingerprint: "f00d".into(),
        scope: ScopeReport { clients: vec!["c0".into()], ..ScopeReport::default() },
        names: vec![CallerName::new("nas").unwrap()],
        begin: BeginArgs { mode: Mode::Targeted, nsm_state: NsmState(41), ..BeginArgs::sample(id) },
    }
}

fn begun(id: RunId) -> Begun {
    Begun {
        run: id,
        old_state: NsmState(41),
        new_state: NsmState(43),
        in_scope: 40,
        unmonitored: 1,
        clients: 2,
        names: List::default(),
    }
}

fn client(index: u32) -> NewClient {
    NewClient {
        client: RunClient {
            name: name(&format!("c{index}")),
            addresses: List::clipped(vec![address(&format!("127.1.0.{index}"))]),
            server_addresses: List::clipped(vec![address("127.0.0.1")]),
            locks: 20,
            ..RunClient::sample(index)
        },
        probe: Probe::Answers,
    }
}

fn counts(reclaimed: u64, dropped: u64) -> Counts {
    Counts { in_scope: reclaimed + dropped, reclaimed, dropped, ..Counts::default() }
}

fn result(index: u32, counts: Counts) -> ClientResult {
    ClientResult {
        name: name(&format!("c{index}")),
        address: address(&format!("127.1.0.{index}")),
        reaction: if counts.reclaimed == 0 { Reaction::Silent } else { Reaction::Understood },
        counts,
        ..ClientResult::sample(index)
    }
}

fn fate(start: u64) -> LockFate {
    LockFate::sample(LockRow::sample(-3, start, u64::MAX), Fate::Dropped)
}

fn settled(counts: Counts) -> RunOutcome {
    RunOutcome {
        outcome: Outcome::Settled,
        reason: Some("nothing pending".into()),
        not_understood: false,
        alone: false,
        ended_unix_ms: None,
        counts: Some(counts),
        late: 0,
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("runs.db")
    }
    fn open(&self) -> Store {
        Store::open(&self.path()).unwrap()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn rows_of(store: &mut Store, id: RunId) -> Vec<LockReport> {
    let mut rows = Vec::new();
    store.detail(id).unwrap().lock_rows.look(|row| rows.push(LockReport::from(&row))).unwrap();
    rows
}

/// A whole run of two clients: one reclaims all, one is silent.
fn whole_run(store: &mut Store, id: RunId) {
    store.create_run(&new_run(id)).unwrap();
    store.set_phase(id, Phase::Beginning).unwrap();
    store.record_begun(&begun(id)).unwrap();
    store.record_clients(id, &[client(0), client(1)]).unwrap();
    store.set_phase(id, Phase::Notifying).unwrap();
    let delivery = |client, acked_ms| DeliveryUpdate {
        client,
        delivery: Delivery::Acked,
        notices: 2,
        acks: 2,
        attempts: 2,
        acked_ms: Some(acked_ms),
        suspect: client == 1,
        error: None,
    };
    store.record_deliveries(id, &[delivery(0, 5), delivery(1, 9)]).unwrap();
    store.set_phase(id, Phase::Settling).unwrap();
    store.record_client_results(id, &[result(0, counts(20, 0)), result(1, counts(0, 20))]).unwrap();
    store.record_lock_fates(id, 0, &[fate(0), fate(1)]).unwrap();
    store.record_lock_fates(id, 2, &[fate(2)]).unwrap();
    store.record_result(id, &settled(counts(20, 20))).unwrap();
}

#[test]
fn clients_that_only_the_lock_managers_result_names_are_in_the_report() {
    let (place, id) = (Place::new(), run_id(1));
    let mut store = place.open();
    store.create_run(&new_run(id)).unwrap();
    store.record_begun(&begun(id)).unwrap();
    let nowhere = ClientResult { address: address("0.0.0.0"), ..result(1, counts(0, 20)) };
    store.record_client_results(id, &[result(0, counts(20, 0)), nowhere]).unwrap();
    store.record_result(id, &settled(counts(20, 20))).unwrap();
    let report = store.report(id).unwrap();
    let seen: Vec<_> = report.clients.iter().map(|c| (c.name.as_str(), c.address, c.fate, c.locks.unwrap())).collect();
    let expected = [
        ("c0", Some(address("127.1.0.0")), ClientFate::Acked, counts(20, 0).into()),
        ("c1", None, ClientFate::Silent, counts(0, 20).into()),
    ];
    assert_eq!(seen, expected);
    assert!(store.clients(id).unwrap().iter().all(|stored| stored.notices.delivery == Delivery::Acked));
}

#[test]
fn a_manager_that_knows_no_owners_has_no_counts_for_its_clients() {
    let place = Place::new();
    let id = run_id(1);
    let mut store = place.open();
    store.create_run(&NewRun { knows_owners: false, ..new_run(id) }).unwrap();
    store.record_begun(&begun(id)).unwrap();
    store.record_clients(id, &[client(0)]).unwrap();
    let report = store.report(id).unwrap();
    assert_eq!((report.clients[0].locks, report.locks.in_scope), (None, 40));
}

#[test]
fn a_run_over_locks_that_could_not_be_listed_is_unverified_wherever_its_exit_code_is_kept() {
    let place = Place::new();
    let id = run_id(1);
    let mut store = place.open();
    store.create_run(&NewRun { locks_listed: false, ..new_run(id) }).unwrap();
    store.record_begun(&begun(id)).unwrap();
    store.record_result(id, &settled(Counts::default())).unwrap();
    let written: u8 = store.connection.query_row("SELECT exit FROM run", [], |row| row.get(0)).unwrap();
    assert_eq!((written, store.report(id).unwrap().run.exit, store.list(1).unwrap()[0].exit), (6, Some(6), Some(6)));
}

#[test]
fn a_run_reads_back_as_it_was_written() {
    let place = Place::new();
    let id = run_id(1);
    whole_run(&mut place.open(), id);
    let mut store = place.open();
    let rows = rows_of(&mut store, id);
    assert!(store.unfinished("here", ELSEWHERE).unwrap().is_none());
    let detail = store.detail(id).unwrap();
    let report = &detail.report;
    assert_eq!((report.run.outcome, report.run.phase, report.run.exit), (Some(Outcome::Settled), Phase::Done, Some(3)));
    assert_eq!(report.run.reason, None);
    assert_eq!((report.state.old, report.state.new), (Some(41), Some(43)));
    assert_eq!((report.locks.in_scope, report.locks.reclaimed, report.locks.dropped), (40, 20, 20));
    assert_eq!(report.run.scope.clients, ["c0"]);
    let fates: Vec<_> =
        report.clients.iter().map(|c| (c.fate, c.acked_ms, c.suspect, c.locks.map(|l| l.dropped))).collect();
    assert_eq!(fates, [(ClientFate::Acked, Some(5), false, Some(0)), (ClientFate::Silent, Some(9), true, Some(20))]);
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[2].start, rows[2].end, rows[2].owner.svid), (2, None, Some(-3)));
    let kinds: Vec<_> = detail.events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["planned", "beginning", "begun", "notifying", "settling", "settled"]);
}

#[test]
fn pages_that_are_given_again_change_nothing() {
    let place = Place::new();
    let mut store = place.open();
    let id = run_id(1);
    whole_run(&mut store, id);
    let before = (store.report(id).unwrap().clients, rows_of(&mut store, id));
    store.record_clients(id, &[client(0), client(1)]).unwrap();
    store.record_client_results(id, &[result(0, counts(20, 0)), result(1, counts(0, 20))]).unwrap();
    store.record_lock_fates(id, 0, &[fate(0), fate(1)]).unwrap();
    let after = (store.report(id).unwrap().clients, rows_of(&mut store, id));
    assert_eq!(before, after);
}

#[test]
fn after_rows_of_locks_all_else_waits_for_the_disk_again() {
    let place = Place::new();
    let mut store = place.open();
    let full =
        |store: &Store| store.connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i32>(0)) == Ok(2);
    store.create_run(&new_run(run_id(1))).unwrap();
    store.record_lock_fates(run_id(1), 0, &[fate(0)]).unwrap();
    assert!(full(&store));
    store.record_lock_fates(run_id(2), 0, &[fate(0)]).unwrap_err();
    assert!(full(&store), "also where they could not be written");
}

#[test]
fn an_unfinished_run_is_found_with_what_a_resume_needs() {
    let place = Place::new();
    let id = run_id(2);
    {
        let mut store = place.open();
        whole_run(&mut store, run_id(1));
        store.create_run(&new_run(id)).unwrap();
        store.record_begun(&begun(id)).unwrap();
        store.record_clients(id, &[client(0)]).unwrap();
        store.set_phase(id, Phase::Notifying).unwrap();
    }
    let store = place.open();
    let found = store.unfinished("here", ELSEWHERE).unwrap().unwrap();
    assert_eq!((found.id, found.phase), (id, Phase::Notifying));
    assert_eq!(found.begin, new_run(id).begin);
    let clients = store.clients(id).unwrap();
    assert_eq!(clients[0].client, client(0).client);
    assert_eq!(clients[0].notices.delivery, Delivery::NotTold);
    let report = store.report(id).unwrap();
    assert_eq!((report.run.exit, report.run.outcome, report.locks.unverified), (None, None, 40));
    assert_eq!(report.state.new, Some(43));
}

#[test]
fn a_client_that_was_sent_notices_before_nlmctl_left_is_no_client_that_was_not_told() {
    let (place, id) = (Place::new(), run_id(1));
    let mut store = place.open();
    store.create_run(&new_run(id)).unwrap();
    store.record_begun(&begun(id)).unwrap();
    store.record_clients(id, &[client(0), client(1)]).unwrap();
    let sent = DeliveryUpdate {
        client: 0,
        delivery: Delivery::NotTold,
        notices: 1,
        acks: 0,
        attempts: 5,
        acked_ms: None,
        suspect: false,
        error: None,
    };
    store.record_deliveries(id, std::slice::from_ref(&sent)).unwrap();
    let fates: Vec<_> = store.report(id).unwrap().clients.iter().map(|client| client.fate).collect();
    assert_eq!(fates, [ClientFate::NoAnswer, ClientFate::NotTold]);
    // From here on notices may leave.
    store.set_phase(id, Phase::Notifying).unwrap();
    store.record_clients(id, &[client(2)]).unwrap();
    let unsent = DeliveryUpdate { client: 1, attempts: 0, error: Some("no address to send from".into()), ..sent };
    store.record_deliveries(id, &[unsent]).unwrap();
    store.record_result(id, &settled(counts(40, 0))).unwrap();
    let fates: Vec<_> = store.report(id).unwrap().clients.iter().map(|client| client.fate).collect();
    assert_eq!(fates, [ClientFate::NoAnswer, ClientFate::NotTold, ClientFate::Unknown]);
}

#[test]
fn a_run_without_a_result_of_the_manager_ends_with_its_locks_unverified() {
    let place = Place::new();
    let mut store = place.open();
    let id = run_id(1);
    store.create_run(&new_run(id)).unwrap();
    store.record_begun(&begun(id)).unwrap();
    let gone = RunOutcome { outcome: Outcome::Interrupted, reason: None, counts: None, ..settled(Counts::default()) };
    store.record_result(id, &gone).unwrap();
    let report = store.report(id).unwrap();
    assert_eq!((report.run.exit, report.locks.in_scope, report.locks.unverified), (Some(1), 40, 40));
    assert_eq!(report.run.reason.as_deref(), Some("nlmctl ended in the middle of the run"));
    // A resume that learns more writes over it.
    store.record_result(id, &settled(counts(40, 0))).unwrap();
    let report = store.report(id).unwrap();
    assert_eq!((report.run.exit, report.locks.reclaimed, report.locks.unverified), (Some(0), 40, 0));
}

#[test]
fn a_run_is_found_by_the_first_characters_of_its_id() {
    let place = Place::new();
    let mut store = place.open();
    let (one, two) = (RunId([0xaa; 16]), RunId([0xab; 16]));
    store.create_run(&new_run(one)).unwrap();
    store.create_run(&new_run(two)).unwrap();
    assert_eq!(store.find("AB").unwrap(), two);
    assert_eq!(store.find(&one.to_string()).unwrap(), one);
    assert!(matches!(store.find("a"), Err(StoreError::AmbiguousRun { .. })));
    for unknown in ["", "b", "%", "_a", "aaaaaaaa-bbbb"] {
        assert!(matches!(store.find(unknown), Err(StoreError::UnknownRun { .. })), "{unknown}");
    }
    assert!(matches!(store.report(run_id(1)), Err(StoreError::UnknownRun { .. })));
    assert!(matches!(store.set_phase(run_id(1), Phase::Begun), Err(StoreError::UnknownRun { .. })));
    assert!(matches!(store.record_result(run_id(1), &settled(counts(0, 0))), Err(StoreError::UnknownRun { .. })));
}

#[test]
fn old_runs_are_forgotten_whole_and_unfinished_ones_never() {
    let place = Place::new();
    let mut store = place.open();
    for n in 1..=5 {
        whole_run(&mut store, run_id(n));
        // Runs of one millisecond are told apart by their order.
    }
    store.create_run(&new_run(run_id(9))).unwrap();
    assert_eq!(store.prune().unwrap().runs, 0);
    assert_eq!(store.prune_to(3, None).unwrap().runs, 3);
    let left: Vec<_> = store.list(10).unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(left, [run_id(9), run_id(5), run_id(4)].map(|r| r.to_string()));
    let rows = |table: &str, run: &str| {
        let query =
            format!("SELECT count(*), count(DISTINCT {run}) FROM {table} WHERE {run} IN (SELECT number FROM run)");
        let (theirs, runs): (i64, i64) =
            store.connection.query_row(&query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let all = store.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        assert_eq!(all, Ok(theirs), "rows of {table} whose run is gone");
        runs
    };
    assert_eq!((rows("client", "run"), rows("lock", "place >> 33"), rows("event", "run")), (2, 2, 3));
    assert_eq!(store.prune_to(0, None).unwrap().runs, 2);
    assert!(store.unfinished("here", ELSEWHERE).unwrap().is_some());
}

#[test]
fn a_clock_that_is_wrong_by_months_deletes_nothing_and_the_oldest_goes_first_all_the_same() {
    let place = Place::new();
    let mut store = place.open();
    for n in 1..=4 {
        whole_run(&mut store, run_id(n));
    }
    // The second ran with a clock that was far ahead, the others long before what the clock says now.
    store.connection.execute("UPDATE run SET started_ms = 1", []).unwrap();
    let far_ahead = "UPDATE run SET started_ms = 9000000000000 WHERE id = ?1";
    store.connection.execute(far_ahead, [run_id(2).to_string()]).unwrap();
    let newest: Vec<_> = store.list(9).unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(newest, [4, 3, 2, 1].map(|n| run_id(n).to_string()));
    assert_eq!(store.prune().unwrap().runs, 0);
    assert_eq!(store.prune_to(2, None).unwrap().runs, 2);
    assert!(store.report(run_id(2)).is_err() && store.report(run_id(3)).is_ok() && store.report(run_id(4)).is_ok());
}

#[test]
fn a_copy_of_the_files_taken_at_any_phase_is_a_readable_record() {
    let place = Place::new();
    let mut store = place.open();
    let id = run_id(1);
    store.create_run(&new_run(id)).unwrap();
    for phase in Phase::ALL {
        store.set_phase(id, phase).unwrap();
        let copy = Place::new();
        for entry in fs::read_dir(place.dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.dir.path().join(entry.file_name())).unwrap();
        }
        assert_eq!(copy.open().report(id).unwrap().run.phase, phase);
    }
}

fn release(scope: &str, outcome: ReleaseOutcome) -> ReleaseReport {
    let released =
        (outcome == ReleaseOutcome::Partial).then_some(ReleasedCounts { locks: 3, waiters: 1, offered: 2, left: 1 });
    ReleaseReport::new(Release {
        id: Some(scope.into()),
        manager: "nlmd".into(),
        scope: ScopeReport { clients: vec![scope.into()], ..ScopeReport::default() },
        only: Vec::new(),
        outcome,
        exit: outcome.exit(),
        at: None,
        chosen: Some(4),
        chosen_waiters: 1,
        released,
        probed_for_ms: 3000,
        clients: Vec::new(),
        locks: Vec::new(),
        left: Vec::new(),
        uid: Some(1000),
        notes: Vec::new(),
        consent: Vec::new(),
        refusal: None,
    })
}

#[test]
fn a_release_is_unverified_until_its_answer_is_here() {
    let place = Place::new();
    let mut store = place.open();
    for id in ["a", "b"] {
        let new = NewRelease {
            id: id.into(),
            manager: "nlmd".into(),
            endpoint: "here".into(),
            instance: ELSEWHERE,
            report: release(id, ReleaseOutcome::Planned),
        };
        assert!(store.create_release(&new).unwrap() > 0);
    }
    store.end_release(&release("b", ReleaseOutcome::Partial)).unwrap();
    drop(store);
    let mut store = place.open();
    let listed = store.releases(10).unwrap();
    let of = |id: &str| listed.iter().find(|row| row.id == id).unwrap();
    assert_eq!((of("a").outcome, of("a").locks), (ReleaseOutcome::Unverified, 0));
    let b = of("b");
    assert_eq!((b.outcome, b.locks, b.waiters, b.left), (ReleaseOutcome::Partial, 3, 1, 1));
    assert_eq!(b.scope.clients, ["b"]);
    assert_eq!(store.releases(1).unwrap().len(), 1);
    assert_eq!(store.prune_to(1, None).unwrap(), Pruned { runs: 0, releases: 1 });
    assert_eq!(store.releases(10).unwrap().len(), 1, "old ones are forgotten");
}

#[test]
fn notices_and_what_was_kept_through_each_server_address_read_back() {
    let place = Place::new();
    let mut store = place.open();
    whole_run(&mut store, run_id(1));
    let spared = [(None, "127.0.0.1"), (Some(Spared::OtherAddress), "::1"), (Some(Spared::LateAck), "127.0.0.2")];
    let path = |(spared, at)| PathResult { server_address: address(at), silent: true, spared: Maybe(spared) };
    let kept = ClientResult { paths: List::clipped(spared.map(path).to_vec()), ..result(0, counts(1, 2)) };
    store.record_client_results(run_id(1), &[kept]).unwrap();
    let clients = store.report(run_id(1)).unwrap().clients;
    assert_eq!((clients[0].notices, clients[0].acks, clients[0].attempts), (2, 2, 2));
    let because: Vec<_> = clients[0].paths.iter().map(|path| (path.kept_because, path.server_address)).collect();
    let expected = [
        (None, address("127.0.0.1")),
        (Some(KeptBecause::OtherAddress), address("::1")),
        (Some(KeptBecause::LateAck), address("127.0.0.2")),
    ];
    assert_eq!(because, expected);
    assert!(clients[1].paths.is_empty());
}

#[test]
fn by_a_clock_that_was_set_back_the_oldest_unfinished_run_is_the_first_and_the_newest_release_the_last() {
    let place = Place::new();
    let mut store = place.open();
    for n in 1..=2 {
        store.create_run(&new_run(run_id(n))).unwrap();
        let report = release(&n.to_string(), ReleaseOutcome::Planned);
        let (manager, endpoint) = ("nlmd".into(), "here".into());
        store
            .create_release(&NewRelease { id: n.to_string(), manager, endpoint, instance: ELSEWHERE, report })
            .unwrap();
    }
    store.connection.execute("UPDATE run SET started_ms = 1000 WHERE id = ?1", [run_id(2).to_string()]).unwrap();
    store.connection.execute("UPDATE release SET asked_ms = 1000 WHERE id = '2'", []).unwrap();
    assert_eq!(store.unfinished("here", ELSEWHERE).unwrap().unwrap().id, run_id(1));
    assert_eq!(store.releases(1).unwrap()[0].id, "2");
}

#[test]
fn what_is_older_than_a_moment_is_forgotten_on_demand_and_an_unfinished_run_never() {
    let place = Place::new();
    let mut store = place.open();
    for n in 1..=3 {
        whole_run(&mut store, run_id(n));
    }
    store.create_run(&new_run(run_id(9))).unwrap();
    let old = "UPDATE run SET started_ms = 1000 WHERE id IN (?1, ?2)";
    store.connection.execute(old, [run_id(1).to_string(), run_id(9).to_string()]).unwrap();
    assert_eq!(store.prune_to(0, Some(1000)).unwrap(), Pruned::default(), "it began at that moment");
    assert_eq!(store.prune_to(4, Some(1001)).unwrap(), Pruned::default(), "it is among the newest");
    assert_eq!(store.prune_to(3, Some(1001)).unwrap(), Pruned { runs: 1, releases: 0 });
    assert!(store.report(run_id(1)).is_err() && store.report(run_id(2)).is_ok() && store.report(run_id(9)).is_ok());
}

#[test]
fn what_was_pending_in_the_course_of_a_run_comes_back_in_order_and_once_for_a_moment() {
    let place = Place::new();
    let mut store = place.open();
    whole_run(&mut store, run_id(1));
    let rows = |rows: &[(u64, u64)]| -> Vec<PendingReport> {
        rows.iter().map(|&(elapsed_ms, pending)| PendingReport { elapsed_ms, pending }).collect()
    };
    store.record_progress(run_id(1), &rows(&[(300, 40), (0, 50)])).unwrap();
    store.record_progress(run_id(1), &rows(&[(300, 39), (900, 0)])).unwrap();
    assert_eq!(store.detail(run_id(1)).unwrap().progress, rows(&[(0, 50), (300, 39), (900, 0)]));
}

#[test]
fn what_is_remembered_of_a_client_reads_back_and_nothing_worth_it_is_forgotten() {
    let place = Place::new();
    let mut store = place.open();
    let key = |n: u8| (format!("c{n}"), address(&format!("192.0.2.{n}")));
    let memory = Memory {
        baseline: NsmState(3),
        differed: NsmState(-7),
        rounds: 2,
        examined: NsmState(5),
        complaints: vec!["a \"grant\" that it never confirmed".into()],
        runs: 4,
        not_before_ms: 1_795_362_328_007,
    };
    store.remember("here", &[(key(1), Memory::default()), (key(2), memory.clone())]).unwrap();
    store.remember("elsewhere", &[(key(2), Memory { runs: 9, ..memory.clone() })]).unwrap();
    assert_eq!(place.open().memories("here").unwrap(), [(key(2), memory.clone())].into());
    let next = Memory { rounds: 3, ..memory };
    store.remember("here", &[(key(2), next.clone())]).unwrap();
    assert_eq!(store.memories("here").unwrap(), [(key(2), next)].into());
    store.remember("here", &[(key(2), Memory::default())]).unwrap();
    assert!(store.memories("here").unwrap().is_empty() && store.memories("elsewhere").unwrap().len() == 1);
}

#[test]
fn a_client_has_understood_only_by_that_name_and_address_after_notices_of_those_names() {
    let place = Place::new();
    let mut store = place.open();
    whole_run(&mut store, run_id(1));
    let names = [name("nas")];
    let reclaimed: Vec<bool> =
        store.report(run_id(1)).unwrap().clients.iter().map(|c| c.locks.unwrap().reclaimed > 0).collect();
    assert!(reclaimed.contains(&true) && reclaimed.contains(&false), "{reclaimed:?}");
    for client in store.report(run_id(1)).unwrap().clients {
        let key = (client.name.clone(), client.address.unwrap());
        assert_eq!(store.has_understood("here", &key, &names).unwrap(), client.locks.unwrap().reclaimed > 0, "{key:?}");
        assert!(!store.has_understood("elsewhere", &key, &names).unwrap());
        assert!(!store.has_understood("here", &key, &[name("other")]).unwrap());
        assert!(!store.has_understood("here", &(key.0, address("198.51.100.1")), &names).unwrap());
    }
}

#[test]
fn a_client_that_only_locked_again_what_it_had_has_not_understood() {
    let place = Place::new();
    let mut store = place.open();
    store.create_run(&new_run(run_id(1))).unwrap();
    store.record_clients(run_id(1), &[client(0), client(1), client(2)]).unwrap();
    let reacted = |index, reaction| ClientResult { reaction, ..result(index, counts(3, 1)) };
    let results = [reacted(0, Reaction::Unclear), reacted(1, Reaction::Silent), reacted(2, Reaction::Understood)];
    store.record_client_results(run_id(1), &results).unwrap();
    let has_understood = |index: u32| {
        let key = (format!("c{index}"), address(&format!("127.1.0.{index}")));
        store.has_understood("here", &key, &[name("nas")]).unwrap()
    };
    assert_eq!([0, 1, 2].map(has_understood), [false, false, true]);
}
