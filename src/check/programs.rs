//! This host's rpcbind, what is registered there, and whether its statd answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Kind;
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Statd {
    NotRegistered,
    Silent,
    Answers(Option<NsmState>),
}

pub(super) async fn look(kind: Kind, rpcbind_port: u16, patience: Duration) -> Vec<Finding> {
    let seen = tokio::time::timeout(patience * 2, see(rpcbind_port, patience)).await;
    judge(kind, rpcbind_port, &seen.unwrap_or(Err(CallError::TimedOut)))
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
    Ok(Registered { nfs, mount, lockd, statd })
}

async fn ask_statd(rpcbind_port: u16, patience: Duration) -> Statd {
    let Ok(my_name) = CallerName::new("localhost") else { return Statd::Silent };
    let target = Target { id: 0, host: Host::Addresses(vec![LOCALHOST]), notices: Vec::new() };
    match nsm::probe(vec![target], ProbeOptions { rpcbind_port, timeout: patience, my_name }).await.as_deref() {
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
                "start rpcbind: clients ask it where to lock and where to be told of a restart",
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
            "no statd (100024) is registered with rpcbind: a client that restarts cannot say so, and its locks become stuck",
            "start rpc.statd (or nlmd with its own status monitor, and without --no-rpcbind)",
        ),
        Statd::Silent => Finding::new(
            "statd",
            kind.needs(Severity::Warning),
            "a statd is registered with rpcbind and does not answer",
            "see whether it runs; restart it",
        ),
    });
    findings.push(if seen.nfs && seen.mount {
        Finding::ok("nfs", "an NFSv3 server and its MOUNT service are registered")
    } else {
        let missing = if seen.nfs { "MOUNT service" } else { "NFSv3 server" };
        Finding::new(
            "nfs",
            kind.needs(Severity::Note),
            format!("no {missing} is registered with rpcbind: are the exports up?"),
            "start the NFS server first: a client whose file is not served cannot reclaim its lock",
        )
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
        let bare = Ok(Registered { nfs: true, mount: false, lockd: false, statd: Statd::Silent });
        let expected =
            |weight, nfs| vec![("rpcbind", Severity::Ok), ("nlockmgr", weight), ("statd", weight), ("nfs", nfs)];
        assert_eq!(weights(&judge(Kind::Nlmd, 111, &bare)), expected(Severity::Warning, Severity::Note));
        assert_eq!(weights(&judge(Kind::Knfsd, 111, &bare)), expected(Severity::Problem, Severity::Problem));
        let nobody = Err(CallError::Refused);
        assert_eq!(weights(&judge(Kind::Nlmd, 111, &nobody)), [("rpcbind", Severity::Warning)]);
        assert_eq!(weights(&judge(Kind::Ganesha, 111, &nobody)), [("rpcbind", Severity::Problem)]);
        let whole = Registered { nfs: true, mount: true, lockd: true, statd: Statd::Answers(Some(NsmState(3))) };
        assert!(judge(Kind::Knfsd, 111, &Ok(whole)).iter().all(|finding| finding.severity == Severity::Ok));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told_at_once() {
        let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let found = look(Kind::Nlmd, port, Duration::from_secs(10)).await;
        assert!(found[0].seen.contains("nobody listens"), "{found:?}");
    }
}
