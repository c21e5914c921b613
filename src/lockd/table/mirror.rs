//! Calls that wait for a step of the mirror go on.

use tokio::task::JoinHandle;

use super::outside::{Stepped, or_failed};
use super::queue::OpenCall;
use super::state::{Done, Owner};
use crate::locks::{MirrorAnswer, Outside};
use crate::wire::types::FileHandle;

/// What the call that asked for a step takes from its end; `None` drops it unanswered.
fn after_step(call: OpenCall, answer: MirrorAnswer) -> Option<OpenCall> {
    let outside = match answer {
        MirrorAnswer::Done => Outside::Unasked,
        MirrorAnswer::Conflict => Outside::Conflict,
        // A client that is refused a reclaim forgets the lock, and nobody is in its way.
        MirrorAnswer::Failed if call.is_reclaim() => return None,
        MirrorAnswer::Failed => Outside::Failed,
        MirrorAnswer::NotBegun => return None,
    };
    Some(OpenCall { outside, ..call })
}

impl Owner {
    pub(super) fn mirrored(&mut self, file: &FileHandle, answer: MirrorAnswer) {
        let asker = self.embedded.ended(file);
        self.table.mirror_answered(file, answer);
        // First, while what it asked for is not given up again.
        if let Some(place) = asker {
            self.resume(&place, |call| after_step(call, answer));
        }
        let _ = self.apply_effects();
        while !self.table.is_mirror_busy(file)
            && let Some(place) = self.embedded.next_for(file)
        {
            self.resume(&place, Some);
            let _ = self.apply_effects();
        }
        self.embedded.tidy(file);
    }

    /// Calls are not kept for a step that takes long; the step itself cannot be taken back.
    pub(super) fn mirror_slow(&mut self, file: FileHandle, doing: JoinHandle<MirrorAnswer>) {
        for place in self.embedded.slow(&file) {
            self.resume(&place, |_| None);
        }
        self.work.spawn(async move { Done::Stepped { file, stepped: Stepped::Ended(or_failed(doing.await)) } });
        let _ = self.apply_effects();
    }
}
