//! Which of the locks that policy gives up an UNLOCK is sent for, and what came of it. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::account::{Account, by_owner, key_of, range_of};
use crate::manager::knfsd::owners::{HeldLock, View};
use crate::wire::control::{Fate, FullResult, LockFate, LockKind};

/// A lock that is kept though policy gives it up, and why.
pub(super) type Left = (LockFate, String);

/// A lock that is to be freed: as the account has it, and as lockd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Freed {
    /// The row of the result.
    pub(super) row: LockFate,
    /// The bytes of it that are to be freed.
    pub(super) lock: HeldLock,
}

/// The addresses of which policy gives something up.
pub(super) fn losers(full: &FullResult) -> BTreeSet<IpAddr> {
    dropped(full).map(|row| row.owner.address.0).collect()
}

fn dropped(full: &FullResult) -> impl Iterator<Item = &LockFate> {
    full.locks.as_slice().iter().filter(|row| row.fate == Fate::Dropped)
}

/// Sorts what policy gives up. Only what calls from a `held` address is freed, and only what `view` shows as its owner's:
/// from then on nothing of it can change.
pub(super) fn choose(
    account: &Account,
    held: &BTreeSet<IpAddr>,
    view: Option<&View>,
    full: &FullResult,
) -> (Vec<Freed>, Vec<Left>) {
    let there = view.map(by_owner).unwrap_or_default();
    let (mut freed, mut left) = (Vec::new(), Vec::new());
    for row in dropped(full) {
        let locks = there.get(&key_of(&row.owner)).map_or(&[][..], Vec::as_slice);
        match lock_of(account, held, view, row, locks) {
            Ok(lock) => freed.push(Freed { row: row.clone(), lock }),
            Err(why) => left.push((row.clone(), why)),
        }
    }
    (freed, left)
}

fn lock_of(
    account: &Account,
    held: &BTreeSet<IpAddr>,
    view: Option<&View>,
    row: &LockFate,
    locks: &[&HeldLock],
) -> Result<HeldLock, String> {
    let address = row.owner.address.0;
    if let Some(why) = account.why_unsure(address) {
        return Err(why);
    }
    if row.kind == LockKind::Share {
        return Err("lockd frees a share only with its client".to_owned());
    }
    if view.is_none() {
        return Err("lockd's records could not be read".to_owned());
    }
    if !held.contains(&address) {
        return Err("its client's calls went on meanwhile".to_owned());
    }
    let exclusive = row.kind == LockKind::Exclusive;
    let covers = |lock: &&&HeldLock| {
        lock.handle == row.file && lock.exclusive == exclusive && range_of(lock).covers(row.range) && !lock.offered
    };
    let lock = locks.iter().find(covers).ok_or("lockd has it otherwise by now")?;
    // Only these bytes, where the rest of it was reclaimed.
    Ok(HeldLock { start: row.range.start, end: row.range.end, ..(**lock).clone() })
}

/// Which of these lockd still has, with the words that came with its UNLOCK.
pub(super) fn still_there(after: &View, freed: &[Freed], words: &[String]) -> Vec<Left> {
    let there = by_owner(after);
    let mut left = Vec::new();
    for (place, Freed { row, lock }) in freed.iter().enumerate() {
        let locks = there.get(&lock.owner).map_or(&[][..], Vec::as_slice);
        if locks.iter().any(|now| now.handle == row.file && range_of(now).overlaps(row.range)) {
            left.push((row.clone(), words.get(place).cloned().unwrap_or_default()));
        }
    }
    left
}
