//! Why a command of the controller failed, and what kind of failure each error is to an operator.

use crate::manager::ManagerError;
use crate::nsm::DriverError;
use crate::report::{Failure, FailureKind};
use crate::store::StoreError;
use crate::wire::control::{RefusalCode, RunId};

/// Why there is no report. Nothing on the server was touched, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The request makes no sense, or would not be safe.
    #[error(transparent)]
    Operator(#[from] Failure),
    /// The run was left though its clients may have been told.
    #[error(transparent)]
    Left(Failure),
    /// The manager did not answer, or not as asked.
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
    /// Of a run that had to be left though its clients may have been told: no other record can go on with it.
    pub(super) fn left(self, run: RunId) -> Self {
        let first = match self {
            Self::Network(_) => "raise the limit of open files (`ulimit -n`)",
            Self::Left(_) => return self,
            Self::Operator(_) | Self::Manager(_) | Self::Store(_) | Self::Internal(_) => "mend that",
        };
        let Failure { kind, message, .. } = self.into();
        Self::Left(Failure::new(
            kind,
            format!("{message}; nlmctl has left run {run}, and its result is not recorded"),
            format!("{first}; then resume the run with the same --db: `nlmctl resync --resume`"),
        ))
    }
}

impl From<ControllerError> for Failure {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Operator(failure) | ControllerError::Left(failure) => failure,
            ControllerError::Manager(error) => error.into(),
            ControllerError::Store(error) => error.into(),
            error @ ControllerError::Network(_) => {
                Self::failed(error.to_string(), "raise the limit of open files (`ulimit -n`), then try again")
            }
            error @ ControllerError::Internal(_) => {
                Self::failed(error.to_string(), "see `nlmctl status`, then `nlmctl resync --resume`")
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::ControllerActive { .. } => FailureKind::Refused,
            StoreError::UnknownRun { .. } | StoreError::AmbiguousRun { .. } => FailureKind::Usage,
            StoreError::NoDirectory { .. }
            | StoreError::CannotOpen { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::NoFile { .. }
            | StoreError::ReadInPlace { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NotOurs { .. }
            | StoreError::Newer { .. }
            | StoreError::Full { .. }
            | StoreError::Busy { .. }
            | StoreError::Unsafe { .. }
            | StoreError::Io { .. }
            | StoreError::BadValue { .. }
            | StoreError::Sqlite { .. } => FailureKind::Failed,
        };
        Self::new(kind, error.to_string(), error.remedy())
    }
}

/// Of a manager before anything has begun.
impl From<ManagerError> for Failure {
    fn from(error: ManagerError) -> Self {
        let kind = match &error {
            ManagerError::Unreachable { .. } | ManagerError::Protocol { .. } => FailureKind::Unreachable,
            ManagerError::Lost { .. } => FailureKind::Failed,
            ManagerError::Refused(refusal) => match refusal.code {
                RefusalCode::BadRequest => FailureKind::Usage,
                RefusalCode::NotDurable => FailureKind::Failed,
                RefusalCode::RunActive
                | RefusalCode::GraceActive
                | RefusalCode::StalePlan
                | RefusalCode::UnknownRun
                | RefusalCode::WrongPhase
                | RefusalCode::StillPending
                | RefusalCode::Unsupported
                | RefusalCode::NotAllowed => FailureKind::Refused,
            },
        };
        Self::new(kind, error.to_string(), error.remedy())
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
        let refused = |code| Failure::from(ManagerError::Refused(Refusal::new(code, "no")));
        let path = std::path::PathBuf::from("/x");
        let table = [
            (Failure::failed("a", "b"), 1),
            (Failure::usage("a", "b"), 2),
            (Failure::refused("a", "b"), 4),
            (unreachable.into(), 5),
            (refused(RefusalCode::RunActive), 4),
            (refused(RefusalCode::GraceActive), 4),
            (refused(RefusalCode::StalePlan), 4),
            (refused(RefusalCode::Unsupported), 4),
            (refused(RefusalCode::BadRequest), 2),
            (refused(RefusalCode::NotDurable), 1),
            (StoreError::ControllerActive { pid: Some(1), path: path.clone() }.into(), 4),
            (StoreError::Corrupt { path }.into(), 1),
        ];
        for (failure, exit) in table {
            assert_eq!(failure.kind.exit(), exit, "{failure}");
            assert!(!failure.remedy.is_empty(), "{failure}");
        }
    }
}
