//! A disk that takes no result when the run ends: it is written later, and no run is taken for one whose keeper was killed.

use super::*;

/// Long enough for the tries of a settle, and shorter than a drain.
const TRIES: Duration = Duration::from_secs(8);

impl Stage {
    /// The keeper's folder is there again, and it has had time to see that.
    async fn heal(&self) {
        std::fs::rename(self.dir.path().with_extension("away"), self.dir.path()).unwrap();
        tokio::time::sleep(TRIES).await;
    }

    fn break_disk(&self) {
        std::fs::rename(self.dir.path(), self.dir.path().with_extension("away")).unwrap();
    }

    fn is_active_on_disk(&self) -> bool {
        run_files(self.dir.path()).left().unwrap().is_some()
    }

    async fn code_of_result(&self) -> RefusalCode {
        self.handle.result(RunArgs { run: RUN }).await.unwrap_err().code
    }
}

#[tokio::test(start_paused = true)]
async fn a_settle_whose_result_the_disk_does_not_take_is_on_disk_once_it_does_with_the_late_reclaims() {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    stage.acked().await;
    of(&stage.world).folder = Some(stage.dir.path().to_owned());
    let result = stage.settle().await;
    assert_eq!(sums(result.counts), (1, 0, 1, 0));
    // The controller asks again for as long as this is the answer.
    assert_eq!(stage.code_of_result().await, RefusalCode::WrongPhase);
    assert_eq!(stage.settle().await, result);
    stage.answered(1, lock(1, 6, "orphan", true), Stat::Granted);
    tokio::time::sleep(TRIES).await;
    stage.heal().await;
    assert!(!stage.is_active_on_disk());
    let full = stage.result();
    assert_eq!((full.result.counts, full.result.late), (result.counts, 1));
    assert_eq!(stage.handle.result(RunArgs { run: RUN }).await.unwrap().outcome, Outcome::Settled);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_aborted_or_superseded_while_the_disk_is_full_is_on_disk_later_also_after_its_drain() {
    for superseded in [false, true] {
        let stage = Stage::new(vec![held(1, 5, "a")]);
        stage.begin(control::Mode::Strict).await.unwrap();
        stage.acked().await;
        stage.break_disk();
        if superseded {
            stage.tell(FilterEvent::Superseded(Text::clipped("lockd is in grace")));
        } else {
            stage.handle.abort(RunArgs { run: RUN }).await.unwrap();
        }
        // Longer than a drain, and than a keeper without a run waits for a call.
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(of(&stage.world).gates, 0);
        assert_eq!(stage.code_of_result().await, RefusalCode::WrongPhase);
        let next = stage.args(RunId([8; 16]), control::Mode::Strict);
        let refusal = stage.handle.begin(next.clone(), ConnectionId(2)).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotDurable);
        stage.heal().await;
        assert!(!stage.is_active_on_disk());
        let outcome = if superseded { Outcome::Superseded } else { Outcome::Aborted };
        assert_eq!(stage.result().result.outcome, outcome);
        stage.handle.begin(next, ConnectionId(2)).await.unwrap();
        assert!(stage.is_active_on_disk(), "the next run's file is its own");
    }
}
