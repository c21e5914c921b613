//! The record's files: who may open them, and what is no record.

use super::*;
use crate::report::Controller;

#[test]
fn only_one_controller_works_with_a_record() {
    let place = Place::new();
    let (one, two) = (place.open(), place.open());
    let lock = one.begin_controller().unwrap();
    match two.begin_controller() {
        Err(error @ StoreError::ControllerActive { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let mut two = two;
    two.create_run(&new_run(run_id(1))).unwrap();
    assert_eq!(two.controller_of(run_id(2)).unwrap(), None, "a run of another record");
    // In another container, another nlmctl can have this process' number.
    let own = Some(std::process::id());
    assert_eq!(two.controller_of(run_id(1)).unwrap(), Some(Controller { alive: true, pid: own }));
    fs::write(place.path().with_extension("db.lock"), "77\n").unwrap();
    assert_eq!(two.controller_of(run_id(1)).unwrap(), Some(Controller { alive: true, pid: Some(77) }));
    drop(lock);
    assert_eq!(two.controller_of(run_id(1)).unwrap(), Some(Controller::GONE));
    let _again = two.begin_controller().unwrap();
}

#[test]
fn a_missing_directory_is_named_with_what_to_do() {
    let error = Store::open(Path::new("/nonexistent/folder/runs.db")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/folder"), "{error}");
    assert!(error.remedy().contains("mkdir -p /nonexistent/folder"), "{}", error.remedy());
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let text = "this is not a database, it is a text of more than a hundred bytes ".repeat(4);
    fs::write(place.path(), &text).unwrap();
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.remedy().contains("runs.db-wal"), "{}", error.remedy());
    assert_eq!(fs::read_to_string(place.path()).unwrap(), text);
}

#[test]
fn a_folder_or_a_pipe_is_no_record_to_read() {
    let place = Place::new();
    let pipe = place.path().with_extension("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [place.path().parent().unwrap(), &pipe] {
        let error = Store::open_existing(path).unwrap_err();
        assert!(matches!(error, StoreError::NoFile { .. }), "{error:?}");
        assert!(error.to_string().contains("not a file"), "{error}");
    }
}

#[test]
fn a_record_that_can_be_read_but_not_beside_its_files_says_how_to_read_it() {
    let place = Place::new();
    drop(place.open());
    let path = place.path();
    for met in [StoreError::CannotOpen { path: path.clone() }, StoreError::ReadOnly { path: path.clone() }] {
        let remedy = met.of_reading().remedy();
        assert!(remedy.contains(&format!("copy {0}, and {0}-wal", path.display())), "{remedy}");
    }
    let missing = StoreError::CannotOpen { path: path.with_extension("not") }.of_reading();
    assert!(matches!(missing, StoreError::CannotOpen { .. }), "{missing:?}");
}

#[test]
fn an_error_of_the_disk_is_told_as_no_room_only_if_there_is_none() {
    let met = |path: &Path| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
        StoreError::of(path, rusqlite::Error::SqliteFailure(code, None))
    };
    assert!(matches!(met(Path::new("/proc/runs.db")), StoreError::Full { .. }), "a file system without blocks");
    assert!(matches!(met(&Place::new().path()), StoreError::Sqlite { .. }));
}

#[test]
fn a_damaged_record_is_an_error_and_not_a_wrong_answer() {
    let place = Place::new();
    whole_run(&mut place.open(), run_id(1));
    let mut bytes = fs::read(place.path()).unwrap();
    for byte in bytes.iter_mut().skip(100) {
        *byte = 0xa5;
    }
    fs::write(place.path(), bytes).unwrap();
    let error = Store::open(&place.path()).and_then(|s| s.report(run_id(1))).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn somebody_elses_database_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let before = fs::read(place.path()).unwrap();
    assert!(matches!(Store::open(&place.path()), Err(StoreError::NotOurs { .. })));
    assert_eq!(fs::read(place.path()).unwrap(), before);
}

#[test]
fn what_may_not_be_written_says_so_and_can_still_be_read() {
    if nix::unistd::geteuid().is_root() {
        // root may write everything: the immutable bit of SQLite stands in for the permission.
        let place = Place::new();
        whole_run(&mut place.open(), run_id(1));
        let mut store = place.open();
        store.connection.pragma_update(None, "query_only", "ON").unwrap();
        let error = store.event(run_id(1), "x", "").unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
        assert!(error.remedy().contains("--db"), "{}", error.remedy());
        return;
    }
    let place = Place::new();
    whole_run(&mut place.open(), run_id(1));
    set_mode(&place.path(), 0o444);
    set_mode(place.dir.path(), 0o555);
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    let read = Store::open_existing(&place.path()).map(|s| s.unwrap().report(run_id(1)).unwrap().run.exit);
    set_mode(&place.path(), 0o000);
    let hidden = Store::open(&place.path()).unwrap_err();
    set_mode(place.dir.path(), 0o755);
    assert_eq!(read.unwrap(), Some(3));
    assert!(matches!(hidden, StoreError::CannotOpen { .. }), "{hidden:?}");
}

#[test]
fn a_directory_in_place_of_the_database_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(Store::open(&place.path()), Err(StoreError::CannotOpen { .. })));
}

#[test]
fn where_there_is_no_record_there_is_none_to_read_and_none_is_made() {
    let place = Place::new();
    assert!(Store::open_existing(&place.path()).unwrap().is_none());
    assert!(!place.path().exists());
}

#[test]
fn a_store_can_be_sent_to_a_blocking_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Store>();
    is_send::<ControllerLock>();
    is_send::<StoreError>();
}

#[test]
fn every_file_of_the_record_is_its_owners_alone() {
    let place = Place::new();
    let mut store = place.open();
    store.create_run(&new_run(run_id(1))).unwrap();
    let _lock = store.begin_controller().unwrap();
    let mut files = 0;
    for entry in fs::read_dir(place.dir.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
        files += 1;
    }
    assert!(files >= 3, "the database, what SQLite has beside it, the lock: {files}");
}

#[test]
fn a_record_that_all_could_read_becomes_its_owners_alone() {
    let place = Place::new();
    drop(place.open());
    set_mode(&place.path(), 0o644);
    drop(place.open());
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_record_where_others_can_write_is_refused_with_what_to_do() {
    let place = Place::new();
    set_mode(place.dir.path(), 0o1777);
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Unsafe { .. }));
    assert!(error.to_string().contains("other users can write in it (mode 1777)"), "{error}");
    assert!(!place.path().exists());
}
