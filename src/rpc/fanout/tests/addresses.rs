//! Which of a host's addresses are asked, and from where: families, names, the ones it called from.

use super::*;

#[test]
fn a_refusal_counts_where_the_other_address_is_of_a_family_without_a_socket() {
    let mut world = World::new();
    let only_v4 = Options { lanes: vec![Lane { ipv6: false, window: 8 }], ..options(8) };
    let both = target(1, Host::Addresses(vec![client(1), "fd00::7".parse().unwrap()]));
    let mut fanout = Fanout::new(Duration::ZERO, vec![both], only_v4);
    while world.now < 4 * S {
        world.step(&mut fanout);
        fanout.handle_refused(world.now, (client(1), RPCBIND).into());
    }
    let deliveries = world.deliveries(1);
    assert!(matches!(deliveries[..], [(_, Failure::Refused, false)]), "{deliveries:?}");
    assert_eq!(world.sent.len(), 1, "it is left alone for its rest");
}

#[test]
fn a_name_about_which_the_resolver_said_nothing_is_not_unknown_and_is_tried_later() {
    let mut fanout = Fanout::new(Duration::ZERO, vec![target(1, Host::Name("one".into()))], options(64));
    let lookup = fanout.poll_lookup().unwrap();
    fanout.handle_lookup(Duration::ZERO, lookup.token, Err(Unresolved::Unanswered("it is busy".into())));
    let event = fanout.poll_event().unwrap();
    let error = Some("one is not resolved yet: it is busy".to_owned());
    let heard = Heard::Nothing;
    assert_eq!(event.news, News::GivenUp { failure: Failure::NotSent, heard, error, last: false });
    fanout.handle_timeout(NAME_REST);
    assert_eq!(fanout.poll_lookup().map(|lookup| lookup.name).as_deref(), Some("one"));
    // What was once seen of it is not taken back.
    fanout.handle_lookup(NAME_REST, lookup.token, Ok(Vec::new()));
    assert!(matches!(fanout.poll_event().unwrap().news, News::GivenUp { failure: Failure::NameUnknown, .. }));
    fanout.handle_timeout(2 * NAME_REST);
    fanout.handle_lookup(2 * NAME_REST, lookup.token, Err(Unresolved::Unanswered("it is busy".into())));
    assert_eq!(fanout.poll_event(), None);
}

#[test]
fn ipv6_clients_are_asked_by_getaddr() {
    let host: IpAddr = "fd00::7".parse().unwrap();
    let mut world = World::new().with([(host, Manner::Healthy)]);
    let mut told = target(1, Host::Addresses(vec![host]));
    told.calls[0].from = None;
    notify(&mut world, vec![told], options(64));
    assert!(matches!(world.last(1).news, News::Answered { answered: 2, .. }));
    assert!(world.sent.iter().all(|(_, call)| call.lane == 1 && call.from.is_none()));
}

#[test]
fn a_statd_that_has_tcp_only_is_found_over_ipv6_too() {
    let host: IpAddr = "fd00::7".parse().unwrap();
    let mut world = World::new().with([(host, Manner::TcpOnly)]);
    let mut told = target(1, Host::Addresses(vec![host]));
    told.calls[0].from = None;
    notify(&mut world, vec![told], options(64));
    assert!(matches!(world.last(1).news, News::Answered { answered: 2, .. }), "{:?}", world.last(1));
}

#[test]
fn a_family_without_a_socket_is_said_so() {
    let host: IpAddr = "fd00::7".parse().unwrap();
    let mut world = World::new().with([(host, Manner::Healthy), (client(1), Manner::Healthy)]);
    let only_v4 = Options { lanes: vec![Lane { ipv6: false, window: 8 }], ..options(8) };
    let both = target(2, Host::Addresses(vec![host, client(1)]));
    notify(&mut world, vec![target(1, Host::Addresses(vec![host])), both], only_v4);
    let News::GivenUp { failure: Failure::NotSent, error: Some(error), last: true, .. } = &world.last(1).news else {
        panic!("{:?}", world.last(1))
    };
    assert!(error.contains("fd00::7"), "{error}");
    assert_eq!(world.last(1).attempts, 0);
    assert!(matches!(world.last(2).news, News::Answered { .. }));
}

#[test]
fn the_second_address_is_tried_when_the_first_is_silent() {
    for (first, most) in [(Manner::Dead, S), (Manner::Hung, 3 * S)] {
        let mut world = World::new().with([(client(1), first), (client(2), Manner::Healthy)]);
        notify(&mut world, vec![target(1, Host::Addresses(vec![client(1), client(2)]))], options(64));
        assert!(matches!(world.last(1).news, News::Answered { answered: 2, .. }));
        assert!(world.now < most, "{:?}", world.now);
    }
}

/// A client known by its first address, whose name has all of them.
fn named(world: &mut World, addresses: &[IpAddr]) -> Target {
    world.names.insert("named".into(), addresses.to_vec());
    target(1, Host::client(&CallerName::new("named").unwrap(), addresses[..1].iter().copied()))
}

#[test]
fn a_client_that_is_silent_where_it_called_from_is_told_at_its_names_other_addresses_and_that_is_said() {
    let mut world = World::new().with([(client(3), Manner::Healthy)]);
    let told = named(&mut world, &[client(1), client(2), client(3)]);
    notify(&mut world, vec![told], options(64));
    let deliveries = world.deliveries(1);
    assert!(
        matches!(deliveries[..], [(at, Failure::Elsewhere, false), (end, Failure::Elsewhere, true)] if at < 8 * S && end == 60 * S),
        "{deliveries:?}"
    );
    let News::GivenUp { error: Some(error), .. } = &world.last(1).news else { panic!("{:?}", world.last(1)) };
    assert!(error.contains(&client(3).to_string()), "{error}");
}

#[test]
fn a_client_that_was_acked_elsewhere_is_still_told_where_it_called_from_once_it_is_back() {
    let mut world = World::new().with([(client(1), Manner::Dead), (client(2), Manner::Healthy)]);
    world.revival = 3 * S;
    let told = named(&mut world, &[client(1), client(2)]);
    notify(&mut world, vec![told], options(64));
    assert_eq!(world.notices[&client(1)].len(), 2, "each name");
    let deliveries = world.deliveries(1);
    assert!(matches!(deliveries[..], [(at, Failure::Elsewhere, false)] if at < 3 * S), "{deliveries:?}");
    let last = world.last(1);
    assert!(matches!(last.news, News::Answered { answered: 2, of: 2, address, .. } if address == Some(client(1))));
    assert!(last.at < 10 * S, "{last:?}");
}

#[test]
fn a_name_that_the_resolver_did_not_answer_for_is_asked_again_after_a_rest() {
    let mut world = World::new().with([(client(2), Manner::Healthy)]);
    world.stalled = 2;
    let told = named(&mut world, &[client(1), client(2)]);
    notify(&mut world, vec![told], options(64));
    assert_eq!(world.notices.keys().collect::<Vec<_>>(), [&client(2)]);
    let rests = world.looked_up.windows(2).all(|pair| pair[1] >= pair[0] + NAME_REST);
    assert!(world.looked_up.len() == 3 && rests, "{:?}", world.looked_up);
}

#[test]
fn a_client_that_answers_where_it_called_from_is_told_there_alone() {
    let mut world = World::new().with([(client(1), Manner::Healthy), (client(2), Manner::Healthy)]);
    let told = named(&mut world, &[client(1), client(2)]);
    notify(&mut world, vec![told], options(64));
    assert!(matches!(world.last(1).news, News::Answered { answered: 2, .. }));
    assert_eq!(world.notices.keys().collect::<Vec<_>>(), [&client(1)]);
}

#[test]
fn a_silent_clients_name_is_asked_once_and_never_leads_to_this_host() {
    let mut world = World::new();
    let ours = ["127.0.0.1", "10.255.0.2", "10.255.0.3"].map(|ip| ip.parse().unwrap());
    let told = named(&mut world, &[&[client(1)], &ours[..]].concat());
    notify(&mut world, vec![told], options(64));
    assert!(world.sent.iter().all(|(_, call)| call.to.ip() == client(1)));
    assert_eq!(world.deliveries(1), [(10 * S, Failure::NoAnswer, false), (60 * S, Failure::NoAnswer, true)]);
}

#[test]
fn port_look_ups_leave_from_each_address_that_the_client_called() {
    let mut world = World::new();
    let froms = ["10.255.0.2", "10.255.0.3"].map(|from| Some(from.parse().unwrap()));
    let calls = froms.map(|from| notice(from, "server"));
    notify(&mut world, vec![Target { calls: calls.into(), ..at(1) }], options(64));
    let used: Vec<_> = world.sent.iter().map(|(_, call)| call.from).collect();
    assert_eq!(used[..4], [froms[0], froms[1], froms[0], froms[1]]);
}

#[test]
fn an_address_in_other_clothes_is_the_same_address() {
    let clothed = Host::Addresses(["::ffff:10.0.0.1", "10.0.0.1", "fd00::7"].map(|ip| ip.parse().unwrap()).into());
    assert_eq!(clothed.canonical(), Host::Addresses(vec![client(1), "fd00::7".parse().unwrap()]));
    assert_eq!(Host::Name("::ffff:10.0.0.1".into()).canonical(), Host::Addresses(vec![client(1)]));
    assert_eq!(Host::Name("ten".into()).canonical(), Host::Name("ten".into()));
}

#[test]
fn names_are_resolved_beside_and_unknown_ones_told() {
    let mut world = World::new().with([(client(1), Manner::Healthy), (client(2), Manner::Healthy)]);
    world.names.insert("one".into(), vec![client(1)]);
    world.names.insert("empty".into(), vec![]);
    let targets = [(1, "one"), (2, "10.0.0.2"), (3, "two"), (4, "empty")];
    let targets = targets.map(|(id, host)| target(id, Host::Name(host.into()).canonical()));
    notify(&mut world, targets.into(), options(64));
    assert!(matches!(world.last(1).news, News::Answered { .. }));
    assert!(matches!(world.last(2).news, News::Answered { .. }));
    for unknown in [3, 4] {
        let deliveries = world.deliveries(unknown);
        assert!(
            matches!(deliveries[..], [(at, Failure::NameUnknown, false), (_, Failure::NameUnknown, true)] if at < 10 * MS)
        );
    }
}
