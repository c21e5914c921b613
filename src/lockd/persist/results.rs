//! The results of ended runs.
//!
//! # Theory
//! A run may end with a million rows, and afterwards each late reclaim changes its result a little. So the sums
//! (`result`), the rows (`page`, which holds as many of them as a controller gets at once), the late reclaims
//! (`late`) and the fact that no controller has fetched it (`unfetched`) are tables of their own: what changes
//! one of them neither reads nor writes the others, and a page that is asked for is the only one read.
//!
//! An older version kept a whole result in one row; [`split`] brings it into pages at the start.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::monitors::Odd;
use super::old_results::ResultBefore;
use super::records::RESULTS_KEPT;
use crate::wire::control::{ClientResult, Fate, FullResult, LockFate, PAGE, RunId, RunResult};
use crate::wire::xdr::{List, Pack, Unpack, decode, encode};

/// A page of a result's rows, with the cursor of the next page, or 0.
pub type Page<T> = (List<T, PAGE>, u64);

/// Rows of a result that stand in pages.
pub(super) trait Row: Pack + Unpack + Clone {
    const KIND: u32;

    /// Those that came after the run's end, `skip` of them left out; one more than a page holds tells of the next.
    fn late(_: &Connection, _run: RunId, _skip: u64) -> Result<Vec<Self>, Odd> {
        Ok(Vec::new())
    }
}

impl Row for ClientResult {
    const KIND: u32 = 0;
}

impl Row for LockFate {
    const KIND: u32 = 1;

    fn late(from: &Connection, run: RunId, skip: u64) -> Result<Vec<Self>, Odd> {
        let mut query = from.prepare_cached("SELECT fate FROM late WHERE run = ?1 ORDER BY seq LIMIT ?2 OFFSET ?3")?;
        let mut rows = query.query(params![run.0, number(PAGE as u64 + 1), number(skip)])?;
        let mut fates = Vec::new();
        while let Some(row) = rows.next()? {
            fates.push(read(&row.get::<_, Vec<u8>>(0)?, "a late reclaim")?);
        }
        Ok(fates)
    }
}

/// As SQLite has numbers. A controller may ask for any; no table comes so far.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Replaces the record of the active run.
pub(super) fn end(to: &Transaction<'_>, full: &FullResult) -> rusqlite::Result<()> {
    let id = full.result.run.0;
    to.execute("DELETE FROM active_run WHERE id = ?1", params![id])?;
    put(to, full)?;
    to.execute("INSERT OR IGNORE INTO unfetched (run) VALUES (?1)", params![id])?;
    to.execute(
        "DELETE FROM result WHERE seq NOT IN (SELECT seq FROM result ORDER BY seq DESC LIMIT ?1)",
        params![number(RESULTS_KEPT as u64)],
    )?;
    Ok(())
}

fn put(to: &Transaction<'_>, full: &FullResult) -> rusqlite::Result<()> {
    let id = full.result.run.0;
    to.execute(
        "INSERT INTO result (id, body) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        params![id, encode(&full.result)],
    )?;
    to.execute("DELETE FROM page WHERE run = ?1", params![id])?;
    put_rows(to, full.result.run, full.clients.as_slice())?;
    put_rows(to, full.result.run, full.locks.as_slice())
}

fn put_rows<T: Row>(to: &Transaction<'_>, run: RunId, rows: &[T]) -> rusqlite::Result<()> {
    let mut insert = to.prepare_cached("INSERT INTO page (run, kind, first, rows) VALUES (?1, ?2, ?3, ?4)")?;
    for (nth, rows) in rows.chunks(PAGE).enumerate() {
        let first = number((nth * PAGE) as u64);
        insert.execute(params![run.0, T::KIND, first, encode(&List::<T, PAGE>::clipped(rows.to_vec()))])?;
    }
    Ok(())
}

/// One that was reclaimed after the end. Of a result that newer ones have pushed out nothing is left to append to.
pub(super) fn add_late(to: &Transaction<'_>, run: RunId, fate: &LockFate) -> rusqlite::Result<()> {
    let is_there = "SELECT 1 FROM result WHERE id = ?1";
    if to.prepare_cached(is_there)?.exists(params![run.0])? {
        to.prepare_cached("INSERT INTO late (run, fate) VALUES (?1, ?2)")?.execute(params![run.0, encode(fate)])?;
        to.prepare_cached("INSERT OR IGNORE INTO unfetched (run) VALUES (?1)")?.execute(params![run.0])?;
    }
    Ok(())
}

pub(super) fn acknowledge(to: &Transaction<'_>, run: RunId) -> rusqlite::Result<()> {
    to.execute("DELETE FROM unfetched WHERE run = ?1", params![run.0]).map(|_| ())
}

/// Runs with a result, the oldest first.
pub(super) fn ended(from: &Connection) -> rusqlite::Result<Vec<RunId>> {
    from.prepare("SELECT id FROM result ORDER BY seq")?.query_map([], |row| row.get(0).map(RunId))?.collect()
}

/// Those of them that no controller has fetched.
pub(super) fn unfetched(from: &Connection) -> rusqlite::Result<Vec<RunId>> {
    let query = "SELECT id FROM result JOIN unfetched ON run = id ORDER BY seq";
    from.prepare_cached(query)?.query_map([], |row| row.get(0).map(RunId))?.collect()
}

/// The sums of a run, with the late reclaims of by now.
pub(super) fn sums(from: &Connection, run: RunId) -> Result<Option<RunResult>, Odd> {
    let body: Option<Vec<u8>> = from
        .prepare_cached("SELECT body FROM result WHERE id = ?1")?
        .query_row(params![run.0], |row| row.get(0))
        .optional()?;
    let Some(body) = body else { return Ok(None) };
    let mut result: RunResult = read(&body, "a run's result")?;
    let mut query = from.prepare_cached("SELECT fate FROM late WHERE run = ?1")?;
    let mut rows = query.query(params![run.0])?;
    while let Some(row) = rows.next()? {
        let fate: LockFate = read(&row.get::<_, Vec<u8>>(0)?, "a late reclaim")?;
        // One that was refused has a row too, and counts for nothing.
        result.late += u64::from(fate.fate == Fate::Resurrected);
    }
    Ok(Some(result))
}

/// A page of rows from row `after` on, and the cursor of the next page, or 0. Nothing where there is no such result.
pub(super) fn rows<T: Row>(from: &Connection, run: RunId, after: u64) -> Result<Option<Page<T>>, Odd> {
    if !from.prepare_cached("SELECT 1 FROM result WHERE id = ?1")?.exists(params![run.0])? {
        return Ok(None);
    }
    // The page in which the row stands, or the last one.
    let page: Option<(i64, Vec<u8>)> = from
        .prepare_cached(
            "SELECT first, rows FROM page WHERE run = ?1 AND kind = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1",
        )?
        .query_row(params![run.0, T::KIND, number(after)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (first, rows) = page.unwrap_or_default();
    let page = if rows.is_empty() { List::default() } else { read::<List<T, PAGE>>(&rows, "a run's result")? };
    let end = first.cast_unsigned() + page.as_slice().len() as u64;
    let (mut rows, more) = if after < end {
        let skip = usize::try_from(after - first.cast_unsigned()).unwrap_or(usize::MAX);
        let rows: Vec<T> = page.into_vec().into_iter().skip(skip).collect();
        let next = "SELECT 1 FROM page WHERE run = ?1 AND kind = ?2 AND first >= ?3";
        let is_page = from.prepare_cached(next)?.exists(params![run.0, T::KIND, number(end)])?;
        (rows, is_page || !T::late(from, run, 0)?.is_empty())
    } else {
        let rows = T::late(from, run, after - end)?;
        let more = rows.len() > PAGE;
        (rows, more)
    };
    rows.truncate(PAGE);
    let next = if more { after + rows.len() as u64 } else { 0 };
    Ok(Some((List::clipped(rows), next)))
}

fn read<T: Unpack>(bytes: &[u8], what: &str) -> Result<T, Odd> {
    decode(bytes).map_err(|_| Odd::Damaged(what.into()))
}

/// Brings the results of an older version into pages. One that makes no sense keeps nothing from starting: it stays, and
/// is found damaged when it is asked for.
pub(super) fn split(connection: &mut Connection) -> rusqlite::Result<()> {
    for run in ended(connection)? {
        let body: Vec<u8> =
            connection.query_row("SELECT body FROM result WHERE id = ?1", params![run.0], |row| row.get(0))?;
        if decode::<RunResult>(&body).is_ok() {
            continue;
        }
        let Ok(full) = decode(&body).or_else(|_| decode::<ResultBefore>(&body).map(FullResult::from)) else { continue };
        let transaction = connection.transaction()?;
        put(&transaction, &full)?;
        transaction.commit()?;
    }
    Ok(())
}
