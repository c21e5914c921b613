//! Blocked requests: how they enter and leave the queue, whose turn it is, and which owner waits for which.
//!
//! A waiter whose range is free gets it at once and is [offered](super::offers) it. No waiter is offered
//! anything in strict or recovery grace, nor a range that is pending. If that is its owner's own, it waits until its
//! owner has said that it is there, or the run is over: an offer would count as that word.
//!
//! A change serves some of those whom it woke, at once; who is left is served by
//! [`wake_more`](LockTable::wake_more), some at a time, so that no request is delayed by others' waiters. In
//! between a request that does not wait may take what is free.

use std::collections::{HashSet, VecDeque};

use super::api::{ClientId, Effect, Handled, OtherDomain, Verdict};
use super::segment::{FileId, OwnerId, Segment, Want};
use super::table::{LockTable, STEP};
use super::waiters::{Waiter, Waiters};
use crate::ranges::{intersection, uncovered};
use crate::wire::control::Grace;
use crate::wire::types::{ByteRange, Cookie};

/// Locks and waiters looked at when looking for a cycle, the nearest first. What is farther is not called a
/// deadlock: its processes wait, as they would without NLM's word for it.
const MAX_LOOKS: usize = 20_000;
/// A waiter whose owner has more locks than this in the range is not offered it.
const MAX_HAD: usize = 64;
/// Waiters that are gathered, looked at or served before another call has a turn.
const TURN: usize = 64;

impl LockTable {
    /// A LOCK that repeats a queued one: of the same owner, range and mode. It keeps its place.
    pub(super) fn lock_again(&mut self, want: &Want, wait: Option<&Cookie>) -> Option<Handled> {
        let id = self.live_waiter(want)?;
        let in_grace = matches!(self.grace(), Grace::Strict | Grace::Recovery | Grace::Settling);
        let stands = uncovered(want.lock.range, self.waiters.stands(id)).is_empty();
        let waiter = self.waiters.get_mut(id)?;
        if let Some(cookie) = wait {
            waiter.cookie = cookie.clone();
            waiter.want.caller = want.caller;
            waiter.want.len = want.len;
            waiter.want.lock.epoch = want.lock.epoch;
            // What was offered was so to the life that asked for it, and ends with that one.
            if !waiter.offered {
                waiter.want.lock.state = want.lock.state;
            }
        }
        match (in_grace, waiter.offered) {
            (true, _) => wait.map(|_| Handled::Reply(Verdict::Blocked)),
            (false, true) => {
                // Of the offer some may be over, and it may be an earlier life's: then this is a request like any other.
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

    /// The waiter that asked for exactly this. One that a run or a release has dropped is none: if it is not swept yet, it
    /// goes here.
    pub(super) fn live_waiter(&mut self, want: &Want) -> Option<u64> {
        let is_it = |w: &Waiter| w.want.lock.range == want.lock.range && w.want.lock.kind == want.lock.kind;
        let id = self.waiters.find(want.lock.owner, want.file, is_it)?;
        if self.waiters.get(id).is_some_and(|waiter| self.is_void_waiter(waiter)) {
            self.drop_void_waiter(id);
            return None;
        }
        Some(id)
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
        self.changed = true;
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
                let waits = self.waiters.of_owner(segment.owner).zip(&mut looks).map(|((_, waiter), _)| waiter);
                open.extend(waits.filter(|w| !w.offered && !self.is_void_waiter(w)).map(|w| w.want));
            }
        }
        false
    }

    /// Gives also where its offer stood.
    pub(super) fn remove_waiter(&mut self, id: u64) -> Option<(Waiter, Vec<ByteRange>)> {
        let (waiter, stood) = self.waiters.remove(id)?;
        self.waits_no_more(id);
        let weight = self.weight(waiter.want.file, waiter.want.lock.owner);
        self.clients.waiter_removed(waiter.want.caller.client, waiter.want.file, weight);
        self.owners.release(waiter.want.lock.owner);
        if waiter.offered {
            self.effects.push_back(Effect::Withdraw(waiter.offer(id)));
            // Its owner may wait for something else there.
            self.waiters.free(waiter.want.file, waiter.want.lock.range);
        }
        self.changed = true;
        Some((waiter, stood))
    }

    /// The first byte of the range on which something is in the way.
    fn blocked_at(&self, want: &Want) -> Option<u64> {
        self.in_the_way(want).next().map(|s| s.range.start.max(want.lock.range.start))
    }

    /// A byte of the range of which its owner was offered something else and has not answered.
    pub(super) fn unanswered_at(&self, want: &Want) -> Option<u64> {
        let Want { file, lock: Segment { owner, range, .. }, .. } = *want;
        let part = self.waiters.unanswered_in(owner, file, range).next()?;
        Some(intersection(part, range).start)
    }

    /// A byte of the range on which its owner has something that is pending.
    pub(super) fn own_pending_at(&self, want: &Want) -> Option<u64> {
        self.run.as_ref()?;
        let pending = self.owned(want).find(|s| self.is_pending(want.file, s))?;
        Some(intersection(pending.range, want.lock.range).start)
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
        self.may_wake() && (self.waiters.any_woken() || (self.run.is_none() && self.waiters.any_held_back()))
    }

    /// Serves some more of those who were woken, in the next file that has any.
    pub fn wake_more(&mut self) {
        if self.run.is_none() {
            self.waiters.let_go(TURN);
        }
        if self.has_more_to_wake()
            && let Some(file) = self.waiters.next_file()
        {
            self.wake(file);
            self.close(file);
        }
    }

    fn may_wake(&self) -> bool {
        matches!(self.grace(), Grace::Open | Grace::Targeted)
    }

    /// Serves that one of the file before all others, if it still waits.
    pub(super) fn serve_first(&mut self, file: FileId, id: u64) {
        if self.may_wake() && self.purge_some(file) && self.waiters.get(id).is_some_and(|waiter| !waiter.offered) {
            self.serve(id);
        }
    }

    /// Offers the waiter its range, or finds out what it waits for now.
    fn serve(&mut self, id: u64) {
        let Some(waiter) = self.waiters.get(id) else { return };
        let want = waiter.want;
        if self.is_void_waiter(waiter) {
            self.drop_void_waiter(id);
        } else if let Some(byte) = self.blocked_at(&want).or_else(|| self.unanswered_at(&want)) {
            self.waiters.wait_at(id, byte);
        } else if let Some(byte) = self.own_pending_at(&want) {
            self.waiters.hold_back(id, byte);
        } else if self.owned(&want).nth(MAX_HAD).is_some() {
            // What its owner has would have to be kept beside the offer. Its client repeats the request, which needs no offer.
            self.remove_waiter(id);
        } else if self.may_offer(id, &want) {
            self.offer(id, &want);
        } else {
            // Another lock domain is in the way: its answer frees all of the file.
            self.waiters.wait_at(id, want.lock.range.start);
        }
    }

    /// UNLOCK of a range: the owner that was offered some of it knows of it, and waits no more for
    /// exactly this. What else it waits for is looked at when the range is free: an offer in between would be taken for one
    /// that it knows of. For the same reason all of it is one step.
    pub(super) fn drop_waiters_in(&mut self, owner: OwnerId, file: FileId, range: ByteRange) {
        let some = |waiters: &Waiters, accept: fn(&Waiter, ByteRange) -> bool| {
            let its = waiters.of_owner_in(owner, file).filter(move |(_, w)| accept(w, range));
            its.map(|(id, _)| id).collect::<Vec<_>>()
        };
        for id in some(&self.waiters, |w, range| w.offered && w.want.lock.range.overlaps(range)) {
            self.confirm_and_wake_nobody(id);
        }
        self.renew_offers(file, owner);
        for id in some(&self.waiters, |w, range| !w.offered && w.want.lock.range == range) {
            self.remove_waiter(id);
        }
    }

    /// Up to a step's number of the client's waiters that the test accepts are gone. Gives their number.
    pub(super) fn drop_waiters_of(&mut self, client: ClientId, accept: impl Fn(&Waiter) -> bool) -> usize {
        let waiters = self.waiters.of_client(client).filter(|(_, w)| accept(w)).take(STEP);
        let dropped: Vec<(u64, FileId)> = waiters.map(|(id, w)| (id, w.want.file)).collect();
        for (id, file) in &dropped {
            self.drop_waiter(*id);
            self.close(*file);
        }
        dropped.len()
    }

    /// What it was offered and has not confirmed is taken back.
    fn drop_waiter(&mut self, id: u64) {
        let Some(owner) = self.waiters.get(id).map(|waiter| waiter.want.lock.owner) else { return };
        self.owners.acquire(owner);
        self.take_offer_back_and_wake_nobody(id);
        self.owners.release(owner);
    }

    /// Some more of what the client waited for, which is taken for gone or was released.
    pub(super) fn drop_some_waiters_of(&mut self, client: ClientId) {
        let Some(void) = &mut self.void else { return };
        let waiters = self.waiters.of_client(client).filter(|(_, waiter)| void.is_void_waiter(waiter));
        let ids: Vec<(u64, FileId)> = waiters.map(|(id, w)| (id, w.want.file)).take(STEP).collect();
        if ids.len() < STEP {
            void.swept = Some(client);
        }
        for (id, file) in ids {
            self.drop_void_waiter(id);
            self.close(file);
        }
    }

    pub(super) fn is_void_waiter(&self, waiter: &Waiter) -> bool {
        self.void.as_ref().is_some_and(|void| void.is_void_waiter(waiter))
    }

    /// It is dropped, and so is what its owner had in place of the offer, if that was dropped with others.
    pub(super) fn drop_void_waiter(&mut self, id: u64) {
        if let (Some(void), Some(waiter)) = (&self.void, self.waiters.get_mut(id)) {
            let file = waiter.want.file;
            waiter.had.retain(|had| !void.is_void(file, had));
        }
        self.drop_waiter(id);
    }
}
