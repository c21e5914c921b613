//! The lock manager that a controller sees: its answers from the run's record and the last reading.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::backend::{Backend, refused};
use super::record::{Phase, RunRecord};
use super::run_files::RunFiles;
use super::{Adapter, pause_after};
use crate::host::Lock;
use crate::manager::{Caution, Freed, LockManager, ManagerError, Owners, Weight};
use crate::units::{count, number};
use crate::wire::control::{
    BeginArgs, Begun, ClientResultPage, ClientRow, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs, ProgressArgs,
    RefusalCode, ReleaseArgs, RunClient, RunId, RunResult, SettleArgs, SettleWhen, Status, WatchArgs, Watched, page,
};
use crate::wire::types::{FileHandle, ms};
use crate::wire::xdr::{List, Text};

#[async_trait]
impl<B: Backend> LockManager for Adapter<B> {
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
            domains: List::clipped(self.backend.domains().iter().map(|domain| Text::clipped(*domain)).collect()),
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
                    "an earlier run dropped locks and ended before it notified {}: this run notifies them",
                    count(owed.len() as u64, "client")
                ),
                remedy: String::new(),
            });
        }
        self.state().told = cautions.iter().map(|caution| caution.about).collect();
        Ok(cautions)
    }

    async fn release_cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        self.backend.release_cautions().await
    }

    async fn status(&self) -> Result<Status, ManagerError> {
        let active = self.look().await?;
        self.status_of(active).await
    }

    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        self.backend.clients().await
    }

    async fn owners(&self) -> Result<Owners, ManagerError> {
        self.backend.owners().await
    }

    async fn locks(&self, args: &LocksArgs) -> Result<LockPage, ManagerError> {
        if !args.scope.clients.as_slice().is_empty() {
            let kind = self.backend.kind();
            return refused(RefusalCode::Unsupported, format!("{kind} does not tell who owns a lock"));
        }
        if args.after > 0 {
            let page = self.state().listings.go_on(args.after, Instant::now());
            return page
                .map_or_else(|| refused(RefusalCode::BadRequest, "this listing has expired: start it again"), Ok);
        }
        let sight = self.backend.sight().await?;
        if !sight.unsure.is_empty() {
            tracing::warn!(
                "{} of {} locks were seen in one reading and not in another, because other locks come and go: they \
                 may not be held, and some may be missing here",
                sight.unsure.len(),
                sight.locks.len()
            );
        }
        let files: HashSet<&[u8]> = args.scope.files.as_slice().iter().map(FileHandle::as_slice).collect();
        let wanted = |lock: &Lock| files.is_empty() || files.contains(lock.file.as_bytes());
        let locks = sight.locks.into_iter().filter(wanted).collect();
        Ok(self.state().listings.begin(locks, Instant::now()))
    }

    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError> {
        let names = self.backend.identity().await?.names;
        if let Some(active) = self.active().await? {
            if active.id() != args.run {
                return refused(RefusalCode::RunActive, format!("run {} is active", active.id()));
            }
            if active.phase == Phase::Beginning {
                return refused(RefusalCode::RunActive, format!("another nlmctl is beginning run {}", args.run));
            }
            return Ok(Self::begun(&*self.finish_drop(active).await?, names));
        }
        if self.ended(args.run).await?.is_some() {
            return refused(RefusalCode::WrongPhase, format!("run {} is over", args.run));
        }
        if !self.drive().await? {
            return refused(RefusalCode::RunActive, self.backend.is_driven());
        }
        let run = match self.prepare(args).await {
            Ok(run) => run,
            Err(error) => {
                self.state().driving = None;
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
        let elapsed = run.elapsed();
        args.clients.as_slice().iter().for_each(|news| run.deliver(news, elapsed));
        run.notices_begun |= args.notices_begun;
        let has_news = !args.clients.as_slice().is_empty();
        let run = if run.notices_begun && !active.notices_begun || has_news && !self.written_lately() {
            self.keep(run).await?
        } else {
            // Nothing is promised about deliveries, and the controller has its own record of them.
            let run = Arc::new(run);
            self.state().run = Some(Arc::clone(&run));
            run
        };
        self.status_of(Some(run)).await
    }

    async fn extend(&self, args: &ExtendArgs) -> Result<Status, ManagerError> {
        let (_turn, active) = self.driven(args.run).await?;
        let end = ms(active.elapsed()).saturating_add(args.remaining_ms);
        let run = RunRecord { extended_ms: active.extended_ms.max(end), ..(*active).clone() };
        let run = self.keep(run).await?;
        self.status_of(Some(run)).await
    }

    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError> {
        let (_turn, active) = self.driven(args.run).await?;
        if !self.backend.capabilities().settle_early {
            // Whoever looks when its grace is over ends the run.
            let kind = self.backend.kind();
            return refused(RefusalCode::StillPending, format!("{kind} ends its grace by itself, and has not yet"));
        }
        let pending = self.state().view.counts(&active).pending;
        if args.when != SettleWhen::Always && pending > 0 {
            return refused(
                RefusalCode::StillPending,
                format!("{} not held again yet", number(pending, "lock is", "locks are")),
            );
        }
        let reason = if pending == 0 { "nothing pending" } else { "deadline" };
        self.settle_run(&active, reason, false).await
    }

    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError> {
        let mine = match self.driven(run).await {
            Err(error) if error.refused() == Some(RefusalCode::RunActive) => None,
            driven => Some(driven?),
        };
        let soft = match &mine {
            Some((_turn, active)) => active.soft,
            None => self.found(run).await?.is_some_and(|known| known.soft),
        };
        match mine {
            _ if !soft => refused(
                RefusalCode::Unsupported,
                "the locks were dropped when the run began, so the run cannot be aborted; let it go on, or resume it if \
                 no nlmctl drives it, so that clients reclaim them",
            ),
            Some((_turn, active)) => self.abort_run(&active).await,
            None => self.have_it_aborted(run).await,
        }
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
        self.with_run_files(move |run_files| {
            run_files.save(&RunRecord { acknowledged: true, ..known })?;
            run_files.prune()
        })
        .await
    }

    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError> {
        self.active().await?;
        let runs = self.with_run_files(RunFiles::runs).await?;
        Ok(runs.iter().filter(|run| !run.is_active() && !run.acknowledged).map(RunRecord::id).collect())
    }

    async fn release(&self, args: &ReleaseArgs) -> Result<Freed, ManagerError> {
        if let Some(run) = self.active().await? {
            return refused(RefusalCode::RunActive, format!("run {} is active", run.id()));
        }
        let life = self.backend.identity().await?.life;
        if self.instance(&life, None).await? != args.instance {
            return refused(RefusalCode::StalePlan, "the lock manager has been restarted since");
        }
        match (args.clients.as_slice(), args.locks.as_slice()) {
            (clients, []) => self.release_clients(clients).await,
            ([], locks) => self.release_locks(locks).await,
            _ => refused(RefusalCode::BadRequest, "single locks and whole clients are released one after the other"),
        }
    }

    async fn watch(&self, args: WatchArgs) -> Result<Watched, ManagerError> {
        let until = tokio::time::Instant::now() + args.patience();
        loop {
            let looking = tokio::time::Instant::now();
            let active = self.look().await?;
            if self.state().view.timeline.cursor() != args.cursor || looking >= until {
                let status = self.status_of(active).await?;
                let events = self.state().view.timeline.since(args.cursor);
                return Ok(Watched { status, events });
            }
            // A long list takes long to read: the manager has other work too.
            let pause = pause_after(looking);
            tokio::time::sleep_until(until.min(looking + pause)).await;
        }
    }
}
