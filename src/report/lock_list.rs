//! A list of locks in little memory: with a million of them, each with an owner handle of its own, nlmctl takes little more
//! than 100 MB, where rows of strings took 1.3 GB.
//!
//! What many locks share (a file's handle, a client, an owner's handle) is kept once and has a number; a lock is a row of
//! numbers. It becomes a [`ListedLock`] when it is shown. Start reading at [`LockList::push`].

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;

use hashbrown::HashTable;

use super::locks::{Behind, Known, ListedLock};
use super::rows::Rows;
use crate::wire::control::{AgedLock, LockKind, LockRow, LockState, OwnerRow};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, OwnerHandle, Svid, Transport};
use crate::wire::xdr::Maybe;

const KINDS: [LockKind; 3] = [LockKind::Shared, LockKind::Exclusive, LockKind::Share];
const STATES: [LockState; 4] = [LockState::Held, LockState::Pending, LockState::Waiting, LockState::Offered];
/// How many owners in the way of one request are named: ten thousand readers may be in the way of a hundred writers.
const BEHIND_NAMED: usize = 20;
/// No such number; no list has so many rows.
const NONE: u32 = u32::MAX;

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(NONE)
}

/// Byte strings, each kept once.
#[derive(Debug, Default)]
struct Words {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

fn word_of<'a>(bytes: &'a [u8], ends: &[usize], word: u32) -> &'a [u8] {
    let end = |word: usize| ends.get(word).copied().unwrap_or_default();
    let word = word as usize;
    bytes.get(word.checked_sub(1).map_or(0, end)..end(word)).unwrap_or_default()
}

impl Words {
    fn get(&self, word: u32) -> &[u8] {
        word_of(&self.bytes, &self.ends, word)
    }
    fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.numbers.find(self.hasher.hash_one(bytes), |word| self.get(*word) == bytes).copied()
    }
    fn add(&mut self, bytes: &[u8]) -> u32 {
        if let Some(word) = self.find(bytes) {
            return word;
        }
        let word = number(self.ends.len());
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        let hash = self.hasher.hash_one(bytes);
        let Self { bytes, ends, numbers, hasher } = self;
        numbers.insert_unique(hash, word, |word| hasher.hash_one(word_of(bytes, ends, *word)));
        word
    }
    /// The place of each in the order of their bytes.
    fn ranks(&self) -> Vec<u32> {
        let mut sorted: Vec<u32> = (0..number(self.ends.len())).collect();
        sorted.sort_unstable_by_key(|word| self.get(*word));
        let mut ranks = vec![0; sorted.len()];
        for (rank, word) in (0..).zip(sorted) {
            if let Some(place) = ranks.get_mut(word as usize) {
                *place = rank;
            }
        }
        ranks
    }
}

/// An owner without its process: a client, and how it called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    name: CallerName,
    address: Address,
    server_address: Address,
    transport: Transport,
    version: u32,
}

/// A lock, by numbers.
#[derive(Debug, Clone, Copy)]
struct Row {
    file: u32,
    caller: u32,
    oh: u32,
    svid: i32,
    age_s: u32,
    known: u32,
    range: ByteRange,
    kind: u8,
    state: u8,
    monitored: bool,
    is_shown: bool,
}

impl Row {
    fn kind(&self) -> LockKind {
        KINDS.get(usize::from(self.kind)).copied().unwrap_or(LockKind::Exclusive)
    }
    fn state(&self) -> LockState {
        STATES.get(usize::from(self.state)).copied().unwrap_or(LockState::Held)
    }
    fn waits(&self) -> bool {
        self.state() == LockState::Waiting
    }
}

#[derive(Debug, Default)]
pub struct LockList {
    rows: Vec<Row>,
    files: Words,
    ohs: Words,
    callers: Vec<Caller>,
    caller_numbers: HashMap<Caller, u32>,
    known: Vec<Known>,
    /// The rows of each file for which a lock waits; none where that was not looked for.
    contended: Option<HashMap<FileKey, Vec<u32>>>,
    /// Whether the owners of the locks are not known.
    is_ownerless: bool,
}

/// What tells a file from others: its handle's number, or its device and inode.
type FileKey = (u32, String);

impl LockList {
    /// A list of a manager that does not tell who owns the locks.
    pub fn without_owners() -> Self {
        Self { is_ownerless: true, ..Self::default() }
    }

    /// Adds a lock. One that is not `shown` may still be in the way of others.
    pub fn push(&mut self, lock: &AgedLock, known: Option<Known>, is_shown: bool) {
        let AgedLock { lock: LockRow { file, kind, range, state, monitored, owner }, age_s } = lock;
        let has_oh = known.as_ref().is_none_or(|known| known.has_oh);
        let row = Row {
            file: self.files.add(file.as_slice()),
            caller: self.caller(owner),
            oh: if has_oh { self.ohs.add(owner.oh.as_slice()) } else { NONE },
            svid: owner.svid.0,
            age_s: age_s.0.unwrap_or(NONE),
            known: if known.is_some() { number(self.known.len()) } else { NONE },
            range: *range,
            kind: *kind as u8,
            state: *state as u8,
            monitored: *monitored,
            is_shown,
        };
        self.known.extend(known);
        self.rows.push(row);
    }

    fn caller(&mut self, owner: &OwnerRow) -> u32 {
        let OwnerRow { name, address, server_address, transport, version, .. } = owner.clone();
        let caller = Caller { name, address, server_address, transport, version };
        if let Some(number) = self.caller_numbers.get(&caller) {
            return *number;
        }
        let number = number(self.callers.len());
        self.callers.push(caller.clone());
        self.caller_numbers.insert(caller, number);
        number
    }

    /// How many there are, shown or not.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// By file and range; those that wait after those that hold.
    pub fn sort(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        let ranks = self.files.ranks();
        let key = |row: &Row| {
            let ByteRange { start, end } = row.range;
            (ranks.get(row.file as usize), start, row.waits(), end, row.svid)
        };
        let path = |row: &Row| self.known(row).and_then(|known| known.path.as_ref());
        rows.sort_unstable_by(|a, b| {
            let names = || self.name(a).cmp(&self.name(b));
            path(a).cmp(&path(b)).then_with(|| key(a).cmp(&key(b))).then_with(names)
        });
        self.rows = rows;
    }

    fn known(&self, row: &Row) -> Option<&Known> {
        self.known.get(row.known as usize)
    }
    fn name(&self, row: &Row) -> Option<&CallerName> {
        self.callers.get(row.caller as usize).map(|caller| &caller.name)
    }
    fn svid(&self, row: &Row) -> Option<i32> {
        self.known(row).is_none_or(|known| known.has_svid).then_some(row.svid)
    }
    fn key(&self, row: &Row) -> FileKey {
        match self.known(row) {
            Some(known) => (NONE, known.inode.clone()),
            None => (row.file, String::new()),
        }
    }

    /// Finds the owners whose locks are in the way of waiting requests. All locks must be in the list, in their order.
    pub fn find_behind(&mut self) {
        let waiting = self.rows.iter().filter(|row| row.waits());
        let mut contended: HashMap<FileKey, Vec<u32>> = waiting.map(|row| (self.key(row), Vec::new())).collect();
        if !contended.is_empty() {
            for (place, row) in (0..).zip(&self.rows) {
                if let Some(rows) = contended.get_mut(&self.key(row)) {
                    rows.push(place);
                }
            }
        }
        self.contended = Some(contended);
    }

    /// The first of those in its way, and how many more there are.
    fn behind(&self, waiting: &Row) -> Option<(Vec<Behind>, u64)> {
        let those = self.contended.as_ref().filter(|_| waiting.waits())?.get(&self.key(waiting));
        let those = those.into_iter().flatten().filter_map(|place| self.rows.get(*place as usize));
        let (mut behind, mut known) = (Vec::new(), HashSet::new());
        for lock in those.filter(|lock| self.is_in_the_way_of(lock, waiting)) {
            let caller = self.callers.get(lock.caller as usize);
            let owner = (caller.map(|caller| (&caller.name, caller.address)), self.svid(lock));
            if known.insert(owner) && behind.len() < BEHIND_NAMED {
                let (name, address) = owner.0.map(|(name, address)| (name.to_string(), address)).unzip();
                behind.push(Behind { name, address, svid: owner.1 });
            }
        }
        let more = known.len().saturating_sub(behind.len()) as u64;
        Some((behind, more))
    }

    fn is_in_the_way_of(&self, lock: &Row, other: &Row) -> bool {
        let kinds = [lock.kind(), other.kind()];
        // A lock manager may have kept the owner handle of one only.
        let is_one_owner = lock.caller == other.caller
            && self.svid(lock) == self.svid(other)
            && (lock.oh == other.oh || lock.oh == NONE || other.oh == NONE);
        !lock.waits()
            && !kinds.contains(&LockKind::Share)
            && kinds.contains(&LockKind::Exclusive)
            && lock.range.overlaps(other.range)
            && !is_one_owner
    }

    /// A lock as its manager told it.
    fn told(&self, row: &Row) -> Option<AgedLock> {
        let Caller { name, address, server_address, transport, version } =
            self.callers.get(row.caller as usize)?.clone();
        let oh = OwnerHandle::new(self.ohs.get(row.oh)).ok()?;
        let owner = OwnerRow { name, address, server_address, transport, version, svid: Svid(row.svid), oh };
        let lock = LockRow {
            file: FileHandle::new(self.files.get(row.file)).ok()?,
            kind: row.kind(),
            range: row.range,
            state: row.state(),
            monitored: row.monitored,
            owner,
        };
        Some(AgedLock { lock, age_s: Maybe((row.age_s != NONE).then_some(row.age_s)) })
    }

    fn listed(&self, row: &Row) -> Option<ListedLock> {
        let told = self.told(row)?;
        let mut listed = if self.is_ownerless { ListedLock::without_owner(&told) } else { ListedLock::from(&told) };
        if let Some((behind, more)) = self.behind(row) {
            (listed.behind, listed.behind_more) = (Some(behind), more);
        }
        Some(match self.known(row) {
            Some(known) => listed.with(known),
            None => listed,
        })
    }
}

impl Rows for LockList {
    type Row = ListedLock;
    fn each(&self, take: &mut dyn FnMut(ListedLock) -> io::Result<()>) -> io::Result<()> {
        self.rows.iter().filter(|row| row.is_shown).filter_map(|row| self.listed(row)).try_for_each(take)
    }
}

/// For who asks what became of each lock: by owner and file.
impl LockList {
    /// By file and owner. Two clones have one name, and their processes one number and one handle: the address is another.
    /// The way it called does not count: its owner may have reclaimed it by another one.
    fn owner_order(
        &self,
        row: &Row,
        file: u32,
        (name, address): (&CallerName, Address),
        svid: i32,
        oh: u32,
    ) -> Ordering {
        let caller = self.callers.get(row.caller as usize).map(|caller| (&caller.name, caller.address.0));
        row.file
            .cmp(&file)
            .then_with(|| caller.cmp(&Some((name, address.0))).then_with(|| (row.svid, row.oh).cmp(&(svid, oh))))
    }

    /// In an order that has all locks of an owner on a file together, by their first bytes; each range of an owner once.
    pub fn sort_by_owner(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        let key = |row: &Row| (row.range.start, row.range.end, row.caller);
        let order = |a: &Row, b: &Row| match self.callers.get(b.caller as usize) {
            Some(Caller { name, address, .. }) => {
                self.owner_order(a, b.file, (name, *address), b.svid, b.oh).then_with(|| key(a).cmp(&key(b)))
            }
            None => Ordering::Equal,
        };
        rows.sort_unstable_by(order);
        rows.dedup_by(|a, b| order(a, b) == Ordering::Equal);
        self.rows = rows;
    }

    /// Where the locks are that this owner has on this file and that begin by this byte, in a list that is sorted by owner.
    pub fn of_owner(&self, owner: &OwnerRow, file: &FileHandle, by: u64) -> Range<usize> {
        let numbers = self.files.find(file.as_slice()).zip(self.ohs.find(owner.oh.as_slice()));
        let Some((file, oh)) = numbers else { return 0..0 };
        let order = |row: &Row| self.owner_order(row, file, (&owner.name, owner.address), owner.svid.0, oh);
        let start = self.rows.partition_point(|row| order(row) == Ordering::Less);
        let end = self.rows.partition_point(|row| match order(row) {
            Ordering::Equal => row.range.start <= by,
            unequal => unequal == Ordering::Less,
        });
        start..end
    }

    /// The bytes of the lock at that place.
    pub fn range(&self, place: usize) -> Option<ByteRange> {
        self.rows.get(place).map(|row| row.range)
    }

    /// The lock at that place, as its manager told it.
    pub fn get(&self, place: usize) -> Option<LockRow> {
        Some(self.told(self.rows.get(place)?)?.lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(svid: i32, state: LockState, start: u64, end: u64) -> AgedLock {
        LockRow { state, ..LockRow::sample(svid, start, end) }.into()
    }

    fn rows(list: &LockList) -> Vec<ListedLock> {
        let mut rows = Vec::new();
        let mut take = |row| {
            rows.push(row);
            Ok(())
        };
        list.each(&mut take).unwrap();
        rows
    }

    /// Which locks are in the way of which requests, by svid.
    fn behind(locks: &[(AgedLock, Option<Known>)]) -> Vec<(i32, Vec<i32>)> {
        let mut list = LockList::default();
        for (lock, known) in locks {
            list.push(lock, known.clone(), true);
        }
        list.sort();
        list.find_behind();
        let svids = |behind: Vec<Behind>| behind.iter().map(|one| one.svid.unwrap()).collect();
        rows(&list).into_iter().filter_map(|row| Some((row.owner.svid.unwrap(), svids(row.behind?)))).collect()
    }

    #[test]
    fn one_that_waits_is_behind_those_whose_locks_are_in_its_way_each_once() {
        use LockState::{Held, Waiting};
        let at = |inode: &str| Known { inode: inode.into(), has_svid: true, has_oh: true, ..Known::default() };
        let here = |lock: AgedLock| (lock, Some(at("00:1a:2")));
        let mut read = lock(4, Held, 0, 9);
        read.lock.kind = LockKind::Shared;
        let locks = [
            here(lock(1, Held, 0, 4)),
            here(lock(1, Held, 6, 6)),
            here(lock(2, Held, 10, u64::MAX)),
            here(lock(3, Waiting, 0, 9)),
            here(read.clone()),
            (lock(5, Held, 0, 9), Some(at("00:1a:3"))),
            (lock(3, Held, 7, 7), Some(Known { has_oh: false, ..at("00:1a:2") })),
        ];
        assert_eq!(behind(&locks), [(3, vec![1, 4])]);
        let mut reader = read.clone();
        (reader.lock.state, reader.lock.owner.svid) = (Waiting, Svid(9));
        assert_eq!(behind(&[here(read), here(reader)]), [(9, vec![])]);
    }

    #[test]
    fn of_very_many_readers_in_the_way_of_very_many_writers_the_first_are_named_and_the_others_counted() {
        let mut list = LockList::default();
        for n in 0..10_000 {
            let mut read = lock(n, LockState::Held, 0, 9);
            (read.lock.kind, read.lock.owner.name) =
                (LockKind::Shared, CallerName::new(&format!("c{}", n / 10)).unwrap());
            list.push(&read, None, true);
        }
        for n in 0..100 {
            list.push(&lock(-1 - n, LockState::Waiting, 0, 9), None, true);
        }
        list.sort();
        list.find_behind();
        let waiting: Vec<_> = rows(&list).into_iter().filter(|row| row.behind.is_some()).collect();
        let told: HashSet<_> =
            waiting.iter().map(|row| (row.behind.as_ref().unwrap().len(), row.behind_more)).collect();
        assert_eq!((waiting.len(), told), (100, [(BEHIND_NAMED, 9_980)].into()));
    }

    #[test]
    fn equal_locks_of_two_clones_are_two_and_one_that_is_told_twice_is_one() {
        let mut list = LockList::default();
        let clone = |address: &str| {
            let mut clone = lock(1, LockState::Held, 0, 9);
            (clone.lock.kind, clone.lock.owner.address) = (LockKind::Shared, address.parse().unwrap());
            clone
        };
        let [one, other] = ["192.0.2.7", "192.0.2.8"].map(clone);
        for told in [&one, &other, &one] {
            list.push(told, None, true);
        }
        list.sort_by_owner();
        assert_eq!(list.len(), 2);
        for own in [&one, &other] {
            let OwnerRow { transport, .. } = own.lock.owner;
            // By another way it is the same owner.
            let other_way = if transport == Transport::Tcp { Transport::Udp } else { Transport::Tcp };
            let owner = OwnerRow { transport: other_way, ..own.lock.owner.clone() };
            let places = list.of_owner(&owner, &own.lock.file, u64::MAX);
            let locks: Vec<_> = places.map(|place| list.get(place).unwrap()).collect();
            assert_eq!(locks, std::slice::from_ref(&own.lock));
        }
    }

    #[test]
    fn a_list_shows_what_was_put_in_by_file_and_range_and_those_that_wait_after_those_that_hold() {
        let mut told = vec![
            lock(1, LockState::Waiting, 5, 9),
            lock(2, LockState::Held, 5, u64::MAX),
            lock(-3, LockState::Pending, 0, 4),
            lock(4, LockState::Offered, 0, u64::MAX),
        ];
        (told[2].age_s, told[2].lock.monitored) = (Maybe(Some(7)), false);
        told[3].lock.file = FileHandle::new(b"e").unwrap();
        (told[3].lock.kind, told[3].lock.owner.name) = (LockKind::Share, CallerName::new("c2").unwrap());
        let mut list = LockList::default();
        for lock in &told {
            list.push(lock, None, true);
        }
        list.push(&lock(9, LockState::Held, 0, 0), None, false);
        list.sort();
        let expected = [3, 2, 1, 0].map(|place: usize| ListedLock::from(&told[place]));
        assert_eq!(rows(&list), expected);
    }

    #[test]
    fn a_lock_takes_no_more_memory_than_a_row_of_numbers_and_what_no_other_lock_has() {
        assert_eq!(size_of::<Row>(), 48);
        let mut list = LockList::default();
        for n in 0..1_000 {
            list.push(&lock(n % 10, LockState::Held, 0, 9), None, true);
        }
        assert_eq!((list.files.bytes.len(), list.ohs.bytes.len(), list.callers.len()), (1, 1, 1));
    }
}
