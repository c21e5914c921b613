//! Errors between nlmctl and Ganesha.

use std::io;

use super::bus::BusError;
use super::process::ProcessError;
use crate::host::{FileError, OwnNameError, StatdDirError};
use crate::manager::ManagerError;
use crate::nsm::roster::RosterError;
use crate::rpc::client::CallError;

/// Where it is, for people.
pub(super) const ENDPOINT: &str = "org.ganesha.nfsd on the system bus";

/// Why Ganesha, or statd beside it, was not asked or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GaneshaError {
    #[error("{0}")]
    Bus(#[from] BusError),
    #[error("{0}")]
    Process(#[from] ProcessError),
    #[error("{0}")]
    Roster(#[from] RosterError),
    /// statd's folder, or its state number.
    #[error("{0}")]
    Statd(#[from] StatdDirError),
    #[error("{0}")]
    Name(#[from] OwnNameError),
    #[error("cannot list this host's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// A file of nlmctl's own.
    #[error("{0}")]
    File(#[from] FileError),
    /// A call to its NLM service.
    #[error("{what}: {error}")]
    Call { what: &'static str, error: CallError },
    /// Something did not become as it should in time.
    #[error("{0}")]
    Stuck(&'static str),
    /// A thread of this process died.
    #[error("a thread of nlmctl died")]
    Thread,
}

impl GaneshaError {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Bus(error) if error.is_absent() => {
                "start dbus and NFS-Ganesha (one that was built with D-Bus), and run this as root; or name another --manager"
            }
            Self::Bus(_) => "see Ganesha's log, and that this runs as root",
            Self::Process(ProcessError::Ended(_)) => "start NFS-Ganesha and look at its log",
            Self::Process(ProcessError::Unreadable { .. }) => "run this as root, where Ganesha's /proc can be seen",
            Self::Roster(_) | Self::Statd(_) => "start rpc.statd, and run this as root",
            Self::Name(_) => "give the names by which clients know this server with --name",
            Self::Addresses(_) | Self::Stuck(_) | Self::Thread => "see Ganesha's log, and try again",
            Self::File(_) => "make room in nlmctl's state directory",
            Self::Call { .. } => "see that rpcbind runs and has Ganesha's nlockmgr (rpcinfo -p)",
        }
    }
}

/// Of a question, or before anything was changed.
impl From<GaneshaError> for ManagerError {
    fn from(error: GaneshaError) -> Self {
        Self::Unreachable { endpoint: ENDPOINT.into(), what: error.to_string(), remedy: error.remedy().into() }
    }
}

/// For one client's release, once it may have begun. `ended`: Ganesha no longer runs, or is another process.
pub(super) fn half_released(error: &GaneshaError, ended: bool) -> ManagerError {
    let what = if ended {
        format!(
            "Ganesha ended while it released the client ({error}; 4.3 does so when it holds an NLM SHARE reservation): every \
             client's locks are lost with it; start it, and have its clients reclaim while its grace lasts (`nlmctl --manager \
             ganesha notify --targets FILE --name NAME --state N`: FILE lists the clients, NAME is this server as they mounted \
             it, N is odd and higher than their last one)"
        )
    } else {
        format!("{error}; the client's locks may be free: look again")
    };
    ManagerError::Lost { endpoint: ENDPOINT.into(), what }
}

/// Of a step after the first that cannot be undone. `crashed`: Ganesha does not run any more.
pub(super) fn halfway(error: &GaneshaError, crashed: bool) -> ManagerError {
    let what = if crashed {
        format!(
            "Ganesha ended while it released locks ({error}; 4.3 does so when a client holds an NLM SHARE \
             reservation): all locks are lost with it; start it, and use `nlmctl resync --resume` while its grace \
             lasts, so that clients reclaim them"
        )
    } else {
        format!("{error}; clients' locks may have been released: use `nlmctl resync --resume`")
    };
    ManagerError::Lost { endpoint: ENDPOINT.into(), what }
}
