//! Whether lockd is still the one that the filter was started for, and outside its own grace period.
//!
//! It is asked before each batch of verdicts, so the files stay open: of one process, `/proc/PID/stat` tells nothing any more
//! when that has ended, also when another one has its number by then. nfsd's grace counts for lockd too; its file must be
//! opened for each look, so it is looked at now and then.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::host::{FileError, Machine, NLM_END_GRACE};

/// The lockd that the filter is in front of.
#[derive(Debug)]
pub(super) struct Lockd {
    pub(super) machine: Machine,
    grace: File,
    stat: File,
}

impl Lockd {
    /// The one that there is.
    ///
    /// # Errors
    /// There is none, or it cannot be seen.
    pub(super) fn find(machine: Machine) -> Result<Self, FileError> {
        let none = || FileError::Odd(machine.path("proc"), "the kernel's lockd is not there".into());
        let pid = machine.lockd()?.ok_or_else(none)?.pid;
        let open = |file: &str| {
            let path = machine.path(file);
            File::open(&path).map_err(FileError::read(&path))
        };
        let (grace, stat) = (open(NLM_END_GRACE)?, open(&format!("proc/{pid}/stat"))?);
        Ok(Self { machine, grace, stat })
    }

    /// Why what the filter does would do harm from now on.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        let mut word = [0];
        if !matches!(self.stat.read_at(&mut word, 0), Ok(1)) {
            return Some("the lockd that the filter was in front of has ended");
        }
        match self.grace.read_at(&mut word, 0) {
            Ok(1) if word == *b"Y" => None,
            Ok(1) => Some("lockd is in a grace period of its own"),
            Ok(_) | Err(_) => Some("lockd does not tell whether it is in a grace period of its own"),
        }
    }

    /// The same of nfsd.
    pub(super) fn obstacle_of_nfsd(&self) -> Option<&'static str> {
        match self.machine.v4_in_grace() {
            Ok(false) => None,
            Ok(true) => Some("nfsd is in a grace period of its own"),
            Err(_) => Some("nfsd does not tell whether it is in a grace period of its own"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_lockd_and_a_grace_of_its_own_are_obstacles() {
        let (_root, machine) = Machine::fake(&[("proc/1/comm", "init\n")]);
        let write = |file: &str, text: &str| machine.lay(file, text);
        let find = || Lockd::find(machine.clone());
        assert!(find().is_err());
        write("proc/187/comm", "lockd\n");
        write("proc/187/status", "Name:\tlockd\n");
        write("proc/187/stat", "187 (lockd) S 2 0 0 0 -1 2097216 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0");
        assert!(find().is_err(), "without its file of grace");
        write(NLM_END_GRACE, "Y\n");
        let lockd = find().unwrap();
        assert_eq!((lockd.obstacle(), lockd.obstacle_of_nfsd()), (None, None));
        write("proc/fs/nfsd/v4_end_grace", "N\n");
        assert!(lockd.obstacle_of_nfsd().is_some());
        write(NLM_END_GRACE, "N\n");
        assert_eq!(lockd.obstacle(), Some("lockd is in a grace period of its own"));
        write(NLM_END_GRACE, "Y\n");
        write("proc/187/stat", "");
        assert_eq!(lockd.obstacle(), Some("the lockd that the filter was in front of has ended"));
    }
}
