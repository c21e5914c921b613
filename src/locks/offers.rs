//! Blocked requests: queueing, the offer of what became free, and who waits for whom.
//!
//! A waiter whose range is free gets it at once and is *offered* it: GRANTED is called until the
//! client answers. Until then the client may not know, so its resend finds the offer, its refusal or
//! CANCEL gives back what it had before, and its silence changes nothing. No waiter is offered
//! anything in strict or recovery grace, nor a range that is pending.
//!
//! An owner may wait several times, and ask for something else in a range that it was offered. So that each answer is
//! about the bytes of its own offer, one offer stands on a byte of an owner: the next one waits for the answer, and what
//! the owner gets otherwise ends the offer there ([`Waiter::stands`]).
//!
//! A change serves some of those whom it woke, at once; who is left is served by
//! [`wake_more`](LockTable::wake_more), some at a time, so that no request is delayed by others' waiters. In
//! between a request that does not wait may take what is free.

use std::collections::{HashSet, VecDeque};

use super::api::{ClientId, Effect, Handled, OfferAnswer, OfferId, OtherDomain, Verdict, Wanted};
use super::ranges::{intersection, uncovered};
use super::run::How;
use super::segment::{FileId, Kind, OwnerId, Segment, Want};
use super::silence::seconds;
use super::table::LockTable;
use super::waiters::Waiter;
use crate::wire::control::Grace;
use crate::wire::types::{ByteRange, Cookie, NsmState};

/// Locks and waiters looked at when looking for a cycle, the nearest first. What is farther is not called a
/// deadlock: its processes wait, as they would without NLM's word for it.
const MAX_LOOKS: usize = 20_000;
/// Waiters that are gathered, looked at or served before another call has a turn.
const TURN: usize = 64;

impl LockTable {
    /// A LOCK that repeats a queued one: of the same owner, range and mode. It keeps its place.
    pub(super) fn lock_again(&mut self, want: &Want, wait: Option<&Cookie>) -> Option<Handled> {
        let id = self.queued(want)?;
        let in_grace = matches!(self.grace(), Grace::Strict | Grace::Recovery | Grace::Settling);
        let waiter = self.waiters.get_mut(id)?;
        if let Some(cookie) = wait {
            waiter.cookie = cookie.clone();
            waiter.want.caller = want.caller;
            waiter.want.len = want.len;
            // What was offered was so to the life that asked for it, and ends with that one.
            if !waiter.offered {
                waiter.want.lock.state = want.lock.state;
            }
        }
        match (in_grace, waiter.offered) {
            (true, _) => wait.map(|_| Handled::Reply(Verdict::Blocked)),
            (false, true) => {
                // Of the offer some may be over, and it may be an earlier life's: then this is a request like any other.
                let stands = uncovered(want.lock.range, waiter.stands.iter().copied()).is_empty();
                let is_it = stands && waiter.want.lock.state == want.lock.state;
                self.confirm(id);
                is_it.then_some(Handled::Reply(Verdict::Granted))
            }
            (false, false) => {
                wait?;
                // Where another lock domain is to consent it is being asked for the waiter.
                if self.in_the_way(want).next().is_some() || !self.lacking(want).is_empty() {
                    return Some(Handled::Reply(Verdict::Blocked));
                }
                self.remove_waiter(id);
                None
            }
        }
    }

    /// The waiter that asked for exactly this.
    fn queued(&self, want: &Want) -> Option<u64> {
        self.waiters.find(want.lock.owner, want.file, |w| {
            w.want.lock.range == want.lock.range && w.want.lock.kind == want.lock.kind
        })
    }

    /// Queues the request, unless that is one too many or would never end.
    pub(super) fn enqueue(&mut self, want: &Want, cookie: &Cookie) -> Verdict {
        if self.is_full_of_waiters(want) {
            return Verdict::NoLocks;
        }
        if self.closes_a_cycle(want) {
            return Verdict::Deadlock;
        }
        let refused = want.outside == OtherDomain::Conflict;
        let byte = self.blocked_at(want).unwrap_or(want.lock.range.start);
        let id = self.waiters.add(Waiter::new(*want, cookie.clone(), refused), byte);
        self.waits_from_now(id);
        self.owners.acquire(want.lock.owner);
        self.clients.waiter_added(want.caller.client, want.file, self.weight(want.file, want.lock.owner));
        if refused {
            self.ask_again_later(want.file);
        }
        self.effects.push_back(Effect::Changed);
        Verdict::Blocked
    }

    /// Whether an owner in the way waits, in the end, for this owner.
    fn closes_a_cycle(&self, want: &Want) -> bool {
        let mut looks = 0..MAX_LOOKS;
        let mut seen = HashSet::new();
        let mut open = VecDeque::from([*want]);
        while let Some(Want { file, lock, .. }) = open.pop_front() {
            for segment in self.segments().excluding(file, lock.range, lock.kind) {
                if looks.next().is_none() {
                    return false;
                }
                if segment.owner == lock.owner || self.is_void(file, segment) || !seen.insert(segment.owner) {
                    continue;
                }
                if segment.owner == want.lock.owner {
                    return true;
                }
                let waits = self.waiters.of_owner(segment.owner).zip(&mut looks);
                open.extend(waits.filter(|((_, w), _)| !w.offered).map(|((_, w), _)| w.want));
            }
        }
        false
    }

    pub(super) fn remove_waiter(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(id)?;
        self.waits_no_more(id);
        let weight = self.weight(waiter.want.file, waiter.want.lock.owner);
        self.clients.waiter_removed(waiter.want.caller.client, waiter.want.file, weight);
        self.owners.release(waiter.want.lock.owner);
        if waiter.offered {
            self.effects.push_back(Effect::Withdraw(OfferId(id)));
            // Its owner may wait for something else there.
            self.waiters.free(waiter.want.file, waiter.want.lock.range);
        }
        self.effects.push_back(Effect::Changed);
        Some(waiter)
    }

    /// The first byte of the range on which something is in the way.
    fn blocked_at(&self, want: &Want) -> Option<u64> {
        self.in_the_way(want).next().map(|s| s.range.start.max(want.lock.range.start))
    }

    /// A byte of the range of which its owner was offered something else and has not answered.
    pub(super) fn unanswered_at(&self, want: &Want) -> Option<u64> {
        let Want { file, lock: Segment { owner, range, .. }, .. } = *want;
        let id = self.waiters.find(owner, file, |w| w.stands.iter().any(|part| part.overlaps(range)))?;
        let part = self.waiters.get(id)?.stands.iter().find(|part| part.overlaps(range))?;
        Some(intersection(*part, range).start)
    }

    /// Offers what is free to some of those who waited for it, in the order they came.
    pub(super) fn wake(&mut self, file: FileId) {
        // What was dropped and still stands there may be a waiter's own: an offer would give it back.
        if !self.has_more_to_wake() || !self.purge_some(file) {
            return;
        }
        for _ in self.waiters.gather(file, TURN)..TURN {
            let Some(id) = self.waiters.next_woken(file) else { return };
            self.serve(id);
        }
    }

    /// Whether [`wake_more`](Self::wake_more) has something to do.
    pub fn has_more_to_wake(&self) -> bool {
        self.may_wake() && self.waiters.any_woken()
    }

    /// Serves some more of those who were woken, in the next file that has any.
    pub fn wake_more(&mut self) {
        if self.has_more_to_wake()
            && let Some(file) = self.waiters.next_file()
        {
            self.wake(file);
        }
    }

    fn may_wake(&self) -> bool {
        matches!(self.grace(), Grace::Open | Grace::Targeted)
    }

    /// Offers the waiter its range, or finds out what it waits for now.
    fn serve(&mut self, id: u64) {
        let Some(want) = self.waiters.get(id).map(|waiter| waiter.want) else { return };
        match self.blocked_at(&want).or_else(|| self.unanswered_at(&want)) {
            None if self.may_offer(id, &want) => self.offer(id, &want),
            // Where another lock domain is in the way, its answer frees all of the file.
            byte => self.waiters.wait_at(id, byte.unwrap_or(want.lock.range.start)),
        }
    }

    /// The owner gets the range, not yet confirmed. What it had there in a stronger mode it keeps
    /// until then: it has it again if the client does not want the offer.
    fn offer(&mut self, id: u64, want: &Want) {
        self.waits_no_more(id);
        let had = self.cut_owned(want.place(), want.lock.range, How::Reclaimed, |s| want.owns(s));
        let offered = Segment { offered: true, epoch: self.epoch, since: seconds(self.now), ..want.lock };
        let stronger = had.iter().filter(|s| !want.lock.kind.covers(s.kind));
        for range in uncovered(want.lock.range, stronger.clone().map(|s| s.range)) {
            self.put(want.file, Segment { range, ..offered });
        }
        for segment in stronger {
            self.put(want.file, Segment { range: segment.range, kind: segment.kind, ..offered });
        }
        self.effects.push_back(Effect::Changed);
        if let Some(releasing) = &mut self.releasing {
            releasing.served(want.file);
        }
        self.waiters.rest(id);
        let Some(waiter) = self.waiters.get_mut(id) else { return };
        waiter.offered = true;
        waiter.stands = vec![want.lock.range];
        waiter.had = had.into_vec();
        let cookie = waiter.cookie.clone();
        if let (Some(key), Some(handle)) = (self.owners.key(want.lock.owner), self.segments().handle(want.file)) {
            let wanted = Wanted {
                file: handle.clone(),
                range: want.lock.range,
                len: want.len,
                exclusive: want.lock.kind == Kind::Range { exclusive: true },
                process: key.process.clone(),
            };
            self.effects.push_back(Effect::Offer { offer: OfferId(id), caller: want.caller, wanted, cookie });
        }
    }

    /// The client answered GRANTED. An answer to an offer that is over changes nothing.
    pub fn offer_answered(&mut self, offer: OfferId, answer: OfferAnswer) {
        let Some(waiter) = self.waiters.get(offer.0).filter(|w| w.offered) else { return };
        let want = waiter.want;
        if self.is_frozen(want.file, want.lock.range, |s| s.kind.same_sort(want.lock.kind))
            && let Some(settling) = self.run.as_mut().and_then(|run| run.settling.as_mut())
        {
            settling.answers.push((offer, answer));
            return;
        }
        self.owners.acquire(want.lock.owner);
        self.purge(want.file);
        match answer {
            OfferAnswer::Accepted => self.confirm(offer.0),
            OfferAnswer::Refused => self.take_offer_back(offer.0),
            OfferAnswer::Unclear => self.leave_with(offer.0),
        }
        self.owners.release(want.lock.owner);
        self.close(want.file);
    }

    /// The client has not answered GRANTED for long; `why` is for people. The offer stands, since it is not
    /// known whether the client has the lock.
    pub fn offer_unconfirmed(&mut self, offer: OfferId, why: &str) {
        let waiter = self.waiters.get(offer.0).filter(|w| w.offered);
        let Some(client) = waiter.and_then(|w| self.clients.get_mut(w.want.caller.client)) else { return };
        client.suspect(why);
        self.effects.push_back(Effect::Event("unconfirmed", format!("{}: {why}", client.name)));
    }

    /// The client knows that it holds the range. In a run that is as good as a reclaim: the lock may
    /// have reached it after it went through its list.
    fn confirm(&mut self, id: u64) {
        if let Some(Want { file, .. }) = self.confirm_and_wake_nobody(id) {
            self.wake(file);
        }
    }

    fn confirm_and_wake_nobody(&mut self, id: u64) -> Option<Want> {
        let Waiter { want, stands, .. } = self.remove_waiter(id)?;
        for part in stands {
            let pieces = self.cut_owned(want.place(), part, How::Replaced(want.lock.kind), |s| s.offered);
            for piece in &pieces {
                let confirmed = Segment { kind: want.lock.kind, offered: false, epoch: self.epoch, mark: 0, ..*piece };
                self.put(want.file, confirmed);
            }
        }
        Some(want)
    }

    /// It is not known whether the client has it. It stays as it is, pending or held, like any lock of
    /// which only the client knows whether it is alive; a run finds out.
    pub(super) fn leave_with(&mut self, id: u64) {
        let Some(Waiter { want, stands, .. }) = self.remove_waiter(id) else { return };
        for part in stands {
            self.confirm_offered(want.file, want.lock.owner, part);
        }
        self.suspect(want.caller.client, "a grant that it never confirmed");
    }

    /// The client does not want it: its owner has again what it had before.
    fn take_offer_back(&mut self, id: u64) {
        let Some(Waiter { want, stands, had, .. }) = self.remove_waiter(id) else { return };
        for part in stands {
            for piece in self.cut_owned(want.place(), part, How::Released, |s| s.offered) {
                for had in had.iter().filter(|had| had.range.overlaps(piece.range)) {
                    // What its owner has got there since, it has instead.
                    let whole = intersection(had.range, piece.range);
                    let its = self.segments().owned_in(want.file, want.lock.owner, whole);
                    let has = its.filter(|s| s.kind.same_sort(had.kind)).map(|s| s.range);
                    for range in uncovered(whole, has) {
                        self.put(want.file, Segment { range, epoch: self.epoch, mark: 0, ..*had });
                    }
                }
            }
        }
        self.wake(want.file);
    }

    /// CANCEL: of a waiter, or of an offer that crossed it on the wire.
    pub(super) fn cancel(&mut self, want: &Want) -> Handled {
        let Some(id) = self.queued(want) else {
            self.suspect_sibling(want, false);
            return Handled::Reply(Verdict::Denied);
        };
        if self.waiters.get(id).is_some_and(|w| w.offered) {
            if self.is_frozen(want.file, want.lock.range, |s| s.kind.same_sort(want.lock.kind)) {
                return Handled::Wait;
            }
            self.take_offer_back(id);
        } else {
            self.remove_waiter(id);
        }
        Handled::Reply(Verdict::Granted)
    }

    /// Whether a result is being written that has to do with an offer that an UNLOCK of the range would confirm.
    pub(super) fn is_frozen_offer_of(&self, owner: OwnerId, file: FileId, range: ByteRange) -> bool {
        let met = |w: &&Waiter| w.offered && w.want.lock.range.overlaps(range);
        let frozen = |part: &ByteRange| self.is_frozen(file, *part, |s| s.owner == owner && s.offered);
        self.is_settling()
            && self.waiters.of_owner_in(owner, file).map(|(_, w)| w).filter(met).any(|w| w.stands.iter().any(frozen))
    }

    /// UNLOCK of a range: the owner that was offered some of it knows of it, and waits no more for
    /// exactly this. What else it waits for is looked at when the range is free: an offer in between would be taken for one
    /// that it knows of.
    pub(super) fn drop_waiters_in(&mut self, owner: OwnerId, file: FileId, range: ByteRange) {
        while let Some(id) = self.waiters.find(owner, file, |w| w.offered && w.want.lock.range.overlaps(range)) {
            self.confirm_and_wake_nobody(id);
        }
        while let Some(id) = self.waiters.find(owner, file, |w| !w.offered && w.want.lock.range == range) {
            self.remove_waiter(id);
        }
    }

    /// The client is taken for gone: it waits for nothing, and what it was offered and has not confirmed is free.
    pub(super) fn drop_all_waiters_of(&mut self, client: ClientId) {
        let offered = self.waiters.of_client(client).filter(|(_, w)| w.offered);
        let offered: Vec<(Want, Vec<ByteRange>)> = offered.map(|(_, w)| (w.want, w.stands.clone())).collect();
        for (want, _) in &offered {
            self.owners.acquire(want.lock.owner);
        }
        self.drop_waiters_of(client, usize::MAX, |_| true);
        for (want, stands) in offered {
            for part in stands {
                self.cut_owned(want.place(), part, How::Released, |s| s.offered);
            }
            self.owners.release(want.lock.owner);
            self.close(want.file);
        }
    }

    /// So many of the client's waiters of the lives that the test accepts are gone. Gives their number.
    pub(super) fn drop_waiters_of(
        &mut self,
        client: ClientId,
        most: usize,
        taken_in: impl Fn(NsmState) -> bool,
    ) -> usize {
        let waiters = self.waiters.of_client(client).filter(|(_, w)| taken_in(w.want.lock.state)).take(most);
        let ids: Vec<(u64, FileId)> = waiters.map(|(id, w)| (id, w.want.file)).collect();
        for (id, file) in &ids {
            self.remove_waiter(*id);
            self.close(*file);
        }
        ids.len()
    }
}
