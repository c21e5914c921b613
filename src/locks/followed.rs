//! A table that follows another lock manager. The other one has the locks and answers the calls; the table keeps
//! account of a run over them, and gets each call after it was answered.
//!
//! So a call that the other one refused must not be decided again here, and a lock that the policy gives up is
//! dropped only if the other one has freed it: a lock that is left there is kept, in the run's result too.

use super::api::{Call, Caller, ClientId, Wanted};
use super::run::How;
use super::segment::{FileId, Kind, Segment, Want};
use super::table::LockTable;
use crate::ranges::uncovered;
use crate::wire::control::LockFate;
use std::time::Duration;

/// Whose lock was in the way of a reclaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTheWay {
    pub client: ClientId,
    /// It may be the owner itself, that calls from another address by now.
    pub may_have_moved: bool,
}

/// Where no owner of this table is in the way of a reclaim that was refused.
const ANOTHER: &str = "a process of the server, or a client of another protocol, has it";

impl LockTable {
    /// The other lock manager has refused the reclaim for a conflict. Nothing changes; both owners are named in the result,
    /// and a pending lock is kept that may be the same owner's. Gives the client that is in the way, if it is one of this
    /// table.
    pub fn reclaim_was_refused(&mut self, now: Duration, caller: Caller, call: &Call) -> Option<InTheWay> {
        self.hear_of(now, caller.client);
        let want = self.want_of(now, caller, call)?;
        let other = self.in_the_way(&want).next().copied();
        let what = if other.is_some() { "has it" } else { ANOTHER };
        let in_the_way =
            other.map(|other| InTheWay { client: other.client, may_have_moved: self.spare_if_it_moved(&want, &other) });
        self.refuse_reclaim(&want, other.map(|other| (other.owner, other.range)), what);
        self.owners.release(want.lock.owner);
        self.close(want.file);
        in_the_way
    }

    /// The other lock manager has granted this LOCK to one of its waiters, and no call said so: its owner has it in place of
    /// what is weaker. Nothing is done where another owner of this table is in the way, or while a result is being written.
    pub fn was_granted(&mut self, now: Duration, caller: Caller, call: &Call) {
        let Some(want) = self.want_of(now, caller, call) else { return };
        if !self.is_settling() && self.in_the_way(&want).next().is_none() {
            for range in self.parts_without(&want, |_| true) {
                self.cut_owned(want.place(), range, How::Replaced(want.lock.kind), |s| want.owns(s));
                self.put(want.file, Segment { range, ..want.lock });
            }
        }
        self.owners.release(want.lock.owner);
        self.close(want.file);
    }

    /// Its file is open, and its owner taken.
    fn want_of(&mut self, now: Duration, caller: Caller, call: &Call) -> Option<Want> {
        let subject = call.subject()?;
        let file = self.open(subject.1)?;
        Some(self.want(now, caller, call, subject, file))
    }

    /// Whether any of the range is pending as this owner's.
    pub fn has_pending(&self, caller: Caller, wanted: &Wanted) -> bool {
        self.segments_of(caller, wanted).any(|(file, s)| self.is_pending(file, s))
    }

    /// Whether this owner lacks any of the range in this mode, or a stronger one.
    pub fn lacks(&self, caller: Caller, wanted: &Wanted) -> bool {
        let kind = Kind::Range { exclusive: wanted.exclusive };
        let covers = self.segments_of(caller, wanted).filter(|(_, s)| s.kind.covers(kind));
        !uncovered(wanted.range, covers.map(|(_, s)| s.range)).is_empty()
    }

    /// What this owner has in the range.
    fn segments_of(&self, caller: Caller, wanted: &Wanted) -> impl Iterator<Item = (FileId, &Segment)> {
        let owner = self.owners.find(caller.client, caller.via, &wanted.process);
        let place = self.segments().find(&wanted.file).zip(owner).into_iter();
        let range = wanted.range;
        place.flat_map(move |(file, owner)| self.segments().owned_in(file, owner, range).map(move |s| (file, s)))
    }

    /// These stay with the other lock manager, so a settle under way keeps them under any policy.
    /// All is to be [scanned](Self::settle_scan) again.
    pub fn settle_spare(&mut self, rows: &[LockFate]) {
        for row in rows {
            let place = self.segments().find(&row.file).zip(self.owner_of(&row.owner));
            if let (Some((file, (_, owner))), Some(run)) = (place, &mut self.run) {
                run.covers.spared.insert((file, owner, row.range));
            }
        }
        if let Some(run) = &mut self.run {
            run.settle_anew();
        }
    }
}
