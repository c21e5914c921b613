//! Lock managers that do not cooperate, driven through a run from outside.
//!
//! Theory. Such a manager ([`Backend`]) knows nothing of runs: it can be made to forget its locks and
//! to start a grace period, and it can be looked at. [`Adapter`] adds what a run needs around it.
//!
//! - *What is marked* is a snapshot ([`Snapshot`]) taken just before the drop. Nothing protects a
//!   dropped lock but grace, so a run can't be aborted once it has begun, nothing can be kept, and a
//!   lock is pending until it is seen held again ([`compare`]).
//! - *A run is on disk* ([`run_files`]) before each step that cannot be undone: the snapshot and the clients
//!   to tell before the drop, that notices may leave before they do, the result before grace is
//!   ended. So this process may die at any moment; the next one finds the run, finds out where the
//!   manager really is, and continues or reports what was lost ([`Adapter::recover`] in `recovery`).
//! - *One process drives*: it holds an OS lock. Others only read.
//! - *Only observations are reported.* A lock that is held again during grace was reclaimed. A lock that is
//!   missing when grace ends is dropped if an nlmctl looked at that moment; else it is unverified: it
//!   may have been reclaimed and unlocked since. Owners are not known, so no client's count is.
//!
//! | file | what | |
//! |---|---|---|
//! | `backend` | what the manager itself must be able to do | |
//! | `start` | from the plan to confirmed grace | |
//! | `compare` | which locks are held again | pure |
//! | `listings` | lists of locks, page by page | pure |
//! | `record` | a run as it is on disk | |
//! | `release` | locks freed outside of any run | |
//! | `results` | the result of a run | pure |
//! | `run_files` | the files | |
//! | `view` | what was seen last, and the events for watchers | |
//! | `recovery` | runs that are found on disk; runs that end | |
//! | `mod` | the trait, call by call; start reading at [`Adapter::begin`](LockManager::begin) | |

mod backend;
pub mod compare;
mod listings;
mod manager;
pub mod record;
mod recovery;
mod release;
mod results;
pub mod run_files;
mod start;
mod view;

#[cfg(test)]
mod tests;

pub use backend::{Backend, ClientReleased, Dropped, GraceEnd, Identity, LocksReleased, client_row};
pub use compare::{LocalLock, Snapshot};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use self::backend::refused;
use self::listings::Listings;
use self::record::{Coded, Phase, RunRecord};
use self::run_files::{DriverLock, RunFiles};
use self::view::View;
use super::{LockManager, ManagerError};
use crate::wire::control::{FullResult, Grace, InstanceId, RefusalCode, RunId, RunStatus, Status};
use crate::wire::types::ms;
use crate::wire::xdr::Maybe;

/// Between two looks at the manager while something is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two writes of nothing but deliveries: a run over many locks is long to write.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A lock manager made of a [`Backend`].
pub struct Adapter<B> {
    backend: Arc<B>,
    run_files: RunFiles,
    state: Arc<Mutex<AdapterState>>,
    /// The turn to change a run that has begun, or to find one: one task has it at a time, and it
    /// looks at the state again when it has it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// No other task changes a run while this is held.
type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// What this process knows and may do.
#[derive(Debug, Default)]
struct AdapterState {
    /// The right to drive, while this process has it.
    driving: Option<DriverLock>,
    /// The active run as it is on disk.
    run: Option<Arc<RunRecord>>,
    view: View,
    /// When that was written.
    saved: Option<Instant>,
    listings: Listings,
    /// What the operator was told: these, and no others, may be in a run's way.
    told: Vec<&'static str>,
}

impl<B> std::fmt::Debug for Adapter<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("runs", &self.run_files).finish_non_exhaustive()
    }
}

impl<B> Clone for Adapter<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            run_files: self.run_files.clone(),
            state: Arc::clone(&self.state),
            turn: Arc::clone(&self.turn),
        }
    }
}

impl<B: Backend> Adapter<B> {
    /// Drives `backend`; runs are kept in the folder of `run_files`.
    pub fn new(backend: B, run_files: RunFiles) -> Self {
        Self { backend: Arc::new(backend), run_files, state: Arc::default(), turn: Arc::default() }
    }
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn state(&self) -> MutexGuard<'_, AdapterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work with files, off the async threads.
    async fn with_run_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RunFiles) -> Result<T, ManagerError> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let run_files = self.run_files.clone();
        match tokio::task::spawn_blocking(move || work(&run_files)).await {
            Ok(done) => done,
            Err(_) => Err(ManagerError::Lost { endpoint: self.endpoint(), what: "a thread died".into() }),
        }
    }

    /// Makes a run durable, and it is the active one if it is not over.
    async fn keep(&self, run: RunRecord) -> Result<Arc<RunRecord>, ManagerError> {
        let run = Arc::new(run);
        let saved = Arc::clone(&run);
        self.with_run_files(move |run_files| run_files.save(&saved)).await?;
        let mut state = self.state();
        state.run = run.is_active().then(|| Arc::clone(&run));
        state.saved = Some(Instant::now());
        drop(state);
        Ok(run)
    }

    fn written_lately(&self) -> bool {
        self.state().saved.is_some_and(|saved| saved.elapsed() < WRITE_EVERY)
    }

    /// This life of the manager. What a run itself has ended is no new life.
    async fn instance(&self, life: &str, active: Option<&RunRecord>) -> Result<InstanceId, ManagerError> {
        if let Some(run) = active {
            return Ok(run.instance.0);
        }
        let runs = self.with_run_files(RunFiles::runs).await?;
        let same = runs.iter().rev().find(|run| run.life == life);
        Ok(same.map_or_else(|| instance_of(self.backend.kind(), life), |run| run.instance.0))
    }

    /// Looks at the manager, and takes what is seen into the active run's account.
    async fn look(&self) -> Result<Option<Arc<RunRecord>>, ManagerError> {
        let active = self.active().await?;
        let sight = self.backend.sight().await?;
        // Asked after the locks were listed: what is in the list was granted in grace then.
        let in_grace = self.backend.in_grace().await?;
        let mut state = self.state();
        match &active {
            Some(run) if run.phase == Phase::Grace && in_grace => state.view.see(run, sight, run.elapsed()),
            _ => state.view.see_idle(sight, in_grace),
        }
        Ok(active)
    }

    /// The run as a controller is to see it: none while it only begins.
    fn run_status(run: &RunRecord, view: &View) -> Option<RunStatus> {
        if run.phase == Phase::Beginning {
            return None;
        }
        let elapsed = run.elapsed();
        let (deadline, latest) = run.deadlines(view.last_reclaim());
        Some(RunStatus {
            run: run.id(),
            mode: run.begin.0.mode,
            nsm_state: run.new_state.0,
            elapsed_ms: ms(elapsed),
            remaining_ms: ms(deadline.saturating_sub(elapsed)),
            latest_remaining_ms: ms(latest.saturating_sub(elapsed)),
            last_reclaim_ms: Maybe(view.last_reclaim().map(|at| ms(elapsed.saturating_sub(at)))),
            counts: view.counts(run),
            notices_begun: run.notices_begun,
        })
    }

    async fn status_of(&self, active: Option<Arc<RunRecord>>) -> Result<Status, ManagerError> {
        let identity = self.backend.identity().await?;
        let instance = self.instance(&identity.life, active.as_deref()).await?;
        let nsm_state = self.backend.nsm_state().await?;
        let clients = self.backend.client_count().await?;
        let state = self.state();
        let locks = state.view.locks();
        let run = active.as_deref().and_then(|run| Self::run_status(run, &state.view));
        // In a run that only begins nobody may be told to reclaim yet: it is no recovery.
        let grace = match (&active, state.view.in_grace()) {
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
            // The owner of a lock is not known; if no client is on record, none can be notified.
            unmonitored: if clients == 0 { locks } else { 0 },
            waiters: state.view.waiters(),
            run: Maybe(run),
            cursor: state.view.timeline.cursor(),
        })
    }

    /// The active run of this id, driven by this process, and the turn to change it.
    async fn driven(&self, run: RunId) -> Result<(Turn<'_>, Arc<RunRecord>), ManagerError> {
        let seen = self.look().await?;
        let turn = self.turn.lock().await;
        let mine = {
            let state = self.state();
            state.run.clone().filter(|_| state.driving.is_some())
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
        Ok(self.with_run_files(RunFiles::runs).await?.into_iter().find(|known| known.id() == run))
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

/// A life of a lock manager that does not number them itself.
pub fn instance_of(kind: &str, life: &str) -> InstanceId {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(life).finalize();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    InstanceId(id)
}

/// How long to rest after a look that began then.
fn pause_after(looking: tokio::time::Instant) -> Duration {
    LOOK_EVERY.max(looking.elapsed() * 4)
}
