//! The manager's side of a run: one task that makes the calls, in the order in which they are asked for and one at a
//! time, and one that watches.
//!
//! Both end with their handle. Cancel safety: a call that is dropped in the middle may have been
//! acted on; that is so only when the manager is being connected to anew, whose status then decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::ControllerError;
use super::record::Record;
use super::results::{self, CALL_AGAIN, Fetched};
use super::statds::Probes;
use crate::manager::{LockManager, ManagerError};
use crate::resync::run::Event;
use crate::store::NewClient;
use crate::wire::control::{
    self, BeginArgs, Begun, ClientProgress, ExtendArgs, ProgressArgs, RefusalCode, RunClient, RunId, SettleArgs,
    SettleWhen, Status, WatchArgs,
};
use crate::wire::types::ms;
use crate::wire::xdr::List;

/// Calls that may wait. The run asks one at a time; an end adds one or two.
const QUEUE: usize = 8;
/// Clients written to the record at once.
const CLIENTS_AT_ONCE: usize = 10_000;
/// How long a `WATCH` may wait. Short, so that the view is never older, and a dead manager noticed.
const WATCH_MS: u64 = 1_000;
/// How often deliveries are told to a manager that is settling just now, before the run starts over
/// with announcing them: long enough for most results, short enough for a signal.
const TELL_TRIES: usize = 20;
/// Between two `WATCH` calls: while thousands of reclaims come in, not each needs an answer.
const WATCH_GAP: Duration = Duration::from_millis(5);

/// What to ask the manager.
#[derive(Debug)]
pub(super) enum Call {
    Begin,
    Tell(Vec<ClientProgress>),
    Extend(Duration),
    AskStatus,
    Settle(SettleWhen),
    Abort,
    FetchResult,
}

#[derive(Debug)]
pub(super) enum Reply {
    /// Something that the run's machine understands as it is.
    Event(Event),
    /// `begin` was answered; its clients are in the record.
    Begun(Box<Begun>, Vec<RunClient>),
    /// The manager has heard of the clients' fates (PROGRESS).
    Told(Box<Status>),
    /// The status, and what happened since the one before.
    Seen(Box<Status>, Vec<control::Event>),
    /// The manager answers again.
    Back(Box<Status>),
    /// nlmctl itself failed: the record cannot be written, say.
    Broken(ControllerError),
}

/// What both tasks know.
#[derive(Clone)]
pub(super) struct ManagerLink {
    pub(super) manager: Arc<dyn LockManager>,
    pub(super) record: Record,
    pub(super) begin: Arc<BeginArgs>,
    /// Whether `begin`'s answer is in the record already (a resume).
    pub(super) begun: bool,
    pub(super) probes: Arc<Probes>,
    pub(super) answers: mpsc::Sender<Reply>,
    /// How far the manager's events are told; 0 where it is not known which of them are this run's.
    pub(super) cursor: Arc<AtomicU64>,
}

impl ManagerLink {
    fn run(&self) -> RunId {
        self.begin.run
    }

    async fn answer(&self, answer: Reply) {
        // No caller waits any more: the run is being left.
        let _ = self.answers.send(answer).await;
    }

    async fn make(&self, call: Call) -> Reply {
        let run = self.run();
        match call {
            Call::Begin => match self.begin().await {
                Ok(begun) => match self.clients_of(&begun).await {
                    Ok(clients) => Reply::Begun(Box::new(begun), clients),
                    Err(ControllerError::Manager(error)) => failed(&error),
                    Err(error) => Reply::Broken(error),
                },
                Err(ManagerError::Refused(refusal)) => Reply::Event(Event::BeginRefused(refusal)),
                Err(error) => failed(&error),
            },
            Call::Tell(clients) => self.tell(clients).await,
            Call::Extend(time) => self.extend(time).await,
            Call::AskStatus => self.status().await,
            Call::Settle(when) => ended(self.manager.settle(&SettleArgs { run, when }).await.map(|_| ())),
            Call::Abort => ended(self.manager.abort(run).await.map(|_| ())),
            Call::FetchResult => match results::fetch(&*self.manager, &self.record, run).await {
                Ok(Fetched::Stored) => match self.record_last_events().await {
                    Ok(()) => Reply::Event(Event::ResultStored),
                    Err(error) => Reply::Broken(error),
                },
                Ok(Fetched::Unknown) => match self.manager.status().await {
                    Ok(status) if status.instance == self.begin.instance => {
                        Reply::Event(Event::Failed(results::NO_RESULT.into()))
                    }
                    Ok(_) => Reply::Event(Event::ResultUnknown),
                    // Whether it has restarted was not seen.
                    Err(error) => failed(&error),
                },
                Err(ControllerError::Manager(error)) => failed(&error),
                Err(error) => Reply::Broken(error),
            },
        }
    }

    async fn begin(&self) -> Result<Begun, ManagerError> {
        // What the manager says from here on is this run's.
        if let Ok(status) = self.manager.status().await {
            self.cursor.store(status.cursor, Ordering::Relaxed);
        }
        self.manager.begin(&self.begin).await
    }

    /// What the manager said since it was last watched: how the run ended.
    async fn record_last_events(&self) -> Result<(), ControllerError> {
        let cursor = self.cursor.load(Ordering::Relaxed);
        if cursor == 0 {
            return Ok(());
        }
        let Ok(last) = self.manager.watch(WatchArgs { cursor, timeout_ms: 0 }).await else { return Ok(()) };
        self.cursor.store(last.status.cursor, Ordering::Relaxed);
        let (run, events) = (self.run(), last.events.into_vec());
        let written = self.record.with(move |store| {
            events.iter().try_for_each(|e| store.event_at(run, e.unix_ms, e.kind.as_str(), e.detail.as_str()))
        });
        written.await
    }

    /// Tells deliveries. A run that is being settled takes none, and is over soon or goes on: it is
    /// asked until it is known which. Every answer moves the run on.
    async fn tell(&self, clients: Vec<ClientProgress>) -> Reply {
        let args = ProgressArgs { run: self.run(), notices_begun: true, clients: List::clipped(clients) };
        for _ in 0..TELL_TRIES {
            match self.manager.progress(&args).await {
                Ok(status) => return Reply::Told(Box::new(status)),
                Err(error) => match error.refused() {
                    Some(RefusalCode::UnknownRun | RefusalCode::WrongPhase) => {}
                    Some(_) | None => return failed(&error),
                },
            }
            match self.status().await {
                Reply::Seen(status, _) if results::is_active(args.run, &status) => {
                    tokio::time::sleep(CALL_AGAIN).await;
                }
                known => return known,
            }
        }
        // Its status then says where the run is, and all that is known is told anew.
        Reply::Event(Event::ManagerLost)
    }

    /// A run that is being settled or is over takes no time: its status tells.
    async fn extend(&self, time: Duration) -> Reply {
        match self.manager.extend(&ExtendArgs { run: self.run(), remaining_ms: ms(time) }).await {
            Ok(status) => Reply::Seen(Box::new(status), Vec::new()),
            Err(ManagerError::Refused(_)) => self.status().await,
            Err(error) => failed(&error),
        }
    }

    async fn status(&self) -> Reply {
        match self.manager.status().await {
            Ok(status) => Reply::Seen(Box::new(status), Vec::new()),
            Err(error) => failed(&error),
        }
    }

    /// Asks for the clients that `begin` fixed; its answer and they are durable when this returns.
    async fn clients_of(&self, begun: &Begun) -> Result<Vec<RunClient>, ControllerError> {
        if !self.begun {
            let fixed = begun.clone();
            self.record.with(move |store| store.record_begun(&fixed)).await?;
        }
        let clients = self.manager.run_clients(self.run()).await?;
        let run = self.run();
        for page in clients.chunks(CLIENTS_AT_ONCE) {
            let rows: Vec<NewClient> = page
                .iter()
                .map(|client| NewClient { client: client.clone(), probe: self.probes.seen_of(client) })
                .collect();
            self.record.with(move |store| store.record_clients(run, &rows)).await?;
        }
        Ok(clients)
    }
}

fn failed(error: &ManagerError) -> Reply {
    match error {
        ManagerError::Unreachable { .. } | ManagerError::Lost { .. } => {
            // The run only has to know that it is away.
            tracing::warn!("{error}");
            Reply::Event(Event::ManagerLost)
        }
        ManagerError::Refused(_) | ManagerError::Protocol { .. } => Reply::Event(Event::Failed(error.to_string())),
    }
}

/// The result of `settle` or `abort`. A run that is already over counts as ended.
fn ended(answer: Result<(), ManagerError>) -> Reply {
    match answer {
        Ok(()) => Reply::Event(Event::Ended),
        Err(error) => match error.refused() {
            Some(RefusalCode::UnknownRun | RefusalCode::WrongPhase) => Reply::Event(Event::Ended),
            Some(RefusalCode::StillPending) => Reply::Event(Event::StillPending),
            Some(RefusalCode::NotDurable) => Reply::Event(Event::NotDurable),
            Some(_) | None => failed(&error),
        },
    }
}

/// The task that makes calls. Ends when this is dropped, in the middle of a call if need be.
pub(super) struct Calls {
    queue: Option<mpsc::Sender<Call>>,
    task: Task,
}

impl Calls {
    pub(super) fn start(link: ManagerLink) -> Self {
        let (queue, mut asked) = mpsc::channel(QUEUE);
        let task = Task::spawn(async move {
            while let Some(call) = asked.recv().await {
                let answer = link.make(call).await;
                link.answer(answer).await;
            }
        });
        Self { queue: Some(queue), task }
    }

    pub(super) async fn ask(&self, call: Call) {
        if let Some(queue) = &self.queue {
            // The task ends only with this handle.
            let _ = queue.send(call).await;
        }
    }

    /// Lets calls that were asked for be made, for a while.
    pub(super) async fn finish(mut self, patience: Duration) {
        self.queue = None;
        let _ = tokio::time::timeout(patience, &mut self.task.0).await;
    }
}

/// A task that ends when this is dropped.
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows the manager's status. Where `WATCH` does not work the status is asked for instead; where
/// that does not work either the manager is lost, and this ends.
pub(super) fn watch(link: ManagerLink) -> Task {
    Task::spawn(async move {
        loop {
            let cursor = link.cursor.load(Ordering::Relaxed);
            let watched = link.manager.watch(WatchArgs { cursor, timeout_ms: WATCH_MS }).await;
            let (answer, told) = if let Ok(seen) = watched {
                // Events from before this watch are other runs' or already told.
                let events = if cursor == 0 { Vec::new() } else { seen.events.into_vec() };
                let told = seen.status.cursor;
                (Reply::Seen(Box::new(seen.status), events), told)
            } else {
                tokio::time::sleep(CALL_AGAIN).await;
                (link.status().await, cursor)
            };
            let lost = matches!(answer, Reply::Event(_));
            link.answer(answer).await;
            link.cursor.store(told, Ordering::Relaxed);
            if lost {
                return;
            }
            tokio::time::sleep(WATCH_GAP).await;
        }
    })
}

/// Asks until the manager answers.
pub(super) fn reconnect(link: ManagerLink) -> Task {
    Task::spawn(async move {
        loop {
            if let Ok(status) = link.manager.status().await {
                return link.answer(Reply::Back(Box::new(status))).await;
            }
            tokio::time::sleep(CALL_AGAIN).await;
        }
    })
}
