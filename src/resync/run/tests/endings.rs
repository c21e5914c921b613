//! How a run ends or goes on when it is left: signals, a resume, a lock manager that is away or was restarted.

use super::*;

#[test]
fn a_signal_before_the_first_notice_aborts() {
    let (mut run, _) = Run::begin(TERMS);
    assert_eq!(run.handle(ms(1), Event::Signal("SIGINT")), [], "what begin did is not known yet");
    assert_eq!(run.handle(ms(5), fresh(2)), [Action::Persist(Phase::Begun), Action::Abort]);
    assert_eq!(run.handle(ms(6), Event::Ended), [Action::StopNotices, Action::FetchResult]);

    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(5), fresh(2));
    assert_eq!(run.handle(ms(6), Event::Signal("SIGTERM")), [Action::Abort]);
    assert_eq!(run.handle(ms(7), Event::Told(active(2, 1))), [], "no notice after the abort was asked for");
}

#[test]
fn where_begin_frees_the_locks_a_signal_waits_until_every_client_is_told() {
    let mut run = Run::begin(Terms { begin_releases: true, ..TERMS }).0;
    assert_eq!(run.handle(ms(1), Event::Signal("SIGINT")), []);
    let begun = run.handle(ms(5), fresh(2));
    assert_eq!(begun, [Action::Persist(Phase::Begun), Action::Tell(Vec::new())], "there is nothing to abort");
    assert!(run.handle(ms(10), Event::Told(active(2, 89_990))).contains(&Action::StartNotices));
    assert!(!run.handle(ms(20), ack(0, 20)).iter().any(|action| matches!(action, Action::Finish(_))));
    let told = run.handle(ms(30), given_up(1, 30, Delivery::NoStatd));
    assert!(
        matches!(told.last(), Some(Action::Finish(Ending::Interrupted(why))) if why.contains("SIGINT")),
        "{told:?}"
    );
}

#[test]
fn a_second_signal_before_begin_is_answered_aborts_what_may_have_begun() {
    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(1), Event::Signal("SIGINT"));
    assert!(run.is_leaving());
    let out = run.handle(ms(2), Event::Signal("SIGINT"));
    assert!(
        matches!(
            out.as_slice(),
            [Action::Abort, Action::StopNotices, Action::Finish(Ending::Interrupted(why))] if why.contains("SIGINT")
        ),
        "{out:?}"
    );
}

#[test]
fn an_answer_that_makes_no_sense_aborts_before_the_first_notice_and_never_closes_the_books() {
    let failed = || Event::Failed("nonsense".into());
    let left = Action::Finish(Ending::Interrupted("nonsense".into()));
    let (mut run, _) = Run::begin(TERMS);
    assert_eq!(run.handle(ms(1), failed()), [Action::Abort, Action::StopNotices, left.clone()]);
    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(5), fresh(2));
    assert_eq!(run.handle(ms(6), failed()), [Action::Abort, Action::StopNotices, left.clone()]);
    assert_eq!(notifying(2).handle(ms(20), failed()), [Action::StopNotices, left.clone()]);
    let (mut run, _) = Run::resume(TERMS, Phase::Notifying);
    assert_eq!(run.handle(ms(1), failed()), [Action::StopNotices, left]);
}

#[test]
fn a_signal_after_the_first_notice_leaves_and_tells_what_was_heard() {
    let mut run = notifying(5);
    run.handle(ms(20), ack(0, 20));
    let out = run.handle(ms(25), Event::Signal("SIGHUP"));
    assert!(matches!(
        out.as_slice(),
        [Action::Tell(batch), Action::StopNotices, Action::Finish(Ending::Interrupted(_))] if batch.len() == 1
    ));
}

#[test]
fn a_resumed_run_is_never_aborted_by_a_signal() {
    for phase in [Phase::Notifying, Phase::Reclaiming, Phase::Settling] {
        let (mut run, first) = Run::resume(TERMS, phase);
        assert_eq!(first, [Action::Begin]);
        run.handle(ms(5), fresh(1));
        let out = run.handle(ms(6), Event::Signal("SIGINT"));
        assert!(!out.contains(&Action::Abort), "{phase}: {out:?}");
    }
}

#[test]
fn a_resumed_run_tells_again_what_is_known_and_notifies_the_rest() {
    let (mut run, _) = Run::resume(TERMS, Phase::Notifying);
    let acked = Starting { delivery: Delivery::Acked, some_acked: true, ago: Duration::ZERO, suspect: true };
    let open = Starting { delivery: Delivery::NotTold, some_acked: false, ago: Duration::ZERO, suspect: false };
    run.handle(ms(5), Event::Begun { clients: vec![acked, open], elapsed: ms(3_000) });
    let out = run.handle(ms(10), Event::Told(active(5, 80_000)));
    assert_eq!(out, [Action::StartNotices]);
    let Some(Action::Tell(batch)) = run.handle(ms(60), Event::Tick).pop() else { panic!("nothing told") };
    assert_eq!(batch.iter().map(|c| (c.client, c.suspect)).collect::<Vec<_>>(), [(0, true)]);
}

#[test]
fn a_client_that_acked_some_of_its_notices_before_a_resume_is_not_one_that_did_not_answer() {
    let given_up_as = [Delivery::NoAnswer, Delivery::NoStatd, Delivery::NameUnknown, Delivery::Refused];
    for (some_acked, word) in given_up_as.into_iter().flat_map(|word| [(true, word), (false, word)]) {
        let (mut run, _) = Run::resume(TERMS, Phase::Notifying);
        let client = Starting { delivery: Delivery::NotTold, some_acked, ago: Duration::ZERO, suspect: false };
        run.handle(ms(5), Event::Begun { clients: vec![client], elapsed: ms(3_000) });
        run.handle(ms(10), Event::Told(active(5, 80_000)));
        run.handle(ms(20), sent_again(0, 20));
        run.handle(ms(10_000), given_up(0, 10_000, word));
        let Some(Action::Tell(batch)) = run.handle(ms(10_100), Event::Tick).pop() else { panic!("nothing told") };
        let expected = if some_acked { Delivery::Partial } else { word };
        assert_eq!(batch.iter().map(|client| client.delivery).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn while_the_manager_is_away_no_notice_leaves() {
    let mut run = notifying(5);
    run.handle(ms(20), ack(0, 20));
    assert_eq!(run.handle(ms(100), Event::ManagerLost), [Action::StopNotices, Action::Reconnect]);
    let out = run.handle(ms(900), Event::ManagerBack(active(5, 80_000)));
    assert_eq!(out, [Action::Tell(vec![])], "announced anew");
    let out = run.handle(ms(910), Event::Told(active(5, 80_000)));
    assert_eq!(out, [Action::StartNotices]);
    let Some(Action::Tell(batch)) = run.handle(ms(999), Event::Tick).pop() else { panic!("nothing told") };
    assert_eq!(batch.len(), 1, "what was told before the break is told again");
}

#[test]
fn a_manager_that_restarted_supersedes_the_run() {
    let mut run = notifying(5);
    run.handle(ms(100), Event::ManagerLost);
    let out = run.handle(ms(900), Event::ManagerBack(Standing::Over));
    assert_eq!(out, [Action::StopNotices, Action::FetchResult]);
    let out = run.handle(ms(910), Event::ResultUnknown);
    assert!(matches!(out.last(), Some(Action::Finish(Ending::Superseded(_)))));
}

#[test]
fn a_manager_that_does_not_come_back_is_left() {
    let mut run = notifying(5);
    run.handle(ms(100), Event::ManagerLost);
    assert_eq!(run.wake_at(), Some(ms(100) + PATIENCE));
    let out = run.handle(ms(100) + PATIENCE, Event::Tick);
    assert!(matches!(out.last(), Some(Action::Finish(Ending::Interrupted(_)))));
}

#[test]
fn a_begin_that_was_refused_has_touched_nothing_unless_an_earlier_one_got_lost() {
    let refusal = || Event::BeginRefused(Refusal::new(RefusalCode::StalePlan, "stale"));
    let (mut run, _) = Run::begin(TERMS);
    assert!(matches!(run.handle(ms(1), refusal()).last(), Some(Action::Finish(Ending::Refused(_)))));

    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(1), Event::ManagerLost);
    assert_eq!(run.handle(ms(2), Event::ManagerBack(Standing::Over)), [Action::Begin]);
    assert_eq!(run.handle(ms(3), refusal()), [Action::StopNotices, Action::FetchResult]);
}

#[test]
fn a_run_that_somebody_else_ended_is_fetched() {
    let mut run = notifying(5);
    assert_eq!(run.handle(ms(50), Event::Seen(Standing::Over)), [Action::StopNotices, Action::FetchResult]);
    let out = run.handle(ms(60), Event::ResultStored);
    assert_eq!(out.last(), Some(&Action::Finish(Ending::Recorded)));
}

#[test]
fn a_stale_ack_after_the_settle_changes_nothing() {
    let mut run = notifying(0);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(20), ack(1, 20));
    pass(&mut run, 600, |_| active(0, 89_000));
    run.handle(ms(610), Event::Ended);
    let before = run.progress(ms(620));
    assert_eq!(run.handle(ms(620), ack(0, 620)), []);
    run.handle(ms(630), Event::ResultStored);
    assert_eq!(run.handle(ms(640), ack(1, 640)), []);
    assert_eq!(run.progress(ms(640)).acked, before.acked);
    assert_eq!(run.wake_at(), None);
}
