//! The folder of this host's rpc.statd (nfs-utils): monitor records in `sm/`, and the NSM state number
//! in `state`.
//!
//! # Which folder
//! nfs-utils is built for `/var/lib/nfs` (Debian) or for `/var/lib/nfs/statd` (Red Hat), and both may be
//! there. All take the first of these:
//! 1. the folder in which rpc.statd runs, which is right wherever it is;
//! 2. one with `sm/` and `state`: sm-notify makes the second, so it is in use, or was;
//! 3. one with `sm/`: nothing has run there yet.
//!
//! Of two that are alike `statd/` is first: only an nfs-utils that uses it makes it, while every one
//! makes `/var/lib/nfs`, for the exports.
//!
//! # The number
//! An int of the machine in four bytes. It is read as statd reads it: what follows is ignored, and an
//! even number (down) means the next odd one, which statd makes of it at its start. A raised number is
//! odd, and neither the file's nor the last that was told: clients ignore one that they know. A new file
//! replaces the old one, so that the number survives a crash of the machine; it keeps owner and mode,
//! since rpc.statd reads it as its own user. The kernel has a copy for the LOCK calls of this host's own
//! NFS client, which follows. Where that fails the number is good all the same: notices carry the file's.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Machine, replace};
use crate::wire::types::NsmState;

/// Where distributions have it, or have `statd/` in it.
const NFS: &str = "var/lib/nfs";
/// The kernel's copy of the state number.
const KERNELS_STATE: &str = "proc/sys/fs/nfs/nsm_local_state";
/// Everybody may read the number, as where nfs-utils makes the file.
const STATE_MODE: u32 = 0o644;

/// Why there is no folder or no number to be had, or it was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatdDirError {
    /// No statd has a folder here.
    #[error("rpc.statd has no folder `sm` in {nfs}/statd or {nfs}", nfs = .0.display())]
    NoFolder(PathBuf),
    /// The number was never made.
    #[error("there is no file `state` of rpc.statd in {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read rpc.statd's state number in {path}: {1}", path = .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// It has so few bytes.
    #[error("cannot read rpc.statd's state number in {path}: it has {1} bytes, not 4", path = .0.display())]
    TooShort(PathBuf, usize),
    /// It cannot be replaced.
    #[error("cannot write rpc.statd's state number to {path}: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// The folder.
#[derive(Debug, Clone)]
pub struct StatdDir {
    machine: Machine,
    dir: PathBuf,
}

/// Folders of a statd at `base`, the one to prefer first.
pub fn statd_folders(base: &Path) -> Vec<PathBuf> {
    [base.join("statd"), base.to_owned()].into_iter().filter(|folder| folder.join("sm").is_dir()).collect()
}

impl StatdDir {
    /// The folder that was named, or the one that is found.
    pub fn find(machine: &Machine, named: Option<&Path>) -> Result<Self, StatdDirError> {
        let found = || {
            let running = machine.named("rpc.statd").unwrap_or_default();
            let works = running.into_iter().filter_map(|pid| machine.working_folder(pid));
            let known = statd_folders(&machine.path(NFS));
            let used = known.iter().filter(|folder| folder.join("state").is_file());
            works.chain(used.chain(&known).cloned()).find(|folder| folder.join("sm").is_dir())
        };
        let dir = named.map(Path::to_owned).or_else(found);
        let dir = dir.ok_or_else(|| StatdDirError::NoFolder(machine.path(NFS)))?;
        Ok(Self { machine: machine.clone(), dir })
    }

    /// Which folder it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
    /// The folder of the monitor records.
    pub fn sm(&self) -> PathBuf {
        self.dir.join("sm")
    }
    fn state_file(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The state number.
    pub fn state(&self) -> Result<NsmState, StatdDirError> {
        let path = self.state_file();
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StatdDirError::Missing(self.dir.clone()),
            _ => StatdDirError::Unreadable(path.clone(), error),
        })?;
        let number = bytes.first_chunk().ok_or(StatdDirError::TooShort(path, bytes.len()))?;
        let state = NsmState(i32::from_ne_bytes(*number));
        Ok(if state.is_up() { state } else { state.next_up() })
    }

    /// Makes the number durable, and the kernel's.
    pub fn write_state(&self, state: NsmState) -> Result<(), StatdDirError> {
        let path = self.state_file();
        let written = replace(&path, &state.0.to_ne_bytes(), STATE_MODE);
        written.map_err(|source| StatdDirError::Write(path, source))?;
        self.machine.set_kernels_nsm_state(state);
        Ok(())
    }

    /// A number that differs from `last` and from what is in the file, durable in the file.
    pub fn raise_state(&self, last: NsmState) -> Result<NsmState, StatdDirError> {
        let next = self.state()?.next_up();
        let next = if next == last { next.next_up() } else { next };
        self.write_state(next)?;
        Ok(next)
    }
}

impl Machine {
    /// The kernel's copy of the state number; none where it has no lockd, or was not told any.
    pub fn kernels_nsm_state(&self) -> Option<NsmState> {
        let number: i64 = self.number(KERNELS_STATE).ok()?;
        // It is printed signed or unsigned, as the kernel's version has it.
        let signed = u32::try_from(number).map(u32::cast_signed).or_else(|_| i32::try_from(number)).ok()?;
        Some(NsmState(signed)).filter(|state| state.is_known())
    }

    /// Makes `state` the kernel's number. Where that is not possible it is said in the log.
    pub fn set_kernels_nsm_state(&self, state: NsmState) {
        match self.write(KERNELS_STATE, &state.to_string()) {
            Ok(()) => {}
            // No kernel lockd here: nobody has a copy.
            Err(error) if error.is_missing() => {}
            Err(error) => tracing::warn!(%error, "the kernel's copy of the NSM state number is old"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const KNOWN: [&str; 2] = ["var/lib/nfs/statd", "var/lib/nfs"];

    /// A machine with these folders, `+` with a state number.
    fn with_folders(folders: &[&str]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            let at = root.path().join(folder.trim_end_matches('+'));
            fs::create_dir_all(at.join("sm")).unwrap();
            if folder.ends_with('+') {
                fs::write(at.join("state"), 7_i32.to_ne_bytes()).unwrap();
            }
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    fn found(machine: &Machine) -> String {
        let dir = StatdDir::find(machine, None).unwrap();
        dir.path().strip_prefix(machine.path("")).unwrap().display().to_string()
    }

    #[test]
    fn red_hats_folder_is_found_and_debians() {
        for folder in KNOWN {
            assert_eq!(found(&with_folders(&[folder]).1), folder);
        }
        let error = StatdDir::find(&with_folders(&[]).1, None).unwrap_err().to_string();
        assert!(error.contains("var/lib/nfs"), "{error}");
    }

    #[test]
    fn of_both_layouts_the_one_in_use_is_taken_and_else_red_hats() {
        let (red_hat, debian) = (KNOWN[0], KNOWN[1]);
        assert_eq!(found(&with_folders(&KNOWN).1), red_hat);
        assert_eq!(found(&with_folders(&["var/lib/nfs+", red_hat]).1), debian, "no statd has run in the other");
        assert_eq!(found(&with_folders(&["var/lib/nfs", "var/lib/nfs/statd+"]).1), red_hat);
        assert_eq!(found(&with_folders(&["var/lib/nfs+", "var/lib/nfs/statd+"]).1), red_hat);
        let all = |machine: &Machine| statd_folders(&machine.path(NFS));
        let machine = with_folders(&KNOWN);
        assert_eq!(all(&machine.1), KNOWN.map(|folder| machine.1.path(folder)));
    }

    #[test]
    fn where_statd_runs_is_its_folder_whatever_else_is_there() {
        let (root, machine) = with_folders(&["var/lib/nfs+", "var/lib/nfs/statd+", "srv/statd"]);
        fs::create_dir_all(root.path().join("proc/7")).unwrap();
        fs::write(root.path().join("proc/7/comm"), "rpc.statd\n").unwrap();
        let works_in = |folder: &str| {
            let _ = fs::remove_file(root.path().join("proc/7/cwd"));
            symlink(root.path().join(folder), root.path().join("proc/7/cwd")).unwrap();
            found(&machine)
        };
        assert_eq!(works_in("srv/statd"), "srv/statd");
        assert_eq!(works_in("var/lib/nfs"), "var/lib/nfs");
        assert_eq!(works_in("elsewhere"), "var/lib/nfs/statd", "a container's folder is not there");
        assert_eq!(StatdDir::find(&machine, Some(Path::new("/named"))).unwrap().sm(), Path::new("/named/sm"));
    }

    fn with(bytes: &[u8]) -> (tempfile::TempDir, StatdDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state"), bytes).unwrap();
        let dir = StatdDir::find(&Machine::at(folder.path()), Some(folder.path())).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_number_is_read_as_statd_reads_it() {
        let read = |number: i32| with(&number.to_ne_bytes()).1.state().unwrap();
        assert_eq!((read(7), read(8), read(-3), read(0)), (NsmState(7), NsmState(9), NsmState(-3), NsmState(1)));
    }

    #[test]
    fn a_missing_number_a_short_one_and_one_that_cannot_be_read_are_told_apart() {
        let (folder, dir) = with(b"abc");
        assert!(matches!(dir.state(), Err(StatdDirError::TooShort(_, 3))));
        fs::remove_file(folder.path().join("state")).unwrap();
        assert!(matches!(dir.state(), Err(StatdDirError::Missing(_))));
        fs::create_dir(folder.path().join("state")).unwrap();
        assert!(matches!(dir.state(), Err(StatdDirError::Unreadable(..))));
    }

    #[test]
    fn a_raised_number_is_odd_and_neither_the_files_nor_the_last() {
        let (_folder, dir) = with(&7_i32.to_ne_bytes());
        assert_eq!(dir.raise_state(NsmState(7)).unwrap(), NsmState(9));
        assert_eq!(dir.state().unwrap(), NsmState(9), "and it is in the file");
        assert_eq!(dir.raise_state(NsmState(11)).unwrap(), NsmState(13), "11 is known already");
        assert_eq!(with(&i32::MAX.to_ne_bytes()).1.raise_state(NsmState(1)).unwrap(), NsmState(i32::MIN + 1));
    }

    #[test]
    fn the_file_stays_as_readable_as_it_was_and_the_kernel_has_its_copy() {
        let (folder, dir) = with(&7_i32.to_ne_bytes());
        let (state, kernels) = (folder.path().join("state"), folder.path().join(KERNELS_STATE));
        fs::create_dir_all(kernels.parent().unwrap()).unwrap();
        fs::write(&kernels, "7").unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o604)).unwrap();
        dir.write_state(NsmState(-9)).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o604);
        assert_eq!(fs::read_to_string(&kernels).unwrap(), "-9");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
        fs::remove_file(&state).unwrap();
        dir.write_state(NsmState(3)).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o644, "one that was not there");
    }

    #[test]
    fn the_kernel_prints_its_number_signed_or_unsigned() {
        let (folder, dir) = with(&[]);
        let kernels = folder.path().join(KERNELS_STATE);
        fs::create_dir_all(kernels.parent().unwrap()).unwrap();
        for (text, number) in
            [("4294967255\n", Some(-41)), ("-41", Some(-41)), ("41", Some(41)), ("0", None), ("x", None)]
        {
            fs::write(&kernels, text).unwrap();
            assert_eq!(dir.machine.kernels_nsm_state(), number.map(NsmState), "{text}");
        }
    }
}
