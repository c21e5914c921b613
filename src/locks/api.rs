//! The inputs and outputs of the lock table.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::coverage::Part;
use crate::shares::Bounds;
use crate::spread;
use crate::wire::control::{LockFate, RunId};
use crate::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};

/// A client's number in the table; never used again for another one while the table lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// The path a call came by. It is part of the owner's identity: one host uses equal svids over
/// different paths for different processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Via {
    /// The server address that was called.
    pub server_address: IpAddr,
    /// What carried the call.
    pub transport: Transport,
    /// The NLM version spoken.
    pub version: u32,
}

/// In few parts: with each call an owner is looked up.
impl Hash for Via {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { server_address, transport, version } = *self;
        (spread::number(server_address), transport as u32, version).hash(state);
    }
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The client.
    pub client: ClientId,
    /// How it called.
    pub via: Via,
}

/// A process on the client, as it names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number.
    pub svid: Svid,
    /// Its handle.
    pub oh: OwnerHandle,
}

/// A byte-range lock as a call names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The file.
    pub file: FileHandle,
    /// The bytes.
    pub range: ByteRange,
    /// Their number as the call has it, for GRANTED to repeat: a range that ends with the last byte of all has two.
    pub len: u64,
    /// Write lock or read lock.
    pub exclusive: bool,
    /// For whom.
    pub process: Process,
}

/// A call, of any version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Which owner would be in the way?
    Test(Wanted),
    /// `LOCK` and `NM_LOCK`.
    Lock {
        /// What.
        wanted: Wanted,
        /// Wait for it (answered BLOCKED, granted later by callback).
        block: bool,
        /// A reclaim after a notice.
        reclaim: bool,
        /// False for `NM_LOCK`.
        monitored: bool,
        /// The client's NSM state number; 0 if it gave none.
        state: NsmState,
        /// The request's cookie.
        cookie: Cookie,
    },
    /// Stop waiting.
    Cancel(Wanted),
    /// Unlock the bytes (the mode does not matter).
    Unlock(Wanted),
    /// A SHARE reservation (XNFS chapter 10: DOS sharing).
    Share {
        /// The file.
        file: FileHandle,
        /// For whom.
        oh: OwnerHandle,
        /// What it wants to do: 0 none, 1 read, 2 write, 3 both.
        access: u32,
        /// What it denies others: 0 none, 1 read, 2 write, 3 both.
        mode: u32,
        /// A reclaim after a notice.
        reclaim: bool,
    },
    /// Gives the reservation back that was made with the same access and mode. One that has neither, and was
    /// not made so, gives back all of this owner's: it was not filled in.
    Unshare {
        /// The file.
        file: FileHandle,
        /// Whose.
        oh: OwnerHandle,
        /// As in the SHARE.
        access: u32,
        /// As in the SHARE.
        mode: u32,
    },
    /// Drops every lock, share and waiter of the calling machine.
    FreeAll,
}

/// What a call is answered with. Denials are values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or it would be granted (TEST).
    Granted,
    /// Another owner is in the way.
    Denied,
    /// TEST: this one is in the way.
    Holder(Holder),
    /// A cap is reached.
    NoLocks,
    /// Queued.
    Blocked,
    /// In grace, or a reclaim outside of it.
    Grace,
    /// Waiting would never end.
    Deadlock,
    /// There is no such file (said by the embedding file server, never by the table).
    Stale,
}

/// Who is in the way (TEST).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Write lock.
    pub exclusive: bool,
    /// Whose.
    pub process: Process,
    /// Which bytes.
    pub range: ByteRange,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// Answer this (after the effects that must be durable first).
    Reply(Verdict),
    /// A result is being written and the call meets a pending lock: give it again after
    /// [`commit`](super::LockTable::settle_commit).
    Wait,
    /// Some of it is done, or of what has to be done before it, as much as one step may do. Give the call again when
    /// others have had their turn.
    More,
    /// The other lock domain must consent first: give the call again when the file's step
    /// ([`Effect::Mirror`]) has ended.
    OtherDomain {
        /// The step is this call's; otherwise it is one that was under way already.
        asked: bool,
    },
    /// A reclaim meets a pending lock of another address, whose host may have moved: find out, and give the call
    /// again with [`OtherDomain::Moved`] or [`OtherDomain::NotMoved`].
    HasMoved(Move),
}

/// Whether a host has moved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Move {
    /// As which client it is known.
    pub client: ClientId,
    /// Where it called from before the run.
    pub from: IpAddr,
    /// Where a host of its name calls from now.
    pub to: IpAddr,
    /// What it calls itself: its first name, and the present one if that is another.
    pub names: Vec<CallerName>,
    /// The server address that it called then.
    pub server_address: IpAddr,
}

/// A grant to a waiter that is not confirmed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId {
    pub(super) waiter: u64,
    pub(super) renewed: u32,
}

impl OfferId {
    /// Whether the same request was offered the range before. That offer is over, and its client may have accepted it.
    pub fn is_renewed(self) -> bool {
        self.renewed > 0
    }
}

/// What the table wants done outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Call GRANTED at the client's lockd, from `caller.via.server_address`, with exactly this
    /// range, until it answers or the offer is withdrawn.
    Offer {
        /// Names the offer in the answer.
        offer: OfferId,
        /// To whom.
        caller: Caller,
        /// What was asked for.
        wanted: Wanted,
        /// The waiter's cookie.
        cookie: Cookie,
    },
    /// The offer is over: stop calling.
    Withdraw(OfferId),
    /// A client without locks made room: forget its monitor record.
    Forget(ClientId),
    /// Append this late reclaim to the run's durable result before the reply goes out.
    Late(RunId, LockFate),
    /// Have the other lock domain do this with the file, and say how it ended by
    /// [`mirror_answered`](super::LockTable::mirror_answered). One step of a file at a time.
    Mirror(FileHandle, MirrorStep),
    /// After a pause (the longer, the greater the number of refusals) call
    /// [`ask_again`](super::LockTable::ask_again): a waiter met a holder in the other lock domain.
    AskAgain(FileHandle, u32),
    /// A line for the timeline (its kind, its detail).
    Event(&'static str, String),
    /// A cap refused this client a lock on this file.
    Full(Cap, ClientId, FileHandle),
    /// Something a watcher may care about changed.
    Changed,
}

/// What the other domain is asked to do for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorStep {
    /// Raise each part to its mode, if no holder there is in the way.
    Take(Vec<Part>),
    /// Lower each part to its mode.
    GiveUp {
        /// What is lowered.
        parts: Vec<Part>,
        /// Nothing of the file is covered then.
        nothing_left: bool,
    },
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorAnswer {
    /// As asked.
    Done,
    /// A holder there is in the way.
    Conflict,
    /// It is not known how much of it was done.
    Failed,
    /// Nothing of it was done. The call that asked is not given again; a waiter is asked for again.
    NotBegun,
}

/// What was said outside to what a call had to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtherDomain {
    /// Nothing; or the other lock domain consents.
    #[default]
    Unasked,
    /// A holder in the other domain is in the way.
    Conflict,
    /// The other domain could not be asked.
    Failed,
    /// The host of this client is at the caller's address by now.
    Moved(ClientId),
    /// As far as is known, no host has moved to the caller's address.
    NotMoved,
}

/// What a waiter's client said to GRANTED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferAnswer {
    /// It has the lock.
    Accepted,
    /// It does not want it (any more).
    Refused,
    /// It does not want it, but an earlier call may have reached it: then it has the lock, and says
    /// so only once (Linux knows no such wait any more and answers DENIED).
    Unclear,
}

/// What a reboot notice did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reboot {
    /// It matched a client: so many locks, shares and waiters of it are gone.
    Released(u64),
    /// That client already told of this state.
    Repeated,
    /// It matched no client (its address may have become a suspect).
    Unknown,
    /// A result is being written: give it again after the commit.
    Wait,
    /// Some of it is done, as much as one step may do. Give it again when others have had their turn.
    More,
}

/// What a due timer asks of the owner of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Recovery grace is over; nothing to do but tell watchers.
    RecoveryOver,
    /// The run's deadline has come and no notice was ever sent: abort it.
    AbortRun,
    /// The run's deadline has come and the controller did not settle: settle alone.
    SettleRun,
}

/// Caps. What goes beyond is answered DENIED_NOLOCKS. A lock with a file handle and an owner handle of more than
/// 256 bytes together counts as several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Locks and shares.
    pub locks: Bounds,
    /// Blocked requests.
    pub waiters: Bounds,
    /// Clients, and so monitor records.
    pub clients: Bounds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            locks: Bounds { all: 4_000_000, host: 1_000_000 },
            waiters: Bounds { all: 100_000, host: 10_000 },
            clients: Bounds { all: 100_000, host: 1_000 },
        }
    }
}

/// A cap that refuses locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cap {
    /// [`Limits::locks`], of all.
    Locks,
    /// [`Limits::locks`], of one host or network.
    LocksOfHost,
    /// [`Limits::waiters`], of all.
    Waiters,
    /// [`Limits::waiters`], of one host or network.
    WaitersOfHost,
    /// [`Limits::clients`].
    Clients,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locks => "no room for another lock (--max-locks), or only for hosts that have few",
            Self::LocksOfHost => "no room for another lock of one host or network",
            Self::Waiters => "no room for another blocked request, or only for hosts that have few",
            Self::WaitersOfHost => "no room for another blocked request of one host or network",
            Self::Clients => "no room for another client (--max-clients): all of them hold locks",
        })
    }
}

/// A client as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// Its name.
    pub name: CallerName,
    /// The address it calls from.
    pub address: IpAddr,
    /// The server addresses it called.
    pub server_addresses: Vec<IpAddr>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
    /// Whether its monitor record is durable.
    pub monitored: bool,
}

/// Sums over the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Clients known.
    pub clients: u64,
    /// Of them, with a durable monitor record.
    pub monitored: u64,
    /// Locks and shares, held or pending.
    pub locks: u64,
    /// Of them, unmonitored ones.
    pub unmonitored: u64,
    /// Blocked requests.
    pub waiters: u64,
}

/// All clients that could make room have locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another client: all of them hold locks")]
pub struct Full;
