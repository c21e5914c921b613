//! A run, driven: the machine's actions become calls, notices and lines of the record, and what
//! comes back become its events.
//!
//! One task owns the machine ([`Drive::run`]); the others are
//! - the calls to the manager, in order, one at a time ([`Calls`]),
//! - the watch of its status, once the run has begun,
//! - the fan-out of notices, while the machine wants them out,
//! - at most one write of deliveries to the record at a time.
//!
//! A phase that the machine wants durable is durable before the next action begins. The loop beats ([`Heartbeat`]),
//! and the machine learns first if this process did not run for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::calls::{self, Call, Calls, ManagerLink, Reply, Task};
use super::course::{NoticeProgress, PendingCourse};
use super::record::Record;
use super::statds::Probes;
use super::{ControllerError, Options, Signals, hosts, targets};
use crate::manager::LockManager;
use crate::nsm::{self, FanoutEvent, NO_ANSWER_AFTER, NotifyOptions};
use crate::report::{Failure, PendingReport, Phase, Probe, Progress};
use crate::resync::run::{Action, Ending, Event, NoticeNews, Run, Standing, Starting};
use crate::rpc::heartbeat::{BEAT, Heartbeat, Moment};
use crate::store::DeliveryUpdate;
use crate::wire::control::{self, BeginArgs, Begun, Counts, Delivery, RunClient, Status};
use crate::wire::types::{CallerName, NsmState};

/// Answers and news of notices that may wait to be handled. Beyond that, the senders wait.
const QUEUE: usize = 1_024;
/// How long calls that were asked for at the end may take.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// How a driven run ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    /// The last sums that the manager told while the run was active.
    pub(super) counts: Option<Counts>,
    /// Why the run's clients must not be told, if so: then it was left before the first notice.
    pub(super) forbidden: Option<Failure>,
}

/// What a run is driven with.
pub(super) struct Orders {
    pub(super) begin: BeginArgs,
    /// Whether `begin`'s answer is in the record already (a resume).
    pub(super) begun: bool,
    /// The names in the notices, in order.
    pub(super) names: Vec<CallerName>,
    pub(super) probes: Arc<Probes>,
    /// What an earlier controller recorded of each client, by number.
    pub(super) known: HashMap<u32, DeliveryUpdate>,
    pub(super) own_locks_lost: bool,
    pub(super) options: Options,
}

/// For how long clients that have not acked are told again. A grace that the manager alone ends may last longer than the run's
/// latest deadline, and as long as it does a reclaim is granted: there the run's end stops the notices, and this is only a bound.
fn retry_for(grace_is_the_managers: bool, grace_max_ms: u64) -> Duration {
    if grace_is_the_managers { Duration::from_hours(24) } else { Duration::from_millis(grace_max_ms) }
}

enum Turn {
    Signal(Option<&'static str>),
    Reply(Reply),
    Heard(FanoutEvent),
    Tick,
}

/// See the theory above.
pub(super) struct Drive {
    machine: Run,
    orders: Orders,
    link: ManagerLink,
    calls: Calls,
    answers: mpsc::Receiver<Reply>,
    signals: Signals,
    signals_open: bool,
    progress: watch::Sender<Progress>,
    /// Where this run's clock starts.
    epoch: Instant,
    pulse: Heartbeat,
    began: Duration,
    state: NsmState,
    clients: Vec<RunClient>,
    told: Vec<NoticeProgress>,
    counts: Option<Counts>,
    forbidden: Option<Failure>,
    heard: mpsc::Receiver<FanoutEvent>,
    notices: Option<Task>,
    /// Whether a notice of this run can have left, now or before a resume.
    may_have_told: bool,
    watching: Option<Task>,
    reconnecting: Option<Task>,
    /// Clients whose delivery is not in the record yet.
    unwritten: HashMap<u32, DeliveryUpdate>,
    /// Whether any of them has acked since: a controller that resumes the run must know it.
    acks_unwritten: bool,
    timeline: Vec<control::Event>,
    samples: PendingCourse,
    writing: Option<JoinHandle<Result<(), ControllerError>>>,
}

impl Drive {
    /// A run to drive, and its first actions.
    pub(super) fn new(
        manager: Arc<dyn LockManager>,
        record: Record,
        orders: Orders,
        machine: Run,
        progress: watch::Sender<Progress>,
        signals: Signals,
    ) -> Self {
        let (answer, answers) = mpsc::channel(QUEUE);
        let resumed = orders.begun;
        let link = ManagerLink {
            manager,
            record,
            begin: Arc::new(orders.begin.clone()),
            begun: orders.begun,
            probes: Arc::clone(&orders.probes),
            answers: answer,
            cursor: Arc::default(),
        };
        Self {
            machine,
            calls: Calls::start(link.clone()),
            link,
            orders,
            answers,
            signals,
            signals_open: true,
            progress,
            epoch: Instant::now(),
            pulse: Heartbeat::default(),
            began: Duration::ZERO,
            state: NsmState::default(),
            clients: Vec::new(),
            told: Vec::new(),
            counts: None,
            forbidden: None,
            heard: mpsc::channel(1).1,
            notices: None,
            may_have_told: resumed,
            watching: None,
            reconnecting: None,
            unwritten: HashMap::new(),
            acks_unwritten: false,
            timeline: Vec::new(),
            samples: PendingCourse::default(),
            writing: None,
        }
    }

    /// Drives the run to its end.
    ///
    /// # Errors
    /// The record cannot be written, or notices cannot be sent. The run is aborted then if no notice
    /// can have left; else it is left to the manager.
    pub(super) async fn run(mut self, first: Vec<Action>) -> Result<Ended, ControllerError> {
        let mut ended = self.go(first).await;
        if ended.is_err() && !self.may_have_told {
            self.calls.ask(Call::Abort).await;
        } else {
            ended = ended.map_err(|error| error.left(self.orders.begin.run));
        }
        let Self { calls, writing, notices, watching, reconnecting, .. } = self;
        drop((notices, watching, reconnecting));
        calls.finish(LAST_CALLS).await;
        if let Some(writing) = writing {
            let _ = writing.await;
        }
        ended
    }

    async fn go(&mut self, first: Vec<Action>) -> Result<Ended, ControllerError> {
        if let Some(ending) = self.act(first).await? {
            return self.end(ending).await;
        }
        loop {
            let wake = self.machine.wake_at().map_or(BEAT, |at| at.saturating_sub(self.epoch.elapsed()).min(BEAT));
            self.pulse.start(Moment::now());
            // A signal that came before the answer that lets notices go must count as before them.
            let turn = tokio::select! {
                biased;
                signal = self.signals.recv(), if self.signals_open => Turn::Signal(signal),
                Some(answer) = self.answers.recv() => Turn::Reply(answer),
                Some(event) = self.heard.recv() => Turn::Heard(event),
                () = tokio::time::sleep(wake) => Turn::Tick,
            };
            let mut actions = Vec::new();
            if let Some(lag) = self.pulse.beat(Moment::now()) {
                actions = self.machine.lagged(self.epoch.elapsed(), lag.is_long());
            }
            actions.extend(match turn {
                Turn::Signal(None) => {
                    self.signals_open = false;
                    Vec::new()
                }
                Turn::Signal(Some(name)) => self.signalled(name),
                Turn::Reply(answer) => self.answered(answer)?,
                Turn::Heard(event) => self.heard(&event),
                Turn::Tick => self.machine.handle(self.epoch.elapsed(), Event::Tick),
            });
            let ended = self.act(actions).await?;
            if self.acks_unwritten {
                self.write_if_idle().await?;
            }
            let now = self.machine.progress(self.epoch.elapsed());
            self.progress.send_if_modified(|shown| std::mem::replace(shown, now) != now);
            if let Some(ending) = ended {
                return self.end(ending).await;
            }
        }
    }

    fn signalled(&mut self, name: &'static str) -> Vec<Action> {
        if !self.machine.can_abort() {
            tracing::warn!(
                "{name}: too late to abort, because this lock manager frees the locks when the run begins; nlmctl \
                 exits when every client is notified or given up, or at the next signal"
            );
        }
        self.machine.handle(self.epoch.elapsed(), Event::Signal(name))
    }

    async fn end(&mut self, ending: Ending) -> Result<Ended, ControllerError> {
        self.written().await?;
        self.write();
        self.written().await?;
        Ok(Ended { ending, counts: self.counts, forbidden: self.forbidden.take() })
    }

    fn answered(&mut self, answer: Reply) -> Result<Vec<Action>, ControllerError> {
        let now = self.epoch.elapsed();
        let run = self.orders.begin.run;
        Ok(match answer {
            Reply::Event(event) => self.machine.handle(now, event),
            Reply::Begun(begun, clients) => self.begun(now, &begun, clients),
            Reply::Told(status) => {
                self.count(&status);
                self.machine.handle(now, Event::Told(Standing::of(run, &status)))
            }
            Reply::Seen(status, events) => {
                self.count(&status);
                self.timeline.extend(events);
                self.machine.handle(now, Event::Seen(Standing::of(run, &status)))
            }
            Reply::Back(status) => {
                self.reconnecting = None;
                self.count(&status);
                self.machine.handle(now, Event::ManagerBack(Standing::of(run, &status)))
            }
            Reply::Broken(error) => return Err(error),
        })
    }

    fn count(&mut self, status: &Status) {
        if let Some(run) = status.run.0.as_ref().filter(|run| run.run == self.orders.begin.run) {
            self.counts = Some(run.counts);
            self.samples.add(PendingReport { elapsed_ms: run.elapsed_ms, pending: run.counts.pending });
            self.began = self.epoch.elapsed().saturating_sub(Duration::from_millis(run.elapsed_ms));
        }
    }

    fn begun(&mut self, now: Duration, begun: &Begun, clients: Vec<RunClient>) -> Vec<Action> {
        self.state = begun.new_state;
        self.began = now;
        self.counts = Some(Counts { in_scope: begun.in_scope, pending: begun.in_scope, ..Counts::default() });
        let known = &self.orders.known;
        let told: Vec<NoticeProgress> = clients
            .iter()
            .map(|client| {
                let suspect = || self.orders.probes.seen_of(client) == Probe::Suspect;
                let known = known.get(&client.index).cloned().map(NoticeProgress::going_on);
                known.unwrap_or_else(|| NoticeProgress::nothing(client.index, suspect()))
            })
            .collect();
        // All but a full ack is tried again. One that acked only some of its notices is kept, also if it acks none now.
        let starting = told
            .iter()
            .map(|told| Starting {
                delivery: if told.now.delivery == Delivery::Acked { Delivery::Acked } else { Delivery::NotTold },
                some_acked: told.now.acks > 0,
                ago: Duration::ZERO,
                suspect: told.now.suspect,
            })
            .collect();
        self.clients = clients;
        self.told = told;
        let event = Event::Begun { clients: starting, elapsed: Duration::ZERO };
        let mut actions = Vec::new();
        // The plan looked at the clients of its moment; these are the ones that would be told. Where
        // their locks are free already, not telling them would lose more than this host can.
        if self.machine.can_abort()
            && let Err(why) = hosts::refuse_own_mounts(self.orders.own_locks_lost, self.clients.iter())
        {
            self.forbidden = Some(why);
            if !self.machine.is_leaving() {
                let why = "new clients that this host's mounts forbid to notify";
                actions.extend(self.machine.handle(now, Event::Signal(why)));
            }
        }
        actions.extend(self.machine.handle(now, event));
        actions
    }

    fn heard(&mut self, event: &FanoutEvent) -> Vec<Action> {
        let now = self.epoch.elapsed();
        let Some(told) = self.told.get_mut(event.id as usize) else { return Vec::new() };
        let news = told.hear(event, event.at.saturating_sub(self.began));
        let update = told.now.clone();
        if let Some(client) = self.clients.get(event.id as usize).filter(|_| !matches!(news, NoticeNews::SentAgain)) {
            let DeliveryUpdate { notices, acks, attempts, error, .. } = &update;
            let why = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            tracing::info!("{}: {acks} of {notices} notices acked, {attempts} sent{why}", client.name);
        }
        self.acks_unwritten |= matches!(news, NoticeNews::Acked { .. });
        self.unwritten.insert(event.id, update);
        self.machine.handle(now, Event::Heard { client: event.id, at: event.at, news })
    }

    /// Does the actions, in order.
    async fn act(&mut self, actions: Vec<Action>) -> Result<Option<Ending>, ControllerError> {
        for action in actions {
            match action {
                Action::Persist(phase) => self.persist(phase).await?,
                Action::Begin => self.calls.ask(Call::Begin).await,
                Action::Tell(clients) => {
                    self.write_if_idle().await?;
                    self.calls.ask(Call::Tell(clients)).await;
                }
                Action::StartNotices => self.start_notices(),
                Action::StopNotices => self.notices = None,
                Action::Extend(time) => self.calls.ask(Call::Extend(time)).await,
                Action::AskStatus => self.calls.ask(Call::AskStatus).await,
                Action::Settle(when) => {
                    self.calls.ask(Call::Settle(when)).await;
                }
                Action::Abort => self.calls.ask(Call::Abort).await,
                Action::FetchResult => {
                    self.watching = None;
                    // The manager's rows join what is recorded of deliveries.
                    self.written().await?;
                    self.write();
                    self.written().await?;
                    self.calls.ask(Call::FetchResult).await;
                }
                Action::Reconnect => {
                    self.watching = None;
                    self.calls = Calls::start(self.link.clone());
                    self.reconnecting = Some(calls::reconnect(self.link.clone()));
                }
                Action::Finish(ending) => return Ok(Some(ending)),
            }
        }
        Ok(None)
    }

    async fn persist(&mut self, phase: Phase) -> Result<(), ControllerError> {
        // `begin`'s answer was recorded, with its phase, by the call that brought it.
        if phase == Phase::Begun {
            return Ok(());
        }
        let run = self.orders.begin.run;
        tracing::info!("run {run}: {phase}");
        self.link.record.with(move |store| store.set_phase(run, phase)).await
    }

    fn start_notices(&mut self) {
        self.may_have_told = true;
        if self.watching.is_none() {
            self.watching = Some(calls::watch(self.link.clone()));
        }
        let mut targets = Vec::new();
        let untold = self.clients.iter().zip(&mut self.told).filter(|(_, told)| told.now.delivery != Delivery::Acked);
        for (client, told) in untold {
            let target = targets::to_notify(client, &self.orders.names);
            told.start(target.notices.len());
            targets.push(target);
        }
        let options = NotifyOptions {
            rpcbind_port: self.orders.options.rpcbind_port,
            state: self.state,
            epoch: self.epoch,
            retry_until: self.epoch.elapsed()
                + retry_for(self.machine.grace_is_the_managers(), self.orders.begin.grace_max_ms),
            no_answer_after: NO_ANSWER_AFTER,
        };
        let (events, heard) = mpsc::channel(QUEUE);
        self.heard = heard;
        let answers = self.link.answers.clone();
        self.notices = Some(Task::spawn(async move {
            if let Err(error) = nsm::notify(targets, options, events).await {
                let _ = answers.send(Reply::Broken(error.into())).await;
            }
        }));
    }

    /// Writes what was heard, unless the last such write still goes on: then it waits its turn.
    async fn write_if_idle(&mut self) -> Result<(), ControllerError> {
        match &self.writing {
            Some(writing) if !writing.is_finished() => Ok(()),
            Some(_) | None => {
                self.written().await?;
                self.write();
                Ok(())
            }
        }
    }

    async fn written(&mut self) -> Result<(), ControllerError> {
        match self.writing.take() {
            None => Ok(()),
            Some(writing) => writing.await.map_err(|_| ControllerError::Internal("a write to the record died"))?,
        }
    }

    fn write(&mut self) {
        if self.unwritten.is_empty() && self.timeline.is_empty() && self.samples.new.is_empty() {
            return;
        }
        let run = self.orders.begin.run;
        self.acks_unwritten = false;
        let updates: Vec<_> = self.unwritten.drain().map(|(_, update)| update).collect();
        let events = std::mem::take(&mut self.timeline);
        let samples = std::mem::take(&mut self.samples.new);
        let record = self.link.record.clone();
        self.writing = Some(tokio::spawn(async move {
            record
                .with(move |store| {
                    store.record_deliveries(run, &updates)?;
                    store.record_progress(run, &samples)?;
                    events.iter().try_for_each(|e| store.event_at(run, e.unix_ms, e.kind.as_str(), e.detail.as_str()))
                })
                .await
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_the_notices_only_where_it_ends_grace() {
        assert_eq!(retry_for(false, 5_000), Duration::from_secs(5));
        assert!(retry_for(true, 5_000) >= Duration::from_mins(10), "a grace of Ganesha's own length");
    }
}
