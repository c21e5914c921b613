//! The active run and its progress, besides what the lock table knows of it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::records::NotRecorded;
use crate::rpc::server::ConnectionId;
use crate::wire::control::{BeginArgs, Begun, Refusal, RunId, RunResult};
use crate::wire::types::{NsmState, ms};

/// Begun and ended runs remembered by id, so that a repeated call is answered as the first one: more than a
/// controller can have repeated, and less than grows with the years.
const REMEMBERED: usize = 64;

/// How long waking, entering, scanning or sweeping may keep the table from requests.
pub(super) const SLICE: Duration = Duration::from_millis(1);

pub(super) type Refusable<T> = oneshot::Sender<Result<T, Refusal>>;

#[derive(Debug)]
pub(super) enum Phase {
    /// No run.
    Idle,
    /// Its state number is on the way to the disk, or what the run before dropped is not all freed yet.
    Beginning(Box<Beginning>),
    /// A state number without a run is on its way to the disk.
    Raising(Refusable<NsmState>),
    /// Marked, in grace; its clients are entered, slice by slice.
    Entering(Box<Beginning>),
    /// In grace.
    Active,
    /// Frozen; verdicts are made, slice by slice, and go to the disk.
    Scanning,
    /// The last of the result is on the way to the disk.
    Writing,
}

#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) args: Box<BeginArgs>,
    pub(super) began_unix_ms: u64,
    /// What the disk said.
    pub(super) durable: Option<Result<NsmState, NotRecorded>>,
    /// None once it is closed.
    pub(super) connection: Option<ConnectionId>,
    pub(super) answers: Vec<Refusable<Begun>>,
    /// Those who want it aborted: then it does not begin. Once it is marked they wait until all clients are entered.
    pub(super) aborts: Vec<Refusable<RunResult>>,
}

#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) result: Option<RunResult>,
    /// Pages of the result are on the way to the disk. Then the scan goes on.
    pub(super) awaits_pages: bool,
    pub(super) answers: Vec<Refusable<RunResult>>,
    /// No controller asked for it.
    pub(super) alone: bool,
    pub(super) reason: &'static str,
}

/// What is known of runs besides what the lock table knows.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) phase: Phase,
    pub(super) ending: Ending,
    pub(super) controller: Option<ConnectionId>,
    /// When the run began, by the process' clock and by the wall's.
    pub(super) began: (Duration, u64),
    pub(super) begun: VecDeque<Begun>,
    pub(super) ended: VecDeque<RunId>,
    pub(super) failures: u32,
    /// Timers rest until then.
    pub(super) not_before: Option<Duration>,
}

pub(super) fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}

impl Runs {
    pub(super) fn new(ended: Vec<RunId>) -> Self {
        Self {
            phase: Phase::Idle,
            ending: Ending::default(),
            controller: None,
            began: (Duration::ZERO, 0),
            begun: VecDeque::new(),
            ended: ended.into(),
            failures: 0,
            not_before: None,
        }
    }
    pub(super) fn is_slicing(&self) -> bool {
        match self.phase {
            Phase::Entering(_) => true,
            Phase::Scanning => !self.ending.awaits_pages,
            Phase::Idle | Phase::Beginning(_) | Phase::Raising(_) | Phase::Active | Phase::Writing => false,
        }
    }
    /// While a run's clients are entered its deadline means nothing yet, and while it settles nothing more.
    pub(super) fn takes_timers(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Beginning(_) | Phase::Raising(_) | Phase::Active)
    }
    /// Now, milliseconds since 1970, as long after the run's begin as it is: the wall clock may have jumped.
    pub(super) fn unix_ms(&self, now: Duration) -> u64 {
        let (began, unix_ms) = self.began;
        unix_ms.saturating_add(ms(now.saturating_sub(began)))
    }
    pub(super) fn controller_attached(&self) -> bool {
        self.controller.is_some()
    }
    pub(super) fn detached(&mut self, connection: ConnectionId) {
        if self.controller == Some(connection) {
            self.controller = None;
        }
        if let Phase::Beginning(beginning) | Phase::Entering(beginning) = &mut self.phase
            && beginning.connection == Some(connection)
        {
            beginning.connection = None;
        }
    }
}

/// What takes long to free is freed where nothing waits for that.
pub(super) fn free_beside<T: Send + 'static>(much: T) {
    tokio::task::spawn_blocking(move || drop(much));
}
