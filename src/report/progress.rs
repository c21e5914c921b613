//! A run while it runs.

use std::time::Duration;

use super::words::words;

words! {
    /// How far a run is. Each is durable in the record before what it announces is done.
    pub enum Phase {
        /// Planned and consented to; nothing was asked of the lock manager.
        Planned = "planned",
        /// `begin` is being asked: it may or may not have happened.
        Beginning = "beginning",
        /// Locks are marked and grace is on; no notice has left.
        Begun = "begun",
        /// Notices leave: from here on they may have reached clients.
        Notifying = "notifying",
        /// All notices are acked or given up; reclaims are awaited.
        Reclaiming = "reclaiming",
        /// `settle` is being asked: it may or may not have happened.
        Settling = "settling",
        /// Ended, and its result is in the record.
        Done = "done",
    }
}

/// A run at one moment, for the live view. Sent whenever one of these changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Until the present deadline, as the lock manager last said.
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
