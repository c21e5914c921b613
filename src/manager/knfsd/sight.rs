//! What is locked, and what clients wait for, in the kernel's list.

use crate::host::{FileError, ListedLock, Lock, Machine};
use crate::manager::driven::{LocalLock, Sight};

pub(super) fn look(machine: &Machine) -> Result<(Sight, Vec<Lock>), FileError> {
    let listed = machine.locks()?;
    // Looked up after the list was read: lockd's number is in it.
    let lockd = machine.named("lockd")?;
    Ok(sort(listed, &lockd, |pid| machine.process_name(pid)))
}

/// The locks of lockd are clients'; it shows its own number for each.
fn sort(listed: Vec<ListedLock>, lockd: &[i32], name: impl Fn(i32) -> Option<String>) -> (Sight, Vec<Lock>) {
    let (mut sight, mut waiting) = (Sight::default(), Vec::new());
    for ListedLock { lock, pid, waits, .. } in listed {
        match (lockd.contains(&pid), waits) {
            (true, true) => waiting.push(lock),
            (true, false) => sight.locks.push(lock),
            (false, true) => {}
            (false, false) => sight.local.push(LocalLock::new(lock, pid, name(pid))),
        }
    }
    sight.waiters = waiting.len() as u64;
    (sight, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::parse_locks;

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
        let (sight, waiting) = sort(parse_locks(LOCKS), &[187], |pid| (pid == 400).then(|| "locker".to_owned()));
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
        assert_eq!(sort(parse_locks(LOCKS), &[], |_| None).0.locks, []);
    }
}
