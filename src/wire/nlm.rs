//! NLM, the lock manager's protocol: versions 1 and 3 with 32-bit ranges (XNFS chapter 10), version
//! 4 with 64-bit ones (XNFS chapter 14, RFC 1813 appendix II).
//!
//! Types are version 4's; `Lock<u32>` and its like are the same in the older versions' form. Who
//! handles calls sees version 4 only: [`Message::decode`] widens what came in, [`Message::encode`]
//! narrows what goes out and says so where that cannot be done.

use super::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};
use super::xdr::{self, DecodeError, Pack, Unpack, XdrCodec};

/// `NLM_PROG`.
pub const PROGRAM: u32 = 100_021;

/// The versions spoken. Version 2 has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Version {
    /// 32-bit ranges.
    V1 = 1,
    /// Version 1 with SHARE, UNSHARE, NM_LOCK and FREE_ALL.
    V3 = 3,
    /// 64-bit ranges and more status values.
    V4 = 4,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V1, Self::V3, Self::V4];

    /// The version of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|v| *v as u32 == number)
    }
    /// Its number.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// Procedure numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Procedure {
    /// void -> void
    Null = 0,
    /// [`TestArgs`] -> [`TestRes`]
    Test = 1,
    /// [`LockArgs`] -> [`Res`]
    Lock = 2,
    /// [`CancArgs`] -> [`Res`]
    Cancel = 3,
    /// [`UnlockArgs`] -> [`Res`]
    Unlock = 4,
    /// [`TestArgs`] -> [`Res`]: the server calls the client.
    Granted = 5,
    /// [`TestArgs`], one-way
    TestMsg = 6,
    /// [`LockArgs`], one-way
    LockMsg = 7,
    /// [`CancArgs`], one-way
    CancelMsg = 8,
    /// [`UnlockArgs`], one-way
    UnlockMsg = 9,
    /// [`TestArgs`], one-way: the server calls the client.
    GrantedMsg = 10,
    /// [`TestRes`], one-way
    TestRes = 11,
    /// [`Res`], one-way
    LockRes = 12,
    /// [`Res`], one-way
    CancelRes = 13,
    /// [`Res`], one-way
    UnlockRes = 14,
    /// [`Res`], one-way: the client calls the server.
    GrantedRes = 15,
    /// [`SmNotifyArgs`] -> void: the local statd's callback; no specification has it, every lockd does.
    SmNotify = 16,
    /// [`ShareArgs`] -> [`ShareRes`]
    Share = 20,
    /// [`ShareArgs`] -> [`ShareRes`]
    Unshare = 21,
    /// [`LockArgs`] -> [`Res`]: a lock that is not monitored.
    NmLock = 22,
    /// [`NotifyArgs`] -> void
    FreeAll = 23,
}

impl Procedure {
    /// Every procedure.
    pub const ALL: [Self; 21] = [
        Self::Null,
        Self::Test,
        Self::Lock,
        Self::Cancel,
        Self::Unlock,
        Self::Granted,
        Self::TestMsg,
        Self::LockMsg,
        Self::CancelMsg,
        Self::UnlockMsg,
        Self::GrantedMsg,
        Self::TestRes,
        Self::LockRes,
        Self::CancelRes,
        Self::UnlockRes,
        Self::GrantedRes,
        Self::SmNotify,
        Self::Share,
        Self::Unshare,
        Self::NmLock,
        Self::FreeAll,
    ];

    /// The procedure of a number in a version; version 1 ends before SHARE.
    pub fn from_number(version: Version, number: u32) -> Option<Self> {
        if version == Version::V1 && number >= Self::Share as u32 {
            return None;
        }
        Self::ALL.into_iter().find(|p| *p as u32 == number)
    }
    /// Its number.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// `nlm4_stats`. The older versions have the first six.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
#[repr(u32)]
pub enum Stat {
    /// Done.
    Granted = 0,
    /// Another owner is in the way.
    Denied = 1,
    /// No room for another lock.
    DeniedNolocks = 2,
    /// Queued; GRANTED will be called.
    Blocked = 3,
    /// In grace, or a reclaim outside of it.
    DeniedGracePeriod = 4,
    /// Waiting would never end.
    Deadlck = 5,
    /// The file system is read-only.
    Rofs = 6,
    /// The handle names no file.
    StaleFh = 7,
    /// Offset and length end beyond the largest file.
    Fbig = 8,
    /// Failed for good.
    Failed = 9,
}

impl Stat {
    /// As the older versions can say it: what they lack becomes DENIED_NOLOCKS, which clients
    /// report as an error and do not repeat.
    #[must_use]
    pub fn narrow(self) -> Self {
        match self {
            Self::Granted
            | Self::Denied
            | Self::DeniedNolocks
            | Self::Blocked
            | Self::DeniedGracePeriod
            | Self::Deadlck => self,
            Self::Rofs | Self::StaleFh | Self::Fbig | Self::Failed => Self::DeniedNolocks,
        }
    }
}

/// An offset or length does not fit the 32 bits of versions 1 and 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset}, length {len}: beyond the 32 bits of NLM versions 1 and 3")]
pub struct TooWide {
    /// The offset.
    pub offset: u64,
    /// The length.
    pub len: u64,
}

fn narrow(offset: u64, len: u64) -> Result<(u32, u32), TooWide> {
    match (u32::try_from(offset), u32::try_from(len)) {
        (Ok(offset), Ok(len)) => Ok((offset, len)),
        _ => Err(TooWide { offset, len }),
    }
}

/// `nlm4_lock`; `nlm_lock` with `N` = `u32`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Lock<N: Pack + Unpack = u64> {
    /// The client's name.
    pub caller_name: CallerName,
    /// The file.
    pub fh: FileHandle,
    /// The owner, as the client names it.
    pub oh: OwnerHandle,
    /// The process.
    pub svid: Svid,
    /// First byte.
    pub offset: N,
    /// Bytes; 0 is "to end of file".
    pub len: N,
}

impl Lock {
    /// The bytes, or `None` where they would end beyond 64 bits (answer FBIG).
    pub fn range(&self) -> Option<ByteRange> {
        ByteRange::from_offset_len(self.offset, self.len)
    }
    /// The lock of a range.
    pub fn new(caller_name: CallerName, fh: FileHandle, oh: OwnerHandle, svid: Svid, range: ByteRange) -> Self {
        Self { caller_name, fh, oh, svid, offset: range.start, len: range.nlm_len() }
    }
    fn narrow(&self) -> Result<Lock<u32>, TooWide> {
        let (offset, len) = narrow(self.offset, self.len)?;
        let Self { caller_name, fh, oh, svid, .. } = self.clone();
        Ok(Lock { caller_name, fh, oh, svid, offset, len })
    }
}

impl Lock<u32> {
    fn widen(self) -> Lock {
        let Self { caller_name, fh, oh, svid, offset, len } = self;
        Lock { caller_name, fh, oh, svid, offset: offset.into(), len: len.into() }
    }
}

/// `nlm4_holder`: who is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Holder<N: Pack + Unpack = u64> {
    /// Write lock.
    pub exclusive: bool,
    /// The process.
    pub svid: Svid,
    /// The owner.
    pub oh: OwnerHandle,
    /// First byte.
    pub offset: N,
    /// Bytes; 0 is "to end of file".
    pub len: N,
}

impl Holder {
    /// The holder of a range.
    pub fn new(exclusive: bool, svid: Svid, oh: OwnerHandle, range: ByteRange) -> Self {
        Self { exclusive, svid, oh, offset: range.start, len: range.nlm_len() }
    }
    /// The bytes, or `None` where they would end beyond 64 bits.
    pub fn range(&self) -> Option<ByteRange> {
        ByteRange::from_offset_len(self.offset, self.len)
    }
    /// As much of it as versions 1 and 3 can be told: a longer range becomes "to end of file", and
    /// one that starts beyond 32 bits starts at the last byte that can be named.
    #[must_use]
    pub fn clipped(self) -> Self {
        if narrow(self.offset, self.len).is_ok() {
            return self;
        }
        let len = if self.offset > u64::from(u32::MAX) || u32::try_from(self.len).is_err() { 0 } else { self.len };
        Self { offset: self.offset.min(u32::MAX.into()), len, ..self }
    }
    fn narrow(&self) -> Result<Holder<u32>, TooWide> {
        let (offset, len) = narrow(self.offset, self.len)?;
        let Self { exclusive, svid, oh, .. } = self.clone();
        Ok(Holder { exclusive, svid, oh, offset, len })
    }
}

impl Holder<u32> {
    fn widen(self) -> Holder {
        let Self { exclusive, svid, oh, offset, len } = self;
        Holder { exclusive, svid, oh, offset: offset.into(), len: len.into() }
    }
}

/// `nlm4_testargs`: TEST, and GRANTED.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct TestArgs<N: Pack + Unpack = u64> {
    /// Comes back in the answer.
    pub cookie: Cookie,
    /// Write lock.
    pub exclusive: bool,
    /// Which lock.
    pub alock: Lock<N>,
}

/// `nlm4_lockargs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct LockArgs<N: Pack + Unpack = u64> {
    /// Comes back in the answer.
    pub cookie: Cookie,
    /// Wait for it.
    pub block: bool,
    /// Write lock.
    pub exclusive: bool,
    /// Which lock.
    pub alock: Lock<N>,
    /// A reclaim after the server's reboot.
    pub reclaim: bool,
    /// The client's NSM state number.
    pub state: NsmState,
}

/// `nlm4_cancargs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct CancArgs<N: Pack + Unpack = u64> {
    /// Comes back in the answer.
    pub cookie: Cookie,
    /// As in the LOCK.
    pub block: bool,
    /// As in the LOCK.
    pub exclusive: bool,
    /// Which lock.
    pub alock: Lock<N>,
}

/// `nlm4_unlockargs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct UnlockArgs<N: Pack + Unpack = u64> {
    /// Comes back in the answer.
    pub cookie: Cookie,
    /// Which lock.
    pub alock: Lock<N>,
}

/// `nlm4_res`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Res {
    /// The question's.
    pub cookie: Cookie,
    /// What became of it.
    pub stat: Stat,
}

/// `nlm4_testrply`: who is in the way, if DENIED.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TestReply<N: Pack + Unpack = u64> {
    /// DENIED, by this one.
    Denied(Holder<N>),
    /// Anything else.
    Other(NotDenied),
}

/// A status that is not DENIED.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotDenied(Stat);

impl NotDenied {
    /// `None` for DENIED, which needs a holder.
    pub fn new(stat: Stat) -> Option<Self> {
        (stat != Stat::Denied).then_some(Self(stat))
    }
    /// The status.
    pub fn stat(self) -> Stat {
        self.0
    }
}

impl<N: Pack + Unpack> TestReply<N> {
    /// GRANTED.
    pub const GRANTED: Self = Self::Other(NotDenied(Stat::Granted));
    /// DENIED_NOLOCKS.
    pub const NOLOCKS: Self = Self::Other(NotDenied(Stat::DeniedNolocks));
    /// DENIED_GRACE_PERIOD.
    pub const GRACE: Self = Self::Other(NotDenied(Stat::DeniedGracePeriod));
    /// FBIG.
    pub const FBIG: Self = Self::Other(NotDenied(Stat::Fbig));
    /// FAILED.
    pub const FAILED: Self = Self::Other(NotDenied(Stat::Failed));

    /// The status.
    pub fn stat(&self) -> Stat {
        match self {
            Self::Denied(_) => Stat::Denied,
            Self::Other(other) => other.0,
        }
    }
}

impl<N: Pack + Unpack> Pack for TestReply<N> {
    fn packed_size(&self) -> usize {
        match self {
            Self::Denied(holder) => 4 + holder.packed_size(),
            Self::Other(_) => 4,
        }
    }
    fn pack(&self, out: &mut impl std::io::Write) -> Result<usize, xdr::CodecError> {
        let written = self.stat().pack(out)?;
        match self {
            Self::Denied(holder) => Ok(written + holder.pack(out)?),
            Self::Other(_) => Ok(written),
        }
    }
}

impl<N: Pack + Unpack> Unpack for TestReply<N> {
    fn unpack(input: &mut impl std::io::Read) -> Result<(Self, usize), xdr::CodecError> {
        let (stat, read) = Stat::unpack(input)?;
        match NotDenied::new(stat) {
            Some(other) => Ok((Self::Other(other), read)),
            None => Holder::unpack(input).map(|(holder, more)| (Self::Denied(holder), read + more)),
        }
    }
}

/// `nlm4_testres`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct TestRes<N: Pack + Unpack = u64> {
    /// The question's.
    pub cookie: Cookie,
    /// What became of it.
    pub reply: TestReply<N>,
}

/// `fsh_mode` and `fsh_access`: reading, writing, both or neither, of what others are denied or what
/// is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
#[repr(u32)]
pub enum ShareBits {
    /// Neither.
    None = 0,
    /// Reading.
    Read = 1,
    /// Writing.
    Write = 2,
    /// Both.
    ReadWrite = 3,
}

/// `nlm4_share`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Share {
    /// The client's name.
    pub caller_name: CallerName,
    /// The file.
    pub fh: FileHandle,
    /// The owner.
    pub oh: OwnerHandle,
    /// `fsh_mode`: what others are denied.
    pub mode: ShareBits,
    /// `fsh_access`: what is wanted.
    pub access: ShareBits,
}

/// `nlm4_shareargs`: SHARE and UNSHARE.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct ShareArgs {
    /// Comes back in the answer.
    pub cookie: Cookie,
    /// Which reservation.
    pub share: Share,
    /// A reclaim after the server's reboot.
    pub reclaim: bool,
}

/// `nlm4_shareres`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct ShareRes {
    /// The question's.
    pub cookie: Cookie,
    /// What became of it.
    pub stat: Stat,
    /// Of no use, says the specification; always 0 here.
    pub sequence: u32,
}

/// `nlm4_notify`: the argument of FREE_ALL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct NotifyArgs {
    /// The client.
    pub name: CallerName,
    /// Its NSM state number.
    pub state: NsmState,
}

/// The argument of the local statd's callback (procedure 16): what lockd gave in SM_MON comes back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct SmNotifyArgs {
    /// The host that rebooted.
    pub name: CallerName,
    /// Its new state number.
    pub state: NsmState,
    /// SM_MON's private bytes.
    pub private: [u8; 16],
}

/// What is said in every version.
pub trait Message: Sized {
    /// Decodes what came in `version`'s form.
    fn decode(version: Version, bytes: &[u8]) -> Result<Self, DecodeError>;
    /// Encodes in `version`'s form.
    fn encode(&self, version: Version) -> Result<Vec<u8>, TooWide>;
}

macro_rules! two_widths {
    ($($name:ident { $wide:ident; $($same:ident),* }),* $(,)?) => { $(
        impl Message for $name {
            fn decode(version: Version, bytes: &[u8]) -> Result<Self, DecodeError> {
                match version {
                    Version::V4 => xdr::decode(bytes),
                    Version::V1 | Version::V3 => {
                        let $name { $($same,)* $wide } = xdr::decode::<$name<u32>>(bytes)?;
                        Ok($name { $($same,)* $wide: $wide.widen() })
                    }
                }
            }
            fn encode(&self, version: Version) -> Result<Vec<u8>, TooWide> {
                match version {
                    Version::V4 => Ok(xdr::encode(self)),
                    Version::V1 | Version::V3 => {
                        let $name { $($same,)* $wide } = self.clone();
                        Ok(xdr::encode(&$name { $($same,)* $wide: $wide.narrow()? }))
                    }
                }
            }
        }
    )* };
}
two_widths! {
    TestArgs { alock; cookie, exclusive },
    LockArgs { alock; cookie, block, exclusive, reclaim, state },
    CancArgs { alock; cookie, block, exclusive },
    UnlockArgs { alock; cookie },
    TestRes { reply; cookie },
}

impl TestReply {
    fn narrow(&self) -> Result<TestReply<u32>, TooWide> {
        Ok(match self {
            Self::Denied(holder) => TestReply::Denied(holder.narrow()?),
            // Narrowing never makes a DENIED out of anything else.
            Self::Other(other) => TestReply::Other(NotDenied(other.0.narrow())),
        })
    }
}

impl TestReply<u32> {
    fn widen(self) -> TestReply {
        match self {
            Self::Denied(holder) => TestReply::Denied(holder.widen()),
            Self::Other(other) => TestReply::Other(other),
        }
    }
}

macro_rules! one_width {
    ($($name:ident),*) => { $(
        impl Message for $name {
            fn decode(_: Version, bytes: &[u8]) -> Result<Self, DecodeError> {
                xdr::decode(bytes)
            }
            fn encode(&self, _: Version) -> Result<Vec<u8>, TooWide> {
                Ok(xdr::encode(self))
            }
        }
    )* };
}
one_width!(ShareArgs, NotifyArgs, SmNotifyArgs);

macro_rules! stat_narrows {
    ($($name:ident),*) => { $(
        impl Message for $name {
            fn decode(_: Version, bytes: &[u8]) -> Result<Self, DecodeError> {
                xdr::decode(bytes)
            }
            fn encode(&self, version: Version) -> Result<Vec<u8>, TooWide> {
                Ok(match version {
                    Version::V4 => xdr::encode(self),
                    Version::V1 | Version::V3 => xdr::encode(&Self { stat: self.stat.narrow(), ..self.clone() }),
                })
            }
        }
    )* };
}
stat_narrows!(Res, ShareRes);

#[cfg(test)]
mod tests;
