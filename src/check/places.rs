//! What is looked at, and what the kind of lock manager makes of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::manager::LockManager;
use crate::report::{Failure, Severity};
use crate::units;
use crate::wire::types::CallerName;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Places {
    /// nlmd's control socket.
    pub control: PathBuf,
    /// The root of the file system; `/` outside tests.
    pub root: PathBuf,
    /// The record of runs, or why no run can use it.
    pub record: Result<PathBuf, Failure>,
    /// The port of the clients' rpcbind, and of this host's.
    pub rpcbind_port: u16,
    /// The names that were given by `--name`.
    pub names: Vec<CallerName>,
    /// How long is waited for answers over the network.
    pub patience: Duration,
}

/// Which lock manager it is: that decides what it needs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has its own status monitor and its own records.
    Nlmd,
    /// The kernel's: needs rpc.statd, its records, rpcbind and exports.
    Knfsd,
    /// Needs rpc.statd, its records and rpcbind.
    Ganesha,
}

impl Kind {
    pub(super) fn of(manager: &dyn LockManager) -> Self {
        match manager.kind() {
            "knfsd" => Self::Knfsd,
            "ganesha" => Self::Ganesha,
            _ => Self::Nlmd,
        }
    }
    /// The weight of what is odd about the host's statd.
    pub(super) fn concerned(self) -> Severity {
        match self {
            Self::Nlmd => Severity::Note,
            Self::Knfsd | Self::Ganesha => Severity::Warning,
        }
    }
    /// The weight of what is missing, where only a manager that relies on the host's services needs it.
    pub(super) fn needs(self, otherwise: Severity) -> Severity {
        match self {
            Self::Nlmd => otherwise,
            Self::Knfsd | Self::Ganesha => Severity::Problem,
        }
    }
}

/// "within 3 s", for people.
pub(super) fn within(patience: Duration) -> String {
    format!("within {}", units::duration(patience))
}

impl Places {
    /// Whether rpcbind was started after nlmd: what was registered before, and does not look after that itself, is
    /// gone. Each makes its socket when it starts.
    pub(super) fn rpcbind_is_younger(&self) -> bool {
        let made = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified());
        matches!((made(self.root.join("run/rpcbind.sock")), made(self.control.clone())), (Ok(theirs), Ok(ours)) if theirs > ours)
    }
}
