//! A daemon in a temporary folder, a raw RPC client, and fake client hosts in 127.0.0.0/8.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nlmctl::wire::control::{self, Refusal, Response};
use nlmctl::wire::nlm::{
    self, CancArgs, Lock, LockArgs, Message, Procedure, Res, ShareArgs, ShareBits, ShareRes, Stat, TestArgs, TestRes,
    UnlockArgs, Version,
};
use nlmctl::wire::record::{RecordReader, frame};
use nlmctl::wire::rpc::{self, Credential, RpcError};
use nlmctl::wire::types::{CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};
use nlmctl::wire::xdr::{Pack, Unpack, decode, encode};
use nlmctl::wire::{nsm, rpcbind};

/// Nothing here takes longer, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static NEXT_XID: AtomicU32 = AtomicU32::new(1000);

pub(crate) fn next_xid() -> u32 {
    NEXT_XID.fetch_add(1, Ordering::Relaxed)
}

/// Waits until `found` gives something.
pub(crate) fn await_some<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) nlm_udp: u16,
    pub(crate) nlm_tcp: u16,
    pub(crate) nsm_udp: u16,
    pub(crate) nsm_tcp: u16,
    pub(crate) control: PathBuf,
    folder: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

impl Daemon {
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
        let folder = folder.path().to_path_buf();
        let (ports, log, control) = (folder.join("ports"), folder.join("log"), folder.join("control.sock"));
        let _ = std::fs::remove_file(&ports);
        let log_file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        if !flags.contains(&"--config") {
            // Not that of an nlmd which is installed here.
            command.args(["--config", "/dev/null", "--name", "server.example.org", "--name", "server"]);
        }
        command.arg("--state-dir").arg(folder.join("state"));
        if !flags.contains(&"--control") {
            command.arg("--control").arg(&control);
        }
        command.arg("--ports-file").arg(&ports).args(flags);
        command.env("RUST_LOG", "debug").stderr(Stdio::from(log_file)).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let found = await_some("nlmd's ports", || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Err(status));
            }
            std::fs::read(&ports).ok().map(Ok)
        });
        let text = match found {
            Ok(text) => text,
            Err(status) => return Err((status, std::fs::read_to_string(&log).unwrap_or_default())),
        };
        let ports: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let port = |key: &str| u16::try_from(ports[key].as_u64().unwrap()).unwrap();
        Ok(Self {
            child,
            nlm_udp: port("nlm_udp"),
            nlm_tcp: port("nlm_tcp"),
            nsm_udp: port("nsm_udp"),
            nsm_tcp: port("nsm_tcp"),
            control,
            folder,
        })
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        await_some("nlmd's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A path to a server socket.
pub(crate) enum Wire {
    Udp { socket: UdpSocket, to: SocketAddr },
    Tcp { stream: TcpStream, records: RecordReader },
}

impl Wire {
    pub(crate) fn udp(from: &str, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        Self::Udp { socket, to }
    }
    pub(crate) fn tcp(from: &str, to: SocketAddr) -> Self {
        let from: SocketAddr = (from.parse::<IpAddr>().unwrap(), 0).into();
        let domain = socket2::Domain::for_address(from);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        Self::Tcp { stream: socket.into(), records: RecordReader::new(1 << 20) }
    }

    /// Sends a message and returns the first that comes back; `None` in silence.
    pub(crate) fn exchange(&mut self, message: &[u8], patience: Duration) -> Option<Vec<u8>> {
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

    pub(crate) fn call_as(
        &mut self,
        xid: u32,
        program: u32,
        version: u32,
        procedure: u32,
        args: &[u8],
    ) -> Result<Vec<u8>, RpcError> {
        let message = rpc::call(xid, program, version, procedure, &Credential::None, args);
        let answer = self.exchange(&message, PATIENCE).expect("an answer");
        let reply = rpc::parse_reply(&answer).unwrap();
        assert_eq!(reply.xid, xid);
        reply.outcome.map(<[u8]>::to_vec)
    }

    pub(crate) fn call(
        &mut self,
        program: u32,
        version: u32,
        procedure: u32,
        args: &[u8],
    ) -> Result<Vec<u8>, RpcError> {
        self.call_as(next_xid(), program, version, procedure, args)
    }
}

fn read_record(stream: &mut impl Read, records: &mut RecordReader) -> Option<Vec<u8>> {
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
pub(crate) struct Want {
    pub(crate) file: &'static str,
    pub(crate) svid: i32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) exclusive: bool,
    pub(crate) block: bool,
    pub(crate) reclaim: bool,
    pub(crate) state: i32,
}

pub(crate) fn want(file: &'static str) -> Want {
    Want { file, svid: 1, offset: 0, len: 100, exclusive: true, block: false, reclaim: false, state: 3 }
}

/// An NLM client of one name, on one path, in one version.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) version: Version,
    pub(crate) name: &'static str,
}

impl Client {
    pub(crate) fn new(wire: Wire, version: Version, name: &'static str) -> Self {
        Self { wire, version, name }
    }
    /// Version 4 over UDP from `from` to 127.0.0.1.
    pub(crate) fn v4(daemon: &Daemon, from: &str, name: &'static str) -> Self {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), daemon.nlm_udp);
        Self::new(Wire::udp(from, to), Version::V4, name)
    }

    pub(crate) fn lock_of(&self, want: &Want) -> Lock {
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
    pub(crate) fn args(&self, procedure: Procedure, want: &Want) -> Vec<u8> {
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

    pub(crate) fn raw(&mut self, xid: u32, procedure: Procedure, want: &Want) -> Result<Vec<u8>, RpcError> {
        let args = self.args(procedure, want);
        self.wire.call_as(xid, nlm::PROGRAM, self.version.number(), procedure.number(), &args)
    }

    /// The status of a call with this xid.
    pub(crate) fn stat_as(&mut self, xid: u32, procedure: Procedure, want: &Want) -> Stat {
        let results = self.raw(xid, procedure, want).unwrap();
        match procedure {
            Procedure::Test => TestRes::decode(self.version, &results).unwrap().reply.stat(),
            Procedure::Share | Procedure::Unshare => ShareRes::decode(self.version, &results).unwrap().stat,
            Procedure::FreeAll => {
                assert!(results.is_empty());
                Stat::Granted
            }
            _ => {
                let res = Res::decode(self.version, &results).unwrap();
                assert_eq!(res.cookie.as_slice(), b"cookie");
                res.stat
            }
        }
    }

    pub(crate) fn stat(&mut self, procedure: Procedure, want: &Want) -> Stat {
        self.stat_as(next_xid(), procedure, want)
    }
    pub(crate) fn lock(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Lock, want)
    }
    pub(crate) fn unlock(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Unlock, want)
    }
    pub(crate) fn test(&mut self, want: &Want) -> Stat {
        self.stat(Procedure::Test, want)
    }
}

/// SM_STAT's state number.
pub(crate) fn nsm_state(daemon: &Daemon) -> NsmState {
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
    pub(crate) fn open(daemon: &Daemon) -> Self {
        Self::at(&daemon.control)
    }
    pub(crate) fn at(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
        self.heard.recv_timeout(PATIENCE).expect("a call to the client's host")
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
