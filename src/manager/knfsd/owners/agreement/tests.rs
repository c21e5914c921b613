//! Agreement over histories in which locks come and go.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::wire::types::FileHandle;

/// A lock on one of two files.
fn lock(svid: i32, file: u64, exclusive: bool, start: u64, end: u64) -> HeldLock {
    let handle = FileHandle::new(&[u8::try_from(file).unwrap()]).unwrap();
    HeldLock { handle, inode: file, exclusive, start, end, ..HeldLock::sample(9, svid) }
}

fn listed(locks: &[HeldLock]) -> Vec<Lock> {
    let mut listed: Vec<Lock> = locks.iter().map(HeldLock::as_listed).collect();
    listed.sort_unstable();
    listed
}

/// What an agreement shows when it is reached by these passes, sorted.
fn reached(passes: &[(&[HeldLock], &[HeldLock])]) -> Option<Vec<HeldLock>> {
    let mut agreement = Agreement::default();
    for (memory, list) in passes {
        agreement.learn(memory.to_vec(), listed(list));
    }
    let mut locks = agreement.reached()?;
    locks.sort_unstable();
    Some(locks)
}

#[test]
fn a_lock_in_one_of_both_only_is_looked_for_again_and_the_others_stay_agreed() {
    let (stays, comes) = (lock(1, 1, true, 0, 9), lock(2, 1, true, 20, 29));
    let both = [stays.clone(), comes.clone()];
    let one = [stays.clone()];
    assert_eq!(reached(&[]), None);
    assert_eq!(reached(&[(&one, &both)]), None);
    assert_eq!(reached(&[(&one, &both), (&both, &both)]), Some(both.to_vec()));
    assert_eq!(reached(&[(&one, &both), (&one, &one)]), Some(one.to_vec()));
    // What came after the first pass is not waited for, and what was agreed then is as it was then.
    let newer = [comes.clone(), lock(3, 1, true, 40, 49)];
    assert_eq!(reached(&[(&one, &both), (&newer, &[comes])]), Some(both.to_vec()));
}

#[test]
fn a_read_lock_of_two_owners_must_be_there_twice_in_both() {
    let two = [lock(1, 1, false, 0, 9), lock(2, 1, false, 0, 9)];
    assert_eq!(reached(&[(&two, &two[..1])]), None);
    assert_eq!(reached(&[(&two[..1], &two)]), None);
    assert_eq!(reached(&[(&two[..1], &two), (&two, &two)]), Some(two.to_vec()));
}

#[test]
fn a_lock_that_is_found_later_proves_that_one_which_it_excludes_is_gone() {
    let (before, after) = (lock(1, 1, true, 0, 9), lock(2, 1, true, 5, 5));
    // The list was torn: it showed the old lock, and further on the one that took its place.
    let torn = [before.clone(), after.clone()];
    let (early, late) = ([before], [after]);
    assert_eq!(reached(&[(&early, &torn), (&late, &late)]), Some(late.to_vec()));
    // A merged lock of one owner, too.
    let (part, whole) = (lock(1, 1, false, 0, 4), lock(1, 1, false, 0, 9));
    let torn = [part.clone(), whole.clone()];
    let (early, late) = ([part], [whole]);
    assert_eq!(reached(&[(&early, &torn), (&late, &late)]), Some(late.to_vec()));
}

/// Locks as a kernel grants them: no two exclude each other.
struct History {
    rng: StdRng,
    held: Vec<HeldLock>,
    /// Held from the beginning, and never given back.
    lasting: Vec<HeldLock>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut history = Self { rng: StdRng::seed_from_u64(seed), held: Vec::new(), lasting: Vec::new() };
        history.go_on(60);
        history.lasting = history.held.iter().step_by(2).cloned().collect();
        history
    }

    fn go_on(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.rng.random_bool(0.5) && !self.held.is_empty() {
                let place = self.rng.random_range(0..self.held.len());
                if !self.lasting.contains(&self.held[place]) {
                    self.held.swap_remove(place);
                }
                continue;
            }
            let start = self.rng.random_range(0..40);
            let end = start + self.rng.random_range(0..6);
            let new = lock(self.rng.random_range(1..5), self.rng.random_range(1..3), self.rng.random(), start, end);
            if !self.held.iter().any(|held| held.excludes(&new)) {
                self.held.push(new);
            }
        }
    }

    /// The list as pages at several moments show it.
    fn torn(&mut self) -> Vec<HeldLock> {
        let mut seen = Vec::new();
        let early = self.held.clone();
        self.go_on(10);
        for lock in &early {
            if !self.rng.random_bool(0.02) {
                seen.push(lock.clone());
            }
        }
        seen.retain(|lock| self.held.contains(lock) || self.rng.random());
        for lock in &self.held {
            if self.rng.random_bool(0.02) || (!early.contains(lock) && self.rng.random()) {
                seen.push(lock.clone());
            }
        }
        seen
    }
}

#[test]
fn while_locks_come_and_go_a_view_is_reached_that_misses_no_lasting_lock_and_shows_no_two_that_exclude_each_other() {
    for seed in 0..1000 {
        let mut history = History::new(seed);
        let (mut agreement, mut ever) = (Agreement::default(), HashSet::new());
        let mut passes = 0;
        let view = loop {
            passes += 1;
            assert!(passes <= 30, "seed {seed}: {}", agreement.obstacle());
            ever.extend(listed(&history.held));
            let memory = history.held.clone();
            history.go_on(2);
            agreement.learn(memory, listed(&history.torn()));
            if let Some(view) = agreement.reached() {
                break view;
            }
        };
        for lasting in &history.lasting {
            assert!(view.contains(lasting), "seed {seed}: {lasting:?}");
        }
        for (place, lock) in view.iter().enumerate() {
            assert!(ever.contains(&lock.as_listed()), "seed {seed}: {lock:?}");
            let other = view[..place].iter().find(|other| other.excludes(lock));
            assert_eq!(other, None, "seed {seed}: {lock:?}");
        }
    }
}
