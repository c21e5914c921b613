//! The results of ended runs.
//!
//! # Theory
//! A run may end with a million rows, and afterwards each late reclaim changes its result a little. So the sums
//! (`result`), the rows (`page`, which holds as many of them as a controller gets at once), the late reclaims
//! (`late`) and the fact that no controller has fetched it (`unfetched`) are tables of their own: what changes
//! one of them neither reads nor writes the others, and a page that is asked for is the only one read.
//!
//! A result is written in several transactions, so that nobody waits long behind it, and so that nlmd never has all its
//! locks twice: most of its locks come [first](put_locks), while the run is scanned, then [the rest](write), page by page. Until the
//! last one is there it is marked as not whole, and nobody reads what is not whole. It is
//! [swept](sweep) away in pages too: a result that newer ones push out, or the part of one that the disk did not take to the
//! end. What a crash leaves is [removed](remove_parts) at the next start; as the record of the active run goes only when its
//! result is whole, that start finds the run as one that was active. A run that settles anew is active on disk [again](take_back)
//! first.
//!
//! An older version kept a whole result in one row; [`split`] brings it into pages at the start.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::monitors::Odd;
use super::old_results::ResultBefore;
use super::records::{PersistError, RESULTS_KEPT};
use crate::locks::SlicedResult;
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

/// What of a result is written next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Stage {
    #[default]
    Sums,
    /// A result of the same run is in the way that was cut off, or that this one replaces.
    Parts,
    /// From this one on.
    Clients(usize),
    Locks(usize),
}

/// Writes from there on about as many rows as a page holds. Gives where to go on; `None`: it is whole, and replaces the
/// record of the active run.
pub(super) fn write(to: &Transaction<'_>, ended: &SlicedResult, from: Stage) -> Result<Option<Stage>, PersistError> {
    let (run, mut stage, mut written) = (ended.result.run, from, 0);
    while written < PAGE {
        stage = match stage {
            Stage::Sums => {
                put_sums(to, &ended.result, false)?;
                Stage::Parts
            }
            Stage::Parts if sweep_own_page(to, run, ended.first_lock())? => return Ok(Some(Stage::Parts)),
            Stage::Parts => Stage::Clients(0),
            Stage::Clients(first) => match put_page(to, run, first, &List::clipped(ended.clients(first)))? {
                0 => Stage::Locks(ended.first_lock()),
                count => {
                    written += count;
                    Stage::Clients(first + count)
                }
            },
            Stage::Locks(first) => match put_page(to, run, first, &clipped(ended.locks(first)))? {
                0 => {
                    end(to, run, ended.first_lock())?;
                    return Ok(None);
                }
                count => {
                    written += count;
                    Stage::Locks(first + count)
                }
            },
        };
    }
    Ok(Some(stage))
}

/// All of it is there. What a result lists is dropped, so one of which a part is missing must not come to be.
fn end(to: &Transaction<'_>, run: RunId, first_lock: usize) -> Result<(), PersistError> {
    let pages: i64 = to
        .prepare_cached("SELECT count(*) FROM page WHERE run = ?1 AND kind = ?2 AND first < ?3")?
        .query_row(params![run.0, LockFate::KIND, number(first_lock as u64)], |row| row.get(0))?;
    if pages != number((first_lock / PAGE) as u64) {
        return Err(PersistError::Write("locks that were written before are missing".into()));
    }
    to.execute("DELETE FROM active_run WHERE id = ?1", params![run.0])?;
    to.execute("UPDATE result SET whole = 1 WHERE id = ?1", params![run.0])?;
    to.execute("INSERT OR IGNORE INTO unfetched (run) VALUES (?1)", params![run.0])?;
    to.execute(
        "UPDATE result SET whole = 0 WHERE seq NOT IN (SELECT seq FROM result WHERE whole ORDER BY seq DESC LIMIT ?1)",
        params![number(RESULTS_KEPT as u64)],
    )?;
    Ok(())
}

/// It is none any more: its run goes on. What is left of it goes like other parts.
pub(super) fn take_back(to: &Transaction<'_>, run: RunId) -> rusqlite::Result<()> {
    to.execute("UPDATE result SET whole = 0 WHERE id = ?1", params![run.0]).map(|_| ())
}

fn put_sums(to: &Transaction<'_>, result: &RunResult, whole: bool) -> rusqlite::Result<()> {
    to.execute(
        "INSERT INTO result (id, body, whole) VALUES (?1, ?2, ?3) \
         ON CONFLICT (id) DO UPDATE SET body = excluded.body, whole = excluded.whole",
        params![result.run.0, encode(result), whole],
    )?;
    Ok(())
}

/// Locks of a result that is not whole before the rest of it comes.
pub(super) fn put_locks(
    to: &Transaction<'_>,
    run: RunId,
    first: usize,
    pages: &[List<LockFate, PAGE>],
) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR IGNORE INTO result (id, body, whole) VALUES (?1, x'', 0)")?.execute(params![run.0])?;
    for (nth, locks) in pages.iter().enumerate() {
        put_page(to, run, first + nth * PAGE, locks)?;
    }
    Ok(())
}

/// Gives how many rows that were.
fn put_page<T: Row>(to: &Transaction<'_>, run: RunId, first: usize, rows: &List<T, PAGE>) -> rusqlite::Result<usize> {
    let count = rows.as_slice().len();
    if count > 0 {
        to.prepare_cached("INSERT OR REPLACE INTO page (run, kind, first, rows) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![run.0, T::KIND, number(first as u64), encode(rows)])?;
    }
    Ok(count)
}

fn put_rows<T: Row>(to: &Transaction<'_>, run: RunId, rows: &[T]) -> rusqlite::Result<()> {
    for (nth, rows) in rows.chunks(PAGE).enumerate() {
        put_page(to, run, nth * PAGE, &clipped(rows))?;
    }
    Ok(())
}

fn clipped<T: Row>(rows: &[T]) -> List<T, PAGE> {
    List::clipped(rows.to_vec())
}

/// Results, or parts of one, that are to go: all that are not whole but this one.
const PARTS: &str = "SELECT id FROM result WHERE NOT whole AND id IS NOT ?1";

/// Whether there is something that is no whole result, but for the one of which the locks are being written.
pub(super) fn has_parts(from: &Connection, but: Option<RunId>) -> rusqlite::Result<bool> {
    from.prepare_cached(PARTS)?.exists([but.map(|run| run.0)])
}

/// Removes some of that; whether there may be more.
pub(super) fn sweep(to: &Transaction<'_>, but: Option<RunId>) -> rusqlite::Result<bool> {
    let (which, but) = (format!("run IN ({PARTS})"), [but.map(|run| run.0)]);
    let more = remove_some(to, "page", &which, 1, but)? || remove_some(to, "late", &which, PAGE, but)?;
    if !more {
        to.execute(&format!("DELETE FROM result WHERE id IN ({PARTS})"), but)?;
    }
    Ok(more)
}

/// Removes a page of what stands where the run's result comes, or as many late reclaims; whether there was one. The
/// locks before `first_lock` are written, in full pages.
fn sweep_own_page(to: &Transaction<'_>, run: RunId, first_lock: usize) -> rusqlite::Result<bool> {
    let locks = params![run.0, LockFate::KIND, number(first_lock as u64), number(PAGE as u64)];
    Ok(remove_some(to, "page", "run = ?1 AND (kind <> ?2 OR first >= ?3 OR first % ?4 <> 0)", 1, locks)?
        || remove_some(to, "late", "run = ?1", PAGE, [run.0])?)
}

/// Whether there was one.
fn remove_some(
    from: &Transaction<'_>,
    table: &str,
    which: &str,
    at_once: usize,
    params: impl rusqlite::Params,
) -> rusqlite::Result<bool> {
    let some = format!("SELECT rowid FROM {table} WHERE {which} LIMIT {at_once}");
    let sql = format!("DELETE FROM {table} WHERE rowid IN ({some})");
    Ok(from.prepare_cached(&sql)?.execute(params)? > 0)
}

/// Removes all that is no whole result.
pub(super) fn remove_parts(to: &Connection) -> rusqlite::Result<()> {
    to.execute("DELETE FROM result WHERE NOT whole", []).map(|_| ())
}

/// One that was reclaimed after the end. Of a result that newer ones have pushed out nothing is left to append to.
pub(super) fn add_late(to: &Transaction<'_>, run: RunId, fate: &LockFate) -> rusqlite::Result<()> {
    if is_there(to, run)? {
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
    from.prepare("SELECT id FROM result WHERE whole ORDER BY seq")?
        .query_map([], |row| row.get(0).map(RunId))?
        .collect()
}

/// Those of them that no controller has fetched.
pub(super) fn unfetched(from: &Connection) -> rusqlite::Result<Vec<RunId>> {
    let query = "SELECT id FROM result JOIN unfetched ON run = id WHERE whole ORDER BY seq";
    from.prepare_cached(query)?.query_map([], |row| row.get(0).map(RunId))?.collect()
}

/// The sums of a run, with the late reclaims of by now.
pub(super) fn sums(from: &Connection, run: RunId) -> Result<Option<RunResult>, Odd> {
    let body: Option<Vec<u8>> = from
        .prepare_cached("SELECT body FROM result WHERE id = ?1 AND whole")?
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
    if !is_there(from, run)? {
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

fn is_there(from: &Connection, run: RunId) -> rusqlite::Result<bool> {
    from.prepare_cached("SELECT 1 FROM result WHERE id = ?1 AND whole")?.exists(params![run.0])
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
        put_sums(&transaction, &full.result, true)?;
        transaction.execute("DELETE FROM page WHERE run = ?1", params![run.0])?;
        put_rows(&transaction, run, full.clients.as_slice())?;
        put_rows(&transaction, run, full.locks.as_slice())?;
        transaction.commit()?;
    }
    Ok(())
}
