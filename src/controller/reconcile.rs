//! A round of `nlmctl reconcile`: looks at every client that holds locks, and gives each suspect a run of its own.
//!
//! Theory. What to do is decided in [`resync::reconcile`](crate::resync::reconcile); here it is asked and done. One
//! controller has the record for the whole round, so no two rounds and no other run of this record come between. A
//! run of a suspect is an ordinary run, with a plan made for it just before; no user is asked, so a plan that wants
//! consent ends the round. What the round knows of a client is durable before its run begins; a run that told nobody
//! leaves no trace there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::record::Record;
use super::{ControllerError, Options, Signals, carry_out, plan_of, probe_clients, refuse_active, results, take_over};
use crate::host::unix_ms;
use crate::manager::{LockManager, ManagerError};
use crate::report::{
    Failure, FailureKind, Outcome, Progress, Reconcile, ReconcileReport, Refusal, RunReport, Stamp, Suspect,
    SuspectRun, SuspectStep,
};
use crate::resync::plan::{Plan, Probed, Request, refuse_busy};
use crate::resync::reconcile::{Look, Memory, RoundStep, at_stake, look, refuse_too_many, refuse_unable};
use crate::store::{ClientKey, ControllerLock, Store};
use crate::units::count;
use crate::wire::control::{ClientRef, ClientRow, Mode, Scope};
use crate::wire::types::CallerName;
use crate::wire::xdr::{List, Maybe};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RoundTerms {
    /// How long a suspect may reclaim.
    pub grace: Duration,
    /// No run is made where the suspects that are due hold more locks than this.
    pub max_drop: u64,
    /// The names that notices carry; if empty, those the manager gives.
    pub names: Vec<CallerName>,
}

/// A client of the round.
struct ProbedClient {
    row: ClientRow,
    key: ClientKey,
    look: Look,
    has_reclaimed: bool,
    run: Option<SuspectRun>,
}

/// A round, all of it.
struct Round {
    manager: Arc<dyn LockManager>,
    terms: RoundTerms,
    options: Options,
    names: Vec<CallerName>,
    software: String,
    seen: Vec<ProbedClient>,
}

/// Looks, and changes nothing: neither locks nor what is remembered.
///
/// # Errors
/// The manager cannot do such runs, is busy or does not answer; or the record cannot be read.
pub async fn dry_run(
    manager: Arc<dyn LockManager>,
    store: Option<Store>,
    terms: RoundTerms,
    options: Options,
) -> Result<ReconcileReport, ControllerError> {
    let record = store.map(Record::new);
    let round = Round::look(manager, record.as_ref(), terms, options).await?;
    let stopped = round.refuse_too_many().err();
    Ok(round.report(true, stopped))
}

/// Looks, and gives each suspect that is due its run. The first signal ends the round: before the notice of a run by
/// aborting it, after it by leaving it, as in [`resync`](super::resync).
///
/// # Errors
/// As of [`dry_run`], before anything was done, or another controller has the record. What stops a round later is in
/// the report.
pub async fn reconcile(
    manager: Arc<dyn LockManager>,
    store: Store,
    terms: RoundTerms,
    options: Options,
    mut signals: Signals,
) -> Result<ReconcileReport, ControllerError> {
    let (record, lock) = take_over(store).await?;
    results::catch_up(&*manager, &record).await?;
    refuse_active(&*manager, &record, Some(&lock)).await?;
    let mut round = Round::look(manager, Some(&record), terms, options).await?;
    round.remember(&record).await?;
    let stopped = match round.refuse_too_many() {
        Ok(()) => round.run_those_due((&record, &lock), &mut signals).await.err().map(Failure::from),
        Err(refusal) => Some(refusal),
    };
    Ok(round.report(false, stopped))
}

impl Round {
    async fn look(
        manager: Arc<dyn LockManager>,
        record: Option<&Record>,
        terms: RoundTerms,
        options: Options,
    ) -> Result<Self, ControllerError> {
        let info = manager.info().await?;
        refuse_unable(info.software.as_str(), &info.capabilities)?;
        refuse_busy(&manager.status().await?, &info.capabilities, None)?;
        let mut rows = manager.clients().await?;
        rows.retain(|row| at_stake(row) > 0 && !row.addresses.as_slice().is_empty());
        let names = if terms.names.is_empty() { info.names.into_vec() } else { terms.names.clone() };
        let said = if rows.is_empty() {
            Vec::new()
        } else {
            probe_clients(&*manager, &rows, names.first().cloned(), &options).await?
        };
        let endpoint = manager.endpoint();
        let known = match record {
            Some(record) => record.with(move |store| store.memories(&endpoint)).await?,
            None => HashMap::new(),
        };
        let software = info.software.as_str().to_owned();
        let mut round = Self { manager, terms, options, names, software, seen: Vec::new() };
        for (row, said) in rows.into_iter().zip(said) {
            round.add(record, &known, row, said).await?;
        }
        Ok(round)
    }

    async fn add(
        &mut self,
        record: Option<&Record>,
        known: &HashMap<ClientKey, Memory>,
        row: ClientRow,
        said: Probed,
    ) -> Result<(), ControllerError> {
        let Some(address) = row.addresses.as_slice().first().copied() else { return Ok(()) };
        let key = (row.name.as_str().to_owned(), address);
        let look = look(&row, said, known.get(&key).unwrap_or(&Memory::default()), unix_ms());
        let has_reclaimed = match record {
            Some(record) if !look.reasons.is_empty() => {
                let (endpoint, key, names) = (self.manager.endpoint(), key.clone(), self.names.clone());
                record.with(move |store| store.has_understood(&endpoint, &key, &names)).await?
            }
            Some(_) | None => false,
        };
        self.seen.push(ProbedClient { row, key, look, has_reclaimed, run: None });
        Ok(())
    }

    /// What this round saw is what the next one knows. Clients that hold nothing any more are forgotten.
    async fn remember(&self, record: &Record) -> Result<(), ControllerError> {
        let endpoint = self.manager.endpoint();
        let seen: HashMap<ClientKey, Memory> =
            self.seen.iter().map(|seen| (seen.key.clone(), seen.look.memory.clone())).collect();
        let remember = move |store: &mut Store| {
            let before = store.memories(&endpoint)?;
            let gone = before.keys().filter(|key| !seen.contains_key(*key)).map(|key| (key.clone(), Memory::default()));
            let changed = seen.iter().filter(|(key, memory)| before.get(*key).unwrap_or(&Memory::default()) != *memory);
            let changed = changed.map(|(key, memory)| (key.clone(), memory.clone()));
            let changes: Vec<_> = gone.chain(changed).collect();
            // A quiet round writes nothing.
            if changes.is_empty() { Ok(()) } else { store.remember(&endpoint, &changes) }
        };
        record.with(remember).await
    }

    fn due(&self) -> impl Iterator<Item = (usize, &ProbedClient)> {
        self.seen.iter().enumerate().filter(|(_, seen)| seen.look.step == RoundStep::Run)
    }

    fn at_stake(&self) -> u64 {
        self.due().map(|(_, seen)| at_stake(&seen.row)).sum()
    }

    fn refuse_too_many(&self) -> Result<(), Failure> {
        let suspects: Vec<_> = self.due().map(|(_, seen)| &seen.row).collect();
        refuse_too_many(&suspects, self.at_stake(), self.terms.max_drop)
    }

    async fn run_those_due(
        &mut self,
        controller: (&Record, &ControllerLock),
        signals: &mut Signals,
    ) -> Result<(), ControllerError> {
        let due: Vec<usize> = self.due().map(|(place, _)| place).collect();
        for (nth, &place) in due.iter().enumerate() {
            let stopped = match self.run(controller, place, signals).await {
                Err(error) => {
                    let failure = Failure::from(error);
                    // Its last lock may have gone, and with it the client, since it was looked at: then nobody is to be asked.
                    if failure.kind != FailureKind::Usage || self.row_now(place).await?.is_some() {
                        return Err(failure.into());
                    }
                    None
                }
                Ok(stopped) => stopped,
            };
            let Some(why) = stopped else { continue };
            let rest = due.iter().skip(nth).filter_map(|place| self.seen.get(*place));
            let left = rest.filter(|seen| seen.run.is_none()).count() as u64;
            return match left {
                0 => Ok(()),
                left => Err(Failure::failed(
                    format!("the round ended early ({why}): no run was made for {}", count(left, "suspect")),
                    "the next round looks at them",
                )
                .into()),
            };
        }
        Ok(())
    }

    /// Gives a suspect its run, if its statd says the same as before; why the round does not go on, if so.
    async fn run(
        &mut self,
        controller: (&Record, &ControllerLock),
        place: usize,
        signals: &mut Signals,
    ) -> Result<Option<String>, ControllerError> {
        if let Ok(name) = signals.try_recv() {
            return Ok(Some(name.to_owned()));
        }
        let Some(seen) = self.seen.get(place) else { return Ok(None) };
        let (row, name) = (std::slice::from_ref(&seen.row), self.names.first().cloned());
        let said = probe_clients(&*self.manager, row, name, &self.options).await?;
        if !said.into_iter().all(|said| seen.look.is_still(said)) {
            return Ok(None);
        }
        let plan = self.plan(seen).await?;
        let consent = plan.agree(false, &mut ())?;
        let before = seen.look.memory.clone();
        self.remember_of(controller.0, place, |look| look.begun(unix_ms())).await?;

        let (sender, passed_on) = mpsc::channel(1);
        let (progress, _) = watch::channel(Progress::START);
        let running =
            carry_out(Arc::clone(&self.manager), controller, plan, consent, self.options.clone(), progress, passed_on);
        let mut running = std::pin::pin!(running);
        let mut stopped = None;
        let report = loop {
            tokio::select! {
                report = &mut running => break report,
                Some(name) = signals.recv() => {
                    stopped = Some(name.to_owned());
                    // One that finds no room follows another.
                    let _ = sender.try_send(name);
                }
            }
        };
        if told_nobody(&report) {
            let remembered = self.remember_of(controller.0, place, |look| look.memory = before).await;
            // Why the run failed says more.
            if report.is_ok() {
                remembered?;
            }
        }
        let report = report?;
        if report.run.outcome != Some(Outcome::Settled) && stopped.is_none() {
            stopped = Some("a run did not settle".to_owned());
        }
        // The run is over, and in the record, also if the lock manager does not answer now.
        let after = self.row_now(place).await.unwrap_or_default();
        let Some(seen) = self.seen.get_mut(place) else { return Ok(stopped) };
        let (outcome, locks) = (report.run.outcome, report.locks);
        seen.run = Some(run_of(report));
        self.remember_of(controller.0, place, |look| look.ended(outcome, &locks, after.as_ref(), unix_ms())).await?;
        Ok(stopped)
    }

    /// What the lock manager says of the client now; none if it knows it no longer.
    async fn row_now(&self, place: usize) -> Result<Option<ClientRow>, ManagerError> {
        let Some(seen) = self.seen.get(place) else { return Ok(None) };
        let is_it = |row: &ClientRow| row.name == seen.row.name && row.addresses.as_slice().contains(&seen.key.1);
        Ok(self.manager.clients().await?.into_iter().find(is_it))
    }

    async fn plan(&self, seen: &ProbedClient) -> Result<Plan, ControllerError> {
        let address = seen.key.1;
        let request = Request {
            clients: vec![address.to_string()],
            grace: self.terms.grace,
            mode: Some(Mode::Targeted),
            silent: seen.look.silent(seen.has_reclaimed),
            names: self.names.clone(),
            ..Request::default()
        };
        // That client and no other one, also where several share a name or an address.
        let client = ClientRef { name: Maybe(Some(seen.row.name.clone())), address: Maybe(Some(address)) };
        let scope = Scope { clients: List::clipped(vec![client]), files: List::default() };
        let plan = plan_of(&*self.manager, &request, scope, &self.options).await?;
        match plan.consent.first() {
            None => Ok(plan),
            Some(wanted) => {
                let why = format!("a run of {} needs consent, and reconcile does not ask: {wanted}", seen.row.name);
                Err(Failure::refused(why, format!("run it by hand: `nlmctl resync --client {address}`")).into())
            }
        }
    }

    /// Changes what is known of a client. Durable when this returns.
    async fn remember_of(
        &mut self,
        record: &Record,
        place: usize,
        change: impl FnOnce(&mut Look),
    ) -> Result<(), ControllerError> {
        let Some(seen) = self.seen.get_mut(place) else { return Ok(()) };
        change(&mut seen.look);
        let (endpoint, remembered) = (self.manager.endpoint(), [(seen.key.clone(), seen.look.memory.clone())]);
        record.with(move |store| store.remember(&endpoint, &remembered)).await
    }

    fn report(self, dry_run: bool, stopped: Option<Failure>) -> ReconcileReport {
        let stopped_with = stopped.as_ref().map(|failure| failure.kind.exit());
        let is_unreachable = |seen: &&ProbedClient| seen.look.step == RoundStep::Unreachable;
        let round = Reconcile {
            manager: self.software.clone(),
            dry_run,
            exit: 0,
            clients: self.seen.len() as u64,
            unreachable: self.seen.iter().filter(is_unreachable).count() as u64,
            at_stake: self.at_stake(),
            max_drop: self.terms.max_drop,
            stopped: stopped.map(Refusal::from),
            suspects: self.seen.into_iter().filter_map(suspect).collect(),
        };
        round.report(stopped_with)
    }
}

/// Whether the run was refused, or aborted before its notice: then it has examined nothing.
fn told_nobody(ran: &Result<RunReport, ControllerError>) -> bool {
    match ran {
        Ok(report) => {
            report.run.outcome == Some(Outcome::Aborted) && report.clients.iter().all(|client| client.attempts == 0)
        }
        Err(error) => {
            matches!(error, ControllerError::Operator(_) | ControllerError::Manager(ManagerError::Refused(_)))
        }
    }
}

fn suspect(seen: ProbedClient) -> Option<Suspect> {
    let step = match seen.look.step {
        RoundStep::Nothing | RoundStep::Unreachable => return None,
        RoundStep::LookAgain => SuspectStep::LookAgain,
        RoundStep::WaitUntil(_) => SuspectStep::Wait,
        RoundStep::Run => SuspectStep::Run,
    };
    let memory = &seen.look.memory;
    Some(Suspect {
        name: seen.row.name.to_string(),
        address: Some(seen.key.1),
        locks: at_stake(&seen.row),
        reasons: seen.look.reasons.clone(),
        step,
        next_run_at: (memory.not_before_ms > 0).then_some(Stamp(memory.not_before_ms)),
        kept_if_silent: seen.look.why_kept(seen.has_reclaimed).map(str::to_owned),
        run: seen.run,
    })
}

fn run_of(report: RunReport) -> SuspectRun {
    let client = report.clients.into_iter().next();
    SuspectRun {
        id: report.run.id,
        outcome: report.run.outcome,
        exit: report.run.exit,
        reason: report.run.reason,
        fate: client.as_ref().map(|client| client.fate),
        locks: report.locks,
        paths: client.map(|client| client.paths).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fake;
    use super::*;
    use crate::wire::types::NsmState;

    #[tokio::test]
    async fn a_signal_before_a_run_that_is_due_ends_the_round_and_says_so() {
        let books = tempfile::tempdir().unwrap();
        let (record, lock) = take_over(Store::open(&books.path().join("runs.db")).unwrap()).await.unwrap();
        let terms = RoundTerms { grace: Duration::from_secs(1), max_drop: 9, names: Vec::new() };
        let mut round = Round::look(Fake::new(0), Some(&record), terms, Options::default()).await.unwrap();
        for n in 1..=2 {
            let row = ClientRow::sample(&format!("host{n}"), &format!("192.0.2.{n}"));
            let before = Memory { differed: NsmState(9), rounds: 1, ..Memory::default() };
            let look = look(&row, Probed::Answers(Some(NsmState(9))), &before, 0);
            let key = (row.name.to_string(), row.addresses.as_slice()[0]);
            round.seen.push(ProbedClient { row, key, look, has_reclaimed: false, run: None });
        }
        let (sender, mut signals) = mpsc::channel(1);
        sender.send("SIGTERM").await.unwrap();
        let stopped = Failure::from(round.run_those_due((&record, &lock), &mut signals).await.unwrap_err());
        assert!(stopped.message.contains("SIGTERM") && stopped.message.contains("2 suspects"), "{stopped}");
        let report = round.report(false, Some(stopped)).reconcile;
        assert_eq!((report.exit, report.suspects.len(), report.stopped.is_some()), (1, 2, true));
    }
}
