//! When each waiting request is checked next, and which clients it made suspects. The theory is in
//! [`silence`](super::silence).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::api::ClientId;

/// By request.
#[derive(Debug, Default)]
pub(super) struct LongWaits {
    due: BTreeSet<(Duration, u64)>,
    by_waiter: BTreeMap<u64, (Duration, Vec<ClientId>)>,
}

impl LongWaits {
    /// The first one, and its time.
    pub(super) fn next_due(&self) -> Option<(Duration, u64)> {
        self.due.first().copied()
    }

    pub(super) fn watch(&mut self, waiter: u64, at: Duration, suspects: Vec<ClientId>) {
        self.due.insert((at, waiter));
        self.by_waiter.insert(waiter, (at, suspects));
    }

    /// Gives whom it had made suspects.
    pub(super) fn forget(&mut self, waiter: u64) -> Vec<ClientId> {
        let Some((at, suspects)) = self.by_waiter.remove(&waiter) else { return Vec::new() };
        self.due.remove(&(at, waiter));
        suspects
    }
}
