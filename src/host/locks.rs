//! The byte-range locks in `/proc/locks` and in a descriptor's fdinfo (proc(5)).
//!
//! Theory. The kernel gives `/proc/locks` a page at a time, however large the read is, and goes on at
//! the place in its list where it left off. A lock that comes or goes between two pages shifts that
//! list: others are passed over then, or told twice. Local locks come and go all the time, so one pass
//! proves nothing, and the whole file may never be the same twice. So passes are made until one agrees
//! with earlier ones about the locks that the caller is concerned with. Each pass has its page
//! boundaries in other places, or all of them could pass over the same lock.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::{FileError, MAX_FILE, Machine};
use crate::wire::types::ByteRange;

/// A lock on a file of this machine. Whose it is it does not say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The file: device and inode, `00:1b:1234` say, the device in hexadecimal.
    pub file: String,
    /// Whether it is a write lock.
    pub exclusive: bool,
    pub start: u64,
    /// Last byte; `u64::MAX` is the end of the file.
    pub end: u64,
}

impl Lock {
    pub fn range(&self) -> ByteRange {
        ByteRange { start: self.start, end: self.end }
    }
    /// Whether they have bytes of one file in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.file == other.file && self.range().overlaps(other.range())
    }
    /// Whether two owners cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.overlaps(other) && (self.exclusive || other.exclusive)
    }
    /// Whether it is as long and as strong as another lock on the same file.
    pub fn covers(&self, other: &Self) -> bool {
        self.range().covers(other.range()) && (self.exclusive || !other.exclusive)
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.exclusive { "write" } else { "read" };
        write!(f, "{kind} lock on bytes {} of {}", self.range(), self.file)
    }
}

/// Passes that must be equal about the locks of concern, while other locks come and go.
const ENOUGH: usize = 3;
/// What a reading may take until passes agree.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Most passes.
    passes: usize,
    /// No pass begins after so long a time, once enough for an agreement were made.
    patience: Duration,
}

const USUAL: Effort = Effort { passes: 64, patience: Duration::from_secs(2) };
/// The most that the kernel puts into one read.
const PAGE: usize = 4096;
/// How far page boundaries move from one pass to the next: no divisor of [`PAGE`].
const STRIDE: usize = 1531;

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcLock {
    pub lock: Lock,
    /// The process, as the kernel shows it: lockd's for every client of its, -1 for an open file
    /// description's.
    pub pid: i32,
    /// Whether an open file description has it, and no process.
    pub is_ofd: bool,
    /// Whether it is not held but waited for.
    pub waits: bool,
}

/// What several passes over the list have shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Locks of concern that every pass has shown, or the passes that agreed; sorted.
    pub sure: Vec<ProcLock>,
    /// Those that some passes have shown and others not; sorted. While there are any, a lock that is in
    /// neither list may be held too.
    pub unsure: Vec<ProcLock>,
    /// All other locks, from the last pass: some may be missing, some there twice.
    pub others: Vec<ProcLock>,
}

impl Machine {
    /// What is locked, and waited for; `concern` says of which locks the caller must know for sure.
    pub fn locks(&self, concern: impl Fn(&ProcLock) -> bool) -> Result<Reading, FileError> {
        read_until_sure(|pass| self.locks_in_pass(pass), concern, USUAL)
    }

    /// The list as one pass shows it: while locks come and go, others may be missing or there twice. Passes of different
    /// numbers have their page boundaries in different places.
    pub(crate) fn locks_in_pass(&self, number: usize) -> Result<Vec<ProcLock>, FileError> {
        let path = self.path("proc/locks");
        let mut bytes = vec![0; 1 + number * STRIDE % PAGE];
        let read = |bytes: &mut Vec<u8>| {
            let mut opened = File::open(&path)?.take(MAX_FILE);
            let first = opened.read(bytes)?;
            bytes.truncate(first);
            opened.read_to_end(bytes)
        };
        read(&mut bytes).map_err(FileError::read(&path))?;
        Ok(parse_locks(&String::from_utf8_lossy(&bytes)))
    }
}

fn read_until_sure(
    mut pass: impl FnMut(usize) -> Result<Vec<ProcLock>, FileError>,
    concern: impl Fn(&ProcLock) -> bool,
    effort: Effort,
) -> Result<Reading, FileError> {
    let began = Instant::now();
    let mut last = pass(0)?;
    let (mut least, others) = split(last.clone(), &concern);
    let mut reading = Reading { others, ..Reading::default() };
    let mut most = least.clone();
    let mut seen = vec![digest(&least)];
    for number in 1..effort.passes {
        if number >= ENOUGH && began.elapsed() >= effort.patience {
            break;
        }
        let all = pass(number)?;
        // Nothing at all came or went.
        let quiet = all == last;
        last.clone_from(&all);
        let (now, others) = split(all, &concern);
        reading.others = others;
        let known = digest(&now);
        if quiet || seen.iter().filter(|earlier| **earlier == known).count() + 1 >= ENOUGH {
            reading.sure = now;
            return Ok(reading);
        }
        seen.push(known);
        (least, _) = common_and_rest(least, now.clone());
        let (in_both, in_one) = common_and_rest(most, now);
        most = in_both;
        most.extend(in_one);
        most.sort_unstable();
    }
    (reading.sure, reading.unsure) = common_and_rest(least, most);
    Ok(reading)
}

/// The locks of concern, sorted, and the others.
fn split(all: Vec<ProcLock>, concern: impl Fn(&ProcLock) -> bool) -> (Vec<ProcLock>, Vec<ProcLock>) {
    let (mut ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|lock| concern(lock));
    ours.sort_unstable();
    (ours, others)
}

fn digest(locks: &[ProcLock]) -> u64 {
    let mut hasher = DefaultHasher::new();
    locks.hash(&mut hasher);
    hasher.finish()
}

/// What two sorted lists have in common, each item as often as both have it; and the rest of both.
pub(crate) fn common_and_rest<T: Ord>(one: Vec<T>, other: Vec<T>) -> (Vec<T>, Vec<T>) {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    let (mut in_both, mut in_one) = (Vec::new(), Vec::new());
    while let (Some(left), Some(right)) = (one.peek(), other.peek()) {
        match left.cmp(right) {
            Ordering::Less => in_one.extend(one.next()),
            Ordering::Greater => in_one.extend(other.next()),
            Ordering::Equal => {
                in_both.extend(one.next());
                other.next();
            }
        }
    }
    in_one.extend(one.chain(other));
    (in_both, in_one)
}

/// The byte-range locks of a list. flock(2) locks and leases are no byte-range locks and meet none. A
/// line that is odd is left out: Linux 6.1 shows a range below 0 for one request of a client's that
/// wraps, and the other locks count all the same.
pub fn parse_locks(text: &str) -> Vec<ProcLock> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<ProcLock> {
    let mut fields = line.split_ascii_whitespace().skip(1).peekable();
    let waits = fields.next_if_eq(&"->").is_some();
    let fields: Vec<&str> = fields.collect();
    let [kind @ ("POSIX" | "OFDLCK"), _, mode, pid, file, start, end] = fields.as_slice() else { return None };
    let end = if *end == "EOF" { u64::MAX } else { end.parse().ok()? };
    let lock = Lock { file: (*file).to_owned(), exclusive: *mode == "WRITE", start: start.parse().ok()?, end };
    Some(ProcLock { lock, pid: pid.parse().ok()?, is_ofd: *kind == "OFDLCK", waits })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_PASSES: usize = USUAL.passes;

    #[test]
    fn byte_range_locks_are_listed_with_who_has_them_and_who_waits() {
        let text = "\
1: POSIX  ADVISORY  WRITE 187 00:1a:2 100 109
1: -> POSIX  ADVISORY  WRITE 401 00:1a:2 100 109
2: FLOCK  ADVISORY  WRITE 178 00:18:3 0 EOF
3: OFDLCK ADVISORY  READ  -1 00:1a:5 0 EOF
4: LEASE  ACTIVE    READ 9 08:01:77 0 EOF
5: POSIX  ADVISORY  WRITE 187 00:1a:6 -16 -1
6: POSIX
";
        let at = |file: &str, exclusive, start, end| Lock { file: file.into(), exclusive, start, end };
        let first = ProcLock { lock: at("00:1a:2", true, 100, 109), pid: 187, is_ofd: false, waits: false };
        let waiting = ProcLock { pid: 401, waits: true, ..first.clone() };
        let ofd = ProcLock { lock: at("00:1a:5", false, 0, u64::MAX), pid: -1, is_ofd: true, waits: false };
        assert_eq!(parse_locks(text), [first, waiting, ofd]);
    }

    fn held(pid: i32, start: u64) -> ProcLock {
        let lock = Lock { file: "00:1a:2".into(), exclusive: true, start, end: start };
        ProcLock { lock, pid, is_ofd: false, waits: false }
    }

    /// Passes as they come, the last one again and again, over locks of process 187; and their number.
    fn reading(passes: &[Vec<ProcLock>]) -> (Reading, usize) {
        let mut made = 0;
        let pass = |number: usize| {
            made = number + 1;
            Ok(passes.get(number).or(passes.last()).unwrap().clone())
        };
        let found = read_until_sure(pass, |lock| lock.pid == 187, USUAL).unwrap();
        (found, made)
    }

    #[test]
    fn where_nothing_comes_or_goes_two_passes_are_enough() {
        let (found, made) = reading(&[vec![held(187, 4), held(9, 1), held(187, 2)]]);
        assert_eq!((found.sure, found.unsure, made), (vec![held(187, 2), held(187, 4)], vec![], 2));
        assert_eq!(found.others, [held(9, 1)]);
    }

    #[test]
    fn passes_that_missed_a_lock_or_told_it_twice_do_not_count_among_local_locks_that_come_and_go() {
        let churn = |local: u64, ours: &[u64]| {
            ours.iter().map(|start| held(187, *start)).chain([held(9, local)]).collect::<Vec<_>>()
        };
        let passes =
            [churn(1, &[2, 3]), churn(2, &[2]), churn(3, &[2, 3, 3]), churn(4, &[2, 3]), churn(5, &[2, 3]), vec![]];
        let (found, made) = reading(&passes);
        assert_eq!((found.sure, found.unsure, made), (vec![held(187, 2), held(187, 3)], vec![], 5));
    }

    #[test]
    fn two_equal_passes_that_missed_the_same_lock_are_no_proof_while_others_come_and_go() {
        let churn = |local: u64, ours: &[u64]| {
            ours.iter().map(|start| held(187, *start)).chain([held(9, local)]).collect::<Vec<_>>()
        };
        let passes = [churn(1, &[2]), churn(2, &[2]), churn(3, &[2, 3]), churn(4, &[2, 3]), churn(5, &[2, 3]), vec![]];
        assert_eq!(reading(&passes).0.sure, [held(187, 2), held(187, 3)]);
    }

    #[test]
    fn where_passes_never_agree_what_all_have_is_sure_and_the_rest_is_not() {
        let passes: Vec<_> = (0..MAX_PASSES as u64).map(|n| vec![held(187, 2), held(187, 100 + n)]).collect();
        let (found, made) = reading(&passes);
        assert_eq!((found.sure, found.unsure.len(), made), (vec![held(187, 2)], MAX_PASSES, MAX_PASSES));
        let doubled: Vec<_> = (0..MAX_PASSES).map(|n| vec![held(187, 2); 1 + n]).collect();
        let (found, _) = reading(&doubled);
        assert_eq!((found.sure.len(), found.unsure.len()), (1, MAX_PASSES - 1));
    }

    /// Takes and leaves local locks until it is dropped.
    struct Churn(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

    impl Churn {
        fn begin() -> Self {
            use nix::fcntl::{FcntlArg, fcntl};
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let seen = std::sync::Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                let file = tempfile::tempfile().unwrap();
                while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                    for start in 0..300 {
                        fcntl(&file, FcntlArg::F_OFD_SETLK(&range(nix::libc::F_WRLCK, start * 2, 1))).unwrap();
                    }
                    fcntl(&file, FcntlArg::F_OFD_SETLK(&range(nix::libc::F_UNLCK, 0, 0))).unwrap();
                }
            });
            Self(stop, Some(thread))
        }
    }

    impl Drop for Churn {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            let _ = self.1.take().map(std::thread::JoinHandle::join);
        }
    }

    fn range(kind: i32, start: i64, length: i64) -> nix::libc::flock {
        let whence = i16::try_from(nix::libc::SEEK_SET).unwrap();
        let kind = i16::try_from(kind).unwrap();
        nix::libc::flock { l_type: kind, l_whence: whence, l_start: start, l_len: length, l_pid: 0 }
    }

    #[test]
    fn locks_that_never_change_are_all_found_in_every_reading_while_local_ones_come_and_go() {
        use std::os::unix::fs::MetadataExt;

        use nix::fcntl::{FcntlArg, fcntl};
        let file = tempfile::tempfile().unwrap();
        for start in 0..3_000 {
            fcntl(&file, FcntlArg::F_SETLK(&range(nix::libc::F_WRLCK, start * 2, 1))).unwrap();
        }
        let ending = format!(":{}", file.metadata().unwrap().ino());
        let own = i32::try_from(std::process::id()).unwrap();
        let _churn = Churn::begin();
        let machine = Machine::default();
        // As long as this machine needs: what is to be shown is that the passes come to agree.
        let effort = Effort { passes: usize::MAX, patience: Duration::from_mins(10) };
        let own_locks = |lock: &ProcLock| lock.pid == own && lock.lock.file.ends_with(&ending);
        for number in 0..50 {
            let found = read_until_sure(|pass| machine.locks_in_pass(pass), own_locks, effort).unwrap();
            let mut starts: Vec<_> = found.sure.iter().map(|lock| lock.lock.start).collect();
            starts.dedup();
            assert_eq!((starts.len(), found.sure.len(), found.unsure.len()), (3_000, 3_000, 0), "reading {number}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_locks(&text);
        }
    }
}
