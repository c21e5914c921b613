//! `nlmctl status`: how the lock manager says it is.

use super::context::{Context, blocking};
use super::locks::owners_report;
use crate::manager::Owners;
use crate::report::{Controller, Failure, StatusReport};
use crate::store::Store;
use crate::wire::control::RunId;

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let manager = context.manager().await?;
    let info = manager.info().await?;
    let status = manager.status().await?;
    let owners = manager.owners().await?;
    let unmonitored = match &owners {
        Owners::View(view) => Some(view.clients.iter().map(|client| client.unmonitored).sum()),
        Owners::Rows | Owners::Unknown { .. } => None,
    };
    let mut report = StatusReport::new(manager.kind(), &info, &status, owners_report(&owners), unmonitored);
    if let Owners::View(view) = &owners {
        report.manager.unsure = Some(view.locks.iter().filter(|lock| lock.unsure.is_some()).count() as u64);
    }
    if let (Some(shown), Some(active)) = (&mut report.run, &status.run.0) {
        shown.controller = controller_of(context, active.run).await;
    }
    context.print(&report)?;
    Ok(0)
}

/// As far as the record tells, if there is one of this version that may be read. Nothing in it is changed.
async fn controller_of(context: &Context, run: RunId) -> Option<Controller> {
    let path = context.settings.record_path().ok()?;
    let found =
        blocking(move || Ok(Store::open_to_look(&path)?.map(|store| store.controller_of(run)).transpose()?.flatten()));
    found.await.ok()?
}
