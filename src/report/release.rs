//! Freeing chosen locks: what would be freed, what was seen of its clients, and what came of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::words::words;
use super::{LockListing, Probe, Refusal, SCHEMA, ScopeReport, Stamp};
use crate::units::millis;
use crate::wire::types::Address;

/// A release, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// What was chosen, and what came of it.
    pub release: Release,
}

impl ReleaseReport {
    pub fn new(release: Release) -> Self {
        Self { schema: SCHEMA, release }
    }
}

/// Chosen locks, what was seen of their clients, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Release {
    /// Its UUID in the record; none for a plan.
    pub id: Option<String>,
    /// The lock manager's kind.
    pub manager: String,
    /// What was asked for.
    pub scope: ScopeReport,
    /// What narrows the scope: owners and ranges, as they were asked for.
    pub only: Vec<String>,
    /// What came of it.
    pub outcome: ReleaseOutcome,
    /// The exit code; none for a plan.
    pub exit: Option<u8>,
    /// When the lock manager was asked; none for a plan.
    pub at: Option<Stamp>,
    /// Who asked: the user who had logged in, else the user of the process; none for a plan.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Locks and shares that were chosen; none if the lock manager does not know who owns locks.
    pub chosen: Option<u64>,
    /// Blocked requests that go with them.
    pub chosen_waiters: u64,
    /// What the lock manager says it did; none for a plan.
    pub released: Option<ReleasedCounts>,
    /// How long nlmctl waited for answers of the clients, in milliseconds.
    pub probed_for_ms: u64,
    /// The clients whose locks were chosen.
    pub clients: Vec<ReleaseClient>,
    /// The first of the chosen locks, as the lock manager listed them; if it does not know who owns locks, the locks
    /// that it saw go.
    pub locks: Vec<ReleaseLock>,
    /// The first of the chosen locks that are still held.
    pub left: Vec<ReleaseLeft>,
    /// What else the lock manager said about it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What needs consent, a sentence each.
    pub consent: Vec<String>,
    /// In a plan, why the release is refused even with consent; else none.
    #[serde(default)]
    pub refusal: Option<Refusal>,
}

/// What became of what was chosen, as the lock manager counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleasedCounts {
    /// Locks and shares that are free.
    pub locks: u64,
    /// Blocked requests that went with them.
    pub waiters: u64,
    /// Blocked requests on these files that were granted meanwhile.
    pub offered: u64,
    /// Chosen locks that are still held; if the lock manager does not know who owns locks, clients that may still hold
    /// some.
    pub left: u64,
}

words! {
    /// How a release ended.
    #[derive(serde::Deserialize)]
    pub enum ReleaseOutcome {
        /// Nothing was asked of the lock manager.
        Planned = "planned",
        /// There was nothing to release, and nothing was asked of the lock manager.
        NothingHeld = "nothing-held",
        /// All chosen locks are free.
        Released = "released",
        /// Some of the chosen locks are still held.
        Partial = "partial",
        /// The lock manager refused, and nothing was changed.
        Refused = "refused",
        /// The result is not known.
        Unverified = "unverified",
    }
}

impl ReleaseOutcome {
    /// The exit code that goes with it; none of a plan.
    pub fn exit(self) -> Option<u8> {
        match self {
            Self::Planned => None,
            Self::NothingHeld | Self::Released => Some(0),
            Self::Partial => Some(3),
            Self::Refused => Some(4),
            Self::Unverified => Some(1),
        }
    }
}

/// What a client's lockd answered to NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LockdProbe {
    /// Its lockd answered.
    Answers,
    /// Its rpcbind answered and knows a lockd, but the lockd did not answer.
    RpcbindOnly,
    /// Its rpcbind says that it runs no lockd.
    NotRegistered,
    /// Its lockd, its rpcbind or its host refused the call.
    Refused,
    /// Nothing answered in time.
    NoAnswer,
    /// It was not asked.
    NotAsked,
}

/// Whether any program on a client's host answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HostAnswer {
    /// Something on it answered.
    Answers,
    /// Nothing answered in time; this does not prove that the host is dead.
    NoAnswer,
    /// Nothing could be asked.
    NotAsked,
}

impl HostAnswer {
    /// From what its statd and its lockd said. A refusal, and an rpcbind that knows no such program, are
    /// answers too: the host runs.
    pub fn of(statd: Probe, lockd: LockdProbe) -> Self {
        let statd = match statd {
            Probe::Answers | Probe::Suspect | Probe::NoStatd | Probe::Refused => Self::Answers,
            Probe::NoAnswer => Self::NoAnswer,
            Probe::NameUnknown | Probe::NotAsked => Self::NotAsked,
        };
        let lockd = match lockd {
            LockdProbe::Answers | LockdProbe::RpcbindOnly | LockdProbe::NotRegistered | LockdProbe::Refused => {
                Self::Answers
            }
            LockdProbe::NoAnswer => Self::NoAnswer,
            LockdProbe::NotAsked => Self::NotAsked,
        };
        match (statd, lockd) {
            (Self::Answers, _) | (_, Self::Answers) => Self::Answers,
            (Self::NoAnswer, _) | (_, Self::NoAnswer) => Self::NoAnswer,
            (Self::NotAsked, Self::NotAsked) => Self::NotAsked,
        }
    }
}

/// A client whose locks were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseClient {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The first of its addresses.
    pub address: Option<Address>,
    /// Its locks that were chosen; none if the lock manager does not know who owns locks.
    pub locks: Option<u64>,
    /// Its blocked requests that were chosen.
    pub waiters: u64,
    /// Whether these are all its locks.
    pub whole: bool,
    /// Whether another name calls from its address: then it is not known which client answered.
    pub shared_address: bool,
    /// Whether any program on its host answered.
    pub heard: HostAnswer,
    /// What its statd answered.
    pub statd: Probe,
    /// What its lockd answered.
    pub lockd: LockdProbe,
    /// The NSM state number that its locks carried; none if they carried none.
    pub locked_with: Option<i32>,
    /// The NSM state number that its statd answered.
    pub state: Option<i32>,
    /// Why its locks may be stale.
    pub suspicions: Vec<String>,
}

/// A lock that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseLock {
    #[serde(flatten)]
    pub lock: LockListing,
    /// The file's path, if it is known.
    #[serde(default)]
    pub path: Option<String>,
    /// Who waits for it: clients by name, with svid.
    pub waited_for: Vec<Waiting>,
}

/// A chosen lock that is still held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseLeft {
    #[serde(flatten)]
    pub lock: LockListing,
    /// The file's path, if it is known.
    #[serde(default)]
    pub path: Option<String>,
    /// Why it is still held, if that is known.
    pub why: Option<String>,
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Waiting {
    /// The client's `caller_name`.
    pub name: String,
    /// The number of its process (svid).
    pub svid: i32,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.svid)
    }
}

/// "no answer within 3 s", as it is waited for.
fn within(ms: u64) -> String {
    format!("no answer within {}", millis(ms))
}

impl ReleaseClient {
    /// What its statd said, for people.
    pub fn statd_words(&self, probed_for_ms: u64) -> String {
        match (self.statd, self.state) {
            (Probe::NoAnswer, _) => within(probed_for_ms),
            (Probe::Answers | Probe::Suspect, Some(state)) => format!("answers, state {state}"),
            (Probe::Answers | Probe::Suspect, None) => "answers".to_owned(),
            (Probe::NoStatd, _) => "not registered with its rpcbind".to_owned(),
            (Probe::NameUnknown, _) => "name unknown".to_owned(),
            (Probe::Refused, _) => "refused".to_owned(),
            (Probe::NotAsked, _) => "not asked".to_owned(),
        }
    }
    /// What its lockd said, for people.
    pub fn lockd_words(&self, probed_for_ms: u64) -> String {
        match self.lockd {
            LockdProbe::Answers => "answers".to_owned(),
            LockdProbe::RpcbindOnly => format!("{}, its rpcbind answers", within(probed_for_ms)),
            LockdProbe::NotRegistered => "not registered with its rpcbind".to_owned(),
            LockdProbe::Refused => "refused".to_owned(),
            LockdProbe::NoAnswer => within(probed_for_ms),
            LockdProbe::NotAsked => "not asked".to_owned(),
        }
    }
}

/// Releases of the record, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleasesReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The newest first.
    pub releases: Vec<ReleaseListing>,
}

/// A release of the record, in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReleaseListing {
    /// The release's UUID.
    pub id: String,
    /// The lock manager's kind.
    pub manager: String,
    /// When the lock manager was asked.
    pub at: Stamp,
    /// What came of it.
    pub outcome: ReleaseOutcome,
    /// What was asked for.
    pub scope: ScopeReport,
    /// Locks that are free, as the lock manager said.
    pub locks: u64,
    /// Blocked requests that went with them.
    pub waiters: u64,
    /// Locks that were still there.
    pub left: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_is_one_and_silence_is_told_from_not_asked() {
        let table = [
            (Probe::Answers, LockdProbe::NoAnswer, HostAnswer::Answers),
            (Probe::NoAnswer, LockdProbe::RpcbindOnly, HostAnswer::Answers),
            (Probe::NoStatd, LockdProbe::NotAsked, HostAnswer::Answers),
            (Probe::NoAnswer, LockdProbe::Refused, HostAnswer::Answers),
            (Probe::NoAnswer, LockdProbe::NoAnswer, HostAnswer::NoAnswer),
            (Probe::NotAsked, LockdProbe::NoAnswer, HostAnswer::NoAnswer),
            (Probe::NameUnknown, LockdProbe::NotAsked, HostAnswer::NotAsked),
        ];
        for (statd, lockd, heard) in table {
            assert_eq!(HostAnswer::of(statd, lockd), heard, "{statd} {lockd:?}");
        }
    }

    #[test]
    fn only_all_of_it_is_exit_0() {
        let exits: Vec<_> = ReleaseOutcome::ALL.into_iter().map(ReleaseOutcome::exit).collect();
        assert_eq!(exits, [None, Some(0), Some(0), Some(3), Some(4), Some(1)]);
        for outcome in ReleaseOutcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
        }
    }
}
