//! What a real rpc.statd records is read, and its clients are told.
#![cfg(test)]

mod netns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netns::{Netns, link, nlmctl, until};
use nlmctl::internals::roster::{self, Kind, RosterEntry};
use nlmctl::internals::rpc::UdpEndpoint;
use nlmctl::internals::rpc::getport;
use nlmctl::internals::rpc::{Request, Retransmit, UdpClient};
use nlmctl::wire::nlm;
use nlmctl::wire::nsm::{self, MonArgs, MonId, MyId, ResStat, StatRes};
use nlmctl::wire::rpc::Credential;
use nlmctl::wire::types::{CallerName, NsmState, Transport};
use nlmctl::wire::xdr::{decode, encode};

const SOON: Duration = Duration::from_secs(10);

/// The request by which a lockd has a host monitored.
fn monitor(host: &str) -> MonArgs {
    let name = |name| CallerName::new(name).unwrap();
    let my_id = MyId { my_name: name("server.test"), my_prog: nlm::PROGRAM, my_vers: 3, my_proc: 16 };
    MonArgs { mon_id: MonId { mon_name: name(host), my_id }, private: *b"0123456789abcdef" }
}

/// A host's own statd is asked to monitor; its state number.
async fn sm_mon(request: &MonArgs) -> NsmState {
    let loopback = |port| SocketAddr::new("127.0.0.1".parse().unwrap(), port);
    let client = UdpClient::new(Arc::new(UdpEndpoint::bind(loopback(0)).unwrap()), Retransmit::default());
    let rpcbind = loopback(111);
    let port = getport(&client, rpcbind, None, nsm::PROGRAM, nsm::VERSION, Transport::Udp, SOON).await.unwrap();
    let call = Request {
        program: nsm::PROGRAM,
        version: nsm::VERSION,
        procedure: nsm::Procedure::Mon as u32,
        credential: &Credential::None,
        args: &encode(request),
    };
    let answer = client.call(loopback(port.unwrap()), None, call, SOON).await.unwrap();
    let StatRes { res_stat, state } = decode(&answer).unwrap();
    assert_eq!(res_stat, ResStat::Success);
    state
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn the_records_of_a_real_statd_are_found_read_and_told_of() {
    let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
    link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
    server.knows(&[("10.9.0.2", "client.test"), ("10.9.0.3", "gone.test")]);
    client.knows(&[("10.9.0.1", "server.test")]);
    let _rpcbinds = (server.rpcbind(&[]), client.rpcbind(&[]));
    let _statd = server.statd(&[]);
    let clients_statd = client.statd(&[]);
    let state = server.block_on(async {
        sm_mon(&monitor("gone.test")).await;
        sm_mon(&monitor("client.test")).await
    });

    let roster = roster::read(&server.var_lib_nfs()).unwrap().remove(0);
    assert_eq!((roster.kind, roster.state), (Kind::Linux, Some(state)));
    let wanted = ["client.test", "gone.test"].map(|host| RosterEntry {
        host: host.into(),
        overdue: false,
        monitor: Some(monitor(host)),
    });
    assert_eq!(roster.entries, wanted);
    assert_eq!(roster.warnings, []);

    let next = state.next_up().to_string();
    let notify =
        ["notify", "--name", "server.test", "--state", &next, "--yes", "--grace-elsewhere", "--deadline", "5s"];
    let ran = nlmctl(&server, &notify);
    assert_eq!(ran.code, 3, "one of them is not there: {ran:#?}");
    assert!(ran.stderr.contains(&format!("2 hosts in /var/lib/nfs (Linux statd, state {state})")), "{ran:#?}");
    let report = ran.json();
    let hosts = report["hosts"].as_array().unwrap();
    let told = hosts.iter().find(|host| host["name"] == "client.test").unwrap_or_else(|| panic!("{ran:#?}"));
    assert_eq!((told["address"].as_str(), told["fate"].as_str()), (Some("10.9.0.2"), Some("acked")), "{ran:#?}");
    until("the client's statd hears of it", || clients_statd.log().contains(&format!("state: {next}")));
    assert_eq!(roster::read(&server.var_lib_nfs()).unwrap().remove(0), roster, "the live records are as they were");
}
