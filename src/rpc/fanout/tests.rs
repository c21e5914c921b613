//! The machine against a network that does not exist.

mod addresses;
mod failures;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ask::Outcome;
use super::farm::{Manner, STATE, rpcbind_answer, statd_answer};
use super::machine::{NAME_REST, StreamCall, Transmit};
use super::queue::Lane;
use super::state::Fanout;
use super::target::{Options, RunOptions};
use super::*;
use crate::rpc::call::xid_of;
use crate::rpc::resolver::Unresolved;
use crate::wire::nsm::{self, Procedure};
use crate::wire::rpc::RpcError;
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const RPCBIND: u16 = 111;
const STATD: u16 = 4000;
const NEW_STATE: NsmState = NsmState(9);

#[derive(Debug, Clone, PartialEq)]
enum Arrival {
    Datagram { lane: usize, peer: SocketAddr, local: IpAddr, bytes: Vec<u8> },
    Call(Transmit),
    Found(u64, Result<Vec<IpAddr>, Unresolved>),
    Streamed(u64, Result<Result<Vec<u8>, RpcError>, String>),
}

/// Hosts, what lies between, and what was seen.
struct World {
    hosts: HashMap<IpAddr, Manner>,
    names: HashMap<String, Vec<IpAddr>>,
    /// So many look-ups get no answer, the first ones.
    stalled: u32,
    /// When names were looked up.
    looked_up: Vec<Duration>,
    /// Nobody acks a notice with this name.
    unheard: Option<CallerName>,
    /// From this instant on the dead ones are healthy.
    revival: Duration,
    /// One way, and up to as much again.
    delay: Duration,
    loss: f64,
    duplication: f64,
    forgery: bool,
    rng: StdRng,
    now: Duration,
    on_the_way: BTreeMap<(Duration, u64), Arrival>,
    posted: u64,
    sent: Vec<(Duration, Transmit)>,
    streamed: Vec<(Duration, StreamCall)>,
    streams_open: usize,
    most_streams: usize,
    notices: HashMap<IpAddr, Vec<CallerName>>,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self {
            hosts: HashMap::new(),
            names: HashMap::new(),
            stalled: 0,
            looked_up: Vec::new(),
            unheard: None,
            revival: Duration::MAX,
            delay: MS / 2,
            loss: 0.0,
            duplication: 0.0,
            forgery: false,
            rng: StdRng::seed_from_u64(1),
            now: Duration::ZERO,
            on_the_way: BTreeMap::new(),
            posted: 0,
            sent: Vec::new(),
            streamed: Vec::new(),
            streams_open: 0,
            most_streams: 0,
            notices: HashMap::new(),
            events: Vec::new(),
        }
    }

    fn with(mut self, hosts: impl IntoIterator<Item = (IpAddr, Manner)>) -> Self {
        self.hosts.extend(hosts);
        self
    }

    fn post(&mut self, arrival: Arrival) {
        let jitter = self.rng.random_range(0.0..1.0);
        self.posted += 1;
        self.on_the_way.insert((self.now + self.delay + self.delay.mul_f64(jitter), self.posted), arrival);
    }

    fn carry(&mut self, arrival: &Arrival) {
        if self.rng.random_bool(1.0 - self.loss) {
            self.post(arrival.clone());
        }
        if self.rng.random_bool(self.duplication) {
            self.post(arrival.clone());
        }
    }

    fn manner(&self, host: IpAddr) -> Manner {
        match self.hosts.get(&host) {
            Some(Manner::Dead) if self.now >= self.revival => Manner::Healthy,
            Some(&manner) => manner,
            None => Manner::Dead,
        }
    }

    /// A host got a call.
    fn serve(&mut self, call: &Transmit) {
        let host = call.to.ip();
        if self.manner(host) == Manner::Walled {
            return;
        }
        let answer = if call.to.port() == RPCBIND {
            rpcbind_answer(self.manner(host), host, STATD, &call.bytes)
        } else {
            assert_eq!(call.to.port(), STATD);
            assert_ne!(self.manner(host), Manner::TcpOnly);
            statd_answer(self.manner(host), &call.bytes).and_then(|(reply, arrived)| {
                if let Some(notice) = arrived {
                    assert_eq!(notice.state, NEW_STATE);
                    if self.unheard.as_ref() == Some(&notice.name) {
                        return None;
                    }
                    self.notices.entry(host).or_default().push(notice.name);
                }
                Some(reply)
            })
        };
        let Some(bytes) = answer else { return };
        let local = call.from.unwrap_or("10.255.0.1".parse().unwrap());
        self.carry(&Arrival::Datagram { lane: call.lane, peer: call.to, local, bytes });
    }

    /// What a stranger sends who sees nothing, and what one sends who guessed something.
    fn forge(&mut self, call: &Transmit) {
        let good = rpc_reply(&call.bytes, 0);
        let local = call.from.unwrap_or("10.255.0.1".parse().unwrap());
        let mut forged = vec![
            (call.to, local, rpc_reply(&call.bytes, 1)),
            ((call.to.ip(), call.to.port() + 1).into(), local, good.clone()),
            (("10.99.99.99".parse::<IpAddr>().unwrap(), call.to.port()).into(), local, good.clone()),
            (call.to, local, call.bytes.clone()),
            (call.to, local, good[..8].to_vec()),
            (call.to, local, vec![0; 3]),
        ];
        if call.from.is_some() {
            forged.push((call.to, "10.255.0.77".parse().unwrap(), good));
        }
        for (peer, local, bytes) in forged {
            self.post(Arrival::Datagram { lane: call.lane, peer, local, bytes });
        }
    }

    fn arrive(&mut self, fanout: &mut Fanout, arrival: Arrival) {
        match arrival {
            Arrival::Call(call) => self.serve(&call),
            Arrival::Datagram { lane, peer, local, bytes } => {
                fanout.handle_datagram(self.now, lane, peer, local, &bytes);
            }
            Arrival::Found(token, found) => fanout.handle_lookup(self.now, token, found),
            Arrival::Streamed(token, went) => {
                self.streams_open -= 1;
                fanout.handle_stream(self.now, token, went);
            }
        }
    }

    fn run(&mut self, fanout: &mut Fanout) {
        while !self.step(fanout) {}
    }

    /// Everything there is to do now, then on to the next instant. True at the end.
    fn step(&mut self, fanout: &mut Fanout) -> bool {
        while let Some(lookup) = fanout.poll_lookup() {
            self.looked_up.push(self.now);
            let known = self.names.get(&lookup.name).cloned();
            let found = match self.stalled.checked_sub(1) {
                Some(left) => {
                    self.stalled = left;
                    Err(Unresolved::Unanswered("it is busy".into()))
                }
                None => known.ok_or(Unresolved::Unknown("no such host".to_owned())),
            };
            self.post(Arrival::Found(lookup.token, found));
        }
        while let Some(call) = fanout.poll_stream(self.now) {
            let message = crate::wire::rpc::call(
                5,
                call.question.program,
                call.question.version,
                call.question.procedure,
                &crate::wire::rpc::Credential::None,
                &call.question.args,
            );
            let (host, manner) = (call.to.ip(), self.manner(call.to.ip()));
            let asked = call.to.port() == RPCBIND;
            let answer = match asked {
                true if manner == Manner::Walled => rpcbind_answer(manner, host, STATD, &message),
                true => None,
                false => statd_answer(manner, &message).map(|(reply, _)| reply),
            };
            let results = |reply: Vec<u8>| crate::wire::rpc::parse_reply(&reply).unwrap().outcome.map(<[u8]>::to_vec);
            let went = answer.map(results).ok_or("no answer in time".to_owned());
            self.streamed.push((self.now, call.clone()));
            self.streams_open += 1;
            self.most_streams = self.most_streams.max(self.streams_open);
            let took = if asked && manner != Manner::Walled { S } else { MS };
            self.posted += 1;
            self.on_the_way.insert((self.now + took, self.posted), Arrival::Streamed(call.token, went));
        }
        while let Some(call) = fanout.poll_transmit(self.now) {
            self.sent.push((self.now, call.clone()));
            if self.forgery {
                self.forge(&call);
            }
            self.carry(&Arrival::Call(call));
        }
        while let Some(event) = fanout.poll_event() {
            assert_eq!(event.at, self.now);
            self.events.push(event);
        }
        if fanout.is_done() {
            return true;
        }
        let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
        let timeout = fanout.next_timeout().expect("an open fan-out has a timer");
        assert!(timeout > self.now || arrival.is_some_and(|at| at <= timeout), "it must not spin");
        self.now = arrival.map_or(timeout, |at| at.min(timeout));
        while let Some(entry) = self.on_the_way.first_entry().filter(|e| e.key().0 <= self.now) {
            let arrival = entry.remove();
            self.arrive(fanout, arrival);
        }
        fanout.handle_timeout(self.now);
        false
    }

    fn last(&self, id: u32) -> &Event {
        let mut last = self.events.iter().filter(|event| event.id == id && event.is_last());
        let event = last.next().unwrap_or_else(|| panic!("target {id} has no last event"));
        assert!(last.next().is_none(), "target {id} has two last events");
        assert_eq!(self.events.iter().rfind(|e| e.id == id), Some(event), "something came after the last event");
        event
    }

    /// The results of a target's calls.
    fn results(&self, id: u32) -> Vec<Option<Vec<u8>>> {
        let mut outcome = Outcome { results: vec![None, None], failure: None };
        for event in self.events.iter().filter(|event| event.id == id) {
            outcome.learn(event.news.clone());
        }
        outcome.results
    }

    fn deliveries(&self, id: u32) -> Vec<(Duration, Failure, bool)> {
        let of = |event: &Event| match event.news {
            News::GivenUp { failure, last, .. } => Some((event.at, failure, last)),
            News::Answered { .. } | News::SentAgain => None,
        };
        self.events.iter().filter(|event| event.id == id).filter_map(of).collect()
    }
}

/// An empty success whose xid is off by `off`.
fn rpc_reply(call: &[u8], off: u32) -> Vec<u8> {
    let xid = xid_of(call).unwrap().wrapping_add(off);
    crate::wire::rpc::reply(xid, &crate::wire::rpc::Answer::Success(Vec::new()))
}

fn name(name: &str) -> CallerName {
    CallerName::new(name).unwrap()
}

fn client(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0x0A00_0000 + number).into()
}

fn target(id: u32, host: Host) -> Target {
    let from = Some("10.255.0.2".parse().unwrap());
    Target { id, host, calls: ["server.example.org", "server"].map(|n| notice(from, n)).into() }
}

fn notice(from: Option<IpAddr>, mon_name: &str) -> Call {
    let args = nsm::NotifyArgs { mon_name: name(mon_name), state: NEW_STATE };
    Call { name: "SM_NOTIFY", procedure: Procedure::Notify as u32, args: xdr::encode(&args).into(), from }
}

/// Asks what a probe of statds asks.
fn asking(target: Target) -> Target {
    let call = |name, procedure: Procedure, args: Vec<u8>| Call {
        name,
        procedure: procedure as u32,
        args: args.into(),
        from: None,
    };
    let stat = xdr::encode(&nsm::SmName { mon_name: name("server") });
    let calls = vec![call("NULL", Procedure::Null, Vec::new()), call("SM_STAT", Procedure::Stat, stat)];
    Target { calls, ..target }
}

fn at(id: u32) -> Target {
    target(id, Host::Addresses(vec![client(id)]))
}

fn options(window: usize) -> Options {
    let run = RunOptions {
        program: Program { name: "statd", number: nsm::PROGRAM, versions: &[nsm::VERSION] },
        keep_on: true,
        rpcbind_port: RPCBIND,
        no_answer_after: 10 * S,
        end: 60 * S,
        has_address: |ip| ip.to_string().starts_with("10.255.0."),
    };
    Options { run, lanes: vec![Lane { ipv6: false, window }, Lane { ipv6: true, window }], streams: 8, seed: 42 }
}

fn probing() -> Options {
    let options = options(64);
    Options { run: RunOptions { keep_on: false, end: 2 * S, ..options.run }, ..options }
}

fn notify(world: &mut World, targets: Vec<Target>, options: Options) {
    world.run(&mut Fanout::new(Duration::ZERO, targets, options));
}

#[test]
fn every_live_client_gets_each_notice_once_and_is_acked() {
    let mut world = World::new().with((0..1000).map(|id| (client(id), Manner::Healthy)));
    notify(&mut world, (0..1000).map(at).collect(), options(256));
    for id in 0..1000 {
        let last = world.last(id);
        assert!(matches!(last.news, News::Answered { answered: 2, of: 2, .. }), "{last:?}");
        assert_eq!(last.attempts, 2, "each of its calls counts");
        let mut names = world.notices[&client(id)].clone();
        names.sort();
        assert_eq!(names, [name("server"), name("server.example.org")]);
    }
    assert!(world.sent.iter().all(|(_, call)| call.from == Some("10.255.0.2".parse().unwrap())));
    assert!(world.now < 40 * MS, "{:?}", world.now);
}

#[test]
fn each_sending_of_each_call_is_counted() {
    for loss in [0.0, 0.4] {
        let mut world = World::new().with((0..50).map(|id| (client(id), Manner::Healthy)));
        world.loss = loss;
        // Two server addresses, each under two names.
        let twice = |id| {
            let one = at(id);
            Target { calls: [one.calls.clone(), one.calls].concat(), ..one }
        };
        notify(&mut world, (0..50).map(twice).collect(), options(64));
        for id in 0..50 {
            let to = |port: fn(u16) -> bool| {
                world.sent.iter().filter(|(_, call)| call.to.ip() == client(id) && port(call.to.port())).count()
            };
            let (calls, all) = (to(|port| port != RPCBIND), to(|_| true));
            let last = world.last(id);
            assert!(matches!(last.news, News::Answered { answered: 4, of: 4, .. }), "{last:?}");
            assert!((calls..all).contains(&(last.attempts as usize)), "{calls} of {all}: {last:?}");
            assert!(loss > 0.0 || last.attempts == 4, "{last:?}");
        }
    }
}

#[test]
fn no_xid_comes_twice_in_a_run() {
    let targets: Vec<Target> = (0..3000).map(at).collect();
    let mut options = options(1 << 20);
    options.run.end = 900 * S;
    let mut fanout = Fanout::new(Duration::ZERO, targets, options);
    let (mut now, mut sent, mut xids) = (Duration::ZERO, 0, HashSet::new());
    while !fanout.is_done() {
        while let Some(call) = fanout.poll_transmit(now) {
            sent += 1;
            assert!(xids.insert(xid_of(&call.bytes).unwrap()), "transmission {sent} has an earlier one's xid");
        }
        now = fanout.next_timeout().expect("an open fan-out has a timer");
        fanout.handle_timeout(now);
    }
    assert!(sent > 500_000, "{sent}: too few to meet one again by chance");
}

#[test]
fn a_socket_without_room_delays_no_other() {
    let six = target(100, Host::Addresses(vec!["fd00::7".parse().unwrap()]));
    let targets: Vec<Target> = (0..100).map(at).chain([six]).collect();
    let mut fanout = Fanout::new(Duration::ZERO, targets, options(256));
    fanout.queue.full = [0].into();
    let sent: Vec<_> = std::iter::from_fn(|| fanout.poll_transmit(MS)).map(|call| call.lane).collect();
    assert_eq!(sent, [1]);
    fanout.queue.full.clear();
    assert_eq!(std::iter::from_fn(|| fanout.poll_transmit(MS)).filter(|call| call.lane == 0).count(), 100);
}

#[test]
fn transmissions_of_one_call_differ_in_their_xids_alone() {
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1)], options(64));
    let first = fanout.poll_transmit(Duration::ZERO).unwrap();
    fanout.handle_timeout(S);
    let second = fanout.poll_transmit(S).unwrap();
    let (one, other) = [&first, &second].map(|sent| crate::wire::rpc::parse_call(&sent.bytes).unwrap()).into();
    assert_ne!(one.xid, other.xid);
    assert_eq!(crate::wire::rpc::IncomingCall { xid: one.xid, ..other }, one);
}

#[test]
fn an_answer_is_an_answer_whatever_comes_with_it() {
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1)], options(64));
    let mut answer = |results: Vec<u8>| {
        let call = fanout.poll_transmit(MS).unwrap();
        let xid = xid_of(&call.bytes).unwrap();
        let reply = crate::wire::rpc::reply(xid, &crate::wire::rpc::Answer::Success(results));
        fanout.handle_datagram(MS, call.lane, call.to, call.from.unwrap(), &reply);
        fanout.poll_event().map(|event| event.news)
    };
    assert_eq!(answer(xdr::encode(&u32::from(STATD))), None);
    let News::Answered { results, answered: 1, of: 2, .. } = answer(vec![1, 2, 3, 4]).unwrap() else { panic!() };
    assert_eq!(results, [1, 2, 3, 4]);
}

#[test]
fn another_version_of_the_program_will_do_and_none_is_said_so() {
    for (versions, found) in [(&[9, nsm::VERSION][..], true), (&[9, 8], false)] {
        let mut world = World::new().with([(client(1), Manner::Healthy)]);
        let mut options = options(64);
        options.run.keep_on = false;
        options.run.program.versions = versions;
        notify(&mut world, vec![at(1)], options);
        match &world.last(1).news {
            News::Answered { answered: 2, .. } => assert!(found),
            News::GivenUp { failure: Failure::NotRegistered, heard: Heard::Answer, .. } => assert!(!found),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::new().with((0..50).map(|id| (client(id), Manner::Healthy)));
        world.loss = 0.3;
        notify(&mut world, (0..60).map(at).collect(), options(16));
        (world.sent, world.events)
    };
    assert!(run() == run());
}

#[test]
fn a_lost_datagram_costs_little() {
    let mut world = World::new().with((0..10_000).map(|id| (client(id), Manner::Healthy)));
    world.loss = 0.01;
    notify(&mut world, (0..10_000).map(at).collect(), options(256));
    assert!((0..10_000).all(|id| matches!(world.last(id).news, News::Answered { .. })));
    assert!(world.now < S, "{:?}", world.now);
}

#[test]
fn a_slow_path_is_measured_and_not_flooded() {
    let mut world = World::new().with((0..500).map(|id| (client(id), Manner::Healthy)));
    world.delay = 200 * MS;
    notify(&mut world, (0..500).map(at).collect(), options(64));
    assert!((0..500).all(|id| matches!(world.last(id).news, News::Answered { .. })));
    assert!(world.sent.len() < 2 * 1500, "{} datagrams where 1,500 suffice", world.sent.len());
}

#[test]
fn a_call_is_not_repeated_while_answers_take_longer_than_when_it_was_sent() {
    let mut fanout = Fanout::new(Duration::ZERO, vec![at(1), at(2)], options(64));
    let [first, second] = [(); 2].map(|()| fanout.poll_transmit(Duration::ZERO).unwrap());
    let answer = rpcbind_answer(Manner::Healthy, first.to.ip(), STATD, &first.bytes).unwrap();
    fanout.handle_datagram(45 * MS, first.lane, first.to, first.from.unwrap(), &answer);
    // Its first measurement makes that 45 ms and four times the half of it.
    for (now, wanted) in [(134 * MS, 0), (135 * MS, 1)] {
        fanout.handle_timeout(now);
        let sent = std::iter::from_fn(|| fanout.poll_transmit(now));
        assert_eq!(sent.filter(|call| call.to == second.to).count(), wanted, "{now:?}");
    }
}

#[test]
fn forged_replies_change_nothing() {
    let run = |forgery| {
        let mut world = World::new().with((0..20).map(|id| (client(id), Manner::Healthy)));
        world.forgery = forgery;
        notify(&mut world, (0..30).map(at).collect(), options(64));
        let mut ends: Vec<_> = (0..30).map(|id| world.last(id).clone()).collect();
        for event in &mut ends {
            event.at = Duration::ZERO;
        }
        let acked = |event: &Event| matches!(event.news, News::Answered { answered: 2, .. });
        assert!(ends.iter().all(|event| acked(event) == (event.id < 20)));
        world.notices.values().map(Vec::len).sum::<usize>()
    };
    assert_eq!(run(true), run(false));
    assert_eq!(run(true), 40, "each notice was really delivered");
}

#[test]
fn a_probe_learns_state_numbers_and_why_there_is_none() {
    let manners =
        [Manner::Healthy, Manner::Refuses, Manner::NoStatd, Manner::Dead, Manner::Hung].into_iter().enumerate();
    let mut world = World::new().with(manners.map(|(id, manner)| (client(u32::try_from(id).unwrap()), manner)));
    let mut targets: Vec<_> = (0..5).map(at).map(asking).collect();
    targets.push(asking(target(5, Host::Name("nowhere".into()))));
    notify(&mut world, targets, probing());
    assert!(world.last(0).is_last() && world.last(1).is_last());
    let [Some(_), Some(stat)] = &world.results(0)[..] else { panic!("{:?}", world.results(0)) };
    assert_eq!(xdr::decode::<nsm::StatRes>(stat).unwrap().state, STATE);
    assert!(matches!(world.results(1)[..], [Some(_), None]));
    for (id, expected) in
        [(2, Failure::NotRegistered), (3, Failure::NoAnswer), (4, Failure::NoAnswer), (5, Failure::NameUnknown)]
    {
        assert!(matches!(&world.last(id).news, News::GivenUp { failure, .. } if *failure == expected), "{id}");
    }
    assert_eq!(world.now, 2 * S);
    assert!(world.notices.is_empty(), "a probe notifies nobody");
}

#[test]
fn a_target_with_nothing_to_tell_is_done() {
    let mut world = World::new();
    notify(&mut world, vec![Target { calls: vec![], ..at(1) }], options(64));
    assert!(world.sent.is_empty() && world.last(1).is_last());
}

fn manners() -> impl Strategy<Value = Manner> {
    use Manner::{Dead, Healthy, Hung, NoStatd, Refuses, TcpOnly, Walled};
    proptest::sample::select(vec![Healthy, Healthy, Healthy, Dead, Hung, NoStatd, TcpOnly, Walled, Refuses])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_target_ends_once_and_is_left_alone_then(
        hosts in proptest::collection::vec((manners(), 1usize..3), 1..60),
        window in 1usize..40,
        loss in 0.0..0.4f64,
        duplication in 0.0..0.3f64,
        delay in 1u32..300,
        seed in any::<u64>(),
        probe in any::<bool>(),
        forgery in any::<bool>(),
    ) {
        let mut world = World::new();
        world.rng = StdRng::seed_from_u64(seed);
        (world.loss, world.duplication, world.delay, world.forgery) = (loss, duplication, MS * delay, forgery);
        let mut targets = Vec::new();
        for (number, (manner, addresses)) in (0u32..).zip(&hosts) {
            let addresses: Vec<_> = (0..*addresses).map(|n| client(number + 1000 * u32::try_from(n).unwrap())).collect();
            world.hosts.extend(addresses.iter().map(|&address| (address, *manner)));
            let target = target(number, Host::Addresses(addresses));
            targets.push(if probe { asking(target) } else { target });
        }
        let options = Options { seed, ..if probe { probing() } else { options(window) } };
        let window = options.lanes[0].window;
        let mut fanout = Fanout::new(Duration::ZERO, targets, options);
        while !world.step(&mut fanout) {
            prop_assert!(fanout.queue.under_way(0) <= window);
            let open = fanout.subjects.iter().flat_map(|subject| &subject.open);
            prop_assert_eq!(fanout.queue.under_way(0), open.filter(|e| e.under_way == Some(0)).count());
        }
        prop_assert!(fanout.subjects.iter().all(|subject| subject.open.is_empty()) && fanout.xids.is_empty());
        prop_assert_eq!(fanout.queue.under_way(0), 0);
        for (number, (manner, addresses)) in (0u32..).zip(&hosts) {
            let last = world.last(number);
            let heard = (0..*addresses).any(|n| world.notices.contains_key(&client(number + 1000 * u32::try_from(n).unwrap())));
            match &last.news {
                News::Answered { answered, of, .. } => {
                    prop_assert!(answered == of && (probe || heard || matches!(manner, Manner::TcpOnly | Manner::Walled)));
                }
                News::GivenUp { failure: Failure::Partial, .. } => prop_assert!(probe || heard),
                News::GivenUp { .. } => {}
                News::SentAgain => prop_assert!(false, "never a last event"),
            }
            let ends = (0..*addresses).map(|n| client(number + 1000 * u32::try_from(n).unwrap()));
            for address in ends {
                let late = world.sent.iter().find(|(at, call)| call.to.ip() == address && *at > last.at);
                prop_assert!(late.is_none(), "sent to after its end: {:?}", late);
            }
        }
    }
}
