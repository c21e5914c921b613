//! TEST, LOCK, reclaim, UNLOCK, SHARE, UNSHARE: what each does in and out of grace.
//!
//! Ranges are as POSIX has them: an owner has one mode on a byte, a new lock replaces what it had
//! there, neighbours that are alike become one. Conflicts are only ever with another owner.

use std::time::Duration;

use super::api::{Call, Caller, ClientId, Effect, Handled, Holder, OtherDomain, Verdict};
use super::caps::Need;
use super::late_window::LateReclaim;
use super::run::How;
use super::segment::{FileId, Kind, OwnerId, Segment, Subject, Want};
use super::silence::seconds;
use super::spellings::MAX_LOOKED_AT;
use super::table::{LockTable, STEP};
use crate::ranges::uncovered;
use crate::wire::control::{Fate, Grace, LockFate};
use crate::wire::types::{ByteRange, Cookie, FileHandle, NsmState};
use crate::wire::xdr::Maybe;

/// Why a late reclaim is refused where it is not known who had the range.
const CROWDED: &str = "so many locks of that file came and went since the run began that the whole file counts as \
                       taken";

impl LockTable {
    /// Handles a call. Its effects are then in [`next_effect`](Self::next_effect).
    pub fn handle(&mut self, now: Duration, caller: Caller, call: &Call) -> Handled {
        self.handle_after(now, caller, call, OtherDomain::Unasked)
    }

    /// The same for a call that had to wait for something outside ([`Handled::OtherDomain`], [`Handled::HasMoved`]), with
    /// the answer.
    pub fn handle_after(&mut self, now: Duration, caller: Caller, call: &Call, outside: OtherDomain) -> Handled {
        self.hear_of(now, caller.client);
        let Some(subject) = call.subject() else { return self.free_all_of(caller.client) };
        if self.clients.get(caller.client).is_none() {
            return Handled::Reply(Verdict::NoLocks);
        }
        let Some(file) = self.open(subject.1) else { return Handled::Reply(Verdict::NoLocks) };
        if !self.purge_some(file) {
            return Handled::More;
        }
        let want = Want { outside, ..self.want(now, caller, call, subject, file) };
        let Segment { owner, range, kind, state, .. } = want.lock;
        let met_its_own = self.take_over(&want, call);
        let handled = match call {
            Call::Test(_) if met_its_own => self.test_free(),
            Call::Test(_) => self.test(file, Some(owner), range, kind),
            Call::Lock { reclaim, block, cookie, .. } => {
                self.learn_state(caller.client, state);
                if *reclaim { self.reclaim(now, &want) } else { self.lock(&want, block.then_some(cookie)) }
            }
            Call::Share { reclaim: true, .. } => self.reclaim(now, &want),
            Call::Share { reclaim: false, .. } => self.lock(&want, None),
            Call::Cancel(_) => self.cancel(&want),
            Call::Unlock(_) | Call::Unshare { .. } => self.unlock(&want),
            Call::FreeAll => self.free_all_of(caller.client),
        };
        self.owners.release(owner);
        self.close(file);
        handled
    }

    /// What the call asks for on this file, which is open. Its owner is taken.
    // Each call passes here.
    #[inline]
    pub(super) fn want(
        &mut self,
        now: Duration,
        caller: Caller,
        call: &Call,
        (process, _, range, kind): Subject<'_>,
        file: FileId,
    ) -> Want {
        let (client, epoch, since) = (caller.client, self.epoch, seconds(now));
        let (state, monitored, len) = match call {
            Call::Lock { state, monitored, wanted, .. } => (*state, *monitored, wanted.len),
            _ => (self.clients.get(client).map_or_else(NsmState::default, |c| c.nsm_state), true, range.nlm_len()),
        };
        let owner = self.owners.intern(client, caller.via, &process);
        let lock = Segment { range, owner, client, state, epoch, mark: 0, since, kind, monitored, offered: false };
        Want { caller, file, lock, len, outside: OtherDomain::Unasked }
    }

    /// A LOCK carries the client's state number. Another one than before is evidence of a reboot
    /// whose notice was lost; it is not proof.
    fn learn_state(&mut self, client: ClientId, state: NsmState) {
        let Some(client) = self.clients.get_mut(client) else { return };
        if !state.is_known() || client.nsm_state == state {
            return;
        }
        if client.nsm_state.is_known() && client.held().locks > 0 && client.last_notice != Some(state) {
            let why = format!("its LOCK carries NSM state {state}, earlier ones carried {}", client.nsm_state);
            let _ = client.suspect(&why);
        }
        client.learn_state(state);
    }

    /// What its owner has in the range, and what is asked for would take the place of.
    pub(super) fn owned(&self, want: &Want) -> impl Iterator<Item = &Segment> {
        self.segments().owned_in(want.file, want.lock.owner, want.lock.range).filter(|s| want.owns(s))
    }

    /// Segments of others that exclude this one.
    pub(super) fn in_the_way(&self, want: &Want) -> impl Iterator<Item = &Segment> {
        self.excluding(want.file, Some(want.lock.owner), want.lock.range, want.lock.kind)
    }

    pub(super) fn excluding(
        &self,
        file: FileId,
        owner: Option<OwnerId>,
        range: ByteRange,
        kind: Kind,
    ) -> impl Iterator<Item = &Segment> {
        let all = self.segments().excluding(file, range, kind);
        all.filter(move |s| Some(s.owner) != owner && !self.is_void(file, s))
    }

    fn test(&self, file: FileId, owner: Option<OwnerId>, range: ByteRange, kind: Kind) -> Handled {
        if self.is_frozen(file, range, |s| s.kind.same_sort(kind)) {
            return Handled::Wait;
        }
        let found = self.excluding(file, owner, range, kind).next();
        let holder = found.and_then(|s| {
            Some(Holder {
                exclusive: s.kind == Kind::Range { exclusive: true },
                process: self.owners.key(s.owner)?.process.clone(),
                range: s.range,
            })
        });
        holder.map_or_else(|| self.test_free(), |holder| Handled::Reply(Verdict::Holder(holder)))
    }

    /// TEST where no owner is in the way. In grace one may still reclaim what looks free.
    fn test_free(&self) -> Handled {
        Handled::Reply(if self.refuses_ordinary() { Verdict::Grace } else { Verdict::Granted })
    }

    /// TEST by a host that has no lock here. It is not made a client for asking.
    pub fn test_by_stranger(&mut self, file: &FileHandle, range: ByteRange, exclusive: bool) -> Handled {
        let Some(file) = self.segments().find(file) else { return self.test_free() };
        self.test(file, None, range, Kind::Range { exclusive })
    }

    /// An ordinary LOCK or SHARE. `wait` is the request's cookie where it may be queued.
    fn lock(&mut self, want: &Want, wait: Option<&Cookie>) -> Handled {
        if self.is_frozen(want.file, want.lock.range, |s| s.kind.same_sort(want.lock.kind)) {
            return Handled::Wait;
        }
        if let Some(handled) = self.lock_again(want, wait) {
            return handled;
        }
        if self.refuses_ordinary() {
            return Handled::Reply(Verdict::Grace);
        }
        let mut held = false;
        for (number, segment) in self.in_the_way(want).enumerate() {
            // Behind very many others something may be pending.
            if self.is_pending(want.file, segment) || number >= MAX_LOOKED_AT {
                return Handled::Reply(Verdict::Grace);
            }
            held = true;
            if self.run.is_none() {
                break;
            }
        }
        if held {
            return Handled::Reply(wait.map_or(Verdict::Denied, |cookie| self.enqueue(want, cookie)));
        }
        // In place of what its owner has it is not one more.
        let is_whole = |s: &Segment| want.lock.range.covers(s.range);
        let has_any = self.owned(want).next().is_some();
        if !(has_any && self.owned(want).all(is_whole)) && self.is_full(want, Need::Lock) {
            return Handled::Reply(Verdict::NoLocks);
        }
        let lacking = self.lacking(want);
        if !lacking.is_empty() {
            return match want.outside {
                OtherDomain::Unasked | OtherDomain::Moved(_) | OtherDomain::NotMoved => {
                    Handled::OtherDomain { asked: self.take_outside(want.file, lacking, None) }
                }
                OtherDomain::Conflict => {
                    Handled::Reply(wait.map_or(Verdict::Denied, |cookie| self.enqueue(want, cookie)))
                }
                OtherDomain::Failed => Handled::Reply(Verdict::NoLocks),
            };
        }
        // The owner gets the range in place of what it had there.
        if has_any {
            self.cut_owned(want.place(), want.lock.range, How::Replaced(want.lock.kind), |s| want.owns(s));
        }
        self.put(want.file, want.lock);
        self.renew_offers(want.file, want.lock.owner);
        self.changed = true;
        self.wake(want.file);
        Handled::Reply(Verdict::Granted)
    }

    /// A reclaim: after a notice the owner says what it holds. Refused only for a conflict.
    fn reclaim(&mut self, now: Duration, want: &Want) -> Handled {
        if self.is_settling() {
            return Handled::Wait;
        }
        let mut elsewhere = self.pending_elsewhere(want);
        let conflict = self.in_the_way(want).find(|s| Some(**s) != elsewhere).copied();
        if let Some(other) = conflict {
            let question = self.may_have_moved(want, &other);
            if question.as_ref().and_then(|question| want.knows_of(question)) == Some(true) {
                elsewhere = Some(other);
            } else {
                self.spare_if_it_moved(want, &other);
                return match question.filter(|question| want.knows_of(question).is_none()) {
                    Some(question) => Handled::HasMoved(question),
                    None => self.refuse_reclaim(want, Some((other.owner, other.range)), "has it"),
                };
            }
        }
        if let Some(segment) = elsewhere {
            self.adopt(want.file, &segment, want.lock);
        }
        let unknown = self.parts_without(want, |_| true);
        let unheld = self.parts_without(want, |s| !self.is_pending(want.file, s));
        // Of an offer its client may not know: what it reclaims it has all the same, whatever it says to that.
        let unsaid = self.parts_without(want, |s| !s.offered && !self.is_pending(want.file, s));
        let same_life = self.owned(want).all(|s| s.state == want.lock.state);
        // What its owner holds is granted always; the rest only where reclaims are taken.
        let mut late = false;
        if !unheld.is_empty() && self.grace() == Grace::Open {
            let client = self.clients.get(want.caller.client);
            let Some((handle, client)) = self.segments().handle(want.file).zip(client) else {
                return Handled::Reply(Verdict::NoLocks);
            };
            match self.late.reclaim(self.clients.at(client.address), want, handle) {
                LateReclaim::Granted => late = true,
                LateReclaim::TakenSince(other, range) => {
                    return self.refuse_reclaim(want, Some((other, range)), "had it since the run began");
                }
                LateReclaim::NotKnown => return self.refuse_reclaim(want, None, CROWDED),
                LateReclaim::NoWindow => return Handled::Reply(Verdict::Grace),
            }
        }
        // Refused, the client forgets also what of it is pending.
        let all_unknown = unknown == [want.lock.range];
        if all_unknown && self.is_full(want, Need::Lock) {
            return Handled::Reply(Verdict::NoLocks);
        }
        // One lock of many bytes can be made into any number.
        let is_whole = |s: &Segment| want.lock.range.covers(s.range) && want.lock.kind.covers(s.kind);
        let changes = !unsaid.is_empty() || !same_life;
        let has_room = !changes || self.owned(want).all(is_whole) || !self.is_full(want, Need::Piece);
        if !has_room && !unheld.is_empty() {
            return Handled::Reply(Verdict::NoLocks);
        }
        let lacking = self.lacking(want);
        if !lacking.is_empty() {
            return match want.outside {
                OtherDomain::Unasked | OtherDomain::Moved(_) | OtherDomain::NotMoved => {
                    Handled::OtherDomain { asked: self.take_outside(want.file, lacking, None) }
                }
                OtherDomain::Conflict => self.refuse_reclaim(want, None, "a holder that does not use NLM has it"),
                OtherDomain::Failed => Handled::Reply(Verdict::NoLocks),
            };
        }
        if changes && has_room {
            self.take_back(want);
            self.renew_offers(want.file, want.lock.owner);
        }
        if let Some(run) = &mut self.run {
            for client in elsewhere.iter().map(|s| s.client).chain([want.caller.client]) {
                let server_address = want.caller.via.server_address;
                run.reclaim_granted(now, client, server_address, elsewhere.is_some() || !unheld.is_empty());
            }
        }
        self.changed = true;
        if !unknown.is_empty()
            && let Some(row) = self.fate_row(want.file, &want.lock, Fate::Resurrected)
        {
            self.tell_resurrected(want, LockFate { partial: unknown != [want.lock.range], ..row }, late);
        }
        Handled::Reply(Verdict::Granted)
    }

    fn tell_resurrected(&mut self, want: &Want, row: LockFate, late: bool) {
        if late {
            let words = format!("late reclaim of {} by {}", row.file, row.owner.name);
            if let Some(effect) = self.late.granted(row) {
                self.effects.extend([Effect::Event("late", words), effect]);
            }
        } else if let Some(run) = &mut self.run {
            run.resurrected(want.caller.client, row);
        }
    }

    /// The parts of the range in which the owner has nothing in this mode, or a stronger one, that the test accepts.
    pub(super) fn parts_without(&self, want: &Want, accept: impl Fn(&Segment) -> bool) -> Vec<ByteRange> {
        let covers = self.owned(want).filter(|s| s.kind.covers(want.lock.kind) && accept(s));
        uncovered(want.lock.range, covers.map(|s| s.range))
    }

    /// What the reclaim names becomes held, and exactly that: what is pending in a stronger mode
    /// stays so beneath it, and what is already held in a stronger mode is not weakened. If that was taken in another
    /// life, it may end with that one, and if it is offered, with a refusal: so it stays beneath, too.
    pub(super) fn take_back(&mut self, want: &Want) {
        self.weaken_pending(want);
        let mine = |s: &Segment| want.owns(s) && want.lock.kind.covers(s.kind);
        let had = self.cut_owned(want.place(), want.lock.range, How::Reclaimed, mine);
        let since = had.iter().map(|s| s.since).fold(want.lock.since, u32::min);
        let holds = |s: &Segment| s.state == want.lock.state && !s.offered && !self.is_pending(want.file, s);
        for range in self.parts_without(want, holds) {
            self.put(want.file, Segment { range, since, ..want.lock });
        }
    }

    /// Another owner holds or pends the range, or held it since the run began. `what` it did, or what else is in
    /// the way, is for people.
    pub(super) fn refuse_reclaim(&mut self, want: &Want, other: Option<(OwnerId, ByteRange)>, what: &str) -> Handled {
        let Some(row) = self.fate_row(want.file, &want.lock, Fate::Conflict) else {
            return Handled::Reply(Verdict::Denied);
        };
        let (other, range) = (other.and_then(|(owner, _)| self.owner_row(owner)), other.map(|(_, range)| range));
        let who = other.as_ref().map_or_else(|| what.to_owned(), |other| format!("{} {what}", other.name));
        let words = format!("{} may not reclaim {} of file {}: {who}", row.owner.name, row.range, row.file);
        let row = LockFate { other: Maybe(other.map(Box::new)), other_range: Maybe(range), ..row };
        let told = if let Some(run) = &mut self.run {
            run.conflict(want.caller.client, row)
        } else {
            let client = self.clients.get(want.caller.client);
            let here = client.map_or(&[][..], |client| self.clients.at(client.address));
            let effect = self.late.refused(here, want.caller.client, row);
            let told = effect.is_some();
            self.effects.extend(effect);
            told
        };
        if told {
            self.announce("conflict", words);
        }
        Handled::Reply(Verdict::Denied)
    }

    /// UNLOCK and UNSHARE.
    fn unlock(&mut self, want: &Want) -> Handled {
        let Want { file, lock: Segment { owner, range, kind, .. }, .. } = *want;
        let unfilled = kind == Kind::Share { access: 0, mode: 0 };
        let all = unfilled && self.owned(want).next().is_none();
        let given_up = |s: &Segment| want.owns(s) || (all && s.owner == owner && s.kind.same_sort(kind));
        if self.is_frozen(file, range, given_up) || self.is_frozen_offer_of(owner, file) {
            return Handled::Wait;
        }
        // A hole makes two locks of one, and memory is bounded: ENOLCK, as POSIX has it.
        let holed = |s: &Segment| want.owns(s) && s.range.start < range.start && range.end < s.range.end;
        if self.owned(want).any(holed) && self.is_full(want, Need::Hole) {
            return Handled::Reply(Verdict::NoLocks);
        }
        let waited = self.waiters.find(owner, file, |w| w.want.lock.range.overlaps(range)).is_some();
        if matches!(kind, Kind::Range { .. }) {
            self.drop_waiters_in(owner, file, range);
        }
        let freed = self.cut_some((file, owner), range, How::Released, STEP, given_up).len();
        let left = || self.segments().owned_in(file, owner, range).filter(|s| s.kind.same_sort(kind));
        let (more, freed) = (freed == STEP && left().any(given_up), freed > 0);
        if !freed && left().next().is_some() {
            self.suspect(want.caller.client, "its UNSHARE names no SHARE that its owner has, and it has others");
        } else if !more {
            self.suspect_sibling(want, freed || waited);
        }
        if freed {
            self.changed = true;
        }
        if more {
            // It might be offered what it waits for there, and the next step would free that. Its client repeats the request.
            while let Some(id) = self.waiters.find(owner, file, |w| w.want.lock.range.overlaps(range)) {
                self.remove_waiter(id);
            }
        }
        self.wake(file);
        if more {
            return Handled::More;
        }
        Handled::Reply(Verdict::Granted)
    }
}
