//! The keeper: its state, its loop, and the answers that it gives from its state.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::account::Account;
use super::called::CalledAddresses;
use super::filter_link::FilterLink;
use super::platform::Platform;
use super::requests::News;
use super::run_files::{self, Journal, KeeperFiles};
use crate::host::unix_ms;
use crate::interposer::messages::{FilterEvent, Order};
use crate::locks::{Due, Effect};
use crate::manager::knfsd::DOMAINS;
use crate::manager::knfsd::owners::View;
use crate::manager::knfsd::unsure::UnsureLocks;
use crate::rpc::control::Timeline;
use crate::rpc::heartbeat::{Heartbeat, Moment};
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    Capabilities, ClientPage, ExtendArgs, FullResult, Info, InstanceId, LockPage, LocksArgs, PageAfter, ProgressArgs,
    Refusal, RefusalCode, RunClientPage, RunId, RunPageAfter, Status, page,
};
use crate::wire::types::{NsmState, ms};
use crate::wire::xdr::{List, Text};

/// Work of the keeper's, on its own task.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A call for it.
pub(super) type Ask = Box<dyn for<'a> FnOnce(&'a mut Keeper) -> Work<'a, ()> + Send>;

/// Between two looks at deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Events that are taken into account before the rules are kept again.
const BATCH: usize = 1024;
/// How long a keeper without a run waits for a call.
const IDLE: Duration = Duration::from_mins(1);

/// A run, from its begin to the end of its drain.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) journal: Journal,
    pub(super) account: Account,
    pub(super) link: FilterLink,
    pub(super) waiters: u64,
    pub(super) called: CalledAddresses,
    /// By the keeper's clock.
    pub(super) began: Duration,
    /// When the drain ends, once the run is over.
    pub(super) drain_until: Option<Duration>,
    /// Until when late reclaims of the run before must be taken.
    pub(super) drain_owed: Duration,
    pub(super) failures: u32,
    pub(super) not_before: Duration,
}

impl Active {
    /// How long the run may last.
    pub(super) fn latest(&self) -> Duration {
        Duration::from_millis(self.journal.args.grace_max_ms)
    }
}

/// A result that is not on disk.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) full: FullResult,
    /// When it is tried again, by the keeper's clock.
    pub(super) not_before: Duration,
}

pub(super) struct Keeper {
    pub(super) platform: Arc<dyn Platform>,
    pub(super) run_files: KeeperFiles,
    pub(super) timeline: Timeline,
    started: Instant,
    started_unix_ms: u64,
    heard_of: Instant,
    pub(super) active: Option<Active>,
    /// The result of the last run, as long as it is not on disk.
    pub(super) owed: Option<Owed>,
    pub(super) unsure: UnsureLocks,
    /// The controller of the run, while it is connected.
    pub(super) controller: Option<ConnectionId>,
}

pub(super) fn unsupported(words: String) -> Refusal {
    Refusal::new(RefusalCode::Unsupported, words)
}

pub(super) fn no_run() -> Refusal {
    Refusal::new(RefusalCode::UnknownRun, "no run is active here")
}

impl Keeper {
    /// With the runs in these files: one that was active there has lost its keeper.
    pub(super) fn new(platform: Arc<dyn Platform>, run_files: KeeperFiles) -> std::io::Result<Self> {
        let started_unix_ms = unix_ms();
        let mut timeline = Timeline::default();
        let mut unsure = run_files.unsure()?;
        unsure.drain_was_cut_short();
        if let Some(journal) = run_files.left()? {
            // A keeper that died while it wrote the result may have done that.
            let full = if let Some(full) = run_files.result(journal.args.run)? {
                full
            } else {
                unsure.is_of(journal.args.instance);
                unsure.add(run_files::all_unsure(&journal, "the process in front of lockd was killed"));
                run_files.write_unsure(&mut unsure)?;
                run_files::interrupted(journal, started_unix_ms)
            };
            let words = format!("run {}: {}", full.result.run, full.result.reason.as_str());
            timeline.push(started_unix_ms, "left", &words);
            run_files.end(&full)?;
        }
        run_files.forget_fetched()?;
        let started = Instant::now();
        Ok(Self {
            platform,
            run_files,
            timeline,
            started,
            started_unix_ms,
            heard_of: started,
            active: None,
            owed: None,
            unsure,
            controller: None,
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// By the clock of [`now`](Self::now).
    pub(super) fn unix_ms(&self) -> u64 {
        self.started_unix_ms + ms(self.now())
    }

    /// Serves calls, until there is neither a run, nor a result that is not on disk, nor a caller.
    pub(super) async fn live(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut pulse = Heartbeat::default();
        self.look_up_unsure().await;
        while self.active.is_some() || self.owed.is_some() || self.heard_of.elapsed() < IDLE {
            tokio::select! {
                ask = asks.recv() => {
                    let Some(ask) = ask else { return };
                    ask(&mut self).await;
                    self.heard_of = Instant::now();
                    // Its work was the keeper's own, and filters were heard meanwhile.
                    pulse.rest();
                }
                told = listen(&mut self.active) => {
                    if let Some(active) = &mut self.active {
                        active.link.take(told).await;
                    }
                }
                _ = tick.tick() => {}
            }
            pulse.start(Moment::now());
            let lag = pulse.beat(Moment::now());
            self.take_in().await;
            self.pay_if_due();
            if let (Some(lag), Some(active)) = (lag, &mut self.active) {
                let (now, long) = (self.started.elapsed(), lag.is_long());
                active.account.lagged(now, lag.counted, long);
            }
            if self.look_at_deadlines().await {
                pulse.rest();
            }
        }
    }

    /// Takes into account what was heard.
    pub(super) async fn take_in(&mut self) {
        let (now, unix_ms) = (self.now(), self.unix_ms());
        let mut late = Vec::new();
        let Some(active) = &mut self.active else { return };
        active.link.keep_up().await;
        for (n, heard) in active.link.heard().into_iter().enumerate() {
            active.account.heard(now, heard);
            if n % BATCH == BATCH - 1 {
                active.link.keep_up().await;
            }
        }
        for news in active.account.news() {
            match news {
                News::Done(owner, file, range) => self.unsure.sure(&owner, &file, range),
                News::FreedAll(way) => self.unsure.freed_all(&way),
            }
        }
        for claim in active.account.decided() {
            active.link.order(Order::NotPending(claim)).await;
        }
        while let Some(effect) = active.account.table.next_effect() {
            match effect {
                Effect::Event(kind, detail) => self.timeline.push(unix_ms, kind, &detail),
                Effect::Late(run, row) => late.push((run, row)),
                Effect::Changed => self.timeline.changed(),
                _ => {}
            }
        }
        for (run, row) in late {
            if let Err(error) = self.append(run, row) {
                self.timeline.push(unix_ms, "late", &format!("a late reclaim is not in the result: {error}"));
            }
        }
    }

    /// What is due by now; false if nothing was.
    async fn look_at_deadlines(&mut self) -> bool {
        let (now, attached) = (self.now(), self.controller.is_some());
        let Some(active) = &mut self.active else { return false };
        if let Some(why) = active.link.superseded().map(str::to_owned) {
            self.supersede(&why).await;
            return true;
        }
        let due = active.account.table.on_timeout(now, attached);
        if let Some(until) = active.drain_until {
            if until <= now {
                self.drain_is_due().await;
            }
            return until <= now;
        }
        if let Some(address) = active.called.gone_by_now(self.platform.as_ref()) {
            self.moved_off(address).await;
            return true;
        }
        if active.not_before > now {
            return false;
        }
        match due {
            Some(Due::SettleRun) => self.settle_alone().await,
            Some(Due::AbortRun) => {
                let run = active.journal.args.run;
                let _ = self.abort(run, "deadline, and no notice was sent").await;
            }
            Some(Due::RecoveryOver) | None => return false,
        }
        true
    }

    /// The active run, if it is this one and not over.
    pub(super) fn running(&mut self, run: RunId) -> Result<&mut Active, Refusal> {
        let active =
            self.active.as_mut().filter(|active| active.journal.args.run == run && active.drain_until.is_none());
        active.ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, format!("run {run} is not active here")))
    }

    /// The active run, whichever it is.
    pub(super) fn active(&mut self) -> Result<&mut Active, Refusal> {
        self.active.as_mut().ok_or_else(no_run)
    }

    pub(super) fn detached(&mut self, connection: ConnectionId) {
        self.controller.take_if(|controller| *controller == connection);
    }

    // --- what is answered from what is known

    pub(super) async fn info(&mut self) -> Result<Info, Refusal> {
        let (instance, nsm_state) = self.identity().await?;
        let platform = Arc::clone(&self.platform);
        let names = self.meanwhile(async move { platform.names().await }).await;
        Ok(Info {
            software: Text::clipped("knfsd (grace in front of lockd)"),
            instance,
            nsm_state,
            names: List::clipped(names.map_err(unsupported)?),
            capabilities: Capabilities { release: false, ..Capabilities::COOPERATES },
            domains: List::clipped(DOMAINS.iter().map(|domain| Text::clipped(*domain)).collect()),
        })
    }

    /// The life of lockd and the state number, as they are now.
    pub(super) async fn identity(&mut self) -> Result<(InstanceId, NsmState), Refusal> {
        let platform = Arc::clone(&self.platform);
        let look = async move { Ok((platform.instance().await?, platform.state().await?)) };
        self.meanwhile(look).await.map_err(unsupported)
    }

    /// Waits for the work, and meanwhile hears the filter, if there is one.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        match &mut self.active {
            Some(active) => active.link.meanwhile(work).await,
            None => work.await,
        }
    }

    /// What lockd has now, and the same as an account of no run.
    pub(super) async fn looked(&mut self) -> Result<(View, Account), Refusal> {
        let platform = Arc::clone(&self.platform);
        let look = async move { Ok((platform.view().await?, platform.monitored().await?)) };
        let looked: Result<_, String> = self.meanwhile(look).await;
        let (view, monitored) = looked.map_err(unsupported)?;
        self.review(&view).await;
        let account = Account::new(self.now(), &view, &monitored).map_err(unsupported)?;
        Ok((view, account))
    }

    pub(super) async fn status(&mut self) -> Result<Status, Refusal> {
        let (instance, nsm_state) = self.identity().await?;
        let now = self.now();
        let cursor = self.timeline.cursor();
        let of =
            |account: &Account, waiters| Status { waiters, ..account.table.status(now, instance, nsm_state, cursor) };
        // In the drain the account follows lockd too.
        if let Some(active) = &self.active {
            return Ok(of(&active.account, active.waiters));
        }
        let (view, account) = self.looked().await?;
        Ok(of(&account, view.waiters.len() as u64))
    }

    pub(super) async fn clients(&mut self, args: PageAfter) -> Result<ClientPage, Refusal> {
        match &self.active {
            Some(active) if active.drain_until.is_none() => Ok(active.account.table.list_clients(args.after)),
            _ => Ok(self.looked().await?.1.table.list_clients(args.after)),
        }
    }

    pub(super) async fn locks(&mut self, args: LocksArgs) -> Result<LockPage, Refusal> {
        match &self.active {
            Some(active) if active.drain_until.is_none() => Ok(active.account.page(args)),
            _ => Ok(self.looked().await?.1.page(args)),
        }
    }

    pub(super) fn run_clients(&mut self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        let active = self.running(args.run)?;
        let (clients, next) = page(&active.account.table.run_clients(), args.after);
        Ok(RunClientPage { clients, next })
    }

    pub(super) async fn progress(&mut self, args: ProgressArgs, from: ConnectionId) -> Result<Status, Refusal> {
        let now = self.now();
        self.running(args.run)?.account.table.progress(now, &args)?;
        self.controller = Some(from);
        self.status().await
    }

    pub(super) async fn extend(&mut self, args: ExtendArgs) -> Result<Status, Refusal> {
        let now = self.now();
        self.running(args.run)?.account.table.extend(now, &args)?;
        self.status().await
    }

    pub(super) fn ended(&self, run: RunId) -> Result<FullResult, Refusal> {
        if self.owed(run).is_some() {
            return Err(Refusal::new(RefusalCode::WrongPhase, format!("the result of run {run} is not on disk yet")));
        }
        let on_disk = self.run_files.result(run).map_err(not_durable)?;
        let is_active = self.active.as_ref().is_some_and(|active| active.journal.args.run == run);
        let (code, what) =
            if is_active { (RefusalCode::WrongPhase, "active") } else { (RefusalCode::UnknownRun, "not known") };
        on_disk.ok_or_else(|| Refusal::new(code, format!("run {run} is {what}")))
    }

    pub(super) fn acknowledge(&self, run: RunId) -> Result<(), Refusal> {
        let drains = self.active.as_ref().is_some_and(|active| active.journal.args.run == run);
        self.run_files.acknowledge(run, drains).map_err(not_durable)
    }

    pub(super) fn unfetched(&self) -> Result<Vec<RunId>, Refusal> {
        Ok(self.run_files.ended().map_err(not_durable)?.into_iter().map(|result| result.run).collect())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
pub(super) fn not_durable(error: std::io::Error) -> Refusal {
    Refusal::new(RefusalCode::NotDurable, format!("the state directory cannot be used: {error}"))
}

async fn listen(active: &mut Option<Active>) -> Option<FilterEvent> {
    match active {
        Some(active) if active.link.superseded().is_none() => active.link.listen().await,
        Some(_) | None => std::future::pending().await,
    }
}
