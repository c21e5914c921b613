//! The process in front of the kernel's lockd, without a run: how it starts. What a run does is shown in the lab
//! (`tests/lab`, `knfsd_*`).
#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A keeper; it ends with the test.
struct Keeper(Child);

impl Keeper {
    /// Starts one, and reads the line that it says first.
    fn start(dir: &Path) -> (Self, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nlmctl"))
            .arg("knfsd-keeper")
            .args([dir.join("keeper"), dir.join("socket")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(child), line.trim_end().to_owned())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn of_two_that_are_started_at_the_same_time_one_serves_and_the_other_says_that_all_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, said) = Keeper::start(dir.path());
    assert_eq!(said, "ready");
    let (mut second, said) = Keeper::start(dir.path());
    assert_eq!(said, "ready");
    assert!(second.0.wait().unwrap().success());
    assert!(first.0.try_wait().unwrap().is_none(), "the first one goes on");
    UnixStream::connect(dir.path().join("socket")).unwrap();
}
