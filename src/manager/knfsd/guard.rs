//! The guard: a process of its own that brings nfsd back if nlmctl dies while it is down.
//!
//! It is started before nfsd is stopped, in a session of its own, so that neither a terminal nor the
//! end of nlmctl takes it along. A pipe joins the two: as long as nlmctl holds its end the guard
//! waits. A word on the pipe dismisses it. The end of the pipe without that word means that nlmctl is
//! gone, however that came about, and the guard puts back what the state directory says.
//!
//! While it lives it holds an OS lock, so that the next nlmctl waits for it instead of doing the same
//! at the same time. It retries a failed step for minutes, with longer and longer pauses, and says so
//! in the kernel's log, because there is no other place left.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use super::error::KnfsdError;
use super::hidden::{self, READY};
use super::saved::Saved;
use crate::host::{FileError, Machine, try_lock};

/// The hidden command of nlmctl that runs it; the state directory follows.
pub const COMMAND: &str = "knfsd-guard";
/// The file whose OS lock says that a guard is at work.
const LOCK: &str = "guard.lock";
/// What dismisses it.
const DISMISSED: &[u8] = b"dismissed\n";
/// How long the next nlmctl waits for a guard: nfsd's threads are back within seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at its lock, or at whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long it goes on trying.
const TRIES_FOR: Duration = Duration::from_mins(10);
/// Its pause after the first failure; each one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// But no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Where it says what no process waits for.
const LOG: &str = "dev/kmsg";
/// Longest line for that, in characters; the kernel takes about a thousand bytes.
const LONGEST_LINE: usize = 240;

/// A guard that waits.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts one: answers once it waits.
    ///
    /// # Errors
    /// It cannot be started; nothing may be stopped then.
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self, KnfsdError> {
        let failed = |source| FileError::Io("start the guard", program.into(), source);
        let started = hidden::start(Command::new(program).arg(COMMAND).arg(dir).stdin(Stdio::piped()));
        let refused = |said| KnfsdError::Stuck(format!("the guard did not start: {said}"));
        let mut child = started.map_err(failed)?.map_err(refused)?;
        let pipe = child.stdin.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, pipe })
    }

    /// All is put back: it may go.
    pub(super) fn dismiss(mut self) {
        // One that died meanwhile is not needed any more either.
        let _ = self.pipe.write_all(DISMISSED);
        drop(self.pipe);
        let _ = self.child.wait();
    }

    /// Leaves the work to it, and waits a while until it is done; false if it was not yet.
    pub(super) fn relieve(mut self) -> bool {
        drop(self.pipe);
        let until = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.child.wait().is_ok_and(|status| status.success())
    }
}

/// Waits until no guard is at work.
pub(super) fn wait_for_another(dir: &Path) -> Result<(), KnfsdError> {
    let path = dir.join(LOCK);
    let until = Instant::now() + PATIENCE;
    while try_lock(&path).map_err(FileError::write(&path))?.is_none() {
        if Instant::now() >= until {
            let what = "the guard of an earlier nlmctl is still bringing nfsd back: its line in the kernel's log says \
                        what is in the way";
            return Err(KnfsdError::Stuck(what.into()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
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
    let lock = try_lock(&path).map_err(FileError::write(&path))?;
    let _lock = lock.ok_or_else(|| KnfsdError::Stuck("another guard is at work".into()))?;
    let mut said = Vec::new();
    writeln!(io::stdout(), "{READY}")
        .and_then(|()| io::stdout().flush())
        .map_err(|error| KnfsdError::Stuck(format!("nlmctl is gone already: {error}")))?;
    let _ = io::stdin().take(DISMISSED.len() as u64).read_to_end(&mut said);
    if said == DISMISSED {
        return Ok(());
    }
    put_back(&Machine::default(), dir)
}

/// Puts back what is to be, as often as it takes.
fn put_back(machine: &Machine, dir: &Path) -> Result<(), KnfsdError> {
    let until = Instant::now() + TRIES_FOR;
    let mut pause = FIRST_PAUSE;
    loop {
        let found = Saved::find(dir).map_err(KnfsdError::from);
        let tried = found.and_then(|saved| saved.map(|saved| saved.put_back(machine, dir)).transpose());
        let error = match tried {
            Ok(done) => {
                done.into_iter().flatten().for_each(|what| log(machine, &what));
                return Ok(());
            }
            Err(error) => error,
        };
        if Instant::now() >= until {
            log(machine, &format!("gave up putting the NFS server back; any nlmctl resync tries again: {error}"));
            return Err(error);
        }
        log(machine, &format!("cannot put the NFS server back yet, and tries again: {error}"));
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn log(machine: &Machine, what: &str) {
    let line: String = what.chars().take(LONGEST_LINE).collect();
    // No place is left to say that even this failed. 3: an error.
    let _ = machine.write(LOG, &format!("<3>nlmctl's guard: {line}\n"));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::records::SavedRecords;
    use super::*;

    #[test]
    fn what_fails_is_logged_and_tried_again_until_it_works() {
        let (boot, grace) = ("proc/sys/kernel/random/boot_id", "proc/sys/fs/nfs/nlm_grace_period");
        let (root, machine) =
            Machine::fake(&[(boot, "b\n"), (grace, "10\n"), ("proc/fs/nfsd/threads", "8\n"), (LOG, "")]);
        let dir = root.path();
        let records = SavedRecords { dir: dir.into(), records: Vec::new() };
        Saved::read(&machine, None, records).unwrap().keep(dir).unwrap();
        machine.lay(grace, "90\n");
        let away = dir.join("away");
        fs::rename(dir.join(boot), &away).unwrap();
        std::thread::scope(|scope| {
            let guard = scope.spawn(|| put_back(&machine, dir));
            while !machine.read(LOG).unwrap().contains("boot_id") {
                assert!(!guard.is_finished());
                std::thread::sleep(LOOK_EVERY);
            }
            assert!(Saved::find(dir).unwrap().is_some());
            fs::rename(&away, dir.join(boot)).unwrap();
            guard.join().unwrap().unwrap();
        });
        assert_eq!(machine.number::<u64>(grace).unwrap(), 10);
        assert_eq!(Saved::find(dir).unwrap(), None);
    }
}
