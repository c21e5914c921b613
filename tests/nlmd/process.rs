//! Starting, stopping, exit codes, files.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use super::harness::*;

#[test]
fn a_signal_stops_it_with_exit_0_and_its_socket_is_gone() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(&folder, &[]);
        let mode = std::fs::metadata(&daemon.control).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!daemon.control.exists());
    }
}

#[test]
fn a_second_one_on_the_same_state_directory_exits_4() {
    let folder = tempfile::tempdir().unwrap();
    let first = Daemon::start(&folder, &[]);
    let elsewhere = folder.path().join("second.sock");
    let Err((status, log)) = Daemon::try_start(&folder, &["--control", elsewhere.to_str().unwrap()]) else {
        panic!("two daemons share a state directory")
    };
    assert_eq!(status.code(), Some(4));
    assert!(log.contains("in use by another nlmd"), "{log}");
    assert!(first.control.exists(), "the first one's socket is untouched");
    nsm_state(&first);
}

#[test]
fn a_live_control_socket_is_refused_and_a_dead_one_replaced() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Daemon::start(&folder, &[]);
    let control = first.control.to_str().unwrap().to_owned();
    let Err((status, log)) = Daemon::try_start(&other, &["--control", &control]) else {
        panic!("two daemons share a control socket")
    };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("another process serves the control socket"), "{log}");
    first.kill_9();
    assert!(std::path::Path::new(&control).exists());
    let second = Daemon::start(&folder, &[]);
    Control::open(&second).status();
}

#[test]
fn usage_errors_exit_2_with_words() {
    for flags in [&["--nsm", "statd"][..], &["--grace", "soon"], &["--no-such-flag"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_nlmd")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = Command::new(env!("CARGO_BIN_EXE_nlmd")).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("--state-dir"));
}

#[test]
fn an_unusable_state_directory_exits_1_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "a file").unwrap();
    let Err((status, log)) = Daemon::try_start(&folder, &[]) else { panic!("a file is no state directory") };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot use the state directory"), "{log}");
}
