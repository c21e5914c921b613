//! The treatment of a call, by the mode, the pending locks and the waiters.

use super::call::{Call, WordOffsets};
use super::claims::{Pending, Waiters};
use crate::interposer::messages::{Mode, Request, Treated};

/// By what calls are judged.
#[derive(Debug)]
pub(super) struct Treatment {
    pub(super) mode: Mode,
    pub(super) pending: Pending,
    pub(super) waiters: Waiters,
}

/// A word of a message that is written anew.
pub(super) type Edit = (usize, [u8; 4]);

const FALSE: [u8; 4] = [0, 0, 0, 0];
const TRUE: [u8; 4] = [0, 0, 0, 1];

impl Treatment {
    /// What is done with a call, and what is written anew in it.
    pub(super) fn of(&self, call: &Call) -> (Treated, Vec<Edit>) {
        let (reclaim, refused) = match &call.request {
            Request::Lock(lock) => {
                let waits = lock.block && self.waiters.knows(&lock.claim);
                let refused = match self.mode {
                    Mode::Off | Mode::Drain => false,
                    Mode::Strict => !waits,
                    Mode::Targeted => !waits && self.pending.is_met_by(&lock.claim),
                };
                (lock.reclaim, refused)
            }
            // Outside grace lockd grants a SHARE with any reclaim word, so none can be refused for grace.
            Request::Share(share) => (share.reclaim, false),
            Request::Unlock(_) | Request::Cancel(_) | Request::Unshare(_) | Request::FreeAll(_) => (false, false),
        };
        let WordOffsets { block, reclaim: word } = call.words;
        match (reclaim, refused) {
            (true, _) if self.mode != Mode::Off => {
                // Its client does not wait for a reclaim, so it must not be queued.
                let words = [block, word].into_iter().flatten();
                (Treated::Taken, words.map(|at| (at, FALSE)).collect())
            }
            (false, true) => (Treated::Refused, word.into_iter().map(|at| (at, TRUE)).collect()),
            (true, _) | (false, false) => (Treated::Passed, Vec::new()),
        }
    }

    pub(super) fn passes(&mut self, request: &Request) {
        // Both take a request of exactly these bytes out of lockd's queue.
        if let Request::Unlock(claim) | Request::Cancel(claim) = request {
            self.waiters.forget(claim);
        }
    }
}
