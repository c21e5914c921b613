//! The seal (how many commits the database must have) and the NSM state number, each in a small file beside it.
//!
//! # Theory
//! SQLite takes a WAL that is missing, cut or damaged for one that ends where the damage begins, and says nothing.
//! The clients recorded behind that point would not be told of the restart, and would lose their locks to others. So
//! the number of commits is kept twice: in the database, as part of each commit, and in `nlmd.seal`. A database that
//! is behind its seal is refused.
//!
//! What must hold: the seal is never ahead of what the disk has of the database, or a power cut would make a sound
//! database look damaged.
//! - It is written after the commit, which is an `fsync` of the WAL, and before any of it is answered.
//! - At a start it is written after a checkpoint: of what the last life left in the WAL, some may not have been synced.
//! - It may be behind. It is written in place, within one sector and without a sync, since a second sync would double
//!   the wait of a client's first LOCK. When a process is killed, the file is as it was written; after a power cut it
//!   may be as it was some seconds before, and the last of these commits are then not sealed.
//!
//! A seal that is missing or damaged proves nothing of the database, and refuses no start: it is warned of, and there
//! is grace even if no client is known. So to remove it is also how an operator says that nlmd is to go on with what is left.
//!
//! The NSM state number is in `nlmd.state` before the database has it, and before a client hears it. The later of
//! the two counts: a number that a client knows already is one that it ignores.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::host::{open_plain, replace};
use crate::wire::types::NsmState;

/// Longest file that is looked at, in bytes.
const MAX_LEN: u64 = 64;
const MODE: u32 = 0o600;

/// What a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<T> {
    Nothing,
    /// It cannot be read, or not understood.
    Damaged,
    Number(T),
}

impl<T> Said<T> {
    pub(super) fn number(self) -> Option<T> {
        match self {
            Self::Number(number) => Some(number),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// The number is there twice: what damages one leaves the other.
fn text(number: impl std::fmt::Display) -> String {
    format!("{number:020} {number:020}\n")
}

fn read<T: FromStr + PartialEq>(path: &Path) -> Said<T> {
    let mut text = String::new();
    match open_plain(path).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Said::Nothing,
        Err(_) => return Said::Damaged,
        Ok(_) => {}
    }
    let numbers = text.strip_suffix('\n').and_then(|line| line.split_once(' '));
    match numbers.and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?))) {
        Some((one, other)) if one == other => Said::Number(one),
        Some(_) | None => Said::Damaged,
    }
}

/// How many commits the database must have.
#[derive(Debug)]
pub(super) struct Seal(File);

impl Seal {
    pub(super) fn path(database: &Path) -> PathBuf {
        database.with_file_name("nlmd.seal")
    }

    pub(super) fn said(database: &Path) -> Said<i64> {
        read(&Self::path(database))
    }

    /// Makes it anew, durably.
    pub(super) fn make(database: &Path, commits: i64) -> io::Result<Self> {
        let path = Self::path(database);
        replace(&path, text(commits).as_bytes(), MODE)?;
        Ok(Self(OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?))
    }

    /// The database has come so far, durably.
    pub(super) fn advance(&self, commits: i64) {
        // What was promised is on disk all the same. The seal stays behind, and is as good as it was.
        if let Err(error) = self.0.write_all_at(text(commits).as_bytes(), 0) {
            tracing::warn!(%error, "nlmd.seal was not written: loss of the last changes would not be noticed");
        }
    }
}

/// The NSM state number.
#[derive(Debug)]
pub(super) struct Number {
    path: PathBuf,
    pub(super) said: Said<NsmState>,
}

impl Number {
    pub(super) fn open(database: &Path) -> Self {
        let path = database.with_file_name("nlmd.state");
        let said = match read(&path) {
            Said::Number(number) => Said::Number(NsmState(number)),
            Said::Nothing => Said::Nothing,
            Said::Damaged => Said::Damaged,
        };
        Self { path, said }
    }

    /// Makes it durable.
    pub(super) fn write(&mut self, state: NsmState) -> io::Result<()> {
        if self.said != Said::Number(state) {
            replace(&self.path, text(state.0).as_bytes(), MODE)?;
            self.said = Said::Number(state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_or_a_missing_end_makes_it_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("nlmd.sqlite");
        assert_eq!(Seal::said(&database), Said::Nothing);
        for number in [0, 1, 1_764_000_000_123, i64::MAX] {
            Seal::make(&database, 0).unwrap().advance(number);
            assert_eq!(Seal::said(&database), Said::Number(number));
            let whole = std::fs::read(Seal::path(&database)).unwrap();
            for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(Seal::path(&database), &bytes).unwrap();
                assert_eq!(Seal::said(&database), Said::Damaged, "{at} {bit}");
                std::fs::write(Seal::path(&database), &bytes[..at]).unwrap();
                assert_eq!(Seal::said(&database), Said::Damaged, "cut at {at}");
            }
        }
    }

    #[test]
    fn a_number_of_any_sign_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("nlmd.sqlite");
        for number in [1, -7, i32::MAX, i32::MIN + 1] {
            Number::open(&database).write(NsmState(number)).unwrap();
            assert_eq!(Number::open(&database).said, Said::Number(NsmState(number)));
        }
    }

    #[test]
    fn a_full_disk_keeps_no_change_from_being_promised() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        Seal(full).advance(7);
    }
}
