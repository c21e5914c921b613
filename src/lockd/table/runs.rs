//! A run inside the daemon, until its end: state durable, begin, grace.

use std::sync::Arc;

use super::archive::not_durable;
use super::phase::{Beginning, Phase, Refusable, SLICE, remember};
use super::records::NotRecorded;
use super::state::{Done, Owner};
use crate::host::StatdDir;
use crate::lockd::persist::{Change, PersistError, RunRecord, durably};
use crate::lockd::statd::StateNumberError;
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    BeginArgs, Begun, Grace, ProgressArgs, Refusal, RefusalCode, RunArgs, RunClientPage, RunId, RunPageAfter, page,
};
use crate::wire::types::NsmState;
use crate::wire::xdr::List;

/// Clients entered between two looks at the clock.
const ENTER_STEP: usize = 64;

fn unknown(run: RunId) -> Refusal {
    Refusal::new(RefusalCode::UnknownRun, format!("no run {run} is active here; `nlmctl status` shows what is"))
}

fn stopped(run: RunId) -> Refusal {
    let words = format!("run {run} was aborted before it began; no lock was marked and no grace was on");
    Refusal::new(RefusalCode::WrongPhase, words)
}

impl Owner {
    pub(super) fn begin(&mut self, args: Box<BeginArgs>, connection: ConnectionId, answer: Refusable<Begun>) {
        if self.runs.ended.contains(&args.run) {
            let message = format!("run {} has ended already and no grace is on; plan again", args.run);
            let _ = answer.send(Err(Refusal::new(RefusalCode::WrongPhase, message)));
            return;
        }
        if let Some(begun) = self.runs.begun.iter().find(|begun| begun.run == args.run) {
            let _ = answer.send(Ok(begun.clone()));
            return;
        }
        if let Phase::Beginning(beginning) | Phase::Entering(beginning) = &mut self.runs.phase
            && beginning.args.run == args.run
        {
            beginning.answers.push(answer);
            return;
        }
        if let Err(refusal) = self.may_begin(&args) {
            let _ = answer.send(Err(refusal));
            return;
        }
        let beginning = Beginning {
            began_unix_ms: self.clock.unix_ms(),
            args,
            durable: None,
            connection: Some(connection),
            answers: vec![answer],
            aborts: Vec::new(),
        };
        let old_state = self.nsm_state();
        let record = RunRecord {
            run: beginning.args.run,
            mode: beginning.args.mode,
            old_state,
            new_state: old_state.next_up(),
            began_unix_ms: beginning.began_unix_ms,
            in_scope: 0,
            clients: Arc::default(),
        };
        self.runs.phase = Phase::Beginning(Box::new(beginning));
        self.moves.begin();
        let persist = self.persist.clone();
        let state_file = self.watches.state_file.clone();
        let durable = async move {
            // statd's file first: a number that only nlmd knows could be given out again by statd.
            let new_state = match state_file {
                Some(file) => raised_in(file, old_state).await?,
                None => record.new_state,
            };
            persist.write(Change::Begin(RunRecord { new_state, ..record })).await?;
            Ok(new_state)
        };
        self.work.spawn(async move { Done::BeginDurable(durable.await) });
    }

    /// A new state number without a run.
    pub(super) fn raise(&mut self, answer: Refusable<NsmState>) {
        if !matches!(self.runs.phase, Phase::Idle) || self.table.grace() != Grace::Open {
            let words = "a run or a grace period is on, and its notices carry their own number; try again after it";
            let _ = answer.send(Err(Refusal::new(RefusalCode::RunActive, words)));
            return;
        }
        let state = self.nsm_state().next_up();
        let submitted = self.persist.submit(Change::Raised(state));
        self.runs.phase = Phase::Raising(answer);
        self.work.spawn(async move { Done::Raised(durably(submitted).await.map(|()| state)) });
    }

    pub(super) fn raised(&mut self, durable: Result<NsmState, PersistError>) {
        let Phase::Raising(answer) = std::mem::replace(&mut self.runs.phase, Phase::Idle) else { return };
        if let Ok(state) = durable {
            self.nsm_state.send_replace(state);
            self.timeline.changed();
        }
        let _ = answer.send(durable.map_err(|error| not_durable(&error)));
    }

    fn may_begin(&self, args: &BeginArgs) -> Result<(), Refusal> {
        match self.runs.phase {
            Phase::Idle => {}
            Phase::Raising(_) => {
                return Err(Refusal::new(
                    RefusalCode::StalePlan,
                    "a new NSM state number is being written (SM_SIMU_CRASH); plan again",
                ));
            }
            Phase::Beginning(_) | Phase::Entering(_) | Phase::Active | Phase::Scanning | Phase::Writing => {
                return Err(Refusal::new(
                    RefusalCode::RunActive,
                    "another run is active; wait for its end, or abort it with `nlmctl abort`",
                ));
            }
        }
        if args.instance != self.archive.instance || args.nsm_state != self.nsm_state() {
            return Err(Refusal::new(
                RefusalCode::StalePlan,
                format!(
                    "the plan was made for instance {} with NSM state {}, this is instance {} with state {}; plan again",
                    args.instance,
                    args.nsm_state,
                    self.archive.instance,
                    self.nsm_state()
                ),
            ));
        }
        self.table.check_begin(args)
    }

    pub(super) fn begin_durable(&mut self, durable: Result<NsmState, NotRecorded>) {
        let Phase::Beginning(mut beginning) = std::mem::replace(&mut self.runs.phase, Phase::Idle) else { return };
        if self.table.has_more_to_sweep() {
            // To the mark it would look pending. `sweep` comes back here.
            beginning.durable = Some(durable);
            self.runs.phase = Phase::Beginning(beginning);
            return;
        }
        match self.mark(&mut beginning, durable) {
            Ok(()) => {
                self.runs.controller = beginning.connection;
                self.runs.failures = 0;
                self.runs.not_before = None;
                self.runs.phase = Phase::Entering(beginning);
                let _ = self.apply_effects();
            }
            Err(refusal) => {
                tracing::warn!(run = %beginning.args.run, %refusal, "a run was not begun");
                self.end_moves();
                let not_begun = Change::NotBegun(beginning.args.run);
                self.begun(*beginning, Err(refusal), not_begun);
            }
        }
    }

    fn mark(&mut self, beginning: &mut Beginning, durable: Result<NsmState, NotRecorded>) -> Result<(), Refusal> {
        let new_state = durable.map_err(|error| {
            let words = format!("the new NSM state is not on disk, nothing was begun: {error}");
            Refusal::new(RefusalCode::NotDurable, words)
        })?;
        let old_state = self.nsm_state.send_replace(new_state);
        let (now, unix_ms, args) = (self.clock.now(), beginning.began_unix_ms, &mut beginning.args);
        self.runs.began = (now, unix_ms);
        if !beginning.aborts.is_empty() {
            return Err(stopped(args.run));
        }
        self.table.mark(now, unix_ms, args, old_state, new_state)
    }

    /// A slice of entering the run's clients. It has begun for its controller when all are entered.
    pub(super) fn enter_clients(&mut self) {
        let until = self.clock.now() + SLICE;
        let begun = loop {
            match self.table.enter_clients(ENTER_STEP) {
                Some(begun) => break begun,
                None if self.clock.now() > until => return,
                None => {}
            }
        };
        let Phase::Entering(mut beginning) = std::mem::replace(&mut self.runs.phase, Phase::Active) else { return };
        let aborts = std::mem::take(&mut beginning.aborts);
        let begun = Begun { names: List::clipped(self.archive.names.borrow().clone()), ..begun };
        remember(&mut self.runs.begun, begun.clone());
        // What a restart needs to write this run's result.
        let clients = self.table.run_clients();
        let marked = Change::Marked { run: begun.run, in_scope: begun.in_scope, clients };
        let args = RunArgs { run: begun.run };
        self.begun(*beginning, Ok(begun), marked);
        for answer in aborts {
            self.abort(args, answer);
        }
    }

    /// The run has begun, or it will not. Those who wait for it are answered when that is on disk.
    fn begun(&mut self, beginning: Beginning, outcome: Result<Begun, Refusal>, follow_up: Change) {
        let _ = self.apply_effects();
        self.timeline.changed();
        let (submitted, run) = (self.persist.submit(follow_up), beginning.args.run);
        let Beginning { answers, aborts, .. } = beginning;
        if !aborts.is_empty() {
            remember(&mut self.runs.ended, run);
        }
        self.work.spawn(async move {
            if let Err(error) = durably(submitted).await {
                tracing::warn!(%run, %error, "what the run marked is not on disk");
            }
            for answer in answers {
                let _ = answer.send(outcome.clone());
            }
            for abort in aborts {
                let _ = abort.send(Err(stopped(run)));
            }
            Done::Nothing
        });
    }

    pub(super) fn active_run(&self) -> Option<RunId> {
        self.table.run_status(self.clock.now()).map(|run| run.run)
    }

    /// The run that a controller speaks of: it has been told that it has begun.
    pub(super) fn expect_run(&self, run: RunId) -> Result<(), Refusal> {
        match self.runs.phase {
            _ if self.active_run() != Some(run) => Err(unknown(run)),
            Phase::Entering(_) => {
                let words =
                    format!("run {run} is beginning: not all of its clients are entered; try again in a moment");
                Err(Refusal::new(RefusalCode::WrongPhase, words))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn run_clients(&mut self, args: RunPageAfter) -> Result<RunClientPage, Refusal> {
        self.expect_run(args.run)?;
        let (clients, next) = page(&self.table.run_clients(), args.after);
        Ok(RunClientPage { clients, next })
    }

    pub(super) fn progress(&mut self, args: &ProgressArgs, connection: ConnectionId) -> Result<(), Refusal> {
        self.expect_run(args.run)?;
        self.table.progress(self.clock.now(), args)?;
        self.runs.controller = Some(connection);
        Ok(())
    }
}

/// A new number in statd's file.
async fn raised_in(file: StatdDir, last: NsmState) -> Result<NsmState, NotRecorded> {
    match tokio::task::spawn_blocking(move || file.raise_state(last)).await {
        Ok(raised) => Ok(raised.map_err(StateNumberError)?),
        Err(_) => Err(PersistError::Closed.into()),
    }
}
