//! nlmd and nlmctl with the real rpcbind.
#![cfg(test)]

mod netns;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use netns::{Netns, Nlmd, link, nlmctl, until};
use nlmctl::internals::rpc::LocalRpcbind;
use nlmctl::internals::rpc::UdpEndpoint;
use nlmctl::internals::rpc::getport;
use nlmctl::internals::rpc::{Request, Retransmit, StreamClient, UdpClient};
use nlmctl::lockd::registry::Registration;
use nlmctl::wire::rpc::Credential;
use nlmctl::wire::rpcbind::{
    BindString, PORT, PROGRAM, Procedure, Rpcb, V2, V3, V4, netid, parse_universal_address, universal_address,
};
use nlmctl::wire::types::Transport;
use nlmctl::wire::xdr::{decode, encode};

const NLM: u32 = 100_021;
const NSM: u32 = 100_024;
const SOON: Duration = Duration::from_secs(5);

/// What GETADDR of a version of rpcbind's protocol says of version 4 of a program over UDP.
async fn getaddr(client: &UdpClient, at: SocketAddr, version: u32, program: u32) -> Option<SocketAddr> {
    let (netid, address) = (netid(Transport::Udp, at.ip()), universal_address(at));
    let owner = BindString::default();
    let asked = Rpcb { program, version: 4, netid: BindString::clipped(netid), address, owner };
    let (procedure, credential, args) = (Procedure::Get as u32, &Credential::None, &encode(&asked));
    let request = Request { program: PROGRAM, version, procedure, credential, args };
    let answer: BindString = decode(&client.call(at, None, request, SOON).await.unwrap()).unwrap();
    (!answer.as_str().is_empty()).then(|| parse_universal_address(answer.as_str()).unwrap())
}

/// (program, version, netid, port) of NLM and NSM, as `rpcinfo` of the host itself lists them.
fn listed(host: &Netns) -> BTreeSet<(u32, u32, String, u16)> {
    let lines = host.run("rpcinfo", &["127.0.0.1"]);
    let entries = lines.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (program, version) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        let mut bytes = fields[3].rsplit('.').map(str::parse::<u16>);
        let (low, high) = (bytes.next()?.ok()?, bytes.next()?.ok()?);
        Some((program, version, fields[2].to_owned(), high * 256 + low))
    });
    entries.filter(|(program, ..)| [NLM, NSM].contains(program)).collect()
}

/// What nlmd has to have there, over these netids.
fn wanted(nlmd: &Nlmd, netids: &[&str]) -> BTreeSet<(u32, u32, String, u16)> {
    let mut wanted = BTreeSet::new();
    for netid in netids {
        let udp = netid.starts_with("udp");
        let (nlm, nsm) = if udp { (nlmd.nlm_udp, nlmd.nsm_udp) } else { (nlmd.nlm_tcp, nlmd.nsm_tcp) };
        wanted.extend([1, 3, 4].map(|version| (NLM, version, (*netid).to_owned(), nlm)));
        wanted.insert((NSM, 1, (*netid).to_owned(), nsm));
    }
    wanted
}

const ALL: [&str; 4] = ["udp", "tcp", "udp6", "tcp6"];

fn client(address: &str) -> UdpClient {
    let endpoint = UdpEndpoint::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    UdpClient::new(Arc::new(endpoint), Retransmit::default())
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn every_version_and_transport_is_registered_and_taken_back_and_nothing_else() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let before = host.run("rpcinfo", &["127.0.0.1"]);
    let nlmd = Nlmd::start(&host, &[]);
    assert_eq!(listed(&host), wanted(&nlmd, &ALL));
    assert!(host.run("rpcinfo", &["127.0.0.1"]).contains("superuser"), "over the Unix socket the owner is known");
    assert!(nlmd.stop().success());
    assert_eq!(host.run("rpcinfo", &["127.0.0.1"]), before);
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn without_the_unix_socket_it_is_registered_over_loopback() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    std::fs::remove_file(host.run_dir().join("rpcbind.sock")).unwrap();
    let nlmd = Nlmd::start(&host, &[]);
    assert_eq!(listed(&host), wanted(&nlmd, &ALL));
    assert!(nlmd.stop().success());
    assert_eq!(listed(&host), BTreeSet::new());
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn only_the_families_and_addresses_that_are_served_are_registered() {
    let host = Netns::new("server.test");
    netns::add_address(&host, "lo", "10.9.0.7/32");
    let _rpcbind = host.rpcbind(&[]);
    let nlmd = Nlmd::start(&host, &["--listen", "10.9.0.7"]);
    assert_eq!(listed(&host), wanted(&nlmd, &["udp", "tcp"]));
    assert!(host.run("rpcinfo", &["127.0.0.1"]).contains("10.9.0.7."), "with the address, not the wildcard");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn what_is_registered_is_found_in_versions_2_3_and_4() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let nlmd = Nlmd::start(&host, &[]);
    host.block_on(async {
        for (from, at) in [("127.0.0.1", "127.0.0.1:111"), ("::1", "[::1]:111")] {
            let (client, at) = (client(from), at.parse().unwrap());
            for (transport, port) in [(Transport::Udp, nlmd.nlm_udp), (Transport::Tcp, nlmd.nlm_tcp)] {
                let found = getport(&client, at, None, NLM, 4, transport, SOON).await.unwrap();
                assert_eq!(found, Some(port), "{at} {transport:?}");
            }
            for version in [V3, V4] {
                let found = getaddr(&client, at, version, NLM).await;
                assert_eq!(found.map(|address| address.port()), Some(nlmd.nlm_udp), "{at} v{version}");
            }
            assert_eq!(getport(&client, at, None, 100_099, 4, Transport::Udp, SOON).await.unwrap(), None);
            let nobody = getaddr(&client, at, V4, 100_099).await;
            assert_eq!(nobody, None);
        }
        let local = LocalRpcbind::reach(PORT).await.unwrap();
        assert_eq!(local.name(), "/run/rpcbind.sock");
        for (version, families) in [(V2, 1), (V3, 2), (V4, 2)] {
            let entries = local.dump_in(version).await.unwrap();
            let of_nlm = entries.iter().filter(|entry| entry.program == NLM).count();
            assert_eq!(of_nlm, 3 * 2 * families, "version {version}: {entries:?}");
        }
    });
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn rpcbind_takes_and_gives_up_our_entries_in_versions_3_and_4() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let set_or_unset = |version, procedure: Procedure| {
        let text = |text: &str| BindString::new(text).unwrap();
        let entry =
            Rpcb { program: NLM, version: 4, netid: text("udp6"), address: text("::.15.205"), owner: text("0") };
        let call = async move {
            let socket = Path::new("/run/rpcbind.sock");
            let stream = StreamClient::connect_unix(socket, 1 << 16, SOON).await.unwrap();
            let (credential, args) = (Credential::root("localhost"), encode(&entry));
            let procedure = procedure as u32;
            let request = Request { program: PROGRAM, version, procedure, credential: &credential, args: &args };
            decode::<bool>(&stream.call(request, SOON).await.unwrap()).unwrap()
        };
        host.block_on(call)
    };
    for version in [V3, V4] {
        assert!(set_or_unset(version, Procedure::Set));
        assert_eq!(listed(&host), BTreeSet::from([(NLM, 4, "udp6".to_owned(), 4045)]), "version {version}");
        assert!(set_or_unset(version, Procedure::Unset));
        assert_eq!(listed(&host), BTreeSet::new(), "version {version}");
    }
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn entries_of_a_killed_nlmd_are_replaced_also_by_one_on_the_same_ports() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    Nlmd::start(&host, &[]).kill_9();
    assert_eq!(listed(&host).len(), 16);
    let second = Nlmd::start(&host, &["--nlm-port", "4045", "--nsm-port", "4046"]);
    assert_eq!(listed(&host), wanted(&second, &ALL));
    second.kill_9();
    let third = Nlmd::start(&host, &["--nlm-port", "4045", "--nsm-port", "4046", "--listen", "127.0.0.1"]);
    assert_eq!(listed(&host), wanted(&third, &["udp", "tcp"]), "what it does not serve is gone too");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn entries_of_a_killed_nlmd_are_replaced_also_when_the_new_one_was_given_their_ports() {
    const PORTS: std::ops::Range<u16> = 40_000..40_016;
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let range = format!("{} {}", PORTS.start, PORTS.end - 1);
    host.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap());
    let entries = PORTS.flat_map(|port| {
        [Transport::Udp, Transport::Tcp].map(|transport| Registration {
            program: NLM,
            version: u32::from(port),
            transport,
            address: SocketAddr::new([127, 0, 0, 1].into(), port),
        })
    });
    host.block_on(async {
        let rpcbind = LocalRpcbind::reach(PORT).await.unwrap();
        for entry in entries {
            assert!(rpcbind.set(&entry).await.unwrap());
        }
    });
    let nlmd = Nlmd::start(&host, &[]);
    assert!(!nlmd.log().contains("WARN"), "{}", nlmd.log());
    assert_eq!(listed(&host), wanted(&nlmd, &ALL));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn the_entries_of_a_live_server_stay_and_it_is_named() {
    let (host, folder) = (Netns::new("server.test"), tempfile::tempdir().unwrap());
    let _rpcbind = host.rpcbind(&[]);
    let first = Nlmd::start(&host, &[]);
    let before = host.run("rpcinfo", &["127.0.0.1"]);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (state, control) = (at("state"), at("control"));
    let (status, log) = Nlmd::try_start(&host, &["--state-dir", &state, "--control", &control]).unwrap_err();
    assert_eq!(status.code(), Some(1));
    let holder = format!("registered already, by nlmd (process {})", first.id());
    assert!(log.contains(&holder) && log.contains("--no-rpcbind"), "{log}");
    assert_eq!(host.run("rpcinfo", &["127.0.0.1"]), before);
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn beside_a_running_statd_it_says_how_to_work_with_it() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let statd = host.statd(&[]);
    let before = host.run("rpcinfo", &["127.0.0.1"]);
    let (status, log) = Nlmd::try_start(&host, &[]).unwrap_err();
    assert_eq!(status.code(), Some(1));
    let holder = format!("rpc.statd (process {})", statd.id());
    assert!(log.contains(&holder) && log.contains("--nsm statd"), "{log}");
    assert_eq!(host.run("rpcinfo", &["127.0.0.1"]), before, "nothing of NLM is left behind");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_restarted_rpcbind_with_anothers_entries_loses_none_at_the_end() {
    let host = Netns::new("server.test");
    let rpcbind = host.rpcbind(&[]);
    let nlmd = Nlmd::start(&host, &[]);
    drop(rpcbind);
    let _another = host.rpcbind(&[]);
    let theirs = "127.0.0.1:4999".parse().unwrap();
    let entry = Registration { program: NLM, version: 4, transport: Transport::Udp, address: theirs };
    let set = host.block_on(async { LocalRpcbind::reach(PORT).await.unwrap().set(&entry).await.unwrap() });
    assert!(set);
    assert!(nlmd.stop().success());
    assert_eq!(listed(&host).into_iter().collect::<Vec<_>>(), [(NLM, 4, "udp".to_owned(), 4999)]);
}

/// nlmd as a user who is not root, with that user's own folders.
fn as_nobody(host: &Netns) -> String {
    let folder = host.folder();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder, mode).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (state, control, ports) = (at("nobody-state"), at("nobody.sock"), at("nobody-ports"));
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", env!("CARGO_BIN_EXE_nlmd")];
    let flags = ["--state-dir", &state, "--control", &control, "--ports-file", &ports, "--name", "s"];
    let mut command = std::process::Command::new("setpriv");
    command.args(user).args(flags);
    let mut nlmd = host.start(command);
    until("nlmd is up or has ended", || nlmd.ended().is_some() || nlmd.log().contains("nlmd is up"));
    nlmd.log()
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_user_who_is_not_root_is_registered_by_the_unix_socket_and_refused_without_it() {
    let host = Netns::new("server.test");
    let _rpcbind = host.rpcbind(&[]);
    let log = as_nobody(&host);
    assert!(log.contains("nlmd is up") && !log.contains("WARN"), "{log}");
    std::fs::remove_file(host.run_dir().join("rpcbind.sock")).unwrap();
    let log = as_nobody(&host);
    assert!(log.contains("127.0.0.1:111 refused to register") || log.contains("another user registered it"), "{log}");
    let insecure = Netns::new("insecure.test");
    let _rpcbind = insecure.rpcbind(&["-i"]);
    std::fs::remove_file(insecure.run_dir().join("rpcbind.sock")).unwrap();
    let log = as_nobody(&insecure);
    assert!(log.contains("nlmd is up") && !log.contains("WARN"), "{log}");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn without_an_rpcbind_it_serves_and_says_so() {
    let host = Netns::new("server.test");
    // What a killed rpcbind leaves behind.
    drop(host.rpcbind(&[]));
    let nlmd = Nlmd::start(&host, &[]);
    assert!(nlmd.log().contains("not registered: rpcbind at 127.0.0.1:111: no program listens there; start rpcbind"));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn notices_find_a_real_statd_by_its_rpcbind_over_ipv4_and_ipv6() {
    let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
    link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
    netns::add_address(&server, &netns::cable(&server), "fd00:9::1/64");
    netns::add_address(&client, &netns::cable(&client), "fd00:9::2/64");
    client.knows(&[("10.9.0.1", "server.test"), ("fd00:9::1", "server.test")]);
    let _rpcbind = client.rpcbind(&[]);
    let statd = client.statd(&[]);
    std::fs::write(server.folder().join("targets"), "10.9.0.2\nfd00:9::2\n").unwrap();
    let targets = server.folder().join("targets").to_str().unwrap().to_owned();
    let notify = ["notify", "--targets", &targets, "--name", "server.test", "--state", "7"];
    let ran = nlmctl(&server, &[&notify[..], &["--yes", "--grace-elsewhere", "--deadline", "10s"]].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    let report = ran.json();
    let fates: Vec<_> = report["hosts"].as_array().unwrap().iter().map(|host| &host["fate"]).collect();
    assert_eq!(fates, ["acked", "acked"], "{ran:#?}");
    until("statd heard both", || statd.log().matches("server.test").count() >= 2);
}
