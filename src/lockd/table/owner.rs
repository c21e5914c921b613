//! The task itself: its start, and its loop.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::archive::Archive;
use super::handle::{ORDERS, Order, Table};
use super::incoming::Clock;
use super::outside::{Embedded, Stepped};
use super::phase::{Phase, Runs};
use super::queue::Queue;
use super::records::Records;
use super::refusals::Refusals;
use super::state::{Done, Owner};
use super::watches::{StatdSetup, Watches};
use crate::lockd::callbacks::Callbacks;
use crate::lockd::embed::Embedding;
use crate::lockd::persist::{Found, MonitorRecord, Persist};
use crate::locks::{Due, LockTable, Totals};
use crate::rpc::control::Timeline;
use crate::wire::control::{InstanceId, Refusal, Status};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::Maybe;

/// A timer that is due but asks for nothing is looked at again after this.
const IDLE_TICK: Duration = Duration::from_millis(10);

/// What the owner starts with.
#[derive(Debug)]
pub struct Setup {
    /// The process' clock.
    pub clock: Clock,
    /// The lock table, empty.
    pub table: LockTable,
    /// The disk.
    pub persist: Persist,
    /// GRANTED calls.
    pub callbacks: Callbacks,
    /// This life.
    pub instance: InstanceId,
    /// The names under which clients know this server.
    pub names: Vec<CallerName>,
    /// The NSM state number, durable.
    pub nsm_state: NsmState,
    /// What the start found on disk.
    pub found: Found,
    /// This host's statd, where it is the status monitor.
    pub statd: Option<StatdSetup>,
    /// Recovery grace until then; none where nobody has anything to reclaim.
    pub recovery_until: Option<Duration>,
    /// The say of the file server that embeds all this.
    pub embedding: Embedding,
}

/// Starts the owner. It ends when every [`Table`] is dropped.
pub fn spawn(setup: Setup) -> (Table, JoinHandle<()>) {
    let (orders, inbox) = mpsc::channel(ORDERS);
    let archive = Arc::new(Archive {
        persist: setup.persist.clone(),
        instance: setup.instance,
        names: setup.names.clone(),
        mirrored: setup.embedding.mirror.is_some(),
        last_read: Mutex::default(),
    });
    let (owner, cursor, nsm_state) = Owner::new(setup);
    (Table { orders, cursor, nsm_state, archive }, tokio::spawn(owner.run(inbox)))
}

impl Owner {
    /// With what watchers and the status monitor look at.
    pub(super) fn new(setup: Setup) -> (Self, watch::Receiver<u64>, watch::Receiver<NsmState>) {
        let timeline = Timeline::default();
        let cursor = timeline.subscribe();
        let (nsm_state, state_seen) = watch::channel(setup.nsm_state);
        let mut owner = Owner {
            clock: setup.clock,
            table: if setup.embedding.mirror.is_some() { setup.table.mirrored() } else { setup.table },
            persist: setup.persist,
            callbacks: setup.callbacks,
            instance: setup.instance,
            names: setup.names,
            nsm_state,
            queue: Queue::default(),
            records: Records::default(),
            refusals: Refusals::default(),
            watches: Watches::new(setup.statd, setup.found.watches),
            embedded: Embedded::new(setup.embedding),
            runs: Runs::new(setup.found.ended),
            timeline,
            work: JoinSet::new(),
            offers: HashMap::new(),
        };
        let not_remembered = owner.remember(setup.found.monitors);
        owner.leave_all_unused(&not_remembered);
        if let Some(until) = setup.recovery_until {
            owner.table.start_recovery(until);
        }
        let _ = owner.apply_effects();
        (owner, cursor, state_seen)
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
                "no room for clients of the last life, whose records stay; raise --max-clients and start again"
            );
        }
        elsewhere
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        loop {
            let timer = self.timer();
            let slicing = self.runs.is_slicing() || self.table.has_more_to_wake() || self.queue.has_begun();
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => order(&mut self),
                    None => break,
                },
                Some(done) = self.work.join_next(), if !self.work.is_empty() => match done {
                    Ok(done) => self.done(done),
                    // A withdrawn offer.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => tracing::error!(%error, "work beside the lock table failed"),
                },
                () = tokio::task::yield_now(), if slicing => self.slice(),
                () = async { tokio::time::sleep(timer.unwrap_or_default()).await }, if timer.is_some() => self.due(),
            }
        }
        tracing::debug!("the lock table is closed");
    }

    /// How long until a timer of the table, or a delayed record, is due.
    fn timer(&self) -> Option<Duration> {
        let now = self.clock.now();
        let record = self.records.next_due().map(|at| at.saturating_sub(now));
        let of_table = self.table_timer(now);
        record.into_iter().chain(of_table).min()
    }

    fn table_timer(&self, now: Duration) -> Option<Duration> {
        if !self.runs.takes_timers() {
            return None;
        }
        let due = self.table.next_timeout(self.runs.controller_attached())?;
        let earliest = self.runs.not_before.map_or(Duration::ZERO, |at| at.saturating_sub(now));
        Some(due.saturating_sub(now).max(earliest))
    }

    fn due(&mut self) {
        let now = self.clock.now();
        for record in self.records.due(now) {
            self.keep_evidence(record);
        }
        if self.table_timer(now).is_none_or(|wait| !wait.is_zero()) {
            return;
        }
        let due = self.table.on_timeout(now, self.runs.controller_attached());
        let _ = self.apply_effects();
        match due {
            Some(Due::RecoveryOver) => {}
            Some(Due::AbortRun) => self.abort_alone("no notice was sent before the deadline"),
            Some(Due::SettleRun) => self.settle_alone(),
            None => self.runs.not_before = Some(now + IDLE_TICK),
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
            Done::QuietOver(cap) => self.quiet_over(cap),
            Done::BeginDurable(outcome) => self.begin_durable(outcome),
            Done::Raised(outcome) => self.raised(outcome),
            Done::ResultDurable(outcome) => self.result_durable(outcome),
        }
    }

    pub(super) fn status(&self) -> Status {
        let now = self.clock.now();
        let Totals { clients, monitored, locks, unmonitored, waiters } = self.table.totals();
        let run = self.table.run_status(now);
        let remaining = self.table.grace_remaining(now);
        Status {
            instance: self.instance,
            nsm_state: self.nsm_state(),
            grace: self.table.grace(),
            grace_remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
            clients,
            monitored,
            locks,
            unmonitored,
            waiters,
            run: Maybe(run),
            cursor: self.timeline.cursor(),
        }
    }

    /// One slice of waking, of a call that frees much, and of scanning or sweeping.
    fn slice(&mut self) {
        self.wake_more();
        if let Some(place) = self.queue.next_begun() {
            self.resume(&place, Some);
        }
        match self.runs.phase {
            Phase::Scanning => self.scan(),
            Phase::Sweeping => self.sweep(),
            Phase::Idle | Phase::Beginning(_) | Phase::Raising(_) | Phase::Active | Phase::Writing => {}
        }
    }
}
