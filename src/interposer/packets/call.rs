//! A call decoded in place: its request, and where its `block` and `reclaim` words are.
//!
//! What lockd would take must be understood here, or it must not pass. So this reads as lockd does (fs/lockd/xdr.c and
//! xdr4.c): a bool is true unless it is 0, bytes behind the arguments do not count, and a range is the one that lockd makes
//! of offset and length. What lockd refuses to decode may be taken here.

use std::net::IpAddr;
use std::ops::Range;

use crate::interposer::messages::{Claim, LockRequest, Request, ShareRequest, Way};
use crate::manager::knfsd::unlock::MARK;
use crate::wire::nlm::{PROGRAM, Procedure, Version};
use crate::wire::types::{
    Address, ByteRange, CallerName, FileHandle, MAX_NETOBJ, NsmState, OwnerHandle, Svid, Transport,
};

use super::ip;

/// Longest body of a credential or verifier (RFC 5531 section 8.2).
const MAX_AUTH: usize = 400;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// Between whom a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Path {
    pub(super) client: IpAddr,
    pub(super) server: IpAddr,
    pub(super) transport: Transport,
    /// Over the loopback interface.
    pub(super) loopback: bool,
}

/// A message on its way to lockd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// lockd does not answer it: no call of this RPC version.
    NoCall,
    /// A call that the keeper does not hear of.
    Untold(Untold),
    /// One that it hears of.
    Told(Box<Call>),
}

/// A call that only has a reply to be known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) xid: u32,
    /// Made by nlmctl in a client's name.
    pub(super) own: bool,
    /// It is for NLM in a version that lockd has.
    pub(super) nlm: bool,
}

/// A call that the keeper hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) xid: u32,
    pub(super) way: Way,
    pub(super) caller: CallerName,
    pub(super) request: Request,
    /// Where the words of a LOCK or SHARE are, from the beginning of the message.
    pub(super) words: WordOffsets,
    /// `None`: the answer comes in a call to the client (`LOCK_MSG` and the like), which is not seen here.
    pub(super) answer: Option<ReplyBody>,
}

/// Where words are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct WordOffsets {
    pub(super) block: Option<usize>,
    pub(super) reclaim: Option<usize>,
}

/// What the reply to a call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyBody {
    /// A cookie and a status.
    Stat,
    /// Nothing: that it came is all.
    Void,
}

/// It says that it is such a call, and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads on from where it stands.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn word(&mut self) -> Result<u32, Malformed> {
        let word = ip::word(self.bytes, self.at).ok_or(Malformed)?;
        self.at += 4;
        Ok(word)
    }
    fn long(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from(self.word()?) << 32 | u64::from(self.word()?))
    }
    fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.word()? != 0)
    }
    fn opaque(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.word()?).map_err(|_| Malformed)?;
        let Range { start, end } = self.at..self.at.checked_add(len).filter(|_| len <= max).ok_or(Malformed)?;
        let value = self.bytes.get(start..end).ok_or(Malformed)?;
        self.at = start + len.next_multiple_of(4);
        if self.at > self.bytes.len() { Err(Malformed) } else { Ok(value) }
    }
    fn netobj(&mut self) -> Result<&'a [u8], Malformed> {
        self.opaque(MAX_NETOBJ)
    }
    fn caller(&mut self) -> Result<CallerName, Malformed> {
        CallerName::of_bytes(self.netobj()?).map_err(|_| Malformed)
    }
    fn file(&mut self) -> Result<FileHandle, Malformed> {
        FileHandle::new(self.netobj()?).map_err(|_| Malformed)
    }
    fn oh(&mut self) -> Result<OwnerHandle, Malformed> {
        OwnerHandle::new(self.netobj()?).map_err(|_| Malformed)
    }
    fn svid(&mut self) -> Result<Svid, Malformed> {
        Ok(Svid(self.word()?.cast_signed()))
    }
    fn state(&mut self) -> Result<NsmState, Malformed> {
        Ok(NsmState(self.word()?.cast_signed()))
    }
}

/// The machine's name of AUTH_SYS; of another flavor, and of a body that is none, nothing.
fn machine(flavor: u32, body: &[u8]) -> &[u8] {
    let mut cursor = Cursor { bytes: body, at: 4 };
    if flavor == AUTH_SYS { cursor.opaque(MAX_AUTH).unwrap_or_default() } else { &[] }
}

/// What a message on its way to lockd is (RFC 5531 section 9).
pub(super) fn read(message: &[u8], path: &Path) -> Result<Message, Malformed> {
    let mut cursor = Cursor { bytes: message, at: 0 };
    let header = [(); 6].map(|()| cursor.word());
    let [Ok(xid), Ok(0), Ok(2), Ok(program), Ok(version), Ok(procedure)] = header else { return Ok(Message::NoCall) };
    let Some(version) = Version::from_number(version).filter(|_| program == PROGRAM) else {
        return Ok(Message::Untold(Untold { xid, own: false, nlm: false }));
    };
    let untold = Message::Untold(Untold { xid, own: false, nlm: true });
    let Some(procedure) = Procedure::from_number(version, procedure).filter(|procedure| is_told(*procedure)) else {
        return Ok(untold);
    };
    let flavor = cursor.word()?;
    let machine = machine(flavor, cursor.opaque(MAX_AUTH)?);
    let _verifier = (cursor.word()?, cursor.opaque(MAX_AUTH)?);
    // What another flavor puts around the arguments is not understood here.
    if flavor != AUTH_NONE && flavor != AUTH_SYS {
        return Err(Malformed);
    }
    let way = Way {
        client: Address(path.client),
        server: Address(path.server),
        version: version.number(),
        transport: path.transport,
    };
    let (call, own_cookie) = arguments(cursor, xid, way, version, procedure)?;
    if procedure == Procedure::Unlock && path.loopback && machine == MARK.as_bytes() && own_cookie {
        return Ok(Message::Untold(Untold { xid, own: true, nlm: true }));
    }
    Ok(Message::Told(Box::new(call)))
}

fn is_told(procedure: Procedure) -> bool {
    use Procedure as P;
    let locks = matches!(procedure, P::Lock | P::LockMsg | P::NmLock | P::Cancel | P::CancelMsg);
    locks || matches!(procedure, P::Unlock | P::UnlockMsg | P::Share | P::Unshare | P::FreeAll)
}

/// The call, and whether its cookie is one of nlmctl's own.
fn arguments(
    mut cursor: Cursor<'_>,
    xid: u32,
    way: Way,
    version: Version,
    procedure: Procedure,
) -> Result<(Call, bool), Malformed> {
    use Procedure as P;
    let mut words = WordOffsets::default();
    let mut answer = ReplyBody::Stat;
    let mut own_cookie = false;
    if procedure != P::FreeAll {
        own_cookie = cursor.netobj()?.starts_with(MARK.as_bytes());
    }
    let (caller, request) = match procedure {
        P::Lock | P::LockMsg | P::NmLock => {
            words.block = Some(cursor.at);
            let block = cursor.bool()?;
            let exclusive = cursor.bool()?;
            let (caller, oh, claim) = lock(&mut cursor, way, version, exclusive)?;
            words.reclaim = Some(cursor.at);
            let (reclaim, state) = (cursor.bool()?, cursor.state()?);
            let monitored = procedure != P::NmLock;
            (caller, Request::Lock(LockRequest { claim, oh, reclaim, block, monitored, state }))
        }
        P::Cancel | P::CancelMsg => {
            let (_block, exclusive) = (cursor.bool()?, cursor.bool()?);
            let (caller, _, claim) = lock(&mut cursor, way, version, exclusive)?;
            (caller, Request::Cancel(claim))
        }
        P::Share => {
            let (caller, share, place) = share(&mut cursor)?;
            words.reclaim = place;
            (caller, Request::Share(share))
        }
        P::Unshare => {
            let (caller, share, _) = share(&mut cursor)?;
            (caller, Request::Unshare(ShareRequest { reclaim: false, ..share }))
        }
        P::FreeAll => {
            answer = ReplyBody::Void;
            (cursor.caller()?, Request::FreeAll(cursor.state()?))
        }
        // Nothing else is told.
        _ => {
            let (caller, _, claim) = lock(&mut cursor, way, version, false)?;
            (caller, Request::Unlock(claim))
        }
    };
    let by_message = matches!(procedure, P::LockMsg | P::UnlockMsg | P::CancelMsg);
    let answer = (!by_message).then_some(answer);
    Ok((Call { xid, way, caller, request, words, answer }, own_cookie))
}

fn lock(
    cursor: &mut Cursor<'_>,
    way: Way,
    version: Version,
    exclusive: bool,
) -> Result<(CallerName, OwnerHandle, Claim), Malformed> {
    let (caller, file, oh, svid) = (cursor.caller()?, cursor.file()?, cursor.oh()?, cursor.svid()?);
    let range = if version == Version::V4 {
        range4(cursor.long()?, cursor.long()?)
    } else {
        range3(cursor.word()?, cursor.word()?)
    };
    Ok((caller, oh, Claim { way, svid, file, range, exclusive }))
}

/// The range of version 4: lockd counts to the end of a signed number, and refuses what goes beyond.
fn range4(offset: u64, len: u64) -> ByteRange {
    let end = offset.wrapping_add(len).wrapping_sub(1);
    let to_the_end = len == 0 || end >= i64::MAX.cast_unsigned() || end < offset;
    ByteRange { start: offset, end: if to_the_end { u64::MAX } else { end } }
}

/// Of versions 1 and 3, where lockd takes the end for a signed number of 32 bits.
fn range3(offset: u32, len: u32) -> ByteRange {
    let end = offset.wrapping_add(len).wrapping_sub(1);
    let to_the_end = len == 0 || end.cast_signed() < 0 || end < offset;
    ByteRange { start: offset.into(), end: if to_the_end { u64::MAX } else { end.into() } }
}

/// lockd does not look for the word `reclaim`, so it may be missing.
fn share(cursor: &mut Cursor<'_>) -> Result<(CallerName, ShareRequest, Option<usize>), Malformed> {
    let (caller, file, oh) = (cursor.caller()?, cursor.file()?, cursor.oh()?);
    let (mode, access) = (cursor.word()?, cursor.word()?);
    let place = cursor.at;
    let reclaim = cursor.bool().ok();
    let share = ShareRequest { file, oh, access, mode, reclaim: reclaim.unwrap_or_default() };
    Ok((caller, share, reclaim.map(|_| place)))
}
