//! A run while it runs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// How far a run is. Each is durable in the record before what it announces is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Planned and consented to; nothing was asked of the lock manager.
    Planned,
    /// `begin` is being asked: it may or may not have happened.
    Beginning,
    /// Locks are marked and grace is on; no notice has left.
    Begun,
    /// Notices leave: from here on they may have reached clients.
    Notifying,
    /// All notices are acked or given up; reclaims are awaited.
    Reclaiming,
    /// `settle` is being asked: it may or may not have happened.
    Settling,
    /// Ended, and its result is in the record.
    Done,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 7] =
        [Self::Planned, Self::Beginning, Self::Begun, Self::Notifying, Self::Reclaiming, Self::Settling, Self::Done];
    /// Its name, as the record and the JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Beginning => "beginning",
            Self::Begun => "begun",
            Self::Notifying => "notifying",
            Self::Reclaiming => "reclaiming",
            Self::Settling => "settling",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not the name of a phase, outcome, fate or probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(pub String);

impl FromStr for Phase {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

/// A run at one moment, for the live view. Sent whenever one of these changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Until the deadline as it stands, as the lock manager last said.
    pub grace_remaining: Duration,
    /// From begin to that deadline.
    pub grace_total: Duration,
    /// Clients that are to be notified.
    pub clients: u64,
    /// Of them, acked (all notices).
    pub acked: u64,
    /// Of them, given up for now.
    pub given_up: u64,
    /// Locks in scope when the run began.
    pub in_scope: u64,
    /// Of them, still pending, as the lock manager last said.
    pub pending: u64,
}

impl Progress {
    pub const START: Self = Self {
        phase: Phase::Planned,
        grace_remaining: Duration::ZERO,
        grace_total: Duration::ZERO,
        clients: 0,
        acked: 0,
        given_up: 0,
        in_scope: 0,
        pending: 0,
    };
}

impl Default for Progress {
    fn default() -> Self {
        Self::START
    }
}
