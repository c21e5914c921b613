//! How much a client has, in total and by the server address that it called.

use std::net::IpAddr;

use smallvec::SmallVec;

/// How much is held, pending or waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Locks and shares.
    pub(super) locks: usize,
    /// Of them, unmonitored ones.
    pub(super) unmonitored: usize,
    pub(super) waiters: usize,
}

impl Held {
    #[must_use]
    pub(super) fn plus(self, other: &Self) -> Self {
        Self {
            locks: self.locks + other.locks,
            unmonitored: self.unmonitored + other.unmonitored,
            waiters: self.waiters + other.waiters,
        }
    }
}

/// What is held by each server address, in their order. Most clients call one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths(SmallVec<[(IpAddr, Held); 1]>);

impl Paths {
    fn place(&self, server_address: IpAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&server_address, |(address, _)| *address)
    }

    pub(super) fn has(&self, server_address: IpAddr) -> bool {
        self.place(server_address).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(IpAddr, Held)> {
        self.0.iter()
    }

    /// Changes what is held by that address. Without locks it is not kept.
    pub(super) fn recount(&mut self, server_address: IpAddr, recount: impl Fn(&mut Held)) {
        let at = self.place(server_address).unwrap_or_else(|at| {
            self.0.insert(at, (server_address, Held::default()));
            at
        });
        let Some((_, held)) = self.0.get_mut(at) else { return };
        recount(held);
        if held.locks == 0 {
            self.0.remove(at);
        }
    }
}
