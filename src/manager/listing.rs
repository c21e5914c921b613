//! The owners of locks, for lists that people read. What a run knows is in
//! [`Capabilities`](crate::wire::control::Capabilities), and may be less.

use std::path::PathBuf;

use crate::wire::control::{ClientRow, LockKind, LockRow, LockState, OwnerRow};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, OwnerHandle, Svid, Transport};

/// How a manager tells the owners of locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// [`locks`](super::LockManager::locks) and [`clients`](super::LockManager::clients) have it.
    Rows,
    /// Another view has it.
    View(OwnersView),
    /// It does not, now or ever: those lists have neither owners nor counts.
    Unknown {
        why: String,
        /// What can be done about it; empty where nothing can.
        remedy: String,
    },
}

/// Clients and locks at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnersView {
    /// How it was got, for people.
    pub how: &'static str,
    /// Clients with a monitor record or with locks.
    pub clients: Vec<ClientRow>,
    /// Locks held and waited for.
    pub locks: Vec<OwnedLock>,
}

/// A lock with its owner and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLock {
    pub name: CallerName,
    pub address: Address,
    /// The address that it called.
    pub server_address: Address,
    pub transport: Transport,
    /// The NLM version it spoke.
    pub version: u32,
    /// Its process; a share has none.
    pub svid: Option<Svid>,
    /// Its owner handle, where the manager keeps it.
    pub oh: Option<OwnerHandle>,
    /// Whether the client can be notified.
    pub monitored: bool,
    pub kind: LockKind,
    /// The bytes; everything for a share.
    pub range: ByteRange,
    pub state: LockState,
    /// The handle by which the client named the file.
    pub file: FileHandle,
    /// Device and inode of the file, as `/proc/locks` has them.
    pub inode: String,
    /// Its absolute path, where it has one.
    pub path: Option<Vec<u8>>,
    /// Whether that path was removed.
    pub deleted: bool,
    /// The export that the path is in.
    pub export: Option<PathBuf>,
    /// Why its client may not know it any more, though its process may believe in it: runs keep it.
    pub unsure: Option<String>,
}

impl OwnedLock {
    /// As the control protocol has it, where every lock has a process and an owner handle.
    pub(crate) fn row(&self) -> LockRow {
        LockRow {
            file: self.file.clone(),
            kind: self.kind,
            range: self.range,
            state: self.state,
            monitored: self.monitored,
            owner: OwnerRow {
                name: self.name.clone(),
                address: self.address,
                server_address: self.server_address,
                transport: self.transport,
                version: self.version,
                svid: self.svid.unwrap_or(Svid(0)),
                oh: self.oh.clone().unwrap_or_default(),
            },
        }
    }
}
