//! The test that requests are inverted on their way to lockd, and answered, before any client is told to reclaim.
//!
//! # Theory
//! The test asks for a byte that a client has locked, in the name of that client, with a process number that none of
//! its processes has. So the path is a real client's, from its address over its transport to lockd, and nothing is
//! granted: the byte is held. The answer shows how the request arrived:
//!
//! | request | unchanged | inverted in strict grace | in targeted grace |
//! |---|---|---|---|
//! | ordinary | DENIED | DENIED_GRACE_PERIOD | either: the lock may not be pending yet |
//! | reclaim | DENIED_GRACE_PERIOD | DENIED | DENIED |
//!
//! While lockd itself is in grace the answers are the other way round, so it must not be, before and after.
//!
//! What must hold:
//! - Nothing is left in lockd. A lock that is granted, because the client unlocked the byte just then, is freed at
//!   once. If this process is killed between the two, a lock of [`PROCESS`] stays; the next proof frees it.
//! - rpc.statd is not asked to monitor anything, no file is made or changed, and no export must be open to this host: that
//!   is why it is no file of ours, over loopback.
//! - If no client has a lock, the test is not possible, and this is reported.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::Mode;
use crate::host::Machine;
use crate::manager::knfsd::owners::{HeldLock, OwnerKey, TO_THE_END, View, Way};
use crate::manager::knfsd::port::lockd_ports;
use crate::manager::knfsd::single::as_unlock;
use crate::manager::knfsd::unlock::{Trial, Unlock, callable, trial, unlock};
use crate::wire::nftables::Port;
use crate::wire::nlm::Stat;
use crate::wire::types::{ByteRange, Svid};

/// The process number: "nlmc" in ASCII. Linux clients count theirs up from 0.
pub(super) const PROCESS: Svid = Svid(0x6e_6c_6d_63);
/// Most locks that it is tried with. A lockd that is silent takes some seconds each.
const TRIES: usize = 3;

/// Shows that the filter works in this mode, with locks that were seen a moment ago. It takes some milliseconds; with a lockd
/// that does not answer, up to half a minute.
///
/// # Errors
/// It does not, or that cannot be shown; for people.
pub(super) async fn prove(machine: &Machine, mode: Mode, seen: &View) -> Result<(), String> {
    let ports = lockd_ports().await?;
    let machine = machine.clone();
    let left: Vec<_> =
        seen.locks.iter().filter(|lock| is_ours(lock)).map(|lock| (lock.owner, as_unlock(lock))).collect();
    let tried = candidates(seen, |way| callable(way).err());
    let proved = tokio::task::spawn_blocking(move || try_it(&machine, mode, &ports, &left, tried)).await;
    proved.unwrap_or_else(|_| Err("a thread died".to_owned()))
}

fn try_it(
    machine: &Machine,
    mode: Mode,
    ports: &[Port],
    left: &[(OwnerKey, Unlock)],
    tried: Result<Vec<HeldLock>, String>,
) -> Result<(), String> {
    let port = |ipv6, transport| {
        let known = ports.iter().find(|port| (port.ipv6, port.transport) == (ipv6, transport));
        known.map(|port| port.number).ok_or_else(|| format!("lockd is not registered with rpcbind for {transport}"))
    };
    unlock(machine, left, port, None);
    let not_proved = |why: &str| format!("it cannot be shown that requests reach lockd as they should: {why}");
    let mut why = String::new();
    for lock in tried.map_err(|why| not_proved(&why))? {
        in_grace(machine)?;
        let wanted = wanted(&lock);
        // A shared lock is opened for reading alone, so more files will do; it meets an exclusive one only.
        match trial(machine, lock.owner, &wanted, !lock.exclusive, port) {
            Ok(told) => {
                in_grace(machine)?;
                match judge(mode, told) {
                    Judged::Proved => return Ok(()),
                    Judged::Disproved(what) => return Err(what.to_owned()),
                    Judged::Nothing => why = format!("lockd answered {:?} and {:?}", told.ordinary, told.reclaim),
                }
            }
            Err(error) => why = error,
        }
    }
    Err(not_proved(&why))
}

/// Left by a proof whose process was killed.
fn is_ours(lock: &HeldLock) -> bool {
    lock.owner.svid == PROCESS
}

/// Locks to try it with: exclusive ones first, each file once. NLM version 1 has no request without monitoring (`NM_LOCK`), so
/// locks of its clients come last. `obstacle` says why lockd cannot be called in the name of who calls that way.
///
/// # Errors
/// There is none, for people.
fn candidates(view: &View, obstacle: impl Fn(Way) -> Option<String>) -> Result<Vec<HeldLock>, String> {
    let usable = |lock: &&HeldLock| !lock.deleted && !lock.offered && !is_ours(lock);
    let mut found: Vec<&HeldLock> = view.locks.iter().filter(usable).collect();
    found.sort_by_key(|lock| (lock.owner.way.version == 1, !lock.exclusive));
    let (mut files, mut obstacles) = (BTreeSet::new(), BTreeMap::new());
    let mut is_callable = |way| obstacles.entry(way).or_insert_with(|| obstacle(way)).is_none();
    let chosen = found.into_iter().filter(|lock| is_callable(lock.owner.way));
    let chosen: Vec<HeldLock> =
        chosen.filter(|lock| files.insert((lock.device, lock.inode))).take(TRIES).cloned().collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let none = "no client has a lock on an existing file, and this test needs one: let a client lock any file";
    Err(obstacles.into_values().flatten().next().unwrap_or_else(|| none.to_owned()))
}

/// The first byte of the lock, for a process of ours.
fn wanted(lock: &HeldLock) -> Unlock {
    let first = lock.start.min(TO_THE_END - 1);
    Unlock { svid: PROCESS, range: ByteRange { start: first, end: first }, ..as_unlock(lock) }
}

fn in_grace(machine: &Machine) -> Result<(), String> {
    match machine.in_grace() {
        Ok(false) => Ok(()),
        Ok(true) => Err("lockd is in a grace period of its own".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Proved,
    Disproved(&'static str),
    /// The file cannot be opened by that client any more, say.
    Nothing,
}

fn judge(mode: Mode, told: Trial) -> Judged {
    match (mode, told.ordinary, told.reclaim) {
        (Mode::Off, ..) => Judged::Nothing,
        (_, _, Stat::DeniedGracePeriod) => {
            Judged::Disproved("a reclaim reached lockd unchanged: other packet rules may lead it past ours")
        }
        (Mode::Strict, Stat::Denied | Stat::Granted, _) => {
            Judged::Disproved("an ordinary request reached lockd unchanged: other packet rules may lead it past ours")
        }
        // A reclaim is granted as an ordinary request would be, when its byte is free.
        (Mode::Strict, Stat::DeniedGracePeriod, Stat::Denied | Stat::Granted)
        | (
            Mode::Targeted | Mode::Drain,
            Stat::Denied | Stat::Granted | Stat::DeniedGracePeriod,
            Stat::Denied | Stat::Granted,
        ) => Judged::Proved,
        _ => Judged::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::FileHandle;

    const STATS: [Stat; 5] = [Stat::Granted, Stat::Denied, Stat::DeniedGracePeriod, Stat::StaleFh, Stat::Failed];

    #[test]
    fn what_lockd_answers_to_unchanged_requests_proves_no_mode() {
        let unchanged = Trial { ordinary: Stat::Denied, reclaim: Stat::DeniedGracePeriod };
        for mode in [Mode::Strict, Mode::Targeted, Mode::Drain] {
            assert!(matches!(judge(mode, unchanged), Judged::Disproved(_)), "{mode:?}");
        }
    }

    #[test]
    fn each_mode_is_proved_by_what_it_makes_of_both_requests_and_by_nothing_else() {
        for (mode, ordinary) in [
            (Mode::Strict, [Stat::DeniedGracePeriod].as_slice()),
            (Mode::Targeted, &[Stat::Denied, Stat::DeniedGracePeriod, Stat::Granted]),
            (Mode::Drain, &[Stat::Denied, Stat::DeniedGracePeriod, Stat::Granted]),
            (Mode::Off, &[]),
        ] {
            for one in STATS {
                for other in STATS {
                    let proved = judge(mode, Trial { ordinary: one, reclaim: other }) == Judged::Proved;
                    let wanted = ordinary.contains(&one) && [Stat::Denied, Stat::Granted].contains(&other);
                    assert_eq!(proved, wanted, "{mode:?} {one:?} {other:?}");
                }
            }
        }
    }

    fn lock(svid: i32, inode: u64, exclusive: bool) -> HeldLock {
        let handle = FileHandle::new(&inode.to_be_bytes()).unwrap();
        HeldLock { handle, inode, exclusive, start: 100, ..HeldLock::sample(11, svid) }
    }

    #[test]
    fn it_is_tried_with_each_file_once_exclusive_locks_first_those_of_version_1_last_and_never_with_what_a_proof_left()
    {
        let deleted = HeldLock { deleted: true, ..lock(1, 1, true) };
        let offered = HeldLock { offered: true, ..lock(1, 2, true) };
        let locks =
            vec![deleted, offered, lock(1, 3, false), lock(2, 4, true), lock(3, 4, false), lock(PROCESS.0, 5, true)];
        let found = |locks| -> Vec<(u64, bool)> {
            let found = candidates(&View { locks, ..View::default() }, |_| None).unwrap();
            found.iter().map(|lock| (lock.inode, lock.exclusive)).collect()
        };
        assert_eq!(found(locks), [(4, true), (3, false)]);
        let mut old = lock(1, 1, true);
        old.owner.way.version = 1;
        assert_eq!(found(vec![old, lock(2, 1, false), lock(3, 2, true)]), [(2, true), (1, false)]);
    }

    #[test]
    fn locks_in_whose_clients_name_lockd_cannot_be_called_do_not_use_up_the_tries() {
        let mut locks: Vec<HeldLock> = (0..5).map(|inode| lock(1, inode, true)).collect();
        let others = HeldLock { owner: HeldLock::sample(12, 1).owner, ..lock(1, 9, false) };
        locks.push(others.clone());
        let view = View { locks, ..View::default() };
        let obstacle = |way: Way| (way != others.owner.way).then(|| "its client is this host itself".to_owned());
        assert_eq!(candidates(&view, obstacle).unwrap(), std::slice::from_ref(&others));
        assert_eq!(candidates(&view, |_| Some("why".to_owned())).unwrap_err(), "why");
        assert!(candidates(&View::default(), |_| None).unwrap_err().contains("no client has a lock"));
    }

    #[test]
    fn what_is_asked_for_is_one_byte_of_the_lock_for_a_process_that_the_client_does_not_have() {
        let held = lock(7, 3, true);
        let asked = wanted(&held);
        assert_eq!((asked.range, asked.file), (ByteRange { start: 100, end: 100 }, held.handle));
        assert_eq!(asked.svid, PROCESS);
    }
}
