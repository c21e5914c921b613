//! The locks of a lock manager, with what is known of each: whose it is, on which path, and behind whom it waits.

use std::collections::HashMap;

use serde::Serialize;

use super::{LockListing, OwnersReport};
use crate::wire::control::{AgedLock, LockKind, LockState};
use crate::wire::types::Address;

/// The locks of a lock manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LocksReport {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Who says so.
    pub manager: String,
    /// Whether it is known whose they are.
    pub owners: OwnersReport,
    /// The rows.
    pub locks: Vec<ListedLock>,
    /// Whether the text has all that is known of an owner. For the text only.
    #[serde(skip)]
    pub wide: bool,
}

/// A lock in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListedLock {
    /// The file handle, in hex.
    pub file: String,
    /// `read`, `write` or `share`.
    pub kind: String,
    /// First byte.
    pub start: u64,
    /// Last byte; none is "to end of file".
    pub end: Option<u64>,
    /// `held`, `pending`, `waiting` or `offered`.
    pub state: String,
    /// For how many seconds its owner has had it, or the request has waited; none where the lock manager does not know.
    pub age_s: Option<u32>,
    /// Whether its client can be notified; none where it is not known whose it is.
    pub monitored: Option<bool>,
    /// Whose; nothing of it where that is not known.
    pub owner: ListedOwner,
    /// The file's absolute path on the server; none where it is not known. A byte that is no UTF-8 is `\xNN`.
    pub path: Option<String>,
    /// The export that the path is in.
    pub export: Option<String>,
    /// The path from there.
    pub path_in_export: Option<String>,
    /// Whether the path was removed while the file is open.
    pub deleted: bool,
    /// Device and inode, as `/proc/locks` has them; none where the lock manager tells none.
    pub inode: Option<String>,
    /// Why its client may not know it any more, though its process may believe in it: a reclaim of it may have been refused
    /// in this run. Runs keep it. None where nothing is known against it.
    pub unsure: Option<String>,
    /// Of one that waits: whose locks are in its way. None where that was not looked for.
    pub behind: Option<Vec<Behind>>,
}

/// Whose a lock is, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListedOwner {
    /// The client's name.
    pub name: Option<String>,
    /// Its address.
    pub address: Option<Address>,
    /// The server address it called.
    pub server_address: Option<Address>,
    /// `udp` or `tcp`.
    pub transport: Option<String>,
    /// The NLM version it spoke.
    pub version: Option<u32>,
    /// Its process number; a share of the kernel's lockd has none.
    pub svid: Option<i32>,
    /// Its owner handle, in hex; the kernel's lockd keeps none of a granted lock.
    pub oh: Option<String>,
}

/// An owner in the way of one that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Behind {
    /// The client's name.
    pub name: Option<String>,
    /// Its address.
    pub address: Option<Address>,
    /// Its process number.
    pub svid: Option<i32>,
}

impl From<&AgedLock> for ListedLock {
    fn from(AgedLock { lock: row, age_s }: &AgedLock) -> Self {
        let LockListing { file, kind, start, end, state, monitored, owner } = LockListing::from(row);
        Self {
            file,
            kind,
            start,
            end,
            state,
            age_s: age_s.0,
            monitored: Some(monitored),
            owner: ListedOwner {
                name: Some(owner.name),
                address: owner.address,
                server_address: owner.server_address,
                transport: owner.transport,
                version: owner.version,
                svid: owner.svid,
                oh: owner.oh,
            },
            path: None,
            export: None,
            path_in_export: None,
            deleted: false,
            inode: None,
            unsure: None,
            behind: None,
        }
    }
}

impl ListedLock {
    /// Of a manager that does not tell whose it is, and has device and inode in place of a handle.
    pub fn without_owner(row: &AgedLock) -> Self {
        let inode = std::str::from_utf8(row.lock.file.as_slice()).ok().map(str::to_owned);
        Self { monitored: None, owner: ListedOwner::default(), inode, ..Self::from(row) }
    }

    fn waits(&self) -> bool {
        self.state == LockState::Waiting.to_string()
    }
    /// What tells its file from others: one file may have several handles.
    fn place(&self) -> &str {
        self.inode.as_deref().unwrap_or(&self.file)
    }
    fn is_in_the_way_of(&self, other: &Self) -> bool {
        let is_share = |lock: &Self| lock.kind == LockKind::Share.to_string();
        let writes = |lock: &Self| lock.kind == LockKind::Exclusive.to_string();
        let end = |lock: &Self| lock.end.unwrap_or(u64::MAX);
        !self.waits()
            && !is_share(self)
            && !is_share(other)
            && (writes(self) || writes(other))
            && self.start <= end(other)
            && other.start <= end(self)
            && !self.owner.is(&other.owner)
    }
}

impl ListedOwner {
    /// Whether both are one owner; a lock manager may have kept the owner handle of one only.
    fn is(&self, other: &Self) -> bool {
        let oh = |one: &Self| one.oh.clone();
        let comparable = oh(self).is_none() || oh(other).is_none();
        let bare = |one: &Self| Self { oh: None, ..one.clone() };
        bare(self) == bare(other) && (comparable || oh(self) == oh(other))
    }
}

/// Says of each that waits whose locks are in its way. All locks must be in the list.
pub fn find_behind(locks: &mut [ListedLock]) {
    let mut on: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, lock) in locks.iter().enumerate() {
        on.entry(lock.place().to_owned()).or_default().push(place);
    }
    let mut found = Vec::new();
    for (place, waiting) in locks.iter().enumerate().filter(|(_, lock)| lock.waits()) {
        let those = on.get(waiting.place()).into_iter().flatten().filter_map(|place| locks.get(*place));
        let mut behind: Vec<Behind> = Vec::new();
        for lock in those.filter(|lock| lock.is_in_the_way_of(waiting)) {
            let ListedOwner { name, address, svid, .. } = lock.owner.clone();
            let owner = Behind { name, address, svid };
            if !behind.contains(&owner) {
                behind.push(owner);
            }
        }
        found.push((place, behind));
    }
    for (place, behind) in found {
        if let Some(lock) = locks.get_mut(place) {
            lock.behind = Some(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Owner;
    use crate::wire::control::{LockRow, OwnerRow};
    use crate::wire::types::{ByteRange, CallerName, FileHandle, OwnerHandle, Svid, Transport};

    fn lock(svid: i32, state: LockState, start: u64, end: u64) -> ListedLock {
        ListedLock::from(&AgedLock::from(LockRow {
            file: FileHandle::new(b"00:1a:2").unwrap(),
            kind: LockKind::Exclusive,
            range: ByteRange { start, end },
            state,
            monitored: true,
            owner: OwnerRow {
                name: CallerName::new("c1").unwrap(),
                address: Address("192.0.2.9".parse().unwrap()),
                server_address: Address("192.0.2.1".parse().unwrap()),
                transport: Transport::Tcp,
                version: 4,
                svid: Svid(svid),
                oh: OwnerHandle::new(b"o").unwrap(),
            },
        }))
    }

    fn behind(locks: &mut [ListedLock]) -> Vec<Option<Vec<Option<i32>>>> {
        find_behind(locks);
        let svids = |behind: &Vec<Behind>| behind.iter().map(|one| one.svid).collect();
        locks.iter().map(|lock| lock.behind.as_ref().map(svids)).collect()
    }

    #[test]
    fn one_that_waits_is_behind_those_whose_locks_are_in_its_way_each_once() {
        use LockState::{Held, Waiting};
        let read = ListedLock { kind: "read".into(), ..lock(4, Held, 0, 9) };
        let elsewhere = ListedLock { inode: Some("00:1a:3".into()), ..lock(5, Held, 0, 9) };
        let mut locks = vec![
            lock(1, Held, 0, 4),
            lock(1, Held, 6, 6),
            lock(2, Held, 10, u64::MAX),
            lock(3, Waiting, 0, 9),
            read.clone(),
            elsewhere,
            ListedLock { owner: ListedOwner { oh: None, ..lock(3, Held, 0, 0).owner }, ..lock(3, Held, 7, 7) },
        ];
        let expected = [None, None, None, Some(vec![Some(1), Some(4)]), None, None, None];
        assert_eq!(behind(&mut locks), expected);
        let mut readers = vec![read.clone(), ListedLock { state: "waiting".into(), ..read }];
        readers[1].owner.svid = Some(9);
        assert_eq!(behind(&mut readers), [None, Some(vec![])]);
    }

    #[test]
    fn a_lock_whose_owner_is_not_known_has_nothing_that_was_made_up() {
        let row = LockRow {
            file: FileHandle::new(b"00:1a:2").unwrap(),
            kind: LockKind::Shared,
            range: ByteRange::ALL,
            state: LockState::Held,
            monitored: true,
            owner: OwnerRow {
                name: CallerName::of_words("owner not known"),
                address: Address("0.0.0.0".parse().unwrap()),
                server_address: Address("0.0.0.0".parse().unwrap()),
                transport: Transport::Tcp,
                version: 0,
                svid: Svid(0),
                oh: OwnerHandle::default(),
            },
        };
        let Owner { address, server_address, transport, version, svid, oh, .. } = Owner::from(&row.owner);
        assert_eq!((address, server_address, transport, version, svid, oh), (None, None, None, None, None, None));
        let shown = ListedLock::without_owner(&row.into());
        assert_eq!((shown.owner, shown.monitored), (ListedOwner::default(), None));
        assert_eq!(shown.inode.as_deref(), Some("00:1a:2"));
    }
}
