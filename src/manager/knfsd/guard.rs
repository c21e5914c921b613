//! The guard: a process of its own that brings nfsd back if nlmctl dies while it is down.
//!
//! It is started before nfsd is stopped, in a session of its own, so that neither a terminal nor the
//! end of nlmctl takes it along. A pipe joins the two: as long as nlmctl holds its end the guard
//! waits. A word on the pipe dismisses it. The end of the pipe without that word means that nlmctl is
//! gone, however that came about, and the guard puts back what the state directory says.
//!
//! While it lives it holds an OS lock, so that the next nlmctl waits for it instead of doing the same
//! at the same time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use super::error::KnfsdError;
use super::proc::Proc;
use super::saved::Saved;

/// The hidden command of nlmctl that runs it; the state directory follows.
pub const COMMAND: &str = "knfsd-guard";
/// The file whose OS lock says that a guard is at work.
const LOCK: &str = "guard.lock";
/// What it says once it waits.
const READY: &str = "ready";
/// What dismisses it.
const DISMISSED: &[u8] = b"dismissed\n";
/// How long the next nlmctl waits for a guard: nfsd's threads are back within seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at its lock.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A guard that waits.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    pipe: ChildStdin,
}

fn lock_file(dir: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(LOCK))
}

impl Guard {
    /// Starts one: answers once it waits.
    ///
    /// # Errors
    /// It cannot be started; nothing may be stopped then.
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self, KnfsdError> {
        let failed = |source| KnfsdError::File { verb: "start the guard", path: program.into(), source };
        let mut child = Command::new(program)
            .arg(COMMAND)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (Some(pipe), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let mut line = String::new();
        BufReader::new(answers).read_line(&mut line).map_err(failed)?;
        if line.trim_end() != READY {
            let _ = child.wait();
            return Err(KnfsdError::Stuck(format!("the guard did not start: {}", line.trim_end())));
        }
        Ok(Self { child, pipe })
    }

    /// All is put back: it may go.
    pub(super) fn dismiss(mut self) {
        // One that died meanwhile is not needed any more either.
        let _ = self.pipe.write_all(DISMISSED);
        drop(self.pipe);
        let _ = self.child.wait();
    }

    /// Leaves the work to it, and waits until it is done.
    pub(super) fn relieve(mut self) {
        drop(self.pipe);
        let _ = self.child.wait();
    }
}

/// Waits until no guard is at work.
pub(super) fn wait_for_another(dir: &Path) -> Result<(), KnfsdError> {
    let path = dir.join(LOCK);
    let until = Instant::now() + PATIENCE;
    loop {
        match lock_file(dir).map_err(KnfsdError::write(&path))?.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            Err(TryLockError::WouldBlock) => {
                return Err(KnfsdError::Stuck("the guard of an earlier nlmctl is still bringing nfsd back".into()));
            }
            Err(TryLockError::Error(error)) => return Err(KnfsdError::write(&path)(error)),
        }
    }
}

/// The guard's own life: `args` are those behind [`COMMAND`].
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let Some(dir) = args.next().map(PathBuf::from) else { return ExitCode::from(2) };
    match watch(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Read by nlmctl, as long as it waits for `ready`.
            let _ = writeln!(io::stdout(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(dir: &Path) -> Result<(), KnfsdError> {
    let system = |what: &str, error: nix::Error| KnfsdError::Stuck(format!("{what}: {error}"));
    // What ends the others ends this one only when its work is done.
    SigSet::all().thread_block().map_err(|error| system("cannot block signals", error))?;
    nix::unistd::setsid().map_err(|error| system("cannot leave the session", error))?;
    let path = dir.join(LOCK);
    let lock = lock_file(dir).map_err(KnfsdError::write(&path))?;
    lock.try_lock().map_err(|_| KnfsdError::Stuck("another guard is at work".into()))?;
    let mut said = Vec::new();
    writeln!(io::stdout(), "{READY}")
        .and_then(|()| io::stdout().flush())
        .map_err(|error| KnfsdError::Stuck(format!("nlmctl is gone already: {error}")))?;
    let _ = io::stdin().take(DISMISSED.len() as u64).read_to_end(&mut said);
    if said == DISMISSED {
        return Ok(());
    }
    let proc = Proc::default();
    if let Some(saved) = Saved::find(dir)? {
        saved.put_back(&proc, dir)?;
    }
    Ok(())
}
