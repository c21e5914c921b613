//! The path of a run: what it waits for before it begins, who may ask for what meanwhile, and what is written in which order.

use super::*;

/// An owner whose table has settled a run a moment ago: what the run dropped is not freed yet.
fn unswept() -> (super::super::state::Owner, UnboundedReceiver<(Change, DurableSender)>) {
    let (persist, disk) = Persist::scripted();
    let (mut owner, ..) = super::super::state::Owner::new(setup(persist, Limits::default()));
    let (now, Incoming { address, name, via, call, .. }) = (owner.clock.now(), incoming(2, "file"));
    let table = &mut owner.table;
    let client = table.add_client(address, &name).unwrap();
    table.set_monitored(client, true);
    table.handle(now, Caller { client, via }, &call);
    let args = begin_args(7);
    table.begin(now, 0, &args, NsmState(1), NsmState(3)).unwrap();
    let acked = ClientProgress { client: 0, delivery: Delivery::Acked, ago_ms: 0, suspect: false };
    let told = ProgressArgs { run: args.run, notices_begun: true, clients: List::clipped(vec![acked]) };
    table.progress(now, &told).unwrap();
    table.settle_start(now + Duration::from_mins(1), SettleWhen::Always, false, "test").unwrap();
    while !table.settle_scan(1) {}
    assert_eq!(table.settle_result(0).unwrap().result.counts.dropped, 1);
    table.settle_commit();
    assert!(table.has_more_to_sweep());
    (owner, disk)
}

#[tokio::test]
async fn a_run_is_marked_when_all_that_the_run_before_dropped_is_freed() {
    let (mut owner, _disk) = unswept();
    let (answer, _begun) = oneshot::channel();
    owner.begin(Box::new(begin_args(1)), ConnectionId(1), answer);
    owner.begin_durable(Ok(NsmState(5)));
    assert!(
        matches!(owner.runs.phase, super::super::phase::Phase::Beginning(_)),
        "it would be pending in the next run"
    );
    assert_eq!(owner.table.grace(), Grace::Open);
    while owner.table.has_more_to_sweep() {
        owner.sweep();
    }
    assert!(matches!(owner.runs.phase, super::super::phase::Phase::Entering(_)));
    assert_eq!(owner.table.grace(), Grace::Strict);
    assert_eq!(owner.table.run_status(owner.clock.now()).unwrap().counts.in_scope, 0);
}

#[tokio::test]
async fn what_is_asked_of_a_run_whose_clients_are_not_all_entered_waits_or_is_refused() {
    let (mut owner, mut disk) = unswept();
    while owner.table.has_more_to_sweep() {
        owner.sweep();
    }
    let ((answer, begun), run) = (oneshot::channel(), begin_args(1).run);
    owner.begin(Box::new(begin_args(1)), ConnectionId(1), answer);
    owner.begin_durable(Ok(NsmState(5)));
    assert!(matches!(owner.runs.phase, super::super::phase::Phase::Entering(_)));
    let too_early = ProgressArgs { run, notices_begun: true, clients: List::default() };
    assert_eq!(owner.progress(&too_early, ConnectionId(1)).unwrap_err().code, RefusalCode::WrongPhase);
    let (answer, mut aborted) = oneshot::channel();
    owner.abort(RunArgs { run }, answer);
    assert!(aborted.try_recv().is_err(), "it waits");
    owner.enter_clients();
    assert_eq!(owner.table.grace(), Grace::Open);
    let accept_all = tokio::spawn(async move {
        while let Some((_, done)) = disk.recv().await {
            let _ = done.send(Ok(()));
        }
    });
    while owner.work.join_next().await.is_some() {}
    assert_eq!(begun.await.unwrap().unwrap().run, run);
    assert_eq!(aborted.await.unwrap().unwrap().outcome, Outcome::Aborted);
    accept_all.abort();
}

#[tokio::test]
async fn a_begin_that_the_disk_refuses_is_over_when_the_sweep_of_the_run_before_is() {
    let (mut owner, disk) = unswept();
    drop(disk);
    let (answer, refusal) = oneshot::channel();
    owner.begin(Box::new(begin_args(1)), ConnectionId(1), answer);
    owner.begin_durable(Err(PersistError::Write("disk full".into()).into()));
    while owner.table.has_more_to_sweep() {
        owner.sweep();
    }
    assert!(matches!(owner.runs.phase, super::super::phase::Phase::Idle));
    assert_eq!(refusal.await.unwrap().unwrap_err().code, RefusalCode::NotDurable);
}

#[tokio::test]
async fn a_number_is_raised_for_nobodys_run_only_while_none_is_on() {
    let mut world = World::new();
    let table = world.table.clone();
    let raise = tokio::spawn(async move { table.raise_state().await });
    let (change, done) = world.change().await;
    assert!(matches!(change, Change::Raised(NsmState(5))));
    assert_eq!(world.table.nsm_state(), NsmState(3), "not before it is durable");
    let refusal = world.table.begin(begin_args(1), ConnectionId(1)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::StalePlan);
    done.send(Ok(())).unwrap();
    assert_eq!(raise.await.unwrap(), Ok(NsmState(5)));
    assert_eq!(world.table.nsm_state(), NsmState(5));

    let table = world.table.clone();
    let args = BeginArgs { nsm_state: NsmState(5), ..begin_args(1) };
    let run = tokio::spawn(async move { table.begin(args, ConnectionId(1)).await });
    world.accept().await;
    world.accept().await;
    run.await.unwrap().unwrap();
    assert_eq!(world.table.raise_state().await.unwrap_err().code, RefusalCode::RunActive);
}

#[tokio::test]
async fn requests_with_two_state_numbers_in_turn_do_not_cost_a_write_each() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    let with_state = |number| {
        let mut incoming = incoming(2, "file");
        if let Call::Lock { state, .. } = &mut incoming.call {
            *state = NsmState(number);
        }
        incoming
    };
    for number in [5, 7, 5, 7, 5, 9] {
        assert_eq!(world.table.call(with_state(number)).await, Some(Verdict::Granted));
    }
    let (Change::Monitor(record), _) = world.change().await else { panic!("a record") };
    assert_eq!(record.nsm_state, NsmState(5), "the first change is written at once");
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "the others wait");
}

#[tokio::test]
async fn a_repeated_begin_of_a_run_that_has_ended_is_refused() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    world.begin().await;
    let table = world.table.clone();
    let abort = tokio::spawn(async move { table.abort(RunArgs { run: RunId([1; 16]) }).await });
    assert!(matches!(world.accept().await, Change::Ended(_)));
    abort.await.unwrap().unwrap();
    let again = world.table.begin(begin_args(1), ConnectionId(1)).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::WrongPhase);
}

#[tokio::test]
async fn a_run_aborted_while_its_state_is_written_does_not_begin() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    let table = world.table.clone();
    let run = tokio::spawn(async move { table.begin(begin_args(1), ConnectionId(1)).await });
    let (_, done) = world.change().await;
    let table = world.table.clone();
    let mut abort = tokio::spawn(async move { table.abort(RunArgs { run: RunId([1; 16]) }).await });
    assert!(timeout(A_MOMENT, &mut abort).await.is_err(), "it is answered when nothing can begin any more");
    done.send(Ok(())).unwrap();
    assert!(matches!(world.accept().await, Change::NotBegun(_)));
    assert_eq!(run.await.unwrap().unwrap_err().code, RefusalCode::WrongPhase);
    assert_eq!(abort.await.unwrap().unwrap_err().code, RefusalCode::WrongPhase);
    assert_eq!(world.table.status().await.unwrap().grace, Grace::Open);
    let again = world.table.begin(begin_args(1), ConnectionId(1)).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::WrongPhase, "a repeated begin does not bring it back");
}

#[tokio::test]
async fn a_late_reclaim_right_after_an_abort_is_written_after_the_runs_result() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    world.begin().await;
    let mut reclaim = incoming(2, "another");
    let Call::Lock { reclaim: again, .. } = &mut reclaim.call else { panic!("a LOCK") };
    *again = true;
    let table = world.table.clone();
    let abort = tokio::spawn(async move { table.abort(RunArgs { run: RunId([1; 16]) }).await });
    let call = world.send(reclaim);
    assert!(matches!(world.accept().await, Change::Ended(_)));
    assert!(matches!(world.accept().await, Change::Late(..)));
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(abort.await.unwrap().unwrap().outcome, Outcome::Aborted);
}

#[tokio::test]
async fn late_reclaims_that_come_while_the_disk_refuses_an_aborted_runs_result_are_written_after_it() {
    let mut world = World::new();
    world.hold(incoming(2, "file")).await;
    world.begin().await;
    let (table, run) = (world.table.clone(), RunArgs { run: RunId([1; 16]) });
    let abort = tokio::spawn(async move { table.abort(run).await });
    let (ended, refused) = world.change().await;
    assert!(matches!(ended, Change::Ended(_)));
    let call = world.send(reclaim_of(incoming(2, "another")));
    assert!(matches!(world.accept().await, Change::Late(..)), "there is nothing to append it to");
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    let call = world.send(reclaim_of(incoming(2, "second")));
    assert!(matches!(world.accept().await, Change::Late(..)));
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(world.table.result(run).await.unwrap().late, 2, "they are told");
    let rows = world.table.result_locks(RunPageAfter { run: run.run, after: 0 }).await.unwrap();
    assert_eq!((rows.locks.as_slice().len(), rows.next), (2, 0));
    refused.send(Err(PersistError::Write("disk full".into()))).unwrap();
    let (ended, written) = world.change().await;
    assert!(matches!(ended, Change::Ended(_)));
    let call = world.send(reclaim_of(incoming(2, "third")));
    assert!(matches!(world.accept().await, Change::Late(..)), "it is behind the result");
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    written.send(Ok(())).unwrap();
    assert_eq!(abort.await.unwrap().unwrap().outcome, Outcome::Aborted, "its answer does not wait for them");
    let mut written = Vec::new();
    for file in ["another", "second"] {
        let (Change::Late(_, fate), done) = world.change().await else { panic!("the first ones again, at once") };
        assert_eq!(fate.file.as_slice(), file.as_bytes());
        written.push(done);
    }
    for done in written {
        done.send(Ok(())).unwrap();
    }
    assert!(timeout(A_MOMENT, world.disk.recv()).await.is_err(), "each once");
}

#[tokio::test]
async fn a_run_whose_result_the_disk_does_not_take_back_drops_nothing_and_is_aborted() {
    let mut world = World::new();
    world.hold(incoming(2, "claimed")).await;
    world.begin_in_haste().await;
    let settling = world.settle().await;
    let (_, written) = world.change().await;
    let call = world.send(reclaim_of(incoming(2, "claimed")));
    tokio::task::yield_now().await;
    written.send(Ok(())).unwrap();
    for _ in 1..=5 {
        world.refuse().await;
    }
    assert_eq!(settling.await.unwrap().unwrap_err().code, RefusalCode::NotDurable);
    let Change::Ended(aborted) = world.accept().await else { panic!("it is aborted") };
    assert_eq!((aborted.result.outcome, aborted.result.counts.kept), (Outcome::Aborted, 1));
    assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
}

/// Settles over these clients, of which nothing was heard, and whenever the result is written the next of the first `turns`
/// of them reclaims what it has. Gives how often it was written.
async fn settle_with_reclaims_in_turns(clients: &[(u8, String)], turns: usize) -> (usize, RunResult) {
    let named =
        |(host, name): &(u8, String)| Incoming { name: CallerName::new(name).unwrap(), ..incoming(*host, name) };
    let (mut turns, mut world) = (clients.iter().take(turns), World::new());
    for client in clients {
        world.hold(named(client)).await;
    }
    let policy = Policy { unreachable: Unreachable::Drop, ..begin_args(1).policy };
    let names = clients.iter().map(|(_, name)| ClientRef::named(CallerName::new(name).unwrap()));
    world.begin_with(BeginArgs { policy, may_drop: List::clipped(names.collect()), ..begin_args(1) }).await;
    let gone = |client| ClientProgress { client, delivery: Delivery::NoAnswer, ago_ms: 0, suspect: false };
    let all = 0..u32::try_from(clients.len()).unwrap();
    let (run, clients) = (RunId([1; 16]), List::clipped(all.map(gone).collect()));
    world.table.progress(ProgressArgs { run, notices_begun: true, clients }, ConnectionId(1)).await.unwrap();
    let (table, args) = (world.table.clone(), SettleArgs { run, when: SettleWhen::Always });
    let mut settling = tokio::spawn(async move { table.settle(args, ConnectionId(1)).await });
    let (mut ended, mut calls) = (0, Vec::new());
    let result = loop {
        tokio::select! {
            result = &mut settling => break result.unwrap().unwrap(),
            change = world.disk.recv() => {
                let (change, done) = change.unwrap();
                if matches!(change, Change::Ended(_)) {
                    ended += 1;
                    calls.extend(turns.next().map(|client| world.send(reclaim_of(named(client)))));
                    tokio::task::yield_now().await;
                }
                done.send(Ok(())).unwrap();
            }
        }
    };
    for call in calls {
        assert_eq!(call.await.unwrap(), Some(Verdict::Granted));
    }
    (ended, result)
}

#[tokio::test]
async fn hosts_that_reclaim_in_turns_while_the_result_is_written_do_not_keep_the_grace_on() {
    let hosts: Vec<(u8, String)> = (2..22).map(|host| (host, format!("h{host}"))).collect();
    let (ended, result) = settle_with_reclaims_in_turns(&hosts, hosts.len()).await;
    assert_eq!(ended, 17, "it settles anew sixteen times");
    assert_eq!((result.counts.dropped, result.counts.kept), (0, 4));
    assert!(result.reason.as_str().contains("reclaims went on to come"), "{:?}", result.reason);
}

#[tokio::test]
async fn a_host_that_reclaims_under_many_names_in_turns_saves_its_own_locks_and_no_others() {
    let own = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| (2, name.to_owned()));
    let clients: Vec<(u8, String)> = own.into_iter().chain([(3, "dead".to_owned())]).collect();
    let (ended, result) = settle_with_reclaims_in_turns(&clients, 8).await;
    assert_eq!(ended, 2, "it causes that once");
    assert_eq!((result.counts.reclaimed, result.counts.dropped, result.counts.kept), (1, 1, 7));
    assert!(!result.reason.as_str().contains("reclaims went on to come"), "{:?}", result.reason);
}
