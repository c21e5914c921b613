//! Words and numbers of the tables.

use std::ops::RangeInclusive;
use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::Type;

use crate::wire::control::{Counts, Delivery};
use crate::wire::xdr;

/// SQLite's integers are signed: a count beyond 2^63 is kept as 2^63 - 1.
pub(super) fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The rows of a run's locks have one key each, `run's number << 33 | place in the result`: so the next one comes behind the
/// last, and SQLite appends. The migrations have this number too.
const PLACE_BITS: u32 = 33;

/// The keys of a run's locks from a place on.
pub(super) fn places(run: i64, first: u64) -> RangeInclusive<i64> {
    let last = (1 << PLACE_BITS) - 1;
    let start = run << PLACE_BITS;
    start | integer(first).min(last)..=start | last
}

pub(super) fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}

pub(super) fn maybe_count(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(i64::unsigned_abs))
}

pub(super) fn counts(row: &Row<'_>) -> rusqlite::Result<Counts> {
    Ok(Counts {
        in_scope: count(row, "in_scope")?,
        pending: count(row, "pending")?,
        reclaimed: count(row, "reclaimed")?,
        released: count(row, "released")?,
        dropped: count(row, "dropped")?,
        kept: count(row, "kept")?,
        unverified: count(row, "unverified")?,
        resurrected: count(row, "resurrected")?,
        conflicts: count(row, "conflicts")?,
    })
}

pub(super) fn not_understood<E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: &str,
    error: E,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or(0);
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}

/// A word of one of the report's enums.
pub(super) fn word<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|e| not_understood(row, column, e))
}

pub(super) fn maybe_word<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|e| not_understood(row, column, e)),
    }
}

/// A value of the control protocol.
pub(super) fn blob<T: xdr::Unpack>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    xdr::decode(row.get_ref(column)?.as_blob()?).map_err(|e| not_understood(row, column, e))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|e| not_understood(row, column, e))
}

pub(super) const DELIVERIES: [(Delivery, &str); 8] = [
    (Delivery::NotTold, "not-told"),
    (Delivery::Acked, "acked"),
    (Delivery::Partial, "partial"),
    (Delivery::NoAnswer, "no-answer"),
    (Delivery::NoStatd, "no-statd"),
    (Delivery::NameUnknown, "name-unknown"),
    (Delivery::Refused, "refused"),
    (Delivery::Elsewhere, "elsewhere"),
];

pub(super) fn delivery_word(delivery: Delivery) -> &'static str {
    DELIVERIES.iter().find(|(d, _)| *d == delivery).map_or("not-told", |(_, word)| *word)
}

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let text = row.get_ref("delivery")?.as_str()?;
    DELIVERIES
        .iter()
        .find(|(_, word)| *word == text)
        .map(|(d, _)| *d)
        .ok_or_else(|| not_understood(row, "delivery", std::io::Error::other(format!("unknown word {text:?}"))))
}
