//! Older and newer schemas.

use rusqlite::params;

use super::*;
use crate::report::RunFilter;
use crate::wire::xdr;

#[test]
fn a_newer_schema_is_refused_with_words() {
    let place = Place::new();
    place.open().connection.pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    assert!(error.to_string().contains("newer nlmctl"), "{error}");
}

#[test]
fn a_record_of_the_first_version_takes_releases_and_keeps_its_runs() {
    let place = Place::new();
    let mut connection = rusqlite::Connection::open(place.path()).unwrap();
    let first = vec![M::up(include_str!("../../../migrations/0001_record.sql"))];
    Migrations::new(first).to_latest(&mut connection).unwrap();
    drop(connection);
    let mut store = place.open();
    store.create_run(&new_run(run_id(1))).unwrap();
    assert!(store.releases(1).unwrap().is_empty());
    assert!(store.stored(run_id(1)).is_ok());
}

#[test]
fn lock_rows_of_an_older_record_are_kept_and_go_with_their_run() {
    let place = Place::new();
    let id = older_record(&place, 6);
    let mut store = place.open();
    assert_eq!(rows_of(&mut store, id), [0, 1].map(|n| LockReport::from(&fate(n))));
    assert_eq!(store.prune_to(0, None).unwrap().runs, 1);
    let left: i64 = store.connection.query_row("SELECT count(*) FROM lock", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// Opens it from so many sides at once, each by `open`.
fn at_once<T: Send>(sides: usize, open: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = std::sync::Barrier::new(sides);
    std::thread::scope(|scope| {
        let each = |side| {
            let (start, open) = (&start, &open);
            scope.spawn(move || {
                start.wait();
                open(side)
            })
        };
        let sides: Vec<_> = (0..sides).map(each).collect();
        sides.into_iter().map(|side| side.join().unwrap()).collect()
    })
}

fn version(path: &Path) -> usize {
    let connection = rusqlite::Connection::open(path).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    usize::try_from(version).unwrap()
}

#[test]
fn of_many_that_make_a_record_or_bring_it_up_to_date_at_once_all_can_write() {
    for round in 0..16 {
        let place = Place::new();
        if round % 2 == 1 {
            older(1 + round % (STEPS.len() - 1))
                .to_latest(&mut rusqlite::Connection::open(place.path()).unwrap())
                .unwrap();
        }
        let opened = at_once(6, |side| {
            let mut store = Store::open(&place.path()).map_err(|error| error.to_string())?;
            store.create_run(&new_run(run_id(u8::try_from(side).unwrap()))).map_err(|error| error.to_string())
        });
        assert_eq!(opened, [const { Ok(()) }; 6], "round {round}");
        assert_eq!((version(&place.path()), place.open().list(10).unwrap().len()), (STEPS.len(), 6));
    }
}

fn older(steps: usize) -> Migrations<'static> {
    Migrations::from_slice(&STEPS[..steps])
}

#[test]
fn an_older_version_that_meets_a_newer_one_in_the_making_takes_nothing_of_it_back() {
    for round in 0..16 {
        let place = Place::new();
        let opened = at_once(4, |side| {
            if side % 2 == 0 {
                return Store::open(&place.path()).map(drop).map_err(|error| error.to_string());
            }
            let mut connection = rusqlite::Connection::open(place.path()).unwrap();
            // What it is told does not matter: it may come first, or be refused.
            let _ = connection.pragma_update(None, "journal_mode", "WAL");
            let _ = older(1 + round % 3).to_latest(&mut connection);
            Ok(())
        });
        assert_eq!(opened, [const { Ok(()) }; 4], "round {round}");
        assert_eq!(version(&place.path()), STEPS.len());
    }
}

#[test]
fn no_step_of_the_schema_can_be_taken_twice() {
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    for done in 1..=STEPS.len() {
        older(done).to_latest(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", (done - 1).to_string()).unwrap();
        older(done).to_latest(&mut connection).expect_err("a look before another process' change must not repeat it");
        connection.pragma_update(None, "user_version", done.to_string()).unwrap();
    }
}

/// A record of that many steps of the schema, with a run and two lock rows.
fn older_record(place: &Place, steps: usize) -> RunId {
    let mut connection = rusqlite::Connection::open(place.path()).unwrap();
    older(steps).to_latest(&mut connection).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    let (id, scope) = (run_id(1), r#"{"clients":[],"exports":[],"files":[]}"#);
    let run = "INSERT INTO run (id, manager, endpoint, instance, fingerprint, mode, scope, begin, phase, started_ms)
               VALUES (?1, 'nlmd', 'here', 'i', 'f', 'strict', ?2, ?3, 'done', 1)";
    connection.execute(run, params![id.to_string(), scope, xdr::encode(&new_run(id).begin)]).unwrap();
    for n in 0..2_u64 {
        write_old_lock(&connection, id, n).unwrap();
    }
    id
}

/// A lock row as an older nlmctl writes it.
fn write_old_lock(connection: &rusqlite::Connection, id: RunId, n: u64) -> rusqlite::Result<usize> {
    let lock = "INSERT INTO lock (run, ordinal, fate, client, file, range, late, row)
                VALUES (?1, ?2, 'dropped', 'c1', '0102', '0-EOF', 0, ?3)";
    connection.execute(lock, params![id.to_string(), 7 + n.cast_signed(), xdr::encode(&fate(n))])
}

#[test]
fn a_record_that_can_be_read_as_it_is_is_read_without_a_change_of_its_schema() {
    let place = Place::new();
    let id = older_record(&place, READABLE);
    // An older nlmctl in the middle of a run.
    let writer = rusqlite::Connection::open(place.path()).unwrap();
    let mut store = Store::open_existing(&place.path()).unwrap().unwrap();
    assert_eq!(rows_of(&mut store, id), [0, 1].map(|n| LockReport::from(&fate(n))));
    assert_eq!((store.list(10).unwrap().len(), store.report(id).unwrap().lost.len()), (1, 2));
    let c1 = ClientRef { name: Maybe(Some(name("c1"))), address: Maybe(None) };
    assert_eq!(store.list_only(10, &RunFilter { clients: vec![c1], changed: false }).unwrap().len(), 1);
    assert!(store.releases(10).unwrap().is_empty() && store.memories("here").unwrap().is_empty());
    assert_eq!(version(&place.path()), READABLE);
    write_old_lock(&writer, id, 2).unwrap();
}

#[test]
fn a_record_is_not_brought_up_to_date_while_an_older_nlmctl_works_with_it() {
    let place = Place::new();
    let id = older_record(&place, 5);
    let older_one = ControllerLock::take(&place.path()).unwrap();
    let writer = rusqlite::Connection::open(place.path()).unwrap();
    for refused in [Store::open(&place.path()).map(drop), Store::open_existing(&place.path()).map(drop)] {
        assert!(matches!(refused, Err(StoreError::ControllerActive { .. })), "{refused:?}");
    }
    assert_eq!(version(&place.path()), 5);
    write_old_lock(&writer, id, 2).unwrap();
    drop((older_one, writer));
    let mut store = Store::open_existing(&place.path()).unwrap().unwrap();
    assert_eq!((rows_of(&mut store, id).len(), version(&place.path())), (3, STEPS.len()));
}
