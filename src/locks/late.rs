//! What the end of a run leaves open until its latest deadline: late reclaims.
//!
//! A notice can be delivered, or acted upon, after the run settled or was aborted. Then a reclaim of
//! a lock the table does not know is still granted, if nobody was granted a conflicting range since
//! the run began, given up again or not. Ranges still held speak for themselves; those given up are
//! remembered per file, up to a bound. Beyond it the file, or the whole table, counts as granted.

use std::collections::HashSet;
use std::time::Duration;

use super::files::{FileId, Segment, Since};
use super::owners::OwnerId;
use super::requests::Want;
use super::run::Run;
use super::{ClientId, Effect, LockTable};
use crate::wire::control::{Fate, LockFate, RunId};
use crate::wire::types::ByteRange;

/// Ranges remembered of one file, and of all.
const MAX_PER_FILE: usize = 64;
const MAX_IN_ALL: usize = 100_000;
/// Late reclaims appended to one result.
const MAX_LATE_ROWS: usize = 200_000;

/// The window for late reclaims of a run that has ended.
#[derive(Debug)]
pub(super) struct Late {
    run: RunId,
    until: Duration,
    clients: HashSet<ClientId>,
    rows: usize,
}

impl Late {
    pub(super) fn until(&self) -> Duration {
        self.until
    }
}

/// Which files remember ranges that were given up since the run began.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    files: HashSet<FileId>,
    ranges: usize,
    overflown: bool,
}

/// Whether a reclaim of an unknown lock comes in time.
#[derive(Debug)]
pub(super) enum LateReclaim {
    Granted,
    /// Somebody (if it is known who) had a conflicting range.
    TakenSince(Option<OwnerId>, Option<ByteRange>),
    NoWindow,
}

impl LockTable {
    pub(super) fn open_late_window(&mut self, run: &Run) {
        let clients = run.tallies.iter().map(|t| t.client).collect();
        self.late = Some(Late { run: run.id, until: run.latest, clients, rows: 0 });
    }

    pub(super) fn end_late_window(&mut self) {
        self.late = None;
        for id in std::mem::take(&mut self.given_up).files {
            let Some(file) = self.files.get_mut(id) else { continue };
            file.since_all = false;
            for since in std::mem::take(&mut file.since) {
                self.owners.release(since.owner);
            }
            self.files.close(id);
        }
    }

    /// A segment that was granted since the run began is given up.
    pub(super) fn remember_given_up(&mut self, id: FileId, piece: &Segment) {
        let open = self.run.is_some() || self.late.is_some();
        if !open || piece.epoch != self.epoch || self.given_up.overflown {
            return;
        }
        let Some(file) = self.files.get_mut(id) else { return };
        if file.since_all {
            return;
        }
        if self.given_up.ranges >= MAX_IN_ALL {
            self.given_up.overflown = true;
            return;
        }
        self.given_up.files.insert(id);
        if file.since.len() >= MAX_PER_FILE {
            file.since_all = true;
            return;
        }
        self.given_up.ranges += 1;
        self.owners.acquire(piece.owner);
        file.since.push(Since { range: piece.range, kind: piece.kind, owner: piece.owner });
    }

    pub(super) fn late_reclaim(&self, want: &Want) -> LateReclaim {
        match &self.late {
            Some(late) if late.clients.contains(&want.caller.client) => {}
            Some(_) | None => return LateReclaim::NoWindow,
        }
        let Some(file) = self.files.get(want.file) else { return LateReclaim::NoWindow };
        if self.given_up.overflown || file.since_all {
            return LateReclaim::TakenSince(None, None);
        }
        let taken = |s: &&Since| s.owner != want.owner && s.range.overlaps(want.range) && s.kind.excludes(want.kind);
        match file.since.iter().find(taken) {
            Some(since) => LateReclaim::TakenSince(Some(since.owner), Some(since.range)),
            None => LateReclaim::Granted,
        }
    }

    /// Appends to the ended run's result. False: there is none, or its bound is reached.
    pub(super) fn append_late(&mut self, row: LockFate) -> bool {
        let Some(late) = self.late.as_mut().filter(|late| late.rows < MAX_LATE_ROWS) else { return false };
        late.rows += 1;
        if row.fate == Fate::Resurrected {
            self.effects.push(Effect::Event("late", format!("late reclaim of {} by {}", row.file, row.owner.name)));
        }
        self.effects.push(Effect::Late(late.run, LockFate { late: true, ..row }));
        true
    }
}
