//! What controllers are told without the owner: who nlmd is, and the results on disk.

use std::sync::{Arc, Mutex, PoisonError};

use super::incoming::Names;
use crate::lockd::persist::{Change, Persist, PersistError};
use crate::wire::control::{
    Capabilities, FullResult, Info, InstanceId, Refusal, RefusalCode, RunId, RunList, RunPageAfter,
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
    /// The result that is being paged through; read from disk once.
    pub(super) last_read: Mutex<Option<Arc<FullResult>>>,
    /// The result that the disk does not take.
    pub(super) unwritten: Unwritten,
}

/// An aborted run's result while it is not on disk: it is told all the same.
pub(super) type Unwritten = Arc<Mutex<Option<Arc<FullResult>>>>;

fn not_durable(error: &PersistError) -> Refusal {
    Refusal::new(RefusalCode::NotDurable, error.to_string())
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

    pub(super) async fn read(&self, run: RunId) -> Result<Arc<FullResult>, Refusal> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(full) = unwritten.filter(|full| full.result.run == run) {
            return Ok(full);
        }
        let found = self.persist.result(run).await.map_err(|error| not_durable(&error))?;
        let Some(full) = found else {
            let words = format!("no result of run {run} is kept here; it has not ended, or newer ones pushed it out");
            return Err(Refusal::new(RefusalCode::UnknownRun, words));
        };
        let full = Arc::new(full);
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Some(full.clone());
        Ok(full)
    }

    /// The first page reads the result, the others come from the same copy.
    pub(super) async fn paged(&self, args: RunPageAfter) -> Result<Arc<FullResult>, Refusal> {
        let last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some(full) if args.after != 0 && full.result.run == args.run => Ok(full),
            _ => self.read(args.run).await,
        }
    }

    pub(super) async fn acknowledge(&self, run: RunId) -> Result<(), Refusal> {
        self.persist.write(Change::Acknowledge(run)).await.map_err(|error| not_durable(&error))?;
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    pub(super) async fn unfetched(&self) -> Result<RunList, Refusal> {
        let runs = self.persist.unfetched().await.map_err(|error| not_durable(&error))?;
        Ok(RunList { runs: List::clipped(runs) })
    }
}
