//! Requests that lockd has in its queue.
//!
//! lockd tells a client by GRANTED that it has got its lock. That is a call of lockd's own, and the filter does not see it. So
//! what a client reclaims of a request that was in the queue lockd has granted meanwhile: lockd had not lost it.
//!
//! Any host can have requests in the queue. Each address has a share of the room: of what is beyond it a reclaim counts as
//! resurrected. The work for a call is bounded by that share.

use std::collections::{BTreeSet, HashMap};

use super::requests::claim_of;
use crate::interposer::messages::{Call, Claim, LockRequest, Request, Way};
use crate::manager::knfsd::owners::View;
use crate::ranges::intersection;
use crate::shares::{Bounds, Holder, Shares};
use crate::wire::nlm::Stat;

/// Requests that are remembered.
const BOUNDS: Bounds = Bounds { all: 100_000, host: 1024 };
/// Most requests that one reclaim is the lock of.
const MOST_PARTS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Queued {
    claims: HashMap<Way, BTreeSet<Claim>>,
    shares: Shares,
}

impl Queued {
    /// What waits, and what was offered and may not have been accepted yet.
    pub(super) fn of(view: &View) -> Self {
        let mut queued = Self::default();
        let offered = view.locks.iter().filter(|lock| lock.offered);
        let waiting = view.waiters.iter().map(|waiter| &waiter.wanted);
        waiting.chain(offered).for_each(|lock| queued.add(claim_of(lock)));
        queued
    }

    fn add(&mut self, claim: Claim) {
        let holder = Holder::Host(claim.way.client.0);
        if self.shares.room(BOUNDS, holder, 1).is_ok() && self.claims.entry(claim.way).or_default().insert(claim) {
            self.shares.take(holder, 1);
        }
    }

    fn forget(&mut self, way: Way, is_over: impl Fn(&Claim) -> bool) {
        let Some(its) = self.claims.get_mut(&way) else { return };
        let before = its.len();
        its.retain(|claim| !is_over(claim));
        self.shares.give_back(Holder::Host(way.client.0), before - its.len());
        if its.is_empty() {
            self.claims.remove(&way);
        }
    }

    /// lockd has answered this.
    pub(super) fn answered(&mut self, call: &Call, stat: Stat) {
        match (&call.request, stat) {
            (Request::Lock(lock), Stat::Blocked) => self.add(lock.claim.clone()),
            (Request::Lock(LockRequest { claim, reclaim: false, .. }) | Request::Cancel(claim), Stat::Granted) => {
                self.forget(claim.way, |queued| is_of_one(queued, claim) && queued.range == claim.range);
            }
            // At a close Linux unlocks the whole file.
            (Request::Unlock(claim), Stat::Granted) => {
                self.forget(claim.way, |queued| is_of_one(queued, claim) && claim.range.covers(queued.range));
            }
            (Request::FreeAll(_), Stat::Granted) => self.forget(call.way, |_| true),
            _ => {}
        }
    }

    /// The parts of this reclaim that its owner had in the queue. One in a stronger mode may still be there.
    pub(super) fn parts_of(&self, reclaim: &LockRequest) -> Vec<Request> {
        let wanted = &reclaim.claim;
        let its = self.claims.get(&wanted.way).into_iter().flatten();
        let its = its.filter(|claim| is_met(claim, wanted) && claim.range.overlaps(wanted.range));
        let part = |claim: &Claim| {
            let claim = Claim { range: intersection(claim.range, wanted.range), ..claim.clone() };
            Request::Lock(LockRequest { claim, ..reclaim.clone() })
        };
        its.take(MOST_PARTS).map(part).collect()
    }

    /// The account has the reclaim.
    pub(super) fn reclaimed(&mut self, wanted: &Claim) {
        self.forget(wanted.way, |claim| is_met(claim, wanted) && wanted.range.covers(claim.range));
    }
}

/// Whether one process wants both, on one file.
fn is_of_one(a: &Claim, b: &Claim) -> bool {
    (a.svid, &a.file) == (b.svid, &b.file)
}

/// Whether a reclaim may be of what was granted to this request.
fn is_met(claim: &Claim, reclaim: &Claim) -> bool {
    is_of_one(claim, reclaim) && (reclaim.exclusive || !claim.exclusive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interposer::messages::Treated;
    use crate::wire::types::{ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid};

    fn lock(host: u8, start: u64, end: u64, exclusive: bool) -> LockRequest {
        let (file, range) = (FileHandle::new(b"a").unwrap(), ByteRange { start, end });
        let claim = Claim { way: Way::sample(host), svid: Svid(1), file, range, exclusive };
        LockRequest {
            claim,
            oh: OwnerHandle::default(),
            reclaim: true,
            block: true,
            monitored: true,
            state: NsmState(3),
        }
    }

    fn answered(queued: &mut Queued, request: Request, stat: Stat) {
        let way = match &request {
            Request::Lock(lock) => lock.claim.way,
            Request::Unlock(claim) | Request::Cancel(claim) => claim.way,
            Request::Share(_) | Request::Unshare(_) | Request::FreeAll(_) => Way::sample(1),
        };
        let call = Call { number: 1, way, caller: CallerName::new("c").unwrap(), request, treated: Treated::Passed };
        queued.answered(&call, stat);
    }

    /// So many bytes of one host, each a request.
    fn waiting(host: u8, bytes: u64) -> Queued {
        let mut queued = Queued::default();
        for byte in 0..bytes {
            answered(&mut queued, Request::Lock(lock(host, byte, byte, true)), Stat::Blocked);
        }
        queued
    }

    fn left(queued: &Queued, host: u8) -> usize {
        queued.claims.get(&Way::sample(host)).map_or(0, BTreeSet::len)
    }

    #[test]
    fn one_host_fills_no_more_than_its_share_and_one_reclaim_is_of_few_requests() {
        let mut queued = waiting(1, 3000);
        answered(&mut queued, Request::Lock(lock(2, 0, 9, true)), Stat::Blocked);
        assert_eq!((left(&queued, 1), left(&queued, 2)), (BOUNDS.host, 1));
        assert_eq!(queued.parts_of(&lock(1, 0, u64::MAX, true)).len(), MOST_PARTS);
        answered(&mut queued, Request::FreeAll(NsmState(5)), Stat::Granted);
        queued.reclaimed(&lock(2, 0, 9, true).claim);
        assert!(queued.claims.is_empty() && queued.shares.is_empty(), "{queued:?}");
    }

    #[test]
    fn an_unlock_and_a_reclaim_end_all_that_they_cover_and_a_cancel_one() {
        let mut queued = waiting(1, 10);
        answered(&mut queued, Request::Cancel(lock(1, 0, u64::MAX, true).claim), Stat::Granted);
        assert_eq!(left(&queued, 1), 10);
        answered(&mut queued, Request::Cancel(lock(1, 9, 9, true).claim), Stat::Granted);
        assert_eq!(left(&queued, 1), 9);
        queued.reclaimed(&lock(1, 7, 8, true).claim);
        assert_eq!(left(&queued, 1), 7);
        answered(&mut queued, Request::Unlock(lock(1, 1, u64::MAX, false).claim), Stat::Granted);
        assert_eq!(queued.parts_of(&lock(1, 0, u64::MAX, true)).len(), 1);
    }

    #[test]
    fn a_reclaim_is_not_of_a_request_in_a_stronger_mode_which_may_still_wait() {
        let mut queued = waiting(1, 1);
        let weaker = lock(1, 0, u64::MAX, false);
        assert_eq!(queued.parts_of(&weaker), []);
        queued.reclaimed(&weaker.claim);
        assert_eq!(queued.parts_of(&lock(1, 0, u64::MAX, true)).len(), 1);
    }
}
