//! `nlmctl runs`: the record.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::args::{RunsArgs, RunsCommand};
use super::context::{Context, blocking, print_json, unread, written};
use super::locks::client;
use crate::controller;
use crate::report::{
    Failure, LockReport, ReleaseReport, ReleasesReport, Rows, RunDetail, RunFilter, RunsReport, SCHEMA, page,
};
use crate::store::{LockRows, Pruned, Store, StoreError};
use crate::units;
use crate::wire::control::RunId;
use crate::wire::types::ms;

/// What `runs prune` deleted.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PruneReport {
    schema: u32,
    /// Runs that were deleted, with their locks and their timelines.
    runs: u64,
    /// Releases that were deleted.
    releases: u64,
}

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
        RunsCommand::List { limit, only } => list(context, path, limit.get(), filter(&only)?).await?,
        RunsCommand::Releases { limit } => {
            let releases = blocking(move || match Store::open_existing(&path)? {
                Some(store) => Ok(store.releases(limit.get())?),
                None => Ok(Vec::new()),
            })
            .await?;
            context.print(&ReleasesReport { schema: SCHEMA, releases })?;
        }
        RunsCommand::Show { id, only } => {
            let (context, wanted) = (context.clone(), filter(&only)?);
            blocking(move || show(&context, &path, &id, &wanted)).await?;
        }
        RunsCommand::Report { id, output } => {
            let page = blocking(move || page_of(&path, id.as_deref())).await?;
            written(output, page, "the report").await?;
        }
        RunsCommand::Export { limit } => {
            let limit = limit.map_or(u32::MAX, NonZeroU32::get);
            blocking(move || export(&path, limit)).await?;
        }
        RunsCommand::Prune { older_than, keep } => {
            let pruned = blocking(move || prune(&path, older_than, keep.unwrap_or(0))).await?;
            let Pruned { runs, releases } = pruned;
            if context.settings.json {
                print_json(&PruneReport { schema: SCHEMA, runs, releases })?;
                return Ok(0);
            }
            let words = format!("{} and {}", units::count(runs, "run"), units::count(releases, "release"));
            context.say(&format!("{words} deleted"));
        }
    }
    Ok(0)
}

fn filter(only: &RunsArgs) -> Result<RunFilter, Failure> {
    let clients = only.clients.iter().map(|text| client(text)).collect::<Result<_, _>>()?;
    Ok(RunFilter { clients, changed: only.changed })
}

/// A client that the run does not name is an error: its name may be mistyped.
fn refuse_unknown<R: Rows<Row = LockReport>>(detail: &RunDetail<R>, wanted: &RunFilter) -> Result<(), Failure> {
    let Some(asked) = wanted.clients_words() else { return Ok(()) };
    if detail.names(wanted).map_err(unreadable)? {
        return Ok(());
    }
    let id = &detail.report.run.id;
    Err(Failure::usage(format!("run {id} has no client {asked}"), format!("`nlmctl runs show {id}` lists its clients")))
}

fn unreadable(error: std::io::Error) -> Failure {
    unread(error).unwrap_or_else(|error| Failure::failed(format!("cannot read the record: {error}"), "check its disk"))
}

fn whole(report: &ReleaseReport) -> Failure {
    let id = report.release.id.as_deref().unwrap_or_default();
    Failure::usage(format!("{id} is a release, which is always shown completely"), "leave out --client and --changed")
}

async fn list(context: &Context, path: PathBuf, limit: u32, wanted: RunFilter) -> Result<(), Failure> {
    let db = path.clone();
    let shown = wanted.words();
    let runs = blocking(move || match Store::open_existing(&db)? {
        Some(store) => Ok(Some(store.list_only(limit, &wanted)?)),
        None => Ok(None),
    })
    .await?;
    if runs.is_none() {
        context.say(&format!("there is no record at {} yet", path.display()));
    }
    context.print(&RunsReport { schema: SCHEMA, runs: runs.unwrap_or_default(), shown })
}

fn show(context: &Context, path: &Path, id: &str, wanted: &RunFilter) -> Result<(), Failure> {
    let unknown = || StoreError::UnknownRun { wanted: id.to_owned(), path: path.to_owned() };
    let mut store = Store::open_existing(path)?.ok_or_else(unknown)?;
    match store.find(id) {
        Ok(run) => {
            // Text measures every row before it writes the first.
            let detail = if context.settings.json { readable(&mut store, run)? } else { store.detail(run)? };
            refuse_unknown(&detail, wanted)?;
            context.print(&detail.only(wanted))
        }
        Err(unknown @ StoreError::UnknownRun { .. }) => {
            let report = store.release(id)?.ok_or(unknown)?;
            if *wanted == RunFilter::default() { context.print(&report) } else { Err(whole(&report)) }
        }
        Err(error) => Err(error.into()),
    }
}

/// A run of which every row can be read: else it is not printed as JSON, and not half of it either.
fn readable(store: &mut Store, run: RunId) -> Result<RunDetail<LockRows<'_>>, Failure> {
    let detail = store.detail(run)?;
    detail.lock_rows.look(|_| ())?;
    Ok(detail)
}

/// The page of a run: of the newest one, where none is named.
fn page_of(path: &Path, id: Option<&str>) -> Result<String, Failure> {
    let none =
        || Failure::usage(format!("there is no run in the record {}", path.display()), "run `nlmctl resync` first");
    let mut store = Store::open_existing(path)?.ok_or_else(none)?;
    let newest = if id.is_none() { store.list(1)?.pop().map(|run| run.id) } else { None };
    let id = id.map(str::to_owned).or(newest).ok_or_else(none)?;
    let run = match store.find(&id) {
        Err(StoreError::UnknownRun { .. }) if store.release(&id)?.is_some() => {
            return Err(Failure::usage(
                format!("{id} is a release, and only runs have a page"),
                format!("`nlmctl runs show {id}` shows it"),
            ));
        }
        found => found?,
    };
    page(&store.detail(run)?).map_err(unreadable)
}

/// A row at a time: a record has many more than fit in memory at once.
fn export(path: &Path, limit: u32) -> Result<(), Failure> {
    let Some(mut store) = Store::open_existing(path)? else { return Ok(()) };
    for run in store.list(limit)? {
        let run = store.find(&run.id)?;
        print_json(&readable(&mut store, run)?)?;
    }
    Ok(())
}

fn prune(path: &Path, older_than: Option<Duration>, keep: u32) -> Result<Pruned, Failure> {
    if !path.exists() {
        return Ok(Pruned::default());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let before = older_than.map(|age| ms(now.saturating_sub(age)));
    Ok(Store::open(path)?.prune_to(keep, before)?)
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
