//! Makes a lock from its record and the record of its file.

use super::clients::Known;
use super::error::Unsettled;
use super::view::{HeldLock, OwnerKey};
use crate::wire::types::{FileHandle, Svid};

const READ: u64 = 0;
const WRITE: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenFile {
    pub(super) handle: FileHandle,
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) path: Option<Vec<u8>>,
    pub(super) deleted: bool,
}

/// A lock. None for one below the start of a file, which Linux 6.1 makes of a request that wraps: `/proc/locks` shows none
/// that could be compared.
pub(super) fn held(
    known: &Known,
    svid: u32,
    file: &OpenFile,
    kind: u64,
    (start, end): (u64, u64),
) -> Result<Option<HeldLock>, Unsettled> {
    if start.cast_signed() < 0 || end.cast_signed() < 0 {
        return Ok(None);
    }
    if !matches!(kind, READ | WRITE) || start > end {
        return Err(Unsettled::Changed("a lock is neither for reading nor for writing, or ends before it begins"));
    }
    let client = &known.client;
    Ok(Some(HeldLock {
        owner: OwnerKey { way: client.way, svid: Svid(svid.cast_signed()) },
        caller: client.caller.clone(),
        handle: file.handle.clone(),
        device: file.device,
        inode: file.inode,
        path: file.path.clone(),
        deleted: file.deleted,
        exclusive: kind == WRITE,
        start,
        end,
        monitored: client.monitored,
        nsm_state: client.nsm_state,
        offered: false,
    }))
}
