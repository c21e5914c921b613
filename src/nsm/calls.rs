//! The calls of a fan-out as bytes, and what their answers say.
//!
//! Thousands of calls differ in their xid alone, so each kind is encoded once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::wire::rpc::{self, Credential, RpcError};
use crate::wire::types::{CallerName, NsmState, Transport};
use crate::wire::{nsm, rpcbind, xdr};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Where its statd listens: GETPORT of rpcbind version 2 over IPv4, GETADDR of version 4 over IPv6.
    Port(Transport),
    /// NULL: is somebody there?
    Null,
    /// SM_STAT: which state number?
    Stat,
    /// SM_NOTIFY, with the name of this number.
    Notify(usize),
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// The statd listens there; `None`: nowhere.
    Port(Option<u16>),
    /// Acked, with the state number if that was asked.
    Done(Option<NsmState>),
    /// Refused, and why.
    Refused(String),
}

/// Every call of a fan-out, encoded with xid 0.
#[derive(Debug)]
pub(super) struct Calls {
    ports: HashMap<(Transport, bool), Vec<u8>>,
    null: NsmCall,
    stat: NsmCall,
    notices: Vec<NsmCall>,
    names: HashMap<CallerName, usize>,
}

impl Calls {
    /// `my_name` is what SM_STAT asks about.
    pub(super) fn new(my_name: Option<&CallerName>) -> Self {
        let mut ports = HashMap::new();
        for transport in [Transport::Udp, Transport::Tcp] {
            for ipv6 in [false, true] {
                ports.insert((transport, ipv6), port_call(transport, ipv6));
            }
        }
        let stat = my_name.map(|name| xdr::encode(&nsm::SmName { mon_name: name.clone() })).unwrap_or_default();
        Self {
            ports,
            null: NsmCall::new(nsm::Procedure::Null, Vec::new()),
            stat: NsmCall::new(nsm::Procedure::Stat, stat),
            notices: Vec::new(),
            names: HashMap::new(),
        }
    }

    /// The question that tells `name`'s new state.
    pub(super) fn notice(&mut self, name: &CallerName, state: NsmState) -> Question {
        if let Some(&number) = self.names.get(name) {
            return Question::Notify(number);
        }
        let args = xdr::encode(&nsm::NotifyArgs { mon_name: name.clone(), state });
        self.notices.push(NsmCall::new(nsm::Procedure::Notify, args));
        let number = self.notices.len() - 1;
        self.names.insert(name.clone(), number);
        Question::Notify(number)
    }

    /// The call for `question`, to a host at `to`.
    pub(super) fn encode(&self, question: Question, to: IpAddr, xid: u32) -> Vec<u8> {
        let template = match question {
            Question::Port(transport) => self.ports.get(&(transport, to.is_ipv6())),
            _ => self.of_nsm(question).map(|call| &call.message),
        };
        let mut bytes = template.cloned().unwrap_or_default();
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = xid.to_be_bytes();
        }
        bytes
    }

    /// A question for a statd, whole and in parts.
    pub(super) fn of_nsm(&self, question: Question) -> Option<&NsmCall> {
        match question {
            Question::Port(_) => None,
            Question::Null => Some(&self.null),
            Question::Stat => Some(&self.stat),
            Question::Notify(number) => self.notices.get(number),
        }
    }
}

/// A call to a statd.
#[derive(Debug)]
pub(super) struct NsmCall {
    /// Which.
    pub(super) procedure: nsm::Procedure,
    /// Its arguments, encoded.
    pub(super) args: Arc<[u8]>,
    /// The whole message, with xid 0.
    message: Vec<u8>,
}

impl NsmCall {
    fn new(procedure: nsm::Procedure, args: Vec<u8>) -> Self {
        let message = rpc::call(0, nsm::PROGRAM, nsm::VERSION, procedure as u32, &Credential::None, &args);
        Self { procedure, args: args.into(), message }
    }
}

/// The xid of what may be a reply.
pub(super) fn xid_of(datagram: &[u8]) -> Option<u32> {
    datagram.first_chunk::<4>().map(|xid| u32::from_be_bytes(*xid))
}

/// What a message says to `question`, asked of a host at `to`; `None` where it is no reply at all.
pub(super) fn understand(question: Question, to: IpAddr, message: &[u8]) -> Option<Said> {
    Some(judge(question, to, rpc::parse_reply(message).ok()?.outcome))
}

/// What the results of `question` say, asked of a host at `to`.
pub(super) fn judge(question: Question, to: IpAddr, outcome: Result<&[u8], RpcError>) -> Said {
    let results = match outcome {
        Ok(results) => results,
        Err(error) => return Said::Refused(refusal(question, error)),
    };
    match question {
        Question::Port(_) if to.is_ipv4() => match xdr::decode::<u32>(results) {
            Ok(port) => Said::Port(u16::try_from(port).ok().filter(|&port| port != 0)),
            Err(error) => Said::Refused(format!("its rpcbind's answer to GETPORT is odd: {error}")),
        },
        Question::Port(Transport::Tcp) => match xdr::decode(results) {
            Ok(entries) => Said::Port(rpcbind::port_in(&entries, rpcbind::netid(Transport::Tcp, to))),
            Err(error) => Said::Refused(format!("its rpcbind's answer to GETADDRLIST is odd: {error}")),
        },
        Question::Port(Transport::Udp) => match xdr::decode::<rpcbind::UniversalAddress>(results) {
            // Only the port counts: the address may be the wildcard.
            Ok(text) => match rpcbind::parse_universal_address(text.as_str()) {
                Some(address) => Said::Port(Some(address.port()).filter(|&port| port != 0)),
                None if text.as_str().is_empty() => Said::Port(None),
                None => Said::Refused(format!("its rpcbind's answer to GETADDR is odd: {:?}", text.as_str())),
            },
            Err(error) => Said::Refused(format!("its rpcbind's answer to GETADDR is odd: {error}")),
        },
        // A success is an ack, whatever void came with it.
        Question::Null | Question::Notify(_) => Said::Done(None),
        // `res_stat` says whether that statd can resolve our name; the state is its own either way.
        Question::Stat => Said::Done(xdr::decode::<nsm::StatRes>(results).ok().map(|res| res.state)),
    }
}

fn refusal(question: Question, error: RpcError) -> String {
    let (who, what) = match question {
        Question::Port(_) => ("rpcbind", "a port look-up"),
        Question::Null => ("statd", "NULL"),
        Question::Stat => ("statd", "SM_STAT"),
        Question::Notify(_) => ("statd", "SM_NOTIFY"),
    };
    format!("its {who} refused {what}: {error}")
}

fn port_call(transport: Transport, ipv6: bool) -> Vec<u8> {
    let (version, procedure, args) = if ipv6 {
        let asked = rpcbind::Rpcb {
            program: nsm::PROGRAM,
            version: nsm::VERSION,
            netid: rpcbind::BindString::clipped(rpcbind::netid(transport, IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED))),
            address: rpcbind::BindString::default(),
            owner: rpcbind::BindString::default(),
        };
        // GETADDR answers for UDP whatever netid it gets over UDP.
        let procedure = match transport {
            Transport::Udp => rpcbind::Procedure::Get,
            Transport::Tcp => rpcbind::Procedure::AddressList,
        };
        (rpcbind::V4, procedure, xdr::encode(&asked))
    } else {
        let asked =
            rpcbind::Mapping { program: nsm::PROGRAM, version: nsm::VERSION, protocol: transport as u32, port: 0 };
        (rpcbind::V2, rpcbind::Procedure::Get, xdr::encode(&asked))
    };
    rpc::call(0, rpcbind::PROGRAM, version, procedure as u32, &Credential::None, &args)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::rpc::Answer;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    const UDP: Question = Question::Port(Transport::Udp);

    fn said(question: Question, to: IpAddr, results: Vec<u8>) -> Said {
        understand(question, to, &rpc::reply(1, &Answer::Success(results))).unwrap()
    }

    fn address(text: &str) -> Vec<u8> {
        xdr::encode(&rpcbind::UniversalAddress::clipped(text))
    }

    #[test]
    fn ports_that_cannot_be_are_no_ports() {
        assert_eq!(said(UDP, V4, xdr::encode(&4000u32)), Said::Port(Some(4000)));
        assert_eq!(said(UDP, V4, xdr::encode(&0u32)), Said::Port(None));
        assert_eq!(said(UDP, V4, xdr::encode(&70_000u32)), Said::Port(None));
        assert_eq!(said(UDP, V6, address("::.15.160")), Said::Port(Some(4000)));
        assert_eq!(said(UDP, V6, address("")), Said::Port(None));
        assert_eq!(said(UDP, V6, address("::.0.0")), Said::Port(None));
    }

    #[test]
    fn answers_that_make_no_sense_are_told_as_such() {
        for odd in [said(UDP, V4, vec![]), said(UDP, V4, vec![0; 8]), said(UDP, V6, address("nonsense"))] {
            assert!(matches!(&odd, Said::Refused(why) if why.contains("rpcbind's answer")), "{odd:?}");
        }
    }

    #[test]
    fn an_ack_is_an_ack_whatever_comes_with_it() {
        assert_eq!(said(Question::Notify(0), V4, vec![1, 2, 3, 4]), Said::Done(None));
        assert_eq!(said(Question::Stat, V4, vec![]), Said::Done(None));
    }

    #[test]
    fn each_name_is_encoded_once_and_only_xids_differ() {
        let mut calls = Calls::new(None);
        let name = |text| CallerName::new(text).unwrap();
        let first = calls.notice(&name("a"), NsmState(3));
        assert_eq!(calls.notice(&name("a"), NsmState(3)), first);
        assert_ne!(calls.notice(&name("b"), NsmState(3)), first);
        let bytes = calls.encode(first, V4, 77);
        let call = rpc::parse_call(&bytes).unwrap();
        assert_eq!((call.xid, call.program, call.procedure), (77, nsm::PROGRAM, nsm::Procedure::Notify as u32));
        let args: nsm::NotifyArgs = xdr::decode(call.args).unwrap();
        assert_eq!(args, nsm::NotifyArgs { mon_name: name("a"), state: NsmState(3) });
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), results in any::<bool>()) {
            let message = if results { rpc::reply(1, &Answer::Success(bytes)) } else { bytes };
            for question in [UDP, Question::Port(Transport::Tcp), Question::Null, Question::Stat, Question::Notify(0)] {
                for to in [V4, V6] {
                    let _ = understand(question, to, &message);
                }
            }
        }
    }
}
