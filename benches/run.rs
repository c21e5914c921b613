//! A whole run, measured: `cargo bench --bench run [-- CLIENTS LOCKS]`.
//!
//! The real nlmd and nlmctl, each a process, and simulated clients in this one. The figures to compare are of the same run:
//! reclaims beside plain LOCKs of the same clients, and how long a client waits that the run is not about beside how long
//! it waits without a run. BENCHMARKS.md says what each line means.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a bench may")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nlmctl::internals::demo::{ClientNo, Farm, Lock, Server, ServerOptions};
use nlmctl::internals::manager::{LockManager, Nlmd};
use nlmctl::wire::nlm::Stat;
use nlmctl::wire::types::{ByteRange, CallerName, FileHandle, Svid};
use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

const SERVER: &str = "nlmd.demo";
/// Calls that the clients have under way at a time, as in a run.
const WORKERS: usize = 32;
const QUIET: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(2);
/// How long the client is measured that no run is about.
const ALONE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [clients, locks] = [0, 1].map(|place| numbers.get(place).copied());
    let (clients, locks) = (clients.unwrap_or(10_000), locks.unwrap_or(100));
    let mut stage = Stage::set(clients, locks).await;
    stage.fill().await;
    for record in ["changes", "all"] {
        stage.resync(record).await;
    }
    stage.beside(Beside::Resync).await;
    stage.beside(Beside::Locks).await;
    stage.server.stop().await.unwrap();
}

struct Stage {
    farm: Arc<Farm>,
    server: Server,
    clients: usize,
    locks: usize,
    /// Plain LOCKs a second.
    rate: f64,
}

fn client(number: usize) -> String {
    format!("client{number:05}.demo")
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + u32::try_from(number).unwrap())
}

/// Half of a client's locks are write locks on a file of its own, half read locks on one that it shares with seven others.
fn lock(who: usize, number: usize, shift: u64) -> Lock {
    let exclusive = number.is_multiple_of(2);
    let file = if exclusive { format!("own/{who:05}") } else { format!("common/{:05}", who / 8) };
    let start = number as u64 * 4096 + shift;
    Lock {
        file: FileHandle::new(file.as_bytes()).unwrap(),
        range: ByteRange { start, end: start + 1023 },
        exclusive,
        svid: Svid(i32::try_from(number).unwrap() + 1),
    }
}

impl Stage {
    async fn set(clients: usize, locks: usize) -> Self {
        let farm = Arc::new(Farm::open(&[CallerName::new(SERVER).unwrap()]).unwrap());
        let program = env!("CARGO_BIN_EXE_nlmd");
        let server = Server::start(ServerOptions::new(program, farm.rpcbind_port(), SERVER)).await.unwrap();
        farm.use_server(server.nlm());
        for n in 0..clients {
            farm.add(address(n), CallerName::new(&client(n)).unwrap());
        }
        println!("{clients} clients with {locks} locks each");
        Self { farm, server, clients, locks, rate: 0.0 }
    }

    /// Each client takes its locks, or, with a shift, others beside them.
    async fn lock_all(&self, shift: u64) -> Duration {
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (farm, next, clients, locks) = (Arc::clone(&self.farm), Arc::clone(&next), self.clients, self.locks);
            workers.spawn(async move {
                while let n = next.fetch_add(1, Ordering::Relaxed)
                    && n < clients
                {
                    for k in 0..locks {
                        assert_eq!(farm.lock(ClientNo(n), &lock(n, k, shift), false).await.unwrap(), Stat::Granted);
                    }
                }
            });
        }
        workers.join_all().await;
        began.elapsed()
    }

    async fn fill(&mut self) {
        let pid = self.server.pid().unwrap();
        let before = memory(pid, "VmRSS:");
        let all = (self.clients * self.locks) as f64;
        self.rate = all / self.lock_all(0).await.as_secs_f64();
        let each = (memory(pid, "VmRSS:") - before) * 1024.0 * 1024.0 / all;
        println!("{:<44} {:>9.0} /s", "LOCK", self.rate);
        println!("{:<44} {each:>9.0} B", "  memory of nlmd, for each lock");
    }

    fn nlmctl(&self, record: &str) -> Command {
        let mut nlmctl = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
        nlmctl.arg("--control").arg(self.server.control()).arg("--db").arg(self.server.dir().join("runs.db"));
        nlmctl.args(["--manager", "nlmd", "--rpcbind-port", &self.farm.rpcbind_port().to_string()]);
        nlmctl.args(["--json", "-q", "resync", "--yes", "--grace", "90s", "--record", record]);
        nlmctl.args(["--quiet-time", &format!("{}ms", QUIET.as_millis())]);
        nlmctl.stdout(Stdio::null());
        nlmctl
    }

    async fn resync(&self, record: &str) {
        let watch = Watch::start(Nlmd::new(self.server.control()));
        let began = Instant::now();
        assert!(self.nlmctl(record).status().await.unwrap().success());
        let took = began.elapsed();
        let seen = watch.seen().await;
        let reclaims = seen.reclaims as f64 / seen.reclaiming.as_secs_f64();
        println!("run with --record {record}");
        println!("{:<44} {reclaims:>9.0} /s  {:.2} of LOCK", "  reclaims", reclaims / self.rate);
        let late = seen.open.saturating_sub(QUIET).as_secs_f64() * 1e3;
        println!("{:<44} {late:>9.1} ms", "  grace beyond the quiet time");
        println!("{:<44} {:>9.1} ms", "  longest STATUS", seen.longest.as_secs_f64() * 1e3);
        println!("{:<44} {:>9.1} s", "  from nlmctl's start to its end", took.as_secs_f64());
        println!("{:<44} {:>9.0} MB", "  nlmd, at most until now", memory(self.server.pid().unwrap(), "VmHWM:"));
        let nlmctl = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        println!("{:<44} {:>9} MB", "  nlmctl, at most until now", nlmctl / 1024);
    }

    /// One client locks and unlocks, one call at a time: alone, then beside a run over a tenth of the others or as many
    /// LOCKs of all.
    async fn beside(&self, what: Beside) {
        let alone = self.bystander();
        sleep(ALONE).await;
        let alone = alone.stop().await;
        let during = self.bystander();
        match what {
            Beside::Resync => {
                let mut nlmctl = self.nlmctl("changes");
                nlmctl.args(["--mode", "targeted"]);
                for n in 0..self.clients.div_ceil(10) {
                    nlmctl.args(["--client", &client(n)]);
                }
                assert!(nlmctl.status().await.unwrap().success());
            }
            Beside::Locks => {
                self.lock_all(2048).await;
            }
        }
        let during = during.stop().await;
        let name = match what {
            Beside::Resync => "a client beside a run over a tenth of them",
            Beside::Locks => "a client beside as many plain LOCKs as locks",
        };
        let (p99, before) = (percentile(&during.took, 99), percentile(&alone.took, 99));
        println!(
            "{name:<44} {:>9.0} us p99, {before:.0} alone: {:.1} times; refused {}",
            p99,
            p99 / before,
            during.refused
        );
    }

    fn bystander(&self) -> Bystander {
        let (server, stop, n) = (self.server.nlm(), Arc::new(AtomicBool::new(false)), self.clients);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stand_by(server, n, &stopped))
        });
        Bystander { stop, thread }
    }
}

/// A client with a thread of its own, as it has a machine of its own: it must not wait for the others' work here.
async fn stand_by(server: SocketAddr, n: usize, stopped: &AtomicBool) -> Waited {
    let farm = Farm::open(&[CallerName::new(SERVER).unwrap()]).unwrap();
    farm.use_server(server);
    farm.add(address(n), CallerName::new(&client(n)).unwrap());
    let (me, held) = (ClientNo(0), lock(n, 0, 0));
    let (mut took, mut refused) = (Vec::new(), 0);
    while !stopped.load(Ordering::Relaxed) {
        let began = Instant::now();
        let stat = farm.lock(me, &held, false).await.unwrap();
        took.push(began.elapsed());
        refused += usize::from(stat != Stat::Granted);
        farm.unlock(me, &held).await.unwrap();
    }
    Waited { took, refused }
}

/// What runs beside the client that is measured.
#[derive(Clone, Copy)]
enum Beside {
    Resync,
    Locks,
}

struct Bystander {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Waited>,
}

struct Waited {
    took: Vec<Duration>,
    refused: usize,
}

impl Bystander {
    async fn stop(self) -> Waited {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}

/// In microseconds.
fn percentile(took: &[Duration], percent: usize) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).unwrap().as_secs_f64() * 1e6
}

/// What a line of the process' status says, in megabytes.
fn memory(pid: u32, key: &str) -> f64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// One that asks nlmd for its status all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    reclaims: u64,
    /// From the first reclaim seen to the last.
    reclaiming: Duration,
    /// From the last reclaim to the end of grace.
    open: Duration,
    longest: Duration,
}

impl Watch {
    fn start(nlmd: Nlmd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut seen, mut first, mut last, mut is_open) = (Seen::default(), None, None, false);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let status = nlmd.status().await.unwrap();
                seen.longest = seen.longest.max(asked.elapsed());
                match (status.run.0, last) {
                    (Some(run), _) if run.counts.reclaimed > 0 => {
                        let ago = Duration::from_millis(run.last_reclaim_ms.0.unwrap_or_default());
                        let last = last.insert(asked.checked_sub(ago).unwrap());
                        let first = first.get_or_insert(asked);
                        seen.reclaims = run.counts.reclaimed;
                        seen.reclaiming = last.saturating_duration_since(*first);
                    }
                    (None, Some(last)) if !is_open => (seen.open, is_open) = (asked - last, true),
                    _ => {}
                }
                sleep(POLL).await;
            }
            seen
        });
        Self { stop, task }
    }

    /// The run is over.
    async fn seen(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
