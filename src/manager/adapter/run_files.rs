//! A driven manager's runs on disk: one JSON file for each run, and the lock that gives the right to drive. A lock on
//! a file beside a run's asks whoever drives that run to abort it, and ends with the command that asks.
//!
//! A file is replaced whole (temporary file, fsync, rename, fsync of the folder), so what is read is
//! always one state that was promised. Ended runs stay until they are acknowledged, and the last
//! [`KEPT`] of them anyway. One whose record is gone is acknowledged by nobody: it goes when [`UNFETCHED`] newer ones are there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::record::RunRecord;
use crate::host::{private_folder, remove, replace, try_lock};
use crate::manager::ManagerError;
use crate::wire::control::{Refusal, RefusalCode, RunId};

/// Ended runs that are kept.
const KEPT: usize = 16;
/// Likewise of those that nobody has acknowledged.
const UNFETCHED: usize = 64;
/// The file whose OS lock is the right to drive.
const LOCK: &str = "driver.lock";

/// The folder of a driven manager's runs.
#[derive(Debug, Clone)]
pub struct RunFiles {
    dir: PathBuf,
}

/// The right to drive the manager: ends with the process however that ends.
#[derive(Debug)]
#[must_use = "the right ends when this is dropped"]
pub struct DriverLock {
    _file: File,
}

impl RunFiles {
    /// Those in `dir`, which is made when something is to be kept.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    #[cfg(test)]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn failed(&self, what: &str, error: &io::Error) -> ManagerError {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => RefusalCode::NotAllowed,
            _ => RefusalCode::NotDurable,
        };
        let words = format!("cannot {what} in {}: {error}; nothing was changed since", self.dir.display());
        ManagerError::Refused(Refusal::new(code, words))
    }

    fn made(&self) -> Result<&Path, ManagerError> {
        private_folder(&self.dir).map_err(|error| self.failed("use the state directory", &error))?;
        Ok(&self.dir)
    }

    /// Whether there is a folder: without one nobody has driven the manager, and nobody does.
    pub fn is_made(&self) -> Result<bool, ManagerError> {
        self.dir.try_exists().map_err(|error| self.failed("look for runs", &error))
    }

    /// The right to drive; none if another process has it.
    pub fn try_drive(&self) -> Result<Option<DriverLock>, ManagerError> {
        let taken = try_lock(&self.made()?.join(LOCK));
        let taken = taken.map_err(|error| self.failed("take the driver's lock", &error))?;
        Ok(taken.map(|file| DriverLock { _file: file }))
    }

    /// Every run, the oldest first. A file that makes no sense is left alone and told.
    pub fn runs(&self) -> Result<Vec<RunRecord>, ManagerError> {
        let listed = match fs::read_dir(&self.dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("list runs", &error)),
        };
        let mut runs = Vec::new();
        for entry in listed {
            let path = entry.map_err(|error| self.failed("list runs", &error))?.path();
            if path.extension().is_none_or(|end| end != "run") {
                continue;
            }
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed("read a run", &error)),
            };
            match serde_json::from_slice::<RunRecord>(&text) {
                Ok(run) => runs.push(run),
                Err(error) => tracing::warn!(path = %path.display(), %error, "not a run of this version; left alone"),
            }
        }
        // The clock orders only what is not numbered.
        runs.sort_by_key(|run| (run.number, run.began_unix_ms, run.id().0));
        Ok(runs)
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("{run}.run"))
    }

    /// Makes a run durable as it is now.
    pub fn save(&self, run: &RunRecord) -> Result<(), ManagerError> {
        let failed = |error: io::Error| self.failed("write a run", &error);
        let text = serde_json::to_vec(run).map_err(|error| failed(error.into()))?;
        self.made()?;
        replace(&self.path(run.id()), &text, 0o600).map_err(failed)
    }

    fn abort_path(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("{run}.abort"))
    }

    /// Asks the process that drives a run to abort it, as long as the file is open. None: another one asks, or that process
    /// looks just now.
    pub fn ask_abort(&self, run: RunId) -> Result<Option<File>, ManagerError> {
        try_lock(&self.abort_path(run)).map_err(|error| self.failed("ask for an abort", &error))
    }

    /// Whether that is asked of it.
    pub fn is_abort_asked(&self, run: RunId) -> Result<bool, ManagerError> {
        let path = self.abort_path(run);
        let asked = path.try_exists().and_then(|exists| Ok(exists && try_lock(&path)?.is_none()));
        asked.map_err(|error| self.failed("look for an abort", &error))
    }

    /// Forgets a run: one that never touched anything, or that is old.
    pub fn forget(&self, run: RunId) -> Result<(), ManagerError> {
        let removed = remove(&self.path(run)).and_then(|()| remove(&self.abort_path(run)));
        removed.map_err(|error| self.failed("remove a run", &error))
    }

    /// The number of the next run.
    pub fn next_number(&self) -> Result<u64, ManagerError> {
        Ok(self.runs()?.last().map_or(1, |last| last.number.saturating_add(1)))
    }

    /// Forgets acknowledged runs beyond the last [`KEPT`] that ended, and any beyond the last [`UNFETCHED`].
    pub fn prune(&self) -> Result<(), ManagerError> {
        let ended: Vec<_> = self.runs()?.into_iter().filter(|run| !run.is_active()).collect();
        for (run, newer) in ended.iter().rev().zip(0..) {
            if newer >= if run.acknowledged { KEPT } else { UNFETCHED } {
                self.forget(run.id())?;
            }
        }
        Ok(())
    }
}
