//! Answers to controllers that do not need the owner: nlmd's identity, and the results on disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::incoming::Names;
use crate::lockd::persist::{Change, Durable, EndedRun, Persist, PersistError};
use crate::wire::control::{
    Capabilities, ClientResultPage, Fate, Info, InstanceId, LockFate, LockFatePage, PAGE, Refusal, RefusalCode, RunId,
    RunList, RunPageAfter, RunResult,
};
use crate::wire::types::NsmState;
use crate::wire::xdr::{List, Text};

#[derive(Debug)]
pub(super) struct Archive {
    pub(super) persist: Persist,
    pub(super) instance: InstanceId,
    pub(super) names: Names,
    /// Whether locks hold in another lock domain too.
    pub(super) mirrored: bool,
    /// The result that the disk does not take.
    pub(super) unwritten: Unwritten,
}

/// An aborted run's result while it is not on disk: it is told all the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Unwritten(Arc<Mutex<Option<Waiting>>>);

#[derive(Debug)]
struct Waiting {
    ended: EndedRun,
    /// Its late reclaims since. The disk has nothing to append them to as long as it refuses the result.
    late: Vec<LockFate>,
}

impl Unwritten {
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of it is asked for, if it is of this run.
    fn of<T>(&self, run: RunId, ask: impl FnOnce(&mut Waiting) -> T) -> Option<T> {
        self.lock().as_mut().filter(|waiting| waiting.ended.result.run == run).map(ask)
    }

    /// Submits the result.
    pub(super) fn submit(&self, ended: &EndedRun, persist: &Persist) -> Result<Durable, PersistError> {
        *self.lock() = Some(Waiting { ended: ended.clone(), late: Vec::new() });
        persist.submit(Change::Ended(ended.clone()))
    }

    /// The same once more. Gives also the late reclaims that came before: they are still to be appended.
    pub(super) fn submit_again(
        &self,
        ended: &EndedRun,
        persist: &Persist,
    ) -> (Result<Durable, PersistError>, Vec<LockFate>) {
        // As long as it is locked no late reclaim is submitted.
        let waiting = self.lock();
        let late = waiting.as_ref().filter(|waiting| waiting.ended.result.run == ended.result.run);
        let late = late.map_or_else(Vec::new, |waiting| waiting.late.clone());
        (persist.submit(Change::Ended(ended.clone())), late)
    }

    /// Submits a late reclaim, which is kept where the result may be submitted again.
    pub(super) fn submit_late(&self, run: RunId, fate: LockFate, persist: &Persist) -> Result<Durable, PersistError> {
        let mut waiting = self.lock();
        if let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.ended.result.run == run) {
            waiting.late.push(fate.clone());
        }
        persist.submit(Change::Late(run, fate))
    }

    pub(super) fn written(&self, run: RunId) {
        self.lock().take_if(|waiting| waiting.ended.result.run == run);
    }
}

impl Waiting {
    fn sums(&self) -> RunResult {
        let late = self.late.iter().filter(|late| late.fate == Fate::Resurrected).count() as u64;
        RunResult { late, ..self.ended.result.clone() }
    }

    /// A page of what became of the locks, from one on; late reclaims come last.
    fn locks(&self, first: usize) -> Vec<LockFate> {
        match first.checked_sub(self.ended.count_locks()) {
            None => self.ended.locks(first).to_vec(),
            Some(late) => self.late.iter().skip(late).take(PAGE).cloned().collect(),
        }
    }
}

pub(super) fn not_durable(error: &PersistError) -> Refusal {
    Refusal::new(RefusalCode::NotDurable, error.to_string())
}

fn kept<T>(run: RunId, found: Result<Option<T>, PersistError>) -> Result<T, Refusal> {
    found.map_err(|error| not_durable(&error))?.ok_or_else(|| {
        let words = format!("no result of run {run} is kept here; the run has not ended, or newer results replaced it");
        Refusal::new(RefusalCode::UnknownRun, words)
    })
}

/// The page from one on, and the cursor of the next one, or 0.
fn page<T>(after: u64, rows: impl Fn(usize) -> Vec<T>) -> (List<T, PAGE>, u64) {
    let first = usize::try_from(after).unwrap_or(usize::MAX);
    let page = rows(first);
    let end = first.saturating_add(page.len());
    let next = if rows(end).is_empty() { 0 } else { end as u64 };
    (List::clipped(page), next)
}

impl Archive {
    pub(super) fn info(&self, nsm_state: NsmState) -> Info {
        let domains = ["nlm"].into_iter().chain(self.mirrored.then_some("file system"));
        Info {
            software: Text::clipped(concat!("nlmd ", env!("CARGO_PKG_VERSION"))),
            instance: self.instance,
            nsm_state,
            names: List::clipped(self.names.borrow().clone()),
            capabilities: Capabilities::COOPERATES,
            domains: List::clipped(domains.map(Text::clipped).collect()),
        }
    }

    /// The sums, which tell how many late reclaims there are by now.
    pub(super) async fn result(&self, run: RunId) -> Result<RunResult, Refusal> {
        match self.unwritten.of(run, |waiting| waiting.sums()) {
            Some(result) => Ok(result),
            None => kept(run, self.persist.result(run).await),
        }
    }

    pub(super) async fn clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        let (clients, next) = match self.unwritten.of(args.run, |waiting| waiting.ended.clone()) {
            Some(ended) => page(args.after, |first| ended.clients(first)),
            None => kept(args.run, self.persist.result_clients(args.run, args.after).await)?,
        };
        Ok(ClientResultPage { clients, next })
    }

    pub(super) async fn locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        let unwritten = self.unwritten.of(args.run, |waiting| page(args.after, |first| waiting.locks(first)));
        let (locks, next) = match unwritten {
            Some(page) => page,
            None => kept(args.run, self.persist.result_locks(args.run, args.after).await)?,
        };
        Ok(LockFatePage { locks, next })
    }

    pub(super) async fn acknowledge(&self, run: RunId) -> Result<(), Refusal> {
        self.persist.write(Change::Acknowledge(run)).await.map_err(|error| not_durable(&error))
    }

    pub(super) async fn unfetched(&self) -> Result<RunList, Refusal> {
        let runs = self.persist.unfetched().await.map_err(|error| not_durable(&error))?;
        Ok(RunList { runs: List::clipped(runs) })
    }
}
