//! The hosts that other tests stand on: real rpcbind, rpc.statd and sm-notify, apart from the
//! machine's own and from each other.
#![cfg(test)]

mod netns;

use netns::{Netns, link, until};

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
