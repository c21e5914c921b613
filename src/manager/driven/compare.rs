//! What came back: the locks held now against those that were held when the run began. Pure.
//!
//! Nobody knows owners here, so a lock is its file, mode and range, and the comparison is one of
//! multisets: of three equal shared locks two may be back. A lock counts as back too where a longer
//! or stronger one that was not there before covers it; that one is then resurrected, since the
//! server did not know all of it.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::host::Lock;

/// A lock of a process of this host, or of the kernel's other services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalLock {
    /// What it holds.
    pub lock: Lock,
    /// Its process number.
    pub pid: i32,
    /// Its process' name, as far as that was seen.
    pub process: String,
}

impl LocalLock {
    /// Of a process whose name may not have been seen.
    pub fn new(lock: Lock, pid: i32, name: Option<String>) -> Self {
        Self { lock, pid, process: name.unwrap_or_else(|| "not known".to_owned()) }
    }
}

/// Everything that is locked, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sight {
    /// Clients' locks.
    pub locks: Vec<Lock>,
    /// Others' locks, which no grace period binds.
    pub local: Vec<LocalLock>,
    /// Blocked requests of clients.
    pub waiters: u64,
}

/// What became of one of the locks before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// It is held again.
    Back,
    /// A part of it is, or a weaker one.
    Partly,
    /// Nothing of it is.
    Missing,
}

/// The locks before, one by one, against those held now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// For each lock before.
    pub returns: Vec<Return>,
    /// Places in `now.locks` of those that were not there before, or not all of it.
    pub unknown: Vec<usize>,
    /// For each lock before that is not back: the place in `now.local` of one that meets it and was
    /// not there before.
    pub thieves: Vec<Option<usize>>,
}

impl Comparison {
    /// Places of the locks before that are held now.
    pub fn held(&self) -> BTreeSet<usize> {
        self.returns.iter().enumerate().filter(|(_, now)| **now == Return::Back).map(|(place, _)| place).collect()
    }
}

/// Compares.
pub fn compare(before: &Sight, now: &Sight) -> Comparison {
    let mut exact: HashMap<&Lock, Vec<usize>> = HashMap::new();
    for (place, lock) in now.locks.iter().enumerate().rev() {
        exact.entry(lock).or_default().push(place);
    }
    let mut used = vec![false; now.locks.len()];
    let mut returns = vec![Return::Missing; before.locks.len()];
    for (lock, fate) in before.locks.iter().zip(&mut returns) {
        if let Some(place) = exact.get_mut(lock).and_then(Vec::pop) {
            *fate = Return::Back;
            if let Some(mark) = used.get_mut(place) {
                *mark = true;
            }
        }
    }
    let unknown: Vec<usize> = used.iter().enumerate().filter(|(_, used)| !**used).map(|(place, _)| place).collect();
    let mut loose: HashMap<&str, Vec<&Lock>> = HashMap::new();
    for lock in unknown.iter().filter_map(|&place| now.locks.get(place)) {
        loose.entry(&lock.file).or_default().push(lock);
    }
    let mut newcomers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, local) in now.local.iter().enumerate().filter(|(_, local)| !before.local.contains(local)) {
        newcomers.entry(&local.lock.file).or_default().push(place);
    }
    let mut thieves = vec![None; before.locks.len()];
    for ((lock, fate), thief) in before.locks.iter().zip(&mut returns).zip(&mut thieves) {
        if *fate == Return::Back {
            continue;
        }
        let near = loose.get(lock.file.as_str()).map(Vec::as_slice).unwrap_or_default();
        if near.iter().any(|now| now.covers(lock)) {
            *fate = Return::Back;
            continue;
        }
        if near.iter().any(|now| now.range().overlaps(lock.range())) {
            *fate = Return::Partly;
        }
        let locals = newcomers.get(lock.file.as_str()).map(Vec::as_slice).unwrap_or_default();
        *thief =
            locals.iter().copied().find(|&place| now.local.get(place).is_some_and(|local| local.lock.conflicts(lock)));
    }
    Comparison { returns, unknown, thieves }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(file: &str, exclusive: bool, start: u64, end: u64) -> Lock {
        Lock { file: file.into(), exclusive, start, end }
    }

    fn sight(locks: &[Lock]) -> Sight {
        Sight { locks: locks.to_vec(), ..Sight::default() }
    }

    fn local(lock: Lock, pid: i32) -> LocalLock {
        LocalLock { lock, pid, process: "locker".into() }
    }

    #[test]
    fn a_lock_is_back_when_file_mode_and_range_are() {
        let before = sight(&[
            lock("a", true, 0, 9),
            lock("b", true, 0, u64::MAX),
            lock("a", false, 20, 29),
            lock("c", true, 0, 9),
        ]);
        let now = sight(&[lock("b", true, 0, u64::MAX), lock("a", false, 20, 29), lock("a", true, 0, 9)]);
        let seen = compare(&before, &now);
        assert_eq!(seen.returns, [Return::Back, Return::Back, Return::Back, Return::Missing]);
        assert_eq!(seen.unknown, [0_usize; 0]);
    }

    #[test]
    fn equal_shared_locks_are_counted_not_merged() {
        let shared = lock("a", false, 0, 9);
        let before = sight(&[shared.clone(), shared.clone(), shared.clone()]);
        let seen = compare(&before, &sight(&[shared.clone(), shared]));
        assert_eq!(seen.returns.iter().filter(|fate| **fate == Return::Back).count(), 2);
    }

    #[test]
    fn what_came_back_shorter_or_weaker_is_partly_back() {
        for now in [lock("a", true, 0, 4), lock("a", false, 0, 9)] {
            let seen = compare(&sight(&[lock("a", true, 0, 9)]), &sight(&[now]));
            assert_eq!(seen.returns, [Return::Partly]);
        }
    }

    #[test]
    fn what_came_back_longer_or_stronger_covers_and_is_unknown_itself() {
        for now in [lock("a", true, 0, 19), lock("a", true, 0, 9)] {
            let seen = compare(&sight(&[lock("a", false, 0, 9)]), &sight(&[now]));
            assert_eq!((seen.returns, seen.unknown), (vec![Return::Back], vec![0]));
        }
    }

    #[test]
    fn what_was_not_there_before_is_unknown() {
        let seen = compare(&sight(&[]), &sight(&[lock("a", true, 0, 9)]));
        assert_eq!(seen.unknown, [0]);
    }

    #[test]
    fn a_local_process_that_took_the_range_meanwhile_is_the_thief_and_one_from_before_is_not() {
        let old = local(lock("b", false, 0, 9), 7);
        let before = Sight {
            locks: vec![lock("a", true, 0, 9), lock("b", false, 0, 9), lock("c", true, 0, 9)],
            local: vec![old.clone()],
            waiters: 0,
        };
        let now = Sight {
            local: vec![old, local(lock("a", true, 5, 5), 8), local(lock("c", true, 100, 110), 9)],
            ..Sight::default()
        };
        assert_eq!(compare(&before, &now).thieves, [Some(1), None, None]);
    }

    #[test]
    fn shared_locks_of_both_take_nothing_from_each_other() {
        let now = Sight { local: vec![local(lock("a", false, 0, 9), 8)], ..Sight::default() };
        assert_eq!(compare(&sight(&[lock("a", false, 0, 9)]), &now).thieves, [None]);
    }
}
