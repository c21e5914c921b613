//! `nlmctl check` and `nlmctl release` among real rpcbinds and a real rpc.statd.
#![cfg(test)]

mod netns;

use std::net::IpAddr;

use netns::client::{Client, Wire, want};
use netns::{Netns, Nlmd, link, nlmctl};
use nlmctl::wire::nlm::{Stat, Version};
use serde_json::Value;

/// A write lock in a file, asked for from inside the client.
fn lock(client: &Netns, nlm_udp: u16, file: &'static str) {
    let wire = client.inside(|| Wire::udp("10.9.0.2", ("10.9.0.1".parse::<IpAddr>().unwrap(), nlm_udp).into()));
    assert_eq!(Client::new(wire, Version::V4, "client.test").lock(&want(file)), Stat::Granted);
}

/// The weights of the findings of a topic.
fn weights(report: &Value, about: &str) -> Vec<String> {
    let findings = report["check"]["findings"].as_array().unwrap().iter().filter(|finding| finding["about"] == about);
    findings.map(|finding| finding["severity"].as_str().unwrap().to_owned()).collect()
}

fn two_hosts() -> (Netns, Netns) {
    let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
    link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
    server.knows(&[("10.9.0.1", "server.test server"), ("10.9.0.2", "client.test")]);
    client.knows(&[("10.9.0.1", "server.test server")]);
    (server, client)
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_host_with_everything_in_place_is_found_so_and_what_is_taken_away_is_missed() {
    let (server, client) = two_hosts();
    let rpcbind = server.rpcbind(&[]);
    let nlmd = Nlmd::start(&server, &["--name", "server.test", "--name", "server"]);
    let _client_rpcbind = client.rpcbind(&[]);
    let statd = client.statd(&[]);
    lock(&client, nlmd.nlm_udp, "file");

    let ran = nlmctl(&server, &["check"]);
    let report = ran.json();
    assert_eq!(ran.code, 0, "{report:#}");
    for topic in ["manager", "grace", "clients", "client-names", "names", "rpcbind", "statd", "mounts"] {
        assert_eq!(weights(&report, topic), ["ok"], "{topic}: {report:#}");
    }
    assert_eq!(weights(&report, "sm"), Vec::<String>::new(), "nlmd keeps its own records: {report:#}");
    assert_eq!(weights(&report, "nlockmgr"), Vec::<String>::new(), "nlmd is registered: {report:#}");
    assert_eq!(weights(&report, "nfs"), ["note"], "nobody serves files here: {report:#}");

    statd.kill_9();
    rpcbind.kill_9();
    let report = nlmctl(&server, &["check"]).json();
    assert_eq!(weights(&report, "clients"), ["ok", "warning"], "{report:#}");
    assert_eq!(weights(&report, "rpcbind"), ["warning"], "{report:#}");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_real_statd_shows_that_a_client_lives_and_its_absence_that_nothing_is_known() {
    let (server, client) = two_hosts();
    let nlmd = Nlmd::start(&server, &["--name", "server.test", "--no-rpcbind"]);
    let rpcbind = client.rpcbind(&[]);
    let statd = client.statd(&[]);
    lock(&client, nlmd.nlm_udp, "file");

    let ran = nlmctl(&server, &["release", "--client", "client.test", "--yes"]);
    assert_eq!(ran.code, 4, "{ran:#?}");
    let plan = nlmctl(&server, &["release", "--client", "client.test", "--dry-run"]).json();
    let seen = &plan["release"]["clients"][0];
    assert_eq!((&seen["heard"], &seen["lockd"]), (&"answers".into(), &"not-registered".into()), "{plan:#}");
    assert!(seen["state"].is_number(), "rpc.statd tells its state: {plan:#}");

    // The cable is cut: nothing refuses, nothing answers.
    statd.kill_9();
    rpcbind.kill_9();
    client.run("ip", &["link", "set", "lo", "down"]);
    for cable in client.run("ip", &["-o", "link"]).lines().filter(|line| line.contains("cable")) {
        let name = cable.split([':', '@']).nth(1).unwrap().trim().to_owned();
        client.run("ip", &["link", "set", &name, "down"]);
    }
    let ran = nlmctl(&server, &["release", "--client", "10.9.0.2", "--yes"]);
    let done = ran.json();
    assert_eq!((ran.code, &done["release"]["released"]["locks"]), (0, &1.into()), "{ran:#?}");
    assert_eq!(done["release"]["clients"][0]["heard"], "no-answer");
}
