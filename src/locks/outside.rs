//! The mirror: locks of this table taken in another lock domain too (the file system's own), so that
//! its users are excluded as well. Off, unless [`LockTable::mirrored`] switches it on.
//!
//! Of each file the table knows what the other domain *has* for it, as far as that domain has said.
//! What must hold: it has at least what is *needed*, the union of all that is held or pending. So a
//! grant that needs more is preceded by a step ([`Effect::Mirror`], `Take`), and only what nothing
//! needs any more is given up (`GiveUp`), which is found out wherever segments are cut out.
//!
//! ```text
//! LOCK, reclaim --has enough--> granted
//!     '--has less--> Take, the call waits (Handled::Outside) --done--> given again, granted
//!                                                            '-conflict--> DENIED, or queued
//! waiter whose range is free --has less--> Take, it stays queued --done--> granted, offered
//!                                                                '-conflict--> rests; asked again after a pause
//! ```
//! One step of a file is under way at a time; who needs another one waits for it. A step that did not
//! succeed may have been done in part (unless it was not begun): nothing relies on it, and all it was to
//! raise is given up.
//! SHARE reservations are not mirrored: no file system has them.

use std::collections::HashMap;

use super::cover::{Cover, Coverage, Part};
use super::files::{FileId, Kind, uncovered};
use super::requests::Want;
use super::{Caller, Effect, Handled, LockTable, Process, Wanted};
use crate::wire::types::{ByteRange, FileHandle, OwnerHandle};

/// Ranges of a file remembered until what nothing needs is given up; beyond them all of the file is looked at:
/// each is compared with all locks in it.
const MAX_LOWERED: usize = 64;

/// What the other domain is asked to do for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorStep {
    /// Raise each part to its mode, if nobody of the other domain is in the way.
    Take(Vec<Part>),
    /// Lower each part to its mode.
    GiveUp {
        /// What is lowered.
        parts: Vec<Part>,
        /// Nothing of the file is covered then.
        nothing_left: bool,
    },
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorAnswer {
    /// As asked.
    Done,
    /// Somebody of the other domain is in the way.
    Conflict,
    /// Nobody knows how much of it was done.
    Failed,
    /// Nothing of it was done. The call that asked is not given again; a waiter is asked for again.
    NotBegun,
}

/// What the other domain said to the step that a call had to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outside {
    /// Nothing, or yes.
    #[default]
    Unasked,
    /// Somebody there is in the way.
    Conflict,
    /// It could not be asked.
    Failed,
}

#[derive(Debug)]
struct Step {
    step: MirrorStep,
    /// The waiter whom it is for.
    waiter: Option<u64>,
}

#[derive(Debug, Default)]
struct Mirrored {
    has: Cover,
    under_way: Option<Step>,
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
}

/// What is known of the other domain.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    files: HashMap<FileHandle, Mirrored>,
    /// Files in which less may be needed.
    lowered: Vec<FileHandle>,
}

impl LockTable {
    /// From now on every grant needs the other domain's consent. For an empty table.
    #[must_use]
    pub fn mirrored(mut self) -> Self {
        self.mirrors = Some(Mirrors::default());
        self
    }

    /// Whether all of the range is known as the process', held or pending, in this mode.
    pub fn knows_range(&self, caller: Caller, wanted: &Wanted) -> bool {
        let kind = Kind::Range { exclusive: wanted.exclusive };
        let process = |process: &Process| *process == wanted.process;
        uncovered(wanted.range, self.known(caller, &wanted.file, kind, process).into_iter()).is_empty()
    }

    /// Whether the caller is known to have a share of the file.
    pub fn knows_share(&self, caller: Caller, file: &FileHandle, oh: &OwnerHandle) -> bool {
        !self.known(caller, file, Kind::Share { access: 0, mode: 0 }, |process| process.oh == *oh).is_empty()
    }

    /// Ranges of what the client's process has at least in this mode, over whatever path.
    fn known(
        &self,
        caller: Caller,
        file: &FileHandle,
        kind: Kind,
        process: impl Fn(&Process) -> bool,
    ) -> Vec<ByteRange> {
        let Some(id) = self.files.find(file) else { return Vec::new() };
        let segments = self.files.get(id).into_iter().flat_map(|file| &file.segments);
        segments
            .filter(|s| s.client == caller.client && s.kind.covers(kind) && !self.is_void(id, s))
            .filter(|s| self.owners.key(s.owner).is_some_and(|key| process(&key.process)))
            .map(|s| s.range)
            .collect()
    }

    fn mirror_of(&mut self, file: FileId) -> Option<&mut Mirrored> {
        let handle = &self.files.get(file)?.handle;
        let files = &mut self.mirrors.as_mut()?.files;
        if !files.contains_key(handle) {
            files.insert(handle.clone(), Mirrored::default());
        }
        files.get_mut(handle)
    }

    /// What is still to be taken before this can be granted; nothing for shares, or without a mirror.
    fn lacking(&self, want: &Want) -> Vec<Part> {
        let Kind::Range { exclusive } = want.kind else { return Vec::new() };
        let Some(mirrors) = &self.mirrors else { return Vec::new() };
        let part = Part { range: want.range, coverage: Coverage::of(exclusive) };
        let mirrored = self.files.get(want.file).and_then(|file| mirrors.files.get(&file.handle));
        mirrored.map_or_else(|| vec![part], |mirrored| mirrored.has.below(part))
    }

    /// Whether a grant needs nothing more of the other domain.
    pub(super) fn is_mirrored(&self, want: &Want) -> bool {
        self.mirrors.is_none() || self.lacking(want).is_empty()
    }

    /// Asks for what a call lacks; the call has to wait for the answer.
    pub(super) fn await_mirror(&mut self, want: &Want) -> Handled {
        let parts = self.lacking(want);
        Handled::Outside { asked: self.take_outside(want.file, parts, None) }
    }

    /// Starts taking, unless a step of the file is under way.
    fn take_outside(&mut self, file: FileId, parts: Vec<Part>, waiter: Option<u64>) -> bool {
        let Some(mirrored) = self.mirror_of(file).filter(|mirrored| mirrored.under_way.is_none()) else { return false };
        let step = MirrorStep::Take(parts);
        mirrored.under_way = Some(Step { step: step.clone(), waiter });
        let handle = self.files.get(file).map(|file| file.handle.clone());
        self.effects.extend(handle.map(|handle| Effect::Mirror(handle, step)));
        true
    }

    /// Whether the waiter can be granted its range; if the other domain must consent first, it is asked.
    pub(super) fn may_offer(&mut self, id: u64) -> bool {
        let Some(waiter) = self.waiters.get(&id) else { return false };
        let (want, refused) = (waiter.want, waiter.refused);
        let parts = self.lacking(&want);
        if !parts.is_empty() && !refused {
            self.take_outside(want.file, parts.clone(), Some(id));
        }
        parts.is_empty()
    }

    /// A waiter was refused by the other domain: it is asked again after a pause.
    pub(super) fn ask_again_later(&mut self, file: FileId) {
        let Some(mirrored) = self.mirror_of(file).filter(|mirrored| !mirrored.resting) else { return };
        mirrored.resting = true;
        let refusals = mirrored.refusals;
        mirrored.refusals = refusals.saturating_add(1);
        let handle = self.files.get(file).map(|file| file.handle.clone());
        self.effects.extend(handle.map(|handle| Effect::AskAgain(handle, refusals)));
    }

    /// The pause of [`Effect::AskAgain`] is over.
    pub fn ask_again(&mut self, handle: &FileHandle) {
        if let Some(mirrored) = self.mirrors.as_mut().and_then(|mirrors| mirrors.files.get_mut(handle)) {
            mirrored.resting = false;
        }
        if let Some(file) = self.files.find(handle) {
            let ids = self.files.get(file).map_or(Vec::new(), |file| file.waiters.clone());
            for id in ids {
                if let Some(waiter) = self.waiters.get_mut(&id) {
                    waiter.refused = false;
                }
            }
            self.purge(file);
            self.wake(file);
            self.files.close(file);
        }
        self.forget_mirror(handle);
    }

    /// The step of [`Effect::Mirror`] has ended. Calls that waited for the file are to be given
    /// again: first the one that asked (if it was a call), with the answer, by
    /// [`handle_after`](Self::handle_after), before the next [`take_effects`](Self::take_effects).
    pub fn mirror_answered(&mut self, handle: &FileHandle, answer: MirrorAnswer) {
        let Some(mirrors) = &mut self.mirrors else { return };
        let Some(mirrored) = mirrors.files.get_mut(handle) else { return };
        let Some(Step { step, waiter }) = mirrored.under_way.take() else { return };
        match step {
            // Who wanted it may not want it any more.
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
        mirrors.lowered.push(handle.clone());
        let Some(file) = self.files.find(handle) else { return };
        self.purge(file);
        if let Some(waiter) = waiter.and_then(|id| self.waiters.get_mut(&id))
            && answer != MirrorAnswer::Done
        {
            waiter.refused = true;
            self.ask_again_later(file);
        }
        self.wake(file);
        self.files.close(file);
    }

    /// Whether a step of the file is under way.
    pub fn is_mirror_busy(&self, handle: &FileHandle) -> bool {
        let mirrored = self.mirrors.as_ref().and_then(|mirrors| mirrors.files.get(handle));
        mirrored.is_some_and(|mirrored| mirrored.under_way.is_some())
    }

    /// Segments in the range are gone or weaker.
    pub(super) fn may_need_less(&mut self, file: FileId, range: ByteRange) {
        let (Some(mirrors), Some(file)) = (&mut self.mirrors, self.files.get(file)) else { return };
        if let Some(mirrored) = mirrors.files.get_mut(&file.handle) {
            if mirrored.lowered.is_empty() {
                mirrors.lowered.push(file.handle.clone());
            }
            mirrored.may_lower(range);
        }
    }

    /// Gives up what nothing needs any more, of files that have no step under way.
    pub(super) fn give_up_outside(&mut self) {
        let Some(mirrors) = &mut self.mirrors else { return };
        for handle in std::mem::take(&mut mirrors.lowered) {
            let Some(mirrors) = &self.mirrors else { return };
            // Where a step is under way its answer brings the file back here.
            let Some(mirrored) = mirrors.files.get(&handle).filter(|mirrored| mirrored.under_way.is_none()) else {
                continue;
            };
            let mut has = mirrored.has.clone();
            let mut parts = Vec::new();
            for range in &mirrored.lowered {
                let above = has.above(*range, &self.needed(&handle, *range));
                for part in above {
                    has.set(part);
                    parts.push(part);
                }
            }
            for part in &mirrored.doubtful {
                parts.extend(has.pieces(part.range));
            }
            let step = MirrorStep::GiveUp { parts, nothing_left: has.is_empty() };
            let Some(mirrored) = self.mirrors.as_mut().and_then(|mirrors| mirrors.files.get_mut(&handle)) else {
                continue;
            };
            mirrored.lowered.clear();
            mirrored.doubtful.clear();
            // Not to be relied on from now on, whenever it is really gone.
            mirrored.has = has;
            if matches!(&step, MirrorStep::GiveUp { parts, .. } if !parts.is_empty()) {
                mirrored.under_way = Some(Step { step: step.clone(), waiter: None });
                self.effects.push(Effect::Mirror(handle.clone(), step));
            }
            self.forget_mirror(&handle);
        }
    }

    /// What is held or pending of the range, by whomever.
    fn needed(&self, handle: &FileHandle, range: ByteRange) -> Cover {
        let mut needed = Cover::default();
        let Some(id) = self.files.find(handle) else { return needed };
        for segment in self.files.get(id).into_iter().flat_map(|file| file.overlapping(range)) {
            if let Kind::Range { exclusive } = segment.kind
                && !self.is_void(id, segment)
            {
                needed.raise(Part { range: segment.range, coverage: Coverage::of(exclusive) });
            }
        }
        needed
    }

    fn forget_mirror(&mut self, handle: &FileHandle) {
        let Some(mirrors) = &mut self.mirrors else { return };
        let idle = |m: &Mirrored| {
            m.has.is_empty() && m.under_way.is_none() && m.doubtful.is_empty() && m.lowered.is_empty() && !m.resting
        };
        if mirrors.files.get(handle).is_some_and(idle) {
            mirrors.files.remove(handle);
        }
    }

    /// How many ranges of the file are to be looked at.
    #[cfg(test)]
    pub(super) fn ranges_to_look_at(&self, handle: &FileHandle) -> usize {
        let mirrored = self.mirrors.as_ref().and_then(|mirrors| mirrors.files.get(handle));
        mirrored.map_or(0, |mirrored| mirrored.lowered.len())
    }

    /// What must hold of the mirror, after every step and with all effects taken.
    #[cfg(test)]
    pub(super) fn check_mirror(&self) {
        let Some(mirrors) = &self.mirrors else { return };
        for (_, file) in self.files.from(0) {
            let needed = self.needed(&file.handle, ByteRange::ALL);
            let has = mirrors.files.get(&file.handle).map_or_else(Cover::default, |mirrored| mirrored.has.clone());
            assert_eq!(needed.above(ByteRange::ALL, &has), [], "held without the other domain: {}", file.handle);
        }
        if self.void.is_some() {
            return;
        }
        for (handle, mirrored) in mirrors.files.iter().filter(|(_, mirrored)| mirrored.under_way.is_none()) {
            let needed = self.needed(handle, ByteRange::ALL);
            assert_eq!(mirrored.has.above(ByteRange::ALL, &needed), [], "kept for nobody: {handle}");
        }
    }
}
