//! A run, driven: the machine's actions become calls, notices and lines of the record, and what
//! comes back become its events.
//!
//! One task owns the machine ([`Drive::run`]); the others are
//! - the calls to the manager, in order, one at a time ([`Calls`]),
//! - the watch of its status, once the run has begun,
//! - the fan-out of notices, while the machine wants them out,
//! - at most one write of deliveries to the record at a time.
//!
//! What the machine wants durable is durable before the next action is begun. The loop beats ([`Heartbeat`]), and the
//! machine learns that this process did not run for a while before it learns anything else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::calls::{self, Call, Calls, ManagerLink, Reply, Task};
use super::record::Record;
use super::{ControllerError, Options, Signals, hosts, targets};
use crate::manager::LockManager;
use crate::nsm::{self, FanoutEvent, NotifyOptions};
use crate::report::{Failure, PendingReport, Phase, Probe, Progress};
use crate::resync::run::{Action, Ending, Event, NoticeNews, Run, Standing, Starting};
use crate::rpc::heartbeat::{BEAT, Heartbeat, Moment};
use crate::store::{DeliveryUpdate, StoredClient};
use crate::wire::control::{self, BeginArgs, Begun, Counts, Delivery, RunClient, Status};
use crate::wire::types::{CallerName, NsmState};

/// By statement 7: after so long without an ack a client is given up, for now.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(10);
/// Answers and notices' news that may wait to be handled. The senders wait beyond.
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
    /// What the plan saw of each client.
    pub(super) probes: HashMap<CallerName, Probe>,
    /// What an earlier controller recorded of each client, by number.
    pub(super) known: HashMap<u32, StoredClient>,
    pub(super) own_locks_lost: bool,
    pub(super) options: Options,
}

/// What is known of a client beside what the machine knows, for the record.
#[derive(Debug, Clone)]
struct NoticeProgress {
    delivery: Delivery,
    notices: u32,
    acks: u32,
    attempts: u32,
    /// Of them, those of earlier fan-outs.
    attempts_before: u32,
    acked_ms: Option<u64>,
    suspect: bool,
    error: Option<String>,
}

impl NoticeProgress {
    fn nothing(suspect: bool) -> Self {
        Self {
            delivery: Delivery::NotTold,
            notices: 0,
            acks: 0,
            attempts: 0,
            attempts_before: 0,
            acked_ms: None,
            suspect,
            error: None,
        }
    }

    /// It is about to be told, with so many notices.
    fn start(&mut self, notices: usize) {
        self.notices = u32::try_from(notices).unwrap_or(u32::MAX);
        self.attempts_before = self.attempts;
    }

    /// So often was it tried since.
    fn tried(&mut self, attempts: u32) {
        self.attempts = self.attempts.max(self.attempts_before.saturating_add(attempts));
    }
}

/// How many locks were pending in the course of the run, as the record is to have it: each change, but no two closer than
/// [`Samples::APART_MS`] or the 256th part of the time that has passed. So a day is a few thousand rows.
#[derive(Debug, Default)]
struct Samples {
    new: Vec<PendingReport>,
    last: Option<PendingReport>,
}

impl Samples {
    const APART_MS: u64 = 100;

    fn add(&mut self, now: PendingReport) {
        let is_news = self.last.is_none_or(|last| {
            let apart = Self::APART_MS.max(now.elapsed_ms / 256);
            last.pending != now.pending && (now.pending == 0 || now.elapsed_ms >= last.elapsed_ms.saturating_add(apart))
        });
        if is_news {
            self.new.push(now);
            self.last = Some(now);
        }
    }
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
    timeline: Vec<control::Event>,
    samples: Samples,
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
        let probes = orders.probes.clone();
        let resumed = orders.begun;
        let link = ManagerLink {
            manager,
            record,
            begin: Arc::new(orders.begin.clone()),
            begun: orders.begun,
            probe: Arc::new(move |name| probes.get(name).copied().unwrap_or(Probe::NotAsked)),
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
            timeline: Vec::new(),
            samples: Samples::default(),
            writing: None,
        }
    }

    /// Drives the run to its end.
    ///
    /// # Errors
    /// The record cannot be written, or notices cannot be sent. The run is aborted then if no notice
    /// can have left; else it is left to the manager.
    pub(super) async fn run(mut self, first: Vec<Action>) -> Result<Ended, ControllerError> {
        let ended = self.go(first).await;
        if ended.is_err() && !self.may_have_told {
            self.calls.ask(Call::Abort).await;
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
                Turn::Heard(event) => self.heard(event),
                Turn::Tick => self.machine.handle(self.epoch.elapsed(), Event::Tick),
            });
            let ended = self.act(actions).await?;
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
                "{name}: too late to abort, this lock manager frees the locks when the run begins; nlmctl leaves when \
                 every client is told, or at the next signal"
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
            .map(|client| match known.get(&client.index) {
                Some(stored) => NoticeProgress {
                    delivery: stored.delivery,
                    notices: stored.notices,
                    acks: stored.acks,
                    attempts: stored.attempts,
                    attempts_before: stored.attempts,
                    acked_ms: stored.acked_ms,
                    suspect: stored.suspect,
                    error: stored.error.clone(),
                },
                None => NoticeProgress::nothing(self.orders.probes.get(&client.name) == Some(&Probe::Suspect)),
            })
            .collect();
        // Only a full ack is worth remembering over a restart: all else is tried again.
        let starting = told
            .iter()
            .map(|told| Starting {
                delivery: if told.delivery == Delivery::Acked { Delivery::Acked } else { Delivery::NotTold },
                ago: Duration::ZERO,
                suspect: told.suspect,
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
                let why = "new clients that this host's mounts forbid to tell";
                actions.extend(self.machine.handle(now, Event::Signal(why)));
            }
        }
        actions.extend(self.machine.handle(now, event));
        actions
    }

    fn heard(&mut self, event: FanoutEvent) -> Vec<Action> {
        let now = self.epoch.elapsed();
        let Some(told) = self.told.get_mut(event.id as usize) else { return Vec::new() };
        told.tried(event.attempts);
        let news = match event.news {
            nsm::News::Answered { answered: acked, of, elsewhere: true, address, .. } if acked >= of => {
                let by = address.map(|ip| ip.to_string()).unwrap_or_default();
                told.delivery = Delivery::Elsewhere;
                told.error = Some(format!(
                    "silent where it called from; acked by {by}, which has its name and may be another machine: its locks are kept"
                ));
                NoticeNews::GivenUp(Delivery::Elsewhere)
            }
            nsm::News::Answered { answered: acked, of, .. } => {
                told.acks = told.acks.max(acked);
                let since = event.at.saturating_sub(self.began);
                told.acked_ms = Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
                if acked >= of {
                    told.delivery = Delivery::Acked;
                    told.error = None;
                }
                NoticeNews::Acked { all: acked >= of }
            }
            nsm::News::GivenUp { failure, error, .. } => {
                let delivery = nsm::delivery(failure);
                told.delivery = delivery;
                told.error = error;
                NoticeNews::GivenUp(delivery)
            }
            nsm::News::SentAgain => NoticeNews::SentAgain,
        };
        let update = DeliveryUpdate {
            client: event.id,
            delivery: told.delivery,
            notices: told.notices,
            acks: told.acks,
            attempts: told.attempts,
            acked_ms: told.acked_ms,
            suspect: told.suspect,
            error: told.error.clone(),
        };
        if let Some(client) = self.clients.get(event.id as usize).filter(|_| !matches!(news, NoticeNews::SentAgain)) {
            let DeliveryUpdate { notices, acks, attempts, error, .. } = &update;
            let why = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            tracing::info!("{}: {acks} of {notices} notices acked, {attempts} sent{why}", client.name);
        }
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
        self.link.record.with(move |store| store.set_phase(run, phase, "")).await
    }

    fn start_notices(&mut self) {
        self.may_have_told = true;
        if self.watching.is_none() {
            self.watching = Some(calls::watch(self.link.clone()));
        }
        let mut targets = Vec::new();
        let untold = self.clients.iter().zip(&mut self.told).filter(|(_, told)| told.delivery != Delivery::Acked);
        for (client, told) in untold {
            let target = targets::to_notify(client, &self.orders.names);
            told.start(target.notices.len());
            targets.push(target);
        }
        let options = NotifyOptions {
            rpcbind_port: self.orders.options.rpcbind_port,
            state: self.state,
            epoch: self.epoch,
            retry_until: self.epoch.elapsed() + Duration::from_millis(self.orders.begin.grace_max_ms),
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
    fn the_course_of_a_run_is_a_few_thousand_rows_however_often_it_changes() {
        let mut samples = Samples::default();
        let day = 24 * 3_600_000;
        for elapsed_ms in (0..day).step_by(50) {
            samples.add(PendingReport { elapsed_ms, pending: day - elapsed_ms });
        }
        samples.add(PendingReport { elapsed_ms: day + 1, pending: 0 });
        samples.add(PendingReport { elapsed_ms: day + 2, pending: 0 });
        assert!((1_000..4_000).contains(&samples.new.len()), "{}", samples.new.len());
        let first: Vec<_> = samples.new.iter().take(3).map(|row| row.elapsed_ms).collect();
        assert_eq!((first, samples.new.last().map(|row| row.elapsed_ms)), (vec![0, 100, 200], Some(day + 1)));
    }

    #[test]
    fn what_is_sent_after_a_break_adds_to_what_was_sent_before() {
        let mut told = NoticeProgress::nothing(false);
        for since in [[4, 6], [0, 3]] {
            told.start(4);
            for attempts in since {
                told.tried(attempts);
            }
        }
        assert_eq!((told.notices, told.attempts), (4, 9));
    }
}
