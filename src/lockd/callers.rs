//! Which of some addresses have called since a moment: those that have locks when a run begins.
//!
//! A host that calls from its address has not moved away from it. Any call of NLM or NSM counts, also one that is refused,
//! so the gate notes them before anything else looks at a call. Where no run is on, nothing is watched.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the gate, which notes, and the owner of the lock table, which asks.
#[derive(Debug, Clone, Default)]
pub struct Called(Arc<Mutex<HashMap<IpAddr, bool>>>);

impl Called {
    fn watched(&self) -> MutexGuard<'_, HashMap<IpAddr, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came from there.
    pub fn note(&self, address: IpAddr) {
        if let Some(has_called) = self.watched().get_mut(&address) {
            *has_called = true;
        }
    }

    /// These are watched from now on, and no others.
    pub fn watch(&self, addresses: impl Iterator<Item = IpAddr>) {
        *self.watched() = addresses.map(|address| (address, false)).collect();
    }

    /// Whether the address has called since then. One that is not watched may have.
    pub fn may_have(&self, address: IpAddr) -> bool {
        self.watched().get(&address).is_none_or(|has_called| *has_called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_watched_address_is_known_not_to_have_called() {
        let (called, [one, other, third]) = (Called::default(), [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n])));
        assert!(called.may_have(one));
        called.watch([one, other].into_iter());
        called.note(other);
        called.note(third);
        assert_eq!([one, other, third].map(|address| called.may_have(address)), [false, true, true]);
        called.watch([other].into_iter());
        assert_eq!([one, other].map(|address| called.may_have(address)), [true, false]);
    }
}
