//! What stands in the way of a run, before one is made.
//!
//! Theory. Each part looks at one thing, touches nothing, and is bounded in time; all look at once,
//! so that the whole takes about as long as the slowest of them, also for thousands of clients. What
//! they give are [`Finding`]s: what was *seen*, and a remedy. What a part could not see in its time is
//! a finding of its own, never silence. Which weight a finding has depends on the lock manager: what
//! keeps a run of knfsd from its clients may be nothing to nlmd, which keeps its own records.
//!
//! | file | what it looks at | |
//! |---|---|---|
//! | `manager` | the lock manager: who it is, a run or grace under way, what it cautions of | asks it |
//! | `clients` | the clients: whether their statds answer, and what their names resolve to | statds, resolver |
//! | `names` | the names by which clients know this server | resolver |
//! | `programs` | this host's rpcbind and what is registered there, its statd | RPC |
//! | `host` | this host: mounts, statd's files, the kernel's NFS server, Samba, room on disk | files |
//!
//! Start reading at [`check`].

mod clients;
mod host;
mod manager;
mod names;
mod places;
mod programs;

pub use places::Places;

use std::time::Duration;

use self::places::{Kind, within};
use crate::manager::LockManager;
use crate::report::{CheckReport, Failure, Finding, Severity};

/// Longest wait for files of this host: a server behind a mount may hang.
const FILES_PATIENCE: Duration = Duration::from_secs(10);

/// Looks at everything. `manager`: the one that is here, or why none is driven.
pub async fn check(manager: Result<&dyn LockManager, &Failure>, places: &Places) -> CheckReport {
    let kind = manager.map_or(Kind::Nlmd, Kind::of);
    let (theirs, registered, files) =
        tokio::join!(manager::look(manager, places), programs::look(kind, places), files(kind, places.clone()),);
    let manager::ManagerFindings { reached, all_loopback, cautioned, mut findings } = theirs;
    let mut host = match files {
        Ok(host::HostFindings { mounts, mut findings }) => {
            findings.insert(0, host::judge_mounts(&mounts, all_loopback));
            findings
        }
        Err(unread) => vec![unread],
    };
    // The manager knows better than a look from outside.
    host.retain(|finding| !cautioned.contains(&finding.about));
    findings.extend(registered.into_iter().chain(host));
    let (name, endpoint) = manager.map_or_else(
        |_| ("nlmd", places.control.display().to_string()),
        |manager| (manager.kind(), manager.endpoint()),
    );
    CheckReport::new(name, &endpoint, reached, findings)
}

async fn files(kind: Kind, places: Places) -> Result<host::HostFindings, Finding> {
    let looking = tokio::task::spawn_blocking(move || host::look(kind, &places));
    match tokio::time::timeout(FILES_PATIENCE, looking).await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(_)) | Err(_) => Err(Finding::new(
            "host",
            Severity::Warning,
            format!("this host's files were not read within {} s: nothing is known of them", FILES_PATIENCE.as_secs()),
            "see whether a mount hangs (`df`), then check again",
        )),
    }
}
