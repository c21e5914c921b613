//! The result of a run, from what was seen at its end; and lists of locks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::compare::{Comparison, LocalLock, Return, Snapshot, compare};
use super::record::RunRecord;
use crate::host::Lock;
use crate::wire::control::{
    ClientResult, Counts, Delivery, Fate, FullResult, LockFate, LockKind, LockRow, LockState, Outcome, OwnerRow,
    RunResult,
};
use crate::wire::types::{Address, CallerName, FileHandle, MAX_NETOBJ, OwnerHandle, Svid, Transport};
use crate::wire::xdr::{List, Maybe, Text};

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) outcome: Outcome,
    pub(super) reason: &'a str,
    /// Whether no controller asked for it.
    pub(super) alone: bool,
    pub(super) unix_ms: u64,
    /// Whether an nlmctl looked while grace was on and just before it ended: then what was missing is
    /// known to have been dropped.
    pub(super) watched: bool,
}

/// A lock of which a line is written: it is lost, or that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) lock: Lock,
    pub(super) now: Return,
    pub(super) thief: Option<LocalLock>,
}

impl Loss {
    /// The line, with the file's path where it is known.
    pub(super) fn line(&self, paths: &HashMap<String, String>) -> String {
        let path = paths.get(&self.lock.file).map(|path| format!(" ({path})")).unwrap_or_default();
        let what = match self.now {
            Return::Partly => "only a part was reclaimed",
            Return::Unsure => "may or may not have been reclaimed: other locks come and go too fast to see it",
            Return::OneOfSeveral => {
                "may or may not have been reclaimed: a longer lock that covers it covers others too"
            }
            Return::Missing | Return::Back => "was not reclaimed",
        };
        let thief = self.thief.as_ref().map(|thief| format!("; {} holds {} now", local_name(thief), thief.lock));
        format!("the {}{path} {what}{}", self.lock, thief.unwrap_or_default())
    }
}

fn local_name(local: &LocalLock) -> String {
    format!("local process {} (pid {})", local.process, local.pid)
}

/// The result, and what was lost. `back`: the locks seen to be back while grace was on.
pub(super) fn result(run: &RunRecord, back: &[bool], now: &Snapshot, end: End<'_>) -> (FullResult, Vec<Loss>) {
    let seen = compare(&run.before, now);
    let mut counts = Counts { in_scope: run.before.locks.len() as u64, ..Counts::default() };
    let mut rows = Vec::new();
    let mut losses = Vec::new();
    let kept = |outcome| matches!(outcome, Outcome::Settled | Outcome::Aborted);
    if run.soft && kept(end.outcome) {
        for (lock, now_is) in run.before.locks.iter().zip(&seen.returns) {
            match now_is {
                // Only its owner can have let it go.
                Return::Missing => counts.released += 1,
                Return::Unsure | Return::OneOfSeveral => counts.unverified += 1,
                Return::Back | Return::Partly => {
                    counts.kept += 1;
                    rows.push(LockFate { fate: Fate::Kept, ..lost(lock, *now_is == Return::Partly, None) });
                }
            }
        }
        if end.watched {
            resurrected(&seen, now, &mut counts, &mut rows);
        }
        return (full(run, end, counts, rows), losses);
    }
    let fates = run.before.locks.iter().zip(&seen.returns).zip(&seen.thieves);
    let fates = fates.zip(back.iter().chain(std::iter::repeat(&false))).enumerate();
    for (place, (((lock, now_is), thief), was_back)) in fates {
        if *now_is == Return::Back && run.spared.contains(&place) {
            counts.kept += 1;
            rows.push(LockFate { fate: Fate::Kept, ..lost(lock, false, None) });
            continue;
        }
        // Outside of grace an equal lock may be another owner's, so only what was seen in it counts.
        if *was_back || (end.watched && *now_is == Return::Back) {
            counts.reclaimed += 1;
            continue;
        }
        let thief = thief.and_then(|place| now.local.get(place)).cloned();
        let partly = *now_is == Return::Partly;
        if end.watched && !now_is.is_unknown() {
            counts.dropped += 1;
            rows.push(lost(lock, partly, thief.as_ref()));
        } else {
            counts.unverified += 1;
        }
        if let Some(thief) = &thief {
            counts.conflicts += 1;
            rows.push(LockFate { fate: Fate::Conflict, ..lost(lock, partly, Some(thief)) });
        }
        losses.push(Loss { lock: lock.clone(), now: *now_is, thief });
    }
    if end.watched {
        resurrected(&seen, now, &mut counts, &mut rows);
    }
    (full(run, end, counts, rows), losses)
}

/// The result where `moved` locks that count as dropped, of these rows, may be held or come back yet.
pub(super) fn unverified(mut found: FullResult, moved: u64, is_one: impl Fn(&LockFate) -> bool) -> FullResult {
    let counts = &mut found.result.counts;
    counts.dropped = counts.dropped.saturating_sub(moved);
    counts.unverified += moved;
    found.result.not_understood &= counts.dropped > 0;
    let mut rows = found.locks.into_vec();
    rows.retain(|row| row.fate != Fate::Dropped || !is_one(row));
    found.locks = List::clipped(rows);
    found
}

/// Whether every client acked and none reclaimed anything: a lock manager that can keep its locks
/// would have kept these.
fn not_understood(run: &RunRecord, counts: &Counts, outcome: Outcome) -> bool {
    outcome == Outcome::Settled
        && counts.dropped > 0
        && counts.reclaimed + counts.resurrected == 0
        && run.deliveries.iter().all(|told| told.delivery.0 == Delivery::Acked)
}

fn full(run: &RunRecord, end: End<'_>, counts: Counts, rows: Vec<LockFate>) -> FullResult {
    let clients = (0..)
        .zip(run.clients())
        .map(|(index, client)| ClientResult {
            client: index,
            delivery: run.deliveries.get(index as usize).map_or(Delivery::NotTold, |told| told.delivery.0),
            suspect: client.suspect || run.deliveries.get(index as usize).is_some_and(|told| told.suspect),
            counts: Counts::default(),
            ..ClientResult::untold(client)
        })
        .collect();
    let result = RunResult {
        run: run.id(),
        outcome: end.outcome,
        reason: Text::clipped(end.reason),
        alone: end.alone,
        not_understood: not_understood(run, &counts, end.outcome),
        mode: run.begin.0.mode,
        old_state: run.old_state.0,
        new_state: run.new_state.0,
        began_unix_ms: run.began_unix_ms,
        ended_unix_ms: end.unix_ms,
        counts,
        late: 0,
    };
    FullResult { result, clients: List::clipped(clients), locks: List::clipped(rows) }
}

fn resurrected(seen: &Comparison, now: &Snapshot, counts: &mut Counts, rows: &mut Vec<LockFate>) {
    for lock in seen.unknown.iter().filter_map(|&place| now.locks.get(place)) {
        counts.resurrected += 1;
        rows.push(LockFate { fate: Fate::Resurrected, ..lost(lock, false, None) });
    }
}

/// No lock of a client is known to be of one address or another.
const NO_ADDRESS: Address = Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

fn lost(lock: &Lock, partial: bool, thief: Option<&LocalLock>) -> LockFate {
    LockFate {
        fate: Fate::Dropped,
        file: handle(&lock.file),
        kind: kind(lock),
        range: lock.range(),
        partial,
        late: false,
        owner: owner("owner not known", 0),
        other: Maybe(thief.map(|thief| Box::new(owner(&local_name(thief), thief.pid)))),
        other_range: Maybe(thief.map(|thief| thief.lock.range())),
    }
}

/// The file's name as a handle.
fn handle(file: &str) -> FileHandle {
    let bytes = file.as_bytes();
    FileHandle::new(bytes.get(..MAX_NETOBJ).unwrap_or(bytes)).unwrap_or_default()
}

fn kind(lock: &Lock) -> LockKind {
    if lock.exclusive { LockKind::Exclusive } else { LockKind::Shared }
}

fn owner(name: &str, pid: i32) -> OwnerRow {
    OwnerRow {
        name: CallerName::of_words(name),
        address: NO_ADDRESS,
        server_address: NO_ADDRESS,
        transport: Transport::Tcp,
        version: 0,
        svid: Svid(pid),
        oh: OwnerHandle::default(),
    }
}

/// A lock as lists have it.
pub(super) fn row(lock: &Lock) -> LockRow {
    LockRow {
        file: handle(&lock.file),
        kind: kind(lock),
        range: lock.range(),
        state: LockState::Held,
        monitored: true,
        owner: owner("owner not known", 0),
    }
}
