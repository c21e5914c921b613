//! Locks whose reclaim may have been refused: which ones later runs keep, and until when.

use super::*;
use crate::interposer::proof;
use crate::manager::knfsd::unsure::UnsureLocks;
use crate::wire::control::{ClientRef, PageAfter};

const NEXT: RunId = RunId([8; 16]);
const THIRD: RunId = RunId([9; 16]);

/// Client 1 has "live" and "old", client 2 has "b"; a strict run is on.
async fn begun() -> Stage {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "old"), held(2, 5, "b")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage
}

impl Stage {
    /// The keeper is killed; the next one has its folder.
    pub(super) fn killed(self) -> Self {
        let Self { world, keeper, dir, .. } = self;
        keeper.abort();
        Self::on(world, dir)
    }

    /// A run that may drop whatever is not reclaimed, also of clients that do not answer. Gives its sums.
    async fn run(&self, run: RunId, acked: &[&str], reclaimed: &[(u8, i32, &str)]) -> (u64, u64, u64, u64) {
        let client_ref = |text| ClientRef::named(name(text));
        let mut args = self.args(run, control::Mode::Strict);
        args.policy.unreachable = Unreachable::Drop;
        args.may_drop = List::clipped(["c1", "c2"].map(client_ref).to_vec());
        self.handle.begin(args, ConnectionId(1)).await.unwrap();
        for (client, svid, file) in reclaimed {
            self.answered(*client, lock(*client, *svid, file, true), Stat::Granted);
        }
        self.heard_of(run, |name| acked.contains(&name)).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let settle = SettleArgs { run, when: SettleWhen::Always };
        sums(self.handle.settle(settle, ConnectionId(1)).await.unwrap().counts)
    }

    /// The files of unsure locks, as lists read them.
    pub(super) async fn unsure(&self) -> Vec<String> {
        // The keeper has done then what came before, and looked.
        self.handle.clients(PageAfter { after: 0 }).await.unwrap();
        let unsure = UnsureLocks::read(self.dir.path()).unwrap();
        let mut files: Vec<_> =
            unsure.all().map(|lock| String::from_utf8(lock.file.as_slice().to_vec()).unwrap()).collect();
        files.sort();
        files
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_reclaimed_after_the_keeper_was_killed_is_kept_by_later_runs() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    stage.status().await;
    let stage = stage.killed();
    assert_eq!(stage.unsure().await, ["b", "live", "old"]);
    // What its client reclaims it knows; of the other, the reclaim may have been refused before.
    let both = [(1, 5, "live"), (2, 5, "b")];
    assert_eq!(stage.run(NEXT, &["c1", "c2"], &both).await, (2, 0, 0, 1));
    assert_eq!(stage.unsure().await, ["old"]);
    assert!(stage.done().iter().all(|done| !done.starts_with("unlock")), "{:?}", stage.done());
    let events = stage.handle.watch(control::WatchArgs { cursor: 0, timeout_ms: 0 }).await.unwrap().events;
    let why =
        "may have been refused (run 07070707-0707-0707-0707-070707070707: the process in front of lockd was killed)";
    assert!(events.as_slice().iter().any(|event| event.detail.as_str().contains(why)), "{events:?}");
    // Nor does consent to drop what clients have that do not answer cover it.
    assert_eq!(stage.run(THIRD, &["c2"], &both).await, (2, 0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_its_client_surely_knows_again_or_has_lost_in_a_reboot_is_dropped_like_all_else() {
    for reboots in [false, true] {
        let stage = begun().await;
        stage.heard_of(RUN, |_| true).await;
        let stage = stage.killed();
        let both = [(1, 5, "live"), (2, 5, "b")];
        assert_eq!(stage.run(NEXT, &["c1", "c2"], &both).await, (2, 0, 0, 1));
        if reboots {
            stage.answered(1, Request::FreeAll(NsmState(5)), Stat::Granted);
        } else {
            stage.answered(1, Request::Unlock(claim(1, 6, "old", WHOLE)), Stat::Granted);
            stage.answered(1, lock(1, 6, "old", false), Stat::Granted);
        }
        assert_eq!(stage.run(THIRD, &["c1", "c2"], &both).await, (2, 0, 1, 0), "reboots: {reboots}");
        assert_eq!(stage.done().iter().filter(|done| *done == "unlock old").count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_drain_that_is_answered_when_the_next_run_begins_counts() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    let stage = stage.killed();
    let both = [(1, 5, "live"), (2, 5, "b")];
    assert_eq!(stage.run(NEXT, &["c1", "c2"], &both).await, (2, 0, 0, 1));
    let call = stage.call(1, Request::FreeAll(NsmState(5)));
    assert_eq!(stage.unsure().await, ["old"]);
    of(&stage.world).at_proof = vec![FilterEvent::Reply(Reply { call, stat: Stat::Granted })];
    assert_eq!(stage.run(THIRD, &["c1", "c2"], &both).await, (2, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_unlocked_leaves_the_rest_unsure() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    let stage = stage.killed();
    stage.handle.begin(stage.args(NEXT, control::Mode::Targeted), ConnectionId(1)).await.unwrap();
    let first = ByteRange { start: 0, end: 9 };
    stage.answered(1, Request::Unlock(claim(1, 6, "old", first)), Stat::Granted);
    stage.status().await;
    stage.handle.abort(RunArgs { run: NEXT }).await.unwrap();
    assert_eq!(stage.unsure().await, ["b", "live", "old"]);
    let read = UnsureLocks::read(stage.dir.path()).unwrap();
    let old = read.all().find(|lock| lock.file.as_slice() == b"old").unwrap();
    assert_eq!(old.range, ByteRange { start: 10, end: u64::MAX });
}

#[tokio::test(start_paused = true)]
async fn what_clients_have_that_were_told_is_kept_after_the_rules_were_gone() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    of(&stage.world).rules_are_gone = true;
    tokio::time::sleep(Duration::from_secs(3)).await;
    of(&stage.world).rules_are_gone = false;
    assert_eq!(stage.unsure().await, ["b", "live", "old"]);
    assert_eq!(stage.run(NEXT, &["c1"], &[(1, 5, "live")]).await, (1, 0, 0, 2));
    assert_eq!(stage.unsure().await, ["b", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_told_nobody_leaves_nothing_unsure() {
    let stage = begun().await;
    of(&stage.world).rules_are_gone = true;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stage.unsure().await, [""; 0]);
    let stage = begun().await;
    stage.handle.abort(RunArgs { run: RUN }).await.unwrap();
    assert_eq!(stage.unsure().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_abort_leaves_unsure_what_clients_have_that_had_not_acked() {
    let stage = begun().await;
    stage.heard_of(RUN, |name| name == "c1").await;
    stage.handle.abort(RunArgs { run: RUN }).await.unwrap();
    assert_eq!(stage.unsure().await, ["b"]);
    // Client 1 has acked, and nothing more can be waited for of it.
    assert_eq!(stage.run(NEXT, &["c1"], &[(1, 5, "live")]).await, (1, 0, 1, 1));
    assert_eq!(stage.unsure().await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_not_heard_of_loses_its_locks_by_consent_only_while_it_is_not_heard_of() {
    for answers in [true, false] {
        let stage = begun().await;
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
        stage.answered(1, lock(1, 6, "old", true), Stat::Granted);
        stage.heard_of(RUN, |name| name == "c1").await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(sums(stage.settle().await.counts), (2, 0, 0, 1));
        assert_eq!(stage.unsure().await, ["b"]);
        let acked: &[&str] = if answers { &["c1", "c2"] } else { &["c1"] };
        let (dropped, kept) = if answers { (0, 1) } else { (1, 0) };
        assert_eq!(stage.run(NEXT, acked, &[(1, 5, "live"), (1, 6, "old")]).await, (2, 0, dropped, kept));
        assert_eq!(stage.unsure().await.len(), usize::from(answers));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_of_a_client_that_acked_late_is_unsure_only_if_the_drain_is_cut_short() {
    for cut_short in [true, false] {
        let stage = begun().await;
        for (svid, file) in [(5, "live"), (6, "old")] {
            stage.answered(1, lock(1, svid, file, true), Stat::Granted);
        }
        // Too late for anything of client 2 to be dropped.
        stage.heard_of(RUN, |_| true).await;
        assert_eq!(sums(stage.settle().await.counts), (2, 0, 0, 1));
        assert_eq!(stage.unsure().await, [""; 0]);
        let stage = if cut_short { stage.killed() } else { stage };
        tokio::time::sleep(Duration::from_secs(50)).await;
        if !cut_short {
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(of(&stage.world).gates, 0);
            let stage = stage.killed();
            assert_eq!(stage.unsure().await, [""; 0]);
            continue;
        }
        assert_eq!(stage.unsure().await, ["b"]);
        assert_eq!(stage.run(NEXT, &["c1", "c2"], &[(1, 5, "live"), (1, 6, "old")]).await, (2, 0, 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_reclaim_lockd_refused_or_did_not_answer_is_unsure() {
    let refused = |stage: &Stage| stage.answered(1, lock(1, 6, "old", true), Stat::DeniedNolocks);
    let unanswered = |stage: &Stage| {
        stage.call(1, lock(1, 6, "old", true));
    };
    for spoil in [&refused as &dyn Fn(&Stage), &unanswered] {
        let stage = begun().await;
        spoil(&stage);
        stage.answered(2, lock(2, 5, "b", true), Stat::Granted);
        stage.acked().await;
        stage.settle().await;
        assert_eq!(stage.unsure().await, ["live", "old"]);
        assert_eq!(stage.run(NEXT, &["c1", "c2"], &[(1, 5, "live"), (2, 5, "b")]).await, (2, 0, 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_lockd_does_not_hold_any_more_is_not_unsure_nor_what_another_lockd_holds() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    let stage = stage.killed();
    of(&stage.world).view.locks.retain(|lock| lock.owner.svid.0 != 6);
    assert_eq!(stage.unsure().await, ["b", "live"]);
    // Its client has rebooted meanwhile, and told so: this is a lock of its new life.
    for lock in of(&stage.world).view.locks.iter_mut().filter(|lock| lock.owner.way.client.0 == address(2)) {
        lock.nsm_state = Some(NsmState(5));
    }
    assert_eq!(stage.unsure().await, ["live"]);
    of(&stage.world).instance = InstanceId([2; 16]);
    assert_eq!(stage.unsure().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn locks_are_looked_up_as_soon_as_lockds_records_can_be_read() {
    let stage = begun().await;
    stage.heard_of(RUN, |_| true).await;
    of(&stage.world).unreadable = true;
    let stage = stage.killed();
    assert!(stage.handle.status().await.is_err());
    of(&stage.world).unreadable = false;
    assert_eq!(stage.unsure().await, ["b", "live", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_where_the_next_run_does_not_begin() {
    let (_, _, stage) = spoiled(|_| {}).await;
    of(&stage.world).refuses_proof = true;
    let refused = stage.handle.begin(stage.args(NEXT, control::Mode::Strict), ConnectionId(1)).await;
    assert!(refused.is_err());
    assert_eq!(stage.done().last().unwrap(), "Drain");
    stage.answered(1, lock(1, 6, "orphan", true), Stat::Granted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stage.result().result.late, of(&stage.world).gates), (1, 1));
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(of(&stage.world).gates, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_where_the_next_run_is_aborted_before_its_first_notice() {
    let (_, _, stage) = spoiled(|_| {}).await;
    stage.handle.begin(stage.args(NEXT, control::Mode::Strict), ConnectionId(1)).await.unwrap();
    stage.handle.abort(RunArgs { run: NEXT }).await.unwrap();
    assert_eq!((stage.done().last().unwrap().as_str(), of(&stage.world).gates), ("Drain", 1));
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(of(&stage.world).gates, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_call_that_came_before_the_rules_spares_no_lock() {
    for before_the_walk in [true, false] {
        let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
        let stray = FilterEvent::StrayReply(Address(address(1)));
        if before_the_walk {
            of(&stage.world).at_proof = vec![stray];
            stage.begin(control::Mode::Strict).await.unwrap();
        } else {
            stage.begin(control::Mode::Strict).await.unwrap();
            stage.tell(stray);
            stage.status().await;
        }
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
        stage.acked().await;
        assert_eq!(sums(stage.settle().await.counts), (1, 0, 1, 0), "{before_the_walk}");
        assert_eq!(stage.unsure().await, [""; 0]);
    }
}

/// After the first notice something happens with client 1: what the run drops of it, and how many locks the next runs keep.
async fn after_the_first_notice(happens: impl FnOnce(&Stage)) -> (u64, usize) {
    let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "orphan")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.heard_of(RUN, |_| true).await;
    happens(&stage);
    stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let dropped = stage.settle().await.counts.dropped;
    tokio::time::sleep(Duration::from_secs(140)).await;
    (dropped, stage.killed().unsure().await.len())
}

#[tokio::test(start_paused = true)]
async fn later_runs_keep_only_what_a_client_may_have_reclaimed_in_vain() {
    let stray = |stage: &Stage| stage.tell(FilterEvent::StrayReply(Address(address(1))));
    assert_eq!(after_the_first_notice(stray).await, (0, 2), "a reply to a reclaim, perhaps");
    // lockd grants it outside of grace; the account does not.
    let granted = |stage: &Stage| stage.answered(1, lock(1, 9, "new", false), Stat::Granted);
    assert_eq!(after_the_first_notice(granted).await, (0, 0), "its client knows what it was granted");
    assert_eq!(after_the_first_notice(|_| {}).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_proof_calls_in_a_clients_name_is_not_that_clients() {
    let (_, _, stage) = spoiled(|_| {}).await;
    let Request::Lock(mut trial) = lock(1, 5, "live", true) else { unreachable!() };
    trial.claim.svid = proof::PROCESS;
    let (way, caller, request) = (way(1), name("c1"), Request::Lock(trial));
    let call = Call { number: 77, way, caller, request, treated: Treated::Taken };
    let reply = Reply { call: 77, stat: Stat::Denied };
    of(&stage.world).at_proof = vec![FilterEvent::Call(call), FilterEvent::Reply(reply)];
    of(&stage.world).refuses_proof = true;
    stage.handle.begin(stage.args(NEXT, control::Mode::Strict), ConnectionId(1)).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stage.result().locks.as_slice().iter().all(|row| row.fate != control::Fate::Conflict));
    tokio::time::sleep(Duration::from_secs(135)).await;
    assert_eq!(of(&stage.world).gates, 0);
    assert_eq!(stage.killed().unsure().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_open_reclaim_is_not_forgotten_with_the_filter_that_told_of_it_also_before_the_first_notice() {
    for before_the_walk in [true, false] {
        let stage = Stage::new(vec![held(1, 5, "live"), held(1, 6, "old")]);
        let (request, treated) = (lock(1, 6, "old", true), Treated::Taken);
        let call = FilterEvent::Call(Call { number: 1, way: way(1), caller: name("c1"), request, treated });
        if before_the_walk {
            of(&stage.world).at_proof = vec![call];
            of(&stage.world).dies_at_proof = true;
            stage.begin(control::Mode::Strict).await.unwrap();
        } else {
            stage.begin(control::Mode::Strict).await.unwrap();
            stage.tell(call);
            of(&stage.world).tell.as_ref().unwrap().send(None).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
        stage.acked().await;
        assert_eq!(sums(stage.settle().await.counts), (1, 0, 0, 1), "{before_the_walk}");
        assert_eq!(stage.unsure().await, ["live", "old"], "{before_the_walk}");
    }
}
