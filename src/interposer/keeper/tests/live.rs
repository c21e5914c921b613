//! Clients in the middle of something: no lock is lost that they know of.

use super::*;
use crate::manager::knfsd::owners::Waiter;
use crate::wire::types::Cookie;

/// What settles, by the controller's word.
const ALWAYS: SettleArgs = SettleArgs { run: RUN, when: SettleWhen::Always };

fn after(seconds: u64) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_secs(seconds))
}

fn unlocks(stage: &Stage) -> usize {
    stage.done().iter().filter(|done| done.starts_with("unlock")).count()
}

/// Client 1 knows "live", has acked long ago, and does not claim "orphan".
async fn about_to_lose() -> Stage {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    stage.acked().await;
    stage
}

/// Client 2 has acked too late for anything of it to be dropped.
async fn drains() -> Stage {
    let stage = Stage::new(vec![held(1, 5, "a"), held(2, 5, "first"), held(2, 6, "last")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    stage.heard_of(RUN, |_| true).await;
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 0, 2));
    stage
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_while_a_client_reclaims_and_ends_when_it_has_done() {
    let stage = drains().await;
    // The drain alone takes 135 s.
    for _ in 0..30 {
        stage.answered(2, lock(2, 5, "first", true), Stat::Granted);
        after(5).await;
        assert_eq!(of(&stage.world).gates, 1);
    }
    stage.answered(2, lock(2, 6, "last", true), Stat::Granted);
    after(16).await;
    assert_eq!(of(&stage.world).gates, 0);
    assert_eq!(stage.killed().unsure().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reclaims_when_a_drain_has_lasted_for_as_long_as_it_may_is_unsure() {
    let stage = drains().await;
    let mut seconds = 0;
    while of(&stage.world).gates == 1 {
        stage.answered(2, lock(2, 5, "first", true), Stat::Granted);
        after(5).await;
        seconds += 5;
        assert!(seconds < 300, "it has no end");
    }
    assert!(seconds >= 250, "{seconds} s");
    assert_eq!(stage.killed().unsure().await, ["first", "last"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_which_a_reclaim_came_a_moment_before_the_end_loses_nothing() {
    for seconds in [1, 16] {
        let stage = about_to_lose().await;
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
        after(seconds).await;
        let (dropped, kept) = if seconds < 15 { (0, 1) } else { (1, 0) };
        assert_eq!(sums(stage.settle().await.counts), (1, 0, dropped, kept), "{seconds} s");
        assert_eq!(unlocks(&stage) as u64, dropped);
        // It goes on reclaiming in the drain.
        assert_eq!(stage.unsure().await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_which_a_reclaim_comes_while_it_is_held_loses_nothing() {
    let stage = about_to_lose().await;
    of(&stage.world).on_view = vec![FilterEvent::Reclaims(Address(address(1)))];
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 0, 1));
    assert_eq!((unlocks(&stage), stage.done().last().unwrap().as_str()), (0, "Drain"));
    assert_eq!(stage.unsure().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_its_client_may_have_claimed_from_another_address_is_kept_by_this_run_and_the_next() {
    let stage = about_to_lose().await;
    let (request, treated) = (lock(2, 6, "orphan", true), Treated::Taken);
    stage.tell(FilterEvent::Call(Call { number: 99, way: way(2), caller: name("c1"), request, treated }));
    stage.tell(FilterEvent::Reply(Reply { call: 99, stat: Stat::Denied }));
    after(20).await;
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 0, 1));
    assert_eq!(stage.result().result.counts.conflicts, 1);
    assert_eq!((unlocks(&stage), stage.unsure().await), (0, vec!["live".to_owned(), "orphan".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn clients_get_the_time_to_repeat_their_calls_after_the_filter_has_died() {
    let stage = about_to_lose().await;
    of(&stage.world).tell.as_ref().unwrap().send(None).unwrap();
    let refusal = stage.handle.settle(ALWAYS, ConnectionId(1)).await.unwrap_err();
    assert_eq!((refusal.code, unlocks(&stage)), (RefusalCode::StillPending, 0));
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn clients_get_the_time_to_repeat_their_calls_after_the_filter_stood_still() {
    let stage = about_to_lose().await;
    of(&stage.world).unanswered = Some(Vec::new());
    after(4).await;
    let unanswered = of(&stage.world).unanswered.take().unwrap();
    for number in unanswered {
        stage.tell(FilterEvent::Obeyed(number));
    }
    let refusal = stage.handle.settle(ALWAYS, ConnectionId(1)).await.unwrap_err();
    assert_eq!((refusal.code, unlocks(&stage)), (RefusalCode::StillPending, 0));
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_for_what_is_repeated_after_the_filter_has_died() {
    let stage = drains().await;
    after(130).await;
    of(&stage.world).tell.as_ref().unwrap().send(None).unwrap();
    after(14).await;
    assert_eq!(of(&stage.world).gates, 1);
    after(2).await;
    assert_eq!(of(&stage.world).gates, 0);
}

#[tokio::test(start_paused = true)]
async fn what_became_of_locks_is_not_known_where_another_lockd_is_there_after_the_unlocks() {
    let stage = about_to_lose().await;
    of(&stage.world).next_lockd = Some(InstanceId([2; 16]));
    let refusal = stage.handle.settle(ALWAYS, ConnectionId(1)).await.unwrap_err();
    assert_eq!((refusal.code, unlocks(&stage)), (RefusalCode::WrongPhase, 1));
    let FullResult { result, .. } = stage.result();
    assert_eq!((result.outcome, sums(result.counts)), (Outcome::Superseded, (1, 0, 0, 0)));
    assert_eq!((result.counts.unverified, of(&stage.world).gates), (1, 0));
    assert!(result.reason.as_str().contains("UNLOCK"), "{}", result.reason.as_str());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_freed_where_calls_may_have_passed_unseen_before_the_unlocks() {
    let stage = about_to_lose().await;
    of(&stage.world).loses_rules = true;
    let refusal = stage.handle.settle(ALWAYS, ConnectionId(1)).await.unwrap_err();
    assert_eq!((refusal.code, unlocks(&stage)), (RefusalCode::WrongPhase, 0));
    let FullResult { result, .. } = stage.result();
    assert_eq!((result.outcome, result.counts.dropped), (Outcome::Superseded, 0));
    assert!(!result.reason.as_str().contains("UNLOCK"), "{}", result.reason.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reclaims_while_the_drop_is_written_to_disk_loses_nothing() {
    let stage = about_to_lose().await;
    of(&stage.world).on_rules = vec![FilterEvent::Reclaims(Address(address(1)))];
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 0, 1));
    assert_eq!(unlocks(&stage), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_its_result_on_disk_whatever_becomes_of_other_files() {
    let stage = about_to_lose().await;
    std::fs::create_dir(stage.dir.path().join("odd.result")).unwrap();
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 1, 0));
    assert_eq!(stage.status().await.run.0, None);
}

#[tokio::test(start_paused = true)]
async fn packets_that_were_lost_while_the_drop_was_written_to_disk_put_it_off() {
    let stage = about_to_lose().await;
    of(&stage.world).on_rules = vec![FilterEvent::Lost];
    let refusal = stage.handle.settle(ALWAYS, ConnectionId(1)).await.unwrap_err();
    assert_eq!((refusal.code, unlocks(&stage)), (RefusalCode::StillPending, 0));
    assert_eq!(sums(stage.settle().await.counts), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_ended_stays_so_when_its_result_was_fetched() {
    let stage = about_to_lose().await;
    let active = stage.dir.path().join("active");
    let journal = std::fs::read(&active).unwrap();
    stage.settle().await;
    // As if it could not be removed.
    std::fs::write(&active, journal).unwrap();
    stage.handle.acknowledge(RunArgs { run: RUN }).await.unwrap();
    assert_eq!(run_files(stage.dir.path()).left().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_lockd_granted_to_a_waiter_in_the_run_was_not_lost_when_its_client_reclaims_it() {
    for (mode, waits_at_begin) in [(control::Mode::Strict, true), (control::Mode::Targeted, false)] {
        // It has "up" for reading, and waits for it to write.
        let reads = HeldLock { exclusive: false, ..held(2, 6, "up") };
        let stage = Stage::new(vec![held(1, 5, "a"), held(2, 6, "b"), reads]);
        if waits_at_begin {
            let waiter =
                |file| Waiter { wanted: held(2, 6, file), oh: OwnerHandle::default(), cookie: Cookie::default() };
            of(&stage.world).view.waiters = ["a", "up"].map(waiter).to_vec();
        }
        stage.begin(mode).await.unwrap();
        if !waits_at_begin {
            stage.answered(2, lock(2, 6, "a", false), Stat::Blocked);
            stage.answered(2, lock(2, 6, "up", false), Stat::Blocked);
        }
        stage.answered(1, Request::Unlock(claim(1, 5, "a", WHOLE)), Stat::Granted);
        // Here lockd calls GRANTED.
        for file in ["a", "b", "up", "lost"] {
            stage.answered(2, lock(2, 6, file, true), Stat::Granted);
        }
        stage.acked().await;
        let counts = stage.settle().await.counts;
        assert_eq!((sums(counts), counts.resurrected), ((2, 1, 0, 0), 1), "{mode:?}");
        let full = stage.result();
        let resurrected = full.locks.as_slice().iter().filter(|row| row.fate == control::Fate::Resurrected);
        assert_eq!(resurrected.map(|row| row.file.as_slice()).collect::<Vec<_>>(), [b"lost"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_queued_after_an_unlock_is_remembered_also_if_that_had_to_wait_for_a_settle() {
    let stage = about_to_lose().await;
    let answered = |number, request, stat| {
        let (way, caller, treated) = (way(1), name("c1"), Treated::Passed);
        let call = Call { number, way, caller, request, treated };
        [FilterEvent::Call(call), FilterEvent::Reply(Reply { call: number, stat })]
    };
    let unlocked = answered(98, Request::Unlock(claim(1, 6, "orphan", WHOLE)), Stat::Granted);
    let queued = answered(99, lock(1, 6, "orphan", false), Stat::Blocked);
    of(&stage.world).on_rules = [unlocked, queued].concat();
    stage.settle().await;
    // Here lockd calls GRANTED.
    stage.answered(1, lock(1, 6, "orphan", true), Stat::Granted);
    stage.status().await;
    assert_eq!(stage.result().result.late, 0);
}
