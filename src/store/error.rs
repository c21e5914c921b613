//! Errors of the record, with remedies.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::host::is_full;

/// What can be wrong with the record.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's directory is missing.
    #[error("the record {path} cannot be made: its directory {directory} does not exist", path = .path.display(), directory = .directory.display())]
    NoDirectory { path: PathBuf, directory: PathBuf },
    /// The database or its directory cannot be read or made.
    #[error("the record {path} cannot be opened", path = .path.display())]
    CannotOpen { path: PathBuf },
    /// The database or its directory cannot be written.
    #[error("the record {path} cannot be written", path = .path.display())]
    ReadOnly { path: PathBuf },
    /// A folder, a pipe, a device.
    #[error("{path} is not a file, so it is not a record", path = .path.display())]
    NoFile { path: PathBuf },
    /// It may be read, and SQLite cannot make the files that it needs for that.
    #[error("the record {path} cannot be read without writing beside it", path = .path.display())]
    ReadInPlace { path: PathBuf },
    /// The file is damaged, or no database at all.
    #[error("the record {path} is damaged or is not a database", path = .path.display())]
    Corrupt { path: PathBuf },
    /// Another program's SQLite database.
    #[error("{path} is a database, but not a record of nlmctl", path = .path.display())]
    NotOurs { path: PathBuf },
    /// A newer nlmctl wrote it.
    #[error("the record {path} was written by a newer nlmctl", path = .path.display())]
    Newer { path: PathBuf },
    /// The disk, or what this user may have of it, is full.
    #[error("no room left to write the record {path}", path = .path.display())]
    Full { path: PathBuf },
    /// Another process writes to it and does not end.
    #[error("the record {path} stayed busy for 5 s", path = .path.display())]
    Busy { path: PathBuf },
    /// Another controller works with it.
    #[error("another nlmctl{by} works with the record {path}", by = .pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), path = .path.display())]
    ControllerActive {
        /// Its process, if it said so.
        pid: Option<u32>,
        path: PathBuf,
    },
    /// Other users could change it.
    #[error("{path} is not safe for a record: {source}", path = .path.display())]
    Unsafe {
        /// The database or its directory.
        path: PathBuf,
        source: io::Error,
    },
    /// A file beside the database.
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// No run of the record has such an id.
    #[error("no run {wanted} in the record {path}", path = .path.display())]
    UnknownRun {
        /// What was asked for.
        wanted: String,
        path: PathBuf,
    },
    /// Several runs of the record begin so.
    #[error("several runs begin with {wanted}")]
    AmbiguousRun {
        /// What was asked for.
        wanted: String,
    },
    /// A value of the record cannot be understood.
    #[error("the record {path} has a value that cannot be understood: {what}", path = .path.display())]
    BadValue { what: String, path: PathBuf },
    /// Anything else that SQLite says.
    #[error("the record {path}: {source}", path = .path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
}

impl StoreError {
    /// Sorts what SQLite says by what to do about it.
    pub(super) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => Self::CannotOpen { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            // So SQLite says that a file beside the database cannot grow.
            Some(ErrorCode::SystemIoFailure) if is_full(&path) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => match source {
                rusqlite::Error::FromSqlConversionFailure(column, _, why) => {
                    Self::BadValue { what: format!("column {column}: {why}"), path }
                }
                source => Self::Sqlite { path, source },
            },
        }
    }

    pub(super) fn of_migration(path: &Path, error: rusqlite_migration::Error) -> Self {
        use rusqlite_migration::{Error, MigrationDefinitionError};
        match error {
            Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
                Self::Newer { path: path.to_owned() }
            }
            Error::RusqliteError { err, .. } => Self::of(path, err),
            other => Self::BadValue { what: other.to_string(), path: path.to_owned() },
        }
    }

    /// The same, of a record that was opened for reading only.
    pub(super) fn of_reading(self) -> Self {
        match self {
            Self::CannotOpen { path } | Self::ReadOnly { path } if File::open(&path).is_ok() => {
                Self::ReadInPlace { path }
            }
            other => other,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoDirectory { directory, .. } => {
                format!("create it (mkdir -p {}) or name another database with --db", directory.display())
            }
            Self::CannotOpen { path } => format!(
                "check that {} is a file that this user may read and write, in a directory that it may search; or name another database with --db",
                path.display()
            ),
            Self::ReadOnly { path } => format!(
                "let this user write {} and its directory (SQLite keeps -wal and -shm files beside it), run as its owner, or name another database with --db",
                path.display()
            ),
            Self::NoFile { .. } => "name a file with --db".to_owned(),
            Self::ReadInPlace { path } => format!(
                "run this as its owner; or copy {0}, and {0}-wal if it is there, to a directory that you may write, and name the copy with --db",
                path.display()
            ),
            Self::Corrupt { path } => format!(
                "move {0}, {0}-wal and {0}-shm away together (sqlite3's .recover may save what is in them); a new record is made at the next run",
                path.display()
            ),
            Self::NotOurs { .. } => "name nlmctl's own database with --db".to_owned(),
            Self::Newer { .. } => {
                "use the nlmctl that wrote it or a newer one, or name another database with --db".to_owned()
            }
            Self::Full { path } => format!("make room where {} is, or name another database with --db", path.display()),
            Self::Busy { path } => format!("see who keeps {} open (fuser {0}) and try again", path.display()),
            Self::ControllerActive { .. } => "wait until that nlmctl has ended, or stop it".to_owned(),
            Self::Unsafe { .. } => {
                "name a database with --db in a folder that only you can write in, or correct what is said".to_owned()
            }
            Self::Io { path, .. } => format!("check permissions of {} and its directory", path.display()),
            Self::UnknownRun { .. } => {
                "`nlmctl runs list` and `nlmctl runs releases` show what the record has; --db names another record"
                    .to_owned()
            }
            Self::AmbiguousRun { .. } => "give more of the run's id".to_owned(),
            Self::BadValue { .. } => {
                "the record was changed by something else; move it away, a new one is made at the next run".to_owned()
            }
            Self::Sqlite { path, .. } => format!("check the disk that {} is on", path.display()),
        }
    }
}
