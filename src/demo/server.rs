//! A real nlmd, as a process of its own, in a directory of its own.
//!
//! It lives as long as its [`Server`]: dropping that kills the process by its id and removes the
//! directory. [`Server::stop`] does the same in good order.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long nlmd may take to open its sockets.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long nlmd may take to end once it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks for what is awaited without a notification.
const LOOK: Duration = Duration::from_millis(5);
/// How often a killed nlmd is looked for before its directory is removed all the same.
const GONE_LOOKS: u32 = 400;

/// Why there is no nlmd.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its directory or a file in it.
    #[error("cannot use the temporary directory {path}: {source}; set TMPDIR to one that can be written")]
    Directory { path: PathBuf, source: io::Error },
    /// The program could not be run.
    #[error("cannot start nlmd from {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    /// It ended by itself.
    #[error("nlmd ended while it started ({status}); it said: {said}")]
    Ended {
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        said: String,
    },
    /// It is there, and does not open its sockets.
    #[error("nlmd did not open its sockets within {} s; it said: {said}", START_LIMIT.as_secs())]
    Slow {
        /// The end of what it wrote to stderr.
        said: String,
    },
}

/// The UDP ports that nlmd chose, as `--ports-file` says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct Ports {
    pub nlm_udp: u16,
    pub nsm_udp: u16,
}

impl Ports {
    /// Whichever are free.
    const ANY: Self = Self { nlm_udp: 0, nsm_udp: 0 };
}

#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub program: PathBuf,
    /// Arguments before nlmd's own: the hidden subcommand, where the program is nlmctl.
    pub leading: Vec<OsString>,
    /// The rpcbind port that the clients share.
    pub rpcbind_port: u16,
    /// The name under which the clients know it.
    pub name: String,
    pub address: Ipv4Addr,
    /// Arguments after nlmd's own.
    pub trailing: Vec<OsString>,
}

/// The address that simulated clients call, none of which may have it.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

impl ServerOptions {
    /// nlmd from `program`, for clients whose rpcbind is at `rpcbind_port`.
    pub fn new(program: impl Into<PathBuf>, rpcbind_port: u16, name: &str) -> Self {
        Self {
            program: program.into(),
            leading: Vec::new(),
            rpcbind_port,
            name: name.to_owned(),
            address: SERVER_ADDRESS,
            trailing: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    process: Process,
    dir: TempDir,
    ports: Ports,
}

/// Its process, which ends with it.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    /// Its directory is removed next, so it must not write there any more. SIGKILL takes a moment.
    fn drop(&mut self) {
        let _ = self.0.start_kill();
        for _ in 0..GONE_LOOKS {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Server {
    /// Starts one in a fresh directory and waits until it answers.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let dir = tempfile::Builder::new()
            .prefix("nlmctl-")
            .tempdir()
            .map_err(|source| ServerError::Directory { path: std::env::temp_dir(), source })?;
        let (process, ports) = spawn(&options, dir.path(), Ports::ANY).await?;
        Ok(Self { options, process, dir, ports })
    }

    /// Starts it again after its process has ended: on the state that it left, and on the same ports.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        (self.process, self.ports) = spawn(&self.options, self.dir.path(), self.ports).await?;
        Ok(())
    }

    pub fn control(&self) -> PathBuf {
        control(self.dir.path())
    }
    /// Its directory: state, ports file, log; removed with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.dir.path())
    }
    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.0.id()
    }
    /// The ports it chose.
    pub fn ports(&self) -> Ports {
        self.ports
    }
    /// Where NLM is over UDP.
    pub fn nlm(&self) -> SocketAddr {
        (self.options.address, self.ports.nlm_udp).into()
    }
    /// Where NSM is over UDP.
    pub fn nsm(&self) -> SocketAddr {
        (self.options.address, self.ports.nsm_udp).into()
    }
    /// The end of what it wrote to stderr.
    pub fn said(&self) -> String {
        said(self.dir.path())
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.0.kill().await
    }

    /// Ends it in good order (SIGTERM), or at once if it takes too long.
    pub async fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.process.0.id().and_then(|id| i32::try_from(id).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        if let Ok(status) = timeout(STOP_LIMIT, self.process.0.wait()).await {
            return status;
        }
        self.process.0.start_kill()?;
        self.process.0.wait().await
    }
}

fn control(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

fn log(dir: &Path) -> PathBuf {
    dir.join("nlmd.log")
}

/// The last lines of its log.
fn said(dir: &Path) -> String {
    let text = std::fs::read_to_string(log(dir)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

async fn spawn(options: &ServerOptions, dir: &Path, ports: Ports) -> Result<(Process, Ports), ServerError> {
    let directory = |source| ServerError::Directory { path: dir.to_owned(), source };
    let ports_file = dir.join("ports.json");
    match std::fs::remove_file(&ports_file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(directory(e)),
        _ => {}
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log(dir)).map_err(directory)?;
    let mut command = Command::new(&options.program);
    // What is set up on this machine for its own nlmd is not meant for this one.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NLMD_")) {
        command.env_remove(variable);
    }
    let child = command
        .args(&options.leading)
        .args(["--config", "/dev/null"])
        .arg("--state-dir")
        .arg(state_dir(dir))
        .arg("--control")
        .arg(control(dir))
        .arg("--ports-file")
        .arg(&ports_file)
        .args(["--listen", &options.address.to_string()])
        .args(["--name", &options.name])
        .args(["--nlm-port", &ports.nlm_udp.to_string(), "--nsm-port", &ports.nsm_udp.to_string(), "--no-rpcbind"])
        .args(["--rpcbind-port", &options.rpcbind_port.to_string()])
        .args(&options.trailing)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| ServerError::Spawn { program: options.program.clone(), source })?;
    let mut process = Process(child);
    let limit = Instant::now() + START_LIMIT;
    loop {
        if let Some(ports) = ready(&ports_file, &control(dir)).await {
            return Ok((process, ports));
        }
        if let Some(status) = process.0.try_wait().map_err(directory)? {
            return Err(ServerError::Ended { status, said: said(dir) });
        }
        if Instant::now() > limit {
            return Err(ServerError::Slow { said: said(dir) });
        }
        sleep(LOOK).await;
    }
}

async fn ready(ports_file: &Path, control: &Path) -> Option<Ports> {
    let ports = serde_json::from_slice(&std::fs::read(ports_file).ok()?).ok()?;
    UnixStream::connect(control).await.ok()?;
    Some(ports)
}
