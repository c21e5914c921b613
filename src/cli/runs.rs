//! `nlmctl runs`: the record.

use super::args::RunsCommand;
use super::error::CliError;
use super::{Context, blocking};
use crate::report::{RunsReport, SCHEMA};
use crate::store::{Store, StoreError};

pub(super) async fn run(context: &Context, command: RunsCommand) -> Result<u8, CliError> {
    let path = context.settings.record_path()?;
    match command {
        RunsCommand::List { limit } => {
            let runs = {
                let path = path.clone();
                blocking(move || Ok(Store::open_existing(&path)?.map(|store| store.list(limit.get())).transpose()?))
                    .await?
            };
            if runs.is_none() {
                context.say(&format!("there is no record at {} yet", path.display()));
            }
            context.print(&RunsReport { schema: SCHEMA, runs: runs.unwrap_or_default() })?;
        }
        RunsCommand::Show { id } => {
            let detail = blocking(move || {
                let Some(store) = Store::open_existing(&path)? else {
                    return Err(StoreError::UnknownRun { wanted: id, path }.into());
                };
                Ok(store.detail(store.find(&id)?)?)
            })
            .await?;
            context.print(&detail)?;
        }
    }
    Ok(0)
}
