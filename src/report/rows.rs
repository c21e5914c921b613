//! Rows of a report that may be too many to hold.

use std::io;

use serde::ser::{Error, SerializeSeq, Serializer};

/// Rows that are made as they are shown: a list of a million locks, or what the record has of a run. A renderer walks them
/// as often as it needs, and meets the same rows each time.
pub trait Rows {
    type Row;
    /// Hands out each row, from the first to the last, until one is not taken.
    ///
    /// # Errors
    /// The error of `take`; or, if a row cannot be read, an error with the reason.
    fn each(&self, take: &mut dyn FnMut(Self::Row) -> io::Result<()>) -> io::Result<()>;
}

impl<T: Clone> Rows for Vec<T> {
    type Row = T;
    fn each(&self, take: &mut dyn FnMut(T) -> io::Result<()>) -> io::Result<()> {
        self.iter().cloned().try_for_each(take)
    }
}

/// As an array, a row at a time.
pub(super) fn serialize<S: Serializer, R: Rows<Row: serde::Serialize>>(rows: &R, to: S) -> Result<S::Ok, S::Error> {
    let mut array = to.serialize_seq(None)?;
    let mut failed = None;
    let walked = rows.each(&mut |row| {
        array.serialize_element(&row).map_err(|error| {
            failed = Some(error);
            io::Error::other("not written")
        })
    });
    match (failed, walked) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(S::Error::custom(error)),
        (None, Ok(())) => array.end(),
    }
}
