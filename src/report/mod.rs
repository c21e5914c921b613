//! The output of nlmctl as values: a run, a plan, a status, a listing, a failure.
//!
//! A value is computed once (by `store/` from the record, by `cli/` from a lock manager's answers) and then rendered,
//! by [`json`] or by [`text`]; a renderer computes nothing that the other lacks. JSON keys are a contract that
//! scripts rely on: keys are added, and [`SCHEMA`] is raised only when one is removed. The schemas in `schema/` are
//! made from these types.
//!
//! | file | what |
//! |---|---|
//! | `run` | a run, its clients, locks and events |
//! | `plan` | what a run would do |
//! | `check` | what stands in the way of a run |
//! | `reconcile` | one round of `nlmctl reconcile` |
//! | `release` | chosen locks to free, and the result |
//! | `listing` | status, clients, runs, notices |
//! | `locks`, `lock_list` | the locks of a lock manager, a million of them in little memory |
//! | `rows` | rows that may be too many to hold |
//! | `filter` | which runs of the record to show, and which part of a run |
//! | `exit` | facts of a run -> exit code: a table |
//! | `failure` | a command that failed: the one error that an operator reads |
//! | `progress` | a run while it runs |
//! | `words` | enums that have a word for each value |
//! | `text`, `listing_text`, `release_text`, `table` | the text renderer |
//! | `page` | a run as an HTML page |
//!
//! Pure: no clock, no sockets, no files.

mod caveats;
mod check;
mod exit;
mod failure;
mod filter;
mod fold;
#[cfg(test)]
mod golden;
mod listing;
mod listing_text;
mod lock_list;
mod locks;
#[cfg(feature = "tools")]
mod metrics;
mod owners;
#[cfg(feature = "tools")]
mod page;
mod plan;
mod progress;
mod reconcile;
mod release;
mod release_text;
mod rows;
mod run;
#[cfg(test)]
mod schema;
mod stamp;
mod table;
mod text;
mod words;

pub use caveats::caveats;
pub use check::{CheckReport, Finding, Severity};
pub use exit::{Facts, exit_code};
pub use failure::{ErrorReport, Failure, FailureKind, in_command};
pub use filter::RunFilter;
pub use fold::{Folding, fold};
pub use listing::{
    ClientListing, ClientsReport, Controller, LockListing, NoticeReport, NotifyReport, RunListing, RunsReport,
    StatusReport,
};
pub use lock_list::LockList;
#[cfg(test)]
pub use locks::ListedOwner;
pub use locks::{Behind, Known, ListedLock, LocksReport};
#[cfg(feature = "tools")]
pub use metrics::MetricsView;
pub use owners::OwnersReport;
#[cfg(feature = "tools")]
pub use page::page;
pub use plan::{Plan, PlanClient, PlanReport, Probe, Refusal};
pub use progress::{Phase, Progress};
pub use reconcile::{Reconcile, ReconcileReport, Suspect, SuspectRun, SuspectStep};
pub use release::{
    HostAnswer, LockdProbe, Release, ReleaseClient, ReleaseLeft, ReleaseListing, ReleaseLock, ReleaseOutcome,
    ReleaseReport, ReleasedCounts, ReleasesReport, Waiting,
};
pub use rows::Rows;
#[cfg(test)]
pub use run::KeptBecause;
pub use run::{
    ClientFate, ClientReport, EventReport, LOST_SHOWN, LockReport, LockTally, Outcome, Owner, PathReport,
    PendingReport, RunDetail, RunHead, RunReport, ScopeReport, States,
};
pub use stamp::Stamp;
pub use table::clean_lines;
pub use text::{Render, View};

use serde::Serialize;

/// The number of the JSON schemas. It is raised only when a field is removed: an added field
/// changes nothing for readers of the others. A test compares the types with `schema/`.
pub const SCHEMA: u32 = 1;

/// One line of JSON, with its newline.
///
/// # Errors
/// None for the values of this module: their keys are strings and their numbers finite.
pub fn json<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}
