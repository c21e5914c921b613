//! How much of the table each host may take.
//!
//! The rule is that of [`shares`](crate::shares), by the address that called. No cap refuses a reclaim of what is
//! pending, nor CANCEL or FREE_ALL. An UNLOCK takes room only if it splits one lock into two; it has
//! more room than a LOCK, since a client whose UNLOCK is refused has unlocked anyway, and leaves a stuck lock.
//! That room is limited too: one lock of many bytes can be split into any number. So are reclaims of pieces of
//! a lock, at twice the caps: a client whose locks agree with the server's never gets there.

use super::api::{Cap, Effect};
use super::clients::weight;
use super::segment::{FileId, OwnerId, Want};
use super::table::LockTable;
use crate::shares::{Bounds, Full, Holder};

/// Why room is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// For another lock.
    Lock,
    /// For the second of the two that an UNLOCK makes of one.
    Hole,
    /// For what a reclaim of some of a lock makes of it.
    Piece,
}

impl LockTable {
    /// Whether one more lock would go beyond a cap. Which one is told outside.
    pub(super) fn is_full(&mut self, want: &Want, need: Need) -> bool {
        let Some(client) = self.clients.get(want.caller.client) else { return true };
        let (holder, shares) = (Holder::Host(client.address), self.clients.locks());
        let (bounds, more) = (self.limits.locks, self.weight(want.file, want.lock.owner));
        let room = match need {
            Need::Lock => shares.room(bounds, holder, more),
            Need::Hole => shares.room_in_need(bounds, holder, more),
            Need::Piece => {
                let twice = Bounds { all: bounds.all.saturating_mul(2), host: bounds.host.saturating_mul(2) };
                shares.room(twice, holder, more)
            }
        };
        let cap = match room {
            Err(Full::Table) => Cap::Locks,
            Err(Full::Share) => Cap::LocksOfHost,
            Ok(()) => return false,
        };
        self.tell_full(cap, want);
        true
    }

    /// Whether one more blocked request would go beyond a cap. Which one is told outside.
    pub(super) fn is_full_of_waiters(&mut self, want: &Want) -> bool {
        let Some(client) = self.clients.get(want.caller.client) else { return true };
        let more = self.weight(want.file, want.lock.owner);
        let cap = match self.clients.waiters().room(self.limits.waiters, Holder::Host(client.address), more) {
            Err(Full::Table) => Cap::Waiters,
            Err(Full::Share) => Cap::WaitersOfHost,
            Ok(()) => return false,
        };
        self.tell_full(cap, want);
        true
    }

    /// As how many one of the owner's counts in the file.
    pub(super) fn weight(&self, file: FileId, owner: OwnerId) -> usize {
        weight(self.segments().handle(file), &self.owners, owner)
    }

    fn tell_full(&mut self, cap: Cap, want: &Want) {
        let handle = self.segments().handle(want.file).cloned();
        self.effects.extend(handle.map(|handle| Effect::Full(cap, want.caller.client, handle)));
    }
}
