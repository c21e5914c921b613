//! Offers: what a waiter got when its range became free, and what its client's answer makes of it.
//!
//! GRANTED is called until the client answers. Until then the client may not know, so its resend finds the offer, its
//! refusal or CANCEL gives back what it had before, and its silence changes nothing.
//!
//! An owner may wait several times, and ask for something else in a range that it was offered. So that each answer is
//! about the bytes of its own offer, one offer stands on a byte of an owner: the next one waits for the answer, and what
//! the owner gets otherwise ends the offer there ([`standing`](super::standing)).

use std::collections::BTreeSet;

use super::api::{ClientId, Effect, Handled, OfferAnswer, OfferId, Verdict, Wanted};
use super::run::How;
use super::segment::{Few, FileId, Kind, OwnerId, Segment, Want};
use super::silence::seconds;
use super::table::LockTable;
use super::waiters::Waiter;
use crate::ranges::{intersection, uncovered};
use crate::wire::types::{ByteRange, NsmState};

/// Offers to one owner in one file that stay for what it has anyhow. More are made anew.
const MAX_OVER: usize = 16;
/// Pieces in which it may have that.
const MAX_PIECES: usize = 256;

impl LockTable {
    /// The owner gets the range, not yet confirmed. What it had there in a stronger mode it keeps
    /// until then: it has it again if the client does not want the offer.
    pub(super) fn offer(&mut self, id: u64, want: &Want) {
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
        self.changed = true;
        if let Some(releasing) = &mut self.releasing {
            releasing.served(want.file);
        }
        self.waiters.offer(id, had.into_vec());
        let Some(waiter) = self.waiters.get(id) else { return };
        let (offer, cookie) = (waiter.offer(id), waiter.cookie.clone());
        if let (Some(key), Some(handle)) = (self.owners.key(want.lock.owner), self.segments().handle(want.file)) {
            let wanted = Wanted {
                file: handle.clone(),
                range: want.lock.range,
                len: want.len,
                exclusive: want.lock.kind == Kind::Range { exclusive: true },
                process: key.process.clone(),
            };
            self.effects.push_back(Effect::Offer { offer, caller: want.caller, wanted, cookie });
        }
    }

    /// Its owner has got something else in all of what it was offered, or has lost it: whoever asked may not know yet that
    /// it was offered the range, so the offer is taken back and made anew when the range is free. One for what its owner
    /// has anyhow stays.
    pub(super) fn renew_offers(&mut self, file: FileId, owner: OwnerId) {
        if !self.waiters.has_any_in(file) {
            return;
        }
        // What is in too many pieces to be looked at counts as lacking.
        let lacks = |want: &Want| {
            let its = self.owned(want).filter(|s| s.kind.covers(want.lock.kind) && !self.is_void(file, s));
            !uncovered(want.lock.range, its.map(|s| s.range).take(MAX_PIECES)).is_empty()
        };
        let over = self.waiters.over(owner, file).enumerate();
        let offers = over.filter(|(n, (_, w))| *n >= MAX_OVER || lacks(&w.want)).map(|(_, over)| over);
        for (id, offer) in offers.map(|(id, w)| (id, w.offer(id))).collect::<Vec<_>>() {
            self.effects.push_back(Effect::Withdraw(offer));
            self.waiters.queue_again(id);
            self.waits_from_now(id);
        }
    }

    /// The same of the owners of these pieces of the file, which are gone.
    pub(super) fn renew_offers_of(&mut self, file: FileId, gone: &[Segment]) {
        for owner in gone.iter().map(|piece| piece.owner).collect::<BTreeSet<_>>() {
            self.renew_offers(file, owner);
        }
    }

    /// The client answered GRANTED. An answer to an offer that is over changes nothing.
    pub fn offer_answered(&mut self, offer: OfferId, answer: OfferAnswer) {
        let Some(waiter) = self.waiters.offered(offer) else { return };
        let want = waiter.want;
        if self.is_frozen(want.file, want.lock.range, |s| s.kind.same_sort(want.lock.kind))
            && let Some(settling) = self.run.as_mut().and_then(|run| run.settling.as_mut())
        {
            settling.answers.push((offer, answer));
            return;
        }
        self.owners.acquire(want.lock.owner);
        self.purge_owned(want.place(), want.lock.range);
        let is_over = self.waiters.offered(offer).is_none();
        match answer {
            // All that its owner had of it was dropped. It is made anew, and that has an answer of its own.
            OfferAnswer::Accepted | OfferAnswer::Unclear if is_over => {}
            OfferAnswer::Accepted => self.confirm(offer.waiter),
            OfferAnswer::Refused => self.take_offer_back(offer.waiter),
            OfferAnswer::Unclear => self.leave_with(offer.waiter),
        }
        self.owners.release(want.lock.owner);
        self.close(want.file);
    }

    /// The client has not answered GRANTED for long; `why` is for people. The offer stands, since it is not
    /// known whether the client has the lock.
    pub fn offer_unconfirmed(&mut self, offer: OfferId, why: &str) {
        let waiter = self.waiters.offered(offer);
        let Some(client) = waiter.and_then(|w| self.clients.get_mut(w.want.caller.client)) else { return };
        client.suspect(why);
        self.effects.push_back(Effect::Event("unconfirmed", format!("{}: {why}", client.name)));
    }

    /// The client knows that it holds the range. In a run that is as good as a reclaim: the lock may
    /// have reached it after it went through its list.
    pub(super) fn confirm(&mut self, id: u64) {
        if let Some(Want { file, lock, .. }) = self.confirm_and_wake_nobody(id) {
            // It may be less than was protected until now.
            self.renew_offers(file, lock.owner);
            self.wake(file);
        }
    }

    pub(super) fn confirm_and_wake_nobody(&mut self, id: u64) -> Option<Want> {
        let (Waiter { want, .. }, stood) = self.remove_waiter(id)?;
        for part in stood {
            for piece in self.cut_owned(want.place(), part, How::Replaced(want.lock.kind), |s| s.offered) {
                self.put_confirmed(want.file, Segment { kind: want.lock.kind, offered: false, ..piece });
            }
        }
        self.take_back_instead(&want);
        Some(want)
    }

    /// What its owner has got in place of some of the offer is as good as reclaimed, too.
    fn take_back_instead(&mut self, want: &Want) {
        let pending = self.owned(want).filter(|s| !s.offered && self.is_pending(want.file, s));
        for piece in pending.copied().collect::<Few<Segment>>() {
            let kind = if want.lock.kind.covers(piece.kind) { piece.kind } else { want.lock.kind };
            let range = intersection(piece.range, want.lock.range);
            self.take_back(&Want { lock: Segment { range, kind, epoch: self.epoch, mark: 0, ..piece }, ..*want });
        }
    }

    /// Its owner has it, once: it may have reclaimed some of the same in another life.
    fn put_confirmed(&mut self, file: FileId, segment: Segment) {
        let alike = |s: &Segment| s.kind == segment.kind && !s.offered;
        let its = self.segments().owned_in(file, segment.owner, segment.range).filter(|s| alike(s));
        let holds = its.filter(|s| !self.is_pending(file, s)).map(|s| s.range);
        for range in uncovered(segment.range, holds) {
            self.cut_owned((file, segment.owner), range, How::Reclaimed, alike);
            self.put(file, Segment { range, epoch: self.epoch, mark: 0, ..segment });
        }
    }

    /// It is not known whether the client has it. It stays as it is, pending or held, like any lock of
    /// which only the client knows whether it is alive; a run finds out.
    pub(super) fn leave_with(&mut self, id: u64) {
        let Some((Waiter { want, .. }, stood)) = self.remove_waiter(id) else { return };
        for part in stood {
            self.confirm_offered(want.file, want.lock.owner, part);
        }
        self.suspect(want.caller.client, "a grant that it never confirmed");
    }

    /// The client does not want it: its owner has again what it had before.
    fn take_offer_back(&mut self, id: u64) {
        if let Some(file) = self.take_offer_back_and_wake_nobody(id) {
            self.wake(file);
        }
    }

    /// The same, but wakes nobody. Also takes away a waiter that was offered nothing.
    pub(super) fn take_offer_back_and_wake_nobody(&mut self, id: u64) -> Option<FileId> {
        let (Waiter { want, had, .. }, stood) = self.remove_waiter(id)?;
        for part in stood {
            let its = self.segments().owned_in(want.file, want.lock.owner, part).filter(|s| s.offered);
            for offered in its.copied().collect::<Few<Segment>>() {
                self.give_back(want.file, &offered, intersection(offered.range, part), &had);
            }
        }
        self.renew_offers(want.file, want.lock.owner);
        Some(want.file)
    }

    /// In that part of what was offered, its owner has again what it had. If the offer was pending, so is that: its owner
    /// has said only that the offer is not there.
    fn give_back(&mut self, file: FileId, offered: &Segment, part: ByteRange, had: &[Segment]) {
        let owner = offered.owner;
        let mut back: Few<Segment> = Few::new();
        for had in had.iter().filter(|had| had.range.overlaps(part)) {
            // What its owner has got there since, it has instead.
            let whole = intersection(had.range, part);
            let its = self.segments().owned_in(file, owner, whole).filter(|s| !s.offered && s.kind.covers(had.kind));
            back.extend(uncovered(whole, its.map(|s| s.range)).into_iter().map(|range| Segment { range, ..*had }));
        }
        back.iter_mut().for_each(|had| had.epoch = offered.epoch);
        let was_pending = self.is_pending(file, offered);
        let (pending, held): (Few<Segment>, Few<Segment>) =
            back.into_iter().partition(|had| was_pending && self.is_pending(file, had));
        let cut = self.cut_owned((file, owner), part, How::Returned(pending.len()), |s| s.offered);
        let mark = cut.first().map_or(0, |piece| piece.mark);
        for had in pending {
            self.put_pending(file, Segment { mark, ..had });
        }
        for had in held {
            self.put(file, Segment { epoch: self.epoch, mark: 0, ..had });
        }
    }

    /// CANCEL: of a waiter, or of an offer that crossed it on the wire.
    pub(super) fn cancel(&mut self, want: &Want) -> Handled {
        let Some(id) = self.live_waiter(want) else {
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

    /// Whether a result is being written that has to do with an offer that an UNLOCK of the owner may confirm: that
    /// confirms all of an offer, also what lies outside of the UNLOCK's range.
    pub(super) fn is_frozen_offer_of(&self, owner: OwnerId, file: FileId) -> bool {
        let met = |part| self.segments().owned_in(file, owner, part).any(|s| s.offered && self.is_pending(file, s));
        self.is_settling() && self.waiters.unanswered_in(owner, file, ByteRange::ALL).any(met)
    }

    /// What the client had in a life that the test accepts is not given back when it refuses an offer.
    pub(super) fn forget_had(&mut self, client: ClientId, taken_in: impl Fn(NsmState) -> bool) {
        let offered = self.waiters.of_client(client).filter(|(_, w)| w.had.iter().any(|had| taken_in(had.state)));
        for id in offered.map(|(id, _)| id).collect::<Vec<_>>() {
            if let Some(waiter) = self.waiters.get_mut(id) {
                waiter.had.retain(|had| !taken_in(had.state));
            }
        }
    }
}
