//! The owner's task: its start, and its loop.
//!
//! No deadline passes before the input that had arrived by then was handled. So where one is due, or a run is about
//! to end, the sockets' readers have their turns first ([`take_in`]). And the loop beats while a deadline is
//! awaited: what it missed because the process did not run is given back before anything looks at the time.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::archive::{Archive, Unwritten};
use super::embedder::{Embedded, Stepped};
use super::handle::{SharedOwner, Table};
use super::incoming::{Clock, Names};
use super::moves::Moves;
use super::phase::{Phase, Runs, SLICE};
use super::queue::Queue;
use super::records::Records;
use super::refusals::Refusals;
use super::state::{Done, Owner};
use super::watches::{StatdSetup, Watches};
use crate::lockd::callbacks::Callbacks;
use crate::lockd::callers::Called;
use crate::lockd::embed::Embedding;
use crate::lockd::persist::{Found, MonitorRecord, Persist};
use crate::locks::{Due, LockTable};
use crate::rpc::arrivals::Arrivals;
use crate::rpc::control::Timeline;
use crate::rpc::heartbeat::{BEAT, Heartbeat, Moment};
use crate::wire::control::{Grace, InstanceId, Refusal, Status};
use crate::wire::types::NsmState;

/// A timer that is due but asks for nothing is looked at again after this.
const IDLE_TICK: Duration = Duration::from_millis(10);
/// So many turns of the runtime in a row that bring nothing say that the sockets' readers have nothing more. A new
/// connection takes a few: it is accepted, becomes readable, is read.
const QUIET_TURNS: u32 = 8;
/// A deadline waits no longer than this for input that does not end.
const TAKE_IN: Duration = Duration::from_secs(1);

/// What the owner starts with.
#[derive(Debug)]
pub struct Setup {
    pub clock: Clock,
    /// The lock table, empty.
    pub table: LockTable,
    pub persist: Persist,
    /// GRANTED calls.
    pub callbacks: Callbacks,
    /// This life.
    pub instance: InstanceId,
    /// The names under which clients know this server.
    pub names: Names,
    /// Who has called since a run began, as the gate notes it.
    pub called: Called,
    /// What the served sockets have for the table.
    pub arrivals: Arrivals,
    /// The port of clients' rpcbind.
    pub rpcbind_port: u16,
    /// The NSM state number, durable.
    pub nsm_state: NsmState,
    /// What the start found on disk.
    pub found: Found,
    /// This host's statd, where it is the status monitor.
    pub statd: Option<StatdSetup>,
    /// Recovery grace until then; none where no client has anything to reclaim.
    pub recovery_until: Option<Duration>,
    /// The say of the file server that embeds all this.
    pub embedding: Embedding,
}

/// What the owner's task has to do next.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Turn {
    /// To look what it has to wait for now.
    Look,
    Done(Result<Done, JoinError>),
    Slice,
    Timer,
}

/// Starts the owner's task. It ends when every [`Table`] is dropped.
pub fn spawn(setup: Setup) -> (Table, JoinHandle<()>) {
    let (waker, woken) = mpsc::channel(1);
    let arrivals = setup.arrivals.clone();
    let (owner, nsm_state) = Owner::new(setup);
    let archive = Arc::clone(&owner.archive);
    let owner = SharedOwner::new(owner);
    let task = tokio::spawn(run(owner.clone(), arrivals, woken));
    (Table { owner, waker, nsm_state, archive }, task)
}

/// The owner's task: what comes back from work beside the table, slices and timers.
async fn run(owner: SharedOwner, arrivals: Arrivals, mut woken: mpsc::Receiver<()>) {
    let Some(persist) = owner.with(|owner| owner.persist.clone()) else { return };
    loop {
        let turn = tokio::select! {
            biased;
            () = persist.closed() => return tracing::error!("nothing can be written any more: the thread that does has failed"),
            turn = turn(&owner, &mut woken) => turn,
        };
        let Some(turn) = turn else { break };
        let handled = match turn {
            Turn::Look => Some(()),
            Turn::Done(Ok(done)) => {
                if matches!(done, Done::ResultDurable(Ok(()))) {
                    take_in(&owner, &arrivals).await;
                }
                owner.with(|owner| owner.done(done))
            }
            // A withdrawn offer.
            Turn::Done(Err(error)) if error.is_cancelled() => Some(()),
            Turn::Done(Err(error)) => {
                tracing::error!(%error, "work beside the lock table failed");
                Some(())
            }
            Turn::Slice => owner.with(Owner::slice),
            Turn::Timer => {
                let is_due = owner.with(|owner| {
                    owner.write_delayed_records();
                    owner.is_due()
                });
                if is_due == Some(true) {
                    take_in(&owner, &arrivals).await;
                }
                owner.with(Owner::due)
            }
        };
        if handled.is_none() {
            break;
        }
    }
    tracing::debug!("the lock table is closed");
}

/// What comes next; none: no task can ask for anything any more, or the owner panicked.
async fn turn(owner: &SharedOwner, woken: &mut mpsc::Receiver<()>) -> Option<Turn> {
    let (timer, slicing) = owner.with(|owner| (owner.timer(), owner.is_slicing()))?;
    let done = poll_fn(|cx| match owner.with(|owner| owner.work.poll_join_next(cx)) {
        Some(done) => done,
        None => Poll::Ready(None),
    });
    Some(tokio::select! {
        awake = woken.recv() => awake.map(|()| Turn::Look)?,
        Some(done) = done => Turn::Done(done),
        () = tokio::task::yield_now(), if slicing => Turn::Slice,
        () = async { tokio::time::sleep(timer.unwrap_or_default()).await }, if timer.is_some() => Turn::Timer,
    })
}

/// Waits until what had arrived by now is handled.
///
/// A turn of the runtime looks at all sockets and lets their readers hand in what is there. Where the runtime has several
/// threads, a reader may be at work on another one meanwhile, which its sockets and itself tell.
async fn take_in(owner: &SharedOwner, arrivals: &Arrivals) {
    let until = Instant::now() + TAKE_IN;
    let (mut quiet, mut seen) = (0, None);
    while quiet < QUIET_TURNS {
        tokio::task::yield_now().await;
        let orders = owner.with(|owner| owner.from_clients);
        quiet = if orders == seen && arrivals.are_handled() { quiet + 1 } else { 0 };
        seen = orders;
        if Instant::now() > until {
            break;
        }
    }
}

impl Owner {
    /// With what the status monitor looks at.
    pub(super) fn new(setup: Setup) -> (Self, watch::Receiver<NsmState>) {
        let (nsm_state, state_seen) = watch::channel(setup.nsm_state);
        let archive = Archive {
            persist: setup.persist.clone(),
            instance: setup.instance,
            names: setup.names,
            mirrored: setup.embedding.mirror.is_some(),
            unwritten: Unwritten::default(),
        };
        let mut owner = Owner {
            clock: setup.clock,
            table: if setup.embedding.mirror.is_some() { setup.table.mirrored() } else { setup.table },
            persist: setup.persist,
            callbacks: setup.callbacks,
            moves: Moves::new(setup.called, setup.rpcbind_port),
            nsm_state,
            queue: Queue::default(),
            records: Records::default(),
            refusals: Refusals::default(),
            watches: Watches::new(setup.statd, setup.found.watches),
            embedded: Embedded::new(setup.embedding),
            runs: Runs::new(setup.found.ended),
            took_away: None,
            timeline: Timeline::default(),
            work: JoinSet::new(),
            from_clients: 0,
            offers: HashMap::new(),
            archive: Arc::new(archive),
            pulse: Heartbeat::default(),
        };
        let not_remembered = owner.remember(setup.found.monitors);
        owner.leave_all_unused(&not_remembered);
        if let Some(until) = setup.recovery_until {
            owner.table.start_recovery(until);
        }
        let _ = owner.apply_effects();
        (owner, state_seen)
    }

    /// The clients that the last life monitored, as far as there is room: one more must not push
    /// another one and its record out. Returns where those call from that there is none for; they are
    /// told of the restart, and their records stay on disk.
    fn remember(&mut self, monitors: Vec<MonitorRecord>) -> HashSet<IpAddr> {
        let (mut left_out, mut elsewhere) = (0_usize, HashSet::new());
        for record in monitors {
            let room = self.table.has_room_at(record.address);
            let Some(client) = room.then(|| self.table.add_client(record.address, &record.name).ok()).flatten() else {
                left_out += 1;
                elsewhere.insert(record.address);
                continue;
            };
            for address in &record.server_addresses {
                self.table.called(client, *address);
            }
            self.table.set_monitored(client, true);
            self.records.found(client, record);
        }
        if left_out > 0 {
            tracing::warn!(
                clients = left_out,
                "no room for clients of the previous instance, whose records stay; raise --max-clients and start again"
            );
        }
        elsewhere
    }

    /// Whether the owner's task has something to do or to wait for.
    pub(super) fn is_busy(&self) -> bool {
        let timeout = || self.table.next_timeout(self.runs.controller_attached());
        let has_timer = self.table.has_deadline() || self.records.next_due().is_some() || timeout().is_some();
        has_timer || !self.work.is_empty() || self.is_slicing()
    }

    fn is_slicing(&self) -> bool {
        self.runs.is_slicing()
            || self.table.has_more_to_sweep()
            || self.table.has_more_to_wake()
            || self.queue.has_begun()
    }

    /// Tells the table the time, and gives clients back that in which this process did not run. Comes before anything
    /// looks at the time.
    pub(super) fn beat(&mut self) {
        self.table.tell_time(self.clock.now());
        if !self.table.has_deadline() {
            return self.pulse.rest();
        }
        let Some(lag) = self.pulse.beat(Moment::now()) else { return };
        if lag.is_long() {
            tracing::warn!(
                "this process did not run for {:.1} s; clients get that time, and the time to repeat a call",
                lag.passed.as_secs_f64()
            );
        }
        self.table.lagged(self.clock.now(), lag.counted, lag.is_long());
        let _ = self.apply_effects();
    }

    /// How long until a timer of the table, a delayed record or a beat is due.
    fn timer(&self) -> Option<Duration> {
        let now = self.clock.now();
        let record = self.records.next_due().map(|at| at.saturating_sub(now));
        let beat = self.table.has_deadline().then_some(BEAT);
        record.into_iter().chain(self.table_timer(now)).chain(beat).min()
    }

    fn table_timer(&self, now: Duration) -> Option<Duration> {
        if !self.runs.takes_timers() {
            return None;
        }
        let due = self.table.next_timeout(self.runs.controller_attached())?;
        let earliest = self.runs.not_before.map_or(Duration::ZERO, |at| at.saturating_sub(now));
        Some(due.saturating_sub(now).max(earliest))
    }

    fn write_delayed_records(&mut self) {
        for record in self.records.due(self.clock.now()) {
            self.keep_evidence(record);
        }
    }

    fn is_due(&self) -> bool {
        self.table_timer(self.clock.now()).is_some_and(|wait| wait.is_zero())
    }

    /// A timer of the table may be due, or what came in has moved it.
    fn due(&mut self) {
        if !self.is_due() {
            return;
        }
        let now = self.clock.now();
        if self.table.grace() == Grace::Recovery && self.awaits_reclaims() {
            self.runs.not_before = Some(now + IDLE_TICK);
            return;
        }
        let due = self.table.on_timeout(now, self.runs.controller_attached());
        let _ = self.apply_effects();
        match due {
            Some(Due::RecoveryOver) => {}
            Some(Due::AbortRun) => self.abort_alone("no notice was sent before the deadline"),
            Some(Due::SettleRun) if !self.awaits_moves() && !self.awaits_reclaims() => self.settle_alone(),
            Some(Due::SettleRun) | None => self.runs.not_before = Some(now + IDLE_TICK),
        }
    }

    /// Where the run stands after what a controller told of it.
    pub(super) fn told(&mut self, outcome: Result<(), Refusal>) -> Result<Status, Refusal> {
        let _ = self.apply_effects();
        outcome.map(|()| self.status())
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Asked { place, admission } => self.asked(&place, admission),
            Done::Recorded { place, client, record, asked, outcome } => {
                self.recorded(&place, client, &record, &asked, outcome);
            }
            Done::Watched { asked, outcome } => self.watches.watched_beside(asked, outcome),
            Done::Left(address) => self.watches.left(address),
            Done::Offered { offer, outcome } => self.offered(offer, outcome),
            Done::Stepped { file, stepped: Stepped::Ended(answer) } => self.mirrored(&file, answer),
            Done::Stepped { file, stepped: Stepped::Slow(doing) } => self.mirror_slow(file, doing),
            Done::AskAgain(file) => {
                self.table.ask_again(&file);
                let _ = self.apply_effects();
            }
            Done::Moved(answer) => self.moved(&answer),
            Done::QuietOver(cap) => self.quiet_over(cap),
            Done::BeginDurable(outcome) => self.begin_durable(outcome),
            Done::Raised(outcome) => self.raised(outcome),
            Done::PagesDurable(outcome) => self.pages_durable(outcome),
            Done::ResultDurable(outcome) => self.result_durable(outcome),
            Done::TakenBack(outcome) => self.taken_back(outcome),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.table.status(self.clock.now(), self.archive.instance, self.nsm_state(), self.timeline.cursor())
    }

    /// One slice of waking, of a call that frees much, and of scanning or sweeping.
    fn slice(&mut self) {
        self.wake_more();
        let until = self.clock.now() + SLICE;
        let mut begun = self.queue.next_begun();
        if begun.is_none() && self.table.has_more_to_sweep() {
            self.sweep();
        }
        // Mostly they have to purge a file of what a run dropped, and do the sweep's work.
        while let Some(place) = begun {
            self.resume(&place, Some);
            begun = if self.clock.now() > until { None } else { self.queue.next_begun() };
        }
        match self.runs.phase {
            Phase::Entering(_) => self.enter_clients(),
            Phase::Scanning => self.scan(),
            Phase::Idle | Phase::Beginning(_) | Phase::Raising(_) | Phase::Active | Phase::Writing => {}
        }
    }
}
