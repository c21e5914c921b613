//! nlmd on the wire, measured: `cargo bench --bench wire [-- [tcp-1x1|tcp-1x64|tcp-64x1|udp-1x1|udp-1x64|null-1x64]...]`.
//!
//! LOCK and UNLOCK over loopback, with one thread that serves and one that loads. Beside each figure stands that of a
//! *floor* in the same run: a server that answers GRANTED to everything and knows nothing. BENCHMARKS.md says what each
//! column means.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench may")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "figures for people")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nlmctl::lockd::embed::Embedding;
use nlmctl::lockd::{Server, Settings};
use nlmctl::wire::nlm::{self, Lock, LockArgs, Message, Procedure, UnlockArgs, Version};
use nlmctl::wire::record::{RecordReader, append_framed};
use nlmctl::wire::rpc::{self, Answer, Credential};
use nlmctl::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_secs(1);
const LOST: Duration = Duration::from_secs(5);
const READ_SIZE: usize = 64 << 10;

/// Name, connections, calls in flight on each.
const PARTS: [(&str, usize, usize); 6] = [
    ("tcp-1x1", 1, 1),
    ("tcp-1x64", 1, 64),
    ("tcp-64x1", 64, 1),
    ("udp-1x1", 1, 1),
    ("udp-1x64", 1, 64),
    ("null-1x64", 1, 64),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path().join("state"), folder.path().join("control.sock"));
    settings.listen = vec!["127.0.0.1".parse().unwrap()];
    settings.names = vec![CallerName::new("bench.example.org").unwrap()];
    settings.register = false;
    let nlmd = Peer::start("nlmd", move |ports| async move {
        let server = Server::start(settings, Embedding::default()).await.unwrap();
        ports.send((server.ports().nlm_tcp, server.ports().nlm_udp)).unwrap();
        server.serve_until(std::future::pending()).await.unwrap();
    });
    let floor = Peer::start("floor", floor);
    for (part, connections, in_flight) in PARTS {
        if words.is_empty() || words.iter().any(|word| word == part) {
            let [nlmd, floor] = measure([&nlmd, &floor], part, connections, in_flight);
            println!(
                "{part:10} {:9.0}/s  floor {:9.0}/s  1/{:<5.1} cpu {:5.1} us, floor {:4.1} us  p99 {:6.0} us, floor {:5.0} us",
                nlmd.rate,
                floor.rate,
                floor.rate / nlmd.rate,
                nlmd.cpu,
                floor.cpu,
                nlmd.p99,
                floor.p99,
            );
        }
    }
}

// --- servers

/// A server, on one thread of this process.
struct Peer {
    tcp: SocketAddr,
    udp: SocketAddr,
    thread: i32,
}

impl Peer {
    fn start<F: Future<Output = ()>>(
        name: &str,
        serve: impl FnOnce(mpsc::Sender<(u16, u16)>) -> F + Send + 'static,
    ) -> Self {
        let (ports, opened) = mpsc::channel();
        let (tell, thread) = mpsc::channel();
        let run = move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            runtime().block_on(serve(ports));
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
        let (tcp, udp) = opened.recv().unwrap();
        let [tcp, udp] = [tcp, udp].map(|port| SocketAddr::new("127.0.0.1".parse().unwrap(), port));
        Self { tcp, udp, thread: thread.recv().unwrap() }
    }

    /// Processor time that its thread has used.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn floor(ports: mpsc::Sender<(u16, u16)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    ports.send((listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        let mut datagram = vec![0; READ_SIZE];
        loop {
            let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
            socket.send_to(&granted(&datagram[..len]), from).await.unwrap();
        }
    });
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let (mut records, mut replies) = (RecordReader::new(READ_SIZE), Vec::new());
            while stream.read_buf(records.room(READ_SIZE)).await.is_ok_and(|read| read > 0) {
                replies.clear();
                while let Some(call) = records.next().unwrap() {
                    append_framed(&mut replies, &granted(&call));
                }
                stream.write_all(&replies).await.unwrap();
            }
        });
    }
}

/// A reply with the call's xid. It is as long as that to a LOCK, and ends with GRANTED.
fn granted(call: &[u8]) -> Vec<u8> {
    let xid = u32::from_be_bytes(call[..4].try_into().unwrap());
    rpc::reply(xid, &Answer::Success(vec![0; 16]))
}

// --- load

/// What a client calls in turns, and when it did last.
struct Slot {
    calls: [Vec<u8>; 2],
    number: u32,
    count: u32,
    sent: Instant,
}

impl Slot {
    fn new(number: usize, part: &str) -> Self {
        let name = CallerName::new("load.example.org").unwrap();
        let file = FileHandle::new(format!("{:032}", number % 16).as_bytes()).unwrap();
        let oh = OwnerHandle::new(format!("{number}@load").as_bytes()).unwrap();
        let start = number as u64 * 4096;
        let range = ByteRange { start, end: start + 99 };
        let alock = Lock::new(name, file, oh, Svid(i32::try_from(number).unwrap() + 1), range);
        let cookie = Cookie::new(b"12345678").unwrap();
        let unlock = UnlockArgs { cookie: cookie.clone(), alock: alock.clone() };
        let lock = LockArgs { cookie, block: false, exclusive: true, alock, reclaim: false, state: NsmState(3) };
        let (lock, unlock) = (lock.encode(Version::V4).unwrap(), unlock.encode(Version::V4).unwrap());
        let calls = if part.starts_with("null") {
            [(Procedure::Null, Vec::new()), (Procedure::Null, Vec::new())]
        } else {
            [(Procedure::Lock, lock), (Procedure::Unlock, unlock)]
        };
        let credential = Credential::root("load");
        let message = |(procedure, args): (Procedure, Vec<u8>)| {
            rpc::call(0, nlm::PROGRAM, 4, procedure.number(), &credential, &args)
        };
        Self { calls: calls.map(message), number: number as u32, count: 0, sent: Instant::now() }
    }

    /// The next call, with an xid of its own.
    fn next(&mut self) -> &[u8] {
        let call = &mut self.calls[self.count as usize % 2];
        call[..4].copy_from_slice(&(self.count << 8 | self.number).to_be_bytes());
        self.count = self.count.wrapping_add(1);
        self.sent = Instant::now();
        call
    }
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<f64>,
}

impl Seen {
    /// Takes a reply. Returns which of `slots` (of which the first has this number) may call again.
    fn reply(&mut self, slots: &[Slot], reply: &[u8]) -> usize {
        assert!(reply.ends_with(&[0; 4]), "not granted: {reply:?}");
        let slot = usize::from(reply[3]) - slots[0].number as usize;
        self.latencies.push(slots[slot].sent.elapsed().as_secs_f64() * 1e6);
        slot
    }
}

async fn tcp(to: SocketAddr, mut slots: Vec<Slot>, time: Duration) -> (Vec<Slot>, Seen) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut records, mut calls, mut seen) = (RecordReader::new(READ_SIZE), Vec::new(), Seen::default());
    let until = Instant::now() + time;
    let mut open = slots.len();
    for slot in &mut slots {
        append_framed(&mut calls, slot.next());
    }
    while open > 0 {
        stream.write_all(&calls).await.unwrap();
        calls.clear();
        timeout(LOST, stream.read_buf(records.room(READ_SIZE))).await.unwrap().unwrap();
        while let Some(reply) = records.next().unwrap() {
            let slot = seen.reply(&slots, &reply);
            // Whole pairs, so that no lock stays.
            if Instant::now() < until || slots[slot].count % 2 == 1 {
                append_framed(&mut calls, slots[slot].next());
            } else {
                open -= 1;
            }
        }
    }
    (slots, seen)
}

async fn udp(to: SocketAddr, mut slots: Vec<Slot>, time: Duration) -> (Vec<Slot>, Seen) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    let (mut reply, mut seen) = (vec![0; READ_SIZE], Seen::default());
    let until = Instant::now() + time;
    let mut open = slots.len();
    for slot in &mut slots {
        socket.send(slot.next()).await.unwrap();
    }
    while open > 0 {
        let len = timeout(LOST, socket.recv(&mut reply)).await.unwrap().unwrap();
        let slot = seen.reply(&slots, &reply[..len]);
        if Instant::now() < until || slots[slot].count % 2 == 1 {
            socket.send(slots[slot].next()).await.unwrap();
        } else {
            open -= 1;
        }
    }
    (slots, seen)
}

// --- figures

/// Of the median round.
#[derive(Clone, Copy)]
struct Figures {
    /// Pairs a second (of NULL, calls).
    rate: f64,
    /// The serving thread's processor time for one of them, in microseconds.
    cpu: f64,
    /// Of a call, in microseconds.
    p99: f64,
}

fn measure(peers: [&Peer; 2], part: &str, connections: usize, in_flight: usize) -> [Figures; 2] {
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (peer, rounds) in peers.iter().zip(&mut rounds) {
            rounds.push(round(peer, part, connections, in_flight));
        }
    }
    rounds.map(|mut rounds| {
        rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        rounds[ROUNDS / 2]
    })
}

fn round(peer: &Peer, part: &str, connections: usize, in_flight: usize) -> Figures {
    runtime().block_on(async {
        let slots = (0..connections * in_flight).map(|number| Slot::new(number, part)).collect();
        let (slots, _) = load(peer, part, slots, in_flight, WARM_UP).await;
        let (begun, cpu) = (Instant::now(), peer.cpu());
        let (_, mut latencies) = load(peer, part, slots, in_flight, MEASURED).await;
        let (elapsed, cpu) = (begun.elapsed(), peer.cpu().saturating_sub(cpu));
        let done = latencies.len() as f64 / if part.starts_with("null") { 1.0 } else { 2.0 };
        latencies.sort_by(f64::total_cmp);
        let p99 = latencies[latencies.len() * 99 / 100];
        Figures { rate: done / elapsed.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / done, p99 }
    })
}

async fn load(peer: &Peer, part: &str, slots: Vec<Slot>, in_flight: usize, time: Duration) -> (Vec<Slot>, Vec<f64>) {
    let mut slots = slots.into_iter();
    let mut connections = Vec::new();
    loop {
        let of_one: Vec<Slot> = slots.by_ref().take(in_flight).collect();
        if of_one.is_empty() {
            break;
        }
        connections.push(if part.starts_with("udp") {
            tokio::spawn(udp(peer.udp, of_one, time))
        } else {
            tokio::spawn(tcp(peer.tcp, of_one, time))
        });
    }
    let (mut slots, mut latencies) = (Vec::new(), Vec::new());
    for connection in connections {
        let (of_one, seen) = connection.await.unwrap();
        slots.extend(of_one);
        latencies.extend(seen.latencies);
    }
    (slots, latencies)
}
