//! The lock managers a controller can drive, behind one trait.
//!
//! Every manager answers with the types of [`wire::control`](crate::wire::control), whatever
//! protocol it has itself, and says in its [`Capabilities`](crate::wire::control::Capabilities) how much of
//! a run it can do. A denial is a [`Refusal`], a value of the protocol. What went wrong on the way
//! is distinguished by what it leaves unknown: after [`Unreachable`](ManagerError::Unreachable) the
//! request has changed nothing, after [`Lost`](ManagerError::Lost) the manager may have acted on it.
//!
//! Start reading at [`LockManager`]; [`nlmd`] is the control protocol's client.

pub mod adapter;
pub mod ganesha;
pub mod knfsd;
mod listing;
pub mod nlmd;

#[cfg(test)]
mod tests;

pub use listing::{OwnedLock, Owners, OwnersView};

use std::time::Duration;

use async_trait::async_trait;

use crate::wire::control::{
    AgedLock, BeginArgs, Begun, ClientResultPage, ClientRow, ExtendArgs, Info, LockFatePage, LockPage, LockRow,
    LocksArgs, PAGE, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Released, RunClient, RunId, RunResult, Scope,
    SettleArgs, Status, WatchArgs, Watched, next_page,
};
use crate::wire::xdr::List;

/// Why a manager's answer is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerError {
    /// It was not reached, or did not answer a question: the request changed nothing.
    #[error("no lock manager answers at {endpoint}: {what}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// It answered, and did not do it.
    #[error("the lock manager refused: {0}")]
    Refused(#[from] Refusal),
    /// The connection broke, or no answer came in time, after a request that changes something had
    /// left: it may have been acted on.
    #[error("lost the lock manager at {endpoint}: {what}")]
    Lost { endpoint: String, what: String },
    /// Its answer makes no sense.
    #[error("the lock manager at {endpoint} does not speak the control protocol as this version knows it: {what}")]
    Protocol { endpoint: String, what: String },
}

impl ManagerError {
    /// What the user can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreachable { remedy, .. } => remedy.clone(),
            Self::Refused(refusal) => match refusal.code {
                RefusalCode::RunActive => "`nlmctl status` shows that run, and whether an nlmctl works on it".into(),
                RefusalCode::GraceActive => {
                    "wait until that grace period is over (`nlmctl status`) and try again".into()
                }
                RefusalCode::StalePlan => "make a new plan: run the command again".into(),
                RefusalCode::NotAllowed => {
                    "run this as root, or as the lock manager's own user on its main control socket".into()
                }
                RefusalCode::NotDurable => "make room in the manager's state directory and look at its log".into(),
                RefusalCode::UnknownRun
                | RefusalCode::WrongPhase
                | RefusalCode::StillPending
                | RefusalCode::BadRequest
                | RefusalCode::Unsupported => {
                    "`nlmctl status` shows its state, `nlmctl runs list` what was recorded".into()
                }
            },
            Self::Lost { .. } => {
                "see whether the lock manager still runs; then `nlmctl runs list` completes the record".into()
            }
            Self::Protocol { .. } => "use an nlmctl and a lock manager of one version".into(),
        }
    }
    /// The refusal's code, if it is one.
    pub fn refused(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Protocol { .. } => None,
        }
    }
}

/// Something that a manager wants an operator to know before a run: what does not hold there, what
/// the run disturbs, what is in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caution {
    /// What it is about, in one word that does not change with circumstances: `nfsv4`, say.
    pub about: &'static str,
    /// How severe it is.
    pub weight: Weight,
    /// A sentence, for people.
    pub text: String,
    /// What to do about it; empty where there is nothing.
    pub remedy: String,
}

impl Caution {
    fn new(about: &'static str, weight: Weight, text: impl Into<String>, remedy: &str) -> Self {
        Self { about, weight, text: text.into(), remedy: remedy.into() }
    }

    /// Whether it is about service that a run interrupts, or not: users feel that at once.
    pub fn is_felt(&self) -> bool {
        self.about == "drop"
    }
}

/// What a [`Caution`] wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// It is said and stops nothing.
    Say,
    /// To be agreed to.
    Consent,
    /// No run is possible: `begin` would refuse.
    Refuse,
}

/// What a release did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Freed {
    /// What is free, and what is left.
    pub released: Released,
    /// Why each of the rows that are left is, as far as that is known; in their order.
    pub why_left: Vec<String>,
    /// What the operator should know of it.
    pub notes: Vec<String>,
    /// Whether it failed in the middle: it is not known what became of what is not said to be free.
    pub unverified: bool,
}

impl From<Released> for Freed {
    fn from(released: Released) -> Self {
        Self { released, ..Self::default() }
    }
}

/// A lock manager as its controller sees it.
///
/// Calls may be made at the same time from several tasks; each is cancel-safe in the sense that a
/// dropped call leaves the next one intact, and unsafe in the sense that the manager may act on it
/// all the same.
#[async_trait]
pub trait LockManager: Send + Sync {
    /// What kind it is: `nlmd`, `knfsd`, `ganesha`.
    fn kind(&self) -> &'static str;
    /// Where it is, for people.
    fn endpoint(&self) -> String;

    /// Its identity and capabilities.
    async fn info(&self) -> Result<Info, ManagerError>;
    /// What the operator has to know before a run. `begin` refuses what weighs more than was said
    /// here before.
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(Vec::new())
    }
    /// Likewise before locks are freed outside of any run: what is said or to be agreed to, and what forbids it.
    async fn release_cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(Vec::new())
    }
    /// Why a run would find nothing to do, and would tell no client, where that is so.
    async fn nothing_to_resync(&self) -> Result<Option<String>, ManagerError> {
        Ok(None)
    }
    /// How it is now.
    async fn status(&self) -> Result<Status, ManagerError>;
    /// Every client it knows.
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError>;
    /// The owners of the locks, for lists that people read.
    async fn owners(&self) -> Result<Owners, ManagerError> {
        Ok(Owners::Rows)
    }
    /// One page of the locks in a scope.
    async fn locks(&self, args: &LocksArgs) -> Result<LockPage, ManagerError>;
    /// Every lock of the scope, in memory.
    async fn all_locks(&self, scope: &Scope) -> Result<Vec<LockRow>, ManagerError> {
        let mut all = Vec::new();
        self.each_lock(scope, &mut |row| all.push(row.lock)).await?;
        Ok(all)
    }
    /// Hands out all of them, a page after the other; those of a listing that fails on the way are not all.
    async fn each_lock(&self, scope: &Scope, take: &mut (dyn FnMut(AgedLock) + Send)) -> Result<(), ManagerError> {
        let page = async |after| {
            let page = self.locks(&LocksArgs { scope: scope.clone(), after }).await?;
            Ok((page.locks, page.next))
        };
        each(self, page, take).await
    }

    /// State bumped and durable, then mark and grace in one step. Idempotent by run id.
    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError>;
    /// Every client that `begin` said is to be notified, in the order of their indices.
    async fn run_clients(&self, run: RunId) -> Result<Vec<RunClient>, ManagerError>;
    /// Tells what became of notices.
    async fn progress(&self, args: &ProgressArgs) -> Result<Status, ManagerError>;
    /// Moves the deadline of the active run, within its latest one.
    async fn extend(&self, args: &ExtendArgs) -> Result<Status, ManagerError>;
    /// Ends the run: pending locks are dropped or kept as policy says.
    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError>;
    /// Ends the run: pending locks are held again.
    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError>;

    /// The sums of a run that has ended.
    async fn result(&self, run: RunId) -> Result<RunResult, ManagerError>;
    /// One page of its clients; `after` is 0 or the `next` of the page before.
    async fn result_clients(&self, run: RunId, after: u64) -> Result<ClientResultPage, ManagerError>;
    /// One page of its locks; `after` is 0 or the `next` of the page before.
    async fn result_locks(&self, run: RunId, after: u64) -> Result<LockFatePage, ManagerError>;
    /// The result is stored here; the manager may forget it.
    async fn acknowledge(&self, run: RunId) -> Result<(), ManagerError>;
    /// Ended runs whose result no controller has acknowledged, the oldest first.
    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError>;

    /// Frees chosen locks: all of them in one step, or none where it is refused. A manager that can
    /// only ask another program to do it looks afterwards, and tells what is left.
    ///
    /// One that does not know owners gets whole clients only, by name: with 0 locks, the digest of none, and an unspecified
    /// address where none is known.
    async fn release(&self, args: &ReleaseArgs) -> Result<Freed, ManagerError>;

    /// The cursor of the page after the one asked for with `after`; `None` after the last one. An error
    /// where the pages would never end.
    fn next_page(&self, after: u64, next: u64) -> Result<Option<u64>, ManagerError> {
        next_page(after, next)
            .map_err(|error| ManagerError::Protocol { endpoint: self.endpoint(), what: error.to_string() })
    }

    /// Answers when something changed since the cursor, or at the time-out.
    async fn watch(&self, args: WatchArgs) -> Result<Watched, ManagerError>;
}

/// Most pages of one listing: 16 million rows. A manager that goes on after that is taken for one that never ends.
const MAX_PAGES: usize = 16_384;

/// Gathers the pages of a listing.
async fn gather<T, F>(manager: &(impl LockManager + ?Sized), page: impl FnMut(u64) -> F) -> Result<Vec<T>, ManagerError>
where
    F: Future<Output = Result<(List<T, PAGE>, u64), ManagerError>>,
{
    let mut all = Vec::new();
    each(manager, page, &mut |row| all.push(row)).await?;
    Ok(all)
}

/// Hands out the rows of a listing; `page` gets a cursor, and returns the rows and the next cursor.
async fn each<T, F>(
    manager: &(impl LockManager + ?Sized),
    mut page: impl FnMut(u64) -> F,
    take: &mut (impl FnMut(T) + ?Sized),
) -> Result<(), ManagerError>
where
    F: Future<Output = Result<(List<T, PAGE>, u64), ManagerError>>,
{
    let mut after = 0;
    for _ in 0..MAX_PAGES {
        let (rows, next) = page(after).await?;
        rows.into_vec().into_iter().for_each(&mut *take);
        match manager.next_page(after, next)? {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
    Err(ManagerError::Protocol { endpoint: manager.endpoint(), what: "a listing has no end".into() })
}

/// How long a call may take before its manager counts as lost. Settling a million locks and
/// syncing the result is the slowest one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
