//! A small NLM client of the tests' own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nlmctl::wire::nlm::{
    self, CancArgs, Lock, LockArgs, Message, Procedure, Res, ShareArgs, ShareBits, ShareRes, Stat, TestArgs, TestRes,
    UnlockArgs, Version,
};
use nlmctl::wire::record::{RecordReader, frame};
use nlmctl::wire::rpc::{self, Credential, RpcError};
use nlmctl::wire::types::{CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};

use super::process::LIMIT;

static NEXT_XID: AtomicU32 = AtomicU32::new(1000);

pub fn next_xid() -> u32 {
    NEXT_XID.fetch_add(1, Ordering::Relaxed)
}

/// A path to a server socket.
pub enum Wire {
    Udp { socket: UdpSocket, to: SocketAddr },
    Tcp { stream: TcpStream, records: RecordReader },
}

impl Wire {
    pub fn udp(from: &str, to: SocketAddr) -> Self {
        Self::udp_at((from.parse::<IpAddr>().unwrap(), 0).into(), to)
    }
    pub fn udp_at(from: SocketAddr, to: SocketAddr) -> Self {
        Self::Udp { socket: UdpSocket::bind(from).unwrap(), to }
    }
    pub fn tcp(from: &str, to: SocketAddr) -> Self {
        let from: SocketAddr = (from.parse::<IpAddr>().unwrap(), 0).into();
        let domain = socket2::Domain::for_address(from);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        Self::Tcp { stream: socket.into(), records: RecordReader::new(1 << 20) }
    }

    /// Sends a message and returns the first that comes back; `None` in silence.
    pub fn exchange(&mut self, message: &[u8], patience: Duration) -> Option<Vec<u8>> {
        match self {
            Self::Udp { socket, to } => {
                socket.set_read_timeout(Some(patience)).unwrap();
                socket.send_to(message, *to).unwrap();
                let mut buffer = vec![0; 65_536];
                let (len, from) = socket.recv_from(&mut buffer).ok()?;
                assert_eq!(from, *to, "the answer comes from where the call went");
                buffer.truncate(len);
                Some(buffer)
            }
            Self::Tcp { stream, records } => {
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.write_all(&frame(message)).unwrap();
                read_record(stream, records)
            }
        }
    }

    pub fn call_as(
        &mut self,
        xid: u32,
        program: u32,
        version: u32,
        procedure: u32,
        args: &[u8],
    ) -> Result<Vec<u8>, RpcError> {
        let message = rpc::call(xid, program, version, procedure, &Credential::None, args);
        let answer = self.exchange(&message, LIMIT).expect("an answer");
        let reply = rpc::parse_reply(&answer).unwrap();
        assert_eq!(reply.xid, xid);
        reply.outcome.map(<[u8]>::to_vec)
    }

    pub fn call(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.call_as(next_xid(), program, version, procedure, args)
    }
}

pub fn read_record(stream: &mut impl Read, records: &mut RecordReader) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Some(record) = records.next().unwrap() {
            return Some(record);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(len) => records.push(&buffer[..len]),
        }
    }
}

/// What a lock call names, with defaults.
#[derive(Clone)]
pub struct Want {
    pub file: &'static str,
    pub svid: i32,
    pub offset: u64,
    pub len: u64,
    pub exclusive: bool,
    pub block: bool,
    pub reclaim: bool,
    pub state: i32,
}

pub fn want(file: &'static str) -> Want {
    Want { file, svid: 1, offset: 0, len: 100, exclusive: true, block: false, reclaim: false, state: 3 }
}

/// An NLM client of one name, on one path, in one version.
pub struct Client {
    pub wire: Wire,
    pub version: Version,
    pub name: &'static str,
}

impl Client {
    pub fn new(wire: Wire, version: Version, name: &'static str) -> Self {
        Self { wire, version, name }
    }

    pub fn lock_of(&self, want: &Want) -> Lock {
        Lock {
            caller_name: CallerName::typed(self.name).unwrap(),
            fh: FileHandle::new(want.file.as_bytes()).unwrap(),
            oh: OwnerHandle::new(format!("{}@{}", want.svid, self.name).as_bytes()).unwrap(),
            svid: Svid(want.svid),
            offset: want.offset,
            len: want.len,
        }
    }

    /// The arguments of a procedure, encoded.
    pub fn args(&self, procedure: Procedure, want: &Want) -> Vec<u8> {
        let cookie = Cookie::new(b"cookie").unwrap();
        let alock = self.lock_of(want);
        let (exclusive, block) = (want.exclusive, want.block);
        match procedure {
            Procedure::Test | Procedure::TestMsg | Procedure::Granted | Procedure::GrantedMsg => {
                TestArgs { cookie, exclusive, alock }.encode(self.version)
            }
            Procedure::Lock | Procedure::LockMsg | Procedure::NmLock => {
                let (reclaim, state) = (want.reclaim, NsmState(want.state));
                LockArgs { cookie, block, exclusive, alock, reclaim, state }.encode(self.version)
            }
            Procedure::Cancel | Procedure::CancelMsg => {
                CancArgs { cookie, block: true, exclusive, alock }.encode(self.version)
            }
            Procedure::Unlock | Procedure::UnlockMsg => UnlockArgs { cookie, alock }.encode(self.version),
            Procedure::Share | Procedure::Unshare => {
                let share = nlm::Share {
                    caller_name: alock.caller_name,
                    fh: alock.fh,
                    oh: alock.oh,
                    mode: ShareBits::ReadWrite,
                    access: ShareBits::Read,
                };
                ShareArgs { cookie, share, reclaim: want.reclaim }.encode(self.version)
            }
            Procedure::FreeAll => {
                nlm::NotifyArgs { name: alock.caller_name, state: NsmState(want.state) }.encode(self.version)
            }
            other => panic!("{other:?} has no such arguments"),
        }
        .unwrap()
    }

    pub fn raw(&mut self, xid: u32, procedure: Procedure, want: &Want) -> Result<Vec<u8>, RpcError> {
        let args = self.args(procedure, want);
        self.wire.call_as(xid, nlm::PROGRAM, self.version.number(), procedure.number(), &args)
    }

    /// The status of a call with this xid.
    pub fn stat_as(&mut self, xid: u32, procedure: Procedure, want: &Want) -> Stat {
        let results = self.raw(xid, procedure, want).unwrap();
        self.stat_in(procedure, &results)
    }

    /// The status in a procedure's results.
    pub fn stat_in(&self, procedure: Procedure, results: &[u8]) -> Stat {
        match procedure {
            Procedure::Test => TestRes::decode(self.version, results).unwrap().reply.stat(),
            Procedure::Share | Procedure::Unshare => ShareRes::decode(self.version, results).unwrap().stat,
            Procedure::FreeAll => {
                assert!(results.is_empty());
                Stat::Granted
            }
            _ => {
                let res = Res::decode(self.version, results).unwrap();
                assert_eq!(res.cookie.as_slice(), b"cookie");
                res.stat
            }
        }
    }

    pub fn stat(&mut self, procedure: Procedure, want: &Want) -> Stat {
        self.stat_as(next_xid(), procedure, want)
    }
    pub fn lock(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Lock, want)
    }
    pub fn unlock(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Unlock, want)
    }
    pub fn test(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Test, want)
    }
}
