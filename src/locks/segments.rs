//! Putting segments in and taking them out, with everything that is counted by them.

use std::collections::{HashMap, HashSet};

use super::files::{FileId, Kind, Segment};
use super::run::How;
use super::{ClientId, LockTable};
use crate::wire::control::OwnerRow;
use crate::wire::types::{Address, ByteRange, NsmState};

impl LockTable {
    /// Whether the segment is in the active run's scope and not decided.
    pub(super) fn is_pending(&self, file: FileId, segment: &Segment) -> bool {
        self.run.as_ref().is_some_and(|run| run.covers.is_pending(file, segment))
    }

    /// Whether a result is being written and something pending lies in the range.
    pub(super) fn is_frozen(&self, file: FileId, range: ByteRange, kind: Kind) -> bool {
        self.run.as_ref().is_some_and(|run| run.settling.is_some())
            && self
                .files
                .get(file)
                .is_some_and(|f| f.overlapping(range).any(|s| s.kind.same_sort(kind) && self.is_pending(file, s)))
    }

    /// Whether a result is being written and the client has something pending.
    pub(super) fn frozen_for(&self, client: ClientId) -> bool {
        self.run.as_ref().is_some_and(|run| {
            run.settling.is_some()
                && run.index.get(&client).and_then(|n| run.tallies.get(*n)).is_some_and(|t| t.counts.pending > 0)
        })
    }

    /// Puts a segment in, joined with the owner's held neighbours that are alike.
    pub(super) fn put(&mut self, file: FileId, segment: Segment) {
        let mut segment = segment;
        if matches!(segment.kind, Kind::Range { .. }) && !segment.offered {
            let around =
                ByteRange { start: segment.range.start.saturating_sub(1), end: segment.range.end.saturating_add(1) };
            let alike: Vec<Segment> = self.files.get(file).map_or(Vec::new(), |f| {
                f.overlapping(around)
                    .filter(|s| {
                        s.owner == segment.owner
                            && s.kind == segment.kind
                            && s.state == segment.state
                            && s.monitored == segment.monitored
                            && !s.offered
                            && !self.is_pending(file, s)
                    })
                    .copied()
                    .collect()
            });
            for neighbour in alike {
                segment.range = ByteRange {
                    start: segment.range.start.min(neighbour.range.start),
                    end: segment.range.end.max(neighbour.range.end),
                };
                self.remove_exact(file, &neighbour);
            }
        }
        self.put_as_is(file, segment);
    }

    pub(super) fn put_as_is(&mut self, file: FileId, segment: Segment) {
        let Some(f) = self.files.get_mut(file) else { return };
        f.insert(segment);
        self.count_in(file, &segment);
    }

    fn remove_exact(&mut self, file: FileId, segment: &Segment) {
        let Some(f) = self.files.get_mut(file) else { return };
        let Some(at) = f.segments.iter().position(|s| s == segment) else { return };
        f.segments.remove(at);
        self.count_out(file, segment);
    }

    fn count_in(&mut self, file: FileId, segment: &Segment) {
        self.owners.acquire(segment.owner);
        self.locks += 1;
        self.unmonitored += usize::from(!segment.monitored);
        self.clients.lock_added(segment.client, file, segment.monitored);
    }

    pub(super) fn count_out(&mut self, file: FileId, segment: &Segment) {
        self.owners.release(segment.owner);
        self.locks -= 1;
        self.unmonitored -= usize::from(!segment.monitored);
        self.clients.lock_removed(segment.client, file, segment.monitored);
    }

    /// Takes what lies in the range of the segments that the test accepts. What was pending is
    /// decided as `how` says; what was held is remembered for late reclaims where it was released.
    /// Gives the pieces taken.
    pub(super) fn cut(
        &mut self,
        file: FileId,
        range: ByteRange,
        how: How,
        accept: impl Fn(&Segment) -> bool,
    ) -> Vec<Segment> {
        let Some(f) = self.files.get_mut(file) else { return Vec::new() };
        let run = &mut self.run;
        let cuts = f.cut(range, accept, |segment, left| match run {
            Some(run) if run.covers.is_pending(file, segment) => run.decided(segment, left, how),
            _ => segment.mark,
        });
        if !cuts.is_empty() {
            self.may_need_less(file, range);
        }
        for cut in &cuts {
            // The segment is gone, and its pieces are as many segments.
            for _ in 0..cut.left {
                self.count_in(file, &cut.piece);
            }
            if how == How::Released {
                self.remember_given_up(file, &cut.piece);
            }
            self.count_out(file, &cut.piece);
        }
        cuts.into_iter().map(|cut| cut.piece).collect()
    }

    /// Releases all that the client took in a life that the test accepts: segments and waiters.
    pub(super) fn release_client(&mut self, client: ClientId, taken_in: impl Fn(NsmState) -> bool) -> u64 {
        let files: Vec<FileId> = self.clients.get(client).map_or(Vec::new(), |c| c.files.keys().copied().collect());
        let mut released = self.drop_waiters_of(client, &taken_in);
        for file in files {
            self.purge(file);
            let pieces = self.cut(file, ByteRange::ALL, How::Released, |s| s.client == client && taken_in(s.state));
            released += pieces.len() as u64;
            self.wake(file);
            self.files.close(file);
        }
        released
    }

    /// Locks (and unmonitored ones of them) of each client on these files.
    pub(super) fn count_in_files(&self, files: &HashSet<FileId>) -> HashMap<ClientId, (usize, usize)> {
        let mut counts: HashMap<ClientId, (usize, usize)> = HashMap::new();
        for segment in files.iter().filter_map(|file| self.files.get(*file)).flat_map(|f| &f.segments) {
            let (locks, unmonitored) = counts.entry(segment.client).or_default();
            *locks += 1;
            *unmonitored += usize::from(!segment.monitored);
        }
        counts
    }

    /// The owner as a row for people and records.
    pub(super) fn owner_row(&self, owner: super::owners::OwnerId) -> Option<OwnerRow> {
        let key = self.owners.key(owner)?;
        let client = self.clients.get(key.client)?;
        Some(OwnerRow {
            name: client.name.clone(),
            address: Address(*client.addresses.first()?),
            server_address: Address(key.via.server_address),
            transport: key.via.transport,
            version: key.via.version,
            svid: key.process.svid,
            oh: key.process.oh.clone(),
        })
    }
}
