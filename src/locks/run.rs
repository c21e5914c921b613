//! The active run inside the table: what is pending, what became of it, how long it may last.
//!
//! Marking raises the table's epoch, once, whatever the number of locks: a lock granted in an
//! earlier epoch and in scope is pending. Nothing is written into a lock for it. Only a pending
//! lock that is touched *in part* gets a [`Mark`], so that its pieces are still counted as the one
//! lock that was marked.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::api::ClientId;
use super::files::{FileId, Segment};
use crate::resync::policy;
use crate::wire::control::{
    BeginArgs, ClientProgress, ClientResult, Counts, Delivery, FullResult, LockFate, LockKind, Mode, Outcome, Policy,
    RunClient, RunResult, RunStatus,
};
use crate::wire::types::{Address, ByteRange, FileHandle, NsmState, OwnerHandle, Svid};
use crate::wire::xdr::{List, Maybe, Text};

/// How long past its deadline an attached controller's settle is awaited.
pub(super) const CONTROLLER_PATIENCE: Duration = Duration::from_millis(500);
/// Most rows a run lists of what peers did in it (resurrected, conflicts).
const MAX_ROWS: usize = 200_000;

/// What happened to a pending lock, or to a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Reclaimed,
    Released,
}

/// A pending lock that is in pieces, or of which only a weaker mode was reclaimed.
#[derive(Debug)]
pub(super) struct Mark {
    client: ClientId,
    pieces: u32,
    reclaimed: bool,
}

/// A client's part of the run.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) client: ClientId,
    pub(super) counts: Counts,
    pub(super) delivery: Delivery,
    pub(super) acked_at: Option<Duration>,
    pub(super) suspect: bool,
    /// Reclaimed some of its locks in scope, in whole or in part.
    pub(super) reclaimed_any: bool,
    /// Sent a reclaim that was granted.
    pub(super) reclaimed_anything: bool,
    pub(super) named: bool,
    pub(super) may_drop: bool,
    pub(super) silent: bool,
}

/// Who and what the run covers.
#[derive(Debug)]
pub(super) struct Covers {
    pub(super) epoch: u32,
    pub(super) include_unmonitored: bool,
    pub(super) clients: Option<HashSet<ClientId>>,
    pub(super) files: Option<HashSet<FileId>>,
}

impl Covers {
    /// Whether the segment was granted before the run and is in its scope: not decided yet.
    pub(super) fn is_pending(&self, file: FileId, segment: &Segment) -> bool {
        segment.epoch < self.epoch
            && (segment.monitored || self.include_unmonitored)
            && self.clients.as_ref().is_none_or(|clients| clients.contains(&segment.client))
            && self.files.as_ref().is_none_or(|files| files.contains(&file))
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: crate::wire::control::RunId,
    pub(super) mode: Mode,
    pub(super) policy: Policy,
    pub(super) covers: Covers,
    pub(super) old_state: NsmState,
    pub(super) new_state: NsmState,
    pub(super) began: Duration,
    pub(super) began_unix_ms: u64,
    pub(super) grace: Duration,
    pub(super) deadline: Duration,
    pub(super) latest: Duration,
    pub(super) clients: Vec<RunClient>,
    pub(super) tallies: Vec<Tally>,
    pub(super) index: HashMap<ClientId, usize>,
    pub(super) counts: Counts,
    pub(super) unmonitored: u64,
    pub(super) notices_begun: bool,
    pub(super) last_reclaim: Option<Duration>,
    pub(super) last_ack: Option<Duration>,
    pub(super) rows: Vec<LockFate>,
    /// Its settle is under way: nothing pending may change.
    pub(super) settling: Option<super::settle::Settling>,
    conflicts_seen: HashSet<ConflictKey>,
    marks: HashMap<u32, Mark>,
    /// Marks are numbered through all runs: one left on a kept lock means nothing to the next run.
    pub(super) next_mark: u32,
}

/// What makes two refused reclaims the same one.
type ConflictKey = (ClientId, FileHandle, ByteRange, LockKind, Svid, OwnerHandle);

impl Run {
    pub(super) fn new(
        now: Duration,
        unix_ms: u64,
        args: &BeginArgs,
        covers: Covers,
        states: (NsmState, NsmState),
        clients: Vec<RunClient>,
        tallies: Vec<Tally>,
    ) -> Self {
        let grace = Duration::from_millis(args.grace_ms);
        let in_scope = tallies.iter().map(|t| t.counts.in_scope).sum();
        Self {
            id: args.run,
            mode: args.mode,
            policy: args.policy,
            covers,
            old_state: states.0,
            new_state: states.1,
            began: now,
            began_unix_ms: unix_ms,
            grace,
            deadline: now + grace,
            latest: now + Duration::from_millis(args.grace_max_ms),
            index: tallies.iter().enumerate().map(|(n, t)| (t.client, n)).collect(),
            clients,
            tallies,
            counts: Counts { in_scope, pending: in_scope, ..Counts::default() },
            unmonitored: 0,
            notices_begun: false,
            last_reclaim: None,
            last_ack: None,
            rows: Vec::new(),
            settling: None,
            conflicts_seen: HashSet::new(),
            marks: HashMap::new(),
            next_mark: 1,
        }
    }

    pub(super) fn tally_mut(&mut self, client: ClientId) -> Option<&mut Tally> {
        self.tallies.get_mut(*self.index.get(&client)?)
    }

    /// Some of a pending segment is decided and `left` pieces of it are not. Gives the mark that
    /// those carry.
    pub(super) fn decided(&mut self, segment: &Segment, left: u32, how: How) -> u32 {
        if how == How::Reclaimed
            && let Some(tally) = self.tally_mut(segment.client)
        {
            tally.reclaimed_any = true;
        }
        if left == 0 && !self.is_marked(segment) {
            self.count_decided(segment.client, how);
            return 0;
        }
        let number = self.mark(segment);
        let Some(mark) = self.marks.get_mut(&number) else { return 0 };
        mark.pieces = mark.pieces - 1 + left;
        mark.reclaimed |= how == How::Reclaimed;
        if mark.pieces == 0
            && let Some(mark) = self.marks.remove(&number)
        {
            self.count_decided(mark.client, if mark.reclaimed { How::Reclaimed } else { How::Released });
            return 0;
        }
        number
    }

    /// Whether a part of the lock that the segment belongs to was decided.
    pub(super) fn is_marked(&self, segment: &Segment) -> bool {
        self.marks.contains_key(&segment.mark)
    }

    /// The segment's mark, made if need be.
    fn mark(&mut self, segment: &Segment) -> u32 {
        if self.is_marked(segment) {
            return segment.mark;
        }
        let number = self.next_mark;
        self.next_mark = number.checked_add(1).unwrap_or(1);
        self.marks.insert(number, Mark { client: segment.client, pieces: 1, reclaimed: false });
        number
    }

    /// Only a weaker mode of the segment was reclaimed; it stays pending for the rest. Gives its
    /// mark.
    pub(super) fn weakened(&mut self, segment: &Segment) -> u32 {
        if let Some(tally) = self.tally_mut(segment.client) {
            tally.reclaimed_any = true;
        }
        let number = self.mark(segment);
        if let Some(mark) = self.marks.get_mut(&number) {
            mark.reclaimed = true;
        }
        number
    }

    fn count_decided(&mut self, client: ClientId, how: How) {
        fn count(counts: &mut Counts, how: How) {
            counts.pending -= 1;
            match how {
                How::Reclaimed => counts.reclaimed += 1,
                How::Released => counts.released += 1,
            }
        }
        count(&mut self.counts, how);
        if let Some(tally) = self.tally_mut(client) {
            count(&mut tally.counts, how);
        }
    }

    /// A reclaim of the client was granted; `changed` if it was more than a repetition.
    pub(super) fn reclaim_granted(&mut self, now: Duration, client: ClientId, changed: bool) {
        if changed {
            self.last_reclaim = Some(now);
        }
        if let Some(tally) = self.tally_mut(client) {
            tally.reclaimed_anything = true;
        }
    }

    /// A reclaim was granted though (a part of) its lock was not known.
    pub(super) fn resurrected(&mut self, client: ClientId, row: LockFate) {
        self.counts.resurrected += 1;
        if let Some(tally) = self.tally_mut(client) {
            tally.counts.resurrected += 1;
        }
        self.push_row(row);
    }

    /// Beyond the bound a row is counted and not listed: a peer must not fill the memory.
    fn push_row(&mut self, row: LockFate) {
        if self.rows.len() < MAX_ROWS {
            self.rows.push(row);
        }
    }

    /// A conflict is told once: the client repeats its reclaim.
    pub(super) fn conflict(&mut self, client: ClientId, row: LockFate) -> bool {
        let key = (client, row.file.clone(), row.range, row.kind, row.owner.svid, row.owner.oh.clone());
        if self.conflicts_seen.len() >= MAX_ROWS || !self.conflicts_seen.insert(key) {
            return false;
        }
        self.counts.conflicts += 1;
        if let Some(tally) = self.tally_mut(client) {
            tally.counts.conflicts += 1;
        }
        self.push_row(row);
        true
    }

    pub(super) fn progress(&mut self, now: Duration, seen: &ClientProgress) -> bool {
        let Some(tally) = self.tallies.get_mut(seen.client as usize) else { return false };
        tally.suspect |= seen.suspect;
        // Delivered once is delivered: a later failure of a retry takes nothing back.
        if tally.delivery == Delivery::Acked || seen.delivery == Delivery::NotTold {
            return true;
        }
        tally.delivery = seen.delivery;
        if seen.delivery == Delivery::Acked {
            let at = now.saturating_sub(Duration::from_millis(seen.ago_ms)).max(self.began);
            tally.acked_at = Some(at);
            self.last_ack = self.last_ack.max(Some(at));
        }
        true
    }

    /// The deadline as activity has moved it.
    pub(super) fn deadline(&self) -> Duration {
        if self.counts.pending == 0 {
            return self.deadline;
        }
        policy::extended_deadline(self.deadline, self.latest, self.grace, self.last_reclaim, self.last_ack)
    }

    pub(super) fn status(&self, now: Duration) -> RunStatus {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        RunStatus {
            run: self.id,
            mode: self.mode,
            nsm_state: self.new_state,
            elapsed_ms: millis(now.saturating_sub(self.began)),
            remaining_ms: millis(self.deadline().saturating_sub(now)),
            latest_remaining_ms: millis(self.latest.saturating_sub(now)),
            last_reclaim_ms: Maybe(self.last_reclaim.map(|at| millis(now.saturating_sub(at)))),
            counts: self.counts,
            notices_begun: self.notices_begun,
        }
    }

    /// The result as the counts and rows have it.
    pub(super) fn result(&self, unix_ms: u64, outcome: Outcome, reason: &str) -> FullResult {
        let clients = self
            .tallies
            .iter()
            .zip(&self.clients)
            .map(|(tally, client)| ClientResult {
                client: client.index,
                name: client.name.clone(),
                address: client
                    .addresses
                    .as_slice()
                    .first()
                    .copied()
                    .unwrap_or(Address(std::net::Ipv4Addr::UNSPECIFIED.into())),
                delivery: tally.delivery,
                suspect: tally.suspect,
                silent: tally.silent,
                counts: tally.counts,
            })
            .collect();
        FullResult {
            result: RunResult {
                run: self.id,
                outcome,
                reason: Text::clipped(reason),
                alone: false,
                not_understood: false,
                mode: self.mode,
                old_state: self.old_state,
                new_state: self.new_state,
                began_unix_ms: self.began_unix_ms,
                ended_unix_ms: unix_ms,
                counts: self.counts,
                late: 0,
            },
            clients: List::clipped(clients),
            locks: List::clipped(self.rows.clone()),
        }
    }

    /// Everything pending is held again: nothing is lost.
    pub(super) fn keep_all(&mut self) {
        for counts in self.tallies.iter_mut().map(|t| &mut t.counts).chain([&mut self.counts]) {
            counts.kept += counts.pending;
            counts.pending = 0;
        }
    }
}
