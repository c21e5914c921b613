//! The end of a run: looked at in slices, one instant, cleaned up in slices.
//!
//! 1. [`settle_start`](LockTable::settle_start) freezes what is pending and decides about each
//!    client. From here on a call that meets a pending lock waits; all others are served.
//! 2. [`settle_scan`](LockTable::settle_scan) writes down what will be dropped and kept. It looks
//!    only at the files of clients that have something pending.
//! 3. The caller makes [`settle_result`](LockTable::settle_result) durable.
//! 4. [`settle_commit`](LockTable::settle_commit) is the instant: nothing is pending any more. A
//!    dropped lock protects nothing from here on, though it still stands in its file: [`Void`]
//!    describes such locks, and every file is purged of them before it is looked at.
//! 5. [`settle_sweep`](LockTable::settle_sweep) purges the rest and wakes waiters.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::files::{FileId, Segment};
use super::run::Covers;
use super::{ClientId, Effect, LockTable, OfferAnswer, OfferId};
use crate::resync::policy::{ClientFacts, Verdict, judge};
use crate::wire::control::{Fate, FullResult, LockFate, Outcome, Refusal, RefusalCode};
use crate::wire::xdr::Maybe;

/// A settle under way.
#[derive(Debug)]
pub(super) struct Settling {
    verdicts: Vec<Verdict>,
    /// Who is there, for all that is known: its waiters and offers are spared.
    acked: Vec<bool>,
    not_understood: bool,
    alone: bool,
    reason: String,
    /// Clients (by their place in the run) still to be looked at, and files of the first of them.
    clients: VecDeque<usize>,
    files: Vec<FileId>,
    rows: Vec<LockFate>,
    /// Files that have something to drop.
    dropped_in: Vec<FileId>,
    marks: HashSet<u32>,
    /// Answers to offers that would change what is frozen.
    pub(super) answers: Vec<(OfferId, OfferAnswer)>,
}

/// Dropped locks that still stand in their files.
#[derive(Debug)]
pub(super) struct Void {
    covers: Covers,
    /// Whose; and whether what was offered to them is spared.
    clients: HashMap<ClientId, bool>,
    /// Files not yet purged, or whose waiters are not yet woken.
    files: VecDeque<FileId>,
}

impl Void {
    pub(super) fn is_void(&self, file: FileId, segment: &Segment) -> bool {
        self.covers.is_pending(file, segment)
            && self.clients.get(&segment.client).is_some_and(|spare_offered| !(segment.offered && *spare_offered))
    }
}

impl LockTable {
    /// Freezes what is pending and decides about each client. `alone`: no controller asked for it.
    pub fn settle_start(
        &mut self,
        now: Duration,
        only_if_nothing_pending: bool,
        alone: bool,
        reason: &str,
    ) -> Result<(), Refusal> {
        let Some(run) = self.run.as_mut().filter(|run| run.settling.is_none()) else {
            return Err(Refusal::new(RefusalCode::WrongPhase, "no run is in its grace period"));
        };
        if only_if_nothing_pending && run.counts.pending > 0 {
            let words = format!("{} locks are still pending", run.counts.pending);
            return Err(Refusal::new(RefusalCode::StillPending, words));
        }
        let server_addresses: Vec<Vec<std::net::IpAddr>> =
            run.clients.iter().map(|c| c.server_addresses.as_slice().iter().map(|a| a.0).collect()).collect();
        let facts: Vec<ClientFacts<'_>> = run
            .tallies
            .iter()
            .zip(&run.clients)
            .zip(&server_addresses)
            .map(|((tally, client), addresses)| ClientFacts {
                in_scope: tally.counts.in_scope,
                pending: tally.counts.pending,
                reclaimed_any: tally.reclaimed_any,
                reclaimed_anything: tally.reclaimed_anything,
                delivery: tally.delivery,
                acked_ago: tally.acked_at.map(|at| now.saturating_sub(at)),
                shared_address: client.shared_address,
                suspect: tally.suspect,
                named: tally.named,
                may_drop: tally.may_drop,
                server_addresses: addresses,
            })
            .collect();
        let judgement = judge(&facts, run.policy, run.grace, alone);
        for (tally, silent) in run.tallies.iter_mut().zip(&judgement.silent) {
            tally.silent = *silent;
        }
        let clients = (0..run.tallies.len()).filter(|n| run.tallies.get(*n).is_some_and(|t| t.counts.pending > 0));
        run.settling = Some(Settling {
            clients: clients.collect(),
            verdicts: judgement.verdicts,
            acked: judgement.acked,
            not_understood: judgement.not_understood,
            alone,
            reason: reason.to_owned(),
            files: Vec::new(),
            rows: Vec::new(),
            dropped_in: Vec::new(),
            marks: HashSet::new(),
            answers: Vec::new(),
        });
        Ok(())
    }

    /// Looks at about `budget` more locks (a file is looked at whole); true when all are looked at.
    pub fn settle_scan(&mut self, budget: usize) -> bool {
        let Some(mut settling) = self.run.as_mut().and_then(|run| run.settling.take()) else { return true };
        let mut left = budget;
        let done = loop {
            let Some(place) = settling.clients.front().copied() else { break true };
            let Some(client) = self.run.as_ref().and_then(|run| run.tallies.get(place)).map(|t| t.client) else {
                break true;
            };
            if settling.files.is_empty() {
                settling.files = self.clients.get(client).map_or(Vec::new(), |c| c.files.keys().copied().collect());
            }
            while left > 0
                && let Some(file) = settling.files.pop()
            {
                left = left.saturating_sub(1 + self.scan_file(&mut settling, place, client, file));
            }
            if !settling.files.is_empty() {
                break false;
            }
            settling.clients.pop_front();
            if left == 0 && !settling.clients.is_empty() {
                break false;
            }
        };
        if let Some(run) = &mut self.run {
            run.settling = Some(settling);
        }
        done
    }

    /// Writes down what becomes of the client's pending locks on the file. Gives how many segments
    /// it looked at.
    fn scan_file(&mut self, settling: &mut Settling, place: usize, client: ClientId, id: FileId) -> usize {
        let (Some(run), Some(file)) = (&self.run, self.files.get(id)) else { return 0 };
        let looked_at = file.segments.len();
        let drop = settling.verdicts.get(place) == Some(&Verdict::Drop);
        let acked = settling.acked.get(place) == Some(&true);
        let (mut dropped, mut kept) = (0, 0);
        for segment in file.segments.iter().filter(|s| s.client == client && run.covers.is_pending(id, s)) {
            let partial = run.is_marked(segment);
            let fate = if drop && !(segment.offered && acked) { Fate::Dropped } else { Fate::Kept };
            if !partial || settling.marks.insert(segment.mark) {
                *(if fate == Fate::Dropped { &mut dropped } else { &mut kept }) += 1;
            }
            if let Some(owner) = self.owner_row(segment.owner) {
                settling.rows.push(LockFate {
                    fate,
                    file: file.handle.clone(),
                    kind: segment.kind.row(),
                    range: segment.range,
                    partial,
                    late: false,
                    owner,
                    other: Maybe(None),
                    other_range: Maybe(None),
                });
            }
        }
        if dropped > 0 || drop {
            settling.dropped_in.push(id);
        }
        if let Some(run) = &mut self.run {
            for counts in run.tallies.get_mut(place).map(|t| &mut t.counts).into_iter().chain([&mut run.counts]) {
                counts.dropped += dropped;
                counts.kept += kept;
            }
        }
        looked_at
    }

    /// What to make durable before the commit: the result as it will be.
    pub fn settle_result(&mut self, unix_ms: u64) -> Option<FullResult> {
        let run = self.run.as_mut()?;
        // A cancelled settle looks at everything again, so the rows need not stay.
        let rows = std::mem::take(&mut run.settling.as_mut()?.rows);
        let run = self.run.as_ref()?;
        let settling = run.settling.as_ref()?;
        let mut full = run.result(unix_ms, Outcome::Settled, &settling.reason);
        full.result.alone = settling.alone;
        full.result.not_understood = settling.not_understood;
        full.result.counts.pending = 0;
        let mut clients = full.clients.into_vec();
        for client in &mut clients {
            client.counts.pending = 0;
        }
        full.clients = crate::wire::xdr::List::clipped(clients);
        let mut all = full.locks.into_vec();
        all.extend(rows);
        full.locks = crate::wire::xdr::List::clipped(all);
        Some(full)
    }

    /// The instant: dropped locks protect nothing, kept ones are held, grace is over.
    pub fn settle_commit(&mut self) {
        if self.run.as_ref().is_none_or(|run| run.settling.is_none()) {
            return;
        }
        let Some(mut run) = self.end_run() else { return };
        let Some(settling) = run.settling.take() else { return };
        self.open_late_window(&run);
        self.effects.push(Effect::Event(
            "settle",
            format!(
                "run {} has settled ({}): {} reclaimed, {} released, {} dropped, {} kept",
                run.id, settling.reason, run.counts.reclaimed, run.counts.released, run.counts.dropped, run.counts.kept
            ),
        ));
        self.effects.push(Effect::Changed);
        let mut files: VecDeque<FileId> = settling.dropped_in.into();
        files.extend(self.files_with_waiters());
        let judged = run.tallies.iter().zip(&settling.verdicts).zip(&settling.acked);
        let dropped = judged.filter(|((_, verdict), _)| **verdict == Verdict::Drop);
        let clients: HashMap<ClientId, bool> = dropped.map(|((tally, _), acked)| (tally.client, *acked)).collect();
        let unreachable: Vec<ClientId> = clients.iter().filter(|(_, acked)| !**acked).map(|(id, _)| *id).collect();
        self.void = Some(Void { covers: run.covers, clients, files });
        // Who is taken for gone waits for nothing: a grant to it would be stuck.
        for client in unreachable {
            self.drop_waiters_of(client, |_| true);
        }
        for (offer, answer) in settling.answers {
            self.offer_answered(offer, answer);
        }
    }

    /// The result could not be made durable: back to grace, as before the start.
    pub fn settle_cancel(&mut self) {
        let Some(run) = &mut self.run else { return };
        let Some(settling) = run.settling.take() else { return };
        for counts in run.tallies.iter_mut().map(|t| &mut t.counts).chain([&mut run.counts]) {
            counts.dropped = 0;
            counts.kept = 0;
        }
        for (offer, answer) in settling.answers {
            self.offer_answered(offer, answer);
        }
        // Nobody was woken while it was settling.
        self.wake_all();
    }

    /// Purges `budget` more files of dropped locks and wakes their waiters; true when none is left.
    pub fn settle_sweep(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(file) = self.void.as_mut().and_then(|void| void.files.pop_front()) else {
                self.void = None;
                return true;
            };
            self.purge(file);
            self.wake(file);
            self.files.close(file);
        }
        self.void.is_none()
    }

    /// Takes dropped locks out of the file before anything looks at it.
    pub(super) fn purge(&mut self, id: FileId) {
        let (Some(void), Some(file)) = (&self.void, self.files.get_mut(id)) else { return };
        let gone: Vec<Segment> = file.segments.iter().filter(|s| void.is_void(id, s)).copied().collect();
        if gone.is_empty() {
            return;
        }
        file.segments.retain(|s| !void.is_void(id, s));
        for segment in &gone {
            self.count_out(id, segment);
            self.may_need_less(id, segment.range);
        }
        self.effects.push(Effect::Changed);
        self.wake(id);
    }

    /// Whether the segment was dropped and only its memory is not free yet.
    pub(super) fn is_void(&self, file: FileId, segment: &Segment) -> bool {
        self.void.as_ref().is_some_and(|void| void.is_void(file, segment))
    }
}
