//! Older and newer schemas.

use rusqlite::params;
use rusqlite::types::Value;

use super::*;
use crate::report::Stamp;
use crate::wire::xdr;

#[test]
fn a_newer_schema_is_refused_with_words_and_its_file_is_left_as_it_is() {
    let place = Place::new();
    let newer = place.open().connection;
    newer.pragma_update(None, "journal_mode", "DELETE").unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let before = fs::read(place.path()).unwrap();
    let error = Store::open(&place.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    assert!(error.to_string().contains("newer nlmctl"), "{error}");
    assert!(fs::read(place.path()).unwrap() == before);
}

/// A record that so many steps made, with two runs and all that they had then.
fn older_record(place: &Place, steps: usize) {
    let mut connection = rusqlite::Connection::open(place.path()).unwrap();
    older(steps).to_latest(&mut connection).unwrap();
    let scope = r#"{"clients":["c1"],"exports":[],"files":[]}"#;
    for (started, id) in [(1_i64, run_id(2)), (2, run_id(1))] {
        let begin = xdr::encode(&new_run(id).begin);
        let id = id.to_string();
        // Columns that have no default any more.
        let more = if steps < 8 { ("", "") } else { (", knows_owners, names", ", 1, '[]'") };
        let sql = format!(
            "INSERT INTO run (id, manager, endpoint, instance, fingerprint, mode, scope, begin, phase, outcome, exit,
             old_state, new_state, started_ms, ended_ms, in_scope, dropped{}) VALUES
             (?1, 'nlmd', 'here', 'i', 'f', 'strict', ?2, ?3, 'done', 'settled', 3, 41, 43, ?4, 1000, 2, 2{})",
            more.0, more.1
        );
        connection.execute(&sql, params![id, scope, begin, started]).unwrap();
        let run = if steps < 8 { Value::Text(id) } else { Value::Integer(connection.last_insert_rowid()) };
        connection
            .execute(
                "INSERT INTO client (run, number, name, address, row, suspect, probe, delivery, silent, attempts, acked_ms,
                 in_scope, dropped) VALUES (?1, 0, 'c0', '127.1.0.0', ?2, 1, 'answers', 'acked', 1, 4, ?3, 2, 2)",
                params![run, xdr::encode(&client(0).client), started],
            )
            .unwrap();
        connection.execute("INSERT INTO event VALUES (?1, ?2, 'begun', 'x')", params![run, started]).unwrap();
        if steps >= 5 {
            connection.execute("INSERT INTO progress VALUES (?1, ?2, 7)", params![run, started]).unwrap();
        }
        // They had columns that the blob has too.
        let more = if steps < 7 { ("file, range, late,", "'0102', '0-EOF', 0,") } else { ("", "") };
        let sql = match steps {
            8.. => "INSERT INTO lock (place, fate, row) VALUES (?1 << 33 | ?2, 'dropped', ?3)".to_owned(),
            _ => format!(
                "INSERT INTO lock (run, ordinal, fate, client, {} row) VALUES (?1, ?2, 'dropped', 'c1', {} ?3)",
                more.0, more.1
            ),
        };
        for (ordinal, n) in [(0, started), (1_i64 << 32, started + 10)] {
            connection.execute(&sql, params![run, ordinal, xdr::encode(&fate(n.unsigned_abs()))]).unwrap();
        }
    }
}

#[test]
fn what_a_record_of_any_older_version_has_is_kept_and_goes_with_its_run() {
    for steps in 1..STEPS.len() {
        let place = Place::new();
        older_record(&place, steps);
        let mut store = place.open();
        for (started, id) in [(1, run_id(2)), (2, run_id(1))] {
            assert_eq!(store.stored(id).unwrap().begin, new_run(id).begin);
            assert_eq!(store.clients(id).unwrap()[0].client, client(0).client);
            assert_eq!(rows_of(&mut store, id), [started, started + 10].map(|n| LockReport::from(&fate(n))));
            let detail = store.detail(id).unwrap();
            let (report, seen) = (&detail.report, &detail.report.clients[0]);
            assert_eq!((report.run.started_at, report.locks.dropped), (Stamp(started), 2), "from version {steps}");
            assert_eq!((report.run.exit, report.state.new, report.run.scope.clients.len()), (Some(3), Some(43), 1));
            assert_eq!((seen.acked_ms, seen.attempts, seen.fate), (Some(started), 4, ClientFate::Silent));
            assert_eq!((seen.suspect, seen.locks.unwrap().dropped, report.lost.len()), (true, 2, 2));
            assert_eq!(detail.events.iter().map(|event| event.at).collect::<Vec<_>>(), [Stamp(started)]);
            let progress: Vec<_> = detail.progress.iter().map(|row| (row.elapsed_ms, row.pending)).collect();
            assert_eq!(progress, if steps < 5 { vec![] } else { vec![(started, 7)] });
        }
        assert_eq!(
            store.list(9).unwrap().iter().map(|run| &run.id).collect::<Vec<_>>(),
            [&run_id(1).to_string(), &run_id(2).to_string()]
        );
        store.create_run(&new_run(run_id(3))).unwrap();
        assert_eq!(store.prune_to(2, None).unwrap().runs, 1);
        assert_eq!(rows_of(&mut store, run_id(1)).len(), 2, "the newer run stays, with its locks");
        let left: i64 = store.connection.query_row("SELECT count(*) FROM lock", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 2);
    }
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

#[test]
fn a_record_is_not_brought_up_to_date_while_an_older_nlmctl_works_with_it() {
    let place = Place::new();
    older_record(&place, 5);
    let writer = rusqlite::Connection::open(place.path()).unwrap();
    writer.pragma_update(None, "journal_mode", "WAL").unwrap();
    assert!(Store::open_to_look(&place.path()).unwrap().is_none());
    assert!(!place.path().with_extension("db.lock").exists(), "a look makes no lock file");
    let older_one = ControllerLock::take(&place.path()).unwrap();
    assert!(Store::open_to_look(&place.path()).unwrap().is_none(), "nor does it wait");
    for refused in [Store::open(&place.path()).map(drop), Store::open_existing(&place.path()).map(drop)] {
        assert!(matches!(refused, Err(StoreError::ControllerActive { .. })), "{refused:?}");
    }
    assert_eq!(version(&place.path()), 5);
    let lock = "INSERT INTO lock (run, ordinal, fate, client, file, range, late, row)
                VALUES (?1, 7, 'dropped', 'c1', '0102', '0-EOF', 0, ?2)";
    let id = run_id(1);
    writer.execute(lock, params![id.to_string(), xdr::encode(&fate(3))]).unwrap();
    drop((older_one, writer));
    let mut store = Store::open_existing(&place.path()).unwrap().unwrap();
    assert!(Store::open_to_look(&place.path()).unwrap().is_some());
    assert_eq!((rows_of(&mut store, id).len(), version(&place.path())), (3, STEPS.len()));
}

#[test]
fn of_older_runs_only_those_in_strict_grace_show_who_understood() {
    let place = Place::new();
    let connection = {
        let mut connection = rusqlite::Connection::open(place.path()).unwrap();
        older(8).to_latest(&mut connection).unwrap();
        connection
    };
    for (id, mode) in [(run_id(1), "strict"), (run_id(2), "targeted")] {
        let run = "INSERT INTO run (id, manager, endpoint, instance, knows_owners, fingerprint, mode, scope, names, begin, phase,
                   started_ms) VALUES (?1, 'nlmd', 'here', 'i', 1, 'f', ?2, '{}', '[\"nas\"]', ?3, 'done', 1)";
        connection.execute(run, params![id.to_string(), mode, xdr::encode(&new_run(id).begin)]).unwrap();
        for reclaimed in [0, 1] {
            let client = "INSERT INTO client (run, number, name, address, row, suspect, probe, reclaimed)
                          VALUES ((SELECT max(number) FROM run), ?1, ?2, '127.1.0.1', x'', 0, 'answers', ?1)";
            connection.execute(client, params![reclaimed, format!("{mode}{reclaimed}")]).unwrap();
        }
    }
    drop(connection);
    let store = place.open();
    for (client, expected) in [("strict0", false), ("strict1", true), ("targeted0", false), ("targeted1", false)] {
        let key = (client.to_owned(), address("127.1.0.1"));
        assert_eq!(store.has_understood("here", &key, &[name("nas")]).unwrap(), expected, "{client}");
    }
}
