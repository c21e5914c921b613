//! The NSM state number where rpc.statd of nfs-utils keeps it: a file `state` with a native int,
//! in `/var/lib/nfs` or `/var/lib/nfs/statd`.
//!
//! It is replaced as nfs-utils replaces it (a new file beside it, renamed over it), with the folder
//! synced besides: after [`StateFile::write`] the number survives a crash of the machine. The owner
//! of the file stays who it was: rpc.statd reads it as its own user. The kernel has a copy for the
//! LOCK calls of this host's own NFS client (`/proc/sys/fs/nfs/nsm_local_state`), which follows.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::wire::types::NsmState;

/// Where distributions have it.
const FOLDERS: [&str; 2] = ["/var/lib/nfs", "/var/lib/nfs/statd"];
/// Its name.
const NAME: &str = "state";
/// The kernel's copy.
const KERNEL: &str = "/proc/sys/fs/nfs/nsm_local_state";

/// Why there is no number to be had, or it was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateFileError {
    /// Nowhere.
    #[error("there is no file `state` of rpc.statd in {0}; start rpc.statd first, or name its folder with --statd-dir")]
    NotFound(String),
    /// It cannot be read.
    #[error("cannot read rpc.statd's state number in {path}: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It cannot be replaced.
    #[error("cannot write rpc.statd's state number to {path}: {reason}; nlmd must be able to replace that file")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    kernel: PathBuf,
}

impl StateFile {
    /// In `folder`, or where statd of nfs-utils has it.
    pub fn find(folder: Option<&Path>) -> Result<Self, StateFileError> {
        let folders: Vec<&Path> = folder.map_or_else(|| FOLDERS.map(Path::new).to_vec(), |folder| vec![folder]);
        let found = folders.iter().map(|folder| folder.join(NAME)).find(|path| path.is_file());
        let path = found.ok_or_else(|| {
            let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            StateFileError::NotFound(searched.join(" or "))
        })?;
        Ok(Self { path, kernel: KERNEL.into() })
    }

    /// Which file it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number, as statd understands it: an even one means the next odd one.
    pub fn read(&self) -> Result<NsmState, StateFileError> {
        let unreadable = |reason: String| StateFileError::Read { path: self.path.clone(), reason };
        let bytes = std::fs::read(&self.path).map_err(|error| unreadable(error.to_string()))?;
        let number = bytes.first_chunk().ok_or_else(|| unreadable(format!("it has {} bytes, not 4", bytes.len())))?;
        let state = NsmState(i32::from_ne_bytes(*number));
        Ok(if state.is_up() { state } else { state.next_up() })
    }

    /// Makes the number durable.
    pub fn write(&self, state: NsmState) -> Result<(), StateFileError> {
        self.replace(state)
            .map_err(|error| StateFileError::Write { path: self.path.clone(), reason: error.to_string() })?;
        match OpenOptions::new().write(true).open(&self.kernel).and_then(|mut file| write!(file, "{}", state.0)) {
            Ok(()) => {}
            // No kernel lockd here: nobody has a copy.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.kernel.display(), %error, "the kernel's copy of the NSM state number is old");
            }
        }
        Ok(())
    }

    /// A number that differs from `last` and from what is in the file, durable in the file.
    pub fn raise(&self, last: NsmState) -> Result<NsmState, StateFileError> {
        let next = self.read()?.next_up();
        let next = if next == last { next.next_up() } else { next };
        self.write(next)?;
        Ok(next)
    }

    fn replace(&self, state: NsmState) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let owner = std::fs::metadata(&self.path)?;
        let mut draft = tempfile::Builder::new().prefix(".state-").tempfile_in(folder)?;
        draft.write_all(&state.0.to_ne_bytes())?;
        draft.as_file().set_permissions(Permissions::from_mode(owner.mode() & 0o777))?;
        let draft_owner = draft.as_file().metadata()?;
        if (owner.uid(), owner.gid()) != (draft_owner.uid(), draft_owner.gid()) {
            fchown(draft.as_file(), Some(owner.uid()), Some(owner.gid()))?;
        }
        draft.as_file().sync_all()?;
        draft.persist(&self.path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8]) -> (tempfile::TempDir, StateFile) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), bytes).unwrap();
        let kernel = folder.path().join("kernel");
        let file = StateFile { kernel, ..StateFile::find(Some(folder.path())).unwrap() };
        (folder, file)
    }

    #[test]
    fn a_number_is_read_as_statd_reads_it() {
        let read = |number: i32| with(&number.to_ne_bytes()).1.read().unwrap();
        assert_eq!((read(7), read(8), read(-3), read(0)), (NsmState(7), NsmState(9), NsmState(-3), NsmState(1)));
        assert!(with(b"abc").1.read().is_err());
    }

    #[test]
    fn a_raised_number_is_odd_and_neither_the_files_nor_the_last() {
        let (_folder, file) = with(&7_i32.to_ne_bytes());
        assert_eq!(file.raise(NsmState(7)).unwrap(), NsmState(9));
        assert_eq!(file.read().unwrap(), NsmState(9), "and it is in the file");
        assert_eq!(file.raise(NsmState(11)).unwrap(), NsmState(13), "11 is known already");
        assert_eq!(with(&i32::MAX.to_ne_bytes()).1.raise(NsmState(1)).unwrap(), NsmState(i32::MIN + 1));
    }

    #[test]
    fn the_file_stays_as_readable_as_it_was_and_the_kernel_has_its_copy() {
        let (folder, file) = with(&7_i32.to_ne_bytes());
        std::fs::write(&file.kernel, "7").unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(0o604)).unwrap();
        file.write(NsmState(-9)).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().mode() & 0o777, 0o604);
        assert_eq!(std::fs::read_to_string(&file.kernel).unwrap(), "-9");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn a_folder_without_it_is_said_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = StateFile::find(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("--statd-dir") && error.contains(&folder.path().display().to_string()), "{error}");
    }
}
