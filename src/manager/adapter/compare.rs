//! Compares the locks held now with those that were held when the run began. Pure.
//!
//! Owners are not known here, so a lock is its file, mode and range, and the comparison is one of
//! multisets: of three equal shared locks two may be held again. A lock counts as held again too if a longer
//! or stronger one that was not there before covers it; that one is then resurrected, since the
//! server did not know all of it. It is one owner's, and stands for one lock: where it covers several
//! of which none is back otherwise, they may be one owner's or several owners', so it is not known which is back.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::host::Lock;

/// A lock of a process of this host, or of the kernel's other services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalLock {
    pub lock: Lock,
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
pub struct Snapshot {
    pub locks: Vec<Lock>,
    /// Others' locks, which no grace period binds.
    pub local: Vec<LocalLock>,
    /// Blocked requests of clients.
    pub waiters: u64,
    /// Those of `locks` that may not be held, since they were not seen each time. While there are any,
    /// locks that were not seen may be held too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<Lock>,
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
    /// Not known: then or now it was seen in one look and not in the next.
    Unsure,
    /// Not known: it is covered by a longer lock that may as well be another's.
    OneOfSeveral,
}

impl Return {
    /// Whether it is not known.
    pub fn is_unknown(self) -> bool {
        match self {
            Self::Unsure | Self::OneOfSeveral => true,
            Self::Back | Self::Partly | Self::Missing => false,
        }
    }
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

pub fn compare(before: &Snapshot, now: &Snapshot) -> Comparison {
    let mut exact: HashMap<&Lock, Vec<usize>> = HashMap::new();
    for (place, lock) in now.locks.iter().enumerate().rev() {
        exact.entry(lock).or_default().push(place);
    }
    let (doubts, mut doubts_before) = (counted(&now.unsure), counted(&before.unsure));
    let mut used = vec![false; now.locks.len()];
    let mut returns = vec![Return::Missing; before.locks.len()];
    for (lock, fate) in before.locks.iter().zip(&mut returns) {
        let Some(places) = exact.get_mut(lock) else { continue };
        let doubtful = places.len() <= doubts.get(lock).copied().unwrap_or_default();
        if let Some(place) = places.pop() {
            *fate = if doubtful { Return::Unsure } else { Return::Back };
            if let Some(mark) = used.get_mut(place) {
                *mark = true;
            }
        }
    }
    let unknown: Vec<usize> = used.iter().enumerate().filter(|(_, used)| !**used).map(|(place, _)| place).collect();
    let mut loose: HashMap<&str, Vec<Loose<'_>>> = HashMap::new();
    for lock in unknown.iter().filter_map(|&place| now.locks.get(place)) {
        loose.entry(&lock.file).or_default().push(Loose { lock, covered: 0, is_sure: !doubts.contains_key(lock) });
    }
    for (lock, _) in before.locks.iter().zip(&returns).filter(|(_, fate)| **fate == Return::Missing) {
        let near = loose.get_mut(lock.file.as_str()).map(Vec::as_mut_slice).unwrap_or_default();
        near.iter_mut().filter(|now| now.covers(lock)).for_each(|now| now.covered += 1);
    }
    let mut newcomers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, local) in now.local.iter().enumerate().filter(|(_, local)| !before.local.contains(local)) {
        newcomers.entry(&local.lock.file).or_default().push(place);
    }
    let mut thieves = vec![None; before.locks.len()];
    for ((lock, fate), thief) in before.locks.iter().zip(&mut returns).zip(&mut thieves) {
        if *fate != Return::Missing {
            continue;
        }
        let near = loose.get(lock.file.as_str()).map(Vec::as_slice).unwrap_or_default();
        let covering = near.iter().filter(|now| now.covers(lock));
        let (count, most) = covering.fold((0, 0), |(count, most), now| (count + 1, now.covered.max(most)));
        if count > 0 {
            // With as many as that for each lock that they cover, there is one for each of those locks.
            *fate = if count >= most { Return::Back } else { Return::OneOfSeveral };
            continue;
        }
        if near.iter().any(|now| now.lock.range().overlaps(lock.range())) {
            *fate = Return::Partly;
        }
        let locals = newcomers.get(lock.file.as_str()).map(Vec::as_slice).unwrap_or_default();
        *thief =
            locals.iter().copied().find(|&place| now.local.get(place).is_some_and(|local| local.lock.conflicts(lock)));
    }
    for (lock, fate) in before.locks.iter().zip(&mut returns).filter(|(_, fate)| **fate != Return::Back) {
        // Of equal ones those that are not back are those that were not there for sure.
        let doubted = doubts_before.get_mut(lock).filter(|left| **left > 0);
        if !now.unsure.is_empty() || doubted.is_some() {
            *fate = Return::Unsure;
        }
        if let Some(left) = doubted {
            *left -= 1;
        }
    }
    let is_new = |place: &usize| now.locks.get(*place).is_some_and(|lock| !doubts.contains_key(lock));
    let unknown = unknown.into_iter().filter(|place| before.unsure.is_empty() && is_new(place)).collect();
    Comparison { returns, unknown, thieves }
}

/// A lock held now that is not equal to one before.
struct Loose<'a> {
    lock: &'a Lock,
    /// How many of those that are missing it covers.
    covered: usize,
    /// Whether it was seen each time.
    is_sure: bool,
}

impl Loose<'_> {
    fn covers(&self, before: &Lock) -> bool {
        self.is_sure && self.lock.covers(before)
    }
}

fn counted(locks: &[Lock]) -> HashMap<&Lock, usize> {
    let mut counts = HashMap::new();
    for lock in locks {
        *counts.entry(lock).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lock(file: &str, exclusive: bool, start: u64, end: u64) -> Lock {
        Lock { file: file.into(), exclusive, start, end }
    }

    fn sight(locks: &[Lock]) -> Snapshot {
        Snapshot { locks: locks.to_vec(), ..Snapshot::default() }
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
    fn one_longer_lock_is_not_the_return_of_several_and_nobody_knows_of_which() {
        use Return::{Back, Missing, OneOfSeveral};
        let read = |start, end| lock("a", false, start, end);
        for (before, now, returns) in [
            (vec![read(0, 9), read(10, 19)], vec![read(0, 19)], vec![OneOfSeveral; 2]),
            (vec![read(0, 9), read(0, 9)], vec![read(0, 19)], vec![OneOfSeveral; 2]),
            (vec![read(0, 9), read(20, 29)], vec![lock("a", true, 0, 29)], vec![OneOfSeveral; 2]),
            (vec![read(0, 9), read(0, 9)], vec![read(0, 9), read(0, 19)], vec![Back; 2]),
            (vec![read(0, 9), read(5, 14)], vec![read(0, 19), read(0, 29)], vec![Back; 2]),
            (vec![read(0, 9), read(5, 24)], vec![read(0, 19)], vec![Back, Return::Partly]),
            (vec![read(0, 9), lock("b", false, 0, 9)], vec![read(0, 19)], vec![Back, Missing]),
        ] {
            assert_eq!(compare(&sight(&before), &sight(&now)).returns, returns, "{before:?} {now:?}");
        }
    }

    /// Whether each of these can have a lock of its own among those held now.
    fn each_has_its_own(before: &[&Lock], now: &[Lock]) -> bool {
        fn find(
            wanted: &Lock,
            before: &[&Lock],
            now: &[Lock],
            tried: &mut [bool],
            given: &mut [Option<usize>],
            who: usize,
        ) -> bool {
            (0..now.len()).any(|place| {
                if tried[place] || now[place].file != wanted.file || !now[place].covers(wanted) {
                    return false;
                }
                tried[place] = true;
                let is_free = given[place].is_none_or(|other| find(before[other], before, now, tried, given, other));
                if is_free {
                    given[place] = Some(who);
                }
                is_free
            })
        }
        let mut given = vec![None; now.len()];
        (0..before.len()).all(|who| find(before[who], before, now, &mut vec![false; now.len()], &mut given, who))
    }

    fn locks() -> impl Strategy<Value = Vec<Lock>> {
        let one = (0..2_u8, any::<bool>(), 0..6_u64, 0..6_u64);
        let lock = one.prop_map(|(file, exclusive, start, len)| lock(&file.to_string(), exclusive, start, start + len));
        proptest::collection::vec(lock, 0..8)
    }

    proptest! {
        #[test]
        fn each_lock_that_is_back_has_one_of_its_own_that_is_held_now(before in locks(), now in locks()) {
            let seen = compare(&sight(&before), &sight(&now));
            let back: Vec<&Lock> = seen.held().into_iter().map(|place| &before[place]).collect();
            prop_assert!(each_has_its_own(&back, &now), "{seen:?}");
            for (lock, fate) in before.iter().zip(&seen.returns) {
                let count = |all: &[Lock]| all.iter().filter(|other| *other == lock).count();
                let backs = back.iter().filter(|other| **other == lock).count();
                prop_assert!(backs >= count(&now).min(count(&before)), "{lock:?}: {seen:?}");
                let covered = now.iter().any(|held| held.file == lock.file && held.covers(lock));
                prop_assert!(covered || matches!(fate, Return::Missing | Return::Partly), "{lock:?}: {seen:?}");
            }
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
        let before = Snapshot {
            locks: vec![lock("a", true, 0, 9), lock("b", false, 0, 9), lock("c", true, 0, 9)],
            local: vec![old.clone()],
            ..Snapshot::default()
        };
        let now = Snapshot {
            local: vec![old, local(lock("a", true, 5, 5), 8), local(lock("c", true, 100, 110), 9)],
            ..Snapshot::default()
        };
        assert_eq!(compare(&before, &now).thieves, [Some(1), None, None]);
    }

    fn doubted(locks: &[Lock], unsure: &[Lock]) -> Snapshot {
        Snapshot { unsure: unsure.to_vec(), ..sight(locks) }
    }

    #[test]
    fn a_lock_that_was_not_seen_each_time_is_neither_back_nor_missing() {
        let (one, two, three) = (lock("a", true, 0, 9), lock("b", true, 0, 9), lock("c", true, 0, 9));
        let before = sight(&[one.clone(), two.clone(), three.clone()]);
        let now = doubted(&[one.clone(), two.clone()], &[two]);
        // Where one was passed over, another that was not seen at all may have been as well.
        assert_eq!(compare(&before, &now).returns, [Return::Back, Return::Unsure, Return::Unsure]);
    }

    #[test]
    fn of_equal_locks_that_may_have_been_told_twice_only_those_seen_each_time_are_back() {
        let shared = lock("a", false, 0, 9);
        let before = sight(&[shared.clone(), shared.clone()]);
        let now = doubted(&[shared.clone(), shared.clone()], std::slice::from_ref(&shared));
        assert_eq!(compare(&before, &now).returns, [Return::Back, Return::Unsure]);
    }

    #[test]
    fn a_lock_that_may_not_have_been_there_before_is_not_missed_and_one_not_seen_then_is_not_new() {
        let (one, two, three) = (lock("a", true, 0, 9), lock("b", true, 0, 9), lock("c", true, 0, 9));
        let before = doubted(&[one.clone(), two.clone()], std::slice::from_ref(&two));
        let seen = compare(&before, &sight(std::slice::from_ref(&three)));
        assert_eq!((seen.returns, seen.unknown), (vec![Return::Missing, Return::Unsure], vec![]));
        assert_eq!(compare(&before, &sight(&[one, two])).returns, [Return::Back, Return::Back]);
    }

    #[test]
    fn shared_locks_of_both_take_nothing_from_each_other() {
        let now = Snapshot { local: vec![local(lock("a", false, 0, 9), 8)], ..Snapshot::default() };
        assert_eq!(compare(&sight(&[lock("a", false, 0, 9)]), &now).thieves, [None]);
    }
}
