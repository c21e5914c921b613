//! nlmd and nlmctl inside a namespace.

use std::path::Path;
use std::process::ExitStatus;

use super::Netns;
use super::nlmd_process::Nlmd;
use super::process::{Ran, nlmctl as command, to_its_end, tool};

impl Nlmd {
    /// Starts nlmd with these flags too, and waits until it listens. One started later on the same
    /// host is the same server again: it has the same state directory.
    #[track_caller]
    pub fn start(host: &Netns, flags: &[&str]) -> Self {
        Self::try_start(host, flags).unwrap_or_else(|(status, log)| panic!("nlmd ended ({status}): {log}"))
    }

    /// Likewise; how it ended and what it said if it does not come up.
    pub fn try_start(host: &Netns, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let mut command = tool(env!("CARGO_BIN_EXE_nlmd"));
        command.args(["--config", "/dev/null"]);
        Self::start_in(host.folder(), command, flags, |command| host.start(command))
    }
}

/// Runs nlmctl on a host to its end, on that host's nlmd, with JSON and a record of its own.
pub fn nlmctl(host: &Netns, arguments: &[&str]) -> Ran {
    let at = |name: &str| host.folder().join(name);
    let mut command = command(&[Path::new("--json")]);
    command.arg("--control").arg(at("control.sock")).arg("--db").arg(at("runs.db")).args(arguments);
    host.inside(|| to_its_end(command))
}
