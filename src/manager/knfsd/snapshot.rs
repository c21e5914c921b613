//! Locks, and waiting requests of clients, in the kernel's list.

use crate::host::{FileError, Lock, Machine, Reading};
use crate::manager::adapter::{LocalLock, Snapshot};

/// How often the list is read again because lockd was another one after it than before.
const LIVES: usize = 3;

pub(super) fn look(machine: &Machine) -> Result<(Snapshot, Vec<Lock>), FileError> {
    Ok(sort(read(machine)?, |pid| machine.process_name(pid)))
}

/// The locks that lockd has granted, sorted, as one pass over the list shows them.
pub(super) fn granted_in_pass(machine: &Machine, number: usize) -> Result<Vec<Lock>, FileError> {
    let lockd = machine.kernel_threads("lockd")?;
    let listed = machine.locks_in_pass(number)?.into_iter();
    let mut granted: Vec<Lock> =
        listed.filter(|listed| !listed.waits && lockd.contains(&listed.pid)).map(|listed| listed.lock).collect();
    granted.sort_unstable();
    Ok(granted)
}

/// The list, with lockd's locks for sure.
fn read(machine: &Machine) -> Result<Reading, FileError> {
    let mut lockd = machine.kernel_threads("lockd")?;
    let mut reading = machine.locks(|lock| lockd.contains(&lock.pid))?;
    for _ in 1..LIVES {
        let now = machine.kernel_threads("lockd")?;
        if now == lockd {
            break;
        }
        lockd = now;
        reading = machine.locks(|lock| lockd.contains(&lock.pid))?;
    }
    Ok(reading)
}

/// The locks of lockd are clients'; it shows its own number for each.
fn sort(reading: Reading, name: impl Fn(i32) -> Option<String>) -> (Snapshot, Vec<Lock>) {
    let Reading { sure, unsure, others } = reading;
    let (mut sight, mut waiting) = (Snapshot::default(), Vec::new());
    sight.unsure = unsure.iter().filter(|listed| !listed.waits).map(|listed| listed.lock.clone()).collect();
    for listed in sure.into_iter().chain(unsure) {
        if listed.waits { waiting.push(listed.lock) } else { sight.locks.push(listed.lock) }
    }
    let local = others.into_iter().filter(|other| !other.waits);
    sight.local = local.map(|other| LocalLock::new(other.lock, other.pid, name(other.pid))).collect();
    sight.waiters = waiting.len() as u64;
    (sight, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::parse_locks;

    fn reading(lockd: &[i32]) -> Reading {
        let (sure, others) = parse_locks(LOCKS).into_iter().partition(|lock| lockd.contains(&lock.pid));
        Reading { sure, others, unsure: Vec::new() }
    }

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
        let (sight, waiting) = sort(reading(&[187]), |pid| (pid == 400).then(|| "locker".to_owned()));
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
        assert_eq!(sort(reading(&[]), |_| None).0.locks, []);
    }
}
