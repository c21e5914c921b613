//! Hosts that are dead, hang, have no statd or UDP, or refuse.

use super::*;

#[test]
fn the_dead_do_not_delay_the_living() {
    // Every dead one comes before every live one.
    let mut world = World::new().with((1000..2000).map(|id| (client(id), Manner::Healthy)));
    notify(&mut world, (0..2000).map(at).collect(), options(64));
    let slowest = (1000..2000).map(|id| world.last(id).at).max().unwrap();
    assert!(slowest < S, "{slowest:?}");
}

#[test]
fn once_round_trips_are_known_the_dead_hold_no_place_for_long() {
    let mut world = World::new().with((0..1000).map(|id| (client(2 * id), Manner::Healthy)));
    notify(&mut world, (0..2000).map(at).collect(), options(64));
    let slowest = (0..1000).map(|id| world.last(2 * id).at).max().unwrap();
    assert!(slowest < 300 * MS, "{slowest:?}");
}

#[test]
fn ten_seconds_without_an_ack_count_from_the_last_one() {
    let mut world = World::new().with([(client(1), Manner::Dead)]);
    (world.revival, world.unheard) = (5 * S, Some(name("server")));
    notify(&mut world, vec![at(1)], options(64));
    let first = world.events.iter().find(|event| event.news != News::SentAgain).unwrap();
    let acked = first.at;
    assert!(matches!(first.news, News::Answered { answered: 1, of: 2, .. }) && acked > 5 * S);
    let deliveries = world.deliveries(1);
    assert_eq!(deliveries, [(acked + 10 * S, Failure::Partial, false), (60 * S, Failure::Partial, true)]);
}

#[test]
fn a_statd_that_hangs_is_not_pestered_though_its_rpcbind_answers() {
    let mut world = World::new().with([(client(1), Manner::Hung)]);
    notify(&mut world, vec![at(1)], options(64));
    assert!((20..80).contains(&world.sent.len()), "{}", world.sent.len());
    assert_eq!(world.deliveries(1).last(), Some(&(60 * S, Failure::NoAnswer, true)));
}

#[test]
fn a_dead_client_is_reported_after_ten_seconds_and_tried_until_the_end() {
    let mut world = World::new();
    notify(&mut world, vec![at(1)], options(64));
    let deliveries = world.deliveries(1);
    assert_eq!(deliveries, [(10 * S, Failure::NoAnswer, false), (60 * S, Failure::NoAnswer, true)]);
    let repeats = world.sent.len();
    assert!((15..40).contains(&repeats), "{repeats}");
    assert_eq!(world.last(1).attempts as usize, repeats);
    assert!(world.sent.last().unwrap().0 > 54 * S, "retries went on");
}

#[test]
fn a_late_ack_is_reported_after_all() {
    let mut world = World::new().with([(client(1), Manner::Dead)]);
    world.revival = 30 * S;
    notify(&mut world, vec![at(1)], options(64));
    assert_eq!(world.deliveries(1), [(10 * S, Failure::NoAnswer, false)]);
    let last = world.last(1);
    assert!(
        matches!(last.news, News::Answered { answered: 2, .. }) && last.at > 30 * S && last.at < 36 * S,
        "{last:?}"
    );
}

#[test]
fn a_client_without_statd_is_given_up_at_once_and_found_when_it_starts_one() {
    let mut world = World::new().with([(client(1), Manner::NoStatd)]);
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1)], options(64));
    while world.now < 8 * S {
        world.step(&mut fanout);
    }
    let deliveries = world.deliveries(1);
    assert!(matches!(deliveries[..], [(at, Failure::NotRegistered, false)] if at < 10 * MS), "{deliveries:?}");
    world.hosts.insert(client(1), Manner::Healthy);
    world.run(&mut fanout);
    assert!(matches!(world.last(1).news, News::Answered { answered: 2, .. }));
}

#[test]
fn a_statd_without_udp_is_told_over_tcp() {
    let mut world = World::new().with([(client(1), Manner::TcpOnly)]);
    notify(&mut world, vec![at(1)], options(64));
    assert!(matches!(world.last(1).news, News::Answered { answered: 2, of: 2, .. }));
    assert!(world.sent.iter().all(|(_, call)| call.to.port() == RPCBIND));
}

#[test]
fn a_host_that_no_datagram_reaches_is_told_over_tcp_alone() {
    for refused in [false, true] {
        let mut world = World::new().with([(client(1), Manner::Walled)]);
        let mut fanout = Fanout::new(Duration::ZERO, vec![at(1)], options(64));
        while !world.step(&mut fanout) {
            if refused {
                fanout.handle_refused(world.now, (client(1), RPCBIND).into());
            }
        }
        let last = world.last(1);
        assert!(matches!(last.news, News::Answered { answered: 2, of: 2, .. }) && last.at < S, "{last:?}");
        assert_eq!(world.deliveries(1), [], "it was never in trouble");
        assert!(world.streamed.iter().all(|(_, call)| call.from == Some("10.255.0.2".parse().unwrap())));
    }
}

#[test]
fn a_host_whose_second_address_answers_over_tcp_alone_is_found_there() {
    let mut world = World::new().with([(client(2), Manner::Walled)]);
    notify(&mut world, vec![target(1, Host::Addresses(vec![client(1), client(2)]))], options(64));
    let last = world.last(1);
    assert!(matches!(last.news, News::Answered { answered: 2, of: 2, .. }) && last.at < 5 * S, "{last:?}");
}

#[test]
fn thousands_of_dead_hosts_are_asked_by_tcp_in_a_few_places_and_delay_no_other() {
    let living = |id| if id % 2 == 0 { Manner::Healthy } else { Manner::TcpOnly };
    let mut world = World::new().with((3000..3100).map(|id| (client(id), living(id))));
    let options = options(256);
    notify(&mut world, (0..3100).map(at).collect(), options.clone());
    let slowest = (3000..3100).map(|id| world.last(id).at).max().unwrap();
    assert!(slowest < 2 * S, "{slowest:?}");
    assert!(world.most_streams <= options.streams, "{}", world.most_streams);
    for id in 0..3000 {
        assert_eq!(world.deliveries(id)[0].1, Failure::NoAnswer);
        assert!(world.deliveries(id)[0].0 < 12 * S, "{:?}", world.deliveries(id));
    }
}

#[test]
fn hosts_that_are_there_on_tcp_alone_are_found_among_hundreds_of_dead_ones() {
    for refused in [false, true] {
        let mut world = World::new().with((500..520).map(|id| (client(id), Manner::Walled)));
        let many = Options { streams: 192, ..options(256) };
        let mut fanout = Fanout::new(Duration::ZERO, (0..520).map(at).collect(), many);
        while !world.step(&mut fanout) {
            // By then all of them wait for their look-up by TCP.
            if refused && world.now > 400 * MS {
                (500..520).for_each(|id| fanout.handle_refused(world.now, (client(id), RPCBIND).into()));
            }
        }
        for id in 500..520 {
            assert!(matches!(world.last(id).news, News::Answered { answered: 2, of: 2, .. }), "{:?}", world.last(id));
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let mut world = World::new().with([(client(1), Manner::Refuses)]);
    notify(&mut world, vec![at(1)], options(64));
    let News::GivenUp { failure, error, last, .. } = &world.events[0].news else { panic!("{:?}", world.events) };
    assert_eq!((*failure, *last), (Failure::Refused, false));
    assert!(error.as_ref().unwrap().contains("statd refused SM_NOTIFY"), "{error:?}");
    assert_eq!(world.deliveries(1).last(), Some(&(60 * S, Failure::Refused, true)));
}

#[test]
fn a_host_where_nobody_listens_is_given_up_at_once_and_tried_again() {
    let mut world = World::new();
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1), at(2)], options(64));
    while world.now < 9 * S {
        world.step(&mut fanout);
        fanout.handle_refused(world.now, (client(1), RPCBIND).into());
        fanout.handle_refused(world.now, (client(3), RPCBIND).into());
    }
    let deliveries = world.deliveries(1);
    assert!(matches!(deliveries[..], [(_, Failure::Refused, false)]), "{deliveries:?}");
    assert_eq!(world.deliveries(2), []);
    let tried = world.sent.iter().filter(|(_, call)| call.to.ip() == client(1)).count();
    assert_eq!(tried, 2, "once, and once more after a rest");
}

#[test]
fn what_never_left_is_not_told_and_not_unanswered() {
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1), at(2)], options(64));
    let mut now = Duration::ZERO;
    let mut events = Vec::new();
    while !fanout.is_done() {
        while let Some(call) = fanout.poll_transmit(now) {
            if call.to.ip() == client(1) {
                fanout.handle_unsent(&call, &"this host does not have the address to send from");
            }
        }
        while let Some(event) = fanout.poll_event() {
            events.push(event);
        }
        now = fanout.next_timeout().expect("an open fan-out has a timer");
        fanout.handle_timeout(now);
    }
    while let Some(event) = fanout.poll_event() {
        events.push(event);
    }
    let of = |id| events.iter().filter(move |event| event.id == id);
    assert!(of(1).all(|event| event.attempts == 0 && event.news != News::SentAgain), "{events:?}");
    for (id, expected) in [(1, Failure::NotSent), (2, Failure::NoAnswer)] {
        let Some(News::GivenUp { failure, last: true, .. }) = of(id).next_back().map(|event| &event.news) else {
            panic!("{events:?}")
        };
        assert_eq!(*failure, expected);
    }
}
