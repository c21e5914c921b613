//! What clients meet while a run is on, and what is left of their locks after it.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::{LIMIT, World, common as shared, own};
use nlmctl::internals::demo::{Behaviour, ClientNo};
use nlmctl::wire::nlm::Stat;
use nlmctl::wire::types::{CallerName, NsmState};

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_grace_ordinary_locks_are_refused_and_unlocks_taken() {
    let world = World::locked(2, 2).await;
    world.behave(0, Behaviour::silent());
    let run = world.start(&["resync", "--yes", "--grace", "3s"]);
    world.all_notified().await;
    let [silent, other] = [ClientNo(0), ClientNo(1)];
    world.until("the other one has reclaimed", |farm| farm.reclaims(other).granted == 2).await;
    assert_eq!(world.farm.lock(other, &own(other, 9), false).await.unwrap(), Stat::DeniedGracePeriod);
    assert_eq!(world.farm.unlock(other, &own(other, 0)).await.unwrap(), Stat::Granted);
    assert_eq!(world.farm.unlock(silent, &own(silent, 0)).await.unwrap(), Stat::Granted);
    let ran = run.end().await;
    assert_eq!(ran.locks("released"), 1, "the pending lock that its owner unlocked: {ran:#?}");
    assert_eq!(world.farm.lock(other, &own(other, 9), false).await.unwrap(), Stat::Granted, "grace is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_targeted_grace_only_what_meets_a_pending_lock_is_refused() {
    let world = World::with(2).await;
    let [silent, other] = [ClientNo(0), ClientNo(1)];
    world.take(silent, &shared(0)).await;
    world.behave(0, Behaviour::silent());
    let run = world.start(&["resync", "--yes", "--mode", "targeted", "--grace", "3s"]);
    world.until("the one with the lock is notified", |farm| !farm.notices().is_empty()).await;
    assert_eq!(world.farm.lock(other, &shared(1), false).await.unwrap(), Stat::Granted, "a range beside it");
    assert_eq!(world.farm.lock(other, &own(other, 0), false).await.unwrap(), Stat::Granted, "another file");
    assert_eq!(world.farm.lock(other, &shared(0), false).await.unwrap(), Stat::DeniedGracePeriod, "the pending range");
    assert_eq!(world.farm.unlock(other, &shared(1)).await.unwrap(), Stat::Granted);
    let ran = run.end().await;
    assert_eq!(ran.json()["run"]["mode"], "targeted");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_client_does_not_make_grace_last_until_the_deadline_for_everybody() {
    let world = World::locked(3, 2).await;
    let [dead, other] = [ClientNo(0), ClientNo(1)];
    world.farm.crash(dead);
    let began = Instant::now();
    let ran = world.run(&["resync", "--yes", "--grace", "90s"]).await.exits(3);
    // The record counts from the answer to BEGIN, and grace has lasted a moment by then.
    assert!(began.elapsed() >= Duration::from_secs(30), "a slow client has 30 seconds: {:?}", began.elapsed());
    assert_eq!((ran.locks("reclaimed"), ran.locks("kept"), ran.locks("dropped")), (4, 2, 0));
    let elapsed = ran.json()["run"]["elapsed_ms"].as_u64().unwrap();
    assert!(elapsed < 45_000, "and grace does not last until the deadline: {elapsed}");
    assert_eq!(world.farm.lock(other, &own(dead, 0), false).await.unwrap(), Stat::Denied, "the dead one's is held");
    assert_eq!(world.farm.lock(other, &own(other, 9), false).await.unwrap(), Stat::Granted, "grace is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lock_frees_its_range_and_a_kept_one_does_not() {
    let world = World::with(3).await;
    let [stale, other, third] = [ClientNo(0), ClientNo(1), ClientNo(2)];
    for (who, number) in [(stale, 0), (stale, 1), (other, 2), (third, 3)] {
        world.take(who, &shared(number)).await;
    }
    world.farm.forget(stale, &shared(0));
    let ran = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3);
    assert_eq!((ran.locks("in_scope"), ran.locks("reclaimed"), ran.locks("dropped")), (4, 3, 1));
    assert_eq!(world.farm.lock(other, &shared(0), false).await.unwrap(), Stat::Granted, "dropped");
    assert_eq!(world.farm.lock(other, &shared(1), false).await.unwrap(), Stat::Denied, "reclaimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_client_acks_and_reclaims_nothing_nothing_is_dropped() {
    let world = World::locked(3, 2).await;
    world.all_behave(Behaviour::silent());
    let ran = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(4);
    assert_eq!((ran.locks("in_scope"), ran.locks("dropped"), ran.locks("kept")), (6, 0, 6));
    assert_eq!(ran.json()["run"]["outcome"], "settled");
    assert_eq!(world.held().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_ack_are_kept_unless_the_plan_named_them_and_drop_was_asked_for() {
    let world = World::locked(3, 2).await;
    world.behave(0, Behaviour::deaf());
    let ran = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3);
    assert_eq!((ran.locks("kept"), ran.locks("dropped"), ran.locks("reclaimed")), (2, 0, 4));
    // It answers SM_STAT, so the plan does not name it, and drop does not cover it.
    let ran = world.run(&["resync", "--yes", "--grace", "1s", "--unreachable", "drop"]).await.exits(3);
    assert_eq!((ran.locks("kept"), ran.locks("dropped"), ran.locks("reclaimed")), (2, 0, 4));
    world.farm.crash(world.clients[0]);
    let ran = world.run(&["resync", "--yes", "--grace", "1s", "--unreachable", "drop"]).await.exits(3);
    assert_eq!((ran.locks("kept"), ran.locks("dropped"), ran.locks("reclaimed")), (0, 2, 4));
    assert_eq!(world.held().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_gives_every_pending_lock_back_and_its_late_reclaims_are_granted() {
    let world = World::locked(2, 3).await;
    world.all_behave(Behaviour::silent());
    let run = world.start(&["resync", "--yes", "--grace", "20s"]);
    world.all_notified().await;
    world.run(&["abort"]).await.exits(0);
    let ran = run.end().await.exits(1);
    assert_eq!(ran.json()["run"]["outcome"], "aborted");
    assert_eq!((ran.locks("kept"), ran.locks("dropped")), (6, 0));
    assert_eq!(world.held().await, 6);
    for &who in &world.clients {
        for lock in world.farm.beliefs(who) {
            assert_eq!(world.farm.reclaim(who, &lock).await.unwrap(), Stat::Granted);
        }
    }
    assert_eq!(world.held().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reclaim_after_settle_keeps_its_lock_if_nobody_was_granted_the_range() {
    let world = World::with(3).await;
    let [late, other, third] = [ClientNo(0), ClientNo(1), ClientNo(2)];
    for (who, number) in [(late, 0), (late, 1), (other, 2), (third, 3)] {
        world.take(who, &shared(number)).await;
    }
    // It acks in time and reclaims nothing in time: dropped, as one silent client of three.
    world.behave(0, Behaviour::silent());
    let ran = world.run(&["resync", "--yes", "--grace", "1s", "--grace-max", "60s"]).await.exits(3);
    assert_eq!((ran.locks("dropped"), ran.locks("reclaimed")), (2, 2));
    world.take(other, &shared(1)).await;
    assert_eq!(world.farm.reclaim(late, &shared(0)).await.unwrap(), Stat::Granted, "late, and nobody had it");
    assert_ne!(world.farm.reclaim(late, &shared(1)).await.unwrap(), Stat::Granted, "late, and another has it");
    assert_eq!(world.held().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_what_another_holds_is_refused_and_both_owners_are_named() {
    let world = World::with(2).await;
    let [holder, claimer] = [ClientNo(0), ClientNo(1)];
    world.take(holder, &shared(0)).await;
    world.take(claimer, &own(claimer, 0)).await;
    world.behave(0, Behaviour { reclaim_after: Duration::from_millis(700), ..Behaviour::default() });
    let run = world.start(&["resync", "--yes", "--grace", "5s"]);
    world.all_notified().await;
    assert_eq!(world.farm.reclaim(claimer, &shared(0)).await.unwrap(), Stat::Denied);
    let ran = run.end().await.exits(6);
    assert_eq!((ran.locks("reclaimed"), ran.locks("conflicts")), (2, 1));
    let id = ran.json()["run"]["id"].as_str().unwrap().to_owned();
    let shown = world.run(&["runs", "show", &id]).await.exits(0).stdout;
    assert!(shown.contains("host1.test") && shown.contains("host2.test"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_of_a_client_that_acked_shortly_before_the_end() {
    let world = World::locked(3, 2).await;
    world.behave(0, Behaviour { ack_after: Duration::from_secs(2), ..Behaviour::silent() });
    let ran = world.run(&["resync", "--yes", "--grace", "3s", "--grace-max", "3s"]).await.exits(3);
    assert_eq!((ran.locks("reclaimed"), ran.locks("dropped"), ran.locks("kept")), (4, 0, 2), "{ran:#?}");
    assert_eq!(world.held().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_carry_one_new_odd_state_and_come_from_the_address_that_was_called() {
    let world = World::locked(3, 1).await;
    let before = world.run(&["status"]).await.exits(0).json()["manager"]["nsm_state"].as_i64().unwrap();
    let ran = world.run(&["resync", "--yes", "--grace", "5s"]).await.exits(0);
    let state = &ran.json()["state"];
    let new = i32::try_from(state["new"].as_i64().unwrap()).unwrap();
    assert_eq!(state["old"].as_i64().unwrap(), before);
    assert!(new % 2 != 0 && i64::from(new) != before, "{state}");
    let notices = world.farm.notices();
    assert!(!notices.is_empty());
    for notice in notices {
        assert_eq!(notice.state, NsmState(new), "{notice:?}");
        assert_eq!(notice.source, std::net::Ipv4Addr::LOCALHOST, "{notice:?}");
        assert!(common::SERVER.starts_with(notice.name.short()), "{notice:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_is_granted_after_the_run_when_the_lock_before_it_is_dropped() {
    let world = World::with(3).await;
    let [stale, waiter, third] = [ClientNo(0), ClientNo(1), ClientNo(2)];
    world.take(stale, &shared(0)).await;
    world.take(stale, &own(stale, 0)).await;
    world.take(third, &own(third, 0)).await;
    assert_eq!(world.farm.lock(waiter, &shared(0), true).await.unwrap(), Stat::Blocked);
    world.farm.forget(stale, &shared(0));
    let ran = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3);
    assert_eq!((ran.locks("in_scope"), ran.locks("reclaimed"), ran.locks("dropped")), (3, 2, 1));
    let granted = world.farm.until(LIMIT, |farm| farm.beliefs(waiter).contains(&shared(0))).await;
    assert!(granted, "nlmd said: {}", world.server.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_for_one_client_tells_and_marks_nobody_else() {
    let world = World::locked(3, 2).await;
    let stale = ClientNo(1);
    world.farm.forget(stale, &own(stale, 0));
    let ran = world.run(&["resync", "--yes", "--client", "host2.test", "--grace", "1s"]).await.exits(3);
    assert_eq!((ran.locks("in_scope"), ran.locks("reclaimed"), ran.locks("dropped")), (2, 1, 1));
    assert_eq!(ran.json()["run"]["mode"], "targeted");
    assert!(world.farm.notices().iter().all(|notice| notice.client == stale));
    assert_eq!(world.held().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_from_an_address_that_two_clients_share_is_evidence_for_neither() {
    let world = World::locked(2, 1).await;
    let behind_nat = |name| world.farm.add(std::net::Ipv4Addr::new(127, 9, 1, 1), CallerName::new(name).unwrap());
    let [reclaims, silent] = [behind_nat("inside1.test"), behind_nat("inside2.test")];
    world.farm.behave(silent, Behaviour::silent());
    world.take(reclaims, &own(reclaims, 0)).await;
    world.take(silent, &own(silent, 0)).await;
    let ran = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3);
    assert_eq!((ran.locks("reclaimed"), ran.locks("kept"), ran.locks("dropped")), (3, 1, 0), "{ran:#?}");
    assert_eq!(world.held().await, 4);
}
