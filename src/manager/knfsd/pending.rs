//! Which of lockd's locks an active run has pending. lockd does not know that; the process in front of it does.

use std::collections::HashMap;

use super::owners::OwnerKey;

use crate::manager::OwnedLock;
use crate::ranges::{intersection, uncovered};
use crate::wire::control::{LockKind, LockRow, LockState};
use crate::wire::types::{ByteRange, FileHandle, OwnerHandle};

/// Whose lock, and on which file. lockd tells shares apart by the owner handle, and locks by the process.
type Place = (OwnerKey, Option<OwnerHandle>, FileHandle);

fn place(lock: &LockRow) -> Place {
    let share = lock.kind == LockKind::Share;
    (OwnerKey::from(&lock.owner), share.then(|| lock.owner.oh.clone()), lock.file.clone())
}

/// The same locks; those that are pending say so. lockd joins neighbouring locks of one owner: one that is pending in part is
/// listed in pieces.
pub(super) fn mark(locks: Vec<OwnedLock>, rows: &[LockRow]) -> Vec<OwnedLock> {
    let mut pending: HashMap<Place, Vec<ByteRange>> = HashMap::new();
    for row in rows.iter().filter(|row| row.state == LockState::Pending) {
        pending.entry(place(row)).or_default().push(row.range);
    }
    let pieces = |lock: OwnedLock| {
        let found = pending.get(&place(&lock.row())).filter(|_| lock.state != LockState::Waiting);
        let met: Vec<ByteRange> = found.into_iter().flatten().copied().filter(|r| r.overlaps(lock.range)).collect();
        let held = uncovered(lock.range, met.iter().copied()).into_iter().map(|range| (range, lock.state));
        let met = met.iter().map(|range| (intersection(*range, lock.range), LockState::Pending));
        held.chain(met).map(|(range, state)| OwnedLock { range, state, ..lock.clone() }).collect::<Vec<_>>()
    };
    locks.into_iter().flat_map(pieces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::{Address, CallerName, Svid, Transport};

    fn lock(svid: i32, kind: LockKind, (start, end): (u64, u64)) -> OwnedLock {
        let address: Address = "192.0.2.7".parse().unwrap();
        let share = kind == LockKind::Share;
        OwnedLock {
            name: CallerName::new("c1").unwrap(),
            address,
            server_address: address,
            transport: Transport::Tcp,
            version: 4,
            svid: (!share).then_some(Svid(svid)),
            oh: share.then(|| OwnerHandle::new(&svid.to_be_bytes()).unwrap()),
            monitored: true,
            kind,
            range: ByteRange { start, end },
            state: LockState::Held,
            file: FileHandle::new(&[1]).unwrap(),
            inode: "08:01:2".to_owned(),
            path: None,
            deleted: false,
            export: None,
            unsure: None,
        }
    }

    /// As the process in front of lockd tells of it: its locks have an owner handle of its own making.
    fn told(lock: &OwnedLock, (start, end): (u64, u64), state: LockState) -> LockRow {
        let mut row = LockRow { range: ByteRange { start, end }, state, ..lock.row() };
        if lock.kind != LockKind::Share {
            row.owner.oh = OwnerHandle::new(b"lockd").unwrap();
        }
        row
    }

    fn marked(locks: &[OwnedLock], rows: &[LockRow]) -> Vec<(Option<Svid>, u64, u64, LockState)> {
        let mut all: Vec<_> = mark(locks.to_vec(), rows)
            .into_iter()
            .map(|lock| (lock.svid, lock.range.start, lock.range.end, lock.state))
            .collect();
        all.sort_by_key(|(svid, start, ..)| (*svid, *start));
        all
    }

    #[test]
    fn only_the_bytes_that_are_pending_for_that_owner_on_that_file_are_listed_so() {
        use LockState::{Held, Pending};
        let [one, two] = [1, 2].map(|svid| lock(svid, LockKind::Exclusive, (0, 99)));
        let rows = [told(&one, (10, 19), Pending), told(&one, (50, 120), Pending), told(&two, (0, 99), Held)];
        let (a, b) = (Some(Svid(1)), Some(Svid(2)));
        assert_eq!(
            marked(&[one.clone(), two.clone()], &rows),
            [(a, 0, 9, Held), (a, 10, 19, Pending), (a, 20, 49, Held), (a, 50, 99, Pending), (b, 0, 99, Held)]
        );
        let elsewhere = LockRow { file: FileHandle::new(&[2]).unwrap(), ..told(&one, (0, 99), Pending) };
        assert_eq!(marked(&[one], &[elsewhere]), [(a, 0, 99, Held)]);
    }

    #[test]
    fn a_share_is_pending_by_its_owner_handle_and_a_request_that_waits_never_is() {
        use LockState::{Held, Pending, Waiting};
        let [one, two] = [1, 2].map(|oh| lock(oh, LockKind::Share, (0, u64::MAX)));
        let rows = [told(&one, (0, u64::MAX), Pending)];
        let states: Vec<_> = mark(vec![one, two], &rows).into_iter().map(|share| share.state).collect();
        assert_eq!(states, [Pending, Held]);
        let waits = OwnedLock { state: Waiting, ..lock(1, LockKind::Exclusive, (0, 9)) };
        assert_eq!(
            marked(std::slice::from_ref(&waits), &[told(&waits, (0, 9), Pending)]),
            [(Some(Svid(1)), 0, 9, Waiting)]
        );
    }
}
