//! The progress of freeing one client's locks by a reboot notice or FREE_ALL, in steps.
//!
//! A step that does not come to the end leaves it with the client, and the same call goes on there when it has its next
//! turn. Its caller may give it up in between. So it counts only as long as the client is as the last step left it: what it
//! has locked since is another life's, or stands before the place.

use super::file::Place;
use super::segment::FileId;
use crate::wire::types::NsmState;

#[derive(Debug, Clone, Copy)]
pub(super) struct Freeing {
    /// The notice's number; none: FREE_ALL.
    pub(super) by: Option<NsmState>,
    /// Where it goes on: the file, and what it has looked at there.
    pub(super) file: FileId,
    pub(super) after: Option<Place>,
    /// Locks, shares and waiters freed so far.
    pub(super) freed: u64,
    /// How often the client had changed then.
    pub(super) changes: u64,
}

impl Freeing {
    pub(super) fn begun(by: Option<NsmState>) -> Self {
        Self { by, file: FileId::FIRST, after: None, freed: 0, changes: 0 }
    }

    /// Whether it frees all that a notice of that number would. Then that one waits for it, and does not begin anew in its
    /// place: two that come by turns would both begin for ever.
    pub(super) fn covers(&self, by: Option<NsmState>) -> bool {
        self.by == by || self.by.zip(by).is_some_and(|(ours, other)| ours.is_after(other))
    }
}
