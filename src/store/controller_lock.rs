//! The lock that allows one controller at a time.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::host::try_lock;
use crate::report::Controller;

/// The right to be a record's controller. It is an OS lock on the file beside the database, so it
/// ends with the process however that ends; the file itself stays (removing it would race with
/// a process that has just opened it).
#[derive(Debug)]
#[must_use = "the right ends when this is dropped"]
pub struct ControllerLock {
    _file: File,
}

impl ControllerLock {
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = path_of(database);
        let io = |source| StoreError::Io { path: path.clone(), source };
        let Some(mut file) = try_lock(&path).map_err(io)? else {
            let pid = File::open(&path).ok().and_then(|file| pid_in(&file));
            return Err(StoreError::ControllerActive { pid, path: database.to_owned() });
        };
        file.set_len(0).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }

    /// Who has that right now, which may be for another run of the record. Nothing is made or changed.
    pub(super) fn holder(database: &Path) -> io::Result<Controller> {
        let file = match File::open(path_of(database)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Controller::GONE),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Controller::GONE),
            // The number may be of another container: it is shown, and compared with nothing.
            Err(TryLockError::WouldBlock) => Ok(Controller { alive: true, pid: pid_in(&file) }),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn path_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// The holder writes its number just after it took the lock: it may not be there yet.
fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
