//! Reads the record.

use std::io;
use std::ops::RangeInclusive;

use rusqlite::{OptionalExtension, Params, Row, Transaction, TransactionBehavior, params};

use super::memories::names;
use super::rows::{blob, count, counts, delivery, json, maybe_count, maybe_word, places, word};
use super::{ControllerLock, DeliveryUpdate, Store, StoreError};
use crate::report::{
    ClientFate, ClientReport, Controller, EventReport, Facts, LOST_SHOWN, LockReport, LockTally, PendingReport, Phase,
    Rows, RunDetail, RunFilter, RunHead, RunListing, RunReport, Stamp, States, exit_code,
};
use crate::wire::control::{BeginArgs, InstanceId, LockFate, RunClient, RunId};
use crate::wire::types::CallerName;

const CLIENTS: &str = "SELECT * FROM client WHERE run = ?1 ORDER BY number";

/// A run as a resume needs it.
#[derive(Debug, Clone)]
pub struct StoredRun {
    pub id: RunId,
    /// What `begin` was, or would have been, asked with.
    pub begin: BeginArgs,
    /// The names that its notices carry, in order; empty where an older version began it.
    pub names: Vec<CallerName>,
    /// How far it can have got.
    pub phase: Phase,
}

/// A client of a run as a resume needs it.
#[derive(Debug, Clone)]
pub struct StoredClient {
    /// As `begin` fixed it.
    pub client: RunClient,
    /// What has become of its notices.
    pub notices: DeliveryUpdate,
}

/// The lock rows of a run. There may be a million of them, so each walk reads them anew; what others write meanwhile is
/// not seen.
#[derive(Debug)]
pub struct LockRows<'a> {
    snapshot: Transaction<'a>,
    store: &'a Store,
    keys: RangeInclusive<i64>,
}

impl LockRows<'_> {
    /// Hands out each, in order.
    pub fn look(&self, mut take: impl FnMut(LockFate)) -> Result<(), StoreError> {
        self.walk(
            |fate| {
                take(fate);
                Ok(())
            },
            |error| error,
        )
    }

    fn walk<E>(
        &self,
        mut take: impl FnMut(LockFate) -> Result<(), E>,
        failed: impl Fn(StoreError) -> E,
    ) -> Result<(), E> {
        let unreadable = |error| failed(self.store.error(error));
        let sql = "SELECT row FROM lock WHERE place BETWEEN ?1 AND ?2 ORDER BY place";
        let mut query = self.snapshot.prepare_cached(sql).map_err(unreadable)?;
        let rows = query.query_map([self.keys.start(), self.keys.end()], |row| blob(row, "row")).map_err(unreadable)?;
        for fate in rows {
            take(fate.map_err(unreadable)?)?;
        }
        Ok(())
    }
}

impl Rows for LockRows<'_> {
    type Row = LockReport;
    fn each(&self, take: &mut dyn FnMut(LockReport) -> io::Result<()>) -> io::Result<()> {
        self.walk(|fate| take(LockReport::from(&fate)), io::Error::other)
    }
}

impl Store {
    /// The oldest run of this lock manager (the one at this endpoint, or in this life) that has not
    /// ended as far as the record knows. One record may serve several lock managers, and what became
    /// of a run only its own one can tell.
    pub fn unfinished(&self, endpoint: &str, instance: InstanceId) -> Result<Option<StoredRun>, StoreError> {
        let sql = "SELECT * FROM run WHERE phase <> 'done' AND (endpoint = ?1 OR instance = ?2)
                   ORDER BY number LIMIT 1";
        self.connection
            .query_row(sql, params![endpoint, instance.to_string()], stored_run)
            .optional()
            .map_err(|e| self.error(e))
    }

    pub fn stored(&self, run: RunId) -> Result<StoredRun, StoreError> {
        self.one(run, "SELECT * FROM run WHERE id = ?1", stored_run)
    }

    /// The nlmctl that works with this record; `None` where the record does not have the run, or its lock cannot be read.
    pub fn controller_of(&self, run: RunId) -> Result<Option<Controller>, StoreError> {
        match self.number(run) {
            Ok(_) => Ok(ControllerLock::holder(&self.path).ok()),
            Err(StoreError::UnknownRun { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest run of this lock manager, with how it ended.
    pub fn newest(&self, endpoint: &str, instance: InstanceId) -> Result<Option<RunHead>, StoreError> {
        let sql = "SELECT * FROM run WHERE endpoint = ?1 OR instance = ?2 ORDER BY number DESC LIMIT 1";
        self.connection
            .query_row(sql, params![endpoint, instance.to_string()], |row| {
                Ok(RunHead { exit: row.get("exit")?, ..run_head(row)? })
            })
            .optional()
            .map_err(|e| self.error(e))
    }

    /// The run of an id, or of the first characters of one.
    pub fn find(&self, id: &str) -> Result<RunId, StoreError> {
        let unknown = || StoreError::UnknownRun { wanted: id.to_owned(), path: self.path.clone() };
        let wanted = id.to_ascii_lowercase();
        if wanted.is_empty() || !wanted.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
            return Err(unknown());
        }
        let mut query = self
            .connection
            .prepare("SELECT id FROM run WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2")
            .map_err(|e| self.error(e))?;
        let ids: Vec<RunId> =
            query.query_map([&wanted], |row| word(row, "id")).and_then(Iterator::collect).map_err(|e| self.error(e))?;
        match ids.as_slice() {
            [] => Err(unknown()),
            [run] => Ok(*run),
            [..] => Err(StoreError::AmbiguousRun { wanted: id.to_owned() }),
        }
    }

    /// The clients of a run, by number.
    pub fn clients(&self, run: RunId) -> Result<Vec<StoredClient>, StoreError> {
        self.rows(CLIENTS, [self.number(run)?], |row| {
            let notices = DeliveryUpdate {
                client: row.get("number")?,
                delivery: delivery(row)?,
                notices: row.get("notices")?,
                acks: row.get("acks")?,
                attempts: row.get("attempts")?,
                acked_ms: maybe_count(row, "acked_ms")?,
                suspect: row.get("suspect")?,
                error: row.get("error")?,
            };
            Ok(StoredClient { client: blob(row, "row")?, notices })
        })
    }

    /// As far as the run has come. Clients are all there, of the dropped locks the first few.
    pub fn report(&self, run: RunId) -> Result<RunReport, StoreError> {
        let (number, knows_owners, head, state, locks, not_understood) =
            self.one(run, "SELECT * FROM run WHERE id = ?1", |row| {
                let locks = LockTally::from(counts(row)?);
                let (number, knows_owners) = (row.get("number")?, row.get("knows_owners")?);
                Ok((number, knows_owners, run_head(row)?, states(row)?, locks, row.get("not_understood")?))
            })?;
        let sending = "SELECT EXISTS (SELECT 1 FROM event WHERE run = ?1 AND kind = ?2)";
        let sending = self.connection.query_row(sending, params![number, Phase::Notifying.as_str()], |row| row.get(0));
        let sending = sending.map_err(|e| self.error(e))?;
        let clients = self.rows(CLIENTS, [number], |row| client_report(row, knows_owners, sending))?;
        let keys = places(number, 0);
        let lost = format!(
            "SELECT row FROM lock WHERE place BETWEEN ?1 AND ?2 AND fate = 'dropped' ORDER BY place LIMIT {LOST_SHOWN}"
        );
        let lost = self.rows(&lost, [keys.start(), keys.end()], |row| {
            blob::<LockFate>(row, "row").map(|fate| LockReport::from(&fate))
        })?;
        Ok(RunReport { lost, ..RunReport::new(head, state, locks, clients, not_understood) })
    }

    /// A run's report with lock rows and timeline, as they are at this moment. It is exclusive, as a connection has one
    /// transaction at a time.
    pub fn detail(&mut self, run: RunId) -> Result<RunDetail<LockRows<'_>>, StoreError> {
        let store = &*self;
        let snapshot = Transaction::new_unchecked(&store.connection, TransactionBehavior::Deferred);
        let snapshot = snapshot.map_err(|e| store.error(e))?;
        let number = store.number(run)?;
        Ok(RunDetail {
            report: store.report(run)?,
            lock_rows: LockRows { snapshot, store, keys: places(number, 0) },
            events: store.rows("SELECT * FROM event WHERE run = ?1 ORDER BY at_ms, rowid", [number], |row| {
                Ok(EventReport { at: Stamp(count(row, "at_ms")?), kind: row.get("kind")?, detail: row.get("detail")? })
            })?,
            progress: store.rows("SELECT * FROM progress WHERE run = ?1 ORDER BY elapsed_ms", [number], |row| {
                Ok(PendingReport { elapsed_ms: count(row, "elapsed_ms")?, pending: count(row, "pending")? })
            })?,
            shown: None,
        })
    }

    /// Runs, the newest first.
    pub fn list(&self, limit: u32) -> Result<Vec<RunListing>, StoreError> {
        self.list_only(limit, &RunFilter::default())
    }

    /// Those that are wanted, the newest first: by number, since the clock may have been set back.
    pub fn list_only(&self, limit: u32, wanted: &RunFilter) -> Result<Vec<RunListing>, StoreError> {
        let mut query = self
            .connection
            .prepare(
                "SELECT *, (SELECT count(*) FROM client WHERE run = run.number) AS clients FROM run
                 ORDER BY number DESC",
            )
            .map_err(|e| self.error(e))?;
        let runs = query.query_map([], |row| Ok((row.get("number")?, run_listing(row)?)));
        let mut listed = Vec::new();
        for run in runs.map_err(|e| self.error(e))? {
            let (number, run) = run.map_err(|e| self.error(e))?;
            if wanted.wants_sums(&run.locks) && self.has_client(number, wanted)? {
                listed.push(run);
            }
            if listed.len() >= limit as usize {
                break;
            }
        }
        Ok(listed)
    }

    /// Whether a client that is wanted was to be told, or is named by a lock on record.
    fn has_client(&self, run: i64, wanted: &RunFilter) -> Result<bool, StoreError> {
        if wanted.clients.is_empty() {
            return Ok(true);
        }
        let told = self.rows("SELECT name, address FROM client WHERE run = ?1", [run], |row| {
            Ok(wanted.wants(row.get_ref("name")?.as_str()?, maybe_word(row, "address")?))
        })?;
        if told.contains(&true) {
            return Ok(true);
        }
        let of = |error| self.error(error);
        let mut query = self.connection.prepare("SELECT row FROM lock WHERE place BETWEEN ?1 AND ?2").map_err(of)?;
        let keys = places(run, 0);
        let mut locks = query.query_map([keys.start(), keys.end()], |row| blob::<LockFate>(row, "row")).map_err(of)?;
        let is_named = |fate: &LockFate| {
            let owners = [Some(&fate.owner), fate.other.0.as_deref()];
            owners.into_iter().flatten().any(|owner| wanted.wants(owner.name.as_str(), Some(owner.address)))
        };
        let found = locks.find(|fate| fate.as_ref().map_or(true, is_named));
        Ok(found.transpose().map_err(of)?.is_some())
    }

    fn one<T>(
        &self,
        run: RunId,
        query: &str,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.connection
            .query_row(query, [run.to_string()], read)
            .optional()
            .map_err(|e| self.error(e))?
            .ok_or_else(|| StoreError::UnknownRun { wanted: run.to_string(), path: self.path.clone() })
    }

    fn number(&self, run: RunId) -> Result<i64, StoreError> {
        self.one(run, "SELECT number FROM run WHERE id = ?1", |row| row.get("number"))
    }

    fn rows<T>(
        &self,
        query: &str,
        of: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut query = self.connection.prepare(query).map_err(|e| self.error(e))?;
        query.query_map(of, read).and_then(Iterator::collect).map_err(|e| self.error(e))
    }
}

fn run_listing(row: &Row<'_>) -> rusqlite::Result<RunListing> {
    let head = run_head(row)?;
    let locks = LockTally::from(counts(row)?);
    let (not_understood, locks_listed) = (row.get("not_understood")?, head.locks_listed);
    let facts = Facts { outcome: head.outcome, not_understood, locks_listed, locks };
    Ok(RunListing {
        exit: exit_code(&facts),
        id: head.id,
        manager: head.manager,
        mode: head.mode,
        scope: head.scope,
        outcome: head.outcome,
        phase: head.phase,
        started_at: head.started_at,
        elapsed_ms: head.elapsed_ms,
        clients: count(row, "clients")?,
        locks,
    })
}

fn states(row: &Row<'_>) -> rusqlite::Result<States> {
    Ok(States { old: row.get("old_state")?, new: row.get("new_state")? })
}

fn stored_run(row: &Row<'_>) -> rusqlite::Result<StoredRun> {
    Ok(StoredRun { id: word(row, "id")?, begin: blob(row, "begin")?, names: names(row)?, phase: word(row, "phase")? })
}

fn run_head(row: &Row<'_>) -> rusqlite::Result<RunHead> {
    let started = count(row, "started_ms")?;
    let ended = maybe_count(row, "ended_ms")?;
    Ok(RunHead {
        id: row.get("id")?,
        manager: row.get("manager")?,
        mode: row.get("mode")?,
        scope: json(row, "scope")?,
        outcome: maybe_word(row, "outcome")?,
        phase: word(row, "phase")?,
        started_at: Stamp(started),
        ended_at: ended.map(Stamp),
        elapsed_ms: ended.map(|end| end.saturating_sub(started)),
        exit: None,
        reason: row.get("reason")?,
        locks_listed: row.get("locks_listed")?,
    })
}

/// `sending`: whether the run's notices began to leave.
fn client_report(row: &Row<'_>, knows_owners: bool, sending: bool) -> rusqlite::Result<ClientReport> {
    let (notices, attempts, error): (u32, u32, Option<String>) =
        (row.get("notices")?, row.get("attempts")?, row.get("error")?);
    Ok(ClientReport {
        name: blob::<RunClient>(row, "row")?.name.to_string(),
        address: maybe_word(row, "address")?,
        suspect: row.get("suspect")?,
        fate: match ClientFate::of(delivery(row)?, row.get("silent")?) {
            // nlmctl left before it gave this client up.
            ClientFate::NotTold if attempts > 0 => ClientFate::NoAnswer,
            // And wrote nothing of it since its notices began to leave.
            ClientFate::NotTold if sending && notices == 0 && error.is_none() => ClientFate::Unknown,
            fate => fate,
        },
        notices,
        acks: row.get("acks")?,
        attempts,
        acked_ms: maybe_count(row, "acked_ms")?,
        locks: knows_owners.then(|| counts(row)).transpose()?.map(LockTally::from),
        paths: json(row, "paths")?,
        error,
    })
}
