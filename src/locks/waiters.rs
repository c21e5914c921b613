//! Blocked requests: the queue, the offer of what became free, and who waits for whom.
//!
//! A waiter whose range is free gets it at once and is *offered* it: GRANTED is called until the
//! client answers. Until then the client may not know, so its resend finds the offer, its refusal or
//! CANCEL gives back what it had before, and its silence changes nothing. No waiter is offered
//! anything in strict or recovery grace, nor a range that is pending.

use super::files::{FileId, Kind, Segment, uncovered};
use super::owners::OwnerId;
use super::requests::Want;
use super::run::How;
use super::{Effect, Handled, LockTable, OfferAnswer, OfferId, Outside, Verdict, Wanted};
use crate::wire::control::Grace;
use crate::wire::types::{ByteRange, Cookie, NsmState};

/// Owners looked at when looking for a cycle. A longer chain is not called a deadlock.
const MAX_CHAIN: usize = 1_000;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) want: Want,
    cookie: Cookie,
    /// It holds the range and has not confirmed that it knows.
    pub(super) offered: bool,
    /// What its owner had in the range before the offer.
    had: Vec<Segment>,
    /// Somebody of another lock domain was in the way when that was last asked.
    pub(super) refused: bool,
}

impl LockTable {
    pub(super) fn queued(&self, owner: OwnerId, file: FileId, accept: impl Fn(&Waiter) -> bool) -> Option<u64> {
        let ids = self.waits.get(&owner)?;
        ids.iter().copied().find(|id| self.waiters.get(id).is_some_and(|w| w.want.file == file && accept(w)))
    }

    /// A LOCK that repeats a queued one: of the same owner, range and mode. It keeps its place.
    pub(super) fn lock_again(&mut self, want: &Want, wait: Option<&Cookie>) -> Option<Handled> {
        let id = self.queued(want.owner, want.file, |w| w.want.range == want.range && w.want.kind == want.kind)?;
        let in_grace = matches!(self.grace(), Grace::Strict | Grace::Recovery | Grace::Settling);
        let waiter = self.waiters.get_mut(&id)?;
        if let Some(cookie) = wait {
            waiter.cookie = cookie.clone();
            waiter.want.caller = want.caller;
            waiter.want.state = want.state;
        }
        match (in_grace, waiter.offered) {
            (true, _) => wait.map(|_| Handled::Reply(Verdict::Blocked)),
            (false, true) => {
                self.confirm(id);
                Some(Handled::Reply(Verdict::Granted))
            }
            (false, false) => {
                wait?;
                let in_the_way = self.in_the_way(want.file, want.owner, want.range, want.kind).next().is_some();
                // Where another lock domain is to consent it is being asked for the waiter.
                if in_the_way || !self.is_mirrored(want) {
                    return Some(Handled::Reply(Verdict::Blocked));
                }
                self.remove_waiter(id);
                None
            }
        }
    }

    /// Queues the request, unless that is one too many or would never end.
    pub(super) fn enqueue(&mut self, want: &Want, cookie: &Cookie) -> Verdict {
        let mine = self.clients.get(want.caller.client).map_or(0, |c| c.waiters);
        if self.waiters.len() >= self.limits.waiters || mine >= self.limits.waiters_per_client {
            return Verdict::NoLocks;
        }
        if self.closes_a_cycle(want) {
            return Verdict::Deadlock;
        }
        let id = self.next_waiter;
        self.next_waiter += 1;
        let refused = want.outside == Outside::Conflict;
        self.waiters
            .insert(id, Waiter { want: *want, cookie: cookie.clone(), offered: false, had: Vec::new(), refused });
        self.waits.entry(want.owner).or_default().push(id);
        self.owners.acquire(want.owner);
        self.clients.waiter_added(want.caller.client);
        if let Some(file) = self.files.get_mut(want.file) {
            file.waiters.push(id);
        }
        if refused {
            self.ask_again_later(want.file);
        }
        self.effects.push(Effect::Changed);
        Verdict::Blocked
    }

    /// Whether somebody in the way waits, in the end, for this owner.
    fn closes_a_cycle(&self, want: &Want) -> bool {
        let blockers =
            |w: &Want| -> Vec<OwnerId> { self.in_the_way(w.file, w.owner, w.range, w.kind).map(|s| s.owner).collect() };
        let mut seen = std::collections::HashSet::new();
        let mut open = blockers(want);
        while let Some(owner) = open.pop() {
            if owner == want.owner {
                return true;
            }
            if seen.len() >= MAX_CHAIN || !seen.insert(owner) {
                continue;
            }
            let waits = self.waits.get(&owner).into_iter().flatten().filter_map(|id| self.waiters.get(id));
            open.extend(waits.filter(|w| !w.offered).flat_map(|w| blockers(&w.want)));
        }
        false
    }

    pub(super) fn remove_waiter(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        if let Some(ids) = self.waits.get_mut(&waiter.want.owner) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.waits.remove(&waiter.want.owner);
            }
        }
        if let Some(file) = self.files.get_mut(waiter.want.file) {
            file.waiters.retain(|other| *other != id);
        }
        self.owners.release(waiter.want.owner);
        self.clients.waiter_removed(waiter.want.caller.client);
        if waiter.offered {
            self.effects.push(Effect::Withdraw(OfferId(id)));
        }
        self.effects.push(Effect::Changed);
        Some(waiter)
    }

    /// Offers what is free to those who wait for it, in the order they came.
    pub(super) fn wake(&mut self, file: FileId) {
        if !matches!(self.grace(), Grace::Open | Grace::Targeted) {
            return;
        }
        let mut next = self.next_free(file, 0);
        while let Some(id) = next {
            if !self.may_offer(id) {
                next = self.next_free(file, id);
                continue;
            }
            let Some(waiter) = self.waiters.get(&id) else { break };
            let (want, cookie) = (waiter.want, waiter.cookie.clone());
            let had = self.offer(&want);
            if let Some(waiter) = self.waiters.get_mut(&id) {
                waiter.offered = true;
                waiter.had = had;
            }
            if let (Some(key), Some(f)) = (self.owners.key(want.owner), self.files.get(file)) {
                let wanted = Wanted {
                    file: f.handle.clone(),
                    range: want.range,
                    exclusive: want.kind == Kind::Range { exclusive: true },
                    process: key.process.clone(),
                };
                self.effects.push(Effect::Offer { offer: OfferId(id), caller: want.caller, wanted, cookie });
            }
            next = self.next_free(file, id);
        }
    }

    /// The owner gets the range, not yet confirmed. What it had there in a stronger mode it keeps
    /// until then: it has it again if the client does not want the offer. Gives what it had.
    fn offer(&mut self, want: &Want) -> Vec<Segment> {
        let mine = |s: &Segment| s.owner == want.owner && s.kind.same_sort(want.kind);
        let had = self.cut(want.file, want.range, How::Reclaimed, mine);
        let offered = Segment { offered: true, ..want.segment(want.range, self.epoch) };
        let stronger = had.iter().filter(|s| !want.kind.covers(s.kind));
        for range in uncovered(want.range, stronger.clone().map(|s| s.range)) {
            self.put(want.file, Segment { range, ..offered });
        }
        for segment in stronger {
            self.put(want.file, Segment { range: segment.range, kind: segment.kind, ..offered });
        }
        self.effects.push(Effect::Changed);
        had
    }

    /// The first waiter of the file after `id` that nothing is in the way of.
    fn next_free(&self, file: FileId, id: u64) -> Option<u64> {
        self.files.get(file)?.waiters.iter().copied().filter(|n| *n > id).find(|n| {
            self.waiters.get(n).is_some_and(|w| {
                !w.offered && self.in_the_way(file, w.want.owner, w.want.range, w.want.kind).next().is_none()
            })
        })
    }

    pub(super) fn wake_all(&mut self) {
        for file in self.files_with_waiters() {
            self.wake(file);
        }
    }

    pub(super) fn files_with_waiters(&self) -> Vec<FileId> {
        let files: std::collections::BTreeSet<FileId> = self.waiters.values().map(|w| w.want.file).collect();
        files.into_iter().collect()
    }

    /// The client answered GRANTED. An answer to an offer that is over changes nothing.
    pub fn offer_answered(&mut self, offer: OfferId, answer: OfferAnswer) {
        let Some(waiter) = self.waiters.get(&offer.0).filter(|w| w.offered) else { return };
        let want = waiter.want;
        if self.is_frozen(want.file, want.range, want.kind)
            && let Some(settling) = self.run.as_mut().and_then(|run| run.settling.as_mut())
        {
            settling.answers.push((offer, answer));
            return;
        }
        self.owners.acquire(want.owner);
        self.purge(want.file);
        match answer {
            OfferAnswer::Accepted => self.confirm(offer.0),
            OfferAnswer::Refused => self.take_offer_back(offer.0),
            OfferAnswer::Unclear => self.leave_with(offer.0),
        }
        self.owners.release(want.owner);
        self.files.close(want.file);
    }

    /// The client knows that it holds the range. In a run that is as good as a reclaim: the lock may
    /// have reached it after it went through its list.
    fn confirm(&mut self, id: u64) {
        let Some(waiter) = self.remove_waiter(id) else { return };
        let want = waiter.want;
        let mine = |s: &Segment| s.owner == want.owner && s.offered;
        let mut weakened = false;
        for piece in self.cut(want.file, want.range, How::Reclaimed, mine) {
            if !want.kind.covers(piece.kind) {
                self.remember_given_up(want.file, &piece);
                weakened = true;
            }
            let confirmed = Segment { kind: want.kind, offered: false, epoch: self.epoch, mark: 0, ..piece };
            self.put(want.file, confirmed);
        }
        if weakened {
            self.wake(want.file);
        }
    }

    /// Nobody can tell whether the client has it. It stays as it is, pending or held, like any lock of
    /// which only the client knows whether it is alive; a run finds out.
    pub(super) fn leave_with(&mut self, id: u64) {
        let Some(waiter) = self.remove_waiter(id) else { return };
        let want = waiter.want;
        if let Some(file) = self.files.get_mut(want.file) {
            let offered = file.segments.iter_mut().filter(|s| s.owner == want.owner && s.offered);
            offered.filter(|s| s.range.overlaps(want.range)).for_each(|s| s.offered = false);
        }
        self.suspect(want.caller.client, "a grant that it never confirmed");
    }

    /// The client does not want it: its owner has again what it had before.
    fn take_offer_back(&mut self, id: u64) {
        let Some(waiter) = self.remove_waiter(id) else { return };
        let want = waiter.want;
        let mine = |s: &Segment| s.owner == want.owner && s.offered;
        for piece in self.cut(want.file, want.range, How::Released, mine) {
            for had in waiter.had.iter().filter(|had| had.range.overlaps(piece.range)) {
                let range = super::files::intersection(had.range, piece.range);
                self.put(want.file, Segment { range, epoch: self.epoch, mark: 0, ..*had });
            }
        }
        self.wake(want.file);
    }

    /// CANCEL: of a waiter, or of an offer that crossed it on the wire.
    pub(super) fn cancel(&mut self, owner: OwnerId, file: FileId, range: ByteRange, exclusive: bool) -> Handled {
        let kind = Kind::Range { exclusive };
        let Some(id) = self.queued(owner, file, |w| w.want.range == range && w.want.kind == kind) else {
            return Handled::Reply(Verdict::Denied);
        };
        if self.waiters.get(&id).is_some_and(|w| w.offered) {
            if self.is_frozen(file, range, kind) {
                return Handled::Wait;
            }
            self.take_offer_back(id);
        } else {
            self.remove_waiter(id);
        }
        Handled::Reply(Verdict::Granted)
    }

    /// UNLOCK of a range: who was offered some of it knows of it, and who waits for exactly this
    /// waits no more.
    pub(super) fn drop_waiters_in(&mut self, owner: OwnerId, file: FileId, range: ByteRange) {
        while let Some(id) = self.queued(owner, file, |w| w.offered && w.want.range.overlaps(range)) {
            self.confirm(id);
        }
        while let Some(id) = self.queued(owner, file, |w| !w.offered && w.want.range == range) {
            self.remove_waiter(id);
        }
    }

    /// The client's waiters of the lives that the test accepts are gone. Gives their number.
    pub(super) fn drop_waiters_of(&mut self, client: super::ClientId, taken_in: impl Fn(NsmState) -> bool) -> u64 {
        let ids: Vec<(u64, FileId)> = self
            .waiters
            .iter()
            .filter(|(_, w)| w.want.caller.client == client && taken_in(w.want.state))
            .map(|(id, w)| (*id, w.want.file))
            .collect();
        for (id, file) in &ids {
            self.remove_waiter(*id);
            self.files.close(*file);
        }
        ids.len() as u64
    }
}
