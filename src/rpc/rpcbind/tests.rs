use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use super::local::{LocalError, LocalRpcbind, Registration};
use super::*;
use crate::rpc::arrivals::Arrivals;
use crate::rpc::client::Retransmit;
use crate::rpc::server::{Guests, Limits, Origin, Service, serve_tcp, serve_udp, shared_cache};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::rpc::{Answer, IncomingCall};
use crate::wire::rpcbind::{self as bind, Chain};

const SOON: Duration = Duration::from_secs(10);

fn udp_client() -> UdpClient {
    let endpoint = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    UdpClient::new(Arc::new(endpoint), Retransmit::default())
}

/// An rpcbind of version 2 with what was registered, as mappings.
#[derive(Default)]
struct Binder {
    mappings: Mutex<Vec<Mapping>>,
    refuses: bool,
}

#[async_trait]
impl Service for Binder {
    async fn call(&self, _: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let IncomingCall { version, procedure, args, .. } = *call;
        let mut mappings = self.mappings.lock().unwrap();
        if version != bind::V2 {
            // An IPv6 rpcbind of version 3 with one universal address.
            if version == bind::V4 {
                return Some(Answer::ProgMismatch { low: 2, high: 3 });
            }
            if procedure != bind::Procedure::Get as u32 {
                return Some(Answer::ProcUnavail);
            }
            let asked: Rpcb = decode(args).unwrap();
            let known = asked.netid.as_str() == "udp6";
            let address = bind::UniversalAddress::clipped(if known { "::1.15.205" } else { "" });
            return Some(Answer::Success(encode(&address)));
        }
        if procedure == bind::Procedure::Dump as u32 {
            return Some(Answer::Success(encode(&Chain(mappings.clone()))));
        }
        let asked: Mapping = decode(args).unwrap();
        let same = |m: &Mapping| (m.program, m.version, m.protocol) == (asked.program, asked.version, asked.protocol);
        Some(Answer::Success(match bind::Procedure::from_number(procedure).unwrap() {
            bind::Procedure::Get => encode(&mappings.iter().find(|m| same(m)).map_or(0, |m| m.port)),
            bind::Procedure::Set => {
                let free = !self.refuses && !mappings.iter().any(same);
                if free {
                    mappings.push(asked);
                }
                encode(&free)
            }
            _ => {
                mappings.retain(|m| (m.program, m.version) != (asked.program, asked.version));
                encode(&true)
            }
        }))
    }
}

fn binder(refuses: bool, address: &str) -> Option<(SocketAddr, watch::Sender<bool>)> {
    let endpoint = Arc::new(UdpEndpoint::bind(address.parse().unwrap()).ok()?);
    let address = endpoint.local_addr();
    let (stop, stopped) = watch::channel(false);
    let service = Arc::new(Binder { refuses, ..Binder::default() });
    tokio::spawn(serve_udp(endpoint, service, shared_cache(), Arrivals::default(), Limits::default(), stopped));
    Some((address, stop))
}

/// One that is served over TCP; `silent`: its UDP port is there and says nothing, as behind a firewall.
async fn tcp_binder(
    address: &str,
    silent: bool,
    known: Mapping,
) -> Option<(SocketAddr, Option<UdpEndpoint>, watch::Sender<bool>)> {
    let listener = tokio::net::TcpListener::bind(address).await.ok()?;
    let at = listener.local_addr().unwrap();
    let udp = silent.then(|| UdpEndpoint::bind(at).unwrap());
    let (stop, stopped) = watch::channel(false);
    let service = Arc::new(Binder { mappings: Mutex::new(vec![known]), refuses: false });
    let cache = shared_cache();
    tokio::spawn(serve_tcp(
        listener,
        service,
        cache,
        Guests::default(),
        Arrivals::default(),
        Limits::default(),
        stopped,
    ));
    Some((at, udp, stop))
}

#[tokio::test]
async fn an_rpcbind_that_answers_over_tcp_only_is_asked_there() {
    let known = Mapping { program: 100_021, version: 4, protocol: 6, port: 4045 };
    for silent in [false, true] {
        let (at, _udp, _stop) = tcp_binder("127.0.0.1:0", silent, known).await.unwrap();
        let client = udp_client();
        let find = |transport| getport(&client, at, None, 100_021, 4, transport, SOON);
        assert_eq!(find(Transport::Tcp).await.unwrap(), Some(4045), "silent: {silent}");
        assert_eq!(find(Transport::Udp).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_rpcbind_that_answers_over_neither_is_what_udp_says_of_it() {
    let client = udp_client();
    let silent = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let patience = Duration::from_millis(300);
    let outcome = getport(&client, silent.local_addr(), None, 100_021, 4, Transport::Udp, patience).await;
    assert!(matches!(outcome, Err(CallError::TimedOut)), "{outcome:?}");
    let gone = silent.local_addr();
    drop(silent);
    let outcome = getport(&client, gone, None, 100_021, 4, Transport::Udp, SOON).await;
    assert!(matches!(outcome, Err(CallError::Refused)), "{outcome:?}");
}

fn registration(port: u16) -> Registration {
    let address = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
    Registration { program: 100_021, version: 4, transport: Transport::Udp, address }
}

#[tokio::test]
async fn a_registered_port_is_found_until_it_is_taken_back() {
    let (at, _stop) = binder(false, "127.0.0.1:0").unwrap();
    let client = udp_client();
    let local = LocalRpcbind::reach(at.port()).await.unwrap();
    let find = || getport(&client, at, None, 100_021, 4, Transport::Udp, SOON);
    assert_eq!(find().await.unwrap(), None);
    assert!(local.set(&registration(4045)).await.unwrap());
    assert_eq!(find().await.unwrap(), Some(4045));
    assert_eq!(local.dump().await.unwrap(), [registration(4045)]);
    assert_eq!(getport(&client, at, None, 100_021, 4, Transport::Tcp, SOON).await.unwrap(), None);
    assert!(local.unset(&registration(4045)).await.unwrap());
    assert_eq!(find().await.unwrap(), None);
}

#[tokio::test]
async fn a_taken_place_and_a_refusal_are_a_no_and_a_missing_rpcbind_an_error() {
    let (at, _stop) = binder(false, "127.0.0.1:0").unwrap();
    let local = LocalRpcbind::reach(at.port()).await.unwrap();
    assert!(local.set(&registration(4045)).await.unwrap());
    assert!(!local.set(&registration(5000)).await.unwrap());
    let (at, _stop) = binder(true, "127.0.0.1:0").unwrap();
    assert!(!LocalRpcbind::reach(at.port()).await.unwrap().set(&registration(1)).await.unwrap());
    let nobody = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr();
    let outcome = LocalRpcbind::reach(nobody.port()).await.unwrap().dump().await;
    assert!(matches!(outcome, Err(LocalError { error: CallError::Refused, .. })), "{outcome:?}");
}

#[tokio::test]
async fn over_ipv6_a_port_is_found_by_its_universal_address_in_version_4_or_else_3() {
    let Some((at, _stop)) = binder(false, "[::1]:0") else { return };
    let endpoint = Arc::new(UdpEndpoint::bind("[::1]:0".parse().unwrap()).unwrap());
    let client = UdpClient::new(endpoint, Retransmit::default());
    let find = |transport| getport(&client, at, None, 100_021, 4, transport, SOON);
    assert_eq!(find(Transport::Udp).await.unwrap(), Some(4045));
    assert_eq!(find(Transport::Tcp).await.unwrap(), None);
}

const V4_HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const V6_HOST: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

fn address(text: &str) -> Vec<u8> {
    encode(&UniversalAddress::clipped(text))
}

#[test]
fn ports_that_cannot_be_are_no_ports() {
    let told = |host, results: Vec<u8>| port_told(host, Transport::Udp, Transport::Udp, &results);
    assert_eq!(told(V4_HOST, encode(&4000u32)), Ok(Some(4000)));
    assert_eq!(told(V4_HOST, encode(&0u32)), Ok(None));
    assert_eq!(told(V4_HOST, encode(&70_000u32)), Ok(None));
    assert_eq!(told(V6_HOST, address("::.15.160")), Ok(Some(4000)));
    assert_eq!(told(V6_HOST, address("")), Ok(None));
    assert_eq!(told(V6_HOST, address("::.0.0")), Ok(None));
}

#[test]
fn answers_that_make_no_sense_are_told_as_such() {
    for (host, results) in [(V4_HOST, vec![]), (V4_HOST, vec![0; 8]), (V6_HOST, address("nonsense"))] {
        let odd = port_told(host, Transport::Udp, Transport::Udp, &results);
        assert!(matches!(&odd, Err(why) if why.starts_with("answer to GET") && why.contains(" is odd: ")), "{odd:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_answer_is_too_odd(results in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        for (transport, by) in [(Transport::Udp, Transport::Udp), (Transport::Tcp, Transport::Udp), (Transport::Udp, Transport::Tcp)] {
            for host in [V4_HOST, V6_HOST] {
                let _ = port_told(host, transport, by, &results);
            }
        }
    }
}
