//! What a run would do.

use serde::{Deserialize, Serialize};

use super::words::words;
use super::{Failure, SCHEMA, ScopeReport};
use crate::wire::types::Address;

/// A plan, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlanReport {
    /// Version of this kind of document; raised only when a field is removed.
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
    /// Whether the lock manager can list its locks. If not, `in_scope` leaves out locks whose number is not known.
    pub locks_listed: bool,
    /// Unmonitored locks (`NM_LOCK`); left alone unless they are included.
    pub unmonitored: u64,
    /// The clients that would be notified.
    pub clients: Vec<PlanClient>,
    /// What users will notice of the run, a sentence each, the most important first.
    pub effects: Vec<String>,
    /// What needs consent, a sentence each; empty when nothing does.
    pub consent: Vec<String>,
    /// Why the run is refused even with consent; none where it is not.
    pub refusal: Option<Refusal>,
    /// The names under which clients would be notified, in order. For the text only.
    #[serde(skip)]
    pub names: Vec<String>,
    /// What does not hold with this lock manager, a sentence each. For the text only.
    #[serde(skip)]
    pub caveats: Vec<String>,
}

/// Why a run or a release is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A client that would be notified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlanClient {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The first of its addresses.
    pub address: Option<Address>,
    /// Its locks in scope; none if the lock manager does not know who owns a lock.
    pub locks: Option<u64>,
    /// Whether its statd answers now.
    pub probe: Probe,
    /// What may keep it from getting all of its notices; none for most clients.
    pub note: Option<String>,
    /// The server addresses its notices would leave from. For the text only.
    #[serde(skip)]
    pub from: Vec<Address>,
    /// Whether it cannot be notified now. For the text only.
    #[serde(skip)]
    pub untellable: bool,
}

words! {
    /// What a client's statd answered to SM_STAT.
    #[derive(serde::Deserialize)]
    pub enum Probe {
        /// Its statd answered.
        Answers = "answers",
        /// It answered with another state number than the client's LOCKs carried.
        Suspect = "suspect",
        /// Nothing answered in time.
        NoAnswer = "no-answer",
        /// Its rpcbind says that it runs no statd.
        NoStatd = "no-statd",
        /// Its name has no address.
        NameUnknown = "name-unknown",
        /// Its statd, or its host, refused the call.
        Refused = "refused",
        /// It was not asked.
        NotAsked = "not-asked",
    }
}

impl Probe {
    /// Whether it was asked, and no program there accepts a notice now.
    pub fn is_unreachable(self) -> bool {
        match self {
            Self::NoAnswer | Self::NoStatd | Self::NameUnknown | Self::Refused => true,
            Self::Answers | Self::Suspect | Self::NotAsked => false,
        }
    }
}
