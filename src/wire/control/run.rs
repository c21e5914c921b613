//! A run, from `begin` to `settle` or `abort`.

use std::fmt;

use super::ids::{InstanceId, RunId};
use super::listing::{ClientRef, MAX_REFS, Scope};
use super::pages::PAGE;
use crate::wire::types::{Address, CallerName, NsmState};
use crate::wire::xdr::{List, Maybe, XdrCodec};

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct RunArgs {
    /// Which.
    pub run: RunId,
}

/// A page of something that belongs to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct RunPageAfter {
    /// Which run.
    pub run: RunId,
    /// The cursor.
    pub after: u64,
}

/// Runs.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunList {
    /// Their ids, the oldest first.
    pub runs: List<RunId, 64>,
}

/// How much a run disturbs others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Mode {
    /// Every ordinary lock request is refused.
    Strict = 0,
    /// Only those that meet another owner's pending lock.
    Targeted = 1,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Targeted => "targeted",
        })
    }
}

/// Counts of a run, in locks as marked (resurrected and conflicts: in reclaims).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, XdrCodec)]
pub struct Counts {
    /// Locks in scope when the run began.
    pub in_scope: u64,
    /// Not yet decided.
    pub pending: u64,
    /// Reclaimed by their owner, or locked again in targeted grace.
    pub reclaimed: u64,
    /// Unlocked by their owner, or their client's reboot notice came in.
    pub released: u64,
    /// Dropped at settle, in whole or in part.
    pub dropped: u64,
    /// Spared at settle.
    pub kept: u64,
    /// Not known.
    pub unverified: u64,
    /// Reclaims of locks the manager did not know (or did not know in whole).
    pub resurrected: u64,
    /// Reclaims refused because another owner holds or pends the range.
    pub conflicts: u64,
}

/// The active run.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunStatus {
    /// Which.
    pub run: RunId,
    /// Its mode.
    pub mode: Mode,
    /// Its NSM state number.
    pub nsm_state: NsmState,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Milliseconds until the deadline as it stands.
    pub remaining_ms: u64,
    /// Milliseconds until the latest deadline it can be extended to.
    pub latest_remaining_ms: u64,
    /// Milliseconds since the last reclaim; none if there was none.
    pub last_reclaim_ms: Maybe<u64>,
    /// How far it is.
    pub counts: Counts,
    /// Whether the controller said that notices go out.
    pub notices_begun: bool,
}

/// `--unreachable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Unreachable {
    /// Spare clients that never acked.
    Keep = 0,
    /// Drop the locks of those that the plan named as unreachable.
    Drop = 1,
}

/// `--silent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Silent {
    /// Drop theirs unless too many are silent.
    Auto = 0,
    /// Never drop theirs.
    Keep = 1,
    /// Always drop theirs.
    Drop = 2,
}

/// What may be dropped at settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
pub struct Policy {
    /// Clients that never acked.
    pub unreachable: Unreachable,
    /// Clients that acked and reclaimed nothing.
    pub silent: Silent,
    /// Whether unmonitored locks are in scope too.
    pub include_unmonitored: bool,
}

/// Starts a run: state bumped and durable, then mark and grace in one step.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct BeginArgs {
    /// The new run. One that this manager already began answers as it did then.
    pub run: RunId,
    /// The instance that the plan saw.
    pub instance: InstanceId,
    /// The NSM state that the plan saw.
    pub nsm_state: NsmState,
    /// What it covers.
    pub scope: Scope,
    /// Strict or targeted. Strict wants the scope to be everything.
    pub mode: Mode,
    /// What may be dropped.
    pub policy: Policy,
    /// The unreachable clients that the plan named: the only ones `Unreachable::Drop` covers.
    pub may_drop: List<ClientRef, MAX_REFS>,
    /// Milliseconds of grace; 1 to a day.
    pub grace_ms: u64,
    /// Milliseconds to which it may be extended; at least `grace_ms`.
    pub grace_max_ms: u64,
}

/// A run has begun; grace is on.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Begun {
    /// Which.
    pub run: RunId,
    /// The NSM state number before.
    pub old_state: NsmState,
    /// The one every notice carries: odd, different, durable.
    pub new_state: NsmState,
    /// Locks marked.
    pub in_scope: u64,
    /// Unmonitored locks that were left alone.
    pub unmonitored: u64,
    /// How many clients are to be notified (`RunClients` has them).
    pub clients: u32,
    /// The names under which clients know this server, in order.
    pub names: List<CallerName, 16>,
}

/// A client to notify.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunClient {
    /// Its number in this run.
    pub index: u32,
    /// Its name.
    pub name: CallerName,
    /// Its addresses; the first one is the one to notify first.
    pub addresses: List<Address, 16>,
    /// The server addresses it called: notices leave from each.
    pub server_addresses: List<Address, 16>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
    /// Locks in scope.
    pub locks: u64,
    /// Whether its address is shared, so that an ack proves nothing of it.
    pub shared_address: bool,
    /// Whether there is evidence that its locks are stale.
    pub suspect: bool,
}

/// A page of a run's clients.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunClientPage {
    /// The rows.
    pub clients: List<RunClient, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}

/// The fate of a client's notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Delivery {
    /// Nothing was heard of it yet, or nothing was reported. Reported: it was given up, and nothing could be sent to it.
    NotTold = 0,
    /// All its notices were acked.
    Acked = 1,
    /// Some were, not all.
    Partial = 2,
    /// None was answered.
    NoAnswer = 3,
    /// Its rpcbind says there is no statd.
    NoStatd = 4,
    /// Its name has no address.
    NameUnknown = 5,
    /// Its statd, or its host, refused the call.
    Refused = 6,
    /// All were acked, at least one of them by an address that it did not call from but has its name. That may
    /// be another machine.
    Elsewhere = 7,
}

impl Delivery {
    /// Given up: none of its notices was acked, and they will hardly be.
    pub fn is_given_up(self) -> bool {
        match self {
            Self::NoAnswer | Self::NoStatd | Self::NameUnknown | Self::Refused => true,
            Self::NotTold | Self::Acked | Self::Partial | Self::Elsewhere => false,
        }
    }
}

/// One client's delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct ClientProgress {
    /// The client's number in the run.
    pub client: u32,
    /// The fate of its notices.
    pub delivery: Delivery,
    /// How many milliseconds ago that was seen (the last ack, for `Acked`).
    pub ago_ms: u64,
    /// Whether its statd answered with a state number other than its LOCKs carried.
    pub suspect: bool,
}

/// What the controller has seen since it last told.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ProgressArgs {
    /// Which run.
    pub run: RunId,
    /// True from just before the first notice on: a run without it is aborted at its deadline.
    pub notices_begun: bool,
    /// Clients whose delivery changed.
    pub clients: List<ClientProgress, 4096>,
}

/// Moves the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct ExtendArgs {
    /// Which run.
    pub run: RunId,
    /// Milliseconds from now; never earlier than the deadline as it stands, cut at the latest one.
    pub remaining_ms: u64,
}

/// Whether a run may settle before its deadline (statement 7). Otherwise the answer is `StillPending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum SettleWhen {
    /// All that is pending.
    Always = 0,
    /// Only if no lock is.
    NothingPending = 1,
    /// Only if all that is pending belongs to clients that are given up, have reclaimed nothing, and keep their locks.
    NothingAwaited = 2,
}

impl SettleWhen {
    /// Why a run ends that settles on this condition, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Always => "deadline",
            Self::NothingPending => "nothing pending",
            Self::NothingAwaited => "only locks of clients that do not answer are pending",
        }
    }
}

/// Ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct SettleArgs {
    /// Which run.
    pub run: RunId,
    /// On what condition.
    pub when: SettleWhen,
}
