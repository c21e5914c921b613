//! What is wanted of the locks that a view with owners and paths has. Pure.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::choice::ReleaseRequest;
use crate::manager::{OwnedLock, OwnersView};
use crate::wire::control::{ClientRow, LockKind, LockRow, LockState};
use crate::wire::types::FileHandle;

#[derive(Debug)]
pub(super) struct Owned {
    pub(super) clients: Vec<ClientRow>,
    /// Locks on the wanted files. Shares are none: they go with their client only.
    pub(super) rows: Vec<LockRow>,
    /// Every request that waits.
    pub(super) waiting: Vec<LockRow>,
    pub(super) paths: HashMap<FileHandle, String>,
}

impl Owned {
    pub(super) fn of(request: &ReleaseRequest, view: OwnersView) -> Self {
        let locks: Vec<&OwnedLock> = view.locks.iter().filter(|lock| lock.kind != LockKind::Share).collect();
        let (waiting, held): (Vec<&OwnedLock>, Vec<_>) =
            locks.into_iter().partition(|lock| lock.state == LockState::Waiting);
        let path =
            |lock: &OwnedLock| Some((lock.file.clone(), String::from_utf8_lossy(lock.path.as_deref()?).into_owned()));
        Self {
            rows: held.iter().filter(|lock| is_on(request, lock)).map(|lock| lock.row()).collect(),
            waiting: waiting.into_iter().map(OwnedLock::row).collect(),
            paths: held.into_iter().filter_map(path).collect(),
            clients: view.clients,
        }
    }
}

/// Whether it is on one of the files, and in one of the exports, that are named; where none is, on any.
fn is_on(request: &ReleaseRequest, lock: &OwnedLock) -> bool {
    let has_handle = |text: &str| hex::decode(text).is_ok_and(|bytes| bytes == lock.file.as_slice());
    let has_path = |text: &str| lock.path.as_deref() == Some(text.as_bytes()) && !lock.deleted;
    let is_below = |text: &String| {
        let path = lock.path.as_deref().map(|path| Path::new(std::ffi::OsStr::from_bytes(path)));
        path.is_some_and(|path| path.starts_with(text))
    };
    (request.files.is_empty() || request.files.iter().any(|text| has_handle(text) || has_path(text)))
        && (request.exports.is_empty() || request.exports.iter().any(is_below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::{Address, ByteRange, CallerName, Svid, Transport};

    fn lock(path: &str, start: u64) -> OwnedLock {
        OwnedLock {
            name: CallerName::new("c1").unwrap(),
            address: Address([192, 0, 2, 11].into()),
            server_address: Address([192, 0, 2, 1].into()),
            transport: Transport::Tcp,
            version: 4,
            svid: Some(Svid(7)),
            oh: None,
            monitored: true,
            kind: LockKind::Exclusive,
            range: ByteRange { start, end: start + 9 },
            state: LockState::Held,
            file: FileHandle::new(path.as_bytes()).unwrap(),
            inode: "00:1a:2".to_owned(),
            path: Some(path.as_bytes().to_vec()),
            deleted: false,
            export: None,
            unsure: None,
        }
    }

    #[test]
    fn files_are_named_by_path_or_handle_and_exports_by_their_folder() {
        let waits = OwnedLock { state: LockState::Waiting, ..lock("/srv/x/a", 100) };
        let share = OwnedLock { kind: LockKind::Share, ..lock("/srv/x/a", 0) };
        let deleted = OwnedLock { deleted: true, ..lock("/srv/x/a", 300) };
        let locks = vec![lock("/srv/x/a", 0), lock("/srv/xy/b", 200), waits, share, deleted];
        let of = |files: &[&str], exports: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
            let request = ReleaseRequest { files: owned(files), exports: owned(exports), ..ReleaseRequest::default() };
            let view = OwnersView { how: "", clients: Vec::new(), locks: locks.clone() };
            let found = Owned::of(&request, view);
            assert_eq!((found.waiting.len(), found.paths.len()), (1, 2));
            found.rows.iter().map(|row| row.range.start).collect::<Vec<_>>()
        };
        assert_eq!(of(&["/srv/x/a"], &[]), [0]);
        assert_eq!(of(&[&hex::encode("/srv/x/a")], &[]), [0, 300]);
        assert_eq!(of(&[], &["/srv/x"]), [0, 300]);
        assert_eq!(of(&["/srv/x/a"], &["/srv/xy"]), Vec::<u64>::new());
        assert_eq!(of(&[], &[]), [0, 200, 300]);
    }
}
