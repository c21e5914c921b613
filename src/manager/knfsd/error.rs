//! Errors between nlmctl and the kernel's lock manager.

use std::io;

use crate::host::{FileError, StatdDirError};
use crate::manager::ManagerError;
use crate::nsm::roster::RosterError;
use crate::rpc::client::CallError;
use crate::wire::control::{Refusal, RefusalCode};

/// What it is called in messages.
pub(super) const ENDPOINT: &str = "the kernel's lockd";

/// Why the kernel, or statd beside it, was not asked or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KnfsdError {
    /// A file of the kernel's or of statd's cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// statd's folder, or its state number.
    #[error(transparent)]
    Statd(#[from] StatdDirError),
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// nfsd does not run.
    #[error("the kernel's NFS server does not run")]
    Down,
    /// A call to lockd or to rpcbind failed.
    #[error("{what}: {error}")]
    Call { what: &'static str, error: CallError },
    /// lockd's own records cannot be read.
    #[error("the owners of locks cannot be read from the kernel: {what}")]
    Owners {
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Something did not become as it should in time.
    #[error("{0}")]
    Stuck(String),
}

impl KnfsdError {
    fn remedy(&self) -> &'static str {
        match self {
            Self::File(FileError::Io(.., error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                "run this as root"
            }
            Self::File(error) if error.is_missing() => {
                "start the NFS server (it mounts /proc/fs/nfsd), or name another --manager"
            }
            Self::Statd(_) | Self::Roster(_) => "start rpc.statd, and run this as root",
            Self::Owners { remedy, .. } => remedy,
            Self::Down => "start the NFS server, or name another --manager",
            Self::File(_) | Self::Call { .. } | Self::Stuck(_) => "see what the kernel and rpc.statd have logged",
        }
    }

    /// As the answer to a question.
    pub(super) fn unanswered(self) -> ManagerError {
        ManagerError::Unreachable { endpoint: ENDPOINT.into(), what: self.to_string(), remedy: self.remedy().into() }
    }
    /// As the answer to a change that may have been made.
    pub(super) fn lost(self) -> ManagerError {
        ManagerError::Lost { endpoint: ENDPOINT.into(), what: self.to_string() }
    }
    /// As the answer to a change that was not made.
    pub(super) fn refused(self) -> ManagerError {
        ManagerError::Refused(Refusal::new(
            RefusalCode::Unsupported,
            format!("{self}; {}; nothing was dropped", self.remedy()),
        ))
    }
}
