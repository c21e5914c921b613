//! Every procedure of NLM and NSM, called by a client that shares no code with this crate: encoders
//! that rpcgen makes of the specifications' XDR, and libtirpc. It finds nlmd by the real rpcbind, and
//! nlmd finds its lockd likewise. What each call was answered is on record in `tests/golden/foreign_*.txt`;
//! with BLESS=1 in the environment those are written anew.
#![cfg(test)]

#[path = "../netns/mod.rs"]
mod netns;

use std::path::{Path, PathBuf};

use netns::{Netns, Nlmd, link};

const SERVER: &str = "10.9.0.1";
const CLIENT: &str = "10.9.0.2";

struct World {
    server: Netns,
    client: Netns,
    caller: PathBuf,
    _running: (netns::Process, netns::Process, Nlmd),
}

impl World {
    fn new() -> Self {
        let (server, client) = (Netns::new("server.test"), Netns::new("foreign.test"));
        link(&server, &format!("{SERVER}/24"), &client, &format!("{CLIENT}/24"));
        server.knows(&[(CLIENT, "foreign.test")]);
        let caller = build(&server);
        let rpcbinds = (server.rpcbind(&[]), client.rpcbind(&[]));
        let nlmd = Nlmd::start(&server, &["--name", "server.test"]);
        Self { server, client, caller, _running: (rpcbinds.0, rpcbinds.1, nlmd) }
    }

    /// What the caller said on a host.
    fn ask(&self, host: &Netns, arguments: &[&str]) -> String {
        host.run(self.caller.to_str().unwrap(), arguments)
    }
}

/// The caller, compiled.
fn build(host: &Netns) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let at = |name: &str| host.folder().join(name).to_str().unwrap().to_owned();
    for name in ["nlm_prot", "sm_inter"] {
        // rpcgen writes the name that it is given into what it makes.
        std::fs::copy(sources.join(format!("{name}.x")), at(&format!("{name}.x"))).unwrap();
        let (specification, header, coder) =
            (at(&format!("{name}.x")), at(&format!("{name}.h")), at(&format!("{name}_xdr.c")));
        host.run("rpcgen", &["-h", "-o", &header, &specification]);
        host.run("rpcgen", &["-c", "-o", &coder, &specification]);
        let included = std::fs::read_to_string(&coder).unwrap().replace(&header, &format!("{name}.h"));
        std::fs::write(&coder, included).unwrap();
    }
    let (caller, source) = (at("caller"), sources.join("caller.c"));
    let parts = [source.to_str().unwrap(), &at("nlm_prot_xdr.c"), &at("sm_inter_xdr.c")];
    let here = format!("-I{}", host.folder().display());
    let flags = ["-std=gnu17", &here, "-I/usr/include/tirpc", "-o", &caller];
    host.run("cc", &[&flags[..], &parts, &["-ltirpc"]].concat());
    caller.into()
}

#[track_caller]
fn is_on_record(answers: &str, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, answers).unwrap();
    }
    let record = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = |(number, (is, was)): (usize, (&str, &str))| {
        (is != was).then(|| format!("line {}: {is}\n  on record: {was}", number + 1))
    };
    let first = answers.lines().zip(record.lines()).enumerate().find_map(differs);
    assert!(answers == record, "{name}: {}\n{answers}", first.unwrap_or_else(|| "another length".into()));
}

#[test]
#[ignore = "needs root, rpcbind, nfs-common, rpcgen, libtirpc-dev and cc: .ci/run runs it"]
fn every_procedure_of_every_version_of_nlm_is_answered_over_udp_and_tcp() {
    let world = World::new();
    for transport in ["udp", "tcp"] {
        is_on_record(&world.ask(&world.client, &["nlm", SERVER, transport]), "foreign_nlm.txt");
    }
}

#[test]
#[ignore = "needs root, rpcbind, nfs-common, rpcgen, libtirpc-dev and cc: .ci/run runs it"]
fn every_procedure_of_nsm_is_answered_to_another_host_and_to_this_one() {
    let world = World::new();
    for transport in ["udp", "tcp"] {
        is_on_record(&world.ask(&world.client, &["nsm", SERVER, transport]), "foreign_nsm_remote.txt");
        is_on_record(&world.ask(&world.server, &["nsm", "127.0.0.1", transport]), "foreign_nsm_local.txt");
    }
}
