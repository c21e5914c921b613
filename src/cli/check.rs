//! `nlmctl check`: what stands in the way of a run.

use std::path::PathBuf;

use super::Context;
use super::error::CliError;
use crate::check::{Places, check};
use crate::controller::Options;

pub(super) async fn run(context: &Context) -> Result<u8, CliError> {
    let manager = context.manager().await?;
    let places = Places {
        root: PathBuf::from("/"),
        record: context.settings.record_path()?,
        rpcbind_port: context.settings.rpcbind_port,
        names: context.settings.names.clone(),
        patience: Options::default().probe_timeout,
    };
    let report = check(&*manager, &places).await;
    context.print(&report)?;
    Ok(report.check.exit)
}
