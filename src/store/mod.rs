//! The record: every run and every release, in one SQLite database.
//!
//! Theory. A run's row exists before the lock manager is asked anything, and each phase is on disk
//! (WAL, `synchronous=FULL`) before the step that it announces: after a crash at any moment the
//! record says how far the run can have come, and [`Store::unfinished`] finds it. Each method that
//! writes is one transaction. Results come in pages that may be written again; a run is `done` only
//! with [`Store::record_result`], so half a result is never taken for a whole one, and the rows of
//! locks need not be on disk before that.
//!
//! What a run has is found by its number: a run over a million locks has a million rows, and each
//! is appended behind the one before it.
//!
//! One controller at a time works with a database: [`Store::begin_controller`] holds an OS lock on
//! the file `<database>.lock`, which dies with its process. Readers need no lock.
//!
//! SQLite blocks: a [`Store`] is `Send`, belongs to one thread at a time, and is used from a
//! blocking one. Start reading at [`Store::open`]; the tables are in `docs/record.sql`.

mod controller_lock;
mod error;
mod memories;
mod read;
mod releases;
mod rows;
mod write;

#[cfg(test)]
mod tests;

pub use controller_lock::ControllerLock;
pub use error::StoreError;
pub use memories::ClientKey;
pub use read::{LockRows, StoredRun};
pub use releases::NewRelease;
pub use write::{DeliveryUpdate, NewClient, NewRun, Pruned, RunOutcome};

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rusqlite_migration::{M, Migrations, SchemaVersion};

use crate::host::{check_folder, folder_of, private_file};

/// `nlmc`: tells a database of ours from any other.
const APPLICATION_ID: i32 = 0x6e6c_6d63;
/// How long one waits for what another process writes: its transactions take far less. After that the record counts as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// A run that begins forgets others until no more than these are left. Their age does not count there: by a clock that is
/// wrong, all are old.
pub const KEEP_RUNS: u32 = 1_000;

/// Rows of locks that are well written in one call: each transaction has its own cost, whatever it has, and more rows take
/// memory (some 3 MB for these).
pub const LOCKS_AT_ONCE: usize = 4_096;

/// None can be taken twice; [`Store::open`] counts on that.
const STEPS: &[M<'static>] = &[
    M::up(include_str!("../../migrations/0001_record.sql")),
    M::up(include_str!("../../migrations/0002_unknown_owners.sql")),
    M::up(include_str!("../../migrations/0003_release.sql")),
    M::up(include_str!("../../migrations/0004_paths.sql")),
    M::up(include_str!("../../migrations/0005_progress.sql")),
    M::up(include_str!("../../migrations/0006_reconcile.sql")),
    M::up(include_str!("../../migrations/0007_lock_rows.sql")),
    M::up(include_str!("../../migrations/0008_run_numbers.sql")),
    M::up(include_str!("../../migrations/0009_understood.sql")),
    M::up(include_str!("../../migrations/0010_locks_listed.sql")),
];

fn unsafe_place(place: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = place.to_owned();
    move |source| StoreError::Unsafe { path, source }
}

fn migrations() -> Migrations<'static> {
    Migrations::from_slice(STEPS)
}

/// The record, open. SQLite lets one connection write at a time, of all processes.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the record, and makes it if there is none. Its directory must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let parent = folder_of(path);
        if !parent.is_dir() {
            return Err(StoreError::NoDirectory { path: path.to_owned(), directory: parent.to_owned() });
        }
        check_folder(parent).map_err(unsafe_place(parent))?;
        match private_file(path) {
            Err(refused) if refused.kind() == ErrorKind::PermissionDenied && refused.raw_os_error().is_none() => {
                return Err(unsafe_place(path)(refused));
            }
            // An error of the file system is told as SQLite meets it, with its remedy.
            Ok(()) | Err(_) => {}
        }
        // SQLite makes the files beside it with the database's own mode.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).map_err(|e| StoreError::of(path, e))?;
        let mut store = Self { connection: opened, path: path.to_owned() };
        store.version()?;
        store.prepare().map_err(|e| StoreError::of(path, e))?;
        let _no_controller = store.alone_if_older()?;
        // Other processes, some of an older version, may bring the schema further between the look at it and the change,
        // which fails then. The change waits for theirs, so each failure means that fewer steps are left.
        let mut latest = migrations().to_latest(&mut store.connection);
        for _ in 0..STEPS.len() {
            latest = latest.or_else(|_| migrations().to_latest(&mut store.connection));
        }
        latest.map_err(|e| StoreError::of_migration(path, e))?;
        Ok(store)
    }

    /// Opens the record for reading only; `None` where there is none. One that an older nlmctl made is brought up to date first.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match Self::open_as_it_is(path)? {
            None => Ok(None),
            Some((store, version)) if version == STEPS.len() => Ok(Some(store)),
            // An older nlmctl made it: nothing reads it before it is brought up to date.
            Some(_) => Self::open(path).map(Some),
        }
    }

    /// For a look that changes nothing: `None` also where an older nlmctl made the record.
    pub fn open_to_look(path: &Path) -> Result<Option<Self>, StoreError> {
        let found = Self::open_as_it_is(path)?;
        Ok(found.filter(|(_, version)| *version == STEPS.len()).map(|(store, _)| store))
    }

    /// Whether a run can use the record, or make it. Makes and changes nothing. `makes_folder`: its folder would be made.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), as far as they show without a change.
    pub fn examine(path: &Path, makes_folder: bool) -> Result<(), StoreError> {
        let folder = folder_of(path);
        if folder.is_dir() {
            check_folder(folder).map_err(unsafe_place(folder))?;
        } else if !makes_folder {
            return Err(StoreError::NoDirectory { path: path.to_owned(), directory: folder.to_owned() });
        }
        Self::open_as_it_is(path).map(drop)
    }

    /// For reading only, with its version; `None` where there is none.
    fn open_as_it_is(path: &Path) -> Result<Option<(Self, usize)>, StoreError> {
        match path.metadata() {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(StoreError::NoFile { path: path.to_owned() }),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::Io { path: path.to_owned(), source: e }),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).map_err(|e| StoreError::of(path, e))?;
        let store = Self { connection: opened, path: path.to_owned() };
        let version = store.version().map_err(StoreError::of_reading)?;
        Ok(if version == 0 { None } else { Some((store, version)) })
    }

    /// Becomes the one controller of this record, until the lock is dropped or the process dies.
    pub fn begin_controller(&self) -> Result<ControllerLock, StoreError> {
        ControllerLock::take(&self.path)
    }

    /// Where an older nlmctl made the record: the controller's lock, before the schema is changed. An older nlmctl may be in
    /// the middle of a run, and could not write the rest of it.
    fn alone_if_older(&self) -> Result<Option<ControllerLock>, StoreError> {
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            if [0, STEPS.len()].contains(&self.version()?) {
                return Ok(None);
            }
            match self.begin_controller() {
                Err(StoreError::ControllerActive { .. }) if Instant::now() < until => std::thread::sleep(BETWEEN_TRIES),
                taken => return taken.map(Some),
            }
        }
    }

    /// The steps that its schema has; 0 of a new one. Changes nothing in it.
    fn version(&self) -> Result<usize, StoreError> {
        self.connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| self.error(e))?;
        self.check_ours()?;
        let version = migrations().current_version(&self.connection);
        match version.map_err(|e| StoreError::of_migration(&self.path, e))? {
            SchemaVersion::Outside(_) => Err(StoreError::Newer { path: self.path.clone() }),
            SchemaVersion::NoneSet => Ok(0),
            SchemaVersion::Inside(version) => Ok(version.get()),
        }
    }

    fn check_ours(&self) -> Result<(), StoreError> {
        let get = |pragma| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        let of = |e| StoreError::of(&self.path, e);
        let tables: i64 =
            self.connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(of)?;
        if tables > 0 && get("application_id").map_err(of)? != APPLICATION_ID {
            return Err(StoreError::NotOurs { path: self.path.clone() });
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), rusqlite::Error> {
        self.connection.set_transaction_behavior(TransactionBehavior::Immediate);
        // Of a new record alone: a million rows of locks are written and read with a quarter of the calls that SQLite's own
        // size (4096) takes.
        self.connection.pragma_update(None, "page_size", 16_384)?;
        // Of two processes that make the WAL at a time SQLite refuses one at once.
        let until = Instant::now() + BUSY_TIMEOUT;
        while let Err(error) = self.connection.pragma_update(None, "journal_mode", "WAL") {
            if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "foreign_keys", "ON")
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::of(&self.path, source)
    }
}
