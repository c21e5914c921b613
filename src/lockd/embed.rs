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
    /// It asks for what it says it had already.
    pub reclaim: bool,
}

/// Whether a file may be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It exists, and the caller may lock it.
    Allowed,
    /// No such file any more: STALE_FH in NLM v4, DENIED_NOLOCKS in v1 and v3, which have no word for it
    /// (as a Linux server answers). A reclaim too.
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
    /// for five seconds is dropped (so is the future), and its call with it, unanswered: the client
    /// sends it again. So is one beyond 1,024 questions at once.
    async fn may_lock(&self, question: &Question) -> Admission;
}

/// Why the mirror could not take what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// A holder there is in the way.
    #[error("a holder that does not use NLM is in the way")]
    Conflict,
    /// It could not be asked: a new lock is refused as DENIED_NOLOCKS. A reclaim goes unanswered, and the
    /// client repeats it: refused, it would forget a lock that it still has.
    #[error("the file system's lock cannot be had: {0}")]
    Failed(#[from] io::Error),
}

/// Takes what is held or pending here in another lock domain too, so that local processes, SMB or
/// NFSv4 clients are excluded as well. All NLM clients together are *one* owner there: what they have
/// of each other is not its business. After a restart it starts empty; reclaims take again.
///
/// Nothing is given up at a stop: what is held ends with the process, or with the mirror where it is
/// dropped. So each [`Server::start`](crate::lockd::Server::start) needs a mirror of its own, that has
/// nothing, and who starts a server again in the same process drops the mirror of the one before first.
///
/// SHARE reservations are not mirrored. A waiter (F_SETLKW over NFS) that meets a holder there is
/// asked for again after 100 ms, then less and less often, every 5 s at last; a deadlock over both
/// domains is not found.
///
/// At most one call for a file is under way at a time, except [`holder`](Self::holder). A call must
/// answer: until it does, other locks of that file that need it go unanswered. Other files are served,
/// up to 128 files that hang at once: beyond them locks of further files go unanswered too.
#[async_trait]
pub trait Mirror: Debug + Send + Sync + 'static {
    /// Raises each part to its mode, without waiting for the holder that is in the way. On an error some of
    /// the parts may have been raised: they are given up next.
    async fn take(&self, file: &FileHandle, parts: &[Part]) -> Result<(), NotTaken>;

    /// Lowers each part to its mode; may be told what it has not. `nothing_left`: nothing is covered of the
    /// file any more, it can be closed.
    async fn give_up(&self, file: &FileHandle, parts: &[Part], nothing_left: bool);

    /// The holder in the other domain that is in the way of `part` (TEST), if there is one.
    async fn holder(&self, file: &FileHandle, part: Part) -> Option<Holder>;
}

/// The say that a file server has. None by default.
#[derive(Debug, Clone, Default)]
pub struct Embedding {
    /// Who may lock what.
    pub access: Option<Arc<dyn Access>>,
    /// Another lock domain.
    pub mirror: Option<Arc<dyn Mirror>>,
}
