//! The guard of the kernel's NFS server as the process that it is. What it puts back is shown in the
//! lab (`tests/lab`, `knfsd_killed`); here it has nothing to put back.
#![cfg(test)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

const PATIENCE: Duration = Duration::from_secs(20);

/// A guard; it ends with the test.
struct Guard(Child);

impl Guard {
    /// Starts one, and reads the line that it says first.
    fn start(dir: &Path) -> (Self, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nlmctl"))
            .arg("knfsd-guard")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
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
            assert!(Instant::now() < until, "the guard does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_waits_in_a_session_of_its_own_whatever_signal_comes_until_it_is_dismissed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut guard, said) = Guard::start(dir.path());
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
fn it_ends_when_nlmctl_does_and_nothing_is_to_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut guard, said) = Guard::start(dir.path());
    assert_eq!(said, "ready");
    drop(guard.0.stdin.take());
    assert!(guard.end().success());
}

#[test]
fn a_second_one_says_why_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, _) = Guard::start(dir.path());
    let (mut second, said) = Guard::start(dir.path());
    assert_eq!(said, "another guard is at work");
    assert!(!second.end().success());
    assert!(first.is_there());
}
