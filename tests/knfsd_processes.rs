//! What nlmctl starts beside the kernel's NFS server, as the processes that they are: the guard, which has nothing to put
//! back here, and the process in front of lockd, without a run. What both do in a run is shown in the lab (`tests/lab`,
//! `knfsd_*`).
#![cfg(test)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

const PATIENCE: Duration = Duration::from_secs(20);

/// One of them; it ends with the test.
struct Helper(Child);

impl Helper {
    /// A guard, and the line that it says first.
    fn guard(dir: &Path) -> (Self, String) {
        Self::start(nlmctl("knfsd-guard").arg(dir).stdin(Stdio::piped()))
    }
    /// A process in front of lockd, likewise.
    fn keeper(dir: &Path) -> (Self, String) {
        Self::start(nlmctl("knfsd-keeper").args([dir.join("keeper"), dir.join("socket")]).stdin(Stdio::null()))
    }
    fn start(command: &mut Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(child), line.trim_end().to_owned())
    }
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
    fn is_there(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
    fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn nlmctl(job: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
    command.arg(job);
    command
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guard_waits_in_a_session_of_its_own_whatever_signal_comes_until_it_is_dismissed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut guard, said) = Helper::guard(dir.path());
    assert_eq!(said, "ready");
    assert_eq!(getsid(Some(guard.pid())).unwrap(), guard.pid());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        kill(guard.pid(), signal).unwrap();
    }
    assert!(guard.is_there());
    guard.0.stdin.as_mut().unwrap().write_all(b"dismissed\n").unwrap();
    assert!(guard.end().success());
}

#[test]
fn a_guard_ends_when_nlmctl_does_and_nothing_is_to_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut guard, said) = Helper::guard(dir.path());
    assert_eq!(said, "ready");
    drop(guard.0.stdin.take());
    assert!(guard.end().success());
}

#[test]
fn a_second_guard_says_why_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, _) = Helper::guard(dir.path());
    let (mut second, said) = Helper::guard(dir.path());
    assert_eq!(said, "another guard is at work");
    assert!(!second.end().success());
    assert!(first.is_there());
}

#[test]
fn of_two_keepers_that_are_started_at_the_same_time_one_serves_and_the_other_says_that_all_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, said) = Helper::keeper(dir.path());
    assert_eq!(said, "ready");
    let (mut second, said) = Helper::keeper(dir.path());
    assert_eq!(said, "ready");
    assert!(second.end().success());
    assert!(first.is_there(), "the first one goes on");
    UnixStream::connect(dir.path().join("socket")).unwrap();
}
