//! The inputs and outputs of the run's state machine.

use std::time::Duration;

use crate::report::Phase;
use crate::wire::control::{ClientProgress, Delivery, Refusal, RunId, SettleWhen, Status};

/// The terms of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long no ack and no reclaim must have come before an early settle.
    pub quiet_time: Duration,
    /// How long grace was asked to last.
    pub grace: Duration,
    /// Whether the manager can settle before the deadline.
    pub settle_early: bool,
    /// Whether `begin` frees the locks: from then on there is nothing to abort, and leaving before
    /// the clients are told would lose what they hold.
    pub begin_releases: bool,
}

/// A client of the run when it (or its resume) starts. Its place in the list is its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starting {
    /// What is known of its notices: `NotTold` in a new run.
    pub delivery: Delivery,
    /// Whether any of them was acked, before a resume too.
    pub some_acked: bool,
    /// How long ago that was learned.
    pub ago: Duration,
    /// Whether its statd answers with another state number than its locks carried.
    pub suspect: bool,
}

/// Where the run stands, by the manager's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The run is active at the manager.
    Active {
        in_scope: u64,
        /// Locks not decided yet.
        pending: u64,
        /// How long ago the last reclaim was.
        last_reclaim: Option<Duration>,
        /// From now until the deadline, as it stands.
        remaining: Duration,
        /// Until the latest deadline.
        latest_remaining: Duration,
    },
    /// It is not the active run (any more).
    Over,
}

impl Standing {
    /// Where `run` stands by this status.
    pub fn of(run: RunId, status: &Status) -> Self {
        match &status.run.0 {
            Some(active) if active.run == run => Self::Active {
                in_scope: active.counts.in_scope,
                pending: active.counts.pending,
                last_reclaim: active.last_reclaim_ms.0.map(Duration::from_millis),
                remaining: Duration::from_millis(active.remaining_ms),
                latest_remaining: Duration::from_millis(active.latest_remaining_ms),
            },
            Some(_) | None => Self::Over,
        }
    }
}

/// What was heard about a client's notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeNews {
    /// One more was acked; `all` of them are now, or not.
    Acked {
        /// Whether no notice is left to ack.
        all: bool,
    },
    /// No answer yet: a call to it was sent again.
    SentAgain,
    /// It was given up, at least for now.
    GivenUp(Delivery),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `begin` was answered, and its clients are known and in the record.
    Begun {
        /// The clients to notify.
        clients: Vec<Starting>,
        /// How long ago grace began.
        elapsed: Duration,
    },
    /// `begin` was refused: nothing was touched.
    BeginRefused(Refusal),
    /// The manager has heard of the clients' fates (PROGRESS).
    Told(Standing),
    /// The manager's status was seen.
    Seen(Standing),
    /// Something was heard about a client's notices.
    Heard { client: u32, at: Duration, news: NoticeNews },
    /// `settle` or `abort` was answered, or refused because the run is over already.
    Ended,
    /// `settle` was refused: locks are pending, or awaited, or the manager alone ends its grace and has not yet.
    StillPending,
    /// `settle` or `abort` was refused: the result cannot be written.
    NotDurable,
    /// The manager refused a call that it must not refuse, or its answer makes no sense.
    Failed(String),
    /// The result is in the record.
    ResultStored,
    /// The manager knows no such run.
    ResultUnknown,
    /// The manager no longer answers. Calls in flight are forgotten.
    ManagerLost,
    /// The manager answers again, after it did not.
    ManagerBack(Standing),
    /// The operator wants to leave: the signal's name.
    Signal(&'static str),
    /// `now` has come to [`Run::wake_at`].
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this phase durable before anything that follows.
    Persist(Phase),
    /// Ask `begin`, and for its clients; answer with `Begun` or `BeginRefused`.
    Begin,
    /// Tell deliveries (`notices_begun` is true from the first one on); answer with `Told`.
    Tell(Vec<ClientProgress>),
    /// Send notices to the clients that have not acked all of theirs, until stopped.
    StartNotices,
    /// Send no more notices.
    StopNotices,
    /// Ask to move the deadline this far away, as far as allowed; answer with `Seen`.
    Extend(Duration),
    /// Ask for the status; answer with `Seen`.
    AskStatus,
    /// Ask `settle` on this condition; answer with `Ended`, `StillPending` or `NotDurable`.
    Settle(SettleWhen),
    /// Ask `abort`; answer with `Ended` or `NotDurable`.
    Abort,
    /// Bring the result into the record, then acknowledge it; answer with `ResultStored` or
    /// `ResultUnknown`.
    FetchResult,
    /// Connect again until it works; answer with `ManagerBack`.
    Reconnect,
    /// Nothing more will be asked.
    Finish(Ending),
}

/// How the controller's part of a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With the manager's result, which is in the record.
    Recorded,
    /// `begin` was refused: nothing was touched.
    Refused(Refusal),
    /// Before it is known how it ends. A resume can go on.
    Interrupted(String),
    /// The manager does not know the run (any more): it restarted.
    Superseded(String),
}
