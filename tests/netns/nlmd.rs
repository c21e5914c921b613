//! nlmd inside a namespace.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::process::{Process, tool};
use super::{Netns, Ran, await_some, process};

/// nlmd, and where it is.
#[derive(Debug)]
pub struct Nlmd {
    process: Process,
    /// Its ports.
    pub nlm_udp: u16,
    pub nlm_tcp: u16,
    pub nsm_udp: u16,
    pub nsm_tcp: u16,
    /// Its control socket.
    pub control: PathBuf,
}

impl Deref for Nlmd {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Nlmd {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Nlmd {
    /// Starts nlmd with these flags too, and waits until it listens. One started later on the same
    /// host is the same server again: it has the same state directory.
    #[track_caller]
    pub fn start(host: &Netns, flags: &[&str]) -> Self {
        Self::try_start(host, flags).unwrap_or_else(|(status, log)| panic!("nlmd ended ({status}): {log}"))
    }

    /// Likewise; how it ended and what it said if it does not come up.
    pub fn try_start(host: &Netns, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let (ports, control) = (host.folder().join("ports"), host.folder().join("control.sock"));
        let _ = std::fs::remove_file(&ports);
        let mut command: Command = tool(env!("CARGO_BIN_EXE_nlmd"));
        command.args(["--config", "/dev/null"]);
        command.arg("--state-dir").arg(host.folder().join("state"));
        command.arg("--control").arg(&control).arg("--ports-file").arg(&ports).args(flags);
        command.env("RUST_LOG", "debug");
        let mut process = host.start(command);
        let found = await_some("nlmd's ports", || match process.ended() {
            Some(status) => Some(Err(status)),
            None => std::fs::read(&ports).ok().map(Ok),
        });
        let text = found.map_err(|status| (status, process.log()))?;
        let ports: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let port = |key: &str| u16::try_from(ports[key].as_u64().unwrap()).unwrap();
        let (nlm_udp, nlm_tcp) = (port("nlm_udp"), port("nlm_tcp"));
        let (nsm_udp, nsm_tcp) = (port("nsm_udp"), port("nsm_tcp"));
        Ok(Self { process, nlm_udp, nlm_tcp, nsm_udp, nsm_tcp, control })
    }

    /// Asks it to end and waits.
    #[track_caller]
    pub fn stop(self) -> ExitStatus {
        self.process.stop()
    }
    /// SIGKILL; it is gone when this returns.
    pub fn kill_9(self) {
        self.process.kill_9();
    }
}

/// Runs nlmctl on a host to its end, on that host's nlmd, with JSON and a record of its own.
pub fn nlmctl(host: &Netns, arguments: &[&str]) -> Ran {
    let mut command = tool(env!("CARGO_BIN_EXE_nlmctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NLMCTL_") {
            command.env_remove(name);
        }
    }
    let at = |name: &str| host.folder().join(name);
    command.args([Path::new("--config"), Path::new("/dev/null"), Path::new("--json")]);
    command.arg("--control").arg(at("control.sock")).arg("--db").arg(at("runs.db"));
    command.args(arguments);
    host.inside(|| process::to_its_end(command))
}
