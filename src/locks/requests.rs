//! TEST, LOCK, reclaim, UNLOCK, SHARE, UNSHARE: what each does in and out of grace.
//!
//! Ranges are as POSIX has them: an owner has one mode on a byte, a new lock replaces what it had
//! there, neighbours that are alike become one. Conflicts are only ever with another owner.

use std::time::Duration;

use super::files::{File, FileId, Kind, Segment, uncovered};
use super::late::LateReclaim;
use super::owners::OwnerId;
use super::run::How;
use super::{Caller, ClientId, Effect, Handled, Holder, LockTable, Outside, Verdict};
use crate::wire::control::{Fate, Grace, LockFate, Mode};
use crate::wire::types::{ByteRange, Cookie, NsmState};
use crate::wire::xdr::Maybe;

/// Most locks on one file: each request looks through them.
const MAX_PER_FILE: usize = 65_536;

/// A lock that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) caller: Caller,
    pub(super) owner: OwnerId,
    pub(super) file: FileId,
    pub(super) range: ByteRange,
    pub(super) kind: Kind,
    pub(super) state: NsmState,
    pub(super) monitored: bool,
    /// What another lock domain said, if the call had to ask it.
    pub(super) outside: Outside,
}

impl Want {
    pub(super) fn segment(&self, range: ByteRange, epoch: u32) -> Segment {
        Segment {
            range,
            owner: self.owner,
            client: self.caller.client,
            state: self.state,
            epoch,
            mark: 0,
            kind: self.kind,
            monitored: self.monitored,
            offered: false,
        }
    }
}

impl LockTable {
    /// Segments of others that exclude this one.
    pub(super) fn in_the_way(
        &self,
        file: FileId,
        owner: impl Into<Option<OwnerId>>,
        range: ByteRange,
        kind: Kind,
    ) -> impl Iterator<Item = &Segment> {
        let owner = owner.into();
        self.files
            .get(file)
            .into_iter()
            .flat_map(move |f| f.overlapping(range))
            .filter(move |s| Some(s.owner) != owner && s.kind.excludes(kind) && !self.is_void(file, s))
    }

    pub(super) fn test(&self, owner: Option<OwnerId>, file: FileId, range: ByteRange, kind: Kind) -> Handled {
        if self.is_frozen(file, range, kind) {
            return Handled::Wait;
        }
        let found = self.in_the_way(file, owner, range, kind).next();
        let holder = found.and_then(|s| {
            Some(Holder {
                exclusive: s.kind == Kind::Range { exclusive: true },
                process: self.owners.key(s.owner)?.process.clone(),
                range: s.range,
            })
        });
        holder.map_or_else(|| self.test_free(), |holder| Handled::Reply(Verdict::Holder(holder)))
    }

    /// TEST where nobody is in the way. In grace somebody may still reclaim what looks free.
    pub(super) fn test_free(&self) -> Handled {
        Handled::Reply(if self.refuses_ordinary() { Verdict::Grace } else { Verdict::Granted })
    }

    /// An ordinary LOCK or SHARE. `wait` is the request's cookie where it may be queued.
    pub(super) fn lock(&mut self, want: &Want, wait: Option<&Cookie>) -> Handled {
        if self.is_frozen(want.file, want.range, want.kind) {
            return Handled::Wait;
        }
        if let Some(handled) = self.lock_again(want, wait) {
            return handled;
        }
        if self.refuses_ordinary() {
            return Handled::Reply(Verdict::Grace);
        }
        let (mut held, mut pending) = (false, false);
        for segment in self.in_the_way(want.file, want.owner, want.range, want.kind) {
            if self.is_pending(want.file, segment) { pending = true } else { held = true }
        }
        if pending {
            return Handled::Reply(Verdict::Grace);
        }
        if held {
            return Handled::Reply(wait.map_or(Verdict::Denied, |cookie| self.enqueue(want, cookie)));
        }
        if self.is_full(want.caller.client, want.file) {
            return Handled::Reply(Verdict::NoLocks);
        }
        if !self.is_mirrored(want) {
            return match want.outside {
                Outside::Unasked => self.await_mirror(want),
                Outside::Conflict => Handled::Reply(wait.map_or(Verdict::Denied, |cookie| self.enqueue(want, cookie))),
                Outside::Failed => Handled::Reply(Verdict::NoLocks),
            };
        }
        if self.grant(want).iter().any(|s| !want.kind.covers(s.kind)) {
            self.wake(want.file);
        }
        Handled::Reply(Verdict::Granted)
    }

    /// Whether ordinary requests are refused, whatever they ask for. A strict run refuses them until
    /// its one instant, also while it settles.
    fn refuses_ordinary(&self) -> bool {
        self.run.as_ref().map_or(self.grace() == Grace::Recovery, |run| run.mode == Mode::Strict)
    }

    /// Whether one more lock would go beyond a cap.
    fn is_full(&self, client: ClientId, file: FileId) -> bool {
        self.locks >= self.limits.locks
            || self.clients.get(client).is_none_or(|c| c.locks >= self.limits.locks_per_client)
            || self.files.get(file).is_none_or(|f| f.segments.len() >= MAX_PER_FILE)
    }

    /// The owner gets the range, whatever it had there before. Gives what it had.
    fn grant(&mut self, want: &Want) -> Vec<Segment> {
        let had =
            self.cut(want.file, want.range, How::Reclaimed, |s| s.owner == want.owner && s.kind.same_sort(want.kind));
        for piece in had.iter().filter(|s| !want.kind.covers(s.kind)) {
            self.remember_given_up(want.file, piece);
        }
        self.put(want.file, want.segment(want.range, self.epoch));
        self.effects.push(Effect::Changed);
        had
    }

    /// A reclaim: after a notice the owner says what it holds. Refused only for a conflict.
    pub(super) fn reclaim(&mut self, now: Duration, want: &Want) -> Handled {
        if self.run.as_ref().is_some_and(|run| run.settling.is_some()) {
            return Handled::Wait;
        }
        let Some(file) = self.files.get(want.file) else { return Handled::Reply(Verdict::NoLocks) };
        let elsewhere = self.pending_by_another_path(file, want);
        let conflict =
            self.in_the_way(want.file, want.owner, want.range, want.kind).find(|s| Some(**s) != elsewhere).copied();
        if let Some(other) = conflict {
            return self.refuse_reclaim(want, Some(other.owner), Some(other.range));
        }
        if let Some(segment) = elsewhere {
            self.adopt(want, &segment);
        }
        let Some(file) = self.files.get(want.file) else { return Handled::Reply(Verdict::NoLocks) };
        let unknown = Self::unknown_parts(file, want);
        let unheld = self.unheld_parts(file, want);
        let same_life = file.overlapping(want.range).all(|s| s.owner != want.owner || s.state == want.state);
        // What its owner holds is granted always; the rest only where reclaims are taken.
        let mut late = false;
        if !unheld.is_empty() && self.grace() == Grace::Open {
            match self.late_reclaim(want) {
                LateReclaim::Granted => late = true,
                LateReclaim::TakenSince(other, range) => return self.refuse_reclaim(want, other, range),
                LateReclaim::NoWindow => return Handled::Reply(Verdict::Grace),
            }
        }
        if !unknown.is_empty() && self.is_full(want.caller.client, want.file) {
            return Handled::Reply(Verdict::NoLocks);
        }
        if !self.is_mirrored(want) {
            return match want.outside {
                Outside::Unasked => self.await_mirror(want),
                Outside::Conflict => self.refuse_reclaim(want, None, None),
                Outside::Failed => Handled::Reply(Verdict::NoLocks),
            };
        }
        let row = (!unknown.is_empty()).then(|| self.fate_row(want, Fate::Resurrected, unknown != [want.range]));
        if !unheld.is_empty() || !same_life {
            self.take_back(want);
        }
        if let Some(run) = &mut self.run {
            run.reclaim_granted(now, want.caller.client, !unheld.is_empty());
        }
        self.effects.push(Effect::Changed);
        match row.flatten() {
            Some(row) if late => {
                self.append_late(row);
            }
            Some(row) => {
                if let Some(run) = &mut self.run {
                    run.resurrected(want.caller.client, row);
                }
            }
            None => {}
        }
        Handled::Reply(Verdict::Granted)
    }

    /// The same process' pending lock of exactly this range, taken over another path: this owner's.
    fn pending_by_another_path(&self, file: &File, want: &Want) -> Option<Segment> {
        file.overlapping(want.range)
            .find(|s| {
                s.range == want.range
                    && s.owner != want.owner
                    && s.kind.same_sort(want.kind)
                    && self.is_pending(want.file, s)
                    && self.owners.same_process(s.owner, want.owner)
            })
            .copied()
    }

    /// A pending lock of the same process becomes this owner's.
    fn adopt(&mut self, want: &Want, segment: &Segment) {
        let Some(file) = self.files.get_mut(want.file) else { return };
        let Some(found) = file.segments.iter_mut().find(|s| *s == segment) else { return };
        found.owner = want.owner;
        self.owners.acquire(want.owner);
        self.owners.release(segment.owner);
    }

    /// The parts of the range that the owner is not known to have at least in this mode.
    fn unknown_parts(file: &File, want: &Want) -> Vec<ByteRange> {
        let mine = file.overlapping(want.range).filter(|s| s.owner == want.owner && s.kind.covers(want.kind));
        uncovered(want.range, mine.map(|s| s.range))
    }

    /// The parts of the range that the owner does not hold (pending is not held) in this mode.
    fn unheld_parts(&self, file: &File, want: &Want) -> Vec<ByteRange> {
        let held = file
            .overlapping(want.range)
            .filter(|s| s.owner == want.owner && s.kind.covers(want.kind) && !self.is_pending(want.file, s));
        uncovered(want.range, held.map(|s| s.range))
    }

    /// What the reclaim names becomes held, and exactly that: what is pending in a stronger mode
    /// stays so beneath it, and what is already held in a stronger mode is not weakened.
    fn take_back(&mut self, want: &Want) {
        self.weaken_pending(want);
        let mine = |s: &Segment| s.owner == want.owner && want.kind.covers(s.kind);
        self.cut(want.file, want.range, How::Reclaimed, mine);
        let Some(file) = self.files.get(want.file) else { return };
        for range in self.unheld_parts(file, want) {
            self.put(want.file, want.segment(range, self.epoch));
        }
    }

    /// Marks the owner's pending segments that are stronger than what is reclaimed of them.
    fn weaken_pending(&mut self, want: &Want) {
        let Some(mut run) = self.run.take() else { return };
        if let Some(file) = self.files.get_mut(want.file) {
            for segment in &mut file.segments {
                let weaker = segment.owner == want.owner
                    && segment.range.overlaps(want.range)
                    && segment.kind.same_sort(want.kind)
                    && !want.kind.covers(segment.kind)
                    && run.covers.is_pending(want.file, segment);
                if weaker {
                    segment.mark = run.weakened(segment);
                }
            }
        }
        self.run = Some(run);
    }

    /// Another owner holds or pends the range, or held it since the run began.
    fn refuse_reclaim(&mut self, want: &Want, other: Option<OwnerId>, range: Option<ByteRange>) -> Handled {
        let Some(row) = self.fate_row(want, Fate::Conflict, false) else { return Handled::Reply(Verdict::Denied) };
        let row =
            LockFate { other: Maybe(other.and_then(|owner| self.owner_row(owner))), other_range: Maybe(range), ..row };
        let words = format!(
            "{} may not reclaim {} of file {}: {}",
            row.owner.name,
            row.range,
            row.file,
            match &row.other.0 {
                Some(other) => format!("{} has it", other.name),
                None if want.outside == Outside::Conflict => "somebody who does not use NLM has it".to_owned(),
                None => "somebody had it since".to_owned(),
            },
        );
        let told = match &mut self.run {
            Some(run) => run.conflict(want.caller.client, row),
            None => self.append_late(row),
        };
        if told {
            self.effects.push(Effect::Event("conflict", words));
            self.effects.push(Effect::Changed);
        }
        Handled::Reply(Verdict::Denied)
    }

    fn fate_row(&self, want: &Want, fate: Fate, partial: bool) -> Option<LockFate> {
        Some(LockFate {
            fate,
            file: self.files.get(want.file)?.handle.clone(),
            kind: want.kind.row(),
            range: want.range,
            partial,
            late: false,
            owner: self.owner_row(want.owner)?,
            other: Maybe(None),
            other_range: Maybe(None),
        })
    }

    pub(super) fn unlock(&mut self, owner: OwnerId, file: FileId, range: ByteRange) -> Handled {
        let mine = |s: &Segment| s.owner == owner && matches!(s.kind, Kind::Range { .. });
        if self.owns_frozen(file, range, mine) {
            return Handled::Wait;
        }
        // A hole makes two locks of one, and memory is bounded: ENOLCK, as POSIX has it.
        let holed = self.files.get(file).and_then(|f| {
            f.overlapping(range).find(|s| mine(s) && s.range.start < range.start && range.end < s.range.end)
        });
        if holed.is_some_and(|s| self.is_full(s.client, file)) {
            return Handled::Reply(Verdict::NoLocks);
        }
        // Whoever unlocks has had the grant, and waits no more for that range.
        self.drop_waiters_in(owner, file, range);
        self.release_here(file, range, mine)
    }

    pub(super) fn unshare(&mut self, owner: OwnerId, file: FileId) -> Handled {
        let mine = |s: &Segment| s.owner == owner && matches!(s.kind, Kind::Share { .. });
        if self.owns_frozen(file, ByteRange::ALL, mine) {
            return Handled::Wait;
        }
        self.release_here(file, ByteRange::ALL, mine)
    }

    /// Whether a result is being written that has to do with one of these segments.
    fn owns_frozen(&self, file: FileId, range: ByteRange, mine: impl Fn(&Segment) -> bool) -> bool {
        self.run.as_ref().is_some_and(|run| run.settling.is_some())
            && self.files.get(file).is_some_and(|f| f.overlapping(range).any(|s| mine(s) && self.is_pending(file, s)))
    }

    fn release_here(&mut self, file: FileId, range: ByteRange, mine: impl Fn(&Segment) -> bool) -> Handled {
        let gone = self.cut(file, range, How::Released, mine);
        if !gone.is_empty() {
            self.effects.push(Effect::Changed);
            self.wake(file);
        }
        Handled::Reply(Verdict::Granted)
    }
}
