//! Hosts for tests: each a network, mount and UTS namespace with the real rpcbind, rpc.statd and
//! sm-notify in it.
//!
//! # Theory
//! A [`Netns`] is three open namespace files, and nothing else keeps it alive: no process holds it,
//! no name of it is left anywhere. Whatever runs "inside" runs on a thread that has joined it
//! ([`Netns::inside`]), and processes started there inherit it. Its `/run`, `/var/lib/nfs`,
//! `/etc/hosts` and `/etc/nsswitch.conf` are its own, mounted from a temporary folder: the test
//! reads and writes them by [`Netns::run`] and [`Netns::var_lib_nfs`] from outside too. Nothing that
//! runs inside is seen by, or sees, the machine's own rpcbind and statd.
//!
//! Every process started here is a [`Process`], killed by its id and reaped when that is dropped,
//! also while a test panics. So nothing is started as a daemon: rpcbind gets `-f`, rpc.statd `-F`,
//! sm-notify `-d`.
//!
//! All of it wants root, and the tools of the Debian packages rpcbind, nfs-common and iproute2. Tests that
//! use it are `#[ignore = ".."]` ([`Netns::new`] says what is missing, and panics). For a start:
//!
//! ```ignore
//! let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
//! link(&server, "10.9.0.1/24", &client, "10.9.0.2/24");
//! client.knows(&[("10.9.0.1", "server.test server")]);
//! let _rpcbind = client.rpcbind(&[]);
//! let statd = client.statd(&[]);
//! let nlmd = Nlmd::start(&server, &["--name", "server.test"]);
//! client.run("rpcinfo", &["-p", "10.9.0.1"]);
//! ```
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses its own part of it")]

#[path = "../common/client.rs"]
pub mod client;
#[path = "../common/document.rs"]
pub mod document;
mod ganesha;
mod nlmd;
#[path = "../common/nlmd.rs"]
mod nlmd_process;
#[path = "../common/process.rs"]
mod process;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::User;

pub use ganesha::Ganesha;
pub use nlmd::nlmctl;
pub use nlmd_process::Nlmd;
pub use process::{LIMIT, Process, Ran, await_some, until};

const NOTHING: Option<&str> = None;

/// A host of its own.
#[derive(Debug)]
pub struct Netns {
    hostname: String,
    net: File,
    mounts: File,
    uts: File,
    folder: tempfile::TempDir,
    logs: AtomicU32,
}

impl Netns {
    /// A host with this name and a loopback interface.
    pub fn new(hostname: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "namespaces are made by root: run this test as root");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, mode) in
            [("run", 0o755), ("run/rpcbind", 0o755), ("nfs", 0o755), ("nfs/sm", 0o700), ("nfs/sm.bak", 0o700)]
        {
            fs::create_dir(at(name)).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        owned_by("_rpc", &[at("run/rpcbind")]);
        owned_by("statd", &[at("nfs/sm"), at("nfs/sm.bak")]);
        // The machine's resolver is out of reach in there, and must not be waited for.
        fs::write(at("nsswitch"), "passwd: files\ngroup: files\nhosts: files\n").unwrap();
        let short = hostname.split('.').next().unwrap_or(hostname);
        fs::write(at("hosts"), format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname} {short}\n")).unwrap();

        let [net, mounts, uts] = thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).unwrap();
                mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING).unwrap();
                for (from, onto) in [
                    ("run", "/run"),
                    ("nfs", "/var/lib/nfs"),
                    ("hosts", "/etc/hosts"),
                    ("nsswitch", "/etc/nsswitch.conf"),
                ] {
                    mount(Some(&at(from)), onto, NOTHING, MsFlags::MS_BIND, NOTHING)
                        .unwrap_or_else(|error| panic!("cannot mount over {onto}: {error}; install nfs-common"));
                }
                // What sm-notify writes there is the machine's own, whatever the namespace.
                if Path::new("/proc/sys/fs/nfs").exists() {
                    mount(Some("none"), "/proc/sys/fs/nfs", Some("tmpfs"), MsFlags::empty(), NOTHING).unwrap();
                }
                nix::unistd::sethostname(hostname).unwrap();
                ["net", "mnt", "uts"].map(|kind| File::open(format!("/proc/thread-self/ns/{kind}")).unwrap())
            });
            made.join().expect("namespaces can be made")
        });
        let host = Self { hostname: hostname.to_owned(), net, mounts, uts, folder, logs: AtomicU32::new(0) };
        host.run("ip", &["link", "set", "lo", "up"]);
        host
    }

    /// Runs this on a thread inside. Sockets opened there stay inside wherever they are used later;
    /// a tokio runtime made there is inside with all its threads.
    pub fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let joined = thread::scope(|scope| {
            let inside = || {
                // Threads share their working directory; who joins a mount namespace must not.
                unshare(CloneFlags::CLONE_FS).unwrap();
                setns(&self.net, CloneFlags::CLONE_NEWNET).unwrap();
                setns(&self.uts, CloneFlags::CLONE_NEWUTS).unwrap();
                setns(&self.mounts, CloneFlags::CLONE_NEWNS).unwrap();
                job()
            };
            scope.spawn(inside).join()
        });
        // A failed assertion inside is the test's own.
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a future inside, on a runtime of its own.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.inside(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future))
    }

    /// Starts a program inside. Its stdout and stderr go to its log.
    pub fn start(&self, command: Command) -> Process {
        let log = self.folder.path().join(format!("log{}", self.logs.fetch_add(1, Ordering::Relaxed)));
        self.inside(|| Process::start(command, &log))
    }

    /// Runs a program to its end and returns what it wrote to stdout. It must exit with 0.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let ran = self.try_run(program, arguments);
        assert_eq!(ran.code, 0, "{}: {program} {arguments:?}: {ran:#?}", self.hostname);
        ran.stdout
    }

    /// Likewise, and it may fail.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Ran {
        let mut command = process::tool(program);
        command.args(arguments);
        self.inside(|| process::to_its_end(command))
    }

    /// Its name.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }
    /// Its `/run`, seen from outside.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }
    /// Its `/var/lib/nfs`, seen from outside: `state`, `sm/` and `sm.bak/`.
    pub fn var_lib_nfs(&self) -> PathBuf {
        self.folder.path().join("nfs")
    }
    /// A folder that inside and outside share under one path; it is gone with the host.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds lines to its `/etc/hosts`: an address, and names.
    pub fn knows(&self, hosts: &[(&str, &str)]) {
        let path = self.folder.path().join("hosts");
        let mut text = fs::read_to_string(&path).unwrap();
        for (address, names) in hosts {
            writeln!(text, "{address} {names}").unwrap();
        }
        // In place: another file would not be the one that is mounted.
        fs::write(&path, text).unwrap();
    }

    /// Starts rpcbind, with these flags too, and waits until it answers.
    pub fn rpcbind(&self, flags: &[&str]) -> Process {
        let mut command = process::tool("rpcbind");
        command.arg("-f").args(flags);
        let mut rpcbind = self.start(command);
        await_some("rpcbind answers", || {
            rpcbind.must_run();
            (self.try_run("rpcinfo", &["-p", "127.0.0.1"]).code == 0).then_some(())
        });
        rpcbind
    }

    /// Starts rpc.statd, with these flags too, and waits until it answers. It notifies nobody at its
    /// start; its log says what it hears.
    pub fn statd(&self, flags: &[&str]) -> Process {
        let mut command = process::tool("rpc.statd");
        command.args(["-F", "-d", "--no-notify"]).args(flags);
        let mut statd = self.start(command);
        await_some("rpc.statd answers", || {
            statd.must_run();
            (self.try_run("rpcinfo", &["-T", "udp", "127.0.0.1", "100024", "1"]).code == 0).then_some(())
        });
        statd
    }

    /// Starts sm-notify in the foreground with these flags: `-f` tells also when it thinks it has
    /// told already. It goes on until everybody has answered, or for 15 minutes.
    pub fn sm_notify(&self, flags: &[&str]) -> Process {
        let mut command = process::tool("sm-notify");
        command.arg("-d").args(flags);
        self.start(command)
    }
}

/// Joins two hosts by a cable, each with an address like `10.9.0.1/24` on its end.
pub fn link(one: &Netns, address: &str, other: &Netns, other_address: &str) {
    static CABLES: AtomicU32 = AtomicU32::new(0);
    let name = format!("cable{}", CABLES.fetch_add(1, Ordering::Relaxed));
    let there = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&other.net));
    one.run("ip", &["link", "add", &name, "type", "veth", "peer", "name", &name, "netns", &there]);
    for (host, address) in [(one, address), (other, other_address)] {
        add_address(host, &name, address);
        host.run("ip", &["link", "set", &name, "up"]);
    }
}

/// The interface of the host's first cable.
pub fn cable(host: &Netns) -> String {
    let interfaces = host.run("ip", &["-brief", "link", "show", "type", "veth"]);
    let first = interfaces.split(['@', ' ']).next().unwrap_or_default();
    assert!(first.starts_with("cable"), "no cable: {interfaces}");
    first.to_owned()
}

/// One more address on an interface: `lo`, or [`cable`].
pub fn add_address(host: &Netns, interface: &str, address: &str) {
    let mut arguments = vec!["address", "add", address, "dev", interface];
    if address.contains(':') {
        // An address that is still being checked for duplicates cannot be bound.
        arguments.push("nodad");
    }
    host.run("ip", &arguments);
}

fn owned_by(user: &str, paths: &[PathBuf]) {
    let package = if user == "statd" { "nfs-common" } else { "rpcbind" };
    let user = User::from_name(user).unwrap().unwrap_or_else(|| panic!("no user {user}: install {package}"));
    for path in paths {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}
