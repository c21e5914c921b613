//! Whether clients' lockds answer: where it listens is asked of rpcbind, then NULL of it.

use std::time::Duration;

use crate::host::is_own_address;
use crate::report::LockdProbe;
use crate::rpc::fanout::{Call, Failure, Heard, Host, Outcome, Program, Target, ask};
use crate::wire::nlm;

const LOCKD: Program = Program {
    name: "lockd",
    number: nlm::PROGRAM,
    versions: &[nlm::Version::V4 as u32, nlm::Version::V3 as u32, nlm::Version::V1 as u32],
};

/// What the lockd of each host says; in their order. All are waited for `patience` at most.
pub(super) async fn probe_lockds(hosts: Vec<Host>, rpcbind_port: u16, patience: Duration) -> Vec<LockdProbe> {
    let null = Call { name: "NULL", procedure: nlm::Procedure::Null as u32, args: [].into(), from: None };
    let target = |(id, host)| Target { id, host, calls: vec![null.clone()] };
    let targets: Vec<Target> = (0..).zip(hosts).map(target).collect();
    let count = targets.len();
    match ask(targets, LOCKD, rpcbind_port, patience, is_own_address, |_| ()).await {
        Ok(outcomes) => outcomes.iter().map(probed).collect(),
        Err(error) => {
            tracing::debug!(%error, "lockds could not be asked");
            vec![LockdProbe::NotAsked; count]
        }
    }
}

fn probed(outcome: &Outcome) -> LockdProbe {
    match outcome.failure {
        None => LockdProbe::Answers,
        Some((Failure::NotRegistered, _)) => LockdProbe::NotRegistered,
        Some((Failure::NotSent | Failure::NameUnknown, _)) => LockdProbe::NotAsked,
        Some((Failure::Refused, _) | (Failure::NoAnswer | Failure::Partial | Failure::Elsewhere, Heard::Refusal)) => {
            LockdProbe::Refused
        }
        Some((Failure::NoAnswer | Failure::Partial | Failure::Elsewhere, Heard::Answer)) => LockdProbe::RpcbindOnly,
        Some((Failure::NoAnswer | Failure::Partial | Failure::Elsewhere, Heard::Nothing)) => LockdProbe::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::demo::clients::{Behaviour, Farm};
    use crate::wire::types::CallerName;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_answers_is_told_from_one_that_does_not_and_from_one_that_was_not_asked() {
        let farm = Farm::open(&[CallerName::new("server").unwrap()]).unwrap();
        let ip = |n: u8| Ipv4Addr::new(127, 9, 7, n);
        let hosts: Vec<_> = (1..=3).map(|n| farm.add(ip(n), CallerName::new(&format!("host{n}")).unwrap())).collect();
        farm.behave(hosts[1], Behaviour::dead());
        let wanted = [
            Host::Addresses(vec![ip(1).into()]),
            Host::Addresses(vec![ip(2).into()]),
            Host::Name("nobody.invalid".to_owned()),
            Host::Addresses(vec![ip(2).into(), ip(3).into()]),
            Host::Name(ip(1).to_string()),
        ];
        let seen = probe_lockds(wanted.to_vec(), farm.rpcbind_port(), Duration::from_millis(800)).await;
        let expected = [
            LockdProbe::Answers,
            LockdProbe::NoAnswer,
            LockdProbe::NotAsked,
            // Its second address answers.
            LockdProbe::Answers,
            // It is found by its name.
            LockdProbe::Answers,
        ];
        assert_eq!(seen, expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_on_which_nobody_listens_has_refused() {
        let port = std::net::UdpSocket::bind((Ipv4Addr::new(127, 9, 7, 9), 0)).unwrap().local_addr().unwrap().port();
        let host = Host::Addresses(vec![IpAddr::from(Ipv4Addr::new(127, 9, 7, 9))]);
        let seen = probe_lockds(vec![host], port, Duration::from_secs(5)).await;
        assert_eq!(seen, [LockdProbe::Refused]);
    }
}
