//! The control protocol: how a controller drives a cooperating lock manager.
//!
//! ONC RPC program [`PROGRAM`], version 1, records over a Unix stream socket. `control.x` beside
//! this file is the same thing in XDR's own language, for other lock managers to implement.
//! A manager of another kind (`manager/`) answers with these same types.
//!
//! Every procedure but NULL answers with [`Answer`]: the value, or a [`Refusal`]. Clients and locks
//! of a run, of a listing and of a result come in pages; a page's `next` is the cursor of the one
//! after it, 0 when there is none. A run's client is named by its index (`u32`) in the list that
//! `begin` fixed.

mod release;

pub use release::{ClientSeen, LockDigest, RELEASE, ReleaseArgs, Released};

use std::fmt;

use super::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use super::xdr::{List, Maybe, Text, XdrCodec};

/// In the range that RFC 5531 leaves to local use.
pub const PROGRAM: u32 = 0x204E_4C4D;
/// The only version.
pub const VERSION: u32 = 1;
/// Most rows in one page.
pub const PAGE: usize = 1024;
/// Most client or file references in a scope, and clients in a drop list.
pub const MAX_REFS: usize = 100_000;
/// Longest record either side takes, in bytes.
pub const MAX_RECORD: usize = 16 << 20;

/// Procedure numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Procedure {
    /// void -> void
    Null = 0,
    /// void -> [`Info`]
    Info = 1,
    /// void -> [`Status`]
    Status = 2,
    /// [`PageAfter`] -> [`ClientPage`]
    Clients = 3,
    /// [`LocksArgs`] -> [`LockPage`]
    Locks = 4,
    /// [`BeginArgs`] -> [`Begun`]. Idempotent by run id.
    Begin = 5,
    /// [`RunPageAfter`] -> [`RunClientPage`]: the clients to notify, as `begin` fixed them.
    RunClients = 6,
    /// [`ProgressArgs`] -> [`Status`]
    Progress = 7,
    /// [`ExtendArgs`] -> [`Status`]
    Extend = 8,
    /// [`SettleArgs`] -> [`RunResult`]: answers once the run has settled and its result is durable.
    Settle = 9,
    /// [`RunArgs`] -> [`RunResult`]
    Abort = 10,
    /// [`RunArgs`] -> [`RunResult`]: of a run that has ended.
    Result = 11,
    /// [`RunPageAfter`] -> [`ClientResultPage`]
    ResultClients = 12,
    /// [`RunPageAfter`] -> [`LockFatePage`]
    ResultLocks = 13,
    /// [`RunArgs`] -> void: the result was fetched and stored.
    Acknowledge = 14,
    /// [`ReleaseArgs`] -> [`Released`]: frees chosen locks.
    Release = 15,
    /// [`WatchArgs`] -> [`Watched`]: answers when something changed, or at the time-out.
    Watch = 16,
    /// void -> [`RunList`]: ended runs whose result nobody has acknowledged.
    Unfetched = 17,
}

impl Procedure {
    /// Every procedure, for dispatch and for tests.
    pub const ALL: [Self; 18] = [
        Self::Null,
        Self::Info,
        Self::Status,
        Self::Clients,
        Self::Locks,
        Self::Begin,
        Self::RunClients,
        Self::Progress,
        Self::Extend,
        Self::Settle,
        Self::Abort,
        Self::Result,
        Self::ResultClients,
        Self::ResultLocks,
        Self::Acknowledge,
        Self::Release,
        Self::Watch,
        Self::Unfetched,
    ];
    /// The procedure of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as u32 == number)
    }
    /// Whether it changes nothing, and so is allowed on the read-only socket.
    pub fn is_read_only(self) -> bool {
        match self {
            Self::Null
            | Self::Info
            | Self::Status
            | Self::Clients
            | Self::Locks
            | Self::RunClients
            | Self::Result
            | Self::ResultClients
            | Self::ResultLocks
            | Self::Watch
            | Self::Unfetched => true,
            Self::Begin
            | Self::Progress
            | Self::Extend
            | Self::Settle
            | Self::Abort
            | Self::Acknowledge
            | Self::Release => false,
        }
    }
}

/// The value, or why not.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub enum Answer<T: super::xdr::Pack + super::xdr::Unpack> {
    /// Done.
    #[xdr(0)]
    Ok(T),
    /// Not done.
    #[xdr(1)]
    Refused(Refusal),
}

/// Why a manager did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: Text<1024>,
}

impl Refusal {
    /// A refusal with its words.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: Text::clipped(message) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_str())
    }
}

impl std::error::Error for Refusal {}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum RefusalCode {
    /// Another run is active.
    RunActive = 1,
    /// A grace period that is no run's is active (the manager restarted a moment ago).
    GraceActive = 2,
    /// Instance, NSM state or (of a release) locks are not those of the plan.
    StalePlan = 3,
    /// No run of that id is known.
    UnknownRun = 4,
    /// The run is not in a phase that allows it.
    WrongPhase = 5,
    /// `only_if_nothing_pending` was asked and something is.
    StillPending = 6,
    /// The scope or a value makes no sense here.
    BadRequest = 7,
    /// The manager cannot do this.
    Unsupported = 8,
    /// State or result could not be made durable; nothing was changed.
    NotDurable = 9,
    /// The caller may not.
    NotAllowed = 10,
}

/// A run's identity: a UUID's 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, XdrCodec)]
pub struct RunId(pub [u8; 16]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl std::str::FromStr for RunId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(uuid::Uuid::parse_str(text)?.into_bytes()))
    }
}

/// One life of a lock manager: a new one at each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
pub struct InstanceId(pub [u8; 16]);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

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

/// Who the manager is.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Info {
    /// `nlmd 0.1.0`, say.
    pub software: Text<128>,
    /// This life of it.
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

/// The manager as a whole.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Status {
    /// This life of it.
    pub instance: InstanceId,
    /// Its NSM state number now.
    pub nsm_state: NsmState,
    /// What ordinary requests meet.
    pub grace: Grace,
    /// Milliseconds until that grace ends by itself (a run's deadline); 0 when open.
    pub grace_remaining_ms: u64,
    /// Clients known.
    pub clients: u64,
    /// Clients with a durable monitor record.
    pub monitored: u64,
    /// Locks held or pending, shares included.
    pub locks: u64,
    /// Locks that nobody could be notified about (`NM_LOCK`).
    pub unmonitored: u64,
    /// Blocked requests.
    pub waiters: u64,
    /// The active run.
    pub run: Maybe<RunStatus>,
    /// Grows with every change that a watcher may care about.
    pub cursor: u64,
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
    /// Nobody knows.
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

/// A page's start: 0, or the `next` of the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct PageAfter {
    /// The cursor.
    pub after: u64,
}

/// A page of something that belongs to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct RunPageAfter {
    /// Which run.
    pub run: RunId,
    /// The cursor.
    pub after: u64,
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct RunArgs {
    /// Which.
    pub run: RunId,
}

/// A client of the manager.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientRow {
    /// Its `caller_name`.
    pub name: CallerName,
    /// The addresses it called from, the first one first.
    pub addresses: List<Address, 16>,
    /// The server addresses it called.
    pub server_addresses: List<Address, 16>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
    /// Whether a durable monitor record exists.
    pub monitored: bool,
    /// Whether another name calls from one of its addresses (NAT).
    pub shared_address: bool,
    /// Locks and shares it holds.
    pub locks: u64,
    /// Of them, unmonitored ones.
    pub unmonitored: u64,
    /// Its blocked requests.
    pub waiters: u64,
    /// Why its locks may be stale; empty when there is no evidence.
    pub suspicions: List<Text<128>, 8>,
}

/// A page of clients.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientPage {
    /// The rows.
    pub clients: List<ClientRow, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}

/// Names a client: by name, by address, or by both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct ClientRef {
    /// Its `caller_name`, full or short.
    pub name: Maybe<CallerName>,
    /// One of its addresses.
    pub address: Maybe<Address>,
}

impl std::hash::Hash for Maybe<CallerName> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl std::hash::Hash for Maybe<Address> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// What a run covers. Empty lists are "everything"; both kinds given intersect.
#[derive(Debug, Clone, PartialEq, Eq, Default, XdrCodec)]
pub struct Scope {
    /// These clients.
    pub clients: List<ClientRef, MAX_REFS>,
    /// These files.
    pub files: List<FileHandle, MAX_REFS>,
}

impl Scope {
    /// Whether the run covers everything.
    pub fn is_everything(&self) -> bool {
        self.clients.as_slice().is_empty() && self.files.as_slice().is_empty()
    }
}

/// What `locks` lists.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LocksArgs {
    /// Only these.
    pub scope: Scope,
    /// The cursor.
    pub after: u64,
}

/// What a row of the lock list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
#[repr(u32)]
pub enum LockKind {
    /// A shared (read) byte-range lock.
    Shared = 0,
    /// An exclusive (write) byte-range lock.
    Exclusive = 1,
    /// A SHARE reservation (the whole file).
    Share = 2,
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "read",
            Self::Exclusive => "write",
            Self::Share => "share",
        })
    }
}

/// What a lock is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum LockState {
    /// Held.
    Held = 0,
    /// In scope of the active run and not reclaimed yet.
    Pending = 1,
    /// A blocked request.
    Waiting = 2,
    /// Granted to a blocked request that has not confirmed it.
    Offered = 3,
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Offered => "offered",
        })
    }
}

/// Whose a lock is: client, path and process.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct OwnerRow {
    /// The client's name.
    pub name: CallerName,
    /// The client's address.
    pub address: Address,
    /// The server address it called.
    pub server_address: Address,
    /// How.
    pub transport: Transport,
    /// The NLM version it spoke.
    pub version: u32,
    /// Its process number (0 for a share).
    pub svid: Svid,
    /// Its owner handle.
    pub oh: OwnerHandle,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockRow {
    /// The file.
    pub file: FileHandle,
    /// What it is.
    pub kind: LockKind,
    /// The bytes; everything for a share.
    pub range: ByteRange,
    /// Held, pending, waiting, offered.
    pub state: LockState,
    /// Whether its client can be notified.
    pub monitored: bool,
    /// Whose.
    pub owner: OwnerRow,
}

/// A page of locks.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockPage {
    /// The rows.
    pub locks: List<LockRow, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
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

/// What became of a client's notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Delivery {
    /// Nothing was heard of it yet, or nobody told.
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
}

/// One client's delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct ClientProgress {
    /// The client's number in the run.
    pub client: u32,
    /// What became of its notices.
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

/// Ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct SettleArgs {
    /// Which run.
    pub run: RunId,
    /// Refuse with `StillPending` if a lock is pending (the early settle of statement 7).
    pub only_if_nothing_pending: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum Outcome {
    /// Pending locks were dropped or kept, and grace ended.
    Settled = 0,
    /// Pending locks were held again.
    Aborted = 1,
    /// The manager restarted in the middle; ordinary recovery took over.
    Superseded = 2,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunResult {
    /// Which.
    pub run: RunId,
    /// How.
    pub outcome: Outcome,
    /// Why, for people: `deadline`, `nothing pending`, `controller gone`, ...
    pub reason: Text<256>,
    /// Whether the manager settled alone.
    pub alone: bool,
    /// Whether so many clients were silent that the notices cannot have been understood.
    pub not_understood: bool,
    /// Its mode.
    pub mode: Mode,
    /// The NSM state number before.
    pub old_state: NsmState,
    /// The one its notices carried.
    pub new_state: NsmState,
    /// When it began, milliseconds since 1970 by the manager's clock.
    pub began_unix_ms: u64,
    /// When it ended, likewise.
    pub ended_unix_ms: u64,
    /// The sums.
    pub counts: Counts,
    /// Late reclaims granted since.
    pub late: u64,
}

/// A client's part of a result.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientResult {
    /// Its number in the run.
    pub client: u32,
    /// Its name.
    pub name: CallerName,
    /// Its first address.
    pub address: Address,
    /// What became of its notices, as the manager was told.
    pub delivery: Delivery,
    /// Whether it was a suspect.
    pub suspect: bool,
    /// Whether it acked and reclaimed none of its locks in scope.
    pub silent: bool,
    /// Its counts.
    pub counts: Counts,
}

/// A page of client results.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct ClientResultPage {
    /// The rows.
    pub clients: List<ClientResult, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}

/// What became of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub enum Fate {
    /// Reclaimed.
    Reclaimed = 0,
    /// Released.
    Released = 1,
    /// Dropped at settle.
    Dropped = 2,
    /// Spared at settle.
    Kept = 3,
    /// Reclaimed though unknown.
    Resurrected = 4,
    /// Its reclaim was refused.
    Conflict = 5,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reclaimed => "reclaimed",
            Self::Released => "released",
            Self::Dropped => "dropped",
            Self::Kept => "kept",
            Self::Resurrected => "resurrected",
            Self::Conflict => "conflict",
        })
    }
}

/// A lock of which the record keeps a row.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockFate {
    /// What became of it.
    pub fate: Fate,
    /// The file.
    pub file: FileHandle,
    /// What it is.
    pub kind: LockKind,
    /// The bytes: what was dropped or kept, or what the reclaim asked for.
    pub range: ByteRange,
    /// Whether only a part of the lock as marked (or only the mode's strength) met this fate.
    pub partial: bool,
    /// Whether it came after the end of the run.
    pub late: bool,
    /// Whose.
    pub owner: OwnerRow,
    /// Who else holds or pends it (conflict).
    pub other: Maybe<OwnerRow>,
    /// What the other holds (conflict).
    pub other_range: Maybe<ByteRange>,
}

/// A page of lock fates.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct LockFatePage {
    /// The rows.
    pub locks: List<LockFate, PAGE>,
    /// The next page's cursor, or 0.
    pub next: u64,
}

/// Waits for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct WatchArgs {
    /// The `cursor` of the last answer, 0 at first.
    pub cursor: u64,
    /// Milliseconds to wait at most; cut at 10,000.
    pub timeout_ms: u64,
}

/// Something that happened, for a timeline.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Event {
    /// Its place.
    pub cursor: u64,
    /// Milliseconds since 1970 by the manager's clock.
    pub unix_ms: u64,
    /// One word: `begin`, `settle`, `abort`, `reboot`, `conflict`, ...
    pub kind: Text<32>,
    /// For people.
    pub detail: Text<512>,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Watched {
    /// The manager now.
    pub status: Status,
    /// Events since the cursor, the last 256 at most.
    pub events: List<Event, 256>,
}

/// Runs.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct RunList {
    /// Their ids, the oldest first.
    pub runs: List<RunId, 64>,
}

/// A whole result, as a manager keeps it on disk.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct FullResult {
    /// The sums.
    pub result: RunResult,
    /// Every client that was to be notified.
    pub clients: List<ClientResult, 16_777_216>,
    /// Every lock that was dropped, kept, resurrected or refused for a conflict.
    pub locks: List<LockFate, 16_777_216>,
}
