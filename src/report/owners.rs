//! Whether a status or a list shows the owners of locks, and if not, why.

use serde::Serialize;

/// Whether a list shows the owners of locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OwnersReport {
    /// How it was found out; none where it was not.
    pub how: Option<String>,
    /// Why lists do not show owners; none if they do.
    pub why_not: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl OwnersReport {
    /// It does, and was found out so.
    pub fn known(how: &str) -> Self {
        Self { how: Some(how.to_owned()), why_not: None, remedy: None }
    }
    /// It does, as the lock manager itself has it.
    pub fn told() -> Self {
        Self::known("told by the lock manager")
    }
    /// It does not; `remedy` may be empty.
    pub fn unknown(why: &str, remedy: &str) -> Self {
        let remedy = Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty());
        Self { how: None, why_not: Some(why.to_owned()), remedy }
    }
}
