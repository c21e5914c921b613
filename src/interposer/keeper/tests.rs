//! The keeper before a made-up lockd: what it orders, what it drops, what it keeps.

mod hosts;
mod live;
mod owed;
mod stage;
mod unsure;

use std::net::IpAddr;
use std::time::Duration;

use crate::interposer::messages::{Blind, Call, FilterEvent, Mode, Order, Reply, Request, Treated, Way};
use crate::manager::knfsd::owners::HeldLock;
use crate::rpc::control::LockManagerControl;
use crate::rpc::server::ConnectionId;
use crate::wire::control::{
    self, ClientRow, FullResult, InstanceId, Outcome, RefusalCode, RunArgs, RunId, RunPageAfter, SettleArgs,
    SettleWhen, Unreachable,
};
use crate::wire::nlm::Stat;
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle};
use crate::wire::xdr::{List, Text};
use stage::*;

#[tokio::test]
async fn lockd_is_said_to_exclude_processes_of_this_host_and_nfsv4_too() {
    let info = Stage::new(vec![]).handle.info().await.unwrap();
    let domains: Vec<&str> = info.domains.as_slice().iter().map(Text::as_str).collect();
    assert_eq!(domains, ["nlm", "nfsv4", "local processes"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_when_the_state_is_raised_and_the_mode_is_on_and_proven() {
    let stage = Stage::new(vec![held(1, 5, "a"), held(2, 5, "b")]);
    let begun = stage.begin(control::Mode::Strict).await.unwrap();
    assert_eq!((begun.in_scope, begun.clients, begun.old_state, begun.new_state), (2, 2, NsmState(1), NsmState(3)));
    assert_eq!(stage.done(), ["gate", "raised", "Strict", "proof of Strict"]);
    assert_eq!(run_files(stage.dir.path()).left().unwrap().unwrap().begun, begun);
    assert_eq!(stage.begin(control::Mode::Strict).await.unwrap(), begun, "the same run once more");
}

#[tokio::test(start_paused = true)]
async fn a_run_is_refused_and_leaves_nothing_where_the_proof_fails() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    of(&stage.world).refuses_proof = true;
    let refusal = stage.begin(control::Mode::Strict).await.unwrap_err();
    assert!(refusal.message.as_str().contains("an ordinary LOCK was granted"), "{refusal}");
    assert_eq!((of(&stage.world).gates, run_files(stage.dir.path()).left().unwrap()), (0, None));
    assert_eq!(stage.status().await.run.0, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_reclaimed_stays_and_what_was_forgotten_is_freed_while_its_client_is_held() {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan"), held(2, 5, "b")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    stage.answered(2, lock(2, 5, "b", true), Stat::Granted);
    stage.acked().await;
    let result = stage.settle().await;
    assert_eq!(sums(result.counts), (2, 0, 1, 0));
    assert_eq!(stage.done()[4..], ["hold", "unlock orphan", "let go", "Drain"]);
    assert_eq!(of(&stage.world).view.locks.len(), 2);
    assert_eq!((stage.result().result, run_files(stage.dir.path()).left().unwrap()), (result, None));
    // The gate stands until no late reclaim can come any more.
    assert_eq!(of(&stage.world).gates, 1);
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(of(&stage.world).gates, 0);
    assert_eq!(stage.done()[8..], ["Off", "no gate"]);
}

/// A run in which client 1 acks and does not reclaim "orphan", after `spoil` has happened: how often UNLOCK was sent, and
/// the sums.
async fn spoiled(spoil: impl FnOnce(&Stage)) -> (usize, (u64, u64, u64, u64), Stage) {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    spoil(&stage);
    stage.acked().await;
    let sums = sums(stage.settle().await.counts);
    let unlocks = stage.done().iter().filter(|done| done.starts_with("unlock")).count();
    (unlocks, sums, stage)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_of_a_client_of_which_something_is_not_known() {
    let blind = |stage: &Stage| {
        let (client, why) = (Address(address(1)), Text::clipped("a record was split"));
        stage.tell(FilterEvent::Blind(Blind { client, why }));
    };
    let unanswered = |stage: &Stage| {
        stage.call(1, lock(1, 6, "orphan", true));
    };
    let refused = |stage: &Stage| stage.answered(1, lock(1, 6, "orphan", true), Stat::DeniedNolocks);
    let other_name = |stage: &Stage| {
        let (request, treated) = (lock(1, 9, "x", false), Treated::Refused);
        stage.tell(FilterEvent::Call(Call { number: 99, way: way(1), caller: name("clone"), request, treated }));
        stage.tell(FilterEvent::Reply(Reply { call: 99, stat: Stat::DeniedGracePeriod }));
    };
    let filter_died = |stage: &Stage| {
        stage.call(1, lock(1, 6, "orphan", true));
        of(&stage.world).tell.as_ref().unwrap().send(None).unwrap();
    };
    for (what, kept) in [
        ("blind", spoiled(blind).await),
        ("unanswered", spoiled(unanswered).await),
        ("refused", spoiled(refused).await),
        ("another name", spoiled(other_name).await),
        ("the filter died", spoiled(filter_died).await),
    ] {
        assert_eq!((kept.0, kept.1), (0, (1, 0, 0, 1)), "{what}");
    }
    let (unlocks, sums, _) = spoiled(|_| {}).await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)), "without all that it is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_again_is_answered_once() {
    let (unlocks, sums, _) = spoiled(|stage| {
        stage.call(1, lock(1, 5, "live", true));
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    })
    .await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_lockd_does_not_give_up_is_kept_and_the_reason_told() {
    let (unlocks, sums, stage) = spoiled(|stage| of(&stage.world).stubborn = Some("orphan")).await;
    assert_eq!((unlocks, sums), (1, (1, 0, 0, 1)));
    let events = stage.handle.watch(control::WatchArgs { cursor: 0, timeout_ms: 0 }).await.unwrap().events;
    let told = events.as_slice().iter().any(|event| event.detail.as_str().contains("lockd would not"));
    assert!(told, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_unlock_lockd_has_not_answered_is_not_said_to_be_kept() {
    let (unlocks, sums, stage) = spoiled(|stage| of(&stage.world).is_late = true).await;
    assert_eq!((unlocks, sums), (1, (1, 0, 0, 0)));
    let full = stage.result();
    assert_eq!(full.result.counts.unverified, 1);
    assert!(full.locks.as_slice().iter().all(|row| row.fate != control::Fate::Kept), "{:?}", full.locks);
    let events = stage.handle.watch(control::WatchArgs { cursor: 0, timeout_ms: 0 }).await.unwrap().events;
    let told = events.as_slice().iter().any(|event| event.detail.as_str().contains("lockd would not"));
    assert!(told, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_went_away_unseen_was_released_and_no_unlock_is_sent_for_it() {
    let (unlocks, sums, _) = spoiled(|stage| of(&stage.world).view.locks.retain(|lock| lock.owner.svid.0 == 5)).await;
    assert_eq!((unlocks, sums), (0, (1, 1, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn locks_of_a_client_that_is_rebooted_in_the_run_were_released_also_where_policy_keeps_all() {
    let stage = Stage::new(vec![held(1, 5, "a"), held(2, 5, "gone"), held(2, 6, "there")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    // It was down when the run began: statd here hears of its boot, and lockd frees what it had.
    stage.heard_of(RUN, |name| name == "c1").await;
    of(&stage.world).view.locks.retain(|lock| lock.handle.as_slice() != b"gone");
    assert_eq!(sums(stage.settle().await.counts), (1, 1, 0, 1));
    assert_eq!(stage.result().locks.as_slice().iter().filter(|row| row.fate == control::Fate::Kept).count(), 1);
    assert!(!stage.done().contains(&"hold".to_owned()), "nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_which_a_weaker_mode_was_reclaimed_is_not_unlocked() {
    let (unlocks, sums, _) = spoiled(|stage| {
        let Request::Lock(mut weaker) = lock(1, 6, "orphan", true) else { unreachable!() };
        weaker.claim.exclusive = false;
        stage.answered(1, Request::Lock(weaker), Stat::Granted);
        for lock in of(&stage.world).view.locks.iter_mut().filter(|lock| lock.owner.svid.0 == 6) {
            lock.exclusive = false;
        }
    })
    .await;
    assert_eq!((unlocks, sums), (0, (1, 0, 0, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_reclaim_that_lockd_answers_while_its_client_is_held_is_not_dropped() {
    let (unlocks, sums, _) = spoiled(|stage| {
        let call = stage.call(1, lock(1, 6, "orphan", true));
        // It was open when its client was held; the answer comes then.
        of(&stage.world).on_hold = vec![FilterEvent::Reply(Reply { call, stat: Stat::Granted })];
    })
    .await;
    assert_eq!((unlocks, sums.2), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reclaim_that_lockd_denies_is_a_conflict_of_two_named_owners_and_keeps_nothing_from_being_dropped() {
    let (unlocks, sums, stage) = spoiled(|stage| stage.answered(2, lock(2, 9, "live", true), Stat::Denied)).await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)));
    let full = stage.result();
    let conflict = full.locks.as_slice().iter().find(|row| row.fate == control::Fate::Conflict).unwrap();
    assert_eq!(conflict.owner.name, name("c2"));
    assert_eq!(conflict.other.0.as_ref().unwrap().name, name("c1"));
}

#[tokio::test(start_paused = true)]
async fn a_late_reclaim_is_appended_to_the_result() {
    let (_, _, stage) = spoiled(|_| {}).await;
    stage.answered(1, lock(1, 6, "orphan", true), Stat::Granted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let full = stage.result();
    assert_eq!(full.result.late, 1);
    assert!(full.locks.as_slice().iter().any(|row| row.late), "{:?}", full.locks);
}

#[tokio::test(start_paused = true)]
async fn a_late_reclaim_makes_a_result_that_was_fetched_one_that_is_to_be_fetched_until_the_drain_is_over() {
    let (_, _, stage) = spoiled(|_| {}).await;
    let fetched = async || {
        stage.handle.acknowledge(RunArgs { run: RUN }).await.unwrap();
        stage.handle.unfetched().await.unwrap().runs.into_vec()
    };
    assert_eq!(fetched().await, []);
    stage.answered(1, lock(1, 6, "orphan", true), Stat::Granted);
    stage.answered(1, lock(1, 7, "orphan", true), Stat::Denied);
    stage.status().await;
    stage.status().await;
    assert_eq!(stage.handle.unfetched().await.unwrap().runs.into_vec(), [RUN]);
    let full = stage.result();
    assert_eq!(full.result.late, 1, "one that was refused counts for nothing");
    let late: Vec<control::Fate> = full.locks.as_slice().iter().filter(|row| row.late).map(|row| row.fate).collect();
    assert_eq!(late, [control::Fate::Resurrected, control::Fate::Conflict]);
    assert_eq!(fetched().await, []);
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(of(&stage.world).gates, 0);
    let left = std::fs::read_dir(stage.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with("07070707")).collect();
    assert_eq!(left, [""; 0], "nothing of the run is left on disk");
}

#[tokio::test(start_paused = true)]
async fn an_abort_holds_everything_again_and_lets_late_reclaims_pass() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.acked().await;
    let result = stage.handle.abort(RunArgs { run: RUN }).await.unwrap();
    assert_eq!((result.outcome, sums(result.counts)), (Outcome::Aborted, (0, 0, 0, 1)));
    assert_eq!(stage.done().last().unwrap(), "Drain");
    assert_eq!(of(&stage.world).view.locks.len(), 1);
    let again = stage.handle.abort(RunArgs { run: RUN }).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::WrongPhase);
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_notice_is_aborted_at_its_deadline_and_the_gate_goes_at_once() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    // An attached controller has two seconds past the minute.
    tokio::time::sleep(Duration::from_secs(63)).await;
    assert_eq!(stage.result().result.outcome, Outcome::Aborted);
    assert_eq!(of(&stage.world).gates, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_controller_is_gone_settles_alone() {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    stage.acked().await;
    stage.handle.connection_closed(ConnectionId(1));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let result = stage.result().result;
    assert!(result.alone);
    assert_eq!(sums(result.counts), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_when_lockd_enters_grace_itself_or_the_rules_are_gone() {
    for rules in [false, true] {
        let stage = Stage::new(vec![held(1, 5, "a")]);
        stage.begin(control::Mode::Strict).await.unwrap();
        stage.acked().await;
        if rules {
            of(&stage.world).rules_are_gone = true;
        } else {
            stage.tell(FilterEvent::Superseded(Text::clipped("lockd is in grace")));
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let result = stage.result().result;
        assert_eq!((result.outcome, result.counts.unverified), (Outcome::Superseded, 1));
        assert_eq!(of(&stage.world).gates, 0);
        assert_eq!(of(&stage.world).view.locks.len(), 1);
        let settle = SettleArgs { run: RUN, when: SettleWhen::Always };
        let answer = stage.handle.settle(settle, ConnectionId(1)).await.unwrap();
        assert_eq!(answer.outcome, Outcome::Superseded);
    }
}

/// A client each by either address of the server; of both an orphan.
async fn two_addresses() -> Stage {
    let mut other = held(2, 5, "c");
    other.owner.way.server = OTHER_SERVER.parse().unwrap();
    let stage = Stage::new(vec![held(1, 5, "a"), held(1, 6, "b"), other]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    stage
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moves_off_supersedes_the_run_and_late_reclaims_by_others_are_still_granted() {
    let stage = two_addresses().await;
    stage.heard_of(RUN, |_| true).await;
    of(&stage.world).addresses.remove(&OTHER_SERVER.parse().unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let FullResult { result, .. } = stage.result();
    assert_eq!((result.outcome, result.counts.dropped, result.counts.unverified), (Outcome::Superseded, 0, 2));
    assert!(result.reason.as_str().contains(OTHER_SERVER), "{}", result.reason.as_str());
    let done = stage.done();
    assert_eq!((done.last().unwrap().as_str(), of(&stage.world).gates), ("Drain", 1));
    let unsure = run_files(stage.dir.path()).unsure().unwrap();
    let of_file = |file: &'static str| unsure.all().any(|lock| lock.file == FileHandle::new(file.as_bytes()).unwrap());
    assert_eq!(["a", "b", "c"].map(of_file), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moves_off_just_before_the_settle_keeps_all_that_would_be_dropped() {
    let stage = two_addresses().await;
    stage.acked().await;
    of(&stage.world).addresses.remove(&OTHER_SERVER.parse().unwrap());
    // It is refused, or the keeper has seen it before.
    let settle = SettleArgs { run: RUN, when: SettleWhen::Always };
    let settled = stage.handle.settle(settle, ConnectionId(1)).await;
    assert!(
        settled.is_err_and(|refusal| refusal.message.as_str().contains(OTHER_SERVER))
            || stage.done().contains(&"Drain".to_owned())
    );
    assert_eq!(of(&stage.world).view.locks.len(), 3);
    assert_eq!(stage.result().result.outcome, Outcome::Superseded);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_was_not_there_at_the_begin_is_not_missed() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    of(&stage.world).addresses.remove(&SERVER.parse().unwrap());
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    stage.acked().await;
    assert_eq!(stage.settle().await.outcome, Outcome::Settled);
}

#[tokio::test(start_paused = true)]
async fn the_next_keeper_tells_of_a_run_whose_keeper_was_killed() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    let Stage { world, keeper, dir, .. } = stage;
    keeper.abort();
    let next = Stage::on(world, dir);
    let result = next.handle.result(RunArgs { run: RUN }).await.unwrap();
    assert_eq!((result.outcome, result.counts.in_scope, result.counts.unverified), (Outcome::Superseded, 1, 1));
    assert_eq!(next.handle.unfetched().await.unwrap().runs.into_vec(), [RUN]);
    next.handle.acknowledge(RunArgs { run: RUN }).await.unwrap();
    assert_eq!(next.handle.unfetched().await.unwrap().runs.into_vec(), []);
}

#[tokio::test(start_paused = true)]
async fn the_next_keeper_believes_a_result_whose_keeper_was_killed_as_it_was_written() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    let journal = run_files(stage.dir.path()).left().unwrap().unwrap();
    stage.acked().await;
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    let result = stage.settle().await;
    let Stage { world, keeper, dir, .. } = stage;
    keeper.abort();
    run_files(dir.path()).keep(&journal).unwrap();
    let next = Stage::on(world, dir);
    assert_eq!(next.handle.result(RunArgs { run: RUN }).await.unwrap(), result);
    assert_eq!(run_files(next.dir.path()).left().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_filter_is_told_all_that_stands() {
    let stage = Stage::new(vec![held(1, 5, "a"), held(2, 5, "b")]);
    stage.begin(control::Mode::Targeted).await.unwrap();
    let before: Vec<Order> = of(&stage.world).orders.clone();
    assert!(before.contains(&Order::Pending(claim(1, 5, "a", WHOLE))), "{before:?}");
    stage.answered(1, lock(1, 5, "a", true), Stat::Granted);
    stage.status().await;
    stage.status().await;
    assert!(of(&stage.world).orders.contains(&Order::NotPending(claim(1, 5, "a", WHOLE))));
    of(&stage.world).tell.as_ref().unwrap().send(None).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let orders = of(&stage.world).orders.clone();
    assert_eq!(orders, [Order::Pending(claim(2, 5, "b", WHOLE)), Order::Mode(Mode::Targeted)]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lockd_has_forgotten_is_told_too() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    let row = |client: u8| ClientRow {
        name: CallerName::of_words(&address(client).to_string()),
        nsm_state: NsmState(0),
        locks: 0,
        ..ClientRow::sample("c", &address(client).to_string())
    };
    of(&stage.world).monitored = vec![row(1), row(3)];
    let begun = stage.begin(control::Mode::Strict).await.unwrap();
    assert_eq!((begun.clients, begun.in_scope), (2, 1));
}
