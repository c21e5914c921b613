//! What lockd has, for others to use.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::host::Lock;
use crate::wire::control::OwnerRow;
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Transport};

/// `fl_end` of a lock that goes to the end of the file.
pub(crate) const TO_THE_END: u64 = i64::MAX.unsigned_abs();

/// What lockd takes for one owner. A host that calls it with the same address, from and to, the same version and transport
/// and the same svid is that owner to it; the caller's name and the owner handle do not count. A link-local address
/// holds its interface (`wire/scope.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OwnerKey {
    pub(crate) client: IpAddr,
    /// The address of this server that it called.
    pub(crate) server: IpAddr,
    /// The NLM version it spoke: 1, 3 or 4.
    pub(crate) version: u32,
    /// Whether it called by TCP; else by UDP.
    pub(crate) tcp: bool,
    pub(crate) svid: u32,
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
    /// Whose it is; a share has no svid, and 0 stands there.
    pub(crate) owner: OwnerKey,
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
    /// Its address, the server's, version and transport; the svid is 0.
    pub(crate) key: OwnerKey,
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
        Self {
            client: owner.address.0,
            server: owner.server_address.0,
            version: owner.version,
            tcp: owner.transport == Transport::Tcp,
            svid: owner.svid.0.cast_unsigned(),
        }
    }
}

impl View {
    /// The locks by their owners.
    pub(crate) fn by_owner(&self) -> HashMap<OwnerKey, Vec<&HeldLock>> {
        let mut locks: HashMap<OwnerKey, Vec<&HeldLock>> = HashMap::new();
        for lock in &self.locks {
            locks.entry(lock.owner).or_default().push(lock);
        }
        locks
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

    /// As `/proc/locks` has it.
    pub(super) fn as_listed(&self) -> Lock {
        let (major, minor) = self.device;
        Lock {
            file: format!("{major:02x}:{minor:02x}:{}", self.inode),
            exclusive: self.exclusive,
            start: self.start,
            end: if self.end == TO_THE_END { u64::MAX } else { self.end },
        }
    }
}
