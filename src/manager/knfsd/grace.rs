//! knfsd by `--method grace`, the default: the lock manager is a process in front of lockd, which speaks the control protocol.
//!
//! Theory. That process (`interposer/`) is started from nlmctl's own file when it is first needed, in a session of its own,
//! and ends by itself when it has no run and is not called. It has the run: nlmctl may die, and a later one continues
//! it. One such process runs at a time. Its files on disk tell whether there is a run of it to ask for.
//!
//! If it is refused, nlmctl never falls back to the other method by itself, because that drops every lock. It is
//! offered with its price.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;

use super::hidden;
use super::keeper_files::{self, ACTIVE, RESULT};
use super::{Knfsd, KnfsdError, STATE_DIR, manager, pending};
use crate::manager::adapter::Adapter;
use crate::manager::nlmd::Nlmd;
use crate::manager::{Caution, Freed, LockManager, ManagerError, Owners, Weight};
use crate::wire::control::{
    BeginArgs, Begun, ClientResultPage, ClientRow, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs, ProgressArgs,
    Refusal, RefusalCode, ReleaseArgs, RunClient, RunId, RunResult, Scope, SettleArgs, Status, WatchArgs, Watched,
};

/// The hidden command of nlmctl that runs the process in front of lockd; its folder and its socket follow.
pub const COMMAND: &str = "knfsd-keeper";
pub const SOCKET: &str = "/run/nlmctl/knfsd.sock";
/// How long a call may take: to begin, or to list what lockd has, it reads kernel memory, and to settle it has lockd free one
/// lock after the other.
const PATIENCE: Duration = Duration::from_mins(5);

pub fn folder() -> PathBuf {
    keeper_files::folder(Path::new(STATE_DIR))
}

/// Whether a run in front of lockd is active, or was when its process was killed.
pub fn is_active() -> bool {
    folder().join(ACTIVE).exists()
}

/// Whether there is a run in front of lockd to ask for: an active one, or one whose result no controller has fetched.
pub fn has_news() -> bool {
    let is_result = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == RESULT);
    is_active() || fs::read_dir(folder()).is_ok_and(|entries| entries.flatten().any(is_result))
}

#[derive(Debug)]
pub struct Grace {
    program: PathBuf,
    keeper: Nlmd,
    /// What is not about runs.
    kernel: Adapter<Knfsd>,
}

impl Grace {
    /// `program` is nlmctl's own file.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Self { keeper: Nlmd::new(SOCKET).with_patience(PATIENCE), kernel: manager(STATE_DIR, &program), program }
    }

    /// The process, started if it is not there.
    async fn keeper(&self) -> Result<&Nlmd, ManagerError> {
        if UnixStream::connect(SOCKET).await.is_ok() {
            return Ok(&self.keeper);
        }
        let program = self.program.clone();
        let started = tokio::task::spawn_blocking(move || start(&program)).await;
        match started.unwrap_or_else(|_| Err("a thread died".to_owned())) {
            Ok(()) => Ok(&self.keeper),
            Err(what) => Err(ManagerError::Unreachable {
                endpoint: SOCKET.to_owned(),
                what: format!("the process in front of lockd did not start: {what}"),
                remedy: "run this as root on the NFS server".to_owned(),
            }),
        }
    }

    /// Whether the process says so because owners cannot be read. A run is refused then, and the caution that has the reason
    /// must still be reached: clients and status are those of the other method.
    async fn is_unable(&self, error: &ManagerError) -> bool {
        error.refused() == Some(RefusalCode::Unsupported)
            && matches!(self.kernel.owners().await, Ok(Owners::Unknown { .. }))
    }

    /// The other method, as far as it is possible, with its price.
    async fn offer(&self) -> Option<String> {
        let kernel = self.kernel.backend();
        let looked = kernel.blocking(|kernel| {
            let signal = kernel.machine.lockd()?.is_some_and(|lockd| kernel.takes_signal(lockd));
            Ok((kernel.look_ahead()?, signal))
        });
        let (cautions, signal) = looked.await.ok()?;
        if cautions.iter().any(|caution| caution.weight == Weight::Refuse) {
            return None;
        }
        let stop = if signal { "" } else { ", NFS service stops for about a second" };
        Some(format!(
            "`--method reboot` works without it, at a price: every lock is dropped first{stop}, local processes can take \
             ranges in between, nothing can be kept, and it cannot be aborted"
        ))
    }

    /// What is in the way of this method, with the other one as a remedy too.
    async fn refusals_with_offer(&self, found: &mut [Caution]) {
        if found.iter().all(|caution| caution.weight != Weight::Refuse) {
            return;
        }
        let Some(offer) = self.offer().await else { return };
        for caution in found.iter_mut().filter(|caution| caution.weight == Weight::Refuse) {
            caution.remedy = format!("{}; or: {offer}", caution.remedy);
        }
    }
}

/// Where lockd holds no lock.
const NOTHING: &str = "lockd holds no lock of a client: there is nothing to resync, and no client is notified. (`--method \
                       reboot` also notifies a client that believes in a lock which lockd has lost.)";

/// Starts it: answers once it serves, or another one does.
fn start(program: &Path) -> Result<(), String> {
    let started = hidden::start(Command::new(program).arg(COMMAND).arg(folder()).arg(SOCKET).stdin(Stdio::null()));
    started.map_err(|error| error.to_string())?.map(drop)
}

/// What holds otherwise than with nlmd.
fn cautions() -> Vec<Caution> {
    let say = |about, text: &str| Caution::new(about, Weight::Say, text, "");
    vec![
        say(
            "grace",
            "method grace: lockd keeps every lock and NFS service goes on. One word of the clients' lock requests is changed on their way \
             to lockd, so that it refuses ordinary ones and grants reclaims",
        ),
        say(
            "nfsv4",
            "processes of this host and NFSv4 clients are not bound by grace; a range that its owner gives up can go to \
             one of them, or to a client that already waits for it",
        ),
        say(
            "late-reclaims",
            "after the end of the run a late reclaim is granted only if its range is free at that moment, whoever had \
             it in between, and only until 15 seconds after the latest deadline, or longer while clients still reclaim",
        ),
        say("one-by-one", "what is dropped at the end is freed lock by lock, not in one instant"),
        say(
            "killed",
            "an emergency stop, where `nlmctl abort` does not help, is `pkill -KILL -f knfsd-keeper`: it ends the \
             process in front of lockd, and its packet rules with it. The price, also if that process is killed in \
             another way: later reclaims are refused, and their clients forget these locks; nothing is dropped, and \
             later runs keep them",
        ),
    ]
}

#[async_trait]
impl LockManager for Grace {
    fn kind(&self) -> &'static str {
        "knfsd"
    }
    fn endpoint(&self) -> String {
        SOCKET.to_owned()
    }
    async fn info(&self) -> Result<Info, ManagerError> {
        self.keeper().await?.info().await
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        let kernel = self.kernel.backend();
        let mut found = cautions();
        // In another process namespace rpc.statd is not seen either, and the namespace is the reason.
        found.extend(super::obstacles::look(&kernel.machine, None).await);
        found.extend(kernel.blocking(Knfsd::look_at_statd).await.map_err(KnfsdError::unanswered)?);
        self.refusals_with_offer(&mut found).await;
        Ok(found)
    }
    async fn nothing_to_resync(&self) -> Result<Option<String>, ManagerError> {
        let status = self.status().await?;
        Ok((status.run.0.is_none() && status.locks == 0).then(|| NOTHING.to_owned()))
    }
    async fn status(&self) -> Result<Status, ManagerError> {
        let status = match self.keeper().await?.status().await {
            Err(error) if self.is_unable(&error).await => return self.kernel.status().await,
            status => status?,
        };
        if status.run.0.is_none() {
            // One by the other method must end first; where its nlmctl was killed, it is found here.
            let kernel = self.kernel.status().await?;
            if kernel.run.0.is_some() {
                return Ok(kernel);
            }
        }
        Ok(status)
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        match self.keeper().await?.clients().await {
            Err(error) if self.is_unable(&error).await => self.kernel.clients().await,
            clients => clients,
        }
    }
    async fn owners(&self) -> Result<Owners, ManagerError> {
        if is_active() {
            // After a run whose process was killed the next one finds out what is unsure before it answers.
            self.keeper().await?.unfetched().await?;
        }
        let mut owners = self.kernel.owners().await?;
        if let Owners::View(view) = &mut owners
            && is_active()
        {
            // Asked for last: what was reclaimed meanwhile is not listed as pending.
            let rows = self.keeper().await?.all_locks(&Scope::default()).await?;
            view.locks = pending::mark(std::mem::take(&mut view.locks), &rows);
        }
        Ok(owners)
    }
    async fn locks(&self, args: &LocksArgs) -> Result<LockPage, ManagerError> {
        self.keeper().await?.locks(args).await
    }
    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError> {
        let begun = self.keeper().await?.begin(args).await;
        match begun {
            Err(ManagerError::Refused(refusal)) if refusal.code == RefusalCode::Unsupported => {
                let offer = self.offer().await.map(|offer| format!("; {offer}")).unwrap_or_default();
                let words = format!("{}{offer}", refusal.message.as_str());
                Err(Refusal::new(RefusalCode::Unsupported, words).into())
            }
            begun => begun,
        }
    }
    async fn run_clients(&self, run: RunId) -> Result<Vec<RunClient>, ManagerError> {
        self.keeper().await?.run_clients(run).await
    }
    async fn progress(&self, args: &ProgressArgs) -> Result<Status, ManagerError> {
        self.keeper().await?.progress(args).await
    }
    async fn extend(&self, args: &ExtendArgs) -> Result<Status, ManagerError> {
        self.keeper().await?.extend(args).await
    }
    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError> {
        self.keeper().await?.settle(args).await
    }
    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.keeper().await?.abort(run).await
    }
    async fn result(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.keeper().await?.result(run).await
    }
    async fn result_clients(&self, run: RunId, after: u64) -> Result<ClientResultPage, ManagerError> {
        self.keeper().await?.result_clients(run, after).await
    }
    async fn result_locks(&self, run: RunId, after: u64) -> Result<LockFatePage, ManagerError> {
        self.keeper().await?.result_locks(run, after).await
    }
    async fn acknowledge(&self, run: RunId) -> Result<(), ManagerError> {
        self.keeper().await?.acknowledge(run).await
    }
    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError> {
        self.keeper().await?.unfetched().await
    }
    async fn release(&self, args: &ReleaseArgs) -> Result<Freed, ManagerError> {
        self.kernel.release(args).await
    }
    async fn watch(&self, args: WatchArgs) -> Result<Watched, ManagerError> {
        self.keeper().await?.watch(args).await
    }
}
