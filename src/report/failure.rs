//! A command that failed: the one error that an operator reads.

use serde::{Serialize, Serializer};

use super::SCHEMA;

/// What went wrong and where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[error("{message}")]
pub struct Failure {
    /// Decides the exit code.
    #[serde(rename = "exit")]
    pub kind: FailureKind,
    /// What went wrong, and where.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It was tried and failed.
    Failed,
    /// The command line, the configuration or the request makes no sense.
    Usage,
    /// It would be unsafe, or consent is missing.
    Refused,
    /// No lock manager answers.
    Unreachable,
}

impl FailureKind {
    pub fn exit(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 4,
            Self::Unreachable => 5,
        }
    }
}

impl Serialize for FailureKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.exit())
    }
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, message: message.into(), remedy: remedy.into() }
    }
    /// It was tried and failed: exit 1.
    pub fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, message, remedy)
    }
    /// What was asked makes no sense: exit 2.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(FailureKind::Usage, message, remedy)
    }
    /// It would not be safe: exit 4.
    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, message, remedy)
    }
    /// As it is printed.
    pub fn report(self) -> ErrorReport {
        ErrorReport { schema: SCHEMA, error: self }
    }
}

/// A command that failed, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    pub error: Failure,
}
