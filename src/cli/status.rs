//! `nlmctl status`: how the lock manager says it is.

use super::context::Context;
use super::locks::owners_report;
use crate::manager::Owners;
use crate::report::{Failure, StatusReport};

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
    context.print(&report)?;
    Ok(0)
}
