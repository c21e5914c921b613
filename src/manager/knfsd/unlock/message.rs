//! An UNLOCK as its owner would send it, a LOCK for a trial, and lockd's answer. Pure.

use crate::wire::nlm::{self, Lock, LockArgs, Message, Procedure, Res, Stat, TooWide, UnlockArgs, Version};
use crate::wire::rpc::{self, Credential, RpcError};
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};
use crate::wire::xdr::decode;

/// Who our calls say they are (the machine of AUTH_SYS), and what their cookies begin with: by that they are told from a
/// client's own.
pub(crate) const MARK: &str = "nlmctl";

/// A lock to free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unlock {
    /// The client's name. lockd does not look at it.
    pub(crate) caller: CallerName,
    /// The handle by which the client named the file.
    pub(crate) file: FileHandle,
    pub(crate) svid: Svid,
    /// Exactly these bytes become free.
    pub(crate) range: ByteRange,
    /// User and group of the file's owner: lockd opens the file as that user.
    pub(crate) user: (u32, u32),
}

/// The call, without a record mark.
///
/// # Errors
/// The range does not fit the version.
pub(super) fn call(xid: u32, version: Version, unlock: &Unlock) -> Result<Vec<u8>, TooWide> {
    let Unlock { caller, file, svid, range, user: (uid, gid) } = unlock;
    // Made as Linux clients do. lockd does not look at it: its owners have no handles.
    let oh = OwnerHandle::new(format!("{svid}@{MARK}").as_bytes()).unwrap_or_default();
    let cookie = Cookie::new(&[MARK.as_bytes(), &xid.to_be_bytes()].concat()).unwrap_or_default();
    let args = UnlockArgs { cookie, alock: Lock::new(caller.clone(), file.clone(), oh, *svid, *range) };
    let credential = Credential::Unix { machine: MARK.to_owned(), uid: *uid, gid: *gid, groups: Vec::new() };
    let args = args.encode(version)?;
    Ok(rpc::call(xid, nlm::PROGRAM, version.number(), Procedure::Unlock.number(), &credential, &args))
}

/// What calls of a trial say instead of [`MARK`]: they are to be taken for a client's own.
const TRIAL: &str = "trial";

/// A request for the lock that an UNLOCK of these words would free, without a record mark. It does not wait, and asks for no
/// monitoring (`NM_LOCK`): rpc.statd is left out of it.
///
/// # Errors
/// The range does not fit the version.
pub(super) fn lock_call(
    xid: u32,
    version: Version,
    wanted: &Unlock,
    exclusive: bool,
    reclaim: bool,
) -> Result<Vec<u8>, TooWide> {
    let Unlock { caller, file, svid, range, user: (uid, gid) } = wanted;
    let oh = OwnerHandle::new(format!("{svid}@{TRIAL}").as_bytes()).unwrap_or_default();
    let cookie = Cookie::new(&[TRIAL.as_bytes(), &xid.to_be_bytes()].concat()).unwrap_or_default();
    let alock = Lock::new(caller.clone(), file.clone(), oh, *svid, *range);
    let args = LockArgs { cookie, block: false, exclusive, alock, reclaim, state: NsmState(0) };
    let credential = Credential::Unix { machine: TRIAL.to_owned(), uid: *uid, gid: *gid, groups: Vec::new() };
    let args = args.encode(version)?;
    Ok(rpc::call(xid, nlm::PROGRAM, version.number(), Procedure::NmLock.number(), &credential, &args))
}

/// The xid of an answer and what it says; `None`: it is none.
pub(super) fn answer(message: &[u8]) -> Option<(u32, Result<Stat, RpcError>)> {
    let reply = rpc::parse_reply(message).ok()?;
    let said = match reply.outcome {
        Ok(results) => Ok(decode::<Res>(results).ok()?.stat),
        Err(error) => Err(error),
    };
    Some((reply.xid, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::xdr::encode;

    fn unlock(range: ByteRange) -> Unlock {
        Unlock {
            caller: CallerName::new("c1").unwrap(),
            file: FileHandle::new(b"file").unwrap(),
            svid: Svid(-7),
            range,
            user: (1000, 100),
        }
    }

    #[test]
    fn a_call_carries_the_owner_the_range_the_files_user_and_the_mark_in_every_version() {
        for version in Version::ALL {
            let wanted = unlock(ByteRange { start: 10, end: u64::MAX });
            let sent = call(9, version, &wanted).unwrap();
            let parsed = rpc::parse_call(&sent).unwrap();
            assert_eq!((parsed.xid, parsed.program, parsed.version), (9, nlm::PROGRAM, version.number()));
            assert_eq!(parsed.procedure, Procedure::Unlock.number());
            let Credential::Unix { machine, uid, gid, .. } = parsed.credential else { panic!("{sent:?}") };
            assert_eq!((machine.as_str(), uid, gid), (MARK, 1000, 100));
            let args = UnlockArgs::decode(version, parsed.args).unwrap();
            assert!(args.cookie.as_slice().starts_with(MARK.as_bytes()));
            assert_eq!((args.alock.svid, args.alock.range()), (Svid(-7), Some(wanted.range)));
            assert_eq!((args.alock.caller_name, args.alock.fh), (wanted.caller, wanted.file));
        }
    }

    #[test]
    fn a_trials_lock_does_not_wait_is_not_monitored_and_does_not_bear_the_mark() {
        for version in Version::ALL {
            for (exclusive, reclaim) in [(true, false), (false, true)] {
                let sent =
                    lock_call(9, version, &unlock(ByteRange { start: 10, end: 10 }), exclusive, reclaim).unwrap();
                let parsed = rpc::parse_call(&sent).unwrap();
                assert_eq!(parsed.procedure, Procedure::NmLock.number());
                let Credential::Unix { machine, .. } = parsed.credential else { panic!("{sent:?}") };
                let args = LockArgs::decode(version, parsed.args).unwrap();
                assert_eq!((args.exclusive, args.reclaim, args.block), (exclusive, reclaim, false));
                assert!(!machine.contains(MARK) && !args.cookie.as_slice().starts_with(MARK.as_bytes()));
            }
        }
    }

    #[test]
    fn a_range_beyond_32_bits_is_not_cut_for_an_old_version() {
        let wide = unlock(ByteRange { start: 1 << 32, end: (1 << 32) + 9 });
        assert!(call(1, Version::V3, &wide).is_err());
        assert!(call(1, Version::V4, &wide).is_ok());
    }

    #[test]
    fn an_answer_is_a_status_or_a_rejection_and_anything_else_is_none() {
        let res = Res { cookie: Cookie::default(), stat: Stat::StaleFh };
        let told = rpc::reply(5, &rpc::Answer::Success(encode(&res)));
        assert_eq!(answer(&told), Some((5, Ok(Stat::StaleFh))));
        let none = rpc::reply(6, &rpc::Answer::ProcUnavail);
        assert!(matches!(answer(&none), Some((6, Err(_)))));
        assert_eq!(answer(&told[..told.len() - 1]), None);
        assert_eq!(answer(b"odd"), None);
    }
}
