//! The decisions of a file server that embeds the lock manager: whether a handle exists and
//! who may lock it ([`Access`]), and locks that hold in its file system too ([`Mirror`]). nlmd alone
//! has neither: it arbitrates NLM only, and takes any handle.
//!
//! Both are asked beside the lock table, which never waits for them; `table::queue` keeps the order
//! of one client's calls meanwhile.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::wire::rpc::Credential;
use crate::wire::types::{CallerName, FileHandle};

pub use crate::locks::{Coverage, Holder, Part, Process};

/// A caller who asks for a lock.
#[derive(Debug, Clone)]
pub struct Question {
    /// The file, as the NFS server gave out its handle. Anything a peer can send.
    pub file: FileHandle,
    /// The caller's address.
    pub address: IpAddr,
    /// Its `caller_name`.
    pub name: CallerName,
    /// The user its call was made for; proves no more than it does for NFS.
    pub credential: Credential,
    /// A write lock (or a share with write access); otherwise a read lock.
    pub exclusive: bool,
    /// A reclaim: the caller says that it already had the lock.
    pub reclaim: bool,
}

/// Whether a file may be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It exists, and the caller may lock it.
    Allowed,
    /// The file no longer exists: STALE_FH in NLM v4, DENIED_NOLOCKS in v1 and v3, which have no status for it
    /// (a Linux server answers the same). This also refuses a reclaim.
    Stale,
    /// The caller may not lock it: DENIED (FAILED for TEST, where a denial names a holder). A reclaim
    /// of what the lock manager still knows as the caller's is granted nevertheless: permission is
    /// asked when a lock is taken.
    Denied,
}

/// Answers whether a handle exists and whether this caller may lock it. Asked for TEST, LOCK, NM_LOCK
/// and SHARE; never for UNLOCK, CANCEL or UNSHARE, which must always work.
#[async_trait]
pub trait Access: Debug + Send + Sync + 'static {
    /// May this caller lock this file? Asked for several calls at once. A question without an answer
    /// for five seconds is dropped (so is the future), and its call goes unanswered: the client
    /// sends it again. The same happens to a question beyond 1,024 at once.
    async fn may_lock(&self, question: &Question) -> Admission;
}

/// Why the mirror could not take a range.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// A holder in the other domain is in the way.
    #[error("a holder that does not use NLM is in the way")]
    Conflict,
    /// The other domain could not be asked: a new lock is refused as DENIED_NOLOCKS. A reclaim goes unanswered, and
    /// the client repeats it: if it were refused, the client would forget a lock that it still has.
    #[error("cannot take the file system's lock: {0}")]
    Failed(#[from] io::Error),
}

/// Takes each held or pending range in another lock domain too, so that local processes, SMB or
/// NFSv4 clients are excluded as well. All NLM clients together are *one* owner there: the mirror does not
/// arbitrate between them. After a restart it starts empty; reclaims take the ranges again.
///
/// Nothing is given up at a stop: the ranges end with the process, or with the mirror when it is
/// dropped. So each [`Server::start`](crate::lockd::Server::start) needs an empty mirror of its own. To start
/// a server again in the same process, first drop the mirror of the previous one.
///
/// SHARE reservations are not mirrored. If a holder there is in the way of a waiter (F_SETLKW over NFS), the
/// mirror is asked again after 100 ms, then at growing intervals of up to 5 s; a deadlock across both
/// domains is not detected.
///
/// At most one call for a file is in progress at a time, except [`holder`](Self::holder). A call must
/// answer: until it does, other locks of that file that need it go unanswered. Other files are served while
/// up to 128 files hang at once; beyond that, locks of further files go unanswered too.
#[async_trait]
pub trait Mirror: Debug + Send + Sync + 'static {
    /// Raises each part to its mode, without waiting for a holder that is in the way. After an error some of
    /// the parts may have been raised: they are given up next.
    async fn take(&self, file: &FileHandle, parts: &[Part]) -> Result<(), NotTaken>;

    /// Lowers each part to its mode; some parts may not be taken at all. `nothing_left`: no byte of the file is
    /// covered any more, and the file can be closed.
    async fn give_up(&self, file: &FileHandle, parts: &[Part], nothing_left: bool);

    /// The holder in the other domain that is in the way of `part` (TEST), if there is one.
    async fn holder(&self, file: &FileHandle, part: Part) -> Option<Holder>;
}

/// The decisions of a file server. None by default.
#[derive(Debug, Clone, Default)]
pub struct Embedding {
    /// Decides who may lock which file.
    pub access: Option<Arc<dyn Access>>,
    /// Another lock domain.
    pub mirror: Option<Arc<dyn Mirror>>,
}
