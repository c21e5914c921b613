//! The byte-range locks in `/proc/locks` and in a descriptor's fdinfo (proc(5)).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::files::{FileError, Machine};
use crate::wire::types::ByteRange;

/// A lock on a file of this machine. Whose it is it does not say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The file: device and inode, `00:1b:1234` say, the device in hexadecimal.
    pub file: String,
    /// Whether it is a write lock.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` is the end of the file.
    pub end: u64,
}

impl Lock {
    /// Its bytes.
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

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedLock {
    /// What is locked.
    pub lock: Lock,
    /// The process, as the kernel shows it: lockd's for every client of its, -1 for an open file
    /// description's.
    pub pid: i32,
    /// Whether an open file description has it, and no process.
    pub is_ofd: bool,
    /// Whether it is not held but waited for.
    pub waits: bool,
}

impl Machine {
    /// What is locked, and waited for.
    pub fn locks(&self) -> Result<Vec<ListedLock>, FileError> {
        Ok(parse_locks(&self.read("proc/locks")?))
    }
}

/// The byte-range locks of a list. flock(2) locks and leases are no byte-range locks and meet none. A
/// line that is odd is left out: Linux 6.1 shows a range below 0 for one request of a client's that
/// wraps, and the other locks count all the same.
pub fn parse_locks(text: &str) -> Vec<ListedLock> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<ListedLock> {
    let mut fields = line.split_ascii_whitespace().skip(1).peekable();
    let waits = fields.next_if_eq(&"->").is_some();
    let fields: Vec<&str> = fields.collect();
    let [kind @ ("POSIX" | "OFDLCK"), _, mode, pid, file, start, end] = fields.as_slice() else { return None };
    let end = if *end == "EOF" { u64::MAX } else { end.parse().ok()? };
    let lock = Lock { file: (*file).to_owned(), exclusive: *mode == "WRITE", start: start.parse().ok()?, end };
    Some(ListedLock { lock, pid: pid.parse().ok()?, is_ofd: *kind == "OFDLCK", waits })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let first = ListedLock { lock: at("00:1a:2", true, 100, 109), pid: 187, is_ofd: false, waits: false };
        let waiting = ListedLock { pid: 401, waits: true, ..first.clone() };
        let ofd = ListedLock { lock: at("00:1a:5", false, 0, u64::MAX), pid: -1, is_ofd: true, waits: false };
        assert_eq!(parse_locks(text), [first, waiting, ofd]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_locks(&text);
        }
    }
}
