//! A result that could not be written to disk: it is kept here and written again until that succeeds.
//!
//! The next keeper takes a run without a result for one whose keeper was killed: it would call all locks of that run
//! unverified, and unsure. So a keeper neither ends nor begins another run as long as it owes a result.

use std::io;
use std::time::Duration;

use super::run_files::add_late;
use super::state::{Keeper, Owed};
use crate::wire::control::{FullResult, LockFate, RunId};

/// Between two tries to write it, or to settle.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Keeper {
    /// The result is on disk, and before it what the run leaves unsure.
    pub(super) fn put_away(&mut self, full: &FullResult) -> io::Result<()> {
        self.run_files.write_unsure(&mut self.unsure)?;
        self.run_files.end(full)
    }

    /// The same, of a run that has ended whatever the disk does: what it does not take now it gets later.
    pub(super) fn put_away_or_owe(&mut self, full: &FullResult) -> io::Result<()> {
        let written = self.put_away(full);
        if written.is_err() {
            self.owe(full.clone());
        }
        written
    }

    pub(super) fn owe(&mut self, full: FullResult) {
        let not_before = self.now() + RETRY_AFTER;
        self.owed = Some(Owed { full, not_before });
    }

    /// Tries to write what is owed.
    pub(super) fn pay(&mut self) -> io::Result<()> {
        let Some(Owed { full, .. }) = self.owed.take() else { return Ok(()) };
        if let Err(error) = self.put_away(&full) {
            self.owe(full);
            return Err(error);
        }
        let words = format!("the result of run {} is on disk by now", full.result.run);
        self.timeline.push(self.unix_ms(), "result", &words);
        self.platform.log(&words);
        Ok(())
    }

    pub(super) fn pay_if_due(&mut self) {
        if self.owed.as_ref().is_some_and(|owed| owed.not_before <= self.now()) {
            // It is tried again: why it failed was told the first time.
            let _ = self.pay();
        }
    }

    pub(super) fn owed(&self, run: RunId) -> Option<&FullResult> {
        self.owed.as_ref().map(|owed| &owed.full).filter(|full| full.result.run == run)
    }

    /// A late reclaim is appended to the result.
    pub(super) fn append(&mut self, run: RunId, row: LockFate) -> io::Result<()> {
        match self.owed.as_mut().filter(|owed| owed.full.result.run == run) {
            Some(owed) => {
                add_late(&mut owed.full, row);
                Ok(())
            }
            None => self.run_files.append(run, &row),
        }
    }
}
