//! What is read.

use std::io;

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::rows::{blob, count, counts, delivery, json, maybe_count, maybe_word, word};
use super::{Store, StoreError};
use crate::report::{
    ClientFate, ClientReport, EventReport, Facts, LOST_SHOWN, LockReport, LockTally, PendingReport, Phase, Rows,
    RunDetail, RunFilter, RunHead, RunListing, RunReport, Stamp, States, exit_code,
};
use crate::wire::control::{BeginArgs, Delivery, InstanceId, LockFate, RunClient, RunId};

/// A run as a resume needs it.
#[derive(Debug, Clone)]
pub struct StoredRun {
    /// Which.
    pub id: RunId,
    /// What `begin` was, or would have been, asked with.
    pub begin: BeginArgs,
    /// How far it can have got.
    pub phase: Phase,
}

/// A client of a run as a resume needs it.
#[derive(Debug, Clone)]
pub struct StoredClient {
    /// As `begin` fixed it.
    pub client: RunClient,
    /// What has become of its notices.
    pub delivery: Delivery,
    /// Notices that are its own.
    pub notices: u32,
    /// How many of them it acked.
    pub acks: u32,
    /// Notices sent.
    pub attempts: u32,
    /// From begin to its last ack, milliseconds.
    pub acked_ms: Option<u64>,
    /// Whether it is a suspect.
    pub suspect: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// The lock rows of a run. There may be a million of them, so each walk reads them anew; what others write meanwhile is
/// not seen.
#[derive(Debug)]
pub struct LockRows<'a> {
    snapshot: Transaction<'a>,
    store: &'a Store,
    run: RunId,
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
        let sql = "SELECT row FROM lock WHERE run = ?1 ORDER BY ordinal";
        let mut query = self.snapshot.prepare_cached(sql).map_err(unreadable)?;
        let rows = query.query_map([self.run.to_string()], |row| blob(row, "row")).map_err(unreadable)?;
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
                   ORDER BY started_ms LIMIT 1";
        self.connection
            .query_row(sql, params![endpoint, instance.to_string()], stored_run)
            .optional()
            .map_err(|e| self.error(e))
    }

    /// A run.
    pub fn stored(&self, run: RunId) -> Result<StoredRun, StoreError> {
        self.one(run, "SELECT * FROM run WHERE id = ?1", stored_run)
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
        self.rows(run, "SELECT * FROM client WHERE run = ?1 ORDER BY number", |row| {
            Ok(StoredClient {
                client: blob(row, "row")?,
                delivery: delivery(row)?,
                notices: row.get("notices")?,
                acks: row.get("acks")?,
                attempts: row.get("attempts")?,
                acked_ms: maybe_count(row, "acked_ms")?,
                suspect: row.get("suspect")?,
                error: row.get("error")?,
            })
        })
    }

    /// A run's report.
    pub fn report(&self, run: RunId) -> Result<RunReport, StoreError> {
        let (head, state, locks, not_understood) = self.one(run, "SELECT * FROM run WHERE id = ?1", |row| {
            Ok((run_head(row)?, states(row)?, LockTally::from(counts(row)?), row.get("not_understood")?))
        })?;
        let clients = self.rows(
            run,
            "SELECT client.*, run.knows_owners FROM client JOIN run ON run.id = client.run WHERE run = ?1
             ORDER BY number",
            client_report,
        )?;
        let lost = self.rows(
            run,
            &format!("SELECT row FROM lock WHERE run = ?1 AND fate = 'dropped' ORDER BY ordinal LIMIT {LOST_SHOWN}"),
            lock_report,
        )?;
        Ok(RunReport { lost, ..RunReport::new(head, state, locks, clients, not_understood) })
    }

    /// A run's report with lock rows and timeline, as they are at this moment. It is exclusive, as a connection has one
    /// transaction at a time.
    pub fn detail(&mut self, run: RunId) -> Result<RunDetail<LockRows<'_>>, StoreError> {
        let store = &*self;
        let snapshot = Transaction::new_unchecked(&store.connection, TransactionBehavior::Deferred);
        let snapshot = snapshot.map_err(|e| store.error(e))?;
        Ok(RunDetail {
            report: store.report(run)?,
            lock_rows: LockRows { snapshot, store, run },
            events: store.rows(run, "SELECT * FROM event WHERE run = ?1 ORDER BY at_ms, rowid", |row| {
                Ok(EventReport { at: Stamp(count(row, "at_ms")?), kind: row.get("kind")?, detail: row.get("detail")? })
            })?,
            progress: store.rows(run, "SELECT * FROM progress WHERE run = ?1 ORDER BY elapsed_ms", |row| {
                Ok(PendingReport { elapsed_ms: count(row, "elapsed_ms")?, pending: count(row, "pending")? })
            })?,
            shown: None,
        })
    }

    /// Runs, the newest first.
    pub fn list(&self, limit: u32) -> Result<Vec<RunListing>, StoreError> {
        self.list_only(limit, &RunFilter::default())
    }

    /// Those that are wanted, the newest first.
    pub fn list_only(&self, limit: u32, wanted: &RunFilter) -> Result<Vec<RunListing>, StoreError> {
        let mut query = self
            .connection
            .prepare(
                "SELECT *, (SELECT count(*) FROM client WHERE run = run.id) AS clients FROM run
                 ORDER BY started_ms DESC, rowid DESC",
            )
            .map_err(|e| self.error(e))?;
        let mut listed = Vec::new();
        for run in query.query_map([], run_listing).map_err(|e| self.error(e))? {
            let run = run.map_err(|e| self.error(e))?;
            if wanted.wants_sums(&run.locks) && self.has_client(&run.id, wanted)? {
                listed.push(run);
            }
            if listed.len() >= limit as usize {
                break;
            }
        }
        Ok(listed)
    }

    /// Whether a client that is wanted was to be told, or is named by a lock on record.
    fn has_client(&self, run: &str, wanted: &RunFilter) -> Result<bool, StoreError> {
        if wanted.clients.is_empty() {
            return Ok(true);
        }
        let sql = "SELECT name, address FROM client WHERE run = ?1 UNION SELECT client, NULL FROM lock WHERE run = ?1";
        let mut query = self.connection.prepare(sql).map_err(|e| self.error(e))?;
        let names = query.query_map([run], |row| Ok((row.get::<_, String>("name")?, maybe_word(row, "address")?)));
        for named in names.map_err(|e| self.error(e))? {
            let (name, address) = named.map_err(|e| self.error(e))?;
            if wanted.wants(&name, address) {
                return Ok(true);
            }
        }
        Ok(false)
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

    fn rows<T>(
        &self,
        run: RunId,
        query: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut query = self.connection.prepare(query).map_err(|e| self.error(e))?;
        query.query_map([run.to_string()], read).and_then(Iterator::collect).map_err(|e| self.error(e))
    }
}

fn run_listing(row: &Row<'_>) -> rusqlite::Result<RunListing> {
    let head = run_head(row)?;
    let locks = LockTally::from(counts(row)?);
    let facts = Facts { outcome: head.outcome, not_understood: row.get("not_understood")?, locks };
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

fn lock_report(row: &Row<'_>) -> rusqlite::Result<LockReport> {
    blob::<LockFate>(row, "row").map(|fate| LockReport::from(&fate))
}

fn states(row: &Row<'_>) -> rusqlite::Result<States> {
    Ok(States { old: row.get("old_state")?, new: row.get("new_state")? })
}

fn stored_run(row: &Row<'_>) -> rusqlite::Result<StoredRun> {
    Ok(StoredRun { id: word(row, "id")?, begin: blob(row, "begin")?, phase: word(row, "phase")? })
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
    })
}

fn client_report(row: &Row<'_>) -> rusqlite::Result<ClientReport> {
    Ok(ClientReport {
        name: blob::<RunClient>(row, "row")?.name.to_string(),
        address: maybe_word(row, "address")?,
        suspect: row.get("suspect")?,
        fate: match ClientFate::of(delivery(row)?, row.get("silent")?) {
            // nlmctl left before it gave this client up.
            ClientFate::NotTold if row.get::<_, u32>("attempts")? > 0 => ClientFate::NoAnswer,
            fate => fate,
        },
        notices: row.get("notices")?,
        acks: row.get("acks")?,
        attempts: row.get("attempts")?,
        acked_ms: maybe_count(row, "acked_ms")?,
        locks: row.get::<_, bool>("knows_owners")?.then(|| counts(row)).transpose()?.map(LockTally::from),
        paths: json(row, "paths")?,
        error: row.get("error")?,
    })
}
