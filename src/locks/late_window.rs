//! What the end of a run leaves open until its latest deadline: late reclaims.
//!
//! A notice can be delivered, or acted upon, after the run settled or was aborted. Then a reclaim of
//! a lock the table does not know is still granted, if no other owner was granted a conflicting range
//! since the run began, given up again or not. Ranges still held speak for themselves; those given up
//! are remembered per file, up to a bound. Beyond it the file, or the whole table, counts as granted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::api::{ClientId, Effect};
use super::run::Run;
use super::segment::{FileId, OwnerId, Segment, Want};
use crate::wire::control::{LockFate, RunId};
use crate::wire::types::ByteRange;

/// Ranges remembered of one file, and of all.
const MAX_PER_FILE: usize = 64;
const MAX_IN_ALL: usize = 100_000;
/// Late reclaims appended to one result.
const MAX_LATE_ROWS: usize = 200_000;

/// The window of the last run, and what was given up since that run began.
#[derive(Debug, Default)]
pub(super) struct LateWindow {
    window: Option<Window>,
    given_up: HashMap<FileId, GivenUp>,
    ranges: usize,
    overflown: bool,
}

#[derive(Debug)]
struct Window {
    run: RunId,
    until: Duration,
    clients: HashSet<ClientId>,
    rows: usize,
}

/// Segments of a file that were granted since the run began and given up again.
#[derive(Debug, Default)]
struct GivenUp {
    segments: Vec<Segment>,
    /// Too many to remember: all of the file counts as granted.
    all: bool,
}

/// Whether a reclaim of an unknown lock comes in time.
#[derive(Debug)]
pub(super) enum LateReclaim {
    Granted,
    /// Another owner (if it is known which) had a conflicting range.
    TakenSince(Option<OwnerId>, Option<ByteRange>),
    NoWindow,
}

impl LateWindow {
    pub(super) fn open(&mut self, run: &Run) {
        let clients = run.tallies.iter().map(|t| t.client).collect();
        self.window = Some(Window { run: run.id, until: run.latest, clients, rows: 0 });
    }

    /// Forgets everything. Gives the files and owners that it referred to.
    pub(super) fn close(&mut self) -> Vec<(FileId, Vec<Segment>)> {
        std::mem::take(self).given_up.into_iter().map(|(file, given_up)| (file, given_up.segments)).collect()
    }

    /// When it ends, if it is open.
    pub(super) fn until(&self) -> Option<Duration> {
        self.window.as_ref().map(|window| window.until)
    }

    pub(super) fn knows(&self, file: FileId) -> bool {
        self.given_up.contains_key(&file)
    }

    /// A segment that was granted since the run began is given up. Gives whether it refers to the
    /// segment's owner from now on.
    pub(super) fn remember(&mut self, file: FileId, piece: &Segment) -> bool {
        if self.overflown || self.given_up.get(&file).is_some_and(|given_up| given_up.all) {
            return false;
        }
        if self.ranges >= MAX_IN_ALL {
            self.overflown = true;
            return false;
        }
        let given_up = self.given_up.entry(file).or_default();
        if given_up.segments.len() >= MAX_PER_FILE {
            given_up.all = true;
            return false;
        }
        self.ranges += 1;
        given_up.segments.push(*piece);
        true
    }

    pub(super) fn reclaim(&self, want: &Want) -> LateReclaim {
        if !self.window.as_ref().is_some_and(|window| window.clients.contains(&want.caller.client)) {
            return LateReclaim::NoWindow;
        }
        let given_up = self.given_up.get(&want.file);
        if self.overflown || given_up.is_some_and(|given_up| given_up.all) {
            return LateReclaim::TakenSince(None, None);
        }
        let mut segments = given_up.into_iter().flat_map(|given_up| &given_up.segments);
        let taken = |s: &&Segment| {
            s.owner != want.lock.owner && s.range.overlaps(want.lock.range) && s.kind.excludes(want.lock.kind)
        };
        match segments.find(taken) {
            Some(since) => LateReclaim::TakenSince(Some(since.owner), Some(since.range)),
            None => LateReclaim::Granted,
        }
    }

    /// What appends the row to the ended run's result. `None`: there is no window, or its bound is reached.
    pub(super) fn append(&mut self, row: LockFate) -> Option<Effect> {
        let window = self.window.as_mut().filter(|window| window.rows < MAX_LATE_ROWS)?;
        window.rows += 1;
        Some(Effect::Late(window.run, LockFate { late: true, ..row }))
    }

    /// The owners that it refers to, each as often as it does.
    #[cfg(test)]
    pub(super) fn owners(&self) -> impl Iterator<Item = OwnerId> {
        self.given_up.values().flat_map(|given_up| given_up.segments.iter().map(|s| s.owner))
    }
}
