//! Fetches results into the record, and completes the record of runs that no controller finished.
//!
//! A result is fetched in pages, each stored as it comes; only the last step makes the run `done`,
//! and only after that may the manager forget it. So the work may stop anywhere and be repeated.

use super::record::Record;
use std::time::Duration;

use super::error::ControllerError;
use crate::manager::{LockManager, ManagerError};
use crate::report::{Outcome, Phase};
use crate::store::{LOCKS_AT_ONCE, RunOutcome, StoredRun};
use crate::wire::control::{Counts, LockFate, RefusalCode, RunId, RunResult, Status};

/// How long to wait before a manager that does not answer, or not yet, is asked again.
pub(super) const CALL_AGAIN: Duration = Duration::from_millis(100);
/// Most runs whose record is completed at once; the next command continues.
const MOST_UNFINISHED: usize = 1_000;
/// How often a manager that is writing a result just now is asked again: for 30 s, as long as a call may take. Then its
/// refusal is the answer, and the next command fetches the result.
const RESULT_TRIES: usize = 300;

/// If a manager that has not restarted has no result of the run.
pub(super) const NO_RESULT: &str = "the lock manager has not restarted, but has no result of the run: it could not \
                                    write the result, or newer results replaced it; see its log";

/// The outcome of fetching a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// It is in the record.
    Stored,
    /// The manager knows no such run.
    Unknown,
}

/// Brings a run's result into the record, then acknowledges it. Waits while the manager is still
/// writing it.
pub(super) async fn fetch(manager: &dyn LockManager, record: &Record, run: RunId) -> Result<Fetched, ControllerError> {
    let mut tries = 0;
    let result = loop {
        match manager.result(run).await {
            Ok(result) => break result,
            Err(ManagerError::Refused(refusal)) => match refusal.code {
                RefusalCode::UnknownRun => return Ok(Fetched::Unknown),
                RefusalCode::WrongPhase if tries < RESULT_TRIES => {
                    tries += 1;
                    tokio::time::sleep(CALL_AGAIN).await;
                }
                RefusalCode::WrongPhase
                | RefusalCode::RunActive
                | RefusalCode::GraceActive
                | RefusalCode::StalePlan
                | RefusalCode::StillPending
                | RefusalCode::BadRequest
                | RefusalCode::Unsupported
                | RefusalCode::NotDurable
                | RefusalCode::NotAllowed => return Err(ManagerError::Refused(refusal).into()),
            },
            Err(error) => return Err(error.into()),
        }
    };
    store_pages(manager, record, run).await?;
    let outcome = outcome_of(&result);
    record.with(move |store| store.record_result(run, &outcome)).await?;
    // If this call is lost, the next command acknowledges; the stored result stays stored.
    if let Err(error) = manager.acknowledge(run).await {
        tracing::debug!(%run, %error, "could not acknowledge the result");
    }
    Ok(Fetched::Stored)
}

async fn store_pages(manager: &dyn LockManager, record: &Record, run: RunId) -> Result<(), ControllerError> {
    let mut after = 0;
    loop {
        let page = manager.result_clients(run, after).await?;
        let clients = page.clients.into_vec();
        record.with(move |store| store.record_client_results(run, &clients)).await?;
        match manager.next_page(after, page.next)? {
            Some(next) => after = next,
            None => break,
        }
    }
    let (mut first, mut after) = (0, Some(0));
    let mut locks = some_locks(manager, run, &mut after).await?;
    while !locks.is_empty() {
        let count = locks.len() as u64;
        // The next page is fetched while this one is written.
        let write = record.with(move |store| store.record_lock_fates(run, first, &locks));
        let (written, next) = tokio::join!(write, some_locks(manager, run, &mut after));
        written?;
        (first, locks) = (first + count, next?);
    }
    Ok(())
}

/// As many pages of a result's locks as are written at once; `after` is the cursor of the next page, none after the
/// last.
async fn some_locks(
    manager: &dyn LockManager,
    run: RunId,
    after: &mut Option<u64>,
) -> Result<Vec<LockFate>, ManagerError> {
    let mut locks = Vec::new();
    while let Some(cursor) = after.filter(|_| locks.len() < LOCKS_AT_ONCE) {
        let page = manager.result_locks(run, cursor).await?;
        locks.extend(page.locks.into_vec());
        *after = manager.next_page(cursor, page.next)?;
    }
    Ok(locks)
}

fn outcome_of(result: &RunResult) -> RunOutcome {
    RunOutcome {
        outcome: result.outcome.into(),
        reason: Some(result.reason.as_str().to_owned()),
        not_understood: result.not_understood,
        alone: result.alone,
        ended_unix_ms: Some(result.ended_unix_ms),
        counts: Some(result.counts),
        late: result.late,
    }
}

/// An end without a result.
pub(super) fn end_without_result(outcome: Outcome, reason: String, counts: Option<Counts>) -> RunOutcome {
    RunOutcome {
        outcome,
        reason: Some(reason),
        not_understood: false,
        alone: false,
        ended_unix_ms: None,
        counts,
        late: 0,
    }
}

/// Fetches the results that earlier runs left at the manager, and completes the record of unfinished runs.
pub(super) async fn catch_up(manager: &dyn LockManager, record: &Record) -> Result<(), ControllerError> {
    for run in manager.unfetched().await? {
        // A run that this record does not know is another record's to fetch.
        let known = record.with(move |store| Ok(store.stored(run).is_ok())).await?;
        if known {
            fetch(manager, record, run).await?;
        }
    }
    let status = manager.status().await?;
    for _ in 0..MOST_UNFINISHED {
        let (endpoint, instance) = (manager.endpoint(), status.instance);
        let Some(run) = record.with(move |store| store.unfinished(&endpoint, instance)).await? else { break };
        if is_active(run.id, &status) {
            break;
        }
        close(manager, record, &run, &status).await?;
    }
    Ok(())
}

/// Whether the manager is in the middle of this run.
pub(super) fn is_active(run: RunId, status: &Status) -> bool {
    status.run.0.as_ref().is_some_and(|active| active.run == run)
}

/// Completes the record of a run that is no longer active and that no controller drives.
async fn close(
    manager: &dyn LockManager,
    record: &Record,
    run: &StoredRun,
    status: &Status,
) -> Result<(), ControllerError> {
    if run.phase > Phase::Planned && fetch(manager, record, run.id).await? == Fetched::Stored {
        return Ok(());
    }
    let (id, outcome) = (run.id, unknown_end(run, status));
    record.with(move |store| store.record_result(id, &outcome)).await
}

/// How a run ended that the manager does not know.
pub(super) fn unknown_end(run: &StoredRun, status: &Status) -> RunOutcome {
    let never_asked = run.phase == Phase::Planned;
    let never_begun = run.phase == Phase::Beginning && run.begin.instance == status.instance;
    if never_asked || never_begun {
        let reason = if never_asked {
            "nlmctl ended before the run began: nothing was touched"
        } else {
            "nlmctl ended while the run began: no lock was dropped, as far as was seen"
        };
        return end_without_result(Outcome::Failed, reason.into(), None);
    }
    if run.begin.instance == status.instance {
        return end_without_result(Outcome::Failed, NO_RESULT.into(), None);
    }
    let reason = "the lock manager no longer knows the run: it restarted during the run";
    end_without_result(Outcome::Superseded, reason.into(), None)
}
