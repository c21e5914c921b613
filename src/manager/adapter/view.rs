//! The last reading, and what watchers are told about it.

use std::time::{Duration, Instant};

use super::compare::{Return, Snapshot, compare};
use super::record::RunRecord;
use crate::host::unix_ms;
use crate::rpc::control::Timeline;
use crate::wire::control::{Counts, RunId};

/// Who has looked at a run's locks in grace so short a time before it was over has watched it to its
/// end.
const WATCHED: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) timeline: Timeline,
    last: Option<Snapshot>,
    in_grace: bool,
    run: Option<RunId>,
    /// Of the run's locks: which were seen held again while grace was on. Such a lock was reclaimed,
    /// also if it is gone later.
    back: Vec<bool>,
    resurrected: u64,
    last_reclaim: Option<Duration>,
    /// When the run's locks were last seen in its grace.
    seen_in_grace: Option<Instant>,
}

impl View {
    /// A run's account begins.
    pub(super) fn start(&mut self, run: &RunRecord) {
        self.run = Some(run.id());
        self.back = vec![false; run.before.locks.len()];
        self.resurrected = 0;
        self.last_reclaim = None;
        self.seen_in_grace = None;
        self.timeline.changed();
    }

    /// The locks held at `elapsed` of a run, in its grace.
    pub(super) fn see(&mut self, run: &RunRecord, sight: Snapshot, elapsed: Duration) {
        if self.run != Some(run.id()) {
            self.start(run);
        }
        self.in_grace = true;
        self.seen_in_grace = Some(Instant::now());
        if self.last.as_ref() == Some(&sight) {
            return;
        }
        let seen = compare(&run.before, &sight);
        let mut news = false;
        for (place, (back, now)) in self.back.iter_mut().zip(&seen.returns).enumerate() {
            // What was not dropped is held whether it is reclaimed or not.
            if *now == Return::Back && !*back && !run.soft && !run.spared.contains(&place) {
                *back = true;
                news = true;
            }
        }
        let unknown = seen.unknown.len() as u64;
        if unknown > self.resurrected {
            self.resurrected = unknown;
            news = true;
        }
        if news {
            self.last_reclaim = Some(elapsed);
        }
        self.take(sight);
    }

    /// The locks as they were last seen in the run's grace, if that was just now.
    pub(super) fn watched(&self, run: RunId) -> Option<Snapshot> {
        let fresh = self.run == Some(run) && self.seen_in_grace.is_some_and(|at| at.elapsed() < WATCHED);
        self.last.as_ref().filter(|_| fresh).cloned()
    }

    /// The locks held, of no run's concern.
    pub(super) fn see_idle(&mut self, sight: Snapshot, in_grace: bool) {
        if self.last.as_ref() != Some(&sight) || self.in_grace != in_grace {
            self.in_grace = in_grace;
            self.take(sight);
        }
    }

    fn take(&mut self, sight: Snapshot) {
        self.last = Some(sight);
        self.timeline.changed();
    }

    /// Something for the timeline.
    pub(super) fn event(&mut self, kind: &str, detail: impl AsRef<str>) {
        self.timeline.push(unix_ms(), kind, detail.as_ref());
    }
    pub(super) fn in_grace(&self) -> bool {
        self.in_grace
    }
    pub(super) fn locks(&self) -> u64 {
        self.last.as_ref().map_or(0, |sight| sight.locks.len() as u64)
    }
    pub(super) fn waiters(&self) -> u64 {
        self.last.as_ref().map_or(0, |sight| sight.waiters)
    }
    pub(super) fn last_reclaim(&self) -> Option<Duration> {
        self.last_reclaim
    }
    /// Which of the run's locks were seen to be back in grace.
    pub(super) fn back(&self, run: &RunRecord) -> Vec<bool> {
        if self.run == Some(run.id()) { self.back.clone() } else { vec![false; run.before.locks.len()] }
    }

    /// The sums of a run that is on.
    pub(super) fn counts(&self, run: &RunRecord) -> Counts {
        if self.run != Some(run.id()) {
            return run.all_pending();
        }
        let reclaimed = self.back.iter().filter(|back| **back).count() as u64;
        let in_scope = self.back.len() as u64;
        let kept = run.spared.len() as u64;
        Counts {
            in_scope,
            pending: in_scope.saturating_sub(reclaimed + kept),
            reclaimed,
            kept,
            resurrected: self.resurrected,
            ..Counts::default()
        }
    }
}
