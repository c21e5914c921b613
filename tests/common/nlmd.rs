//! nlmd as a process of its own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::process::Process;

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
    /// Has it started with all of its files in a folder, and waits until it listens; how it ended and what it said if it
    /// does not come up. One started later in that folder is the same server again: it has the same state directory.
    pub fn start_in(
        folder: &Path,
        mut command: Command,
        flags: &[&str],
        start: impl FnOnce(Command) -> Process,
    ) -> Result<Self, (ExitStatus, String)> {
        let (ports, control) = (folder.join("ports"), folder.join("control.sock"));
        let _ = std::fs::remove_file(&ports);
        command.arg("--state-dir").arg(folder.join("state"));
        if !flags.contains(&"--control") {
            command.arg("--control").arg(&control);
        }
        command.arg("--ports-file").arg(&ports).args(flags).env("RUST_LOG", "debug");
        let mut process = start(command);
        let ports = process.ports(&ports)?;
        let [nlm_udp, nlm_tcp, nsm_udp, nsm_tcp] = ["nlm_udp", "nlm_tcp", "nsm_udp", "nsm_tcp"]
            .map(|key| u16::try_from(ports[key].as_u64().unwrap()).unwrap());
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
