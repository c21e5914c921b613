//! Answers to controllers that do not need the owner: nlmd's identity, and the results on disk.

use std::sync::{Arc, Mutex, PoisonError};

use super::incoming::Names;
use crate::lockd::persist::{Change, EndedRun, Persist, PersistError};
use crate::wire::control::{
    Capabilities, ClientResultPage, Info, InstanceId, LockFatePage, PAGE, Refusal, RefusalCode, RunId, RunList,
    RunPageAfter, RunResult,
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
pub(super) type Unwritten = Arc<Mutex<Option<EndedRun>>>;

fn not_durable(error: &PersistError) -> Refusal {
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

    /// The result that the disk does not take, if it is of this run.
    fn unwritten(&self, run: RunId) -> Option<EndedRun> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unwritten.filter(|ended| ended.result.run == run)
    }

    /// The sums, which tell how many late reclaims there are by now.
    pub(super) async fn result(&self, run: RunId) -> Result<RunResult, Refusal> {
        match self.unwritten(run) {
            Some(ended) => Ok(ended.result.clone()),
            None => kept(run, self.persist.result(run).await),
        }
    }

    pub(super) async fn clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        let (clients, next) = match self.unwritten(args.run) {
            Some(ended) => page(args.after, |first| ended.clients(first)),
            None => kept(args.run, self.persist.result_clients(args.run, args.after).await)?,
        };
        Ok(ClientResultPage { clients, next })
    }

    pub(super) async fn locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        let (locks, next) = match self.unwritten(args.run) {
            Some(ended) => page(args.after, |first| ended.locks(first).to_vec()),
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
