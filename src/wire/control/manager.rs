//! The manager: its identity, capabilities and present state.

use super::ids::InstanceId;
use super::run::RunStatus;
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{List, Maybe, Text, XdrCodec};

/// What a manager can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct Capabilities {
    /// Marks locks pending and keeps them protected (statements 2, 4, 5, 9 and 10 hold).
    pub mark: bool,
    /// Lists locks.
    pub list_locks: bool,
    /// Knows each lock's client and owner.
    pub knows_owners: bool,
    /// Targeted grace.
    pub targeted: bool,
    /// Can settle before the deadline.
    pub settle_early: bool,
    /// Grants late reclaims.
    pub late_reclaims: bool,
    /// Frees one client's locks.
    pub release: bool,
    /// Knows what was reclaimed.
    pub knows_reclaims: bool,
    /// Takes paths and exports in a scope, not only file handles.
    pub knows_paths: bool,
    /// `BEGIN` itself frees every lock in scope: from then on none of them can be kept, and the run
    /// cannot be aborted.
    pub begin_releases: bool,
}

impl Capabilities {
    /// Those of a manager that takes part in the whole protocol, and knows files by their handles alone.
    pub const COOPERATES: Self = Self {
        mark: true,
        list_locks: true,
        knows_owners: true,
        targeted: true,
        settle_early: true,
        late_reclaims: true,
        release: true,
        knows_reclaims: true,
        knows_paths: false,
        begin_releases: false,
    };

    /// Whether what is held, and what a run does to it, can be known: by a mark of each lock, or by listing them. Where it
    /// cannot, no number of locks says anything.
    pub fn sees_locks(&self) -> bool {
        self.mark || self.list_locks
    }
}

/// The manager's identity.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Info {
    /// `nlmd 0.1.0`, say.
    pub software: Text<128>,
    /// Its present instance.
    pub instance: InstanceId,
    /// Its NSM state number now.
    pub nsm_state: NsmState,
    /// The names under which it tells clients of a restart, in order.
    pub names: List<CallerName, 16>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The kinds of lock it arbitrates: `nlm`.
    pub domains: List<Text<64>, 16>,
}

/// What ordinary lock requests meet now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum Grace {
    /// No grace: requests are served.
    Open = 0,
    /// Ordinary server recovery after a restart.
    Recovery = 1,
    /// A run in strict grace.
    Strict = 2,
    /// A run in targeted grace.
    Targeted = 3,
    /// A run is settling.
    Settling = 4,
}

/// The manager as a whole.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Status {
    /// Its present instance.
    pub instance: InstanceId,
    /// Its NSM state number now.
    pub nsm_state: NsmState,
    /// What ordinary requests meet.
    pub grace: Grace,
    /// Milliseconds until that grace ends by itself (a run's deadline); 0 when open, or when that is not known.
    pub grace_remaining_ms: u64,
    /// Clients known.
    pub clients: u64,
    /// Clients with a durable monitor record.
    pub monitored: u64,
    /// Locks held or pending, shares included.
    pub locks: u64,
    /// Locks whose owners cannot be notified (`NM_LOCK`).
    pub unmonitored: u64,
    /// Blocked requests.
    pub waiters: u64,
    /// The active run.
    pub run: Maybe<RunStatus>,
    /// Grows with every change that a watcher may care about.
    pub cursor: u64,
}
