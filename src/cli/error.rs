//! The one place where kinds of errors become exit codes.

use crate::controller::ControllerError;
use crate::manager::ManagerError;
use crate::report::ErrorReport;
use crate::store::StoreError;
use crate::wire::control::RefusalCode;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line or the configuration makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// It would be unsafe, or nobody consented.
    #[error("{message}")]
    Refused {
        /// What and why.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// It was tried and failed.
    #[error("{message}")]
    Failed {
        /// What and where.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lock manager, before anything has begun.
    #[error(transparent)]
    Manager(#[from] ManagerError),
}

impl CliError {
    /// Exit 2.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), remedy: remedy.into() }
    }
    /// Exit 4.
    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), remedy: remedy.into() }
    }
    /// Exit 1.
    pub fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), remedy: Some(remedy.into()) }
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Refused { .. } => 4,
            Self::Failed { .. } => 1,
            Self::Store(error) => match error {
                StoreError::ControllerActive { .. } => 4,
                StoreError::UnknownRun { .. } | StoreError::AmbiguousRun { .. } => 2,
                StoreError::NoDirectory { .. }
                | StoreError::CannotOpen { .. }
                | StoreError::ReadOnly { .. }
                | StoreError::Corrupt { .. }
                | StoreError::NotOurs { .. }
                | StoreError::Newer { .. }
                | StoreError::Full { .. }
                | StoreError::Busy { .. }
                | StoreError::Io { .. }
                | StoreError::BadValue { .. }
                | StoreError::Sqlite { .. } => 1,
            },
            Self::Manager(error) => match error {
                ManagerError::Unreachable { .. } | ManagerError::Protocol { .. } => 5,
                ManagerError::Lost { .. } => 1,
                ManagerError::Refused(refusal) => match refusal.code {
                    RefusalCode::BadRequest | RefusalCode::Unsupported => 2,
                    RefusalCode::NotDurable => 1,
                    RefusalCode::RunActive
                    | RefusalCode::GraceActive
                    | RefusalCode::StalePlan
                    | RefusalCode::UnknownRun
                    | RefusalCode::WrongPhase
                    | RefusalCode::StillPending
                    | RefusalCode::NotAllowed => 4,
                },
            },
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Usage { remedy, .. } | Self::Refused { remedy, .. } => Some(remedy.clone()),
            Self::Failed { remedy, .. } => remedy.clone(),
            Self::Store(error) => Some(error.remedy()),
            Self::Manager(error) => Some(error.remedy()),
        }
    }

    /// As it is printed.
    pub fn report(&self) -> ErrorReport {
        ErrorReport::new(self.exit(), self.to_string(), self.remedy())
    }
}

impl From<ControllerError> for CliError {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Usage { message, remedy } => Self::Usage { message, remedy },
            ControllerError::Refused { message, remedy } => Self::Refused { message, remedy },
            ControllerError::Manager(error) => Self::Manager(error),
            ControllerError::Store(error) => Self::Store(error),
            error @ (ControllerError::Network(_) | ControllerError::Internal(_)) => {
                Self::Failed { remedy: Some(error.remedy()), message: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Refusal;

    #[test]
    fn each_kind_of_error_has_the_exit_code_of_the_contract() {
        let unreachable =
            ManagerError::Unreachable { endpoint: "/x".into(), what: "no".into(), remedy: "start nlmd".into() };
        let refused = |code| CliError::from(ManagerError::Refused(Refusal::new(code, "no")));
        let path = std::path::PathBuf::from("/x");
        let table = [
            (CliError::failed("a", "b"), 1),
            (CliError::usage("a", "b"), 2),
            (CliError::refused("a", "b"), 4),
            (unreachable.into(), 5),
            (refused(RefusalCode::RunActive), 4),
            (refused(RefusalCode::GraceActive), 4),
            (refused(RefusalCode::StalePlan), 4),
            (refused(RefusalCode::BadRequest), 2),
            (refused(RefusalCode::NotDurable), 1),
            (StoreError::ControllerActive { pid: Some(1), path: path.clone() }.into(), 4),
            (StoreError::Corrupt { path }.into(), 1),
        ];
        for (error, exit) in table {
            assert_eq!(error.exit(), exit, "{error}");
            assert!(error.remedy().is_some_and(|r| !r.is_empty()), "{error}");
        }
    }
}
