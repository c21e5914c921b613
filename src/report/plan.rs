//! What a run would do.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::progress::UnknownWord;
use super::{Failure, SCHEMA, ScopeReport};
use crate::wire::types::Address;

/// A plan, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlanReport {
    /// Version of this kind of document; raised only when a field goes.
    pub schema: u32,
    pub plan: Plan,
}

impl PlanReport {
    /// A plan in this schema.
    pub fn new(plan: Plan) -> Self {
        Self { schema: SCHEMA, plan }
    }
}

/// What a run would do, as the lock manager and the clients answered when it was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plan {
    /// Changes with everything that makes a plan stale.
    pub fingerprint: String,
    /// The mode: `strict` or `targeted`.
    pub mode: String,
    /// What it would cover.
    pub scope: ScopeReport,
    /// Locks that the run would cover, as of now.
    pub in_scope: u64,
    /// Unmonitored locks (`NM_LOCK`); left alone unless they are included.
    pub unmonitored: u64,
    /// Who would be told.
    pub clients: Vec<PlanClient>,
    /// What users will feel of it, a sentence each, the first thing first.
    pub effects: Vec<String>,
    /// What wants consent, a sentence each; empty when nothing does.
    pub consent: Vec<String>,
    /// Why the run is refused even with consent; none where it is not.
    pub refusal: Option<Refusal>,
    /// The names under which clients would be told, in order. For the text only.
    #[serde(skip)]
    pub names: Vec<String>,
    /// What does not hold with this lock manager, a sentence each. For the text only.
    #[serde(skip)]
    pub caveats: Vec<String>,
}

/// Why a run is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusal {
    /// Why it is refused.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<Failure> for Refusal {
    fn from(Failure { message, remedy, .. }: Failure) -> Self {
        Self { message, remedy }
    }
}

/// A client that would be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlanClient {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The first of its addresses.
    pub address: Option<Address>,
    /// Its locks in scope; none where the lock manager does not know whose a lock is.
    pub locks: Option<u64>,
    /// Whether its statd answers now.
    pub probe: Probe,
    /// What may keep it from hearing all of its notices; none of most.
    pub note: Option<String>,
    /// The server addresses its notices would leave from. For the text only.
    #[serde(skip)]
    pub from: Vec<Address>,
}

/// What a client's statd answered to SM_STAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Its statd answered.
    Answers,
    /// It answered with a state number other than the client's LOCKs carried.
    Suspect,
    /// Nothing came back in time.
    NoAnswer,
    /// Its rpcbind says that it runs no statd.
    NoStatd,
    /// Its name has no address.
    NameUnknown,
    /// Its statd, or its host, refused the call.
    Refused,
    /// It was not asked.
    NotAsked,
}

impl Probe {
    pub const ALL: [Self; 7] =
        [Self::Answers, Self::Suspect, Self::NoAnswer, Self::NoStatd, Self::NameUnknown, Self::Refused, Self::NotAsked];
    /// Its name, as the record and the JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Suspect => "suspect",
            Self::NoAnswer => "no-answer",
            Self::NoStatd => "no-statd",
            Self::NameUnknown => "name-unknown",
            Self::Refused => "refused",
            Self::NotAsked => "not-asked",
        }
    }
    /// Whether the plan names the client as unreachable.
    pub fn is_unreachable(self) -> bool {
        match self {
            Self::NoAnswer | Self::NoStatd | Self::NameUnknown | Self::Refused => true,
            Self::Answers | Self::Suspect | Self::NotAsked => false,
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Probe {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| UnknownWord(text.to_owned()))
    }
}
