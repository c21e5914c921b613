//! Requests that lockd has in its queue.
//!
//! lockd tells a client by GRANTED that it has got its lock. That is a call of lockd's own, and the filter does not see it. So
//! what a client reclaims of a request that was in the queue lockd has granted meanwhile: lockd had not lost it.

use std::collections::BTreeSet;

use super::requests::claim_of;
use crate::interposer::messages::{Call, Claim, LockRequest, Request};
use crate::manager::knfsd::owners::View;
use crate::wire::nlm::Stat;
use crate::wire::types::ByteRange;

/// Most requests that are remembered.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Queued(BTreeSet<Claim>);

impl Queued {
    /// What waits, and what was offered and may not have been accepted yet.
    pub(super) fn of(view: &View) -> Self {
        let offered = view.locks.iter().filter(|lock| lock.offered);
        Self(view.waiters.iter().map(|waiter| &waiter.wanted).chain(offered).map(claim_of).collect())
    }

    /// lockd has answered this.
    pub(super) fn answered(&mut self, call: &Call, stat: Stat) {
        match (&call.request, stat) {
            (Request::Lock(lock), Stat::Blocked) if self.0.len() < MOST => drop(self.0.insert(lock.claim.clone())),
            (
                Request::Lock(LockRequest { claim, reclaim: false, .. })
                | Request::Unlock(claim)
                | Request::Cancel(claim),
                Stat::Granted,
            ) => {
                for exclusive in [false, true] {
                    self.0.remove(&Claim { exclusive, ..claim.clone() });
                }
            }
            (Request::FreeAll(_), Stat::Granted) => self.0.retain(|claim| claim.way != call.way),
            _ => {}
        }
    }

    /// The parts of this reclaim that its owner had in the queue.
    pub(super) fn parts_of(&self, reclaim: &LockRequest) -> Vec<Request> {
        let wanted = &reclaim.claim;
        let first = Claim { range: ByteRange { start: 0, end: 0 }, exclusive: false, ..wanted.clone() };
        let is_its = |claim: &&Claim| (claim.way, claim.svid, &claim.file) == (wanted.way, wanted.svid, &wanted.file);
        let its = self.0.range(first..).take_while(is_its).filter(|claim| claim.range.overlaps(wanted.range));
        let part = |claim: &Claim| {
            let (start, end) = (claim.range.start.max(wanted.range.start), claim.range.end.min(wanted.range.end));
            let claim = Claim { range: ByteRange { start, end }, ..claim.clone() };
            Request::Lock(LockRequest { claim, ..reclaim.clone() })
        };
        its.map(part).collect()
    }
}
