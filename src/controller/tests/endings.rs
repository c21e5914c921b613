//! Runs whose record fails.

use super::*;

#[tokio::test]
async fn a_record_that_fails_after_clients_were_told_names_the_run_and_how_to_resume_it() {
    let (fake, books) = (Fake::new(0), Books::new());
    drop(books.open());
    let schema = rusqlite::Connection::open(books.0.path().join("runs.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON run WHEN NEW.phase = 'done' BEGIN SELECT RAISE(FAIL, 'full'); END";
    schema.execute_batch(full).unwrap();
    let failure = Failure::from(start(&fake, &books).await.0.await.unwrap().unwrap_err());
    let run = fake.with(|world| world.results[0].run);
    assert!(failure.message.contains("full") && failure.message.contains(&run.to_string()), "{failure:?}");
    assert!(failure.remedy.contains("resync --resume") && failure.remedy.contains("same --db"), "{failure:?}");
    assert_eq!(failure.kind, FailureKind::Failed);

    schema.execute_batch("DROP TRIGGER full").unwrap();
    let report = go_on(&fake, &books).await.unwrap();
    assert_eq!((report.run.id, report.run.outcome), (run.to_string(), Some(Outcome::Settled)));
}
