//! Lock managers that do not cooperate, driven through a run from outside.
//!
//! Theory. Such a manager ([`Backend`]) knows nothing of runs: it can be made to forget its locks and
//! to start a grace period, and it can be looked at. [`Driven`] adds what a run needs around it.
//!
//! - *What is marked* is a snapshot ([`Sight`]) taken just before the drop. Nothing protects a
//!   dropped lock but grace, so a run can't be aborted once it has begun, nothing can be kept, and a
//!   lock is pending until it is seen held again ([`compare`]).
//! - *A run is on disk* ([`vault`]) before each step that can't be undone: the snapshot and the clients
//!   to tell before the drop, that notices may leave before they do, the result before grace is
//!   ended. So this process may die at any instant; the next one finds the run, looks where the
//!   manager really is, and goes on or says what was lost ([`Driven::recover`] in `truth`).
//! - *One process drives*: it holds an OS lock. Others only read.
//! - *What is said was seen.* A lock that is back while grace is on was reclaimed. One that is
//!   missing when grace ends is dropped if somebody looked at that moment; else it is unverified: it
//!   may have been reclaimed and unlocked since. Owners are not known, so no client's count is.
//!
//! | file | what | |
//! |---|---|---|
//! | `backend` | what the manager itself must be able to do | |
//! | `begin` | from the plan to confirmed grace | |
//! | `compare` | what came back | pure |
//! | `record` | a run as it is on disk | pure |
//! | `results` | the result of a run | pure |
//! | `vault` | the files | |
//! | `view` | what was seen last, and the events for watchers | |
//! | `truth` | runs that are found on disk; runs that end | |
//! | `mod` | the trait, call by call; start reading at [`Driven::begin`](LockManager::begin) | |

mod backend;
mod begin;
pub mod compare;
pub mod record;
mod results;
mod truth;
pub mod vault;
mod view;

#[cfg(test)]
mod tests;

pub use backend::{Backend, ClientReleased, Dropped, GraceEnd, Identity, Recovered};
pub use compare::{LocalLock, Lock, Sight};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use self::record::{Coded, Phase, RunRecord, millis};
use self::vault::{DriverLock, Vault};
use self::view::View;
use super::{Caution, LockManager, ManagerError, Weight};
use crate::wire::control::{
    BeginArgs, Begun, ClientResultPage, ClientRow, Counts, ExtendArgs, FullResult, Grace, Info, InstanceId,
    LockFatePage, LockPage, LocksArgs, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Released, RunClient, RunId,
    RunResult, RunStatus, SettleArgs, Status, WatchArgs, Watched, page,
};
use crate::wire::xdr::{List, Maybe, Text};

/// Between two looks at the manager while something is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two writes of nothing but deliveries: a run over many locks is long to write.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A lock manager made of a [`Backend`].
pub struct Driven<B> {
    backend: Arc<B>,
    vault: Vault,
    desk: Arc<Mutex<Desk>>,
    /// Whose turn it is to change a run that has begun, or to find one: one task's at a time, and it
    /// looks at the desk again when it has it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Nobody else changes a run while this is held.
type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// What this process knows and may do.
#[derive(Debug, Default)]
struct Desk {
    /// The right to drive, while this process has it.
    driving: Option<DriverLock>,
    /// The active run as it is on disk.
    run: Option<Arc<RunRecord>>,
    view: View,
    /// When that was written.
    saved: Option<Instant>,
    /// What the operator was told: these, and no others, may be in a run's way.
    told: Vec<&'static str>,
}

impl<B> std::fmt::Debug for Driven<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driven").field("vault", &self.vault).finish_non_exhaustive()
    }
}

impl<B> Clone for Driven<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            vault: self.vault.clone(),
            desk: Arc::clone(&self.desk),
            turn: Arc::clone(&self.turn),
        }
    }
}

pub(super) fn refused<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, ManagerError> {
    Err(ManagerError::Refused(Refusal::new(code, message)))
}

impl<B: Backend> Driven<B> {
    /// Drives `backend`; runs are kept in the vault's folder.
    pub fn new(backend: B, vault: Vault) -> Self {
        Self { backend: Arc::new(backend), vault, desk: Arc::default(), turn: Arc::default() }
    }
    /// The manager itself.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work with files, off the async threads.
    async fn with_vault<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, ManagerError> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let vault = self.vault.clone();
        match tokio::task::spawn_blocking(move || work(&vault)).await {
            Ok(done) => done,
            Err(_) => Err(ManagerError::Lost { endpoint: self.endpoint(), what: "a thread died".into() }),
        }
    }

    /// Makes a run durable, and it is the active one if it is not over.
    async fn keep(&self, run: RunRecord) -> Result<Arc<RunRecord>, ManagerError> {
        let run = Arc::new(run);
        let saved = Arc::clone(&run);
        self.with_vault(move |vault| vault.save(&saved)).await?;
        let mut desk = self.desk();
        desk.run = run.is_active().then(|| Arc::clone(&run));
        desk.saved = Some(Instant::now());
        drop(desk);
        Ok(run)
    }

    fn written_lately(&self) -> bool {
        self.desk().saved.is_some_and(|saved| saved.elapsed() < WRITE_EVERY)
    }

    fn instance_of(&self, life: &str) -> InstanceId {
        let digest = Sha256::new().chain_update(self.backend.kind()).chain_update([0]).chain_update(life).finalize();
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        InstanceId(id)
    }

    /// This life of the manager. What a run itself has ended is no new life.
    async fn instance(&self, life: &str, active: Option<&RunRecord>) -> Result<InstanceId, ManagerError> {
        if let Some(run) = active {
            return Ok(run.instance.0);
        }
        let runs = self.with_vault(Vault::runs).await?;
        let same = runs.iter().rev().find(|run| run.life == life);
        Ok(same.map_or_else(|| self.instance_of(life), |run| run.instance.0))
    }

    /// Looks at the manager, and takes what is seen into the active run's account.
    async fn look(&self) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let active = self.active().await?;
        let sight = self.backend.sight().await?;
        // Asked after the locks were listed: what is in the list was granted in grace then.
        let in_grace = self.backend.in_grace().await?;
        let mut desk = self.desk();
        match &active {
            Some(run) if run.phase == Phase::Grace && in_grace => desk.view.see(run, sight, elapsed(run)),
            _ => desk.view.see_idle(sight, in_grace),
        }
        Ok(active)
    }

    /// The run as a controller is to see it: none while it only begins.
    fn run_status(run: &RunRecord, view: &View) -> Option<RunStatus> {
        if run.phase == Phase::Beginning {
            return None;
        }
        let elapsed = elapsed(run);
        let (deadline, latest) = run.deadlines(view.last_reclaim());
        Some(RunStatus {
            run: run.id(),
            mode: run.begin.0.mode,
            nsm_state: run.new_state.0,
            elapsed_ms: millis(elapsed),
            remaining_ms: millis(deadline.saturating_sub(elapsed)),
            latest_remaining_ms: millis(latest.saturating_sub(elapsed)),
            last_reclaim_ms: Maybe(view.last_reclaim().map(|at| millis(elapsed.saturating_sub(at)))),
            counts: view.counts(run),
            notices_begun: run.notices_begun,
        })
    }

    async fn status_of(&self, active: Option<Arc<RunRecord>>) -> Result<Status, ManagerError> {
        let identity = self.backend.identity().await?;
        let instance = self.instance(&identity.life, active.as_deref()).await?;
        let nsm_state = self.backend.nsm_state().await?;
        let clients = self.backend.client_count().await?;
        let desk = self.desk();
        let locks = desk.view.locks();
        let run = active.as_deref().and_then(|run| Self::run_status(run, &desk.view));
        let grace = match (&run, desk.view.in_grace()) {
            (Some(_), true) => Grace::Strict,
            (None, true) => Grace::Recovery,
            (_, false) => Grace::Open,
        };
        Ok(Status {
            instance,
            nsm_state,
            grace,
            grace_remaining_ms: run.as_ref().map_or(0, |run| run.remaining_ms),
            clients,
            monitored: clients,
            locks,
            // Whose a lock is nobody knows; where no client is on record it is nobody's to tell.
            unmonitored: if clients == 0 { locks } else { 0 },
            waiters: desk.view.waiters(),
            run: Maybe(run),
            cursor: desk.view.timeline.cursor(),
        })
    }

    /// The active run of this id, driven by this process, and the turn to change it.
    async fn driven(&self, run: RunId) -> Result<(Turn<'_>, Arc<RunRecord>), ManagerError> {
        let seen = self.look().await?;
        let turn = self.turn.lock().await;
        let mine = {
            let desk = self.desk();
            desk.run.clone().filter(|_| desk.driving.is_some())
        };
        let is_it = |active: &Arc<RunRecord>| active.id() == run && active.phase != Phase::Beginning;
        match mine.filter(is_it) {
            Some(mine) if mine.phase == Phase::Grace => return Ok((turn, mine)),
            Some(_) => return refused(RefusalCode::WrongPhase, format!("run {run} is settling")),
            None => {}
        }
        if self.ended(run).await?.is_some() {
            return refused(RefusalCode::WrongPhase, format!("run {run} is over"));
        }
        if seen.is_some_and(|seen| is_it(&seen)) {
            return refused(RefusalCode::RunActive, format!("run {run} is driven by another nlmctl"));
        }
        refused(RefusalCode::UnknownRun, format!("run {run} is not known"))
    }

    async fn found(&self, run: RunId) -> Result<Option<RunRecord>, ManagerError> {
        Ok(self.with_vault(Vault::runs).await?.into_iter().find(|known| known.id() == run))
    }

    async fn ended(&self, run: RunId) -> Result<Option<Arc<Coded<FullResult>>>, ManagerError> {
        let known = self.found(run).await?.filter(|known| !known.is_active());
        Ok(known.and_then(|known| known.result))
    }

    async fn full_result(&self, run: RunId) -> Result<Arc<Coded<FullResult>>, ManagerError> {
        // A run whose grace has ended meanwhile ends now.
        let active = self.active().await?;
        if let Some(result) = self.ended(run).await? {
            return Ok(result);
        }
        if active.is_some_and(|active| active.id() == run && active.phase != Phase::Beginning) {
            return refused(RefusalCode::WrongPhase, format!("run {run} is active"));
        }
        refused(RefusalCode::UnknownRun, format!("run {run} is not known"))
    }
}

/// How long to rest after a look that began then.
fn pause_after(looking: tokio::time::Instant) -> Duration {
    LOOK_EVERY.max(looking.elapsed() * 4)
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// How long ago a run began.
fn elapsed(run: &RunRecord) -> Duration {
    Duration::from_millis(unix_ms().saturating_sub(run.began_unix_ms))
}

#[async_trait]
impl<B: Backend> LockManager for Driven<B> {
    fn kind(&self) -> &'static str {
        self.backend.kind()
    }
    fn endpoint(&self) -> String {
        self.backend.endpoint()
    }

    async fn info(&self) -> Result<Info, ManagerError> {
        let active = self.active().await?;
        let identity = self.backend.identity().await?;
        let mut capabilities = self.backend.capabilities();
        if let Some(run) = &active {
            capabilities.begin_releases = !run.soft;
        }
        Ok(Info {
            instance: self.instance(&identity.life, active.as_deref()).await?,
            nsm_state: self.backend.nsm_state().await?,
            software: Text::clipped(identity.software),
            names: List::clipped(identity.names),
            capabilities,
            domains: List::clipped(vec![Text::clipped("nlm")]),
        })
    }

    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        let mut cautions = self.backend.cautions().await?;
        let owed = self.owed().await?;
        if !owed.is_empty() {
            cautions.push(Caution {
                about: "owed",
                weight: Weight::Say,
                text: format!(
                    "an earlier run dropped locks and ended before its {} clients were told: this run tells them",
                    owed.len()
                ),
                remedy: String::new(),
            });
        }
        self.desk().told = cautions.iter().map(|caution| caution.about).collect();
        Ok(cautions)
    }

    async fn status(&self) -> Result<Status, ManagerError> {
        let active = self.look().await?;
        self.status_of(active).await
    }

    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        self.backend.clients().await
    }

    async fn locks(&self, args: &LocksArgs) -> Result<LockPage, ManagerError> {
        if !args.scope.clients.as_slice().is_empty() {
            let kind = self.backend.kind();
            return refused(RefusalCode::Unsupported, format!("{kind} does not tell whose a lock is"));
        }
        let sight = self.backend.sight().await?;
        Ok(results::lock_page(&sight, args))
    }

    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError> {
        let names = self.backend.identity().await?.names;
        if let Some(active) = self.active().await? {
            if active.id() != args.run {
                return refused(RefusalCode::RunActive, format!("run {} is active", active.id()));
            }
            if active.phase == Phase::Beginning {
                return refused(RefusalCode::RunActive, format!("run {} is being begun by another nlmctl", args.run));
            }
            return Ok(Self::begun(&active, names));
        }
        if self.ended(args.run).await?.is_some() {
            return refused(RefusalCode::WrongPhase, format!("run {} is over", args.run));
        }
        if !self.drive().await? {
            return refused(RefusalCode::RunActive, "another nlmctl drives this lock manager");
        }
        let run = match self.prepare(args).await {
            Ok(run) => run,
            Err(error) => {
                self.desk().driving = None;
                return Err(error);
            }
        };
        match tokio::spawn(self.clone().drop_all(run)).await {
            Ok(begun) => Ok(Self::begun(&*begun?, names)),
            Err(_) => Err(ManagerError::Lost { endpoint: self.endpoint(), what: "the task that began died".into() }),
        }
    }

    async fn run_clients(&self, run: RunId) -> Result<Vec<RunClient>, ManagerError> {
        match self.found(run).await? {
            Some(known) => Ok(known.clients().to_vec()),
            None => refused(RefusalCode::UnknownRun, format!("run {run} is not known")),
        }
    }

    async fn progress(&self, args: &ProgressArgs) -> Result<Status, ManagerError> {
        let (_turn, active) = self.driven(args.run).await?;
        let mut run = (*active).clone();
        let elapsed = elapsed(&run);
        args.clients.as_slice().iter().for_each(|news| run.deliver(news, elapsed));
        run.notices_begun |= args.notices_begun;
        let run = if run.notices_begun && !active.notices_begun || !self.written_lately() {
            self.keep(run).await?
        } else {
            // Nothing is promised about deliveries, and the controller has its own record of them.
            let run = Arc::new(run);
            self.desk().run = Some(Arc::clone(&run));
            run
        };
        self.status_of(Some(run)).await
    }

    async fn extend(&self, args: &ExtendArgs) -> Result<Status, ManagerError> {
        let (_turn, active) = self.driven(args.run).await?;
        let end = millis(elapsed(&active)).saturating_add(args.remaining_ms);
        let run = RunRecord { extended_ms: active.extended_ms.max(end), ..(*active).clone() };
        let run = self.keep(run).await?;
        self.status_of(Some(run)).await
    }

    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError> {
        let (turn, active) = self.driven(args.run).await?;
        if !self.backend.capabilities().settle_early {
            drop(turn);
            return self.settle_with_grace(args.run).await;
        }
        let pending = self.desk().view.counts(&active).pending;
        if args.only_if_nothing_pending && pending > 0 {
            return refused(RefusalCode::StillPending, format!("{pending} locks are not back yet"));
        }
        let reason = if pending == 0 { "nothing pending" } else { "deadline" };
        self.settle_run(&active, reason, false).await
    }

    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError> {
        let (_turn, active) = self.driven(run).await?;
        if active.soft {
            return self.abort_run(&active).await;
        }
        refused(
            RefusalCode::Unsupported,
            "the locks were dropped when the run began: it can't be aborted; go on with it, so that clients reclaim them",
        )
    }

    async fn result(&self, run: RunId) -> Result<RunResult, ManagerError> {
        Ok(self.full_result(run).await?.0.result.clone())
    }

    async fn result_clients(&self, run: RunId, after: u64) -> Result<ClientResultPage, ManagerError> {
        let result = self.full_result(run).await?;
        let (clients, next) = page(result.0.clients.as_slice(), after);
        Ok(ClientResultPage { clients, next })
    }

    async fn result_locks(&self, run: RunId, after: u64) -> Result<LockFatePage, ManagerError> {
        let result = self.full_result(run).await?;
        let (locks, next) = page(result.0.locks.as_slice(), after);
        Ok(LockFatePage { locks, next })
    }

    async fn acknowledge(&self, run: RunId) -> Result<(), ManagerError> {
        let Some(known) = self.found(run).await? else { return Ok(()) };
        self.with_vault(move |vault| {
            vault.save(&RunRecord { acknowledged: true, ..known })?;
            vault.prune()
        })
        .await
    }

    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError> {
        self.active().await?;
        let runs = self.with_vault(Vault::runs).await?;
        Ok(runs.iter().filter(|run| !run.is_active() && !run.acknowledged).map(RunRecord::id).collect())
    }

    async fn release(&self, args: &ReleaseArgs) -> Result<Released, ManagerError> {
        if let Some(run) = self.active().await? {
            return refused(RefusalCode::RunActive, format!("run {} is active", run.id()));
        }
        if !args.locks.as_slice().is_empty() {
            let kind = self.backend.kind();
            return refused(RefusalCode::Unsupported, format!("{kind} can free whole clients only"));
        }
        let life = self.backend.identity().await?.life;
        if self.instance(&life, None).await? != args.instance {
            return refused(RefusalCode::StalePlan, "the lock manager was restarted since");
        }
        let mut all = Released::default();
        let mut rows = Vec::new();
        for client in args.clients.as_slice() {
            let one = self.backend.release_client(&client.name).await?;
            all.locks += one.freed.len() as u64;
            all.offered += one.offered;
            // How many they are nobody can tell.
            all.left += u64::from(one.left);
            rows.extend(one.freed.iter().map(results::row));
        }
        all.rows = List::clipped(rows);
        Ok(all)
    }

    async fn watch(&self, args: WatchArgs) -> Result<Watched, ManagerError> {
        let until = tokio::time::Instant::now() + args.patience();
        loop {
            let looking = tokio::time::Instant::now();
            let active = self.look().await?;
            if self.desk().view.timeline.cursor() != args.cursor || looking >= until {
                let status = self.status_of(active).await?;
                let events = self.desk().view.timeline.since(args.cursor);
                return Ok(Watched { status, events });
            }
            // A long list takes long to read: the manager has other work too.
            let pause = pause_after(looking);
            tokio::time::sleep_until(until.min(looking + pause)).await;
        }
    }
}

/// The sums of a run that has only begun.
fn all_pending(run: &RunRecord) -> Counts {
    let in_scope = run.before.locks.len() as u64;
    Counts { in_scope, pending: in_scope, ..Counts::default() }
}
