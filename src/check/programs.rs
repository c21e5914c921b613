//! This host's rpcbind, what is registered there, and whether its statd answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{Kind, Places};
use crate::nsm::{self, Host, ProbeOptions, Target};
use crate::report::{Finding, Severity};
use crate::rpc::client::{CallError, Retransmit, UdpClient};
use crate::rpc::program::{self, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::wire::types::{CallerName, NsmState, Transport};
use crate::wire::{nlm, nsm as nsm_wire};

/// RFC 1813: program 100003 version 3, and its MOUNT protocol.
const NFS: (u32, u32) = (100_003, 3);
const MOUNT: (u32, u32) = (100_005, 3);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const RETRANSMIT: Retransmit = Retransmit { first: Duration::from_millis(250), max: Duration::from_secs(1) };

/// What was seen of this host's services.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    nfs: bool,
    mount: bool,
    lockd: bool,
    statd: Statd,
    /// rpcbind was started after the lock manager.
    restarted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Statd {
    NotRegistered,
    Silent,
    Answers(Option<NsmState>),
}

pub(super) async fn look(kind: Kind, places: &Places) -> Vec<Finding> {
    let (port, patience) = (places.rpcbind_port, places.patience);
    let seen = tokio::time::timeout(patience * 2, see(port, patience)).await.unwrap_or(Err(CallError::TimedOut));
    let restarted = kind == Kind::Nlmd && places.rpcbind_is_younger();
    judge(kind, port, &seen.map(|seen| Registered { restarted, ..seen }))
}

async fn see(rpcbind_port: u16, patience: Duration) -> Result<Registered, CallError> {
    let endpoint = UdpEndpoint::bind_reserved(LOCALHOST)?;
    let client = UdpClient::new(Arc::new(endpoint), RETRANSMIT);
    let here = program::Host::local(&client, rpcbind_port, patience);
    let any = async |(program, version)| match here.find(program, version, &[Transport::Tcp, Transport::Udp]).await {
        Ok(_) => Ok(true),
        Err(ProgramError::NotRegistered) => Ok(false),
        Err(error) => Err(CallError::from(error)),
    };
    let lockd = (nlm::PROGRAM, nlm::Version::V4.number());
    let statd = (nsm_wire::PROGRAM, nsm_wire::VERSION);
    let (nfs, mount, lockd, statd) = tokio::try_join!(any(NFS), any(MOUNT), any(lockd), any(statd))?;
    let statd = if statd { ask_statd(rpcbind_port, patience).await } else { Statd::NotRegistered };
    Ok(Registered { nfs, mount, lockd, statd, restarted: false })
}

async fn ask_statd(rpcbind_port: u16, patience: Duration) -> Statd {
    let Ok(my_name) = CallerName::new("localhost") else { return Statd::Silent };
    let target = Target { id: 0, host: Host::Addresses(vec![LOCALHOST]), notices: Vec::new() };
    let ask = ProbeOptions { rpcbind_port, timeout: patience, my_name };
    match nsm::probe(vec![target], ask, |_| ()).await.as_deref() {
        Ok([Ok(state), ..]) => Statd::Answers(state.filter(|state| state.is_known())),
        Ok(_) | Err(_) => Statd::Silent,
    }
}

fn judge(kind: Kind, port: u16, seen: &Result<Registered, CallError>) -> Vec<Finding> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            return vec![Finding::new(
                "rpcbind",
                kind.needs(Severity::Warning),
                format!("this host's rpcbind does not answer at port {port}: {error}"),
                "start rpcbind: clients ask it for the ports of the lock manager and of statd",
            )];
        }
    };
    let mut findings = vec![Finding::ok("rpcbind", format!("this host's rpcbind answers at port {port}"))];
    if !seen.lockd {
        findings.push(Finding::new(
            "nlockmgr",
            kind.needs(Severity::Warning),
            "no lock manager (100021 version 4) is registered with rpcbind: a client that has to ask where it is cannot reclaim",
            "register it (start the lock manager without --no-rpcbind), or restart it if rpcbind was restarted after it",
        ));
    }
    findings.push(match &seen.statd {
        Statd::Answers(Some(state)) => Finding::ok("statd", format!("a statd answers here, with state {state}")),
        Statd::Answers(None) => Finding::ok("statd", "a statd answers here"),
        Statd::NotRegistered => Finding::new(
            "statd",
            kind.needs(Severity::Warning),
            "no statd (100024) is registered with rpcbind: a client that restarts cannot notify this server, and its locks become stuck",
            "start rpc.statd (or nlmd with its own status monitor, and without --no-rpcbind)",
        ),
        Statd::Silent => Finding::new(
            "statd",
            kind.needs(Severity::Warning),
            "a statd is registered with rpcbind, but does not answer",
            "see whether it runs; restart it",
        ),
    });
    findings.push(if seen.nfs && seen.mount {
        Finding::ok("nfs", "an NFSv3 server and its MOUNT service are registered")
    } else {
        let missing = if seen.nfs { "MOUNT service" } else { "NFSv3 server" };
        let remedy = "start the NFS server first: a client whose file is not served cannot reclaim its lock";
        if seen.restarted {
            let why = "no {} is registered with rpcbind, which was started after nlmd and has forgotten what was registered before";
            let remedy = "restart the NFS server's services too, so that they register again: nlmd does so by itself";
            Finding::new("nfs", kind.needs(Severity::Warning), why.replace("{}", missing), remedy)
        } else {
            let why = format!("no {missing} is registered with rpcbind: are the exports up?");
            Finding::new("nfs", kind.needs(Severity::Note), why, remedy)
        }
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(findings: &[Finding]) -> Vec<(&str, Severity)> {
        findings.iter().map(|finding| (finding.about.as_str(), finding.severity)).collect()
    }

    #[test]
    fn what_is_missing_weighs_more_for_a_manager_that_relies_on_it() {
        let bare = Ok(Registered { restarted: false, nfs: true, mount: false, lockd: false, statd: Statd::Silent });
        let expected =
            |weight, nfs| vec![("rpcbind", Severity::Ok), ("nlockmgr", weight), ("statd", weight), ("nfs", nfs)];
        assert_eq!(weights(&judge(Kind::Nlmd, 111, &bare)), expected(Severity::Warning, Severity::Note));
        assert_eq!(weights(&judge(Kind::Knfsd, 111, &bare)), expected(Severity::Problem, Severity::Problem));
        let nobody = Err(CallError::Refused);
        assert_eq!(weights(&judge(Kind::Nlmd, 111, &nobody)), [("rpcbind", Severity::Warning)]);
        assert_eq!(weights(&judge(Kind::Ganesha, 111, &nobody)), [("rpcbind", Severity::Problem)]);
        let answers = Statd::Answers(Some(NsmState(3)));
        let whole = Registered { nfs: true, mount: true, lockd: true, statd: answers, restarted: true };
        assert!(judge(Kind::Knfsd, 111, &Ok(whole)).iter().all(|finding| finding.severity == Severity::Ok));
    }

    fn places(rpcbind_port: u16, root: &std::path::Path) -> Places {
        let (patience, control) = (Duration::from_secs(10), root.join("control.sock"));
        Places {
            root: root.into(),
            record: Ok(root.join("runs.db")),
            control,
            rpcbind_port,
            names: Vec::new(),
            patience,
        }
    }

    #[test]
    fn an_nfs_server_that_a_restarted_rpcbind_has_forgotten_is_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let places = places(111, root.path());
        assert!(!places.rpcbind_is_younger(), "neither is there");
        let made = |path: &str, at: u64| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let at = std::time::UNIX_EPOCH + Duration::from_secs(at);
            std::fs::File::create(path).unwrap().set_modified(at).unwrap();
        };
        made("control.sock", 2_000);
        for (rpcbind_made, younger, weight) in [(1_000, false, Severity::Note), (3_000, true, Severity::Warning)] {
            made("run/rpcbind.sock", rpcbind_made);
            assert_eq!(places.rpcbind_is_younger(), younger);
            let statd = Statd::Answers(None);
            let seen = Registered { nfs: false, mount: false, lockd: true, statd, restarted: younger };
            assert_eq!(weights(&judge(Kind::Nlmd, 111, &Ok(seen))).last(), Some(&("nfs", weight)));
        }
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_at_once() {
        let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let places = places(port, std::path::Path::new("/nowhere"));
        let found = look(Kind::Nlmd, &places).await;
        assert!(found[0].seen.contains("no program listens"), "{found:?}");
    }
}
