//! The machine by a virtual clock: every order of events that matters, then any order at all.

mod endings;

use proptest::prelude::*;

use super::*;
use crate::wire::control::{Refusal, RefusalCode};

const QUIET: Duration = Duration::from_millis(500);
const TERMS: Terms =
    Terms { quiet_time: QUIET, grace: Duration::from_secs(90), settle_early: true, begin_releases: false };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Milliseconds from `at` to `end`.
fn left(end: u64, at: Duration) -> u64 {
    u64::try_from(ms(end).saturating_sub(at).as_millis()).unwrap()
}

fn active(pending: u64, remaining: u64) -> Standing {
    Standing::Active {
        in_scope: 10,
        pending,
        last_reclaim: None,
        remaining: ms(remaining),
        latest_remaining: ms(remaining + 90_000),
    }
}

fn fresh(clients: usize) -> Event {
    let client = Starting { delivery: Delivery::NotTold, some_acked: false, ago: Duration::ZERO, suspect: false };
    Event::Begun { clients: vec![client; clients], elapsed: Duration::ZERO }
}

fn ack(client: u32, at: u64) -> Event {
    Event::Heard { client, at: ms(at), news: NoticeNews::Acked { all: true } }
}

fn sent_again(client: u32, at: u64) -> Event {
    Event::Heard { client, at: ms(at), news: NoticeNews::SentAgain }
}

fn given_up(client: u32, at: u64, delivery: Delivery) -> Event {
    Event::Heard { client, at: ms(at), news: NoticeNews::GivenUp(delivery) }
}

/// A run of two clients whose notices are out since 10 ms, `pending` locks, deadline at 90 s.
fn notifying(pending: u64) -> Run {
    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(5), fresh(2));
    let out = run.handle(ms(10), Event::Told(active(pending, 89_990)));
    assert!(out.contains(&Action::StartNotices));
    run
}

/// Lets time pass to `until`, ticking whenever the run wants it; answers every `Tell` with
/// `standing`. Gives back what was to be done.
fn pass(run: &mut Run, until: u64, standing: impl Fn(Duration) -> Standing) -> Vec<(u128, Action)> {
    let mut done = Vec::new();
    while let Some(at) = run.wake_at().filter(|at| *at <= ms(until)) {
        let mut actions = run.handle(at, Event::Tick);
        let mut told = 0;
        while actions.iter().any(|a| matches!(a, Action::Tell(_))) && told < 5 {
            done.extend(actions.into_iter().map(|a| (at.as_millis(), a)));
            actions = run.handle(at, Event::Told(standing(at)));
            told += 1;
        }
        done.extend(actions.into_iter().map(|a| (at.as_millis(), a)));
    }
    done
}

fn settles(actions: &[(u128, Action)]) -> Vec<(u128, bool)> {
    actions
        .iter()
        .filter_map(|(at, action)| match action {
            Action::Settle(when) => Some((*at, *when != SettleWhen::Always)),
            _ => None,
        })
        .collect()
}

#[test]
fn no_notice_leaves_before_begin_and_the_announcement_are_answered() {
    let (mut run, first) = Run::begin(TERMS);
    assert_eq!(first, [Action::Persist(Phase::Beginning), Action::Begin]);
    let begun = run.handle(ms(5), fresh(2));
    assert_eq!(begun, [Action::Persist(Phase::Begun), Action::Tell(vec![])]);
    let told = run.handle(ms(10), Event::Told(active(3, 90_000)));
    assert_eq!(told, [Action::Persist(Phase::Notifying), Action::StartNotices]);
}

#[test]
fn with_nothing_pending_and_all_acked_it_settles_once_it_was_quiet() {
    let mut run = notifying(0);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(40), ack(1, 40));
    let done = pass(&mut run, 5_000, |at| active(0, left(90_000, at)));
    assert_eq!(settles(&done), [(540, true)]);
    assert_eq!(done.iter().filter(|(_, a)| *a == Action::Persist(Phase::Settling)).count(), 1);
}

#[test]
fn every_client_acked_is_not_enough_while_a_lock_is_pending() {
    let mut run = notifying(1);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(40), ack(1, 40));
    let done = pass(&mut run, 80_000, |at| active(1, left(90_000, at)));
    assert_eq!(settles(&done), []);
}

#[test]
fn nothing_pending_is_not_enough_while_a_notice_is_neither_acked_nor_given_up() {
    let mut run = notifying(0);
    run.handle(ms(20), ack(0, 20));
    assert_eq!(settles(&pass(&mut run, 10_000, |at| active(0, left(90_000, at)))), []);
    let out = run.handle(ms(10_010), given_up(1, 10_010, Delivery::NoAnswer));
    assert!(
        matches!(out.last(), Some(Action::Tell(batch)) if batch.len() == 1 && batch[0].client == 1),
        "a delivery is told before the settle that goes by it: {out:?}"
    );
    let out = run.handle(ms(10_012), Event::Told(active(0, 79_988)));
    assert_eq!(out.last(), Some(&Action::Settle(SettleWhen::NothingPending)), "it has long been quiet");
}

#[test]
fn a_client_to_which_nothing_can_be_sent_is_told_so_that_it_is_not_waited_for() {
    let mut run = notifying(1);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(30), given_up(1, 30, Delivery::NotTold));
    let done = pass(&mut run, 40_000, |at| active(1, left(90_000, at)));
    let told = |action: &Action| match action {
        Action::Tell(batch) => batch.iter().any(|told| (told.client, told.delivery) == (1, Delivery::NotTold)),
        _ => false,
    };
    let settle = Action::Settle(SettleWhen::NothingAwaited);
    let [told, settles] = [done.iter().position(|(_, a)| told(a)), done.iter().position(|(_, a)| *a == settle)];
    assert!(told.is_some() && told < settles, "{done:?}");
}

/// Two clients, of which the second is given up at 10 s; locks are pending.
fn with_a_dead_client(terms: Terms) -> Run {
    let (mut run, _) = Run::begin(terms);
    run.handle(ms(5), fresh(2));
    run.handle(ms(10), Event::Told(active(3, 89_990)));
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(10_010), given_up(1, 10_010, Delivery::NoAnswer));
    run.handle(ms(10_012), Event::Told(active(3, 79_988)));
    run
}

/// What it asks until then, and when: pending ones stay so.
fn asked(mut run: Run, until: u64) -> Vec<(u128, Action)> {
    let mut done = pass(&mut run, until, |at| active(3, left(90_000, at)));
    done.retain(|(_, action)| matches!(action, Action::Settle(_)));
    done
}

#[test]
fn where_only_locks_of_dead_clients_are_pending_it_settles_after_thirty_seconds_of_grace() {
    let settle = Action::Settle(SettleWhen::NothingAwaited);
    assert_eq!(asked(with_a_dead_client(TERMS), 80_000), [(30_005, settle.clone())]);
    let longer_quiet = Terms { quiet_time: ms(25_000), ..TERMS };
    assert_eq!(asked(with_a_dead_client(longer_quiet), 80_000), [(30_005, settle.clone())], "quiet since 20 ms");
    let short = Terms { grace: ms(12_000), ..TERMS };
    assert_eq!(asked(with_a_dead_client(short), 80_000), [(12_005, settle)], "grace itself is shorter");
}

#[test]
fn it_settles_before_the_deadline_with_locks_pending_only_for_clients_given_up_and_never_where_begin_frees() {
    let (mut run, _) = Run::begin(TERMS);
    run.handle(ms(5), fresh(2));
    run.handle(ms(10), Event::Told(active(3, 89_990)));
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(40), ack(1, 40));
    assert_eq!(asked(run, 80_000), [], "both acked");
    let freed = Terms { begin_releases: true, ..TERMS };
    assert_eq!(asked(with_a_dead_client(freed), 80_000), []);
    let late = Terms { settle_early: false, ..TERMS };
    assert_eq!(asked(with_a_dead_client(late), 80_000), []);
}

#[test]
fn a_manager_that_still_awaits_a_lock_is_asked_again_each_second_and_a_reclaim_puts_it_off() {
    let mut run = with_a_dead_client(TERMS);
    let mut times = Vec::new();
    for _ in 0..3 {
        let done = pass(&mut run, 80_000, |at| active(3, left(90_000, at)));
        let at = done.iter().find(|(_, action)| *action == Action::Settle(SettleWhen::NothingAwaited)).unwrap().0;
        times.push(at);
        let now = ms(u64::try_from(at).unwrap());
        run.handle(now, Event::StillPending);
        run.handle(now, Event::Seen(active(3, left(90_000, now))));
    }
    assert_eq!(times, [30_005, 31_005, 32_005]);
    let reclaim = Standing::Active {
        in_scope: 10,
        pending: 2,
        last_reclaim: Some(ms(0)),
        remaining: ms(57_000),
        latest_remaining: ms(147_000),
    };
    run.handle(ms(33_000), Event::Seen(reclaim));
    let done = pass(&mut run, 80_000, |at| active(2, left(90_000, at)));
    assert_eq!(settles(&done), [(33_500, true)]);
}

#[test]
fn a_reclaim_starts_the_quiet_time_anew() {
    let mut run = notifying(1);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(20), ack(1, 20));
    pass(&mut run, 700, |at| active(1, left(90_000, at)));
    let reclaimed = Standing::Active {
        in_scope: 10,
        pending: 0,
        last_reclaim: Some(ms(100)),
        remaining: ms(89_000),
        latest_remaining: ms(179_000),
    };
    run.handle(ms(1_000), Event::Seen(reclaimed));
    assert_eq!(run.wake_at(), Some(ms(1_400)));
    assert_eq!(settles(&pass(&mut run, 5_000, |_| reclaimed)), [(1_400, true)]);
}

#[test]
fn a_manager_that_cannot_settle_early_is_not_asked_to() {
    let (mut run, _) = Run::begin(Terms { settle_early: false, ..TERMS });
    run.handle(ms(5), fresh(1));
    run.handle(ms(10), Event::Told(active(0, 1_990)));
    run.handle(ms(20), ack(0, 20));
    let done = pass(&mut run, 5_000, |at| active(0, left(2_000, at)));
    assert_eq!(settles(&done), [(2_000, false)]);
}

#[test]
fn where_grace_goes_on_after_the_deadline_acks_are_told_until_it_is_over() {
    let (mut run, _) = Run::begin(Terms { settle_early: false, ..TERMS });
    run.handle(ms(5), fresh(2));
    run.handle(ms(10), Event::Told(active(3, 1_990)));
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(30), sent_again(1, 30));
    let standing = |at| active(3, left(2_000, at));
    assert_eq!(settles(&pass(&mut run, 2_000, standing)), [(2_000, false)]);
    assert_eq!(run.handle(ms(2_001), Event::StillPending), []);
    run.handle(ms(2_500), ack(1, 2_500));
    let acked = ClientProgress { client: 1, delivery: Delivery::Acked, ago_ms: 30, suspect: false };
    assert_eq!(pass(&mut run, 3_000, standing), [(2_530, Action::Tell(vec![acked]))]);
    assert_eq!(settles(&pass(&mut run, 3_001, standing)), [(3_001, false)], "asked again");
    run.handle(ms(3_002), Event::StillPending);
    assert_eq!(run.handle(ms(3_100), Event::Seen(Standing::Over)), [Action::StopNotices, Action::FetchResult]);
}

#[test]
fn at_the_deadline_every_last_delivery_is_told_before_the_settle() {
    let mut run = notifying(2);
    run.handle(ms(20), Event::Heard { client: 0, at: ms(20), news: NoticeNews::Acked { all: false } });
    run.handle(ms(60), sent_again(1, 60));
    let done = pass(&mut run, 90_000, |at| active(2, left(90_000, at)));
    let last: Vec<_> = done
        .iter()
        .filter_map(|(at, action)| match action {
            Action::Tell(batch) if *at == 90_000 => {
                Some(batch.iter().map(|c| (c.client, c.delivery)).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert_eq!(last, [vec![(0, Delivery::Partial), (1, Delivery::NoAnswer)]]);
    assert_eq!(settles(&done), [(90_000, false)]);
}

#[test]
fn at_the_deadline_no_answer_is_told_only_of_a_client_that_a_call_was_sent_to_in_vain() {
    let mut run = notifying(2);
    run.handle(ms(60), sent_again(1, 60));
    let out = run.handle(ms(90_000), Event::Tick);
    let told: Vec<_> = out
        .iter()
        .filter_map(|action| if let Action::Tell(batch) = action { Some(batch) } else { None })
        .flatten()
        .map(|c| (c.client, c.delivery))
        .collect();
    assert_eq!(told, [(1, Delivery::NoAnswer)]);
    run.handle(ms(90_001), Event::ManagerLost);
    run.handle(ms(90_002), Event::ManagerBack(active(2, 0)));
    let out = run.handle(ms(90_003), Event::Told(active(2, 0)));
    assert!(
        matches!(out.last(), Some(Action::Tell(batch)) if batch.len() == 1 && batch[0].delivery == Delivery::NoAnswer),
        "told again, as the first telling may be lost: {out:?}"
    );

    // A run resumed at its deadline: nothing of it has left this host.
    let (mut run, _) = Run::resume(TERMS, Phase::Notifying);
    run.handle(ms(5), fresh(2));
    let out = run.handle(ms(10), Event::Told(active(2, 0)));
    assert_eq!(out, [Action::StartNotices, Action::Tell(vec![])]);
}

#[test]
fn a_client_that_a_stopped_controller_could_not_hear_has_not_failed_to_answer() {
    for again in [false, true] {
        let mut run = notifying(2);
        run.handle(ms(300), sent_again(0, 300));
        assert_eq!(run.lagged(ms(95_000), false), []);
        // Its ack waits in the socket; or it really says nothing.
        if again {
            run.handle(ms(95_100), sent_again(0, 95_100));
        }
        let done = pass(&mut run, 95_300, |_| active(2, 0));
        let told: Vec<_> = done
            .iter()
            .filter_map(|(_, action)| if let Action::Tell(batch) = action { Some(batch.clone()) } else { None })
            .flatten()
            .map(|seen| (seen.client, seen.delivery))
            .collect();
        assert_eq!(told, if again { vec![(0, Delivery::NoAnswer)] } else { vec![] }, "{again}");
        assert_eq!(settles(&done), [(95_200, false)], "what has come in is heard first");
    }
}

#[test]
fn after_a_long_lag_the_controller_asks_for_more_time() {
    let mut run = notifying(2);
    assert_eq!(run.lagged(ms(20_000), true), [], "there is enough");
    assert_eq!(run.lagged(ms(85_000), true), [Action::Extend(Duration::from_secs(15))]);
    run.handle(ms(85_010), Event::Seen(active(2, 15_000)));
    assert_eq!(settles(&pass(&mut run, 100_000, |at| active(2, left(100_010, at)))), []);
}

#[test]
fn a_lag_does_not_count_as_absence_of_the_manager() {
    let mut run = notifying(2);
    run.handle(ms(1_000), Event::ManagerLost);
    run.lagged(ms(60_000), true);
    assert!(run.handle(ms(60_001), Event::Tick).is_empty());
    assert_eq!(run.wake_at(), Some(ms(90_000)));
}

#[test]
fn a_deadline_that_the_manager_moved_is_followed() {
    let mut run = notifying(2);
    run.handle(ms(20), ack(0, 20));
    let moved = |at: Duration| active(2, left(95_000, at));
    let done = pass(&mut run, 94_999, moved);
    assert_eq!(settles(&done), []);
    assert_eq!(settles(&pass(&mut run, 95_000, moved)), [(95_000, false)]);
}

#[test]
fn an_early_settle_that_met_a_pending_lock_waits_for_the_next_status() {
    let mut run = notifying(0);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(20), ack(1, 20));
    assert_eq!(settles(&pass(&mut run, 600, |_| active(0, 89_000))), [(520, true)]);
    let out = run.handle(ms(600), Event::StillPending);
    assert!(out.contains(&Action::AskStatus));
    assert_eq!(settles(&pass(&mut run, 5_000, |_| active(1, 80_000))), []);
    run.handle(ms(5_000), Event::Seen(active(0, 80_000)));
    assert_eq!(settles(&pass(&mut run, 6_000, |_| active(0, 80_000))).len(), 0, "it settles in the same step");
    assert!(matches!(run.state, State::Settling(_)));
}

#[test]
fn a_result_that_cannot_be_written_is_tried_again_and_not_for_ever() {
    let mut run = notifying(0);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(20), ack(1, 20));
    let mut now = 520;
    for _ in 0..=RETRIES {
        let asked = settles(&pass(&mut run, now, |_| active(0, 89_000)));
        assert_eq!(asked.len(), 1, "asked once at {now} ms");
        let out = run.handle(ms(now), Event::NotDurable);
        if let Some(Action::Finish(ending)) = out.last() {
            assert!(matches!(ending, Ending::Interrupted(_)));
            return;
        }
        now += 1_000;
    }
    panic!("asked for ever");
}

#[test]
fn deliveries_are_told_in_batches_and_one_batch_at_a_time() {
    let mut run = notifying(5);
    assert_eq!(run.handle(ms(20), ack(0, 20)), []);
    assert_eq!(run.wake_at(), Some(ms(50)));
    let out = run.handle(ms(50), Event::Tick);
    let expected = ClientProgress { client: 0, delivery: Delivery::Acked, ago_ms: 30, suspect: false };
    assert_eq!(out, [Action::Tell(vec![expected])]);
    assert_eq!(run.handle(ms(60), ack(1, 60)), [Action::Persist(Phase::Reclaiming)]);
    assert_eq!(run.handle(ms(100), Event::Tick), [], "the first batch is still under way");
    let out = run.handle(ms(110), Event::Told(active(5, 80_000)));
    assert!(matches!(out.as_slice(), [Action::Tell(batch)] if batch.len() == 1));
}

#[test]
fn an_ack_outlives_a_later_give_up_and_replaces_an_earlier_one() {
    let mut run = notifying(5);
    run.handle(ms(20), ack(0, 20));
    run.handle(ms(30), given_up(0, 30, Delivery::Partial));
    run.handle(ms(30), given_up(1, 30, Delivery::NoAnswer));
    run.handle(ms(40), ack(1, 40));
    let Some(Action::Tell(batch)) = run.handle(ms(60), Event::Tick).pop() else { panic!("nothing told") };
    assert!(batch.iter().all(|c| c.delivery == Delivery::Acked) && batch.len() == 2, "{batch:?}");
}

/// Any event, as a hostile world could bring it.
fn any_event() -> impl Strategy<Value = Event> {
    let standing = || {
        prop_oneof![
            9 => (0u64..3, 0u64..3_000).prop_map(|(pending, remaining)| active(pending, remaining)),
            1 => Just(Standing::Over),
        ]
    };
    let news = prop_oneof![
        any::<bool>().prop_map(|all| NoticeNews::Acked { all }),
        Just(NoticeNews::SentAgain),
        Just(NoticeNews::GivenUp(Delivery::NoAnswer)),
        Just(NoticeNews::GivenUp(Delivery::NoStatd)),
        Just(NoticeNews::GivenUp(Delivery::Partial)),
    ];
    prop_oneof![
        4 => (0usize..4).prop_map(fresh),
        1 => Just(Event::BeginRefused(Refusal::new(RefusalCode::RunActive, "busy"))),
        8 => standing().prop_map(Event::Told),
        8 => standing().prop_map(Event::Seen),
        8 => (0u32..5, news).prop_map(|(client, news)| Event::Heard { client, at: Duration::ZERO, news }),
        2 => Just(Event::Ended),
        2 => Just(Event::StillPending),
        2 => Just(Event::NotDurable),
        1 => Just(Event::ResultStored),
        1 => Just(Event::ResultUnknown),
        1 => Just(Event::ManagerLost),
        1 => standing().prop_map(Event::ManagerBack),
        1 => Just(Event::Signal("SIGINT")),
        1 => Just(Event::Failed("nonsense".into())),
        12 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_promises_hold(events in prop::collection::vec((0u64..700, any_event()), 1..80)) {
        let (mut run, _) = Run::begin(TERMS);
        let (mut now, mut begun, mut confirmed, mut finished) = (Duration::ZERO, false, false, false);
        let mut decided = Vec::new();
        let mut pending = None;
        for (step, event) in events {
            now += ms(step);
            let event = match event {
                Event::Heard { client, news, .. } => Event::Heard { client, at: now, news },
                other => other,
            };
            let before = run.state;
            match &event {
                Event::Begun { clients, .. } if before == State::Beginning => {
                    begun = true;
                    decided = vec![false; clients.len()];
                }
                Event::Told(Standing::Active { .. }) if before == State::Announcing => confirmed = true,
                Event::Heard { client, news, .. } => {
                    if let (Some(one), NoticeNews::Acked { all: true } | NoticeNews::GivenUp(_)) =
                        (decided.get_mut(*client as usize), news)
                    {
                        *one = true;
                    }
                }
                _ => {}
            }
            match (&event, before) {
                (
                    Event::Told(Standing::Active { pending: p, .. }) | Event::Seen(Standing::Active { pending: p, .. }),
                    State::Announcing | State::Notifying | State::Closing,
                )
                | (Event::ManagerBack(Standing::Active { pending: p, .. }), State::Away { .. }) => pending = Some(*p),
                _ => {}
            }
            for action in run.handle(now, event.clone()) {
                prop_assert!(!finished, "{action:?} after the end");
                match action {
                    Action::StartNotices => prop_assert!(begun && confirmed, "a notice before grace was confirmed"),
                    Action::Settle(SettleWhen::NothingPending) => {
                        prop_assert!(decided.iter().all(|d| *d), "settled early with a notice open");
                        prop_assert_eq!(pending, Some(0), "settled early with locks pending");
                        prop_assert!(run.untold.is_empty(), "settled on deliveries that were not told");
                        prop_assert!(now >= run.last_news + QUIET, "settled early before it was quiet");
                    }
                    Action::Settle(SettleWhen::NothingAwaited) => {
                        prop_assert!(decided.iter().all(|d| *d), "settled early with a notice open");
                        prop_assert!(run.given_up() > 0, "settled early with locks pending of clients that acked");
                        prop_assert!(run.untold.is_empty(), "settled on deliveries that were not told");
                        prop_assert!(now >= run.last_news + QUIET, "settled early before it was quiet");
                        prop_assert!(now >= run.began + FOR_SLOW_CLIENTS, "a slow client had no time");
                    }
                    Action::Abort => prop_assert!(!run.confirmed || !confirmed, "aborted after a notice"),
                    Action::Finish(_) => finished = true,
                    _ => {}
                }
            }
            if matches!(event, Event::Tick) && run.wake_at().is_some_and(|at| at <= now) {
                // Due again at once: the next tick must then do something.
                prop_assert!(!run.handle(now, Event::Tick).is_empty(), "a tick for nothing in {:?}", run.state);
            }
        }
    }

    /// A manager that answers, and may be gone for a while; clients that ack, or not; reclaims.
    #[test]
    fn with_a_manager_that_answers_every_run_ends(
        acks in prop::collection::vec(prop::option::of(0u64..20_000), 0..5),
        reclaims in prop::collection::vec(0u64..5_000, 0..5),
        never_reclaimed in 0u64..2,
        lost in prop::option::of(0u64..12_000),
        signal in prop::option::of(0u64..30_000),
        mut lag in prop::option::of(0u64..12_000),
        grace in 1u64..10_000,
    ) {
        let (mut run, first) = Run::begin(TERMS);
        let mut now = Duration::ZERO;
        let mut todo: std::collections::VecDeque<Action> = first.into();
        let mut outside: Vec<(Duration, Event)> = (0..).zip(&acks)
            .map(|(client, at)| match at {
                Some(at) => (ms(*at), ack(client, *at)),
                None => (ms(10_000), given_up(client, 10_000, Delivery::NoAnswer)),
            })
            .chain(lost.map(|at| (ms(at), Event::ManagerLost)))
            .chain(signal.map(|at| (ms(at), Event::Signal("SIGINT"))))
            .collect();
        outside.sort_by_key(|(at, _)| *at);
        let mut outside: std::collections::VecDeque<_> = outside.into();
        let mut over = false;
        let mut steps = 0;
        let ending = loop {
            steps += 1;
            prop_assert!(steps < 10_000, "no end in sight: {run:?}");
            let pending = never_reclaimed + reclaims.iter().filter(|at| ms(**at) > now).count() as u64;
            let last = reclaims.iter().filter(|at| ms(**at) <= now).max();
            let standing = if over { Standing::Over } else {
                Standing::Active {
                    in_scope: 10,
                    pending,
                    last_reclaim: last.map(|at| now.saturating_sub(ms(*at))),
                    remaining: ms(grace).saturating_sub(now),
                    latest_remaining: ms(grace).saturating_sub(now),
                }
            };
            let event = match todo.pop_front() {
                Some(Action::Finish(ending)) => break ending,
                Some(Action::Begin) => fresh(acks.len()),
                Some(Action::Tell(_)) => Event::Told(standing),
                Some(Action::AskStatus | Action::Extend(_)) => Event::Seen(standing),
                Some(Action::Settle(SettleWhen::NothingPending | SettleWhen::NothingAwaited)) if pending > 0 && !over => Event::StillPending,
                Some(Action::Settle { .. } | Action::Abort) => { over = true; Event::Ended }
                Some(Action::FetchResult) => Event::ResultStored,
                Some(Action::Reconnect) => { now += ms(500); Event::ManagerBack(standing) }
                Some(Action::Persist(_) | Action::StartNotices | Action::StopNotices) => continue,
                None => {
                    let tick = run.wake_at();
                    let next = outside.front().map(|(at, _)| (*at).max(now));
                    // The watch shows the status each second.
                    let seen = now + ms(1_000);
                    if next.is_some_and(|at| at <= seen && tick.is_none_or(|tick| at <= tick)) {
                        let Some((at, event)) = outside.pop_front() else { continue };
                        now = now.max(at);
                        event
                    } else if let Some(tick) = tick.filter(|tick| *tick <= seen) {
                        now = now.max(tick);
                        Event::Tick
                    } else {
                        now = seen;
                        Event::Seen(standing)
                    }
                }
            };
            if lag.take_if(|at| ms(*at) <= now).is_some() {
                todo.extend(run.lagged(now, true));
            }
            todo.extend(run.handle(now, event));
        };
        match ending {
            Ending::Recorded => prop_assert!(over),
            Ending::Interrupted(_) => prop_assert!(signal.is_some()),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
