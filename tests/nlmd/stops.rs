//! nlmd is stopped for a while, as a virtual machine is, and goes on.

use std::time::Duration;

use nix::sys::signal::Signal;
use nlmctl::wire::control::{BeginArgs, Begun, Grace, Outcome, Procedure};
use nlmctl::wire::nlm::Stat;

use super::control::{acked, begin_args, result};
use super::harness::*;

/// Stops nlmd, has `calls` made meanwhile, and lets it go on when its deadlines are over.
fn while_stopped(daemon: &Nlmd, deadline: Duration, calls: Vec<(Client, Want)>) -> Vec<Stat> {
    daemon.signal(Signal::SIGSTOP);
    let lock = |(mut client, want): (Client, Want)| std::thread::spawn(move || client.lock(&want));
    let calls: Vec<_> = calls.into_iter().map(lock).collect();
    // Time itself is what passes: there is nobody to ask.
    std::thread::sleep(deadline);
    daemon.signal(Signal::SIGCONT);
    calls.into_iter().map(|call| call.join().unwrap()).collect()
}

fn reclaim(file: &'static str) -> Want {
    Want { reclaim: true, ..want(file) }
}

#[test]
fn reclaims_that_came_while_it_was_stopped_past_its_recovery_grace_are_granted() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &["--grace", "2s"]);
    for (address, name, file) in [("127.0.0.2", "alpha", "one"), ("127.0.0.3", "beta", "two")] {
        assert_eq!(Client::v4(&daemon, address, name).lock(&want(file)), Stat::Granted);
    }
    daemon.kill_9();
    let daemon = Nlmd::start(&folder, &["--grace", "2s"]);
    assert_eq!(Control::open(&daemon).status().grace, Grace::Recovery);
    // A datagram, and a connection that nlmd has not even accepted.
    let tcp = Wire::tcp("127.0.0.3", (std::net::Ipv4Addr::LOCALHOST, daemon.nlm_tcp).into());
    let calls = vec![
        (Client::v4(&daemon, "127.0.0.2", "alpha"), reclaim("one")),
        (Client::new(tcp, nlmctl::wire::nlm::Version::V4, "beta"), reclaim("two")),
    ];
    let answers = while_stopped(&daemon, Duration::from_secs(4), calls);
    assert_eq!(answers, [Stat::Granted, Stat::Granted]);
    let status = Control::open(&daemon).status();
    assert_eq!(status.grace, Grace::Recovery, "a client may have to repeat its call");
    assert!(status.grace_remaining_ms > 5_000, "{status:?}");
}

#[test]
fn a_run_that_it_was_stopped_in_takes_what_came_and_keeps_what_nobody_had_time_for() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    for file in ["claimed", "lost on the way"] {
        assert_eq!(alpha.lock(&want(file)), Stat::Granted);
    }
    let mut control = Control::open(&daemon);
    let args = BeginArgs { grace_max_ms: 3_000, ..begin_args(&mut control, 1, 1_000) };
    let begun: Begun = control.call(Procedure::Begin, &args).unwrap();
    acked(&mut control, &begun).unwrap();
    // The controller is gone, so nlmd settles by itself.
    drop(control);
    let answers = while_stopped(&daemon, Duration::from_millis(3_500), vec![(alpha, reclaim("claimed"))]);
    assert_eq!(answers, [Stat::Granted]);
    let mut control = Control::open(&daemon);
    let ended = await_some("the run's result", || result(&mut control, begun.run).ok());
    assert_eq!(ended.outcome, Outcome::Settled);
    assert_eq!((ended.counts.reclaimed, ended.counts.dropped, ended.counts.kept), (1, 0, 1));
    assert!(ended.reason.as_str().contains("did not run for 3."), "{ended:?}");
}
