//! `nlmctl status`: how the lock manager says it is.

use super::context::Context;
use crate::report::{Failure, StatusReport};

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let manager = context.manager().await?;
    let info = manager.info().await?;
    let status = manager.status().await?;
    context.print(&StatusReport::new(manager.kind(), &info, &status))?;
    Ok(0)
}
