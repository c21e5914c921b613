//! What is promised is on disk, and what is damaged is said.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::locks::SlicedResult;
use crate::wire::control::{
    ClientResult, Counts, Fate, FullResult, LockFate, LockRow, Mode, PAGE, Reaction, RunResult, next_page,
};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::{ByteRange, CallerName, NsmState};
use crate::wire::xdr::{List, encode};

fn record(name: &str, address: &str) -> MonitorRecord {
    MonitorRecord {
        name: CallerName::new(name).unwrap(),
        address: address.parse().unwrap(),
        server_addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        nsm_state: NsmState(-7),
    }
}

fn run_record(id: u8) -> RunRecord {
    RunRecord {
        run: RunId([id; 16]),
        mode: Mode::Targeted,
        old_state: NsmState(3),
        new_state: NsmState(5),
        began_unix_ms: 1_000,
        in_scope: 0,
        clients: Arc::default(),
    }
}

fn result(id: u8) -> FullResult {
    FullResult { result: RunResult::sample(RunId([id; 16])), clients: List::default(), locks: List::default() }
}

fn end_of(full: FullResult) -> Change {
    Change::Ended(Arc::new(full.into()))
}

fn late() -> LockFate {
    LockFate { late: true, ..LockFate::sample(LockRow::sample(1, 0, u64::MAX), Fate::Resurrected) }
}

/// All pages of a result.
async fn read(persist: &Persist, run: RunId) -> Option<FullResult> {
    let result = persist.result(run).await.unwrap()?;
    let (mut clients, mut locks) = (Vec::new(), Vec::new());
    let mut after = Some(0);
    while let Some(from) = after {
        let (rows, next) = persist.result_clients(run, from).await.unwrap().unwrap();
        clients.extend(rows.into_vec());
        after = next_page(from, next).unwrap();
    }
    let mut after = Some(0);
    while let Some(from) = after {
        let (rows, next) = persist.result_locks(run, from).await.unwrap().unwrap();
        locks.extend(rows.into_vec());
        after = next_page(from, next).unwrap();
    }
    Some(FullResult { result, clients: List::new(clients).unwrap(), locks: List::new(locks).unwrap() })
}

#[tokio::test]
async fn pages_of_a_result_give_each_row_once_and_then_the_late_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, _writer, _) = open(dir.path()).unwrap();
    let row = |number: u64, late| LockFate {
        late,
        range: ByteRange { start: number, end: number },
        ..LockFate::sample(LockRow::sample(1, 0, u64::MAX), Fate::Resurrected)
    };
    let page = PAGE as u64;
    for (id, (ended, late)) in
        [(0, 0), (0, 1), (1, 0), (page, 0), (page, 1), (page + 1, page + 1), (3 * page, 2 * page)]
            .into_iter()
            .enumerate()
    {
        let full = result(u8::try_from(id).unwrap());
        let (run, locks) = (full.result.run, (0..ended).map(|number| row(number, false)).collect());
        persist.write(end_of(FullResult { locks: List::new(locks).unwrap(), ..full })).await.unwrap();
        for number in ended..ended + late {
            drop(persist.submit(Change::Late(run, row(number, true))).unwrap());
        }
        let full = read(&persist, run).await.unwrap();
        assert_eq!(full.result.late, late);
        let numbers = full.locks.as_slice().iter().map(|lock| lock.range.start);
        assert!(numbers.eq(0..ended + late), "{ended} rows and {late} late ones");
        for odd in [1, page - 1, ended, ended + late, u64::MAX] {
            let (rows, _) = persist.result_locks(run, odd).await.unwrap().unwrap();
            let expected = (odd < ended + late).then_some(odd);
            assert_eq!(rows.as_slice().first().map(|lock| lock.range.start), expected, "from {odd} on");
        }
    }
    assert!(persist.result_locks(RunId([99; 16]), 0).await.unwrap().is_none());
}

/// As many rows, from this number on.
fn rows(first: u64, count: usize) -> List<LockFate, 16_777_216> {
    let row = |number| LockFate {
        range: ByteRange { start: number, end: number },
        ..LockFate::sample(LockRow::sample(1, 0, u64::MAX), Fate::Dropped)
    };
    List::clipped((first..).take(count).map(row).collect())
}

/// The writer, which does one round, and in it one page of a result, at a time.
fn work(dir: &Path) -> (Persist, Work, Found) {
    let (database, found) = Database::open(&dir.join("nlmd.sqlite")).unwrap();
    let (persist, work) = Work::new(database);
    (persist, Work { pages_at_once: 1, ..work }, found)
}

impl Work {
    fn until(&mut self, durable: &mut Durable) -> Result<(), PersistError> {
        loop {
            match durable.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => assert!(self.round()),
                answer => return answer.unwrap(),
            }
        }
    }

    fn write(&mut self, persist: &Persist, change: Change) -> Result<(), PersistError> {
        self.until(&mut persist.submit(change).unwrap())
    }

    fn count(&self, table: &str) -> usize {
        self.database.count(table)
    }

    /// The numbers of a result's rows.
    fn numbers(&self, run: RunId) -> Option<Vec<u64>> {
        let (mut numbers, mut after) = (Vec::new(), Some(0));
        while let Some(from) = after {
            let (rows, next) = self.database.rows::<LockFate>(run, from).unwrap()?;
            numbers.extend(rows.as_slice().iter().map(|row| row.range.start));
            after = next_page(from, next).unwrap();
        }
        Some(numbers)
    }
}

const PAGES: usize = 3;

#[test]
fn a_new_client_overtakes_a_result_and_what_is_about_runs_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    let full = FullResult { locks: rows(0, PAGES * PAGE), ..result(1) };
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    let mut whole = persist.submit(end_of(full)).unwrap();
    let mut behind = [
        Change::Late(RunId([1; 16]), LockFate { range: ByteRange { start: 9_999, end: 9_999 }, ..late() }),
        Change::Acknowledge(RunId([1; 16])),
        Change::Begin(run_record(2)),
    ]
    .map(|change| persist.submit(change).unwrap());
    let (answer, mut found) = oneshot::channel();
    let read = move |database: &Database| answer.send(database.result(RunId([1; 16])).unwrap()).unwrap();
    assert!(persist.jobs.try_send(Job::Read(Box::new(read))).is_ok());
    for client in 1..PAGES {
        work.write(&persist, Change::Monitor(record(&client.to_string(), "127.0.0.2"))).unwrap();
        assert!(whole.try_recv().is_err(), "all of the result came first");
        assert!(work.database.result(RunId([1; 16])).unwrap().is_none(), "it is not whole");
        assert!(behind.iter_mut().all(|answer| answer.try_recv().is_err()) && found.try_recv().is_err());
    }
    work.until(&mut whole).unwrap();
    for answer in &mut behind {
        work.until(answer).unwrap();
    }
    assert_eq!(found.try_recv().unwrap().map(|result| result.late), Some(1));
    let numbers = work.numbers(RunId([1; 16])).unwrap();
    assert!(numbers.into_iter().eq((0..(PAGES * PAGE) as u64).chain([9_999])));
    assert_eq!(work.database.unfetched().unwrap(), [], "fetched after the late reclaim");
    drop(work);
    assert_eq!(super::tests::work(dir.path()).2.run, Some(run_record(2)));
}

#[test]
fn pages_share_a_transaction_until_somebody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, work, _) = work(dir.path());
    let mut work = Work { pages_at_once: PAGES - 1, ..work };
    let full = |id| FullResult { locks: rows(0, PAGES * PAGE), ..result(id) };
    let _whole = persist.submit(end_of(full(1))).unwrap();
    let _monitored = persist.submit(Change::Monitor(record("a", "127.0.0.2"))).unwrap();
    assert!(work.round());
    assert_eq!((work.count("page"), work.count("monitor")), (1, 0));
    assert!(work.round());
    assert_eq!((work.count("page"), work.count("monitor")), (PAGES, 1));
}

#[test]
fn no_more_waits_behind_a_result_than_the_queue_holds_and_all_of_it_is_done_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    let mut whole = persist.submit(end_of(FullResult { locks: rows(0, PAGES * PAGE), ..result(1) })).unwrap();
    assert!(work.round());
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        for _ in 0..QUEUE {
            let done = done.clone();
            let read = move |_: &Database| _ = done.fetch_add(1, Ordering::Relaxed);
            assert!(persist.jobs.try_send(Job::Read(Box::new(read))).is_ok());
        }
        assert!(work.round());
    }
    assert!(matches!(persist.submit(Change::Monitor(record("a", "127.0.0.2"))), Err(PersistError::Full)));
    work.until(&mut whole).unwrap();
    while done.load(Ordering::Relaxed) < 2 * QUEUE {
        assert!(work.round());
    }
}

#[test]
fn a_result_that_a_crash_cuts_off_anywhere_is_none_and_leaves_nothing_but_the_active_run() {
    let run = RunId([1; 16]);
    for before in [0, 1, PAGES * PAGE] {
        for rounds in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let (persist, mut work, _) = work(dir.path());
            work.write(&persist, Change::Begin(run_record(1))).unwrap();
            if before > 0 {
                // It settled, then a reclaim came in time, and it settles anew.
                work.write(&persist, end_of(FullResult { locks: rows(5_000, before), ..result(1) })).unwrap();
                work.write(&persist, Change::TakenBack(run_record(1))).unwrap();
            }
            let full = FullResult { locks: rows(0, 2 * PAGE), ..result(1) };
            let mut whole = persist.submit(end_of(full.clone())).unwrap();
            for _ in 0..rounds {
                assert!(work.round());
            }
            let is_whole = whole.try_recv().is_ok();
            drop(work);
            let (persist, mut work, found) = super::tests::work(dir.path());
            assert_eq!(found.run, (!is_whole).then(|| run_record(1)));
            assert_eq!(found.ended, if is_whole { vec![run] } else { Vec::new() });
            assert_eq!(work.count("page"), if is_whole { 2 } else { 0 }, "{before} rows before, {rounds} rounds");
            assert_eq!(work.database.unfetched().unwrap(), found.ended);
            work.write(&persist, end_of(full)).unwrap();
            assert!(work.numbers(run).unwrap().into_iter().eq(0..2 * PAGE as u64));
            if is_whole {
                assert!(rounds > 2, "it was written at once");
                break;
            }
        }
    }
}

type Fill = fn(&mut Database);

/// How a disk becomes full, and what is said then.
const FULL: [(Fill, &str); 2] =
    [(Database::fill_disk, "database or disk is full"), (Database::nearly_fill_disk, "room its disk has left")];

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_result_has_room_for_clients_again() {
    for (fill, words) in FULL {
        let dir = tempfile::tempdir().unwrap();
        let (persist, mut work, _) = work(dir.path());
        work.write(&persist, Change::Begin(run_record(1))).unwrap();
        let full = FullResult { locks: rows(0, PAGES * PAGE), ..result(1) };
        let mut whole = persist.submit(end_of(full.clone())).unwrap();
        assert!(work.round());
        assert_eq!(work.count("page"), 1);
        fill(&mut work.database);
        let refused = work.until(&mut whole).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
        for client in 0..64 {
            work.write(&persist, Change::Monitor(record(&client.to_string(), "127.0.0.2"))).unwrap();
        }
        assert_eq!((work.count("page"), work.count("result")), (0, 0));
        assert!(work.write(&persist, end_of(full.clone())).is_err());
        work.write(&persist, end_of(result(2))).unwrap();
        drop((persist, work));
        let (persist, mut work, found) = super::tests::work(dir.path());
        assert_eq!((found.monitors.len(), found.run), (64, Some(run_record(1))));
        work.write(&persist, end_of(full)).unwrap();
        assert_eq!(work.numbers(RunId([1; 16])).map(|rows| rows.len()), Some(PAGES * PAGE));
    }
}

/// A page of the locks of run 1, before the rest of its result.
fn page_of(page: usize, numbers_from: u64) -> Change {
    let pages = vec![List::clipped(rows(numbers_from, PAGE).into_vec())];
    Change::Locks { run: RunId([1; 16]), first: page * PAGE, pages }
}

/// The rest, behind so many locks.
fn rest_behind(taken: usize, numbers_from: u64, count: usize) -> Change {
    let rest = FullResult { locks: rows(numbers_from, count), ..result(1) };
    Change::Ended(Arc::new(SlicedResult::from(rest).behind(taken)))
}

#[test]
fn locks_that_come_before_the_rest_of_their_result_are_none_without_it() {
    let (dir, run, page) = (tempfile::tempdir().unwrap(), RunId([1; 16]), PAGE as u64);
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    // What newer results push out goes meanwhile, and these stay.
    work.write(&persist, end_of(FullResult { locks: rows(0, PAGES * PAGE), ..result(0) })).unwrap();
    for id in 2..=17 {
        work.write(&persist, end_of(result(id))).unwrap();
    }
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    for n in 0..2 {
        work.write(&persist, page_of(n, n as u64 * page)).unwrap();
    }
    while work.has_parts {
        assert!(work.round());
    }
    assert_eq!((work.count("page"), work.numbers(run)), (2, None));
    let mut whole = persist.submit(rest_behind(2 * PAGE, 2 * page, 5)).unwrap();
    assert!(work.round());
    work.until(&mut whole).unwrap();
    assert!(work.numbers(run).unwrap().into_iter().eq(0..2 * page + 5));
}

#[test]
fn locks_without_the_rest_of_their_result_are_gone_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    work.write(&persist, page_of(0, 0)).unwrap();
    assert_eq!((work.count("page"), work.count("result")), (1, 1));
    drop((persist, work));
    let (_, work, found) = super::tests::work(dir.path());
    assert_eq!((found.run, found.ended), (Some(run_record(1)), Vec::new()));
    assert_eq!((work.count("page"), work.count("result")), (0, 0));
}

#[test]
fn the_end_of_another_run_takes_no_locks_away_that_are_written_already() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    for n in 0..2 {
        work.write(&persist, page_of(n, n as u64 * PAGE as u64)).unwrap();
    }
    work.write(&persist, end_of(FullResult { locks: rows(0, 5), ..result(2) })).unwrap();
    for client in 0..4 {
        work.write(&persist, Change::Monitor(record(&client.to_string(), "127.0.0.2"))).unwrap();
    }
    work.write(&persist, rest_behind(2 * PAGE, 0, 0)).unwrap();
    assert!(work.numbers(RunId([1; 16])).unwrap().into_iter().eq(0..2 * PAGE as u64));
}

#[test]
fn pages_are_written_alone_and_what_came_before_and_after_them_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    let client = record("a", "127.0.0.2");
    let forget = Change::Forget { name: client.name.clone(), address: client.address };
    let changes = [Change::Monitor(client.clone()), page_of(0, 0), forget, Change::Monitor(client), page_of(1, 0)];
    let mut answers = changes.map(|change| persist.submit(change).unwrap());
    let mut done = 0;
    for (answered, pages, clients) in [(1, 0, 1), (2, 1, 1), (4, 1, 1), (5, 2, 1)] {
        assert!(work.round());
        while answers.get_mut(done).is_some_and(|answer| matches!(answer.try_recv(), Ok(Ok(())))) {
            done += 1;
        }
        assert_eq!((done, work.count("page"), work.count("monitor")), (answered, pages, clients));
    }
}

#[test]
fn a_result_whose_first_locks_are_missing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, Change::Begin(run_record(1))).unwrap();
    work.write(&persist, page_of(1, 0)).unwrap();
    let error = work.write(&persist, rest_behind(2 * PAGE, 0, 5)).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    assert_eq!(work.numbers(RunId([1; 16])), None);
    drop((persist, work));
    assert_eq!(super::tests::work(dir.path()).2.run, Some(run_record(1)));
}

#[test]
fn locks_of_a_settle_that_was_cancelled_are_in_no_result() {
    let (run, page) = (RunId([1; 16]), PAGE as u64);
    for (anew, rest) in [(0, 0), (0, 7), (1, 0), (2, PAGE), (4, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let (persist, mut work, _) = work(dir.path());
        work.write(&persist, Change::Begin(run_record(1))).unwrap();
        // A result was whole, whose pages begin elsewhere, and was taken back.
        work.write(&persist, rest_behind(5, 1_000_000, PAGE + 7)).unwrap();
        work.write(&persist, Change::TakenBack(run_record(1))).unwrap();
        for n in 0..3 {
            work.write(&persist, page_of(n, 1_000_000)).unwrap();
        }
        for n in 0..anew {
            work.write(&persist, page_of(n, n as u64 * page)).unwrap();
        }
        work.write(&persist, rest_behind(anew * PAGE, anew as u64 * page, rest)).unwrap();
        let all = anew as u64 * page + rest as u64;
        assert_eq!(work.count("page"), anew + rest.div_ceil(PAGE));
        assert!(work.numbers(run).unwrap().into_iter().eq(0..all), "{anew} pages anew and {rest} locks behind");
    }
}

#[test]
fn locks_that_the_disk_refuses_make_room_for_clients_and_deny_nothing_else() {
    for (fill, words) in FULL {
        let dir = tempfile::tempdir().unwrap();
        let (persist, mut work, _) = work(dir.path());
        work.write(&persist, Change::Begin(run_record(1))).unwrap();
        work.write(&persist, page_of(0, 0)).unwrap();
        fill(&mut work.database);
        let mut refused = persist.submit(page_of(1, 0)).unwrap();
        let mut beside = persist.submit(Change::NotBegun(RunId([9; 16]))).unwrap();
        let error = work.until(&mut refused).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        work.until(&mut beside).unwrap();
        for client in 0..64 {
            work.write(&persist, Change::Monitor(record(&client.to_string(), "127.0.0.2"))).unwrap();
        }
        assert_eq!((work.count("page"), work.count("result")), (0, 0));
    }
}

#[test]
fn what_newer_results_push_out_goes_page_by_page_and_is_none_from_the_first_on() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, mut work, _) = work(dir.path());
    work.write(&persist, end_of(FullResult { locks: rows(0, PAGES * PAGE), ..result(0) })).unwrap();
    work.write(&persist, Change::Late(RunId([0; 16]), late())).unwrap();
    for id in 1..=16 {
        work.write(&persist, end_of(result(id))).unwrap();
    }
    for left in (0..PAGES).rev() {
        assert!(work.numbers(RunId([0; 16])).is_none());
        work.write(&persist, Change::Monitor(record(&left.to_string(), "127.0.0.2"))).unwrap();
        assert_eq!(work.count("page"), left);
    }
    assert_eq!(work.count("late"), 1);
    while work.has_parts {
        assert!(work.round());
    }
    assert_eq!(["result", "late", "unfetched"].map(|table| work.count(table)), [16, 0, 16]);
}

#[tokio::test]
async fn a_stop_waits_until_a_result_is_whole_and_what_is_behind_it_written() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    let full = FullResult { locks: rows(0, PAGES * PAGE), ..result(1) };
    drop(persist.submit(end_of(full)).unwrap());
    drop(persist.submit(Change::Late(RunId([1; 16]), late())).unwrap());
    drop(persist);
    writer.join();
    let (persist, _writer, _) = open(dir.path()).unwrap();
    assert_eq!(read(&persist, RunId([1; 16])).await.unwrap().locks.as_slice().len(), PAGES * PAGE + 1);
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, found) = open(dir.path()).unwrap();
    assert!(found.nsm_state.is_none() && found.monitors.is_empty() && found.run.is_none());
    persist.write(Change::State { state: NsmState(3), boot: "boot".into() }).await.unwrap();
    persist.write(Change::Monitor(record("a", "127.0.0.2"))).await.unwrap();
    persist.write(Change::Monitor(record("b", "127.0.0.3"))).await.unwrap();
    persist
        .write(Change::Forget { name: CallerName::new("b").unwrap(), address: "127.0.0.3".parse().unwrap() })
        .await
        .unwrap();
    persist.write(Change::Begin(run_record(1))).await.unwrap();
    persist.write(Change::Marked { run: RunId([1; 16]), in_scope: 9, clients: Arc::default() }).await.unwrap();
    drop(persist);
    writer.join();

    let (_persist, _writer, found) = open(dir.path()).unwrap();
    assert_eq!(found.nsm_state, Some(NsmState(5)), "the run's state number is the server's");
    assert_eq!(found.boot, "boot");
    assert_eq!(found.monitors, [record("a", "127.0.0.2")]);
    assert_eq!(found.run, Some(RunRecord { in_scope: 9, ..run_record(1) }));
}

#[tokio::test]
async fn a_record_keeps_a_names_own_bytes_and_is_forgotten_by_them() {
    let names = [&b"B\xfcro"[..], b"vx\0", b"", b"\\x41", b"A", b"two words", b"\xe2\x80\xaex", b"vx"];
    let of = |name: &[u8]| MonitorRecord { name: CallerName::of_bytes(name).unwrap(), ..record("any", "127.0.0.2") };
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    for name in names {
        persist.write(Change::Monitor(of(name))).await.unwrap();
        persist.write(Change::Monitor(of(name))).await.unwrap();
    }
    persist.write(Change::Forget { name: of(b"vx").name, address: of(b"").address }).await.unwrap();
    persist.write(Change::Forget { name: of(b"A").name, address: of(b"").address }).await.unwrap();
    drop(persist);
    writer.join();
    let (persist, writer, found) = open(dir.path()).unwrap();
    let mut left: Vec<_> =
        names.map(of).into_iter().filter(|r| ![&b"vx"[..], b"A"].contains(&&r.name.bytes()[..])).collect();
    left.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found.monitors, left);
    for record in found.monitors {
        persist.write(Change::Forget { name: record.name, address: record.address }).await.unwrap();
    }
    drop(persist);
    writer.join();
    assert_eq!(open(dir.path()).unwrap().2.monitors, []);
}

#[tokio::test]
async fn names_that_an_older_version_wrote_are_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    persist.write(Change::Monitor(record("any", "127.0.0.2"))).await.unwrap();
    drop(persist);
    writer.join();
    let older = ["two words", "DOM\\host", "b\\x41", "Zürich", "дом"];
    let database = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
    for name in older {
        let copy =
            "INSERT INTO monitor SELECT ?1, address, addresses, server_addresses, nsm_state FROM monitor LIMIT 1";
        database.execute(copy, [name]).unwrap();
    }
    drop(database);
    let (persist, writer, found) = open(dir.path()).unwrap();
    for name in older {
        let name = CallerName::of_bytes(name.as_bytes()).unwrap();
        let known = found.monitors.iter().find(|record| record.name == name).unwrap();
        persist.write(Change::Forget { name, address: known.address }).await.unwrap();
    }
    drop(persist);
    writer.join();
    assert_eq!(open(dir.path()).unwrap().2.monitors, [record("any", "127.0.0.2")]);
}

#[tokio::test]
async fn a_link_local_client_is_on_disk_with_its_interfaces_name_and_out_of_reach_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = |statement: &str| {
        let database = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
        database.execute(statement, []).unwrap()
    };
    let here = MonitorRecord { address: crate::host::address("fe80::7%lo").unwrap(), ..record("a", "::1") };
    let other = record("b", "127.0.0.2");
    let (persist, writer, _) = open(dir.path()).unwrap();
    persist.write(Change::Monitor(here.clone())).await.unwrap();
    persist.write(Change::Monitor(other.clone())).await.unwrap();
    drop(persist);
    writer.join();
    let (persist, writer, found) = open(dir.path()).unwrap();
    assert_eq!(found.monitors, [here.clone(), other.clone()]);
    drop(persist);
    writer.join();

    let moved = |from, to| {
        format!(
            "UPDATE monitor SET address = 'fe80::7%{to}', addresses = 'fe80::7%{to}' WHERE address = 'fe80::7%{from}'"
        )
    };
    assert_eq!(database(&moved("lo", "no-such0")), 1, "by its name");
    let (persist, writer, found) = open(dir.path()).unwrap();
    assert_eq!(found.monitors, std::slice::from_ref(&other));
    persist.write(Change::Monitor(other.clone())).await.unwrap();
    drop(persist);
    writer.join();
    assert_eq!(database(&moved("no-such0", "lo")), 1, "kept for a start that finds it");
    assert_eq!(open(dir.path()).unwrap().2.monitors, [here, other]);
}

fn local(host: &str, program: u32, private: u8) -> LocalMonitor {
    let name = |text| CallerName::new(text).unwrap();
    let my_id = MyId { my_name: name("me"), my_prog: program, my_vers: 1, my_proc: 7 };
    LocalMonitor {
        id: MonId { mon_name: name(host), my_id },
        private: [private; 16],
        privileged: program == 1,
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

#[tokio::test]
async fn what_programs_monitor_is_there_after_reopening_until_they_want_it_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    for monitor in [local("a", 1, 1), local("a", 1, 2), local("b", 1, 1), local("a", 2, 1), local("c", 2, 1)] {
        persist.write(Change::Local(monitor)).await.unwrap();
    }
    persist.write(Change::NotLocal(local("b", 1, 0).id)).await.unwrap();
    persist.write(Change::NoneLocal { asker: local("x", 2, 0).id.my_id, privileged: true }).await.unwrap();
    drop(persist);
    writer.join();
    assert_eq!(open(dir.path()).unwrap().2.local_monitors, [local("a", 1, 2)], "another priv replaces the first");
}

#[tokio::test]
async fn hosts_to_tell_are_off_the_list_when_they_were_told() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    for monitor in [local("a", 1, 1), local("a", 2, 1), local("b", 1, 1)] {
        persist.write(Change::Local(monitor)).await.unwrap();
    }
    persist.write(Change::TellLocal).await.unwrap();
    let MonId { mon_name, my_id } = local("a", 1, 1).id;
    persist.write(Change::Told { mon_name, my_name: my_id.my_name }).await.unwrap();
    drop(persist);
    writer.join();
    let found = open(dir.path()).unwrap().2;
    assert_eq!(found.local_monitors, []);
    let left: Vec<_> = found.to_tell.iter().map(|host| (host.mon_name.as_str(), host.addresses.len())).collect();
    assert_eq!(left, [("b", 2)]);
}

#[tokio::test]
async fn a_cookie_that_statd_got_is_known_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    let watch = |last, cookie| Watch { address: std::net::Ipv4Addr::new(192, 0, 2, last).into(), cookie: [cookie; 16] };
    persist.write(Change::Watch(watch(1, 7))).await.unwrap();
    persist.write(Change::Watch(watch(2, 8))).await.unwrap();
    persist.write(Change::Unwatch(watch(2, 8).address)).await.unwrap();
    drop(persist);
    writer.join();
    assert_eq!(open(dir.path()).unwrap().2.watches, [watch(1, 7)]);
}

#[test]
fn a_state_directory_of_the_first_version_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let first = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
    first.execute_batch(include_str!("../../../migrations/nlmd/01_start.sql")).unwrap();
    first
        .execute_batch(
            "PRAGMA user_version = 1; INSERT INTO server VALUES (1, 7); \
             INSERT INTO monitor VALUES ('a', '127.0.0.2', '127.0.0.2', '127.0.0.1 ::1', -7)",
        )
        .unwrap();
    drop(first);
    let found = open(dir.path()).unwrap().2;
    assert_eq!((found.nsm_state, found.boot.as_str()), (Some(NsmState(7)), ""));
    assert!(!found.may_lack_clients, "there was no seal then");
    assert_eq!(found.monitors, [record("a", "127.0.0.2")]);
}

#[tokio::test]
async fn results_that_stood_in_one_row_come_with_their_late_reclaims_and_stay_fetched_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let before = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
    for step in [
        include_str!("../../../migrations/nlmd/01_start.sql"),
        include_str!("../../../migrations/nlmd/02_monitors.sql"),
        include_str!("../../../migrations/nlmd/03_sealed.sql"),
        "PRAGMA user_version = 3",
    ] {
        before.execute_batch(step).unwrap();
    }
    let locks = List::clipped(vec![late(); PAGE + 1]);
    let full = |id| FullResult { locks: locks.clone(), ..result(id) };
    for (id, acknowledged) in [(1, 1), (2, 0)] {
        let insert = "INSERT INTO result (id, body, acknowledged) VALUES (?1, ?2, ?3)";
        before.execute(insert, (RunId([id; 16]).0, encode(&full(id)), acknowledged)).unwrap();
    }
    before.execute("INSERT INTO late (run, fate) VALUES (?1, ?2)", ([1; 16], encode(&late()))).unwrap();
    drop(before);
    for _ in 0..2 {
        let (persist, writer, found) = open(dir.path()).unwrap();
        assert_eq!(found.ended, [RunId([1; 16]), RunId([2; 16])]);
        assert_eq!(persist.unfetched().await.unwrap(), [RunId([2; 16])]);
        let with_late = read(&persist, RunId([1; 16])).await.unwrap();
        assert_eq!((with_late.result.late, with_late.locks.as_slice().len()), (1, PAGE + 2));
        assert_eq!(read(&persist, RunId([2; 16])).await.unwrap(), full(2));
        drop(persist);
        writer.join();
    }
}

#[tokio::test]
async fn a_result_that_makes_no_sense_keeps_nlmd_from_nothing_but_telling_it() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    persist.write(end_of(result(1))).await.unwrap();
    drop(persist);
    writer.join();
    let database = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
    assert_eq!(database.execute("UPDATE result SET body = x'00'", []).unwrap(), 1);
    drop(database);
    let (persist, _writer, found) = open(dir.path()).unwrap();
    assert_eq!(found.ended, [RunId([1; 16])]);
    let error = persist.result(RunId([1; 16])).await.unwrap_err().to_string();
    assert!(error.contains("a run's result in it is damaged"), "{error}");
}

#[tokio::test]
async fn the_last_sixteen_results_are_kept_and_a_late_reclaim_makes_one_unfetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, _writer, _) = open(dir.path()).unwrap();
    for id in 0..20 {
        persist.write(Change::Begin(run_record(id))).await.unwrap();
        persist.write(end_of(result(id))).await.unwrap();
    }
    let unfetched = persist.unfetched().await.unwrap();
    assert_eq!(unfetched, (4..20).map(|id| RunId([id; 16])).collect::<Vec<_>>());
    assert!(persist.result(RunId([3; 16])).await.unwrap().is_none());

    persist.write(Change::Acknowledge(RunId([19; 16]))).await.unwrap();
    assert_eq!(persist.unfetched().await.unwrap().len(), 15);
    persist.write(Change::Late(RunId([19; 16]), late())).await.unwrap();
    assert_eq!(persist.unfetched().await.unwrap().len(), 16);
    let full = read(&persist, RunId([19; 16])).await.unwrap();
    assert_eq!((full.result.late, full.locks.as_slice()), (1, &[late()][..]));
    persist.write(Change::Late(RunId([0; 16]), late())).await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_is_refused_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(PersistError::InUse(_))));
    drop(persist);
    writer.join();
    open(dir.path()).unwrap();
}

#[test]
fn a_damaged_database_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("nlmd.sqlite"), b"not a database, not at all, but long enough to be read").unwrap();
    let Err(error) = open(dir.path()) else { panic!("a damaged database was taken") };
    assert!(matches!(error, PersistError::Database { .. }));
    assert!(error.to_string().contains("restore nlmd.sqlite"), "{error}");
}

#[test]
fn a_remedy_costs_locks_only_where_the_database_itself_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nlmd.sqlite");
    let said = |dir: &std::path::Path| match open(dir) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was opened"),
    };
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (a);").unwrap();
    let busy = said(dir.path());
    assert!(busy.contains("another process has it open") && !busy.contains("lose their locks"), "{busy}");
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let folder = said(dir.path());
    assert!(folder.contains("is a directory") && !folder.contains("lose their locks"), "{folder}");
}

#[test]
fn a_state_directory_that_others_can_write_in_or_a_link_in_it_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let Err(error) = open(dir.path()) else { panic!("it was taken") };
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["nlmd.sqlite", "nlmd.lock"] {
        let planted = dir.path().join("planted");
        let _ = std::fs::remove_file(dir.path().join(name));
        symlink(&planted, dir.path().join(name)).unwrap();
        assert!(open(dir.path()).is_err(), "{name}");
        assert!(!planted.exists(), "{name}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
}

#[test]
fn a_newer_schema_is_refused_and_its_file_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nlmd.sqlite");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(other);
    let before = std::fs::read(&file).unwrap();
    let Err(PersistError::Database { reason, remedy, .. }) = open(dir.path()) else { panic!("it is taken") };
    assert_eq!((reason.as_str(), remedy), ("a newer nlmd wrote it", "start the nlmd that wrote it, or a newer one"));
    assert!(std::fs::read(&file).unwrap() == before);
}

#[tokio::test]
async fn changes_submitted_together_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    let mut last = None;
    for _ in 0..200 {
        let a = record("a", "127.0.0.2");
        let forget = Change::Forget { name: a.name.clone(), address: a.address };
        persist.submit(Change::Monitor(a.clone())).unwrap();
        persist.submit(forget).unwrap();
        last = Some(persist.submit(Change::Monitor(a)).unwrap());
    }
    durable(last.unwrap()).await.unwrap();
    drop(persist);
    writer.join();
    assert_eq!(open(dir.path()).unwrap().2.monitors.len(), 1);
}

#[tokio::test]
async fn an_older_versions_record_of_several_addresses_is_one_for_each_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let (persist, writer, _) = open(dir.path()).unwrap();
    drop(persist);
    writer.join();
    let insert = "INSERT INTO monitor (name, address, addresses, server_addresses, nsm_state) VALUES";
    let rows = format!(
        "{insert} ('app', '192.0.2.11', '192.0.2.11 192.0.2.12 2001:db8::11', '192.0.2.1', 7); \
         {insert} ('app', '192.0.2.12', '192.0.2.12', '192.0.2.2', 9); \
         {insert} ('other', '192.0.2.13', '192.0.2.13', '', 0);"
    );
    rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap().execute_batch(&rows).unwrap();
    let record = |name: &str, address: &str, called: &[&str], state| MonitorRecord {
        name: CallerName::new(name).unwrap(),
        address: address.parse().unwrap(),
        server_addresses: called.iter().map(|to| to.parse().unwrap()).collect(),
        nsm_state: NsmState(state),
    };
    let sorted = |mut found: Vec<MonitorRecord>| {
        found.sort_by_key(|record| record.address);
        for record in &mut found {
            record.server_addresses.sort();
        }
        found
    };
    let (persist, writer, found) = open(dir.path()).unwrap();
    let (first, third) = ("192.0.2.11", "2001:db8::11");
    let [a, c] = [first, third].map(|address| record("app", address, &["192.0.2.1"], 7));
    let found = sorted(found.monitors);
    assert_eq!((found.len(), &found[0], &found[3]), (4, &a, &c));
    assert_eq!(found[1].server_addresses.len(), 2, "both are told of: {found:?}");
    persist.write(Change::Forget { name: a.name.clone(), address: a.address }).await.unwrap();
    drop(persist);
    writer.join();
    assert_eq!(sorted(open(dir.path()).unwrap().2.monitors), found[1..], "to forget one takes no other's away");
}

#[tokio::test]
async fn a_result_that_an_older_version_left_is_read_by_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let client = |number: u32| ClientResult {
        name: CallerName::new("c.example.org").unwrap(),
        address: "2001:db8::1".parse().unwrap(),
        suspect: true,
        reaction: Reaction::Unclear,
        counts: Counts { in_scope: 3, kept: 3, ..Counts::default() },
        ..ClientResult::sample(number)
    };
    assert_eq!([false, true].map(|silent| encode(&silent)), [Reaction::Unclear, Reaction::Silent].map(|r| encode(&r)));
    for clients in [0, 1, 3] {
        let (persist, writer, _) = open(dir.path()).unwrap();
        let full = FullResult {
            clients: List::clipped((0..clients).map(client).collect()),
            locks: List::clipped(vec![late(); clients as usize]),
            ..result(u8::try_from(clients).unwrap())
        };
        let run = full.result.run;
        persist.write(end_of(full.clone())).await.unwrap();
        drop(persist);
        writer.join();
        let older = encode(&old_results::ResultBefore::from(full.clone()));
        let database = rusqlite::Connection::open(dir.path().join("nlmd.sqlite")).unwrap();
        assert_eq!(database.execute("UPDATE result SET body = ?1 WHERE id = ?2", (older, run.0)).unwrap(), 1);
        drop(database);
        let (persist, writer, _) = open(dir.path()).unwrap();
        assert_eq!(read(&persist, run).await, Some(full));
        drop(persist);
        writer.join();
    }
}
