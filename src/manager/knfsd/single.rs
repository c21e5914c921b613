//! Frees chosen locks one by one.
//!
//! ```text
//! look -> all are there as they were chosen? else nothing is touched
//!      -> an UNLOCK for each that can be freed (unlock) -> look again -> what is gone is free
//! ```
//!
//! lockd's own records are looked at ([`owners`](super::owners)), so a lock of a local process or of an NFSv4 client is
//! never chosen. Between the look and the UNLOCK there are milliseconds in which the client may unlock and the
//! same process lock the same bytes anew: that lock goes too.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::owners::{HeldLock, HeldLocks, OwnerKey, View, Waiter};
use super::port::lockd_port;
use super::unlock::{Unlock, UnlockReply, unlock};
use super::{Knfsd, KnfsdError};
use crate::host::Machine;
use crate::manager::ManagerError;
use crate::manager::adapter::LocksReleased;
use crate::wire::control::{LockKind, LockRow, LockState, Refusal, RefusalCode};
use crate::wire::nlm::Stat;
use crate::wire::types::Transport;

/// What a client that waits can expect.
const WAITERS: &str = "a client that waits for what became free gets it at once where lockd keeps its request (Linux 6.1 \
                       does); where it does not (Linux 6.12) the client asks again by itself, within 30 s";

/// How long UNLOCKs may take for which clients are held at the gate, and others are refused for grace.
const UNLOCKS_WITHIN: Duration = Duration::from_secs(10);

impl Knfsd {
    /// Frees these locks; what is left is told with its reason.
    ///
    /// # Errors
    /// Refused, and nothing is touched: one of them is not there as it was chosen, or the server is in grace. Lost:
    /// some may be free, and lockd's records could not be read again.
    pub(super) async fn free_locks(&self, chosen: &[LockRow]) -> Result<LocksReleased, ManagerError> {
        let rows = chosen.to_vec();
        let looked = self.blocking(move |this| {
            if this.machine.in_grace()? {
                let words = "the server is in grace: lockd takes no UNLOCK; nothing was released";
                return Ok(Err(Refusal::new(RefusalCode::GraceActive, words)));
            }
            let view = this.view()?;
            // Files are looked at here, off the async threads.
            let unlock_of =
                |lock: &HeldLock| obstacle(&view, lock).map_or_else(|| Ok((lock.owner, as_unlock(lock))), Err);
            let found = find(&view, &rows).map(|held| {
                let wanted: Vec<Result<_, String>> = held.iter().map(unlock_of).collect();
                (held, wanted)
            });
            Ok(found.map(|(held, wanted)| (view, held, wanted)))
        });
        let (before, held, wanted) = looked.await.map_err(KnfsdError::unanswered)?.map_err(ManagerError::Refused)?;
        let sent: Vec<(OwnerKey, Unlock)> = wanted.iter().flatten().cloned().collect();
        let ports = lockd_ports(sent.iter().map(|(owner, _)| owner)).await;
        let asked = self.blocking(move |this| {
            let port = |ipv6, transport| ports.get(&(ipv6, transport)).cloned().unwrap_or_else(|| Err(String::new()));
            let said = unlock(&this.machine, &sent, port, None);
            Ok((said, this.view()?))
        });
        let (said, after) = asked.await.map_err(KnfsdError::lost)?;
        let mut said = said.into_iter();
        let answers = wanted.into_iter().map(|wanted| match wanted {
            Ok(_) => said.next().unwrap_or(UnlockReply::NotSent("it was not asked".to_owned())),
            Err(why) => UnlockReply::NotSent(why),
        });
        Ok(judge(&before, &after, chosen, &held, answers))
    }
}

/// Of a lock for which an UNLOCK was to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WhyThere {
    /// Why it is there, if it is.
    pub(crate) words: String,
    /// lockd has not answered: it may free the lock after one has looked.
    pub(crate) may_go_yet: bool,
}

impl WhyThere {
    fn of(answer: &UnlockReply, lock: &HeldLock) -> Self {
        Self { words: why(answer, lock), may_go_yet: matches!(answer, UnlockReply::Silent(_)) }
    }
}

/// Sends an UNLOCK in the name of each lock's owner, for [`UNLOCKS_WITHIN`] at most. Whether the locks are gone is to be
/// looked at; for each here is why it may be there still.
pub(crate) async fn unlock_all(machine: &Machine, view: &View, locks: Vec<HeldLock>) -> Vec<WhyThere> {
    let ports = lockd_ports(locks.iter().map(|lock| &lock.owner)).await;
    let stops: Vec<Option<String>> = locks.iter().map(|lock| obstacle(view, lock)).collect();
    let machine = machine.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let port = |ipv6, transport| ports.get(&(ipv6, transport)).cloned().unwrap_or_else(|| Err(String::new()));
        let until = Instant::now() + UNLOCKS_WITHIN;
        let free = locks.iter().zip(&stops).filter(|(_, stop)| stop.is_none());
        let wanted: Vec<(OwnerKey, Unlock)> = free.map(|(lock, _)| (lock.owner, as_unlock(lock))).collect();
        let mut said = unlock(&machine, &wanted, port, Some(until)).into_iter();
        let whys = locks.iter().zip(stops).map(|(lock, stop)| match stop {
            Some(words) => WhyThere { words, may_go_yet: false },
            None => said.next().map_or_else(WhyThere::default, |answer| WhyThere::of(&answer, lock)),
        });
        whys.collect()
    });
    asked.await.unwrap_or_default()
}

/// Of each row the lock, each once.
fn find(view: &View, rows: &[LockRow]) -> Result<Vec<HeldLock>, Refusal> {
    let mut there: BTreeMap<OwnerKey, Vec<&HeldLock>> = BTreeMap::new();
    for lock in &view.locks {
        there.entry(lock.owner).or_default().push(lock);
    }
    rows.iter()
        .map(|row| {
            if row.state == LockState::Waiting || row.kind == LockKind::Share {
                let words = format!("{}: blocked requests and shares are freed with their client only", describe(row));
                return Err(Refusal::new(RefusalCode::BadRequest, words));
            }
            let of_owner = there.get_mut(&OwnerKey::from(&row.owner));
            let place = of_owner.and_then(|locks| Some((locks.iter().position(|lock| is(row, lock))?, locks)));
            let gone = || Refusal::new(RefusalCode::StalePlan, format!("{} is no longer there", describe(row)));
            place.map(|(place, locks)| locks.swap_remove(place).clone()).ok_or_else(gone)
        })
        .collect()
}

/// Whether the lock, of the row's owner, is the row's.
fn is(row: &LockRow, lock: &HeldLock) -> bool {
    row.file == lock.handle
        && row.range == lock.range()
        && (row.kind == LockKind::Exclusive) == lock.exclusive
        && row.owner.name == lock.caller
}

fn describe(row: &LockRow) -> String {
    format!("the {} lock {} of file {} ({}, process {})", row.kind, row.range, row.file, row.owner.name, row.owner.svid)
}

/// Why the lock is not asked for at all. Two machines behind one address are one client to lockd, so their processes of
/// one number are one owner, and an UNLOCK would free what either of them holds.
fn obstacle(view: &View, lock: &HeldLock) -> Option<String> {
    let address = lock.owner.way.client;
    let other = view.hosts.iter().find(|host| host.way.client == address && !host.caller.matches(&lock.caller))?;
    let (one, two) = (&lock.caller, &other.caller);
    Some(format!("{one} and {two} both call from {address}, and lockd does not tell them apart"))
}

/// The UNLOCK that frees the lock, in its owner's name.
pub(crate) fn as_unlock(lock: &HeldLock) -> Unlock {
    // What cannot be looked at is asked for as root. That is refused where root is squashed, and said then.
    let found = lock.path.as_deref().filter(|_| !lock.deleted);
    let found = found.and_then(|path| std::fs::symlink_metadata(OsStr::from_bytes(path)).ok());
    Unlock {
        caller: lock.caller.clone(),
        file: lock.handle.clone(),
        svid: lock.owner.svid,
        range: lock.range(),
        user: found.map_or((0, 0), |file| (file.uid(), file.gid())),
    }
}

/// By (whether IPv6, transport): where lockd listens, or why that is not known.
type Ports = BTreeMap<(bool, Transport), Result<u16, String>>;

async fn lockd_ports(owners: impl Iterator<Item = &OwnerKey>) -> Ports {
    let of = |owner: &OwnerKey| (owner.way.server.0.is_ipv6(), owner.way.transport);
    let mut ports: Ports = owners.map(|owner| (of(owner), Err(String::new()))).collect();
    for ((ipv6, transport), port) in &mut ports {
        let missing = format!("lockd is not registered with rpcbind for {transport}");
        *port = lockd_port(*ipv6, *transport).await.and_then(|found| found.ok_or(missing));
    }
    ports
}

/// What is gone is free, with any answer. What is there is left.
fn judge(
    before: &View,
    after: &View,
    chosen: &[LockRow],
    held: &[HeldLock],
    answers: impl Iterator<Item = UnlockReply>,
) -> LocksReleased {
    let there = HeldLocks::of(after);
    let mut done = LocksReleased { notes: vec![WAITERS.to_owned()], ..LocksReleased::default() };
    for ((row, lock), answer) in chosen.iter().zip(held).zip(answers) {
        if there.meeting(&lock.owner, &lock.handle, lock.range()).is_some() {
            done.left.push((row.clone(), why(&answer, lock)));
        } else {
            done.freed.push(row.clone());
        }
    }
    let no_longer = before.waiters.iter().filter(|waiter| !after.waiters.contains(waiter));
    for Waiter { wanted, .. } in no_longer {
        let same = |lock: &HeldLock| {
            (lock.owner, &lock.handle, lock.start, lock.end) == (wanted.owner, &wanted.handle, wanted.start, wanted.end)
        };
        if after.locks.iter().any(|now| same(now) && now.exclusive == wanted.exclusive) {
            done.offered += 1;
        } else if held.iter().any(same) {
            // UNLOCK also takes back a request of its owner for exactly its bytes.
            done.waiters += 1;
        }
    }
    done
}

fn why(answer: &UnlockReply, lock: &HeldLock) -> String {
    let file = if lock.deleted { "its file is deleted, or " } else { "" };
    match answer {
        UnlockReply::NotSent(why) => why.clone(),
        UnlockReply::Silent(why) => format!("{why}, and may still free it"),
        UnlockReply::Rejected(error) => format!("lockd did not take the call: {error}"),
        UnlockReply::Said(Stat::Granted) => {
            "lockd answered GRANTED, but the lock is still there: the client may have locked it again".to_owned()
        }
        UnlockReply::Said(Stat::DeniedGracePeriod) => "the server is in grace".to_owned(),
        UnlockReply::Said(Stat::StaleFh) => {
            "lockd does not find its file: it is deleted, or not exported to its client any more".to_owned()
        }
        UnlockReply::Said(stat) => format!(
            "lockd could not open its file as the file's owner, and answered {stat:?}: {file}it is not exported to its \
             client any more, or that user is squashed and may not read it"
        ),
    }
}

#[cfg(test)]
mod tests;
