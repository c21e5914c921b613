//! NFSv4 clients that a run would disturb: those here now, and those on record that may come back
//! after a restart to reclaim.
//!
//! Where the record cannot be read, a client may be on it.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::EBUSY;
use rusqlite::{Connection, OpenFlags};

use crate::host::{FileError, Machine};

/// Databases of nfsdcld and of nfsdcltrack before it.
const DATABASES: [&str; 2] = ["var/lib/nfs/nfsdcld/main.sqlite", "var/lib/nfs/nfsdcltrack/main.sqlite"];

const END_GRACE: &str = "proc/fs/nfsd/v4_end_grace";
/// How long grace may take to end: the kernel may only have queued that work when it answers.
const ENDS: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is known of NFSv4 clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum V4 {
    /// No client is here or on record, or NFSv4 is off.
    None,
    /// How many are here, and how many on record.
    Some { live: usize, recorded: usize },
    /// It cannot be told.
    NotKnown(String),
}

pub(super) fn look(machine: &Machine) -> Result<V4, FileError> {
    let versions = machine.word("proc/fs/nfsd/versions")?;
    if !versions.split_ascii_whitespace().any(|version| version.starts_with("+4")) {
        return Ok(V4::None);
    }
    let live = match machine.v4_clients() {
        Ok(live) => live,
        Err(error) => return Ok(V4::NotKnown(format!("its NFSv4 clients cannot be listed: {error}"))),
    };
    let mut recorded = 0;
    if let Ok(dir) = machine.word("proc/fs/nfsd/nfsv4recoverydir")
        && let Ok(listed) = machine.list(dir.trim_start_matches('/'))
    {
        recorded += listed.len();
    }
    for database in DATABASES {
        let path = machine.path(database);
        if !path.exists() {
            continue;
        }
        match rows(&path) {
            Ok(found) => recorded += found,
            Err(error) => return Ok(V4::NotKnown(format!("{} cannot be read: {error}", path.display()))),
        }
    }
    Ok(if live + recorded == 0 { V4::None } else { V4::Some { live, recorded } })
}

/// What became of NFSv4's grace.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grace {
    /// It is seen to be over.
    Over,
    /// The kernel took the request to end it, and it is not over yet.
    Ending,
    /// The kernel answers EBUSY: it was asked before, or (Linux 7.3) has no record of NFSv4 clients.
    Busy,
}

/// Ends NFSv4's grace, and looks whether it is over.
pub(super) fn end_grace(machine: &Machine) -> Result<Grace, FileError> {
    ask_and_see(|| machine.write(END_GRACE, "Y\n"), || machine.v4_in_grace(), ENDS)
}

fn ask_and_see(
    ask: impl Fn() -> Result<(), FileError>,
    in_grace: impl Fn() -> Result<bool, FileError>,
    patience: Duration,
) -> Result<Grace, FileError> {
    let until = Instant::now() + patience;
    let mut grace = Grace::Busy;
    loop {
        // What is busy now may take the request a moment later: it looks for that record when nfsd starts.
        let asked = if grace == Grace::Busy { ask() } else { Ok(()) };
        if !in_grace()? {
            return Ok(Grace::Over);
        }
        match asked {
            Ok(()) => grace = Grace::Ending,
            Err(FileError::Io(.., error)) if error.raw_os_error() == Some(EBUSY) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            return Ok(grace);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Clients in a recovery database: nfsdcld has a table for each epoch, nfsdcltrack has one.
fn rows(path: &Path) -> Result<usize, rusqlite::Error> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut listed = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'rec-%' OR name = 'clients')")?;
    let tables: Vec<String> = listed.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    tables.iter().try_fold(0, |sum, table| {
        let quoted = table.replace('"', "\"\"");
        let count: i64 = database.query_row(&format!("SELECT count(*) FROM \"{quoted}\""), [], |row| row.get(0))?;
        Ok(sum + usize::try_from(count).unwrap_or(usize::MAX))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::{fs, io};

    use super::*;

    const SOON: Duration = Duration::from_millis(60);

    fn errno(number: i32) -> Result<(), FileError> {
        Err(FileError::Io("write", END_GRACE.into(), io::Error::from_raw_os_error(number)))
    }

    #[test]
    fn grace_that_ends_a_moment_after_it_was_asked_to_is_waited_for() {
        let (looks, asked) = (Cell::new(0), Cell::new(0));
        let in_grace = || Ok(looks.replace(looks.get() + 1) < 3);
        let ask = || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        assert_eq!(ask_and_see(ask, in_grace, ENDS).unwrap(), Grace::Over);
        assert_eq!((looks.get(), asked.get()), (4, 1));
    }

    #[test]
    fn grace_that_does_not_end_is_not_called_over() {
        assert_eq!(ask_and_see(|| Ok(()), || Ok(true), SOON).unwrap(), Grace::Ending);
        assert_eq!(ask_and_see(|| errno(EBUSY), || Ok(true), SOON).unwrap(), Grace::Busy);
    }

    #[test]
    fn a_kernel_that_is_busy_is_asked_again_and_any_other_refusal_is_an_error() {
        let asked = Cell::new(0);
        let ask = || if asked.replace(asked.get() + 1) < 3 { errno(EBUSY) } else { Ok(()) };
        assert_eq!(ask_and_see(ask, || Ok(asked.get() < 4), ENDS).unwrap(), Grace::Over);
        assert!(ask_and_see(|| errno(nix::libc::EIO), || Ok(true), SOON).is_err());
        // It has ended meanwhile all the same.
        assert_eq!(ask_and_see(|| errno(nix::libc::EIO), || Ok(false), SOON).unwrap(), Grace::Over);
    }

    fn host(versions: &str) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for dir in ["proc/fs/nfsd/clients", "var/lib/nfs/nfsdcld", "var/lib/nfs/v4recovery"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("proc/fs/nfsd/versions"), versions).unwrap();
        fs::write(root.path().join("proc/fs/nfsd/nfsv4recoverydir"), "/var/lib/nfs/v4recovery\n").unwrap();
        let machine = Machine::at(root.path());
        (root, machine)
    }

    #[test]
    fn with_nfsv4_off_or_nobody_there_nobody_is_disturbed() {
        let (root, machine) = host("+3 -4 -4.0 -4.1 -4.2\n");
        fs::create_dir(root.path().join("proc/fs/nfsd/clients/7")).unwrap();
        assert_eq!(look(&machine).unwrap(), V4::None);
        let (_root, machine) = host("+3 +4 +4.0 +4.1 +4.2\n");
        assert_eq!(look(&machine).unwrap(), V4::None);
    }

    #[test]
    fn clients_here_and_on_record_are_counted() {
        let (root, machine) = host("+3 +4 -4.0 +4.1 +4.2\n");
        fs::create_dir(root.path().join("proc/fs/nfsd/clients/7")).unwrap();
        fs::create_dir(root.path().join("var/lib/nfs/v4recovery/abc")).unwrap();
        let database = Connection::open(root.path().join(DATABASES[0])).unwrap();
        database
            .execute_batch(
                "CREATE TABLE \"rec-0000000000000001\" (id BLOB PRIMARY KEY, princhash BLOB);
                 INSERT INTO \"rec-0000000000000001\" VALUES (x'01', NULL), (x'02', NULL);
                 CREATE TABLE parameters (key TEXT, value TEXT);",
            )
            .unwrap();
        assert_eq!(look(&machine).unwrap(), V4::Some { live: 1, recorded: 3 });
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_an_empty_one() {
        let (root, machine) = host("+3 +4\n");
        fs::write(root.path().join(DATABASES[0]), "nonsense that is no database at all").unwrap();
        assert!(matches!(look(&machine).unwrap(), V4::NotKnown(why) if why.contains("main.sqlite")));
    }
}
