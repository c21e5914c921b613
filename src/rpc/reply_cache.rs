//! Remembers answers, so that a call that came twice is executed once.

use std::net::SocketAddr;
use std::time::Duration;

/// What names a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who called, with the port.
    pub source: SocketAddr,
    /// The call's xid.
    pub xid: u32,
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: u32,
    /// Of the arguments.
    pub checksum: u64,
}

/// What the cache knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: execute it, then tell [`ReplyCache::answered`] or [`ReplyCache::forget`].
    New,
    /// It is being executed: drop this one.
    InProgress,
    /// It was answered with this.
    Answered(std::sync::Arc<[u8]>),
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Entries in all.
    pub entries: usize,
    /// Bytes of replies in all.
    pub bytes: usize,
    /// Entries of one source address.
    pub entries_per_address: usize,
    /// Answers older than this are forgotten.
    pub age: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { entries: 65_536, bytes: 16 << 20, entries_per_address: 4096, age: Duration::from_secs(120) }
    }
}

/// The cache.
#[derive(Debug)]
pub struct ReplyCache {}

#[allow(clippy::todo, unused_variables, clippy::unused_self, clippy::needless_pass_by_value)]
impl ReplyCache {
    /// An empty one.
    pub fn new(limits: CacheLimits) -> Self {
        todo!()
    }
    /// A call came.
    pub fn begin(&mut self, now: Duration, key: Key) -> Seen {
        todo!()
    }
    /// It was answered.
    pub fn answered(&mut self, now: Duration, key: &Key, reply: std::sync::Arc<[u8]>) {
        todo!()
    }
    /// It will not be answered.
    pub fn forget(&mut self, key: &Key) {
        todo!()
    }
}
