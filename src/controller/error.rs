//! Why a command of the controller failed.

use crate::manager::ManagerError;
use crate::nsm::DriverError;
use crate::resync::plan::PlanError;
use crate::store::StoreError;

/// Why there is no report. Nothing of the server was touched, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// What was asked makes no sense (exit 2).
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// It would not be safe (exit 4).
    #[error("{message}")]
    Refused {
        /// What is in the way.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// The manager did not answer, or not with what was asked for.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The record cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No socket to notify or probe from.
    #[error(transparent)]
    Network(#[from] DriverError),
    /// A part of this process ended that must not.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl ControllerError {
    pub(super) fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), remedy: remedy.into() }
    }
    pub(super) fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), remedy: remedy.into() }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Usage { remedy, .. } | Self::Refused { remedy, .. } => remedy.clone(),
            Self::Manager(error) => error.remedy(),
            Self::Store(error) => error.remedy(),
            Self::Network(_) => "raise the limit of open files (`ulimit -n`), then try again".into(),
            Self::Internal(_) => "see `nlmctl status`, then `nlmctl resync --resume`".into(),
        }
    }
}

impl From<PlanError> for ControllerError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Usage { message, remedy } => Self::Usage { message, remedy },
            PlanError::Refused { message, remedy } => Self::Refused { message, remedy },
        }
    }
}
