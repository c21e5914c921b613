//! The clients and locks of a manager, and the scope that selects some of them.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use super::pages::PAGE;
use crate::wire::scope;
use crate::wire::types::{Address, BadName, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use crate::wire::xdr::{CodecError, List, Maybe, Pack, Text, Unpack, XdrCodec};

/// Most client or file references in a scope, and clients in a drop list.
pub const MAX_REFS: usize = 100_000;

/// A client of the manager.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientRow {
    /// Its `caller_name`.
    pub name: CallerName,
    /// The addresses it called from, the first one first.
    pub addresses: List<Address, 16>,
    /// The server addresses it called.
    pub server_addresses: List<Address, 16>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
    /// Whether a durable monitor record exists.
    pub monitored: bool,
    /// Whether another name calls from one of its addresses (NAT).
    pub shared_address: bool,
    /// Locks and shares it holds.
    pub locks: u64,
    /// Of them, unmonitored ones.
    pub unmonitored: u64,
    /// Its blocked requests.
    pub waiters: u64,
    /// Why its locks may be stale; empty when there is no evidence.
    pub suspicions: List<Text<128>, 8>,
}

/// A page of clients.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientPage {
    /// The rows.
    pub clients: List<ClientRow, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}

/// Names a client: by name, by address, or by both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct ClientRef {
    /// Its `caller_name`, full or short.
    pub name: Maybe<CallerName>,
    /// One of its addresses.
    pub address: Maybe<Address>,
}

impl ClientRef {
    /// Whoever has this name.
    pub fn named(name: CallerName) -> Self {
        Self { name: Maybe(Some(name)), address: Maybe(None) }
    }
}

impl FromStr for ClientRef {
    type Err = BadName;
    /// What a user typed: an address, else a name.
    fn from_str(text: &str) -> Result<Self, BadName> {
        match scope::parse(text) {
            Some(ip) => Ok(Self { name: Maybe(None), address: Maybe(Some(ip.into())) }),
            None => CallerName::typed(text).map(Self::named),
        }
    }
}

/// What a run covers. Empty lists are "everything"; both kinds given intersect.
#[derive(Debug, Clone, PartialEq, Eq, Default, XdrCodec)]
pub struct Scope {
    /// These clients.
    pub clients: List<ClientRef, MAX_REFS>,
    /// These files.
    pub files: List<FileHandle, MAX_REFS>,
}

impl Scope {
    /// Whether the run covers everything.
    pub fn is_everything(&self) -> bool {
        self.clients.as_slice().is_empty() && self.files.as_slice().is_empty()
    }
}

/// What `locks` lists.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LocksArgs {
    /// Only these.
    pub scope: Scope,
    /// The cursor.
    pub after: u64,
}

/// What a row of the lock list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
#[repr(u32)]
pub enum LockKind {
    /// A shared (read) byte-range lock.
    Shared = 0,
    /// An exclusive (write) byte-range lock.
    Exclusive = 1,
    /// A SHARE reservation (the whole file).
    Share = 2,
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "read",
            Self::Exclusive => "write",
            Self::Share => "share",
        })
    }
}

/// What a lock is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum LockState {
    /// Held.
    Held = 0,
    /// In scope of the active run and not reclaimed yet.
    Pending = 1,
    /// A blocked request.
    Waiting = 2,
    /// Granted to a blocked request that has not confirmed it.
    Offered = 3,
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Offered => "offered",
        })
    }
}

/// The owner of a lock: client, path and process.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct OwnerRow {
    /// The client's name.
    pub name: CallerName,
    /// The client's address.
    pub address: Address,
    /// The server address it called.
    pub server_address: Address,
    /// How.
    pub transport: Transport,
    /// The NLM version it spoke.
    pub version: u32,
    /// Its process number (0 for a share).
    pub svid: Svid,
    /// Its owner handle.
    pub oh: OwnerHandle,
}

impl Pack for Box<OwnerRow> {
    fn packed_size(&self) -> usize {
        (**self).packed_size()
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        (**self).pack(out)
    }
}

impl Unpack for Box<OwnerRow> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        OwnerRow::unpack(input).map(|(row, read)| (Box::new(row), read))
    }
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockRow {
    /// The file.
    pub file: FileHandle,
    /// What it is.
    pub kind: LockKind,
    /// The bytes; everything for a share.
    pub range: ByteRange,
    /// Held, pending, waiting, offered.
    pub state: LockState,
    /// Whether its client can be notified.
    pub monitored: bool,
    /// Whose.
    pub owner: OwnerRow,
}

/// A lock of a list, and its age.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct AgedLock {
    /// The lock.
    pub lock: LockRow,
    /// For how many seconds its owner has had it, or a blocked request has waited; none if the manager does not know.
    pub age_s: Maybe<u32>,
}

impl From<LockRow> for AgedLock {
    /// One whose age is not known.
    fn from(lock: LockRow) -> Self {
        Self { lock, age_s: Maybe(None) }
    }
}

/// A page of locks.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockPage {
    /// The rows.
    pub locks: List<AgedLock, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}
