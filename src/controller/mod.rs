//! Drives a run: carries out the decisions of [`resync`](crate::resync) with manager, clients and record.
//!
//! Theory. One controller works with a record at a time
//! ([`ControllerLock`](crate::store::ControllerLock)). Everything that a run may have touched is
//! in the record before it is touched, so that this process may die at any moment: the next
//! command finds the run and completes its record truthfully, or [`resume`] continues it.
//!
//! | file | what |
//! |---|---|
//! | `drive` | a run driven to its end; start reading here |
//! | `calls` | the tasks that talk to the manager |
//! | `course` | what is learned in the course of a run, for the record |
//! | `results` | results into the record; runs that no controller finished |
//! | `options` | how a controller works, for every command |
//! | `record` | the store, from async tasks |
//! | `all_rows` | `--record all` |
//! | `statds` | what the clients' statds say now |
//! | `targets` | clients as targets of notices and probes |
//! | `hosts` | this host's own mounts |
//! | `reconcile` | finds suspects, and gives each a run of its own |
//! | `release` | frees chosen locks |

mod all_rows;
mod calls;
mod course;
mod drive;
mod error;
mod hosts;
mod options;
pub mod reconcile;
mod record;
pub mod release;
mod results;
mod statds;
mod targets;

#[cfg(test)]
mod tests;

pub use error::ControllerError;
pub(crate) use hosts::{mounts_of, own_mounts_let_tell};
pub use options::{Options, Signals};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::drive::{Drive, Ended, Orders};
use self::record::Record;
use self::statds::Probes;
use crate::manager::{Caution, LockManager, ManagerError, Weight};
use crate::nsm::Target;
use crate::report::{Controller, Failure, Outcome, Phase, Progress, RunHead, RunReport};
use crate::resync::consent::Consent;
use crate::resync::plan::{self, Draft, Observation, Plan, Request, refuse_busy};
use crate::resync::run::{Ending, Run, Terms};
use crate::store::{ControllerLock, NewRun, Store, StoreError, StoredRun};
use crate::wire::control::{BeginArgs, Capabilities, ClientRow, RunId, Scope};
use crate::wire::types::{CallerName, ms};
use crate::wire::xdr::List;

/// Where a reclaim that comes after grace is lost, grace ends early only after so long without one.
const QUIET_WITHOUT_LATE_RECLAIMS: Duration = Duration::from_secs(5);

/// Whoever looks who works with the record shares its lock for an instant. That must not keep a run from beginning.
const A_LOOK: Duration = Duration::from_millis(10);
const LOOKS: usize = 20;

/// What a run would do. Touches nothing: asks the manager, and every client's statd.
///
/// # Errors
/// The manager does not answer, or the run is not allowed or makes no sense.
pub async fn plan(manager: &dyn LockManager, request: &Request, options: &Options) -> Result<Plan, ControllerError> {
    let scope = plan::scope(request, &manager.info().await?)?;
    plan_of(manager, request, scope, options).await
}

/// Likewise, of this scope. `request` has it in words.
async fn plan_of(
    manager: &dyn LockManager,
    request: &Request,
    scope: Scope,
    options: &Options,
) -> Result<Plan, ControllerError> {
    let info = manager.info().await?;
    let status = manager.status().await?;
    let clients = manager.clients().await?;
    let locks = if scope.files.as_slice().is_empty() { None } else { Some(manager.all_locks(&scope).await?) };
    let mounts = if request.own_locks_lost { Vec::new() } else { hosts::local_mounts()? };
    let seen =
        Observation { info: &info, status: &status, clients: &clients, locks: locks.as_deref(), mounts: &mounts };
    let cautions = manager.cautions().await?;
    refuse_hindered(&cautions)?;
    let texts =
        |wanted: &dyn Fn(&Caution) -> bool| cautions.iter().filter(|c| wanted(c)).map(|c| c.text.clone()).collect();
    let draft = Draft::new(request, scope, seen)?.cautioned(
        texts(&|caution| caution.weight == Weight::Say && caution.is_felt()),
        texts(&|caution| caution.weight == Weight::Say && !caution.is_felt()),
        cautions.iter().filter(|c| c.weight == Weight::Consent).map(|c| (c.about, c.text.clone())).collect(),
    );
    let targets = (0..).zip(draft.clients()).map(|(id, client)| targets::to_probe(id, client)).collect();
    let names: Vec<_> = draft.clients().iter().map(|client| &client.name).collect();
    let probes = statds::ask(targets, &names, draft.names().first().cloned(), options).await?;
    Ok(draft.finish(&probes))
}

/// Whether nothing of these is in the way.
///
/// # Errors
/// The first thing that is.
fn refuse_hindered(cautions: &[Caution]) -> Result<(), Failure> {
    match cautions.iter().find(|caution| caution.weight == Weight::Refuse) {
        Some(stop) => Err(Failure::refused(stop.text.clone(), stop.remedy.clone())),
        None => Ok(()),
    }
}

/// What each of these clients' statds says now, in their order; all are asked at once.
///
/// # Errors
/// There are no sockets, or no name to ask with.
pub async fn probe_clients(
    manager: &dyn LockManager,
    clients: &[ClientRow],
    name: Option<CallerName>,
    options: &Options,
) -> Result<Vec<plan::Probed>, ControllerError> {
    let my_name = match name {
        Some(name) => Some(name),
        None => manager.info().await?.names.as_slice().first().cloned(),
    };
    let names: Vec<_> = clients.iter().map(|row| &row.name).collect();
    statds::ask(Target::asked(clients), &names, my_name, options).await
}

/// Fetches the results of earlier runs into the record, and completes the record of a run that no
/// controller finished, unless it is still active. Every command with a record does this first.
/// Where another controller is at work with the record, that one does it.
///
/// # Errors
/// The manager does not answer, or the record cannot be written.
pub async fn catch_up(manager: &dyn LockManager, store: Store) -> Result<Store, ControllerError> {
    let Ok(_lock) = store.begin_controller() else { return Ok(store) };
    let record = Record::new(store);
    results::catch_up(manager, &record).await?;
    record.into_store()
}

/// Likewise, for a command that no active run allows.
///
/// # Errors
/// Also while a run or another grace period is active: who works with the record of that run is named.
pub async fn catch_up_idle(manager: &dyn LockManager, store: Store) -> Result<Store, ControllerError> {
    let record = Record::new(catch_up(manager, store).await?);
    refuse_active(manager, &record, None).await?;
    record.into_store()
}

/// `lock`: the caller's right to be the controller of this record, if it has it; then no other nlmctl has.
async fn refuse_active(
    manager: &dyn LockManager,
    record: &Record,
    lock: Option<&ControllerLock>,
) -> Result<(), ControllerError> {
    let (status, can) = (manager.status().await?, manager.info().await?.capabilities);
    let controller = match status.run.0.as_ref().map(|active| active.run) {
        Some(run) => record.with(move |store| store.controller_of(run)).await?,
        None => None,
    };
    let other = controller.map(|found| if lock.is_some() { Controller::GONE } else { found });
    Ok(refuse_busy(&status, &can, other)?)
}

/// Carries the plan out and reports what came of it. Waits for the end of the run, or for a signal:
/// the first one aborts as long as no notice has left; after that the run is left as it is, and
/// [`resume`] goes on with it.
///
/// # Errors
/// The reason why the run could not begin; after that only a record that cannot be written.
pub async fn resync(
    manager: Arc<dyn LockManager>,
    store: Store,
    plan: Plan,
    consent: Consent,
    options: Options,
    progress: watch::Sender<Progress>,
    signals: Signals,
) -> Result<RunReport, ControllerError> {
    let (record, lock) = take_over(store).await?;
    carry_out(manager, (&record, &lock), plan, consent, options, progress, signals).await
}

/// Likewise, by the controller of this record.
async fn carry_out(
    manager: Arc<dyn LockManager>,
    (record, _): (&Record, &ControllerLock),
    plan: Plan,
    consent: Consent,
    options: Options,
    progress: watch::Sender<Progress>,
    signals: Signals,
) -> Result<RunReport, ControllerError> {
    if let Some(refusal) = plan.refusal.clone() {
        return Err(refusal.into());
    }
    if !consent.covers(&plan.fingerprint) {
        return Err(Failure::refused(
            "the plan has changed since it was agreed to",
            "look at the plan again (--dry-run) and agree to it as it is now",
        )
        .into());
    }
    results::catch_up(&*manager, record).await?;
    let begin = begin_args(&plan);
    let (run, endpoint, instance) = (begin.run, manager.endpoint(), begin.instance);
    if let Some(left) = record.with(move |store| store.unfinished(&endpoint, instance)).await? {
        return Err(Failure::refused(
            format!("run {} of this record is still active", left.id),
            "resume it: `nlmctl resync --resume`",
        )
        .into());
    }
    let capabilities = manager.info().await?.capabilities;
    let new = NewRun {
        manager: manager.kind().to_owned(),
        endpoint: manager.endpoint(),
        knows_owners: capabilities.knows_owners,
        locks_listed: capabilities.sees_locks(),
        fingerprint: plan.fingerprint.clone(),
        scope: plan.asked.clone(),
        names: plan.names.clone(),
        begin: begin.clone(),
    };
    let (terms, record_all) = (terms(capabilities, plan.grace, &options), options.record_all);
    record.with(move |store| store.create_run(&new)).await?;
    let orders = Orders {
        begin,
        begun: false,
        names: plan.names,
        probes: Arc::new(Probes::of(&plan.clients)),
        known: HashMap::new(),
        own_locks_lost: plan.own_locks_lost,
        options,
    };
    let include = plan.policy.include_unmonitored;
    let before = if record_all { Some(all_rows::list(&*manager, &plan.scope, include).await?) } else { None };
    let (machine, first) = Run::begin(terms);
    let drive = Drive::new(Arc::clone(&manager), record.clone(), orders, machine, progress, signals);
    let report = conclude(record, run, drive.run(first).await?).await?;
    if let Some(before) = before.filter(|_| report.run.outcome == Some(Outcome::Settled)) {
        // The run is over and in the record, also without these rows.
        if let Err(error) = all_rows::add(&*manager, record, run, &plan.scope, before).await {
            tracing::warn!(%run, %error, "the record has no rows for reclaimed and released locks");
        }
    }
    Ok(report)
}

/// Goes on with the run that the record knows as unfinished; if it ended meanwhile, completes its
/// record. Of the request only the consent to lose this host's own locks counts: all else is the
/// run's. Clients that have not acked are told again, under the run's own names and with its own
/// state number.
///
/// # Errors
/// There is no such run, other names are asked for, the manager does not answer, or the record
/// cannot be written.
pub async fn resume(
    manager: Arc<dyn LockManager>,
    store: Store,
    request: &Request,
    options: Options,
    progress: watch::Sender<Progress>,
    signals: Signals,
) -> Result<RunReport, ControllerError> {
    let (record, _lock) = take_over(store).await?;
    let status = manager.status().await?;
    let (endpoint, instance) = (manager.endpoint(), status.instance);
    let (left, newest) = record
        .with(move |store| Ok((store.unfinished(&endpoint, instance)?, store.newest(&endpoint, instance)?)))
        .await?;
    let Some(left) = left else { return Err(nothing_to_resume(&manager.endpoint(), newest).into()) };
    let info = manager.info().await?;
    if !results::is_active(left.id, &status) {
        results::catch_up(&*manager, &record).await?;
        return record.with(move |store| store.report(left.id)).await;
    }
    let stored = record.with(move |store| store.clients(left.id)).await?;
    hosts::refuse_own_mounts(request.own_locks_lost, stored.iter().map(|stored| &stored.client))?;
    let terms = terms(info.capabilities, Duration::from_millis(left.begin.grace_ms), &options);
    let names = names_of(&left, &request.names, info.names.as_slice())?;
    let orders = Orders {
        begun: left.phase >= Phase::Begun,
        begin: left.begin,
        names,
        probes: Arc::default(),
        known: stored.into_iter().map(|stored| (stored.client.index, stored.notices)).collect(),
        own_locks_lost: request.own_locks_lost,
        options,
    };
    let (machine, first) = Run::resume(terms, left.phase);
    let drive = Drive::new(manager, record.clone(), orders, machine, progress, signals);
    conclude(&record, left.id, drive.run(first).await?).await
}

fn nothing_to_resume(endpoint: &str, newest: Option<RunHead>) -> Failure {
    let Some(RunHead { id, outcome, exit, .. }) = newest else {
        return Failure::refused(
            format!("there is no run to resume: this record has no run at {endpoint}"),
            "name the record of the run with --db; leave out --resume for a new run",
        );
    };
    let how = outcome.map_or_else(String::new, |outcome| format!(" ({outcome})"));
    let exit = exit.map_or_else(String::new, |exit| format!(", with exit status {exit}"));
    Failure::refused(
        format!("there is no run to resume: the newest run at {endpoint}, {id}, has ended{how}{exit}"),
        format!("`nlmctl runs show {id}` has its result; leave out --resume for a new run"),
    )
}

/// The names of the run's notices. Under others the clients that are told now would ack, and not match: they would look
/// silent, and lose their locks. A run that a version without names in the record left goes by what is `asked`, or `usual`.
fn names_of(left: &StoredRun, asked: &[CallerName], usual: &[CallerName]) -> Result<Vec<CallerName>, Failure> {
    match (left.names.as_slice(), asked) {
        ([], []) => Ok(usual.to_vec()),
        ([], asked) => Ok(asked.to_vec()),
        (own, asked) if asked.is_empty() || own == asked => Ok(own.to_vec()),
        (own, asked) => {
            let joined = |names: &[CallerName], between: &str| {
                names.iter().map(CallerName::as_str).collect::<Vec<_>>().join(between)
            };
            Err(Failure::usage(
                format!(
                    "run {} notifies its clients under the name {}, and they do not know {}",
                    left.id,
                    joined(own, ", "),
                    joined(asked, ", ")
                ),
                format!(
                    "give its own, whatever the config file or NLMCTL_NAME says: `--name {}`",
                    joined(own, " --name ")
                ),
            ))
        }
    }
}

async fn take_over(store: Store) -> Result<(Record, ControllerLock), ControllerError> {
    let mut looks = 0..LOOKS;
    let lock = loop {
        match store.begin_controller() {
            Err(StoreError::ControllerActive { .. }) if looks.next().is_some() => tokio::time::sleep(A_LOOK).await,
            taken => break taken?,
        }
    };
    let record = Record::new(store);
    record.with(Store::prune).await?;
    Ok((record, lock))
}

fn terms(can: Capabilities, grace: Duration, options: &Options) -> Terms {
    let at_least = if can.late_reclaims { Duration::ZERO } else { QUIET_WITHOUT_LATE_RECLAIMS };
    Terms {
        quiet_time: options.quiet_time.max(at_least),
        grace,
        settle_early: can.settle_early,
        begin_releases: can.begin_releases,
    }
}

fn begin_args(plan: &Plan) -> BeginArgs {
    BeginArgs {
        run: RunId(uuid::Uuid::new_v4().into_bytes()),
        instance: plan.instance,
        nsm_state: plan.nsm_state,
        scope: plan.scope.clone(),
        mode: plan.mode,
        policy: plan.policy,
        may_drop: List::clipped(plan.may_drop.clone()),
        grace_ms: ms(plan.grace),
        grace_max_ms: ms(plan.grace_max),
    }
}

/// The report of a run that is not driven any more, or why it must not go on.
async fn conclude(record: &Record, run: RunId, mut driven: Ended) -> Result<RunReport, ControllerError> {
    let forbidden = driven.forbidden.take();
    let report = close(record, run, driven).await.map_err(|error| match error {
        ControllerError::Store(_) => error.left(run),
        other => other,
    })?;
    let Some(why) = forbidden else { return Ok(report) };
    let line = why.message.clone();
    record.with(move |store| store.event(run, "refused", &line)).await?;
    Err(Failure::refused(
        format!("{why}; run {run} has clients that the plan did not know, and was left before they were notified"),
        why.remedy,
    )
    .into())
}

/// What the record is to say of a run that is not driven any more, and the report of it.
async fn close(record: &Record, run: RunId, driven: Ended) -> Result<RunReport, ControllerError> {
    let counts = driven.counts;
    match driven.ending {
        Ending::Recorded => {}
        Ending::Refused(refusal) => {
            let outcome = results::end_without_result(Outcome::Failed, refusal.to_string(), None);
            record.with(move |store| store.record_result(run, &outcome)).await?;
            return Err(ManagerError::Refused(refusal).into());
        }
        Ending::Interrupted(why) => {
            let line = why.clone();
            record.with(move |store| store.event(run, Outcome::Interrupted.as_str(), &line)).await?;
            let mut report = record.with(move |store| store.report(run)).await?;
            report.run.outcome = Some(Outcome::Interrupted);
            report.run.reason = Some(why);
            // The record knows of each client what the begin told, and these sums are newer.
            if counts.is_some() {
                report.clients.iter_mut().for_each(|client| client.locks = None);
            }
            let locks = counts.map_or(report.locks, Into::into);
            return Ok(RunReport::new(report.run, report.state, locks, report.clients, false));
        }
        Ending::Superseded(why) => {
            let outcome = results::end_without_result(Outcome::Superseded, why, counts);
            record.with(move |store| store.record_result(run, &outcome)).await?;
        }
    }
    record.with(move |store| store.report(run)).await
}
