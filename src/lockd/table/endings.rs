//! The end of a run inside the daemon: settled in slices, its result durable, then the commit; or aborted.
//!
//! A result may have a million locks, so what becomes of them is never all here: [some pages](PAGES_AT_ONCE) of it go to the
//! disk while the run is scanned, and then the scan goes on. The rest of the result, which makes it one, follows when they
//! are all there.

use std::sync::Arc;
use std::time::Duration;

use super::phase::{Ending, Phase, Refusable, SLICE, free_beside, remember};
use super::state::{Done, Owner};
use crate::lockd::persist::{Change, Durable, EndedRun, PersistError, RunRecord, durably};
use crate::rpc::server::ConnectionId;
use crate::wire::control::{Refusal, RefusalCode, RunArgs, RunResult, SettleArgs, SettleWhen};
use crate::wire::xdr::List;

/// A grace goes on no longer than this for reclaims that came in time and wait for the disk or an embedding server.
const RECLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// What a controller is told meanwhile.
const RECLAIM_OUTSIDE: &str = "a reclaim waits for the disk or for the file server's answer";
/// Between two looks at the clock: locks scanned, files swept.
const SCAN_STEP: usize = 128;
const SWEEP_STEP: usize = 1;
/// Pages of a result's locks that are written together at least: more, and what comes of a client meanwhile waits longer.
pub(super) const PAGES_AT_ONCE: usize = 8;
/// A result that the disk did not take is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So many late reclaims are written together once the disk takes their run's result.
const LATE_AT_ONCE: usize = 1_024;
/// After so many failures the run is aborted: a drop that leaves no record must not happen.
const FAILURES_MAX: u32 = 5;

impl Owner {
    pub(super) fn settle(&mut self, args: SettleArgs, connection: ConnectionId, answer: Refusable<RunResult>) {
        if self.runs.ended.contains(&args.run) {
            // A repeated call: the first one settled, or the deadline did.
            let archive = Arc::clone(&self.archive);
            self.work.spawn(async move {
                let _ = answer.send(archive.result(args.run).await);
                Done::Nothing
            });
            return;
        }
        if let Err(refusal) = self.expect_run(args.run) {
            let _ = answer.send(Err(refusal));
            return;
        }
        self.runs.controller = Some(connection);
        if matches!(self.runs.phase, Phase::Scanning | Phase::Writing) {
            self.runs.ending.answers.push(answer);
            return;
        }
        let holds_up = if args.when == SettleWhen::NothingPending {
            None
        } else if self.table.owes_time(self.clock.now()) {
            Some("nlmd did not run for a while, and its clients get that time before the run settles")
        } else if self.awaits_moves() {
            Some("a reclaim waits until it is known whether its host has another address now")
        } else {
            self.awaits_reclaims().then_some(RECLAIM_OUTSIDE)
        };
        if let Some(words) = holds_up {
            let _ = answer.send(Err(Refusal::new(RefusalCode::StillPending, words)));
            return;
        }
        self.start_scan(args.when, Ending { answers: vec![answer], reason: args.when.reason(), ..Ending::default() });
    }

    /// The deadline has passed and no controller settled.
    pub(super) fn settle_alone(&mut self) {
        let reason = if self.runs.controller_attached() {
            "deadline, and the controller did not settle"
        } else {
            "deadline, and the controller was gone"
        };
        tracing::warn!("nlmd ends the run without nlmctl: {reason}");
        self.start_scan(SettleWhen::Always, Ending { alone: true, reason, ..Ending::default() });
    }

    /// Whether a reclaim that came before the deadline waits for what is asked outside.
    pub(super) fn awaits_moves(&self) -> bool {
        self.table.deadline().is_some_and(|deadline| self.moves.holds_up(deadline))
    }

    /// Whether a reclaim that came in time waits for the disk or an embedding server. After the grace it could be refused.
    pub(super) fn awaits_reclaims(&self) -> bool {
        self.table.overdue(self.clock.now()) < RECLAIM_PATIENCE && self.queue.has_reclaims_outside()
    }

    fn start_scan(&mut self, when: SettleWhen, ending: Ending) {
        match self.table.settle_start(self.clock.now(), when, ending.alone, ending.reason) {
            Ok(()) => {
                self.runs.ending = ending;
                self.runs.phase = Phase::Scanning;
                let _ = self.apply_effects();
            }
            Err(refusal) if ending.alone => self.abort_alone(&format!("could not settle: {refusal}")),
            Err(refusal) => {
                for answer in ending.answers {
                    let _ = answer.send(Err(refusal.clone()));
                }
            }
        }
    }

    /// Reclaims of what is about to be dropped came while the result was written, before the instant. So the result does
    /// not come true, and before anybody relies on that, the disk has the run as active again.
    fn take_back(&mut self, result: &RunResult) {
        let &RunResult { run, mode, old_state, new_state, began_unix_ms, ref counts, .. } = result;
        let (in_scope, clients) = (counts.in_scope, self.table.run_clients());
        let record = RunRecord { run, mode, old_state, new_state, began_unix_ms, in_scope, clients };
        let persist = self.persist.clone();
        let submit = move || persist.submit(Change::TakenBack(record.clone()));
        let submitted = submit();
        self.work.spawn(async move { Done::TakenBack(in_the_end(submitted, submit).await) });
    }

    /// The reclaims are decided in grace, where no other owner can take the range, and then the run settles anew. An
    /// address causes this once: what else it has pending is kept. After many times all that is pending is kept.
    pub(super) fn taken_back(&mut self, durable: Result<(), PersistError>) {
        if durable.is_err() {
            self.runs.failures = FAILURES_MAX;
            self.result_durable(durable);
            return;
        }
        let ending = std::mem::take(&mut self.runs.ending);
        // More may have come meanwhile.
        let _ = self.reclaims_came_in_time();
        free_beside(self.table.settle_anew());
        self.runs.phase = Phase::Active;
        let _ = self.apply_effects();
        self.after_commit();
        if self.awaits_reclaims() {
            // Where no controller asked, the deadline has passed, and is looked at again.
            for answer in ending.answers {
                let _ = answer.send(Err(Refusal::new(RefusalCode::StillPending, RECLAIM_OUTSIDE)));
            }
            return;
        }
        self.start_scan(SettleWhen::Always, Ending { result: None, ..ending });
    }

    fn reclaims_came_in_time(&mut self) -> bool {
        let reclaims = self.queue.reclaims().map(|call| (call.incoming.address, &call.incoming.call));
        // Both: each host that has one is not to cause it again.
        self.table.came_in_time(reclaims) | self.table.was_accepted_in_time()
    }

    pub(super) fn scan(&mut self) {
        if self.runs.ending.awaits_pages {
            return;
        }
        let Some(run) = self.active_run() else { return self.write_rest() };
        let until = self.clock.now() + SLICE;
        loop {
            let is_done = self.table.settle_scan(SCAN_STEP);
            if let Some((first, pages)) = self.table.take_pages(if is_done { 1 } else { PAGES_AT_ONCE }) {
                self.runs.ending.awaits_pages = true;
                let pages = pages.into_iter().map(List::clipped).collect();
                let (change, persist) = (Change::Locks { run, first, pages }, self.persist.clone());
                self.work.spawn(async move { Done::PagesDurable(persist.write_when_there_is_room(change).await) });
                return;
            }
            if is_done {
                return self.write_rest();
            }
            if self.clock.now() > until {
                return;
            }
        }
    }

    pub(super) fn pages_durable(&mut self, durable: Result<(), PersistError>) {
        self.runs.ending.awaits_pages = false;
        if let Err(error) = durable {
            self.not_written(&error);
        }
    }

    /// All that the scan took out is on disk.
    fn write_rest(&mut self) {
        let Some(sliced) = self.table.settle_result(self.runs.unix_ms(self.clock.now())) else {
            self.abort_alone("the run was gone before its end");
            return;
        };
        self.runs.ending.result = Some(sliced.result.clone());
        self.runs.phase = Phase::Writing;
        let ended = EndedRun::new(sliced);
        let submitted = self.persist.submit(Change::Ended(ended.clone()));
        self.work.spawn(async move {
            let durable = durably(submitted).await;
            free_beside(ended);
            Done::ResultDurable(durable)
        });
    }

    pub(super) fn result_durable(&mut self, durable: Result<(), PersistError>) {
        let Some(result) = self.runs.ending.result.clone() else { return };
        if durable.is_ok() && self.reclaims_came_in_time() {
            self.take_back(&result);
            return;
        }
        if let Err(error) = durable {
            return self.not_written(&error);
        }
        free_beside(self.table.settle_commit());
        if result.counts.dropped > 0 {
            self.took_away = Some(self.clock.now());
        }
        self.runs.phase = Phase::Idle;
        self.over(&result);
        for answer in std::mem::take(&mut self.runs.ending).answers {
            let _ = answer.send(Ok(result.clone()));
        }
        self.end_moves();
        let _ = self.apply_effects();
        self.after_commit();
    }

    /// The disk has not taken the result, or a part of it.
    fn not_written(&mut self, error: &PersistError) {
        free_beside(self.table.settle_cancel());
        self.runs.phase = Phase::Active;
        self.runs.failures += 1;
        self.runs.not_before = Some(self.clock.now() + RETRY_AFTER);
        tracing::error!(run = self.active_run().map(tracing::field::display), %error, "the run's result is not on disk; nothing was dropped");
        let words = format!("the run's result is not on disk, nothing was dropped: {error}");
        for answer in std::mem::take(&mut self.runs.ending).answers {
            let _ = answer.send(Err(Refusal::new(RefusalCode::NotDurable, words.clone())));
        }
        if self.runs.failures >= FAILURES_MAX {
            self.abort_alone(&format!("the result could not be written, so nothing was dropped: {error}"));
        }
        let _ = self.apply_effects();
        self.after_commit();
    }

    pub(super) fn sweep(&mut self) {
        let until = self.clock.now() + SLICE;
        // A slice is one step at least, however late this thread comes to run.
        while !self.table.settle_sweep(SWEEP_STEP) {
            if self.clock.now() > until {
                break;
            }
        }
        if !self.table.has_more_to_sweep() {
            self.timeline.changed();
        }
        let _ = self.apply_effects();
        if !self.table.has_more_to_sweep()
            && let Phase::Beginning(beginning) = &mut self.runs.phase
            && let Some(durable) = beginning.durable.take()
        {
            self.begin_durable(durable);
        }
    }

    fn over(&mut self, result: &RunResult) {
        remember(&mut self.runs.ended, result.run);
        self.runs.controller = None;
        self.runs.not_before = None;
    }

    pub(super) fn abort(&mut self, args: RunArgs, answer: Refusable<RunResult>) {
        if self.runs.ended.contains(&args.run) {
            let message = format!("run {} has ended already; nothing is left to abort", args.run);
            let _ = answer.send(Err(Refusal::new(RefusalCode::WrongPhase, message)));
            return;
        }
        if let Phase::Beginning(beginning) | Phase::Entering(beginning) = &mut self.runs.phase
            && beginning.args.run == args.run
        {
            beginning.aborts.push(answer);
            return;
        }
        match self.expect_run(args.run).and_then(|()| self.abort_now("aborted on request")) {
            Ok(ended) => self.keep_aborted(ended, Some(answer)),
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
            }
        }
    }

    pub(super) fn abort_alone(&mut self, reason: &str) {
        tracing::warn!("aborting the run: {reason}");
        match self.abort_now(reason) {
            Ok(ended) => self.keep_aborted(ended, None),
            Err(refusal) => {
                tracing::error!(%refusal, "the run could not be aborted");
                self.runs.not_before = Some(self.clock.now() + RETRY_AFTER);
            }
        }
    }

    fn abort_now(&mut self, reason: &str) -> Result<EndedRun, Refusal> {
        let ended = self.table.abort(self.runs.unix_ms(self.clock.now()), reason)?;
        self.runs.phase = Phase::Idle;
        self.over(&ended.result);
        let _ = self.apply_effects();
        Ok(ended.into())
    }

    /// An abort drops nothing, so it does not wait for the disk; its answer does, for a while.
    fn keep_aborted(&mut self, ended: EndedRun, answer: Option<Refusable<RunResult>>) {
        let (persist, unwritten) = (self.persist.clone(), self.archive.unwritten.clone());
        // Queued now: a late reclaim is appended to it and must come after it.
        let submitted = unwritten.submit(&ended, &persist);
        self.end_moves();
        self.work.spawn(async move {
            let (run, mut late) = (ended.result.run, Vec::new());
            let again = || {
                let submitted;
                (submitted, late) = unwritten.submit_again(&ended, &persist);
                submitted
            };
            let durable = in_the_end(submitted, again).await;
            if let Some(answer) = answer {
                let _ = answer.send(Ok(ended.result.clone()));
            }
            if durable.is_ok() {
                for some in late.chunks(LATE_AT_ONCE) {
                    let late = some.iter().map(|fate| persist.submit(Change::Late(run, fate.clone())));
                    for submitted in late.collect::<Vec<_>>() {
                        if let Err(error) = durably(submitted).await {
                            tracing::error!(%run, %error, "a late reclaim is missing in its run's result");
                        }
                    }
                }
                unwritten.written(run);
            }
            free_beside(ended);
            Done::Nothing
        });
    }
}

/// Submits a change again, for a while, that the disk does not take.
async fn in_the_end(
    mut submitted: Result<Durable, PersistError>,
    mut submit: impl FnMut() -> Result<Durable, PersistError>,
) -> Result<(), PersistError> {
    let mut attempt = 1;
    loop {
        let Err(error) = durably(submitted).await else { return Ok(()) };
        tracing::error!(attempt, %error, "what became of the run is not on disk");
        if attempt == FAILURES_MAX {
            return Err(error);
        }
        attempt += 1;
        tokio::time::sleep(RETRY_AFTER).await;
        submitted = submit();
    }
}
