//! What the end of a run leaves open until its latest deadline: late reclaims.
//!
//! A notice can be delivered, or acted upon, after the run settled or was aborted. Then a reclaim of
//! a lock the table does not know is still granted, if no other owner was granted a conflicting range
//! since the run began, given up again or not. Ranges still held speak for themselves; those given up
//! are remembered, each once. When the window closes all of it means nothing at once, and is freed in slices.
//!
//! Memory is bounded, and what does not fit in costs only its own file: all of it counts as granted. Such a
//! file is *crowded*, and of it only a bit is left. That befalls a file with too many ranges; where there are
//! too many ranges in all, the file that has the most; and where every file has few, the one that is about to be
//! remembered. A file in which nothing was given up counts as crowded only by chance ([`Crowded`]).

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::time::Duration;

use super::api::{ClientId, Effect};
use super::listed::Listed;
use super::run::Run;
use super::segment::{FileId, OwnerId, Segment, Want};
use crate::shares::Bounds;
use crate::wire::control::{LockFate, RunId};
use crate::wire::types::{ByteRange, FileHandle};

/// Ranges remembered of one file, and of all.
const MAX_PER_FILE: usize = 64;
const MAX_IN_ALL: usize = 100_000;
/// A file with so many ranges makes no room for others.
const FEW: usize = 8;
/// Late reclaims appended to one result: those that were granted, and those that were refused.
const GRANTED: Bounds = Bounds { all: 200_000, host: 100_000 };
const REFUSED: Bounds = Bounds { all: 10_000, host: 1_000 };

/// The window of the last run, and what was given up since that run began.
#[derive(Debug, Default)]
pub(super) struct LateWindow {
    window: Option<Window>,
    memory: Memory,
    /// What was remembered for windows that are closed. It is freed in slices.
    closed: Vec<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    given_up: BTreeMap<FileId, GivenUp>,
    /// The files of `given_up` by their number of ranges.
    by_size: BTreeSet<(usize, FileId)>,
    ranges: usize,
    crowded: Crowded,
}

#[derive(Debug)]
struct Window {
    run: RunId,
    until: Duration,
    /// The run's clients. One of them may reclaim under another spelling of its name, as another client at its address.
    clients: HashMap<ClientId, usize>,
    granted: Listed,
    refused: Listed,
}

/// Segments of a file that were granted since the run began and given up again.
#[derive(Debug)]
struct GivenUp {
    handle: FileHandle,
    segments: Vec<Segment>,
}

/// The crowded files: two bits of each in a field of 2^27 (a Bloom filter of 16 MB, once there is one). With a
/// million of them one file in 4,000 is taken for crowded and is not. A client cannot choose which, since the hash is keyed.
#[derive(Debug, Default)]
struct Crowded {
    bits: Vec<u64>,
    hash: RandomState,
}

impl Crowded {
    const BITS: u64 = 1 << 27;

    fn places(&self, handle: &FileHandle) -> [(usize, u64); 2] {
        let hash = self.hash.hash_one(handle);
        [hash, hash >> 32].map(|half| {
            let bit = half % Self::BITS;
            (usize::try_from(bit / 64).unwrap_or(usize::MAX), 1 << (bit % 64))
        })
    }

    fn add(&mut self, handle: &FileHandle) {
        if self.bits.is_empty() {
            self.bits = vec![0; usize::try_from(Self::BITS / 64).unwrap_or_default()];
        }
        for (word, bit) in self.places(handle) {
            if let Some(word) = self.bits.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn may_have(&self, handle: &FileHandle) -> bool {
        let places = self.places(handle);
        places.into_iter().all(|(word, bit)| self.bits.get(word).is_some_and(|word| word & bit != 0))
    }
}

/// What is referred to no more.
pub(super) type Forgotten = (FileId, Vec<Segment>);

/// Whether a reclaim of an unknown lock comes in time.
#[derive(Debug)]
pub(super) enum LateReclaim {
    Granted,
    /// Another owner had a conflicting range.
    TakenSince(OwnerId, ByteRange),
    /// The file is crowded.
    NotKnown,
    NoWindow,
}

impl LateWindow {
    /// Takes the list of its clients from the run, which is over.
    pub(super) fn open(&mut self, run: &mut Run) {
        let clients = std::mem::take(&mut run.index);
        self.window = Some(Window::new(run.id, run.latest, clients));
    }

    /// Everything counts as forgotten. What it referred to it refers to until [`forget_next`](Self::forget_next).
    pub(super) fn close(&mut self) {
        self.window = None;
        self.closed.push(std::mem::take(&mut self.memory));
    }

    pub(super) fn has_more_to_forget(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Forgets some of what counts as forgotten.
    pub(super) fn forget_next(&mut self) -> Option<Forgotten> {
        while let Some(memory) = self.closed.last_mut() {
            if let Some((file, GivenUp { segments, .. })) = memory.given_up.pop_first() {
                memory.by_size.remove(&(segments.len(), file));
                return Some((file, segments));
            }
            self.closed.pop();
        }
        None
    }

    /// When it ends, if it is open.
    pub(super) fn until(&self) -> Option<Duration> {
        self.window.as_ref().map(|window| window.until)
    }

    pub(super) fn knows(&self, file: FileId) -> bool {
        self.closed.iter().chain([&self.memory]).any(|memory| memory.given_up.contains_key(&file))
    }

    /// A segment that was granted since the run began is given up. Gives whether it refers to the
    /// segment's owner from now on, and what it forgot for it.
    pub(super) fn remember(&mut self, file: FileId, handle: &FileHandle, piece: &Segment) -> (bool, Option<Forgotten>) {
        self.memory.remember(file, handle, piece)
    }

    /// A reclaim by one of these clients at one address.
    pub(super) fn reclaim(&self, here: &[ClientId], want: &Want, handle: &FileHandle) -> LateReclaim {
        if self.window.as_ref().is_some_and(|window| window.told_any(here)) {
            self.memory.reclaim(want, handle)
        } else {
            LateReclaim::NoWindow
        }
    }

    /// What appends a reclaim that was granted to the ended run's result. `None`: there is no window, or no room.
    pub(super) fn granted(&mut self, row: LockFate) -> Option<Effect> {
        let window = self.window.as_mut()?;
        window.granted.takes(&row).then(|| window.append(row))
    }

    /// The same for one that was refused: each once, and only of hosts that the run told to reclaim. It makes the result
    /// unfetched, so nobody else may cause that.
    pub(super) fn refused(&mut self, here: &[ClientId], client: ClientId, row: LockFate) -> Option<Effect> {
        let window = self.window.as_mut().filter(|window| window.told_any(here))?;
        (window.refused.takes_conflict(client, &row) == Some(true)).then(|| window.append(row))
    }

    /// Other bounds of refused reclaims.
    #[cfg(test)]
    pub(super) fn limit_refused(&mut self, bounds: Bounds) {
        self.window.as_mut().unwrap().refused.bounds = bounds;
    }

    /// The owners that it refers to, each as often as it does.
    #[cfg(test)]
    pub(super) fn owners(&self) -> impl Iterator<Item = OwnerId> {
        let given_up = self.closed.iter().chain([&self.memory]).flat_map(|memory| memory.given_up.values());
        given_up.flat_map(|given_up| given_up.segments.iter().map(|s| s.owner))
    }
}

impl Window {
    fn new(run: RunId, until: Duration, clients: HashMap<ClientId, usize>) -> Self {
        Self { run, until, clients, granted: Listed::new(GRANTED), refused: Listed::new(REFUSED) }
    }

    fn told_any(&self, clients: &[ClientId]) -> bool {
        clients.iter().any(|client| self.clients.contains_key(client))
    }

    fn append(&self, row: LockFate) -> Effect {
        Effect::Late(self.run, LockFate { late: true, ..row })
    }
}

impl Memory {
    fn remember(&mut self, file: FileId, handle: &FileHandle, piece: &Segment) -> (bool, Option<Forgotten>) {
        if self.crowded.may_have(handle) {
            return (false, None);
        }
        let known = self.given_up.get(&file).map_or(&[][..], |given_up| given_up.segments.as_slice());
        let covers = |s: &Segment| s.owner == piece.owner && s.range.covers(piece.range) && s.kind.covers(piece.kind);
        if known.iter().any(covers) {
            return (false, None);
        }
        let many = known.len();
        let biggest = self.by_size.last().copied().filter(|(size, _)| *size > FEW);
        let makes_room = if many >= MAX_PER_FILE {
            Some(file)
        } else if self.ranges >= MAX_IN_ALL {
            Some(biggest.map_or(file, |(_, biggest)| biggest))
        } else {
            None
        };
        let forgotten = makes_room.and_then(|crowded| self.forget(crowded));
        if makes_room == Some(file) {
            self.crowded.add(handle);
            return (false, forgotten);
        }
        self.by_size.remove(&(many, file));
        self.by_size.insert((many + 1, file));
        self.ranges += 1;
        let new = || GivenUp { handle: handle.clone(), segments: Vec::new() };
        self.given_up.entry(file).or_insert_with(new).segments.push(*piece);
        (true, forgotten)
    }

    /// All of the file counts as granted from now on.
    fn forget(&mut self, file: FileId) -> Option<Forgotten> {
        let GivenUp { handle, segments } = self.given_up.remove(&file)?;
        self.by_size.remove(&(segments.len(), file));
        self.ranges -= segments.len();
        self.crowded.add(&handle);
        Some((file, segments))
    }

    fn reclaim(&self, want: &Want, handle: &FileHandle) -> LateReclaim {
        if self.crowded.may_have(handle) {
            return LateReclaim::NotKnown;
        }
        let mut segments = self.given_up.get(&want.file).into_iter().flat_map(|given_up| &given_up.segments);
        let taken = |s: &&Segment| {
            s.owner != want.lock.owner && s.range.overlaps(want.lock.range) && s.kind.excludes(want.lock.kind)
        };
        match segments.find(taken) {
            Some(since) => LateReclaim::TakenSince(since.owner, since.range),
            None => LateReclaim::Granted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{Caller, OtherDomain, Via};
    use super::super::segment::Kind;
    use super::*;
    use crate::wire::types::{NsmState, Transport};

    fn segment(owner: u32, byte: u64) -> Segment {
        Segment {
            range: ByteRange { start: byte, end: byte },
            owner: OwnerId(owner),
            client: ClientId(1),
            state: NsmState(3),
            epoch: 1,
            mark: 0,
            since: 0,
            kind: Kind::Range { exclusive: true },
            monitored: true,
            offered: false,
        }
    }

    fn handle(file: u32) -> FileHandle {
        FileHandle::new(&file.to_be_bytes()).unwrap()
    }

    fn open() -> LateWindow {
        let window = Window::new(RunId([1; 16]), Duration::from_secs(9), HashMap::from([(ClientId(1), 0)]));
        LateWindow { window: Some(window), ..LateWindow::default() }
    }

    fn remember(late: &mut LateWindow, file: u32, byte: u64) -> (bool, Option<Forgotten>) {
        late.remember(FileId(file), &handle(file), &segment(7, byte))
    }

    fn reclaim(late: &LateWindow, file: u32, byte: u64) -> LateReclaim {
        let via = Via { server_address: [192, 0, 2, 1].into(), transport: Transport::Tcp, version: 4 };
        let caller = Caller { client: ClientId(1), via };
        let want = Want { caller, file: FileId(file), lock: segment(1, byte), len: 1, outside: OtherDomain::Unasked };
        late.reclaim(&[ClientId(1)], &want, &handle(file))
    }

    #[test]
    fn a_bystander_busy_in_many_files_costs_no_other_file_its_late_reclaims() {
        let mut late = open();
        let many = u32::try_from(MAX_IN_ALL).unwrap() + 1_000;
        for file in 0..many {
            let (_, forgotten) = remember(&mut late, file, 5);
            assert!(forgotten.is_none(), "a file with one range makes no room");
        }
        assert_eq!(late.memory.ranges, MAX_IN_ALL);
        assert!(matches!(reclaim(&late, many, 5), LateReclaim::Granted), "nobody was there");
        assert!(matches!(reclaim(&late, 0, 6), LateReclaim::Granted), "beside what was had");
        assert!(matches!(reclaim(&late, 0, 5), LateReclaim::TakenSince(OwnerId(7), _)));
        assert!(matches!(reclaim(&late, many - 1, 6), LateReclaim::NotKnown), "what did not fit in");
    }

    #[test]
    fn where_memory_is_full_the_file_with_the_most_ranges_makes_room() {
        let mut late = open();
        (0..60).for_each(|byte| drop(remember(&mut late, 1, byte)));
        (0..40).for_each(|byte| drop(remember(&mut late, 2, byte)));
        let mut file = 3;
        while late.memory.ranges < MAX_IN_ALL {
            remember(&mut late, file, 5);
            file += 1;
        }
        let (refers, forgotten) = remember(&mut late, file, 5);
        assert!(refers);
        assert_eq!(forgotten.map(|(file, segments)| (file, segments.len())), Some((FileId(1), 60)));
        assert!(matches!(reclaim(&late, 1, 1_000), LateReclaim::NotKnown));
        assert!(matches!(reclaim(&late, 2, 1_000), LateReclaim::Granted), "there is room again");
        assert!(matches!(reclaim(&late, 3, 1_000), LateReclaim::Granted));
    }

    #[test]
    fn a_range_that_its_owner_had_again_and_again_is_remembered_once() {
        let mut late = open();
        assert!(remember(&mut late, 1, 5).0);
        (0..1_000).for_each(|_| assert!(!remember(&mut late, 1, 5).0));
        assert!(matches!(reclaim(&late, 1, 6), LateReclaim::Granted));
        assert!(matches!(reclaim(&late, 1, 5), LateReclaim::TakenSince(..)));
    }

    #[test]
    fn a_file_that_is_forgotten_is_so_under_its_handle_and_not_under_its_number() {
        let mut late = open();
        for byte in 0..=u64::try_from(MAX_PER_FILE).unwrap() {
            remember(&mut late, 1, byte);
        }
        assert!(!late.knows(FileId(1)));
        assert!(late.remember(FileId(1), &handle(2), &segment(7, 5)).0, "another file by now");
        assert!(matches!(reclaim(&late, 1, 1_000), LateReclaim::NotKnown));
    }
}
