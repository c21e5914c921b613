//! Clients for tests: how their rpcbind and statd answer, well or badly.

use std::net::IpAddr;

use crate::wire::rpc::{self, Answer};
use crate::wire::types::{CallerName, NsmState, Transport};
use crate::wire::{nsm, rpcbind, xdr};

/// The state number that every one of them has.
pub(super) const STATE: NsmState = NsmState(7);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Healthy,
    /// Never answers.
    Dead,
    /// Its rpcbind answers, its statd does not.
    Hung,
    /// No statd is registered.
    NoStatd,
    /// Its statd is there on TCP only.
    TcpOnly,
    /// Its statd rejects SM_NOTIFY and SM_STAT, not NULL.
    Refuses,
}

/// A notice that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) name: CallerName,
    pub(super) state: NsmState,
}

/// What the rpcbind of a host with this address says.
pub(super) fn rpcbind_answer(manner: Manner, host: IpAddr, statd_port: u16, message: &[u8]) -> Option<Vec<u8>> {
    let call = rpc::parse_call(message).ok()?;
    if manner == Manner::Dead {
        return None;
    }
    assert_eq!((call.program, call.procedure), (rpcbind::PROGRAM, rpcbind::Procedure::Get as u32));
    let (program, udp) = if call.version == rpcbind::V2 {
        assert!(host.is_ipv4(), "version 2 knows IPv4 only");
        let asked: rpcbind::Mapping = xdr::decode(call.args).unwrap();
        (asked.program, asked.protocol == Transport::Udp as u32)
    } else {
        assert!(host.is_ipv6());
        let asked: rpcbind::Rpcb = xdr::decode(call.args).unwrap();
        (asked.program, asked.netid.as_str() == "udp6")
    };
    assert_eq!(program, nsm::PROGRAM);
    let there = match manner {
        Manner::NoStatd => false,
        Manner::TcpOnly => !udp,
        _ => true,
    };
    let port = if there { statd_port } else { 0 };
    let results = match call.version {
        rpcbind::V2 => xdr::encode(&u32::from(port)),
        _ if there => xdr::encode(&rpcbind::universal_address(("::".parse::<IpAddr>().unwrap(), port).into())),
        _ => xdr::encode(&rpcbind::UniversalAddress::default()),
    };
    Some(rpc::reply(call.xid, &Answer::Success(results)))
}

/// What its statd says, and the notice that was in the call.
pub(super) fn statd_answer(manner: Manner, message: &[u8]) -> Option<(Vec<u8>, Option<Arrived>)> {
    let call = rpc::parse_call(message).ok()?;
    assert_eq!((call.program, call.version), (nsm::PROGRAM, nsm::VERSION));
    let procedure = nsm::Procedure::from_number(call.procedure).unwrap();
    let (answer, arrived) = match (manner, procedure) {
        (Manner::Dead | Manner::Hung, _) => return None,
        (_, nsm::Procedure::Null) => (Answer::Success(Vec::new()), None),
        (Manner::Refuses, _) => (Answer::ProcUnavail, None),
        (_, nsm::Procedure::Stat) => {
            let res = nsm::StatRes { res_stat: nsm::ResStat::Fail, state: STATE };
            (Answer::Success(xdr::encode(&res)), None)
        }
        (_, nsm::Procedure::Notify) => {
            let args: nsm::NotifyArgs = xdr::decode(call.args).unwrap();
            (Answer::Success(Vec::new()), Some(Arrived { name: args.mon_name, state: args.state }))
        }
        (_, other) => panic!("a fan-out never calls {other:?}"),
    };
    Some((rpc::reply(call.xid, &answer), arrived))
}
