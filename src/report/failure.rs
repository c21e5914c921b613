//! A command that failed: the one error that an operator reads.

use std::fmt::Display;
use std::net::IpAddr;

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

/// A client in a command that a remedy gives: root copies such a command, and the client chose its name itself. So a name
/// stands there only if it is nothing else to a shell, no option and no other client's address; else the address, if known.
pub fn in_command(name: &str, address: Option<impl Display>) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && name.parse::<IpAddr>().is_err();
    match address {
        _ if is_plain => name.to_owned(),
        Some(address) => address.to_string(),
        None => "NAME".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_for_root_has_no_name_that_a_shell_or_an_option_reads_as_something_else() {
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        for plain in ["host1", "a.example.org", "a_b-c"] {
            assert_eq!(in_command(plain, address), plain);
        }
        for odd in [
            "$(reboot)",
            "a;b",
            "a|b",
            "a&b",
            "`id`",
            "a>b",
            "a*",
            "a\\x20b",
            "--yes",
            ".a",
            "\\empty",
            "",
            "192.0.2.9",
            "é",
        ] {
            assert_eq!(
                (in_command(odd, address), in_command(odd, None::<IpAddr>)),
                ("192.0.2.1".into(), "NAME".into()),
                "{odd}"
            );
        }
    }
}
