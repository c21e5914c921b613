//! The mirror: locks of this table taken in another lock domain too (the file system's own), so that
//! its users are excluded as well. Off, unless it is switched on.
//!
//! Of each file the table knows what the other domain *has* for it, as far as that domain has said.
//! What must hold: it has at least what is *needed*, the union of all held and pending ranges. So a
//! grant that needs more is preceded by a step ([`Effect::Mirror`], `Take`), and only what nothing
//! needs any more is given up (`GiveUp`), which is found out wherever segments are cut out.
//!
//! ```text
//! LOCK, reclaim --has enough--> granted
//!     '--has less--> Take, the call waits (Handled::OtherDomain) --done--> given again, granted
//!                                                            '-conflict--> DENIED, or queued
//! waiter whose range is free --has less--> Take, it stays queued --done--> granted, offered
//!                                                                '-conflict--> rests; asked again after a pause
//! ```
//! One step of a file is under way at a time; a call that needs another one waits for it. A step that did
//! not succeed may have been done in part (unless it was not begun): nothing relies on it, and all it was
//! to raise is given up.
//! SHARE reservations are not mirrored: no file system has them.

use std::collections::BTreeMap;

use super::api::{Effect, MirrorAnswer, MirrorStep};
use super::coverage::{Cover, Part};
use crate::wire::types::{ByteRange, FileHandle};

/// Ranges of a file remembered until what nothing needs is given up; beyond them all of the file is looked at:
/// each is compared with all locks in it.
const MAX_LOWERED: usize = 64;

#[derive(Debug, Default)]
struct Mirrored {
    has: Cover,
    /// The step, and the waiter for which it is.
    under_way: Option<(MirrorStep, Option<u64>)>,
    /// What a step that did not succeed may have raised.
    doubtful: Vec<Part>,
    /// Where less may be needed than it has.
    lowered: Vec<ByteRange>,
    /// How often in a row a waiter was refused, and whether asking again is agreed on.
    refusals: u32,
    resting: bool,
}

impl Mirrored {
    /// Less may be needed of the range than it has.
    fn may_lower(&mut self, range: ByteRange) {
        if self.lowered.len() < MAX_LOWERED {
            self.lowered.push(range);
        } else {
            self.lowered = vec![ByteRange::ALL];
        }
    }

    fn is_idle(&self) -> bool {
        let nothing_open = self.under_way.is_none() && self.doubtful.is_empty() && self.lowered.is_empty();
        nothing_open && self.has.is_empty() && !self.resting
    }

    /// What to give up where less may be needed; from now on it is not relied on, whenever it is really gone.
    fn give_up(&mut self, needed: impl Fn(ByteRange) -> Cover) -> Option<MirrorStep> {
        let mut parts = Vec::new();
        for range in std::mem::take(&mut self.lowered) {
            for part in self.has.above(range, &needed(range)) {
                self.has.set(part);
                parts.push(part);
            }
        }
        for part in std::mem::take(&mut self.doubtful) {
            parts.extend(self.has.pieces(part.range));
        }
        (!parts.is_empty()).then(|| MirrorStep::GiveUp { parts, nothing_left: self.has.is_empty() })
    }
}

/// What is known of the other domain.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    on: bool,
    /// A tree: a hash table that grows moves all that is in it.
    files: BTreeMap<FileHandle, Mirrored>,
    /// Files in which less may be needed.
    lowered: Vec<FileHandle>,
}

impl Mirror {
    pub(super) fn switch_on(&mut self) {
        self.on = true;
    }

    #[cfg(test)]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// What is still to be taken before the part is covered.
    pub(super) fn lacking(&self, handle: &FileHandle, part: Part) -> Vec<Part> {
        if !self.on {
            return Vec::new();
        }
        self.files.get(handle).map_or_else(|| vec![part], |mirrored| mirrored.has.below(part))
    }

    /// Starts taking, unless a step of the file is under way.
    pub(super) fn take(&mut self, handle: &FileHandle, parts: Vec<Part>, waiter: Option<u64>) -> Option<Effect> {
        let mirrored = self.files.entry(handle.clone()).or_default();
        if mirrored.under_way.is_some() {
            return None;
        }
        let step = MirrorStep::Take(parts);
        mirrored.under_way = Some((step.clone(), waiter));
        Some(Effect::Mirror(handle.clone(), step))
    }

    /// Whether a step of the file is under way.
    pub(super) fn is_busy(&self, handle: &FileHandle) -> bool {
        self.files.get(handle).is_some_and(|mirrored| mirrored.under_way.is_some())
    }

    /// The step of the file has ended. Gives the waiter for which it was.
    pub(super) fn answered(&mut self, handle: &FileHandle, answer: MirrorAnswer) -> Option<u64> {
        let mirrored = self.files.get_mut(handle)?;
        let (step, waiter) = mirrored.under_way.take()?;
        match step {
            // What was taken may not be wanted any more.
            MirrorStep::Take(parts) if answer == MirrorAnswer::Done => {
                mirrored.refusals = 0;
                for part in parts {
                    mirrored.has.raise(part);
                    mirrored.may_lower(part.range);
                }
            }
            MirrorStep::Take(_) if answer == MirrorAnswer::NotBegun => {}
            MirrorStep::Take(parts) => mirrored.doubtful.extend(parts),
            MirrorStep::GiveUp { .. } => {}
        }
        self.lowered.push(handle.clone());
        waiter
    }

    /// A waiter was refused: it is asked again after a pause, if that is not agreed on yet.
    pub(super) fn rest(&mut self, handle: &FileHandle) -> Option<Effect> {
        let mirrored = self.on.then(|| self.files.entry(handle.clone()).or_default())?;
        if std::mem::replace(&mut mirrored.resting, true) {
            return None;
        }
        let refusals = mirrored.refusals;
        mirrored.refusals = refusals.saturating_add(1);
        Some(Effect::AskAgain(handle.clone(), refusals))
    }

    pub(super) fn rested(&mut self, handle: &FileHandle) {
        if let Some(mirrored) = self.files.get_mut(handle) {
            mirrored.resting = false;
        }
    }

    pub(super) fn forget_if_idle(&mut self, handle: &FileHandle) {
        if self.files.get(handle).is_some_and(Mirrored::is_idle) {
            self.files.remove(handle);
        }
    }

    /// Segments in the range are gone or weaker.
    pub(super) fn may_lower(&mut self, handle: &FileHandle, range: ByteRange) {
        if let Some(mirrored) = self.files.get_mut(handle) {
            if mirrored.lowered.is_empty() {
                self.lowered.push(handle.clone());
            }
            mirrored.may_lower(range);
        }
    }

    /// Whether [`give_up`](Self::give_up) has something to look at.
    pub(super) fn is_lowered(&self) -> bool {
        !self.lowered.is_empty()
    }

    /// Gives up what nothing needs any more, of files that have no step under way.
    pub(super) fn give_up(&mut self, needed: impl Fn(&FileHandle, ByteRange) -> Cover) -> Vec<Effect> {
        let mut effects = Vec::new();
        for handle in std::mem::take(&mut self.lowered) {
            // Where a step is under way its answer brings the file back here.
            let idle = |mirrored: &&mut Mirrored| mirrored.under_way.is_none();
            let Some(mirrored) = self.files.get_mut(&handle).filter(idle) else { continue };
            if let Some(step) = mirrored.give_up(|range| needed(&handle, range)) {
                mirrored.under_way = Some((step.clone(), None));
                effects.push(Effect::Mirror(handle.clone(), step));
            }
            self.forget_if_idle(&handle);
        }
        effects
    }

    /// How many ranges of the file are to be looked at.
    #[cfg(test)]
    pub(super) fn ranges_to_look_at(&self, handle: &FileHandle) -> usize {
        self.files.get(handle).map_or(0, |mirrored| mirrored.lowered.len())
    }

    /// What must hold after every step and with all effects taken, where all of `held` is held.
    #[cfg(test)]
    pub(super) fn check(&self, held: &[FileHandle], sweeping: bool, needed: impl Fn(&FileHandle) -> Cover) {
        if !self.on {
            return;
        }
        for handle in held {
            let has = self.files.get(handle).map_or_else(Cover::default, |mirrored| mirrored.has.clone());
            assert_eq!(needed(handle).above(ByteRange::ALL, &has), [], "held without the other domain: {handle}");
        }
        let settled = |mirrored: &Mirrored| mirrored.under_way.is_none() && !sweeping;
        for (handle, mirrored) in self.files.iter().filter(|(_, mirrored)| settled(mirrored)) {
            assert_eq!(mirrored.has.above(ByteRange::ALL, &needed(handle)), [], "kept for nobody: {handle}");
        }
    }
}
