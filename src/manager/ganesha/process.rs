//! The process of Ganesha, seen through /proc: its locks, its descriptors, its connections.
//!
//! Ganesha's VFS and XFS back ends hold each client's lock as an open file description (OFD) lock,
//! on a descriptor of its own for each owner and file. `/proc/locks` shows these without a process;
//! `/proc/PID/fdinfo` shows them with their descriptor, and so tells Ganesha's from another process's. The
//! kernel makes all of a descriptor's lines at once, so none is missed while other locks come and go.
//! Each descriptor of a released owner and file stays open (4.3 leaks it), without its lock.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::host::{FileError, Lock, Machine, SocketState, parse_locks};
use crate::manager::adapter::{LocalLock, Snapshot};

/// FSAL modules whose locks are OFD locks of Ganesha's process, and so are listed.
const LISTED: [&str; 2] = ["vfs", "xfs"];
/// FSAL modules without locks of their own: they lean on another one, or have no files.
const STACKED: [&str; 4] = ["mdcache", "null", "pseudo", "ror"];

/// /proc does not tell.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The process has ended.
    #[error("Ganesha's process {0} has ended")]
    Ended(i32),
    /// A file of it cannot be read, or not understood.
    #[error("cannot look at Ganesha's process {pid}: {error}")]
    Unreadable { pid: i32, error: FileError },
}

#[derive(Debug)]
pub(super) struct Server {
    machine: Machine,
    pid: i32,
}

/// Descriptors in use, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    pub(super) open: u64,
    pub(super) limit: u64,
}

/// Locks as they are seen on one descriptor after the other.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// All of them, and the descriptor that holds each. A descriptor of a released lock is not used
    /// again, since it leaks.
    pub(super) locks: Vec<(Lock, String)>,
    /// How many descriptors hold them: one for each owner and file.
    pub(super) descriptors: u64,
    /// The paths of their files.
    pub(super) paths: HashMap<String, String>,
}

impl Server {
    pub(super) fn of(pid: i32) -> Self {
        Self { machine: Machine::default(), pid }
    }

    /// What was read of it.
    fn seen<T>(&self, read: Result<T, FileError>) -> Result<T, ProcessError> {
        read.map_err(|error| match error {
            error if error.is_missing() => ProcessError::Ended(self.pid),
            error => ProcessError::Unreadable { pid: self.pid, error },
        })
    }

    fn read(&self, file: &str) -> Result<String, ProcessError> {
        self.seen(self.machine.read(&format!("proc/{}/{file}", self.pid)))
    }

    pub(super) fn life(&self) -> Result<String, ProcessError> {
        self.seen(self.machine.life(self.pid))
    }

    /// The FSAL modules it has loaded whose locks cannot be listed, `ceph` say.
    pub(super) fn unlisted(&self) -> Result<Vec<String>, ProcessError> {
        let maps = self.read("maps")?;
        let files = maps.lines().filter_map(|line| Path::new(line).file_name()?.to_str());
        let modules = files.filter_map(|name| name.strip_prefix("libfsal")?.split('.').next());
        let unknown: BTreeSet<&str> =
            modules.filter(|name| !LISTED.contains(name) && !STACKED.contains(name)).collect();
        Ok(unknown.into_iter().map(str::to_owned).collect())
    }

    pub(super) fn descriptors(&self) -> Result<Descriptors, ProcessError> {
        let open = self.seen(self.machine.list(&format!("proc/{}/fd", self.pid)))?.len() as u64;
        let limits = self.read("limits")?;
        let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        let limit = soft.and_then(|soft| if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() });
        let odd = || FileError::Odd("limits".into(), "no number of open files".into());
        Ok(Descriptors { open, limit: self.seen(limit.ok_or_else(odd))? })
    }

    pub(super) fn held(&self) -> Result<Held, ProcessError> {
        let folder = format!("proc/{}", self.pid);
        let mut held = Held::default();
        for descriptor in self.seen(self.machine.list(&format!("{folder}/fdinfo")))? {
            let text = match self.machine.read(&format!("{folder}/fdinfo/{descriptor}")) {
                Ok(text) => text,
                // Closed since it was listed.
                Err(FileError::Io(.., error)) if error.kind() == io::ErrorKind::NotFound => continue,
                error @ Err(_) => self.seen(error)?,
            };
            let locks = ofd_locks(&text);
            let Some(first) = locks.first() else { continue };
            held.descriptors += 1;
            if !held.paths.contains_key(&first.file)
                && let Ok(path) = std::fs::read_link(self.machine.path(&format!("{folder}/fd/{descriptor}")))
            {
                held.paths.insert(first.file.clone(), path.display().to_string());
            }
            held.locks.extend(locks.into_iter().map(|lock| (lock, descriptor.clone())));
        }
        Ok(held)
    }

    /// What this host's own processes lock. Theirs are the byte-range locks with a process number;
    /// OFD locks of others than Ganesha have none and are left out.
    fn local(&self) -> Result<Vec<LocalLock>, ProcessError> {
        // They are only named: none of them is counted.
        let listed = self.seen(self.machine.locks(|_| false))?.others.into_iter();
        let others = listed.filter(|lock| !lock.waits && !lock.is_ofd && lock.pid > 0 && lock.pid != self.pid);
        Ok(others.map(|other| LocalLock::new(other.lock, other.pid, self.machine.process_name(other.pid))).collect())
    }

    pub(super) fn sight(&self) -> Result<(Snapshot, Held), ProcessError> {
        let held = self.held()?;
        let locks = held.locks.iter().map(|(lock, _)| lock.clone()).collect();
        Ok((Snapshot { locks, local: self.local()?, ..Snapshot::default() }, held))
    }

    /// Its open TCP connections: the server address called, and the client's.
    pub(super) fn connections(&self) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        let sockets = self.seen(self.machine.sockets(&format!("proc/{}/net", self.pid), "tcp"))?.into_iter();
        let open = sockets.filter(|socket| socket.state == SocketState::Established);
        Ok(open.map(|socket| (socket.local, socket.remote)).collect())
    }

    pub(super) fn shares_network(&self) -> bool {
        self.machine.share_network(&self.pid.to_string(), "thread-self")
    }
}

/// The OFD locks in a descriptor's fdinfo (proc_pid_fdinfo(5)).
fn ofd_locks(fdinfo: &str) -> Vec<Lock> {
    let lines = fdinfo.lines().filter_map(|line| line.strip_prefix("lock:"));
    let listed = lines.flat_map(parse_locks).filter(|lock| lock.is_ofd && !lock.waits);
    listed.map(|lock| lock.lock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptors_locks_are_read_and_those_that_are_no_clients_are_not() {
        let fdinfo = "pos:\t0\nflags:\t0100002\nmnt_id:\t74\nino:\t2\n\
                      lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2a:2 0 9\n\
                      lock:\t2: OFDLCK ADVISORY  READ -1 00:2a:2 20 EOF\n\
                      lock:\t3: POSIX  ADVISORY  WRITE 19 00:28:19 0 EOF\n";
        let file = || "00:2a:2".to_owned();
        assert_eq!(
            ofd_locks(fdinfo),
            [
                Lock { file: file(), exclusive: true, start: 0, end: 9 },
                Lock { file: file(), exclusive: false, start: 20, end: u64::MAX }
            ]
        );
        assert_eq!(ofd_locks("pos:\t0\n"), []);
    }

    #[test]
    fn a_line_that_waits_is_no_lock() {
        let text = "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:1a:2 100 109\n\
                    lock:\t1: -> OFDLCK ADVISORY  WRITE -1 00:1a:2 0 9\n";
        let starts: Vec<_> = ofd_locks(text).iter().map(|lock| lock.start).collect();
        assert_eq!(starts, [100]);
    }

    #[test]
    fn a_process_sees_its_own_descriptors_and_network() {
        let own = Server::of(i32::try_from(std::process::id()).unwrap());
        let descriptors = own.descriptors().unwrap();
        assert!(descriptors.open > 0 && descriptors.open < descriptors.limit);
        assert!(own.shares_network());
        assert!(own.life().unwrap().len() > 36);
        assert_eq!(own.unlisted().unwrap(), [""; 0]);
    }
}
