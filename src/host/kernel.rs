//! The kernel's NFS server and its lock manager, lockd: in its files, and by netlink.
//!
//! Since Linux 6.10 the family `nfsd` tells NFSv4's server scope, and sets it in the step that starts the threads; every
//! write to the file `threads` makes it the host's name. Since 6.15 the family `lockd` has a length of grace, which wins
//! over `nlm_grace_period` if it is not 0. A kernel that does not know a family or a command says so, and then there
//! is no value.

use std::io;
use std::path::PathBuf;

use nix::libc;

use super::files::{FileError, Machine};
use crate::wire::netlink::Attribute;

/// Reads `N` while lockd is in grace.
pub const NLM_END_GRACE: &str = "proc/fs/lockd/nlm_end_grace";
/// Where nfs-utils keeps what is exported, with a path first in each line.
pub const ETAB: &str = "var/lib/nfs/etab";
/// The family of linux/nfsd_netlink.h, and its numbers.
pub const NFSD: &str = "nfsd";
/// Sets the threads, and what else goes with their start.
pub const THREADS_SET: u8 = 2;
/// Reads how many threads nfsd has.
pub const THREADS_GET: u8 = 3;
/// Threads of a pool; alone it is all threads, for all pools alike.
pub const SERVER_THREADS: u16 = 1;
/// NFSv4's server scope.
pub const SERVER_SCOPE: u16 = 4;
/// The family of linux/lockd_netlink.h (6.15), and its numbers.
pub const LOCKD: &str = "lockd";
/// Sets lockd's grace.
pub const SERVER_SET: u8 = 1;
/// Reads lockd's grace.
pub const SERVER_GET: u8 = 2;
/// Its length, in seconds; 0 where `nlm_grace_period` counts.
pub const SERVER_GRACE: u16 = 1;
/// Number of SIGKILL in the masks of `/proc/PID/status`, counted from 0.
const SIGKILL_BIT: u32 = 8;

/// The kernel thread that serves NLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockd {
    pub pid: i32,
    /// Whether it takes SIGKILL: it drops its locks and starts grace then. Linux 6.6 and newer
    /// ignore it.
    pub takes_kill: bool,
}

impl Machine {
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
    /// Whether one of them is.
    pub fn in_grace(&self) -> Result<bool, FileError> {
        Ok(self.nlm_in_grace()? || self.v4_in_grace()?)
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
    pub fn has_lockd(&self) -> bool {
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

    /// NFSv4's server scope; none where the kernel does not tell it.
    pub fn nfsd_scope(&self) -> Result<Option<String>, FileError> {
        let Some(told) = self.told(NFSD, THREADS_GET)? else { return Ok(None) };
        let scope = Attribute::find(&told, SERVER_SCOPE).and_then(Attribute::as_text);
        let odd = || FileError::Odd(NFSD.into(), "netlink tells no server scope that is text".into());
        Ok(Some(scope.ok_or_else(odd)?.to_owned()))
    }
    /// Starts nfsd's threads with this server scope, in one step. The kernel takes that only while there are none.
    pub fn start_nfsd(&self, threads: u32, scope: &str) -> Result<(), FileError> {
        let wanted = [Attribute::number(SERVER_THREADS, threads), Attribute::text(SERVER_SCOPE, scope)];
        self.ask(NFSD, THREADS_SET, &wanted).map(drop).map_err(failed("start by netlink", NFSD))
    }
    /// The length of lockd's grace that was set by netlink, in seconds; none where `nlm_grace_period` counts.
    pub fn lockd_grace(&self) -> Result<Option<u32>, FileError> {
        let Some(told) = self.told(LOCKD, SERVER_GET)? else { return Ok(None) };
        let seconds = Attribute::find(&told, SERVER_GRACE).and_then(Attribute::as_number);
        let odd = || FileError::Odd(LOCKD.into(), "netlink tells no length of grace".into());
        Ok(Some(seconds.ok_or_else(odd)?).filter(|seconds| *seconds > 0))
    }
    /// Sets it. In the first network namespace `nlm_grace_period` follows.
    pub fn set_lockd_grace(&self, seconds: u32) -> Result<(), FileError> {
        let wanted = [Attribute::number(SERVER_GRACE, seconds)];
        self.ask(LOCKD, SERVER_SET, &wanted).map(drop).map_err(failed("set the grace by netlink of", LOCKD))
    }

    fn told(&self, family: &'static str, command: u8) -> Result<Option<Vec<Attribute>>, FileError> {
        match self.ask(family, command, &[]) {
            Ok(told) => Ok(Some(told)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(failed("ask by netlink", family)(error)),
        }
    }
    fn ask(&self, family: &str, command: u8, attributes: &[Attribute]) -> io::Result<Vec<Attribute>> {
        match self.netlink() {
            Some(netlink) => netlink.ask(family, command, attributes),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }
}

fn failed(what: &'static str, family: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |error| FileError::Io(what, family.into(), error)
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
    use std::sync::Arc;

    use super::*;
    use crate::host::Netlink;

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

    /// A kernel that answers all alike.
    #[derive(Debug)]
    struct Always(Result<Vec<Attribute>, i32>);

    impl Netlink for Always {
        fn ask(&self, _: &str, _: u8, _: &[Attribute]) -> io::Result<Vec<Attribute>> {
            self.0.clone().map_err(io::Error::from_raw_os_error)
        }
    }

    fn machine(answer: Result<Vec<Attribute>, i32>) -> Machine {
        Machine::at("/nonexistent").answered_by(Arc::new(Always(answer)))
    }

    #[test]
    fn a_kernel_without_the_family_or_the_command_tells_nothing_and_any_other_refusal_is_an_error() {
        for error in [libc::ENOENT, libc::EOPNOTSUPP] {
            assert_eq!(machine(Err(error)).nfsd_scope().unwrap(), None);
            assert_eq!(machine(Err(error)).lockd_grace().unwrap(), None);
        }
        for error in [libc::EPERM, libc::EAFNOSUPPORT, libc::EAGAIN] {
            assert!(machine(Err(error)).nfsd_scope().is_err() && machine(Err(error)).lockd_grace().is_err());
        }
        assert_eq!(Machine::at("/nonexistent").nfsd_scope().unwrap(), None);
    }

    #[test]
    fn an_answer_without_what_was_asked_for_is_an_error_and_a_grace_of_0_is_none() {
        assert!(machine(Ok(vec![])).nfsd_scope().is_err() && machine(Ok(vec![])).lockd_grace().is_err());
        assert!(machine(Ok(vec![Attribute { kind: SERVER_SCOPE, value: vec![0xff, 0] }])).nfsd_scope().is_err());
        let grace = |seconds| machine(Ok(vec![Attribute::number(SERVER_GRACE, seconds)])).lockd_grace().unwrap();
        assert_eq!((grace(0), grace(45)), (None, Some(45)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_takes_kill(&text);
        }
    }
}
