//! A client whose address changed, and reclaims in a run from the new one.
#![cfg(test)]

mod netns;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use netns::client::{Client, Want, Wire, next_xid, want};
use netns::{LIMIT, Netns, Nlmd, Ran, add_address, cable, link, nlmctl, until};
use nix::sys::signal::Signal;
use nlmctl::wire::nlm::{self, Procedure, Stat, Version};
use nlmctl::wire::rpc::{self, Credential};
use serde_json::Value;

const SERVER: &str = "10.9.0.1";
const FIRST: &str = "10.9.0.2";
const SECOND: &str = "10.9.0.3";
const THIRD: &str = "10.9.0.4";
/// Resolves to none of these.
const NAMELESS: &str = "10.9.0.5";
const PORT: u16 = 4045;
const NAME: &str = "roamer.test";
const GRACE: [&str; 4] = ["--grace", "3s", "--grace-max", "3s"];

/// A server, and a client that has one of its addresses.
struct World {
    server: Netns,
    client: Netns,
    nlmd: Mutex<Nlmd>,
}

fn start_on(server: &Netns) -> Nlmd {
    Nlmd::start(server, &["--name", "server.test", "--no-rpcbind", "--nlm-port", &PORT.to_string(), "--grace", "20s"])
}

impl World {
    fn new() -> Self {
        let (server, client) = (Netns::new("server.test"), Netns::new(NAME));
        link(&server, &format!("{SERVER}/24"), &client, &format!("{FIRST}/24"));
        server.knows(&[FIRST, SECOND, THIRD].map(|address| (address, "roamer.test roamer")));
        let nlmd = Mutex::new(start_on(&server));
        let world = Self { server, client, nlmd };
        assert_eq!(world.lock(FIRST, "f"), Stat::Granted);
        world
    }

    fn log(&self) -> String {
        self.nlmd.lock().unwrap().log()
    }

    fn kill_and_start_nlmd(&self) {
        let mut nlmd = self.nlmd.lock().unwrap();
        nlmd.signal(Signal::SIGKILL);
        nlmd.wait();
        *nlmd = start_on(&self.server);
    }

    fn has(&self, address: &str) {
        add_address(&self.client, &cable(&self.client), &format!("{address}/24"));
    }

    fn moves_to(&self, addresses: &[&str]) {
        self.client.run("ip", &["address", "flush", "dev", &cable(&self.client)]);
        for address in addresses {
            self.has(address);
        }
    }

    fn client(&self, from: &str, name: &'static str) -> Client {
        let to = SocketAddr::new(SERVER.parse().unwrap(), PORT);
        Client::new(self.client.inside(|| Wire::udp(from, to)), Version::V4, name)
    }

    /// Sends the LOCK again every second until it is answered, as a client does. None if it is not for the time of a test.
    fn lock_with(&self, from: &str, file: &'static str, state: i32, reclaim: bool) -> Option<Stat> {
        let mut client = self.client(from, NAME);
        let args = client.args(Procedure::Lock, &Want { reclaim, state, ..want(file) });
        let number = Procedure::Lock.number();
        let message = rpc::call(next_xid(), nlm::PROGRAM, 4, number, &Credential::root(NAME), &args);
        let until = Instant::now() + LIMIT / 2;
        while Instant::now() < until {
            if let Some(answer) = client.wire.exchange(&message, Duration::from_secs(1)) {
                let results = rpc::parse_reply(&answer).unwrap().outcome.unwrap();
                return Some(client.stat_in(Procedure::Lock, results));
            }
        }
        None
    }

    fn lock(&self, from: &str, file: &'static str) -> Stat {
        self.lock_with(from, file, 3, false).expect("an answer")
    }

    fn reclaim(&self, from: &str, file: &'static str) -> Stat {
        self.lock_with(from, file, 3, true).expect("an answer")
    }

    fn unlock(&self, from: &str, file: &'static str) {
        assert_eq!(self.client(from, NAME).unlock(&want(file)), Stat::Granted);
    }

    /// Whether another process is kept from the file.
    fn is_held(&self, from: &str, file: &'static str) -> bool {
        self.client(from, "other.test").test(&Want { svid: 9, ..want(file) }) == Stat::Denied
    }

    /// The addresses of those who hold the file.
    fn holders(&self) -> Vec<String> {
        let listed = nlmctl(&self.server, &["locks"]);
        let locks = listed.json();
        let rows = locks["locks"].as_array().unwrap_or_else(|| panic!("{listed:?}"));
        rows.iter().map(|row| row["owner"]["address"].as_str().unwrap_or_else(|| panic!("{row}")).to_owned()).collect()
    }

    /// A run; gives back when it has begun.
    fn run<'a>(&'a self, scope: &'a Scope<'a, '_>, flags: &[&'a str]) -> ScopedJoinHandle<'a, (Ran, Value)> {
        let arguments = [&["resync", "--yes"], flags].concat();
        let running = scope.spawn(move || {
            let ran = nlmctl(&self.server, &arguments);
            let report = ran.json();
            (ran, report)
        });
        until("the run has begun", || self.log().contains("has begun"));
        running
    }

    /// What a run reports in which this is done after it began.
    fn in_a_run(&self, act: impl FnOnce()) -> (Ran, Value) {
        scope(|scope| {
            let running = self.run(scope, &GRACE);
            act();
            running.join().unwrap()
        })
    }

    fn is_asked(&self) -> bool {
        self.log().contains("whether that host has moved")
    }
}

/// The reclaim was refused, and the lock is kept and named.
#[track_caller]
fn is_conflict(world: &World, (ran, report): &(Ran, Value)) {
    assert_eq!((&report["locks"]["conflicts"], &report["locks"]["kept"]), (&1.into(), &1.into()), "{ran:?}");
    assert_eq!(world.holders(), [FIRST], "{ran:?}");
    let named = nlmctl(&world.server, &["runs", "show", report["run"]["id"].as_str().unwrap()]);
    assert!(named.stdout.contains(FIRST) && named.stdout.contains("conflict"), "{named:?}");
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_host_that_moved_takes_its_locks_back_though_the_deadline_comes_while_it_is_asked() {
    let world = World::new();
    assert_eq!(world.lock(FIRST, "g"), Stat::Granted);
    world.moves_to(&[SECOND]);
    let (ran, report) = world.in_a_run(|| {
        let asked = Instant::now();
        // Both before the deadline: what comes after it may meet the settle.
        let reclaimed = scope(|scope| {
            let both = ["f", "g"].map(|file| scope.spawn(|| world.reclaim(SECOND, file)));
            both.map(|reclaim| reclaim.join().unwrap())
        });
        assert_eq!(reclaimed, [Stat::Granted; 2]);
        assert!(asked.elapsed() > Duration::from_secs(3), "the deadline has passed meanwhile");
    });
    assert_eq!((&report["locks"]["reclaimed"], &report["locks"]["conflicts"]), (&2.into(), &0.into()), "{ran:?}");
    assert_eq!(world.holders(), [SECOND, SECOND]);
    assert!(world.log().contains("roamer.test was at 10.9.0.2 and is at 10.9.0.3 by now"));
    assert!(world.is_held(SECOND, "f"));
    world.unlock(SECOND, "f");
    assert!(!world.is_held(SECOND, "f"));
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_first_address_that_answers_the_probe_keeps_its_lock() {
    let world = World::new();
    world.has(SECOND);
    let ended = world.in_a_run(|| assert_eq!(world.reclaim(SECOND, "f"), Stat::Denied));
    assert!(world.is_asked());
    is_conflict(&world, &ended);
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_first_address_that_has_called_since_the_run_began_keeps_its_lock() {
    for procedure in [Procedure::Null, Procedure::Test] {
        let world = World::new();
        let ended = world.in_a_run(|| {
            match procedure {
                Procedure::Null => drop(world.client(FIRST, NAME).wire.call(nlm::PROGRAM, 4, 0, &[]).unwrap()),
                _ => drop(world.is_held(FIRST, "f")),
            }
            world.moves_to(&[SECOND]);
            assert_eq!(world.reclaim(SECOND, "f"), Stat::Denied);
        });
        assert!(!world.is_asked(), "nobody needs to be asked");
        is_conflict(&world, &ended);
    }
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn what_differs_or_has_not_the_name_gets_nothing() {
    for (from, state, is_asked) in [(SECOND, 5, false), (NAMELESS, 3, true)] {
        let world = World::new();
        world.moves_to(&[from]);
        let asked = Instant::now();
        let ended = world.in_a_run(|| assert_eq!(world.lock_with(from, "f", state, true), Some(Stat::Denied)));
        assert!(asked.elapsed() < Duration::from_secs(20));
        assert_eq!(world.is_asked(), is_asked);
        is_conflict(&world, &ended);
    }
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn of_two_new_addresses_that_claim_a_lock_one_gets_it() {
    let world = World::new();
    world.moves_to(&[SECOND, THIRD]);
    let (ran, report) = world.in_a_run(|| {
        let stats = scope(|scope| {
            let claims = [SECOND, THIRD].map(|from| scope.spawn(|| world.reclaim(from, "f")));
            claims.map(|claim| claim.join().unwrap())
        });
        assert!(matches!(stats, [Stat::Granted, Stat::Denied] | [Stat::Denied, Stat::Granted]), "{stats:?}");
    });
    assert_eq!((&report["locks"]["reclaimed"], &report["locks"]["conflicts"]), (&1.into(), &1.into()), "{ran:?}");
    assert_eq!(world.holders().len(), 1);
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn an_abort_while_it_is_asked_leaves_the_lock_to_the_first_address() {
    let world = World::new();
    world.moves_to(&[SECOND]);
    scope(|scope| {
        let running = world.run(scope, &[]);
        let claim = scope.spawn(|| world.reclaim(SECOND, "f"));
        until("it is asked", || world.is_asked());
        let aborted = nlmctl(&world.server, &["abort"]);
        assert_eq!(aborted.code, 0, "{aborted:?}");
        assert_eq!(claim.join().unwrap(), Stat::Denied);
        running.join().unwrap();
    });
    assert_eq!(world.holders(), [FIRST]);
    assert!(!world.log().contains("by now"), "the answer came too late to mean anything");
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_server_that_is_killed_while_it_is_asked_takes_the_reclaim_after_its_restart() {
    let world = World::new();
    world.moves_to(&[SECOND]);
    scope(|scope| {
        let running = world.run(scope, &[]);
        let claim = scope.spawn(|| world.reclaim(SECOND, "f"));
        until("it is asked", || world.is_asked());
        world.kill_and_start_nlmd();
        assert_eq!(claim.join().unwrap(), Stat::Granted, "its repetition, in the recovery grace");
        assert_eq!(world.holders(), [SECOND]);
        running.join().unwrap();
    });
}
