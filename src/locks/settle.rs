//! The end of a run: scanned in slices, one instant, cleaned up in slices.
//!
//! 1. [`settle_start`](LockTable::settle_start) freezes what is pending. From here on a call that meets a pending lock
//!    waits; all others are served.
//! 2. [`settle_scan`](LockTable::settle_scan) decides about each client and writes down what will be dropped and kept
//!    ([`Stage`]). It looks only at the files of clients that have something pending, at each file once.
//!    What is written down may be [taken out](LockTable::take_pages) meanwhile.
//! 3. The caller makes durable what it took out, and the rest, [`settle_result`](LockTable::settle_result). If a reclaim
//!    of what is about to be dropped [came in time](LockTable::came_in_time), it cancels, lets the calls that wait be
//!    decided in grace, and settles anew: what came before the instant is never answered by what others got after it. Then nothing is
//!    dropped of the hosts that reclaimed, so each host causes that once, by whatever names it calls. When many hosts have
//!    caused it, one after the other, all that is pending is kept.
//! 4. [`settle_commit`](LockTable::settle_commit) is the instant: nothing is pending any more. A
//!    dropped lock protects nothing from here on, though it still stands in its file: [`Void`]
//!    describes such locks, and every file is purged of them before it is looked at.
//! 5. [`settle_sweep`](LockTable::settle_sweep) purges the rest. Who waited for it is woken, also while it sweeps. A
//!    client that is taken for gone waits for nothing: a grant to it would be stuck.

use std::any::Any;
use std::collections::HashMap;
use std::time::Duration;

use super::covers::Void;
use super::file::{self, Place};
use super::result::SlicedResult;
use super::run::Run;
use super::segment::FileId;
use super::settling::{Settling, Stage};
use super::table::LockTable;
use super::tally::Tally;
use crate::resync::policy::ClientFacts;
use crate::units::number;
use crate::wire::control::{Counts, Fate, LockFate, Outcome, Refusal, RefusalCode, RunClient, SettleWhen};

/// What is left of a run, or of a settle. It may be much: it is to be freed where no request waits for that.
#[derive(Debug)]
pub struct Spent(#[expect(dead_code, reason = "only to be freed")] Box<dyn Any + Send>);

impl LockTable {
    /// Freezes what is pending. `alone`: no controller asked for it.
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

    /// Looks at about `budget` more clients and locks; true when all are looked at.
    pub fn settle_scan(&mut self, budget: usize) -> bool {
        let Some(mut settling) = self.run.as_mut().and_then(|run| run.settling.take()) else { return true };
        let mut left = budget;
        while left > 0
            && settling.stage != Stage::Done
            && let Some(run) = &mut self.run
        {
            left -= 1;
            settling.stage = match settling.stage {
                Stage::Weighing(place) => run.weigh(&mut settling, place),
                Stage::Judging(place) => run.judge(&mut settling, place),
                Stage::Files => self.next_file(&mut settling),
                Stage::Locks(file, after) => self.scan_file(&mut settling, file, after, &mut left),
                Stage::Results(place) => run.write_down(&mut settling, place),
                Stage::Done => Stage::Done,
            };
        }
        let done = settling.stage == Stage::Done;
        if let Some(run) = &mut self.run {
            run.settling = Some(settling);
        }
        done
    }

    /// The next file of the client whose turn it is. Gives what is next.
    fn next_file(&self, settling: &mut Settling) -> Stage {
        let Some((from, place)) = settling.ahead.pop_first() else { return Stage::Results(0) };
        let tally = self.run.as_ref().and_then(|run| run.tallies.get(place));
        let client = tally.and_then(|tally| self.clients.get(tally.client));
        match client.and_then(|client| client.held_from(from)) {
            // It was looked at for all who have something there.
            Some(file) if settling.last == Some(file) => settling.ahead.insert((file.next(), place)),
            Some(file) if file == from => {
                settling.last = Some(file);
                settling.ahead.insert((file.next(), place));
                return Stage::Locks(file, None);
            }
            Some(file) => settling.ahead.insert((file, place)),
            None => false,
        };
        Stage::Files
    }

    /// Writes down what becomes of some of the pending locks on the file, from behind that place. As long as it settles
    /// they stay as they are, in their order. Gives what is next.
    fn scan_file(&mut self, settling: &mut Settling, file: FileId, after: Option<Place>, left: &mut usize) -> Stage {
        let Some(mut run) = self.run.take() else { return Stage::Done };
        let (mut last, mut next) = (None, Stage::Files);
        for segment in self.segments().after(file, after) {
            if *left == 0 && last.is_some() {
                next = Stage::Locks(file, last);
                break;
            }
            *left = left.saturating_sub(1);
            last = Some(file::place(segment));
            if !run.covers.is_pending(file, segment) {
                continue;
            }
            let Some(Tally { judged, .. }) = run.tally(segment.client) else { continue };
            let drops = self.server_address(segment.owner).is_some_and(|address| judged.drops(address));
            if judged.drops_any() {
                settling.dropped_in.insert(file);
                if !drops {
                    settling.kept.insert(segment.owner);
                }
            }
            let spared = (segment.offered && !judged.gone) || run.covers.is_spared(file, segment);
            let fate = if drops && !spared { Fate::Dropped } else { Fate::Kept };
            let partial = run.is_marked(segment);
            if !partial || settling.marks.insert(segment.mark) {
                let counts = |counts: &mut Counts| {
                    *(if fate == Fate::Dropped { &mut counts.dropped } else { &mut counts.kept }) += 1;
                };
                run.count(segment.client, counts);
            }
            if let Some(row) = self.fate_row(file, segment, fate) {
                settling.rows.push(LockFate { partial, ..row });
            }
        }
        self.run = Some(run);
        next
    }

    /// Takes the full pages out of what the scan has written down, if they are so many, with the number of the first row.
    /// So whoever writes them as they come never has all of them. What is left is in the [result](Self::settle_result).
    pub fn take_pages(&mut self, at_least: usize) -> Option<(usize, Vec<Vec<LockFate>>)> {
        let settling = self.run.as_mut()?.settling.as_mut()?;
        let (first, pages) = (settling.taken, settling.rows.take_slices(at_least)?);
        settling.taken += pages.iter().map(Vec::len).sum::<usize>();
        Some((first, pages))
    }

    /// What to make durable before the commit: the result as it will be.
    pub fn settle_result(&mut self, unix_ms: u64) -> Option<SlicedResult> {
        let run = self.run.as_mut()?;
        let settling = run.settling.as_mut()?;
        // A cancelled settle looks at everything again, so what it wrote down need not stay.
        let (rows, clients) = (std::mem::take(&mut settling.rows), std::mem::take(&mut settling.results));
        let settling = run.settling.as_ref()?;
        let mut result = run.result(unix_ms, Outcome::Settled, &settling.reason);
        result.alone = settling.alone;
        result.not_understood = settling.not_understood;
        Some(SlicedResult::settled(result, clients, settling.taken, [rows, run.rows.clone()]))
    }

    /// The instant: dropped locks protect nothing, kept ones are held, grace is over. Gives what is left of the run.
    pub fn settle_commit(&mut self) -> Option<Spent> {
        self.run.as_ref()?.settling.as_ref()?;
        let mut run = self.end_run()?;
        let settling = run.settling.take()?;
        let Counts { reclaimed, released, dropped, kept, .. } = run.counts;
        let words = format!(
            "run {} has settled ({}): {reclaimed} reclaimed, {released} released, {dropped} dropped, {kept} kept",
            run.id, settling.reason
        );
        self.announce("settle", words);
        let covers = std::mem::take(&mut run.covers);
        self.void = Some(Void {
            covers,
            clients: settling.losers,
            gone: settling.gone,
            swept: None,
            kept: settling.kept,
            files: settling.dropped_in,
            purged: HashMap::new(),
        });
        for (offer, answer) in settling.answers {
            self.offer_answered(offer, answer);
        }
        Some(Spent(Box::new(run)))
    }

    /// The result could not be made durable: back to grace, as before the start. Gives what is left of the settle.
    pub fn settle_cancel(&mut self) -> Option<Spent> {
        let mut settling = self.run.as_mut()?.stop_settling()?;
        for (offer, answer) in std::mem::take(&mut settling.answers) {
            self.offer_answered(offer, answer);
        }
        Some(Spent(Box::new(settling)))
    }

    /// The same for reclaims that came in time.
    pub fn settle_anew(&mut self) -> Option<Spent> {
        self.run.as_mut()?.went_on += 1;
        self.settle_cancel()
    }

    /// Whether [`settle_sweep`](Self::settle_sweep) has something to do.
    pub fn has_more_to_sweep(&self) -> bool {
        self.void.is_some() || self.late.has_more_to_forget()
    }

    /// Purges `budget` more files of dropped locks, or of what is remembered no more, and drops the waiters of clients
    /// that are gone; true when none is left.
    pub fn settle_sweep(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            if let Some(forgotten) = self.late.forget_next() {
                self.forget(forgotten);
            } else if let Some(file) = self.void.as_ref().and_then(|void| void.files.first().copied()) {
                self.refresh(file);
            } else if let Some(client) = self.void.as_ref().and_then(Void::leaving) {
                self.drop_some_waiters_of(client);
            } else {
                self.void = None;
                return true;
            }
        }
        !self.has_more_to_sweep()
    }
}

impl Run {
    fn facts(&self, settling: &Settling, place: usize) -> Option<ClientFacts<'_>> {
        let (tally, client): (&Tally, &RunClient) = self.tallies.get(place).zip(self.clients.get(place))?;
        Some(tally.facts(settling.now, client, self.covers.clients.is_some()))
    }

    /// Counts the client for the verdicts on all. Gives what is next.
    fn weigh(&self, settling: &mut Settling, place: usize) -> Stage {
        if let Some(facts) = self.facts(settling, place) {
            settling.judge.weigh(&facts);
            return Stage::Weighing(place + 1);
        }
        settling.make_room(self.tallies.len());
        Stage::Judging(0)
    }

    /// Decides about the client. Gives what is next.
    fn judge(&mut self, settling: &mut Settling, place: usize) -> Stage {
        let judged = self.facts(settling, place).map(|facts| settling.judge.judge(&facts));
        let is_spared = settling.cut_short || self.tallies.get(place).is_some_and(|tally| self.was_claiming(tally));
        let Some((judged, tally)) = judged.zip(self.tallies.get_mut(place)) else {
            return Stage::Files;
        };
        settling.not_understood |= judged.is_not_understood() && !settling.cut_short;
        tally.judged = if is_spared { judged.spared_for_time() } else { judged };
        // A settle before this one may have counted and was cancelled.
        (tally.counts.dropped, tally.counts.kept) = (0, 0);
        if tally.counts.pending > 0 {
            settling.ahead.insert((FileId::FIRST, place));
        }
        if tally.judged.drops_any() {
            settling.losers.insert(tally.client);
            settling.losing.insert(tally.address);
        }
        if tally.judged.gone {
            settling.gone.insert(tally.client);
        }
        Stage::Judging(place + 1)
    }

    /// Writes down what became of the client. Gives what is next.
    fn write_down(&self, settling: &mut Settling, place: usize) -> Stage {
        match self.tallies.get(place).zip(self.clients.get(place)) {
            Some((tally, client)) => {
                settling.results.push(tally.result(client));
                Stage::Results(place + 1)
            }
            None => Stage::Done,
        }
    }
}
