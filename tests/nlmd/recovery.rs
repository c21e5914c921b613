//! kill -9 and what the next life does about it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use nlmctl::wire::control::Grace;
use nlmctl::wire::nlm::{Stat, Version};

use super::harness::*;

#[test]
fn after_a_crash_clients_are_told_and_reclaim_before_anybody_else_gets_a_lock() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]).to_string();
    let host = Host::start("127.0.0.3", port.parse().unwrap());
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port, "--grace", "4s"]);
    let first = nsm_state(&daemon);
    assert_eq!(Control::open(&daemon).status().grace, Grace::Open, "nobody has anything to reclaim");
    let mut beta = Client::v4(&daemon, "127.0.0.3", "beta");
    assert_eq!(beta.lock(&want("file")), Stat::Granted);
    let to = (Ipv4Addr::new(127, 0, 0, 99), daemon.nlm_udp).into();
    let mut other_path = Client::new(Wire::udp("127.0.0.3", to), Version::V4, "beta");
    assert_eq!(other_path.lock(&want("another file")), Stat::Granted);
    daemon.kill_9();

    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port, "--grace", "4s"]);
    let second = nsm_state(&daemon);
    assert!(second.is_up() && second != first);
    let mut notices = BTreeSet::new();
    for _ in 0..4 {
        let Heard::Notified { from, name, state } = host.hear() else { panic!("not a notice") };
        assert_eq!(state, second);
        notices.insert((from.ip().to_string(), name));
    }
    let expected = ["127.0.0.1", "127.0.0.99"]
        .map(|from| ["server", "server.example.org"].map(|name| (from.to_owned(), name.to_owned())));
    assert_eq!(notices, expected.into_iter().flatten().collect());

    let (mut alpha, mut beta) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    let reclaim = Want { reclaim: true, ..want("file") };
    assert_eq!(Control::open(&daemon).status().grace, Grace::Recovery);
    assert_eq!(alpha.lock(&want("file")), Stat::DeniedGracePeriod);
    assert_eq!(beta.lock(&reclaim), Stat::Granted);
    let mut control = Control::open(&daemon);
    await_some("the end of grace", || (control.status().grace == Grace::Open).then_some(()));
    assert_eq!(alpha.lock(&want("file")), Stat::Denied, "it was reclaimed");
    assert_eq!(alpha.lock(&want("another file")), Stat::Granted, "it was not");
}

#[test]
fn a_run_cut_by_a_crash_is_superseded_and_its_state_number_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &["--grace", "300ms"]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    assert_eq!(alpha.lock(&want("file")), Stat::Granted);
    let mut control = Control::open(&daemon);
    let begun = super::control::begin(&mut control, 1).unwrap();
    daemon.kill_9();

    let daemon = Nlmd::start(&folder, &["--grace", "300ms"]);
    let mut control = Control::open(&daemon);
    let state = control.status().nsm_state;
    assert!(state != begun.new_state && state != begun.old_state && state.is_up());
    let result = super::control::result(&mut control, begun.run).unwrap();
    assert_eq!(result.outcome, nlmctl::wire::control::Outcome::Superseded);
    assert_eq!((result.counts.in_scope, result.counts.unverified), (1, 1));
    let unfetched = super::control::unfetched(&mut control);
    assert_eq!(unfetched, [begun.run]);
}

#[test]
fn a_client_that_a_run_does_not_tell_hears_of_the_restart_after_it_with_the_runs_number() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]).to_string();
    let host = Host::start("127.0.0.3", port.parse().unwrap());
    host.deaf.store(true, Ordering::Relaxed);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port, "--grace", "300ms"]);
    assert_eq!(Client::v4(&daemon, "127.0.0.3", "beta").lock(&want("file")), Stat::Granted);
    daemon.kill_9();

    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port, "--grace", "300ms"]);
    let mut control = Control::open(&daemon);
    await_some("the end of grace", || (control.status().grace == Grace::Open).then_some(()));
    let begun = super::control::begin(&mut control, 1).unwrap();
    assert_eq!(begun.in_scope, 0, "it has no locks any more, so the run does not tell it");
    await_some("the new number", || daemon.log().contains("get the new one").then_some(()));
    host.deaf.store(false, Ordering::Relaxed);
    let Heard::Notified { state, .. } = host.hear() else { panic!("not a notice") };
    assert_eq!(state, begun.new_state);
}
