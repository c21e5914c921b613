//! The view of lockd's locks for other modules.

use std::collections::BTreeMap;

use crate::host::Lock;
use crate::wire::control::OwnerRow;
use crate::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use crate::wire::xdr::XdrCodec;

/// `fl_end` of a lock that goes to the end of the file.
pub(crate) const TO_THE_END: u64 = i64::MAX.unsigned_abs();

/// How a client reaches lockd. A link-local address holds its interface (`wire/scope.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
pub struct Way {
    pub client: Address,
    /// The address of this server that it called.
    pub server: Address,
    /// The NLM version it spoke: 1, 3 or 4.
    pub version: u32,
    /// What carried its calls.
    pub transport: Transport,
}

/// What lockd takes for one owner: who calls by that way with that svid. The caller's name and the owner handle do not
/// count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OwnerKey {
    pub(crate) way: Way,
    pub(crate) svid: Svid,
}

/// A granted byte-range lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HeldLock {
    pub(crate) owner: OwnerKey,
    /// The name that lockd has for the client: that of the first caller from its address.
    pub(crate) caller: CallerName,
    /// The handle by which the client named the file.
    pub(crate) handle: FileHandle,
    /// Major and minor number of its file system, as `/proc/locks` shows them.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// Its absolute path, the last one if it was removed. None where the kernel has none: it opened the file by its handle
    /// and knows no name yet.
    pub(crate) path: Option<Vec<u8>>,
    /// Whether that path was removed.
    pub(crate) deleted: bool,
    /// Whether it is a write lock.
    pub(crate) exclusive: bool,
    pub(crate) start: u64,
    /// Last byte; [`TO_THE_END`] is the end of the file.
    pub(crate) end: u64,
    /// Whether rpc.statd was asked to monitor the client.
    pub(crate) monitored: bool,
    /// The state number of the client's last reboot notice to this server; lockd does not keep that of its LOCKs.
    pub(crate) nsm_state: Option<NsmState>,
    /// Whether it was granted to a blocked request whose client has not confirmed it yet.
    pub(crate) offered: bool,
}

/// A blocked request, as its client sent it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Waiter {
    /// What it wants, and who it is.
    pub(crate) wanted: HeldLock,
    pub(crate) oh: OwnerHandle,
    /// The cookie of lockd's GRANTED calls for it.
    pub(crate) cookie: Cookie,
}

/// A share reservation (NLM SHARE), which PCs use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Share {
    /// Its owner; a share has no svid.
    pub(crate) way: Way,
    pub(crate) caller: CallerName,
    pub(crate) handle: FileHandle,
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) deleted: bool,
    pub(crate) oh: OwnerHandle,
    /// Access that it has (XNFS, `fsh4_access`).
    pub(crate) access: u32,
    /// Access that it denies others (XNFS, `fsh4_mode`).
    pub(crate) mode: u32,
    pub(crate) monitored: bool,
}

/// A client by one of its ways to this server. lockd forgets it some minutes after its last lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientHost {
    pub(crate) way: Way,
    pub(crate) caller: CallerName,
    /// The name by which rpc.statd monitors it, if it does.
    pub(crate) mon_name: Option<CallerName>,
    pub(crate) monitored: bool,
    pub(crate) nsm_state: Option<NsmState>,
}

/// All that lockd has. Each part is as it was at some moment of the look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    /// Sorted.
    pub(crate) hosts: Vec<ClientHost>,
    /// Sorted.
    pub(crate) locks: Vec<HeldLock>,
    /// Sorted.
    pub(crate) waiters: Vec<Waiter>,
    /// Sorted.
    pub(crate) shares: Vec<Share>,
    /// How many passes it took until each lock was agreed about.
    pub(crate) passes: usize,
}

impl From<&OwnerRow> for OwnerKey {
    fn from(owner: &OwnerRow) -> Self {
        Self { way: Way::from(owner), svid: owner.svid }
    }
}

impl From<&OwnerRow> for Way {
    fn from(owner: &OwnerRow) -> Self {
        let OwnerRow { address, server_address, version, transport, .. } = *owner;
        Self { client: address, server: server_address, version, transport }
    }
}

/// What lockd has, by owner, file and first byte. Locks of one owner on a file do not overlap each other.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks<'a>(BTreeMap<(OwnerKey, &'a FileHandle, u64), &'a HeldLock>);

impl<'a> HeldLocks<'a> {
    pub(crate) fn of(view: &'a View) -> Self {
        Self(view.locks.iter().map(|lock| ((lock.owner, &lock.handle, lock.start), lock)).collect())
    }

    /// The last one that meets these bytes.
    pub(crate) fn meeting(&self, owner: &OwnerKey, file: &FileHandle, range: ByteRange) -> Option<&'a HeldLock> {
        let (_, lock) = self.0.range((*owner, file, 0)..=(*owner, file, range.end)).next_back()?;
        lock.range().overlaps(range).then_some(*lock)
    }
}

impl HeldLock {
    pub(crate) fn range(&self) -> ByteRange {
        ByteRange { start: self.start, end: if self.end >= TO_THE_END { u64::MAX } else { self.end } }
    }

    /// Whether the kernel never has both at the same time. An owner has one lock on a byte.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
            && self.range().overlaps(other.range())
            && (self.owner == other.owner || self.exclusive || other.exclusive)
    }

    /// Its file as `/proc/locks` names it.
    pub(crate) fn inode(&self) -> String {
        let (major, minor) = self.device;
        format!("{major:02x}:{minor:02x}:{}", self.inode)
    }

    /// As `/proc/locks` has it.
    pub(super) fn as_listed(&self) -> Lock {
        Lock {
            file: self.inode(),
            exclusive: self.exclusive,
            start: self.start,
            end: if self.end == TO_THE_END { u64::MAX } else { self.end },
        }
    }
}

#[cfg(test)]
impl Way {
    /// That of 192.0.2.`client`.
    pub(crate) fn sample(client: u8) -> Self {
        let [client, server] = [client, 1].map(|last| Address([192, 0, 2, last].into()));
        Self { client, server, version: 4, transport: Transport::Tcp }
    }
}

#[cfg(test)]
impl HeldLock {
    /// A write lock over a whole file, which a process of that client holds.
    pub(crate) fn sample(client: u8, svid: i32) -> Self {
        Self {
            owner: OwnerKey { way: Way::sample(client), svid: Svid(svid) },
            caller: CallerName::new(&format!("c{client}")).unwrap(),
            handle: FileHandle::new(b"file").unwrap(),
            device: (8, 17),
            inode: 42,
            path: None,
            deleted: false,
            exclusive: true,
            start: 0,
            end: TO_THE_END,
            monitored: true,
            nsm_state: None,
            offered: false,
        }
    }
}
