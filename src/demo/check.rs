//! Compares the beliefs of the simulated clients with the list of the lock manager.
//!
//! Both are asked after the run: the clients' beliefs come from the farm alone, the locks from the
//! manager alone. A lock that a client believes in and the manager does not hold is lost: the data it
//! protects is in danger. One that the manager holds and no client believes in is stuck: it may be so
//! only where the run says that it kept it.

use std::collections::{BTreeMap, BTreeSet};

use crate::demo::clients::{ClientNo, Farm, Lock};
use crate::manager::{LockManager, ManagerError};
use crate::wire::control::{LockKind, LockRow, LockState, Scope};
use crate::wire::types::CallerName;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Locks that clients believe they hold.
    pub believed: u64,
    /// Locks that the manager holds.
    pub held: u64,
    /// Believed and not held.
    pub lost: u64,
    /// Held and not believed.
    pub stuck: u64,
    /// Clients with a lost or stuck lock.
    pub clients_disagreeing: u64,
}

/// Asks both sides.
pub async fn compare(farm: &Farm, manager: &dyn LockManager) -> Result<Check, ManagerError> {
    let mut held = BTreeMap::<CallerName, BTreeSet<Lock>>::new();
    for row in manager.all_locks(&Scope::default()).await? {
        if row.state == LockState::Held {
            held.entry(row.owner.name.clone()).or_default().insert(lock_of(&row));
        }
    }
    let mut believed = BTreeMap::<CallerName, BTreeSet<Lock>>::new();
    for who in (0..farm.len()).map(ClientNo) {
        if let Some(name) = farm.name(who) {
            believed.entry(name).or_default().extend(farm.beliefs(who));
        }
    }
    Ok(count(&believed, &held))
}

fn lock_of(row: &LockRow) -> Lock {
    Lock { file: row.file.clone(), range: row.range, exclusive: row.kind != LockKind::Shared, svid: row.owner.svid }
}

fn count(believed: &BTreeMap<CallerName, BTreeSet<Lock>>, held: &BTreeMap<CallerName, BTreeSet<Lock>>) -> Check {
    let nothing = BTreeSet::new();
    let mut check = Check { believed: 0, held: 0, lost: 0, stuck: 0, clients_disagreeing: 0 };
    for name in believed.keys().chain(held.keys()).collect::<BTreeSet<_>>() {
        let (believes, holds) = (believed.get(name).unwrap_or(&nothing), held.get(name).unwrap_or(&nothing));
        let lost = believes.difference(holds).count() as u64;
        let stuck = holds.difference(believes).count() as u64;
        check.believed += believes.len() as u64;
        check.held += holds.len() as u64;
        check.lost += lost;
        check.stuck += stuck;
        check.clients_disagreeing += u64::from(lost + stuck > 0);
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::{ByteRange, FileHandle, Svid};

    fn lock(file: u8, exclusive: bool) -> Lock {
        Lock { file: FileHandle::new(&[file]).unwrap(), range: ByteRange::ALL, exclusive, svid: Svid(1) }
    }

    fn table(rows: &[(&str, &[Lock])]) -> BTreeMap<CallerName, BTreeSet<Lock>> {
        rows.iter().map(|(name, locks)| (CallerName::new(name).unwrap(), locks.iter().cloned().collect())).collect()
    }

    #[test]
    fn equal_views_agree() {
        let view = table(&[("a", &[lock(1, true), lock(2, false)]), ("b", &[])]);
        let check = count(&view, &table(&[("a", &[lock(1, true), lock(2, false)])]));
        assert_eq!(check, Check { believed: 2, held: 2, lost: 0, stuck: 0, clients_disagreeing: 0 });
    }

    #[test]
    fn a_lost_and_a_stuck_lock_are_told_apart_and_a_weaker_mode_is_both() {
        let believed = table(&[("a", &[lock(1, true)]), ("b", &[]), ("c", &[lock(3, true)])]);
        let held = table(&[("b", &[lock(2, true)]), ("c", &[lock(3, false)])]);
        assert_eq!(count(&believed, &held), Check { believed: 2, held: 2, lost: 2, stuck: 2, clients_disagreeing: 3 });
    }
}
