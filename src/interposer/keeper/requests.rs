//! Requests of clients and locks of lockd, as the table of the account has them.

use crate::interposer::messages::{Call, Claim, Request, ShareRequest, Way};
use crate::locks::{self, Process, Via, Wanted};
use crate::manager::knfsd::owners::{HeldLock, OwnerKey, Share, TO_THE_END};
use crate::wire::control::{LockKind, LockRow};
use crate::wire::types::{ByteRange, Cookie, FileHandle, OwnerHandle, Svid};

/// What a client surely knows of its locks by now.
#[derive(Debug)]
pub(super) enum News {
    /// The owner has locked, reclaimed or unlocked these bytes.
    Done(OwnerKey, FileHandle, ByteRange),
    /// lockd has freed all that was locked this way: FREE_ALL is about the host that it comes from, and to lockd each way
    /// is a host of its own.
    FreedAll(Way),
}

/// lockd knows no byte beyond [`TO_THE_END`].
fn bytes(range: ByteRange) -> ByteRange {
    ByteRange { start: range.start, end: if range.end >= TO_THE_END { u64::MAX } else { range.end } }
}

pub(super) fn news(call: &Call) -> Option<News> {
    let claim = match &call.request {
        Request::Lock(lock) => &lock.claim,
        Request::Unlock(claim) => claim,
        Request::FreeAll(_) => return Some(News::FreedAll(call.way)),
        Request::Cancel(_) | Request::Share(_) | Request::Unshare(_) => return None,
    };
    let owner = OwnerKey { way: call.way, svid: claim.svid };
    Some(News::Done(owner, claim.file.clone(), bytes(claim.range)))
}

pub(super) fn via(way: &Way) -> Via {
    Via { server_address: way.server.0, transport: way.transport, version: way.version }
}

/// The svid stands for the owner handle, which lockd does not look at.
fn process(svid: Svid) -> Process {
    Process { svid, oh: OwnerHandle::new(&svid.0.to_be_bytes()).unwrap_or_default() }
}

fn wanted(svid: Svid, file: &FileHandle, range: ByteRange, exclusive: bool) -> Wanted {
    let range = bytes(range);
    Wanted { file: file.clone(), range, len: range.nlm_len(), exclusive, process: process(svid) }
}

pub(super) fn wanted_of(claim: &Claim) -> Wanted {
    wanted(claim.svid, &claim.file, claim.range, claim.exclusive)
}

pub(super) fn claim(row: &LockRow) -> Claim {
    Claim {
        way: Way::from(&row.owner),
        svid: row.owner.svid,
        file: row.file.clone(),
        range: row.range,
        exclusive: row.kind == LockKind::Exclusive,
    }
}

/// A lock, or a request for one, as the filter has it.
pub(super) fn claim_of(lock: &HeldLock) -> Claim {
    let OwnerKey { way, svid } = lock.owner;
    Claim { way, svid, file: lock.handle.clone(), range: lock.range(), exclusive: lock.exclusive }
}

pub(super) fn lock_call(lock: &HeldLock) -> locks::Call {
    locks::Call::Lock {
        wanted: wanted(lock.owner.svid, &lock.handle, lock.range(), lock.exclusive),
        block: false,
        reclaim: false,
        monitored: lock.monitored,
        state: lock.nsm_state.unwrap_or_default(),
        cookie: Cookie::default(),
    }
}

pub(super) fn share_call(share: &Share) -> locks::Call {
    let (file, oh) = (share.handle.clone(), share.oh.clone());
    locks::Call::Share { file, oh, access: share.access, mode: share.mode, reclaim: false }
}

/// As the table has it. A CANCEL is about waiters, and FREE_ALL is taken lock by lock: in the table a client has several ways.
pub(super) fn as_call(request: &Request) -> Option<locks::Call> {
    Some(match request {
        Request::Lock(lock) => locks::Call::Lock {
            wanted: wanted_of(&lock.claim),
            block: false,
            reclaim: lock.reclaim,
            monitored: lock.monitored,
            state: lock.state,
            cookie: Cookie::default(),
        },
        Request::Unlock(claim) => locks::Call::Unlock(wanted_of(claim)),
        Request::Cancel(_) | Request::FreeAll(_) => return None,
        Request::Share(ShareRequest { file, oh, access, mode, reclaim }) => {
            let (file, oh) = (file.clone(), oh.clone());
            locks::Call::Share { file, oh, access: *access, mode: *mode, reclaim: *reclaim }
        }
        Request::Unshare(ShareRequest { file, oh, access, mode, reclaim: _ }) => {
            locks::Call::Unshare { file: file.clone(), oh: oh.clone(), access: *access, mode: *mode }
        }
    })
}

/// The bytes that it is about.
pub(super) fn range_of(request: &Request) -> ByteRange {
    match request {
        Request::Lock(lock) => lock.claim.range,
        Request::Unlock(claim) | Request::Cancel(claim) => claim.range,
        Request::Share(_) | Request::Unshare(_) | Request::FreeAll(_) => ByteRange::ALL,
    }
}

pub(super) fn file_of(request: &Request) -> Option<&FileHandle> {
    match request {
        Request::Lock(lock) => Some(&lock.claim.file),
        Request::Unlock(claim) | Request::Cancel(claim) => Some(&claim.file),
        Request::Share(share) | Request::Unshare(share) => Some(&share.file),
        Request::FreeAll(_) => None,
    }
}
