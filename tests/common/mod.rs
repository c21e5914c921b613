//! A small world for end-to-end tests: a real nlmd, simulated clients, and real nlmctl processes.
//!
//! Every process is ended by its id when its owner is dropped, also when a test fails.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

pub mod document;
pub mod process;
pub mod proxy;

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nlmctl::internals::demo::{Behaviour, ClientNo, Farm, Lock};
use nlmctl::internals::demo::{Server, ServerOptions};
use nlmctl::wire::nlm::Stat;
use nlmctl::wire::types::{ByteRange, CallerName, FileHandle, Svid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

pub use process::{LIMIT, Ran};

/// The name under which the clients know the server.
pub const SERVER: &str = "server.test";

/// A command that runs.
pub struct Running {
    child: Child,
    line: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let line = format!("{:?}", command.as_std());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        Self { child, line }
    }
    /// Waits for its end.
    pub async fn end(self) -> Ran {
        let Self { child, line } = self;
        let output =
            timeout(LIMIT * 2, child.wait_with_output()).await.unwrap_or_else(|_| panic!("{line} does not end"));
        output.unwrap().into()
    }
    /// SIGKILL, and waits until it is gone.
    pub async fn kill9(mut self) {
        self.child.kill().await.unwrap();
    }
    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.child.id().expect("it still runs")).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).unwrap();
    }
}

/// nlmctl without anything that would configure it.
pub fn nlmctl<S: AsRef<OsStr>>(args: &[S]) -> Command {
    process::nlmctl(args).into()
}

/// A server with simulated clients.
pub struct World {
    pub farm: Farm,
    pub server: Server,
    pub clients: Vec<ClientNo>,
}

impl World {
    /// With so many clients, none of which has a lock.
    pub async fn with(clients: u8) -> Self {
        Self::with_server(clients, &[]).await
    }
    /// Likewise; nlmd gets these arguments too.
    pub async fn with_server(clients: u8, arguments: &[&str]) -> Self {
        let farm = Farm::open(&[CallerName::new(SERVER).unwrap()]).unwrap();
        let options = ServerOptions {
            trailing: arguments.iter().map(Into::into).collect(),
            ..ServerOptions::new(env!("CARGO_BIN_EXE_nlmd"), farm.rpcbind_port(), SERVER)
        };
        let server = Server::start(options).await.unwrap_or_else(|e| panic!("{e}"));
        farm.use_server(server.nlm());
        let clients = (1..=clients)
            .map(|n| farm.add(Ipv4Addr::new(127, 9, 0, n), CallerName::new(&format!("host{n}.test")).unwrap()))
            .collect();
        Self { farm, server, clients }
    }
    /// Each client has taken `locks` locks.
    pub async fn locked(clients: u8, locks: u8) -> Self {
        let world = Self::with(clients).await;
        world.lock_all(locks).await;
        world
    }
    /// Each client takes `locks` locks.
    pub async fn lock_all(&self, locks: u8) {
        for &who in &self.clients {
            for number in 0..locks {
                self.take(who, &own(who, number)).await;
            }
        }
    }

    /// An ordinary LOCK that must be granted.
    pub async fn take(&self, who: ClientNo, lock: &Lock) {
        assert_eq!(self.farm.lock(who, lock, false).await.unwrap(), Stat::Granted, "{who:?} {lock:?}");
    }
    /// Makes a client behave.
    pub fn behave(&self, number: usize, behaviour: Behaviour) {
        self.farm.behave(self.clients[number], behaviour);
    }
    /// Makes every client behave.
    pub fn all_behave(&self, behaviour: Behaviour) {
        for &who in &self.clients {
            self.farm.behave(who, behaviour);
        }
    }

    /// The record of this world.
    pub fn db(&self) -> PathBuf {
        self.server.dir().join("runs.db")
    }
    /// nlmctl for this world, with JSON.
    pub fn nlmctl(&self, args: &[&str]) -> Command {
        self.nlmctl_with(&self.server.control(), &self.db(), args)
    }
    /// Likewise, through another control socket, or with another record.
    pub fn nlmctl_with(&self, control: &Path, db: &Path, args: &[&str]) -> Command {
        let mut command = nlmctl::<&str>(&[]);
        command.arg("--control").arg(control).arg("--db").arg(db);
        command.args(["--json", "--rpcbind-port", &self.farm.rpcbind_port().to_string()]);
        command.args(args);
        command
    }
    /// Runs it to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        Running::start(self.nlmctl(args)).end().await
    }
    /// Starts it.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.nlmctl(args))
    }

    /// Waits until every client was told.
    pub async fn all_notified(&self) {
        let all = self.clients.len();
        self.until("every client is notified", |farm| {
            let notices = farm.notices();
            (0..all).all(|n| notices.iter().any(|notice| notice.client.0 == n))
        })
        .await;
    }
    /// Waits for the farm.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&Farm) -> bool) {
        assert!(self.farm.until(LIMIT, wanted).await, "in vain: {what}; nlmd said: {}", self.server.said());
    }
    /// Waits until `nlmctl status` says that no run is active and grace is over.
    pub async fn until_open(&self) {
        let limit = Instant::now() + LIMIT;
        loop {
            let status = self.run(&["status"]).await.exits(0).json();
            if status["run"].is_null() && status["manager"]["grace"] == "open" {
                return;
            }
            assert!(Instant::now() < limit, "grace does not end: {status:#}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    /// How many locks the server lists of this client.
    pub async fn locks_of(&self, client: &str) -> usize {
        self.run(&["locks", "--client", client]).await.exits(0).json()["locks"].as_array().expect("locks").len()
    }
    /// How many locks the server lists.
    pub async fn held(&self) -> usize {
        self.run(&["locks"]).await.exits(0).json()["locks"].as_array().expect("locks").len()
    }
}

/// A client's write lock of a number, in a file that nobody else uses.
pub fn own(who: ClientNo, number: u8) -> Lock {
    Lock {
        file: file(&format!("own{}", who.0)),
        range: range(number),
        exclusive: true,
        svid: Svid(i32::from(number) + 1),
    }
}

/// A write lock in a file that all use.
pub fn common(number: u8) -> Lock {
    Lock { file: file("common"), range: range(number), exclusive: true, svid: Svid(i32::from(number) + 1) }
}

fn range(number: u8) -> ByteRange {
    let start = u64::from(number) * 100;
    ByteRange { start, end: start + 9 }
}

fn file(name: &str) -> FileHandle {
    FileHandle::new(name.as_bytes()).unwrap()
}
