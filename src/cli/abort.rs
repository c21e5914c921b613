//! `nlmctl abort`: ends the active run; its pending locks are held again and nothing is lost.

use serde::Serialize;

use super::context::Context;
use crate::controller;
use crate::manager::ManagerError;
use crate::report::{Failure, Render, SCHEMA, View};
use crate::units::number;
use crate::wire::control::{RefusalCode, RunId, RunResult};

/// What there was to abort.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AbortReport {
    schema: u32,
    /// The run that was aborted; none if none was active, or it was too late.
    aborted: Option<String>,
    /// The run that is settling already, or has ended: what it decided cannot be taken back.
    too_late: Option<String>,
    /// Locks that were pending and are held again.
    held_again: u64,
}

impl AbortReport {
    const NOTHING: Self = Self { schema: SCHEMA, aborted: None, too_late: None, held_again: 0 };
}

impl Render for AbortReport {
    fn show(&self, _: &View) -> String {
        match (&self.aborted, &self.too_late) {
            (Some(run), _) => format!(
                "Run {run} is aborted: {} held again.\n",
                number(self.held_again, "pending lock is", "pending locks are")
            ),
            (None, Some(run)) => {
                format!(
                    "Run {run} is settling or has ended: it is too late to abort it. `nlmctl runs show {run}` has its result.\n"
                )
            }
            (None, None) => "There is no run to abort.\n".into(),
        }
    }
}

fn judge(run: RunId, went: Result<RunResult, ManagerError>) -> Result<AbortReport, Failure> {
    match went {
        Ok(result) => {
            Ok(AbortReport { aborted: Some(run.to_string()), held_again: result.counts.kept, ..AbortReport::NOTHING })
        }
        Err(error) => match error.refused() {
            Some(RefusalCode::WrongPhase) => {
                Ok(AbortReport { too_late: Some(run.to_string()), ..AbortReport::NOTHING })
            }
            // It ended between the two calls: nothing is left to abort.
            Some(RefusalCode::UnknownRun) => Ok(AbortReport::NOTHING),
            _ => Err(error.into()),
        },
    }
}

pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let manager = context.manager().await?;
    let report = match manager.status().await?.run.0 {
        Some(active) => judge(active.run, manager.abort(active.run).await)?,
        None => AbortReport::NOTHING,
    };
    // The run may be another record's, or another controller's that fetches the result itself.
    match context.with_store(Ok).await {
        Ok(store) => {
            if let Err(error) = controller::catch_up(&*manager, store).await {
                context.say(&format!("the record was not brought up to date: {error}"));
            }
        }
        Err(error) => context.say(&format!("the record was not brought up to date: {error}")),
    }
    context.print_done(&report, 0)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Refusal;

    #[test]
    fn a_run_that_is_settling_is_named_and_not_aborted() {
        let run = RunId([7; 16]);
        let refused = |code| judge(run, Err(ManagerError::Refused(Refusal::new(code, "no"))));
        let late = refused(RefusalCode::WrongPhase).unwrap();
        assert_eq!((late.aborted.as_ref(), late.held_again), (None, 0));
        let text = late.text();
        assert!(text.contains(&run.to_string()) && text.contains("too late to abort"), "{text}");
        assert_eq!(refused(RefusalCode::UnknownRun).unwrap().text(), "There is no run to abort.\n");
        assert!(refused(RefusalCode::NotDurable).is_err());
    }
}
