//! The hosts that other tests stand on: real rpcbind, rpc.statd and sm-notify, apart from the
//! machine's own and from each other.
#![cfg(test)]

mod netns;

use netns::{Netns, add_address, cable, link, until};
use nlmctl::internals::host::is_own_address;

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn two_hosts_have_their_own_names_files_and_rpcbinds_and_a_cable_between_them() {
    let (one, other) = (Netns::new("one.test"), Netns::new("other.test"));
    link(&one, "10.9.0.1/24", &other, "10.9.0.2/24");
    assert_eq!(one.run("uname", &["-n"]).trim(), "one.test");
    let rpcbind = one.rpcbind(&[]);
    assert!(one.run_dir().join("rpcbind.sock").exists());
    assert!(!other.run_dir().join("rpcbind.sock").exists());
    assert!(other.run("rpcinfo", &["-p", "10.9.0.1"]).contains("portmapper"));
    assert_ne!(other.try_run("rpcinfo", &["-p", "127.0.0.1"]).code, 0);
    other.knows(&[("10.9.0.1", "one.test one")]);
    assert!(other.run("getent", &["hosts", "one"]).contains("10.9.0.1"));
    let id = rpcbind.id();
    drop(rpcbind);
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "a process ends with its owner");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_real_sm_notify_tells_a_real_statd() {
    let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
    link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
    server.knows(&[("10.9.0.2", "client.test")]);
    client.knows(&[("10.9.0.1", "server.test")]);
    let _client = client.rpcbind(&[]);
    let statd = client.statd(&[]);
    let monitored = format!("0100007f 000186b5 00000003 00000010 {} client.test server.test\n", "0".repeat(32));
    std::fs::write(server.var_lib_nfs().join("sm/client.test"), monitored).unwrap();
    let mut sm_notify = server.sm_notify(&["-f"]);
    assert!(sm_notify.wait().success(), "{}", sm_notify.log());
    until("statd hears of it", || statd.log().contains("server.test"));
    assert!(!server.var_lib_nfs().join("sm/client.test").exists());
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn where_each_address_can_be_bound_only_those_of_interfaces_are_the_hosts_own() {
    let (one, other) = (Netns::new("one.test"), Netns::new("other.test"));
    link(&one, "10.9.0.1/24", &other, "10.9.0.2/24");
    add_address(&one, &cable(&one), "fd00::1/64");
    let addresses = ["127.0.0.9", "::1", "10.9.0.1", "fd00::1", "10.9.0.2", "fd00::2"].map(|ip| ip.parse().unwrap());
    for binds_each in ["0", "1"] {
        let own = one.inside(|| {
            for family in ["ipv4", "ipv6"] {
                std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), binds_each).unwrap();
            }
            addresses.map(is_own_address)
        });
        assert_eq!(own, [true, true, true, true, false, false], "ip_nonlocal_bind {binds_each}");
    }
}
