//! The locks that the policy gives up: which ones an UNLOCK is sent for, and its result. Pure.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use super::account::Account;
use crate::manager::knfsd::owners::{HeldLock, HeldLocks, OwnerKey, View};
use crate::manager::knfsd::single::WhyThere;
use crate::manager::knfsd::unsure::{DoubtKind, UnsureLocks};
use crate::wire::control::{Delivery, Fate, FullResult, LockFate, LockKind};
use crate::wire::types::{Address, CallerName};

/// A lock that is not dropped though policy gives it up, and why.
pub(super) type Left = (LockFate, String);

/// What is not dropped of what policy gives up.
#[derive(Debug, Default)]
pub(super) struct NotDropped {
    /// It is held.
    pub(super) kept: Vec<Left>,
    /// It is not known whether it is held.
    pub(super) unknown: Vec<Left>,
}

/// A lock that is to be freed: as the account has it, and as lockd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Freed {
    /// The row of the result.
    pub(super) row: LockFate,
    /// The bytes of it that are to be freed.
    pub(super) lock: HeldLock,
}

/// What policy gives up.
#[derive(Debug)]
pub(super) struct GivenUp<'a> {
    rows: Vec<&'a LockFate>,
    answered: HashSet<(&'a CallerName, Address)>,
    unsure: &'a UnsureLocks,
}

impl<'a> GivenUp<'a> {
    pub(super) fn new(full: &'a FullResult, unsure: &'a UnsureLocks) -> Self {
        let rows = full.locks.as_slice().iter().filter(|row| row.fate == Fate::Dropped).collect();
        let acked = full.clients.as_slice().iter().filter(|client| client.delivery == Delivery::Acked);
        Self { rows, answered: acked.map(|client| (&client.name, client.address)).collect(), unsure }
    }

    /// The addresses of which something may be freed.
    pub(super) fn losers(&self) -> BTreeSet<IpAddr> {
        let may_be_freed = self.rows.iter().filter(|row| self.why_unsure(row).is_none());
        may_be_freed.map(|row| row.owner.address.0).collect()
    }

    /// Why the client may not know this lock any more, though its process may believe in it.
    fn why_unsure(&self, row: &LockFate) -> Option<String> {
        let unsure = self.unsure.find(&OwnerKey::from(&row.owner), &row.file, row.range)?;
        // There is consent to drop what clients have that do not answer, and it does not again.
        if unsure.doubt.kind == DoubtKind::Unheard && !self.answered.contains(&(&row.owner.name, row.owner.address)) {
            return None;
        }
        Some(format!("{}: {}", unsure.place(), unsure.doubt))
    }
}

/// Sorts what policy gives up. Only what calls from a `held` address is freed, and only what `view` shows as its owner's:
/// from then on nothing of it can change.
pub(super) fn choose(
    account: &Account,
    held: &BTreeSet<IpAddr>,
    view: Option<&View>,
    given_up: &GivenUp<'_>,
) -> (Vec<Freed>, Vec<Left>) {
    let there = view.map(HeldLocks::of).unwrap_or_default();
    let (mut freed, mut left) = (Vec::new(), Vec::new());
    for row in given_up.rows.iter().copied() {
        let lock = match given_up.why_unsure(row) {
            Some(why) => Err(why),
            None => lock_of(account, held, view.map(|_| &there), row),
        };
        match lock {
            Ok(lock) => freed.push(Freed { row: row.clone(), lock }),
            Err(why) => left.push((row.clone(), why)),
        }
    }
    (freed, left)
}

fn lock_of(
    account: &Account,
    held: &BTreeSet<IpAddr>,
    there: Option<&HeldLocks<'_>>,
    row: &LockFate,
) -> Result<HeldLock, String> {
    let address = row.owner.address.0;
    if let Some(why) = account.why_unsure(address) {
        return Err(why);
    }
    if row.kind == LockKind::Share {
        return Err("nlmctl cannot free a single share, only all of a client (`nlmctl release --client`)".to_owned());
    }
    let there = there.ok_or("lockd's records could not be read")?;
    if !held.contains(&address) {
        return Err("its client's calls went on meanwhile".to_owned());
    }
    let exclusive = row.kind == LockKind::Exclusive;
    let is_it = |lock: &&HeldLock| lock.exclusive == exclusive && lock.range().covers(row.range) && !lock.offered;
    let lock = there.meeting(&OwnerKey::from(&row.owner), &row.file, row.range).filter(is_it);
    let lock = lock.ok_or("lockd's record of it has changed")?;
    // Only these bytes, where the rest of it was reclaimed.
    Ok(HeldLock { start: row.range.start, end: row.range.end, ..lock.clone() })
}

/// Which of these lockd still has, by what came with the UNLOCK of each.
pub(super) fn still_there(after: &View, freed: &[Freed], whys: &[WhyThere]) -> NotDropped {
    let there = HeldLocks::of(after);
    let mut found = NotDropped::default();
    for (place, Freed { row, lock }) in freed.iter().enumerate() {
        if there.meeting(&lock.owner, &row.file, row.range).is_some() {
            let WhyThere { words, may_go_yet } = whys.get(place).cloned().unwrap_or_default();
            let rows = if may_go_yet { &mut found.unknown } else { &mut found.kept };
            rows.push((row.clone(), words));
        }
    }
    found
}
