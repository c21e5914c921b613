//! `nlmctl status`: how the lock manager says it is.

use super::Context;
use super::error::CliError;
use crate::report::StatusReport;

pub(super) async fn run(context: &Context) -> Result<u8, CliError> {
    let manager = context.manager().await?;
    let info = manager.info().await?;
    let status = manager.status().await?;
    context.print(&StatusReport::new(manager.kind(), &info, &status))?;
    Ok(0)
}
