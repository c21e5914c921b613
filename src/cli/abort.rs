//! `nlmctl abort`: ends the active run; its pending locks are held again and nothing is lost.

use serde::Serialize;

use super::Context;
use super::error::CliError;
use crate::controller;
use crate::report::{SCHEMA, Text};
use crate::wire::control::RefusalCode;

/// What there was to abort.
#[derive(Debug, Serialize)]
struct AbortReport {
    schema: u32,
    /// The run that was aborted; none if none was active.
    aborted: Option<String>,
    /// Locks that were pending and are held again.
    held_again: u64,
}

impl Text for AbortReport {
    fn text(&self) -> String {
        match &self.aborted {
            None => "There is no run to abort.\n".into(),
            Some(run) => format!("Run {run} is aborted: {} pending locks are held again.\n", self.held_again),
        }
    }
}

pub(super) async fn run(context: &Context) -> Result<u8, CliError> {
    let manager = context.manager()?;
    let mut report = AbortReport { schema: SCHEMA, aborted: None, held_again: 0 };
    if let Some(active) = manager.status().await?.run.0 {
        match manager.abort(active.run).await {
            Ok(result) => {
                report.aborted = Some(active.run.to_string());
                report.held_again = result.counts.kept;
            }
            // It ended between the two calls: nothing is left to abort.
            Err(error) if matches!(error.refused(), Some(RefusalCode::UnknownRun | RefusalCode::WrongPhase)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The run may be another record's, or another controller's that fetches the result itself.
    match context.with_store(Ok).await {
        Ok(store) => {
            if let Err(error) = controller::catch_up(&*manager, store).await {
                context.say(&format!("the record was not brought up to date: {error}"));
            }
        }
        Err(error) => context.say(&format!("the record was not brought up to date: {error}")),
    }
    context.print(&report)?;
    Ok(0)
}
