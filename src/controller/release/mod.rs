//! Frees chosen locks: finds their owners, asks whether those clients answer, and makes the one call that frees them.
//!
//! Theory. A release takes locks from a client without telling it. A client that still runs continues as if
//! it held them, so each one's statd (SM_STAT) and lockd (NULL) is asked first, and the answers are
//! shown as such: no answer does not prove that a client is dead. If anything answers, or nothing
//! could be asked, `--live` is needed besides consent. The lock manager gets a copy of the locks that
//! were seen, and refuses if they have changed; so a client that has just taken one is spared.
//! The request is in the record before it is made, and its result afterwards.
//!
//! | file | what | |
//! |---|---|---|
//! | `choice` | what is chosen | pure |
//! | `plan` | who waits for it, what needs consent | pure |
//! | `owned` | which locks of a view with paths are wanted | pure |
//! | `lockd` | whether clients' lockds answer | tokio |

mod choice;
mod lockd;
mod owned;
mod plan;

pub use choice::{OwnerChoice, ReleaseRequest};
pub use plan::ReleasePlan;

use std::collections::HashMap;
use std::sync::Arc;

use self::choice::{Chosen, HostProbe, ReleaseObservation};
use self::lockd::probe_lockds;
use self::owned::Owned;
use super::record::Record;
use super::{ControllerError, Options, refuse_hindered, statds};
use crate::host;
use crate::manager::{LockManager, ManagerError, Owners, Weight};
use crate::nsm::Target;
use crate::report::{Failure, ReleaseOutcome, ReleaseReport, Stamp};
use crate::resync::consent::Consent;
use crate::resync::plan::{self as run_plan, names, refuse_ambiguous, refuse_busy};
use crate::store::{NewRelease, Store};
use crate::wire::control::{ClientRef, ClientRow, LockRow, LockState, MAX_REFS, RefusalCode, Scope};
use crate::wire::types::FileHandle;
use crate::wire::xdr::List;

/// What would be freed. Touches nothing: asks the manager, and the statds and lockds of the clients
/// whose locks are chosen.
///
/// # Errors
/// The manager does not answer, nothing is chosen, or it is not allowed now.
pub async fn plan(
    manager: &dyn LockManager,
    request: &ReleaseRequest,
    options: &Options,
) -> Result<ReleasePlan, ControllerError> {
    let info = manager.info().await?;
    if !info.capabilities.release {
        return Err(Failure::usage(
            format!("{} cannot free single clients' locks", info.software.as_str()),
            "use `nlmctl resync`: locks that clients do not reclaim are dropped or kept as the policy says",
        )
        .into());
    }
    refuse_busy(&manager.status().await?, &info.capabilities, None)?;
    let cautions = manager.release_cautions().await?;
    refuse_hindered(&cautions)?;
    let owned = if request.is_of_whole_clients() { None } else { owned(manager, request).await? };
    let scope = match &owned {
        // It has looked for files and exports itself: paths are known here.
        Some(_) => run_plan::scope(&request.as_run_of_clients(), &info)?,
        None => run_plan::scope(&request.as_run(), &info)?,
    };
    let mut clients = match &owned {
        Some(owned) => owned.clients.clone(),
        None => manager.clients().await?,
    };
    if owned.is_none() && !info.capabilities.knows_owners {
        clients.extend(listed(manager, &scope, &clients).await?);
    }
    refuse_ambiguous(&scope, &request.clients, &clients)?;
    let mut unknown = run_plan::unknown(&scope, &request.clients, &clients);
    if !request.if_held
        && let Some(first) = unknown.next()
    {
        return Err(first.into());
    }
    let unknown = unknown.map(|unknown| format!("{}; {}", unknown.message, unknown.remedy)).collect();
    let rows = match &owned {
        Some(owned) => Ok(owned.rows.clone()),
        None if info.capabilities.knows_owners => Ok(manager.all_locks(&scope).await?),
        None => Err(format!("{} does not tell who owns locks", info.software.as_str())),
    };
    let chosen = Chosen::new(request, &scope, &ReleaseObservation { info: &info, clients: &clients, rows })?;
    let (waiting, paths) = match owned {
        Some(owned) => (owned.waiting, owned.paths),
        None => (waiting(manager, chosen.files()).await?, HashMap::new()),
    };
    let probes = probe(chosen.clients(), &info.names, options).await?;
    let agreed_to = cautions.into_iter().filter(|c| c.weight == Weight::Consent).map(|c| c.text).collect();
    let plan = chosen.finish(manager.kind(), &waiting, paths, &probes, options.probe_timeout);
    Ok(plan.cautioned(agreed_to).without(unknown))
}

/// Clients that are wanted and not known, but have locks by the manager's view of owners: lockd's of which rpc.statd has no
/// record. The manager will say that it could not free them; without them it would look as if they held nothing.
async fn listed(manager: &dyn LockManager, scope: &Scope, known: &[ClientRow]) -> Result<Vec<ClientRow>, ManagerError> {
    let is_unknown = |wanted: &&ClientRef| !known.iter().any(|row| names(wanted, row));
    let unknown: Vec<&ClientRef> = scope.clients.as_slice().iter().filter(is_unknown).collect();
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let Owners::View(view) = manager.owners().await? else { return Ok(Vec::new()) };
    let is_wanted = |row: &ClientRow| row.locks + row.waiters > 0 && unknown.iter().any(|wanted| names(wanted, row));
    Ok(view.clients.into_iter().filter(is_wanted).collect())
}

/// What is wanted, where the manager tells owners and paths by a view of its own.
async fn owned(manager: &dyn LockManager, request: &ReleaseRequest) -> Result<Option<Owned>, ControllerError> {
    match manager.owners().await? {
        Owners::Rows => Ok(None),
        Owners::View(view) => Ok(Some(Owned::of(request, view))),
        Owners::Unknown { why, remedy } => {
            let whole = "name clients (--client), without --export, --file, --owner and --range";
            let remedy = if remedy.is_empty() { whole.to_owned() } else { format!("{remedy}; or {whole}") };
            Err(Failure::usage(format!("only whole clients can be released: {why}"), remedy).into())
        }
    }
}

/// Every blocked request on these files.
async fn waiting(manager: &dyn LockManager, files: Vec<FileHandle>) -> Result<Vec<LockRow>, ManagerError> {
    if files.is_empty() || manager.status().await?.waiters == 0 {
        return Ok(Vec::new());
    }
    let mut waiting = Vec::new();
    for some in files.chunks(MAX_REFS) {
        let scope = Scope { clients: List::default(), files: List::clipped(some.to_vec()) };
        let locks = manager.all_locks(&scope).await?;
        waiting.extend(locks.into_iter().filter(|row| row.state == LockState::Waiting));
    }
    Ok(waiting)
}

/// What the clients' statds and lockds say now, in their order.
async fn probe(
    clients: &[ClientRow],
    names: &List<crate::wire::types::CallerName, 16>,
    options: &Options,
) -> Result<Vec<HostProbe>, ControllerError> {
    let targets = Target::asked(clients);
    let hosts = targets.iter().map(|target| target.host.clone()).collect();
    let callers: Vec<_> = clients.iter().map(|row| &row.name).collect();
    let (statds, lockds) = tokio::join!(
        statds::ask(targets, &callers, names.as_slice().first().cloned(), options),
        probe_lockds(hosts, options.rpcbind_port, options.probe_timeout)
    );
    Ok(statds?.into_iter().zip(lockds).map(|(statd, lockd)| HostProbe { statd, lockd }).collect())
}

/// Frees what the plan names, and reports what came of it.
///
/// # Errors
/// The record cannot be written, in which case nothing was asked; or what the manager said.
pub async fn carry_out(
    manager: Arc<dyn LockManager>,
    store: Store,
    plan: ReleasePlan,
    consent: Consent,
) -> Result<ReleaseReport, ControllerError> {
    plan.is_agreed_to(&consent)?;
    let plan = plan.asked_by(host::user());
    let record = Record::new(store);
    let id = uuid::Uuid::new_v4().to_string();
    let new = NewRelease {
        id: id.clone(),
        manager: manager.kind().to_owned(),
        endpoint: manager.endpoint(),
        instance: plan.args().instance,
        report: plan.report(),
    };
    record.with(Store::prune).await?;
    let at = record.with(move |store| store.create_release(&new)).await?;
    let answer = manager.release(plan.args()).await;
    let (report, failed) = match answer {
        Ok(released) => (plan.ended(&id, Stamp(at), &released), None),
        Err(error) => {
            let outcome = match &error {
                ManagerError::Refused(_) | ManagerError::Unreachable { .. } => ReleaseOutcome::Refused,
                ManagerError::Lost { .. } | ManagerError::Protocol { .. } => ReleaseOutcome::Unverified,
            };
            (plan.failed(&id, Stamp(at), outcome), Some(error))
        }
    };
    let kept = report.clone();
    let recorded = record.with(move |store| store.end_release(&kept)).await;
    match failed {
        Some(ManagerError::Refused(refusal)) if refusal.code == RefusalCode::StalePlan => Err(Failure::refused(
            format!("{refusal}; nothing was released"),
            "look again (`nlmctl release --dry-run`): a client that takes or unlocks locks is alive",
        )
        .into()),
        Some(error) => Err(error.into()),
        None => {
            // It is done, also if the record cannot say so.
            if let Err(error) = recorded {
                tracing::warn!(%error, release = %id, "the result of this release is not in the record");
            }
            Ok(report)
        }
    }
}
