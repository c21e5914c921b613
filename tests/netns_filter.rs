//! The interposer's filter between two hosts, each a network namespace: real packets, the real queue, and a lock service that
//! notes what it gets.
#![cfg(test)]

mod netns;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use netns::{LIMIT, Netns, add_address, await_some, cable, link, until};
use nlmctl::internals::interposer::{Call, Claim, FilterEvent, Mode, Order, Treated, Way};
use nlmctl::internals::interposer::{Port, Ports, Rules};
use nlmctl::wire::nlm::{self, Lock, LockArgs, Message, Procedure, Res, Stat, Version};
use nlmctl::wire::record::{RecordReader, frame};
use nlmctl::wire::rpc::{self, Answer, Credential};
use nlmctl::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use nlmctl::wire::xdr::{decode, encode};

const PORT: u16 = 4045;
/// The only one that every kernel's rules reach.
const QUEUE: u16 = 0;
const SERVER: &str = "10.9.0.1";
const SERVER_SIX: &str = "fd00:9::1";
const LOOPBACK: &str = "127.0.0.1";
/// No test comes near it.
const LONG: Duration = Duration::from_mins(5);

/// What the lock service got of a call: its xid, `reclaim` and `block`.
type Got = (u32, bool, bool);

/// A lock service that grants all; it ends with its host.
#[derive(Debug, Clone, Default)]
struct Service(Arc<Mutex<Vec<Got>>>);

impl Service {
    fn start(host: &Netns) -> Self {
        let service = Self::default();
        host.inside(|| {
            let tcp = TcpListener::bind(("::", PORT)).unwrap();
            let udp = UdpSocket::bind(("::", PORT)).unwrap();
            let (for_tcp, for_udp) = (service.clone(), service.clone());
            thread::spawn(move || {
                for stream in tcp.incoming() {
                    let (stream, service) = (stream.unwrap(), for_tcp.clone());
                    thread::spawn(move || service.serve(stream));
                }
            });
            thread::spawn(move || {
                let mut buffer = [0; 9000];
                while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                    udp.send_to(&for_udp.answer(&buffer[..len]), from).unwrap();
                }
            });
        });
        service
    }

    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let (mut reader, mut buffer) = (RecordReader::new(9000), vec![0; 64 << 10]);
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            reader.push(&buffer[..len]);
            let mut answers = Vec::new();
            while let Ok(Some(record)) = reader.next() {
                answers.extend(frame(&self.answer(&record)));
            }
            if stream.write_all(&answers).is_err() {
                break;
            }
        }
    }

    fn answer(&self, message: &[u8]) -> Vec<u8> {
        let call = rpc::parse_call(message).unwrap();
        if call.procedure == 0 {
            return rpc::reply(call.xid, &Answer::Success(Vec::new()));
        }
        let args = LockArgs::decode(Version::from_number(call.version).unwrap(), call.args).unwrap();
        self.0.lock().unwrap().push((call.xid, args.reclaim, args.block));
        rpc::reply(call.xid, &Answer::Success(encode(&Res { cookie: args.cookie, stat: Stat::Granted })))
    }

    fn got(&self) -> Vec<Got> {
        self.0.lock().unwrap().clone()
    }
}

/// A filter process, with what it has told.
struct Filter {
    child: Child,
    line: UnixStream,
    told: Arc<Mutex<Vec<FilterEvent>>>,
    answers: u64,
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Filter {
    /// One that is at work in this mode, before a lockd of files.
    fn start(host: &Netns, root: &Path, mode: Mode) -> Self {
        let mut filter = Self::without_mode(host, root);
        filter.order(&Order::Mode(mode));
        filter.told();
        filter
    }

    /// One that has its queue, and was told nothing.
    fn without_mode(host: &Netns, root: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
        command.arg("knfsd-filter").arg(QUEUE.to_string()).arg(root).stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = host.inside(|| command.spawn().unwrap());
        // Its end of the line is the child's alone.
        drop(command);
        let told = Arc::new(Mutex::new(Vec::new()));
        let (mut line, all) = (ours.try_clone().unwrap(), told.clone());
        thread::spawn(move || {
            let (mut reader, mut buffer) = (RecordReader::new(16 << 10), vec![0; 64 << 10]);
            while let Ok(len @ 1..) = line.read(&mut buffer) {
                reader.push(&buffer[..len]);
                while let Ok(Some(record)) = reader.next() {
                    all.lock().unwrap().push(decode(&record).unwrap());
                }
            }
        });
        let mut filter = Self { child, line: ours, told, answers: 0 };
        filter.told();
        filter
    }

    fn order(&mut self, order: &Order) {
        self.line.write_all(&frame(&encode(order))).unwrap();
    }

    /// All that it told before now.
    fn told(&mut self) -> Vec<FilterEvent> {
        self.answers += 1;
        self.order(&Order::Answer(self.answers));
        let wanted = FilterEvent::Obeyed(self.answers);
        until("the filter obeys", || self.told.lock().unwrap().contains(&wanted));
        self.told.lock().unwrap().clone()
    }
    fn calls(&mut self) -> Vec<Call> {
        let call = |told| if let FilterEvent::Call(call) = told { Some(call) } else { None };
        self.told().into_iter().filter_map(call).collect()
    }
    /// By the number of its call.
    fn replies(&mut self) -> HashMap<u64, Stat> {
        let reply = |told| if let FilterEvent::Reply(reply) = told { Some((reply.call, reply.stat)) } else { None };
        self.told().into_iter().filter_map(reply).collect()
    }
    fn blinds(&mut self) -> usize {
        self.told().iter().filter(|told| matches!(told, FilterEvent::Blind(_))).count()
    }
}

/// A server with rules, a client beside it, and a machine of files with a lockd.
struct World {
    server: Netns,
    client: Netns,
    service: Service,
    root: tempfile::TempDir,
    rules: Option<Rules>,
}

impl World {
    fn new() -> Self {
        let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
        link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
        add_address(&server, &cable(&server), "fd00:9::1/64");
        add_address(&client, &cable(&client), "fd00:9::2/64");
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/187/comm", "lockd\n"),
            ("proc/187/status", "Name:\tlockd\n"),
            ("proc/187/stat", "187 (lockd) S 2 0 0 0 -1 2097216 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0"),
            ("proc/fs/lockd/nlm_end_grace", "Y\n"),
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let service = Service::start(&server);
        Self { server, client, service, root, rules: None }
    }

    fn with_rules() -> Self {
        let mut world = Self::new();
        world.install_rules();
        world
    }

    fn install_rules(&mut self) {
        let all = [(false, Transport::Udp), (false, Transport::Tcp), (true, Transport::Udp), (true, Transport::Tcp)];
        let ports: Ports = all.map(|(ipv6, transport)| Port { ipv6, transport, number: PORT }).into();
        self.rules = Some(self.server.inside(|| Rules::install(&ports, QUEUE, LONG).unwrap()));
    }

    /// Waits until lockd has its end of a connection, or has it no more.
    fn await_connection(&self, is_there: bool) {
        let list = || self.server.run("ss", &["-tnH", "state", "established"]);
        until("lockd's end of a connection comes or goes", || list().contains(&format!(":{PORT}")) == is_there);
    }

    /// Waits until the kernel has given this many packets to the queue of the filter that is bound.
    fn await_queued(&self, packets: u64) {
        // Columns: queue, process, packets that wait, mode, range, dropped by the queue, by the process, sequence.
        let queued = || self.server.run("cat", &["/proc/net/netfilter/nfnetlink_queue"]);
        let count = || queued().split_whitespace().nth(7).and_then(|word| word.parse::<u64>().ok());
        until("packets are queued", || count().is_some_and(|count| count >= packets));
    }

    fn filter(&self, mode: Mode) -> Filter {
        Filter::start(&self.server, self.root.path(), mode)
    }

    /// The host from which an address is called: loopback is the server's own.
    fn caller(&self, server: &str) -> &Netns {
        if server == LOOPBACK { &self.server } else { &self.client }
    }

    fn connect(&self, server: &str) -> TcpStream {
        let address = SocketAddr::new(server.parse().unwrap(), PORT);
        let stream = self.caller(server).inside(|| TcpStream::connect_timeout(&address, LIMIT).unwrap());
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }
}

fn address(text: &str) -> Address {
    Address(text.parse().unwrap())
}

fn args(reclaim: bool) -> LockArgs {
    let (fh, oh) = (FileHandle::new(&[7; 32]).unwrap(), OwnerHandle::new(b"1@client").unwrap());
    LockArgs {
        cookie: Cookie::new(b"cookie").unwrap(),
        block: true,
        exclusive: true,
        alock: Lock::new(CallerName::new("client.test").unwrap(), fh, oh, Svid(1), ByteRange::ALL),
        reclaim,
        state: NsmState(3),
    }
}

fn lock(xid: u32, reclaim: bool) -> Vec<u8> {
    let args = args(reclaim).encode(Version::V4).unwrap();
    rpc::call(xid, nlm::PROGRAM, 4, Procedure::Lock.number(), &Credential::root("client.test"), &args)
}

/// Reads so many replies of a stream.
fn read_replies(stream: &mut TcpStream, count: usize) -> Vec<u32> {
    let (mut reader, mut buffer, mut xids) = (RecordReader::new(9000), vec![0; 64 << 10], Vec::new());
    while xids.len() < count {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "the connection ended after {} replies", xids.len());
        reader.push(&buffer[..len]);
        while let Some(record) = reader.next().unwrap() {
            xids.push(rpc::parse_reply(&record).unwrap().xid);
        }
    }
    xids
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn calls_reach_lockd_changed_and_are_told_with_their_replies_over_each_transport_and_family() {
    let world = World::with_rules();
    let mut filter = world.filter(Mode::Strict);
    let mut xid = 0;
    for server in [SERVER, SERVER_SIX, LOOPBACK] {
        let mut stream = world.connect(server);
        for reclaim in [false, true] {
            xid += 1;
            stream.write_all(&frame(&lock(xid, reclaim))).unwrap();
            assert_eq!(read_replies(&mut stream, 1), [xid]);
        }
        let any = if server == SERVER_SIX { "[::]:0" } else { "0.0.0.0:0" };
        let socket = world.caller(server).inside(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        for reclaim in [false, true] {
            xid += 1;
            socket.send_to(&lock(xid, reclaim), (server, PORT)).unwrap();
            let mut buffer = [0; 100];
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!(rpc::parse_reply(&buffer[..len]).unwrap().xid, xid);
        }
    }
    let wanted: Vec<Got> = (1..=12).map(|xid| (xid, xid % 2 == 1, xid % 2 == 1)).collect();
    assert_eq!(world.service.got(), wanted);
    let calls = filter.calls();
    let told: Vec<_> =
        calls.iter().map(|call| (call.way.transport, call.way.client.0.is_ipv4(), call.treated)).collect();
    let both = |(four, transport)| [(transport, four, Treated::Refused), (transport, four, Treated::Taken)];
    let pairs = [true, false, true].map(|four| [(four, Transport::Tcp), (four, Transport::Udp)]).concat();
    assert_eq!(told, pairs.into_iter().flat_map(both).collect::<Vec<_>>());
    let replies = filter.replies();
    assert!(calls.iter().all(|call| replies.get(&call.number) == Some(&Stat::Granted)), "{replies:?}");
    assert_eq!(filter.blinds(), 0, "{:?}", filter.told());
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn thousands_of_calls_written_at_once_arrive_in_their_order_each_changed() {
    const CALLS: u32 = 3000;
    let world = World::with_rules();
    let mut filter = world.filter(Mode::Strict);
    let mut stream = world.connect(SERVER);
    let all: Vec<u8> = (0..CALLS).flat_map(|xid| frame(&lock(xid, xid % 3 == 0))).collect();
    let mut writer = stream.try_clone().unwrap();
    let writes = thread::spawn(move || writer.write_all(&all).unwrap());
    assert_eq!(read_replies(&mut stream, CALLS as usize), (0..CALLS).collect::<Vec<_>>());
    writes.join().unwrap();
    let wanted: Vec<Got> = (0..CALLS).map(|xid| (xid, xid % 3 != 0, xid % 3 != 0)).collect();
    assert_eq!(world.service.got(), wanted);
    assert_eq!((filter.calls().len(), filter.replies().len(), filter.blinds()), (3000, 3000, 0));
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn without_a_filter_calls_wait_and_the_next_filter_takes_them_up_on_a_connection_that_was_open_before() {
    let world = World::with_rules();
    let filter = world.filter(Mode::Strict);
    let mut stream = world.connect(SERVER);
    stream.write_all(&frame(&lock(1, true))).unwrap();
    assert_eq!(read_replies(&mut stream, 1), [1]);
    drop(filter);
    stream.write_all(&frame(&lock(2, true))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let error = stream.read(&mut [0; 9]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    let mut filter = world.filter(Mode::Strict);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(read_replies(&mut stream, 1), [2]);
    assert_eq!(world.service.got(), [(1, false, false), (2, false, false)]);
    assert_eq!((filter.calls().len(), filter.replies().len()), (1, 1), "{:?}", filter.told());
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn a_filter_lets_nothing_pass_until_it_is_told_the_mode_also_where_a_thousand_pending_locks_come_first() {
    let world = World::with_rules();
    let socket = world.client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut filter = Filter::without_mode(&world.server, world.root.path());
    socket.send_to(&lock(1, true), (SERVER, PORT)).unwrap();
    world.await_queued(1);
    let LockArgs { alock, exclusive, .. } = args(true);
    let way = Way { client: address("10.9.0.2"), server: address(SERVER), version: 4, transport: Transport::Udp };
    for svid in 0..1000 {
        let (svid, file) = (Svid(svid), alock.fh.clone());
        filter.order(&Order::Pending(Claim { way, svid, file, range: ByteRange::ALL, exclusive }));
    }
    assert_eq!((filter.calls(), world.service.got()), (vec![], vec![]));
    filter.order(&Order::Mode(Mode::Targeted));
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(rpc::parse_reply(&buffer[..len]).unwrap().xid, 1);
    assert_eq!(world.service.got(), [(1, false, false)]);
    assert_eq!(filter.calls().iter().map(|call| call.treated).collect::<Vec<_>>(), [Treated::Taken]);
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn an_order_to_answer_is_answered_when_what_had_come_before_it_is_told() {
    let world = World::with_rules();
    let mut filter = world.filter(Mode::Strict);
    let child = Pid::from_raw(filter.child.id().try_into().unwrap());
    kill(child, Signal::SIGSTOP).unwrap();
    let socket = world.client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.send_to(&lock(1, true), (SERVER, PORT)).unwrap();
    world.await_queued(1);
    filter.order(&Order::Hold(address("10.9.0.2")));
    filter.order(&Order::Answer(77));
    kill(child, Signal::SIGCONT).unwrap();
    let told = filter.told();
    let place = |wanted: FilterEvent| told.iter().position(|told| *told == wanted).unwrap();
    assert!(place(FilterEvent::Reclaims(address("10.9.0.2"))) < place(FilterEvent::Obeyed(77)), "{told:?}");
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn a_filter_that_was_told_no_mode_lets_all_pass_once_lockd_is_in_grace_itself() {
    let world = World::with_rules();
    let socket = world.client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let _filter = Filter::without_mode(&world.server, world.root.path());
    socket.send_to(&lock(1, true), (SERVER, PORT)).unwrap();
    world.await_queued(1);
    std::fs::write(world.root.path().join("proc/fs/lockd/nlm_end_grace"), "N\n").unwrap();
    socket.recv(&mut [0; 100]).unwrap();
    assert_eq!(world.service.got(), [(1, true, true)]);
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn a_connection_that_stands_in_the_middle_of_a_call_is_reset_at_both_ends_and_nothing_of_it_passes() {
    let mut world = World::new();
    let mut stream = world.connect(SERVER);
    let call = frame(&lock(1, true));
    stream.write_all(&call[..100]).unwrap();
    world.await_connection(true);
    world.install_rules();
    let mut filter = world.filter(Mode::Strict);
    stream.write_all(&call[100..]).unwrap();
    let error = stream.read(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    world.await_connection(false);
    assert_eq!((world.service.got().len(), filter.calls().len(), filter.blinds()), (0, 0, 1), "{:?}", filter.told());
    let mut stream = world.connect(SERVER);
    stream.write_all(&call).unwrap();
    assert_eq!(read_replies(&mut stream, 1), [1]);
    assert_eq!(world.service.got(), [(1, false, false)]);
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn when_lockd_is_in_grace_itself_or_has_ended_all_passes_unchanged() {
    for (file, text) in [("proc/fs/lockd/nlm_end_grace", "N\n"), ("proc/187/stat", "")] {
        let world = World::with_rules();
        let mut filter = world.filter(Mode::Strict);
        let mut stream = world.connect(SERVER);
        stream.write_all(&frame(&lock(1, true))).unwrap();
        assert_eq!(read_replies(&mut stream, 1), [1]);
        std::fs::write(world.root.path().join(file), text).unwrap();
        until("the filter sees it", || filter.told().iter().any(|told| matches!(told, FilterEvent::Superseded(_))));
        stream.write_all(&frame(&lock(2, true))).unwrap();
        assert_eq!(read_replies(&mut stream, 1), [2]);
        assert_eq!(world.service.got(), [(1, false, false), (2, true, true)]);
    }
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn a_filter_ends_with_its_line_and_says_why_it_cannot_have_a_queue_that_is_taken() {
    let world = World::new();
    let mut filter = world.filter(Mode::Off);
    let second =
        world.server.try_run(env!("CARGO_BIN_EXE_nlmctl"), &["knfsd-filter", "0", world.root.path().to_str().unwrap()]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("cannot take queue 0"), "{second:?}");
    filter.line.shutdown(std::net::Shutdown::Both).unwrap();
    let status = await_some("the filter ends", || filter.child.try_wait().unwrap());
    assert!(status.success());
}

/// How many calls a second a client gets answered that has so many on their way.
fn rate(world: &World, on_their_way: usize) -> f64 {
    const ROUNDS: usize = 400;
    let mut stream = world.connect(SERVER);
    let calls: Vec<u8> = (0..on_their_way).flat_map(|_| frame(&lock(9, false))).collect();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        stream.write_all(&calls).unwrap();
        read_replies(&mut stream, on_their_way);
    }
    f64::from(u32::try_from(ROUNDS * on_their_way).unwrap()) / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE, and prints figures: .ci/run runs it"]
fn what_the_filter_costs() {
    let mut world = World::new();
    let without = [1, 16].map(|calls| rate(&world, calls));
    world.install_rules();
    let mut filter = world.filter(Mode::Strict);
    let with = [1, 16].map(|calls| rate(&world, calls));
    eprintln!("LOCKs/s over TCP, one and 16 on their way: {without:.0?} without, {with:.0?} through the queue");
    assert_eq!(filter.blinds(), 0);
}

#[test]
#[ignore = "needs root, nf_tables and NFQUEUE: .ci/run runs it"]
fn packets_that_the_full_queue_loses_are_told() {
    let world = World::with_rules();
    let queues = world.root.path().join("proc/net/netfilter/nfnetlink_queue");
    std::fs::create_dir_all(queues.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/proc/net/netfilter/nfnetlink_queue", queues).unwrap();
    let mut filter = world.filter(Mode::Strict);
    let is_lost = |told: &[FilterEvent]| told.contains(&FilterEvent::Lost);
    assert!(!is_lost(&filter.told()));
    let child = Pid::from_raw(filter.child.id().try_into().unwrap());
    kill(child, Signal::SIGSTOP).unwrap();
    let socket = world.client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for xid in 0..20_000 {
        socket.send_to(&lock(xid, true), (SERVER, PORT)).unwrap();
    }
    kill(child, Signal::SIGCONT).unwrap();
    assert!(is_lost(&filter.told()), "what came until now is told before an order is obeyed");
}
