//! The process of Ganesha, seen through /proc: its locks, its descriptors, its connections.
//!
//! Ganesha's VFS and XFS back ends hold each client's lock as an open file description (OFD) lock,
//! on a descriptor of its own for each owner and file. `/proc/locks` shows these without a process;
//! `/proc/PID/fdinfo` shows them with their descriptor, and so tells Ganesha's from anybody else's.
//! Each descriptor of a released owner and file stays open (4.3 leaks it), without its lock.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use procfs::process::{LimitValue, MMapPath, Process};
use procfs::{FromBufRead, Locks, ProcError};

use crate::manager::driven::{LocalLock, Lock, Sight};

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
    Unreadable {
        /// Which process.
        pid: i32,
        /// Why.
        error: ProcError,
    },
}

/// A process, and the paths of the files it was seen to lock.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
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
    pub(super) fn of(pid: i32) -> Result<Self, ProcessError> {
        let process = Process::new(pid).map_err(failed(pid))?;
        Ok(Self { process })
    }

    fn failed(&self) -> impl FnOnce(ProcError) -> ProcessError + use<> {
        failed(self.process.pid())
    }

    /// Words that differ for every start of a Ganesha.
    pub(super) fn life(&self) -> Result<String, ProcessError> {
        let started = self.process.stat().map_err(self.failed())?.starttime;
        // Process numbers and start times begin anew with each boot.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(format!("{} {} {started}", boot.trim(), self.process.pid()))
    }

    /// The FSAL modules it has loaded, `vfs` say.
    fn modules(&self) -> Result<BTreeSet<String>, ProcessError> {
        let maps = self.process.maps().map_err(self.failed())?;
        let libraries = maps.iter().filter_map(|map| match &map.pathname {
            MMapPath::Path(path) => path.file_name()?.to_str(),
            _ => None,
        });
        let modules = libraries.filter_map(|name| Some(name.strip_prefix("libfsal")?.split('.').next()?.to_owned()));
        Ok(modules.collect())
    }

    /// Of those, the ones whose locks cannot be listed.
    pub(super) fn unlisted(&self) -> Result<Vec<String>, ProcessError> {
        let known = |name: &String| LISTED.contains(&name.as_str()) || STACKED.contains(&name.as_str());
        Ok(self.modules()?.into_iter().filter(|name| !known(name)).collect())
    }

    /// How many descriptors it has, and may have.
    pub(super) fn descriptors(&self) -> Result<Descriptors, ProcessError> {
        let open = self.process.fd_count().map_err(self.failed())? as u64;
        let limit = match self.process.limits().map_err(self.failed())?.max_open_files.soft_limit {
            LimitValue::Value(limit) => limit,
            LimitValue::Unlimited => u64::MAX,
        };
        Ok(Descriptors { open, limit })
    }

    /// Its clients' locks.
    pub(super) fn held(&self) -> Result<Held, ProcessError> {
        let root = PathBuf::from(format!("/proc/{}", self.process.pid()));
        let listed = fs::read_dir(root.join("fdinfo")).map_err(ProcError::from).map_err(self.failed())?;
        let mut held = Held::default();
        for entry in listed {
            let entry = entry.map_err(ProcError::from).map_err(self.failed())?;
            let text = match fs::read_to_string(entry.path()) {
                Ok(text) => text,
                // Closed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed()(error.into())),
            };
            let locks = ofd_locks(&text).map_err(self.failed())?;
            let Some(first) = locks.first() else { continue };
            held.descriptors += 1;
            if !held.paths.contains_key(&first.file)
                && let Ok(path) = fs::read_link(root.join("fd").join(entry.file_name()))
            {
                held.paths.insert(first.file.clone(), path.display().to_string());
            }
            let descriptor = entry.file_name().to_string_lossy().into_owned();
            held.locks.extend(locks.into_iter().map(|lock| (lock, descriptor.clone())));
        }
        Ok(held)
    }

    /// What this host's own processes lock. Theirs are the byte-range locks with a process number;
    /// OFD locks of others than Ganesha have none and are left out.
    pub(super) fn local(&self) -> Result<Vec<LocalLock>, ProcessError> {
        let text = fs::read_to_string("/proc/locks").map_err(ProcError::from).map_err(self.failed())?;
        let own = self.process.pid();
        let others = granted(&text).map_err(self.failed())?.into_iter().filter_map(|lock| {
            let pid = lock.pid.filter(|&pid| pid > 0 && pid != own)?;
            (lock.lock_type == procfs::LockType::Posix).then(|| {
                let process = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "not known".into());
                LocalLock { lock: lock_of(&lock), pid, process: process.trim().to_owned() }
            })
        });
        Ok(others.collect())
    }

    /// Everything that is locked.
    pub(super) fn sight(&self) -> Result<(Sight, Held), ProcessError> {
        let held = self.held()?;
        Ok((
            Sight {
                locks: held.locks.iter().map(|(lock, _)| lock.clone()).collect(),
                local: self.local()?,
                waiters: 0,
            },
            held,
        ))
    }

    /// Its open TCP connections: the server address called, and the client's.
    pub(super) fn connections(&self) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        let (v4, v6) = (self.process.tcp().map_err(self.failed())?, self.process.tcp6().unwrap_or_default());
        let open = v4.into_iter().chain(v6).filter(|entry| entry.state == procfs::net::TcpState::Established);
        Ok(open.map(|entry| (entry.local_address, entry.remote_address)).collect())
    }

    /// Whether this process is in the same network namespace.
    pub(super) fn shares_network(&self) -> bool {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        of(&self.process.pid().to_string()) == of("thread-self")
    }
}

fn failed(pid: i32) -> impl FnOnce(ProcError) -> ProcessError {
    move |error| match error {
        ProcError::NotFound(_) => ProcessError::Ended(pid),
        // ESRCH: it ended while it was looked at.
        ProcError::Io(error, _) if error.raw_os_error() == Some(nix::libc::ESRCH) => ProcessError::Ended(pid),
        error => ProcessError::Unreadable { pid, error },
    }
}

/// The locks in the text of a /proc/locks that are held, not waited for.
fn granted(text: &str) -> Result<Vec<procfs::Lock>, ProcError> {
    let held: String = text.lines().filter(|line| !line.contains("->")).flat_map(|line| [line, "\n"]).collect();
    Ok(Locks::from_buf_read(held.as_bytes())?.0)
}

/// The OFD locks in a descriptor's fdinfo (proc_pid_fdinfo(5)).
fn ofd_locks(fdinfo: &str) -> Result<Vec<Lock>, ProcError> {
    let lines: String =
        fdinfo.lines().filter_map(|line| line.strip_prefix("lock:")).flat_map(|line| [line, "\n"]).collect();
    let locks = granted(&lines)?;
    Ok(locks.iter().filter(|lock| lock.lock_type == procfs::LockType::ODF).map(lock_of).collect())
}

fn lock_of(lock: &procfs::Lock) -> Lock {
    Lock {
        file: format!("{:02x}:{:02x}:{}", lock.devmaj, lock.devmin, lock.inode),
        exclusive: matches!(lock.kind, procfs::LockKind::Write),
        start: lock.offset_first,
        end: lock.offset_last.unwrap_or(u64::MAX),
    }
}

/// The addresses of this host.
pub(super) fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.insert(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found.insert(IpAddr::V6(v6.ip()));
        }
    }
    Ok(found)
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
            ofd_locks(fdinfo).unwrap(),
            [
                Lock { file: file(), exclusive: true, start: 0, end: 9 },
                Lock { file: file(), exclusive: false, start: 20, end: u64::MAX }
            ]
        );
        assert_eq!(ofd_locks("pos:\t0\n").unwrap(), []);
    }

    #[test]
    fn a_line_that_waits_is_no_lock() {
        let text = "1: POSIX  ADVISORY  WRITE 7 00:1a:2 100 109\n1: -> POSIX  ADVISORY  WRITE 8 00:1a:2 100 109\n";
        let pids: Vec<_> = granted(text).unwrap().iter().map(|lock| lock.pid).collect();
        assert_eq!(pids, [Some(7)]);
    }

    #[test]
    fn this_host_has_its_loopback_address() {
        assert!(own_addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn a_process_sees_its_own_descriptors_and_network() {
        let own = Server::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let descriptors = own.descriptors().unwrap();
        assert!(descriptors.open > 0 && descriptors.open < descriptors.limit);
        assert!(own.shares_network());
        assert!(own.life().unwrap().len() > 36);
        assert_eq!(own.unlisted().unwrap(), [""; 0]);
    }
}
