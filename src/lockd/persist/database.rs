//! The database itself: schema, changes, and reading at start. Used by one thread alone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::{Statvfs, statvfs};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use rusqlite_migration::{M, Migrations};

use super::monitors::{self, Odd, addresses_of, name, raw, text_of};
use super::records::{Change, EndedRun, Found, MonitorRecord, PersistError, RunRecord};
use super::results::{self, Page, Row, Stage};
use super::seal::{Number, Said, Seal};
use crate::host::private_file;
use crate::wire::control::{Mode, RunClient, RunId, RunResult};
use crate::wire::types::NsmState;
use crate::wire::xdr::{List, decode, encode};

const STEPS: &[M<'static>] = &[
    M::up(include_str!("../../../migrations/nlmd/01_start.sql")),
    M::up(include_str!("../../../migrations/nlmd/02_monitors.sql")),
    M::up(include_str!("../../../migrations/nlmd/03_sealed.sql")),
    M::up(include_str!("../../../migrations/nlmd/04_result_pages.sql")),
    M::up(include_str!("../../../migrations/nlmd/05_whole_results.sql")),
];
/// The version of the schema from which on commits are counted.
const SEALED: i64 = 3;

/// Most clients of a run's record.
const MAX_RUN_CLIENTS: usize = 16_777_216;

/// So much room a result leaves on the disk. A log that cannot be brought into the database takes nothing more when the disk
/// is full, not even that pages of the result are free again: then nothing could be promised to a new client.
const ROOM_KEPT: u64 = 16 << 20;

pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    room_kept: u64,
    seal: Seal,
    number: Number,
}

impl From<rusqlite::Error> for PersistError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Write(error.to_string())
    }
}

/// The last resort is said where nothing else helps, and nowhere else: it costs live locks.
const DAMAGED: &str = "restore nlmd.sqlite and nlmd.sqlite-wal as nlmd left them; to start with an older copy, or \
                       with what is left, move nlmd.seal beside them away; if nothing is intact, move all three away: \
                       clients that nlmd then does not find are not notified of this restart, and lose their locks";
const BUSY: &str = "another process has it open (fuser says which): end that one and start nlmd again";
const UNSEALED: &str = "make room on its disk, let nlmd's user write there, and start nlmd again";
const NEWER: &str = "start the nlmd that wrote it, or a newer one";

/// What SQLite says, with what to do about just that.
fn unusable(path: &Path, error: &rusqlite::Error) -> PersistError {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room on its disk and start nlmd again",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => BUSY,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "let nlmd's user read and write it and its directory, and start nlmd again"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "check that its disk is mounted, has room and reports no errors (dmesg), and start nlmd again"
        }
        Some(ErrorCode::OutOfMemory) => "give nlmd more memory and start it again",
        _ => DAMAGED,
    };
    PersistError::Database { path: path.into(), reason: error.to_string(), remedy }
}

/// Nothing of a database that is lost is looked at by SQLite, which would remove its WAL.
fn refuse_lost(path: &Path, sealed: Said<i64>) -> Result<(), PersistError> {
    let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    let wal = path.with_file_name("nlmd.sqlite-wal");
    if len(path) > 0 || (sealed.number().is_none() && len(&wal) == 0) {
        return Ok(());
    }
    let reason = "it is missing or empty, and what else nlmd wrote beside it is there".to_owned();
    Err(PersistError::Database { path: path.into(), reason, remedy: DAMAGED })
}

/// Sees that it is whole in itself, and how many commits it has; none where an older version wrote it.
/// Nothing of it changes: at its close SQLite would bring what is left of a damaged WAL into it, and remove the WAL.
fn look_at(connection: &Connection, path: &Path) -> Result<Option<i64>, PersistError> {
    let unusable = |error| unusable(path, &error);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(unusable)?;
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(unusable)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
    if usize::try_from(version).is_ok_and(|version| version > STEPS.len()) {
        let reason = "a newer nlmd wrote it".to_owned();
        return Err(PersistError::Database { path: path.into(), reason, remedy: NEWER });
    }
    let health: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unusable)?;
    if health != "ok" {
        return Err(PersistError::Database { path: path.into(), reason: health, remedy: DAMAGED });
    }
    commits(connection).map_err(unusable)
}

fn commits(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < SEALED {
        return Ok(None);
    }
    connection.query_row("SELECT commits FROM sealed", [], |row| row.get(0)).map(Some)
}

fn refuse_behind(path: &Path, sealed: Said<i64>, reached: Option<i64>) -> Result<(), PersistError> {
    let Some(sealed) = sealed.number().filter(|sealed| reached.is_none_or(|reached| reached < *sealed)) else {
        return Ok(());
    };
    let reason = format!(
        "it lacks what nlmd wrote last (it has come to change {}, nlmd.seal to {sealed}): its -wal file is missing or \
         damaged, or it is an older copy",
        reached.unwrap_or_default()
    );
    Err(PersistError::Database { path: path.into(), reason, remedy: DAMAGED })
}

/// Brings all that the WAL has into the database, and both onto the disk.
fn checkpoint(connection: &Connection, path: &Path) -> Result<(), PersistError> {
    let unusable = |error| unusable(path, &error);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(unusable)?;
    let is_busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(unusable)?;
    if is_busy {
        let reason = "it is busy".to_owned();
        return Err(PersistError::Database { path: path.into(), reason, remedy: BUSY });
    }
    Ok(())
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<(Self, Found), PersistError> {
        let unusable = |error| unusable(path, &error);
        let directory = |e: io::Error| PersistError::Directory { path: path.into(), reason: e.to_string() };
        let (sealed, number) = (Seal::said(path), Number::open(path));
        refuse_lost(path, sealed)?;
        private_file(path).map_err(directory)?;
        let mut connection = Connection::open(path).map_err(unusable)?;
        let reached = look_at(&connection, path)?;
        refuse_behind(path, sealed, reached)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
        Migrations::from_slice(STEPS).to_latest(&mut connection).map_err(|error| match error {
            rusqlite_migration::Error::RusqliteError { err, .. } => unusable(err),
            // A schema that no version of nlmd up to this one made.
            other => PersistError::Database { path: path.into(), reason: other.to_string(), remedy: NEWER },
        })?;
        results::remove_parts(&connection).map_err(unusable)?;
        results::split(&mut connection).map_err(unusable)?;
        checkpoint(&connection, path)?;
        let commits = commits(&connection).map_err(unusable)?.unwrap_or_default();
        let unsealed = |e: io::Error| {
            let reason = format!("nlmd.seal beside it cannot be written: {e}");
            PersistError::Database { path: path.into(), reason, remedy: UNSEALED }
        };
        let seal = Seal::make(path, commits).map_err(unsealed)?;
        // An older version made no seal, and a life that did not come so far as to have a number had no clients.
        let was_sealed = reached.is_some() || number.said != Said::Nothing;
        let mut database = Self { connection, path: path.into(), room_kept: ROOM_KEPT, seal, number };
        let mut found = database.found()?;
        found.may_lack_clients = was_sealed && sealed.number().is_none() && found.nsm_state.is_some();
        if found.may_lack_clients {
            tracing::warn!(
                seal = %Seal::path(path).display(), clients = found.monitors.len(),
                "it was missing or damaged: it is not known whether the database has all clients; those that it has are \
                 notified of this restart"
            );
        }
        Ok((database, found))
    }

    fn damaged(&self, what: &str) -> PersistError {
        PersistError::Database { path: self.path.clone(), reason: format!("{what} in it is damaged"), remedy: DAMAGED }
    }

    fn found(&mut self) -> Result<Found, PersistError> {
        let monitors = self.monitors()?;
        let unusable = |error| unusable(&self.path, &error);
        let server: Option<(i32, String)> = self
            .connection
            .query_row("SELECT nsm_state, boot FROM server", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(unusable)?;
        let (nsm_state, boot) = server.map(|(state, boot)| (NsmState(state), boot)).unzip();
        let nsm_state = match (nsm_state, self.number.said.number()) {
            (Some(one), Some(other)) => Some(one.later(other)),
            (one, other) => one.or(other),
        };
        let run = self.active_run()?;
        let ended = results::ended(&self.connection).map_err(unusable)?;
        Ok(Found {
            nsm_state,
            boot: boot.unwrap_or_default(),
            monitors,
            local_monitors: monitors::local(&self.connection).map_err(|odd| self.odd(odd))?,
            to_tell: monitors::to_tell(&self.connection).map_err(|odd| self.odd(odd))?,
            watches: monitors::watches(&self.connection).map_err(|odd| self.odd(odd))?,
            run,
            ended,
            may_lack_clients: false,
        })
    }

    fn odd(&self, odd: Odd) -> PersistError {
        match odd {
            Odd::Sqlite(error) => error.into(),
            Odd::Damaged(what) => self.damaged(&what),
        }
    }

    /// The monitor records, one for each client. An older version's record of several addresses becomes one
    /// for each, on disk too: to forget one of these clients must not take the others' record away.
    fn monitors(&mut self) -> Result<Vec<MonitorRecord>, PersistError> {
        let mut query = self.connection.prepare("SELECT name, addresses, server_addresses, nsm_state FROM monitor")?;
        let mut rows = query.query([])?;
        let (mut records, mut is_split) = (BTreeMap::<_, MonitorRecord>::new(), false);
        while let Some(row) = rows.next()? {
            let nsm_state: i32 = row.get(3)?;
            let (addresses, server_addresses): (String, String) = (row.get(1)?, row.get(2)?);
            let Some(name) = name(row, 0) else { return Err(self.damaged("a monitor record's name")) };
            let Some((addresses, server_addresses)) = addresses_of(&addresses).zip(addresses_of(&server_addresses))
            else {
                return Err(self.damaged(&format!("the monitor record of {name}")));
            };
            is_split |= addresses.len() > 1;
            for address in addresses {
                let new = || MonitorRecord {
                    name: name.clone(),
                    address,
                    server_addresses: Vec::new(),
                    nsm_state: NsmState(nsm_state),
                };
                let called = &mut records.entry((name.clone(), address)).or_insert_with(new).server_addresses;
                called.extend(server_addresses.iter().filter(|to| !called.contains(*to)).copied().collect::<Vec<_>>());
            }
        }
        drop(rows);
        drop(query);
        let records: Vec<MonitorRecord> = records.into_values().collect();
        if is_split {
            let changes: Vec<Change> = records.iter().cloned().map(Change::Monitor).collect();
            self.apply(&changes)?;
        }
        Ok(records)
    }

    fn active_run(&self) -> Result<Option<RunRecord>, PersistError> {
        let row = self
            .connection
            .query_row(
                "SELECT id, mode, old_state, new_state, began_unix_ms, in_scope, clients FROM active_run",
                [],
                |row| {
                    let (mode, clients): (u32, Vec<u8>) = (row.get(1)?, row.get(6)?);
                    let (began, in_scope): (i64, i64) = (row.get(4)?, row.get(5)?);
                    let record = RunRecord {
                        run: RunId(row.get(0)?),
                        mode: Mode::Strict,
                        old_state: NsmState(row.get(2)?),
                        new_state: NsmState(row.get(3)?),
                        began_unix_ms: began.cast_unsigned(),
                        in_scope: in_scope.cast_unsigned(),
                        clients: Arc::default(),
                    };
                    Ok((record, mode, clients))
                },
            )
            .optional()?;
        let Some((record, mode, clients)) = row else { return Ok(None) };
        let mode = decode::<Mode>(&mode.to_be_bytes()).map_err(|_| self.damaged("the active run's mode"))?;
        let clients = decode::<List<RunClient, MAX_RUN_CLIENTS>>(&clients)
            .map_err(|_| self.damaged("the active run's client list"))?;
        Ok(Some(RunRecord { mode, clients: Arc::new(clients.into_vec()), ..record }))
    }

    /// Makes all of it durable, or nothing.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<(), PersistError> {
        for change in changes {
            if let Change::State { state, .. }
            | Change::Raised(state)
            | Change::Begin(RunRecord { new_state: state, .. }) = change
            {
                let unwritten = |e| PersistError::Write(format!("the NSM state number is not in nlmd.state: {e}"));
                self.number.write(*state).map_err(unwritten)?;
            }
            if matches!(change, Change::Locks { .. }) {
                self.expect_room()?;
            }
        }
        self.commit(|to| changes.iter().try_for_each(|change| write(to, change)))
    }

    /// Writes a result on, so much of it as others may have to wait for, and so many times that where nobody waits: a flush of
    /// the disk takes longer than a page. Gives where to go on; `None`: it is whole.
    pub(super) fn write_result(
        &mut self,
        ended: &EndedRun,
        from: Stage,
        most: usize,
        nobody_waits: impl Fn() -> bool,
    ) -> Result<Option<Stage>, PersistError> {
        // The first page is written like each other change.
        if matches!(from, Stage::Clients(_) | Stage::Locks(_)) {
            self.expect_room()?;
        }
        self.commit(|to| {
            let (mut next, mut written) = (results::write(to, ended, from)?, 1);
            while let Some(from) = next.filter(|_| written < most && nobody_waits()) {
                next = results::write(to, ended, from)?;
                written += 1;
            }
            Ok(next)
        })
    }

    fn expect_room(&self) -> Result<(), PersistError> {
        let free = |disk: Statvfs| disk.blocks_available().saturating_mul(disk.fragment_size());
        if statvfs(&self.path).map_or(u64::MAX, free) < self.room_kept {
            return Err(PersistError::Write("what room its disk has left is for clients' records".into()));
        }
        Ok(())
    }

    /// Removes some of what is no whole result, but of this one; whether there is more.
    pub(super) fn sweep(&mut self, but: Option<RunId>) -> Result<bool, PersistError> {
        Ok(results::has_parts(&self.connection, but)? && self.commit(|to| Ok(results::sweep(to, but)?))?)
    }

    /// Makes all that is done durable, or nothing.
    fn commit<T>(&mut self, what: impl FnOnce(&Transaction<'_>) -> Result<T, PersistError>) -> Result<T, PersistError> {
        let transaction = self.connection.transaction()?;
        let done = what(&transaction)?;
        let commits = transaction
            .prepare_cached("UPDATE sealed SET commits = commits + 1 RETURNING commits")?
            .query_row([], |row| row.get(0))?;
        transaction.commit()?;
        self.seal.advance(commits);
        Ok(done)
    }

    pub(super) fn result(&self, run: RunId) -> Result<Option<RunResult>, PersistError> {
        results::sums(&self.connection, run).map_err(|odd| self.odd(odd))
    }

    pub(super) fn rows<T: Row>(&self, run: RunId, after: u64) -> Result<Option<Page<T>>, PersistError> {
        results::rows(&self.connection, run, after).map_err(|odd| self.odd(odd))
    }

    pub(super) fn unfetched(&self) -> Result<Vec<RunId>, PersistError> {
        Ok(results::unfetched(&self.connection)?)
    }
}

#[cfg(test)]
impl Database {
    pub(super) fn count(&self, table: &str) -> usize {
        let count = format!("SELECT count(*) FROM {table}");
        usize::try_from(self.connection.query_row(&count, [], |row| row.get::<_, i64>(0)).unwrap()).unwrap()
    }

    /// Until it is opened again, SQLite finds the disk full when it is to be larger than now.
    pub(super) fn fill_disk(&mut self) {
        let pages: i64 = self.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        self.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
    }

    /// Until it is opened again, its disk has little room.
    pub(super) fn nearly_fill_disk(&mut self) {
        self.room_kept = u64::MAX;
    }
}

fn write(to: &Transaction<'_>, change: &Change) -> Result<(), PersistError> {
    match change {
        Change::State { state, boot } => {
            set_state(to, *state)?;
            to.execute("UPDATE server SET boot = ?1", params![boot])?;
        }
        Change::Raised(state) => set_state(to, *state)?,
        Change::Local(monitor) => monitors::add(to, monitor)?,
        Change::NotLocal(id) => monitors::remove(to, id)?,
        Change::NoneLocal { asker, privileged } => monitors::remove_all(to, asker, *privileged)?,
        Change::TellLocal => monitors::tell(to)?,
        Change::Told { mon_name, my_name } => monitors::told(to, mon_name, my_name)?,
        Change::Watch(watch) => monitors::watch(to, *watch)?,
        Change::Unwatch(address) => monitors::unwatch(to, *address)?,
        Change::Monitor(record) => add_monitor(to, record)?,
        Change::Forget { name, address } => {
            to.prepare_cached("DELETE FROM monitor WHERE name = ?1 AND address = ?2")?
                .execute(params![raw(name), text_of(&[*address])])?;
        }
        Change::Begin(run) => begin(to, run)?,
        Change::NotBegun(run) => {
            to.execute("DELETE FROM active_run WHERE id = ?1", params![run.0])?;
        }
        Change::Marked { run, in_scope, clients } => {
            to.execute(
                "UPDATE active_run SET in_scope = ?2, clients = ?3 WHERE id = ?1",
                params![run.0, in_scope.cast_signed(), clients_body(clients)],
            )?;
        }
        Change::Locks { run, first, pages } => results::put_locks(to, *run, *first, pages)?,
        Change::Ended(ended) => {
            let mut next = Some(Stage::default());
            while let Some(from) = next {
                next = results::write(to, ended, from)?;
            }
        }
        Change::TakenBack(run) => {
            results::take_back(to, run.run)?;
            begin(to, run)?;
        }
        Change::Late(run, fate) => results::add_late(to, *run, fate)?,
        Change::Acknowledge(run) => results::acknowledge(to, *run)?,
    }
    Ok(())
}

fn add_monitor(to: &Transaction<'_>, record: &MonitorRecord) -> Result<(), PersistError> {
    to.prepare_cached(
        "INSERT INTO monitor (name, address, addresses, server_addresses, nsm_state) \
         VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (name, address) DO UPDATE SET addresses = excluded.addresses, \
         server_addresses = excluded.server_addresses, nsm_state = excluded.nsm_state",
    )?
    .execute(params![
        raw(&record.name),
        text_of(&[record.address]),
        text_of(&[record.address]),
        text_of(&record.server_addresses),
        record.nsm_state.0
    ])?;
    Ok(())
}

fn begin(to: &Transaction<'_>, run: &RunRecord) -> Result<(), PersistError> {
    set_state(to, run.new_state)?;
    to.execute("DELETE FROM active_run", [])?;
    to.execute(
        "INSERT INTO active_run (id, mode, old_state, new_state, began_unix_ms, in_scope, clients) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            run.run.0,
            run.mode as u32,
            run.old_state.0,
            run.new_state.0,
            run.began_unix_ms.cast_signed(),
            run.in_scope.cast_signed(),
            clients_body(&run.clients)
        ],
    )?;
    Ok(())
}

fn set_state(to: &Transaction<'_>, state: NsmState) -> Result<(), PersistError> {
    to.execute(
        "INSERT INTO server (only_row, nsm_state) VALUES (1, ?1) \
         ON CONFLICT (only_row) DO UPDATE SET nsm_state = excluded.nsm_state",
        params![state.0],
    )?;
    Ok(())
}

fn clients_body(clients: &[RunClient]) -> Vec<u8> {
    encode(&List::<RunClient, MAX_RUN_CLIENTS>::clipped(clients.to_vec()))
}
