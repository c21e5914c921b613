//! `--record all`: a row for every lock in scope, also for those whose fate the manager only counts.
//!
//! The manager's result has rows for what was dropped, kept, resurrected or refused. Of the other
//! locks it says how many were reclaimed and released, not which: so the locks listed just before
//! the run are looked for in a list made after it. One that is still there was reclaimed (in a
//! settled run an unclaimed lock is dropped or kept, and has a row), one that is not was released. Where some are
//! unverified that does not follow: which ones is not known, so no row is made up. Nor is one of a lock that is gone while an
//! equal one is held from another address: its host may have moved and reclaimed it from there, or a clone has it.
//!
//! Only the list of before is held, a row of numbers for each lock; each page of the list made after it is looked up there
//! and let go.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::error::ControllerError;
use super::record::Record;
use crate::manager::{LockManager, ManagerError};
use crate::report::LockList;
use crate::store::{LOCKS_AT_ONCE, Store};
use crate::units::count;
use crate::wire::control::{AgedLock, Fate, LockFate, LockRow, LockState, OwnerRow, RunId, Scope};
use crate::wire::types::{ByteRange, FileHandle};
use crate::wire::xdr::Maybe;

/// The place of the first row in the record: beyond those of the result, which may be fetched again
/// and be longer then, by late reclaims.
const FIRST: u64 = 1 << 32;

/// The locks that a run is to cover.
pub(super) async fn list(
    manager: &dyn LockManager,
    scope: &Scope,
    include_unmonitored: bool,
) -> Result<LockList, ManagerError> {
    let mut locks = LockList::default();
    let mut take = |lock: AgedLock| {
        if is_covered(&lock.lock, include_unmonitored) {
            locks.push(&lock, None, true);
        }
    };
    manager.each_lock(scope, &mut take).await?;
    Ok(locks)
}

fn is_covered(lock: &LockRow, include_unmonitored: bool) -> bool {
    is_held(lock) && (lock.monitored || include_unmonitored)
}

fn is_held(lock: &LockRow) -> bool {
    matches!(lock.state, LockState::Held | LockState::Pending)
}

/// The known fate of each.
#[derive(Debug)]
struct Rest {
    /// By owner and file.
    locks: LockList,
    /// For each lock the last byte that its owner has on its file up to there, also where pages of a list that changed
    /// meanwhile had ranges that overlap.
    reach: Vec<u64>,
    /// None where the result has a row.
    fates: Vec<Option<Fate>>,
    /// What is held by owners who had nothing on that file from where they call now: a hash of each lock without the
    /// address.
    elsewhere: HashSet<u64>,
    hasher: RandomState,
}

impl Rest {
    fn of(mut locks: LockList) -> Self {
        locks.sort_by_owner();
        let mut reach: Vec<u64> = Vec::with_capacity(locks.len());
        let mut group = 0..0;
        for place in 0..locks.len() {
            let before = if group.contains(&place) { reach.last().copied() } else { None };
            if let (None, Some(lock)) = (before, locks.get(place)) {
                group = locks.of_owner(&lock.owner, &lock.file, u64::MAX);
            }
            let end = locks.range(place).map(|range| range.end);
            reach.push(end.max(before).unwrap_or(0));
        }
        let fates = vec![Some(Fate::Released); locks.len()];
        Self { locks, reach, fates, elsewhere: HashSet::new(), hasher: RandomState::new() }
    }

    /// Says what became of that which this owner had of these bytes. What the result told stays.
    fn say(&mut self, (owner, file, range): (&OwnerRow, &FileHandle, ByteRange), fate: Option<Fate>) {
        for place in self.locks.of_owner(owner, file, range.end).rev() {
            if self.reach.get(place).is_none_or(|reach| *reach < range.start) {
                break;
            }
            let is_met = self.locks.range(place).is_some_and(|mine| mine.overlaps(range));
            if let Some(known) = self.fates.get_mut(place).filter(|_| is_met) {
                *known = known.and(fate);
            }
        }
    }

    /// A result's row. What was dropped or kept in part only is told by that row alone.
    fn told(&mut self, row: &LockFate) {
        if matches!(row.fate, Fate::Dropped | Fate::Kept) {
            self.say((&row.owner, &row.file, row.range), None);
        }
    }

    /// What is there after the run. An owner that has given up its lock may wait for the same bytes again.
    fn found(&mut self, lock: &LockRow) {
        if !is_held(lock) {
            return;
        }
        if self.locks.of_owner(&lock.owner, &lock.file, u64::MAX).is_empty() {
            self.elsewhere.insert(self.hash(lock));
        }
        self.say((&lock.owner, &lock.file, lock.range), Some(Fate::Reclaimed));
    }

    fn hash(&self, LockRow { file, kind, range, owner, .. }: &LockRow) -> u64 {
        self.hasher.hash_one((file, kind, range, &owner.name, owner.svid, &owner.oh))
    }

    fn rows(&self) -> impl Iterator<Item = LockFate> {
        self.fates.iter().enumerate().filter_map(|(place, fate)| {
            let lock = self.locks.get(place).filter(|_| fate.is_some())?;
            if *fate == Some(Fate::Released) && self.elsewhere.contains(&self.hash(&lock)) {
                return None;
            }
            let LockRow { file, kind, range, owner, .. } = lock;
            let (other, other_range) = (Maybe(None), Maybe(None));
            Some(LockFate { fate: (*fate)?, file, kind, range, partial: false, late: false, owner, other, other_range })
        })
    }
}

/// Adds the rows that the result of a settled run does not have.
pub(super) async fn add(
    manager: &dyn LockManager,
    record: &Record,
    run: RunId,
    scope: &Scope,
    before: LockList,
) -> Result<(), ControllerError> {
    let unverified = record.with(move |store| Ok(store.report(run)?.locks.unverified)).await?;
    if unverified > 0 {
        let line = format!(
            "no rows for reclaimed or released locks: the fate of {} is unverified, and it is not known which",
            count(unverified, "lock")
        );
        return record.with(move |store| store.event(run, "record", &line)).await;
    }
    let mut rest = Rest::of(before);
    manager.each_lock(scope, &mut |lock| rest.found(&lock.lock)).await?;
    let told = move |store: &mut Store| {
        store.detail(run)?.lock_rows.look(|row| rest.told(&row))?;
        Ok(rest)
    };
    let rest = record.with(told).await?;
    let (mut rows, mut first) = (rest.rows(), FIRST);
    loop {
        let page: Vec<_> = rows.by_ref().take(LOCKS_AT_ONCE).collect();
        if page.is_empty() {
            return Ok(());
        }
        let start = first;
        first += page.len() as u64;
        record.with(move |store| store.record_lock_fates(run, start, &page)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::Fake;
    use crate::report::{Outcome, ScopeReport};
    use crate::store::{NewRun, RunOutcome, Store};
    use crate::wire::control::{BeginArgs, Counts};
    use crate::wire::types::FileHandle;

    fn lock(svid: i32, start: u64, end: u64) -> LockRow {
        LockRow::sample(svid, start, end)
    }

    fn fate(row: &LockRow, fate: Fate) -> LockFate {
        LockFate::sample(row.clone(), fate)
    }

    fn list(rows: &[LockRow]) -> LockList {
        let mut list = LockList::default();
        for row in rows {
            list.push(&row.clone().into(), None, true);
        }
        list
    }

    /// By svid and first byte.
    fn fates(before: &[LockRow], told: &[LockFate], after: &[LockRow]) -> Vec<(i32, u64, Fate)> {
        let mut rest = Rest::of(list(before));
        for lock in after {
            rest.found(lock);
        }
        for row in told {
            rest.told(row);
        }
        rest.rows().map(|row| (row.owner.svid.0, row.range.start, row.fate)).collect()
    }

    #[test]
    fn what_is_still_there_was_reclaimed_what_is_not_was_released_and_a_known_fate_stays() {
        let before = [lock(1, 0, 9), lock(2, 0, 9), lock(3, 0, 9)];
        let told = [fate(&before[2], Fate::Dropped), fate(&before[1], Fate::Conflict)];
        let waiting = LockRow { state: LockState::Waiting, ..lock(2, 0, 9) };
        let fates = fates(&before, &told, &[lock(1, 5, 6), waiting, lock(3, 0, 9)]);
        assert_eq!(fates, [(1, 0, Fate::Reclaimed), (2, 0, Fate::Released)]);
    }

    #[test]
    fn of_a_lock_that_is_held_from_another_address_since_no_row_is_made_up() {
        let before = [lock(1, 0, 9), lock(1, 20, 29), lock(2, 0, 9)];
        let moved = |row: &LockRow| {
            let mut row = row.clone();
            row.owner.address = "192.0.2.99".parse().unwrap();
            row
        };
        let fates = fates(&before, &[], &[moved(&before[0]), moved(&lock(2, 0, 5))]);
        assert_eq!(fates, [(1, 20, Fate::Released), (2, 0, Fate::Released)]);
    }

    #[test]
    fn a_request_that_waits_is_not_covered_and_an_unmonitored_lock_if_it_was_included() {
        let waiting = LockRow { state: LockState::Waiting, ..lock(4, 0, 9) };
        let unmonitored = LockRow { monitored: false, ..lock(5, 0, 9) };
        let of = |include| [&lock(1, 0, 9), &waiting, &unmonitored].map(|row| is_covered(row, include));
        assert_eq!((of(false), of(true)), ([true, false, false], [true, false, true]));
    }

    #[test]
    fn of_many_ranges_of_one_owner_those_alone_are_reclaimed_that_are_met_also_where_a_list_overlaps() {
        use Fate::{Reclaimed, Released};
        let before = [lock(1, 40, 49), lock(1, 0, 99), lock(1, 20, 29), lock(1, 0, 99), lock(1, 200, u64::MAX)];
        let met = |start, end| fates(&before, &[], &[lock(1, start, end), lock(2, 0, u64::MAX)]);
        assert_eq!(met(49, 60), [(1, 0, Reclaimed), (1, 20, Released), (1, 40, Reclaimed), (1, 200, Released)]);
        assert_eq!(met(100, 199).iter().filter(|(_, _, fate)| *fate == Reclaimed).count(), 0);
        assert_eq!(met(250, 250).last(), Some(&(1, 200, Reclaimed)));
        let mut elsewhere = lock(1, 0, u64::MAX);
        elsewhere.file = FileHandle::new(b"g").unwrap();
        assert!(fates(&before, &[], &[elsewhere]).iter().all(|(_, _, fate)| *fate == Released));
    }

    /// A record in this folder, with a run.
    fn in_a_record(dir: &std::path::Path, run: RunId) -> Store {
        let mut store = Store::open(&dir.join("runs.db")).unwrap();
        store
            .create_run(&NewRun {
                manager: "fake".to_owned(),
                endpoint: "memory".to_owned(),
                knows_owners: true,
                locks_listed: true,
                fingerprint: "f".to_owned(),
                scope: ScopeReport::default(),
                names: Vec::new(),
                begin: BeginArgs::sample(run),
            })
            .unwrap();
        store
    }

    #[tokio::test]
    async fn where_some_locks_are_unverified_no_fate_is_made_up_and_the_timeline_says_so() {
        let (dir, run) = (tempfile::tempdir().unwrap(), RunId([1; 16]));
        let mut store = in_a_record(dir.path(), run);
        let counts = Counts { in_scope: 2, reclaimed: 1, unverified: 1, ..Counts::default() };
        let ended = RunOutcome {
            outcome: Outcome::Settled,
            reason: None,
            not_understood: false,
            alone: false,
            ended_unix_ms: None,
            counts: Some(counts),
            late: 0,
        };
        store.record_result(run, &ended).unwrap();
        let record = Record::new(store);
        add(&*Fake::new(0), &record, run, &Scope::default(), list(&[lock(3, 0, 9), lock(4, 0, 9)])).await.unwrap();
        let mut rows = 0;
        let (rows, events) = record
            .with(move |store| {
                let detail = store.detail(run)?;
                detail.lock_rows.look(|_| rows += 1)?;
                Ok((rows, detail.events))
            })
            .await
            .unwrap();
        assert_eq!(rows, 0);
        assert!(events.iter().any(|event| event.detail.contains("1 lock is unverified")), "{events:?}");
    }

    #[tokio::test]
    async fn a_result_that_is_longer_when_it_is_fetched_again_overwrites_none_of_these_rows() {
        let (dir, run) = (tempfile::tempdir().unwrap(), RunId([1; 16]));
        let mut store = in_a_record(dir.path(), run);
        let result = [lock(1, 0, 9), lock(2, 0, 9)].map(|row| fate(&row, Fate::Dropped));
        store.record_lock_fates(run, 0, &result[..1]).unwrap();
        let record = Record::new(store);
        let before = list(&[lock(3, 0, 9), lock(4, 0, 9)]);
        add(&*Fake::new(0), &record, run, &Scope::default(), before).await.unwrap();
        let mut svids = Vec::new();
        let svids = record
            .with(move |store| {
                store.record_lock_fates(run, 0, &result)?;
                store.detail(run)?.lock_rows.look(|row| svids.push(row.owner.svid.0))?;
                Ok(svids)
            })
            .await
            .unwrap();
        assert_eq!(svids, [1, 2, 3, 4]);
    }
}
