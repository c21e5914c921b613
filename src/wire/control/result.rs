//! How a run ended, for each client and lock.

use std::fmt;
use std::net::Ipv4Addr;

use super::ids::RunId;
use super::listing::{LockKind, OwnerRow};
use super::pages::PAGE;
use super::run::{Counts, Delivery, Mode, RunClient};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState};
use crate::wire::xdr::{List, Maybe, Text, XdrCodec};

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

/// What a client made of the notices, as far as what it reclaimed shows. Results on disk from before there was the last of
/// these are read alike: they had a bool here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum Reaction {
    /// That is not known: it has not acked, it had nothing in scope, or it only locked again what it had.
    Unclear = 0,
    /// It acked, and reclaimed none of its locks in scope.
    Silent = 1,
    /// It reclaimed some of its locks as a notice makes it do: such notices it understands.
    Understood = 2,
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
    /// What it made of them.
    pub reaction: Reaction,
    /// Its counts.
    pub counts: Counts,
    /// Locks that were pending when the run settled, by the server address that the client called for them.
    pub paths: List<PathResult, 16>,
}

impl ClientResult {
    /// Of a client of a run that nobody followed: what became of its locks is not known.
    pub(crate) fn untold(client: &RunClient) -> Self {
        let unknown = Address(Ipv4Addr::UNSPECIFIED.into());
        Self {
            client: client.index,
            name: client.name.clone(),
            address: client.addresses.as_slice().first().copied().unwrap_or(unknown),
            delivery: Delivery::NotTold,
            suspect: client.suspect,
            reaction: Reaction::Unclear,
            counts: Counts { in_scope: client.locks, unverified: client.locks, ..Counts::default() },
            paths: List::default(),
        }
    }
}

/// Why pending locks were spared at settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum Spared {
    /// Their client acked none of its notices (or only some), nobody told the manager, or an ack from its
    /// address is no evidence.
    Unreachable = 0,
    /// It acked too short a time ago.
    LateAck = 1,
    /// It was silent, and `--silent keep` was asked for.
    Silent = 2,
    /// Too many were silent: the notices were not understood.
    NotUnderstood = 3,
    /// Nothing was reclaimed through this server address, but something was through another one.
    OtherAddress = 4,
    /// The lock manager itself did not run for a while, or clients were still reclaiming: it had not the time.
    NoTime = 5,
}

/// A client's locks through one server address, where some were pending at settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct PathResult {
    /// The server address that it called.
    pub server_address: Address,
    /// Whether it acked, and reclaimed none of its locks through this address.
    pub silent: bool,
    /// Why they were spared; none if they were dropped.
    pub spared: Maybe<Spared>,
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
    /// For a conflict, the other owner that holds or pends the range. Boxed: most of a million rows have none.
    pub other: Maybe<Box<OwnerRow>>,
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

impl FullResult {
    /// Of a run that was cut off: what became of it is not known.
    pub(crate) fn cut_off<'a>(
        (run, mode): (RunId, Mode),
        (old_state, new_state): (NsmState, NsmState),
        (began_unix_ms, ended_unix_ms): (u64, u64),
        reason: &str,
        in_scope: u64,
        clients: impl Iterator<Item = &'a RunClient>,
    ) -> Self {
        Self {
            result: RunResult {
                run,
                outcome: Outcome::Superseded,
                reason: Text::clipped(reason),
                alone: true,
                not_understood: false,
                mode,
                old_state,
                new_state,
                began_unix_ms,
                ended_unix_ms,
                counts: Counts { in_scope, unverified: in_scope, ..Counts::default() },
                late: 0,
            },
            clients: List::clipped(clients.map(ClientResult::untold).collect()),
            locks: List::default(),
        }
    }
}
