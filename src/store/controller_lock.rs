//! The lock that allows one controller at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::host::try_lock;

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
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let io = |source| StoreError::Io { path: path.clone(), source };
        let Some(mut file) = try_lock(&path).map_err(io)? else {
            // The holder writes its number just after it took the lock: it may not be there yet.
            let mut text = String::new();
            let _ = File::open(&path).and_then(|holder| holder.take(32).read_to_string(&mut text));
            return Err(StoreError::ControllerActive { pid: text.trim().parse().ok(), path: database.to_owned() });
        };
        file.set_len(0).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}
