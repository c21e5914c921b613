//! What a reboot notice or FREE_ALL frees of one client, in steps: how far it is.

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
}

impl Freeing {
    pub(super) fn begun(by: Option<NsmState>) -> Self {
        Self { by, file: FileId::FIRST, after: None, freed: 0 }
    }

    /// Whether it frees all that the other would. Then the other waits for it, and does not begin anew in its place: two
    /// that come by turns would both begin for ever.
    pub(super) fn covers(&self, by: Option<NsmState>) -> bool {
        match (self.by, by) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(other)) => ours == other || ours.is_after(other),
        }
    }
}
