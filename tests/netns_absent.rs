//! Hosts that are not there: without a way to them, and on this host's own network, where what is sent waits for ARP.
#![cfg(test)]

mod netns;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use netns::{Netns, Nlmd, cable, link, nlmctl};
use nlmctl::internals::rpc::{Request, Retransmit, UdpClient, UdpEndpoint};
use nlmctl::wire::nlm;
use nlmctl::wire::rpc::{self, Credential};
use serde_json::Value;

const SERVER: &str = "10.9.0.1";
const CLIENT: &str = "10.9.0.2";
/// Shorter than the kernel asks an absent neighbour by ARP: three times, a second apart.
const BEFORE_ARP_ENDS: Duration = Duration::from_secs(2);

/// Two hosts on a network that has room for many more.
fn network() -> (Netns, Netns) {
    let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
    link(&server, &format!("{SERVER}/16"), &client, &format!("{CLIENT}/16"));
    (server, client)
}

/// Addresses of that network that no host has.
fn absent(count: u16) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|n| Ipv4Addr::new(10, 9, 1 + n.to_be_bytes()[0], n.to_be_bytes()[1]))
}

/// What `nlmctl notify` reports of these hosts.
fn told(server: &Netns, hosts: impl Iterator<Item = String>, deadline: &str) -> Vec<Value> {
    let targets = server.folder().join("targets");
    std::fs::write(&targets, hosts.collect::<Vec<_>>().join("\n")).unwrap();
    let targets = ["notify", "--targets", targets.to_str().unwrap(), "--name", "server.test", "--state", "7"];
    let ran = nlmctl(server, &[&targets[..], &["--yes", "--grace-elsewhere", "--deadline", deadline]].concat());
    ran.json()["hosts"].as_array().unwrap_or_else(|| panic!("{ran:#?}")).clone()
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_host_to_which_there_is_no_way_was_not_told_and_has_not_failed_to_answer() {
    let hosts = told(&Netns::new("lonely.test"), ["192.0.2.7".to_owned()].into_iter(), "2s");
    assert_eq!((hosts[0]["fate"].as_str(), hosts[0]["attempts"].as_u64()), (Some("not-told"), Some(0)), "{hosts:?}");
    assert!(hosts[0]["error"].as_str().unwrap().contains("unreachable"), "{hosts:?}");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn hundreds_of_absent_neighbours_do_not_delay_the_notice_to_one_that_is_there() {
    let (server, client) = network();
    client.knows(&[(SERVER, "server.test")]);
    let (_rpcbind, _statd) = (client.rpcbind(&[]), client.statd(&[]));
    let hosts = told(&server, absent(300).map(|ip| ip.to_string()).chain([CLIENT.to_owned()]), "4s");
    let client = hosts.iter().find(|host| host["name"] == CLIENT).unwrap();
    let acked = Duration::from_millis(client["acked_ms"].as_u64().unwrap_or_else(|| panic!("{client}")));
    assert!(acked < BEFORE_ARP_ENDS, "{client}");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn nlmd_answers_while_its_answers_to_hundreds_of_absent_neighbours_wait() {
    let (server, client) = network();
    let nlmd = Nlmd::start(&server, &["--name", "server.test", "--grace", "100ms", "--no-rpcbind"]);
    let to = SocketAddr::new(SERVER.parse().unwrap(), nlmd.nlm_udp);
    let null = |xid| rpc::call(xid, nlm::PROGRAM, 4, 0, &Credential::None, &[]);
    client.inside(|| {
        for ip in absent(600) {
            let forger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            forger.set_ip_transparent_v4(true).unwrap();
            forger.bind(&SocketAddr::new(ip.into(), 800).into()).unwrap();
            forger.send_to(&null(1), &to.into()).unwrap();
        }
        let asking = std::net::UdpSocket::bind((CLIENT, 0)).unwrap();
        asking.set_read_timeout(Some(BEFORE_ARP_ENDS)).unwrap();
        asking.send_to(&null(2), to).unwrap();
        asking.recv(&mut [0; 512]).expect("an answer before the others fail");
    });
    let neighbours = server.run("ip", &["neigh", "show", "dev", &cable(&server)]);
    assert!(neighbours.lines().count() > 256, "the forged calls were answered: {neighbours}");
}

/// How many descriptors of this process are this socket.
fn descriptors(socket: &UdpEndpoint) -> usize {
    let link = |fd: &str| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let this = link(&socket.as_fd().as_raw_fd().to_string()).unwrap();
    let all =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    all.filter(|fd| link(fd).as_ref() == Some(&this)).count()
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn all_who_wait_for_room_in_a_socket_share_one_descriptor_and_are_sent_in_the_end() {
    let (server, _client) = network();
    server.block_on(async {
        let endpoint = Arc::new(UdpEndpoint::bind("0.0.0.0:0".parse().unwrap()).unwrap());
        let (mut full, mut waiting) = (0, tokio::task::JoinSet::new());
        for ip in absent(900) {
            let endpoint = endpoint.clone();
            let to = SocketAddr::new(ip.into(), 111);
            full += usize::from(endpoint.try_send(b"anybody?", to, None).is_err());
            if full > 0 {
                waiting.spawn(async move { endpoint.send(b"anybody?", to, None).await.unwrap() });
            }
        }
        assert!(full > 100, "{full}");
        tokio::task::yield_now().await;
        assert_eq!(descriptors(&endpoint), 2);
        let client = UdpClient::new(endpoint.clone(), Retransmit::default());
        let (credential, args) = (&Credential::None, &[][..]);
        let null = Request { program: nlm::PROGRAM, version: 4, procedure: 0, credential, args };
        let call = client.call(SocketAddr::new(CLIENT.parse().unwrap(), 111), None, null, Duration::from_millis(100));
        let called = tokio::time::timeout(Duration::from_secs(1), call).await.expect("it ends at its own deadline");
        assert!(called.is_err());
        while let Some(sent) = tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await.unwrap() {
            sent.unwrap();
        }
        assert_eq!(descriptors(&endpoint), 1);
    });
}
