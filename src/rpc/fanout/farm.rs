//! Clients for tests: how their rpcbind and statd answer, well or badly.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::rpc::udp::UdpEndpoint;
use crate::wire::record;
use crate::wire::rpc::{self, Answer};
use crate::wire::types::{CallerName, NsmState, Transport};
use crate::wire::{nsm, rpcbind, xdr};

/// The state number that every one of them has.
pub(crate) const STATE: NsmState = NsmState(7);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Healthy,
    /// Never answers.
    Dead,
    /// Its rpcbind answers, its statd does not.
    Hung,
    /// No statd is registered.
    NoStatd,
    /// Its statd is there on TCP only.
    TcpOnly,
    /// No datagram gets through to it: it is there on TCP only, its rpcbind too.
    Walled,
    /// Its statd rejects SM_NOTIFY and SM_STAT, not NULL.
    Refuses,
}

/// A notice that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) name: CallerName,
    pub(crate) state: NsmState,
}

/// What the rpcbind of a host with this address says.
pub(crate) fn rpcbind_answer(manner: Manner, host: IpAddr, statd_port: u16, message: &[u8]) -> Option<Vec<u8>> {
    let call = rpc::parse_call(message).ok()?;
    if manner == Manner::Dead {
        return None;
    }
    assert_eq!(call.program, rpcbind::PROGRAM);
    let procedure = rpcbind::Procedure::from_number(call.procedure).unwrap();
    let (program, version, udp) = if call.version == rpcbind::V2 {
        assert!(host.is_ipv4(), "version 2 knows IPv4 only");
        let asked: rpcbind::Mapping = xdr::decode(call.args).unwrap();
        (asked.program, asked.version, asked.protocol == Transport::Udp as u32)
    } else {
        assert!(host.is_ipv6());
        let asked: rpcbind::Rpcb = xdr::decode(call.args).unwrap();
        // As a real one: GETADDR answers for the transport of the call.
        (asked.program, asked.version, procedure == rpcbind::Procedure::Get)
    };
    assert_eq!(program, nsm::PROGRAM);
    let there = match manner {
        _ if version != nsm::VERSION => false,
        Manner::NoStatd => false,
        Manner::TcpOnly => !udp,
        _ => true,
    };
    let port = if there { statd_port } else { 0 };
    let results = match call.version {
        rpcbind::V2 => xdr::encode(&u32::from(port)),
        _ if procedure == rpcbind::Procedure::AddressList => {
            let entry = rpcbind::Entry {
                address: rpcbind::universal_address(("::".parse::<IpAddr>().unwrap(), port).into()),
                netid: rpcbind::BindString::clipped("tcp6"),
                semantics: 3,
                family: rpcbind::BindString::clipped("inet6"),
                protocol: rpcbind::BindString::clipped("tcp"),
            };
            xdr::encode(&rpcbind::Chain(if there { vec![entry] } else { Vec::new() }))
        }
        _ if there => xdr::encode(&rpcbind::universal_address(("::".parse::<IpAddr>().unwrap(), port).into())),
        _ => xdr::encode(&rpcbind::UniversalAddress::default()),
    };
    Some(rpc::reply(call.xid, &Answer::Success(results)))
}

/// What its statd says, and the notice that was in the call.
pub(crate) fn statd_answer(manner: Manner, message: &[u8]) -> Option<(Vec<u8>, Option<Arrived>)> {
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

/// Clients on loopback: wildcard sockets that answer for every address, each in its manner. They
/// live as long as the farm and the runtime do.
pub(crate) struct Farm {
    pub(crate) rpcbind_port: u16,
    /// Which notice came to which host from where, in order.
    pub(crate) notices: Arc<Mutex<Vec<(IpAddr, IpAddr, Arrived)>>>,
    _tasks: JoinSet<()>,
}

impl Farm {
    /// Starts one. `wildcard` chooses the family.
    pub(crate) async fn start(wildcard: IpAddr, manner: fn(IpAddr) -> Manner) -> Self {
        let socket = || {
            let socket = UdpEndpoint::bind((wildcard, 0).into()).unwrap();
            socket.raise_buffers(16 << 20);
            socket
        };
        let rpcbind = socket();
        let (statd, listener) = loop {
            let statd = socket();
            if let Ok(listener) = TcpListener::bind(statd.local_addr()).await {
                break (statd, listener);
            }
        };
        let (rpcbind_port, statd_port) = (rpcbind.local_addr().port(), statd.local_addr().port());
        let notices = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        // No program is there over TCP, if the port is another's.
        if let Ok(listener) = TcpListener::bind(rpcbind.local_addr()).await {
            tasks.spawn(async move {
                loop {
                    let (stream, host, call) = accept_call(&listener).await;
                    if manner(host) == Manner::Walled {
                        reply_to(stream, rpcbind_answer(manner(host), host, statd_port, &call)).await;
                    }
                }
            });
        }
        tasks.spawn(async move {
            loop {
                let call = rpcbind.recv().await.unwrap();
                let host = call.local_ip;
                if manner(host) == Manner::Walled {
                    continue;
                }
                if let Some(reply) = rpcbind_answer(manner(host), host, statd_port, &call.bytes) {
                    rpcbind.send(&reply, call.peer, Some(host)).await.unwrap();
                }
            }
        });
        let seen = notices.clone();
        tasks.spawn(async move {
            loop {
                let call = statd.recv().await.unwrap();
                let host = call.local_ip;
                assert!(!matches!(manner(host), Manner::TcpOnly | Manner::Walled));
                if let Some((reply, arrived)) = statd_answer(manner(host), &call.bytes) {
                    seen.lock().unwrap().extend(arrived.map(|notice| (host, call.peer.ip(), notice)));
                    statd.send(&reply, call.peer, Some(host)).await.unwrap();
                }
            }
        });
        let seen = notices.clone();
        tasks.spawn(async move {
            loop {
                let (stream, host, call) = accept_call(&listener).await;
                let peer = stream.peer_addr().unwrap().ip();
                let (reply, arrived) = statd_answer(manner(host), &call).unzip();
                seen.lock().unwrap().extend(arrived.flatten().map(|notice| (host, peer, notice)));
                reply_to(stream, reply).await;
            }
        });
        Self { rpcbind_port, notices, _tasks: tasks }
    }
}

/// A connection, the host that it was made to, and the call that came in one fragment.
async fn accept_call(listener: &TcpListener) -> (TcpStream, IpAddr, Vec<u8>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let host = stream.local_addr().unwrap().ip();
        // A caller that asks both ways at once goes away when the other answer has come.
        let Ok(mark) = stream.read_u32().await else { continue };
        let mut call = vec![0; (mark & 0x7FFF_FFFF) as usize];
        if stream.read_exact(&mut call).await.is_ok() {
            return (stream, host, call);
        }
    }
}

/// Replies, and ends the connection.
async fn reply_to(mut stream: TcpStream, reply: Option<Vec<u8>>) {
    if let Some(reply) = reply {
        let _ = stream.write_all(&record::frame(&reply)).await;
    }
}
