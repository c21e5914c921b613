//! What lockd has, found by owner, file and place. Pure.

use std::collections::BTreeMap;

use crate::manager::knfsd::owners::{HeldLock, OwnerKey, View};
use crate::wire::types::{ByteRange, FileHandle};

/// By owner, file and first byte. Locks of one owner on a file do not overlap each other.
#[derive(Debug, Default)]
pub(super) struct HeldLocks<'a>(BTreeMap<(OwnerKey, &'a FileHandle, u64), &'a HeldLock>);

impl<'a> HeldLocks<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        Self(view.locks.iter().map(|lock| ((lock.owner, &lock.handle, lock.start), lock)).collect())
    }

    /// The last one that meets these bytes.
    pub(super) fn meeting(&self, owner: &OwnerKey, file: &FileHandle, range: ByteRange) -> Option<&'a HeldLock> {
        let (_, lock) = self.0.range((*owner, file, 0)..=(*owner, file, range.end)).next_back()?;
        lock.range().overlaps(range).then_some(*lock)
    }
}
