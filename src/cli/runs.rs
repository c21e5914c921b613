//! `nlmctl runs`: the record.

use std::path::PathBuf;
use std::time::Duration;

use super::args::RunsCommand;
use super::context::{Context, blocking};
use crate::controller;
use crate::report::{Failure, ReleaseReport, ReleasesReport, RunDetail, RunsReport, SCHEMA};
use crate::store::{Store, StoreError};

/// The record can be read without a lock manager, so none is waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context, command: RunsCommand) -> Result<u8, Failure> {
    let path = context.settings.record_path()?;
    match tokio::time::timeout(PATIENCE, bring_up_to_date(context, path.clone())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!("the record is shown as it is: {error}"),
        Err(_) => tracing::info!("the record is shown as it is: the lock manager takes too long"),
    }
    match command {
        RunsCommand::List { limit } => {
            let db = path.clone();
            let runs = blocking(move || match Store::open_existing(&db)? {
                Some(store) => Ok(Some(store.list(limit.get())?)),
                None => Ok(None),
            })
            .await?;
            if runs.is_none() {
                context.say(&format!("there is no record at {} yet", path.display()));
            }
            context.print(&RunsReport { schema: SCHEMA, runs: runs.unwrap_or_default() })?;
        }
        RunsCommand::Releases { limit } => {
            let releases = blocking(move || match Store::open_existing(&path)? {
                Some(store) => Ok(store.releases(limit.get())?),
                None => Ok(Vec::new()),
            })
            .await?;
            context.print(&ReleasesReport { schema: SCHEMA, releases })?;
        }
        RunsCommand::Show { id } => {
            let shown = blocking(move || {
                let Some(store) = Store::open_existing(&path)? else {
                    return Err(StoreError::UnknownRun { wanted: id, path }.into());
                };
                match store.find(&id) {
                    Ok(run) => Ok(Shown::Run(store.detail(run)?)),
                    Err(unknown @ StoreError::UnknownRun { .. }) => {
                        Ok(Shown::Release(store.release(&id)?.ok_or(unknown)?))
                    }
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
            match shown {
                Shown::Run(detail) => context.print(&detail)?,
                Shown::Release(report) => context.print(&report)?,
            }
        }
    }
    Ok(0)
}

/// What an id of the record names.
enum Shown {
    Run(RunDetail),
    Release(ReleaseReport),
}

/// Fetches what the lock manager still has of this record's runs (statement 10). One that has
/// nothing of them, another server's say, must not close their books.
async fn bring_up_to_date(context: &Context, path: PathBuf) -> Result<(), Failure> {
    let manager = context.manager().await?;
    let (unfetched, endpoint) = (manager.unfetched().await?, manager.endpoint());
    let instance = manager.status().await?.instance;
    // Only a record that lacks something is opened for writing.
    let store = blocking(move || {
        let Some(store) = Store::open_existing(&path)? else { return Ok(None) };
        let is_its_own =
            unfetched.iter().any(|run| store.stored(*run).is_ok()) || store.unfinished(&endpoint, instance)?.is_some();
        if is_its_own { Ok(Some(Store::open(&path)?)) } else { Ok(None) }
    })
    .await?;
    if let Some(store) = store {
        controller::catch_up(&*manager, store).await?;
    }
    Ok(())
}
