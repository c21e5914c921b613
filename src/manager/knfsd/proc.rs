//! What the kernel says of its lock manager, in files.
//!
//! All of it is text for people with a fixed form; what does not have that form is told, not guessed.
//! The functions with `parse` in their names are pure.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::KnfsdError;
use crate::manager::driven::{LocalLock, Lock, Sight};

/// Longest file that is read, in bytes: a million locks.
const MAX_FILE: u64 = 128 << 20;
/// Number of SIGKILL in the masks of `/proc/PID/status`, counted from 0.
const SIGKILL_BIT: u32 = 8;

/// The kernel's files, below a root: `/` outside tests.
#[derive(Debug, Clone)]
pub(super) struct Proc {
    root: PathBuf,
}

/// The kernel thread that serves NLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lockd {
    /// Its process number.
    pub(super) pid: i32,
    /// When it started, in ticks since boot.
    pub(super) start: u64,
    /// Whether it takes SIGKILL: it drops its locks and starts grace then. Linux 6.4 and newer
    /// ignore it.
    pub(super) takes_kill: bool,
}

impl Default for Proc {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Proc {
    /// Below `root`.
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    /// A file, by its path without the leading slash.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }
    /// The text of a file; bytes that are no UTF-8 become `U+FFFD`.
    pub(super) fn read(&self, file: &str) -> Result<String, KnfsdError> {
        use std::io::Read;
        let path = self.path(file);
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|opened| opened.take(MAX_FILE).read_to_end(&mut bytes))
            .map_err(KnfsdError::read(&path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    /// The text without what is around it: some of these files end in a zero byte.
    pub(super) fn word(&self, file: &str) -> Result<String, KnfsdError> {
        Ok(self.read(file)?.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }
    /// A number.
    pub(super) fn number<T: std::str::FromStr>(&self, file: &str) -> Result<T, KnfsdError> {
        let word = self.word(file)?;
        word.parse().map_err(|_| KnfsdError::Odd { path: self.path(file), what: format!("{word:?} is no number") })
    }
    /// Writes in one call, which is what these files want.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<(), KnfsdError> {
        let path = self.path(file);
        let mut opened = fs::OpenOptions::new().write(true).open(&path).map_err(KnfsdError::write(&path))?;
        let written = opened.write(text.as_bytes()).map_err(KnfsdError::write(&path))?;
        if written < text.len() {
            return Err(KnfsdError::write(&path)(io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }

    /// How many nfsd threads there are.
    pub(super) fn threads(&self) -> Result<u32, KnfsdError> {
        self.number("proc/fs/nfsd/threads")
    }
    /// Whether lockd's own grace period is on.
    pub(super) fn nlm_in_grace(&self) -> Result<bool, KnfsdError> {
        Ok(self.word("proc/fs/lockd/nlm_end_grace")? == "N")
    }
    /// Whether nfsd's is, which refuses NLM locks too.
    pub(super) fn v4_in_grace(&self) -> Result<bool, KnfsdError> {
        match self.word("proc/fs/nfsd/v4_end_grace") {
            Ok(word) => Ok(word == "N"),
            // A kernel without NFSv4.
            Err(KnfsdError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
    /// This boot's number.
    pub(super) fn boot_id(&self) -> Result<String, KnfsdError> {
        self.word("proc/sys/kernel/random/boot_id")
    }
    /// The kernel's version.
    pub(super) fn release(&self) -> Result<String, KnfsdError> {
        self.word("proc/sys/kernel/osrelease")
    }
    /// Whether this process is in the network namespace that the kernel began with: lockd's answer
    /// to a signal is for that one.
    pub(super) fn in_first_netns(&self) -> bool {
        let of = |process: &str| fs::read_link(self.path(&format!("proc/{process}/ns/net")));
        matches!((of("1"), of("self")), (Ok(first), Ok(own)) if first == own)
    }

    fn process_ids(&self) -> Result<Vec<i32>, KnfsdError> {
        let path = self.path("proc");
        let listed = fs::read_dir(&path).map_err(KnfsdError::read(&path))?;
        Ok(listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }
    /// A process' name, as the kernel shows it.
    pub(super) fn comm(&self, pid: i32) -> Option<String> {
        self.word(&format!("proc/{pid}/comm")).ok()
    }
    /// The processes of a name.
    pub(super) fn named(&self, name: &str) -> Result<Vec<i32>, KnfsdError> {
        let mut pids = self.process_ids()?;
        pids.retain(|&pid| self.comm(pid).as_deref() == Some(name));
        Ok(pids)
    }
    /// The kernel's lockd; none if there is none, or it cannot be seen from this process namespace.
    pub(super) fn lockd(&self) -> Result<Option<Lockd>, KnfsdError> {
        for pid in self.named("lockd")? {
            // It may end while it is looked at.
            let (Ok(stat), Ok(status)) =
                (self.read(&format!("proc/{pid}/stat")), self.read(&format!("proc/{pid}/status")))
            else {
                continue;
            };
            if let Some((parent, start)) = parse_stat(&stat)
                && is_kernel_thread(parent)
            {
                return Ok(Some(Lockd { pid, start, takes_kill: parse_takes_kill(&status) }));
            }
        }
        Ok(None)
    }

    /// What is locked.
    pub(super) fn sight(&self) -> Result<Sight, KnfsdError> {
        Ok(self.sight_and_waiting()?.0)
    }
    /// What is locked, and what clients wait for.
    pub(super) fn sight_and_waiting(&self) -> Result<(Sight, Vec<Lock>), KnfsdError> {
        let text = self.read("proc/locks")?;
        // Looked up after the list was read: lockd's number is in it.
        let lockd: Vec<i32> = self.named("lockd")?;
        Ok(parse_locks(&text, &lockd, |pid| self.comm(pid)))
    }
}

/// Kernel threads are children of kthreadd.
fn is_kernel_thread(parent: i32) -> bool {
    parent == 2
}

/// Parent and start of a process, from its `stat`: the name in it may have blanks and brackets.
fn parse_stat(stat: &str) -> Option<(i32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// Whether a process that says this in its `status` catches SIGKILL: only a kernel thread can.
fn parse_takes_kill(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> SIGKILL_BIT & 1 == 1)
}

/// The byte-range locks in the text of `/proc/locks` (proc(5)). Those of lockd are clients'; it shows
/// its own number for each. flock(2) locks and leases are no byte-range locks and meet none.
pub(super) fn parse_locks(text: &str, lockd: &[i32], comm: impl Fn(i32) -> Option<String>) -> (Sight, Vec<Lock>) {
    let (mut sight, mut waiting) = (Sight::default(), Vec::new());
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
        let waits = fields.first() == Some(&"->");
        if waits {
            fields.remove(0);
        }
        let [kind, _, mode, pid, file, start, end] = fields.as_slice() else { continue };
        if !matches!(*kind, "POSIX" | "OFDLCK") {
            continue;
        }
        let (Ok(pid), Ok(start)) = (pid.parse(), start.parse()) else { continue };
        let Some(end) = (if *end == "EOF" { Some(u64::MAX) } else { end.parse().ok() }) else { continue };
        let is_client = lockd.contains(&pid);
        let lock = Lock { file: (*file).to_owned(), exclusive: *mode == "WRITE", start, end };
        if waits {
            if is_client {
                waiting.push(lock);
            }
        } else if is_client {
            sight.locks.push(lock);
        } else {
            let process = comm(pid).unwrap_or_else(|| "not known".to_owned());
            sight.local.push(LocalLock { lock, pid, process });
        }
    }
    sight.waiters = waiting.len() as u64;
    (sight, waiting)
}

/// A path as it is shown.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a server with Linux 6.12, with a blocked request and a local process added.
    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 187 00:1a:2 100 109
1: -> POSIX  ADVISORY  WRITE 187 00:1a:2 100 109
1: -> POSIX  ADVISORY  WRITE 401 00:1a:2 100 109
2: POSIX  ADVISORY  WRITE 187 00:1a:3 0 EOF
3: POSIX  ADVISORY  READ  187 00:1a:2 0 9
4: FLOCK  ADVISORY  WRITE 178 00:18:3 0 EOF
5: POSIX  ADVISORY  WRITE 400 00:1a:4 5 5
6: OFDLCK ADVISORY  READ  -1 00:1a:5 0 EOF
7: LEASE  ACTIVE    READ 9 08:01:77 0 EOF
";

    fn lock(file: &str, exclusive: bool, start: u64, end: u64) -> Lock {
        Lock { file: file.into(), exclusive, start, end }
    }

    #[test]
    fn locks_of_lockd_are_clients_and_all_others_are_local() {
        let (sight, waiting) = parse_locks(LOCKS, &[187], |pid| (pid == 400).then(|| "locker".to_owned()));
        assert_eq!(
            sight.locks,
            [lock("00:1a:2", true, 100, 109), lock("00:1a:3", true, 0, u64::MAX), lock("00:1a:2", false, 0, 9)]
        );
        assert_eq!((sight.waiters, waiting), (1, vec![lock("00:1a:2", true, 100, 109)]));
        let local: Vec<_> = sight.local.iter().map(|l| (l.pid, l.process.as_str(), l.lock.clone())).collect();
        assert_eq!(
            local,
            [(400, "locker", lock("00:1a:4", true, 5, 5)), (-1, "not known", lock("00:1a:5", false, 0, u64::MAX))]
        );
    }

    #[test]
    fn without_lockd_no_lock_is_a_clients() {
        assert_eq!(parse_locks(LOCKS, &[], |_| None).0.locks, []);
    }

    #[test]
    fn a_name_with_brackets_does_not_hide_parent_and_start() {
        let rest = "I 2 0 0 0 -1 2097216 0 0 0 0 0 3 0 0 20 0 1 0 2032 0 0 18446744073709551615";
        assert_eq!(parse_stat(&format!("187 (lockd) {rest}")), Some((2, 2032)));
        assert_eq!(parse_stat(&format!("187 (a) b (c) {rest}")), Some((2, 2032)));
        assert_eq!(parse_stat("187 (lockd) I 2"), None);
    }

    #[test]
    fn whether_lockd_takes_a_kill_is_in_its_signal_mask() {
        let status = |ignored: &str, caught: &str| format!("Name:\tlockd\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n");
        // Linux 6.1, Linux 6.12.
        assert!(parse_takes_kill(&status("fffffffffffffeff", "0000000000000100")));
        assert!(!parse_takes_kill(&status("ffffffffffffffff", "0000000000000000")));
        assert!(!parse_takes_kill("odd"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_locks(&text, &[1], |_| None);
            let _ = parse_stat(&text);
            let _ = parse_takes_kill(&text);
        }
    }
}
