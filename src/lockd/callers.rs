//! Who has called since a run began.
//!
//! A host that calls from its address has not moved away from it. Any call of NLM or NSM counts, also one that is refused,
//! so the gate notes them before anything else looks at a call. Where no run is on, nothing is noted.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::spread::Spread;

/// Most addresses that are noted. With more of them any address may have called: then no host is taken for one that has
/// moved, and what it had is kept.
const MOST: usize = 200_000;

/// Shared by the gate, which notes, and the owner of the lock table, which asks.
#[derive(Debug, Clone, Default)]
pub struct Called(Arc<Mutex<Option<Noted>>>);

#[derive(Debug, Default)]
struct Noted {
    addresses: Spread<IpAddr>,
    count: usize,
}

impl Noted {
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.find(&address, |other| *other == address).is_some()
    }
}

impl Called {
    fn noted(&self) -> MutexGuard<'_, Option<Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came from there.
    pub fn note(&self, address: IpAddr) {
        if let Some(noted) = self.noted().as_mut()
            && noted.count < MOST
            && !noted.has(address)
        {
            noted.count += 1;
            noted.addresses.put(address, |hash, address| hash.hash_one(address));
        }
    }

    /// Calls are noted from now on.
    pub fn begin(&self) {
        *self.noted() = Some(Noted::default());
    }

    /// None is noted any more.
    pub fn end(&self) {
        *self.noted() = None;
    }

    /// Whether the address may have called since the begin.
    pub fn may_have(&self, address: IpAddr) -> bool {
        self.noted().as_ref().is_none_or(|noted| noted.count >= MOST || noted.has(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_which_nothing_came_since_the_begin_is_known_not_to_have_called() {
        let (called, [one, other]) = (Called::default(), [1, 2].map(|n| IpAddr::from([192, 0, 2, n])));
        called.note(one);
        assert!(called.may_have(one), "nothing was noted");
        called.begin();
        called.note(other);
        called.note(other);
        assert_eq!([one, other].map(|address| called.may_have(address)), [false, true]);
        called.end();
        assert!(called.may_have(one));
        called.begin();
        assert!(!called.may_have(other), "that was before");
    }

    #[test]
    fn where_too_many_call_any_of_them_may_have_called() {
        let called = Called::default();
        called.begin();
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        (0..MOST - 1).for_each(|n| called.note(address(n)));
        assert!(!called.may_have(address(MOST)));
        called.note(address(MOST - 1));
        assert!(called.may_have(address(MOST)));
    }
}
