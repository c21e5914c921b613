//! The locks of a lock manager, with what is known of each: its owner, its path, and the owners that it waits for.

use serde::Serialize;

use super::rows::{self, Rows};
use super::{LockListing, OwnersReport};
use crate::wire::control::AgedLock;
use crate::wire::types::Address;

/// The locks of a lock manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LocksReport<L: Rows<Row = ListedLock> = Vec<ListedLock>> {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The lock manager that says so, by its kind.
    pub manager: String,
    /// Whether the owners of locks are known.
    pub owners: OwnersReport,
    #[serde(serialize_with = "rows::serialize")]
    pub locks: L,
    /// Whether the text has all that is known of an owner. For the text only.
    #[serde(skip)]
    pub wide: bool,
    /// Whether the list has all locks, and not only those that options select. For the text only.
    #[serde(skip)]
    pub whole: bool,
}

/// A lock in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListedLock {
    /// The file handle, in hex.
    pub file: String,
    /// `read`, `write` or `share`.
    pub kind: String,
    /// First byte, from 0.
    pub start: u64,
    /// Last byte; none means "to end of file".
    pub end: Option<u64>,
    /// `held`, `pending`, `waiting` or `offered`.
    pub state: String,
    /// Age in seconds: since the grant, or since the waiting request arrived; none if the lock manager does not know
    /// it.
    pub age_s: Option<u32>,
    /// Whether its client can be notified; none if its owner is not known.
    pub monitored: Option<bool>,
    /// Its owner; empty if that is not known.
    pub owner: ListedOwner,
    /// The file's absolute path on the server; none if it is not known. A byte that is not UTF-8 is shown as `\xNN`.
    pub path: Option<String>,
    /// The export that the path is in.
    pub export: Option<String>,
    /// The path below the export.
    pub path_in_export: Option<String>,
    /// Whether the path was removed while the file is open.
    pub deleted: bool,
    /// Device and inode, as in `/proc/locks`; none if the lock manager does not tell them.
    pub inode: Option<String>,
    /// Why its client may no longer know it, though its process may believe in it: a reclaim of it may have been
    /// refused in this run. Runs keep the lock. None if there is no such reason.
    pub unsure: Option<String>,
    /// For a waiting request: the first 20 owners whose locks are in its way. None if this was not looked for.
    pub behind: Option<Vec<Behind>>,
    /// How many more owners have a lock in its way.
    pub behind_more: u64,
}

/// The owner of a lock, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListedOwner {
    /// The client's `caller_name`.
    pub name: Option<String>,
    /// The client's address.
    pub address: Option<Address>,
    /// The server address it called.
    pub server_address: Option<Address>,
    /// The transport it came by: `udp` or `tcp`.
    pub transport: Option<String>,
    /// The NLM version it spoke.
    pub version: Option<u32>,
    /// Its process number; a share of the kernel's lockd has none.
    pub svid: Option<i32>,
    /// Its owner handle, in hex; the kernel's lockd keeps none of a granted lock.
    pub oh: Option<String>,
}

/// What a lock manager that looks into the kernel knows besides of a lock.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The file's path; a byte that is no UTF-8 is `\xNN`.
    pub path: Option<String>,
    /// The export that it is in.
    pub export: Option<String>,
    /// Whether the path was removed.
    pub deleted: bool,
    /// Device and inode: these tell the file from others, which may have several handles.
    pub inode: String,
    /// Why its client may not know it any more.
    pub unsure: Option<String>,
    /// Whether it has a process.
    pub has_svid: bool,
    /// Whether it has an owner handle.
    pub has_oh: bool,
}

/// An owner whose lock is in the way of a waiting request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Behind {
    /// The client's `caller_name`.
    pub name: Option<String>,
    /// The client's address.
    pub address: Option<Address>,
    /// The number of its process (svid).
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
            behind_more: 0,
        }
    }
}

impl ListedLock {
    /// For a manager that does not tell the owner, and has device and inode instead of a handle.
    pub fn without_owner(row: &AgedLock) -> Self {
        let inode = std::str::from_utf8(row.lock.file.as_slice()).ok().map(str::to_owned);
        Self { monitored: None, owner: ListedOwner::default(), inode, ..Self::from(row) }
    }

    /// With what is known of it besides.
    #[must_use]
    pub(super) fn with(self, known: &Known) -> Self {
        let Known { path, export, deleted, inode, unsure, has_svid, has_oh } = known.clone();
        let below = |(path, export): (&String, &String)| {
            Some(path.strip_prefix(export.as_str())?.trim_start_matches('/').to_owned())
        };
        Self {
            path_in_export: path.as_ref().zip(export.as_ref()).and_then(below),
            path,
            export,
            deleted,
            inode: Some(inode),
            unsure,
            owner: ListedOwner {
                svid: self.owner.svid.filter(|_| has_svid),
                oh: self.owner.oh.filter(|_| has_oh),
                ..self.owner
            },
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Owner;
    use crate::wire::control::{LockKind, LockRow, LockState, OwnerRow};
    use crate::wire::types::{ByteRange, CallerName, FileHandle, OwnerHandle, Svid, Transport};

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
