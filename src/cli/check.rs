//! `nlmctl check`: what stands in the way of a run.

use std::path::PathBuf;

use super::context::Context;
use super::discovery::For;
use crate::check::{Places, check};
use crate::controller::Options;
use crate::report::{Failure, FailureKind};

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    // What else stands in the way is worth knowing where no lock manager is found.
    let manager = match context.manager_for(For::Check).await {
        Err(failure) if failure.kind != FailureKind::Unreachable => return Err(failure),
        found => found,
    };
    let places = Places {
        root: PathBuf::from("/"),
        control: context.settings.control.clone(),
        record: context.usable_record().await,
        rpcbind_port: context.settings.rpcbind_port,
        names: context.settings.names.clone(),
        patience: Options::default().probe_timeout,
    };
    let report = check(manager.as_deref(), &places).await;
    context.print_done(&report, report.check.exit)?;
    Ok(report.check.exit)
}
