//! The consent of the other lock domain: what a grant still needs, and the domain's answers. The theory is in
//! [`mirror`](super::mirror).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::api::{Call, MirrorAnswer, OfferAnswer, Via};
use super::coverage::{Cover, Part};
use super::segment::{FileId, Kind, Segment, Want};
use super::spellings::MAX_LOOKED_AT;
use super::table::{LockTable, STEP};
use crate::ranges::uncovered;
use crate::shares::network;
use crate::wire::types::{ByteRange, CallerName, FileHandle};

impl LockTable {
    /// Whether all that a LOCK or SHARE asks for is known, held or pending, in this mode, as that of a process of this number
    /// at the address (a share in any mode, of this owner handle). Its name and owner handle may have another spelling by now
    /// ([`spellings`](super::spellings)).
    pub fn knows_all_of(&self, address: IpAddr, call: &Call) -> bool {
        let Some((process, handle, range, kind)) = call.subject() else { return false };
        let Some(file) = self.segments().find(handle) else { return false };
        let least = match kind {
            Kind::Range { .. } => kind,
            Kind::Share { .. } => Kind::Share { access: 0, mode: 0 },
        };
        let clients = self.clients.at(address).iter();
        // What others have in the file costs nothing, and one host's processes of one number are few.
        let owners = clients.flat_map(|client| self.owners.of_process(*client, &process, kind)).take(MAX_LOOKED_AT);
        let known = owners.flat_map(|owner| self.segments().owned_in(file, owner, range));
        uncovered(range, known.filter(|s| s.kind.covers(least) && !self.is_void(file, s)).map(|s| s.range)).is_empty()
    }

    /// Whether the caller has all that a LOCK or SHARE asks for, in this mode. What it has in very many pieces is not
    /// looked through: no.
    pub fn has_all_of(&self, address: IpAddr, name: &CallerName, via: Via, call: &Call) -> bool {
        let Some((process, handle, range, kind)) = call.subject() else { return false };
        let Some((file, client)) = self.segments().find(handle).zip(self.find(address, name)) else { return false };
        let Some(owner) = self.owners.find(client, via, &process) else { return false };
        let owned = self.segments().owned_in(file, owner, range).take(STEP);
        let has = owned.filter(|s| s.kind.covers(kind) && !self.is_void(file, s)).map(|s| s.range);
        uncovered(range, has).is_empty()
    }

    /// Whether one of the reclaims that wait for the end of a run is of something that the run is about to drop. Its host
    /// was still reclaiming, so what else it has pending is kept when the run settles again. A host for which very much is
    /// to be looked at counts as one that reclaims.
    pub fn came_in_time<'a>(&mut self, reclaims: impl IntoIterator<Item = (IpAddr, &'a Call)>) -> bool {
        let (mut looked_at, mut claimed) = (BTreeMap::new(), false);
        for (address, call) in reclaims {
            let is_losing = self.run.as_ref().is_some_and(|run| run.is_losing(address));
            let looked_at = looked_at.entry(network(address)).or_default();
            if is_losing
                && self.is_of_what_is_dropped(address, call, looked_at)
                && let Some(run) = &mut self.run
            {
                run.is_claiming(address);
                claimed = true;
            }
        }
        claimed
    }

    fn is_of_what_is_dropped(&self, address: IpAddr, call: &Call, looked_at: &mut usize) -> bool {
        let Some((run, (_, handle, range, kind))) = self.run.as_ref().zip(call.subject()) else { return false };
        let Some(file) = self.segments().find(handle) else { return false };
        let here = |s: &Segment| self.clients.get(s.client).is_some_and(|client| client.address == address);
        let dropping = |s: &Segment| self.server_address(s.owner).is_some_and(|at| run.is_dropping(s.client, at));
        self.segments().overlapping(file, range).any(|s| {
            *looked_at += 1;
            let is_dropped = || s.kind.same_sort(kind) && self.is_pending(file, s) && here(s) && dropping(s);
            *looked_at > MAX_LOOKED_AT || is_dropped()
        })
    }

    /// The same of a grant that was offered, is about to be dropped, and that its client has accepted meanwhile.
    pub fn was_accepted_in_time(&mut self) -> bool {
        let Some(run) = &mut self.run else { return false };
        let Some(settling) = &run.settling else { return false };
        let accepted = settling.answers.iter().filter(|(_, answer)| *answer == OfferAnswer::Accepted);
        let clients = accepted.filter_map(|(offer, _)| Some(self.waiters.offered(*offer)?.want.caller.client));
        let gone = clients.filter(|client| settling.gone.contains(client));
        let hosts: Vec<IpAddr> = gone.filter_map(|client| Some(self.clients.get(client)?.address)).collect();
        for address in &hosts {
            run.is_claiming(*address);
        }
        !hosts.is_empty()
    }

    /// What is held or pending of the range, by all owners.
    pub(super) fn needed(&self, handle: &FileHandle, range: ByteRange) -> Cover {
        let mut needed = Cover::default();
        let Some(file) = self.segments().find(handle) else { return needed };
        for segment in self.segments().overlapping(file, range) {
            if let Some(coverage) = segment.kind.coverage().filter(|_| !self.is_void(file, segment)) {
                needed.raise(Part { range: segment.range, coverage });
            }
        }
        needed
    }

    /// What is still to be taken before this can be granted; nothing for shares, or without a mirror.
    pub(super) fn lacking(&self, want: &Want) -> Vec<Part> {
        let part = want.lock.kind.coverage().map(|coverage| Part { range: want.lock.range, coverage });
        let handle = self.segments().handle(want.file);
        part.zip(handle).map_or(Vec::new(), |(part, handle)| self.mirror.lacking(handle, part))
    }

    /// Starts taking, unless a step of the file is under way.
    pub(super) fn take_outside(&mut self, file: FileId, parts: Vec<Part>, waiter: Option<u64>) -> bool {
        let handle = self.segments().handle(file).cloned();
        let step = handle.and_then(|handle| self.mirror.take(&handle, parts, waiter));
        let asked = step.is_some();
        self.effects.extend(step);
        asked
    }

    /// Whether the waiter can be granted its range; if the other domain must consent first, it is asked.
    pub(super) fn may_offer(&mut self, id: u64, want: &Want) -> bool {
        let parts = self.lacking(want);
        let free = parts.is_empty();
        if !free && self.waiters.get(id).is_some_and(|waiter| !waiter.refused) {
            self.take_outside(want.file, parts, Some(id));
        }
        free
    }

    /// A waiter was refused by the other domain: it is asked again after a pause.
    pub(super) fn ask_again_later(&mut self, file: FileId) {
        let handle = self.segments().handle(file).cloned();
        self.effects.extend(handle.and_then(|handle| self.mirror.rest(&handle)));
    }

    /// The pause of [`Effect::AskAgain`](super::api::Effect::AskAgain) is over.
    pub fn ask_again(&mut self, handle: &FileHandle) {
        self.mirror.rested(handle);
        if let Some(file) = self.segments().find(handle) {
            self.waiters.ask_again(file);
            self.waiters.free(file, ByteRange::ALL);
            self.refresh(file);
        }
        self.mirror.forget_if_idle(handle);
    }

    /// The step of [`Effect::Mirror`](super::api::Effect::Mirror) has ended. Calls that waited for the
    /// file are to be given again: first the one that asked (if it was a call), with the answer, by
    /// [`handle_after`](Self::handle_after), before the next [`next_effect`](Self::next_effect).
    pub fn mirror_answered(&mut self, handle: &FileHandle, answer: MirrorAnswer) {
        if !self.mirror.is_busy(handle) {
            return;
        }
        let asker = self.mirror.answered(handle, answer);
        let Some(file) = self.segments().find(handle) else { return };
        match asker {
            // Before others have their turn: what was taken for it would be given up again meanwhile.
            Some(id) if answer == MirrorAnswer::Done => self.serve_first(file, id),
            Some(id) => {
                if let Some(waiter) = self.waiters.get_mut(id) {
                    waiter.refused = true;
                    self.ask_again_later(file);
                }
            }
            None => {}
        }
        self.waiters.free(file, ByteRange::ALL);
        self.refresh(file);
    }

    /// Whether a step of the file is under way.
    pub fn is_mirror_busy(&self, handle: &FileHandle) -> bool {
        self.mirror.is_busy(handle)
    }
}
