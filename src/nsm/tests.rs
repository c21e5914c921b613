//! Notices and probes against clients on loopback.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::*;
use crate::rpc::fanout::Failure;
use crate::rpc::fanout::farm::{Farm, Manner, STATE};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::types::{CallerName, NsmState};

const SOON: Duration = Duration::from_secs(20);
const NEW_STATE: NsmState = NsmState(11);

fn v4() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

/// Client `number`, an address of its own in 127.0.0.0/8.
fn client(number: u32) -> IpAddr {
    Ipv4Addr::from(0x7F10_0000 + number).into()
}

/// The manner is in the last octet of 127.32.0.x.
fn mixed(host: IpAddr) -> Manner {
    match host {
        IpAddr::V4(host) if host.octets()[1] == 32 => {
            [Manner::Healthy, Manner::NoStatd, Manner::Refuses, Manner::TcpOnly, Manner::Dead, Manner::Walled]
                [usize::from(host.octets()[3])]
        }
        _ => Manner::Healthy,
    }
}

fn mannered(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 32, 0, number).into()
}

fn name(name: &str) -> CallerName {
    CallerName::new(name).unwrap()
}

fn target(id: u32, host: Host, from: Option<IpAddr>) -> Target {
    Target { id, host, notices: vec![Notice { from, name: name("filer.example.org") }] }
}

fn at(id: u32, address: IpAddr) -> Target {
    target(id, Host::Addresses(vec![address]), None)
}

fn options(rpcbind_port: u16, retry: Duration) -> NotifyOptions {
    NotifyOptions { rpcbind_port, state: NEW_STATE, epoch: Instant::now(), retry_until: retry, no_answer_after: SOON }
}

/// Notifies to the end; every event.
async fn notified(targets: Vec<Target>, options: NotifyOptions) -> Vec<FanoutEvent> {
    let (sender, mut receiver) = mpsc::channel(64);
    let gather = async {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    };
    let both = async { tokio::join!(notify(targets, options, sender), gather) };
    let (ran, events) = tokio::time::timeout(SOON, both).await.expect("it ends");
    ran.unwrap();
    events
}

fn last(events: &[FanoutEvent], id: u32) -> &News {
    let mut last = events.iter().filter(|event| event.id == id && event.is_last());
    let event = last.next().unwrap_or_else(|| panic!("target {id} has no last event"));
    assert!(last.next().is_none());
    &event.news
}

async fn notify_many(count: u32) {
    let farm = Farm::start(v4(), |_| Manner::Healthy).await;
    let targets = (0..count).map(|id| at(id, client(id))).collect();
    let options = options(farm.rpcbind_port, SOON);
    let epoch = options.epoch;
    // A busy machine repeats some calls.
    let events: Vec<_> =
        notified(targets, options).await.into_iter().filter(|event| event.news != News::SentAgain).collect();
    println!(
        "{count} clients: last ack after {:?}, all told after {:?}, {} repeats",
        events.iter().map(|event| event.at).max().unwrap(),
        epoch.elapsed(),
        events.iter().map(|event| event.attempts - 1).sum::<u32>(),
    );
    let acked: HashSet<_> = events.iter().filter(|event| event.is_last()).map(|event| event.id).collect();
    assert_eq!((acked.len(), events.len()), (count as usize, count as usize));
    assert!(events.iter().all(|event| matches!(event.news, News::Answered { answered: 1, of: 1, .. })));
    let notices = farm.notices.lock().unwrap();
    assert_eq!(notices.iter().map(|(host, ..)| *host).collect::<HashSet<_>>().len(), count as usize);
    assert!(notices.iter().all(|(_, _, notice)| notice.state == NEW_STATE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_are_all_acked() {
    notify_many(2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_are_all_acked() {
    notify_many(10_000).await;
}

#[tokio::test]
async fn notices_leave_from_the_address_that_the_client_called() {
    let farm = Farm::start(v4(), mixed).await;
    let from: IpAddr = "127.0.7.7".parse().unwrap();
    let target = target(1, Host::Addresses(vec![mannered(0)]), Some(from));
    let events = notified(vec![target], options(farm.rpcbind_port, SOON)).await;
    assert!(matches!(last(&events, 1), News::Answered { .. }));
    let notices = farm.notices.lock().unwrap();
    let paths: HashSet<_> = notices.iter().map(|(to, from, _)| (*to, *from)).collect();
    assert_eq!(paths, HashSet::from([(mannered(0), from)]));
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_is_told() {
    let farm = Farm::start(v4(), mixed).await;
    // TEST-NET-1 (RFC 5737) is nobody's.
    let target = target(1, Host::Addresses(vec![mannered(0)]), Some("192.0.2.1".parse().unwrap()));
    let events = notified(vec![target], options(farm.rpcbind_port, Duration::from_secs(1))).await;
    let News::GivenUp { failure: Failure::NotSent, error: Some(error), last: true, .. } = last(&events, 1) else {
        panic!("{events:?}")
    };
    assert!(error.contains("from 192.0.2.1: this host does not have"), "{error}");
}

#[tokio::test]
async fn each_kind_of_client_is_told_apart() {
    let farm = Farm::start(v4(), mixed).await;
    let targets = (0..5u8).map(|number| at(number.into(), mannered(number))).collect();
    let impatient = NotifyOptions {
        no_answer_after: Duration::from_millis(300),
        ..options(farm.rpcbind_port, Duration::from_secs(2))
    };
    let events = notified(targets, impatient).await;
    assert!(matches!(last(&events, 0), News::Answered { .. }));
    assert!(matches!(last(&events, 1), News::GivenUp { failure: Failure::NotRegistered, .. }));
    assert!(matches!(last(&events, 2), News::GivenUp { failure: Failure::Refused, .. }));
    assert!(matches!(last(&events, 3), News::Answered { .. }), "{events:?}");
    assert!(matches!(last(&events, 4), News::GivenUp { failure: Failure::NoAnswer, .. }));
    let silent = events.iter().filter(|event| event.id == 4);
    assert!(silent.clone().any(|event| event.news == News::SentAgain && event.attempts == 2));
    let silent: Vec<_> = silent.filter(|event| event.news != News::SentAgain).collect();
    assert!(
        matches!(silent[..], [early, late] if early.at >= Duration::from_millis(300) && !early.is_last() && late.is_last())
    );
}

#[tokio::test]
async fn a_client_that_no_datagram_reaches_is_told_and_probed_over_tcp() {
    let farm = Farm::start(v4(), mixed).await;
    let events = notified(vec![at(1, mannered(5))], options(farm.rpcbind_port, SOON)).await;
    assert!(matches!(last(&events, 1), News::Answered { .. }), "{events:?}");
    assert_eq!(farm.notices.lock().unwrap().len(), 1);
    let (timeout, my_name) = (SOON, name("filer.example.org"));
    let options = ProbeOptions { rpcbind_port: farm.rpcbind_port, timeout, my_name };
    assert_eq!(probe(vec![at(1, mannered(5))], options, |_| ()).await.unwrap(), [Ok(Some(STATE))]);
}

#[tokio::test]
async fn a_probe_answers_for_each_in_order() {
    let farm = Farm::start(v4(), mixed).await;
    let mut targets: Vec<_> = (0..5u8).rev().map(|number| at(number.into(), mannered(number))).collect();
    targets.push(target(9, Host::Name("no-such-host.invalid".into()), None));
    let options = ProbeOptions {
        rpcbind_port: farm.rpcbind_port,
        timeout: Duration::from_millis(1500),
        my_name: name("filer.example.org"),
    };
    let results = tokio::time::timeout(SOON, probe(targets, options, |_| ())).await.unwrap().unwrap();
    assert_eq!(
        results[..5],
        [
            Err(Failure::NoAnswer),
            // Over TCP; this farm's answer there is whole.
            Ok(Some(STATE)),
            Ok(None),
            Err(Failure::NotRegistered),
            Ok(Some(STATE)),
        ]
    );
    assert_ne!(results[5], Ok(None));
    assert!(farm.notices.lock().unwrap().is_empty());
}

#[tokio::test]
async fn ipv6_clients_are_notified_too() {
    let farm = Farm::start(Ipv6Addr::LOCALHOST.into(), |_| Manner::Healthy).await;
    let events = notified(vec![at(1, Ipv6Addr::LOCALHOST.into())], options(farm.rpcbind_port, SOON)).await;
    assert!(matches!(last(&events, 1), News::Answered { .. }), "{events:?}");
}

#[tokio::test]
async fn an_ipv4_client_in_ipv6_clothes_is_told_over_ipv4_and_once() {
    let farm = Farm::start(v4(), |_| Manner::Healthy).await;
    let clothed = |text: &str| text.parse::<IpAddr>().unwrap();
    let both = Host::Addresses(vec![clothed("::ffff:127.16.0.4"), clothed("127.16.0.4")]);
    let targets = vec![target(1, both, None), target(2, Host::Name("::ffff:7f10:5".into()), None)];
    let events = notified(targets, options(farm.rpcbind_port, SOON)).await;
    assert!([1, 2].iter().all(|id| matches!(last(&events, *id), News::Answered { .. })), "{events:?}");
    assert_eq!(farm.notices.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn names_are_resolved() {
    let farm = Farm::start(v4(), |_| Manner::Healthy).await;
    let targets =
        vec![target(1, Host::Name("localhost".into()), None), target(2, Host::Name("127.0.0.2".into()), None)];
    let events = notified(targets, options(farm.rpcbind_port, SOON)).await;
    assert!([1, 2].iter().all(|id| matches!(last(&events, *id), News::Answered { .. })), "{events:?}");
}

#[tokio::test]
async fn a_host_where_nobody_listens_is_known_at_once() {
    let free = UdpEndpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().port();
    let (sender, mut receiver) = mpsc::channel(64);
    let running = tokio::spawn(notify(vec![at(1, "127.0.0.1".parse().unwrap())], options(free, SOON), sender));
    let event = tokio::time::timeout(SOON / 4, receiver.recv()).await.unwrap().unwrap();
    assert!(matches!(event.news, News::GivenUp { failure: Failure::Refused, last: false, .. }), "{event:?}");
    drop(receiver);
    tokio::time::timeout(SOON, running).await.expect("dropping the receiver ends it").unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_is_slow_delays_no_notice() {
    let farm = Farm::start(v4(), |_| Manner::Healthy).await;
    let targets = (0..200).map(|id| at(id, client(id))).collect();
    let (sender, mut receiver) = mpsc::channel(1);
    let running = tokio::spawn(notify(targets, options(farm.rpcbind_port, SOON), sender));
    let all_arrived = async {
        while farm.notices.lock().unwrap().len() < 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, all_arrived).await.expect("nobody has read an event yet");
    let mut events = 0;
    while receiver.recv().await.is_some() {
        events += 1;
    }
    assert_eq!(events, 200);
    running.await.unwrap().unwrap();
}
