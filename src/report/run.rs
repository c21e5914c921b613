//! A run that the record knows.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

#[cfg(doc)]
use super::SCHEMA;
use super::rows::{self, Rows};
use super::words::words;
use super::{Phase, Stamp};
use crate::wire::control::{self, Counts, Delivery, LockFate, OwnerRow, PathResult, Spared};
use crate::wire::types::Address;

/// A run, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The run as a whole.
    pub run: RunHead,
    /// The NSM state numbers.
    pub state: States,
    /// The totals, as the lock manager counted them.
    pub locks: LockTally,
    /// Every client that was to be notified.
    pub clients: Vec<ClientReport>,
    /// The first [`LOST_SHOWN`] locks that were dropped; `runs show` has all.
    pub lost: Vec<LockReport>,
}

/// Dropped locks that the report of a run names.
pub const LOST_SHOWN: usize = 20;

/// The run as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunHead {
    /// The run's UUID.
    pub id: String,
    /// The lock manager: `nlmd`.
    pub manager: String,
    /// Its mode: `strict` or `targeted`.
    pub mode: String,
    /// What it covers, as it was asked for.
    pub scope: ScopeReport,
    /// How it ended; none while it has not.
    pub outcome: Option<Outcome>,
    /// How far it got.
    pub phase: Phase,
    /// When it began, or was planned if it did not.
    pub started_at: Stamp,
    /// When it ended; none: it has not, as far as the record knows.
    pub ended_at: Option<Stamp>,
    /// From start to end.
    pub elapsed_ms: Option<u64>,
    /// Its exit code; none while it has not ended.
    pub exit: Option<u8>,
    /// Why, where the exit code is 1 or 4.
    pub reason: Option<String>,
    /// Whether the lock manager could list its locks. If not, the totals leave out locks whose number and fate are
    /// not known.
    pub locks_listed: bool,
}

/// What a run covers. All lists empty: everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScopeReport {
    /// Names or addresses, as they were asked for.
    pub clients: Vec<String>,
    /// Paths of exports, as they were asked for.
    pub exports: Vec<String>,
    /// File handles (hex) or paths, as they were asked for.
    pub files: Vec<String>,
}

impl fmt::Display for ScopeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("client", &self.clients), ("export", &self.exports), ("file", &self.files)];
        let given: Vec<_> = kinds.iter().filter(|(_, list)| !list.is_empty()).collect();
        if given.is_empty() {
            return f.write_str("everything");
        }
        for (index, (kind, list)) in given.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{kind} {}", list.join(", "))?;
        }
        Ok(())
    }
}

words! {
    /// How a run ended.
    pub enum Outcome {
        /// Pending locks were dropped or kept as the policy says, and grace ended.
        Settled = "settled",
        /// Pending locks were held again, nothing was lost.
        Aborted = "aborted",
        /// The run could not be carried out.
        Failed = "failed",
        /// The lock manager restarted in the middle; its ordinary recovery took over.
        Superseded = "superseded",
        /// nlmctl ended first, and no later nlmctl has fetched the result yet.
        Interrupted = "interrupted",
    }
}

impl From<control::Outcome> for Outcome {
    fn from(outcome: control::Outcome) -> Self {
        match outcome {
            control::Outcome::Settled => Self::Settled,
            control::Outcome::Aborted => Self::Aborted,
            control::Outcome::Superseded => Self::Superseded,
        }
    }
}

/// The NSM state numbers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct States {
    /// The number before the run.
    pub old: Option<i32>,
    /// The one that every notice carried.
    pub new: Option<i32>,
}

/// Locks by their fate. `in_scope` is the sum of the next five; resurrected and conflicts
/// count reclaims and are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LockTally {
    /// Held when the run began, and covered by it.
    pub in_scope: u64,
    /// Reclaimed by their owner.
    pub reclaimed: u64,
    /// Unlocked by their owner, or their client rebooted.
    pub released: u64,
    /// Not reclaimed, and dropped at settle.
    pub dropped: u64,
    /// Not reclaimed, and still held, as the policy says.
    pub kept: u64,
    /// Their fate is not known.
    pub unverified: u64,
    /// Reclaimed though the server had lost them.
    pub resurrected: u64,
    /// Reclaims refused because another owner holds or pends the range.
    pub conflicts: u64,
}

impl LockTally {
    /// Whether some were not simply reclaimed or released.
    pub fn is_changed(&self) -> bool {
        self.dropped + self.kept + self.unverified + self.resurrected + self.conflicts > 0
    }
}

impl From<Counts> for LockTally {
    /// What is pending when a run is reported is unverified: it is not known what became of it.
    fn from(c: Counts) -> Self {
        Self {
            in_scope: c.in_scope,
            reclaimed: c.reclaimed,
            released: c.released,
            dropped: c.dropped,
            kept: c.kept,
            unverified: c.unverified.saturating_add(c.pending),
            resurrected: c.resurrected,
            conflicts: c.conflicts,
        }
    }
}

words! {
    /// The fate of a client's notices.
    pub enum ClientFate {
        /// All of them were delivered.
        Acked = "acked",
        /// All were delivered, and it reclaimed none of its locks in scope.
        Silent = "silent",
        /// Not all of them were answered, or not from the address that it called from.
        NoAnswer = "no-answer",
        /// Its rpcbind says that it runs no statd.
        NoStatd = "no-statd",
        /// Its name has no address.
        NameUnknown = "name-unknown",
        /// Its statd, or its host, refused the call.
        Refused = "refused",
        /// No notice was sent to it.
        NotTold = "not-told",
        /// Sending had begun, and nothing is on record of its notices: nlmctl has not written it yet, or ended before.
        Unknown = "unknown",
    }
}

impl ClientFate {
    /// From a delivery and whether the lock manager found the client silent. A client that acked only some of its notices,
    /// or for which another address answered, is treated like one that acked none, and reads so.
    pub fn of(delivery: Delivery, silent: bool) -> Self {
        match delivery {
            Delivery::Acked if silent => Self::Silent,
            Delivery::Acked => Self::Acked,
            // Who else answered, and that its locks are kept, is in its error.
            Delivery::Partial | Delivery::NoAnswer | Delivery::Elsewhere => Self::NoAnswer,
            Delivery::NoStatd => Self::NoStatd,
            Delivery::NameUnknown => Self::NameUnknown,
            Delivery::Refused => Self::Refused,
            Delivery::NotTold => Self::NotTold,
        }
    }
}

/// A client's part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClientReport {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The first of its addresses.
    pub address: Option<Address>,
    /// Whether there was evidence that its locks are stale.
    pub suspect: bool,
    /// The fate of its notices.
    pub fate: ClientFate,
    /// Notices that are its own: one for each server address that it called, under each name.
    pub notices: u32,
    /// How many of them it acked.
    pub acks: u32,
    /// Notices sent, repeats included, and port look-ups that went unanswered.
    pub attempts: u32,
    /// From begin to its last ack.
    pub acked_ms: Option<u64>,
    /// The fate of its locks; none if the lock manager does not know who owns a lock, or nlmctl ended before the run.
    pub locks: Option<LockTally>,
    /// Locks that were pending when the run settled, by the server address that the client called for them.
    pub paths: Vec<PathReport>,
    /// What went wrong with its notices.
    pub error: Option<String>,
}

/// A client's locks through one server address, where some were pending at settle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PathReport {
    /// The server address that it called.
    pub server_address: Address,
    /// Whether it acked, and reclaimed none of its locks through this address.
    pub silent: bool,
    /// Why they were kept; none if they were dropped.
    pub kept_because: Option<KeptBecause>,
}

impl From<&PathResult> for PathReport {
    fn from(path: &PathResult) -> Self {
        Self {
            server_address: path.server_address,
            silent: path.silent,
            kept_because: path.spared.0.map(KeptBecause::from),
        }
    }
}

/// Why locks were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum KeptBecause {
    /// Not all notices were acked, or an ack from their client's address is not evidence.
    Unreachable,
    /// Their client acked too shortly before the end.
    LateAck,
    /// Their client was silent, and `--silent keep` was asked for.
    Silent,
    /// Too many clients were silent.
    NotUnderstood,
    /// Nothing was reclaimed through this server address, but something was through another one.
    OtherAddress,
    /// The lock manager did not run for a while, or clients were still reclaiming.
    NoTime,
}

impl From<Spared> for KeptBecause {
    fn from(why: Spared) -> Self {
        match why {
            Spared::Unreachable => Self::Unreachable,
            Spared::LateAck => Self::LateAck,
            Spared::Silent => Self::Silent,
            Spared::NotUnderstood => Self::NotUnderstood,
            Spared::OtherAddress => Self::OtherAddress,
            Spared::NoTime => Self::NoTime,
        }
    }
}

impl ClientReport {
    /// Whether there is something to say of it beyond "acked, and all of its locks are back".
    pub fn is_notable(&self) -> bool {
        self.fate != ClientFate::Acked
            || self.suspect
            || self.error.is_some()
            || self.locks.is_some_and(|locks| locks.is_changed())
    }
    /// What there is to say of all those of which there is nothing else.
    pub(super) fn plain_words<'a>(plain: impl ExactSizeIterator<Item = &'a Self>) -> String {
        let acked = format!("{} of them acked", plain.len());
        let mut plain = plain.peekable();
        let is_known = plain.peek().is_some() && plain.all(|client| client.locks.is_some());
        if is_known { acked + ", and all their locks were reclaimed or released" } else { acked }
    }
    /// Why its locks were kept, for people. What its fate says already is not said again.
    pub fn kept_words(&self) -> Vec<String> {
        let words = kept_words(self.fate, &self.paths, "--silent keep");
        words.into_iter().map(|why| format!("kept: {why}")).collect()
    }
}

/// Why locks of a client were kept that met this fate, each reason once. `silent`: why a silent client keeps them.
pub(super) fn kept_words(fate: ClientFate, paths: &[PathReport], silent: &str) -> Vec<String> {
    let mut said = BTreeSet::new();
    let words = paths.iter().filter_map(|path| {
        let why = path.kept_because?;
        let is_news = why == KeptBecause::OtherAddress || said.insert(why);
        is_news.then(|| path.why_kept(why, fate, silent)).flatten()
    });
    words.collect()
}

impl PathReport {
    fn why_kept(&self, why: KeptBecause, fate: ClientFate, silent: &str) -> Option<String> {
        Some(match why {
            KeptBecause::Unreachable if fate == ClientFate::Acked => {
                "other names call from its address, or its ack was not reported to the lock manager".to_owned()
            }
            KeptBecause::Unreachable => return None,
            KeptBecause::LateAck => "it acked too shortly before the end".to_owned(),
            KeptBecause::Silent => silent.to_owned(),
            KeptBecause::NoTime => {
                "the lock manager did not run for a while, or clients were still reclaiming".to_owned()
            }
            KeptBecause::NotUnderstood => "most clients, or the only one, were silent".to_owned(),
            KeptBecause::OtherAddress => format!(
                "nothing was reclaimed through server address {}, but something was through another one; its \
                 statd may have passed on only one notice",
                self.server_address
            ),
        })
    }
}

/// A run with what `runs show` adds: the record's lock rows and the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunDetail<R: Rows<Row = LockReport> = Vec<LockReport>> {
    #[serde(flatten)]
    pub report: RunReport,
    /// Dropped, kept, resurrected and conflicting locks (with `--record all`, every one, unless some are unverified).
    #[serde(serialize_with = "rows::serialize")]
    pub lock_rows: R,
    /// What happened, in order.
    pub events: Vec<EventReport>,
    /// How many locks were pending in the course of the run, as the lock manager said; in order.
    pub progress: Vec<PendingReport>,
    /// What of its clients and locks is here; none: all. For the text only.
    #[serde(skip)]
    pub shown: Option<String>,
}

/// How many locks of a run were pending at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PendingReport {
    /// Milliseconds since begin.
    pub elapsed_ms: u64,
    /// Locks that were pending then.
    pub pending: u64,
}

/// The owner of a lock. If the lock manager does not know the owner, there is little more than a word for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    /// The client's `caller_name`.
    pub name: String,
    /// The client's address.
    pub address: Option<Address>,
    /// The server address it called.
    pub server_address: Option<Address>,
    /// The transport it came by: `udp` or `tcp`.
    pub transport: Option<String>,
    /// The NLM version it spoke.
    pub version: Option<u32>,
    /// Its process number; of a local process its process id.
    pub svid: Option<i32>,
    /// Its owner handle, in hex.
    pub oh: Option<String>,
}

impl From<&OwnerRow> for Owner {
    fn from(row: &OwnerRow) -> Self {
        // No owner speaks version 0: it stands for one that is not known, or for a local process.
        let is_known = row.version != 0;
        Self {
            name: row.name.to_string(),
            address: is_known.then_some(row.address),
            server_address: is_known.then_some(row.server_address),
            transport: is_known.then(|| row.transport.to_string()),
            version: is_known.then_some(row.version),
            svid: (is_known || row.svid.0 != 0).then_some(row.svid.0),
            oh: is_known.then(|| row.oh.to_string()),
        }
    }
}

/// A lock of which the record keeps a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LockReport {
    /// `dropped`, `kept`, `resurrected`, `conflict`, ...
    pub fate: String,
    /// The file handle, in hex.
    pub file: String,
    /// Device and inode, if the lock manager tells these instead of a handle.
    pub inode: Option<String>,
    /// `read`, `write` or `share`.
    pub kind: String,
    /// First byte, from 0.
    pub start: u64,
    /// Last byte; none means "to end of file".
    pub end: Option<u64>,
    /// Whether only a part of the lock met this fate.
    pub partial: bool,
    /// Whether it came after the end of the run.
    pub late: bool,
    /// The owner of the lock.
    pub owner: Owner,
    /// For a conflict, the other owner that holds or pends the range.
    pub other: Option<Owner>,
    /// The first byte that the other owner holds.
    pub other_start: Option<u64>,
    /// The last byte that the other owner holds; none means "to end of file".
    pub other_end: Option<u64>,
}

/// The last byte as JSON has it: none is "to end of file".
pub(super) fn shown_end(end: u64) -> Option<u64> {
    (end != u64::MAX).then_some(end)
}

impl From<&LockFate> for LockReport {
    fn from(row: &LockFate) -> Self {
        Self {
            fate: row.fate.to_string(),
            file: row.file.to_string(),
            // A lock manager that does not know owners has no handles either.
            inode: (row.owner.version == 0)
                .then(|| std::str::from_utf8(row.file.as_slice()).ok().map(str::to_owned))
                .flatten(),
            kind: row.kind.to_string(),
            start: row.range.start,
            end: shown_end(row.range.end),
            partial: row.partial,
            late: row.late,
            owner: Owner::from(&row.owner),
            other: row.other.0.as_deref().map(Owner::from),
            other_start: row.other_range.0.map(|r| r.start),
            other_end: row.other_range.0.and_then(|r| shown_end(r.end)),
        }
    }
}

/// A line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventReport {
    /// When it happened.
    pub at: Stamp,
    /// What happened, in a word: a phase, an outcome, or a word of the lock manager.
    pub kind: String,
    /// Details, for people.
    pub detail: String,
}
