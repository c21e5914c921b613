//! What can go wrong between nlmctl and the kernel's lock manager.

use std::io;
use std::path::{Path, PathBuf};

use crate::manager::ManagerError;
use crate::rpc::client::CallError;
use crate::wire::control::{Refusal, RefusalCode};

/// What it is called in messages.
pub(super) const ENDPOINT: &str = "the kernel's lockd";

/// Why the kernel, or statd beside it, was not asked or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum KnfsdError {
    /// A file of the kernel's or of statd's cannot be read or written.
    #[error("cannot {verb} {path}: {source}", path = .path.display())]
    File {
        /// `read`, `write`, ...
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has something in it that this version does not understand.
    #[error("{path} is not as expected: {what}", path = .path.display())]
    Odd {
        /// Which.
        path: PathBuf,
        /// What it has.
        what: String,
    },
    /// nfsd does not run.
    #[error("the kernel's NFS server does not run")]
    Down,
    /// A call to lockd or to rpcbind failed.
    #[error("{what}: {error}")]
    Call {
        /// Which.
        what: &'static str,
        /// How.
        error: CallError,
    },
    /// Something did not become as it should in time.
    #[error("{0}")]
    Stuck(String),
}

impl KnfsdError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { verb: "read", path: path.into(), source }
    }
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { verb: "write", path: path.into(), source }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => "run this as root",
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "start the NFS server (it mounts /proc/fs/nfsd), or name another --manager"
            }
            Self::Down => "start the NFS server, or name another --manager",
            Self::File { .. } | Self::Odd { .. } | Self::Call { .. } | Self::Stuck(_) => {
                "see what the kernel and rpc.statd have logged"
            }
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
