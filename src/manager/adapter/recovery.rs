//! The real state of a run: runs that an earlier process left, and the ends of runs.
//!
//! ```text
//! Beginning --- every lock held, no mark of a drop -------------> forgotten: nothing was dropped
//!     |  '----- perhaps dropped, and grace is over --------------> Ended (superseded), clients owed
//!     v perhaps dropped, in grace
//!   Grace ----- settle, or past the deadline, no driver --> Settling --> Ended (settled)
//!        '----- a soft one, and an abort is asked for -----------> Settling --> Ended (aborted)
//!        '----- grace over by itself while it was watched -------> Settling --> Ended (settled)
//!        '----- grace over by itself, notices had left ----------> Ended (settled, unverified)
//!        '----- grace over by itself, no notice had left --------> Ended (superseded), clients owed
//!        '----- the manager has begun another life --------------> Ended (superseded)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, GraceEnd, refused};
use super::compare::{Snapshot, compare};
use super::record::{Coded, Phase, RunRecord};
use super::results::{End, Loss, result, unverified};
use super::run_files::RunFiles;
use super::{Adapter, LOOK_EVERY};
use crate::manager::ManagerError;
use crate::wire::control::{FullResult, LockFate, Outcome, RefusalCode, RunId, RunResult};

/// Lines about lost locks in the timeline; beyond that the record's rows tell.
const LINES: usize = 32;
/// How long the process that drives a run may take to abort it.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);

/// How a run came to its end, and whether an nlmctl was looking.
#[derive(Debug, Clone, Copy)]
struct Watch<'a> {
    reason: &'a str,
    alone: bool,
    watched: bool,
}

/// Whether a run that only began has dropped nothing, of which every sign is needed: one lock that is
/// held may have been taken anew. Where no lock could be listed, grace alone says that it may have.
fn surely_held(run: &RunRecord, held: &BTreeSet<usize>, in_grace: bool) -> bool {
    let listed = run.before.locks.len();
    !run.may_have_dropped && held.len() == listed && (listed > 0 || !in_grace)
}

impl<B: Backend> Adapter<B> {
    /// Takes the right to drive; false if another process has it, or another task of this one.
    pub(super) async fn drive(&self) -> Result<bool, ManagerError> {
        let _turn = self.turn.lock().await;
        let taken = self.state().driving.is_some();
        Ok(!taken && self.take_the_right().await?)
    }

    async fn take_the_right(&self) -> Result<bool, ManagerError> {
        let lock = self.with_run_files(RunFiles::try_drive).await?;
        let mut state = self.state();
        state.driving = lock;
        Ok(state.driving.is_some())
    }

    /// The run that is on, found where it really is. If another process drives it, as that one has
    /// written it down.
    pub(super) async fn active(&self) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let _turn = self.turn.lock().await;
        let (driving, known) = {
            let state = self.state();
            (state.driving.is_some(), state.run.clone())
        };
        if driving {
            return match known {
                // One that begins is another task's until it is in grace. One that settles has no task:
                // the one that settled it has failed, or had the turn.
                Some(run) if run.phase != Phase::Beginning => self.recover(run).await,
                known => Ok(known),
            };
        }
        // A look makes no folder.
        if !self.with_run_files(RunFiles::is_made).await? || !self.take_the_right().await? {
            return self.left().await;
        }
        let found = self.take_over().await;
        let mut state = self.state();
        state.run = found.as_ref().ok().and_then(Option::clone);
        if state.run.is_none() {
            state.driving = None;
        }
        drop(state);
        found
    }

    /// The run that is not over on disk.
    async fn left(&self) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        Ok(self.with_run_files(RunFiles::runs).await?.into_iter().rfind(RunRecord::is_active).map(Arc::new))
    }

    /// What the last driver left. Read with the right to drive: until then that one may have gone on.
    async fn take_over(&self) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let mut left = self.left().await?;
        if let Some(run) = left.as_ref().filter(|run| run.phase == Phase::Beginning)
            && self.backend.may_have_dropped().await?
        {
            // What is put back may take the mark away, and what it says must stay.
            left = Some(self.keep(RunRecord { may_have_dropped: true, ..(**run).clone() }).await?);
        }
        let done = self.backend.recover().await?;
        self.say_recovered(done);
        if let Some(run) = left {
            return self.recover(run).await;
        }
        self.backend.recorded().await?;
        Ok(None)
    }

    fn say_recovered(&self, lines: Vec<String>) {
        for line in lines {
            tracing::warn!("{line}");
            self.state().view.event("recovered", line);
        }
    }

    /// The run that a controller found and resumes, with its drop finished: until then no notice may leave.
    pub(super) async fn finish_drop(&self, run: Arc<RunRecord>) -> Result<Arc<RunRecord>, ManagerError> {
        let _turn = self.turn.lock().await;
        let mine = {
            let state = self.state();
            state.run.clone().filter(|mine| state.driving.is_some() && mine.id() == run.id())
        };
        let Some(mine) = mine.filter(|mine| mine.phase == Phase::Grace && !mine.notices_begun) else { return Ok(run) };
        let done = self.backend.finish_drop().await?;
        let run = if done.is_empty() {
            mine
        } else {
            let spared = compare(&mine.before, &self.backend.sight().await?).held();
            let run = self.keep(RunRecord { spared, ..(*mine).clone() }).await?;
            self.state().view.start(&run);
            run
        };
        self.say_recovered(done);
        self.backend.recorded().await?;
        Ok(run)
    }

    /// The truth about a run that is not over on disk. This process drives.
    async fn recover(&self, run: Arc<RunRecord>) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let life = self.backend.identity().await?.life;
        let in_grace = self.backend.in_grace().await?;
        match run.phase {
            Phase::Beginning => self.recover_beginning(run, life, in_grace).await,
            // A manager that ended while its drop was being finished.
            Phase::Grace if life != run.life && run.may_have_dropped && !run.notices_begun => {
                self.recover_beginning(run, life, in_grace).await
            }
            Phase::Grace if life != run.life => {
                let reason = "the lock manager was restarted in the middle of the run";
                self.end_unwatched((*run).clone(), Outcome::Superseded, reason).await?;
                Ok(None)
            }
            Phase::Grace if in_grace => {
                let id = run.id();
                if run.soft && self.with_run_files(move |run_files| run_files.is_abort_asked(id)).await? {
                    self.abort_run(&run).await?;
                    return Ok(None);
                }
                let orphan = self.state().run.is_none();
                let (deadline, _) = run.deadlines(None);
                let can_end = self.backend.capabilities().settle_early;
                if orphan && can_end && run.notices_begun && run.elapsed() > deadline {
                    self.settle_run(&run, "deadline; no controller was there", true).await?;
                    return Ok(None);
                }
                Ok(Some(run))
            }
            Phase::Grace => self.grace_ended_by_itself(&run).await,
            Phase::Settling => {
                let run = if in_grace && life == run.life { self.end_grace(&run).await? } else { (*run).clone() };
                self.end(&run, &[]).await?;
                Ok(None)
            }
            Phase::Ended => Ok(None),
        }
    }

    /// A run that only began: forgotten if nothing was dropped, else in grace or over.
    async fn recover_beginning(
        &self,
        run: Arc<RunRecord>,
        life: String,
        in_grace: bool,
    ) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let held = compare(&run.before, &self.backend.sight().await?).held();
        if run.soft || (life == run.life && surely_held(&run, &held, in_grace)) {
            let id = run.id();
            self.with_run_files(move |run_files| run_files.forget(id)).await?;
            return Ok(None);
        }
        let grace_ms = run.begin.0.grace_max_ms;
        let deliveries = RunRecord::untold(run.clients().len());
        // No notice was sent yet, so what is held in grace was not dropped. Afterwards it may be any owner's.
        let spared = if in_grace { held } else { BTreeSet::new() };
        let run = RunRecord { phase: Phase::Grace, life, grace_ms, deliveries, spared, ..(*run).clone() };
        if in_grace {
            return Ok(Some(self.keep(run).await?));
        }
        let reason = "nlmctl ended between the drop and the notices, and grace is over: clients were not notified";
        self.end_unwatched(run, Outcome::Superseded, reason).await?;
        Ok(None)
    }

    async fn grace_ended_by_itself(&self, run: &RunRecord) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let watched = self.state().view.watched(run.id());
        if let Some(last) = watched.filter(|_| run.notices_begun) {
            let reason = "the lock manager ended its grace";
            self.count(run, &last, Watch { reason, alone: false, watched: true }).await?;
            return Ok(None);
        }
        let (outcome, reason) = if run.notices_begun {
            (Outcome::Settled, "grace ended by itself; no nlmctl looked at that moment")
        } else {
            (Outcome::Superseded, "grace ended by itself before any client was notified")
        };
        self.end_unwatched(run.clone(), outcome, reason).await?;
        Ok(None)
    }

    /// The end of a run in its grace: counts, makes that durable, ends grace.
    pub(super) async fn settle_run(
        &self,
        run: &RunRecord,
        reason: &str,
        alone: bool,
    ) -> Result<RunResult, ManagerError> {
        let now = self.backend.sight().await?;
        let watched = self.backend.in_grace().await?;
        self.count(run, &now, Watch { reason, alone, watched }).await
    }

    /// The end of a run that has dropped nothing: as if it had not been.
    pub(super) async fn abort_run(&self, run: &RunRecord) -> Result<RunResult, ManagerError> {
        let now = self.backend.sight().await?;
        let reason = "aborted: no lock had been dropped";
        let end = End { outcome: Outcome::Aborted, reason, alone: false, unix_ms: run.unix_ms(), watched: false };
        let (found, _) = result(run, &[], &now, end);
        let run = RunRecord { phase: Phase::Settling, result: Some(Arc::new(Coded(found))), ..run.clone() };
        let kept = self.keep(run).await?;
        let run = self.end_grace(&kept).await?;
        self.end(&run, &[]).await
    }

    /// Aborts a soft run that another process drives: that one does it when it looks next, this one if that one has ended.
    pub(super) async fn have_it_aborted(&self, run: RunId) -> Result<RunResult, ManagerError> {
        let (began, mut request) = (Instant::now(), None);
        while began.elapsed() < ABORT_PATIENCE {
            if request.is_none() {
                request = self.with_run_files(move |run_files| run_files.ask_abort(run)).await?;
            }
            self.active().await?;
            match self.ended(run).await? {
                Some(found) if found.0.result.outcome == Outcome::Aborted => return Ok(found.0.result.clone()),
                Some(_) => return refused(RefusalCode::WrongPhase, format!("run {run} is over")),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        refused(
            RefusalCode::RunActive,
            format!(
                "run {run} is driven by another nlmctl, which was asked to abort it and has not yet; end that process with \
                 SIGINT, then abort again"
            ),
        )
    }

    /// Ends grace. If it goes on, what was counted as dropped may be reclaimed yet.
    async fn end_grace(&self, run: &RunRecord) -> Result<RunRecord, ManagerError> {
        let mut run = run.clone();
        if let GraceEnd::GoesOn(why) = self.backend.end_grace().await? {
            self.state().view.event("grace", why);
            run.result = run.result.map(|found| {
                let dropped = found.0.result.counts.dropped;
                Arc::new(Coded(unverified(found.0.clone(), dropped, |_| true)))
            });
        }
        Ok(run)
    }

    /// Counts what was seen back, makes that durable, ends grace.
    async fn count(&self, run: &RunRecord, now: &Snapshot, watch: Watch<'_>) -> Result<RunResult, ManagerError> {
        let Watch { reason, alone, watched } = watch;
        let back = self.state().view.back(run);
        let end = End { outcome: Outcome::Settled, reason, alone, unix_ms: run.unix_ms(), watched };
        let (found, losses) = result(run, &back, now, end);
        let counted = RunRecord { phase: Phase::Settling, result: Some(Arc::new(Coded(found))), ..run.clone() };
        let kept = self.keep(counted).await?;
        let run = self.end_grace(&kept).await?;
        // A reclaim may have come between the count and the end of grace; an equal lock may as well
        // be another owner's new one.
        let after = self.backend.sight().await?;
        let dropped = run.result.as_ref().map_or(0, |found| found.0.result.counts.dropped);
        let all = losses.iter().filter(|loss| dropped > 0 && !loss.now.is_unknown());
        let late: Vec<&Loss> = all.filter(|loss| after.locks.contains(&loss.lock)).collect();
        let is_late = |row: &LockFate| {
            late.iter().any(|loss| loss.lock.range() == row.range && loss.lock.file.as_bytes() == row.file.as_slice())
        };
        let doubt =
            |found: &Arc<Coded<FullResult>>| Arc::new(Coded(unverified(found.0.clone(), late.len() as u64, is_late)));
        let run = RunRecord { result: run.result.as_ref().map(doubt), ..run };
        self.end(&run, &losses).await
    }

    /// The end of a run whose grace no nlmctl watched to its end.
    async fn end_unwatched(&self, run: RunRecord, outcome: Outcome, reason: &str) -> Result<RunResult, ManagerError> {
        let now = self.backend.sight().await?;
        let back = self.state().view.back(&run);
        let end = End { outcome, reason, alone: true, unix_ms: run.unix_ms(), watched: false };
        let (found, losses) = result(&run, &back, &now, end);
        let run = RunRecord { result: Some(Arc::new(Coded(found))), ..run };
        self.end(&run, &losses).await
    }

    async fn end(&self, run: &RunRecord, losses: &[Loss]) -> Result<RunResult, ManagerError> {
        let files: Vec<String> = losses.iter().map(|loss| loss.lock.file.clone()).collect();
        let paths = self.backend.paths(&files).await;
        let run = self.keep(RunRecord { phase: Phase::Ended, ..run.clone() }).await?;
        let left = self.backend.finish().await;
        let mut state = self.state();
        losses.iter().take(LINES).for_each(|loss| state.view.event("lost", loss.line(&paths)));
        match left {
            Ok(done) => done.into_iter().for_each(|line| state.view.event("settle", line)),
            Err(error) => state.view.event("settle", error.to_string()),
        }
        state.driving = None;
        drop(state);
        match &run.result {
            Some(found) => Ok(found.0.result.clone()),
            None => refused(RefusalCode::UnknownRun, "the run has no result"),
        }
    }
}
