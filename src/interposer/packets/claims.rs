//! Pending locks and waiters, as the keeper reported them.
//!
//! The keeper is this program itself and has both from lockd, so neither is bounded here.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::interposer::messages::Claim;
use crate::wire::types::FileHandle;

/// The pending locks, by file and first byte.
#[derive(Debug, Default)]
pub(super) struct Pending(HashMap<FileHandle, BTreeMap<u64, Vec<Claim>>>);

impl Pending {
    pub(super) fn add(&mut self, claim: Claim) {
        let of_file = self.0.entry(claim.file.clone()).or_default();
        of_file.entry(claim.range.start).or_default().push(claim);
    }

    pub(super) fn remove(&mut self, claim: &Claim) {
        let Some(of_file) = self.0.get_mut(&claim.file) else { return };
        let Some(claims) = of_file.get_mut(&claim.range.start) else { return };
        if let Some(place) = claims.iter().position(|there| there == claim) {
            claims.swap_remove(place);
        }
        if claims.is_empty() {
            of_file.remove(&claim.range.start);
        }
        if of_file.is_empty() {
            self.0.remove(&claim.file);
        }
    }

    /// Whether a pending lock of another owner is in the way of this one.
    pub(super) fn is_met_by(&self, wanted: &Claim) -> bool {
        let meets = |there: &Claim| {
            (there.way, there.svid) != (wanted.way, wanted.svid)
                && (there.exclusive || wanted.exclusive)
                && there.range.overlaps(wanted.range)
        };
        let before_its_end = |of_file: &BTreeMap<u64, Vec<Claim>>| {
            of_file.range(..=wanted.range.end).any(|(_, claims)| claims.iter().any(meets))
        };
        self.0.get(&wanted.file).is_some_and(before_its_end)
    }
}

/// Requests in lockd's queue.
#[derive(Debug, Default)]
pub(super) struct Waiters(HashSet<Claim>);

impl Waiters {
    pub(super) fn add(&mut self, claim: Claim) {
        self.0.insert(claim);
    }

    /// lockd compares owner, range and kind too.
    pub(super) fn knows(&self, claim: &Claim) -> bool {
        self.0.contains(claim)
    }

    /// Forgets the requests of an owner for exactly these bytes, of either kind.
    pub(super) fn forget(&mut self, claim: &Claim) {
        if !self.0.is_empty() {
            for exclusive in [false, true] {
                self.0.remove(&Claim { exclusive, ..claim.clone() });
            }
        }
    }
}
