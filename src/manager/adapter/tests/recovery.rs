//! Runs that are found where their driver left them.

use super::*;

#[tokio::test]
async fn a_driver_that_died_before_the_drop_has_touched_nothing() {
    let host = Host::new();
    host.with(|world| world.dies = Some(Dies::BeforeTheDrop));
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    assert!(matches!(driver.begin(&args).await, Err(ManagerError::Lost { .. })));
    drop(driver);
    let next = host.driver();
    assert_eq!(next.status().await.unwrap().run, Maybe(None));
    assert_eq!(code(next.result(args.run).await), RefusalCode::UnknownRun);
    assert_eq!(host.with(|world| world.locks.len()), 3);
    host.with(|world| world.dies = None);
    begun(&next, 2).await;
}

#[tokio::test]
async fn a_driver_that_died_after_the_drop_leaves_a_run_that_goes_on() {
    let host = Host::new();
    host.with(|world| world.dies = Some(Dies::AfterTheDrop));
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    assert!(driver.begin(&args).await.is_err());
    drop(driver);
    let next = host.driver();
    assert_eq!(next.status().await.unwrap().run.0.unwrap().run, args.run);
    assert!(host.with(|world| world.recovered) > 0);
    let answer = next.begin(&args).await.unwrap();
    assert_eq!((answer.in_scope, answer.clients, host.with(|world| world.drops)), (3, 2, 1));
    assert_eq!(next.run_clients(args.run).await.unwrap().len(), 2);
    told(&next, args.run).await;
    host.comes_back(&[lock("a", 0), lock("a", 100), lock("b", 0)]);
    assert_eq!(settle(&next, args.run, SETTLE_EARLY).await.unwrap().counts.reclaimed, 3);
}

#[tokio::test]
async fn a_wall_clock_that_jumps_ends_no_run() {
    const HOURS: u64 = 5 * 3_600_000;
    for jump in [0, HOURS, 2 * HOURS] {
        let host = Host::new();
        let (driver, _) = in_a_run(&host).await;
        drop(driver);
        let run_files = RunFiles::new(host.dir.path());
        let left = run_files.runs().unwrap().pop().unwrap();
        // The clock is ahead of what it was, or behind.
        run_files.save(&RunRecord { began_unix_ms: left.began_unix_ms + jump - HOURS, ..left }).unwrap();
        let status = host.driver().status().await.unwrap();
        let seen = status.run.0.expect("it goes on");
        assert!(seen.elapsed_ms < HOURS / 10 && seen.remaining_ms > 0, "{jump}: {seen:?}");
    }
}

#[tokio::test]
async fn clients_that_nobody_told_before_grace_ended_are_told_by_the_next_run() {
    let host = Host::new();
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    drop(driver);
    // Newer kernels forget their clients with their locks.
    host.with(|world| (world.in_grace, world.clients) = (false, vec!["c3"]));
    let next = host.driver();
    assert_eq!(next.unfetched().await.unwrap(), [run]);
    let result = next.result(run).await.unwrap();
    assert_eq!((result.outcome, result.counts.unverified), (Outcome::Superseded, 3));
    assert_eq!(next.cautions().await.unwrap()[0].about, "owed");
    // A run that drops nothing, and that is aborted before a notice, tells nobody.
    host.with(|world| world.soft = true);
    let soft = begun(&next, 2).await;
    next.abort(soft).await.unwrap();
    host.with(|world| world.soft = false);
    assert!(owes(&next).await);
    let run = begun(&next, 3).await;
    let names: Vec<_> = next.run_clients(run).await.unwrap().into_iter().map(|client| client.name).collect();
    assert_eq!(names.iter().map(CallerName::as_str).collect::<Vec<_>>(), ["c3", "c1", "c2"]);
    all_told(&next, run, 3).await;
    host.comes_back(&[lock("a", 0)]);
    assert_eq!(settle(&next, run, false).await.unwrap().counts.resurrected, 1);
    assert_eq!(next.cautions().await.unwrap(), []);
}

#[tokio::test]
async fn the_last_run_is_the_one_that_began_last_also_if_the_clock_was_set_back_since_the_one_before() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    all_told(&driver, run, 2).await;
    settle(&driver, run, false).await.unwrap();
    let run_files = RunFiles::new(host.dir.path());
    let first = run_files.runs().unwrap().pop().unwrap();
    run_files.save(&RunRecord { began_unix_ms: first.began_unix_ms + 3_600_000, ..first }).unwrap();
    // The second one tells nobody.
    let second = begun(&driver, 2).await;
    drop(driver);
    host.with(|world| (world.in_grace, world.clients) = (false, Vec::new()));
    let next = host.driver();
    assert_eq!(next.result(second).await.unwrap().outcome, Outcome::Superseded);
    assert!(owes(&next).await);
}

#[tokio::test]
async fn a_result_that_nobody_fetched_outlives_many_that_were() {
    let host = Host::new();
    let (driver, unfetched) = in_a_run(&host).await;
    settle(&driver, unfetched, false).await.unwrap();
    for number in 2..22 {
        let run = begun(&driver, number).await;
        settle(&driver, run, false).await.unwrap();
        driver.acknowledge(run).await.unwrap();
    }
    assert_eq!(driver.unfetched().await.unwrap(), [unfetched]);
    let run_files = RunFiles::new(host.dir.path());
    assert_eq!(run_files.runs().unwrap().len(), 17, "sixteen that were fetched");
    // One whose record is gone is not kept for ever.
    let like = run_files.runs().unwrap().pop().unwrap();
    for number in 100..164_u64 {
        let mut begin = like.begin.clone();
        begin.0.run = RunId(u128::from(number).to_be_bytes());
        run_files.save(&RunRecord { begin, number, acknowledged: false, ..like.clone() }).unwrap();
    }
    run_files.prune().unwrap();
    assert_eq!(run_files.runs().unwrap().len(), 64);
    assert!(!driver.unfetched().await.unwrap().contains(&unfetched));
}

#[tokio::test]
async fn a_driver_that_died_while_it_settled_leaves_the_count_that_it_made() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0)]);
    settle(&driver, run, false).await.unwrap();
    let run_files = RunFiles::new(host.dir.path());
    let ended = run_files.runs().unwrap().pop().unwrap();
    run_files.save(&RunRecord { phase: Phase::Settling, ..ended }).unwrap();
    host.with(|world| world.in_grace = true);
    drop(driver);
    let next = host.driver();
    assert_eq!(next.status().await.unwrap().run, Maybe(None));
    assert!(!host.with(|world| world.in_grace), "grace is ended now");
    let result = next.result(run).await.unwrap();
    assert_eq!((result.counts.reclaimed, result.counts.dropped), (1, 2));
}

#[tokio::test]
async fn a_begin_that_failed_half_way_goes_on_in_the_same_process() {
    let host = Host::new();
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    host.with(|world| world.dies = Some(Dies::AfterTheDrop));
    assert!(matches!(driver.begin(&args).await, Err(ManagerError::Lost { .. })));
    let answer = driver.begin(&args).await.unwrap();
    assert_eq!((answer.in_scope, answer.new_state, host.with(|world| world.drops)), (3, NsmState(5), 1));
}

#[tokio::test]
async fn a_driver_that_died_in_grace_before_the_drop_has_touched_nothing() {
    let host = Host::new();
    host.with(|world| (world.newcomer, world.dies) = (Some("late"), Some(Dies::InGrace)));
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    assert!(driver.begin(&args).await.is_err());
    drop(driver);
    let status = host.driver().status().await.unwrap();
    assert_eq!((status.run, status.locks, status.grace), (Maybe(None), 4, Grace::Recovery));
    assert_eq!(host.with(|world| world.drops), 0);
}

/// A run whose driver was killed in `begin`, where the manager's life goes on over a drop.
async fn killed(host: &Host, dies: Dies) -> RunId {
    host.with(|world| world.dies = Some(dies));
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    assert!(driver.begin(&args).await.is_err());
    host.with(|world| (world.dies, world.life) = (None, 1));
    args.run
}

async fn all_told(driver: &Adapter<Fake>, run: RunId, clients: u32) {
    let acked = |client| ClientProgress { client, delivery: Delivery::Acked, ago_ms: 0, suspect: false };
    let clients = List::clipped((0..clients).map(acked).collect());
    driver.progress(&ProgressArgs { run, notices_begun: true, clients }).await.unwrap();
}

async fn owes(driver: &Adapter<Fake>) -> bool {
    driver.cautions().await.unwrap().iter().any(|caution| caution.about == "owed")
}

#[tokio::test]
async fn one_lock_taken_anew_after_a_drop_does_not_hide_it() {
    let host = Host::new();
    let run = killed(&host, Dies::AfterTheDrop).await;
    host.with(|world| world.in_grace = false);
    host.comes_back(&[lock("a", 0)]);
    let next = host.driver();
    let result = next.result(run).await.unwrap();
    assert_eq!((result.outcome, result.counts.unverified), (Outcome::Superseded, 3));
    assert!(owes(&next).await);
}

#[tokio::test]
async fn a_drop_that_left_a_lock_goes_on_in_its_grace_and_that_one_is_kept() {
    let host = Host::new();
    host.with(|world| world.missed = 1);
    let run = killed(&host, Dies::AfterTheDrop).await;
    let next = host.driver();
    assert_eq!(counts(&next.status().await.unwrap()), (3, 2, 0));
    told(&next, run).await;
    host.comes_back(&[lock("a", 100)]);
    let counts = settle(&next, run, false).await.unwrap().counts;
    assert_eq!((counts.reclaimed, counts.kept, counts.dropped), (1, 1, 1));
}

#[tokio::test]
async fn locks_that_could_not_be_listed_count_as_dropped_where_a_mark_is_found() {
    let host = Host::new();
    host.with(|world| (world.leaves_mark, world.locks) = (true, Vec::new()));
    let run = killed(&host, Dies::AfterTheDrop).await;
    host.with(|world| world.in_grace = false);
    let next = host.driver();
    assert_eq!(next.result(run).await.unwrap().outcome, Outcome::Superseded);
    assert!(owes(&next).await);
}

#[tokio::test]
async fn a_drop_is_finished_by_who_resumes_its_run_and_by_nobody_who_only_looks() {
    let host = Host::new();
    // The first lock is not released yet, and goes when the drop is finished.
    host.with(|world| (world.leaves_mark, world.missed) = (true, 1));
    let run = killed(&host, Dies::AfterTheDrop).await;
    let next = host.driver();
    assert_eq!(counts(&next.status().await.unwrap()), (3, 2, 0));
    next.unfetched().await.unwrap();
    drop(next);
    let next = host.driver();
    next.status().await.unwrap();
    assert_eq!(host.with(|world| (world.mark, world.finished)), (true, 0));
    let args = BeginArgs { run, ..begin_args(&next, 1).await };
    next.begin(&args).await.unwrap();
    assert_eq!(host.with(|world| (world.mark, world.finished)), (false, 1));
    assert_eq!(counts(&told(&next, run).await), (3, 3, 0));
    next.begin(&args).await.unwrap();
    assert_eq!(host.with(|world| world.finished), 1);
    host.comes_back(&[lock("a", 0), lock("a", 100), lock("b", 0)]);
    assert_eq!(settle(&next, run, SETTLE_EARLY).await.unwrap().counts.reclaimed, 3);
}

#[tokio::test]
async fn a_manager_that_ends_while_its_drop_is_finished_is_in_the_run_once_it_is_back() {
    let host = Host::new();
    host.with(|world| world.leaves_mark = true);
    let run = killed(&host, Dies::AfterTheDrop).await;
    let next = host.driver();
    next.status().await.unwrap();
    host.with(|world| world.life += 1);
    assert_eq!(next.status().await.unwrap().run.0.unwrap().run, run);
    // One that ends after the first notice has lost what clients brought back.
    let args = BeginArgs { run, ..begin_args(&next, 1).await };
    next.begin(&args).await.unwrap();
    told(&next, run).await;
    host.with(|world| world.life += 1);
    assert_eq!(next.status().await.unwrap().run, Maybe(None));
}

#[tokio::test]
async fn a_mark_of_a_drop_outweighs_locks_that_are_held_and_outlives_a_failed_recovery() {
    let host = Host::new();
    let run = killed(&host, Dies::BeforeTheDrop).await;
    host.with(|world| (world.mark, world.unanswered) = (true, 1));
    assert!(host.driver().status().await.is_err());
    assert!(!host.with(|world| world.mark), "found once");
    let next = host.driver();
    assert_eq!(next.result(run).await.unwrap().outcome, Outcome::Superseded);
    assert!(owes(&next).await);
}

#[tokio::test]
async fn a_recovery_that_failed_is_tried_again_by_whoever_asks_next() {
    let host = Host::new();
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    drop(driver);
    let (next, other) = (host.driver(), host.driver());
    host.with(|world| world.unanswered = 1);
    assert!(next.unfetched().await.is_err());
    assert_eq!(other.status().await.unwrap().run.0.unwrap().run, run);
    told(&other, run).await;
    drop(other);
    assert_eq!(next.status().await.unwrap().run.0.unwrap().run, run);
    settle(&next, run, false).await.unwrap();
}

#[tokio::test]
async fn a_settle_that_failed_half_way_is_finished_by_the_same_process_with_its_count() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0)]);
    host.with(|world| world.stuck = 1);
    assert!(settle(&driver, run, false).await.is_err());
    assert_eq!(driver.status().await.unwrap().run, Maybe(None));
    assert!(!host.with(|world| world.in_grace));
    let counts = driver.result(run).await.unwrap().counts;
    assert_eq!((counts.reclaimed, counts.dropped), (1, 2));
}

#[tokio::test]
async fn calls_that_come_at_once_end_a_run_once_and_none_brings_it_back() {
    for _ in 0..20 {
        let host = Host::new();
        let (driver, run) = in_a_run(&host).await;
        host.comes_back(&[lock("a", 0)]);
        let progress = ProgressArgs { run, notices_begun: true, clients: List::default() };
        let extend = ExtendArgs { run, remaining_ms: 1000 };
        let (one, two, status, _, _) = tokio::join!(
            settle(&driver, run, false),
            settle(&driver, run, false),
            driver.status(),
            driver.progress(&progress),
            driver.extend(&extend)
        );
        let results: Vec<_> = [one, two].into_iter().flatten().collect();
        assert_eq!(results.len(), 1, "one settled it");
        assert_eq!(driver.result(run).await.unwrap(), results[0]);
        assert_eq!(results[0].counts.dropped, 2);
        assert!(status.is_ok());
        assert!(!RunFiles::new(host.dir.path()).runs().unwrap()[0].is_active());
    }
}

#[tokio::test]
async fn clients_whose_turn_never_came_are_told_by_the_next_run_and_those_told_are_not_owed() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    drop(driver);
    host.with(|world| (world.in_grace, world.clients) = (false, Vec::new()));
    let next = host.driver();
    assert_eq!(next.result(run).await.unwrap().outcome, Outcome::Settled);
    assert!(owes(&next).await);
    let run = begun(&next, 2).await;
    let names: Vec<_> = next.run_clients(run).await.unwrap().into_iter().map(|client| client.name).collect();
    assert_eq!(names.iter().map(CallerName::as_str).collect::<Vec<_>>(), ["c2"]);
    all_told(&next, run, 1).await;
    settle(&next, run, false).await.unwrap();
    assert!(!owes(&next).await);
}

#[tokio::test]
async fn a_run_that_begins_in_grace_is_no_recovery() {
    let host = Host::new();
    let (driver, other) = (host.driver(), host.driver());
    let begun = begun(&driver, 1).await;
    let run_files = RunFiles::new(host.dir.path());
    let run = run_files.runs().unwrap().pop().unwrap();
    run_files.save(&RunRecord { phase: Phase::Beginning, ..run }).unwrap();
    let status = other.status().await.unwrap();
    assert_eq!((status.grace, status.run), (Grace::Strict, Maybe(None)));
    assert_eq!(driver.status().await.unwrap().run.0.unwrap().run, begun);
}

#[tokio::test]
async fn an_abort_is_asked_only_as_long_as_the_command_that_asks_is_there() {
    let host = Host::new();
    host.with(|world| world.soft = true);
    let (driver, other) = (host.driver(), host.driver());
    let run = begun(&driver, 1).await;
    told(&driver, run).await;
    let file = host.dir.path().join(format!("{run}.abort"));
    tokio::select! {
        went = other.abort(run) => panic!("{went:?}"),
        () = async { while !file.exists() { tokio::task::yield_now().await } } => {}
    }
    // Its file system work ends on a thread.
    tokio::time::sleep(LOOK_EVERY).await;
    assert!(driver.status().await.unwrap().run.0.is_some());
}
