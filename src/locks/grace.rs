//! The times when reclaims are granted and ordinary requests are refused: the recovery grace after a start, and the
//! grace of a run from its begin to its abort. [`settle`](super::settle) has the end of a run.

use std::collections::HashSet;
use std::time::Duration;

use super::api::{Due, Totals};
use super::covers::Covers;
use super::result::SlicedResult;
use super::run::Run;
use super::segment::{FileId, Segment};
use super::spellings::MAX_LOOKED_AT;
use super::table::LockTable;
use crate::resync::policy;
use crate::wire::control::{
    BeginArgs, Begun, ClientRef, ExtendArgs, Grace, InstanceId, Mode, ProgressArgs, Refusal, RefusalCode, RunId,
    RunStatus, Status,
};
use crate::wire::types::{ByteRange, NsmState, ms};
use crate::wire::xdr::Maybe;

/// Longest grace a run may ask for.
const MAX_GRACE_MS: u64 = 24 * 60 * 60 * 1000;
/// How long past its deadline an attached controller's settle is awaited. Before it the controller tells the last
/// deliveries and writes to its record, which takes a second where the host is busy.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(2);
/// How much a recovery grace is lengthened at most, beyond the time in which no client could reclaim.
const RECOVERY_SPARE: Duration = Duration::from_mins(3);
/// After a short lag, what had come in by then is to be read before a deadline passes.
const READ_FIRST: Duration = Duration::from_millis(100);

impl LockTable {
    /// Ordinary server recovery: reclaims only, until `until`.
    pub fn start_recovery(&mut self, until: Duration) {
        self.recovery_until = Some(until);
        self.recovery_spare = RECOVERY_SPARE;
    }

    /// The process did not run until `now`; `counted` of that time went by on the clock of `now`. It does not count
    /// against clients: deadlines move. After a `long` lag, in which calls were lost, a client also gets the time to
    /// repeat one.
    ///
    /// A run still ends at its latest deadline; what is pending then is kept.
    pub fn lagged(&mut self, now: Duration, counted: Duration, long: bool) {
        let wait = if long { policy::RETRANSMISSION } else { READ_FIRST };
        if let Some(run) = &mut self.run {
            run.lagged(now, counted, wait);
        }
        if let Some(until) = self.recovery_until {
            let moved = until.saturating_add(counted);
            let more = (now + wait).saturating_sub(moved).min(self.recovery_spare);
            self.recovery_spare -= more;
            self.recovery_until = Some(moved + more);
        }
        self.changed = true;
    }

    /// Whether time decides about clients: a run or a recovery is on.
    pub fn has_deadline(&self) -> bool {
        self.run.is_some() || self.recovery_until.is_some()
    }

    /// Whether clients of the run still have to be waited for, since the process did not run for a while.
    pub fn owes_time(&self, now: Duration) -> bool {
        self.run.as_ref().is_some_and(|run| run.owes_time(now))
    }

    /// What ordinary requests meet.
    pub fn grace(&self) -> Grace {
        match &self.run {
            Some(_) if self.is_settling() => Grace::Settling,
            Some(run) if run.mode == Mode::Strict => Grace::Strict,
            Some(_) => Grace::Targeted,
            None if self.recovery_until.is_some() => Grace::Recovery,
            None => Grace::Open,
        }
    }

    /// Whether all ordinary requests are refused. A strict run refuses them until
    /// its one instant, also while it settles.
    pub fn refuses_ordinary(&self) -> bool {
        self.run.as_ref().map_or(self.recovery_until.is_some(), |run| run.mode == Mode::Strict)
    }

    /// Whether a result is being written.
    pub(super) fn is_settling(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.settling.is_some())
    }

    /// Whether a result is being written that has to do with one of these segments. Among very many one counts as there.
    pub(super) fn is_frozen(&self, file: FileId, range: ByteRange, accept: impl Fn(&Segment) -> bool) -> bool {
        let mut segments = self.segments().overlapping(file, range).enumerate();
        let is_pending = |s: &Segment| accept(s) && self.is_pending(file, s);
        self.is_settling() && segments.any(|(number, s)| number >= MAX_LOOKED_AT || is_pending(s))
    }

    /// Whether clients may have been told to reclaim; without a run they may have been at any time.
    pub fn may_have_told(&self) -> bool {
        self.run.as_ref().is_none_or(|run| run.notices_begun)
    }

    /// When the active run is over, as activity has moved that.
    pub fn deadline(&self) -> Option<Duration> {
        self.run.as_ref().map(Run::deadline)
    }

    fn grace_end(&self) -> Option<Duration> {
        self.deadline().or(self.recovery_until)
    }

    /// Milliseconds until the grace ends by itself; 0 when open.
    pub fn grace_remaining(&self, now: Duration) -> Duration {
        self.grace_end().map_or(Duration::ZERO, |end| end.saturating_sub(now))
    }

    /// By how much the grace is over its time and goes on all the same.
    pub fn overdue(&self, now: Duration) -> Duration {
        now.saturating_sub(self.grace_end().unwrap_or(now))
    }

    /// Whether [`begin`](Self::begin) would be refused. Ask before the new state is made durable.
    pub fn check_begin(&self, args: &BeginArgs) -> Result<(), Refusal> {
        if let Some(run) = &self.run {
            return Err(Refusal::new(RefusalCode::RunActive, format!("run {} is active", run.id)));
        }
        if self.recovery_until.is_some() {
            return Err(Refusal::new(
                RefusalCode::GraceActive,
                "the lock manager has restarted a moment ago and its recovery grace is not over",
            ));
        }
        let bad = |why: String| Err(Refusal::new(RefusalCode::BadRequest, why));
        if args.grace_ms == 0 || args.grace_max_ms < args.grace_ms || args.grace_max_ms > MAX_GRACE_MS {
            return bad(format!(
                "grace of {} ms up to {} ms: it must be 1 ms to 24 h, and the second not below the first",
                args.grace_ms, args.grace_max_ms
            ));
        }
        if args.mode == Mode::Strict && !args.scope.is_everything() {
            return bad("strict grace refuses the locks of all clients, so its scope must be everything".to_owned());
        }
        for client in args.scope.clients.as_slice() {
            if self.clients.meant(client).is_empty() {
                return bad(format!("no client matches {}", describe(client)));
            }
        }
        Ok(())
    }

    /// [`mark`](Self::mark), with all clients [entered](Self::enter_clients) at once.
    pub fn begin(
        &mut self,
        now: Duration,
        unix_ms: u64,
        args: &BeginArgs,
        old_state: NsmState,
        new_state: NsmState,
    ) -> Result<Begun, Refusal> {
        self.mark(now, unix_ms, &mut args.clone(), old_state, new_state)?;
        let gone = || Refusal::new(RefusalCode::UnknownRun, "the run is gone");
        self.enter_clients(usize::MAX).ok_or_else(gone)
    }

    /// Mark and grace in one step: from here on every lock in scope is pending. The clients are then to be
    /// [entered](Self::enter_clients). Takes the list of those that may be dropped out of `args`.
    pub fn mark(
        &mut self,
        now: Duration,
        unix_ms: u64,
        args: &mut BeginArgs,
        old_state: NsmState,
        new_state: NsmState,
    ) -> Result<(), Refusal> {
        self.check_begin(args)?;
        // What the last run left to sweep would look pending to this one.
        while !self.settle_sweep(usize::MAX) {}
        self.late.close();
        self.epoch += 1;
        self.marked = self.epoch;
        let (clients, files) = (args.scope.clients.as_slice(), args.scope.files.as_slice());
        let covers = Covers {
            epoch: self.epoch,
            include_unmonitored: args.policy.include_unmonitored,
            clients: (!clients.is_empty()).then(|| self.meant(clients)),
            files: (!files.is_empty()).then(|| self.named_files(files)),
            spared: HashSet::new(),
        };
        let mut run = Run::new(now, unix_ms, args, covers, (old_state, new_state), self.next_mark);
        self.take_scope(&mut run, std::mem::take(&mut args.may_drop).into_vec());
        self.run = Some(run);
        Ok(())
    }

    fn active(&mut self, id: RunId) -> Result<&mut Run, Refusal> {
        match self.run.as_mut().filter(|run| run.id == id) {
            Some(run) if run.settling.is_none() => Ok(run),
            Some(_) => Err(Refusal::new(RefusalCode::WrongPhase, "the run is settling: its result is being written")),
            None => Err(Refusal::new(RefusalCode::UnknownRun, format!("run {id} is not active"))),
        }
    }

    /// What the controller has seen of the clients.
    pub fn progress(&mut self, now: Duration, args: &ProgressArgs) -> Result<(), Refusal> {
        let run = self.active(args.run)?;
        run.notices_begun |= args.notices_begun;
        let unknown = args.clients.as_slice().iter().filter(|seen| !run.progress(now, seen)).count();
        self.changed = true;
        if unknown > 0 {
            return Err(Refusal::new(RefusalCode::BadRequest, format!("{unknown} clients are not the run's")));
        }
        Ok(())
    }

    /// Moves the deadline: never earlier, never past the latest one.
    pub fn extend(&mut self, now: Duration, args: &ExtendArgs) -> Result<(), Refusal> {
        let run = self.active(args.run)?;
        run.extend(now.saturating_add(Duration::from_millis(args.remaining_ms)));
        self.changed = true;
        Ok(())
    }

    /// The active run; none without one.
    pub fn run_status(&self, now: Duration) -> Option<RunStatus> {
        self.run.as_ref().map(|run| run.status(now))
    }

    /// Where it stands, for its manager in this life and with this NSM state.
    pub fn status(&self, now: Duration, instance: InstanceId, nsm_state: NsmState, cursor: u64) -> Status {
        let Totals { clients, monitored, locks, unmonitored, waiters } = self.totals();
        Status {
            instance,
            nsm_state,
            grace: self.grace(),
            grace_remaining_ms: ms(self.grace_remaining(now)),
            clients,
            monitored,
            locks,
            unmonitored,
            waiters,
            run: Maybe(self.run_status(now)),
            cursor,
        }
    }

    /// When the active run ends by itself. An attached controller's settle is awaited a moment longer.
    fn run_end(&self, controller_attached: bool) -> Option<Duration> {
        let run = self.run.as_ref().filter(|_| !self.is_settling())?;
        Some(run.deadline() + if controller_attached { CONTROLLER_PATIENCE } else { Duration::ZERO })
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn next_timeout(&self, controller_attached: bool) -> Option<Duration> {
        let ends = [self.run_end(controller_attached), self.recovery_until, self.late.until()];
        ends.into_iter().chain([self.long_waits.next_due().map(|(at, _)| at)]).flatten().min()
    }

    /// What is due. Call it again until it gives none.
    pub fn on_timeout(&mut self, now: Duration, controller_attached: bool) -> Option<Due> {
        self.look_at_long_waits(now);
        if self.late.until().is_some_and(|until| until <= now) {
            self.late.close();
        }
        if self.recovery_until.is_some_and(|until| until <= now) {
            self.recovery_until = None;
            self.announce("recovery", "the recovery grace is over".to_owned());
            return Some(Due::RecoveryOver);
        }
        self.run_end(controller_attached).filter(|end| *end <= now)?;
        Some(if self.run.as_ref()?.notices_begun { Due::SettleRun } else { Due::AbortRun })
    }

    /// Every pending lock is held again and grace ends. Refused while settling.
    pub fn abort(&mut self, unix_ms: u64, reason: &str) -> Result<SlicedResult, Refusal> {
        let none = || Refusal::new(RefusalCode::UnknownRun, "no run is active");
        let id = self.run.as_ref().map(|run| run.id).ok_or_else(none)?;
        self.enter_all();
        self.active(id)?;
        let run = self.end_run().ok_or_else(none)?;
        self.announce("abort", format!("run {id} was aborted: {reason}"));
        Ok(SlicedResult::aborted(run, unix_ms, reason))
    }

    /// Takes the run away; what it had marked is held again, unless it is void. Late reclaims are taken
    /// from now on.
    pub(super) fn end_run(&mut self) -> Option<Run> {
        let mut run = self.run.take()?;
        self.next_mark = run.next_mark;
        self.late.open(&mut run);
        Some(run)
    }
}

fn describe(reference: &ClientRef) -> String {
    match (&reference.name.0, &reference.address.0) {
        (Some(name), Some(address)) => format!("{name} at {address}"),
        (Some(name), None) => name.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "a reference without name and address".to_owned(),
    }
}
