//! A host that changed its address, in a run.
//!
//! A reclaim comes from one address, and what stands against it is one pending lock of another address. Either
//! the host of that lock has moved, or there are two hosts of one name (containers, clones), which number their
//! processes alike. To take the one for the other would give a live lock away, so all of this must hold:
//! - the two are equal in svid, owner handle, range, mode and NSM state number, and that number is known;
//! - their names are of one host, in full or short;
//! - no notice of this run was acked from the first address;
//! - the rest is the world's to say ([`Handled::HasMoved`](super::api::Handled::HasMoved)): whether both names
//!   resolve to both addresses, and whether the first address is silent.
//!
//! The table keeps no answer. The call is given again with it, all of the above is looked at anew, and the answer
//! counts for that client's locks alone: meanwhile the lock may have been reclaimed from there, or the run be over.
//! Without all that, the reclaim is a conflict, and the pending lock is kept and named.

use super::api::{Move, OtherDomain};
use super::segment::{Segment, Want};
use super::table::LockTable;

impl LockTable {
    /// Where the pending lock's host may be by now: at the address from which the lock is reclaimed. `None`: it is
    /// another host's.
    pub(super) fn may_have_moved(&self, want: &Want, lock: &Segment) -> Option<Move> {
        let (key, client) = self.spelling(lock.owner)?;
        let (mine, me) = self.spelling(want.lock.owner)?;
        let is_equal = (lock.range, lock.kind, lock.state) == (want.lock.range, want.lock.kind, want.lock.state)
            && key.process == mine.process
            && lock.state.is_known();
        let may_be = is_equal
            && client.address != me.address
            && client.name.matches(&me.name)
            && self.is_pending(want.file, lock)
            && !self.run.as_ref()?.has_acked(lock.client)
            && self.in_the_way(want).nth(1).is_none();
        let mut names = vec![client.name.clone()];
        if !client.name.is_same_as(&me.name) {
            names.push(me.name.clone());
        }
        let (from, to, server_address) = (client.address, me.address, key.via.server_address);
        may_be.then_some(Move { client: lock.client, from, to, names, server_address })
    }

    /// A host was found to have moved: its reclaims from there take back what it had.
    pub fn tell_of_move(&mut self, words: &str) {
        self.announce("moved", format!("{words}: its reclaims take back what it had there"));
    }
}

impl Want {
    /// What is known of the move: whether the host has moved. `None`: that was not asked.
    pub(super) fn knows_of(&self, question: &Move) -> Option<bool> {
        match self.outside {
            OtherDomain::Moved(client) => Some(client == question.client),
            OtherDomain::NotMoved => Some(false),
            OtherDomain::Unasked | OtherDomain::Conflict | OtherDomain::Failed => None,
        }
    }
}
