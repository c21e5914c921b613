//! The agreement of memory and `/proc/locks`, though locks come and go. Pure.
//!
//! Theory. A pass over memory and one over the list take milliseconds each, and on a busy server no two of them show the
//! same locks. So they are compared lock by lock: what is locked (file, range and mode) must be in memory as often as in the
//! list. What is not is looked for again in the passes after, and nothing else is: a lock that was granted after the first
//! pass is newer than the view. One that comes and goes is soon there, or not there, in both.
//!
//! So each lock is as it was at some moment of the look, and not all at the same one. What could show is a lock that was
//! given back, and after it another that was granted in its place. The later one proves that the earlier one is gone.

use std::collections::{HashMap, HashSet};

use super::view::HeldLock;
use crate::host::{Lock, common_and_rest};
use crate::units;

/// Grows pass by pass.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// Locks about which no pass has agreed yet. None before the first pass.
    open: Option<HashSet<Lock>>,
    agreed: Vec<HeldLock>,
}

impl Agreement {
    /// Learns what a pass over memory has found, and what the list showed after it, sorted.
    pub(super) fn learn(&mut self, found: Vec<HeldLock>, listed: Vec<Lock>) {
        let mut in_memory: Vec<Lock> = found.iter().map(HeldLock::as_listed).collect();
        in_memory.sort_unstable();
        let odd: HashSet<Lock> = common_and_rest(in_memory, listed).1.into_iter().collect();
        let Some(open) = self.open.take() else {
            self.agreed = found;
            if !odd.is_empty() {
                self.agreed.retain(|lock| !odd.contains(&lock.as_listed()));
            }
            self.open = Some(odd);
            return;
        };
        let (open, settled): (HashSet<_>, HashSet<_>) = open.into_iter().partition(|lock| odd.contains(lock));
        self.open = Some(open);
        if !settled.is_empty() {
            self.add(found.into_iter().filter(|lock| settled.contains(&lock.as_listed())).collect());
        }
    }

    /// Adds locks of a later pass, and gives up those that they exclude.
    fn add(&mut self, later: Vec<HeldLock>) {
        let mut by_file: HashMap<_, Vec<&HeldLock>> = HashMap::new();
        for lock in &later {
            by_file.entry((lock.device, lock.inode)).or_default().push(lock);
        }
        self.agreed.retain(|earlier| {
            let later = by_file.get(&(earlier.device, earlier.inode));
            !later.is_some_and(|later| later.iter().any(|later| later.excludes(earlier)))
        });
        self.agreed.extend(later);
    }

    /// The locks, once there is agreement about each.
    pub(super) fn reached(&mut self) -> Option<Vec<HeldLock>> {
        self.open.as_ref().is_some_and(HashSet::is_empty).then(|| std::mem::take(&mut self.agreed))
    }

    /// What is in the way of it.
    pub(super) fn obstacle(&self) -> String {
        let open = self.open.iter().flatten();
        let (count, first) = (open.clone().count() as u64, open.min());
        let of_them = first.map(|first| format!(", the first of them a {first}")).unwrap_or_default();
        format!("about {}{of_them}", units::count(count, "lock"))
    }
}

#[cfg(test)]
mod tests;
