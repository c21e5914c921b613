//! The kernel's NFS server and its lock manager, lockd.

use std::path::PathBuf;

use super::files::{FileError, Machine};

/// Reads `N` while lockd is in grace.
pub const NLM_END_GRACE: &str = "proc/fs/lockd/nlm_end_grace";
/// Where nfs-utils keeps what is exported, with a path first in each line.
pub const ETAB: &str = "var/lib/nfs/etab";
/// Number of SIGKILL in the masks of `/proc/PID/status`, counted from 0.
const SIGKILL_BIT: u32 = 8;

/// The kernel thread that serves NLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockd {
    /// Its process number.
    pub pid: i32,
    /// Whether it takes SIGKILL: it drops its locks and starts grace then. Linux 6.6 and newer
    /// ignore it.
    pub takes_kill: bool,
}

impl Machine {
    /// The kernel's version.
    pub fn release(&self) -> Result<String, FileError> {
        self.word("proc/sys/kernel/osrelease")
    }
    /// How many nfsd threads there are.
    pub fn nfsd_threads(&self) -> Result<u32, FileError> {
        self.number("proc/fs/nfsd/threads")
    }
    /// Whether lockd's own grace period is on.
    pub fn nlm_in_grace(&self) -> Result<bool, FileError> {
        Ok(self.word(NLM_END_GRACE)? == "N")
    }
    /// Whether nfsd's is, which refuses NLM locks too.
    pub fn v4_in_grace(&self) -> Result<bool, FileError> {
        match self.word("proc/fs/nfsd/v4_end_grace") {
            Ok(word) => Ok(word == "N"),
            // A kernel without NFSv4.
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
    /// How many NFSv4 clients have state at nfsd. The list of them appeared with Linux 5.3.
    pub fn v4_clients(&self) -> Result<usize, FileError> {
        Ok(self.list("proc/fs/nfsd/clients")?.len())
    }
    /// The paths in a list of exports: the kernel's own, or [`ETAB`].
    pub fn exports(&self, list: &str) -> Vec<PathBuf> {
        let text = self.read(list).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_ascii_whitespace().next()).map(PathBuf::from).collect()
    }
    /// Whether the kernel's lockd is loaded.
    pub(super) fn has_lockd(&self) -> bool {
        self.path("proc/fs/lockd").exists()
    }
    /// The kernel's lockd; none if there is none, or it cannot be seen from this process namespace.
    pub fn lockd(&self) -> Result<Option<Lockd>, FileError> {
        for pid in self.kernel_threads("lockd")? {
            // It may end while it is looked at.
            if let Ok(status) = self.read(&format!("proc/{pid}/status")) {
                return Ok(Some(Lockd { pid, takes_kill: parse_takes_kill(&status) }));
            }
        }
        Ok(None)
    }
}

/// Whether a process that says this in its `status` catches SIGKILL: only a kernel thread can.
fn parse_takes_kill(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> SIGKILL_BIT & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_lockd_takes_a_kill_is_in_its_signal_mask() {
        let status = |ignored: &str, caught: &str| format!("Name:\tlockd\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n");
        // Linux 6.1, Linux 6.12.
        assert!(parse_takes_kill(&status("fffffffffffffeff", "0000000000000100")));
        assert!(!parse_takes_kill(&status("ffffffffffffffff", "0000000000000000")));
        assert!(!parse_takes_kill("odd"));
    }

    #[test]
    fn a_program_that_calls_itself_lockd_is_not_the_kernels() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::at(root.path());
        let process = |pid: i32, flags: u32| {
            let dir = root.path().join(format!("proc/{pid}"));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("comm"), "lockd\n").unwrap();
            std::fs::write(dir.join("status"), "Name:\tlockd\nUid:\t0\t0\t0\t0\nSigCgt:\t0\n").unwrap();
            // Helpers that the kernel starts have its kthreadd as their parent too.
            let stat = format!("{pid} (lockd) S 2 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0");
            std::fs::write(dir.join("stat"), stat).unwrap();
        };
        process(90, 4_194_560);
        assert_eq!((machine.lockd().unwrap(), machine.kernel_threads("lockd").unwrap()), (None, vec![]));
        process(187, 2_097_216);
        assert_eq!(machine.lockd().unwrap(), Some(Lockd { pid: 187, takes_kill: false }));
        assert_eq!(machine.kernel_threads("lockd").unwrap(), [187]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_takes_kill(&text);
        }
    }
}
