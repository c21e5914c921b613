//! A daemon in a temporary folder, a raw RPC client, and fake client hosts in 127.0.0.0/8.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nlmctl::wire::control::{self, Refusal, Response};
use nlmctl::wire::nlm::{self, Lock, Message, Procedure, Res, Stat, TestArgs, TestRes, Version};
use nlmctl::wire::record::{RecordReader, frame};
use nlmctl::wire::rpc::{self, Credential};
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::{Pack, Unpack, decode, encode};
use nlmctl::wire::{nsm, rpcbind};

pub(crate) use super::client::{Client, Want, Wire, next_xid, read_record, want};
pub(crate) use super::nlmd::Nlmd;
use super::process::Process;
pub(crate) use super::process::{LIMIT, await_some, until};

impl Nlmd {
    pub(crate) fn start(folder: &tempfile::TempDir, flags: &[&str]) -> Self {
        Self::try_start(folder, flags).unwrap_or_else(|(status, log)| panic!("nlmd did not start ({status}): {log}"))
    }

    pub(crate) fn try_start(folder: &tempfile::TempDir, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let usual = ["--listen", "127.0.0.1", "--listen", "127.0.0.99", "--listen", "::1", "--no-rpcbind"];
        Self::start_with(folder, &[&usual, flags].concat())
    }

    pub(crate) fn start_with(folder: &tempfile::TempDir, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_nlmd")), folder, flags)
    }

    /// One that may open so many files.
    pub(crate) fn start_with_files(folder: &tempfile::TempDir, files: u32) -> Self {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_nlmd")]);
        Self::start_by(command, folder, &["--listen", "127.0.0.1", "--no-rpcbind"]).expect("it starts")
    }

    pub(crate) fn start_by(
        mut command: Command,
        folder: &tempfile::TempDir,
        flags: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        if !flags.contains(&"--config") {
            // Not that of an nlmd which is installed here.
            command.args(["--config", "/dev/null", "--name", "server.example.org", "--name", "server"]);
        }
        let log = folder.path().join("log");
        Self::start_in(folder.path(), command, flags, |command| Process::start(command, &log))
    }
}

impl Client {
    /// Version 4 over UDP from `from` to 127.0.0.1.
    pub(crate) fn v4(daemon: &Nlmd, from: &str, name: &'static str) -> Self {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), daemon.nlm_udp);
        Self::new(Wire::udp(from, to), Version::V4, name)
    }
}

/// SM_STAT's state number.
pub(crate) fn nsm_state(daemon: &Nlmd) -> NsmState {
    let mut wire = Wire::udp("127.0.0.1", (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into());
    let args = encode(&nsm::SmName { mon_name: CallerName::new("server").unwrap() });
    let results = wire.call(nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Stat as u32, &args).unwrap();
    decode::<nsm::StatRes>(&results).unwrap().state
}

/// A connection to the control socket.
pub(crate) struct Control {
    stream: UnixStream,
    records: RecordReader,
}

impl Control {
    pub(crate) fn open(daemon: &Nlmd) -> Self {
        Self::at(&daemon.control)
    }
    pub(crate) fn at(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { stream, records: RecordReader::new(control::MAX_RECORD) }
    }
    pub(crate) fn call<T: Pack + Unpack>(
        &mut self,
        procedure: control::Procedure,
        args: &impl Pack,
    ) -> Result<T, Refusal> {
        let args = encode(args);
        let xid = next_xid();
        let message = rpc::call(xid, control::PROGRAM, control::VERSION, procedure as u32, &Credential::None, &args);
        self.stream.write_all(&frame(&message)).unwrap();
        let record = read_record(&mut self.stream, &mut self.records).expect("an answer");
        let reply = rpc::parse_reply(&record).unwrap();
        match decode::<Response<T>>(reply.outcome.unwrap()).unwrap() {
            Response::Ok(value) => Ok(value),
            Response::Refused(refusal) => Err(refusal),
        }
    }
    pub(crate) fn status(&mut self) -> control::Status {
        self.call(control::Procedure::Status, &nfs3_types::xdr_codec::Void).unwrap()
    }
    pub(crate) fn info(&mut self) -> control::Info {
        self.call(control::Procedure::Info, &nfs3_types::xdr_codec::Void).unwrap()
    }
}

/// What a fake host was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Granted { from: SocketAddr, version: u32, lock: Lock, exclusive: bool },
    Answer { from: SocketAddr, procedure: u32, stat: Stat },
    Notified { from: SocketAddr, name: String, state: NsmState },
}

/// A client's host: an rpcbind, a lockd and a statd on one address, over UDP and (lockd) TCP.
pub(crate) struct Host {
    pub(crate) heard: Receiver<Heard>,
    /// While true, its lockd and statd say nothing.
    pub(crate) deaf: Arc<AtomicBool>,
    /// While true, it takes the lock that GRANTED offers, and its answer is lost.
    pub(crate) mute: Arc<AtomicBool>,
    /// While true, it never replies to a `_RES` over UDP, as lockds of BSD and Apple.
    pub(crate) curt: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A port that is free on these addresses, for their rpcbinds. Below those that the kernel gives to
/// sockets of its own choice, and another one at each call: nobody takes it before it is bound.
pub(crate) fn shared_port(addresses: &[&str]) -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    await_some("a port that is free on all addresses", || {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        addresses.iter().all(|a| UdpSocket::bind((*a, port)).is_ok()).then_some(port)
    })
}

impl Host {
    pub(crate) fn start(address: &str, rpcbind_port: u16) -> Self {
        let (tell, heard) = channel();
        let [deaf, mute, curt, over] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let ip: IpAddr = address.parse().unwrap();
        let lockd = UdpSocket::bind((ip, 0)).unwrap();
        let lockd_tcp = std::net::TcpListener::bind((ip, 0)).unwrap();
        let statd = UdpSocket::bind((ip, 0)).unwrap();
        let binder = UdpSocket::bind((ip, rpcbind_port)).unwrap();
        let ports = [
            lockd.local_addr().unwrap().port(),
            lockd_tcp.local_addr().unwrap().port(),
            statd.local_addr().unwrap().port(),
        ];
        for socket in [binder, lockd, statd] {
            let (tell, over) = (tell.clone(), over.clone());
            let (deaf, mute, curt) = (deaf.clone(), mute.clone(), curt.clone());
            std::thread::spawn(move || serve(&socket, ports, &tell, [&deaf, &mute, &curt], &over));
        }
        let over_tcp = over.clone();
        std::thread::spawn(move || {
            for stream in lockd_tcp.incoming() {
                if over_tcp.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap();
                let mut records = RecordReader::new(1 << 20);
                while let Some(record) = read_record(&mut stream, &mut records) {
                    if let Some(answer) = answer(&record, from, ports, &tell) {
                        let _ = stream.write_all(&frame(&answer));
                    }
                }
            }
        });
        Self { heard, deaf, mute, curt, over }
    }

    pub(crate) fn hear(&self) -> Heard {
        self.heard.recv_timeout(LIMIT).expect("a call to the client's host")
    }
}

fn serve(
    socket: &UdpSocket,
    ports: [u16; 3],
    tell: &Sender<Heard>,
    [deaf, mute, curt]: [&AtomicBool; 3],
    over: &AtomicBool,
) {
    // As Linux: once it has the lock it waits no more, and denies a repetition.
    let mut has_the_lock = false;
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = vec![0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if deaf.load(Ordering::Relaxed) {
            continue;
        }
        let muted = mute.load(Ordering::Relaxed);
        let Some(answer) = answer(&buffer[..len], from, ports, tell) else { continue };
        if curt.load(Ordering::Relaxed) && is_answer(&buffer[..len]) {
            continue;
        }
        let denial = denial(&buffer[..len]);
        if denial.is_some() && muted {
            has_the_lock = true;
            continue;
        }
        let _ = socket.send_to(&denial.filter(|_| has_the_lock).unwrap_or(answer), from);
    }
}

fn is_answer(message: &[u8]) -> bool {
    rpc::parse_call(message).is_ok_and(|call| {
        let answers = [Procedure::TestRes, Procedure::LockRes, Procedure::CancelRes, Procedure::UnlockRes];
        let mut answers = answers.into_iter().chain([Procedure::GrantedRes]);
        call.program == nlm::PROGRAM && answers.any(|answer| answer.number() == call.procedure)
    })
}

/// DENIED to a GRANTED; none to anything else.
fn denial(message: &[u8]) -> Option<Vec<u8>> {
    let call = rpc::parse_call(message).ok().filter(|call| call.program == nlm::PROGRAM)?;
    let version = Version::from_number(call.version)?;
    Procedure::from_number(version, call.procedure).filter(|procedure| *procedure == Procedure::Granted)?;
    let TestArgs { cookie, .. } = TestArgs::decode(version, call.args).ok()?;
    let results = Res { cookie, stat: Stat::Denied }.encode(version).ok()?;
    Some(rpc::reply(call.xid, &rpc::Answer::Success(results)))
}

fn answer(message: &[u8], from: SocketAddr, ports: [u16; 3], tell: &Sender<Heard>) -> Option<Vec<u8>> {
    let call = rpc::parse_call(message).ok()?;
    let results = match call.program {
        rpcbind::PROGRAM => {
            let mapping: rpcbind::Mapping = decode(call.args).unwrap();
            let port = match (mapping.program, mapping.protocol) {
                (nlm::PROGRAM, 17) => ports[0],
                (nlm::PROGRAM, 6) => ports[1],
                (nsm::PROGRAM, 17) => ports[2],
                _ => 0,
            };
            encode(&u32::from(port))
        }
        nlm::PROGRAM => {
            let version = Version::from_number(call.version).unwrap();
            match Procedure::from_number(version, call.procedure).unwrap() {
                Procedure::Granted => {
                    let TestArgs { cookie, exclusive, alock } = TestArgs::decode(version, call.args).unwrap();
                    let _ = tell.send(Heard::Granted { from, version: call.version, lock: alock, exclusive });
                    Res { cookie, stat: Stat::Granted }.encode(version).unwrap()
                }
                Procedure::TestRes => {
                    let stat = TestRes::decode(version, call.args).unwrap().reply.stat();
                    let _ = tell.send(Heard::Answer { from, procedure: call.procedure, stat });
                    Vec::new()
                }
                _ => {
                    let stat = Res::decode(version, call.args).unwrap().stat;
                    let _ = tell.send(Heard::Answer { from, procedure: call.procedure, stat });
                    Vec::new()
                }
            }
        }
        nsm::PROGRAM => {
            let nsm::NotifyArgs { mon_name, state } = decode(call.args).unwrap();
            let _ = tell.send(Heard::Notified { from, name: mon_name.to_string(), state });
            Vec::new()
        }
        _ => return None,
    };
    Some(rpc::reply(call.xid, &rpc::Answer::Success(results)))
}

/// This host's rpcbind, version 2 over UDP on a port of its own.
pub(crate) struct Rpcbind {
    pub(crate) port: u16,
    pub(crate) entries: Arc<std::sync::Mutex<Vec<rpcbind::Mapping>>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Rpcbind {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Its socket is closed when this returns.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Rpcbind {
    pub(crate) fn start(entries: Vec<rpcbind::Mapping>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let entries = Arc::new(std::sync::Mutex::new(entries));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (entries.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut buffer = vec![0; 65_536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let call = rpc::parse_call(&buffer[..len]).unwrap();
                let answer = if call.version == rpcbind::V2 {
                    rpc::Answer::Success(bind_call(&call, &mut shared.lock().unwrap()))
                } else {
                    rpc::Answer::ProgMismatch { low: rpcbind::V2, high: rpcbind::V2 }
                };
                socket.send_to(&rpc::reply(call.xid, &answer), from).unwrap();
            }
        });
        Self { port, entries, over, thread: Some(thread) }
    }
}

fn bind_call(call: &rpc::IncomingCall<'_>, entries: &mut Vec<rpcbind::Mapping>) -> Vec<u8> {
    let procedure = rpcbind::Procedure::from_number(call.procedure).unwrap();
    if procedure == rpcbind::Procedure::Dump {
        return encode(&rpcbind::Chain(entries.clone()));
    }
    let wanted: rpcbind::Mapping = decode(call.args).unwrap();
    let program = |entry: &rpcbind::Mapping| (entry.program, entry.version) == (wanted.program, wanted.version);
    let same = |entry: &rpcbind::Mapping| program(entry) && entry.protocol == wanted.protocol;
    match procedure {
        rpcbind::Procedure::Set => {
            let found = entries.iter().find(|entry| same(entry));
            let done = found.is_none_or(|entry| entry.port == wanted.port);
            if found.is_none() {
                entries.push(wanted);
            }
            encode(&done)
        }
        rpcbind::Procedure::Unset => {
            let before = entries.len();
            entries.retain(|entry| !program(entry));
            encode(&(entries.len() < before))
        }
        _ => encode(&entries.iter().find(|entry| same(entry)).map_or(0, |entry| entry.port)),
    }
}
