//! The end of a run: looked at in slices, one instant, cleaned up in slices.
//!
//! 1. [`settle_start`](LockTable::settle_start) freezes what is pending and decides about each
//!    client. From here on a call that meets a pending lock waits; all others are served.
//! 2. [`settle_scan`](LockTable::settle_scan) writes down what will be dropped and kept. It looks
//!    only at the files of clients that have something pending.
//! 3. The caller makes [`settle_result`](LockTable::settle_result) durable. If a reclaim of what is about to be
//!    dropped [came in time](LockTable::came_in_time), it cancels, lets the calls that wait be decided in grace,
//!    and settles anew: what came before the instant is never answered by what others got after it.
//! 4. [`settle_commit`](LockTable::settle_commit) is the instant: nothing is pending any more. A
//!    dropped lock protects nothing from here on, though it still stands in its file: [`Void`]
//!    describes such locks, and every file is purged of them before it is looked at.
//! 5. [`settle_sweep`](LockTable::settle_sweep) purges the rest. Who waited for it is woken, also while it sweeps.

use std::collections::HashMap;
use std::time::Duration;

use super::api::{ClientId, SlicedResult};
use super::run::{Settling, Void};
use super::segment::FileId;
use super::table::LockTable;
use super::tally::Tally;
use crate::units::number;
use crate::wire::control::{Counts, Fate, LockFate, Outcome, Refusal, RefusalCode, SettleWhen};

impl LockTable {
    /// Freezes what is pending and decides about each client. `alone`: no controller asked for it.
    pub fn settle_start(&mut self, now: Duration, when: SettleWhen, alone: bool, reason: &str) -> Result<(), Refusal> {
        self.enter_all();
        let Some(run) = self.run.as_mut().filter(|run| run.settling.is_none()) else {
            return Err(Refusal::new(RefusalCode::WrongPhase, "no run is in its grace period"));
        };
        let waits = match when {
            SettleWhen::Always => false,
            SettleWhen::NothingPending => run.counts.pending > 0,
            SettleWhen::NothingAwaited => run.is_awaited(now),
        };
        if waits {
            let words = number(run.counts.pending, "lock is still pending", "locks are still pending");
            return Err(Refusal::new(RefusalCode::StillPending, words));
        }
        run.start_settling(now, alone, reason);
        Ok(())
    }

    /// Looks at about `budget` more locks (a file is looked at whole); true when all are looked at.
    pub fn settle_scan(&mut self, budget: usize) -> bool {
        let Some(mut settling) = self.run.as_mut().and_then(|run| run.settling.take()) else { return true };
        let mut left = budget;
        while left > 0
            && let Some(place) = settling.clients.front().copied()
            && let Some(tally) = self.run.as_ref().and_then(|run| run.tallies.get(place))
        {
            if settling.files.is_empty() {
                settling.files = self.clients.get(tally.client).map_or(Vec::new(), |c| c.files().collect());
            }
            if let Some(file) = settling.files.pop() {
                left = left.saturating_sub(1 + self.scan_file(&mut settling, place, file));
            }
            if settling.files.is_empty() {
                settling.clients.pop_front();
            }
        }
        let done = settling.clients.is_empty();
        if let Some(run) = &mut self.run {
            run.settling = Some(settling);
        }
        done
    }

    /// Writes down what becomes of the client's pending locks on the file. Gives how many segments
    /// it looked at.
    fn scan_file(&mut self, settling: &mut Settling, place: usize, file: FileId) -> usize {
        let Some(run) = &self.run else { return 0 };
        let Some(Tally { client, judged, .. }) = run.tallies.get(place) else { return 0 };
        let (client, drops_any) = (*client, judged.drops_any());
        let (mut looked_at, mut dropped, mut kept) = (0, 0, 0);
        for segment in self.segments().of(file) {
            looked_at += 1;
            if segment.client != client || !run.covers.is_pending(file, segment) {
                continue;
            }
            let partial = run.is_marked(segment);
            let drops = self.server_address(segment.owner).is_some_and(|address| judged.drops(address));
            if drops_any && !drops {
                settling.kept.insert(segment.owner);
            }
            let spared = (segment.offered && judged.acked) || run.covers.is_spared(file, segment);
            let fate = if drops && !spared { Fate::Dropped } else { Fate::Kept };
            if !partial || settling.marks.insert(segment.mark) {
                *(if fate == Fate::Dropped { &mut dropped } else { &mut kept }) += 1;
            }
            let row = self.fate_row(file, segment, fate);
            if let Some(row) = row {
                settling.write_down(LockFate { partial, ..row });
            }
        }
        if drops_any {
            settling.dropped_in.insert(file);
        }
        if let Some(run) = &mut self.run {
            run.count(client, |counts| {
                counts.dropped += dropped;
                counts.kept += kept;
            });
        }
        looked_at
    }

    /// What to make durable before the commit: the result as it will be.
    pub fn settle_result(&mut self, unix_ms: u64) -> Option<SlicedResult> {
        let run = self.run.as_mut()?;
        // A cancelled settle looks at everything again, so the rows need not stay.
        let slices = std::mem::take(&mut run.settling.as_mut()?.slices);
        let run = self.run.as_ref()?;
        let settling = run.settling.as_ref()?;
        let mut head = run.result(unix_ms, Outcome::Settled, &settling.reason);
        head.result.alone = settling.alone;
        head.result.not_understood = settling.not_understood;
        Some(SlicedResult { head, slices })
    }

    /// The instant: dropped locks protect nothing, kept ones are held, grace is over.
    pub fn settle_commit(&mut self) {
        if self.run.as_ref().is_none_or(|run| run.settling.is_none()) {
            return;
        }
        let Some(mut run) = self.end_run() else { return };
        let Some(settling) = run.settling.take() else { return };
        let Counts { reclaimed, released, dropped, kept, .. } = run.counts;
        let words = format!(
            "run {} has settled ({}): {reclaimed} reclaimed, {released} released, {dropped} dropped, {kept} kept",
            run.id, settling.reason
        );
        self.announce("settle", words);
        let losers = run.tallies.iter().filter(|tally| tally.judged.drops_any());
        let clients: HashMap<ClientId, bool> = losers.map(|tally| (tally.client, tally.judged.acked)).collect();
        self.void = Some(Void { covers: run.covers, clients, kept: settling.kept, files: settling.dropped_in });
        // A client that is taken for gone waits for nothing: a grant to it would be stuck.
        for tally in run.tallies.iter().filter(|tally| tally.judged.gone) {
            self.drop_waiters_of(tally.client, usize::MAX, |_| true);
        }
        for (offer, answer) in settling.answers {
            self.offer_answered(offer, answer);
        }
    }

    /// The result could not be made durable: back to grace, as before the start.
    pub fn settle_cancel(&mut self) {
        let Some(run) = &mut self.run else { return };
        let Some(settling) = run.stop_settling() else { return };
        for (offer, answer) in settling.answers {
            self.offer_answered(offer, answer);
        }
    }

    /// Whether [`settle_sweep`](Self::settle_sweep) has something to do.
    pub fn has_more_to_sweep(&self) -> bool {
        self.void.is_some() || self.late.has_more_to_forget()
    }

    /// Purges `budget` more files of dropped locks, or of what is remembered no more; true when none is left.
    pub fn settle_sweep(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            if let Some(forgotten) = self.late.forget_next() {
                self.forget(forgotten);
            } else if let Some(file) = self.void.as_ref().and_then(|void| void.files.first().copied()) {
                self.refresh(file);
            } else {
                self.void = None;
                return true;
            }
        }
        !self.has_more_to_sweep()
    }
}
