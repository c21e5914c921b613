//! `--record all`: a row for every lock in scope, also for those whose fate the manager only counts.
//!
//! The manager's result has rows for what was dropped, kept, resurrected or refused. Of the other
//! locks it says how many were reclaimed and released, not which: so the locks listed just before
//! the run are looked for in a list made after it. One that is still there was reclaimed (in a
//! settled run an unclaimed lock is dropped or kept, and has a row), one that is not was released.

use std::collections::{HashMap, HashSet};

use super::error::ControllerError;
use super::record::Record;
use crate::manager::LockManager;
use crate::report::LockReport;
use crate::wire::control::{Fate, LockFate, LockRow, LockState, RunId, Scope};
use crate::wire::types::ByteRange;
use crate::wire::xdr::Maybe;

/// Rows written at once.
const AT_ONCE: usize = 10_000;
/// The place of the first row in the record: beyond those of the result, which may be fetched again
/// and be longer then, by late reclaims.
const FIRST: u64 = 1 << 32;

/// Adds the rows that the result of a settled run does not have.
pub(super) async fn add(
    manager: &dyn LockManager,
    record: &Record,
    run: RunId,
    scope: &Scope,
    include_unmonitored: bool,
    before: Vec<LockRow>,
) -> Result<(), ControllerError> {
    let after = manager.all_locks(scope).await?;
    let known = record.with(move |store| store.detail(run)).await?.lock_rows;
    let rows = rest(before, include_unmonitored, &known, &after);
    let mut first = FIRST;
    for page in rows.chunks(AT_ONCE) {
        let (start, page) = (first, page.to_vec());
        first += page.len() as u64;
        record.with(move |store| store.record_lock_fates(run, start, &page)).await?;
    }
    Ok(())
}

/// What makes two rows one owner's on one file: name, svid, owner handle, file.
type Key = (String, i32, String, String);

fn key(row: &LockRow) -> Key {
    (row.owner.name.to_string(), row.owner.svid.0, row.owner.oh.to_string(), row.file.to_string())
}

fn rest(before: Vec<LockRow>, include_unmonitored: bool, known: &[LockReport], after: &[LockRow]) -> Vec<LockFate> {
    let mut told: HashMap<Key, Vec<ByteRange>> = HashMap::new();
    let lost = [Fate::Dropped.to_string(), Fate::Kept.to_string()];
    for row in known.iter().filter(|row| lost.contains(&row.fate)) {
        let (svid, oh) = (row.owner.svid.unwrap_or_default(), row.owner.oh.clone().unwrap_or_default());
        let owner = (row.owner.name.clone(), svid, oh, row.file.clone());
        told.entry(owner).or_default().push(ByteRange { start: row.start, end: row.end.unwrap_or(u64::MAX) });
    }
    let mut held: HashMap<Key, Vec<ByteRange>> = HashMap::new();
    for row in after {
        held.entry(key(row)).or_default().push(row.range);
    }
    let meets = |ranges: &HashMap<Key, Vec<ByteRange>>, row: &LockRow| {
        ranges.get(&key(row)).is_some_and(|ranges| ranges.iter().any(|range| range.overlaps(row.range)))
    };
    let mut seen = HashSet::new();
    before
        .into_iter()
        .filter(|row| matches!(row.state, LockState::Held | LockState::Pending))
        .filter(|row| row.monitored || include_unmonitored)
        .filter(|row| !meets(&told, row) && seen.insert((key(row), row.range)))
        .map(|row| LockFate {
            fate: if meets(&held, &row) { Fate::Reclaimed } else { Fate::Released },
            file: row.file,
            kind: row.kind,
            range: row.range,
            partial: false,
            late: false,
            owner: row.owner,
            other: Maybe(None),
            other_range: Maybe(None),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::Fake;
    use crate::report::ScopeReport;
    use crate::store::{NewRun, Store};
    use crate::wire::control::{BeginArgs, InstanceId, LockKind, Mode, OwnerRow, Policy, Silent, Unreachable};
    use crate::wire::types::{Address, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
    use crate::wire::xdr::List;

    fn lock(svid: i32, start: u64, end: u64) -> LockRow {
        LockRow {
            file: FileHandle::new(b"f").unwrap(),
            kind: LockKind::Exclusive,
            range: ByteRange { start, end },
            state: LockState::Held,
            monitored: true,
            owner: OwnerRow {
                name: CallerName::new("c").unwrap(),
                address: Address("192.0.2.9".parse().unwrap()),
                server_address: Address("192.0.2.1".parse().unwrap()),
                transport: Transport::Tcp,
                version: 4,
                svid: Svid(svid),
                oh: OwnerHandle::new(b"o").unwrap(),
            },
        }
    }

    fn dropped(row: &LockRow) -> LockReport {
        LockReport::from(&LockFate {
            fate: Fate::Dropped,
            file: row.file.clone(),
            kind: row.kind,
            range: row.range,
            partial: false,
            late: false,
            owner: row.owner.clone(),
            other: Maybe(None),
            other_range: Maybe(None),
        })
    }

    #[test]
    fn what_is_still_there_was_reclaimed_what_is_not_was_released_and_a_known_fate_stays() {
        let (kept_on, gone, lost) = (lock(1, 0, 9), lock(2, 0, 9), lock(3, 0, 9));
        let waiting = LockRow { state: LockState::Waiting, ..lock(4, 0, 9) };
        let unmonitored = LockRow { monitored: false, ..lock(5, 0, 9) };
        let before = vec![kept_on.clone(), gone, lost.clone(), waiting, unmonitored];
        let after = [lock(1, 5, 6), lock(3, 0, 9)];
        let rows = rest(before, false, &[dropped(&lost)], &after);
        let fates: Vec<_> = rows.iter().map(|row| (row.owner.svid.0, row.fate)).collect();
        assert_eq!(fates, [(1, Fate::Reclaimed), (2, Fate::Released)]);
    }
    #[tokio::test]
    async fn a_result_that_is_longer_when_it_is_fetched_again_overwrites_none_of_these_rows() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("runs.db")).unwrap();
        let run = RunId([1; 16]);
        let begin = BeginArgs {
            run,
            instance: InstanceId([2; 16]),
            nsm_state: NsmState(3),
            scope: Scope::default(),
            mode: Mode::Strict,
            policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false },
            may_drop: List::default(),
            grace_ms: 1,
            grace_max_ms: 1,
        };
        let (manager, endpoint) = ("fake".to_owned(), "memory".to_owned());
        let fingerprint = "f".to_owned();
        store
            .create_run(&NewRun {
                manager,
                endpoint,
                knows_owners: true,
                fingerprint,
                scope: ScopeReport::default(),
                names: Vec::new(),
                begin,
            })
            .unwrap();
        let result = rest(vec![lock(1, 0, 9), lock(2, 0, 9)], false, &[], &[]);
        store.record_lock_fates(run, 0, &result[..1]).unwrap();
        let record = Record::new(store);
        let before = vec![lock(3, 0, 9), lock(4, 0, 9)];
        add(&*Fake::new(0), &record, run, &Scope::default(), false, before).await.unwrap();
        let rows = record
            .with(move |store| {
                store.record_lock_fates(run, 0, &result)?;
                store.detail(run)
            })
            .await
            .unwrap()
            .lock_rows;
        assert_eq!(rows.iter().map(|row| row.owner.svid).collect::<Vec<_>>(), [1, 2, 3, 4].map(Some));
    }
}
